// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container's limits into its cgroup: at create, and again at an update.
//!
//! Never makes or removes a directory and never converts: values come from [`crate::convert`] and go into files of
//! the directories that [`crate::Cgroup`] holds open; what decides safety is read back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use coracle_plan::Resources;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::cgroup::{Cgroup, Tree};
use crate::convert::{self, Kept, Missing, Now, Write};
use crate::error::Error;
use crate::{devices, explain, kept, memory, tree, v1};

pub(crate) use crate::v1::prepare;

/// Contradictions that need no look at the kernel.
pub(crate) fn check(resources: &Resources) -> Result<(), Error> {
    convert::check(resources, &Now::default())
}

/// Writes all limits. `fresh` tells whether this tree's directory was just made: what a new cgroup has anyway is not
/// written there.
pub(crate) fn apply(
    trees: &[Tree],
    resources: &Resources,
    fresh: &dyn Fn(&Tree) -> bool,
) -> Result<(), Error> {
    let parts = parts(trees, resources, &Now::default(), fresh)?;
    parts.iter().try_for_each(|part| part.write(None))?;
    devices::apply(trees, &resources.devices, resources.devices_optional)?;
    parts.iter().try_for_each(|part| part.write_unified(None))
}

/// What an update has changed, as it was before.
#[derive(Debug)]
pub struct Changed {
    undo: Vec<Undo>,
    devices: devices::Before,
}

impl Cgroup {
    /// Changes the limits of a container that exists; what `resources` does not give stays as it is. All or nothing:
    /// after a failure the old values are written back, and the error says so where that failed too. What comes back is
    /// for [`Cgroup::undo`], if something else fails that belongs to the update. With `check_before_update`, a memory
    /// limit that is not above the present use is [`Error::Limit`].
    ///
    /// No process is killed for want of memory: a limit below what is in use and cannot be reclaimed is
    /// [`Error::InUse`]. A swap limit without a memory limit goes by the one that is there, and a cpu period without a
    /// quota likewise.
    pub fn update(&self, resources: &Resources) -> Result<Changed, Error> {
        let now = self.now(resources)?;
        convert::check(resources, &now)?;
        if resources.check_before_update {
            self.refuse_less_than_used(resources)?;
        }
        let parts = parts(&self.trees, resources, &now, &|_| false)?;
        let mut changed = Changed { undo: Vec::new(), devices: devices::Before::Nothing };
        let mut write_all = || {
            parts.iter().try_for_each(|part| part.write(Some(&mut changed.undo)))?;
            parts.iter().try_for_each(|part| part.write_unified(Some(&mut changed.undo)))?;
            let before = devices::before(&self.trees, &resources.devices)?;
            let applied = devices::apply(&self.trees, &resources.devices, resources.devices_optional);
            // What is not known cannot be half changed either: the first write of such a change is refused.
            if applied.is_ok() || !matches!(before, devices::Before::Unknown) {
                changed.devices = before;
            }
            applied
        };
        match write_all() {
            Ok(()) => Ok(changed),
            Err(error) => Err(not_all_back(error, &self.undo(changed))),
        }
    }

    /// Writes the old values back. What could not be brought back is told.
    pub fn undo(&self, changed: Changed) -> Vec<Error> {
        let devices = devices::restore(&self.trees, &changed.devices).err();
        devices.into_iter().chain(write_back(&self.trees, changed.undo)).collect()
    }

    fn now(&self, resources: &Resources) -> Result<Now, Error> {
        let mut now = Now::default();
        if convert::needs_memory_limit(resources)
            && let Some(text) = self.of_home("memory", "memory.max", "memory.limit_in_bytes")?
        {
            let bytes = text.trim().parse().unwrap_or(i64::MAX);
            now.memory_limit = Some(if kept::is_unlimited(bytes) { -1 } else { bytes });
        }
        if convert::needs_quota(resources)
            && let Some(tree) = self.home("cpu").filter(|tree| tree.unified())
        {
            let text = tree.read_if_there("cpu.max")?.unwrap_or_default();
            now.quota = text.split_whitespace().next().and_then(|quota| quota.parse().ok());
        }
        Ok(now)
    }

    fn refuse_less_than_used(&self, resources: &Resources) -> Result<(), Error> {
        let Some(limit) = convert::memory_limit(resources).filter(|limit| *limit > 0) else { return Ok(()) };
        let used = self.of_home("memory", "memory.current", "memory.usage_in_bytes")?;
        match used.and_then(|text| text.trim().parse::<i64>().ok()) {
            Some(used) if limit <= used => Err(Error::Limit {
                limit: convert::MEMORY_LIMIT.to_string(),
                rule: format!("{limit} is below the {used} bytes in use now"),
            }),
            _ => Ok(()),
        }
    }

