// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bridge of a network: made, recognised as ours, removed; and what a new subnet must keep clear of.
//!
//! Never touches a device that does not bear the network's mark, which says of which store it is. Works in the network namespace of the calling thread; names
//! and subnets come from the caller, who keeps other processes from attaching to a bridge while it is removed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use crate::attach::{await_addresses, because, ipv6, mac_for, permission};
use crate::netlink::{Address, Link, Request, Socket};
use crate::network::{Network, Subnet};
use crate::store::hash;
use crate::sysctl;
use crate::{Error, Result, failed, is_name};

/// The device group of what we make (`ip link show group`): "cora". A device has it from its first instant, other
/// than an alias, which a second message adds.
pub(crate) const GROUP: u32 = 0x636f_7261;

/// Longer ones are refused by the kernel (IFALIASZ, with the NUL).
const ALIAS: usize = 255;

/// How an alias begins.
const MARK: &str = "coracle ";

/// Between the hash of a path and its end.
const CUT: &str = "..";

/// Make the network's bridge unless it is there, and give it the gateways' addresses; true: this call has made it.
/// May be called by several processes at once. EEXIST: something that is no bridge of ours has the name; ENOTUNIQ: the
/// bridge of another network, or of another store's network, has it, or has addresses of the subnet.
/// A bridge takes no router advertisements: a container must not become the host's router (CVE-2020-13401).
pub fn raise_bridge(network: &Network) -> Result<bool> {
    let name = &network.bridge;
    raise(network).map_err(|error| of(name, error))
}

/// Names of the bridges of ours that have these addresses in a subnet of theirs.
pub(crate) fn names_before(containers: &BTreeSet<IpAddr>) -> Result<Vec<String>> {
    let mut socket = Socket::open().map_err(failed("netlink socket"))?;
    let addresses = socket.all_addresses().map_err(failed("list addresses"))?;
    let mut links = socket.links().map_err(failed("list network devices"))?;
    links.retain(|link| {
        let mut subnets = addresses.iter().filter(|(device, _)| *device == link.index);
        let leads = |subnet: Subnet| containers.iter().any(|container| subnet.contains(*container));
        let ours = link.kind == "bridge" && link.group == GROUP;
        ours && subnets.any(|(_, address)| address.subnet().is_some_and(leads))
    });
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// Names of the devices that are none of ours, without the loopback.
pub(crate) fn foreign_links() -> Result<Vec<String>> {
    let mut socket = Socket::open().map_err(failed("netlink socket"))?;
    let mut links = socket.links().map_err(failed("list network devices"))?;
    links.retain(|link| link.group != GROUP && link.name != "lo");
    Ok(links.into_iter().map(|link| link.name).collect())
}

fn raise(network: &Network) -> Result<bool> {
    let name = &network.bridge;
    check_name(name)?;
    let alias = alias(&network.name, &network.store);
    if alias.len() > ALIAS || alias.contains('\0') {
        return Err(failed(format!("network name {:?}", network.name))(Errno::EINVAL));
    }
    let addresses: Vec<_> =
        network.subnets.iter().map(|range| (range.gateway, range.subnet.prefix)).collect();
    let mut socket = Socket::open().map_err(failed("netlink socket"))?;
    // Nearly always: and to change a link takes a lock for which one may wait long.
    match socket.link(name) {
        Ok(link) if is_complete(&mut socket, &link, network, &alias, &addresses)? => return Ok(false),
        Ok(_) => {}
        Err(Errno::ENODEV) => has_its_addresses(&mut socket, network)?,
        Err(errno) => return Err(failed("find it")(errno)),
    }
    // A MAC of its own: else it would be the lowest one of its ports, another one with each container, and what the
    // neighbours remember of the gateway wrong.
    let made = match socket.ask(Request::make_bridge(name, GROUP, mac_for(&addresses)), |_, _| {}) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => {
            let why = match errno {
                Errno::EOPNOTSUPP => Some("the kernel has no bridges"),
                other => permission(other),
            };
            return Err(because(why, failed("make it")(errno)));
        }
    };
    let done = complete(&mut socket, network, &alias, &addresses);
    if done.is_err() && made {
        let undo = remove(&mut socket, network).err().map(|undo| format!("it is still there: {undo}"));
        return done.map(|()| made).map_err(|error| Error { undo, ..error });
    }
    done.map(|()| made)
}

