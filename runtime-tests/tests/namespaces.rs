// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the eight namespaces: new, joined by path, refused; and what each makes visible inside.
//! Never joins a namespace of the machine's process 1 to change it.
//! Expectations come from config-linux.md (Namespaces, User namespace mappings, Offset for Time Namespace).

use runtime_tests::{Case, Test, any, json, oar_only, run_case};
use std::fs;
use std::path::PathBuf;

const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

const NO_TIME: &str = "this version has no time namespaces";

fn own(file: &str) -> PathBuf {
    fs::read_link(format!("/proc/thread-self/ns/{file}")).unwrap()
}

fn inside(t: &Test, kind: &str, file: &str) -> String {
    let mut b = t.bundle();
    if kind == "user" {
        b.user_namespace();
    } else {
        b.namespace(kind, "");
    }
    b.args(&["readlink", &format!("/proc/self/ns/{file}")]);
    t.run(&b).ok().trim().to_owned()
}

#[test]
fn new_ones_differ_from_the_callers() {
    run_case(any(), |t| {
        for (kind, file) in KINDS.into_iter().filter(|(k, _)| *k != "time") {
            assert_ne!(PathBuf::from(inside(t, kind, file)), own(file), "{kind}");
        }
    });
}

#[test]
fn new_time_namespace() {
    run_case(any().differs("runc", NO_TIME).differs("crun", NO_TIME), |t| {
        assert_ne!(PathBuf::from(inside(t, "time", "time")), own("time"));
    });
}

#[test]
fn absent_ones_are_the_callers() {
    run_case(any(), |t| {
        for (kind, file) in [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            let mut b = t.bundle();
            b.without_namespace(kind).remove("/hostname").unmount("/dev/mqueue").unmount("/sys");
            b.args(&["readlink", &format!("/proc/self/ns/{file}")]);
            assert_eq!(PathBuf::from(t.run(&b).ok().trim()), own(file), "{kind}");
        }
        for file in ["user", "cgroup"] {
            let mut b = t.bundle();
            b.args(&["readlink", &format!("/proc/self/ns/{file}")]);
            assert_eq!(PathBuf::from(t.run(&b).ok().trim()), own(file), "{file}");
        }
    });
}

#[test]
fn joined_by_path_are_equal() {
    run_case(any(), |t| {
        let mut holder = t.bundle();
        holder.namespace("cgroup", "").sh("sleep 1000");
        let c = t.create(&holder);
        c.start();
        for (kind, file) in
            [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")]
        {
            let mut b = t.bundle();
            b.namespace(kind, c.proc(&format!("ns/{file}")).to_str().unwrap());
            if kind == "uts" {
                b.remove("/hostname");
            }
            b.args(&["readlink", &format!("/proc/self/ns/{file}")]);
            let seen = PathBuf::from(t.run(&b).ok().trim());
            assert_eq!(seen, fs::read_link(c.proc(&format!("ns/{file}"))).unwrap(), "{kind}");
        }
    });
}

#[test]
fn joined_user_namespace() {
    run_case(any().differs("runc", "1.1.5 wants mappings beside the path, which the spec forbids"), |t| {
        let mut holder = t.bundle();
        holder.user_namespace().sh("sleep 1000");
        let c = t.create(&holder);
        c.start();
        let mut b = t.bundle();
        b.user_namespace();
        b.remove("/linux/uidMappings").remove("/linux/gidMappings");
        b.namespace("user", c.proc("ns/user").to_str().unwrap());
        b.sh("readlink /proc/self/ns/user; cat /proc/self/uid_map; id -u");
        let out = t.run(&b);
        let lines: Vec<_> = out.ok().lines().collect();
        assert_eq!(PathBuf::from(lines[0]), fs::read_link(c.proc("ns/user")).unwrap());
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
        assert_eq!(lines[2], "0");
    });
}

#[test]
fn joined_pid_namespace_lives_and_dies_alone() {
    run_case(any(), |t| {
        let mut holder = t.bundle();
        holder.sh("sleep 1000");
        let c = t.create(&holder);
        c.start();
        let mut b = t.bundle();
        b.namespace("pid", c.proc("ns/pid").to_str().unwrap());
        b.sh("echo $$; exit 3");
        let out = t.run(&b);
        out.expect_code(3);
        assert_ne!(out.stdout.trim(), "1");
        assert_eq!(c.status(), "running");
    });
}

#[test]
fn wrong_type_of_a_path_is_refused() {
    run_case(any().differs("crun", "1.8.1 does not compare the types of all"), |t| {
        for (kind, file) in
            [("network", "uts"), ("ipc", "net"), ("uts", "ipc"), ("pid", "mnt"), ("cgroup", "net")]
        {
            let mut b = t.bundle();
            b.namespace(kind, &format!("/proc/self/ns/{file}")).remove("/hostname");
            t.try_create(&b).failed();
        }
    });
}

#[test]
fn time_offsets() {
    run_case(
        any()
            .differs("runc", "1.1.5 has no time namespaces")
            .differs("crun", "1.8.1 has no linux.timeOffsets"),
        |t| {
            let mut b = t.bundle();
            b.namespace("time", "");
            b.set(
                "/linux/timeOffsets",
                json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 2_000_000, "nanosecs": 5}}),
            );
            b.sh("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets");
            let out = t.run(&b);
            let lines: Vec<_> =
                out.ok().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            assert!(lines[0].parse::<u64>().unwrap() > 1_000_000, "{out}");
            assert!(lines.contains(&"monotonic 2000000 5".to_owned()), "{out}");
            assert!(lines.contains(&"boottime 1000000 0".to_owned()), "{out}");
        },
    );
}

