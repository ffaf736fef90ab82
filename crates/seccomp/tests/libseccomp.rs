// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same profiles and names, asked of libseccomp.
//!
//! Owns the list of what may differ, each with its reason. Judges no meaning of its own. Comes from the fixture and
//! random profiles; a machine without python3 or libseccomp.so.2 skips these tests, and says so.
#![allow(clippy::unwrap_used, reason = "also in the functions that tests share")]

mod oracle;
mod peer;

use std::collections::HashSet;

use coracle_seccomp::{Action, Architecture, Operator, Profile, compile, sock_filter, syscall_number};
use oracle::{Data, Reading, arguments, like_docker, mentioned, numbers, random, run, through};
use serde_json::Value;

/// libseccomp 2.5 does not know the others.
const COMPARED: [Architecture; 19] = {
    use Architecture::*;
    [
        X86,
        X86_64,
        X32,
        Arm,
        Aarch64,
        Mips,
        Mips64,
        Mips64N32,
        Mipsel,
        Mipsel64,
        Mipsel64N32,
        Ppc,
        Ppc64,
        Ppc64le,
        S390,
        S390x,
        Parisc,
        Parisc64,
        Riscv64,
    ]
};

fn skipped(test: &str) -> bool {
    let missing = peer::missing();
    if let Some(reason) = &missing {
        eprintln!("skip: {test}: {reason}");
    }
    missing.is_some()
}

/// Every name of a header of the table that libseccomp has too has the same number there.
#[test]
fn numbers_are_those_of_libseccomp() {
    if skipped("numbers_are_those_of_libseccomp") {
        return;
    }
    let table = include_str!("../src/tables.rs");
    let names: Vec<&str> =
        table.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect();
    assert!(names.len() > 400, "{}", names.len());
    let architectures: Vec<&str> = COMPARED.iter().map(|architecture| architecture.name()).collect();
    let theirs = peer::numbers(&architectures, &names);
    let mut same = 0;
    let mut different = Vec::new();
    for name in &names {
        for architecture in COMPARED {
            let number = theirs[name][architecture.name()].as_i64().unwrap();
            let ours = syscall_number(name, architecture).map(i64::from);
            match (ours, number) {
                (Some(ours), theirs) if ours == theirs => same += 1,
                // Newer than this libseccomp, or made through another call.
                (_, ..0) => {}
                // The kernel's headers give it to 32-bit programs only.
                (None, 140) if *name == "_llseek" && architecture == Architecture::Parisc64 => {}
                _ => different
                    .push(format!("{name} on {}: {ours:?}, libseccomp {number}", architecture.name())),
            }
        }
    }
    eprintln!("{same} numbers are the same");
    assert!(same > 6000, "{same}");
    assert_eq!(different, [] as [&str; 0]);
}

#[test]
fn the_fixture_means_what_libseccomp_makes_of_it() {
    if skipped("the_fixture_means_what_libseccomp_makes_of_it") {
        return;
    }
    let native = Architecture::X86_64;
    let profile = like_docker();
    let numbers_there = their_numbers(&[&profile]);
    let profile = known(profile, native, &numbers_there);
    for optimize in [1, 2] {
        let theirs = peer::compile(&[peer::request(&profile, native, optimize)]).remove(0).unwrap().1;
        let mut comparison = Comparison::new(&profile, native);
        let samples = arguments(&profile, 3, 60);
        for architecture in [Architecture::X86_64, Architecture::X86, Architecture::X32, Architecture::Arm] {
            for number in numbers(architecture) {
                let few =
                    if comparison.reading.conditional(architecture, number) { samples.len() } else { 2 };
                for arguments in &samples[samples.len() - few..] {
                    comparison.compare(&theirs, &Data::new(architecture, number, *arguments));
                }
            }
        }
        assert_eq!((comparison.overlaps, comparison.different), (0, vec![]));
    }
}

/// One rule with conditions per name, none with an argument twice: what libseccomp gets right.
#[test]
fn random_profiles_mean_what_libseccomp_makes_of_them() {
    if skipped("random_profiles_mean_what_libseccomp_makes_of_them") {
        return;
    }
    let (compared, different) = random_profiles(1..=500, |profile| {
        let mut seen = HashSet::new();
        for rule in &mut profile.rules {
            let mut indices = HashSet::new();
            rule.conditions.retain(|condition| indices.insert(condition.index));
            for condition in &mut rule.conditions {
                // libseccomp does not give a mask of nothing, which always holds, up for a rule without conditions.
                condition.value |= u64::from(condition.operator == Operator::MaskedEqual);
            }
            rule.names.to_mut().retain(|name| rule.conditions.is_empty() || seen.insert(name.clone()));
        }
    });
    assert!(compared > 100_000, "{compared}");
    assert!(different.is_empty(), "{} of {compared}: {}", different.len(), different[0]);
}

