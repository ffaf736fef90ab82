// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `--systemd-cgroup`: the scope that systemd keeps for a container, its properties, its files, its end.
//! Never touches a unit without the case's tag; slices that systemd makes on the way are stopped again.
//! Expectations come from systemd.resource-control(5), org.freedesktop.systemd1(5) and runc's docs/systemd.md.

use runtime_tests::{
    Bundle, Case, Container, Kind, Out, Test, any, json, oar_only, patience, pure_v2, run_case,
    v2_controllers,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = "/sys/fs/cgroup";
const SYSTEMD: &[&str] = &["--systemd-cgroup"];
const IDLE: &str = "exec tail -f /dev/null";

trait OnSystemd {
    fn systemd(self) -> Case;
}

impl OnSystemd for Case {
    /// A running systemd, and cgroup2 alone.
    fn systemd(self) -> Case {
        let controllers = v2_controllers();
        let present = Path::new("/run/systemd/private").exists()
            && pure_v2()
            && ["memory", "cpu", "pids"].iter().all(|c| controllers.iter().any(|there| there == c));
        self.needs(present, "a running systemd on cgroup v2 alone")
    }
}

#[track_caller]
fn systemctl(args: &[&str]) -> String {
    let out = Command::new("systemctl").args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "systemctl {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

/// Properties of a unit; one that is not there has `LoadState=not-found`.
#[track_caller]
fn show(unit: &str, names: &[&str]) -> BTreeMap<String, String> {
    let text = systemctl(&["show", "--property", &names.join(","), unit]);
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[track_caller]
fn gone(unit: &str) {
    // systemd hears of an empty cgroup from the kernel, perhaps a moment after the runtime has.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10) * patience();
    loop {
        let found = show(unit, &["LoadState", "ActiveState"]);
        // A slice needs no file, so that any name of one counts as loaded.
        if found["LoadState"] == "not-found" || unit.ends_with(".slice") && found["ActiveState"] == "inactive"
        {
            return;
        }
        assert!(std::time::Instant::now() < until, "{unit} is still there: {found:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The cgroup directory of a unit.
#[track_caller]
fn directory(unit: &str) -> PathBuf {
    let found = show(unit, &["ControlGroup"]);
    let path = found["ControlGroup"].trim_start_matches('/');
    assert!(!path.is_empty(), "{unit} has no cgroup");
    Path::new(ROOT).join(path)
}

/// `system.slice:rt:TAG-n`, and the unit that it stands for.
fn place(t: &Test, b: &mut Bundle, name: &str) -> String {
    b.set("/linux/cgroupsPath", json!(format!("system.slice:rt:{}{name}", t.tag)));
    format!("rt-{}{name}.scope", t.tag)
}

#[track_caller]
fn create<'t>(t: &'t Test, b: &Bundle, flags: &[&str]) -> Container<'t> {
    let (id, run) = t.creation_as(SYSTEMD, b, flags);
    let out = run.run();
    t.container(id, b, out)
}

fn run(t: &Test, b: &Bundle, flags: &[&str]) -> Out {
    let id = t.id();
    t.write(b, &id);
    let dir = b.dir.to_str().unwrap();
    t.rt(&[SYSTEMD, &["run", "--bundle", dir], flags, &[&id]].concat()).run()
}

fn limits() -> runtime_tests::Value {
    json!({
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"quota": 50_000, "period": 100_000},
        "pids": {"limit": 17},
    })
}

#[track_caller]
fn assert_limit_files(dir: &Path) {
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.max", "50000 100000"),
        ("pids.max", "17"),
    ] {
        let found =
            fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{}/{file}: {e}", dir.display()));
        assert_eq!(found.trim(), value, "{file}");
    }
}

/// The cgroup that has the limits: the scope, but with crun 1.8 only the sub-cgroup that it makes there.
fn limited(t: &Test, c: &Container<'_>, unit: &str) -> PathBuf {
    let scope = directory(unit);
    let max = fs::read_to_string(scope.join("memory.max")).unwrap();
    if t.kind == Kind::Crun && max.trim() == "max" { c.cgroups().unified().to_path_buf() } else { scope }
}

#[test]
fn the_unit_knows_the_limits() {
    run_case(any().systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.set("/linux/resources", limits());
        b.sh(IDLE);
        let c = create(t, &b, &[]);
        let expected = [
            ("Slice", "system.slice"),
            ("Delegate", "yes"),
            ("DefaultDependencies", "no"),
            ("TasksMax", "17"),
            ("MemoryMax", "67108864"),
            ("MemoryLow", "33554432"),
            ("CPUQuotaPerSecUSec", "500ms"),
            ("ActiveState", "active"),
            ("ControlGroup", &*format!("/system.slice/{unit}")),
        ];
        let found = show(&unit, &expected.map(|(name, _)| name));
        // crun 1.8 does not tell systemd about limits.
        let told = if t.kind == Kind::Crun { &["Slice", "Delegate", "ActiveState"][..] } else { &[] };
        for (name, value) in expected.into_iter().filter(|(name, _)| told.is_empty() || told.contains(name)) {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name} of {found:?}");
        }
        if t.kind != Kind::Crun {
            let policy = &show(&unit, &["DevicePolicy"])["DevicePolicy"];
            assert_eq!(policy, "strict");
        }
        let dir = limited(t, &c, &unit);
        assert_limit_files(&dir);
        let text = fs::read_to_string(c.proc("cgroup")).unwrap();
        assert!(text.starts_with(&format!("0::/system.slice/{unit}")), "{text}");
        // The verbs know the driver without being told.
        c.start();
        assert_eq!(c.status(), "running");
        c.kill("KILL").ok();
        assert_eq!(c.wait(), 137);
        c.verb(&["delete"]).ok();
        gone(&unit);
        assert!(!dir.exists());
    });
}

