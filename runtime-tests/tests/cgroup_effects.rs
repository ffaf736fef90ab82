// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the limits as the container feels them: killed, slowed down, refused, stopped; on v1, hybrid and v2 alike.
//! Never lets a hog loose: every loop is bounded, so that a limit that is not applied costs a failed case only.
//! Expectations come from the kernel's cgroup-v1/*.rst and cgroup-v2.rst; counters from the container's own files.

use runtime_tests::{
    Bundle, Cgroups, Container, Kind, LoopDevice, Test, Value, any, has_controller, json, oar_only, patience,
    run_case, v1,
};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing to do, without a fork: `read` of a shell would see the end of /dev/null.
const IDLE: &str = "exec tail -f /dev/null";

/// Waits for a line of the container's output.
#[track_caller]
fn wait_line(t: &Test, c: &Container<'_>, line: &str) {
    t.wait_for(&t.dir, || c.output().lines().any(|l| l == line));
}

// --- memory -------------------------------------------------------------------------------------------------

const LIMIT: u64 = 32 << 20;

/// A memory limit without any swap beside it, where the kernel counts swap.
fn hog_limit() -> Value {
    let counts_swap = if v1("memory") {
        Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
    } else {
        Path::new("/proc/swaps").exists()
    };
    if counts_swap { json!({"limit": LIMIT, "swap": LIMIT}) } else { json!({"limit": LIMIT}) }
}

#[test]
fn a_memory_hog_is_killed_at_its_limit() {
    run_case(any().needs(has_controller("memory"), "the memory controller"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/memory", hog_limit());
        // dd fills a buffer of 200 MiB. Its end is told, and the shell lives on.
        b.sh(&format!("dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo hog $?; {IDLE}"));
        let c = t.create(&b);
        let cgroups = c.cgroups();
        assert_eq!(cgroups.oom_kills(), 0);
        c.start();
        t.wait_for(&t.dir, || c.output().contains("hog "));
        assert_eq!(c.output(), "hog 137\n");
        assert!(cgroups.oom_kills() >= 1, "{}", cgroups.oom_kills());
        assert_eq!(c.status(), "running");
        if t.kind == Kind::Crun {
            return; // It has no `events`.
        }
        let out = c.verb(&["events", "--stats"]);
        let stats: Value = document(out.ok());
        assert_eq!(stats["type"], "stats", "{out}");
        assert_eq!(stats["id"], json!(c.id), "{out}");
        let memory = &stats["data"]["memory"];
        assert_eq!(memory["usage"]["limit"], json!(LIMIT), "{out}");
        assert!(memory["usage"]["usage"].as_u64().is_some_and(|n| n > 0 && n <= LIMIT), "{out}");
        if t.kind == Kind::Oar {
            assert!(memory["events"]["oom_kill"].as_u64().is_some_and(|n| n > 0), "{out}");
            assert_eq!(out.stdout.lines().count(), 1, "{out}");
        }
    });
}

