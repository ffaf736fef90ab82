// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns a container's connection to networks: --network, --publish and their companions, seen by packets.
//! Never touches the host's network: each case has a network namespace of its own, which plays the host, and makes others
//! that play the world outside. Expectations come from docs/networking.md.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use runtime_tests::netns::{carrier, here, ip, leave_hosts_network, links, outside, within};
use runtime_tests::{Bundle, Case, Container, Out, Test, json, oar_only, run_case};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// For an answer that comes; on a machine that is emulated too.
const PATIENCE: Duration = Duration::from_secs(30);
/// For an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);

fn case() -> Case {
    oar_only("others have no networks")
}

/// The case's thread, and what it starts, in a network namespace that plays the host. Nothing but the bridges is left there.
fn alone(body: impl FnOnce(&Test)) {
    run_case(case(), |t| {
        leave_hosts_network();
        body(t);
        t.delete_all();
        until_only(&[]);
    });
}

/// No container has a link but these. They go with the namespaces, a moment after the last process.
fn until_only(kept: &[String]) {
    let left = || links().into_iter().filter(|name| is_of_container(name) && !kept.contains(name)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<String> = left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "links of containers are left: {left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `oar` and twelve hexadecimal digits.
fn is_of_container(name: &str) -> bool {
    name.strip_prefix("oar")
        .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn namespace(c: &Container<'_>) -> File {
    File::open(format!("/proc/{}/ns/net", c.pid)).unwrap()
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    (address.into(), port).into()
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// Nobody listens when this is dropped. To close it is not enough: until it executes, a child that another thread has
/// started has the descriptor too, and the port is in use.
struct Listener(TcpListener);

impl Listener {
    fn bind(address: SocketAddr) -> Listener {
        Listener(TcpListener::bind(address).unwrap())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both).unwrap();
    }
}

/// A connection from `client`: who the server says it came from. Both ends have heard the other's word.
fn tcp(server: &File, bound: SocketAddr, client: &File, to: SocketAddr) -> IpAddr {
    let listener = within(server, || Listener::bind(bound));
    let mut near = within(client, || TcpStream::connect_timeout(&to, PATIENCE))
        .unwrap_or_else(|error| panic!("{to}: {error}"));
    let (mut far, from) = listener.0.accept().unwrap();
    let say = |from: &mut TcpStream, to: &mut TcpStream, word: &[u8; 4]| {
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        from.write_all(word).unwrap();
        let mut heard = [0; 4];
        to.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, word);
    };
    say(&mut near, &mut far, b"ping");
    say(&mut far, &mut near, b"pong");
    from.ip()
}

/// A wait with a limit is not taken up again by the kernel after an interruption (signal(7)).
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A datagram and its answer.
fn udp(server: &File, bound: SocketAddr, client: &File, to: SocketAddr) -> IpAddr {
    let far = within(server, || UdpSocket::bind(bound).unwrap());
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let near = within(client, || {
        let near = UdpSocket::bind(any).unwrap();
        near.connect(to).map(|()| near)
    });
    let near = near.unwrap_or_else(|error| panic!("{to}: {error}"));
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut heard = [0; 4];
    near.send(b"ping").unwrap();
    let (_, from) = receive(&far, &mut heard).unwrap();
    far.send_to(b"pong", from).unwrap();
    // Only of the address that was spoken to: the socket is connected.
    assert_eq!((receive(&near, &mut heard).unwrap().0, &heard), (4, b"pong"));
    from.ip()
}

/// Nobody answers, though somebody listens.
fn unreachable(server: &File, bound: SocketAddr, client: &File, to: SocketAddr) {
    let _listener = within(server, || Listener::bind(bound));
    let result = within(client, || TcpStream::connect_timeout(&to, SILENCE).map(drop));
    assert!(result.is_err(), "{to} was reached");
}

fn idle(t: &Test) -> Bundle {
    let mut b = t.bundle();
    b.sh("exec sleep 1000");
    b
}

fn connected<'t>(t: &'t Test, flags: &[&str]) -> Container<'t> {
    let c = t.create_with(&idle(t), flags);
    c.start();
    c
}

/// The address of an interface, as `state` has it.
fn address(c: &Container<'_>, interface: usize, family: usize) -> IpAddr {
    let state = c.state();
    let text = state["network"]["interfaces"][interface]["addresses"][family].as_str().unwrap().to_string();
    parse(text.split('/').next().unwrap())
}

