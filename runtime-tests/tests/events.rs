// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `events`: statistics, that the numbers are those of the container, the stream of them, and what `--follow` tells.
//! Never makes a link in the host's network namespace: devices are in the namespace of a process of the case.
//! Expectations come from runc's document; from config-linux.md where limits are set; from docs/events.md.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime_tests::{
    Bundle, Case, Container, Kind, Running, Test, Value, any, has_controller, json, oar_only, pure_v2,
    run_case,
};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// Ended is ended, whether its parent has reaped it or not.
#[test]
fn what_has_ended_and_is_not_reaped_is_not_running() {
    run_case(case(), |t| {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let c = t.create(&t.bundle());
        c.start();
        waitid(Id::Pid(Pid::from_raw(c.pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        c.verb(&["events"]).failed().says("not running");
        if t.kind == Kind::Oar {
            c.verb(&["events", "--follow"]).clean_error().says("container not running");
        }
        c.wait();
    });
}

/// A run in the background whose lines are read while it writes them; it ends with the case.
struct Lines<'t> {
    test: &'t Test,
    running: Option<Running>,
}

impl<'t> Lines<'t> {
    fn of(test: &'t Test, args: &[&str]) -> Lines<'t> {
        Lines { test, running: Some(test.rt(args).deadline(60).spawn()) }
    }

    /// `events --follow` from the moment on when it misses nothing.
    fn follow(test: &'t Test, ids: &[&str]) -> Lines<'t> {
        let lines = Lines::of(test, &[&["events", "--follow"], ids].concat());
        lines.until(|all| all.first().is_some_and(|line| line["type"] == "following"));
        lines
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.running().pid()), signal).unwrap();
    }

    /// Complete lines only.
    fn all(&self) -> Vec<Value> {
        parse(&self.running().stdout())
    }

    #[track_caller]
    fn until(&self, ready: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        self.test.wait_for(&self.test.dir, || ready(&self.all()));
        self.all()
    }

    /// Until there is a line of this type, of this container.
    #[track_caller]
    fn until_type(&self, id: &str, name: &str) -> Value {
        let wanted = |line: &&Value| line["id"] == id && line["type"] == name;
        self.until(|all| all.iter().any(|line| wanted(&line))).iter().find(wanted).unwrap().clone()
    }

    /// Its end, all lines, and the exit code.
    #[track_caller]
    fn end(mut self) -> (i32, Vec<Value>) {
        let out = self.running.take().unwrap().wait();
        assert!(out.stderr.is_empty(), "{out}");
        (out.code, parse(&out.stdout))
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            kill(Pid::from_raw(running.pid()), Signal::SIGKILL).unwrap();
            running.wait();
        }
    }
}

fn parse(text: &str) -> Vec<Value> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// The types of a container's lines, in order. A slow machine has pressure at any time.
fn types(lines: &[Value], id: &str) -> Vec<String> {
    let own = lines.iter().filter(|line| line["id"] == id && line["type"] != "pressure");
    own.map(|line| line["type"].as_str().unwrap().to_owned()).collect()
}

/// A bundle whose process waits until [`go`], then runs this.
fn waiting(t: &Test, script: &str) -> Bundle {
    let mut b = t.bundle();
    nix::unistd::mkfifo(&b.rootfs().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    b.sh(&format!("read line < /go; {script}"));
    b
}

fn go(b: &Bundle) {
    fs::write(b.rootfs().join("go"), "go\n").unwrap();
}

/// One process that eats memory, and nobody else who needs any: a writer of a pipe would have the kernel kill twice.
const HOG: &str = "tail /dev/zero > /dev/null";

#[test]
fn the_stream_is_runcs() {
    run_case(case().needs(controller("memory"), "memory"), |t| {
        let mut b = waiting(t, &format!("{HOG}; exec sleep 1000"));
        b.set("/linux/resources/memory", json!({"limit": 32 << 20}));
        let c = t.create(&b);
        c.start();
        let lines = Lines::of(t, &["events", "--interval", "100ms", &c.id]);
        let first = lines.until_type(&c.id, "stats");
        assert!(number(&first["data"], "/cpu/usage/total") > 0, "{first}");
        assert_eq!(number(&first["data"], "/memory/usage/limit"), 32 << 20, "{first}");
        go(&b);
        let oom = lines.until_type(&c.id, "oom");
        assert_eq!(oom, json!({"type": "oom", "id": c.id}));
        let count = lines.all().len();
        lines.until(|all| all.iter().skip(count).filter(|line| line["type"] == "stats").count() >= 2);
        c.kill("KILL").ok();
        c.wait();
        // Where v1 has the memory, runc's ends with the cgroup.
        c.verb(&["delete"]).ok();
        let (code, all) = lines.end();
        assert_eq!(code, 0);
        assert!(all.iter().all(|line| line["id"] == c.id.as_str()), "{all:?}");
    });
}

#[test]
fn the_stream_begins_when_created_and_ends_with_the_process() {
    let case = case().differs("runc", "where v1 has the memory, its stream ends with the cgroup");
    run_case(case, |t| {
        let b = waiting(t, "exit 3");
        let c = t.create(&b);
        let lines = Lines::of(t, &["events", "--interval=20ms", &c.id]);
        lines.until_type(&c.id, "stats");
        c.start();
        go(&b);
        let (code, _) = lines.end();
        assert_eq!((code, c.wait()), (0, 3));
        for flags in [&["events"][..], &["events", "--interval", "1m30s"], &["events", "--follow"]] {
            c.verb(flags).clean_error().says("container not running");
        }
        t.rt(&["events", "none"]).run().clean_error().says(t.unknown());
        t.rt(&["events", "--follow", "none"]).run().clean_error().says(t.unknown());
    });
}

#[test]
fn the_interval_is_a_duration() {
    run_case(case(), |t| {
        let c = t.create(&t.bundle());
        for interval in ["0", "0s", "-1s", "5", "5d", "", "1e3s"] {
            c.verb(&["events", "--interval", interval]).failed();
        }
        c.verb(&["events", "--stats", "--interval", "1h2m3.5s"]).ok();
    });
}

#[test]
fn what_excludes_each_other_is_refused() {
    run_case(oar_only("--follow"), |t| {
        let c = t.create(&t.bundle());
        c.verb(&["events", "--follow", "--stats"]).clean_error().says("exclude each other");
        c.verb(&["events", "--follow", "--interval", "1s"]).clean_error().says("--interval");
        t.rt(&["events"]).run().clean_error();
    });
}

#[test]
fn a_reader_that_goes_ends_it_quietly() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.sh("exec sleep 1000");
        let c = t.create(&b);
        c.start();
        for flags in [&["events", "--interval", "20ms", &c.id][..], &["events", "--follow"]] {
            if flags[1] == "--follow" && t.kind != Kind::Oar {
                continue;
            }
            let shell = r#"{ "$@"; echo "status $?" >&2; } | head -n 1"#;
            let out = t.rt(flags).wrap(&["sh", "-c", shell, "sh"]).run();
            assert_eq!(out.ok().lines().count(), 1, "{out}");
            assert_eq!(out.stderr, "status 141\n", "{out}");
        }
    });
}

