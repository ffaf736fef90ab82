// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns bad input, as tables: the rows B-1…B-144 of research/security.md §5 that concern this version.
//! Never stops at the first row that misbehaves; each failure names its row.
//! A row is a patch of the good base config (or a file, or arguments) and the words that the one line must have.

use runtime_tests::{Bundle, Case, Host, Out, Test, Value, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::symlink;

fn one_line() -> Case {
    oar_only("one line on stderr that names the place in the document; the others word it differently")
}

/// Number, JSON pointer, values, words.
type Row<'a> = (&'a str, &'a str, Vec<Value>, &'a [&'a str]);

/// Everything that a refused input must fulfil; `None` when it does.
fn fault(t: &Test, out: &Out, words: &[&str]) -> Option<String> {
    let mut faults = Vec::new();
    // exec's own failures are 255.
    if out.code == 0 || out.code == 101 || (128..255).contains(&out.code) {
        faults.push(format!("exit {}", out.code));
    }
    if !out.is_one_line() {
        faults.push("not one line beginning `oar: `".to_owned());
    }
    for word in ["panicked", "BACKTRACE", "os error", "Some(", "Err("] {
        if out.stderr.contains(word) {
            faults.push(format!("has `{word}`"));
        }
    }
    for word in words.iter().filter(|w| !out.stderr.contains(**w)) {
        faults.push(format!("lacks `{word}`"));
    }
    if fs::read_dir(t.state_root()).unwrap().count() != 0 {
        faults.push("state is left".to_owned());
    }
    if faults.is_empty() { None } else { Some(format!("{}\n{out}", faults.join(", "))) }
}

#[track_caller]
fn report(t: &Test, faults: Vec<String>) {
    let left = Host::leftovers(t);
    assert!(
        faults.is_empty() && left.is_empty(),
        "{} rows:\n{}\n{left:?}",
        faults.len(),
        faults.join("\n---\n")
    );
}

/// Applies each value of each row to what `prepare` made and expects a refusal of `create`.
fn table(t: &Test, prepare: impl Fn(&mut Bundle), rows: &[Row<'_>]) {
    let mut faults = Vec::new();
    let mut base = t.bundle();
    prepare(&mut base);
    for (number, pointer, values, words) in rows {
        for value in values {
            let mut b = base.clone();
            b.set(pointer, value.clone());
            let out = t.try_create(&b);
            if let Some(why) = fault(t, &out, words) {
                let value = value.to_string();
                let value: String = value.chars().take(120).collect();
                faults.push(format!("{number} {pointer} = {value}: {why}"));
                clean(t);
            }
        }
    }
    report(t, faults);
}

fn clean(t: &Test) {
    for entry in fs::read_dir(t.state_root()).unwrap().flatten() {
        t.rt(&["delete", "--force", entry.file_name().to_str().unwrap()]).run();
    }
}

#[test]
fn b001_to_b014_the_file() {
    run_case(one_line(), |t| {
        let b = t.bundle();
        let good = serde_json_text(&b.config);
        let config = b.dir.join("config.json");
        let dir = b.dir.to_str().unwrap();
        let mut faults = Vec::new();
        let mut try_text = |number: &str, text: &[u8], words: &[&str]| {
            fs::write(&config, text).unwrap();
            let out = t.rt(&["create", "--bundle", dir, &t.id()]).run();
            if let Some(why) = fault(t, &out, words) {
                faults.push(format!("{number}: {why}"));
                clean(t);
            }
        };
        try_text("B-2 empty", b"", &["config.json"]);
        try_text("B-2 spaces", b"  \n ", &["config.json"]);
        try_text("B-2 BOM", &[b"\xef\xbb\xbf", good.as_bytes()].concat(), &["config.json"]);
        let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
        try_text("B-2 UTF-16", &utf16, &["config.json"]);
        for end in (1..good.len()).step_by(good.len() / 40) {
            try_text("B-3 truncated", &good.as_bytes()[..end], &["config.json"]);
        }
        try_text("B-4 garbage", format!("{good} x").as_bytes(), &["config.json"]);
        try_text("B-4 second", format!("{good}{good}").as_bytes(), &["config.json"]);
        try_text(
            "B-5 UTF-8",
            &[br#"{"ociVersion":"1.0.2","hostname":""#.as_slice(), b"\xff\"}"].concat(),
            &["config.json"],
        );
        try_text("B-5 surrogate", br#"{"ociVersion":"1.0.2","hostname":"\ud800"}"#, &["config.json"]);
        let double = good.replacen("\"args\":", "\"args\":[\"/bin/false\"],\"args\":", 1);
        try_text("B-6 duplicate", double.as_bytes(), &["args"]);
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        try_text("B-7 deep", deep.as_bytes(), &["config.json"]);
        try_text("B-7 deep inside", format!(r#"{{"x":{deep},{}"#, &good[1..]).as_bytes(), &["config.json"]);
        let long = format!(r#"{{"x":"{}",{}"#, "x".repeat(17 << 20), &good[1..]);
        try_text("B-8 long", long.as_bytes(), &["config.json"]);
        try_text("B-14 list", b"[]", &[]);
        try_text("B-14 string", b"\"x\"", &[]);
        fs::remove_file(&config).unwrap();
        let out = t.rt(&["create", "--bundle", dir, &t.id()]).run();
        faults.extend(
            fault(t, &out, &["config.json", "no such file or directory"]).map(|w| format!("B-1: {w}")),
        );
        for (number, place) in [("B-1 bundle", "/no/such/bundle"), ("B-1 file", "/etc/passwd")] {
            let out = t.rt(&["create", "--bundle", place, &t.id()]).run();
            faults.extend(fault(t, &out, &[place]).map(|w| format!("{number}: {w}")));
        }
        nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let out = t.rt(&["create", "--bundle", dir, &t.id()]).deadline(5).run();
        faults.extend(fault(t, &out, &["config.json"]).map(|w| format!("B-11 FIFO: {w}")));
        fs::remove_file(&config).unwrap();
        symlink("/dev/zero", &config).unwrap();
        let out = t.rt(&["create", "--bundle", dir, &t.id()]).deadline(5).run();
        faults.extend(fault(t, &out, &["config.json"]).map(|w| format!("B-11 device: {w}")));
        report(t, faults);
    });
}

fn serde_json_text(value: &Value) -> String {
    value.to_string()
}

#[test]
fn b009_unknown_properties_are_ignored() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.set("/org.example.unknown", json!({"x": 1}))
            .set("/process/unknown", json!(1))
            .set("/linux/unknown", json!([]));
        b.sh("exit 3");
        t.run(&b).expect_code(3);
    });
}

#[test]
fn b010_b012_types_and_numbers() {
    run_case(one_line(), |t| {
        table(
            t,
            |_| {},
            &[
                ("B-10", "/process/args", vec![json!("x"), json!({}), json!([1])], &["process.args"]),
                ("B-10", "/process/env", vec![json!("x"), json!([1])], &["process.env"]),
                ("B-10", "/process/cwd", vec![json!(1), json!([])], &["process.cwd"]),
                ("B-10", "/mounts", vec![json!({}), json!("x")], &["mounts"]),
                ("B-10", "/mounts/0/options", vec![json!("ro"), json!([1])], &["mounts[0].options"]),
                ("B-10", "/linux/namespaces", vec![json!({}), json!("x")], &["linux.namespaces"]),
                ("B-10", "/hostname", vec![json!(1), json!([])], &["hostname"]),
                ("B-10", "/root", vec![json!("x"), json!([])], &["root"]),
                ("B-10", "/root/readonly", vec![json!("yes"), json!(1)], &["root.readonly"]),
                ("B-12", "/process/user/uid", vec![json!(1.5), json!("0"), json!(-1)], &["process.user.uid"]),
                (
                    "B-12",
                    "/linux/resources/pids/limit",
                    vec![json!(1.5), json!("5")],
                    &["linux.resources.pids.limit"],
                ),
                (
                    "B-65",
                    "/process/noNewPrivileges",
                    vec![json!("yes"), json!(1)],
                    &["process.noNewPrivileges"],
                ),
                (
                    "B-111",
                    "/annotations",
                    vec![json!({"a": 1}), json!([]), json!({"a": {}})],
                    &["annotations"],
                ),
            ],
        );
    });
}

#[test]
fn b013_nul_in_strings() {
    run_case(one_line(), |t| {
        let nul = || vec![json!("/a\u{0}b")];
        table(
            t,
            |_| {},
            &[
                ("B-13", "/process/args/0", nul(), &["process.args[0]"]),
                ("B-13", "/process/env/0", nul(), &["process.env[0]"]),
                ("B-13", "/process/cwd", nul(), &["process.cwd"]),
                ("B-13", "/root/path", nul(), &["root.path"]),
                ("B-13", "/hostname", nul(), &["hostname"]),
                ("B-13", "/mounts/1/source", nul(), &["mounts[1].source"]),
                ("B-13", "/mounts/1/destination", nul(), &["mounts[1].destination"]),
                ("B-13", "/mounts/1/options/0", nul(), &["mounts[1].options"]),
                ("B-13", "/linux/maskedPaths", vec![json!(["/a\u{0}"])], &["linux.maskedPaths[0]"]),
                ("B-13", "/linux/cgroupsPath", nul(), &["linux.cgroupsPath"]),
                ("B-84", "/linux/sysctl", vec![json!({"kernel.shmmax": "1\u{0}"})], &["linux.sysctl"]),
            ],
        );
    });
}

#[test]
fn b015_to_b023_top_level() {
    run_case(one_line(), |t| {
        table(
            t,
            |_| {},
            &[
                (
                    "B-15",
                    "/ociVersion",
                    ["", "latest", "1.0", "v1.0.2"].map(|v| json!(v)).to_vec(),
                    &["ociVersion"],
                ),
                ("B-16", "/ociVersion", vec![json!("2.0.0")], &["ociVersion"]),
                ("B-18", "/root/path", vec![json!("")], &["root.path"]),
                (
                    "B-18",
                    "/root/path",
                    vec![json!("no-such-dir")],
                    &["root.path", "no such file or directory"],
                ),
                ("B-18", "/root/path", vec![json!("config.json")], &["root.path", "not a directory"]),
                ("B-19", "/root/path", vec![json!("/")], &["root.path"]),
                ("B-23", "/mounts/1/destination", vec![json!("/")], &["mounts[1].destination"]),
            ],
        );
    });
}

#[test]
fn b017_b021_b039_b040_missing_properties() {
    run_case(one_line(), |t| {
        let mut faults = Vec::new();
        for (number, pointer, words) in [
            ("B-15", "/ociVersion", &["ociVersion"][..]),
            ("B-17", "/root", &["root"]),
            ("B-18", "/root/path", &["path"]),
            ("B-21", "/mounts/0/destination", &["destination"]),
            ("B-39", "/process", &["process"]),
            ("B-40", "/process/cwd", &["cwd"]),
            ("B-41", "/process/args", &["process.args"]),
            ("B-66", "/linux/namespaces/0/type", &["type"]),
        ] {
            let mut b = t.bundle();
            b.remove(pointer);
            let out = t.try_create(&b);
            if let Some(why) = fault(t, &out, words) {
                faults.push(format!("{number} without {pointer}: {why}"));
                clean(t);
            }
        }
        report(t, faults);
    });
}

#[test]
fn b024_to_b038_mounts() {
    run_case(one_line(), |t| {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let m = |kind: &str, source: &str, options: &[&str]| json!({"destination": "/mnt", "type": kind, "source": source, "options": options});
        let map_one = json!({"destination": "/mnt", "type": "bind", "source": "/tmp", "options": ["bind"], "uidMappings": map});
        let file_on_dir =
            json!({"destination": "/etc", "type": "bind", "source": "/etc/passwd", "options": ["bind"]});
        let dir_on_file =
            json!({"destination": "/etc/passwd", "type": "bind", "source": "/tmp", "options": ["bind"]});
        table(
            t,
            |_| {},
            &[
                (
                    "B-24",
                    "/mounts/-",
                    vec![m("bind", "/no/such/source", &["bind"])],
                    &["mounts[6]", "/no/such/source"],
                ),
                ("B-25", "/mounts/-", vec![json!({"destination": "/mnt", "source": "x"})], &["mounts[6]"]),
                ("B-26", "/mounts/-", vec![m("ext9", "x", &[])], &["mounts[6]", "ext9"]),
                ("B-28", "/mounts/-", vec![m("bind", "/tmp", &["bind", "size=1"])], &["mounts[6]", "size=1"]),
                (
                    "B-29",
                    "/mounts/-",
                    vec![
                        m("tmpfs", "x", &["size=abc"]),
                        m("tmpfs", "x", &["mode=99999"]),
                        m("tmpfs", "x", &["nr_inodes=-1"]),
                        m("tmpfs", "x", &["no_such_option=1"]),
                    ],
                    &["mounts[6]", "/mnt"],
                ),
                ("B-30", "/mounts/-", vec![m("bind", "/tmp", &["bind", "idmap"])], &["mounts[6]"]),
                ("B-31", "/mounts/-", vec![map_one], &["mounts[6]", "gidMappings"]),
                (
                    "B-33",
                    "/mounts/-",
                    vec![json!({"destination": "/proc/sys/kernel", "type": "tmpfs", "source": "x"})],
                    &["mounts[6]", "/proc/sys/kernel"],
                ),
                ("B-35", "/mounts/-", vec![m("tmpfs", "x", &["x".repeat(5000).as_str()])], &["mounts[6]"]),
                ("B-36", "/mounts/-", vec![file_on_dir], &["mounts[6]", "/etc"]),
                ("B-36", "/mounts/-", vec![dir_on_file], &["mounts[6]", "/etc/passwd"]),
                ("B-37", "/linux/rootfsPropagation", vec![json!("foo")], &["linux.rootfsPropagation", "foo"]),
            ],
        );
    });
}

#[test]
fn b022_relative_destination_is_taken_from_the_root() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.mount("rel/ative", "tmpfs", "tmpfs", &[]).sh("grep -c ' /rel/ative ' /proc/self/mountinfo");
        assert_eq!(t.run(&b).ok(), "1\n");
    });
}

#[test]
fn b039_to_b065_process() {
    run_case(one_line(), |t| {
        let limit = |kind: &str, soft: u64, hard: u64| json!([{"type": kind, "soft": soft, "hard": hard}]);
        let twice = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        table(
            t,
            |_| {},
            &[
                ("B-40", "/process/cwd", vec![json!(""), json!("relative")], &["process.cwd"]),
                ("B-41", "/process/args", vec![json!([]), json!([""])], &["process.args"]),
                (
                    "B-42",
                    "/process/args",
                    vec![json!(["no-such-program"])],
                    &["executable file not found in"],
                ),
                ("B-44", "/process/env/-", vec![json!("NOEQUALS"), json!("=x")], &["process.env[2]"]),
                (
                    "B-46",
                    "/process/user/uid",
                    vec![json!(4_294_967_295_u64), json!(4_294_967_296_u64), json!(-1), json!("0")],
                    &["process.user.uid"],
                ),
                (
                    "B-46",
                    "/process/user/gid",
                    vec![json!(4_294_967_295_u64), json!(-1)],
                    &["process.user.gid"],
                ),
                (
                    "B-46",
                    "/process/user/additionalGids",
                    vec![json!([4_294_967_295_u64])],
                    &["process.user.additionalGids"],
                ),
                (
                    "B-48",
                    "/process/user/additionalGids",
                    vec![json!(vec![1; 65_537])],
                    &["process.user.additionalGids"],
                ),
                ("B-49", "/process/user/umask", vec![json!(0o1000), json!(4096)], &["process.user.umask"]),
                ("B-50", "/process/terminal", vec![json!(true)], &["console-socket"]),
                (
                    "B-53",
                    "/process/rlimits",
                    vec![limit("RLIMIT_FOO", 1, 1)],
                    &["process.rlimits[0].type", "RLIMIT_FOO"],
                ),
                ("B-54", "/process/rlimits", vec![twice], &["process.rlimits[1]"]),
                ("B-55", "/process/rlimits", vec![limit("RLIMIT_CORE", 2, 1)], &["process.rlimits[0]"]),
                ("B-59", "/process/oomScoreAdj", vec![json!(1001), json!(-1001)], &["process.oomScoreAdj"]),
                ("B-60", "/process/apparmorProfile", vec![json!("no-such")], &["process.apparmorProfile"]),
                ("B-61", "/process/selinuxLabel", vec![json!("u:r:t:s0")], &["process.selinuxLabel"]),
                (
                    "B-62",
                    "/process/scheduler",
                    vec![
                        json!({"policy": "SCHED_FOO"}),
                        json!({"policy": "SCHED_OTHER", "nice": 20}),
                        json!({"policy": "SCHED_OTHER", "priority": 5}),
                        json!({"policy": "SCHED_FIFO", "priority": 5, "runtime": 10}),
                        json!({"policy": "SCHED_DEADLINE", "runtime": 20, "deadline": 10, "period": 30}),
                        json!({"nice": 3}),
                    ],
                    &["process.scheduler"],
                ),
                (
                    "B-63",
                    "/process/ioPriority",
                    vec![
                        json!({"class": "IOPRIO_CLASS_FOO", "priority": 1}),
                        json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
                        json!({"class": "IOPRIO_CLASS_BE", "priority": -1}),
                    ],
                    &["process.ioPriority"],
                ),
            ],
        );
    });
}

#[test]
fn b047_ids_that_the_user_namespace_does_not_map() {
    run_case(one_line(), |t| {
        table(
            t,
            |b| {
                b.user_namespace();
            },
            &[
                ("B-47", "/process/user/uid", vec![json!(70_000)], &["process.user.uid"]),
                ("B-47", "/process/user/gid", vec![json!(70_000)], &["process.user.gid"]),
                (
                    "B-47",
                    "/process/user/additionalGids",
                    vec![json!([70_000])],
                    &["process.user.additionalGids"],
                ),
                (
                    "B-71",
                    "/linux/uidMappings",
                    vec![
                        json!([{"containerID": 0, "hostID": 1000, "size": 0}]),
                        json!([{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 5, "hostID": 2000, "size": 10}]),
                        json!([{"containerID": 4_294_967_290_u64, "hostID": 1000, "size": 10}]),
                        (0..341)
                            .map(|i| json!({"containerID": i, "hostID": 1000 + i, "size": 1}))
                            .collect::<Value>(),
                    ],
                    &["linux.uidMappings"],
                ),
            ],
        );
    });
}

#[test]
fn b056_rlimit_above_the_callers() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 5000, "hard": 1_000_000}]));
        let run = t.creation(&b, &[]).1;
        // Without CAP_SYS_RESOURCE (and with a low hard limit) it cannot be raised.
        let drop = [
            "sh",
            "-c",
            "ulimit -n 1024; exec setpriv --bounding-set -sys_resource --inh-caps -sys_resource \"$@\"",
            "sh",
        ];
        let out = run.wrap(&drop).run();
        if let Some(why) = fault(t, &out, &["RLIMIT_NOFILE", "operation not permitted"]) {
            panic!("{why}");
        }
    });
}

