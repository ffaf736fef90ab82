// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets through a host's table: a client outside, the host, containers on two networks, each a network namespace that
//! the test makes. What must not arrive is followed by what does, on the same way to the same socket.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::network::Range;
use crate::tests::{current, enter, ip};

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

    fn set(&self, name: &str, value: &str) {
        self.with(|| fs::write(format!("/proc/sys/net/{name}"), value).unwrap());
    }

    fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.with(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    fn tcp(&self, address: &str) -> TcpListener {
        self.with(|| TcpListener::bind(address).unwrap())
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

/// `nft` in the network namespace of this thread, with a script.
fn nft(script: &str) -> String {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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
    }
}

/// 127.0.0.1:8080/tcp=10.90.1.2:80
fn publication(text: &str) -> Publication {
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
        plug(host, "up0", client);
        for (place, name, last) in [(client, "eth0", 1), (host, "up0", 2)] {
            place.ip(&format!("addr add 192.0.2.{last}/24 dev {name}"));
            place.ip(&format!("addr add 2001:db8::{last}/64 nodad dev {name}"));
        }
        client.ip("route add 10.90.0.0/16 via 192.0.2.2");
        client.ip("route add fd90::/16 via 2001:db8::2");
        for (number, places) in [(1, &[one, two][..]), (2, &[stranger])] {
            let bridge = format!("coracle{number}");
            host.ip(&format!("link add {bridge} type bridge"));
            host.ip(&format!("addr add 10.90.{number}.1/24 dev {bridge}"));
            host.ip(&format!("addr add fd90:{number}::1/64 nodad dev {bridge}"));
            host.ip(&format!("link set {bridge} up"));
            for (last, place) in (2..).zip(places) {
                let port = format!("port{number}-{last}");
                plug(host, &port, place);
                host.ip(&format!("link set {port} master {bridge}"));
                place.ip(&format!("addr add 10.90.{number}.{last}/24 dev eth0"));
                place.ip(&format!("addr add fd90:{number}::{last}/64 nodad dev eth0"));
                place.ip(&format!("route add default via 10.90.{number}.1"));
                place.ip(&format!("route add default via fd90:{number}::1"));
            }
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

fn plug(host: &Place, name: &str, place: &Place) {
    host.ip(&format!("link add {name} type veth peer name {name}x"));
    host.with(|| {
        // By descriptor: `ip` knows pids and names only, and this thread's file is not of its process.
        let here = current();
        let mut socket = Socket::open().unwrap();
        let index = socket.link(&format!("{name}x")).unwrap().index;
        socket.move_link(index, std::os::fd::AsFd::as_fd(&place.0), "eth0").unwrap();
        enter(&here);
    });
    place.ip("link set eth0 up");
    host.ip(&format!("link set {name} up"));
}

fn wait_for_carriers() {
    let started = Instant::now();
    while ip("-o link show up").lines().any(|line| !line.contains("LOOPBACK") && !line.contains("state UP")) {
        assert!(started.elapsed() < DEADLINE, "{}", ip("-o link"));
    }
}

/// In a thread: what it enters ends with it.
fn world(test: impl FnOnce(World) + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| test(World::new()));
    });
}

/// A connection with a word each way: whom the server sees.
fn talk(from: &Place, to: &str, server: &TcpListener) -> String {
    let mut client = from.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    let (mut served, peer) = server.accept().unwrap();
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
    let (_, peer) = server.recv_from(&mut word).unwrap_or_else(|error| panic!("{to}: {error}"));
    server.send_to(b"pong", peer).unwrap();
    client.recv(&mut word).unwrap_or_else(|error| panic!("answer of {to}: {error}"));
    assert_eq!(&word, b"pong");
    peer.ip().to_string()
}

#[test]
fn out_and_in() {
    world(|world| {
        let World { client, host, neighbours: [one, _], .. } = &world;
        world.admit(&[network(1)]);
        world.publish(&["8080/tcp=10.90.1.2:80", "53/udp=10.90.1.2:5353", "8080/tcp=[fd90:1::2]:80"]);
        println!("{}", host.nft("list ruleset"));
        assert_eq!(talk(one, "192.0.2.1:90", &client.tcp("0.0.0.0:90")), "192.0.2.2");
        assert_eq!(talk(one, "[2001:db8::1]:91", &client.tcp("[::]:91")), "2001:db8::2");
        assert_eq!(ask(one, "192.0.2.1:90", &client.udp("0.0.0.0:90")), "192.0.2.2");
        assert_eq!(talk(client, "192.0.2.2:8080", &one.tcp("0.0.0.0:80")), "192.0.2.1");
        assert_eq!(ask(client, "192.0.2.2:53", &one.udp("0.0.0.0:5353")), "192.0.2.1");
        assert_eq!(talk(client, "[2001:db8::2]:8080", &one.tcp("[::]:80")), "2001:db8::1");
    });
}
