// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits in v1 hierarchies: memory, cpu and pids through the controllers of cgroups-rs.
//!
//! Never lets that library find a path, make a directory, attach or remove: it is given `/proc/self/fd/N` of
//! a directory that is open here, each result is checked, and what decides safety is read back by descriptor.

use std::error::Error as _;
use std::os::fd::BorrowedFd;
use std::path::Path;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::errno::Errno;

use crate::convert::{self, Write};
use crate::error::Error;
use crate::tree;

/// A v1 cgroup that is open, and the words for it.
#[derive(Clone, Copy)]
struct Group<'a> {
    fd: BorrowedFd<'a>,
    path: &'a Path,
}

/// Writes the values of one hierarchy's controllers. `writes` are those of [`convert::v1`] for controllers
/// that this hierarchy has.
pub(crate) fn apply(fd: BorrowedFd<'_>, path: &Path, writes: &[Write]) -> Result<(), Error> {
    let group = Group { fd, path };
    let find = |file: &str| writes.iter().find(|write| write.file == file);
    memory(group, find("memory.limit_in_bytes"), find("memory.memsw.limit_in_bytes"))?;
    if let Some(soft) = find("memory.soft_limit_in_bytes") {
        let controller = MemController::new(tree::proc_path(fd), tree::proc_path(fd), false);
        group.checked(soft, controller.set_soft_limit(number(soft)?))?;
    }
    if let Some(shares) = find("cpu.shares") {
        let controller = CpuController::new(tree::proc_path(fd), tree::proc_path(fd), false);
        group.checked(shares, controller.set_shares(number(shares)?.unsigned_abs()))?;
        group.same(shares)?;
    }
    bandwidth(group, find("cpu.cfs_quota_us"), find("cpu.cfs_period_us"))?;
    if let Some(pids) = find("pids.max") {
        let controller = PidController::new(tree::proc_path(fd), tree::proc_path(fd), false);
        let value = if pids.unlimited { MaxValue::Max } else { MaxValue::Value(number(pids)?) };
        group.checked(pids, controller.set_pid_max(value))?;
        group.same(pids)?;
    }
    Ok(())
}

/// The kernel keeps limit ≤ memsw at every moment, so in a cgroup that had limits the right order depends on
/// whether they grow or shrink: try the limit first, and the other way round when that is refused.
fn memory(group: Group<'_>, limit: Option<&Write>, swap: Option<&Write>) -> Result<(), Error> {
    let controller = MemController::new(tree::proc_path(group.fd), tree::proc_path(group.fd), false);
    let set_limit = || match limit {
        Some(limit) => group.checked(limit, controller.set_limit(number(limit)?)),
        None => Ok(()),
    };
    let set_swap = || match swap {
        Some(swap) => match group.checked(swap, controller.set_memswap_limit(number(swap)?)) {
            // No swap accounting in this kernel: "no limit" is what there is.
            Err(Error::Controller { .. }) if swap.unlimited => Ok(()),
            other => other,
        },
        None => Ok(()),
    };
    match set_limit() {
        Err(Error::Io { errno: Errno::EINVAL, .. }) if swap.is_some() => {
            set_swap()?;
            set_limit()?;
        }
        other => {
            other?;
            set_swap()?;
        }
    }
    match limit {
        Some(limit) => group.at_most_a_page_less(limit),
        None => Ok(()),
    }
}

/// The kernel checks the pair at each write (quota ≥ 1 ms, and not above the parent's ratio), so a period
/// that is refused beside the old quota may be fine beside the new one.
fn bandwidth(group: Group<'_>, quota: Option<&Write>, period: Option<&Write>) -> Result<(), Error> {
    let controller = CpuController::new(tree::proc_path(group.fd), tree::proc_path(group.fd), false);
    let set_quota = || match quota {
        Some(quota) => group.checked(quota, controller.set_cfs_quota(number(quota)?)),
        None => Ok(()),
    };
    let set_period = || match period {
        Some(period) => group.checked(period, controller.set_cfs_period(number(period)?.unsigned_abs())),
        None => Ok(()),
    };
    match set_period() {
        Err(Error::Io { errno: Errno::EINVAL, .. }) if quota.is_some() => {
            set_quota()?;
            set_period()?;
        }
        other => {
            other?;
            set_quota()?;
        }
    }
    quota.into_iter().chain(period).try_for_each(|write| group.same(write))
}

