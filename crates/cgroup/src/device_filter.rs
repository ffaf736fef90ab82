// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device rules → the fewest that decide the same → a BPF program that the kernel asks about each access.
//!
//! Pure: never touches a cgroup or loads a program. Rules come from the plan; [`crate::devices`] takes the program
//! (cgroup2) or the simplified rules (v1) to the kernel.

use std::collections::HashSet;

use coracle_plan::{DeviceRule, DeviceRuleKind};
use coracle_sys::bpf::{Instruction, MAX_INSTRUCTIONS};

use crate::error::Error;

/// linux/bpf.h BPF_DEVCG_ACC_*.
pub(crate) const MKNOD: u8 = 1;
pub(crate) const READ: u8 = 2;
pub(crate) const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;
/// linux/bpf.h BPF_DEVCG_DEV_BLOCK; the other kind is characters.
const BLOCK: i32 = 1;

/// More rules would take seconds to simplify; Docker's default has twelve.
const MAX_RULES: usize = 4096;

/// A set of device numbers: one, all of a major or of a minor number, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Numbers {
    /// None is every one.
    pub(crate) major: Option<u32>,
    /// None is every one.
    pub(crate) minor: Option<u32>,
}

impl Numbers {
    pub(crate) fn covers(self, other: Numbers) -> bool {
        let field = |wide: Option<u32>, narrow| wide.is_none() || wide == narrow;
        field(self.major, other.major) && field(self.minor, other.minor)
    }

    /// What is in both.
    pub(crate) fn meet(self, other: Numbers) -> Option<Numbers> {
        let field = |one: Option<u32>, other: Option<u32>| match (one, other) {
            (Some(one), Some(other)) if one != other => None,
            _ => Some(one.or(other)),
        };
        Some(Numbers { major: field(self.major, other.major)?, minor: field(self.minor, other.minor)? })
    }

    /// As the kernel packs the numbers (MKDEV); None for more than one device.
    fn device(self) -> Option<u32> {
        Some(self.major? << 20 | self.minor?)
    }

    /// Device numbers have 12 and 20 bits: beyond, a rule speaks of no device.
    fn exist(self) -> bool {
        self.major.is_none_or(|major| major < 1 << 12) && self.minor.is_none_or(|minor| minor < 1 << 20)
    }
}

/// A rule for devices of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) allow: bool,
    pub(crate) numbers: Numbers,
    /// [`MKNOD`], [`READ`], [`WRITE`]; not empty.
    pub(crate) access: u8,
}

/// The rules in their order, for each kind of device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) block: Vec<Rule>,
    pub(crate) character: Vec<Rule>,
}

/// Leaves out the accesses of a rule, and the rules, that never decide or decide as the rest would.
/// `default_allow` is what holds where no rule is left.
pub(crate) fn simplify(rules: &[DeviceRule], default_allow: bool) -> Result<Rules, Error> {
    if rules.len() > MAX_RULES {
        return Err(limit(format!("{} are more than the {MAX_RULES} that can be enforced", rules.len())));
    }
    let mut split = Rules::default();
    // Nothing is allowed where nobody speaks, whatever the result is to rest on.
    let nothing = Numbers { major: None, minor: None };
    if default_allow {
        let deny_all = Rule { allow: false, numbers: nothing, access: ALL };
        split = Rules { block: vec![deny_all], character: vec![deny_all] };
    }
    for rule in rules {
        let numbers = Numbers { major: rule.major, minor: rule.minor };
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        let access =
            bit(rule.access.mknod, MKNOD) | bit(rule.access.read, READ) | bit(rule.access.write, WRITE);
        let one = Rule { allow: rule.allow, numbers, access };
        if access == 0 || !numbers.exist() {
            continue;
        }
        if rule.kind != DeviceRuleKind::Character {
            split.block.push(one);
        }
        if rule.kind != DeviceRuleKind::Block {
            split.character.push(one);
        }
    }
    drop_useless(&mut split.block, default_allow);
    drop_useless(&mut split.character, default_allow);
    Ok(split)
}

fn limit(rule: String) -> Error {
    Error::Limit { limit: "device rules".to_string(), rule }
}

