// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a container's cgroup is in each hierarchy, decided before anything is made.
//!
//! Never creates or writes; looks only at what exists already. The path comes from the plan, the mounts from
//! [`crate::host`]; the [`Location`] goes into the container's record, ahead of the first effect.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use coracle_plan::{CgroupHost, CgroupPath, CgroupPlace};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::host::{self, Membership, Mounted};

/// The v1 controllers whose hierarchies get a directory for the container; the crate's page has the reason.
const V1_USED: [&str; 11] = [
    "memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "devices", "blkio", "hugetlb", "net_cls",
    "net_prio",
];

/// Does a container get a directory in the hierarchy with these controllers?
pub(crate) fn is_used(controllers: &[String]) -> bool {
    controllers.iter().any(|name| V1_USED.contains(&name.as_str()))
}

/// The container's directory in each hierarchy, and what of it was there before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Absolute host directory in cgroup2.
    pub unified: Option<PathBuf>,
    /// Controllers of a v1 hierarchy, and the absolute host directory in it.
    pub v1: Vec<(Vec<String>, PathBuf)>,
    /// Mount point above `unified`.
    pub unified_mount: Option<PathBuf>,
    /// Mount points above `v1`, in the same order.
    pub v1_mounts: Vec<PathBuf>,
    /// Container directories that existed before: used when empty, and never removed. A first look is taken
    /// by [`locate`]; exact in [`crate::Cgroup::location`] after create.
    pub adopted: Vec<PathBuf>,
    /// Directories above the container's that did not exist before, outermost first; removed with it when
    /// they are empty then. Exact after create, as `adopted` is.
    pub made_parents: Vec<PathBuf>,
    /// systemd made the directories, as this unit.
    pub unit: Option<Unit>,
    /// What create marks the directory with, as an extended attribute, so that later verbs know it from one that
    /// others use since. Unique; given by the caller before the record is written. None: not marked.
    pub mark: Option<String>,
    /// Another container was in it before, and its counters did not begin with this one. Known after create.
    #[serde(default)]
    pub reused: bool,
}

/// A unit of a systemd manager that holds the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    /// Of the calling user's manager, not the system's.
    pub user: bool,
}

/// One hierarchy's part of a [`Location`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub mount_point: PathBuf,
    /// Empty for cgroup2.
    pub controllers: Vec<String>,
    /// The container's own directory, absolute.
    pub path: PathBuf,
}

impl Location {
    /// The container's own directory in each hierarchy, cgroup2 first.
    pub fn directories(&self) -> Vec<Directory> {
        let unified = self.unified.iter().zip(&self.unified_mount).map(|(path, mount)| Directory {
            mount_point: mount.clone(),
            controllers: Vec::new(),
            path: path.clone(),
        });
        let v1 = self.v1.iter().zip(&self.v1_mounts).map(|((controllers, path), mount)| Directory {
            mount_point: mount.clone(),
            controllers: controllers.clone(),
            path: path.clone(),
        });
        unified.chain(v1).collect()
    }

    /// One hierarchy's part alone.
    fn of(directory: &Directory) -> Location {
        let mut location = Location::default();
        if directory.controllers.is_empty() {
            location.unified = Some(directory.path.clone());
            location.unified_mount = Some(directory.mount_point.clone());
        } else {
            location.v1.push((directory.controllers.clone(), directory.path.clone()));
            location.v1_mounts.push(directory.mount_point.clone());
        }
        location
    }
}

