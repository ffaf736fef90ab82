// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns what a hostile review of oar found, one case or more for each finding, so that it cannot come back.
//! Never waits for time where there is an event; a process that has to be slow is stopped in a syscall by strace.
//! Each case says what the wrong behaviour was; the attacker of the first ones is `src/bin/look-into.rs`.

use runtime_tests::{
    Bundle, Case, Container, Host, Invocation, Out, Running, Test, Value, any, copy_program, json, oar_only,
    run_case,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, send, socket};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What has to be quick is some milliseconds of work: this is for a machine under load. Whatever oar waits for, it waits
/// for ten seconds.
const QUICK: Duration = Duration::from_secs(8);

fn found() -> Case {
    oar_only("found in oar by a review")
}

fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// State, processes and cgroups, before the harness cleans up.
#[track_caller]
fn nothing_left(t: &Test) {
    let left = Host::leftovers(t);
    assert!(left.is_empty(), "{left:#?}");
}

/// A directory that everybody may write to; `None` in a bundle, or at `/hooks` there.
fn shared(t: &Test, bundle: Option<&mut Bundle>) -> PathBuf {
    let dir = t.scratch("hooks");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    if let Some(bundle) = bundle {
        bundle.mount("/hooks", "bind", dir.to_str().unwrap(), &["bind"]);
    }
    dir
}

fn hook(script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}])
}

/// A hook that says in `dir` that it is there, and then does not end.
fn hanging(dir: &Path) -> Value {
    hook(&format!("echo > {}/up; exec sleep 1000", dir.display()))
}

fn forced_delete(t: &Test, id: &str) {
    let begin = Instant::now();
    t.rt(&["delete", "--force", id]).run().ok();
    assert!(begin.elapsed() < QUICK, "delete --force took {:?}", begin.elapsed());
}

/// In front of the runtime: a caller that ignores the ends of its children.
fn ignoring_children(run: Invocation) -> Invocation {
    run.wrap(&["env", "--ignore-signal=CHLD"]) // dash's trap does not do it
}

/// A run of the runtime that has made a syscall, and is stopped before it does anything else.
struct Held(Running);

impl Held {
    /// At its first `call` with the argument `path`, if that is given.
    #[track_caller]
    fn after(t: &Test, run: Invocation, call: &str, path: Option<&Path>) -> Held {
        let trace = t.dir.join("held");
        let inject = format!("inject={call}:signal=STOP:when=1");
        let mut strace = vec!["strace", "-qq", "-o", trace.to_str().unwrap(), "-e", &inject];
        if let Some(path) = path {
            strace.extend(["-P", path.to_str().unwrap()]);
        }
        let running = run.wrap(&strace).spawn();
        let is_stopped = || fs::read_to_string(&trace).is_ok_and(|text| text.contains("stopped by SIGSTOP"));
        t.wait_for(&t.dir, is_stopped);
        Held(running)
    }

    /// It has its way; what came of it.
    #[track_caller]
    fn go_on(self) -> Out {
        kill(child_of(self.0.pid()), nix::sys::signal::Signal::SIGCONT);
        self.0.wait()
    }
}

// 1: a neighbour in a joined namespace could write into init, and into oar while init still shared its memory.

/// A running container whose pid 1 is the attacker.
fn attacker<'t>(t: &'t Test, b: &mut Bundle) -> Container<'t> {
    copy_program(Path::new(env!("CARGO_BIN_EXE_look-into")), &b.rootfs().join("bin/look-into"));
    for dir in ["/lib", "/lib64", "/usr/lib"] {
        if Path::new(dir).is_dir() {
            b.mount(dir, "bind", dir, &["bind", "ro"]);
        }
    }
    b.args(&["/bin/look-into"]);
    let c = t.create(b);
    c.start();
    t.wait_for(&t.dir, || c.output().contains("looks\n"));
    c
}

fn with_ptrace(b: &mut Bundle) -> &mut Bundle {
    for set in ["bounding", "effective", "permitted"] {
        b.set(&format!("/process/capabilities/{set}/-"), json!("CAP_SYS_PTRACE"));
    }
    b
}

/// What the attacker opened. That it had somebody to look into is part of the case.
#[track_caller]
fn opened(c: &Container<'_>) -> Vec<String> {
    let text = c.output();
    assert!(text.contains("refused ") || text.contains("opened "), "the attacker saw nobody: {text}");
    text.lines().filter(|l| l.starts_with("opened ")).map(str::to_owned).collect()
}