#[test]
fn b057_unknown_capabilities_are_no_error() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.set("/process/capabilities/bounding", json!(["CAP_FOO", "cap_chown", "KILL"])).sh("exit 3");
        t.run(&b).expect_code(3);
    });
}

#[test]
fn b066_to_b088_linux() {
    run_case(one_line(), |t| {
        let device = |path: &str, kind: &str, major: i64, minor: i64| json!([{"path": path, "type": kind, "major": major, "minor": minor}]);
        let missing = vec![
            json!({"type": "network", "path": "relative/ns"}),
            json!({"type": "network", "path": "/no/such/ns"}),
        ];
        table(
            t,
            |_| {},
            &[
                ("B-66", "/linux/namespaces/0", vec![json!({"type": "foo"})], &["linux.namespaces[0]"]),
                ("B-67", "/linux/namespaces/-", vec![json!({"type": "pid"})], &["linux.namespaces[5]"]),
                ("B-68", "/linux/namespaces/1", missing, &["linux.namespaces[1]"]),
                (
                    "B-68",
                    "/linux/namespaces/1",
                    vec![
                        json!({"type": "network", "path": "/etc/passwd"}),
                        json!({"type": "network", "path": "/proc/self/ns/uts"}),
                    ],
                    &["linux.namespaces[1]"],
                ),
                ("B-69", "/linux/namespaces/-", vec![json!({"type": "user"})], &["user namespace"]),
                (
                    "B-69",
                    "/linux/uidMappings",
                    vec![json!([{"containerID": 0, "hostID": 1, "size": 1}])],
                    &["linux.uidMappings"],
                ),
                (
                    "B-72",
                    "/linux/timeOffsets",
                    vec![json!({"boottime": {"secs": 5}})],
                    &["linux.timeOffsets"],
                ),
                ("B-73", "/hostname", vec![json!("x".repeat(65))], &["hostname"]),
                ("B-74", "/domainname", vec![json!("x".repeat(65))], &["domainname"]),
                ("B-75", "/linux/devices", vec![device("/dev/x", "x", 1, 1)], &["linux.devices[0].type"]),
                (
                    "B-75",
                    "/linux/devices",
                    vec![json!([{"type": "c", "major": 1, "minor": 1}])],
                    &["linux.devices[0]"],
                ),
                ("B-75", "/linux/devices", vec![device("relative", "c", 1, 1)], &["linux.devices[0].path"]),
                (
                    "B-76",
                    "/linux/devices",
                    vec![
                        json!([{"path": "/dev/x", "type": "c"}]),
                        device("/dev/x", "c", -1, 1),
                        device("/dev/x", "b", 1, 1 << 20),
                    ],
                    &["linux.devices[0]"],
                ),
                (
                    "B-78",
                    "/linux/devices",
                    vec![
                        json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 1, "fileMode": 0o10_000}]),
                        json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 1, "uid": 4_294_967_295_u64}]),
                    ],
                    &["linux.devices[0]"],
                ),
                ("B-79", "/linux/maskedPaths", vec![json!(["relative"])], &["linux.maskedPaths[0]"]),
                ("B-79", "/linux/readonlyPaths", vec![json!(["relative"])], &["linux.readonlyPaths[0]"]),
                (
                    "B-82",
                    "/linux/sysctl",
                    vec![
                        json!({"kernel.printk_ratelimit_burst": "7"}),
                        json!({"kernel.hostname": "x"}),
                        json!({"vm.swappiness": "7"}),
                        json!({"net.ipv4.../../../kernel/printk_ratelimit_burst": "7"}),
                        json!({"": "7"}),
                    ],
                    &["linux.sysctl"],
                ),
                ("B-83", "/linux/sysctl", vec![json!({"net.no.such.key": "1"})], &["net.no.such.key"]),
                (
                    "B-85",
                    "/linux/netDevices",
                    ["..", "a/b", "sixteencharacter", "a b", "a:b"].map(|n| json!({n: {}})).to_vec(),
                    &["linux.netDevices"],
                ),
                ("B-85", "/linux/netDevices", vec![json!({"nosuch0": {}})], &["nosuch0"]),
                ("B-86", "/linux/personality", vec![json!({"domain": "LINUX99"})], &["linux.personality"]),
                (
                    "B-87",
                    "/linux/memoryPolicy",
                    vec![
                        json!({"mode": "MPOL_FOO"}),
                        json!({"mode": "MPOL_BIND"}),
                        json!({"mode": "MPOL_BIND", "nodes": "a-b"}),
                        json!({"mode": "MPOL_DEFAULT", "nodes": "0"}),
                        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_FOO"]}),
                    ],
                    &["linux.memoryPolicy"],
                ),
                (
                    "B-88",
                    "/linux/intelRdt",
                    vec![
                        json!({"closID": ".."}),
                        json!({"closID": "a/b"}),
                        json!({"closID": "x", "l3CacheSchema": "L3:0=f"}),
                    ],
                    &["linux.intelRdt"],
                ),
            ],
        );
    });
}

