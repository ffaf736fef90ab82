// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spec → Plan: the topics, each in its own file, and the order in which init does what they ask for.
//!
//! Never stops at the first violation. From the parsed document, the host's facts and the caller's options to the
//! [`Plan`] that the runtime carries out and `--dry-run` prints.

use std::collections::BTreeMap;

use oci_spec::runtime::{Capability, Process, Spec};

use crate::check::{Check, shown};
use crate::namespaces::Namespaces;
use crate::process::Groups;
use crate::types;
use crate::types::{
    Action, CgroupMode, CgroupPlace, Host, Namespace, Options, Outside, Plan, Step, Violation,
};
use crate::{
    capabilities, cgroup, devices, hooks, intel_rdt, memory_policy, mounts, namespaces, net_devices, process,
    rootfs, scheduling, seccomp, sysctl,
};

/// The newest minor version of the specification whose fields are known here.
const SPEC_MINOR: u64 = 3;
/// An annotation beyond this is not a label but a store.
const MAX_ANNOTATION: usize = 1 << 20;
/// utsname of uname(2), without the NUL.
const MAX_HOSTNAME: usize = 64;

/// Decides everything. `Err` has all violations, in the order in which the topics are planned.
pub fn plan(spec: &Spec, host: &Host, options: &Options) -> Result<Plan, Vec<Violation>> {
    let mut check = Check { strict: options.strict, ..Check::default() };
    let check_ref = &mut check;
    let linux = spec.linux().as_ref();

    version(spec, check_ref);
    let namespaces = namespaces::plan(linux, host, check_ref);
    let without_notify = Options { notify: String::new(), ..options.clone() };
    let options = if !options.notify.is_empty() && !namespaces.own_mounts() {
        let text = "sd_notify(3) is not forwarded to a container without a new mount namespace";
        check_ref.warn("linux.namespaces", text);
        &without_notify
    } else {
        options
    };
    let rootfs = rootfs::plan(spec, options, &namespaces, check_ref);
    let mounts = mounts::plan(spec, host, options, &namespaces, check_ref);
    let devices = devices::plan(linux, host, &namespaces, mounts.dev_is_bound, check_ref);
    let names = names(spec, &namespaces, check_ref);
    let sysctls = sysctl::plan(spec, &namespaces, check_ref);
    let net_devices = net_devices::plan(linux, host, &namespaces, &options.interfaces, check_ref);
    let intel_rdt = intel_rdt::plan(linux, host, options, check_ref);
    let cgroup = cgroup::plan(spec, host, options, &namespaces, check_ref);
    let hooks = hooks::plan(spec.hooks().as_ref(), check_ref);
    let annotations = annotations(spec, check_ref);
    let personality = scheduling::personality(linux, check_ref);
    let memory_policy = memory_policy::plan(linux, host, check_ref);
    // An older kernel makes the namespace, but execve(2) does not enter it: the command would have the host's clocks.
    if namespaces.spawn.makes(Namespace::Time) && host.kernel < (6, 1) {
        let running = format!("{}.{}", host.kernel.0, host.kernel.1);
        check.refuse("linux.namespaces", "a new time namespace needs Linux 6.1 or newer", running);
    }
    let (filter, seccomp_listener) = seccomp::plan(linux, host, &mut check);
    let Some(process) = spec.process() else {
        check.violation("process", "is missing: it is needed to create a container");
        return Err(check.violations);
    };
    let groups = process::groups(spec, options, &mut check);
    let ending = Ending::plan(process, groups, host, options, &namespaces, &mut check);
    if !options.interfaces.is_empty() && !namespaces.user() && has_net_admin(process) {
        // Its link has made the host's namespace known in its own, and the kernel then asks for no more than this
        // (rtnetlink(7), IFLA_TARGET_NETNSID).
        let text = "with CAP_NET_ADMIN and without a user namespace, a container on a network can change the network devices \
                    of the host";
        check.warn("process.capabilities", text);
    }
    let notify = !options.notify.is_empty();
    let interfaces = options.interfaces.clone();
    let outside = Outside { net_devices, interfaces, intel_rdt, seccomp_listener, notify, ..ending.outside };
    if !check.violations.is_empty() {
        return Err(check.violations);
    }

    let runtime_hooks = !hooks.outside.prestart.is_empty() || !hooks.outside.create_runtime.is_empty();
    let procfs = !sysctls.is_empty() || !ending.labels.is_empty();
    let own_mounts = namespaces.own_mounts();

    // The order. What needs the host's tree or the caller's rights comes before the root changes; what takes rights
    // away comes last.
    let mut steps: Vec<Step> = Vec::new();
    let add = |action: Action, place: &str| Step { action, place: place.to_string() };
    if !options.no_new_keyring {
        // First, while a failure still has nothing to undo; keys are looked up by the ids of the creator.
        steps.push(add(Action::JoinSessionKeyring { name: format!("_ses.{}", options.id) }, ""));
    }
    if waits(host, &namespaces, &outside, &cgroup.place) {
        steps.push(add(Action::AwaitRuntime, ""));
    }
    if namespaces.user() {
        steps.push(add(Action::BecomeNamespaceRoot, ""));
    }
    if namespaces.new_cgroup {
        // Only now: its root is the cgroup that the process is in at this moment.
        steps.push(add(Action::UnshareCgroup, &namespaces.cgroup_place));
    }
    steps.extend(names);
    if namespaces.spawn.makes(Namespace::Network) {
        steps.push(add(Action::LoopbackUp, ""));
    }
    steps.extend(rootfs.before);
    if own_mounts {
        steps.extend(mounts.steps.into_iter().map(|mut step| {
            if let Action::Mount(types::Mount { propagation, .. })
            | Action::Bind(types::Bind { propagation, .. }) = &mut step.action
                && propagation.is_empty()
            {
                propagation.extend(rootfs.for_mounts);
            }
            step
        }));
        steps.extend(devices);
    }
    if runtime_hooks {
        steps.push(add(Action::RuntimeHooks, "hooks"));
    }
    steps.extend(hooks.create_container);
    steps.push(rootfs.enter);
    steps.extend(ending.terminal);
    steps.push(ending.session);
    steps.extend(rootfs.propagation);
    if procfs {
        steps.push(add(Action::OpenProc, ""));
    }
    steps.extend(sysctls);
    steps.extend(rootfs.covers);
    // It may have to be made, so before what it is in becomes read-only; and after the masks, not to be under one.
    steps.push(ending.cwd);
    steps.extend(mounts.seals);
    steps.extend(rootfs.readonly);
    steps.push(ending.umask);
    steps.extend(ending.scheduler);
    steps.extend(ending.io_priority);
    steps.extend(personality);
    steps.extend(memory_policy);
    steps.extend(ending.labels);
    let filter = Filter::place(filter, process, &ending.capabilities, !hooks.start_container.is_empty());
    steps.push(ending.identity);
    steps.push(ending.find);
    steps.extend(filter.early);
    steps.push(ending.capabilities);
    steps.extend(no_new_privileges(process));
    steps.extend(filter.waiting);
    steps.push(add(Action::AwaitStart { parked: !options.run }, ""));
    steps.extend(hooks.start_container);
    steps.extend(filter.late);
    steps.push(ending.execute);

    Ok(Plan {
        id: options.id.clone(),
        bundle: options.bundle.clone(),
        rootfs: rootfs.path,
        annotations,
        cgroup,
        spawn: namespaces.spawn,
        outside,
        steps,
        hooks: hooks.outside,
        terminal: process.terminal().unwrap_or(false),
        preserve_fds: options.preserve_fds,
        keep_groups: groups != Groups::Given,
        warnings: check.warnings,
        notes: check.notes,
    })
}

