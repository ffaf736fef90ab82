// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.netDevices`: which of the host's network devices move into the container.
//!
//! Never looks for a device: the runtime does when it moves it. To [`crate::Outside`], sorted by name.

use std::collections::BTreeMap;

use oci_spec::runtime::Linux;

use crate::check::{Check, shown};
use crate::namespaces::Namespaces;
use crate::types::{Host, Interface, Namespace, NetDevice};

/// IFNAMSIZ without the NUL at its end.
const MAX_NAME: usize = 15;

pub(crate) fn plan(
    linux: Option<&Linux>,
    host: &Host,
    namespaces: &Namespaces,
    interfaces: &[Interface],
    check: &mut Check,
) -> Vec<NetDevice> {
    let given: BTreeMap<_, _> = linux.and_then(|l| l.net_devices().as_ref()).into_iter().flatten().collect();
    if given.is_empty() {
        return Vec::new();
    }
    if !namespaces.has(Namespace::Network) {
        check.violation("linux.netDevices", "needs a network namespace in linux.namespaces");
    }
    if !host.privileged {
        check.violation("linux.netDevices", "moving a device needs CAP_NET_ADMIN on the host");
    }
    let mut devices: Vec<NetDevice> = Vec::new();
    for (host_name, device) in given {
        let place = format!("linux.netDevices[{:?}]", shown(host_name));
        if let Err(rule) = name(host_name, false) {
            check.refuse("linux.netDevices", &rule, host_name);
        }
        let container_name = match device.name().as_deref() {
            None | Some("") => host_name.clone(),
            Some(given) => {
                if let Err(rule) = name(given, true) {
                    check.refuse(format!("{place}.name"), &rule, given);
                }
                given.to_string()
            }
        };
        if !container_name.contains("%d")
            && devices.iter().any(|other| other.container_name == container_name)
        {
            check.refuse(format!("{place}.name"), "two devices cannot have one name", &container_name);
        }
        // A template gets the next free name: interfaces are there first.
        if let Some(taken) = interfaces.iter().find(|interface| interface.name == container_name) {
            let rule =
                format!("the container's interface on network {} has that name", shown(&taken.network));
            check.refuse(format!("{place}.name"), &rule, &container_name);
        }
        devices.push(NetDevice { host_name: host_name.clone(), container_name, place });
    }
    devices
}

/// The kernel's dev_valid_name, and its one template.
fn name(name: &str, template: bool) -> Result<(), String> {
    let plain = if template { name.replacen("%d", "0", 1) } else { name.to_string() };
    if name.is_empty() || name.len() > MAX_NAME {
        Err(format!("a device name has 1 to {MAX_NAME} bytes"))
    } else if matches!(name, "." | "..")
        || name.contains(['/', ':', '\0'])
        || name.contains(char::is_whitespace)
    {
        Err("a device name must not be . or .., nor hold /, : or a space".to_string())
    } else if plain.contains('%') {
        Err("a device name may hold %d once, and only as the new name".to_string())
    } else {
        Ok(())
    }
}
