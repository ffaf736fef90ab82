// SPDX-License-Identifier: MIT OR Apache-2.0
//! `network`: what its flags say, and the table of its list.
//! Decides nothing about networks: which may be is the library's to say.
//! Definitions go to the library; names, a table or JSON go to stdout.

use coracle_runtime::{Code, Error, NewNetwork, Result, Runtime};

use crate::flags::Options;
use crate::list;
use crate::log::{Log, escape};
use crate::verbs::{print, print_json, print_line};

const HEAD: [&str; 4] = ["NAME", "BRIDGE", "SUBNETS", "FLAGS"];

/// Prints the name, as engines do.
pub(crate) fn create(runtime: &Runtime, name: &str, options: &Options) -> Result<u8> {
    let network = runtime.create_network(&wanted(name, options)?)?;
    print_line(&network.name)
}

fn wanted(name: &str, options: &Options) -> Result<NewNetwork> {
    let subnet = |text: &String| {
        text.parse().map_err(|why: String| Error::new(Code::Invalid, format!("--subnet: {why}")))
    };
    let gateway = |text: &String| {
        text.parse().map_err(|_| Error::new(Code::Invalid, format!("--gateway: {text:?} is not an address")))
    };
    Ok(NewNetwork {
        name: name.to_string(),
        subnets: options.subnets.iter().map(subnet).collect::<Result<_>>()?,
        gateways: options.gateways.iter().map(gateway).collect::<Result<_>>()?,
        ipv6: options.ipv6,
        mtu: options.mtu,
        internal: options.internal,
        isolate: options.isolate,
    })
}

pub(crate) fn list(runtime: &Runtime, options: &Options, log: &Log) -> Result<u8> {
    let (mut names, mut rows, mut networks) = (String::new(), Vec::new(), Vec::new());
    for (name, network) in runtime.networks()? {
        names.push_str(&format!("{name}\n"));
        match network {
            Ok(network) => {
                let subnets: Vec<String> =
                    network.subnets.iter().map(|range| range.subnet.to_string()).collect();
                let flags = [("internal", network.internal), ("isolate", network.isolate)];
                let flags: Vec<&str> = flags.iter().filter(|(_, is)| *is).map(|(flag, _)| *flag).collect();
                let bridge = escape(&network.bridge).into_owned();
                rows.push([name, bridge, subnets.join(","), flags.join(",")]);
                networks.push(network);
            }
            Err(error) => {
                log.warning(&error.to_string());
                rows.push([name, "-".into(), "unreadable".into(), String::new()]);
            }
        }
    }
    if options.quiet {
        return print(&names);
    }
    if options.json {
        return print_json(serde_json::to_string_pretty(&networks));
    }
    let table = list::columns(&HEAD.map(String::from), &rows);
    // The last cell may be empty.
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    print_line(&lines.join("\n"))
}

pub(crate) fn prune(runtime: &Runtime, log: &Log) -> Result<u8> {
    let pruned = runtime.prune_networks()?;
    log.debug(&format!("{} claims of dead containers released", pruned.claims));
    print(&pruned.networks.iter().map(|name| format!("{name}\n")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_flags_say() {
        let options = Options {
            subnets: vec!["10.1.2.0/24".into(), "fd00::/64".into()],
            gateways: vec!["fd00::9".into()],
            mtu: 1400,
            internal: true,
            ..Options::default()
        };
        let wanted_network = wanted("web", &options).unwrap();
        assert_eq!(wanted_network.subnets.len(), 2);
        assert_eq!(wanted_network.gateways, ["fd00::9".parse::<std::net::IpAddr>().unwrap()]);
        assert!(wanted_network.internal && !wanted_network.isolate && !wanted_network.ipv6);

        let bad = Options { subnets: vec!["10.1.2.3/24".into()], ..Options::default() };
        let error = wanted("web", &bad).unwrap_err();
        assert_eq!(error.message, "--subnet: \"10.1.2.3/24\" has host bits: 10.1.2.0/24 is the subnet");
        let bad = Options { gateways: vec!["x".into()], ..Options::default() };
        assert_eq!(wanted("web", &bad).unwrap_err().message, "--gateway: \"x\" is not an address");
    }
}
