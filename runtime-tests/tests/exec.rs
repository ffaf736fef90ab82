// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns exec: what a further process gets from the container's own, what the flags change, and who may look at it.
//! Never trusts an exit code where a value can be read.
//! Expectations come from features.md §1.14, §2.3, §2.4, §6.2, engines.md §9.7, and issue 4.

use runtime_tests::{
    Bundle, Case, Console, Container, Kind, Out, Test, Value, any, executes, json, oar_only, run_case,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const SLEEP: &[&str] = &["sleep", "1000"];

/// A running container.
#[track_caller]
fn running<'t>(t: &'t Test, b: &mut Bundle) -> Container<'t> {
    b.args(SLEEP);
    let c = t.create(b);
    c.start();
    c
}

#[track_caller]
fn exec(t: &Test, c: &Container<'_>, flags: &[&str], words: &[&str]) -> Out {
    t.rt(&[&["exec"], flags, &[c.id.as_str()], words].concat()).run()
}

/// What a shell in the container says.
#[track_caller]
fn sh(t: &Test, c: &Container<'_>, script: &str) -> String {
    exec(t, c, &[], &["sh", "-c", script]).ok().to_owned()
}

/// The container's own process has this by its config, and so has one that exec makes without a word.
#[track_caller]
fn inherits(case: Case, set: &[(&str, Value)], script: &str, seen: &str) {
    run_case(case, |t| {
        let mut b = t.bundle();
        for (pointer, value) in set {
            b.set(pointer, value.clone());
        }
        let c = running(t, &mut b);
        assert_eq!(sh(t, &c, script), seen);
    });
}

fn process_file(t: &Test, document: &Value) -> String {
    let path = t.dir.join(format!("process-{}.json", t.id()));
    fs::write(&path, document.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn arguments_are_passed_verbatim() {
    run_case(any(), |t| {
        let c = running(t, &mut t.bundle());
        let out = exec(t, &c, &[], &["printf", "[%s]", "", "a b", "-x", "--", "--tty", "$HOME", "é\n"]);
        assert_eq!(out.ok(), "[][a b][-x][--][--tty][$HOME][é\n]");
    });
}

#[test]
fn the_exit_status_is_the_commands() {
    run_case(any(), |t| {
        let c = running(t, &mut t.bundle());
        exec(t, &c, &[], &["sh", "-c", "exit 7"]).expect_code(7);
        exec(t, &c, &[], &["sh", "-c", "kill -TERM $$"]).expect_code(143);
        exec(t, &c, &[], &["true"]).expect_code(0);
        assert_eq!(c.status(), "running");
    });
}

#[test]
fn what_cannot_be_executed_is_255_and_says_why() {
    run_case(any().differs("crun", "1.8.1 has other words"), |t| {
        let mut b = t.bundle();
        fs::write(b.rootfs().join("plain"), "x").unwrap();
        let c = running(t, &mut b);
        exec(t, &c, &[], &["nope"]).expect_code(255).says("executable file not found in $PATH");
        exec(t, &c, &[], &["/nope"]).expect_code(255).says("no such file or directory");
        exec(t, &c, &[], &["/plain"]).expect_code(255).says("permission denied");
        exec(t, &c, &["-d"], &["/nope"]).expect_code(255).says("no such file or directory");
    });
}

#[test]
fn success_means_executed() {
    run_case(oar_only("execve's own answer, for -d as well; others report success"), |t| {
        let mut b = t.bundle();
        let path = b.rootfs().join("script");
        fs::write(&path, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let c = running(t, &mut b);
        for flags in [&[][..], &["-d"]] {
            let out = exec(t, &c, flags, &["/script"]);
            out.clean_error().expect_code(255).says("\"/no/such/interpreter\" of its #! line");
        }
    });
}

// The fifteen that come from the container's own process.

#[test]
fn inherits_user_and_groups() {
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 77]});
    inherits(
        any().differs("crun", LOST),
        &[("/process/user", user)],
        "grep -E '^(Uid|Gid|Groups):' /proc/self/status | tr -s ' \\t\\n' ' '",
        "Uid: 1000 1000 1000 1000 Gid: 1001 1001 1001 1001 Groups: 5 77 ",
    );
}

#[test]
fn inherits_capabilities() {
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_CHOWN"],
        "ambient": ["CAP_CHOWN"]
    });
    inherits(
        any().differs("crun", LOST),
        &[("/process/capabilities", sets), ("/process/user", json!({"uid": 1000, "gid": 1000}))],
        "grep ^Cap /proc/self/status | tr -d '\\t' | tr '\\n' ' '",
        "CapInh:0000000000000001 CapPrm:0000000000000001 CapEff:0000000000000001 CapBnd:0000000000002021 \
         CapAmb:0000000000000001 ",
    );
}

