// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns what a seccomp profile does: to the calls of a program, to its start, and to the agent that answers for it.
//! Never looks at a filter: a rule is shown by the errno, the signal or the answer that a program gets.
//! Expectations come from config-linux.md (Seccomp), features.md §1.8 and issue 5.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime_tests::{
    Bundle, Case, Console, Kind, Out, Test, Value, any, hand_made_elf, hand_made_program, json, oar_only,
    run_case,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

/// A profile that allows what it does not name.
fn allowing(syscalls: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls})
}

fn bundle(t: &Test, profile: Value) -> Bundle {
    let mut b = t.bundle();
    fs::set_permissions(b.rootfs().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    b.set("/linux/seccomp", profile);
    b
}

/// Equivalent to the one that Docker has by default.
fn like_docker() -> Value {
    serde_json::from_str(include_str!("../../crates/seccomp/tests/like-docker.json")).unwrap()
}

/// Each way to load a filter: with and without no_new_privs, as root and as a user.
fn each_way(b: &Bundle, check: impl Fn(&Bundle, &str)) {
    for no_new_privs in [true, false] {
        for uid in [0, 1000] {
            let mut b = b.clone();
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            b.set("/process/user", json!({"uid": uid, "gid": uid}));
            check(&b, &format!("no_new_privs {no_new_privs}, uid {uid}"));
        }
    }
}

fn program(b: &Bundle, name: &str, content: &[u8]) {
    let path = b.rootfs().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_process_and_its_children_have_the_filter() {
    run_case(any(), |t| {
        let mut b = bundle(t, allowing(json!([])));
        b.sh("grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status");
        each_way(&b, |b, way| {
            let nnp = u8::from(way.starts_with("no_new_privs true"));
            assert_eq!(t.run(b).ok(), format!("NoNewPrivs:\t{nnp}\nSeccomp:\t2\n"), "{way}");
        });
    });
}

/// Where a process has every capability in its own namespace, and none to begin with outside of it.
#[test]
fn in_a_user_namespace() {
    run_case(any(), |t| {
        let rule = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16}]);
        let mut b = bundle(t, allowing(rule));
        b.user_namespace().args(&["mkdir", "/tmp/d"]);
        each_way(&b, |b, way| {
            let out = t.run(b);
            assert!(out.code == 1 && out.stderr.contains("Device or resource busy"), "{way}\n{out}");
        });
    });
}

#[test]
fn a_rule_has_its_own_errno() {
    run_case(any(), |t| {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16},
                {"names": ["unlink", "unlinkat"], "action": "SCMP_ACT_ERRNO"}
            ]
        });
        let mut b = bundle(t, profile);
        fs::create_dir(b.rootfs().join("tmp/there")).unwrap();
        b.sh("cd /tmp; mkdir new 2>&1; rmdir there 2>&1; >f$$; rm f$$ 2>&1; echo end");
        each_way(&b, |b, way| {
            let out = t.run(b);
            let lines: Vec<_> = out.ok().lines().collect();
            let words = ["Permission denied", "Device or resource busy", "Operation not permitted", "end"];
            assert_eq!(lines.len(), words.len(), "{way}\n{out}");
            for (line, words) in lines.iter().zip(words) {
                assert!(line.ends_with(words), "{way}\n{out}");
            }
        });
    });
}

#[test]
fn the_default_errno() {
    run_case(any(), |t| {
        let mut b = bundle(t, like_docker());
        b.set("/linux/seccomp/defaultErrnoRet", json!(38));
        b.set("/process/capabilities", json!({}));
        // unshare(2) is allowed with CAP_SYS_ADMIN only, and so no part of the profile.
        b.args(&["unshare", "-u", "true"]);
        let out = t.run(&b);
        out.expect_code(1).says("Function not implemented");
    });
}

