// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns placement and the memory, cpu and pids limits, on v1 or hybrid hosts and on a v2 directory.
//! Never writes to a cgroup that is not the container's; the pure v2 view lives in the case's mount namespace.
//! Expectations come from config-linux.md (Control groups) and the hybrid rules.

use nix::mount::{MsFlags, mount};
use runtime_tests::{Container, Test, any, json, oar_only, pure_v2, run_case, v1};
use std::fs;
use std::path::{Path, PathBuf};

fn value(controller: &str, c: &Container<'_>, file: &str) -> String {
    let path = PathBuf::from("/sys/fs/cgroup").join(controller).join(&c.id).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

#[test]
fn placement_by_path_before_create_returns() {
    run_case(any(), |t| {
        let c = t.create(&t.bundle());
        let text = fs::read_to_string(c.proc("cgroup")).unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (name, path) = (fields.nth(1).unwrap(), fields.next().unwrap());
            if ["memory", "pids", "cpu", "cpu,cpuacct"].contains(&name) {
                assert_eq!(path, format!("/{}", c.id), "{text}\n(own: {own})");
            }
        }
    });
}

#[test]
fn memory_limits_v1() {
    run_case(any().needs(v1("memory"), "the memory controller on v1"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/memory", json!({"limit": 64 << 20, "reservation": 32 << 20}));
        let c = t.create(&b);
        assert_eq!(value("memory", &c, "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(value("memory", &c, "memory.soft_limit_in_bytes"), (32 << 20).to_string());
    });
}

#[test]
fn memory_limit_bites() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/memory", json!({"limit": 32 << 20}));
        // dd fills a buffer of 200 MiB; where there is swap, that is slow, but it ends.
        b.sh("dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo end $?");
        let out = t.run_with(&b, &[]).deadline(120).run();
        assert!(out.stdout.contains("end 137") || out.code == 137, "{out}");
    });
}

#[test]
fn cpu_limits_v1() {
    run_case(any().needs(v1("cpu"), "the cpu controller on v1"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/cpu", json!({"shares": 512, "quota": 50_000, "period": 100_000}));
        let c = t.create(&b);
        assert_eq!(value("cpu", &c, "cpu.shares"), "512");
        assert_eq!(value("cpu", &c, "cpu.cfs_quota_us"), "50000");
        assert_eq!(value("cpu", &c, "cpu.cfs_period_us"), "100000");
    });
}

#[test]
fn pids_limit_v1() {
    run_case(any().needs(v1("pids"), "the pids controller on v1"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/pids", json!({"limit": 17}));
        let c = t.create(&b);
        assert_eq!(value("pids", &c, "pids.max"), "17");
    });
}

#[test]
fn pids_limit_bites() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/pids", json!({"limit": 20}));
        b.sh("i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; echo all");
        let out = t.run(&b);
        assert!(!out.stdout.contains("all"), "{out}");
        assert!(out.stderr.contains("fork"), "{out}");
    });
}

#[test]
fn pids_limit_unlimited() {
    run_case(
        any().needs(v1("pids"), "the pids controller on v1").differs("crun", "1.8.1 writes -1 on v1"),
        |t| {
            let mut b = t.bundle();
            b.set("/linux/resources/pids", json!({"limit": -1}));
            let c = t.create(&b);
            assert_eq!(value("pids", &c, "pids.max"), "max");
        },
    );
}

#[test]
fn deeper_path_is_made_and_removed() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{0}/inner", t.tag)));
        b.sh("cat /proc/self/cgroup");
        let out = t.run(&b);
        assert!(out.ok().contains(&format!("/{}/inner", t.tag)), "{out}");
        // What is above the container's own directory belongs to the engine, as with runc.
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let parent = entry.path().join(&t.tag);
            if parent.exists() {
                assert!(!parent.join("inner").exists(), "{}", parent.display());
                fs::remove_dir(&parent).unwrap();
            }
        }
    });
}

#[test]
fn absent_path_still_works() {
    run_case(
        any().differs("crun", "1.8.1 cannot fill the cpuset of its own choice on this kind of host"),
        |t| {
            let mut b = t.bundle();
            b.set("/linux/cgroupsPath", json!(""));
            b.sh("exit 5");
            t.run(&b).expect_code(5);
        },
    );
}

#[test]
fn colons_are_legal_with_cgroupfs() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("system.slice:docker:{}", t.tag)));
        b.sh("exit 5");
        t.run(&b).expect_code(5);
    });
}