#[test]
fn inherits_no_new_privileges() {
    inherits(
        any().differs("crun", LOST),
        &[("/process/noNewPrivileges", json!(true))],
        "grep NoNewPrivs /proc/self/status | cut -f2",
        "1\n",
    );
}

#[test]
fn inherits_seccomp() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    for no_new_privs in [true, false] {
        inherits(
            any(),
            &[("/linux/seccomp", profile.clone()), ("/process/noNewPrivileges", json!(no_new_privs))],
            "grep ^Seccomp: /proc/self/status | cut -f2; mkdir /tmp/x 2>&1 | grep -c 'not implemented'",
            "2\n1\n",
        );
    }
}

#[test]
fn inherits_labels() {
    let refused = "a label that this host cannot set is an error of create, so no exec can lose it";
    run_case(
        oar_only(refused).needs(
            !std::path::Path::new("/sys/kernel/security/apparmor").exists(),
            "a host without AppArmor",
        ),
        |t| {
            let c = running(t, &mut t.bundle());
            let out = exec(t, &c, &["--apparmor", "some-profile"], &["true"]);
            out.clean_error()
                .expect_code(255)
                .says("process.apparmorProfile")
                .says("AppArmor is not enabled");
            let out = exec(t, &c, &["--process-label", "a:b:c:s0"], &["true"]);
            out.clean_error().expect_code(255).says("process.selinuxLabel").says("SELinux is not enabled");
        },
    );
}

#[test]
fn inherits_rlimits() {
    inherits(
        any()
            .differs("crun", LOST)
            .differs("runc", "1.1.5 has the hard limit of files for the soft one now and then"),
        &[(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        )],
        "ulimit -Sn; ulimit -Hn; ulimit -c",
        "100\n200\n0\n",
    );
}

/// Not in what the specification lists for a process, but runc and crun keep it.
#[test]
fn inherits_oom_score() {
    inherits(
        any().differs("crun", LOST),
        &[("/process/oomScoreAdj", json!(321))],
        "cat /proc/self/oom_score_adj",
        "321\n",
    );
}

const LOST: &str = "1.8.1 does not take it from the container's process";
const OLD: &str = "this version is older than the field";

#[test]
fn inherits_personality() {
    inherits(
        any().differs("runc", "1.1.5 does not set it in exec"),
        &[("/linux/personality", json!({"domain": "LINUX32"}))],
        "cat /proc/self/personality; uname -m",
        "00000008\ni686\n",
    );
}

