// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts, options and documents for the tests of the planner.
//!
//! Never reads the machine that the tests run on. Used by every test file beside it.

// Each test file uses its own part of these.
#![allow(dead_code)]

use coracle_plan::*;
use serde_json::{Value, json};

/// Root on a host with cgroup2 alone and every right.
pub(crate) fn host() -> Host {
    Host {
        euid: 0,
        egid: 0,
        privileged: true,
        initial_user_namespace: true,
        user_namespace: UserNamespace::default(),
        sub_ids: SubIds::default(),
        kernel: (6, 18),
        last_capability: 40,
        bounding: (1 << 41) - 1,
        cgroup: CgroupHost {
            mode: CgroupMode::V2,
            unified: "/sys/fs/cgroup".into(),
            unified_controllers: ["cpu", "memory", "pids"].map(String::from).to_vec(),
            v1: Vec::new(),
            closed: Vec::new(),
            below_own: Vec::new(),
        },
        systemd: ServiceManager::None,
        apparmor: true,
        selinux: false,
        kcore: true,
        mqueue: true,
        resctrl: String::new(),
        numa_nodes: "0-1".into(),
        cpus: "0-3".into(),
        hard_rlimits: [("RLIMIT_NOFILE".to_string(), 4096)].into(),
        raise_rlimits: true,
        oom_score_adj: 0,
        filesystems: ["proc", "sysfs", "tmpfs"].map(String::from).to_vec(),
    }
}

/// An ordinary user.
pub(crate) fn user() -> Host {
    Host {
        euid: 1000,
        egid: 1000,
        privileged: false,
        raise_rlimits: false,
        bounding: (1 << 41) - 1,
        oom_score_adj: 100,
        ..host()
    }
}

pub(crate) fn hybrid() -> Host {
    let v1 = |mount_point: &str, controllers: &[&str]| V1Hierarchy {
        mount_point: mount_point.into(),
        controllers: controllers.iter().map(|c| c.to_string()).collect(),
    };
    Host {
        cgroup: CgroupHost {
            mode: CgroupMode::Hybrid,
            unified: "/sys/fs/cgroup/unified".into(),
            unified_controllers: vec!["hugetlb".into()],
            v1: vec![
                v1("/sys/fs/cgroup/memory", &["memory"]),
                v1("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                v1("/sys/fs/cgroup/systemd", &["name=systemd"]),
            ],
            closed: Vec::new(),
            below_own: Vec::new(),
        },
        ..host()
    }
}

/// v1 alone, with every controller.
pub(crate) fn v1() -> Host {
    let controllers =
        ["memory", "cpu", "cpuset", "pids", "blkio", "devices", "hugetlb", "net_cls", "net_prio"];
    let hierarchy = |controller: &str| V1Hierarchy {
        mount_point: format!("/sys/fs/cgroup/{controller}"),
        controllers: vec![controller.to_string()],
    };
    Host {
        cgroup: CgroupHost {
            mode: CgroupMode::V1,
            unified: String::new(),
            unified_controllers: Vec::new(),
            v1: controllers.map(hierarchy).to_vec(),
            closed: Vec::new(),
            below_own: Vec::new(),
        },
        ..host()
    }
}

pub(crate) fn options() -> Options {
    Options {
        id: "web".into(),
        bundle: "/bundle".into(),
        terminal: TerminalTo::Nowhere,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        listen_fd_names: String::new(),
        notify: String::new(),
        systemd_cgroup: false,
        cgroup_leaf: false,
        strict: false,
        allow_annotations: false,
        keep_groups: false,
        interfaces: Vec::new(),
        run: false,
    }
}

/// The least that is a container with a mount namespace.
pub(crate) fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/",
            "env": ["PATH=/bin:/usr/bin", "HOME=/root"]
        },
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [
            {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "pid"}
        ]}
    })
}

/// `base` with the values at these JSON pointers set. `/-` at the end appends; missing objects are made.
pub(crate) fn with(changes: &[(&str, Value)]) -> Value {
    let mut document = base();
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    document
}

fn set(document: &mut Value, pointer: &str, new: Value) {
    let mut at = document;
    let keys: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
    for key in &keys {
        let key = key.replace("~1", "/");
        if key == "-" {
            let list = at.as_array_mut().expect("an array to append to");
            list.push(Value::Null);
            at = list.last_mut().unwrap();
        } else if let Ok(index) = key.parse::<usize>() {
            at = &mut at[index];
        } else {
            if at.is_null() {
                *at = json!({});
            }
            at = at.as_object_mut().expect("an object").entry(key).or_insert(Value::Null);
        }
    }
    *at = new;
}

/// `base` without these.
pub(crate) fn without(pointers: &[&str]) -> Value {
    let mut document = base();
    for pointer in pointers {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).expect("it is there");
    }
    document
}

pub(crate) fn plan_on(document: &Value, host: &Host, options: &Options) -> Result<Plan, Vec<String>> {
    let lines = |list: Vec<Violation>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (spec, mut warnings) = parse(document.to_string().as_bytes()).map_err(lines)?;
    let mut planned = plan(&spec, host, options).map_err(lines)?;
    warnings.append(&mut planned.warnings);
    planned.warnings = warnings;
    Ok(planned)
}

/// Planned on the host with every right.
#[track_caller]
pub(crate) fn planned(document: &Value) -> Plan {
    planned_on(document, &host(), &options())
}

#[track_caller]
pub(crate) fn planned_on(document: &Value, host: &Host, options: &Options) -> Plan {
    match plan_on(document, host, options) {
        Ok(plan) => plan,
        Err(violations) => panic!("refused: {violations:#?}"),
    }
}

/// The violations, one line each.
#[track_caller]
pub(crate) fn refused(document: &Value) -> Vec<String> {
    refused_on(document, &host(), &options())
}

#[track_caller]
pub(crate) fn refused_on(document: &Value, host: &Host, options: &Options) -> Vec<String> {
    match plan_on(document, host, options) {
        Ok(plan) => panic!("accepted:\n{}", explain(&plan)),
        Err(violations) => violations,
    }
}

/// Exactly one violation, which begins with `place: ` and has `text` in it.
#[track_caller]
pub(crate) fn refuses(document: &Value, place: &str, text: &str) {
    refuses_on(document, &host(), &options(), place, text);
}

#[track_caller]
pub(crate) fn refuses_on(document: &Value, host: &Host, options: &Options, place: &str, text: &str) {
    let violations = refused_on(document, host, options);
    assert!(
        violations.len() == 1
            && violations[0].starts_with(&format!("{place}: "))
            && violations[0].contains(text),
        "wanted `{place}: … {text} …`, got {violations:#?}"
    );
}

/// A warning with this text is given, and the document is planned.
#[track_caller]
pub(crate) fn warns(document: &Value, text: &str) -> Plan {
    warns_on(document, &host(), text)
}

#[track_caller]
pub(crate) fn warns_on(document: &Value, host: &Host, text: &str) -> Plan {
    let plan = planned_on(document, host, &options());
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|warning| warning.contains(text)), "wanted {text:?}, got {warnings:#?}");
    plan
}

/// The steps, described.
pub(crate) fn steps(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(describe).collect()
}

/// Position of the step of this description.
#[track_caller]
pub(crate) fn at(plan: &Plan, step: &str) -> usize {
    let steps = steps(plan);
    steps.iter().position(|s| s == step).unwrap_or_else(|| panic!("no {step:?} in {steps:#?}"))
}

#[track_caller]
pub(crate) fn action(plan: &Plan, step: &str) -> Action {
    plan.steps[at(plan, step)].action.clone()
}