/// Has [`complete`] come to its end, and nobody changed what it did? The alias was set last.
fn is_complete(
    socket: &mut Socket,
    link: &Link,
    network: &Network,
    alias: &str,
    addresses: &[(IpAddr, u8)],
) -> Result<bool> {
    let as_made = link.kind == "bridge" && link.group == GROUP && link.alias == alias && link.up;
    if !as_made || (network.mtu != 0 && network.mtu != link.mtu) {
        return Ok(false);
    }
    let there = socket.addresses(link.index).map_err(failed("list its addresses"))?;
    let there: Vec<String> = there.iter().map(Address::to_string).collect();
    Ok(addresses.iter().all(|(address, prefix)| there.contains(&format!("{address}/{prefix}"))))
}

/// The same whoever has made it: that one may not have come so far, or have been killed.
fn complete(socket: &mut Socket, network: &Network, alias: &str, addresses: &[(IpAddr, u8)]) -> Result<()> {
    let link = socket.link(&network.bridge).map_err(failed("find it"))?;
    not_ours(&link, network)?;
    sysctl::write_ipv6(&network.bridge, "accept_ra", "0")?;
    let mut set = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK)
        .link(link.index, libc::IFF_UP as u32)
        .attribute(libc::IFLA_IFALIAS, alias.as_bytes());
    if network.mtu != 0 {
        // Only a change by hand stays when the last port goes, so not at its making.
        set = set.attribute(libc::IFLA_MTU, &network.mtu.to_ne_bytes());
    }
    let mut requests = vec![set];
    let may_be_there = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    for (address, prefix) in addresses {
        requests.push(Request::add_address(link.index, &Address::new(*address, *prefix), may_be_there));
    }
    // From it the host asks for a container to which others send (net/ipv6/ndisc.c, ndisc_solicit). The kernel's own looks
    // for duplicates first, from the first port on: until then, a second or two, nobody outside reaches an IPv6 address, and
    // after three of them is told so.
    if let Some(mac) = link.mac
        && addresses.iter().any(|(address, _)| address.is_ipv6())
    {
        requests.push(Request::add_address(link.index, &Address::new(link_local(mac), 64), may_be_there));
    }
    socket.batch(requests).map_err(|(place, errno)| {
        match place.checked_sub(1).and_then(|at| addresses.get(at)) {
            Some((address, prefix)) => {
                let mtu = if network.mtu == 0 { link.mtu } else { network.mtu };
                let why = if address.is_ipv6() { ipv6(errno, mtu) } else { None };
                because(why.or_else(|| permission(errno)), failed(format!("add {address}/{prefix}"))(errno))
            }
            None if errno == Errno::EINVAL && network.mtu != 0 => {
                let why = format!("an MTU of {} bytes may be the reason", network.mtu);
                because(Some(why), failed("set it up")(errno))
            }
            None => because(permission(errno), failed("set it up")(errno)),
        }
    })?;
    await_addresses(socket, addresses)
}

