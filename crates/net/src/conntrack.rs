// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel remembers of flows to published ports (nf_conntrack): rules are asked for the first packet of a flow only,
//! so one that goes on keeps its way when a port is published or unpublished. Such entries are removed, by ctnetlink
//! (linux/netfilter/nfnetlink_conntrack.h).
//!
//! Never touches a flow that the port does not concern, and nothing fails by it: what cannot be done is told.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::libc::{self, c_int};

use crate::netlink::{Request, Socket, attributes};
use crate::network::{Protocol, Publication};
use crate::nft;

const IPCTNL_MSG_CT_NEW: c_int = 0;
const IPCTNL_MSG_CT_GET: c_int = 1;
const IPCTNL_MSG_CT_DELETE: c_int = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
// net/netfilter/nf_internals.h: what of the tuple has to be equal. Linux 5.8.
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;

/// struct nfgenmsg.
const NFGENMSG: usize = 4;

/// Each list has the kernel walk through its whole table. With more ports than that, it is one list of all flows.
const FEW: usize = 8;

/// An entry, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    protocol: Protocol,
    /// Where the first packet was sent.
    to: SocketAddr,
    /// Whose answer is awaited: who has been given that packet.
    taker: SocketAddr,
    /// Attributes that name it: the tuple, the id, the zone, as the kernel sent them.
    name: Vec<(u16, Vec<u8>)>,
}

/// These ports were published: remove what goes on elsewhere, to the host's own sockets or another container. UDP only:
/// a TCP connection to the host itself ends by itself, and those of containers ended with their ports. A warning if that is
/// out of reach.
pub(crate) fn after_publish(socket: &mut Socket, publications: &[Publication]) -> Option<String> {
    let mut ours = publications.to_vec();
    ours.retain(|one| one.protocol == Protocol::Udp);
    let stale = |flow: &Flow| ours.iter().any(|one| is_asked(one, flow) && !is_taker(one, flow));
    let done = flows(socket, &ours, &stale).and_then(|mut all| {
        keep_others(&mut all, &ours)?;
        remove(socket, &all)
    });
    done.err().map(not_done)
}

/// They are published no more: remove what has been led to the containers by them. Of TCP too: a container that is gone
/// answers nothing, and the client would wait; the host itself says that nobody is there.
pub(crate) fn after_unpublish(socket: &mut Socket, publications: &[Publication]) -> Option<String> {
    let led = |flow: &Flow| publications.iter().any(|one| is_asked(one, flow) && is_taker(one, flow));
    let done = flows(socket, publications, &led).and_then(|all| remove(socket, &all));
    done.err().map(not_done)
}

fn not_done(errno: Errno) -> String {
    // nfnetlink_rcv_msg in net/netfilter/nfnetlink.c.
    let why = if errno == Errno::EINVAL { " (the kernel needs nf_conntrack_netlink)" } else { "" };
    let words = coracle_sys::Errno(errno as i32).words();
    format!(
        "a client that has been sending to a port is led to where it was before the port came or went, until it pauses: \
         connection tracking: {words}{why}"
    )
}

/// Could it have been for this port, by its first packet?
fn is_asked(publication: &Publication, flow: &Flow) -> bool {
    let Publication { host, host_port, protocol, container, .. } = *publication;
    (protocol, host_port) == (flow.protocol, flow.to.port())
        && container.is_ipv4() == flow.to.is_ipv4()
        && is_single(host).is_none_or(|host| host == flow.to.ip())
        // What is sent straight to the container needs no port.
        && container != flow.to.ip()
}

fn is_taker(publication: &Publication, flow: &Flow) -> bool {
    (publication.container, publication.port) == (flow.taker.ip(), flow.taker.port())
}

fn is_single(host: Option<IpAddr>) -> Option<IpAddr> {
    host.filter(|host| !host.is_unspecified())
}

/// A port on every address has to do with what is sent to this host, and for which there is no port on that single address;
/// ::1 is nowhere published.
fn keep_others(flows: &mut Vec<Flow>, ours: &[Publication]) -> nix::Result<()> {
    let is_named = |flow: &Flow| ours.iter().any(|one| is_single(one.host).is_some() && is_asked(one, flow));
    if flows.iter().all(is_named) {
        return Ok(());
    }
    let published = nft::publications().map_err(|error| error.errno)?;
    let is_others =
        |flow: &Flow| published.iter().any(|one| is_single(one.host).is_some() && is_asked(one, flow));
    let mut routes = Socket::open()?;
    let mut local = BTreeMap::new();
    for flow in flows.iter().filter(|flow| !is_named(flow)) {
        let address = flow.to.ip();
        if let Entry::Vacant(entry) = local.entry(address) {
            let is_published = address.is_ipv4() || !address.is_loopback();
            entry.insert(is_published && routes.is_local(address)?);
        }
    }
    flows.retain(|flow| is_named(flow) || local.get(&flow.to.ip()) == Some(&true) && !is_others(flow));
    Ok(())
}

