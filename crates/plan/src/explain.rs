// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plan → text: `--dry-run`, and the name of a step in an error.
//!
//! Never decides or hides anything; what comes from the document is escaped, so that a line stays a line.

use crate::check::{shorten, shown};
use crate::mount_options::attribute_names;
use crate::namespaces::name as namespace_name;
use crate::types::{
    Action, BindSource, Capabilities, DeviceKind, IdMap, Identity, InitHook, MapWriter, MountIdMap, Plan,
    Propagation, Scheduler, Spawn, Step,
};
use crate::{capability_names, explain_cgroup};

/// What `--dry-run` prints: heading lines, then the steps of init, numbered as in error messages.
pub fn explain(plan: &Plan) -> String {
    let mut out = String::new();
    for (word, line) in explain_cgroup::lines(&plan.cgroup) {
        heading(&mut out, word, &line);
    }
    heading(&mut out, "spawn", &spawn(plan));
    let Spawn { uid_map, gid_map, uid_writer, gid_writer, .. } = &plan.spawn;
    for (kind, map, writer) in [("uid", uid_map, uid_writer), ("gid", gid_map, gid_writer)] {
        if !map.is_empty() {
            let writer = match writer {
                MapWriter::Privileged => String::new(),
                MapWriter::OwnId if kind == "gid" => {
                    " (the caller's own, so setgroups is denied)".to_string()
                }
                MapWriter::OwnId => " (the caller's own)".to_string(),
                MapWriter::Helper(path) => format!(" (not the caller's own alone, so by {})", shown(path)),
            };
            heading(&mut out, "map", &format!("{kind} {}{writer}", id_map(map)));
        }
    }
    if !plan.spawn.user_added.is_empty() {
        heading(&mut out, "added", &format!("the user namespace: {}", plan.spawn.user_added));
    }
    for line in outside(plan) {
        heading(&mut out, "outside", &line);
    }
    let lines: Vec<String> = plan.steps.iter().map(|step| shorten(&in_full(step), 400)).collect();
    let digits = lines.len().to_string().len();
    // The places stand in one column, but no far away one: few lines are long.
    let column =
        lines.iter().map(|line| line.chars().count()).filter(|&width| width <= 72).max().unwrap_or(0);
    for (i, (line, step)) in lines.iter().zip(&plan.steps).enumerate() {
        let number = i + 1;
        let place = shown(&step.place);
        if place.is_empty() {
            out.push_str(&format!("{number:>digits$}  {line}\n"));
        } else {
            out.push_str(&format!("{number:>digits$}  {line:<column$}  ({place})\n"));
        }
    }
    out
}

fn heading(out: &mut String, word: &str, text: &str) {
    out.push_str(&format!("{word:<8} {text}\n"));
}

fn spawn(plan: &Plan) -> String {
    let mut parts = Vec::new();
    let new: Vec<&str> = plan.spawn.new.iter().map(|&n| namespace_name(n)).collect();
    parts.push(if new.is_empty() {
        "no new namespaces".to_string()
    } else {
        format!("new {}", new.join(" "))
    });
    for join in &plan.spawn.join {
        parts.push(format!("join {} {} ({})", namespace_name(join.namespace), shown(&join.path), join.place));
    }
    for (clock, seconds, nanoseconds) in &plan.spawn.time_offsets {
        parts.push(format!("{} {seconds} s {nanoseconds} ns", shown(clock)));
    }
    parts.join(", ")
}

fn id_map(map: &[IdMap]) -> String {
    let lines: Vec<String> = map.iter().map(|m| format!("{}:{}:{}", m.container, m.host, m.size)).collect();
    shorten(&lines.join(" "), 400)
}