#[test]
fn inherits_scheduler() {
    let case = || any().differs("runc", OLD).differs("crun", OLD);
    inherits(
        case(),
        &[("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}))],
        "cut -d' ' -f19,41 /proc/self/stat",
        "7 3\n",
    );
    // The command itself has it, what it starts has not: so a copy of init must not have been in between.
    inherits(
        case(),
        &[(
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
        )],
        "cut -d' ' -f19 /proc/$$/stat; cut -d' ' -f19 /proc/self/stat; exit 0",
        "-5\n0\n",
    );
}

#[test]
fn inherits_io_priority() {
    inherits(
        any().differs("runc", OLD).differs("crun", OLD),
        &[("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))],
        "ionice -p $$",
        "best-effort: prio 6\n",
    );
}

#[test]
fn inherits_memory_policy() {
    inherits(
        any().differs("runc", OLD).differs("crun", OLD),
        &[("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}))],
        "head -1 /proc/self/numa_maps | cut -d' ' -f2",
        "bind:0\n",
    );
}

#[test]
fn cpu_affinity_of_exec() {
    run_case(any().differs("runc", OLD).differs("crun", OLD), |t| {
        let mut b = t.bundle();
        b.set("/process/execCPUAffinity", json!({"initial": "0", "final": "1"}));
        let c = running(t, &mut b);
        let allowed = "grep Cpus_allowed_list /proc/self/status | cut -f2";
        assert_eq!(sh(t, &c, allowed), "1\n");
        assert!(!fs::read_to_string(c.proc("status")).unwrap().contains("Cpus_allowed_list:\t1\n"));
        let document = json!({"args": ["sh", "-c", allowed], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin"], "execCPUAffinity": {"initial": "0"}});
        let out = exec(t, &c, &["--process", &process_file(t, &document)], &[]);
        assert_eq!(out.ok(), "0\n");
    });
}

#[test]
fn inherits_umask() {
    inherits(
        any().differs("runc", "1.1.5 has 022 in exec").differs("crun", LOST),
        &[("/process/user/umask", json!(0o77))],
        "umask",
        "0077\n",
    );
    inherits(any(), &[], "umask", "0022\n");
}

#[test]
fn inherits_cwd() {
    inherits(any().differs("crun", LOST), &[("/process/cwd", json!("/tmp"))], "pwd", "/tmp\n");
}

#[test]
fn inherits_environment() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/env/-", json!("A=from config"));
        let c = running(t, &mut b);
        let run = t.rt(&["exec", &c.id, "env"]).env("SECRET", "xyzzy");
        let out = run.run();
        assert!(out.ok().contains("A=from config\n") && !out.stdout.contains("xyzzy"), "{out}");
        assert_eq!(sh(t, &c, "echo $HOME"), "/root\n");
    });
}

#[test]
fn the_copy_of_the_config_counts_not_the_bundle() {
    run_case(any().differs("runc", "1.1.5 reads the bundle's config again"), |t| {
        let mut b = t.bundle();
        let c = running(t, &mut b);
        b.set("/process/env/-", json!("LATE=1")).set("/process/user/uid", json!(1000));
        b.write();
        assert_eq!(sh(t, &c, "id -u; echo [$LATE]"), "0\n[]\n");
    });
}

// Flags.

#[test]
fn flags_that_describe_the_process() {
    run_case(any().differs("crun", "1.8.1 leaves the config's environment out when one is given"), |t| {
        let c = running(t, &mut t.bundle());
        let text = |flags: &[&str], script| exec(t, &c, flags, &["sh", "-c", script]).ok().to_owned();
        assert_eq!(text(&["--cwd", "/tmp"], "pwd"), "/tmp\n");
        assert_eq!(text(&["--env", "A=1", "--env", "B=2 3"], "echo $A $B"), "1 2 3\n");
        assert_eq!(text(&["--user", "1000:1001"], "id -u; id -g"), "1000\n1001\n");
        assert_eq!(text(&["--no-new-privs"], "grep NoNewPrivs /proc/self/status | cut -f2"), "1\n");
    });
}

#[test]
fn a_user_without_a_group_keeps_the_containers() {
    run_case(any().differs("crun", "1.8.1 takes group 0"), |t| {
        let mut b = t.bundle();
        b.set("/process/user", json!({"uid": 5, "gid": 6}));
        let c = running(t, &mut b);
        let out = exec(t, &c, &["-u", "7"], &["sh", "-c", "id -u; id -g"]);
        assert_eq!(out.ok(), "7\n6\n");
    });
}

#[test]
fn additional_groups_are_added() {
    run_case(any().differs("crun", "1.8.1 has no such flag"), |t| {
        let mut b = t.bundle();
        b.set("/process/user/additionalGids", json!([5]));
        let c = running(t, &mut b);
        let out = exec(
            t,
            &c,
            &["--additional-gids", "7", "--additional-gids", "8"],
            &["grep", "^Groups", "/proc/self/status"],
        );
        let words: Vec<_> = out.ok().split_whitespace().collect();
        assert_eq!(words, ["Groups:", "5", "7", "8"]);
    });
}

#[test]
fn capabilities_are_added() {
    run_case(any().differs("crun", "1.8.1 drops those of the config"), |t| {
        let mut b = t.bundle();
        b.set(
            "/process/capabilities",
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}),
        );
        let c = running(t, &mut b);
        let out = exec(
            t,
            &c,
            &["--cap", "CAP_NET_RAW", "--cap", "CAP_CHOWN"],
            &["grep", "^Cap", "/proc/self/status"],
        );
        let sets: Vec<_> = out.ok().split_whitespace().filter(|word| word.len() == 16).collect();
        let both = "0000000000002021";
        assert_eq!(sets, ["0000000000000000", both, both, both, "0000000000000000"]);
        if t.kind != Kind::Runc {
            // runc warns: a slip in a flag is not a document from elsewhere.
            exec(t, &c, &["--cap", "CAP_FOO"], &["true"]).failed();
        }
        assert_eq!(sh(t, &c, "grep CapBnd /proc/self/status | cut -f2"), "0000000000000020\n");
    });
}

const NO_LIMITS: &str = "takes the caller's limits when the document has none";

#[test]
fn a_process_document() {
    run_case(any().differs("runc", NO_LIMITS).differs("crun", NO_LIMITS), |t| {
        let mut b = t.bundle();
        b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]));
        b.set(
            "/process/capabilities",
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}),
        );
        let c = running(t, &mut b);
        let script = "id -u; id -g; pwd; echo $X; ulimit -n; grep CapBnd /proc/self/status | cut -f2; env | grep -c ^A=";
        b.set("/process/env/-", json!("A=of the container"));
        let document = json!({"args": ["sh", "-c", script], "cwd": "/tmp", "env": ["PATH=/bin", "X=1"],
            "user": {"uid": 5, "gid": 6}});
        let out = exec(t, &c, &["--process", &process_file(t, &document)], &[]);
        assert_eq!(out.stdout, "5\n6\n/tmp\n1\n99\n0000000000000020\n0\n", "{out}");
        let document = json!({"args": ["sh", "-c", "ulimit -n; grep NoNewPrivs /proc/self/status | cut -f2"],
            "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]});
        let out = exec(t, &c, &["-p", &process_file(t, &document)], &[]);
        assert_eq!(out.ok(), "50\n1\n");
    });
}

