// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network's settings that only /proc/sys/net has: forwarding, and three of a device.
//!
//! Never turns forwarding off. A file there belongs to the network namespace of the thread that opens it, whatever
//! procfs it is in; here that is always the calling thread.

use std::fs;
use std::io::ErrorKind;

use crate::netlink::Socket;
use crate::{Result, errno_of, failed};

/// What a host does with packets that are for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// net.ipv4.ip_forward.
    pub v4: bool,
    /// net.ipv6.conf.all.forwarding; false on a kernel without IPv6.
    pub v6: bool,
}

const IPV4: &str = "ipv4/ip_forward";
const IPV6: &str = "ipv6/conf/all/forwarding";

/// Is it on in the network namespace of this thread?
pub fn forwarding() -> Result<Forwarding> {
    Ok(Forwarding { v4: read(IPV4)?.is_some_and(is_on), v6: read(IPV6)?.is_some_and(is_on) })
}

/// Turn it on for the families asked for, in the network namespace of this thread; the other one stays as it is.
/// A device that forwards ignores router advertisements unless its accept_ra is 2, and the kernel drops the default
/// routes that it has from them. So where accept_ra is 1 and a route or an address is from one, it becomes 2 first.
pub fn set_forwarding(families: Forwarding) -> Result<()> {
    let now = forwarding()?;
    if families.v4 && !now.v4 {
        write(IPV4, "1")?;
    }
    if families.v6 && !now.v6 {
        for device in advertised()? {
            let file = format!("ipv6/conf/{device}/accept_ra");
            if read(&file)?.is_some_and(|value| value.trim() == "1") {
                write(&file, "2")?;
            }
        }
        write(IPV6, "1")?;
    }
    Ok(())
}

/// Names of the devices that have a route or an address from a router advertisement.
fn advertised() -> Result<Vec<String>> {
    let mut socket = Socket::open().map_err(failed("netlink socket"))?;
    let routes = socket.routes().map_err(failed("list routes"))?;
    let addresses = socket.all_addresses().map_err(failed("list addresses"))?;
    let mut links = socket.links().map_err(failed("list network devices"))?;
    links.retain(|link| {
        routes.iter().any(|route| route.advertised && route.device == link.index)
            || addresses.iter().any(|(device, address)| *device == link.index && address.is_advertised())
    });
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// A setting of a device, whose name is_name. None: there is no such device.
pub(crate) fn read_ipv4(device: &str, setting: &str) -> Result<Option<String>> {
    read(&format!("ipv4/conf/{device}/{setting}"))
}

/// The same, to set it.
pub(crate) fn write_ipv4(device: &str, setting: &str, value: &str) -> Result<()> {
    write(&format!("ipv4/conf/{device}/{setting}"), value)
}

/// The same; without IPv6 there is nothing to set.
pub(crate) fn write_ipv6(device: &str, setting: &str, value: &str) -> Result<()> {
    let file = format!("ipv6/conf/{device}/{setting}");
    match fs::write(path(&file), value) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| failed(format!("write {value} to net/{file}"))(errno_of(&error))),
    }
}

fn write(file: &str, value: &str) -> Result<()> {
    fs::write(path(file), value)
        .map_err(|error| failed(format!("write {value} to net/{file}"))(errno_of(&error)))
}

/// None: there is no such setting.
fn read(file: &str) -> Result<Option<String>> {
    match fs::read_to_string(path(file)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(|error| failed(format!("read net/{file}"))(errno_of(&error))),
    }
}

fn path(file: &str) -> String {
    format!("/proc/sys/net/{file}")
}

fn is_on(value: String) -> bool {
    value.trim() != "0"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{between, ip, within};

    fn setting(file: &str) -> String {
        fs::read_to_string(path(file)).unwrap().trim().to_string()
    }

    #[test]
    fn each_family_is_turned_on_by_itself_and_only_here() {
        between(|container| {
            let of = |v4, v6| Forwarding { v4, v6 };
            // A new namespace may have what the first one has.
            for file in [IPV4, IPV6] {
                write(file, "0").unwrap();
                within(container, || write(file, "0").unwrap());
            }
            assert_eq!(forwarding(), Ok(of(false, false)));
            set_forwarding(of(false, false)).unwrap();
            assert_eq!(forwarding(), Ok(of(false, false)));
            set_forwarding(of(true, false)).unwrap();
            assert_eq!(forwarding(), Ok(of(true, false)));
            set_forwarding(of(false, true)).unwrap();
            assert_eq!(forwarding(), Ok(of(true, true)));
            set_forwarding(of(true, true)).unwrap();
            assert_eq!(forwarding(), Ok(of(true, true)));
            assert_eq!(within(container, forwarding), Ok(of(false, false)));
        });
    }

    #[test]
    fn an_uplink_keeps_what_routers_tell_it() {
        between(|_| {
            write(IPV6, "0").unwrap();
            for (name, accept) in [("up.0", "1"), ("up1", "1"), ("up2", "0")] {
                ip(&format!("link add {name} type veth peer name peer-{name}"));
                ip(&format!("link set peer-{name} up"));
                ip(&format!("link set {name} up"));
                write(&format!("ipv6/conf/{name}/accept_ra"), accept).unwrap();
            }
            for name in ["up.0", "up2"] {
                ip(&format!("-6 route add default via fe80::1 dev {name} proto ra metric 10{}", name.len()));
            }
            set_forwarding(Forwarding { v4: false, v6: true }).unwrap();
            assert_eq!(
                ["up.0", "up1", "up2"].map(|name| setting(&format!("ipv6/conf/{name}/accept_ra"))),
                ["2", "1", "0"]
            );
            assert_eq!(setting(IPV6), "1");
        });
    }

    #[test]
    fn what_is_not_there() {
        between(|_| {
            assert_eq!(write_ipv6("absent", "accept_ra", "0"), Ok(()));
            let error = write_ipv4("absent", "arp_notify", "1").unwrap_err().to_string();
            assert_eq!(error, "write 1 to net/ipv4/conf/absent/arp_notify: no such file or directory");
        });
    }
}