#[test]
fn b072_time_offsets() {
    run_case(one_line(), |t| {
        table(
            t,
            |b| {
                b.namespace("time", "");
            },
            &[(
                "B-72",
                "/linux/timeOffsets",
                vec![
                    json!({"realtime": {"secs": 1}}),
                    json!({"boottime": {"secs": 1, "nanosecs": 1_000_000_000}}),
                    json!({"boottime": {"secs": -4_000_000_000_i64}}),
                ],
                &["linux.timeOffsets"],
            )],
        );
    });
}

#[test]
fn b073_b074_b080_what_needs_a_namespace() {
    run_case(one_line(), |t| {
        let mut faults = Vec::new();
        let mut refuse = |number: &str, b: &Bundle, words: &[&str]| {
            let out = t.try_create(b);
            if let Some(why) = fault(t, &out, words) {
                faults.push(format!("{number}: {why}"));
                clean(t);
            }
        };
        let mut b = t.bundle();
        b.without_namespace("uts");
        refuse("B-73", &b, &["hostname"]);
        b.remove("/hostname").set("/domainname", json!("example.org"));
        refuse("B-74", &b, &["domainname"]);
        let mut b = t.bundle();
        b.without_namespace("mount");
        refuse("B-80", &b, &["mount namespace"]);
        let mut b = t.bundle();
        b.without_namespace("network")
            .unmount("/sys")
            .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        refuse("B-82", &b, &["linux.sysctl", "net.ipv4.ip_forward"]);
        b.remove("/linux/sysctl").set("/linux/netDevices", json!({"lo": {}}));
        refuse("B-85", &b, &["linux.netDevices"]);
        let mut b = t.bundle();
        b.namespace("network", "/proc/self/ns/net").unmount("/sys");
        b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        refuse("B-82 host by path", &b, &["linux.sysctl"]);
        report(t, faults);
    });
}

