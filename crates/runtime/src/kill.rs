// SPDX-License-Identifier: MIT OR Apache-2.0
//! kill: a signal for the container's process, or for everything in its cgroup.

use std::os::fd::{AsFd, OwnedFd};

use coracle_cgroup::Ownership;

use crate::cgroup;
use crate::create::signal;
use crate::error::{Code, Error, Result};
use crate::record::Directory;
use crate::status::{self, Status};
use crate::{Id, Runtime, Signal};

impl Runtime {
    /// Errors: [`Code::NotFound`]; [`Code::State`] with `container not running` when there is no process. With
    /// `all` every process of the container is signalled, also when its first one is gone already.
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
        let group = record.cgroup.open();
        if all {
            // What others do in a cgroup of the same path is theirs.
            if group.ownership().map_err(cgroup::error)? != Ownership::Ours {
                return Ok(());
            }
            if wanted == Signal::KILL {
                group.kill().map_err(cgroup::error)?;
            } else {
                // Held first, then listed once more: a number that is still there means the process that is held.
                let held: Vec<(i32, OwnedFd)> = group
                    .pids()
                    .map_err(cgroup::error)?
                    .into_iter()
                    .filter_map(|pid| Some((pid, coracle_sys::process::pidfd_open(pid).ok()?.into())))
                    .collect();
                let still = group.pids().map_err(cgroup::error)?;
                for (_, process) in held.iter().filter(|(pid, _)| still.contains(pid)) {
                    signal(process.as_fd(), wanted.number())?;
                }
            }
            return Ok(());
        }
        let sent = match pidfd {
            Some(pidfd) => signal(pidfd.as_fd(), wanted.number())?,
            None => false,
        };
        if !sent {
            return Err(Error::new(Code::State, "container not running"));
        }
        // cgroup2 kills frozen processes, the v1 freezer does not; a pause may have come in between.
        let may_die = || group.ownership().is_ok_and(|whose| whose == Ownership::Ours);
        if wanted == Signal::KILL
            && (status == Status::Paused || group.is_frozen().unwrap_or(false) && may_die())
        {
            group.thaw().map_err(cgroup::error)?;
        }
        Ok(())
    }
}
