// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which address of a network: symbolic links in `NAME/` of the store, from an address to a container's id.
//!
//! Never asks whether an owner lives: the caller does, by `alive`, and only when an address is short. symlink(2) makes
//! a name and says whose it is in one call that one of many callers wins, so to claim takes no lock. Whatever takes a
//! claim away holds the lock of its directory, where it reads the owner, and so never takes one of somebody else.
//! The caller keeps what it was given, and releases it by its id.
//!
//! Claims belong to the store, not to a network namespace. Where one store is used from several, two containers that
//! could have the same address have different ones.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::network::{Network, Range};
use crate::store::{
    Kind, Result, Store, StoreError, address, check_address, check_name, first, last, lock, make_directory,
    names, not_found, number, remove_file,
};

/// The address that was given last, for each family: where the next one begins to look, so that an address comes back
/// after all others. Written in place by anybody: a wrong one is a worse place to begin, no more.
const LAST: [&str; 2] = ["last4", "last6"];

/// How often to look again at a directory that is not empty although nothing is in it: a claim comes and goes.
const LOOKS: usize = 100;

impl Store {
    /// One address in each subnet of the network, with the subnet's prefix: those of `wanted`, else the next free one.
    /// The owner has none there yet. Errors: [`Kind::InUse`] when all are taken, or the wanted one, by owners that are
    /// alive; [`Kind::Invalid`] for an address that no container can have; [`Kind::NotFound`] when the network is not
    /// the caller's any more. Nothing is claimed then.
    pub fn claim(
        &self,
        network: &Network,
        owner: &str,
        wanted: &[IpAddr],
        alive: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(IpAddr, u8)>> {
        check_owner(owner)?;
        check_wanted(network, wanted)?;
        let mut given = Vec::new();
        let claimed = network.subnets.iter().try_for_each(|range| {
            let wanted = wanted.iter().find(|wanted| range.subnet.contains(**wanted)).copied();
            let address = self.claim_in(network, range, owner, wanted, alive)?;
            given.push((address, range.subnet.prefix));
            Ok(())
        });
        // It may have been removed, and made anew, since the caller read it. From here on the claim prevents that.
        let claimed = claimed.and_then(|()| match self.read(&network.name) {
            Ok(now) if now == *network => Ok(()),
            Ok(_) => {
                Err(StoreError::new(Kind::NotFound, format!("network {:?} is another one now", network.name)))
            }
            Err(error) => Err(error),
        });
        match claimed {
            Ok(()) => Ok(given),
            Err(error) => {
                let mine = |(address, _): &(IpAddr, u8)| address.to_string();
                let given: Vec<String> = given.iter().map(mine).collect();
                // What is left of it is a dead container's, sooner or later.
                remove_claims(&self.claims_of(&network.name), &given, &|of| of == owner).ok();
                Err(error)
            }
        }
    }

    fn claims_of(&self, network: &str) -> PathBuf {
        self.directory.join(network)
    }

    fn claim_in(
        &self,
        network: &Network,
        range: &Range,
        owner: &str,
        wanted: Option<IpAddr>,
        alive: &dyn Fn(&str) -> bool,
    ) -> Result<IpAddr> {
        let directory = self.claims_of(&network.name);
        loop {
            let given = match wanted {
                Some(wanted) => claim_this(&directory, owner, wanted, alive),
                None => claim_any(&directory, range, owner, alive),
            };
            match given {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => {
                    let text = format!("network {:?}: no address of {} is free", network.name, range.subnet);
                    return Err(StoreError::new(Kind::InUse, text).hint(
                        "`oar network inspect` lists who has them; a network with a larger subnet has more",
                    ));
                }
                Err(error) if error.kind == Kind::NotFound => self.mend(network)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// A network without a directory is being removed; or that was cut short, and it is one as before.
    fn mend(&self, network: &Network) -> Result<()> {
        let _lock = lock(&self.directory)?.ok_or_else(|| not_found(&network.name))?;
        self.read(&network.name)?;
        make_directory(&self.claims_of(&network.name), false)
    }

    /// Every claim of a network, dead or alive, in order of address.
    pub fn claims(&self, network: &str) -> Result<Vec<(IpAddr, String)>> {
        check_name(network)?;
        let directory = self.claims_of(network);
        let mut claims = Vec::new();
        for name in names(&directory)? {
            let Ok(address) = name.parse::<IpAddr>() else { continue };
            claims.extend(owner_of(&directory, &name)?.map(|owner| (address, owner)));
        }
        claims.sort();
        Ok(claims)
    }

    /// Every claim of an owner goes, of addresses and ports. None is no error. Costs a readlink(2) for each claim there is.
    pub fn release(&self, owner: &str) -> Result<()> {
        self.remove_of(&|of| of == owner).map(drop)
    }

    /// Every claim of an owner that is not alive goes; how many those were.
    pub fn release_dead(&self, alive: &dyn Fn(&str) -> bool) -> Result<usize> {
        self.remove_of(&|of| !alive(of))
    }

    /// In each directory, and on after an error.
    fn remove_of(&self, goes: &dyn Fn(&str) -> bool) -> Result<usize> {
        let (mut count, mut failed) = (0, None);
        let mut directories = vec![self.ports()];
        // Of networks only; without its file one may still be here.
        let networks = names(&self.directory)?;
        directories
            .extend(networks.iter().filter(|name| check_name(name).is_ok()).map(|name| self.claims_of(name)));
        for directory in directories {
            match remove_where(&directory, goes) {
                Ok(removed) => count += removed,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(count), Err)
    }

    /// From here on nobody can claim an address: the directory is gone. Whoever finds that waits for the store's lock,
    /// which the caller has.
    pub(crate) fn close_claims(&self, network: &str, alive: &dyn Fn(&str) -> bool) -> Result<()> {
        let directory = self.claims_of(network);
        let failed =
            |error: &std::io::Error| StoreError::io(format!("remove {}", directory.display()), error);
        let mut looks = 0;
        loop {
            remove_where(&directory, &|owner| !alive(owner))?;
            let mut users: Vec<String> = self.claims(network)?.into_iter().map(|(_, owner)| owner).collect();
            users.sort();
            users.dedup();
            if !users.is_empty() {
                return Err(in_use(network, &users));
            }
            for last in LAST {
                remove_file(&directory.join(last)).map_err(|error| failed(&error))?;
            }
            match std::fs::remove_dir(&directory) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && looks < LOOKS => looks += 1,
                Err(error) => return Err(failed(&error)),
            }
        }
    }
}

fn in_use(network: &str, users: &[String]) -> StoreError {
    const MOST: usize = 5;
    let shown: Vec<String> = users.iter().take(MOST).map(|user| format!("{user:?}")).collect();
    let more = match users.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let containers = if users.len() == 1 { "container" } else { "containers" };
    let text = format!("network {network:?} is in use by {containers} {}{more}", shown.join(", "));
    StoreError::new(Kind::InUse, text)
}

/// What a symbolic link can say.
pub(crate) fn check_owner(owner: &str) -> Result<()> {
    match owner.is_empty() || owner.len() > 1024 || owner.contains('\0') {
        true => Err(StoreError::new(Kind::Invalid, "the owner of a claim is not a container's id")),
        false => Ok(()),
    }
}

fn check_wanted(network: &Network, wanted: &[IpAddr]) -> Result<()> {
    let invalid = |text: String| Err(StoreError::new(Kind::Invalid, text));
    for (at, address) in wanted.iter().enumerate() {
        let Some(range) = network.subnets.iter().find(|range| range.subnet.contains(*address)) else {
            let all: Vec<String> = network.subnets.iter().map(|range| range.subnet.to_string()).collect();
            return invalid(format!(
                "address {address} is outside of {}, which network {:?} has",
                all.join(" and "),
                network.name
            ));
        };
        if let Err(why) = check_address(&range.subnet, *address) {
            return invalid(format!("address {address} {why}"));
        }
        if *address == range.gateway {
            return invalid(format!("address {address} is the gateway of network {:?}", network.name));
        }
        if let Some(other) = wanted[..at].iter().find(|other| range.subnet.contains(**other)) {
            return invalid(format!(
                "addresses {other} and {address}: a container has one in {}",
                range.subnet
            ));
        }
    }
    Ok(())
}

/// None: somebody has it. Errors: [`Kind::NotFound`] without the directory.
pub(crate) fn make_claim(directory: &Path, name: &str, owner: &str) -> Result<Option<()>> {
    match symlink(owner, directory.join(name)) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(gone(directory)),
        Err(error) => Err(StoreError::io(format!("claim {name}"), &error)),
    }
}

fn gone(directory: &Path) -> StoreError {
    StoreError::new(Kind::NotFound, format!("{} does not exist", directory.display()))
}

fn claim_this(
    directory: &Path,
    owner: &str,
    wanted: IpAddr,
    alive: &dyn Fn(&str) -> bool,
) -> Result<Option<IpAddr>> {
    let name = wanted.to_string();
    loop {
        if make_claim(directory, &name, owner)?.is_some() {
            return Ok(Some(wanted));
        }
        let _lock = lock(directory)?.ok_or_else(|| gone(directory))?;
        match owner_of(directory, &name)? {
            // Released since.
            None => {}
            Some(other) if alive(&other) => {
                let text = format!("address {wanted} is in use by container {other:?}");
                return Err(StoreError::new(Kind::InUse, text));
            }
            Some(_) => unlink(directory, &name)?,
        }
    }
}

fn claim_any(
    directory: &Path,
    range: &Range,
    owner: &str,
    alive: &dyn Fn(&str) -> bool,
) -> Result<Option<IpAddr>> {
    if let Some(address) = claim_next(directory, range, owner)? {
        return Ok(Some(address));
    }
    let _lock = lock(directory)?.ok_or_else(|| gone(directory))?;
    loop {
        // Whoever waited for the lock finds what the one before has freed.
        if let Some(address) = claim_next(directory, range, owner)? {
            return Ok(Some(address));
        }
        let mut freed = 0;
        for name in names(directory)? {
            let Some(of) = name.parse::<IpAddr>().ok().filter(|address| range.subnet.contains(*address))
            else {
                continue;
            };
            if owner_of(directory, &name)?.is_some_and(|owner| !alive(&owner)) {
                unlink(directory, &of.to_string())?;
                freed += 1;
            }
        }
        if freed == 0 {
            return Ok(None);
        }
    }
}

/// From behind the last one once around.
fn claim_next(directory: &Path, range: &Range, owner: &str) -> Result<Option<IpAddr>> {
    let subnet = &range.subnet;
    let (first, last, gateway) = (first(subnet), last(subnet), number(range.gateway));
    let hint = directory.join(LAST[usize::from(!subnet.network.is_ipv4())]);
    let after = |number: u128| if number >= last { first } else { number + 1 };
    let begin = read_last(&hint).filter(|given| (first..=last).contains(given)).map_or(first, after);
    let mut candidate = begin;
    loop {
        let address = address(subnet, candidate);
        if candidate != gateway && make_claim(directory, &address.to_string(), owner)?.is_some() {
            // Without it, the next one begins elsewhere.
            write_last(&hint, candidate).ok();
            return Ok(Some(address));
        }
        candidate = after(candidate);
        if candidate == begin {
            return Ok(None);
        }
    }
}

fn read_last(path: &Path) -> Option<u128> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(64).read_to_string(&mut text).ok()?;
    u128::from_str_radix(text.trim_end(), 16).ok()
}

/// Of one size always, so that it need not be emptied first.
fn write_last(path: &Path, number: u128) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all(format!("{number:032x}\n").as_bytes())
}

/// None: nobody claims it.
pub(crate) fn owner_of(directory: &Path, name: &str) -> Result<Option<String>> {
    match std::fs::read_link(directory.join(name)) {
        Ok(owner) => Ok(Some(owner.to_string_lossy().into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(format!("read the claim of {name}"), &error)),
    }
}

/// With the directory's lock.
pub(crate) fn unlink(directory: &Path, name: &str) -> Result<()> {
    remove_file(&directory.join(name)).map_err(|error| StoreError::io(format!("release {name}"), &error))
}

/// First without the lock, which is then taken only if something goes.
fn remove_where(directory: &Path, goes: &dyn Fn(&str) -> bool) -> Result<usize> {
    let mut going = Vec::new();
    for name in names(directory)? {
        // A file that is no link is not a claim.
        if !LAST.contains(&&*name)
            && owner_of(directory, &name).is_ok_and(|owner| owner.is_some_and(|of| goes(&of)))
        {
            going.push(name);
        }
    }
    remove_claims(directory, &going, goes)
}

fn remove_claims(directory: &Path, claims: &[String], goes: &dyn Fn(&str) -> bool) -> Result<usize> {
    if claims.is_empty() {
        return Ok(0);
    }
    let Some(_lock) = lock(directory)? else { return Ok(0) };
    let mut count = 0;
    for name in claims {
        if owner_of(directory, name)?.is_some_and(|of| goes(&of)) {
            unlink(directory, name)?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;

    use super::*;
    use crate::bridge::Occupied;
    use crate::store::NewNetwork;

    fn store() -> (TempDir, Store) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("@network"));
        (root, store)
    }

    fn network(store: &Store, name: &str, subnets: &[&str]) -> Network {
        let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
        store
            .create(&NewNetwork { name: name.into(), subnets, ..NewNetwork::default() }, &Occupied::default())
            .unwrap()
    }

    fn everybody(_: &str) -> bool {
        true
    }

    fn nobody(_: &str) -> bool {
        false
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The one address that is given.
    fn claim(store: &Store, network: &Network, owner: &str) -> IpAddr {
        let given = store.claim(network, owner, &[], &everybody).unwrap();
        assert_eq!(given.len(), 1);
        given[0].0
    }

    /// `count` claims by sixteen threads, each of an owner of its own.
    fn parallel(
        store: &Store,
        network: &Network,
        count: usize,
        alive: &(dyn Fn(&str) -> bool + Sync),
    ) -> Vec<Result<IpAddr>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut all = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return all;
                }
                let given = store.claim(network, &format!("new{at}"), &[], &|owner| alive(owner));
                all.push(given.map(|given| given[0].0));
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn two_thousand_at_once_have_two_thousand_addresses() {
        let (_root, store) = store();
        let network = network(&store, "web", &["10.7.0.0/20"]);
        let given: BTreeSet<IpAddr> =
            parallel(&store, &network, 2000, &everybody).into_iter().map(|given| given.unwrap()).collect();
        assert_eq!(given.len(), 2000);
        assert!(given.iter().all(|address| network.subnets[0].subnet.contains(*address)));
        assert!(!given.contains(&network.subnets[0].gateway));
        let claims = store.claims("web").unwrap();
        assert_eq!(claims.iter().map(|(address, _)| *address).collect::<BTreeSet<_>>(), given);
        assert_eq!(claims.iter().map(|(_, owner)| owner).collect::<BTreeSet<_>>().len(), 2000);
    }

    #[test]
    fn a_full_network_says_so() {
        let (_root, store) = store();
        let network = network(&store, "web", &["10.7.0.0/24"]);
        let (given, refused): (Vec<_>, Vec<_>) =
            parallel(&store, &network, 300, &everybody).into_iter().partition(|given| given.is_ok());
        let given: BTreeSet<IpAddr> = given.into_iter().map(|given| given.unwrap()).collect();
        assert_eq!((given.len(), refused.len()), (253, 300 - 253));
        assert_eq!((given.first(), given.last()), (Some(&ip("10.7.0.2")), Some(&ip("10.7.0.254"))));
        for refused in refused {
            let error = refused.unwrap_err();
            assert_eq!(error.kind, Kind::InUse);
            assert_eq!(error.message, "network \"web\": no address of 10.7.0.0/24 is free");
        }
    }

    #[test]
    fn reclaimers_never_share_what_the_dead_had() {
        let (_root, store) = store();
        let network = network(&store, "web", &["10.7.0.0/25"]);
        for at in 0..125 {
            claim(&store, &network, &format!("dead{at}"));
        }
        let alive = |owner: &str| owner.starts_with("new");
        let (given, refused): (Vec<_>, Vec<_>) =
            parallel(&store, &network, 200, &alive).into_iter().partition(|given| given.is_ok());
        let addresses: BTreeSet<IpAddr> = given.iter().map(|given| *given.as_ref().unwrap()).collect();
        assert_eq!((given.len(), addresses.len(), refused.len()), (125, 125, 75));
        assert!(store.claims("web").unwrap().iter().all(|(_, owner)| alive(owner)));
    }

    #[test]
    fn an_address_comes_back_after_the_others() {
        let (_root, store) = store();
        let network = network(&store, "web", &["10.7.0.0/28"]);
        // 2 to 14.
        for round in 0..3 {
            for at in 2..15 {
                assert_eq!(claim(&store, &network, "web"), ip(&format!("10.7.0.{at}")), "{round}");
                store.release("web").unwrap();
            }
        }
        // A hint that is none, or not of this network, is no obstacle.
        for hint in ["", "x", "ffffffffffffffffffffffffffffffff\n", "0\n"] {
            std::fs::write(store.claims_of("web").join("last4"), hint).unwrap();
            assert_eq!(claim(&store, &network, "web"), ip("10.7.0.2"), "{hint:?}");
            store.release("web").unwrap();
        }
    }

    #[test]
    fn a_wanted_address() {
        let (_root, store) = store();
        let network = network(&store, "web", &["10.7.0.0/24", "fd00:7::/64"]);
        let want = |owner: &str, wanted: &[&str], alive: &dyn Fn(&str) -> bool| {
            let wanted: Vec<IpAddr> = wanted.iter().map(|wanted| ip(wanted)).collect();
            store.claim(&network, owner, &wanted, alive)
        };
        let given = want("a", &["10.7.0.77"], &everybody).unwrap();
        assert_eq!(given, [(ip("10.7.0.77"), 24), (ip("fd00:7::2"), 64)]);
        // Of the living; and what was given of the other family goes back.
        let error = want("b", &["fd00:7::2"], &everybody).unwrap_err();
        assert_eq!(error.message, "address fd00:7::2 is in use by container \"a\"");
        assert_eq!(store.claims("web").unwrap().len(), 2);
        // Of the dead.
        let given = want("b", &["10.7.0.77", "fd00:7::2"], &|owner| owner != "a").unwrap();
        assert_eq!(given, [(ip("10.7.0.77"), 24), (ip("fd00:7::2"), 64)]);
        // Theirs is not the dead one's to release.
        store.release("a").unwrap();
        let b = || "b".to_string();
        assert_eq!(store.claims("web").unwrap(), [(ip("10.7.0.77"), b()), (ip("fd00:7::2"), b())]);
        store.release("b").unwrap();
        store.release("b").unwrap();
        assert_eq!(store.claims("web").unwrap(), []);

        for (wanted, says) in [
            (
                &["10.8.0.1"][..],
                "address 10.8.0.1 is outside of 10.7.0.0/24 and fd00:7::/64, which network \"web\" has",
            ),
            (&["10.7.0.1"], "address 10.7.0.1 is the gateway of network \"web\""),
            (&["10.7.0.0"], "address 10.7.0.0 is the address of 10.7.0.0/24 itself"),
            (&["10.7.0.255"], "address 10.7.0.255 is the broadcast address of 10.7.0.0/24"),
            (
                &["10.7.0.2", "10.7.0.3"],
                "addresses 10.7.0.2 and 10.7.0.3: a container has one in 10.7.0.0/24",
            ),
        ] {
            let error = want("a", wanted, &everybody).unwrap_err();
            assert_eq!((error.kind, &*error.message), (Kind::Invalid, says));
        }
        for owner in ["", "a\0b"] {
            assert_eq!(want(owner, &[], &everybody).unwrap_err().kind, Kind::Invalid);
        }
    }

    /// Sixteen want one address of a dead container: one of them has it then.
    #[test]
    fn one_of_many_takes_over_a_wanted_address() {
        let (_root, store) = store();
        let network = network(&store, "web", &["10.7.0.0/24"]);
        for round in 0..50 {
            let wanted = [ip("10.7.0.9")];
            store.claim(&network, "dead", &wanted, &nobody).unwrap();
            let won: usize = std::thread::scope(|scope| {
                let take = |at: usize| {
                    let (store, network) = (&store, &network);
                    let alive = |owner: &str| owner != "dead";
                    let take = move || store.claim(network, &format!("new{at}"), &wanted, &alive).is_ok();
                    scope.spawn(take)
                };
                let threads: Vec<_> = (0..16).map(take).collect();
                threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
            });
            assert_eq!(won, 1, "round {round}");
            store.release_dead(&nobody).unwrap();
        }
    }

    #[test]
    fn what_is_in_use_stays() {
        let (_root, store) = store();
        let web = network(&store, "web", &["10.7.0.0/24"]);
        for owner in ["a", "b"] {
            claim(&store, &web, owner);
        }
        let mut undo = |_: &Network| Ok(());
        let error = store.remove("web", &everybody, &mut undo).unwrap_err();
        assert_eq!(
            (error.kind, &*error.message),
            (Kind::InUse, "network \"web\" is in use by containers \"a\", \"b\"")
        );
        let error = store.remove("web", &|owner| owner == "b", &mut undo).unwrap_err();
        assert_eq!(error.message, "network \"web\" is in use by container \"b\"");
        assert_eq!(store.claims("web").unwrap(), [(ip("10.7.0.3"), "b".to_string())]);
        for at in 0..8 {
            claim(&store, &web, &format!("c{at}"));
        }
        let error = store.remove("web", &everybody, &mut undo).unwrap_err();
        assert!(error.message.ends_with("\"b\", \"c0\", \"c1\", \"c2\", \"c3\" and 4 more"), "{error}");

        // Cut short behind the directory: a claim makes it anew, and so does nobody without the file.
        std::fs::remove_dir_all(store.claims_of("web")).unwrap();
        assert_eq!(claim(&store, &web, "a"), ip("10.7.0.2"));
        store.release("a").unwrap();
        store.remove("web", &everybody, &mut undo).unwrap();
        assert_eq!(store.claim(&web, "a", &[], &everybody).unwrap_err().kind, Kind::NotFound);
        assert!(!store.claims_of("web").exists());
        // Another one of that name is not what the caller has read.
        network(&store, "web", &["10.8.0.0/24"]);
        let error = store.claim(&web, "a", &[], &everybody).unwrap_err();
        assert_eq!(error.message, "network \"web\" is another one now");
        assert_eq!(store.claims("web").unwrap(), []);
    }

    /// Claims and removals of one network: never a claim in a network that is not there.
    #[test]
    fn a_removal_and_a_claim_at_once() {
        let (_root, store) = store();
        for round in 0..200 {
            let web = network(&store, "web", &["10.7.0.0/24"]);
            let (removed, claimed) = std::thread::scope(|scope| {
                let remove = scope.spawn(|| store.remove("web", &everybody, &mut |_| Ok(())));
                let claim = scope.spawn(|| store.claim(&web, "a", &[], &everybody));
                (remove.join().unwrap(), claim.join().unwrap())
            });
            assert_ne!(removed.is_ok(), claimed.is_ok(), "round {round}: {removed:?} {claimed:?}");
            let kind = removed.err().or(claimed.err()).unwrap().kind;
            assert!(matches!(kind, Kind::InUse | Kind::NotFound), "round {round}: {kind:?}");
            store.release("a").unwrap();
            if store.read("web").is_ok() {
                store.remove("web", &everybody, &mut |_| Ok(())).unwrap();
            }
        }
    }

    #[test]
    fn the_dead_are_counted() {
        let (_root, store) = store();
        assert_eq!(store.release_dead(&nobody), Ok(0));
        let (web, db) = (network(&store, "web", &["10.7.0.0/24"]), network(&store, "db", &["10.8.0.0/24"]));
        for owner in ["a", "b"] {
            claim(&store, &web, owner);
            claim(&store, &db, owner);
        }
        assert_eq!(store.release_dead(&|owner| owner == "a"), Ok(2));
        assert_eq!(store.release_dead(&|owner| owner == "a"), Ok(0));
        store.release("a").unwrap();
        assert_eq!((store.claims("web").unwrap(), store.claims("db").unwrap()), (vec![], vec![]));
    }
}
