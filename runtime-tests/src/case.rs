// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns what surrounds a case: a private mount namespace, a tmpfs of its own, unique ids, clean-up, the host check.
//! Never lets a case touch the host's mounts or another case's state; never skips without writing the reason down.
//! The runtime comes from `RUNTIME`; a case gets a [`Test`]; its violations of the host check become its failure.

use crate::container::Container;
use crate::host::Host;
use crate::{Bundle, Invocation, Out};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which runtime is under test, by the name of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Oar,
    Runc,
    Crun,
    Other,
}

/// Where a case applies, and why it does not elsewhere.
#[derive(Debug, Default)]
pub struct Case {
    only_oar: Option<&'static str>,
    differs: Vec<(&'static str, &'static str)>,
    needs: Option<&'static str>,
}

/// A case that every runtime is expected to pass.
pub fn any() -> Case {
    Case::default()
}

/// A case about what only oar promises; `reason` says what that is.
pub fn oar_only(reason: &'static str) -> Case {
    Case { only_oar: Some(reason), ..Case::default() }
}

impl Case {
    /// `runtime` ("runc", "crun") is known not to pass, for this reason.
    pub fn differs(mut self, runtime: &'static str, reason: &'static str) -> Self {
        self.differs.push((runtime, reason));
        self
    }

    /// The case needs something that a machine may lack; `present` says whether this one has it.
    pub fn needs(mut self, present: bool, what: &'static str) -> Self {
        if !present {
            self.needs = Some(what);
        }
        self
    }

    fn skip(&self, kind: Kind) -> Option<String> {
        if let Some(what) = self.needs {
            return Some(format!("needs {what}"));
        }
        if let (Some(reason), true) = (self.only_oar, kind != Kind::Oar) {
            return Some(format!("oar only: {reason}"));
        }
        let name = match kind {
            Kind::Oar => "oar",
            Kind::Runc => "runc",
            Kind::Crun => "crun",
            Kind::Other => "other",
        };
        self.differs.iter().find(|(n, _)| *n == name).map(|(n, reason)| format!("{n} differs: {reason}"))
    }
}

/// One case at work.
#[derive(Debug)]
pub struct Test {
    /// Part of every id, environment and cgroup of this case, and of nothing else on the machine.
    pub tag: String,
    /// A tmpfs that ends with the case.
    pub dir: PathBuf,
    pub runtime: PathBuf,
    pub kind: Kind,
    serial: RefCell<usize>,
    ids: RefCell<Vec<String>>,
    pub(crate) pids: RefCell<Vec<i32>>,
}

static CASES: AtomicUsize = AtomicUsize::new(0);

/// Runs `body` as a case; the name of the case is the name of the function that calls this.
pub fn run_case<F: FnOnce(&Test)>(case: Case, body: F) {
    let name = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let violations = within_case(case, name, body);
    assert!(violations.is_empty(), "host check after {name}: {violations:#?}");
}

/// Like [`run_case`], but returns what the host check found.
pub fn within_case(case: Case, name: &str, body: impl FnOnce(&Test)) -> Vec<String> {
    let runtime = PathBuf::from(std::env::var_os("RUNTIME").expect("RUNTIME names the binary under test"));
    let runtime = fs::canonicalize(&runtime).unwrap_or_else(|e| panic!("RUNTIME={}: {e}", runtime.display()));
    let kind = match runtime.file_name().and_then(|n| n.to_str()) {
        Some("oar") => Kind::Oar,
        Some("runc") => Kind::Runc,
        Some("crun") => Kind::Crun,
        _ => Kind::Other,
    };
    if let Some(reason) = case.skip(kind) {
        record_skip(name, &reason);
        return Vec::new();
    }
    let tag = format!("rt{}x{}t", std::process::id(), CASES.fetch_add(1, Ordering::Relaxed));
    let place = tempfile::Builder::new().prefix(&format!("{tag}-")).tempdir().unwrap();
    enter_private_mounts();
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    mount(Some("tmpfs"), place.path(), Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    private_null(&place.path().join("null"));
    if kind == Kind::Crun {
        hide_unified_cgroups(&place.path().join("cgroup"));
    }
    let test = Test {
        tag,
        dir: place.path().to_path_buf(),
        runtime,
        kind,
        serial: RefCell::new(0),
        ids: RefCell::default(),
        pids: RefCell::default(),
    };
    fs::create_dir(test.state_root()).unwrap();
    fs::set_permissions(test.state_root(), fs::Permissions::from_mode(0o700)).unwrap();
    make_sentinel(&test.sentinel());
    let before = Host::look(&test);
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&test)));
    test.delete_all();
    let violations = before.violations(&test);
    Host::clean(&test);
    umount2(place.path(), MntFlags::MNT_DETACH).unwrap();
    if let Err(panic) = outcome {
        if !violations.is_empty() {
            eprintln!("host check after {name}: {violations:#?}");
        }
        resume_unwind(panic);
    }
    violations
}

