// SPDX-License-Identifier: MIT OR Apache-2.0
//! seccomp(2): load a filter, and ask what the kernel knows of it.
//!
//! Knows no profile and no syscall: a filter is bytes here. It comes from init's program or a caller's own; what it
//! means is decided long before.

use crate::raw::*;
use crate::{Errno, Fd, Result};

const SET_MODE_FILTER: usize = 1;
const GET_ACTION_AVAIL: usize = 2;

/// SECCOMP_FILTER_FLAG_NEW_LISTENER.
pub const NEW_LISTENER: u32 = 8;

/// struct sock_fprog.
#[repr(C)]
struct Program {
    length: u16,
    filter: *const u8,
}

const INSTRUCTION: usize = 8;

/// Load a filter for the calling thread, and with TSYNC for all of its process. `program` is an array of struct
/// sock_filter. What comes back is the listener that NEW_LISTENER asks for. Errors: EACCES without no_new_privs and
/// CAP_SYS_ADMIN, EINVAL for a flag or an instruction that the kernel does not know, ESRCH where TSYNC cannot.
pub fn load(flags: u32, program: &[u8]) -> Result<Option<Fd>> {
    if !program.len().is_multiple_of(INSTRUCTION) {
        return Err(Errno::INVAL);
    }
    let length = u16::try_from(program.len() / INSTRUCTION).map_err(|_| Errno::INVAL)?;
    // The kernel copies the instructions, and needs no alignment for that.
    let program = Program { length, filter: program.as_ptr() };
    // SAFETY: the struct lives across the call, and its pointer is readable for `length` instructions.
    let result =
        unsafe { syscall3(libc::SYS_seccomp, SET_MODE_FILTER, flags as usize, &raw const program as usize) }?;
    match result {
        listener if flags & NEW_LISTENER != 0 => Ok(Some(Fd::own(listener as i32))),
        0 => Ok(None),
        // The thread that could not be given the filter.
        _ => Err(Errno::SRCH),
    }
}

/// Does the kernel know all of these flags? Nothing is loaded: there is no program to read.
pub fn knows_flags(flags: u32) -> bool {
    // SAFETY: the null pointer is refused with EFAULT, after the flags were looked at.
    let result = unsafe { syscall3(libc::SYS_seccomp, SET_MODE_FILTER, flags as usize, 0) };
    result == Err(Errno::FAULT)
}

/// Does the kernel know this return value of a filter (`SECCOMP_RET_…`)?
pub fn knows_action(action: u32) -> bool {
    // SAFETY: four readable bytes that live across the call.
    unsafe { syscall3(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action as usize) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_actions_are_known_or_not() {
        for flag in [0, 1, 2, 4, NEW_LISTENER] {
            assert!(knows_flags(flag), "{flag}");
        }
        assert!(!knows_flags(1 << 31));
        assert!(knows_action(0x7fff_0000) && knows_action(0x7fc0_0000));
        assert!(!knows_action(0x1234_0000));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert_eq!(load(0, &[0; 7]).map(drop), Err(Errno::INVAL));
        assert_eq!(load(0, &[]).map(drop), Err(Errno::INVAL));
        assert_eq!(load(0, &[0; 8 * 65536]).map(drop), Err(Errno::INVAL));
    }
}