#[test]
fn bad_process_documents_are_one_line() {
    run_case(oar_only("each in one line, with its place"), |t| {
        let c = running(t, &mut t.bundle());
        let base = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        let with = |pointer: &str, value: Value| {
            let mut document = base.clone();
            document[pointer] = value;
            document
        };
        for (document, words) in [
            (with("args", json!([])), "process.args"),
            (with("cwd", json!("relative")), "process.cwd"),
            (with("env", json!(["A"])), "process.env[0]"),
            (with("terminal", json!("yes")), "process.terminal"),
            (with("rlimits", json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}])), "process.rlimits[0]"),
            (with("scheduler", json!({"policy": "SCHED_BATCH", "priority": 5})), "process.scheduler"),
            (json!([1]), "process"),
            (json!("x"), "process"),
        ] {
            let out = exec(t, &c, &["-p", &process_file(t, &document)], &[]);
            out.clean_error().expect_code(255).says(words);
        }
        let path = t.dir.join("broken");
        fs::write(&path, "{").unwrap();
        exec(t, &c, &["-p", path.to_str().unwrap()], &[]).clean_error();
        exec(t, &c, &["-p", "/no/such/file"], &[])
            .clean_error()
            .says("/no/such/file: no such file or directory");
        exec(t, &c, &["--cwd", "/no/such"], &["true"]).clean_error().says("no such file or directory");
        assert!(!b_has(&c, "no"), "a working directory of exec is not made");
    });
}

fn b_has(c: &Container<'_>, name: &str) -> bool {
    c.bundle.join("rootfs").join(name).exists()
}

#[test]
fn pid_file_and_detach() {
    run_case(any().differs("runc", "1.1.5 returns before the command is executed"), |t| {
        let c = running(t, &mut t.bundle());
        let pid_file = t.dir.join("pid");
        fs::write(&pid_file, "of an earlier process").unwrap();
        let flags = ["-d", "--pid-file", pid_file.to_str().unwrap()];
        exec(t, &c, &flags, &["sleep", "999"]).ok();
        let text = fs::read_to_string(&pid_file).unwrap();
        let pid: i32 = text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"));
        executes(pid, &["sleep", "999"]);
        // The case is the subreaper: it adopts what a detached exec leaves.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("PPid:\t{}\n", std::process::id())), "{status}");
        for namespace in ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user", "time"] {
            let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_eq!(of(pid), of(c.pid), "{namespace}");
        }
        let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let mine = |text: &str| {
            text.lines().filter(|line| line.contains(&c.id)).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(mine(&cgroup(pid)), mine(&cgroup(c.pid)));
        assert!(!mine(&cgroup(pid)).is_empty());
        c.kill("KILL").ok();
        // The first process of a pid namespace takes all others with it.
        assert_eq!(t.wait_pid(pid), 137);
    });
}

#[test]
fn pidfd_socket() {
    run_case(oar_only("runc 1.1 and crun 1.8 have no such flag"), |t| {
        let c = running(t, &mut t.bundle());
        let socket = Console::listen(&t.dir.join("pidfd"));
        exec(t, &c, &["-d", "--pidfd-socket", socket.path.to_str().unwrap()], &["sleep", "999"]).ok();
        let received = socket.receive();
        assert_eq!(received.fds.len(), 1);
        let info = fs::read_to_string(format!(
            "/proc/self/fdinfo/{}",
            std::os::fd::AsRawFd::as_raw_fd(&received.fds[0])
        ));
        let pid: i32 =
            info.unwrap().lines().find_map(|l| l.strip_prefix("Pid:")).unwrap().trim().parse().unwrap();
        executes(pid, &["sleep", "999"]);
        c.kill("KILL").ok();
        t.wait_pid(pid);
    });
}

#[test]
fn preserved_descriptors() {
    run_case(any().differs("crun", "1.8.1 does not look whether they are open"), |t| {
        let c = running(t, &mut t.bundle());
        let script = "exec 3<<X 4<<Y 5<<Z; \"$@\"\nthree\nX\nfour\nY\nfive\nZ\n";
        let out = t
            .rt(&[
                "exec",
                "--preserve-fds",
                "2",
                &c.id,
                "sh",
                "-c",
                "cat <&3; cat <&4; exec ls /proc/self/fd",
            ])
            .wrap(&["sh", "-c", script, "sh"])
            .run();
        assert_eq!(out.ok(), "three\nfour\n0\n1\n2\n3\n4\n5\n");
        exec(t, &c, &["--preserve-fds", "5"], &["true"]).failed();
    });
}

