// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns cgroup2 alone: each member of `linux.resources` as the file it becomes, placement, delegation, the view inside.
//! Never runs on hosts whose controllers are v1: each case states that need; effects alone are in `cgroup_effects.rs`.
//! Expectations come from config-linux.md and the kernel's cgroup-v2.rst; the peers are asked in the last case.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime_tests::{
    Bundle, Case, Container, Kind, LoopDevice, Out, Test, Value, any, json, oar_only, pure_v2, run_case,
    v2_controllers,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = "/sys/fs/cgroup";

fn has(controller: &str) -> bool {
    v2_controllers().iter().any(|c| c == controller)
}

/// The case needs cgroup2 alone, with these controllers.
trait OnV2 {
    fn v2(self, controllers: &[&str]) -> Case;
}

impl OnV2 for Case {
    fn v2(self, controllers: &[&str]) -> Case {
        self.needs(
            pure_v2() && controllers.iter().all(|c| has(c)),
            "cgroup v2 alone, with the controllers of the case",
        )
    }
}

/// Creates a container with these resources and compares files of its cgroup directory.
#[track_caller]
fn files(t: &Test, resources: Value, expected: &[(&str, &str)]) {
    let mut b = t.bundle();
    b.set("/linux/resources", resources.clone());
    let c = t.create(&b);
    compare(&c, expected, &resources);
}

#[track_caller]
fn compare(c: &Container<'_>, expected: &[(&str, &str)], what: &Value) {
    let cgroups = c.cgroups();
    for (file, value) in expected {
        let path = cgroups.unified().join(file);
        let found = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{what}: {}: {e}", path.display()));
        assert_eq!(found.trim(), *value, "{file} of {what}");
    }
}

/// `create` with flags before the id; it may fail.
fn create_flags(t: &Test, b: &Bundle, flags: &[&str]) -> Out {
    t.creation(b, flags).1.run()
}

// --- each resource and its file -----------------------------------------------------------------------------

#[test]
fn memory_and_swap() {
    run_case(any().v2(&["memory"]), |t| {
        let all = json!({"memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20}});
        files(
            t,
            all,
            &[("memory.max", "67108864"), ("memory.swap.max", "33554432"), ("memory.low", "33554432")],
        );
        let equal = json!({"memory": {"limit": 64 << 20, "swap": 64 << 20, "checkBeforeUpdate": true}});
        files(t, equal, &[("memory.max", "67108864"), ("memory.swap.max", "0")]);
        let none = json!({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}});
        let mut b = t.bundle();
        b.set("/linux/resources", none.clone());
        let c = t.create(&b);
        for file in ["memory.max", "memory.swap.max", "pids.max"] {
            // Without the controller there is no file, which is no limit as well.
            let found =
                fs::read_to_string(c.cgroups().unified().join(file)).unwrap_or_else(|_| "max".to_owned());
            assert_eq!(found.trim(), "max", "{file} of {none}");
        }
    });
}

#[test]
fn cpu_quota_and_period() {
    run_case(any().v2(&["cpu"]), |t| {
        for (cpu, value) in [
            (json!({"quota": 50_000, "period": 200_000}), "50000 200000"),
            (json!({"quota": 50_000}), "50000 100000"),
            (json!({"period": 50_000}), "max 50000"),
        ] {
            files(t, json!({"cpu": cpu}), &[("cpu.max", value)]);
        }
    });
}

#[test]
fn cpu_shares_become_a_weight() {
    run_case(
        any()
            .v2(&["cpu"])
            .differs("runc", "before 1.3.2 the conversion was linear")
            .differs("crun", "before 1.23 the conversion was linear"),
        |t| {
            for (shares, weight) in [(1024, "100"), (512, "59"), (2, "1"), (262_144, "10000")] {
                files(t, json!({"cpu": {"shares": shares}}), &[("cpu.weight", weight)]);
            }
        },
    );
}

#[test]
fn cpu_burst() {
    run_case(any().v2(&["cpu"]).differs("runc", "1.1 has none").differs("crun", "1.8 has none"), |t| {
        let burst = json!({"cpu": {"quota": 50_000, "period": 100_000, "burst": 20_000}});
        files(t, burst, &[("cpu.max", "50000 100000"), ("cpu.max.burst", "20000")]);
    });
}

#[test]
fn cpu_idle() {
    run_case(any().v2(&["cpu"]).differs("runc", "1.1 has none"), |t| {
        files(t, json!({"cpu": {"idle": 1}}), &[("cpu.idle", "1")]);
    });
}

#[test]
fn cpusets() {
    run_case(any().v2(&["cpuset"]), |t| {
        files(t, json!({"cpu": {"cpus": "0", "mems": "0"}}), &[("cpuset.cpus", "0"), ("cpuset.mems", "0")]);
    });
}

#[test]
fn pids() {
    run_case(any().v2(&["pids"]), |t| {
        files(t, json!({"pids": {"limit": 17}}), &[("pids.max", "17")]);
    });
}

#[test]
fn block_io() {
    run_case(any().v2(&["io"]).needs(LoopDevice::available(), "loop devices"), |t| {
        let disk = LoopDevice::over(&t.dir);
        let (major, minor) = disk.numbers();
        let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        let throttles = json!({"blockIO": {
            "throttleReadBpsDevice": rate(1 << 20), "throttleWriteBpsDevice": rate(2 << 20),
            "throttleReadIOPSDevice": rate(300), "throttleWriteIOPSDevice": rate(400),
        }});
        let line = format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=300 wiops=400");
        files(t, throttles, &[("io.max", &line)]);
    });
}

#[test]
fn block_io_weight() {
    run_case(any().v2(&["io"]), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/blockIO", json!({"weight": 500}));
        let (id, run) = t.creation(&b, &[]);
        let out = run.run();
        let dir = Path::new(ROOT).join(&id);
        if out.code != 0 {
            // A kernel without bfq and iocost has no file for it.
            assert!(!dir.join("io.weight").exists(), "{out}");
            if t.kind == Kind::Oar {
                out.clean_error().says("weight");
            }
            return;
        }
        let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
        match (read("io.bfq.weight"), read("io.weight")) {
            // bfq has the range of the document, the other one is 1 to 10000: 1 + (500-10)*9999/990.
            (Some(bfq), _) => assert_eq!(bfq.lines().next().unwrap_or_default(), "default 500"),
            (None, Some(weight)) => assert_eq!(weight.lines().next().unwrap_or_default(), "default 4950"),
            (None, None) => panic!("a weight without a file was accepted"),
        }
    });
}