/// Decides where the container's cgroup is. Changes nothing.
///
/// A directory's absolute path is taken below each mount point, a relative one beside the caller's own cgroup of
/// that hierarchy; an empty one stands for `id`. A unit is below `manager`, the cgroup of the systemd manager
/// ([`crate::Systemd::control_group`]; not looked at for a directory).
///
/// Fails with [`Error::Path`] for `..`, line breaks, over-long names and the hierarchy's root itself, and
/// when the mount does not show the caller's own cgroup, or the manager's; with [`Error::Populated`] when
/// somebody is in the cgroup of a unit that is still to be made.
pub fn locate(host: &CgroupHost, place: &CgroupPlace, id: &str, manager: &str) -> Result<Location, Error> {
    let (own, mounts) = match place {
        CgroupPlace::Nowhere | CgroupPlace::Directory(CgroupPath::Absolute(_)) => (Vec::new(), Vec::new()),
        _ => (
            host::parse_memberships(&host::read("/proc/self/cgroup")?),
            host::parse_mountinfo(&host::read("/proc/self/mountinfo")?),
        ),
    };
    let mut location = match place {
        CgroupPlace::Nowhere => return Ok(Location::default()),
        CgroupPlace::Directory(path) => in_directory(host, path, id, &own, &mounts)?,
        CgroupPlace::Unit(unit) => {
            let path = Path::new(manager).join(crate::systemd::path_of(unit));
            let mut location = in_unit(host, &path, &mounts)?;
            location.unit = Some(Unit { name: unit.name.clone(), user: unit.user });
            location
        }
    };
    for directory in location.directories() {
        // A look only: create finds out again, by descriptor, what it makes and what it finds.
        if directory.path.symlink_metadata().is_ok() {
            // systemd makes the directories of a unit for us, and uses what an earlier one has left.
            match location.unit {
                Some(_) => refuse_populated(&directory)?,
                None => location.adopted.push(directory.path),
            }
            continue;
        }
        let above = directory.path.ancestors().skip(1).take_while(|above| **above != directory.mount_point);
        let mut missing: Vec<PathBuf> =
            above.take_while(|above| above.symlink_metadata().is_err()).map(Path::to_path_buf).collect();
        missing.reverse();
        location.made_parents.append(&mut missing);
    }
    if location.unit.is_some() {
        // Slices come and go with their units.
        location.made_parents.clear();
    }
    Ok(location)
}

/// What this caller may do of the cgroup at `path`: fills [`CgroupHost::closed`], which [`locate`] leaves out, with the
/// hierarchies in which they may not make the directory of a container, or not put a process into it, and
/// [`CgroupHost::below_own`]. A look only.
pub fn find_rights(host: &mut CgroupHost, path: &CgroupPath, id: &str) -> Result<(), Error> {
    let own = host::parse_memberships(&host::read("/proc/self/cgroup")?);
    let mounts = host::parse_mountinfo(&host::read("/proc/self/mountinfo")?);
    let v1 = host.v1.iter().map(|hierarchy| (&hierarchy.mount_point, hierarchy.controllers.as_slice()));
    let unified = (!host.unified.is_empty()).then_some((&host.unified, &[][..]));
    let (mut closed, mut below_own) = (Vec::new(), Vec::new());
    for (mount_point, controllers) in unified.into_iter().chain(v1) {
        let mut one = CgroupHost {
            unified: if controllers.is_empty() { mount_point.clone() } else { String::new() },
            v1: host.v1.iter().filter(|other| other.mount_point == *mount_point).cloned().collect(),
            closed: Vec::new(),
            below_own: Vec::new(),
            ..host.clone()
        };
        let is_open = |one: &CgroupHost, path: &CgroupPath| {
            // One that does not show the caller's own cgroup has no place beside it.
            let directory = in_directory(one, path, id, &own, &mounts).ok();
            let directory = directory.and_then(|location| location.directories().into_iter().next());
            directory.is_some_and(|directory| {
                may_make(&directory.path) && (!controllers.is_empty() || may_enter(&directory, &own, &mounts))
            })
        };
        if is_open(&one, path) {
            continue;
        }
        one.below_own.push(mount_point.clone());
        match path {
            CgroupPath::Relative(text) if is_open(&one, &CgroupPath::Below(text.clone())) => {
                below_own.push(mount_point.clone());
            }
            _ => closed.push(mount_point.clone()),
        }
    }
    (host.closed, host.below_own) = (closed, below_own);
    Ok(())
}

