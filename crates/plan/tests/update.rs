// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an update means, and what the config says after it.
//!
//! Never tests what reaches the kernel: the cgroup crate does.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod facts;

use coracle_plan::*;
use facts::*;
use oci_spec::runtime::PosixRlimit;
use serde_json::{Value, json};

fn given(resources: Value) -> Given {
    let text = resources.to_string();
    let (resources, warnings) = parse_resources(text.as_bytes()).unwrap_or_else(|v| panic!("{text}: {v:?}"));
    assert_eq!(warnings, vec![], "{text}");
    Given { resources, ..Given::default() }
}

#[track_caller]
fn planned(config: &Value, given: &Given) -> Update {
    update(config.to_string().as_bytes(), given, &host()).unwrap_or_else(|v| panic!("{given:?}: {v:?}"))
}

#[track_caller]
fn refused(given: &Given) -> Vec<String> {
    let violations = update(b"{}", given, &host()).expect_err("it is refused");
    violations.iter().map(Violation::to_string).collect()
}

#[test]
fn only_what_is_given_changes() {
    let old =
        json!({"linux": {"resources": {"memory": {"limit": 1 << 20}, "cpu": {"shares": 512}}}, "x": [1]});
    let new = planned(&old, &given(json!({"memory": {"limit": 2 << 20}})));
    assert_eq!(new.resources, Resources { memory_limit: Some(2 << 20), ..Resources::default() });
    let after =
        json!({"linux": {"resources": {"memory": {"limit": 2 << 20}, "cpu": {"shares": 512}}}, "x": [1]});
    assert_eq!(new.document, after);
    let nothing = planned(&old, &Given::default());
    assert_eq!((nothing.resources, nothing.document), (Resources::default(), old));
}

/// docker update and kubelets send these.
#[test]
fn zeros_and_empty_texts_of_engines_are_absent() {
    let old = json!({"linux": {"resources": {
        "memory": {"limit": 1, "swap": 2, "reservation": 3}, "pids": {"limit": 4}, "blockIO": {"weight": 10},
        "cpu": {"shares": 5, "quota": 6000, "period": 7000, "cpus": "0", "mems": "1"},
        "devices": [{"allow": false, "access": "rwm"}],
    }}});
    let empty = json!({
        "memory": {"limit": 0, "swap": 0, "reservation": 0, "kernel": 0}, "pids": {}, "devices": [],
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": "", "realtimeRuntime": 0},
        "blockIO": {"weight": 0}, "hugepageLimits": [], "unified": {}, "network": null,
    });
    let new = planned(&old, &given(empty));
    assert_eq!(new.resources, Resources::default());
    let mut after = new.document;
    // Objects without members say nothing either.
    after["linux"]["resources"].as_object_mut().unwrap().remove("unified");
    assert_eq!(after, old);
    // Of these, zero is a value.
    let zeros = planned(&old, &given(json!({"pids": {"limit": 0}, "cpu": {"burst": 0, "idle": 0}})));
    assert_eq!(zeros.resources.pids_limit, Some(0));
    assert_eq!((zeros.resources.cpu_burst, zeros.resources.cpu_idle), (Some(0), Some(false)));
    assert_eq!(zeros.document["linux"]["resources"]["pids"]["limit"], json!(0));
}

#[test]
fn swap_goes_with_the_memory_that_there_is() {
    let swap = planned(&json!({}), &given(json!({"memory": {"swap": 1 << 30}})));
    assert_eq!((swap.resources.memory_limit, swap.resources.memory_swap), (None, Some(1 << 30)));
    for memory in [json!({"limit": -1}), json!({"limit": -1, "swap": 0}), json!({"limit": -1, "swap": -1})] {
        let new = planned(&json!({}), &given(json!({"memory": memory})));
        assert_eq!((new.resources.memory_limit, new.resources.memory_swap), (Some(-1), Some(-1)), "{memory}");
        assert_eq!(new.document["linux"]["resources"]["memory"]["swap"], json!(-1));
    }
    let limit = planned(&json!({}), &given(json!({"memory": {"limit": 5}})));
    assert_eq!(limit.resources.memory_swap, None);
    let small = refused(&given(json!({"memory": {"limit": 9, "swap": 5}})));
    assert!(small[0].contains("linux.resources.memory.swap: is memory and swap together"), "{small:?}");
}

