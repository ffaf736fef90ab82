// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a config may say: each rule that can be decided without a kernel.
//!
//! Never tests an order or a number of the plan: tests/steps.rs does. The b numbers are
//! those of the project's list of bad inputs.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod facts;

use coracle_plan::*;
use facts::*;
use serde_json::{Value, json};

fn mount(value: Value) -> Value {
    with(&[("/mounts/-", value)])
}

#[test]
fn all_violations_are_reported_at_once() {
    let document = with(&[
        ("/ociVersion", json!("2.0.0")),
        ("/process/cwd", json!("tmp")),
        ("/linux/namespaces/-", json!({"type": "pid"})),
        ("/linux/namespaces/-", json!({"type": "user", "path": "ns"})),
        ("/linux/maskedPaths", json!(["x"])),
        ("/mounts/-", json!({"destination": "/", "type": "tmpfs"})),
    ]);
    assert_eq!(
        refused(&document),
        [
            "ociVersion: only major version 1 is supported (got 2.0.0)",
            "linux.namespaces[5].type: a namespace type may be given once (got pid)",
            "linux.namespaces[6].path: must be an absolute path (got ns)",
            "linux.maskedPaths[0]: must be an absolute path (got x)",
            "mounts[1].destination: must be a path below the root, which is set up before the mounts (got /)",
            "process.cwd: must be an absolute path (got tmp)",
        ]
    );
}

#[test]
fn values_in_messages_are_escaped_and_short() {
    let long = format!("x\n{}", "y".repeat(200));
    let line = refused(&with(&[("/process/cwd", json!(long))])).remove(0);
    assert_eq!(line, format!("process.cwd: must be an absolute path (got x\\n{}…)", "y".repeat(77)));
}

#[test]
fn b13_nul_in_a_spec_that_was_built_in_memory() {
    let (mut spec, _) = parse(base().to_string().as_bytes()).unwrap();
    spec.process_mut().as_mut().unwrap().set_args(Some(vec!["/bin/a\0b".into()]));
    spec.set_hostname(Some("a\0b".into()));
    let places: Vec<String> =
        plan(&spec, &host(), &options()).unwrap_err().into_iter().map(|v| v.place).collect();
    assert_eq!(places, ["hostname", "process.args[0]"]);
}

#[test]
fn b15_oci_version() {
    for version in ["", "latest", "1.0", "v1.0.2"] {
        refuses(&with(&[("/ociVersion", json!(version))]), "ociVersion", "SemVer");
    }
    refuses(&without(&["/ociVersion"]), "ociVersion", "SemVer");
    planned(&with(&[("/ociVersion", json!("1.0.2-dev"))]));
}

#[test]
fn b16_major_and_minor() {
    refuses(&with(&[("/ociVersion", json!("2.0.0"))]), "ociVersion", "major");
    refuses(&with(&[("/ociVersion", json!("0.9.0"))]), "ociVersion", "major");
    warns(&with(&[("/ociVersion", json!("1.99.0"))]), "newer than 1.3");
}

#[test]
fn b17_b18_b19_root() {
    refuses(&without(&["/root"]), "root", "missing");
    refuses(&with(&[("/root/path", json!(""))]), "root.path", "empty");
    for path in ["/", "//", "/.", "/a/..", "/../"] {
        refuses(&with(&[("/root/path", json!(path))]), "root.path", "root of the host");
    }
    assert_eq!(planned(&base()).rootfs, "/bundle/rootfs");
    assert_eq!(planned(&with(&[("/root/path", json!("./a/"))])).rootfs, "/bundle/a");
    assert_eq!(planned(&with(&[("/root/path", json!("/srv/a"))])).rootfs, "/srv/a");
}

#[test]
fn b22_relative_destination() {
    let plan =
        warns(&mount(json!({"destination": "a/b", "type": "tmpfs"})), "is relative, taken from /: a/b");
    at(&plan, "mount tmpfs at /a/b");
}

#[test]
fn b23_mount_at_the_root() {
    for destination in ["/", "", "/..", "//", "/a/.."] {
        let document = mount(json!({"destination": destination, "type": "tmpfs"}));
        refuses(&document, "mounts[1].destination", "below the root");
    }
}

#[test]
fn b24_bind_without_source() {
    for source in [json!(null), json!("")] {
        let document = mount(json!({"destination": "/a", "source": source, "options": ["rbind"]}));
        refuses(&document, "mounts[1].source", "needs a source");
    }
}

#[test]
fn b25_no_type() {
    for kind in [json!(null), json!(""), json!("none")] {
        refuses(
            &mount(json!({"destination": "/a", "type": kind})),
            "mounts[1].type",
            "must name a filesystem",
        );
    }
}

#[test]
fn b28_data_on_a_bind() {
    let document = mount(json!({"destination": "/a", "source": "/b", "options": ["bind", "ro", "size=1"]}));
    refuses(&document, "mounts[1].options", "no filesystem options (got size=1)");
    let silent = ["rbind", "sync", "dirsync", "lazytime", "mand", "silent", "iversion", "defaults"];
    planned(&mount(json!({"destination": "/a", "source": "/b", "options": silent})));
}

#[test]
fn b30_b31_id_mapped_mounts() {
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let bind = |options: Value, uids: Value, gids: Value| {
        mount(json!({
            "destination": "/a", "source": "/b", "type": "bind", "options": options,
            "uidMappings": uids, "gidMappings": gids
        }))
    };
    for option in ["idmap", "ridmap"] {
        refuses(&bind(json!([option]), json!(null), json!(null)), "mounts[1].options", "idmap needs");
    }
    refuses(&bind(json!([]), ids.clone(), json!(null)), "mounts[1]", "gidMappings is missing");
    refuses(&bind(json!(["idmap"]), json!([]), ids.clone()), "mounts[1]", "uidMappings is missing");
    let zero = json!([{"containerID": 0, "hostID": 0, "size": 0}]);
    refuses(&bind(json!([]), zero, ids), "mounts[1].uidMappings[0].size", "at least 1");
}

#[test]
fn b33_mounts_inside_of_proc() {
    for destination in
        ["/proc/sys", "/proc/self/attr", "/proc/./sys/kernel", "/x/../proc/1", "proc/sys", "/proc/cpuinfo/x"]
    {
        let document = mount(json!({"destination": destination, "source": "/b", "type": "bind"}));
        let violations = refused(&document);
        assert!(violations[0].starts_with("mounts[1].destination: inside of /proc"), "{violations:?}");
    }
    refuses(
        &mount(json!({"destination": "/proc/cpuinfo", "type": "tmpfs"})),
        "mounts[1].destination",
        "inside",
    );
    for destination in ["/proc/cpuinfo", "/proc/sys/kernel/ns_last_pid", "/proc/net/dev", "/procfs"] {
        planned(&mount(json!({"destination": destination, "source": "/b", "type": "bind"})));
    }
}

#[test]
fn what_may_be_at_proc_itself() {
    refuses(
        &mount(json!({"destination": "/proc/", "type": "tmpfs"})),
        "mounts[1].destination",
        "only a procfs",
    );
    let bind = |source| mount(json!({"destination": "/proc", "source": source, "options": ["rbind"]}));
    refuses(&bind("/tmp/x"), "mounts[1].destination", "only a procfs");
    refuses(&bind("proc"), "mounts[1].destination", "only a procfs");
    refuses(&bind("/x/../proc"), "mounts[1].destination", "only a procfs");
    planned(&bind("/proc"));
}

