// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `network`: what can be made, what is listed, what is taken down again.
//! Never touches the host's network: each command runs in a network namespace of its own, or of the case's shell.
//! Expectations come from docs/networking.md.

use runtime_tests::{Case, Out, Test, Value, oar_only, run_case};

fn case() -> Case {
    oar_only("others have no networks")
}

/// `oar network …` in a new network namespace, after a script.
fn network(t: &Test, script: &str, args: &[&str]) -> Out {
    let mut argv = vec![t.runtime.clone().into_os_string(), "--root".into(), t.state_root().into()];
    argv.push("network".into());
    argv.extend(args.iter().map(Into::into));
    let shell = format!("set -e; {script}\nexec \"$@\"");
    t.program(argv).wrap(&["unshare", "-n", "sh", "-c", &shell, "sh"]).run()
}

#[track_caller]
fn json(out: &Out) -> Value {
    serde_json::from_str(out.ok()).unwrap_or_else(|error| panic!("{out}\n{error}"))
}

#[test]
fn made_listed_inspected_and_removed() {
    run_case(case(), |t| {
        assert_eq!(network(t, "", &["ls"]).ok(), "NAME        BRIDGE      SUBNETS     FLAGS\n");
        let out =
            network(t, "", &["create", "--subnet", "10.1.2.0/24", "--gateway=10.1.2.9", "--internal", "web"]);
        assert_eq!(out.ok(), "web\n");
        network(t, "", &["create", "--ipv6", "--mtu", "1400", "--isolate", "a-network-with-a-long-name"])
            .ok();
        assert_eq!(network(t, "", &["ls", "-q"]).ok(), "a-network-with-a-long-name\nweb\n");
        let list = json(&network(t, "", &["ls", "--json"]));
        assert_eq!(list[1]["name"], "web");
        assert_eq!(list[1]["bridge"], "oar-web");
        assert_eq!(list[1]["subnets"][0]["gateway"], "10.1.2.9");
        assert_eq!(list[1]["internal"], true);
        assert_eq!(list[0]["subnets"][0]["subnet"], "10.89.0.0/24");
        assert!(list[0]["subnets"][1]["subnet"].as_str().unwrap().starts_with("fd"));
        assert_eq!(list[0]["bridge"].as_str().unwrap().len(), 15);
        let table = network(t, "", &["ls"]);
        assert!(table.ok().contains("oar-web") && table.stdout.contains("internal"), "{table}");

        let state = json(&network(t, "", &["inspect", "web"]));
        assert_eq!(state["name"], "web");
        assert_eq!((&state["up"], &state["containers"]), (&Value::Bool(false), &Value::Array(vec![])));
        // The store is none of the containers.
        assert_eq!(t.rt(&["list", "-q"]).run().ok(), "");

        network(t, "", &["rm", "web"]).ok();
        network(t, "", &["inspect", "web"]).clean_error().says("network \"web\" does not exist");
        assert_eq!(network(t, "", &["prune"]).ok(), "a-network-with-a-long-name\n");
        assert_eq!(network(t, "", &["ls", "-q"]).ok(), "");
    });
}

#[test]
fn what_cannot_be_is_refused() {
    run_case(case(), |t| {
        let route = "ip link add made0 type veth peer name made1; ip addr add 10.1.2.1/16 dev made0; ip link set made0 up";
        for (args, says) in [
            (
                &["--subnet", "10.1.2.0/24", "web"][..],
                "subnet 10.1.2.0/24 overlaps with the host's 10.1.0.0/16",
            ),
            (&["--subnet", "10.2.0.0/31", "web"], "too small"),
            (&["--subnet", "10.2.0.5/24", "web"], "10.2.0.0/24 is the subnet"),
            (&["--subnet", "10.2.0.0/24", "--gateway", "10.3.0.1", "web"], "outside of 10.2.0.0/24"),
            (&["--gateway", "10.3.0.1", "web"], "none is given"),
            (&["--mtu", "1", "web"], "mtu 1"),
            (&["host"], "invalid network name \"host\""),
            (&["a/b"], "only letters"),
            (&[], "a name is missing"),
        ] {
            let args: Vec<&str> = [&["create"], args].concat();
            network(t, route, &args).clean_error().says(says);
        }
        network(t, "", &["create", "web"]).ok();
        network(t, "", &["create", "web"]).clean_error().says("network \"web\" already exists");
        network(t, "", &["rm", "db"]).clean_error().says("does not exist");
        network(t, "", &["frob"]).clean_error().says("unknown command");
    });
}

#[test]
fn the_default_network_needs_no_create() {
    run_case(case(), |t| {
        let route = "ip link add made0 type veth peer name made1; ip addr add 10.89.0.1/23 dev made0; ip link set made0 up";
        let state = json(&network(t, route, &["inspect", "default"]));
        assert_eq!(
            (&state["bridge"], &state["subnets"][0]["subnet"]),
            (&"oar0".into(), &"10.89.2.0/24".into())
        );
        // It stays as it is, whatever the host has by then; and prune leaves it.
        assert_eq!(network(t, "", &["prune"]).ok(), "");
        let again = json(&network(t, "", &["inspect", "default"]));
        assert_eq!(again["subnets"], state["subnets"]);
        network(t, "", &["rm", "default"]).ok();
    });
}

/// A device that is not ours stays, although it has the bridge's name.
#[test]
fn a_strangers_device_stays() {
    run_case(case(), |t| {
        network(t, "", &["create", "web"]).ok();
        let root = t.state_root().to_str().unwrap().to_owned();
        let runtime = t.runtime.to_str().unwrap().to_owned();
        let script = "ip link add oar-web type veth peer name made1 && \"$1\" --root \"$2\" network inspect web && \
                      \"$1\" --root \"$2\" network rm web && ip link show oar-web";
        let argv = ["unshare", "-n", "sh", "-c", script, "sh", &runtime, &root];
        let out = t.program(argv.map(Into::into).to_vec()).run();
        assert!(out.ok().contains("\"up\": true"), "{out}");
    });
}