#[test]
fn actions_that_end_or_tell() {
    run_case(any(), |t| {
        for (action, code) in [
            ("SCMP_ACT_KILL_PROCESS", 128 + 31),
            ("SCMP_ACT_KILL_THREAD", 128 + 31),
            ("SCMP_ACT_KILL", 128 + 31),
            ("SCMP_ACT_TRAP", 128 + 31),
            ("SCMP_ACT_LOG", 0),
            ("SCMP_ACT_ALLOW", 0),
        ] {
            let rule = json!([{"names": ["mkdir"], "action": action}, {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO"}]);
            let mut b = bundle(t, allowing(rule));
            b.args(&["mktemp", "-d", "/tmp/d.XXXXXX"]);
            each_way(&b, |b, way| {
                let out = t.run(b);
                assert_eq!(out.code, code, "{action}, {way}\n{out}");
            });
        }
    });
}

#[test]
fn trace_without_a_tracer_is_enosys() {
    run_case(any(), |t| {
        let rule = json!([{"names": ["mkdir"], "action": "SCMP_ACT_TRACE", "errnoRet": 7}]);
        let mut b = bundle(t, allowing(rule));
        b.args(&["mkdir", "/tmp/d"]);
        t.run(&b).expect_code(1).says("Function not implemented");
    });
}

#[test]
fn conditions_by_what_they_let_through() {
    run_case(any(), |t| {
        const NETLINK: u32 = 16;
        const FIFO: u32 = 0o010_000;
        const FORMAT: u32 = 0o170_000;
        let deny = |name: &str, index: u32, operator: &str, value: u32, value_two: u32| {
            json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args":
                [{"index": index, "value": value, "valueTwo": value_two, "op": operator}]})
        };
        let profile = allowing(json!([
            deny("socket", 0, "SCMP_CMP_EQ", NETLINK, 0),
            deny("mknodat", 2, "SCMP_CMP_MASKED_EQ", FORMAT, FIFO),
            deny("mknod", 1, "SCMP_CMP_MASKED_EQ", FORMAT, FIFO),
            deny("kill", 1, "SCMP_CMP_GT", 9, 0),
            deny("personality", 0, "SCMP_CMP_NE", 0, 0)
        ]));
        let mut b = bundle(t, profile);
        b.sh("cd /dev; ifconfig lo >/dev/null && echo inet; ip link >/dev/null 2>&1 || echo no netlink; \
              mknod null2 c 1 3 && echo device; mkfifo fifo 2>/dev/null || echo no fifo; \
              kill -0 $$ && echo 0; kill -USR1 $$ 2>/dev/null || echo no USR1; \
              linux64 true && echo linux64; linux32 true 2>/dev/null || echo no linux32");
        let wanted = "inet\nno netlink\ndevice\nno fifo\n0\nno USR1\nlinux64\nno linux32\n";
        for no_new_privs in [true, false] {
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            assert_eq!(t.run(&b).ok(), wanted);
        }
    });
}

/// exit(43) by int 0x80, the way of 32-bit programs; 42 by syscall is what [`hand_made_elf`] does.
const EXIT_AS_I386: &[u8] = &[0xb8, 1, 0, 0, 0, 0xbb, 43, 0, 0, 0, 0xcd, 0x80];
const EM_X86_64: u16 = 62;

#[test]
fn calls_of_an_architecture_that_is_not_named_are_killed() {
    run_case(any().needs(cfg!(target_arch = "x86_64"), "an x86_64 machine"), |t| {
        let mut b = t.bundle();
        program(&b, "i386", &hand_made_program(EM_X86_64, None, EXIT_AS_I386));
        program(&b, "native", &hand_made_elf(EM_X86_64, None));
        b.args(&["/i386"]);
        t.run(&b).expect_code(43);
        for no_new_privs in [true, false] {
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            b.set("/linux/seccomp", allowing(json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}])));
            b.set("/linux/seccomp/architectures", json!(["SCMP_ARCH_X86_64"]));
            b.args(&["/native"]);
            t.run(&b).expect_code(42);
            b.args(&["/i386"]);
            t.run(&b).expect_code(128 + 31);
            b.set("/linux/seccomp/architectures", json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
            t.run(&b).expect_code(43);
        }
    });
}

#[test]
fn like_dockers() {
    run_case(any(), |t| {
        let mut b = bundle(t, like_docker());
        b.set("/process/capabilities", json!({}));
        b.sh("id -u; ls /bin/busybox; cat /proc/self/comm; sleep 0 & wait; \
              unshare -u true 2>&1; mount -t tmpfs x /tmp 2>&1; true");
        each_way(&b, |b, way| {
            let out = t.run(b);
            let lines: Vec<_> = out.ok().lines().collect();
            assert_eq!(lines[1..3], ["/bin/busybox", "cat"], "{way}\n{out}");
            assert!(lines[3].ends_with("Operation not permitted"), "{way}\n{out}");
            assert!(lines[4].contains("permi") || lines[4].contains("denied"), "{way}\n{out}");
        });
        let c = t.create(&b);
        c.start();
        assert_eq!(c.wait(), 0);
    });
}

/// With no_new_privs, and nobody to notify, init does nothing under the filter but execve.
fn late() -> Case {
    oar_only("the others make calls of their own between the filter and execve")
}

/// What a static busybox' `echo` calls, execve included.
fn for_echo() -> Value {
    json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": [
        "arch_prctl", "brk", "execve", "exit_group", "getrandom", "getuid", "mprotect", "prctl", "prlimit64",
        "readlink", "readlinkat", "rseq", "set_robust_list", "set_tid_address", "write", "writev", "mmap"
    ]}]})
}

#[test]
fn a_profile_made_for_the_program_alone() {
    run_case(late(), |t| {
        let mut b = bundle(t, for_echo());
        b.args(&["echo", "hi"]);
        assert_eq!(t.run(&b).ok(), "hi\n");
        let c = t.create(&b);
        c.start();
        assert_eq!((c.wait(), c.output().as_str()), (0, "hi\n"));
        // CAP_SYS_ADMIN is as good as no_new_privs.
        let admin = json!(["CAP_SYS_ADMIN"]);
        b.set("/process/noNewPrivileges", json!(false));
        b.set("/process/capabilities", json!({"bounding": admin, "effective": admin, "permitted": admin}));
        assert_eq!(t.run(&b).ok(), "hi\n");
    });
}

