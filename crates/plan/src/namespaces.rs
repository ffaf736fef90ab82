// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.namespaces`, the id mappings and the clock offsets: what the clone makes and what it joins.
//!
//! Never opens a path: the runtime does, and checks the type there. From the document to [`Spawn`].

use std::collections::BTreeMap;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use crate::check::Check;
use crate::sub_ids;
use crate::types::{Host, IdMap, JoinNamespace, MapWriter, Namespace, Spawn};

/// The kernel takes at most this many lines for a map (user_namespaces(7)).
const MAX_MAP_LINES: usize = 340;

/// The namespaces that this version can make and join, by their names in the document.
const NAMES: [(&str, Namespace); 8] = [
    ("cgroup", Namespace::Cgroup),
    ("ipc", Namespace::Ipc),
    ("mount", Namespace::Mount),
    ("network", Namespace::Network),
    ("pid", Namespace::Pid),
    ("time", Namespace::Time),
    ("user", Namespace::User),
    ("uts", Namespace::Uts),
];

/// Names of the namespaces for the features document, sorted.
pub fn namespace_names() -> Vec<&'static str> {
    NAMES.iter().map(|&(name, _)| name).collect()
}

pub(crate) fn name(namespace: Namespace) -> &'static str {
    NAMES.iter().find(|entry| entry.1 == namespace).map_or("", |entry| entry.0)
}

/// The namespaces as planned, and what other topics ask about them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) spawn: Spawn,
    /// A new cgroup namespace: init unshares it, so the clone does not know of it.
    pub(crate) new_cgroup: bool,
    /// Where it was asked for.
    pub(crate) cgroup_place: String,
    /// setgroups(2) is not permitted to the container's process.
    pub(crate) setgroups_denied: bool,
    /// The ids that exist in the container; also known when a user namespace with mappings is joined. Without a user
    /// namespace they are those of the caller's own.
    uids: Vec<IdMap>,
    gids: Vec<IdMap>,
}

impl Namespaces {
    pub(crate) fn has(&self, namespace: Namespace) -> bool {
        match namespace {
            Namespace::Cgroup => self.new_cgroup || self.spawn.joins(Namespace::Cgroup),
            other => self.spawn.makes(other) || self.spawn.joins(other),
        }
    }

    /// A mount namespace of its own, where mounts can be made.
    pub(crate) fn own_mounts(&self) -> bool {
        self.spawn.makes(Namespace::Mount)
    }

    pub(crate) fn user(&self) -> bool {
        self.has(Namespace::User)
    }

    /// Does the group exist in the container? Where the map is not known, it is taken to.
    pub(crate) fn maps_gid(&self, gid: u32) -> bool {
        self.gids.is_empty() || is_mapped(gid, &self.gids)
    }

    /// Unmapped ids cannot be used at all; without a map nothing is known, or everything is mapped.
    pub(crate) fn check_uid(&self, check: &mut Check, place: &str, id: u32) {
        check_id(check, place, id, &self.uids, &self.spawn.user_added);
    }

    pub(crate) fn check_gid(&self, check: &mut Check, place: &str, id: u32) {
        check_id(check, place, id, &self.gids, &self.spawn.user_added);
    }
}

fn is_mapped(id: u32, map: &[IdMap]) -> bool {
    map.iter().any(|m| (m.container..m.container.saturating_add(m.size)).contains(&id))
}

/// setresuid(-1) leaves an id as it is, so a process given 4294967295 would stay root.
fn check_id(check: &mut Check, place: &str, id: u32, map: &[IdMap], added: &str) {
    if id == u32::MAX {
        check.refuse(place, "is not an id: the kernel reads it as \"unchanged\"", id);
    } else if !map.is_empty() && !is_mapped(id, map) {
        let added = if added.is_empty() { String::new() } else { format!(", which was added: {added}") };
        check.refuse(place, &format!("is not mapped in the user namespace{added}"), id);
    }
}

