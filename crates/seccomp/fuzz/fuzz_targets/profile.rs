// SPDX-License-Identifier: MIT OR Apache-2.0
//! Profiles and arguments: `cargo +nightly fuzz run profile` in crates/seccomp.
//!
//! Owns no comparison: that is tests/oracle. Never ends by itself. The first 48 bytes are arguments, the others a
//! profile; a program that does not do what the profile says is a crash.
#![no_main]

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (raw, rest) = data.split_at(data.len().min(48));
    let mut given = [0; 6];
    for (argument, bytes) in given.iter_mut().zip(raw.chunks_exact(8)) {
        *argument = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
    }
    let (profile, native) = oracle::random::profile(rest);
    let mut arguments = oracle::arguments(&profile, given[0], 8);
    arguments.push(given);
    arguments.drain(..arguments.len().saturating_sub(24));
    oracle::agree(&profile, native, &arguments);
});