/// By create + start and by run, whatever the filter does to the calls with which init could say so.
#[test]
fn a_failed_execve_is_told_under_any_filter() {
    run_case(late(), |t| {
        let execve = json!([{"names": ["execve"], "action": "SCMP_ACT_ALLOW"}]);
        for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE"] {
            let mut b = bundle(t, json!({"defaultAction": default, "syscalls": execve}));
            program(&b, "script", b"#!/no/such/interpreter\n");
            program(&b, "elf", &hand_made_elf(EM_X86_64, Some("/no/such/ld.so")));
            program(&b, "foreign", &hand_made_elf(183, None));
            program(&b, "text", b"text\n");
            for (name, words) in [
                ("/missing", "no such file or directory"),
                ("/script", "\"/no/such/interpreter\" of its #! line: no such file or directory"),
                ("/elf", "\"/no/such/ld.so\" in its ELF header: no such file or directory"),
                ("/foreign", "it is for aarch64"),
                ("/text", "exec format error"),
            ] {
                b.args(&[name]);
                let told = |out: &Out| {
                    out.clean_error().says(name).says(words);
                };
                told(&t.run(&b));
                told(&t.create_start(&b));
            }
        }
    });
}

/// What init itself calls under a filter that is there before the capabilities go; nothing else, whatever comes later.
const UNDER_AN_EARLY_FILTER: [&str; 9] =
    ["accept4", "capget", "capset", "close", "execve", "poll", "prctl", "recvmsg", "sendmsg"];

/// Without no_new_privs and CAP_SYS_ADMIN: `for_echo` with these calls too.
fn early(t: &Test, more: &[&str]) -> Bundle {
    let mut profile = for_echo();
    // Busybox gives up what a set-user-ID bit may have brought.
    for names in [more, &["setgid", "setuid", "getgid", "newfstatat"]] {
        profile["syscalls"].as_array_mut().unwrap().push(json!({"names": names, "action": "SCMP_ACT_ALLOW"}));
    }
    let mut b = bundle(t, profile);
    fs::create_dir_all(b.rootfs().join("etc")).unwrap();
    fs::write(b.rootfs().join("etc/passwd"), "u:x:1000:1000::/home/u:/bin/sh\n").unwrap();
    b.set("/process/noNewPrivileges", json!(false));
    b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    b
}

#[test]
fn before_the_capabilities_go_init_has_done_what_a_filter_could_forbid() {
    run_case(oar_only("the others make calls of their own after the filter"), |t| {
        let mut b = early(t, &UNDER_AN_EARLY_FILTER);
        b.set("/process/env", json!(["PATH=/bin"])).args(&["echo", "hi"]);
        assert_eq!(t.run(&b).ok(), "hi\n");
        let c = t.create(&b);
        c.start();
        assert_eq!((c.wait(), c.output().as_str()), (0, "hi\n"));
        // Found in /etc/passwd before openat2(2) was forbidden.
        b.args(&["busybox", "env"]);
        assert_eq!(t.run(&b).ok(), "PATH=/bin\nHOME=/home/u\n");
        // What the file looked like, too.
        program(&b, "script", b"#!/no/such/interpreter\n");
        b.args(&["/script"]);
        for out in [t.run(&b), t.create_start(&b)] {
            out.clean_error().says("\"/no/such/interpreter\" of its #! line: no such file or directory");
        }
        b.args(&["missing"]);
        t.try_create(&b).clean_error().says("executable file not found in $PATH");
    });
}

#[test]
fn profiles_from_before_the_newer_calls() {
    run_case(any(), |t| {
        let mut profile = like_docker();
        for rule in profile["syscalls"].as_array_mut().unwrap() {
            let newer = ["close_range", "openat2", "faccessat2", "clone3", "epoll_pwait2", "statx"];
            rule["names"].as_array_mut().unwrap().retain(|name| !newer.contains(&name.as_str().unwrap()));
        }
        profile["syscalls"].as_array_mut().unwrap().retain(|rule| rule["names"] != json!([]));
        let mut b = bundle(t, profile);
        b.set("/process/capabilities", json!({}));
        b.args(&["echo", "hi"]);
        each_way(&b, |b, way| assert_eq!(t.run(b).ok(), "hi\n", "{way}"));
        let c = t.create(&b);
        c.start();
        assert_eq!((c.wait(), c.output().as_str()), (0, "hi\n"));
        // The hook's process is a copy of init's.
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo hook > /tmp/hook"]}]);
        b.set("/hooks/startContainer", hook).args(&["cat", "/tmp/hook"]);
        assert_eq!(t.run(&b).ok(), "hook\n");
    });
}

/// A *created* container is one that waits, not one whose init the filter is about to end.
#[test]
fn a_filter_that_forbids_the_wait_is_told_by_create() {
    run_case(oar_only("the calls are those of oar's init"), |t| {
        for missing in UNDER_AN_EARLY_FILTER.iter().filter(|name| **name != "execve") {
            let more: Vec<&str> =
                UNDER_AN_EARLY_FILTER.iter().copied().filter(|name| name != missing).collect();
            let mut b = early(t, &more);
            b.args(&["echo", "hi"]);
            if *missing == "prctl" {
                b.set("/linux/seccomp/syscalls/0/names", json!(["execve"]));
            }
            for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE"] {
                b.set("/linux/seccomp/defaultAction", json!(action));
                let out = t.try_create(&b);
                out.clean_error().says("hint: linux.seccomp may forbid");
                assert!(!out.stderr.contains("not found"), "{missing}, {action}\n{out}");
            }
        }
    });
}

