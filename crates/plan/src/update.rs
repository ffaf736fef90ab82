// SPDX-License-Identifier: MIT OR Apache-2.0
//! What changes in a container that exists, and what its config says afterwards.
//!
//! Never takes what is absent for a wish: it stays. Zeros and empty texts that mean "not given" (as engines write them)
//! are absent here. From the document of create and the caller's wishes to [`Update`].

use oci_spec::runtime::{LinuxMemory, LinuxResources, PosixRlimit, Process};
use serde_json::{Map, Value};

use crate::check::Check;
use crate::types::{Host, Resources, Rlimit, Violation, Warning};
use crate::{device_rules, process, resources, scheduling};

/// What the caller wants changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    pub resources: LinuxResources,
    /// Of the container's first process.
    pub rlimits: Vec<PosixRlimit>,
    /// Of the container's first process.
    pub oom_score_adj: Option<i32>,
    /// Lines of resctrl's schemata.
    pub l3_cache_schema: Option<String>,
    pub mem_bw_schema: Option<String>,
}

/// An update, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Only what changes. Device rules replace all of those that are there.
    pub resources: Resources,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    pub schemata: Vec<String>,
    /// The config as it is afterwards.
    pub document: Value,
    pub warnings: Vec<Warning>,
}

/// `document` is the config of the container as it is now.
pub fn update(document: &[u8], given: &Given, host: &Host) -> Result<Update, Vec<Violation>> {
    let mut document: Value = serde_json::from_slice(document).map_err(|error| {
        vec![Violation { place: String::new(), rule: format!("the container's config: {error}") }]
    })?;
    let mut check = Check::default();
    let wanted = with_swap(&given.resources);
    let rules = wanted.devices().as_deref().unwrap_or_default();
    let mut planned = resources::change(&wanted, host, &mut check);
    if !rules.is_empty() {
        planned.devices = device_rules::plan(rules, &mut check);
        planned.devices_optional = !host.initial_user_namespace || !host.privileged;
    }
    if wanted.memory().is_none_or(|memory| memory.check_before_update().is_none()) {
        let recorded = document.pointer("/linux/resources/memory/checkBeforeUpdate");
        planned.check_before_update = recorded.and_then(Value::as_bool).unwrap_or(false);
    }
    // What the caller may do to itself does not matter: the kernel compares with what the process has.
    let anybody = Host { raise_rlimits: true, ..host.clone() };
    let mut subject = Process::default();
    subject.set_rlimits(Some(given.rlimits.clone())).set_oom_score_adj(given.oom_score_adj);
    let rlimits = process::rlimits(&subject, &anybody, &mut check);
    let oom_score_adj = scheduling::oom_score_adj(&subject, &anybody, &mut check);
    let schemata = schemata(given, &mut check);
    if !check.violations.is_empty() {
        return Err(check.violations);
    }
    record(&mut document, &wanted, given);
    Ok(Update { resources: planned, rlimits, oom_score_adj, schemata, document, warnings: check.warnings })
}

/// No limit on memory means none on memory and swap together, unless the caller says one.
fn with_swap(given: &LinuxResources) -> LinuxResources {
    let mut wanted = given.clone();
    let unlimited =
        |memory: &LinuxMemory| memory.limit() == Some(-1) && matches!(memory.swap(), None | Some(0));
    if let Some(memory) = given.memory().filter(unlimited) {
        let mut memory = memory;
        memory.set_swap(Some(-1));
        wanted.set_memory(Some(memory));
    }
    wanted
}

fn schemata(given: &Given, check: &mut Check) -> Vec<String> {
    let mut lines = Vec::new();
    let bandwidth = given.mem_bw_schema.as_deref().unwrap_or_default();
    for line in given.l3_cache_schema.as_deref().unwrap_or_default().lines() {
        if !line.is_empty() && (bandwidth.is_empty() || !line.starts_with("MB:")) {
            check.text("linux.intelRdt.l3CacheSchema", line);
            lines.push(line.to_string());
        }
    }
    if !bandwidth.is_empty() {
        if !bandwidth.starts_with("MB:") || bandwidth.contains(['\n', '\0']) {
            let rule = "must be one line that begins with MB:";
            check.refuse("linux.intelRdt.memBwSchema", rule, bandwidth);
        }
        lines.push(bandwidth.to_string());
    }
    lines
}

fn record(document: &mut Value, wanted: &LinuxResources, given: &Given) {
    // These types have no value that JSON has not.
    let mut limits = serde_json::to_value(wanted).unwrap_or_default();
    drop_not_given(&mut limits);
    merge(member(member(document, "linux"), "resources"), limits, "resources");
    if !given.rlimits.is_empty() {
        let rlimits = serde_json::to_value(&given.rlimits).unwrap_or_default();
        merge(member(member(document, "process"), "rlimits"), rlimits, "rlimits");
    }
    if let Some(score) = given.oom_score_adj {
        *member(member(document, "process"), "oomScoreAdj") = score.into();
    }
    for (key, text) in [("l3CacheSchema", &given.l3_cache_schema), ("memBwSchema", &given.mem_bw_schema)] {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            *member(member(member(document, "linux"), "intelRdt"), key) = text.clone().into();
        }
    }
}

/// The member of an object, made when it is not there.
fn member<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    &mut value[key]
}

/// Members whose zero or empty value says nothing.
fn drop_not_given(limits: &mut Value) {
    const SILENT: [(&str, &[&str]); 4] = [
        ("memory", &["limit", "reservation", "swap", "kernel", "kernelTCP"]),
        ("cpu", &["shares", "quota", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems"]),
        ("blockIO", &["weight", "leafWeight"]),
        ("network", &["classID"]),
    ];
    let Some(limits) = limits.as_object_mut() else { return };
    for (name, keys) in SILENT {
        if let Some(members) = limits.get_mut(name).and_then(Value::as_object_mut) {
            members.retain(|key, value| {
                !keys.contains(&key.as_str()) || (value.as_i64() != Some(0) && value.as_str() != Some(""))
            });
        }
    }
    limits.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
}

/// What tells the entries of a list apart that the kernel keeps one by one; a list of another name is replaced.
fn keys_of(list: &str) -> &'static [&'static str] {
    match list {
        "hugepageLimits" => &["pageSize"],
        "priorities" => &["name"],
        "rlimits" => &["type"],
        "weightDevice" => &["major", "minor"],
        list if list.starts_with("throttle") => &["major", "minor"],
        _ => &[],
    }
}

fn merge(into: &mut Value, given: Value, name: &str) {
    match (into, given) {
        (Value::Object(into), Value::Object(given)) => {
            for (key, value) in given {
                merge(into.entry(key.as_str()).or_insert(Value::Null), value, &key);
            }
        }
        (Value::Array(into), Value::Array(given)) if !keys_of(name).is_empty() => {
            for value in given {
                let same = |other: &Value| keys_of(name).iter().all(|key| other.get(key) == value.get(key));
                match into.iter_mut().find(|other| same(other)) {
                    Some(other) => merge(other, value, ""),
                    None => into.push(value),
                }
            }
        }
        (into, given) => *into = given,
    }
}
