// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets through a host's table: a client outside, the host, containers on two networks, each a network namespace that
//! the test makes. What must not arrive is followed by what does, on the same way to the same socket.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::*;
use crate::bridge::GROUP;
use crate::network::Range;
use crate::tests::{current, enter, ip, publication, receive};

/// Nothing here takes longer, unless it is wrong.
const DEADLINE: Duration = Duration::from_secs(10);

/// A network namespace, gone with its last descriptor and socket.
struct Place(File);

impl Place {
    fn new() -> Place {
        let here = current();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let place = Place(current());
        enter(&here);
        place
    }

    fn with<T>(&self, act: impl FnOnce() -> T) -> T {
        let here = current();
        enter(&self.0);
        let result = act();
        enter(&here);
        result
    }

    fn ip(&self, args: &str) {
        self.with(|| ip(args));
    }

    /// One program for all lines.
    fn ip_batch(&self, lines: impl IntoIterator<Item = String>) {
        let script: Vec<String> = lines.into_iter().collect();
        self.with(|| fed("ip", &["-batch", "-"], &script.join("\n")));
    }

    fn set(&self, name: &str, value: &str) {
        self.with(|| fs::write(format!("/proc/sys/net/{name}"), value).unwrap());
    }

    fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.with(|| bound(|| UdpSocket::bind(address)));
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    fn tcp(&self, address: &str) -> TcpListener {
        let listener = self.with(|| bound(|| TcpListener::bind(address)));
        // For accept.
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::seconds(DEADLINE.as_secs() as i64)).unwrap();
        listener
    }

    fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let stream = self.with(|| TcpStream::connect_timeout(&to.parse().unwrap(), DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Ok(stream)
    }

    fn nft(&self, args: &str) -> String {
        self.with(|| nft(args))
    }
}

/// A program that another test's thread starts has a copy of every descriptor until its exec, so that a port may be in use
/// for a moment after its socket was closed.
fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let started = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && started.elapsed() < DEADLINE => {
                std::thread::yield_now();
            }
            other => return other.unwrap(),
        }
    }
}

/// A program in the network namespace of this thread, with its input: its output.
fn fed(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {input}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn nft(script: &str) -> String {
    fed("nft", &["-f", "-"], script)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Networks 1 and 2: 10.90.N.0/24 and fd90:N::/64 on bridge coracleN.
fn network(number: u8) -> Network {
    let range = |subnet: String, gateway: String| Range {
        subnet: subnet.parse().unwrap(),
        gateway: address(&gateway),
    };
    Network {
        name: format!("n{number}"),
        bridge: format!("coracle{number}"),
        subnets: vec![
            range(format!("10.90.{number}.0/24"), format!("10.90.{number}.1")),
            range(format!("fd90:{number}::/64"), format!("fd90:{number}::1")),
        ],
        mtu: 0,
        internal: false,
        isolate: false,
        store: "".into(),
    }
}

struct World {
    client: Place,
    host: Place,
    /// 10.90.1.2 and 10.90.1.3
    neighbours: [Place; 2],
    /// 10.90.2.2
    stranger: Place,
}

impl World {
    /// Client 192.0.2.1, host 192.0.2.2 (and 2001:db8::1, ::2). The client knows the way to the containers, as a
    /// neighbour on the host's link may.
    fn new() -> World {
        let world = World {
            client: Place::new(),
            host: Place::new(),
            neighbours: [Place::new(), Place::new()],
            stranger: Place::new(),
        };
        let World { client, host, neighbours: [one, two], stranger } = &world;
        host.set("ipv4/ip_forward", "1");
        host.set("ipv6/conf/all/forwarding", "1");
        // Place, the host's end and its bridge, addresses, gateways.
        let plugs = [
            (client, "up0", "", ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.2", "2001:db8::2"]),
            (one, "port1-2", "coracle1", ["10.90.1.2/24", "fd90:1::2/64"], ["10.90.1.1", "fd90:1::1"]),
            (two, "port1-3", "coracle1", ["10.90.1.3/24", "fd90:1::3/64"], ["10.90.1.1", "fd90:1::1"]),
            (stranger, "port2-2", "coracle2", ["10.90.2.2/24", "fd90:2::2/64"], ["10.90.2.1", "fd90:2::1"]),
        ];
        host.ip_batch(plugs.iter().map(|(place, name, ..)| {
            let netns = format!("/proc/{}/fd/{}", std::process::id(), place.0.as_raw_fd());
            let group = if *name == "up0" { 0 } else { GROUP };
            format!("link add {name} group {group} type veth peer name eth0 netns {netns}")
        }));
        for (place, ..) in &plugs {
            place.ip("link set eth0 up");
        }
        let mut lines =
            vec!["addr add 192.0.2.2/24 dev up0".to_string(), "addr add 2001:db8::2/64 nodad dev up0".into()];
        for number in [1, 2] {
            let bridge = format!("coracle{number}");
            lines.push(format!("link add {bridge} group {GROUP} type bridge"));
            lines.push(format!("addr add 10.90.{number}.1/24 dev {bridge}"));
            lines.push(format!("addr add fd90:{number}::1/64 nodad dev {bridge}"));
            lines.push(format!("link set {bridge} up"));
        }
        for (_, name, bridge, ..) in &plugs {
            if !bridge.is_empty() {
                lines.push(format!("link set {name} master {bridge}"));
            }
            lines.push(format!("link set {name} up"));
        }
        host.ip_batch(lines);
        for (place, _, bridge, addresses, gateways) in &plugs {
            let to = if bridge.is_empty() { ["10.90.0.0/16", "fd90::/16"] } else { ["default"; 2] };
            place.ip_batch(
                (addresses.iter().map(|address| format!("addr add {address} nodad dev eth0"))).chain(
                    to.iter().zip(gateways).map(|(to, gateway)| format!("route add {to} via {gateway}")),
                ),
            );
        }
        for place in [client, host, one, two, stranger] {
            place.with(wait_for_carriers);
        }
        world
    }

    fn admit(&self, networks: &[Network]) {
        self.host.with(|| networks.iter().for_each(|network| admit(network).unwrap()));
    }

    fn publish(&self, texts: &[&str]) {
        let all: Vec<Publication> = texts.iter().map(|text| publication(text)).collect();
        self.host.with(|| publish(&all).unwrap());
    }
}

fn wait_for_carriers() {
    let started = Instant::now();
    while ip("-o link show up").lines().any(|line| !line.contains("LOOPBACK") && !line.contains("state UP")) {
        assert!(started.elapsed() < DEADLINE, "{}", ip("-o link"));
    }
}

/// In a thread that is in none of the places unless it says so, and not in the machine's own namespace either.
fn world(test: impl FnOnce(World) + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test(World::new());
        });
    });
}