#[test]
fn huge_pages() {
    let present = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
    run_case(any().v2(&["hugetlb"]).needs(present, "huge pages of 2 MiB"), |t| {
        let two = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
        let reserved = ("hugetlb.2MB.rsvd.max", "4194304");
        let expected = [("hugetlb.2MB.max", "4194304"), reserved];
        files(t, two, if t.kind == Kind::Oar { &expected } else { &expected[..1] });
    });
}

#[test]
fn rdma_without_a_device_is_an_error() {
    let device = fs::read_dir("/sys/class/infiniband").is_ok_and(|mut d| d.next().is_some());
    run_case(oar_only("one line that names it").v2(&[]).needs(!device, "a host without rdma devices"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/rdma", json!({"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}}));
        t.try_create(&b).clean_error().says("rdma");
    });
}

#[test]
fn unified() {
    run_case(any().v2(&["memory", "pids"]), |t| {
        let keys = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 30}, "unified": {
            "memory.high": "50331648", "memory.min": "4096", "memory.oom.group": "1", "pids.max": "7",
        }});
        // What `unified` says comes last.
        files(
            t,
            keys,
            &[
                ("memory.max", "67108864"),
                ("memory.high", "50331648"),
                ("memory.min", "4096"),
                ("memory.oom.group", "1"),
                ("pids.max", "7"),
            ],
        );
    });
}

/// T-77.
#[test]
fn t77_unified_is_limits_of_this_cgroup_only() {
    run_case(oar_only("one line that has the place").v2(&["memory"]), |t| {
        for (key, value) in [
            ("memory", "1"),
            ("cgroup.procs", "1"),
            ("cgroup.freeze", "1"),
            ("cgroup.subtree_control", "+memory"),
            ("a/b", "1"),
            ("../x", "1"),
            ("../memory.max", "max"),
            ("memory.max\n", "1"),
            ("memory.high", "1\n2"),
            ("nosuch.max", "1"),
            ("memory.nosuch", "1"),
            ("memory.max", "many"),
            ("", "1"),
            (".", "1"),
        ] {
            let mut b = t.bundle();
            b.set("/linux/resources/unified", json!({key: value}));
            let out = t.try_create(&b);
            out.clean_error();
            let shown = key.trim();
            assert!(out.stderr.contains("unified") || out.stderr.contains(shown), "{key:?}: {out}");
        }
    });
}

