// SPDX-License-Identifier: MIT OR Apache-2.0
//! Error numbers (errno(3)). The words for them belong to whoever talks to people.

/// A positive error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Result<T> = core::result::Result<T, Errno>;

impl Errno {
    pub const PERM: Errno = Errno(libc::EPERM);
    pub const NOENT: Errno = Errno(libc::ENOENT);
    pub const INTR: Errno = Errno(libc::EINTR);
    pub const IO: Errno = Errno(libc::EIO);
    pub const NOEXEC: Errno = Errno(libc::ENOEXEC);
    pub const BADF: Errno = Errno(libc::EBADF);
    pub const AGAIN: Errno = Errno(libc::EAGAIN);
    pub const NOMEM: Errno = Errno(libc::ENOMEM);
    pub const ACCES: Errno = Errno(libc::EACCES);
    pub const BUSY: Errno = Errno(libc::EBUSY);
    pub const EXIST: Errno = Errno(libc::EEXIST);
    pub const XDEV: Errno = Errno(libc::EXDEV);
    pub const NODEV: Errno = Errno(libc::ENODEV);
    pub const NOTDIR: Errno = Errno(libc::ENOTDIR);
    pub const ISDIR: Errno = Errno(libc::EISDIR);
    pub const INVAL: Errno = Errno(libc::EINVAL);
    pub const ROFS: Errno = Errno(libc::EROFS);
    pub const PIPE: Errno = Errno(libc::EPIPE);
    pub const NAMETOOLONG: Errno = Errno(libc::ENAMETOOLONG);
    pub const NOSYS: Errno = Errno(libc::ENOSYS);
    pub const LOOP: Errno = Errno(libc::ELOOP);
    pub const PROTO: Errno = Errno(libc::EPROTO);
    pub const TIMEDOUT: Errno = Errno(libc::ETIMEDOUT);
    pub const DQUOT: Errno = Errno(libc::EDQUOT);
}
