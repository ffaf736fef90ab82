// SPDX-License-Identifier: MIT OR Apache-2.0
//! exec: what a further process does, in which order, and where each of its properties comes from.
//!
//! Never tests what create decides as well: tests/steps.rs and tests/rules.rs do.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod facts;

use coracle_plan::*;
use facts::*;
use serde_json::{Value, json};

fn plan_of(container: &Value, exec: &Exec) -> Result<Plan, Vec<String>> {
    let lines = |list: Vec<Violation>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (spec, _) = parse(container.to_string().as_bytes()).unwrap();
    plan_exec(&spec, exec, &host(), &Options { run: true, ..options() }).map_err(lines)
}

fn like(container: &Value, changes: Changes) -> Plan {
    let args = vec!["/bin/id".to_string()];
    plan_of(container, &Exec::Like(Changes { args, ..changes })).unwrap()
}

fn document(container: &Value, process: &Value) -> Plan {
    let (process, _) = parse_process(process.to_string().as_bytes()).unwrap();
    plan_of(container, &Exec::Document(Box::new(process))).unwrap()
}

#[test]
fn groups_are_kept_where_the_container_keeps_them() {
    let container = with(&[("/process/user/additionalGids", json!([5]))]);
    let (spec, _) = parse(container.to_string().as_bytes()).unwrap();
    let exec = Exec::Like(Changes { args: vec!["/bin/id".to_string()], ..Changes::default() });
    let plan = plan_exec(&spec, &exec, &host(), &Options { keep_groups: true, ..options() }).unwrap();
    let identity = plan.steps.iter().find_map(|step| match &step.action {
        Action::Identity(identity) => Some(identity),
        _ => None,
    });
    let identity = identity.unwrap();
    assert!(identity.keep_groups && identity.groups.is_empty(), "{identity:?}");
    assert!(plan.warnings.iter().any(|warning| warning.place == "process.user.additionalGids"));
}

const FORK: &str = "enter the pid namespace";

#[test]
fn the_order_of_everything() {
    let container = with(&[
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 10}])),
        ("/linux/gidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 10}])),
        ("/linux/personality", json!({"domain": "LINUX32"})),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"})),
        ("/process/noNewPrivileges", json!(true)),
        ("/process/apparmorProfile", json!("p")),
        ("/process/scheduler", json!({"policy": "SCHED_BATCH"})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 1})),
        ("/hooks", json!({"startContainer": [{"path": "/h"}], "poststart": [{"path": "/h"}]})),
    ]);
    let plan = like(&container, Changes::default());
    assert_eq!(
        steps(&plan),
        [
            "join session keyring _ses.web",
            "wait for the runtime",
            "become root of the user namespace",
            "open the root directory",
            "open procfs",
            "change to /",
            "set umask to 0022",
            "set the personality",
            "set apparmor profile p",
            "set the scheduler",
            "set the I/O priority",
            "become uid 0 gid 0",
            "find executable \"/bin/id\"",
            "set the capabilities",
            "set no_new_privs",
            FORK,
            "make a new session",
            "wait for start",
            "load the seccomp filter",
            "execute \"/bin/id\"",
        ]
    );
    assert_eq!(plan.hooks, Hooks::default());
    assert_eq!(plan.cgroup.resources, Resources::default());
}

/// In the namespace with others as late as can be; but what a copy would lose, or may not be made under, comes after.
#[test]
fn the_pid_namespace_is_entered_last_where_that_can_be() {
    let without_pid = without(&["/linux/namespaces"]);
    assert!(!steps(&like(&without_pid, Changes::default())).contains(&FORK.to_string()));
    let plan = like(&base(), Changes::default());
    assert!(at(&plan, "set the capabilities") < at(&plan, FORK));

    let scheduler = |value: Value| with(&[("/process/scheduler", value)]);
    for reset in [
        scheduler(json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]})),
        scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 2048, "period": 4096})),
    ] {
        // It would be lost in the copy, so the runtime sets it.
        let plan = like(&reset, Changes::default());
        assert!(plan.outside.scheduler.is_some(), "{reset}");
        assert!(!steps(&plan).contains(&"set the scheduler".to_string()));
        assert!(at(&plan, "set the capabilities") < at(&plan, FORK));
    }
    let plan = like(&scheduler(json!({"policy": "SCHED_BATCH"})), Changes::default());
    assert!(plan.outside.scheduler.is_none() && at(&plan, "set the scheduler") < at(&plan, FORK));
}

