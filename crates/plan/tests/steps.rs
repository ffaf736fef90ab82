// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a config comes to: the steps, their order and their numbers.
//!
//! Never tests what is refused: tests/rules.rs does. The golden files of tests/explain.rs show whole plans.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod facts;

use coracle_plan::*;
use facts::*;
use serde_json::{Value, json};

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;

fn mount(value: Value) -> Value {
    with(&[("/mounts/-", value)])
}

#[track_caller]
fn bind(plan: &Plan, step: &str) -> Bind {
    match action(plan, step) {
        Action::Bind(bind) => bind,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn filesystem(plan: &Plan, step: &str) -> Mount {
    match action(plan, step) {
        Action::Mount(mount) => mount,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn in_order(plan: &Plan, wanted: &[&str]) {
    let positions: Vec<usize> = wanted.iter().map(|step| at(plan, step)).collect();
    assert!(positions.is_sorted(), "{wanted:?} are at {positions:?} of {:#?}", steps(plan));
}

fn document_of_everything() -> Value {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let hook = |path: &str| json!([{"path": path, "args": [path, "x"], "env": ["A=B"], "timeout": 3}]);
    with(&[
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/namespaces/-", json!({"type": "cgroup"})),
        ("/linux/namespaces/-", json!({"type": "time"})),
        ("/linux/uidMappings", ids.clone()),
        ("/linux/gidMappings", ids),
        ("/hostname", json!("h")),
        ("/domainname", json!("d")),
        ("/root/readonly", json!(true)),
        ("/mounts/-", json!({"destination": "/dev", "type": "tmpfs", "options": ["ro"]})),
        ("/linux/devices", json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}])),
        ("/linux/rootfsPropagation", json!("rshared")),
        ("/linux/sysctl", json!({"net.core.somaxconn": "1", "kernel.shmmax": "2"})),
        ("/linux/maskedPaths", json!(["/proc/kcore"])),
        ("/linux/readonlyPaths", json!(["/proc/sys"])),
        ("/linux/personality", json!({"domain": "LINUX"})),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0-1"})),
        ("/process/terminal", json!(true)),
        ("/process/noNewPrivileges", json!(true)),
        ("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 3})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7})),
        ("/process/apparmorProfile", json!("p")),
        (
            "/hooks",
            json!({
                "createRuntime": hook("/cr"), "createContainer": hook("/cc"), "startContainer": hook("/sc"),
                "poststop": hook("/ps")
            }),
        ),
    ])
}

#[test]
fn the_order_of_everything() {
    let options = Options { terminal: TerminalTo::ConsoleSocket, ..options() };
    let plan = planned_on(&document_of_everything(), &host(), &options);
    let wanted = [
        "join session keyring _ses.web",
        "wait for the runtime",
        "become root of the user namespace",
        "unshare the cgroup namespace",
        "set hostname to h",
        "set domainname to d",
        "bring up the loopback device",
        "make all mounts rslave",
        "attach the root filesystem",
        "mount proc at /proc",
        "mount tmpfs at /dev",
        "bind device /dev/null",
        "bind device /dev/fuse",
        "link /dev/fd to /proc/self/fd",
        "run the hooks of the runtime",
        "run createContainer hook /cc",
        "pivot into the root filesystem",
        "open the terminal",
        "make a new session",
        "make the root mount shared",
        "open procfs",
        "sysctl kernel/shmmax",
        "sysctl net/core/somaxconn",
        "mask /proc/kcore",
        "make /proc/sys read-only",
        "change to /",
        "seal /dev read-only",
        "make the root filesystem read-only",
        "set umask to 0022",
        "set the scheduler",
        "set the I/O priority",
        "set the personality",
        "set the memory policy",
        "set apparmor profile p",
        "become uid 0 gid 0",
        "find executable \"/bin/true\"",
        "set the capabilities",
        "set no_new_privs",
        "wait for start",
        "run startContainer hook /sc",
        "execute \"/bin/true\"",
    ];
    in_order(&plan, &wanted);
    // Nothing else is there but the other devices and links.
    let others: Vec<String> = steps(&plan)
        .into_iter()
        .filter(|s| !wanted.contains(&s.as_str()))
        .filter(|s| !s.starts_with("bind device /dev/") && !s.starts_with("link /dev/"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(
        plan.spawn.new,
        [
            Namespace::User,
            Namespace::Mount,
            Namespace::Pid,
            Namespace::Network,
            Namespace::Ipc,
            Namespace::Uts,
            Namespace::Time
        ]
    );
    assert_eq!(
        (plan.hooks.create_runtime.len(), plan.hooks.poststop.len(), plan.hooks.prestart.len()),
        (1, 1, 0)
    );
    let hook = &plan.hooks.create_runtime[0];
    assert_eq!((hook.args.len(), hook.env.len(), hook.timeout), (2, 1, 3));
}

#[test]
fn what_does_not_apply_is_left_out() {
    let document = without(&["/mounts"]);
    let options = Options { no_new_keyring: true, run: true, ..options() };
    let mut plan = planned_on(&document, &host(), &options);
    plan.steps.retain(|s| !matches!(s.action, Action::Device(_) | Action::Symlink { .. }));
    assert_eq!(
        steps(&plan),
        [
            "bring up the loopback device",
            "make all mounts rslave",
            "attach the root filesystem",
            "pivot into the root filesystem",
            "make a new session",
            "change to /",
            "set umask to 0022",
            "become uid 0 gid 0",
            "find executable \"/bin/true\"",
            "set the capabilities",
            "wait for start",
            "execute \"/bin/true\"",
        ]
    );
    assert_eq!(action(&plan, "wait for start"), Action::AwaitStart { parked: false });
}

#[test]
fn without_a_mount_namespace_only_chroot() {
    let document = with(&[("/linux/namespaces", json!([{"type": "pid"}])), ("/mounts", json!([]))]);
    let plan = planned(&document);
    assert_eq!(
        steps(&plan)[..3],
        ["join session keyring _ses.web", "change root into the root filesystem", "make a new session"]
    );
    assert!(!plan.steps.iter().any(|s| matches!(s.action, Action::Device(_) | Action::Symlink { .. })));
}

#[test]
fn no_pivot_moves_the_root() {
    let plan = planned_on(&base(), &host(), &Options { no_pivot: true, ..options() });
    assert_eq!(action(&plan, "move the root filesystem to /"), Action::MoveRoot);
    assert!(!steps(&plan).iter().any(|s| s.starts_with("pivot")));
}

#[test]
fn the_runtime_is_awaited_only_when_it_has_something_to_do() {
    let waits = |plan: Plan| plan.steps.iter().any(|s| s.action == Action::AwaitRuntime);
    assert!(!waits(planned(&base())));
    assert!(waits(planned_on(&base(), &hybrid(), &options())));
    assert!(waits(planned(&with(&[("/linux/netDevices", json!({"eth1": {}}))]))));
    let joined = with(&[("/linux/namespaces/-", json!({"type": "user", "path": "/u"}))]);
    assert!(!waits(planned(&joined)));
    assert!(planned(&joined).steps.iter().any(|s| s.action == Action::BecomeNamespaceRoot));
}

#[test]
fn joined_namespaces() {
    let document = with(&[(
        "/linux/namespaces",
        json!([
            {"type": "mount"}, {"type": "network", "path": "/net"}, {"type": "cgroup", "path": "/cg"},
            {"type": "user", "path": "/user"}, {"type": "ipc", "path": ""}
        ]),
    )]);
    let plan = planned(&document);
    assert_eq!(plan.spawn.new, [Namespace::Mount, Namespace::Ipc]);
    let joins: Vec<_> =
        plan.spawn.join.iter().map(|j| (j.namespace, j.path.as_str(), j.place.as_str())).collect();
    assert_eq!(
        joins,
        [
            (Namespace::User, "/user", "linux.namespaces[3].path"),
            (Namespace::Network, "/net", "linux.namespaces[1].path"),
            (Namespace::Cgroup, "/cg", "linux.namespaces[2].path"),
        ]
    );
    // Loopback is up already, or is somebody else's business; so is the cgroup namespace.
    assert!(!plan.steps.iter().any(|s| matches!(s.action, Action::LoopbackUp | Action::UnshareCgroup)));
}

#[test]
fn isolation_follows_the_propagation_of_the_root() {
    for (word, wanted) in [
        ("", Propagation::Slave),
        ("private", Propagation::Private),
        ("rprivate", Propagation::Private),
        ("rshared", Propagation::Slave),
        ("unbindable", Propagation::Slave),
    ] {
        let plan = planned(&with(&[("/linux/rootfsPropagation", json!(word))]));
        let isolate = Action::IsolateMounts { propagation: wanted };
        assert!(plan.steps.iter().any(|s| s.action == isolate), "{word}");
    }
}

#[test]
fn binds() {
    let plan = planned(&mount(json!({
        "destination": "/a/", "source": "data", "type": "none",
        "options": ["rbind", "rw", "nosuid", "rro", "rprivate", "shared", "noatime"]
    })));
    let bind = bind(&plan, "bind /bundle/data at /a");
    assert_eq!(bind.source, BindSource::Path("/bundle/data".into()));
    assert!(bind.recursive);
    assert_eq!(
        bind.attributes,
        // `rw` takes nothing back that the host has put on the source.
        Attributes { set: NOSUID | 0x10, clear: 0x70, recursive_set: RDONLY, recursive_clear: 0 }
    );
    assert_eq!(bind.propagation, [(Propagation::Private, true), (Propagation::Shared, false)]);
    assert_eq!(bind.id_map, MountIdMap::None);
}

#[test]
fn recursion_of_binds() {
    for (options, kind, recursive) in [
        (json!(["bind"]), "", false),
        (json!(["rbind"]), "", true),
        (json!(["bind", "rbind"]), "", true),
        (json!([]), "bind", false),
        (json!(["rbind"]), "bind", true),
    ] {
        let document = mount(json!({"destination": "/a", "source": "/b", "type": kind, "options": options}));
        assert_eq!(bind(&planned(&document), "bind /b at /a").recursive, recursive, "{kind} {options}");
    }
}

#[test]
fn new_filesystems() {
    let plan = planned(&mount(json!({
        "destination": "/a", "type": "ext4", "source": "/dev/sda1",
        "options": ["ro", "noexec", "sync", "lazytime", "errors=remount-ro", "discard", "strictatime"]
    })));
    let mount = filesystem(&plan, "mount ext4 at /a");
    assert_eq!(mount.source, "/dev/sda1");
    let options: Vec<_> = mount.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(options, [("sync", ""), ("lazytime", ""), ("errors", "remount-ro"), ("discard", "")]);
    assert_eq!(
        mount.attributes,
        Attributes { set: RDONLY | NOEXEC | 0x20, clear: 0x70, ..Attributes::default() }
    );
    assert!(!mount.late_readonly && !mount.mode_of_target && !mount.copy_up);
}

#[test]
fn tmpfs_takes_the_mode_of_what_it_covers() {
    let plan = planned(&mount(json!({"destination": "/a", "type": "tmpfs"})));
    assert!(filesystem(&plan, "mount tmpfs at /a").mode_of_target);
    let plan = planned(&mount(json!({"destination": "/a", "type": "tmpfs", "options": ["mode=700"]})));
    assert!(!filesystem(&plan, "mount tmpfs at /a").mode_of_target);
}

#[test]
fn what_is_filled_later_is_sealed_later() {
    let seal = |plan: &Plan| plan.steps.iter().any(|s| matches!(s.action, Action::SealReadonly { .. }));
    for (destination, options, late) in [
        ("/dev", json!(["ro"]), true),
        ("/dev", json!(["rro"]), true),
        ("/dev", json!(["ro", "rw"]), false),
        ("/a", json!(["ro", "tmpcopyup"]), true),
        ("/a", json!(["ro"]), false),
    ] {
        let plan = planned(&mount(json!({"destination": destination, "type": "tmpfs", "options": options})));
        let mount = filesystem(&plan, &format!("mount tmpfs at {destination}"));
        assert_eq!((mount.late_readonly, seal(&plan)), (late, late), "{destination} {options}");
        assert!(!late || mount.attributes.set & RDONLY == 0);
    }
    let plan = planned(&with(&[
        ("/mounts/-", json!({"destination": "/run", "type": "tmpfs", "options": ["ro"]})),
        ("/mounts/-", json!({"destination": "/run/secrets", "source": "/s", "options": ["bind"]})),
    ]));
    assert!(filesystem(&plan, "mount tmpfs at /run").late_readonly);
    in_order(&plan, &["bind /s at /run/secrets", "seal /run read-only"]);
}

#[test]
fn remounts() {
    let remount = |options: Value| {
        let plan = planned(&mount(json!({"destination": "/proc", "type": "proc", "options": options})));
        match action(&plan, "remount /proc") {
            Action::Remount(remount) => remount,
            other => panic!("{other:?}"),
        }
    };
    let bind = remount(json!(["bind", "remount", "ro", "nosuid"]));
    assert!(!bind.reconfigure && bind.options.is_empty());
    assert_eq!(bind.attributes.set, RDONLY | NOSUID);
    let whole = remount(json!(["remount", "ro", "hidepid=2"]));
    assert!(whole.reconfigure);
    assert_eq!(whole.options, [("ro".into(), String::new()), ("hidepid".into(), "2".into())]);
}

#[test]
fn b30_id_maps() {
    let ids = json!([{"containerID": 0, "hostID": 5, "size": 2}]);
    let plan = planned(&mount(json!({
        "destination": "/a", "type": "tmpfs", "options": ["ridmap"], "uidMappings": ids, "gidMappings": ids
    })));
    let map = vec![IdMap { container: 0, host: 5, size: 2 }];
    let wanted = MountIdMap::Given { uid_map: map.clone(), gid_map: map.clone(), recursive: true };
    assert_eq!(filesystem(&plan, "mount tmpfs at /a").id_map, wanted);
    let plan = planned(&mount(json!({
        "destination": "/a", "source": "/b", "options": ["bind"], "uidMappings": ids, "gidMappings": ids
    })));
    let wanted = MountIdMap::Given { uid_map: map.clone(), gid_map: map, recursive: false };
    assert_eq!(bind(&plan, "bind /b at /a").id_map, wanted);
    let plan = planned(&with(&[
        ("/linux/namespaces/-", json!({"type": "user", "path": "/u"})),
        ("/mounts/-", json!({"destination": "/a", "source": "/b", "options": ["bind", "idmap"]})),
    ]));
    assert_eq!(bind(&plan, "bind /b at /a").id_map, MountIdMap::Container { recursive: false });
}

#[test]
fn mount_labels() {
    let selinux = Host { selinux: true, ..host() };
    let document = with(&[
        ("/linux/mountLabel", json!("u:r:t:s0:c1,c2")),
        ("/mounts/-", json!({"destination": "/a", "type": "tmpfs"})),
    ]);
    let plan = planned_on(&document, &selinux, &options());
    let context = ("context".to_string(), "u:r:t:s0:c1,c2".to_string());
    assert_eq!(filesystem(&plan, "mount tmpfs at /a").options, [context]);
    assert!(filesystem(&plan, "mount proc at /proc").options.is_empty());
}

const CGROUP: &str = "/sys/fs/cgroup";

fn cgroup_mount(new_namespace: bool, kind: &str) -> Value {
    let mount = json!({"destination": CGROUP, "type": kind, "source": "cgroup", "options": ["nosuid", "ro"]});
    let mut changes = vec![("/mounts/-", mount)];
    if new_namespace {
        changes.push(("/linux/namespaces/-", json!({"type": "cgroup"})));
    }
    with(&changes)
}

#[test]
fn cgroup_mounts_on_cgroup2() {
    for kind in ["cgroup", "cgroup2"] {
        let plan = planned(&cgroup_mount(true, kind));
        assert_eq!(filesystem(&plan, "mount cgroup2 at /sys/fs/cgroup").attributes.set, NOSUID | RDONLY);
        let plan = planned(&cgroup_mount(false, kind));
        let bind = bind(&plan, "bind the container's cgroup at /sys/fs/cgroup");
        assert_eq!((bind.source, bind.attributes.set), (BindSource::OwnCgroup, NOSUID | RDONLY));
    }
}

#[test]
fn cgroup_mounts_on_a_hybrid_host() {
    let plan = planned_on(&cgroup_mount(true, "cgroup"), &hybrid(), &options());
    let tmpfs = filesystem(&plan, "mount tmpfs at /sys/fs/cgroup");
    assert!(tmpfs.late_readonly && tmpfs.attributes.set == NOSUID | NODEV | NOEXEC);
    assert_eq!(tmpfs.options, [("mode".to_string(), "755".to_string())]);
    let systemd = filesystem(&plan, "mount cgroup at /sys/fs/cgroup/systemd");
    assert_eq!(systemd.options, [("none".into(), String::new()), ("name".into(), "systemd".to_string())]);
    let cpu = filesystem(&plan, "mount cgroup at /sys/fs/cgroup/cpu,cpuacct");
    assert_eq!(cpu.options, [("cpu".to_string(), String::new()), ("cpuacct".to_string(), String::new())]);
    in_order(
        &plan,
        &[
            "mount tmpfs at /sys/fs/cgroup",
            "mount cgroup at /sys/fs/cgroup/memory",
            "link /sys/fs/cgroup/cpu to cpu,cpuacct",
            "link /sys/fs/cgroup/cpuacct to cpu,cpuacct",
            "mount cgroup2 at /sys/fs/cgroup/unified",
            "pivot into the root filesystem",
            "seal /sys/fs/cgroup read-only",
        ],
    );
    assert!(!steps(&plan).contains(&"link /sys/fs/cgroup/memory to memory".to_string()));

    let plan = planned_on(&cgroup_mount(false, "cgroup"), &hybrid(), &options());
    let memory = bind(&plan, "bind the container's cgroup of /sys/fs/cgroup/memory at /sys/fs/cgroup/memory");
    assert_eq!(memory.attributes.set, NOSUID | RDONLY);
    assert_eq!(
        bind(&plan, "bind the container's cgroup at /sys/fs/cgroup/unified").source,
        BindSource::OwnCgroup
    );

    let plan = planned_on(&cgroup_mount(true, "cgroup2"), &hybrid(), &options());
    filesystem(&plan, "mount cgroup2 at /sys/fs/cgroup");
}

#[test]
fn cgroup_mounts_on_v1() {
    let v1 = Host {
        cgroup: CgroupHost { mode: CgroupMode::V1, unified: String::new(), ..hybrid().cgroup },
        ..host()
    };
    let plan = planned_on(&cgroup_mount(true, "cgroup"), &v1, &options());
    filesystem(&plan, "mount cgroup at /sys/fs/cgroup/memory");
    assert!(!steps(&plan).iter().any(|s| s.contains("unified")));
}

#[test]
fn devices() {
    let devices = json!([
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o020_600, "uid": 5, "gid": 6},
        {"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0}
    ]);
    let plan = planned(&with(&[("/linux/devices", devices)]));
    let at_null = at(&plan, "create device /dev/null");
    assert_eq!(plan.steps[at_null].place, "linux.devices[0]");
    let null = Device {
        path: "/dev/null".into(),
        kind: DeviceKind::Character,
        major: 1,
        minor: 3,
        mode: 0o600,
        uid: 5,
        gid: 6,
        bind: false,
    };
    assert_eq!(plan.steps[at_null].action, Action::Device(null));
    let Action::Device(loop0) = action(&plan, "create device /dev/loop0") else { panic!() };
    assert_eq!((loop0.kind, loop0.mode), (DeviceKind::Block, 0o666));
    assert_eq!(steps(&plan).iter().filter(|s| s.starts_with("create device")).count(), 7);
    let no_kcore = Host { kcore: false, ..host() };
    assert!(!steps(&planned_on(&base(), &no_kcore, &options())).iter().any(|s| s.contains("kcore")));
}

#[test]
fn a_bound_dev_is_left_alone() {
    for (kind, options) in [("bind", json!([])), ("none", json!(["rbind"]))] {
        let plan = planned(&with(&[
            ("/mounts/-", json!({"destination": "/dev", "source": "/dev", "type": kind, "options": options})),
            ("/linux/devices", json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}])),
        ]));
        assert!(!plan.steps.iter().any(|s| matches!(s.action, Action::Device(_) | Action::Symlink { .. })));
        assert!(plan.warnings.iter().any(|w| w.place == "linux.devices"));
    }
    let below = planned(&mount(json!({"destination": "/dev/x", "source": "/x", "type": "bind"})));
    at(&below, "create device /dev/null");
}

#[test]
fn the_socket_for_sd_notify() {
    let document = with(&[
        ("/mounts/-", json!({"destination": "/run", "type": "tmpfs", "options": ["ro"]})),
        ("/process/env", json!(["PATH=/bin", "NOTIFY_SOCKET=/mine"])),
    ]);
    let options = Options { notify: "/run/oar/web/notify".into(), ..options() };
    let plan = planned_on(&document, &host(), &options);
    // Over whatever the document has there, and in a directory that can still be made.
    in_order(
        &plan,
        &["mount tmpfs at /run", "bind /run/oar/web/notify at /run/notify", "seal /run read-only"],
    );
    let Action::Bind(bind) = action(&plan, "bind /run/oar/web/notify at /run/notify") else { panic!() };
    assert_eq!(bind.attributes.set, RDONLY | NOSUID | NODEV | NOEXEC);
    let environment = |plan: &Plan| match action(plan, "execute \"/bin/true\"") {
        Action::Execute { env, .. } => env,
        _ => panic!(),
    };
    assert_eq!(environment(&plan), ["PATH=/bin", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
    assert!(plan.outside.notify && explain(&plan).contains("sd_notify socket at /run/notify/notify.sock"));

    // Nowhere to put it.
    let document = with(&[
        ("/mounts", json!([])),
        ("/process/env", json!(["PATH=/bin", "NOTIFY_SOCKET=/mine"])),
        ("/linux/namespaces", json!([{"type": "pid"}])),
    ]);
    let plan = planned_on(&document, &host(), &options);
    assert!(!plan.outside.notify);
    assert_eq!(environment(&plan), ["PATH=/bin", "NOTIFY_SOCKET=/mine"]);
    assert!(plan.warnings.iter().any(|warning| warning.text.contains("sd_notify")));
}

#[test]
fn the_command_and_its_environment() {
    let document = with(&[
        ("/process/args", json!(["sh", "-c", "x"])),
        ("/process/env", json!(["PATH=/a", "A=1", "HOME=", "PATH=/b::/c", "A=2"])),
        ("/process/user/uid", json!(7)),
    ]);
    let plan = planned_on(&document, &host(), &Options { listen_fds: 2, ..options() });
    let find = Action::FindExecutable {
        name: "sh".into(),
        search: ["/b", ".", "/c"].map(String::from).to_vec(),
        cwd: "/".into(),
    };
    assert_eq!(action(&plan, "find executable \"sh\""), find);
    let execute = Action::Execute {
        args: ["sh", "-c", "x"].map(String::from).to_vec(),
        env: ["PATH=/b::/c", "A=2", "LISTEN_FDS=2"].map(String::from).to_vec(),
        home_of_uid: Some(7),
        listen_pid: true,
    };
    assert_eq!(action(&plan, "execute \"sh\""), execute);
    let Action::Execute { home_of_uid, .. } = action(&planned(&base()), "execute \"/bin/true\"") else {
        panic!()
    };
    assert_eq!(home_of_uid, None);
    let Action::FindExecutable { search, .. } = action(&planned(&base()), "find executable \"/bin/true\"")
    else {
        panic!()
    };
    assert!(search.is_empty());
}

#[test]
fn identity() {
    let of = |plan: &Plan| {
        plan.steps.iter().find_map(|s| match &s.action {
            Action::Identity(identity) => Some(identity.clone()),
            _ => None,
        })
    };
    let plain = of(&planned(&base())).unwrap();
    assert_eq!((plain.bounding, plain.effective, plain.keep_groups), (0, 0, false));
    assert_eq!(
        action(&planned(&base()), "set the capabilities"),
        Action::Capabilities(coracle_plan::Capabilities::default())
    );
    let single = |size: u32| {
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": size}]);
        with(&[
            ("/linux/namespaces/-", json!({"type": "user"})),
            ("/linux/uidMappings", ids.clone()),
            ("/linux/gidMappings", ids),
        ])
    };
    assert!(of(&planned_on(&single(1), &user(), &options())).unwrap().keep_groups);
    let ids = SubIds { newuidmap: "/newuidmap".into(), newgidmap: "/newgidmap".into(), ..SubIds::default() };
    let host = Host { sub_ids: ids, ..user() };
    assert!(!of(&planned_on(&single(2), &host, &options())).unwrap().keep_groups);
    assert!(!of(&planned(&single(1))).unwrap().keep_groups);
    let mut groups = single(1);
    groups["process"]["user"]["additionalGids"] = json!([0]);
    refuses_on(&groups, &user(), &options(), "process.user.additionalGids", "not permitted");
}

#[test]
fn numbers_of_the_kernel() {
    let plan = planned_on(
        &document_of_everything(),
        &host(),
        &Options { terminal: TerminalTo::Foreground, ..options() },
    );
    assert_eq!(action(&plan, "set the I/O priority"), Action::IoPriority { value: 3 << 13 | 7 });
    let scheduler = Scheduler { policy: 3, nice: 3, ..Scheduler::default() };
    assert_eq!(action(&plan, "set the scheduler"), Action::Scheduler(scheduler));
    assert_eq!(action(&plan, "set the memory policy"), Action::MemoryPolicy { mode: 2, nodes: vec![3] });
    assert_eq!(
        action(&plan, "open the terminal"),
        Action::Terminal { columns: 0, rows: 0, uid: 0, console: true }
    );
    let limits =
        json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}, {"type": "RLIMIT_CORE", "hard": u64::MAX}]);
    let rlimits = planned(&with(&[("/process/rlimits", limits)])).outside.rlimits;
    let numbers: Vec<_> = rlimits.iter().map(|r| (r.name.as_str(), r.resource, r.soft, r.hard)).collect();
    assert_eq!(numbers, [("RLIMIT_NOFILE", 7, 1, 2), ("RLIMIT_CORE", 4, 0, u64::MAX)]);
}

