// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a config may say of its cgroup, and what is planned for it on each kind of host.
//!
//! Never tests what reaches the kernel: the cgroup crate does. The b and t numbers are those of the project's list
//! of bad inputs and attacks.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod facts;

use coracle_plan::*;
use facts::*;
use serde_json::{Value, json};

fn path(value: &str) -> Value {
    with(&[("/linux/cgroupsPath", json!(value))])
}

fn resources(value: Value) -> Value {
    with(&[("/linux/resources", value)])
}

/// What is planned, without the device rules that every container has.
#[track_caller]
fn limits_on(value: Value, host: &Host) -> Resources {
    let planned = planned_on(&resources(value), host, &options()).cgroup.resources;
    Resources { devices: Vec::new(), devices_optional: false, ..planned }
}

#[track_caller]
fn limits(value: Value) -> Resources {
    limits_on(value, &host())
}

fn strict() -> Options {
    Options { strict: true, ..options() }
}

/// On a host that has it not, it is left out with a warning, or refused when the caller is strict; elsewhere it
/// is planned.
#[track_caller]
fn only_v1(value: Value, field: &str, controller: &str, wanted: Resources) {
    let place = format!("linux.resources.{field}");
    let document = resources(value.clone());
    let text = format!("{place}: needs the {controller} controller of cgroup v1");
    let plan = warns(&document, &text);
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].text.ends_with("which this host does not have: ignored"));
    assert_eq!(limits(value.clone()), Resources::default());
    refuses_on(&document, &host(), &strict(), &place, "which this host does not have");
    // A hybrid host counts by its hierarchies.
    let mut without = v1();
    without.cgroup.mode = CgroupMode::Hybrid;
    without.cgroup.v1.retain(|hierarchy| hierarchy.controllers != [controller]);
    warns_on(&document, &without, &text);

    let plan = planned_on(&document, &v1(), &strict());
    assert!(plan.warnings.is_empty());
    assert_eq!(limits_on(value, &v1()), wanted);
}

#[test]
fn b89_t72_cgroups_path() {
    for bad in ["/a/../b", "..", "a/..", "/a\nb"] {
        refuses(&path(bad), "linux.cgroupsPath", "must not");
    }
    for bad in ["/", "//", "/./"] {
        refuses(&path(bad), "linux.cgroupsPath", "root cgroup");
    }
    for (given, wanted) in [
        ("/docker/x", CgroupPath::Absolute("/docker/x".into())),
        ("pod/x", CgroupPath::Relative("pod/x".into())),
        ("system.slice:docker:x", CgroupPath::Relative("system.slice:docker:x".into())),
        ("/a..b", CgroupPath::Absolute("/a..b".into())),
        ("", CgroupPath::Relative("web".into())),
        (".", CgroupPath::Relative("web".into())),
    ] {
        let document = path(given);
        assert_eq!(planned(&document).cgroup.place, CgroupPlace::Directory(wanted.clone()));
        let (spec, _) = parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(cgroup_path(&spec, "web"), wanted);
    }
    assert_eq!(planned(&base()).cgroup.place, CgroupPlace::Directory(CgroupPath::Relative("web".into())));
}

#[test]
fn nothing_given_is_nothing_planned() {
    let empty = json!({
        "unified": {}, "hugepageLimits": [], "network": {"classID": 0, "priorities": []}, "rdma": {},
        "blockIO": {"weight": 0, "leafWeight": 0, "weightDevice": []}, "pids": {}, "devices": [],
        "memory": {
            "limit": 0, "reservation": 0, "swap": 0, "kernel": 0, "kernelTCP": -1, "useHierarchy": true, "checkBeforeUpdate": false
        },
        "cpu": {
            "cpus": "", "mems": "", "realtimeRuntime": 0, "realtimePeriod": 0, "shares": 0,
            "quota": 0, "period": 0
        }
    });
    for host in [host(), hybrid(), v1(), user()] {
        let host = Host { privileged: true, ..host };
        assert_eq!(limits_on(empty.clone(), &host), Resources::default());
        assert!(planned_on(&resources(empty.clone()), &host, &strict()).warnings.is_empty());
    }
}

/// What a new cgroup has; an older one may have had something else.
#[test]
fn zeros_that_are_values() {
    let given =
        json!({"cpu": {"burst": 0, "idle": 0}, "memory": {"disableOOMKiller": false}, "pids": {"limit": 0}});
    let wanted =
        Resources { cpu_burst: Some(0), cpu_idle: Some(false), pids_limit: Some(0), ..Resources::default() };
    assert_eq!(limits(given.clone()), wanted);
    assert!(planned_on(&resources(given.clone()), &host(), &strict()).warnings.is_empty());
    assert_eq!(limits_on(given, &v1()), Resources { disable_oom_killer: Some(false), ..wanted });
}

