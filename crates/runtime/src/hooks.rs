// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hooks that run in the runtime's own namespaces, and the state document that every hook reads.
//!
//! Never searches PATH, never lends a hook the runtime's environment or descriptors. The hook comes from the plan;
//! its working directory is the runtime's own; its output goes nowhere, but its first line explains a failure.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::time::{Duration, Instant};

use coracle_plan::Hook;
use coracle_sys::process::Exit;
use coracle_sys::tty::{Poll, poll};
use coracle_sys::{Fd, fd, process};
use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::error::{Code, Error, Result, words};
use crate::foreground::Signals;

/// Version of the specification that the state documents follow.
const OCI_VERSION: &str = "1.3.0";

/// How much of each of a hook's outputs is kept, in bytes. The rest is read and dropped.
const KEPT: usize = 64 * 1024;

/// How much of a hook's first line of output goes into an error, in characters.
const SHOWN: usize = 256;

/// The state of a container as runtime.md "State" has it, as JSON. A pid of 0 is left out, and so are no annotations.
pub fn state_document(
    id: &str,
    status: &str,
    pid: i32,
    bundle: &str,
    annotations: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut state = json!({"ociVersion": OCI_VERSION, "id": id, "status": status, "bundle": bundle});
    if pid != 0 {
        state["pid"] = json!(pid);
    }
    if !annotations.is_empty() {
        state["annotations"] = json!(annotations);
    }
    state.to_string().into_bytes()
}

/// Run one hook and wait for it: an error if it cannot be started, ends with anything but 0, or outlasts its
/// timeout, after which its whole process group is killed. What it leaves running on purpose stays.
pub fn run(hook: &Hook, state_json: &[u8], signals: Option<&Signals>) -> Result<()> {
    run_hook(hook, state_json, signals).map_err(|failure| {
        let kind =
            hook.place.strip_prefix("hooks.").and_then(|rest| rest.split('[').next()).unwrap_or_default();
        let blank = if kind.is_empty() { "" } else { " " };
        let place = if hook.place.is_empty() { String::new() } else { format!(" ({})", hook.place) };
        let mut error =
            Error::new(Code::Hook, format!("{kind}{blank}hook {}{place}: {}", hook.path, failure.line));
        error.hint = failure.hint;
        error
    })
}

/// Why a hook failed, without its name.
pub(crate) struct Failure {
    pub line: String,
    hint: Option<String>,
}

impl From<String> for Failure {
    fn from(line: String) -> Failure {
        Failure { line, hint: None }
    }
}

fn failed(what: &str) -> impl Fn(coracle_sys::Errno) -> Failure {
    move |errno| format!("{what}: {}", words(Errno::from_raw(errno.0))).into()
}

pub(crate) fn run_hook(
    hook: &Hook,
    state_json: &[u8],
    signals: Option<&Signals>,
) -> std::result::Result<(), Failure> {
    let deadline = match hook.timeout {
        0 => None,
        seconds => Instant::now().checked_add(Duration::from_secs(seconds.into())),
    };
    let (stdout, child_stdout) = fd::pipe().map_err(failed("pipe"))?;
    let (stderr, child_stderr) = fd::pipe().map_err(failed("pipe"))?;
    let pid = spawn(hook, [document(state_json)?, child_stdout, child_stderr])?;
    // Nobody reaps the child before this function does, so the number still means the child.
    let pidfd = match process::pidfd_open(pid.as_raw()) {
        Ok(pidfd) => pidfd,
        Err(errno) => {
            // Without it there is no deadline; better none than a hook that may stay for ever.
            kill_group(pid);
            return Err(failed("pidfd_open")(errno));
        }
    };

    let mut output = [Output::new(stdout), Output::new(stderr)];
    let interrupts = signals.map_or(-1, Signals::descriptor);
    let mut entries =
        [Poll::readable(pidfd.number()), Poll::readable(-1), Poll::readable(-1), Poll::readable(interrupts)];
    loop {
        for (entry, output) in entries.iter_mut().skip(1).zip(&output) {
            entry.fd = output.descriptor();
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            kill_group(pid);
            process::wait(pidfd.number()).map_err(failed("wait"))?;
            return Err(format!("timed out after {}s", hook.timeout).into());
        }
        poll(&mut entries, left.map(milliseconds)).map_err(failed("poll"))?;
        for (entry, output) in entries.iter().skip(1).zip(&mut output) {
            if entry.ready != 0 {
                output.read();
            }
        }
        if entries[0].ready != 0 {
            break;
        }
        if let Some(signals) = signals
            && let Some(signal) = signals.interruption().map_err(|error| error.message)?
        {
            kill_group(pid);
            process::wait(pidfd.number()).map_err(failed("wait"))?;
            return Err(format!("interrupted by signal {signal}").into());
        }
    }
    let exit = process::wait(pidfd.number()).map_err(failed("wait"))?;
    if exit == Exit::Code(0) {
        return Ok(());
    }
    // What the hook wrote is in the pipes now. A daemon that it left may hold them open: no waiting for their end.
    for output in &mut output {
        output.drain();
    }
    let ended = match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}"),
    };
    let [stdout, stderr] = &output;
    Err(match stderr.first_line().or_else(|| stdout.first_line()) {
        Some(line) => format!("{ended}: {line}").into(),
        None => ended.into(),
    })
}

