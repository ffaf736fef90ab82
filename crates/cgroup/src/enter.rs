// SPDX-License-Identifier: MIT OR Apache-2.0
//! The quick way into v1 hierarchies: the calling thread goes in, makes the child, which is born there, and
//! returns.
//!
//! Never moves a whole process and never another thread than the caller's. The way back is opened before the
//! first step; where it cannot be, that hierarchy is left to [`Cgroup::attach`]'s way.
//!
//! Why: a write of a pid to `cgroup.procs` takes the kernel's lock against all forks and exits, which waits
//! for an RCU grace period: 11 ms at the median on the project's machine. A thread that writes `0` to `tasks`
//! moves itself alone, and the kernel leaves that lock out (since Linux 5.5): 0.06 ms in and 0.06 ms back for
//! seven hierarchies.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;

use crate::cgroup::{Cgroup, Tree};
use crate::error::Error;
use crate::inside::Apart;
use crate::{host, location, tree};

/// With less than this left the caller itself could be killed for want of memory while it is inside. Bytes.
const SMALL_MEMORY: i64 = 8 << 20;

/// The calling thread is in the container's v1 cgroups. Dropping it goes back; [`Entered::leave`] also tells
/// whether that worked. Bound to its thread.
#[derive(Debug)]
pub struct Entered<'a> {
    cgroup: &'a Cgroup,
    /// The thread's own `tasks` files, of the hierarchies that it has left.
    back: Vec<(OwnedFd, usize)>,
    /// Hierarchies that it could not enter.
    left_out: Vec<usize>,
    this_thread: PhantomData<*const ()>,
}

impl Cgroup {
    /// Takes the calling thread into the v1 directories, so that the child it makes next starts in them. Make
    /// the child (with [`Cgroup::clone_fd`] for cgroup2) on the same thread, then call [`Entered::leave`]
    /// with its pid before the child runs anything of the container. Does nothing on a host with cgroup2
    /// alone.
    ///
    /// For exec into a container at its pids limit the thread itself takes the last place: EAGAIN from the
    /// clone is to be answered by leaving and using [`Cgroup::attach`].
    pub fn enter(&self) -> Result<Entered<'_>, Error> {
        let mut entered =
            Entered { cgroup: self, back: Vec::new(), left_out: Vec::new(), this_thread: PhantomData };
        if self.trees.iter().all(Tree::unified) {
            return Ok(entered);
        }
        let own = host::parse_memberships(&host::read("/proc/thread-self/cgroup")?);
        let mounts = host::parse_mountinfo(&host::read("/proc/self/mountinfo")?);
        for (index, tree) in self.trees.iter().enumerate().filter(|(_, tree)| !tree.unified()) {
            let group = tree.existing()?;
            let kept_out = too_small(tree)? || frozen(tree)?;
            let back = if kept_out { None } else { way_back(tree, &own, &mounts) };
            let inside = tree::open_file(group, "tasks", OFlag::O_WRONLY);
            match (back, inside) {
                (Some(back), Ok(inside)) if tree::write_open(inside.as_fd(), "0").is_ok() => {
                    entered.back.push((back, index));
                }
                _ => entered.left_out.push(index),
            }
        }
        Ok(entered)
    }
}

/// The container's limits leave no room for the caller beside the child.
fn too_small(tree: &Tree) -> Result<bool, Error> {
    let value = |file: &str| -> Result<Option<i64>, Error> {
        Ok(tree.read_if_there(file)?.and_then(|text| text.trim().parse().ok()))
    };
    if tree.has("pids")
        && let Some(limit) = value("pids.max")?
        && limit - value("pids.current")?.unwrap_or(0) < 3
    {
        return Ok(true);
    }
    if tree.has("memory")
        && let Some(limit) = value("memory.limit_in_bytes")?
    {
        let used = value("memory.usage_in_bytes")?.unwrap_or(0);
        return Ok(limit.saturating_sub(used) < SMALL_MEMORY);
    }
    Ok(false)
}

/// The v1 freezer would hold the calling thread, and let no signal end it.
fn frozen(tree: &Tree) -> Result<bool, Error> {
    Ok(tree.has("freezer")
        && tree.read_if_there("freezer.state")?.is_some_and(|state| state.trim() != "THAWED"))
}

/// The `tasks` file of the cgroup in which the calling thread is now; None when the mount does not show it.
fn way_back(tree: &Tree, own: &[host::Membership], mounts: &[host::Mounted]) -> Option<OwnedFd> {
    let membership =
        own.iter().find(|one| location::same_hierarchy(&one.controllers, &tree.directory.controllers))?;
    let mount_point = &tree.directory.mount_point;
    let root = mounts.iter().find(|mount| mount_point.as_os_str() == mount.point.as_str())?;
    let relative = host::below_mount(&membership.path, &root.root)?;
    let mount = tree::open_mount(mount_point, false).ok()??;
    let group = tree::open_parent(mount.as_fd(), &relative).ok()?;
    tree::open_file(group.as_fd(), "tasks", OFlag::O_WRONLY).ok()
}

impl<'a> Entered<'a> {
    /// Goes back, then moves `child` into the hierarchies that the thread could not enter. After an error
    /// kill the child: it is not where it belongs, or the caller is not.
    pub fn leave(mut self, child: Option<i32>) -> Result<(), Error> {
        self.go_back()?;
        let Some(child) = child else { return Ok(()) };
        let trees = self.left_out.iter().filter_map(|index| self.cgroup.trees.get(*index));
        trees.into_iter().try_for_each(|tree| tree.attach(child))
    }

    /// Goes back, and tells which hierarchies the child is not in yet.
    pub fn apart(mut self) -> Result<Apart<'a>, Error> {
        self.go_back()?;
        Ok(Apart { cgroup: self.cgroup, trees: std::mem::take(&mut self.left_out) })
    }

    fn go_back(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for (back, index) in self.back.drain(..) {
            if let Err(errno) = tree::write_open(back.as_fd(), "0") {
                let path = self.cgroup.trees.get(index).map(|tree| tree.directory.path.clone());
                let error = Error::io("return from cgroup", path.unwrap_or_default(), errno);
                result = result.and(Err(error));
            }
        }
        result
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // Only reached with something to do when the caller gave up before leave: its own error is the one to
        // tell.
        drop(self.go_back());
    }
}
