// SPDX-License-Identifier: MIT OR Apache-2.0
//! Can this host run containers, as root and as an ordinary user; and if not, what mends it?
//!
//! Changes nothing and needs no rights. [`facts`] gathers, with [`attempt`] for what only shows when it is tried;
//! judging is a pure function of that.

mod attempt;
mod facts;
#[cfg(test)]
mod tests;

use std::path::Path;

use coracle_plan::CgroupMode;
use coracle_sys::Errno;

use attempt::{Attempt, Step};
use facts::{Caller, Facts, Range, Tool, Tun, gather};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Ok,
    /// Something does not work that could, see [`Check::mend`].
    Missing,
    /// Neither good nor bad.
    Note,
}

impl Finding {
    pub fn name(self) -> &'static str {
        match self {
            Finding::Ok => "ok",
            Finding::Missing => "missing",
            Finding::Note => "note",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable, for programs.
    pub name: &'static str,
    pub status: Finding,
    pub detail: String,
    /// What to run or set.
    pub mend: Option<String>,
    need: Need,
}

/// Everything that was looked at, with the verdicts `root` and `rootless` last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    pub checks: Vec<Check>,
    /// Containers of the caller can run.
    pub works: bool,
}

/// Look at this host. `root` is where the caller's containers would be kept. Waits for systemd where it does not answer,
/// with a deadline.
pub fn doctor(root: &Path) -> Diagnosis {
    judge(&gather(root))
}

/// What does not work without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Root,
    Rootless,
    Both,
    Nothing,
}

/// Whose containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Root,
    Rootless,
}

impl Need {
    fn of(self, usage: Use) -> bool {
        match self {
            Need::Both => true,
            Need::Root => usage == Use::Root,
            Need::Rootless => usage == Use::Rootless,
            Need::Nothing => false,
        }
    }
}

impl Caller {
    fn usage(&self) -> Use {
        if self.privileged && self.initial_user_namespace { Use::Root } else { Use::Rootless }
    }

    fn need(&self) -> Need {
        match self.usage() {
            Use::Root => Need::Root,
            Use::Rootless => Need::Rootless,
        }
    }

    /// Root of a user namespace that somebody else has made: it has ids and rights already.
    fn inside(&self) -> bool {
        self.privileged && !self.initial_user_namespace
    }
}

fn ok(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, status: Finding::Ok, detail: detail.into(), mend: None, need: Need::Nothing }
}

fn note(name: &'static str, detail: impl Into<String>) -> Check {
    Check { status: Finding::Note, ..ok(name, detail) }
}

fn missing(name: &'static str, need: Need, detail: impl Into<String>, mend: impl Into<String>) -> Check {
    let (detail, mend) = (detail.into(), Some(mend.into()));
    Check { name, status: Finding::Missing, detail, mend, need }
}

fn judge(facts: &Facts) -> Diagnosis {
    let mut checks =
        vec![kernel(facts), calls(facts), memfd(facts), pidfd_info(facts), seccomp(facts), lsm(facts)];
    checks.push(namespaces(facts));
    checks.push(user_namespaces(facts));
    checks.extend(apparmor_userns(facts));
    checks.push(subid("subuid", "/etc/subuid", "--add-subuids", &facts.subuid, facts));
    checks.push(subid("subgid", "/etc/subgid", "--add-subgids", &facts.subgid, facts));
    checks.push(tool("newuidmap", "cap_setuid", &facts.newuidmap, facts));
    checks.push(tool("newgidmap", "cap_setgid", &facts.newgidmap, facts));
    checks.extend(id_maps(facts));
    checks.extend([
        cgroups(facts),
        controllers(facts),
        systemd(facts),
        overlay(facts),
        keys(facts),
        tun(facts),
    ]);
    checks.push(state(facts));
    checks.push(container(facts));
    let own = facts.caller.usage();
    let verdicts = [verdict(Use::Root, &checks, facts), verdict(Use::Rootless, &checks, facts)];
    let works = !checks.iter().any(|check| blocks(check, own));
    checks.extend(verdicts);
    Diagnosis { checks, works }
}

fn blocks(check: &Check, usage: Use) -> bool {
    check.status == Finding::Missing && check.need.of(usage)
}

const OLDEST: (u32, u32) = (5, 14);