#[test]
fn b92_memory() {
    for (value, field, text) in [
        (json!({"limit": -2}), "limit", "-1"),
        (json!({"reservation": -2}), "reservation", "-1"),
        (json!({"swap": -2}), "swap", "-1"),
        (json!({"limit": 100, "swap": 99}), "swap", "limit of 100"),
        (json!({"swap": 99}), "swap", "needs a memory.limit"),
        (json!({"limit": -1, "swap": 99}), "swap", "needs a memory.limit"),
        (json!({"limit": 0, "swap": 99}), "swap", "needs a memory.limit"),
    ] {
        refuses(&resources(json!({"memory": value})), &format!("linux.resources.memory.{field}"), text);
    }
    let too_big = resources(json!({"memory": {"limit": 1u64 << 63}}));
    refuses(&too_big, "linux.resources.memory.limit", "expected i64");
    for (value, (memory_limit, memory_reservation, memory_swap)) in [
        (json!({"limit": 100, "swap": -1, "reservation": 50}), (Some(100), Some(50), Some(-1))),
        (json!({"limit": -1, "reservation": 5, "swap": -1}), (Some(-1), Some(5), Some(-1))),
        (json!({"limit": 100, "swap": 100}), (Some(100), None, Some(100))),
        (json!({"swap": -1}), (None, None, Some(-1))),
        (json!({"reservation": -1}), (None, Some(-1), None)),
    ] {
        let wanted = Resources { memory_limit, memory_reservation, memory_swap, ..Resources::default() };
        assert_eq!(limits(json!({"memory": value})), wanted);
    }
    assert!(limits(json!({"memory": {"checkBeforeUpdate": true}})).check_before_update);
}

#[test]
fn a_reservation_above_the_limit_is_only_told() {
    let document = resources(json!({"memory": {"limit": 100, "reservation": 101}}));
    warns(&document, "linux.resources.memory.reservation: 101 is above the limit of 100");
    let plan = planned_on(&document, &host(), &strict());
    assert_eq!(plan.cgroup.resources.memory_reservation, Some(101));
}

#[test]
fn obsolete_memory_limits() {
    for (value, field) in [
        (json!({"kernel": 10}), "kernel"),
        (json!({"kernelTCP": 10}), "kernelTCP"),
        (json!({"useHierarchy": false}), "useHierarchy"),
    ] {
        for host in [host(), v1()] {
            let document = resources(json!({"memory": value}));
            let place = format!("linux.resources.memory.{field}");
            let plan = warns_on(&document, &host, &format!("{place}: "));
            assert!(plan.warnings[0].text.ends_with(": ignored"));
            refuses_on(&document, &host, &strict(), &place, "");
            assert_eq!(limits_on(json!({"memory": value}), &host), Resources::default());
        }
    }
}

#[test]
fn b93_what_only_v1_knows() {
    let none = Resources::default;
    let swappiness = json!({"memory": {"swappiness": 101}});
    for host in [host(), v1()] {
        let place = "linux.resources.memory.swappiness";
        refuses_on(&resources(swappiness.clone()), &host, &options(), place, "at most 100");
    }
    for swappiness in [0, 100] {
        only_v1(
            json!({"memory": {"swappiness": swappiness}}),
            "memory.swappiness",
            "memory",
            Resources { memory_swappiness: Some(swappiness), ..none() },
        );
    }
    only_v1(
        json!({"memory": {"disableOOMKiller": true}}),
        "memory.disableOOMKiller",
        "memory",
        Resources { disable_oom_killer: Some(true), ..none() },
    );
    only_v1(
        json!({"cpu": {"realtimeRuntime": 950_000}}),
        "cpu.realtimeRuntime",
        "cpu",
        Resources { cpu_realtime_runtime: Some(950_000), ..none() },
    );
    only_v1(
        json!({"cpu": {"realtimePeriod": 1_000_000}}),
        "cpu.realtimePeriod",
        "cpu",
        Resources { cpu_realtime_period: Some(1_000_000), ..none() },
    );
    only_v1(
        json!({"blockIO": {"leafWeight": 10}}),
        "blockIO.leafWeight",
        "blkio",
        Resources { block_io: BlockIo { leaf_weight: Some(10), ..BlockIo::default() }, ..none() },
    );
    let device = WeightDevice { major: 8, minor: 16, weight: None, leaf_weight: Some(500) };
    only_v1(
        json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 16, "leafWeight": 500}]}}),
        "blockIO.weightDevice[0].leafWeight",
        "blkio",
        Resources { block_io: BlockIo { weight_device: vec![device], ..BlockIo::default() }, ..none() },
    );
    only_v1(
        json!({"network": {"classID": 0x10_0001}}),
        "network.classID",
        "net_cls",
        Resources { network_class_id: Some(0x10_0001), ..none() },
    );
    only_v1(
        json!({"network": {"priorities": [{"name": "lo", "priority": 5}, {"name": "eth0", "priority": 0}]}}),
        "network.priorities",
        "net_prio",
        Resources { network_priorities: vec![("lo".into(), 5), ("eth0".into(), 0)], ..none() },
    );
}

