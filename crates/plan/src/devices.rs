// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device nodes and the links beside them: the runtime-spec's default devices and `linux.devices`.
//!
//! Never reads a host's device number: it is in the document. To steps that run after the mounts.

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};

use crate::check::{Check, clean};
use crate::namespaces::Namespaces;
use crate::types::{Action, Device, DeviceKind, Host, Step};

/// Of dev_t, as mknod(2) takes it: 12 bits and 20 bits.
pub(crate) const MAX_MAJOR: i64 = 0xfff;
pub(crate) const MAX_MINOR: i64 = 0xf_ffff;

/// (path, major, minor): runtime-spec config-linux.md "Default Devices"; numbers from the kernel's devices.txt.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

pub(crate) fn plan(
    linux: Option<&Linux>,
    host: &Host,
    namespaces: &Namespaces,
    dev_is_bound: bool,
    check: &mut Check,
) -> Vec<Step> {
    let given = linux.and_then(|l| l.devices().as_deref()).unwrap_or_default();
    if !namespaces.own_mounts() {
        if !given.is_empty() {
            check.violation("linux.devices", "needs a new mount namespace in linux.namespaces");
        }
        return Vec::new();
    }
    // mknod(2) of a device asks for CAP_MKNOD in the initial user namespace.
    let bind = namespaces.user() || !host.privileged || !host.initial_user_namespace;
    let mut devices: Vec<(Device, String)> = DEFAULTS
        .iter()
        .map(|&(path, major, minor)| {
            let path = path.to_string();
            let kind = DeviceKind::Character;
            (Device { path, kind, major, minor, mode: 0o666, uid: 0, gid: 0, bind }, String::new())
        })
        .collect();
    for (i, entry) in given.iter().enumerate() {
        let place = format!("linux.devices[{i}]");
        let Some(device) = device(entry, bind, namespaces, &place, check) else {
            continue;
        };
        match devices.iter_mut().find(|(old, _)| old.path == device.path) {
            // The document overrides a default. Engines list a device twice (all of the host's, and one more), but
            // of two different ones under one name nobody knows which is meant.
            Some((old, old_place)) => {
                let same = (old.kind, old.major, old.minor) == (device.kind, device.major, device.minor);
                if !same && !old_place.is_empty() {
                    let rule = format!("{old_place} is another device of this path");
                    check.refuse(format!("{place}.path"), &rule, &device.path);
                }
                (*old, *old_place) = (device, place);
            }
            None => devices.push((device, place)),
        }
    }
    if dev_is_bound {
        if !given.is_empty() {
            check.warn("linux.devices", "not created: /dev is a bind mount");
        }
        return Vec::new();
    }
    let mut steps: Vec<Step> =
        devices.into_iter().map(|(device, place)| Step { action: Action::Device(device), place }).collect();
    steps.extend(links(host));
    steps
}

fn device(
    entry: &LinuxDevice,
    bind: bool,
    namespaces: &Namespaces,
    place: &str,
    check: &mut Check,
) -> Option<Device> {
    let before = check.violations.len();
    let path = entry.path().to_string_lossy();
    check.absolute(&format!("{place}.path"), &path);
    let path = clean(&path);
    let kind = match entry.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => {
            check.refuse(format!("{place}.type"), "must be c, b, u or p", "a");
            return None;
        }
    };
    let (major, minor) = (entry.major(), entry.minor());
    if kind != DeviceKind::Fifo {
        // Overlay filesystems mean "deleted" by device 0:0; in a document it means that the numbers are missing.
        if (major, minor) == (0, 0) {
            check.violation(place, "major and minor are needed for this type");
        }
        for (field, value, max) in [("major", major, MAX_MAJOR), ("minor", minor, MAX_MINOR)] {
            if !(0..=max).contains(&value) {
                check.refuse(format!("{place}.{field}"), &format!("must be from 0 to {max}"), value);
            }
        }
    }
    // Some engines send st_mode as it is, with the file type in it.
    let mode = entry.file_mode().unwrap_or(0o666);
    let own_type = match kind {
        DeviceKind::Character => 0o020000,
        DeviceKind::Block => 0o060000,
        DeviceKind::Fifo => 0o010000,
    };
    if mode & !0o7777 != 0 && mode & !0o7777 != own_type {
        check.refuse(
            format!("{place}.fileMode"),
            "must be permission bits, at most 07777",
            format!("{mode:#o}"),
        );
    }
    let (uid, gid) = (entry.uid().unwrap_or(0), entry.gid().unwrap_or(0));
    if bind && kind != DeviceKind::Fifo {
        // A bound node keeps the owner that it has on the host; only nonsense is refused.
        for (field, id) in [("uid", uid), ("gid", gid)] {
            if id == u32::MAX {
                check.refuse(
                    format!("{place}.{field}"),
                    "is not an id: the kernel reads it as \"unchanged\"",
                    id,
                );
            }
        }
    } else {
        namespaces.check_uid(check, &format!("{place}.uid"), uid);
        namespaces.check_gid(check, &format!("{place}.gid"), gid);
    }
    if check.violations.len() > before {
        return None;
    }
    let number = |value: i64| u32::try_from(value).unwrap_or(0);
    Some(Device {
        path,
        kind,
        major: number(major),
        minor: number(minor),
        mode: mode & 0o7777,
        uid,
        gid,
        bind: bind && kind != DeviceKind::Fifo,
    })
}

/// runtime-spec runtime-linux.md "Dev symbolic links", and /dev/ptmx of "Default Devices".
fn links(host: &Host) -> Vec<Step> {
    let mut links = vec![
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    if host.kcore {
        links.push(("/proc/kcore", "/dev/core"));
    }
    links.push(("pts/ptmx", "/dev/ptmx"));
    links
        .into_iter()
        .map(|(target, path)| Step {
            action: Action::Symlink { target: target.to_string(), path: path.to_string() },
            place: String::new(),
        })
        .collect()
}