fn network(t: &Test, words: &[&str]) {
    t.rt(&[&["network", "create"], words].concat()).run().ok();
}

#[test]
fn a_container_has_an_address_and_a_way_out() {
    alone(|t| {
        let mut b = t.bundle();
        b.set("/hostname", json!("web"));
        b.sh("ip -o link; ip -o addr; ip route; cat /etc/hosts /etc/resolv.conf; stat -c %a /etc/hosts; cat /sys/class/net/eth0/operstate");
        let flags = [
            "--network",
            "default",
            "--dns",
            "192.0.2.53",
            "--hostname-entry",
            "db:192.0.2.7",
            "--mac",
            "02:00:00:00:00:42",
        ];
        let out = t.run_with(&b, &flags).run();
        let text = out.ok();
        let inside = text.lines().find(|line| line.contains("eth0") && line.contains("inet ")).unwrap();
        let own = inside.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
        for wanted in [
            "lo: <LOOPBACK,UP",
            "02:00:00:00:00:42",
            "default via ",
            &format!("{own}\tweb"),
            "192.0.2.7\tdb",
            "nameserver 192.0.2.53",
            "644",
            "up",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    });
}

#[test]
fn containers_and_the_host_reach_each_other() {
    alone(|t| {
        let (a, b) = (connected(t, &["--network", "default"]), connected(t, &["--network", "default"]));
        let (at_a, at_b) = (address(&a, 0, 0), address(&b, 0, 0));
        assert_ne!(at_a, at_b);
        assert_eq!(tcp(&namespace(&b), at(at_b, 80), &namespace(&a), at(at_b, 80)), at_a);
        assert_eq!(udp(&namespace(&a), at(at_a, 53), &namespace(&b), at(at_a, 53)), at_b);
        // The host has the gateway's address.
        let route = within(&namespace(&a), || ip("route show default"));
        let gateway = parse(route.split_whitespace().nth(2).unwrap());
        assert_eq!(tcp(&here(), at(gateway, 80), &namespace(&a), at(gateway, 80)), at_a);
        assert_eq!(tcp(&namespace(&a), at(at_a, 80), &here(), at(at_a, 80)), gateway);
    });
}

#[test]
fn programs_of_two_containers_speak_by_address() {
    alone(|t| {
        let mut server = t.bundle();
        server.sh("echo hello > /tmp/index.html; exec httpd -f -h /tmp -p 80");
        let server = t.create_with(&server, &["--network", "default"]);
        server.start();
        let mut client = t.bundle();
        // The server may not listen yet: that is said at once, and by nobody else.
        client.sh(&format!(
            "for i in $(seq 300); do wget -q -O - http://{}/ && exit; sleep 0.1; done; exit 9",
            address(&server, 0, 0)
        ));
        assert_eq!(t.run_with(&client, &["--network", "default"]).run().ok(), "hello\n");
    });
}

#[test]
fn the_world_outside_sees_the_host() {
    alone(|t| {
        let outside = outside();
        network(t, &["six", "--ipv6"]);
        let c = connected(t, &["--network", "six"]);
        assert_eq!(
            tcp(&outside, "0.0.0.0:80".parse().unwrap(), &namespace(&c), "198.51.100.1:80".parse().unwrap()),
            parse("198.51.100.2")
        );
        assert_eq!(
            udp(&outside, "0.0.0.0:53".parse().unwrap(), &namespace(&c), "198.51.100.1:53".parse().unwrap()),
            parse("198.51.100.2")
        );
        assert_eq!(
            tcp(&outside, "[::]:80".parse().unwrap(), &namespace(&c), "[fd98::1]:80".parse().unwrap()),
            parse("fd98::2")
        );
    });
}

#[test]
fn published_ports_show_the_server_its_client() {
    alone(|t| {
        let outside = outside();
        network(t, &["six", "--ipv6"]);
        let c = connected(
            t,
            &[
                "--network",
                "six",
                "--publish",
                "8080:80",
                "--publish",
                "8053:53/udp",
                "-p",
                "127.0.0.1:9000:90",
            ],
        );
        let inside = namespace(&c);
        let any: [SocketAddr; 2] = ["[::]:80".parse().unwrap(), "[::]:53".parse().unwrap()];
        let canonical = |address: IpAddr| address.to_canonical();
        assert_eq!(
            canonical(tcp(&inside, any[0], &outside, "198.51.100.2:8080".parse().unwrap())),
            parse("198.51.100.1")
        );
        assert_eq!(
            canonical(udp(
                &inside,
                "0.0.0.0:53".parse().unwrap(),
                &outside,
                "198.51.100.2:8053".parse().unwrap()
            )),
            parse("198.51.100.1")
        );
        assert_eq!(tcp(&inside, any[0], &outside, "[fd98::2]:8080".parse().unwrap()), parse("fd98::1"));
        // From the host itself, by each of its addresses.
        tcp(&inside, any[0], &here(), "198.51.100.2:8080".parse().unwrap());
        tcp(&inside, any[0], &here(), "127.0.0.1:8080".parse().unwrap());
        tcp(&inside, "0.0.0.0:90".parse().unwrap(), &here(), "127.0.0.1:9000".parse().unwrap());
        unreachable(&inside, "0.0.0.0:90".parse().unwrap(), &outside, "198.51.100.2:9000".parse().unwrap());
        // From the container itself, and from a neighbour.
        tcp(&inside, any[0], &inside, "198.51.100.2:8080".parse().unwrap());
        let neighbour = connected(t, &["--network", "six"]);
        tcp(&inside, any[0], &namespace(&neighbour), "198.51.100.2:8080".parse().unwrap());
        // What is not published is not reached by a route to it.
        let at_c = address(&c, 0, 0);
        within(&outside, || ip(&format!("route add {at_c}/32 via 198.51.100.2")));
        unreachable(&inside, any[0], &outside, at(at_c, 80));
        t.rt(&["delete", "--force", &c.id]).run().ok();
        let gone =
            within(&outside, || TcpStream::connect_timeout(&"198.51.100.2:8080".parse().unwrap(), PATIENCE));
        assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// The host has to find the container for those outside, and is not to look for duplicates of its own address first.
#[test]
fn an_ipv6_port_is_reached_at_once() {
    alone(|t| {
        let outside = outside();
        std::fs::write("/proc/sys/net/ipv6/conf/default/dad_transmits", "1000").unwrap();
        network(t, &["six", "--ipv6"]);
        let c = connected(t, &["--network", "six", "--publish", "8080:80"]);
        let bound = "[::]:80".parse().unwrap();
        assert_eq!(tcp(&namespace(&c), bound, &outside, "[fd98::2]:8080".parse().unwrap()), parse("fd98::1"));
    });
}

#[test]
fn a_free_port_is_found_and_told() {
    alone(|t| {
        let c = connected(t, &["--network", "default", "--publish", "80", "--publish", "0:81/udp"]);
        let state = c.state();
        let ports = state["network"]["ports"].as_array().unwrap().clone();
        let numbers: Vec<(u64, &str)> = ports
            .iter()
            .map(|port| (port["port"].as_u64().unwrap(), port["protocol"].as_str().unwrap()))
            .collect();
        assert_eq!(numbers, [(80, "tcp"), (81, "udp")]);
        let free = ports[0]["hostPort"].as_u64().unwrap() as u16;
        assert!(free >= 1024, "{state}");
        tcp(&namespace(&c), "0.0.0.0:80".parse().unwrap(), &here(), at([127, 0, 0, 1], free));
    });
}

#[test]
fn a_port_that_is_taken_is_refused_before_anything_changes() {
    alone(|t| {
        let listener = Listener::bind("127.0.0.1:8080".parse().unwrap());
        let (id, create) = t.creation(&idle(t), &["--network", "default", "--publish", "8080:80"]);
        let pid = format!("pid {}", std::process::id());
        create.run().failed().clean_error().says("port 8080/tcp is in use by").says(&pid);
        t.rt(&["state", &id]).run().failed();
        drop(listener);
        let first = connected(t, &["--network", "default", "--publish", "8080:80"]);
        for (port, shown) in [("8080:80", "8080/tcp"), ("127.0.0.1:8080:81", "127.0.0.1:8080/tcp")] {
            let (_, create) = t.creation(&idle(t), &["--network", "default", "--publish", port]);
            let says = format!("port {shown} is in use by container {:?}", first.id);
            create.run().failed().clean_error().says(&says);
        }
        // Another protocol's is another one.
        connected(t, &["--network", "default", "--publish", "8080:80/udp"]);
    });
}

#[test]
fn networks_apart() {
    alone(|t| {
        let outside = outside();
        network(t, &["open", "--subnet", "10.77.1.0/24"]);
        network(t, &["apart", "--subnet", "10.77.2.0/24", "--isolate"]);
        network(t, &["inner", "--subnet", "10.77.3.0/24", "--internal"]);
        let [first, open, apart, inner] =
            ["default", "open", "apart", "inner"].map(|name| connected(t, &["--network", name]));
        let any: SocketAddr = "0.0.0.0:80".parse().unwrap();
        let to = |c: &Container<'_>| at(address(c, 0, 0), 80);
        tcp(&namespace(&open), any, &namespace(&first), to(&open));
        for (from, server) in [
            (&first, &apart),
            (&apart, &first),
            (&apart, &open),
            (&first, &inner),
            (&inner, &first),
            (&apart, &inner),
        ] {
            unreachable(&namespace(server), any, &namespace(from), to(server));
        }
        // Within one network they meet; the isolated one reaches the world, the internal one does not.
        let [apart2, inner2] = ["apart", "inner"].map(|name| connected(t, &["--network", name]));
        tcp(&namespace(&apart2), any, &namespace(&apart), to(&apart2));
        tcp(&namespace(&inner2), any, &namespace(&inner), to(&inner2));
        tcp(&outside, any, &namespace(&apart), "198.51.100.1:80".parse().unwrap());
        unreachable(&outside, any, &namespace(&inner), "198.51.100.1:80".parse().unwrap());
        let (_, create) = t.creation(&idle(t), &["--network", "inner", "--publish", "80"]);
        create.run().failed().clean_error().says("internal");
    });
}

#[test]
fn several_networks_and_wanted_addresses() {
    alone(|t| {
        network(t, &["a", "--subnet", "10.77.1.0/24", "--mtu", "1400"]);
        network(t, &["b", "--subnet", "10.77.2.0/24", "--gateway", "10.77.2.254", "--ipv6"]);
        let mut b = t.bundle();
        b.sh("ip -o link; ip -o addr; ip route");
        let flags = ["--network", "a", "--network", "b", "--ip", "10.77.2.9", "--ip", "10.77.1.200"];
        let out = t.run_with(&b, &flags).run();
        let text = out.ok();
        let line =
            |name: &str, word: &str| text.lines().any(|line| line.contains(name) && line.contains(word));
        assert!(line("eth0", "mtu 1400") && line("eth1", "mtu 1500"), "{text}");
        assert!(
            line("eth0", "10.77.1.200/24") && line("eth1", "10.77.2.9/24") && line("eth1", "inet6 fd"),
            "{text}"
        );
        assert_eq!(text.matches("default via").count(), 1, "{text}");
        assert!(text.contains("default via 10.77.1.1"), "{text}");
        let c = connected(t, &["--network", "a", "--ip", "10.77.1.200"]);
        for (flags, says) in [
            (&["--network", "a", "--ip", "10.77.1.200"][..], c.id.as_str()),
            (&["--network", "a", "--ip", "10.77.9.1"], "10.77.9.1"),
            (&["--network", "a", "--ip", "10.77.1.1"], "10.77.1.1"),
            (&["--network", "a", "--network", "none"], "stand alone"),
            (&["--network", "nosuch"], "nosuch"),
            (&["--publish", "80"], "--network"),
        ] {
            let (id, create) = t.creation(&idle(t), flags);
            create.run().failed().clean_error().says(says);
            t.rt(&["state", &id]).run().failed();
        }
    });
}

#[test]
fn host_none_and_joined_namespaces() {
    alone(|t| {
        ip("link add mark0 type bridge");
        let seen = |flags: &[&str]| {
            let mut b = t.bundle();
            b.sh("ip -o link | cut -d: -f2");
            let out = t.run_with(&b, flags).run();
            let names: Vec<String> =
                out.ok().split_whitespace().map(|name| name.split('@').next().unwrap().to_string()).collect();
            names
        };
        assert_eq!(seen(&["--network", "none"]), ["lo"]);
        assert_eq!(seen(&["--network", "host"]), links());
        let c = connected(t, &["--network", "default"]);
        let path = format!("ns:/proc/{}/ns/net", c.pid);
        assert_eq!(seen(&["--network", &path]), ["lo", "eth0"]);
        let (_, create) = t.creation(&idle(t), &["--network", "ns:/proc/self/ns/uts"]);
        create.run().failed().clean_error();
    });
}

#[test]
fn a_user_namespace_of_its_own() {
    alone(|t| {
        let mut b = idle(t);
        b.user_namespace();
        let c = t.create_with(&b, &["--network", "default"]);
        c.start();
        tcp(&namespace(&c), at(address(&c, 0, 0), 80), &here(), at(address(&c, 0, 0), 80));
        t.rt(&["exec", &c.id, "cat", "/etc/hosts", "/etc/resolv.conf"]).run().ok();
        let inside = t.rt(&["exec", &c.id, "ip", "-o", "addr"]).run();
        assert!(inside.ok().contains("eth0"), "{inside}");
    });
}

#[test]
fn within_a_users_own_namespaces() {
    alone(|t| {
        let mut b = idle(t);
        b.sh("ip -o addr show dev eth0");
        let run = t.run_with(&b, &["--network", "default"]);
        let out = run.wrap(&["unshare", "--user", "--map-root-user", "--net", "--mount"]).run();
        assert!(out.ok().contains("inet "), "{out}");
    });
}

#[test]
fn a_host_that_does_not_forward_begins_to_and_is_told() {
    alone(|t| {
        let forward = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(forward, "0").unwrap();
        let said = |out: &Out| out.stderr.matches("turned on net.ipv4.ip_forward").count();
        let mut b = t.bundle();
        b.sh("true");
        let out = t.run_with(&b, &["--network", "none"]).run();
        assert_eq!((said(&out), std::fs::read_to_string(forward).unwrap().trim()), (0, "0"), "{out}");
        for count in [1, 0] {
            let out = t.run_with(&b, &["--network", "default"]).run();
            out.ok();
            assert_eq!((said(&out), std::fs::read_to_string(forward).unwrap().trim()), (count, "1"), "{out}");
        }
    });
}

/// It does not begin to route between the links that it had before.
#[test]
fn a_host_that_forwards_for_containers_is_no_router() {
    alone(|t| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let outside = outside();
        let other = connected(t, &["--network", "none"]);
        ip(&format!("link add other type veth peer name eth0 netns {}", other.pid));
        ip("addr add 203.0.113.2/24 dev other");
        ip("link set other up");
        within(&namespace(&other), || {
            ip("addr add 203.0.113.1/24 dev eth0");
            ip("link set eth0 up");
            ip("route add default via 203.0.113.2");
        });
        within(&outside, || ip("route add 203.0.113.0/24 via 198.51.100.2"));
        let c = connected(t, &["--network", "default"]);
        let (any, there) = (at([0; 4], 80), at([203, 0, 113, 1], 80));
        for client in [&here(), &namespace(&c)] {
            tcp(&namespace(&other), any, client, there);
        }
        unreachable(&namespace(&other), any, &outside, there);
    });
}

#[test]
fn without_the_right_to_it_the_way_out_is_told() {
    alone(|t| {
        let run = t.run_with(&idle(t), &["--network", "default"]);
        let out = run.wrap(&["setpriv", "--bounding-set", "-net_admin"]).run();
        out.failed().clean_error().says("CAP_NET_ADMIN").says("--network none");
        assert_eq!(links(), ["lo"]);
    });
}

#[test]
fn it_is_there_before_hooks_and_settings() {
    alone(|t| {
        let seen = t.dir.join("seen");
        let hook = |name: &str| {
            let script = format!("ip -o addr show dev eth0 > {}.{name}", seen.display());
            let enter = format!("nsenter -t $(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/') -n sh -c '{script}'");
            let script = if name == "runtime" { enter } else { script };
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}])
        };
        for hooks in
            [json!({"createRuntime": hook("runtime")}), json!({"createContainer": hook("container")})]
        {
            let mut b = idle(t);
            b.set("/hooks", hooks).sh("true");
            t.run_with(&b, &["--network", "default"]).run().ok();
        }
        for name in ["runtime", "container"] {
            let text = std::fs::read_to_string(format!("{}.{name}", seen.display())).unwrap();
            assert!(text.contains("inet "), "{name}: {text}");
        }
        let mut b = t.bundle();
        b.set("/linux/sysctl", json!({"net.ipv4.conf.eth0.log_martians": "1"}));
        b.sh("cat /proc/sys/net/ipv4/conf/eth0/log_martians");
        assert_eq!(t.run_with(&b, &["--network", "default"]).run().ok(), "1\n");
    });
}