#[test]
fn b94_cpu() {
    for (value, field, text) in [
        (json!({"shares": 1}), "shares", "at least 2"),
        (json!({"quota": 999}), "quota", "1000"),
        (json!({"quota": -2}), "quota", "-1"),
        (json!({"period": 999}), "period", "1000"),
        (json!({"period": 1_000_001}), "period", "1000000"),
        (json!({"quota": 1000, "burst": 1001}), "burst", "above the quota"),
        (json!({"idle": 2}), "idle", "0 or 1"),
        (json!({"idle": -1}), "idle", "0 or 1"),
    ] {
        refuses(&resources(json!({"cpu": value})), &format!("linux.resources.cpu.{field}"), text);
    }
    for (value, text) in [
        (json!({"realtimeRuntime": -2}), "-1"),
        (json!({"realtimeRuntime": 101, "realtimePeriod": 100}), "above the period"),
    ] {
        let document = resources(json!({"cpu": value}));
        refuses_on(&document, &v1(), &options(), "linux.resources.cpu.realtimeRuntime", text);
    }
    let all = json!({
        "shares": 2, "quota": 20_000, "period": 10_000, "burst": 20_000, "idle": 1, "cpus": " 0-1, 3\n", "mems": "1"
    });
    let wanted = Resources {
        cpu_shares: Some(2),
        cpu_quota: Some(20_000),
        cpu_period: Some(10_000),
        cpu_burst: Some(20_000),
        cpu_idle: Some(true),
        cpus: Some("0-1,3".into()),
        mems: Some("1".into()),
        ..Resources::default()
    };
    for host in [host(), v1()] {
        assert_eq!(limits_on(json!({"cpu": all}), &host), wanted);
        assert!(planned_on(&resources(json!({"cpu": all})), &host, &strict()).warnings.is_empty());
    }
    let wanted = Resources { cpu_quota: Some(-1), cpu_burst: Some(5), ..Resources::default() };
    assert_eq!(limits(json!({"cpu": {"quota": -1, "burst": 5}})), wanted);
}

#[test]
fn b95_cpusets() {
    for (field, what, has) in [("cpus", "CPU", "0-3"), ("mems", "node", "0-1")] {
        let place = format!("linux.resources.cpu.{field}");
        let set = |list: &str| resources(json!({"cpu": {field: list}}));
        for list in ["0-999999", "a", "3-1", "0,", "0\n1"] {
            refuses(&set(list), &place, "(got ");
        }
        refuses(&set("0,9"), &place, &format!("this host has no {what} 9, it has {has} (got 0,9)"));
        // Not known is not wrong.
        let unknown = Host { cpus: String::new(), numa_nodes: String::new(), ..host() };
        planned_on(&set("0,9"), &unknown, &options());
    }
}

#[test]
fn b96_pids() {
    for (given, wanted) in [(i64::MIN, -1), (-2, -1), (-1, -1), (0, 0), (1, 1), (i64::MAX, i64::MAX)] {
        assert_eq!(limits(json!({"pids": {"limit": given}})).pids_limit, Some(wanted));
    }
}

#[test]
fn b97_block_io() {
    let io = |value: Value| resources(json!({"blockIO": value}));
    for (value, field, text) in [
        (json!({"weight": 9}), "weight", "from 10 to 1000 (got 9)"),
        (json!({"weight": 1001}), "weight", "from 10 to 1000"),
        (json!({"weightDevice": [{"major": 8, "minor": 0}]}), "weightDevice[0]", "weight or leafWeight"),
        (
            json!({"weightDevice": [{"major": 8, "minor": 0, "weight": 0}]}),
            "weightDevice[0]",
            "weight or leafWeight",
        ),
        (json!({"weightDevice": [{"weight": 10}]}), "weightDevice[0]", "major and minor are needed"),
        (
            json!({"weightDevice": [{"major": 8, "minor": 0, "weight": 5}]}),
            "weightDevice[0].weight",
            "from 10 to 1000",
        ),
    ] {
        refuses(&io(value), &format!("linux.resources.blockIO.{field}"), text);
    }
    refuses_on(
        &io(json!({"leafWeight": 9})),
        &v1(),
        &options(),
        "linux.resources.blockIO.leafWeight",
        "from 10 to 1000",
    );
    let lists = [
        "throttleReadBpsDevice",
        "throttleWriteBpsDevice",
        "throttleReadIOPSDevice",
        "throttleWriteIOPSDevice",
    ];
    for list in lists {
        for (entry, field) in [
            (json!({"major": -1, "minor": 0, "rate": 1}), ".major"),
            (json!({"major": 4096, "minor": 0, "rate": 1}), ".major"),
            (json!({"major": 8, "minor": 1_048_576, "rate": 1}), ".minor"),
            (json!({"major": i64::MAX, "minor": 1, "rate": 1}), ".major"),
            (json!({"rate": 1}), ""),
        ] {
            let place = format!("linux.resources.blockIO.{list}[1]{field}");
            let fine = json!({"major": 4095, "minor": 1_048_575, "rate": u64::MAX});
            refuses(&io(json!({list: [fine, entry]})), &place, "");
        }
    }
    let throttle = |rate: u64| json!([{"major": 8, "minor": 0, "rate": rate}]);
    let planned = |rate: u64| vec![Throttle { major: 8, minor: 0, rate }];
    let all = json!({
        "weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 1000, "leafWeight": 0}],
        lists[0]: throttle(1), lists[1]: throttle(2), lists[2]: throttle(3), lists[3]: throttle(0)
    });
    let wanted = BlockIo {
        weight: Some(10),
        leaf_weight: None,
        weight_device: vec![WeightDevice { major: 8, minor: 0, weight: Some(1000), leaf_weight: None }],
        read_bps: planned(1),
        write_bps: planned(2),
        read_iops: planned(3),
        write_iops: planned(0),
    };
    assert_eq!(limits(json!({"blockIO": all})).block_io, wanted);
    // Of an entry for both versions, v2 takes its half.
    let both =
        json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 20, "leafWeight": 30}]}});
    warns(&resources(both.clone()), "weightDevice[0].leafWeight: needs the blkio controller");
    assert_eq!(limits(both).block_io.weight_device[0].weight, Some(20));
}

