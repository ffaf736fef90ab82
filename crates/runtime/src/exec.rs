// SPDX-License-Identifier: MIT OR Apache-2.0
//! exec: one more process in a container, from its own config and what the caller asks for.
//!
//! Writes nothing of the container's record, and holds its directory against delete only until init is made. init joins the container's namespaces before it is told anything, and enters the pid namespace last, as
//! the user that the command will have, so that nobody inside can use it (CVE-2016-9962).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coracle_cgroup::{Cgroup, Inside, Systemd, Unit};
use coracle_plan::{Action, Changes, Exec, Host, Options, Plan, TerminalTo};
use coracle_program::MessageKind;
use coracle_sys::clone::{self, Child};
use coracle_sys::{Fd, fd, socket};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::create::{lines, listen_for_start};
use crate::error::{Code, Error, Result};
use crate::foreground::{self, ExitStatus, Signals};
use crate::launch::{self, Born, CallersFiles, Launch, Sockets};
use crate::messages::{self, Started};
use crate::record::{Directory, Held, Process, Record};
use crate::status::{self, Status, Waiting};
use crate::step::{self, Named};
use crate::{Created, Id, Runtime, Told, cgroup, config, errno, hooks, lower, probe, start};

/// The process to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecProcess {
    /// A `process` object of the specification, as JSON. Capabilities, limits, labels, no_new_privs, scheduling and
    /// umask that it does not speak of are those of the container's process.
    Document(Vec<u8>),
    /// As the container's process, but for this.
    Like(Changes),
}

#[derive(Debug, Clone)]
pub struct ExecOptions {
    pub process: ExecProcess,
    /// As for create, of this process.
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    pub listen_fds: u32,
    pub listen_fd_names: String,
    /// Return when the process runs.
    pub detach: bool,
    /// Also in a paused container, where the process waits to be resumed.
    pub ignore_paused: bool,
    /// Where below the container's cgroup; of several for one hierarchy the last.
    pub cgroup: Vec<Inside>,
}

/// A process up to the point where it may go.
struct Ready {
    /// Of the container's first process.
    container: OwnedFd,
    claim: Option<Claim>,
    directory: Held,
    record: Record,
    late_steps: Vec<Named>,
    child: Child,
    control: OwnedFd,
    outcome: Option<OwnedFd>,
    terminal: Option<Fd>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// A process that waits to be started, on file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parked {
    /// It is the caller's own while there is none yet.
    process: Process,
    made: bool,
    late_steps: Vec<Named>,
}

/// Names of a parked process's files in the container's directory.
fn parked_files(name: &Id) -> (String, String) {
    (format!("parked-{name}.json"), format!("parked-{name}.sock"))
}

/// The way into a unit's cgroup from a shell out of which cgroup2 lets no process, such as that of a login session.
struct Attach {
    unit: Unit,
    /// Below the unit's cgroup, where the container's first process is.
    below: String,
}

impl Attach {
    fn needed(record: &Record, inside: &Cgroup, host: &Host) -> Result<Option<Attach>> {
        let Some(unit) = record.cgroup.unit.clone().filter(|unit| unit.user) else { return Ok(None) };
        if host.euid == 0 || inside.is_reachable().map_err(cgroup::error)? {
            return Ok(None);
        }
        let directory = inside.location().unified.as_deref().zip(record.cgroup.unified.as_deref());
        let below = directory.and_then(|(inside, own)| inside.strip_prefix(own).ok());
        let below = below.map(|below| format!("/{}", below.display())).unwrap_or_default();
        Ok((!below.is_empty()).then_some(Attach { unit, below }))
    }

    fn attach(&self, pid: i32) -> Result<()> {
        let mut manager = Systemd::connect(self.unit.user).map_err(cgroup::error)?;
        manager.attach(&self.unit.name, &self.below, pid).map_err(cgroup::error)
    }
}

/// Tell those who follow the container that a process was executed: by a file's name, which they get of inotify(7) even
/// when the file is gone. Nobody else needs it.
fn announce(directory: &Directory, pid: i32) {
    let name = format!("exec-{pid}");
    if directory.note(&name).is_ok() {
        std::fs::remove_file(directory.member(&name)).ok(); // delete has been faster
    }
}

