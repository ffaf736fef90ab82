// SPDX-License-Identifier: MIT OR Apache-2.0
//! The systemd driver against the system's manager, as root: what a unit gets, and what it keeps over a reload.
//!
//! Never touches a unit that it did not start; each is stopped also after a panic. Facts are checked in /proc
//! and in the cgroup's files, not with the crate's own reads. A machine without systemd skips, and says so.

// The helpers below belong to the tests, where a panic is the report.
#![allow(clippy::unwrap_used)]

mod sleeper;

use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_cgroup::{Systemd, path_of};
use coracle_plan::{DeviceAccess, DeviceRule, DeviceRuleKind, Resources, SystemdUnit};
use sleeper::{Sleeper, Unit, slice};

/// None is a skip.
fn connected() -> Option<Systemd> {
    if !Path::new("/run/systemd/private").exists() || !nix::unistd::geteuid().is_root() {
        eprintln!("skip: needs root and a running systemd (/run/systemd/private)");
        return None;
    }
    Some(Systemd::connect(false).unwrap())
}

fn cgroup2_alone() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn directory(path: &str) -> PathBuf {
    let mounted = if cgroup2_alone() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
    Path::new(mounted).join(path.trim_start_matches('/'))
}

fn read(path: &str, file: &str) -> String {
    let file = directory(path).join(file);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().to_string()
}

fn show(unit: &str, property: &str) -> String {
    let shown = Command::new("systemctl").args(["show", "--value", "-p", property, unit]).output().unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().to_string()
}

fn daemon_reload() {
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
}

fn rule(allow: bool, kind: DeviceRuleKind, major: Option<u32>, minor: Option<u32>) -> DeviceRule {
    let access = DeviceAccess { read: true, write: true, mknod: true };
    DeviceRule { allow, kind, major, minor, access }
}

#[test]
fn a_scope_is_where_it_was_asked_for_and_ends_with_stop() {
    let Some(mut systemd) = connected() else { return };
    assert_eq!(systemd.control_group().unwrap(), "");
    let top = slice("scope");
    let unit = Unit::scope(&format!("{top}-a-b.slice"), "plain");
    let mut sleeper = Sleeper::new();
    let path = systemd.start(&unit, &Resources::default(), sleeper.pid()).unwrap();
    assert_eq!(path, format!("/{}", path_of(&unit)));
    assert_eq!(path, format!("/{top}.slice/{top}-a.slice/{top}-a-b.slice/{}", unit.name));
    assert_eq!(sleeper.cgroup(), path);
    assert_eq!(show(&unit.name, "Description"), "coracle test");
    for property in ["Delegate", "CPUAccounting", "MemoryAccounting", "TasksAccounting"] {
        assert_eq!(show(&unit.name, property), "yes", "{property}");
    }
    assert_eq!(show(&unit.name, "CollectMode"), "inactive-or-failed");
    assert_eq!(show(&unit.name, "DefaultDependencies"), "no");

    let mut other = Sleeper::new();
    let error = systemd.start(&unit, &Resources::default(), other.pid()).unwrap_err().to_string();
    assert_eq!(error, format!("systemd: start {0}: unit {0} already exists", unit.name));
    other.end();

    sleeper.end();
    systemd.stop(&unit.name).unwrap();
    assert_eq!(show(&unit.name, "LoadState"), "not-found");
    assert!(!directory(&path).exists());
    systemd.stop(&unit.name).unwrap();
}