/// Several rules per name. libseccomp 2.5 and 2.6 go wrong on some: after comparing a lower half they may compare it
/// with the next rule's upper half, without loading the other word (`LT 7` or `GE 0x3_0000_0003` then holds for 7).
/// So a difference counts only where the direct reading sides with libseccomp, and there must be few others.
#[test]
fn several_rules_per_call_mean_mostly_what_libseccomp_makes_of_them() {
    if skipped("several_rules_per_call_mean_mostly_what_libseccomp_makes_of_them") {
        return;
    }
    let (compared, different) = random_profiles(501..=900, |_| {});
    assert!(compared > 100_000, "{compared}");
    assert!(different.len() * 50 < compared, "{} of {compared}: {}", different.len(), different[0]);
}

/// Compares random profiles, changed by `shape`: how many calls were, and the differences that have no other reason.
fn random_profiles(seeds: std::ops::RangeInclusive<u64>, shape: fn(&mut Profile)) -> (usize, Vec<String>) {
    let mut cases = Vec::new();
    for seed in seeds {
        let (mut profile, mut native) = random::profile(&bytes(seed));
        if !COMPARED.contains(&native) || native == Architecture::X32 {
            native = Architecture::X86_64;
        }
        // A filter of libseccomp has one byte order.
        profile.architectures.retain(|other| COMPARED.contains(other) && little(*other) == little(native));
        shape(&mut profile);
        cases.push((profile, native, seed));
    }
    let numbers_there = their_numbers(&cases.iter().map(|(profile, ..)| profile).collect::<Vec<_>>());
    let cases: Vec<_> = cases
        .into_iter()
        .map(|(profile, native, seed)| (known(profile, native, &numbers_there), native, seed))
        .collect();
    let requests: Vec<_> = cases
        .iter()
        .map(|(profile, native, seed)| peer::request(profile, *native, 1 + (seed % 2) as u8))
        .collect();
    let (mut refused, mut broken, mut overlaps, mut calls, mut different) = (0, 0, 0, 0, Vec::new());
    for ((profile, native, seed), theirs) in cases.iter().zip(peer::compile(&requests)) {
        let theirs = match theirs {
            Ok((_, program)) => program,
            // One condition, two actions: libseccomp refuses what the first rule decides here.
            Err(error) if error.contains("File exists") => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("libseccomp: {error}\n{profile:?}"),
        };
        if number_lost(&theirs) {
            broken += 1;
            continue;
        }
        let mut comparison = Comparison::new(profile, *native);
        let mut samples = arguments(profile, *seed, 40);
        samples.drain(..samples.len() - 48);
        for architecture in profile.architectures.iter().copied().chain([*native, Architecture::Aarch64]) {
            for number in mentioned(profile, architecture) {
                for arguments in &samples {
                    comparison.compare(&theirs, &Data::new(architecture, number, *arguments));
                    calls += 1;
                }
            }
        }
        overlaps += comparison.overlaps;
        different.extend(comparison.different);
    }
    eprintln!(
        "{} profiles, {calls} calls: {refused} profiles refused and {broken} broken by libseccomp, {overlaps} calls where \
         rules overlap, {} different",
        cases.len(),
        different.len()
    );
    (calls, different)
}

/// libseccomp sometimes forgets to load the number, and then compares it with the architecture's.
fn number_lost(program: &[sock_filter]) -> bool {
    // For each instruction: it can be reached with the architecture loaded.
    let mut loaded = vec![false; program.len() + 1];
    for (at, instruction) in program.iter().enumerate() {
        match instruction.code {
            0x20 => loaded[at + 1] |= instruction.k == 4,
            0x05 => loaded[at + 1 + instruction.k as usize] |= loaded[at],
            0x15 | 0x25 | 0x35 | 0x45 if loaded[at] => {
                if !Architecture::ALL.iter().any(|architecture| architecture.audit() == instruction.k) {
                    return true;
                }
                loaded[at + 1 + usize::from(instruction.jt)] = true;
                loaded[at + 1 + usize::from(instruction.jf)] = true;
            }
            _ => {}
        }
    }
    false
}

