// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns update: each flag and the file that it reaches, on v1 and cgroup2; documents; all or nothing; nobody is killed.
//! Never takes the runtime's word: values are read from the container's cgroup directories and from /proc.
//! Expectations come from runc's flags, config-linux.md, and the kernel's documents of each file.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime_tests::{
    Case, Container, Kind, Out, Test, Value, any, has_controller, json, oar_only, pure_v2, run_case, v1,
};
use std::fs;

const WAIT: &str = "echo up; exec sleep 1000";

#[track_caller]
fn running<'t>(t: &'t Test, resources: Value) -> Container<'t> {
    running_script(t, resources, WAIT)
}

#[track_caller]
fn running_script<'t>(t: &'t Test, resources: Value, script: &str) -> Container<'t> {
    let mut b = t.bundle();
    b.sh(script).set("/linux/resources", resources);
    let c = t.create(&b);
    c.start();
    t.wait_for(&t.dir, || c.output().contains("up"));
    c
}

/// update with these flags.
#[track_caller]
fn update(c: &Container<'_>, flags: &[&str]) -> Out {
    c.verb(&[&["update"], flags].concat())
}

/// update with this document on stdin.
#[track_caller]
fn document(t: &Test, c: &Container<'_>, text: &str, flags: &[&str]) -> Out {
    let file = t.scratch("documents").join("resources");
    fs::write(&file, text).unwrap();
    t.rt(&[&["update", "--resources", "-"], flags, &[&c.id]].concat()).stdin(&file).run()
}

