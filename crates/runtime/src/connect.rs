// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container's network beside its config: `--network`, `--publish` and their companions, from words to links and back.
//!
//! What is wrong is said before anything changes. The claims of addresses and ports, and the names of the links, are in the
//! record before the links are made, so that delete takes back whatever was begun. How it is done is `coracle-net`'s.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use coracle_net::{Attaching, Endpoint, Forwarding, Network, Protocol, Publication, Store};
use coracle_plan::Interface;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Id;
use crate::error::{Code, Error, Result};
use crate::network::{self, is_alive, refused, store};
use crate::record::Directory;

/// Files of the container's directory that it sees as those of /etc.
const RESOLV_CONF: &str = "resolv.conf";
const HOSTS: &str = "hosts";

/// With `--allow-annotations`: comma-separated values of `--network` and `--publish`.
const NETWORK_ANNOTATION: &str = "org.coracle.network";
const PUBLISH_ANNOTATION: &str = "org.coracle.publish";

/// IFNAMSIZ without the NUL: `oar` and twelve hexadecimal digits.
const HOST_NAME_BYTES: usize = 6;

/// What a container's network is, beside the config. Without a choice the config decides alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// One of host, none and ns:PATH alone, or networks by name: eth0, eth1 ….
    pub networks: Vec<NetworkChoice>,
    pub publish: Vec<Publish>,
    /// Wanted ones, each in a subnet of one of the networks.
    pub addresses: Vec<IpAddr>,
    /// Of eth0.
    pub mac: Option<Mac>,
    /// Name servers in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Further lines of the container's /etc/hosts.
    pub host_entries: Vec<HostEntry>,
}

/// `--network`: `host`, `none`, `ns:PATH`, or a network's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChoice {
    Host,
    /// A new namespace with the loopback alone.
    None,
    Join(PathBuf),
    Named(String),
}

impl FromStr for NetworkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<NetworkChoice, String> {
        match text {
            "" => Err("a network needs a name".to_string()),
            "host" => Ok(NetworkChoice::Host),
            "none" => Ok(NetworkChoice::None),
            _ => match text.strip_prefix("ns:") {
                Some(path) if path.starts_with('/') => Ok(NetworkChoice::Join(path.into())),
                Some(path) => Err(format!("ns:PATH needs an absolute path: {path:?}")),
                None => Ok(NetworkChoice::Named(text.to_string())),
            },
        }
    }
}

/// `--publish`: `[IP:][HOSTPORT:]PORT[/tcp|udp]`, an IPv6 address in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// None: every address of the host.
    pub host: Option<IpAddr>,
    /// None: a free one.
    pub host_port: Option<u16>,
    pub port: u16,
    pub protocol: Protocol,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Publish, String> {
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(format!("{text:?}: {other:?} is neither tcp nor udp")),
        };
        let shape = || format!("{text:?} is not [IP:][HOSTPORT:]PORT[/tcp|udp]");
        let (rest, port) = match ports.rsplit_once(':') {
            Some((rest, port)) => (Some(rest), port),
            None => (None, ports),
        };
        let (host, host_port) = match rest.map(|rest| rest.rsplit_once(':')) {
            None => (None, ""),
            Some(None) => (None, rest.unwrap_or_default()),
            Some(Some((host, port))) => (Some(host), port),
        };
        let host = match host {
            None => None,
            Some(host) => {
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let address: IpAddr = bare.unwrap_or(host).parse().map_err(|_| shape())?;
                if address.is_ipv6() != bare.is_some() {
                    return Err(format!("{text:?}: an IPv6 address, and no other, is in brackets"));
                }
                (!address.is_unspecified()).then_some(address)
            }
        };
        // Rust reads a sign too.
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u16>().map_err(|_| shape()),
            false => Err(shape()),
        };
        let host_port =
            if host_port.is_empty() { None } else { Some(number(host_port)?).filter(|&port| port != 0) };
        match number(port)? {
            0 => Err(format!("{text:?}: a container's port is 1 to 65535")),
            port => Ok(Publish { host, host_port, port, protocol }),
        }
    }
}