#[test]
fn files_of_its_etc() {
    alone(|t| {
        let mut b = t.bundle();
        b.set("/hostname", json!("a\n192.0.2.1 bank"));
        b.sh("cat /etc/hosts; echo x >> /etc/hosts; chmod 4755 /etc/hosts; true");
        let out = t.run_with(&b, &["--network", "default"]).run();
        assert!(!out.ok().contains("bank") && out.stdout.contains("localhost"), "{out}");
        assert_eq!(out.stderr.matches("Read-only file system").count(), 2, "{out}");
        // The config's own comes first, however its place is written.
        let own = t.dir.join("own");
        std::fs::write(&own, "own\n").unwrap();
        for destination in ["/etc/hosts/", "etc/hosts", "/etc/../etc/./hosts"] {
            let mut b = t.bundle();
            b.mount(destination, "bind", own.to_str().unwrap(), &["bind"]).sh("cat /etc/hosts");
            assert_eq!(t.run_with(&b, &["--network", "default"]).run().ok(), "own\n", "{destination}");
        }
    });
}

#[test]
fn a_container_that_may_change_the_hosts_devices_is_told_of() {
    alone(|t| {
        let said = |b: &Bundle, network: &str| {
            let out = t.run_with(b, &["--network", network]).run();
            out.ok();
            out.stderr.contains("network devices of the host")
        };
        let mut b = t.bundle();
        b.sh("true");
        assert!(!said(&b, "default"));
        b.set("/process/capabilities/bounding", json!(["CAP_NET_ADMIN"]));
        assert!(said(&b, "default") && !said(&b, "none"));
        b.user_namespace();
        assert!(!said(&b, "default"));
    });
}

