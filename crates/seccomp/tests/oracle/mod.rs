// SPDX-License-Identifier: MIT OR Apache-2.0
//! Three ways to judge a filter without the compiler under test.
//!
//! Owns an interpreter of BPF, the kernel's rules for a program, and a direct reading of a profile. Shares with the
//! compiler only the tables of numbers. Comes from tests, examples and fuzz targets, which include it as a module.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test's module")]

pub mod random;

use std::collections::HashMap;

use coracle_seccomp::{
    Action, Architecture, Condition, Flags, MAX_INSTRUCTIONS, Operator, Profile, Rule, sock_filter,
    syscall_number,
};
use serde_json::Value;

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    pub number: u32,
    pub audit: u32,
    pub arguments: [u64; 6],
}

/// What a program returned, and after how many instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub value: u32,
    pub steps: usize,
    /// Only the number and the architecture were looked at: the kernel's bitmap can hold the answer.
    pub constant: bool,
}

impl Data {
    pub fn new(architecture: Architecture, number: u32, arguments: [u64; 6]) -> Self {
        Self { number, audit: architecture.audit(), arguments }
    }

    fn word(&self, offset: u32) -> u32 {
        let big_endian = self.audit & 0x4000_0000 == 0;
        match offset {
            0 => self.number,
            4 => self.audit,
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                let first = offset.is_multiple_of(8);
                if first == big_endian { (argument >> 32) as u32 } else { argument as u32 }
            }
            _ => panic!("load at {offset}"),
        }
    }
}

/// Runs a program as the kernel does. Panics on what the kernel would refuse or its bitmap would not follow.
pub fn run(program: &[sock_filter], data: &Data) -> Outcome {
    let (mut at, mut accumulator, mut constant) = (0, 0, true);
    for steps in 1.. {
        let instruction = &program[at];
        let k = instruction.k;
        at += 1;
        let condition = match instruction.code {
            0x20 => {
                accumulator = data.word(k);
                constant &= k < 8;
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => return Outcome { value: k, steps, constant },
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            0x45 => accumulator & k != 0,
            code => panic!("instruction {code:#x} at {}", at - 1),
        };
        at += usize::from(if condition { instruction.jt } else { instruction.jf });
    }
    unreachable!()
}

/// What the kernel checks when a program is loaded (seccomp_check_filter, bpf_check_classic).
pub fn verify(program: &[sock_filter]) {
    assert!(!program.is_empty() && program.len() <= MAX_INSTRUCTIONS, "{} instructions", program.len());
    for (at, instruction) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match instruction.code {
            0x20 => {
                assert!(instruction.k < 64 && instruction.k % 4 == 0, "load of {} at {at}", instruction.k)
            }
            0x54 | 0x06 => {}
            0x05 => assert!((instruction.k as usize) < left, "jump out of the program at {at}"),
            0x15 | 0x25 | 0x35 | 0x45 => {
                assert!(
                    usize::from(instruction.jt.max(instruction.jf)) < left,
                    "jump out of the program at {at}"
                );
            }
            code => panic!("instruction {code:#x} at {at}"),
        }
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06), "the last instruction returns");
}

const SOCKETCALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];
const IPCS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The call that makes `name` too, with the mask and value of its first argument.
pub fn through(name: &str) -> Option<(&'static str, u64, u64)> {
    if let Some(at) = SOCKETCALLS.iter().position(|known| *known == name) {
        return Some(("socketcall", 0xffff_ffff, at as u64 + 1));
    }
    IPCS.iter().find(|(known, _)| *known == name).map(|(_, value)| ("ipc", 0xffff, *value))
}

/// A profile, read word for word: rules in their order, one after the other.
pub struct Reading<'a> {
    profile: &'a Profile<'a>,
    interfaces: HashMap<Architecture, Interface>,
}

/// A rule, and the mask and value of the first argument where the call is made through another.
type Entry = (usize, Option<(u64, u64)>);

