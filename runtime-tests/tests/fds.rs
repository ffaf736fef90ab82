// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns descriptors: what the program gets, what it must not get, and how it is told about them.
//! Never leaks a descriptor of the test process itself: a shell in front of the runtime opens them.
//! Expectations come from features.md §4, engines.md §0 (28, 30) and security.md T-7.

use runtime_tests::{Bundle, Console, Test, any, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;

/// ls opens the directory it lists, as 3 or the next free one; that one is left out.
const LIST: &str = "for f in /proc/$$/fd/*; do [ -e $f ] || [ -L $f ] && echo ${f##*/}; done; true";

fn listing(t: &Test) -> Bundle {
    let mut b = t.bundle();
    b.sh(LIST);
    b
}

/// A shell that opens `how` and then becomes the runtime.
fn shell(how: &str) -> [String; 4] {
    ["bash".into(), "-c".into(), format!("{how}; exec \"$@\""), "bash".into()]
}

fn wrap(how: &str, run: runtime_tests::Invocation) -> runtime_tests::Invocation {
    let shell = shell(how);
    run.wrap(&shell.iter().map(String::as_str).collect::<Vec<_>>())
}

/// As systemd does it: the process that has the descriptors is the one that LISTEN_PID names.
const LISTEN: &str = "export LISTEN_FDS=2 LISTEN_PID=$$";

const EVERYTHING: &str = "exec 3</ 4</etc/passwd 5</sys/fs/cgroup 20<>/dev/null 99</root 900</";

#[test]
fn t7_only_stdio_in_run() {
    run_case(any(), |t| {
        let out = wrap(EVERYTHING, t.run_with(&listing(t), &[])).run();
        assert_eq!(out.ok(), "0\n1\n2\n");
    });
}

#[test]
fn t7_only_stdio_in_create_and_start() {
    run_case(any(), |t| {
        let (id, run) = t.creation(&listing(t), &[]);
        let created = wrap(EVERYTHING, run).run();
        created.ok();
        let started = wrap(EVERYTHING, t.rt(&["start", &id])).run();
        started.ok();
        let file = created.stdout_path;
        t.wait_for(&t.dir, || fs::read_to_string(&file).unwrap().contains("2\n"));
        t.rt(&["delete", "--force", &id]).run().ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), "0\n1\n2\n");
    });
}

#[test]
fn t7_with_a_log_file_and_a_terminal() {
    run_case(any(), |t| {
        let mut b = listing(t);
        b.set("/process/terminal", json!(true));
        let console = Console::listen(&t.dir.join("console"));
        let (id, run) = t.creation(&b, &["--console-socket", t.dir.join("console").to_str().unwrap()]);
        wrap(EVERYTHING, run).run().ok();
        let received = console.receive();
        t.rt(&["start", &id]).run().ok();
        let text = received.read_until("2\r\n");
        t.rt(&["delete", "--force", &id]).run().ok();
        assert_eq!(text.replace('\r', ""), "0\n1\n2\n");
    });
}

#[test]
fn preserve_fds() {
    run_case(any(), |t| {
        let file = t.dir.join("given");
        fs::write(&file, "given\n").unwrap();
        let mut b = t.bundle();
        b.sh(&format!("{LIST}; cat <&4"));
        let how = format!("exec 3</dev/null 4<{} 5</ 6</", file.display());
        let out = wrap(&how, t.run_with(&b, &["--preserve-fds", "2"])).run();
        assert_eq!(out.ok(), "0\n1\n2\n3\n4\ngiven\n");
        let out = wrap(&how, t.run_with(&listing(t), &["--preserve-fds=0"])).run();
        assert_eq!(out.ok(), "0\n1\n2\n");
    });
}

#[test]
fn listen_fds() {
    run_case(any().differs("crun", "1.8.1 passes the descriptors, not the count"), |t| {
        let mut b = t.bundle();
        b.sh(&format!("echo $LISTEN_FDS $LISTEN_PID; {LIST}"));
        let out = wrap(&format!("{LISTEN}; exec 3</dev/null 4</dev/null 5</"), t.run_with(&b, &[])).run();
        assert_eq!(out.ok(), "2 1\n0\n1\n2\n3\n4\n");
    });
}

#[test]
fn listen_fds_and_preserve_fds_together() {
    run_case(any(), |t| {
        let out = wrap(
            &format!("{LISTEN}; exec 3</dev/null 4</dev/null 5</dev/null 6</"),
            t.run_with(&listing(t), &["--preserve-fds", "1"]),
        );
        assert_eq!(out.run().ok(), "0\n1\n2\n3\n4\n5\n");
    });
}

#[test]
fn closed_stdio_is_no_accident() {
    run_case(any().differs("crun", "1.8.1 fails at fchown of the closed one"), |t| {
        let mut b = t.bundle();
        b.sh("exit 5");
        // B-134: whatever the runtime opens must not become the container's stdin.
        wrap("exec <&-", t.run_with(&b, &[])).run().expect_code(5);
        wrap("exec <&- >&-", t.run_with(&b, &[])).run().expect_code(5);
    });
}

#[test]
fn t13_created_init_holds_nothing_of_the_host() {
    run_case(
        oar_only("T-13: in created, init has the root and the descriptors of the container only"),
        |t| {
            let c = {
                let (id, run) = t.creation(&t.bundle(), &[]);
                wrap(EVERYTHING, run).run().ok();
                id
            };
            let state: runtime_tests::Value = t.rt(&["state", &c]).run().ok().parse().unwrap();
            let pid = state["pid"].as_i64().unwrap();
            for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
                let number: i32 = fd.file_name().to_str().unwrap().parse().unwrap();
                let target = fs::read_link(fd.path()).unwrap();
                let text = target.to_string_lossy();
                let harmless =
                    text.starts_with("socket:") || text.starts_with("pipe:") || text.starts_with("/memfd:");
                let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
                let root = fs::metadata(format!("/proc/{pid}/root")).unwrap();
                let own_root = fs::metadata(fd.path()).is_ok_and(|m| same(&m, &root));
                assert!(number <= 2 || harmless || own_root, "{number} -> {text}");
            }
            assert_eq!(
                fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
                fs::read_link(format!("/proc/{pid}/root")).unwrap()
            );
        },
    );
}

#[test]
fn pidfd_socket() {
    let old = "this version has no --pidfd-socket";
    run_case(any().differs("runc", old).differs("crun", old), |t| {
        let socket = Console::listen(&t.dir.join("pidfd"));
        let c = t.create_with(&t.bundle(), &["--pidfd-socket", t.dir.join("pidfd").to_str().unwrap()]);
        let received = socket.receive();
        assert_eq!(received.fds.len(), 1);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&received.fds[0]);
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        assert!(info.lines().any(|l| l.split_whitespace().eq(["Pid:", &c.pid.to_string()])), "{info}");
    });
}

#[test]
fn sockets_of_the_caller_are_not_passed() {
    run_case(any(), |t| {
        let path = t.dir.join("listening");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut b = t.bundle();
        b.sh("ls -l /proc/self/fd | grep -c socket: ; exit 0");
        assert_eq!(t.run(&b).ok(), "0\n");
    });
}