#[test]
fn b34_cgroup_mount_without_cgroups() {
    let none = Host {
        cgroup: CgroupHost { mode: CgroupMode::None, unified: String::new(), ..host().cgroup },
        ..host()
    };
    let document = mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup"}));
    refuses_on(&document, &none, &options(), "mounts[1].type", "no cgroup filesystem");
    let v1 = Host { cgroup: CgroupHost { mode: CgroupMode::V1, ..hybrid().cgroup }, ..host() };
    let document = mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup2"}));
    refuses_on(&document, &v1, &options(), "mounts[1].type", "no cgroup2 filesystem");
}

#[test]
fn b35_option_too_long() {
    let document =
        mount(json!({"destination": "/a", "type": "x", "options": [format!("a={}", "b".repeat(256))]}));
    refuses(&document, "mounts[1].options", "at most 255 bytes");
    planned(&mount(json!({"destination": "/a", "type": "x", "options": [format!("a={}", "b".repeat(255))]})));
}

#[test]
fn b37_rootfs_propagation() {
    refuses(&with(&[("/linux/rootfsPropagation", json!("foo"))]), "linux.rootfsPropagation", "(got foo)");
    refuses(&with(&[("/linux/rootfsPropagation", json!("ro"))]), "linux.rootfsPropagation", "(got ro)");
    for word in
        ["", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"]
    {
        planned(&with(&[("/linux/rootfsPropagation", json!(word))]));
    }
}

#[test]
fn b38_too_many_mounts() {
    let many = vec![json!({"destination": "/a", "type": "tmpfs"}); 100_001];
    refuses(&with(&[("/mounts", json!(many))]), "mounts", "fs.mount-max");
}

#[test]
fn tmpcopyup_is_for_tmpfs() {
    let document = |kind: &str| mount(json!({"destination": "/a", "type": kind, "options": ["tmpcopyup"]}));
    refuses(&document("ramfs"), "mounts[1].options", "tmpcopyup");
    planned(&document("tmpfs"));
}

#[test]
fn b39_process_is_needed_to_create() {
    refuses(&without(&["/process"]), "process", "missing");
}

#[test]
fn b40_cwd() {
    refuses(&without(&["/process/cwd"]), "process", "missing field `cwd`");
    for cwd in ["", "tmp", "./"] {
        refuses(&with(&[("/process/cwd", json!(cwd))]), "process.cwd", "absolute");
    }
}

#[test]
fn b41_args() {
    for args in [json!(null), json!([]), json!([""])] {
        refuses(&with(&[("/process/args", args)]), "process.args", "name of a program");
    }
}

#[test]
fn b42_no_path_to_search() {
    for env in [json!([]), json!(null), json!(["PATH="])] {
        let document = with(&[("/process/args", json!(["sh"])), ("/process/env", env)]);
        refuses(&document, "process.args[0]", "exec: \"sh\": executable file not found in $PATH");
    }
}

#[test]
fn b44_env() {
    for entry in ["A", "", "=x"] {
        refuses(&with(&[("/process/env/-", json!(entry))]), "process.env[2]", "must be NAME=value");
    }
    planned(&with(&[("/process/env/-", json!("A="))]));
}

#[test]
fn b45_argument_list_too_long() {
    let big = "x".repeat(131_072);
    refuses(&with(&[("/process/args/-", json!(big))]), "process.args[1]", "argument list too long");
    let many = vec![json!("x".repeat(100_000)); 64];
    let document = with(&[("/process/args", json!([vec![json!("/bin/true")], many].concat()))]);
    refuses(&document, "process", "argument list too long");
    planned(&with(&[("/process/args/-", json!("x".repeat(131_071)))]));
}

#[test]
fn b46_ids() {
    for id in ["uid", "gid"] {
        let pointer = format!("/process/user/{id}");
        refuses(&with(&[(&pointer, json!(u32::MAX))]), &format!("process.user.{id}"), "is not an id");
        refuses(&with(&[(&pointer, json!(1u64 << 32))]), &format!("process.user.{id}"), "at line");
    }
    let groups = with(&[("/process/user/additionalGids", json!([1, u32::MAX]))]);
    refuses(&groups, "process.user.additionalGids[1]", "is not an id");
}

/// The base document with a user namespace that has ids 0 to 9.
fn mapped(changes: &[(&str, Value)]) -> Value {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    let mut all = vec![
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", ids.clone()),
        ("/linux/gidMappings", ids),
    ];
    all.extend(changes.iter().cloned());
    with(&all)
}

#[test]
fn b47_unmapped_ids() {
    for id in ["uid", "gid"] {
        let pointer = format!("/process/user/{id}");
        refuses(&mapped(&[(&pointer, json!(10))]), &format!("process.user.{id}"), "is not mapped");
        planned(&mapped(&[(&pointer, json!(9))]));
    }
    let groups = mapped(&[("/process/user/additionalGids", json!([9, 10]))]);
    refuses(&groups, "process.user.additionalGids[1]", "is not mapped");
}

#[test]
fn b48_too_many_groups() {
    let groups = vec![json!(1); 65_537];
    refuses(
        &with(&[("/process/user/additionalGids", json!(groups))]),
        "process.user.additionalGids",
        "65536",
    );
}

#[test]
fn b49_umask() {
    refuses(&with(&[("/process/user/umask", json!(0o1000))]), "process.user.umask", "(got 0o1000)");
    planned(&with(&[("/process/user/umask", json!(0o777))]));
}

#[test]
fn b50_b51_terminal_and_console_socket() {
    let terminal = with(&[("/process/terminal", json!(true))]);
    refuses(&terminal, "process.terminal", "--console-socket");
    let socket = Options { terminal: TerminalTo::ConsoleSocket, ..options() };
    refuses_on(&base(), &host(), &socket, "process.terminal", "--console-socket");
    planned_on(&terminal, &host(), &socket);
    let foreground = Options { terminal: TerminalTo::Foreground, ..options() };
    planned_on(&terminal, &host(), &foreground);
    planned_on(&base(), &host(), &foreground);
}

#[test]
fn b52_console_size() {
    let size = |terminal: bool| {
        with(&[
            ("/process/terminal", json!(terminal)),
            ("/process/consoleSize", json!({"width": 70_000, "height": 0})),
        ])
    };
    let foreground = Options { terminal: TerminalTo::Foreground, ..options() };
    refuses_on(&size(true), &host(), &foreground, "process.consoleSize.width", "65535");
    planned(&size(false));
}

fn rlimit(kind: &str, soft: u64, hard: u64) -> Value {
    json!({"type": kind, "soft": soft, "hard": hard})
}

#[test]
fn b53_b54_b55_rlimits() {
    let with_limits = |limits: Value| with(&[("/process/rlimits", limits)]);
    let unknown = with_limits(json!([rlimit("RLIMIT_FOO", 1, 1)]));
    refuses(&unknown, "process.rlimits[0].type", "unknown variant `RLIMIT_FOO`");
    let twice = with_limits(json!([rlimit("RLIMIT_CPU", 1, 1), rlimit("RLIMIT_CPU", 2, 2)]));
    refuses(&twice, "process.rlimits[1].type", "given once (got RLIMIT_CPU)");
    refuses(
        &with_limits(json!([rlimit("RLIMIT_CPU", 2, 1)])),
        "process.rlimits[0].soft",
        "RLIMIT_CPU, 1 (got 2)",
    );
}

#[test]
fn b56_rlimit_above_the_callers() {
    let document = with(&[("/process/rlimits", json!([rlimit("RLIMIT_NOFILE", 1, 5000)]))]);
    planned(&document);
    let weak = Host { raise_rlimits: false, ..host() };
    let place = "process.rlimits[0].hard";
    refuses_on(&document, &weak, &options(), place, "RLIMIT_NOFILE above 4096");
    refuses_on(&document, &weak, &options(), place, "operation not permitted");
    planned_on(&with(&[("/process/rlimits", json!([rlimit("RLIMIT_NOFILE", 1, 4096)]))]), &weak, &options());
}

#[test]
fn b57_capabilities_that_cannot_be_had() {
    let document = with(&[(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_KILL", "CAP_CHECKPOINT_RESTORE", "CAP_FUTURE"],
            "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]
        }),
    )]);
    let identity = |plan: &Plan| {
        plan.steps.iter().find_map(|step| match &step.action {
            Action::Identity(identity) => Some(identity.clone()),
            _ => None,
        })
    };
    let plan = warns(&document, "process.capabilities.bounding[2]: unknown capability CAP_FUTURE, dropped");
    assert_eq!(identity(&plan).unwrap().bounding, 1 << 40 | 1 << 5);
    let old = Host { last_capability: 39, ..host() };
    let plan = planned_on(&document, &old, &options());
    assert_eq!(identity(&plan).unwrap().bounding, 1 << 5);
    assert!(
        plan.warnings.iter().any(|w| w.text == "CAP_CHECKPOINT_RESTORE is not known to this kernel, dropped")
    );
    let bounded = Host { bounding: 1 << 40, ..host() };
    let plan = planned_on(&document, &bounded, &options());
    assert_eq!((identity(&plan).unwrap().bounding, identity(&plan).unwrap().effective), (1 << 40, 0));
    assert!(plan.warnings.iter().any(|w| w.text == "CAP_KILL is not in the caller's bounding set, dropped"));
}