/// The pid in the name of such a file.
pub(crate) fn parse_name(name: &str) -> Option<i32> {
    name.strip_prefix("exec-")?.parse().ok()
}

impl Runtime {
    /// Execute a process in a container that is created or running. Errors are those of create about a process, and
    /// [`Code::State`]; a command that cannot be executed is one, with its reason.
    pub fn exec(&self, id: &Id, options: &ExecOptions, tell: &mut dyn FnMut(Told<'_>)) -> Result<ExitStatus> {
        let signals = self.signals(!options.detach)?;
        let mut ready = self.prepare(id, options, signals.as_ref(), None)?;
        ready.notes.iter().for_each(|note| tell(Told::Note(note)));
        ready.warnings.iter().for_each(|warning| tell(Told::Warning(warning)));
        let terminal = ready.terminal.take();
        if let Err(error) = ready.started(signals.as_ref()) {
            return Err(ready.abandon(error));
        }
        let Ready { directory, child, .. } = ready;
        announce(&directory, child.pid);
        drop(directory);
        let Some(signals) = signals.filter(|_| !options.detach) else { return Ok(ExitStatus::Detached) };
        foreground::wait(&signals, child.pidfd.number(), child.pid, terminal, false)
    }

    /// Make the process, and leave it before its first instruction until [`Runtime::exec_start`] with the same `name`.
    /// It is the caller's child.
    pub fn exec_create(&self, id: &Id, name: &Id, options: &ExecOptions) -> Result<Created> {
        let signals = self.signals(false)?;
        let mut ready = self.prepare(id, options, signals.as_ref(), Some(name))?;
        let pid = ready.child.pid;
        match ready.park(name) {
            Ok(()) => {
                if let Some(claim) = &mut ready.claim {
                    claim.keep = true;
                }
                Ok(Created { pid, warnings: ready.warnings, notes: ready.notes })
            }
            Err(error) => Err(ready.abandon(error)),
        }
    }

    /// Execute what [`Runtime::exec_create`] has made. Succeeds only when its command was executed.
    pub fn exec_start(&self, id: &Id, name: &Id) -> Result<()> {
        check_name(name)?;
        let mut directory = Directory::open(&self.root, id)?.hold(false)?;
        let record = directory.read()?;
        let (file, socket) = parked_files(name);
        let Some(parked) = read_parked(&directory.member(&file))? else {
            return Err(Error::new(Code::NotFound, format!("process {name} does not exist")));
        };
        let remove = |directory: &Directory| {
            for file in [&file, &socket] {
                std::fs::remove_file(directory.member(file)).ok(); // another start may have been here
            }
        };
        let Some(pidfd) = status::living(&parked.process)? else {
            remove(&directory);
            return Err(Error::new(Code::State, format!("process {name} has ended before it was started")));
        };
        if !parked.made {
            return Err(Error::new(Code::State, format!("process {name} is being made")));
        }
        let init = match status::waiting(&directory, &socket)? {
            Waiting::Yes(init) => init,
            Waiting::Busy => {
                return Err(Error::new(Code::Busy, "too many commands want to start the process"));
            }
            Waiting::No => {
                return Err(Error::new(Code::State, format!("process {name} no longer waits to be started")));
            }
        };
        let group = record.map(|record| record.cgroup.open());
        // It depends on others from here on.
        directory.let_go();
        let signals = self.signals(false)?;
        let (process, steps) = (&parked.process, &parked.late_steps);
        let started = start::execute(&init, process, &pidfd, steps, group.as_ref(), signals.as_ref());
        remove(&directory);
        started.inspect(|()| announce(&directory, parked.process.pid))
    }

    fn prepare(
        &self,
        id: &Id,
        options: &ExecOptions,
        signals: Option<&Signals>,
        parked: Option<&Id>,
    ) -> Result<Ready> {
        launch::check_preserved(options.preserve_fds)?;
        let mut directory = Directory::open(&self.root, id)?.hold(parked.is_some())?;
        let record = directory.read()?;
        let (status, pidfd) = status::derive(&directory, record.as_ref())?;
        let refused = |why: &str| Err(Error::new(Code::State, format!("cannot exec in {why}")));
        match status {
            Status::Created | Status::Running => {}
            Status::Paused if options.ignore_paused => {}
            Status::Paused => return refused("a paused container (--ignore-paused has the process wait)"),
            Status::Stopped => return refused("a stopped container: container not running"),
            Status::Creating => return refused("a container that is being created: container not running"),
        }
        let (Some(record), Some(pidfd)) = (record, pidfd) else {
            return refused("a container without a process: container not running");
        };
        let first = record.process.map_or(0, |process| process.pid);

        let planned =
            decide(&directory, &record, options, !options.detach && parked.is_none(), parked.is_some())?;
        let Planned { plan, host, warnings } = planned;
        let ExecOptions { console_socket, pid_file, pidfd_socket, .. } = options;
        let files = CallersFiles { console_socket, pid_file, pidfd_socket };
        let mut sockets = Sockets::connect(&files, &plan)?;
        let group = record.cgroup.open();
        let inside = group.inside(first, &options.cgroup).map_err(cgroup::error)?;
        let namespaces = Namespaces::of(first)?;
        let procfs = if plan.steps.iter().any(|step| step.action == Action::OpenProc) {
            Some(open_procfs()?)
        } else {
            None
        };
        // While it lives the number is its own, so what was opened by number was.
        if !crate::create::signal(pidfd.as_fd(), 0)? {
            return refused("a stopped container: container not running");
        }
        let claim = parked.map(|name| claim(&directory, name)).transpose()?;

        let (ours, theirs) = socket::pair().map_err(|error| Error::system("socketpair", errno(error)))?;
        let (control, theirs) = (OwnedFd::from(ours), OwnedFd::from(theirs));
        let late_join = namespaces.late();
        let context = lower::Context {
            plan: &plan,
            location: &record.cgroup,
            cgroup: None,
            privileged: host.may_mount(),
            control: theirs.as_raw_fd(),
            listener: claim.as_ref().map_or(-1, |claim| claim.listener.as_raw_fd()),
            hook_output: -1,
            joined: &[],
            late_join: &late_join,
            procfs: procfs.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            gives_limits: host.raise_rlimits,
        };
        let join = [(pidfd.as_raw_fd(), namespaces.flags)];
        let prepared = launch::prepare(&context, !join.is_empty())?;
        // A frozen cgroup would hold the caller too, and one that is full has no room for init and its copy.
        let paused = status == Status::Paused;
        let crowded = paused || inside.is_crowded().map_err(cgroup::error)?;
        let by_systemd = Attach::needed(&record, &inside, &host)?;
        let crowded = crowded || by_systemd.is_some();
        let entered = if paused { None } else { Some(inside.enter().map_err(cgroup::error)?) };
        let born = Born {
            namespaces: 0,
            join: if namespaces.flags == 0 { &[] } else { &join },
            cgroup: if crowded { None } else { inside.clone_fd() },
            time_offsets: &[],
        };
        let explain = |error: Error| explained(error, &pidfd);
        let spawned =
            launch::spawn(&context, &prepared, &born, &|_| "join the container's namespaces".to_string());
        let mut child = spawned.map_err(explain)?;
        let outcome = prepared.outcome;
        let launch = Launch {
            plan: &plan,
            control: control.as_fd(),
            outcome: outcome.as_ref(),
            signals,
            cgroup: &group,
        };
        let state = |pid| {
            let words = if status == Status::Created { "created" } else { "running" };
            hooks::state_document(&record.id, words, pid, &record.bundle, &record.annotations)
        };
        let proceed = || {
            let mut apart = match entered {
                Some(entered) if crowded => entered.apart().map_err(cgroup::error)?.with_unified(),
                Some(entered) => entered.apart().map_err(cgroup::error)?,
                None => inside.apart(),
            };
            // Init's copy is born where init is. Only where their number is limited, and nobody in there could make it do
            // something meanwhile, it follows when it is ready.
            let late = match &by_systemd {
                // While it is of the caller's uid; and this user has no v1 cgroups.
                Some(attach) => {
                    attach.attach(child.pid)?;
                    None
                }
                None => {
                    let late = (!paused && !plan.outside.traceable).then(|| apart.split_off_pids());
                    apart.attach(child.pid).map_err(cgroup::error)?;
                    late
                }
            };
            // From here on it takes as long as the container makes it; pause and delete need not wait for it.
            directory.let_go();
            // Its copy will have these too.
            launch::give_oom_score(&plan, child.pid)?;
            set_cpus(child.pid, &plan.outside.initial_cpus, "initial")?;
            drop(theirs);
            messages::ask(control.as_fd(), MessageKind::Go)?;
            let heard = launch.until_ready(&mut child, &mut sockets, &state, &mut || {
                Err(Error::new(Code::System, "init asked for hooks that exec has not"))
            })?;
            late.iter().try_for_each(|late| late.attach(child.pid)).map_err(cgroup::error)?;
            if host.raise_rlimits {
                launch.give_limits(child.pid)?;
            }
            launch.give_scheduler(child.pid)?;
            set_cpus(child.pid, &plan.outside.final_cpus, "final")?;
            launch.give_stdio(child.pid)?;
            if let Some(rdt) = &record.intel_rdt {
                crate::rdt::join(&rdt.plan, &rdt.resctrl, id.as_str(), child.pid)?;
            }
            if let Some(path) = &options.pid_file {
                launch::write_pid_file(path, child.pid)?;
            }
            if let Some(socket) = sockets.pidfd.take() {
                socket.send("pidfd", child.pidfd.number())?;
            }
            Ok(heard)
        };
        let proceeded = proceed();
        let heard = match proceeded {
            Ok(heard) => heard,
            Err(error) => return Err(explain(abandon(&child, &control, error))),
        };
        let late_steps = step::after_start(&plan);
        let notes = lines(&plan.notes);
        let warnings = warnings.into_iter().chain(heard.warnings).collect();
        let terminal = heard.terminal;
        Ok(Ready {
            container: pidfd,
            claim,
            directory,
            record,
            late_steps,
            child,
            control,
            outcome,
            terminal,
            warnings,
            notes,
        })
    }
}

impl Ready {
    fn started(&self, signals: Option<&Signals>) -> Result<()> {
        messages::ask(self.control.as_fd(), MessageKind::Go)?;
        let (control, steps) = (self.control.as_fd(), &self.late_steps);
        match messages::await_execve(control, self.outcome.as_ref(), steps, signals)? {
            Started::Yes if status::executed(self.child.pid, self.child.pidfd.number())? => Ok(()),
            Started::Yes | Started::Died => Err(launch::died(&self.child, Some(&self.record.cgroup.open()))),
        }
    }

