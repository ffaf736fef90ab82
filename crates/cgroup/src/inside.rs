// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where one more process of a running container goes.
//!
//! Makes nothing. Never leaves the container's own directories. From the container's cgroup, where its first process
//! is by now, and what the caller asks for, to a [`Cgroup`] to be born in.

use std::path::{Component, Path, PathBuf};

use crate::cgroup::{Cgroup, Tree};
use crate::error::Error;
use crate::host;
use crate::location::Location;

/// A place below the container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Of the v1 hierarchies that are meant; empty for every hierarchy.
    pub controllers: Vec<String>,
    /// Relative to the container's directory, which `/` is itself. It must exist.
    pub path: PathBuf,
}

impl Cgroup {
    /// The directories for a further process of the container whose first process is `init`. On cgroup2, unless
    /// `wanted` says otherwise, those where that one is by now: it may have moved to a sub-cgroup to enable controllers,
    /// and the kernel then takes no process in the one above ("no internal processes", cgroups(7)).
    pub fn inside(&self, init: i32, wanted: &[Inside]) -> Result<Cgroup, Error> {
        let mut place = Location::default();
        for controllers in wanted.iter().map(|inside| &inside.controllers) {
            let missing =
                |name: &&String| !self.trees.iter().any(|tree| tree.directory.controllers.contains(name));
            if let Some(name) = controllers.iter().find(missing) {
                return Err(Error::Path {
                    path: name.clone(),
                    rule: "the container has no cgroup in a v1 hierarchy of this controller".into(),
                });
            }
        }
        for tree in &self.trees {
            let own = &tree.directory.path;
            let path = match wanted.iter().rev().find(|inside| inside.means(tree)) {
                Some(inside) => own.join(inside.relative()?),
                None if tree.unified() => of_process(tree, init)?.unwrap_or_else(|| own.clone()),
                None => own.clone(),
            };
            let mount = tree.directory.mount_point.clone();
            if tree.unified() {
                (place.unified, place.unified_mount) = (Some(path), Some(mount));
            } else {
                place.v1.push((tree.directory.controllers.clone(), path));
                place.v1_mounts.push(mount);
            }
        }
        let cgroup = place.open();
        cgroup.trees.iter().try_for_each(|tree| tree.existing().map(drop))?;
        Ok(cgroup)
    }
}

/// Hierarchies in which a process is not born, and is moved to when it is ready.
#[derive(Debug)]
pub struct Apart<'a> {
    pub(crate) cgroup: &'a Cgroup,
    /// By their places in it.
    pub(crate) trees: Vec<usize>,
}

impl Cgroup {
    /// All of them: a frozen cgroup would hold whoever waits for a process that is born in it.
    pub fn apart(&self) -> Apart<'_> {
        Apart { cgroup: self, trees: (0..self.trees.len()).collect() }
    }

    /// pids.max of cgroup2 leaves no room for two more, of which one is gone in a moment.
    pub fn is_crowded(&self) -> Result<bool, Error> {
        let Some(tree) = self.unified() else { return Ok(false) };
        let value = |file: &str| -> Result<Option<i64>, Error> {
            Ok(tree.read_if_there(file)?.and_then(|text| text.trim().parse().ok()))
        };
        let Some(limit) = value("pids.max")? else { return Ok(false) };
        Ok(limit - value("pids.current")?.unwrap_or(0) < 2)
    }
}

impl<'a> Apart<'a> {
    /// And cgroup2.
    pub fn with_unified(mut self) -> Self {
        let unified = self.cgroup.trees.iter().position(Tree::unified);
        self.trees.extend(unified.filter(|index| !self.trees.contains(index)));
        self
    }

    /// The hierarchies in which the number of processes is limited, taken out of the rest.
    pub fn split_off_pids(&mut self) -> Apart<'a> {
        let cgroup = self.cgroup;
        let counts =
            |index: &usize| cgroup.trees.get(*index).is_some_and(|tree| tree.unified() || tree.has("pids"));
        let (counted, rest) = self.trees.iter().partition(|index| counts(index));
        self.trees = rest;
        Apart { cgroup, trees: counted }
    }

    /// Moves the process in. Limits on how many may be there do not hold it up.
    pub fn attach(&self, pid: i32) -> Result<(), Error> {
        let trees = self.trees.iter().filter_map(|index| self.cgroup.trees.get(*index));
        trees.into_iter().try_for_each(|tree| tree.attach(pid))
    }
}

impl Inside {
    fn means(&self, tree: &Tree) -> bool {
        self.controllers.is_empty()
            || self.controllers.iter().any(|name| tree.directory.controllers.contains(name))
    }

    fn relative(&self) -> Result<PathBuf, Error> {
        let mut relative = PathBuf::new();
        for component in self.path.components() {
            match component {
                Component::Normal(name) => relative.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    let path = self.path.display().to_string();
                    return Err(Error::Path { path, rule: "must not have .. in it".into() });
                }
            }
        }
        Ok(relative)
    }
}

/// Where a process is in cgroup2, if that is in the container's part of it.
fn of_process(tree: &Tree, pid: i32) -> Result<Option<PathBuf>, Error> {
    // It may have ended; then nobody holds the container's directory against others either.
    let Ok(text) = host::read(&format!("/proc/{pid}/cgroup")) else { return Ok(None) };
    let memberships = host::parse_memberships(&text);
    let Some(membership) = memberships.iter().find(|one| one.controllers.is_empty()) else { return Ok(None) };
    let mounts = host::parse_mountinfo(&host::read("/proc/self/mountinfo")?);
    let mount_point = &tree.directory.mount_point;
    let root = mounts.iter().find(|mount| mount_point == Path::new(&mount.point)).map(|mount| &mount.root);
    let relative = root.and_then(|root| host::below_mount(&membership.path, root));
    let path = relative.map(|relative| mount_point.join(relative));
    Ok(path.filter(|path| path.starts_with(&tree.directory.path)))
}
