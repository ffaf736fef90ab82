// SPDX-License-Identifier: MIT OR Apache-2.0
//! create, and run: from a bundle to a process, in one pass; and back to nothing when a step fails.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use coracle_cgroup::{Cgroup, Location};
use coracle_plan::{Action, Namespace, Plan, Warning};
use coracle_program::MessageKind;
use coracle_sys::clone::{self, Spawn, Stage};
use coracle_sys::{Fd, fd, process, socket};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen};

use crate::cgroup::{self, Driver, Placed};
use crate::config::{self, Decided};
use crate::error::{Code, Error, Result, words};
use crate::foreground::{self, ExitStatus, Signals};
use crate::messages::{self, Started};
use crate::record::{Directory, Locked, Process, Rdt, Record, START_SOCKET};
use crate::terminal::FdSocket;
use crate::{Id, Runtime, delete, errno, hooks, lower, namespaces, rdt, seccomp, status, step, time, wait};

/// The program that becomes every container's first process.
const INIT: &[u8] = include_bytes!(env!("CORACLE_INIT"));

/// What create takes beside the bundle's config.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Directory with the config.json.
    pub bundle: PathBuf,
    /// Stream socket that gets the master of the process's terminal.
    pub console_socket: Option<PathBuf>,
    /// File that gets the process's number, in decimal, without a newline.
    pub pid_file: Option<PathBuf>,
    /// Stream socket that gets a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that the process inherits, those of `listen_fds` included.
    pub preserve_fds: u32,
    /// How many of them are announced in LISTEN_FDS.
    pub listen_fds: u32,
    /// systemd makes the cgroup, as a transient unit.
    pub systemd_cgroup: bool,
    /// cgroup2: the process ends up in a sub-cgroup `init`, so that systemd or an engine inside may enable controllers.
    pub cgroup_leaf: bool,
    /// What this host cannot do of the config is an error, not a warning.
    pub strict: bool,
    /// Follow annotations that change what is done (`org.systemd.property.*`).
    pub allow_annotations: bool,
}

/// What run takes beside that.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Return when the process runs.
    pub detach: bool,
    /// Keep the stopped container.
    pub keep: bool,
    /// Adopt and reap what the process leaves behind.
    pub subreaper: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub pid: i32,
    pub warnings: Vec<String>,
    /// What is in order, and may still explain a surprise.
    pub notes: Vec<String>,
}

/// What is worth telling while something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    Warning(&'a str),
    /// As [`Created::notes`].
    Note(&'a str),
}

/// A container up to the point where its process may go.
struct Ready {
    directory: Locked,
    record: Record,
    child: clone::Child,
    control: OwnedFd,
    /// Where init leaves its last word, of a process with a seccomp filter.
    outcome: Option<OwnedFd>,
    terminal: Option<Fd>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// What was done so far, to be taken back.
struct Attempt {
    directory: Locked,
    cgroup: Option<Cgroup>,
    rdt: Option<Rdt>,
    child: Option<clone::Child>,
    /// Set once a hook may have run: what such hooks began, poststop hooks end.
    hooked: Option<Record>,
}

impl Runtime {
    /// Make a container whose process waits for [`Runtime::start`]. On an error nothing of it is left.
    pub fn create(&self, id: &Id, options: &CreateOptions) -> Result<Created> {
        let ready = self.make(id, options, false, None, false)?;
        let pid = ready.child.pid;
        match ready.go() {
            Ok(()) => Ok(Created { pid, warnings: ready.warnings, notes: ready.notes }),
            Err(error) => Err(ready.abandon(error)),
        }
    }

    /// The numbered plan, as text; nothing is changed.
    pub fn dry_run(&self, id: &Id, options: &CreateOptions) -> Result<String> {
        let Decided { plan, .. } = config::decide(id, options, false, false)?;
        Ok(coracle_plan::explain(&plan))
    }