#[test]
fn b98_rdma() {
    let rdma = |value: Value| resources(json!({"rdma": value}));
    refuses(&rdma(json!({"mlx": {}})), "linux.resources.rdma", "hcaHandles or hcaObjects");
    for name in ["", "a b", "a\nb", "a\tb", "a=b"] {
        refuses(&rdma(json!({name: {"hcaHandles": 1}})), "linux.resources.rdma", "a device name");
    }
    let one =
        |device: &str, hca_handles, hca_objects| Rdma { device: device.into(), hca_handles, hca_objects };
    assert_eq!(
        limits(json!({"rdma": {"mlx1": {"hcaObjects": 0}, "mlx0": {"hcaHandles": 3, "hcaObjects": 9}}})).rdma,
        [one("mlx0", Some(3), Some(9)), one("mlx1", None, Some(0))]
    );
}

#[test]
fn b99_t71_device_rules() {
    let rules = |rule: Value| resources(json!({"devices": [{"allow": false, "access": "rwm"}, rule]}));
    for (rule, field) in [
        (json!({"allow": true, "type": "x"}), "type"),
        (json!({"allow": true, "type": "p"}), "type"),
        (json!({"allow": true, "access": "q"}), "access"),
        (json!({"allow": true, "access": "rwx"}), "access"),
        (json!({"allow": true, "access": ""}), "access"),
        (json!({"allow": true, "access": "r", "major": -2}), "major"),
        (json!({"allow": true, "access": "r", "minor": -2}), "minor"),
        (json!({"allow": true, "access": "r", "type": "c", "major": 4096}), "major"),
        (json!({"allow": true, "access": "r", "type": "c", "minor": 1_048_576}), "minor"),
    ] {
        refuses(&rules(rule), &format!("linux.resources.devices[1].{field}"), "");
    }
    let plan = planned(&rules(json!({"allow": true, "access": "r", "type": "c", "major": 1})));
    assert!(plan.warnings.is_empty());
}

/// As `--dry-run` prints them, without the runtime's own.
#[track_caller]
fn device_lines(rules: Value) -> Vec<String> {
    let plan = planned(&resources(json!({"devices": rules})));
    let text = explain(&plan);
    text.lines().filter_map(|line| line.strip_prefix("devices  ")).map(String::from).collect()
}

const OWN: &str = "c *:* m, b *:* m, c 1:3 rwm, c 1:8 rwm, c 1:7 rwm, c 5:0 rwm, c 1:5 rwm, c 1:9 rwm, c 5:1 rwm, \
                   c 136:* rwm, c 5:2 rwm, c 10:200 rwm";

#[test]
fn r31_devices_are_denied_by_default() {
    let own = format!("allow {OWN}");
    let alone = ["deny a *:* rwm".to_string(), own.clone()];
    assert_eq!(device_lines(json!([])), alone);
    assert_eq!(device_lines(json!([{"allow": false, "access": "rwm"}])), alone);
    assert_eq!(device_lines(json!([{"allow": false, "type": "a"}])), alone);
    assert_eq!(device_lines(json!([{"allow": false, "major": -1, "minor": -1, "access": "mwr"}])), alone);
    for document in [base(), resources(json!({}))] {
        let devices = planned(&document).cgroup.resources.devices;
        assert_eq!(devices, planned(&resources(json!({"devices": []}))).cgroup.resources.devices);
        assert_eq!(devices.len(), 13);
    }
    // A device of the document is not one that may be used, without a rule that says so.
    let fuse = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
    assert_eq!(planned(&with(&[("/linux/devices", fuse)])).cgroup.resources.devices.len(), 13);
}

#[test]
fn device_rules_keep_their_order() {
    let given = json!([
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": true, "type": "b", "major": 8},
        {"allow": false, "type": "u", "major": 1, "minor": 5, "access": "w"},
        {"allow": true, "type": "c", "minor": 7, "access": "m"},
    ]);
    assert_eq!(
        device_lines(given),
        [
            "deny a *:* rwm".to_string(),
            "allow c 10:229 rw, b 8:* rwm".to_string(),
            "deny c 1:5 w".to_string(),
            format!("allow c *:7 m, {OWN}"),
        ]
    );
}