#[test]
fn lists_are_kept_entry_by_entry_as_the_kernel_does() {
    let rate = |minor: i64, rate: u64| json!({"major": 8, "minor": minor, "rate": rate});
    let old = json!({"linux": {"resources": {
        "blockIO": {"throttleReadBpsDevice": [rate(0, 1), rate(16, 2)]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "devices": [{"allow": true, "access": "r"}], "unified": {"memory.high": "1"},
    }}});
    let change = json!({
        "blockIO": {"throttleReadBpsDevice": [rate(16, 3), rate(32, 4)]},
        "hugepageLimits": [{"pageSize": "1GB", "limit": 2}],
        "devices": [{"allow": false, "access": "rwm"}], "unified": {"memory.low": "2"},
    });
    let new = planned(&old, &given(change));
    let after = &new.document["linux"]["resources"];
    assert_eq!(after["blockIO"]["throttleReadBpsDevice"], json!([rate(0, 1), rate(16, 3), rate(32, 4)]));
    assert_eq!(after["hugepageLimits"].as_array().unwrap().len(), 2);
    assert_eq!(after["devices"].as_array().unwrap().len(), 1, "a list of rules is one whole");
    assert_eq!(after["devices"][0]["allow"], json!(false));
    assert_eq!(after["unified"], json!({"memory.high": "1", "memory.low": "2"}));
    assert!(new.resources.devices.len() > 10, "the runtime's own are in it");
    assert_eq!(new.resources.block_io.read_bps.len(), 2);
}

#[test]
fn a_check_that_create_asked_for_stays_asked_for() {
    let old = json!({"linux": {"resources": {"memory": {"checkBeforeUpdate": true}}}});
    assert!(planned(&old, &given(json!({"memory": {"limit": 5}}))).resources.check_before_update);
    let off = planned(&old, &given(json!({"memory": {"limit": 5, "checkBeforeUpdate": false}})));
    assert!(!off.resources.check_before_update);
}

#[test]
fn limits_of_the_process() {
    let limit = |text: Value| serde_json::from_value::<PosixRlimit>(text).unwrap();
    let nofile = limit(json!({"type": "RLIMIT_NOFILE", "soft": 10, "hard": 1_u64 << 40}));
    let wanted = Given { rlimits: vec![nofile], oom_score_adj: Some(-5), ..Given::default() };
    let old = json!({"process": {"rlimits": [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}
    ]}});
    let new = planned(&old, &wanted);
    assert_eq!((new.rlimits.len(), new.rlimits[0].resource, new.rlimits[0].soft), (1, 7, 10));
    assert_eq!(new.oom_score_adj, Some(-5));
    assert_eq!(new.document["process"]["oomScoreAdj"], json!(-5));
    assert_eq!(new.document["process"]["rlimits"][1]["soft"], json!(10));
    assert_eq!(new.document["process"]["rlimits"].as_array().unwrap().len(), 2);
    let above = limit(json!({"type": "RLIMIT_NOFILE", "soft": 10, "hard": 1}));
    let both = refused(&Given { rlimits: vec![above], oom_score_adj: Some(1001), ..Given::default() });
    assert!(
        both[0].contains("process.rlimits[0].soft") && both[1].contains("process.oomScoreAdj"),
        "{both:?}"
    );
}

#[test]
fn schemata() {
    let given = |l3: &str, mb: &str| Given {
        l3_cache_schema: Some(l3.to_string()),
        mem_bw_schema: Some(mb.to_string()),
        ..Given::default()
    };
    let new = planned(&json!({}), &given("L3:0=f\nMB:0=7\n\nL3:1=1", "MB:0=20"));
    assert_eq!(new.schemata, ["L3:0=f", "L3:1=1", "MB:0=20"]);
    assert_eq!(new.document["linux"]["intelRdt"]["memBwSchema"], json!("MB:0=20"));
    assert_eq!(planned(&json!({}), &given("", "")).document, json!({"linux": {"resources": {}}}));
    let bad = refused(&given("", "L3:0=f"));
    assert!(bad[0].contains("linux.intelRdt.memBwSchema"), "{bad:?}");
}

/// The same rules and places as in a whole config.
#[test]
fn a_document_of_resources_is_read_as_a_config_is() {
    for (text, part) in [
        ("", "EOF while parsing a value"),
        ("[]", "linux.resources: must be an object (got an array)"),
        (r#"{"memory": []}"#, "linux.resources.memory: must be an object"),
        (r#"{"memory": {"limit": 1, "limit": 2}}"#, "linux.resources.memory.limit: the key is given twice"),
        (r#"{"memory": {"limit": "1"}}"#, "linux.resources.memory.limit: invalid type: string"),
        (r#"{"cpu": {"cpus": "0\u0000"}}"#, "linux.resources.cpu.cpus: must not hold a NUL"),
        (r#"{"hugepageLimits": [{"pageSize": "2MB"}]}"#, "linux.resources.hugepageLimits[0]: needs a limit"),
        ("{} x", "trailing characters"),
    ] {
        let violations = parse_resources(text.as_bytes()).expect_err(text);
        let all: Vec<String> = violations.iter().map(Violation::to_string).collect();
        assert!(all.iter().any(|one| one.contains(part)), "{text}: {all:?}");
    }
    // Repairs, and a type error beside one, with its position.
    let (read, _) = parse_resources(br#"{"devices": [{"allow": true, "type": ""}], "pids": {}}"#).unwrap();
    assert_eq!((read.devices().as_ref().unwrap().len(), read.pids().is_none()), (1, true));
    let error = parse_resources(b"{\"pids\": {},\n \"cpu\": {\"shares\": -1}}").expect_err("a type");
    assert!(error[0].to_string().starts_with("linux.resources.cpu.shares: "), "{error:?}");
    assert!(error[0].to_string().ends_with(" at line 2 column 19"), "{error:?}");
    // Unknown members are ignored.
    assert!(parse_resources(br#"{"later": 1}"#).is_ok());
}