/// `6.1.0-13-amd64` → (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn kernel(facts: &Facts) -> Check {
    if let Some(error) = &facts.caller.error {
        return missing("kernel", Need::Both, error, "mount -t proc proc /proc");
    }
    match version(&facts.kernel) {
        Some(version) if version >= OLDEST => ok("kernel", format!("Linux {}", facts.kernel)),
        _ => {
            missing("kernel", Need::Both, format!("Linux {}", facts.kernel), "boot Linux 5.14 or a newer one")
        }
    }
}

fn calls(facts: &Facts) -> Check {
    let lacking = facts.calls.iter().filter_map(|call| match call.result {
        Ok(()) => None,
        // The attempt at a container tells.
        Err(Errno::PERM) if call.privileged && facts.caller.usage() == Use::Rootless => None,
        Err(errno) => Some(format!("{}: {}", call.name, errno.words())),
    });
    let lacking: Vec<String> = lacking.collect();
    if !lacking.is_empty() {
        let mend =
            "boot Linux 5.14 or a newer one; in a container, have its seccomp profile allow these calls";
        return missing("calls", Need::Both, lacking.join(", "), mend);
    }
    ok("calls", facts.calls.iter().map(|call| call.name).collect::<Vec<_>>().join(" "))
}

fn memfd(facts: &Facts) -> Check {
    match (&facts.memory_program, facts.memfd_noexec) {
        (Ok(()), _) => ok("memfd", "programs run from memory"),
        (Err(error), Some(2)) => {
            let detail = format!("{error} (vm.memfd_noexec is 2)");
            missing("memfd", Need::Both, detail, "sysctl -w vm.memfd_noexec=1")
        }
        (Err(error), _) => {
            let mend =
                "allow memfd_create(2) and execveat(2): a seccomp filter, or an LSM's policy, forbids them";
            missing("memfd", Need::Both, error, mend)
        }
    }
}

fn pidfd_info(facts: &Facts) -> Check {
    match facts.pidfd_info {
        true => ok("pidfd-info", "the kernel tells how processes of others have ended"),
        false => note("pidfd-info", "PIDFD_GET_INFO is from Linux 6.13: `oar wait` has less to go by"),
    }
}

fn seccomp(facts: &Facts) -> Check {
    let lacking: Vec<&str> =
        facts.seccomp_actions.iter().filter(|(_, known)| !known).map(|(name, _)| *name).collect();
    if lacking.len() == facts.seccomp_actions.len() {
        let mend = "boot a kernel with CONFIG_SECCOMP_FILTER";
        return missing("seccomp", Need::Nothing, "no filters: configs with linux.seccomp fail", mend);
    }
    if !lacking.is_empty() || !facts.seccomp_listener {
        let listener = if facts.seccomp_listener { None } else { Some("listeners") };
        let lacking: Vec<&str> = lacking.into_iter().chain(listener).collect();
        let mend = "boot Linux 5.14 or a newer one";
        return missing("seccomp", Need::Nothing, format!("filters, but not {}", lacking.join(", ")), mend);
    }
    let names: Vec<&str> = facts.seccomp_actions.iter().map(|(name, _)| *name).collect();
    ok("seccomp", format!("filters and listeners: {}", names.join(" ")))
}

fn lsm(facts: &Facts) -> Check {
    let mut parts = Vec::new();
    if facts.apparmor {
        parts.push("AppArmor is enabled".to_string());
    }
    match facts.selinux_enforcing {
        Some(true) => parts.push("SELinux is enforcing".to_string()),
        Some(false) => parts.push("SELinux is permissive".to_string()),
        None => {}
    }
    if parts.is_empty() {
        parts.push(
            "neither AppArmor nor SELinux: process.apparmorProfile and selinuxLabel cannot be used".into(),
        );
    }
    if !facts.security_modules.is_empty() {
        parts.push(format!("active: {}", facts.security_modules));
    }
    let detail = parts.join("; ");
    if facts.apparmor || facts.selinux_enforcing.is_some() { ok("lsm", detail) } else { note("lsm", detail) }
}