impl std::fmt::Display for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host {
            Some(IpAddr::V6(host)) => write!(f, "[{host}]:")?,
            Some(host) => write!(f, "{host}:")?,
            None => {}
        }
        match self.host_port {
            Some(port) => write!(f, "{port}:")?,
            None if self.host.is_some() => f.write_char(':')?,
            None => {}
        }
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Six bytes, as `02:42:0a:58:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Mac, String> {
        let refused = || format!("{text:?} is not a MAC address such as 02:42:0a:58:00:02");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let part = parts.next().filter(is_byte).ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_some() {
            return Err(refused());
        }
        // The lowest bit of the first byte: a group (IEEE 802).
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(format!("{text:?} cannot be an interface's address: it is a group's, or zero"));
        }
        Ok(Mac(bytes))
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Mac, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// `--hostname-entry`: `NAME:IP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub name: String,
    pub address: IpAddr,
}

impl FromStr for HostEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<HostEntry, String> {
        let refused = || format!("{text:?} is not NAME:IP");
        let (name, address) = text.split_once(':').ok_or_else(refused)?;
        let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
        match bare.parse() {
            Ok(address) if is_host(name) => Ok(HostEntry { name: name.to_string(), address }),
            _ => Err(refused()),
        }
    }
}

/// A line of hosts(5) is split at blanks, and # begins a comment.
fn is_host(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
}

/// What a container has of networks of ours, as its record keeps it and `state` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    pub interfaces: Vec<Connected>,
    pub ports: Vec<Publication>,
    /// Of the network namespace in which the other ends are: st_ino of /proc/self/ns/net.
    pub namespace: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connected {
    /// In the container.
    pub name: String,
    pub network: String,
    /// Of the end outside.
    pub host_name: String,
    /// None: the kernel's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// `10.88.0.2/24`.
    pub addresses: Vec<String>,
}

impl NetworkOptions {
    /// With those of the annotations, if the caller follows them; what it says itself comes first.
    pub(crate) fn with_annotations(
        &self,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<NetworkOptions> {
        let mut options = self.clone();
        if options.networks.is_empty() {
            options.networks = words(annotations, NETWORK_ANNOTATION)?;
        }
        if options.publish.is_empty() {
            options.publish = words(annotations, PUBLISH_ANNOTATION)?;
        }
        Ok(options)
    }

    /// Names of networks of ours, in order; empty where there is none to connect to.
    fn named(&self) -> Vec<&str> {
        let named = self.networks.iter().filter_map(|choice| match choice {
            NetworkChoice::Named(name) => Some(name.as_str()),
            _ => None,
        });
        named.collect()
    }

    /// What contradicts itself. Needs nothing but the words.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::new(Code::Invalid, text));
        let named = self.named();
        if self.networks.len() > 1 && named.len() < self.networks.len() {
            return refuse("--network: host, none and ns:PATH stand alone".to_string());
        }
        if let Some(twice) = named.iter().enumerate().find(|(at, name)| named[..*at].contains(name)) {
            return refuse(format!("--network {}: given twice", twice.1));
        }
        if named.is_empty() {
            let idle = [
                ("--publish", !self.publish.is_empty()),
                ("--ip", !self.addresses.is_empty()),
                ("--mac", self.mac.is_some()),
                ("--dns", !self.dns.is_empty()),
                ("--hostname-entry", !self.host_entries.is_empty()),
            ];
            if let Some((flag, _)) = idle.iter().find(|(_, given)| *given) {
                return refuse(format!("{flag} needs --network with the name of a network"));
            }
        }
        let fixed = |publish: &Publish| publish.host_port.map(|port| (publish.protocol, port, publish.host));
        let ports: Vec<_> = self.publish.iter().filter_map(fixed).collect();
        for (at, (protocol, port, host)) in ports.iter().enumerate() {
            let collides = ports[..at].iter().any(|(other, number, address)| {
                other == protocol
                    && number == port
                    && (address.is_none() || host.is_none() || address == host)
            });
            if collides {
                return refuse(format!("--publish: port {port}/{protocol} of the host is given twice"));
            }
        }
        Ok(())
    }

    /// For the plan; the published ports belong to the first interface.
    pub(crate) fn interfaces(&self) -> Vec<Interface> {
        let interfaces = self.named().into_iter().enumerate().map(|(at, network)| Interface {
            name: format!("eth{at}"),
            network: network.to_string(),
            publish: match at {
                0 => self.publish.iter().map(Publish::to_string).collect(),
                _ => Vec::new(),
            },
        });
        interfaces.collect()
    }

