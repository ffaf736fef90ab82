// SPDX-License-Identifier: MIT OR Apache-2.0
//! wait: how a container's process ended, for anybody, whoever its parent is.
//!
//! Reaps nothing, and never looks again and again: waits on the pidfd, and on the state directory
//! only where that is not enough. The status is the kernel's, or what the parent has left in the directory; it is never guessed.
//!
//! | who knows | until when |
//! |---|---|
//! | `/proc/PID/stat`, for those who may trace the process | it is reaped |
//! | the pidfd (Linux 6.15), if it was opened before that | it is closed |
//! | `exit-code-N` or `exit-signal-N` in the state directory, made by a foreground `run` | delete |

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use coracle_sys::{fd, process};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::{Code, Error, Result};
use crate::foreground::ExitStatus;
use crate::record::{Directory, Process, Record};
use crate::{Id, Runtime, errno, probe, status};

/// How long after the end of a process its parent, if that is a `run`, may take to say how it ended. Only where the kernel
/// does not tell.
pub(crate) const PARENT: Duration = Duration::from_secs(1);

/// What can be said of a process that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Known(ExitStatus),
    /// The kernel will tell when the process is reaped.
    Later,
    /// The kernel does not tell, or not this caller.
    Unknown,
}

/// Does a process of the record exist, ended or not? Held by a descriptor that cannot come to mean another one.
pub(crate) fn hold(process: &Process) -> Result<Option<OwnedFd>> {
    let pidfd = match process::pidfd_open(process.pid) {
        Ok(pidfd) => OwnedFd::from(pidfd),
        Err(coracle_sys::Errno(libc::ESRCH | libc::EINVAL)) => return Ok(None),
        Err(error) => return Err(Error::system(format!("open process {}", process.pid), errno(error))),
    };
    let same =
        matches!(status::stat(process.pid)?, Some((_, start_time)) if start_time == process.start_time);
    Ok(same.then_some(pidfd))
}

/// Of a process that has ended, as its pidfd says.
pub(crate) fn ending(pidfd: &OwnedFd, process: &Process) -> Result<Ending> {
    let ask = || process::pidfd_exit(pidfd.as_raw_fd());
    if let Ok(Some(exit)) = ask() {
        return Ok(Ending::Known(exit.into()));
    }
    let dead = read_dead(process)?;
    if let Some(Some(exit)) = dead {
        return Ok(Ending::Known(exit.into()));
    }
    Ok(match ask() {
        Ok(Some(exit)) => Ending::Known(exit.into()),
        // Reaped, by a kernel that does not keep it; or dead, and nobody's but the parent's to know.
        Ok(None) if dead.is_some() => Ending::Later,
        _ => Ending::Unknown,
    })
}

/// Of a process that is not reaped, from /proc/PID/stat (proc_pid_stat(5), the last field). None: it is reaped, or lives.
/// Some(None): not for this caller.
fn read_dead(process: &Process) -> Result<Option<Option<process::Exit>>> {
    let path = format!("/proc/{}", process.pid);
    let text = match fd::read_file(format!("{path}/stat")) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {path}/stat"), &error)),
    };
    let Some((state, start_time, exit_code)) = parse_stat(&String::from_utf8_lossy(&text)) else {
        return Ok(None);
    };
    if start_time != process.start_time || !matches!(state, 'Z' | 'X') {
        return Ok(None);
    }
    // Callers who may not know read a zero; this link asks for the same right.
    let may_know = exit_code != 0 || std::fs::read_link(format!("{path}/ns/user")).is_ok();
    Ok(Some(may_know.then(|| process::Exit::from_status(exit_code))))
}

/// (state, start time, exit code): fields 3, 22 and 52.
fn parse_stat(text: &str) -> Option<(char, u64, i32)> {
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    Some((state, fields.get(19)?.parse().ok()?, fields.get(49)?.parse().ok()?))
}

impl From<process::Exit> for ExitStatus {
    fn from(exit: process::Exit) -> ExitStatus {
        match exit {
            process::Exit::Code(code) => ExitStatus::Code(code),
            process::Exit::Signal(signal) => ExitStatus::Signal(signal),
        }
    }
}

/// The name of the file that says so.
fn name_of(exit: ExitStatus) -> Option<String> {
    match exit {
        ExitStatus::Code(code) => Some(format!("exit-code-{code}")),
        ExitStatus::Signal(signal) => Some(format!("exit-signal-{signal}")),
        ExitStatus::Detached => None,
    }
}

