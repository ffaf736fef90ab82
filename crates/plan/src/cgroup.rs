// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.cgroupsPath` and `linux.resources`: where the container's processes live and what they may use.
//!
//! Never converts between v1 and v2: the cgroup crate does. What this version does not apply is refused, not
//! dropped. To [`CgroupPlan`].

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Linux, LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources, Spec,
};

use crate::check::{Check, shown};
use crate::types::{CgroupPath, CgroupPlan, Options, Resources};

const PLACE: &str = "linux.resources";

pub(crate) fn plan(linux: Option<&Linux>, options: &Options, check: &mut Check) -> CgroupPlan {
    if options.systemd_cgroup {
        check.warn("", "systemd cgroup driver: not in this version, using cgroupfs");
    }
    let path = path(linux, options, check);
    let resources = match linux.and_then(|l| l.resources().as_ref()) {
        Some(given) => resources(given, check),
        None => Resources::default(),
    };
    CgroupPlan { path, resources }
}

/// Where a document puts the cgroup of the container `id`; only for documents that were planned before.
pub fn cgroup_path(spec: &Spec, id: &str) -> CgroupPath {
    place(&given_path(spec.linux().as_ref()), id)
}

fn given_path(linux: Option<&Linux>) -> String {
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn names_nothing(path: &str) -> bool {
    path.split('/').all(|part| matches!(part, "" | "."))
}

fn place(given: &str, id: &str) -> CgroupPath {
    if given.starts_with('/') {
        CgroupPath::Absolute(given.into())
    } else if names_nothing(given) {
        CgroupPath::Relative(id.into())
    } else {
        CgroupPath::Relative(given.into())
    }
}

fn path(linux: Option<&Linux>, options: &Options, check: &mut Check) -> CgroupPath {
    const PLACE: &str = "linux.cgroupsPath";
    let given = given_path(linux);
    if given.contains(['\0', '\n']) {
        check.refuse(PLACE, "must not hold a NUL or a newline", &given);
    }
    if given.split('/').any(|part| part == "..") {
        check.refuse(PLACE, "must not have .. in it", &given);
    }
    if names_nothing(&given) && given.starts_with('/') {
        check.refuse(PLACE, "must not be the root cgroup", &given);
    }
    place(&given, &options.id)
}

fn unsupported(field: &str, check: &mut Check) {
    check.violation(format!("{PLACE}.{field}"), "is not supported by this version");
}

fn resources(given: &LinuxResources, check: &mut Check) -> Resources {
    let mut planned = Resources::default();
    if let Some(memory) = given.memory() {
        memory_limits(memory, &mut planned, check);
    }
    if let Some(cpu) = given.cpu() {
        cpu_limits(cpu, &mut planned, check);
    }
    if let Some(pids) = given.pids() {
        if pids.limit() < -1 {
            check.refuse(format!("{PLACE}.pids.limit"), "must be -1 (no limit) or more", pids.limit());
        }
        planned.pids_limit = Some(pids.limit());
    }
    let devices = given.devices().as_deref().unwrap_or_default();
    if !devices.is_empty() {
        device_rules(devices, check);
        check.warn(format!("{PLACE}.devices"), "device rules are not enforced by this version");
    }
    if let Some(block_io) = given.block_io() {
        block_io_limits(block_io, check);
    }
    for (i, entry) in given.hugepage_limits().iter().flatten().enumerate() {
        let place = format!("{PLACE}.hugepageLimits[{i}]");
        if !is_page_size(entry.page_size()) {
            check.refuse(
                format!("{place}.pageSize"),
                "must be a power of two as in 64KB, 2MB, 1GB",
                entry.page_size(),
            );
        }
        if entry.limit() < 0 {
            check.refuse(format!("{place}.limit"), "must not be negative", entry.limit());
        }
    }
    if given.hugepage_limits().as_ref().is_some_and(|list| !list.is_empty()) {
        unsupported("hugepageLimits", check);
    }
    if let Some(network) = given.network()
        && (network.class_id().is_some_and(|id| id != 0)
            || network.priorities().as_ref().is_some_and(|list| !list.is_empty()))
    {
        unsupported("network", check);
    }
    for (device, limits) in given.rdma().iter().flatten().collect::<BTreeMap<_, _>>() {
        if limits.hca_handles().is_none() && limits.hca_objects().is_none() {
            let rule = "an entry needs hcaHandles or hcaObjects";
            check.refuse(format!("{PLACE}.rdma"), rule, device);
        }
    }
    if given.rdma().as_ref().is_some_and(|map| !map.is_empty()) {
        unsupported("rdma", check);
    }
    for key in given.unified().iter().flat_map(|map| map.keys()).collect::<std::collections::BTreeSet<_>>() {
        if key.is_empty() || key.contains(['/', '\n', '\0']) {
            check.refuse(format!("{PLACE}.unified"), "a key is the name of one file", key);
        }
    }
    if given.unified().as_ref().is_some_and(|map| !map.is_empty()) {
        unsupported("unified", check);
    }
    planned
}

fn memory_limits(memory: &LinuxMemory, planned: &mut Resources, check: &mut Check) {
    let (limit, reservation, swap) = (memory.limit(), memory.reservation(), memory.swap());
    for (field, value) in [("limit", limit), ("reservation", reservation), ("swap", swap)] {
        if let Some(value) = value.filter(|&value| value < -1) {
            check.refuse(format!("{PLACE}.memory.{field}"), "must be -1 (no limit) or more", value);
        }
    }
    if limit == Some(0) {
        check.refuse(format!("{PLACE}.memory.limit"), "nothing can run without memory", 0);
    }
    let above = |value: Option<i64>| matches!((value, limit), (Some(v), Some(l)) if v > l && l > 0);
    if above(reservation) {
        let rule = "must not be above the limit";
        check.refuse(format!("{PLACE}.memory.reservation"), rule, reservation.unwrap_or(0));
    }
    if let (Some(swap), Some(limit)) = (swap, limit)
        && swap >= 0
        && swap < limit
    {
        let rule = format!("is memory and swap together, so not below the limit of {limit}");
        check.refuse(format!("{PLACE}.memory.swap"), &rule, swap);
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            check.refuse(format!("{PLACE}.memory.swappiness"), "must be at most 100", swappiness);
        } else {
            unsupported("memory.swappiness", check);
        }
    }
    #[allow(deprecated)]
    let kernel = memory.kernel();
    for (field, value) in [("kernel", kernel), ("kernelTCP", memory.kernel_tcp())] {
        if value.is_some_and(|value| value != 0) {
            unsupported(&format!("memory.{field}"), check);
        }
    }
    if memory.disable_oom_killer() == Some(true) {
        unsupported("memory.disableOOMKiller", check);
    }
    // True is what every kernel since 5.11 does.
    if memory.use_hierarchy() == Some(false) {
        unsupported("memory.useHierarchy", check);
    }
    if memory.check_before_update() == Some(true) {
        unsupported("memory.checkBeforeUpdate", check);
    }
    (planned.memory_limit, planned.memory_reservation, planned.memory_swap) = (limit, reservation, swap);
}

