// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the ordinary user of a case: an id without an account, what they run, and what the host says of them.
//! Never uses root's rights for the runtime: the case has them, the command runs as the user, with a state directory of
//! theirs. Containers that the user has made end with the value.

use crate::{Bundle, Invocation, Out, Test, Value, copy_program, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

/// An id that nothing else on the machine has, also when this suite runs twice.
pub fn uid() -> u32 {
    500_000 + std::process::id() % 400_000
}

/// The user at work in a case.
#[derive(Debug)]
pub struct User<'t> {
    pub t: &'t Test,
    /// XDG_RUNTIME_DIR.
    pub run_dir: PathBuf,
    /// The runtime, where the user can reach it.
    pub runtime: PathBuf,
    ids: std::cell::RefCell<Vec<String>>,
}

impl<'t> User<'t> {
    pub fn new(t: &'t Test) -> Self {
        let run_dir = t.scratch("run-user");
        lchown(&run_dir, Some(uid()), Some(uid())).unwrap();
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o700)).unwrap();
        let runtime = t.scratch("bin").join(t.runtime.file_name().unwrap());
        copy_program(&t.runtime, &runtime);
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        User { t, run_dir, runtime, ids: Default::default() }
    }

    /// A program as the user: no capability of the case is left to it.
    pub fn program(&self, argv: &[&str]) -> Invocation {
        let id = uid().to_string();
        let run_dir = self.run_dir.to_str().unwrap();
        self.t
            .program(argv.iter().map(Into::into).collect())
            .wrap(&["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"])
            .env("XDG_RUNTIME_DIR", run_dir)
            .env("HOME", run_dir)
    }

    pub fn rt(&self, args: &[&str]) -> Invocation {
        self.program(&[&[self.runtime.to_str().unwrap()], args].concat())
    }

    pub fn id(&self) -> String {
        let id = self.t.id();
        self.ids.borrow_mut().push(id.clone());
        id
    }

    /// A bundle of the user's: as root of the container, with nobody else there.
    pub fn bundle(&self) -> Bundle {
        let mut b = self.t.bundle();
        b.without_namespace("network").namespace("user", "").unmount("/sys").unmount("/dev/pts");
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        b.mount("/dev/pts", "devpts", "devpts", &options);
        let map = json!([{"containerID": 0, "hostID": uid(), "size": 1}]);
        b.set("/linux/uidMappings", map.clone());
        b.set("/linux/gidMappings", map);
        b
    }

    /// The words of a verb that makes a container of the bundle.
    pub fn making<'a>(&self, b: &'a Bundle, words: &[&'a str], id: &'a str) -> Invocation {
        b.write();
        give(&b.dir);
        self.rt(&[words, &["--bundle", b.dir.to_str().unwrap(), id]].concat())
    }

    pub fn run(&self, b: &Bundle) -> Out {
        self.making(b, &["run"], &self.id()).run()
    }

    /// Created and started, and it has said `up`.
    pub fn running(&self, b: &Bundle) -> (String, i32) {
        let id = self.id();
        let created = self.making(b, &["create"], &id).run();
        created.ok();
        self.rt(&["start", &id]).run().ok();
        let output = || fs::read_to_string(&created.stdout_path).unwrap();
        self.t.wait_for(&self.t.dir, || output().contains("up"));
        let pid = self.state(&id)["pid"].as_i64().unwrap() as i32;
        (id, pid)
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(self.rt(&["state", id]).run().ok()).unwrap()
    }

    pub fn pids(&self, id: &str) -> Vec<i64> {
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

pub fn give(path: &Path) {
    lchown(path, Some(uid()), Some(uid())).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|e| give(&e.unwrap().path()));
    }
}

/// What the host says of the user, in the place of its own files, for one command.
#[derive(Debug)]
pub struct Accounts<'a> {
    /// Lines of /etc/subuid and /etc/subgid.
    pub sub_ids: &'a str,
    /// newuidmap and newgidmap are there.
    pub helpers: bool,
}

impl Accounts<'_> {
    /// A range that no account of the machine has.
    pub const RANGE: u32 = 1_000_000_000;

    pub fn of(&self, t: &Test, run: Invocation) -> Invocation {
        let (passwd, sub_ids) = (t.dir.join("passwd"), t.dir.join("sub-ids"));
        fs::write(&passwd, format!("root:x:0:0::/:/bin/sh\nann:x:{0}:{0}::/:/bin/sh\n", uid())).unwrap();
        fs::write(&sub_ids, self.sub_ids).unwrap();
        let mut script = format!("set -e; mount --bind {} /etc/passwd", passwd.display());
        for file in ["subuid", "subgid"] {
            script += &format!("; mount --bind {} /etc/{file}", sub_ids.display());
        }
        if !self.helpers {
            script +=
                "; for file in newuidmap newgidmap; do mount --bind /dev/null $(command -v $file); done";
        }
        run.wrap(&["unshare", "-m", "sh", "-c", &format!("{script}; exec \"$@\""), "sh"])
    }
}
