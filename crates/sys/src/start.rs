// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program needs that has no C library: an entry point, a panic handler, and the memory functions that the
//! compiler calls.

use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char};

// The kernel enters with argc at the top of the stack (System V ABI, "Process Initialization").
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call coracle_entry",
    "ud2",
);

/// The second argument of the program, for [`entry!`].
///
/// # Safety
/// `stack` must be the stack pointer that the kernel gave to `_start`.
pub unsafe fn second_argument(stack: *const usize) -> Option<&'static CStr> {
    // SAFETY: argc, then argc pointers to strings that live as long as the process.
    unsafe {
        if stack.read() < 2 {
            return None;
        }
        Some(CStr::from_ptr(stack.add(2).read() as *const c_char))
    }
}

/// Define the program: `$main` gets the second argument and never returns.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn coracle_entry(stack: *const usize) -> ! {
            $crate::start::run(stack, $main)
        }
    };
}

/// The body of [`entry!`], here so that the program itself has no `unsafe`.
pub fn run(stack: *const usize, main: fn(Option<&'static CStr>) -> !) -> ! {
    // SAFETY: only the entry point above calls this, with the kernel's stack pointer.
    main(unsafe { second_argument(stack) })
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    crate::process::exit(70)
}

/// # Safety
/// As memcpy(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the direction flag is clear in Rust code.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As memmove(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: no byte of the source is overwritten before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: backwards, from the last byte; the direction flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _,
             inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As memset(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As memcmp(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    let mut index = 0;
    while index < count {
        // SAFETY: below `count`, which both are readable for.
        let (x, y) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if x != y {
            return x as i32 - y as i32;
        }
        index += 1;
    }
    0
}

/// # Safety
/// As bcmp(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(a, b, count) }
}

/// # Safety
/// As strlen(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(string: *const c_char) -> usize {
    let mut length = 0;
    // SAFETY: up to the terminator, which the caller promises.
    while unsafe { string.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
