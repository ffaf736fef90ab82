// SPDX-License-Identifier: MIT OR Apache-2.0
//! Networks of containers, and the devices that a container is given (runtime-spec config-linux.md "Network
//! Devices"), by netlink.
//!
//! Never starts a program, and never changes the namespace of a thread of the caller. Names come from the plan; the
//! devices stay in the container's namespace when it ends, and the kernel decides what becomes of them.

mod attach;
mod bridge;
mod claims;
mod conntrack;
mod counters;
mod netlink;
mod network;
mod nft;
mod ports;
mod store;
mod sysctl;

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;

pub use crate::attach::{Attaching, Endpoint, attach, begin_attach, detach};
pub use crate::bridge::{Occupied, OccupiedName, find_bridge, occupied, raise_bridge, remove_bridge};
pub use crate::counters::{Counters, counters, parse_proc_net_dev};
use crate::netlink::{Address, Socket};
pub use crate::network::{Network, Protocol, Publication, Range, Subnet};
pub use crate::nft::{admit, bar_transit, dismiss, foreign_drops, publications, publish, unpublish};
pub use crate::ports::PortClaim;
pub use crate::store::{DEFAULT, Kind, NewNetwork, Store, StoreError};
pub use crate::sysctl::{Forwarding, forwarding, set_forwarding};

/// What could not be done. Everything is as it was before, unless `undo` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The call that failed, and for which device.
    pub what: String,
    pub errno: Errno,
    /// What the number means here, where its words mislead.
    pub why: Option<String>,
    /// What went wrong on the way back.
    pub undo: Option<String>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, coracle_sys::Errno(self.errno as i32).words())?;
        if let Some(why) = &self.why {
            write!(f, " ({why})")?;
        }
        match &self.undo {
            Some(undo) => write!(f, "; and {undo}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

fn failed(what: impl fmt::Display) -> impl FnOnce(Errno) -> Error {
    move |errno| Error { what: what.to_string(), errno, why: None, undo: None }
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A device as the caller had it, to put it back.
struct Before {
    name: String,
    up: bool,
    addresses: Vec<Address>,
}

/// Move a device of the caller's network namespace into `netns` and set it up there, with its permanent global
/// addresses, which the kernel forgets at a move. `container_name` may hold one `%d`, for which the kernel puts the
/// first free number; the name that the device has got is returned. Routes are not kept. After an error the device
/// is where it was, with its name and addresses.
pub fn move_device(host_name: &str, container_name: &str, netns: BorrowedFd<'_>) -> Result<String> {
    let what = format!("network device {host_name:?}");
    for name in [host_name, container_name] {
        if !is_name(name) {
            return Err(failed(format!("network device {name:?}"))(Errno::EINVAL));
        }
    }
    // A thread of its own: it enters the other namespace and ends there.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .spawn_scoped(scope, || move_from_thread(host_name, container_name, netns))
            .map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
            .and_then(|thread| thread.join().map_err(|_| Errno::ECANCELED))
            .map_err(failed("start a thread"))?
    })
    .map_err(|error| Error { what: format!("{what}: {}", error.what), ..error })
}

fn move_from_thread(host_name: &str, container_name: &str, netns: BorrowedFd<'_>) -> Result<String> {
    let here = File::open("/proc/thread-self/ns/net").map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        failed("open the host's network namespace")(errno)
    })?;
    // A rename on the host is not what was asked for.
    if same_file(here.as_fd(), netns).map_err(failed("stat network namespaces"))? {
        return Err(failed("the container has the host's network namespace")(Errno::EINVAL));
    }
    // A socket stays in the namespace in which it was opened. Both are there before anything is done.
    let mut host = Socket::open().map_err(failed("netlink socket"))?;
    let link = host.link(host_name).map_err(failed("find it"))?;
    let addresses = host.addresses(link.index).map_err(failed("list its addresses"))?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(failed("enter the container's network namespace"))?;
    let mut inside = Socket::open().map_err(failed("netlink socket in the container"))?;
    let before = Before {
        name: link.name,
        up: link.up,
        addresses: addresses.into_iter().filter(Address::is_kept).collect(),
    };

    // Under a name that nobody has: a template would leave open which device it is, and a device of the container
    // with the host's name is no obstacle.
    let passage = name_of_passage();
    host.move_link(link.index, netns, &passage).map_err(failed("move it"))?;
    let index = inside.link(&passage).map_err(failed("find it in the container"))?.index;
    arrive(&mut inside, index, container_name, &before).map_err(|error| {
        let back = inside
            .move_link(index, here.as_fd(), &before.name)
            .map_err(failed("move it"))
            .and_then(|()| settle(&mut host, &before));
        Error { undo: back.err().map(|undo| format!("it is not back on the host: {undo}")), ..error }
    })
}