fn joined(t: &Test, c: &Container<'_>, kinds: &[&str]) -> Bundle {
    let mut b = t.bundle();
    if kinds.contains(&"user") {
        b.user_namespace().remove("/linux/uidMappings").remove("/linux/gidMappings");
    }
    for kind in kinds {
        b.namespace(kind, c.proc(&format!("ns/{kind}")).to_str().unwrap());
    }
    b
}

#[test]
fn joining_a_user_and_pid_namespace_shows_nothing_to_a_tracer() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        with_ptrace(b.user_namespace());
        let c = attacker(t, &mut b);
        let b = joined(t, &c, &["user", "pid"]);
        // As unreadable as init is: nothing at all may open.
        let command = b.rootfs().join("bin/busybox");
        std::os::unix::fs::chown(&command, Some(0), Some(0)).unwrap();
        fs::set_permissions(&command, fs::Permissions::from_mode(0o111)).unwrap();
        for _ in 0..30 {
            t.run(&b).ok();
        }
        let opened = opened(&c);
        assert!(opened.is_empty(), "{opened:#?}");
    });
}

#[test]
fn a_created_container_shows_nothing_to_its_neighbours() {
    run_case(found(), |t| {
        for user in [false, true] {
            let mut b = t.bundle();
            if user {
                with_ptrace(b.user_namespace());
            }
            let c = attacker(t, &mut b);
            let kinds: &[&str] = if user { &["user", "pid"] } else { &["pid"] };
            for _ in 0..5 {
                let waiting = t.create(&joined(t, &c, kinds));
                let inside = inside_pid(waiting.pid);
                t.wait_for(&t.dir, || c.output().contains(&format!(" {inside}")));
                waiting.verb(&["delete", "--force"]).ok();
                waiting.wait(); // Until it is reaped, the namespace's pid 1 cannot end.
            }
            let opened = opened(&c);
            assert!(opened.is_empty(), "user namespace: {user}: {opened:#?}");
        }
    });
}

/// Its number in the innermost pid namespace.
fn inside_pid(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("NSpid:")).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn joining_a_pid_namespace_shows_nothing_before_the_command() {
    run_case(found(), |t| {
        let c = attacker(t, &mut t.bundle());
        let mut b = joined(t, &c, &["pid"]);
        b.sh("sleep 0.02"); // so that it is mostly the command that opens
        for _ in 0..30 {
            t.run(&b).ok();
        }
        // The command has the same user and capabilities as the attacker, who may look into it.
        let opened = opened(&c);
        let wrong: Vec<_> =
            opened.iter().filter(|l| l.ends_with(" init") || l.ends_with(" runtime")).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

// 2: a create that was slow between making and locking its directory took over the one of a later create.

#[test]
fn a_late_create_leaves_the_directory_to_the_one_that_was_made_since() {
    run_case(found(), |t| {
        let mut first = t.bundle();
        let mut second = t.bundle();
        first.sh("exit 11");
        second.sh("exit 22");
        let (id, run) = t.creation(&first, &[]);
        let directory = t.state_root().join(&id);
        let slow = Held::after(t, run, "mkdir", Some(&directory));
        forced_delete(t, &id);
        t.write(&second, &id);
        t.rt(&["create", "--bundle", second.dir.to_str().unwrap(), &id]).run().ok();
        let before = t.rt(&["state", &id]).run().ok().to_owned();
        slow.go_on().clean_error().says("already exists");
        assert_eq!(t.rt(&["state", &id]).run().ok(), before);
        let state: Value = before.parse().unwrap();
        assert_eq!(state["bundle"], json!(second.dir));
        assert_eq!(state["status"], "created");
        t.rt(&["start", &id]).run().ok();
        assert_eq!(t.wait_pid(state["pid"].as_i64().unwrap() as i32), 22);
        t.rt(&["delete", &id]).run().ok();
        nothing_left(t);
    });
}

#[test]
fn a_late_create_whose_directory_was_deleted_makes_it_again() {
    run_case(found(), |t| {
        let (id, run) = t.creation(&t.bundle(), &[]);
        let directory = t.state_root().join(&id);
        let slow = Held::after(t, run, "mkdir", Some(&directory));
        forced_delete(t, &id);
        slow.go_on().ok();
        let state: Value = t.rt(&["state", &id]).run().ok().parse().unwrap();
        assert_eq!(state["status"], "created");
        forced_delete(t, &id);
        t.wait_pid(state["pid"].as_i64().unwrap() as i32);
        nothing_left(t);
    });
}

#[test]
fn a_second_create_does_not_disturb_a_late_one() {
    run_case(found(), |t| {
        let b = t.bundle();
        let (id, run) = t.creation(&b, &[]);
        let directory = t.state_root().join(&id);
        let slow = Held::after(t, run, "mkdir", Some(&directory));
        let other = t.rt(&["create", "--bundle", b.dir.to_str().unwrap(), &id]).run();
        other.clean_error().says("already exists");
        slow.go_on().ok();
        t.rt(&["start", &id]).run().ok();
    });
}

// 3: init became root of its user namespace, which cleared the signal that ends it with its parent.

#[test]
fn init_of_a_user_namespace_dies_with_the_runtime_that_makes_it() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        b.user_namespace();
        let dir = shared(t, None);
        b.set("/hooks/createContainer", hanging(&dir));
        let (id, run) = t.creation(&b, &[]);
        let running = run.spawn();
        t.wait_for(&dir, || dir.join("up").exists());
        let init = child_of(running.pid());
        kill(running.pid(), nix::sys::signal::Signal::SIGKILL);
        running.wait().expect_code(128 + 9);
        assert_eq!(t.wait_pid(init), 128 + 9);
        forced_delete(t, &id);
        nothing_left(t);
    });
}