#[test]
fn b077_device_path_in_use() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
        fs::write(b.rootfs().join("dev/mine"), "a plain file").unwrap();
        b.set("/linux/devices", json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]));
        let out = t.try_create(&b);
        if let Some(why) = fault(t, &out, &["linux.devices[0]", "/dev/mine"]) {
            panic!("{why}");
        }
    });
}

#[test]
fn b089_to_b096_resources() {
    run_case(one_line(), |t| {
        table(
            t,
            |_| {},
            &[
                (
                    "B-89",
                    "/linux/cgroupsPath",
                    vec![json!("../../x"), json!("/../x"), json!("/a\nb")],
                    &["linux.cgroupsPath"],
                ),
                (
                    "B-92",
                    "/linux/resources/memory/limit",
                    vec![json!(-2), json!("1m")],
                    &["linux.resources.memory.limit"],
                ),
                (
                    "B-92",
                    "/linux/resources/memory",
                    vec![json!({"limit": 67_108_864, "swap": 33_554_432}), json!({"swap": 33_554_432})],
                    &["linux.resources.memory"],
                ),
                (
                    "B-94",
                    "/linux/resources/cpu",
                    vec![
                        json!({"shares": 1}),
                        json!({"quota": 999, "period": 100_000}),
                        json!({"quota": -2}),
                        json!({"quota": 50_000, "period": 999}),
                        json!({"quota": 50_000, "period": 1_000_001}),
                    ],
                    &["linux.resources.cpu"],
                ),
                (
                    "T-77",
                    "/linux/resources/unified",
                    vec![
                        json!({"../x": "1"}),
                        json!({"cgroup.procs": "0"}),
                        json!({"a/b": "1"}),
                        json!({"memory.max\n": "1"}),
                        json!({"memory.max": "1\n2"}),
                    ],
                    &["linux.resources.unified"],
                ),
                (
                    "B-102",
                    "/linux/seccomp",
                    vec![
                        json!({"defaultAction": "SCMP_ACT_X"}),
                        json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
                        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}),
                        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW"]}),
                        json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}),
                        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
                        json!({"defaultAction": "SCMP_ACT_ERRNO"}),
                    ],
                    &["linux.seccomp"],
                ),
            ],
        );
    });
}