#[test]
fn a_filter_that_forbids_what_init_needs_is_named() {
    run_case(oar_only("the step, and what helps"), |t| {
        let mut b = bundle(t, for_echo());
        b.set("/process/noNewPrivileges", json!(false)).args(&["echo", "hi"]);
        t.try_create(&b).clean_error().says("SIGSYS").says("hint: linux.seccomp");
        b.set("/linux/seccomp/defaultAction", json!("SCMP_ACT_ERRNO"));
        let told = |out: Out| {
            out.clean_error().says("step ").says("process.capabilities").says("hint: linux.seccomp");
        };
        told(t.try_create(&b));
        told(t.run(&b));
    });
}

#[test]
fn a_profile_under_which_nothing_can_run_is_refused() {
    run_case(oar_only("the reason, before anything is made"), |t| {
        let b = bundle(t, json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}));
        t.try_create(&b).clean_error().says("linux.seccomp: execve is answered SCMP_ACT_KILL_PROCESS");
    });
}

#[test]
fn unknown_names_are_skipped() {
    run_case(any(), |t| {
        let rule =
            json!([{"names": ["from_the_future", "mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16}]);
        let mut b = bundle(t, allowing(rule));
        b.args(&["mkdir", "/tmp/d"]);
        t.run(&b).expect_code(1).says("Device or resource busy");
    });
}

#[test]
fn unknown_names_are_listed_with_debug_and_refused_with_strict() {
    run_case(oar_only("--debug lists them, --strict refuses them"), |t| {
        let rule = json!([{"names": ["mkdir", "from_the_future"], "action": "SCMP_ACT_ERRNO"}]);
        let mut b = bundle(t, allowing(rule));
        b.args(&["true"]);
        assert_eq!(t.run(&b).expect_code(0).stderr, "");
        let place = "linux.seccomp.syscalls[0].names[1]";
        t.run_with(&b, &["--strict"]).run().clean_error().says(place).says("from_the_future");
        let (_, run) = t.creation_as(&["--debug"], &b, &["--dry-run"]);
        run.run().ok();
        let id = t.id();
        t.write(&b, &id);
        let out = t.rt(&["--debug", "run", "--bundle", b.dir.to_str().unwrap(), &id]).run();
        assert_eq!(out.stderr.matches("from_the_future").count(), 1, "{out}");
    });
}

#[test]
fn flags() {
    run_case(any().differs("runc", "1.1.5 knows no flags"), |t| {
        let mut b = bundle(t, allowing(json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}])));
        b.args(&["grep", "Speculation_Store_Bypass", "/proc/self/status"]);
        for flags in [
            json!([]),
            json!(["SECCOMP_FILTER_FLAG_LOG"]),
            json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"]),
        ] {
            b.set("/linux/seccomp/flags", flags);
            each_way(&b, |b, _| {
                t.run(b).ok();
            });
        }
    });
}

#[test]
fn the_dry_run_shows_the_filter() {
    run_case(oar_only("--dry-run"), |t| {
        let mut b = bundle(t, like_docker());
        b.set("/process/noNewPrivileges", json!(true));
        let (_, run) = t.creation(&b, &["--dry-run"]);
        let out = run.run();
        let line = out.ok().lines().find(|line| line.contains("load the seccomp filter")).unwrap().to_owned();
        for words in [" instructions", "x86_64+x86+x32", "SCMP_ACT_ERRNO 1", "(linux.seccomp)"] {
            assert!(line.contains(words), "{line}");
        }
    });
}

#[test]
fn features_list_what_there_is() {
    run_case(oar_only("the document of the specification, in full"), |t| {
        let document: Value = serde_json::from_str(t.rt(&["features"]).run().ok()).unwrap();
        let seccomp = &document["linux"]["seccomp"];
        assert_eq!(seccomp["enabled"], true);
        for (list, name) in [
            ("actions", "SCMP_ACT_NOTIFY"),
            ("operators", "SCMP_CMP_MASKED_EQ"),
            ("archs", "SCMP_ARCH_RISCV64"),
            ("knownFlags", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
            ("supportedFlags", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
        ] {
            assert!(seccomp[list].as_array().unwrap().contains(&json!(name)), "{list}: {seccomp}");
        }
    });
}

/// Answers EACCES to mkdir, and lets every other call go on; it ends with the case. Perl, because the suite has no
/// unsafe code, and an ioctl(2) is that.
struct Agent(Child);

const ANSWERS: &str = r#"
    $| = 1;
    for (;;) {
        my $request = "\0" x 80;
        defined ioctl(STDIN, 0xc0502100, $request) or last;
        my ($id, $pid, $flags, $number) = unpack("QLLl", $request);
        print "$number\n";
        my $answer = $number == 83 ? pack("QqlL", $id, 0, -13, 0) : pack("QqlL", $id, 0, 0, 1);
        ioctl(STDIN, 0xc0182101, $answer);
    }
"#;

impl Agent {
    fn answer(listener: rustix::fd::OwnedFd, seen: &std::path::Path) -> Self {
        let seen = fs::File::create(seen).unwrap();
        let mut perl = Command::new("perl");
        perl.args(["-e", ANSWERS]).stdin(listener).stdout(seen).stderr(Stdio::null());
        Agent(perl.spawn().expect("perl, which Debian always has"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok(); // It may have ended with the last process under the filter.
        self.0.wait().unwrap();
    }
}

/// Calls that init makes while it waits for start, and after it.
const OF_INIT: [&str; 12] = [
    "sendmsg",
    "recvmsg",
    "fcntl",
    "close",
    "poll",
    "accept4",
    "prctl",
    "capset",
    "openat2",
    "close_range",
    "mmap",
    "execve",
];

/// A bundle whose mkdir, and these calls, go to an agent; and where that listens.
fn notifying(t: &Test, more: &[&str], n: usize) -> (Bundle, Console) {
    let names: Vec<&str> = ["mkdir"].iter().chain(more).copied().collect();
    let mut b = bundle(t, allowing(json!([{"names": names, "action": "SCMP_ACT_NOTIFY"}])));
    let path = t.dir.join(format!("agent-{n}.sock"));
    b.set("/linux/seccomp/listenerPath", json!(path))
        .set("/linux/seccomp/listenerMetadata", json!("for the agent"));
    b.set("/annotations", json!({"a": "b"}));
    b.sh("mkdir /tmp/d 2>&1; mkdir /tmp/d 2>/dev/null || echo again");
    (b, Console::listen(&path))
}

#[track_caller]
fn answered(t: &Test, no_new_privs: bool, uid: u32, more: &[&str], n: usize) {
    let (b, console) = notifying(t, more, n);
    answers(t, b, console, no_new_privs, uid, more, n);
}

#[track_caller]
fn answers(t: &Test, mut b: Bundle, console: Console, no_new_privs: bool, uid: u32, more: &[&str], n: usize) {
    b.set("/process/noNewPrivileges", json!(no_new_privs));
    b.set("/process/user", json!({"uid": uid, "gid": uid}));
    let (id, create) = t.creation(&b, &[]);
    let create = create.spawn();
    let mut received = console.receive();
    let message: Value = serde_json::from_slice(&received.bytes).unwrap();
    let seen = t.dir.join(format!("seen-{n}"));
    let _agent = Agent::answer(received.fds.remove(0), &seen);
    assert!(received.fds.is_empty());
    let c = t.container(id.clone(), &b, create.wait());
    assert_eq!(message["fds"], json!(["seccompFd"]), "{message}");
    assert_eq!(message["metadata"], "for the agent", "{message}");
    assert_eq!(message["pid"], c.pid, "{message}");
    let state = &message["state"];
    assert_eq!((&state["id"], &state["status"]), (&json!(id), &json!("creating")), "{message}");
    assert_eq!((&state["pid"], &state["annotations"]["a"]), (&json!(c.pid), &json!("b")), "{message}");
    assert_eq!(state["bundle"], json!(b.dir), "{message}");
    assert!(message["ociVersion"].is_string() && state["ociVersion"].is_string(), "{message}");
    assert_eq!(c.status(), "created");
    c.start();
    assert_eq!(c.wait(), 0);
    assert_eq!(c.output(), "mkdir: can't create directory '/tmp/d': Permission denied\nagain\n");
    let seen = fs::read_to_string(seen).unwrap();
    assert_eq!(seen.lines().filter(|number| *number == "83").count(), 2, "{seen}");
    if no_new_privs && more.is_empty() {
        assert_eq!(seen.lines().count(), 2, "{seen}");
    }
}

#[test]
fn an_agent_answers() {
    run_case(any().differs("crun", "1.8.1 connects, and sends nothing in create"), |t| {
        for (n, (no_new_privs, uid)) in
            [(true, 0), (true, 1000), (false, 0), (false, 1000)].into_iter().enumerate()
        {
            answered(t, no_new_privs, uid, &[], n);
        }
    });
}

#[test]
fn an_agent_answers_for_a_user_namespace() {
    run_case(any().differs("crun", "1.8.1 connects, and sends nothing in create"), |t| {
        for (n, (no_new_privs, uid)) in
            [(true, 0), (true, 1000), (false, 0), (false, 1000)].into_iter().enumerate()
        {
            let (mut b, console) = notifying(t, &[], n);
            b.user_namespace();
            answers(t, b, console, no_new_privs, uid, &[], n);
        }
    });
}

#[test]
fn notify_on_what_init_itself_calls_does_not_hang() {
    run_case(oar_only("the parent takes the listener, and init makes no call before that"), |t| {
        for (n, (no_new_privs, uid)) in
            [(true, 0), (true, 1000), (false, 0), (false, 1000)].into_iter().enumerate()
        {
            answered(t, no_new_privs, uid, &OF_INIT, n);
        }
        for (n, name) in OF_INIT.iter().enumerate() {
            answered(t, n % 2 == 0, 0, &[name], 10 + n);
        }
    });
}

#[test]
fn run_has_an_agent_too() {
    run_case(any(), |t| {
        let (b, console) = notifying(t, &[], 0);
        let run = t.run_with(&b, &[]).spawn();
        let mut received = console.receive();
        let agent = Agent::answer(received.fds.remove(0), &t.dir.join("seen"));
        let out = run.wait();
        drop(agent);
        assert!(out.ok().starts_with("mkdir: can't create directory '/tmp/d': Permission denied"), "{out}");
    });
}

/// Init waits for an agent that never answers; it must not outlive the runtime that nobody has heard of yet.
#[test]
fn a_runtime_that_is_killed_takes_a_waiting_init_along() {
    run_case(oar_only("init dies with its runtime until it is on record"), |t| {
        for (n, no_new_privs) in [true, false].into_iter().enumerate() {
            let (mut b, console) = notifying(t, &["recvmsg", "sendmsg"], n);
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            let (id, create) = t.creation(&b, &[]);
            let create = create.spawn();
            let received = console.receive();
            let message: Value = serde_json::from_slice(&received.bytes).unwrap();
            let pid = message["pid"].as_i64().unwrap() as i32;
            let runtime = Pid::from_raw(create.pid());
            kill(runtime, Signal::SIGKILL).unwrap();
            create.wait().expect_code(128 + 9);
            assert_eq!(t.wait_pid(pid), 128 + 9);
            t.rt(&["delete", "--force", &id]).run().ok();
        }
    });
}

/// Nobody holds the listener but the agent, so that its end is ENOSYS for those who wait, not a wait without end.
#[test]
fn an_agent_that_is_gone_is_enosys() {
    run_case(any(), |t| {
        let (b, console) = notifying(t, &[], 0);
        let run = t.run_with(&b, &[]).spawn();
        drop(console.receive());
        let out = run.wait();
        assert!(out.ok().contains("Function not implemented"), "{out}");
    });
}

#[test]
fn a_listener_that_nobody_has_is_an_error_without_effects() {
    run_case(any(), |t| {
        let (mut b, console) = notifying(t, &[], 0);
        b.set("/linux/seccomp/listenerPath", json!(t.dir.join("absent.sock")));
        let out = t.try_create(&b);
        out.failed();
        if t.kind == Kind::Oar {
            out.clean_error().says("linux.seccomp.listenerPath").says("no such file or directory");
        }
        // So that the thread that listens ends.
        drop(std::os::unix::net::UnixStream::connect(&console.path).unwrap());
    });
}

/// Killed in an execve that waits for an agent: that is no start.
#[test]
fn a_container_killed_before_its_execve_has_not_started() {
    run_case(oar_only("that start knows of the execve is a promise of oar"), |t| {
        let (mut b, console) = notifying(t, &["execve"], 0);
        b.set("/process/noNewPrivileges", json!(true));
        let (id, create) = t.creation(&b, &[]);
        let create = create.spawn();
        let received = console.receive();
        let c = t.container(id.clone(), &b, create.wait());
        let start = t.rt(&["start", &id]).spawn();
        let mut listener = [PollFd::new(&received.fds[0], PollFlags::IN)];
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut listener, Some(&patience)), Ok(1), "nobody asks the agent");
        c.kill("KILL").ok();
        start.wait().failed().says("kill");
    });
}

/// They run files of the container.
#[test]
fn start_container_hooks_are_under_the_filter() {
    run_case(any(), |t| {
        let mut b =
            bundle(t, allowing(json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}])));
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "grep ^Seccomp: /proc/self/status > /tmp/hook"]}]);
        b.set("/hooks/startContainer", hook);
        b.sh("cat /tmp/hook");
        for no_new_privs in [true, false] {
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            assert_eq!(t.run(&b).ok().split_whitespace().last(), Some("2"), "no_new_privs {no_new_privs}");
        }
    });
}

