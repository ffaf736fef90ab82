// SPDX-License-Identifier: MIT OR Apache-2.0
//! Verdicts on hosts that are written down: one workstation on which all is well, and what differs from it.
//! Looks at no real host. Expectations are what each sysctl, file and errno means to a container.

use coracle_sys::probe::Call;

use super::facts::{Cgroups, Place, StateRoot};
use super::*;

const CALL: Call = Call { name: "clone3", result: Ok(()), privileged: false };
const MOUNTING: Call = Call { name: "fsopen", result: Ok(()), privileged: true };
const EVERY: &str = "cpuset cpu io memory hugetlb pids";

fn names(list: &str) -> Vec<String> {
    list.split(' ').map(str::to_string).collect()
}

fn place(directory: &str, controllers: &str, writable: bool) -> Place {
    Place { directory: directory.into(), controllers: names(controllers), writable }
}

fn failed(step: Step, errno: i32) -> Attempt {
    Attempt { failures: vec![(step, Errno(errno))], unfinished: None }
}

/// alice, who has logged in through systemd on a host with cgroup v2.
fn alice() -> Facts {
    let manager = "/user.slice/user-1000.slice/user@1000.service";
    let session = "/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope";
    let tool = |name: &str| Tool { path: Some(format!("/usr/bin/{name}")), setuid: true, ..Tool::default() };
    Facts {
        caller: Caller {
            name: "alice".into(),
            euid: 1000,
            egid: 1000,
            privileged: false,
            initial_user_namespace: true,
            no_new_privs: false,
            error: None,
        },
        kernel: "6.12.3-amd64".into(),
        calls: vec![CALL, Call { result: Err(Errno::PERM), ..MOUNTING }],
        pidfd_info: true,
        memory_program: Ok(()),
        memfd_noexec: Some(0),
        seccomp_actions: vec![("errno", true), ("notify", true)],
        seccomp_listener: true,
        security_modules: "lockdown,capability,apparmor".into(),
        apparmor: true,
        selinux_enforcing: None,
        namespace_limits: vec![("user", 5000), ("mnt", 5000), ("net", 5000)],
        unprivileged_userns_clone: Some(1),
        apparmor_restrict: None,
        subuid: Ok(vec![(100_000, 65536)]),
        subgid: Ok(vec![(100_000, 65536)]),
        subid_service: None,
        newuidmap: tool("newuidmap"),
        newgidmap: tool("newgidmap"),
        mapped: Some(Ok(())),
        cgroup: Cgroups {
            mode: CgroupMode::V2,
            places: vec![
                place(session, EVERY, false),
                place(&format!("/sys/fs/cgroup{manager}"), EVERY, true),
            ],
        },
        system_manager: Ok(String::new()),
        user_manager: Ok(manager.into()),
        overlay_loaded: true,
        keys: Some((3, 200)),
        tun: Tun::Usable,
        state: StateRoot {
            path: "/run/user/1000/oar".into(),
            nearest: "/run/user/1000".into(),
            directory: true,
            owner: 1000,
            mode: 0o700,
            writable: true,
        },
        own: Attempt::default(),
        own_init: Ok(()),
        ordinary: None,
    }
}

fn root() -> Facts {
    let mut facts = alice();
    facts.caller = Caller { name: "root".into(), euid: 0, egid: 0, privileged: true, ..facts.caller };
    facts.calls = vec![CALL, MOUNTING];
    facts.subuid = Ok(Vec::new());
    facts.subgid = Ok(Vec::new());
    facts.mapped = None;
    facts.cgroup.places = vec![place("/sys/fs/cgroup", EVERY, true)];
    facts.user_manager = Err("each user has one".into());
    facts.state = StateRoot { path: "/run/oar".into(), nearest: "/run/oar".into(), owner: 0, ..facts.state };
    facts.ordinary = Some(Attempt::default());
    facts
}

