// SPDX-License-Identifier: MIT OR Apache-2.0
//! Networks that containers may be connected to: their verbs, and which of a network's claims are of living containers.
//!
//! Never keeps anything itself: `<root>/@network/` is `coracle-net`'s, and what is up in the kernel is asked of it. An id
//! has no `@`, so no container is ever called so.

use std::collections::BTreeMap;
use std::path::Path;

use coracle_net::{DEFAULT, Kind, Network, NewNetwork, Store, StoreError};
use nix::errno::Errno;
use serde::Serialize;

use crate::error::{Code, Error, Result};
use crate::id::Id;
use crate::record::Directory;
use crate::{Runtime, status};

/// Below the state root.
pub(crate) const DIRECTORY: &str = "@network";

/// A network, and what is up of it here and now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkState {
    #[serde(flatten)]
    pub network: Network,
    /// Is there the bridge, in the caller's network namespace? The first container makes it.
    pub up: bool,
    /// In order of id; those that are alive.
    pub containers: Vec<NetworkContainer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkContainer {
    pub id: String,
    /// With the prefix: `10.89.0.2/24`.
    pub addresses: Vec<String>,
}

/// What was of no use any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names of networks.
    pub networks: Vec<String>,
    /// Addresses and ports of containers that are not alive.
    pub claims: usize,
}

/// Not `From`, which would leave the type of many an `Ok` in this crate open.
pub(crate) fn refused(error: StoreError) -> Error {
    let code = match error.kind {
        Kind::Invalid => Code::Invalid,
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::Exists,
        Kind::InUse => Code::Busy,
        Kind::System => Code::System,
    };
    Error { code, message: error.message, hint: error.hint }
}

fn system(error: coracle_net::Error) -> Error {
    Error::new(Code::System, error.to_string())
}

