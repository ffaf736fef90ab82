// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which port of the host: symbolic links in `@ports/` of the store, from `tcp-8080` or `tcp-192.0.2.1-8080` to a
//! container's id.
//!
//! Never keeps a socket: that a port is free on the host is tried once, when it is given. Names that differ may mean the
//! same port, so all is done under the directory's lock. As with addresses, claims are the store's; the host whose sockets
//! are tried is the caller's network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket,
    sockopt,
};

use crate::claims::{check_owner, make_claim, owner_of, unlink};
use crate::network::{Protocol, Publication};
use crate::store::{Kind, Result, Store, StoreError, lock, make_directory, names};

/// A port of the host, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortClaim {
    pub protocol: Protocol,
    pub port: u16,
    /// None: every address of both families; the unspecified one: every address of its family.
    pub host: Option<IpAddr>,
    pub owner: String,
}

impl PortClaim {
    fn name(&self) -> String {
        match self.host {
            Some(host) => format!("{}-{host}-{}", self.protocol, self.port),
            None => format!("{}-{}", self.protocol, self.port),
        }
    }

    fn parse(name: &str, owner: String) -> Option<PortClaim> {
        let (protocol, rest) = name.split_once('-')?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let (host, port) = match rest.rsplit_once('-') {
            Some((host, port)) => (Some(host.parse().ok()?), port),
            None => (None, rest),
        };
        Some(PortClaim { protocol, port: port.parse().ok()?, host, owner })
    }

    /// Is there a packet that both would want?
    fn conflicts(&self, other: &PortClaim) -> bool {
        (self.protocol, self.port) == (other.protocol, other.port)
            && match (self.host, other.host) {
                (Some(a), Some(b)) => meet(a, b),
                _ => true,
            }
    }

    /// As people write it: `192.0.2.1:8080/tcp`.
    fn shown(&self) -> String {
        match self.host {
            Some(host) => format!("{}/{}", SocketAddr::new(host, self.port), self.protocol),
            None => format!("{}/{}", self.port, self.protocol),
        }
    }
}

fn meet(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

impl Store {
    pub(crate) fn ports(&self) -> PathBuf {
        self.directory.join("@ports")
    }

    /// A port of the host for an owner: `wanted`, or one that is free. `host` None: on every address of both families.
    /// `published` is what the host's rules have: what leads into none of this store's networks is another store's.
    /// Errors: [`Kind::InUse`] when a container that is alive, or a process of the host, has it, with its name;
    /// [`Kind::Invalid`] for an address that is not the host's, and for port 0.
    pub fn claim_port(
        &self,
        owner: &str,
        protocol: Protocol,
        host: Option<IpAddr>,
        wanted: Option<u16>,
        published: &[Publication],
        alive: &dyn Fn(&str) -> bool,
    ) -> Result<u16> {
        check_owner(owner)?;
        if wanted == Some(0) {
            return Err(StoreError::new(Kind::Invalid, "port 0 cannot be published"));
        }
        let host = host.map(|host| host.to_canonical());
        let directory = self.ports();
        self.make()?;
        make_directory(&directory, false)?;
        let _lock = lock(&directory)?
            .ok_or_else(|| StoreError::new(Kind::NotFound, format!("{} was removed", directory.display())))?;
        let others = self.port_claims()?;
        let candidates = match wanted {
            Some(port) => vec![port],
            None => free_to_choose()?,
        };
        for port in candidates {
            let claim = PortClaim { protocol, port, host, owner: owner.into() };
            let conflicting: Vec<&PortClaim> =
                others.iter().filter(|other| other.conflicts(&claim)).collect();
            match conflicting.iter().find(|other| alive(&other.owner)) {
                Some(_) if wanted.is_none() => continue,
                Some(other) => {
                    let text = format!("port {} is in use by container {:?}", claim.shown(), other.owner);
                    return Err(StoreError::new(Kind::InUse, text));
                }
                None => {}
            }
            match self.of_another_store(&claim, published)? {
                Some(_) if wanted.is_none() => continue,
                Some(publication) => return Err(elsewhere(&claim, publication)),
                None => {}
            }
            match try_host(&claim) {
                Ok(()) => {}
                Err(Errno::EADDRINUSE) if wanted.is_none() => continue,
                Err(errno) => return Err(refused(&claim, errno)),
            }
            for dead in conflicting {
                unlink(&directory, &dead.name())?;
            }
            let name = claim.name();
            return match make_claim(&directory, &name, owner)? {
                Some(()) => Ok(port),
                None => Err(StoreError::new(Kind::System, format!("claim {name}: something else is there"))),
            };
        }
        Err(StoreError::new(Kind::InUse, format!("no {protocol} port of the host is free")))
    }

    fn of_another_store<'p>(
        &self,
        claim: &PortClaim,
        published: &'p [Publication],
    ) -> Result<Option<&'p Publication>> {
        let mut conflicting = published.iter().filter(|one| is_claimed_by(one, claim)).peekable();
        // Nearly always; and networks are files.
        if conflicting.peek().is_none() {
            return Ok(None);
        }
        let networks = self.networks()?;
        let ours = networks.iter().filter_map(|(_, network)| network.as_ref().ok());
        let is_ours = |address: IpAddr| {
            ours.clone().flat_map(|network| &network.subnets).any(|range| range.subnet.contains(address))
        };
        Ok(conflicting.find(|one| !is_ours(one.container)))
    }

    /// Every claim of a port, dead or alive, in order.
    pub fn port_claims(&self) -> Result<Vec<PortClaim>> {
        let directory = self.ports();
        let mut claims = Vec::new();
        for name in names(&directory)? {
            // What is not ours has no owner.
            let Ok(Some(owner)) = owner_of(&directory, &name) else { continue };
            claims.extend(PortClaim::parse(&name, owner));
        }
        claims.sort();
        Ok(claims)
    }
}