/// Rounded up, so that a wait never ends just before the deadline, and again, and again.
fn milliseconds(left: Duration) -> i32 {
    i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}

fn kill_group(pid: Pid) {
    // ESRCH: everyone is gone already, which is what is wanted; nothing else can happen to a child of our own.
    killpg(pid, Signal::SIGKILL).ok();
}

/// The state as a file, at its beginning and not writable: a hook may read it at any speed, twice or not at all,
/// and no SIGPIPE or full pipe can reach the runtime.
fn document(state_json: &[u8]) -> std::result::Result<Fd, Failure> {
    let file = fd::memfd(c"state.json", false).map_err(failed("memfd_create"))?;
    fd::write_all(file.number(), state_json).map_err(failed("write the state"))?;
    fd::seal(file.number()).map_err(failed("seal the state"))?;
    let path = string(&format!("/proc/self/fd/{}", file.number()))?;
    fd::openat(nix::libc::AT_FDCWD, &path, nix::libc::O_RDONLY, 0).map_err(failed("open the state"))
}

fn string(text: &str) -> std::result::Result<CString, Failure> {
    CString::new(text).map_err(|_| format!("{text:?} holds a NUL byte").into())
}

fn strings(texts: &[String]) -> std::result::Result<Vec<CString>, Failure> {
    texts.iter().map(|text| string(text)).collect()
}

/// Start the hook with exactly its argv and environment, no signal blocked or ignored, a process group of its own,
/// and these three descriptors and no other.
fn spawn(hook: &Hook, stdio: [Fd; 3]) -> std::result::Result<Pid, Failure> {
    let path = string(&hook.path)?;
    let (args, env) = (strings(&hook.args)?, strings(&hook.env)?);
    // A caller without 0, 1, 2 gets pipes with these numbers, which the first dup2 below would overwrite.
    let mut sources = Vec::new();
    for descriptor in stdio {
        sources.push(match descriptor.number() {
            0..=2 => fd::duplicate(descriptor.number(), 3).map_err(failed("dup"))?,
            _ => descriptor,
        });
    }
    let spawned = || -> nix::Result<Pid> {
        let mut actions = PosixSpawnFileActions::init()?;
        for (number, source) in (0..).zip(&sources) {
            actions.add_dup2(source.number(), number)?;
        }
        // The runtime's own are close-on-exec; what its caller let it inherit may not be.
        for number in inherited() {
            actions.add_close(number)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;
        posix_spawn(path.as_c_str(), &actions, &attributes, &args, &env)
    };
    spawned().map_err(|errno| {
        let hint = match errno {
            Errno::ENOENT if std::path::Path::new(&hook.path).exists() => {
                Some("the file is there, but its interpreter or dynamic loader is not".to_string())
            }
            Errno::ENOEXEC => Some("a script needs a first line that begins with #!".to_string()),
            _ => None,
        };
        Failure { line: words(errno).to_string(), hint }
    })
}

/// Descriptors from 3 on that are open now. Without /proc, none are found, and close-on-exec alone decides.
fn inherited() -> Vec<i32> {
    std::fs::read_dir("/proc/self/fd")
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .filter(|n| *n > 2)
                .collect()
        })
        .unwrap_or_default()
}

/// One of a hook's outputs: the pipe until its end, and the beginning of what came.
struct Output {
    pipe: Option<Fd>,
    kept: Vec<u8>,
}

impl Output {
    fn new(pipe: Fd) -> Output {
        Output { pipe: Some(pipe), kept: Vec::new() }
    }

    /// For poll: negative after the end.
    fn descriptor(&self) -> i32 {
        self.pipe.as_ref().map_or(-1, Fd::number)
    }

