// SPDX-License-Identifier: MIT OR Apache-2.0
//! create, and run: from a bundle to a process, in one pass; and back to nothing when a step fails.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

use coracle_cgroup::{Cgroup, Location};
use coracle_plan::{Action, Namespace, Plan, Warning};
use coracle_program::MessageKind;
use coracle_sys::clone;
use coracle_sys::{Fd, fd, process, socket};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen};

use crate::cgroup::{self, Driver, Placed};
use crate::config::{self, Decided};
use crate::connect::{self, Connecting, Connection, NetworkOptions, Networks};
use crate::error::{Code, Error, Result, words};
use crate::foreground::{self, ExitStatus, Signals};
use crate::launch::{self, Born, CallersFiles, Launch, Sockets};
use crate::messages::{self, Started};
use crate::notify::{self, NotifySocket, Processes, Proxy};
use crate::record::{Directory, Locked, Process, Rdt, Record, START_SOCKET};
use crate::{Id, Runtime, delete, errno, hooks, lower, namespaces, rdt, status, step, sub_ids, time, wait};

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
    /// Their names, separated by colons, for LISTEN_FDNAMES; may be empty.
    pub listen_fd_names: String,
    /// Who is to hear what the container's processes tell by sd_notify(3). A detached run returns when one of them has
    /// said READY=1; in the foreground everything is passed on until the end.
    pub notify_socket: Option<NotifySocket>,
    /// What network it gets, beside the config.
    pub network: NetworkOptions,
    /// systemd makes the cgroup, as a transient unit.
    pub systemd_cgroup: bool,
    /// cgroup2: the process ends up in a sub-cgroup `init`, so that systemd or an engine inside may enable controllers.
    pub cgroup_leaf: bool,
    /// What this host cannot do of the config is an error, not a warning.
    pub strict: bool,
    /// Follow annotations that change what is done (`org.systemd.property.*`, `run.oci.keep_original_groups`).
    pub allow_annotations: bool,
    /// The container's processes have their callers' supplementary groups, not those of the config.
    pub keep_groups: bool,
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
    /// The supervisor's socket, connected, if the container has one for it.
    notify: Option<OwnedFd>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// What was done so far, to be taken back.
struct Attempt {
    directory: Locked,
    cgroup: Option<Cgroup>,
    rdt: Option<Rdt>,
    network: Option<Connection>,
    child: Option<clone::Child>,
    /// Set once a hook may have run: what such hooks began, poststop hooks end.
    hooked: Option<Record>,
}

impl Runtime {
    /// Make a container whose process waits for [`Runtime::start`]. On an error nothing of it is left.
    pub fn create(&self, id: &Id, options: &CreateOptions) -> Result<Created> {
        let signals = self.signals(false)?;
        let ready = self.make(id, options, false, signals.as_ref(), false)?;
        let pid = ready.child.pid;
        // The last moment at which it can be taken back.
        let checked = signals.as_ref().map_or(Ok(()), Signals::check);
        match checked.and_then(|()| ready.go()) {
            Ok(()) => Ok(Created { pid, warnings: ready.warnings, notes: ready.notes }),
            Err(error) => Err(ready.abandon(error)),
        }
    }

