// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.memoryPolicy`: set_mempolicy(2)'s arguments.
//!
//! Never asks the kernel for its nodes: they are a host fact. To one step.

use oci_spec::runtime::{Linux, MemoryPolicyFlagType, MemoryPolicyModeType};

use crate::check::Check;
use crate::list;
use crate::types::{Action, Host, Step};

const STATIC_NODES: u32 = 1 << 15;
const RELATIVE_NODES: u32 = 1 << 14;
const NUMA_BALANCING: u32 = 1 << 13;

/// Modes for the features document; their numbers are linux/mempolicy.h's.
pub fn memory_policy_modes() -> Vec<&'static str> {
    vec![
        "MPOL_DEFAULT",
        "MPOL_BIND",
        "MPOL_INTERLEAVE",
        "MPOL_WEIGHTED_INTERLEAVE",
        "MPOL_PREFERRED",
        "MPOL_PREFERRED_MANY",
        "MPOL_LOCAL",
    ]
}

/// Flags for the features document.
pub fn memory_policy_flags() -> Vec<&'static str> {
    vec!["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]
}

pub(crate) fn plan(linux: Option<&Linux>, host: &Host, check: &mut Check) -> Option<Step> {
    const PLACE: &str = "linux.memoryPolicy";
    let given = linux.and_then(|l| l.memory_policy().as_ref())?;
    let (number, takes_nodes, needs_nodes) = match given.mode() {
        MemoryPolicyModeType::MpolDefault => (0, false, false),
        // Without nodes it means the local one.
        MemoryPolicyModeType::MpolPreferred => (1, true, false),
        MemoryPolicyModeType::MpolBind => (2, true, true),
        MemoryPolicyModeType::MpolInterleave => (3, true, true),
        MemoryPolicyModeType::MpolLocal => (4, false, false),
        MemoryPolicyModeType::MpolPreferredMany => (5, true, true),
        MemoryPolicyModeType::MpolWeightedInterleave => (6, true, true),
    };
    let flags = given.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFStaticNodes => STATIC_NODES,
                MemoryPolicyFlagType::MpolFRelativeNodes => RELATIVE_NODES,
                MemoryPolicyFlagType::MpolFNumaBalancing => NUMA_BALANCING,
            }
    });
    let text = given.nodes().as_deref().unwrap_or_default();
    if !takes_nodes && !text.is_empty() {
        check.refuse(format!("{PLACE}.nodes"), "this mode takes no nodes", text);
    }
    if needs_nodes && text.is_empty() {
        check.violation(format!("{PLACE}.nodes"), format!("{} needs nodes", given.mode()));
    }
    if flags & STATIC_NODES != 0 && flags & RELATIVE_NODES != 0 {
        check.violation(format!("{PLACE}.flags"), "static and relative nodes exclude each other");
    }
    if flags & (STATIC_NODES | RELATIVE_NODES) != 0 && text.is_empty() {
        check.violation(format!("{PLACE}.flags"), "static or relative nodes without any nodes");
    }
    if flags & NUMA_BALANCING != 0 && !matches!(number, 2 | 5) {
        let rule = "NUMA balancing goes with MPOL_BIND or MPOL_PREFERRED_MANY only";
        check.refuse(format!("{PLACE}.flags"), rule, given.mode());
    }
    let mut nodes: Vec<u64> = Vec::new();
    if !text.is_empty() {
        match list::ranges(text) {
            Err(rule) => check.refuse(format!("{PLACE}.nodes"), &rule, text),
            Ok(ranges) => {
                // Relative nodes count within what the process may use, so they need not exist by these numbers.
                if flags & RELATIVE_NODES == 0
                    && let Some(node) = list::first_missing(&ranges, &host.numa_nodes)
                {
                    check.refuse(format!("{PLACE}.nodes"), &format!("this host has no node {node}"), text);
                }
                nodes = bits(&ranges);
            }
        }
    }
    Some(Step { action: Action::MemoryPolicy { mode: number | flags, nodes }, place: PLACE.to_string() })
}

fn bits(ranges: &[(u32, u32)]) -> Vec<u64> {
    let last = ranges.iter().map(|&(_, last)| last).max().unwrap_or(0);
    let mut words = vec![0; last as usize / 64 + 1];
    for node in ranges.iter().flat_map(|&(first, last)| first..=last) {
        words[node as usize / 64] |= 1 << (node % 64);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_bits_of_words() {
        assert_eq!(bits(&[(0, 1), (65, 65)]), [0b11, 0b10]);
        assert_eq!(bits(&[(63, 64)]), [1 << 63, 1]);
    }
}
