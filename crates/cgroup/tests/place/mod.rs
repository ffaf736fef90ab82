// SPDX-License-Identifier: MIT OR Apache-2.0
//! A place of a test's own in each hierarchy, and processes to put there; removed and killed also after a panic.
//!
//! Never touches a cgroup that it did not make. Facts are read with plain file reads, not with the crate's own.

// A panic is a test's report; each test program uses its own part of this.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_cgroup::{Cgroup, Location, host, locate};
use coracle_plan::{CgroupHost, CgroupMode, CgroupPath, CgroupPlace};

/// Long enough for a busy machine; no test waits for it unless it fails.
pub const LONG: Duration = Duration::from_secs(20);

pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skip: making cgroups needs root");
    }
    root
}

/// A unique directory in each hierarchy, removed on drop with all that lives in it.
pub struct Place {
    pub host: CgroupHost,
    pub name: String,
}

impl Place {
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Place { host: host().unwrap(), name: format!("coracle-test-{}-{number}", std::process::id()) }
    }

    pub fn locate(&self, tail: &str) -> Location {
        locate(
            &self.host,
            &CgroupPlace::Directory(CgroupPath::Absolute(format!("/{}{tail}", self.name))),
            "unused",
            "",
        )
        .unwrap()
    }

    /// This test's directories in all hierarchies, whether they exist or not.
    pub fn directories(&self) -> Vec<PathBuf> {
        let mounts =
            self.host.v1.iter().map(|one| one.mount_point.clone()).chain([self.host.unified.clone()]);
        mounts.filter(|mount| !mount.is_empty()).map(|mount| Path::new(&mount).join(&self.name)).collect()
    }

    pub fn leftovers(&self) -> Vec<PathBuf> {
        self.directories().into_iter().filter(|path| path.exists()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for directory in self.directories() {
            tear_down(&directory);
        }
    }
}

pub fn tear_down(directory: &Path) {
    for name in sub_cgroups(directory) {
        tear_down(&directory.join(name));
    }
    std::fs::write(directory.join("cgroup.freeze"), "0").ok();
    std::fs::write(directory.join("freezer.state"), "THAWED").ok();
    let end = Instant::now() + LONG;
    while directory.exists() && Instant::now() < end {
        for pid in procs(directory) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
        }
        std::fs::remove_dir(directory).ok();
        std::thread::yield_now();
    }
}

/// For what the kernel does by and by, and tells nobody.
pub fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
}

pub fn sub_cgroups(directory: &Path) -> Vec<std::ffi::OsString> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect()
}

pub fn procs(directory: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// A child that sleeps until it is killed; killed and reaped on drop.
pub struct Sleeper(Child);

impl Sleeper {
    pub fn new() -> Sleeper {
        Sleeper(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Into all directories of the container, as CLONE_INTO_CGROUP and attach do together.
    pub fn inside(cgroup: &Cgroup) -> Sleeper {
        let sleeper = Sleeper::new();
        if let Some(unified) = &cgroup.location().unified {
            sleeper.move_to(unified);
        }
        cgroup.attach(sleeper.pid()).unwrap();
        sleeper
    }

    pub fn move_to(&self, directory: &Path) {
        std::fs::write(directory.join("cgroup.procs"), self.pid().to_string()).unwrap();
    }

    pub fn killed_by(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.0.wait().unwrap().signal()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub fn v1_directory(location: &Location, controller: &str) -> PathBuf {
    let (_, path) = location
        .v1
        .iter()
        .find(|(controllers, _)| controllers.iter().any(|name| name == controller))
        .unwrap_or_else(|| panic!("no v1 hierarchy for {controller}"));
    path.clone()
}

pub fn value(directory: &Path, file: &str) -> String {
    let path = directory.join(file);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_string()
}

/// The v1 tests need v1 hierarchies; a stated skip where there are none.
pub fn v1(place: &Place) -> bool {
    let v1 = matches!(place.host.mode, CgroupMode::Hybrid | CgroupMode::V1);
    if !v1 {
        eprintln!("skip: needs v1 hierarchies, this host is {:?}", place.host.mode);
    }
    v1
}

/// Tests of what only cgroup2 has, or that make a directory there by hand.
pub fn unified(place: &Place) -> bool {
    let unified = !place.host.unified.is_empty();
    if !unified {
        eprintln!("skip: needs cgroup2, this host is {:?}", place.host.mode);
    }
    unified
}

pub fn v2(place: &Place) -> bool {
    let v2 = place.host.mode == CgroupMode::V2;
    if !v2 {
        eprintln!("skip: needs a host with cgroup2 alone, this one is {:?}", place.host.mode);
    }
    v2
}

/// A hybrid host may have some controllers in v1 and others in cgroup2.
pub fn v1_has(place: &Place, controller: &str) -> bool {
    let mut all = place.host.v1.iter().flat_map(|one| &one.controllers);
    let has = all.any(|name| name == controller);
    if !has {
        eprintln!("skip: needs the {controller} controller of v1, this host is {:?}", place.host.mode);
    }
    has
}