#[test]
fn time_offsets_may_be_negative_or_absent() {
    run_case(
        any()
            .differs("runc", "1.1.5 has no time namespaces")
            .differs("crun", "1.8.1 has no linux.timeOffsets"),
        |t| {
            let offsets = |b: &mut runtime_tests::Bundle| {
                b.namespace("time", "").sh("cat /proc/self/timens_offsets");
                let out = t.run(b);
                let lines = out.ok().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
                lines.collect::<Vec<_>>()
            };
            assert_eq!(offsets(&mut t.bundle()), ["monotonic 0 0", "boottime 0 0"]);
            let mut b = t.bundle();
            b.set(
                "/linux/timeOffsets",
                json!({"boottime": {"secs": -5}, "monotonic": {"secs": -1, "nanosecs": 999_999_999}}),
            );
            assert_eq!(offsets(&mut b), ["monotonic -1 999999999", "boottime -5 0"]);
        },
    );
}

#[test]
fn user_namespace_with_several_maps() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.user_namespace();
        let map = json!([
            {"containerID": 0, "hostID": 100_000, "size": 1000},
            {"containerID": 1000, "hostID": 300_000, "size": 10}
        ]);
        b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        b.sh("cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/mine; id -u");
        let out = t.run(&b);
        let lines: Vec<_> =
            out.ok().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["0 100000 1000", "1000 300000 10", "0 100000 1000", "1000 300000 10", "0"]);
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(b.rootfs().join("tmp/mine")).unwrap());
        assert_eq!(owner, 100_000);
    });
}

#[test]
fn user_namespace_as_another_user() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.user_namespace();
        b.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [7]}));
        b.sh("id -u; id -G; cat /dev/null; echo ok > /dev/null; ls -d /dev/pts /dev/shm");
        assert_eq!(t.run(&b).ok(), "1000\n1000 7\n/dev/pts\n/dev/shm\n");
    });
}

#[test]
fn hostname_and_domainname() {
    run_case(any().differs("runc", "1.1.5 has no domainname"), |t| {
        let mut b = t.bundle();
        b.set("/hostname", json!("box")).set("/domainname", json!("example.org"));
        b.sh("hostname; cat /proc/sys/kernel/domainname");
        assert_eq!(t.run(&b).ok(), "box\nexample.org\n");
    });
}

#[test]
fn hostname_alone() {
    run_case(any(), |t| {
        assert_eq!(t.sh("hostname"), "coracle-test\n");
    });
}

#[test]
fn loopback_is_up_in_a_new_network_namespace() {
    run_case(any(), |t| {
        let out = t.sh("ip addr show lo; ping -c1 -W2 127.0.0.1 >/dev/null && echo pong; ls /sys/class/net");
        assert!(out.contains("UP") && out.contains("127.0.0.1/8") && out.contains("pong"), "{out}");
    });
}

#[test]
fn pid_one_inside_is_the_program() {
    run_case(any(), |t| {
        assert_eq!(t.sh("echo $$; echo /proc/[0-9]*"), "1\n/proc/1\n");
    });
}

#[test]
fn network_namespace_path_of_a_named_one() {
    run_case(any(), |t| {
        // A bind mount of nsfs, as `ip netns add` makes it.
        let file = t.dir.join("netns");
        fs::write(&file, "").unwrap();
        let argv = ["unshare".to_owned(), format!("--net={}", file.display()), "true".to_owned()];
        t.program(argv.iter().map(std::ffi::OsString::from).collect()).run().ok();
        let mut b = t.bundle();
        b.namespace("network", file.to_str().unwrap()).unmount("/sys").sh("ip link show lo | head -1");
        // A joined network namespace is its owner's: nobody brings `lo` up there.
        let out = t.run(&b);
        nix::mount::umount(&file).unwrap();
        assert!(!out.ok().contains("UP"), "{out}");
    });
}

fn one_line() -> Case {
    oar_only("the error names the place in the document")
}

#[test]
fn wrong_type_names_the_place() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.namespace("network", "/proc/self/ns/uts");
        t.try_create(&b).clean_error().says("linux.namespaces[4]").says("/proc/self/ns/uts");
    });
}
