// SPDX-License-Identifier: MIT OR Apache-2.0
//! What init's numbers mean: `step 14: mount tmpfs at /dev (mounts[1]): permission denied`.

use coracle_plan::{Action, Plan};
use coracle_program::{Message, detail};
use coracle_sys::Errno;
use serde::{Deserialize, Serialize};

use crate::errno;
use crate::error::{Code, Error, words};

/// As much of a step as it takes to say that it failed: kept on record for the steps after create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub number: u32,
    /// `step 14: mount tmpfs at /dev (mounts[1])`.
    pub name: String,
    pub kind: Kind,
    /// Done under the container's seccomp filter.
    #[serde(default)]
    pub filtered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Looks for this program, or executes it.
    Execute(String),
    /// With its time-out in seconds.
    Hook(u32),
    Other,
}

/// Steps are counted from 1; 0 is what comes before them.
pub(crate) fn named(plan: &Plan, number: usize) -> Named {
    let step = number.checked_sub(1).and_then(|index| plan.steps.get(index));
    let name = match step {
        Some(step) if step.place.is_empty() => format!("step {number}: {}", coracle_plan::describe(step)),
        Some(step) => format!("step {number}: {} ({})", coracle_plan::describe(step), step.place),
        None => "start init".into(),
    };
    let kind = match step.map(|step| &step.action) {
        Some(Action::FindExecutable { name, .. }) => Kind::Execute(name.clone()),
        Some(Action::Execute { args, .. }) => Kind::Execute(args.first().cloned().unwrap_or_default()),
        Some(Action::Hook { hook, .. }) => Kind::Hook(hook.timeout),
        _ => Kind::Other,
    };
    Named { number: number as u32, name, kind, filtered: filtered(plan, number) }
}

/// What comes after the wait for start.
pub(crate) fn after_start(plan: &Plan) -> Vec<Named> {
    let wait = plan.steps.iter().position(|step| matches!(step.action, Action::AwaitStart { .. }));
    let first = wait.map_or(plan.steps.len(), |wait| wait + 2);
    (first..=plan.steps.len()).map(|number| named(plan, number)).collect()
}

/// A step for which a call of the runtime failed.
pub(crate) fn failed(plan: &Plan, number: usize, error: Errno) -> Error {
    explain_planned(plan, &Message::failed(number as u32, error.0))
}

