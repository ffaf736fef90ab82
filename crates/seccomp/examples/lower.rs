// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures the compiler: `cargo run --release --example lower`.
//!
//! Owns nothing of the crate. Prints the time to lower the fixture, the program's length, and the steps that some
//! calls take in it. `--libseccomp` adds the same of the machine's libseccomp (needs python3).
#![allow(
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a measurement reads the clock and starts the peer"
)]

#[path = "../tests/oracle/mod.rs"]
mod oracle;
#[path = "../tests/peer/mod.rs"]
mod peer;

use std::hint::black_box;
use std::time::Instant;

use coracle_seccomp::{Architecture, compile, sock_filter, syscall_number};
use oracle::{Data, like_docker, run};

const NATIVE: Architecture = Architecture::X86_64;
const CALLS: [&str; 9] =
    ["read", "write", "futex", "openat", "clone3", "mount", "clone", "socket", "personality"];

fn main() {
    let mut profile = like_docker();
    for architectures in [profile.architectures.clone(), vec![]] {
        profile.architectures = architectures;
        let mut times: Vec<f64> = (0..2000)
            .map(|_| {
                let start = Instant::now();
                black_box(compile(black_box(&profile), NATIVE).unwrap());
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let filter = compile(&profile, NATIVE).unwrap();
        println!(
            "{} architectures: {:.1} µs (median; {:.1} at best, {:.1} at the 99th percentile), {} instructions",
            profile.architectures.len().max(1),
            times[times.len() / 2],
            times[0],
            times[times.len() * 99 / 100],
            filter.instructions.len()
        );
        steps(&filter.instructions);
        if std::env::args().any(|argument| argument == "--libseccomp") {
            for optimize in [1, 2] {
                match peer::compile(&[peer::request(&profile, NATIVE, optimize)]).pop() {
                    Some(Ok((time, program))) => {
                        println!(
                            "libseccomp, optimize {optimize}: {time} µs, {} instructions",
                            program.len()
                        );
                        steps(&program);
                    }
                    other => println!("libseccomp: {other:?}"),
                }
            }
        }
    }
}

fn steps(program: &[sock_filter]) {
    let steps = CALLS.map(|name| {
        let number = syscall_number(name, NATIVE).unwrap();
        let data = Data::new(NATIVE, number, [0xffff_ffff, 0, 0, 0, 0, 0]);
        format!("{name} {}", run(program, &data).steps)
    });
    println!("  steps: {}", steps.join(", "));
}