/// What a file of the state directory says by its name.
pub(crate) fn parse_name(name: &str) -> Option<ExitStatus> {
    let (kind, number) = name.strip_prefix("exit-")?.split_once('-')?;
    let number = number.parse().ok()?;
    match kind {
        "code" => Some(ExitStatus::Code(number)),
        "signal" => Some(ExitStatus::Signal(number)),
        _ => None,
    }
}

/// What the process's parent has left.
pub(crate) fn kept(directory: &Directory) -> Result<Option<ExitStatus>> {
    Ok(directory.names()?.iter().find_map(|name| parse_name(name)))
}

/// Leave it, as the parent of the process. A container that is gone, or another one by now, gets nothing.
pub(crate) fn keep(runtime: &Runtime, id: &Id, process: Process, exit: ExitStatus) -> Result<()> {
    let Some(name) = name_of(exit) else { return Ok(()) };
    let directory = match Directory::open(&runtime.root, id).and_then(Directory::lock) {
        Err(error) if error.code == Code::NotFound => return Ok(()),
        other => other?,
    };
    match directory.read()? {
        Some(record) if record.process == Some(process) => directory.note(&name),
        _ => Ok(()),
    }
}

impl Runtime {
    /// How the container's process ends, or has ended. Any number of callers may wait, and delete does not take it from those
    /// who do. Errors: [`Code::NotFound`]; [`Code::State`] when the process has ended before and nobody has kept how;
    /// [`Code::Unsupported`] when it ends and neither this kernel nor its parent says how.
    pub fn wait(&self, id: &Id) -> Result<ExitStatus> {
        let directory = Directory::open(&self.root, id)?;
        // An older kernel leaves it to the parent, whose file may be deleted as soon as it is made.
        let early = (!keeps_exits()).then(|| Changes::of(self, &directory)).transpose()?;
        let record = self.made(&directory)?;
        let not_kept = |code, text: &str| {
            Error::new(code, format!("container \"{id}\" has ended, and {text}"))
                .hint("a foreground `oar run --keep` keeps it; from Linux 6.15 on, so does a wait that begins before the end")
        };
        let untold = || not_kept(Code::Unsupported, "this kernel tells only the parent of its process how");
        status::is_elsewhere(&directory, Some(&record))?;
        let held = match record.process {
            Some(process) if record.boot_id == crate::boot_id()? => {
                hold(&process)?.map(|pidfd| (process, pidfd))
            }
            _ => None,
        };
        let Some((process, pidfd)) = held else {
            let known = match early {
                // It may have ended a moment ago, and its parent be about to say how.
                Some(changes) => changes.until_kept(&directory)?,
                None => kept(&directory)?,
            };
            return known.ok_or_else(|| not_kept(Code::State, "its exit status was not kept"));
        };
        let failed = |error| Error::system("wait for the container's process", error);
        fd::wait_readable(pidfd.as_raw_fd(), None).map_err(|error| failed(errno(error)))?;
        let mut ending = ending(&pidfd, &process)?;
        if ending == Ending::Later {
            wait_reaped(&pidfd).map_err(failed)?;
            ending = self::ending(&pidfd, &process)?;
        }
        if let Ending::Known(exit) = ending {
            return Ok(exit);
        }
        let changes = match early {
            Some(changes) => changes,
            None if directory.is_removed()? => return Err(untold()),
            None => Changes::of(self, &directory)?,
        };
        changes.until_kept(&directory)?.ok_or_else(untold)
    }

    /// The record of a container that has, or had, a process. Half made, it is waited for until it has one, or is gone.
    fn made(&self, directory: &Directory) -> Result<Record> {
        let record = || Ok(directory.read()?.filter(|record| record.process.is_some()));
        if let Some(record) = record()? {
            return Ok(record);
        }
        let changes = Changes::of(self, directory)?;
        loop {
            match record()? {
                Some(record) => return Ok(record),
                None => changes.wait(directory, None)?,
            };
        }
    }
}

/// Does the kernel tell by a pidfd how a process has ended that is reaped (Linux 6.15)? One of 6.13 does not say that it
/// cannot before it is too late, hence the version.
fn keeps_exits() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    probe::version(&release).is_some_and(|version| version >= (6, 15))
}

/// Until the parent has reaped it (POLLHUP, Linux 6.9 and newer).
fn wait_reaped(pidfd: &OwnedFd) -> nix::Result<()> {
    loop {
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::empty())], PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// What happens to a state directory. Only made where nothing else tells: a user has few inotify instances
/// (`fs.inotify.max_user_instances`).
struct Changes(Inotify);