#[derive(Default)]
struct Interface {
    /// By number.
    rules: HashMap<u32, Vec<Entry>>,
    newest: Option<u32>,
}

const ARM_PRIVATE: std::ops::Range<u32> = 0xf_0000..0xf_0010;

impl<'a> Reading<'a> {
    pub fn new(profile: &'a Profile<'a>, native: Architecture) -> Self {
        let mut interfaces = HashMap::new();
        for architecture in std::iter::once(native).chain(profile.architectures.iter().copied()) {
            interfaces.entry(architecture).or_insert_with(|| Interface::new(profile, architecture));
        }
        Self { profile, interfaces }
    }

    /// The value that a filter has to return.
    pub fn decide(&self, data: &Data) -> u32 {
        let matching: Vec<u32> = self.matching(data);
        matching.first().copied().unwrap_or_else(|| self.undecided(data))
    }

    /// The actions of all rules that hold, in order; only the first of a rule without conditions, if there is one.
    pub fn matching(&self, data: &Data) -> Vec<u32> {
        let Some((architecture, interface)) = self.interface(data) else { return Vec::new() };
        let rules = interface.rules.get(&data.number).map_or(&[][..], |rules| &rules[..]);
        let action = |at: usize| self.profile.rules[at].action.value();
        for (at, through) in rules {
            if through.is_none() && self.profile.rules[*at].conditions.is_empty() {
                return vec![action(*at)];
            }
        }
        let holds = |(at, through): &&Entry| match through {
            Some((mask, value)) => data.arguments[0] & mask == *value,
            None => rule_holds(&self.profile.rules[*at], architecture, &data.arguments),
        };
        rules.iter().filter(holds).map(|(at, _)| action(*at)).collect()
    }

    /// Some rule about this number looks at arguments.
    pub fn conditional(&self, architecture: Architecture, number: u32) -> bool {
        let rules = self.interfaces.get(&architecture).and_then(|interface| interface.rules.get(&number));
        let looks =
            |(at, through): &Entry| through.is_some() || !self.profile.rules[*at].conditions.is_empty();
        rules.is_some_and(|rules| rules.iter().any(looks))
    }

    fn interface(&self, data: &Data) -> Option<(Architecture, &Interface)> {
        let architecture = Architecture::ALL.into_iter().find(|architecture| {
            architecture.audit() == data.audit
                && match architecture {
                    Architecture::X32 => data.number >= 0x4000_0000,
                    // A number that a tracer has set to -1 is nobody's.
                    Architecture::X86_64 => data.number < 0x4000_0000,
                    _ => true,
                }
        })?;
        let found = self.interfaces.get(&architecture).map(|interface| (architecture, interface));
        if found.is_none() && architecture == Architecture::X32 && data.number == u32::MAX {
            let interface = self.interfaces.get(&Architecture::X86_64)?;
            return Some((Architecture::X86_64, interface));
        }
        found
    }

    fn undecided(&self, data: &Data) -> u32 {
        let Some((architecture, interface)) = self.interface(data) else {
            return Action::KillProcess.value();
        };
        let default = self.profile.default;
        let s390 = matches!(architecture, Architecture::S390 | Architecture::S390x);
        let newer = interface.newest.is_some_and(|newest| data.number > newest)
            && !(architecture == Architecture::Arm && ARM_PRIVATE.contains(&data.number));
        let zero = s390 && data.number == 0 && interface.newest.is_some();
        if (newer || zero) && !matches!(default, Action::Allow | Action::Log | Action::Trace(_)) {
            return Action::Errno(38).value();
        }
        default.value()
    }
}