#[test]
fn annotations_count_only_when_they_are_allowed() {
    alone(|t| {
        let mut b = t.bundle();
        b.set("/annotations", json!({"org.coracle.network": "default", "org.coracle.publish": "8080:80"}));
        b.sh("ip -o link | cut -d: -f2");
        assert!(!t.run_with(&b, &[]).run().ok().contains("eth0"));
        assert!(t.run_with(&b, &["--allow-annotations"]).run().ok().contains("eth0"));
        b.set("/annotations", json!({"org.coracle.publish": "8080:80/sctp"}));
        t.run_with(&b, &["--allow-annotations"]).run().failed().clean_error().says("org.coracle.publish");
    });
}

#[test]
fn a_plan_shows_it() {
    alone(|t| {
        let out = t.run_with(&idle(t), &["--network", "default", "--publish", "8080:80", "--dry-run"]).run();
        for line in ["connect eth0 to network default", "publish 8080:80/tcp on eth0", "/etc/resolv.conf"] {
            assert!(out.ok().contains(line), "{line}: {out}");
        }
        assert_eq!(links(), ["lo"]);
    });
}

#[test]
fn what_fails_leaves_nothing() {
    alone(|t| {
        connected(t, &["--network", "default"]);
        let (before, claims) = (links(), t.claims());
        let mut b = idle(t);
        b.set("/process/args", json!(["/nosuch"]));
        t.run_with(&b, &["--network", "default", "--publish", "8080:80"]).run().failed().says("nosuch");
        let mut b = idle(t);
        b.set("/hooks", json!({"createRuntime": [{"path": "/bin/false"}]}));
        let (_, create) = t.creation(&b, &["--network", "default", "--publish", "8080:80"]);
        create.run().failed();
        assert_eq!(t.claims(), claims);
        until_only(&before);
        // The port is free again.
        connected(t, &["--network", "default", "--publish", "8080:80"]);
    });
}

