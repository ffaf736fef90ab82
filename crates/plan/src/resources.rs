// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.resources`: what the container's processes may use, except devices ([`crate::device_rules`]).
//!
//! Never converts between v1 and v2: the cgroup crate does. What this kind of host cannot express is left out, and
//! said ([`Check::lenient`]). From the document and the host's hierarchies to [`Resources`].

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxRdma, LinuxResources,
    LinuxThrottleDevice,
};

use crate::check::{Check, shown};
use crate::devices::{MAX_MAJOR, MAX_MINOR};
use crate::list;
use crate::types::{BlockIo, CgroupMode, Host, Rdma, Resources, Throttle, WeightDevice};

const PLACE: &str = "linux.resources";
/// IFNAMSIZ of linux/if.h, without the NUL.
const MAX_INTERFACE: usize = 15;

pub(crate) fn plan(given: &LinuxResources, host: &Host, check: &mut Check) -> Resources {
    if let Some(memory) = given.memory() {
        swap_needs_limit(memory, check);
    }
    change(given, host, check)
}

/// What an update gives, where the other half of a pair may be what there is.
pub(crate) fn change(given: &LinuxResources, host: &Host, check: &mut Check) -> Resources {
    let mut planned = Resources::default();
    if let Some(memory) = given.memory() {
        memory_limits(memory, host, &mut planned, check);
    }
    if let Some(cpu) = given.cpu() {
        cpu_limits(cpu, host, &mut planned, check);
        cpu_sets(cpu, host, &mut planned, check);
    }
    // 0 is a limit: no process but those that are there. Below, the specification has one meaning for all.
    planned.pids_limit = given.pids().as_ref().map(|pids| pids.limit().max(-1));
    if let Some(block_io) = given.block_io() {
        planned.block_io = block_io_limits(block_io, host, check);
    }
    let huge = given.hugepage_limits().as_deref().unwrap_or_default();
    planned.hugepage_limits = hugepage_limits(huge, host, check);
    if let Some(network) = given.network() {
        network_marks(network, host, &mut planned, check);
    }
    for (device, limits) in given.rdma().iter().flatten().collect::<BTreeMap<_, _>>() {
        planned.rdma.push(rdma(device, limits, check));
    }
    for (key, value) in given.unified().iter().flatten().collect::<BTreeMap<_, _>>() {
        unified(key, value, check);
        planned.unified.push((key.clone(), value.clone()));
    }
    if host.cgroup.unified.is_empty() && !planned.unified.is_empty() {
        check.violation(format!("{PLACE}.unified"), "this host has no cgroup2 filesystem");
    }
    planned
}

