// SPDX-License-Identifier: MIT OR Apache-2.0
//! One container's cgroup, open: made, filled, watched, killed and removed.
//!
//! Never kills or removes anything outside the directories of its [`Location`], and never moves a process out
//! of them. Reads and writes go through descriptors of those directories ([`crate::tree`]).

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use coracle_plan::Resources;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::fchownat;

use crate::error::Error;
use crate::limits;
use crate::location::{Directory, Location, split};
use crate::tree;
use crate::{host, location};

/// A container's cgroup in all hierarchies. Directories are opened when they are first needed.
#[derive(Debug)]
pub struct Cgroup {
    location: Location,
    pub(crate) trees: Vec<Tree>,
    /// Held from create on until the process is inside, so that nobody takes the cgroup for an empty one.
    claim: Option<Flock<OwnedFd>>,
}

/// Whose a container's cgroup is by now ([`Cgroup::ownership`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// It is as create has left it.
    Ours,
    /// There is none any more.
    Gone,
    /// It was not marked: create did not come so far, or it was made anew by somebody who does not mark.
    Unmarked,
    /// Another container has it since.
    Others,
}

/// The attribute that holds [`Location::mark`]: of a kind that nobody in a user namespace can set, and one for
/// callers who cannot either.
const MARKS: [&CStr; 2] = [c"trusted.coracle.container", c"user.coracle.container"];
/// Processes that a signal is sent to are held by descriptors, of which a caller may have few.
const HELD_AT_ONCE: usize = 64;
/// Ends the mark of a directory that was there before the first container in it, and stays after the last.
const KEPT: &str = " kept";

/// The container's part of one hierarchy.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) directory: Directory,
    parent: OnceLock<OwnedFd>,
    group: OnceLock<OwnedFd>,
}

/// What create made: undone when a later step fails.
#[derive(Default)]
struct Made {
    /// Directories above the containers', as (parent, name).
    parents: Vec<(OwnedFd, CString)>,
    /// The container's own.
    own: Vec<PathBuf>,
}

impl Location {
    /// A handle on the directories as they are; missing ones are no error here.
    pub fn open(&self) -> Cgroup {
        let trees = self.directories().into_iter().map(|directory| Tree {
            directory,
            parent: OnceLock::new(),
            group: OnceLock::new(),
        });
        Cgroup { location: self.clone(), trees: trees.collect(), claim: None }
    }

    /// Makes the directories, enables the controllers that the limits need, writes the limits, and reads back
    /// what decides safety. An empty cgroup that exists is adopted; one with a process in it
    /// ([`Error::Populated`]) or a frozen one ([`Error::Frozen`]) is refused. On an error, what was made is
    /// removed again. Of a unit, systemd has made the directories before, with the container's process in them.
    pub fn create(&self, resources: &Resources) -> Result<Cgroup, Error> {
        limits::check(resources)?;
        let mut cgroup = self.open();
        cgroup.location.adopted.clear();
        cgroup.location.made_parents.clear();
        let mut made = Made::default();
        match cgroup.make(resources, &mut made) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // The first error is the one to tell; an empty cgroup that stays does no harm, and a later
                // delete finds it by the record.
                for tree in cgroup.trees.iter().filter(|tree| made.own.contains(&tree.directory.path)) {
                    if let (Some(parent), Ok((_, name))) = (tree.parent.get(), tree.names()) {
                        tree::rmdir(parent.as_fd(), &name).ok(); // see above
                    }
                }
                for (parent, name) in made.parents.iter().rev() {
                    tree::rmdir(parent.as_fd(), name).ok(); // see above
                }
                Err(error)
            }
        }
    }
}

impl Cgroup {
    fn make(&mut self, resources: &Resources, made: &mut Made) -> Result<(), Error> {
        let mut taken_over = false;
        for (index, tree) in self.trees.iter().enumerate() {
            make_directory(tree, &mut self.location, made)?;
            if index == 0 {
                self.claim = Some(claim(tree)?);
            }
            refuse_in_use(tree, self.location.adopted.contains(&tree.directory.path))?;
            taken_over |= index == 0 && mark(tree, &mut self.location)?;
            limits::prepare(tree)?;
        }
        // Limits that the other one had are still in the files, so these count as not made by us until here.
        limits::apply(&self.trees, resources, &|tree| !self.location.adopted.contains(&tree.directory.path))?;
        self.location.reused = !self.location.adopted.is_empty();
        if taken_over {
            self.location.adopted.clear();
        }
        Ok(())
    }

