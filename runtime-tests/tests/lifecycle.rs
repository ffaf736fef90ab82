// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the verbs and the states between them, as engines drive them.
//! Never looks into the state directory, except to see that it is empty.
//! Expectations come from runtime.md, features.md §1.14 and engines.md §0.

use runtime_tests::{Case, Kind, Test, Value, any, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// Sleeps until it is killed; as init of a pid namespace it needs a handler to be ended by SIGTERM.
const SERVICE: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done";

#[test]
fn run_passes_the_exit_code_through() {
    run_case(any(), |t| {
        for code in [0, 1, 7, 42, 126, 127, 255] {
            let mut b = t.bundle();
            b.sh(&format!("exit {code}"));
            t.run(&b).expect_code(code);
        }
    });
}

#[test]
fn run_reports_a_signal_as_128_plus_n() {
    run_case(any(), |t| {
        for signal in [6, 9, 15] {
            let mut b = t.bundle();
            // A signal does not end the init of a pid namespace from inside, thus no pid namespace.
            b.without_namespace("pid").sh(&format!("kill -{signal} $$"));
            t.run(&b).expect_code(128 + signal);
        }
    });
}

#[test]
fn run_leaves_nothing_and_keep_keeps() {
    run_case(any().differs("crun", "1.8.1 has no run --keep"), |t| {
        let mut b = t.bundle();
        b.sh("exit 3");
        let id = t.id();
        t.write(&b, &id);
        let dir = b.dir.to_str().unwrap();
        t.rt(&["run", "--bundle", dir, &id]).run().expect_code(3);
        t.rt(&["state", &id]).run().failed().says(t.unknown());
        t.rt(&["run", "--keep", "--bundle", dir, &id]).run().expect_code(3);
        let state: Value = serde_json::from_str(t.rt(&["state", &id]).run().ok()).unwrap();
        assert_eq!(state["status"], "stopped");
        t.rt(&["delete", &id]).run().ok();
    });
}

#[test]
fn states_from_create_to_delete() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE).set("/annotations", json!({"org.example.key": "value"}));
        let c = t.create(&b);
        let state = c.state();
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], json!(c.id));
        assert_eq!(state["bundle"], json!(b.dir));
        assert_eq!(state["annotations"]["org.example.key"], "value");
        assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
        assert!(c.proc("comm").exists(), "the pid is a living process");
        c.start();
        assert_eq!(c.status(), "running");
        t.wait_for(&t.dir, || c.output().contains("up"));
        c.kill("KILL").ok();
        assert_eq!(c.wait(), 137);
        let state = c.state();
        assert_eq!(state["status"], "stopped");
        assert_eq!(state["pid"].as_i64().unwrap_or(0), 0, "a stopped container has no pid");
        c.verb(&["delete"]).ok();
        c.verb(&["state"]).failed().says(t.unknown());
    });
}

#[test]
fn nothing_of_the_program_runs_before_start() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("echo ran");
        let c = t.create(&b);
        assert_eq!(c.output(), "");
        c.start();
        assert_eq!(c.wait(), 0);
        assert_eq!(c.output(), "ran\n");
    });
}

#[test]
fn start_is_legal_in_created_only() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let c = t.create(&b);
        c.start();
        c.verb(&["start"]).failed();
        c.kill("KILL").ok();
        c.wait();
        c.verb(&["start"]).failed();
        assert_eq!(c.status(), "stopped");
        t.rt(&["start", "no-such-container"]).run().failed().says(t.unknown());
    });
}

#[test]
fn delete_of_running_is_refused_and_forced() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let c = t.create(&b);
        c.start();
        c.verb(&["delete"]).failed();
        assert_eq!(c.status(), "running");
        c.verb(&["delete", "--force"]).ok();
        c.verb(&["state"]).failed().says(t.unknown());
    });
}

#[test]
fn delete_of_created_kills_it() {
    run_case(any().differs("crun", "1.8.1 wants --force for a created container"), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let c = t.create(&b);
        c.verb(&["delete"]).ok();
        assert_eq!(c.wait(), 137);
        c.verb(&["state"]).failed().says(t.unknown());
    });
}

#[test]
fn delete_of_unknown() {
    run_case(any(), |t| {
        t.rt(&["delete", "no-such-container"]).run().failed().says(t.unknown());
        let forced = t.rt(&["delete", "--force", "no-such-container"]).run();
        forced.ok();
        assert_eq!(forced.stderr, "");
        t.rt(&["delete", "-f", "no-such-container"]).run().ok();
    });
}

