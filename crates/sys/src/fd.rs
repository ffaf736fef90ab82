// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors, and files reached through them. Names are always relative to a descriptor that the caller chose.

use core::ffi::CStr;

use crate::raw::*;
use crate::{Errno, Result};

/// An open descriptor that is closed when dropped.
#[derive(Debug)]
pub struct Fd(i32);

impl Fd {
    /// Take over a descriptor that nobody else closes.
    pub fn own(number: i32) -> Fd {
        Fd(number)
    }
    pub fn number(&self) -> i32 {
        self.0
    }
    /// Give the number up without closing it.
    pub fn release(self) -> i32 {
        let number = self.0;
        core::mem::forget(self);
        number
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // The number is gone whatever close(2) answers, so there is nothing to do about an error.
        close(self.0).ok(); // see above
    }
}

#[cfg(feature = "std")]
impl From<Fd> for std::os::fd::OwnedFd {
    fn from(fd: Fd) -> std::os::fd::OwnedFd {
        use std::os::fd::FromRawFd;
        // SAFETY: `release` gives up the only owner of an open descriptor.
        unsafe { std::os::fd::OwnedFd::from_raw_fd(fd.release()) }
    }
}

fn fd_result(result: Result<usize>) -> Result<Fd> {
    result.map(|number| Fd(number as i32))
}

pub fn close(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall1(libc::SYS_close, fd as usize) }.map(drop)
}

pub const RESOLVE_NO_XDEV: u64 = 0x01;
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;
pub const RESOLVE_IN_ROOT: u64 = 0x10;

/// How often a resolution that raced with a rename elsewhere is tried again: openat2(2) answers EAGAIN then.
const RENAME_RETRIES: u32 = 128;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2). O_CLOEXEC is added; a resolution disturbed by renames is tried again, with a bound.
pub fn openat2(dir: i32, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Result<Fd> {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: mode as u64, resolve };
    let mut tries = 0;
    loop {
        // SAFETY: `path` and `how` live across the call, and the size is that of `how`.
        let result = unsafe {
            syscall4(
                libc::SYS_openat2,
                dir as usize,
                path.as_ptr() as usize,
                &raw const how as usize,
                size_of::<OpenHow>(),
            )
        };
        match result {
            Err(Errno::AGAIN | Errno::INTR) if tries < RENAME_RETRIES => tries += 1,
            other => return fd_result(other),
        }
    }
}

/// Open below a hostile root: symbolic links resolve inside of it, magic links not at all.
pub fn open_in_root(root: i32, path: &CStr, flags: i32, mode: u32) -> Result<Fd> {
    openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

/// openat(2), for names on the caller's side. O_CLOEXEC is added.
pub fn openat(dir: i32, path: &CStr, flags: i32, mode: u32) -> Result<Fd> {
    // SAFETY: `path` lives across the call.
    fd_result(unsafe {
        syscall4(
            libc::SYS_openat,
            dir as usize,
            path.as_ptr() as usize,
            (flags | libc::O_CLOEXEC) as usize,
            mode as usize,
        )
    })
}

pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: the buffer is writable for its length.
        let result =
            unsafe { syscall3(libc::SYS_read, fd as usize, buffer.as_mut_ptr() as usize, buffer.len()) };
        if result != Err(Errno::INTR) {
            return result;
        }
    }
}

