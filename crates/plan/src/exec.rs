// SPDX-License-Identifier: MIT OR Apache-2.0
//! exec: one more process for a container, planned from the container's own.
//!
//! Never decides anything anew about the container. From the container's document, and what the caller asks for, to a
//! [`Plan`] whose steps are those of the process alone.

use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, Spec};

use crate::check::Check;
use crate::namespaces::Namespaces;
use crate::plan::{Ending, Filter, no_new_privileges};
use crate::process::Groups;
use crate::types::{
    Action, Host, Namespace, Options, Outside, Plan, Resources, Scheduler, Step, Violation, Warning,
};
use crate::{capabilities, cgroup, memory_policy, namespaces, rootfs, scheduling, seccomp};

/// The process to execute.
#[derive(Debug, Clone, PartialEq)]
pub enum Exec {
    /// As a document has it. Capabilities, limits, labels, no_new_privs, scheduling and umask that it does not speak of
    /// are those of the container's process.
    Document(Box<Process>),
    /// As the container's process, but for this.
    Like(Changes),
}

/// What differs from the container's process. What is empty, or false, does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub args: Vec<String>,
    /// Added; a name that is there already gets the new value.
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Added.
    pub additional_gids: Vec<u32>,
    /// Added to the bounding, effective and permitted sets.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    pub terminal: bool,
}

/// Parses a `process` object of the specification. The caller has limited its size.
pub fn parse_process(document: &[u8]) -> Result<(Process, Vec<Warning>), Vec<Violation>> {
    // One value and nothing after it.
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(document) {
        return Err(vec![Violation { place: "process".into(), rule: error.to_string() }]);
    }
    // Within a config every rule of reading one holds, and errors have their place.
    let mut config = br#"{"ociVersion":"1.0.0","process":"#.to_vec();
    config.extend_from_slice(document);
    config.push(b'}');
    let (spec, warnings) = crate::parse(&config)?;
    match spec.process() {
        Some(process) => Ok((process.clone(), warnings)),
        None => Err(vec![Violation { place: "process".into(), rule: "is missing".into() }]),
    }
}

/// Decides everything. `spec` is the container's, which was planned before; `options` are as for create, where they
/// are about a process. `Err` has all violations.
pub fn plan_exec(spec: &Spec, exec: &Exec, host: &Host, options: &Options) -> Result<Plan, Vec<Violation>> {
    let mut check = Check { strict: options.strict, ..Check::default() };
    // What is the container's was checked, and told, when it was made.
    let mut settled = Check::default();
    let linux = spec.linux().as_ref();
    let namespaces = namespaces::plan(linux, host, &mut settled);
    let cgroup = cgroup::plan(spec, host, options, &namespaces, &mut settled);
    let rootfs = rootfs::plan(spec, options, &namespaces, &mut settled);
    let personality = scheduling::personality(linux, &mut settled);
    let memory_policy = memory_policy::plan(linux, host, &mut settled);
    let (filter, seccomp_listener) = seccomp::plan(linux, host, &mut settled);

    let Some(own) = spec.process() else {
        check.violation("process", "is missing in the container's config");
        return Err(check.violations);
    };
    let process = match exec {
        Exec::Document(given) => completed((**given).clone(), own),
        Exec::Like(changes) => changed(own.clone(), changes, &mut check),
    };
    // Engines repeat the groups of the container's document beside its annotation.
    let groups = match exec {
        _ if !options.keep_groups => Groups::Given,
        Exec::Like(Changes { additional_gids, .. }) if !additional_gids.is_empty() => Groups::Kept,
        _ => Groups::KeptAnyway,
    };
    let mut ending = Ending::plan(&process, groups, host, options, &namespaces, &mut check);
    if !check.violations.is_empty() {
        return Err(check.violations);
    }
    // The container's console is its first process's terminal.
    if let Some(Step { action: Action::Terminal { console, .. }, .. }) = &mut ending.terminal {
        *console = false;
    }
    if let Action::WorkingDirectory { make, .. } = &mut ending.cwd.action {
        *make = false;
    }

    let add = |action: Action| Step { action, place: String::new() };
    let mut steps = Vec::new();
    if !options.no_new_keyring {
        steps.push(add(Action::JoinSessionKeyring { name: format!("_ses.{}", options.id) }));
    }
    // For its place in v1 cgroups, and what the copy will inherit.
    steps.push(add(Action::AwaitRuntime));
    if namespaces.user() {
        steps.push(add(Action::BecomeNamespaceRoot));
    }
    let own_root = namespaces.has(Namespace::Mount);
    steps.push(add(if own_root { Action::OpenRoot } else { Action::Chroot }));
    let terminal = ending.terminal.is_some();
    steps.extend(ending.terminal);
    if !ending.labels.is_empty() {
        steps.push(add(Action::OpenProc));
    }
    steps.push(ending.cwd);
    steps.push(ending.umask);
    steps.extend(personality);
    steps.extend(memory_policy);
    steps.extend(ending.labels);

    let filter = Filter::place(filter, &process, &ending.capabilities, false);
    let forks = namespaces.has(Namespace::Pid);
    // The kernel gives a copy the ordinary scheduler in place of such a one.
    let mut scheduler = None;
    match &ending.scheduler {
        Some(Step { action: Action::Scheduler(given), .. }) if forks && is_reset_by_fork(given) => {
            scheduler = Some(*given);
        }
        _ => steps.extend(ending.scheduler.clone()),
    }
    steps.extend(ending.io_priority);
    steps.push(ending.identity);
    steps.push(ending.find);
    // Where others may look at it, as little as can be is done and allowed; but a filter may forbid the copy.
    let traceable = may_be_traced(&namespaces, own, &process);
    let forbidden =
        matches!(&filter.early, Some(Step { action: Action::Seccomp(filter), .. }) if !filter.allows_fork);
    if forks && forbidden {
        if !namespaces.user() && traceable {
            check.violation(
                "linux.seccomp",
                "forbids clone, so that a process for exec would stand among others that may trace it before it has \
                 given up its capabilities: process.noNewPrivileges or a user namespace prevents that",
            );
            return Err(check.violations);
        }
        steps.push(add(Action::Fork));
    }
    steps.extend(filter.early);
    steps.push(ending.capabilities);
    steps.extend(no_new_privileges(&process));
    if forks && !forbidden {
        steps.push(add(Action::Fork));
    }
    steps.push(ending.session);
    steps.extend(filter.waiting);
    steps.push(add(Action::AwaitStart { parked: !options.run }));
    steps.extend(filter.late);
    steps.push(ending.execute);

    Ok(Plan {
        id: options.id.clone(),
        bundle: options.bundle.clone(),
        rootfs: rootfs.path,
        annotations: Default::default(),
        // Its limits stay as they are.
        cgroup: crate::CgroupPlan { resources: Resources::default(), ..cgroup },
        spawn: namespaces.spawn,
        outside: Outside { seccomp_listener, scheduler, traceable, ..ending.outside },
        steps,
        hooks: Default::default(),
        terminal,
        preserve_fds: options.preserve_fds,
        keep_groups: options.keep_groups,
        warnings: check.warnings,
        notes: check.notes,
    })
}

