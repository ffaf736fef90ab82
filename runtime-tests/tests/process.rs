// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the properties of `process`: what the program sees of itself, by /proc and busybox' own words.
//! Never trusts an exit code where a value can be read.
//! Expectations come from config.md (Process, User, POSIX and Linux process) and features.md §1.1, §6.2.

use runtime_tests::{Kind, any, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn args_are_passed_verbatim() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.args(&["printf", "[%s]", "", "a b", "-x", "$HOME", "é\n", "'\"\\"]);
        assert_eq!(t.run(&b).ok(), "[][a b][-x][$HOME][é\n]['\"\\]");
    });
}

#[test]
fn args0_is_found_by_the_path_of_the_container() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        fs::create_dir(b.rootfs().join("own")).unwrap();
        symlink("/bin/busybox", b.rootfs().join("own/id")).unwrap();
        b.set("/process/env", json!(["PATH=/nowhere:/own", format!("RT_TAG={}", t.tag)]));
        b.args(&["id", "-u"]);
        assert_eq!(t.run(&b).ok(), "0\n");
    });
}

#[test]
fn env_is_the_config_and_nothing_of_the_caller() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.args(&["env"]);
        b.set(
            "/process/env",
            json!(["PATH=/bin", "A=1", "EMPTY=", "B=x=y", "HOME=/h", format!("RT_TAG={}", t.tag)]),
        );
        let out = t.run_with(&b, &[]).env("SECRET", "xyzzy").run();
        let mut lines: Vec<_> = out.ok().lines().filter(|l| !l.starts_with("RT_TAG")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["A=1", "B=x=y", "EMPTY=", "HOME=/h", "PATH=/bin"]);
    });
}

#[test]
fn env_duplicates_the_last_wins() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/env", json!(["PATH=/bin", "X=first", format!("RT_TAG={}", t.tag), "X=last"]));
        b.sh("echo $X");
        assert_eq!(t.run(&b).ok(), "last\n");
    });
}

#[test]
fn home_comes_from_passwd_when_unset() {
    run_case(any().differs("crun", "1.8.1 gives a user without an entry an empty HOME"), |t| {
        let mut b = t.bundle();
        b.sh("echo $HOME");
        assert_eq!(t.run(&b).ok(), "/root\n");
        b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        assert_eq!(t.run(&b).ok(), "/home/user\n");
        b.set("/process/user", json!({"uid": 4711, "gid": 4711}));
        assert_eq!(t.run(&b).ok(), "/\n");
    });
}

#[test]
fn cwd_is_made_when_missing() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/cwd", json!("/new/working/dir")).args(&["pwd"]);
        assert_eq!(t.run(&b).ok(), "/new/working/dir\n");
    });
}

#[test]
fn user_and_additional_groups() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 77]}));
        b.sh("grep -E '^(Uid|Gid|Groups):' /proc/self/status");
        let text = t.run(&b).ok().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(text, "Uid: 1000 1000 1000 1000 Gid: 1001 1001 1001 1001 Groups: 5 77");
    });
}

#[test]
fn umask_default_and_given() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("umask");
        assert_eq!(t.run(&b).ok(), "0022\n");
        b.set("/process/user/umask", json!(0o77));
        assert_eq!(t.run(&b).ok(), "0077\n");
        let out = t.run_with(&b, &[]).wrap(&["sh", "-c", "umask 0; exec \"$@\"", "sh"]).run();
        assert_eq!(out.ok(), "0077\n");
    });
}

#[test]
fn rlimits_lowered() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_CPU", "soft": 1000, "hard": 2000},
                {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 8_388_608}
            ]),
        );
        b.sh("grep -E 'open files|core file|cpu time|stack' /proc/self/limits");
        let out = t.run(&b);
        let lines = out.ok().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
        let text: Vec<_> = lines.collect();
        assert!(text.contains(&"Max open files 100 200 files".to_owned()), "{text:?}");
        assert!(text.contains(&"Max core file size 0 0 bytes".to_owned()), "{text:?}");
        assert!(text.contains(&"Max cpu time 1000 2000 seconds".to_owned()), "{text:?}");
        assert!(text.contains(&"Max stack size 1048576 8388608 bytes".to_owned()), "{text:?}");
    });
}