fn child_of(pid: i32) -> i32 {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().next().expect("a child").parse().unwrap()
}

// 4: the ends of children that the caller ignores could not be waited for.

#[test]
fn a_caller_that_ignores_its_children() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        b.sh("grep SigIgn: /proc/self/status | tr -d '\\t'; exit 7");
        let out = ignoring_children(t.run_with(&b, &[])).run();
        assert_eq!(out.expect_code(7).stdout, "SigIgn:0000000000000000\n", "{out}");
        b.set("/hooks/prestart", hook("exit 0")).set("/hooks/createContainer", hook("exit 0"));
        ignoring_children(t.run_with(&b, &[])).run().expect_code(7);
    });
}

#[test]
fn a_caller_that_ignores_its_children_and_joined_namespaces() {
    run_case(found(), |t| {
        let mut holder = t.bundle();
        holder.user_namespace().sh("exec sleep 1000");
        let c = t.create(&holder);
        c.start();
        for kinds in [&["pid"][..], &["user", "pid"]] {
            let mut b = joined(t, &c, kinds);
            b.sh("exit 7");
            ignoring_children(t.run_with(&b, &[])).run().expect_code(7);
            let (id, run) = t.creation(&b, &[]);
            ignoring_children(run).run().ok();
            let state: Value = t.rt(&["state", &id]).run().ok().parse().unwrap();
            t.rt(&["start", &id]).run().ok();
            assert_eq!(t.wait_pid(state["pid"].as_i64().unwrap() as i32), 7);
        }
    });
}

// 5: the container was left running when the caller's terminal could not be set to raw mode.

#[test]
fn a_terminal_that_is_not_ours_leaves_nothing_running() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true)).sh("exec sleep 1000");
        let id = t.id();
        t.write(&b, &id);
        let dir = t.scratch("job");
        let oar = format!(
            "{} --root {} run --bundle {} {id}",
            t.runtime.display(),
            t.state_root().display(),
            b.dir.display()
        );
        // An orphaned background group: the kernel does not stop it, it answers EIO.
        let main = "set -m; sh middle & wait; echo > go; until [ -e code ]; do sleep 0.05; done";
        let inner = format!("until [ -e go ]; do sleep 0.05; done; {oar} 2> error; echo $? > c; mv c code");
        for (name, text) in [("main", main), ("middle", "sh inner < /dev/tty & exit 0"), ("inner", &inner)] {
            fs::write(dir.join(name), format!("{text}\n")).unwrap();
        }
        let argv = ["script", "-q", "-e", "-c", "sh main", "/dev/null"].map(std::ffi::OsString::from);
        t.program(argv.to_vec()).env("TERM", "xterm").cwd(&dir).run().ok();
        let error = fs::read_to_string(dir.join("error")).unwrap();
        assert!(error.contains("raw mode"), "{error}");
        assert_ne!(fs::read_to_string(dir.join("code")).unwrap(), "0\n");
        nothing_left(t);
    });
}