/// The step that brings the filter, in one of three places, each as late as can be.
#[derive(Default)]
pub(crate) struct Filter {
    /// Before what takes away the right to load it.
    pub(crate) early: Option<Step>,
    /// Before the wait: an agent is to have the listener by then, or hooks that run files of the container come after.
    pub(crate) waiting: Option<Step>,
    /// Right before the command.
    pub(crate) late: Option<Step>,
}

impl Filter {
    pub(crate) fn place(
        filter: Option<types::Seccomp>,
        process: &Process,
        capabilities: &Step,
        hooks: bool,
    ) -> Filter {
        const CAP_SYS_ADMIN: u64 = 1 << 21;
        let Some(filter) = filter else { return Filter::default() };
        let kept =
            matches!(&capabilities.action, Action::Capabilities(sets) if sets.effective & CAP_SYS_ADMIN != 0);
        let early = process.no_new_privileges() != Some(true) && !kept;
        let waiting = filter.notifies || hooks;
        let step = Some(Step { action: Action::Seccomp(filter), place: "linux.seccomp".to_string() });
        match (early, waiting) {
            (true, _) => Filter { early: step, ..Filter::default() },
            (false, true) => Filter { waiting: step, ..Filter::default() },
            (false, false) => Filter { late: step, ..Filter::default() },
        }
    }
}

