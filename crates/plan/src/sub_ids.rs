// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an ordinary caller can map into a user namespace, and who writes the maps.
//!
//! Never looks for ids or programs: they are facts. From [`crate::SubIds`] and the caller's own ids to maps and
//! [`MapWriter`]. The kernel's rules are in user_namespaces(7), those of the helpers in newuidmap(1) and subuid(5).

use crate::check::Check;
use crate::types::{Host, IdMap, MapWriter};

/// The kernel's limit for the lines of a map, less the caller's own.
const MAX_RANGES: usize = 339;

/// One of the two kinds of ids.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    place: &'static str,
    helper: &'static str,
    program: fn(&Host) -> &str,
}

pub(crate) const UIDS: Kind =
    Kind { place: "linux.uidMappings", helper: "newuidmap", program: |host| &host.sub_ids.newuidmap };
pub(crate) const GIDS: Kind =
    Kind { place: "linux.gidMappings", helper: "newgidmap", program: |host| &host.sub_ids.newgidmap };

/// The maps of a namespace that the document has not asked for, and why they are so: the caller is root, and what they
/// have of other ids follows from 1 on.
pub(crate) fn maps(host: &Host) -> (Vec<IdMap>, Vec<IdMap>, String) {
    let (euid, ids) = (host.euid, &host.sub_ids);
    let lacking = if ids.uids.is_empty() {
        Some(format!("/etc/subuid has no ids for uid {euid}"))
    } else if ids.gids.is_empty() {
        Some(format!("/etc/subgid has no ids for uid {euid}"))
    } else if ids.newuidmap.is_empty() || ids.newgidmap.is_empty() {
        Some("newuidmap and newgidmap are not installed (Debian: uidmap)".to_string())
    } else {
        None
    };
    match lacking {
        Some(lacking) => {
            let own = |host: u32| vec![IdMap { container: 0, host, size: 1 }];
            (own(euid), own(host.egid), format!("it has one id, because {lacking}"))
        }
        None => (
            full(euid, &ids.uids),
            full(host.egid, &ids.gids),
            "its ids are from /etc/subuid and /etc/subgid".to_string(),
        ),
    }
}

fn full(own: u32, ranges: &[(u32, u32)]) -> Vec<IdMap> {
    let mut map = vec![IdMap { container: 0, host: own, size: 1 }];
    let mut next = 1_u32;
    for &(first, count) in ranges.iter().take(MAX_RANGES) {
        let Some(end) = first.checked_add(count) else { continue };
        // A range that is given twice can be mapped once.
        if count == 0 || map.iter().any(|line| first < line.host + line.size && line.host < end) {
            continue;
        }
        let Some(after) = next.checked_add(count) else { break };
        map.push(IdMap { container: next, host: first, size: count });
        next = after;
    }
    map
}

pub(crate) fn writer(map: &[IdMap], own: u32, kind: Kind, host: &Host, check: &mut Check) -> MapWriter {
    if matches!(map, [only] if (only.host, only.size) == (own, 1)) {
        return MapWriter::OwnId;
    }
    let program = (kind.program)(host);
    if program.is_empty() && !map.is_empty() {
        let rule = format!(
            "an ordinary user maps others than the id {own} by {}, which is not installed (Debian: uidmap)",
            kind.helper
        );
        check.violation(kind.place, rule);
    }
    MapWriter::Helper(program.to_string())
}