/// A rule that answers init's own calls with success without doing them: no false success, and nothing that waits or spins.
#[test]
fn calls_of_init_that_only_seem_to_succeed_are_an_error() {
    run_case(oar_only("the calls are those of oar's init"), |t| {
        let both = ["capset", "capget"];
        let one = ["poll", "accept4", "sendmsg", "recvmsg", "close", "prctl", "capset", "capget"];
        for names in one.iter().map(std::slice::from_ref).chain([&both[..]]) {
            let mut b =
                bundle(t, allowing(json!([{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 0}])));
            // Without no_new_privs the filter is there before the capabilities go, and so for the wait as well.
            b.set("/process/noNewPrivileges", json!(false));
            b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
            b.sh("exit 0");
            let (id, create) = t.creation(&b, &[]);
            create.deadline(20).run().clean_error();
            t.rt(&["state", &id]).run().failed().says("does not exist");
        }
    });
}

/// Addresses, descriptors and processes that are none: nothing crashes, and nothing takes them for its own.
#[test]
fn answers_of_an_agent_that_cannot_be_the_kernels_are_an_error() {
    run_case(oar_only("the calls are those of oar's init"), |t| {
        for names in [["mmap", "memfd_create"], ["clone", "clone3"]] {
            let rule = json!([{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 0}]);
            let mut b = bundle(t, allowing(rule));
            b.set("/process/noNewPrivileges", json!(true));
            // Its process takes all of these calls, under the filter.
            b.set("/hooks/startContainer", json!([{"path": "/bin/true", "args": ["true"]}]));
            b.args(&["true"]);
            let out = t.run_with(&b, &[]).deadline(20).run();
            out.clean_error().says("startContainer").says("hint: linux.seccomp may forbid");
        }
    });
}