/// A Failed message in words, with what the plan knows.
pub(crate) fn explain_planned(plan: &Plan, message: &Message) -> Error {
    let step = plan.steps.get((message.step as usize).wrapping_sub(1));
    let error = explain(&named(plan, message.step as usize), message);
    match hint(step.map(|step| &step.action), message) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// For what fails, or ends, under the container's filter.
pub(crate) const FILTERED: &str = "linux.seccomp may forbid a call that init makes; with process.noNewPrivileges, and \
                                   without SCMP_ACT_NOTIFY, the filter comes after all of them but execve";

/// Does init make calls in this step under a filter? Not if that is loaded for execve(2) alone.
fn filtered(plan: &Plan, number: usize) -> bool {
    let mut steps = plan.steps.iter();
    let filter = steps.position(|step| matches!(step.action, Action::Seccomp(_)));
    let waits = steps.any(|step| matches!(step.action, Action::AwaitStart { .. }));
    waits && filter.is_some_and(|at| number > at + 1)
}

/// A Failed message in words.
pub(crate) fn explain(step: &Named, message: &Message) -> Error {
    let error = without_hint(step, message);
    if step.filtered && error.code == Code::Step { error.hint(FILTERED) } else { error }
}

fn without_hint(step: &Named, message: &Message) -> Error {
    let data = String::from_utf8_lossy(message.data()).into_owned();
    let shown = printable(&data);
    let cause = words(errno(Errno(message.errno)));
    if let (Kind::Execute(name), false) = (&step.kind, message.detail == detail::BEFORE) {
        return not_executable(name, message, &shown, cause);
    }
    let number = || message.data().try_into().map(i32::from_ne_bytes).unwrap_or_default();
    let what = match message.detail {
        detail::HOOK_STATUS => {
            return Error::new(Code::Hook, format!("{}: exit status {}", step.name, number()));
        }
        detail::HOOK_SIGNAL => {
            return Error::new(Code::Hook, format!("{}: ended by signal {}", step.name, number()));
        }
        detail::HOOK_TIMEOUT => {
            let limit = if let Kind::Hook(limit) = step.kind { limit } else { 0 };
            return Error::new(Code::Hook, format!("{}: timed out after {limit} s", step.name));
        }
        detail::FILESYSTEM => format!("{cause}: {shown}"),
        detail::KIND_MISMATCH => {
            format!("the source and {shown} are not both directories or both files: {cause}")
        }
        detail::OTHER_DEVICE => format!("{shown} is something else: {cause}"),
        detail::MOUNT_POINT => format!("reach {shown} in the root filesystem: {cause}"),
        detail::INSIDE_PROC => {
            format!("{shown} leads into procfs, where only a few files may be covered: {cause}")
        }
        detail::READ_BACK => "ids and capabilities read back other than they were set".into(),
        _ => cause.to_string(),
    };
    Error::new(Code::Step, format!("{}: {what}", step.name))
}

/// Text of the container's on a line of ours: control characters escaped, nothing else.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Where the error number alone misleads.
fn hint(action: Option<&Action>, message: &Message) -> Option<&'static str> {
    match (action?, message.errno, message.detail) {
        (Action::Mount(_), libc::ENODEV, _) => {
            Some("the kernel has no such filesystem type (/proc/filesystems)")
        }
        (Action::LoopbackUp, libc::EPERM, _) => Some("it takes CAP_NET_ADMIN, which the caller lacks"),
        (Action::Mount(mount), libc::EPERM, _) if mount.fstype == "proc" => Some(
            "in a user namespace that needs a /proc without mounts over parts of it: a container around this one must be \
             made with empty maskedPaths and readonlyPaths (Podman: --security-opt unmask=ALL), or this config may bind \
             /proc instead",
        ),
        (Action::Mount(mount), libc::EPERM, _) if mount.fstype == "sysfs" => Some(
            "in a user namespace that needs a network namespace, and a /sys without mounts over parts of it: this config \
             may bind /sys instead",
        ),
        (_, libc::ELOOP, detail::MOUNT_POINT) => {
            Some("a symbolic link on the way is refused here, or leads in circles")
        }
        (Action::Scheduler(_), libc::EPERM, _) => Some(
            "real-time policies need CAP_SYS_NICE, and on v1 cgroups a cpu.rt_runtime_us of the container's own",
        ),
        (Action::PivotRoot, libc::EINVAL, _) => Some("the host runs from an initramfs: use --no-pivot"),
        (Action::Seccomp(_), libc::EINVAL, _) => {
            Some("the kernel does not know one of linux.seccomp.flags, or a filter's action (`oar features`)")
        }
        (Action::Seccomp(_), libc::EACCES, _) => {
            Some("it takes process.noNewPrivileges, or CAP_SYS_ADMIN in the container's user namespace")
        }
        (Action::Seccomp(_), libc::EBUSY, _) => {
            Some("a filter that the caller runs under has a listener already: the kernel takes only one")
        }
        (Action::Seccomp(_), libc::ENOSYS, _) => Some("the kernel is built without seccomp filters"),
        (Action::Identity(_), libc::EINVAL, _) => Some("an id is not mapped in the user namespace"),
        _ => None,
    }
}

/// Why the user's command cannot run, in the words that engines turn into 126 and 127.
fn not_executable(name: &str, message: &Message, data: &str, cause: &str) -> Error {
    let name = name.escape_debug();
    let text = match message.detail {
        detail::NOT_IN_PATH => "executable file not found in $PATH".into(),
        detail::DIRECTORY => "is a directory: permission denied".into(),
        detail::NOEXEC => "permission denied: its filesystem is mounted noexec".into(),
        detail::SCRIPT_INTERPRETER if message.errno == libc::ENOENT => {
            format!("interpreter \"{data}\" of its #! line: no such file or directory")
        }
        detail::SCRIPT_INTERPRETER => format!("interpreter \"{data}\" of its #! line: {cause}"),
        detail::ELF_INTERPRETER => format!("interpreter \"{data}\" in its ELF header: {cause}"),
        detail::MACHINE => {
            let machine = message.data().try_into().map(u16::from_ne_bytes).unwrap_or_default();
            match machine {
                62 => format!("{cause}: the ELF file is damaged"),
                machine => format!("{cause}: it is for {}, this machine is x86_64", machine_name(machine)),
            }
        }
        detail::NOT_A_PROGRAM => format!("{cause}: it has neither an ELF header nor a #! line"),
        _ if name.clone().any(|c| c == '/') && message.errno == libc::ENOENT => {
            format!("stat {name}: {cause}")
        }
        _ => cause.to_string(),
    };
    Error::new(Code::Execute, format!("exec: \"{name}\": {text}"))
}