/// All kinds but the user namespace, which root needs none of.
fn namespaces(facts: &Facts) -> Check {
    let kinds = facts.namespace_limits.iter().filter(|(kind, _)| *kind != "user");
    let none: Vec<&str> = kinds.filter(|(_, limit)| *limit == 0).map(|(kind, _)| *kind).collect();
    if !none.is_empty() {
        let sysctls: Vec<String> =
            none.iter().map(|kind| format!("sysctl -w user.max_{kind}_namespaces=10000")).collect();
        let detail = format!("a limit of 0 forbids: {}", none.join(", "));
        return missing("namespaces", Need::Both, detail, sysctls.join("; "));
    }
    // A kind that the kernel does not have shows in the attempt.
    ok("namespaces", "no limit is 0")
}

fn user_namespaces(facts: &Facts) -> Check {
    let need = if facts.caller.inside() { Need::Nothing } else { Need::Rootless };
    let Some((_, limit)) = facts.namespace_limits.iter().find(|(kind, _)| *kind == "user") else {
        let mend = "boot a kernel with CONFIG_USER_NS";
        return missing("user-namespaces", need, "the kernel has none", mend);
    };
    if *limit == 0 {
        let mend = "sysctl -w user.max_user_namespaces=10000";
        return missing("user-namespaces", need, "user.max_user_namespaces is 0", mend);
    }
    if facts.unprivileged_userns_clone == Some(0) {
        let mend = "sysctl -w kernel.unprivileged_userns_clone=1";
        return missing("user-namespaces", need, "kernel.unprivileged_userns_clone is 0", mend);
    }
    ok("user-namespaces", format!("up to {limit} (user.max_user_namespaces)"))
}

const UNCONFINED: &str = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or load an AppArmor profile for oar that \
                          has `userns,`";

/// Ubuntu: user namespaces without rights in them, but for programs whose profile says otherwise.
fn apparmor_userns(facts: &Facts) -> Option<Check> {
    let name = "apparmor-userns";
    let restricted = facts.apparmor_restrict? != 0;
    if !restricted {
        return Some(ok(name, "AppArmor restricts no user namespaces"));
    }
    // Its profile is by the program, so that what root tried as nobody counts as well.
    let tried = facts.ordinary.as_ref().unwrap_or(&facts.own);
    let detail = "kernel.apparmor_restrict_unprivileged_userns is 1";
    Some(match broken(tried).is_empty() {
        true => ok(name, format!("{detail}, and lets oar")),
        false => missing(name, Need::Rootless, detail, UNCONFINED),
    })
}

fn subid(
    name: &'static str,
    file: &str,
    flag: &str,
    found: &Result<Vec<Range>, String>,
    facts: &Facts,
) -> Check {
    if facts.caller.usage() == Use::Root {
        return note(name, "root needs none; each ordinary user has their own");
    }
    if facts.caller.inside() {
        return note(name, "not needed: already in a user namespace");
    }
    let caller = &facts.caller.name;
    let mend =
        || format!("usermod {flag} 100000-165535 {caller}   (as root; a range that nobody has in {file})");
    if let Ok(ranges) = found
        && !ranges.is_empty()
    {
        let count: u64 = ranges.iter().map(|(_, count)| u64::from(*count)).sum();
        let list: Vec<String> = ranges.iter().map(|(start, count)| format!("{count} from {start}")).collect();
        let detail = format!("{} ({file})", list.join(", "));
        return match count {
            // nobody and nogroup of most images.
            ..65535 => {
                missing(name, Need::Nothing, format!("{detail}: less than the 65535 of most images"), mend())
            }
            _ => ok(name, detail),
        };
    }
    if let Some(service) = &facts.subid_service {
        return note(name, format!("subordinate ids come from {service} (nsswitch.conf), not from {file}"));
    }
    let why = match found {
        Ok(_) => format!("no entry for {caller} or {} in {file}", facts.caller.euid),
        Err(error) => error.clone(),
    };
    missing(name, Need::Nothing, format!("{why}: containers have one id"), mend())
}

fn tool(name: &'static str, capability: &str, tool: &Tool, facts: &Facts) -> Check {
    let Some(path) = &tool.path else {
        if facts.caller.inside() {
            return note(name, "not needed: already in a user namespace");
        }
        let detail = "not found: containers of ordinary users have one id";
        return missing(name, Need::Nothing, detail, "apt install uidmap   (Fedora: shadow-utils)");
    };
    if !tool.setuid && !tool.capability {
        let detail = format!("{path} is neither setuid root nor has it {capability}");
        return missing(name, Need::Nothing, detail, format!("chmod u+s {path}   (as root)"));
    }
    if tool.nosuid {
        let detail = format!("{path} is on a filesystem that is mounted with nosuid");
        return missing(name, Need::Nothing, detail, "remount it with suid");
    }
    if facts.caller.no_new_privs && facts.caller.usage() == Use::Rootless && !facts.caller.inside() {
        let mend = "run oar outside of what sets no_new_privs, such as NoNewPrivileges= of a systemd unit";
        return missing(name, Need::Nothing, format!("{path}: no_new_privs takes its rights"), mend);
    }
    ok(name, format!("{path} ({})", if tool.setuid { "setuid" } else { capability }))
}