/// Fill the buffer with bytes that nobody can guess: getrandom(2), which waits only early at boot.
pub fn random(buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the rest of the buffer is writable for its length.
        match unsafe { syscall3(libc::SYS_getrandom, rest.as_mut_ptr() as usize, rest.len(), 0) } {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

pub fn write(fd: i32, buffer: &[u8]) -> Result<usize> {
    loop {
        // SAFETY: the buffer is readable for its length.
        let result =
            unsafe { syscall3(libc::SYS_write, fd as usize, buffer.as_ptr() as usize, buffer.len()) };
        if result != Err(Errno::INTR) {
            return result;
        }
    }
}

pub fn write_all(fd: i32, mut buffer: &[u8]) -> Result<()> {
    while !buffer.is_empty() {
        match write(fd, buffer)? {
            0 => return Err(Errno::IO),
            n => buffer = buffer.get(n..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// The parts of stat(2) that decide what a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub inode: u64,
    pub device: u64,
    /// Device number of a device node.
    pub rdev: u64,
    pub size: u64,
}

impl Stat {
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
    pub fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }
    pub fn is_regular(&self) -> bool {
        self.kind() == libc::S_IFREG
    }
}

pub fn fstat(fd: i32) -> Result<Stat> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `stat` is writable and of the size that the call fills; zeroed is a valid value of this plain struct.
    let stat = unsafe {
        syscall2(libc::SYS_fstat, fd as usize, stat.as_mut_ptr() as usize)?;
        stat.assume_init()
    };
    Ok(Stat {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        inode: stat.st_ino,
        device: stat.st_dev,
        rdev: stat.st_rdev,
        size: stat.st_size as u64,
    })
}

/// The kernel's device number (makedev(3)).
pub fn device_number(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// struct statfs of 64-bit Linux; libc keeps the flags private.
#[repr(C)]
#[derive(Default)]
struct Statfs {
    kind: i64,
    sizes: [i64; 6],
    id: [i32; 2],
    name_length: i64,
    fragment: i64,
    flags: i64,
    spare: [i64; 4],
}

/// Filesystem type and mount flags of what is open: (f_type, f_flags of statfs(2)).
pub fn fstatfs(fd: i32) -> Result<(i64, i64)> {
    let mut statfs = Statfs::default();
    // SAFETY: the struct is writable and has the layout that the call fills.
    unsafe { syscall2(libc::SYS_fstatfs, fd as usize, &raw mut statfs as usize) }?;
    Ok((statfs.kind, statfs.flags))
}

pub fn mkdirat(dir: i32, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `name` lives across the call.
    unsafe { syscall3(libc::SYS_mkdirat, dir as usize, name.as_ptr() as usize, mode as usize) }.map(drop)
}

pub fn mknodat(dir: i32, name: &CStr, mode: u32, device: u64) -> Result<()> {
    // The call takes the old 32-bit encoding (kernel include/linux/kdev_t.h, new_decode_dev).
    // SAFETY: `name` lives across the call.
    unsafe {
        syscall4(
            libc::SYS_mknodat,
            dir as usize,
            name.as_ptr() as usize,
            mode as usize,
            device as u32 as usize,
        )
    }
    .map(drop)
}

pub fn symlinkat(target: &CStr, dir: i32, name: &CStr) -> Result<()> {
    // SAFETY: both strings live across the call.
    unsafe { syscall3(libc::SYS_symlinkat, target.as_ptr() as usize, dir as usize, name.as_ptr() as usize) }
        .map(drop)
}

pub fn unlinkat(dir: i32, name: &CStr, flags: i32) -> Result<()> {
    // SAFETY: `name` lives across the call.
    unsafe { syscall3(libc::SYS_unlinkat, dir as usize, name.as_ptr() as usize, flags as usize) }.map(drop)
}

/// readlinkat(2); an empty name reads the link that `dir` itself is open on.
pub fn readlinkat<'a>(dir: i32, name: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    // SAFETY: `name` is readable and `buffer` writable for its length.
    let length = unsafe {
        syscall4(
            libc::SYS_readlinkat,
            dir as usize,
            name.as_ptr() as usize,
            buffer.as_mut_ptr() as usize,
            buffer.len(),
        )
    }?;
    buffer.get(..length).ok_or(Errno::INVAL)
}

/// Change the owner of what is open, also of an O_PATH descriptor.
pub fn chown(fd: i32, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: the empty string lives for ever.
    unsafe {
        syscall5(
            libc::SYS_fchownat,
            fd as usize,
            c"".as_ptr() as usize,
            uid as usize,
            gid as usize,
            libc::AT_EMPTY_PATH as usize,
        )
    }
    .map(drop)
}

pub fn fchmod(fd: i32, mode: u32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall2(libc::SYS_fchmod, fd as usize, mode as usize) }.map(drop)
}

/// May the process, with its effective ids, execute what is open (faccessat2(2))?
pub fn may_execute(fd: i32) -> Result<()> {
    // SAFETY: the empty string lives for ever.
    unsafe {
        syscall4(
            libc::SYS_faccessat2,
            fd as usize,
            c"".as_ptr() as usize,
            libc::X_OK as usize,
            (libc::AT_EMPTY_PATH | libc::AT_EACCESS) as usize,
        )
    }
    .map(drop)
}

pub fn dup3(old: i32, new: i32, cloexec: bool) -> Result<()> {
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_dup3, old as usize, new as usize, flags as usize) }.map(drop)
}

/// A copy of a descriptor, numbered `at_least` or higher, close-on-exec.
pub fn duplicate(fd: i32, at_least: i32) -> Result<Fd> {
    // SAFETY: no pointers.
    fd_result(unsafe {
        syscall3(libc::SYS_fcntl, fd as usize, libc::F_DUPFD_CLOEXEC as usize, at_least as usize)
    })
}

/// Let the descriptor survive execve(2), or not.
pub fn set_cloexec(fd: i32, cloexec: bool) -> Result<()> {
    let flags = if cloexec { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_fcntl, fd as usize, libc::F_SETFD as usize, flags as usize) }.map(drop)
}

pub fn is_open(fd: i32) -> bool {
    // SAFETY: no pointers.
    unsafe { syscall2(libc::SYS_fcntl, fd as usize, libc::F_GETFD as usize) }.is_ok()
}

