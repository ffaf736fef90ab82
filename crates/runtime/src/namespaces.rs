// SPDX-License-Identifier: MIT OR Apache-2.0
//! Namespaces: their flags, joining by path, and the maps of user namespaces.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use coracle_plan::{IdMap, JoinNamespace, Namespace, Spawn};
use coracle_sys::clone;

use crate::errno;
use crate::error::{Code, Error, Result};

pub(crate) fn flag(namespace: Namespace) -> u64 {
    match namespace {
        Namespace::User => clone::NEWUSER,
        Namespace::Mount => clone::NEWNS,
        Namespace::Pid => clone::NEWPID,
        Namespace::Network => clone::NEWNET,
        Namespace::Ipc => clone::NEWIPC,
        Namespace::Uts => clone::NEWUTS,
        Namespace::Cgroup => clone::NEWCGROUP,
        Namespace::Time => clone::NEWTIME,
    }
}

pub(crate) fn flags(spawn: &Spawn) -> u64 {
    spawn.new.iter().fold(0, |flags, namespace| flags | flag(*namespace))
}

/// Open the namespaces to join; each must be of its type. Opening never blocks, whatever is there.
pub(crate) fn open(spawn: &Spawn) -> Result<Vec<OwnedFd>> {
    spawn.join.iter().map(open_one).collect()
}

fn open_one(join: &JoinNamespace) -> Result<OwnedFd> {
    let what = || format!("{}: namespace {}", join.place, join.path);
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&join.path)
        .map_err(|error| Error::io(what(), &error))?;
    match clone::namespace_type(file.as_raw_fd()) {
        Ok(kind) if kind == flag(join.namespace) => Ok(file.into()),
        Ok(_) => Err(Error::new(Code::Invalid, format!("{} is of another type", what()))),
        Err(_) => Err(Error::new(Code::Invalid, format!("{} is not a namespace", what()))),
    }
}

/// What to write to timens_offsets (time_namespaces(7)).
pub(crate) fn time_offsets(spawn: &Spawn) -> Vec<u8> {
    let lines = spawn.time_offsets.iter();
    lines
        .map(|(clock, seconds, nanoseconds)| format!("{clock} {seconds} {nanoseconds}\n"))
        .collect::<String>()
        .into()
}

/// Write the maps of a process's new user namespace (user_namespaces(7)). Each map is one write; an empty one is none.
pub(crate) fn write_maps(pid: i32, uid_map: &[IdMap], gid_map: &[IdMap], deny_setgroups: bool) -> Result<()> {
    let failed = |name: &str, error| Error::io(format!("write {name} of the new user namespace"), &error);
    if deny_setgroups {
        write(pid, "setgroups", "deny").map_err(|error| failed("setgroups", error))?;
    }
    for (name, map) in [("uid_map", uid_map), ("gid_map", gid_map)] {
        if map.is_empty() {
            continue;
        }
        write(pid, name, &lines(map)).map_err(|error| {
            // user_namespaces(7), since Linux 5.12.
            let of_root = name == "uid_map" && map.iter().any(|line| line.host == 0);
            match error.raw_os_error() {
                Some(libc::EPERM) if of_root => failed(name, error)
                    .hint("uid 0 of the caller's user namespace is mapped with CAP_SETFCAP only, which the caller lacks"),
                _ => failed(name, error),
            }
        })?;
    }
    Ok(())
}

fn lines(map: &[IdMap]) -> String {
    map.iter().map(|m| format!("{} {} {}\n", m.container, m.host, m.size)).collect()
}

fn write(pid: i32, name: &str, text: &str) -> std::io::Result<()> {
    File::options().write(true).open(format!("/proc/{pid}/{name}"))?.write_all(text.as_bytes())
}

/// The caller's own namespaces that belong to a user namespace above its own, of those kinds that matter.
pub(crate) fn foreign() -> Result<Vec<Namespace>> {
    let mut foreign = Vec::new();
    for (namespace, name) in [
        (Namespace::Mount, "mnt"),
        (Namespace::Network, "net"),
        (Namespace::Pid, "pid"),
        (Namespace::Ipc, "ipc"),
    ] {
        let path = format!("/proc/self/ns/{name}");
        let file = File::open(&path).map_err(|error| Error::io(&path, &error))?;
        match clone::owning_namespace(file.as_raw_fd()) {
            Ok(_) => {}
            Err(coracle_sys::Errno::PERM) => foreign.push(namespace),
            Err(error) => return Err(Error::system(format!("owner of {path}"), errno(error))),
        }
    }
    Ok(foreign)
}

/// What an id of the process's user namespace is outside; `None` if it is nobody there.
pub(crate) fn outside_id(pid: i32, uid: u32) -> Result<Option<u32>> {
    let path = format!("/proc/{pid}/uid_map");
    let text = coracle_sys::fd::read_file(&path).map_err(|error| Error::io(&path, &error))?;
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u32>().ok());
        Some((numbers.next()?, numbers.next()?, numbers.next()?))
    });
    let mut found = lines.filter_map(|(inside, outside, size)| {
        uid.checked_sub(inside).filter(|offset| *offset < size)?.checked_add(outside)
    });
    Ok(found.next())
}

/// A user namespace with these maps, for the ids of a mount: nobody is ever in it.
pub(crate) fn user_namespace(uid_map: &[IdMap], gid_map: &[IdMap]) -> Result<OwnedFd> {
    let holder = clone::UserNamespaceHolder::new()
        .map_err(|error| Error::system("make a user namespace for the mount's ids", errno(error)))?;
    write_maps(holder.pid(), uid_map, gid_map, false)?;
    let path = format!("/proc/{}/ns/user", holder.pid());
    File::open(&path).map(OwnedFd::from).map_err(|error| Error::io(path, &error))
}
