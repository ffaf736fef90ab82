// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container's interfaces on bridges: made in its network namespace under their final names, and taken away.
//!
//! Never changes the namespace of a thread of the caller, and never chooses a name or an address. Everything comes
//! from the caller; the bridges are those of bridge.rs or anybody's.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};

use crate::bridge::GROUP;
use crate::netlink::{Address, CREATE, Link, Pair, Request, Socket};
use crate::network::Subnet;
use crate::sysctl;
use crate::{Error, Result, errno_of, failed, is_name, same_file};

/// One interface of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// In the container: `eth0`.
    pub name: String,
    /// Of the host's end, in the caller's namespace.
    pub host_name: String,
    /// None: made from the first IPv4 address, else from the first IPv6 address, so that an address that comes back
    /// has the MAC that neighbours remember; random where there is no address.
    pub mac: Option<[u8; 6]>,
    /// With the bits of the prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default routes: at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Bytes; 0: the bridge's.
    pub mtu: u32,
    /// A bridge in the caller's namespace.
    pub bridge: String,
}

/// How long a work queue of the kernel may take, and how often to look.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_micros(50);

/// Make the interfaces in `netns` (also a pidfd), up, with addresses and routes, and the loopback up; their MACs, in
/// order. When this returns, the ports pass on frames. After an error everything that was made is gone. EPERM: the
/// caller needs CAP_NET_ADMIN in its namespace, and CAP_SYS_ADMIN to enter the container's.
pub fn attach(endpoints: &[Endpoint], netns: BorrowedFd<'_>) -> Result<Vec<[u8; 6]>> {
    let netns = netns.try_clone_to_owned().map_err(|error| failed("copy a descriptor")(errno_of(&error)))?;
    begin_attach(endpoints.to_vec(), netns)?.wait()
}

/// The same, while the caller does something else.
pub fn begin_attach(endpoints: Vec<Endpoint>, netns: OwnedFd) -> Result<Attaching> {
    for endpoint in &endpoints {
        check(endpoint).map_err(|error| of(endpoint, error))?;
    }
    // A thread of its own: it enters the other namespace and ends there.
    let thread = std::thread::Builder::new()
        .spawn(move || from_thread(&endpoints, netns.as_fd()))
        .map_err(|error| failed("start a thread")(errno_of(&error)))?;
    Ok(Attaching { thread: Some(thread) })
}

/// An [`attach`] that is under way. Dropped, it is waited for.
#[derive(Debug)]
pub struct Attaching {
    thread: Option<JoinHandle<Result<Vec<[u8; 6]>>>>,
}

impl Attaching {
    pub fn wait(mut self) -> Result<Vec<[u8; 6]>> {
        self.join()
    }

    fn join(&mut self) -> Result<Vec<[u8; 6]>> {
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        thread.join().map_err(|_| failed("wait for a thread")(Errno::ECANCELED))?
    }
}

impl Drop for Attaching {
    fn drop(&mut self) {
        self.join().ok(); // who wants to know waits
    }
}

fn from_thread(endpoints: &[Endpoint], netns: BorrowedFd<'_>) -> Result<Vec<[u8; 6]>> {
    let here = File::open("/proc/thread-self/ns/net")
        .map_err(|error| failed("open the host's network namespace")(errno_of(&error)))?;
    if same_file(here.as_fd(), netns).map_err(failed("stat network namespaces"))? {
        return Err(failed("the container has the host's network namespace")(Errno::EINVAL));
    }
    // A socket stays in the namespace in which it was opened.
    let mut host = Socket::open().map_err(failed("netlink socket"))?;
    let mut bridges = BTreeMap::new();
    for endpoint in endpoints {
        if !bridges.contains_key(endpoint.bridge.as_str()) {
            let bridge = find_bridge(&mut host, &endpoint.bridge).map_err(|error| of(endpoint, error))?;
            bridges.insert(endpoint.bridge.as_str(), bridge);
        }
    }
    let mut made = Vec::new();
    join(&mut host, endpoints, &bridges, netns, &mut made).map_err(|error| {
        let undo = made.iter().filter_map(|name| remove(&mut host, name).err());
        let undo: Vec<String> = undo.map(|error| error.to_string()).collect();
        let undo = (!undo.is_empty()).then(|| format!("not everything is gone: {}", undo.join(", ")));
        Error { undo, ..error }
    })
}