/// Root of the user namespace of `podman unshare`.
fn inside() -> Facts {
    let mut facts = alice();
    facts.caller = Caller { name: "root".into(), euid: 0, egid: 0, privileged: true, ..facts.caller };
    facts.caller.initial_user_namespace = false;
    facts.state.owner = 0;
    facts
}

fn with(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Facts {
    change(&mut facts);
    facts
}

#[track_caller]
fn check(facts: &Facts, name: &str) -> Check {
    let diagnosis = judge(facts);
    diagnosis.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}")).clone()
}

/// The check of this name is missing, and its detail and mend have these words.
#[track_caller]
fn is_missing(facts: &Facts, name: &str, detail: &str, mend: &str) {
    let found = check(facts, name);
    assert_eq!(found.status, Finding::Missing, "{found:?}");
    assert!(found.detail.contains(detail), "{found:?}\nexpected: {detail}");
    let words = found.mend.as_deref().unwrap_or_default();
    assert!(words.contains(mend), "{found:?}\nexpected: {mend}");
}

/// The same, and the caller's containers do not run for it: the verdict names it.
#[track_caller]
fn blocks_own(facts: &Facts, name: &str, detail: &str, mend: &str) {
    is_missing(facts, name, detail, mend);
    let diagnosis = judge(facts);
    assert!(!diagnosis.works);
    let verdict = if facts.caller.usage() == Use::Root { "root" } else { "rootless" };
    let verdict = diagnosis.checks.iter().find(|check| check.name == verdict).unwrap();
    assert_eq!(verdict.status, Finding::Missing);
    assert!(verdict.mend.as_deref().unwrap().contains(name), "{verdict:?}");
}

/// Missing, but containers run; the verdict says without what.
#[track_caller]
fn only_lacks(facts: &Facts, name: &str, detail: &str, mend: &str) {
    is_missing(facts, name, detail, mend);
    let diagnosis = judge(facts);
    assert!(diagnosis.works, "{diagnosis:?}");
    let verdict = if facts.caller.usage() == Use::Root { "root" } else { "rootless" };
    let verdict = diagnosis.checks.iter().find(|check| check.name == verdict).unwrap();
    assert_eq!(verdict.status, Finding::Ok);
    if facts.caller.usage() == Use::Rootless {
        assert!(verdict.detail.contains(name), "{verdict:?}");
    }
}

#[test]
fn all_is_well() {
    for facts in [alice(), root(), inside()] {
        let diagnosis = judge(&facts);
        assert!(diagnosis.works);
        let missing = diagnosis.checks.iter().filter(|check| check.status == Finding::Missing);
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&Check>::new(), "{:?}", facts.caller);
        let last: Vec<&str> = diagnosis.checks.iter().rev().take(2).map(|check| check.name).collect();
        assert_eq!(last, ["rootless", "root"]);
    }
}

#[test]
fn names_are_unique_and_what_is_missing_can_be_mended() {
    let bad = with(alice(), |f| {
        f.kernel = "4.19".into();
        f.calls = vec![Call { result: Err(Errno::NOSYS), ..CALL }];
        f.memory_program = Err("no".into());
        f.seccomp_actions = vec![("errno", false)];
        f.namespace_limits = vec![("user", 0), ("net", 0)];
        f.apparmor_restrict = Some(1);
        f.subuid = Err("read".into());
        f.newuidmap = Tool::default();
        f.mapped = Some(Err("no".into()));
        f.cgroup.mode = CgroupMode::None;
        f.cgroup.places.clear();
        f.user_manager = Err("no".into());
        f.keys = Some((200, 200));
        f.tun = Tun::Absent;
        f.state.directory = false;
        f.own = failed(Step::User, libc::EPERM);
    });
    let checks = judge(&bad).checks;
    for check in &checks {
        assert_eq!(checks.iter().filter(|other| other.name == check.name).count(), 1, "{}", check.name);
        assert!(!check.detail.is_empty());
        assert!(check.status != Finding::Missing || check.mend.is_some(), "{check:?}");
    }
    assert_eq!(checks.len(), 24);
    assert!(checks.iter().filter(|check| check.status == Finding::Missing).count() > 17, "{checks:#?}");
}