    /// Where it is; after create with the exact `adopted` and `made_parents`, for the record.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Whose it is by now. A path alone says little: the directory may have been removed and made again, or, once the
    /// container had ended, taken by another one.
    pub fn ownership(&self) -> Result<Ownership, Error> {
        let Some(tree) = self.trees.first() else { return Ok(Ownership::Gone) };
        let Some(group) = tree.group()? else { return Ok(Ownership::Gone) };
        let Some(mark) = &self.location.mark else { return Ok(Ownership::Ours) };
        Ok(match marked(group) {
            Some(found) if found.strip_suffix(KEPT).unwrap_or(&found) == mark => Ownership::Ours,
            Some(_) => Ownership::Others,
            None => Ownership::Unmarked,
        })
    }

    /// True when create made every directory; false when one was there before and stays after remove.
    pub fn created(&self) -> bool {
        self.location.adopted.is_empty()
    }

    /// The container's own directory in each hierarchy, cgroup2 first.
    pub fn directories(&self) -> Vec<Directory> {
        self.location.directories()
    }

    /// The cgroup2 directory, for CLONE_INTO_CGROUP; None on a host without cgroup2, and when it is missing.
    pub fn clone_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified().and_then(|tree| tree.group().ok().flatten())
    }

    /// Moves a process into the v1 directories; does nothing on a host with cgroup2 alone. The first write
    /// costs a grace period of RCU in the kernel, about 10 ms: [`Cgroup::enter`] avoids it.
    pub fn attach(&self, pid: i32) -> Result<(), Error> {
        self.trees.iter().filter(|tree| !tree.unified()).try_for_each(|tree| tree.attach(pid))
    }

    /// For a unit that systemd has made around `pid`: moves the process into the directories that systemd left
    /// out (all of them for a slice, which takes no processes at its start; v1 hierarchies that it does not
    /// manage), and compares where the process is with where it was asked to be.
    pub fn settle(&self, pid: i32) -> Result<(), Error> {
        let memberships =
            || host::read(&format!("/proc/{pid}/cgroup")).map(|text| host::parse_memberships(&text));
        let mounts = host::parse_mountinfo(&host::read("/proc/self/mountinfo")?);
        let is_inside = |tree: &Tree, now: &[host::Membership]| {
            let Directory { mount_point, controllers, path } = &tree.directory;
            let mount = mounts.iter().find(|mount| mount_point.as_os_str() == mount.point.as_str());
            let own = now.iter().find(|one| location::same_hierarchy(&one.controllers, controllers));
            let below = mount.zip(own).and_then(|(mount, own)| host::below_mount(&own.path, &mount.root));
            below.is_some_and(|below| mount_point.join(below) == *path)
        };
        let before = memberships()?;
        let is_scope = self.location.unit.as_ref().is_some_and(|unit| !unit.name.ends_with(".slice"));
        for tree in self.trees.iter().filter(|tree| !is_inside(tree, &before)) {
            // systemd tracks a scope's processes here, so this one it has not taken.
            if is_scope && tree.unified() {
                break;
            }
            tree.attach(pid)?;
        }
        let after = memberships()?;
        match self.trees.iter().find(|tree| !is_inside(tree, &after)) {
            None => Ok(()),
            Some(tree) => Err(Error::Path {
                path: tree.directory.path.display().to_string(),
                rule: "is not where systemd has put the process".to_string(),
            }),
        }
    }

    /// Gives the cgroup2 directory to `uid`, with those of its files that the kernel lists as safe to delegate
    /// (cgroups(7) "Delegation"), and nothing else of it. Does nothing on a host without cgroup2.
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        let Some(tree) = self.unified() else { return Ok(()) };
        let group = tree.existing()?;
        let listed = host::read("/sys/kernel/cgroup/delegate")
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_string());
        let owner = Some(nix::unistd::Uid::from_raw(uid));
        for file in std::iter::once(".").chain(listed.split_whitespace()) {
            match fchownat(group, file, owner, None, AtFlags::AT_SYMLINK_NOFOLLOW) {
                // The list is of all controllers; not each is enabled here.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    let what = format!("give to user {uid}");
                    return Err(Error::io(what, tree.directory.path.join(file), errno));
                }
            }
        }
        Ok(())
    }

    /// Moves the container's process into a new sub-cgroup `name` of the cgroup2 directory, which `owner` gets as
    /// in [`Cgroup::delegate`]. The container's own directory is then free to enable controllers for sub-cgroups.
    pub fn move_to_leaf(&self, name: &str, pid: i32, owner: Option<u32>) -> Result<(), Error> {
        let Some(tree) = self.unified() else { return Ok(()) };
        let leaf = Location {
            unified: Some(tree.directory.path.join(name)),
            unified_mount: Some(tree.directory.mount_point.clone()),
            ..Location::default()
        };
        let leaf = leaf.create(&Resources::default())?;
        if let Some(uid) = owner {
            leaf.delegate(uid)?;
        }
        leaf.trees.iter().try_for_each(|tree| tree.attach(pid))
    }

    /// All processes in it and its sub-cgroups, ascending, as the caller's pid namespace numbers them (those
    /// it cannot see are left out). Empty when the directory is missing.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let Some(tree) = self.trees.first() else { return Ok(Vec::new()) };
        Ok(tree.pids()?.into_iter().filter(|pid| *pid > 0).collect())
    }

    /// Kills all processes in it and its sub-cgroups, also frozen ones. Does not wait: see
    /// [`Cgroup::wait_empty`]. On a v1-only host this signals by pidfd until none is left, at most for five
    /// seconds: [`Error::Busy`] when new ones still come then.
    pub fn kill(&self) -> Result<(), Error> {
        match self.unified() {
            Some(tree) => {
                tree.write_if_there("cgroup.kill", "1")?;
                // SIGKILL reaches a process that a v1 freezer holds only after the thaw.
                self.thaw_v1()
            }
            None => self.kill_v1(),
        }
    }

    fn kill_v1(&self) -> Result<(), Error> {
        let end = Instant::now() + Duration::from_secs(5);
        let mut pause = Pause::new();
        let mut reached = BTreeSet::new();
        loop {
            let before = reached.len();
            self.signal_new(libc::SIGKILL, &mut reached, &|| self.pids())?;
            self.thaw_v1()?;
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                // Those that were there before have their signal, and cannot die now.
                let path = self.path();
                return if reached.len() > before { Err(Error::Busy { path, pids }) } else { Ok(()) };
            }
            pause.take(end);
        }
    }

    /// Sends a signal to all processes in it and its sub-cgroups; returns those that it was sent to. One that is born
    /// meanwhile may be left out.
    pub fn signal(&self, number: i32) -> Result<BTreeSet<i32>, Error> {
        let mut reached = BTreeSet::new();
        self.signal_new(number, &mut reached, &|| self.pids())?;
        Ok(reached)
    }

    /// SIGKILL for what is in its directory of one hierarchy alone: [`Cgroup::kill`] goes by the first one, which a
    /// process may have left.
    pub fn kill_strays(&self) -> Result<(), Error> {
        let list = || {
            let mut pids = Vec::new();
            for tree in &self.trees {
                pids.extend(tree.pids()?.into_iter().filter(|pid| *pid > 0));
            }
            pids.sort_unstable();
            pids.dedup();
            Ok(pids)
        };
        self.signal_new(libc::SIGKILL, &mut BTreeSet::new(), &list)?;
        self.thaw_v1()
    }

    /// To those in the (ascending) list that are not in `reached`, and adds them.
    fn signal_new(
        &self,
        number: i32,
        reached: &mut BTreeSet<i32>,
        list: &dyn Fn() -> Result<Vec<i32>, Error>,
    ) -> Result<(), Error> {
        let new: Vec<i32> = list()?.into_iter().filter(|pid| !reached.contains(pid)).collect();
        let failed = |pid: &i32, coracle_sys::Errno(errno)| {
            Error::io(format!("signal process {pid} of cgroup"), self.path(), Errno::from_raw(errno))
        };
        for some in new.chunks(HELD_AT_ONCE) {
            // Held first, then listed once more: a number that is still there means the process that is held.
            let mut held = Vec::with_capacity(some.len());
            for pid in some {
                match coracle_sys::process::pidfd_open(*pid) {
                    Ok(process) => held.push((*pid, process)),
                    Err(coracle_sys::Errno(libc::ESRCH | libc::EINVAL)) => {}
                    Err(errno) => return Err(failed(pid, errno)),
                }
            }
            let still = list()?;
            for (pid, process) in held.iter().filter(|(pid, _)| still.binary_search(pid).is_ok()) {
                match coracle_sys::process::pidfd_send_signal(process.number(), number) {
                    Ok(()) => drop(reached.insert(*pid)),
                    Err(coracle_sys::Errno(libc::ESRCH)) => {}
                    Err(errno) => return Err(failed(pid, errno)),
                }
            }
        }
        Ok(())
    }

    /// A process is in it or in a sub-cgroup. False when the directory is missing.
    pub fn populated(&self) -> Result<bool, Error> {
        match self.unified() {
            Some(tree) => {
                let events = tree.read_if_there("cgroup.events")?.unwrap_or_default();
                Ok(tree::keyed(&events, "populated") == Some(1))
            }
            None => Ok(!self.pids()?.is_empty()),
        }
    }

    /// The same for a reader in any pid namespace. None: without cgroup2, processes of another one are not shown.
    pub fn populated_by_any(&self) -> Result<Option<bool>, Error> {
        self.unified().map(|_| self.populated()).transpose()
    }

    /// Waits until no process is in it, woken by the kernel (poll(2) on `cgroup.events`); on a v1-only host
    /// it looks again and again. [`Error::Busy`] after `deadline`.
    pub fn wait_empty(&self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        if let Some(tree) = self.unified() {
            return match tree.wait_unpopulated(end)? {
                true => Ok(()),
                false => Err(Error::Busy { path: tree.directory.path.clone(), pids: tree.pids()? }),
            };
        }
        let mut pause = Pause::new();
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Error::Busy { path: self.path(), pids });
            }
            pause.take(end);
        }
    }

    /// Removes the container's directories with all sub-cgroups, then the parents that create made and nobody
    /// uses. Missing ones are fine, so it can be repeated. Adopted directories stay, emptied of sub-cgroups.
    /// Waits up to `deadline` while a directory is in use, then [`Error::Busy`] names it and the processes.
    /// Goes on past an error and returns the first one.
    pub fn remove(&self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        let mut result = Ok(());
        for tree in &self.trees {
            let adopted = self.location.adopted.contains(&tree.directory.path);
            result = result.and(remove_directory(tree, adopted, end));
        }
        for path in self.location.made_parents.iter().rev() {
            result = result.and(self.remove_parent(path));
        }
        result
    }

    /// The container's directories in hierarchies that are not mounted (any more) where they were: nothing can be done
    /// to them, and [`Cgroup::remove`] passes them over. Ask after it.
    pub fn unmounted(&self) -> Vec<&Path> {
        let out_of_sight = |tree: &&Tree| {
            let Directory { mount_point, .. } = &tree.directory;
            tree.parent.get().is_none()
                && !matches!(tree::open_mount(mount_point, tree.unified()), Ok(Some(_)))
        };
        self.trees.iter().filter(out_of_sight).map(|tree| tree.directory.path.as_path()).collect()
    }

    fn remove_parent(&self, path: &Path) -> Result<(), Error> {
        let below = self.trees.iter().filter_map(|tree| {
            let mount = &tree.directory.mount_point;
            split(mount, path).map(|(parent, name)| (tree, parent, name))
        });
        let nearest = below.max_by_key(|(tree, _, _)| tree.directory.mount_point.components().count());
        let Some((tree, parent, name)) = nearest else { return Ok(()) };
        let Some(mount) = tree.mount()? else { return Ok(()) };
        let removed = tree::open_parent(mount.as_fd(), parent)
            .and_then(|parent| tree::rmdir(parent.as_fd(), &c_name(name.as_bytes())?));
        match removed {
            // Still in use by others, or gone with them.
            Ok(()) | Err(Errno::ENOENT | Errno::EBUSY) => Ok(()),
            Err(errno) => Err(Error::io("remove cgroup", path, errno)),
        }
    }

    /// A process of it was killed because a memory limit was hit.
    pub fn oom_killed(&self) -> bool {
        // A hint beside another error: one that cannot be read is no second error.
        let count = |file: &str| {
            let text = self.home("memory").and_then(|tree| tree.read_if_there(file).ok().flatten());
            text.and_then(|text| tree::keyed(&text, "oom_kill")).unwrap_or(0)
        };
        match self.home("memory") {
            Some(tree) if tree.unified() => count("memory.events") > 0,
            Some(_) => count("memory.oom_control") > 0,
            None => false,
        }
    }

    /// What a limit did to the container's processes, for an error whose own words mislead; None when no
    /// limit was hit.
    pub fn hint(&self) -> Option<String> {
        if self.oom_killed() {
            let tree = self.home("memory")?;
            let file = if tree.unified() { "memory.max" } else { "memory.limit_in_bytes" };
            let limit = tree.read_if_there(file).ok().flatten().unwrap_or_default();
            return Some(match limit.trim().parse::<u64>() {
                Ok(bytes) => format!("the memory limit of {bytes} bytes was hit"),
                // The limit that was hit is one above.
                Err(_) => "a memory limit was hit".to_string(),
            });
        }
        let tree = self.home("pids")?;
        let events = tree.read_if_there("pids.events").ok().flatten()?;
        if tree::keyed(&events, "max").unwrap_or(0) == 0 {
            return None;
        }
        let limit = tree.read_if_there("pids.max").ok().flatten().unwrap_or_default();
        Some(match limit.trim().parse::<u64>() {
            Ok(count) => format!("the pids limit of {count} was hit"),
            Err(_) => "a pids limit was hit".to_string(),
        })
    }

    /// The hierarchy in which a controller's files are.
    pub(crate) fn home(&self, controller: &str) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.has(controller)).or(self.unified())
    }

    pub(crate) fn unified(&self) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.unified())
    }

    fn path(&self) -> PathBuf {
        self.trees.first().map(|tree| tree.directory.path.clone()).unwrap_or_default()
    }
}