#[test]
fn cgroup_stays_until_delete() {
    run_case(any().needs(v1("memory"), "the memory controller on v1"), |t| {
        let c = t.create(&t.bundle());
        c.start();
        c.wait();
        assert_eq!(value("memory", &c, "cgroup.procs"), "");
        c.verb(&["delete"]).ok();
        assert!(!Path::new("/sys/fs/cgroup/memory").join(&c.id).exists());
    });
}

/// cgroup2 over /sys/fs/cgroup, in this case's mount namespace, until it is dropped.
struct OnlyV2 {
    mounted: bool,
}

impl OnlyV2 {
    fn enter() -> Self {
        // Where it is there anyway, another mount would set the options of the host's own.
        let mounted = !pure_v2();
        if mounted {
            mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), None::<&str>)
                .unwrap();
        }
        OnlyV2 { mounted }
    }
}

impl Drop for OnlyV2 {
    fn drop(&mut self) {
        if self.mounted {
            // What stays is the host check's to find.
            nix::mount::umount2("/sys/fs/cgroup", nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}

#[test]
fn v2_directory() {
    run_case(any().differs("crun", "1.8.1 wants CAP_SYS_RESOURCE for its device program"), |t| {
        let only_v2 = OnlyV2::enter();
        let c = t.create(&t.bundle());
        let text = fs::read_to_string(c.proc("cgroup")).unwrap();
        let procs = fs::read_to_string(format!("/sys/fs/cgroup/{}/cgroup.procs", c.id)).unwrap();
        c.verb(&["delete", "--force"]).ok();
        let left = Path::new("/sys/fs/cgroup").join(&c.id).exists();
        drop(only_v2);
        assert!(text.lines().any(|l| l == format!("0::/{}", c.id)), "{text}");
        assert_eq!(procs.trim(), c.pid.to_string());
        assert!(!left);
    });
}

#[test]
fn v2_without_the_controller_is_refused() {
    run_case(oar_only("the error names the controller"), |t: &Test| {
        let only_v2 = OnlyV2::enter();
        let there = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        let mut outs = Vec::new();
        for (controller, resource) in [
            ("memory", json!({"memory": {"limit": 64 << 20}})),
            ("cpu", json!({"cpu": {"quota": 50_000, "period": 100_000}})),
            ("pids", json!({"pids": {"limit": 5}})),
        ] {
            if there.split_whitespace().any(|c| c == controller) {
                continue;
            }
            let mut b = t.bundle();
            b.set("/linux/resources", resource);
            outs.push((controller, t.try_create(&b)));
        }
        drop(only_v2);
        for (controller, out) in outs {
            out.clean_error().says(controller);
        }
    });
}

/// On every kind of host, before anything is made: all of them at once, each with its place.
#[test]
fn impossible_limits_are_refused_with_their_places() {
    run_case(oar_only("the place and the rule"), |t| {
        let wrong = [
            ("memory/limit", json!(-2)),
            ("memory/reservation", json!(-2)),
            ("memory/swappiness", json!(101)),
            ("cpu/shares", json!(1)),
            ("cpu/quota", json!(999)),
            ("cpu/period", json!(999)),
            ("cpu/idle", json!(2)),
            ("cpu/cpus", json!("1-")),
            ("cpu/mems", json!("99")),
            ("blockIO/weight", json!(9)),
            ("blockIO/throttleReadBpsDevice", json!([{"major": 0, "minor": 0, "rate": 1}])),
            ("hugepageLimits", json!([{"pageSize": "3MB", "limit": 0}])),
        ];
        let mut all = t.bundle();
        for (pointer, value) in &wrong {
            all.set(&format!("/linux/resources/{pointer}"), value.clone());
        }
        let out = t.try_create(&all);
        out.failed();
        for (pointer, _) in wrong {
            out.says(&format!("linux.resources.{}", pointer.replace('/', ".")));
        }
        for (memory, place) in [
            (json!({"swap": 64 << 20}), "linux.resources.memory.swap"),
            (json!({"limit": 64 << 20, "swap": 32 << 20}), "linux.resources.memory.swap"),
        ] {
            let mut b = t.bundle();
            b.set("/linux/resources/memory", memory);
            t.try_create(&b).clean_error().says(place);
        }
    });
}

#[test]
fn intel_rdt_is_refused_where_resctrl_is_not_mounted() {
    run_case(oar_only("the error names what is missing"), |t| {
        if fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains(" - resctrl ") {
            return; // such a machine could show the effect
        }
        for value in
            [json!({}), json!({"closID": "x", "enableMonitoring": true}), json!({"l3CacheSchema": "L3:0=f"})]
        {
            let mut b = t.bundle();
            b.set("/linux/intelRdt", value);
            t.try_create(&b).clean_error().says("linux.intelRdt").says("resctrl");
        }
    });
}