impl Interface {
    fn new(profile: &Profile, architecture: Architecture) -> Self {
        let mut interface = Self::default();
        let mut first: HashMap<&str, usize> = HashMap::new();
        let newer = |interface: &mut Self, number: u32| {
            if architecture != Architecture::Arm || !ARM_PRIVATE.contains(&number) {
                interface.newest = interface.newest.max(Some(number));
            }
        };
        for (at, rule) in profile.rules.iter().enumerate() {
            for name in rule.names.iter() {
                let multiplexer = through(name).and_then(|(other, ..)| syscall_number(other, architecture));
                for number in [syscall_number(name, architecture), multiplexer].into_iter().flatten() {
                    newer(&mut interface, number);
                }
                if rule.action == profile.default {
                    continue;
                }
                if let Some(number) = syscall_number(name, architecture) {
                    interface.rules.entry(number).or_default().push((at, None));
                }
                if multiplexer.is_some() {
                    let decides = first.entry(name).or_insert(at);
                    if rule.conditions.is_empty() && !profile.rules[*decides].conditions.is_empty() {
                        *decides = at;
                    }
                }
            }
        }
        for (name, at) in first {
            if let Some((other, mask, value)) = through(name)
                && let Some(number) = syscall_number(other, architecture)
            {
                interface.rules.entry(number).or_default().push((at, Some((mask, value))));
            }
        }
        for rules in interface.rules.values_mut() {
            rules.sort();
        }
        interface
    }
}

fn rule_holds(rule: &Rule, architecture: Architecture, arguments: &[u64; 6]) -> bool {
    let twice =
        rule.conditions.iter().enumerate().any(|(at, condition)| {
            rule.conditions[..at].iter().any(|earlier| earlier.index == condition.index)
        });
    let mut holds =
        rule.conditions.iter().map(|condition| condition_holds(condition, architecture, arguments));
    if twice { holds.any(|holds| holds) } else { holds.all(|holds| holds) }
}

fn condition_holds(condition: &Condition, architecture: Architecture, arguments: &[u64; 6]) -> bool {
    use Architecture::*;
    let narrow = matches!(
        architecture,
        X86 | X32 | Arm | Mips | Mips64N32 | Mipsel | Mipsel64N32 | Ppc | S390 | Parisc | M68k | Sh | Sheb
    );
    let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
    let argument = cut(arguments[usize::from(condition.index)]);
    let (value, two) = (cut(condition.value), cut(condition.value_two));
    match condition.operator {
        Operator::NotEqual => argument != value,
        Operator::Less => argument < value,
        Operator::LessOrEqual => argument <= value,
        Operator::Equal => argument == value,
        Operator::GreaterOrEqual => argument >= value,
        Operator::Greater => argument > value,
        Operator::MaskedEqual => argument & value == two & value,
    }
}

/// `linux.seccomp` as JSON.
pub fn profile(json: &str) -> Profile<'static> {
    let json: Value = serde_json::from_str(json).unwrap();
    let errno = |value: &Value| value.as_u64().map(|errno| errno as u32);
    let action = |name: &Value, ret: &Value| Action::from_name(name.as_str().unwrap(), errno(ret)).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rules = list(&json["syscalls"]).into_iter().map(|rule| Rule {
        names: list(&rule["names"]).iter().map(|name| name.as_str().unwrap().into()).collect(),
        action: action(&rule["action"], &rule["errnoRet"]),
        conditions: list(&rule["args"])
            .iter()
            .map(|argument| Condition {
                index: argument["index"].as_u64().unwrap() as u8,
                operator: Operator::from_name(argument["op"].as_str().unwrap()).unwrap(),
                value: argument["value"].as_u64().unwrap(),
                value_two: argument["valueTwo"].as_u64().unwrap_or(0),
            })
            .collect(),
    });
    Profile {
        default: action(&json["defaultAction"], &json["defaultErrnoRet"]),
        architectures: list(&json["architectures"])
            .iter()
            .map(|name| Architecture::from_name(name.as_str().unwrap()).unwrap())
            .collect(),
        rules: rules.collect(),
        flags: Flags::ABSENT,
        strict: false,
    }
}