#[test]
fn rlimits_of_every_type() {
    run_case(any(), |t| {
        // The names of /proc/self/limits beside the words of the config; each is lowered below what the caller has.
        let words = [
            ("CPU", "Max cpu time", 1000_u64),
            ("FSIZE", "Max file size", 1 << 40),
            ("DATA", "Max data size", 1 << 40),
            ("STACK", "Max stack size", 1 << 21),
            ("CORE", "Max core file size", 0),
            ("RSS", "Max resident set", 1 << 40),
            ("NPROC", "Max processes", 3000),
            ("NOFILE", "Max open files", 500),
            ("MEMLOCK", "Max locked memory", 4096),
            ("AS", "Max address space", 1 << 40),
            ("LOCKS", "Max file locks", 77),
            ("SIGPENDING", "Max pending signals", 88),
            ("MSGQUEUE", "Max msgqueue size", 4096),
            ("NICE", "Max nice priority", 0),
            ("RTPRIO", "Max realtime priority", 0),
            ("RTTIME", "Max realtime timeout", 1 << 30),
        ];
        let mut b = t.bundle();
        let list = words.iter().map(|(w, _, v)| json!({"type": format!("RLIMIT_{w}"), "soft": v, "hard": v}));
        b.set("/process/rlimits", list.collect()).args(&["cat", "/proc/self/limits"]);
        let out = t.run(&b);
        for (word, name, value) in words {
            let line =
                out.ok().lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{word}: {out}"));
            let values: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
            assert_eq!(values, [value.to_string(), value.to_string()], "{word}: {out}");
        }
    });
}

#[test]
fn rlimit_not_given_is_that_of_the_caller() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("ulimit -n");
        let out = t
            .run_with(&b, &[])
            .wrap(&["sh", "-c", "ulimit -Sn 333; ulimit -Hn 333; exec \"$@\"", "sh"])
            .run();
        assert_eq!(out.ok(), "333\n");
    });
}

#[test]
fn capabilities_five_sets() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("grep ^Cap /proc/self/status | tr -d '\\t'");
        b.set(
            "/process/capabilities",
            json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
                "inheritable": ["CAP_CHOWN"],
                "ambient": ["CAP_CHOWN"]
            }),
        );
        // As root, the exec gives permitted and effective what bounding and inheritable allow.
        let text = t.run(&b).ok().to_owned();
        assert!(text.contains("CapInh:0000000000000001"), "{text}");
        assert!(text.contains("CapBnd:0000000000002021"), "{text}");
        assert!(text.contains("CapAmb:0000000000000001"), "{text}");
        // As another user, only ambient survives the exec.
        b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let text = t.run(&b).ok().to_owned();
        for line in [
            "CapInh:0000000000000001",
            "CapPrm:0000000000000001",
            "CapEff:0000000000000001",
            "CapBnd:0000000000002021",
        ] {
            assert!(text.contains(line), "{text}\nexpected: {line}");
        }
    });
}

#[test]
fn capabilities_absent_are_none() {
    run_case(any().differs("runc", "1.1.5 keeps the caller's when the object is absent"), |t| {
        let mut b = t.bundle();
        b.remove("/process/capabilities");
        b.sh("grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2 | sort -u");
        assert_eq!(t.run(&b).ok(), "0000000000000000\n");
    });
}

#[test]
fn capabilities_unknown_are_ignored() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/capabilities/bounding/-", json!("CAP_NOT_YET_INVENTED"));
        b.sh("exit 3");
        t.run(&b).expect_code(3);
    });
}

#[test]
fn no_new_privileges() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("grep NoNewPrivs /proc/self/status | cut -f2");
        for (value, seen) in [(json!(true), "1\n"), (json!(false), "0\n")] {
            b.set("/process/noNewPrivileges", value);
            assert_eq!(t.run(&b).ok(), seen);
        }
        b.remove("/process/noNewPrivileges");
        assert_eq!(t.run(&b).ok(), "0\n");
    });
}

#[test]
fn oom_score_adj_raised() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/oomScoreAdj", json!(500)).sh("cat /proc/self/oom_score_adj");
        assert_eq!(t.run(&b).ok(), "500\n");
        b.set("/process/oomScoreAdj", json!(1000));
        assert_eq!(t.run(&b).ok(), "1000\n");
    });
}

