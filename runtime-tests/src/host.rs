// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the check that a case has left the host as it was: files, mounts, cgroups, processes, state, devices.
//! Never repairs before it has looked; `clean` removes only what carries the case's own tag.
//! Data comes from /proc, cgroupfs, /dev and the sentinel; violations go to the case as lines.

use crate::{Kind, Test};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// What was there before the case.
#[derive(Debug)]
pub struct Host {
    runtime: String,
    sentinel: BTreeSet<String>,
    mounts: BTreeSet<String>,
    devices: BTreeSet<String>,
    links: BTreeSet<String>,
    canary: String,
}

/// A sysctl that the attack cases aim at in place of a dangerous one.
pub(crate) const CANARY: &str = "/proc/sys/kernel/printk_ratelimit_burst";

/// What a killed process may take to end, on a machine under load.
const TEARDOWN: Duration = Duration::from_secs(5);

/// Where a state directory keeps networks: claims are symbolic links to their owners below it.
const NETWORKS: &str = "@network";

impl Test {
    /// Who has which address and port: `default/10.89.0.2 -> web`, sorted.
    pub fn claims(&self) -> Vec<String> {
        let root = self.state_root().join(NETWORKS);
        let below = |name: &String| {
            names(root.join(name)).into_iter().map(|claim| format!("{name}/{claim}")).collect::<Vec<_>>()
        };
        let claims = names(&root).iter().flat_map(below).collect::<Vec<_>>();
        let owner = |claim: &String| {
            fs::read_link(root.join(claim)).ok().map(|owner| format!("{claim} -> {}", owner.display()))
        };
        claims.iter().filter_map(owner).collect()
    }
}

impl Host {
    pub fn look(test: &Test) -> Self {
        Host {
            runtime: describe(&test.runtime),
            sentinel: tree(&test.sentinel()),
            mounts: mounts(),
            devices: devices(),
            links: names("/sys/class/net"),
            canary: fs::read_to_string(CANARY).unwrap_or_default(),
        }
    }

    /// Everything that is not as it was, one line each.
    pub fn violations(&self, test: &Test) -> Vec<String> {
        let now = Host::look(test);
        let mut list = Vec::new();
        let mut compare = |what: &str, before: &BTreeSet<String>, after: &BTreeSet<String>| {
            list.extend(before.difference(after).map(|l| format!("{what} is gone: {l}")));
            list.extend(after.difference(before).map(|l| format!("{what} is new: {l}")));
        };
        compare("sentinel", &self.sentinel, &now.sentinel);
        compare("mount", &self.mounts, &now.mounts);
        if test.kind != Kind::Crun {
            compare("device", &self.devices, &now.devices); // crun: see T-54
        }
        compare("link", &self.links, &now.links);
        if self.runtime != now.runtime {
            list.push(format!("the runtime's file changed: {} -> {}", self.runtime, now.runtime));
        }
        if self.canary != now.canary {
            list.push(format!("{CANARY} changed: {} -> {}", self.canary.trim(), now.canary.trim()));
        }
        list.extend(Host::leftovers(test));
        list
    }

    /// What still carries the tag of the case: state, processes, cgroups.
    pub fn leftovers(test: &Test) -> Vec<String> {
        let mut list = Vec::new();
        for name in names(test.state_root()) {
            // What networks are there, beside the containers; who has which address must not be left.
            if name == NETWORKS {
                list.extend(test.claims().iter().map(|claim| format!("claim is left: {claim}")));
            // runc and crun keep caches with a dot in front.
            } else if test.kind == Kind::Oar || !name.starts_with('.') {
                list.push(format!("state is left: {name}"));
            }
        }
        // The kernel may still be tearing a killed one down.
        let end = Instant::now() + TEARDOWN * crate::patience();
        let mut processes = tagged_processes(&test.tag);
        while let Some((pid, _)) = processes.first()
            && ends_before(*pid, end)
        {
            processes = tagged_processes(&test.tag);
        }
        list.extend(processes.iter().map(|(pid, what)| format!("process is left: {pid} {what}")));
        list.extend(tagged_cgroups(&test.tag).iter().map(|c| format!("cgroup is left: {}", c.display())));
        list
    }