/// Is this controller one of v1 here?
fn has_v1(host: &Host, controller: &str) -> bool {
    matches!(host.cgroup.mode, CgroupMode::V1 | CgroupMode::Hybrid)
        && host.cgroup.v1.iter().any(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
}

/// A value that only v1 knows: kept where its controller is v1, else left out.
fn only_v1<T>(value: Option<T>, controller: &str, field: &str, host: &Host, check: &mut Check) -> Option<T> {
    let value = value?;
    if has_v1(host, controller) {
        return Some(value);
    }
    let text = format!("needs the {controller} controller of cgroup v1, which this host does not have");
    check.lenient(format!("{PLACE}.{field}"), &text);
    None
}

fn swap_needs_limit(memory: &LinuxMemory, check: &mut Check) {
    if let Some(swap) = memory.swap().filter(|&swap| swap > 0)
        && memory.limit().is_none_or(|limit| limit <= 0)
    {
        let rule = "is memory and swap together, so it needs a memory.limit";
        check.refuse(format!("{PLACE}.memory.swap"), rule, swap);
    }
}

/// Engines write 0 for "not given" here.
fn memory_limits(memory: &LinuxMemory, host: &Host, planned: &mut Resources, check: &mut Check) {
    let bytes = |field: &str, value: Option<i64>, check: &mut Check| {
        let value = value.filter(|&value| value != 0)?;
        if value < -1 {
            check.refuse(format!("{PLACE}.memory.{field}"), "must be -1 (no limit) or more", value);
        }
        Some(value)
    };
    let limit = bytes("limit", memory.limit(), check);
    let reservation = bytes("reservation", memory.reservation(), check);
    let swap = bytes("swap", memory.swap(), check);
    match (limit, reservation) {
        (Some(limit), Some(reservation)) if limit > 0 && reservation > limit => {
            let text = format!("{reservation} is above the limit of {limit}, which comes first");
            check.warn(format!("{PLACE}.memory.reservation"), text);
        }
        _ => {}
    }
    match (swap.filter(|&swap| swap > 0), limit.filter(|&limit| limit > 0)) {
        (Some(swap), Some(limit)) if swap < limit => {
            let rule = format!("is memory and swap together, so not below the limit of {limit}");
            check.refuse(format!("{PLACE}.memory.swap"), &rule, swap);
        }
        _ => {}
    }
    (planned.memory_limit, planned.memory_reservation, planned.memory_swap) = (limit, reservation, swap);

    if let Some(swappiness) = memory.swappiness().filter(|&swappiness| swappiness > 100) {
        check.refuse(format!("{PLACE}.memory.swappiness"), "must be at most 100", swappiness);
    } else {
        planned.memory_swappiness = only_v1(memory.swappiness(), "memory", "memory.swappiness", host, check);
    }
    // False is what v2 does, and engines write it.
    let disable = memory.disable_oom_killer().filter(|&disable| disable || has_v1(host, "memory"));
    planned.disable_oom_killer = only_v1(disable, "memory", "memory.disableOOMKiller", host, check);
    planned.check_before_update = memory.check_before_update().unwrap_or(false);

    #[allow(deprecated)]
    let kernel = memory.kernel();
    for (field, value) in [("kernel", kernel), ("kernelTCP", memory.kernel_tcp())] {
        // No limit is what there is anyway.
        if value.is_some_and(|value| !matches!(value, 0 | -1)) {
            check.lenient(format!("{PLACE}.memory.{field}"), "kernels have no such limit any more");
        }
    }
    if memory.use_hierarchy() == Some(false) {
        check.lenient(format!("{PLACE}.memory.useHierarchy"), "since Linux 5.11 it is always true");
    }
}

/// Engines write 0 for "not given" here. Of burst and idle it is a value, and the one that a new cgroup has.
fn cpu_limits(cpu: &LinuxCpu, host: &Host, planned: &mut Resources, check: &mut Check) {
    planned.cpu_shares = cpu.shares().filter(|&shares| shares != 0);
    planned.cpu_quota = cpu.quota().filter(|&quota| quota != 0);
    planned.cpu_period = cpu.period().filter(|&period| period != 0);
    planned.cpu_burst = cpu.burst();
    if planned.cpu_shares == Some(1) {
        check.refuse(format!("{PLACE}.cpu.shares"), "must be at least 2", 1);
    }
    if let Some(quota) = planned.cpu_quota.filter(|&quota| quota != -1 && quota < 1000) {
        check.refuse(format!("{PLACE}.cpu.quota"), "must be -1 (no limit) or at least 1000 µs", quota);
    }
    if let Some(period) = planned.cpu_period.filter(|period| !(1000..=1_000_000).contains(period)) {
        check.refuse(format!("{PLACE}.cpu.period"), "must be from 1000 to 1000000 µs", period);
    }
    if let (Some(quota), Some(burst)) = (planned.cpu_quota, planned.cpu_burst)
        && quota > 0
        && burst > quota.unsigned_abs()
    {
        check.refuse(format!("{PLACE}.cpu.burst"), "must not be above the quota", burst);
    }
    match cpu.idle() {
        None => {}
        Some(idle @ 0..=1) => planned.cpu_idle = Some(idle == 1),
        Some(idle) => check.refuse(format!("{PLACE}.cpu.idle"), "must be 0 or 1", idle),
    }
    let runtime = cpu.realtime_runtime().filter(|&runtime| runtime != 0);
    let period = cpu.realtime_period().filter(|&period| period != 0);
    if let Some(runtime) = runtime.filter(|&runtime| runtime < -1) {
        check.refuse(format!("{PLACE}.cpu.realtimeRuntime"), "must be -1 (no limit) or more", runtime);
    }
    if let (Some(runtime), Some(period)) = (runtime, period)
        && runtime > 0
        && runtime.unsigned_abs() > period
    {
        check.refuse(format!("{PLACE}.cpu.realtimeRuntime"), "must not be above the period", runtime);
    }
    planned.cpu_realtime_runtime = only_v1(runtime, "cpu", "cpu.realtimeRuntime", host, check);
    planned.cpu_realtime_period = only_v1(period, "cpu", "cpu.realtimePeriod", host, check);
}

fn cpu_sets(cpu: &LinuxCpu, host: &Host, planned: &mut Resources, check: &mut Check) {
    let mut set = |field: &str, value: &Option<String>, what: &str, host_has: &str| {
        let value = value.as_deref().filter(|value| !value.is_empty())?;
        let place = format!("{PLACE}.cpu.{field}");
        let ranges = list::ranges(value).unwrap_or_else(|rule| {
            check.refuse(&place, &rule, value);
            Vec::new()
        });
        if let Some(missing) = list::first_missing(&ranges, host_has) {
            let rule = format!("this host has no {what} {missing}, it has {}", shown(host_has.trim()));
            check.refuse(&place, &rule, value);
        }
        Some(list::text(&ranges))
    };
    planned.cpus = set("cpus", cpu.cpus(), "CPU", &host.cpus);
    planned.mems = set("mems", cpu.mems(), "node", &host.numa_nodes);
}

fn block_io_limits(given: &LinuxBlockIo, host: &Host, check: &mut Check) -> BlockIo {
    let mut planned = BlockIo {
        weight: weight(given.weight(), "blockIO.weight", check),
        leaf_weight: weight(given.leaf_weight(), "blockIO.leafWeight", check),
        ..BlockIo::default()
    };
    planned.leaf_weight = only_v1(planned.leaf_weight, "blkio", "blockIO.leafWeight", host, check);
    for (i, entry) in given.weight_device().iter().flatten().enumerate() {
        let field = format!("blockIO.weightDevice[{i}]");
        let (major, minor) = device(entry.major(), entry.minor(), &field, check);
        let own = weight(entry.weight(), &format!("{field}.weight"), check);
        let leaf = weight(entry.leaf_weight(), &format!("{field}.leafWeight"), check);
        if (own, leaf) == (None, None) {
            check.violation(format!("{PLACE}.{field}"), "an entry needs weight or leafWeight");
        }
        let leaf = only_v1(leaf, "blkio", &format!("{field}.leafWeight"), host, check);
        if own.is_some() || leaf.is_some() {
            planned.weight_device.push(WeightDevice { major, minor, weight: own, leaf_weight: leaf });
        }
    }
    planned.read_bps = throttles(given.throttle_read_bps_device(), "throttleReadBpsDevice", check);
    planned.write_bps = throttles(given.throttle_write_bps_device(), "throttleWriteBpsDevice", check);
    planned.read_iops = throttles(given.throttle_read_iops_device(), "throttleReadIOPSDevice", check);
    planned.write_iops = throttles(given.throttle_write_iops_device(), "throttleWriteIOPSDevice", check);
    planned
}

fn weight(weight: Option<u16>, field: &str, check: &mut Check) -> Option<u16> {
    let weight = weight.filter(|&weight| weight != 0)?;
    if !(10..=1000).contains(&weight) {
        check.refuse(format!("{PLACE}.{field}"), "must be from 10 to 1000", weight);
    }
    Some(weight)
}

fn throttles(list: &Option<Vec<LinuxThrottleDevice>>, field: &str, check: &mut Check) -> Vec<Throttle> {
    let entry = |(i, entry): (usize, &LinuxThrottleDevice)| {
        let (major, minor) = device(entry.major(), entry.minor(), &format!("blockIO.{field}[{i}]"), check);
        Throttle { major, minor, rate: entry.rate() }
    };
    list.iter().flatten().enumerate().map(entry).collect()
}

fn device(major: i64, minor: i64, field: &str, check: &mut Check) -> (u32, u32) {
    if (major, minor) == (0, 0) {
        check.violation(format!("{PLACE}.{field}"), "major and minor are needed");
    }
    for (name, value, max) in [("major", major, MAX_MAJOR), ("minor", minor, MAX_MINOR)] {
        if !(0..=max).contains(&value) {
            check.refuse(format!("{PLACE}.{field}.{name}"), &format!("must be from 0 to {max}"), value);
        }
    }
    // Refused when they do not fit.
    (u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0))
}