/// The agent that a listener was sent to, and that never answers.
struct Silent {
    listener: rustix::fd::OwnedFd,
}

impl Silent {
    fn hears(console: Console) -> Self {
        Silent { listener: console.receive().fds.remove(0) }
    }

    /// Somebody waits for its answer.
    #[track_caller]
    fn is_asked(&self) {
        let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut listener, Some(&patience)), Ok(1), "nobody asks the agent");
    }
}

#[test]
fn a_create_that_waits_for_an_agent_ends_by_a_signal() {
    run_case(oar_only("what was made is taken back"), |t| {
        for (n, no_new_privs) in [true, false].into_iter().enumerate() {
            let (mut b, console) = notifying(t, &["recvmsg", "sendmsg"], n);
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            let (id, create) = t.creation(&b, &[]);
            let create = create.deadline(30).spawn();
            let agent = Silent::hears(console);
            agent.is_asked();
            signal(create.pid(), Signal::SIGTERM);
            create.wait().clean_error().says("interrupted by signal 15");
            t.rt(&["state", &id]).run().failed().says("does not exist");
        }
    });
}

#[test]
fn an_exec_that_waits_for_an_agent_ends_by_a_signal() {
    run_case(oar_only("what was made is taken back"), |t| {
        for (n, call) in ["recvmsg", "execve"].into_iter().enumerate() {
            let (mut b, console) = notifying(t, &[call], n);
            b.set("/process/noNewPrivileges", json!(true)).args(&["sleep", "100"]);
            let (id, create) = t.creation(&b, &[]);
            let create = create.spawn();
            let path = console.path.clone();
            let mut first = console.receive();
            let _first = Agent::answer(first.fds.remove(0), &t.dir.join(format!("first-{n}")));
            let c = t.container(id.clone(), &b, create.wait());
            c.start();
            fs::remove_file(&path).unwrap();
            for flags in [&[][..], &["--detach"][..]] {
                let console = Console::listen(&path);
                let exec = t.rt(&[&["exec"], flags, &[&id, "/bin/true"]].concat()).deadline(30).spawn();
                let agent = Silent::hears(console);
                agent.is_asked();
                signal(exec.pid(), Signal::SIGTERM);
                exec.wait().failed().says("interrupted by signal 15");
                fs::remove_file(&path).unwrap();
                // Nothing of it is left in the container.
                let shown = c.nsenter(&["/bin/busybox", "ps", "-o", "comm"]);
                assert!(!shown.contains("oar-init"), "{call}, {flags:?}\n{shown}");
            }
        }
    });
}