/// Would one of them take packets of the other?
fn is_claimed_by(published: &Publication, claim: &PortClaim) -> bool {
    let every = match published.container {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let Publication { protocol, host_port: port, host, .. } = *published;
    PortClaim { protocol, port, host: Some(host.unwrap_or(every)), owner: String::new() }.conflicts(claim)
}

fn elsewhere(claim: &PortClaim, publication: &Publication) -> StoreError {
    let Publication { host, host_port, protocol, container, .. } = publication;
    let text = format!("port {} is in use by a container of another state root ({container})", claim.shown());
    let family = if container.is_ipv4() { 4 } else { 6 };
    let element = match host {
        Some(host) => format!("addressed{family} {{ {host} . {protocol} . {host_port} }}"),
        None => format!("ports{family} {{ {protocol} . {host_port} }}"),
    };
    StoreError::new(Kind::InUse, text)
        .hint(format!("if that root is gone: `nft delete element inet coracle {element}`"))
}

/// Those that the kernel gives to whoever asks for none (ip(7), ip_local_port_range), from a random one on: somebody who
/// still knows a port of before is not to find another container there.
fn free_to_choose() -> Result<Vec<u16>> {
    let text = coracle_sys::fd::read_file("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let numbers: Vec<u16> =
        String::from_utf8_lossy(&text).split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let mut ports: Vec<u16> = match numbers.as_slice() {
        [first, last] if (1..=*last).contains(first) => (*first..=*last).collect(),
        // Where procfs does not show it: the kernel's own default.
        _ => (32768..=60999).collect(),
    };
    let mut bytes = [0; 4];
    coracle_sys::fd::random(&mut bytes)
        .map_err(|errno| StoreError::system("getrandom", Errno::from_raw(errno.0)))?;
    let begin = u32::from_ne_bytes(bytes) as usize % ports.len();
    ports.rotate_left(begin);
    Ok(ports)
}

/// Bind a socket, and let it go. Nobody can connect to it meanwhile.
fn try_host(claim: &PortClaim) -> nix::Result<()> {
    let Some(host) = claim.host else {
        try_address(claim.protocol, Ipv4Addr::UNSPECIFIED.into(), claim.port)?;
        return match try_address(claim.protocol, Ipv6Addr::UNSPECIFIED.into(), claim.port) {
            Err(Errno::EAFNOSUPPORT) => Ok(()),
            other => other,
        };
    };
    try_address(claim.protocol, host, claim.port)
}

fn try_address(protocol: Protocol, host: IpAddr, port: u16) -> nix::Result<()> {
    let family = if host.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    let socket: OwnedFd = socket(family, kind, SockFlag::SOCK_CLOEXEC, number)?;
    if protocol == Protocol::Tcp {
        // Connections that are over, in TIME-WAIT, are nobody's use of the port; those who listen are (socket(7)).
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    match SocketAddr::new(host, port) {
        SocketAddr::V4(address) => bind(socket.as_raw_fd(), &SockaddrIn::from(address)),
        SocketAddr::V6(address) => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(address))
        }
    }
}

fn refused(claim: &PortClaim, errno: Errno) -> StoreError {
    let port = claim.shown();
    match (errno, claim.host) {
        (Errno::EADDRINUSE, _) => {
            let whose =
                holder(claim).map(|(pid, name)| format!(" by {name} (pid {pid})")).unwrap_or_default();
            StoreError::new(Kind::InUse, format!("port {port} is in use{whose}"))
        }
        (Errno::EADDRNOTAVAIL, Some(host)) => {
            StoreError::new(Kind::Invalid, format!("port {port}: {host} is not an address of this host"))
        }
        (Errno::EACCES, _) => StoreError::system(format!("port {port}"), errno).hint(
            "the sysctl net.ipv4.ip_unprivileged_port_start says from where on ordinary users have ports",
        ),
        _ => StoreError::system(format!("port {port}"), errno),
    }
}

/// The process with a socket there, as far as the caller may see.
fn holder(claim: &PortClaim) -> Option<(i32, String)> {
    let tables = match claim.protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| coracle_sys::fd::read_file(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|text| inodes(&String::from_utf8_lossy(&text), claim))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let has_it = |descriptor: std::fs::DirEntry| {
            std::fs::read_link(descriptor.path())
                .is_ok_and(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
        };
        std::fs::read_dir(entry.path().join("fd")).ok()?.flatten().any(has_it).then_some(())?;
        let name = coracle_sys::fd::read_file(entry.path().join("comm")).ok()?;
        Some((pid, String::from_utf8_lossy(name.trim_ascii_end()).escape_debug().to_string()))
    })
}