pub(crate) fn no_new_privileges(process: &Process) -> Option<Step> {
    let wanted = process.no_new_privileges() == Some(true);
    wanted.then(|| Step { action: Action::NoNewPrivileges, place: "process.noNewPrivileges".to_string() })
}

/// Does the runtime have something to do with the process before it may go on?
fn waits(host: &Host, namespaces: &Namespaces, outside: &Outside, cgroup: &CgroupPlace) -> bool {
    // On a pure cgroup2 host the clone puts the process where it belongs, unless systemd does.
    !namespaces.spawn.uid_map.is_empty()
        || matches!(cgroup, CgroupPlace::Unit(_))
        || matches!(host.cgroup.mode, CgroupMode::Hybrid | CgroupMode::V1) && *cgroup != CgroupPlace::Nowhere
        || !outside.net_devices.is_empty()
        || !outside.interfaces.is_empty()
}

fn has_net_admin(process: &Process) -> bool {
    let sets =
        process.capabilities().as_ref().map(|sets| [sets.bounding(), sets.permitted(), sets.effective()]);
    let mut names = sets.into_iter().flatten().flatten().flatten();
    names.any(|name| *name == Capability::NetAdmin)
}

/// What becomes of the process itself: the same for create and exec.
pub(crate) struct Ending {
    pub(crate) terminal: Option<Step>,
    pub(crate) session: Step,
    pub(crate) umask: Step,
    pub(crate) cwd: Step,
    pub(crate) scheduler: Option<Step>,
    pub(crate) io_priority: Option<Step>,
    pub(crate) labels: Vec<Step>,
    pub(crate) identity: Step,
    pub(crate) capabilities: Step,
    pub(crate) find: Step,
    pub(crate) execute: Step,
    /// The process's part of it.
    pub(crate) outside: Outside,
}

impl Ending {
    pub(crate) fn plan(
        process: &Process,
        groups: Groups,
        host: &Host,
        options: &Options,
        namespaces: &Namespaces,
        check: &mut Check,
    ) -> Ending {
        let sets = capabilities::plan(process.capabilities().as_ref(), host, namespaces, check);
        let [initial_cpus, final_cpus] = scheduling::exec_affinity(process, host, check);
        let (find, execute) = process::command(process, options, check);
        let terminal = process::terminal(process, options, check);
        let session = Action::NewSession { terminal: terminal.is_some() };
        Ending {
            terminal,
            session: Step { action: session, place: String::new() },
            umask: process::umask(process.user(), check),
            cwd: process::cwd(process, check),
            scheduler: scheduling::scheduler(process, check),
            io_priority: scheduling::io_priority(process, check),
            labels: labels(process, host, check),
            identity: process::identity(process.user(), groups, &sets, namespaces, check),
            capabilities: process::capabilities(&sets),
            find,
            execute,
            outside: Outside {
                rlimits: process::rlimits(process, host, check),
                oom_score_adj: scheduling::oom_score_adj(process, host, check),
                initial_cpus,
                final_cpus,
                ..Outside::default()
            },
        }
    }
}

