// SPDX-License-Identifier: MIT OR Apache-2.0
//! events --follow: what happens to containers, as it happens; docs/events.md has the lines.
//!
//! One epoll instance, no thread. Changes nothing, asks no init anything, and takes no lock but in the case that
//! `Followed::began` describes: a follower that is slow, or killed, is nobody's concern but its own. It is woken by the state
//! directories (inotify), the cgroups ([`coracle_cgroup::Watch`]) and the processes (pidfd); what it tells are differences of
//! the facts that it reads then, so that what it was too slow for is added up, as long as the container is there.
//!
//! Three things come a little after what announces them: the kill after v1's notice that memory ran out; the second change of
//! a cgroup2 file within the 10 ms that the kernel keeps between two notices; what a command that holds the lock is about to
//! leave. For these it looks again, at growing distances, for a fifth of a second at most ([`LOOKS`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use coracle_cgroup::{Happened, Watch, is_exhausted};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::error::{Code, Error, Result};
use crate::foreground::ExitStatus;
use crate::record::{Directory, Process, START_SOCKET};
use crate::wait::{self, Ending};
use crate::{Id, Runtime, cgroup, exec, status, time};

/// How often to look again: after 1, 2, then every 4 ms.
const LOOKS: u32 = 50;
/// After a notice of cgroup2: 1, 2, 4, 4 ms cover its 10.
const FEW_LOOKS: u32 = 4;

/// One thing that happened to a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: String,
    /// When it was read, not more than milliseconds after it happened if the caller is not slow.
    pub time: SystemTime,
    pub what: What,
}

/// Counts are of times since the last event of that kind.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// Its process waits for start, or with run goes on by itself.
    Created {
        pid: i32,
    },
    /// Its command was executed.
    Started {
        pid: i32,
    },
    /// One more process, by exec.
    Exec {
        pid: i32,
    },
    /// Memory ran out.
    Oom {
        count: u64,
    },
    /// Processes were killed for it.
    OomKill {
        count: u64,
    },
    Frozen,
    Thawed,
    /// Tasks had to wait for `cpu`, `io` or `memory` for 10 % of two seconds. The average is in percent of ten seconds.
    Pressure {
        resource: &'static str,
        avg10: f64,
    },
    /// The limit in this file of the cgroup was reached.
    Limit {
        resource: &'static str,
        count: u64,
    },
    /// Its first process has ended. None: nobody tells how (see [`Runtime::wait`]).
    Exited {
        status: Option<ExitStatus>,
    },
    /// Nothing of it is left.
    Deleted,
}

impl What {
    fn name(&self) -> &'static str {
        match self {
            What::Created { .. } => "created",
            What::Started { .. } => "started",
            What::Exec { .. } => "exec",
            What::Oom { .. } => "oom",
            What::OomKill { .. } => "oom_kill",
            What::Frozen => "frozen",
            What::Thawed => "thawed",
            What::Pressure { .. } => "pressure",
            What::Limit { .. } => "limit",
            What::Exited { .. } => "exited",
            What::Deleted => "deleted",
        }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.what.name())?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("time", &time::rfc3339(self.time))?;
        match &self.what {
            What::Created { pid } | What::Started { pid } | What::Exec { pid } => {
                map.serialize_entry("pid", pid)?
            }
            What::Oom { count } | What::OomKill { count } => map.serialize_entry("count", count)?,
            What::Pressure { resource, avg10 } => {
                map.serialize_entry("resource", resource)?;
                map.serialize_entry("avg10", avg10)?;
            }
            What::Limit { resource, count } => {
                map.serialize_entry("resource", resource)?;
                map.serialize_entry("count", count)?;
            }
            What::Exited { status: Some(ExitStatus::Signal(signal)) } => {
                map.serialize_entry("signal", signal)?
            }
            What::Exited { status: Some(status) } => map.serialize_entry("code", &status.code())?,
            What::Exited { status: None } => map.serialize_entry("status", "unknown")?,
            What::Frozen | What::Thawed | What::Deleted => {}
        }
        map.end()
    }
}

