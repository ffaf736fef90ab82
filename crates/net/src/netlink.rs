// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoding of netlink(7), and the messages of rtnetlink(7) that devices, addresses and routes take.
//!
//! Owns the encoding and nothing else: no policy, no names, no namespaces. A socket speaks to the network namespace
//! in which it was opened. Crates for netlink bring their own runtime, or hundreds of kilobytes of message types.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};

use crate::counters::Counters;
use crate::network::Subnet;

const HEADER: usize = 16; // struct nlmsghdr
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;

/// The kernel answers into buffers of 32 KiB at most (net/netlink/af_netlink.c).
const ANSWER: usize = 64 * 1024;

/// A batch of so many bytes fits into the buffer that every socket has (net.core.wmem_default).
const SMALL: usize = 64 * 1024;

/// How often a list that changed while it was read is read again.
pub(crate) const DUMPS: u32 = 16;

// linux/rtnetlink.h, linux/if_link.h: not in libc for every target.
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;
const IFAPROT_KERNEL_RA: u8 = 2;
const RTPROT_RA: u8 = 9;
const IF_OPER_UP: u8 = 6;
// linux/veth.h; linux/if_link.h, enum of bridge ports.
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

pub(crate) const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// Flags of an address that its owner chose; the others are the kernel's own marks (linux/if_addr.h).
const CHOSEN_FLAGS: u32 = libc::IFA_F_NODAD
    | libc::IFA_F_HOMEADDRESS
    | libc::IFA_F_MANAGETEMPADDR
    | libc::IFA_F_NOPREFIXROUTE
    | libc::IFA_F_MCAUTOJOIN;

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: i32,
    pub(crate) name: String,
    pub(crate) up: bool,
    /// RFC 2863: it is up and has a carrier, and the kernel has acted on both.
    pub(crate) operational: bool,
    /// `veth`, `bridge`; empty: a device that has no such name.
    pub(crate) kind: String,
    /// Index of the bridge that it is a port of, or 0.
    pub(crate) master: i32,
    pub(crate) group: u32,
    pub(crate) alias: String,
    pub(crate) mac: Option<[u8; 6]>,
    /// Bytes.
    pub(crate) mtu: u32,
}

/// Two veth(4) devices: a port of a bridge here, and its peer in another namespace.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) name: &'a str,
    pub(crate) bridge: i32,
    pub(crate) group: u32,
    pub(crate) mtu: u32,
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: Option<[u8; 6]>,
    pub(crate) netns: BorrowedFd<'a>,
}

/// A route, as far as one has to know it to keep out of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Subnet,
    /// Index of the device, or 0.
    pub(crate) device: i32,
    /// It is from a router advertisement.
    pub(crate) advertised: bool,
}

/// An address of a device: what is needed to give it to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    /// As the kernel sent them: address, local, broadcast, priority, protocol.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// A permanent global one. Of IPv6 without duplicate address detection: the caller knows that it is unique.
    pub(crate) fn new(address: IpAddr, prefix: u8) -> Address {
        let value = octets(address);
        let mut attributes = vec![(libc::IFA_LOCAL, value.clone()), (libc::IFA_ADDRESS, value)];
        let (family, flags) = match address {
            IpAddr::V4(address) => {
                let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                if hosts > 1 {
                    let broadcast = (u32::from(address) | hosts).to_be_bytes();
                    attributes.push((libc::IFA_BROADCAST, broadcast.to_vec()));
                }
                (libc::AF_INET, 0)
            }
            IpAddr::V6(_) => (libc::AF_INET6, libc::IFA_F_NODAD),
        };
        Address { family: family as u8, prefix, scope: libc::RT_SCOPE_UNIVERSE, flags, attributes }
    }

    /// Made by the kernel from a router advertisement (Linux 5.18 tells).
    pub(crate) fn is_advertised(&self) -> bool {
        self.attributes.contains(&(IFA_PROTO, vec![IFAPROT_KERNEL_RA]))
    }

    pub(crate) fn subnet(&self) -> Option<Subnet> {
        // Of an address with a peer IFA_ADDRESS is the peer's, and the prefix its.
        [libc::IFA_ADDRESS, libc::IFA_LOCAL].iter().find_map(|wanted| {
            let (_, value) = self.attributes.iter().find(|(kind, _)| kind == wanted)?;
            Subnet::of(address_of(value)?, self.prefix)
        })
    }

    /// Configured by somebody, and of meaning beyond the link: what config-linux.md wants to be kept. Others belong
    /// to the place that gave them (a DHCP lease, autoconfiguration), or are made again by the kernel.
    pub(crate) fn is_kept(&self) -> bool {
        self.flags & libc::IFA_F_PERMANENT != 0 && self.scope == libc::RT_SCOPE_UNIVERSE
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [libc::IFA_LOCAL, libc::IFA_ADDRESS]
            .iter()
            .find_map(|wanted| self.attributes.iter().find(|(kind, _)| kind == wanted))
            .map_or(&[][..], |(_, bytes)| bytes);
        if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
            write!(f, "{}/{}", Ipv4Addr::from(bytes), self.prefix)
        } else if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
            write!(f, "{}/{}", Ipv6Addr::from(bytes), self.prefix)
        } else {
            write!(f, "address of family {}", self.family)
        }
    }
}

