// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fixture, a profile like Docker's default one: its size, its steps, and every number of every architecture.

mod oracle;

use coracle_seccomp::{Action, Architecture, compile, syscall_number};
use oracle::{Data, Reading, arguments, like_docker, numbers, run, verify};

const NATIVE: Architecture = Architecture::X86_64;

#[test]
fn three_architectures_fit_in_420_instructions() {
    let filter = compile(&like_docker(), NATIVE).unwrap();
    verify(&filter.instructions);
    assert!(filter.instructions.len() <= 420, "{} instructions", filter.instructions.len());
    assert_eq!(filter.unknown, [] as [&str; 0]);
}

#[test]
fn common_calls_take_at_most_16_steps() {
    let filter = compile(&like_docker(), NATIVE).unwrap();
    for name in [
        "read",
        "write",
        "futex",
        "clock_gettime",
        "openat",
        "epoll_wait",
        "mmap",
        "close",
        "clone3",
        "mount",
        "newfstatat",
        "recvmsg",
        "sendmsg",
        "poll",
        "getpid",
        "execve",
        "exit_group",
        "nanosleep",
        "statx",
        "rseq",
    ] {
        let number = syscall_number(name, NATIVE).unwrap();
        let outcome = run(&filter.instructions, &Data::new(NATIVE, number, [0; 6]));
        assert!(outcome.steps <= 16, "{name}: {} steps", outcome.steps);
    }
}

#[test]
fn the_kernels_bitmap_can_hold_every_allowed_call() {
    let profile = like_docker();
    let filter = compile(&profile, NATIVE).unwrap();
    let mut allowed = 0;
    for rule in profile.rules.iter().filter(|rule| rule.conditions.is_empty() && rule.action == Action::Allow)
    {
        for (name, architecture) in
            rule.names.iter().flat_map(|name| profile.architectures.iter().map(move |on| (name, *on)))
        {
            let Some(number) = syscall_number(name, architecture) else { continue };
            let outcome = run(&filter.instructions, &Data::new(architecture, number, [0; 6]));
            assert!(outcome.constant && outcome.value == Action::Allow.value(), "{name}: {outcome:?}");
            allowed += 1;
        }
    }
    assert!(allowed > 900, "{allowed}");
}

#[test]
fn every_number_is_answered_as_the_profile_says() {
    let mut profile = like_docker();
    let three = [Architecture::X86_64, Architecture::X86, Architecture::X32];
    for (native, others) in [(NATIVE, &three[..]), (NATIVE, &[]), (Architecture::Aarch64, &Architecture::ALL)]
    {
        profile.architectures = others.to_vec();
        let filter = compile(&profile, native).unwrap();
        verify(&filter.instructions);
        let reading = Reading::new(&profile, native);
        let samples = arguments(&profile, 7, 40);
        for architecture in Architecture::ALL {
            for number in numbers(architecture) {
                // Only few calls have conditions; the others see two samples.
                let conditional = reading.conditional(architecture, number);
                for arguments in samples.iter().take(if conditional { samples.len() } else { 2 }) {
                    let data = Data::new(architecture, number, *arguments);
                    let (got, expected) = (run(&filter.instructions, &data).value, reading.decide(&data));
                    assert_eq!(
                        got,
                        expected,
                        "{got:#x} for {expected:#x}: {} {data:x?}",
                        architecture.name()
                    );
                }
            }
        }
    }
}
