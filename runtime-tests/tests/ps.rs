// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns ps: pids as JSON, the table by the host's ps(1), and in which states there are any.
//! Never counts on what ps prints beyond its header and its PID column.
//! Expectations come from what engines parse, and from the cgroup's own lists.

use runtime_tests::{Container, Test, Value, any, oar_only, run_case};
use std::fs;

#[track_caller]
fn pids(c: &Container<'_>) -> Vec<i32> {
    let out = c.verb(&["ps", "--format", "json"]);
    let text = out.ok();
    assert!(out.stderr.is_empty(), "{out}");
    serde_json_pids(text).unwrap_or_else(|| panic!("{out}\nexpected: an array of numbers"))
}

fn serde_json_pids(text: &str) -> Option<Vec<i32>> {
    let value: Value = text.trim().parse().ok()?;
    value.as_array()?.iter().map(|pid| i32::try_from(pid.as_i64()?).ok()).collect()
}

#[track_caller]
fn two<'t>(t: &'t Test) -> (Container<'t>, i32) {
    let mut b = t.bundle();
    b.sh("sleep 1000 & echo up; exec sleep 1000");
    let c = t.create(&b);
    c.start();
    t.wait_for(&t.dir, || c.output().contains("up"));
    let children = fs::read_to_string(c.proc(&format!("task/{}/children", c.pid))).unwrap();
    let child = children.trim().parse().unwrap();
    (c, child)
}

#[test]
fn json_has_every_process() {
    run_case(any(), |t| {
        let c = t.create(&t.bundle());
        assert_eq!(pids(&c), [c.pid], "a created one has its init");
        c.verb(&["delete", "--force"]).ok();
        let (c, child) = two(t);
        let mut found = pids(&c);
        found.sort_unstable();
        assert_eq!(found, [c.pid, child]);
        c.verb(&["pause"]).ok();
        let paused = pids(&c);
        // What is frozen by v1 could not be killed at the end of the case.
        c.verb(&["resume"]).ok();
        assert_eq!(paused.len(), 2, "a paused one too");
    });
}

#[test]
fn sub_cgroups_are_the_containers_too() {
    run_case(any(), |t| {
        let (c, child) = two(t);
        let text = fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
        // In each hierarchy where the container has a directory of its own.
        let below = text.lines().filter(|line| line.ends_with(&c.id));
        for line in below {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next().unwrap(), fields.next().unwrap());
            let mount = match names {
                "" if runtime_tests::pure_v2() => String::new(),
                "" => "/unified".to_owned(),
                names => format!("/{}", names.trim_start_matches("name=")),
            };
            let nested = format!("/sys/fs/cgroup{mount}{path}/nested");
            fs::create_dir(&nested).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(list) = fs::read_to_string(format!("{nested}/../{file}")) {
                    fs::write(format!("{nested}/{file}"), list).ok(); // Empty in cgroup2, and not needed there.
                }
            }
            fs::write(format!("{nested}/cgroup.procs"), child.to_string()).unwrap();
        }
        let mut found = pids(&c);
        found.sort_unstable();
        assert_eq!(found, [c.pid, child]);
    });
}

#[test]
fn json_needs_no_ps_and_no_environment() {
    run_case(any(), |t| {
        let (c, _) = two(t);
        let out = t.rt(&["ps", "--format=json", &c.id]).no_env().env("PATH", "/nonexistent").run();
        assert_eq!(serde_json_pids(out.ok()).unwrap().len(), 2, "{out}");
    });
}

fn column(table: &str, name: &str) -> Vec<String> {
    let at = table.lines().next().unwrap().split_whitespace().position(|word| word == name).unwrap();
    table.lines().skip(1).map(|line| line.split_whitespace().nth(at).unwrap().to_owned()).collect()
}

#[test]
fn the_table_is_that_of_the_hosts_ps() {
    run_case(any().differs("crun", "1.8.1 takes no options of ps"), |t| {
        let (c, child) = two(t);
        let mut expected = [c.pid.to_string(), child.to_string()];
        expected.sort();
        for options in [&[][..], &["-ef"], &["-eo", "pid,comm"], &["-e", "-o", "user,pid,args"], &["aux"]] {
            let out = t.rt(&[&["ps", &c.id], options].concat()).run();
            let mut found = column(out.ok(), "PID");
            found.sort();
            assert_eq!(found, expected, "{out}");
        }
        let out = t.rt(&["ps", "--format", "table", &c.id]).run();
        assert!(out.ok().starts_with("UID "), "{out}\nexpected: the header of ps -ef");
        t.rt(&["ps", &c.id, "-eo", "args"]).run().failed().says("PID");
        t.rt(&["ps", &c.id, "--no-such-option"]).run().failed();
    });
}

#[test]
fn a_host_without_ps_is_told() {
    run_case(oar_only("the hint"), |t| {
        let (c, _) = two(t);
        let out = t.rt(&["ps", &c.id]).no_env().env("PATH", "/nonexistent").run();
        out.clean_error().says("run ps: no such file or directory").says("--format json");
    });
}

#[test]
fn a_stopped_container_has_none() {
    run_case(oar_only("an error, not an empty answer"), |t| {
        let c = t.create(&t.bundle());
        c.start();
        c.wait();
        c.verb(&["ps"]).clean_error().says("container not running");
        c.verb(&["ps", "--format", "json"]).clean_error().says("container not running");
        c.verb(&["delete"]).ok();
        c.verb(&["ps"]).clean_error().says(t.unknown());
    });
}

/// With the host's pid namespace the end of the first process ends no other.
#[test]
fn what_a_stopped_container_has_left_behind_is_its_own() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.without_namespace("pid").sh("sleep 1000 & echo up; read x < /go; exit 0");
        fs::create_dir_all(b.rootfs()).unwrap();
        nix::unistd::mkfifo(&b.rootfs().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let c = t.create(&b);
        c.start();
        t.wait_for(&t.dir, || c.output().contains("up"));
        let children = fs::read_to_string(c.proc(&format!("task/{}/children", c.pid))).unwrap();
        let child: i32 = children.trim().parse().unwrap();
        fs::write(b.rootfs().join("go"), "go\n").unwrap();
        c.wait();
        assert_eq!(c.status(), "stopped");
        assert_eq!(pids(&c), [child]);
        t.rt(&["kill", "--all", &c.id, "KILL"]).run().ok();
        t.wait_pid(child);
        c.verb(&["delete"]).ok();
    });
}