#[test]
fn delete_is_final() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 0");
        let c = t.create(&b);
        c.start();
        c.wait();
        c.verb(&["delete"]).ok();
        c.verb(&["delete"]).failed().says(t.unknown());
        // The id is free again.
        t.write(&b, &c.id);
        t.rt(&["run", "--bundle", b.dir.to_str().unwrap(), &c.id]).run().ok();
    });
}

#[test]
fn kill_words_that_engines_match() {
    run_case(any(), |t| {
        t.rt(&["kill", "no-such-container", "9"]).run().failed().says(t.unknown());
        let mut b = t.bundle();
        b.sh("exit 0");
        let c = t.create(&b);
        c.start();
        c.wait();
        let words = ["container not running", "o such process", "process already finished"];
        c.kill("9").failed().says_any(&words);
        c.kill("TERM").failed().says_any(&words);
    });
}

#[test]
fn kill_takes_names_and_numbers() {
    run_case(any(), |t| {
        for name in ["USR1", "SIGUSR1", "10"] {
            let mut b = t.bundle();
            b.sh("trap 'echo got; exit 5' USR1; echo up; while :; do sleep 1000 & wait $!; done");
            let c = t.create(&b);
            c.start();
            t.wait_for(&t.dir, || c.output().contains("up"));
            c.kill(name).ok();
            assert_eq!(c.wait(), 5, "{name}");
            assert!(c.output().contains("got"));
            c.verb(&["delete"]).ok();
        }
    });
}

#[test]
fn kill_default_is_sigterm() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("trap 'exit 9' TERM; echo up; while :; do sleep 1000 & wait $!; done");
        let c = t.create(&b);
        c.start();
        t.wait_for(&t.dir, || c.output().contains("up"));
        c.verb(&["kill"]).ok();
        assert_eq!(c.wait(), 9);
    });
}

#[test]
fn kill_of_created_ends_it() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("echo never");
        let c = t.create(&b);
        c.kill("KILL").ok();
        assert_eq!(c.wait(), 137);
        assert_eq!(c.status(), "stopped");
        assert_eq!(c.output(), "");
    });
}

#[test]
fn kill_all_reaches_every_process() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.without_namespace("pid");
        b.sh("sleep 1000 & sleep 1001 & echo up; wait");
        let c = t.create(&b);
        c.start();
        t.wait_for(&t.dir, || c.output().contains("up"));
        t.rt(&["kill", "--all", &c.id, "KILL"]).run().ok();
        c.wait();
        // The host check sees to it that neither sleep is left.
        c.verb(&["delete", "--force"]).ok();
    });
}

#[test]
fn kill_all_after_init_has_died() {
    run_case(any().differs("crun", "1.8.1 says `no such process`"), |t| {
        let mut b = t.bundle();
        b.without_namespace("pid");
        b.sh("sleep 1000 & echo up; exit 0");
        let c = t.create(&b);
        c.start();
        c.wait();
        t.rt(&["kill", "--all", &c.id, "9"]).run().ok();
        t.rt(&["kill", "-a", &c.id, "9"]).run().ok();
        c.verb(&["delete", "--force"]).ok();
    });
}

#[test]
fn delete_removes_processes_without_a_pid_namespace() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.without_namespace("pid");
        b.sh("setsid sleep 1000 & sleep 1000 & exit 0");
        let c = t.create(&b);
        c.start();
        c.wait();
        c.verb(&["delete", "--force"]).ok();
    });
}

#[test]
fn create_refuses_an_id_in_use() {
    run_case(any(), |t| {
        let b = t.bundle();
        let c = t.create(&b);
        let again = t.rt(&["create", "--bundle", b.dir.to_str().unwrap(), &c.id]).run();
        again.failed().says_any(&["exist", "in use"]);
        assert_eq!(c.status(), "created", "the first one is unharmed");
    });
}