/// As the specification has it; runc and youki would allow every device here.
#[test]
fn all_types_with_a_number_are_both_types_with_it() {
    let given =
        json!([{"allow": true, "type": "a", "major": 10, "access": "rw"}, {"allow": true, "access": "r"}]);
    assert_eq!(
        device_lines(given),
        ["deny a *:* rwm".to_string(), format!("allow b 10:* rw, c 10:* rw, b *:* r, c *:* r, {OWN}")]
    );
}

#[test]
fn everything_allowed_stays_so() {
    let all = json!({"allow": true, "access": "rwm"});
    assert_eq!(device_lines(json!([all])), ["allow a *:* rwm"]);
    assert_eq!(device_lines(json!([{"allow": true}])), ["allow a *:* rwm"]);
    assert_eq!(
        device_lines(json!([{"allow": false, "type": "b"}, all])),
        ["deny a *:* rwm, b *:* rwm", "allow a *:* rwm"]
    );
    // Not by what comes before the last.
    let but_one = json!([all, {"allow": false, "type": "c", "major": 1, "minor": 1, "access": "rwm"}]);
    assert_eq!(
        device_lines(but_one),
        ["allow a *:* rwm".to_string(), "deny c 1:1 rwm".to_string(), format!("allow {OWN}")]
    );
}

#[test]
fn device_rules_may_be_left_out_in_a_user_namespace_only() {
    let with_user_namespace = with(&[
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 1}])),
        ("/linux/gidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 1}])),
    ]);
    let nested = Host { initial_user_namespace: false, ..host() };
    for (host, optional) in [(host(), false), (user(), true), (nested, true)] {
        let plan = planned_on(&with_user_namespace, &host, &options());
        assert_eq!(plan.cgroup.resources.devices_optional, optional);
        assert_eq!(explain(&plan).contains("without these rules where the caller may not"), optional);
    }
}