impl Changes {
    /// The root too: the directory's own end is not told while somebody has it open.
    fn of(runtime: &Runtime, directory: &Directory) -> Result<Changes> {
        let failed = |errno| Error::system("watch the container's directory", errno);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(&directory.member(""), flags).map_err(failed)?;
        inotify
            .add_watch(&runtime.root, AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR)
            .map_err(failed)?;
        Ok(Changes(inotify))
    }

    /// What the process's parent has left, or leaves within [`PARENT`].
    fn until_kept(&self, directory: &Directory) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + PARENT;
        loop {
            if let Some(exit) = kept(directory)? {
                return Ok(Some(exit));
            }
            match self.wait(directory, Some(end)) {
                Ok(Some(exit)) => return Ok(Some(exit)),
                Ok(None) if Instant::now() < end => {}
                Err(error) if error.code != Code::NotFound => return Err(error),
                _ => return Ok(None),
            }
        }
    }

    /// Until something changes, or until `end`; the exit status, if that is what has come. [`Code::NotFound`] when the
    /// directory is gone.
    fn wait(&self, directory: &Directory, end: Option<Instant>) -> Result<Option<ExitStatus>> {
        let failed = |errno| Error::system("wait for the container's directory", errno);
        let left = end.map(|end| end.saturating_duration_since(Instant::now()).as_millis() as i32 + 1);
        fd::wait_readable(self.0.as_fd().as_raw_fd(), left).map_err(|error| failed(errno(error)))?;
        match self.0.read_events() {
            Ok(events) => {
                let made = events.iter().filter(|event| event.mask.contains(AddWatchFlags::IN_CREATE));
                let names = made.filter_map(|event| event.name.as_ref()?.to_str());
                if let Some(exit) = names.filter_map(parse_name).next() {
                    return Ok(Some(exit));
                }
            }
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(failed(errno)),
        }
        if directory.is_removed()? {
            return Err(Error::new(
                Code::NotFound,
                format!("container \"{}\" does not exist", directory.id()),
            ));
        }
        Ok(None)
    }
}

#[cfg(test)]
#[allow(clippy::zombie_processes)] // they are to be seen as such
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn names_of_exits() {
        for exit in
            [ExitStatus::Code(0), ExitStatus::Code(255), ExitStatus::Signal(9), ExitStatus::Signal(64)]
        {
            assert_eq!(parse_name(&name_of(exit).unwrap()), Some(exit));
        }
        assert_eq!(name_of(ExitStatus::Detached), None);
        for name in
            ["exit-", "exit-code-", "exit-code-x", "exit-core-1", "exec-1.json", "exit-code-99999999999"]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_command_may_have_any_name() {
        let rest = (4..52).map(|field| if field == 22 { "4711 ".into() } else { format!("{field} ") });
        let text = format!("7 (a) Z (b) ) Z {}256\n", rest.collect::<String>());
        assert_eq!(parse_stat(&text), Some(('Z', 4711, 256)));
        for end in 0..text.len() - 3 {
            assert_ne!(parse_stat(&text[..end]), Some(('Z', 4711, 256)));
        }
    }

    /// Each exit, before and after it is reaped.
    #[test]
    fn the_kernel_tells_how_a_process_ended() {
        for (script, expected) in [
            ("exit 0", ExitStatus::Code(0)),
            ("exit 255", ExitStatus::Code(255)),
            ("kill -KILL $$", ExitStatus::Signal(9)),
            ("kill -40 $$", ExitStatus::Signal(40)),
        ] {
            let mut child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id() as i32;
            let start_time = status::stat(pid).unwrap().unwrap().1;
            let process = Process { pid, start_time };
            let pidfd = hold(&process).unwrap().unwrap();
            fd::wait_readable(pidfd.as_raw_fd(), None).unwrap();
            assert_eq!(ending(&pidfd, &process).unwrap(), Ending::Known(expected), "{script}");
            assert!(hold(&Process { start_time: start_time + 1, ..process }).unwrap().is_none());
            child.wait().unwrap();
            wait_reaped(&pidfd).unwrap();
            let after = ending(&pidfd, &process).unwrap();
            // Linux before 6.15 has forgotten it.
            assert!([Ending::Known(expected), Ending::Unknown].contains(&after), "{script}: {after:?}");
            assert!(hold(&process).unwrap().is_none());
        }
    }
}