#[test]
fn two_hundred_containers_on_one_bridge() {
    alone(|t| {
        let b = idle(t);
        let containers: Vec<Container<'_>> =
            (0..200).map(|_| t.create_with(&b, &["--network", "default"])).collect();
        let addresses: std::collections::BTreeSet<IpAddr> =
            containers.iter().map(|c| address(c, 0, 0)).collect();
        assert_eq!(addresses.len(), 200);
        let (first, last) = (&containers[0], &containers[199]);
        tcp(&namespace(last), at(address(last, 0, 0), 80), &namespace(first), at(address(last, 0, 0), 80));
    });
}

/// A stopped container keeps its ports, but not its address: who has that next has published nothing.
#[test]
fn a_port_never_leads_to_who_has_the_address_next() {
    alone(|t| {
        network(t, &["web", "--subnet", "10.50.0.0/24"]);
        let at_seven = ["--network", "web", "--ip", "10.50.0.7"];
        let first = connected(t, &[&at_seven[..], &["--publish", "8080:80"]].concat());
        first.kill("KILL").ok();
        first.wait();
        // As long as its namespace is there, the address is its.
        until_only(&[]);
        let second = connected(t, &at_seven);
        unreachable(&namespace(&second), "0.0.0.0:80".parse().unwrap(), &here(), at([10, 50, 0, 1], 8080));
    });
}