// 8: init needs more descriptors than the container is to have.

#[test]
fn three_descriptors_are_enough() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        for limit in [3, 4, 10] {
            b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": limit, "hard": limit}]));
            b.args(&["/bin/busybox", "true"]);
            t.create_start(&b).ok();
            t.run(&b).ok();
            b.sh("ulimit -S -n; ulimit -H -n");
            assert_eq!(t.create_start(&b).ok(), format!("{limit}\n{limit}\n"));
        }
    });
}

// 9: a start that waits for a hook held the lock that delete --force wanted.

#[test]
fn a_start_that_hangs_in_a_hook_can_be_deleted() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        let dir = shared(t, Some(&mut b));
        b.set("/hooks/startContainer", hanging(Path::new("/hooks")));
        let c = t.create(&b);
        let start = t.rt(&["start", &c.id]).spawn();
        t.wait_for(&dir, || dir.join("up").exists());
        forced_delete(t, &c.id);
        start.wait().clean_error();
        c.wait();
        nothing_left(t);
    });
}

// 10: somebody who connected and said nothing kept start from its turn.

fn connection(t: &Test, id: &str) -> rustix::fd::OwnedFd {
    let path = t.state_root().join(id).join("start.sock");
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn silent_connections_do_not_block_start() {
    run_case(found(), |t| {
        for count in [1, 8, 10, 40] {
            let mut b = t.bundle();
            b.sh("exit 5");
            let c = t.create(&b);
            let silent: Vec<_> = (0..count).map(|_| connection(t, &c.id)).collect();
            assert_eq!(c.status(), "created", "{count} silent");
            c.start();
            assert_eq!(c.wait(), 5, "{count} silent");
            drop(silent);
        }
    });
}

#[test]
fn nonsense_on_the_start_socket_starts_nothing() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        b.sh("exit 5");
        let c = t.create(&b);
        let words: [&[u8]; 4] = [b"x", &[0; 64], &[0xff; 64], &[1; 4096]];
        for word in words {
            let talker = connection(t, &c.id);
            send(&talker, word, rustix::net::SendFlags::NOSIGNAL).unwrap();
        }
        assert_eq!(c.status(), "created");
        c.start();
        assert_eq!(c.wait(), 5);
    });
}

// 11: a signal during the hooks of run was kept for a container that was not there yet.

#[test]
fn run_can_be_interrupted_in_its_hooks() {
    use nix::sys::signal::Signal;
    run_case(found(), |t| {
        for kind in ["prestart", "createRuntime", "createContainer"] {
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                let mut b = t.bundle();
                let dir = shared(t, None);
                b.set(&format!("/hooks/{kind}"), hanging(&dir));
                let running = t.run_with(&b, &[]).spawn();
                t.wait_for(&dir, || dir.join("up").exists());
                let begin = Instant::now();
                kill(running.pid(), signal);
                let out = running.wait();
                assert!(begin.elapsed() < QUICK, "{kind}: {:?} {out}", begin.elapsed());
                out.clean_error();
                nothing_left(t);
                fs::remove_file(dir.join("up")).unwrap();
            }
        }
    });
}

// 12: a starter that was killed while a hook ran took the container with it.

#[test]
fn a_starter_that_is_killed_has_started_the_container() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        let dir = shared(t, Some(&mut b));
        b.set("/hooks/startContainer", hook("echo > /hooks/up; until [ -e /hooks/go ]; do sleep 0.05; done"));
        b.sh("echo ran; exit 7");
        let c = t.create(&b);
        let start = t.rt(&["start", &c.id]).spawn();
        t.wait_for(&dir, || dir.join("up").exists());
        kill(start.pid(), nix::sys::signal::Signal::SIGKILL);
        start.wait().expect_code(128 + 9);
        fs::write(dir.join("go"), "").unwrap();
        assert_eq!(c.wait(), 7);
        assert_eq!(c.output(), "ran\n");
        assert_eq!(c.status(), "stopped");
    });
}

// 13: a directory was made, or a mount put, where a link into procfs was read as text.

/// Everything below, links not followed.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut list = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            list.append(&mut names(&path));
        }
        list.push(path);
    }
    list.sort();
    list
}