fn drop_useless(rules: &mut Vec<Rule>, default_allow: bool) {
    let accesses = |rules: &[Rule]| rules.iter().map(|rule| rule.access.count_ones()).sum::<u32>();
    loop {
        let before = accesses(rules);
        for at in 0..rules.len() {
            for bit in [MKNOD, READ, WRITE] {
                if useless(rules, at, bit, default_allow)
                    && let Some(rule) = rules.get_mut(at)
                {
                    rule.access &= !bit;
                }
            }
        }
        rules.retain(|rule| rule.access != 0);
        // A rule that went may have been what kept another.
        if accesses(rules) == before {
            return;
        }
    }
}

/// Without this access of this rule, every device would be decided alike. Numbers are so many that only a single
/// rule covers another one, never several together.
fn useless(rules: &[Rule], at: usize, bit: u8, default_allow: bool) -> bool {
    let (earlier, rest) = rules.split_at(at);
    let Some((rule, later)) = rest.split_first() else { return false };
    if rule.access & bit == 0 {
        return false;
    }
    let spoken_later = |numbers| later.iter().any(|one| one.access & bit != 0 && one.numbers.covers(numbers));
    if spoken_later(rule.numbers) {
        return true;
    }
    for old in earlier.iter().rev().filter(|old| old.access & bit != 0) {
        let Some(both) = old.numbers.meet(rule.numbers) else { continue };
        if old.allow != rule.allow {
            if !spoken_later(both) {
                return false;
            }
        } else if both == rule.numbers {
            return true;
        }
    }
    rule.allow == default_allow
}

/// What the rules permit of one device.
fn permitted(rules: &[Rule], numbers: Numbers) -> u8 {
    let (mut undecided, mut permitted) = (ALL, 0);
    for rule in rules.iter().rev().filter(|rule| rule.numbers.covers(numbers)) {
        if rule.allow {
            permitted |= rule.access & undecided;
        }
        undecided &= !rule.access;
    }
    permitted
}

// The registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;
/// Accesses of the request that no rule has permitted yet.
const ACCESS: u8 = 5;
/// Major and minor number in one.
const DEVICE: u8 = 6;

// linux/bpf.h, linux/bpf_common.h: class | operation | source. The comparisons are those of 32 bits: a 64-bit one
// would extend the sign of a device number.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb4;
const SHIFT_LEFT: u8 = 0x64;
const SHIFT_RIGHT: u8 = 0x74;
const AND: u8 = 0x54;
const OR: u8 = 0x4c;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x16;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Block,
    Deny,
    Permit,
}

/// Instructions, and the jumps whose targets are not known yet.
#[derive(Default)]
struct Code {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
}

impl Code {
    fn push(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction { code, registers: destination | source << 4, offset, immediate });
    }

    fn jump(&mut self, code: u8, register: u8, constant: i32, target: Label) {
        self.jumps.push((self.instructions.len(), target));
        self.push(code, register, 0, 0, constant);
    }

    /// The label is here, at the next instruction. False when nothing jumps to it.
    fn land(&mut self, label: Label) -> bool {
        let here = self.instructions.len();
        let mut landed = false;
        for (from, _) in self.jumps.iter().filter(|(_, target)| *target == label) {
            if let Some(jump) = self.instructions.get_mut(*from) {
                // What is too far has too many instructions between, and is refused for that.
                jump.offset = i16::try_from(here - from - 1).unwrap_or(i16::MAX);
                landed = true;
            }
        }
        landed
    }
}