#[test]
fn kernels() {
    blocks_own(&with(alice(), |f| f.kernel = "5.10.0-30-amd64".into()), "kernel", "5.10", "5.14");
    blocks_own(&with(root(), |f| f.kernel = "strange".into()), "kernel", "strange", "5.14");
    assert!(judge(&with(alice(), |f| f.kernel = "5.14.0".into())).works);
    let hidden = |result| vec![Call { result, ..CALL }, MOUNTING];
    let facts = with(root(), |f| f.calls = hidden(Err(Errno::NOSYS)));
    blocks_own(&facts, "calls", "clone3: function not implemented", "seccomp");
    let facts = with(alice(), |f| f.calls = hidden(Err(Errno::PERM)));
    blocks_own(&facts, "calls", "clone3: operation not permitted", "seccomp");
    // Only root is told more than that it is not root.
    let refused = vec![CALL, Call { result: Err(Errno::PERM), ..MOUNTING }];
    blocks_own(&with(root(), |f| f.calls = refused.clone()), "calls", "fsopen: operation not permitted", "");
    assert!(judge(&with(inside(), |f| f.calls = refused)).works);
    assert_eq!(check(&with(alice(), |f| f.pidfd_info = false), "pidfd-info").status, Finding::Note);
    blocks_own(
        &with(alice(), |f| f.caller.error = Some("read /proc/x".into())),
        "kernel",
        "/proc/x",
        "mount",
    );
}

#[test]
fn programs_in_memory() {
    let refused = with(alice(), |f| {
        f.memory_program = Err("execute init: permission denied".into());
        f.memfd_noexec = Some(2);
    });
    blocks_own(&refused, "memfd", "vm.memfd_noexec is 2", "sysctl -w vm.memfd_noexec=1");
    let filtered = with(refused, |f| f.memfd_noexec = Some(0));
    blocks_own(&filtered, "memfd", "execute init", "memfd_create");
}

#[test]
fn filters() {
    let facts = with(alice(), |f| f.seccomp_actions.iter_mut().for_each(|(_, known)| *known = false));
    only_lacks(&facts, "seccomp", "no filters", "CONFIG_SECCOMP_FILTER");
    let facts = with(alice(), |f| f.seccomp_listener = false);
    only_lacks(&facts, "seccomp", "not listeners", "5.14");
    let facts = with(alice(), |f| f.seccomp_actions = vec![("errno", true), ("notify", false)]);
    only_lacks(&facts, "seccomp", "not notify", "5.14");
}

#[test]
fn security_modules() {
    let selinux = with(alice(), |f| {
        f.apparmor = false;
        f.selinux_enforcing = Some(true);
    });
    assert_eq!(check(&selinux, "lsm").status, Finding::Ok);
    assert!(check(&selinux, "lsm").detail.contains("SELinux is enforcing"));
    assert_eq!(check(&with(alice(), |f| f.apparmor = false), "lsm").status, Finding::Note);
}

#[test]
fn limits_of_namespaces() {
    let facts = with(root(), |f| f.namespace_limits = vec![("user", 1), ("net", 0), ("pid", 0)]);
    blocks_own(
        &facts,
        "namespaces",
        "net, pid",
        "sysctl -w user.max_net_namespaces=10000; sysctl -w user.max_pid",
    );
    let none = with(alice(), |f| f.namespace_limits = vec![("user", 0)]);
    blocks_own(&none, "user-namespaces", "is 0", "sysctl -w user.max_user_namespaces=");
    let no_kernel = with(alice(), |f| f.namespace_limits = vec![("mnt", 1)]);
    blocks_own(&no_kernel, "user-namespaces", "none", "CONFIG_USER_NS");
    let debian = with(alice(), |f| f.unprivileged_userns_clone = Some(0));
    blocks_own(&debian, "user-namespaces", "clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1");
    // Of no concern to root, nor to whom is in one already; but root hears of it.
    for own in [root(), inside()] {
        let facts = with(own, |f| f.unprivileged_userns_clone = Some(0));
        assert!(judge(&facts).works);
        assert_eq!(check(&facts, "user-namespaces").status, Finding::Missing);
    }
    is_missing(
        &with(root(), |f| f.namespace_limits = vec![("user", 0)]),
        "rootless",
        "cannot",
        "user-namespaces",
    );
}

