// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mounts`: which filesystem, bind or change each entry of the document is.
//!
//! Never looks at a source or a target: init does, inside the root. From `mounts` and `linux.mountLabel` to steps.

use oci_spec::runtime::{Linux, LinuxIdMapping, Spec};

use crate::check::{Check, below, clean, shown};
use crate::mount_options::{self, BindKind, MountOptions, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::namespaces::{Namespaces, id_map};
use crate::types::{
    Action, Attributes, Bind, BindSource, Host, Mount, MountIdMap, Namespace, Options, Remount, Step,
};
use crate::{cgroup_mount, types::IdMap};

/// `fs.mount-max`, as kernels ship it.
const MAX_MOUNTS: usize = 100_000;

/// Where the process finds the socket for sd_notify(3), as other runtimes have it.
pub const NOTIFY_SOCKET: &str = "/run/notify/notify.sock";
const NOTIFY_DIRECTORY: &str = "/run/notify";

/// fsconfig(2) takes keys and values of up to 255 bytes.
const MAX_OPTION: usize = 255;

/// What may be bound over inside of /proc: the files of lxcfs, and those that checkpoint and crypto tools need.
/// Anything else there would redirect the runtime's own writes (CVE-2019-19921, CVE-2023-28642).
const PROC_FILES: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
    "/proc/pressure",
];

/// The steps of all mounts, in document order, and what must be sealed after everything is in place.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(crate) steps: Vec<Step>,
    pub(crate) seals: Vec<Step>,
    /// The container's /dev is someone else's: nothing is made in it.
    pub(crate) dev_is_bound: bool,
}

/// One entry of the document, read but not yet decided.
pub(crate) struct Entry<'a> {
    pub(crate) place: String,
    pub(crate) target: String,
    pub(crate) fstype: &'a str,
    pub(crate) source: String,
    pub(crate) options: MountOptions,
}

