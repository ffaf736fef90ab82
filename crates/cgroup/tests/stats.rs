// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics against the real kernel, as root, in cgroups of its own that are removed also after a panic.
//!
//! Never touches a cgroup that it did not make. Numbers are compared with plain reads of the same files and
//! with work of known size done inside.

// Panics are how a test reports.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_cgroup::{Cgroup, Error, Location, Stats, host, locate};
use coracle_plan::{CgroupHost, CgroupMode, CgroupPath, CgroupPlace, Resources};
use nix::errno::Errno;

const LONG: Duration = Duration::from_secs(20);

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skip: making cgroups needs root");
    }
    root
}

/// One cgroup in every hierarchy, and the processes put into it; all gone on drop.
struct Place {
    host: CgroupHost,
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Place {
    fn new(resources: &Resources) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/coracle-stats-{}-{number}", std::process::id());
        let host = host().unwrap();
        let path = CgroupPlace::Directory(CgroupPath::Absolute(name));
        let location: Location = locate(&host, &path, "unused", "").unwrap();
        let cgroup = location.create(resources).unwrap();
        Place { host, cgroup, children: Vec::new() }
    }

    fn v2(&self) -> bool {
        self.host.mode == CgroupMode::V2
    }

    fn has(&self, controller: &str) -> bool {
        let v1 =
            self.cgroup.location().v1.iter().any(|(names, _)| names.iter().any(|name| name == controller));
        let there = v1 || self.host.unified_controllers.iter().any(|name| name == controller);
        if !there {
            eprintln!("skip: needs the controller {controller}");
        }
        there
    }

    /// The container's directory where the controller is.
    fn directory(&self, controller: &str) -> PathBuf {
        let location = self.cgroup.location();
        let v1 = location.v1.iter().find(|(names, _)| names.iter().any(|name| name == controller));
        v1.map(|(_, path)| path.clone()).or(location.unified.clone()).unwrap()
    }

    /// Runs a script of sh inside, from its first instruction on; returns at its end.
    fn run(&mut self, script: &str) {
        let mut child = self.start(script);
        child.wait().unwrap();
    }

    /// Starts it and leaves it running.
    fn keep(&mut self, script: &str) {
        let child = self.start(script);
        self.children.push(child);
    }

    /// The script waits on its stdin until it has been moved.
    fn start(&self, script: &str) -> Child {
        let (gate, opener) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("read go; {script}")]).stdin(gate).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        if let Some(unified) = &self.cgroup.location().unified {
            std::fs::write(unified.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        self.cgroup.attach(child.id() as i32).unwrap();
        nix::unistd::write(opener.as_fd(), b"go\n").unwrap();
        child
    }

    fn stats(&self) -> Stats {
        self.cgroup.stats().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cgroup.kill().unwrap();
        for child in &mut self.children {
            child.wait().unwrap();
        }
        self.cgroup.wait_empty(LONG).unwrap();
        self.cgroup.remove(LONG).unwrap();
    }
}

fn value(directory: &Path, file: &str) -> u64 {
    let path = directory.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().parse().unwrap_or_else(|error| panic!("{}: {text:?}: {error}", path.display()))
}

