// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.seccomp` → a compiled filter, and who answers what it asks.
//!
//! Owns how the spec's types become a profile; what a profile means is `coracle-seccomp`'s. Never drops a flag, a
//! rule or an action: what cannot be is a violation with its place, all of them at once. To a step.

use std::borrow::Cow;

use coracle_seccomp::{Action, Architecture, Condition, Flags, Operator, Profile, Rule, compile};
use oci_spec::runtime::{Linux, LinuxSeccomp, LinuxSyscall};

use crate::check::{Check, shorten, shown};
use crate::types::{Host, Seccomp, SeccompListener};

const PLACE: &str = "linux.seccomp";
/// The kernel has six arguments.
const LAST_INDEX: usize = 5;

/// The names of all actions that a config may use.
pub fn seccomp_actions() -> Vec<&'static str> {
    coracle_seccomp::actions()
}

pub fn seccomp_operators() -> Vec<&'static str> {
    coracle_seccomp::operators()
}

/// The names of all architectures that a config may name.
pub fn architecture_names() -> Vec<&'static str> {
    coracle_seccomp::architectures()
}

/// Names, and the bits for seccomp(2) with which a kernel can be asked for them.
pub fn seccomp_flags() -> Vec<(&'static str, u32)> {
    let ask = |name| {
        let bit = match name {
            "SECCOMP_FILTER_FLAG_TSYNC" => 1,
            "SECCOMP_FILTER_FLAG_LOG" => 2,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
            // It means something to a listener only.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 32 | 8,
            _ => u32::MAX,
        };
        (name, bit)
    };
    coracle_seccomp::flags().into_iter().map(ask).collect()
}

/// What is wrong with one name of a document, by the path of its place with `[]` for each index; `None` for a name
/// that is known, and for every other place.
pub(crate) fn unknown_name(shape: &[&str], name: &str) -> Option<&'static str> {
    let (known, rule) = match shape {
        ["linux", "seccomp", "defaultAction"] | ["linux", "seccomp", "syscalls", "[]", "action"] => {
            (Action::from_name(name, None).is_ok(), "is not an action")
        }
        ["linux", "seccomp", "architectures", "[]"] => {
            (Architecture::from_name(name).is_some(), "is not an architecture that the specification names")
        }
        ["linux", "seccomp", "flags", "[]"] => (Flags::default().set(name), "is not a flag"),
        ["linux", "seccomp", "syscalls", "[]", "args", "[]", "op"] => {
            (Operator::from_name(name).is_some(), "is not an operator")
        }
        _ => return None,
    };
    (!known).then_some(rule)
}

pub(crate) fn plan(
    linux: Option<&Linux>,
    host: &Host,
    check: &mut Check,
) -> (Option<Seccomp>, Option<SeccompListener>) {
    let Some(given) = linux.and_then(|linux| linux.seccomp().as_ref()) else { return (None, None) };
    let Some(native) = Architecture::native() else {
        check.violation(PLACE, "this machine's architecture has no seccomp filters here");
        return (None, None);
    };
    let profile = profile(given, host, check);
    let listener = listener(given, &profile, check);
    execve(&profile, check);
    let filter = match compile(&profile, native) {
        Ok(filter) => filter,
        Err(problems) => {
            for problem in problems {
                let dot = if problem.place.is_empty() { "" } else { "." };
                check.violation(format!("{PLACE}{dot}{}", problem.place), shorten(&problem.words, 300));
            }
            return (None, None);
        }
    };
    if !filter.unknown.is_empty() {
        let names: Vec<String> = filter.unknown.iter().map(|name| shown(name)).collect();
        let text = format!("skipped, no architecture has a syscall of the name: {}", names.join(" "));
        check.note(format!("{PLACE}.syscalls"), text);
    }
    let mut architectures = vec![native];
    architectures.extend(profile.architectures.iter().filter(|other| **other != native));
    let word = |architecture: &Architecture| {
        architecture.name().trim_start_matches("SCMP_ARCH_").to_ascii_lowercase()
    };
    let planned = Seccomp {
        program: filter.bytes(),
        flags: filter.flags,
        notifies: filter.notifies,
        allows_fork: allows_fork(&profile),
        default: match profile.default {
            Action::Errno(number) | Action::Trace(number) => format!("{} {number}", profile.default.name()),
            other => other.name().to_string(),
        },
        architectures: architectures.iter().map(word).collect(),
    };
    (Some(planned), listener)
}