#[test]
fn limits_and_devices_survive_a_reload() {
    let Some(mut systemd) = connected() else { return };
    let unit = Unit::scope("system.slice", "limits");
    let mut sleeper = Sleeper::new();
    let resources = Resources {
        memory_limit: Some(64 << 20),
        memory_swap: Some(96 << 20),
        memory_reservation: Some(32 << 20),
        cpu_shares: Some(512),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        cpus: Some("0".to_string()),
        pids_limit: Some(77),
        unified: vec![("memory.high".to_string(), "60M".to_string())],
        devices: vec![
            rule(false, DeviceRuleKind::All, None, None),
            rule(true, DeviceRuleKind::Character, Some(1), Some(3)),
            rule(true, DeviceRuleKind::Character, Some(5), None),
        ],
        ..Resources::default()
    };
    let path = systemd.start(&unit, &resources, sleeper.pid()).unwrap();
    let mut check = |when: &str, memory: u64, pids: u64| {
        if cgroup2_alone() {
            let has = |file: &str, value: &str| assert_eq!(read(&path, file), value, "{file} {when}");
            has("memory.max", &memory.to_string());
            has("memory.high", &(60 << 20).to_string());
            has("memory.low", &(32 << 20).to_string());
            has("memory.swap.max", &(32 << 20).to_string());
            has("cpu.weight", "59");
            has("cpu.max", "20000 50000");
            has("cpuset.cpus", "0");
            has("pids.max", &pids.to_string());
        } else {
            let has = |controller: &str, file: &str, value: String| {
                let file = format!("/sys/fs/cgroup/{controller}{path}/{file}");
                assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), value, "{file} {when}");
            };
            has("memory", "memory.limit_in_bytes", memory.to_string());
            has("cpu", "cpu.shares", 512.to_string());
            has("cpu", "cpu.cfs_quota_us", 20_000.to_string());
            has("cpu", "cpu.cfs_period_us", 50_000.to_string());
            has("pids", "pids.max", pids.to_string());
        }
        assert_eq!(sleeper.opens("/dev/null"), "yes", "{when}");
        assert_eq!(sleeper.opens("/dev/ptmx"), "yes", "5:* {when}");
        assert_eq!(sleeper.opens("/dev/zero"), "no", "{when}");
    };
    check("at start", 64 << 20, 77);
    daemon_reload();
    check("after a reload", 64 << 20, 77);
    let update = Resources { memory_limit: Some(80 << 20), pids_limit: Some(0), ..Resources::default() };
    systemd.set_limits(&unit.name, &update).unwrap();
    check("after an update", 80 << 20, 1);
    daemon_reload();
    check("after an update and a reload", 80 << 20, 1);

    // A list replaces the one before, and an open one ends the filter.
    let null = vec![
        rule(false, DeviceRuleKind::All, None, None),
        rule(true, DeviceRuleKind::Character, Some(1), Some(5)),
    ];
    systemd.set_limits(&unit.name, &Resources { devices: null, ..Resources::default() }).unwrap();
    assert_eq!((sleeper.opens("/dev/zero"), sleeper.opens("/dev/ptmx")), ("yes".into(), "no".into()));
    let wild = vec![
        rule(false, DeviceRuleKind::All, None, None),
        rule(true, DeviceRuleKind::Character, None, Some(3)),
    ];
    systemd.set_limits(&unit.name, &Resources { devices: wild, ..Resources::default() }).unwrap();
    assert_eq!((sleeper.opens("/dev/zero"), sleeper.opens("/dev/ptmx")), ("yes".into(), "yes".into()));
    let open = vec![rule(true, DeviceRuleKind::All, None, None)];
    systemd.set_limits(&unit.name, &Resources { devices: open, ..Resources::default() }).unwrap();
    assert_eq!((sleeper.opens("/dev/zero"), sleeper.opens("/dev/null")), ("yes".into(), "yes".into()));
    sleeper.end();
    systemd.stop(&unit.name).unwrap();
}

#[test]
fn unlimited_and_idle() {
    let Some(mut systemd) = connected() else { return };
    if !cgroup2_alone() {
        eprintln!("skip: cpu.idle needs cgroup2");
        return;
    }
    let unit = Unit::scope("-.slice", "idle");
    let mut sleeper = Sleeper::new();
    let resources = Resources {
        memory_limit: Some(-1),
        memory_swap: Some(-1),
        pids_limit: Some(-1),
        cpu_quota: Some(-1),
        cpu_idle: Some(true),
        ..Resources::default()
    };
    let path = systemd.start(&unit, &resources, sleeper.pid()).unwrap();
    assert_eq!(path, format!("/{}", unit.name));
    let idle = |value: &str, when: &str| assert_eq!(read(&path, "cpu.idle"), value, "{when}");
    assert_eq!((read(&path, "memory.max"), read(&path, "pids.max")), ("max".into(), "max".into()));
    assert_eq!(read(&path, "cpu.max"), "max 100000");
    idle("1", "at start");
    daemon_reload();
    idle("1", "after a reload");
    systemd.set_limits(&unit.name, &Resources { cpu_idle: Some(false), ..Resources::default() }).unwrap();
    idle("0", "after an update");
    sleeper.end();
    systemd.stop(&unit.name).unwrap();
}