/// What happens, from the moment when this was made. To be put into the caller's own loop by its descriptor, or waited for.
#[derive(Debug)]
pub struct Follow {
    runtime: Runtime,
    only: Option<Id>,
    epoll: Epoll,
    inotify: Inotify,
    timer: TimerFd,
    /// Looks taken since the last new reason for them.
    looked: u32,
    watches: HashMap<WatchDescriptor, Watched>,
    containers: BTreeMap<u64, Followed>,
    /// Of the next container: an id may come again.
    serial: u64,
    pending: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy)]
enum Watched {
    Root,
    Directory(u64),
    Cgroup(u64),
}

#[derive(Debug)]
struct Followed {
    id: Id,
    directory: Directory,
    watches: Vec<WatchDescriptor>,
    process: Option<Process>,
    pidfd: Option<OwnedFd>,
    cgroup: Option<Watch>,
    started: bool,
    /// The process has, and it is not told yet.
    ended: bool,
    exited: bool,
    /// The directory is gone.
    gone: bool,
    exit: Option<ExitStatus>,
    /// Which is the case only after the command was executed.
    told_by_parent: bool,
    /// Looks at the cgroup that are left.
    looks: u32,
    /// Looks that are left for what is to be known of its end; None before that.
    patience: Option<u32>,
}

/// Which descriptor is ready: two below, then the container's serial number and one of these.
const INOTIFY: u64 = 0;
const TIMER: u64 = 1;
const PIDFD: u64 = 0;
const OOM: u64 = 1;
const TRIGGERS: u64 = 2;
const KINDS: u64 = 8;