#[test]
fn pid_file_is_digits_only() {
    run_case(any(), |t| {
        let b = t.bundle();
        let file = t.dir.join("pid");
        fs::write(&file, "an old file that is there already").unwrap();
        let c = t.create_with(&b, &["--pid-file", file.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&file).unwrap(), c.pid.to_string());
        let c2 = {
            let b = t.bundle();
            t.create_with(&b, &["--pid-file", t.dir.join("pid2").to_str().unwrap()])
        };
        assert_eq!(fs::read_to_string(t.dir.join("pid2")).unwrap(), c2.pid.to_string());
        let left: Vec<_> = fs::read_dir(&t.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(
            !left.iter().any(|n| n.to_string_lossy().starts_with(".pid")),
            "no temporary file is left: {left:?}"
        );
    });
}

#[test]
fn pid_file_is_atomic() {
    run_case(any().differs("crun", "writes the file in place"), |t| {
        let b = t.bundle();
        let file = t.dir.join("pid");
        fs::write(&file, "").unwrap();
        let before = fs::metadata(&file).unwrap().ino();
        let _c = t.create_with(&b, &["--pid-file", file.to_str().unwrap()]);
        assert_ne!(fs::metadata(&file).unwrap().ino(), before, "a new file is renamed over the old one");
    });
}

#[test]
fn run_detach_returns_at_once() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let file = t.dir.join("pid");
        let run = t.run_with(&b, &["--detach", "--pid-file", file.to_str().unwrap()]);
        run.run().ok();
        let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        let parent = parent_of(pid);
        assert_eq!(parent, std::process::id() as i32, "the caller's subreaper is the parent");
        let id =
            fs::read_dir(t.state_root()).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
        let id = id.into_iter().find(|n| n.starts_with(&t.tag)).unwrap();
        t.rt(&["kill", &id, "KILL"]).run().ok();
        assert_eq!(t.wait_pid(pid), 137);
        t.rt(&["delete", &id]).run().ok();
    });
}

fn parent_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn created_init_is_a_child_of_the_subreaper_and_a_session_leader() {
    run_case(any(), |t| {
        let b = t.bundle();
        let c = t.create(&b);
        assert_eq!(parent_of(c.pid), std::process::id() as i32);
        let stat = fs::read_to_string(c.proc("stat")).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        assert_eq!(
            (fields[2], fields[3]),
            (c.pid.to_string().as_str(), c.pid.to_string().as_str()),
            "pgrp, session"
        );
    });
}

#[test]
fn created_keeps_no_pipe_of_the_caller_open_with_a_terminal() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true));
        let console = runtime_tests::Console::listen(&t.dir.join("console"));
        let c = t.create_with(&b, &["--console-socket", console.path.clone().to_str().unwrap()]);
        let received = console.receive();
        assert_eq!(received.fds.len(), 1);
        for fd in fs::read_dir(c.proc("fd")).unwrap().flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default();
            assert!(
                !target.starts_with(&t.dir) || target.starts_with(t.state_root()),
                "{target:?} is the caller's output"
            );
        }
    });
}

#[test]
fn list_shows_what_is_there() {
    run_case(any(), |t| {
        let b = t.bundle();
        let (one, two) = (t.create(&b), t.create(&t.bundle()));
        let table = t.rt(&["list"]).run();
        assert!(table.ok().contains(&one.id) && table.stdout.contains(&two.id));
        let quiet = t.rt(&["list", "--quiet"]).run();
        let mut ids: Vec<_> = quiet.ok().lines().collect();
        ids.sort_unstable();
        let mut wanted = [one.id.as_str(), two.id.as_str()];
        wanted.sort_unstable();
        assert_eq!(ids, wanted);
        for flag in [&["list", "--format", "json"][..], &["list", "-f", "json"], &["list", "--format=json"]] {
            let list: Value = serde_json::from_str(t.rt(flag).run().ok()).unwrap();
            let list = list.as_array().unwrap();
            let row = list.iter().find(|r| r["id"] == json!(one.id)).unwrap();
            assert_eq!(
                (&row["status"], &row["pid"], &row["bundle"]),
                (&json!("created"), &json!(one.pid), &json!(b.dir))
            );
        }
    });
}

#[test]
fn list_of_nothing() {
    run_case(any(), |t| {
        assert_eq!(t.rt(&["list", "--quiet"]).run().ok(), "");
        let json: Value = serde_json::from_str(t.rt(&["list", "--format", "json"]).run().ok()).unwrap();
        assert!(json.is_null() || json.as_array().is_some_and(Vec::is_empty));
    });
}

#[test]
fn list_survives_a_broken_neighbour() {
    run_case(any(), |t| {
        let c = t.create(&t.bundle());
        let broken = t.state_root().join(format!("{}-broken", t.tag));
        fs::create_dir(&broken).unwrap();
        let out = t.rt(&["list"]).run();
        assert!(out.stdout.contains(&c.id), "{out}");
        fs::remove_dir(&broken).unwrap();
    });
}