#[test]
fn ubuntus_restriction() {
    let restricted = with(alice(), |f| {
        f.apparmor_restrict = Some(1);
        f.own = failed(Step::Maps, libc::EPERM);
    });
    blocks_own(&restricted, "apparmor-userns", "is 1", "kernel.apparmor_restrict_unprivileged_userns=0");
    blocks_own(&restricted, "container", "map an id into it: operation not permitted", "AppArmor profile");
    let with_profile = with(restricted, |f| f.own = Attempt::default());
    assert_eq!(check(&with_profile, "apparmor-userns").status, Finding::Ok);
    assert!(judge(&with_profile).works);
    let as_root = with(root(), |f| {
        f.apparmor_restrict = Some(1);
        f.ordinary = Some(failed(Step::Tmpfs, libc::EACCES));
    });
    assert!(judge(&as_root).works);
    is_missing(&as_root, "rootless", "cannot", "apparmor-userns");
}

#[test]
fn subordinate_ids() {
    let none = with(alice(), |f| f.subuid = Ok(Vec::new()));
    only_lacks(&none, "subuid", "no entry for alice or 1000", "usermod --add-subuids 100000-165535 alice");
    let unreadable = with(alice(), |f| f.subgid = Err("read /etc/subgid: no such file or directory".into()));
    only_lacks(&unreadable, "subgid", "no such file", "usermod --add-subgids 100000-165535 alice");
    let few = with(alice(), |f| f.subuid = Ok(vec![(100_000, 1000), (300_000, 24)]));
    only_lacks(&few, "subuid", "1000 from 100000, 24 from 300000", "usermod");
    let most = with(alice(), |f| f.subuid = Ok(vec![(1, u32::MAX), (2, u32::MAX)]));
    assert_eq!(check(&most, "subuid").status, Finding::Ok);
    let domain = with(none, |f| f.subid_service = Some("sss".into()));
    assert_eq!(check(&domain, "subuid").status, Finding::Note);
    for others in [root(), inside()] {
        let facts = with(others, |f| f.subuid = Err("read".into()));
        assert_eq!(check(&facts, "subuid").status, Finding::Note);
    }
    let refused = with(alice(), |f| f.mapped = Some(Err("newuidmap: uid range not allowed".into())));
    only_lacks(&refused, "id-maps", "not allowed", "/etc/subuid");
    let nameless = with(refused, |f| f.caller.name = "1000".into());
    only_lacks(&nameless, "id-maps", "not allowed", "useradd --uid 1000 NAME");
}

#[test]
fn tools() {
    let absent = with(alice(), |f| f.newuidmap = Tool::default());
    only_lacks(&absent, "newuidmap", "one id", "apt install uidmap");
    let plain = with(alice(), |f| f.newgidmap.setuid = false);
    only_lacks(&plain, "newgidmap", "nor has it cap_setgid", "chmod u+s /usr/bin/newgidmap");
    let capability = with(plain, |f| f.newgidmap.capability = true);
    assert_eq!(check(&capability, "newgidmap").detail, "/usr/bin/newgidmap (cap_setgid)");
    let nosuid = with(alice(), |f| f.newuidmap.nosuid = true);
    only_lacks(&nosuid, "newuidmap", "nosuid", "remount");
    let no_new_privs = with(alice(), |f| f.caller.no_new_privs = true);
    only_lacks(&no_new_privs, "newuidmap", "no_new_privs", "NoNewPrivileges");
    assert!(judge(&with(root(), |f| f.caller.no_new_privs = true)).works);
}