#[test]
fn b58_ambient_and_effective_are_subsets() {
    let sets = |inheritable: &[&str], permitted: &[&str], effective: &[&str], ambient: &[&str]| {
        with(&[(
            "/process/capabilities",
            json!({
                "inheritable": inheritable, "permitted": permitted, "effective": effective, "ambient": ambient
            }),
        )])
    };
    let kill = &["CAP_KILL"][..];
    for (inheritable, permitted) in [(&[][..], kill), (kill, &[][..])] {
        let plan = planned(&sets(inheritable, permitted, &[], kill));
        assert_eq!(plan.warnings[0].place, "process.capabilities.ambient");
        assert!(plan.warnings[0].text.contains("CAP_KILL"));
        let ambient = plan.steps.iter().find_map(|step| match &step.action {
            Action::Capabilities(sets) => Some(sets.ambient),
            _ => None,
        });
        assert_eq!(ambient, Some(0));
    }
    refuses(
        &sets(&[], &[], kill, &[]),
        "process.capabilities.effective",
        "subset of permitted (got CAP_KILL)",
    );
    planned(&sets(kill, kill, kill, kill));
}

#[test]
fn b59_oom_score_adj() {
    for score in [-1001, 1001] {
        refuses(&with(&[("/process/oomScoreAdj", json!(score))]), "process.oomScoreAdj", "-1000 to 1000");
    }
    let weak = Host { raise_rlimits: false, oom_score_adj: 100, ..host() };
    refuses_on(
        &with(&[("/process/oomScoreAdj", json!(99))]),
        &weak,
        &options(),
        "process.oomScoreAdj",
        "caller's 100",
    );
    for score in [100, 1000] {
        planned_on(&with(&[("/process/oomScoreAdj", json!(score))]), &weak, &options());
    }
    assert_eq!(planned(&with(&[("/process/oomScoreAdj", json!(-1000))])).outside.oom_score_adj, Some(-1000));
    assert_eq!(planned(&base()).outside.oom_score_adj, None);
}

#[test]
fn b60_b61_labels_without_their_module() {
    let none = Host { apparmor: false, ..host() };
    let document = with(&[("/process/apparmorProfile", json!("docker-default"))]);
    refuses_on(&document, &none, &options(), "process.apparmorProfile", "AppArmor is not enabled");
    planned(&document);
    planned_on(&with(&[("/process/apparmorProfile", json!(""))]), &none, &options());
    refuses(
        &with(&[("/process/selinuxLabel", json!("u:r:t:s0"))]),
        "process.selinuxLabel",
        "SELinux is not enabled",
    );
    refuses(&with(&[("/linux/mountLabel", json!("u:r:t:s0"))]), "linux.mountLabel", "SELinux is not enabled");
    planned(&with(&[("/linux/mountLabel", json!("")), ("/process/selinuxLabel", json!(""))]));
}

#[test]
fn b62_scheduler() {
    let scheduler = |value: Value| with(&[("/process/scheduler", value)]);
    for (value, place, text) in [
        (json!({}), "process.scheduler", "missing field `policy`"),
        (json!({"policy": "SCHED_X"}), "process.scheduler.policy", "unknown variant"),
        (json!({"policy": "SCHED_ISO"}), "process.scheduler.policy", "SCHED_ISO"),
        (json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice", "-20 to 19"),
        (json!({"policy": "SCHED_OTHER", "nice": -21}), "process.scheduler.nice", "-20 to 19"),
        (
            json!({"policy": "SCHED_OTHER", "priority": 1}),
            "process.scheduler.priority",
            "SCHED_FIFO or SCHED_RR",
        ),
        (json!({"policy": "SCHED_FIFO"}), "process.scheduler.priority", "1 to 99"),
        (json!({"policy": "SCHED_RR", "priority": 100}), "process.scheduler.priority", "1 to 99"),
        (
            json!({"policy": "SCHED_FIFO", "priority": 1, "runtime": 5}),
            "process.scheduler",
            "SCHED_DEADLINE only",
        ),
        (json!({"policy": "SCHED_DEADLINE", "deadline": 9}), "process.scheduler.runtime", "1024"),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 2048, "deadline": 2000}),
            "process.scheduler.deadline",
            "below",
        ),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 2048, "deadline": 3000, "period": 2999}),
            "process.scheduler.period",
            "below",
        ),
    ] {
        refuses(&scheduler(value), place, text);
    }
    planned(&scheduler(json!({"policy": "SCHED_BATCH", "nice": -20})));
    planned(&scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 2048, "deadline": 2048, "period": 0})));
}

#[test]
fn b63_io_priority() {
    for priority in [8, -1] {
        let document =
            with(&[("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": priority}))]);
        refuses(&document, "process.ioPriority.priority", "from 0 to 7");
    }
    let document = with(&[("/process/ioPriority", json!({"class": "IOPRIO_CLASS_X"}))]);
    refuses(&document, "process.ioPriority.class", "unknown variant");
}

#[test]
fn b64_exec_cpu_affinity() {
    let affinity = |list: &str| with(&[("/process/execCPUAffinity", json!({"initial": "0", "final": list}))]);
    for (list, text) in [
        ("3-1", "backwards"),
        ("abc", "nvalid"),
        ("100000", "any kernel"),
        ("0-4", "no CPU 4"),
        ("0,,1", "nvalid"),
    ] {
        refuses(&affinity(list), "process.execCPUAffinity.final", text);
    }
    planned(&affinity("0-1,3"));
}

#[test]
fn b65_no_new_privileges() {
    refuses(
        &with(&[("/process/noNewPrivileges", json!("yes"))]),
        "process.noNewPrivileges",
        "expected a boolean",
    );
}