#[test]
fn a_running_container_is_deleted_by_force_with_its_unit() {
    run_case(any().systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.sh(&format!("sleep 1000 & {IDLE}"));
        let c = create(t, &b, &[]);
        c.start();
        let dir = directory(&unit);
        c.verb(&["delete", "--force"]).ok();
        gone(&unit);
        assert!(!dir.exists());
    });
}

#[test]
fn run_in_the_foreground_under_a_limit() {
    run_case(any().systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.set("/linux/resources", json!({"pids": {"limit": 8}}));
        b.sh("(i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; echo all); exit 5");
        let out = run(t, &b, &[]);
        out.expect_code(5);
        assert!(out.stderr.contains("fork") && !out.stdout.contains("all"), "{out}");
        gone(&unit);
    });
}

#[test]
fn a_failing_start_leaves_no_unit() {
    run_case(any().systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "exec");
        b.args(&["/missing"]);
        run(t, &b, &[]).failed();
        gone(&unit);
        let mut b = t.bundle();
        let unit = place(t, &mut b, "mount");
        b.mount("/data", "bind", "/nonexistent-source", &["bind"]);
        let (_, create) = t.creation_as(SYSTEMD, &b, &[]);
        create.run().failed();
        gone(&unit);
    });
}

#[test]
fn an_empty_path_is_the_runtimes_own() {
    run_case(any().systemd(), |t| {
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(""));
        let c = create(t, &b, &[]);
        let text = fs::read_to_string(c.proc("cgroup")).unwrap();
        let end = match t.kind {
            Kind::Runc => format!("/system.slice/runc-{}.scope", c.id),
            Kind::Crun => format!("/crun-{}.scope/container", c.id),
            _ => format!("/system.slice/oar-{}.scope", c.id),
        };
        assert!(text.trim_end().ends_with(&end), "{text}");
    });
}

/// Slices that systemd made for the case.
struct Slices(Vec<String>);

impl Drop for Slices {
    fn drop(&mut self) {
        for slice in &self.0 {
            if !Command::new("systemctl").args(["stop", slice]).status().is_ok_and(|s| s.success()) {
                eprintln!("clean-up: {slice} stays");
            }
        }
    }
}