    /// The document as if it had been written so: later commands go by its copy. `files` is the container's directory.
    pub(crate) fn rewrite(&self, document: &[u8], files: &Path) -> Result<Vec<u8>> {
        let failed =
            |error: serde_json::Error| Error::new(Code::System, format!("change the config: {error}"));
        let mut document: Value = serde_json::from_slice(document).map_err(failed)?;
        let namespaces = match document["linux"]["namespaces"].take() {
            Value::Array(namespaces) => namespaces,
            _ => Vec::new(),
        };
        let own = match self.networks.first() {
            None | Some(NetworkChoice::Host) => None,
            Some(NetworkChoice::Join(path)) => Some(json!({"type": "network", "path": path})),
            Some(NetworkChoice::None | NetworkChoice::Named(_)) => Some(json!({"type": "network"})),
        };
        let others = namespaces.into_iter().filter(|namespace| namespace["type"] != "network");
        document["linux"]["namespaces"] = others.chain(own).collect();
        if !self.named().is_empty() {
            let mut mounts = match document["mounts"].take() {
                Value::Array(mounts) => mounts,
                _ => Vec::new(),
            };
            let given: Vec<String> = mounts
                .iter()
                .filter_map(|mount| mount["destination"].as_str())
                .map(coracle_plan::clean)
                .collect();
            for name in [RESOLV_CONF, HOSTS] {
                let target = format!("/etc/{name}");
                // Whoever brings one knows better.
                if !given.contains(&target) {
                    let source = files.join(name);
                    mounts.push(
                        json!({"destination": target, "type": "bind", "source": source, "options": ["bind", "ro", "nosuid", "nodev", "noexec"]}),
                    );
                }
            }
            document["mounts"] = mounts.into();
        }
        serde_json::to_vec(&document).map_err(failed)
    }
}

fn words<T: FromStr<Err = String>>(
    annotations: Option<&HashMap<String, String>>,
    key: &str,
) -> Result<Vec<T>> {
    let value = annotations.and_then(|annotations| annotations.get(key));
    let words = value.into_iter().flat_map(|value| value.split(',')).map(|word| word.trim().parse());
    words
        .collect::<Result<_, String>>()
        .map_err(|why| Error::new(Code::Invalid, format!("annotations[{key:?}]: {why}")))
}

/// The networks of a container that is to be made, ready to be connected to.
pub(crate) struct Networks {
    store: Store,
    networks: Vec<Network>,
    pub(crate) warnings: Vec<String>,
}

impl Networks {
    /// The definitions, the bridges and the rules. A bridge stays when the container cannot be made: it is the network's.
    pub(crate) fn prepare(root: &Path, options: &NetworkOptions) -> Result<Option<Networks>> {
        let named = options.named();
        if named.is_empty() {
            return Ok(None);
        }
        let store = store(root);
        let mut networks = Vec::new();
        for name in named {
            networks.push(store.get(name, &|| Ok(coracle_net::occupied()?)).map_err(refused)?);
        }
        for address in &options.addresses {
            let mut subnets = networks.iter().flat_map(|network| &network.subnets);
            if !subnets.any(|range| range.subnet.contains(*address)) {
                let names: Vec<&str> = networks.iter().map(|network| network.name.as_str()).collect();
                let text = format!("--ip {address}: is not in a subnet of {}", names.join(", "));
                return Err(Error::new(Code::Invalid, text));
            }
        }
        if let (Some(network), Some(publish)) = (networks.first(), options.publish.first())
            && network.internal
        {
            let text = format!("--publish {publish}: network {} is internal", network.name);
            return Err(Error::new(Code::Invalid, text));
        }
        let mut warnings = Vec::new();
        for network in &networks {
            let made = coracle_net::raise_bridge(network).map_err(failed)?;
            coracle_net::admit(network).map_err(failed)?;
            if network.internal {
                continue;
            }
            warnings.extend(forward(network)?);
            if made {
                let drops = coracle_net::foreign_drops().map_err(failed)?;
                warnings.extend(drops.iter().map(|chain| {
                    format!(
                        "network {}: {chain} drops what nobody there accepts: its owner must let {} pass",
                        network.name, network.bridge
                    )
                }));
            }
        }
        Ok(Some(Networks { store, networks, warnings }))
    }