#[test]
fn b66_b67_namespace_types() {
    refuses(
        &with(&[("/linux/namespaces/-", json!({"type": "x"}))]),
        "linux.namespaces[5].type",
        "unknown variant",
    );
    refuses(&with(&[("/linux/namespaces/-", json!({}))]), "linux.namespaces[5]", "missing field `type`");
    for kind in namespace_names().into_iter().filter(|&kind| kind != "user") {
        let document =
            with(&[("/linux/namespaces", json!([{"type": "mount"}, {"type": kind}, {"type": kind}]))]);
        let violations = refused(&document);
        assert!(violations[0].contains("].type: a namespace type may be given once"), "{violations:?}");
    }
}

#[test]
fn b68_namespace_path() {
    let document = with(&[("/linux/namespaces/-", json!({"type": "cgroup", "path": "proc/1/ns/cgroup"}))]);
    refuses(&document, "linux.namespaces[5].path", "absolute");
}

#[test]
fn b69_user_namespace_and_mappings() {
    let unmapped = with(&[("/linux/namespaces/-", json!({"type": "user"}))]);
    assert_eq!(refused(&unmapped).len(), 2);
    let one = with(&[
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}])),
    ]);
    refuses(&one, "linux.gidMappings", "at least one mapping");
    let none = with(&[("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}]))]);
    refuses(&none, "linux.uidMappings", "needs a user namespace");
}

/// An ordinary user who has ids beside their own, and the programs that map them.
fn with_sub_ids() -> Host {
    let ids = SubIds {
        uids: vec![(100_000, 65_536)],
        gids: vec![(200_000, 10), (200_000, 10), (300_000, 5)],
        newuidmap: "/usr/bin/newuidmap".into(),
        newgidmap: "/usr/bin/newgidmap".into(),
    };
    Host { sub_ids: ids, ..user() }
}

#[test]
fn an_ordinary_user_without_a_user_namespace_gets_one() {
    let line = |container, host, size| IdMap { container, host, size };
    let plan = planned_on(&base(), &with_sub_ids(), &options());
    let spawn = &plan.spawn;
    assert_eq!(spawn.new[0], Namespace::User);
    assert_eq!(spawn.uid_map, [line(0, 1000, 1), line(1, 100_000, 65_536)]);
    // What is given twice is mapped once.
    assert_eq!(spawn.gid_map, [line(0, 1000, 1), line(1, 200_000, 10), line(11, 300_000, 5)]);
    assert_eq!(spawn.uid_writer, MapWriter::Helper("/usr/bin/newuidmap".into()));
    assert_eq!(spawn.gid_writer, MapWriter::Helper("/usr/bin/newgidmap".into()));
    let text = explain(&plan);
    for line in [
        "\nspawn    new user mount ",
        "\nmap      uid 0:1000:1 1:100000:65536 (not the caller's own alone, so by /usr/bin/newuidmap)\n",
        "\nadded    the user namespace: its ids are from /etc/subuid and /etc/subgid\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    let note = "linux.namespaces: a user namespace is added: its ids are from /etc/subuid and /etc/subgid";
    assert!(plan.notes.iter().any(|one| one.to_string() == note), "{:?}", plan.notes);
    let mut document = base();
    document["process"]["user"] = json!({"uid": 65_536, "gid": 15, "additionalGids": [1, 2]});
    planned_on(&document, &with_sub_ids(), &options());
    document["process"]["user"]["gid"] = json!(16);
    refuses_on(&document, &with_sub_ids(), &options(), "process.user.gid", "is not mapped");
    // Root needs none.
    assert!(!planned(&base()).spawn.makes(Namespace::User));
    // Without namespaces, and without linux.
    planned_on(&without(&["/linux", "/mounts"]), &with_sub_ids(), &options());
}

#[test]
fn without_other_ids_there_is_one_and_the_reason() {
    let change = |change: &dyn Fn(&mut SubIds)| {
        let mut host = with_sub_ids();
        change(&mut host.sub_ids);
        host
    };
    for (host, why) in [
        (change(&|ids| ids.uids.clear()), "/etc/subuid has no ids for uid 1000"),
        (change(&|ids| ids.gids.clear()), "/etc/subgid has no ids for uid 1000"),
        (change(&|ids| ids.newgidmap.clear()), "newuidmap and newgidmap are not installed"),
    ] {
        let plan = planned_on(&base(), &host, &options());
        assert_eq!(plan.spawn.uid_map, [IdMap { container: 0, host: 1000, size: 1 }]);
        assert_eq!((&plan.spawn.uid_writer, &plan.spawn.gid_writer), (&MapWriter::OwnId, &MapWriter::OwnId));
        assert!(explain(&plan).contains(&format!("it has one id, because {why}")), "{}", explain(&plan));
        assert!(
            explain(&plan).contains("map      gid 0:1000:1 (the caller's own, so setgroups is denied)\n")
        );
        let mut document = base();
        document["process"]["user"] = json!({"uid": 1, "gid": 0});
        refuses_on(&document, &host, &options(), "process.user.uid", why);
    }
}

#[test]
fn maps_of_other_ids_need_their_program() {
    let map = |host: u32, size: u32| {
        let ids = json!([{"containerID": 0, "hostID": host, "size": size}]);
        with(&[
            ("/linux/namespaces/-", json!({"type": "user"})),
            ("/linux/uidMappings", ids.clone()),
            ("/linux/gidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 1}])),
        ])
    };
    let plan = planned_on(&map(1000, 1), &user(), &options());
    assert_eq!((&plan.spawn.uid_writer, plan.spawn.user_added.as_str()), (&MapWriter::OwnId, ""));
    for (host, size) in [(1000, 2), (100_000, 1)] {
        refuses_on(
            &map(host, size),
            &user(),
            &options(),
            "linux.uidMappings",
            "by newuidmap, which is not inst",
        );
        let plan = planned_on(&map(host, size), &with_sub_ids(), &options());
        assert_eq!(plan.spawn.uid_writer, MapWriter::Helper("/usr/bin/newuidmap".into()));
        assert_eq!(plan.spawn.gid_writer, MapWriter::OwnId);
        assert_eq!(planned(&map(host, size)).spawn.uid_writer, MapWriter::Privileged);
    }
}

#[test]
fn b70_user_namespace_path_and_mappings() {
    let document = with(&[
        ("/linux/namespaces/-", json!({"type": "user", "path": "/run/userns"})),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}])),
        ("/linux/gidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}])),
    ]);
    let plan = warns(&document, "has its own mappings");
    assert!(plan.spawn.uid_map.is_empty() && plan.spawn.joins(Namespace::User));
}

#[test]
fn b71_mappings() {
    let uids = |lines: Value| mapped(&[("/linux/uidMappings", lines)]);
    let line = |container: u32, host: u32, size: u32| json!({"containerID": container, "hostID": host, "size": size});
    for (lines, place, text) in [
        (json!([line(0, 0, 1), line(1, 1, 0)]), "linux.uidMappings[1].size", "at least 1"),
        (
            json!([line(0, 0, 10), line(9, 100, 1)]),
            "linux.uidMappings[1]",
            "overlaps with mapping 0 (got 9:100:1)",
        ),
        (json!([line(0, 0, 10), line(10, 9, 1)]), "linux.uidMappings[1]", "overlaps"),
        (
            json!([line(0, 0, 1), line(u32::MAX, 5, 1)]),
            "linux.uidMappings[1].containerID",
            "past the last id",
        ),
        (json!([line(0, 0, 1), line(5, u32::MAX, 1)]), "linux.uidMappings[1].hostID", "past the last id"),
        (json!([line(1, 1, 5)]), "linux.uidMappings", "id 0"),
        (json!(vec![line(0, 0, 1); 341]), "linux.uidMappings", "340"),
    ] {
        let violations = refused(&uids(lines));
        assert!(
            violations.iter().any(|v| v.starts_with(&format!("{place}: ")) && v.contains(text)),
            "{violations:?}"
        );
    }
    planned(&uids(json!([line(0, 0, u32::MAX)])));
}

#[test]
fn b72_time_offsets() {
    let time = |namespace: Value, offsets: Value| {
        with(&[("/linux/namespaces/-", namespace), ("/linux/timeOffsets", offsets)])
    };
    let new = json!({"type": "time"});
    let offset = json!({"monotonic": {"secs": 5}});
    let old = Host { kernel: (6, 0), ..host() };
    refuses_on(
        &time(new.clone(), offset.clone()),
        &old,
        &options(),
        "linux.namespaces",
        "Linux 6.1 or newer (got 6.0)",
    );
    planned_on(&time(new.clone(), offset.clone()), &Host { kernel: (6, 1), ..host() }, &options());
    refuses(&time(json!({"type": "cgroup"}), offset.clone()), "linux.timeOffsets", "new time namespace");
    refuses(&time(json!({"type": "time", "path": "/x"}), offset), "linux.timeOffsets", "new time namespace");
    refuses(&time(new.clone(), json!({"realtime": {"secs": 5}})), "linux.timeOffsets", "(got realtime)");
    let nanos = json!({"boottime": {"nanosecs": 1_000_000_000}});
    refuses(&time(new.clone(), nanos), "linux.timeOffsets.boottime.nanosecs", "below 1000000000");
    let plan = planned(&time(new, json!({"monotonic": {"secs": -5}, "boottime": {"nanosecs": 7}})));
    assert_eq!(plan.spawn.time_offsets, [("boottime".into(), 0, 7), ("monotonic".into(), -5, 0)]);
}

#[test]
fn b73_b74_names() {
    for (field, word) in [("hostname", "hostname"), ("domainname", "domainname")] {
        let pointer = format!("/{field}");
        let no_uts = with(&[("/linux/namespaces", json!([{"type": "mount"}])), (&pointer, json!("x"))]);
        refuses(&no_uts, field, "uts namespace");
        refuses(&with(&[(&pointer, json!("x".repeat(65)))]), field, "at most 64 bytes");
        at(
            &planned(&with(&[(&pointer, json!("x".repeat(64)))])),
            &format!("set {word} to {}", "x".repeat(64)),
        );
        assert!(
            !steps(&planned(&with(&[(&pointer, json!(""))]))).iter().any(|s| s.starts_with("set hostname"))
        );
    }
}

fn device(value: Value) -> Value {
    with(&[("/linux/devices", json!([value]))])
}

#[test]
fn b75_b76_devices() {
    for (value, place, text) in [
        (
            json!({"path": "/dev/x", "type": "x", "major": 1, "minor": 1}),
            "linux.devices[0].type",
            "unknown variant",
        ),
        (
            json!({"path": "/dev/x", "type": "a", "major": 1, "minor": 1}),
            "linux.devices[0].type",
            "c, b, u or p",
        ),
        (json!({"type": "c", "major": 1, "minor": 1}), "linux.devices[0].path", "absolute"),
        (json!({"path": "dev/x", "type": "c", "major": 1, "minor": 1}), "linux.devices[0].path", "absolute"),
        (json!({"path": "/dev/x", "type": "c"}), "linux.devices[0]", "major and minor are needed"),
        (
            json!({"path": "/dev/x", "type": "b", "major": -1, "minor": 1}),
            "linux.devices[0].major",
            "0 to 4095",
        ),
        (
            json!({"path": "/dev/x", "type": "b", "major": 4096, "minor": 1}),
            "linux.devices[0].major",
            "0 to 4095",
        ),
        (
            json!({"path": "/dev/x", "type": "u", "major": 1, "minor": 1 << 20}),
            "linux.devices[0].minor",
            "1048575",
        ),
    ] {
        refuses(&device(value), place, text);
    }
    at(&planned(&device(json!({"path": "/run/x", "type": "p"}))), "create fifo /run/x");
}

#[test]
fn b77_one_path_for_two_devices() {
    let first = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
    let other = json!({"path": "/dev//x", "type": "c", "major": 1, "minor": 5});
    refuses(&with(&[("/linux/devices", json!([first, other]))]), "linux.devices[1].path", "another device");
    planned(&with(&[("/linux/devices", json!([first, first]))]));
}

#[test]
fn b78_device_mode_and_owner() {
    let with_mode =
        |mode: u32| json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": mode});
    refuses(&device(with_mode(0o1_000_000)), "linux.devices[0].fileMode", "07777");
    // Docker sends st_mode.
    planned(&device(with_mode(0o020_666)));
    for id in ["uid", "gid"] {
        let document = device(json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3, id: u32::MAX}));
        refuses(&document, &format!("linux.devices[0].{id}"), "is not an id");
    }
}