#[test]
fn controllers_that_no_limit_needs_stay_off() {
    run_case(oar_only("the peers enable all").v2(&["pids", "memory", "cpu"]), |t| {
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{}/inner", t.tag)));
        b.set("/linux/resources", json!({"pids": {"limit": 17}}));
        let c = t.create(&b);
        let parent = Path::new(ROOT).join(&t.tag);
        let enabled = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap();
        assert!(!c.cgroups().unified().join("memory.max").exists());
        c.verb(&["delete", "--force"]).ok();
        remove_empty(&parent);
        assert_eq!(enabled.trim(), "pids");
    });
}

/// What v1 had and cgroup2 has not: said, and refused with `--strict`.
#[test]
fn what_v2_cannot_do_is_said() {
    run_case(oar_only("a warning, or an error with --strict").v2(&["memory", "cpu"]), |t| {
        let mut all = t.bundle();
        let mut places = Vec::new();
        for (pointer, value) in [
            ("memory/swappiness", json!(10)),
            ("memory/disableOOMKiller", json!(true)),
            ("memory/kernel", json!(8 << 20)),
            ("memory/kernelTCP", json!(8 << 20)),
            ("cpu/realtimeRuntime", json!(5000)),
            ("cpu/realtimePeriod", json!(100_000)),
            ("network/classID", json!(1_048_577)),
        ] {
            let pointer = format!("/linux/resources/{pointer}");
            all.set(&pointer, value.clone());
            let place = pointer[1..].replace('/', ".");
            let mut one = t.bundle();
            one.set(&pointer, value);
            create_flags(t, &one, &["--strict"]).clean_error().says(&place);
            places.push(place);
        }
        let out = t.try_create(&all);
        out.ok();
        for place in places {
            let line = out.stderr.lines().find(|l| l.contains(&place)).unwrap_or_default();
            assert!(line.starts_with("oar: warning: "), "{place}: {out}");
        }
    });
}

// --- placement ----------------------------------------------------------------------------------------------

/// Removes what is above a container's cgroup: it is the engine's.
fn remove_empty(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    fs::remove_dir(top).ok(); // What stays is the host check's to find.
}

#[test]
fn placement() {
    run_case(any().v2(&[]), |t| {
        for (path, end) in [
            (format!("/{}/abs/olute", t.tag), format!("/{}/abs/olute", t.tag)),
            (format!("{}-rel/ative", t.tag), format!("/{}-rel/ative", t.tag)),
            (format!("system.slice:docker:{}", t.tag), format!("/system.slice:docker:{}", t.tag)),
            (String::new(), String::new()),
        ] {
            if path.is_empty() && t.kind == Kind::Crun {
                continue; // It leaves the container where it is itself.
            }
            let mut b = t.bundle();
            b.set("/linux/cgroupsPath", json!(path));
            let c = t.create(&b);
            let text = fs::read_to_string(c.proc("cgroup")).unwrap();
            let dir = c.cgroups().unified().to_path_buf();
            let end = if end.is_empty() { format!("/{}", c.id) } else { end };
            c.verb(&["delete", "--force"]).ok();
            let left = dir.exists();
            let above = dir.parent().unwrap();
            if above.to_string_lossy().contains(&t.tag) {
                remove_empty(
                    above.ancestors().filter(|a| a.to_string_lossy().contains(&t.tag)).last().unwrap(),
                );
            }
            assert!(text.trim_end().ends_with(&end), "{path:?}: {text}");
            assert!(!left, "{path:?}: {} is left", dir.display());
        }
    });
}

/// A process of the case that waits, in a cgroup; ended and reaped on drop, and the cgroup removed.
struct Foreign {
    child: std::process::Child,
    dir: PathBuf,
}

impl Foreign {
    fn settle(t: &Test, name: &str) -> Self {
        let dir = Path::new(ROOT).join(format!("{}-{name}", t.tag));
        fs::create_dir(&dir).unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        Foreign { child, dir }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir(&self.dir).ok(); // What stays is the host check's to find.
    }
}

