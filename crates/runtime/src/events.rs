// SPDX-License-Identifier: MIT OR Apache-2.0
//! events: what a container uses, once or again and again.
//!
//! Changes nothing and waits for nothing. Numbers come from the cgroup of the record and from the network namespace of
//! the container's process; they go out under runc's names.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use serde::Serialize;

use crate::cgroup;
use crate::create::signal;
use crate::error::{Code, Error, Result};
use crate::record::{Directory, Record};
use crate::status;
use crate::{Id, Runtime, members};

/// `data` of a line of runc's `events`. The pages of [`coracle_cgroup::stats`] have units, and what differs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Statistics {
    #[serde(flatten)]
    pub cgroup: coracle_cgroup::Stats,
    /// All devices but the loopback. Empty without a network namespace of its own: the host's counters are not the
    /// container's.
    pub network_interfaces: Vec<NetworkInterface>,
}

/// One device, since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkInterface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// A container's files, kept open to be read again and again.
#[derive(Debug)]
pub struct Meter {
    pid: i32,
    pidfd: OwnedFd,
    cgroup: coracle_cgroup::Poll,
    /// Without a cgroup only the tasks are counted.
    by_pid_namespace: bool,
}

impl Runtime {
    /// Of a container that is created, running or paused. Errors: [`Code::NotFound`]; [`Code::State`] with `container
    /// not running` when there is no process; [`Code::Cgroup`] when the cgroup cannot be read.
    pub fn stats(&self, id: &Id) -> Result<Statistics> {
        self.meter(id)?.read()
    }

    /// To read more than once; otherwise as [`Runtime::stats`]. It takes some 40 descriptors on a host with v1 cgroups, less
    /// than half of that on others.
    pub fn meter(&self, id: &Id) -> Result<Meter> {
        let directory = Directory::open(&self.root, id)?;
        let record = directory.read()?;
        let (_, pidfd) = status::derive(&directory, record.as_ref())?;
        let (Some(Record { process: Some(process), cgroup, .. }), Some(pidfd)) = (record, pidfd) else {
            return Err(not_running());
        };
        let by_pid_namespace = cgroup.directories().is_empty();
        let opened = cgroup.open().poll();
        // While it lives the number is its own, so what was opened by number was; and the cgroup of one that has ended
        // may be gone.
        if !signal(pidfd.as_fd(), 0)? {
            return Err(not_running());
        }
        Ok(Meter { pid: process.pid, pidfd, cgroup: opened.map_err(cgroup::error)?, by_pid_namespace })
    }
}

impl Meter {
    /// One look. Errors: [`Code::State`] once the process has ended.
    pub fn read(&mut self) -> Result<Statistics> {
        let counters = network(self.pid);
        let mut stats = self.cgroup.read();
        if let (Ok(stats), true) = (&mut stats, self.by_pid_namespace) {
            stats.pids.current = Some(members::tasks(self.pid)?);
        }
        // As above.
        if !signal(self.pidfd.as_fd(), 0)? {
            return Err(not_running());
        }
        let network_interfaces = match counters {
            Ok(counters) => counters.into_iter().map(NetworkInterface::from).collect(),
            // Ended, and not waited for: it has left its namespaces.
            Err(Errno::ENOENT | Errno::ESRCH) => return Err(not_running()),
            Err(errno) => return Err(Error::system("read the container's network counters", errno)),
        };
        Ok(Statistics { cgroup: stats.map_err(cgroup::error)?, network_interfaces })
    }
}

fn not_running() -> Error {
    Error::new(Code::State, "container not running")
}

/// Counters in the network namespace of a process, if it is not the caller's.
fn network(pid: i32) -> nix::Result<Vec<coracle_net::Counters>> {
    let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let open = |path: &str| {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok((file, (metadata.dev(), metadata.ino())))
    };
    let (theirs, there) = open(&format!("/proc/{pid}/ns/net")).map_err(errno)?;
    let (_, here) = open("/proc/thread-self/ns/net").map_err(errno)?;
    if there == here {
        return Ok(Vec::new());
    }
    match coracle_net::counters(theirs.as_fd()) {
        // An ordinary user cannot enter the namespace without its user namespace, which a caller with threads cannot
        // enter at all.
        Err(coracle_net::Error { errno: Errno::EPERM, .. }) => {
            let text = coracle_sys::fd::read_file(format!("/proc/{pid}/net/dev")).map_err(errno)?;
            Ok(coracle_net::parse_proc_net_dev(&String::from_utf8_lossy(&text)))
        }
        other => other.map_err(|error| error.errno),
    }
}

impl From<coracle_net::Counters> for NetworkInterface {
    fn from(counters: coracle_net::Counters) -> NetworkInterface {
        let coracle_net::Counters {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        } = counters;
        NetworkInterface {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_namespace_has_no_devices_of_the_container() {
        assert_eq!(network(std::process::id() as i32), Ok(vec![]));
        // No pid is this large.
        assert_eq!(network(i32::MAX), Err(Errno::ENOENT));
    }

    #[test]
    fn names_are_runcs() {
        let device = coracle_net::Counters { name: "eth0".into(), rx_bytes: u64::MAX, ..Default::default() };
        let statistics = Statistics { network_interfaces: vec![device.into()], ..Statistics::default() };
        let value = serde_json::to_value(&statistics).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["blkio", "cpu", "hugetlb", "memory", "network_interfaces", "pids"]);
        assert_eq!(
            value["network_interfaces"].to_string(),
            r#"[{"Name":"eth0","RxBytes":18446744073709551615,"RxDropped":0,"RxErrors":0,"RxPackets":0,"TxBytes":0,"TxDropped":0,"TxErrors":0,"TxPackets":0}]"#
        );
    }
}
