// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the six kinds of hooks: when they run, what they read, what their failure does.
//! Never relies on the order of unrelated events: each hook appends one line to one file.
//! Expectations come from config.md (POSIX-platform Hooks), runtime.md (Lifecycle) and features.md §1.9.

use runtime_tests::{Bundle, Kind, Test, Value, any, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const HOST: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];

/// A hook of the host that reads its input, then runs `script` with sh.
fn hook(script: &str) -> Value {
    let read = if script.contains("sed ") || script.contains("cat >") { "" } else { "cat > /dev/null; " };
    json!({"path": "/bin/sh", "args": ["sh", "-c", format!("{read}{script}")], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]})
}

fn log(t: &Test) -> PathBuf {
    let dir = t.scratch("hooks");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir.join("log")
}

/// The container's program and its startContainer hook see the log at /hooks.
fn with_log(t: &Test, b: &mut Bundle) -> PathBuf {
    let log = log(t);
    b.mount("/hooks", "bind", log.parent().unwrap().to_str().unwrap(), &["bind"]);
    log
}

fn say(log: &str, word: &str) -> String {
    format!("echo {word} >> {log}")
}

/// All six kinds append their name; the program appends `program`.
fn all_six(t: &Test) -> (Bundle, PathBuf) {
    let mut b = t.bundle();
    let log = with_log(t, &mut b);
    let host = log.to_str().unwrap().to_owned();
    for kind in HOST {
        b.set(&format!("/hooks/{kind}"), json!([hook(&say(&host, kind))]));
    }
    // Looked up on the host, run in the container's namespaces before the root changes.
    b.set("/hooks/createContainer", json!([hook(&say(&host, "createContainer"))]));
    b.set("/hooks/startContainer", json!([hook(&say("/hooks/log", "startContainer"))]));
    b.sh(&say("/hooks/log", "program"));
    (b, log)
}

#[test]
fn six_kinds_in_order() {
    run_case(any().differs("runc", "1.1.5 runs poststart hooks at create (its #4347)"), |t| {
        let (b, log) = all_six(t);
        let c = t.create(&b);
        let read = || fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(read().lines().collect::<Vec<_>>(), ["prestart", "createRuntime", "createContainer"]);
        c.start();
        c.wait();
        let text = read();
        let after: Vec<_> = text.lines().skip(3).collect();
        let place =
            |word: &str| after.iter().position(|l| *l == word).unwrap_or_else(|| panic!("{word}: {after:?}"));
        assert!(place("startContainer") < place("program"), "{after:?}");
        place("poststart");
        assert_eq!(after.len(), 3, "{after:?}");
        c.verb(&["delete"]).ok();
        assert_eq!(read().lines().last(), Some("poststop"));
        assert_eq!(read().lines().count(), 7);
    });
}

#[test]
fn run_has_them_all() {
    run_case(any(), |t| {
        let (b, log) = all_six(t);
        t.run(&b).ok();
        let text = fs::read_to_string(&log).unwrap();
        for kind in HOST.iter().chain(&["createContainer", "startContainer", "program"]) {
            assert_eq!(text.lines().filter(|l| l == kind).count(), 1, "{kind}: {text}");
        }
        assert_eq!(text.lines().last(), Some("poststop"));
    });
}

#[test]
fn several_of_a_kind_run_in_the_order_of_the_list() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let log = log(t);
        let host = log.to_str().unwrap();
        b.set(
            "/hooks/createRuntime",
            json!([hook(&say(host, "1")), hook(&say(host, "2")), hook(&say(host, "3"))]),
        );
        t.run(&b).ok();
        assert_eq!(fs::read_to_string(&log).unwrap(), "1\n2\n3\n");
    });
}

