// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories and files of one cgroup hierarchy, by descriptor.
//!
//! Never resolves a path string after the mount point was opened, never leaves that mount, follows no link
//! and creates no file. Callers give names from a checked [`crate::Location`]; bytes go to and come from the
//! kernel.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::Error;

/// The mount point of a hierarchy, checked to be one of that kind. ENOENT is `Ok(None)`.
pub(crate) fn open_mount(mount: &Path, unified: bool) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = match openat(AT_FDCWD, mount, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(Error::io("open cgroup mount", mount, errno)),
    };
    let kind = fstatfs(&fd).map_err(|errno| Error::io("statfs", mount, errno))?.filesystem_type();
    let wanted = if unified { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
    if kind != wanted {
        // Something was mounted over it since the record was written: nothing in there is ours.
        return Err(Error::io("not a cgroup mount:", mount, Errno::ENODEV));
    }
    Ok(Some(fd))
}

pub(crate) fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(dir, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

/// `path` below `dir`, or `dir` once more for an empty path; only good for opening and removing in it.
pub(crate) fn open_parent(dir: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    open_beneath(dir, path, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

/// A cgroup's directory, readable.
pub(crate) fn open_group(dir: BorrowedFd<'_>, name: &Path) -> nix::Result<OwnedFd> {
    open_beneath(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

pub(crate) fn open_file(dir: BorrowedFd<'_>, file: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    open_beneath(dir, Path::new(file), flags | OFlag::O_NOCTTY)
}

pub(crate) fn read_open(fd: BorrowedFd<'_>) -> nix::Result<String> {
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let offset = libc::off_t::try_from(text.len()).map_err(|_| Errno::EFBIG)?;
        match nix::sys::uio::pread(fd, &mut buffer, offset) {
            Ok(0) => break,
            Ok(count) => {
                text.extend_from_slice(buffer.get(..count).unwrap_or_default());
                // A value's file is a few bytes: the second read that would only say so is left out.
                if count < 512 && text.ends_with(b"\n") {
                    break;
                }
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn read(dir: BorrowedFd<'_>, file: &str) -> nix::Result<String> {
    let fd = open_file(dir, file, OFlag::O_RDONLY)?;
    read_open(fd.as_fd())
}

/// One write(2): the kernel takes a value whole or not at all.
pub(crate) fn write_open(fd: BorrowedFd<'_>, value: &str) -> nix::Result<()> {
    loop {
        match nix::unistd::write(fd, value.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

pub(crate) fn write(dir: BorrowedFd<'_>, file: &str, value: &str) -> nix::Result<()> {
    let fd = open_file(dir, file, OFlag::O_WRONLY)?;
    write_open(fd.as_fd(), value)
}

pub(crate) fn rmdir(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

/// The value of `key` in a flat keyed file (`populated 1`).
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Names of the sub-cgroups.
fn children(group: BorrowedFd<'_>) -> nix::Result<Vec<CString>> {
    let mut dir =
        Dir::openat(group, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == Some(Type::Directory) && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// What to do at a cgroup below (and including) the one where [`walk`] starts.
pub(crate) enum Visit<'a> {
    /// Before its children.
    Enter(BorrowedFd<'a>),
    /// After its children, as a name in its parent; not for the starting cgroup.
    Leave(BorrowedFd<'a>, &'a CStr),
}

/// Walks a cgroup and its descendants, holding two descriptors however deep a container nested them. The way
/// up is `..`, which is stable here: a cgroup cannot be moved to another parent. One that vanishes meanwhile
/// is passed over.
pub(crate) fn walk(
    top: BorrowedFd<'_>,
    visit: &mut dyn FnMut(Visit<'_>) -> nix::Result<()>,
) -> nix::Result<()> {
    visit(Visit::Enter(top))?;
    let mut current = open_parent(top, Path::new(""))?;
    // The names on the way down, each with those of its siblings that are still to come.
    let mut way: Vec<(Option<CString>, Vec<CString>)> = vec![(None, children(top)?)];
    while let Some((_, rest)) = way.last_mut() {
        if let Some(child) = rest.pop() {
            let opened = open_group(current.as_fd(), Path::new(OsStr::from_bytes(child.to_bytes())));
            match opened {
                Ok(group) => {
                    visit(Visit::Enter(group.as_fd()))?;
                    let below = match children(group.as_fd()) {
                        // Removed between the open and the listing.
                        Err(Errno::ENOENT | Errno::ENODEV) => Vec::new(),
                        other => other?,
                    };
                    way.push((Some(child), below));
                    current = group;
                }
                Err(Errno::ENOENT | Errno::ENODEV) => {}
                Err(errno) => return Err(errno),
            }
        } else if let Some((Some(name), _)) = way.pop() {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            current = openat(current.as_fd(), "..", flags, Mode::empty())?;
            visit(Visit::Leave(current.as_fd(), &name))?;
        }
    }
    Ok(())
}

/// All processes of a cgroup and its descendants, ascending. Zero stands for one of another pid namespace.
pub(crate) fn pids(top: BorrowedFd<'_>) -> nix::Result<Vec<i32>> {
    let mut pids = Vec::new();
    walk(top, &mut |visit| {
        if let Visit::Enter(group) = visit {
            match read(group, "cgroup.procs") {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok())),
                // A threaded cgroup has none of its own: its processes are listed in the domain above.
                Err(Errno::EOPNOTSUPP | Errno::ENOENT | Errno::ENODEV) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    })?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Removes all descendants that can be removed; those in use stay.
pub(crate) fn remove_descendants(top: BorrowedFd<'_>) -> nix::Result<()> {
    walk(top, &mut |visit| match visit {
        Visit::Leave(parent, name) => match rmdir(parent, name) {
            Ok(()) | Err(Errno::ENOENT | Errno::EBUSY) => Ok(()),
            Err(errno) => Err(errno),
        },
        Visit::Enter(_) => Ok(()),
    })
}

/// `/proc/self/fd/N` for a library that takes paths: it names the descriptor's directory, whatever the path
/// has become.
pub(crate) fn proc_path(group: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", group.as_raw_fd()))
}

pub(crate) fn has_children(group: BorrowedFd<'_>) -> nix::Result<bool> {
    children(group).map(|names| !names.is_empty())
}
