// SPDX-License-Identifier: MIT OR Apache-2.0
//! The facts about kernel and caller that the planner may depend on ([`coracle_plan::Host`]).
//!
//! Decides nothing and changes nothing. Data comes from procfs and sysfs, each file with open, read, close: this
//! runs in every create, so one file that tells several facts is preferred to one call for each of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coracle_plan::{CgroupPath, Host, IdMap, ServiceManager, SubIds, UserNamespace};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access, read};
use oci_spec::runtime::Spec;

use crate::error::{Code, Error, Result};
use crate::{Id, namespaces, sub_ids};

/// Facts that only some documents depend on. Those that are not needed stay empty in the [`Host`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub resctrl: bool,
    pub numa: bool,
    pub cpus: bool,
    pub filesystems: bool,
}

/// Numbers of capabilities (linux/capability.h).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// Types that every supported kernel mounts for a container; any other may be a module that is not there.
const EVERYWHERE: [&str; 10] =
    ["", "none", "bind", "rbind", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"];

/// Names in `/proc/PID/limits` (kernel fs/proc/base.c, `lnames`) of the limits in the document.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "RLIMIT_CPU"),
    ("Max file size", "RLIMIT_FSIZE"),
    ("Max data size", "RLIMIT_DATA"),
    ("Max stack size", "RLIMIT_STACK"),
    ("Max core file size", "RLIMIT_CORE"),
    ("Max resident set", "RLIMIT_RSS"),
    ("Max processes", "RLIMIT_NPROC"),
    ("Max open files", "RLIMIT_NOFILE"),
    ("Max locked memory", "RLIMIT_MEMLOCK"),
    ("Max address space", "RLIMIT_AS"),
    ("Max file locks", "RLIMIT_LOCKS"),
    ("Max pending signals", "RLIMIT_SIGPENDING"),
    ("Max msgqueue size", "RLIMIT_MSGQUEUE"),
    ("Max nice priority", "RLIMIT_NICE"),
    ("Max realtime priority", "RLIMIT_RTPRIO"),
    ("Max realtime timeout", "RLIMIT_RTTIME"),
];

/// What this document depends on, beside the facts that all do.
pub fn needs(spec: &Spec) -> Needs {
    let mut needs = Needs::default();
    if let Some(linux) = spec.linux() {
        needs.resctrl = linux.intel_rdt().is_some();
        needs.numa = linux.memory_policy().is_some();
        if let Some(cpu) = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref()) {
            needs.cpus = cpu.cpus().is_some();
            needs.numa |= cpu.mems().is_some();
        }
    }
    if let Some(process) = spec.process() {
        needs.cpus |= process.exec_cpu_affinity().is_some();
    }
    needs.filesystems = spec
        .mounts()
        .iter()
        .flatten()
        .filter_map(|mount| mount.typ().as_deref())
        .any(|fstype| fstype != "cgroup" && !EVERYWHERE.contains(&fstype));
    needs
}