#[test]
fn bundle_is_the_working_directory_by_default() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 4");
        let id = t.id();
        t.write(&b, &id);
        t.rt(&["run", &id]).cwd(&b.dir).run().expect_code(4);
        t.rt(&["run", "-b", "..", &id]).cwd(&b.rootfs()).run().expect_code(4);
        t.rt(&["run", &format!("--bundle={}", b.dir.display()), &id]).run().expect_code(4);
    });
}

#[test]
fn works_in_an_empty_environment() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 4");
        t.run_with(&b, &[]).no_env().run().expect_code(4);
    });
}

#[test]
fn foreground_run_forwards_signals() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("trap 'exit 33' TERM; echo up; while :; do sleep 1000 & wait $!; done");
        let run = t.run_with(&b, &[]).spawn();
        let pid = run.pid();
        let out = run.stdout_path.clone();
        t.wait_for(&t.dir, || fs::read_to_string(&out).unwrap().contains("up"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
        run.wait().expect_code(33);
    });
}

#[test]
fn foreground_run_passes_stdio() {
    run_case(any(), |t| {
        let input = t.dir.join("input");
        fs::write(&input, "hello\n").unwrap();
        let mut b = t.bundle();
        b.sh("cat; echo err >&2");
        let out = t.run_with(&b, &[]).stdin(&input).run();
        assert_eq!((out.ok(), out.stderr.as_str()), ("hello\n", "err\n"));
    });
}

#[test]
fn state_prints_only_json() {
    run_case(any(), |t| {
        let c = t.create(&t.bundle());
        let out = c.verb(&["state"]);
        assert_eq!(out.stderr, "");
        let state: Value = serde_json::from_str(out.ok()).unwrap();
        assert_eq!(state["pid"], json!(c.pid));
    });
}

#[test]
fn errors_go_to_the_log_as_json_too() {
    run_case(any(), |t| {
        let log = t.dir.join("log");
        fs::write(&log, "{\"level\":\"info\",\"msg\":\"older\",\"time\":\"2026-01-02T03:04:05Z\"}\n")
            .unwrap();
        let root = t.state_root();
        let flags =
            ["--root", root.to_str().unwrap(), "--log", log.to_str().unwrap(), "--log-format", "json"];
        let out = t.bare(&[&flags[..], &["state", "no-such-container"]].concat()).run();
        out.failed();
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0]["msg"], "older", "the log is appended to");
        assert_eq!(lines.len(), 2, "one line per error: {text}");
        assert_eq!(lines[1]["level"], "error");
        assert!(lines[1]["msg"].as_str().unwrap().contains(t.unknown()), "{text}");
        let time = lines[1]["time"].as_str().unwrap();
        assert!(time.len() >= 20 && &time[4..5] == "-" && &time[10..11] == "T", "RFC 3339: {time}");
    });
}

#[test]
fn errors_go_to_stderr_beside_the_log() {
    run_case(any().differs("crun", "writes to the log file only"), |t| {
        let log = t.dir.join("log");
        let root = t.state_root();
        let flags = ["--root", root.to_str().unwrap(), "--log", log.to_str().unwrap(), "--log-format=json"];
        let out = t.bare(&[&flags[..], &["state", "no-such-container"]].concat()).run();
        assert!(out.failed().stderr.contains(t.unknown()), "{out}");
    });
}

#[test]
fn state_directory_is_private() {
    run_case(any(), |t| {
        let root = t.dir.join("new-root");
        let b = t.bundle();
        let id = t.id();
        t.write(&b, &id);
        let dir = b.dir.to_str().unwrap();
        t.bare(&["--root", root.to_str().unwrap(), "create", "--bundle", dir, &id]).run().ok();
        let mode = fs::metadata(&root).unwrap().permissions().mode() & 0o077;
        let inner = fs::metadata(root.join(&id)).unwrap().permissions().mode() & 0o066;
        t.bare(&["--root", root.to_str().unwrap(), "delete", "--force", &id]).run().ok();
        assert_eq!((mode, inner), (0, 0), "nothing for others in the root, nothing to read in a container's");
    });
}

