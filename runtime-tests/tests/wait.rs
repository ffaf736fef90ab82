// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `wait`: who may wait, for what, how often, and what is printed.
//! Never trusts the printed status alone: the case is the parent of most containers and knows how they ended.
//! Expectations come from docs/events.md and wait(2).

use runtime_tests::{Case, Container, Running, Test, json, oar_only, run_case};
use std::fs;
use std::time::{Duration, Instant};

fn case() -> Case {
    oar_only("others have no wait")
}

/// A wait in the background.
fn begin(t: &Test, c: &Container<'_>, flags: &[&str]) -> Running {
    let running = t.rt(&[&["wait"], flags, &[&c.id]].concat()).spawn();
    until_it_holds_a_process(&running);
    running
}

/// Does it have a descriptor of this kind?
fn holds(running: &Running, kind: &str) -> bool {
    let entries = fs::read_dir(format!("/proc/{}/fd", running.pid())).into_iter().flatten().flatten();
    let mut targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| target.to_string_lossy().contains(kind))
}

/// From here on it cannot miss the end. No event tells of a descriptor of another process.
fn until_it_holds_a_process(running: &Running) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds(running, "pidfd") {
        assert!(Instant::now() < deadline, "no pidfd: {}", running.stdout());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn sleeping(t: &Test) -> Container<'_> {
    let mut b = t.bundle();
    b.sh("trap 'exit 42' TERM; echo up; while :; do sleep 1; done");
    t.create(&b)
}

#[test]
fn everybody_hears_how_it_ended() {
    run_case(case(), |t| {
        let c = sleeping(t);
        // From created, through start, to the end.
        let early: Vec<_> = (0..5).map(|_| begin(t, &c, &[])).collect();
        c.start();
        t.wait_for(&t.dir, || c.output().contains("up"));
        let late = begin(t, &c, &["--json"]);
        c.kill("TERM").ok();
        for waiter in early {
            assert_eq!(waiter.wait().ok(), "42\n");
        }
        let out = late.wait();
        let line: runtime_tests::Value = serde_json::from_str(out.ok()).unwrap();
        assert_eq!(line, json!({"id": c.id, "code": 42, "signal": null, "status": 42}));
        // Reaped by its parent last: before Linux 6.15 it is known only until then.
        assert_eq!(c.wait(), 42);
    });
}

/// Of which a user has 128 by default: as many waits would leave none to anybody.
#[test]
fn a_wait_takes_no_inotify_instance() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    run_case(case().needs(version >= (6, 15), "a kernel that keeps exit statuses"), |t| {
        let c = t.create(&t.bundle());
        let waiter = begin(t, &c, &[]);
        assert!(!holds(&waiter, "inotify"));
        c.kill("KILL").ok();
        assert_eq!(waiter.wait().ok(), "137\n");
        assert_eq!(c.wait(), 137);
    });
}

#[test]
fn a_signal_is_told_as_one() {
    run_case(case(), |t| {
        let c = t.create(&t.bundle());
        let (number, document) = (begin(t, &c, &[]), begin(t, &c, &["--json"]));
        c.kill("KILL").ok();
        assert_eq!(number.wait().ok(), "137\n");
        let line: runtime_tests::Value = serde_json::from_str(document.wait().ok()).unwrap();
        assert_eq!(line, json!({"id": c.id, "code": null, "signal": 9, "status": 137}));
        assert_eq!(c.wait(), 137);
    });
}

#[test]
fn delete_does_not_take_it_from_those_who_wait() {
    run_case(case(), |t| {
        let c = sleeping(t);
        c.start();
        let waiter = begin(t, &c, &[]);
        c.verb(&["delete", "--force"]).ok();
        assert_eq!(waiter.wait().ok(), "137\n");
        assert_eq!(c.wait(), 137);
        c.verb(&["wait"]).clean_error().says(t.unknown());
    });
}

#[test]
fn after_the_end_it_is_there_until_its_parent_has_it() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.sh("exit 3");
        let c = t.create(&b);
        let waiter = begin(t, &c, &[]);
        c.start();
        assert_eq!(waiter.wait().ok(), "3\n");
        // Not reaped: the kernel still has it for whoever may trace the process.
        assert_eq!(c.verb(&["wait"]).ok(), "3\n");
        assert_eq!(c.wait(), 3);
        c.verb(&["wait"]).clean_error().says("its exit status was not kept");
    });
}

#[test]
fn run_in_the_foreground_keeps_it() {
    run_case(case(), |t| {
        for (script, code) in [("exit 0", 0), ("exit 200", 200)] {
            let (id, mut b) = (t.id(), t.bundle());
            b.sh(script);
            t.write(&b, &id);
            let run = t.rt(&["run", "--keep", "--bundle", b.dir.to_str().unwrap(), &id]).run();
            run.expect_code(code);
            for _ in 0..2 {
                assert_eq!(t.rt(&["wait", &id]).run().ok(), format!("{code}\n"));
            }
            t.rt(&["delete", &id]).run().ok();
        }
    });
}

#[test]
fn run_in_the_foreground_ends_those_who_wait() {
    run_case(case(), |t| {
        let (id, mut b) = (t.id(), t.bundle());
        nix::unistd::mkfifo(&b.rootfs().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        b.sh("echo up; read line < /go; exit 9");
        t.write(&b, &id);
        let run = t.rt(&["run", "--bundle", b.dir.to_str().unwrap(), &id]).spawn();
        t.wait_for(&t.dir, || run.stdout().contains("up"));
        let waiters: Vec<_> = (0..3).map(|_| t.rt(&["wait", &id]).spawn()).collect();
        waiters.iter().for_each(until_it_holds_a_process);
        fs::write(b.rootfs().join("go"), "go\n").unwrap();
        run.wait().expect_code(9);
        for waiter in waiters {
            assert_eq!(waiter.wait().ok(), "9\n");
        }
    });
}

#[test]
fn one_that_is_being_created_is_waited_for_too() {
    run_case(case(), |t| {
        let gate = t.dir.join("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut b = t.bundle();
        let script = format!("read line < {}", gate.display());
        b.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
        b.sh("exit 6");
        let (id, run) = t.creation(&b, &[]);
        let creating = run.spawn();
        t.wait_for(&t.state_root(), || t.state_root().join(&id).is_dir());
        let waiter = t.rt(&["wait", &id]).spawn();
        fs::write(&gate, "go\n").unwrap();
        let c = t.container(id, &b, creating.wait());
        c.start();
        assert_eq!(waiter.wait().ok(), "6\n");
        assert_eq!(c.wait(), 6);
    });
}

#[test]
fn one_that_is_not_there() {
    run_case(case(), |t| {
        t.rt(&["wait", "none"]).run().clean_error().says(t.unknown());
        t.rt(&["wait"]).run().clean_error();
    });
}