#[test]
fn b79_covered_paths() {
    for (field, place) in
        [("maskedPaths", "linux.maskedPaths[0]"), ("readonlyPaths", "linux.readonlyPaths[0]")]
    {
        let pointer = format!("/linux/{field}");
        refuses(&with(&[(&pointer, json!(["proc/x"]))]), place, "absolute");
        refuses(&with(&[(&pointer, json!([""]))]), place, "absolute");
        refuses(&with(&[(&pointer, json!(["/x/.."]))]), place, "below the root");
    }
}

#[test]
fn b80_without_a_mount_namespace() {
    for namespaces in [json!([{"type": "pid"}]), json!([{"type": "mount", "path": "/run/mnt"}])] {
        let document = with(&[
            ("/linux/namespaces", namespaces),
            ("/root/readonly", json!(true)),
            ("/linux/maskedPaths", json!(["/proc/kcore"])),
            ("/linux/readonlyPaths", json!(["/proc/sys"])),
            ("/linux/rootfsPropagation", json!("rslave")),
            ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}])),
        ]);
        let violations = refused(&document);
        let places: Vec<&str> = violations.iter().filter_map(|v| v.split(": ").next()).collect();
        assert_eq!(
            places,
            [
                "mounts",
                "root.readonly",
                "linux.maskedPaths",
                "linux.readonlyPaths",
                "linux.rootfsPropagation",
                "linux.devices"
            ]
        );
        assert!(violations.iter().all(|v| v.contains("needs a new mount namespace")), "{violations:?}");
    }
}

fn sysctl(key: &str, value: &str) -> Value {
    with(&[("/linux/sysctl", json!({key: value}))])
}