#[test]
fn b108_to_b111_hooks_and_annotations() {
    run_case(one_line(), |t| {
        let hook = |path: &str| json!([{"path": path}]);
        let timed = |timeout: Value| json!([{"path": "/bin/true", "timeout": timeout}]);
        table(
            t,
            |_| {},
            &[
                (
                    "B-108",
                    "/hooks/createRuntime",
                    vec![hook(""), hook("relative")],
                    &["hooks.createRuntime[0].path"],
                ),
                ("B-108", "/hooks/poststop", vec![hook("/no/such/hook")], &["hooks.poststop[0]"]),
                ("B-108", "/hooks/prestart", vec![hook("/etc/passwd")], &["hooks.prestart[0]"]),
                (
                    "B-109",
                    "/hooks/poststart",
                    vec![timed(json!(0)), timed(json!(-1)), timed(json!(1.5))],
                    &["hooks.poststart[0].timeout"],
                ),
                ("B-110", "/hooks", vec![json!([]), json!("x")], &["hooks"]),
                ("B-111", "/annotations", vec![json!({"": "x"})], &["annotations"]),
            ],
        );
    });
}

#[test]
fn b112_to_b120_command_line() {
    run_case(one_line(), |t| {
        let b = t.bundle();
        t.write(&b, "x");
        let dir = b.dir.to_str().unwrap();
        let mut faults = Vec::new();
        let rows: Vec<(&str, Vec<&str>, &[&str])> = vec![
            ("B-112", vec!["no-such-verb"], &["no-such-verb"]),
            ("B-112", vec!["crate"], &["create"]),
            ("B-113", vec!["state", "--no-such-flag", "x"], &["no-such-flag"]),
            ("B-113", vec!["create", "--bundle"], &["bundle"]),
            ("B-113", vec!["list", "--format", "yaml"], &["format"]),
            ("B-114", vec!["state"], &[]),
            ("B-114", vec!["state", "a", "b"], &[]),
            ("B-114", vec!["create", "--bundle", dir], &[]),
            ("B-115", vec!["create", "--bundle", dir, "a/b"], &["a/b"]),
            ("B-115", vec!["create", "--bundle", dir, ".."], &[".."]),
            ("B-115", vec!["create", "--bundle", dir, ""], &[]),
            ("B-117", vec!["state", "nobody"], &["nobody", "does not exist"]),
            ("B-117", vec!["start", "nobody"], &["nobody", "does not exist"]),
            ("B-117", vec!["kill", "nobody", "TERM"], &["nobody", "does not exist"]),
            ("B-117", vec!["delete", "nobody"], &["nobody", "does not exist"]),
            ("B-121", vec!["exec", "nobody", "true"], &["nobody", "does not exist"]),
            ("B-121", vec!["exec", "nobody"], &["command is missing"]),
            ("B-121", vec!["exec", "--user", "root", "nobody", "true"], &["--user", "numbers"]),
            ("B-124", vec!["create", "--bundle", dir, "--preserve-fds", "-1", "x"], &["preserve-fds"]),
            (
                "B-124",
                vec!["create", "--bundle", dir, "--preserve-fds", "1000000000", "x"],
                &["preserve-fds"],
            ),
            ("B-124", vec!["create", "--bundle", dir, "--preserve-fds", "7", "x"], &[]),
            (
                "B-125",
                vec!["create", "--bundle", dir, "--pid-file", "/no/such/dir/pid", "x"],
                &["/no/such/dir"],
            ),
            ("B-125", vec!["create", "--bundle", dir, "--pid-file", "/tmp", "x"], &["/tmp"]),
            ("B-125", vec!["create", "--bundle", dir, "--pid-file", "", "x"], &["pid-file"]),
            ("B-51", vec!["create", "--bundle", dir, "--console-socket", "/tmp/x", "x"], &["console-socket"]),
        ];
        for (number, args, words) in rows {
            let out = t.rt(&args).run();
            if let Some(why) = fault(t, &out, words) {
                faults.push(format!("{number} {args:?}: {why}"));
                clean(t);
            }
        }
        report(t, faults);
    });
}