/// Rules and conditions stay in their places, so that what the compiler says of one can be found in the document.
fn profile<'a>(given: &'a LinuxSeccomp, host: &Host, check: &mut Check) -> Profile<'a> {
    let default = action(
        &given.default_action().to_string(),
        given.default_errno_ret(),
        (&format!("{PLACE}.defaultAction"), &format!("{PLACE}.defaultErrnoRet")),
        check,
    );
    let mut architectures = Vec::new();
    for (i, architecture) in given.architectures().iter().flatten().enumerate() {
        match Architecture::from_name(&architecture.to_string()) {
            Some(known) => architectures.push(known),
            None => {
                let place = format!("{PLACE}.architectures[{i}]");
                check.refuse(place, "is not an architecture that the specification names", architecture);
            }
        }
    }
    let rules = given.syscalls().iter().flatten().enumerate();
    let rules = rules.map(|(i, syscall)| rule(&format!("{PLACE}.syscalls[{i}]"), syscall, check)).collect();
    Profile { default, architectures, rules, flags: flags(given, host, check), strict: check.strict }
}

fn flags(given: &LinuxSeccomp, host: &Host, check: &mut Check) -> Flags {
    let Some(names) = given.flags() else { return Flags::ABSENT };
    let mut flags = Flags::default();
    for (i, flag) in names.iter().enumerate() {
        let (place, before) = (format!("{PLACE}.flags[{i}]"), flags.wait_killable_recv);
        if !flags.set(&flag.to_string()) {
            check.refuse(&place, "is not a flag", flag);
        }
        // The others are older than anything that this program runs on.
        if flags.wait_killable_recv && !before && host.kernel < (5, 19) {
            let running = format!("{}.{}", host.kernel.0, host.kernel.1);
            check.refuse(&place, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs Linux 5.19 or newer", running);
        }
    }
    flags
}

fn rule<'a>(place: &str, syscall: &'a LinuxSyscall, check: &mut Check) -> Rule<'a> {
    let action = action(
        &syscall.action().to_string(),
        syscall.errno_ret(),
        (&format!("{place}.action"), &format!("{place}.errnoRet")),
        check,
    );
    let mut conditions = Vec::new();
    for (i, arg) in syscall.args().iter().flatten().enumerate() {
        let place = format!("{place}.args[{i}]");
        if arg.index() > LAST_INDEX {
            let rule = format!("must be at most {LAST_INDEX}, the last argument");
            check.refuse(format!("{place}.index"), &rule, arg.index());
        }
        let operator = Operator::from_name(&arg.op().to_string());
        if operator.is_none() {
            check.refuse(format!("{place}.op"), "is not an operator", arg.op());
        }
        conditions.push(Condition {
            index: arg.index().min(LAST_INDEX) as u8,
            operator: operator.unwrap_or(Operator::Equal),
            value: arg.value(),
            value_two: arg.value_two().unwrap_or(0),
        });
    }
    Rule { names: Cow::Borrowed(syscall.names()), action, conditions }
}

fn action(name: &str, errno: Option<u32>, (place, errno_place): (&str, &str), check: &mut Check) -> Action {
    match (Action::from_name(name, None), Action::from_name(name, errno)) {
        (_, Ok(action)) => return action,
        (Err(words), _) => check.violation(place, words),
        (Ok(_), Err(words)) => check.violation(errno_place, words),
    }
    // The document is refused; this one has no rule of its own to break.
    Action::Allow
}