/// This thread is in the container's namespace afterwards.
fn join<'e>(
    host: &mut Socket,
    endpoints: &'e [Endpoint],
    bridges: &BTreeMap<&str, Link>,
    netns: BorrowedFd<'_>,
    made: &mut Vec<&'e str>,
) -> Result<Vec<[u8; 6]>> {
    let mut pairs = Vec::new();
    for endpoint in endpoints {
        let Some(bridge) = bridges.get(endpoint.bridge.as_str()) else { continue };
        make(host, endpoint, bridge, netns, made).map_err(|error| of(endpoint, error))?;
        pairs.push((endpoint, bridge));
    }
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| {
        let why = (errno == Errno::EPERM)
            .then_some("it takes CAP_SYS_ADMIN here and in the user namespace that owns it");
        because(why, failed("enter the container's network namespace")(errno))
    })?;
    let mut inside = Socket::open().map_err(failed("netlink socket in the container"))?;
    let mut finish = |(endpoint, bridge): (&Endpoint, &Link)| {
        let link = furnish(&mut inside, endpoint)?;
        settle(host, endpoint, bridge)?;
        await_addresses(&mut inside, &endpoint.addresses)?;
        announce(&mut inside, endpoint, &link)?;
        link.mac.ok_or_else(|| failed("ask for its MAC")(Errno::EBADMSG))
    };
    pairs.into_iter().map(|pair| finish(pair).map_err(|error| of(pair.0, error))).collect()
}

/// Take host's ends off their bridges, and down: nothing passes them any more. The pairs end with the namespace of the
/// container, a moment after its last process; to remove them here takes the kernel 25 ms (docs/links.md). One
/// that is absent is fine, and a device that is not such an end stays as it is.
pub fn detach(host_names: &[String]) -> Result<()> {
    let mut host = Socket::open().map_err(failed("netlink socket"))?;
    for name in host_names.iter().filter(|name| is_name(name)) {
        change(&mut host, name, Request::cut_off)?;
    }
    Ok(())
}

fn remove(host: &mut Socket, name: &str) -> Result<()> {
    change(host, name, Request::remove_link)
}

fn change(host: &mut Socket, name: &str, request: fn(i32) -> Request) -> Result<()> {
    let result = match host.link(name) {
        // By index: the name might be another's by now.
        Ok(link) if link.kind == "veth" && link.group == GROUP => host.ask(request(link.index), |_, _| {}),
        Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    };
    match result {
        Err(Errno::ENODEV) => Ok(()),
        other => other.map_err(|errno| because(permission(errno), failed(format!("remove {name:?}"))(errno))),
    }
}

/// The pair, one end in the bridge and up. Its name is added to `made` as soon as there is something to undo.
fn make<'e>(
    host: &mut Socket,
    endpoint: &'e Endpoint,
    bridge: &Link,
    netns: BorrowedFd<'_>,
    made: &mut Vec<&'e str>,
) -> Result<()> {
    let name = endpoint.host_name.as_str();
    let pair = Pair {
        name,
        bridge: bridge.index,
        group: GROUP,
        mtu: if endpoint.mtu == 0 { bridge.mtu } else { endpoint.mtu },
        peer: &endpoint.name,
        peer_mac: endpoint.mac.or_else(|| mac_for(&endpoint.addresses)),
        netns,
    };
    // Without its bridge the host's end would be a link of the host: one on which it believes no router.
    match host.batch(vec![
        Request::make_pair(&pair),
        Request::hairpin(name),
        Request::no_link_local_address(name),
    ]) {
        // The kernel has no IPv6, or not on this device.
        Ok(()) | Err((2, Errno::EAFNOSUPPORT)) => {
            made.push(name);
            sysctl::write_ipv6(name, "accept_ra", "0")
        }
        Err((0, errno)) => {
            let why = match errno {
                Errno::EEXIST if host.link(name).is_ok() => {
                    Some(format!("a device of the host has the name {name:?}"))
                }
                Errno::EEXIST => Some("a device of the container has the name".to_string()),
                Errno::ENODEV => Some(format!("the bridge {:?} is gone", endpoint.bridge)),
                Errno::EXFULL => {
                    Some(format!("the bridge {:?} has all the ports that one can have", endpoint.bridge))
                }
                Errno::EOPNOTSUPP => Some("the kernel has no veth devices".to_string()),
                Errno::EADDRNOTAVAIL => Some("its MAC is not one that a device can have".to_string()),
                Errno::EINVAL | Errno::ERANGE if endpoint.mtu != 0 => {
                    Some(format!("an MTU of {} bytes may be the reason", endpoint.mtu))
                }
                Errno::EINVAL => Some("the container's network namespace may be none".to_string()),
                other => permission(other).map(str::to_string),
            };
            let what = format!("make its pair {name:?} in the bridge {:?}", endpoint.bridge);
            Err(because(why, failed(what)(errno)))
        }
        Err((place, errno)) => {
            made.push(name);
            let what = if place == 1 { "set hairpin mode" } else { "set the IPv6 address mode" };
            Err(because(permission(errno), failed(format!("{what} of {name:?}"))(errno)))
        }
    }
}