    /// The numbered plan, as text; nothing is changed.
    pub fn dry_run(&self, id: &Id, options: &CreateOptions) -> Result<String> {
        let directory = self.root.join(id.as_str());
        let notify = options.notify_socket.is_some();
        let Decided { plan, .. } = config::decide(id, options, &directory, notify, false, false)?;
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
        let signals = self.signals(!run.detach)?;
        let mut ready = self.make(id, options, !run.detach, signals.as_ref(), true)?;
        ready.notes.iter().for_each(|note| tell(Told::Note(note)));
        let mut warn = |warning: &str| tell(Told::Warning(warning));
        ready.warnings.iter().for_each(|warning| warn(warning));
        let terminal = ready.terminal.take();
        let (notify, started) = match ready.notified(run.detach) {
            Ok(notify) => (notify, ready.started(signals.as_ref())),
            Err(error) => (None, Err(error)),
        };
        if let Err(error) = started {
            return Err(ready.abandon(error));
        }
        let Ready { directory, child, record, .. } = ready;
        // From here on other commands may want the container.
        drop(directory);
        let signals = signals.filter(|_| !run.detach);
        let pidfd = child.pidfd.number();
        let waited = match (&signals, notify) {
            (None, None) => return Ok(ExitStatus::Detached),
            (None, Some(notify)) => match notify.until_ready(pidfd) {
                Ok(true) => return Ok(ExitStatus::Detached),
                Ok(false) => Err(unready(pidfd)),
                Err(error) => Err(error),
            },
            (Some(signals), notify) => {
                foreground::wait_notified(signals, pidfd, child.pid, terminal, run.subreaper, notify)
            }
        };
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
        launch::check_preserved(options.preserve_fds)?;
        let (notify, unheard) = notify::reach(options.notify_socket.as_ref());
        let directory = self.root.join(id.as_str());
        let decided = config::decide(id, options, &directory, notify.is_some(), foreground, run)?;
        let CreateOptions { console_socket, pid_file, pidfd_socket, .. } = options;
        let files = CallersFiles { console_socket, pid_file, pidfd_socket };
        let sockets = Sockets::connect(&files, &decided.plan)?;
        let around =
            Around { placed: Placed::decide(&decided)?, joined: namespaces::open(&decided.plan.spawn)? };

        self.make_root()?;
        let directory = Directory::claim(&self.root, id)?;
        let mut attempt =
            Attempt { directory, cgroup: None, rdt: None, network: None, child: None, hooked: None };
        match attempt.proceed(&decided, around, options, sockets, signals) {
            Ok(Proceeded { record, control, outcome, terminal, mut warnings }) => match attempt {
                Attempt { directory, child: Some(child), .. } => {
                    let notes = lines(&decided.plan.notes);
                    warnings.extend(unheard);
                    let notify = notify.filter(|_| decided.plan.outside.notify);
                    Ok(Ready {
                        directory,
                        record,
                        child,
                        control,
                        outcome,
                        terminal,
                        notify,
                        warnings,
                        notes,
                    })
                }
                _ => Err(Error::new(Code::System, "no process was made")),
            },
            Err(error) => Err(attempt.undo(error)),
        }
    }
}