    /// Addresses and ports of the container's own, from now until [`remove`].
    pub(crate) fn claim(&self, root: &Path, owner: &str, options: &NetworkOptions) -> Result<Connection> {
        let mut wanted: Vec<IpAddr> = options.addresses.clone();
        let mut interfaces = Vec::new();
        let mut first = Vec::new();
        for (at, network) in self.networks.iter().enumerate() {
            let of_this =
                |address: &IpAddr| network.subnets.iter().any(|range| range.subnet.contains(*address));
            let (here, elsewhere) = wanted.into_iter().partition::<Vec<_>, _>(of_this);
            wanted = elsewhere;
            let alive = |owner: &str| is_alive(root, owner);
            let addresses = self.store.claim(network, owner, &here, &alive);
            let addresses = addresses
                .map_err(|error| refused(crate::network::not_claimed(&self.store, network, error)))?;
            interfaces.push(Connected {
                name: format!("eth{at}"),
                network: network.name.clone(),
                host_name: host_name()?,
                mac: options.mac.filter(|_| at == 0),
                addresses: addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect(),
            });
            if at == 0 {
                first = addresses;
            }
        }
        let mut ports = Vec::new();
        let published = match options.publish.as_slice() {
            [] => Vec::new(),
            _ => coracle_net::publications().map_err(failed)?,
        };
        for publish in &options.publish {
            let Publish { host, host_port, port, protocol } = *publish;
            let exists = |owner: &str| has_directory(root, owner);
            let host_port = self
                .store
                .claim_port(owner, protocol, host, host_port, &published, &exists)
                .map_err(refused)?;
            let same_family =
                |address: &&(IpAddr, u8)| host.is_none_or(|host| host.is_ipv4() == address.0.is_ipv4());
            let before = ports.len();
            ports.extend(first.iter().filter(same_family).map(|&(container, _)| Publication {
                host,
                host_port,
                protocol,
                container,
                port,
            }));
            if ports.len() == before {
                let text = format!("--publish {publish}: the container has no address of that family");
                return Err(Error::new(Code::Invalid, text));
            }
        }
        Ok(Connection { interfaces, ports, namespace: own_namespace()? })
    }

    /// Begin to make the links. `pid` is of a process in the container's network namespace, which has enough to do meanwhile.
    pub(crate) fn begin(&self, connection: &Connection, pid: i32) -> Result<Connecting> {
        let path = format!("/proc/{pid}/ns/net");
        let namespace = File::open(&path).map_err(|error| Error::io(path, &error))?;
        let mut endpoints = Vec::new();
        let mut routed = [false; 2];
        for (connected, network) in connection.interfaces.iter().zip(&self.networks) {
            let gateways = network.subnets.iter().map(|range| range.gateway).filter(|gateway| {
                // One default route for each family: of the first network that leads anywhere.
                !network.internal && !std::mem::replace(&mut routed[usize::from(gateway.is_ipv6())], true)
            });
            endpoints.push(Endpoint {
                name: connected.name.clone(),
                host_name: connected.host_name.clone(),
                mac: connected.mac.map(|mac| mac.0),
                addresses: connected.addresses.iter().filter_map(|text| address(text)).collect(),
                gateways: gateways.collect(),
                mtu: network.mtu,
                bridge: network.bridge.clone(),
            });
        }
        let links = coracle_net::begin_attach(endpoints, namespace.into()).map_err(failed)?;
        // The claims say that nobody else is there: not at these addresses, not at these ports of the host. What the rules
        // still have of one who was must not lead here.
        let addresses = connection.interfaces.iter().flat_map(|interface| &interface.addresses);
        let addresses: Vec<IpAddr> = addresses.filter_map(|text| address(text)).map(|(at, _)| at).collect();
        let port = |port: &Publication| (port.host, port.host_port, port.protocol, port.container.is_ipv6());
        let mut stale = coracle_net::publications().map_err(failed)?;
        stale.retain(|there| {
            addresses.contains(&there.container)
                || connection.ports.iter().any(|ours| port(ours) == port(there))
        });
        let warning = coracle_net::unpublish(&stale).map_err(failed)?;
        Ok(Connecting { links, ports: connection.ports.clone(), warning })
    }
}

/// Links that are being made, and the ports that will lead to them.
#[derive(Debug)]
pub(crate) struct Connecting {
    links: Attaching,
    ports: Vec<Publication>,
    warning: Option<String>,
}