#[test]
fn nested_slices_and_a_slice_as_the_unit() {
    run_case(any().systemd().differs("crun", "makes no slice unit"), |t| {
        let outer = t.tag.clone();
        let _slices =
            Slices(vec![format!("{outer}-b-c.slice"), format!("{outer}-b.slice"), format!("{outer}.slice")]);
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("{outer}-b.slice:p:{outer}")));
        let c = create(t, &b, &[]);
        let text = fs::read_to_string(c.proc("cgroup")).unwrap();
        assert_eq!(text.trim(), format!("0::/{outer}.slice/{outer}-b.slice/p-{outer}.scope"));
        c.verb(&["delete", "--force"]).ok();
        gone(&format!("p-{outer}.scope"));
        if t.kind != Kind::Oar {
            return; // runc makes a slice but puts no process into it.
        }
        b.set("/linux/cgroupsPath", json!(format!("{outer}-b.slice::{outer}-b-c.slice")));
        b.set("/linux/resources", json!({"pids": {"limit": 17}}));
        let c = create(t, &b, &[]);
        let text = fs::read_to_string(c.proc("cgroup")).unwrap();
        assert!(text.contains(&format!("/{outer}-b.slice/{outer}-b-c.slice")), "{text}");
        assert_eq!(show(&format!("{outer}-b-c.slice"), &["TasksMax"])["TasksMax"], "17");
        c.verb(&["delete", "--force"]).ok();
        gone(&format!("{outer}-b-c.slice"));
    });
}

#[test]
fn wrong_forms_are_refused() {
    run_case(oar_only("the place and the rule").systemd(), |t| {
        for path in [
            "/absolute",
            "relative/path",
            "a:b",
            "system.slice:a:b:c",
            "system:p:n",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "system.slice:p:",
            "system.slice:p:a/b",
            "system.slice:p:a b",
            "../x.slice:p:n",
            "::-.slice",
        ] {
            let mut b = t.bundle();
            b.set("/linux/cgroupsPath", json!(path));
            let (_, create) = t.creation_as(SYSTEMD, &b, &[]);
            create.run().clean_error().says("linux.cgroupsPath");
        }
    });
}

#[test]
fn a_name_in_use_is_refused_and_its_owner_lives() {
    run_case(any().systemd().differs("runc", "1.1 takes it over").differs("crun", "takes it over"), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.sh(IDLE);
        let c = create(t, &b, &[]);
        c.start();
        let (id, second) = t.creation_as(SYSTEMD, &b, &[]);
        let out = second.run();
        out.failed();
        t.rt(&["delete", "--force", &id]).run();
        assert_eq!(c.status(), "running", "{out}");
        assert_eq!(show(&unit, &["ActiveState"])["ActiveState"], "active", "{out}");
        if t.kind == Kind::Oar {
            out.clean_error().says(&unit);
        }
    });
}

/// A stranger's scope that lives elsewhere under the name that the container's had, or was to have.
#[test]
fn a_strangers_unit_of_that_name_lives_on() {
    run_case(oar_only("the mark by which oar knows its unit; not run on the peers").systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.sh(IDLE);
        let c = create(t, &b, &[]);
        c.start();
        c.kill("KILL").ok();
        c.wait();
        gone(&unit);
        let slice = format!("{}other.slice", t.tag.replace('-', ""));
        let stranger = ["--scope", "--quiet", "--collect", "--slice", &slice, "--unit", &unit];
        let mut stranger =
            Command::new("systemd-run").args(stranger).args(["sleep", "1000"]).spawn().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20) * patience();
        while show(&unit, &["ActiveState"])["ActiveState"] != "active" {
            assert!(std::time::Instant::now() < until, "the stranger does not start");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let ended = c.verb(&["delete"]);
        // And one whose create is killed before it has a unit.
        let (id, killed) = t.creation_as(SYSTEMD, &b, &[]);
        killed.wrap(&["strace", "-o", "/dev/null", "-e", "inject=clone3:signal=KILL:when=1"]).run();
        let forced = t.rt(&["delete", "--force", &id]).run();
        let lives = show(&unit, &["ActiveState"])["ActiveState"] == "active";
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        gone(&unit);
        systemctl(&["stop", &slice]);
        ended.ok();
        forced.ok();
        assert!(lives, "{ended}{forced}");
    });
}

