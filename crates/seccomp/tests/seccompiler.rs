// SPDX-License-Identifier: MIT OR Apache-2.0
//! Profiles of one action on x86_64, compiled by seccompiler too.
//!
//! Owns the translation into its types. Leaves out what it cannot say: other actions, architectures and names.
//! Comes from random profiles; its programs run in the same interpreter.
#![allow(clippy::unwrap_used, reason = "also in the functions that tests share")]

mod oracle;

use std::collections::BTreeMap;

use coracle_seccomp::{Action, Architecture, Condition, Operator, Profile, compile, syscall_number};
use oracle::{Data, arguments, mentioned, random, run};
use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

const NATIVE: Architecture = Architecture::X86_64;

fn condition(condition: &Condition) -> SeccompCondition {
    let operator = match condition.operator {
        Operator::NotEqual => SeccompCmpOp::Ne,
        Operator::Less => SeccompCmpOp::Lt,
        Operator::LessOrEqual => SeccompCmpOp::Le,
        Operator::Equal => SeccompCmpOp::Eq,
        Operator::GreaterOrEqual => SeccompCmpOp::Ge,
        Operator::Greater => SeccompCmpOp::Gt,
        Operator::MaskedEqual => SeccompCmpOp::MaskedEq(condition.value),
    };
    let value = match condition.operator {
        Operator::MaskedEqual => condition.value_two & condition.value,
        _ => condition.value,
    };
    SeccompCondition::new(condition.index, SeccompCmpArgLen::Qword, operator, value).unwrap()
}

fn theirs(profile: &Profile) -> BpfProgram {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    for rule in &profile.rules {
        for number in rule.names.iter().filter_map(|name| syscall_number(name, NATIVE)) {
            let chain = rules.entry(number.into()).or_default();
            if rule.conditions.is_empty() {
                always.push(i64::from(number));
            } else {
                chain.push(SeccompRule::new(rule.conditions.iter().map(condition).collect()).unwrap());
            }
        }
    }
    for number in always {
        rules.insert(number, vec![]);
    }
    SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, TargetArch::x86_64)
        .unwrap()
        .try_into()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn profiles_of_one_action_mean_what_seccompiler_makes_of_them(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut profile, _) = random::profile(&bytes);
        profile.default = Action::Errno(1);
        profile.architectures.clear();
        for rule in &mut profile.rules {
            rule.action = Action::Allow;
            let mut seen = 0;
            rule.conditions.retain(|condition| {
                let again = seen & (1 << condition.index) != 0;
                seen |= 1 << condition.index;
                !again
            });
        }
        let ours = compile(&profile, NATIVE).unwrap().instructions;
        let theirs = theirs(&profile);
        let newest = mentioned_newest(&profile);
        let mut samples = arguments(&profile, 5, 30);
        samples.drain(..samples.len() - 38);
        for number in mentioned(&profile, NATIVE).into_iter().filter(|number| *number <= newest) {
            for arguments in &samples {
                let data = Data::new(NATIVE, number, *arguments);
                let (ours, theirs) = (run(&ours, &data).value, run(&theirs, &data).value);
                prop_assert_eq!(ours, theirs, "{:x?} {:?}", data, profile);
            }
        }
    }
}

/// Above it, a filter says ENOSYS; seccompiler does not know that.
fn mentioned_newest(profile: &Profile) -> u32 {
    let names = profile.rules.iter().flat_map(|rule| rule.names.iter());
    names.filter_map(|name| syscall_number(name, NATIVE)).max().unwrap_or(0)
}
