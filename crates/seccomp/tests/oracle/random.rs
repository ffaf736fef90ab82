// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes → a profile.
//!
//! Owns which profiles the property tests and the fuzz targets see: few names and values, so that rules meet.
//! Decides nothing about them. Comes from proptest, libFuzzer or a counter; goes to the comparisons.

use coracle_seccomp::{Action, Architecture, Condition, Flags, Operator, Profile, Rule};

/// Calls with something special about their numbers, ordinary ones, and one that is none.
const NAMES: [&str; 32] = [
    "read",
    "write",
    "openat",
    "close",
    "mmap",
    "clone",
    "clone3",
    "execve",
    "ioctl",
    "rt_sigaction",
    "getpid",
    "mseal",
    "socket",
    "connect",
    "accept",
    "sendmsg",
    "socketcall",
    "semop",
    "shmat",
    "msgget",
    "ipc",
    "set_tls",
    "cacheflush",
    "sync_file_range2",
    "arm_sync_file_range",
    "readv",
    "preadv",
    "map_shadow_stack",
    "chown32",
    "futex_time64",
    "riscv_flush_icache",
    "nosuchcall",
];
const ACTIONS: [Action; 10] = [
    Action::Allow,
    Action::Errno(1),
    Action::Errno(38),
    Action::Errno(4094),
    Action::KillProcess,
    Action::KillThread,
    Action::Trap,
    Action::Trace(1),
    Action::Log,
    Action::Notify,
];
const OPERATORS: [Operator; 7] = [
    Operator::Equal,
    Operator::NotEqual,
    Operator::Less,
    Operator::LessOrEqual,
    Operator::GreaterOrEqual,
    Operator::Greater,
    Operator::MaskedEqual,
];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    /// 0 once all are used.
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() % from.len()]
    }

    fn value(&mut self) -> u64 {
        let small = self.next() as u64 % 8;
        match self.next() % 8 {
            0..3 => small,
            3 => small << 32,
            4 => small << 32 | small,
            5 => u64::MAX - small,
            6 => 0xffff_fff8 + small,
            _ => (small << 29).wrapping_mul(0x9e37_79b9),
        }
    }
}

/// A profile that [`coracle_seccomp::compile`] accepts, unless it is too long, and the native architecture.
pub fn profile(bytes: &[u8]) -> (Profile<'static>, Architecture) {
    let mut bytes = Bytes(bytes);
    let default = match bytes.pick(&ACTIONS) {
        Action::Notify => Action::Allow,
        action => action,
    };
    let native = match bytes.next() {
        0..128 => Architecture::X86_64,
        other => Architecture::ALL[other % Architecture::ALL.len()],
    };
    let mut architectures = vec![];
    let (some, x86) = (bytes.next(), bytes.next());
    if x86 & 1 != 0 {
        architectures.push(Architecture::X86);
    }
    if x86 & 2 != 0 {
        architectures.push(Architecture::X32);
    }
    if some & 1 != 0 {
        architectures.push(Architecture::ALL[(some >> 1) % Architecture::ALL.len()]);
    }
    let mut rules = vec![];
    while !bytes.0.is_empty() && rules.len() < 64 {
        let shape = bytes.next();
        let action = bytes.pick(&ACTIONS);
        let mut names: Vec<String> = (0..shape % 4 + 1).map(|_| bytes.pick(&NAMES).into()).collect();
        if action == Action::Notify {
            names.retain(|name| name != "write");
            names.push("read".into());
        }
        let count = [0, 1, 1, 1, 2, 2, 3, 0][shape >> 2 & 7];
        let conditions = (0..count)
            .map(|_| Condition {
                index: (bytes.next() % 6) as u8,
                operator: bytes.pick(&OPERATORS),
                value: bytes.value(),
                value_two: bytes.value(),
            })
            .collect();
        rules.push(Rule { names: names.into(), action, conditions });
    }
    (Profile { default, architectures, rules, flags: Flags::ABSENT, strict: false }, native)
}
