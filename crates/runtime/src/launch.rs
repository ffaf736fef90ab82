// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a plan to a process that is ready to execute: init is cloned, heard, and given what it gets from outside.
//!
//! The same for create and exec. Records nothing and takes nothing back: that is theirs.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use coracle_cgroup::Cgroup;
use coracle_plan::{Action, Namespace, Plan, Scheduler};
use coracle_program::MessageKind;
use coracle_sys::clone::{self, Child, Spawn, Stage};
use coracle_sys::{Fd, fd, process};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, linkat};

use crate::error::{Code, Error, Result, words};
use crate::foreground::{self, Signals};
use crate::terminal::FdSocket;
use crate::{errno, lower, messages, namespaces, seccomp, step};

/// The program that becomes every container's first process.
pub(crate) const INIT: &[u8] = include_bytes!(env!("CORACLE_INIT"));

/// Descriptors from 3 on that the process is to inherit.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    match (3..3u32.saturating_add(count)).find(|number| !fd::is_open(*number as i32)) {
        Some(number) => {
            let text = format!("--preserve-fds: descriptor {number} is not open");
            Err(Error::new(Code::Invalid, text))
        }
        None => Ok(()),
    }
}

/// Connections that a caller waits on; made before anything else, so that a wrong path changes nothing.
pub(crate) struct Sockets {
    pub console: Option<FdSocket>,
    pub pidfd: Option<FdSocket>,
    pub seccomp: Option<FdSocket>,
}

/// What the caller wants to have of the process, and where.
pub(crate) struct CallersFiles<'a> {
    pub console_socket: &'a Option<PathBuf>,
    pub pid_file: &'a Option<PathBuf>,
    pub pidfd_socket: &'a Option<PathBuf>,
}

impl Sockets {
    pub(crate) fn connect(files: &CallersFiles<'_>, plan: &Plan) -> Result<Sockets> {
        if let Some(path) = files.pid_file {
            check_pid_file(path)?;
        }
        let connect = |path: &Option<PathBuf>, flag| {
            path.as_ref().map(|path| FdSocket::connect(path, flag)).transpose()
        };
        Ok(Sockets {
            console: connect(files.console_socket, "--console-socket")?,
            pidfd: connect(files.pidfd_socket, "--pidfd-socket")?,
            seccomp: seccomp::connect(plan)?,
        })
    }
}

/// What the process is born into.
pub(crate) struct Born<'a> {
    /// To make (NEW* flags).
    pub namespaces: u64,
    /// To enter before, in this order.
    pub join: &'a [(i32, u64)],
    pub cgroup: Option<BorrowedFd<'a>>,
    pub time_offsets: &'a [u8],
}

/// What init is made of.
pub(crate) struct Prepared {
    lowered: lower::Lowered,
    program: OwnedFd,
    init: OwnedFd,
    /// Where init leaves its last word.
    pub outcome: Option<OwnedFd>,
}

/// All that takes memory. `hidden`: it will be where others are.
pub(crate) fn prepare(context: &lower::Context<'_>, hidden: bool) -> Result<Prepared> {
    let mut lowered = lower::lower(context)?;
    let program = lower::sealed(c"coracle-program", &lowered.program, false)?;
    let init = lower::sealed(c"coracle-init", INIT, true)?;
    if hidden || !context.late_join.is_empty() {
        lower::hide(&init)?;
    }
    let outcome = lowered.outcome.take();
    Ok(Prepared { lowered, program, init, outcome })
}