pub(crate) fn plan(linux: Option<&Linux>, host: &Host, check: &mut Check) -> Namespaces {
    let mut spawn = Spawn {
        new: Vec::new(),
        join: Vec::new(),
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        uid_writer: MapWriter::Privileged,
        gid_writer: MapWriter::Privileged,
        user_added: String::new(),
        time_offsets: Vec::new(),
    };
    let mut new_cgroup = false;
    let mut cgroup_place = String::new();
    let mut seen: Vec<Namespace> = Vec::new();
    let listed = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    for (i, entry) in listed.iter().enumerate() {
        let place = format!("linux.namespaces[{i}]");
        let namespace = namespace_of(entry.typ());
        if seen.contains(&namespace) {
            check.refuse(format!("{place}.type"), "a namespace type may be given once", name(namespace));
            continue;
        }
        seen.push(namespace);
        let path = entry.path().as_deref().map(|p| p.to_string_lossy()).unwrap_or_default();
        if !path.is_empty() {
            check.absolute(&format!("{place}.path"), &path);
            spawn.join.push(JoinNamespace {
                namespace,
                path: path.into_owned(),
                place: format!("{place}.path"),
            });
        } else if namespace == Namespace::Cgroup {
            new_cgroup = true;
            cgroup_place = place;
        } else {
            spawn.new.push(namespace);
        }
    }
    let added = !host.privileged && !seen.contains(&Namespace::User);
    if added {
        spawn.new.push(Namespace::User);
    }
    // The user namespace comes first: it decides what is permitted in all others.
    spawn.new.sort();
    spawn.join.sort_by_key(|join| join.namespace);

    let given = |lines: &Option<Vec<LinuxIdMapping>>| lines.as_ref().is_some_and(|lines| !lines.is_empty());
    let (uids, gids) = match linux {
        Some(linux) if !added || given(linux.uid_mappings()) || given(linux.gid_mappings()) => {
            if added {
                spawn.user_added = "its ids are those of the document".to_string();
                check.note("linux.namespaces", format!("a user namespace is added: {}", spawn.user_added));
            }
            id_maps(Some(linux), &mut spawn, check)
        }
        _ if added => {
            let (uids, gids, why) = sub_ids::maps(host);
            check.note("linux.namespaces", format!("a user namespace is added: {why}"));
            spawn.user_added = why;
            (spawn.uid_map, spawn.gid_map) = (uids.clone(), gids.clone());
            (uids, gids)
        }
        linux => id_maps(linux, &mut spawn, check),
    };
    if spawn.makes(Namespace::User) && !host.privileged {
        spawn.uid_writer = sub_ids::writer(&spawn.uid_map, host.euid, sub_ids::UIDS, host, check);
        spawn.gid_writer = sub_ids::writer(&spawn.gid_map, host.egid, sub_ids::GIDS, host, check);
    }
    spawn.time_offsets = time_offsets(linux, &spawn, check);
    let own = &host.user_namespace;
    let (uids, gids) = match spawn.makes(Namespace::User) || spawn.joins(Namespace::User) {
        true => (uids, gids),
        false => (own.uid_map.clone(), own.gid_map.clone()),
    };
    // An unprivileged caller may write a gid map of its own, of one id, only after giving up setgroups(2)
    // (CVE-2014-8989); a longer one is written by newgidmap, and setgroups stays.
    let setgroups_denied =
        spawn.gid_writer == MapWriter::OwnId || own.setgroups_denied && !spawn.joins(Namespace::User);
    Namespaces { spawn, new_cgroup, cgroup_place, setgroups_denied, uids, gids }
}

fn namespace_of(kind: LinuxNamespaceType) -> Namespace {
    match kind {
        LinuxNamespaceType::Mount => Namespace::Mount,
        LinuxNamespaceType::Cgroup => Namespace::Cgroup,
        LinuxNamespaceType::Uts => Namespace::Uts,
        LinuxNamespaceType::Ipc => Namespace::Ipc,
        LinuxNamespaceType::User => Namespace::User,
        LinuxNamespaceType::Pid => Namespace::Pid,
        LinuxNamespaceType::Network => Namespace::Network,
        LinuxNamespaceType::Time => Namespace::Time,
    }
}

