// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container is doing now, derived from its record and the kernel; never stored.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::{Serialize, Serializer};

use crate::connect::Connection;
use crate::error::{Code, Error, Result};
use crate::record::{Directory, Process, Record, START_SOCKET};

/// runtime-spec runtime.md "State", and `paused` as every runtime adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Being created, or left half made by a creator that died.
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The state document, with what callers of runc expect beside the specification's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    /// 0 when there is no process.
    pub pid: i32,
    pub status: Status,
    pub bundle: String,
    pub rootfs: String,
    /// RFC 3339.
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name of the user who created it, or the number when it has none.
    pub owner: String,
    /// What `--network` and `--publish` gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Connection>,
}

/// The process of a record, if it still lives, by a descriptor that cannot come to mean another one.
pub(crate) fn living(process: &Process) -> Result<Option<OwnedFd>> {
    // First hold it, then look: the number cannot change hands in between.
    let Some(pidfd) = hold(process.pid)? else { return Ok(None) };
    match stat(process.pid)? {
        Some((_, start_time)) if start_time == process.start_time => {}
        _ => return Ok(None),
    }
    // A zombie may only be the first thread, of a process whose others go on: the descriptor tells when all have ended.
    let ended = coracle_sys::fd::wait_readable(pidfd.as_raw_fd(), Some(0))
        .map_err(|errno| Error::system(format!("look at process {}", process.pid), crate::errno(errno)))?;
    Ok((!ended).then_some(pidfd))
}

/// Whatever process has this number now.
pub(crate) fn hold(pid: i32) -> Result<Option<OwnedFd>> {
    match coracle_sys::process::pidfd_open(pid) {
        Ok(pidfd) => Ok(Some(OwnedFd::from(pidfd))),
        Err(coracle_sys::Errno(libc::ESRCH | libc::EINVAL)) => Ok(None),
        Err(errno) => Err(Error::system(format!("open process {pid}"), Errno::from_raw(errno.0))),
    }
}

/// Is it the first of its pid namespace, so that all others there end with it? pid_namespaces(7). `false` when it is gone.
pub(crate) fn leads_pid_namespace(pid: i32) -> Result<bool> {
    let path = format!("/proc/{pid}/status");
    let text = match coracle_sys::fd::read_file(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(false),
        Err(error) => return Err(Error::io(format!("read {path}"), &error)),
    };
    let text = String::from_utf8_lossy(&text);
    // Its number in each namespace, the innermost last.
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    Ok(numbers.and_then(|numbers| numbers.split_whitespace().last()) == Some("1"))
}

/// (state, start time) of a process or a thread, from /proc/PID/stat; `None` when there is none (any more).
pub(crate) fn stat(pid: i32) -> Result<Option<(char, u64)>> {
    let path = format!("/proc/{pid}/stat");
    let text = match coracle_sys::fd::read_file(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {path}"), &error)),
    };
    // The second field is the command in parentheses, which may hold anything.
    let text = String::from_utf8_lossy(&text);
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    let mut fields = fields.split(' ');
    let state = fields.next().and_then(|state| state.chars().next());
    let start_time = fields.nth(18).and_then(|time| time.parse().ok());
    match (state, start_time) {
        (Some(state), Some(start_time)) => Ok(Some((state, start_time))),
        _ => Err(Error::new(crate::error::Code::System, format!("{path} is not as expected"))),
    }
}

/// What init calls itself until execve(2) names it after the command (proc_pid_comm(5)).
pub(crate) const INIT_NAME: &str = "oar-init";

/// After the end of file on a start socket: was it execve(2), or the end of an init that was killed on its way there, as
/// when a seccomp agent never answers? A process that is reaped already has run.
pub(crate) fn executed(pid: i32, pidfd: i32) -> Result<bool> {
    let path = format!("/proc/{pid}/comm");
    let mut ended = false;
    // The kernel gives the name a moment after it closes the socket. A command may have this name too.
    for _ in 0..500 {
        match coracle_sys::fd::read_file(&path) {
            Ok(name) if name.trim_ascii_end() == INIT_NAME.as_bytes() => {}
            Ok(_) => return Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Ok(true);
            }
            Err(error) => return Err(Error::io(format!("read {path}"), &error)),
        }
        if ended {
            return Ok(false);
        }
        ended = coracle_sys::fd::wait_readable(pidfd, Some(1))
            .map_err(|error| Error::system("wait for the container's process", crate::errno(error)))?;
    }
    Ok(true)
}

