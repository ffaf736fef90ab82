// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the kill sweep (security.md F-1, F-2, F-3, F-6): SIGKILL of the runtime at each of its syscalls.
//! Never traces, and thus never kills, the container's init: strace follows the runtime's own process only.
//! The list of syscalls comes from one run that is not killed; after each kill one `delete --force` has to clean up.

use runtime_tests::{Bundle, Host, Out, Test, any, within_case};
use std::collections::HashMap;
use std::fs;
use std::process::ExitCode;

const VERBS: [&str; 8] = ["create", "start", "run", "delete", "exec", "pause", "resume", "update"];
/// The same verbs, of a container that is connected to a network and has a published port. Not swept unless they are
/// named: they need nft(8) to look at the rules.
const NETWORK: &str = "-network";
const NETWORK_VERBS: [&str; 3] = ["create-network", "run-network", "delete-network"];

fn main() -> ExitCode {
    let mut step = 1;
    let mut systemd = false;
    let mut verbs: Vec<String> = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--step" => step = args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or(1),
            "--systemd" => systemd = true,
            verb if VERBS.contains(&verb) || NETWORK_VERBS.contains(&verb) => verbs.push(verb.to_owned()),
            other => {
                eprintln!(
                    "kill-sweep: {other}: usage: kill-sweep [--step K] [--systemd] [{}]…",
                    [&VERBS[..], &NETWORK_VERBS].concat().join("|")
                );
                return ExitCode::from(2);
            }
        }
    }
    if verbs.is_empty() {
        verbs = VERBS.map(str::to_owned).to_vec();
    }
    let mut leaks = 0;
    let mut points = 0;
    for verb in &verbs {
        let (p, l) = sweep(verb, step, systemd);
        points += p;
        leaks += l;
    }
    println!("kill-sweep: {points} kills (every {step}. syscall), {leaks} leaks");
    if leaks == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Kills `verb` at every `step`-th of its syscalls; returns the number of kills and of leaks. With `systemd` the cgroup
/// is a unit of systemd.
fn sweep(verb: &str, step: usize, systemd: bool) -> (usize, usize) {
    let mut result = (0, 0);
    let left = within_case(any(), verb, |t| {
        let mut bundle = t.bundle();
        bundle.sh("while :; do sleep 1000; done");
        let resources = runtime_tests::json!({
            "memory": {"limit": 64 << 20},
            "cpu": {"quota": 50_000, "period": 100_000},
            "pids": {"limit": 50}
        });
        bundle.set("/linux/resources", resources);
        // Without no_new_privs and CAP_SYS_ADMIN the filter is there as early as it can be.
        let profile = include_str!("../../../crates/seccomp/tests/like-docker.json");
        bundle.set("/linux/seccomp", profile.parse().unwrap());
        bundle.set("/process/noNewPrivileges", runtime_tests::json!(false));
        let pids = t.scratch("pid-files");
        let network = verb.ends_with(NETWORK);
        if network {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        }
        // The first run makes the mount points in the root, and the network, and is not looked at.
        attempt(t, &mut bundle, systemd, verb, &[]);
        let trace = t.dir.join("trace");
        attempt(t, &mut bundle, systemd, verb, &["-o", trace.to_str().unwrap()]);
        let calls = syscalls(&fs::read_to_string(&trace).unwrap());
        let mut before = Host::look(t);
        let rules = network.then(rules);
        let (mut not_reached, mut slowest) = (0, std::time::Duration::ZERO);
        for (name, nth) in calls.iter().skip(1).step_by(step) {
            let inject = format!("inject={name}:signal=KILL:when={nth}");
            let (killed, deleted, took) =
                attempt(t, &mut bundle, systemd, verb, &["-o", "/dev/null", "-e", &inject]);
            if killed.code != 137 {
                not_reached += 1; // Another run may take another path; this point was not hit.
            } else {
                result.0 += 1;
            }
            slowest = slowest.max(took);
            let mut faults = before.violations(t);
            if network && Some(self::rules()) != rules {
                faults.push(format!("links or rules are left: {}", self::rules()));
            }
            if deleted.code != 0 {
                faults.push(format!("{deleted}"));
            }
            for entry in fs::read_dir(&pids).unwrap().flatten() {
                if entry.file_name() != "pid" {
                    faults.push(format!("file is left: {:?}", entry.file_name()));
                }
                fs::remove_file(entry.path()).unwrap();
            }
            if !faults.is_empty() {
                result.1 += 1;
                println!("LEAK {verb} killed at {name} #{nth}: {faults:#?}");
                Host::clean(t);
                for entry in fs::read_dir(t.state_root()).unwrap().flatten() {
                    fs::remove_dir_all(entry.path()).ok();
                }
                before = Host::look(t); // A leaked mount counts once.
            }
        }
        let units = units(&t.tag);
        if !units.is_empty() {
            result.1 += 1;
            println!("LEAK {verb}: units of systemd are left: {units:?}");
        }
        println!(
            "kill-sweep: {verb}: {} syscalls, {} kills, {not_reached} not reached, {} leaks, slowest delete {} ms",
            calls.len(),
            result.0,
            result.1,
            slowest.as_millis()
        );
    });
    if !left.is_empty() && result.1 == 0 {
        println!("LEAK {verb} as a whole: {left:#?}");
        result.1 += 1;
    }
    result
}