/// A limit, by its v1 controller and the file's name in either version.
#[derive(Clone, Copy)]
struct File(&'static str, &'static str, &'static str);

const MEMORY: File = File("memory", "memory.limit_in_bytes", "memory.max");
const SWAP: File = File("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
const PIDS: File = File("pids", "pids.max", "pids.max");

impl File {
    fn of(self, c: &Container<'_>) -> String {
        let File(controller, in_v1, in_v2) = self;
        c.cgroups().value(controller, if v1(controller) { in_v1 } else { in_v2 })
    }

    /// Of either version, the one that the host has for it.
    fn either<T>(self, in_v1: T, in_v2: T) -> T {
        if v1(self.0) { in_v1 } else { in_v2 }
    }

    fn there(self, c: &Container<'_>) -> bool {
        let File(controller, in_v1, in_v2) = self;
        c.cgroups().dir(controller).join(if v1(controller) { in_v1 } else { in_v2 }).exists()
    }
}

trait Limits {
    fn limits(self) -> Case;
}

impl Limits for Case {
    fn limits(self) -> Case {
        let all = ["memory", "cpu", "cpuset", "pids"].into_iter().all(has_controller);
        self.needs(all, "the controllers memory, cpu, cpuset and pids")
    }
}

#[test]
fn each_flag_reaches_its_file() {
    run_case(any().limits().differs("crun", "1.8.1 has no units for bytes"), |t| {
        let everything = json!({
            "memory": {"limit": 128 << 20}, "pids": {"limit": 100},
            "cpu": {"shares": 1024, "quota": 90_000, "period": 100_000, "cpus": "0", "mems": "0"},
        });
        let c = running(t, everything);
        for (flags, file, in_v1, in_v2) in [
            (&["--memory", "64m"][..], MEMORY, "67108864", "67108864"),
            (&["--memory=33554432"], MEMORY, "33554432", "33554432"),
            (
                &["--memory-reservation", "16m"],
                File("memory", "memory.soft_limit_in_bytes", "memory.low"),
                "16777216",
                "16777216",
            ),
            (&["--cpu-period", "50000"], File("cpu", "cpu.cfs_period_us", "cpu.max"), "50000", "90000 50000"),
            (&["--cpu-quota", "20000"], File("cpu", "cpu.cfs_quota_us", "cpu.max"), "20000", "20000 50000"),
            (&["--cpu-quota", "-1"], File("cpu", "cpu.cfs_quota_us", "cpu.max"), "-1", "max 50000"),
            (&["--cpu-share", "2"], File("cpu", "cpu.shares", "cpu.weight"), "2", "1"),
            (&["--cpuset-cpus", "0"], File("cpuset", "cpuset.cpus", "cpuset.cpus"), "0", "0"),
            (&["--cpuset-mems", "0"], File("cpuset", "cpuset.mems", "cpuset.mems"), "0", "0"),
            (&["--pids-limit", "33"], PIDS, "33", "33"),
            (&["--pids-limit", "-1"], PIDS, "max", "max"),
            (&["--kernel-memory", "1m"], PIDS, "max", "max"),
        ] {
            let out = update(&c, flags);
            out.ok();
            assert_eq!(file.of(&c), file.either(in_v1, in_v2), "{out}");
            if t.kind == Kind::Oar {
                assert!(out.stderr.is_empty() && out.stdout.is_empty(), "{out}");
            }
        }
        // What no flag has named is as it was.
        assert_eq!(MEMORY.of(&c), "33554432");
    });
}

#[test]
fn memory_and_swap_together() {
    run_case(any().limits().differs("crun", "1.8.1 has no units for bytes"), |t| {
        let c = running(t, json!({"memory": {"limit": 32 << 20}}));
        if !SWAP.there(&c) {
            update(&c, &["--memory", "64m", "--memory-swap", "96m"]).failed();
            return;
        }
        update(&c, &["--memory", "64m", "--memory-swap", "96m"]).ok();
        assert_eq!(
            (MEMORY.of(&c).as_str(), SWAP.of(&c).as_str()),
            SWAP.either(("67108864", "100663296"), ("67108864", "33554432"))
        );
        if t.kind == Kind::Oar {
            update(&c, &["--memory-swap", "80m"]).ok();
            assert_eq!(SWAP.of(&c), SWAP.either("83886080", "16777216"), "by the memory limit that is there");
        }
        // Without a limit on memory there is none on both together.
        update(&c, &["--memory", "-1"]).ok();
        let none = SWAP.either("9223372036854771712", "max");
        assert_eq!((MEMORY.of(&c).as_str(), SWAP.of(&c).as_str()), (none, none));
    });
}

#[test]
fn burst_and_idle() {
    run_case(oar_only("runc 1.1 and crun 1.8 do not have these flags").limits(), |t| {
        let c = running(t, json!({"cpu": {"quota": 50_000, "period": 100_000}}));
        update(&c, &["--cpu-burst", "10000"]).ok();
        assert_eq!(File("cpu", "cpu.cfs_burst_us", "cpu.max.burst").of(&c), "10000");
        update(&c, &["--cpu-burst", "0", "--cpu-idle", "1"]).ok();
        assert_eq!(File("cpu", "cpu.cfs_burst_us", "cpu.max.burst").of(&c), "0");
        assert_eq!(File("cpu", "cpu.idle", "cpu.idle").of(&c), "1");
        update(&c, &["--cpu-idle", "0"]).ok();
        assert_eq!(File("cpu", "cpu.idle", "cpu.idle").of(&c), "0");
    });
}

/// Each of these needs what not every kernel has: done, or told by its name.
#[test]
fn flags_for_what_a_kernel_may_lack() {
    run_case(oar_only("the error's words").limits(), |t| {
        let c = running(t, json!({}));
        let weight = update(&c, &["--blkio-weight", "500"]);
        if weight.code == 0 {
            let files = ["io.bfq.weight", "io.weight", "blkio.bfq.weight", "blkio.weight"];
            let dir = c.cgroups().dir("blkio").to_owned();
            let found = files.iter().find_map(|file| fs::read_to_string(dir.join(file)).ok()).unwrap();
            assert!(found.contains("500") || found.contains("4950"), "{found}");
        } else {
            weight.clean_error().says("block io weight");
        }
        for (flag, file) in
            [("--cpu-rt-period", "cpu.rt_period_us"), ("--cpu-rt-runtime", "cpu.rt_runtime_us")]
        {
            let out = update(&c, &[flag, "900000"]);
            if !v1("cpu") {
                out.ok();
                out.says("needs the cpu controller of cgroup v1");
            } else if out.code == 0 {
                assert_eq!(c.cgroups().value("cpu", file), "900000");
            } else {
                out.clean_error().says("cpu realtime");
            }
        }
        for flag in ["--l3-cache-schema", "--mem-bw-schema"] {
            update(&c, &[flag, "MB:0=20"]).clean_error().says("the container has no group");
        }
    });
}

#[test]
fn limits_of_the_first_process() {
    run_case(oar_only("flags of its own"), |t| {
        let c = running(t, json!({}));
        update(&c, &["--rlimit", "nofile=100:200", "--rlimit", "RLIMIT_CORE=0", "--oom-score-adj", "500"])
            .ok();
        let limits = fs::read_to_string(c.proc("limits")).unwrap();
        let line = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(
            line("Max open files").contains(" 100 ") && line("Max open files").contains(" 200 "),
            "{limits}"
        );
        assert!(line("Max core file size").contains(" 0 "), "{limits}");
        assert_eq!(fs::read_to_string(c.proc("oom_score_adj")).unwrap(), "500\n");
        // Nothing of it is done when a part is refused.
        update(&c, &["--rlimit", "nofile=50", "--pids-limit", "7", "--oom-score-adj", "2000"])
            .clean_error()
            .says("process.oomScoreAdj");
        update(&c, &["--rlimit", "nofile=5:4"]).clean_error().says("process.rlimits[0].soft");
        assert_eq!(fs::read_to_string(c.proc("limits")).unwrap(), limits);
        update(&c, &["--rlimit", "frob=5"]).clean_error().says("--rlimit");
    });
}

#[test]
fn a_document_from_stdin_or_a_file() {
    run_case(any().limits().differs("crun", "1.8.1 takes a text for a number"), |t| {
        let c = running(t, json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}));
        // As CRI-O and Docker send it: sparse, with empty values for what is to stay.
        let sparse = json!({
            "memory": {"limit": 48 << 20, "reservation": 0}, "cpu": {"shares": 512, "cpus": "", "mems": "", "quota": 0},
        });
        let out = document(t, &c, &sparse.to_string(), &[]);
        out.ok();
        assert!(out.stderr.is_empty(), "{out}");
        assert_eq!((MEMORY.of(&c).as_str(), PIDS.of(&c).as_str()), ("50331648", "50"));
        assert_eq!(File("cpu", "cpu.shares", "cpu.weight").of(&c), File("cpu", "", "").either("512", "59"));
        let file = t.scratch("documents").join("file.json");
        fs::write(&file, json!({"pids": {"limit": 60}}).to_string()).unwrap();
        update(&c, &["--resources", file.to_str().unwrap()]).ok();
        assert_eq!(PIDS.of(&c), "60");
        document(t, &c, "{", &[]).failed();
        document(t, &c, r#"{"memory": {"limit": "64m"}}"#, &[]).failed();
        update(&c, &["--resources", "/nonexistent"]).failed().says_any(&["no such file", "No such file"]);
        assert_eq!((MEMORY.of(&c).as_str(), PIDS.of(&c).as_str()), ("50331648", "60"));
    });
}

#[test]
fn flags_are_added_to_the_document() {
    run_case(oar_only("both together").limits(), |t| {
        let c = running(t, json!({}));
        let text = json!({"memory": {"limit": 48 << 20}, "pids": {"limit": 5}}).to_string();
        document(t, &c, &text, &["--pids-limit", "6"]).ok();
        assert_eq!((MEMORY.of(&c).as_str(), PIDS.of(&c).as_str()), ("50331648", "6"));
        document(t, &c, r#"{"memory": null, "pids": {}, "cpu": {"shares": null}}"#, &[]).ok();
        assert_eq!((MEMORY.of(&c).as_str(), PIDS.of(&c).as_str()), ("50331648", "6"));
        document(t, &c, r#"{"memory": []}"#, &[])
            .clean_error()
            .says("linux.resources.memory: must be an object");
        document(t, &c, r#"{"pids": {"limit": 1, "limit": 2}}"#, &[]).clean_error().says("given twice");
        let warned = document(t, &c, r#"{"memory": {"kernel": 4096}, "pids": {"limit": 9}}"#, &[]);
        warned.ok();
        warned.says("linux.resources.memory.kernel");
        assert_eq!(PIDS.of(&c), "9");
    });
}

#[test]
fn unified_members() {
    run_case(oar_only("the member is named").limits().needs(pure_v2(), "cgroup v2 alone"), |t| {
        let c = running(t, json!({"memory": {"limit": 64 << 20}}));
        let value = |file: &str| c.cgroups().value("memory", file);
        document(t, &c, r#"{"unified": {"memory.high": "33554432", "pids.max": "44"}}"#, &[]).ok();
        assert_eq!((value("memory.high").as_str(), PIDS.of(&c).as_str()), ("33554432", "44"));
        document(t, &c, r#"{"unified": {"memory.high": "max", "memory.low": "nonsense"}}"#, &[])
            .clean_error()
            .says("unified[memory.low]");
        assert_eq!(value("memory.high"), "33554432");
        document(t, &c, r#"{"unified": {"cgroup.freeze": "1"}}"#, &[]).clean_error().says("cgroup.freeze");
    });
}

#[test]
fn device_rules_are_replaced_as_a_whole() {
    let case = oar_only("device rules can be updated").needs(has_controller("devices"), "a device filter");
    run_case(case, |t| {
        // Each line through the fifo is answered by a file: r for what may be opened, - for EPERM.
        let talk = t.scratch("talk");
        let mut b = t.bundle();
        b.mount("/talk", "bind", talk.to_str().unwrap(), &["bind", "rw"]);
        b.mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
        b.set("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]));
        b.sh("mknod /tmp/loop c 10 237; mknod /tmp/kmsg c 1 11; mkfifo /talk/ask; \
              try() { case \"$( (: < $1) 2>&1)\" in *'not permitted'*) a=$a-;; *) a=${a}r;; esac; }; \
              while :; do read n < /talk/ask || continue; a=; try /tmp/loop; try /tmp/kmsg; try /dev/null; \
              echo $a > /talk/part; mv /talk/part /talk/answer$n; done");
        for set in ["bounding", "effective", "permitted"] {
            b.set(&format!("/process/capabilities/{set}/-"), json!("CAP_SYSLOG"));
        }
        let c = t.create(&b);
        c.start();
        let ask = |n: u32| {
            t.wait_for(&talk, || talk.join("ask").exists());
            fs::write(talk.join("ask"), format!("{n}\n")).unwrap();
            let answer = talk.join(format!("answer{n}"));
            t.wait_for(&talk, || answer.exists());
            fs::read_to_string(answer).unwrap()
        };
        assert_eq!(ask(1), "--r\n");
        let rule = |minor: u32, major: u32| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "r"});
        let deny = json!({"allow": false, "access": "rwm"});
        document(t, &c, &json!({"devices": [deny, rule(11, 1)]}).to_string(), &[]).ok();
        assert_eq!(ask(2), "-rr\n");
        document(t, &c, &json!({"devices": [deny, rule(237, 10)]}).to_string(), &[]).ok();
        assert_eq!(ask(3), "r-r\n");
        // Not given, and empty as Go writes a list without elements.
        update(&c, &["--pids-limit", "50"]).ok();
        document(t, &c, r#"{"devices": [], "pids": {"limit": 60}}"#, &[]).ok();
        assert_eq!(ask(4), "r-r\n");
    });
}

#[test]
fn in_which_states() {
    run_case(any().limits().differs("crun", "1.8.1 does not look at the state"), |t| {
        let mut b = t.bundle();
        b.sh(WAIT);
        let c = t.create(&b);
        update(&c, &["--pids-limit", "11"]).ok();
        assert_eq!(PIDS.of(&c), "11");
        c.start();
        update(&c, &["--pids-limit", "12"]).ok();
        c.verb(&["pause"]).ok();
        update(&c, &["--pids-limit", "13", "--memory", "67108864"]).ok();
        let after = (PIDS.of(&c), MEMORY.of(&c), c.status());
        c.verb(&["resume"]).ok();
        assert_eq!(after, ("13".to_owned(), "67108864".to_owned(), "paused".to_owned()));
        kill(Pid::from_raw(c.pid), Signal::SIGKILL).unwrap();
        c.wait();
        update(&c, &["--pids-limit", "14"]).failed().says("container not running");
        c.verb(&["delete"]).ok();
        update(&c, &["--pids-limit", "14"]).failed().says(t.unknown());
    });
}

#[test]
fn all_or_nothing() {
    run_case(oar_only("nothing is changed after a failure").limits(), |t| {
        let c = running(
            t,
            json!({
                "memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"quota": 50_000, "period": 100_000},
            }),
        );
        let all = || {
            let cpu = File("cpu", "cpu.cfs_quota_us", "cpu.max").of(&c);
            let config = fs::read_to_string(t.state_root().join(&c.id).join("config.json")).unwrap();
            (MEMORY.of(&c), PIDS.of(&c), cpu, fs::read_to_string(c.proc("oom_score_adj")).unwrap(), config)
        };
        let before = all();
        for (flags, words) in [
            (&["--pids-limit", "9", "--cpuset-cpus", "4000"][..], "linux.resources.cpu.cpus"),
            (&["--memory", "32m", "--cpu-quota", "1"], "linux.resources.cpu.quota"),
            (&["--memory", "32m", "--pids-limit", "x"], "for --pids-limit"),
            // The kernel is the one that refuses.
            (&["--memory", "4096", "--pids-limit", "9", "--cpu-quota", "20000"], "bytes are in use"),
            (&["--memory", "32m", "--oom-score-adj", "7", "--l3-cache-schema", "L3:0=f"], "has no group"),
        ] {
            update(&c, flags).clean_error().says(words);
            assert_eq!(all(), before, "{flags:?}");
        }
        let disk = json!({"pids": {"limit": 9}, "blockIO": {
            "throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 5}]
        }});
        document(t, &c, &disk.to_string(), &[]).failed();
        assert_eq!(all(), before);
    });
}

#[test]
fn a_limit_below_what_is_in_use_kills_nobody() {
    run_case(oar_only("refused, with the bytes in use").limits(), |t| {
        let script = "x=$(head -c 16777216 /dev/zero | tr '\\0' x); echo up; while :; do sleep 1000; done";
        let c = running_script(t, json!({"memory": {"limit": 128 << 20}}), script);
        let mut flags = vec!["--memory", "8m"];
        if SWAP.there(&c) {
            flags.extend(["--memory-swap", "8m"]);
        }
        update(&c, &flags).clean_error().says("memory limit: 8388608 is refused: ").says("bytes are in use");
        assert_eq!(MEMORY.of(&c), "134217728");
        let check = json!({"memory": {"limit": 8 << 20, "checkBeforeUpdate": true}}).to_string();
        document(t, &c, &check, &[]).clean_error().says("bytes in use now");
        assert_eq!((c.status().as_str(), c.cgroups().oom_kills()), ("running", 0));
        // One that fits is fine.
        update(&c, &["--memory", "100m"]).ok();
        assert_eq!((MEMORY.of(&c).as_str(), c.cgroups().oom_kills()), ("104857600", 0));
        if !v1("memory") {
            assert_eq!(c.cgroups().value("memory", "memory.high"), "max");
        }
    });
}

/// What runs later in the container, and the next update, go by the copy in the state directory.
#[test]
fn the_config_in_the_state_directory_follows() {
    run_case(oar_only("the file of its own").limits(), |t| {
        let c = running(t, json!({"memory": {"limit": 64 << 20}, "cpu": {"shares": 512}}));
        let config = || -> Value {
            let path = t.state_root().join(&c.id).join("config.json");
            serde_json_value(&fs::read_to_string(path).unwrap())
        };
        let before = config();
        update(
            &c,
            &["--memory", "32m", "--pids-limit", "21", "--rlimit", "nofile=77", "--oom-score-adj", "3"],
        )
        .ok();
        let after = config();
        assert_eq!(after["linux"]["resources"]["memory"]["limit"], json!(32 << 20));
        assert_eq!(after["linux"]["resources"]["pids"]["limit"], json!(21));
        assert_eq!(after["linux"]["resources"]["cpu"], json!({"shares": 512}));
        assert_eq!(after["process"]["rlimits"], json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]));
        assert_eq!(after["process"]["oomScoreAdj"], json!(3));
        assert_eq!(after["mounts"], before["mounts"]);
        let names = fs::read_dir(t.state_root().join(&c.id)).unwrap();
        let drafts = names.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
        assert_eq!(drafts.count(), 0);
    });
}

fn serde_json_value(text: &str) -> Value {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