/// The one that the kernel makes (RFC 4291, appendix A), and does not make again where it is there.
fn link_local(mac: [u8; 6]) -> IpAddr {
    let [a, b, c, d, e, f] = mac;
    IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Remove the network's bridge; false: there is none of this name. EEXIST: the name is somebody else's; ENOTUNIQ: another
/// network's; EBUSY: it has ports. A port that joins at this very moment is left without a bridge.
pub fn remove_bridge(network: &Network) -> Result<bool> {
    let remove = || {
        check_name(&network.bridge)?;
        remove(&mut Socket::open().map_err(failed("netlink socket"))?, network)
    };
    remove().map_err(|error| of(&network.bridge, error))
}

/// The name of the bridge that bears this network's mark, whatever its definition says.
pub fn find_bridge(network: &Network) -> Result<Option<String>> {
    let alias = alias(&network.name, &network.store);
    let mut socket = Socket::open().map_err(failed("netlink socket"))?;
    let links = socket.links().map_err(failed("list devices"))?;
    Ok(links.into_iter().find(|link| is_ours(link) && link.alias == alias).map(|link| link.name))
}

fn remove(socket: &mut Socket, network: &Network) -> Result<bool> {
    let link = match socket.link(&network.bridge) {
        Err(Errno::ENODEV) => return Ok(false),
        other => other.map_err(failed("find it"))?,
    };
    not_ours(&link, network)?;
    let mut ports = socket.links().map_err(failed("list its ports"))?;
    ports.retain(|port| port.master == link.index);
    if !ports.is_empty() {
        let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).take(4).collect();
        let more = if ports.len() > names.len() { ", …" } else { "" };
        let why = format!("{} attached: {}{more}", ports.len(), names.join(", "));
        return Err(because(Some(why), failed("remove it")(Errno::EBUSY)));
    }
    match socket.ask(Request::remove_link(link.index), |_, _| {}) {
        Ok(()) => Ok(true),
        Err(Errno::ENODEV) => Ok(false),
        Err(errno) => Err(because(permission(errno), failed("remove it")(errno))),
    }
}

/// `coracle NAME STORE`: whose bridge it is. Of a path that is too long, a hash and the end. What is not printed is escaped.
pub(crate) fn alias(name: &str, store: &Path) -> String {
    let path = store.as_os_str().as_bytes().escape_ascii().to_string();
    if path.is_empty() {
        return format!("{MARK}{name}");
    }
    let room = ALIAS.saturating_sub(MARK.len() + name.len() + 1);
    if path.len() <= room {
        return format!("{MARK}{name} {path}");
    }
    let hash = hash(&path);
    // All of it is ASCII.
    let end = path.get(path.len() - room.saturating_sub(hash.len() + CUT.len()).min(path.len())..);
    format!("{MARK}{name} {hash}{CUT}{}", end.unwrap_or_default())
}

fn is_ours(link: &Link) -> bool {
    link.kind == "bridge" && link.group == GROUP
}

/// Ours is a bridge in our group. An alias says of which network; a bridge that was just made has none.
fn not_ours(link: &Link, network: &Network) -> Result<()> {
    let (errno, why) = if link.kind != "bridge" {
        (Errno::EEXIST, format!("a device that is no bridge has the name{}", kind(link)))
    } else if link.group != GROUP {
        (Errno::EEXIST, "a bridge that Coracle has not made has the name".to_string())
    } else if !link.alias.is_empty() && link.alias != alias(&network.name, &network.store) {
        let again =
            format!("`oar network rm {}`, and when it is made again it has another bridge", network.name);
        (Errno::ENOTUNIQ, format!("it belongs to {}; {again}", owner(&link.alias)))
    } else {
        return Ok(());
    };
    Err(because(Some(why), failed("it is not ours")(errno)))
}

/// Who an alias says it is.
fn owner(alias: &str) -> String {
    let printed = Some(alias).filter(|alias| !alias.contains(char::is_control));
    match printed.and_then(|alias| alias.strip_prefix(MARK)).and_then(|rest| rest.split_once(' ')) {
        Some((name, store)) => {
            let root = store.strip_suffix("/@network").unwrap_or(store);
            format!("network {name:?} of the state root {root}")
        }
        None => format!("another network: {alias:?}"),
    }
}

/// Two definitions that were made before either was up may have the same addresses.
fn has_its_addresses(socket: &mut Socket, network: &Network) -> Result<()> {
    let links = socket.links().map_err(failed("list devices"))?;
    let there = socket.all_addresses().map_err(failed("list addresses"))?;
    // Its own may have been made since.
    for link in links.iter().filter(|link| is_ours(link) && link.name != network.bridge) {
        let mut theirs = there
            .iter()
            .filter(|(index, _)| *index == link.index)
            .filter_map(|(_, address)| address.subnet());
        let overlap =
            |theirs: &Subnet| network.subnets.iter().find(|range| range.subnet.overlaps(theirs)).copied();
        if let Some((theirs, range)) = theirs.find_map(|theirs| Some((theirs, overlap(&theirs)?))) {
            let why = format!(
                "{theirs} is on bridge {:?} of {}; `oar network rm {}`, and it can be made again with another subnet",
                link.name,
                owner(&link.alias),
                network.name
            );
            return Err(because(Some(why), failed(format!("its subnet {}", range.subnet))(Errno::ENOTUNIQ)));
        }
    }
    Ok(())
}

