// SPDX-License-Identifier: MIT OR Apache-2.0
//! Profile → program.
//!
//! Owns which rule decides which call, and the order in which a program asks: architecture, number, arguments.
//! Writes no instruction itself. Comes from the profile and the tables; goes to program.rs and the caller.

use std::collections::HashSet;

use seccompiler::sock_filter;

use crate::architecture::{Architecture, X32_BASE};
use crate::arguments::{Clause, Conditions, Layout, clauses};
use crate::check::{check, notifies};
use crate::names::{MULTIPLEXED, Multiplexer, PRIVATE_SLOT, ROW_COUNT, Row, SLOT_COUNT, number_of};
use crate::profile::{Action, Condition, ENOSYS, Flags, Problem, Profile};
use crate::program::{Jump, MAX_INSTRUCTIONS, Program, Range, Target};

/// What seccomp(2) takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// At most [`MAX_INSTRUCTIONS`].
    pub instructions: Vec<sock_filter>,
    /// For `SECCOMP_SET_MODE_FILTER`: the profile's flags, and NEW_LISTENER if `notifies`.
    pub flags: u32,
    /// Some call waits for a listener; loading returns its descriptor.
    pub notifies: bool,
    /// Names in the profile that no architecture has, each once. Their rules have no effect.
    pub unknown: Vec<String>,
}

impl Filter {
    /// The instructions as `struct sock_fprog` points to them: eight bytes each, in this machine's order.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * 8);
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        bytes
    }
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Lowers `profile` for a machine whose own architecture is `native`. All problems are returned at once.
pub fn compile(profile: &Profile<'_>, native: Architecture) -> Result<Filter, Vec<Problem>> {
    let mut problems = check(profile);
    let calls = Calls::new(profile);
    if profile.strict {
        problems.extend(calls.unknown.iter().map(|(at, position, name)| Problem {
            place: format!("syscalls[{at}].names[{position}]"),
            words: format!("{name:?} is not a syscall of any architecture"),
        }));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let Some(instructions) = write(&calls, profile, native) else {
        let words =
            format!("the filter needs more than {MAX_INSTRUCTIONS} instructions, all that the kernel takes");
        return Err(vec![Problem { place: String::new(), words }]);
    };
    let notifies = notifies(profile);
    let mut told = HashSet::new();
    let unknown = calls.unknown.iter().map(|(_, _, name)| *name).filter(|name| told.insert(*name));
    let unknown = unknown.map(String::from).collect();
    Ok(Filter { instructions, flags: load_flags(profile.flags, notifies), notifies, unknown })
}

/// `SECCOMP_FILTER_FLAG_…` of linux/seccomp.h.
fn load_flags(flags: Flags, notifies: bool) -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    bit(flags.tsync, 1)
        | bit(flags.log, 2)
        | bit(flags.spec_allow, 4)
        | bit(notifies, 8)
        // Both TSYNC and NEW_LISTENER would return a number: a thread's id and a descriptor. TSYNC_ESRCH tells them apart.
        | bit(flags.tsync && notifies, 16)
        | bit(flags.wait_killable_recv, 32)
}

/// What the rules say of one name, by position in the profile.
#[derive(Clone, Default)]
struct Named {
    /// The first rule without conditions.
    always: Option<u32>,
    /// The rules with conditions, if none is without.
    sometimes: Vec<u32>,
    mentioned: bool,
}

/// What happens to a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Return(u32),
    /// An index of `Compiler::lists`.
    Clauses(usize),
}

/// The profile by name.
struct Calls<'a> {
    profile: &'a Profile<'a>,
    named: Vec<Named>,
    /// The rows that the profile mentions.
    used: Vec<Row>,
    /// Rule, position in it, name.
    unknown: Vec<(usize, usize, &'a str)>,
    default: u32,
    /// What happens to numbers above the newest that the profile mentions.
    newer: u32,
}

impl<'a> Calls<'a> {
    fn new(profile: &'a Profile<'a>) -> Self {
        let default = profile.default.value();
        let newer = match profile.default {
            Action::Allow | Action::Log | Action::Trace(_) => default,
            _ => Action::Errno(ENOSYS).value(),
        };
        let named = vec![Named::default(); ROW_COUNT];
        let used = Vec::with_capacity(ROW_COUNT);
        let mut calls = Self { profile, named, used, unknown: Vec::new(), default, newer };
        for (at, rule) in profile.rules.iter().enumerate() {
            // runc leaves such a rule out, so later rules decide.
            let repeats = rule.action == profile.default;
            for (position, name) in rule.names.iter().enumerate() {
                let Some(row) = Row::find(name) else {
                    calls.unknown.push((at, position, name));
                    continue;
                };
                let named = &mut calls.named[row.index()];
                if !named.mentioned {
                    named.mentioned = true;
                    calls.used.push(row);
                }
                if repeats || named.always.is_some() {
                    continue;
                }
                if rule.conditions.is_empty() {
                    named.always = Some(at as u32);
                    named.sometimes.clear();
                } else if named.sometimes.last() != Some(&(at as u32)) {
                    named.sometimes.push(at as u32);
                }
            }
        }
        calls
    }