/// Is there an init that waits to be started?
pub(crate) enum Waiting {
    /// Connected to it.
    Yes(OwnedFd),
    /// Others are connected, more than it can hold.
    Busy,
    No,
}

pub(crate) fn waiting_init(directory: &Directory) -> Result<Waiting> {
    waiting(directory, START_SOCKET)
}

/// The same for the init of another process of the container, that waits on the socket of this name.
pub(crate) fn waiting(directory: &Directory, name: &str) -> Result<Waiting> {
    let failed = |errno| Error::system("connect to the container's start socket", errno);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed)?;
    let address = UnixAddr::new(&directory.member(name)).map_err(failed)?;
    match connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
        Ok(()) => Ok(Waiting::Yes(socket)),
        Err(Errno::EAGAIN) => Ok(Waiting::Busy),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(Waiting::No),
        Err(errno) => Err(failed(errno)),
    }
}

/// Its process has a number of another pid namespace, and has ended. An error when it may live there: here nobody can tell.
pub(crate) fn is_elsewhere(directory: &Directory, record: Option<&Record>) -> Result<bool> {
    let Some(Record { pid_namespace: Some(namespace), cgroup, .. }) = record else { return Ok(false) };
    if *namespace == crate::pid_namespace()? {
        return Ok(false);
    }
    match cgroup.open().populated_by_any().map_err(crate::cgroup::error)? {
        Some(false) => Ok(true),
        _ => {
            let id = directory.id();
            let text = format!(
                "container \"{id}\" was made in another pid namespace ({namespace}), and may live there"
            );
            let hint = "go on where it was made, as with `nsenter --target PID --pid`; or give --root DIR for other containers";
            Err(Error::new(Code::Unsupported, text).hint(hint))
        }
    }
}

/// The status, and the living process if there is one.
pub(crate) fn derive(directory: &Directory, record: Option<&Record>) -> Result<(Status, Option<OwnedFd>)> {
    let Some(Record { process: Some(process), boot_id, cgroup, .. }) = record else {
        return Ok((Status::Creating, None));
    };
    if *boot_id != crate::boot_id()? {
        return Ok((Status::Stopped, None));
    }
    if is_elsewhere(directory, record)? {
        return Ok((Status::Stopped, None));
    }
    let Some(pidfd) = living(process)? else { return Ok((Status::Stopped, None)) };
    let status = if cgroup.open().is_frozen().unwrap_or(false) {
        Status::Paused
    } else {
        match waiting_init(directory)? {
            Waiting::No => Status::Running,
            Waiting::Yes(_) | Waiting::Busy => Status::Created,
        }
    };
    Ok((status, Some(pidfd)))
}

pub(crate) fn state(directory: &Directory, id: &str) -> Result<State> {
    let record = directory.read()?;
    let (status, _) = derive(directory, record.as_ref())?;
    let pid = |record: &Record| match status {
        Status::Stopped => 0,
        _ => record.process.map_or(0, |process| process.pid),
    };
    Ok(match record {
        Some(record) => State {
            oci_version: crate::OCI_VERSION.into(),
            id: id.into(),
            pid: pid(&record),
            status,
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner: user_name(record.owner),
            network: record.network,
        },
        None => State {
            oci_version: crate::OCI_VERSION.into(),
            id: id.into(),
            pid: 0,
            status,
            bundle: String::new(),
            rootfs: String::new(),
            created: String::new(),
            annotations: BTreeMap::new(),
            owner: String::new(),
            network: None,
        },
    })
}

/// From /etc/passwd alone: a static program has no name service.
pub(crate) fn user_name(uid: u32) -> String {
    let number = uid.to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_string())
    });
    name.unwrap_or(number)
}
