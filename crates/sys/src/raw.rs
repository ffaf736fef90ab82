// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system call instruction (syscall(2), "Architecture calling conventions"), and nothing else.

use core::arch::asm;

use crate::{Errno, Result};

/// # Safety
/// The call, with these arguments, must not touch memory that Rust code relies on, other than through pointers in
/// the arguments that are valid for what the call does with them.
#[inline(always)]
pub unsafe fn syscall6(
    number: i64,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> Result<usize> {
    let result: isize;
    // SAFETY: the instruction clobbers rcx and r11 only, besides rax; the caller vouches for the call itself.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

macro_rules! fewer {
    ($name:ident($($arg:ident),*) $($zero:literal)*) => {
        /// # Safety
        /// As for [`syscall6`].
        #[inline(always)]
        pub unsafe fn $name(number: i64, $($arg: usize),*) -> Result<usize> {
            // SAFETY: the caller's promise is the same.
            unsafe { syscall6(number, $($arg,)* $($zero),*) }
        }
    };
}

fewer!(syscall0() 0 0 0 0 0 0);
fewer!(syscall1(a) 0 0 0 0 0);
fewer!(syscall2(a, b) 0 0 0 0);
fewer!(syscall3(a, b, c) 0 0 0);
fewer!(syscall4(a, b, c, d) 0 0);
fewer!(syscall5(a, b, c, d, e) 0);