/// What is done in the container, in this order.
enum Step {
    Loopback,
    Address(IpAddr, u8),
    Up,
    Gateway(IpAddr),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Loopback => write!(f, "set the loopback up"),
            Step::Address(address, prefix) => write!(f, "add {address}/{prefix}"),
            Step::Up => write!(f, "set it up"),
            Step::Gateway(gateway) => write!(f, "add a default route by {gateway}"),
        }
    }
}

/// In the container: loopback, addresses, up, routes.
fn furnish(inside: &mut Socket, endpoint: &Endpoint) -> Result<Link> {
    let link = inside.link(&endpoint.name).map_err(failed("find it in the container"))?;
    // A neighbour in the bridge could make itself this container's router.
    sysctl::write_ipv6(&endpoint.name, "accept_ra", "0")?;

    let mut steps = vec![Step::Loopback];
    steps.extend(endpoint.addresses.iter().map(|(address, prefix)| Step::Address(*address, *prefix)));
    steps.push(Step::Up);
    steps.extend(endpoint.gateways.iter().map(|gateway| Step::Gateway(*gateway)));
    let requests = steps.iter().map(|step| match step {
        Step::Loopback => Request::set_up(1),
        Step::Address(address, prefix) => {
            Request::add_address(link.index, &Address::new(*address, *prefix), CREATE)
        }
        Step::Up => Request::set_up(link.index),
        Step::Gateway(gateway) => Request::add_gateway(link.index, *gateway),
    });
    inside.batch(requests.collect()).map_err(|(place, errno)| match steps.get(place) {
        Some(step) => because(why(step, errno, link.mtu), failed(step)(errno)),
        None => failed("set it up in the container")(errno),
    })?;
    Ok(link)
}

fn why(step: &Step, errno: Errno, mtu: u32) -> Option<&'static str> {
    match (step, errno) {
        (Step::Address(..), Errno::EEXIST) => Some("it is given twice"),
        (Step::Gateway(_), Errno::ENETUNREACH | Errno::EHOSTUNREACH) => {
            Some("it is in no subnet of the interface")
        }
        (Step::Gateway(_), Errno::EEXIST) => {
            Some("the container has a default route: only one interface can have a gateway of a family")
        }
        (Step::Address(IpAddr::V6(_), _) | Step::Gateway(IpAddr::V6(_)), errno) => {
            ipv6(errno, mtu).or_else(|| permission(errno))
        }
        (_, errno) => permission(errno),
    }
}

/// What is behind the numbers with which the kernel refuses an IPv6 address.
pub(crate) fn ipv6(errno: Errno, mtu: u32) -> Option<&'static str> {
    match errno {
        Errno::EACCES => Some("IPv6 is switched off there: net.ipv6.conf.*.disable_ipv6"),
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => Some("the kernel has no IPv6"),
        Errno::EINVAL | Errno::ENOBUFS if mtu < 1280 => Some("IPv6 takes an MTU of 1280 bytes"),
        _ => None,
    }
}

pub(crate) fn permission(errno: Errno) -> Option<&'static str> {
    let refused = matches!(errno, Errno::EPERM | Errno::EACCES);
    refused.then_some("it takes CAP_NET_ADMIN in the user namespace that owns the network namespace")
}

/// Wait until the port and the bridge pass on frames. The carrier of a device that was up before its peer is told to
/// the others by a work queue, and frames are dropped until then; to ask for the device makes the kernel do that at
/// once (Linux 6.8). The container's end was set up last and has it.
fn settle(host: &mut Socket, endpoint: &Endpoint, bridge: &Link) -> Result<()> {
    let find = format!("find {:?}", endpoint.host_name);
    // One that is not up in the end, the other end may have been set down: that is not for us to say.
    wait(|| host.link(&endpoint.host_name).map(|port| port.operational)).map_err(failed(find))?;
    // The bridge has its carrier from its first port.
    host.link_at(bridge.index).map_err(failed(format!("find the bridge {:?}", endpoint.bridge)))?;
    Ok(())
}

/// An IPv6 address is there at once, but the route by which packets to it are taken comes from a work queue, also
/// without duplicate address detection (net/ipv6/addrconf.c, addrconf_dad_start).
pub(crate) fn await_addresses(socket: &mut Socket, addresses: &[(IpAddr, u8)]) -> Result<()> {
    for (address, prefix) in addresses.iter().filter(|(address, _)| address.is_ipv6()) {
        let what = format!("wait until {address}/{prefix} is usable");
        match wait(|| socket.is_local(*address)) {
            Ok(true) => {}
            Ok(false) => return Err(failed(what)(Errno::ETIMEDOUT)),
            Err(errno) => return Err(failed(what)(errno)),
        }
    }
    Ok(())
}