#[test]
fn b116_b118_b119_b120_states() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.sh("sleep 1000");
        let c = t.create(&b);
        let clean_error = |out: Out, words: &[&str]| {
            out.clean_error();
            for word in words {
                out.says(word);
            }
        };
        clean_error(t.rt(&["create", "--bundle", b.dir.to_str().unwrap(), &c.id]).run(), &[&c.id, "exists"]);
        for signal in ["SIGFOO", "-1", "65", "999999999999", ""] {
            let out = t.rt(&["kill", &c.id, signal]).run();
            out.clean_error();
        }
        c.start();
        clean_error(c.verb(&["start"]), &[&c.id]);
        clean_error(c.verb(&["delete"]), &[&c.id]);
        c.kill("KILL").ok();
        c.wait();
        clean_error(c.verb(&["start"]), &[&c.id]);
        clean_error(c.kill("TERM"), &["container not running"]);
    });
}

#[test]
fn b126_console_sockets() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true));
        let long = t.dir.join("x".repeat(120));
        fs::write(t.dir.join("plain"), "").unwrap();
        let mut faults = Vec::new();
        for socket in [long, t.dir.join("plain"), "/no/such/socket".into()] {
            let out = t.creation(&b, &["--console-socket", socket.to_str().unwrap()]).1.run();
            faults.extend(fault(t, &out, &["console"]).map(|w| format!("B-126 {}: {w}", socket.display())));
            clean(t);
        }
        report(t, faults);
    });
}

