// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns one run of the runtime binary: arguments, environment, captured output, a deadline that kills by pid.
//! Never uses pipes for the output: a container that outlives the command may keep them open, a file ends by itself.
//! Data comes from the case; exit code, stdout and stderr go back to it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What a run of the runtime left: exit code (128+n for a signal), output, and the command for messages.
#[derive(Debug, Clone)]
pub struct Out {
    pub command: String,
    pub code: i32,
    pub stdout_path: PathBuf,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    /// Fails the case unless the exit code is 0; returns stdout.
    #[track_caller]
    pub fn ok(&self) -> &str {
        self.expect_code(0);
        &self.stdout
    }

    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert!(self.code == code, "{self}\nexpected: exit {code}");
        self
    }

    /// Fails the case unless the command failed by an ordinary error: not success, a panic (101) or a signal.
    #[track_caller]
    pub fn failed(&self) -> &Self {
        assert!(
            self.code != 0 && self.code != 101 && !(128..200).contains(&self.code),
            "{self}\nexpected: an ordinary failure"
        );
        self
    }

    /// Fails the case unless stderr or stdout has `words`.
    #[track_caller]
    pub fn says(&self, words: &str) -> &Self {
        assert!(self.stderr.contains(words) || self.stdout.contains(words), "{self}\nexpected: `{words}`");
        self
    }

    #[track_caller]
    pub fn says_any(&self, words: &[&str]) -> &Self {
        let found = words.iter().any(|w| self.stderr.contains(w) || self.stdout.contains(w));
        assert!(found, "{self}\nexpected one of: {words:?}");
        self
    }

    /// A clean error of oar: one line that begins with its name, perhaps a line with a hint, no trace of a panic.
    #[track_caller]
    pub fn clean_error(&self) -> &Self {
        self.failed();
        assert!(
            self.is_one_line(),
            "{self}\nexpected: one line that begins with `oar: `, and at most a `hint: `"
        );
        for word in ["panicked", "RUST_BACKTRACE", "(os error", "Some(", "Err(", "\u{1b}"] {
            assert!(!self.stderr.contains(word), "{self}\nexpected: no `{word}`");
        }
        self
    }
}

impl Out {
    /// `oar: …`, then nothing or `hint: …` (DESIGN §7).
    pub fn is_one_line(&self) -> bool {
        let lines: Vec<_> = self.stderr.trim_end().lines().collect();
        let hint = lines.get(1).is_none_or(|l| l.starts_with("hint: "));
        lines.first().is_some_and(|l| l.starts_with("oar: ")) && hint && lines.len() <= 2
    }
}

impl std::fmt::Display for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "$ {}\nexit {}\nstdout: {}\nstderr: {}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// A run that is being described.
#[derive(Debug)]
pub struct Invocation {
    argv: Vec<std::ffi::OsString>,
    env: Vec<(String, String)>,
    cwd: Option<PathBuf>,
    stdin: Option<PathBuf>,
    deadline: Duration,
    out_dir: PathBuf,
}

/// By what every deadline is multiplied (`RUNTIME_TESTS_PATIENCE`): an emulated machine is slow, not wrong.
pub fn patience() -> u32 {
    std::env::var("RUNTIME_TESTS_PATIENCE").map_or(1, |factor| factor.parse().unwrap())
}

static SERIAL: AtomicUsize = AtomicUsize::new(0);

impl Invocation {
    pub(crate) fn new(out_dir: &Path, tag: &str, argv: Vec<std::ffi::OsString>) -> Self {
        let env = vec![
            ("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("RT_TAG".to_owned(), tag.to_owned()),
        ];
        Invocation {
            argv,
            env,
            cwd: None,
            stdin: None,
            deadline: Duration::from_secs(30),
            out_dir: out_dir.to_path_buf(),
        }
    }

    pub fn arg(mut self, arg: impl Into<std::ffi::OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn no_env(mut self) -> Self {
        self.env.clear();
        self
    }

    pub fn cwd(mut self, dir: &Path) -> Self {
        self.cwd = Some(dir.to_path_buf());
        self
    }

    pub fn stdin(mut self, file: &Path) -> Self {
        self.stdin = Some(file.to_path_buf());
        self
    }

    pub fn deadline(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Puts a program in front of the runtime (`setpriv …`, `sh -c 'exec 3<…; exec "$@"' sh`).
    pub fn wrap(mut self, prefix: &[&str]) -> Self {
        let mut argv: Vec<_> = prefix.iter().map(std::ffi::OsString::from).collect();
        argv.append(&mut self.argv);
        self.argv = argv;
        self
    }

    /// Starts the run without waiting for it; [`Running::wait`] gives the outcome.
    #[track_caller]
    pub fn spawn(self) -> Running {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let stdout_path = self.out_dir.join(format!("out-{serial}"));
        let stderr_path = self.out_dir.join(format!("err-{serial}"));
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env_clear().envs(self.env.iter().cloned());
        command.stdin(self.stdin.as_ref().map_or_else(Stdio::null, |p| File::open(p).unwrap().into()));
        command.stdout(File::create(&stdout_path).unwrap()).stderr(File::create(&stderr_path).unwrap());
        if let Some(dir) = &self.cwd {
            command.current_dir(dir);
        }
        let text = self.argv.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let child = command.spawn().unwrap_or_else(|e| panic!("{text}: {e}"));
        Running { child, text, stdout_path, stderr_path, deadline: self.deadline }
    }

    #[track_caller]
    pub fn run(self) -> Out {
        self.spawn().wait()
    }
}

/// A run that has been started.
#[derive(Debug)]
pub struct Running {
    child: std::process::Child,
    text: String,
    pub stdout_path: PathBuf,
    stderr_path: PathBuf,
    deadline: Duration,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout_path).unwrap()).into_owned()
    }

    /// Waits for the end; past the deadline the process is killed and the case fails.
    #[track_caller]
    pub fn wait(mut self) -> Out {
        let pid = self.pid();
        let (done, over) = mpsc::channel::<()>();
        let deadline = self.deadline * patience();
        let guard = thread::spawn(move || match over.recv_timeout(deadline) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let target = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(target, nix::sys::signal::Signal::SIGKILL).is_ok()
            }
            _ => false,
        });
        let status = self.child.wait().unwrap();
        drop(done);
        let late = guard.join().unwrap();
        let read = |p: &Path| String::from_utf8_lossy(&fs::read(p).unwrap()).into_owned();
        let out = Out {
            command: self.text.clone(),
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: read(&self.stdout_path),
            stderr: read(&self.stderr_path),
            stdout_path: self.stdout_path.clone(),
        };
        assert!(!late, "{out}\nno end within {deadline:?}");
        out
    }
}