/// Fills the maps of a new user namespace; returns what is known about the ids inside.
fn id_maps(linux: Option<&Linux>, spawn: &mut Spawn, check: &mut Check) -> (Vec<IdMap>, Vec<IdMap>) {
    let uids = linux.and_then(|l| l.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default();
    let places = [("linux.uidMappings", uids), ("linux.gidMappings", gids)];
    if !spawn.makes(Namespace::User) && !spawn.joins(Namespace::User) {
        for (place, lines) in places {
            if !lines.is_empty() {
                check.violation(place, "needs a user namespace in linux.namespaces");
            }
        }
        return (Vec::new(), Vec::new());
    }
    for (place, lines) in places {
        if spawn.makes(Namespace::User) && lines.is_empty() {
            check.violation(place, "a new user namespace needs at least one mapping");
        }
    }
    let maps = (id_map(uids, "linux.uidMappings", check), id_map(gids, "linux.gidMappings", check));
    for (map, place) in [(&maps.0, "linux.uidMappings"), (&maps.1, "linux.gidMappings")] {
        if !map.is_empty() && !map.iter().any(|m| m.container == 0) {
            check.violation(place, "must map the container's id 0, which sets the container up");
        }
    }
    if spawn.makes(Namespace::User) {
        (spawn.uid_map, spawn.gid_map) = maps.clone();
    } else if !uids.is_empty() || !gids.is_empty() {
        // Engines repeat the pod's mappings beside the path of its namespace.
        check
            .warn("linux.uidMappings", "not written: the user namespace that is joined has its own mappings");
    }
    maps
}

/// One map, checked as the kernel will check it when it is written.
pub(crate) fn id_map(lines: &[LinuxIdMapping], place: &str, check: &mut Check) -> Vec<IdMap> {
    if lines.len() > MAX_MAP_LINES {
        check.refuse(place, &format!("at most {MAX_MAP_LINES} mappings are possible"), lines.len());
        return Vec::new();
    }
    let mut map: Vec<IdMap> = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        let place = format!("{place}[{i}]");
        let new = IdMap { container: line.container_id(), host: line.host_id(), size: line.size() };
        if new.size == 0 {
            check.refuse(format!("{place}.size"), "must be at least 1", new.size);
            continue;
        }
        // 4294967295 is no id, so a range ends at 4294967294 at the latest.
        let mut fits = true;
        for (field, first) in [("containerID", new.container), ("hostID", new.host)] {
            if u64::from(first) + u64::from(new.size) > u64::from(u32::MAX) {
                check.refuse(
                    format!("{place}.{field}"),
                    "the range runs past the last id",
                    format!("{first}, size {}", new.size),
                );
                fits = false;
            }
        }
        if !fits {
            continue;
        }
        let meets = |a: u32, a_size: u32, b: u32, b_size: u32| a < b + b_size && b < a + a_size;
        if let Some(j) = map.iter().position(|old| {
            meets(old.container, old.size, new.container, new.size)
                || meets(old.host, old.size, new.host, new.size)
        }) {
            let shown = format!("{}:{}:{}", new.container, new.host, new.size);
            check.refuse(&place, &format!("overlaps with mapping {j}"), shown);
            continue;
        }
        map.push(new);
    }
    map
}

fn time_offsets(linux: Option<&Linux>, spawn: &Spawn, check: &mut Check) -> Vec<(String, i64, u32)> {
    let Some(given) = linux.and_then(|l| l.time_offsets().as_ref()).filter(|m| !m.is_empty()) else {
        return Vec::new();
    };
    if !spawn.makes(Namespace::Time) {
        check.violation("linux.timeOffsets", "needs a new time namespace in linux.namespaces");
    }
    let mut offsets = Vec::new();
    for (clock, offset) in given.iter().collect::<BTreeMap<_, _>>() {
        if clock != "monotonic" && clock != "boottime" {
            check.refuse("linux.timeOffsets", "the clock must be monotonic or boottime", clock);
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            check.refuse(
                format!("linux.timeOffsets.{}.nanosecs", crate::check::shown(clock)),
                "must be below 1000000000",
                nanoseconds,
            );
        }
        offsets.push((clock.clone(), offset.secs().unwrap_or(0), nanoseconds));
    }
    offsets
}