#[test]
fn delegated_controllers() {
    let debian = with(alice(), |f| f.cgroup.places[1].controllers = names("memory pids"));
    only_lacks(
        &debian,
        "controllers",
        "memory pids, but not cpu cpuset io",
        "Delegate=cpu cpuset io memory pids",
    );
    let no_login = with(alice(), |f| {
        f.cgroup.places.truncate(1);
        f.user_manager = Err("connect: no such file or directory".into());
    });
    only_lacks(&no_login, "controllers", "no limits", "log in through systemd");
    only_lacks(&no_login, "systemd", "no user manager: connect", "loginctl enable-linger alice");
    let elsewhere = with(no_login, |f| f.system_manager = Err("connect".into()));
    only_lacks(&elsewhere, "systemd", "no user manager", "boot with systemd");
    let hybrid = with(alice(), |f| {
        f.cgroup.mode = CgroupMode::Hybrid;
        f.cgroup.places = vec![place("/sys/fs/cgroup/memory", "memory", false)];
    });
    only_lacks(&hybrid, "controllers", "no limits", "systemd.unified_cgroup_hierarchy=1");
    assert_eq!(check(&hybrid, "cgroups").status, Finding::Note);
}

#[test]
fn controllers_of_root() {
    let v1 = with(root(), |f| {
        f.cgroup.mode = CgroupMode::V1;
        let kinds = ["memory", "cpu cpuacct", "cpuset", "blkio", "pids"];
        f.cgroup.places = kinds.map(|kind| place(&format!("/sys/fs/cgroup/{kind}"), kind, true)).to_vec();
    });
    assert_eq!(check(&v1, "controllers").status, Finding::Ok);
    let read_only = with(root(), |f| f.cgroup.places[0].writable = false);
    only_lacks(&read_only, "controllers", "no limits", "read-write");
    let raspberry = with(root(), |f| f.cgroup.places[0].controllers = names("cpu cpuset io pids"));
    only_lacks(&raspberry, "controllers", "but not memory", "cgroup_enable=memory");
    let none = with(root(), |f| {
        f.cgroup.mode = CgroupMode::None;
        f.cgroup.places.clear();
    });
    blocks_own(&none, "cgroups", "none is mounted", "mount -t cgroup2");
    let no_systemd = with(root(), |f| f.system_manager = Err("connect".into()));
    only_lacks(&no_systemd, "systemd", "no system manager", "leave out --systemd-cgroup");
}

#[test]
fn overlay_in_user_namespaces() {
    let unloaded = with(alice(), |f| f.overlay_loaded = false);
    let found = check(&unloaded, "overlay");
    assert_eq!((found.status, found.mend.as_deref()), (Finding::Note, Some("modprobe overlay   (as root)")));
    is_missing(&with(unloaded, |f| f.kernel = "5.10".into()), "overlay", "not for ordinary users", "5.11");
    let refused = with(alice(), |f| f.own = failed(Step::Overlay, libc::EPERM));
    only_lacks(&refused, "overlay", "operation not permitted", "fuse-overlayfs");
    let as_nobody = with(root(), |f| f.ordinary = Some(failed(Step::Overlay, libc::EPERM)));
    only_lacks(&as_nobody, "overlay", "operation not permitted", "fuse-overlayfs");
    let untried = with(alice(), |f| f.own = failed(Step::User, libc::EPERM));
    assert_eq!(check(&untried, "overlay").status, Finding::Note);
}