fn hugepage_limits(given: &[LinuxHugepageLimit], host: &Host, check: &mut Check) -> Vec<(String, u64)> {
    let offered = has_v1(host, "hugetlb") || host.cgroup.unified_controllers.iter().any(|c| c == "hugetlb");
    let mut planned: Vec<(String, u64)> = Vec::new();
    let mut sizes: Vec<&str> = Vec::new();
    for (i, entry) in given.iter().enumerate() {
        let place = format!("{PLACE}.hugepageLimits[{i}]");
        let size = entry.page_size().as_str();
        if !is_page_size(size) {
            check.refuse(format!("{place}.pageSize"), "must be a power of two as in 64KB, 2MB, 1GB", size);
        } else if sizes.contains(&size) {
            check.refuse(format!("{place}.pageSize"), "a page size may be given once", size);
        }
        sizes.push(size);
        let limit = u64::try_from(entry.limit()).unwrap_or_else(|_| {
            check.refuse(format!("{place}.limit"), "must not be negative", entry.limit());
            0
        });
        // Engines forbid all sizes, also where there is nothing to forbid.
        if limit != 0 || offered {
            planned.push((size.to_string(), limit));
        }
    }
    planned
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

fn network_marks(network: &LinuxNetwork, host: &Host, planned: &mut Resources, check: &mut Check) {
    let class_id = network.class_id().filter(|&id| id != 0);
    planned.network_class_id = only_v1(class_id, "net_cls", "network.classID", host, check);
    let mut priorities = Vec::new();
    for (i, entry) in network.priorities().iter().flatten().enumerate() {
        let name = entry.name();
        if name.is_empty()
            || name.len() > MAX_INTERFACE
            || name.contains(|c: char| c == '/' || c == '\0' || c.is_whitespace())
        {
            let rule = format!("an interface name has 1 to {MAX_INTERFACE} bytes, no slash and no space");
            check.refuse(format!("{PLACE}.network.priorities[{i}].name"), &rule, name);
        }
        priorities.push((name.clone(), entry.priority()));
    }
    let priorities = Some(priorities).filter(|list| !list.is_empty());
    planned.network_priorities =
        only_v1(priorities, "net_prio", "network.priorities", host, check).unwrap_or_default();
}

fn rdma(device: &str, limits: &LinuxRdma, check: &mut Check) -> Rdma {
    let place = format!("{PLACE}.rdma");
    if limits.hca_handles().is_none() && limits.hca_objects().is_none() {
        check.refuse(&place, "an entry needs hcaHandles or hcaObjects", device);
    }
    // `device key=value …` is one line of the kernel's file.
    if device.is_empty() || device.contains(|c: char| c == '=' || c == '\0' || c.is_whitespace()) {
        check.refuse(&place, "a device name has no space and no =", device);
    }
    Rdma { device: device.to_string(), hca_handles: limits.hca_handles(), hca_objects: limits.hca_objects() }
}

/// A key is a file in the container's cgroup directory, and its value goes there as it is.
fn unified(key: &str, value: &str, check: &mut Check) {
    let place = format!("{PLACE}.unified");
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let named =
        key.split_once('.').is_some_and(|(controller, file)| !controller.is_empty() && !file.is_empty());
    if !plain || !named {
        check.refuse(&place, "a key is the name of one file, as in memory.high", key);
    } else if key.starts_with("cgroup.") {
        check.refuse(&place, "a key of cgroup.* is not a limit: it moves, freezes or kills processes", key);
    }
    if value.contains(['\0', '\n']) {
        check.refuse(format!("{place}[\"{}\"]", shown(key)), "must be one line without a NUL", value);
    }
}