#[test]
fn stdin_is_the_state() {
    run_case(any().differs("runc", "1.1.5 runs poststart hooks at create (its #4347)"), |t| {
        let mut b = t.bundle();
        let dir = log(t).parent().unwrap().to_owned();
        for kind in HOST.iter().chain(&["createContainer"]) {
            b.set(&format!("/hooks/{kind}"), json!([hook(&format!("cat > {}/{kind}.json", dir.display()))]));
        }
        b.set("/annotations", json!({"org.example.a": "b"}));
        let c = t.create(&b);
        let pid = c.pid;
        c.start();
        c.wait();
        c.verb(&["delete"]).ok();
        for kind in HOST.iter().chain(&["createContainer"]) {
            let text = fs::read_to_string(dir.join(format!("{kind}.json"))).unwrap();
            let state: Value = serde_json_of(&text);
            assert_eq!(state["id"], json!(c.id), "{kind}: {text}");
            assert_eq!(state["bundle"], json!(b.dir), "{kind}: {text}");
            assert_eq!(state["annotations"]["org.example.a"], "b", "{kind}: {text}");
            assert!(state["ociVersion"].is_string() && state["status"].is_string(), "{kind}: {text}");
            if ["prestart", "createRuntime"].contains(kind) {
                assert_eq!(state["pid"], json!(pid), "{kind}: {text}");
            }
            let status = state["status"].as_str().unwrap();
            let wanted: &[&str] = match *kind {
                "poststop" => &["stopped"],
                "poststart" => &["running"],
                _ => &["creating", "created"], // crun says created throughout
            };
            if t.kind == Kind::Oar || t.kind == Kind::Runc {
                assert!(wanted.contains(&status), "{kind}: {status}");
            }
        }
    });
}

fn serde_json_of(text: &str) -> Value {
    text.parse().unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn argv_and_env_are_verbatim() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let log = log(t);
        // argv[0] differs from the path, as with Docker's libnetwork-setkey.
        let script = format!(
            "tr '\\0' ' ' < /proc/$$/cmdline > {0}; tr '\\0' '\\n' < /proc/$$/environ >> {0}",
            log.display()
        );
        b.set(
            "/hooks/createRuntime",
            json!([{"path": "/bin/sh", "args": ["another-name", "-c", script], "env": ["PATH=/usr/bin:/bin", "K=v"]}]),
        );
        t.run_with(&b, &[]).env("SECRET", "xyzzy").run().ok();
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.starts_with("another-name -c "), "{text}");
        assert!(text.contains("\nK=v") || text.contains(" K=v"), "{text}");
        assert!(!text.contains("SECRET"), "{text}");
    });
}

#[test]
fn without_args_and_env_there_is_the_path_alone() {
    let own = "this version hands its own environment to a hook without one";
    run_case(any().differs("runc", own).differs("crun", own), |t| {
        let mut b = t.bundle();
        let log = log(t);
        let program = t.dir.join("program");
        let own = "cat > /dev/null; tr '\\0' '|' < /proc/$$/cmdline; wc -c < /proc/$$/environ";
        fs::write(&program, format!("#!/bin/sh\n({own}) > {}\n", log.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        b.set("/hooks/createRuntime", json!([{"path": program, "timeout": 20}]));
        t.run_with(&b, &[]).env("SECRET", "xyzzy").run().ok();
        assert_eq!(fs::read_to_string(&log).unwrap(), format!("/bin/sh|{}|0\n", program.display()));
    });
}

#[test]
fn namespaces_of_the_hooks() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let dir = log(t).parent().unwrap().to_owned();
        for kind in ["createRuntime", "createContainer"] {
            let script = format!("readlink /proc/self/ns/uts > {}/{kind}", dir.display());
            b.set(&format!("/hooks/{kind}"), json!([hook(&script)]));
        }
        let c = t.create(&b);
        let read = |kind: &str| fs::read_to_string(dir.join(kind)).unwrap().trim().to_owned();
        let host = fs::read_link("/proc/thread-self/ns/uts").unwrap();
        let inside = fs::read_link(c.proc("ns/uts")).unwrap();
        assert_eq!(read("createRuntime"), host.to_str().unwrap());
        assert_eq!(read("createContainer"), inside.to_str().unwrap());
    });
}

