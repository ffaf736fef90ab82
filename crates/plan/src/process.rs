// SPDX-License-Identifier: MIT OR Apache-2.0
//! `process`: the command, its environment, its ids, its limits and its terminal.
//!
//! Never looks a name up: ids are numbers, and the executable is found by init, in the container. To steps.

use std::collections::BTreeSet;

use oci_spec::runtime::{PosixRlimitType, Process, Spec, User};

use crate::capabilities::Sets;
use crate::check::Check;
use crate::mounts::NOTIFY_SOCKET;
use crate::namespaces::Namespaces;
use crate::types::{Action, Capabilities, Host, Identity, MapWriter, Options, Rlimit, Step, TerminalTo};

/// NGROUPS_MAX of linux/limits.h.
const MAX_GROUPS: usize = 65_536;
/// execve(2): MAX_ARG_STRLEN, the longest single string, its NUL included.
const MAX_STRING: usize = 131_072;
/// execve(2): all strings and their pointers together never exceed three quarters of the default stack.
const MAX_STRINGS: usize = 6 * 1024 * 1024;

/// (name, number, type): asm-generic/resource.h.
const RLIMITS: [(&str, u32, PosixRlimitType); 16] = [
    ("RLIMIT_CPU", 0, PosixRlimitType::RlimitCpu),
    ("RLIMIT_FSIZE", 1, PosixRlimitType::RlimitFsize),
    ("RLIMIT_DATA", 2, PosixRlimitType::RlimitData),
    ("RLIMIT_STACK", 3, PosixRlimitType::RlimitStack),
    ("RLIMIT_CORE", 4, PosixRlimitType::RlimitCore),
    ("RLIMIT_RSS", 5, PosixRlimitType::RlimitRss),
    ("RLIMIT_NPROC", 6, PosixRlimitType::RlimitNproc),
    ("RLIMIT_NOFILE", 7, PosixRlimitType::RlimitNofile),
    ("RLIMIT_MEMLOCK", 8, PosixRlimitType::RlimitMemlock),
    ("RLIMIT_AS", 9, PosixRlimitType::RlimitAs),
    ("RLIMIT_LOCKS", 10, PosixRlimitType::RlimitLocks),
    ("RLIMIT_SIGPENDING", 11, PosixRlimitType::RlimitSigpending),
    ("RLIMIT_MSGQUEUE", 12, PosixRlimitType::RlimitMsgqueue),
    ("RLIMIT_NICE", 13, PosixRlimitType::RlimitNice),
    ("RLIMIT_RTPRIO", 14, PosixRlimitType::RlimitRtprio),
    ("RLIMIT_RTTIME", 15, PosixRlimitType::RlimitRttime),
];

fn step(action: Action, place: &str) -> Step {
    Step { action, place: place.to_string() }
}

pub(crate) fn rlimits(process: &Process, host: &Host, check: &mut Check) -> Vec<Rlimit> {
    let mut planned: Vec<Rlimit> = Vec::new();
    for (i, entry) in process.rlimits().iter().flatten().enumerate() {
        let place = format!("process.rlimits[{i}]");
        let Some(&(name, resource, _)) = RLIMITS.iter().find(|known| known.2 == entry.typ()) else {
            check.refuse(format!("{place}.type"), "is not known", entry.typ());
            continue;
        };
        let (soft, hard) = (entry.soft(), entry.hard());
        if planned.iter().any(|other| other.resource == resource) {
            check.refuse(format!("{place}.type"), "a limit may be given once", name);
        }
        if soft > hard {
            let rule = format!("must not be above the hard limit of {name}, {hard}");
            check.refuse(format!("{place}.soft"), &rule, soft);
        }
        let own = host.hard_rlimits.get(name).copied().unwrap_or(u64::MAX);
        if !host.raise_rlimits && hard > own {
            let rule =
                format!("raising {name} above {own} without CAP_SYS_RESOURCE: operation not permitted");
            check.refuse(format!("{place}.hard"), &rule, hard);
        }
        planned.push(Rlimit { name: name.to_string(), resource, soft, hard, place });
    }
    planned
}

pub(crate) fn umask(user: &User, check: &mut Check) -> Step {
    const PLACE: &str = "process.user.umask";
    match user.umask() {
        Some(mask) => {
            if mask > 0o777 {
                check.refuse(PLACE, "must be at most 0777", format!("{mask:#o}"));
            }
            step(Action::Umask { mask }, PLACE)
        }
        // The specification leaves it alone; images rely on what every runtime does.
        None => step(Action::Umask { mask: 0o022 }, ""),
    }
}