/// e_machine (elf(5), kernel include/uapi/linux/elf-em.h).
fn machine_name(machine: u16) -> String {
    let known = [
        (3, "i386"),
        (8, "mips"),
        (20, "ppc"),
        (21, "ppc64"),
        (22, "s390x"),
        (40, "arm"),
        (183, "aarch64"),
        (243, "riscv"),
        (258, "loongarch"),
    ];
    let name = known.iter().find(|(number, _)| *number == machine).map(|(_, name)| name.to_string());
    name.unwrap_or_else(|| format!("machine {machine}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execute(name: &str, message: Message) -> String {
        let step = Named {
            number: 9,
            name: "step 9: execute".into(),
            kind: Kind::Execute(name.into()),
            filtered: false,
        };
        let error = explain(&step, &message);
        assert_eq!(error.code, Code::Execute);
        error.message
    }

    /// The words that dockerd, podman and the shims turn into 126 and 127.
    #[test]
    fn a_command_that_cannot_run_says_why() {
        let failed = |errno| Message::failed(9, errno);
        for (name, message, text) in [
            (
                "foo",
                failed(libc::ENOENT).with(detail::NOT_IN_PATH, &[]),
                r#"exec: "foo": executable file not found in $PATH"#,
            ),
            ("/foo", failed(libc::ENOENT), r#"exec: "/foo": stat /foo: no such file or directory"#),
            ("/foo", failed(libc::EACCES), r#"exec: "/foo": permission denied"#),
            (
                "/bin",
                failed(libc::EACCES).with(detail::DIRECTORY, &[]),
                r#"exec: "/bin": is a directory: permission denied"#,
            ),
            (
                "/x",
                failed(libc::ENOENT).with(detail::SCRIPT_INTERPRETER, b"/bin/\x1bbash"),
                r#"exec: "/x": interpreter "/bin/\u{1b}bash" of its #! line: no such file or directory"#,
            ),
            (
                "/x",
                failed(libc::ENOENT).with(detail::ELF_INTERPRETER, b"/lib/ld.so"),
                r#"exec: "/x": interpreter "/lib/ld.so" in its ELF header: no such file or directory"#,
            ),
            (
                "/x",
                failed(libc::ENOEXEC).with(detail::MACHINE, &183u16.to_ne_bytes()),
                r#"exec: "/x": exec format error: it is for aarch64, this machine is x86_64"#,
            ),
            (
                "/x",
                failed(libc::EACCES).with(detail::NOEXEC, &[]),
                r#"exec: "/x": permission denied: its filesystem is mounted noexec"#,
            ),
            (
                "/x",
                failed(libc::ENOEXEC).with(detail::NOT_A_PROGRAM, &[]),
                r#"exec: "/x": exec format error: it has neither an ELF header nor a #! line"#,
            ),
        ] {
            assert_eq!(execute(name, message), text);
        }
    }

    #[test]
    fn hooks_and_mounts_say_what_init_knows() {
        let step = |kind| Named { number: 2, name: "step 2: x".into(), kind, filtered: false };
        let hook = |message: Message| explain(&step(Kind::Hook(5)), &message).message;
        let number = |n: i32| n.to_ne_bytes();
        let message = Message::failed(2, 0);
        assert_eq!(hook(message.with(detail::HOOK_STATUS, &number(3))), "step 2: x: exit status 3");
        assert_eq!(hook(message.with(detail::HOOK_SIGNAL, &number(9))), "step 2: x: ended by signal 9");
        assert_eq!(hook(message.with(detail::HOOK_TIMEOUT, &[])), "step 2: x: timed out after 5 s");
        let mount = Message::failed(2, libc::EINVAL).with(detail::FILESYSTEM, b"tmpfs: Bad value for 'size'");
        assert_eq!(
            explain(&step(Kind::Other), &mount).message,
            "step 2: x: invalid argument: tmpfs: Bad value for 'size'"
        );
        // Numbers that are not there are no reason to panic.
        assert_eq!(hook(message.with(detail::HOOK_STATUS, &[1])), "step 2: x: exit status 0");
    }
}