    /// create and start in one; in the foreground also wait and delete. `tell` hears what is worth telling, as it
    /// comes.
    pub fn run(
        &self,
        id: &Id,
        options: &CreateOptions,
        run: &RunOptions,
        tell: &mut dyn FnMut(Told<'_>),
    ) -> Result<ExitStatus> {
        if run.subreaper && !run.detach {
            process::set_child_subreaper(true)
                .map_err(|error| Error::system("become a subreaper", errno(error)))?;
        }
        // Before the clone, so that no signal is lost between.
        let signals = if run.detach { None } else { Some(foreground::block_signals()?) };
        let mut ready = self.make(id, options, !run.detach, signals.as_ref(), true)?;
        ready.notes.iter().for_each(|note| tell(Told::Note(note)));
        let mut warn = |warning: &str| tell(Told::Warning(warning));
        ready.warnings.iter().for_each(|warning| warn(warning));
        let terminal = ready.terminal.take();
        if let Err(error) = ready.started(signals.as_ref()) {
            return Err(ready.abandon(error));
        }
        let Ready { directory, child, record, .. } = ready;
        // From here on other commands may want the container.
        drop(directory);
        let Some(signals) = signals else { return Ok(ExitStatus::Detached) };
        let waited = foreground::wait(&signals, child.pidfd.number(), child.pid, terminal, run.subreaper);
        // Only the parent knows, on most kernels.
        if let (Ok(exit), Some(process)) = (&waited, record.process)
            && let Err(error) = wait::keep(self, id, process, *exit)
        {
            warn(&error.during("keep the exit status").message);
        }
        if !run.keep {
            match self.delete(id, true) {
                Ok(warnings) => warnings.iter().for_each(|warning| warn(warning)),
                // The error that ended the wait comes first.
                Err(error) if waited.is_ok() => return Err(error.during("remove the container")),
                Err(error) => warn(&error.during("remove the container").message),
            }
        }
        waited
    }

    fn make(
        &self,
        id: &Id,
        options: &CreateOptions,
        foreground: bool,
        signals: Option<&Signals>,
        run: bool,
    ) -> Result<Ready> {
        for number in 3..3 + options.preserve_fds {
            if !fd::is_open(number as i32) {
                let text = format!("--preserve-fds: descriptor {number} is not open");
                return Err(Error::new(Code::Invalid, text));
            }
        }
        let decided = config::decide(id, options, foreground, run)?;
        let sockets = Sockets::connect(options, &decided.plan)?;
        let placed = Placed::decide(&decided)?;
        let joined = namespaces::open(&decided.plan.spawn)?;

        self.make_root()?;
        let directory = Directory::claim(&self.root, id)?;
        let mut attempt = Attempt { directory, cgroup: None, rdt: None, child: None, hooked: None };
        match attempt.proceed(&decided, placed, options, sockets, &joined, signals) {
            Ok(Proceeded { record, control, outcome, terminal, warnings }) => match attempt {
                Attempt { directory, child: Some(child), .. } => {
                    let notes = lines(&decided.plan.notes);
                    Ok(Ready { directory, record, child, control, outcome, terminal, warnings, notes })
                }
                _ => Err(Error::new(Code::System, "no process was made")),
            },
            Err(error) => Err(attempt.undo(error)),
        }
    }
}

/// Connections that a caller waits on; made before anything else, so that a wrong path changes nothing.
struct Sockets {
    console: Option<FdSocket>,
    pidfd: Option<FdSocket>,
    seccomp: Option<FdSocket>,
}

impl Sockets {
    fn connect(options: &CreateOptions, plan: &Plan) -> Result<Sockets> {
        if let Some(path) = &options.pid_file {
            check_pid_file(path)?;
        }
        let connect = |path: &Option<PathBuf>, flag| {
            path.as_ref().map(|path| FdSocket::connect(path, flag)).transpose()
        };
        Ok(Sockets {
            console: connect(&options.console_socket, "--console-socket")?,
            pidfd: connect(&options.pidfd_socket, "--pidfd-socket")?,
            seccomp: seccomp::connect(plan)?,
        })
    }
}

/// What is left of the way when init is ready.
struct Proceeded {
    record: Record,
    control: OwnedFd,
    outcome: Option<OwnedFd>,
    terminal: Option<Fd>,
    warnings: Vec<String>,
}

impl Attempt {
    /// The whole way, in order. Whatever was done before an error is in `self`.
    fn proceed(
        &mut self,
        decided: &Decided,
        placed: Placed<'_>,
        options: &CreateOptions,
        mut sockets: Sockets,
        joined: &[OwnedFd],
        signals: Option<&Signals>,
    ) -> Result<Proceeded> {
        let plan = &decided.plan;
        let Placed { mut driver, location } = placed;
        let rdt = plan.outside.intel_rdt.clone();
        // Before it is applied: a group that only this container can have made is its own.
        let rdt = rdt.map(|plan| Rdt {
            resctrl: decided.resctrl.clone(),
            applied: rdt::Applied { group: !plan.named, monitoring: plan.monitoring },
            plan,
        });
        // The intent comes first: whatever kills us after this line, delete knows where to look.
        let mut record = intent(decided, &location, rdt, options)?;
        self.directory.write(&record)?;
        self.directory.write_config(&decided.document)?;

        let mut warnings = lines(&plan.warnings);
        if matches!(driver, Driver::Cgroupfs) {
            let made = location.create(&plan.cgroup.resources).map_err(cgroup::error)?;
            warnings.extend(cgroup::delegate(self.cgroup.insert(made), decided));
        }

        let parks = plan.steps.iter().any(|step| matches!(step.action, Action::AwaitStart { parked: true }));
        let listener = parks.then(|| listen_for_start(&self.directory)).transpose()?;
        let hook_output = hook_pipe(plan)?;
        let (control, child, outcome) = {
            let (ours, theirs) = socket::pair().map_err(|error| Error::system("socketpair", errno(error)))?;
            let (ours, theirs) = (OwnedFd::from(ours), OwnedFd::from(theirs));
            let descriptors = Descriptors::raise(plan)?;
            let context = lower::Context {
                plan,
                location: &location,
                cgroup: self.cgroup.as_ref(),
                privileged: decided.host.privileged,
                control: theirs.as_raw_fd(),
                listener: listener.as_ref().map_or(-1, AsRawFd::as_raw_fd),
                hook_output: hook_output.as_ref().map_or(-1, |(_, write)| write.as_raw_fd()),
                joined,
            };
            // On v1 the thread itself goes in, so that the child is born there: moving a process takes 10 ms.
            let entered = self.cgroup.as_ref().map(Cgroup::enter).transpose().map_err(cgroup::error)?;
            let (child, outcome) = spawn(&context)?;
            let child = self.child.insert(child);
            if let Some(before) = &descriptors {
                before.give_back(child.pid)?;
            }
            if let Some(entered) = entered {
                entered.leave(Some(child.pid)).map_err(cgroup::error)?;
            }
            (ours, child, outcome)
        };
        if matches!(driver, Driver::Systemd { .. }) {
            driver.start(&plan.cgroup, child.pid)?;
            // Ours from here on, to be taken back with the rest.
            self.cgroup = Some(location.open());
            let made = location.create(&plan.cgroup.resources).map_err(cgroup::error)?;
            made.settle(child.pid).map_err(cgroup::error)?;
            warnings.extend(cgroup::delegate(self.cgroup.insert(made), decided));
        }
        let cgroup = self.cgroup.as_ref().ok_or_else(|| Error::new(Code::System, "no cgroup was made"))?;
        record.cgroup = cgroup.location().clone();
        drop(listener);
        let hook_output = hook_output.map(|(read, _)| read);

        // What must be there before init goes on.
        if plan.spawn.makes(Namespace::User) {
            let deny = !decided.host.privileged;
            namespaces::write_maps(child.pid, &plan.spawn.uid_map, &plan.spawn.gid_map, deny)?;
        }
        if let Some(rdt) = &mut record.intel_rdt {
            rdt.applied = rdt::apply(&rdt.plan, &rdt.resctrl, &plan.id, child.pid)?;
            self.rdt = Some(rdt.clone());
        }
        move_devices(plan, child.pid)?;
        if let Some(score) = plan.outside.oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", child.pid);
            std::fs::write(&path, score.to_string())
                .map_err(|error| Error::io(format!("process.oomScoreAdj: write {score}"), &error))?;
        }
        if plan.steps.iter().any(|step| step.action == Action::AwaitRuntime) {
            messages::send(control.as_fd(), MessageKind::Go)?;
        }