#[test]
fn oom_score_adj_lowered_or_refused() {
    run_case(oar_only("what is not permitted is one line"), |t| {
        let mut b = t.bundle();
        b.set("/process/oomScoreAdj", json!(-500)).sh("cat /proc/self/oom_score_adj");
        let out = t.run(&b);
        if out.code == 0 {
            assert_eq!(out.stdout, "-500\n");
        } else {
            out.clean_error().says("process.oomScoreAdj").says("CAP_SYS_RESOURCE");
        }
    });
}

const NO_SCHEDULER: &str = "this version is older than process.scheduler";

#[test]
fn scheduler_other_with_nice() {
    run_case(any().differs("runc", NO_SCHEDULER).differs("crun", NO_SCHEDULER), |t| {
        let mut b = t.bundle();
        b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 7}));
        b.sh("cut -d' ' -f19 /proc/self/stat");
        assert_eq!(t.run(&b).ok(), "7\n");
    });
}

#[test]
fn scheduler_batch() {
    run_case(any().differs("runc", NO_SCHEDULER).differs("crun", NO_SCHEDULER), |t| {
        let mut b = t.bundle();
        b.set("/process/scheduler", json!({"policy": "SCHED_BATCH"}));
        b.sh("cut -d' ' -f41 /proc/self/stat"); // field 41: the policy, 3 is SCHED_BATCH
        assert_eq!(t.run(&b).ok(), "3\n");
    });
}

#[test]
fn scheduler_flag_reset_on_fork() {
    run_case(any().differs("runc", NO_SCHEDULER).differs("crun", NO_SCHEDULER), |t| {
        let mut b = t.bundle();
        b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": -5}));
        b.sh("cut -d' ' -f19 /proc/$$/stat; cut -d' ' -f19 /proc/self/stat; exit 0");
        assert_eq!(t.run(&b).ok(), "-5\n-5\n");
        // A child of the program does not get its parent's advantage.
        b.set("/process/scheduler/flags", json!(["SCHED_FLAG_RESET_ON_FORK"]));
        assert_eq!(t.run(&b).ok(), "-5\n0\n");
    });
}

#[test]
fn scheduler_idle() {
    run_case(any().differs("runc", NO_SCHEDULER).differs("crun", NO_SCHEDULER), |t| {
        let mut b = t.bundle();
        b.set("/process/scheduler", json!({"policy": "SCHED_IDLE"}));
        b.sh("cut -d' ' -f41 /proc/self/stat");
        assert_eq!(t.run(&b).ok(), "5\n");
    });
}

/// Real-time policies take a cgroup with a real-time budget, or a kernel without such budgets: where they are
/// permitted they are in effect, elsewhere they are the error.
#[test]
fn scheduler_real_time_and_deadline() {
    run_case(oar_only("a policy that is not permitted is one line"), |t| {
        let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 30_000_000, "period": 30_000_000});
        for (scheduler, seen) in [
            (json!({"policy": "SCHED_FIFO", "priority": 5}), "5 1\n"),
            (json!({"policy": "SCHED_RR", "priority": 7}), "7 2\n"),
            (deadline, "0 6\n"),
        ] {
            let mut b = t.bundle();
            b.set("/process/scheduler", scheduler.clone());
            b.args(&["cut", "-d ", "-f40,41", "/proc/self/stat"]);
            let out = t.run(&b);
            if out.code == 0 {
                assert_eq!(out.stdout, seen, "{scheduler}");
            } else {
                out.clean_error().says("process.scheduler").says("not permitted");
            }
        }
    });
}

#[test]
fn io_priority() {
    let old = "is older than process.ioPriority";
    run_case(any().differs("runc", old).differs("crun", old), |t| {
        let mut b = t.bundle();
        b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))
            .args(&["ionice", "-p", "1"]);
        assert_eq!(t.run(&b).ok(), "best-effort: prio 6\n");
        b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
        assert!(t.run(&b).ok().starts_with("idle"));
        b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 3}));
        assert_eq!(t.run(&b).ok(), "realtime: prio 3\n");
    });
}