/// Gather the facts. About twenty system calls, without those for the cgroup part.
pub fn host(needs: &Needs) -> Result<Host> {
    let status = status(&text("/proc/thread-self/status")?)?;
    if status.pid != std::process::id() {
        let text = format!("/proc is of another pid namespace: it calls this process {}", status.pid);
        return Err(Error::new(Code::Unsupported, text).hint("mount one here: `unshare --mount-proc` does"));
    }
    let uid_map = text("/proc/self/uid_map")?;
    let initial_user_namespace = is_identity(&uid_map);
    // The kernel asks for this capability in the initial user namespace (capable(), kernel/sys.c do_prlimit and
    // fs/proc/base.c __set_oom_adj): root of a user namespace cannot raise a limit.
    let raise_rlimits = initial_user_namespace && status.has(CAP_SYS_RESOURCE);
    let kernel = text("/proc/sys/kernel/osrelease")?;
    let privileged = status.has(CAP_SYS_ADMIN);
    Ok(Host {
        sub_ids: if privileged { SubIds::default() } else { sub_ids::of(status.euid)? },
        euid: status.euid,
        egid: status.egid,
        privileged,
        initial_user_namespace,
        user_namespace: if initial_user_namespace {
            UserNamespace::default()
        } else {
            user_namespace(&uid_map)?
        },
        kernel: version(&kernel).ok_or_else(|| unreadable("/proc/sys/kernel/osrelease", &kernel))?,
        last_capability: number("/proc/sys/kernel/cap_last_cap")?,
        bounding: status.bounding,
        cgroup: coracle_cgroup::host().map_err(|error| Error::new(Code::Cgroup, error.to_string()))?,
        systemd: ServiceManager::None,
        apparmor: text_if_there("/sys/module/apparmor/parameters/enabled")?.starts_with('Y'),
        selinux: exists("/sys/fs/selinux/enforce"),
        kcore: exists("/proc/kcore"),
        mqueue: exists("/dev/mqueue"),
        resctrl: if needs.resctrl {
            mounted(&list("/proc/self/mountinfo")?, "resctrl")
        } else {
            String::new()
        },
        numa_nodes: if needs.numa {
            line_if_there("/sys/devices/system/node/online")?
        } else {
            String::new()
        },
        cpus: if needs.cpus { line_if_there("/sys/devices/system/cpu/possible")? } else { String::new() },
        hard_rlimits: if raise_rlimits { BTreeMap::new() } else { hard_limits(&text("/proc/self/limits")?) },
        raise_rlimits,
        oom_score_adj: number("/proc/self/oom_score_adj")?,
        filesystems: if needs.filesystems { filesystems(&list("/proc/filesystems")?) } else { Vec::new() },
    })
}

fn user_namespace(uid_map: &str) -> Result<UserNamespace> {
    Ok(UserNamespace {
        uid_map: id_map(uid_map),
        gid_map: id_map(&text("/proc/self/gid_map")?),
        setgroups_denied: text("/proc/self/setgroups")?.trim() == "deny",
        foreign: namespaces::foreign()?,
    })
}

/// Lines of (inside, outside, size). None at all means that nothing is mapped yet, and all ids are the overflow id.
fn id_map(text: &str) -> Vec<IdMap> {
    let lines = text.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
        Some(IdMap { container: numbers.next()?, host: numbers.next()?, size: numbers.next()? })
    });
    lines.collect()
}

/// What this caller may not do of the cgroup that a document asks for. Root may do everything.
pub(crate) fn cgroup_rights(host: &mut Host, path: &CgroupPath, id: &Id) -> Result<()> {
    if host.initial_user_namespace && host.euid == 0 {
        return Ok(());
    }
    coracle_cgroup::find_rights(&mut host.cgroup, path, id.as_str())
        .map_err(|error| Error::new(Code::Cgroup, error.to_string()))?;
    if !host.cgroup.closed.is_empty() {
        host.systemd = service_manager(host.euid);
    }
    Ok(())
}

/// By the sockets that systemd makes (sd_booted(3), user@.service(5)).
fn service_manager(euid: u32) -> ServiceManager {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = named.unwrap_or_else(|| format!("/run/user/{euid}").into());
    if directory.join("systemd/private").exists() {
        ServiceManager::User
    } else if exists("/run/systemd/system") {
        ServiceManager::System
    } else {
        ServiceManager::None
    }
}

/// The members of `/proc/PID/status` that decide something. Capabilities belong to threads: the calling one counts.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    /// As this procfs has it.
    pid: u32,
    euid: u32,
    egid: u32,
    effective: u64,
    bounding: u64,
}

impl Status {
    fn has(&self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }
}

fn status(text: &str) -> Result<Status> {
    let member = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .ok_or_else(|| unreadable("/proc/thread-self/status", &format!("no {name}")))
    };
    // Real, effective, saved, filesystem.
    let effective_id = |name: &str| {
        let ids = member(name)?;
        ids.split_whitespace()
            .nth(1)
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| unreadable("/proc/thread-self/status", ids))
    };
    let set = |name: &str| {
        let digits = member(name)?.trim();
        u64::from_str_radix(digits, 16).map_err(|_| unreadable("/proc/thread-self/status", digits))
    };
    Ok(Status {
        pid: member("Tgid")?.trim().parse().map_err(|_| unreadable("/proc/thread-self/status", "Tgid"))?,
        euid: effective_id("Uid")?,
        egid: effective_id("Gid")?,
        effective: set("CapEff")?,
        bounding: set("CapBnd")?,
    })
}