/// Of another pid namespace: the number of our process would be somebody else's there.
#[test]
fn a_systemd_of_another_pid_namespace_is_not_asked() {
    run_case(oar_only("that oar refuses; not run on the peers").systemd(), |t| {
        let mut b = t.bundle();
        place(t, &mut b, "");
        let (_, create) = t.creation_as(SYSTEMD, &b, &[]);
        let out = create.wrap(&["unshare", "--pid", "--fork", "--mount-proc"]).run();
        out.clean_error().says("pid namespace");
    });
}

/// All limits in the directory; what counts is left out.
fn values(dir: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_file())) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let limit =
            [".max", ".low", ".high", ".min", ".weight", ".idle", ".burst", ".cpus", ".mems", ".group"];
        if let (true, Ok(text)) = (limit.iter().any(|l| name.ends_with(l)), fs::read_to_string(entry.path()))
        {
            all.insert(name, text);
        }
    }
    all
}

#[test]
fn limits_and_devices_survive_a_daemon_reload() {
    run_case(any().systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        let mut resources = limits();
        resources["unified"] = json!({"memory.high": "50331648"});
        resources["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]);
        b.set("/linux/resources", resources);
        for set in ["bounding", "effective", "permitted"] {
            b.set(&format!("/process/capabilities/{set}/-"), json!("CAP_SYSLOG"));
        }
        // Each line that comes through the fifo is answered by a file: r or w for what may be opened, - for EPERM.
        let talk = t.scratch("talk");
        b.mount("/talk", "bind", talk.to_str().unwrap(), &["bind", "rw"]);
        b.mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
        b.sh("mknod /tmp/kmsg c 1 11; mknod /tmp/loop c 10 237; mkfifo /talk/ask; \
              try() { case \"$( (eval \"$2\") 2>&1)\" in *'not permitted'*) a=$a-;; *) a=$a$1;; esac; }; \
              while read n < /talk/ask; do a=; try r ': < /tmp/kmsg'; try w ': >> /tmp/kmsg'; try r ': < /tmp/loop'; \
              try w ': >> /dev/null'; echo $a > /talk/part; mv /talk/part /talk/answer$n; done");
        let c = create(t, &b, &[]);
        c.start();
        let ask = |n: u32| {
            t.wait_for(&talk, || talk.join("ask").exists());
            fs::write(talk.join("ask"), format!("{n}\n")).unwrap();
            let answer = talk.join(format!("answer{n}"));
            t.wait_for(&talk, || answer.exists());
            fs::read_to_string(answer).unwrap()
        };
        let dir = limited(t, &c, &unit);
        assert_limit_files(&dir);
        assert_eq!(ask(1), "r--w\n");
        let before = values(&dir);
        systemctl(&["daemon-reload"]);
        assert_eq!(values(&dir), before);
        assert_eq!(ask(2), "r--w\n", "after the reload");
        assert!(before.contains_key("memory.high"), "{before:?}");
    });
}