#[test]
fn keys_and_tun() {
    blocks_own(
        &with(alice(), |f| f.keys = Some((200, 200))),
        "keys",
        "200 of 200",
        "kernel.keys.maxkeys=2000",
    );
    blocks_own(&with(root(), |f| f.keys = Some((9, 9))), "keys", "9 of 9", "kernel.keys.root_maxkeys=90");
    assert_eq!(check(&with(alice(), |f| f.keys = None), "keys").status, Finding::Note);
    only_lacks(&with(alice(), |f| f.tun = Tun::Absent), "tun", "no /dev/net/tun", "modprobe tun");
    only_lacks(&with(alice(), |f| f.tun = Tun::Refused), "tun", "not the caller's", "chmod 0666");
}

#[test]
fn where_the_state_is() {
    let there = with(alice(), |f| f.state.nearest = f.state.path.clone());
    assert_eq!(check(&there, "state").detail, "/run/user/1000/oar");
    let others = with(there.clone(), |f| f.state.owner = 0);
    blocks_own(&others, "state", "belongs to uid 0", "XDG_RUNTIME_DIR=/run/user/1000");
    for mode in [0o777, 0o770, 0o1777] {
        let open = with(there.clone(), |f| f.state.mode = mode);
        blocks_own(&open, "state", "writable for others", "chmod 0700 /run/user/1000/oar");
    }
    let read_only = with(there.clone(), |f| f.state.writable = false);
    blocks_own(&read_only, "state", "not writable", "--root DIR");
    let file = with(there, |f| f.state.directory = false);
    blocks_own(&file, "state", "not a directory", "--root DIR");
    let no_login = with(alice(), |f| {
        f.state.nearest = "/run/user".into();
        f.state.owner = 0;
        f.state.writable = false;
    });
    blocks_own(&no_login, "state", "cannot be made: /run/user is not writable", "log in");
    let tmp = |mode| {
        with(alice(), |f| {
            f.state.nearest = "/tmp".into();
            f.state.owner = 0;
            f.state.mode = mode;
        })
    };
    assert!(judge(&tmp(0o1777)).works);
    blocks_own(&tmp(0o777), "state", "not sticky", "chmod +t /tmp");
}

#[test]
fn a_container_is_tried() {
    let refused = with(alice(), |f| f.own = failed(Step::User, libc::EPERM));
    blocks_own(&refused, "container", "make a user namespace: operation not permitted", "seccomp=unconfined");
    let full = with(alice(), |f| f.own = failed(Step::Network, libc::ENOSPC));
    blocks_own(&full, "container", "make a network namespace", "user.max_*_namespaces");
    let masked = with(inside(), |f| f.own = failed(Step::Proc, libc::EPERM));
    blocks_own(&masked, "container", "mount proc", "systempaths=unconfined");
    let no_init = with(root(), |f| f.own_init = Err("execute init: permission denied".into()));
    blocks_own(&no_init, "container", "execute init", "");
    let killed = with(root(), |f| f.own.unfinished = Some("its process was killed".into()));
    blocks_own(&killed, "container", "killed", "");
    let limited = with(refused, |f| f.namespace_limits = vec![("user", 0)]);
    blocks_own(&limited, "container", "", "see namespaces and user-namespaces");
    // uid 0 of an engine's container, without CAP_SYS_ADMIN and CAP_SETFCAP.
    let zero = with(alice(), |f| {
        f.caller.euid = 0;
        f.own = failed(Step::Maps, libc::EPERM);
    });
    blocks_own(&zero, "container", "map an id", "CAP_SETFCAP");
}

#[test]
fn root_hears_of_ordinary_users() {
    let refused = with(root(), |f| f.ordinary = Some(failed(Step::User, libc::EPERM)));
    assert!(judge(&refused).works);
    is_missing(&refused, "rootless", "as nobody: make a user namespace", "seccomp");
    let alone = with(root(), |f| f.ordinary = Some(failed(Step::Identity, libc::EPERM)));
    assert_eq!(check(&alone, "rootless").status, Finding::Note);
    assert_eq!(check(&alice(), "root").status, Finding::Note);
    is_missing(&with(alice(), |f| f.kernel = "5.4".into()), "root", "cannot", "kernel");
}
