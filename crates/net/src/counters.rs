// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traffic counters of the devices in a network namespace, by netlink from inside of it.
//!
//! Never changes a device, nor the namespace of a thread of the caller. The namespace comes from the caller;
//! the numbers are the kernel's 64-bit ones.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::netlink::Socket;
use crate::{Result, failed};

/// One device, since it was made. Bytes are those of whole frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
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

/// Of every device in `netns` but the loopback, in the kernel's order. `netns` may also be a pidfd. EPERM for a
/// caller without CAP_SYS_ADMIN in its own user namespace and in that of `netns`.
pub fn counters(netns: BorrowedFd<'_>) -> Result<Vec<Counters>> {
    // A thread of its own: it enters the other namespace and ends there.
    std::thread::scope(|scope| {
        let ask = move || {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(failed("enter the network namespace"))?;
            let mut socket = Socket::open().map_err(failed("netlink socket"))?;
            socket.counters().map_err(failed("list network devices"))
        };
        std::thread::Builder::new()
            .spawn_scoped(scope, ask)
            .map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
            .and_then(|thread| thread.join().map_err(|_| Errno::ECANCELED))
            .map_err(failed("start a thread"))?
    })
}

/// The same from the text of `/proc/PID/net/dev`, which needs no right to enter the namespace. Lines that are
/// no device are passed over.
pub fn parse_proc_net_dev(text: &str) -> Vec<Counters> {
    let device = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        // Eight of each: bytes, packets, errs, drop, fifo, frame, compressed, multicast.
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx @ ..] = numbers.as_slice() else {
            return None;
        };
        let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = tx else { return None };
        Some(Counters {
            name: name.trim().to_string(),
            rx_bytes: *rx_bytes,
            rx_packets: *rx_packets,
            rx_errors: *rx_errors,
            rx_dropped: *rx_dropped,
            tx_bytes: *tx_bytes,
            tx_packets: *tx_packets,
            tx_errors: *tx_errors,
            tx_dropped: *tx_dropped,
        })
    };
    text.lines().filter_map(device).filter(|device| device.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::Command;

    use nix::sched::unshare;

    use super::*;

    fn run(line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A new network namespace; the thread, and so the devices, end with the test.
    fn inside(test: impl FnOnce(&File) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                test(&File::open("/proc/thread-self/ns/net").unwrap());
            });
        });
    }

    fn only(netns: &File, name: &str) -> Counters {
        let list = counters(netns.as_fd()).unwrap();
        list.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("{name}: {list:?}")).clone()
    }

    #[test]
    fn the_loopback_is_not_listed() {
        inside(|netns| {
            run("ip link set lo up");
            assert_eq!(counters(netns.as_fd()), Ok(vec![]));
        });
    }

    #[test]
    fn what_is_sent_is_counted_on_both_ends() {
        inside(|netns| {
            // Else each end announces itself. On a kernel without IPv6 there is nothing to switch off.
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
            run("ip link add made0 type veth peer name made1");
            run("ip addr add 192.0.2.1/24 dev made0");
            run("ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev made0");
            // The peer first: then made0 has its carrier when it goes up and can send at once. The other way
            // round the kernel hears of the carrier later (linkwatch), and drops what is sent until then.
            run("ip link set made1 up");
            run("ip link set made0 up");
            let before = (only(netns, "made0"), only(netns, "made1"));
            let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
            for _ in 0..5 {
                assert_eq!(socket.send_to(&[0; 100], "192.0.2.2:9").unwrap(), 100);
            }
            let after = (only(netns, "made0"), only(netns, "made1"));
            // Ethernet, IPv4 and UDP: 14, 20 and 8 bytes.
            assert_eq!(after.0.tx_packets - before.0.tx_packets, 5, "{after:?}");
            assert_eq!(after.0.tx_bytes - before.0.tx_bytes, 5 * 142, "{after:?}");
            assert_eq!(after.1.rx_packets - before.1.rx_packets, 5, "{after:?}");
            assert_eq!(after.1.rx_bytes - before.1.rx_bytes, 5 * 142, "{after:?}");
            assert_eq!((after.0.rx_packets, after.0.tx_errors), (before.0.rx_packets, 0));
        });
    }

    #[test]
    fn both_ways_agree() {
        inside(|netns| {
            for number in 0..20 {
                run(&format!("ip link add made{number} type veth peer name peer{number}"));
            }
            let list = counters(netns.as_fd()).unwrap();
            let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            assert_eq!(list.len(), 40);
            assert_eq!(parse_proc_net_dev(&text), list);
        });
    }

    #[test]
    fn a_descriptor_of_something_else_is_an_error() {
        let error = counters(File::open("/dev/null").unwrap().as_fd()).unwrap_err();
        assert_eq!(error.to_string(), "enter the network namespace: invalid argument");
    }

    #[test]
    fn lines_of_proc() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
                    eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\nshort: 1 2 3\nodd: 1 x\n:\n";
        let eth0 = Counters {
            name: "eth0".into(),
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 9,
            tx_packets: 10,
            tx_errors: 11,
            tx_dropped: 12,
        };
        assert_eq!(parse_proc_net_dev(text), [eth0]);
    }
}