fn id_maps(facts: &Facts) -> Option<Check> {
    Some(match facts.mapped.as_ref()? {
        Ok(()) => ok("id-maps", "tried: the ranges can be mapped"),
        // The tools look it up, wherever users are kept.
        Err(error) if facts.caller.name == facts.caller.euid.to_string() => {
            let mend = format!("useradd --uid {} NAME: the tools want a user with a name", facts.caller.euid);
            missing("id-maps", Need::Nothing, error, mend)
        }
        Err(error) => {
            let mend = "make the ranges of /etc/subuid and /etc/subgid valid, and see the lines above";
            missing("id-maps", Need::Nothing, error, mend)
        }
    })
}

/// Controllers that limits of a document are for, by their names on v2 and v1.
const WANTED: [(&str, &str); 5] =
    [("cpu", "cpu"), ("cpuset", "cpuset"), ("io", "blkio"), ("memory", "memory"), ("pids", "pids")];

fn cgroups(facts: &Facts) -> Check {
    match facts.cgroup.mode {
        CgroupMode::V2 => ok("cgroups", "v2"),
        CgroupMode::Hybrid => note("cgroups", "hybrid: v1 controllers, with a v2 tree beside them"),
        CgroupMode::V1 => note("cgroups", "v1 alone"),
        CgroupMode::None => missing(
            "cgroups",
            // Configs have a mount of type cgroup, those of `oar spec` too.
            Need::Both,
            "none is mounted: no limits, and no mounts of type cgroup",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

const DELEGATE: &str = "systemctl edit user@.service, with: [Service] Delegate=cpu cpuset io memory pids   (as root; then log \
                        in anew)";

fn controllers(facts: &Facts) -> Check {
    let name = "controllers";
    let has =
        |writable: bool, controller: &(&str, &str)| {
            facts.cgroup.places.iter().filter(|place| place.writable || !writable).any(|place| {
                place.controllers.iter().any(|name| name == controller.0 || name == controller.1)
            })
        };
    let names = |writable: bool, there: bool| {
        let chosen = WANTED.iter().filter(|controller| has(writable, controller) == there);
        chosen.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    };
    let (usable, lacking) = (names(true, true), names(true, false));
    if lacking.is_empty() {
        let directory = facts.cgroup.places.iter().rev().find(|place| place.writable);
        let place = directory.map_or(String::new(), |place| format!(" ({})", place.directory));
        return ok(name, format!("{usable}{place}"));
    }
    let limits = if usable.is_empty() {
        "no limits can be set; containers without limits run".to_string()
    } else {
        format!("{usable}, but not {lacking}")
    };
    let mend = match (facts.caller.usage(), facts.cgroup.mode) {
        (_, CgroupMode::None) => "mount cgroups first",
        (Use::Root, _) if names(false, false).is_empty() => "mount the cgroup filesystems read-write",
        (Use::Root, _) => "boot a kernel that has them, perhaps with cgroup_enable=memory",
        (Use::Rootless, CgroupMode::V1 | CgroupMode::Hybrid) => {
            "boot with systemd.unified_cgroup_hierarchy=1: controllers of v1 are root's"
        }
        (Use::Rootless, CgroupMode::V2) if facts.user_manager.is_ok() => DELEGATE,
        (Use::Rootless, CgroupMode::V2) => {
            "log in through systemd (ssh, machinectl shell USER@), whose user manager delegates"
        }
    };
    missing(name, Need::Nothing, limits, mend)
}

/// The caller's own manager, which makes cgroups with --systemd-cgroup.
fn systemd(facts: &Facts) -> Check {
    let name = "systemd";
    let (whose, manager) = match facts.caller.usage() {
        Use::Root => ("system", &facts.system_manager),
        Use::Rootless => ("user", &facts.user_manager),
    };
    let error = match manager {
        Ok(group) => {
            let place = if group.is_empty() { "/" } else { group };
            return ok(name, format!("the {whose} manager answers over D-Bus; its cgroup is {place}"));
        }
        Err(error) => error,
    };
    let mend = match (facts.caller.usage(), &facts.system_manager) {
        (Use::Root, _) => "boot with systemd, or leave out --systemd-cgroup".to_string(),
        (Use::Rootless, Ok(_)) => {
            let Caller { name, euid, .. } = &facts.caller;
            format!("loginctl enable-linger {name}; export XDG_RUNTIME_DIR=/run/user/{euid}")
        }
        (Use::Rootless, Err(_)) => "boot with systemd; containers without limits run without it".to_string(),
    };
    missing(name, Need::Nothing, format!("no {whose} manager: {error}"), mend)
}

fn overlay(facts: &Facts) -> Check {
    let name = "overlay";
    let (tried, whose) = match &facts.ordinary {
        Some(ordinary) => (ordinary, "as an ordinary user too"),
        None => (&facts.own, "in the caller's namespaces"),
    };
    if !facts.overlay_loaded {
        return match version(&facts.kernel) {
            Some(version) if version >= (5, 11) => {
                let detail = "the module is not loaded (it may come by itself); this kernel allows it to ordinary users";
                Check { mend: Some("modprobe overlay   (as root)".into()), ..note(name, detail) }
            }
            _ => missing(name, Need::Nothing, "not for ordinary users", "boot Linux 5.11 or a newer one"),
        };
    }
    if let Some((_, errno)) = tried.failures.iter().find(|(step, _)| *step == Step::Overlay) {
        let detail = format!("mount: {}", errno.words());
        return missing(
            name,
            Need::Nothing,
            detail,
            "boot a kernel with overlay in user namespaces (5.11), or use fuse-overlayfs",
        );
    }
    match broken(tried).is_empty() {
        true => ok(name, format!("tried: it can be mounted, {whose}")),
        false => note(name, "not tried, see container"),
    }
}

fn keys(facts: &Facts) -> Check {
    match facts.keys {
        None => note("keys", "the kernel has no keyrings to give"),
        Some((used, limit)) if used < limit => ok("keys", format!("{used} of {limit} keys are in use")),
        Some((used, limit)) => {
            let sysctl = if facts.caller.euid == 0 { "root_maxkeys" } else { "maxkeys" };
            let mend = format!(
                "sysctl -w kernel.keys.{sysctl}={}, or give --no-new-keyring",
                limit.saturating_mul(10)
            );
            missing("keys", facts.caller.need(), format!("{used} of {limit} keys are in use"), mend)
        }
    }
}

fn tun(facts: &Facts) -> Check {
    let for_what = "rootless networks (pasta, slirp4netns) need it";
    match facts.tun {
        Tun::Usable => ok("tun", "/dev/net/tun can be opened"),
        Tun::Absent => {
            let detail = format!("no /dev/net/tun: {for_what}");
            missing("tun", Need::Nothing, detail, "modprobe tun   (as root)")
        }
        Tun::Refused => {
            let detail = format!("/dev/net/tun is not the caller's to open: {for_what}");
            missing("tun", Need::Nothing, detail, "chmod 0666 /dev/net/tun   (as root)")
        }
    }
}

fn state(facts: &Facts) -> Check {
    const GROUP_AND_OTHERS_WRITE: u32 = 0o022;
    const OTHERS_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let (state, need) = (&facts.state, facts.caller.need());
    let there = state.path == state.nearest;
    let elsewhere = match facts.caller.usage() {
        Use::Root => "give --root DIR with a directory of root's".to_string(),
        Use::Rootless => {
            let uid = facts.caller.euid;
            format!(
                "log in through systemd and export XDG_RUNTIME_DIR=/run/user/{uid}, or give --root DIR with a directory of your own"
            )
        }
    };
    let at =
        if there { state.path.clone() } else { format!("{} cannot be made: {}", state.path, state.nearest) };
    if !state.directory {
        return missing("state", need, format!("{at} is not a directory"), elsewhere);
    }
    if there && state.owner != facts.caller.euid {
        return missing("state", need, format!("{at} belongs to uid {}", state.owner), elsewhere);
    }
    if !state.writable {
        return missing("state", need, format!("{at} is not writable"), elsewhere);
    }
    if there && state.mode & GROUP_AND_OTHERS_WRITE != 0 {
        let detail = format!("{at} is writable for others (mode {:04o})", state.mode);
        return missing("state", need, detail, format!("chmod 0700 {}", state.path));
    }
    if !there && state.mode & OTHERS_WRITE != 0 && state.mode & STICKY == 0 {
        let detail = format!("{} is writable for all, and not sticky", state.nearest);
        return missing("state", need, detail, format!("chmod +t {}", state.nearest));
    }
    ok("state", if there { state.path.clone() } else { format!("{} (made when it is needed)", state.path) })
}

/// What no container can do without.
fn broken(attempt: &Attempt) -> Vec<String> {
    let failures = attempt.failures.iter().filter(|(step, _)| *step != Step::Overlay);
    let words = failures.map(|(step, errno)| format!("{}: {}", step.name(), errno.words()));
    words.chain(attempt.unfinished.clone()).collect()
}

fn container(facts: &Facts) -> Check {
    let name = "container";
    let mut wrong = broken(&facts.own);
    if wrong.is_empty() {
        wrong.extend(facts.own_init.clone().err());
    }
    if wrong.is_empty() {
        let user = if facts.caller.privileged { "" } else { "user namespace, " };
        return ok(name, format!("tried: {user}namespaces, mounts and init, as the caller"));
    }
    missing(name, facts.caller.need(), wrong.join("; "), mend_attempt(&facts.own, facts))
}

fn mend_attempt(attempt: &Attempt, facts: &Facts) -> String {
    let first = attempt.failures.iter().find(|(step, _)| *step != Step::Overlay);
    let limited = facts.namespace_limits.iter().any(|(_, limit)| *limit == 0);
    match first {
        _ if facts.apparmor_restrict.is_some_and(|restricted| restricted != 0) => UNCONFINED.into(),
        _ if limited || facts.unprivileged_userns_clone == Some(0) => "see namespaces and user-namespaces above".into(),
        Some((_, Errno(libc::ENOSPC))) => "raise the user.max_*_namespaces of this user namespace and those above".into(),
        Some((Step::Maps, _)) if facts.caller.euid == 0 => "run oar as an ordinary user, or with CAP_SETFCAP".into(),
        Some((Step::Proc, _)) => {
            "procfs here is partly covered: have the container around this one not mask it (Docker: --security-opt \
             systempaths=unconfined)"
                .into()
        }
        _ => "allow it in what confines the caller: in a container, its seccomp and AppArmor profiles (Docker: --security-opt \
              seccomp=unconfined --security-opt apparmor=unconfined)"
            .into(),
    }
}

fn verdict(usage: Use, checks: &[Check], facts: &Facts) -> Check {
    let name = match usage {
        Use::Root => "root",
        Use::Rootless => "rootless",
    };
    let own = usage == facts.caller.usage();
    let list = |wanted: &dyn Fn(&Check) -> bool| {
        checks.iter().filter(|check| wanted(check)).map(|check| check.name).collect::<Vec<_>>().join(", ")
    };
    let mend = |names: &str| format!("mend {names}");
    let blocking = list(&|check| blocks(check, usage));
    if !blocking.is_empty() {
        return missing(name, Need::Nothing, "containers cannot run", mend(&blocking));
    }
    match (usage, &facts.ordinary) {
        (Use::Rootless, Some(ordinary)) => {
            // Whoever may not become somebody else cannot tell.
            if let Some((Step::Identity, errno)) = ordinary.failures.first() {
                return note(name, format!("not tried: {}: {}", Step::Identity.name(), errno.words()));
            }
            let wrong = broken(ordinary);
            if !wrong.is_empty() {
                let mend = mend_attempt(ordinary, facts);
                return missing(name, Need::Nothing, format!("as nobody: {}", wrong.join("; ")), mend);
            }
            return ok(
                name,
                "containers of ordinary users can run (tried as nobody); each user has to ask for subids and limits",
            );
        }
        (Use::Root, _) if !own => {
            return note(name, "nothing is known to be missing; ask as root to have it tried");
        }
        _ => {}
    }
    let lacking = list(&|check| check.status == Finding::Missing && check.need == Need::Nothing);
    match lacking.is_empty() {
        true => ok(name, "containers can run"),
        false => ok(name, format!("containers can run; less than all without: {lacking}")),
    }
}
