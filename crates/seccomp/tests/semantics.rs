// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a profile means: one test per rule of lib.rs and of the spec.
#![allow(clippy::unwrap_used, reason = "also in the functions that tests share")]

mod oracle;

use coracle_seccomp::{
    Action, Architecture, Condition, Filter, Flags, MAX_INSTRUCTIONS, Operator, Problem, Profile, Rule,
    actions, architectures, compile, flags, operators, syscall_number,
};
use oracle::{Data, run, verify};

const NATIVE: Architecture = Architecture::X86_64;
const DENY: Action = Action::Errno(1);

fn condition(index: u8, operator: Operator, value: u64) -> Condition {
    Condition { index, operator, value, value_two: 0 }
}

fn rule(names: &str, action: Action, conditions: &[Condition]) -> Rule<'static> {
    Rule {
        names: names.split_whitespace().map(Into::into).collect(),
        action,
        conditions: conditions.to_vec(),
    }
}

fn profile(default: Action, rules: &[Rule<'static>]) -> Profile<'static> {
    Profile { default, architectures: vec![], rules: rules.to_vec(), flags: Flags::default(), strict: false }
}

fn on(architectures: &[Architecture], default: Action, rules: &[Rule<'static>]) -> Profile<'static> {
    Profile { architectures: architectures.to_vec(), ..profile(default, rules) }
}

fn filter(profile: &Profile, native: Architecture) -> Filter {
    let filter = compile(profile, native).unwrap();
    verify(&filter.instructions);
    filter
}

/// The words of the problems, each behind its place.
fn problems(profile: &Profile) -> Vec<String> {
    let words = |Problem { place, words }| format!("{place}: {words}");
    compile(profile, NATIVE).unwrap_err().into_iter().map(words).collect()
}

/// What the filter does with a call of `architecture`; arguments that are not given are 0.
fn call(filter: &Filter, architecture: Architecture, name: &str, arguments: &[u64]) -> u32 {
    let number =
        syscall_number(name, architecture).unwrap_or_else(|| panic!("{name} on {}", architecture.name()));
    numbered(filter, architecture, number, arguments)
}

fn numbered(filter: &Filter, architecture: Architecture, number: u32, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(&filter.instructions, &Data::new(architecture, number, all)).value
}

#[test]
fn every_action_and_several_errnos_in_one_filter() {
    let actions = [
        ("read", Action::Allow, 0x7fff_0000),
        ("openat", Action::Errno(13), 0x0005_000d),
        ("mount", Action::Errno(0), 0x0005_0000),
        ("umount2", Action::Errno(4095), 0x0005_0fff),
        ("ptrace", Action::KillProcess, 0x8000_0000),
        ("kexec_load", Action::KillThread, 0),
        ("reboot", Action::Trap, 0x0003_0000),
        ("getpid", Action::Trace(7), 0x7ff0_0007),
        ("getppid", Action::Log, 0x7ffc_0000),
        ("mkdir", Action::Notify, 0x7fc0_0000),
    ];
    let rules: Vec<Rule> = actions.iter().map(|(name, action, _)| rule(name, *action, &[])).collect();
    let filter = filter(&profile(DENY, &rules), NATIVE);
    for (name, _, value) in actions {
        assert_eq!(call(&filter, NATIVE, name, &[]), value, "{name}");
    }
    assert_eq!(call(&filter, NATIVE, "write", &[]), 0x0005_0001);
    assert!(filter.notifies);
}

#[test]
fn names_of_actions_and_their_errnos() {
    assert_eq!(Action::from_name("SCMP_ACT_ERRNO", None), Ok(Action::Errno(1)));
    assert_eq!(Action::from_name("SCMP_ACT_ERRNO", Some(0)), Ok(Action::Errno(0)));
    assert_eq!(Action::from_name("SCMP_ACT_TRACE", None), Ok(Action::Trace(1)));
    assert_eq!(Action::from_name("SCMP_ACT_TRACE", Some(65535)), Ok(Action::Trace(65535)));
    assert_eq!(Action::from_name("SCMP_ACT_KILL", None), Ok(Action::KillThread));
    assert!(Action::from_name("SCMP_ACT_TRACE", Some(65536)).is_err());
    assert!(Action::from_name("SCMP_ACT_ALLOWED", None).is_err());
    for name in actions() {
        let without = Action::from_name(name, None).unwrap();
        assert_eq!(without.name(), if name == "SCMP_ACT_KILL" { "SCMP_ACT_KILL_THREAD" } else { name });
        let with = Action::from_name(name, Some(5));
        assert_eq!(with.is_ok(), matches!(without, Action::Errno(_) | Action::Trace(_)), "{name}: {with:?}");
    }
    assert_eq!(
        Action::from_name("SCMP_ACT_ALLOW", Some(5)),
        Err("SCMP_ACT_ALLOW returns no errno, and 5 is given".into())
    );
    assert_eq!(
        Action::from_name("SCMP_ACT_ERRNO", Some(4096)),
        Err("errno 4096 is more than 4095, the kernel's largest".into())
    );
}

#[test]
fn names_of_architectures_operators_and_flags() {
    assert_eq!(architectures().len(), 23);
    for architecture in Architecture::ALL {
        assert_eq!(Architecture::from_name(architecture.name()), Some(architecture));
    }
    assert_eq!(Architecture::from_name("SCMP_ARCH_SPARC"), None);
    assert_eq!(operators().len(), 7);
    assert!(operators().into_iter().all(|name| Operator::from_name(name).is_some()));
    assert_eq!(Operator::from_name("SCMP_CMP_XX"), None);
    let mut set = Flags::default();
    assert!(flags().into_iter().all(|name| set.set(name)));
    assert_eq!(set, Flags { tsync: true, log: true, spec_allow: true, wait_killable_recv: true });
    assert!(!set.set("SECCOMP_FILTER_FLAG_NEW_LISTENER"));
}

#[test]
fn operators_compare_both_halves() {
    let value = 0x5_0000_0007;
    let samples = [
        0,
        6,
        7,
        8,
        0x4_ffff_ffff,
        0x5_0000_0006,
        value,
        0x5_0000_0008,
        0x6_0000_0000,
        0x6_0000_0007,
        u64::MAX,
    ];
    for operator in operators().into_iter().map(|name| Operator::from_name(name).unwrap()) {
        let one = Condition { index: 5, operator, value, value_two: 0x4_ffff_0003 };
        let filter = filter(&profile(DENY, &[rule("read", Action::Allow, &[one])]), NATIVE);
        for argument in samples {
            let expected = match operator {
                Operator::NotEqual => argument != value,
                Operator::Less => argument < value,
                Operator::LessOrEqual => argument <= value,
                Operator::Equal => argument == value,
                Operator::GreaterOrEqual => argument >= value,
                Operator::Greater => argument > value,
                Operator::MaskedEqual => argument & value == 0x4_0000_0003,
            };
            let got = call(&filter, NATIVE, "read", &[0, 0, 0, 0, 0, argument]) == 0x7fff_0000;
            assert_eq!(got, expected, "{operator:?} {argument:#x}");
        }
    }
}

#[test]
fn conditions_of_a_rule_are_all_needed() {
    let both = [condition(0, Operator::Equal, 1), condition(2, Operator::Greater, 9)];
    let filter = filter(&profile(DENY, &[rule("read", Action::Allow, &both)]), NATIVE);
    assert_eq!(call(&filter, NATIVE, "read", &[1, 0, 10]), 0x7fff_0000);
    assert_eq!(call(&filter, NATIVE, "read", &[1, 0, 9]), 0x0005_0001);
    assert_eq!(call(&filter, NATIVE, "read", &[2, 0, 10]), 0x0005_0001);
}

#[test]
fn an_argument_named_twice_makes_each_condition_a_rule() {
    let three = [
        condition(0, Operator::Equal, 1),
        condition(1, Operator::Equal, 5),
        condition(0, Operator::Equal, 2),
    ];
    let filter = filter(&profile(DENY, &[rule("read", Action::Allow, &three)]), NATIVE);
    for (arguments, allowed) in [([1, 0], true), ([2, 0], true), ([9, 5], true), ([9, 9], false)] {
        assert_eq!(call(&filter, NATIVE, "read", &arguments) == 0x7fff_0000, allowed, "{arguments:?}");
    }
}

#[test]
fn the_first_rule_without_conditions_decides() {
    let one = [condition(0, Operator::Equal, 1)];
    let (allow, errno) = (Action::Allow, Action::Errno(5));
    for rules in [
        [rule("read", allow, &[]), rule("read", errno, &[])],
        [rule("read", allow, &[]), rule("read", errno, &one)],
        [rule("read", errno, &one), rule("read", allow, &[])],
    ] {
        let filter = filter(&profile(DENY, &rules), NATIVE);
        assert_eq!(call(&filter, NATIVE, "read", &[1]), 0x7fff_0000, "{rules:?}");
    }
}

#[test]
fn the_first_rule_whose_conditions_hold_decides() {
    let below = rule("read", Action::Errno(5), &[condition(0, Operator::Less, 10)]);
    let three = rule("read", Action::Allow, &[condition(0, Operator::Equal, 3)]);
    let other = rule("read", Action::Log, &[condition(1, Operator::Equal, 3)]);
    let forward = filter(&profile(DENY, &[below.clone(), three.clone(), other.clone()]), NATIVE);
    assert_eq!(call(&forward, NATIVE, "read", &[3, 3]), 0x0005_0005);
    assert_eq!(call(&forward, NATIVE, "read", &[10, 3]), 0x7ffc_0000);
    let backward = filter(&profile(DENY, &[other, three, below]), NATIVE);
    assert_eq!(call(&backward, NATIVE, "read", &[3, 3]), 0x7ffc_0000);
    assert_eq!(call(&backward, NATIVE, "read", &[3, 0]), 0x7fff_0000);
    assert_eq!(call(&backward, NATIVE, "read", &[2, 0]), 0x0005_0005);
}

#[test]
fn a_rule_that_repeats_the_default_action_is_ignored() {
    let rules = [rule("read", DENY, &[]), rule("read", Action::Allow, &[condition(0, Operator::Equal, 3)])];
    let filter = filter(&profile(DENY, &rules), NATIVE);
    assert_eq!(call(&filter, NATIVE, "read", &[3]), 0x7fff_0000);
}

#[test]
fn an_architecture_that_is_not_named_is_killed() {
    let read = [rule("read", Action::Log, &[])];
    let filter = filter(&on(&[Architecture::X86], Action::Allow, &read), NATIVE);
    for architecture in Architecture::ALL {
        let named = matches!(architecture, Architecture::X86_64 | Architecture::X86);
        let got = call(&filter, architecture, "read", &[]);
        assert_eq!(got, if named { 0x7ffc_0000 } else { 0x8000_0000 }, "{}", architecture.name());
    }
}

#[test]
fn the_native_architecture_needs_no_name() {
    for native in Architecture::ALL {
        let filter = filter(&profile(Action::Trap, &[rule("read", Action::Allow, &[])]), native);
        assert_eq!(call(&filter, native, "read", &[]), 0x7fff_0000, "{}", native.name());
    }
}

#[test]
fn x32_is_killed_unless_named() {
    // A list of what is denied must not be evaded with the other numbers of the same calls.
    let rules = [rule("mount", Action::Errno(1), &[])];
    let without = filter(&profile(Action::Allow, &rules), NATIVE);
    assert_eq!(call(&without, Architecture::X32, "mount", &[]), 0x8000_0000);
    assert_eq!(numbered(&without, NATIVE, 0x4000_0000, &[]), 0x8000_0000);
    assert_eq!(numbered(&without, NATIVE, 0x3fff_ffff, &[]), 0x7fff_0000);
    // -1 is what a tracer leaves of a call that is not to be made.
    assert_eq!(numbered(&without, NATIVE, u32::MAX, &[]), 0x7fff_0000);
    let with = filter(&on(&[Architecture::X32], Action::Allow, &rules), NATIVE);
    assert_eq!(call(&with, Architecture::X32, "mount", &[]), 0x0005_0001);
    assert_eq!(call(&with, Architecture::X32, "read", &[]), 0x7fff_0000);
    // x32 has numbers of its own for some calls: execve's of x86_64, with the bit, is none of them.
    assert_eq!(syscall_number("execve", Architecture::X32), Some(0x4000_0000 + 520));
}

#[test]
fn narrow_architectures_compare_lower_halves() {
    let rules = [rule("fchown", Action::Allow, &[condition(1, Operator::Equal, 0xffff_ffff_ffff_ffff)])];
    for (architecture, argument, allowed) in [
        (Architecture::X86_64, 0xffff_ffff, false),
        (Architecture::X86_64, u64::MAX, true),
        (Architecture::X86, 0xffff_ffff, true),
        (Architecture::X32, 0xffff_ffff, true),
        (Architecture::X32, 0x5_ffff_ffff, true),
        (Architecture::X32, 0xffff_fffe, false),
    ] {
        let filter = filter(&on(&[Architecture::X86, Architecture::X32], DENY, &rules), NATIVE);
        let got = call(&filter, architecture, "fchown", &[0, argument]) == 0x7fff_0000;
        assert_eq!(got, allowed, "{} {argument:#x}", architecture.name());
    }
}

#[test]
fn big_endian_arguments_have_their_upper_half_first() {
    let rules = [rule("read", Action::Allow, &[condition(0, Operator::Equal, 0x1_0000_0002)])];
    for architecture in [Architecture::S390x, Architecture::Ppc64, Architecture::Ppc64le] {
        let filter = filter(&profile(DENY, &rules), architecture);
        assert_eq!(call(&filter, architecture, "read", &[0x1_0000_0002]), 0x7fff_0000);
        assert_eq!(call(&filter, architecture, "read", &[0x2_0000_0001]), 0x0005_0001);
    }
}

#[test]
fn socketcall_and_ipc_follow_the_calls_that_they_make() {
    let deny = on(
        &[Architecture::X86],
        Action::Allow,
        &[
            rule("socket", Action::Errno(5), &[condition(0, Operator::Equal, 40)]),
            rule("shmat", Action::Errno(6), &[]),
        ],
    );
    let filter = filter(&deny, NATIVE);
    let x86 = Architecture::X86;
    assert_eq!(call(&filter, x86, "socketcall", &[1, 0xdead]), 0x0005_0005);
    assert_eq!(call(&filter, x86, "socketcall", &[0x7_0000_0001]), 0x0005_0005, "the kernel takes an int");
    assert_eq!(call(&filter, x86, "socketcall", &[2]), 0x7fff_0000);
    assert_eq!(call(&filter, x86, "socket", &[2]), 0x7fff_0000);
    assert_eq!(call(&filter, x86, "ipc", &[21]), 0x0005_0006);
    assert_eq!(call(&filter, x86, "ipc", &[0x1_0015]), 0x0005_0006, "the upper half is a version");
    assert_eq!(call(&filter, x86, "ipc", &[22]), 0x7fff_0000);
    assert_eq!(call(&filter, NATIVE, "shmat", &[]), 0x0005_0006);
}

#[test]
fn a_rule_for_socketcall_itself_decides() {
    let rules = [rule("socket", Action::Errno(5), &[]), rule("socketcall", Action::Allow, &[])];
    let filter = filter(&on(&[Architecture::X86], Action::Log, &rules), NATIVE);
    assert_eq!(call(&filter, Architecture::X86, "socketcall", &[1]), 0x7fff_0000);
}

#[test]
fn newer_calls_than_the_profile_knows_get_enosys() {
    let rules = [rule("read openat2", Action::Allow, &[]), rule("chown32", DENY, &[])];
    for default in [DENY, Action::KillProcess, Action::KillThread, Action::Trap] {
        let filter = filter(&on(&[Architecture::X86], default, &rules), NATIVE);
        assert_eq!(call(&filter, NATIVE, "write", &[]), default.value());
        assert_eq!(call(&filter, NATIVE, "pidfd_getfd", &[]), 0x0005_0026, "438 is above openat2's 437");
        assert_eq!(call(&filter, Architecture::X86, "pidfd_getfd", &[]), 0x0005_0026);
        assert_eq!(numbered(&filter, NATIVE, 100_000, &[]), 0x0005_0026);
    }
    for default in [Action::Log, Action::Trace(1), Action::Errno(38)] {
        let filter = filter(&profile(default, &rules), NATIVE);
        assert_eq!(call(&filter, NATIVE, "pidfd_getfd", &[]), default.value());
    }
}

#[test]
fn newer_is_newer_on_each_architecture() {
    // chown32 exists on x86 only; its rule says what the default says, and still the profile knows the call.
    let filter = filter(&on(&[Architecture::X86], DENY, &[rule("chown32", DENY, &[])]), NATIVE);
    assert_eq!(numbered(&filter, Architecture::X86, 212, &[]), 0x0005_0001);
    assert_eq!(numbered(&filter, Architecture::X86, 213, &[]), 0x0005_0026);
    assert_eq!(numbered(&filter, NATIVE, 400, &[]), 0x0005_0001, "the profile knows no call of x86_64");
}

#[test]
fn private_calls_of_arm_are_not_newer() {
    let filter = filter(&profile(DENY, &[rule("read set_tls", Action::Allow, &[])]), Architecture::Arm);
    assert_eq!(numbered(&filter, Architecture::Arm, 0xf_0005, &[]), 0x7fff_0000);
    assert_eq!(numbered(&filter, Architecture::Arm, 0xf_0002, &[]), 0x0005_0001);
    assert_eq!(numbered(&filter, Architecture::Arm, 4, &[]), 0x0005_0026);
}

#[test]
fn number_zero_of_s390_is_an_unknown_one() {
    let filter = filter(&profile(DENY, &[rule("read", Action::Allow, &[])]), Architecture::S390x);
    assert_eq!(numbered(&filter, Architecture::S390x, 0, &[]), 0x0005_0026);
    assert_eq!(numbered(&filter, Architecture::S390x, 1, &[]), 0x0005_0001);
}

#[test]
fn unknown_names_are_listed_or_refused() {
    let rules = [
        rule("read nosuchcall", Action::Allow, &[]),
        rule("nosuchcall other riscv_hwprobe", Action::Allow, &[]),
    ];
    let mut profile = profile(DENY, &rules);
    assert_eq!(filter(&profile, NATIVE).unknown, ["nosuchcall", "other"]);
    profile.strict = true;
    assert_eq!(
        problems(&profile),
        [
            r#"syscalls[0].names[1]: "nosuchcall" is not a syscall of any architecture"#,
            r#"syscalls[1].names[0]: "nosuchcall" is not a syscall of any architecture"#,
            r#"syscalls[1].names[1]: "other" is not a syscall of any architecture"#,
        ]
    );
}

#[test]
fn notify_on_write_or_as_the_default_is_refused() {
    let write = [condition(0, Operator::Equal, 1)];
    let found = problems(&profile(Action::Notify, &[rule("read write", Action::Notify, &write)]));
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("defaultAction: SCMP_ACT_NOTIFY would"), "{found:?}");
    assert!(found[1].starts_with("syscalls[0].action: SCMP_ACT_NOTIFY on write: "), "{found:?}");
}

#[test]
fn all_problems_are_told_at_once() {
    let profile = Profile {
        flags: Flags { wait_killable_recv: true, ..Flags::default() },
        ..profile(
            Action::Errno(4096),
            &[
                rule("", Action::Errno(5000), &[]),
                rule("read", Action::Allow, &[condition(6, Operator::Equal, 1)]),
            ],
        )
    };
    assert_eq!(
        problems(&profile),
        [
            "defaultErrnoRet: errno 4096 is more than 4095, the kernel's largest",
            "syscalls[0].names: is empty: the spec asks for one name at least",
            "syscalls[0].errnoRet: errno 5000 is more than 4095, the kernel's largest",
            "syscalls[1].args[0].index: 6 is more than 5, the last argument",
            "flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY: the kernel refuses it without",
        ]
    );
}

#[test]
fn flags_become_bits_and_none_is_dropped() {
    let all = Flags { tsync: true, log: true, spec_allow: true, wait_killable_recv: true };
    let notify = [rule("mkdir", Action::Notify, &[])];
    let bits = |flags: Flags, rules: &[Rule<'static>]| {
        filter(&Profile { flags, ..profile(DENY, rules) }, NATIVE).flags
    };
    assert_eq!(bits(all, &notify), 1 | 2 | 4 | 8 | 16 | 32);
    assert_eq!(bits(Flags { wait_killable_recv: false, ..all }, &[]), 1 | 2 | 4);
    assert_eq!(bits(Flags::default(), &notify), 8);
    assert_eq!(bits(Flags::ABSENT, &[]), 4);
}

#[test]
fn too_long_a_filter_is_an_error() {
    // Conditions on two arguments cannot be one search.
    let rules: Vec<Rule> = (0..10_000)
        .map(|at| {
            rule(
                "read",
                Action::Allow,
                &[condition(0, Operator::Equal, at), condition(1, Operator::Equal, at)],
            )
        })
        .collect();
    assert_eq!(
        problems(&profile(DENY, &rules)),
        [format!(": the filter needs more than {MAX_INSTRUCTIONS} instructions, all that the kernel takes")]
    );
}

#[test]
fn many_rules_are_few_instructions_where_they_say_one_thing() {
    let mut rules: Vec<Rule> =
        (0..10_000).map(|at| rule("read", Action::Allow, &[condition(0, Operator::Equal, at)])).collect();
    rules.extend(
        (0..10_000).map(|_| rule("getpid read getpid", Action::Allow, &[condition(0, Operator::Equal, 7)])),
    );
    let filter = filter(&profile(DENY, &rules), NATIVE);
    assert!(filter.instructions.len() < 40, "{}", filter.instructions.len());
    assert_eq!(call(&filter, NATIVE, "read", &[9_999]), 0x7fff_0000);
    assert_eq!(call(&filter, NATIVE, "read", &[10_000]), 0x0005_0001);
    assert_eq!(call(&filter, NATIVE, "getpid", &[7]), 0x7fff_0000);
}

#[test]
fn bytes_are_those_of_struct_sock_filter() {
    let filter = filter(&profile(DENY, &[]), NATIVE);
    let bytes = filter.bytes();
    assert_eq!(bytes.len(), filter.instructions.len() * 8);
    // BPF_LD | BPF_W | BPF_ABS of the architecture.
    assert_eq!(bytes[..8], [&0x20_u16.to_ne_bytes()[..], &[0, 0], &4_u32.to_ne_bytes()].concat());
}

#[test]
fn an_empty_profile_is_its_default_action() {
    let filter = filter(&profile(DENY, &[]), NATIVE);
    assert_eq!(call(&filter, NATIVE, "read", &[]), 0x0005_0001);
    assert_eq!(numbered(&filter, NATIVE, 100_000, &[]), 0x0005_0001);
}

#[test]
fn rules_about_one_argument_are_one_search_of_both_halves() {
    let value = |high: u64, low: u64| high << 32 | low;
    let rules = [
        rule("read", Action::Errno(2), &[condition(0, Operator::Equal, value(4, 4))]),
        rule("read", Action::Errno(3), &[condition(0, Operator::Equal, value(7, 0))]),
        rule("read", Action::Errno(4), &[condition(0, Operator::Less, 3)]),
        rule("read", Action::Errno(5), &[condition(0, Operator::LessOrEqual, value(2, 5))]),
        rule("read", Action::Errno(6), &[condition(0, Operator::GreaterOrEqual, value(6, 8))]),
        rule("read", Action::Errno(7), &[condition(0, Operator::Greater, u64::MAX - 2)]),
    ];
    let filter = filter(&profile(Action::Allow, &rules), NATIVE);
    for high in (0..10).chain([u64::from(u32::MAX)]) {
        for low in (0..10).chain([u64::from(u32::MAX) - 1, u64::from(u32::MAX)]) {
            let argument = value(high, low);
            let expected = match argument {
                _ if argument == value(4, 4) => 2,
                _ if argument == value(7, 0) => 3,
                0..3 => 4,
                _ if argument <= value(2, 5) => 5,
                _ if argument >= value(6, 8) => 6,
                _ => {
                    assert_eq!(
                        call(&filter, NATIVE, "read", &[argument]),
                        Action::Allow.value(),
                        "{argument:#x}"
                    );
                    continue;
                }
            };
            assert_eq!(call(&filter, NATIVE, "read", &[argument]), 0x0005_0000 | expected, "{argument:#x}");
        }
    }
    assert!(filter.instructions.len() < 32, "{}", filter.instructions.len());
}