#[test]
fn annotations_are_properties_and_override_ours() {
    let Some(mut systemd) = connected() else { return };
    let mut unit = Unit::scope("system.slice", "annotated");
    unit.change(|unit: &mut SystemdUnit| {
        unit.properties = [
            ("Description", "'written by \\'hand\\''"),
            ("TasksMax", "uint64 55"),
            ("TimeoutStopSec", "7.0"),
            ("After", "['basic.target', \"sysinit.target\"]"),
            ("SendSIGHUP", "true"),
        ]
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .to_vec();
    });
    let mut sleeper = Sleeper::new();
    let resources = Resources { pids_limit: Some(5), ..Resources::default() };
    systemd.start(&unit, &resources, sleeper.pid()).unwrap();
    assert_eq!(show(&unit.name, "Description"), "written by 'hand'");
    assert_eq!(show(&unit.name, "TasksMax"), "55");
    assert_eq!(show(&unit.name, "TimeoutStopUSec"), "7s");
    assert_eq!(show(&unit.name, "SendSIGHUP"), "yes");
    assert!(show(&unit.name, "After").contains("basic.target"));
    sleeper.end();
    systemd.stop(&unit.name).unwrap();

    let mut sleeper = Sleeper::new();
    unit.change(|unit| unit.properties = vec![("NoSuchThing".to_string(), "true".to_string())]);
    let error = systemd.start(&unit, &resources, sleeper.pid()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("systemd: start {}: ", unit.name)), "{error}");
    assert!(error.contains("NoSuchThing"), "{error}");
    unit.change(|unit| unit.properties = vec![("TasksMax".to_string(), "55".to_string())]);
    let error = systemd.start(&unit, &resources, sleeper.pid()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("systemd: start {}: ", unit.name)), "{error}");
    sleeper.end();
}

#[test]
fn a_process_that_is_gone_is_an_error() {
    let Some(mut systemd) = connected() else { return };
    let unit = Unit::scope("system.slice", "gone");
    let mut sleeper = Sleeper::new();
    let pid = sleeper.pid();
    sleeper.end();
    let error = systemd.start(&unit, &Resources::default(), pid).unwrap_err().to_string();
    assert!(error.starts_with(&format!("systemd: start {}: ", unit.name)), "{error}");
    systemd.stop(&unit.name).unwrap();
}

#[test]
fn a_slice_takes_limits_and_no_process() {
    let Some(mut systemd) = connected() else { return };
    let top = slice("slice");
    let unit = Unit::named(&format!("{top}.slice"), &format!("{top}-inner.slice"));
    let mut sleeper = Sleeper::new();
    let before = sleeper.cgroup();
    let resources = Resources { pids_limit: Some(9), ..Resources::default() };
    let path = systemd.start(&unit, &resources, sleeper.pid()).unwrap();
    assert_eq!(path, format!("/{}", path_of(&unit)));
    assert_eq!(path, format!("/{top}.slice/{}", unit.name));
    assert_eq!(sleeper.cgroup(), before);
    assert_eq!(show(&unit.name, "TasksMax"), "9");
    assert!(show(&unit.name, "Wants").contains(&unit.slice));
    let error = systemd.start(&unit, &resources, sleeper.pid()).unwrap_err().to_string();
    assert!(error.contains("already exists"), "{error}");
    sleeper.end();
    systemd.stop(&unit.name).unwrap();
    assert!(!directory(&path).exists());
}

#[test]
fn a_failed_leftover_is_replaced() {
    let Some(mut systemd) = connected() else { return };
    let mut unit = Unit::scope("system.slice", "leftover");
    // Else systemd would forget it by itself.
    unit.change(|unit| {
        let properties = [("CollectMode", "'inactive'"), ("TimeoutStopSec", "0.2")];
        unit.properties = properties.map(|(name, text)| (name.to_string(), text.to_string())).to_vec();
    });
    let mut sleeper = Sleeper::new();
    systemd.start(&unit, &Resources::default(), sleeper.pid()).unwrap();
    // It takes no SIGTERM, and to kill it after the time is a failure.
    Command::new("systemctl").args(["stop", &unit.name]).status().unwrap();
    sleeper.ended();
    sleeper::until(|| show(&unit.name, "ActiveState") == "failed");
    unit.change(|unit| unit.properties.clear());
    let mut sleeper = Sleeper::new();
    let path = systemd.start(&unit, &Resources::default(), sleeper.pid()).unwrap();
    assert_eq!(sleeper.cgroup(), path);
    sleeper.end();
    systemd.stop(&unit.name).unwrap();
}

#[test]
fn the_socket_is_not_inherited() {
    let Some(systemd) = connected() else { return };
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let sockets: Vec<PathBuf> = fds()
        .filter(|path| {
            let target = std::fs::read_link(path).unwrap_or_default();
            target.to_string_lossy().starts_with("socket:")
        })
        .collect();
    assert!(!sockets.is_empty());
    for socket in sockets {
        let number = socket.file_name().unwrap().to_string_lossy().into_owned();
        // Another test's may be closed by now.
        let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        assert_ne!(u32::from_str_radix(flags, 8).unwrap() & 0o2000000, 0, "close-on-exec of {number}");
    }
    drop(systemd);
}