/// Then it has more than the command for a moment, which nobody in there may be able to use.
#[test]
fn nobody_may_trace_the_copy_that_a_filter_forbids_later() {
    let deny = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ERRNO"}]});
    let trace = json!({"bounding": ["CAP_SYS_PTRACE"]});
    let denying = |more: &[(&str, Value)]| with(&[&[("/linux/seccomp", deny.clone())], more].concat());
    let asked = |changes: Changes| Exec::Like(Changes { args: vec!["/bin/id".into()], ..changes });
    let plain = asked(Changes::default());
    let ptrace = asked(Changes { capabilities: vec!["CAP_SYS_PTRACE".into()], ..Changes::default() });
    let joined = json!([{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}]);
    for (container, exec) in [
        (denying(&[("/process/capabilities", trace.clone())]), &plain),
        (denying(&[("/linux/namespaces", joined)]), &plain),
        (denying(&[]), &ptrace),
    ] {
        let refused = plan_of(&container, exec).unwrap_err();
        assert!(refused.len() == 1 && refused[0].starts_with("linux.seccomp: forbids clone"), "{refused:?}");
    }
    plan_of(&denying(&[]), &plain).unwrap();
    plan_of(&denying(&[("/process/capabilities", trace), ("/process/noNewPrivileges", json!(true))]), &plain)
        .unwrap();
}

#[test]
fn a_filter_that_may_forbid_the_copy_comes_after_it() {
    let rule = |action: &str, args: Value| json!({"names": ["clone"], "action": action, "args": args});
    let (allow, errno) = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO");
    let masked = |mask: u64| json!([{"index": 0, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
    let namespaces = 0x7e02_0000u64;
    let always = json!([{"names": ["execve"], "action": "SCMP_ACT_ALLOW"}]);
    for (default, rules, before) in [
        (allow, vec![], false),
        (allow, vec![rule(errno, json!([]))], true),
        (errno, vec![], true),
        (errno, vec![rule(allow, json!([]))], false),
        // As Docker's: no new namespaces.
        (errno, vec![rule(allow, masked(namespaces))], false),
        (errno, vec![rule(allow, masked(0x8000))], true),
        (allow, vec![rule(errno, masked(0x8000))], false),
        (allow, vec![rule(errno, masked(namespaces))], true),
        // What is not known beforehand is not relied on.
        (allow, vec![rule(errno, json!([{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]))], true),
        (errno, vec![rule(allow, json!([{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}]))], true),
    ] {
        let mut syscalls = rules.clone();
        syscalls.extend(always.as_array().unwrap().iter().filter(|_| default == errno).cloned());
        let profile = json!({"defaultAction": default, "syscalls": syscalls});
        let plan = like(&with(&[("/linux/seccomp", profile.clone())]), Changes::default());
        assert_eq!(at(&plan, FORK) < at(&plan, "load the seccomp filter"), before, "{profile}");
        // Where it is loaded late it forbids nothing.
        let late = with(&[("/linux/seccomp", profile), ("/process/noNewPrivileges", json!(true))]);
        let plan = like(&late, Changes::default());
        assert!(at(&plan, "set the capabilities") < at(&plan, FORK));
    }
}

fn rich() -> Value {
    with(&[
        (
            "/process/capabilities",
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}),
        ),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}])),
        ("/process/noNewPrivileges", json!(true)),
        ("/process/apparmorProfile", json!("p")),
        ("/process/selinuxLabel", json!("")),
        ("/process/oomScoreAdj", json!(7)),
        ("/process/scheduler", json!({"policy": "SCHED_BATCH"})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0})),
        ("/process/execCPUAffinity", json!({"initial": "0", "final": "0"})),
        ("/process/user/umask", json!(0o77)),
        ("/process/user/additionalGids", json!([9])),
        ("/process/env/-", json!("OWN=1")),
    ])
}