    fn of_home(&self, controller: &str, v2: &str, v1: &str) -> Result<Option<String>, Error> {
        match self.home(controller) {
            Some(tree) => tree.read_if_there(if tree.unified() { v2 } else { v1 }),
            None => Ok(None),
        }
    }
}

/// What is to be written in one hierarchy.
struct Part<'a> {
    tree: &'a Tree,
    writes: Vec<Write>,
    /// The document's own, after those of all hierarchies.
    unified: Vec<Write>,
}

/// Each limit where its controller is: in v1 when that has it, else in cgroup2.
fn parts<'a>(
    trees: &'a [Tree],
    resources: &Resources,
    now: &Now,
    fresh: &dyn Fn(&Tree) -> bool,
) -> Result<Vec<Part<'a>>, Error> {
    let (v1, v2) = (convert::v1(resources), convert::v2(resources, now));
    let unified = convert::unified(resources);
    let in_v1 = |write: &Write| trees.iter().any(|tree| tree.has(v1::name_of(&write.controller)));
    let in_v2 = |write: &Write| !write.only_v1 && trees.iter().any(Tree::unified);
    let only_v1 = v1.iter().filter(|write| write.only_v1);
    let homeless = v2.iter().chain(only_v1).find(|write| !write.unlimited && !in_v1(write) && !in_v2(write));
    let homeless = homeless.or(unified.iter().find(|write| !in_v2(write)));
    if let Some(write) = homeless {
        return Err(absent(write, Path::new("/sys/fs/cgroup")));
    }
    let parts = trees.iter().map(|tree| {
        let fresh = fresh(tree);
        let wanted = |write: &&Write| !(fresh && write.unlimited);
        let writes = if tree.unified() {
            v2.iter().filter(|write| !in_v1(write)).filter(wanted).cloned().collect()
        } else {
            v1.iter().filter(|write| tree.has(&write.controller)).filter(wanted).cloned().collect()
        };
        Part { tree, writes, unified: if tree.unified() { unified.clone() } else { Vec::new() } }
    });
    Ok(parts.collect())
}

/// The controller is not there.
fn absent(write: &Write, directory: &Path) -> Error {
    let version = if write.only_v1 { " of cgroup v1" } else { "" };
    Error::Controller {
        controller: format!("{}{version}", write.controller),
        limit: write.limit.to_string(),
        directory: directory.to_path_buf(),
    }
}

/// A file with the lines that make it what it was, in the order of writing.
#[derive(Debug)]
struct Undo {
    file: OwnedFd,
    path: PathBuf,
    lines: Vec<String>,
}

/// Newest first, so that values which depend on one another pass through the same pairs again.
fn write_back(trees: &[Tree], undo: Vec<Undo>) -> Vec<Error> {
    let mut failed = Vec::new();
    for Undo { file, path, lines } in undo.into_iter().rev() {
        let tree = trees.iter().find(|tree| Some(tree.directory.path.as_path()) == path.parent());
        for line in lines {
            let result = match tree.filter(|tree| memory::is_maximum(tree, &path)) {
                Some(tree) => memory::set_maximum(tree, file.as_fd(), convert::MEMORY_LIMIT, &line),
                None => Ok(tree::write_open(file.as_fd(), &line)),
            };
            match result {
                Ok(Ok(())) => {}
                Ok(Err(errno)) => failed.push(Error::io(format!("write back {line:?} to"), &path, errno)),
                Err(error) => failed.push(error),
            }
        }
    }
    failed
}

fn not_all_back(error: Error, failed: &[Error]) -> Error {
    if failed.is_empty() {
        return error;
    }
    let failed: String = failed.iter().map(|again| format!("; {again}")).collect();
    let rule = format!("{error}; and the old limits are not all back{failed}");
    Error::Limit { limit: "update of limits".to_string(), rule }
}

/// Why a write did not happen.
enum Failure {
    /// EINVAL: this value may be fine beside others which are still to come.
    NotNow,
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

impl Part<'_> {
    /// Controllers first, then the values, and those which the kernel refuses once more after the others, as long as
    /// others succeed: limit ≤ limit with swap, burst ≤ quota, quota ÷ period ≤ the parent's hold at every moment,
    /// so the order depends on whether they grow or shrink.
    fn write(&self, mut undo: Option<&mut Vec<Undo>>) -> Result<(), Error> {
        if self.writes.is_empty() && self.unified.is_empty() {
            return Ok(());
        }
        let group = self.tree.existing()?;
        if self.tree.unified() {
            enable(self.tree, group, self.writes.iter().chain(&self.unified))?;
        }
        let mut pending: Vec<&Write> = self.writes.iter().collect();
        loop {
            let mut refused = Vec::new();
            for write in &pending {
                match self.one(group, write, undo.as_deref_mut()) {
                    Ok(()) => {}
                    Err(Failure::NotNow) => refused.push(*write),
                    Err(Failure::Final(error)) => return Err(error),
                }
            }
            match refused.first() {
                None => return Ok(()),
                Some(write) if refused.len() == pending.len() => {
                    return Err(self.refused(write, Errno::EINVAL));
                }
                Some(_) => pending = refused,
            }
        }
    }