#[test]
fn b82_t85_sysctl_keys() {
    for (key, text) in [
        ("kernel.core_pattern", "belongs to no namespace"),
        ("vm.swappiness", "belongs to no namespace"),
        ("net", "belongs to no namespace"),
        ("fs.mqueue", "belongs to no namespace"),
        ("kernel.shm", "belongs to no namespace"),
        ("kernel.shmmax.x", "belongs to no namespace"),
        ("netx.ipv4", "belongs to no namespace"),
        ("net.ipv4.../../../kernel/core_pattern", "component"),
        ("net/../kernel/core_pattern", "component"),
        ("fs.mqueue.../..", "component"),
        ("net//core", "component"),
        ("net..core", "component"),
        ("/net/core/x", "component"),
        ("", "component"),
        ("kernel.shmmax+kernel.core_pattern=1", "letters, digits"),
        ("net.core.x y", "letters, digits"),
        ("kernel.hostname", "the field hostname"),
        ("kernel/hostname", "the field hostname"),
        ("user.max_user_namespaces", "needs a user namespace"),
    ] {
        refuses(&sysctl(key, "1"), "linux.sysctl", text);
    }
    for (key, step) in [
        ("net.ipv4.ip_forward", "sysctl net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/forwarding", "sysctl net/ipv4/conf/eth0.100/forwarding"),
        ("net.ipv4.conf.eth0/100.forwarding", "sysctl net/ipv4/conf/eth0.100/forwarding"),
        ("kernel.shmmax", "sysctl kernel/shmmax"),
        ("fs.mqueue.msg_max", "sysctl fs/mqueue/msg_max"),
        ("kernel.domainname", "sysctl kernel/domainname"),
    ] {
        at(&planned(&sysctl(key, "1")), step);
    }
    let bare = json!([{"type": "mount"}]);
    for (key, namespace) in
        [("net.core.somaxconn", "network"), ("kernel.sem", "ipc"), ("kernel.domainname", "uts")]
    {
        let document = with(&[("/linux/namespaces", bare.clone()), ("/linux/sysctl", json!({key: "1"}))]);
        refuses(&document, "linux.sysctl", &format!("needs a {namespace} namespace"));
    }
    let both = with(&[("/linux/sysctl", json!({"kernel.domainname": "x"})), ("/domainname", json!("y"))]);
    refuses(&both, "linux.sysctl", "contradicts the field domainname");
    let twice = with(&[("/linux/sysctl", json!({"net.core.x": "1", "net/core/x": "2"}))]);
    refuses(&twice, "linux.sysctl", "given twice");
    at(
        &planned(&mapped(&[("/linux/sysctl", json!({"user.max_user_namespaces": "0"}))])),
        "sysctl user/max_user_namespaces",
    );
}

#[test]
fn b84_sysctl_values() {
    for value in ["a\nb", &"x".repeat(4096)] {
        refuses(&sysctl("kernel.shmmax", value), "linux.sysctl[\"kernel.shmmax\"]", "one line");
    }
}

#[test]
fn b85_net_devices() {
    let devices = |value: Value| with(&[("/linux/netDevices", value)]);
    for name in ["", "..", ".", "a/b", "sixteencharslong", "a b", "a:b", "eth%d"] {
        refuses(&devices(json!({name: {}})), "linux.netDevices", "a device name");
    }
    for name in ["..", "a/b", "sixteencharslong", "a\tb", "eth%d%d", "eth%s"] {
        refuses(
            &devices(json!({"eth1": {"name": name}})),
            "linux.netDevices[\"eth1\"].name",
            "a device name",
        );
    }
    let twice = devices(json!({"eth1": {"name": "a"}, "eth2": {"name": "a"}}));
    refuses(&twice, "linux.netDevices[\"eth2\"].name", "one name");
    let no_namespace = with(&[
        ("/linux/namespaces", json!([{"type": "mount"}])),
        ("/linux/netDevices", json!({"eth1": {}})),
    ]);
    refuses(&no_namespace, "linux.netDevices", "needs a network namespace");
    let plan = planned(&devices(json!({"eth2": {"name": "lan%d"}, "eth1": {}, "eth3": {"name": "lan%d"}})));
    let names: Vec<_> =
        plan.outside.net_devices.iter().map(|d| (d.host_name.as_str(), d.container_name.as_str())).collect();
    assert_eq!(names, [("eth1", "eth1"), ("eth2", "lan%d"), ("eth3", "lan%d")]);
}

#[test]
fn b86_personality() {
    let document = |value: Value| with(&[("/linux/personality", value)]);
    refuses(&document(json!({"domain": "LINUX99"})), "linux.personality.domain", "unknown variant");
    refuses(&document(json!({"domain": "LINUX", "flags": ["X"]})), "linux.personality.flags", "(got X)");
    at(&planned(&document(json!({"domain": "LINUX32", "flags": []}))), "set the personality");
}

#[test]
fn b87_memory_policy() {
    let policy = |value: Value| with(&[("/linux/memoryPolicy", value)]);
    for (value, place, text) in [
        (json!({"mode": "MPOL_X"}), "linux.memoryPolicy.mode", "unknown variant"),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["X"]}),
            "linux.memoryPolicy.flags[0]",
            "unknown variant",
        ),
        (json!({"mode": "MPOL_BIND", "nodes": "a-b"}), "linux.memoryPolicy.nodes", "list such as"),
        (json!({"mode": "MPOL_BIND", "nodes": "0-2"}), "linux.memoryPolicy.nodes", "no node 2"),
        (json!({"mode": "MPOL_DEFAULT", "nodes": "0"}), "linux.memoryPolicy.nodes", "takes no nodes"),
        (json!({"mode": "MPOL_LOCAL", "nodes": "0"}), "linux.memoryPolicy.nodes", "takes no nodes"),
        (json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes", "MPOL_BIND needs nodes"),
        (json!({"mode": "MPOL_INTERLEAVE"}), "linux.memoryPolicy.nodes", "needs nodes"),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
            "linux.memoryPolicy.flags",
            "exclude each other",
        ),
        (
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
            "linux.memoryPolicy.flags",
            "NUMA balancing",
        ),
        (
            json!({"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]}),
            "linux.memoryPolicy.flags",
            "without any nodes",
        ),
    ] {
        refuses(&policy(value), place, text);
    }
    planned(&policy(json!({"mode": "MPOL_PREFERRED"})));
    planned(&policy(json!({"mode": "MPOL_BIND", "nodes": "5", "flags": ["MPOL_F_RELATIVE_NODES"]})));
}

#[test]
fn b88_intel_rdt() {
    let rdt = |value: Value| with(&[("/linux/intelRdt", value)]);
    refuses(&rdt(json!({})), "linux.intelRdt", "not mounted");
    let resctrl = Host { resctrl: "/sys/fs/resctrl".into(), ..host() };
    for (value, place, text) in [
        (json!({"closID": "."}), "linux.intelRdt.closID", "one directory"),
        (json!({"closID": ".."}), "linux.intelRdt.closID", "one directory"),
        (json!({"closID": "a/b"}), "linux.intelRdt.closID", "one directory"),
        (json!({"memBwSchema": "0=1"}), "linux.intelRdt.memBwSchema", "MB:"),
        (json!({"memBwSchema": "MB:0=1\nL3:0=f"}), "linux.intelRdt.memBwSchema", "MB:"),
        (json!({"schemata": ["L3:0=f", "a\nb"]}), "linux.intelRdt.schemata[1]", "one line"),
    ] {
        refuses_on(&rdt(value), &resctrl, &options(), place, text);
    }
    let full = json!({
        "closID": "gold", "l3CacheSchema": "L3:0=f\nMB:0=9", "memBwSchema": "MB:0=1", "schemata": ["L2:0=1"],
        "enableMonitoring": true
    });
    assert_eq!(
        planned_on(&rdt(full), &resctrl, &options()).outside.intel_rdt,
        Some(IntelRdt {
            group: "gold".into(),
            named: true,
            schemata: ["L3:0=f", "MB:0=1", "L2:0=1"].map(String::from).to_vec(),
            monitoring: true
        })
    );
    let unnamed = planned_on(&rdt(json!({})), &resctrl, &options()).outside.intel_rdt.unwrap();
    assert_eq!((unnamed.group.as_str(), unnamed.named), ("web", false));
    let root = planned_on(&rdt(json!({"closID": "/"})), &resctrl, &options()).outside.intel_rdt.unwrap();
    assert_eq!((root.group.as_str(), root.named), ("", true));
}

fn profile(value: Value) -> Value {
    with(&[("/linux/seccomp", value)])
}

