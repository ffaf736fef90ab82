// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries that the test itself has the kernel make, in network namespaces of the test, and which of them are left.

use super::*;
use crate::network::{Network, Range};
use crate::tests::{between, ip, publication};
use crate::{admit, publish, unpublish};

const CTA_TIMEOUT: u16 = 7;

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tuple(request: Request, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Request {
    let kinds = if to.is_ipv4() { [CTA_IP_V4_SRC, CTA_IP_V4_DST] } else { [CTA_IP_V6_SRC, CTA_IP_V6_DST] };
    let octets = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    request
        .nested(CTA_TUPLE_IP, |ip| ip.attribute(kinds[0], &octets(from)).attribute(kinds[1], &octets(to)))
        .nested(CTA_TUPLE_PROTO, |proto| {
            proto
                .attribute(CTA_PROTO_NUM, &[number(protocol)])
                .attribute(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes())
                .attribute(CTA_PROTO_DST_PORT, &to.port().to_be_bytes())
        })
}

fn new_flow(protocol: Protocol, from: SocketAddr, to: SocketAddr, taker: SocketAddr) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK;
    message(to.is_ipv6(), IPCTNL_MSG_CT_NEW, flags)
        .nested(CTA_TUPLE_ORIG, |request| tuple(request, protocol, from, to))
        .nested(CTA_TUPLE_REPLY, |request| tuple(request, protocol, taker, from))
        .attribute(CTA_TIMEOUT, &1000u32.to_be_bytes())
}

/// `udp 192.0.2.1:4000 192.0.2.2:53 10.90.1.2:5353`: from where to where, and who took it.
fn make(socket: &mut Socket, text: &str) {
    let words: Vec<&str> = text.split(' ').collect();
    let protocol = if words[0] == "tcp" { Protocol::Tcp } else { Protocol::Udp };
    let request = new_flow(protocol, end(words[1]), end(words[2]), end(words[3]));
    let request = match words.get(4) {
        Some(zone) => request.attribute(CTA_ZONE, &zone.parse::<u16>().unwrap().to_be_bytes()),
        None => request,
    };
    socket.ask(request, |_, _| {}).unwrap_or_else(|errno| panic!("{text}: {errno}"));
}

/// What the kernel has, in the same words.
fn left(socket: &mut Socket) -> Vec<String> {
    let mut all = Vec::new();
    for (v6, protocol) in
        [(false, Protocol::Tcp), (false, Protocol::Udp), (true, Protocol::Tcp), (true, Protocol::Udp)]
    {
        let flows =
            socket.list(&list_flows(v6, protocol, None), kind(IPCTNL_MSG_CT_NEW), parse_flow).unwrap();
        all.extend(flows.iter().map(|flow| {
            let (_, original) = flow.name.iter().find(|(kind, _)| kind & 0xff == CTA_TUPLE_ORIG).unwrap();
            let (_, from, to) = parse_tuple(original).unwrap();
            let zone = flow.name.iter().find(|(kind, _)| *kind == CTA_ZONE);
            let zone = zone.map_or(String::new(), |(_, zone)| format!(" {}", zone[1]));
            format!("{protocol} {from} {to} {}{zone}", flow.taker)
        }));
    }
    all.sort();
    all
}