pub(crate) fn plan(
    spec: &Spec,
    host: &Host,
    options: &Options,
    namespaces: &Namespaces,
    check: &mut Check,
) -> Mounts {
    let mut planned = Mounts::default();
    let given = spec.mounts().as_deref().unwrap_or_default();
    if given.len() > MAX_MOUNTS {
        check.refuse("mounts", "more than fs.mount-max allows", given.len());
        return planned;
    }
    let label = mount_label(spec.linux().as_ref(), host, check);
    let mut targets: Vec<String> = given.iter().map(|m| clean(&m.destination().to_string_lossy())).collect();
    if !options.notify.is_empty() {
        targets.push(NOTIFY_DIRECTORY.to_string());
    }
    for (i, mount) in given.iter().enumerate() {
        let place = format!("mounts[{i}]");
        let destination = mount.destination().to_string_lossy();
        let target = targets[i].clone();
        check.text(&format!("{place}.destination"), &destination);
        if target == "/" {
            let rule = "must be a path below the root, which is set up before the mounts";
            check.refuse(format!("{place}.destination"), rule, &destination);
            continue;
        }
        if !destination.starts_with('/') {
            check.warn(
                format!("{place}.destination"),
                format!("is relative, taken from /: {}", shown(&destination)),
            );
        }
        let mut read = mount_options::read(mount.options().as_deref().unwrap_or_default());
        let fstype = mount.typ().as_deref().unwrap_or_default();
        if fstype == "bind" && read.bind.is_none() {
            read.bind = Some(BindKind::One);
        }
        let source = mount.source().as_deref().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        check.text(&format!("{place}.source"), &source);
        check.text(&format!("{place}.type"), fstype);
        for (key, value) in &read.data {
            check.text(&format!("{place}.options"), key);
            check.text(&format!("{place}.options"), value);
            if key.len() > MAX_OPTION || value.len() > MAX_OPTION {
                let rule = format!("the kernel takes keys and values of at most {MAX_OPTION} bytes");
                check.refuse(format!("{place}.options"), &rule, format!("{key}={value}"));
            }
        }
        let ids = mount_id_map(
            &read,
            mount.uid_mappings().as_deref().unwrap_or_default(),
            mount.gid_mappings().as_deref().unwrap_or_default(),
            namespaces,
            &place,
            check,
        );
        if ids != MountIdMap::None && read.bind.is_some() && !host.may_mount() {
            // mount_setattr(2): a right over the filesystem, not only over the mount.
            let rule = "mapping the ids of a bind takes CAP_SYS_ADMIN where its filesystem was mounted, which this \
                        caller lacks";
            check.violation(&place, rule);
        }
        if target == "/dev" && read.bind.is_some() && !read.remount {
            planned.dev_is_bound = true;
        }
        let entry = Entry { place, target, fstype, source, options: read };
        proc_rules(&entry, check);
        if entry.options.copy_up && (fstype != "tmpfs" || entry.options.bind.is_some()) {
            check.refuse(format!("{}.options", entry.place), "tmpcopyup needs the type tmpfs", fstype);
        }
        if entry.options.remount {
            if ids != MountIdMap::None {
                check.violation(format!("{}.options", entry.place), "a remount cannot map ids");
            }
            planned.steps.push(remount(entry));
        } else if entry.options.bind.is_some() {
            bind(entry, options, ids, &mut planned, check);
        } else if fstype == "cgroup" || fstype == "cgroup2" {
            cgroup_mount::plan(entry, host, namespaces, &mut planned, check);
        } else if fstype.is_empty() || fstype == "none" {
            let rule = "must name a filesystem, unless bind or rbind is among the options";
            check.refuse(format!("{}.type", entry.place), rule, fstype);
        } else {
            let mut entry = entry;
            drop_unmapped_group(&mut entry, namespaces, check);
            match hosts_own(entry.fstype, host, namespaces) {
                // Queues are there without it.
                Some((source, why)) if entry.fstype == "mqueue" && !host.mqueue => {
                    check.warn(&entry.place, format!("{why}, and the host has no {source}: left out"));
                }
                Some((source, why)) => {
                    check.note(&entry.place, format!("{why}, so the host's {source} is bound"));
                    planned.steps.push(bind_hosts_own(entry, source));
                }
                None => {
                    let covered = targets[i + 1..].iter().any(|later| below(later, &entry.target));
                    filesystem(entry, covered, label, ids, &mut planned);
                }
            }
        }
    }
    if !options.notify.is_empty() {
        planned.steps.push(notify(&options.notify));
    }
    planned
}

/// The directory, because its socket may be made later. Writing to a socket is not writing to its filesystem.
fn notify(directory: &str) -> Step {
    let bind = Bind {
        source: BindSource::Path(directory.to_string()),
        target: NOTIFY_DIRECTORY.to_string(),
        recursive: false,
        attributes: Attributes { set: RDONLY | NOSUID | NODEV | NOEXEC, ..Attributes::default() },
        propagation: Vec::new(),
        id_map: MountIdMap::None,
    };
    Step { action: Action::Bind(bind), place: String::new() }
}

/// These filesystems show a namespace. In a user namespace they can be made of those alone that belong to it: of the
/// host's, what the host has mounted is the same. (Where, why.)
fn hosts_own(fstype: &str, host: &Host, namespaces: &Namespaces) -> Option<(&'static str, &'static str)> {
    let (namespace, source, why) = match fstype {
        "sysfs" => (Namespace::Network, "/sys", "a new sysfs needs a network namespace"),
        "proc" => (Namespace::Pid, "/proc", "a new procfs needs a pid namespace"),
        "mqueue" => (Namespace::Ipc, "/dev/mqueue", "a new mqueue needs an ipc namespace"),
        _ => return None,
    };
    let foreign = namespaces.user() || host.user_namespace.foreign.contains(&namespace);
    (foreign && !namespaces.has(namespace)).then_some((source, why))
}

