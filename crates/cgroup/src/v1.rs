// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is particular to v1: values through the controllers of cgroups-rs, and cpusets that begin empty.
//!
//! Never lets that library find a path, make a directory, attach or remove: it is given `/proc/self/fd/N` of
//! a directory that is open here, and each result is checked. [`crate::limits`] has opened the file before, and reads
//! back by descriptor.

use std::error::Error as _;
use std::os::fd::{AsFd, BorrowedFd};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::cgroup::Tree;
use crate::convert::Write;
use crate::error::Error;
use crate::tree;

/// What v1 calls a controller of cgroup2.
pub(crate) fn name_of(controller: &str) -> &str {
    if controller == "io" { "blkio" } else { controller }
}

/// Writes a value the library's way; None for a file that it does not know, or knows by an old name only (burst,
/// idle, BFQ's weights, reservations of huge pages), and for lines of several devices.
pub(crate) fn set(group: BorrowedFd<'_>, write: &Write) -> Option<nix::Result<()>> {
    let at = || tree::proc_path(group);
    let memory = || MemController::new(at(), at(), false);
    let cpu = || CpuController::new(at(), at(), false);
    let cpuset = || CpuSetController::new(at(), at(), false);
    // Beyond the library's numbers: to the kernel as it is.
    let signed = write.value.parse::<i64>();
    let unsigned = write.value.parse::<u64>();
    let result = match &*write.file {
        "memory.limit_in_bytes" => memory().set_limit(signed.ok()?),
        "memory.memsw.limit_in_bytes" => memory().set_memswap_limit(signed.ok()?),
        "memory.soft_limit_in_bytes" => memory().set_soft_limit(signed.ok()?),
        "memory.swappiness" => memory().set_swappiness(unsigned.ok()?),
        "memory.oom_control" if write.value == "1" => memory().disable_oom_killer(),
        "cpu.shares" => cpu().set_shares(unsigned.ok()?),
        "cpu.cfs_quota_us" => cpu().set_cfs_quota(signed.ok()?),
        "cpu.cfs_period_us" => cpu().set_cfs_period(unsigned.ok()?),
        "cpu.rt_runtime_us" => cpu().set_rt_runtime(signed.ok()?),
        "cpu.rt_period_us" => cpu().set_rt_period_us(unsigned.ok()?),
        "cpuset.cpus" => cpuset().set_cpus(&write.value),
        "cpuset.mems" => cpuset().set_mems(&write.value),
        "pids.max" => {
            let value = if write.value == "max" { MaxValue::Max } else { MaxValue::Value(signed.ok()?) };
            PidController::new(at(), at(), false).set_pid_max(value)
        }
        _ => return None,
    };
    Some(result.map_err(|error| {
        // The errno out of the library's chain of causes.
        let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        cause.and_then(std::io::Error::raw_os_error).map_or(Errno::EIO, Errno::from_raw)
    }))
}

/// A new v1 cpuset has no CPUs and no memory nodes, and takes no process so. Gives the container's directory, and
/// each level above that has none, those of the level above it. Does nothing in other hierarchies.
pub(crate) fn prepare(tree: &Tree) -> Result<(), Error> {
    if !tree.has("cpuset") {
        return Ok(());
    }
    let levels = tree.names()?.0.iter().count() + 1;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let failed = |what: &str, errno| Error::io(what, tree.directory.path.join(file), errno);
        // From the container's directory up to the first level that has some; the mount's own always has.
        let mut empty = Vec::new();
        let mut level = tree::open_parent(tree.existing()?, std::path::Path::new(""))
            .map_err(|errno| failed("look above", errno))?;
        let list = loop {
            let list = tree::read(level.as_fd(), file).map_err(|errno| failed("read", errno))?;
            if !list.trim().is_empty() {
                break list;
            }
            if empty.len() == levels {
                return Err(failed("nothing to copy from the cgroups above for", Errno::ENOSPC));
            }
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let above = openat(level.as_fd(), "..", flags, Mode::empty())
                .map_err(|errno| failed("look above", errno))?;
            empty.push(std::mem::replace(&mut level, above));
        };
        for level in empty.iter().rev() {
            tree::write(level.as_fd(), file, list.trim()).map_err(|errno| failed("fill", errno))?;
        }
    }
    Ok(())
}
