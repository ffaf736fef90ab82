// SPDX-License-Identifier: MIT OR Apache-2.0
//! delete: everything that create made goes, as far as it exists; what cannot go keeps the record.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use coracle_cgroup::Ownership;
use coracle_plan::CgroupPlace;
use coracle_sys::fd;

use crate::cgroup::{self, EMPTY_DEADLINE};
use crate::create::signal;
use crate::error::{Code, Error, Result};
use crate::record::{Directory, Rdt, Record};
use crate::status::{self, Status};
use crate::{Id, Runtime, connect, errno, hooks, rdt};

/// What went wrong in the poststop hooks. The container is gone whatever they say (runtime-spec runtime.md
/// "Lifecycle").
pub(crate) fn poststop(record: &Record) -> Vec<String> {
    let state = || hooks::state_document(&record.id, "stopped", 0, &record.bundle, &record.annotations);
    let results = record.hooks.poststop.iter().map(|hook| hooks::run(hook, &state(), None));
    results.filter_map(|result| result.err().map(|error| error.message)).collect()
}

/// The record says nothing any more. The copy of the config beside it still tells where the cgroup is, and what is in
/// the cgroup is the container's.
fn remove_unrecorded(directory: &Directory) -> Result<()> {
    let Some((spec, _)) = directory.read_config()?.and_then(|text| coracle_plan::parse(&text).ok()) else {
        return Ok(());
    };
    let host = coracle_cgroup::host().map_err(cgroup::error)?;
    let place = CgroupPlace::Directory(coracle_plan::cgroup_path(&spec, directory.id()));
    let mut location = coracle_cgroup::locate(&host, &place, directory.id(), "").map_err(cgroup::error)?;
    // It looks as if it had been there before, but the container is the one that it was made for.
    location.adopted.clear();
    cgroup::remove(&location.open()).map(drop)
}

impl Runtime {
    /// Remove a stopped container, or one that was never started. With `force` a running one is killed first, and
    /// one that does not exist is a success. Can be repeated until it succeeds.
    ///
    /// What comes back are warnings: poststop hooks that failed.
    ///
    /// Errors: [`Code::NotFound`], [`Code::State`] while it runs, [`Code::Busy`], [`Code::Cgroup`] with what is stuck.
    pub fn delete(&self, id: &Id, force: bool) -> Result<Vec<String>> {
        let nothing = Vec::<String>::new;
        let missing = |error: &Error| error.code == Code::NotFound && force;
        let directory = match Directory::open(&self.root, id) {
            Err(error) if missing(&error) => return Ok(nothing()),
            other => other?,
        };
        // A start that waits for a hook inside holds the lock, and ends with the process that it waits for.
        if force
            && let Ok(Some(Record { process: Some(process), boot_id, .. })) = directory.read()
            && boot_id == crate::boot_id()?
            && let Some(pidfd) = status::living(&process)?
        {
            signal(pidfd.as_fd(), libc::SIGKILL)?;
        }
        let directory = match directory.lock() {
            Err(error) if missing(&error) => return Ok(nothing()),
            other => other?,
        };
        let record = match directory.read() {
            Err(error) if error.code == Code::Invalid && force => {
                remove_unrecorded(&directory)?;
                connect::remove(&self.root, id.as_str(), None)?;
                return directory.remove().map(|()| nothing());
            }
            other => other?,
        };
        // A record comes before the first effect but the claims, so without one there was none.
        let Some(record) = record else {
            connect::remove(&self.root, id.as_str(), None)?;
            return directory.remove().map(|()| nothing());
        };
        let (status, pidfd) = status::derive(&directory, Some(&record))?;
        if matches!(status, Status::Running | Status::Paused) && !force {
            let text = format!("cannot delete container \"{id}\" that is not stopped: {status}");
            return Err(Error::new(Code::State, text).hint("`delete --force` kills it first"));
        }
        let mut warnings = nothing();
        let group = record.cgroup.open();
        let end = Instant::now() + EMPTY_DEADLINE;
        if let Some(pidfd) = &pidfd {
            signal(pidfd.as_fd(), libc::SIGKILL)?;
            // Of what is paused nothing runs again: the others would, until the first process has ended.
            if status == Status::Paused && group.ownership().map_err(cgroup::error)? == Ownership::Ours {
                group.kill().map_err(cgroup::error)?;
            }
            group.thaw().map_err(cgroup::error)?;
            let patience = EMPTY_DEADLINE.as_millis() as i32;
            let ended = fd::wait_readable(pidfd.as_raw_fd(), Some(patience))
                .map_err(|error| Error::system("wait for the container's process", errno(error)))?;
            // The first process of a pid namespace ends after all others there.
            if !ended
                && let Some(error) = cgroup::still_there(&group).or_else(|| {
                    cgroup::stuck(&record.process.iter().map(|init| init.pid).collect::<Vec<_>>())
                })
            {
                return Err(error);
            }
        }
        warnings.extend(cgroup::remove_until(&group, end)?);
        if let Some(Rdt { resctrl, plan, applied }) = &record.intel_rdt {
            rdt::remove(plan, resctrl, id.as_str(), *applied)?;
        }
        if let Some(connection) = &record.network {
            warnings.extend(connect::remove(&self.root, id.as_str(), Some(connection))?);
        }
        directory.remove()?;
        if record.process.is_some() {
            warnings.extend(poststop(&record));
        }
        Ok(warnings)
    }
}