#[test]
fn b91_b100_huge_pages() {
    let huge = |value: Value| json!({"hugepageLimits": value});
    for (value, field, text) in [
        (json!([{"pageSize": "3MB", "limit": 1}]), "[0].pageSize", "power of two"),
        (json!([{"pageSize": "", "limit": 1}]), "[0].pageSize", "power of two"),
        (json!([{"pageSize": "2M", "limit": 1}]), "[0].pageSize", "power of two"),
        (json!([{"pageSize": "2MB", "limit": -1}]), "[0].limit", "negative"),
        (json!([{"pageSize": "2MB"}]), "[0]", "needs a limit"),
        (
            json!([{"pageSize": "2MB", "limit": 0}, {"pageSize": "2MB", "limit": 1}]),
            "[1].pageSize",
            "may be given once",
        ),
    ] {
        refuses(&resources(huge(value)), &format!("linux.resources.hugepageLimits{field}"), text);
    }
    let given = huge(json!([{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": u64::MAX}]));
    let most = ("1GB".to_string(), i64::MAX as u64);
    // Nothing there to be forbidden; but a limit that is wanted is not forgotten.
    assert_eq!(limits(given.clone()).hugepage_limits, std::slice::from_ref(&most));
    for host in [hybrid(), v1()] {
        assert_eq!(limits_on(given.clone(), &host).hugepage_limits, [("2MB".to_string(), 0), most.clone()]);
    }
}

#[test]
fn b101_interface_names() {
    for name in ["", "a b", "a/b", "a\nb", "interfaces-of-16"] {
        refuses_on(
            &resources(json!({"network": {"priorities": [{"name": name, "priority": 1}]}})),
            &v1(),
            &options(),
            "linux.resources.network.priorities[0].name",
            "an interface name",
        );
    }
}

#[test]
fn b90_t77_unified() {
    let unified = |value: Value| resources(json!({"unified": value}));
    for key in [
        "",
        "../x",
        "a/b",
        "/memory.max",
        "memory",
        ".memory",
        "memory.",
        "..",
        "memory.max\n",
        "memory max.x",
        "mémory.max",
    ] {
        refuses(&unified(json!({key: "1"})), "linux.resources.unified", "the name of one file");
    }
    for key in ["cgroup.procs", "cgroup.kill", "cgroup.freeze", "cgroup.subtree_control", "cgroup.threads"] {
        refuses(&unified(json!({key: "1"})), "linux.resources.unified", "is not a limit");
    }
    for value in ["1\n2", "\n"] {
        let place = "linux.resources.unified[\"memory.high\"]";
        refuses(&unified(json!({"memory.high": value})), place, "one line");
    }
    let good = unified(json!({"pids.max": "7", "memory.high": "max", "hugetlb.2MB.max": "0"}));
    let wanted = [("hugetlb.2MB.max", "0"), ("memory.high", "max"), ("pids.max", "7")];
    let wanted: Vec<(String, String)> = wanted.map(|(key, value)| (key.into(), value.into())).to_vec();
    for host in [host(), hybrid()] {
        assert_eq!(planned_on(&good, &host, &options()).cgroup.resources.unified, wanted);
    }
    refuses_on(&good, &v1(), &options(), "linux.resources.unified", "no cgroup2 filesystem");
    planned_on(&unified(json!({})), &v1(), &options());
}

#[test]
fn nuls_in_a_spec_that_was_built_in_memory() {
    use oci_spec::runtime::{LinuxRdmaBuilder, LinuxResourcesBuilder};
    let nul = || "a.b\0".to_string();
    let resources = LinuxResourcesBuilder::default()
        .rdma([(nul(), LinuxRdmaBuilder::default().hca_handles(1u32).build().unwrap())])
        .unified([("memory.high".to_string(), nul()), (nul(), "1".to_string())])
        .build()
        .unwrap();
    let (mut spec, _) = parse(base().to_string().as_bytes()).unwrap();
    spec.linux_mut().as_mut().unwrap().set_resources(Some(resources));
    let places: Vec<String> =
        plan(&spec, &host(), &options()).unwrap_err().into_iter().map(|v| v.place).collect();
    let unified = "linux.resources.unified";
    assert_eq!(places, ["linux.resources.rdma", unified, "linux.resources.unified[\"memory.high\"]"]);
}

fn systemd() -> Options {
    Options { systemd_cgroup: true, ..options() }
}

#[track_caller]
fn unit_on(document: &Value, host: &Host, options: &Options) -> SystemdUnit {
    match planned_on(document, host, options).cgroup.place {
        CgroupPlace::Unit(unit) => unit,
        CgroupPlace::Nowhere => panic!("no cgroup"),
        CgroupPlace::Directory(path) => panic!("no unit: {path:?}"),
    }
}

#[test]
fn systemd_units() {
    for (given, slice, name) in [
        ("", "system.slice", "oar-web.scope"),
        ("system.slice:docker:abc", "system.slice", "docker-abc.scope"),
        ("a-b.slice:cri:x@1", "a-b.slice", "cri-x@1.scope"),
        ("-.slice:p:n", "-.slice", "p-n.scope"),
        (":p:n", "system.slice", "p-n.scope"),
        ("a.slice::n", "a.slice", "n.scope"),
        ("::n", "system.slice", "n.scope"),
        ("a.slice:p:n.scope", "a.slice", "p-n.scope.scope"),
        ("a.slice:p:a-b.slice", "a.slice", "a-b.slice"),
        ("::a-b-c.slice", "a-b.slice", "a-b-c.slice"),
        ("-.slice:p:a.slice", "-.slice", "a.slice"),
    ] {
        let wanted = SystemdUnit {
            slice: slice.into(),
            name: name.into(),
            description: "oar container web".into(),
            user: false,
            properties: Vec::new(),
        };
        assert_eq!(unit_on(&path(given), &host(), &systemd()), wanted, "{given}");
    }
}

#[test]
fn whose_systemd() {
    let document = with(&[
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 1}])),
        ("/linux/gidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 1}])),
    ]);
    let nested = Host { initial_user_namespace: false, ..host() };
    for (host, user, slice) in
        [(host(), false, "system.slice"), (user(), true, "user.slice"), (nested, true, "user.slice")]
    {
        let unit = unit_on(&document, &host, &systemd());
        assert_eq!((unit.user, unit.slice.as_str(), unit.name.as_str()), (user, slice, "oar-web.scope"));
    }
}

#[test]
fn b89_units_that_systemd_would_refuse() {
    let long = format!("a.slice:p:{}", "n".repeat(248));
    for (given, text) in [
        ("/docker/x", "must be slice:prefix:name for the systemd cgroup driver (got /docker/x)"),
        ("x", "must be slice:prefix:name"),
        ("a.slice:x", "must be slice:prefix:name"),
        ("a.slice:p:n:m", "must be slice:prefix:name"),
        ("a.slice:p:", "name must not be empty"),
        ("a:p:n", "slice must end with .slice"),
        (".slice:p:n", "a name before .slice"),
        ("-a.slice:p:n", "begin or end with -"),
        ("a-.slice:p:n", "begin or end with -"),
        ("a--b.slice:p:n", "two in a row"),
        ("--.slice:p:n", "two in a row"),
        ("a@1.slice:p:n", "must not hold @"),
        ("a/b.slice:p:n", "in the slice, not /"),
        ("a b.slice:p:n", "in the slice, not  "),
        ("a.slice:p:../n", "in the unit name, not /"),
        ("a.slice:p\n:n", "in the unit name, not \\n"),
        ("a.slice:p:é", "in the unit name, not é"),
        ("a.slice::.n", "begin with . or @"),
        ("a.slice::@n", "begin with . or @"),
        ("a.slice:p:n@", "end with @"),
        (&long, "has at most 255 bytes"),
        ("::-.slice", "must not be the root slice"),
        ("::a--b.slice", "two in a row"),
        ("b.slice::a-c.slice", "systemd puts a-c.slice into a.slice"),
        ("system.slice::a.slice", "systemd puts a.slice into -.slice"),
    ] {
        refuses_on(&path(given), &host(), &systemd(), "linux.cgroupsPath", text);
    }
    planned_on(&path(&long[..long.len() - 1]), &host(), &systemd());
    let plus = Options { id: "a+b".into(), ..systemd() };
    refuses_on(&base(), &host(), &plus, "linux.cgroupsPath", "not + (got system.slice:oar:a+b)");
}

#[test]
fn t86_unit_properties_only_when_the_caller_allows_annotations() {
    let document = |annotations: Value| with(&[("/annotations", annotations)]);
    let given = document(json!({
        "org.systemd.property.TimeoutStopUSec": "uint64 123456789", "org.systemd.property.CollectMode": "'inactive'",
        "org.systemd.propertyX": "1", "other": "1"
    }));
    let allowing = Options { allow_annotations: true, ..systemd() };
    assert!(unit_on(&given, &host(), &systemd()).properties.is_empty());
    let wanted = [("CollectMode", "'inactive'"), ("TimeoutStopUSec", "uint64 123456789")];
    assert_eq!(
        unit_on(&given, &host(), &allowing).properties,
        wanted.map(|(name, value)| (name.to_string(), value.to_string()))
    );
    for name in ["", "x", "exec", "Exec Start", "Exec.Start", "É", "A\n"] {
        let key = format!("org.systemd.property.{name}");
        let bad = document(json!({key: "1"}));
        let violations = refused_on(&bad, &host(), &allowing);
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert!(violations[0].contains("a unit property is letters and digits"), "{violations:?}");
        planned_on(&bad, &host(), &systemd());
    }
    // Without systemd there is no unit that could have properties.
    let cgroupfs = Options { allow_annotations: true, ..options() };
    assert!(matches!(planned_on(&given, &host(), &cgroupfs).cgroup.place, CgroupPlace::Directory(_)));
}

#[test]
fn the_cgroup_belongs_to_the_container_under_three_conditions() {
    let mount = |kind: &str, target: &str, options: Value| json!([{"destination": target, "type": kind, "source": "cgroup", "options": options}]);
    let cgroup = ("/linux/namespaces/-", json!({"type": "cgroup"}));
    let writable = ("/mounts", mount("cgroup", "/sys/fs/cgroup", json!(["rw", "nosuid"])));
    let uid = ("/process/user/uid", json!(5));
    let owner =
        |changes: &[(&str, Value)], host: &Host| planned_on(&with(changes), host, &options()).cgroup.owner;
    let all = [cgroup.clone(), writable.clone(), uid.clone()];
    assert_eq!(owner(&all, &host()), Some(5));
    assert_eq!(owner(&[cgroup.clone(), writable.clone()], &host()), Some(0));
    for host in [hybrid(), v1()] {
        assert_eq!(owner(&all, &host), None);
    }
    assert_eq!(owner(&all[1..], &host()), None);
    let joined = ("/linux/namespaces/-", json!({"type": "cgroup", "path": "/proc/1/ns/cgroup"}));
    assert_eq!(owner(&[joined, writable.clone()], &host()), None);
    for (mounts, wanted) in [
        (mount("cgroup2", "/sys/./fs/cgroup/", json!([])), Some(0)),
        (mount("cgroup", "/sys/fs/cgroup", json!(["ro", "rw"])), Some(0)),
        (mount("cgroup", "/sys/fs/cgroup", json!(["rw", "ro"])), None),
        (mount("cgroup", "/sys/fs/cgroup", json!(["rro"])), None),
        (mount("cgroup", "/sys/fs/cgroup/a", json!([])), None),
        (mount("tmpfs", "/sys/fs/cgroup", json!([])), None),
        (json!([]), None),
    ] {
        assert_eq!(owner(&[cgroup.clone(), ("/mounts", mounts.clone())], &host()), wanted, "{mounts}");
    }
    // What is mounted last is what is seen.
    let covered =
        ("/mounts/-", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}));
    assert_eq!(owner(&[cgroup.clone(), writable.clone(), covered], &host()), None);

    let mut mapped = all.to_vec();
    mapped.push(("/linux/namespaces/-", json!({"type": "user"})));
    let map = json!([
        {"containerID": 0, "hostID": 100_000, "size": 5}, {"containerID": 5, "hostID": 7000, "size": 10}
    ]);
    mapped.push(("/linux/uidMappings", map.clone()));
    mapped.push(("/linux/gidMappings", map));
    assert_eq!(owner(&mapped, &host()), Some(7000));
    mapped[2].1 = json!(4);
    assert_eq!(owner(&mapped, &host()), Some(100_004));
    let joined = ("/linux/namespaces/-", json!({"type": "user", "path": "/proc/1/ns/user"}));
    assert_eq!(owner(&[cgroup, writable, uid, joined], &host()), None);
}