/// A connection with a word each way: whom the server sees.
fn talk(from: &Place, to: &str, server: &TcpListener) -> String {
    let mut client = from.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    let (mut served, peer) = server.accept().unwrap_or_else(|error| panic!("{to}: {error}"));
    served.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut word = [0; 4];
    client.write_all(b"ping").unwrap();
    served.read_exact(&mut word).unwrap();
    served.write_all(b"pong").unwrap();
    client.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"pong");
    peer.ip().to_string()
}

/// The same with datagrams, on a connected socket: the answer must come from where the question went.
fn ask(from: &Place, to: &str, server: &UdpSocket) -> String {
    let client = from.udp(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
    from.with(|| client.connect(to).unwrap());
    client.send(b"ping").unwrap();
    let mut word = [0; 4];
    let (_, peer) = receive(server, &mut word).unwrap_or_else(|error| panic!("{to}: {error}"));
    server.send_to(b"pong", peer).unwrap();
    receive(&client, &mut word).unwrap_or_else(|error| panic!("answer of {to}: {error}"));
    assert_eq!(&word, b"pong");
    peer.ip().to_string()
}

/// Is what is sent to this address stopped on its way? Then the server hears only of what the host tells it next, at
/// `direct`, an address of the server's place.
fn is_stopped(world: &World, from: &Place, to: &str, server: &UdpSocket, direct: &str) -> bool {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    from.udp(any).send_to(b"stop", to).unwrap();
    world.host.udp(any).send_to(b"next", direct).unwrap();
    let mut word = [0; 4];
    receive(server, &mut word).unwrap_or_else(|error| panic!("{direct}: {error}"));
    if &word == b"next" {
        return true;
    }
    assert_eq!(&word, b"stop");
    receive(server, &mut word).unwrap();
    assert_eq!(&word, b"next");
    false
}

/// Everybody knows the link addresses on the way to everybody, so that no packet waits for them.
fn introduce(world: &World) {
    let World { client, host, neighbours: [one, two], stranger } = world;
    for (place, own, host_address) in [
        (client, "192.0.2.1:1", "192.0.2.2:1"),
        (one, "10.90.1.2:1", "10.90.1.1:1"),
        (two, "10.90.1.3:1", "10.90.1.1:1"),
        (stranger, "10.90.2.2:1", "10.90.2.1:1"),
    ] {
        ask(place, host_address, &host.udp(host_address));
        ask(host, own, &place.udp(own));
    }
}

fn comments(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains("comment")).collect()
}

#[test]
fn a_container_reaches_what_is_outside_as_the_host() {
    world(|world| {
        let World { client, neighbours: [one, _], .. } = &world;
        world.admit(&[network(1)]);
        assert_eq!(talk(one, "192.0.2.1:80", &client.tcp("0.0.0.0:80")), "192.0.2.2");
        assert_eq!(ask(one, "192.0.2.1:80", &client.udp("0.0.0.0:80")), "192.0.2.2");
        assert_eq!(talk(one, "[2001:db8::1]:81", &client.tcp("[::]:81")), "2001:db8::2");
    });
}

#[test]
fn a_published_port_sees_who_asks() {
    world(|world| {
        let World { client, neighbours: [one, two], .. } = &world;
        world.admit(&[network(1)]);
        world.publish(&[
            "8080/tcp=10.90.1.2:80",
            "53/udp=10.90.1.2:5353",
            "8080/tcp=[fd90:1::2]:80",
            // One address comes before all of them.
            "192.0.2.2:8081/tcp=10.90.1.3:80",
            "8081/tcp=10.90.1.2:80",
            "[2001:db8::2]:8081/udp=[fd90:1::3]:80",
        ]);
        let server = one.tcp("0.0.0.0:80");
        assert_eq!(talk(client, "192.0.2.2:8080", &server), "192.0.2.1");
        assert_eq!(ask(client, "192.0.2.2:53", &one.udp("0.0.0.0:5353")), "192.0.2.1");
        assert_eq!(talk(client, "192.0.2.2:8081", &two.tcp("0.0.0.0:80")), "192.0.2.1");
        assert_eq!(talk(client, "10.90.1.1:8081", &server), "192.0.2.1", "another address of the host");
        drop(server);
        assert_eq!(talk(client, "[2001:db8::2]:8080", &one.tcp("[::]:80")), "2001:db8::1");
        assert_eq!(ask(client, "[2001:db8::2]:8081", &two.udp("[::]:80")), "2001:db8::1");
    });
}