/// Engines write 0 for "not given" here.
fn cpu_limits(cpu: &LinuxCpu, planned: &mut Resources, check: &mut Check) {
    planned.cpu_shares = cpu.shares().filter(|&shares| shares != 0);
    planned.cpu_quota = cpu.quota().filter(|&quota| quota != 0);
    planned.cpu_period = cpu.period().filter(|&period| period != 0);
    if planned.cpu_shares == Some(1) {
        check.refuse(format!("{PLACE}.cpu.shares"), "must be at least 2", 1);
    }
    if let Some(quota) = planned.cpu_quota.filter(|&quota| quota != -1 && quota < 1000) {
        check.refuse(format!("{PLACE}.cpu.quota"), "must be -1 (no limit) or at least 1000 µs", quota);
    }
    if let Some(period) = planned.cpu_period.filter(|period| !(1000..=1_000_000).contains(period)) {
        check.refuse(format!("{PLACE}.cpu.period"), "must be from 1000 to 1000000 µs", period);
    }
    let burst = cpu.burst().unwrap_or(0);
    if let Some(quota) = planned.cpu_quota
        && quota > 0
        && burst > quota.unsigned_abs()
    {
        check.refuse(format!("{PLACE}.cpu.burst"), "must not be above the quota", burst);
    }
    if burst != 0 {
        unsupported("cpu.burst", check);
    }
    if let Some(idle) = cpu.idle() {
        if !(0..=1).contains(&idle) {
            check.refuse(format!("{PLACE}.cpu.idle"), "must be 0 or 1", idle);
        } else if idle != 0 {
            unsupported("cpu.idle", check);
        }
    }
    if cpu.realtime_runtime().is_some_and(|value| value != 0) {
        unsupported("cpu.realtimeRuntime", check);
    }
    if cpu.realtime_period().is_some_and(|value| value != 0) {
        unsupported("cpu.realtimePeriod", check);
    }
    for (field, value) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else {
            continue;
        };
        match crate::list::ranges(value) {
            Err(rule) => check.refuse(format!("{PLACE}.cpu.{field}"), &rule, value),
            Ok(_) => unsupported(&format!("cpu.{field}"), check),
        }
    }
}