#[test]
fn each_of_many_is_told_once_and_in_order() {
    run_case(oar_only("--follow"), |t| {
        let lines = Lines::follow(t, &[]);
        let mut expected = Vec::new();
        let mut containers = Vec::new();
        for code in 0..20 {
            let b = waiting(t, &format!("exit {code}"));
            containers.push((t.create(&b), b));
            // In between, one that takes as little time as can be.
            let flag = match code % 4 {
                0 => "--keep",
                1 => "--detach",
                _ => continue,
            };
            let (id, b) = (t.id(), t.bundle());
            t.write(&b, &id);
            t.rt(&["run", flag, "--bundle", b.dir.to_str().unwrap(), &id]).run().ok();
            lines.until_type(&id, "exited");
            t.rt(&["delete", &id]).run().ok();
        }
        for (c, b) in &containers {
            c.start();
            go(b);
        }
        for (code, (c, _)) in containers.iter().enumerate() {
            // Reaped by its parent after that: before Linux 6.15 it is known only until then.
            let exited = lines.until_type(&c.id, "exited");
            assert_eq!(exited["code"], code, "{exited}");
            assert_eq!(c.wait(), code as i32);
            c.verb(&["delete"]).ok();
            lines.until_type(&c.id, "deleted");
            expected.push(c.id.clone());
        }
        let all = lines.all();
        let ids: std::collections::BTreeSet<_> = all.iter().filter_map(|line| line["id"].as_str()).collect();
        assert_eq!(ids.len(), 30, "{all:#?}");
        for id in ids {
            assert_eq!(types(&all, id), ["created", "started", "exited", "deleted"], "{id}");
        }
        let pid = |id: &str| lines.until_type(id, "started")["pid"].clone();
        assert!(containers.iter().all(|(c, _)| pid(&c.id) == c.pid));
        lines.send(Signal::SIGTERM);
        assert_eq!(lines.end().0, 128 + Signal::SIGTERM as i32);
    });
}

