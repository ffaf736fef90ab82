// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns pause and resume: in which states they are legal, that nothing runs meanwhile, and every way out of it.
//! Never freezes a cgroup that is not a container's of the case; a host of v1 alone is made in a child's mount namespace.
//! Expectations come from runc's verbs and the kernel's freezers; the peers run the same cases.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime_tests::{Bundle, Container, Running, Test, any, json, oar_only, pure_v2, run_case, v1};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Writes a dot at a time, from a process that is made for each, without an end.
const COUNT: &str = "echo up; while :; do (printf .); done";
const WAIT: &str = "echo up; exec sleep 1000";
const V1_ALONE: &str = "umount -l /sys/fs/cgroup/unified && exec \"$@\"";

#[track_caller]
fn started<'t>(t: &'t Test, script: &str) -> Container<'t> {
    let mut b = t.bundle();
    b.sh(script);
    up(t, t.create(&b))
}

#[track_caller]
fn up<'t>(t: &'t Test, c: Container<'t>) -> Container<'t> {
    c.start();
    t.wait_for(&t.dir, || c.output().contains("up"));
    c
}

/// A container whose cgroup is made as on a host without cgroup2.
#[track_caller]
fn on_v1_alone<'t>(t: &'t Test, b: &Bundle) -> Container<'t> {
    let (id, create) = t.creation(b, &[]);
    let out = create.wrap(&["unshare", "-m", "sh", "-c", V1_ALONE, "sh"]).run();
    t.container(id, b, out)
}

fn hybrid() -> bool {
    v1("freezer") && Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists()
}

/// By what it writes, not by CPU time: a frozen process may have its last microseconds in the kernel accounted
/// after the kernel has said that it is frozen.
#[track_caller]
fn stands_still(c: &Container<'_>) {
    let before = c.output().len();
    std::thread::sleep(Duration::from_millis(50)); // Nothing is to happen, and nothing would tell of it.
    assert_eq!(c.output().len(), before);
}

#[track_caller]
fn goes_on(t: &Test, c: &Container<'_>) {
    let before = c.output().len();
    t.wait_for(&t.dir, || c.output().len() > before);
}

#[test]
fn legal_in_created_and_running_only() {
    run_case(any().differs("crun", "1.8.1 resumes what is not paused"), |t| {
        let mut b = t.bundle();
        b.sh(WAIT);
        let c = t.create(&b);
        c.verb(&["resume"]).failed().says("container not paused");
        c.verb(&["pause"]).ok();
        assert_eq!(c.status(), "paused");
        c.verb(&["start"]).failed().says("paused");
        c.verb(&["resume"]).ok();
        assert_eq!(c.status(), "created");
        c.start();
        c.verb(&["resume"]).failed().says("container not paused");
        let out = c.verb(&["pause"]);
        assert_eq!((out.ok(), out.stderr.as_str()), ("", ""));
        assert_eq!(c.status(), "paused");
        c.verb(&["pause"]).failed().says("container not running");
        c.verb(&["delete"]).failed();
        let out = c.verb(&["resume"]);
        assert_eq!((out.ok(), out.stderr.as_str()), ("", ""));
        assert_eq!(c.status(), "running");
        kill(Pid::from_raw(c.pid), Signal::SIGKILL).unwrap();
        c.wait();
        c.verb(&["pause"]).failed().says("container not running");
        c.verb(&["resume"]).failed().says("container not paused");
        c.verb(&["delete"]).ok();
        c.verb(&["pause"]).failed().says(t.unknown());
        c.verb(&["resume"]).failed().says(t.unknown());
    });
}

#[test]
fn nothing_runs_until_resume() {
    run_case(any().differs("crun", "1.8.1 does not wait for the v1 freezer"), |t| {
        let c = started(t, COUNT);
        for _ in 0..10 {
            c.verb(&["pause"]).ok();
            stands_still(&c);
            c.verb(&["resume"]).ok();
            goes_on(t, &c);
        }
    });
}