    fn park(&self, name: &Id) -> Result<()> {
        let start_time = match status::stat(self.child.pid)? {
            Some((_, start_time)) => start_time,
            None => return Err(launch::died(&self.child, Some(&self.record.cgroup.open()))),
        };
        let process = Process { pid: self.child.pid, start_time };
        let parked = Parked { process, made: true, late_steps: self.late_steps.clone() };
        write_parked(&self.directory, name, &parked)?;
        messages::send(self.control.as_fd(), MessageKind::Go)
    }

    fn abandon(self, error: Error) -> Error {
        explained(abandon(&self.child, &self.control, error), &self.container)
    }
}

/// The error, after the process is gone, and its copy if it has just made one.
fn abandon(child: &Child, control: &OwnedFd, mut error: Error) -> Error {
    let mut left = Vec::new();
    left.extend(launch::end(child).err());
    // Whatever it said is there by now.
    while fd::wait_readable(control.as_raw_fd(), Some(0)).unwrap_or(false)
        && let Ok(Some((message, pidfd))) = messages::receive(control.as_fd())
    {
        if let (MessageKind::Forked, Some(pidfd)) = (message.kind, pidfd) {
            let copy = launch::own_child(Fd::own(std::os::fd::IntoRawFd::into_raw_fd(pidfd)));
            left.extend(copy.and_then(|copy| launch::end(&copy)).err());
        }
    }
    for left in left {
        error.message = format!("{}; and clean-up failed: {left}", error.message);
    }
    error
}

/// What the kernel said, unless the container has ended, which explains it better. It may be about to.
fn explained(error: Error, container: &OwnedFd) -> Error {
    const MOMENT: i32 = 50;
    if !matches!(error.code, Code::System | Code::Step) {
        return error;
    }
    match fd::wait_readable(container.as_raw_fd(), Some(MOMENT)) {
        Ok(true) => Error::new(Code::State, "cannot exec in a stopped container: container not running"),
        _ => error,
    }
}

struct Planned {
    plan: Plan,
    host: Host,
    warnings: Vec<String>,
}

fn decide(
    directory: &Held,
    record: &Record,
    options: &ExecOptions,
    foreground: bool,
    parked: bool,
) -> Result<Planned> {
    let Some(document) = directory.read_config()? else {
        return Err(Error::new(Code::Invalid, "the container's copy of its config is missing"));
    };
    let (spec, _) = coracle_plan::parse(&document).map_err(|violations| config::refused(&violations))?;
    let unusable = |violations: Vec<_>| {
        let error = config::refused(&violations);
        Error { message: error.message.replacen("config.json: ", "", 1), ..error }
    };
    let (exec, mut warnings) = match &options.process {
        ExecProcess::Document(text) => {
            let (process, warnings) = coracle_plan::parse_process(text).map_err(unusable)?;
            (Exec::Document(Box::new(process)), warnings)
        }
        ExecProcess::Like(changes) => (Exec::Like(changes.clone()), Vec::new()),
    };
    let mut needs = probe::needs(&spec);
    needs.cpus |= matches!(&exec, Exec::Document(process) if process.exec_cpu_affinity().is_some());
    let host = probe::host(&needs)?;
    let planned = coracle_plan::plan_exec(
        &spec,
        &exec,
        &host,
        &Options {
            id: record.id.clone(),
            bundle: record.bundle.clone(),
            terminal: match (&options.console_socket, foreground) {
                (Some(_), _) => TerminalTo::ConsoleSocket,
                (None, true) => TerminalTo::Foreground,
                (None, false) => TerminalTo::Nowhere,
            },
            no_pivot: false,
            no_new_keyring: record.no_new_keyring,
            preserve_fds: options.preserve_fds,
            listen_fds: options.listen_fds,
            listen_fd_names: options.listen_fd_names.clone(),
            notify: String::new(),
            interfaces: Vec::new(),
            systemd_cgroup: record.systemd_cgroup,
            cgroup_leaf: false,
            strict: false,
            allow_annotations: false,
            keep_groups: record.keep_groups,
            run: !parked,
        },
    );
    let plan = planned.map_err(unusable)?;
    warnings.extend(plan.warnings.iter().cloned());
    Ok(Planned { host, warnings: lines(&warnings), plan })
}

/// A place to wait to be started. Its files go with it, until they are the process's.
#[derive(Debug)]
struct Claim {
    listener: OwnedFd,
    files: [PathBuf; 2],
    keep: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        for file in self.files.iter().filter(|_| !self.keep) {
            std::fs::remove_file(file).ok(); // it may not be there yet
        }
    }
}

