// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns containers of an ordinary user on a host that gives them nothing: no account, no cgroup, no systemd.
//! Never uses root's rights for the runtime: the case has them, the command runs as the user, with a state directory of
//! theirs. Expectations come from user_namespaces(7), pid_namespaces(7) and the project's own promises.

use runtime_tests::{Bundle, Invocation, Kind, Out, Test, Value, any, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

const UID: u32 = 424_242;

/// The user at work in a case.
struct User<'t> {
    t: &'t Test,
    /// XDG_RUNTIME_DIR.
    run_dir: PathBuf,
    /// The runtime, where the user can reach it.
    runtime: PathBuf,
    ids: std::cell::RefCell<Vec<String>>,
}

impl<'t> User<'t> {
    fn new(t: &'t Test) -> Self {
        let run_dir = t.scratch("run-user");
        lchown(&run_dir, Some(UID), Some(UID)).unwrap();
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o700)).unwrap();
        let runtime = t.scratch("bin").join(t.runtime.file_name().unwrap());
        fs::copy(&t.runtime, &runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        User { t, run_dir, runtime, ids: Default::default() }
    }

    /// A program as the user: no capability of the case is left to it.
    fn program(&self, argv: &[&str]) -> Invocation {
        let id = UID.to_string();
        let run_dir = self.run_dir.to_str().unwrap();
        self.t
            .program(argv.iter().map(Into::into).collect())
            .wrap(&["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"])
            .env("XDG_RUNTIME_DIR", run_dir)
            .env("HOME", run_dir)
    }

    fn rt(&self, args: &[&str]) -> Invocation {
        self.program(&[&[self.runtime.to_str().unwrap()], args].concat())
    }

    fn id(&self) -> String {
        let id = self.t.id();
        self.ids.borrow_mut().push(id.clone());
        id
    }

    /// A bundle of the user's: as root of the container, with nobody else there.
    fn bundle(&self) -> Bundle {
        let mut b = self.t.bundle();
        b.without_namespace("network").namespace("user", "").unmount("/sys").unmount("/dev/pts");
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        b.mount("/dev/pts", "devpts", "devpts", &options);
        let map = json!([{"containerID": 0, "hostID": UID, "size": 1}]);
        b.set("/linux/uidMappings", map.clone());
        b.set("/linux/gidMappings", map);
        b
    }

    /// The words of a verb that makes a container of the bundle.
    fn making<'a>(&self, b: &'a Bundle, words: &[&'a str], id: &'a str) -> Invocation {
        b.write();
        give(&b.dir);
        self.rt(&[words, &["--bundle", b.dir.to_str().unwrap(), id]].concat())
    }

    fn run(&self, b: &Bundle) -> Out {
        self.making(b, &["run"], &self.id()).run()
    }

    /// Created and started, and it has said `up`.
    fn running(&self, b: &Bundle) -> (String, i32) {
        let id = self.id();
        let created = self.making(b, &["create"], &id).run();
        created.ok();
        self.rt(&["start", &id]).run().ok();
        let output = || fs::read_to_string(&created.stdout_path).unwrap();
        self.t.wait_for(&self.t.dir, || output().contains("up"));
        let pid = self.state(&id)["pid"].as_i64().unwrap() as i32;
        (id, pid)
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(self.rt(&["state", id]).run().ok()).unwrap()
    }

    fn pids(&self, id: &str) -> Vec<i64> {
        let out = self.rt(&["ps", "--format", "json", id]).run();
        let list: Value = serde_json::from_str(out.ok()).unwrap();
        list.as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap()).collect()
    }
}

impl Drop for User<'_> {
    /// Root does not work on another user's state.
    fn drop(&mut self) {
        for id in self.ids.take() {
            self.rt(&["delete", "--force", &id]).run();
        }
    }
}

fn give(path: &Path) {
    lchown(path, Some(UID), Some(UID)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|e| give(&e.unwrap().path()));
    }
}

fn alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X'])
}

#[test]
fn without_a_cgroup_it_runs() {
    run_case(any(), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("id -u; hostname; exit 5");
        let out = user.run(&b);
        out.expect_code(5);
        assert_eq!(out.stdout, "0\ncoracle-test\n", "{out}");
        if t.kind == Kind::Oar {
            assert_eq!(out.stderr, "", "{out}");
        }
    });
}