#[test]
fn socket_activation() {
    run_case(
        any()
            .differs("runc", "1.1.5 passes no LISTEN_FDS on in exec")
            .differs("crun", "1.8.1 passes the descriptors on, and says nothing of them"),
        |t| {
            let mut b = t.bundle();
            b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
            let c = running(t, &mut b);
            let script = "[ $LISTEN_PID = $$ ] && echo mine; echo $LISTEN_FDS $LISTEN_FDNAMES; cat <&3";
            let run = t
                .rt(&["exec", &c.id, "sh", "-c", script])
                .env("LISTEN_FDS", "1")
                .env("LISTEN_FDNAMES", "web");
            let out = run.wrap(&["sh", "-c", "exec 3<<X; \"$@\"\nthree\nX\n", "sh"]).run();
            assert_eq!(out.ok(), "mine\n1 web\nthree\n");
        },
    );
}

#[test]
fn no_descriptor_of_ours_is_open() {
    run_case(any(), |t| {
        let c = running(t, &mut t.bundle());
        // The last one is the directory that ls reads.
        assert_eq!(exec(t, &c, &[], &["ls", "/proc/self/fd"]).ok(), "0\n1\n2\n3\n");
    });
}

#[test]
fn a_terminal_for_exec() {
    run_case(any(), |t| {
        let c = running(t, &mut t.bundle());
        let line = format!(
            "stty rows 31 cols 97; {} --root {} exec --tty {} sh -c 'test -t 0 && test -t 1 && tty; sleep 0; exit 9'",
            t.runtime.display(),
            t.state_root().display(),
            c.id
        );
        let argv = ["script", "-q", "-e", "-c", &line, "/dev/null"].map(std::ffi::OsString::from);
        let out = t.program(argv.to_vec()).env("TERM", "xterm").run();
        out.expect_code(9);
        assert!(out.stdout.contains("/dev/pts/"), "{out}");
    });
}

#[test]
fn a_terminal_by_console_socket() {
    run_case(any().differs("crun", "1.8.1 leaves the terminal to root"), |t| {
        let c = running(t, &mut t.bundle());
        let console = Console::listen(&t.dir.join("console"));
        let script = "trap 'echo int; exit 6' INT; stat -L -c %u /proc/self/fd/0; echo up; read line";
        let pid_file = t.dir.join("pid");
        let flags =
            ["-t", "-d", "-u", "1000:1000", "--pid-file", pid_file.to_str().unwrap(), "--console-socket"];
        let flags = [&flags[..], &[console.path.to_str().unwrap()]].concat();
        exec(t, &c, &flags, &["sh", "-c", script]).ok();
        let received = console.receive();
        let text = received.read_until("up");
        assert!(text.starts_with("1000"), "{text}");
        received.write("\u{3}");
        let text = received.read_until("int");
        assert!(text.contains("int"), "the terminal controls the session: {text}");
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        assert_eq!(t.wait_pid(pid), 6);
    });
}

#[test]
fn console_of_the_container_is_left_alone() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true)).args(SLEEP);
        let first = Console::listen(&t.dir.join("first"));
        let c = t.create_with(&b, &["--console-socket", first.path.to_str().unwrap()]);
        let _terminal = first.receive();
        c.start();
        let second = Console::listen(&t.dir.join("second"));
        let before = sh(t, &c, "stat -c %t:%T /dev/console");
        let pid_file = t.dir.join("pid");
        let pid_flag = pid_file.to_str().unwrap();
        let flags = ["-t", "-d", "--pid-file", pid_flag, "--console-socket", second.path.to_str().unwrap()];
        exec(t, &c, &flags, &["sh", "-c", "tty; read line"]).ok();
        let received = second.receive();
        received.read_until("/dev/pts/");
        assert_eq!(sh(t, &c, "stat -c %t:%T /dev/console"), before);
        received.write("\n");
        t.wait_pid(fs::read_to_string(&pid_file).unwrap().parse().unwrap());
    });
}

#[test]
fn a_detached_terminal_needs_a_console_socket() {
    run_case(any(), |t| {
        let c = running(t, &mut t.bundle());
        exec(t, &c, &["-t", "-d"], &["true"]).failed();
    });
}

// Where it runs.