/// In the container: name, addresses, and up. In this order, since a device that is up may refuse a new name.
fn arrive(inside: &mut Socket, index: i32, wanted: &str, before: &Before) -> Result<String> {
    inside.rename(index, wanted).map_err(failed(format!("name it {wanted:?}")))?;
    let name = inside.link_at(index).map_err(failed("ask for its name"))?.name;
    for address in &before.addresses {
        inside.add_address(index, address).map_err(failed(format!("add {address}")))?;
    }
    inside.set_up(index).map_err(failed("set it up"))?;
    Ok(name)
}

/// Back on the host: what the kernel forgot at the move.
fn settle(host: &mut Socket, before: &Before) -> Result<()> {
    let index = host.link(&before.name).map_err(failed("find it"))?.index;
    for address in &before.addresses {
        host.add_address(index, address).map_err(failed(format!("add {address}")))?;
    }
    if before.up {
        host.set_up(index).map_err(failed("set it up"))?;
    }
    Ok(())
}

/// Is there a device of this name in the caller's network namespace?
pub fn has_link(name: &str) -> Result<bool> {
    let mut socket = Socket::open().map_err(failed("netlink socket"))?;
    match socket.link(name) {
        Ok(_) => Ok(true),
        Err(Errno::ENODEV) => Ok(false),
        Err(errno) => Err(failed(format!("look for a device {name:?}"))(errno)),
    }
}

/// What can be a device's name (kernel net/core/dev.c, dev_valid_name): at most 15 bytes.
fn is_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(|byte| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace())
}

/// A name for the moment between two namespaces.
fn name_of_passage() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // 3 + 7 (a pid has 22 bits at most, 6 digits) + 1 + 4.
    let count = COUNT.fetch_add(1, Ordering::Relaxed) & 0xffff;
    format!("oar{:x}-{count:x}", std::process::id() & 0xfff_ffff)
}

fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> nix::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::process::Command;

    use nix::sched::unshare;

    use super::*;

    pub(crate) fn current() -> File {
        File::open("/proc/thread-self/ns/net").unwrap()
    }

    pub(crate) fn enter(namespace: &File) {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// `ip` in the network namespace of this thread.
    pub(crate) fn ip(args: &str) -> String {
        let output = Command::new("ip").args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ip_in(namespace: &File, args: &str) -> String {
        let here = current();
        enter(namespace);
        let text = ip(args);
        enter(&here);
        text
    }

    /// Run with a new network namespace in place of the host's, and another in place of the container's. They and
    /// all devices in them are gone when the last descriptor and thread are.
    pub(crate) fn between(test: impl FnOnce(&File) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let container = current();
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                test(&container);
            });
        });
    }

    /// `127.0.0.1:8080/tcp=10.90.1.2:80`, or without an address.
    pub(crate) fn publication(text: &str) -> Publication {
        let (host, container) = text.split_once('=').unwrap();
        let (host, protocol) = host.rsplit_once('/').unwrap();
        let container: SocketAddr = container.parse().unwrap();
        let (host, host_port) = match host.parse::<SocketAddr>() {
            Ok(host) => (Some(host.ip()), host.port()),
            Err(_) => (None, host.parse().unwrap()),
        };
        Publication {
            host,
            host_port,
            protocol: if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp },
            container: container.ip(),
            port: container.port(),
        }
    }

    /// A wait with a limit is not taken up again by the kernel after an interruption (signal(7)).
    pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
        loop {
            match socket.recv_from(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// One more network namespace.
    pub(crate) fn namespace() -> File {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            current()
        };
        std::thread::spawn(make).join().unwrap()
    }

    /// What `act` gives in that namespace.
    pub(crate) fn within<T: Send>(namespace: &File, act: impl FnOnce() -> T + Send) -> T {
        let enter_and_act = || {
            enter(namespace);
            act()
        };
        std::thread::scope(|scope| scope.spawn(enter_and_act).join().unwrap())
    }

    /// A device that can move: one end of a pair. Its other end stays.
    fn plain_device(name: &str) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let peer = format!("peer{}", COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("link add {name} type veth peer name {peer}"));
        ip(&format!("link set {peer} up"));
    }

    fn plain_device_in(namespace: &File, name: &str) {
        let here = current();
        enter(namespace);
        plain_device(name);
        enter(&here);
    }

    fn device(name: &str) {
        plain_device(name);
        ip(&format!("link set {name} address 02:00:00:00:00:05 mtu 1400 up"));
        ip(&format!("addr add 192.0.2.5/24 brd 192.0.2.255 dev {name}"));
        ip(&format!("addr add 192.0.2.6/24 dev {name}"));
        ip(&format!("addr add 198.51.100.1 peer 198.51.100.2/32 dev {name}"));
        ip(&format!("addr add 2001:db8::5/64 nodad dev {name}"));
        // Not permanent, and not global.
        ip(&format!("addr add 192.0.2.77/24 valid_lft 1000 preferred_lft 1000 dev {name}"));
        ip(&format!("addr add 169.254.9.9/16 scope link dev {name}"));
    }

    /// Words of `ip -o addr`: each global address as it is given to `ip addr add`.
    fn addresses(text: &str) -> Vec<String> {
        let mut all: Vec<String> = text
            .lines()
            .filter(|line| line.contains("scope global"))
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[4] {
                    "peer" => words[3..6].join(" "),
                    _ => words[3].to_string(),
                }
            })
            .collect();
        all.sort();
        all
    }

    const KEPT: [&str; 4] =
        ["192.0.2.5/24", "192.0.2.6/24", "198.51.100.1 peer 198.51.100.2/32", "2001:db8::5/64"];

    #[test]
    fn a_device_moves_with_its_attributes_and_addresses() {
        between(|container| {
            device("coracle0");
            assert_eq!(move_device("coracle0", "eth0", container.as_fd()), Ok("eth0".to_string()));
            assert!(!ip("-o link").contains("coracle0"));
            let link = ip_in(container, "-o link show dev eth0");
            assert!(link.contains("mtu 1400") && link.contains("02:00:00:00:00:05"), "{link}");
            assert!(link.contains(",UP") || link.contains("<UP"), "{link}");
            let text = ip_in(container, "-o addr show dev eth0");
            assert_eq!(addresses(&text), KEPT);
            assert!(text.contains("brd 192.0.2.255") && !text.contains("169.254"), "{text}");
            // The broadcast address was given to one of the two only.
            assert_eq!(text.matches("brd").count(), 1, "{text}");
        });
    }

    #[test]
    fn a_name_may_stay() {
        between(|container| {
            plain_device("coracle0");
            assert_eq!(move_device("coracle0", "coracle0", container.as_fd()), Ok("coracle0".to_string()));
            assert!(ip_in(container, "-o link").contains("coracle0"));
        });
    }

    #[test]
    fn the_kernel_fills_a_template() {
        between(|container| {
            plain_device_in(container, "eth0");
            device("coracle0");
            assert_eq!(move_device("coracle0", "eth%d", container.as_fd()), Ok("eth1".to_string()));
            assert_eq!(addresses(&ip_in(container, "-o addr show dev eth1")), KEPT);
            // The other end of a pair as well, and the hole is filled first.
            ip("link add coracle0 type veth peer name coracle1");
            ip_in(container, "link del eth0");
            assert_eq!(move_device("coracle1", "eth%d", container.as_fd()), Ok("eth0".to_string()));
        });
    }

    #[test]
    fn the_hosts_name_may_be_taken_in_the_container() {
        between(|container| {
            plain_device_in(container, "coracle0");
            device("coracle0");
            assert_eq!(move_device("coracle0", "eth0", container.as_fd()), Ok("eth0".to_string()));
            assert_eq!(addresses(&ip_in(container, "-o addr show dev eth0")), KEPT);
            assert_eq!(addresses(&ip_in(container, "-o addr show dev coracle0")), [""; 0]);
        });
    }

    #[test]
    fn what_is_not_there() {
        between(|container| {
            let error = move_device("coracle9", "eth0", container.as_fd()).unwrap_err();
            assert_eq!(error.to_string(), "network device \"coracle9\": find it: no such device");
        });
    }

    #[test]
    fn names_that_no_device_can_have() {
        between(|container| {
            plain_device("coracle0");
            for name in ["", "a/b", "a b", ".", "..", "a:1", "sixteen-letters-", "a\0"] {
                for (host, inside) in [(name, "eth0"), ("coracle0", name)] {
                    let error = move_device(host, inside, container.as_fd()).unwrap_err();
                    assert_eq!(error.to_string(), format!("network device {name:?}: invalid argument"));
                }
            }
            assert!(ip("-o link").contains("coracle0"));
        });
    }

    #[test]
    fn the_same_namespace_is_refused() {
        between(|_| {
            plain_device("coracle0");
            let error = move_device("coracle0", "eth0", current().as_fd()).unwrap_err();
            assert_eq!(error.errno, Errno::EINVAL);
            assert!(ip("-o link").contains("coracle0"));
        });
    }

    #[test]
    fn the_loopback_stays() {
        between(|container| {
            ip("link set lo up");
            let error = move_device("lo", "lo1", container.as_fd()).unwrap_err();
            assert_eq!(error.to_string(), "network device \"lo\": move it: invalid argument");
            assert!(ip("-o link show dev lo").contains("UP"));
        });
    }

    // F-66
    #[test]
    fn a_move_that_fails_half_way_is_undone() {
        // The name is taken; the template is wrong; the last address cannot be added; the name it would pass under
        // on its way back is taken on the host.
        type Prepare = fn(&File);
        let taken: Prepare = |container| plain_device_in(container, "eth0");
        let no_ipv6: Prepare = |container| {
            let here = current();
            enter(container);
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            enter(&here);
        };
        let no_ipv6_and_taken_here: Prepare = |container| {
            let here = current();
            enter(container);
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            enter(&here);
            plain_device("eth0");
        };
        for (prepare, name, says) in [
            (taken, "eth0", "name it \"eth0\": file exists"),
            (taken, "eth%d%d", "name it \"eth%d%d\": invalid argument"),
            (no_ipv6, "eth0", "add 2001:db8::5/64: "),
            (no_ipv6_and_taken_here, "eth0", "add 2001:db8::5/64: "),
        ] {
            between(|container| {
                device("coracle0");
                prepare(container);
                let inside = ip_in(container, "-o link");
                let error = move_device("coracle0", name, container.as_fd()).unwrap_err();
                assert_eq!(error.undo, None, "{error}");
                let text = error.to_string();
                assert!(text.starts_with(&format!("network device \"coracle0\": {says}")), "{text}");
                let link = ip("-o link show dev coracle0");
                assert!(link.contains(",UP") && link.contains("mtu 1400"), "{link}");
                assert_eq!(addresses(&ip("-o addr show dev coracle0")), KEPT);
                assert_eq!(ip_in(container, "-o link"), inside);
            });
        }
    }

    #[test]
    fn a_device_that_was_down_comes_back_down() {
        between(|container| {
            plain_device_in(container, "eth0");
            plain_device("coracle0");
            move_device("coracle0", "eth0", container.as_fd()).unwrap_err();
            assert!(!ip("-o link show dev coracle0").contains("UP"));
        });
    }

    #[test]
    fn the_callers_thread_stays_where_it_is() {
        between(|container| {
            plain_device("coracle0");
            let before = fstat(current()).unwrap().st_ino;
            move_device("coracle0", "eth0", container.as_fd()).unwrap();
            assert_eq!(fstat(current()).unwrap().st_ino, before);
        });
    }

    #[test]
    fn names_of_passage_are_valid_and_different() {
        let (a, b) = (name_of_passage(), name_of_passage());
        assert!(is_name(&a) && is_name(&b) && a != b, "{a} {b}");
    }
}