#[test]
fn one_is_followed_to_its_end() {
    run_case(oar_only("--follow"), |t| {
        let b = waiting(t, "kill -s KILL $$");
        let (c, other) = (t.create(&b), t.create(&t.bundle()));
        // A process that is the first of its pid namespace hears no KILL of its own.
        let lines = Lines::follow(t, &[&c.id]);
        other.start();
        other.wait();
        c.start();
        lines.until_type(&c.id, "started");
        c.kill("KILL").ok();
        let (code, mut all) = lines.end();
        assert_eq!(code, 0);
        all.retain(|line| line["type"] != "pressure");
        assert_eq!(types(&all, &c.id), ["following", "started", "exited"]);
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(all[2]["signal"], 9, "{all:?}");
        assert!(all[2].get("code").is_none() && all[2].get("status").is_none(), "{all:?}");
        let time = all[2]["time"].as_str().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z'), "{time}");
    });
}

#[test]
fn what_never_executed_has_not_started() {
    run_case(oar_only("--follow"), |t| {
        let lines = Lines::follow(t, &[]);
        let killed = t.create(&t.bundle());
        killed.kill("KILL").ok();
        killed.wait();
        lines.until_type(&killed.id, "exited");

        let mut b = t.bundle();
        let script = b.rootfs().join("bin/script");
        fs::write(&script, "#!/bin/not-there\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        b.args(&["/bin/script"]);
        let failing = t.create(&b);
        failing.verb(&["start"]).failed();
        lines.until_type(&failing.id, "exited");

        t.run(&b).failed();
        let last = t.create(&t.bundle());
        let all = lines.until(|all| all.iter().any(|line| line["id"] == last.id.as_str()));
        assert_eq!(types(&all, &killed.id), ["created", "exited"]);
        assert_eq!(types(&all, &failing.id), ["created", "exited"]);
        assert!(all.iter().all(|line| line["type"] != "started"), "{all:#?}");
    });
}

#[test]
fn memory_that_runs_out_is_told() {
    run_case(oar_only("--follow").needs(controller("memory"), "memory"), |t| {
        let mut b = waiting(t, &format!("{HOG}; exit 7"));
        b.set("/linux/resources/memory", json!({"limit": 32 << 20}));
        let lines = Lines::follow(t, &[]);
        let c = t.create(&b);
        let cgroups = c.cgroups();
        c.start();
        go(&b);
        lines.until_type(&c.id, "exited");
        let told = lines.all();
        let all = types(&told, &c.id);
        let place =
            |name: &str| all.iter().position(|one| one == name).unwrap_or_else(|| panic!("{name}: {all:?}"));
        let order = ["created", "started", "oom", "oom_kill", "exited"].map(place);
        assert!(order.is_sorted(), "{all:?}");
        let kills = told.iter().filter(|line| line["type"] == "oom_kill").map(|line| number(line, "/count"));
        assert_eq!(kills.sum::<u64>(), cgroups.oom_kills(), "{all:?}");
        assert_eq!(lines.until_type(&c.id, "exited")["code"], 7);
    });
}

#[test]
fn limits_of_memory_are_told() {
    let v2 = pure_v2() && has_controller("memory");
    run_case(oar_only("--follow").needs(v2, "the memory controller of cgroup2"), |t| {
        let mut b = waiting(t, "head -c 40m /dev/zero | tail > /dev/null; exec sleep 1000");
        b.set(
            "/linux/resources",
            json!({"memory": {"limit": 256 << 20}, "unified": {"memory.high": "16777216"}}),
        );
        let c = t.create(&b);
        c.start();
        let lines = Lines::follow(t, &[&c.id]);
        go(&b);
        let limit = lines.until_type(&c.id, "limit");
        assert_eq!(limit["resource"], "memory.high", "{limit}");
        assert!(number(&limit, "/count") >= 1, "{limit}");
    });
}

#[test]
fn a_fork_too_many_is_told() {
    run_case(oar_only("--follow").needs(controller("pids"), "pids"), |t| {
        let mut b = waiting(t, "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; exec sleep 1000");
        b.set("/linux/resources/pids", json!({"limit": 4}));
        let c = t.create(&b);
        c.start();
        let lines = Lines::follow(t, &[&c.id]);
        go(&b);
        let limit = lines.until_type(&c.id, "limit");
        assert_eq!(limit["resource"], "pids.max", "{limit}");
        assert!(number(&limit, "/count") >= 1, "{limit}");
    });
}

#[test]
fn the_freezer_is_told() {
    let freezer = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|root| Path::new(root).join("cgroup.procs").exists());
    run_case(oar_only("--follow").needs(freezer, "cgroup2"), |t| {
        let mut b = t.bundle();
        b.sh("exec sleep 1000");
        let c = t.create(&b);
        c.start();
        let lines = Lines::follow(t, &[&c.id]);
        let freeze = c.cgroups().unified().join("cgroup.freeze");
        fs::write(&freeze, "1").unwrap();
        lines.until_type(&c.id, "frozen");
        fs::write(&freeze, "0").unwrap();
        lines.until_type(&c.id, "thawed");
        c.kill("KILL").ok();
        assert_eq!(types(&lines.end().1, &c.id), ["following", "frozen", "thawed", "exited"]);
    });
}

