// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel tells of a cgroup by itself: memory that ran out, limits that were hit, the freezer, pressure.
//!
//! Never writes a limit and never waits: whoever has the descriptors waits on them, then reads here what is new. A file that
//! the host does not have, or that may not be opened, tells nothing; one that there is no room for is an error.
//!
//! | file | woken by | of |
//! |---|---|---|
//! | `cgroup.events`, `pids.events`, `memory.events`, `memory.events.local`, `memory.swap.events` | inotify(7), IN_MODIFY | cgroup2; `pids.events` of v1 |
//! | `memory.oom_control` with `cgroup.event_control` | an eventfd | v1 |
//! | `cpu.pressure`, `io.pressure`, `memory.pressure` | POLLPRI, as armed | cgroup2 |

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::cgroup::Cgroup;
use crate::error::{Error, is_exhausted};
use crate::stats;
use crate::tree;

/// Microseconds of waiting, of at least one task, within the window: 10 %.
const STALL: u64 = 200_000;
/// Microseconds; without CAP_SYS_RESOURCE the kernel takes only multiples of this (Documentation/accounting/psi.rst).
const WINDOW: u64 = 2_000_000;

/// One thing that happened in a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// An allocation found no memory below a limit.
    Oom,
    /// A process was killed for it, here or in a sub-cgroup.
    OomKill,
    Frozen,
    Thawed,
    /// The limit in this file was reached: `memory.high`, `memory.max`, `memory.swap.high`, `memory.swap.max`, `pids.max`.
    Limit(&'static str),
}

/// A key of a file, and what an increase of its value means.
type Key = (&'static str, fn(u64) -> Happened);

const CGROUP_EVENTS: &[Key] =
    &[("frozen", |value| if value == 1 { Happened::Frozen } else { Happened::Thawed })];
const PIDS_EVENTS: &[Key] = &[("max", |_| Happened::Limit("pids.max"))];
const MEMORY_EVENTS: &[Key] = &[("oom", |_| Happened::Oom), ("oom_kill", |_| Happened::OomKill)];
/// The container's own limits, not those that it gives to sub-cgroups.
const MEMORY_EVENTS_LOCAL: &[Key] =
    &[("high", |_| Happened::Limit("memory.high")), ("max", |_| Happened::Limit("memory.max"))];
const SWAP_EVENTS: &[Key] =
    &[("high", |_| Happened::Limit("memory.swap.high")), ("max", |_| Happened::Limit("memory.swap.max"))];
const OOM_CONTROL: &[Key] = &[("oom_kill", |_| Happened::OomKill)];

/// The files of one cgroup, open.
#[derive(Debug)]
pub struct Watch {
    files: Vec<File>,
    oom: Option<EventFd>,
    pressure: Vec<Trigger>,
}

#[derive(Debug)]
struct File {
    file: OwnedFd,
    /// v1's has no notification of its own.
    notifies: bool,
    keys: &'static [Key],
    /// Values at the last look.
    last: Vec<u64>,
}

/// Pressure of one resource that has an armed trigger.
#[derive(Debug)]
struct Trigger {
    resource: &'static str,
    file: OwnedFd,
    /// Microseconds, at the last look.
    total: u64,
}

impl Cgroup {
    /// `fresh`: what was counted before this call is news too. Errors: also when there is no room for one more descriptor.
    pub fn watch(&self, fresh: bool) -> Result<Watch, Error> {
        let mut watch = Watch { files: Vec::new(), oom: None, pressure: Vec::new() };
        if let Some(group) =
            self.trees.first().filter(|tree| tree.unified()).map(|tree| tree.group()).transpose()?.flatten()
        {
            watch.add(group, "cgroup.events", true, CGROUP_EVENTS, fresh)?;
            for resource in ["cpu", "io", "memory"] {
                watch.pressure.extend(there(Trigger::arm(group, resource), group)?.flatten());
            }
        }
        if let Some(group) = self.home("pids").map(|tree| tree.group()).transpose()?.flatten() {
            watch.add(group, "pids.events", true, PIDS_EVENTS, fresh)?;
        }
        if let Some(tree) = self.home("memory")
            && let Some(group) = tree.group()?
        {
            if tree.unified() {
                watch.add(group, "memory.events", true, MEMORY_EVENTS, fresh)?;
                watch.add(group, "memory.events.local", true, MEMORY_EVENTS_LOCAL, fresh)?;
                watch.add(group, "memory.swap.events", true, SWAP_EVENTS, fresh)?;
            } else {
                watch.oom = there(notify_of_oom(group), group)?;
                watch.add(group, "memory.oom_control", false, OOM_CONTROL, fresh)?;
            }
        }
        Ok(watch)
    }
}

impl Watch {
    fn add(
        &mut self,
        group: BorrowedFd<'_>,
        name: &str,
        notifies: bool,
        keys: &'static [Key],
        fresh: bool,
    ) -> Result<(), Error> {
        let file = there(tree::open_file(group, name, OFlag::O_RDONLY), group)?;
        let Some(file) = file else { return Ok(()) };
        let last = match tree::read_open(file.as_fd()) {
            Ok(text) if !fresh => keys.iter().map(|(key, _)| tree::keyed(&text, key).unwrap_or(0)).collect(),
            _ => vec![0; keys.len()],
        };
        self.files.push(File { file, notifies, keys, last });
        Ok(())
    }

    /// Paths for inotify_add_watch(2), as long as this lives.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files
            .iter()
            .filter(|file| file.notifies)
            .map(|file| tree::proc_path(file.file.as_fd()))
            .collect()
    }

    /// Becomes readable when memory runs out; v1 only.
    pub fn oom(&self) -> Option<BorrowedFd<'_>> {
        self.oom.as_ref().map(AsFd::as_fd)
    }

    /// How often memory ran out since the last call, by [`Watch::oom`].
    pub fn ooms(&self) -> u64 {
        // Nothing there is an error of a descriptor that does not block.
        self.oom.as_ref().and_then(|oom| oom.read().ok()).unwrap_or(0)
    }

    /// v1: the memory cgroup is not removed yet.
    pub fn is_there(&self) -> bool {
        self.files.iter().any(|file| !file.notifies && tree::read_open(file.file.as_fd()).is_ok())
    }

    /// For POLLPRI.
    pub fn triggers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pressure.iter().map(|trigger| trigger.file.as_fd())
    }

    /// What is new since the last call, with the number of times. Of a cgroup that is gone nothing.
    pub fn read(&mut self) -> Vec<(Happened, u64)> {
        let mut news = Vec::new();
        for file in &mut self.files {
            if let Ok(text) = tree::read_open(file.file.as_fd()) {
                compare(&text, file.keys, &mut file.last, &mut news);
            }
        }
        news
    }

    /// The resource of a trigger that has woken the caller, and the percentage of the last ten seconds in which a task
    /// waited for it. `certain`: poll said POLLPRI. Without it, some other reader's trigger may have fired, or an outer
    /// epoll has taken the POLLPRI away, which the kernel gives once: then the total decides.
    pub fn pressure(&mut self, index: usize, certain: bool) -> Option<(&'static str, f64)> {
        let trigger = self.pressure.get_mut(index)?;
        let pressure = stats::pressure(&tree::read_open(trigger.file.as_fd()).ok()?)?;
        let grown = pressure.some.total.saturating_sub(trigger.total);
        trigger.total = pressure.some.total;
        (certain || grown >= STALL).then_some((trigger.resource, pressure.some.avg10))
    }
}