/// Its claim is nobody's, and so is what the kernel still has of it.
#[test]
fn a_port_of_a_container_whose_record_is_lost_is_free() {
    alone(|t| {
        let publish = ["--network", "default", "--publish", "8080:80"];
        let lost = connected(t, &publish);
        lost.kill("KILL").ok();
        lost.wait();
        let (directory, aside) = (t.state_root().join(&lost.id), t.dir.join("lost"));
        std::fs::rename(&directory, &aside).unwrap();
        let next = connected(t, &publish);
        tcp(&namespace(&next), "0.0.0.0:80".parse().unwrap(), &here(), "127.0.0.1:8080".parse().unwrap());
        std::fs::rename(&aside, &directory).unwrap();
    });
}

/// Without its bridge, the host's end is a link between container and host: a router it must not become.
#[test]
fn a_host_without_the_bridge_takes_no_routers_from_containers() {
    alone(|t| {
        let c = connected(t, &["--network", "default"]);
        let end = c.state()["network"]["interfaces"][0]["hostName"].as_str().unwrap().to_string();
        let setting = |file: &str| std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap();
        assert_eq!(setting(&format!("ipv6/conf/{end}/accept_ra")).trim(), "0");
        assert!(!ip(&format!("-6 -o addr show dev {end}")).contains("inet6"));
    });
}