#[test]
fn pressure_is_told() {
    let pressure = Path::new("/proc/pressure/cpu").exists() && controller("cpu");
    run_case(oar_only("--follow").needs(pressure, "pressure stall information, and cpu"), |t| {
        let mut b = waiting(t, "while :; do :; done");
        b.set("/linux/resources/cpu", json!({"quota": 5000, "period": 100000}));
        let c = t.create(&b);
        c.start();
        let lines = Lines::follow(t, &[&c.id]);
        go(&b);
        let pressure = lines.until_type(&c.id, "pressure");
        assert_eq!(pressure["resource"], "cpu", "{pressure}");
        assert!(pressure["avg10"].as_f64().is_some_and(|part| (0.0..=100.0).contains(&part)), "{pressure}");
    });
}

#[test]
fn each_exec_is_told() {
    run_case(oar_only("--follow"), |t| {
        let mut b = t.bundle();
        b.sh("exec sleep 1000");
        let c = t.create(&b);
        c.start();
        let lines = Lines::follow(t, &[&c.id]);
        let pid_file = t.dir.join("pid");
        let pid_flag = pid_file.to_str().unwrap();
        let exec = |flags: &[&str], words: &[&str]| t.rt(&[&["exec"], flags, &[&c.id], words].concat()).run();
        exec(&["-d", "--pid-file", pid_flag], &["sleep", "999"]).ok();
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        assert_eq!(lines.until_type(&c.id, "exec")["pid"], pid);
        // In two phases it is one when it is started; and a command that could not be executed is none.
        exec(&["--create", "p", "--pid-file", pid_flag], &["sleep", "999"]).ok();
        let parked: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        exec(&[], &["/no/such"]).failed();
        exec(&["--start", "p"], &[]).ok();
        c.kill("KILL").ok();
        for pid in [pid, parked] {
            t.wait_pid(pid);
        }
        let told = lines.end().1;
        assert_eq!(types(&told, &c.id), ["following", "exec", "exec", "exited"]);
        let execs = told.iter().filter(|line| line["type"] == "exec").map(|line| &line["pid"]);
        assert!(execs.eq(&[json!(pid), json!(parked)]), "{told:?}");
    });
}