fn record_skip(name: &str, reason: &str) {
    eprintln!("SKIP {name}: {reason}");
    if let Some(file) = std::env::var_os("RUNTIME_TESTS_SKIPS") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        file.write_all(format!("{name}: {reason}\n").as_bytes()).unwrap();
    }
}

/// What a failing runtime mounts where it should not ends with this thread.
fn enter_private_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root is needed");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// A `/dev/null` of this mount namespace, because it is the stdin of every run, and crun gives it away to the
/// container's user (T-54).
fn private_null(node: &Path) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    mknod(node, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)).unwrap();
    fs::set_permissions(node, fs::Permissions::from_mode(0o666)).unwrap();
    mount(Some(node), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

/// crun refuses hybrid hosts whose v2 side has controllers: it gets the v1 side alone, in this mount namespace.
fn hide_unified_cgroups(dir: &Path) {
    let host = Path::new("/sys/fs/cgroup");
    if !host.join("unified/cgroup.procs").exists() {
        return;
    }
    fs::create_dir(dir).unwrap();
    for entry in fs::read_dir(host).unwrap().flatten().filter(|e| e.file_name() != "unified") {
        let copy = dir.join(entry.file_name());
        fs::create_dir(&copy).unwrap();
        mount(Some(&entry.path()), &copy, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    mount(Some(dir), host, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).unwrap();
}

fn make_sentinel(dir: &Path) {
    for sub in ["", "dev", "dev/pts", "p", "sys"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for file in ["secret", "existing", "dev/ptmx", "dev/null", "dev/console", "dev/fd", "dev/stdin"] {
        fs::write(dir.join(file), format!("sentinel {file}\n")).unwrap();
    }
}

impl Test {
    /// The words for an unknown id; engines match `does not exist`, crun 1.8.1 passes the kernel's words on.
    pub fn unknown(&self) -> &'static str {
        if self.kind == Kind::Crun { "No such file or directory" } else { "does not exist" }
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Files outside of any root; the host check fails the case when anything of it changes.
    pub fn sentinel(&self) -> PathBuf {
        self.dir.join("sentinel")
    }

    pub(crate) fn next(&self) -> usize {
        *self.serial.borrow_mut() += 1;
        *self.serial.borrow()
    }

    /// A new bundle with the base config.
    pub fn bundle(&self) -> Bundle {
        let dir = self.dir.join(format!("bundle-{}", self.next()));
        fs::create_dir(&dir).unwrap();
        Bundle::create(&dir, &self.tag)
    }

    /// A new id; whatever has it when the case ends is deleted with `--force`.
    pub fn id(&self) -> String {
        let id = format!("{}-{}", self.tag, self.next());
        self.ids.borrow_mut().push(id.clone());
        id
    }

    /// An empty directory of this name in the case's own place.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// The runtime with `--root` and these arguments.
    pub fn rt(&self, args: &[&str]) -> Invocation {
        let mut argv: Vec<OsString> =
            vec![self.runtime.clone().into(), "--root".into(), self.state_root().into()];
        argv.extend(args.iter().map(OsString::from));
        self.program(argv)
    }

    /// The runtime with exactly these arguments.
    pub fn bare(&self, args: &[&str]) -> Invocation {
        let mut argv: Vec<OsString> = vec![self.runtime.clone().into()];
        argv.extend(args.iter().map(OsString::from));
        self.program(argv)
    }

    /// Any other program, with the same capture and deadline.
    pub fn program(&self, argv: Vec<OsString>) -> Invocation {
        Invocation::new(&self.dir, &self.tag, argv)
    }

    /// Writes the config, in a cgroup named by the id unless the case chose one.
    pub fn write(&self, bundle: &Bundle, id: &str) {
        let mut bundle = bundle.clone();
        if bundle.config["linux"].is_object() && bundle.config.pointer("/linux/cgroupsPath").is_none() {
            bundle.set("/linux/cgroupsPath", json!(format!("/{id}")));
        }
        bundle.write();
    }

    /// `run` in the foreground.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Out {
        self.run_with(bundle, &[]).run()
    }

    /// `run` with further flags before the id.
    pub fn run_with(&self, bundle: &Bundle, flags: &[&str]) -> Invocation {
        let id = self.id();
        self.write(bundle, &id);
        let dir = bundle.dir.to_str().unwrap();
        self.rt(&[&["run", "--bundle", dir], flags, &[&id]].concat())
    }

    /// `run` of a script in the base bundle; returns stdout.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let mut bundle = self.bundle();
        bundle.sh(script);
        self.run(&bundle).ok().to_owned()
    }

    /// `create`, which has to succeed.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Container<'_> {
        self.create_with(bundle, &[])
    }

    #[track_caller]
    pub fn create_with(&self, bundle: &Bundle, flags: &[&str]) -> Container<'_> {
        let (id, run) = self.creation(bundle, flags);
        let out = run.run();
        out.ok();
        Container::new(self, id, bundle, out)
    }

    /// `create` that may fail.
    #[track_caller]
    pub fn try_create(&self, bundle: &Bundle) -> Out {
        self.creation(bundle, &[]).1.run()
    }

    /// The id and the command of a `create`.
    pub fn creation(&self, bundle: &Bundle, flags: &[&str]) -> (String, Invocation) {
        let id = self.id();
        self.write(bundle, &id);
        let dir = bundle.dir.to_str().unwrap();
        let run = self.rt(&[&["create", "--bundle", dir], flags, &[&id]].concat());
        (id, run)
    }

    /// Like [`Test::creation`] with flags before the verb, as `--systemd-cgroup` is one.
    pub fn creation_as(&self, globals: &[&str], bundle: &Bundle, flags: &[&str]) -> (String, Invocation) {
        let id = self.id();
        self.write(bundle, &id);
        let dir = bundle.dir.to_str().unwrap();
        let run = self.rt(&[globals, &["create", "--bundle", dir], flags, &[&id]].concat());
        (id, run)
    }

    /// The container that a `create` has made.
    #[track_caller]
    pub fn container(&self, id: String, bundle: &Bundle, created: Out) -> Container<'_> {
        created.ok();
        Container::new(self, id, bundle, created)
    }

    /// create and start together: the first of the two that fails, or the output of the container that ended.
    #[track_caller]
    pub fn create_start(&self, bundle: &Bundle) -> Out {
        let (id, run) = self.creation(bundle, &[]);
        let created = run.run();
        if created.code != 0 {
            return created;
        }
        let container = Container::new(self, id, bundle, created.clone());
        let started = self.rt(&["start", &container.id]).run();
        if started.code != 0 {
            return started;
        }
        let code = container.wait();
        Out { code, stdout: container.output(), ..created }
    }

    pub fn delete_all(&self) {
        for id in self.ids.take() {
            if self.state_root().join(&id).symlink_metadata().is_ok() {
                let out = self.rt(&["delete", "--force", &id]).run();
                if out.code != 0 {
                    eprintln!("clean-up: {out}");
                }
            }
        }
        for pid in self.pids.take() {
            // A child by adoption that has ended is reaped; one that has not is the host check's business.
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).ok();
        }
    }
}
