// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `--systemd-cgroup` of an ordinary user: limits through the user's own systemd manager, felt by the container.
//! Never uses root's rights for the runtime: the case has them, the command runs as the user, in a scope of theirs.
//! Expectations come from systemd.resource-control(5) (Delegate=) and runc's docs/cgroup-v2.md (rootless).

use runtime_tests::{Bundle, Case, Invocation, Kind, Test, any, json, oar_only, patience, pure_v2, run_case};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An ordinary user whose systemd manager runs.
#[derive(Debug, Clone, Copy)]
struct User(u32);

impl User {
    fn find() -> Option<Self> {
        let entries = fs::read_dir("/run/user").into_iter().flatten().flatten();
        let ids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let mut ids: Vec<u32> =
            ids.filter(|id| *id >= 1000 && User(*id).run_dir().join("bus").exists()).collect();
        ids.sort_unstable();
        ids.first().copied().map(User)
    }

    fn run_dir(self) -> PathBuf {
        Path::new("/run/user").join(self.0.to_string())
    }

    /// A command as this user: no capability of the case is left to it.
    fn prefix(self) -> Vec<String> {
        let id = self.0.to_string();
        let run_dir = self.run_dir();
        let run_dir = run_dir.display();
        [
            "setpriv",
            "--reuid",
            &id,
            "--regid",
            &id,
            "--init-groups",
            "--inh-caps=-all",
            "env",
            &format!("XDG_RUNTIME_DIR={run_dir}"),
            &format!("DBUS_SESSION_BUS_ADDRESS=unix:path={run_dir}/bus"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// In a scope of the user's manager, from which a process may go to another one of it.
    fn wrap(self, run: Invocation) -> Invocation {
        let mut words = self.prefix();
        words.extend(["systemd-run", "--user", "--scope", "--quiet", "--collect", "--"].map(str::to_owned));
        run.wrap(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// In the cgroup of the case, which is not the user's, as that of a login session is not.
    fn outside(self, run: Invocation) -> Invocation {
        run.wrap(&self.prefix().iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn unit_state(self, unit: &str) -> String {
        let words = self.prefix();
        let out = Command::new(&words[0])
            .args(&words[1..])
            .args(["systemctl", "--user", "show", "--property", "LoadState", "--value", unit])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    #[track_caller]
    fn gone(self, unit: &str) {
        // systemd hears of an empty cgroup from the kernel, perhaps a moment after the runtime has.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10) * patience();
        while self.unit_state(unit) != "not-found" {
            assert!(std::time::Instant::now() < until, "{unit} is still there");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

trait AsUser {
    fn user_manager(self) -> Case;
}

impl AsUser for Case {
    fn user_manager(self) -> Case {
        self.needs(
            pure_v2() && User::find().is_some(),
            "an ordinary user with a systemd manager, on cgroup v2 alone",
        )
    }
}

fn give(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|e| give(&e.unwrap().path(), id));
    }
}

/// What `spec --rootless` makes: the user is root inside, and nobody else is there.
fn rootless(t: &Test, user: User) -> Bundle {
    let mut b = t.bundle();
    b.without_namespace("network").namespace("user", "").unmount("/sys").unmount("/dev/pts");
    b.mount(
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    );
    let map = json!([{"containerID": 0, "hostID": user.0, "size": 1}]);
    b.set("/linux/uidMappings", map.clone());
    b.set("/linux/gidMappings", map);
    b
}

/// The runtime as the user, with a state directory of the user's.
fn command(t: &Test, user: User, b: &Bundle, verb: &str, id: &str) -> Invocation {
    b.write();
    give(&b.dir, user.0);
    t.rt(&["--systemd-cgroup", verb, "--bundle", b.dir.to_str().unwrap(), id])
}

#[test]
fn limits_of_an_ordinary_user() {
    run_case(any().user_manager(), |t| {
        let user = User::find().unwrap();
        chown(t.state_root(), Some(user.0), Some(user.0)).unwrap();
        let mut b = rootless(t, user);
        let unit = format!("rt-{}.scope", t.tag);
        b.set("/linux/cgroupsPath", json!(format!("user.slice:rt:{}", t.tag)));
        b.set(
            "/linux/resources",
            json!({"pids": {"limit": 9}, "memory": {"limit": 32 << 20, "swap": 32 << 20}}),
        );
        b.sh("id -u; dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo hog $?; \
              (i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; echo all); exit 5");
        let id = t.id();
        let out = user.wrap(command(t, user, &b, "run", &id)).run();
        out.expect_code(5);
        assert_eq!(out.stdout, "0\nhog 137\n", "{out}");
        assert!(out.stderr.contains("fork"), "{out}");
        user.gone(&unit);
    });
}

#[test]
fn the_scope_is_in_the_users_part_of_the_tree() {
    run_case(any().user_manager(), |t| {
        let user = User::find().unwrap();
        chown(t.state_root(), Some(user.0), Some(user.0)).unwrap();
        let mut b = rootless(t, user);
        let unit = format!("rt-{}.scope", t.tag);
        b.set("/linux/cgroupsPath", json!(format!("user.slice:rt:{}", t.tag)));
        b.set("/linux/resources", json!({"pids": {"limit": 9}, "memory": {"limit": 32 << 20}}));
        b.sh("exec tail -f /dev/null");
        let id = t.id();
        user.wrap(command(t, user, &b, "create", &id)).run().ok();
        // Root does not work on another user's state, so that is asked as the user too.
        let state = user.wrap(t.rt(&["state", &id])).run();
        let state: serde_json::Value = serde_json::from_str(state.ok()).unwrap();
        let text = fs::read_to_string(format!("/proc/{}/cgroup", state["pid"])).unwrap();
        let dir = PathBuf::from(format!("/sys/fs/cgroup{}", text.trim().trim_start_matches("0::")));
        assert!(text.contains(&format!("/user@{}.service/", user.0)) && text.contains(&unit), "{text}");
        // crun keeps a sub-cgroup of its own below the scope.
        let scope = dir.ancestors().find(|a| a.ends_with(&unit)).unwrap();
        for (file, value) in [("pids.max", "9"), ("memory.max", "33554432")] {
            let found = [scope, &dir].map(|d| fs::read_to_string(d.join(file)).unwrap_or_default());
            // crun 1.8 limits its sub-cgroup only.
            let scope_counts = t.kind != Kind::Crun;
            let limited = found[0].trim() == value || !scope_counts && found[1].trim() == value;
            assert!(limited, "{file} of scope and sub-cgroup: {found:?}");
        }
        user.wrap(t.rt(&["start", &id])).run().ok();
        user.wrap(t.rt(&["delete", "--force", &id])).run().ok();
        user.gone(&unit);
        assert!(!scope.exists());
    });
}

#[test]
fn a_session_without_delegation_reaches_the_scope() {
    run_case(oar_only("systemd moves what cgroup2 does not let in").user_manager(), |t| {
        let user = User::find().unwrap();
        chown(t.state_root(), Some(user.0), Some(user.0)).unwrap();
        let mut b = rootless(t, user);
        let unit = format!("rt-{}.scope", t.tag);
        b.set("/linux/cgroupsPath", json!(format!("user.slice:rt:{}", t.tag)));
        b.set("/linux/resources", json!({"pids": {"limit": 9}}));
        b.sh("exec tail -f /dev/null");
        let id = t.id();
        user.outside(command(t, user, &b, "create", &id)).run().ok();
        user.outside(t.rt(&["start", &id])).run().ok();
        let out = user.outside(t.rt(&["exec", "--detach", &id, "sleep", "1000"])).run();
        out.ok();
        let ps = user.outside(t.rt(&["ps", "--format", "json", &id])).run();
        let pids: Vec<i32> = serde_json::from_str(ps.ok()).unwrap();
        assert_eq!(pids.len(), 2, "{ps}");
        for pid in &pids {
            let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            assert!(text.trim().ends_with(&unit), "{text}");
        }
        // It counts for the limit.
        let script = "i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; echo all";
        let out = user.outside(t.rt(&["exec", &id, "/bin/sh", "-c", script])).run();
        assert!(!out.stdout.contains("all") && out.stderr.contains("fork"), "{out}");
        // The detached one is a child of the case by now, and its namespace does not end before it is reaped.
        let state: serde_json::Value = user.outside(t.rt(&["state", &id])).run().ok().parse().unwrap();
        let detached = *pids.iter().find(|pid| state["pid"] != **pid).unwrap();
        Command::new("kill").args(["-KILL", &detached.to_string()]).status().unwrap();
        t.wait_pid(detached);
        user.outside(t.rt(&["delete", "--force", &id])).run().ok();
        user.gone(&unit);
    });
}

#[test]
fn a_session_without_delegation_has_no_cgroup_of_its_own() {
    run_case(oar_only("a container without a cgroup").user_manager(), |t| {
        let user = User::find().unwrap();
        chown(t.state_root(), Some(user.0), Some(user.0)).unwrap();
        let mut b = rootless(t, user);
        b.sh("exit 5");
        b.write();
        give(&b.dir, user.0);
        let id = t.id();
        let dir = b.dir.clone();
        let words = ["--debug", "run", "--bundle", dir.to_str().unwrap(), &id];
        let out = user.outside(t.rt(&words)).run();
        out.expect_code(5);
        let help = "`--systemd-cgroup` before the verb has the user's systemd make one";
        out.says("the container has no cgroup: ").says(help);
        b.set("/linux/resources", json!({"pids": {"limit": 9}}));
        b.write();
        user.outside(t.rt(&words[1..])).run().clean_error().says("pids.limit 9: ").says(help);
    });
}