impl Runtime {
    /// Follow one container until its process has ended, or all of them, with those that are yet to come. What was before is
    /// not told: whoever needs it asks after this call, and misses nothing.
    ///
    /// It takes up to a dozen descriptors for each container.
    ///
    /// Errors: [`Code::NotFound`]; [`Code::State`] with `container not running` for one that has ended.
    pub fn follow(&self, id: Option<&Id>) -> Result<Follow> {
        if id.is_none() {
            self.make_root()?;
        }
        let failed = |errno| Error::system("prepare to follow containers", errno);
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let mut follow = Follow {
            runtime: Runtime { root: self.root.clone(), interruptible: self.interruptible },
            only: id.cloned(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?,
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?,
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(failed)?,
            looked: 0,
            watches: HashMap::new(),
            containers: BTreeMap::new(),
            serial: 1,
            pending: VecDeque::new(),
        };
        let readable = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
        follow.epoll.add(&follow.inotify, readable(INOTIFY)).map_err(failed)?;
        follow.epoll.add(&follow.timer, readable(TIMER)).map_err(failed)?;
        // First the watch, then the look.
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        match follow.inotify.add_watch(&self.root, flags) {
            Ok(watch) => follow.watches.insert(watch, Watched::Root),
            Err(Errno::ENOENT) if id.is_some() => None,
            Err(errno) => return Err(Error::system(format!("watch {}", self.root.display()), errno)),
        };
        match id {
            Some(id) => {
                // For its error, if the record cannot be read.
                Directory::open(&self.root, id)?.read()?;
                follow.attach(id, false)?;
                if follow.containers.values().all(|one| one.exited) {
                    return Err(Error::new(Code::State, "container not running"));
                }
            }
            None => follow.attach_all(false)?,
        }
        follow.pending.clear();
        Ok(follow)
    }
}

impl AsFd for Follow {
    /// Readable when [`Follow::next`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Follow {
    /// The next event; never waits. None: for now, there is none. Errors: also when there is no room for what it needs to see
    /// a container; it does not go on blind.
    #[allow(clippy::should_implement_trait)] // an iterator would end at the first None
    pub fn next(&mut self) -> Result<Option<Event>> {
        while self.pending.is_empty() {
            let mut ready = [EpollEvent::empty(); 64];
            let count = match self.epoll.wait(&mut ready, EpollTimeout::ZERO) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::system("wait for events", errno)),
            };
            let mut ready: Vec<_> = ready.iter().take(count).collect();
            // What was written comes before what ended because of it or after it: directories and cgroups first, processes
            // last.
            ready.sort_by_key(|event| match event.data() {
                INOTIFY => 0,
                data if data >= KINDS && data % KINDS == PIDFD => 2,
                _ => 1,
            });
            for event in ready {
                self.handle(event.data(), event.events())?;
            }
        }
        Ok(self.pending.pop_front())
    }

    /// The one container that is followed has ended, and all of it was told.
    pub fn is_over(&self) -> bool {
        self.only.is_some() && self.pending.is_empty() && self.containers.is_empty()
    }

    fn handle(&mut self, data: u64, flags: EpollFlags) -> Result<()> {
        match data {
            INOTIFY => return self.read_inotify(),
            TIMER => return self.look_again(),
            _ => {}
        }
        let serial = data / KINDS;
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        match data % KINDS {
            PIDFD => {
                one.ended = true;
                self.settle(serial)?;
            }
            OOM => {
                let count = one.cgroup.as_ref().map_or(0, Watch::ooms);
                // The kernel also signals it when the cgroup is removed, and then nothing can be read any more.
                if count > 0 && one.cgroup.as_ref().is_some_and(Watch::is_there) {
                    let id = one.id.clone();
                    self.tell(&id, What::Oom { count });
                    self.read_cgroup(serial);
                    self.expect(serial, LOOKS)?;
                }
            }
            trigger => {
                let index = (trigger - TRIGGERS) as usize;
                let certain = flags.contains(EpollFlags::EPOLLPRI);
                let news = one.cgroup.as_mut().and_then(|cgroup| cgroup.pressure(index, certain));
                if let Some((resource, avg10)) = news {
                    let id = one.id.clone();
                    self.tell(&id, What::Pressure { resource, avg10 });
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, id: &Id, what: What) {
        self.pending.push_back(Event { id: id.as_str().into(), time: SystemTime::now(), what });
    }

    fn read_inotify(&mut self) -> Result<()> {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::system("read inotify events", errno)),
            };
            for event in events {
                self.changed(&event)?;
            }
        }
    }

    fn changed(&mut self, event: &InotifyEvent) -> Result<()> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return self.look_everywhere();
        }
        let Some(watched) = self.watches.get(&event.wd).copied() else { return Ok(()) };
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watches.remove(&event.wd);
            if matches!(watched, Watched::Root) {
                let text = format!("{} was removed", self.runtime.root.display());
                return Err(Error::new(Code::System, text));
            }
            return Ok(());
        }
        let name = event.name.as_ref().and_then(|name| name.to_str()).unwrap_or_default();
        match watched {
            Watched::Root => {
                let Ok(id) = Id::new(name) else { return Ok(()) };
                if self.only.as_ref().is_some_and(|only| *only != id) {
                    return Ok(());
                }
                match event.mask.contains(AddWatchFlags::IN_DELETE) {
                    true => self.drop_removed(),
                    false if self.only.is_some() => Ok(()),
                    false => self.attach(&id, true),
                }
            }
            Watched::Directory(serial) => self.directory_changed(serial, name, event.mask),
            Watched::Cgroup(serial) => {
                self.read_cgroup(serial);
                self.expect(serial, FEW_LOOKS)
            }
        }
    }

    fn directory_changed(&mut self, serial: u64, name: &str, mask: AddWatchFlags) -> Result<()> {
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        let written = mask.intersects(AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE);
        if let Some(pid) = exec::parse_name(name) {
            let id = one.id.clone();
            if written {
                self.look(serial, true)?;
                self.tell(&id, What::Exec { pid });
            }
        } else if let Some(exit) = wait::parse_name(name) {
            one.exit = Some(exit);
            one.told_by_parent = true;
            self.settle(serial)?;
        } else if name.is_empty() || name == START_SOCKET || mask.contains(AddWatchFlags::IN_MOVED_TO) {
            self.look(serial, true)?;
            self.settle(serial)?;
        }
        Ok(())
    }

    /// Events were lost, because nobody has read them for too long. The facts are all there.
    fn look_everywhere(&mut self) -> Result<()> {
        self.drop_removed()?;
        let serials: Vec<u64> = self.containers.keys().copied().collect();
        for serial in serials {
            self.look(serial, true)?;
            self.read_cgroup(serial);
            self.settle(serial)?;
        }
        match self.only.clone() {
            Some(_) => Ok(()),
            None => self.attach_all(true),
        }
    }

    fn attach_all(&mut self, fresh: bool) -> Result<()> {
        let failed =
            |error: &std::io::Error| Error::io(format!("read {}", self.runtime.root.display()), error);
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.runtime.root).map_err(|error| failed(&error))? {
            let name = entry.map_err(|error| failed(&error))?.file_name();
            ids.extend(name.to_str().and_then(|name| Id::new(name).ok()));
        }
        ids.iter().try_for_each(|id| self.attach(id, fresh))
    }

    /// `fresh`: all that happened to it so far is news.
    fn attach(&mut self, id: &Id, fresh: bool) -> Result<()> {
        self.drop_removed()?;
        if self.containers.values().any(|one| one.id == *id && !one.gone) {
            return Ok(());
        }
        let directory = match Directory::open(&self.runtime.root, id) {
            // Gone again, or no directory.
            Err(error) if fresh || self.only.is_none() => return room_left(error, id),
            other => other?,
        };
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CLOSE_NOWRITE
            | AddWatchFlags::IN_ONLYDIR;
        let watch = match self.inotify.add_watch(&directory.member(""), flags) {
            Ok(watch) => watch,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(Error::system("watch a container's directory", errno)),
        };
        let serial = self.serial;
        self.serial += 1;
        self.watches.insert(watch, Watched::Directory(serial));
        let one = Followed {
            id: id.clone(),
            directory,
            watches: vec![watch],
            process: None,
            pidfd: None,
            cgroup: None,
            started: false,
            ended: false,
            exited: false,
            gone: false,
            exit: None,
            told_by_parent: false,
            looks: 0,
            patience: None,
        };
        self.containers.insert(serial, one);
        self.look(serial, fresh)?;
        Ok(())
    }

    /// What the directory says that is not known yet: the process, and whether it has executed.
    fn look(&mut self, serial: u64, fresh: bool) -> Result<()> {
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        let id = one.id.clone();
        if one.process.is_none() {
            // A record that cannot be read is nobody's news; `list` shows it.
            let record = match one.directory.read() {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(()),
                Err(error) => return room_left(error, &id),
            };
            let Some(process) = record.process else { return Ok(()) };
            one.process = Some(process);
            let this_boot = record.boot_id == crate::boot_id()?;
            one.pidfd = if this_boot { wait::hold(&process)? } else { None };
            if !fresh && one.pidfd.as_ref().is_some_and(has_ended) {
                // Its end was before; that nobody has reaped it yet is no news.
                one.pidfd = None;
            }
            if one.pidfd.is_some() {
                one.cgroup = match record.cgroup.open().watch(fresh && !record.cgroup.reused) {
                    Err(error) if error.is_exhausted() => return Err(blind(&id, cgroup::error(error))),
                    other => other.ok(),
                };
            }
            self.tell(&id, What::Created { pid: process.pid });
            self.add_watches(serial)?;
            let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
            one.ended = one.pidfd.is_none();
            if one.ended && !fresh {
                one.exited = true;
            }
            self.read_cgroup(serial);
        }
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        if let Some(process) = one.process
            && !one.started
            && !one.ended
            && has_executed(&process).map_err(|error| blind(&id, error))? == Some(true)
        {
            one.started = true;
            self.tell(&id, What::Started { pid: process.pid });
        }
        if fresh { self.settle(serial) } else { Ok(()) }
    }

    /// The kernel tells of the process and its cgroup from here on.
    fn add_watches(&mut self, serial: u64) -> Result<()> {
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        let failed = |errno| Error::system("watch a container", errno);
        if let Some(cgroup) = &one.cgroup {
            for path in cgroup.paths() {
                let watch = match self.inotify.add_watch(&path, AddWatchFlags::IN_MODIFY) {
                    Ok(watch) => watch,
                    Err(errno) if is_exhausted(errno) => return Err(blind(&one.id, failed(errno))),
                    // A cgroup that is being removed has no news.
                    Err(_) => continue,
                };
                one.watches.push(watch);
                self.watches.insert(watch, Watched::Cgroup(serial));
            }
            if let Some(oom) = cgroup.oom() {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, serial * KINDS + OOM);
                self.epoll.add(oom, event).map_err(failed)?;
            }
            for (index, trigger) in cgroup.triggers().enumerate() {
                // Edges, and EPOLLIN, which is always there: an outer epoll or poll takes the POLLPRI of a trigger away when it
                // looks whether this one is ready, and what is left then is that it was woken.
                let flags = EpollFlags::EPOLLPRI | EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
                let event = EpollEvent::new(flags, serial * KINDS + TRIGGERS + index as u64);
                self.epoll.add(trigger, event).map_err(failed)?;
            }
        }
        if let Some(pidfd) = &one.pidfd {
            // Edges: its end, and then (Linux 6.9) that it is reaped.
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, serial * KINDS + PIDFD);
            self.epoll.add(pidfd, event).map_err(failed)?;
        }
        Ok(())
    }

    fn read_cgroup(&mut self, serial: u64) {
        let Some(one) = self.containers.get_mut(&serial) else { return };
        let id = one.id.clone();
        let news = one.cgroup.as_mut().map(Watch::read).unwrap_or_default();
        // v1's notice that memory ran out is another descriptor, and comes before the kill.
        let killed = news.iter().any(|(happened, _)| *happened == Happened::OomKill);
        let notices = one.cgroup.as_ref().filter(|_| killed).map_or(0, Watch::ooms);
        if notices > 0 && one.cgroup.as_ref().is_some_and(Watch::is_there) {
            self.tell(&id, What::Oom { count: notices });
        }
        for (happened, count) in news {
            let what = match happened {
                Happened::Oom => What::Oom { count },
                Happened::OomKill => What::OomKill { count },
                Happened::Frozen => What::Frozen,
                Happened::Thawed => What::Thawed,
                Happened::Limit(resource) => What::Limit { resource, count },
            };
            self.tell(&id, what);
        }
    }

    /// Tell of the end of a process, once everything about it is known that can be known.
    fn settle(&mut self, serial: u64) -> Result<()> {
        self.read_ended(serial)?;
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        let over = one.exited || one.process.is_none();
        if one.gone && over {
            let (id, told) = (one.id.clone(), one.process.is_some());
            self.remove(serial);
            if told && self.only.is_none() {
                self.tell(&id, What::Deleted);
            }
        } else if one.exited && self.only.is_some() {
            self.remove(serial);
        }
        Ok(())
    }

    fn read_ended(&mut self, serial: u64) -> Result<()> {
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        let (Some(process), true, false) = (one.process, one.ended, one.exited) else { return Ok(()) };
        let patient = *one.patience.get_or_insert(LOOKS) > 0 && !one.gone;
        // Before the status: it may be reaped in between.
        let executed = if one.started { Some(true) } else { has_executed(&process)? };
        if one.exit.is_none()
            && let Some(pidfd) = &one.pidfd
        {
            match wait::ending(pidfd, &process)? {
                Ending::Known(exit) => one.exit = Some(exit),
                Ending::Later => return Ok(()),
                Ending::Unknown => {}
            }
        }
        if one.exit.is_none() {
            one.exit = wait::kept(&one.directory)?;
            one.told_by_parent = one.exit.is_some();
        }
        if one.exit.is_none() && patient {
            return self.arm();
        }
        let executed = match executed {
            Some(executed) => executed,
            None => match one.began(patient)? {
                Some(executed) => executed,
                None => return self.arm(),
            },
        };
        let (id, status) = (one.id.clone(), one.exit);
        self.read_cgroup(serial);
        let Some(one) = self.containers.get_mut(&serial) else { return Ok(()) };
        let begins = executed && !std::mem::replace(&mut one.started, true);
        one.exited = true;
        one.looks = 0;
        one.cgroup = None;
        one.pidfd = None;
        self.unwatch(serial, false);
        if begins {
            self.tell(&id, What::Started { pid: process.pid });
        }
        self.tell(&id, What::Exited { status });
        Ok(())
    }

    /// Containers whose directory is there no more.
    fn drop_removed(&mut self) -> Result<()> {
        let mut removed = Vec::new();
        for (serial, one) in &mut self.containers {
            if !one.gone && one.directory.is_removed()? {
                one.gone = true;
                // delete has waited for it.
                one.ended |= one.process.is_some() && one.pidfd.as_ref().is_none_or(has_ended);
                removed.push(*serial);
            }
        }
        removed.into_iter().try_for_each(|serial| self.settle(serial))
    }

    fn remove(&mut self, serial: u64) {
        self.unwatch(serial, true);
        self.containers.remove(&serial);
    }

    /// The cgroup's files, or everything.
    fn unwatch(&mut self, serial: u64, everything: bool) {
        let Some(one) = self.containers.get_mut(&serial) else { return };
        for watch in std::mem::take(&mut one.watches) {
            if !everything && matches!(self.watches.get(&watch), Some(Watched::Directory(_))) {
                one.watches.push(watch);
                continue;
            }
            self.watches.remove(&watch);
            self.inotify.rm_watch(watch).ok(); // it is gone with what it watched
        }
    }

    /// Something is likely to come that nothing announces.
    fn expect(&mut self, serial: u64, looks: u32) -> Result<()> {
        if let Some(one) = self.containers.get_mut(&serial) {
            one.looks = one.looks.max(looks);
        }
        self.looked = 0;
        self.arm()
    }

    fn arm(&mut self) -> Result<()> {
        let distance = Duration::from_millis(1 << self.looked.min(2));
        let once = Expiration::OneShot(TimeSpec::from_duration(distance));
        self.timer.set(once, TimerSetTimeFlags::empty()).map_err(|errno| Error::system("set a timer", errno))
    }

    fn look_again(&mut self) -> Result<()> {
        match self.timer.wait() {
            Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("read a timer", errno)),
        }
        self.looked += 1;
        let serials: Vec<u64> = self.containers.keys().copied().collect();
        for serial in serials {
            let Some(one) = self.containers.get_mut(&serial) else { continue };
            if one.looks > 0 {
                one.looks -= 1;
                if one.looks > 0 {
                    self.arm()?;
                }
                self.read_cgroup(serial);
            }
            let Some(one) = self.containers.get_mut(&serial) else { continue };
            if let Some(patience) = one.patience.as_mut().filter(|_| !one.exited) {
                *patience = patience.saturating_sub(1);
                self.settle(serial)?;
            }
        }
        Ok(())
    }
}