#[track_caller]
fn refused_and_nothing_made(t: &Test, b: &Bundle) {
    let before = names(&b.rootfs());
    t.try_create(b).clean_error();
    assert_eq!(names(&b.rootfs()), before);
    nothing_left(t);
}

#[test]
fn directories_are_not_made_behind_links_into_procfs() {
    run_case(found(), |t| {
        // The first one makes the mount points of the base config.
        let mut b = t.bundle();
        t.run(&b).ok();
        symlink("/proc/self/fd", b.rootfs().join("descriptors")).unwrap();
        for n in 3..12 {
            symlink(format!("/proc/self/fd/{n}"), b.rootfs().join(format!("d{n}"))).unwrap();
        }
        for n in 3..12 {
            let cwd = [
                format!("/proc/self/fd/{n}"),
                format!("/proc/thread-self/fd/{n}"),
                format!("/descriptors/{n}"),
                format!("/d{n}"),
            ];
            for place in cwd {
                b.set("/process/cwd", json!(place));
                refused_and_nothing_made(t, &b);
            }
        }
        b.set("/process/cwd", json!("/"));
        let mounts = b.config["mounts"].clone();
        let source = t.scratch("source");
        for n in 3..12 {
            for place in [format!("/d{n}"), format!("/d{n}/x"), format!("/descriptors/{n}")] {
                for kind in ["tmpfs", "bind"] {
                    b.set("/mounts", mounts.clone());
                    b.mount(
                        &place,
                        kind,
                        source.to_str().unwrap(),
                        if kind == "bind" { &["bind"] } else { &[] },
                    );
                    refused_and_nothing_made(t, &b);
                }
            }
        }
        assert_eq!(names(&source), Vec::<PathBuf>::new());
    });
}

// 14: the process that joins namespaces for init counts too while it lives.

#[test]
fn a_pids_limit_of_two_and_a_joined_namespace() {
    run_case(found(), |t| {
        let mut holder = t.bundle();
        holder.sh("exec sleep 1000");
        let c = t.create(&holder);
        c.start();
        for limit in [1, 2] {
            let mut b = t.bundle();
            b.namespace("network", c.proc("ns/net").to_str().unwrap()).unmount("/sys");
            b.set("/linux/resources", json!({"pids": {"limit": limit}})).sh("exit 5");
            t.run(&b).expect_code(5);
            t.create_start(&b).expect_code(5);
        }
    });
}

// 15: the pid file's draft had a name that somebody else could have taken.

#[test]
fn a_foreign_file_beside_the_pid_file() {
    run_case(found(), |t| {
        let dir = t.scratch("pids");
        let file = dir.join("pid");
        let dir_names = || names(&dir);
        let b = t.bundle();
        for killed in [false, true] {
            let hooks = shared(t, None);
            let mut b = b.clone();
            if killed {
                b.set("/hooks/createRuntime", hanging(&hooks));
            }
            let (id, run) = t.creation(&b, &["--pid-file", file.to_str().unwrap()]);
            let foreign =
                [format!(".pid.{id}"), ".pid".to_owned(), format!("pid.{id}"), "pid.tmp".to_owned()];
            let foreign = foreign.map(|name| dir.join(name));
            for path in &foreign {
                fs::write(path, "foreign").unwrap();
            }
            let inodes = || foreign.each_ref().map(|path| fs::symlink_metadata(path).map(|m| m.ino()).ok());
            let before = inodes();
            if killed {
                let running = run.spawn();
                t.wait_for(&hooks, || hooks.join("up").exists());
                let init = child_of(running.pid());
                kill(running.pid(), nix::sys::signal::Signal::SIGKILL);
                running.wait();
                t.wait_pid(init);
            } else {
                run.run().ok();
            }
            t.rt(&["delete", "--force", &id]).run().ok();
            assert_eq!(inodes(), before);
            for path in &foreign {
                assert_eq!(fs::read_to_string(path).unwrap(), "foreign", "{}", path.display());
                fs::remove_file(path).unwrap();
            }
            let left: Vec<_> = dir_names().into_iter().filter(|path| *path != file).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    });
}

// 16: kill between the opening of the directory and its removal said what is only true of a new container.

#[test]
fn kill_while_the_container_is_deleted() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        b.sh("exec sleep 1000");
        let c = t.create(&b);
        c.start();
        let directory = t.state_root().join(&c.id);
        let slow = Held::after(t, t.rt(&["kill", &c.id, "TERM"]), "openat", Some(&directory));
        forced_delete(t, &c.id);
        let out = slow.go_on();
        out.clean_error().says_any(&["does not exist", "container not running"]);
        assert!(!out.stderr.contains("being created"), "{out}");
        c.wait();
        nothing_left(t);
    });
}