#[test]
fn a_follower_that_sleeps_or_dies_is_nobodys_concern() {
    run_case(oar_only("--follow"), |t| {
        let mut b = t.bundle();
        b.sh("exit 5");
        let lines = Lines::follow(t, &[]);
        lines.send(Signal::SIGSTOP);
        let (one, two) = (t.create(&b), t.create(&b));
        one.start();
        assert_eq!(one.wait(), 5);
        // More than the kernel keeps for a reader (fs.inotify.max_queued_events): the rest is found by looking.
        let kept: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        assert!(kept <= 1 << 16, "{kept}");
        for number in 0..kept + 10 {
            let file = t.state_root().join(format!("noise{number}"));
            fs::write(&file, "").unwrap();
            fs::remove_file(&file).unwrap();
        }
        let unheard = t.create(&b);
        lines.send(Signal::SIGCONT);
        lines.until_type(&unheard.id, "created");
        for c in [&one, &two, &unheard] {
            if c.id != one.id {
                c.start();
            }
            let exited = lines.until_type(&c.id, "exited");
            // Reaped before anybody looked, the first one may be beyond knowledge, but never wrong.
            assert!(exited["code"] == 5 || c.id == one.id && exited["status"] == "unknown", "{exited}");
            assert_eq!(types(&lines.all(), &c.id), ["created", "started", "exited"]);
        }

        let mut b = t.bundle();
        b.sh("exec sleep 1000");
        let c = t.create(&b);
        c.start();
        lines.until_type(&c.id, "started");
        drop(lines);
        assert_eq!(c.status(), "running");
        c.verb(&["delete", "--force"]).ok();
    });
}

/// With however few descriptors: it tells all that it always tells, or ends and says why.
#[test]
fn a_follower_without_room_does_not_go_on_blind() {
    let cgroup2 = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|root| Path::new(root).join("cgroup.procs").exists());
    run_case(oar_only("--follow").needs(cgroup2, "cgroup2"), |t| {
        let (mut told, mut ended) = (0, 0);
        for limit in 8..32 {
            let limit = format!("ulimit -n {limit} && exec \"$@\"");
            let follow = t.rt(&["events", "--follow"]).wrap(&["sh", "-c", &limit, "sh"]).deadline(60).spawn();
            let lines = Lines { test: t, running: Some(follow) };
            let stat = format!("/proc/{}/stat", lines.running().pid());
            let until = |name: &str| {
                let deadline = Instant::now() + Duration::from_secs(60);
                loop {
                    // In this order: it may write and end.
                    let over = fs::read_to_string(&stat).unwrap().contains(") Z ");
                    let found = lines.all().iter().any(|line| line["type"] == name);
                    if found || over {
                        return found;
                    }
                    assert!(
                        Instant::now() < deadline,
                        "{limit}: neither {name} nor an end: {:?}",
                        lines.all()
                    );
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            let mut seen = until("following");
            if seen {
                let c = t.create(&t.bundle());
                let freeze = c.cgroups().unified().join("cgroup.freeze");
                fs::write(&freeze, "1").unwrap();
                seen = until("frozen");
                fs::write(&freeze, "0").unwrap();
                c.kill("KILL").ok();
                c.wait();
                c.verb(&["delete"]).ok();
                seen = seen && until("deleted");
            }
            match seen {
                true => told += 1,
                false => {
                    ended += 1;
                    let mut lines = lines;
                    let out = lines.running.take().unwrap().wait();
                    out.clean_error().says("too many open files");
                }
            }
        }
        assert!(told > 0 && ended > 0, "{told} and {ended}");
    });
}