/// May the caller write to what exists of it?
fn may_make(directory: &Path) -> bool {
    let existing = directory.ancestors().find(|above| above.symlink_metadata().is_ok());
    existing.is_some_and(|existing| may(existing, AccessFlags::W_OK | AccessFlags::X_OK))
}

/// cgroup2 asks for the right to write `cgroup.procs` of the nearest cgroup above both places (cgroups(7)).
fn may_enter(directory: &Directory, own: &[Membership], mounts: &[Mounted]) -> bool {
    let membership = own.iter().find(|one| one.controllers.is_empty());
    let mount = mounts.iter().find(|mount| directory.mount_point.as_os_str() == mount.point.as_str());
    let from = membership.zip(mount).and_then(|(own, mount)| host::below_mount(&own.path, &mount.root));
    let Some(from) = from else { return false };
    let from = directory.mount_point.join(from);
    let common = directory.path.ancestors().find(|above| from.starts_with(above));
    common.is_some_and(|common| may(&common.join("cgroup.procs"), AccessFlags::W_OK))
}

impl Cgroup {
    /// May a process be born in, or moved to, the cgroup2 directory by this caller, who may write to it? True without
    /// one.
    pub fn is_reachable(&self) -> Result<bool, Error> {
        let Some(directory) = self.directories().into_iter().find(|one| one.controllers.is_empty()) else {
            return Ok(true);
        };
        let own = host::parse_memberships(&host::read("/proc/self/cgroup")?);
        let mounts = host::parse_mountinfo(&host::read("/proc/self/mountinfo")?);
        Ok(may_enter(&directory, &own, &mounts))
    }
}

fn may(path: &Path, how: AccessFlags) -> bool {
    faccessat(AT_FDCWD, path, how, AtFlags::AT_EACCESS).is_ok()
}

fn refuse_populated(directory: &Directory) -> Result<(), Error> {
    let Some(pid) = Location::of(directory).open().pids()?.first().copied() else { return Ok(()) };
    Err(Error::Populated { path: directory.path.clone(), pid })
}

/// The directories of a cgroup that `/proc/PID/cgroup` would name `path`.
fn in_unit(host: &CgroupHost, path: &Path, mounts: &[Mounted]) -> Result<Location, Error> {
    let text = path.display().to_string();
    let tail = components(&text)?;
    each_hierarchy(host, |mount_point, _| {
        let shown = mounts.iter().find(|mount| mount.point == mount_point);
        let below = shown.and_then(|mount| host::below_mount(&format!("/{}", tail.display()), &mount.root));
        below.map(|below| Path::new(mount_point).join(below)).ok_or_else(|| Error::Path {
            path: text.clone(),
            rule: format!("is systemd's, and {mount_point} does not show it"),
        })
    })
}

/// [`locate`] without a look at the file system.
fn in_directory(
    host: &CgroupHost,
    path: &CgroupPath,
    id: &str,
    own: &[Membership],
    mounts: &[Mounted],
) -> Result<Location, Error> {
    let (text, relative, below_own) = match path {
        CgroupPath::Absolute(text) => (text.as_str(), false, &[][..]),
        CgroupPath::Relative(text) => (text.as_str(), true, &[][..]),
        CgroupPath::Below(text) => (text.as_str(), true, host.below_own.as_slice()),
    };
    let tail = components(if text.is_empty() { id } else { text })?;
    let below = |mount_point: &str, controllers: &[String]| -> Result<PathBuf, Error> {
        let mut directory = PathBuf::from(mount_point);
        if relative {
            let mut own = own_below(mount_point, controllers, own, mounts).ok_or_else(|| Error::Path {
                path: text.to_string(),
                rule: format!("is relative, and {mount_point} does not show the caller's own cgroup"),
            })?;
            if !below_own.iter().any(|point| point == mount_point) {
                // At the mount's root there is no beside: below it, then.
                own.pop();
            }
            directory.push(own);
        }
        directory.push(&tail);
        Ok(directory)
    };
    each_hierarchy(host, below)
}