#[test]
fn a_document_without_a_word_has_what_the_container_has() {
    let short = json!({"args": ["/bin/id"], "cwd": "/tmp", "env": ["A=1"], "user": {"uid": 3, "gid": 4}});
    let plan = document(&rich(), &short);
    for same in [
        "set umask to 0077",
        "set apparmor profile p",
        "set the scheduler",
        "set the I/O priority",
        "set no_new_privs",
        "change to /tmp",
        "become uid 3 gid 4",
    ] {
        at(&plan, same);
    }
    let kill = Capabilities { effective: 1 << 5, permitted: 1 << 5, ..Capabilities::default() };
    assert_eq!(action(&plan, "set the capabilities"), Action::Capabilities(kill));
    assert_eq!(plan.outside.oom_score_adj, Some(7));
    assert_eq!(plan.outside.rlimits.iter().map(|limit| limit.soft).collect::<Vec<_>>(), [1]);
    assert_eq!((plan.outside.initial_cpus, plan.outside.final_cpus), (vec![0], vec![0]));
    // These are the document's alone.
    let Action::Identity(identity) = action(&document(&rich(), &short), "become uid 3 gid 4") else {
        panic!()
    };
    assert_eq!(identity.groups, Vec::<u32>::new());
    let Action::Execute { env, .. } = action(&document(&rich(), &short), "execute \"/bin/id\"") else {
        panic!()
    };
    assert_eq!(env, ["A=1"]);
}

#[test]
fn a_document_with_words_has_its_own() {
    let full = json!({
        "args": ["/bin/id"], "cwd": "/", "user": {"uid": 0, "gid": 0, "umask": 0},
        "capabilities": {}, "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], "noNewPrivileges": false,
        "oomScoreAdj": 8, "scheduler": {"policy": "SCHED_IDLE"}, "apparmorProfile": "q",
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3}, "execCPUAffinity": {"final": "1"}
    });
    let plan = document(&rich(), &full);
    let all = steps(&plan);
    assert!(!all.contains(&"set no_new_privs".to_string()));
    at(&plan, "set umask to 0000");
    at(&plan, "set apparmor profile q");
    assert_eq!(action(&plan, "set the capabilities"), Action::Capabilities(Capabilities::default()));
    let idle = Scheduler { policy: 5, ..Scheduler::default() };
    assert_eq!(action(&plan, "set the scheduler"), Action::Scheduler(idle));
    assert_eq!(plan.outside.oom_score_adj, Some(8));
    assert_eq!(
        plan.outside.rlimits.iter().map(|limit| limit.name.as_str()).collect::<Vec<_>>(),
        ["RLIMIT_CORE"]
    );
    assert_eq!((plan.outside.initial_cpus, plan.outside.final_cpus), (vec![], vec![1]));
}

#[test]
fn changes_are_made_to_the_containers_process() {
    let text = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let plan = like(
        &rich(),
        Changes {
            env: text(&["OWN=2", "NEW=3"]),
            cwd: Some("/tmp".into()),
            uid: Some(5),
            additional_gids: vec![10],
            capabilities: text(&["CAP_CHOWN"]),
            apparmor_profile: Some("q".into()),
            ..Changes::default()
        },
    );
    let Action::Identity(identity) = action(&plan, "become uid 5 gid 0") else { panic!() };
    assert_eq!((identity.groups, identity.bounding), (vec![9, 10], 1 | 1 << 5));
    let Action::Execute { env, .. } = action(&plan, "execute \"/bin/id\"") else { panic!() };
    assert_eq!(env, ["PATH=/bin:/usr/bin", "HOME=/root", "OWN=2", "NEW=3"]);
    at(&plan, "change to /tmp");
    at(&plan, "set apparmor profile q");
    let Action::WorkingDirectory { make, .. } = action(&plan, "change to /tmp") else { panic!() };
    assert!(!make);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let one = |changes: Changes| plan_of(&base(), &Exec::Like(changes)).unwrap_err();
    let args = vec!["/bin/id".to_string()];
    assert!(one(Changes::default())[0].starts_with("process.args: "), "{:?}", one(Changes::default()));
    for (changes, place) in [
        (Changes { cwd: Some("tmp".into()), ..Changes::default() }, "process.cwd: "),
        (Changes { env: vec!["A".into()], ..Changes::default() }, "process.env[2]: "),
        (Changes { capabilities: vec!["KILL".into()], ..Changes::default() }, "--cap: "),
        (Changes { uid: Some(u32::MAX), ..Changes::default() }, "process.user.uid: "),
        (Changes { terminal: true, ..Changes::default() }, "process.terminal: "),
    ] {
        let violations = one(Changes { args: args.clone(), ..changes });
        assert!(violations.len() == 1 && violations[0].starts_with(place), "{violations:?}");
    }
    for bad in [
        "",
        "{",
        "[]",
        "1",
        "{}, \"process\": {}",
        "{\"args\": [\"a\"], \"cwd\": \"/\", \"user\": {}}, \"linux\": {}",
        "{\"args\": 1}",
    ] {
        assert!(parse_process(bad.as_bytes()).is_err(), "{bad}");
    }
}