/// A bundle whose process is not root, on the host or in a user namespace of its own.
fn ordinary_user(t: &Test, user_namespace: bool) -> Bundle {
    let mut b = t.bundle();
    if user_namespace {
        b.user_namespace();
    }
    b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    b
}

/// Pipes of an engine belong to root; a program that runs as somebody else must be able to open /dev/stdout.
#[test]
fn stdio_belongs_to_the_processs_user() {
    run_case(any(), |t| {
        for user_namespace in [false, true] {
            let mut b = ordinary_user(t, user_namespace);
            b.sh("echo out > /dev/stdout; echo err > /dev/stderr");
            let piped = ["sh", "-c", "{ \"$@\" 2>&3 | cat; } 3>&1 | cat", "sh"];
            let out = t.run_with(&b, &[]).wrap(&piped).run();
            let mut lines: Vec<_> = out.stdout.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["err", "out"], "{user_namespace}: {out}");
        }
    });
}

/// Without pivot_root the host's procfs must not let a namespace inside mount a fresh one without masks.
#[test]
fn no_pivot_leaves_no_whole_procfs() {
    run_case(any(), |t| {
        for user_namespace in [false, true] {
            let mut b = ordinary_user(t, user_namespace);
            b.set("/linux/maskedPaths", json!(["/proc/keys", "/proc/timer_list"]));
            b.sh("unshare -U -r -p -f -m sh -c 'mount -t proc proc /tmp && echo MOUNTED' 2>&1; echo done");
            fs::create_dir_all(b.rootfs().join("tmp")).unwrap();
            let out = t.run_with(&b, &["--no-pivot"]).run();
            assert!(
                out.stdout.contains("done") && !out.stdout.contains("MOUNTED"),
                "{user_namespace}: {out}"
            );
        }
    });
}

#[test]
fn f25_a_thousand_mounts_within_a_login_limit() {
    run_case(any().differs("runc", "passes its own raised limit on to the container"), |t| {
        let mut b = t.bundle();
        let dir = t.scratch("source");
        for number in 0..1000 {
            b.mount(&format!("/m/{number}"), "bind", dir.to_str().unwrap(), &["bind"]);
        }
        b.sh("grep -c ' /m/' /proc/self/mountinfo; ulimit -Sn");
        let out =
            t.run_with(&b, &[]).wrap(&["sh", "-c", "ulimit -Sn 1000; exec \"$@\"", "sh"]).deadline(60).run();
        assert_eq!(out.ok(), "1000\n1000\n");
    });
}

#[test]
fn a_working_directory_is_made_under_a_read_only_root() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/root/readonly", json!(true)).set("/process/cwd", json!("/new/work")).sh("pwd; touch x 2>&1");
        let out = t.run(&b);
        assert!(out.stdout.starts_with("/new/work\n") && out.stdout.contains("Read-only"), "{out}");
    });
}

/// Engines write `rw` on every volume: it must not take back what the host has put on the source.
#[test]
fn rw_on_a_bind_does_not_open_what_the_host_has_closed() {
    run_case(any().differs("crun", "rw opens what the host has closed"), |t| {
        let dir = t.scratch("closed");
        let mount = |flags| nix::mount::mount(Some(&dir), &dir, None::<&str>, flags, None::<&str>).unwrap();
        let bind = nix::mount::MsFlags::MS_BIND;
        mount(bind);
        let closed = nix::mount::MsFlags::MS_RDONLY | nix::mount::MsFlags::MS_NOSUID;
        mount(bind | nix::mount::MsFlags::MS_REMOUNT | closed);
        let mut b = t.bundle();
        b.mount("/v", "bind", dir.to_str().unwrap(), &["rbind", "rprivate", "rw"]);
        b.sh("touch /v/x 2>&1; grep ' /v ' /proc/self/mountinfo");
        let out = t.run(&b);
        nix::mount::umount(&dir).unwrap();
        assert!(out.stdout.contains("Read-only") && out.stdout.contains("ro,nosuid"), "{out}");
    });
}