#[test]
fn in_a_user_namespace() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.user_namespace();
        let c = running(t, &mut b);
        let script = "id -u; tr -s ' ' < /proc/self/uid_map; echo x > /made; stat -c %u /made";
        assert_eq!(sh(t, &c, script), "0\n 0 100000 65536\n0\n");
        let out = exec(t, &c, &["-u", "1000:1000"], &["sh", "-c", "id -u; id -g"]);
        assert_eq!(out.ok(), "1000\n1000\n");
        exec(t, &c, &["-u", "70000"], &["true"]).failed();
    });
}

#[test]
fn in_joined_and_shared_namespaces() {
    run_case(any(), |t| {
        let first = running(t, &mut t.bundle());
        let mut b = t.bundle();
        for kind in ["pid", "network", "ipc", "uts"] {
            let file = kind.replace("network", "net");
            b.namespace(kind, first.proc(&format!("ns/{file}")).to_str().unwrap());
        }
        let c = running(t, &mut b);
        for (name, kind) in [("pid", "pid"), ("net", "net"), ("uts", "uts")] {
            let link = sh(t, &c, &format!("readlink /proc/self/ns/{kind}"));
            assert_eq!(
                link.trim(),
                fs::read_link(first.proc(&format!("ns/{name}"))).unwrap().to_str().unwrap()
            );
        }
        // A pid namespace ends when all in it are reaped.
        c.kill("KILL").ok();
        c.wait();
    });
}

#[test]
fn with_the_hosts_pid_namespace() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.without_namespace("pid");
        let c = running(t, &mut b);
        let link = sh(t, &c, "readlink /proc/self/ns/pid");
        assert_eq!(link.trim(), fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap());
        exec(t, &c, &[], &["sh", "-c", "exit 5"]).expect_code(5);
    });
}

#[test]
fn without_a_mount_namespace() {
    run_case(oar_only("crun's exec has the host's root then, and runc cannot create it"), |t| {
        let mut b = t.bundle();
        b.without_namespace("mount")
            .set("/mounts", json!([]))
            .remove("/linux/maskedPaths")
            .remove("/linux/readonlyPaths");
        fs::write(b.rootfs().join("here"), "yes\n").unwrap();
        let c = running(t, &mut b);
        assert_eq!(exec(t, &c, &[], &["cat", "/here"]).ok(), "yes\n");
    });
}

#[test]
fn in_a_time_namespace() {
    run_case(oar_only("runc 1.1 and crun 1.8.1 do not create it"), |t| {
        let mut b = t.bundle();
        b.namespace("time", "")
            .set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000_000, "nanosecs": 0}}));
        let c = running(t, &mut b);
        let uptime: f64 = sh(t, &c, "cut -d' ' -f1 /proc/uptime").trim().parse().unwrap();
        assert!(uptime > 1e9, "{uptime}");
    });
}

#[test]
fn in_a_created_container() {
    run_case(any(), |t| {
        let c = t.create(&t.bundle());
        assert_eq!(sh(t, &c, "pwd"), "/\n");
        assert_eq!(c.status(), "created");
        c.start();
        assert_eq!(c.wait(), 0);
    });
}

#[test]
fn not_in_a_stopped_container() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.args(&["true"]);
        let c = t.create(&b);
        c.start();
        c.wait();
        let out = exec(t, &c, &[], &["true"]);
        out.failed();
        if t.kind == Kind::Oar {
            out.clean_error().expect_code(255).says("container not running");
        }
        exec(t, &c, &[], &["true"]).failed();
        t.rt(&["exec", "nobody", "true"]).run().failed();
    });
}

#[test]
fn in_a_sub_cgroup() {
    run_case(any().differs("crun", "1.8.1 leaves v1 hierarchies out"), |t| {
        let c = running(t, &mut t.bundle());
        let own = format!("/sys/fs/cgroup/pids/{}", c.id);
        let own = if fs::metadata(&own).is_ok() { own } else { format!("/sys/fs/cgroup/{}", c.id) };
        let sub = format!("{own}/sub");
        fs::create_dir(&sub).unwrap();
        let v1 = own.contains("/pids/");
        let flag = if v1 { "pids:sub" } else { "sub" };
        let pid_file = t.dir.join("pid");
        let flags = ["-d", "--pid-file", pid_file.to_str().unwrap(), "--cgroup", flag];
        exec(t, &c, &flags, &["sleep", "999"]).ok();
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert_eq!(fs::read_to_string(format!("{sub}/cgroup.procs")).unwrap().trim(), pid);
        for bad in ["missing", "../x"] {
            let flag = if v1 { format!("pids:{bad}") } else { bad.to_owned() };
            exec(t, &c, &["--cgroup", &flag], &["true"]).failed();
        }
        t.rt(&["kill", &c.id, "KILL"]).run().ok();
        t.wait_pid(pid.parse().unwrap());
        c.wait();
        fs::remove_dir(&sub).unwrap();
    });
}