impl Connecting {
    /// A warning, when there is one.
    pub(crate) fn finish(self) -> Result<Option<String>> {
        self.links.wait().map_err(failed)?;
        let warning = coracle_net::publish(&self.ports).map_err(failed)?;
        Ok(self.warning.or(warning))
    }
}

fn failed(error: coracle_net::Error) -> Error {
    let text = Error::new(Code::Network, error.to_string());
    match error.errno {
        nix::errno::Errno::EPERM => text.hint(
            "without root: in a user and network namespace of one's own (`unshare --user --map-root-user --net`), or \
             --network none or host",
        ),
        _ => text,
    }
}

/// Whoever is connected wants to reach what is behind the host, so the host forwards; that is told.
fn forward(network: &Network) -> Result<Option<String>> {
    let before = coracle_net::forwarding().map_err(failed)?;
    let needs = |v6: bool| network.subnets.iter().any(|range| range.gateway.is_ipv6() == v6);
    let wanted = Forwarding { v4: needs(false) && !before.v4, v6: needs(true) && !before.v6 };
    if wanted == Forwarding::default() {
        return Ok(None);
    }
    coracle_net::bar_transit(wanted).map_err(failed)?;
    coracle_net::set_forwarding(wanted).map_err(failed)?;
    let families: Vec<&str> =
        [(wanted.v4, "net.ipv4.ip_forward"), (wanted.v6, "net.ipv6.conf.all.forwarding")]
            .into_iter()
            .filter_map(|(on, name)| on.then_some(name))
            .collect();
    Ok(Some(format!("network {}: turned on {} of the host", network.name, families.join(" and "))))
}

/// `10.88.0.2/24`, as the record has it.
fn address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

/// Nobody else's: that no other link has it is in its 48 random bits.
fn host_name() -> Result<String> {
    let mut bytes = [0; HOST_NAME_BYTES];
    File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| Error::io("read /dev/urandom", &error))?;
    Ok(bytes.iter().fold("oar".to_string(), |name, byte| format!("{name}{byte:02x}")))
}

/// The network namespace of this thread, by its inode.
fn own_namespace() -> Result<u64> {
    let path = "/proc/thread-self/ns/net";
    std::fs::metadata(path).map(|metadata| metadata.ino()).map_err(|error| Error::io(path, &error))
}

impl Connection {
    /// What the container sees in its /etc, into its directory.
    pub(crate) fn write_files(
        &self,
        directory: &Directory,
        options: &NetworkOptions,
        hostname: &str,
    ) -> Result<Option<String>> {
        let (resolv_conf, warning) = resolv_conf(&options.dns)?;
        for (name, text) in [(RESOLV_CONF, resolv_conf), (HOSTS, self.hosts(options, hostname))] {
            let failed = |error: std::io::Error| Error::io(format!("write {name}"), &error);
            let mut open = File::options();
            // Everybody in the container may read it, whatever the caller's umask is.
            let file = open.write(true).create_new(true).mode(0o644).open(directory.member(name));
            let mut file = file.map_err(failed)?;
            std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
            nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(0o644))
                .map_err(|errno| Error::system(format!("chmod {name}"), errno))?;
        }
        Ok(warning)
    }

    /// hosts(5).
    fn hosts(&self, options: &NetworkOptions, hostname: &str) -> String {
        let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_string();
        let own = self.interfaces.first().into_iter().flat_map(|interface| &interface.addresses);
        // A hostname may hold anything.
        if is_host(hostname) {
            for (address, _) in own.filter_map(|text| address(text)) {
                text.push_str(&format!("{address}\t{hostname}\n"));
            }
        }
        for HostEntry { name, address } in &options.host_entries {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        text
    }

    /// Take back what [`Connecting`] did, as far as it did it; a warning when that is out of reach. Can be repeated.
    fn disconnect(&self) -> Result<Option<String>> {
        // What has its names in another namespace is somebody else's.
        if self.namespace != own_namespace()? {
            let text = format!(
                "the container was connected in another network namespace ({}): its ports are published there until that ends",
                self.namespace
            );
            return Ok(Some(text).filter(|_| !self.ports.is_empty()));
        }
        let names: Vec<String> =
            self.interfaces.iter().map(|interface| interface.host_name.clone()).collect();
        coracle_net::detach(&names).map_err(failed)?;
        // After the link: an answer that still came by it would be a flow of its own, at the same port of the host.
        coracle_net::unpublish(&self.ports).map_err(failed)
    }
}