/// T-74.
#[test]
fn t74_a_cgroup_with_processes_is_refused() {
    run_case(any().v2(&[]).differs("crun", "joins it").differs("runc", "1.1 warns only"), |t| {
        let mut foreign = Foreign::settle(t, "foreign");
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{}", foreign.dir.file_name().unwrap().display())));
        let (id, run) = t.creation(&b, &[]);
        run.run().failed();
        t.rt(&["delete", "--force", &id]).run();
        assert!(foreign.child.try_wait().unwrap().is_none(), "the foreign process is gone");
        let procs = fs::read_to_string(foreign.dir.join("cgroup.procs")).unwrap();
        assert_eq!(procs.trim(), foreign.child.id().to_string());
    });
}

#[test]
fn t74_a_frozen_cgroup_is_refused() {
    run_case(any().v2(&[]).differs("crun", "hangs in it"), |t| {
        let dir = Path::new(ROOT).join(format!("{}-frozen", t.tag));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cgroup.freeze"), "1").unwrap();
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{}-frozen", t.tag)));
        let out = t.try_create(&b);
        if dir.exists() {
            fs::write(dir.join("cgroup.freeze"), "0").unwrap();
            fs::remove_dir(&dir).ok();
        }
        out.failed().says("frozen");
    });
}

#[test]
fn the_process_starts_in_its_cgroup() {
    let strace = Command::new("strace").arg("-V").output().is_ok();
    run_case(oar_only("CLONE_INTO_CGROUP").v2(&[]).needs(strace, "strace"), |t| {
        let b = t.bundle();
        let (_, run) = t.creation(&b, &[]);
        let log = t.dir.join("strace");
        let log_name = log.to_str().unwrap();
        run.wrap(&["strace", "-e", "trace=clone3,openat", "-o", log_name]).run().ok();
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.lines().any(|l| l.contains("clone3(") && l.contains("CLONE_INTO_CGROUP")), "{text}");
        let moved = text.lines().any(|l| l.contains("\"cgroup.procs\"") && l.contains("O_WRONLY"));
        assert!(!moved, "{text}");
    });
}

// --- the view inside ----------------------------------------------------------------------------------------

fn mount_cgroup(b: &mut Bundle, access: &str) {
    b.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]);
}

/// T-70: mount ro and rw, with and without a cgroup namespace.
fn see(t: &Test, access: &str, namespace: bool) {
    let what = format!("{access}, namespace {namespace}");
    let mut b = t.bundle();
    if namespace {
        b.namespace("cgroup", "");
    }
    mount_cgroup(&mut b, access);
    // cgroup.type is in every cgroup but the root of the tree.
    b.sh("cat /proc/self/cgroup; [ -e /sys/fs/cgroup/cgroup.type ] && echo own; \
          mkdir /sys/fs/cgroup/sub 2>&1 && echo made; (echo max > /sys/fs/cgroup/cgroup.max.depth) 2>&1 && echo set; exit 0");
    let (id, out) = run_id(t, &b);
    let text = out.ok();
    let path = if namespace { "0::/\n".to_owned() } else { format!("0::/{id}\n") };
    assert!(text.starts_with(&format!("{path}own\n")), "{what}: {out}");
    if access == "ro" {
        assert_eq!(text.matches("Read-only file system").count(), 2, "{what}: {out}");
        assert!(!text.contains("made") && !text.contains("set\n"), "{what}: {out}");
    } else {
        assert!(text.contains("made\n"), "{what}: {out}");
        // With nsdelegate, what limits the container itself is not its own to write.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        if namespace && mounts.lines().any(|l| l.contains(" cgroup2 ") && l.contains("nsdelegate")) {
            assert!(!text.contains("set\n"), "{what}: {out}");
        }
    }
}

#[test]
fn t70_the_container_sees_its_own_part() {
    run_case(any().v2(&[]), |t| {
        see(t, "ro", true);
        see(t, "rw", true);
    });
}

#[test]
fn t70_the_container_sees_its_own_part_without_a_namespace() {
    let differs = "mounts the whole tree, and that resets nsdelegate on the host";
    run_case(any().v2(&[]).differs("runc", differs).differs("crun", differs), |t| {
        see(t, "ro", false);
        see(t, "rw", false);
    });
}

fn run_id(t: &Test, b: &Bundle) -> (String, Out) {
    let id = t.id();
    t.write(b, &id);
    let out = t.rt(&["run", "--bundle", b.dir.to_str().unwrap(), &id]).run();
    (id, out)
}