#[test]
fn many_read_only_tmpfs_that_are_filled_first() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        for number in 0..20 {
            let target = format!("/t{number}");
            fs::create_dir(b.rootfs().join(&target[1..])).unwrap();
            b.mount(&target, "tmpfs", "tmpfs", &["ro", "tmpcopyup"]);
        }
        b.sh("for n in 0 19; do touch /t$n/x 2>/dev/null && echo open; done; echo done");
        assert_eq!(t.run(&b).ok(), "done\n");
    });
}
#[test]
fn joining_a_user_namespace_that_has_the_hosts_root_shows_nothing_before_the_command() {
    run_case(found(), |t| {
        let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
        let mut b = t.bundle();
        b.namespace("user", "").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        let c = attacker(t, with_ptrace(&mut b));
        let mut b = t.bundle();
        for kind in ["user", "pid"] {
            b.namespace(kind, c.proc(&format!("ns/{kind}")).to_str().unwrap());
        }
        b.sh("sleep 0.02");
        for _ in 0..30 {
            t.run(&b).ok();
        }
        let opened = opened(&c);
        let wrong: Vec<_> = opened
            .iter()
            .filter(|l| l.ends_with(" init") || l.ends_with(" runtime") || l.contains("coracle-init"))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn run_can_be_interrupted_in_a_start_container_hook() {
    run_case(found(), |t| {
        let mut b = t.bundle();
        let dir = shared(t, Some(&mut b));
        b.set("/hooks/startContainer", hanging(Path::new("/hooks")));
        let running = t.run_with(&b, &[]).deadline(10).spawn();
        t.wait_for(&dir, || dir.join("up").exists());
        kill(running.pid(), nix::sys::signal::Signal::SIGTERM);
        assert_ne!(running.wait().code, 0);
        nothing_left(t);
    });
}

// --- whose cgroup it is -------------------------------------------------------------------------------------

/// Two containers with the same `linux.cgroupsPath`, the second made when the first had ended.
#[test]
fn deleting_an_ended_container_spares_the_one_that_has_its_cgroup_now() {
    run_case(
        any()
            .differs("runc", "1.1.5: kill --all and delete of the ended one end the other")
            .differs("crun", "1.8.1: the same"),
        |t| {
            let mut b = t.bundle();
            b.set("/linux/cgroupsPath", json!(format!("/{}-shared", t.tag)));
            b.sh("exec sleep 1000");
            let first = t.create(&b);
            first.start();
            first.kill("KILL").ok();
            first.wait();
            let second = t.create(&b);
            second.start();
            t.rt(&["kill", "--all", &first.id, "KILL"]).run();
            t.rt(&["delete", &first.id]).run();
            assert_eq!(second.status(), "running");
        },
    );
}

/// The directory that a create has made is empty until its clone: another create must not take it for free.
#[test]
fn of_two_creates_with_one_cgroup_one_is_refused() {
    run_case(oar_only("with runc 1.1.5, which warns, and crun 1.8.1 both creates succeed"), |t| {
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{}-shared", t.tag)));
        b.sh("exec sleep 1000");
        let (first, slow) = t.creation(&b, &[]);
        // The socket pair comes between the cgroup and the clone.
        let slow = Held::after(t, slow, "socketpair", None);
        let mount = if runtime_tests::pure_v2() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
        assert!(Path::new(mount).join(format!("{}-shared", t.tag)).exists());
        t.try_create(&b).clean_error().says("in use");
        slow.go_on().ok();
        t.rt(&["start", &first]).run().ok();
    });
}

/// Nothing would ever run there; on v1 the runtime itself would be caught on its way in.
#[test]
fn a_cgroup_below_a_frozen_one_is_refused() {
    run_case(oar_only("not run on the peers: what hangs in a frozen v1 cgroup cannot be killed"), |t| {
        let (dir, file, frozen, thawed) = if runtime_tests::v1("freezer") {
            ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED")
        } else {
            ("/sys/fs/cgroup", "cgroup.freeze", "1", "0")
        };
        let parent = std::path::Path::new(dir).join(format!("{}-frozen", t.tag));
        fs::create_dir(&parent).unwrap();
        fs::write(parent.join(file), frozen).unwrap();
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{}-frozen/inner", t.tag)));
        let out = t.try_create(&b);
        fs::write(parent.join(file), thawed).unwrap();
        fs::remove_dir(&parent).unwrap();
        out.clean_error().says("frozen");
    });
}