fn document(text: &str) -> Value {
    text.trim().parse().unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_container_itself_ends_with_137_at_its_limit() {
    run_case(any().needs(has_controller("memory"), "the memory controller"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/memory", hog_limit());
        b.args(&["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
        t.run(&b).expect_code(137);
    });
}

/// What the runtime itself takes of it are the kernel's structures and the pages of a small program: a copy of the
/// runtime in the container's cgroup would show here.
#[test]
fn a_limit_of_one_mebibyte_is_enough_for_a_small_program() {
    let case = any().needs(has_controller("memory"), "the memory controller");
    run_case(case.differs("runc", "its own init takes more of the container's memory"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/memory", json!({"limit": 1 << 20}));
        b.sh(IDLE);
        let c = t.create(&b);
        c.start();
        t.rt(&["exec", &c.id, "true"]).run().ok();
        assert_eq!(c.cgroups().oom_kills(), 0);
        b.args(&["/bin/true"]);
        t.run(&b).ok();
    });
}

/// Swap of the host, in bytes, that is free.
fn free_swap() -> u64 {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let numbers = |l: &str| {
        let mut fields = l.split_whitespace().skip(2).map(|f| f.parse::<u64>().unwrap_or_default());
        fields.next().unwrap_or_default().saturating_sub(fields.next().unwrap_or_default())
    };
    text.lines().skip(1).map(numbers).sum::<u64>() << 10
}

#[test]
fn the_swap_limit_is_the_sum() {
    run_case(
        any().needs(
            has_controller("memory") && free_swap() > 48 << 20,
            "the memory controller and 48 MiB of swap",
        ),
        |t| {
            // 48 MiB of a tmpfs are charged to whom writes them, and may be swapped out.
            let end = |sum: u64| {
                let mut b = t.bundle();
                b.set("/linux/resources/memory", json!({"limit": LIMIT, "swap": sum}));
                b.sh("dd if=/dev/zero of=/dev/shm/fill bs=64k count=768 2>/dev/null");
                t.run_with(&b, &[]).deadline(120).run().code
            };
            assert_eq!(end(LIMIT), 137, "no swap at all");
            assert_eq!(end(2 * LIMIT), 0, "32 MiB of swap");
        },
    );
}

// --- cpu ----------------------------------------------------------------------------------------------------

#[test]
fn a_cpu_quota_bounds_the_work_done() {
    run_case(any().needs(has_controller("cpu") && has_controller("cpuacct"), "the cpu controller"), |t| {
        let mut b = t.bundle();
        // On a machine under load its share would be less than its quota, without so many shares.
        b.set("/linux/resources/cpu", json!({"shares": 262_144, "quota": 20_000, "period": 100_000}));
        // Two loops for two CPUs: the quota is that of the container, not of a process. The first number is the work.
        b.sh("while :; do :; done & i=0; echo ready; while [ $i -lt 400000000 ]; do i=$((i+1)); done");
        let c = t.create(&b);
        let cgroups = c.cgroups();
        c.start();
        wait_line(t, &c, "ready");
        let (from, before) = (Instant::now(), cgroups.cpu_usec());
        // The measured window; only its real length counts.
        thread::sleep(Duration::from_millis(1500));
        let percent = || {
            let (after, window) = (cgroups.cpu_usec(), from.elapsed());
            (after - before) as f64 * 100.0 / window.as_micros() as f64
        };
        // A period may have begun before, and each CPU may overdraw: by one slice, or by as long as the machine is stopped
        // below it, if it is a virtual one. The kernel has that paid back in the next periods.
        let end = Instant::now() + Duration::from_secs(20) * patience();
        let throttled = || cgroups.count("cpu", "cpu.stat", "nr_throttled") > 0;
        let mut share = percent();
        while (share > 30.0 || !throttled()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(100));
            share = percent();
        }
        assert!((2.0..=30.0).contains(&share), "{share} % of a CPU with a quota of 20 %");
        assert!(throttled());
    });
}

#[test]
fn cpuset_is_what_the_process_may_use() {
    run_case(any().needs(has_controller("cpuset"), "the cpuset controller"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"}));
        b.sh("grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status; nproc");
        assert_eq!(t.run(&b).ok(), "Cpus_allowed_list:\t0\nMems_allowed_list:\t0\n1\n");
    });
}

// --- pids ---------------------------------------------------------------------------------------------------

#[test]
fn a_fork_bomb_stops_at_pids_max() {
    run_case(any().needs(has_controller("pids"), "the pids controller"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/pids", json!({"limit": 20}));
        // Three generations that double each time, 100 in all, if nothing stops them.
        let script = "spawn() { n=0; while [ $n -lt 100 ]; do sleep 1000 & n=$((n+1)); done; }; \
                      (spawn); (spawn) & wait $!; echo stopped; ";
        b.sh(&format!("{script}{IDLE}"));
        let c = t.create(&b);
        let cgroups = c.cgroups();
        c.start();
        wait_line(t, &c, "stopped");
        let current: u64 = cgroups.value("pids", "pids.current").parse().unwrap();
        assert!((15..=20).contains(&current), "pids.current {current}");
        assert!(cgroups.count("pids", "pids.events", "max") >= 1);
        c.verb(&["delete", "--force"]).ok();
        assert!(!cgroups.dir("pids").exists());
    });
}

#[test]
fn pids_limit_zero_allows_no_fork() {
    run_case(
        any()
            .needs(has_controller("pids"), "the pids controller")
            .differs("runc", "1.1 takes 0 for no limit")
            .differs("crun", "takes 0 for no limit"),
        |t| {
            let mut b = t.bundle();
            b.set("/linux/resources/pids", json!({"limit": 0}));
            b.sh("echo one; (echo two); echo three");
            let out = t.run(&b);
            assert_eq!(out.stdout, "one\n", "{out}");
            assert!(out.code != 0 && out.stderr.contains("fork"), "{out}");
        },
    );
}

// --- devices ------------------------------------------------------------------------------------------------

/// What open(2) and mknod(2) say, one word for each: `-` for EPERM, which the device filter answers, else the letter.
/// A driver that is not there (ENXIO) is behind the filter, so it counts as allowed.
const PROBE: &str = r#"
    try() { letter=$1; shift; said=$("$@" 2>&1 >/dev/null)
        case "$said" in *"not permitted"*) letter=-;; esac; answer=$answer$letter; }
    reads() { (: < "$1"); }
    writes() { (: >> "$1"); }
    probe() { answer=; name=$1-$2-$3; try m mknod /tmp/$name $1 $2 $3; shift 3
        [ -e /tmp/$name ] && { try r reads /tmp/$name; try w writes /tmp/$name; }; echo $name $answer; }
"#;

/// The answers of `probe` for these devices under these rules. /tmp is a tmpfs that allows devices.
fn probed(t: &Test, rules: Option<Value>, devices: &[&str]) -> Result<Vec<String>, runtime_tests::Out> {
    let mut b = t.bundle();
    if let Some(rules) = rules {
        b.set("/linux/resources/devices", rules);
    }
    for set in ["bounding", "effective", "permitted"] {
        b.set(&format!("/process/capabilities/{set}/-"), json!("CAP_SYSLOG")); // /dev/kmsg wants it as well
    }
    b.mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
    let calls: String = devices.iter().map(|d| format!("probe {d}\n")).collect();
    b.sh(&format!("{PROBE}{calls}"));
    let out = t.run(&b);
    if out.code != 0 { Err(out) } else { Ok(out.stdout.lines().map(str::to_owned).collect()) }
}

/// Has the device filter: v1, or a kernel and capabilities that take a program.
fn devices() -> bool {
    has_controller("devices")
}

const DENY: fn() -> Value = || json!({"allow": false, "access": "rwm"});

#[test]
fn devices_are_denied_unless_allowed() {
    run_case(any().needs(devices(), "a device filter"), |t| {
        let nodes = ["c 1 3", "c 1 5", "c 1 7", "c 1 8", "c 1 9", "c 1 11", "c 10 237", "b 7 0"];
        // The runtime's own devices; kmsg, loop-control and a block device are none of them. Nodes may be made of all.
        let wanted = [
            "c-1-3 mrw",
            "c-1-5 mrw",
            "c-1-7 mrw",
            "c-1-8 mrw",
            "c-1-9 mrw",
            "c-1-11 m--",
            "c-10-237 m--",
            "b-7-0 m--",
        ];
        assert_eq!(probed(t, Some(json!([DENY()])), &nodes).unwrap(), wanted);
    });
}

#[test]
fn devices_are_denied_without_any_rule() {
    run_case(
        any().needs(devices(), "a device filter").differs("crun", "1.8.1 allows everything on v1"),
        |t| {
            let answers = probed(t, None, &["c 1 3", "c 1 11", "b 7 0"]).unwrap();
            assert_eq!(answers, ["c-1-3 mrw", "c-1-11 m--", "b-7-0 m--"]);
        },
    );
}

#[test]
fn each_device_rule_by_open() {
    run_case(any().needs(devices(), "a device filter"), |t| {
        let rules = json!([
            DENY(),
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "minor": 237, "access": "w"},
            {"allow": true, "type": "b", "major": 7, "minor": 0, "access": "rw"},
            {"allow": true, "type": "b", "major": 7, "minor": 1, "access": "m"},
            {"allow": true, "type": "c", "major": 229, "access": "rwm"},
        ]);
        let nodes = ["c 1 11", "c 10 237", "b 7 0", "b 7 1", "c 229 5", "c 7 0", "b 1 11"];
        assert_eq!(
            probed(t, Some(rules), &nodes).unwrap(),
            [
                "c-1-11 mr-",
                "c-10-237 m-w",
                "b-7-0 mrw",
                "b-7-1 m--",
                "c-229-5 mrw",
                "c-7-0 m--",
                "b-1-11 m--"
            ]
        );
    });
}