impl Followed {
    /// Had a process executed its command that is reaped by now? None: a command that may still take it all back, as a run
    /// whose execve(2) has failed, is at work.
    fn began(&self, patient: bool) -> Result<Option<bool>> {
        if self.told_by_parent || self.gone {
            return Ok(Some(self.told_by_parent));
        }
        if patient && self.directory.is_locked()? {
            return Ok(None);
        }
        // All taken back, or deleted before anybody could see that it had been more.
        if self.directory.is_removed()? {
            return Ok(Some(false));
        }
        Ok(Some(self.directory.member(START_SOCKET).symlink_metadata().is_err()))
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    coracle_sys::fd::wait_readable(pidfd.as_raw_fd(), Some(0)) == Ok(true)
}

/// Is it still init? Of a process that is not reaped; execve(2) has given it another name.
fn has_executed(process: &Process) -> Result<Option<bool>> {
    let path = format!("/proc/{}/comm", process.pid);
    let name = match coracle_sys::fd::read_file(&path) {
        Ok(name) => name,
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(errno) if is_exhausted(errno) => return Err(Error::io(format!("read {path}"), &error)),
            _ => return Ok(None),
        },
    };
    Ok(match status::stat(process.pid)? {
        Some((_, start_time)) if start_time == process.start_time => {
            Some(name.trim_ascii_end() != status::INIT_NAME.as_bytes())
        }
        _ => None,
    })
}