#[test]
fn the_host_reaches_a_published_port() {
    world(|world| {
        let World { host, neighbours: [one, _], .. } = &world;
        world.admit(&[network(1)]);
        world.publish(&["8080/tcp=10.90.1.2:80", "127.0.0.1:53/udp=10.90.1.2:80", "8080/tcp=[fd90:1::2]:81"]);
        let server = one.tcp("0.0.0.0:80");
        assert_eq!(talk(host, "127.0.0.1:8080", &server), "10.90.1.1");
        assert_eq!(talk(host, "192.0.2.2:8080", &server), "192.0.2.2");
        assert_eq!(talk(host, "10.90.1.1:8080", &server), "10.90.1.1");
        assert_eq!(ask(host, "127.0.0.1:53", &one.udp("0.0.0.0:80")), "10.90.1.1");
        assert_eq!(talk(host, "[2001:db8::2]:8080", &one.tcp("[::]:81")), "2001:db8::2");
        let error = host.connect("[::1]:8080").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        // What the host serves itself elsewhere is left to it.
        assert_eq!(talk(host, "127.0.0.1:8082", &host.tcp("127.0.0.1:8082")), "127.0.0.1");
    });
}

/// With and without br_netfilter, which has packets inside of a bridge pass here too.
#[test]
fn a_container_reaches_its_own_published_port_and_a_neighbours() {
    for filtered in ["0", "1"] {
        world(|world| {
            let World { host, neighbours: [one, two], stranger, .. } = &world;
            for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                if host.with(|| fs::exists(format!("/proc/sys/net/bridge/{name}"))).unwrap() {
                    host.set(&format!("bridge/{name}"), filtered);
                }
            }
            // Then the answer to one's own question has to leave by the port by which the question came.
            host.ip("link set port1-2 type bridge_slave hairpin on");
            world.admit(&[network(1), Network { isolate: true, ..network(2) }]);
            world.publish(&["8080/tcp=10.90.1.2:80", "8080/tcp=[fd90:1::2]:81", "8080/udp=10.90.1.2:80"]);
            let server = one.tcp("0.0.0.0:80");
            for from in [one, two] {
                assert_eq!(talk(from, "192.0.2.2:8080", &server), "10.90.1.1", "{filtered}");
                assert_eq!(talk(from, "10.90.1.1:8080", &server), "10.90.1.1");
                assert_eq!(ask(from, "192.0.2.2:8080", &one.udp("0.0.0.0:80")), "10.90.1.1");
                assert_eq!(talk(from, "[2001:db8::2]:8080", &one.tcp("[::]:81")), "fd90:1::1");
            }
            // Of another network, be it isolated: it is a port of the host.
            assert_eq!(talk(stranger, "192.0.2.2:8080", &server), "10.90.2.2");
            // Not by way of the host at all.
            assert_eq!(talk(two, "10.90.1.2:80", &server), "10.90.1.3");
        });
    }
}

#[test]
fn what_is_not_published_is_not_reached_by_a_direct_route() {
    world(|world| {
        let World { client, host, neighbours: [one, _], .. } = &world;
        world.admit(&[network(1), network(2)]);
        world.publish(&["80/udp=10.90.1.2:80"]);
        introduce(&world);
        let server = one.udp("10.90.1.2:80");
        assert!(is_stopped(&world, client, "10.90.1.2:80", &server, "10.90.1.2:80"));
        assert_eq!(ask(client, "192.0.2.2:80", &server), "192.0.2.1");
        // And that it was ours that stopped it.
        host.nft("flush chain inet coracle forward");
        assert!(!is_stopped(&world, client, "10.90.1.2:80", &server, "10.90.1.2:80"));
    });
}

#[test]
fn networks_reach_each_other_unless_one_is_isolated() {
    for (isolated, stopped) in [([false, false], false), ([true, false], true), ([false, true], true)] {
        world(|world| {
            let World { client, neighbours: [one, two], stranger, .. } = &world;
            let [first, second] = [1, 2]
                .map(|number| Network { isolate: isolated[usize::from(number) - 1], ..network(number) });
            world.admit(&[first, second]);
            introduce(&world);
            for (from, to, address) in [(one, stranger, "10.90.2.2:80"), (stranger, one, "10.90.1.2:80")] {
                let server = to.udp(address);
                assert_eq!(
                    is_stopped(&world, from, address, &server, address),
                    stopped,
                    "{isolated:?} {address}"
                );
            }
            assert_eq!(talk(one, "192.0.2.1:80", &client.tcp("0.0.0.0:80")), "192.0.2.2");
            assert_eq!(ask(two, "10.90.1.2:81", &one.udp("0.0.0.0:81")), "10.90.1.3");
        });
    }
}