/// Under a name that no living process has. The directory is held alone.
fn claim(directory: &Held, name: &Id) -> Result<Claim> {
    check_name(name)?;
    let (file, socket) = parked_files(name);
    let mut ended = None;
    while let Some(Parked { process, .. }) = read_parked(&directory.member(&file))? {
        if status::living(&process)?.is_some() {
            return Err(Error::new(Code::Exists, format!("process {name} already exists")));
        }
        // A caller hands the name on to the process that it has made, without the lock, and ends.
        if ended.replace(process) == Some(process) {
            break;
        }
    }
    for stale in [&file, &socket] {
        match std::fs::remove_file(directory.member(stale)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {stale}"), &error));
            }
            _ => {}
        }
    }
    // Until there is a process, the name is taken by the caller.
    let pid = std::process::id() as i32;
    let start_time = status::stat(pid)?.map_or(0, |(_, start_time)| start_time);
    let parked = Parked { process: Process { pid, start_time }, made: false, late_steps: Vec::new() };
    write_parked(directory, name, &parked)?;
    let listener = listen_for_start(directory, &socket)?;
    Ok(Claim { listener, files: [directory.member(&file), directory.member(&socket)], keep: false })
}

/// It becomes part of a socket's address, which has 107 bytes.
fn check_name(name: &Id) -> Result<()> {
    const LONGEST: usize = 64;
    match name.as_str().len() {
        0..=LONGEST => Ok(()),
        _ => Err(Error::new(Code::Invalid, format!("the name of a process has at most {LONGEST} bytes"))),
    }
}

