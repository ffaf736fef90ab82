// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host's nf_tables have to do for networks of ours: one table, `inet coracle`, in the network namespace of the
//! calling thread.
//!
//! Networks and published ports are elements of its sets and maps, never rules. Each change is one batch, which the
//! kernel carries out as a whole. No table of anybody else is changed, and no program is started.

mod message;
mod rules;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use self::message::{Batch, Refused, generation, list, open};
use self::rules::{
    ADDRESSED, BEHIND, BRIDGES, Element, INTERNAL, ISOLATED, PORTS, SETS, TABLE, UNROUTED, WITHIN,
};
use crate::attach::{because, permission};
use crate::conntrack;
use crate::netlink::Socket;
use crate::network::{Network, Protocol, Publication, Subnet};
use crate::sysctl::Forwarding;
use crate::{Error, Result, bridge, failed, is_name, sysctl};

/// What a network is an element of; each key begins with the bridge's name.
const NETWORK_SETS: [&str; 6] = [BRIDGES, INTERNAL, ISOLATED, WITHIN, BEHIND[0], BEHIND[1]];

const ROUTE_LOCALNET: &str = "route_localnet";

/// How often we begin anew when others change rules in between.
const TRIES: u32 = 100;

/// Have the table, complete, with this network in it as it is now. A table that lacks a rule is made anew with its
/// elements. May be called by many at once. `route_localnet` of the bridge is set right too, wherever somebody has
/// flushed the table or was killed on the way.
pub fn admit(network: &Network) -> Result<()> {
    if !is_name(&network.bridge) {
        return Err(failed(format!("bridge {:?}", network.bridge))(Errno::EINVAL));
    }
    let mut socket = open().map_err(|errno| explain(errno.into()))?;
    again(|| admit_once(&mut socket, network))?;
    let wanted = leads_from_loopback(&mut socket, &network.bridge)?;
    match_route_localnet(&mut socket, &network.bridge, wanted)
}

fn admit_once(socket: &mut Socket, network: &Network) -> std::result::Result<(), Refused> {
    let name = interface(&network.bridge);
    let wanted = elements(network);
    let mut batch = Batch::default();
    let generation = generation(socket)?;
    if rules::is_complete(&list(socket, &rules::list_rules(), rules::parse_rule)?) {
        // The difference only: to write costs more than to read, even if it changes nothing.
        for set in NETWORK_SETS {
            let mut there = elements_of(socket, set)?;
            there.retain(|element| element.key.starts_with(&name));
            remove(&mut batch, there.iter().filter(|element| !wanted.contains(element)));
            add(&mut batch, wanted.iter().filter(|element| element.set == set && !there.contains(element)));
        }
    } else {
        let mut kept = Vec::new();
        if list(socket, &rules::list_tables(), rules::parse_table)?.iter().any(|name| name == TABLE) {
            for set in &SETS {
                let of_network = NETWORK_SETS.contains(&set.name);
                let all = elements_of(socket, set.name)?.into_iter();
                kept.extend(all.filter(|element| !(of_network && element.key.starts_with(&name))));
            }
            rules::delete_table(&mut batch);
        }
        rules::add_table(&mut batch);
        add(&mut batch, kept.iter().chain(&wanted));
    }
    batch.commit(socket, Some(generation))
}

/// Take the network out of the table, and the table away if it was the last one. Fine if it is not there.
pub fn dismiss(network: &Network) -> Result<()> {
    if is_name(&network.bridge) {
        // The rules that make up for it are gone afterwards.
        set_route_localnet(&network.bridge, false)?;
    }
    let mut socket = open().map_err(|errno| explain(errno.into()))?;
    again(|| {
        let generation = generation(&mut socket)?;
        let mut batch = Batch::default();
        let name = interface(&network.bridge);
        let bridges = elements_of(&mut socket, BRIDGES)?;
        if !bridges.iter().any(|element| element.key == name) {
            return Ok(());
        }
        // What we made the host forward for stays barred, as forwarding stays on.
        if bridges.len() == 1 && elements_of(&mut socket, UNROUTED)?.is_empty() {
            rules::delete_table(&mut batch);
        } else {
            for set in NETWORK_SETS {
                let all = elements_of(&mut socket, set)?;
                remove(&mut batch, all.iter().filter(|element| element.key.starts_with(&name)));
            }
        }
        batch.commit(&mut socket, Some(generation))
    })
}