#[test]
fn cpu_time_is_that_of_the_work_inside() {
    if !root() {
        return;
    }
    let mut place = Place::new(&Resources::default());
    let mut poll = place.cgroup.poll().unwrap();
    let before = poll.read().unwrap().cpu.usage;
    place.run("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done");
    let v1 = !place.v2() && !place.host.v1.is_empty();
    let elsewhere = || match v1 {
        true => value(&place.directory("cpuacct"), "cpuacct.usage"),
        false => {
            let text = std::fs::read_to_string(place.directory("cpu").join("cpu.stat")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
            line.parse::<u64>().unwrap() * 1000
        }
    };
    // The last moments of a process are added when its parent may have it waited for already.
    let least = elsewhere();
    let after = poll.read().unwrap().cpu.usage;
    let most = elsewhere();
    // A loop of that length takes no machine less than 20 ms.
    assert!(after.total - before.total > 20_000_000, "{before:?} {after:?}");
    assert!((least..=most).contains(&after.total), "{least} {after:?} {most}");
    if v1 {
        let sum = after.percpu.iter().sum::<u64>();
        assert!((after.total..=most).contains(&sum), "{after:?} {most}");
    }
}

#[test]
fn memory_and_its_limit() {
    if !root() {
        return;
    }
    let limit = 64 << 20;
    let mut place = Place::new(&Resources::default());
    if !place.has("memory") {
        return;
    }
    drop(place);
    place = Place::new(&Resources { memory_limit: Some(limit), ..Resources::default() });
    let ready = std::env::temp_dir().join(format!("coracle-stats-ready-{}", std::process::id()));
    nix::unistd::mkfifo(&ready, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // A shell that holds 16 MiB, says so, and stops.
    let script = "x=$(head -c 16777216 /dev/zero | tr '\\0' x); echo ready >";
    place.keep(&format!("{script} {}; kill -STOP $$", ready.display()));
    std::fs::read_to_string(&ready).unwrap();
    let stats = place.stats();
    std::fs::remove_file(&ready).unwrap();
    let usage = stats.memory.usage.unwrap();
    assert_eq!(usage.limit, limit as u64);
    assert!(usage.usage >= 16 << 20 && usage.usage <= limit as u64, "{usage:?}");
    assert!(usage.max.is_none_or(|max| max >= usage.usage), "{usage:?}");
    let anonymous = if place.v2() { "anon" } else { "total_rss" };
    // Linux before 6.8 gives old numbers while it adds them up for somebody else. Every two seconds it does so by itself.
    let end = Instant::now() + LONG;
    while place.stats().memory.raw[anonymous] < 16 << 20 {
        assert!(Instant::now() < end, "{:?}", place.stats().memory.raw);
        std::thread::yield_now();
    }
    assert_eq!(stats.memory.events.get("oom_kill"), Some(&0));
}

#[test]
fn a_kill_for_want_of_memory_is_counted() {
    if !root() {
        return;
    }
    let mut place = Place::new(&Resources::default());
    if !place.has("memory") {
        return;
    }
    drop(place);
    // Without swap, where the kernel counts it.
    let swap = std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1);
    let memory_swap = swap.then_some(32 << 20);
    place = Place::new(&Resources { memory_limit: Some(32 << 20), memory_swap, ..Resources::default() });
    assert_eq!(place.stats().memory.events.get("oom_kill"), Some(&0));
    place.run("head -c 200m /dev/zero | tail > /dev/null");
    let memory = place.stats().memory;
    assert!(memory.events["oom_kill"] >= 1, "{memory:?}");
    assert!(memory.usage.unwrap().failcnt >= 1);
}

#[test]
fn pids_and_their_limit() {
    if !root() {
        return;
    }
    let mut place = Place::new(&Resources::default());
    if !place.has("pids") {
        return;
    }
    assert_eq!((place.stats().pids.current, place.stats().pids.limit), (Some(0), None));
    place.keep("read forever");
    place.keep("read forever");
    assert_eq!(place.stats().pids.current, Some(2));
    drop(place);
    place = Place::new(&Resources { pids_limit: Some(77), ..Resources::default() });
    assert_eq!(place.stats().pids.limit, Some(77));
}

#[test]
fn what_every_kernel_with_cgroup2_has() {
    if !root() {
        return;
    }
    let place = Place::new(&Resources::default());
    let Some(unified) = &place.cgroup.location().unified else {
        return eprintln!("skip: needs cgroup2");
    };
    let sizes = || {
        let names = std::fs::read_dir(place.directory("hugetlb")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("hugetlb.") && name.ends_with("B.max")).count()
    };
    // Another test may enable the controller for all meanwhile.
    let least = sizes();
    let stats = place.stats();
    let most = sizes();
    assert!((least..=most).contains(&stats.hugetlb.len()), "{least} {stats:?} {most}");
    for (file, there) in [
        ("cpu.pressure", stats.cpu.psi.is_some()),
        ("memory.pressure", stats.memory.psi.is_some()),
        ("io.pressure", stats.blkio.psi.is_some()),
    ] {
        assert_eq!(there, unified.join(file).exists(), "{file}");
    }
    // Without a limit: `max`, or the largest multiple of a page that the counter can hold.
    assert!(stats.hugetlb.values().all(|page| page.limit >= 1 << 62 && page.usage == 0), "{stats:?}");
}

#[test]
fn a_poll_reads_again_what_it_has_open() {
    if !root() {
        return;
    }
    let mut place = Place::new(&Resources::default());
    let mut poll = place.cgroup.poll().unwrap();
    let first = poll.read().unwrap();
    place.keep("read forever");
    let second = poll.read().unwrap();
    if place.has("pids") {
        assert_eq!((first.pids.current, second.pids.current), (Some(0), Some(1)));
    }
    assert_eq!(second.memory.raw.keys().collect::<Vec<_>>(), first.memory.raw.keys().collect::<Vec<_>>());
    assert_eq!(second.hugetlb, place.stats().hugetlb);
}

#[test]
fn a_cgroup_that_is_gone_is_an_error() {
    if !root() {
        return;
    }
    let place = Place::new(&Resources::default());
    let cgroup = place.cgroup.location().open();
    let early = cgroup.clone_fd().is_some();
    let mut poll = cgroup.poll().unwrap();
    poll.read().unwrap();
    place.cgroup.remove(LONG).unwrap();

    let error = poll.read().unwrap_err();
    assert!(matches!(error, Error::Io { errno: Errno::ENODEV, .. }), "{error:?}");
    assert!(error.to_string().starts_with("the container's cgroup is gone: read /"), "{error}");
    // By the descriptors of its directories, which it has, and by name.
    assert!(early || place.host.unified.is_empty());
    for again in [cgroup.poll().unwrap_err(), place.cgroup.location().open().poll().unwrap_err()] {
        assert!(matches!(again, Error::Io { errno: Errno::ENOENT, .. }), "{again:?}");
    }
}

#[test]
fn no_cgroup_at_all_has_no_numbers() {
    assert_eq!(Location::default().open().stats().unwrap(), Stats::default());
}
