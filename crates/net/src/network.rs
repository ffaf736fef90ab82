// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a network is: a bridge, its subnets, and who may reach whom. Pure data; the other files of this crate act on it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The addresses of one family that a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    /// The first address: no bit behind the prefix is set.
    pub network: IpAddr,
    /// Bits, 0 to 32 or 128.
    pub prefix: u8,
}

impl Subnet {
    /// The subnet in which the address is, with its host bits cleared. None: such a prefix does not exist.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Subnet> {
        let network = match address {
            IpAddr::V4(address) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(address) & mask).into())
            }
            _ => return None,
        };
        Some(Subnet { network, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && Subnet::of(address, self.prefix) == Some(*self)
    }

    /// Has one an address that the other one has too?
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// `10.1.2.0/24`; host bits are an error, because they are more often a slip than meant.
impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Subnet, String> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?))
        });
        let Some((address, prefix)) = parsed else {
            return Err(format!("{text:?} is not a subnet such as 10.1.2.0/24"));
        };
        match Subnet::of(address, prefix) {
            Some(subnet) if subnet.network == address => Ok(subnet),
            Some(subnet) => Err(format!("{text:?} has host bits: {subnet} is the subnet")),
            None => Err(format!("{text:?}: there is no prefix of {prefix} bits")),
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Subnet, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// A bridge of ours with its subnets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    pub name: String,
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
    /// One of IPv4, one of IPv6, or both; the gateway is the bridge's own address there.
    pub subnets: Vec<Range>,
    /// Bytes; 0: the kernel's default.
    pub mtu: u32,
    /// Its containers reach each other and the host's address, and nothing behind it.
    pub internal: bool,
    /// Other networks of ours and this one do not reach each other.
    pub isolate: bool,
    /// Whose it is: the directory of its store, which the bridge's alias names. A host may have several.
    #[serde(skip)]
    pub store: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    pub subnet: Subnet,
    pub gateway: IpAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Publication {
    /// Of the host; None: every address that it has, of the family of `container`.
    pub host: Option<IpAddr>,
    pub host_port: u16,
    pub protocol: Protocol,
    pub container: IpAddr,
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_as_text() {
        for text in ["10.1.2.0/24", "0.0.0.0/0", "192.0.2.1/32", "fd00::/64", "::/0", "fd00::1/128"] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for (text, says) in [
            ("10.1.2.3/24", "10.1.2.0/24 is the subnet"),
            ("10.0.0.0/33", "no prefix of 33 bits"),
            ("fd00::/129", "no prefix of 129 bits"),
            ("10.0.0.0", "is not a subnet"),
            ("10.0.0/24", "is not a subnet"),
            ("/8", "is not a subnet"),
            ("10.0.0.0/-1", "is not a subnet"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_in_a_subnet() {
        assert!(subnet("10.1.2.0/24").contains("10.1.2.255".parse().unwrap()));
        assert!(!subnet("10.1.2.0/24").contains("10.1.3.0".parse().unwrap()));
        assert!(!subnet("0.0.0.0/0").contains("::".parse().unwrap()));
        assert!(subnet("fd00::/64").contains("fd00::ffff:1".parse().unwrap()));
        assert!(subnet("10.0.0.0/8").overlaps(&subnet("10.1.2.0/24")));
        assert!(subnet("10.1.2.0/24").overlaps(&subnet("0.0.0.0/0")));
        assert!(!subnet("10.1.2.0/24").overlaps(&subnet("10.1.3.0/24")));
        assert!(!subnet("0.0.0.0/0").overlaps(&subnet("::/0")));
    }
}