fn number(write: &Write) -> Result<i64, Error> {
    write.value.parse().map_err(|_| Error::Limit {
        limit: write.limit.to_string(),
        rule: format!("{} is too large", write.value),
    })
}

impl Group<'_> {
    /// The result of a setter, with the errno out of the library's chain of causes.
    fn checked(self, write: &Write, result: cgroups_rs::fs::error::Result<()>) -> Result<(), Error> {
        let Err(error) = result else { return Ok(()) };
        let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        let errno = cause.and_then(std::io::Error::raw_os_error).map_or(Errno::EIO, Errno::from_raw);
        // The library opens with O_CREAT, which makes EACCES of a file that is missing: ask again without it.
        if errno == Errno::EACCES
            && tree::open_file(self.fd, write.file, nix::fcntl::OFlag::O_PATH).err() == Some(Errno::ENOENT)
        {
            return Err(Error::Controller {
                controller: controller_of(write).to_string(),
                limit: write.limit.to_string(),
                directory: self.path.to_path_buf(),
            });
        }
        Err(refused(write, self.path, errno))
    }

    fn value(self, write: &Write) -> Result<String, Error> {
        let text = tree::read(self.fd, write.file)
            .map_err(|errno| Error::io("read back", self.path.join(write.file), errno))?;
        Ok(text.trim().to_string())
    }

    fn same(self, write: &Write) -> Result<(), Error> {
        differs(write, self.path, &self.value(write)?, |kept| kept == write.value)
    }

    fn at_most_a_page_less(self, write: &Write) -> Result<(), Error> {
        differs(write, self.path, &self.value(write)?, |kept| page_rounded(&write.value, kept))
    }
}

fn controller_of(write: &Write) -> &str {
    // Its file is missing while the controller's others are there: the kernel runs without swap accounting.
    if write.limit == convert::SWAP_LIMIT { "memory with swap accounting" } else { write.controller }
}

pub(crate) fn refused(write: &Write, path: &Path, errno: Errno) -> Error {
    Error::io(format!("set {} to {:?} in", write.limit, write.value), path.join(write.file), errno)
}

/// An error unless the kernel kept what was written.
pub(crate) fn differs(
    write: &Write,
    path: &Path,
    kept: &str,
    equal: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    if equal(kept) {
        return Ok(());
    }
    Err(Error::Limit {
        limit: write.limit.to_string(),
        rule: format!(
            "wrote {} to {}, and the kernel keeps {kept}",
            write.value,
            path.join(write.file).display()
        ),
    })
}

/// The kernel counts whole pages and rounds down; the largest page there is has 64 KiB. Beyond its counter's
/// range it keeps "no limit".
pub(crate) fn page_rounded(wrote: &str, kept: &str) -> bool {
    let unlimited = |text: &str| text == "max" || text == "-1";
    match (wrote.parse::<i64>(), kept.parse::<i64>()) {
        (Ok(wrote), Ok(kept)) if wrote >= 0 => {
            kept <= wrote && (wrote - kept < 65_536 || kept >= i64::MAX - 65_536)
        }
        // v1 prints its largest number for "no limit".
        (_, Ok(kept)) if unlimited(wrote) => kept >= i64::MAX - 65_536,
        (Ok(wrote), Err(_)) => kept == "max" && wrote >= i64::MAX - 65_536,
        _ => unlimited(wrote) && kept == "max",
    }
}

#[cfg(test)]
mod tests {
    use super::page_rounded;

    #[test]
    fn values_that_the_kernel_rounds() {
        for (wrote, kept) in [
            ("4096", "4096"),
            ("5000", "4096"),
            ("70000", "65536"),
            ("max", "max"),
            ("-1", "9223372036854771712"),
            ("9223372036854775807", "9223372036854771712"),
            ("9223372036854775807", "max"),
        ] {
            assert!(page_rounded(wrote, kept), "{wrote} {kept}");
        }
        for (wrote, kept) in [
            ("5000", "max"),
            ("5000", "8192"),
            ("1000000", "4096"),
            ("-1", "4096"),
            ("max", "4096"),
            ("5000", ""),
            ("5000", "9223372036854771712"),
        ] {
            assert!(!page_rounded(wrote, kept), "{wrote} {kept}");
        }
    }
}