/// A request while it is written: nlmsghdr, a fixed part, attributes.
#[derive(Debug, Clone)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// `flags`: NLM_F_… beside NLM_F_REQUEST.
    pub(crate) fn new(kind: u16, flags: i32) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        Request(bytes)
    }

    /// The struct between the header and the attributes, a multiple of 4 bytes.
    pub(crate) fn fixed(mut self, bytes: &[u8]) -> Request {
        self.0.extend(bytes);
        self
    }

    /// struct ifinfomsg; `flags` are changed and no others.
    pub(crate) fn link(mut self, index: i32, flags: u32) -> Request {
        self.0.extend([0; 4]);
        self.0.extend(index.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self
    }

    /// The request to give it to a device; `flags`: [`CREATE`], or that it may be there.
    pub(crate) fn add_address(index: i32, address: &Address, flags: i32) -> Request {
        let chosen = Address { flags: address.flags & CHOSEN_FLAGS, ..address.clone() };
        let mut request = Request::new(libc::RTM_NEWADDR, flags).address(index, &chosen);
        for (kind, value) in &chosen.attributes {
            request = request.attribute(*kind, value);
        }
        request.attribute(libc::IFA_FLAGS, &chosen.flags.to_ne_bytes())
    }

    /// The host's end is up. Not the peer's: the kernel has no such order for a device of another message (ENOTCONN).
    pub(crate) fn make_pair(pair: &Pair<'_>) -> Request {
        // One queue at each end: without a qdisc a second one has no lock to avoid, and each costs objects in
        // sysfs; the kernel would make as many as there are processors.
        let common = |request: Request| {
            request
                .attribute(libc::IFLA_MTU, &pair.mtu.to_ne_bytes())
                .attribute(libc::IFLA_NUM_TX_QUEUES, &1u32.to_ne_bytes())
                .attribute(libc::IFLA_NUM_RX_QUEUES, &1u32.to_ne_bytes())
        };
        let peer = |request: Request| {
            let request = common(request.link(0, 0).name(pair.peer))
                .attribute(libc::IFLA_NET_NS_FD, &pair.netns.as_raw_fd().to_ne_bytes());
            match pair.peer_mac {
                Some(mac) => request.attribute(libc::IFLA_ADDRESS, &mac),
                None => request,
            }
        };
        let request = Request::new(libc::RTM_NEWLINK, CREATE).link(0, libc::IFF_UP as u32).name(pair.name);
        common(request)
            .attribute(libc::IFLA_MASTER, &pair.bridge.to_ne_bytes())
            .attribute(libc::IFLA_GROUP, &pair.group.to_ne_bytes())
            .nested(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "veth")
                    .nested(libc::IFLA_INFO_DATA, |data| data.nested(VETH_INFO_PEER, peer))
            })
    }

    /// Frames may leave by the port by which they came: a container reaches its own published port.
    pub(crate) fn hairpin(name: &str) -> Request {
        Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK).link(0, 0).name(name).nested(
            libc::IFLA_LINKINFO,
            |info| {
                info.text(libc::IFLA_INFO_SLAVE_KIND, "bridge")
                    .nested(libc::IFLA_INFO_SLAVE_DATA, |data| data.attribute(IFLA_BRPORT_MODE, &[1]))
            },
        )
    }

    /// No IPv6 address of the kernel's own making. EAFNOSUPPORT: there is no IPv6 on this device. The kernel does not look
    /// at this in the message that makes a device (rtnl_newlink_create in net/core/rtnetlink.c).
    pub(crate) fn no_link_local_address(name: &str) -> Request {
        Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK).link(0, 0).name(name).nested(
            libc::IFLA_AF_SPEC,
            |families| {
                families.nested(libc::AF_INET6 as u16, |ipv6| {
                    ipv6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
                })
            },
        )
    }

    /// A bridge that is down.
    pub(crate) fn make_bridge(name: &str, group: u32, mac: Option<[u8; 6]>) -> Request {
        let request = Request::new(libc::RTM_NEWLINK, CREATE | libc::NLM_F_ACK)
            .link(0, 0)
            .name(name)
            .attribute(libc::IFLA_GROUP, &group.to_ne_bytes())
            .nested(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, "bridge"));
        match mac {
            Some(mac) => request.attribute(libc::IFLA_ADDRESS, &mac),
            None => request,
        }
    }

    pub(crate) fn set_up(index: i32) -> Request {
        Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK).link(index, libc::IFF_UP as u32)
    }

    /// Off its bridge, and down. Unlike the removal, this waits for nobody.
    pub(crate) fn cut_off(index: i32) -> Request {
        // struct ifinfomsg: family, type, index, flags, and which of the flags are meant.
        let [a, b, c, d] = index.to_ne_bytes();
        let [e, f, g, h] = (libc::IFF_UP as u32).to_ne_bytes();
        Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK)
            .fixed(&[0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0, e, f, g, h])
            .attribute(libc::IFLA_MASTER, &0u32.to_ne_bytes())
    }

    pub(crate) fn remove_link(index: i32) -> Request {
        Request::new(libc::RTM_DELLINK, libc::NLM_F_ACK).link(index, 0)
    }

    /// The default route of the gateway's family, in the main table.
    pub(crate) fn add_gateway(index: i32, gateway: IpAddr) -> Request {
        let family = if gateway.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        // struct rtmsg: family, prefixes, tos, table, protocol, scope, type, flags.
        let (table, protocol, kind) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RTN_UNICAST);
        Request::new(libc::RTM_NEWROUTE, CREATE | libc::NLM_F_ACK)
            .fixed(&[family, 0, 0, 0, table, protocol, libc::RT_SCOPE_UNIVERSE, kind, 0, 0, 0, 0])
            .attribute(libc::RTA_OIF, &index.to_ne_bytes())
            .attribute(libc::RTA_GATEWAY, &octets(gateway))
    }

    /// struct ifaddrmsg.
    fn address(mut self, index: i32, address: &Address) -> Request {
        self.0.extend([address.family, address.prefix, address.flags as u8, address.scope]);
        self.0.extend(index.to_ne_bytes());
        self
    }

    /// At most 65531 bytes of value.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let length = (4 + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    /// A text with its NUL.
    pub(crate) fn text(self, kind: u16, text: &str) -> Request {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    pub(crate) fn name(self, name: &str) -> Request {
        self.text(libc::IFLA_IFNAME, name)
    }

    /// An attribute that holds what `inside` adds: attributes, or a fixed part and attributes. At most 65531 bytes.
    pub(crate) fn nested(mut self, kind: u16, inside: impl FnOnce(Request) -> Request) -> Request {
        let start = self.0.len();
        self.0.extend([0; 4]);
        let mut request = inside(self);
        let length = (request.0.len() - start) as u16;
        request.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        request.0[start + 2..start + 4].copy_from_slice(&(kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        request
    }

    /// Have it acknowledged, as NLM_F_ACK does from the beginning.
    pub(crate) fn acknowledge(&mut self) {
        let flags = short(&self.0, 6).unwrap_or_default() | libc::NLM_F_ACK as u16;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn wants_ack(&self) -> bool {
        short(&self.0, 6).is_some_and(|flags| i32::from(flags) & libc::NLM_F_ACK != 0)
    }

    fn without_ack(mut self) -> Request {
        let flags = short(&self.0, 6).unwrap_or_default() & !(libc::NLM_F_ACK as u16);
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

impl Socket {
    /// A socket in the network namespace of this thread.
    pub(crate) fn open() -> nix::Result<Socket> {
        Socket::open_for(SockProtocol::NetlinkRoute)
    }

    pub(crate) fn open_for(protocol: SockProtocol) -> nix::Result<Socket> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Socket { fd, sequence: 0, buffer: vec![0; ANSWER] })
    }

    /// The device of this name. ENODEV if there is none.
    pub(crate) fn link(&mut self, name: &str) -> nix::Result<Link> {
        self.get_link(Request::new(libc::RTM_GETLINK, 0).link(0, 0).name(name))
    }

    pub(crate) fn link_at(&mut self, index: i32) -> nix::Result<Link> {
        self.get_link(Request::new(libc::RTM_GETLINK, 0).link(index, 0))
    }

    fn get_link(&mut self, request: Request) -> nix::Result<Link> {
        let request = request.attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let mut link = None;
        self.ask(request, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                link = parse_link(body);
            }
        })?;
        link.ok_or(Errno::EBADMSG)
    }

    /// All addresses of a device, in the kernel's order: of several in one subnet, the first is the primary one.
    pub(crate) fn addresses(&mut self, index: i32) -> nix::Result<Vec<Address>> {
        let all = self.all_addresses()?;
        Ok(all.into_iter().filter(|(device, _)| *device == index).map(|(_, address)| address).collect())
    }

    /// With the index of the device of each.
    pub(crate) fn all_addresses(&mut self) -> nix::Result<Vec<(i32, Address)>> {
        // struct ifaddrmsg of zeroes: every family. The kernel lists all devices.
        let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP).fixed(&[0; IFADDRMSG]);
        self.list(&request, libc::RTM_NEWADDR, |body| Some((number(body, 4)? as i32, parse_address(body)?)))
    }

    pub(crate) fn links(&mut self) -> nix::Result<Vec<Link>> {
        let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP)
            .link(0, 0)
            .attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        self.list(&request, libc::RTM_NEWLINK, parse_link)
    }

    /// IPv4 and IPv6, of all tables, whatever is done with what they match.
    pub(crate) fn routes(&mut self) -> nix::Result<Vec<Route>> {
        let request = Request::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP).fixed(&[0; RTMSG]);
        self.list(&request, libc::RTM_NEWROUTE, parse_route)
    }

    /// Would a packet to the address be for this namespace itself?
    pub(crate) fn is_local(&mut self, address: IpAddr) -> nix::Result<bool> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let octets = octets(address);
        let request = Request::new(libc::RTM_GETROUTE, 0)
            .fixed(&[family, 8 * octets.len() as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .attribute(libc::RTA_DST, &octets);
        let mut local = false;
        let result = self.ask(request, |kind, body| {
            // rtm_type.
            local = kind == libc::RTM_NEWROUTE && body.get(7) == Some(&libc::RTN_LOCAL);
        });
        match result {
            // EINVAL: a route that is a blackhole; EACCES: one that is prohibited (net/ipv4/fib_semantics.c, fib_props).
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL | Errno::EACCES) => Ok(false),
            other => other.map(|()| local),
        }
    }

    /// Of every device but the loopback.
    pub(crate) fn counters(&mut self) -> nix::Result<Vec<Counters>> {
        let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP).link(0, 0);
        self.list(&request, libc::RTM_NEWLINK, parse_counters)
    }

    /// What `parse` makes of the answers of one kind. A list that changes meanwhile is asked for again.
    pub(crate) fn list<T>(
        &mut self,
        request: &Request,
        wanted: u16,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> nix::Result<Vec<T>> {
        let mut tries = 0;
        loop {
            let mut list = Vec::new();
            let result = self.ask(request.clone(), |kind, body| {
                if kind == wanted {
                    list.extend(parse(body));
                }
            });
            match result {
                Err(Errno::EINTR) if tries < DUMPS => tries += 1,
                other => return other.map(|()| list),
            }
        }
    }

    /// Move a device to the namespace, where it is called `name`. The kernel takes it down, and forgets its addresses.
    pub(crate) fn move_link(&mut self, index: i32, netns: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
        let request = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK)
            .link(index, 0)
            .attribute(libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes())
            .name(name);
        self.ask(request, |_, _| {})
    }

    /// `name` may hold one `%d`.
    pub(crate) fn rename(&mut self, index: i32, name: &str) -> nix::Result<()> {
        self.ask(Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK).link(index, 0).name(name), |_, _| {})
    }

    pub(crate) fn set_up(&mut self, index: i32) -> nix::Result<()> {
        self.ask(Request::set_up(index), |_, _| {})
    }

    pub(crate) fn add_address(&mut self, index: i32, address: &Address) -> nix::Result<()> {
        self.ask(Request::add_address(index, address, libc::NLM_F_ACK | CREATE), |_, _| {})
    }

    /// Send a request and hand each answer to `take`, up to the last. EINTR: a list changed while it was sent.
    pub(crate) fn ask(&mut self, request: Request, mut take: impl FnMut(u16, &[u8])) -> nix::Result<()> {
        let Socket { fd, sequence, buffer } = self;
        *sequence = sequence.wrapping_add(1);
        let wants_ack = request.wants_ack();
        send(fd.as_raw_fd(), &request.finish(*sequence), MsgFlags::empty())?;
        let mut disturbed = false;
        loop {
            let mut rest = receive(fd, buffer)?;
            while let Some((header, body, after)) = split(rest) {
                rest = after;
                if header.sequence != *sequence {
                    continue;
                }
                disturbed |= header.flags & libc::NLM_F_DUMP_INTR != 0;
                match header.kind as i32 {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return match outcome(body) {
                            Ok(()) if disturbed => Err(Errno::EINTR),
                            other => other,
                        };
                    }
                    _ => take(header.kind, body),
                }
                // An answer that is not part of a list and not followed by an acknowledgement is the only one.
                if header.flags & libc::NLM_F_MULTI == 0 && !wants_ack {
                    return Ok(());
                }
            }
        }
    }

    /// Send all requests at once, and wait for the acknowledgement of the last one that has NLM_F_ACK; the others
    /// lose it, since the kernel tells of errors without. It carries out each request in turn, also after one that
    /// failed, before the call that sends them returns. After an error: the place of the first request that failed.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> Result<(), (usize, Errno)> {
        let Socket { fd, sequence, buffer } = self;
        let last = requests.iter().rposition(Request::wants_ack);
        let first = sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (place, request) in requests.into_iter().enumerate() {
            *sequence = sequence.wrapping_add(1);
            let request = if Some(place) == last { request } else { request.without_ack() };
            bytes.extend(request.finish(*sequence));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.len() > SMALL {
            // The kernel counts its own overhead.
            setsockopt(fd, sockopt::SndBufForce, &(2 * bytes.len())).map_err(|errno| (0, errno))?;
        }
        send(fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|errno| (0, errno))?;
        let Some(last) = last else { return Ok(()) };
        loop {
            let mut rest = match receive(fd, buffer) {
                // More errors than fit. The first ones are there.
                Err(Errno::ENOBUFS) => continue,
                other => other.map_err(|errno| (last, errno))?,
            };
            while let Some((header, body, after)) = split(rest) {
                rest = after;
                // Also what is left of an earlier batch that has failed: its place is past the last one.
                let place = header.sequence.wrapping_sub(first) as usize;
                if place > last || i32::from(header.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                outcome(body).map_err(|errno| (place, errno))?;
                if place == last {
                    return Ok(());
                }
            }
        }
    }
}

