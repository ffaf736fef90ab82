// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which networks there are: one file for each, `NAME.json`, in a directory of the caller's state.
//!
//! Never asks the kernel about links or routes: what the host has comes as an argument, and what a network has there is
//! taken down by the caller. Definitions come from the command line and go to `attach` and `nft`.
//!
//! Locks, both by flock(2): the store's directory, by whoever makes or removes a network; and in it a network's, by
//! whoever takes claims away (`claims`). In this order.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};

use crate::bridge::{Occupied, alias};
use crate::network::{Network, Range, Subnet};

/// The network that need not be created.
pub const DEFAULT: &str = "default";
const DEFAULT_BRIDGE: &str = "oar0";

const FORMAT: u32 = 1;
/// Bytes; a definition has some hundreds.
const LARGEST: u64 = 64 << 10;
/// Half a definition, until it is linked to its name. No network can be called so.
const DRAFT: &str = "@new";
const SUFFIX: &str = ".json";

/// Where subnets are chosen, the first free /24. Left out: what Docker, Podman and Kubernetes take for themselves by
/// default, and what is behind most home routers.
const POOLS: [&str; 6] =
    ["10.89.0.0/16", "10.90.0.0/15", "10.92.0.0/14", "172.20.0.0/14", "172.24.0.0/13", "192.168.128.0/17"];
const CHOSEN_PREFIX: u8 = 24;

/// Never of a bridge (RFC 6890, RFC 5771, RFC 4291).
const RESERVED: [(&str, &str); 9] = [
    ("0.0.0.0/8", "this host"),
    ("127.0.0.0/8", "the loopback"),
    ("169.254.0.0/16", "link-local addresses"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "future use and broadcast"),
    ("::/127", "the loopback"),
    ("::ffff:0.0.0.0/96", "IPv4 addresses"),
    ("fe80::/10", "link-local addresses"),
    ("ff00::/8", "multicast"),
];