fn kind(link: &Link) -> String {
    if link.kind.is_empty() { String::new() } else { format!(": a {}", link.kind) }
}

fn check_name(name: &str) -> Result<()> {
    if is_name(name) && !name.contains('%') {
        return Ok(());
    }
    Err(because(Some("no device can have this name"), failed("its name")(Errno::EINVAL)))
}

fn of(name: &str, error: Error) -> Error {
    Error { what: format!("bridge {name:?}: {}", error.what), ..error }
}

/// What of the host a new network must keep clear of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Occupied {
    /// Where the destinations of all routes are, of all tables, and the subnets of all addresses; sorted. Without default
    /// routes, also those that are cut in two halves, as VPNs do to be before another one.
    pub subnets: Vec<Subnet>,
    pub links: Vec<OccupiedName>,
}

/// The name of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OccupiedName {
    pub name: String,
    /// Of a bridge of ours: whose it is. Else empty.
    pub alias: String,
}

/// Of the caller's network namespace.
pub fn occupied() -> Result<Occupied> {
    let mut socket = Socket::open().map_err(failed("netlink socket"))?;
    let routes = socket.routes().map_err(failed("list routes"))?;
    let addresses = socket.all_addresses().map_err(failed("list addresses"))?;
    let links = socket.links().map_err(failed("list devices"))?;
    let mut subnets: Vec<Subnet> = routes.iter().map(|route| route.destination).collect();
    subnets.extend(addresses.iter().filter_map(|(_, address)| address.subnet()));
    subnets.retain(|subnet| subnet.prefix > 1);
    subnets.sort();
    subnets.dedup();
    let links = links.into_iter().map(|link| OccupiedName {
        alias: if is_ours(&link) { link.alias } else { String::new() },
        name: link.name,
    });
    Ok(Occupied { subnets, links: links.collect() })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    use super::*;
    use crate::tests::{between, current, ip, within};
    use crate::{Endpoint, Range, attach, detach};

    fn network(name: &str, subnets: &[(&str, &str)]) -> Network {
        let range = |(subnet, gateway): &(&str, &str)| Range {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        Network {
            name: name.to_string(),
            bridge: "br0".to_string(),
            subnets: subnets.iter().map(range).collect(),
            mtu: 0,
            internal: false,
            isolate: false,
            store: PathBuf::new(),
        }
    }

    fn web() -> Network {
        network("web", &[("10.9.0.0/24", "10.9.0.1"), ("fd00:9::/64", "fd00:9::1")])
    }

    fn endpoint(name: &str) -> Endpoint {
        Endpoint {
            name: name.to_string(),
            host_name: format!("oar-{name}"),
            mac: None,
            addresses: vec![],
            gateways: vec![],
            mtu: 0,
            bridge: "br0".to_string(),
        }
    }

    #[test]
    fn a_bridge_is_made_once_and_bears_its_mark() {
        between(|_| {
            assert_eq!(raise_bridge(&web()), Ok(true));
            let (link, addresses) = (ip("-o -d link show dev br0"), ip("-o addr show dev br0"));
            assert!(link.contains("<BROADCAST,MULTICAST,UP") || link.contains(",UP"), "{link}");
            assert!(link.contains("alias coracle web") && link.contains("02:04:0a:09:00:01"), "{link}");
            assert!(addresses.contains("10.9.0.1/24 brd 10.9.0.255"), "{addresses}");
            assert!(addresses.contains("fd00:9::1/64") && !addresses.contains("tentative"), "{addresses}");
            assert!(addresses.contains("fe80::4:aff:fe09:1/64 scope link"), "{addresses}");
            let setting = std::fs::read_to_string("/proc/sys/net/ipv6/conf/br0/accept_ra");
            assert_eq!(setting.unwrap().trim(), "0");
            assert_eq!(raise_bridge(&web()), Ok(false));
            assert_eq!(ip("-o addr show dev br0"), addresses);
            assert_eq!(remove_bridge(&web()), Ok(true));
            assert_eq!(remove_bridge(&web()), Ok(false));
        });
    }

    /// As of a process that was killed after its first message: the rest is made up for.
    #[test]
    fn a_bridge_that_was_only_begun_is_completed() {
        between(|_| {
            let mut socket = Socket::open().unwrap();
            socket.ask(Request::make_bridge("br0", GROUP, None), |_, _| {}).unwrap();
            assert_eq!(raise_bridge(&web()), Ok(false));
            assert!(ip("-o addr show dev br0").contains("10.9.0.1/24"));
            assert!(ip("-o -d link show dev br0").contains("alias coracle web"));
        });
    }

    #[test]
    fn several_at_once_make_one() {
        between(|_| {
            for _ in 0..10 {
                let here = current();
                let start = std::sync::Barrier::new(8);
                let raise = || {
                    start.wait();
                    raise_bridge(&web()).unwrap()
                };
                let made = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| within(&here, raise))).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).filter(|made| *made).count()
                });
                assert_eq!(made, 1);
                assert_eq!(ip("-o -4 addr show dev br0").lines().count(), 1);
                assert_eq!(remove_bridge(&web()), Ok(true));
            }
        });
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let taken = "bridge \"br0\": it is not ours: file exists";
        for (make, says) in [
            ("link add br0 type bridge", "a bridge that Coracle has not made has the name"),
            ("link add br0 type veth peer name br1", "a device that is no bridge has the name: a veth"),
        ] {
            between(|_| {
                ip(make);
                let before = ip("-o -d link");
                for error in [raise_bridge(&web()).map(drop), remove_bridge(&web()).map(drop)] {
                    assert_eq!(error.unwrap_err().to_string(), format!("{taken} ({says})"));
                }
                assert_eq!(ip("-o -d link"), before);
            });
        }
        between(|_| {
            assert_eq!(raise_bridge(&web()), Ok(true));
            let other = network("mail", &[("10.8.0.0/24", "10.8.0.1")]);
            let error = raise_bridge(&other).unwrap_err().to_string();
            let says = "bridge \"br0\": it is not ours: name not unique on network (it belongs to another network: \
                        \"coracle web\"; `oar network rm mail`, and when it is made again it has another bridge)";
            assert_eq!(error, says);
            assert!(!ip("-o addr").contains("10.8.0.1"));
        });
    }

    /// Two state roots on one host.
    #[test]
    fn another_stores_bridge_is_left_alone() {
        let of = |store: &str| Network { store: PathBuf::from(store), ..web() };
        let (ours, theirs) = (of("/run/a/@network"), of("/run/b/@network"));
        between(|_| {
            assert_eq!(raise_bridge(&theirs), Ok(true));
            let before = ip("-o -d addr");
            let says = "bridge \"br0\": it is not ours: name not unique on network (it belongs to network \"web\" of the \
                        state root /run/b; `oar network rm web`, and when it is made again it has another bridge)";
            for error in [raise_bridge(&ours).map(drop), remove_bridge(&ours).map(drop)] {
                assert_eq!(error.unwrap_err().to_string(), says);
            }
            // The same addresses, by another name.
            let other = Network { name: "mail".into(), bridge: "br1".into(), ..ours.clone() };
            let error = raise_bridge(&other).unwrap_err();
            let says = "bridge \"br1\": its subnet 10.9.0.0/24: name not unique on network (10.9.0.0/24 is on bridge \
                        \"br0\" of network \"web\" of the state root /run/b; `oar network rm mail`, and it can be made \
                        again with another subnet)";
            assert_eq!(error.to_string(), says);
            assert_eq!(ip("-o -d addr"), before);
            assert_eq!(find_bridge(&ours), Ok(None));
            assert_eq!(
                find_bridge(&Network { bridge: String::new(), ..theirs.clone() }),
                Ok(Some("br0".into()))
            );
            let links = occupied().unwrap().links;
            let br0 = OccupiedName { name: "br0".into(), alias: "coracle web /run/b/@network".into() };
            assert!(links.contains(&br0), "{links:?}");
            assert!(links.contains(&OccupiedName { name: "lo".into(), alias: String::new() }), "{links:?}");
            assert_eq!(remove_bridge(&theirs), Ok(true));
            assert_eq!(raise_bridge(&ours), Ok(true));
        });
    }

    #[test]
    fn an_alias_fits_and_names_one_store() {
        assert_eq!(alias("web", Path::new("/run/oar/@network")), "coracle web /run/oar/@network");
        assert_eq!(alias("web", Path::new("/a\n\u{e9}")), "coracle web /a\\n\\xc3\\xa9");
        let name = "n".repeat(64);
        let long = |first: &str| alias(&name, Path::new(&format!("/{first}{}/@network", "x".repeat(4000))));
        assert_eq!(long("a").len(), ALIAS);
        assert!(long("a").ends_with("xx/@network"), "{}", long("a"));
        assert_ne!(long("a"), long("b"));
        let just = "/".repeat(ALIAS - "coracle web ".len());
        assert_eq!(alias("web", Path::new(&just)), format!("coracle web {just}"));
        between(|_| {
            let network = Network { store: format!("/{}/@network", "x".repeat(4000)).into(), ..web() };
            assert_eq!(raise_bridge(&network), Ok(true));
            assert_eq!(raise_bridge(&network), Ok(false));
            assert_eq!(remove_bridge(&network), Ok(true));
        });
    }

    #[test]
    fn a_bridge_with_ports_stays() {
        between(|container: &File| {
            raise_bridge(&web()).unwrap();
            attach(&[endpoint("eth0"), endpoint("eth1")], container.as_fd()).unwrap();
            let error = remove_bridge(&web()).unwrap_err();
            assert_eq!(error.errno, Errno::EBUSY);
            let says = "bridge \"br0\": remove it: device or resource busy (2 attached: oar-eth0, oar-eth1)";
            assert_eq!(error.to_string(), says);
            detach(&["oar-eth0".to_string(), "oar-eth1".to_string()]).unwrap();
            assert_eq!(remove_bridge(&web()), Ok(true));
        });
    }

    #[test]
    fn mac_and_mtu_are_the_same_whatever_comes_and_goes() {
        between(|container| {
            assert_eq!(raise_bridge(&Network { mtu: 1400, ..web() }), Ok(true));
            let state = || ip("-o link show dev br0").replace("NO-CARRIER,", "");
            let (low, big) = (Some([2, 0, 0, 0, 0, 1]), 9000);
            let mac = "02:04:0a:09:00:01";
            for endpoint in [endpoint("eth0"), Endpoint { mac: low, mtu: big, ..endpoint("eth0") }] {
                attach(std::slice::from_ref(&endpoint), container.as_fd()).unwrap();
                assert!(state().contains("mtu 1400") && state().contains(mac), "{}", state());
                detach(&["oar-eth0".to_string()]).unwrap();
                ip("link del oar-eth0");
                assert!(state().contains("mtu 1400") && state().contains(mac), "{}", state());
            }
        });
    }

    #[test]
    fn a_bridge_that_cannot_be_completed_is_gone() {
        between(|_| {
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            let error = raise_bridge(&web()).unwrap_err().to_string();
            let says = "permission denied (IPv6 is switched off there: net.ipv6.conf.*.disable_ipv6)";
            assert_eq!(error, format!("bridge \"br0\": add fd00:9::1/64: {says}"));
            assert!(!ip("-o link").contains("br0"));
            let error =
                raise_bridge(&Network { bridge: "a/b".to_string(), ..web() }).unwrap_err().to_string();
            assert_eq!(error, "bridge \"a/b\": its name: invalid argument (no device can have this name)");
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0").unwrap();
            let error = raise_bridge(&Network { mtu: 1000, ..web() }).unwrap_err().to_string();
            assert!(
                error.ends_with("add fd00:9::1/64: invalid argument (IPv6 takes an MTU of 1280 bytes)"),
                "{error}"
            );
            let error = raise_bridge(&Network { mtu: 70_000, ..web() }).unwrap_err().to_string();
            let says = "set it up: invalid argument (an MTU of 70000 bytes may be the reason)";
            assert_eq!(error, format!("bridge \"br0\": {says}"));
            assert!(!ip("-o link").contains("br0"));
            let long = Network { name: "n".repeat(300), ..web() };
            assert!(raise_bridge(&long).unwrap_err().to_string().ends_with("\": invalid argument"));
        });
    }

    /// Runs itself again, as a process without CAP_NET_ADMIN.
    #[test]
    fn the_missing_capability_is_named() {
        const AGAIN: &str = "CORACLE_TEST_WITHOUT_NET_ADMIN";
        if std::env::var_os(AGAIN).is_some() {
            return between(|_| {
                let error = raise_bridge(&web()).unwrap_err();
                let why = "it takes CAP_NET_ADMIN in the user namespace that owns the network namespace";
                assert_eq!(
                    error.to_string(),
                    format!("bridge \"br0\": make it: operation not permitted ({why})")
                );
                assert_eq!(remove_bridge(&web()), Ok(false));
            });
        }
        let output = std::process::Command::new("setpriv")
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
            .arg(std::env::current_exe().unwrap())
            .args(["bridge::tests::the_missing_capability_is_named", "--exact"])
            .env(AGAIN, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    fn what_is_occupied() {
        between(|_| {
            assert_eq!(occupied().unwrap().subnets, []);
            ip("link set lo up");
            raise_bridge(&web()).unwrap();
            ip("addr add 10.7.0.1 peer 10.7.9.0/24 dev br0");
            ip("route add 10.6.0.0/16 dev br0 table 77");
            ip("route add unreachable 10.5.0.0/16");
            ip("-6 route add blackhole fd00:5::/48");
            for default in ["default", "0.0.0.0/1", "128.0.0.0/1"] {
                ip(&format!("route add {default} dev br0"));
            }
            ip("-6 route add default dev br0");
            let all = occupied().unwrap().subnets;
            // Every destination that `ip` knows, which leaves out the prefix of a single address.
            let mut seen = 0;
            for text in [ip("-4 -o route show table all"), ip("-6 -o route show table all")] {
                let single = if text.contains("fd00") { 128 } else { 32 };
                for line in text.lines() {
                    let mut words = line.split(' ').map(|word| word.split('\\').next().unwrap());
                    let word = words.find(|word| word.contains(['.', ':']) || *word == "default").unwrap();
                    let word = if word.contains('/') { word.to_string() } else { format!("{word}/{single}") };
                    if !word.starts_with("default") && !word.ends_with("/1") {
                        assert!(all.contains(&word.parse().unwrap()), "{line}: {all:?}");
                        seen += 1;
                    }
                }
            }
            assert!(seen > 10, "{seen}");
            for subnet in
                ["10.9.0.0/24", "fd00:9::/64", "10.7.9.0/24", "10.6.0.0/16", "10.5.0.0/16", "fd00:5::/48"]
            {
                assert!(all.contains(&subnet.parse().unwrap()), "{subnet}: {all:?}");
            }
            let outside: Subnet = "192.168.0.0/16".parse().unwrap();
            assert!(!all.iter().any(|subnet| subnet.overlaps(&outside)), "no default route is left: {all:?}");
            assert!(all.is_sorted() && all.iter().all(|subnet| subnet.contains(subnet.network)));
        });
    }

    #[test]
    fn an_address_alone_occupies_its_subnet() {
        between(|_| {
            raise_bridge(&network("web", &[])).unwrap();
            ip("addr add 10.9.0.5/24 dev br0 noprefixroute");
            let all = occupied().unwrap().subnets;
            assert!(all.contains(&Subnet::of(IpAddr::from([10, 9, 0, 0]), 24).unwrap()), "{all:?}");
        });
    }
}