        let state =
            |status| hooks::state_document(&plan.id, status, child.pid, &plan.bundle, &plan.annotations);
        let mut terminal = None;
        loop {
            if let Some(signals) = signals {
                signals.wait_for(control.as_raw_fd())?;
            }
            let Some((message, fd)) = messages::receive(control.as_fd())? else {
                return Err(match outcome.as_ref().map(messages::last_word).transpose()?.flatten() {
                    Some(message) => step::explain_planned(plan, &message),
                    None => died(child, Some(cgroup)),
                });
            };
            match message.kind {
                MessageKind::Mounted => {
                    self.hooked = Some(record.clone());
                    for hook in plan.hooks.prestart.iter().chain(&plan.hooks.create_runtime) {
                        hooks::run(hook, &state("creating"), signals)?;
                    }
                    messages::send(control.as_fd(), MessageKind::Go)?;
                }
                MessageKind::Console => {
                    let fd = fd.ok_or_else(|| Error::new(Code::System, "init sent no terminal"))?;
                    let fd = Fd::own(std::os::fd::IntoRawFd::into_raw_fd(fd));
                    match sockets.console.take() {
                        Some(socket) => socket.send("/dev/ptmx", fd.number())?,
                        None => {
                            foreground::prepare(&fd)?;
                            terminal = Some(fd);
                        }
                    }
                }
                MessageKind::Listener => {
                    let number = message.detail as i32;
                    // If there is none, a message says why.
                    if let Some(fd) = seccomp::take(child, number, control.as_fd())? {
                        if let Some(agent) = sockets.seccomp.take() {
                            seccomp::hand_over(agent, plan, child.pid, &state("creating"), fd)?;
                        }
                        messages::send(control.as_fd(), MessageKind::Go)?;
                    }
                }
                MessageKind::Warning => {
                    let step = step::named(plan, message.step as usize).name;
                    let cause = words(errno(coracle_sys::Errno(message.errno)));
                    warnings.push(format!("{step}: {cause}; left out"));
                }
                MessageKind::Failed => {
                    let error = step::explain_planned(plan, &message);
                    if error.code == Code::Hook {
                        self.hooked = Some(record.clone());
                    }
                    return Err(with_output(error, hook_output));
                }
                MessageKind::Ready => break,
                other => {
                    let text = format!("init said {other:?} out of turn");
                    return Err(Error::new(Code::System, text));
                }
            }
        }

