// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.cgroupsPath`: where the container's processes live, who makes that cgroup, and whose it is.
//!
//! Never looks at the tree: whether the place is free is the runtime's to see. What the processes may use is in
//! [`crate::resources`]. To [`CgroupPlan`].

use oci_spec::runtime::{Linux, Spec};

use crate::check::{Check, clean};
use crate::mount_options::{self, RDONLY};
use crate::namespaces::Namespaces;
use crate::types::{
    CgroupMode, CgroupPath, CgroupPlace, CgroupPlan, Host, Namespace, Options, Resources, ServiceManager,
};
use crate::{device_rules, explain_cgroup, resources, systemd_unit};

pub(crate) const PLACE: &str = "linux.cgroupsPath";

/// The sub-cgroup of [`CgroupPlan::leaf`]. systemd calls its own `init.scope`; this must not meet with it.
const LEAF: &str = "init";

pub(crate) fn plan(
    spec: &Spec,
    host: &Host,
    options: &Options,
    namespaces: &Namespaces,
    check: &mut Check,
) -> CgroupPlan {
    let linux = spec.linux().as_ref();
    let given = given_path(linux);
    let place = if options.systemd_cgroup {
        CgroupPlace::Unit(systemd_unit::plan(spec, &given, host, options, check))
    } else {
        directory(&given, host, namespaces, options, check)
    };
    let given = linux.and_then(|linux| linux.resources().as_ref());
    let rules = given.and_then(|given| given.devices().as_deref()).unwrap_or_default();
    let mut resources = Resources {
        devices: device_rules::plan(rules, check),
        devices_optional: !host.initial_user_namespace || !host.privileged,
        ..given.map(|given| resources::plan(given, host, check)).unwrap_or_default()
    };
    if place == CgroupPlace::Nowhere {
        for limit in explain_cgroup::limits(&resources) {
            check.violation("linux.resources", format!("{limit}: {}", why_nowhere(host)));
        }
        if options.cgroup_leaf {
            check.violation("", format!("--cgroup-leaf: {}", why_nowhere(host)));
        }
        // Without the right to make a cgroup there is none to filter devices either.
        resources.devices.clear();
    }
    let leaf = options.cgroup_leaf && host.cgroup.mode == CgroupMode::V2;
    if options.cgroup_leaf && !leaf && place != CgroupPlace::Nowhere {
        check.lenient("", "--cgroup-leaf needs a host with cgroup v2 alone");
    }
    CgroupPlan {
        owner: if place == CgroupPlace::Nowhere { None } else { owner(spec, host, namespaces) },
        place,
        resources,
        leaf: leaf.then(|| LEAF.to_string()),
    }
}

/// The runtime makes it; where the caller may not, there is none, and that is told.
fn directory(
    given: &str,
    host: &Host,
    namespaces: &Namespaces,
    options: &Options,
    check: &mut Check,
) -> CgroupPlace {
    let path = match path(given, options, check) {
        CgroupPath::Relative(path) if !host.cgroup.below_own.is_empty() => CgroupPath::Below(path),
        path => path,
    };
    let place = CgroupPlace::Directory(path);
    // Root keeps the errors of those who may make one.
    if host.cgroup.closed.is_empty() || !host.cgroup.is_closed() {
        return place;
    }
    let text = format!("the container has no cgroup: {}", why_nowhere(host));
    if names_nothing(given) {
        check.note("", text)
    } else {
        check.warn(PLACE, text)
    }
    if !namespaces.spawn.makes(Namespace::Pid) {
        check
            .warn("", "without a cgroup and a pid namespace of its own, only its first process can be found");
    }
    CgroupPlace::Nowhere
}

/// With the command that helps.
fn why_nowhere(host: &Host) -> String {
    let euid = host.euid;
    let help = match (host.cgroup.mode, host.systemd) {
        (CgroupMode::V2, ServiceManager::User) => {
            "`--systemd-cgroup` before the verb has the user's systemd make one".to_string()
        }
        (CgroupMode::V2, ServiceManager::System) => format!(
            "`loginctl enable-linger {euid}` starts a systemd of the user, and `--systemd-cgroup` before the verb has it \
             make one"
        ),
        (CgroupMode::V2, ServiceManager::None) => {
            format!(
                "root can make one for this command to run in, and give it away: `chown -R {euid} DIRECTORY`"
            )
        }
        _ => "the controllers of cgroup v1 are root's alone".to_string(),
    };
    format!("uid {euid} may not make a cgroup here; {help}")
}

/// Where a document puts the cgroup of the container `id`; only for documents that were planned before.
pub fn cgroup_path(spec: &Spec, id: &str) -> CgroupPath {
    place(&given_path(spec.linux().as_ref()), id)
}

fn given_path(linux: Option<&Linux>) -> String {
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn names_nothing(path: &str) -> bool {
    path.split('/').all(|part| matches!(part, "" | "."))
}

fn place(given: &str, id: &str) -> CgroupPath {
    if given.starts_with('/') {
        CgroupPath::Absolute(given.into())
    } else if names_nothing(given) {
        CgroupPath::Relative(id.into())
    } else {
        CgroupPath::Relative(given.into())
    }
}

/// `slice:prefix:name` is a name like any other here: BuildKit gives it to a runtime without `--systemd-cgroup`.
fn path(given: &str, options: &Options, check: &mut Check) -> CgroupPath {
    if given.contains(['\0', '\n']) {
        check.refuse(PLACE, "must not hold a NUL or a newline", given);
    }
    if given.split('/').any(|part| part == "..") {
        check.refuse(PLACE, "must not have .. in it", given);
    }
    if names_nothing(given) && given.starts_with('/') {
        check.refuse(PLACE, "must not be the root cgroup", given);
    }
    place(given, &options.id)
}

/// The three conditions of runtime-spec config-linux.md "Cgroup ownership": cgroup v2, a new cgroup namespace,
/// and a cgroup filesystem that the container may write to.
fn owner(spec: &Spec, host: &Host, namespaces: &Namespaces) -> Option<u32> {
    if host.cgroup.mode != CgroupMode::V2 || !namespaces.new_cgroup || !writable_tree(spec) {
        return None;
    }
    let uid = spec.process().as_ref()?.user().uid();
    if namespaces.spawn.joins(Namespace::User) {
        // Its mapping is not known before it is opened.
        return None;
    }
    if !namespaces.spawn.makes(Namespace::User) {
        return Some(uid);
    }
    namespaces.spawn.uid_map.iter().find_map(|map| {
        let offset = uid.checked_sub(map.container).filter(|&offset| offset < map.size)?;
        map.host.checked_add(offset)
    })
}

/// Of several mounts at one place, the last is what the container sees.
fn writable_tree(spec: &Spec) -> bool {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let last = mounts.iter().rev().find(|m| clean(&m.destination().to_string_lossy()) == "/sys/fs/cgroup");
    last.is_some_and(|mount| {
        let read = mount_options::read(mount.options().as_deref().unwrap_or_default());
        let set = read.attributes.set | read.attributes.recursive_set;
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) && set & RDONLY == 0
    })
}