#[test]
fn the_leaf_needs_cgroup_v2_alone() {
    let leaf = Options { cgroup_leaf: true, ..options() };
    assert_eq!(planned_on(&base(), &host(), &leaf).cgroup.leaf.as_deref(), Some("init"));
    assert_eq!(planned(&base()).cgroup.leaf, None);
    for host in [hybrid(), v1()] {
        let plan = planned_on(&base(), &host, &leaf);
        assert_eq!(plan.cgroup.leaf, None);
        assert_eq!(plan.warnings[0].to_string(), "--cgroup-leaf needs a host with cgroup v2 alone: ignored");
        let strict = Options { strict: true, ..leaf.clone() };
        assert_eq!(refused_on(&base(), &host, &strict), ["--cgroup-leaf needs a host with cgroup v2 alone"]);
    }
}

/// An ordinary user to whom all hierarchies are closed.
fn closed(host: Host) -> Host {
    let mut host = Host { euid: 1000, egid: 1000, privileged: false, raise_rlimits: false, ..host };
    let v1 = host.cgroup.v1.iter().map(|hierarchy| hierarchy.mount_point.clone());
    host.cgroup.closed = v1.chain([host.cgroup.unified.clone()]).collect();
    host
}

fn rootless(changes: &[(&str, Value)]) -> Value {
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mut all = vec![
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map),
    ];
    all.extend_from_slice(changes);
    with(&all)
}

