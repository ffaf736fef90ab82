// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.sysctl`: only keys that belong to a namespace of the container.
//!
//! Never lets a key leave /proc/sys or reach one that the host shares (CVE-2022-0811 and its kin). To steps, sorted.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;

use crate::check::{Check, shown};
use crate::namespaces::Namespaces;
use crate::types::{Action, Namespace, Step};

/// A write to /proc/sys takes at most one page.
const MAX_VALUE: usize = 4096;

/// Below kernel/, of the IPC namespace (sysctl documentation, kernel.rst).
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shm_rmid_forced", "shmall", "shmmax", "shmmni"];

pub(crate) fn plan(spec: &Spec, namespaces: &Namespaces, check: &mut Check) -> Vec<Step> {
    let given = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    let domainname = spec.domainname().as_deref().is_some_and(|name| !name.is_empty());
    let mut keys: BTreeMap<String, (String, String)> = BTreeMap::new();
    // HashMap's order would differ from run to run.
    for (name, value) in given.into_iter().flatten().collect::<BTreeMap<_, _>>() {
        let place = format!("linux.sysctl[{:?}]", shown(name));
        let key = with_slashes(name);
        if let Err(rule) = allowed(&key, namespaces, domainname) {
            check.refuse("linux.sysctl", &rule, name);
            continue;
        }
        if value.contains(['\0', '\n']) || value.len() >= MAX_VALUE {
            check.refuse(
                &place,
                &format!("the value must be one line of less than {MAX_VALUE} bytes"),
                value,
            );
        }
        if keys.insert(key, (value.clone(), place.clone())).is_some() {
            check.refuse(
                "linux.sysctl",
                "the key is given twice, once with dots and once with slashes",
                name,
            );
        }
    }
    keys.into_iter()
        .map(|(key, (value, place))| Step { action: Action::Sysctl { key, value }, place })
        .collect()
}

/// As sysctl(8) reads a key: if a slash comes first, it separates, else dots do and slashes stand for dots (of
/// interface names such as eth0.100).
fn with_slashes(name: &str) -> String {
    match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some(".") => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_string(),
    }
}

fn allowed(key: &str, namespaces: &Namespaces, domainname: bool) -> Result<(), String> {
    if !key.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@".contains(c)) {
        return Err("a key has letters, digits and _ - . / : @ only".to_string());
    }
    let parts: Vec<&str> = key.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Err("a key must not have an empty, . or .. component".to_string());
    }
    let (namespace, name) = match parts[..] {
        ["kernel", "hostname"] => return Err("is set by the field hostname".to_string()),
        ["kernel", "domainname"] if domainname => {
            return Err("contradicts the field domainname".to_string());
        }
        ["kernel", "domainname"] => (Namespace::Uts, "uts"),
        ["kernel", name] if IPC.contains(&name) => (Namespace::Ipc, "ipc"),
        ["fs", "mqueue", _, ..] => (Namespace::Ipc, "ipc"),
        ["net", _, ..] => (Namespace::Network, "network"),
        ["user", _, ..] => (Namespace::User, "user"),
        _ => return Err("belongs to no namespace, so it would change the host".to_string()),
    };
    if namespaces.has(namespace) {
        Ok(())
    } else {
        Err(format!("needs a {name} namespace in linux.namespaces"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t85_the_first_separator_decides() {
        for (given, wanted) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("net.ipv4.../../../kernel/core_pattern", "net/ipv4///.//.//.kernel.core_pattern"),
        ] {
            assert_eq!(with_slashes(given), wanted);
        }
    }
}