/// Have these ports lead to their containers: all of them, or after an error none. EEXIST: somebody has that port of
/// that address; one on every address and one on a single address are two. Those that are at 127.0.0.1 set
/// `route_localnet` of the bridge. Clients that have been sending datagrams to these ports are led there too; a warning if
/// that could not be done.
pub fn publish(publications: &[Publication]) -> Result<Option<String>> {
    if publications.is_empty() {
        return Ok(None);
    }
    let mut batch = Batch::default();
    for publication in publications {
        let what = format!("publish {}", Port(publication));
        let element = element_of(publication).ok_or_else(|| failed(&what)(Errno::EINVAL))?;
        let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        batch.add(what, "", element.request(libc::NFT_MSG_NEWSETELEM, create));
    }
    let mut socket = open().map_err(|errno| explain(errno.into()))?;
    batch.commit(&mut socket, None).map_err(|refused| match refused {
        // EBUSY: of older kernels, where it leads elsewhere.
        Refused { object: Some((what, _)), errno: Errno::EEXIST | Errno::EBUSY } => {
            failed(what)(Errno::EEXIST)
        }
        Refused { object: Some((what, _)), errno: Errno::ENOENT } => {
            because(Some(format!("there is no table inet {TABLE}")), failed(what)(Errno::ENOENT))
        }
        other => explain(other),
    })?;
    // Not before the rule that keeps containers from the host's loopback: the ports are in the same table.
    let done = bridges_of(&mut socket, publications)
        .and_then(|all| all.iter().try_for_each(|bridge| match_route_localnet(&mut socket, bridge, true)));
    done.map_err(|error| match unpublish(publications) {
        Ok(_) => error,
        Err(undo) => Error { undo: Some(format!("the ports are still published: {undo}")), ..error },
    })?;
    Ok(conntrack::after_publish(&mut socket, publications))
}

/// The opposite. What is not there, or leads to another container by now, is left alone. `route_localnet` of a bridge
/// goes with the last port that needed it. What the ports have led to the containers is cut off, whether or not they are
/// still in the table; a warning if that could not be done.
pub fn unpublish(publications: &[Publication]) -> Result<Option<String>> {
    let gone: Vec<Element> = publications.iter().filter_map(element_of).collect();
    if gone.is_empty() {
        return Ok(None);
    }
    let mut socket = open().map_err(|errno| explain(errno.into()))?;
    again(|| {
        let generation = generation(&mut socket)?;
        let mut batch = Batch::default();
        for set in PORTS.into_iter().chain(ADDRESSED) {
            if gone.iter().any(|element| element.set == set) {
                let all = elements_of(&mut socket, set)?;
                remove(&mut batch, all.iter().filter(|element| gone.contains(element)));
            }
        }
        batch.commit(&mut socket, Some(generation))
    })?;
    for bridge in bridges_of(&mut socket, publications)? {
        let wanted = leads_from_loopback(&mut socket, &bridge)?;
        match_route_localnet(&mut socket, &bridge, wanted)?;
    }
    Ok(conntrack::after_unpublish(&mut socket, publications))
}

/// For who is about to turn forwarding on: between the links that the host has now, and that are none of ours, nothing is
/// to be forwarded in these families, until the table goes. Links that come later are their owner's business.
pub fn bar_transit(families: Forwarding) -> Result<()> {
    let mut links = bridge::foreign_links()?;
    links.retain(|name| is_name(name));
    let mut batch = Batch::default();
    for (_, family) in
        [(families.v4, libc::NFPROTO_IPV4), (families.v6, libc::NFPROTO_IPV6)].iter().filter(|(on, _)| *on)
    {
        let key = |name: &String| [vec![*family as u8, 0, 0, 0], interface(name)].concat();
        let elements: Vec<Element> = links
            .iter()
            .map(|name| Element { set: UNROUTED, key: key(name), end: None, data: None })
            .collect();
        add(&mut batch, elements.iter());
    }
    let mut socket = open().map_err(|errno| explain(errno.into()))?;
    batch.commit(&mut socket, None).map_err(explain)
}

/// All ports that are published, sorted.
pub fn publications() -> Result<Vec<Publication>> {
    let mut socket = open().map_err(|errno| explain(errno.into()))?;
    let mut all = Vec::new();
    for set in PORTS.into_iter().chain(ADDRESSED) {
        let elements = elements_of(&mut socket, set).map_err(|errno| explain(errno.into()))?;
        all.extend(elements.iter().filter_map(publication_of));
    }
    all.sort_by_key(|one| (one.host_port, one.protocol, one.host, one.container, one.port));
    Ok(all)
}

/// Chains of others (`ip filter FORWARD`) that drop what is forwarded unless a rule of theirs accepts it: they overrule
/// what ours accept. Those of the old iptables, which is not nf_tables, are not seen.
pub fn foreign_drops() -> Result<Vec<String>> {
    let mut socket = open().map_err(|errno| explain(errno.into()))?;
    list(&mut socket, &rules::list_chains(), rules::parse_dropping_chain)
        .map_err(|errno| explain(errno.into()))
}

