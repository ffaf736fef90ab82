// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel, typed. The only crate with `unsafe`; no words of the OCI specification.
//!
//! Every call goes straight to the kernel, without a C library, so that the same functions serve the runtime and
//! init, which has none. Descriptors are plain numbers here: a wrong one is an error of the call, never undefined
//! behaviour. What must be closed on every path is held as [`Fd`].
#![cfg_attr(not(test), no_std)]

#[cfg(feature = "std")]
extern crate std;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("coracle-sys has the system call entry of x86_64 Linux only");

pub mod bpf;
pub mod clone;
pub mod errno;
pub mod fd;
pub mod memory;
pub mod mount;
pub mod probe;
pub mod process;
pub mod raw;
pub mod seccomp;
pub mod socket;
#[cfg(feature = "freestanding")]
pub mod start;
pub mod tty;

pub use errno::{Errno, Result};
pub use fd::Fd;