/// A host with 192.0.2.2, 192.0.2.3 and 2001:db8::2, and a network of 10.90.1.0/24 and fd90:1::/64.
fn host(test: impl FnOnce(Socket) + Send) {
    between(|_| {
        for args in [
            "link set lo up",
            "addr add 192.0.2.2/32 dev lo",
            "addr add 192.0.2.3/32 dev lo",
            "addr add 2001:db8::2/128 nodad dev lo",
        ] {
            ip(args);
        }
        let range = |subnet: &str, gateway: &str| Range {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        admit(&Network {
            name: "web".to_string(),
            bridge: "coracle1".to_string(),
            subnets: vec![range("10.90.1.0/24", "10.90.1.1"), range("fd90:1::/64", "fd90:1::1")],
            mtu: 0,
            internal: false,
            isolate: false,
            store: "".into(),
        })
        .unwrap();
        test(Socket::open_for(nix::sys::socket::SockProtocol::NetlinkNetFilter).unwrap());
    });
}

/// Those of the second list, and no other, are left after `change`.
fn removes(socket: &mut Socket, gone: &[&str], kept: &[&str], change: impl FnOnce() -> Option<String>) {
    for flow in gone.iter().chain(kept) {
        make(socket, flow);
    }
    assert_eq!(left(socket).len(), gone.len() + kept.len());
    assert_eq!(change(), None);
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    assert_eq!(left(socket), kept);
    // For what comes next.
    let mut all = Vec::new();
    for (v6, protocol) in [false, true].into_iter().flat_map(|v6| [(v6, Protocol::Tcp), (v6, Protocol::Udp)])
    {
        let list = list_flows(v6, protocol, None);
        all.extend(socket.list(&list, kind(IPCTNL_MSG_CT_NEW), parse_flow).unwrap());
    }
    remove(socket, &all).unwrap();
    assert_eq!(left(socket), [""; 0]);
}

#[test]
fn a_published_port_takes_over_what_went_elsewhere() {
    host(|mut socket| {
        // On one address somebody else has it.
        publish(&[publication("192.0.2.3:53/udp=10.90.1.9:53")]).unwrap();
        let gone = [
            "udp 198.51.100.1:4000 192.0.2.2:53 192.0.2.2:53",
            "udp 198.51.100.1:4001 192.0.2.2:53 10.90.1.7:5353",
            "udp 198.51.100.1:4002 192.0.2.2:53 10.90.1.2:53",
            "udp 127.0.0.1:4000 127.0.0.1:53 127.0.0.1:53",
            "udp 192.0.2.2:4000 192.0.2.2:53 192.0.2.2:53",
            "udp 198.51.100.1:4003 192.0.2.2:53 192.0.2.2:53 7",
        ];
        let kept = [
            // It is there already.
            "udp 198.51.100.1:4100 192.0.2.2:53 10.90.1.2:5353",
            // To another host, by us, of a container too; and to a container.
            "udp 198.51.100.1:4000 203.0.113.9:53 203.0.113.9:53",
            "udp 10.90.1.2:4000 203.0.113.9:53 203.0.113.9:53",
            "udp 10.90.1.3:4000 10.90.1.2:53 10.90.1.2:53",
            // The neighbour's.
            "udp 198.51.100.1:4000 192.0.2.3:53 10.90.1.9:53",
            // Another port, another protocol, another family, what it is that answers.
            "udp 198.51.100.1:4000 192.0.2.2:54 192.0.2.2:54",
            "tcp 198.51.100.1:4000 192.0.2.2:53 192.0.2.2:53",
            "udp [2001:db8::1]:4000 [2001:db8::2]:53 [2001:db8::2]:53",
            "udp 192.0.2.2:53 198.51.100.1:4200 198.51.100.1:4200",
        ];
        removes(&mut socket, &gone, &kept, || publish(&[publication("53/udp=10.90.1.2:5353")]).unwrap());

        let gone = ["udp [2001:db8::1]:4000 [2001:db8::2]:53 [2001:db8::2]:53"];
        let kept = ["udp [::1]:4000 [::1]:53 [::1]:53", "udp 192.0.2.1:4000 192.0.2.2:53 192.0.2.2:53"];
        removes(&mut socket, &gone, &kept, || publish(&[publication("53/udp=[fd90:1::2]:53")]).unwrap());

        let gone = ["udp 192.0.2.1:4000 192.0.2.2:55 192.0.2.2:55"];
        let kept = ["udp 192.0.2.1:4000 192.0.2.3:55 192.0.2.3:55"];
        removes(&mut socket, &gone, &kept, || {
            publish(&[publication("192.0.2.2:55/udp=10.90.1.2:53")]).unwrap()
        });

        // TCP is not looked at.
        let kept = ["tcp 192.0.2.1:4000 192.0.2.2:80 10.90.1.9:80"];
        removes(&mut socket, &[], &kept, || publish(&[publication("80/tcp=10.90.1.2:80")]).unwrap());
    });
}

#[test]
fn an_unpublished_port_lets_go_of_what_it_led() {
    host(|mut socket| {
        let gone = [
            "udp 198.51.100.1:4000 192.0.2.2:53 10.90.1.2:53",
            "udp 127.0.0.1:4000 127.0.0.1:53 10.90.1.2:53",
            "tcp 198.51.100.1:4000 192.0.2.3:80 10.90.1.2:8080",
            // The host had that address until now.
            "udp 198.51.100.1:4005 203.0.113.9:53 10.90.1.2:53",
        ];
        let kept = [
            // Other rules, other containers, other ports.
            "udp 198.51.100.1:4001 192.0.2.2:53 172.17.0.2:53",
            "udp 198.51.100.1:4002 192.0.2.2:53 192.0.2.2:53",
            "udp 198.51.100.1:4003 192.0.2.2:54 10.90.1.2:53",
            "tcp 198.51.100.1:4001 192.0.2.2:80 10.90.1.2:81",
            "tcp 198.51.100.1:4002 192.0.2.2:53 10.90.1.2:53",
            "udp 198.51.100.1:4004 203.0.113.9:53 203.0.113.9:53",
            // Straight to it.
            "udp 10.90.1.3:4000 10.90.1.2:53 10.90.1.2:53",
        ];
        let both = [publication("53/udp=10.90.1.2:53"), publication("80/tcp=10.90.1.2:8080")];
        publish(&both).unwrap();
        removes(&mut socket, &gone, &kept, || unpublish(&both).unwrap());
        // Whoever was killed in between does it again, when the ports are gone already.
        removes(&mut socket, &gone, &kept, || unpublish(&both).unwrap());

        let gone = ["udp 192.0.2.1:4000 192.0.2.2:55 10.90.1.2:53"];
        let kept = ["udp 192.0.2.1:4001 192.0.2.3:55 10.90.1.2:53"];
        removes(&mut socket, &gone, &kept, || {
            unpublish(&[publication("192.0.2.2:55/udp=10.90.1.2:53")]).unwrap()
        });
    });
}

#[test]
fn many_ports_and_many_flows() {
    host(|mut socket| {
        let ports: Vec<Publication> = (0..FEW as u16 + 1)
            .map(|at| publication(&format!("{}/udp=10.90.1.2:{}", 5000 + at, 6000 + at)))
            .collect();
        let gone: Vec<String> = (0..2001)
            .map(|at| (at + 1000, 5000 + at % ports.len() as u16))
            .map(|(from, to)| format!("udp 198.51.100.1:{from} 192.0.2.2:{to} 192.0.2.2:{to}"))
            .collect();
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        let kept = ["udp 198.51.100.1:999 192.0.2.2:4999 192.0.2.2:4999"];
        removes(&mut socket, &gone, &kept, || publish(&ports).unwrap());
    });
}

/// The kernel tells of each, and more than a socket holds.
#[test]
fn many_that_have_ended_meanwhile() {
    host(|mut socket| {
        for port in 0..2000 {
            make(&mut socket, &format!("udp 198.51.100.1:{} 192.0.2.2:53 10.90.1.2:53", 4000 + port));
        }
        let all = flows(&mut socket, &[publication("53/udp=10.90.1.2:53")], &|_| true).unwrap();
        assert_eq!(all.len(), 2000);
        remove(&mut socket, &all).unwrap();
        remove(&mut socket, &all).unwrap();
        assert!(left(&mut socket).is_empty());
    });
}

/// What is forwarded to nowhere is not for this host, and in nobody's way.
#[test]
fn flows_to_a_blackhole_are_left() {
    host(|mut socket| {
        ip("route add blackhole 203.0.113.9");
        ip("route add prohibit 203.0.113.8");
        let kept = [
            "udp 198.51.100.1:4000 203.0.113.8:53 203.0.113.8:53",
            "udp 198.51.100.1:4000 203.0.113.9:53 203.0.113.9:53",
        ];
        let gone = ["udp 198.51.100.1:4000 192.0.2.2:53 192.0.2.2:53"];
        removes(&mut socket, &gone, &kept, || publish(&[publication("53/udp=10.90.1.2:53")]).unwrap());
    });
}

#[test]
fn a_flow_that_came_in_its_place_stays() {
    host(|mut socket| {
        let text = "udp 198.51.100.1:4000 192.0.2.2:53 192.0.2.2:53";
        let list = list_flows(false, Protocol::Udp, Some(53));
        make(&mut socket, text);
        let first = socket.list(&list, kind(IPCTNL_MSG_CT_NEW), parse_flow).unwrap();
        remove(&mut socket, &first).unwrap();
        remove(&mut socket, &first).unwrap();
        make(&mut socket, text);
        let mut other = first.clone();
        for (kind, value) in &mut other[0].name {
            if *kind == CTA_ID {
                value[0] ^= 1;
            }
        }
        remove(&mut socket, &other).unwrap();
        assert_eq!(left(&mut socket), [text]);
    });
}

#[test]
fn a_kernel_without_it_is_told_of() {
    host(|mut socket| {
        // A subsystem of nfnetlink that no kernel has is one whose module is absent.
        let errno = socket.ask(Request::new(31 << 8, libc::NLM_F_DUMP).fixed(&[0; NFGENMSG]), |_, _| {});
        assert_eq!(errno, Err(Errno::EINVAL));
        let says = "connection tracking: invalid argument (the kernel needs nf_conntrack_netlink)";
        assert!(not_done(Errno::EINVAL).ends_with(says), "{}", not_done(Errno::EINVAL));
        assert!(not_done(Errno::ENOMEM).ends_with(": cannot allocate memory"), "{}", not_done(Errno::ENOMEM));
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is between the header and the end, on a little-endian machine.
#[cfg(target_endian = "little")]
#[test]
fn messages() {
    let list = list_flows(false, Protocol::Udp, Some(53)).finish(7);
    assert_eq!(
        hex(&list),
        concat!(
            "38000000", "0101", "0103", "07000000",
            "00000000", // IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP
            "02000000", // nfgenmsg: AF_INET
            "1800", "0180", // CTA_TUPLE_ORIG
            "1400", "0280", // CTA_TUPLE_PROTO
            "0500", "0100", "11000000", // CTA_PROTO_NUM: IPPROTO_UDP
            "0600", "0300", "00350000", // CTA_PROTO_DST_PORT
            "0c00", "1980", // CTA_FILTER
            "0800", "0100", "28000000", // CTA_FILTER_ORIG_FLAGS: the number and the port
        )
    );
    let list = list_flows(true, Protocol::Tcp, None).finish(7);
    assert_eq!(
        hex(&list[16..]),
        concat!(
            "0a000000", "1000", "0180", "0c00", "0280", "0500", "0100", "06000000", "0c00", "1980", "0800",
            "0100", "08000000"
        )
    );
    let (from, to, taker) = (end("198.51.100.1:4000"), end("192.0.2.2:53"), end("10.90.1.2:5353"));
    let made = new_flow(Protocol::Udp, from, to, taker).attribute(CTA_ID, &[1, 2, 3, 4]).finish(7);
    let flow = parse_flow(&made[16..]).unwrap();
    assert_eq!((flow.protocol, flow.to, flow.taker), (Protocol::Udp, to, taker));
    let original = concat!(
        "3400", "0180", // CTA_TUPLE_ORIG
        "1400", "0180", // CTA_TUPLE_IP
        "0800", "0100", "c6336401", "0800", "0200", "c0000202", // CTA_IP_V4_SRC, CTA_IP_V4_DST
        "1c00", "0280", // CTA_TUPLE_PROTO
        "0500", "0100", "11000000", "0600", "0200", "0fa00000", "0600", "0300", "00350000",
    );
    assert_eq!(
        hex(&remove_flow(&flow).finish(8)),
        // IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK; and CTA_ID.
        [
            "50000000", "0201", "0500", "08000000", "00000000", "02000000", original, "0800", "0c00",
            "01020304"
        ]
        .concat()
    );
    for length in 0..made.len() - 16 - 8 {
        assert!(parse_flow(&made[16..16 + length]).is_none_or(|part| part.taker == taker), "{length}");
    }
    // SCTP's, and one without ports.
    let mut other = made.clone();
    let at = other.windows(5).position(|bytes| bytes == [5, 0, 1, 0, 17]).unwrap();
    other[at + 4] = 132;
    assert_eq!(parse_flow(&other[16..]), None);
}
