// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mount API by descriptor: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2),
//! mount_setattr(2), fspick(2); and pivot_root(2).

use core::ffi::CStr;

use crate::raw::*;
use crate::{Fd, Result};

pub const ATTR_RDONLY: u64 = 0x1;
pub const ATTR_NOSUID: u64 = 0x2;
pub const ATTR_NODEV: u64 = 0x4;
pub const ATTR_NOEXEC: u64 = 0x8;
pub const ATTR_IDMAP: u64 = 0x10_0000;

pub const MS_UNBINDABLE: u64 = libc::MS_UNBINDABLE;
pub const MS_PRIVATE: u64 = libc::MS_PRIVATE;
pub const MS_SLAVE: u64 = libc::MS_SLAVE;
pub const MS_SHARED: u64 = libc::MS_SHARED;

const AT_RECURSIVE: u32 = 0x8000;
const OPEN_TREE_CLONE: u32 = 1;
const FSCONFIG_SET_FLAG: usize = 0;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const FSCONFIG_CMD_RECONFIGURE: usize = 7;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: usize = 0x40;

fn fd_result(result: Result<usize>) -> Result<Fd> {
    result.map(|number| Fd::own(number as i32))
}

/// A context for a new filesystem of this type. What it complains about can be read from it.
pub fn fsopen(fstype: &CStr) -> Result<Fd> {
    // SAFETY: the string lives across the call.
    fd_result(unsafe { syscall2(libc::SYS_fsopen, fstype.as_ptr() as usize, 1) })
}

fn fsconfig(context: i32, command: usize, key: usize, value: usize) -> Result<()> {
    // SAFETY: key and value are null or strings that live across the call (the callers below).
    unsafe { syscall5(libc::SYS_fsconfig, context as usize, command, key, value, 0) }.map(drop)
}

pub fn fsconfig_string(context: i32, key: &CStr, value: &CStr) -> Result<()> {
    fsconfig(context, FSCONFIG_SET_STRING, key.as_ptr() as usize, value.as_ptr() as usize)
}

pub fn fsconfig_flag(context: i32, key: &CStr) -> Result<()> {
    fsconfig(context, FSCONFIG_SET_FLAG, key.as_ptr() as usize, 0)
}

pub fn fsconfig_create(context: i32) -> Result<()> {
    fsconfig(context, FSCONFIG_CMD_CREATE, 0, 0)
}

pub fn fsconfig_reconfigure(context: i32) -> Result<()> {
    fsconfig(context, FSCONFIG_CMD_RECONFIGURE, 0, 0)
}

/// The filesystem of a context as a detached mount.
pub fn fsmount(context: i32, attributes: u64) -> Result<Fd> {
    // SAFETY: no pointers.
    fd_result(unsafe { syscall3(libc::SYS_fsmount, context as usize, 1, attributes as usize) })
}

/// A context for changing the filesystem of the mount that is open.
pub fn fspick(mount: i32) -> Result<Fd> {
    const FSPICK_CLOEXEC: usize = 1;
    const FSPICK_EMPTY_PATH: usize = 8;
    // SAFETY: the empty string lives for ever.
    fd_result(unsafe {
        syscall3(libc::SYS_fspick, mount as usize, c"".as_ptr() as usize, FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    })
}

/// A detached copy of the mount at `path`; with `recursive`, of every mount below it too. An empty path is what
/// `dir` itself is open on.
pub fn clone_tree(dir: i32, path: &CStr, recursive: bool) -> Result<Fd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    // SAFETY: `path` lives across the call.
    fd_result(unsafe { syscall3(libc::SYS_open_tree, dir as usize, path.as_ptr() as usize, flags as usize) })
}

/// Attach a detached mount onto what `target` is open on.
pub fn attach(mount: i32, target: i32) -> Result<()> {
    // SAFETY: the empty strings live for ever.
    unsafe {
        syscall5(
            libc::SYS_move_mount,
            mount as usize,
            c"".as_ptr() as usize,
            target as usize,
            c"".as_ptr() as usize,
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    }
    .map(drop)
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Setattr {
    pub set: u64,
    pub clear: u64,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0.
    pub propagation: u64,
    /// With ATTR_IDMAP in `set`: a user namespace.
    pub userns_fd: u64,
}

impl Setattr {
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// mount_setattr(2) on the mount that is open.
pub fn setattr(mount: i32, recursive: bool, attributes: &Setattr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the struct has the size that is passed and lives across the call.
    unsafe {
        syscall5(
            libc::SYS_mount_setattr,
            mount as usize,
            c"".as_ptr() as usize,
            flags as usize,
            attributes as *const Setattr as usize,
            size_of::<Setattr>(),
        )
    }
    .map(drop)
}

/// pivot_root(".", "."): the working directory's mount becomes the root, the old root lies over it.
pub fn pivot_to_working_directory() -> Result<()> {
    // SAFETY: static strings.
    unsafe { syscall2(libc::SYS_pivot_root, c".".as_ptr() as usize, c".".as_ptr() as usize) }.map(drop)
}

pub fn unmount(path: &CStr, flags: i32) -> Result<()> {
    // SAFETY: `path` lives across the call.
    unsafe { syscall2(libc::SYS_umount2, path.as_ptr() as usize, flags as usize) }.map(drop)
}

pub fn chroot(path: &CStr) -> Result<()> {
    // SAFETY: `path` lives across the call.
    unsafe { syscall1(libc::SYS_chroot, path.as_ptr() as usize) }.map(drop)
}

pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: `path` lives across the call.
    unsafe { syscall1(libc::SYS_chdir, path.as_ptr() as usize) }.map(drop)
}

pub fn fchdir(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall1(libc::SYS_fchdir, fd as usize) }.map(drop)
}

/// The working directory as the kernel names it; `(unreachable)…` when it is outside of the root.
pub fn getcwd(buffer: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the buffer is writable for its length.
    let length = unsafe { syscall2(libc::SYS_getcwd, buffer.as_mut_ptr() as usize, buffer.len()) }?;
    Ok(buffer.get(..length.saturating_sub(1)).unwrap_or_default())
}
