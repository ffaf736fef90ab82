// SPDX-License-Identifier: MIT OR Apache-2.0
//! ps: the processes of a container, by its cgroup, or by its pid namespace when it has none.
//!
//! Changes nothing, and asks no ps(1).

use std::os::fd::AsFd;

use coracle_cgroup::Ownership;

use crate::cgroup;
use crate::create::signal;
use crate::error::{Code, Error, Result};
use crate::record::Directory;
use crate::status::{self, Status};
use crate::{Id, Runtime, members};

impl Runtime {
    /// Pids of all processes in the container's cgroup and below it (without one: in its pid namespace), ascending, as the caller's pid namespace numbers
    /// them. A stopped container has some when it shares its pid namespace and left them behind.
    ///
    /// Errors: [`Code::NotFound`]; [`Code::State`] with `container not running` when there is none.
    pub fn processes(&self, id: &Id) -> Result<Vec<i32>> {
        let directory = Directory::open(&self.root, id)?;
        let record = directory.read()?;
        let (status, pidfd) = status::derive(&directory, record.as_ref())?;
        let not_running = |why: &str| Error::new(Code::State, format!("container not running{why}"));
        let record = match (status, record) {
            (Status::Creating, _) | (_, None) => return Err(not_running(": it is being created")),
            (_, Some(record)) => record,
        };
        let group = record.cgroup.open();
        // Of a cgroup that somebody else has by now nothing is the container's.
        let mut pids = match group.ownership().map_err(cgroup::error)? {
            Ownership::Ours => group.pids().map_err(cgroup::error)?,
            _ => Vec::new(),
        };
        if let (Some(pidfd), Some(process)) = (&pidfd, record.process)
            && members::without_cgroup(&record)
        {
            let found = members::of(process.pid)?;
            // While it lives the number is its own, so what was looked at by number was.
            if signal(pidfd.as_fd(), 0)? {
                pids = found;
            }
        }
        if let (Some(_), Some(process)) = (&pidfd, record.process)
            && let Err(place) = pids.binary_search(&process.pid)
        {
            pids.insert(place, process.pid);
        }
        if pids.is_empty() { Err(not_running("")) } else { Ok(pids) }
    }
}
