// SPDX-License-Identifier: MIT OR Apache-2.0
//! kill: a signal for the container's process, or for everything in its cgroup.
//!
//! Takes no lock, so that it works beside a command that waits. Never reaches a process by its number alone, nor one of
//! a cgroup that others have taken since.

use std::os::fd::{AsFd, OwnedFd};

use coracle_cgroup::Ownership;

use crate::cgroup;
use crate::create::signal;
use crate::error::{Code, Error, Result};
use crate::record::Directory;
use crate::status::{self, Status};
use crate::{Id, Runtime, Signal, members};

impl Runtime {
    /// SIGKILL for a process that shares its pid namespace is for all in its cgroup: nothing else would end the others.
    /// It thaws a paused container; other signals act after `resume`.
    ///
    /// With `all` every process of the container is signalled, also when its first one is gone already, and it is a
    /// success when there is none. A process that is born meanwhile gets a SIGKILL, but may miss another signal.
    ///
    /// Errors: [`Code::NotFound`]; [`Code::State`] with `container not running` when there is no process.
    pub fn kill(&self, id: &Id, wanted: Signal, all: bool) -> Result<()> {
        let directory = Directory::open(&self.root, id)?;
        let record = directory.read()?;
        let (status, pidfd) = status::derive(&directory, record.as_ref())?;
        let record = match (status, record) {
            (Status::Creating, _) | (_, None) => {
                return Err(Error::new(Code::State, "container not running: it is being created"));
            }
            (_, Some(record)) => record,
        };
        let init = record.process.map_or(0, |process| process.pid);
        let group = record.cgroup.open();
        // What others do in a cgroup of the same path is theirs.
        let ours = || Ok(group.ownership().map_err(cgroup::error)? == Ownership::Ours);
        let number = wanted.number();
        let send = || pidfd.as_ref().map_or(Ok(false), |pidfd| signal(pidfd.as_fd(), number));

        if wanted == Signal::KILL {
            // Of what is paused nothing runs again: others would, until the first process has ended.
            let paused = status == Status::Paused;
            let others = all || paused || pidfd.is_none() || !status::leads_pid_namespace(init)?;
            let mut reached = send()?;
            if ours()? {
                if others && group.populated().map_err(cgroup::error)? {
                    reached = true;
                    group.kill().map_err(cgroup::error)?;
                }
                // cgroup2 kills frozen processes, the v1 freezer does not.
                group.thaw().map_err(cgroup::error)?;
            }
            return answer(reached || all);
        }
        if !all {
            return answer(send()?);
        }
        if members::without_cgroup(&record) {
            return signal_members(init, pidfd.as_ref(), number);
        }
        let reached = if ours()? { group.signal(number).map_err(cgroup::error)? } else { Default::default() };
        // It may have left the cgroup.
        if !reached.contains(&init) {
            send()?;
        }
        Ok(())
    }
}

/// A signal for all in the pid namespace of `init`, which `pidfd` holds.
fn signal_members(init: i32, pidfd: Option<&OwnedFd>, number: i32) -> Result<()> {
    let Some(pidfd) = pidfd else { return Ok(()) };
    for pid in members::of(init)? {
        // Held first, then looked at: by number alone it could be another one by now.
        let Some(member) = status::hold(pid)? else { continue };
        // While the first one lives, its number and its namespace are its own.
        if members::has(init, pid) && signal(pidfd.as_fd(), 0)? {
            signal(member.as_fd(), number)?;
        }
    }
    Ok(())
}

fn answer(reached: bool) -> Result<()> {
    match reached {
        true => Ok(()),
        false => Err(Error::new(Code::State, "container not running")),
    }
}