/// The process. `joining` names what the n-th namespace to join is for.
pub(crate) fn spawn(
    context: &lower::Context<'_>,
    prepared: &Prepared,
    born: &Born<'_>,
    joining: &dyn Fn(usize) -> String,
) -> Result<Child> {
    let plan = context.plan;
    let Prepared { lowered, program, init, .. } = prepared;
    let number = std::ffi::CString::new(program.as_raw_fd().to_string()).unwrap_or_default();

    let mut inherit: Vec<i32> = lowered.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    inherit.extend([context.control, program.as_raw_fd()]);
    inherit.extend([context.listener, context.hook_output].iter().filter(|fd| **fd >= 0));
    inherit.extend(context.late_join.iter().map(|(fd, _)| *fd));
    inherit.extend(Some(context.procfs).filter(|fd| *fd >= 0));
    inherit.extend(3..3 + plan.preserve_fds as i32);

    // Joining makes the whole process undumpable for a moment, and dumpable again: one at a time.
    static JOINING: Mutex<()> = Mutex::new(());
    let _one_at_a_time =
        (!born.join.is_empty()).then(|| JOINING.lock().unwrap_or_else(PoisonError::into_inner));
    let child = clone::spawn(&Spawn {
        namespaces: born.namespaces,
        join: born.join,
        cgroup: born.cgroup.map(|fd| fd.as_raw_fd()),
        time_offsets: born.time_offsets,
        program: init.as_raw_fd(),
        args: &[c"oar-init", &number],
        inherit: &inherit,
    });
    let child = child.map_err(|(stage, error)| {
        let what = match stage {
            Stage::Clone if error.0 == libc::EACCES && born.cgroup.is_some() => {
                "make a process in the container's cgroup from the cgroup of this command".to_string()
            }
            Stage::Clone => "make the container's process and namespaces".to_string(),
            Stage::Join(index) => joining(index),
            Stage::Ambient => "keep capabilities in the new user namespace".to_string(),
            Stage::TimeNamespace => "linux.timeOffsets: set up the time namespace".to_string(),
            Stage::Inherit => "pass descriptors to init".to_string(),
            Stage::Execute => "execute init".to_string(),
        };
        let hint = match (stage, error.0) {
            (Stage::Clone, libc::ENOSPC) => Some("a limit in /proc/sys/user/max_*_namespaces is reached"),
            (Stage::Clone, libc::EAGAIN) => Some("RLIMIT_NPROC, or pids.max of a cgroup, is reached"),
            // cgroups(7) "Delegation": the nearest cgroup above both has to be the user's.
            (Stage::Clone, libc::EACCES) if born.cgroup.is_some() => {
                Some("begin in one that the user may leave: `systemd-run --user --scope oar …`")
            }
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
    Ok(child)
}

/// A process on its way to its command.
pub(crate) struct Launch<'a> {
    pub plan: &'a Plan,
    pub control: BorrowedFd<'a>,
    /// Where init leaves its last word, of a process with a seccomp filter.
    pub outcome: Option<&'a OwnedFd>,
    pub signals: Option<&'a Signals>,
    pub cgroup: &'a Cgroup,
}

/// What came of it on the way.
#[derive(Default)]
pub(crate) struct Heard {
    pub terminal: Option<Fd>,
    pub warnings: Vec<String>,
}

impl Launch<'_> {
    /// Do what init asks for, until it is ready. `state` is the state document of the container whose process has this
    /// pid, `mounted` runs the hooks. A copy of init that goes on in its place is `child` from then on.
    pub(crate) fn until_ready(
        &self,
        child: &mut Child,
        sockets: &mut Sockets,
        state: &dyn Fn(i32) -> Vec<u8>,
        mounted: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Heard> {
        let mut heard = Heard::default();
        // Init is as good as its word, but a container that traces it could speak in its place: each thing is heard once,
        // and only if it was planned.
        let planned = |wanted: fn(&Action) -> bool| self.plan.steps.iter().any(|step| wanted(&step.action));
        let mut mounts = planned(|action| *action == Action::RuntimeHooks);
        let mut console = self.plan.terminal;
        let mut fork = planned(|action| *action == Action::Fork);
        let mut listener = planned(|action| matches!(action, Action::Seccomp(filter) if filter.notifies));
        let mut warnings = self.plan.steps.len();
        let once = |expected: &mut bool| std::mem::take(expected);
        loop {
            let heard_of = messages::receive_from(self.control, child.pidfd.number(), self.signals)?;
            let Some((message, fd)) = heard_of else {
                return Err(match self.outcome.map(messages::last_word).transpose()?.flatten() {
                    Some(message) => step::explain_planned(self.plan, &message),
                    None => died(child, Some(self.cgroup)),
                });
            };
            match message.kind {
                MessageKind::Mounted if once(&mut mounts) => {
                    mounted()?;
                    messages::ask(self.control, MessageKind::Go)?;
                }
                MessageKind::Console if once(&mut console) => {
                    let fd = Fd::own(received(fd)?);
                    match sockets.console.take() {
                        Some(socket) => socket.send("/dev/ptmx", fd.number())?,
                        None => {
                            foreground::prepare(&fd)?;
                            heard.terminal = Some(fd);
                        }
                    }
                }
                MessageKind::Forked if once(&mut fork) => {
                    let copy = own_child(Fd::own(received(fd)?))?;
                    end(&std::mem::replace(child, copy))?;
                    messages::ask(self.control, MessageKind::Go)?;
                }
                MessageKind::Listener if once(&mut listener) => {
                    let number = message.detail as i32;
                    // If there is none, a message says why.
                    if let Some(fd) = seccomp::take(child, number, self.control, self.signals)? {
                        if let Some(agent) = sockets.seccomp.take() {
                            seccomp::hand_over(agent, self.plan, child.pid, &state(child.pid), fd)?;
                        }
                        messages::ask(self.control, MessageKind::Go)?;
                    }
                }
                MessageKind::Warning if warnings > 0 => {
                    warnings -= 1;
                    let step = step::named(self.plan, message.step as usize).name;
                    let cause = words(errno(coracle_sys::Errno(message.errno)));
                    heard.warnings.push(format!("{step}: {cause}; left out"));
                }
                MessageKind::Failed => return Err(step::explain_planned(self.plan, &message)),
                MessageKind::Ready => return Ok(heard),
                other => {
                    let text = format!("init said {other:?} out of turn");
                    return Err(Error::new(Code::System, text));
                }
            }
        }
    }

    pub(crate) fn give_scheduler(&self, pid: i32) -> Result<()> {
        let Some(Scheduler { policy, flags, nice, priority, runtime, deadline, period }) =
            self.plan.outside.scheduler
        else {
            return Ok(());
        };
        let attr = process::SchedAttr { size: 0, policy, flags, nice, priority, runtime, deadline, period };
        process::sched_setattr(pid, attr)
            .map_err(|error| Error::system("process.scheduler: set the scheduler", errno(error)))
    }

    pub(crate) fn give_limits(&self, pid: i32) -> Result<()> {
        for limit in self.plan.outside.rlimits.iter().filter(|limit| !lower::too_low_for_init(limit)) {
            process::prlimit(pid, limit.resource, limit.soft, limit.hard).map_err(|error| {
                Error::system(format!("{}: set {}", limit.place, limit.name), errno(error))
            })?;
        }
        Ok(())
    }

    /// A program that opens /dev/stdout opens the pipe behind it anew, for which it must own it. Files, terminals and
    /// /dev/null are somebody else's; pipes were made for the container.
    pub(crate) fn give_stdio(&self, pid: i32) -> Result<()> {
        let plan = self.plan;
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
}

pub(crate) fn give_oom_score(plan: &Plan, pid: i32) -> Result<()> {
    let Some(score) = plan.outside.oom_score_adj else { return Ok(()) };
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
        .map_err(|error| Error::io(format!("process.oomScoreAdj: write {score}"), &error))
}

/// The process of a pidfd that came from outside, if it is a child of this one. Its number is the kernel's word.
pub(crate) fn own_child(pidfd: Fd) -> Result<Child> {
    let failed = |why: &str| Error::new(Code::System, format!("init sent no process of its own: {why}"));
    let path = format!("/proc/self/fdinfo/{}", pidfd.number());
    let info = fd::read_file(&path).map_err(|error| Error::io(&path, &error))?;
    let info = String::from_utf8_lossy(&info);
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    let pid = pid.filter(|pid| *pid > 0).ok_or_else(|| failed("no pidfd"))?;
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(Pid::from_raw(pid)), look) {
        Ok(_) => Ok(Child { pid, pidfd }),
        Err(errno) => Err(failed(words(errno))),
    }
}

/// The descriptor that belongs to a message.
fn received(fd: Option<OwnedFd>) -> Result<i32> {
    let fd = fd.ok_or_else(|| Error::new(Code::System, "init sent no descriptor"))?;
    Ok(std::os::fd::IntoRawFd::into_raw_fd(fd))
}

/// How long a process that was killed may take to end, in milliseconds: somebody may trace it.
const END_PATIENCE: i32 = 5000;

/// How a child has ended. `None` when it does not, or when its tracer keeps it: then its pidfd says that it has ended,
/// and only asking again tells more.
fn reap(child: &Child) -> nix::Result<Option<process::Exit>> {
    let deadline = Instant::now() + Duration::from_millis(END_PATIENCE as u64);
    fd::wait_readable(child.pidfd.number(), Some(END_PATIENCE)).map_err(errno)?;
    loop {
        match process::try_wait(child.pidfd.number()).map_err(errno)? {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            other => return Ok(other),
        }
    }
}

/// Kill a child, and reap it. It may have ended by itself, and may be reaped already.
pub(crate) fn end(child: &Child) -> Result<()> {
    match process::pidfd_send_signal(child.pidfd.number(), libc::SIGKILL) {
        Ok(()) | Err(coracle_sys::Errno(libc::ESRCH)) => {}
        Err(error) => return Err(Error::system(format!("kill process {}", child.pid), errno(error))),
    }
    match reap(child) {
        Ok(Some(_)) | Err(Errno::ECHILD) => Ok(()),
        Ok(None) => Err(Error::new(Code::Busy, format!("process {} was killed and does not end", child.pid))),
        Err(errno) => Err(Error::system(format!("wait for {}", child.pid), errno)),
    }
}

/// Init ended without a word.
pub(crate) fn died(child: &clone::Child, cgroup: Option<&Cgroup>) -> Error {
    let how = match reap(child) {
        Ok(Some(process::Exit::Signal(libc::SIGSYS))) => {
            return died_how("signal 31 (SIGSYS)", None).hint(step::FILTERED);
        }
        Ok(Some(process::Exit::Code(code))) => format!("exit status {code}"),
        Ok(Some(process::Exit::Signal(signal))) => format!("signal {signal}"),
        Ok(None) => "it does not end".to_string(),
        Err(errno) => words(errno).to_string(),
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

/// Digits and nothing else, and never half of them: callers parse the file the moment that it is there. It has no name
/// before it is whole, so that a runtime which is killed leaves nothing.
pub(crate) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(format!("--pid-file {}", path.display()), &error);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let nameless = std::fs::OpenOptions::new()
        .write(true)
        .mode(0o644)
        .custom_flags(libc::O_TMPFILE)
        .open(directory)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()).map(|()| file));
    let file = match nameless {
        Ok(file) => file,
        // Not every filesystem has such files (open(2), O_TMPFILE).
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) =>
        {
            return write_and_rename(path, pid).map_err(failed);
        }
        Err(error) => return Err(failed(error)),
    };
    let name = |file: &File| {
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(AT_FDCWD, source.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)
    };
    let named = match name(&file) {
        // Of an earlier process.
        Err(Errno::EEXIST) => std::fs::remove_file(path).map_err(failed).map(|()| name(&file))?,
        other => other,
    };
    named.map_err(|errno| Error::system(format!("--pid-file {}", path.display()), errno))
}

fn write_and_rename(path: &Path, pid: i32) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A name that nobody can have taken before, in a directory that others may write to.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let draft = path.with_file_name(format!(".{name}.{}-{}", std::process::id(), now.as_nanos()));
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&draft)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(&draft, path))
}