/// Is this uid_map the one line that the initial user namespace has: every id is itself?
fn is_identity(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// `6.18.5-amd64` → (6, 18).
pub(crate) fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.trim().split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Mount point of the first filesystem of this type in a mountinfo (proc_pid_mountinfo(5)); empty without one.
fn mounted(mountinfo: &str, fstype: &str) -> String {
    mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .find(|(_, filesystem)| filesystem.split(' ').next() == Some(fstype))
        .and_then(|(mount, _)| mount.split(' ').nth(4))
        .map(unescaped)
        .unwrap_or_default()
}

/// Undo the kernel's `\040` for blank, tab, newline and backslash in a path.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte as char);
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// The third column of `/proc/PID/limits`; its first column holds blanks, so it is known by name.
fn hard_limits(text: &str) -> BTreeMap<String, u64> {
    let mut limits = BTreeMap::new();
    for line in text.lines() {
        let Some((rest, name)) =
            LIMITS.iter().find_map(|(label, name)| Some((line.strip_prefix(label)?, name)))
        else {
            continue;
        };
        let hard = match rest.split_whitespace().nth(1) {
            Some("unlimited") => Some(u64::MAX),
            other => other.and_then(|digits| digits.parse().ok()),
        };
        if let Some(hard) = hard {
            limits.insert(name.to_string(), hard);
        }
    }
    limits
}

/// Names in `/proc/filesystems`, with and without `nodev` before them.
fn filesystems(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.split('\t').next_back()).map(str::to_string).collect()
}

fn exists(path: &str) -> bool {
    access(path, AccessFlags::F_OK).is_ok()
}

fn number<N: std::str::FromStr>(path: &str) -> Result<N> {
    let text = text(path)?;
    text.trim().parse().map_err(|_| unreadable(path, &text))
}

fn unreadable(path: &str, what: &str) -> Error {
    Error::new(Code::System, format!("{path}: cannot make sense of {:?}", what.trim()))
}

fn text(path: &str) -> Result<String> {
    contents(path).map_err(|errno| {
        let error = Error::system(format!("read {path}"), errno);
        if errno == Errno::ENOENT { error.hint("is /proc mounted?") } else { error }
    })
}

/// The same; empty for a file that this kernel does not have.
fn text_if_there(path: &str) -> Result<String> {
    match contents(path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(String::new()),
        other => other.map_err(|errno| Error::system(format!("read {path}"), errno)),
    }
}

fn line_if_there(path: &str) -> Result<String> {
    Ok(text_if_there(path)?.trim_end().to_string())
}