/// A profile with one rule for mkdir, and these members of the rule.
fn mkdir(members: Value) -> Value {
    let mut rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
    rule.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

fn set_in(mut value: Value, key: &str, new: Value) -> Value {
    value[key] = new;
    value
}

#[test]
fn b102_seccomp_names_are_known_or_refused() {
    let arg = |value: Value| mkdir(json!({"args": [value]}));
    for (value, place, text) in [
        (json!({"defaultAction": "SCMP_ACT_X"}), "defaultAction", "is not an action (got SCMP_ACT_X)"),
        (mkdir(json!({"action": "ALLOW"})), "syscalls[0].action", "is not an action (got ALLOW)"),
        (
            set_in(mkdir(json!({})), "architectures", json!(["SCMP_ARCH_X86", "SCMP_ARCH_VAX"])),
            "architectures[1]",
            "is not an architecture",
        ),
        // The types know this one, the specification does not.
        (
            set_in(mkdir(json!({})), "architectures", json!(["SCMP_ARCH_NATIVE"])),
            "architectures[0]",
            "is not an architecture",
        ),
        (
            set_in(mkdir(json!({})), "flags", json!(["SECCOMP_FILTER_FLAG_NEW_LISTENER"])),
            "flags[0]",
            "is not a flag",
        ),
        (arg(json!({"index": 0, "value": 1, "op": "EQ"})), "syscalls[0].args[0].op", "is not an operator"),
        (arg(json!({"index": 6, "value": 1, "op": "SCMP_CMP_EQ"})), "syscalls[0].args[0].index", "at most 5"),
        (
            arg(json!({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"})),
            "syscalls[0].args[0].value",
            "invalid value",
        ),
        (mkdir(json!({"names": []})), "syscalls[0].names", "is empty"),
        (
            json!({"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}),
            "defaultAction",
            "is missing: there are rules",
        ),
        (mkdir(json!({"action": ""})), "syscalls[0].action", "is not an action (it is empty)"),
    ] {
        let dot = if place.is_empty() { "" } else { "." };
        refuses(&profile(value), &format!("linux.seccomp{dot}{place}"), text);
    }
}

#[test]
fn b102_seccomp_errnos() {
    for (value, place, text) in [
        (mkdir(json!({"errnoRet": 4096})), "syscalls[0].errnoRet", "4095"),
        (mkdir(json!({"action": "SCMP_ACT_KILL", "errnoRet": 1})), "syscalls[0].errnoRet", "no errno"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 38}),
            "defaultErrnoRet",
            "returns no errno",
        ),
    ] {
        refuses(&profile(value), &format!("linux.seccomp.{place}"), text);
    }
}

#[test]
fn b102_seccomp_all_that_is_wrong_at_once() {
    let value = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1, "listenerMetadata": "m",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 2},
            {"names": [], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_NE"}]}
        ]
    });
    let old = Host { kernel: (5, 15), ..host() };
    let violations = refused_on(&profile(value), &old, &options());
    for place in [
        "defaultErrnoRet",
        "listenerMetadata",
        "flags",
        "flags[0]",
        "syscalls[0].errnoRet",
        "syscalls[1].names",
        "syscalls[1].args[0].index",
    ] {
        let start = format!("linux.seccomp.{place}: ");
        assert!(violations.iter().any(|line| line.starts_with(&start)), "{place}: {violations:#?}");
    }
    assert_eq!(violations.len(), 7, "{violations:#?}");
}

#[test]
fn b102_seccomp_that_stops_execve() {
    let allow = json!({"names": ["execve"], "action": "SCMP_ACT_ALLOW"});
    let with_rules = |default: &str, rules: Value| json!({"defaultAction": default, "syscalls": rules});
    let conditional = |action: &str| {
        json!({
            "names": ["execve"], "action": action, "args": [{"index": 5, "value": 1, "op": "SCMP_CMP_EQ"}]
        })
    };
    for (value, name) in [
        (json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}), "SCMP_ACT_KILL_PROCESS"),
        (
            with_rules("SCMP_ACT_ERRNO", json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW"}])),
            "SCMP_ACT_ERRNO",
        ),
        (
            with_rules("SCMP_ACT_ALLOW", json!([{"names": ["execve"], "action": "SCMP_ACT_TRAP"}])),
            "SCMP_ACT_TRAP",
        ),
        (with_rules("SCMP_ACT_TRACE", json!([])), "SCMP_ACT_TRACE"),
    ] {
        refuses(&profile(value), "linux.seccomp", &format!("execve is answered {name}"));
    }
    for value in [
        with_rules("SCMP_ACT_KILL", json!([allow])),
        with_rules("SCMP_ACT_LOG", json!([])),
        with_rules("SCMP_ACT_ALLOW", json!([conditional("SCMP_ACT_ERRNO")])),
        with_rules("SCMP_ACT_KILL", json!([conditional("SCMP_ACT_ERRNO"), allow])),
    ] {
        planned(&profile(value));
    }
    for value in [
        with_rules("SCMP_ACT_ALLOW", json!([conditional("SCMP_ACT_KILL")])),
        with_rules("SCMP_ACT_KILL", json!([conditional("SCMP_ACT_ALLOW")])),
    ] {
        refuses(&profile(value), "linux.seccomp", "execve may be answered SCMP_ACT_KILL");
    }
}

#[test]
fn seccomp_unknown_syscalls_are_a_note_or_with_strict_refused() {
    let names = json!({"names": ["mkdir", "from_the_future", "from_the_future", "a\nb"]});
    let document = profile(mkdir(names));
    let plan = planned(&document);
    assert!(plan.warnings.is_empty(), "{:#?}", plan.warnings);
    let notes: Vec<String> = plan.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [r"linux.seccomp.syscalls: skipped, no architecture has a syscall of the name: from_the_future a\nb"]
    );
    let violations = refused_on(&document, &host(), &Options { strict: true, ..options() });
    assert_eq!(violations.len(), 3, "{violations:#?}");
    assert!(violations[0].starts_with("linux.seccomp.syscalls[0].names[1]: "), "{violations:#?}");
}

#[test]
fn seccomp_flags_mean_what_runc_has_them_mean() {
    let flags = |value: Option<Value>| {
        let given = mkdir(json!({}));
        let plan = planned(&profile(match value {
            Some(value) => set_in(given, "flags", value),
            None => given,
        }));
        plan.steps.into_iter().find_map(|step| match step.action {
            Action::Seccomp(filter) => Some(filter.flags),
            _ => None,
        })
    };
    assert_eq!(flags(None), Some(4));
    assert_eq!(flags(Some(json!([]))), Some(0));
    let two = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]);
    assert_eq!(flags(Some(two)), Some(3));
    let killable = set_in(mkdir(json!({"action": "SCMP_ACT_NOTIFY"})), "listenerPath", json!("/s"));
    let killable = set_in(killable, "flags", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]));
    planned(&profile(killable.clone()));
    let old = Host { kernel: (5, 18), ..host() };
    refuses_on(&profile(killable), &old, &options(), "linux.seccomp.flags[0]", "needs Linux 5.19 or newer");
}