/// resolv.conf(5): the host's, without name servers that only the host itself reaches.
fn resolv_conf(servers: &[IpAddr]) -> Result<(String, Option<String>)> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io(format!("read {path}"), &error)),
    };
    let mut host = read("/etc/resolv.conf")?;
    if !servers.is_empty() {
        let (others, _) = without_servers(&host, &|_| true);
        let servers = servers.iter().map(|server| format!("nameserver {server}\n"));
        return Ok((servers.collect::<String>() + &others, None));
    }
    let is_hosts = |server: IpAddr| server.is_loopback() || server.is_unspecified();
    let (mut text, mut left) = without_servers(&host, &is_hosts);
    if left == 0 {
        // systemd-resolved(8): those behind the one on the loopback.
        host = read("/run/systemd/resolve/resolv.conf")?;
        (text, left) = match without_servers(&host, &is_hosts) {
            (_, 0) => (text, 0),
            other => other,
        };
    }
    let warning = (left == 0)
        .then(|| "the host has no name server that a container reaches: --dns gives one".to_string());
    Ok((text, warning))
}

/// The lines but those of such servers, and how many servers are left.
fn without_servers(text: &str, unwanted: &dyn Fn(IpAddr) -> bool) -> (String, usize) {
    let (mut kept, mut servers) = (String::new(), 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") {
            // A scope (`fe80::1%eth0`) is one of the host's links.
            match words.next().map(str::parse) {
                Some(Ok(server)) if !unwanted(server) => servers += 1,
                _ => continue,
            }
        }
        kept.push_str(line);
        kept.push('\n');
    }
    (kept, servers)
}

/// Take back a container's network: its links, rules and claims. Claims may be there before a record says so. Can be
/// repeated. What comes back is a warning.
pub(crate) fn remove(root: &Path, id: &str, connection: Option<&Connection>) -> Result<Option<String>> {
    let warning = connection.map(Connection::disconnect).transpose()?.flatten();
    if root.join(network::DIRECTORY).exists() {
        store(root).release(id).map_err(refused)?;
    }
    Ok(warning)
}