#[test]
fn a_plan_is_the_same_each_time() {
    let document = with(&[
        ("/linux/sysctl", json!({"net.a.a": "1", "net.b.b": "1", "net.c.c": "1", "net.d.d": "1"})),
        ("/linux/netDevices", json!({"a": {}, "b": {}, "c": {}, "d": {}})),
        ("/annotations", json!({"a": "", "b": "", "c": "", "d": ""})),
    ]);
    assert_eq!(planned(&document), planned(&document));
}

#[test]
fn descriptions_are_one_line_whatever_the_document_says() {
    let evil = "/a\n\u{1b}[2J\u{202e}\"";
    let plan = planned(&with(&[
        ("/mounts/-", json!({"destination": evil, "source": evil, "options": ["bind"]})),
        ("/hostname", json!(evil)),
        ("/process/args", json!([evil, evil])),
        ("/linux/maskedPaths", json!([evil])),
        ("/hooks", json!({"createContainer": [{"path": evil}], "poststop": [{"path": evil}]})),
        ("/linux/cgroupsPath", json!("/a\u{1b}b")),
    ]));
    let text = explain(&plan);
    assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    at(&plan, "execute \"/a\\n\\u{1b}[2J\\u{202e}\\\"\"");
}

/// As late as the right to load it, and an agent, allow.
#[test]
fn the_seccomp_filter_is_loaded_as_late_as_it_can_be() {
    const LOAD: &str = "load the seccomp filter";
    let deny = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    let notify = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]
    });
    let admin = json!({"effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"], "bounding": ["CAP_SYS_ADMIN"]});
    let before = |profile: &Value, hooks: Value, no_new_privs: bool, capabilities: &Value| {
        let plan = planned(&with(&[
            ("/linux/seccomp", profile.clone()),
            ("/process/noNewPrivileges", json!(no_new_privs)),
            ("/process/capabilities", capabilities.clone()),
            ("/hooks", hooks),
        ]));
        steps(&plan)[at(&plan, LOAD) + 1].clone()
    };
    let none = json!({});
    for (profile, no_new_privs, capabilities, next) in [
        (&deny, true, &none, "execute \"/bin/true\""),
        (&deny, false, &admin, "execute \"/bin/true\""),
        (&deny, false, &none, "set the capabilities"),
        (&notify, true, &none, "wait for start"),
        (&notify, false, &admin, "wait for start"),
        (&notify, false, &none, "set the capabilities"),
    ] {
        let found = before(profile, json!({}), no_new_privs, capabilities);
        assert_eq!(found, next, "{no_new_privs} {capabilities}");
        // Hooks that run files of the container come after the wait, and are under it too.
        let hooks = json!({"startContainer": [{"path": "/h"}]});
        let hooked = before(profile, hooks, no_new_privs, capabilities);
        let next = if next.starts_with("execute") { "wait for start" } else { next };
        assert_eq!(hooked, next, "{no_new_privs} {capabilities}");
    }
    let plan = planned(&with(&[("/linux/seccomp", notify)]));
    let Action::Seccomp(filter) = action(&plan, LOAD) else { panic!() };
    assert!(filter.notifies && filter.flags == 12 && filter.program.len() % 8 == 0, "{filter:?}");
    assert_eq!(
        (filter.default.as_str(), filter.architectures),
        ("SCMP_ACT_ALLOW", vec!["x86_64".to_string()])
    );
}

