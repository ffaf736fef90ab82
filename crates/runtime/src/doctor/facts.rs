// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to know of host and caller before anything is said about it.
//!
//! Judges nothing, changes nothing, and never fails: what cannot be read is a fact too. From procfs, sysfs, files in
//! /etc and harmless calls, to [`super::judge`].

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coracle_cgroup::Systemd;
use coracle_plan::{CgroupHost, CgroupMode};
use coracle_sys::probe::{self, Call};
use coracle_sys::{fd, seccomp};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, access};

use super::attempt::{self, Attempt, Wanted};
use crate::probe::{Needs, host};
use crate::status::user_name;

/// (first id, how many).
pub(crate) type Range = (u32, u32);

#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub caller: Caller,
    /// As uname(1) has it.
    pub kernel: String,
    pub calls: Vec<Call>,
    pub pidfd_info: bool,
    /// Init run from memory, without namespaces.
    pub memory_program: Result<(), String>,
    pub memfd_noexec: Option<u64>,
    /// Names of actions of filters, and whether the kernel knows them.
    pub seccomp_actions: Vec<(&'static str, bool)>,
    pub seccomp_listener: bool,
    pub security_modules: String,
    pub apparmor: bool,
    pub selinux_enforcing: Option<bool>,
    /// `/proc/sys/user/max_NAME_namespaces`, those that are there.
    pub namespace_limits: Vec<(&'static str, u64)>,
    /// Debian's sysctl.
    pub unprivileged_userns_clone: Option<u64>,
    /// Ubuntu's sysctl.
    pub apparmor_restrict: Option<u64>,
    pub subuid: Result<Vec<Range>, String>,
    pub subgid: Result<Vec<Range>, String>,
    /// nsswitch.conf has subordinate ids come from elsewhere than the two files.
    pub subid_service: Option<String>,
    pub newuidmap: Tool,
    pub newgidmap: Tool,
    /// The ranges, mapped by the tools; None where there is nothing to try.
    pub mapped: Option<Result<(), String>>,
    pub cgroup: Cgroups,
    pub system_manager: Result<String, String>,
    pub user_manager: Result<String, String>,
    pub overlay_loaded: bool,
    /// (keys in the caller's quota, the quota).
    pub keys: Option<(u64, u64)>,
    pub tun: Tun,
    pub state: StateRoot,
    /// As the caller.
    pub own: Attempt,
    pub own_init: Result<(), String>,
    /// As nobody, when root asks.
    pub ordinary: Option<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub name: String,
    pub euid: u32,
    pub egid: u32,
    /// CAP_SYS_ADMIN is effective.
    pub privileged: bool,
    pub initial_user_namespace: bool,
    pub no_new_privs: bool,
    /// Whatever of this could not be found out.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tool {
    pub path: Option<String>,
    pub setuid: bool,
    pub capability: bool,
    /// On a filesystem that is mounted with nosuid.
    pub nosuid: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroups {
    pub mode: CgroupMode,
    /// Where the caller may make cgroups or should be able to.
    pub places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub directory: String,
    pub controllers: Vec<String>,
    pub writable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tun {
    Usable,
    Refused,
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateRoot {
    pub path: String,
    /// The path itself, or the nearest directory above it that is there.
    pub nearest: String,
    pub directory: bool,
    pub owner: u32,
    pub mode: u32,
    pub writable: bool,
}

pub(crate) fn gather(root: &Path) -> Facts {
    let (caller, cgroup_host) = caller();
    let user_namespace = !caller.privileged;
    let overlay_loaded = text("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay"));
    let wanted = Wanted {
        nobody: false,
        user_namespace,
        overlay: overlay_loaded,
        euid: caller.euid,
        egid: caller.egid,
    };
    let root_asks = caller.privileged && caller.initial_user_namespace && caller.euid == 0;
    let ordinary =
        root_asks.then(|| attempt::namespaces(&Wanted { nobody: true, user_namespace: true, ..wanted }));
    let (newuidmap, newgidmap) = (tool("newuidmap", CAP_SETUID), tool("newgidmap", CAP_SETGID));
    let (subuid, subgid) = (subids("/etc/subuid", &caller), subids("/etc/subgid", &caller));
    let mapped = match (&newuidmap.path, &newgidmap.path, first(&subuid), first(&subgid)) {
        (Some(uid_tool), Some(gid_tool), Some(uids), Some(gids)) if user_namespace => Some(
            attempt::map(uid_tool, caller.euid, uids)
                .and_then(|()| attempt::map(gid_tool, caller.egid, gids)),
        ),
        _ => None,
    };
    let user_manager = if root_asks { Err("each user has one".into()) } else { manager(true) };
    let listener = seccomp::knows_flags(seccomp::NEW_LISTENER);
    Facts {
        kernel: line("/proc/sys/kernel/osrelease"),
        calls: probe::calls().to_vec(),
        pidfd_info: probe::knows_pidfd_info(),
        memory_program: attempt::init(0),
        memfd_noexec: number("/proc/sys/vm/memfd_noexec"),
        seccomp_actions: ACTIONS.iter().map(|(name, value)| (*name, seccomp::knows_action(*value))).collect(),
        seccomp_listener: listener,
        security_modules: line("/sys/kernel/security/lsm"),
        apparmor: line("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
        selinux_enforcing: number("/sys/fs/selinux/enforce").map(|enforcing| enforcing != 0),
        namespace_limits: KINDS
            .iter()
            .filter_map(|kind| Some((*kind, number(&format!("/proc/sys/user/max_{kind}_namespaces"))?)))
            .collect(),
        unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_restrict: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        subid_service: subid_service(&text("/etc/nsswitch.conf")),
        subuid,
        subgid,
        newuidmap,
        newgidmap,
        mapped,
        cgroup: cgroups(&caller, &cgroup_host, user_manager.as_deref().unwrap_or_default()),
        system_manager: manager(false),
        user_manager,
        overlay_loaded,
        keys: keys(&caller),
        tun: tun(),
        state: state_root(root),
        own: attempt::namespaces(&wanted),
        own_init: attempt::init(attempt::every_namespace(user_namespace)),
        ordinary,
        caller,
    }
}

const KINDS: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// SECCOMP_RET_… (linux/seccomp.h).
const ACTIONS: [(&str, u32); 8] = [
    ("kill_process", 0x8000_0000),
    ("kill_thread", 0),
    ("trap", 0x0003_0000),
    ("errno", 0x0005_0000),
    ("notify", 0x7fc0_0000),
    ("trace", 0x7ff0_0000),
    ("log", 0x7ffc_0000),
    ("allow", 0x7fff_0000),
];

/// Bits of the permitted set in security.capability.
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Empty where there is none, or it cannot be read.
fn text(path: &str) -> String {
    fd::read_file(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn line(path: &str) -> String {
    text(path).trim_end().to_string()
}

fn number(path: &str) -> Option<u64> {
    text(path).trim().parse().ok()
}

fn caller() -> (Caller, CgroupHost) {
    let no_new_privs = text("/proc/thread-self/status").lines().any(|line| line == "NoNewPrivs:\t1");
    let nobody_knows = CgroupHost {
        mode: CgroupMode::None,
        unified: String::new(),
        unified_controllers: Vec::new(),
        v1: Vec::new(),
        closed: Vec::new(),
        below_own: Vec::new(),
    };
    let (euid, egid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let (privileged, initial_user_namespace, cgroup, error) = match host(&Needs::default()) {
        Ok(host) => (host.privileged, host.initial_user_namespace, host.cgroup, None),
        Err(error) => (false, true, nobody_knows, Some(error.message)),
    };
    let name = user_name(euid);
    (Caller { name, euid, egid, privileged, initial_user_namespace, no_new_privs, error }, cgroup)
}

fn first(ranges: &Result<Vec<Range>, String>) -> Option<Range> {
    ranges.as_ref().ok()?.first().copied()
}

fn subids(path: &str, caller: &Caller) -> Result<Vec<Range>, String> {
    let bytes =
        fd::read_file(path).map_err(|error| crate::Error::io(format!("read {path}"), &error).message)?;
    Ok(ranges(&String::from_utf8_lossy(&bytes), &caller.name, caller.euid))
}

/// subuid(5): `name:start:count`, or the uid in place of the name, in both files.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            ((owner == name || owner == number) && count > 0).then_some((start, count))
        })
        .collect()
}

/// The source that nsswitch.conf(5) names for `subid`, if it is not the files.
fn subid_service(nsswitch: &str) -> Option<String> {
    let sources = nsswitch.lines().find_map(|line| line.trim().strip_prefix("subid:"))?;
    sources.split_whitespace().find(|source| *source != "files").map(str::to_string)
}

fn tool(name: &str, capability: u32) -> Tool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let Some(found) = find(&path, name) else { return Tool::default() };
    let mut tool = Tool { path: Some(found.display().to_string()), ..Tool::default() };
    let Ok(file) = std::fs::File::open(&found) else { return tool };
    tool.setuid = file.metadata().is_ok_and(|about| about.mode() & libc::S_ISUID != 0 && about.uid() == 0);
    tool.nosuid = fstatvfs(&file).is_ok_and(|about| about.flags().contains(FsFlags::ST_NOSUID));
    let mut value = [0; 32];
    if let Ok(length) = fd::attribute(file.as_raw_fd(), c"security.capability", &mut value) {
        tool.capability = permits(value.get(..length).unwrap_or_default(), capability);
    }
    tool
}

fn find(path: &OsStr, name: &str) -> Option<PathBuf> {
    let files = std::env::split_paths(path).filter(|directory| directory.is_absolute());
    files
        .map(|directory| directory.join(name))
        .find(|file| file.is_file() && access(file.as_path(), AccessFlags::X_OK).is_ok())
}

/// struct vfs_cap_data (linux/capability.h): after the magic, the low half of the permitted set.
fn permits(value: &[u8], capability: u32) -> bool {
    match value.get(4..8) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) >> capability & 1 == 1,
        _ => false,
    }
}

fn manager(user: bool) -> Result<String, String> {
    let group = Systemd::connect(user).and_then(|mut systemd| systemd.control_group());
    group.map_err(|error| {
        let text = error.to_string();
        let text = text.strip_prefix("systemd: ").unwrap_or(&text);
        // What to do is said elsewhere.
        text.split(" (is systemd running?").next().unwrap_or(text).to_string()
    })
}

/// Root has the hierarchies as they are mounted; others have what was delegated: the cgroup they are in, and that of their
/// systemd.
fn cgroups(caller: &Caller, host: &CgroupHost, user_manager: &str) -> Cgroups {
    let own = text("/proc/self/cgroup");
    let mut places = Vec::new();
    let whole = caller.privileged && caller.initial_user_namespace;
    for hierarchy in &host.v1 {
        let below = if whole { Some("") } else { membership(&own, &hierarchy.controllers) };
        if let Some(below) = below {
            let directory = below_mount(&hierarchy.mount_point, below);
            places.push(place(directory, hierarchy.controllers.clone()));
        }
    }
    if !host.unified.is_empty() {
        let mut paths = match (whole, membership(&own, &[])) {
            (true, _) => vec![""],
            (false, own) => own.into_iter().collect(),
        };
        paths.extend(Some(user_manager).filter(|path| !path.is_empty()));
        for path in paths {
            let directory = below_mount(&host.unified, path);
            let controllers = text(&format!("{directory}/cgroup.controllers"));
            places.push(place(directory, controllers.split_whitespace().map(str::to_string).collect()));
        }
    }
    Cgroups { mode: host.mode, places }
}

fn below_mount(mount: &str, path: &str) -> String {
    format!("{mount}{}", path.trim_end_matches('/'))
}

/// A directory can be made here, and a process moved.
fn place(directory: String, controllers: Vec<String>) -> Place {
    let may = |path: &str| access(path, AccessFlags::W_OK).is_ok();
    let writable = may(&directory) && may(&format!("{directory}/cgroup.procs"));
    Place { directory, controllers, writable }
}

/// The path in `/proc/self/cgroup` of the hierarchy with these controllers; with none, of cgroup2.
fn membership<'a>(text: &'a str, controllers: &[String]) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        names.split(',').filter(|name| !name.is_empty()).eq(controllers).then_some(path)
    })
}