#[test]
fn an_internal_network_ends_at_the_host() {
    world(|world| {
        let World { client, host, neighbours: [one, two], stranger } = &world;
        world.admit(&[Network { internal: true, ..network(1) }, network(2)]);
        world.publish(&["80/udp=10.90.2.2:80"]);
        introduce(&world);
        let outside = client.udp("192.0.2.1:80");
        assert!(is_stopped(&world, one, "192.0.2.1:80", &outside, "192.0.2.1:80"));
        let other = stranger.udp("10.90.2.2:80");
        assert!(is_stopped(&world, one, "10.90.2.2:80", &other, "10.90.2.2:80"));
        assert!(
            is_stopped(&world, one, "10.90.1.1:80", &other, "10.90.2.2:80"),
            "a published port of another"
        );
        let inside = one.udp("10.90.1.2:80");
        assert!(is_stopped(&world, client, "10.90.1.2:80", &inside, "10.90.1.2:80"));
        assert!(is_stopped(&world, stranger, "10.90.1.2:80", &inside, "10.90.1.2:80"));
        assert_eq!(ask(two, "10.90.1.2:80", &inside), "10.90.1.3");
        assert_eq!(ask(one, "10.90.1.1:81", &host.udp("10.90.1.1:81")), "10.90.1.2");
        let path = "/proc/sys/net/ipv4/conf/coracle1/route_localnet";
        assert_eq!(host.with(|| fs::read_to_string(path)).unwrap(), "0\n", "it has no use for it");
    });
}

/// Whoever is on a link of the host may send it packets to 127.0.0.1; the kernel's own check is off for bridges, and
/// comes after the translation elsewhere.
#[test]
fn the_hosts_loopback_is_not_reached_from_outside_of_it() {
    world(|world| {
        let World { client, host, neighbours: [one, _], stranger } = &world;
        world.admit(&[network(1), network(2)]);
        // The second one has the bridge of the first container's network let its packets to 127.0.0.1 in.
        world.publish(&["127.0.0.1:81/udp=10.90.2.2:80", "127.0.0.1:82/udp=10.90.1.3:80"]);
        introduce(&world);
        for (place, gateway) in [(client, "192.0.2.2"), (one, "10.90.1.1")] {
            place.ip("route del local 127.0.0.0/8 dev lo table local");
            place.ip("route del local 127.0.0.1 dev lo table local");
            place.ip(&format!("route add 127.0.0.1/32 via {gateway}"));
        }
        let service = host.udp("0.0.0.0:80");
        assert!(is_stopped(&world, one, "127.0.0.1:80", &service, "10.90.1.1:80"));
        let published = stranger.udp("10.90.2.2:80");
        for from in [client, one] {
            assert!(is_stopped(&world, from, "127.0.0.1:81", &published, "10.90.2.2:80"));
        }
        assert_eq!(ask(host, "127.0.0.1:81", &published), "10.90.2.1");
        host.nft("flush chain inet coracle guard");
        assert!(!is_stopped(&world, one, "127.0.0.1:80", &service, "10.90.1.1:80"));
        host.nft(
            "flush chain inet coracle prerouting
             add rule inet coracle prerouting fib daddr type local jump published",
        );
        assert!(!is_stopped(&world, client, "127.0.0.1:81", &published, "10.90.2.2:80"));
    });
}

/// Nor does a container pass for the host's loopback, to a service that trusts it.
#[test]
fn the_hosts_loopback_does_not_come_from_a_container() {
    world(|world| {
        let World { host, neighbours: [one, _], .. } = &world;
        world.admit(&[network(1), network(2)]);
        world.publish(&["82/udp=10.90.1.3:80"]);
        introduce(&world);
        one.set("ipv4/conf/eth0/route_localnet", "1");
        let spoof = one.udp("127.0.0.2:0");
        let service = host.udp("10.90.1.1:80");
        let next = || {
            spoof.send_to(b"stop", "10.90.1.1:80").unwrap();
            one.udp("0.0.0.0:0").send_to(b"next", "10.90.1.1:80").unwrap();
            let mut word = [0; 4];
            receive(&service, &mut word).unwrap();
            word
        };
        assert_eq!(&next(), b"next");
        host.nft("flush chain inet coracle guard");
        assert_eq!(&next(), b"stop");
    });
}

/// A host's end that is on no bridge, and a bridge that the table does not know, are no ways into the host.
#[test]
fn a_container_has_no_way_in_but_by_its_bridge() {
    world(|world| {
        let World { host, neighbours: [one, _], stranger, .. } = &world;
        for device in ["all", "port1-2"] {
            host.set(&format!("ipv4/conf/{device}/rp_filter"), "0");
        }
        world.admit(&[network(1), network(2)]);
        introduce(&world);
        world.host.with(|| dismiss(&network(2)).unwrap());
        host.ip("link set port1-2 nomaster");
        let link = host.with(|| ip("-o link show dev port1-2"));
        let mac = link.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_string();
        for gateway in ["10.90.1.1", "fd90:1::1"] {
            one.ip(&format!("neigh replace {gateway} lladdr {mac} nud permanent dev eth0"));
        }
        let services = [host.udp("0.0.0.0:80"), host.udp("[::]:81")];
        let ways = [
            (one, "10.90.1.1:80", &services[0]),
            (one, "[fd90:1::1]:81", &services[1]),
            (stranger, "10.90.2.1:80", &services[0]),
        ];
        for (from, to, service) in ways {
            assert!(is_stopped(&world, from, to, service, to), "{to}");
        }
        // What is no device of ours is somebody else's.
        host.ip("link set port1-2 group 0");
        assert!(!is_stopped(&world, one, ways[0].1, ways[0].2, ways[0].1));
        host.ip(&format!("link set port1-2 group {GROUP}"));
        host.nft("flush chain inet coracle guard");
        for (from, to, service) in ways {
            assert!(!is_stopped(&world, from, to, service, to), "{to}");
        }
    });
}