impl Trigger {
    /// None: a file that is not as expected.
    fn arm(group: BorrowedFd<'_>, resource: &'static str) -> nix::Result<Option<Trigger>> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        let file = tree::open_file(group, &format!("{resource}.pressure"), flags)?;
        let Some(pressure) = stats::pressure(&tree::read_open(file.as_fd())?) else { return Ok(None) };
        tree::write_open(file.as_fd(), &format!("some {STALL} {WINDOW}"))?;
        Ok(Some(Trigger { resource, file, total: pressure.some.total }))
    }
}

/// Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control".
fn notify_of_oom(group: BorrowedFd<'_>) -> nix::Result<EventFd> {
    let control = tree::open_file(group, "memory.oom_control", OFlag::O_RDONLY)?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    tree::write(group, "cgroup.event_control", &line)?;
    Ok(event)
}

/// None: this host does not have it, or not for this caller.
fn there<T>(result: nix::Result<T>, group: BorrowedFd<'_>) -> Result<Option<T>, Error> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(errno) if is_exhausted(errno) => {
            let path = std::fs::read_link(tree::proc_path(group)).unwrap_or_default();
            Err(Error::io("watch cgroup", path, errno))
        }
        Err(_) => Ok(None),
    }
}

fn compare(text: &str, keys: &[Key], last: &mut [u64], news: &mut Vec<(Happened, u64)>) {
    for ((key, happened), last) in keys.iter().zip(last) {
        let Some(value) = tree::keyed(text, key) else { continue };
        let before = std::mem::replace(last, value);
        match happened(value) {
            it @ (Happened::Frozen | Happened::Thawed) if value != before => news.push((it, 1)),
            Happened::Frozen | Happened::Thawed => {}
            it if value > before => news.push((it, value - before)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(keys: &'static [Key], texts: &[&str]) -> Vec<(Happened, u64)> {
        let (mut last, mut news) = (vec![0; keys.len()], Vec::new());
        texts.iter().for_each(|text| compare(text, keys, &mut last, &mut news));
        news
    }

    #[test]
    fn counters_tell_what_was_added() {
        let before = "low 0\nhigh 0\nmax 31\noom 1\noom_kill 0\noom_group_kill 0\n";
        let after = "low 0\nhigh 0\nmax 90\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(
            changes(MEMORY_EVENTS, &[before, before, after]),
            [(Happened::Oom, 1), (Happened::Oom, 2), (Happened::OomKill, 2)]
        );
        assert_eq!(
            changes(MEMORY_EVENTS_LOCAL, &[before, after]),
            [(Happened::Limit("memory.max"), 31), (Happened::Limit("memory.max"), 59)]
        );
        assert_eq!(
            changes(SWAP_EVENTS, &["high 0\nmax 2\nfail 2\n"]),
            [(Happened::Limit("memory.swap.max"), 2)]
        );
        assert_eq!(changes(PIDS_EVENTS, &["max 0\n", "max 7\n"]), [(Happened::Limit("pids.max"), 7)]);
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n";
        assert_eq!(changes(OOM_CONTROL, &[v1, v1]), [(Happened::OomKill, 1)]);
    }

    #[test]
    fn a_state_tells_its_changes() {
        let (frozen, thawed) = ("populated 1\nfrozen 1\n", "populated 1\nfrozen 0\n");
        let texts = [thawed, frozen, frozen, "", "populated 0\nfrozen 1\n", thawed];
        assert_eq!(changes(CGROUP_EVENTS, &texts), [(Happened::Frozen, 1), (Happened::Thawed, 1)]);
    }

    #[test]
    fn what_is_no_number_is_no_news() {
        assert_eq!(changes(MEMORY_EVENTS, &["oom\noom_kill x\n", "oom_kill -1\n", "\0"]), []);
    }
}