/// What is there before the container.
struct Around<'a> {
    placed: Placed<'a>,
    joined: Vec<OwnedFd>,
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
        around: Around<'_>,
        options: &CreateOptions,
        mut sockets: Sockets,
        signals: Option<&Signals>,
    ) -> Result<Proceeded> {
        let plan = &decided.plan;
        let Around { placed: Placed { mut driver, location }, joined } = around;
        let joined = joined.as_slice();
        let rdt = plan.outside.intel_rdt.clone();
        // Before it is applied: a group that only this container can have made is its own.
        let rdt = rdt.map(|plan| Rdt {
            resctrl: decided.resctrl.clone(),
            applied: rdt::Applied { group: !plan.named, monitoring: plan.monitoring },
            plan,
        });
        // The intent comes first: whatever kills us after this line, delete knows where to look.
        let mut record = intent(decided, &location, rdt, options)?;
        let networks = Networks::prepare(self.directory.root(), &decided.network)?;
        let networks = networks.as_ref();
        if let Some(networks) = networks {
            // Of claims that no record tells of, delete knows the owner.
            record.network = Some(networks.claim(self.directory.root(), &plan.id, &decided.network)?);
            self.network = record.network.clone();
        }
        self.directory.write(&record)?;
        self.directory.write_config(&decided.document)?;
        if plan.outside.notify {
            notify::make_directory(&self.directory)?;
        }

        let mut warnings = lines(&plan.warnings);
        if let (Some(networks), Some(connection)) = (networks, &record.network) {
            warnings.extend(networks.warnings.iter().cloned());
            warnings.extend(connection.write_files(&self.directory, &decided.network, &decided.hostname)?);
        }
        if matches!(driver, Driver::Cgroupfs) {
            let made = location.create(&plan.cgroup.resources).map_err(cgroup::error)?;
            warnings.extend(cgroup::delegate(self.cgroup.insert(made), decided));
        }

        let parks = plan.steps.iter().any(|step| matches!(step.action, Action::AwaitStart { parked: true }));
        let listener = parks.then(|| listen_for_start(&self.directory, START_SOCKET)).transpose()?;
        let hook_output = hook_pipe(plan)?;
        let (control, child, outcome) = {
            let (ours, theirs) = socket::pair().map_err(|error| Error::system("socketpair", errno(error)))?;
            let (ours, theirs) = (OwnedFd::from(ours), OwnedFd::from(theirs));
            let descriptors = Descriptors::raise(plan)?;
            let mut join = joins(plan, joined);
            let late_join: Vec<(i32, u64)> =
                join.iter().filter(|(_, flag)| *flag == clone::NEWTIME).copied().collect();
            // A user namespace last, because the caller's own rights end there.
            join.sort_by_key(|(_, flag)| *flag == clone::NEWUSER);
            let context = lower::Context {
                plan,
                location: &location,
                cgroup: self.cgroup.as_ref(),
                privileged: decided.host.may_mount(),
                control: theirs.as_raw_fd(),
                listener: listener.as_ref().map_or(-1, AsRawFd::as_raw_fd),
                hook_output: hook_output.as_ref().map_or(-1, |(_, write)| write.as_raw_fd()),
                joined,
                late_join: &late_join,
                procfs: -1,
                gives_limits: decided.host.raise_rlimits,
            };
            let prepared = launch::prepare(&context, !join.is_empty())?;
            // On v1 the thread itself goes in, so that the child is born there: moving a process takes 10 ms.
            let entered = self.cgroup.as_ref().map(Cgroup::enter).transpose().map_err(cgroup::error)?;
            let born = Born {
                namespaces: namespaces::flags(&plan.spawn),
                join: &join,
                cgroup: self.cgroup.as_ref().and_then(Cgroup::clone_fd),
                time_offsets: &namespaces::time_offsets(&plan.spawn),
            };
            let child = launch::spawn(&context, &prepared, &born, &|index| {
                let fd = join.get(index).map(|(fd, _)| *fd);
                let index = joined.iter().position(|joined| Some(joined.as_raw_fd()) == fd);
                let join = index.and_then(|index| plan.spawn.join.get(index));
                join.map_or_else(String::new, |join| format!("{}: join {}", join.place, join.path))
            })?;
            let child = self.child.insert(child);
            if let Some(before) = &descriptors {
                before.give_back(child.pid)?;
            }
            if let Some(entered) = entered {
                entered.leave(Some(child.pid)).map_err(cgroup::error)?;
            }
            (ours, child, prepared.outcome)
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
            sub_ids::write_maps(child.pid, &plan.spawn, signals)?;
        }
        if let Some(rdt) = &mut record.intel_rdt {
            rdt.applied = rdt::apply(&rdt.plan, &rdt.resctrl, &plan.id, child.pid)?;
            self.rdt = Some(rdt.clone());
        }
        let mut connecting = match (networks, &record.network) {
            (Some(networks), Some(connection)) => Some(networks.begin(connection, child.pid)?),
            _ => None,
        };
        // What init does unasked and may need an interface for: the settings of one, hooks. And a device that is to have
        // the next free name comes after those that have theirs.
        let connected = |action: &Action| match action {
            Action::Sysctl { key, .. } => key.starts_with("net/"),
            Action::Hook { kind, .. } => *kind == coracle_plan::InitHook::CreateContainer,
            _ => false,
        };
        let first = !plan.outside.net_devices.is_empty();
        if first || plan.steps.iter().any(|step| connected(&step.action)) {
            warnings.extend(finish(&mut connecting)?);
        }
        move_devices(plan, child.pid)?;
        launch::give_oom_score(plan, child.pid)?;
        if plan.steps.iter().any(|step| step.action == Action::AwaitRuntime) {
            messages::ask(control.as_fd(), MessageKind::Go)?;
        }

        let state =
            |status: &str, pid| hooks::state_document(&plan.id, status, pid, &plan.bundle, &plan.annotations);
        let pid = child.pid;
        let launch = Launch { plan, control: control.as_fd(), outcome: outcome.as_ref(), signals, cgroup };
        let hooked = &mut self.hooked;
        let (connecting, told) = (&mut connecting, &mut warnings);
        let heard = launch.until_ready(child, &mut sockets, &|pid| state("creating", pid), &mut || {
            told.extend(finish(connecting)?);
            *hooked = Some(record.clone());
            let mut hooks = plan.hooks.prestart.iter().chain(&plan.hooks.create_runtime);
            hooks.try_for_each(|hook| hooks::run(hook, &state("creating", pid), signals))
        });
        let heard = heard.map_err(|error| {
            if error.code == Code::Hook {
                self.hooked = Some(record.clone());
            }
            with_output(error, hook_output)
        })?;
        warnings.extend(heard.warnings);
        warnings.extend(finish(connecting)?);

        if decided.host.raise_rlimits {
            launch.give_limits(child.pid)?;
        }
        launch.give_stdio(child.pid)?;
        cgroup::move_to_leaf(cgroup, decided, child.pid)?;
        let start_time = match status::stat(child.pid)? {
            Some((_, start_time)) => start_time,
            None => return Err(launch::died(child, Some(cgroup))),
        };
        record.process = Some(Process { pid: child.pid, start_time });
        self.directory.write(&record)?;
        if let Some(path) = &options.pid_file {
            launch::write_pid_file(path, child.pid)?;
        }
        if let Some(socket) = sockets.pidfd.take() {
            socket.send("pidfd", child.pidfd.number())?;
        }
        Ok(Proceeded { record, control, outcome, terminal: heard.terminal, warnings })
    }

    /// Take everything back. What cannot be is said after the error that led here.
    fn undo(self, error: Error) -> Error {
        let mut left = Vec::new();
        if let Some(child) = &self.child {
            left.extend(launch::end(child).err().map(|error| error.message));
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
        let network = connect::remove(self.directory.root(), self.directory.id(), self.network.as_ref());
        left.extend(network.map_err(|error| error.message).unwrap_or_else(Some));
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
    /// run: listen for what the process will tell. While this process stays it is the one that a supervisor supervises:
    /// it has the container's signals and its exit status.
    fn notified(&mut self, detach: bool) -> Result<Option<Proxy>> {
        let Some(host) = self.notify.take() else { return Ok(None) };
        let init = self.child.pid;
        let main = if detach { init } else { std::process::id() as i32 };
        Proxy::listen(&self.directory, host, Processes { main, init }, self.record.cgroup.open()).map(Some)
    }

    /// Let init go to park.
    fn go(&self) -> Result<()> {
        messages::send(self.control.as_fd(), MessageKind::Go)
    }

    /// run: the process executes, and its poststart hooks have run.
    fn started(&self, signals: Option<&Signals>) -> Result<()> {
        messages::ask(self.control.as_fd(), MessageKind::Go)?;
        let (control, steps) = (self.control.as_fd(), &self.record.late_steps);
        match messages::await_execve(control, self.outcome.as_ref(), steps, signals)? {
            Started::Yes if status::executed(self.child.pid, self.child.pidfd.number())? => {}
            Started::Yes | Started::Died => {
                return Err(launch::died(&self.child, Some(&self.record.cgroup.open())));
            }
        }
        if !self.record.hooks.poststart.is_empty() {
            // A hook may want to exec.
            self.directory.admit()?;
        }
        poststart(&self.record, signals)
    }

    /// The error, after everything of the container was removed.
    fn abandon(self, error: Error) -> Error {
        let Ready { directory, record, child, .. } = self;
        let (cgroup, rdt, network) =
            (Some(record.cgroup.open()), record.intel_rdt.clone(), record.network.clone());
        Attempt { directory, cgroup, rdt, network, child: Some(child), hooked: Some(record) }.undo(error)
    }
}

/// Unless that is done already. A warning, when there is one.
fn finish(connecting: &mut Option<Connecting>) -> Result<Option<String>> {
    connecting.take().map_or(Ok(None), Connecting::finish)
}

/// A detached process that did not live to say READY=1.
fn unready(pidfd: i32) -> Error {
    let how = match process::wait(pidfd) {
        Ok(process::Exit::Code(code)) => format!("exit status {code}"),
        Ok(process::Exit::Signal(signal)) => format!("signal {signal}"),
        Err(error) => words(errno(error)).to_string(),
    };
    Error::new(Code::System, format!("{UNREADY}: {how}"))
}

pub(crate) const UNREADY: &str =
    "the container's process ended before it said READY=1 (NOTIFY_SOCKET is set)";

/// runtime-spec runtime.md "Lifecycle" step 10; a failing hook ends the container.
pub(crate) fn poststart(record: &Record, signals: Option<&Signals>) -> Result<()> {
    let pid = record.process.map_or(0, |process| process.pid);
    for hook in &record.hooks.poststart {
        let state = hooks::state_document(&record.id, "running", pid, &record.bundle, &record.annotations);
        hooks::run(hook, &state, signals)?;
    }
    Ok(())
}

/// What the plan has to tell, each with its place in the document.
pub(crate) fn lines(told: &[Warning]) -> Vec<String> {
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
        pid_namespace: Some(crate::pid_namespace()?),
        owner: decided.host.euid,
        annotations: plan.annotations.clone(),
        systemd_cgroup: options.systemd_cgroup,
        cgroup: location.clone(),
        hooks: plan.hooks.clone(),
        late_steps: step::after_start(plan),
        intel_rdt,
        network: None,
        no_new_keyring: options.no_new_keyring,
        keep_groups: plan.keep_groups,
        process: None,
    })
}

/// The open namespaces and their flags.
fn joins(plan: &Plan, joined: &[OwnedFd]) -> Vec<(i32, u64)> {
    let open = plan.spawn.join.iter().zip(joined);
    open.map(|(join, fd)| (fd.as_raw_fd(), namespaces::flag(join.namespace))).collect()
}

/// Where init of a created container waits: in a directory that only the owner can enter.
pub(crate) fn listen_for_start(directory: &Directory, name: &str) -> Result<OwnedFd> {
    let failed = |errno| Error::system("make the start socket", errno);
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        nix::sys::socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed)?;
    let address = UnixAddr::new(&directory.member(name)).map_err(failed)?;
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

/// Send one of the signals that end a wait; the process may be gone already.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<bool> {
    match process::pidfd_send_signal(pidfd.as_raw_fd(), number) {
        Ok(()) => Ok(true),
        Err(coracle_sys::Errno(libc::ESRCH)) => Ok(false),
        Err(error) => Err(Error::system("send the signal", errno(error))),
    }
}