/// One id, and these namespaces beside a user namespace.
fn one_id(namespaces: &[&str], mount: Value) -> Value {
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let all = namespaces.iter().chain(&["user", "mount"]);
    with(&[
        ("/linux/namespaces", all.map(|name| json!({"type": name})).collect()),
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map),
        ("/mounts", json!([mount])),
    ])
}

#[test]
fn filesystems_of_the_hosts_namespaces_are_bound_in_a_user_namespace() {
    for (fstype, namespace, target, source) in [
        ("sysfs", "network", "/sys", "/sys"),
        ("proc", "pid", "/proc", "/proc"),
        ("mqueue", "ipc", "/dev/queues", "/dev/mqueue"),
    ] {
        let words = json!(["nosuid", "noexec", "nodev", "ro", "noatime"]);
        let mount = json!({"destination": target, "type": fstype, "source": fstype, "options": words});
        for host in [user(), host()] {
            let plan = planned_on(&one_id(&[], mount.clone()), &host, &options());
            let Action::Bind(bind) = action(&plan, &format!("bind {source} at {target}")) else { panic!() };
            let wanted = Attributes { recursive_set: 0xf, ..Attributes::default() };
            assert_eq!((bind.recursive, bind.attributes), (true, wanted));
            let text = format!("bind {source} at {target}: rbind rro rnosuid rnodev rnoexec");
            assert!(explain(&plan).contains(&text), "{}", explain(&plan));
            let note = format!("mounts[0]: a new {} needs", fstype.replace("proc", "procfs"));
            assert!(plan.notes.iter().any(|one| one.to_string().starts_with(&note)), "{:?}", plan.notes);
            // With the namespace it belongs to, it is made.
            let own = planned_on(&one_id(&[namespace], mount.clone()), &host, &options());
            at(&own, &format!("mount {fstype} at {target}"));
        }
        // Root of the host may make it of the host's.
        let mut document = base();
        document["mounts"] = json!([mount]);
        document["linux"]["namespaces"] = json!([{"type": "mount"}]);
        at(&planned(&document), &format!("mount {fstype} at {target}"));
    }
    let mount = json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"});
    let without = Host { mqueue: false, ..user() };
    let plan = warns_on(&one_id(&[], mount), &without, "the host has no /dev/mqueue: left out");
    assert!(!steps(&plan).iter().any(|step| step.contains("mqueue")));
}

#[test]
fn terminals_of_an_unmapped_group_have_none() {
    let words = json!(["newinstance", "gid=5", "mode=0620"]);
    let mount = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": words});
    let of = |plan: &Plan| match action(plan, "mount devpts at /dev/pts") {
        Action::Mount(mount) => mount.options,
        other => panic!("{other:?}"),
    };
    let gid = ("gid".to_string(), "5".to_string());
    let plan = planned_on(&one_id(&[], mount.clone()), &user(), &options());
    assert!(!of(&plan).contains(&gid) && of(&plan).len() == 2, "{:?}", of(&plan));
    let note = "mounts[0].options: gid=5 is left out: the group is not mapped in the user namespace";
    assert!(plan.notes.iter().any(|one| one.to_string() == note), "{:?}", plan.notes);
    let mut document = base();
    document["mounts"] = json!([mount]);
    assert!(of(&planned(&document)).contains(&gid));
    let mut mapped = one_id(&[], document["mounts"][0].clone());
    mapped["linux"]["gidMappings"][0]["size"] = json!(6);
    assert!(of(&planned(&mapped)).contains(&gid));
}