#[test]
fn bundle_may_go_away_while_running() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let c = t.create(&b);
        c.start();
        fs::remove_file(b.dir.join("config.json")).unwrap();
        fs::rename(&b.dir, t.dir.join("elsewhere")).unwrap();
        assert_eq!(c.status(), "running");
        c.kill("KILL").ok();
        c.wait();
        c.verb(&["delete"]).ok();
    });
}

#[test]
fn failed_create_leaves_no_pid_file_and_no_state() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.mount("/mnt", "no-such-fs", "none", &[]);
        let file = t.dir.join("pid");
        let (id, run) = t.creation(&b, &["--pid-file", file.to_str().unwrap()]);
        run.run().failed();
        t.rt(&["state", &id]).run().failed().says(t.unknown());
        if t.kind == Kind::Oar {
            assert!(!file.exists(), "no pid file after a failure");
        }
    });
}

#[test]
fn same_id_created_by_many_at_once() {
    run_case(
        any()
            .differs("runc", "1.1.5 has no lock: two can win")
            .differs("crun", "1.8.1 has no lock: a loser removes the winner's files"),
        |t| {
            let b = t.bundle();
            let id = t.id();
            t.write(&b, &id);
            let dir = b.dir.to_str().unwrap();
            let runs: Vec<_> = (0..8).map(|_| t.rt(&["create", "--bundle", dir, &id]).spawn()).collect();
            let won = runs.into_iter().map(|r| r.wait()).filter(|o| o.code == 0).count();
            assert_eq!(won, 1);
            let state: Value = serde_json::from_str(t.rt(&["state", &id]).run().ok()).unwrap();
            assert_eq!(state["status"], "created");
            t.rt(&["delete", "--force", &id]).run().ok();
            t.wait_pid(state["pid"].as_i64().unwrap() as i32);
        },
    );
}

#[test]
fn f47_many_containers_share_a_root_file_system() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 6");
        let runs: Vec<_> = (0..20)
            .map(|i| {
                let mut own = b.clone();
                own.dir = t.scratch(&format!("own-{i}"));
                symlink(b.rootfs(), own.dir.join("link")).unwrap();
                own.set("/root/path", json!(b.rootfs()));
                own.mount("/made/by/runtime", "tmpfs", "tmpfs", &[]);
                t.run_with(&own, &[]).spawn()
            })
            .collect();
        for run in runs {
            run.wait().expect_code(6);
        }
    });
}

fn dry_run() -> Case {
    oar_only("create --dry-run prints the numbered plan")
}

#[test]
fn dry_run_prints_and_changes_nothing() {
    run_case(dry_run(), |t: &Test| {
        let b = t.bundle();
        let (id, run) = t.creation(&b, &["--dry-run"]);
        let out = run.run();
        let steps: Vec<_> =
            out.ok().lines().filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit())).collect();
        assert!(steps.len() > 10, "{out}\nexpected: numbered steps");
        for word in ["/proc", "/dev/pts", "coracle-test", "/bin/true"] {
            assert!(out.stdout.contains(word), "{out}\nexpected: {word}");
        }
        t.rt(&["state", &id]).run().failed().says(t.unknown());
        assert_eq!(fs::read_dir(t.state_root()).unwrap().count(), 0);
    });
}

#[test]
fn dry_run_needs_no_root() {
    run_case(dry_run(), |t: &Test| {
        let b = t.bundle();
        let (_, run) = t.creation(&b, &["--dry-run"]);
        run.wrap(&["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"])
            .run()
            .failed()
            .clean_error();
    });
}

#[test]
fn violations_come_all_at_once() {
    run_case(oar_only("all violations of a config are listed in one go"), |t| {
        let mut b = t.bundle();
        b.set("/process/cwd", json!("relative"));
        b.set("/process/user/umask", json!(4096));
        b.set("/hostname", json!("x".repeat(65)));
        b.set("/process/args", json!([]));
        let out = t.try_create(&b);
        out.clean_error();
        for place in ["process.cwd", "process.user.umask", "hostname", "process.args"] {
            out.says(place);
        }
    });
}

#[test]
fn an_error_of_a_step_names_object_and_place() {
    run_case(oar_only("an error of a step names the step, the object and the place in the document"), |t| {
        let mut b = t.bundle();
        b.mount("/mnt", "no-such-fs", "none", &[]);
        let place = format!("mounts[{}]", b.config["mounts"].as_array().unwrap().len() - 1);
        let out = t.try_create(&b);
        out.clean_error().says("/mnt").says(&place).says("no such device");
    });
}