/// execve(2) waits for an agent: signals are for the command, but not for ever.
#[test]
fn a_start_that_waits_for_an_agent_ends_by_a_signal() {
    run_case(oar_only("that start waits for execve is a promise of oar"), |t| {
        let (mut b, console) = notifying(t, &["execve"], 0);
        b.set("/process/noNewPrivileges", json!(true));
        let run = t.run_with(&b, &[]).deadline(30).spawn();
        let agent = Silent::hears(console);
        agent.is_asked();
        signal(run.pid(), Signal::SIGINT);
        run.wait().clean_error().says("interrupted by signal 2");
        assert_eq!(fs::read_dir(t.state_root()).unwrap().count(), 0);

        let (mut b, console) = notifying(t, &["execve"], 1);
        b.set("/process/noNewPrivileges", json!(true));
        let (id, create) = t.creation(&b, &[]);
        let create = create.spawn();
        let agent = Silent::hears(console);
        let c = t.container(id.clone(), &b, create.wait());
        let start = t.rt(&["start", &id]).deadline(30).spawn();
        agent.is_asked();
        signal(start.pid(), Signal::SIGTERM);
        start.wait().clean_error().says("interrupted by signal 15").says("hint: its process goes on");
        c.verb(&["delete", "--force"]).ok();
    });
}

#[track_caller]
fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Go's encoders write an object without a rule for "no profile". An action is what makes one.
#[test]
fn an_object_without_action_and_rules_is_no_profile() {
    run_case(any().differs("crun", "1.8.1 wants a defaultAction"), |t| {
        let mut b = t.bundle();
        b.args(&["grep", "^Seccomp:", "/proc/self/status"]);
        for none in
            [json!({}), json!({"defaultAction": "", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []})]
        {
            b.set("/linux/seccomp", none);
            assert_eq!(t.run(&b).ok(), "Seccomp:\t0\n");
        }
        let rules = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]);
        for profile in [json!({"syscalls": rules}), json!({"defaultAction": "", "syscalls": rules})] {
            b.set("/linux/seccomp", profile);
            let out = t.try_create(&b);
            out.failed();
            if t.kind == Kind::Oar {
                out.clean_error().says("linux.seccomp.defaultAction: is missing: there are rules");
            }
        }
        b.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": ""}]}),
        );
        let out = t.try_create(&b);
        out.failed();
        if t.kind == Kind::Oar {
            out.clean_error().says("linux.seccomp.syscalls[0].action: is not an action (it is empty)");
        }
    });
}

/// The filter of the container, in every way to load it; and it is the profile's: mkdir is refused.
#[test]
fn exec_has_the_filter() {
    run_case(any(), |t| {
        let mut profile = like_docker();
        let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16});
        for rule in profile["syscalls"].as_array_mut().unwrap() {
            rule["names"].as_array_mut().unwrap().retain(|name| !name.as_str().unwrap().starts_with("mkdir"));
        }
        profile["syscalls"].as_array_mut().unwrap().push(rule);
        let mut b = bundle(t, profile);
        b.set("/process/capabilities", json!({}));
        b.args(&["sleep", "100"]);
        each_way(&b, |b, way| {
            let c = t.create(b);
            c.start();
            let script = "grep ^Seccomp: /proc/self/status; mkdir /tmp/d 2>&1";
            let out = t.rt(&["exec", &c.id, "/bin/sh", "-c", script]).run();
            assert_eq!(out.code, 1, "{way}\n{out}");
            assert!(out.stdout.starts_with("Seccomp:\t2\n"), "{way}\n{out}");
            assert!(out.stdout.contains("Device or resource busy"), "{way}\n{out}");
        });
    });
}