fn write_parked(directory: &Held, name: &Id, parked: &Parked) -> Result<()> {
    let text = serde_json::to_vec(parked)
        .map_err(|error| Error::new(Code::System, format!("encode the record of a process: {error}")))?;
    directory.replace(&parked_files(name).0, &text)
}

fn read_parked(path: &Path) -> Result<Option<Parked>> {
    let text = match coracle_sys::fd::read_file(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read the record of a process", &error)),
    };
    let parked = serde_json::from_slice(&text)
        .map_err(|error| Error::new(Code::Invalid, format!("the record of a process: {error}")))?;
    Ok(Some(parked))
}

/// What of the first process's namespaces is not the caller's own.
struct Namespaces {
    /// NEW* flags for setns(2) with a pidfd.
    flags: u64,
    /// Those that init enters itself.
    time: Option<File>,
    pid: Option<File>,
}

impl Namespaces {
    fn of(pid: i32) -> Result<Namespaces> {
        let failed = |error: std::io::Error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => {
                Error::new(Code::State, "cannot exec in a stopped container: container not running")
            }
            Some(libc::EACCES | libc::EPERM) => Error::io("look at the container's namespaces", &error)
                .hint("exec works from the user namespace in which the container was made, or one above"),
            _ => Error::io("look at the container's namespaces", &error),
        };
        let path = |name: &str| format!("/proc/{pid}/ns/{name}");
        let differs = |name: &str| -> Result<bool> {
            let theirs = std::fs::metadata(path(name)).map_err(failed)?;
            let own = std::fs::metadata(format!("/proc/thread-self/ns/{name}")).map_err(failed)?;
            Ok((theirs.dev(), theirs.ino()) != (own.dev(), own.ino()))
        };
        let mut flags = 0;
        for (name, flag) in [
            ("user", clone::NEWUSER),
            ("mnt", clone::NEWNS),
            ("net", clone::NEWNET),
            ("ipc", clone::NEWIPC),
            ("uts", clone::NEWUTS),
            ("cgroup", clone::NEWCGROUP),
        ] {
            if differs(name)? {
                flags |= flag;
            }
        }
        let open = |name: &str| {
            let other = differs(name)?;
            other.then(|| File::open(path(name)).map_err(failed)).transpose()
        };
        Ok(Namespaces { flags, time: open("time")?, pid: open("pid")? })
    }

    fn late(&self) -> Vec<(i32, u64)> {
        let time = self.time.iter().map(|file| (file.as_raw_fd(), clone::NEWTIME));
        time.chain(self.pid.iter().map(|file| (file.as_raw_fd(), clone::NEWPID))).collect()
    }
}

/// The host's procfs, where init finds itself until it enters the pid namespace.
fn open_procfs() -> Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let proc = fd::openat(libc::AT_FDCWD, c"/proc", flags, 0)
        .map_err(|error| Error::system("open /proc", errno(error)))?;
    match fd::fstatfs(proc.number()) {
        Ok((libc::PROC_SUPER_MAGIC, _)) => Ok(proc.into()),
        Ok(_) => Err(Error::new(Code::System, "/proc is not procfs")),
        Err(error) => Err(Error::system("/proc", errno(error))),
    }
}

fn set_cpus(pid: i32, cpus: &[u32], which: &str) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    let result = cpus.iter().try_for_each(|cpu| set.set(*cpu as usize));
    result.and_then(|()| sched_setaffinity(Pid::from_raw(pid), &set)).map_err(|errno| {
        let error = Error::system(format!("process.execCPUAffinity.{which}"), errno);
        match errno {
            Errno::EINVAL => error.hint("none of these CPUs is in the container's cpuset"),
            _ => error,
        }
    })
}