/// Try until nobody has changed anything in between.
fn again(mut attempt: impl FnMut() -> std::result::Result<(), Refused>) -> Result<()> {
    let mut tries = 1;
    loop {
        match attempt() {
            Err(Refused { errno: Errno::ERESTART, .. }) if tries < TRIES => tries += 1,
            other => return other.map_err(explain),
        }
    }
}

fn explain(refused: Refused) -> Error {
    let Refused { object, errno } = refused;
    let (what, modules) = match object {
        Some((object, modules)) => (format!("table inet {TABLE}: {object}"), modules),
        None => (format!("table inet {TABLE}"), "nf_tables".to_string()),
    };
    let why = match errno {
        Errno::ERESTART => Some("somebody else changes rules all the time".to_string()),
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT if !modules.is_empty() => {
            Some(format!("the kernel needs {modules}"))
        }
        _ => permission(errno).map(str::to_string),
    };
    because(why, failed(what)(errno))
}

/// Does the host reach this port at 127.0.0.1?
fn is_at_loopback(publication: &Publication) -> bool {
    publication.container.is_ipv4()
        && publication.host.is_none_or(|host| host.is_unspecified() || host.is_loopback())
}

/// Names of the bridges that lead to those containers whose ports are at 127.0.0.1. Where the table does not know (any
/// more), the addresses of the bridges tell.
fn bridges_of(socket: &mut Socket, publications: &[Publication]) -> Result<BTreeSet<String>> {
    let mut unknown: BTreeSet<IpAddr> =
        publications.iter().filter(|one| is_at_loopback(one)).map(|one| one.container).collect();
    let mut bridges = BTreeSet::new();
    if unknown.is_empty() {
        return Ok(bridges);
    }
    let behind = elements_of(socket, BEHIND[0]).map_err(|errno| explain(errno.into()))?;
    unknown.retain(|address| {
        let there = behind.iter().find(|element| is_behind(element, *address));
        there.and_then(bridge_of).is_none_or(|bridge| {
            bridges.insert(bridge);
            false
        })
    });
    if !unknown.is_empty() {
        bridges.extend(bridge::names_before(&unknown)?);
    }
    Ok(bridges)
}

/// Of an element of `behind4`.
fn is_behind(element: &Element, address: IpAddr) -> bool {
    let address = bytes_of(address);
    let part = |key: &[u8]| key.get(libc::IFNAMSIZ..).map(<[u8]>::to_vec);
    let (first, last) = (part(&element.key), element.end.as_deref().and_then(part));
    first.is_some_and(|first| first <= address) && last.is_some_and(|last| address <= last)
}

/// Whose key begins with a bridge's name.
fn bridge_of(element: &Element) -> Option<String> {
    let name = element.key.get(..libc::IFNAMSIZ)?.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(name).ok().filter(|name| is_name(name)).map(str::to_string)
}

/// Is there a port at 127.0.0.1 that leads to a container on this bridge?
fn leads_from_loopback(socket: &mut Socket, bridge: &str) -> Result<bool> {
    let mut read = |set| elements_of(socket, set).map_err(|errno| explain(errno.into()));
    let mut behind = read(BEHIND[0])?;
    behind.retain(|element| element.key.starts_with(&interface(bridge)));
    if behind.is_empty() {
        return Ok(false);
    }
    let ports = [read(PORTS[0])?, read(ADDRESSED[0])?].concat();
    Ok(ports
        .iter()
        .filter_map(publication_of)
        .any(|one| is_at_loopback(&one) && behind.iter().any(|element| is_behind(element, one.container))))
}

/// Others publish and unpublish meanwhile. Whoever changes the ports comes here afterwards, and whoever writes looks
/// whether that is still right: so the last one to write has written what is right.
fn match_route_localnet(socket: &mut Socket, bridge: &str, mut wanted: bool) -> Result<()> {
    while set_route_localnet(bridge, wanted)? {
        wanted = leads_from_loopback(socket, bridge)?;
    }
    Ok(())
}

/// True if that changed it. A bridge that is not there needs none.
fn set_route_localnet(bridge: &str, on: bool) -> Result<bool> {
    let value = if on { "1" } else { "0" };
    match sysctl::read_ipv4(bridge, ROUTE_LOCALNET)? {
        None => Ok(false),
        // It may be right where it may not be written.
        Some(now) if now.trim() == value => Ok(false),
        Some(_) => sysctl::write_ipv4(bridge, ROUTE_LOCALNET, value).map(|()| true),
    }
}

