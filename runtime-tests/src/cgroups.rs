// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the way to a container's cgroup directories, on v1, hybrid and v2 hosts, and the values in them.
//! Never trusts the runtime's word: the place comes from /proc/PID/cgroup, the hierarchies from /sys/fs/cgroup.
//! Data comes from a container's pid; directories and values go to the case, and outlive the process.

use crate::Container;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// cgroup2 alone, at the usual place.
pub fn pure_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Controllers of the one cgroup2 hierarchy that a container on this host can have.
pub fn v2_controllers() -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// `controller` is mounted as v1.
pub fn v1(controller: &str) -> bool {
    !pure_v2() && Path::new(ROOT).join(controller).join("cgroup.procs").exists()
}

/// `controller` (its v1 name; `blkio` is `io` and `cpuacct` is `cpu` on v2) is there in either version.
pub fn has_controller(controller: &str) -> bool {
    let v2 = match controller {
        "blkio" => "io",
        "cpuacct" => "cpu",
        // The freezer and the device filter of v2 need no controller.
        "freezer" | "devices" => return v1(controller) || pure_v2(),
        other => other,
    };
    v1(controller) || v2_controllers().iter().any(|c| c == v2)
}

/// The cgroup directories of one container.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// By v1 controller; cgroup2 has the empty name.
    directories: BTreeMap<String, PathBuf>,
}

impl Container<'_> {
    /// Where the container's process is now; ask before it ends.
    #[track_caller]
    pub fn cgroups(&self) -> Cgroups {
        Cgroups::of(self.pid)
    }
}

impl Cgroups {
    #[track_caller]
    pub fn of(pid: i32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let mut directories = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next().unwrap(), fields.next().unwrap().trim_start_matches('/'));
            for name in names.split(',') {
                let name = name.strip_prefix("name=").unwrap_or(name);
                let mount = match name {
                    "" if pure_v2() => PathBuf::from(ROOT),
                    "" => Path::new(ROOT).join("unified"),
                    name => Path::new(ROOT).join(name),
                };
                directories.insert(name.to_owned(), mount.join(path));
            }
        }
        Cgroups { directories }
    }

    /// The directory that holds the files of a controller (v1 name).
    #[track_caller]
    pub fn dir(&self, controller: &str) -> &Path {
        let name = if v1(controller) { controller } else { "" };
        self.directories.get(name).unwrap_or_else(|| panic!("no {controller}: {self:?}"))
    }

    /// The container's directory of cgroup2.
    #[track_caller]
    pub fn unified(&self) -> &Path {
        self.directories.get("").unwrap_or_else(|| panic!("no cgroup2: {self:?}"))
    }

    /// The directory in each hierarchy; some are no container's own.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.directories.values().map(PathBuf::as_path)
    }

    /// A file of the container's directory, trimmed.
    #[track_caller]
    pub fn value(&self, controller: &str, file: &str) -> String {
        read(&self.dir(controller).join(file))
    }

    /// The number behind `key` in a file of `key value` lines; 0 when there is no such line.
    #[track_caller]
    pub fn count(&self, controller: &str, file: &str, key: &str) -> u64 {
        let text = self.value(controller, file);
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
        line.map_or(0, |n| n.trim().parse().unwrap_or_else(|e| panic!("{file} {key}: {e}: {text}")))
    }

    /// How many processes the kernel has killed for want of memory.
    #[track_caller]
    pub fn oom_kills(&self) -> u64 {
        if v1("memory") {
            self.count("memory", "memory.oom_control", "oom_kill")
        } else {
            self.count("memory", "memory.events", "oom_kill")
        }
    }

    /// CPU time used so far, in microseconds.
    #[track_caller]
    pub fn cpu_usec(&self) -> u64 {
        if v1("cpuacct") {
            self.value("cpuacct", "cpuacct.usage").parse::<u64>().unwrap() / 1000
        } else {
            self.count("cpu", "cpu.stat", "usage_usec")
        }
    }
}

#[track_caller]
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}