/// A port is the container's until it is deleted.
fn has_directory(root: &Path, id: &str) -> bool {
    Id::new(id).is_ok_and(|id| root.join(id.as_str()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_they_are_typed() {
        let publish = |text: &str| text.parse::<Publish>();
        for (text, host, host_port, port, protocol) in [
            ("80", None, None, 80, Protocol::Tcp),
            ("8080:80", None, Some(8080), 80, Protocol::Tcp),
            ("0:80/tcp", None, None, 80, Protocol::Tcp),
            ("53:53/udp", None, Some(53), 53, Protocol::Udp),
            ("127.0.0.1:8080:80", Some("127.0.0.1"), Some(8080), 80, Protocol::Tcp),
            ("127.0.0.1::80", Some("127.0.0.1"), None, 80, Protocol::Tcp),
            ("0.0.0.0:8080:80", None, Some(8080), 80, Protocol::Tcp),
            ("[fd00::1]:8080:80/udp", Some("fd00::1"), Some(8080), 80, Protocol::Udp),
        ] {
            let host = host.map(|host| host.parse().unwrap());
            let expected = Publish { host, host_port, port, protocol };
            assert_eq!(publish(text), Ok(expected), "{text}");
            assert_eq!(publish(&expected.to_string()), Ok(expected), "{expected}");
        }
        for (text, says) in [
            ("", "is not [IP:]"),
            ("80/sctp", "neither tcp nor udp"),
            ("80/", "neither tcp nor udp"),
            ("0", "1 to 65535"),
            ("8080:0", "1 to 65535"),
            ("65536", "is not [IP:]"),
            ("+80", "is not [IP:]"),
            ("a:80", "is not [IP:]"),
            ("1:2:3", "is not [IP:]"),
            ("fd00::1:8080:80", "is in brackets"),
            ("[127.0.0.1]:8080:80", "is in brackets"),
            ("localhost:8080:80", "is not [IP:]"),
        ] {
            let error = publish(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_of_interfaces() {
        let mac: Mac = "02:42:0a:58:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:0a:58:00:ff");
        for text in [
            "",
            "02:42:0a:58:00",
            "02:42:0a:58:00:01:02",
            "2:42:a:58:0:2",
            "0g:00:00:00:00:00",
            "+2:42:0a:58:00:02",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(text.parse::<Mac>().unwrap_err().contains("a group's, or zero"), "{text}");
        }
    }

    #[test]
    fn entries_of_hosts() {
        let entry = |text: &str| text.parse::<HostEntry>();
        assert_eq!(entry("db:10.0.0.5").unwrap().address, "10.0.0.5".parse::<IpAddr>().unwrap());
        assert_eq!(entry("db:fd00::5").unwrap().address, "fd00::5".parse::<IpAddr>().unwrap());
        assert_eq!(entry("db:[fd00::5]").unwrap().address, "fd00::5".parse::<IpAddr>().unwrap());
        for text in ["", "db", "db:", ":10.0.0.5", "a b:10.0.0.5", "a#:10.0.0.5", "a\n:10.0.0.5", "db:x"] {
            assert!(entry(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn words_that_contradict_each_other() {
        let parse = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect::<Vec<_>>();
        let networks =
            |words: &[&str]| NetworkOptions { networks: parse(words), ..NetworkOptions::default() };
        for good in [&["host"][..], &["none"], &["ns:/run/netns/a"], &["default"], &["a", "b"], &[]] {
            assert_eq!(networks(good).check(), Ok(()), "{good:?}");
        }
        for bad in [&["host", "a"][..], &["a", "none"], &["ns:/a", "ns:/b"], &["a", "a"]] {
            assert!(networks(bad).check().is_err(), "{bad:?}");
        }
        let publish = |network: &[&str], ports: &[&str]| NetworkOptions {
            publish: ports.iter().map(|port| port.parse().unwrap()).collect(),
            ..networks(network)
        };
        assert_eq!(
            publish(&["a"], &["80:80", "80:80/udp", "127.0.0.1:81:80", "127.0.0.2:81:80", "80", "80"])
                .check(),
            Ok(())
        );
        for (network, ports) in [
            (&["a"], &["80:80", "80:81"]),
            (&["a"], &["127.0.0.1:80:80", "80:81"]),
            (&["host"], &["1:1", "2:2"]),
        ] {
            assert!(publish(network, ports).check().is_err(), "{network:?} {ports:?}");
        }
    }

    #[test]
    fn the_document_says_what_was_asked_for() {
        let document = br#"{"linux":{"namespaces":[{"type":"network","path":"/x"},{"type":"pid"}]},"mounts":[{"destination":"/etc/hosts"}]}"#;
        let changed = |words: &[&str]| {
            let networks = words.iter().map(|word| word.parse().unwrap()).collect();
            let options = NetworkOptions { networks, ..NetworkOptions::default() };
            let changed = options.rewrite(document, Path::new("/run/oar/web")).unwrap();
            serde_json::from_slice::<Value>(&changed).unwrap()
        };
        assert_eq!(changed(&["host"])["linux"]["namespaces"], json!([{"type": "pid"}]));
        assert_eq!(changed(&["none"])["linux"]["namespaces"], json!([{"type": "pid"}, {"type": "network"}]));
        assert_eq!(changed(&["ns:/n"])["linux"]["namespaces"][1], json!({"type": "network", "path": "/n"}));
        let named = changed(&["default"]);
        assert_eq!(named["linux"]["namespaces"][1], json!({"type": "network"}));
        let targets: Vec<&str> = named["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect();
        assert_eq!(targets, ["/etc/hosts", "/etc/resolv.conf"]);
        assert_eq!(named["mounts"][1]["source"], "/run/oar/web/resolv.conf");
    }

    #[test]
    fn name_servers_that_only_the_host_reaches_are_left_out() {
        let text = "# c\nnameserver 127.0.0.53\nsearch a.example\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\noptions ndots:2\n";
        let loopback = |server: IpAddr| server.is_loopback();
        let (kept, servers) = without_servers(text, &loopback);
        assert_eq!(
            (kept.as_str(), servers),
            ("# c\nsearch a.example\nnameserver 10.0.0.1\noptions ndots:2\n", 1)
        );
        let (kept, servers) = without_servers(text, &|_| true);
        assert_eq!((kept.as_str(), servers), ("# c\nsearch a.example\noptions ndots:2\n", 0));
    }
}