#[test]
fn follows_the_first_process_into_its_sub_cgroup() {
    run_case(any().needs(v2_alone(), "cgroup v2 alone, with the controllers of the case"), |t| {
        let c = running(t, &mut t.bundle());
        let own = format!("/sys/fs/cgroup/{}", c.id);
        fs::create_dir(format!("{own}/init")).unwrap();
        fs::write(format!("{own}/init/cgroup.procs"), c.pid.to_string()).unwrap();
        fs::write(format!("{own}/cgroup.subtree_control"), "+pids").unwrap();
        let text = sh(t, &c, "grep ^0:: /proc/self/cgroup");
        assert!(text.ends_with("/init\n"), "{text}");
    });
}

fn v2_alone() -> bool {
    fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|text| text.contains("pids"))
}

#[test]
fn in_a_paused_container() {
    run_case(any().differs("crun", "1.8.1 has no --ignore-paused"), |t| {
        let c = running(t, &mut t.bundle());
        c.verb(&["pause"]).ok();
        exec(t, &c, &[], &["true"]).failed().says("paused");
        let waiting = t.rt(&["exec", "--ignore-paused", &c.id, "sh", "-c", "exit 4"]).spawn();
        wait_for_processes(t, &c, 2);
        c.verb(&["resume"]).ok();
        waiting.wait().expect_code(4);
        c.verb(&["pause"]).ok();
        let waiting = t.rt(&["exec", "--ignore-paused", &c.id, "true"]).spawn();
        wait_for_processes(t, &c, 2);
        c.verb(&["delete", "--force"]).ok();
        waiting.wait().failed();
    });
}

/// Waits until the container's pids cgroup has as many as these: the kernel does not tell, so it is asked again.
fn wait_for_processes(t: &Test, c: &Container<'_>, count: usize) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let out = t.rt(&["ps", "--format", "json", &c.id]).run();
        let pids: Vec<i32> = serde_json::from_str(out.ok()).unwrap();
        if pids.len() >= count {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{out}");
    }
}

// Nobody inside may use it.

/// Whatever is seen of a process on its way to its command has no more than the command has.
#[test]
fn t15_what_others_see_of_it_can_do_no_more_than_the_command() {
    run_case(oar_only("the way into the pid namespace is the last step"), |t| {
        let mut b = t.bundle();
        let caps = json!(["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
        b.set("/process/capabilities", json!({"bounding": caps, "permitted": caps, "effective": caps}));
        b.sh("while [ ! -e /stop ]; do for p in /proc/[0-9]*; do if grep -q oar-init $p/comm; then \
              grep -hE 'CapEff|CapPrm' $p/status; fi; done; done 2>/dev/null > /seen; echo end >> /seen");
        // The scheduler that a fork takes away, and an ordinary one.
        b.set(
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
        );
        let c = t.create(&b);
        c.start();
        let ordinary = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "scheduler": {"policy": "SCHED_OTHER"}});
        let ordinary = process_file(t, &ordinary);
        for _ in 0..20 {
            exec(t, &c, &[], &["true"]).ok();
            exec(t, &c, &["--process", &ordinary], &[]).ok();
        }
        fs::write(c.bundle.join("rootfs/stop"), "").unwrap();
        assert_eq!(c.wait(), 0);
        let seen = fs::read_to_string(c.bundle.join("rootfs/seen")).unwrap();
        assert!(seen.ends_with("end\n"), "{seen}");
        for line in seen.lines().filter(|line| line.starts_with("Cap")) {
            assert!(line.ends_with("\t0000000000080004"), "{seen}");
        }
    });
}

#[test]
fn of_two_phases() {
    run_case(oar_only("exec --create and --start"), |t| {
        let c = running(t, &mut t.bundle());
        let pid_file = t.dir.join("pid");
        let flags = ["--create", "one", "--pid-file", pid_file.to_str().unwrap()];
        let out = exec(t, &c, &flags, &["sh", "-c", "echo ran; exit 3"]);
        out.ok();
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "oar-init\n");
        exec(t, &c, &flags, &["true"]).clean_error().says("process one already exists");
        exec(t, &c, &["--start", "two"], &[]).clean_error().says("process two does not exist");
        exec(t, &c, &["--start", "one"], &[]).ok();
        assert_eq!(t.wait_pid(pid), 3);
        assert_eq!(fs::read_to_string(&out.stdout_path).unwrap(), "ran\n");
        exec(t, &c, &["--start", "one"], &[]).clean_error().says("process one does not exist");
        // The reason comes from the start, and nothing stays behind.
        let mut b = t.bundle();
        fs::write(b.rootfs().join("script"), "#!/no/such\n").unwrap();
        fs::set_permissions(b.rootfs().join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        let c = running(t, &mut b);
        exec(t, &c, &flags, &["/script"]).ok();
        exec(t, &c, &["--start", "one"], &[]).clean_error().says("/no/such").expect_code(255);
        t.wait_pid(fs::read_to_string(&pid_file).unwrap().parse().unwrap());
        // One that is never started goes with the container.
        exec(t, &c, &flags, &["true"]).ok();
        c.kill("KILL").ok();
        t.wait_pid(fs::read_to_string(&pid_file).unwrap().parse().unwrap());
        t.rt(&["delete", "--force", &c.id]).run().ok();
    });
}