/// crun's annotation, which Podman's `--group-add keep-groups` writes.
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Whose supplementary groups the process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// The document's.
    Given,
    /// Its creator's; others beside them are an error.
    Kept,
    /// Its creator's; others beside them are left out with a warning, as whoever wrote them did not mean it.
    KeptAnyway,
}

/// Of a container's first process.
pub(crate) fn groups(spec: &Spec, options: &Options, check: &mut Check) -> Groups {
    if options.keep_groups {
        return Groups::Kept;
    }
    match spec.annotations().as_ref().and_then(|annotations| annotations.get(KEEP_GROUPS)) {
        Some(value) if options.allow_annotations => {
            if value != "1" {
                check.refuse(format!("annotations[\"{KEEP_GROUPS}\"]"), "must be 1", value);
            }
            // Podman writes the image's groups beside it.
            Groups::KeptAnyway
        }
        _ => Groups::Given,
    }
}

pub(crate) fn identity(
    user: &User,
    kept: Groups,
    sets: &Sets,
    namespaces: &Namespaces,
    check: &mut Check,
) -> Step {
    namespaces.check_uid(check, "process.user.uid", user.uid());
    namespaces.check_gid(check, "process.user.gid", user.gid());
    const PLACE: &str = "process.user.additionalGids";
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    let denied = namespaces.setgroups_denied;
    if kept != Groups::Given && !groups.is_empty() {
        if kept == Groups::Kept {
            check.violation(PLACE, "there is no way to have these and keep the caller's groups too");
        } else {
            check.warn(PLACE, "not set: the process keeps its caller's groups");
        }
        groups.clear();
    }
    if groups.len() > MAX_GROUPS {
        let rule = format!("the kernel takes at most {MAX_GROUPS} groups");
        check.refuse(PLACE, &rule, groups.len());
    } else {
        for (i, &gid) in groups.iter().enumerate() {
            namespaces.check_gid(check, &format!("{PLACE}[{i}]"), gid);
        }
    }
    if denied && !groups.is_empty() {
        let rule = match namespaces.spawn.gid_writer {
            MapWriter::OwnId => "setting groups is not permitted with a single unprivileged gid mapping",
            _ => "setting groups is not permitted in the caller's user namespace (/proc/self/setgroups)",
        };
        check.violation(PLACE, rule);
    }
    let identity = Identity {
        uid: user.uid(),
        gid: user.gid(),
        groups,
        keep_groups: denied || kept != Groups::Given,
        bounding: sets.bounding,
        effective: sets.effective,
    };
    step(Action::Identity(identity), "process.user")
}

pub(crate) fn capabilities(sets: &Sets) -> Step {
    let Sets { effective, permitted, inheritable, ambient, .. } = *sets;
    let sets = Capabilities { effective, permitted, inheritable, ambient };
    step(Action::Capabilities(sets), "process.capabilities")
}

pub(crate) fn terminal(process: &Process, options: &Options, check: &mut Check) -> Option<Step> {
    let wanted = process.terminal().unwrap_or(false);
    match (wanted, options.terminal) {
        (true, TerminalTo::Nowhere) => {
            check.violation(
                "process.terminal",
                "a terminal needs --console-socket when nobody is in the foreground",
            );
        }
        (false, TerminalTo::ConsoleSocket) => {
            check.violation(
                "process.terminal",
                "--console-socket was given, but process.terminal is not true",
            );
        }
        _ => {}
    }
    if !wanted {
        return None;
    }
    let size = process.console_size().unwrap_or_default();
    let [columns, rows] = [("width", size.width()), ("height", size.height())].map(|(field, value)| {
        u16::try_from(value).unwrap_or_else(|_| {
            check.refuse(format!("process.consoleSize.{field}"), "must be at most 65535", value);
            0
        })
    });
    let uid = process.user().uid();
    Some(step(Action::Terminal { columns, rows, uid, console: true }, "process.terminal"))
}

pub(crate) fn cwd(process: &Process, check: &mut Check) -> Step {
    let path = process.cwd().to_string_lossy().into_owned();
    check.absolute("process.cwd", &path);
    step(Action::WorkingDirectory { path, make: true }, "process.cwd")
}