fn outside(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    let limit = |value: u64| if value == u64::MAX { "unlimited".to_string() } else { value.to_string() };
    for rlimit in &plan.outside.rlimits {
        lines.push(format!(
            "{} {}:{}  ({})",
            rlimit.name,
            limit(rlimit.soft),
            limit(rlimit.hard),
            rlimit.place
        ));
    }
    if let Some(score) = plan.outside.oom_score_adj {
        lines.push(format!("oom_score_adj {score}  (process.oomScoreAdj)"));
    }
    for device in &plan.outside.net_devices {
        let (from, to) = (shown(&device.host_name), shown(&device.container_name));
        lines.push(format!("move network device {from} as {to}  ({})", device.place));
    }
    for interface in &plan.outside.interfaces {
        lines.push(format!("connect {} to network {}", shown(&interface.name), shown(&interface.network)));
        lines.extend(
            interface.publish.iter().map(|port| format!("publish {} on {}", shown(port), interface.name)),
        );
    }
    if let Some(rdt) = &plan.outside.intel_rdt {
        let group = if rdt.group.is_empty() { "/".to_string() } else { shown(&rdt.group) };
        let monitoring = if rdt.monitoring { ", monitored" } else { "" };
        lines.push(format!(
            "resctrl group {group} {}{monitoring}  (linux.intelRdt)",
            shown(&rdt.schemata.join("; "))
        ));
    }
    if let Some(listener) = &plan.outside.seccomp_listener {
        lines.push(format!("seccomp listener to {}  (linux.seccomp.listenerPath)", shown(&listener.path)));
    }
    if plan.outside.notify {
        lines.push(format!("sd_notify socket at {}", crate::NOTIFY_SOCKET));
    }
    let hooks = &plan.hooks;
    for hook in
        [&hooks.prestart, &hooks.create_runtime, &hooks.poststart, &hooks.poststop].into_iter().flatten()
    {
        lines.push(format!("hook {}  ({})", shown(&hook.path), hook.place));
    }
    lines
}

/// One step, without its number and place: what an error says was being done.
pub fn describe(step: &Step) -> String {
    let text = shown;
    match &step.action {
        Action::JoinSessionKeyring { name } => format!("join session keyring {}", text(name)),
        Action::AwaitRuntime => "wait for the runtime".to_string(),
        Action::BecomeNamespaceRoot => "become root of the user namespace".to_string(),
        Action::UnshareCgroup => "unshare the cgroup namespace".to_string(),
        Action::SetHostname { name } => format!("set hostname to {}", text(name)),
        Action::SetDomainname { name } => format!("set domainname to {}", text(name)),
        Action::LoopbackUp => "bring up the loopback device".to_string(),
        Action::IsolateMounts { propagation } => format!("make all mounts {}", word(*propagation, true)),
        Action::AttachRoot => "attach the root filesystem".to_string(),
        Action::Mount(mount) => format!("mount {} at {}", text(&mount.fstype), text(&mount.target)),
        Action::Bind(bind) => {
            let source = match &bind.source {
                BindSource::Path(path) => text(path),
                BindSource::OwnCgroup => "the container's cgroup".to_string(),
                BindSource::OwnV1Cgroup { mount_point } => {
                    format!("the container's cgroup of {}", text(mount_point))
                }
            };
            format!("bind {source} at {}", text(&bind.target))
        }
        Action::Remount(remount) => format!("remount {}", text(&remount.target)),
        Action::Device(device) if device.bind => format!("bind device {}", text(&device.path)),
        Action::Device(device) if device.kind == DeviceKind::Fifo => {
            format!("create fifo {}", text(&device.path))
        }
        Action::Device(device) => format!("create device {}", text(&device.path)),
        Action::Symlink { target, path } => format!("link {} to {}", text(path), text(target)),
        Action::RuntimeHooks => "run the hooks of the runtime".to_string(),
        Action::Hook { hook, kind: InitHook::CreateContainer } => {
            format!("run createContainer hook {}", text(&hook.path))
        }
        Action::Hook { hook, kind: InitHook::StartContainer } => {
            format!("run startContainer hook {}", text(&hook.path))
        }
        Action::Terminal { .. } => "open the terminal".to_string(),
        Action::NewSession { .. } => "make a new session".to_string(),
        Action::PivotRoot => "pivot into the root filesystem".to_string(),
        Action::MoveRoot => "move the root filesystem to /".to_string(),
        Action::Chroot => "change root into the root filesystem".to_string(),
        Action::OpenRoot => "open the root directory".to_string(),
        Action::RootPropagation { propagation } => {
            format!("make the root mount {}", word(*propagation, false))
        }
        Action::OpenProc => "open procfs".to_string(),
        Action::Sysctl { key, .. } => format!("sysctl {}", text(key)),
        Action::Mask { path } => format!("mask {}", text(path)),
        Action::Readonly { path } => format!("make {} read-only", text(path)),
        Action::SealReadonly { target } => format!("seal {} read-only", text(target)),
        Action::ReadonlyRoot => "make the root filesystem read-only".to_string(),
        Action::AppArmor { profile } => format!("set apparmor profile {}", text(profile)),
        Action::SelinuxLabel { label } => format!("set selinux label {}", text(label)),
        Action::Scheduler(_) => "set the scheduler".to_string(),
        Action::IoPriority { .. } => "set the I/O priority".to_string(),
        Action::Personality { .. } => "set the personality".to_string(),
        Action::MemoryPolicy { .. } => "set the memory policy".to_string(),
        Action::Umask { mask } => format!("set umask to {mask:04o}"),
        Action::NoNewPrivileges => "set no_new_privs".to_string(),
        Action::WorkingDirectory { path, .. } => format!("change to {}", text(path)),
        Action::Seccomp(_) => "load the seccomp filter".to_string(),
        Action::Identity(identity) => format!("become uid {} gid {}", identity.uid, identity.gid),
        Action::Capabilities(_) => "set the capabilities".to_string(),
        Action::Fork => "enter the pid namespace".to_string(),
        Action::AwaitStart { .. } => "wait for start".to_string(),
        Action::FindExecutable { name, .. } => format!("find executable {:?}", Plain(name)),
        Action::Execute { args, .. } => {
            format!("execute {:?}", Plain(args.first().map_or("", String::as_str)))
        }
    }
}

