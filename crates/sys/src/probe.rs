// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does this kernel, behind whatever filter there is, know a call? Asked with arguments that change nothing.
//!
//! Judges nothing: each call comes back with what the kernel said, and with whether an ordinary user hears EPERM
//! before the kernel looks at the arguments.

use core::result::Result as CoreResult;

use crate::raw::*;
use crate::{Errno, Result, fd, mount, process};

/// A call, and what came of it: `Ok` when the kernel answered as one that knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    pub result: CoreResult<(), Errno>,
    /// Without CAP_SYS_ADMIN over the mount namespace, EPERM tells nothing (may_mount(), kernel fs/namespace.c).
    pub privileged: bool,
}

/// The calls that Linux before 5.14 or a filter may lack, and that every container needs.
pub fn calls() -> [Call; 15] {
    let call = |name, result| Call { name, result, privileged: false };
    let mounting = |name, result| Call { name, result, privileged: true };
    [
        call("clone3", clone3()),
        call("execveat", execveat()),
        call("openat2", fd::open_in_root(libc::AT_FDCWD, c"/", libc::O_PATH, 0).map(drop)),
        call("close_range", fd::cloexec_from(u32::MAX)),
        call("memfd_create", fd::memfd(c"oar-doctor", false).map(drop)),
        call("pidfd_open", process::pidfd_open(process::pid()).map(drop)),
        call("pidfd_send_signal", pidfd(|pidfd| process::pidfd_send_signal(pidfd, 0))),
        call("unshare", process::unshare(0)),
        call("setns", expected(process::setns(-1, 0), Errno::BADF)),
        call("open_tree", open_tree()),
        call("mount_setattr", mount_setattr()),
        mounting("fsopen", mount::fsopen(c"tmpfs").map(drop)),
        mounting("fsmount", expected(mount::fsmount(-1, 0).map(drop), Errno::BADF)),
        mounting("fspick", expected(mount::fspick(-1).map(drop), Errno::BADF)),
        mounting("move_mount", expected(mount::attach(-1, -1), Errno::BADF)),
    ]
}

/// Is the end of a process that is not a child told (PIDFD_GET_INFO, Linux 6.13)? `oar wait` can do without.
pub fn knows_pidfd_info() -> bool {
    pidfd(|pidfd| process::pidfd_exit(pidfd).map(drop)).is_ok()
}

/// Knowing the call, the kernel refuses these arguments in this way.
fn expected(result: Result<()>, refusal: Errno) -> Result<()> {
    match result {
        Err(errno) if errno == refusal => Ok(()),
        other => other,
    }
}

fn pidfd(ask: impl FnOnce(i32) -> Result<()>) -> Result<()> {
    ask(process::pidfd_open(process::pid())?.number())
}

fn clone3() -> Result<()> {
    // SAFETY: a size below the least one is refused before the null pointer is read.
    let result = unsafe { syscall2(libc::SYS_clone3, 0, 0) };
    expected(result.map(drop), Errno::INVAL)
}

fn execveat() -> Result<()> {
    // SAFETY: there is no file to execute at this descriptor; null arrays are empty ones.
    let result = unsafe {
        syscall5(libc::SYS_execveat, usize::MAX, c"".as_ptr() as usize, 0, 0, libc::AT_EMPTY_PATH as usize)
    };
    expected(result.map(drop), Errno::BADF)
}

fn open_tree() -> Result<()> {
    let dir = libc::AT_FDCWD as usize;
    // SAFETY: the string lives for ever. Without OPEN_TREE_CLONE it is an open with O_PATH.
    let result =
        unsafe { syscall3(libc::SYS_open_tree, dir, c"/".as_ptr() as usize, libc::O_CLOEXEC as usize) };
    result.map(|number| drop(fd::Fd::own(number as i32)))
}

fn mount_setattr() -> Result<()> {
    const NO_SUCH_FLAG: usize = 1 << 31;
    // SAFETY: flags are looked at first, pointers never.
    let result = unsafe { syscall5(libc::SYS_mount_setattr, usize::MAX, 0, NO_SUCH_FLAG, 0, 0) };
    expected(result.map(drop), Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_knows_every_call() {
        for Call { name, result, privileged } in calls() {
            assert!(result.is_ok() || privileged && result == Err(Errno::PERM), "{name}: {result:?}");
        }
    }

    #[test]
    fn only_the_expected_refusal_is_a_yes() {
        assert_eq!(expected(Err(Errno::BADF), Errno::BADF), Ok(()));
        assert_eq!(expected(Err(Errno::PERM), Errno::BADF), Err(Errno::PERM));
        assert_eq!(expected(Ok(()), Errno::BADF), Ok(()));
    }
}
