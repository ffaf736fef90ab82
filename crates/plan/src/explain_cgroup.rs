// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cgroup's part of [`crate::explain`]: driver, place, limits and device rules as lines.
//!
//! Never decides or hides anything; what comes from the document is escaped.

use crate::check::shown;
use crate::types::{
    BlockIo, CgroupPath, CgroupPlace, CgroupPlan, DeviceAccess, DeviceRule, DeviceRuleKind, Resources,
    Throttle,
};

/// Each line is (heading, text).
pub(crate) fn lines(plan: &CgroupPlan) -> Vec<(&'static str, String)> {
    let mut lines = vec![("cgroup", place(plan))];
    if let CgroupPlace::Unit(unit) = &plan.place {
        lines.extend(
            unit.properties
                .iter()
                .map(|(name, value)| ("unit", format!("{} = {}", shown(name), shown(value)))),
        );
    }
    lines.extend(limits(&plan.resources).into_iter().map(|line| ("limits", line)));
    lines.extend(devices(&plan.resources).into_iter().map(|line| ("devices", line)));
    lines
}

fn place(plan: &CgroupPlan) -> String {
    let mut text = match &plan.place {
        CgroupPlace::Nowhere => "none: the caller may not make one".to_string(),
        CgroupPlace::Unit(unit) => {
            let manager = if unit.user { "systemd of the user" } else { "systemd" };
            format!("{manager}: {} in {}", shown(&unit.name), shown(&unit.slice))
        }
        CgroupPlace::Directory(CgroupPath::Absolute(path)) => format!("cgroupfs: {}", shown(path)),
        CgroupPlace::Directory(CgroupPath::Relative(path)) => {
            format!("cgroupfs: {} (beside the caller's own)", shown(path))
        }
        CgroupPlace::Directory(CgroupPath::Below(path)) => {
            format!("cgroupfs: {} (below the caller's own: what is above is not theirs)", shown(path))
        }
    };
    if let Some(leaf) = &plan.leaf {
        text.push_str(&format!(", the process in {leaf}"));
    }
    if let Some(owner) = plan.owner {
        text.push_str(&format!(", owner {owner}"));
    }
    text
}

/// One line for each controller that has something to do, by the names of the document.
pub(crate) fn limits(resources: &Resources) -> Vec<String> {
    let bound = |value: i64| if value == -1 { "max".to_string() } else { value.to_string() };
    let signed = |name: &str, value: Option<i64>| value.map(|value| format!("{name} {}", bound(value)));
    let number = |name: &str, value: Option<u64>| value.map(|value| format!("{name} {value}"));
    let text = |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("{name} {}", shown(v)));
    let switch = |name: &str, value: Option<bool>| value.map(|value| format!("{name} {value}"));

    let memory = [
        signed("memory.limit", resources.memory_limit),
        signed("memory.reservation", resources.memory_reservation),
        signed("memory.swap", resources.memory_swap),
        number("memory.swappiness", resources.memory_swappiness),
        switch("memory.disableOOMKiller", resources.disable_oom_killer),
        resources.check_before_update.then(|| "memory.checkBeforeUpdate".to_string()),
    ];
    let cpu = [
        number("cpu.shares", resources.cpu_shares),
        signed("cpu.quota", resources.cpu_quota),
        number("cpu.period", resources.cpu_period),
        number("cpu.burst", resources.cpu_burst),
        switch("cpu.idle", resources.cpu_idle),
        signed("cpu.realtimeRuntime", resources.cpu_realtime_runtime),
        number("cpu.realtimePeriod", resources.cpu_realtime_period),
        text("cpu.cpus", &resources.cpus),
        text("cpu.mems", &resources.mems),
    ];
    let mut groups: Vec<Vec<String>> = vec![
        memory.into_iter().flatten().collect(),
        cpu.into_iter().flatten().collect(),
        signed("pids.limit", resources.pids_limit).into_iter().collect(),
    ];
    groups.extend(block_io(&resources.block_io));
    groups.push(
        resources
            .hugepage_limits
            .iter()
            .map(|(size, limit)| format!("hugepages {} {limit}", shown(size)))
            .collect(),
    );
    let mut network: Vec<String> =
        resources.network_class_id.map(|id| format!("network.classID {id:#x}")).into_iter().collect();
    network.extend(
        resources
            .network_priorities
            .iter()
            .map(|(name, priority)| format!("network.priority {} {priority}", shown(name))),
    );
    groups.push(network);
    for rdma in &resources.rdma {
        let mut words = vec![format!("rdma {}", shown(&rdma.device))];
        words.extend(rdma.hca_handles.map(|handles| format!("hcaHandles {handles}")));
        words.extend(rdma.hca_objects.map(|objects| format!("hcaObjects {objects}")));
        groups.push(vec![words.join(" ")]);
    }
    groups.extend(
        resources.unified.iter().map(|(key, value)| vec![format!("{} = {}", shown(key), shown(value))]),
    );
    groups.into_iter().filter(|words| !words.is_empty()).map(|words| words.join(", ")).collect()
}

fn block_io(block_io: &BlockIo) -> Vec<Vec<String>> {
    let weight = |name: &str, value: Option<u16>| value.map(|value| format!("{name} {value}"));
    let weights =
        [weight("blockIO.weight", block_io.weight), weight("blockIO.leafWeight", block_io.leaf_weight)];
    let mut groups = vec![weights.into_iter().flatten().collect()];
    for device in &block_io.weight_device {
        let words = [weight("weight", device.weight), weight("leafWeight", device.leaf_weight)];
        let words: Vec<String> = words.into_iter().flatten().collect();
        groups.push(vec![format!("blockIO {}:{} {}", device.major, device.minor, words.join(" "))]);
    }
    let mut throttles = |name: &str, unit: &str, list: &[Throttle]| {
        let word = |t: &Throttle| match t.rate {
            0 => format!("blockIO {}:{} {name} max {unit}", t.major, t.minor),
            rate => format!("blockIO {}:{} {name} {rate} {unit}", t.major, t.minor),
        };
        groups.extend(list.iter().map(|throttle| vec![word(throttle)]));
    };
    throttles("read", "B/s", &block_io.read_bps);
    throttles("write", "B/s", &block_io.write_bps);
    throttles("read", "IO/s", &block_io.read_iops);
    throttles("write", "IO/s", &block_io.write_iops);
    groups
}

/// One line for each run of rules that allow, or that deny; in order.
fn devices(resources: &Resources) -> Vec<String> {
    let mut lines: Vec<String> = resources
        .devices
        .chunk_by(|a, b| a.allow == b.allow)
        .map(|run| {
            let word = if run.first().is_some_and(|rule| rule.allow) { "allow" } else { "deny" };
            let rules: Vec<String> = run.iter().map(rule).collect();
            format!("{word} {}", rules.join(", "))
        })
        .collect();
    if resources.devices_optional && !lines.is_empty() {
        lines.push("without these rules where the caller may not make them".to_string());
    }
    lines
}

fn rule(rule: &DeviceRule) -> String {
    let kind = match rule.kind {
        DeviceRuleKind::All => 'a',
        DeviceRuleKind::Block => 'b',
        DeviceRuleKind::Character => 'c',
    };
    let number = |value: Option<u32>| value.map_or("*".to_string(), |value| value.to_string());
    format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), access(rule.access))
}

fn access(access: DeviceAccess) -> String {
    [(access.read, 'r'), (access.write, 'w'), (access.mknod, 'm')]
        .into_iter()
        .filter_map(|(on, letter)| on.then_some(letter))
        .collect()
}