#[test]
fn with_one_place_left() {
    run_case(any().differs("runc", "1.1.5 may want one more thread, and aborts"), |t| {
        let mut b = t.bundle();
        b.set("/linux/resources/pids", json!({"limit": 2}));
        let c = running(t, &mut b);
        exec(t, &c, &[], &["true"]).ok();
        let mut b = t.bundle();
        b.set("/process/rlimits", json!([{"type": "RLIMIT_NPROC", "soft": 2, "hard": 2}]));
        b.set("/process/user", json!({"uid": 54_321, "gid": 54_321}));
        let c = running(t, &mut b);
        exec(t, &c, &[], &["true"]).ok();
    });
}

#[test]
fn a_hook_may_exec() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let script = format!(
            "exec {} --root {} exec $(sed 's/.*\"id\": *\"\\([^\"]*\\)\".*/\\1/') sh -c 'echo x > /hooked'",
            t.runtime.display(),
            t.state_root().display()
        );
        b.set("/hooks", json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}));
        b.args(SLEEP);
        let c = t.create(&b);
        // One that waited for the container's lock, which start may hold, would fail, and the hook with it.
        c.start();
        assert!(b_has(&c, "hooked"));
    });
}

#[test]
fn names_of_two_phases_are_exclusive() {
    run_case(oar_only("exec --create"), |t| {
        let c = running(t, &mut t.bundle());
        for round in 0..4 {
            let name = format!("n{round}");
            let pid_files: Vec<_> = (0..4).map(|n| t.dir.join(format!("pid-{round}-{n}"))).collect();
            let runs: Vec<_> = pid_files
                .iter()
                .map(|file| {
                    let flags = ["--create", &name, "--pid-file", file.to_str().unwrap()];
                    t.rt(&[&["exec"], &flags[..], &[&c.id, "true"]].concat()).spawn()
                })
                .collect();
            let made = runs.into_iter().map(|run| run.wait()).filter(|out| out.code == 0).count();
            assert_eq!(made, 1);
            exec(t, &c, &["--start", &name], &[]).ok();
            for file in pid_files.iter().filter(|file| file.exists()) {
                t.wait_pid(fs::read_to_string(file).unwrap().parse().unwrap());
            }
        }
        exec(t, &c, &["--create", &"n".repeat(65)], &["true"]).clean_error().says("at most 64 bytes");
        assert_eq!(fs::read_dir(t.state_root().join(&c.id)).unwrap().count(), 2);
    });
}

#[test]
fn many_at_once() {
    run_case(any(), |t| {
        let c = running(t, &mut t.bundle());
        let runs: Vec<_> =
            (0..12).map(|n| (n, t.rt(&["exec", &c.id, "sh", "-c", &format!("exit {n}")]).spawn())).collect();
        for (n, run) in runs {
            run.wait().expect_code(n);
        }
    });
}

#[test]
fn f45_exec_and_delete() {
    run_case(any().differs("runc", "1.1.5 leaves the container when an exec is not reaped in time"), |t| {
        for _ in 0..5 {
            let c = running(t, &mut t.bundle());
            let runs: Vec<_> = (0..4).map(|_| t.rt(&["exec", &c.id, "sleep", "1000"]).spawn()).collect();
            t.rt(&["delete", "--force", &c.id]).run().ok();
            for run in runs {
                let code = run.wait().code;
                assert!(code != 0 && code != 101, "{code}");
            }
            assert!(!t.state_root().join(&c.id).exists());
        }
    });
}

#[test]
fn signals_go_to_the_command() {
    run_case(any().differs("runc", "1.1.5 waits for all who hold the output"), |t| {
        let c = running(t, &mut t.bundle());
        let script = "trap 'exit 8' TERM; echo up > /up; while :; do sleep 1000 & wait $!; done";
        let run = t.rt(&["exec", &c.id, "sh", "-c", script]).spawn();
        let up = c.bundle.join("rootfs/up");
        t.wait_for(&c.bundle.join("rootfs"), || fs::read(&up).is_ok_and(|text| text == b"up\n"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.pid()), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        run.wait().expect_code(8);
    });
}