#[test]
fn b127_b128_roots_and_logs() {
    run_case(one_line(), |t| {
        let b = t.bundle();
        t.write(&b, "x");
        let dir = b.dir.to_str().unwrap();
        let plain = t.dir.join("plain");
        fs::write(&plain, "").unwrap();
        let below = format!("{}/x", plain.display());
        for root in [plain.to_str().unwrap(), below.as_str(), "/"] {
            t.bare(&["--root", root, "create", "--bundle", dir, &t.tag]).run().clean_error();
        }
        let root = t.state_root();
        for log in ["/no/such/dir/log", "/tmp"] {
            let out = t
                .bare(&["--root", root.to_str().unwrap(), "--log", log, "create", "--bundle", dir, &t.tag])
                .run();
            out.clean_error().says(log);
        }
    });
}

#[test]
fn b133_arguments_that_are_not_utf8() {
    run_case(one_line(), |t| {
        use std::os::unix::ffi::OsStrExt;
        let b = t.bundle();
        let odd = t.dir.join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
        fs::rename(&b.dir, &odd).unwrap();
        let out = t.rt(&["create", "--bundle"]).arg(odd.join("missing")).arg(t.id()).run();
        out.clean_error();
        let out = t.rt(&["state"]).arg(std::ffi::OsStr::from_bytes(b"a\xffb")).run();
        out.clean_error();
    });
}

