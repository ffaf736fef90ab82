// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program: entry, and nothing else. What it does is in the library of this crate.
#![no_std]
#![no_main]
// One exported symbol, which the entry point in `sys` calls.
#![allow(unsafe_code)]

coracle_sys::entry!(coracle_init::main);