/// The fixture: what Docker's default profile says for amd64 with the default capabilities.
pub fn like_docker() -> Profile<'static> {
    profile(include_str!("../like-docker.json"))
}

/// Every number that a table may hold, and those at which something begins or ends.
pub fn numbers(architecture: Architecture) -> Vec<u32> {
    use Architecture::*;
    let base = match architecture {
        X32 => 0x4000_0000,
        Mips | Mipsel => 4000,
        Mips64 | Mipsel64 => 5000,
        Mips64N32 | Mipsel64N32 => 6000,
        _ => 0,
    };
    let borders =
        [0, 1, 0x3fff_ffff, 0x4000_0000, 0x4000_0400, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX];
    (base..base + 1030).chain(0xe_ffff..0xf_0012).chain(borders).collect()
}

/// Argument values around everything that the profile compares with.
pub fn interesting(profile: &Profile) -> Vec<u64> {
    let mut values = vec![0, 1, 21, 0x1_0015, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX];
    for condition in profile.rules.iter().flat_map(|rule| &rule.conditions) {
        for value in [condition.value, condition.value_two, condition.value & condition.value_two] {
            values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), !value, value ^ (1 << 32)]);
            values.extend([value & 0xffff_ffff, value.rotate_left(32), value | 1 << 63]);
        }
        // Inside and outside of a mask.
        values.extend([
            condition.value_two | !condition.value,
            condition.value_two ^ (condition.value & condition.value.wrapping_neg()),
        ]);
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Arguments that make the profile's conditions hold and fail, in combinations that depend on `seed`.
pub fn arguments(profile: &Profile, seed: u64, count: usize) -> Vec<[u64; 6]> {
    let values = interesting(profile);
    let mut state = seed | 1;
    let mut next = || {
        // xorshift: the same in each run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[(state >> 16) as usize % values.len()]
    };
    // Every value once in every position, then what comes.
    let every = values.iter().map(|value| [*value; 6]);
    let mut all: Vec<[u64; 6]> = every.collect();
    all.extend((0..count).map(|_| [(); 6].map(|()| next())));
    all
}

/// The numbers of all calls that the profile names, and their neighbours and borders.
pub fn mentioned(profile: &Profile, architecture: Architecture) -> Vec<u32> {
    let names = profile.rules.iter().flat_map(|rule| rule.names.iter().map(String::as_str));
    let names = names.chain(["socketcall", "ipc"]).filter_map(|name| syscall_number(name, architecture));
    let mut numbers: Vec<u32> =
        names.flat_map(|number| [number, number.wrapping_sub(1), number.wrapping_add(1)]).collect();
    numbers.extend([
        0,
        500,
        0xe_ffff,
        0xf_0000,
        0xf_000f,
        0xf_0010,
        0x3fff_ffff,
        0x4000_0000,
        0x4000_0400,
        u32::MAX,
    ]);
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Compiles and compares with the direct reading. Panics on a difference; true if the program was short enough.
pub fn agree(profile: &Profile, native: Architecture, arguments: &[[u64; 6]]) -> bool {
    let filter = match coracle_seccomp::compile(profile, native) {
        Ok(filter) => filter,
        Err(problems) => {
            assert!(problems.iter().all(|problem| problem.words.contains("instructions")), "{problems:?}");
            return false;
        }
    };
    verify(&filter.instructions);
    let reading = Reading::new(profile, native);
    let mut architectures = profile.architectures.clone();
    architectures.extend([native, Architecture::X86_64, Architecture::Sheb]);
    for architecture in architectures {
        for number in mentioned(profile, architecture) {
            for arguments in arguments {
                let data = Data::new(architecture, number, *arguments);
                let (got, expected) = (run(&filter.instructions, &data).value, reading.decide(&data));
                assert_eq!(
                    got,
                    expected,
                    "{got:#x} for {expected:#x}: {} {data:x?}\n{profile:?}",
                    architecture.name()
                );
            }
        }
    }
    true
}