    /// The document's own, in its order.
    fn write_unified(&self, mut undo: Option<&mut Vec<Undo>>) -> Result<(), Error> {
        if self.unified.is_empty() {
            return Ok(());
        }
        let group = self.tree.existing()?;
        for write in &self.unified {
            match self.one(group, write, undo.as_deref_mut()) {
                Ok(()) => {}
                Err(Failure::NotNow) => return Err(self.refused(write, Errno::EINVAL)),
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn refused(&self, write: &Write, errno: Errno) -> Error {
        explain::refused(self.tree, write, errno)
    }

    /// One open, (read), write, (read), close.
    fn one(&self, group: BorrowedFd<'_>, write: &Write, undo: Option<&mut Vec<Undo>>) -> Result<(), Failure> {
        let Some((file, write)) = self.open(group, write, undo.is_some())? else { return Ok(()) };
        let path = || self.tree.directory.path.join(&*write.file);
        let mut old = Vec::new();
        if undo.is_some() {
            // A file without a value to read has none to write back (memory.reclaim).
            if let Some(lines) =
                old_lines(file.as_fd(), &write).map_err(|errno| Error::io("read", path(), errno))?
            {
                old.extend(self.old_weight(group, &write, &lines)?);
                old.push(Undo {
                    file: file.try_clone().map_err(|_| descriptor(&path()))?,
                    path: path(),
                    lines,
                });
            }
        }
        let written = if undo.is_some() && memory::is_maximum(self.tree, &path()) {
            memory::set_maximum(self.tree, file.as_fd(), &write.limit, &write.value)?
        } else {
            let library = if self.tree.unified() { None } else { v1::set(group, &write) };
            library.unwrap_or_else(|| tree::write_open(file.as_fd(), &write.value))
        };
        match written {
            Ok(()) => {}
            Err(Errno::EINVAL) => return Err(Failure::NotNow),
            Err(errno) => return Err(self.refused(&write, errno).into()),
        }
        if let Some(undo) = undo {
            undo.extend(old);
        }
        if write.kept != Kept::NotRead {
            let text =
                tree::read_open(file.as_fd()).map_err(|errno| Error::io("read back", path(), errno))?;
            kept::compare(&write, &path(), text.trim())?;
        }
        if write.kept == Kept::List {
            explain::refuse_unavailable(self.tree, group, &write)?;
        }
        Ok(())
    }

    /// The file that is there, and what goes into it. None when nothing has to.
    fn open(
        &self,
        group: BorrowedFd<'_>,
        write: &Write,
        read: bool,
    ) -> Result<Option<(OwnedFd, Write)>, Error> {
        let flags = if read || write.kept != Kept::NotRead { OFlag::O_RDWR } else { OFlag::O_WRONLY };
        let open = |file: &str| match tree::open_file(group, file, flags) {
            // Not every file can be read (memory.reclaim).
            Err(Errno::EACCES) if flags == OFlag::O_RDWR => tree::open_file(group, file, OFlag::O_WRONLY),
            other => other,
        };
        let mut write = write.clone();
        let mut opened = open(&write.file);
        if let (Err(Errno::ENOENT), Missing::Instead { file, value }) = (&opened, &write.missing) {
            opened = open(file);
            if !matches!(opened, Err(Errno::ENOENT)) {
                write = Write { file: (*file).into(), value: value.clone(), ..write };
            }
        }
        match opened {
            Ok(file) => Ok(Some((file, write))),
            Err(Errno::ENOENT) if write.missing == Missing::Skip => Ok(None),
            Err(Errno::ENOENT) => Err(explain::missing(group, &write, &self.tree.directory.path)),
            Err(errno) => Err(self.refused(&write, errno)),
        }
    }

    /// The weight goes when the cgroup becomes idle, and is written back after the end of that.
    fn old_weight(
        &self,
        group: BorrowedFd<'_>,
        write: &Write,
        old: &[String],
    ) -> Result<Option<Undo>, Error> {
        if write.file != "cpu.idle" || old.first().is_none_or(|idle| idle != "0") {
            return Ok(None);
        }
        let name = if self.tree.unified() { "cpu.weight" } else { "cpu.shares" };
        let path = self.tree.directory.path.join(name);
        let failed = |errno| Error::io("read", &path, errno);
        let file = tree::open_file(group, name, OFlag::O_RDWR).map_err(failed)?;
        let lines = vec![tree::read_open(file.as_fd()).map_err(failed)?.trim().to_string()];
        Ok(Some(Undo { file, path, lines }))
    }
}

fn descriptor(path: &Path) -> Error {
    Error::io("keep open", path, Errno::EMFILE)
}

/// What writes the old value back; None when the file cannot be read.
fn old_lines(file: BorrowedFd<'_>, write: &Write) -> nix::Result<Option<Vec<String>>> {
    match tree::read_open(file) {
        Ok(text) => Ok(Some(kept::restoring(&write.file, &write.value, &text))),
        // Opened for writing only.
        Err(Errno::EBADF) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Enables what the limits need, from the mount point down, with one write for each level that lacks
/// something.
fn enable<'a>(
    tree: &Tree,
    group: BorrowedFd<'_>,
    writes: impl Iterator<Item = &'a Write>,
) -> Result<(), Error> {
    let path = &tree.directory.path;
    let failed = |what: &str, path: &Path, errno| Error::io(what, path.to_path_buf(), errno);
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let here = tree::read(group, "cgroup.controllers")
        .map_err(|errno| failed("read", &path.join("cgroup.controllers"), errno))?;
    let mut needed: Vec<&Write> = Vec::new();
    for write in writes.filter(|write| !has(&here, &write.controller)) {
        if !needed.iter().any(|known| known.controller == write.controller) {
            needed.push(write);
        }
    }
    if needed.is_empty() {
        return Ok(());
    }
    let mount = tree::open_mount(&tree.directory.mount_point, true)?
        .ok_or_else(|| failed("open cgroup mount", &tree.directory.mount_point, Errno::ENOENT))?;
    let mut level_path = tree.directory.mount_point.clone();
    let mut level = mount;
    let mut names = tree.names()?.0.iter();
    loop {
        let file = level_path.join("cgroup.subtree_control");
        let enabled = tree::read(level.as_fd(), "cgroup.subtree_control")
            .map_err(|errno| failed("read", &file, errno))?;
        let lacking: Vec<&&Write> = needed.iter().filter(|write| !has(&enabled, &write.controller)).collect();
        if !lacking.is_empty() {
            let line: Vec<String> = lacking.iter().map(|write| format!("+{}", write.controller)).collect();
            let line = line.join(" ");
            let written = match keeps_processes(level.as_fd()) {
                true => Err(Errno::EBUSY),
                false => tree::write(level.as_fd(), "cgroup.subtree_control", &line),
            };
            if let Err(errno) = written {
                let offered = tree::read(level.as_fd(), "cgroup.controllers").unwrap_or_default();
                if let Some(write) = lacking.iter().find(|write| !has(&offered, &write.controller)) {
                    return Err(absent(write, &level_path));
                }
                let why = match errno {
                    // cgroup2 keeps processes and enabled controllers apart ("no internal processes").
                    Errno::EBUSY => " where processes are in the cgroup itself:",
                    _ => " in",
                };
                return Err(failed(&format!("enable cgroup controllers ({line}){why}"), &file, errno));
            }
        }
        let Some(name) = names.next() else { return Ok(()) };
        level_path.push(name);
        level = tree::open_parent(level.as_fd(), Path::new(name))
            .map_err(|errno| failed("open cgroup", &level_path, errno))?;
    }
}

/// Are there processes in this domain itself? The kernel refuses to enable memory and the like there; pids, cpu and cpuset it
/// takes, and makes every cgroup below one that no process can enter (cgroups(7), "domain invalid"). The root, which has no
/// type, may have both.
fn keeps_processes(level: BorrowedFd<'_>) -> bool {
    tree::read(level, "cgroup.type").is_ok_and(|kind| kind.trim() == "domain")
        && tree::read(level, "cgroup.procs").is_ok_and(|pids| !pids.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_brought_back_is_told_behind_the_first_error() {
        let undo = |path: &str, writable: bool| Undo {
            file: std::fs::File::options().read(true).write(writable).open("/dev/null").unwrap().into(),
            path: path.into(),
            lines: vec!["max".to_string()],
        };
        let first = || Error::io("set pids limit to \"x\" in", "/c/pids.max", Errno::EINVAL);
        let back = write_back(&[], vec![undo("/c/memory.max", true)]);
        assert_eq!(not_all_back(first(), &back), first());
        let both = vec![undo("/c/memory.max", true), undo("/c/cpu.max", false)];
        let error = not_all_back(first(), &write_back(&[], both));
        assert_eq!(
            error.to_string(),
            "update of limits: set pids limit to \"x\" in /c/pids.max: invalid argument; and the old limits are not all \
             back; write back \"max\" to /c/cpu.max: bad file descriptor"
        );
    }
}