#[test]
fn seccomp_listeners() {
    let notify = mkdir(json!({"action": "SCMP_ACT_NOTIFY"}));
    refuses(&profile(notify.clone()), "linux.seccomp.listenerPath", "is missing");
    let path = |value: &str| set_in(notify.clone(), "listenerPath", json!(value));
    refuses(&profile(path("relative")), "linux.seccomp.listenerPath", "absolute");
    let default = json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/s"});
    refuses(&profile(default), "linux.seccomp.defaultAction", "init");
    let write = json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"});
    refuses(
        &profile(set_in(path("/s"), "syscalls", json!([write]))),
        "linux.seccomp.syscalls[0].action",
        "write",
    );
    let metadata = set_in(mkdir(json!({})), "listenerMetadata", json!("m"));
    refuses(&profile(metadata), "linux.seccomp.listenerMetadata", "without listenerPath");

    let plan = planned(&profile(set_in(path("/s"), "listenerMetadata", json!("m"))));
    let listener = SeccompListener { path: "/s".into(), metadata: "m".into() };
    assert_eq!(plan.outside.seccomp_listener, Some(listener));
    let plan = warns(&profile(set_in(mkdir(json!({})), "listenerPath", json!("/s"))), "no listener");
    assert_eq!(plan.outside.seccomp_listener, None);
}

#[test]
fn b108_b109_b110_hooks() {
    for kind in hook_names() {
        let hook = |value: Value| with(&[("/hooks", json!({kind: [value]}))]);
        for path in ["", "x", "./x"] {
            refuses(&hook(json!({"path": path})), &format!("hooks.{kind}[0].path"), "absolute");
        }
        for timeout in [0, -1] {
            let document = hook(json!({"path": "/x", "timeout": timeout}));
            refuses(&document, &format!("hooks.{kind}[0].timeout"), "at least 1");
        }
        refuses(
            &hook(json!({"path": "/x", "timeout": 1.5})),
            &format!("hooks.{kind}[0].timeout"),
            "floating point",
        );
        planned(&hook(json!({"path": "/x", "timeout": 1})));
    }
    refuses(&with(&[("/hooks", json!([]))]), "hooks", "must be an object");
    planned(&with(&[("/hooks", json!({"unknown": [{"path": 1}]}))]));
}

#[test]
fn b111_annotations() {
    let annotations = |value: Value| with(&[("/annotations", value)]);
    refuses(&annotations(json!({"": "x"})), "annotations", "must not be empty");
    refuses(&annotations(json!({"a": 1})), "annotations.a", "invalid type");
    refuses(&annotations(json!({"a": null})), "annotations.a", "invalid type");
    // CRI-O puts all of a pod's, up to 256 KiB, into one.
    refuses(&annotations(json!({"a": "x".repeat((1 << 20) + 1)})), "annotations", "1 MiB");
    planned(&annotations(json!({"a": "x".repeat(1 << 20), "b": ""})));
}

#[test]
fn t86_annotations_change_nothing_but_themselves() {
    let famous = json!({
        "run.oci.keep_original_groups": "1", "org.systemd.property.ExecStopPost": "x", "run.oci.handler": "wasm",
        "run.oci.hooks.stdout": "/etc/passwd", "org.criu.config": "/x", "run.oci.seccomp.receiver": "/x"
    });
    let mut plan = planned(&with(&[("/annotations", famous)]));
    assert_eq!(plan.annotations.len(), 6);
    plan.annotations.clear();
    assert_eq!(plan, planned(&base()));
}

#[test]
fn groups_are_kept_when_that_is_asked_for() {
    let kept = |plan: &Plan| {
        let identity = plan.steps.iter().find_map(|step| match &step.action {
            Action::Identity(identity) => Some(identity),
            _ => None,
        });
        identity.map(|identity| (identity.keep_groups, identity.groups.clone())).unwrap()
    };
    let none = || (true, Vec::new());
    let flag = Options { keep_groups: true, ..options() };
    let allowed = Options { allow_annotations: true, ..options() };
    let plan = planned_on(&base(), &host(), &flag);
    assert_eq!(kept(&plan), none());
    assert!(explain(&plan).contains("groups kept"));
    let annotation = ("/annotations", json!({"run.oci.keep_original_groups": "1"}));
    let groups = ("/process/user/additionalGids", json!([5]));
    assert_eq!(kept(&planned(&with(&[annotation.clone(), groups.clone()]))), (false, vec![5]));
    assert_eq!(kept(&planned_on(&with(std::slice::from_ref(&annotation)), &host(), &allowed)), none());
    let bad = with(&[("/annotations", json!({"run.oci.keep_original_groups": "0"}))]);
    refuses_on(&bad, &host(), &allowed, "annotations[\"run.oci.keep_original_groups\"]", "must be 1 (got 0)");
    // Both: who typed the flag can take one of them back, and who wrote the document is perhaps an engine.
    let place = "process.user.additionalGids";
    refuses_on(&with(std::slice::from_ref(&groups)), &host(), &flag, place, "there is no way to have these");
    let both = planned_on(&with(&[annotation, groups]), &host(), &allowed);
    assert_eq!(kept(&both), none());
    assert!(both.warnings.iter().any(|warning| warning.place == place), "{:?}", both.warnings);
}

#[test]
fn the_ids_of_a_bind_are_not_for_an_ordinary_user_to_map() {
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let bind = with(&[
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map.clone()),
        (
            "/mounts/-",
            json!({"destination": "/mnt", "type": "bind", "source": "/srv", "options": ["bind"],
                   "uidMappings": map, "gidMappings": map}),
        ),
    ]);
    refuses_on(&bind, &user(), &options(), "mounts[1]", "mapping the ids of a bind takes CAP_SYS_ADMIN");
    planned(&bind);
}

#[test]
fn in_a_user_namespace_there_is_what_it_has() {
    let one = vec![IdMap { container: 0, host: 1000, size: 1 }];
    let own = UserNamespace {
        uid_map: one.clone(),
        gid_map: one,
        setgroups_denied: true,
        foreign: vec![Namespace::Mount, Namespace::Network],
    };
    let inside = Host { initial_user_namespace: false, user_namespace: own.clone(), ..host() };
    assert!(!inside.may_mount() && host().may_mount());
    let ids = with(&[("/process/user/uid", json!(7))]);
    refuses_on(&ids, &inside, &options(), "process.user.uid", "is not mapped in the user namespace (got 7)");
    let groups = with(&[("/process/user/additionalGids", json!([0]))]);
    let place = "process.user.additionalGids";
    refuses_on(&groups, &inside, &options(), place, "not permitted in the caller's user namespace");
    // A namespace with the same ids, and setgroups is denied there too.
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let user = ("/linux/namespaces/-", json!({"type": "user"}));
    let maps = [("/linux/uidMappings", map.clone()), ("/linux/gidMappings", map)];
    let nested = with(&[user, maps[0].clone(), maps[1].clone()]);
    let text = explain(&planned_on(&nested, &inside, &options()));
    assert!(text.contains("groups kept"), "{text}");
    // sysfs of a network namespace that somebody else has.
    let mut sysfs =
        with(&[("/mounts/-", json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"}))]);
    sysfs["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}]);
    let text = explain(&planned_on(&sysfs, &inside, &options()));
    assert!(text.contains("bind /sys at /sys: rbind"), "{text}");
    let own = UserNamespace { foreign: Vec::new(), ..own };
    let inside = Host { user_namespace: own, ..inside };
    let text = explain(&planned_on(&sysfs, &inside, &options()));
    assert!(text.contains("mount sysfs at /sys"), "{text}");
}

#[test]
fn in_a_user_namespace_device_nodes_are_bound() {
    let inside = Host { initial_user_namespace: false, ..host() };
    let plan = planned_on(&base(), &inside, &options());
    let bound = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Device(device) => Some(device.bind),
        _ => None,
    });
    let bound: Vec<bool> = bound.collect();
    assert!(bound.len() >= 6 && bound.iter().all(|bind| *bind), "{bound:?}");
}