/// Before its capabilities go, and after that it becomes a process of the pid namespace: clone(2), and what it takes to
/// tell of it.
#[test]
fn exec_needs_little_under_an_early_filter() {
    run_case(oar_only("the others make calls of their own after the filter"), |t| {
        let more =
            [&UNDER_AN_EARLY_FILTER[..], &["clone", "setsid", "exit_group", "nanosleep", "clock_nanosleep"]]
                .concat();
        let mut b = early(t, &more);
        b.args(&["sleep", "100"]);
        let c = t.create(&b);
        c.start();
        assert_eq!(t.rt(&["exec", &c.id, "/bin/echo", "hi"]).run().ok(), "hi\n");
    });
}

#[test]
fn exec_has_an_agent_too() {
    run_case(any().differs("crun", "1.8.1 connects, and sends nothing in create"), |t| {
        for (n, no_new_privs) in [true, false].into_iter().enumerate() {
            let (mut b, console) = notifying(t, &[], n);
            b.set("/process/noNewPrivileges", json!(no_new_privs)).args(&["sleep", "100"]);
            let (id, create) = t.creation(&b, &[]);
            let create = create.spawn();
            let path = console.path.clone();
            let mut first = console.receive();
            let _first = Agent::answer(first.fds.remove(0), &t.dir.join(format!("first-{n}")));
            let c = t.container(id.clone(), &b, create.wait());
            c.start();
            fs::remove_file(&path).unwrap();
            let console = Console::listen(&path);
            let exec = t.rt(&["exec", &id, "/bin/mkdir", "/tmp/d"]).spawn();
            let mut received = console.receive();
            let message: Value = serde_json::from_slice(&received.bytes).unwrap();
            assert_eq!(message["state"]["id"], json!(id), "{message}");
            let _agent = Agent::answer(received.fds.remove(0), &t.dir.join(format!("seen-{n}")));
            exec.wait().expect_code(1).says("Permission denied");
        }
    });
}

/// A cgroup in every hierarchy that is an ordinary user's, with one in it for the user's own processes; gone with the
/// value.
struct Delegated {
    directories: Vec<std::path::PathBuf>,
}

impl Delegated {
    fn make(name: &str, user: u32) -> Self {
        let root = std::path::PathBuf::from("/sys/fs/cgroup");
        let is_hierarchy = |at: &std::path::PathBuf| at.join("cgroup.procs").exists() && !at.is_symlink();
        let directories: Vec<_> = if is_hierarchy(&root) {
            vec![root]
        } else {
            fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(is_hierarchy).collect()
        };
        let delegated = Delegated { directories: directories.iter().map(|at| at.join(name)).collect() };
        for directory in &delegated.directories {
            for at in [directory.clone(), directory.join("own")] {
                fs::create_dir(&at).unwrap();
                // An empty cpuset takes no process.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(all) = fs::read(at.parent().unwrap().join(file)) {
                        fs::write(at.join(file), all).ok(); // cgroup2 has all without a word
                    }
                }
                for at in [at.clone()]
                    .into_iter()
                    .chain(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()))
                {
                    std::os::unix::fs::chown(at, Some(user), Some(user)).unwrap();
                }
            }
        }
        delegated
    }

    /// A shell script that enters it, and becomes the user for the rest of the command line.
    fn enter(&self, user: u32) -> String {
        let enter = |at: &std::path::PathBuf| format!("echo $$ > {}/own/cgroup.procs; ", at.display());
        let entered: String = self.directories.iter().map(enter).collect();
        format!(
            "set -e; {entered} exec setpriv --reuid {user} --regid {user} --clear-groups --inh-caps=-all \"$@\""
        )
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for directory in &self.directories {
            for at in [directory.join("own"), directory.clone()] {
                fs::remove_dir(&at).unwrap_or_else(|error| eprintln!("{}: {error}", at.display()));
            }
        }
    }
}

/// The listener of a process in one's own user namespace can be taken without a privilege.
#[test]
fn an_ordinary_user_has_an_agent() {
    run_case(any(), |t| {
        const USER: u32 = 1000;
        let delegated = Delegated::make(&t.tag, USER);
        for no_new_privs in [true, false] {
            let (mut b, console) = notifying(t, &[], usize::from(no_new_privs));
            b.without_namespace("network").namespace("user", "").unmount("/sys").unmount("/dev/pts");
            let map = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
            b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
            b.set("/linux/cgroupsPath", json!(format!("/{}/c", t.tag)));
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            b.write();
            let state = t.scratch("users-state");
            let own = |at: &std::path::Path| std::os::unix::fs::chown(at, Some(USER), Some(USER)).unwrap();
            [&state, &b.dir, &b.rootfs(), &console.path].into_iter().for_each(|at| own(at));
            let (state, dir) = (state.to_str().unwrap(), b.dir.to_str().unwrap());
            let run = t.bare(&["--root", state, "run", "--bundle", dir, &t.id()]);
            let run = run.wrap(&["sh", "-c", &delegated.enter(USER), "sh"]).spawn();
            let mut received = console.receive();
            let agent = Agent::answer(received.fds.remove(0), &t.dir.join("seen"));
            let out = run.wait();
            drop(agent);
            assert!(
                out.ok().starts_with("mkdir: can't create directory '/tmp/d': Permission denied"),
                "{out}"
            );
        }
    });
}