/// Asks for the container's directory below each mount point that is used; the controllers are those of v1, none
/// for cgroup2. What is closed to the caller is left out.
fn each_hierarchy(
    host: &CgroupHost,
    below: impl Fn(&str, &[String]) -> Result<PathBuf, Error>,
) -> Result<Location, Error> {
    let mut location = Location::default();
    if !host.unified.is_empty() && !host.closed.contains(&host.unified) {
        location.unified = Some(below(&host.unified, &[])?);
        location.unified_mount = Some(PathBuf::from(&host.unified));
    }
    for hierarchy in &host.v1 {
        if is_used(&hierarchy.controllers) && !host.closed.contains(&hierarchy.mount_point) {
            let directory = below(&hierarchy.mount_point, &hierarchy.controllers)?;
            location.v1.push((hierarchy.controllers.clone(), directory));
            location.v1_mounts.push(PathBuf::from(&hierarchy.mount_point));
        }
    }
    Ok(location)
}

/// The caller's own cgroup, relative to the mount point.
fn own_below(
    mount_point: &str,
    controllers: &[String],
    own: &[Membership],
    mounts: &[Mounted],
) -> Option<PathBuf> {
    let membership = own.iter().find(|one| same_hierarchy(&one.controllers, controllers))?;
    let root = mounts.iter().find(|mount| mount.point == mount_point)?;
    host::below_mount(&membership.path, &root.root)
}

/// `/proc/self/cgroup` and mount options list co-mounted controllers in their own orders.
pub(crate) fn same_hierarchy(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|name| other.contains(name))
}

/// The path's names. What is refused: anything that could leave the mount, name its root, or break a line of
/// `/proc/PID/cgroup`.
fn components(text: &str) -> Result<PathBuf, Error> {
    let broken = |rule: &str| Err(Error::Path { path: text.to_string(), rule: rule.to_string() });
    if text.contains('\n') || text.contains('\0') {
        return broken("must not hold a line break or a NUL");
    }
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) if name.len() > 255 => {
                return broken("has a name of more than 255 bytes");
            }
            Component::Normal(name) => path.push(name),
            Component::ParentDir => return broken("must not hold \"..\""),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    if path.as_os_str().is_empty() {
        return broken("names the root of the hierarchy");
    }
    if path.as_os_str().len() > 3072 {
        return broken("has more than 3072 bytes");
    }
    Ok(path)
}

/// A directory below a mount as (parent, last name); None when it is the mount itself or not below it.
pub(crate) fn split<'a>(mount: &Path, directory: &'a Path) -> Option<(&'a Path, &'a OsStr)> {
    let relative = directory.strip_prefix(mount).ok()?;
    let normal = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if !normal {
        return None;
    }
    Some((relative.parent()?, relative.file_name()?))
}

#[cfg(test)]
mod tests {
    use coracle_plan::{CgroupMode, V1Hierarchy};

    use super::*;

    fn hybrid() -> CgroupHost {
        let v1 = |name: &str| V1Hierarchy {
            mount_point: format!("/cg/{name}"),
            controllers: name.split(',').map(String::from).collect(),
        };
        CgroupHost {
            mode: CgroupMode::Hybrid,
            unified: "/cg/unified".to_string(),
            unified_controllers: vec![],
            v1: vec![v1("cpuset"), v1("cpu,cpuacct"), v1("memory"), v1("name=systemd")],
            closed: vec![],
            below_own: vec!["/cg/unified".to_string()],
        }
    }