#[test]
fn an_update_and_a_pause_survive_a_daemon_reload() {
    run_case(oar_only("all limits, and the freezer").systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.set("/linux/resources", limits()).sh(IDLE);
        let c = create(t, &b, &[]);
        c.start();
        let dir = limited(t, &c, &unit);
        // A quota that is no whole percents, as systemd keeps them.
        let flags = [
            "update",
            "--memory",
            "80m",
            "--memory-swap",
            "96m",
            "--cpu-quota",
            "12345",
            "--pids-limit",
            "23",
        ];
        c.verb(&flags).ok();
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
        let files = || ["memory.max", "memory.swap.max", "cpu.max", "pids.max"].map(read);
        assert_eq!(files(), ["83886080", "16777216", "12345 100000", "23"]);
        let known = show(&unit, &["MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "TasksMax"]);
        assert_eq!(known["MemoryMax"], "83886080");
        assert_eq!((known["MemorySwapMax"].as_str(), known["TasksMax"].as_str()), ("16777216", "23"));
        assert_eq!(known["CPUQuotaPerSecUSec"], "130ms");
        // An update of one limit of a controller leaves the others as exact as they were.
        c.verb(&["update", "--cpu-share", "512"]).ok();
        assert_eq!((read("cpu.max").as_str(), read("cpu.weight").as_str()), ("12345 100000", "59"));
        c.verb(&["pause"]).ok();
        systemctl(&["daemon-reload"]);
        let [memory, swap, _, pids] = files();
        assert_eq!([memory.as_str(), swap.as_str(), pids.as_str()], ["83886080", "16777216", "23"]);
        assert_eq!(c.status(), "paused");
        // What fails leaves the unit as it was.
        c.verb(&["update", "--memory", "4096", "--pids-limit", "9"]).clean_error().says("bytes are in use");
        assert_eq!(show(&unit, &["MemoryMax", "TasksMax"]), {
            let mut same = known.clone();
            same.retain(|name, _| name == "MemoryMax" || name == "TasksMax");
            same
        });
        c.verb(&["delete", "--force"]).ok();
        gone(&unit);
    });
}

#[test]
fn annotations_set_properties() {
    run_case(any().systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.set("/annotations/org.systemd.property.TimeoutStopUSec", json!("uint64 123456000"));
        b.set("/annotations/org.systemd.property.CollectMode", json!("'inactive-or-failed'"));
        let names = ["TimeoutStopUSec", "CollectMode"];
        let flags: &[&str] = if t.kind == Kind::Oar { &["--allow-annotations"] } else { &[] };
        let c = create(t, &b, flags);
        let found = show(&unit, &names);
        assert!(found["TimeoutStopUSec"].starts_with("2min 3.456"), "{found:?}"); // 257 says 3.456000s
        assert_eq!(found["CollectMode"], "inactive-or-failed");
        c.verb(&["delete", "--force"]).ok();
        gone(&unit);
        if t.kind == Kind::Oar {
            // Never without the caller's word.
            let c = create(t, &b, &[]);
            assert!(!show(&unit, &names)["TimeoutStopUSec"].starts_with("2min"));
            c.verb(&["delete", "--force"]).ok();
            for (name, value) in
                [("TimeoutStopUSec", "uint64 x"), ("NoSuchProperty", "true"), ("CollectMode", "'")]
            {
                let mut b = t.bundle();
                let unit = place(t, &mut b, "wrong");
                b.set(&format!("/annotations/org.systemd.property.{name}"), json!(value));
                let (_, create) = t.creation_as(SYSTEMD, &b, flags);
                create.run().clean_error().says(name);
                gone(&unit);
            }
        }
    });
}

/// The container's view of /sys/fs/cgroup, read-only, with or without a cgroup namespace.
fn view(t: &Test, namespace: bool) -> (String, Out) {
    let mut b = t.bundle();
    let unit = place(t, &mut b, "");
    if namespace {
        b.namespace("cgroup", "");
    }
    b.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
    b.sh(
        "cat /proc/self/cgroup; [ -e /sys/fs/cgroup/cgroup.type ] && echo own; (mkdir /sys/fs/cgroup/x) 2>&1",
    );
    (unit, run(t, &b, &[]))
}

#[test]
fn the_view_inside_a_cgroup_namespace() {
    run_case(any().systemd(), |t| {
        let (_, out) = view(t, true);
        assert!(out.stdout.starts_with("0::/\nown\n") && out.stdout.contains("Read-only"), "{out}");
    });
}

#[test]
fn the_view_inside_without_a_cgroup_namespace() {
    let differs = "mounts the whole tree, and that resets nsdelegate on the host";
    run_case(any().systemd().differs("runc", differs).differs("crun", differs), |t| {
        let (unit, out) = view(t, false);
        let wanted = format!("0::/system.slice/{unit}\nown\n");
        assert!(out.stdout.starts_with(&wanted) && out.stdout.contains("Read-only"), "{out}");
    });
}

#[test]
fn a_leaf_below_the_scope() {
    run_case(oar_only("--cgroup-leaf").systemd(), |t| {
        let mut b = t.bundle();
        let unit = place(t, &mut b, "");
        b.set("/linux/resources", json!({"pids": {"limit": 50}}));
        b.namespace("cgroup", "");
        b.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "rw"]);
        b.sh("cat /proc/self/cgroup; cd /sys/fs/cgroup; cat pids.max; mkdir sub && echo +pids > cgroup.subtree_control && \
              echo 6 > sub/pids.max && cat sub/pids.max");
        let out = run(t, &b, &["--cgroup-leaf"]);
        assert_eq!(out.ok(), "0::/init\n50\n6\n", "{out}");
        gone(&unit);
    });
}