#[test]
fn all_devices_as_a_privileged_container_has_them() {
    run_case(any().needs(devices(), "a device filter"), |t| {
        let rules = json!([{"allow": true, "access": "rwm"}]);
        assert_eq!(
            probed(t, Some(rules), &["c 1 3", "c 1 11", "b 7 0"]).unwrap(),
            ["c-1-3 mrw", "c-1-11 mrw", "b-7-0 mrw"]
        );
    });
}

/// T-71: the order counts. v1 cannot express an exception to a wildcard, and then says so.
#[test]
fn t71_a_later_rule_wins() {
    run_case(
        any().needs(devices(), "a device filter").differs("crun", "writes the rules as they are on v1"),
        |t| {
            let rules = json!([
                DENY(),
                {"allow": true, "type": "c", "major": 1, "access": "rwm"},
                {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"},
            ]);
            let answer = probed(t, Some(rules), &["c 1 11", "c 1 2"]);
            match answer {
                // runc judges by v1's rules on v2 as well.
                Err(out) if v1("devices") || t.kind == Kind::Runc => drop(out.failed()),
                answer => assert_eq!(answer.unwrap(), ["c-1-11 mr-", "c-1-2 mrw"]),
            }
        },
    );
}

#[test]
fn t71_exceptions_to_everything() {
    run_case(any().needs(devices(), "a device filter"), |t| {
        let rules = json!([
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
        ]);
        let answers = probed(t, Some(rules), &["c 1 11", "b 7 0"]).unwrap();
        // Nodes may be made of any device after all rules.
        assert!(["c-1-11 m--", "c-1-11 -"].contains(&answers[0].as_str()), "{answers:?}");
        assert_eq!(answers[1], "b-7-0 mrw");
    });
}

#[test]
fn device_rules_that_mean_nothing_are_refused() {
    run_case(oar_only("the error has the place"), |t| {
        for (rule, place) in [
            (json!({"allow": true, "type": "p", "access": "r"}), "linux.resources.devices[0].type"),
            (json!({"allow": true, "type": "c", "access": "rx"}), "linux.resources.devices[0].access"),
            (
                json!({"allow": true, "type": "c", "major": -7, "access": "r"}),
                "linux.resources.devices[0].major",
            ),
        ] {
            let mut b = t.bundle();
            b.set("/linux/resources/devices", json!([rule]));
            t.try_create(&b).clean_error().says(place);
        }
    });
}

// --- block io -----------------------------------------------------------------------------------------------

fn with_loop(b: &mut Bundle, (major, minor): (u64, u64)) {
    b.set("/linux/devices", json!([{"path": "/dev/disk", "type": "b", "major": major, "minor": minor}]));
    b.set(
        "/linux/resources/devices",
        json!([DENY(), {"allow": true, "type": "b", "major": major, "minor": minor, "access": "rw"}]),
    );
}

#[test]
fn throttled_writes_take_their_time() {
    let present = has_controller("blkio") && LoopDevice::available();
    run_case(any().needs(present, "the blkio or io controller and loop devices"), |t| {
        let disk = LoopDevice::over(&t.dir);
        let (major, minor) = disk.numbers();
        let rate = json!([{"major": major, "minor": minor, "rate": 1 << 20}]);
        for (what, key, dd) in [
            ("writes", "throttleWriteBpsDevice", "dd if=/dev/zero of=/dev/disk bs=64k count=64 oflag=direct"),
            ("reads", "throttleReadBpsDevice", "dd if=/dev/disk of=/dev/null bs=64k count=64 iflag=direct"),
        ] {
            let mut b = t.bundle();
            with_loop(&mut b, (major, minor));
            b.set(&format!("/linux/resources/blockIO/{key}"), rate.clone());
            b.sh(dd);
            let from = Instant::now();
            let out = t.run(&b);
            out.ok();
            // 4 MiB at 1 MiB/s; a slice's worth may go at once.
            assert!(
                from.elapsed() >= Duration::from_millis(2500),
                "4 MiB of {what} in {:?}: {out}",
                from.elapsed()
            );
        }
    });
}

// --- freezer ------------------------------------------------------------------------------------------------

/// Freezes or thaws by hand, and waits until the kernel confirms it.
fn freeze(t: &Test, cgroups: &Cgroups, on: bool) {
    if v1("freezer") {
        let file = cgroups.dir("freezer").join("freezer.state");
        let wanted = if on { "FROZEN" } else { "THAWED" };
        fs::write(&file, wanted).unwrap();
        // v1 has no event: a read makes the kernel look again.
        let until = Instant::now() + Duration::from_secs(20) * patience();
        while fs::read_to_string(&file).unwrap().trim() != wanted {
            assert!(Instant::now() < until, "{} never became {wanted}", file.display());
            thread::sleep(Duration::from_millis(2));
        }
    } else {
        let dir = cgroups.unified();
        fs::write(dir.join("cgroup.freeze"), if on { "1" } else { "0" }).unwrap();
        t.wait_for(dir, || cgroups.count("freezer", "cgroup.events", "frozen") == u64::from(on));
    }
}

#[test]
fn a_frozen_container_makes_no_progress() {
    run_case(any().needs(has_controller("freezer"), "the freezer"), |t| {
        let mut b = t.bundle();
        // Bounded: the file ends at some ten megabytes even if nobody stops it.
        b.sh("i=0; while [ $i -lt 5000000 ]; do echo $i; i=$((i+1)); done");
        let c = t.create(&b);
        let cgroups = c.cgroups();
        c.start();
        t.wait_for(&t.dir, || c.output().len() > 100);
        freeze(t, &cgroups, true);
        let first = c.output().len();
        // No progress has no event; the loop writes many lines in such a time.
        thread::sleep(Duration::from_millis(300));
        let second = c.output().len();
        freeze(t, &cgroups, false);
        assert_eq!(first, second, "a frozen container wrote");
        t.wait_for(&t.dir, || c.output().len() > second);
        c.kill("KILL").ok();
        assert_eq!(c.wait(), 137);
    });
}