/// The release agent, and with it the host's root (CVE-2022-0492), is a matter of v1; here the ways up are tried.
#[test]
fn t70_no_way_to_the_parent() {
    run_case(any().v2(&[]), |t| {
        let mut b = t.bundle();
        b.namespace("cgroup", "");
        mount_cgroup(&mut b, "rw");
        b.sh("ls -a /sys/fs/cgroup/.. | grep -c '^cgroup$'; ls /sys/fs/cgroup | grep -c release_agent; \
              [ -e /sys/fs/cgroup/../cgroup.procs ] && echo above; exit 0");
        assert_eq!(t.run(&b).ok(), "1\n0\n");
    });
}

/// T-75.
#[test]
fn t75_a_forest_of_sub_cgroups_is_removed() {
    run_case(any().v2(&[]), |t| {
        let mut b = t.bundle();
        b.namespace("cgroup", "");
        mount_cgroup(&mut b, "rw");
        let deep: String = (1..=20).map(|n| format!("/d{n}")).collect();
        b.sh(&format!(
            "cd /sys/fs/cgroup; i=0; while [ $i -lt 15 ]; do mkdir -p t$i{deep}; i=$((i+1)); done; \
             sleep 1000 & echo $! > t3{deep}/cgroup.procs; echo 1 > t3/d1/cgroup.freeze; \
             echo $$ > t7{deep}/cgroup.procs; echo grown; exec tail -f /dev/null"
        ));
        let c = t.create(&b);
        let top = c.cgroups().unified().to_path_buf();
        c.start();
        t.wait_for(&t.dir, || c.output().contains("grown"));
        let frozen = top.join("t3/d1/cgroup.events");
        t.wait_for(&top.join("t3/d1"), || fs::read_to_string(&frozen).unwrap().contains("frozen 1"));
        assert!(top.join(format!("t14{deep}")).exists());
        c.verb(&["delete", "--force"]).ok();
        assert!(!top.exists());
    });
}

// --- delegation ---------------------------------------------------------------------------------------------

/// config-linux.md "Cgroup ownership": user namespace, new cgroup namespace, writable mount.
fn delegated(b: &mut Bundle, access: &str, namespace: bool) {
    b.user_namespace();
    if namespace {
        b.namespace("cgroup", "");
    }
    mount_cgroup(b, access);
}

fn owner(path: &Path) -> u32 {
    path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display())).uid()
}

