// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the kernel refused a limit, where its number alone misleads.
//!
//! Never writes: looks at what stands beside the file that refused. To [`crate::Error`], for [`crate::limits`].

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::cgroup::Tree;
use crate::convert::{self, Write};
use crate::error::Error;
use crate::{kept, tree};

/// The file is not there, although its controller is.
pub(crate) fn missing(group: BorrowedFd<'_>, write: &Write, directory: &Path) -> Error {
    if write.controller == "hugetlb"
        && let Some(sizes) = page_sizes(group)
        && !write.limit.starts_with("unified[")
    {
        let rule = format!("the kernel has no such pages, it has {sizes}");
        return Error::Limit { limit: write.limit.to_string(), rule };
    }
    let with = match &*write.file {
        _ if write.limit.starts_with("unified[") => return missing_file(write, directory, ""),
        "io.weight" | "io.bfq.weight" => {
            " with io.bfq.weight (the kernel's module bfq) or io.weight (CONFIG_BLK_CGROUP_IOCOST)"
        }
        "blkio.weight" | "blkio.bfq.weight" => " with blkio.bfq.weight (the kernel's module bfq)",
        "blkio.weight_device" | "blkio.bfq.weight_device" => {
            " with blkio.bfq.weight_device (the kernel's module bfq)"
        }
        "memory.swap.max" | "memory.memsw.limit_in_bytes" => " with swap accounting",
        "cpu.rt_runtime_us" | "cpu.rt_period_us" => {
            return missing_file(write, directory, " (CONFIG_RT_GROUP_SCHED)");
        }
        "blkio.leaf_weight" | "blkio.leaf_weight_device" => {
            return missing_file(write, directory, " (the scheduler CFQ, until Linux 4.20)");
        }
        "cpu.idle" => return missing_file(write, directory, " (Linux 5.15)"),
        _ => return missing_file(write, directory, ""),
    };
    Error::Controller {
        controller: format!("{}{with}", write.controller),
        limit: write.limit.to_string(),
        directory: directory.to_path_buf(),
    }
}

fn missing_file(write: &Write, directory: &Path, since: &str) -> Error {
    Error::Controller {
        controller: format!("{} with the file {}{since}", write.controller, write.file),
        limit: write.limit.to_string(),
        directory: directory.to_path_buf(),
    }
}

/// `2MB, 1GB`, from the names of the files; None when there are none.
fn page_sizes(group: BorrowedFd<'_>) -> Option<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(group, ".", flags, Mode::empty()).ok()?;
    let size = |name: &CStr| {
        let size = name.to_str().ok()?.strip_prefix("hugetlb.")?;
        let size = size.strip_suffix(".max").or(size.strip_suffix(".limit_in_bytes"))?;
        (!size.contains('.')).then(|| size.to_string())
    };
    let mut sizes: Vec<String> = directory.iter().filter_map(|entry| size(entry.ok()?.file_name())).collect();
    // By what they are, not by their letters: KB, MB, GB.
    sizes.sort_by_key(|size| {
        let unit = ["KB", "MB", "GB"].iter().position(|unit| size.ends_with(unit));
        (unit, size.len(), size.clone())
    });
    (!sizes.is_empty()).then(|| sizes.join(", "))
}

/// The kernel refused the value.
pub(crate) fn refused(tree: &Tree, write: &Write, errno: Errno) -> Error {
    let path = &tree.directory.path;
    if let (Some((used, asked)), Errno::EBUSY) = (in_use(tree, write), errno) {
        return Error::InUse { limit: write.limit.to_string(), asked, used };
    }
    let rule = tree.group().ok().flatten().and_then(|group| reason(tree, group, write, errno));
    match rule {
        Some(rule) => Error::Limit { limit: write.limit.to_string(), rule },
        None => {
            Error::io(format!("set {} to {:?} in", write.limit, write.value), path.join(&*write.file), errno)
        }
    }
}

/// Bytes in use, and those that a memory limit of v1 was to be.
fn in_use(tree: &Tree, write: &Write) -> Option<(i64, i64)> {
    let usage = match &*write.file {
        "memory.limit_in_bytes" => "memory.usage_in_bytes",
        "memory.memsw.limit_in_bytes" => "memory.memsw.usage_in_bytes",
        _ => return None,
    };
    let used = tree.read_if_there(usage).ok()??;
    Some((used.trim().parse().ok()?, write.value.parse().ok()?))
}