/// close_range(2) over `first..=last`.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: no pointers; callers hold no `Fd` in the range, or forget about it.
    unsafe { syscall3(libc::SYS_close_range, first as usize, last as usize, 0) }.map(drop)
}

/// Mark every descriptor from `first` on close-on-exec.
pub fn cloexec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_close_range, first as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC) }
        .map(drop)
}

/// memfd_create(2), executable on purpose (`MFD_EXEC`, see vm.memfd_noexec) and sealable.
pub fn memfd(name: &CStr, executable: bool) -> Result<Fd> {
    const MFD_NOEXEC_SEAL: u32 = 0x8;
    const MFD_EXEC: u32 = 0x10;
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let kind = if executable { MFD_EXEC } else { MFD_NOEXEC_SEAL };
    let create = |flags: u32| {
        // SAFETY: `name` lives across the call.
        fd_result(unsafe { syscall2(libc::SYS_memfd_create, name.as_ptr() as usize, flags as usize) })
    };
    match create(base | kind) {
        // Kernels before 6.3 know neither flag, and allow execution.
        Err(Errno::INVAL) => create(base),
        other => other,
    }
}

/// Seal a memfd against every change.
pub fn seal(fd: i32) -> Result<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_fcntl, fd as usize, libc::F_ADD_SEALS as usize, seals as usize) }.map(drop)
}

/// pipe2(2): (read end, write end), close-on-exec.
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    // SAFETY: the array is writable for two numbers.
    unsafe { syscall2(libc::SYS_pipe2, ends.as_mut_ptr() as usize, libc::O_CLOEXEC as usize) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// Wait for one descriptor to become readable (or hung up). `None` waits for ever; Ok(false) is the time-out.
pub fn wait_readable(fd: i32, milliseconds: Option<i32>) -> Result<bool> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one pollfd, writable.
        let result = unsafe {
            syscall3(libc::SYS_poll, &raw mut poll as usize, 1, milliseconds.unwrap_or(-1) as isize as usize)
        };
        match result {
            Err(Errno::INTR) => {}
            // Not the kernel's word: a seccomp filter can answer a call with success.
            Ok(0) if milliseconds.is_none() => return Err(Errno::PROTO),
            other => return other.map(|ready| ready > 0),
        }
    }
}

/// getdents64(2): fill the buffer with entries; 0 at the end.
pub fn getdents(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is writable for its length.
    unsafe { syscall3(libc::SYS_getdents64, fd as usize, buffer.as_mut_ptr() as usize, buffer.len()) }
}

/// Copy bytes between two files in the kernel (sendfile(2)); Ok(0) at the end of the source.
pub fn sendfile(to: i32, from: i32, count: usize) -> Result<usize> {
    // SAFETY: no pointers (a null offset).
    unsafe { syscall4(libc::SYS_sendfile, to as usize, from as usize, 0, count) }
}

/// A small file whole. procfs, sysfs and cgroupfs do not know their files' sizes, and the standard library then feels
/// its way with reads of a few bytes; here it takes one, and one for the end.
#[cfg(feature = "std")]
pub fn read_file(path: impl AsRef<std::path::Path>) -> std::io::Result<std::vec::Vec<u8>> {
    use std::io::Read;
    let mut bytes = std::vec::Vec::with_capacity(8192);
    std::fs::File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// pread(2) until the buffer is full or the file ends.
pub fn read_at(fd: i32, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the rest of the buffer is writable for its length.
        let result = unsafe {
            syscall4(
                libc::SYS_pread64,
                fd as usize,
                rest.as_mut_ptr() as usize,
                rest.len(),
                offset.wrapping_add(filled as u64) as usize,
            )
        };
        match result {
            Err(Errno::INTR) => {}
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

/// Back to the first byte.
pub fn rewind(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_lseek, fd as usize, 0, libc::SEEK_SET as usize) }.map(drop)
}

/// Set an extended attribute (setxattr(2)) of an open file.
pub fn set_attribute(fd: i32, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads the name and the value, which outlive the call, and nothing else.
    unsafe {
        syscall5(
            libc::SYS_fsetxattr,
            fd as usize,
            name.as_ptr() as usize,
            value.as_ptr() as usize,
            value.len(),
            0,
        )
    }
    .map(drop)
}

/// An extended attribute (getxattr(2)) of an open file: how many bytes of `value` it fills. ENODATA without one, ERANGE
/// for a longer one.
pub fn attribute(fd: i32, name: &CStr, value: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel reads the name and writes at most the length of `value` there.
    unsafe {
        syscall4(
            libc::SYS_fgetxattr,
            fd as usize,
            name.as_ptr() as usize,
            value.as_mut_ptr() as usize,
            value.len(),
        )
    }
}