struct Comparison<'a> {
    profile: &'a Profile<'a>,
    native: Architecture,
    ours: Vec<sock_filter>,
    reading: Reading<'a>,
    overlaps: usize,
    different: Vec<String>,
}

impl<'a> Comparison<'a> {
    fn new(profile: &'a Profile, native: Architecture) -> Self {
        let ours = compile(profile, native).unwrap().instructions;
        Self {
            profile,
            native,
            ours,
            reading: Reading::new(profile, native),
            overlaps: 0,
            different: Vec::new(),
        }
    }

    fn compare(&mut self, theirs: &[sock_filter], data: &Data) {
        let ours = run(&self.ours, data).value;
        let theirs = run(theirs, data).value;
        if ours == theirs {
            return;
        }
        // A foreign architecture: libseccomp kills the thread.
        if ours == Action::KillProcess.value() && theirs == Action::KillThread.value() && !self.named(data) {
            return;
        }
        let matching = self.reading.matching(data);
        // Newer than the profile: runc adds this to what libseccomp makes.
        if matching.is_empty() && ours == Action::Errno(38).value() && theirs == self.profile.default.value()
        {
            return;
        }
        // Several rules hold. libseccomp sorts them by argument and operator; here the first decides.
        if matching.iter().collect::<HashSet<_>>().len() > 1 && matching.contains(&theirs) {
            self.overlaps += 1;
            return;
        }
        if self.multiplexed(data) {
            return;
        }
        let expected = self.reading.decide(data);
        let words = format!(
            "{ours:#x}, libseccomp {theirs:#x}: {data:x?} native {}\n{:?}",
            self.native.name(),
            self.profile
        );
        assert_eq!(ours, expected, "{words}");
        self.different.push(words);
    }

    fn named(&self, data: &Data) -> bool {
        let x32 = data.audit == Architecture::X32.audit() && data.number >= 0x4000_0000;
        let named = self.profile.architectures.iter().copied().chain([self.native]);
        named.into_iter().any(|on| on.audit() == data.audit && x32 == (on == Architecture::X32))
    }

    /// socketcall and ipc: libseccomp compares all of their first argument, and keeps conditions on the others of a
    /// call that is made through them, although those are in memory.
    fn multiplexed(&self, data: &Data) -> bool {
        let made = Architecture::ALL.into_iter().filter(|on| on.audit() == data.audit).any(|on| {
            ["socketcall", "ipc"].into_iter().any(|name| syscall_number(name, on) == Some(data.number))
        });
        let kept = self.profile.rules.iter().any(|rule| {
            rule.conditions.iter().any(|condition| condition.index != 0)
                && rule.names.iter().any(|name| through(name).is_some())
        });
        made && (kept || data.arguments[0] > 0xffff)
    }
}

/// Without the names for which this libseccomp knows no number where there is one.
fn known<'a>(mut profile: Profile<'a>, native: Architecture, theirs: &Value) -> Profile<'a> {
    let on: Vec<Architecture> = profile.architectures.iter().copied().chain([native]).collect();
    let missing = |name: &str, on: &Architecture| {
        let made = through(name).is_some_and(|(by, ..)| syscall_number(by, *on).is_some());
        !made
            && syscall_number(name, *on).is_some()
            && theirs[name][on.name()].as_i64().is_none_or(|number| number < 0)
    };
    for rule in &mut profile.rules {
        rule.names.to_mut().retain(|name| !on.iter().any(|on| missing(name, on)));
    }
    profile.rules.retain(|rule| !rule.names.is_empty());
    profile
}

/// libseccomp's numbers for all names of a profile, on all architectures.
fn their_numbers(profiles: &[&Profile]) -> Value {
    let names: HashSet<&str> = profiles
        .iter()
        .flat_map(|profile| &profile.rules)
        .flat_map(|rule| rule.names.iter().map(String::as_str))
        .collect();
    peer::numbers(&COMPARED.map(Architecture::name), &Vec::from_iter(names))
}

fn little(architecture: Architecture) -> bool {
    architecture.audit() & 0x4000_0000 != 0
}

/// The same in each run.
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = 40 + seed as usize % 160;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