/// `route_localnet` of networks 1 and 2.
fn routed_to_loopback() -> [bool; 2] {
    [1, 2].map(|number| {
        let path = format!("/proc/sys/net/ipv4/conf/coracle{number}/route_localnet");
        fs::read_to_string(path).unwrap() == "1\n"
    })
}

/// A bridge lets packets with loopback addresses in only while that is of use: nothing stops them when somebody flushes
/// the rules.
#[test]
fn the_loopback_is_routed_while_a_port_needs_it() {
    world(|world| {
        world.host.with(|| {
            let on = |texts: &[&str]| texts.iter().map(|text| publication(text)).collect::<Vec<_>>();
            admit(&network(1)).unwrap();
            admit(&network(2)).unwrap();
            assert_eq!(routed_to_loopback(), [false, false]);
            let elsewhere = on(&[
                "192.0.2.2:80/tcp=10.90.1.2:80",
                "80/tcp=[fd90:1::2]:80",
                "[::1]:81/tcp=[fd90:1::2]:80",
            ]);
            publish(&elsewhere).unwrap();
            assert_eq!(routed_to_loopback(), [false, false]);
            for text in
                ["82/udp=10.90.1.2:80", "0.0.0.0:82/udp=10.90.1.2:80", "127.0.0.2:82/tcp=10.90.1.2:80"]
            {
                publish(&on(&[text])).unwrap();
                assert_eq!(routed_to_loopback(), [true, false], "{text}");
                unpublish(&on(&[text])).unwrap();
                assert_eq!(routed_to_loopback(), [false, false], "{text}");
            }
            let [first, second] = [on(&["83/tcp=10.90.1.2:80"]), on(&["127.0.0.1:84/tcp=10.90.1.3:80"])];
            publish(&first).unwrap();
            publish(&second).unwrap();
            publish(&on(&["85/tcp=10.90.2.2:80"])).unwrap();
            assert_eq!(publish(&first).unwrap_err().errno, Errno::EEXIST);
            unpublish(&first).unwrap();
            assert_eq!(routed_to_loopback(), [true, true], "another container's port");
            unpublish(&second).unwrap();
            assert_eq!(routed_to_loopback(), [false, true]);

            // A bridge that was removed by hand, and made again.
            publish(&first).unwrap();
            fs::write("/proc/sys/net/ipv4/conf/coracle1/route_localnet", "0").unwrap();
            admit(&network(1)).unwrap();
            assert_eq!(routed_to_loopback(), [true, true]);
            // And what a flush left of it.
            nft("flush ruleset");
            admit(&network(1)).unwrap();
            assert_eq!(routed_to_loopback(), [false, true], "until the network is admitted");
            unpublish(&on(&["85/tcp=10.90.2.2:80"])).unwrap();
            assert_eq!(routed_to_loopback(), [false, false], "found without the table");
        });
    });
}

#[test]
fn the_loopback_is_routed_as_the_last_one_wants() {
    world(|world| {
        let World { host, .. } = &world;
        world.admit(&[network(1), network(2)]);
        // One that has looked at the ports before others changed them.
        host.with(|| {
            let mut socket = open().unwrap();
            let port = [publication("80/tcp=10.90.1.2:80")];
            match_route_localnet(&mut socket, "coracle1", true).unwrap();
            assert_eq!(routed_to_loopback(), [false, false]);
            publish(&port).unwrap();
            match_route_localnet(&mut socket, "coracle1", false).unwrap();
            assert_eq!(routed_to_loopback(), [true, false]);
            unpublish(&port).unwrap();
        });
        let start = std::sync::Barrier::new(8);
        for stays in [true, false] {
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let start = &start;
                    scope.spawn(move || {
                        enter(&host.0);
                        let port = [publication(&format!("{}/tcp=10.90.1.2:80", 80 + thread))];
                        unpublish(&port).unwrap();
                        start.wait();
                        for _ in 0..4 {
                            publish(&port).unwrap();
                            unpublish(&port).unwrap();
                        }
                        if stays && thread == 0 {
                            publish(&port).unwrap();
                        }
                    });
                }
            });
            assert_eq!(host.with(routed_to_loopback), [stays, false]);
        }
    });
}

