// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns terminals: the console socket of a detached container, and a foreground one that script(1) drives.
//! Never uses the terminal that the tests run in; there may be none.
//! Expectations come from config.md (terminal, consoleSize), engines.md §0 (11, 12) and features.md §4.

use runtime_tests::{Console, any, json, run_case};
use std::fs;

#[test]
fn console_socket_gets_the_master() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true));
        b.sh("tty; test -t 0 && test -t 1 && test -t 2 && echo all; read line; echo got $line; stat -c %t /dev/console");
        let console = Console::listen(&t.dir.join("console"));
        let c = t.create_with(&b, &["--console-socket", t.dir.join("console").to_str().unwrap()]);
        let received = console.receive();
        assert_eq!(received.fds.len(), 1, "exactly one descriptor");
        assert!(!received.bytes.is_empty() && received.bytes.len() < 4096, "a name beside it");
        c.start();
        let text = received.read_until("all");
        assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
        received.write("hello\n");
        let text = received.read_until("88");
        assert!(text.contains("got hello") && text.contains("88"), "major 136 of a pty: {text}");
        assert_eq!(c.wait(), 0);
    });
}

#[test]
fn console_size() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true))
            .set("/process/consoleSize", json!({"width": 123, "height": 45}));
        b.sh("stty size");
        let console = Console::listen(&t.dir.join("console"));
        let c = t.create_with(&b, &["--console-socket", t.dir.join("console").to_str().unwrap()]);
        let received = console.receive();
        c.start();
        let text = received.read_until("\n");
        assert!(text.contains("45 123"), "{text}");
        c.wait();
    });
}

#[test]
fn console_size_without_a_terminal_is_ignored() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/consoleSize", json!({"width": 123, "height": 45})).sh("test -t 0 || exit 3");
        t.run(&b).expect_code(3);
    });
}

#[test]
fn the_terminal_controls_the_session() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true));
        b.sh("trap 'echo int; exit 6' INT; echo up; while :; do sleep 1000 & wait $!; done");
        let console = Console::listen(&t.dir.join("console"));
        let c = t.create_with(&b, &["--console-socket", t.dir.join("console").to_str().unwrap()]);
        let received = console.receive();
        c.start();
        received.read_until("up");
        received.write("\u{3}"); // the line discipline turns it into SIGINT for the foreground group
        assert_eq!(c.wait(), 6);
    });
}

#[test]
fn the_slave_belongs_to_the_user() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true)).set("/process/user", json!({"uid": 1000, "gid": 1000}));
        b.sh("stat -L -c %u /proc/self/fd/0; echo done");
        let console = Console::listen(&t.dir.join("console"));
        let c = t.create_with(&b, &["--console-socket", t.dir.join("console").to_str().unwrap()]);
        let received = console.receive();
        c.start();
        let text = received.read_until("done");
        assert!(text.starts_with("1000"), "{text}");
        c.wait();
    });
}

#[test]
fn foreground_through_script() {
    let late = "may set the size after the program has started";
    run_case(any().differs("runc", late).differs("crun", late), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true)).sh("test -t 0 && echo terminal; stty size; exit 9");
        let id = t.id();
        t.write(&b, &id);
        let line = format!(
            "stty rows 31 cols 97; {} --root {} run --bundle {} {id}",
            t.runtime.display(),
            t.state_root().display(),
            b.dir.display()
        );
        let argv = ["script", "-q", "-e", "-c", &line, "/dev/null"].map(std::ffi::OsString::from);
        let out = t.program(argv.to_vec()).env("TERM", "xterm").run();
        out.expect_code(9);
        assert!(out.stdout.contains("terminal") && out.stdout.contains("31 97"), "{out}");
    });
}

#[test]
fn foreground_takes_input_through_script() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true)).sh("read a; echo got:$a; exit 0");
        let id = t.id();
        t.write(&b, &id);
        let input = t.dir.join("typed");
        fs::write(&input, "hello there\n").unwrap();
        let line = format!(
            "{} --root {} run --bundle {} {id}",
            t.runtime.display(),
            t.state_root().display(),
            b.dir.display()
        );
        let argv = ["script", "-q", "-e", "-c", &line, "/dev/null"].map(std::ffi::OsString::from);
        let out = t.program(argv.to_vec()).env("TERM", "xterm").stdin(&input).run();
        assert!(out.ok().contains("got:hello there"), "{out}");
    });
}

#[test]
fn no_terminal_no_controlling_terminal() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("cut -d' ' -f7 /proc/self/stat; (exec 3<>/dev/tty) 2>&1 | grep -c 'No such device'");
        assert_eq!(t.run(&b).ok(), "0\n1\n");
    });
}

#[test]
fn terminal_and_detached_need_a_console_socket() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true));
        t.try_create(&b).failed();
    });
}

#[test]
fn a_console_socket_needs_a_terminal() {
    run_case(any().differs("crun", "1.8.1 ignores the flag then"), |t| {
        let _console = std::os::unix::net::UnixListener::bind(t.dir.join("console")).unwrap();
        let (_, run) =
            t.creation(&t.bundle(), &["--console-socket", t.dir.join("console").to_str().unwrap()]);
        run.run().failed();
    });
}