fn keys(caller: &Caller) -> Option<(u64, u64)> {
    let users = fd::read_file("/proc/key-users").ok()?;
    let used = quota(&String::from_utf8_lossy(&users), caller.euid);
    let limit = if caller.euid == 0 { "root_maxkeys" } else { "maxkeys" };
    used.or_else(|| Some((0, number(&format!("/proc/sys/kernel/keys/{limit}"))?)))
}

/// `uid: usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes` (keyrings(7), /proc/key-users).
fn quota(text: &str, uid: u32) -> Option<(u64, u64)> {
    let uid = uid.to_string();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&uid)?.strip_prefix(':'))?;
    let (used, limit) = line.split_whitespace().nth(2)?.split_once('/')?;
    Some((used.parse().ok()?, limit.parse().ok()?))
}

/// Not opened: that would load the module.
fn tun() -> Tun {
    let path = "/dev/net/tun";
    match access(path, AccessFlags::F_OK) {
        Err(_) => Tun::Absent,
        Ok(()) if access(path, AccessFlags::R_OK | AccessFlags::W_OK).is_ok() => Tun::Usable,
        Ok(()) => Tun::Refused,
    }
}

fn state_root(root: &Path) -> StateRoot {
    let path = std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf());
    let mut nearest = path.as_path();
    while std::fs::metadata(nearest).is_err()
        && let Some(parent) = nearest.parent()
    {
        nearest = parent;
    }
    let about = std::fs::metadata(nearest);
    StateRoot {
        path: path.display().to_string(),
        nearest: nearest.display().to_string(),
        directory: about.as_ref().is_ok_and(std::fs::Metadata::is_dir),
        owner: about.as_ref().map_or(u32::MAX, MetadataExt::uid),
        mode: about.as_ref().map_or(0, MetadataExt::mode) & 0o7777,
        writable: access(nearest, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "root:1:2\nalice:100000:65536\n1000:300000:10\n\nbob:1:1\nalice:x:1\nalice:5\nalice:9:0\n";
        assert_eq!(ranges(text, "alice", 1000), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(ranges(text, "alic", 100), []);
    }

    #[test]
    fn subids_from_elsewhere_are_noticed() {
        assert_eq!(subid_service("passwd: files sss\n"), None);
        assert_eq!(subid_service("subid: files\n"), None);
        assert_eq!(subid_service("passwd: files\nsubid: sss\n"), Some("sss".into()));
    }

    #[test]
    fn capabilities_of_a_file() {
        let setuid = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(permits(&setuid, CAP_SETUID) && !permits(&setuid, CAP_SETGID));
        assert!(!permits(&setuid[..6], CAP_SETUID));
    }

    #[test]
    fn memberships_by_controllers() {
        let text = "3:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c:d\n";
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(membership(text, &names(&["cpu", "cpuacct"])), Some("/a"));
        assert_eq!(membership(text, &names(&["cpu"])), None);
        assert_eq!(membership(text, &[]), Some("/c:d"));
    }

    #[test]
    fn the_quota_of_a_user() {
        let text = "    0:    90 89/89 80/1000000 1600/25000000\n 1000:     3 3/3 200/200 60/20000\n";
        assert_eq!(quota(text, 0), Some((80, 1_000_000)));
        assert_eq!(quota(text, 1000), Some((200, 200)));
        assert_eq!(quota(text, 100), None);
    }

    #[test]
    fn a_root_that_is_not_there_is_known_by_the_directory_above() {
        let directory = tempfile::tempdir().unwrap();
        let state = state_root(&directory.path().join("a/b"));
        assert_eq!(state.nearest, directory.path().display().to_string());
        assert!(state.directory && state.writable && state.path.ends_with("/a/b"), "{state:?}");
    }
}