/// Why something about networks, addresses or ports is not as the caller wants it: one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    pub kind: Kind,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An argument, or a file, breaks a rule.
    Invalid,
    NotFound,
    Exists,
    /// Somebody has it.
    InUse,
    /// A call of the kernel failed.
    System,
}

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    pub fn new(kind: Kind, message: impl Into<String>) -> StoreError {
        StoreError { kind, message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> StoreError {
        StoreError { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> StoreError {
        match error.raw_os_error() {
            Some(number) => StoreError::system(what, Errno::from_raw(number)),
            None => StoreError::new(Kind::System, format!("{what}: {error}")),
        }
    }

    pub(crate) fn system(what: impl fmt::Display, errno: Errno) -> StoreError {
        let words = coracle_sys::Errno(errno as i32).words();
        StoreError::new(Kind::System, format!("{what}: {words}"))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

impl From<crate::Error> for StoreError {
    fn from(error: crate::Error) -> StoreError {
        StoreError::new(Kind::System, error.to_string())
    }
}

fn invalid(message: impl Into<String>) -> StoreError {
    StoreError::new(Kind::Invalid, message)
}

/// A network as it is asked for. What is left empty is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewNetwork {
    pub name: String,
    /// One of each family at most. None of both: an IPv4 one is chosen.
    pub subnets: Vec<Subnet>,
    /// Each in one of `subnets`; the first address of a subnet without.
    pub gateways: Vec<IpAddr>,
    /// Both families: one that `subnets` lacks is chosen, for IPv6 at random (RFC 4193).
    pub ipv6: bool,
    /// Bytes; 0: the kernel's default.
    pub mtu: u32,
    pub internal: bool,
    pub isolate: bool,
}

/// Networks, and who has their addresses and the host's ports, below one directory.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    network: Network,
}

/// What every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

pub(crate) type Lock = Flock<OwnedFd>;

impl Store {
    /// Nothing is made before something is kept in it.
    pub fn open(directory: &Path) -> Store {
        Store { directory: directory.to_path_buf() }
    }

    /// By which others know it, however the caller has come to it.
    fn path(&self) -> PathBuf {
        self.directory.canonicalize().unwrap_or_else(|_| self.directory.clone())
    }

    pub(crate) fn make(&self) -> Result<()> {
        make_directory(&self.directory, true)
    }

    /// Errors: [`Kind::Exists`]; [`Kind::Invalid`] for what cannot be a network, or not beside the others and
    /// `occupied`. Of others that cannot be read it is not known what they have; if they are up, `occupied` has it.
    pub fn create(&self, new: &NewNetwork, occupied: &Occupied) -> Result<Network> {
        check_name(&new.name)?;
        self.make()?;
        let _lock = lock(&self.directory)?.ok_or_else(|| self.removed())?;
        let mut others = Vec::new();
        for (name, network) in self.networks()? {
            if name == new.name {
                let error = StoreError::new(Kind::Exists, format!("network {name:?} already exists"));
                return Err(error.hint(format!("`oar network inspect {name}` shows it")));
            }
            others.extend(network);
        }
        let network = decide(new, &self.path(), occupied, &others)?;
        // Claims come after the file, which tells of the directory.
        make_directory(&self.directory.join(&network.name), false)?;
        self.write(&network)?;
        Ok(network)
    }

    /// Whole or not at all: link(2) gives the name to a file that is complete, and to one file only.
    fn write(&self, network: &Network) -> Result<()> {
        let path = self.directory.join(format!("{}{SUFFIX}", network.name));
        let draft = self.directory.join(DRAFT);
        let failed = |error: std::io::Error| StoreError::io(format!("write {}", path.display()), &error);
        let document = Document { format: FORMAT, network: network.clone() };
        let mut text = serde_json::to_vec_pretty(&document).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        // Of somebody who was ended half way: the store is locked.
        remove_file(&draft).map_err(failed)?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
        let linked = file.write_all(&text).and_then(|()| std::fs::hard_link(&draft, &path));
        let removed = remove_file(&draft);
        linked.and(removed).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                StoreError::new(Kind::Exists, format!("network {:?} already exists", network.name))
            }
            _ => failed(error),
        })
    }

    /// Errors: [`Kind::NotFound`]; [`Kind::Invalid`] for a name that none can have, and for a file that this version
    /// does not understand.
    pub fn read(&self, name: &str) -> Result<Network> {
        check_name(name)?;
        let path = self.directory.join(format!("{name}{SUFFIX}"));
        let failed = |error: &std::io::Error| StoreError::io(format!("read {}", path.display()), error);
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(not_found(name)),
            Err(error) => return Err(failed(&error)),
        };
        let mut text = Vec::new();
        file.take(LARGEST).read_to_end(&mut text).map_err(|error| failed(&error))?;
        let network = parse(name, &text).map_err(|why| {
            invalid(format!("network {name:?}: {}: {why}", path.display())).hint(format!(
                "the version that wrote it reads it; after `oar network rm {name}` it can be created again"
            ))
        })?;
        Ok(Network { store: self.path(), ..network })
    }

    /// The same; the network `default` is made if there is none. `occupied` is asked only then.
    pub fn get(&self, name: &str, occupied: &dyn Fn() -> Result<Occupied>) -> Result<Network> {
        match self.read(name) {
            Err(error) if error.kind == Kind::NotFound && name == DEFAULT => {}
            other => return other,
        }
        let new = NewNetwork { name: name.into(), ..NewNetwork::default() };
        match self.create(&new, &occupied()?) {
            // By somebody else, since.
            Err(error) if error.kind == Kind::Exists => self.read(name),
            other => other,
        }
    }

    /// Every network, in order of name; one whose file cannot be read has an error in its place.
    pub fn networks(&self) -> Result<Vec<(String, Result<Network>)>> {
        let mut networks = Vec::new();
        for name in names(&self.directory)? {
            let Some(name) = name.strip_suffix(SUFFIX).filter(|name| check_name(name).is_ok()) else {
                continue;
            };
            match self.read(name) {
                Err(error) if error.kind == Kind::NotFound => {}
                network => networks.push((name.to_string(), network)),
            }
        }
        networks.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(networks)
    }

    /// Remove a network that no living container has an address of. `undo` takes down what the kernel has of it, while
    /// nobody can claim an address; cut short anywhere, the same call goes on with it. Of a network whose file cannot be
    /// read, `undo` gets the name and the store, and an empty bridge. Errors: [`Kind::NotFound`], [`Kind::InUse`], and
    /// those of `undo`, after which the network is still there.
    pub fn remove(
        &self,
        name: &str,
        alive: &dyn Fn(&str) -> bool,
        undo: &mut dyn FnMut(&Network) -> Result<()>,
    ) -> Result<()> {
        check_name(name)?;
        let _lock = lock(&self.directory)?.ok_or_else(|| not_found(name))?;
        let network = match self.read(name) {
            Err(error) if error.kind == Kind::NotFound => return Err(error),
            Err(_) => self.unknown(name),
            Ok(network) => network,
        };
        self.close_claims(name, alive)?;
        undo(&network)?;
        let path = self.directory.join(format!("{name}{SUFFIX}"));
        remove_file(&path).map_err(|error| StoreError::io(format!("remove {}", path.display()), &error))
    }

    /// What somebody has made in the kernel for a network that was removed before that is taken down by `undo`, while
    /// nobody can create one. Whoever has created one of the same bridge since goes on with it.
    pub fn clear(&self, network: &Network, undo: &mut dyn FnMut(&Network) -> Result<()>) -> Result<()> {
        let _lock = lock(&self.directory)?;
        match self.read(&network.name) {
            Ok(now) if now.bridge == network.bridge => Ok(()),
            Err(error) if error.kind != Kind::NotFound => Ok(()),
            _ => undo(network),
        }
    }

    fn unknown(&self, name: &str) -> Network {
        Network {
            name: name.into(),
            bridge: String::new(),
            subnets: Vec::new(),
            mtu: 0,
            internal: false,
            isolate: false,
            store: self.path(),
        }
    }

    fn removed(&self) -> StoreError {
        StoreError::new(Kind::NotFound, format!("{} was removed", self.directory.display()))
    }
}