fn delegate_files() -> Vec<String> {
    let text = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_delegated_cgroup_belongs_to_the_containers_root() {
    run_case(any().v2(&["memory"]).differs("runc", "1.1 delegates with the systemd driver only"), |t| {
        let mut b = t.bundle();
        delegated(&mut b, "rw", true);
        b.set("/linux/resources/memory", json!({"limit": 64 << 20}));
        let c = t.create(&b);
        let dir = c.cgroups().unified().to_path_buf();
        assert_eq!(owner(&dir), 100_000);
        for file in delegate_files() {
            let path = dir.join(&file);
            if path.exists() && file != "memory.reclaim" && file != "memory.oom.group" {
                assert_eq!(owner(&path), 100_000, "{file}");
            }
        }
        assert_eq!(owner(&dir.join("cgroup.procs")), 100_000);
        assert_eq!(owner(&dir.join("memory.max")), 0);
    });
}

#[test]
fn without_one_of_the_conditions_the_cgroup_stays_roots() {
    run_case(any().v2(&[]).differs("crun", "ignores the last two conditions"), |t| {
        for (access, namespace) in [("ro", true), ("rw", false)] {
            let mut b = t.bundle();
            delegated(&mut b, access, namespace);
            let c = t.create(&b);
            let dir = c.cgroups().unified().to_path_buf();
            assert_eq!((owner(&dir), owner(&dir.join("cgroup.procs"))), (0, 0), "{access}, {namespace}");
        }
        // No mount, and no user namespace.
        let mut b = t.bundle();
        b.user_namespace().namespace("cgroup", "");
        let c = t.create(&b);
        assert_eq!(owner(c.cgroups().unified()), 0, "without a mount");
        let mut b = t.bundle();
        b.namespace("cgroup", "");
        mount_cgroup(&mut b, "rw");
        let c = t.create(&b);
        assert_eq!(owner(c.cgroups().unified()), 0, "without a user namespace");
    });
}

#[test]
fn a_leaf_lets_the_container_limit_its_children() {
    run_case(oar_only("--cgroup-leaf").v2(&["pids"]), |t| {
        let mut b = t.bundle();
        delegated(&mut b, "rw", true);
        b.set("/linux/resources", json!({"pids": {"limit": 50}}));
        b.sh("cat /proc/self/cgroup; cd /sys/fs/cgroup; cat pids.max; (echo 60 > pids.max) 2>&1; \
              mkdir sub && echo +pids > cgroup.subtree_control && echo 6 > sub/pids.max && cat sub/pids.max; \
              (sh -c 'echo 0 > sub/cgroup.procs; i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; echo all') 2>&1; \
              cat sub/pids.current");
        let out = t.run_with(&b, &["--cgroup-leaf"]).run();
        let text = out.ok();
        assert!(text.starts_with("0::/init\n50\n"), "{out}");
        assert!(text.contains("ermission denied"), "its own limit is not its own: {out}");
        assert!(text.contains("\n6\n") && text.contains("fork") && !text.contains("all\n"), "{out}");
    });
}

#[test]
fn limits_of_a_nested_container() {
    run_case(oar_only("--cgroup-leaf").v2(&["pids"]), |t| {
        let mut b = t.bundle();
        let inner_dir = b.rootfs().join("inner");
        fs::create_dir(&inner_dir).unwrap();
        let mut inner = Bundle::create(&inner_dir, &t.tag);
        // What the outer container is not allowed to mount is left out.
        inner.config["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        inner.config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]);
        // As rootless engines do it; in the outer one's user namespace no device node can be made.
        inner.namespace("user", "");
        let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
        inner.set("/linux/uidMappings", map.clone());
        inner.set("/linux/gidMappings", map);
        inner.config.as_object_mut().unwrap().remove("hostname");
        inner.set("/linux/cgroupsPath", json!("/nested"));
        inner.set("/linux/resources", json!({"pids": {"limit": 6}}));
        inner.sh(
            "cat /proc/self/cgroup; i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; echo all",
        );
        inner.write();
        delegated(&mut b, "rw", true);
        b.set("/linux/resources", json!({"pids": {"limit": 60}}));
        for set in ["bounding", "effective", "permitted"] {
            b.set(&format!("/process/capabilities/{set}/-"), json!("CAP_SYS_ADMIN"));
        }
        for (host, inside) in [("/usr", "/usr"), ("/lib", "/lib"), ("/lib64", "/lib64")] {
            if Path::new(host).exists() {
                fs::create_dir_all(b.rootfs().join(&inside[1..])).unwrap();
                b.mount(inside, "bind", host, &["rbind", "ro"]); // A runtime that is linked dynamically needs them.
            }
        }
        fs::write(b.rootfs().join("oar"), "").unwrap();
        b.mount("/oar", "bind", t.runtime.to_str().unwrap(), &["bind", "ro"]);
        b.sh("mkdir /tmp/state; /oar --root /tmp/state run --bundle /inner nested 2>&1; echo code $?; \
              ls /sys/fs/cgroup | grep -c nested; cat /sys/fs/cgroup/cgroup.subtree_control");
        let out = t.run_with(&b, &["--cgroup-leaf"]).run();
        let text = out.ok();
        assert!(text.contains("fork") && !text.contains("all\n"), "{out}");
        assert!(text.contains("code 2\n0\n"), "the nested cgroup is removed: {out}");
        assert!(text.contains("pids"), "{out}");
    });
}

// --- the peers ----------------------------------------------------------------------------------------------

/// Runtime, file, why its value is not oar's.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("runc", "cpu.weight", "before 1.3.2 shares became a weight by another formula"),
    ("runc", "cpu.weight.nice", "follows cpu.weight"),
    ("crun", "cpu.weight", "before 1.23 shares became a weight by another formula"),
    ("crun", "cpu.weight.nice", "follows cpu.weight"),
    ("runc", "hugetlb.2MB.rsvd.max", "1.1.5 leaves reservations unlimited"),
    ("crun", "hugetlb.2MB.rsvd.max", "leaves reservations unlimited"),
    ("runc", "cgroup.controllers", "enables all that there are"),
    ("crun", "cgroup.controllers", "enables all that there are"),
];

/// A file that counts or shows, so that its value is not the runtime's doing.
fn changes(name: &str) -> bool {
    let ends = [
        ".stat",
        ".stat.local",
        ".pressure",
        ".events",
        ".events.local",
        ".current",
        ".peak",
        ".numa_stat",
        ".procs",
        ".threads",
        ".reclaim",
        ".kill",
    ];
    ends.iter().any(|e| name.ends_with(e))
}

fn values(dir: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_file())) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let (false, Ok(text)) = (changes(&name), fs::read_to_string(entry.path())) {
            all.insert(name, text.trim().to_owned());
        }
    }
    all
}