fn listener(given: &LinuxSeccomp, profile: &Profile<'_>, check: &mut Check) -> Option<SeccompListener> {
    let notifies = profile.rules.iter().any(|rule| rule.action == Action::Notify);
    let path =
        given.listener_path().as_ref().map_or(String::new(), |path| path.to_string_lossy().into_owned());
    let metadata = given.listener_metadata().clone().unwrap_or_default();
    let path_place = format!("{PLACE}.listenerPath");
    if path.is_empty() {
        if notifies {
            check.violation(path_place, "is missing: SCMP_ACT_NOTIFY needs somebody to notify");
        }
        if !metadata.is_empty() {
            let place = format!("{PLACE}.listenerMetadata");
            check.refuse(place, "must not be there without listenerPath", metadata);
        }
        return None;
    }
    check.absolute(&path_place, &path);
    if !notifies {
        check.warn(path_place, "no rule has SCMP_ACT_NOTIFY: there is no listener to send");
        return None;
    }
    Some(SeccompListener { path, metadata })
}

/// A filter that stops execve(2) stops every container, and one that kills there leaves nobody to say so.
fn execve(profile: &Profile<'_>, check: &mut Check) {
    let named =
        |rule: &&Rule<'_>| rule.names.iter().any(|name| name == "execve") && rule.action != profile.default;
    let rules: Vec<&Rule<'_>> = profile.rules.iter().filter(named).collect();
    if let Some(rule) = rules.iter().find(|rule| rule.conditions.is_empty()) {
        return answered(rule.action, check);
    }
    if rules.is_empty() {
        return answered(profile.default, check);
    }
    // Its arguments are addresses, so nobody knows which of these it will be.
    let kills = |action: &Action| matches!(action, Action::KillProcess | Action::KillThread | Action::Trap);
    if let Some(action) = rules.iter().map(|rule| rule.action).chain([profile.default]).find(kills) {
        let rule =
            "execve may be answered {} for its arguments, which are addresses that no profile can know";
        check.violation(PLACE, rule.replace("{}", action.name()));
    }
}

/// Is clone(2) certain to pass, as init makes its copy for exec? Only its first argument is known before.
fn allows_fork(profile: &Profile<'_>) -> bool {
    /// CLONE_CHILD_SETTID, CLONE_PARENT, CLONE_PIDFD.
    const FLAGS: u64 = 0x0100_0000 | 0x8000 | 0x1000;
    let passes = |action: Action| matches!(action, Action::Allow | Action::Log);
    let may_apply = |condition: &Condition| condition.index != 0 || holds(condition, FLAGS);
    let rules = profile.rules.iter().filter(|rule| rule.names.iter().any(|name| name == "clone"));
    let rules: Vec<&Rule<'_>> = rules.filter(|rule| rule.conditions.iter().all(may_apply)).collect();
    let certain = rules.iter().any(|rule| rule.conditions.iter().all(|condition| condition.index == 0));
    rules.iter().all(|rule| passes(rule.action)) && (certain || passes(profile.default))
}

fn holds(condition: &Condition, value: u64) -> bool {
    match condition.operator {
        Operator::NotEqual => value != condition.value,
        Operator::Less => value < condition.value,
        Operator::LessOrEqual => value <= condition.value,
        Operator::Equal => value == condition.value,
        Operator::GreaterOrEqual => value >= condition.value,
        Operator::Greater => value > condition.value,
        Operator::MaskedEqual => value & condition.value == condition.value_two,
    }
}

fn answered(action: Action, check: &mut Check) {
    if !matches!(action, Action::Allow | Action::Log | Action::Notify) {
        let rule = format!("execve is answered {}: the container's command could not run", action.name());
        check.violation(PLACE, rule);
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator};

    use super::*;

    /// The types' crate must be able to carry every name, and give it back.
    #[test]
    fn names_survive_the_types() {
        fn carried<T: serde::de::DeserializeOwned + ToString>(names: Vec<&str>) {
            for name in names {
                let typed: T = serde_json::from_value(name.into()).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(typed.to_string(), name);
            }
        }
        carried::<LinuxSeccompAction>(seccomp_actions());
        carried::<LinuxSeccompOperator>(seccomp_operators());
        carried::<LinuxSeccompFilterFlag>(seccomp_flags().into_iter().map(|(name, _)| name).collect());
        carried::<Arch>(architecture_names());
        assert!(seccomp_flags().iter().all(|(_, bits)| *bits != u32::MAX));
    }
}
