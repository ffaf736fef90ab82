// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns what is said when the program cannot be executed: in `create` or in `start`, never in silence.
//! Never accepts a success for a program that did not run.
//! Expectations come from DESIGN §3 (a truthful start) and engines.md §9.7 (words that mean 126 and 127).

use nix::mount::{MsFlags, mount};
use runtime_tests::{Bundle, Case, Kind, Out, Test, any, hand_made_elf, oar_only, run_case};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// What runc and crun 1.x cannot do: start says OK before execve.
fn truthful() -> Case {
    oar_only("start reports what execve said; the others have said success by then")
}

fn program(b: &Bundle, name: &str, content: &[u8], mode: u32) {
    let path = b.rootfs().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Fails by create + start and by run, with these words; nothing is left.
#[track_caller]
fn fails(t: &Test, b: &Bundle, words: &[&str]) {
    let check = |out: &Out| {
        out.failed();
        assert_eq!(out.stdout, "", "{out}");
        if t.kind == Kind::Oar {
            out.clean_error();
        }
        out.says_any(words);
    };
    check(&t.create_start(b));
    check(&t.run(b));
}

#[test]
fn missing_by_name() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.args(&["no-such-program"]);
        fails(t, &b, &["executable file not found in", "executable file `no-such-program` not found"]);
    });
}

#[test]
fn missing_by_path() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.args(&["/no/such/program"]);
        fails(t, &b, &["no such file or directory", "No such file or directory"]);
    });
}

#[test]
fn missing_fails_create_already() {
    run_case(any(), |t| {
        for program in ["no-such-program", "/no/such/program"] {
            let mut b = t.bundle();
            b.args(&[program]);
            t.try_create(&b).failed();
        }
    });
}

#[test]
fn not_executable() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        program(&b, "file", b"#!/bin/sh\n", 0o644);
        b.args(&["/file"]);
        fails(t, &b, &["permission denied", "Permission denied"]);
    });
}

#[test]
fn a_directory() {
    run_case(any().differs("crun", "1.8.1 lets start succeed"), |t| {
        let mut b = t.bundle();
        b.args(&["/etc"]);
        fails(t, &b, &["permission denied", "is a directory"]);
    });
}

#[test]
fn a_directory_in_words() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        b.args(&["/etc"]);
        let out = t.run(&b);
        out.clean_error().says("is a directory").says("permission denied");
    });
}

#[test]
fn words_for_missing_programs_do_not_mean_126() {
    run_case(truthful(), |t| {
        for name in ["no-such-program", "/no/such/program"] {
            let mut b = t.bundle();
            b.args(&[name]);
            let out = t.run(&b);
            out.clean_error().says(name);
            assert!(!out.stderr.contains("permission denied"), "{out}");
        }
    });
}

#[test]
fn script_with_a_missing_interpreter() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        program(&b, "script", b"#!/no/such/interpreter\n", 0o755);
        b.args(&["/script"]);
        fails(t, &b, &["no such file or directory"]);
        t.run(&b).says("/no/such/interpreter");
    });
}

#[test]
fn elf_with_a_missing_interpreter() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        program(&b, "elf", &hand_made_elf(62, Some("/lib/no-such-loader.so")), 0o755);
        b.args(&["/elf"]);
        fails(t, &b, &["no such file or directory"]);
        t.run(&b).says("/lib/no-such-loader.so");
    });
}

#[test]
fn the_hand_made_elf_itself_runs() {
    run_case(any().needs(cfg!(target_arch = "x86_64"), "x86_64: the program is machine code"), |t| {
        let mut b = t.bundle();
        program(&b, "elf", &hand_made_elf(62, None), 0o755);
        b.args(&["/elf"]);
        t.run(&b).expect_code(42);
    });
}

#[test]
fn foreign_architecture() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        program(&b, "elf", &hand_made_elf(0x1d3, None), 0o755); // no such machine
        b.args(&["/elf"]);
        fails(t, &b, &["exec format error"]);
    });
}

#[test]
fn neither_elf_nor_script() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        program(&b, "text", b"just some text\n", 0o755);
        b.args(&["/text"]);
        fails(t, &b, &["exec format error"]);
    });
}

#[test]
fn empty_file() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        program(&b, "empty", b"", 0o755);
        b.args(&["/empty"]);
        fails(t, &b, &["exec format error"]);
    });
}

#[test]
fn on_a_noexec_mount() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        let dir = t.scratch("programs");
        fs::copy(runtime_tests::busybox(), dir.join("busybox")).unwrap();
        b.mount("/p", "bind", dir.to_str().unwrap(), &["bind", "noexec"]);
        b.args(&["/p/busybox", "true"]);
        fails(t, &b, &["permission denied"]);
        t.run(&b).says("noexec");
    });
}

#[test]
fn interpreter_on_a_noexec_mount() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        let dir = t.scratch("programs");
        fs::copy(runtime_tests::busybox(), dir.join("sh")).unwrap();
        b.mount("/p", "bind", dir.to_str().unwrap(), &["bind", "noexec"]);
        program(&b, "script", b"#!/p/sh\n", 0o755);
        b.args(&["/script"]);
        fails(t, &b, &["permission denied"]);
    });
}

#[test]
fn a_root_that_is_noexec() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        let root = b.rootfs();
        mount(Some(&root), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOEXEC;
        mount(None::<&str>, &root, None::<&str>, flags, None::<&str>).unwrap();
        b.args(&["/bin/true"]);
        let out = t.run(&b);
        nix::mount::umount(&root).unwrap();
        out.clean_error().says("permission denied");
    });
}

#[test]
fn not_executable_for_this_user() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        program(&b, "mine", b"#!/bin/sh\nexit 0\n", 0o700);
        b.set("/process/user", runtime_tests::json!({"uid": 1000, "gid": 1000})).args(&["/mine"]);
        b.set("/process/capabilities", runtime_tests::json!({})); // CAP_DAC_OVERRIDE would execute it
        fails(t, &b, &["permission denied"]);
    });
}

#[test]
fn a_failed_run_keeps_nothing_and_a_failed_start_can_be_deleted() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        program(&b, "text", b"just some text\n", 0o755);
        b.args(&["/text"]);
        let c = t.create(&b);
        c.verb(&["start"]).clean_error();
        assert_eq!(c.status(), "stopped");
        c.verb(&["delete"]).ok();
    });
}

#[test]
fn too_long_arguments() {
    run_case(truthful(), |t| {
        let mut b = t.bundle();
        b.args(&["/bin/echo", &"x".repeat(200_000)]); // one string may have 131072 bytes
        fails(t, &b, &["argument list too long"]);
    });
}