    /// The profile mentions a call that `multiplexer` makes too.
    fn reached_through(&self, multiplexer: Multiplexer) -> bool {
        MULTIPLEXED
            .iter()
            .any(|(row, through, _)| *through == multiplexer && self.named[row.index()].mentioned)
    }

    fn action(&self, rule: u32) -> u32 {
        self.profile.rules[rule as usize].action.value()
    }

    /// A rule's clauses: one, or one per condition if it names an argument twice.
    fn clauses(&self, rule: u32) -> impl Iterator<Item = Clause<'a>> {
        let (conditions, action) = (&self.profile.rules[rule as usize].conditions[..], self.action(rule));
        let size = if twice(conditions) { 1 } else { conditions.len().max(1) };
        conditions
            .chunks(size)
            .map(move |conditions| Clause { conditions: Conditions::All(conditions), action })
    }
}

/// Two of the conditions are about one argument.
fn twice(conditions: &[Condition]) -> bool {
    let mut seen = 0u8;
    conditions.iter().any(|condition| {
        let bit = 1u8.checked_shl(u32::from(condition.index)).unwrap_or(0);
        let again = seen & bit != 0;
        seen |= bit;
        again
    })
}

struct Compiler<'a> {
    calls: &'a Calls<'a>,
    program: Program,
    /// The verdict on each row of the table.
    verdicts: Vec<Verdict>,
    lists: Vec<Vec<Clause<'a>>>,
}

fn write(calls: &Calls, profile: &Profile<'_>, native: Architecture) -> Option<Vec<sock_filter>> {
    let mut compiler = Compiler::new(calls);
    // Architectures that share an audit number are told apart by the syscall's number.
    let mut groups: Vec<(u32, Vec<Architecture>)> = Vec::new();
    for architecture in std::iter::once(native).chain(profile.architectures.iter().copied()) {
        match groups.iter_mut().find(|(audit, _)| *audit == architecture.audit()) {
            Some((_, group)) if group.contains(&architecture) => {}
            Some((_, group)) => group.push(architecture),
            None => groups.push((architecture.audit(), vec![architecture])),
        }
    }
    // Last first. The native block follows its test at once: it is the way that matters.
    let blocks: Vec<_> =
        groups.iter().skip(1).rev().map(|(audit, group)| (*audit, compiler.block(group))).collect();
    let mut target = Target::Return(Action::KillProcess.value());
    for (audit, block) in blocks {
        target = compiler.program.jump(Jump::Equal, audit, block, target);
    }
    if let Some((audit, group)) = groups.first() {
        let block = compiler.block(group);
        target = compiler.program.jump(Jump::Equal, *audit, block, target);
    }
    compiler.program.load(ARCHITECTURE, target);
    compiler.program.finish()
}

impl<'a> Compiler<'a> {
    fn new(calls: &'a Calls<'a>) -> Self {
        let mut verdicts = vec![Verdict::Return(calls.default); ROW_COUNT];
        let mut lists = Vec::new();
        // Names with the same rules share a list, and then one piece of the program.
        let mut shared: Vec<(&[u32], Verdict)> = Vec::new();
        for row in &calls.used {
            let named = &calls.named[row.index()];
            verdicts[row.index()] = match (named.always, &named.sometimes[..]) {
                (Some(rule), _) => Verdict::Return(calls.action(rule)),
                (None, []) => continue,
                (None, rules) => match shared.iter().find(|(known, _)| *known == rules) {
                    Some((_, verdict)) => *verdict,
                    None => {
                        lists.push(rules.iter().flat_map(|rule| calls.clauses(*rule)).collect());
                        shared.push((rules, Verdict::Clauses(lists.len() - 1)));
                        Verdict::Clauses(lists.len() - 1)
                    }
                },
            };
        }
        Self { calls, program: Program::new(), verdicts, lists }
    }

    /// What follows once the architecture is known: the number, then the arguments.
    fn block(&mut self, group: &[Architecture]) -> Target {
        let mut ranges: Vec<Range<u32>> = Vec::with_capacity(256);
        let killed = Target::Return(Action::KillProcess.value());
        if group.contains(&Architecture::X86_64) || group.contains(&Architecture::X32) {
            add(&mut ranges, 0, killed);
            let mut last = killed;
            if group.contains(&Architecture::X86_64) {
                last = self.numbers(Architecture::X86_64, &mut ranges);
            }
            add(&mut ranges, X32_BASE, killed);
            if group.contains(&Architecture::X32) {
                self.numbers(Architecture::X32, &mut ranges);
            } else {
                // What a tracer leaves of a call that it skips is no number of x32.
                add(&mut ranges, u32::MAX, last);
            }
        } else if let [architecture] = group {
            add(&mut ranges, 0, Target::Return(self.calls.default));
            self.numbers(*architecture, &mut ranges);
        }
        let target = self.program.search(&ranges);
        self.program.load(NUMBER, target)
    }