#[test]
fn all_sub_cgroups_stop_too() {
    let present = hybrid() || pure_v2();
    run_case(oar_only("one freezer over all").needs(present, "cgroup2"), |t| {
        let c = started(t, COUNT);
        let nested = c.cgroups().unified().join("nested");
        fs::create_dir(&nested).unwrap();
        fs::write(nested.join("cgroup.procs"), c.pid.to_string()).unwrap();
        let frozen = |word| fs::read_to_string(nested.join("cgroup.events")).unwrap().contains(word);
        c.verb(&["pause"]).ok();
        assert!(frozen("frozen 1"));
        c.verb(&["resume"]).ok();
        // The container goes on with its first process that does, which may be one of the cgroup above.
        t.wait_for(&nested, || frozen("frozen 0"));
        assert_eq!(c.status(), "running");
    });
}

#[test]
fn nothing_runs_again_in_what_is_killed() {
    run_case(oar_only("all are killed before the thaw"), |t| {
        for verb in ["delete", "kill"] {
            for _ in 0..5 {
                // A first process that takes long to end, and others who write.
                let c = started(
                    t,
                    "head -c 100m /dev/zero > /dev/shm/fill; echo up; \
                     for i in 1 2 3 4 5 6 7 8; do (while :; do printf .; done) & done; wait",
                );
                c.verb(&["pause"]).ok();
                let before = c.output().len();
                match verb {
                    "delete" => drop(c.verb(&["delete", "--force"]).ok()),
                    _ => drop(c.kill("KILL").ok()),
                }
                assert_eq!(c.wait(), 137);
                assert_eq!(c.output().len(), before);
            }
        }
    });
}

#[test]
fn a_signal_acts_after_resume_and_sigkill_at_once() {
    run_case(any().differs("crun", "1.8.1 does not thaw what it kills"), |t| {
        let c = started(t, "trap 'exit 3' TERM; echo up; while :; do sleep 1000 & wait; done");
        c.verb(&["pause"]).ok();
        c.kill("TERM").ok();
        assert_eq!(c.status(), "paused");
        c.verb(&["resume"]).ok();
        assert_eq!(c.wait(), 3);
        c.verb(&["delete"]).ok();
        for all in [false, true] {
            let c = started(t, "echo up; sleep 1000 & exec sleep 1000");
            c.verb(&["pause"]).ok();
            if all {
                t.rt(&["kill", "--all", &c.id, "KILL"]).run().ok();
            } else {
                c.kill("KILL").ok();
            }
            assert_eq!(c.wait(), 137, "all: {all}");
            c.verb(&["delete"]).ok();
        }
    });
}

#[test]
fn delete_by_force_of_a_paused_one() {
    run_case(any(), |t| {
        let c = started(t, "echo up; sleep 1000 & exec sleep 1000");
        c.verb(&["pause"]).ok();
        c.verb(&["delete", "--force"]).ok();
        let c = t.create(&t.bundle());
        c.verb(&["pause"]).ok();
        c.verb(&["delete", "--force"]).ok();
    });
}

#[test]
fn on_v1_alone_everything_is_the_same() {
    run_case(oar_only("both freezers are known to it").needs(hybrid(), "a hybrid host"), |t| {
        let mut b = t.bundle();
        b.sh(COUNT);
        let create = || up(t, on_v1_alone(t, &b));
        let c = create();
        for _ in 0..10 {
            c.verb(&["pause"]).ok();
            assert_eq!(c.cgroups().value("freezer", "freezer.state"), "FROZEN");
            assert_eq!(c.status(), "paused");
            stands_still(&c);
            c.verb(&["resume"]).ok();
            assert_eq!(c.status(), "running");
            goes_on(t, &c);
        }
        c.verb(&["pause"]).ok();
        c.kill("KILL").ok();
        assert_eq!(c.wait(), 137);
        c.verb(&["delete"]).ok();
        let c = create();
        c.verb(&["pause"]).ok();
        c.verb(&["delete", "--force"]).ok();
        let c = create();
        c.verb(&["pause"]).ok();
        t.rt(&["kill", "--all", &c.id, "KILL"]).run().ok();
        assert_eq!(c.wait(), 137);
        c.verb(&["delete"]).ok();
    });
}