impl Tree {
    pub(crate) fn unified(&self) -> bool {
        self.directory.controllers.is_empty()
    }

    /// This is the v1 hierarchy of that controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.directory.controllers.iter().any(|name| name == controller)
    }

    pub(crate) fn names(&self) -> Result<(&Path, CString), Error> {
        let Directory { mount_point, path, .. } = &self.directory;
        let broken = || Error::Path {
            path: path.display().to_string(),
            rule: format!("is not below the cgroup mount {}", mount_point.display()),
        };
        let (parent, name) = split(mount_point, path).ok_or_else(broken)?;
        Ok((parent, c_name(name.as_bytes()).map_err(|_| broken())?))
    }

    /// The hierarchy's mount point; None when it is not one (any more).
    fn mount(&self) -> Result<Option<OwnedFd>, Error> {
        match tree::open_mount(&self.directory.mount_point, self.unified()) {
            Err(Error::Io { errno: Errno::ENODEV, .. }) => Ok(None),
            other => other,
        }
    }

    /// The directory above; None when it is missing.
    fn parent(&self) -> Result<Option<BorrowedFd<'_>>, Error> {
        if let Some(parent) = self.parent.get() {
            return Ok(Some(parent.as_fd()));
        }
        let Some(mount) = self.mount()? else { return Ok(None) };
        let above = self.names()?.0;
        let parent = match above.as_os_str().is_empty() {
            true => Ok(mount),
            false => tree::open_parent(mount.as_fd(), above),
        };
        match parent {
            Ok(parent) => Ok(Some(self.parent.get_or_init(|| parent).as_fd())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::io("open the parent of cgroup", &self.directory.path, errno)),
        }
    }

    /// The container's directory; None when it is missing.
    pub(crate) fn group(&self) -> Result<Option<BorrowedFd<'_>>, Error> {
        if let Some(group) = self.group.get() {
            return Ok(Some(group.as_fd()));
        }
        let Some(parent) = self.parent()? else { return Ok(None) };
        match tree::open_group(parent, os_name(&self.names()?.1)) {
            Ok(group) => Ok(Some(self.group.get_or_init(|| group).as_fd())),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(None),
            Err(errno) => Err(Error::io("open cgroup", &self.directory.path, errno)),
        }
    }

    pub(crate) fn existing(&self) -> Result<BorrowedFd<'_>, Error> {
        self.group()?.ok_or_else(|| Error::io("open cgroup", &self.directory.path, Errno::ENOENT))
    }

    pub(crate) fn attach(&self, pid: i32) -> Result<(), Error> {
        tree::write(self.existing()?, "cgroup.procs", &pid.to_string())
            .map_err(|errno| Error::io(format!("move process {pid} to cgroup"), &self.directory.path, errno))
    }

    pub(crate) fn pids(&self) -> Result<Vec<i32>, Error> {
        let Some(group) = self.group()? else { return Ok(Vec::new()) };
        match tree::pids(group) {
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(Vec::new()),
            other => {
                other.map_err(|errno| Error::io("list processes of cgroup", &self.directory.path, errno))
            }
        }
    }

    /// None when the cgroup is gone. A file that is missing in a cgroup that is there reads as empty.
    pub(crate) fn read_if_there(&self, file: &str) -> Result<Option<String>, Error> {
        let Some(group) = self.group()? else { return Ok(None) };
        match tree::read(group, file) {
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(None),
            other => {
                other.map(Some).map_err(|errno| Error::io("read", self.directory.path.join(file), errno))
            }
        }
    }

    /// A cgroup that is gone needs no write.
    pub(crate) fn write_if_there(&self, file: &str, value: &str) -> Result<(), Error> {
        let Some(group) = self.group()? else { return Ok(()) };
        match tree::write(group, file, value) {
            // A removed cgroup's descriptor finds no file either: ask by name whether it is the group that is
            // gone.
            Err(Errno::ENOENT) if !self.still_there()? => Ok(()),
            Err(Errno::ENODEV) => Ok(()),
            other => other.map_err(|errno| Error::io("write", self.directory.path.join(file), errno)),
        }
    }

    fn still_there(&self) -> Result<bool, Error> {
        let Some(parent) = self.parent()? else { return Ok(false) };
        let (_, name) = self.names()?;
        match tree::open_parent(parent, os_name(&name)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
            Err(errno) => Err(Error::io("open cgroup", &self.directory.path, errno)),
        }
    }

    /// True once `cgroup.events` says `populated 0` (or the cgroup is gone), false at `end`. cgroup2 only.
    fn wait_unpopulated(&self, end: Instant) -> Result<bool, Error> {
        self.wait_event(end, &|events| tree::keyed(events, "populated") != Some(1))
    }

    /// True once `cgroup.events` is as `wanted` (or the cgroup is gone), false at `end`. The kernel wakes us; cgroup2
    /// only.
    pub(crate) fn wait_event(&self, end: Instant, wanted: &dyn Fn(&str) -> bool) -> Result<bool, Error> {
        let Some(group) = self.group()? else { return Ok(true) };
        let failed = |errno| Error::io("read", self.directory.path.join("cgroup.events"), errno);
        let events = match tree::open_file(group, "cgroup.events", OFlag::O_RDONLY) {
            Ok(events) => events,
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(true),
            Err(errno) => return Err(failed(errno)),
        };
        loop {
            // The read also arms the poll: the kernel reports changes since the last read of this
            // description.
            match tree::read_open(events.as_fd()) {
                Ok(text) if !wanted(&text) => {}
                Ok(_) | Err(Errno::ENODEV) => return Ok(true),
                Err(errno) => return Err(failed(errno)),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
            let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
}

fn os_name(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

fn c_name(name: &[u8]) -> nix::Result<CString> {
    CString::new(name).map_err(|_| Errno::EINVAL)
}

fn make_directory(tree: &Tree, location: &mut Location, made: &mut Made) -> Result<(), Error> {
    let Directory { mount_point, path, .. } = &tree.directory;
    let failed = |what: &str, errno| Error::io(what, path, errno);
    let (above, _) = tree.names()?;
    let mount = tree::open_mount(mount_point, tree.unified())?
        .ok_or_else(|| Error::io("open cgroup mount", mount_point, Errno::ENOENT))?;
    if above.as_os_str().is_empty() {
        return match make_own(tree, mount, location, made)? {
            true => Ok(()),
            false => Err(failed("make cgroup", Errno::ENOENT)),
        };
    }
    // Another container's remove may take away an empty parent between our open and our mkdir: start over
    // then.
    for _ in 0..8 {
        let parent = match tree::open_parent(mount.as_fd(), above) {
            Ok(parent) => parent,
            Err(Errno::ENOENT) => match make_parents(tree, mount.as_fd(), above, location, made)? {
                Some(parent) => parent,
                None => continue,
            },
            Err(errno) => return Err(failed("open the parent of cgroup", errno)),
        };
        if make_own(tree, parent, location, made)? {
            return Ok(());
        }
    }
    Err(failed("make cgroup", Errno::ENOENT))
}

/// Who made the directory, mkdir tells, whatever a look before has shown. False when `parent` is gone.
fn make_own(tree: &Tree, parent: OwnedFd, location: &mut Location, made: &mut Made) -> Result<bool, Error> {
    let path = &tree.directory.path;
    let (_, name) = tree.names()?;
    let fresh = match mkdirat(&parent, name.as_c_str(), Mode::from_bits_truncate(0o755)) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(false),
        Err(errno) => return Err(Error::io("make cgroup", path, errno)),
    };
    if fresh {
        made.own.push(path.clone());
    }
    let parent = tree.parent.get_or_init(|| parent);
    match tree::open_group(parent.as_fd(), os_name(&name)) {
        Ok(group) => tree.group.get_or_init(|| group),
        Err(errno) => return Err(Error::io("open cgroup", path, errno)),
    };
    if !fresh && location.unit.is_none() {
        location.adopted.push(path.clone());
    }
    Ok(true)
}

/// None when a directory vanished on the way.
fn make_parents(
    tree: &Tree,
    mount: BorrowedFd<'_>,
    above: &Path,
    location: &mut Location,
    made: &mut Made,
) -> Result<Option<OwnedFd>, Error> {
    let mut path = tree.directory.mount_point.clone();
    let failed = |path: &Path, errno| Error::io("make cgroup", path, errno);
    let mut current = tree::open_parent(mount, Path::new("")).map_err(|errno| failed(&path, errno))?;
    for name in above {
        path.push(name);
        let c_name = c_name(name.as_bytes()).map_err(|errno| failed(&path, errno))?;
        match mkdirat(&current, c_name.as_c_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                let parent = current.try_clone().map_err(|_| failed(&path, Errno::EMFILE))?;
                made.parents.push((parent, c_name));
                location.made_parents.push(path.clone());
            }
            Err(Errno::EEXIST) => {}
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(None),
            Err(errno) => return Err(failed(&path, errno)),
        }
        current = match tree::open_parent(current.as_fd(), Path::new(name)) {
            Ok(next) => next,
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(None),
            Err(errno) => return Err(failed(&path, errno)),
        };
    }
    Ok(Some(current))
}

/// One create at a time: between its mkdir and its clone the directory is empty, but not free.
fn claim(tree: &Tree) -> Result<Flock<OwnedFd>, Error> {
    let path = &tree.directory.path;
    let group =
        tree.existing()?.try_clone_to_owned().map_err(|_| Error::io("open cgroup", path, Errno::EMFILE))?;
    Flock::lock(group, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Error::Busy { path: path.clone(), pids: Vec::new() },
        errno => Error::io("lock cgroup", path, errno),
    })
}