/// What the document forbids is forbidden in all that is mounted in it, as in one new filesystem. How access times are
/// kept is the host's to say: in a user namespace that cannot be changed.
fn bind_hosts_own(entry: Entry<'_>, source: &str) -> Step {
    let attributes = mount_options::for_new_filesystem(entry.options.attributes);
    let recursive_set = attributes.set & mount_options::PROTECTING;
    let bind = Bind {
        source: BindSource::Path(source.to_string()),
        target: entry.target,
        recursive: true,
        attributes: Attributes { recursive_set, ..Attributes::default() },
        propagation: entry.options.propagation,
        id_map: MountIdMap::None,
    };
    Step { action: Action::Bind(bind), place: entry.place }
}

/// Terminals belong to the group `tty` where there is one; elsewhere to that of the process.
fn drop_unmapped_group(entry: &mut Entry<'_>, namespaces: &Namespaces, check: &mut Check) {
    if entry.fstype != "devpts" {
        return;
    }
    let unmapped =
        |key: &str, value: &str| key == "gid" && value.parse().is_ok_and(|gid| !namespaces.maps_gid(gid));
    let data = &mut entry.options.data;
    if let Some(at) = data.iter().position(|(key, value)| unmapped(key, value)) {
        let (_, gid) = data.remove(at);
        let text = format!("gid={gid} is left out: the group is not mapped in the user namespace");
        check.note(format!("{}.options", entry.place), text);
    }
}

fn proc_rules(entry: &Entry<'_>, check: &mut Check) {
    let place = format!("{}.destination", entry.place);
    let bound = entry.options.bind.is_some();
    if entry.target == "/proc" {
        if bound && !entry.options.remount && entry.source.trim_end_matches('/') != "/proc" {
            check.refuse(place, "only a procfs may be at /proc, not a bind", &entry.source);
        } else if !bound && !entry.options.remount && entry.fstype != "proc" {
            check.refuse(place, "only a procfs may be at /proc", entry.fstype);
        }
    } else if below(&entry.target, "/proc") && !(bound && PROC_FILES.contains(&entry.target.as_str())) {
        check.refuse(place, "inside of /proc only a few known files may be bound over", &entry.target);
    }
}

/// SELinux labels for the filesystems that take them.
fn mount_label<'a>(linux: Option<&'a Linux>, host: &Host, check: &mut Check) -> &'a str {
    let label = linux.and_then(|l| l.mount_label().as_deref()).unwrap_or_default();
    if !label.is_empty() && !host.selinux {
        check.refuse("linux.mountLabel", "SELinux is not enabled on this host", label);
    }
    label
}

fn mount_id_map(
    options: &MountOptions,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
    namespaces: &Namespaces,
    place: &str,
    check: &mut Check,
) -> MountIdMap {
    let recursive = options.id_map == Some(BindKind::Recursive);
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) if options.id_map.is_none() => MountIdMap::None,
        (true, true) => {
            if !namespaces.user() {
                let rule = "idmap needs uidMappings and gidMappings, or a user namespace";
                check.violation(format!("{place}.options"), rule);
            }
            MountIdMap::Container { recursive }
        }
        (false, false) => {
            let uid_map: Vec<IdMap> = id_map(uids, &format!("{place}.uidMappings"), check);
            let gid_map = id_map(gids, &format!("{place}.gidMappings"), check);
            MountIdMap::Given { uid_map, gid_map, recursive }
        }
        (uids_missing, _) => {
            let missing = if uids_missing { "uidMappings" } else { "gidMappings" };
            check.violation(place, format!("uidMappings and gidMappings go together ({missing} is missing)"));
            MountIdMap::None
        }
    }
}