#[test]
fn create_runtime_sees_the_mounts_through_the_pid() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let dir = log(t).parent().unwrap().to_owned();
        // Before pivot_root: the container's mounts are there, below the root file system's path.
        let script = format!(
            "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | head -1); grep -c '{}/dev/shm' /proc/$pid/mountinfo > {}/seen",
            b.rootfs().display(),
            dir.display()
        );
        b.set("/hooks/createRuntime", json!([hook(&script)]));
        t.run(&b).ok();
        assert_eq!(fs::read_to_string(dir.join("seen")).unwrap(), "1\n");
    });
}

#[test]
fn a_failure_before_start_undoes_the_container() {
    run_case(any(), |t| {
        for kind in ["prestart", "createRuntime", "createContainer"] {
            let mut b = t.bundle();
            let log = log(t);
            let host = log.to_str().unwrap().to_owned();
            b.set(
                &format!("/hooks/{kind}"),
                json!([hook("echo why >&2; exit 3"), hook(&say(&host, "later"))]),
            );
            let (id, run) = t.creation(&b, &[]);
            let out = run.run();
            out.failed();
            if t.kind == Kind::Oar {
                out.clean_error().says(kind).says("why");
            }
            t.rt(&["state", &id]).run().failed().says(t.unknown());
            assert!(
                !fs::read_to_string(&log).unwrap_or_default().contains("later"),
                "{kind}: no later hook runs"
            );
        }
    });
}

#[test]
fn a_failing_start_container_hook_keeps_the_program_from_running() {
    run_case(any(), |t| {
        let (mut b, log) = all_six(t);
        b.set("/hooks/startContainer", json!([hook("exit 3")]));
        let out = t.create_start(&b);
        assert!(!fs::read_to_string(&log).unwrap().contains("program"), "{out}");
        assert_ne!(out.code, 0, "{out}");
        if t.kind == Kind::Oar {
            out.clean_error().says("startContainer");
        }
    });
}

#[test]
fn a_failing_poststart_hook_is_an_error_of_start() {
    run_case(
        any()
            .differs("crun", "1.8.1 warns and goes on")
            .differs("runc", "1.1.5 runs poststart hooks at create (its #4347)"),
        |t| {
            let mut b = t.bundle();
            b.set("/hooks/poststart", json!([hook("exit 3")])).sh("sleep 1000");
            let c = t.create(&b);
            c.verb(&["start"]).failed();
            assert_eq!(c.wait(), 137);
        },
    );
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_container() {
    run_case(any().differs("crun", "1.8.1 keeps the state directory"), |t| {
        let mut b = t.bundle();
        let log = log(t);
        b.set("/hooks/poststop", json!([hook("exit 3"), hook(&say(log.to_str().unwrap(), "later"))]));
        let c = t.create(&b);
        c.start();
        c.wait();
        let out = c.verb(&["delete"]);
        if t.kind == Kind::Oar {
            out.ok(); // the spec: warn and go on
            assert_eq!(fs::read_to_string(&log).unwrap(), "later\n");
        }
        c.verb(&["state"]).failed().says(t.unknown());
    });
}

#[test]
fn timeout_kills_the_hook() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set(
            "/hooks/createRuntime",
            json!([{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1, "env": [format!("RT_TAG={}", t.tag)]}]),
        );
        let out = t.try_create(&b);
        out.failed();
        if t.kind == Kind::Oar {
            out.clean_error().says("createRuntime").says_any(&["timeout", "timed out"]);
        }
    });
}

#[test]
fn missing_hook_is_refused_before_anything_else() {
    run_case(oar_only("hooks are checked before the first effect"), |t| {
        for kind in ["poststart", "poststop", "createRuntime"] {
            let mut b = t.bundle();
            let log = log(t);
            b.set("/hooks/prestart", json!([hook(&say(log.to_str().unwrap(), "ran"))]));
            b.set(&format!("/hooks/{kind}"), json!([{"path": "/no/such/hook"}]));
            t.try_create(&b).clean_error().says(&format!("hooks.{kind}[0].path")).says("/no/such/hook");
            assert!(!log.exists(), "prestart has run");
        }
    });
}
