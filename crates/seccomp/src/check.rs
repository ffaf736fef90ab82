// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a profile must not say.
//!
//! Owns the rules that hold before compiling. Changes nothing. Comes from the profile; goes to the caller as
//! problems, all at once, each with its place in the config.

use crate::profile::{Action, MAX_ERRNO, Problem, Profile};

/// The kernel has no seventh argument.
const LAST_INDEX: u8 = 5;

pub(crate) fn check(profile: &Profile<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |place: String, words: String| problems.push(Problem { place, words });

    if profile.default == Action::Notify {
        problem(
            "defaultAction".into(),
            "SCMP_ACT_NOTIFY would also stop the calls with which init hands over the listener that has to answer".into(),
        );
    }
    if let Some(words) = errno(profile.default) {
        problem("defaultErrnoRet".into(), words);
    }
    for (at, rule) in profile.rules.iter().enumerate() {
        if rule.names.is_empty() {
            problem(format!("syscalls[{at}].names"), "is empty: the spec asks for one name at least".into());
        }
        if let Some(words) = errno(rule.action) {
            problem(format!("syscalls[{at}].errnoRet"), words);
        }
        if rule.action == Action::Notify && rule.names.iter().any(|name| name == "write") {
            problem(
                format!("syscalls[{at}].action"),
                "SCMP_ACT_NOTIFY on write: init writes to its runtime before a listener can answer, and would hang".into(),
            );
        }
        for (position, condition) in rule.conditions.iter().enumerate() {
            if condition.index > LAST_INDEX {
                problem(
                    format!("syscalls[{at}].args[{position}].index"),
                    format!("{} is more than {LAST_INDEX}, the last argument", condition.index),
                );
            }
        }
    }
    if profile.flags.wait_killable_recv && !notifies(profile) {
        problem(
            "flags".into(),
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY: the kernel refuses it without".into(),
        );
    }
    problems
}

/// Some rule hands calls to a listener.
pub(crate) fn notifies(profile: &Profile<'_>) -> bool {
    profile.rules.iter().any(|rule| rule.action == Action::Notify)
}

fn errno(action: Action) -> Option<String> {
    match action {
        Action::Errno(errno) if errno > MAX_ERRNO => {
            Some(format!("errno {errno} is more than {MAX_ERRNO}, the kernel's largest"))
        }
        _ => None,
    }
}