#[test]
fn a_host_that_forwards_for_containers_only() {
    world(|world| {
        let World { client, host, neighbours: [one, _], .. } = &world;
        let other = Place::new();
        let plug = |number: u8| {
            let netns = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
            host.ip(&format!("link add up{number} type veth peer name eth{number} netns {netns}"));
            other.ip_batch([
                format!("addr add 198.51.{number}.1/24 dev eth{number}"),
                format!("addr add 2001:db8:{number}::1/64 nodad dev eth{number}"),
                format!("link set eth{number} up"),
                format!("route add 192.0.2.0/24 via 198.51.{number}.2 metric {number}"),
                format!("route add 2001:db8::/64 via 2001:db8:{number}::2 metric {number}"),
            ]);
            host.ip_batch([
                format!("addr add 198.51.{number}.2/24 dev up{number}"),
                format!("addr add 2001:db8:{number}::2/64 nodad dev up{number}"),
                format!("link set up{number} up"),
            ]);
            other.with(wait_for_carriers);
            client.ip(&format!("route add 198.51.{number}.0/24 via 192.0.2.2"));
            client.ip(&format!("route add 2001:db8:{number}::/64 via 2001:db8::2"));
        };
        let to = |number: u8| format!("198.51.{number}.1:80");
        plug(1);
        let error = host.with(|| bar_transit(Forwarding { v4: true, v6: false })).unwrap_err();
        assert_eq!(error.errno, Errno::ENOENT, "there is no table");
        world.admit(&[network(1), network(2)]);
        introduce(&world);
        let server = other.udp("0.0.0.0:80");
        assert!(!is_stopped(&world, client, &to(1), &server, &to(1)));
        for _ in 0..2 {
            host.with(|| bar_transit(Forwarding { v4: true, v6: false })).unwrap();
        }
        assert!(is_stopped(&world, client, &to(1), &server, &to(1)));
        // The other family, containers, and a link that somebody makes afterwards.
        ask(client, "[2001:db8:1::1]:81", &other.udp("[::]:81"));
        ask(one, &to(1), &server);
        ask(one, "192.0.2.1:80", &client.udp("0.0.0.0:80"));
        plug(2);
        assert!(!is_stopped(&world, client, &to(2), &server, &to(2)));
        // It outlives the table's being made anew.
        host.nft("flush chain inet coracle forward");
        assert!(!is_stopped(&world, client, &to(1), &server, &to(1)));
        world.admit(&[network(1)]);
        assert!(is_stopped(&world, client, &to(1), &server, &to(1)));
        let text = host.nft("list set inet coracle unrouted");
        assert!(text.contains("type nf_proto . ifname") && text.contains("ipv4 . \"up1\""), "{text}");
        // And the last network.
        host.with(|| dismiss(&network(1))).unwrap();
        assert!(is_stopped(&world, client, &to(1), &server, &to(1)));
    });
}

#[test]
fn many_admit_at_once() {
    world(|world| {
        let World { host, .. } = &world;
        world.admit(&[network(1), network(2)]);
        let once = host.nft("list table inet coracle");
        assert_eq!(comments(&once).len(), 25, "{once}");
        for _ in 0..10 {
            host.nft("flush ruleset");
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let start = &start;
                    scope.spawn(move || {
                        enter(&host.0);
                        start.wait();
                        admit(&network(1 + thread % 2)).unwrap();
                        publish(&[publication(&format!("{}/tcp=10.90.1.2:80", 80 + thread))]).unwrap();
                    });
                }
            });
            let text = host.nft("list table inet coracle");
            assert_eq!(comments(&text), comments(&once));
            for bridge in ["coracle1", "coracle2"] {
                assert_eq!(
                    text.matches(&format!("\"{bridge}\"")).count(),
                    once.matches(&format!("\"{bridge}\"")).count()
                );
            }
            assert_eq!(host.with(publications).unwrap().len(), 8);
        }
    });
}

#[test]
fn networks_come_and_go_at_once() {
    world(|world| {
        let World { host, .. } = &world;
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let start = &start;
                scope.spawn(move || {
                    enter(&host.0);
                    let network = network(10 + thread);
                    ip(&format!("link add {} type bridge", network.bridge));
                    let ports = [publication(&format!("{}/tcp=10.90.{}.2:80", 80 + thread, 10 + thread))];
                    start.wait();
                    for _ in 0..8 {
                        admit(&network).unwrap();
                        publish(&ports).unwrap();
                        assert!(publications().unwrap().contains(&ports[0]));
                        unpublish(&ports).unwrap();
                        dismiss(&network).unwrap();
                    }
                });
            }
        });
        assert_eq!(host.nft("list ruleset"), "");
    });
}

#[test]
fn what_is_published_by_whom() {
    world(|world| {
        let host = &world.host;
        let on = |text: &str| publication(text);
        host.with(|| {
            assert_eq!(publications(), Ok(vec![]), "without a table");
            assert_eq!(unpublish(&[on("80/tcp=10.90.1.2:80")]), Ok(None));
            let error = publish(&[on("80/tcp=10.90.1.2:80")]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "publish 80/tcp: no such file or directory (there is no table inet coracle)"
            );
            admit(&network(1)).unwrap();
            let all = [
                on("80/tcp=10.90.1.2:80"),
                on("127.0.0.1:80/tcp=10.90.1.2:80"),
                on("80/udp=10.90.1.2:80"),
                on("80/udp=[fd90:1::2]:8080"),
                on("[::1]:443/tcp=[fd90:1::2]:80"),
            ];
            publish(&all).unwrap();
            assert_eq!(publications().unwrap(), all);
            // All or none.
            let taken =
                [on("81/tcp=10.90.1.3:81"), on("127.0.0.1:80/tcp=10.90.1.3:80"), on("80/tcp=10.90.1.3:80")];
            let error = publish(&taken).unwrap_err();
            assert_eq!(error.to_string(), "publish 127.0.0.1:80/tcp: file exists");
            assert_eq!(publish(&all[4..]).unwrap_err().to_string(), "publish [::1]:443/tcp: file exists");
            let twice = [on("82/tcp=10.90.1.3:81"), on("82/tcp=10.90.1.3:81")];
            assert_eq!(publish(&twice).unwrap_err().to_string(), "publish 82/tcp: file exists");
            for wrong in ["0/tcp=10.90.1.2:80", "80/tcp=10.90.1.2:0", "127.0.0.1:80/tcp=[fd90:1::2]:80"] {
                assert_eq!(publish(&[on(wrong)]).unwrap_err().errno, Errno::EINVAL, "{wrong}");
            }
            assert_eq!(publications().unwrap(), all);
            // What leads elsewhere is somebody else's.
            unpublish(&taken).unwrap();
            assert_eq!(publications().unwrap(), all);
            // Twice, and some of it not there.
            for _ in 0..2 {
                unpublish(&[on("9/tcp=10.90.1.2:80"), all[0], all[3]]).unwrap();
                assert_eq!(publications().unwrap(), [all[1], all[2], all[4]]);
            }
            // 0.0.0.0 is every address.
            publish(&[on("0.0.0.0:80/tcp=10.90.1.2:80")]).unwrap();
            assert_eq!(publications().unwrap()[0], all[0]);
        });
    });
}