/// A string in quotes, of which [`shown`] has done the escaping.
struct Plain<'a>(&'a str);

impl std::fmt::Debug for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", shown(&self.0.replace('\\', "\\\\").replace('"', "\\\"")))
    }
}

fn word(propagation: Propagation, recursive: bool) -> String {
    let word = match propagation {
        Propagation::Shared => "shared",
        Propagation::Slave => "slave",
        Propagation::Private => "private",
        Propagation::Unbindable => "unbindable",
    };
    format!("{}{word}", if recursive { "r" } else { "" })
}

/// [`describe`], and everything else that the step carries.
fn in_full(step: &Step) -> String {
    let mut line = describe(step);
    let details: Vec<String> = match &step.action {
        Action::Mount(mount) => {
            let mut details = attribute_names(&mount.attributes);
            details.extend(mount.options.iter().map(pair));
            details.extend(mount.propagation.iter().map(|&(propagation, r)| word(propagation, r)));
            details.extend(mount.copy_up.then(|| "tmpcopyup".to_string()));
            details.extend(id_mapped(&mount.id_map));
            details
        }
        Action::Bind(bind) => {
            let mut details = vec![if bind.recursive { "rbind" } else { "bind" }.to_string()];
            details.extend(attribute_names(&bind.attributes));
            details.extend(bind.propagation.iter().map(|&(propagation, r)| word(propagation, r)));
            details.extend(id_mapped(&bind.id_map));
            details
        }
        Action::Remount(remount) => {
            let mut details = vec![if remount.reconfigure { "filesystem" } else { "bind" }.to_string()];
            details.extend(attribute_names(&remount.attributes));
            details.extend(remount.options.iter().map(pair));
            details.extend(remount.propagation.iter().map(|&(propagation, r)| word(propagation, r)));
            details
        }
        Action::Device(device) => {
            let kind = match device.kind {
                DeviceKind::Character => format!("c {}:{}", device.major, device.minor),
                DeviceKind::Block => format!("b {}:{}", device.major, device.minor),
                DeviceKind::Fifo => "p".to_string(),
            };
            let mut details = vec![kind];
            if !device.bind {
                details.push(format!("mode {:04o}", device.mode));
                if (device.uid, device.gid) != (0, 0) {
                    details.push(format!("owner {}:{}", device.uid, device.gid));
                }
            }
            details
        }
        Action::Hook { hook, .. } => hook.args.iter().skip(1).map(|arg| shown(arg)).collect(),
        Action::Terminal { columns, rows, uid, .. } => {
            vec![format!("{columns}x{rows}"), format!("owner {uid}")]
        }
        Action::Sysctl { value, .. } => vec!["=".to_string(), shown(value)],
        Action::Scheduler(scheduler) => scheduler_details(scheduler),
        Action::IoPriority { value } => vec![format!("class {} level {}", value >> 13, value & 0x1fff)],
        Action::Personality { domain } => vec![format!("{domain:#x}")],
        Action::MemoryPolicy { mode, nodes } => {
            let mut details = vec![format!("mode {mode:#x}")];
            details.extend(nodes.iter().rev().map(|word| format!("{word:#x}")));
            details
        }
        Action::Identity(identity) => identity_details(identity),
        Action::Capabilities(sets) => capability_details(sets),
        Action::Seccomp(filter) => seccomp_details(filter),
        Action::AwaitStart { parked } => {
            vec![if *parked { "on the start socket" } else { "on the control socket" }.to_string()]
        }
        Action::FindExecutable { search, .. } if !search.is_empty() => {
            vec![format!("in {}", search.join(":"))]
        }
        Action::Execute { args, .. } => args.iter().skip(1).map(|arg| format!("{:?}", Plain(arg))).collect(),
        _ => Vec::new(),
    };
    if !details.is_empty() {
        let separator = match step.action {
            Action::Execute { .. } | Action::Sysctl { .. } | Action::AwaitStart { .. } => " ",
            Action::FindExecutable { .. } | Action::Hook { .. } => " ",
            _ => ": ",
        };
        line.push_str(separator);
        line.push_str(&details.join(" "));
    }
    line
}