/// The program: reads kind, accesses and numbers of the request once, then asks the simplified rules from the last
/// to the first.
///
/// ```text
///     kind, major, minor, access, device ← request
///     kind is block? → block
///     rules for characters …; → deny
/// block:
///     rules for blocks …
/// deny:    0
/// permit:  1
/// ```
///
/// A rule for one device ends there, with all that the list says of this device. A rule for several takes the
/// accesses it permits out of the request, which is permitted when none is left; or refuses when one of its own is.
pub(crate) fn lower(rules: &[DeviceRule]) -> Result<Vec<Instruction>, Error> {
    let Rules { block, character } = simplify(rules, false)?;
    let mut code = Code::default();
    code.push(LOAD_WORD, KIND, CONTEXT, 0, 0);
    code.push(LOAD_WORD, MAJOR, CONTEXT, 4, 0);
    code.push(LOAD_WORD, MINOR, CONTEXT, 8, 0);
    code.push(MOVE, ACCESS, KIND, 0, 0);
    code.push(SHIFT_RIGHT, ACCESS, 0, 0, 16);
    code.push(AND, KIND, 0, 0, 0xffff);
    code.push(MOVE, DEVICE, MAJOR, 0, 0);
    code.push(SHIFT_LEFT, DEVICE, 0, 0, 20);
    code.push(OR, DEVICE, MINOR, 0, 0);
    code.jump(JUMP_EQUAL, KIND, BLOCK, Label::Block);
    section(&mut code, &character);
    code.land(Label::Block);
    section(&mut code, &block);
    // The jump to the next instruction is none.
    let last = code.instructions.len() - 1;
    let falls_through = code.jumps.pop_if(|jump| *jump == (last, Label::Deny)).is_some();
    if falls_through {
        code.instructions.pop();
    }
    // The verifier takes no instruction that cannot be reached: a result that no rule leads to is left out.
    for (label, result) in [(Label::Deny, 0), (Label::Permit, 1)] {
        if code.land(label) || (label == Label::Deny && falls_through) {
            code.push(MOVE_CONSTANT, RESULT, 0, 0, result);
            code.push(EXIT, 0, 0, 0, 0);
        }
    }
    match code.instructions.len() {
        0..=MAX_INSTRUCTIONS => Ok(code.instructions),
        count => Err(limit(format!(
            "{} rules need {count} instructions of BPF, more than the {MAX_INSTRUCTIONS} that a kernel takes",
            rules.len()
        ))),
    }
}

/// Ends with a jump in every case.
fn section(code: &mut Code, rules: &[Rule]) {
    let mut decided = HashSet::new();
    for rule in rules.iter().rev() {
        let verdict = if rule.allow { Label::Permit } else { Label::Deny };
        let condition = match rule.numbers {
            Numbers { major: Some(major), minor: None } => (MAJOR, major),
            Numbers { major: None, minor: Some(minor) } => (MINOR, minor),
            Numbers { major: None, minor: None } if rule.access == ALL => {
                return code.jump(JUMP, 0, 0, verdict);
            }
            Numbers { major: None, minor: None } => {
                undecided(code, rule);
                continue;
            }
            numbers => {
                let Some(device) = numbers.device() else { continue };
                if decided.insert(device) {
                    one_device(code, device.cast_signed(), permitted(rules, numbers));
                }
                continue;
            }
        };
        let (register, number) = (condition.0, condition.1.cast_signed());
        if rule.access == ALL {
            code.jump(JUMP_EQUAL, register, number, verdict);
        } else {
            let length = if rule.allow { 2 } else { 1 };
            code.push(JUMP_NOT_EQUAL, register, 0, length, number);
            undecided(code, rule);
        }
    }
    code.jump(JUMP, 0, 0, Label::Deny);
}

fn undecided(code: &mut Code, rule: &Rule) {
    if rule.allow {
        code.push(AND, ACCESS, 0, 0, i32::from(ALL & !rule.access));
        code.jump(JUMP_EQUAL, ACCESS, 0, Label::Permit);
    } else {
        code.jump(JUMP_ANY_BIT, ACCESS, i32::from(rule.access), Label::Deny);
    }
}