/// All of a file that the kernel writes as one record, as everything read here except lists of mounts or
/// filesystems: a read that leaves room is the last. `read_to_string` would add a statx and an empty read for each.
fn contents(path: &str) -> nix::Result<String> {
    let file = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let length = match read(&file, &mut buffer) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        text.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if length < buffer.len() {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// All of a file of several records: any read of it may end early.
fn list(path: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(format!("read {path}"), &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs_of(json: serde_json::Value) -> Needs {
        needs(&serde_json::from_value(json).unwrap())
    }

    fn document(mount: &str, linux: serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.3.0",
            "mounts": [{"destination": "/x", "type": mount, "source": "y"}],
            "linux": linux,
        })
    }

    #[test]
    fn an_ordinary_document_needs_nothing_more() {
        for fstype in ["proc", "tmpfs", "bind", "cgroup", "mqueue"] {
            assert_eq!(needs_of(document(fstype, serde_json::json!({}))), Needs::default(), "{fstype}");
        }
    }

    #[test]
    fn a_document_needs_what_it_names() {
        let none = Needs::default();
        assert_eq!(needs_of(document("xfs", serde_json::json!({}))), Needs { filesystems: true, ..none });
        let rdt = serde_json::json!({"intelRdt": {"closID": "a"}});
        assert_eq!(needs_of(document("proc", rdt)), Needs { resctrl: true, ..none });
        let policy = serde_json::json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}});
        assert_eq!(needs_of(document("proc", policy)), Needs { numa: true, ..none });
        let cpus = serde_json::json!({"resources": {"cpu": {"cpus": "0"}}});
        assert_eq!(needs_of(document("proc", cpus)), Needs { cpus: true, ..none });
        let mems = serde_json::json!({"resources": {"cpu": {"mems": "0"}}});
        assert_eq!(needs_of(document("proc", mems)), Needs { numa: true, ..none });
    }

    #[test]
    fn this_host_is_as_the_kernel_says() {
        let host = host(&Needs { resctrl: true, numa: true, cpus: true, filesystems: true }).unwrap();
        assert_eq!(host.euid, nix::unistd::geteuid().as_raw());
        assert_eq!(host.egid, nix::unistd::getegid().as_raw());
        assert!(host.kernel >= (4, 0), "{:?}", host.kernel);
        assert!((37..64).contains(&host.last_capability));
        assert_eq!(host.bounding >> (host.last_capability + 1), 0);
        assert!(host.filesystems.iter().any(|name| name == "proc"), "{:?}", host.filesystems);
        assert!(host.cpus.starts_with('0'), "{:?}", host.cpus);
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        if host.raise_rlimits {
            assert!(host.hard_rlimits.is_empty());
        } else {
            assert_eq!(host.hard_rlimits.len(), LIMITS.len());
            assert_eq!(host.hard_rlimits["RLIMIT_NOFILE"], hard);
        }
    }

    #[test]
    fn what_is_not_needed_is_empty() {
        let host = host(&Needs::default()).unwrap();
        assert_eq!((host.resctrl, host.numa_nodes, host.cpus), Default::default());
        assert_eq!(host.filesystems, Vec::<String>::new());
    }

    #[test]
    fn status_has_ids_and_capabilities() {
        let text = "Name:\tUid\nTgid:\t42\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 5 \n\
                    CapEff:\t0000000001200000\nCapBnd:\t000001fffeffffff\n";
        let status = status(text).unwrap();
        assert_eq!((status.pid, status.euid, status.egid), (42, 1001, 6));
        assert_eq!(status.bounding, 0x1ff_feff_ffff);
        assert!(status.has(CAP_SYS_ADMIN) && status.has(CAP_SYS_RESOURCE) && !status.has(0));
    }

    #[test]
    fn a_strange_status_is_an_error_with_its_name() {
        for text in ["", "Uid:\t0\n", "Uid:\t0\t0\nGid:\t0\tx\n", "Uid:\t0\t0\nGid:\t0\t0\nCapEff:\tzz\n"] {
            let error = status(&format!("Tgid:\t1\n{text}")).unwrap_err();
            assert!(error.message.starts_with("/proc/thread-self/status: cannot make sense of"), "{error}");
        }
    }

    #[test]
    fn only_the_whole_identity_is_the_initial_user_namespace() {
        assert!(is_identity("         0          0 4294967295\n"));
        assert!(!is_identity("0 0 4294967294\n"));
        assert!(!is_identity("0 1000 1\n"));
        assert!(!is_identity("0 0 1000\n1000 1000 4294966295\n"));
        assert!(!is_identity(""));
    }

    #[test]
    fn kernel_versions() {
        assert_eq!(version("6.18.5\n"), Some((6, 18)));
        assert_eq!(version("5.14-rc1"), Some((5, 14)));
        assert_eq!(version("5.15.0-1-amd64"), Some((5, 15)));
        assert_eq!(version("six"), None);
    }

    #[test]
    fn mount_points_are_found_by_type_and_unescaped() {
        let mountinfo = "22 1 0:5 / /proc rw - proc proc rw\n\
                         30 1 0:9 / /mnt/a\\040b\\134c rw,nosuid shared:3 master:1 - resctrl resctrl rw\n";
        assert_eq!(mounted(mountinfo, "resctrl"), "/mnt/a b\\c");
        assert_eq!(mounted(mountinfo, "proc"), "/proc");
        assert_eq!(mounted(mountinfo, "sysfs"), "");
    }

    #[test]
    fn a_file_longer_than_the_buffer_comes_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        std::fs::write(&path, "x".repeat(30_000)).unwrap();
        assert_eq!(contents(path.to_str().unwrap()).unwrap().len(), 30_000);
    }

    #[test]
    fn an_absent_file_is_an_error_or_empty() {
        assert_eq!(text_if_there("/proc/no-such-file").unwrap(), "");
        let error = text("/proc/no-such-file").unwrap_err();
        assert_eq!(error.message, "read /proc/no-such-file: no such file or directory");
    }
}
