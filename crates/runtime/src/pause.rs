// SPDX-License-Identifier: MIT OR Apache-2.0
//! pause and resume: the freezer of the container's cgroup.
//!
//! Never asks systemd, which would only write the same file. Whether a container is paused is not recorded: the kernel
//! knows.

use std::os::fd::AsRawFd;
use std::time::Duration;

use coracle_cgroup::{Cgroup, Ownership};
use coracle_sys::fd::wait_readable;

use crate::cgroup;
use crate::error::{Code, Error, Result};
use crate::record::Directory;
use crate::status::{self, Status};
use crate::{Id, Runtime, errno, members};

/// How long all processes may take to stop, or to go on.
const PATIENCE: Duration = Duration::from_secs(10);

impl Runtime {
    /// Stop all processes of a created or running container where they are; returns when they have stopped. What does
    /// not stop within ten seconds is named by the error, and all of it goes on. A kill or a thaw by others meanwhile ends it.
    ///
    /// Errors: [`Code::NotFound`]; [`Code::State`] with `container not running`; [`Code::Cgroup`].
    pub fn pause(&self, id: &Id) -> Result<()> {
        let directory = Directory::open(&self.root, id)?.lock()?;
        let record = directory.read()?;
        let (status, pidfd) = status::derive(&directory, record.as_ref())?;
        let not_running = |why: &str| Err(Error::new(Code::State, format!("container not running{why}")));
        let (record, pidfd) = match (status, record, pidfd) {
            (Status::Created | Status::Running, Some(record), Some(pidfd)) => (record, pidfd),
            (Status::Paused, ..) => return not_running(": it is paused already"),
            (Status::Creating, ..) => return not_running(": it is being created"),
            _ => return not_running(""),
        };
        if members::without_cgroup(&record) {
            return Err(cgroup::lacking("its processes cannot be paused"));
        }
        let group = own(record.cgroup.open())?;
        let frozen = group.freeze(PATIENCE);
        // An empty cgroup is frozen at once, and what was killed meanwhile never is.
        let ended = wait_readable(pidfd.as_raw_fd(), Some(0))
            .map_err(|error| Error::system("look at the container's process", errno(error)))?;
        if ended {
            group.thaw().map_err(cgroup::error)?;
            return not_running("");
        }
        frozen.map_err(cgroup::error)
    }

    /// Let the processes of a paused container go on. Errors: [`Code::NotFound`]; [`Code::State`] with `container not
    /// paused`; [`Code::Cgroup`], also when a cgroup above is frozen.
    pub fn resume(&self, id: &Id) -> Result<()> {
        let directory = Directory::open(&self.root, id)?.lock()?;
        let record = directory.read()?;
        let (status, _) = status::derive(&directory, record.as_ref())?;
        match (status, record) {
            (Status::Paused, Some(record)) => {
                own(record.cgroup.open())?.resume(PATIENCE).map_err(cgroup::error)
            }
            (status, _) => Err(Error::new(Code::State, format!("container not paused: it is {status}"))),
        }
    }
}

/// The cgroup, unless somebody else has it by now.
pub(crate) fn own(group: Cgroup) -> Result<Cgroup> {
    match group.ownership().map_err(cgroup::error)? {
        Ownership::Ours => Ok(group),
        _ => {
            let path = group.directories().first().map(|own| own.path.display().to_string());
            let text = format!("cgroup {} is not the container's any more", path.unwrap_or_default());
            Err(Error::new(Code::Cgroup, text))
        }
    }
}