fn receive<'b>(fd: &OwnedFd, buffer: &'b mut [u8]) -> nix::Result<&'b [u8]> {
    loop {
        match recv(fd.as_raw_fd(), buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            other => return Ok(buffer.get(..other?).unwrap_or_default()),
        }
    }
}

/// What an acknowledgement or the end of a list begins with: the error number, negative, or 0.
fn outcome(body: &[u8]) -> nix::Result<()> {
    match number(body, 0).unwrap_or_default() as i32 {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno.wrapping_neg())),
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

struct Header {
    kind: u16,
    flags: i32,
    sequence: u32,
}

/// The first message: its header, what follows it, and the messages after it. None at the end, or if the lengths
/// make no sense.
fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = number(bytes, 0)? as usize;
    let body = bytes.get(HEADER..length)?;
    let header =
        Header { kind: short(bytes, 4)?, flags: short(bytes, 6)?.into(), sequence: number(bytes, 8)? };
    Some((header, body, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// (type, value) pairs of what follows the fixed part of a message.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const FLAGS: u16 = (libc::NLA_F_NESTED | libc::NLA_F_NET_BYTEORDER) as u16;
    std::iter::from_fn(move || {
        let length = short(bytes, 0)? as usize;
        let attribute = (short(bytes, 2)? & !FLAGS, bytes.get(4..length)?);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(attribute)
    })
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let text =
        |value: &[u8]| String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or(&[])).into();
    let mut name = None;
    let mut link = Link {
        index: number(body, 4)? as i32,
        up: number(body, 8)? & libc::IFF_UP as u32 != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(IFINFOMSG..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                name = Some(String::from_utf8(value.split(|b| *b == 0).next()?.to_vec()).ok()?)
            }
            libc::IFLA_OPERSTATE => link.operational = value == [IF_OPER_UP],
            libc::IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            libc::IFLA_MASTER => link.master = number(value, 0)? as i32,
            libc::IFLA_GROUP => link.group = number(value, 0)?,
            libc::IFLA_IFALIAS => link.alias = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MTU => link.mtu = number(value, 0)?,
            _ => {}
        }
    }
    Some(Link { name: name?, ..link })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let &[family, prefix, _, _, _, protocol, ..] = body else { return None };
    let mut destination = match i32::from(family) {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut device = 0;
    for (kind, value) in attributes(body.get(RTMSG..)?) {
        match kind {
            libc::RTA_DST => destination = address_of(value)?,
            libc::RTA_OIF => device = number(value, 0)? as i32,
            _ => {}
        }
    }
    Some(Route { destination: Subnet::of(destination, prefix)?, device, advertised: protocol == RTPROT_RA })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// None for the loopback, and for a message without counters.
fn parse_counters(body: &[u8]) -> Option<Counters> {
    if number(body, 8)? & libc::IFF_LOOPBACK as u32 != 0 {
        return None;
    }
    let (_, stats) = attributes(body.get(IFINFOMSG..)?).find(|(kind, _)| *kind == libc::IFLA_STATS64)?;
    // struct rtnl_link_stats64 (linux/if_link.h), which grows at its end.
    let (fields, _) = stats.as_chunks::<8>();
    let [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped] =
        fields.first_chunk::<8>()?.map(u64::from_ne_bytes);
    Some(Counters {
        name: parse_link(body)?.name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    })
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let [family, prefix, flags, scope, ..] = *body else { return None };
    let mut address = Address { family, prefix, scope, flags: flags.into(), attributes: Vec::new() };
    for (kind, value) in attributes(body.get(IFADDRMSG..)?) {
        match kind {
            // All 32 bits of them.
            libc::IFA_FLAGS => address.flags = number(value, 0)?,
            libc::IFA_ADDRESS | libc::IFA_LOCAL | libc::IFA_BROADCAST | IFA_RT_PRIORITY | IFA_PROTO => {
                address.attributes.push((kind, value.to_vec()));
            }
            _ => {}
        }
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_cut_off_are_none() {
        let mut stats = Vec::new();
        for value in 1..=8u64 {
            stats.extend(value.to_ne_bytes());
        }
        let message = |flags, stats: &[u8]| {
            let request = Request::new(libc::RTM_NEWLINK, 0).link(1, flags).name("made0");
            let bytes = request.attribute(libc::IFLA_STATS64, stats).finish(1);
            parse_counters(&bytes[HEADER..])
        };
        let all = message(0, &stats).unwrap();
        assert_eq!((all.name.as_str(), all.rx_packets, all.tx_packets), ("made0", 1, 2));
        assert_eq!((all.rx_bytes, all.tx_bytes, all.rx_errors, all.tx_errors), (3, 4, 5, 6));
        assert_eq!((all.rx_dropped, all.tx_dropped), (7, 8));
        assert_eq!(message(libc::IFF_LOOPBACK as u32, &stats), None);
        for length in 0..stats.len() {
            assert_eq!(message(0, &stats[..length]), None, "{length}");
        }
        stats.extend([9; 100]);
        assert_eq!(message(0, &stats), Some(all), "a newer kernel's is longer");
    }

    #[test]
    fn a_request_is_what_the_kernel_reads() {
        let bytes = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK).link(7, 1).name("eth0").finish(3);
        assert_eq!(bytes.len(), HEADER + IFINFOMSG + 12, "the name with its NUL is padded");
        let (header, body, rest) = split(&bytes).unwrap();
        assert_eq!((header.kind, header.flags, header.sequence), (libc::RTM_SETLINK, 5, 3));
        assert!(rest.is_empty());
        assert_eq!(
            parse_link(body),
            Some(Link { index: 7, name: "eth0".to_string(), up: true, ..Link::default() })
        );
        assert_eq!(number(body, 12), Some(1), "only this flag is changed");
    }

    #[test]
    fn attributes_in_attributes() {
        let bytes = Request::new(7, 0)
            .fixed(&[1, 0, 0, 0])
            .nested(1, |inner| {
                inner
                    .text(2, "ab")
                    .nested(3, |inner| inner.fixed(&[9; 8]).attribute(4, &[5]))
                    .attribute(6, &[])
            })
            .attribute(8, &[1, 2, 3, 4])
            .finish(1);
        let (_, body, _) = split(&bytes).unwrap();
        let outer: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!((outer.len(), outer[0].0, outer[1]), (2, 1, (8, &[1, 2, 3, 4][..])));
        let inner: Vec<_> = attributes(outer[0].1).collect();
        assert_eq!((inner.len(), inner[0], inner[1].0, inner[2]), (3, (2, &b"ab\0"[..]), 3, (6, &[][..])));
        assert_eq!(inner[1].1[..8], [9; 8]);
        assert_eq!(attributes(&inner[1].1[8..]).collect::<Vec<_>>(), [(4, &[5][..])]);
    }

    /// `test` in a network namespace of its own.
    fn inside(test: impl FnOnce(Socket) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                test(Socket::open().unwrap());
            });
        });
    }

    #[test]
    fn a_batch_tells_which_request_failed_and_the_next_is_not_misled() {
        inside(|mut socket| {
            let up = |index, ack| Request::new(libc::RTM_SETLINK, ack).link(index, libc::IFF_UP as u32);
            assert_eq!(socket.batch(vec![up(1, 0), up(1, 0), up(1, libc::NLM_F_ACK)]), Ok(()));
            assert_eq!(socket.batch(vec![up(1, 0), up(7, 0), up(8, 0), up(1, 4)]), Err((1, Errno::ENODEV)));
            assert_eq!(socket.batch(vec![up(1, 4), up(1, 4)]), Ok(()), "what was left over is passed over");
            assert_eq!(socket.batch(vec![up(1, 4), up(9, 4)]), Err((1, Errno::ENODEV)));
            assert!(socket.link("lo").unwrap().up);
            assert_eq!(socket.batch(vec![]), Ok(()));
        });
    }

    #[test]
    fn addresses_come_through_unchanged() {
        let address = Address {
            family: libc::AF_INET as u8,
            prefix: 24,
            scope: 0,
            flags: libc::IFA_F_PERMANENT | libc::IFA_F_NOPREFIXROUTE,
            attributes: vec![(libc::IFA_ADDRESS, vec![192, 0, 2, 1]), (libc::IFA_LOCAL, vec![192, 0, 2, 9])],
        };
        let mut request = Request::new(libc::RTM_NEWADDR, 0).address(4, &address);
        for (kind, value) in &address.attributes {
            request = request.attribute(*kind, value);
        }
        let bytes = request.attribute(libc::IFA_FLAGS, &address.flags.to_ne_bytes()).finish(1);
        let (_, body, _) = split(&bytes).unwrap();
        assert_eq!(parse_address(body), Some(address.clone()));
        assert_eq!(address.to_string(), "192.0.2.9/24");
        assert!(address.is_kept());
        assert!(!Address { scope: libc::RT_SCOPE_LINK, ..address.clone() }.is_kept());
        assert!(!Address { flags: 0, ..address }.is_kept());
    }

    #[test]
    fn nonsense_is_no_message() {
        let good = Request::new(libc::RTM_NEWLINK, 0).link(1, 0).name("lo").finish(1);
        for length in 0..good.len() {
            assert!(split(&good[..length]).is_none(), "{length}");
        }
        let (_, body, _) = split(&good).unwrap();
        for length in 0..body.len() - 1 {
            // The last byte is padding, and the name needs its NUL no more than that.
            assert_eq!(parse_link(&body[..length]), None, "{length}");
        }
        for length in 0u32..16 {
            let mut short = good.clone();
            short[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(split(&short).is_none());
        }
        // A length of 0 in an attribute must not be read for ever.
        assert_eq!(attributes(&[0; 8]).count(), 0);
    }
}