#[test]
fn every_file_as_runc_and_crun_write_it() {
    let peers: Vec<_> = [("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")]
        .into_iter()
        .filter(|(_, p)| Path::new(p).exists())
        .collect();
    run_case(
        oar_only("it is the one that is compared")
            .v2(&["memory", "cpu", "cpuset", "io", "pids"])
            .needs(!peers.is_empty(), "runc or crun"),
        |t| {
            let mut resources = json!({
                "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
                "cpu": {"shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0"},
                "pids": {"limit": 17},
                "unified": {"memory.high": "50331648", "memory.oom.group": "1"},
            });
            if has("hugetlb") && Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
                resources["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
            }
            let mut b = t.bundle();
            b.set("/linux/resources", resources);
            let ours = {
                let c = t.create(&b);
                values(c.cgroups().unified())
            };
            let mut wrong = Vec::new();
            for (name, path) in &peers {
                let id = t.id();
                let root = t.scratch(&format!("{name}-state"));
                b.set("/linux/cgroupsPath", json!(format!("/{id}")));
                b.write();
                let run = |args: &[&str]| {
                    let argv = [&[*path, "--root", root.to_str().unwrap()], args].concat();
                    t.program(argv.iter().map(std::ffi::OsString::from).collect()).run()
                };
                let created = run(&["create", "--bundle", b.dir.to_str().unwrap(), &id]);
                let theirs = (created.code == 0).then(|| values(&Path::new(ROOT).join(&id)));
                let deleted = run(&["delete", "--force", &id]);
                let theirs = theirs.unwrap_or_else(|| panic!("{created}"));
                deleted.ok();
                // On a busy machine a peer gives up on the directory before the killed process has left it.
                let left = Path::new(ROOT).join(&id);
                let populated = || {
                    fs::read_to_string(left.join("cgroup.events")).is_ok_and(|e| e.contains("populated 1"))
                };
                if left.exists() {
                    t.wait_for(&left, || !populated());
                    fs::remove_dir(&left).unwrap();
                }
                let stated = |file: &str| DIFFERENCES.iter().any(|(n, f, _)| n == name && *f == file);
                for (file, value) in ours.iter().filter(|(file, _)| !stated(file)) {
                    let theirs = theirs.get(file).map_or("(absent)", String::as_str);
                    if theirs != value {
                        wrong.push(format!("{file}: oar {value}, {name} {theirs}"));
                    }
                }
            }
            assert!(wrong.is_empty(), "{wrong:#?}");
            // Something was compared.
            for file in ["memory.max", "memory.swap.max", "cpu.max", "cpuset.cpus", "pids.max", "memory.high"]
            {
                assert!(ours.contains_key(file), "{ours:#?}");
            }
        },
    );
}

/// A container without limits is nobody's business but the kernel's: the signal comes through `cgroup.kill` as well.
#[test]
fn kill_reaches_what_left_for_a_sub_cgroup() {
    run_case(any().v2(&[]), |t| {
        let mut b = t.bundle();
        b.namespace("cgroup", "").without_namespace("pid");
        mount_cgroup(&mut b, "rw");
        b.sh("mkdir /sys/fs/cgroup/sub; sleep 1000 & echo $! > /sys/fs/cgroup/sub/cgroup.procs; echo ready; wait");
        let c = t.create(&b);
        let dir = c.cgroups().unified().to_path_buf();
        c.start();
        t.wait_for(&t.dir, || c.output().contains("ready"));
        let inner: i32 = fs::read_to_string(dir.join("sub/cgroup.procs")).unwrap().trim().parse().unwrap();
        c.verb(&["delete", "--force"]).ok();
        // Adopted by the case, which is a subreaper: reaped here if it is dead, and refused to if it lives.
        t.wait_pid(inner);
        assert!(kill(Pid::from_raw(inner), None::<Signal>).is_err());
        assert!(!dir.exists());
    });
}