#[test]
fn personality() {
    run_case(any().differs("runc", "1.1.5 is older than linux.personality"), |t| {
        let mut b = t.bundle();
        b.set("/linux/personality", json!({"domain": "LINUX32"})).args(&["uname", "-m"]);
        assert_eq!(t.run(&b).ok(), "i686\n");
        b.set("/linux/personality", json!({"domain": "LINUX"}));
        assert_eq!(t.run(&b).ok().trim(), std::env::consts::ARCH);
    });
}

#[test]
fn memory_policy() {
    run_case(oar_only("linux.memoryPolicy is of runtime-spec 1.3"), |t| {
        let mut b = t.bundle();
        b.set("/linux/memoryPolicy", json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}));
        b.sh("grep -c interleave:0 /proc/self/numa_maps");
        assert_ne!(t.run(&b).ok().trim(), "0");
        b.set("/linux/memoryPolicy", json!({"mode": "MPOL_DEFAULT"}));
        b.sh("grep -vc ' default' /proc/self/numa_maps; exit 0");
        assert_eq!(t.run(&b).ok().trim(), "0");
    });
}

#[test]
fn memory_policy_modes_and_flags() {
    run_case(oar_only("linux.memoryPolicy is of runtime-spec 1.3"), |t| {
        for (policy, seen) in [
            (json!({"mode": "MPOL_BIND", "nodes": "0"}), " bind:0 "),
            (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), " bind=static:0 "),
            (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), " prefer:0 "),
            (
                json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}),
                " prefer (many)=relative:0 ",
            ),
            (json!({"mode": "MPOL_LOCAL"}), " local "),
        ] {
            let mut b = t.bundle();
            b.set("/linux/memoryPolicy", policy.clone()).args(&["head", "-1", "/proc/self/numa_maps"]);
            let out = t.run(&b);
            assert!(out.ok().contains(seen), "{policy}: {out}");
        }
    });
}

#[test]
fn exec_cpu_affinity_is_for_exec() {
    run_case(any(), |t| {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|l| l.starts_with("Cpus_allowed_list")).unwrap();
        let mut b = t.bundle();
        b.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}));
        b.args(&["grep", "^Cpus_allowed_list", "/proc/self/status"]);
        assert_eq!(t.run(&b).ok().trim(), own);
    });
}

#[test]
fn apparmor_and_selinux_where_they_are_off() {
    run_case(oar_only("a label is refused in one line where its LSM is off"), |t| {
        let off =
            |name: &str| !fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default().contains(name);
        for (name, key, value) in [
            ("apparmor", "/process/apparmorProfile", "some-profile"),
            ("selinux", "/process/selinuxLabel", "u:r:t:s0"),
        ] {
            if off(name) {
                let mut b = t.bundle();
                b.set(key, json!(value));
                t.try_create(&b).clean_error();
            }
        }
    });
}

#[test]
fn dispositions_are_default_and_no_signal_is_blocked() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.args(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
        // Two of the caller's signals are ignored; an exec would pass that on.
        let out = t.run_with(&b, &[]).wrap(&["sh", "-c", "trap '' PIPE HUP; exec \"$@\"", "sh"]).run();
        let blocked = out.ok().lines().find(|l| l.starts_with("SigBlk")).unwrap();
        assert!(blocked.ends_with("0000000000000000"), "{out}");
        if t.kind == Kind::Oar {
            let ignored = out.stdout.lines().find(|l| l.starts_with("SigIgn")).unwrap();
            assert!(ignored.ends_with("0000000000000000"), "{out}");
        }
    });
}

#[test]
fn a_new_session_keyring() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("grep -c . /proc/keys; cat /proc/keys");
        let text = t.run(&b).ok().to_owned();
        let id = t.dir.file_name().unwrap().to_str().unwrap().split('-').next().unwrap();
        assert!(text.contains("_ses") || text.contains(id), "a session keyring of its own: {text}");
    });
}

#[test]
fn no_new_keyring_keeps_the_callers() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 5");
        t.run_with(&b, &["--no-new-keyring"]).run().expect_code(5);
    });
}

#[test]
fn stdin_is_read_to_its_end() {
    run_case(any(), |t| {
        let file = t.dir.join("input");
        fs::write(&file, "x".repeat(1 << 20)).unwrap();
        let mut b = t.bundle();
        b.sh("wc -c");
        assert_eq!(t.run_with(&b, &[]).stdin(&file).run().ok().trim(), (1 << 20).to_string());
    });
}