fn device_rules(rules: &[LinuxDeviceCgroup], check: &mut Check) {
    for (i, rule) in rules.iter().enumerate() {
        let place = format!("{PLACE}.devices[{i}]");
        if let Some(access) = rule.access()
            && (access.is_empty() || access.chars().any(|c| !"rwm".contains(c)))
        {
            check.refuse(format!("{place}.access"), "must be some of r, w and m", access);
        }
        for (field, value) in [("major", rule.major()), ("minor", rule.minor())] {
            if let Some(value) = value.filter(|&value| value < -1) {
                check.refuse(format!("{place}.{field}"), "must be -1 (all) or more", value);
            }
        }
    }
}

fn block_io_limits(given: &LinuxBlockIo, check: &mut Check) {
    let mut used = false;
    for (field, weight) in [("weight", given.weight()), ("leafWeight", given.leaf_weight())] {
        if let Some(weight) = weight.filter(|&weight| weight != 0) {
            used = true;
            if !(10..=1000).contains(&weight) {
                check.refuse(format!("{PLACE}.blockIO.{field}"), "must be from 10 to 1000", weight);
            }
        }
    }
    used |= given.weight_device().as_ref().is_some_and(|list| !list.is_empty());
    for list in [
        given.throttle_read_bps_device(),
        given.throttle_write_bps_device(),
        given.throttle_read_iops_device(),
        given.throttle_write_iops_device(),
    ] {
        used |= list.as_ref().is_some_and(|list| !list.is_empty());
    }
    if used {
        unsupported("blockIO", check);
    }
}

/// `64KB`, `2MB`, `1GB`: a power of two of the kernel's units.
fn is_page_size(size: &str) -> bool {
    ["KB", "MB", "GB"].iter().any(|unit| {
        size.strip_suffix(unit)
            .filter(|number| number.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|number| number.parse::<u64>().ok())
            .is_some_and(u64::is_power_of_two)
    })
}

/// For [`crate::explain`].
pub(crate) fn limits(resources: &Resources) -> Vec<String> {
    let mut words = Vec::new();
    let mut word =
        |name: &str, value: Option<String>| words.extend(value.map(|value| format!("{name} {value}")));
    let signed = |value: Option<i64>| value.map(|v| if v == -1 { "max".to_string() } else { v.to_string() });
    word("memory.limit", signed(resources.memory_limit));
    word("memory.reservation", signed(resources.memory_reservation));
    word("memory.swap", signed(resources.memory_swap));
    word("cpu.shares", resources.cpu_shares.map(|v| v.to_string()));
    word("cpu.quota", signed(resources.cpu_quota));
    word("cpu.period", resources.cpu_period.map(|v| v.to_string()));
    word("pids.limit", signed(resources.pids_limit));
    words
}

/// For [`crate::explain`].
pub(crate) fn path_text(path: &CgroupPath) -> String {
    match path {
        CgroupPath::Absolute(path) => shown(path),
        CgroupPath::Relative(path) => format!("{} (beside the caller's own)", shown(path)),
    }
}