/// Packets with loopback addresses are let in from a bridge only while a port needs it: whoever flushes the rules opens
/// the host's loopback to nobody else.
#[test]
fn the_loopback_is_routed_while_a_port_is_published() {
    alone(|t| {
        let routed =
            || std::fs::read_to_string("/proc/sys/net/ipv4/conf/oar0/route_localnet").unwrap().trim() == "1";
        let _silent = connected(t, &["--network", "default"]);
        assert!(!routed());
        let c = connected(t, &["--network", "default", "--publish", "127.0.0.1:8080:80"]);
        assert!(routed());
        tcp(&namespace(&c), "0.0.0.0:80".parse().unwrap(), &here(), "127.0.0.1:8080".parse().unwrap());
        t.rt(&["delete", "--force", &c.id]).run().ok();
        assert!(!routed());
    });
}

/// The device that the config gives the container has the name of the network's.
#[test]
fn a_device_survives_a_create_that_is_refused() {
    alone(|t| {
        ip("link add given type veth peer name other");
        let mut b = idle(t);
        b.set("/linux/netDevices", json!({"given": {"name": "eth0"}}));
        t.run_with(&b, &["--network", "default"]).run().failed();
        assert!(links().contains(&"given".to_string()), "{:?}", links());
        // A template finds the next name.
        b.set("/linux/netDevices", json!({"given": {"name": "eth%d"}})).sh("ls /sys/class/net");
        let out = t.run_with(&b, &["--network", "default"]).run();
        assert!(out.ok().contains("eth0") && out.stdout.contains("eth1"), "{out}");
    });
}

#[test]
fn an_id_that_is_taken_is_refused_before_anything_changes() {
    alone(|t| {
        let b = idle(t);
        let c = t.create_with(&b, &[]);
        network(t, &["web"]);
        let dir = b.dir.to_str().unwrap();
        t.rt(&["create", "--bundle", dir, "--network", "web", &c.id]).run().failed();
        assert!(!links().contains(&"oar-web".to_string()), "{:?}", links());
    });
}