fn one_device(code: &mut Code, device: i32, permitted: u8) {
    match permitted {
        ALL => code.jump(JUMP_EQUAL, DEVICE, device, Label::Permit),
        0 => code.jump(JUMP_EQUAL, DEVICE, device, Label::Deny),
        some => {
            code.push(JUMP_NOT_EQUAL, DEVICE, 0, 2, device);
            code.jump(JUMP_ANY_BIT, ACCESS, i32::from(ALL & !some), Label::Deny);
            code.jump(JUMP, 0, 0, Label::Permit);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use coracle_plan::DeviceAccess;

    use super::*;

    /// One that a process makes: kind as in the kernel's request, numbers, accesses.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Request {
        pub(crate) block: bool,
        pub(crate) major: u32,
        pub(crate) minor: u32,
        pub(crate) access: u8,
    }

    /// xorshift64: the same lists in each run.
    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        pub(crate) fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 20) as usize % end
        }

        fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
            list[self.below(list.len())]
        }

        pub(crate) fn rule(&mut self) -> DeviceRule {
            let kind = match self.below(5) {
                0 => DeviceRuleKind::All,
                1 => DeviceRuleKind::Block,
                _ => DeviceRuleKind::Character,
            };
            // The largest numbers, and ones that no device has, besides a few that meet often.
            let majors = [None, Some(1), Some(1), Some(2), Some(4095), Some(4096)];
            let minors = [None, Some(0), Some(1), Some(1), Some(0xf_ffff), Some(0x10_0000)];
            rule(
                self.below(2) == 0,
                kind,
                self.one_of(&majors),
                self.one_of(&minors),
                self.one_of(&[0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]),
            )
        }

        pub(crate) fn rules(&mut self) -> Vec<DeviceRule> {
            let first = rule(self.below(4) == 0, DeviceRuleKind::All, None, None, ALL);
            let count = self.below(10);
            std::iter::once(first).chain((0..count).map(|_| self.rule())).collect()
        }
    }

    pub(crate) fn rule(
        allow: bool,
        kind: DeviceRuleKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: u8,
    ) -> DeviceRule {
        let has = |bit| access & bit != 0;
        let access = DeviceAccess { read: has(READ), write: has(WRITE), mknod: has(MKNOD) };
        DeviceRule { allow, kind, major, minor, access }
    }

    /// `allow c 1:3 rwm`, one a line.
    pub(crate) fn list(text: &str) -> Vec<DeviceRule> {
        let one = |line: &str| {
            let words: Vec<&str> = line.split([' ', ':']).collect();
            let kind = match words[1] {
                "a" => DeviceRuleKind::All,
                "b" => DeviceRuleKind::Block,
                _ => DeviceRuleKind::Character,
            };
            let bit = |letter, bit| if words[4].contains(letter) { bit } else { 0 };
            let access = bit('r', READ) | bit('w', WRITE) | bit('m', MKNOD);
            rule(words[0] == "allow", kind, words[2].parse().ok(), words[3].parse().ok(), access)
        };
        text.lines().map(|line| one(line.trim())).collect()
    }

    pub(crate) fn requests() -> Vec<Request> {
        let mut all = Vec::new();
        for block in [false, true] {
            for major in [0, 1, 2, 3, 4095] {
                for minor in [0, 1, 2, 0xf_ffff] {
                    all.extend((1..=ALL).map(|access| Request { block, major, minor, access }));
                }
            }
        }
        all
    }

    /// The definition, word for word: each access is decided by the last rule that speaks of it.
    pub(crate) fn by_the_list(rules: &[DeviceRule], request: Request) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| request.access & bit != 0).all(|bit| {
            let speaks = |rule: &&DeviceRule| {
                let kind = match rule.kind {
                    DeviceRuleKind::All => true,
                    DeviceRuleKind::Block => request.block,
                    DeviceRuleKind::Character => !request.block,
                };
                let number = |number: Option<u32>, value| number.is_none_or(|number| number == value);
                let access = match bit {
                    MKNOD => rule.access.mknod,
                    READ => rule.access.read,
                    _ => rule.access.write,
                };
                kind && number(rule.major, request.major) && number(rule.minor, request.minor) && access
            };
            rules.iter().rev().find(speaks).is_some_and(|rule| rule.allow)
        })
    }

    /// The kernel's interpreter, as far as these programs need it. Panics on what it does not know.
    fn run(program: &[Instruction], request: Request) -> bool {
        let kind = if request.block { 1 } else { 2 };
        let context = [u32::from(request.access) << 16 | kind, request.major, request.minor];
        let mut registers: [Option<u32>; 7] = [None; 7];
        let mut at = 0usize;
        loop {
            let Instruction { code, registers: names, offset, immediate } = program[at];
            let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
            let (value, constant) = (registers[to], immediate as u32);
            let mut jump = false;
            at += 1;
            match code {
                LOAD_WORD => {
                    assert_eq!((names >> 4, offset % 4), (CONTEXT, 0));
                    registers[to] = Some(context[offset as usize / 4]);
                }
                MOVE => registers[to] = Some(registers[from].unwrap()),
                MOVE_CONSTANT => registers[to] = Some(constant),
                SHIFT_LEFT => registers[to] = Some(value.unwrap() << constant),
                SHIFT_RIGHT => registers[to] = Some(value.unwrap() >> constant),
                AND => registers[to] = Some(value.unwrap() & constant),
                OR => registers[to] = Some(value.unwrap() | registers[from].unwrap()),
                JUMP => jump = true,
                JUMP_EQUAL => jump = value.unwrap() == constant,
                JUMP_NOT_EQUAL => jump = value.unwrap() != constant,
                JUMP_ANY_BIT => jump = value.unwrap() & constant != 0,
                EXIT => return registers[0].unwrap() == 1,
                other => panic!("instruction {other:#x}"),
            }
            if jump {
                assert!(offset >= 0, "no loops");
                at += offset as usize;
            }
        }
    }

    /// None where the caller may not load programs.
    fn verify(program: &[Instruction]) -> Option<Result<(), i32>> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let loaded = coracle_sys::bpf::load_device_program(program, c"test", c"MIT OR Apache-2.0");
        Some(loaded.map(drop).map_err(|errno| errno.0))
    }

    pub(crate) const DOCKER: &str = "\
        deny a *:* rwm
        allow c 1:5 rwm
        allow c 1:3 rwm
        allow c 1:9 rwm
        allow c 1:8 rwm
        allow c 5:0 rwm
        allow c 5:1 rwm
        deny c 10:229 rwm
        allow c *:* m
        allow b *:* m
        allow c 1:7 rwm
        allow c 136:* rwm
        allow c 5:2 rwm";

    #[test]
    fn programs_decide_as_the_list_does_and_the_verifier_takes_them() {
        if verify(&lower(&[]).unwrap()).is_none() {
            eprintln!("skip: the kernel's verifier needs root");
        }
        let (mut random, requests) = (Random(0x9e37_79b9_7f4a_7c15), requests());
        for number in 0..2000 {
            let rules = random.rules();
            let program = lower(&rules).unwrap();
            for request in &requests {
                let expected = by_the_list(&rules, *request);
                assert_eq!(run(&program, *request), expected, "{request:?} of {rules:#?}\n{program:#?}");
            }
            if number % 4 == 0 {
                assert!(matches!(verify(&program), None | Some(Ok(()))), "{rules:#?}\n{program:#?}");
            }
        }
    }

    #[test]
    fn simplified_rules_decide_as_the_list_does() {
        let (mut random, requests) = (Random(7), requests());
        for _ in 0..1500 {
            let rules = random.rules();
            for default_allow in [false, true] {
                let simple = simplify(&rules, default_allow).unwrap();
                assert!(simple.block.len() + simple.character.len() <= 2 * rules.len() + 2);
                for request in &requests {
                    let (kind, rest) = match request.block {
                        true => (&simple.block, DeviceRuleKind::Block),
                        false => (&simple.character, DeviceRuleKind::Character),
                    };
                    let default = rule(default_allow, rest, None, None, ALL);
                    let back = kind
                        .iter()
                        .map(|one| rule(one.allow, rest, one.numbers.major, one.numbers.minor, one.access));
                    let back: Vec<DeviceRule> = std::iter::once(default).chain(back).collect();
                    let expected = by_the_list(&rules, *request);
                    assert_eq!(
                        by_the_list(&back, *request),
                        expected,
                        "{request:?} of {rules:#?}\n{back:#?}"
                    );
                }
            }
        }
    }

    #[test]
    fn rules_that_cannot_decide_are_left_out() {
        let left = |text: &str, default| {
            let rules = simplify(&list(text), default).unwrap();
            let show = |kind: char, rules: Vec<Rule>| {
                let one = move |rule: &Rule| {
                    let number =
                        |number: Option<u32>| number.map_or("*".to_string(), |number| number.to_string());
                    let sign = if rule.allow { '+' } else { '-' };
                    format!(
                        "{sign}{kind} {}:{} {}",
                        number(rule.numbers.major),
                        number(rule.numbers.minor),
                        rule.access
                    )
                };
                rules.iter().map(one).collect::<Vec<_>>()
            };
            show('b', rules.block)
                .into_iter()
                .chain(show('c', rules.character))
                .collect::<Vec<_>>()
                .join(", ")
        };
        for (text, default, expected) in [
            ("deny a *:* rwm", false, ""),
            ("deny a *:* rwm", true, "-b *:* 7, -c *:* 7"),
            ("allow a *:* rwm", true, ""),
            ("deny a *:* rwm\nallow c 1:3 rw\nallow c 1:3 r", false, "+c 1:3 4, +c 1:3 2"),
            ("deny a *:* rwm\nallow c 1:3 rwm\nallow c 1:* rwm", false, "+c 1:* 7"),
            ("deny a *:* rwm\nallow c 1:* rwm\nallow c 1:3 rwm", false, "+c 1:* 7"),
            ("deny a *:* rwm\nallow c 1:3 rwm\ndeny c 1:3 rwm", false, ""),
            ("deny a *:* rwm\nallow c 1:3 rwm\ndeny c 1:3 w", false, "+c 1:3 3"),
            ("deny a *:* rwm\nallow c 1:* r\ndeny c *:3 r\nallow c 1:3 r", false, "+c 1:* 2"),
            ("deny a *:* rwm\nallow c *:* m\ndeny c 10:229 rwm", false, "+c *:* 1, -c 10:229 1"),
            ("allow a *:* rwm\ndeny a *:* rwm\nallow b 7:0 r", false, "+b 7:0 2"),
            ("deny a *:* rwm\nallow c 1:3 rwm\nallow a *:* rwm\ndeny c 1:5 w", true, "-c 1:5 4"),
            ("deny a *:* rwm\nallow c 4096:0 rwm\nallow b 1:1048576 r", false, ""),
        ] {
            assert_eq!(left(text, default), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        let size = |text: &str| lower(&list(text)).unwrap().len();
        assert_eq!(size(DOCKER), 30);
        assert_eq!(size("deny a *:* rwm"), 13);
        assert_eq!(size("allow a *:* rwm"), 14);
        assert_eq!(lower(&[]).unwrap().len(), 13);
    }

    /// The longest that are taken, in the shapes that cost the verifier most; and beyond.
    #[test]
    fn long_lists_load_and_longer_ones_are_refused_by_their_count() {
        let (both, character) = (DeviceRuleKind::All, DeviceRuleKind::Character);
        let deny_all = rule(false, both, None, None, ALL);
        let build = |count: u32, one: &dyn Fn(u32) -> DeviceRule| {
            std::iter::once(deny_all).chain((0..count).map(one)).collect::<Vec<_>>()
        };
        // What is decided by a device's own rule costs the verifier one look. Partial rules for many majors cost it
        // one for each pair of them: it may have had enough (E2BIG), which is an error of its own then.
        let exact = build(2020, &|n| rule(true, both, Some(1), Some(n), ALL));
        let partial = build(675, &|n| rule(true, both, Some(1), Some(n), READ));
        let majors = build(1350, &|n| rule(true, character, Some(n), None, READ));
        for (rules, refusal) in [(exact, None), (partial, None), (majors, Some(libc::E2BIG))] {
            let program = lower(&rules).unwrap();
            assert!(program.len() > 4000, "{}", program.len());
            match verify(&program) {
                None | Some(Ok(())) => {}
                Some(Err(errno)) => assert_eq!(Some(errno), refusal, "{} instructions", program.len()),
            }
        }
        let long = build(700, &|n| rule(true, both, Some(1), Some(n), READ));
        assert_eq!(
            lower(&long).unwrap_err().to_string(),
            "device rules: 701 rules need 4215 instructions of BPF, more than the 4096 that a kernel takes"
        );
        let longer = build(5000, &|n| rule(true, both, Some(1), Some(n), READ));
        assert_eq!(
            lower(&longer).unwrap_err().to_string(),
            "device rules: 5001 are more than the 4096 that can be enforced"
        );
    }
}
