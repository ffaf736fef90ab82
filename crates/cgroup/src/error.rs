// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong with a cgroup, as variants that a caller can act on and as one line for people.
//!
//! Never logs, never names a verb or a container: the caller knows those. Error numbers come from the kernel
//! and are spelled as Go spells them, because engines match on the words.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A limit was asked for, and its controller (or the file of that limit) is not there.
    #[error("{limit} needs the cgroup controller {controller}, which is not available in {}", .directory.display())]
    Controller { controller: String, limit: String, directory: PathBuf },
    /// The directory was there before, with a process in it: limits would be shared and kill would hit
    /// strangers.
    #[error("cgroup {} is in use: process {pid} is in it", .path.display())]
    Populated { path: PathBuf, pid: i32 },
    /// The directory was there before, and frozen: the container would never run.
    #[error("cgroup {} is frozen, or one above it", .path.display())]
    Frozen { path: PathBuf },
    /// The caller would freeze itself, and nobody would be left to thaw it.
    #[error("cgroup {} cannot be frozen from inside: the caller is in it", .path.display())]
    Inside { path: PathBuf },
    /// After the deadline some processes still run, or sleep where the kernel cannot stop them. It was thawed again.
    #[error("cgroup {} does not freeze{}", .path.display(), List(.pids))]
    Unfrozen { path: PathBuf, pids: Vec<i32> },
    /// Somebody else has let it go before all of it was frozen.
    #[error("cgroup {} was thawed by somebody else meanwhile", .path.display())]
    Thawed { path: PathBuf },
    /// Processes are left after the deadline, or a cgroup cannot be removed although none shows.
    #[error("cgroup {} is still in use{}: device or resource busy", .path.display(), List(.pids))]
    Busy { path: PathBuf, pids: Vec<i32> },
    /// The cgroups path breaks a rule.
    #[error("cgroups path {path:?}: {rule}")]
    Path { path: String, rule: String },
    /// A limit contradicts another one, or the kernel keeps another value than was written.
    #[error("{limit}: {rule}")]
    Limit { limit: String, rule: String },
    /// More memory is in use than the new limit, and it cannot be reclaimed. Bytes.
    #[error("{limit}: {asked} is refused: {used} bytes are in use, and not enough of them can be reclaimed")]
    InUse { limit: String, asked: i64, used: i64 },
    /// systemd refuses, fails, or does not answer. `why` may hold its own words, made safe to print.
    #[error("systemd: {what}: {why}")]
    Systemd { what: String, why: String },
    #[error("{what} {}: {}", .path.display(), words(*.errno))]
    Io { what: String, path: PathBuf, errno: Errno },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, path: impl Into<PathBuf>, errno: Errno) -> Error {
        Error::Io { what: what.into(), path: path.into(), errno }
    }

    /// See [`is_exhausted`].
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Error::Io { errno, .. } if is_exhausted(*errno))
    }
}

/// The kernel has no room for one more: descriptors, inotify watches, memory. It says nothing of what was asked for.
pub fn is_exhausted(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC | Errno::ENOMEM)
}

/// ` (processes 12, 13)`, at most eight of them; nothing for an empty list.
struct List<'a>(&'a Vec<i32>);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else { return Ok(()) };
        let noun = if rest.is_empty() { "process" } else { "processes" };
        write!(f, " ({noun} {first}")?;
        for pid in rest.iter().take(7) {
            write!(f, ", {pid}")?;
        }
        f.write_str(if rest.len() > 7 { ", …)" } else { ")" })
    }
}

pub(crate) fn words(errno: Errno) -> &'static str {
    coracle_sys::Errno(errno as i32).words()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_in_go_words() {
        let io = Error::io("open cgroup", "/sys/fs/cgroup/a", Errno::ENOENT);
        assert_eq!(io.to_string(), "open cgroup /sys/fs/cgroup/a: no such file or directory");
        let busy = Error::Busy { path: "/c".into(), pids: vec![7] };
        assert_eq!(busy.to_string(), "cgroup /c is still in use (process 7): device or resource busy");
        let busy = Error::Busy { path: "/c".into(), pids: (1..=9).collect() };
        assert_eq!(
            busy.to_string(),
            "cgroup /c is still in use (processes 1, 2, 3, 4, 5, 6, 7, 8, …): device or resource busy"
        );
        let busy = Error::Busy { path: "/c".into(), pids: vec![] };
        assert_eq!(busy.to_string(), "cgroup /c is still in use: device or resource busy");
        let stuck = Error::Unfrozen { path: "/c".into(), pids: vec![7] };
        assert_eq!(stuck.to_string(), "cgroup /c does not freeze (process 7)");
        let path = Error::Path { path: "a\nb".into(), rule: "must not hold a line break".into() };
        assert_eq!(path.to_string(), r#"cgroups path "a\nb": must not hold a line break"#);
        let missing = Error::Controller {
            controller: "memory".into(),
            limit: "memory limit".into(),
            directory: "/sys/fs/cgroup".into(),
        };
        assert_eq!(
            missing.to_string(),
            "memory limit needs the cgroup controller memory, which is not available in /sys/fs/cgroup"
        );
        assert_eq!(words(Errno::EPERM), "operation not permitted");
    }
}