/// The namespace of a stopped container is another one's too: the address is in use there.
#[test]
fn an_address_is_not_given_twice_while_a_namespace_lives() {
    alone(|t| {
        let first = connected(t, &["--network", "default"]);
        let taken = address(&first, 0, 0);
        let shared = format!("ns:/proc/{}/ns/net", first.pid);
        let member = connected(t, &["--network", &shared]);
        first.kill("KILL").ok();
        first.wait();
        let wanted = taken.to_string();
        let (_, create) = t.creation(&idle(t), &["--network", "default", "--ip", &wanted]);
        create.run().failed();
        assert!(within(&namespace(&member), || ip("-o addr")).contains(&wanted));
    });
}

/// What one datagram after the other from the client's socket is, until one is heard: where it came from.
fn heard(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> Option<SocketAddr> {
    server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // That nobody was there is told with the next one.
        client.send_to(b"ping", to).ok();
        if let Ok((_, from)) = server.recv_from(&mut [0; 4]) {
            return Some(from);
        }
    }
    None
}

/// The kernel remembers where a client's first datagram went, for as long as the client goes on.
#[test]
fn a_client_that_goes_on_finds_each_container_in_turn() {
    alone(|t| {
        let outside = outside();
        network(t, &["six", "--ipv6"]);
        // From here on the kernel follows connections.
        let _other = connected(t, &["--network", "six"]);
        let clients = [
            (&outside, "198.51.100.1:4000", "198.51.100.2:8053"),
            (&outside, "[fd98::1]:4000", "[fd98::2]:8053"),
            (&here(), "127.0.0.1:4000", "127.0.0.1:8053"),
        ]
        .map(|(place, own, to)| {
            (within(place, || UdpSocket::bind(own).unwrap()), to.parse::<SocketAddr>().unwrap())
        });
        // To nobody: the host's own.
        for (client, to) in &clients {
            client.send_to(b"ping", to).unwrap();
        }
        let container = || connected(t, &["--network", "six", "--publish", "8053:53/udp"]);
        for round in 0..3 {
            let c = container();
            let servers = [0, 1].map(|family| {
                let own = at(address(&c, 0, family), 53);
                within(&namespace(&c), || UdpSocket::bind(own).unwrap())
            });
            for (client, to) in &clients {
                let server = &servers[usize::from(to.is_ipv6())];
                let from = heard(client, *to, server);
                let from = from.unwrap_or_else(|| panic!("container {round} hears nothing of {to}"));
                assert_eq!(from.port(), 4000, "{to}");
                // And the answer finds its way back.
                server.send_to(b"pong", from).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                // First it may be told of datagrams that found nobody.
                let mut answers = std::iter::repeat_with(|| client.recv_from(&mut [0; 4])).take(100);
                let answer = answers.find_map(|answer| match answer {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
                    other => Some(other.unwrap()),
                });
                assert_eq!(answer, Some((4, *to)));
            }
            t.rt(&["delete", "--force", &c.id]).run().ok();
            // Between two containers it goes on too.
            for (client, to) in &clients {
                client.send_to(b"ping", to).ok();
            }
        }
    });
}

/// One whose machine lost its power has told nobody, and comes again by the same port.
#[test]
fn a_connection_to_a_container_that_is_gone_is_in_nobodys_way() {
    alone(|t| {
        let outside = outside();
        let to: SocketAddr = "198.51.100.2:8080".parse().unwrap();
        let publish = ["--network", "default", "--publish", "8080:80"];
        let first = connected(t, &publish);
        let listener = within(&namespace(&first), || TcpListener::bind("0.0.0.0:80").unwrap());
        let near = within(&outside, || from_port(4000, to).unwrap());
        let (far, from) = listener.accept().unwrap();
        assert_eq!(from.port(), 4000);
        // Nothing that either end says arrives any more.
        within(&outside, || ip("link set up0 down"));
        for end in [&near, &far] {
            sockopt::set_socket_linger(end, Some(Duration::ZERO)).unwrap();
        }
        drop(near);
        t.rt(&["delete", "--force", &first.id]).run().ok();
        drop((far, listener));
        within(&outside, || ip("link set up0 up"));
        carrier("up1");
        let second = connected(t, &publish);
        let listener = within(&namespace(&second), || TcpListener::bind("0.0.0.0:80").unwrap());
        let _near = within(&outside, || from_port(4000, to).unwrap_or_else(|error| panic!("{to}: {error}")));
        assert_eq!(listener.accept().unwrap().1.port(), 4000);
    });
}

/// A connection from that port of every address.
fn from_port(port: u16, to: SocketAddr) -> rustix::io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &at([0; 4], port))?;
    // connect(2) heeds it.
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}