/// Marks the directory as this container's. True when it was another container's, which had made it and has ended: then
/// it goes with this one. The kernel may know no such attributes here: later verbs have to trust the path then.
fn mark(tree: &Tree, location: &mut Location) -> Result<bool, Error> {
    let Some(mark) = &location.mark else { return Ok(false) };
    let group = tree.existing()?;
    let before = marked(group);
    let adopted = location.adopted.contains(&tree.directory.path);
    let taken_over = adopted && before.is_some_and(|before| !before.ends_with(KEPT));
    let value = if adopted && !taken_over { format!("{mark}{KEPT}") } else { mark.clone() };
    let set = |name: &CStr| coracle_sys::fd::set_attribute(group.as_raw_fd(), name, value.as_bytes()).is_ok();
    if !MARKS.iter().any(|name| set(name)) {
        location.mark = None;
    }
    Ok(taken_over)
}

/// What a directory is marked with.
fn marked(group: BorrowedFd<'_>) -> Option<String> {
    let mut value = [0; 512];
    for name in MARKS {
        match coracle_sys::fd::attribute(group.as_raw_fd(), name, &mut value) {
            Ok(length) => {
                let value = value.get(..length).unwrap_or_default();
                return Some(String::from_utf8_lossy(value).into_owned());
            }
            // Longer than any of ours.
            Err(coracle_sys::Errno(libc::ERANGE)) => return Some(String::new()),
            // Nobody's attribute, or one that this caller may not see.
            Err(_) => {}
        }
    }
    None
}

