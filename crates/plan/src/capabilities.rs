// SPDX-License-Identifier: MIT OR Apache-2.0
//! `process.capabilities`: the five sets as bits.
//!
//! Never applies them: init does, and reads them back. Names and numbers are the `caps` crate's.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, LinuxCapabilities};

use crate::check::Check;
use crate::namespaces::Namespaces;
use crate::types::Host;

/// The capabilities that can be named in a document, in the kernel's order. For the features document.
pub fn capability_names() -> Vec<String> {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

/// Is this the exact name of a capability? The document's crate also takes `cap_kill` and `KILL`, which other
/// runtimes drop; a config must not mean more here than there.
pub(crate) fn is_known(name: &str) -> bool {
    caps::Capability::from_str(name).is_ok()
}

/// One bit for each capability number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

pub(crate) fn plan(
    given: Option<&LinuxCapabilities>,
    host: &Host,
    namespaces: &Namespaces,
    check: &mut Check,
) -> Sets {
    let Some(given) = given else {
        return Sets::default();
    };
    // A process in another user namespace begins with all that the kernel has.
    let kernel = if host.last_capability >= 63 { u64::MAX } else { (1 << (host.last_capability + 1)) - 1 };
    let available = if namespaces.user() { kernel } else { kernel & host.bounding };
    let mut dropped = 0;
    let mut set = |names: &Option<Capabilities>| {
        let bits = names.iter().flatten().filter_map(number).fold(0, |bits, number| bits | 1 << number);
        dropped |= bits & !available;
        bits & available
    };
    let sets = Sets {
        bounding: set(given.bounding()),
        effective: set(given.effective()),
        permitted: set(given.permitted()),
        inheritable: set(given.inheritable()),
        ambient: set(given.ambient()),
    };
    for (number, name) in
        capability_names().iter().enumerate().filter(|&(number, _)| dropped & 1 << number != 0)
    {
        let why = if kernel & 1 << number == 0 {
            "is not known to this kernel"
        } else {
            "is not in the caller's bounding set"
        };
        check.warn("process.capabilities", format!("{name} {why}, dropped"));
    }
    if let Some(name) = first(sets.effective & !sets.permitted) {
        check.refuse("process.capabilities.effective", "must be a subset of permitted", name);
    }
    // The kernel grants no more (capabilities(7)); documents by `runc spec` and `crun spec` ask for more.
    let possible = sets.inheritable & sets.permitted;
    if sets.ambient & !possible != 0 {
        let names: Vec<String> = capability_names()
            .into_iter()
            .enumerate()
            .filter(|(number, _)| sets.ambient & !possible & 1 << number != 0)
            .map(|(_, name)| name)
            .collect();
        check.warn(
            "process.capabilities.ambient",
            format!("{} must be inheritable and permitted too, dropped", names.join(", ")),
        );
    }
    Sets { ambient: sets.ambient & possible, ..sets }
}

fn number(capability: &oci_spec::runtime::Capability) -> Option<u8> {
    caps::Capability::from_str(&format!("CAP_{capability}")).ok().map(|c| c.index())
}

fn first(bits: u64) -> Option<String> {
    capability_names()
        .into_iter()
        .enumerate()
        .find(|&(number, _)| bits & 1 << number != 0)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_kernels_order_without_gaps() {
        let names = capability_names();
        assert_eq!(names.len(), 41);
        assert_eq!(
            (names[0].as_str(), names[21].as_str(), names[40].as_str()),
            ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE")
        );
        for (index, name) in names.iter().enumerate() {
            assert_eq!(usize::from(caps::Capability::from_str(name).unwrap().index()), index);
        }
    }

    #[test]
    fn every_capability_of_the_document_has_a_number() {
        for name in capability_names() {
            let parsed: oci_spec::runtime::Capability = serde_json::from_str(&format!("{name:?}")).unwrap();
            assert_eq!(number(&parsed), Some(caps::Capability::from_str(&name).unwrap().index()), "{name}");
        }
        assert!(
            is_known("CAP_KILL") && !is_known("cap_kill") && !is_known("KILL") && !is_known("CAP_FUTURE")
        );
    }
}