    /// Read once. Called when the pipe is ready, so it does not block: nobody else reads from it.
    fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match fd::read(self.descriptor(), &mut buffer) {
            Ok(0) | Err(_) => self.pipe = None,
            Ok(length) => {
                let room = (KEPT - self.kept.len()).min(length);
                self.kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
            }
        }
    }

    /// Take what is in the pipe now, until there is enough.
    fn drain(&mut self) {
        while self.pipe.is_some() && self.kept.len() < KEPT {
            match poll(&mut [Poll::readable(self.descriptor())], Some(0)) {
                Ok(1) => self.read(),
                _ => return,
            }
        }
    }

    /// The first line with something in it, shortened, without what could fool a terminal or a log.
    fn first_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.kept);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().take(SHOWN).map(|letter| if letter.is_control() { ' ' } else { letter }).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::path::Path;

    use super::*;

    fn run(hook: &Hook, state_json: &[u8]) -> Result<()> {
        super::run(hook, state_json, None)
    }

    /// A hook that runs a script with /bin/sh; its environment is empty.
    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".to_string(),
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: Vec::new(),
            timeout: 0,
            place: "hooks.createRuntime[0]".to_string(),
        }
    }

    fn message(hook: &Hook) -> String {
        let error = run(hook, b"{}").unwrap_err();
        assert_eq!(error.code, Code::Hook);
        error.message
    }

    #[test]
    fn state_documents() {
        let full = state_document("a", "created", 7, "/b", &BTreeMap::from([("k".into(), "v".into())]));
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&full).unwrap(),
            json!({"ociVersion": "1.3.0", "id": "a", "status": "created", "pid": 7, "bundle": "/b",
                   "annotations": {"k": "v"}})
        );
        let least = state_document("a", "stopped", 0, "/b", &BTreeMap::new());
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&least).unwrap(),
            json!({"ociVersion": "1.3.0", "id": "a", "status": "stopped", "bundle": "/b"})
        );
    }

    // T-87
    #[test]
    fn environment_arguments_and_descriptors_are_exact() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("seen");
        // A descriptor that would be inherited: not close-on-exec.
        let leak: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        fd::set_cloexec(leak.as_raw_fd(), false).unwrap();
        let mut hook = shell(&format!(
            "exec > {0}; cat; echo; tr '\\0' '|' < /proc/$$/environ; echo; tr '\\0' '|' < /proc/$$/cmdline; echo; \
             ls /proc/$$/fd; \
             while read key value; do case $key in SigBlk:|SigIgn:) echo $key $value;; esac; done < /proc/$$/status",
            file.display()
        ));
        hook.args[0] = "another name".to_string();
        hook.args.truncate(3);
        hook.args.push("last".to_string());
        // Order, repetition and strangeness are the document's business.
        hook.env = ["Z=1", "A=2", "Z=3", "PATH=/usr/bin:/bin", "odd"].map(String::from).to_vec();
        run(&hook, br#"{"id":"x"}"#).unwrap();

        let seen = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[0], r#"{"id":"x"}"#);
        assert_eq!(lines[1], "Z=1|A=2|Z=3|PATH=/usr/bin:/bin|odd|");
        assert!(lines[2].starts_with("another name|-c|") && lines[2].ends_with("|last|"), "{}", lines[2]);
        // dash keeps a copy of a redirected descriptor from 10 on in some versions; nothing else is there.
        let descriptors: Vec<u32> = lines[3..].iter().map_while(|line| line.parse().ok()).collect();
        assert_eq!(descriptors.iter().filter(|number| **number < 10).copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(!descriptors.contains(&(leak.as_raw_fd() as u32)), "{descriptors:?}");
        // Read by the shell itself: it blocks all signals while it starts a program.
        assert_eq!(lines[3 + descriptors.len()..].len(), 2);
        for line in &lines[3 + descriptors.len()..] {
            let signals = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            // glibc's posix_spawn ignores 32 and 33, its own.
            assert_eq!(signals & !(3 << 31), 0, "{line}");
        }
    }

    #[test]
    fn signals_blocked_by_the_caller_reach_the_hook() {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        let before = blocked.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).unwrap();
        let result = run(&shell("kill -TERM $$; exit 9"), b"{}");
        before.thread_set_mask().unwrap();
        assert!(result.unwrap_err().message.ends_with(": killed by signal 15"));
    }

    #[test]
    fn the_group_is_its_own() {
        run(&shell("read pid comm state parent group rest < /proc/self/stat; test $group = $$"), b"{}")
            .unwrap();
    }

    #[test]
    fn failures_have_one_line() {
        assert_eq!(
            message(&shell("echo out; echo; echo first >&2; echo second >&2; exit 3")),
            "createRuntime hook /bin/sh (hooks.createRuntime[0]): exit status 3: first"
        );
        assert_eq!(
            message(&shell("echo out; exit 3")),
            "createRuntime hook /bin/sh (hooks.createRuntime[0]): exit status 3: out"
        );
        assert_eq!(
            message(&shell("kill -KILL $$")),
            "createRuntime hook /bin/sh (hooks.createRuntime[0]): killed by signal 9"
        );
        let line = message(&shell("printf 'a\\033[2Jb\\rc\\n' >&2; exit 1"));
        assert!(line.ends_with(": exit status 1: a [2Jb c"), "{line:?}");
    }

    #[test]
    fn a_hook_that_cannot_start() {
        let directory = tempfile::tempdir().unwrap();
        let hook = |path: &Path| Hook { path: path.to_str().unwrap().to_string(), ..shell("") };
        let absent = directory.path().join("absent");
        let line = message(&hook(&absent));
        assert!(line.ends_with("absent (hooks.createRuntime[0]): no such file or directory"), "{line}");

        let script = directory.path().join("script");
        // Not by this process: a fork of another test would keep it open for writing, and it could not be executed.
        run(&shell(&format!("echo '#!/no/such/interpreter' > {}", script.display())), b"{}").unwrap();
        let line = message(&hook(&script));
        assert!(line.ends_with(": permission denied"), "{line}");

        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = run(&hook(&script), b"{}").unwrap_err();
        assert!(error.message.ends_with(": no such file or directory"), "{error}");
        assert!(error.hint.unwrap().contains("interpreter"));

        let line = message(&hook(directory.path()));
        assert!(line.ends_with(": permission denied"), "{line}");

        let mut bad = shell("");
        bad.env.push("A=\0".to_string());
        assert!(message(&bad).contains("holds a NUL byte"));
    }

    // T-88
    #[test]
    fn a_hook_that_reads_nothing_or_prints_much() {
        run(&shell("exit 0"), &vec![b'x'; 1 << 20]).unwrap();
        run(&shell("exec 0<&-; exit 0"), &vec![b'x'; 1 << 20]).unwrap();
        let megabytes = "yes 'a line of output' | head -c 10485760";
        let mut hook = shell(&format!("{megabytes}; {megabytes} >&2; exit 4"));
        hook.env.push("PATH=/usr/bin:/bin".to_string());
        assert!(message(&hook).ends_with(": exit status 4: a line of output"));
    }

    #[test]
    fn the_whole_state_arrives() {
        let mut hook = shell("test $(wc -c) = 1048576 && test $(wc -c < /dev/stdin) = 1048576");
        hook.env.push("PATH=/usr/bin:/bin".to_string());
        run(&hook, &vec![b'x'; 1 << 20]).unwrap();
    }

    // T-88
    #[test]
    fn a_daemon_that_keeps_the_output_open_does_not_hold_the_runtime() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (status, path) in [(0, fifo.clone()), (5, fifo.clone())] {
            let script =
                format!("(read line < {}; echo never) & echo why >&2; exit {status}", path.display());
            let result = run(&shell(&script), b"{}");
            // The daemon lives: it takes the line. Opening waits for it.
            std::fs::write(&path, "go\n").unwrap();
            match status {
                0 => result.unwrap(),
                _ => assert!(result.unwrap_err().message.ends_with(": exit status 5: why")),
            }
        }
    }

    // T-88, F-62
    #[test]
    fn a_timeout_kills_the_group() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Both hold the fifo open for writing; its end tells that both are gone, and nothing in it that nobody asked
        // them to go before.
        let mut hook = shell(&format!(
            "exec 3> {0}; trap 'echo asked >&3' TERM INT; (trap 'echo asked >&3' TERM; while :; do :; done) & \
             while :; do :; done",
            fifo.display()
        ));
        hook.timeout = 1;
        let reader = std::thread::spawn(move || std::fs::read(fifo));
        let start = Instant::now();
        let error = run(&hook, b"{}").unwrap_err();
        assert!(error.message.ends_with("(hooks.createRuntime[0]): timed out after 1s"), "{error}");
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(20));
        assert!((least..most).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert_eq!(reader.join().unwrap().unwrap(), b"");
    }
}