        for limit in plan.outside.rlimits.iter().filter(|limit| !lower::too_low_for_init(limit)) {
            process::prlimit(child.pid, limit.resource, limit.soft, limit.hard).map_err(|error| {
                Error::system(format!("{}: set {}", limit.place, limit.name), errno(error))
            })?;
        }
        give_stdio(plan, child.pid)?;
        cgroup::move_to_leaf(cgroup, decided, child.pid)?;
        let start_time = match status::stat(child.pid)? {
            Some((_, start_time)) => start_time,
            None => return Err(died(child, Some(cgroup))),
        };
        record.process = Some(Process { pid: child.pid, start_time });
        self.directory.write(&record)?;
        if let (Some(path), Some(draft)) = (&options.pid_file, &record.pid_file_draft) {
            write_pid_file(path, draft, child.pid)?;
        }
        if let Some(socket) = sockets.pidfd.take() {
            socket.send("pidfd", child.pidfd.number())?;
        }
        Ok(Proceeded { record, control, outcome, terminal, warnings })
    }

    /// Take everything back. What cannot be is said after the error that led here.
    fn undo(self, error: Error) -> Error {
        let mut left = Vec::new();
        if let Some(child) = &self.child {
            // It may have ended by itself, and may be reaped already.
            match process::pidfd_send_signal(child.pidfd.number(), libc::SIGKILL) {
                Ok(()) | Err(coracle_sys::Errno(libc::ESRCH)) => {}
                Err(errno) => {
                    left.push(format!("kill process {}: {}", child.pid, words(crate::errno(errno))))
                }
            }
            match process::wait(child.pidfd.number()) {
                Ok(_) | Err(coracle_sys::Errno(libc::ECHILD)) => {}
                Err(errno) => left.push(format!("wait for {}: {}", child.pid, words(crate::errno(errno)))),
            }
        }
        if let Some(cgroup) = &self.cgroup {
            match cgroup::remove(cgroup) {
                Ok(warning) => left.extend(warning),
                Err(error) => left.push(error.message),
            }
        }
        if let Some(Rdt { resctrl, plan, applied }) = &self.rdt {
            let removed = rdt::remove(plan, resctrl, self.directory.id(), *applied);
            left.extend(removed.err().map(|error| error.message));
        }
        left.extend(delete::remove_draft(&self.directory).err().map(|error| error.message));
        // The record stays with whatever could not be removed.
        if left.is_empty() {
            left.extend(self.directory.remove().err().map(|error| error.message));
        }
        if let Some(record) = &self.hooked {
            left.extend(delete::poststop(record));
        }
        let mut error = error;
        if !left.is_empty() {
            error.message = format!("{}; and clean-up failed: {}", error.message, left.join("; "));
        }
        error
    }
}

impl Ready {
    /// Let init go: to park, or with run to execute.
    fn go(&self) -> Result<()> {
        messages::send(self.control.as_fd(), MessageKind::Go)
    }

