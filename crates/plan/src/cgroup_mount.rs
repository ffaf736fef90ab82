// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mount of type `cgroup` or `cgroup2`: what it becomes on each kind of host.
//!
//! Never shows more than the container's own part of the tree. From [`crate::mounts`]' entry and the host's
//! hierarchies to steps.

use crate::check::Check;
use crate::mount_options::{NODEV, NOEXEC, NOSUID, RDONLY, for_new_filesystem};
use crate::mounts::{Entry, Mounts, plain_mount};
use crate::namespaces::Namespaces;
use crate::types::{
    Action, Attributes, Bind, BindSource, CgroupMode, Host, MountIdMap, Propagation, Step, V1Hierarchy,
};

pub(crate) fn plan(
    entry: Entry<'_>,
    host: &Host,
    namespaces: &Namespaces,
    planned: &mut Mounts,
    check: &mut Check,
) {
    let tree = Tree {
        host,
        place: &entry.place,
        own_view: namespaces.new_cgroup,
        // A new filesystem in the one case, a bind in the other; both start without attributes of their own.
        attributes: for_new_filesystem(entry.options.attributes),
        propagation: &entry.options.propagation,
    };
    match (host.cgroup.mode, entry.fstype) {
        (CgroupMode::V2, _) | (CgroupMode::Hybrid, "cgroup2") => {
            if !tree.own_view && !entry.options.data.is_empty() {
                ignored(&entry, check);
            }
            let step = tree.unified(entry.target.clone(), entry.options.data.clone());
            planned.steps.push(step);
        }
        (CgroupMode::Hybrid | CgroupMode::V1, "cgroup") => {
            if !entry.options.data.is_empty() {
                ignored(&entry, check);
            }
            v1(&entry.target, &tree, host, planned);
        }
        (CgroupMode::V1, _) => {
            check.refuse(
                format!("{}.type", entry.place),
                "this host has no cgroup2 filesystem",
                entry.fstype,
            );
        }
        _ => {
            check.refuse(format!("{}.type", entry.place), "this host has no cgroup filesystem", entry.fstype);
        }
    }
}

fn ignored(entry: &Entry<'_>, check: &mut Check) {
    let names: Vec<&str> = entry.options.data.iter().map(|(key, _)| key.as_str()).collect();
    check.warn(
        format!("{}.options", entry.place),
        format!(
            "ignored, this cgroup mount takes none of its own: {}",
            crate::check::shown(&names.join(","))
        ),
    );
}

struct Tree<'a> {
    host: &'a Host,
    place: &'a str,
    /// In a new cgroup namespace a fresh mount shows the container's part; elsewhere that part is bound.
    own_view: bool,
    attributes: Attributes,
    propagation: &'a [(Propagation, bool)],
}

impl Tree<'_> {
    fn step(&self, action: Action) -> Step {
        Step { action, place: self.place.to_string() }
    }

    fn unified(&self, target: String, data: Vec<(String, String)>) -> Step {
        if self.own_view {
            let mut mount = plain_mount(target, "cgroup2", data, self.attributes);
            mount.source = "cgroup".to_string();
            mount.propagation = self.propagation.to_vec();
            self.step(Action::Mount(mount))
        } else if self.host.cgroup.closed.contains(&self.host.cgroup.unified) {
            // It has no part of its own there: the host's tree, of which it may change as little as the caller.
            self.bind(BindSource::Path(self.host.cgroup.unified.clone()), target)
        } else {
            self.bind(BindSource::OwnCgroup, target)
        }
    }

    fn hierarchy(&self, hierarchy: &V1Hierarchy, target: String) -> Step {
        if !self.own_view {
            return self.bind(BindSource::OwnV1Cgroup { mount_point: hierarchy.mount_point.clone() }, target);
        }
        let mut options = Vec::new();
        for controller in &hierarchy.controllers {
            match controller.strip_prefix("name=") {
                // A named hierarchy without controllers must say so.
                Some(name) => {
                    options.push(("none".to_string(), String::new()));
                    options.push(("name".to_string(), name.to_string()));
                }
                None => options.push((controller.clone(), String::new())),
            }
        }
        let mut mount = plain_mount(target, "cgroup", options, self.attributes);
        mount.propagation = self.propagation.to_vec();
        self.step(Action::Mount(mount))
    }

    fn bind(&self, source: BindSource, target: String) -> Step {
        self.step(Action::Bind(Bind {
            source,
            target,
            recursive: false,
            attributes: self.attributes,
            propagation: self.propagation.to_vec(),
            id_map: MountIdMap::None,
        }))
    }
}

/// A tmpfs that holds one directory for each hierarchy, as a host has it.
fn v1(target: &str, tree: &Tree<'_>, host: &Host, planned: &mut Mounts) {
    let readonly = tree.attributes.set & RDONLY != 0;
    let attributes = Attributes { set: NOSUID | NODEV | NOEXEC, ..Attributes::default() };
    let mode = vec![("mode".to_string(), "755".to_string())];
    let mut tmpfs = plain_mount(target.to_string(), "tmpfs", mode, attributes);
    tmpfs.late_readonly = readonly;
    planned.steps.push(tree.step(Action::Mount(tmpfs)));
    if readonly {
        planned.seals.push(tree.step(Action::SealReadonly { target: target.to_string() }));
    }
    for hierarchy in &host.cgroup.v1 {
        let Some(name) = hierarchy.mount_point.rsplit('/').find(|part| !part.is_empty()) else {
            continue;
        };
        planned.steps.push(tree.hierarchy(hierarchy, format!("{target}/{name}")));
        if hierarchy.controllers.len() > 1 {
            for controller in hierarchy.controllers.iter().filter(|c| *c != name && !c.starts_with("name=")) {
                let path = format!("{target}/{controller}");
                planned.steps.push(tree.step(Action::Symlink { target: name.to_string(), path }));
            }
        }
    }
    if host.cgroup.mode == CgroupMode::Hybrid {
        planned.steps.push(tree.unified(format!("{target}/unified"), Vec::new()));
    }
}