/// A cgroup that was there before (`adopted`) may be used while nobody is in it (R-32 of the project's rules). In one
/// that is frozen, by itself or by one above it, nothing would ever run, and a thread that enters it could not leave.
fn refuse_in_use(tree: &Tree, adopted: bool) -> Result<(), Error> {
    let path = tree.directory.path.clone();
    let group = tree.existing()?;
    let failed = |errno| Error::io("look into cgroup", &tree.directory.path, errno);
    if adopted && let Some(pid) = tree::pids(group).map_err(failed)?.first() {
        return Err(Error::Populated { path, pid: *pid });
    }
    let frozen = if tree.unified() {
        let events = tree::read(group, "cgroup.events").map_err(failed)?;
        let asked = || tree::read(group, "cgroup.freeze").map_err(failed);
        tree::keyed(&events, "frozen") == Some(1) || adopted && asked()?.trim() == "1"
    } else if tree.has("freezer") {
        tree::read(group, "freezer.state").map_err(failed)?.trim() != "THAWED"
    } else {
        false
    };
    if frozen { Err(Error::Frozen { path }) } else { Ok(()) }
}

fn remove_directory(tree: &Tree, adopted: bool, end: Instant) -> Result<(), Error> {
    let path = &tree.directory.path;
    let failed = |errno| Error::io("remove cgroup", path, errno);
    let (_, name) = tree.names()?;
    let Some(parent) = tree.parent()? else { return Ok(()) };
    let mut pause = Pause::new();
    let mut first = true;
    loop {
        if !adopted {
            match tree::rmdir(parent, &name) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        // Opened by name each time: the descriptor kept in `tree` may be of one that is gone.
        let group = match tree::open_group(parent, os_name(&name)) {
            Ok(group) => group,
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        match tree::remove_descendants(group.as_fd()) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => {}
            Err(errno) => return Err(failed(errno)),
        }
        if adopted && !tree::has_children(group.as_fd()).map_err(failed)? {
            return Ok(());
        }
        if std::mem::take(&mut first) && !adopted {
            // Sub-cgroups were the usual reason: without them it may go at once.
            continue;
        }
        if Instant::now() >= end {
            let pids = tree::pids(group.as_fd()).unwrap_or_default();
            return Err(Error::Busy { path: path.clone(), pids });
        }
        // The kernel says when the last process has left; what comes after that (and all of v1) has no event.
        if !tree.unified() || tree.wait_unpopulated(end)? {
            pause.take(end);
        }
    }
}

/// Growing pauses where the kernel has no event to wait for.
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) fn new() -> Pause {
        Pause(Duration::from_micros(200))
    }

    pub(crate) fn take(&mut self, end: Instant) {
        std::thread::sleep(self.0.min(end.saturating_duration_since(Instant::now())));
        self.0 = (self.0 * 2).min(Duration::from_millis(20));
    }
}