    /// Adds an architecture's numbers; returns where those above the newest go.
    fn numbers(&mut self, architecture: Architecture, ranges: &mut Vec<Range<u32>>) -> Target {
        let calls = self.calls;
        let mut slots = [Verdict::Return(calls.default); SLOT_COUNT];
        let mut taken = [false; SLOT_COUNT];
        // Numbers that several names lead to.
        let mut several = Vec::new();
        let mut newest = None;
        for row in &calls.used {
            let Some(slot) = row.slot(architecture) else { continue };
            if taken[slot] {
                several.push(slot);
            }
            taken[slot] = true;
            slots[slot] = self.verdicts[row.index()];
            if slot < PRIVATE_SLOT {
                newest = newest.max(Some(slot));
            }
        }
        for multiplexer in Multiplexer::ALL {
            if let Some(slot) = multiplexer.row().slot(architecture)
                && calls.reached_through(multiplexer)
            {
                several.push(slot);
                newest = newest.max(Some(slot));
            }
        }
        for slot in several {
            slots[slot] = self.several(architecture, slot);
        }

        let default = Target::Return(calls.default);
        let newer = if newest.is_some() { Target::Return(calls.newer) } else { default };
        let known = newest.map_or(0, |newest| newest + 1);
        let mut pieces = Vec::new();
        add(ranges, number_of(architecture, 0), default);
        for (slot, verdict) in slots.iter().enumerate().take(known) {
            let target = self.target(*verdict, architecture, &mut pieces);
            let unknown = slot == 0 && architecture.unknown_is_zero() && !taken[0];
            add(ranges, number_of(architecture, slot), if unknown { newer } else { target });
        }
        add(ranges, number_of(architecture, known), newer);
        if architecture == Architecture::Arm {
            for (slot, verdict) in slots.iter().enumerate().skip(PRIVATE_SLOT) {
                let target = self.target(*verdict, architecture, &mut pieces);
                add(ranges, number_of(architecture, slot), target);
            }
            add(ranges, number_of(architecture, SLOT_COUNT), newer);
        }
        newer
    }

    /// The verdict on a number that several names lead to, or a multiplexer's.
    fn several(&mut self, architecture: Architecture, slot: usize) -> Verdict {
        let calls = self.calls;
        let mut always: Option<u32> = None;
        let mut ordered: Vec<(u32, Clause)> = Vec::new();
        for row in calls.used.iter().filter(|row| row.slot(architecture) == Some(slot)) {
            let named = &calls.named[row.index()];
            always = [always, named.always].into_iter().flatten().min();
            for rule in &named.sometimes {
                ordered.extend(calls.clauses(*rule).map(|clause| (*rule, clause)));
            }
        }
        if let Some(rule) = always {
            return Verdict::Return(calls.action(rule));
        }
        for (row, multiplexer, value) in &MULTIPLEXED {
            let named = &calls.named[row.index()];
            if multiplexer.row().slot(architecture) == Some(slot)
                && let Some(rule) = named.always.or(named.sometimes.first().copied())
            {
                let conditions = Conditions::Call { mask: multiplexer.mask(), value: *value };
                ordered.push((rule, Clause { conditions, action: calls.action(rule) }));
            }
        }
        if ordered.is_empty() {
            return Verdict::Return(calls.default);
        }
        ordered.sort_by_key(|(rule, _)| *rule);
        self.lists.push(ordered.into_iter().map(|(_, clause)| clause).collect());
        Verdict::Clauses(self.lists.len() - 1)
    }

    /// Where a verdict is carried out; its clauses are written once per architecture.
    fn target(
        &mut self,
        verdict: Verdict,
        architecture: Architecture,
        pieces: &mut Vec<(usize, Target)>,
    ) -> Target {
        let list = match verdict {
            Verdict::Return(value) => return Target::Return(value),
            Verdict::Clauses(list) => list,
        };
        if let Some((_, target)) = pieces.iter().find(|(written, _)| *written == list) {
            return *target;
        }
        let layout = Layout { narrow: architecture.narrow(), big_endian: architecture.big_endian() };
        let otherwise = Target::Return(self.calls.default);
        let target = clauses(&mut self.program, layout, &self.lists[list], otherwise);
        pieces.push((list, target));
        target
    }
}

/// Continues ascending ranges: a start that is the last one's too replaces it, an equal target prolongs it.
fn add(ranges: &mut Vec<Range<u32>>, start: u32, target: Target) {
    if ranges.last().is_some_and(|(last, _)| *last == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, last)| *last != target) {
        ranges.push((start, target));
    }
}