#[test]
fn that_there_is_no_cgroup_is_told() {
    run_case(oar_only("notes of --debug, and the plan"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        let id = user.id();
        let out = user.making(&b, &["--debug", "run"], &id).run();
        out.ok();
        out.says("the container has no cgroup: uid 424242 may not make a cgroup here; ");
        let out = user.making(&b, &["run", "--dry-run"], &id).run();
        assert!(out.ok().contains("cgroup   none: the caller may not make one\n"), "{out}");
        // Whoever names one hears of it.
        b.set("/linux/cgroupsPath", json!(format!("/{}", t.tag)));
        let out = user.making(&b, &["run"], &id).run();
        out.ok();
        out.says(
            "warning: linux.cgroupsPath: the container has no cgroup: uid 424242 may not make a cgroup here",
        );
        // Without a pid namespace nobody can tell its processes from others.
        b.without_namespace("pid").unmount("/proc").mount("/proc", "none", "/proc", &["rbind"]);
        let out = user.making(&b, &["run"], &id).run();
        out.ok();
        out.says("only its first process can be found");
    });
}

#[test]
fn limits_without_a_cgroup_are_an_error() {
    run_case(oar_only("words of the error"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.set("/linux/resources", json!({"memory": {"limit": 1 << 25}, "pids": {"limit": 9}}));
        let out = user.run(&b);
        out.clean_error();
        out.says("linux.resources: memory.limit 33554432: uid 424242 may not make a cgroup here; ");
        out.says("linux.resources: pids.limit 9: uid 424242 may not make a cgroup here; ");
        assert!(!out.stderr.contains("permission denied"), "{out}");
        // Rules for devices need no cgroup: nodes that this user could not open are not there.
        b.set("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}]}));
        user.run(&b).ok();
    });
}

#[test]
fn lifecycle_without_a_cgroup() {
    run_case(any(), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("trap 'exit 3' TERM; echo up; while :; do sleep 1000 & wait; done");
        let (id, pid) = user.running(&b);
        assert_eq!(user.state(&id)["status"], "running");
        let out = user.rt(&["exec", &id, "/bin/sh", "-c", "id -u; exit 7"]).run();
        out.expect_code(7);
        assert_eq!(out.stdout, "0\n", "{out}");
        user.rt(&["delete", &id]).run().failed();
        user.rt(&["kill", &id, "KILL"]).run().ok();
        t.wait_pid(pid);
        assert_eq!(user.state(&id)["status"], "stopped");
        user.rt(&["delete", &id]).run().ok();
        user.rt(&["state", &id]).run().failed().says(t.unknown());
    });
}

#[test]
fn processes_are_found_by_the_pid_namespace() {
    run_case(oar_only("ps and kill --all without a cgroup"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        // A namespace inside of the container's is the container's too.
        b.sh("trap 'echo heard >/tmp/first' TERM
              mkfifo /tmp/up
              sh -c 'trap \"echo heard >/tmp/second; exit\" TERM; echo >/tmp/up; sleep 1000 & wait' & read x </tmp/up
              unshare -U -p -f sh -c 'echo >/tmp/up; exec sleep 1000' & read x </tmp/up
              echo up; while :; do sleep 1000 & wait; done");
        let (id, pid) = user.running(&b);
        let pids = user.pids(&id);
        assert!(pids.contains(&pid.into()), "{pids:?}");
        let deep = pids.iter().filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
            line.split_whitespace().count() == 3
        });
        assert_eq!(deep.count(), 1, "{pids:?}");
        for pid in &pids {
            let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
            assert!(environment.contains(&t.tag), "{pid}: {environment}");
        }
        user.rt(&["kill", "--all", &id, "TERM"]).run().ok();
        let rootfs = b.rootfs();
        let heard = || ["first", "second"].iter().all(|name| rootfs.join("tmp").join(name).exists());
        t.wait_for(&rootfs.join("tmp"), heard);
        user.rt(&["kill", "--all", &id, "KILL"]).run().ok();
        t.wait_pid(pid);
        assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
        user.rt(&["kill", &id, "TERM"]).run().clean_error().says("container not running");
        user.rt(&["kill", "--all", &id, "TERM"]).run().ok();
        user.rt(&["delete", &id]).run().ok();
    });
}

#[test]
fn what_needs_a_cgroup_says_so() {
    run_case(oar_only("words of the errors"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("echo up; exec sleep 1000");
        let (id, pid) = user.running(&b);
        let out = user.rt(&["pause", &id]).run();
        out.clean_error().says("its processes cannot be paused: the container has no cgroup");
        user.rt(&["resume", &id]).run().clean_error().says("container not paused");
        let out = user.rt(&["update", "--memory", "100000000", &id]).run();
        out.clean_error().says("limits cannot be changed: the container has no cgroup");
        // Those of the process itself are no cgroup's.
        user.rt(&["update", "--rlimit", "RLIMIT_NOFILE=99:99", &id]).run().ok();
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some("99"), "{limits}");
        let out = user.rt(&["events", "--stats", &id]).run();
        let stats: Value = serde_json::from_str(out.ok()).unwrap();
        assert_eq!(stats["data"]["pids"]["current"], 1, "{out}");
        user.rt(&["delete", "--force", &id]).run().ok();
        assert!(!alive(pid.into()));
    });
}