fn remount(entry: Entry<'_>) -> Step {
    let reconfigure = entry.options.bind.is_none();
    let mut options = Vec::new();
    if reconfigure {
        // Without bind it is the filesystem that changes, so read-only is a matter of its superblock as well.
        if let Some(readonly) = entry.options.readonly {
            options.push((if readonly { "ro" } else { "rw" }.to_string(), String::new()));
        }
        options.extend(entry.options.flags.iter().map(|flag| (flag.to_string(), String::new())));
        options.extend(entry.options.data);
    }
    let remount = Remount {
        target: entry.target,
        options,
        reconfigure,
        attributes: entry.options.attributes,
        propagation: entry.options.propagation,
    };
    Step { action: Action::Remount(remount), place: entry.place }
}

fn bind(entry: Entry<'_>, options: &Options, ids: MountIdMap, planned: &mut Mounts, check: &mut Check) {
    let place = entry.place;
    if let Some((key, value)) = entry.options.data.first() {
        let shown = if value.is_empty() { key.clone() } else { format!("{key}={value}") };
        check.refuse(format!("{place}.options"), "a bind mount takes no filesystem options", shown);
    }
    if entry.source.is_empty() {
        check.violation(format!("{place}.source"), "a bind mount needs a source");
        return;
    }
    let source = if entry.source.starts_with('/') {
        entry.source
    } else {
        format!("{}/{}", options.bundle.trim_end_matches('/'), entry.source)
    };
    // `rw` and its like are what a mount is without further words. They take back words before them, but not what the
    // host has put on the source: engines write `rw` on every volume. The recursive words are never written in passing.
    let mut attributes = entry.options.attributes;
    attributes.clear &= !mount_options::PROTECTING;
    planned.steps.push(Step {
        action: Action::Bind(Bind {
            source: BindSource::Path(source),
            target: entry.target,
            recursive: entry.options.bind == Some(BindKind::Recursive),
            attributes,
            propagation: entry.options.propagation,
            id_map: ids,
        }),
        place,
    });
}

fn filesystem(entry: Entry<'_>, covered: bool, label: &str, ids: MountIdMap, planned: &mut Mounts) {
    let tmpfs = entry.fstype == "tmpfs";
    let mut attributes = mount_options::for_new_filesystem(entry.options.attributes);
    let filled = tmpfs && (entry.target == "/dev" || entry.options.copy_up || covered);
    let late_readonly = filled && attributes.set & RDONLY != 0;
    if late_readonly {
        attributes.set &= !RDONLY;
        planned.seals.push(Step {
            action: Action::SealReadonly { target: entry.target.clone() },
            place: entry.place.clone(),
        });
    }
    let mode_of_target = tmpfs && !entry.options.data.iter().any(|(key, _)| key == "mode");
    let mut options: Vec<(String, String)> =
        entry.options.flags.iter().map(|flag| (flag.to_string(), String::new())).collect();
    options.extend(entry.options.data);
    // proc, sysfs and mqueue refuse a context.
    if !label.is_empty() && !matches!(entry.fstype, "proc" | "sysfs" | "mqueue") {
        options.push(("context".to_string(), label.to_string()));
    }
    planned.steps.push(Step {
        action: Action::Mount(Mount {
            target: entry.target,
            fstype: entry.fstype.to_string(),
            source: entry.source,
            options,
            attributes,
            propagation: entry.options.propagation,
            copy_up: entry.options.copy_up,
            mode_of_target,
            late_readonly,
            id_map: ids,
        }),
        place: entry.place,
    });
}

/// For mounts that the planner adds.
pub(crate) fn plain_mount(
    target: String,
    fstype: &str,
    options: Vec<(String, String)>,
    set: Attributes,
) -> Mount {
    Mount {
        target,
        fstype: fstype.to_string(),
        source: fstype.to_string(),
        options,
        attributes: set,
        propagation: Vec::new(),
        copy_up: false,
        mode_of_target: false,
        late_readonly: false,
        id_map: MountIdMap::None,
    }
}