/// Of the sockets in one of /proc/net's tables (proc_net(5)) that are in the way.
fn inodes(table: &str, claim: &PortClaim) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let socket = |line: &str| -> Option<u64> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let host = parse_address(address)?;
        let listens = claim.protocol == Protocol::Udp || *fields.get(3)? == LISTEN;
        // One of `::` may take IPv4 too.
        let there =
            claim.host.is_none_or(|wanted| meet(wanted, host) || host == IpAddr::from(Ipv6Addr::UNSPECIFIED));
        let is_it = listens && there && u16::from_str_radix(port, 16).ok()? == claim.port;
        is_it.then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().filter_map(socket).collect()
}

/// In hexadecimal, each 32 bits as the machine has them in memory.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a network namespace of its own, with 127.0.0.1, ::1 and 192.0.2.1.
    fn alone(test: impl FnOnce(&Store) + Send) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("@network"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                for args in [
                    "link set lo up",
                    "addr add 192.0.2.1/32 dev lo",
                    "addr add 2001:db8::1/128 nodad dev lo",
                ] {
                    assert!(
                        Command::new("ip").args(args.split(' ')).status().unwrap().success(),
                        "ip {args}"
                    );
                }
                test(&store);
            });
        });
    }

    fn everybody(_: &str) -> bool {
        true
    }

    fn claim(store: &Store, owner: &str, host: &str, port: u16) -> Result<u16> {
        let host = (!host.is_empty()).then(|| host.parse().unwrap());
        store.claim_port(owner, Protocol::Tcp, host, Some(port), &[], &everybody)
    }

    #[test]
    fn a_port_is_one_containers() {
        alone(|store| {
            // (who has it, who wants it, do they conflict)
            for (a, b, conflict) in [
                ("", "", true),
                ("", "192.0.2.1", true),
                ("192.0.2.1", "", true),
                ("", "::", true),
                ("2001:db8::1", "", true),
                ("0.0.0.0", "192.0.2.1", true),
                ("192.0.2.1", "0.0.0.0", true),
                ("::", "2001:db8::1", true),
                ("2001:db8::1", "::", true),
                ("192.0.2.1", "192.0.2.1", true),
                ("::ffff:192.0.2.1", "192.0.2.1", true),
                ("192.0.2.1", "127.0.0.1", false),
                ("0.0.0.0", "::", false),
                ("0.0.0.0", "2001:db8::1", false),
                ("192.0.2.1", "::", false),
            ] {
                assert_eq!(claim(store, "web", a, 8080), Ok(8080));
                let second = claim(store, "db", b, 8080);
                assert_eq!(second.is_err(), conflict, "{a} {b}");
                if let Err(error) = second {
                    let end = "8080/tcp is in use by container \"web\"";
                    assert_eq!(error.kind, Kind::InUse);
                    assert!(error.message.starts_with("port ") && error.message.ends_with(end), "{error}");
                }
                // Another port, and the same number of another protocol.
                assert_eq!(claim(store, "other", b, 8081), Ok(8081));
                let udp = store.claim_port("other", Protocol::Udp, None, Some(8080), &[], &everybody);
                assert_eq!(udp, Ok(8080));
                for owner in ["web", "db", "other"] {
                    store.release(owner).unwrap();
                }
                assert_eq!(store.port_claims(), Ok(vec![]));
            }
            assert_eq!(claim(store, "web", "", 0).unwrap_err().message, "port 0 cannot be published");
        });
    }

    #[test]
    fn what_the_dead_had_is_taken_over() {
        alone(|store| {
            // Two names that one claim takes the place of; and one that is left.
            for (owner, host) in [("dead", "192.0.2.1"), ("dead2", "2001:db8::1")] {
                claim(store, owner, host, 80).unwrap();
            }
            claim(store, "dead", "", 81).unwrap();
            let alive = |owner: &str| !owner.starts_with("dead");
            assert_eq!(store.claim_port("web", Protocol::Tcp, None, Some(80), &[], &alive), Ok(80));
            store.release("dead2").unwrap();
            let owners: Vec<(u16, String)> =
                store.port_claims().unwrap().into_iter().map(|claim| (claim.port, claim.owner)).collect();
            assert_eq!(owners, [(80, "web".to_string()), (81, "dead".to_string())]);
            assert_eq!(store.release_dead(&alive), Ok(1));
            assert_eq!(store.port_claims().unwrap().len(), 1);
        });
    }

    #[test]
    fn a_port_of_another_store_stays_there() {
        use crate::{NewNetwork, Occupied};
        alone(|store| {
            let subnets = vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
            let web = NewNetwork { name: "web".into(), subnets, ..NewNetwork::default() };
            store.create(&web, &Occupied::default()).unwrap();
            let try_beside = |published: &str, container: &str, wanted: &str| {
                let there = Publication {
                    host: (!published.is_empty()).then(|| published.parse().unwrap()),
                    host_port: 8080,
                    protocol: Protocol::Tcp,
                    container: container.parse().unwrap(),
                    port: 80,
                };
                let host = (!wanted.is_empty()).then(|| wanted.parse().unwrap());
                let claimed = store.claim_port("a", Protocol::Tcp, host, Some(8080), &[there], &everybody);
                store.release("a").unwrap();
                claimed
            };
            let (other, other6) = ("10.2.0.2", "fd00:2::2");
            for (published, container, wanted, conflict) in [
                ("", other, "", true),
                ("", other, "127.0.0.1", true),
                ("127.0.0.1", other, "", true),
                ("127.0.0.1", other, "0.0.0.0", true),
                ("127.0.0.1", other, "127.0.0.1", true),
                ("127.0.0.1", other, "192.0.2.1", false),
                ("", other, "::1", false),
                ("", other6, "::1", true),
                ("", other6, "", true),
                ("", other6, "127.0.0.1", false),
                // Left from one of ours: no claim says otherwise.
                ("", "10.1.0.2", "", false),
                ("127.0.0.1", "10.1.0.2", "127.0.0.1", false),
                ("", "fd00:1::2", "", false),
            ] {
                let claimed = try_beside(published, container, wanted);
                assert_eq!(claimed.is_err(), conflict, "{published} {container} {wanted}");
                if let Err(error) = claimed {
                    let says = format!(" is in use by a container of another state root ({container})");
                    assert!(error.kind == Kind::InUse && error.message.ends_with(&says), "{error}");
                }
            }
            let hint = |published| try_beside(published, other, "").unwrap_err().hint.unwrap();
            assert!(hint("").ends_with("coracle ports4 { tcp . 8080 }`"), "{}", hint(""));
            let one = "coracle addressed4 { 127.0.0.1 . tcp . 8080 }`";
            assert!(hint("127.0.0.1").ends_with(one), "{}", hint("127.0.0.1"));

            // Another protocol's is another one; and who wants any has another one.
            let published: Vec<Publication> = (40000..=40001)
                .map(|host_port| Publication {
                    host: None,
                    host_port,
                    protocol: Protocol::Tcp,
                    container: other.parse().unwrap(),
                    port: 80,
                })
                .collect();
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40002").unwrap();
            let any = |protocol, port| store.claim_port("a", protocol, None, port, &published, &everybody);
            assert_eq!(any(Protocol::Udp, Some(40000)), Ok(40000));
            assert_eq!(any(Protocol::Tcp, None), Ok(40002));
        });
    }

    /// Runs itself again, in a process without other tests: their children have a copy of each socket until they exec,
    /// and may be found first.
    #[test]
    fn a_process_that_has_the_port_is_named() {
        const ALONE: &str = "CORACLE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["ports::tests::a_process_that_has_the_port_is_named", "--exact"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        alone(|store| {
            let name = std::fs::read_to_string("/proc/self/comm").unwrap();
            let by = format!("in use by {} (pid {})", name.trim_end(), std::process::id());
            let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
            let _six = TcpListener::bind("[::1]:8081").unwrap();
            let _all = TcpListener::bind("[::]:8082").unwrap();
            let _datagrams = UdpSocket::bind("0.0.0.0:8083").unwrap();
            for (host, port, shown) in [
                ("", 8080, "port 8080/tcp is"),
                ("127.0.0.1", 8080, "port 127.0.0.1:8080/tcp is"),
                ("0.0.0.0", 8080, "port 0.0.0.0:8080/tcp is"),
                ("", 8081, "port 8081/tcp is"),
                ("::1", 8081, "port [::1]:8081/tcp is"),
                // A dual-stack socket.
                ("192.0.2.1", 8082, "port 192.0.2.1:8082/tcp is"),
            ] {
                let error = claim(store, "web", host, port).unwrap_err();
                assert_eq!((error.kind, error.message), (Kind::InUse, format!("{shown} {by}")));
            }
            let udp = store.claim_port("web", Protocol::Udp, None, Some(8083), &[], &everybody).unwrap_err();
            assert_eq!(udp.message, format!("port 8083/udp is {by}"));
            assert_eq!(store.port_claims(), Ok(vec![]));

            assert_eq!(claim(store, "web", "192.0.2.1", 8080), Ok(8080));
            assert_eq!(claim(store, "web", "::1", 8080), Ok(8080));
            assert_eq!(claim(store, "web", "", 8083), Ok(8083));
            drop(listener);
            assert_eq!(claim(store, "web", "127.0.0.1", 8080), Ok(8080));
            let error = claim(store, "web", "198.51.100.1", 80).unwrap_err();
            let says = "port 198.51.100.1:80/tcp: 198.51.100.1 is not an address of this host";
            assert_eq!((error.kind, &*error.message), (Kind::Invalid, says));
        });
    }

    #[test]
    fn a_free_port_is_chosen() {
        alone(|store| {
            // Eight ports, one of which is a socket's, and one another container's.
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40007").unwrap();
            let _listener = TcpListener::bind("[::1]:40003").unwrap();
            claim(store, "other", "192.0.2.1", 40005).unwrap();
            let any = |owner: &str, alive: &dyn Fn(&str) -> bool| {
                store.claim_port(owner, Protocol::Tcp, None, None, &[], alive)
            };
            let mut given: Vec<u16> =
                (0..6).map(|at| any(&format!("web{at}"), &everybody).unwrap()).collect();
            given.sort_unstable();
            assert_eq!(given, [40000, 40001, 40002, 40004, 40006, 40007]);
            let error = any("web", &everybody).unwrap_err();
            assert_eq!((error.kind, &*error.message), (Kind::InUse, "no tcp port of the host is free"));
            let given = any("web", &|owner| owner != "other").unwrap();
            assert_eq!(given, 40005);
        });
    }

    #[test]
    fn one_of_many_has_the_port() {
        alone(|store| {
            let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            let won: usize = std::thread::scope(|scope| {
                let claim = |at: usize| {
                    let namespace = &namespace;
                    scope.spawn(move || {
                        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                        let host = ["", "0.0.0.0", "192.0.2.1"][at % 3];
                        usize::from(claim(store, &format!("web{at}"), host, 80).is_ok())
                    })
                };
                let threads: Vec<_> = (0..16).map(claim).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(won, 1);
        });
    }

    #[test]
    fn addresses_of_proc_net() {
        for (text, address) in [
            ("0100007F", "127.0.0.1"),
            ("00000000", "0.0.0.0"),
            ("B80D0120000000000000000001000000", "2001:db8::1"),
            ("0000000000000000FFFF0000010200C0", "192.0.2.1"),
        ] {
            assert_eq!(parse_address(text), Some(address.parse().unwrap()), "{text}");
        }
        for text in ["", "0100007", "0100007G", "é100007F", &"0".repeat(31)] {
            assert_eq!(parse_address(text), None, "{text}");
        }
        for name in ["", "tcp", "tcp-", "tcp-x", "tcp-1.2.3-80", "sctp-80", "tcp-65536"] {
            assert_eq!(PortClaim::parse(name, "a".into()), None, "{name}");
        }
    }
}