#[test]
fn b135_not_root_says_what_is_missing() {
    run_case(one_line(), |t| {
        let b = t.bundle();
        let run = t.creation(&b, &[]).1;
        run.wrap(&["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]).run().clean_error();
    });
}

#[test]
fn b137_b138_state_files() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.sh("sleep 1000");
        let good = t.create(&b);
        for content in ["", "{", "garbage", "{}", "[]"] {
            let c = t.create(&b);
            for entry in fs::read_dir(t.state_root().join(&c.id)).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.metadata().unwrap().is_file() && name.ends_with(".json") && name != "config.json" {
                    fs::write(entry.path(), content).unwrap();
                }
            }
            c.verb(&["state"]).clean_error();
            assert!(t.rt(&["list", "--quiet"]).run().stdout.contains(&good.id), "list goes on");
            c.verb(&["delete", "--force"]).ok();
        }
        fs::write(t.state_root().join("stray"), "").unwrap();
        t.rt(&["list"]).run().ok();
        t.rt(&["state", "stray"]).run().clean_error();
        fs::remove_file(t.state_root().join("stray")).unwrap();
        drop(good);
    });
}

#[test]
fn b142_hostile_environment() {
    run_case(one_line(), |t| {
        let mut b = t.bundle();
        b.sh("exit 3");
        let run = t
            .run_with(&b, &[])
            .env("TMPDIR", "/no/such")
            .env("XDG_RUNTIME_DIR", "relative")
            .env("NOTIFY_SOCKET", "bogus")
            .env("RUST_BACKTRACE", "full")
            .env("RUST_LOG", "trace")
            .env("TZ", "\u{1b}garbage");
        let out = run.run();
        out.expect_code(3);
        assert_eq!(
            out.stderr,
            "oar: warning: NOTIFY_SOCKET \"bogus\" is neither an absolute path nor @name\n"
        );
        t.rt(&["state", "nobody"]).env("RUST_BACKTRACE", "full").run().clean_error();
        let out = t.run_with(&b, &[]).env("LISTEN_FDS", "abc").run();
        assert!(out.code == 3 || out.stderr.starts_with("oar: "), "{out}");
    });
}