fn add<'e>(batch: &mut Batch, elements: impl Iterator<Item = &'e Element>) {
    for element in elements {
        let request = element.request(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE);
        batch.add(format!("element of {}", element.set), "", request);
    }
}

fn remove<'e>(batch: &mut Batch, elements: impl Iterator<Item = &'e Element>) {
    for element in elements {
        batch.add(format!("element of {}", element.set), "", element.request(libc::NFT_MSG_DELSETELEM, 0));
    }
}

/// What is in a set. Nothing, if it is not there.
fn elements_of(socket: &mut Socket, set: &'static str) -> nix::Result<Vec<Element>> {
    match list(socket, &rules::list_elements(set), |body| rules::parse_elements(set, body)) {
        Err(Errno::ENOENT) => Ok(Vec::new()),
        other => Ok(other?.into_iter().flatten().collect()),
    }
}

/// A device's name as a key.
fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(libc::IFNAMSIZ, 0);
    bytes
}

fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn last_of(subnet: &Subnet) -> Vec<u8> {
    let mut bytes = bytes_of(subnet.network);
    for (at, byte) in bytes.iter_mut().enumerate() {
        let fixed = usize::from(subnet.prefix).saturating_sub(8 * at).min(8);
        *byte |= 0xff_u8.checked_shr(fixed as u32).unwrap_or(0);
    }
    bytes
}

/// What a network is in the table.
fn elements(network: &Network) -> Vec<Element> {
    let name = interface(&network.bridge);
    let plain = |set, key: Vec<u8>| Element { set, key, end: None, data: None };
    let mut all = vec![plain(BRIDGES, name.clone()), plain(WITHIN, name.repeat(2))];
    if network.internal {
        all.push(plain(INTERNAL, name.clone()));
    }
    if network.isolate {
        all.push(plain(ISOLATED, name.clone()));
    }
    for range in &network.subnets {
        let subnet = &range.subnet;
        all.push(Element {
            set: BEHIND[usize::from(subnet.network.is_ipv6())],
            key: [&*name, &bytes_of(subnet.network)].concat(),
            end: Some([&*name, &last_of(subnet)].concat()),
            data: None,
        });
    }
    all
}

const PROTOCOLS: [(Protocol, u8); 2] =
    [(Protocol::Tcp, libc::IPPROTO_TCP as u8), (Protocol::Udp, libc::IPPROTO_UDP as u8)];

/// None for what cannot be: two families, or a port 0.
fn element_of(publication: &Publication) -> Option<Element> {
    let Publication { host, host_port, protocol, container, port } = *publication;
    let host = host.filter(|host| !host.is_unspecified());
    if host_port == 0 || port == 0 || host.is_some_and(|host| host.is_ipv4() != container.is_ipv4()) {
        return None;
    }
    let (_, number) = PROTOCOLS.into_iter().find(|(one, _)| *one == protocol)?;
    let padded = |port: u16| [&port.to_be_bytes()[..], &[0; 2]].concat();
    let maps = if host.is_some() { ADDRESSED } else { PORTS };
    Some(Element {
        set: maps[usize::from(container.is_ipv6())],
        key: [host.map(bytes_of).unwrap_or_default(), vec![number, 0, 0, 0], padded(host_port)].concat(),
        end: None,
        data: Some([bytes_of(container), padded(port)].concat()),
    })
}

/// The way back.
fn publication_of(element: &Element) -> Option<Publication> {
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        match bytes.len() {
            4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
            _ => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        }
    };
    let (host, rest) = element.key.split_at_checked(element.key.len().checked_sub(8)?)?;
    let (number, host_port) = (*rest.first()?, rest.get(4..6)?);
    let data = element.data.as_ref()?;
    let (container, port) = data.split_at_checked(data.len().checked_sub(4)?)?;
    Some(Publication {
        host: if host.is_empty() { None } else { Some(address(host)?) },
        host_port: u16::from_be_bytes(host_port.try_into().ok()?),
        protocol: PROTOCOLS.into_iter().find(|(_, one)| *one == number)?.0,
        container: address(container)?,
        port: u16::from_be_bytes(port.get(..2)?.try_into().ok()?),
    })
}

/// `127.0.0.1:8080/tcp`
struct Port<'p>(&'p Publication);

impl fmt::Display for Port<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Publication { host, host_port, protocol, .. } = self.0;
        match host {
            Some(host @ IpAddr::V6(_)) => write!(f, "[{host}]:{host_port}/{protocol}"),
            Some(host) => write!(f, "{host}:{host_port}/{protocol}"),
            None => write!(f, "{host_port}/{protocol}"),
        }
    }
}

#[cfg(test)]
mod tests;