    fn at(path: CgroupPath, own: &str, mounts: &str) -> Result<Vec<String>, Error> {
        let own = host::parse_memberships(own);
        let location = in_directory(&hybrid(), &path, "web", &own, &host::parse_mountinfo(mounts))?;
        Ok(location.directories().iter().map(|one| one.path.display().to_string()).collect())
    }

    fn absolute(path: &str) -> Result<Vec<String>, Error> {
        at(CgroupPath::Absolute(path.to_string()), "", "")
    }

    #[test]
    fn absolute_paths_are_below_each_mount() {
        let expected = [
            "/cg/unified/docker/abc",
            "/cg/cpuset/docker/abc",
            "/cg/cpu,cpuacct/docker/abc",
            "/cg/memory/docker/abc",
        ];
        assert_eq!(absolute("/docker/abc").unwrap(), expected);
        assert_eq!(absolute("//docker/./abc/").unwrap(), expected);
        assert_eq!(absolute("").unwrap()[0], "/cg/unified/web");
        assert_eq!(absolute("/system.slice:docker:abc").unwrap()[0], "/cg/unified/system.slice:docker:abc");
    }

    #[test]
    fn relative_paths_are_beside_the_own_cgroup_of_each_hierarchy() {
        let mounts = "\
1 0 0:1 / /cg/unified rw - cgroup2 c rw
2 0 0:2 / /cg/cpu,cpuacct rw - cgroup c rw,cpu,cpuacct
4 0 0:4 / /cg/cpuset rw - cgroup c rw,cpuset
3 0 0:3 /outer /cg/memory rw - cgroup c rw,memory
";
        let own = "0::/user/shell\n2:cpuacct,cpu:/\n3:memory:/outer/x/y\n4:cpuset:/a\n";
        let relative = |own| at(CgroupPath::Relative("system.slice:docker:abc".to_string()), own, mounts);
        assert_eq!(
            relative(own).unwrap(),
            [
                "/cg/unified/user/system.slice:docker:abc",
                "/cg/cpuset/system.slice:docker:abc",
                "/cg/cpu,cpuacct/system.slice:docker:abc",
                "/cg/memory/x/system.slice:docker:abc"
            ]
        );
        let below = at(CgroupPath::Below("web".to_string()), own, mounts).unwrap();
        assert_eq!(below[..2], ["/cg/unified/user/shell/web", "/cg/cpuset/web"]);
        let hidden =
            relative("0::/user/shell\n2:cpu,cpuacct:/\n3:memory:/elsewhere\n4:cpuset:/\n").unwrap_err();
        assert!(matches!(hidden, Error::Path { .. }), "{hidden}");
    }

    #[test]
    fn paths_that_could_leave_the_mount_are_refused() {
        let long = "x".repeat(256);
        for bad in
            ["/", "//", ".", "../x", "/a/../../b", "/..", "a/..", "a\nb", "a\0b", &long, &"a/".repeat(2000)]
        {
            let error = absolute(bad).unwrap_err();
            assert!(matches!(error, Error::Path { .. }), "{bad:?}: {error}");
            assert!(!error.to_string().contains('\n'), "{error:?}");
        }
        assert!(absolute("/..a/b..").is_ok(), "dots within a name are letters");
    }

    #[test]
    fn a_path_is_split_by_components() {
        let split = |mount: &str, path: &'static str| {
            split(Path::new(mount), Path::new(path))
                .map(|(parent, name)| (parent.display().to_string(), name.to_string_lossy().into_owned()))
        };
        let pair = |parent: &str, name: &str| Some((parent.to_string(), name.to_string()));
        assert_eq!(split("/cg", "/cg/a"), pair("", "a"));
        assert_eq!(split("/cg", "/cg/a/b"), pair("a", "b"));
        assert_eq!(split("/cg", "/cg"), None);
        assert_eq!(split("/cg", "/cgroup/a"), None);
        assert_eq!(split("/cg", "/cg/../a"), None);
    }
}