#[test]
fn a_user_who_may_make_no_cgroup_has_none() {
    for host in [closed(host()), closed(hybrid()), closed(v1())] {
        let plan = planned_on(&rootless(&[]), &host, &options());
        assert_eq!(plan.cgroup.place, CgroupPlace::Nowhere);
        assert_eq!(plan.cgroup.resources.devices, []);
        assert!(plan.warnings.is_empty());
        assert!(
            plan.notes[0].to_string().starts_with("the container has no cgroup: uid 1000 may not make a")
        );
        assert!(explain(&plan).starts_with("cgroup   none: the caller may not make one\nspawn "));
        let asked = rootless(&[("/linux/cgroupsPath", json!("/a"))]);
        warns_on(&asked, &host, "linux.cgroupsPath: the container has no cgroup");
    }
    // One that is open is used.
    let mut some = closed(hybrid());
    some.cgroup.closed.retain(|point| *point != some.cgroup.unified);
    let plan = planned_on(&rootless(&[]), &some, &options());
    assert!(matches!(plan.cgroup.place, CgroupPlace::Directory(_)));
    // No mount at all is root's problem, whom the runtime tells later.
    let mut none = host();
    (none.cgroup.mode, none.cgroup.unified) = (CgroupMode::None, String::new());
    assert!(matches!(planned_on(&base(), &none, &options()).cgroup.place, CgroupPlace::Directory(_)));
}

#[test]
fn limits_that_nothing_can_enforce_are_refused_with_what_helps() {
    let limit = rootless(&[("/linux/resources", json!({"pids": {"limit": 9}}))]);
    for (manager, help) in [
        (ServiceManager::User, "`--systemd-cgroup` before the verb"),
        (ServiceManager::System, "`loginctl enable-linger 1000`"),
        (ServiceManager::None, "root can make one"),
    ] {
        let host = Host { systemd: manager, ..closed(host()) };
        refuses_on(&limit, &host, &options(), "linux.resources", help);
        refuses_on(
            &limit,
            &host,
            &options(),
            "linux.resources",
            "pids.limit 9: uid 1000 may not make a cgroup",
        );
    }
    refuses_on(&limit, &closed(v1()), &options(), "linux.resources", "cgroup v1 are root's alone");
    let leaf = Options { cgroup_leaf: true, ..options() };
    let refused = refused_on(&rootless(&[]), &closed(host()), &leaf);
    assert!(refused.len() == 1 && refused[0].starts_with("--cgroup-leaf: uid 1000 may not"), "{refused:?}");
    // systemd makes its own.
    let systemd = Options { systemd_cgroup: true, ..options() };
    assert!(matches!(planned_on(&limit, &closed(host()), &systemd).cgroup.place, CgroupPlace::Unit(_)));
}

#[test]
fn without_a_cgroup_of_its_own_the_hosts_tree_is_shown() {
    let mount =
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup", "options": ["ro"]});
    let document = rootless(&[("/mounts/-", mount)]);
    let plan = planned_on(&document, &closed(host()), &options());
    let Action::Bind(bind) = action(&plan, "bind /sys/fs/cgroup at /sys/fs/cgroup") else { panic!() };
    assert!(!bind.recursive && bind.attributes.set & 1 == 1);
    let user = Host { euid: 1000, egid: 1000, privileged: false, ..host() };
    at(&planned_on(&document, &user, &options()), "bind the container's cgroup at /sys/fs/cgroup");
}

#[test]
fn without_a_cgroup_a_shared_pid_namespace_hides_processes() {
    let mut document = rootless(&[]);
    document["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    warns_on(&document, &closed(host()), "only its first process can be found");
}