/// Until it is true. False: it was not for a long time.
fn wait(mut ready: impl FnMut() -> nix::Result<bool>) -> nix::Result<bool> {
    let start = Instant::now();
    while !ready()? {
        if start.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(true)
}

/// Tell neighbours who may remember another MAC: of all addresses but the one from which the MAC was made. Each one
/// is told to every port of the bridge, so only of the families that need it.
fn announce(inside: &mut Socket, endpoint: &Endpoint, link: &Link) -> Result<()> {
    let Some(mac) = link.mac else { return Ok(()) };
    let origin = if endpoint.mac.is_none() { origin(&endpoint.addresses) } else { None };
    let needed = |v4| endpoint.addresses.iter().any(|(ip, _)| ip.is_ipv4() == v4 && Some(*ip) != origin);
    let (v4, v6) = (needed(true), needed(false));
    if v4 {
        sysctl::write_ipv4(&endpoint.name, "arp_notify", "1")?;
    }
    if v6 {
        sysctl::write_ipv6(&endpoint.name, "ndisc_notify", "1")?;
    }
    if !v4 && !v6 {
        return Ok(());
    }
    // Not at set-up, when the port was still shut: at the news of its MAC, although that is the one that it has.
    let request = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK)
        .link(link.index, 0)
        .attribute(libc::IFLA_ADDRESS, &mac);
    inside.ask(request, |_, _| {}).map_err(failed("announce it"))
}

/// The address from which a MAC is made.
fn origin(addresses: &[(IpAddr, u8)]) -> Option<IpAddr> {
    let v4 = addresses.iter().find(|(address, _)| address.is_ipv4());
    v4.or(addresses.first()).map(|(address, _)| *address)
}

/// Locally administered, of one device: 02:04 and the IPv4 address, or 06 and the IPv6 address folded, in which two
/// addresses of one subnet differ that are less than 2^40 apart.
pub(crate) fn mac_for(addresses: &[(IpAddr, u8)]) -> Option<[u8; 6]> {
    match origin(addresses)? {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Some([2, 4, a, b, c, d])
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let folded = (bits ^ (bits >> 40) ^ (bits >> 80) ^ (bits >> 120)) as u64;
            let [_, _, _, low @ ..] = folded.to_be_bytes();
            let [a, b, c, d, e] = low;
            Some([6, a, b, c, d, e])
        }
    }
}

fn find_bridge(host: &mut Socket, name: &str) -> Result<Link> {
    let what = format!("find the bridge {name:?}");
    match host.link(name) {
        Ok(link) if link.kind == "bridge" => Ok(link),
        Ok(_) => Err(because(Some("the device of this name is no bridge"), failed(what)(Errno::EINVAL))),
        Err(Errno::ENODEV) => {
            Err(because(Some("the host has no bridge of this name"), failed(what)(Errno::ENODEV)))
        }
        Err(errno) => Err(failed(what)(errno)),
    }
}

/// Before anything is done.
fn check(endpoint: &Endpoint) -> Result<()> {
    let wrong = |what: String, why: &str| Err(because(Some(why), failed(what)(Errno::EINVAL)));
    for name in [&endpoint.name, &endpoint.host_name, &endpoint.bridge] {
        // The kernel would fill in a number for a template.
        if !is_name(name) || name.contains('%') {
            return wrong(format!("name {name:?}"), "no device can have it");
        }
    }
    for (address, prefix) in &endpoint.addresses {
        if Subnet::of(*address, *prefix).is_none() {
            return wrong(format!("address {address}/{prefix}"), "there is no such prefix");
        }
    }
    for v4 in [true, false] {
        if endpoint.gateways.iter().filter(|gateway| gateway.is_ipv4() == v4).count() > 1 {
            return wrong("gateways".to_string(), "more than one of a family");
        }
    }
    Ok(())
}

fn of(endpoint: &Endpoint, error: Error) -> Error {
    Error { what: format!("network interface {:?}: {}", endpoint.name, error.what), ..error }
}