pub(crate) fn not_found(name: &str) -> StoreError {
    StoreError::new(Kind::NotFound, format!("network {name:?} does not exist"))
        .hint(format!("`oar network create {name}` makes it, `oar network ls` lists those that exist"))
}

fn parse(name: &str, text: &[u8]) -> std::result::Result<Network, String> {
    let AnyFormat { format } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if format != FORMAT {
        return Err(format!("it has format {format}, and this version reads {FORMAT}"));
    }
    let Document { network, .. } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if network.name != name {
        return Err(format!("it is of a network {:?}", network.name));
    }
    if !crate::is_name(&network.bridge) {
        return Err(format!("{:?} cannot be the name of a bridge", network.bridge));
    }
    let families: Vec<bool> = network.subnets.iter().map(|range| range.subnet.network.is_ipv4()).collect();
    if !matches!(families.as_slice(), [_] | [true, false] | [false, true]) {
        return Err("it has not one subnet, or one of each family".into());
    }
    network.subnets.iter().try_for_each(check_range).map_err(|error| error.message)?;
    Ok(network)
}

/// Letters, digits, `_`, `.`, `-`, the first one a letter or digit, at most 64; not `host` or `none`, which are
/// other ways to be connected, and no end that files of the store have.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let rule = if name.is_empty() {
        "it is empty"
    } else if name.len() > 64 {
        "it is longer than 64 bytes"
    } else if !name.bytes().all(allowed) || !name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) {
        "only letters, digits and _ . - are allowed, and first a letter or digit"
    } else if matches!(name, "host" | "none") {
        "the word has a meaning of its own"
    } else if name.ends_with(SUFFIX) {
        "it must not end in .json"
    } else {
        return Ok(());
    };
    let shown: String = name.escape_debug().take(80).collect();
    Err(invalid(format!("invalid network name \"{shown}\": {rule}")))
}

/// All that is left open, and whether it can be.
fn decide(new: &NewNetwork, store: &Path, occupied: &Occupied, others: &[Network]) -> Result<Network> {
    let given = |ipv4: bool| -> Result<Option<Subnet>> {
        let mut of_family = new.subnets.iter().filter(|subnet| subnet.network.is_ipv4() == ipv4);
        match (of_family.next(), of_family.next()) {
            (Some(first), Some(second)) => Err(invalid(format!(
                "subnets {first} and {second}: a network has one of each family at most"
            ))),
            (subnet, _) => Ok(subnet.copied()),
        }
    };
    let (mut ipv4, mut ipv6) = (given(true)?, given(false)?);
    for subnet in [ipv4, ipv6].into_iter().flatten() {
        check_subnet(&subnet)?;
        // First, because the host has routes to what is ours.
        for other in others {
            if let Some(range) = other.subnets.iter().find(|range| range.subnet.overlaps(&subnet)) {
                let theirs = range.subnet;
                return Err(invalid(format!(
                    "subnet {subnet} overlaps with {theirs} of network {:?}",
                    other.name
                )));
            }
        }
        if let Some(host) = occupied.subnets.iter().find(|host| host.overlaps(&subnet)) {
            return Err(invalid(format!("subnet {subnet} overlaps with the host's {host}")));
        }
    }
    let mut taken = occupied.subnets.clone();
    taken.extend(others.iter().flat_map(|other| other.subnets.iter().map(|range| range.subnet)));
    if ipv4.is_none() && (ipv6.is_none() || new.ipv6) {
        ipv4 = Some(choose(&taken)?);
    }
    if ipv6.is_none() && new.ipv6 {
        ipv6 = Some(choose_local(&taken)?);
    }
    check_gateways(new)?;
    let mut subnets = Vec::new();
    for subnet in [ipv4, ipv6].into_iter().flatten() {
        let given = new.gateways.iter().find(|gateway| subnet.contains(**gateway));
        let gateway = given.copied().unwrap_or_else(|| address(&subnet, first(&subnet)));
        let range = Range { subnet, gateway };
        check_range(&range)?;
        subnets.push(range);
    }
    // RFC 791, RFC 8200; and the largest that a bridge takes (kernel net/bridge/br_device.c: ETH_MAX_MTU).
    let least = if ipv6.is_some() { 1280 } else { 68 };
    if new.mtu != 0 && !(least..=65535).contains(&new.mtu) {
        return Err(invalid(format!("mtu {}: it is from {least} to 65535 bytes", new.mtu)));
    }
    let bridge = name_bridge(&new.name, store, occupied, others)?;
    let NewNetwork { name, mtu, internal, isolate, .. } = new.clone();
    Ok(Network { name, bridge, subnets, mtu, internal, isolate, store: store.into() })
}

/// Each one in a subnet that was given, and each subnet with one.
fn check_gateways(new: &NewNetwork) -> Result<()> {
    for (at, gateway) in new.gateways.iter().enumerate() {
        if new.subnets.is_empty() {
            return Err(invalid(format!("gateway {gateway}: it goes with a subnet, and none is given")));
        }
        let Some(subnet) = new.subnets.iter().find(|subnet| subnet.contains(*gateway)) else {
            let all: Vec<String> = new.subnets.iter().map(Subnet::to_string).collect();
            return Err(invalid(format!("gateway {gateway} is outside of {}", all.join(" and "))));
        };
        if let Some(other) = new.gateways[..at].iter().find(|other| subnet.contains(**other)) {
            return Err(invalid(format!("gateways {other} and {gateway}: subnet {subnet} has one")));
        }
    }
    Ok(())
}

