// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `network`: what can be made, what is listed, what is taken down again.
//! Never touches the host's network: each command runs in a network namespace of its own, or of the case's shell.
//! Expectations come from docs/networking.md.

use std::time::{Duration, Instant};

use runtime_tests::netns::{ip, leave_hosts_network, links};
use runtime_tests::{Bundle, Case, Invocation, Out, Test, Value, oar_only, run_case};

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

/// A state root beside the case's own, on the same host.
struct Second<'t> {
    t: &'t Test,
    ids: Vec<String>,
}

impl Second<'_> {
    fn rt(&self, args: &[&str]) -> Invocation {
        let root = self.t.dir.join("second");
        let mut argv = vec![self.t.runtime.clone().into_os_string(), "--root".into(), root.into()];
        argv.extend(args.iter().map(Into::into));
        self.t.program(argv)
    }

    fn create(&mut self, bundle: &Bundle, flags: &[&str]) -> Out {
        let id = self.t.id();
        self.t.write(bundle, &id);
        let directory = bundle.dir.to_str().unwrap();
        let out = self.rt(&[&["create", "--bundle", directory], flags, &[&id]].concat()).run();
        self.ids.push(id);
        out
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            self.rt(&["delete", "--force", id]).run();
        }
    }
}

fn idle(t: &Test) -> Bundle {
    let mut b = t.bundle();
    b.sh("exec sleep 1000");
    b
}

#[test]
fn two_state_roots_have_their_own_networks() {
    run_case(case(), |t| {
        leave_hosts_network();
        let mut second = Second { t, ids: Vec::new() };
        // Both before either bridge is up.
        t.rt(&["network", "create", "web"]).run().ok();
        second.rt(&["network", "create", "web"]).run().ok();
        second.rt(&["network", "create", "--subnet", "10.89.0.0/25", "mail"]).run().failed();
        let c = t.create_with(&idle(t), &["--network", "web", "--publish", "8080:80"]);
        // The second is of the rules: what `dismiss` takes back first.
        let bridge = || {
            let localnet = std::fs::read_to_string("/proc/sys/net/ipv4/conf/oar-web/route_localnet").unwrap();
            (ip("-o -4 addr show dev oar-web"), localnet)
        };
        let before = bridge();
        assert_eq!(before.1, "1\n");
        let root = t.state_root().canonicalize().unwrap();
        let says = format!("it belongs to network \"web\" of the state root {}", root.display());
        let refused = second.create(&idle(t), &["--network", "web"]);
        refused.failed().clean_error().says(&says).says("`oar network rm web`");
        // As it says; the other root keeps bridge and rules.
        second.rt(&["network", "rm", "web"]).run().ok();
        assert_eq!(bridge(), before);
        second.rt(&["network", "create", "web"]).run().ok();
        second.create(&idle(t), &["--network", "web"]).ok();
        let state = json(&second.rt(&["network", "inspect", "web"]).run());
        assert_ne!(state["bridge"], "oar-web");
        assert_eq!(state["subnets"][0]["subnet"], "10.89.1.0/24");
        assert_eq!(state["containers"][0]["addresses"][0], "10.89.1.2/24");
        assert_eq!(c.state()["network"]["interfaces"][0]["addresses"][0], "10.89.0.2/24");
        t.rt(&["network", "rm", "web"]).run().failed();
        c.kill("KILL").ok();
        c.wait();
        t.rt(&["delete", &c.id]).run().ok();
        t.rt(&["network", "rm", "web"]).run().ok();
        assert!(!links().contains(&"oar-web".to_string()));
    });
}

#[test]
fn a_port_of_another_state_root_is_refused() {
    run_case(case(), |t| {
        leave_hosts_network();
        let mut second = Second { t, ids: Vec::new() };
        let c = t.create_with(&idle(t), &["--network", "default", "--publish", "8080:80"]);
        for (port, shown) in [("8080:81", "8080/tcp"), ("127.0.0.1:8080:80", "127.0.0.1:8080/tcp")] {
            let says = format!("port {shown} is in use by a container of another state root (10.89.0.2)");
            let refused = second.create(&idle(t), &["--network", "default", "--publish", port]);
            refused.failed().clean_error().says(&says);
        }
        second.create(&idle(t), &["--network", "default", "--publish", "8080:80/udp"]).ok();
        t.rt(&["delete", "--force", &c.id]).run().ok();
        second.create(&idle(t), &["--network", "default", "--publish", "8080:80"]).ok();
    });
}

/// The port of one that was killed, and not deleted, is nobody's when its network is gone.
#[test]
fn a_network_takes_its_ports_with_it() {
    run_case(case(), |t| {
        leave_hosts_network();
        t.rt(&["network", "create", "web"]).run().ok();
        t.create_with(&idle(t), &["--network", "default"]);
        let c = t.create_with(&idle(t), &["--network", "web", "--publish", "8080:80"]);
        c.kill("KILL").ok();
        c.wait();
        let mut second = Second { t, ids: Vec::new() };
        let publish = ["--network", "default", "--publish", "8080:80"];
        second.create(&idle(t), &publish).failed().clean_error().says("another state root");
        // Its link goes with its namespace, a moment after the last process.
        let deadline = Instant::now() + Duration::from_secs(30);
        while ip("-o link show master oar-web").contains("oar") {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        t.rt(&["network", "rm", "web"]).run().ok();
        second.create(&idle(t), &publish).ok();
    });
}

#[test]
fn a_definition_that_cannot_be_read_is_in_nobodys_way() {
    run_case(case(), |t| {
        leave_hosts_network();
        t.rt(&["network", "create", "web"]).run().ok();
        let c = t.create_with(&idle(t), &["--network", "web"]);
        let path = t.state_root().join("@network/web.json");
        std::fs::write(&path, "{\"format\": 9}").unwrap();
        // Its bridge is up, and so is its subnet taken.
        let state = json(&t.rt(&["network", "inspect", "default"]).run());
        assert_eq!(state["subnets"][0]["subnet"], "10.89.1.0/24");
        t.rt(&["network", "rm", "web"]).run().failed().clean_error().says("in use by container").says(&c.id);
        t.rt(&["delete", "--force", &c.id]).run().ok();
        t.rt(&["network", "prune"]).run().failed().clean_error().says("it has format 9");
        assert!(path.exists());
        t.rt(&["network", "rm", "web"]).run().ok();
        assert!(!path.exists() && !links().contains(&"oar-web".to_string()));
        t.rt(&["network", "create", "web"]).run().ok();
    });
}