/// The last two things that init does: find the executable, and execute it.
pub(crate) fn command(process: &Process, options: &Options, check: &mut Check) -> (Step, Step) {
    let args = process.args().clone().unwrap_or_default();
    let given = process.env().as_deref().unwrap_or_default();
    let name = args.first().cloned().unwrap_or_default();
    if name.is_empty() {
        check.violation("process.args", "must begin with the name of a program");
    }
    for (i, arg) in args.iter().enumerate() {
        string(&format!("process.args[{i}]"), arg, check);
    }
    for (i, entry) in given.iter().enumerate() {
        let place = format!("process.env[{i}]");
        string(&place, entry, check);
        match entry.find('=') {
            None | Some(0) => check.refuse(place, "must be NAME=value", entry),
            Some(_) => {}
        }
    }
    let total: usize = args.iter().chain(given).map(|s| s.len() + 1 + size_of::<usize>()).sum();
    if total > MAX_STRINGS {
        let rule = format!("argument list too long: args and env may have {MAX_STRINGS} bytes together");
        check.refuse("process", &rule, total);
    }
    check.text("LISTEN_FDNAMES", &options.listen_fd_names);
    let env = environment(given, options);
    let search = if name.is_empty() || name.contains('/') {
        Vec::new()
    } else {
        match env.iter().find_map(|entry| entry.strip_prefix("PATH=")) {
            // As in every shell, an empty element means the working directory.
            Some(path) if !path.is_empty() => {
                path.split(':').map(|dir| if dir.is_empty() { "." } else { dir }.to_string()).collect()
            }
            // Word for word what engines look for to answer 127.
            _ => {
                let name = crate::check::shown(&name);
                check.violation(
                    "process.args[0]",
                    format!("exec: {name:?}: executable file not found in $PATH (process.env has no PATH)"),
                );
                Vec::new()
            }
        }
    };
    let home = env.iter().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()));
    let home_of_uid = (!home).then_some(process.user().uid());
    let env = env.into_iter().filter(|entry| home || !entry.starts_with("HOME=")).collect();
    let find = Action::FindExecutable { name, search, cwd: process.cwd().to_string_lossy().into_owned() };
    let execute = Action::Execute { args, env, home_of_uid, listen_pid: options.listen_fds > 0 };
    (step(find, "process.args[0]"), step(execute, "process.args"))
}

fn string(place: &str, value: &str, check: &mut Check) {
    check.text(place, value);
    if value.len() >= MAX_STRING {
        let rule = format!("argument list too long: one string may have {} bytes", MAX_STRING - 1);
        check.refuse(place, &rule, format!("{} bytes", value.len()));
    }
}

/// Of a name that is there twice the last value counts; no libc agrees with another on two.
fn environment(given: &[String], options: &Options) -> Vec<String> {
    let mut added: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    if !options.notify.is_empty() {
        added.push(format!("NOTIFY_SOCKET={NOTIFY_SOCKET}"));
    }
    if options.listen_fds > 0 {
        added.push(format!("LISTEN_FDS={}", options.listen_fds));
        if !options.listen_fd_names.is_empty() {
            added.push(format!("LISTEN_FDNAMES={}", options.listen_fd_names));
        }
        // Added by init.
        seen.insert("LISTEN_PID".to_string());
    }
    let mut env: Vec<String> = given
        .iter()
        .chain(&added)
        .rev()
        .filter(|entry| seen.insert(entry.split('=').next().unwrap_or_default().to_string()))
        .cloned()
        .collect();
    env.reverse();
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b44_the_last_duplicate_wins() {
        let given = ["A=1", "B=2", "A=3", "LISTEN_FDS=9", "LISTEN_PID=8"].map(str::to_string);
        let mut options = Options::default();
        assert_eq!(environment(&given, &options), ["B=2", "A=3", "LISTEN_FDS=9", "LISTEN_PID=8"]);
        options.listen_fds = 2;
        assert_eq!(environment(&given, &options), ["B=2", "A=3", "LISTEN_FDS=2"]);
        options.listen_fd_names = "web:admin".into();
        options.notify = "/run/oar/web/notify".into();
        let given = ["NOTIFY_SOCKET=/mine", "LISTEN_FDNAMES=x"].map(str::to_string);
        assert_eq!(
            environment(&given, &options),
            ["NOTIFY_SOCKET=/run/notify/notify.sock", "LISTEN_FDS=2", "LISTEN_FDNAMES=web:admin"]
        );
    }
}