/// What the kernel has of a network, in the caller's network namespace.
fn take_down(network: &Network) -> std::result::Result<(), StoreError> {
    let mut network = network.clone();
    if network.bridge.is_empty() {
        match coracle_net::find_bridge(&network)? {
            Some(bridge) => network.bridge = bridge,
            None => return Ok(()),
        }
    }
    match coracle_net::remove_bridge(&network) {
        // Somebody else's device has the name; ours is not there.
        Ok(_) | Err(coracle_net::Error { errno: Errno::EEXIST, .. }) => {}
        // Nor are its rules: those of this name are for that bridge.
        Err(coracle_net::Error { errno: Errno::ENOTUNIQ, .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // No living container has an address there; without the network, nobody would know whose the ports are.
    let mut left = coracle_net::publications()?;
    left.retain(|one| network.subnets.iter().any(|range| range.subnet.contains(one.container)));
    coracle_net::unpublish(&left)?; // what it may not cut off is told when a container is deleted
    Ok(coracle_net::dismiss(&network)?)
}

/// Why no address could be claimed. If that is because the network was removed since its bridge was raised, it is taken
/// down again.
pub(crate) fn not_claimed(store: &Store, network: &Network, error: StoreError) -> StoreError {
    if error.kind == Kind::NotFound
        && let Err(undo) = store.clear(network, &mut take_down)
    {
        return StoreError { message: format!("{error}; and {undo}"), ..error };
    }
    error
}

impl Runtime {
    /// Nothing is made in the kernel: the first container does that. Errors: [`Code::Exists`]; [`Code::Invalid`] for what
    /// cannot be a network here, as one whose addresses the host has routes to.
    pub fn create_network(&self, new: &NewNetwork) -> Result<Network> {
        self.make_root()?;
        store(&self.root).create(new, &coracle_net::occupied().map_err(system)?).map_err(refused)
    }

    /// A network's definition; `default` is made if it is not there yet. Errors: [`Code::NotFound`].
    pub fn network(&self, name: &str) -> Result<Network> {
        if name == DEFAULT {
            self.make_root()?;
        }
        store(&self.root).get(name, &|| Ok(coracle_net::occupied()?)).map_err(refused)
    }

    /// Every network, in order of name; one whose file cannot be read has an error in its place.
    pub fn networks(&self) -> Result<Vec<(String, Result<Network>)>> {
        let networks = store(&self.root).networks().map_err(refused)?;
        Ok(networks.into_iter().map(|(name, network)| (name, network.map_err(refused))).collect())
    }

    /// As [`Runtime::network`], and who has which of its addresses.
    pub fn inspect_network(&self, name: &str) -> Result<NetworkState> {
        let network = self.network(name)?;
        let up = coracle_net::has_link(&network.bridge).map_err(system)?;
        let mut containers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (address, owner) in store(&self.root).claims(name).map_err(refused)? {
            let range = network.subnets.iter().find(|range| range.subnet.contains(address));
            let prefix = range.map_or(String::new(), |range| format!("/{}", range.subnet.prefix));
            containers.entry(owner).or_default().push(format!("{address}{prefix}"));
        }
        containers.retain(|id, _| is_alive(&self.root, id));
        let containers =
            containers.into_iter().map(|(id, addresses)| NetworkContainer { id, addresses }).collect();
        Ok(NetworkState { network, up, containers })
    }

    /// Remove a network that no living container is connected to, with its bridge and rules in the caller's network
    /// namespace. Errors: [`Code::NotFound`]; [`Code::Busy`], which names the containers.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        store(&self.root).remove(name, &|id| is_alive(&self.root, id), &mut take_down).map_err(refused)
    }

    /// Remove every network without a living container but `default`, and what dead containers have claimed. What cannot be
    /// removed stays, and is the error when all else is done.
    pub fn prune_networks(&self) -> Result<Pruned> {
        let claims = store(&self.root).release_dead(&|id| is_alive(&self.root, id)).map_err(refused)?;
        let mut pruned = Pruned { networks: Vec::new(), claims };
        let mut failed = None;
        for (name, network) in self.networks()?.into_iter().filter(|(name, _)| name != DEFAULT) {
            // What cannot be read may be of use to another version.
            match network.and_then(|_| self.remove_network(&name)) {
                Ok(()) => pruned.networks.push(name),
                Err(error) if matches!(error.code, Code::Busy | Code::NotFound) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(pruned), Err)
    }
}

/// Where the definitions and claims are: beside the containers, under a name that no container can have.
pub(crate) fn store(root: &Path) -> Store {
    Store::open(&root.join(DIRECTORY))
}

/// Does a container of this id need its addresses? It does while its first process lives, while a command holds its lock, as
/// create and delete do, and while a link of it is there: others may be in its network namespace. What cannot be found out
/// is taken for a yes.
pub(crate) fn is_alive(root: &Path, id: &str) -> bool {
    let Ok(id) = Id::new(id) else { return false };
    let alive = || -> Result<bool> {
        let directory = Directory::open(root, &id)?;
        // Before the record is read: a create that ends in between has written it.
        if directory.is_locked()? {
            return Ok(true);
        }
        let record = match directory.read() {
            // What is in it is not known.
            Err(error) if error.code == Code::Invalid => return Ok(true),
            other => other?,
        };
        let Some(record) = record else { return Ok(false) };
        let (_, living) = status::derive(&directory, Some(&record))?;
        let mut links = record.network.iter().flat_map(|network| &network.interfaces);
        Ok(living.is_some() || links.any(|link| coracle_net::has_link(&link.host_name).unwrap_or(true)))
    };
    alive().unwrap_or_else(|error| error.code != Code::NotFound)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{Event, What};

    fn runtime() -> (tempfile::TempDir, Runtime) {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::open(&root.path().join("state")).unwrap();
        (root, runtime)
    }

    fn subnet(name: &str, subnet: &str) -> NewNetwork {
        NewNetwork { name: name.into(), subnets: vec![subnet.parse().unwrap()], ..NewNetwork::default() }
    }

    /// The store lies among the containers.
    #[test]
    fn networks_are_no_containers() {
        let (_root, runtime) = runtime();
        assert_eq!(runtime.networks().unwrap(), []);
        assert!(!runtime.root.exists());
        let mut follow = runtime.follow(None).unwrap();
        // TEST-NET-3: no host has a route to it.
        let network = runtime.create_network(&subnet("web", "203.0.113.0/24")).unwrap();
        assert_eq!(runtime.networks().unwrap(), [("web".to_string(), Ok(network))]);
        assert_eq!(runtime.list().unwrap(), []);
        assert_eq!(follow.next(), Ok(None::<Event>));
        drop(follow);
        // And not when they were there before.
        let mut follow = runtime.follow(None).unwrap();
        assert!(!matches!(follow.next(), Ok(Some(Event { what: What::Created { .. }, .. }))));
        assert_eq!(Id::new("@network").unwrap_err().code, Code::Invalid);
        assert_eq!(runtime.create_network(&subnet("web", "203.0.113.0/24")).unwrap_err().code, Code::Exists);
        assert_eq!(runtime.create_network(&subnet("b", "203.0.113.0/31")).unwrap_err().code, Code::Invalid);
        assert_eq!(runtime.inspect_network("db").unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn only_the_living_have_addresses() {
        let (_root, runtime) = runtime();
        let web = runtime.create_network(&subnet("web", "203.0.113.0/24")).unwrap();
        let claim = |owner: &str| store(&runtime.root).claim(&web, owner, &[], &|_| true).unwrap();
        // One that is being made, one that was left half made, one of which nothing is left, and what is no container.
        let (being, half) = (Id::new("being").unwrap(), Id::new("half").unwrap());
        let lock = Directory::claim(&runtime.root, &being).unwrap();
        drop(Directory::claim(&runtime.root, &half).unwrap());
        for owner in ["being", "half", "none", "no/id"] {
            claim(owner);
        }
        assert!(is_alive(&runtime.root, "being"));
        for dead in ["half", "none", "no/id", "@network", "..", ""] {
            assert!(!is_alive(&runtime.root, dead), "{dead}");
        }
        let state = runtime.inspect_network("web").unwrap();
        let being = NetworkContainer { id: "being".into(), addresses: vec!["203.0.113.2/24".into()] };
        assert_eq!((state.up, state.containers), (false, vec![being]));
        let error = runtime.remove_network("web").unwrap_err();
        assert_eq!(error.code, Code::Busy);
        assert_eq!(error.message, "network \"web\" is in use by container \"being\"");
        claim("none");
        assert_eq!(runtime.prune_networks(), Ok(Pruned { networks: vec![], claims: 1 }));
        let mine: IpAddr = "203.0.113.2".parse().unwrap();
        assert_eq!(store(&runtime.root).claims("web").unwrap(), [(mine, "being".to_string())]);
        drop(lock);
        assert!(!is_alive(&runtime.root, "being"));
        // A record that nobody understands may be of anything.
        std::fs::write(runtime.root.join("being/state.json"), "{").unwrap();
        assert!(is_alive(&runtime.root, "being"));
    }
}