pub(crate) fn because(why: Option<impl Into<String>>, error: Error) -> Error {
    Error { why: why.map(Into::into), ..error }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::tests::{between, current, ip, ip_in, namespace, receive, within};
    use crate::{Network, Range, raise_bridge};

    fn raise() {
        let range = |subnet: &str, gateway: &str| Range {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        let network = Network {
            name: "web".to_string(),
            bridge: "br0".to_string(),
            subnets: vec![range("10.9.0.0/16", "10.9.0.1"), range("fd00:9::/64", "fd00:9::1")],
            mtu: 0,
            internal: false,
            isolate: false,
            store: "".into(),
        };
        assert_eq!(raise_bridge(&network), Ok(true));
    }

    /// Of the address 10.9.A.B alone.
    fn endpoint(number: u16) -> Endpoint {
        let [a, b] = number.to_be_bytes();
        Endpoint {
            name: "eth0".to_string(),
            host_name: format!("oar{number}"),
            mac: None,
            addresses: vec![([10, 9, a, b].into(), 16)],
            gateways: vec!["10.9.0.1".parse().unwrap()],
            mtu: 0,
            bridge: "br0".to_string(),
        }
    }

    fn v6(number: u16) -> IpAddr {
        [0xfd00, 9, 0, 0, 0, 0, 0, number].into()
    }

    fn dual(number: u16) -> Endpoint {
        let mut endpoint = endpoint(number);
        endpoint.addresses.push((v6(number), 64));
        endpoint.gateways.push("fd00:9::1".parse().unwrap());
        endpoint
    }

    fn attach_one(endpoint: &Endpoint, container: &File) -> [u8; 6] {
        attach(std::slice::from_ref(endpoint), container.as_fd()).unwrap()[0]
    }

    /// Does a datagram from one namespace arrive in the other, and the answer come back?
    fn talk(from: &File, to: &File, address: IpAddr) -> std::io::Result<()> {
        let bind = move || UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
        let listener = within(to, bind);
        let wildcard: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let sender = within(from, move || UdpSocket::bind(SocketAddr::new(wildcard, 0)).unwrap());
        for socket in [&listener, &sender] {
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        let mut buffer = [0; 8];
        sender.send_to(b"ahoy", listener.local_addr().unwrap())?;
        let (_, back) = receive(&listener, &mut buffer)?;
        listener.send_to(b"aye", back)?;
        receive(&sender, &mut buffer).map(drop)
    }

    #[test]
    fn two_containers_talk_to_each_other_and_to_the_host() {
        between(|first| {
            raise();
            let second = namespace();
            let mac = attach_one(&dual(2), first);
            attach_one(&dual(3), &second);
            let host = current();
            for to in [IpAddr::from([10, 9, 0, 3]), v6(3)] {
                talk(first, &second, to).unwrap();
                talk(&host, &second, to).unwrap();
            }
            for gateway in ["10.9.0.1", "fd00:9::1"] {
                talk(first, &host, gateway.parse().unwrap()).unwrap();
            }
            assert_eq!(mac, [2, 4, 10, 9, 0, 2]);
            let link = ip_in(first, "-o link show dev eth0");
            assert!(link.contains("02:04:0a:09:00:02") && link.contains("mtu 1500"), "{link}");
            assert!(ip_in(first, "-o link show dev lo").contains("<LOOPBACK,UP"));
            let addresses = ip_in(first, "-o addr show dev eth0");
            assert!(addresses.contains("10.9.0.2/16 brd 10.9.255.255"), "{addresses}");
            assert!(
                addresses.contains("fd00:9::2/64")
                    && !addresses.contains("fd00:9::2/64 scope global tentative")
            );
            assert!(ip_in(first, "route show default").contains("via 10.9.0.1 dev eth0 proto static"));
            assert!(ip_in(first, "-6 route show default").contains("via fd00:9::1 dev eth0 proto static"));
            let settings = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").unwrap();
            assert_eq!(within(first, settings).trim(), "0");
        });
    }

    #[test]
    fn streams_pass_and_a_port_is_a_hairpin() {
        between(|container| {
            raise();
            attach_one(&endpoint(2), container);
            let listener = within(container, || TcpListener::bind("10.9.0.2:0").unwrap());
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.write_all(b"ahoy").unwrap();
            drop(stream);
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            assert_eq!(text, "ahoy");
            let port = ip("-o -d link show dev oar2");
            assert!(port.contains("bridge_slave state forwarding") && port.contains("hairpin on"), "{port}");
            assert!(port.contains("numtxqueues 1 ") && port.contains("numrxqueues 1 "), "{port}");
        });
    }

    /// Else each container would be a possible router of the host as soon as the bridge is gone.
    #[test]
    fn the_hosts_end_is_no_ipv6_link() {
        between(|container| {
            raise();
            attach_one(&endpoint(2), container);
            ip("link set oar2 nomaster");
            let settings = std::fs::read_to_string("/proc/sys/net/ipv6/conf/oar2/accept_ra").unwrap();
            assert_eq!(settings.trim(), "0");
            // What the kernel does when a link comes up.
            ip("link set oar2 down");
            ip("link set oar2 up");
            assert_eq!(ip("-6 -o addr show dev oar2"), "");
            // With so small an MTU the kernel has no IPv6 there.
            attach_one(
                &Endpoint { name: "eth1".into(), mtu: 1000, gateways: vec![], ..endpoint(3) },
                container,
            );
            assert!(ip("-o link show dev oar3").contains("mtu 1000"));
        });
    }

    /// The kernel spreads the news of a carrier by a work queue, and drops frames until then.
    #[test]
    fn the_first_frame_arrives() {
        between(|container| {
            raise();
            let listener = within(container, || UdpSocket::bind("0.0.0.0:9000").unwrap());
            listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let sender = UdpSocket::bind("10.9.0.1:0").unwrap();
            // So the first frame is not a question for the MAC, which would be asked again.
            ip("neigh add 10.9.0.2 lladdr 02:04:0a:09:00:02 nud permanent dev br0");
            for number in 0..50 {
                attach_one(&endpoint(2), container);
                sender.send_to(&[number], "10.9.0.2:9000").unwrap();
                let mut buffer = [0];
                let arrived = receive(&listener, &mut buffer);
                assert!(arrived.is_ok() && buffer == [number], "{number}: {arrived:?} {buffer:?}");
                remove_pair("oar2");
            }
        });
    }

    /// The same of an IPv6 address, whose route is made by another one.
    #[test]
    fn the_first_packet_to_an_ipv6_address_is_taken() {
        between(|container| {
            raise();
            let listener = within(container, || UdpSocket::bind("[::]:9000").unwrap());
            listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let sender = UdpSocket::bind("[fd00:9::1]:0").unwrap();
            ip("neigh add fd00:9::2 lladdr 02:04:0a:09:00:02 nud permanent dev br0");
            for number in 0..50 {
                attach_one(&dual(2), container);
                sender.send_to(&[number], "[fd00:9::2]:9000").unwrap();
                let mut buffer = [0];
                let arrived = receive(&listener, &mut buffer);
                assert!(arrived.is_ok() && buffer == [number], "{number}: {arrived:?} {buffer:?}");
                remove_pair("oar2");
            }
        });
    }

    #[test]
    fn what_was_asked_for() {
        between(|container| {
            raise();
            let wished = Endpoint { mac: Some([2, 0, 0, 0, 0, 7]), mtu: 1400, ..dual(2) };
            let other = Endpoint {
                name: "eth1".to_string(),
                addresses: vec![(v6(4), 64)],
                gateways: vec![],
                ..endpoint(4)
            };
            let bare =
                Endpoint { name: "eth2".to_string(), addresses: vec![], gateways: vec![], ..endpoint(5) };
            let macs = attach(&[wished, other, bare], container.as_fd()).unwrap();
            assert_eq!(macs[..2], [[2, 0, 0, 0, 0, 7], mac_for(&[(v6(4), 64)]).unwrap()]);
            let links = ip_in(container, "-o link");
            assert!(links.contains("02:00:00:00:00:07") && links.contains("eth1"), "{links}");
            assert_eq!(macs[2][0] & 3, 2, "the kernel's choice");
            assert!(ip_in(container, "-o link show dev eth0").contains("mtu 1400"));
            assert!(ip("-o link show dev oar2").contains("mtu 1400"));
            assert!(ip_in(container, "-o link show dev eth1").contains("mtu 1500"));
        });
    }

    #[test]
    fn macs_of_addresses() {
        let mac = |text: &str| mac_for(&[(text.parse().unwrap(), 0)]).unwrap();
        assert_eq!(mac("192.0.2.255"), [2, 4, 192, 0, 2, 255]);
        assert_ne!(mac("fd00::1"), mac("fd00::2"));
        assert_ne!(mac("fd00::1"), mac("fd01::1"));
        assert_eq!(mac("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")[0], 6);
        assert_eq!(mac_for(&[]), None);
        let both = [("fd00::1".parse().unwrap(), 64), ([10, 0, 0, 1].into(), 8)];
        assert_eq!(mac_for(&both), Some([2, 4, 10, 0, 0, 1]));
    }

    /// The address of a container that is gone is another's, while its neighbours are sure of the old MAC.
    #[test]
    fn neighbours_find_the_next_container_with_an_address() {
        between(|neighbour| {
            raise();
            attach_one(&dual(2), neighbour);
            let host = current();
            let with = |mac, addresses: &[IpAddr]| {
                let prefixes = addresses.iter().map(|ip| (*ip, if ip.is_ipv4() { 16 } else { 64 })).collect();
                Endpoint { mac, addresses: prefixes, gateways: vec![], ..endpoint(3) }
            };
            let (ours, theirs) = (IpAddr::from([10, 9, 0, 3]), v6(3));
            // Each one follows the one before it.
            for (case, next) in [
                with(None, &[ours]),
                with(None, &[ours]),
                with(None, &[theirs]),
                with(None, &[theirs]),
                with(None, &[[10, 9, 0, 4].into(), theirs]),
                with(Some([2, 0, 0, 0, 0, 1]), &[ours, theirs]),
                with(Some([2, 0, 0, 0, 0, 2]), &[ours, theirs]),
            ]
            .iter()
            .enumerate()
            {
                let container = namespace();
                attach_one(next, &container);
                for (address, _) in &next.addresses {
                    for from in [neighbour, &host] {
                        talk(from, &container, *address)
                            .unwrap_or_else(|error| panic!("{case}, {address}: {error}"));
                    }
                }
                remove_pair(&next.host_name);
            }
        });
    }

    /// Before its namespace ends.
    fn remove_pair(name: &str) {
        remove(&mut Socket::open().unwrap(), name).unwrap();
    }

    #[test]
    fn an_end_is_cut_off_and_only_ours() {
        between(|container| {
            raise();
            attach_one(&endpoint(2), container);
            ip("link add other type veth peer name other1");
            let names = ["oar2", "absent", "br0", "other", "not a name"].map(str::to_string);
            assert_eq!(detach(&names), Ok(()));
            assert_eq!(detach(&names), Ok(()));
            let link = ip("-o link show dev oar2");
            assert!(!link.contains("master") && link.contains("state DOWN"), "{link}");
            let links = ip("-o link");
            assert!(links.contains("br0") && links.contains("other"), "{links}");
            remove_pair("oar2");
            assert!(!ip_in(container, "-o link").contains("eth0"));
            assert_eq!(detach(&names), Ok(()));
            attach_one(&endpoint(2), container);
        });
    }

    #[test]
    fn what_fails_half_way_is_undone() {
        type Change = fn(&mut Endpoint);
        let cases: [(Change, &str); 11] = [
            (
                |e| e.host_name = "taken".into(),
                "make its pair \"taken\" in the bridge \"br0\": file exists (a device of the host has the name \"taken\")",
            ),
            (
                |e| e.name = "eth0".into(),
                "make its pair \"oar3\" in the bridge \"br0\": file exists (a device of the container has the name)",
            ),
            (
                |e| e.gateways = vec![[10, 9, 0, 1].into()],
                "add a default route by 10.9.0.1: file exists (the container has a default route: only one interface can have a gateway of a family)",
            ),
            (
                |e| e.gateways = vec!["fd00:7::1".parse().unwrap()],
                "add a default route by fd00:7::1: no route to host (it is in no subnet of the interface)",
            ),
            (|e| e.addresses.push(e.addresses[0]), "add 10.9.0.3/16: file exists (it is given twice)"),
            (
                |e| e.bridge = "br9".into(),
                "find the bridge \"br9\": no such device (the host has no bridge of this name)",
            ),
            (
                |e| e.bridge = "taken".into(),
                "find the bridge \"taken\": invalid argument (the device of this name is no bridge)",
            ),
            (
                |e| e.mtu = 70_000,
                "make its pair \"oar3\" in the bridge \"br0\": invalid argument (an MTU of 70000 bytes may be the reason)",
            ),
            (
                |e| e.mac = Some([1, 0, 0, 0, 0, 1]),
                "make its pair \"oar3\" in the bridge \"br0\": cannot assign requested address (its MAC is not one that a device can have)",
            ),
            (
                |e| {
                    e.mtu = 1000;
                    e.addresses.push((v6(3), 64))
                },
                "add fd00:9::3/64: invalid argument (IPv6 takes an MTU of 1280 bytes)",
            ),
            (
                |e| e.addresses = vec![([10, 9, 0, 3].into(), 33)],
                "address 10.9.0.3/33: invalid argument (there is no such prefix)",
            ),
        ];
        for (change, says) in cases {
            between(|container| {
                raise();
                ip("link add taken type veth peer name taken1");
                let (here, there) = (ip("-o link"), ip_in(container, "-o link show up"));
                let mut second = Endpoint { name: "eth1".into(), gateways: vec![], ..endpoint(3) };
                change(&mut second);
                let error = attach(&[endpoint(2), second.clone()], container.as_fd()).unwrap_err();
                assert_eq!(error.to_string(), format!("network interface {:?}: {says}", second.name));
                let lines = |text: &str| {
                    text.lines().map(|line| line.split(": ").nth(1).unwrap().to_string()).collect::<Vec<_>>()
                };
                assert_eq!(lines(&ip("-o link")), lines(&here), "{says}");
                let rest = ip_in(container, "-o link");
                assert!(!rest.contains("eth"), "{there} {rest}");
                // And it can be done again.
                attach(&[endpoint(2)], container.as_fd()).unwrap();
            });
        }
    }

    #[test]
    fn the_gateway_of_another_subnet_is_told() {
        between(|container| {
            raise();
            let wrong = Endpoint { gateways: vec![[10, 8, 0, 1].into()], ..endpoint(2) };
            let error = attach(&[wrong], container.as_fd()).unwrap_err().to_string();
            let says = "add a default route by 10.8.0.1: network is unreachable (it is in no subnet of the interface)";
            assert_eq!(error, format!("network interface \"eth0\": {says}"));
        });
    }

    #[test]
    fn a_namespace_without_ipv6() {
        between(|container| {
            raise();
            within(container, || {
                std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap()
            });
            let error = attach(&[dual(2)], container.as_fd()).unwrap_err().to_string();
            let says = "add fd00:9::2/64: permission denied (IPv6 is switched off there: net.ipv6.conf.*.disable_ipv6)";
            assert_eq!(error, format!("network interface \"eth0\": {says}"));
            assert!(!ip("-o link").contains("oar2"));
            attach_one(&endpoint(2), container);
        });
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_done() {
        between(|container| {
            raise();
            for name in ["", "a/b", "eth%d", "sixteen-letters-", "a:1"] {
                for (field, part) in [
                    ("name", Endpoint { name: name.into(), ..endpoint(2) }),
                    ("host", Endpoint { host_name: name.into(), ..endpoint(2) }),
                    ("bridge", Endpoint { bridge: name.into(), ..endpoint(2) }),
                ] {
                    let error = attach(&[endpoint(3), part], container.as_fd()).unwrap_err().to_string();
                    assert!(
                        error.ends_with(&format!("name {name:?}: invalid argument (no device can have it)")),
                        "{field}: {error}"
                    );
                }
            }
            let gateways = vec![[10, 9, 0, 1].into(), [10, 9, 0, 9].into()];
            let error = attach(&[Endpoint { gateways, ..endpoint(2) }], container.as_fd()).unwrap_err();
            assert!(
                error.to_string().contains("gateways: invalid argument (more than one of a family)"),
                "{error}"
            );
            let error = attach(&[endpoint(2)], current().as_fd()).unwrap_err();
            assert_eq!(error.to_string(), "the container has the host's network namespace: invalid argument");
            let error = attach(&[endpoint(2)], File::open("/dev/null").unwrap().as_fd()).unwrap_err();
            assert!(
                error.to_string().ends_with("(the container's network namespace may be none)"),
                "{error}"
            );
            assert!(!ip("-o link").contains("oar"));
        });
    }

    #[test]
    fn the_callers_thread_stays_where_it_is() {
        between(|container| {
            raise();
            let here = current();
            attach_one(&endpoint(2), container);
            assert!(same_file(here.as_fd(), current().as_fd()).unwrap());
        });
    }

    #[test]
    fn a_container_with_a_user_namespace() {
        between(|_| {
            raise();
            let words = ["--user", "--map-root-user", "--net", "sh", "-c", "echo; exec cat"];
            let mut child = Command::new("unshare")
                .args(words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let ready = child.stdout.as_mut().unwrap().read(&mut [0]);
            let container = File::open(format!("/proc/{}/ns/net", child.id()));
            // At the end of its input it ends.
            drop(child.stdin.take());
            child.wait().unwrap();
            assert_eq!(ready.unwrap(), 1);
            let container = container.unwrap();
            attach_one(&dual(2), &container);
            talk(&current(), &container, [10, 9, 0, 2].into()).unwrap();
            talk(&container, &current(), "fd00:9::1".parse().unwrap()).unwrap();
        });
    }

    /// Again with no more rights than those that everybody has in a user namespace of their own.
    #[test]
    fn a_host_that_is_a_user_namespace() {
        for test in [
            "two_containers_talk_to_each_other_and_to_the_host",
            "neighbours_find_the_next_container_with_an_address",
        ] {
            let output = Command::new("unshare")
                .args(["--user", "--map-root-user", "--net"])
                .arg(std::env::current_exe().unwrap())
                .args([&format!("attach::tests::{test}"), "--exact"])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
        }
    }

    #[test]
    fn two_hundred_on_one_bridge() {
        between(|_| {
            raise();
            let containers: Vec<File> = (2..202).map(|_| namespace()).collect();
            for (number, container) in (2..).zip(&containers) {
                attach_one(&dual(number), container);
            }
            for (from, to) in [(0, 199), (199, 0), (100, 50)] {
                let number = to as u16 + 2;
                talk(&containers[from], &containers[to], [10, 9, 0, number as u8].into()).unwrap();
                talk(&containers[from], &containers[to], v6(number)).unwrap();
            }
            let names: Vec<String> = (2..202).map(|number| format!("oar{number}")).collect();
            detach(&names).unwrap();
            assert!(!ip("-o link").contains("master"));
        });
    }
}