#[test]
fn thousands_of_ports() {
    world(|world| {
        world.host.with(|| {
            admit(&network(1)).unwrap();
            let all: Vec<Publication> =
                (1000..6000).map(|port| publication(&format!("{port}/tcp=10.90.1.2:{port}"))).collect();
            publish(&all).unwrap();
            assert_eq!(publications().unwrap(), all);
            assert_eq!(publish(&all).unwrap_err().to_string(), "publish 1000/tcp: file exists");
            // Rebuilt with all of them.
            nft("flush chain inet coracle output");
            admit(&network(1)).unwrap();
            assert_eq!(publications().unwrap(), all);
            unpublish(&all).unwrap();
            assert_eq!(publications().unwrap(), []);
        });
    });
}

#[test]
fn an_unpublished_port_is_closed() {
    world(|world| {
        let World { client, neighbours: [one, _], host, .. } = &world;
        world.admit(&[network(1)]);
        world.publish(&["80/tcp=10.90.1.2:80"]);
        let server = one.tcp("0.0.0.0:80");
        talk(client, "192.0.2.2:80", &server);
        host.with(|| unpublish(&[publication("80/tcp=10.90.1.2:80")])).unwrap();
        assert_eq!(client.connect("192.0.2.2:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

const FOREIGN: &str = "
    table ip filter {
        chain FORWARD { type filter hook forward priority filter; policy accept; ip saddr 10.0.0.0/8 counter; }
        chain DOCKER { }
    }
    table ip nat {
        chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 masquerade; }
    }
    table inet firewalld {
        set blocked { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }
        chain filter_FORWARD { type filter hook forward priority filter + 10; ip saddr @blocked reject; }
    }
    table ip6 coracle {
        chain published { accept comment \"answers\"; }
    }";

#[test]
fn tables_of_others_stay_as_they_are() {
    world(|world| {
        let host = &world.host;
        let dump = || {
            let tables = ["ip filter", "ip nat", "inet firewalld", "ip6 coracle"];
            tables.map(|table| host.nft(&format!("list table {table}")))
        };
        host.nft(FOREIGN);
        let all = host.nft("list ruleset");
        let before = dump();
        world.admit(&[network(1), network(2)]);
        let ports = [publication("80/tcp=10.90.1.2:80")];
        host.with(|| publish(&ports)).unwrap();
        assert_eq!(dump(), before);
        host.nft("flush chain inet coracle forward");
        world.admit(&[network(1)]);
        assert_eq!(dump(), before);
        host.with(|| {
            unpublish(&ports).unwrap();
            dismiss(&network(1)).unwrap();
            assert_eq!(dump(), before);
            dismiss(&network(2)).unwrap();
        });
        assert_eq!(host.nft("list ruleset"), all);
    });
}

#[test]
fn chains_of_others_that_drop() {
    world(|world| {
        let host = &world.host;
        host.nft(FOREIGN);
        world.admit(&[network(1)]);
        assert_eq!(host.with(foreign_drops), Ok(vec![]));
        host.nft(
            "chain ip filter FORWARD { policy drop; }
             add table inet ours
             add chain inet ours forward { type filter hook forward priority 10; policy drop; }
             add chain inet ours input { type filter hook input priority 10; policy drop; }
             add table ip6 filter
             add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }",
        );
        let mut found = host.with(foreign_drops).unwrap();
        found.sort();
        assert_eq!(found, ["inet ours forward", "ip filter FORWARD", "ip6 filter FORWARD"]);
    });
}

#[test]
fn what_somebody_has_flushed_comes_back() {
    world(|world| {
        let World { client, host, neighbours: [one, _], .. } = &world;
        world.admit(&[network(1), network(2)]);
        world.publish(&["80/tcp=10.90.1.2:80"]);
        let before = host.nft("list table inet coracle");
        let server = one.tcp("0.0.0.0:80");
        for script in [
            "flush table inet coracle",
            "flush chain inet coracle published",
            "flush chain inet coracle guard; delete chain inet coracle guard",
        ] {
            host.nft(script);
            assert_ne!(host.nft("list table inet coracle"), before);
            world.admit(&[network(1)]);
            let after = host.nft("list table inet coracle");
            assert_eq!(comments(&after), comments(&before), "{script}");
            assert_eq!(
                after.matches("\"coracle2\"").count(),
                before.matches("\"coracle2\"").count(),
                "{after}"
            );
            talk(client, "192.0.2.2:80", &server);
        }
        // A rule of somebody's own in a chain of ours, as long as ours are there.
        host.nft("insert rule inet coracle forward counter comment \"mine\"");
        world.admit(&[network(1)]);
        assert!(host.nft("list table inet coracle").contains("mine"));
        // Nothing is left to know the ports from.
        host.nft("flush ruleset");
        world.admit(&[network(1)]);
        assert_eq!(comments(&host.nft("list table inet coracle")), comments(&before));
        assert_eq!(host.with(publications), Ok(vec![]));
        assert_eq!(talk(one, "192.0.2.1:80", &client.tcp("0.0.0.0:80")), "192.0.2.2");
    });
}

#[test]
fn a_network_goes_and_the_table_with_the_last() {
    world(|world| {
        let host = &world.host;
        host.with(|| {
            dismiss(&network(1)).unwrap();
            admit(&network(1)).unwrap();
            let one = nft("list table inet coracle");
            let isolated = Network { isolate: true, ..network(2) };
            admit(&isolated).unwrap();
            admit(&isolated).unwrap();
            let path = "/proc/sys/net/ipv4/conf/coracle2/route_localnet";
            publish(&[publication("80/tcp=10.90.2.2:80")]).unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "1\n");
            nft("flush map inet coracle ports4");
            // The flags are those of the table.
            dismiss(&network(2)).unwrap();
            assert_eq!(nft("list table inet coracle"), one);
            assert_eq!(fs::read_to_string(path).unwrap(), "0\n");
            dismiss(&network(2)).unwrap();
            assert_eq!(nft("list table inet coracle"), one);
            ip("link del coracle1");
            dismiss(&network(1)).unwrap();
            assert_eq!(nft("list ruleset"), "");
        });
    });
}

/// Its last owner may have gone without a word.
#[test]
fn a_network_that_has_changed() {
    world(|world| {
        world.host.with(|| {
            admit(&network(2)).unwrap();
            let before = network(1);
            let now = Network {
                subnets: vec![Range {
                    subnet: "10.90.0.0/16".parse().unwrap(),
                    gateway: address("10.90.0.1"),
                }],
                isolate: true,
                ..network(1)
            };
            for script in ["", "flush chain inet coracle forward"] {
                let list = |network: &Network| {
                    admit(network).unwrap();
                    NETWORK_SETS.map(|set| nft(&format!("list set inet coracle {set}")))
                };
                let first = list(&before);
                nft(script);
                let [_, _, isolated, _, behind4, behind6] = list(&now);
                assert!(
                    isolated.contains("\"coracle1\"") && behind4.contains("10.90.0.0/16"),
                    "{isolated}{behind4}"
                );
                assert!(
                    !behind4.contains("10.90.1.0") && !behind6.contains("coracle1"),
                    "{behind4}{behind6}"
                );
                nft(script);
                let last = list(&before);
                assert_eq!(
                    last.each_ref().map(|text| text.len()),
                    first.each_ref().map(|text| text.len()),
                    "{last:?}"
                );
            }
        });
    });
}

#[test]
fn a_bridge_that_is_none() {
    world(|world| {
        world.host.with(|| {
            for bridge in ["", "..", "all/../default", "sixteen-letters-"] {
                let error = admit(&Network { bridge: bridge.to_string(), ..network(1) }).unwrap_err();
                assert_eq!(error.to_string(), format!("bridge {bridge:?}: invalid argument"));
            }
            assert_eq!(nft("list ruleset"), "");
            // One that somebody has removed.
            admit(&network(9)).unwrap();
            let port = [publication("80/tcp=10.90.9.2:80")];
            publish(&port).unwrap();
            unpublish(&port).unwrap();
            dismiss(&network(9)).unwrap();
        });
    });
}

#[test]
fn why_it_did_not_work() {
    let rule = || Some(("rule \"x\"".to_string(), "nft_ct, nft_masq".to_string()));
    for (object, errno, says) in [
        (None, Errno::EPERM, "table inet coracle: operation not permitted (it takes CAP_NET_ADMIN"),
        (None, Errno::EOPNOTSUPP, "table inet coracle: operation not supported (the kernel needs nf_tables)"),
        (
            rule(),
            Errno::ENOENT,
            "table inet coracle: rule \"x\": no such file or directory (the kernel needs nft_ct, nft_masq)",
        ),
        (rule(), Errno::ENOMEM, "table inet coracle: rule \"x\": cannot allocate memory"),
    ] {
        let text = explain(Refused { object, errno }).to_string();
        assert!(text.starts_with(says), "{text}");
    }
}

#[test]
fn ranges_of_subnets() {
    for (text, last) in [
        ("10.1.2.0/24", "10.1.2.255"),
        ("10.1.2.128/26", "10.1.2.191"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("0.0.0.0/0", "255.255.255.255"),
        ("fd00::/61", "fd00::7:ffff:ffff:ffff:ffff"),
    ] {
        assert_eq!(last_of(&text.parse().unwrap()), bytes_of(address(last)), "{text}");
    }
}