    /// run: the process executes, and its poststart hooks have run.
    fn started(&self, signals: Option<&Signals>) -> Result<()> {
        self.go()?;
        let (control, steps) = (self.control.as_fd(), &self.record.late_steps);
        match messages::await_execve(control, self.outcome.as_ref(), steps, signals)? {
            Started::Yes if status::executed(self.child.pid, self.child.pidfd.number())? => {}
            Started::Yes | Started::Died => return Err(died(&self.child, Some(&self.record.cgroup.open()))),
        }
        poststart(&self.record)
    }

    /// The error, after everything of the container was removed.
    fn abandon(self, error: Error) -> Error {
        let Ready { directory, record, child, .. } = self;
        let (cgroup, rdt) = (Some(record.cgroup.open()), record.intel_rdt.clone());
        Attempt { directory, cgroup, rdt, child: Some(child), hooked: Some(record) }.undo(error)
    }
}

/// runtime-spec runtime.md "Lifecycle" step 10; a failing hook ends the container.
pub(crate) fn poststart(record: &Record) -> Result<()> {
    let pid = record.process.map_or(0, |process| process.pid);
    for hook in &record.hooks.poststart {
        let state = hooks::state_document(&record.id, "running", pid, &record.bundle, &record.annotations);
        hooks::run(hook, &state, None)?;
    }
    Ok(())
}

/// What the plan has to tell, each with its place in the document.
fn lines(told: &[Warning]) -> Vec<String> {
    let line = |warning: &Warning| match warning.place.as_str() {
        "" => warning.text.clone(),
        place => format!("{place}: {}", warning.text),
    };
    told.iter().map(line).collect()
}

fn intent(
    decided: &Decided,
    location: &Location,
    intel_rdt: Option<Rdt>,
    options: &CreateOptions,
) -> Result<Record> {
    let plan = &decided.plan;
    Ok(Record {
        coracle: Record::FORMAT,
        id: plan.id.clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        created: time::rfc3339(SystemTime::now()),
        boot_id: crate::boot_id()?,
        owner: decided.host.euid,
        annotations: plan.annotations.clone(),
        systemd_cgroup: options.systemd_cgroup,
        cgroup: location.clone(),
        hooks: plan.hooks.clone(),
        late_steps: step::after_start(plan),
        intel_rdt,
        pid_file_draft: options.pid_file.as_deref().map(|path| draft(path, &plan.id)).transpose()?,
        process: None,
    })
}

/// The process, and where it leaves its last word.
fn spawn(context: &lower::Context<'_>) -> Result<(clone::Child, Option<OwnedFd>)> {
    let plan = context.plan;
    let lowered = lower::lower(context)?;
    let program = lower::sealed(c"coracle-program", &lowered.program, false)?;
    let init = lower::sealed(c"coracle-init", INIT, true)?;
    if !plan.spawn.join.is_empty() {
        lower::hide(&init)?;
    }
    let number = std::ffi::CString::new(program.as_raw_fd().to_string()).unwrap_or_default();

    // Joined in this order; a user namespace last, because the caller's own rights end there.
    let mut join: Vec<(i32, u64)> = plan
        .spawn
        .join
        .iter()
        .zip(context.joined)
        .map(|(join, fd)| (fd.as_raw_fd(), namespaces::flag(join.namespace)))
        .collect();
    join.sort_by_key(|(_, flag)| *flag == clone::NEWUSER);
    let time_joined = join.iter().filter(|(_, flag)| *flag == clone::NEWTIME).map(|(fd, _)| *fd);

    let mut inherit: Vec<i32> = lowered.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    inherit.extend([context.control, program.as_raw_fd()]);
    inherit.extend([context.listener, context.hook_output].iter().filter(|fd| **fd >= 0));
    inherit.extend(time_joined);
    inherit.extend(3..3 + plan.preserve_fds as i32);

    let offsets = namespaces::time_offsets(&plan.spawn);
    // Joining makes the whole process undumpable for a moment, and dumpable again: one at a time.
    static JOINING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = (!join.is_empty()).then(|| JOINING.lock().unwrap_or_else(PoisonError::into_inner));
    let child = clone::spawn(&Spawn {
        namespaces: namespaces::flags(&plan.spawn),
        join: &join,
        cgroup: context.cgroup.and_then(Cgroup::clone_fd).map(|fd| fd.as_raw_fd()),
        time_offsets: &offsets,
        program: init.as_raw_fd(),
        args: &[c"oar-init", &number],
        inherit: &inherit,
    });
    let child = child.map_err(|(stage, error)| {
        let what = match stage {
            Stage::Clone => "make the container's process and namespaces".to_string(),
            Stage::Join(index) => {
                let path = join.get(index).and_then(|(fd, _)| {
                    let index = context.joined.iter().position(|joined| joined.as_raw_fd() == *fd)?;
                    plan.spawn.join.get(index)
                });
                path.map_or_else(String::new, |join| format!("{}: join {}", join.place, join.path))
            }
            Stage::Ambient => "keep capabilities in the new user namespace".to_string(),
            Stage::TimeNamespace => "linux.timeOffsets: set up the time namespace".to_string(),
            Stage::Inherit => "pass descriptors to init".to_string(),
            Stage::Execute => "execute init".to_string(),
        };
        let hint = match (stage, error.0) {
            (Stage::Clone, libc::ENOSPC) => Some("a limit in /proc/sys/user/max_*_namespaces is reached"),
            (Stage::Clone, libc::EAGAIN) => Some("RLIMIT_NPROC, or pids.max of a cgroup, is reached"),
            (Stage::Clone, libc::EPERM) => {
                Some("an ordinary user needs a user namespace in linux.namespaces")
            }
            (Stage::Clone, libc::ENOSYS) => {
                Some("it needs clone3(2), Linux 5.14 and no filter that hides it")
            }
            (Stage::Execute, libc::EACCES) => Some("the sysctl vm.memfd_noexec forbids programs in memory"),
            _ => None,
        };
        let error = Error::system(what, errno(error));
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    Ok((child, lowered.outcome))
}

/// Where init of a created container waits: in a directory that only the owner can enter.
fn listen_for_start(directory: &Directory) -> Result<OwnedFd> {
    let failed = |errno| Error::system("make the start socket", errno);
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        nix::sys::socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed)?;
    let address = UnixAddr::new(&directory.member(START_SOCKET)).map_err(failed)?;
    bind(socket.as_raw_fd(), &address).map_err(failed)?;
    listen(&socket, Backlog::new(16).map_err(failed)?).map_err(failed)?;
    Ok(socket)
}

/// (read, write) of a pipe for what createContainer hooks print; only if there are some.
fn hook_pipe(plan: &Plan) -> Result<Option<(OwnedFd, OwnedFd)>> {
    let create_container = |action: &Action| {
        matches!(action, Action::Hook { kind: coracle_plan::InitHook::CreateContainer, .. })
    };
    if !plan.steps.iter().any(|step| create_container(&step.action)) {
        return Ok(None);
    }
    let (read, write) = fd::pipe().map_err(|error| Error::system("pipe", errno(error)))?;
    // A hook that prints more than the pipe holds must not wait for us: it gets an error, as from a full disk.
    for end in [&read, &write] {
        coracle_sys::tty::set_nonblocking(end.number())
            .map_err(|error| Error::system("prepare a pipe", errno(error)))?;
    }
    Ok(Some((read.into(), write.into())))
}

/// The first line that a failed hook printed, after its error.
fn with_output(mut error: Error, output: Option<OwnedFd>) -> Error {
    if let (Code::Hook, Some(output)) = (error.code, output) {
        let mut bytes = [0; 4096];
        // Nothing to read is an error here, and then there is nothing to add.
        let length = File::from(output).read(&mut bytes).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
        if let Some(line) = text.lines().next() {
            error.message = format!("{}: {}", error.message, line.escape_debug());
        }
    }
    error
}

/// Init ended without a word.
pub(crate) fn died(child: &clone::Child, cgroup: Option<&Cgroup>) -> Error {
    let how = match process::wait(child.pidfd.number()) {
        Ok(process::Exit::Signal(libc::SIGSYS)) => {
            return died_how("signal 31 (SIGSYS)", None).hint(step::FILTERED);
        }
        Ok(process::Exit::Code(code)) => format!("exit status {code}"),
        Ok(process::Exit::Signal(signal)) => format!("signal {signal}"),
        Err(error) => words(errno(error)).to_string(),
    };
    died_how(&how, cgroup)
}

pub(crate) fn died_how(how: &str, cgroup: Option<&Cgroup>) -> Error {
    let error = Error::new(Code::System, format!("init ended before it could execute the command: {how}"));
    match cgroup.and_then(Cgroup::hint) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The caller's limit of open files, raised as far as it goes until this is dropped: each mount's source takes one, and
/// engines give us the 1024 that a login has.
struct Descriptors {
    soft: u64,
    hard: u64,
}

impl Descriptors {
    /// `None` where the limit is enough.
    fn raise(plan: &Plan) -> Result<Option<Descriptors>> {
        const OTHERS: u64 = 128;
        let binds =
            plan.steps.iter().filter(|step| matches!(step.action, Action::Bind(_) | Action::Mount(_)));
        // One for the mount, one for the user namespace of its ids.
        let needed = 2 * binds.count() as u64 + OTHERS;
        let failed = |errno| Error::system("RLIMIT_NOFILE", errno);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
        if soft >= needed.min(hard) {
            return Ok(None);
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
        Ok(Some(Descriptors { soft, hard }))
    }

    /// The container has the caller's limit, unless its config says otherwise later.
    fn give_back(&self, pid: i32) -> Result<()> {
        process::prlimit(pid, libc::RLIMIT_NOFILE, self.soft, self.hard)
            .map_err(|error| Error::system("restore RLIMIT_NOFILE", errno(error)))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_NOFILE, self.soft, self.hard).ok(); // lowering is always allowed
    }
}

/// A program that opens /dev/stdout opens the pipe behind it anew, for which it must own it. Files, terminals and
/// /dev/null are somebody else's; pipes were made for the container.
fn give_stdio(plan: &Plan, pid: i32) -> Result<()> {
    if plan.terminal {
        return Ok(());
    }
    let uid = plan.steps.iter().find_map(|step| match &step.action {
        Action::Identity(identity) => Some(identity.uid),
        _ => None,
    });
    let in_namespace = plan.spawn.makes(Namespace::User) || plan.spawn.joins(Namespace::User);
    let owner = match uid {
        Some(uid) if in_namespace => namespaces::outside_id(pid, uid)?,
        uid => uid,
    };
    let Some(owner) = owner else { return Ok(()) };
    const UNCHANGED: u32 = u32::MAX;
    for stdio in 0..3 {
        match fd::fstat(stdio) {
            Ok(stat) if stat.kind() == libc::S_IFIFO && stat.uid != owner => {}
            // Also one that is closed.
            _ => continue,
        }
        match fd::chown(stdio, owner, UNCHANGED) {
            // Then it stays as usable as it was.
            Ok(()) | Err(coracle_sys::Errno(libc::EPERM | libc::EINVAL | libc::EROFS)) => {}
            Err(error) => return Err(Error::system("give stdio to the process's user", errno(error))),
        }
    }
    Ok(())
}

fn move_devices(plan: &Plan, pid: i32) -> Result<()> {
    if plan.outside.net_devices.is_empty() {
        return Ok(());
    }
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).map_err(|error| Error::io(path, &error))?;
    for device in &plan.outside.net_devices {
        coracle_net::move_device(&device.host_name, &device.container_name, namespace.as_fd())
            .map_err(|error| Error::new(Code::System, format!("{}: {error}", device.place)))?;
    }
    Ok(())
}

fn check_pid_file(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::metadata(parent) {
        Ok(metadata) if !metadata.is_dir() => {
            Err(Error::system(format!("--pid-file {}", path.display()), Errno::ENOTDIR))
        }
        Ok(_) if path.is_dir() => Err(Error::system(format!("--pid-file {}", path.display()), Errno::EISDIR)),
        Ok(_) => Ok(()),
        Err(error) => Err(Error::io(format!("--pid-file {}", path.display()), &error)),
    }
}

/// Where a pid file is written before it gets its name.
fn draft(path: &Path, id: &str) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|error| Error::io("--pid-file", &error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A name that nobody can have taken before, in a directory that others may write to.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(path.with_file_name(format!(".{name}.{id}.{}-{}", std::process::id(), now.as_nanos())))
}

/// Digits and nothing else, and never half of them: callers parse the file the moment that it is there.
fn write_pid_file(path: &Path, draft: &Path, pid: i32) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(draft)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(draft, path))
        .map_err(|error| Error::io(format!("--pid-file {}", path.display()), &error))
}

/// Send one of the signals that end a wait; the process may be gone already.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<bool> {
    match process::pidfd_send_signal(pidfd.as_raw_fd(), number) {
        Ok(()) => Ok(true),
        Err(coracle_sys::Errno(libc::ESRCH)) => Ok(false),
        Err(error) => Err(Error::system("send the signal", errno(error))),
    }
}