fn pair((key, value): &(String, String)) -> String {
    if value.is_empty() { shown(key) } else { format!("{}={}", shown(key), shown(value)) }
}

fn id_mapped(map: &MountIdMap) -> Option<String> {
    match map {
        MountIdMap::None => None,
        MountIdMap::Container { recursive: false } => Some("idmap".to_string()),
        MountIdMap::Container { recursive: true } => Some("ridmap".to_string()),
        MountIdMap::Given { uid_map, gid_map, recursive } => {
            let word = if *recursive { "ridmap" } else { "idmap" };
            Some(format!("{word} uid {} gid {}", id_map(uid_map), id_map(gid_map)))
        }
    }
}

fn scheduler_details(scheduler: &Scheduler) -> Vec<String> {
    let mut details = vec![format!("policy {}", scheduler.policy)];
    if scheduler.flags != 0 {
        details.push(format!("flags {:#x}", scheduler.flags));
    }
    details.push(format!("nice {} priority {}", scheduler.nice, scheduler.priority));
    if scheduler.runtime != 0 {
        details.push(format!("{}/{}/{} ns", scheduler.runtime, scheduler.deadline, scheduler.period));
    }
    details
}

fn seccomp_details(filter: &crate::types::Seccomp) -> Vec<String> {
    let mut details = vec![
        format!("{} instructions", filter.program.len() / 8),
        format!("for {}", filter.architectures.join("+")),
        format!("default {}", filter.default),
        format!("flags {:#x}", filter.flags),
    ];
    if filter.notifies {
        details.push("with a listener".to_string());
    }
    // Words of several words, so commas.
    vec![details.join(", ")]
}

fn identity_details(identity: &Identity) -> Vec<String> {
    let mut details = Vec::new();
    if identity.keep_groups {
        details.push("groups kept".to_string());
    } else {
        let groups: Vec<String> = identity.groups.iter().map(u32::to_string).collect();
        details.push(if groups.is_empty() {
            "no groups".to_string()
        } else {
            format!("groups {}", groups.join(","))
        });
    }
    details.push(format!("bounding {}", capability_list(identity.bounding)));
    details
}

fn capability_details(sets: &Capabilities) -> Vec<String> {
    let mut details = Vec::new();
    let sets = [
        ("effective", sets.effective),
        ("permitted", sets.permitted),
        ("inheritable", sets.inheritable),
        ("ambient", sets.ambient),
    ];
    // Most documents give the same set several times.
    let mut told: Vec<(u64, Vec<&str>)> = Vec::new();
    for (name, bits) in sets {
        match told.iter_mut().find(|(other, _)| *other == bits) {
            Some((_, names)) => names.push(name),
            None => told.push((bits, vec![name])),
        }
    }
    for (bits, names) in told {
        details.push(format!("{} {}", names.join("+"), capability_list(bits)));
    }
    details
}

fn capability_list(bits: u64) -> String {
    let names: Vec<String> = capability_names()
        .into_iter()
        .enumerate()
        .filter(|&(number, _)| bits & 1 << number != 0)
        .map(|(_, name)| name.trim_start_matches("CAP_").to_lowercase())
        .collect();
    if names.is_empty() { "none".to_string() } else { names.join(",") }
}