/// What could not be opened is not there, or nobody's news; unless nothing can be opened any more.
fn room_left(error: Error, id: &Id) -> Result<()> {
    match EventFd::new() {
        Err(errno) if is_exhausted(errno) => Err(blind(id, error)),
        _ => Ok(()),
    }
}

/// A follower that would miss something ends.
fn blind(id: &Id, error: Error) -> Error {
    error
        .during(format!("cannot follow container \"{id}\""))
        .hint("each container takes up to a dozen descriptors (ulimit -n), and inotify watches (fs.inotify.max_user_watches)")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn lines() {
        let line = |what| {
            let event = Event { id: "web".into(), time: UNIX_EPOCH + Duration::new(1, 2), what };
            serde_json::to_string(&event).unwrap()
        };
        let head =
            |name: &str| format!(r#"{{"type":"{name}","id":"web","time":"1970-01-01T00:00:01.000000002Z""#);
        let exited = |status| What::Exited { status };
        for (what, name, facts) in [
            (What::Created { pid: 7 }, "created", r#","pid":7"#),
            (What::Started { pid: 7 }, "started", r#","pid":7"#),
            (What::Exec { pid: 8 }, "exec", r#","pid":8"#),
            (What::Oom { count: 2 }, "oom", r#","count":2"#),
            (What::OomKill { count: 1 }, "oom_kill", r#","count":1"#),
            (What::Frozen, "frozen", ""),
            (What::Thawed, "thawed", ""),
            (What::Pressure { resource: "io", avg10: 12.5 }, "pressure", r#","resource":"io","avg10":12.5"#),
            (What::Limit { resource: "pids.max", count: 3 }, "limit", r#","resource":"pids.max","count":3"#),
            (exited(Some(ExitStatus::Code(0))), "exited", r#","code":0"#),
            (exited(Some(ExitStatus::Signal(9))), "exited", r#","signal":9"#),
            (exited(None), "exited", r#","status":"unknown""#),
            (What::Deleted, "deleted", ""),
        ] {
            assert_eq!(line(what), format!("{}{facts}}}", head(name)));
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_followed() {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::open(&root.path().join("none")).unwrap();
        let id = Id::new("web").unwrap();
        assert_eq!(runtime.follow(Some(&id)).unwrap_err().code, Code::NotFound);
        assert_eq!(runtime.wait(&id).unwrap_err().code, Code::NotFound);
        assert!(!root.path().join("none").exists());

        let mut all = runtime.follow(None).unwrap();
        assert_eq!(runtime.follow(Some(&id)).unwrap_err().code, Code::NotFound);
        assert_eq!(all.next(), Ok(None));
        assert!(!all.is_over());
        // What comes and goes without a record is no container.
        std::fs::create_dir(root.path().join("none/web")).unwrap();
        assert_eq!(all.next(), Ok(None));
        std::fs::remove_dir(root.path().join("none/web")).unwrap();
        assert_eq!(all.next(), Ok(None));
        assert!(all.containers.is_empty());
    }
}