    /// Ends what carries the tag, so that a failing case does not disturb the next.
    pub fn clean(test: &Test) {
        let mut killed: Vec<_> =
            tagged_processes(&test.tag).iter().map(|(pid, _)| Pid::from_raw(*pid)).collect();
        killed.retain(|pid| kill(*pid, Signal::SIGKILL).is_ok());
        // All of them in turns: the first process of a pid namespace does not end before the others are reaped. What is
        // no child is not reaped here.
        let end = Instant::now() + TEARDOWN * crate::patience();
        while !killed.is_empty() && Instant::now() < end {
            killed.retain(|pid| waitpid(*pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive));
            thread::sleep(Duration::from_millis(2));
        }
        let mut cgroups = tagged_cgroups(&test.tag);
        cgroups.sort_by_key(|c| std::cmp::Reverse(c.components().count()));
        for dir in cgroups {
            for _ in 0..50 {
                if fs::remove_dir(&dir).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(10)); // A killed process leaves its cgroup a little later.
            }
        }
    }
}

/// Waits until the process has ended. False when the time is over.
fn ends_before(pid: i32, end: Instant) -> bool {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return Instant::now() < end;
    };
    let left = end.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)).unwrap() > 0
}

fn names(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn describe(path: &Path) -> String {
    match path.symlink_metadata() {
        Ok(m) => {
            let content =
                if m.is_file() && m.len() < 4096 { fs::read(path).unwrap_or_default() } else { Vec::new() };
            let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
            format!(
                "{} ino {} mode {:o} owner {}:{} links {} size {} times {times:?} content {:?}",
                path.display(),
                m.ino(),
                m.mode(),
                m.uid(),
                m.gid(),
                m.nlink(),
                m.size(),
                String::from_utf8_lossy(&content)
            )
        }
        Err(e) => format!("{} {e}", path.display()),
    }
}

fn tree(dir: &Path) -> BTreeSet<String> {
    let mut set = BTreeSet::from([describe(dir)]);
    for name in names(dir) {
        let path = dir.join(name);
        match path.symlink_metadata() {
            Ok(m) if m.is_dir() => set.append(&mut tree(&path)),
            _ => drop(set.insert(describe(&path))),
        }
    }
    set
}

/// mountinfo without the two ids in front, which are new after each mount.
fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    text.lines().map(|l| l.splitn(3, ' ').nth(2).unwrap_or_default().to_owned()).collect()
}

fn devices() -> BTreeSet<String> {
    let special =
        ["null", "console", "ptmx", "zero", "full", "tty", "random", "urandom"].map(|d| format!("/dev/{d}"));
    let describe = |path: &String| {
        let m = Path::new(path).symlink_metadata().ok()?;
        Some(format!("{path} rdev {:x} mode {:o} owner {}:{}", m.rdev(), m.mode(), m.uid(), m.gid()))
    };
    names("/dev").into_iter().chain(special.iter().filter_map(describe)).collect()
}

fn tagged_processes(tag: &str) -> Vec<(i32, String)> {
    let has = |path: PathBuf| fs::read(path).is_ok_and(|b| String::from_utf8_lossy(&b).contains(tag));
    let own = std::process::id() as i32;
    let pids = names("/proc").into_iter().filter_map(|n| n.parse::<i32>().ok()).filter(|p| *p != own);
    let tagged = pids
        .filter(|p| ["environ", "cmdline", "cgroup"].iter().any(|f| has(format!("/proc/{p}/{f}").into())));
    // A zombie holds nothing; it is its parent's to reap.
    let alive = tagged.filter(|p| {
        let stat = fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
        !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']) && !stat.is_empty()
    });
    alive
        .map(|p| {
            let line = fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
            (p, String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}

fn tagged_cgroups(tag: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, tag: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let path = entry.path();
                if path.to_string_lossy().contains(tag) {
                    found.push(path.clone());
                }
                walk(&path, tag, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), tag, &mut found);
    found
}