/// The wanted of those that have been sent to these ports, by whichever address, and maybe others.
fn flows(
    socket: &mut Socket,
    publications: &[Publication],
    wanted: &dyn Fn(&Flow) -> bool,
) -> nix::Result<Vec<Flow>> {
    let list = |one: &Publication| (one.container.is_ipv6(), one.protocol, Some(one.host_port));
    let mut lists: BTreeSet<_> = publications.iter().map(list).collect();
    if lists.len() > FEW {
        lists = lists.into_iter().map(|(v6, protocol, _)| (v6, protocol, None)).collect();
    }
    let mut all = Vec::new();
    for (v6, protocol, port) in lists {
        let parse = |body: &[u8]| parse_flow(body).filter(wanted);
        all.extend(socket.list(&list_flows(v6, protocol, port), kind(IPCTNL_MSG_CT_NEW), parse)?);
    }
    Ok(all)
}

/// One that has ended meanwhile is fine. One at a time: the kernel tells of each that has, and what it tells of many at
/// once does not fit into the socket, the last answer included.
fn remove(socket: &mut Socket, flows: &[Flow]) -> nix::Result<()> {
    for flow in flows {
        match socket.batch(vec![remove_flow(flow)]) {
            Ok(()) | Err((_, Errno::ENOENT)) => {}
            Err((_, errno)) => return Err(errno),
        }
    }
    Ok(())
}

fn kind(message: c_int) -> u16 {
    (libc::NFNL_SUBSYS_CTNETLINK << 8 | message) as u16
}

fn message(v6: bool, message: c_int, flags: c_int) -> Request {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
    Request::new(kind(message), flags).fixed(&[family, libc::NFNETLINK_V0 as u8, 0, 0])
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
    }
}

/// All flows of a protocol, or those whose first packet was sent to that port.
fn list_flows(v6: bool, protocol: Protocol, port: Option<u16>) -> Request {
    let by_port = port.map_or(0, |_| CTA_FILTER_F_CTA_PROTO_DST_PORT);
    message(v6, IPCTNL_MSG_CT_GET, libc::NLM_F_DUMP)
        .nested(CTA_TUPLE_ORIG, |tuple| {
            tuple.nested(CTA_TUPLE_PROTO, |proto| {
                let proto = proto.attribute(CTA_PROTO_NUM, &[number(protocol)]);
                match port {
                    Some(port) => proto.attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()),
                    None => proto,
                }
            })
        })
        .nested(CTA_FILTER, |filter| {
            let flags = CTA_FILTER_F_CTA_PROTO_NUM | by_port;
            filter.attribute(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes())
        })
}

/// The id is of this one flow: not of one that has come in its place.
fn remove_flow(flow: &Flow) -> Request {
    let request = message(flow.to.is_ipv6(), IPCTNL_MSG_CT_DELETE, libc::NLM_F_ACK);
    flow.name.iter().fold(request, |request, (kind, value)| request.attribute(*kind, value))
}

/// None for another protocol's.
fn parse_flow(body: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut name) = (None, None, Vec::new());
    for (kind, value) in attributes(body.get(NFGENMSG..)?) {
        match kind {
            CTA_TUPLE_ORIG => original = Some(parse_tuple(value)?),
            CTA_TUPLE_REPLY => reply = Some(parse_tuple(value)?),
            _ => {}
        }
        match kind {
            CTA_TUPLE_ORIG => name.push((kind | libc::NLA_F_NESTED as u16, value.to_vec())),
            CTA_ID | CTA_ZONE => name.push((kind, value.to_vec())),
            _ => {}
        }
    }
    let ((protocol, _, to), (_, taker, _)) = (original?, reply?);
    Some(Flow { protocol, to, taker, name })
}

/// Protocol, source, destination.
fn parse_tuple(tuple: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let (mut addresses, mut ports, mut protocol) = ([None; 2], [None; 2], None);
    let address = |value: &[u8]| -> Option<IpAddr> {
        let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
    };
    let port = |value: &[u8]| Some(u16::from_be_bytes(value.try_into().ok()?));
    for (kind, value) in attributes(tuple) {
        for (inner, value) in attributes(value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => addresses[0] = address(value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => addresses[1] = address(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => ports[0] = port(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => ports[1] = port(value),
                _ => {}
            }
        }
    }
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|one| Some(number(*one)) == protocol)?;
    let end = |at: usize| Some(SocketAddr::from((addresses[at]?, ports[at]?)));
    Some((protocol, end(0)?, end(1)?))
}

#[cfg(test)]
mod tests;
