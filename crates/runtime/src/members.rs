// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processes a container without a cgroup has: those in the pid namespace of its first one.
//!
//! Changes nothing. Never takes a process of another container, or of the host, for one of this: without a pid namespace of
//! its own only the first process is known. Data comes from procfs.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use coracle_sys::clone;

use crate::error::{Error, Result};
use crate::record::Record;
use crate::status;

/// Has the container no cgroup by which its processes are known?
pub(crate) fn without_cgroup(record: &Record) -> bool {
    record.cgroup.directories().is_empty()
}

/// Ascending. Empty when `init` has ended.
pub(crate) fn of(init: i32) -> Result<Vec<i32>> {
    let Some(namespace) = Namespace::of(init) else { return Ok(Vec::new()) };
    if !status::leads_pid_namespace(init)? {
        return Ok(vec![init]);
    }
    let failed = |error: std::io::Error| Error::io("read /proc", &error);
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // One that ends meanwhile, and one that the caller may not look at, is none of ours.
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && Namespace::of(pid).is_some_and(|own| own.lies_in(&namespace))
            && !matches!(status::stat(pid)?, None | Some(('Z' | 'X', _)))
        {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// How many threads they have.
pub(crate) fn tasks(init: i32) -> Result<u64> {
    let threads = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    Ok(of(init)?.into_iter().map(|pid| threads(pid) as u64).sum())
}

/// Is `pid` one of them now?
pub(crate) fn has(init: i32, pid: i32) -> bool {
    pid == init
        || Namespace::of(init).zip(Namespace::of(pid)).is_some_and(|(container, own)| own.lies_in(&container))
}

/// A process's pid namespace, held, so that its number means no other one.
struct Namespace {
    file: File,
    id: (u64, u64),
}

impl Namespace {
    fn of(pid: i32) -> Option<Namespace> {
        Namespace::new(File::open(format!("/proc/{pid}/ns/pid")).ok()?)
    }

    fn new(file: File) -> Option<Namespace> {
        let metadata = file.metadata().ok()?;
        Some(Namespace { id: (metadata.dev(), metadata.ino()), file })
    }

    /// It is the other one, or below it.
    fn lies_in(self, other: &Namespace) -> bool {
        let mut at = Some(self);
        while let Some(namespace) = at {
            if namespace.id == other.id {
                return true;
            }
            // Not above the caller's own, which the kernel does not show.
            at = clone::parent_namespace(namespace.file.as_raw_fd())
                .ok()
                .and_then(|parent| Namespace::new(File::from(OwnedFd::from(parent))));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_namespace_of_its_own_only_the_first_is_known() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        let found = of(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap(), [pid]);
        assert!(of(pid).unwrap().is_empty());
    }
}
