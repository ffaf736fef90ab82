// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns a created container of a case: its verbs, its end as an exit code, its deletion on drop.
//! Never polls: the end of a process is waited for by pidfd, a file by inotify through `wait_for`.
//! The id and the bundle come from the case; the pid comes from `state`.

use crate::{Bundle, Kind, Out, Test, Value};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A container that `create` made; the test process is the subreaper, thus the parent, of its init.
#[derive(Debug)]
pub struct Container<'t> {
    pub id: String,
    pub bundle: PathBuf,
    pub pid: i32,
    test: &'t Test,
    created: Out,
}

impl<'t> Container<'t> {
    #[track_caller]
    pub(crate) fn new(test: &'t Test, id: String, bundle: &Bundle, created: Out) -> Self {
        let out = test.rt(&["state", &id]).run();
        let state: Value = serde_json::from_str(out.ok()).unwrap_or_else(|e| panic!("{out}\n{e}"));
        let pid = state["pid"].as_i64().unwrap_or_else(|| panic!("{out}\nno pid")) as i32;
        test.pids.borrow_mut().push(pid);
        Container { id, bundle: bundle.dir.clone(), pid, test, created }
    }

    /// A verb with this container's id behind its flags.
    #[track_caller]
    pub fn verb(&self, verb: &[&str]) -> Out {
        self.test.rt(&[verb, &[&self.id]].concat()).run()
    }

    #[track_caller]
    pub fn start(&self) -> &Self {
        self.verb(&["start"]).ok();
        self
    }

    #[track_caller]
    pub fn kill(&self, signal: &str) -> Out {
        self.test.rt(&["kill", &self.id, signal]).run()
    }

    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(self.verb(&["state"]).ok()).unwrap()
    }

    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of init and returns its exit code (128+n for a signal).
    #[track_caller]
    pub fn wait(&self) -> i32 {
        self.test.wait_pid(self.pid)
    }

    /// What the container has written to its stdout, which is that of `create`.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.created.stdout_path).unwrap()).into_owned()
    }

    /// Runs a command of the host in the container's namespaces (not an exec of the runtime).
    pub fn nsenter(&self, args: &[&str]) -> String {
        let out =
            Command::new("nsenter").args(["-a", "-t", &self.pid.to_string()]).args(args).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Kills and reaps init. runc 1.1 forgets the cgroup when threads of its init are still ending.
    fn end(&self) {
        let pid = Pid::from_raw(self.pid);
        if waitpid(pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
            && kill(pid, Signal::SIGKILL).is_ok()
        {
            waitpid(pid, None).ok(); // It was a child a moment ago.
        }
    }

    pub fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.test.kind == Kind::Runc {
            self.end();
        }
        if self.test.state_root().join(&self.id).exists() {
            let out = self.test.rt(&["delete", "--force", &self.id]).run();
            if out.code != 0 {
                eprintln!("clean-up: {out}");
            }
        }
    }
}

impl Test {
    /// Waits for a process that this one is the (adoptive) parent of.
    #[track_caller]
    pub fn wait_pid(&self, pid: i32) -> i32 {
        if let Ok(fd) = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::PidfdFlags::empty(),
        ) {
            let seconds = 30 * crate::patience();
            let limit = rustix::event::Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
            assert!(ended > 0, "process {pid} has not ended within {seconds} s");
        }
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => code,
            Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
            other => panic!("wait for {pid}: {other:?} (is it a child of the test?)"),
        }
    }

    /// Waits until `ready` holds; it is asked again whenever something in `dir` changes.
    #[track_caller]
    pub fn wait_for(&self, dir: &Path, ready: impl Fn() -> bool) {
        use rustix::fs::inotify;
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(
            &fd,
            dir,
            inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CLOSE_WRITE
                | inotify::WatchFlags::MOVED_TO,
        )
        .unwrap();
        let limit = std::time::Duration::from_secs(20) * crate::runtime::patience();
        let deadline = std::time::Instant::now() + limit;
        while !ready() {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            assert!(!left.is_zero(), "{}: what was waited for did not come in {limit:?}", dir.display());
            let left = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: 0 };
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)).unwrap();
            let mut events = [0_u8; 4096];
            rustix::io::read(&fd, &mut events).ok(); // The events only say: ask again.
        }
    }
}