fn reason(tree: &Tree, group: BorrowedFd<'_>, write: &Write, errno: Errno) -> Option<String> {
    if write.limit.starts_with("unified[") {
        return None;
    }
    let value = &write.value;
    let number = |file: &str| tree::read(group, file).ok()?.trim().parse::<i64>().ok();
    match (&*write.file, errno) {
        ("cpuset.cpus" | "cpuset.mems", _) => {
            let (available, file) = available(tree, group, write)?;
            let why = Error::io("", "", errno).to_string();
            let why = why.trim_start_matches([' ', ':']);
            Some(format!("{value} is refused ({why}): {file} has {available}"))
        }
        ("cpu.weight" | "cpu.shares", Errno::EINVAL) if number("cpu.idle") == Some(1) => {
            Some(format!("{value} is refused: the cgroup is idle (cpu.idle is 1), and has no weight then"))
        }
        ("cpu.max" | "cpu.cfs_quota_us", Errno::EINVAL) => {
            let burst = if tree.unified() { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
            let quota = value.split_whitespace().next()?.parse::<i64>().ok().filter(|quota| *quota >= 0)?;
            let burst = number(burst).filter(|burst| *burst > quota)?;
            Some(format!("{quota} is below the burst of {burst}"))
        }
        ("cpu.max.burst" | "cpu.cfs_burst_us", Errno::EINVAL) => {
            let quota = if tree.unified() { "cpu.max" } else { "cpu.cfs_quota_us" };
            let quota = tree::read(group, quota).ok()?;
            let quota = quota.split_whitespace().next()?;
            Some(format!("{value} is refused beside the quota of {quota}: it must not be above it"))
        }
        ("cpu.rt_runtime_us" | "cpu.rt_period_us", Errno::EINVAL) => {
            let above = path_above(tree);
            let runtime = tree::read(above_of(group)?.as_fd(), "cpu.rt_runtime_us").ok()?;
            Some(format!(
                "{value} is refused: each cgroup above needs realtime runtime too, and {}/cpu.rt_runtime_us is {}",
                above.display(),
                runtime.trim()
            ))
        }
        ("memory.limit_in_bytes", Errno::EINVAL) => {
            let sum = number("memory.memsw.limit_in_bytes")?;
            let limit = value.parse::<i64>().ok()?;
            (limit < 0 || limit > sum)
                .then(|| format!("{value} is above the {} of {sum}", convert::SWAP_LIMIT))
        }
        ("memory.memsw.limit_in_bytes", Errno::EINVAL) => {
            let limit = number("memory.limit_in_bytes")?;
            Some(format!("{value} is below the {} of {limit}", convert::MEMORY_LIMIT))
        }
        ("io.bfq.weight" | "blkio.bfq.weight_device", Errno::EOPNOTSUPP) => {
            Some(format!("{value:?} is refused: that device does not use the scheduler bfq"))
        }
        ("io.weight", Errno::EOPNOTSUPP) => {
            Some(format!("{value:?} is refused: that device has no io.cost (io.cost.qos of the root cgroup)"))
        }
        _ => None,
    }
}

/// cgroup2 takes CPUs and nodes that the cgroups above do not have, and lets the processes run elsewhere when none is
/// left.
pub(crate) fn refuse_unavailable(tree: &Tree, group: BorrowedFd<'_>, write: &Write) -> Result<(), Error> {
    if !tree.unified() {
        return Ok(());
    }
    let name = format!("{}.effective", write.file);
    let text = tree::read(group, &name)
        .map_err(|errno| Error::io("read", tree.directory.path.join(&name), errno))?;
    let (Some(wanted), Some(effective)) = (kept::ranges(&write.value), kept::ranges(&text)) else {
        return Ok(());
    };
    if kept::is_within(&effective, &wanted) {
        return Ok(());
    }
    let available = available(tree, group, write);
    let rule = match available {
        Some((available, file)) => format!("{} cannot be had: {file} has {available}", write.value),
        None => format!("{} cannot be had: the kernel gives {}", write.value, text.trim()),
    };
    Err(Error::Limit { limit: write.limit.to_string(), rule })
}

/// What the cgroup above can give, and the file that says so.
fn available(tree: &Tree, group: BorrowedFd<'_>, write: &Write) -> Option<(String, String)> {
    let name = match (&*write.file, tree.unified()) {
        (file, true) => format!("{file}.effective"),
        ("cpuset.cpus", false) => "cpuset.effective_cpus".to_string(),
        (_, false) => "cpuset.effective_mems".to_string(),
    };
    let text = tree::read(above_of(group)?.as_fd(), &name).ok()?;
    Some((text.trim().to_string(), path_above(tree).join(name).display().to_string()))
}

fn path_above(tree: &Tree) -> &Path {
    tree.directory.path.parent().unwrap_or(Path::new("/"))
}

/// A container's cgroup is never the hierarchy's root.
fn above_of(group: BorrowedFd<'_>) -> Option<OwnedFd> {
    openat(group, "..", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
}