/// One life of a container, with strace and its flags in front of `verb`; returns that run and the final delete.
fn attempt(
    t: &Test,
    bundle: &mut Bundle,
    systemd: bool,
    verb: &str,
    strace: &[&str],
) -> (Out, Out, std::time::Duration) {
    let id = t.id();
    let driver = format!("--systemd-cgroup={systemd}");
    let driver = driver.as_str();
    if systemd {
        bundle.set("/linux/cgroupsPath", runtime_tests::json!(format!("system.slice:oar:{id}")));
    }
    t.write(bundle, &id);
    let dir = bundle.dir.to_str().unwrap();
    let pid_file = t.scratch("pid-files").join("pid");
    let pid_file = pid_file.to_str().unwrap();
    let (verb, network): (&str, &[&str]) = match verb.strip_suffix(NETWORK) {
        Some(verb) => (verb, &["--network", "default", "--publish", "8080:80"]),
        None => (verb, &[]),
    };
    let detached = [&[driver, "run", "--detach", "--bundle", dir], network, &[&id]].concat();
    let prepare: &[&[&str]] = match verb {
        "start" => &[&[driver, "create", "--bundle", dir, &id]],
        "create" | "run" => &[],
        "resume" => &[&detached, &["pause", &id]],
        _ => &[&detached],
    };
    for args in prepare {
        t.rt(args).run().ok();
    }
    let run = match verb {
        "create" => {
            t.rt(&[&[driver, "create", "--pid-file", pid_file, "--bundle", dir], network, &[&id]].concat())
        }
        "run" => {
            let run = [driver, "run", "--detach", "--pid-file", pid_file, "--bundle", dir];
            t.rt(&[&run[..], network, &[&id]].concat())
        }
        "exec" => t.rt(&["exec", "--detach", "--pid-file", pid_file, &id, "sleep", "1000"]),
        "start" | "pause" | "resume" => t.rt(&[verb, &id]),
        "update" => {
            let limits = ["--memory", "32m", "--cpu-quota", "40000", "--rlimit", "nofile=100"];
            t.rt(&[&["update"], &limits[..], &["--oom-score-adj", "100", &id]].concat())
        }
        _ => t.rt(&["delete", "--force", &id]),
    };
    let run = if strace.is_empty() { run } else { run.wrap(&[&["strace"], strace].concat()) };
    let killed = run.run();
    let before = std::time::Instant::now();
    let deleted = delete(t, &id);
    let took = before.elapsed();
    // What has ended is a child of this process by adoption; it is nobody else's to reap.
    while let Ok(status) = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
        if status == nix::sys::wait::WaitStatus::StillAlive {
            break;
        }
    }
    (killed, deleted, took)
}

/// `delete --force`, while the container's processes that came to this one are reaped: the first process of a pid
/// namespace does not end before all others are.
fn delete(t: &Test, id: &str) -> Out {
    let running = t.rt(&["delete", "--force", id]).spawn();
    let pid = running.pid();
    let (done, over) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let pause = std::time::Duration::from_millis(1);
            while over.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
                    let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                    let others = children.split_whitespace().filter_map(|child| child.parse().ok());
                    for child in others.filter(|child| *child != pid) {
                        let child = nix::unistd::Pid::from_raw(child);
                        nix::sys::wait::waitpid(child, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).ok();
                    }
                }
            }
        });
        let out = running.wait();
        drop(done);
        out
    })
}

/// Links with a part in something, and rules, of this network namespace. A pair that is cut off ends with the container's
/// namespace, a moment after its last process.
fn rules() -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", "ip -o link show up | cut -d: -f2 | sort && exec nft -s list ruleset"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Units of systemd with the tag. It forgets a stopped one a little later, without an event for us to wait for.
fn units(tag: &str) -> Vec<String> {
    let list = || -> Vec<String> {
        let entries = fs::read_dir("/run/systemd/transient").into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.contains(tag)).collect()
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10) * runtime_tests::patience();
    while !list().is_empty() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    list()
}

/// Each call of a trace with its count among the calls of the same name, because strace counts by name.
fn syscalls(trace: &str) -> Vec<(String, usize)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut list = Vec::new();
    for line in trace.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let count = counts.entry(name).or_default();
        *count += 1;
        list.push((name.to_owned(), *count));
    }
    list
}