/// A process that the v1 freezer holds never comes to where cgroup2 would stop it.
#[test]
fn what_does_not_freeze_is_named_and_goes_on() {
    run_case(oar_only("the error names the process").needs(hybrid(), "a hybrid host"), |t| {
        let c = started(t, WAIT);
        let nested = c.cgroups().dir("freezer").join("nested");
        fs::create_dir(&nested).unwrap();
        fs::write(nested.join("cgroup.procs"), c.pid.to_string()).unwrap();
        fs::write(nested.join("freezer.state"), "FROZEN").unwrap();
        let out = c.verb(&["pause"]);
        out.clean_error().says(&format!("does not freeze (process {})", c.pid));
        assert_eq!(c.status(), "running");
        fs::write(nested.join("freezer.state"), "THAWED").unwrap();
        c.verb(&["pause"]).ok();
        c.verb(&["delete", "--force"]).ok();
    });
}

/// A pause that waits, since v1 holds the process.
fn waiting_pause(t: &Test, c: &Container<'_>) -> Running {
    let nested = c.cgroups().dir("freezer").join("nested");
    fs::create_dir(&nested).unwrap();
    fs::write(nested.join("cgroup.procs"), c.pid.to_string()).unwrap();
    fs::write(nested.join("freezer.state"), "FROZEN").unwrap();
    let pause = t.rt(&["pause", &c.id]).spawn();
    let unified = c.cgroups().unified().to_owned();
    t.wait_for(&unified, || fs::read_to_string(unified.join("cgroup.freeze")).unwrap() == "1\n");
    pause
}

#[test]
fn a_kill_ends_a_pause_that_waits() {
    run_case(oar_only("kill takes no lock").needs(hybrid(), "a hybrid host"), |t| {
        let c = started(t, WAIT);
        let pause = waiting_pause(t, &c);
        c.kill("KILL").ok();
        pause.wait().clean_error().says("container not running");
        assert_eq!(c.wait(), 137);
        c.verb(&["delete"]).ok();
    });
}

#[test]
fn a_thaw_by_others_ends_a_pause_that_waits() {
    run_case(oar_only("the error tells of it").needs(hybrid(), "a hybrid host"), |t| {
        let c = started(t, WAIT);
        let pause = waiting_pause(t, &c);
        fs::write(c.cgroups().unified().join("cgroup.freeze"), "0").unwrap();
        pause.wait().clean_error().says("was thawed by somebody else meanwhile");
        c.verb(&["delete", "--force"]).ok();
    });
}

#[test]
fn a_pause_from_inside_is_refused() {
    let present = hybrid() || pure_v2();
    run_case(oar_only("a refusal instead of a caller that stands still").needs(present, "cgroup2"), |t| {
        let c = started(t, WAIT);
        let procs = c.cgroups().unified().join("cgroup.procs");
        let enter = format!("echo $$ > {} && exec \"$@\"", procs.display());
        let out = t.rt(&["pause", &c.id]).wrap(&["sh", "-c", &enter, "sh"]).run();
        out.clean_error().says("cannot be frozen from inside");
        assert_eq!(c.status(), "running");
    });
}

/// A cgroup that was there before stays, and must not stay frozen.
#[test]
fn a_directory_that_stays_is_thawed_after_the_end() {
    let present = hybrid() || pure_v2();
    run_case(oar_only("a cgroup that was there before stays").needs(present, "cgroup2"), |t| {
        let root = Path::new("/sys/fs/cgroup");
        let root = if pure_v2() { root.to_owned() } else { root.join("unified") };
        let mine = root.join(format!("{}-stays", t.tag));
        fs::create_dir(&mine).unwrap();
        let mut b = t.bundle();
        b.sh(WAIT).set("/linux/cgroupsPath", json!(format!("/{}-stays", t.tag)));
        let c = up(t, t.create(&b));
        c.verb(&["pause"]).ok();
        kill(Pid::from_raw(c.pid), Signal::SIGKILL).unwrap();
        c.wait();
        c.verb(&["delete"]).ok();
        let freeze = fs::read_to_string(mine.join("cgroup.freeze"));
        fs::remove_dir(&mine).unwrap();
        assert_eq!(freeze.unwrap(), "0\n");
    });
}