/// sched(7), "Resetting scheduling policy for child processes": what the flag says, and SCHED_DEADLINE cannot fork.
fn is_reset_by_fork(scheduler: &Scheduler) -> bool {
    const SCHED_DEADLINE: u32 = 6;
    const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
    scheduler.policy == SCHED_DEADLINE || scheduler.flags & SCHED_FLAG_RESET_ON_FORK != 0
}

/// Can there be somebody in the pid namespace with CAP_SYS_PTRACE, which init's being undumpable does not keep out?
fn may_be_traced(namespaces: &Namespaces, own: &Process, process: &Process) -> bool {
    let has = |process: &Process| {
        let sets = process.capabilities().iter();
        sets.flat_map(|sets| sets.bounding().iter().flatten()).any(|one| *one == Capability::SysPtrace)
    };
    namespaces.spawn.joins(Namespace::Pid) || has(own) || has(process)
}

/// What the document says, and of the rest what the container's process has.
fn completed(mut given: Process, own: &Process) -> Process {
    fn or<T: Clone>(given: &Option<T>, own: &Option<T>) -> Option<T> {
        given.clone().or_else(|| own.clone())
    }
    let text = |given: &Option<String>, own: &Option<String>| {
        or(&given.clone().filter(|text| !text.is_empty()), own)
    };
    let rlimits = given.rlimits().clone().filter(|limits| !limits.is_empty());
    given.set_capabilities(or(given.capabilities(), own.capabilities()));
    given.set_rlimits(or(&rlimits, own.rlimits()));
    given.set_no_new_privileges(given.no_new_privileges().or(own.no_new_privileges()));
    given.set_oom_score_adj(given.oom_score_adj().or(own.oom_score_adj()));
    given.set_apparmor_profile(text(given.apparmor_profile(), own.apparmor_profile()));
    given.set_selinux_label(text(given.selinux_label(), own.selinux_label()));
    given.set_scheduler(or(given.scheduler(), own.scheduler()));
    given.set_io_priority(or(given.io_priority(), own.io_priority()));
    given.set_exec_cpu_affinity(or(given.exec_cpu_affinity(), own.exec_cpu_affinity()));
    let umask = given.user().umask().or(own.user().umask());
    given.user_mut().set_umask(umask);
    given
}

fn changed(mut process: Process, changes: &Changes, check: &mut Check) -> Process {
    process.set_args(Some(changes.args.clone())).set_terminal(Some(changes.terminal));
    if !changes.env.is_empty() {
        let own = process.env().clone().unwrap_or_default();
        process.set_env(Some(own.into_iter().chain(changes.env.iter().cloned()).collect()));
    }
    if let Some(cwd) = &changes.cwd {
        process.set_cwd(PathBuf::from(cwd));
    }
    let user = process.user_mut();
    if let Some(uid) = changes.uid {
        user.set_uid(uid);
    }
    if let Some(gid) = changes.gid {
        user.set_gid(gid);
    }
    if !changes.additional_gids.is_empty() {
        let own = user.additional_gids().clone().unwrap_or_default();
        user.set_additional_gids(Some(
            own.into_iter().chain(changes.additional_gids.iter().copied()).collect(),
        ));
    }
    if changes.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &changes.apparmor_profile {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &changes.selinux_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if !changes.capabilities.is_empty() {
        let sets = process.capabilities().clone().unwrap_or_default();
        process.set_capabilities(Some(with(sets, &changes.capabilities, check)));
    }
    process
}

fn with(mut sets: LinuxCapabilities, names: &[String], check: &mut Check) -> LinuxCapabilities {
    let mut added = Vec::new();
    for name in names {
        let typed = name.strip_prefix("CAP_").and_then(|short| Capability::from_str(short).ok());
        match typed.filter(|_| capabilities::is_known(name)) {
            Some(capability) => added.push(capability),
            None => check.refuse("--cap", "is not the name of a capability, such as CAP_NET_ADMIN", name),
        }
    }
    let add = |set: &Option<Capabilities>| {
        let own = set.iter().flatten().copied();
        Some(own.chain(added.iter().copied()).collect::<Capabilities>())
    };
    let (bounding, effective, permitted) =
        (add(sets.bounding()), add(sets.effective()), add(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    sets
}