fn check_subnet(subnet: &Subnet) -> Result<()> {
    let longest = if subnet.network.is_ipv4() { 30 } else { 126 };
    if subnet.prefix > longest {
        return Err(invalid(format!(
            "subnet {subnet} is too small: its prefix has {longest} bits at most, for a gateway and a container"
        )));
    }
    for (reserved, meaning) in RESERVED {
        if reserved.parse::<Subnet>().is_ok_and(|reserved| reserved.overlaps(subnet)) {
            return Err(invalid(format!("subnet {subnet} overlaps with {reserved}, which is for {meaning}")));
        }
    }
    Ok(())
}

fn check_range(range: &Range) -> Result<()> {
    let Range { subnet, gateway } = range;
    check_subnet(subnet)?;
    check_address(subnet, *gateway).map_err(|why| invalid(format!("gateway {gateway} {why}")))
}

/// Can a device have it?
pub(crate) fn check_address(subnet: &Subnet, wanted: IpAddr) -> std::result::Result<(), String> {
    if !subnet.contains(wanted) {
        Err(format!("is outside of {subnet}"))
    } else if wanted == subnet.network {
        Err(format!("is the address of {subnet} itself"))
    } else if number(wanted) > last(subnet) {
        Err(format!("is the broadcast address of {subnet}"))
    } else {
        Ok(())
    }
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address of this number, which is in the subnet.
pub(crate) fn address(subnet: &Subnet, number: u128) -> IpAddr {
    match subnet.network {
        // Of an IPv4 subnet no number is longer.
        IpAddr::V4(_) => IpAddr::V4((number as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// That a device can have. The subnet is one that passed its check.
pub(crate) fn first(subnet: &Subnet) -> u128 {
    number(subnet.network).saturating_add(1)
}

pub(crate) fn last(subnet: &Subnet) -> u128 {
    let (bits, above) = if subnet.network.is_ipv4() { (32, 1) } else { (128, 0) };
    let rest = 1u128.checked_shl(bits - u32::from(subnet.prefix)).map_or(u128::MAX, |size| size - 1);
    number(subnet.network).saturating_add(rest).saturating_sub(above)
}

fn choose(taken: &[Subnet]) -> Result<Subnet> {
    for pool in POOLS.iter().filter_map(|pool| pool.parse::<Subnet>().ok()) {
        for number in (number(pool.network)..=last(&pool)).step_by(1 << (32 - CHOSEN_PREFIX)) {
            let subnet = Subnet { network: address(&pool, number), prefix: CHOSEN_PREFIX };
            if !taken.iter().any(|taken| taken.overlaps(&subnet)) {
                return Ok(subnet);
            }
        }
    }
    Err(StoreError::new(Kind::InUse, format!("no subnet is free in {}", POOLS.join(", ")))
        .hint("--subnet names another one"))
}

/// A unique local one: `fd`, 40 random bits, subnet 0 (RFC 4193, section 3).
fn choose_local(taken: &[Subnet]) -> Result<Subnet> {
    loop {
        let mut bytes = [0; 16];
        coracle_sys::fd::random(&mut bytes[1..6])
            .map_err(|errno| StoreError::system("getrandom", Errno::from_raw(errno.0)))?;
        bytes[0] = 0xfd;
        let subnet = Subnet { network: Ipv6Addr::from(bytes).into(), prefix: 64 };
        match taken.iter().find(|taken| taken.overlaps(&subnet)) {
            None => return Ok(subnet),
            Some(all) if all.prefix <= 8 => {
                return Err(invalid(format!("no IPv6 subnet can be chosen: the host has {all}")));
            }
            Some(_) => {}
        }
    }
}

/// `oar0`, or `oar-NAME` if that fits into the kernel's 15 bytes, if nobody has it; else `oar-` and 55 bits of a hash. A
/// bridge that bears this very network's mark is left from it.
fn name_bridge(name: &str, store: &Path, occupied: &Occupied, others: &[Network]) -> Result<String> {
    let alias = alias(name, store);
    let hashed = format!("oar-{}", hash(&alias));
    let plain = if name == DEFAULT { DEFAULT_BRIDGE.into() } else { format!("oar-{name}") };
    let other = |bridge: &String| others.iter().find(|other| other.bridge == *bridge);
    let link =
        |bridge: &String| occupied.links.iter().find(|link| link.name == *bridge && link.alias != alias);
    let candidates = Some(plain).filter(|plain| crate::is_name(plain)).into_iter().chain([hashed.clone()]);
    let mut free = candidates.filter(|bridge| other(bridge).is_none() && link(bridge).is_none());
    free.next().ok_or_else(|| {
        let whose =
            other(&hashed).map(|other| format!("and {:?} would both have a bridge {hashed}", other.name));
        let whose =
            whose.unwrap_or_else(|| format!("would have a bridge {hashed}, and a device has the name"));
        invalid(format!("network {name:?} {whose}")).hint("another name has another bridge")
    })
}

/// 64 bits of FNV-1a, of which eleven letters of base 32 keep the lower 55.
pub(crate) fn hash(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let letter =
        |place: u32| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(hash >> (5 * place)) as usize & 31]);
    (0..11).map(letter).collect()
}

pub(crate) fn make_directory(path: &Path, parents: bool) -> Result<()> {
    match DirBuilder::new().recursive(parents).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io(format!("create {}", path.display()), &error)),
    }
}

/// One that is not there is no error.
pub(crate) fn remove_file(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What is in a directory, and nothing if there is none.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |error: &std::io::Error| StoreError::io(format!("read {}", directory.display()), error);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // Whatever is not text was not made here.
        names.extend(entry.map_err(|error| failed(&error))?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Wait until nobody else has the directory's lock. None: there is no such directory (any more).
pub(crate) fn lock(directory: &Path) -> Result<Option<Lock>> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let file = match File::options().read(true).custom_flags(flags).open(directory) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(format!("open {}", directory.display()), &error)),
    };
    let mut descriptor = OwnedFd::from(file);
    let lock = loop {
        match Flock::lock(descriptor, FlockArg::LockExclusive) {
            Ok(lock) => break lock,
            Err((back, Errno::EINTR)) => descriptor = back,
            Err((_, errno)) => {
                return Err(StoreError::system(format!("lock {}", directory.display()), errno));
            }
        }
    };
    // While this waited it may have been removed, and made again.
    let status = nix::sys::stat::fstat(&*lock)
        .map_err(|errno| StoreError::system(format!("stat {}", directory.display()), errno))?;
    match std::fs::symlink_metadata(directory) {
        Ok(now) if (now.dev(), now.ino()) == (status.st_dev, status.st_ino) => Ok(Some(lock)),
        Ok(_) => self::lock(directory),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::bridge::OccupiedName;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn subnets(texts: &[&str]) -> Vec<Subnet> {
        texts.iter().map(|text| subnet(text)).collect()
    }

    fn host(texts: &[&str]) -> Occupied {
        Occupied { subnets: subnets(texts), links: vec![] }
    }

    /// Beside others, in no store.
    fn decide(new: &NewNetwork, occupied: &Occupied, others: &[Network]) -> Result<Network> {
        super::decide(new, Path::new(""), occupied, others)
    }

    fn new(name: &str) -> NewNetwork {
        NewNetwork { name: name.into(), ..NewNetwork::default() }
    }

    fn nobody(_: &str) -> bool {
        false
    }

    #[test]
    fn names_of_networks() {
        for good in ["a", "0", "web", "default", "a.b_c-D", "ports", "json", &"a".repeat(64)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for (bad, rule) in [
            ("", "it is empty"),
            (&*"a".repeat(65), "longer than 64"),
            (".", "first a letter or digit"),
            ("-a", "first a letter or digit"),
            ("a/b", "only letters"),
            ("a b", "only letters"),
            ("é", "only letters"),
            ("@ports", "only letters"),
            ("host", "a meaning of its own"),
            ("none", "a meaning of its own"),
            ("a.json", "end in .json"),
        ] {
            let error = check_name(bad).unwrap_err();
            assert_eq!(error.kind, Kind::Invalid);
            assert!(error.message.contains(rule), "{error}");
        }
        let error = check_name(&"\n".repeat(200)).unwrap_err();
        assert!(error.message.len() < 250 && !error.message.contains('\n'), "{error}");
    }

    #[test]
    fn what_can_be_a_network() {
        let occupied = host(&["10.1.0.0/16", "fd00:1::/64"]);
        let other = decide(
            &NewNetwork { subnets: subnets(&["10.2.0.0/24", "fd00:2::/64"]), ..new("other") },
            &occupied,
            &[],
        )
        .unwrap();
        let refused = |change: &dyn Fn(&mut NewNetwork)| {
            let mut wanted = new("web");
            change(&mut wanted);
            let error = decide(&wanted, &occupied, std::slice::from_ref(&other)).unwrap_err();
            assert_eq!(error.kind, Kind::Invalid);
            error.message
        };
        let of_subnets = |texts: &[&str]| refused(&|new| new.subnets = subnets(texts));
        for (texts, says) in [
            (&["10.1.2.0/24"][..], "subnet 10.1.2.0/24 overlaps with the host's 10.1.0.0/16"),
            (&["10.0.0.0/8"], "subnet 10.0.0.0/8 overlaps with 10.2.0.0/24 of network \"other\""),
            (&["10.2.0.128/25"], "subnet 10.2.0.128/25 overlaps with 10.2.0.0/24 of network \"other\""),
            (&["fd00:1::/120"], "subnet fd00:1::/120 overlaps with the host's fd00:1::/64"),
            (&["fd00:2::/48"], "subnet fd00:2::/48 overlaps with fd00:2::/64 of network \"other\""),
            (
                &["10.3.0.0/24", "10.4.0.0/24"],
                "subnets 10.3.0.0/24 and 10.4.0.0/24: a network has one of each family at most",
            ),
            (
                &["10.3.0.0/31"],
                "subnet 10.3.0.0/31 is too small: its prefix has 30 bits at most, for a gateway and a container",
            ),
            (
                &["fd00:3::/127"],
                "subnet fd00:3::/127 is too small: its prefix has 126 bits at most, for a gateway and a container",
            ),
            (&["127.1.0.0/16"], "subnet 127.1.0.0/16 overlaps with 127.0.0.0/8, which is for the loopback"),
            (&["224.0.0.0/24"], "subnet 224.0.0.0/24 overlaps with 224.0.0.0/4, which is for multicast"),
            (&["0.0.0.0/0"], "subnet 0.0.0.0/0 overlaps with 0.0.0.0/8, which is for this host"),
            (&["fe80::/64"], "subnet fe80::/64 overlaps with fe80::/10, which is for link-local addresses"),
        ] {
            assert_eq!(of_subnets(texts), says);
        }
        let of_gateways = |gateways: &[&str]| {
            refused(&|new| {
                new.subnets = subnets(&["10.3.0.0/24", "fd00:3::/64"]);
                new.gateways = gateways.iter().map(|gateway| gateway.parse().unwrap()).collect();
            })
        };
        for (gateways, says) in [
            (&["10.4.0.1"][..], "gateway 10.4.0.1 is outside of 10.3.0.0/24 and fd00:3::/64"),
            (&["10.3.0.0"], "gateway 10.3.0.0 is the address of 10.3.0.0/24 itself"),
            (&["10.3.0.255"], "gateway 10.3.0.255 is the broadcast address of 10.3.0.0/24"),
            (&["fd00:3::"], "gateway fd00:3:: is the address of fd00:3::/64 itself"),
            (&["10.3.0.1", "10.3.0.2"], "gateways 10.3.0.1 and 10.3.0.2: subnet 10.3.0.0/24 has one"),
        ] {
            assert_eq!(of_gateways(gateways), says);
        }
        let gateway = refused(&|new| new.gateways = vec!["10.89.0.1".parse().unwrap()]);
        assert_eq!(gateway, "gateway 10.89.0.1: it goes with a subnet, and none is given");
        assert_eq!(refused(&|new| new.mtu = 67), "mtu 67: it is from 68 to 65535 bytes");
        assert_eq!(refused(&|new| new.mtu = 65536), "mtu 65536: it is from 68 to 65535 bytes");
        let mtu = refused(&|new| (new.mtu, new.ipv6) = (1279, true));
        assert_eq!(mtu, "mtu 1279: it is from 1280 to 65535 bytes");
    }

    #[test]
    fn what_is_left_open_is_chosen() {
        let chosen = |new: &NewNetwork, occupied: &[&str]| -> Vec<String> {
            let network = decide(new, &host(occupied), &[]).unwrap();
            network.subnets.iter().map(|range| format!("{} {}", range.subnet, range.gateway)).collect()
        };
        assert_eq!(chosen(&new("a"), &[]), ["10.89.0.0/24 10.89.0.1"]);
        assert_eq!(chosen(&new("a"), &["10.89.0.0/23", "10.89.2.5/32"]), ["10.89.3.0/24 10.89.3.1"]);
        assert_eq!(chosen(&new("a"), &["10.0.0.0/8"]), ["172.20.0.0/24 172.20.0.1"]);
        assert_eq!(chosen(&new("a"), &["10.0.0.0/8", "172.16.0.0/12"]), ["192.168.128.0/24 192.168.128.1"]);
        let error = decide(&new("a"), &host(&["0.0.0.0/1", "128.0.0.0/1"]), &[]).unwrap_err();
        assert!(error.message.starts_with("no subnet is free in 10.89.0.0/16, "), "{error}");

        let given = |texts: &[&str], ipv6| NewNetwork { subnets: subnets(texts), ipv6, ..new("a") };
        assert_eq!(chosen(&given(&["10.3.0.0/30"], false), &[]), ["10.3.0.0/30 10.3.0.1"]);
        assert_eq!(chosen(&given(&["fd00::/64"], false), &[]), ["fd00::/64 fd00::1"]);
        let both = ["10.89.0.0/24 10.89.0.1", "fd00::/64 fd00::1"];
        assert_eq!(chosen(&given(&["fd00::/64"], true), &[]), both);
        let gateways = vec!["fd00::9".parse().unwrap(), "10.3.0.254".parse().unwrap()];
        let with_gateways = NewNetwork { gateways, ..given(&["10.3.0.0/24", "fd00::/64"], true) };
        assert_eq!(chosen(&with_gateways, &[]), ["10.3.0.0/24 10.3.0.254", "fd00::/64 fd00::9"]);

        // RFC 4193: fd, 40 random bits, and a /64 below.
        let local = || decide(&given(&["10.3.0.0/24"], true), &host(&[]), &[]).unwrap().subnets[1];
        let (one, two) = (local(), local());
        assert!(subnet("fd00::/8").overlaps(&one.subnet) && one.subnet.prefix == 64, "{}", one.subnet);
        assert_ne!(one.subnet, two.subnet);
        assert_eq!(Subnet::of(one.subnet.network, 48).unwrap().network, one.subnet.network);
        assert_eq!(number(one.gateway), number(one.subnet.network) + 1);
        let all = decide(&given(&[], true), &host(&["fc00::/7"]), &[]).unwrap_err();
        assert_eq!(all.message, "no IPv6 subnet can be chosen: the host has fc00::/7");
    }

    #[test]
    fn names_of_bridges() {
        let network = |name: &str, bridge: &str| Network {
            bridge: bridge.into(),
            ..decide(&new(name), &host(&[]), &[]).unwrap()
        };
        assert_eq!(name_bridge("default", Path::new(""), &host(&[]), &[]).unwrap(), "oar0");
        assert_eq!(name_bridge("web", Path::new(""), &host(&[]), &[]).unwrap(), "oar-web");
        assert_eq!(name_bridge("eleven-char", Path::new(""), &host(&[]), &[]).unwrap(), "oar-eleven-char");
        let long = name_bridge("twelve-chars", Path::new(""), &host(&[]), &[]).unwrap();
        assert!(long.len() == 15 && long.starts_with("oar-") && long != "oar-twelve-char", "{long}");
        assert_ne!(long, name_bridge("twelve-charz", Path::new(""), &host(&[]), &[]).unwrap());
        // A short name that is the hash of a long one has its own hash.
        let first = network("twelve-chars", &long);
        let short = long.strip_prefix("oar-").unwrap();
        let second = name_bridge(short, Path::new(""), &host(&[]), std::slice::from_ref(&first)).unwrap();
        assert!(second != long && second.len() == 15, "{second}");
        let third = network("other", &second);
        let error = name_bridge(short, Path::new(""), &host(&[]), &[first, third]).unwrap_err();
        assert_eq!(
            error.message,
            format!("network {short:?} and \"other\" would both have a bridge {second}")
        );
    }

    /// As another store's networks are seen, and those of other programs.
    #[test]
    fn names_that_the_host_has_are_left_to_it() {
        let (ours, theirs) = (Path::new("/a/@network"), Path::new("/b/@network"));
        let link = |name: &str, alias: String| OccupiedName { name: name.into(), alias };
        let mut occupied = host(&[]);
        occupied.links = vec![
            link("oar0", alias("default", theirs)),
            link("oar-web", alias("web", ours)),
            link("oar-db", alias("web", ours)),
            link("oar-x", String::new()),
        ];
        let name = |name: &str| name_bridge(name, ours, &occupied, &[]).unwrap();
        assert_eq!((&*name("web"), &*name("mail")), ("oar-web", "oar-mail"));
        for taken in ["default", "db", "x"] {
            assert!(name(taken).len() == 15 && name(taken).starts_with("oar-"), "{}", name(taken));
        }
        // The same name of both stores, on a host that has it already.
        assert_ne!(name("x"), name_bridge("x", theirs, &occupied, &[]).unwrap());
        occupied.links.push(link(&name("x"), String::new()));
        let error = name_bridge("x", ours, &occupied, &[]).unwrap_err().message;
        assert!(error.ends_with(", and a device has the name"), "{error}");
    }

    #[test]
    fn what_is_left_of_a_removed_network_is_cleared() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path());
        let cleared = |network: &Network| {
            let mut cleared = 0;
            store
                .clear(network, &mut |_| {
                    cleared += 1;
                    Ok(())
                })
                .unwrap();
            cleared
        };
        let web = store.create(&new("web"), &host(&[])).unwrap();
        assert_eq!(cleared(&web), 0);
        store.remove("web", &nobody, &mut |_| Ok(())).unwrap();
        assert_eq!(cleared(&web), 1);
        // Another one, on the same bridge, and on another one.
        store.create(&new("web"), &host(&["10.89.0.0/24"])).unwrap();
        assert_eq!(cleared(&web), 0);
        assert_eq!(cleared(&Network { bridge: "oar-other".into(), ..web.clone() }), 1);
        std::fs::write(root.path().join("web.json"), "{").unwrap();
        assert_eq!(cleared(&web), 0);
    }

    #[test]
    fn a_network_is_kept_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("state/@network"));
        assert_eq!(store.networks().unwrap(), []);
        assert_eq!(store.read("web").unwrap_err().kind, Kind::NotFound);
        assert_eq!(store.remove("web", &nobody, &mut |_| Ok(())).unwrap_err().kind, Kind::NotFound);
        assert!(!root.path().join("state").exists());

        let web = NewNetwork { ipv6: true, mtu: 1400, internal: true, isolate: true, ..new("web") };
        let web = store.create(&web, &host(&[])).unwrap();
        assert_eq!(store.read("web").unwrap(), web);
        assert_eq!(
            store.create(&new("web"), &host(&[])).unwrap_err().message,
            "network \"web\" already exists"
        );
        let second = store.create(&new("a"), &host(&[])).unwrap();
        assert_eq!(second.subnets[0].subnet, subnet("10.89.1.0/24"));
        let names: Vec<String> = store.networks().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "web"]);
        for name in ["", "web", "web.json"] {
            let mode = store.directory.join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
        }
        let mut left: Vec<String> = super::names(&store.directory).unwrap();
        left.sort();
        assert_eq!(left, ["a", "a.json", "web", "web.json"]);

        // What the kernel has of it goes first; if that fails, the network is still there.
        let failed = StoreError::new(Kind::System, "no");
        assert_eq!(store.remove("web", &nobody, &mut |_| Err(failed.clone())), Err(failed));
        assert_eq!(store.read("web").unwrap(), web);
        let mut undone = Vec::new();
        let undo = &mut |network: &Network| {
            undone.push(network.bridge.clone());
            Ok(())
        };
        store.remove("web", &nobody, undo).unwrap();
        assert_eq!(undone, ["oar-web"]);
        assert_eq!(store.read("web").unwrap_err().message, "network \"web\" does not exist");
    }

    #[test]
    fn one_of_many_creators_wins() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("@network"));
        let made: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|at| {
                    let store = &store;
                    scope.spawn(move || {
                        // Others at the same time have other names, and other subnets.
                        store.create(&new(&format!("other{at}")), &host(&[])).unwrap();
                        store.create(&new("web"), &host(&[])).is_ok()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        let networks: Vec<Network> =
            store.networks().unwrap().into_iter().map(|(_, network)| network.unwrap()).collect();
        let mut all: Vec<Subnet> = networks.iter().map(|network| network.subnets[0].subnet).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 17);
    }

    #[test]
    fn the_default_network_is_there_when_it_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("@network"));
        let occupied = || Ok(host(&["10.89.0.0/16"]));
        assert_eq!(store.get("web", &occupied).unwrap_err().kind, Kind::NotFound);
        let failed = StoreError::new(Kind::System, "no");
        assert_eq!(store.get(DEFAULT, &|| Err(failed.clone())), Err(failed.clone()));
        let all: Vec<Network> = std::thread::scope(|scope| {
            let get = || store.get(DEFAULT, &occupied).unwrap();
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(get)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|network| *network == all[0]));
        assert_eq!((&*all[0].bridge, all[0].subnets[0].subnet), ("oar0", subnet("10.90.0.0/24")));
        // Once it is made, nobody asks for what the host has.
        assert_eq!(store.get(DEFAULT, &|| Err(failed.clone())).as_ref(), Ok(&all[0]));
    }

    #[test]
    fn a_file_that_is_not_understood_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path());
        store.create(&new("web"), &host(&[])).unwrap();
        let path = root.path().join("web.json");
        let good = std::fs::read_to_string(&path).unwrap();
        for (text, says) in [
            (String::new(), "EOF"),
            ("{".into(), "EOF"),
            (good.replace("\"format\": 1", "\"format\": 2"), "it has format 2, and this version reads 1"),
            (good.replace("\"format\": 1,", ""), "missing field `format`"),
            (good.replace("\"mtu\"", "\"mtv\""), "unknown field `mtv`"),
            (good.replace("\"web\"", "\"db\""), "it is of a network \"db\""),
            (good.replace("oar-web", "oar/web"), "\"oar/web\" cannot be the name of a bridge"),
            (good.replace("10.89.0.0/24", "10.89.0.1/24"), "has host bits"),
            (good.replace("10.89.0.1", "10.88.0.1"), "gateway 10.88.0.1 is outside of 10.89.0.0/24"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = store.read("web").unwrap_err();
            assert_eq!(error.kind, Kind::Invalid);
            let start = format!("network \"web\": {}: ", path.display());
            assert!(error.message.starts_with(&start) && error.message.contains(says), "{error}");
            assert!(store.networks().unwrap()[0].1.is_err());
            // Nobody knows what it has, but the kernel; its name it has.
            assert_eq!(store.create(&new("web"), &host(&[])).unwrap_err().kind, Kind::Exists);
            let db = store.create(&new("db"), &host(&["10.89.0.0/24"])).unwrap();
            assert_eq!(db.subnets[0].subnet, subnet("10.89.1.0/24"));
            store.remove("db", &nobody, &mut |_| Ok(())).unwrap();
        }
        // By hand: the directory may stay.
        std::fs::remove_file(&path).unwrap();
        let web = store.create(&new("web"), &host(&[])).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(store.read("web").unwrap_err().kind, Kind::System);

        // As the hint says.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &good).unwrap();
        store.claim(&web, "living", &[], &|_| true).unwrap();
        std::fs::write(&path, "{").unwrap();
        let error = store.remove("web", &|_| true, &mut |_| panic!("in use")).unwrap_err();
        assert_eq!(error.message, "network \"web\" is in use by container \"living\"");
        let mut undone = Vec::new();
        let undo = &mut |network: &Network| {
            undone.push((network.name.clone(), network.bridge.clone(), network.store.clone()));
            Ok(())
        };
        store.remove("web", &nobody, undo).unwrap();
        assert_eq!(undone, [("web".into(), "".into(), root.path().canonicalize().unwrap())]);
        assert_eq!(super::names(root.path()).unwrap(), Vec::<String>::new());
    }
}