/// AppArmor's profile and SELinux's label for the execve at the end.
fn labels(process: &Process, host: &Host, check: &mut Check) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
        let place = "process.apparmorProfile";
        if !host.apparmor {
            check.refuse(place, "AppArmor is not enabled on this host", profile);
        }
        check.text(place, profile);
        steps.push(Step {
            action: Action::AppArmor { profile: profile.to_string() },
            place: place.to_string(),
        });
    }
    if let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) {
        let place = "process.selinuxLabel";
        if !host.selinux {
            check.refuse(place, "SELinux is not enabled on this host", label);
        }
        check.text(place, label);
        steps.push(Step {
            action: Action::SelinuxLabel { label: label.to_string() },
            place: place.to_string(),
        });
    }
    steps
}

fn names(spec: &Spec, namespaces: &Namespaces, check: &mut Check) -> Vec<Step> {
    let mut steps = Vec::new();
    for (place, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.clone().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !namespaces.has(Namespace::Uts) {
            check.refuse(place, "needs a uts namespace in linux.namespaces", &name);
        }
        if name.len() > MAX_HOSTNAME {
            check.refuse(place, &format!("has at most {MAX_HOSTNAME} bytes"), &name);
        }
        check.text(place, &name);
        let action =
            if place == "hostname" { Action::SetHostname { name } } else { Action::SetDomainname { name } };
        steps.push(Step { action, place: place.to_string() });
    }
    steps
}

/// Stored and shown; interpreted only with [`Options::allow_annotations`] (CVE-2024-3154, CVE-2022-0811 came from more).
fn annotations(spec: &Spec, check: &mut Check) -> BTreeMap<String, String> {
    let mut sorted = BTreeMap::new();
    for (key, value) in spec.annotations().iter().flatten() {
        if key.is_empty() {
            check.refuse("annotations", "a key must not be empty", value);
        }
        if key.len() > MAX_ANNOTATION || value.len() > MAX_ANNOTATION {
            check.refuse("annotations", "a key or value has at most 1 MiB", key);
        }
        sorted.insert(key.clone(), value.clone());
    }
    sorted
}

fn version(spec: &Spec, check: &mut Check) {
    const PLACE: &str = "ociVersion";
    match semver(spec.version()) {
        None => check.refuse(PLACE, "must be a version as in SemVer 2.0.0, such as 1.2.0", spec.version()),
        Some((1, minor)) if minor > SPEC_MINOR => {
            let text = format!(
                "{} is newer than 1.{SPEC_MINOR}, what is new there is ignored",
                shown(spec.version())
            );
            check.warn(PLACE, text);
        }
        Some((1, _)) => {}
        Some(_) => check.refuse(PLACE, "only major version 1 is supported", spec.version()),
    }
}

/// Major and minor number of a SemVer 2.0.0 version.
fn semver(version: &str) -> Option<(u64, u64)> {
    let identifiers = |text: &str| {
        text.split('.')
            .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
    };
    let (rest, build) = version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    if build.is_some_and(|build| !identifiers(build)) || pre.is_some_and(|pre| !identifiers(pre)) {
        return None;
    }
    let mut numbers = core.split('.').map(|part| {
        let number = !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'));
        if number { part.parse::<u64>().ok() } else { None }
    });
    let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::semver;

    #[test]
    fn b15_semver() {
        for good in ["1.0.2", "1.0.2-dev", "1.2.0-rc.1+build.5", "1.0.0-a-b"] {
            assert!(semver(good).is_some(), "{good}");
        }
        for bad in
            ["", "latest", "1.0", "v1.0.2", "1.0.2.3", "1.00.2", "1.0.2-", "1.0.x", "1.0.2-a..b", " 1.0.2"]
        {
            assert_eq!(semver(bad), None, "{bad}");
        }
    }
}
