// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `events --stats`: its JSON line, and that the numbers are those of the container.
//! Never makes a link in the host's network namespace: devices are in the namespace of a process of the case.
//! Expectations come from runc's document; from config-linux.md where limits are set.

use runtime_tests::{Case, Container, Value, any, json, oar_only, run_case};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn case() -> Case {
    any().differs("crun", "it has no events")
}

fn data(c: &Container<'_>) -> Value {
    let out = c.verb(&["events", "--stats"]);
    let text = out.ok();
    assert_eq!((text.matches('\n').count(), text.ends_with('\n')), (1, true), "{out}\nexpected: one line");
    assert!(out.stderr.is_empty(), "{out}");
    let line: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{out}\n{e}"));
    assert_eq!((&line["type"], &line["id"]), (&json!("stats"), &json!(c.id)), "{out}");
    line["data"].clone()
}

fn number(data: &Value, pointer: &str) -> u64 {
    let value = data.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {data}"));
    value.as_u64().unwrap_or_else(|| panic!("{pointer} is {value}"))
}

/// Is the controller there at all, on v1 or v2?
fn controller(name: &str) -> bool {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let listed = |root: &Path| {
        let text = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().any(|word| word == name)
    };
    roots[0].join(name).join("cgroup.procs").exists() || roots.into_iter().any(listed)
}

#[test]
fn the_line_is_runcs() {
    run_case(case().needs(controller("memory") && controller("pids"), "memory and pids"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources", json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 77}}));
        b.sh("echo up; exec sleep 1000");
        let c = t.create(&b);
        c.start();
        t.wait_for(&t.dir, || c.output().contains("up"));
        let data = data(&c);
        for part in ["cpu", "memory", "pids", "blkio", "hugetlb"] {
            assert!(data[part].is_object(), "{part} in {data}");
        }
        assert_eq!(number(&data, "/pids/current"), 1);
        assert_eq!(number(&data, "/pids/limit"), 77);
        assert_eq!(number(&data, "/memory/usage/limit"), 64 << 20);
        let usage = number(&data, "/memory/usage/usage");
        assert!((4096..64 << 20).contains(&usage), "{data}");
        assert!(number(&data, "/cpu/usage/total") > 0, "{data}");
        assert!(data["memory"]["raw"].as_object().is_some_and(|raw| raw.len() > 10), "{data}");
    });
}

#[test]
fn cpu_time_grows_with_the_work_done() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo worked; exec sleep 1000");
        let c = t.create(&b);
        // A created container has numbers too.
        let before = number(&data(&c), "/cpu/usage/total");
        c.start();
        t.wait_for(&t.dir, || c.output().contains("worked"));
        let after = number(&data(&c), "/cpu/usage/total");
        assert!(after > before + 10_000_000, "{before} and then {after} ns");
    });
}

#[test]
fn a_kill_for_want_of_memory_is_counted() {
    let wanted = oar_only("data.memory.events").needs(controller("memory"), "memory");
    run_case(wanted, |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/memory", json!({"limit": 32 << 20}));
        b.sh("head -c 200m /dev/zero | tail > /dev/null; echo over; exec sleep 1000");
        let c = t.create(&b);
        assert_eq!(number(&data(&c), "/memory/events/oom_kill"), 0);
        c.start();
        t.wait_for(&t.dir, || c.output().contains("over"));
        let data = data(&c);
        assert!(number(&data, "/memory/events/oom_kill") >= 1, "{data}");
        assert!(number(&data, "/memory/usage/failcnt") >= 1, "{data}");
    });
}

/// A process in a network namespace of its own, with a pair of devices; both end with it.
struct Network(Child);

impl Network {
    fn new() -> Network {
        let script = "ip link add made0 type veth peer name made1 && ip addr add 192.0.2.5/24 dev made0 && \
                      ip link set made0 up && ip link set made1 up && echo ready && exec sleep 1000";
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut network = Network(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(network.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn traffic_is_counted_in_the_containers_namespace() {
    run_case(oar_only("others count no traffic of a namespace that an engine made"), |t| {
        let network = Network::new();
        let mut b = t.bundle();
        b.namespace("network", &format!("/proc/{}/ns/net", network.0.id()));
        // A question that nobody answers: one ARP frame.
        b.sh("arping -c 1 -w 1 -I made0 192.0.2.9; echo asked; exec sleep 1000");
        let c = t.create(&b);
        let devices = |data: &Value| {
            let list = data["network_interfaces"].as_array().unwrap().clone();
            let names: Vec<_> = list.iter().map(|one| one["Name"].as_str().unwrap()).collect();
            // Without lo.
            assert_eq!(names.len(), 2, "{list:?}");
            let find = |name| list.iter().find(|one| one["Name"] == name).unwrap().clone();
            (find("made0"), find("made1"))
        };
        let before = devices(&data(&c));
        c.start();
        t.wait_for(&t.dir, || c.output().contains("asked"));
        let after = devices(&data(&c));
        let more = |key: &str, before: &Value, after: &Value| {
            after[key].as_u64().unwrap() - before[key].as_u64().unwrap()
        };
        assert!(more("TxPackets", &before.0, &after.0) >= 1, "{after:?}");
        assert!(more("TxBytes", &before.0, &after.0) >= 42, "{after:?}");
        assert!(more("RxPackets", &before.1, &after.1) >= 1, "{after:?}");
        assert!(more("RxBytes", &before.1, &after.1) >= 42, "{after:?}");
    });
}

#[test]
fn the_hosts_devices_are_not_the_containers() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.without_namespace("network").unmount("/sys");
        let c = t.create(&b);
        let data = data(&c);
        let devices = &data["network_interfaces"];
        assert!(devices.is_null() || *devices == json!([]), "{data}");
    });
}

#[test]
fn a_container_that_has_ended_has_no_numbers() {
    run_case(case(), |t| {
        let c = t.create(&t.bundle());
        c.start();
        c.wait();
        c.verb(&["events", "--stats"]).failed().says("not running");
        c.verb(&["delete"]).ok();
        c.verb(&["events", "--stats"]).failed().says(t.unknown());
    });
}

#[test]
fn without_stats_it_is_refused() {
    run_case(oar_only("what a later issue brings is refused, never half done"), |t| {
        let c = t.create(&t.bundle());
        c.verb(&["events"]).clean_error().says("events is not in this version");
        c.verb(&["events", "--interval", "5s"]).clean_error().says("events is not in this version");
    });
}
