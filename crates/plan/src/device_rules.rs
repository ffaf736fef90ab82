// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.resources.devices`: what the container's processes may do with device nodes.
//!
//! Never leaves the question open: without any rule everything is denied but the runtime's own devices. From the
//! document's rules, in their order, to [`DeviceRule`]s that both cgroup versions can carry out as they are.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::check::Check;
use crate::devices::{MAX_MAJOR, MAX_MINOR};
use crate::types::{DeviceAccess, DeviceRule, DeviceRuleKind};

const PLACE: &str = "linux.resources.devices";

const EVERYTHING: DeviceAccess = DeviceAccess { read: true, write: true, mknod: true };
const MKNOD: DeviceAccess = DeviceAccess { read: false, write: false, mknod: true };

/// What every container may use, whatever the rules before say, as engines expect it: the devices that the
/// runtime makes, and the terminals of the container's own devpts. A node may be made of any device: it is of
/// no use without the right to open it, and archives are unpacked with such nodes in them.
const OWN: [DeviceRule; 12] = [
    allow(DeviceRuleKind::Character, None, None, MKNOD),
    allow(DeviceRuleKind::Block, None, None, MKNOD),
    // null, random, full, tty, zero, urandom
    allow(DeviceRuleKind::Character, Some(1), Some(3), EVERYTHING),
    allow(DeviceRuleKind::Character, Some(1), Some(8), EVERYTHING),
    allow(DeviceRuleKind::Character, Some(1), Some(7), EVERYTHING),
    allow(DeviceRuleKind::Character, Some(5), Some(0), EVERYTHING),
    allow(DeviceRuleKind::Character, Some(1), Some(5), EVERYTHING),
    allow(DeviceRuleKind::Character, Some(1), Some(9), EVERYTHING),
    // console, every pty, ptmx
    allow(DeviceRuleKind::Character, Some(5), Some(1), EVERYTHING),
    allow(DeviceRuleKind::Character, Some(136), None, EVERYTHING),
    allow(DeviceRuleKind::Character, Some(5), Some(2), EVERYTHING),
    // net/tun: not made, but networks in containers expect to be allowed it, as with all the peers.
    allow(DeviceRuleKind::Character, Some(10), Some(200), EVERYTHING),
];

const fn allow(
    kind: DeviceRuleKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: DeviceAccess,
) -> DeviceRule {
    DeviceRule { allow: true, kind, major, minor, access }
}

const fn about_everything(allow: bool) -> DeviceRule {
    DeviceRule { allow, kind: DeviceRuleKind::All, major: None, minor: None, access: EVERYTHING }
}

pub(crate) fn plan(given: &[LinuxDeviceCgroup], check: &mut Check) -> Vec<DeviceRule> {
    let mut rules = Vec::with_capacity(given.len() + 1 + OWN.len());
    for (i, entry) in given.iter().enumerate() {
        rule(entry, &format!("{PLACE}[{i}]"), &mut rules, check);
    }
    if rules.first().is_none_or(|first| first.kind != DeviceRuleKind::All) {
        rules.insert(0, about_everything(false));
    }
    // After "allow everything", as privileged containers have it, there is nothing left to allow.
    if rules.last() != Some(&about_everything(true)) {
        rules.extend(OWN);
    }
    rules
}

fn rule(entry: &LinuxDeviceCgroup, place: &str, rules: &mut Vec<DeviceRule>, check: &mut Check) {
    let access = access(entry, place, check);
    let major = number(entry.major(), &format!("{place}.major"), MAX_MAJOR, check);
    let minor = number(entry.minor(), &format!("{place}.minor"), MAX_MINOR, check);
    let kinds: &[DeviceRuleKind] = match entry.typ().unwrap_or_default() {
        LinuxDeviceType::A if (major, minor, access) == (None, None, EVERYTHING) => &[DeviceRuleKind::All],
        // For v1 and its followers "all" would drop the numbers and the access, and allow far more than is
        // written; so both kinds are named.
        LinuxDeviceType::A => &[DeviceRuleKind::Block, DeviceRuleKind::Character],
        LinuxDeviceType::B => &[DeviceRuleKind::Block],
        LinuxDeviceType::C | LinuxDeviceType::U => &[DeviceRuleKind::Character],
        LinuxDeviceType::P => {
            check.refuse(format!("{place}.type"), "must be a, b, c or u: a fifo is not a device", "p");
            return;
        }
    };
    rules.extend(kinds.iter().map(|&kind| DeviceRule { allow: entry.allow(), kind, major, minor, access }));
}

/// Not given is all of them.
fn access(entry: &LinuxDeviceCgroup, place: &str, check: &mut Check) -> DeviceAccess {
    let Some(text) = entry.access() else {
        return EVERYTHING;
    };
    if text.is_empty() || text.chars().any(|c| !"rwm".contains(c)) {
        check.refuse(format!("{place}.access"), "must be some of r, w and m", text);
    }
    DeviceAccess { read: text.contains('r'), write: text.contains('w'), mknod: text.contains('m') }
}

/// -1 and not given are all of them.
fn number(value: Option<i64>, place: &str, max: i64, check: &mut Check) -> Option<u32> {
    let value = value.filter(|&value| value != -1)?;
    if !(0..=max).contains(&value) {
        check.refuse(place, &format!("must be -1 (all) or from 0 to {max}"), value);
    }
    u32::try_from(value).ok()
}
