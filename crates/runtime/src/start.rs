// SPDX-License-Identifier: MIT OR Apache-2.0
//! start: tell the waiting init to execute, and stay until it did, or said why not.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use coracle_cgroup::Cgroup;
use coracle_program::MessageKind;
use coracle_sys::{fd, socket};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::create::{Told, UNREADY, poststart};
use crate::error::{Code, Error, Result};
use crate::foreground::Signals;
use crate::launch::died_how;
use crate::messages::{self, Started};
use crate::notify::{self, NotifySocket, Processes, Proxy};
use crate::record::{Directory, Process};
use crate::status::{self, Status, Waiting};
use crate::step::{self, Named};
use crate::{Id, Runtime};

/// How long a process that failed to execute may take to end, in milliseconds.
const EXIT_PATIENCE: i32 = 5000;
const GOES_ON: &str = "its process goes on to its command as soon as a hook, or an agent of linux.seccomp, lets it: \
                       `delete --force` ends it";

/// What start takes.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// As for create.
    pub notify_socket: Option<NotifySocket>,
}

impl Runtime {
    /// Start a created container. Succeeds only when its command was executed; a failure of execve(2) is an error
    /// here, with its reason, and the container is stopped then. With a [`StartOptions::notify_socket`], if create had
    /// one too, it also waits until the container has said READY=1.
    pub fn start(&self, id: &Id, options: &StartOptions, tell: &mut dyn FnMut(Told<'_>)) -> Result<()> {
        let directory = Directory::open(&self.root, id)?.lock()?;
        let record = directory.read()?;
        let (status, pidfd) = status::derive(&directory, record.as_ref())?;
        // An init that is being killed listens no more, and has not ended yet.
        let status = match (status, record.as_ref().and_then(|record| record.process), &pidfd) {
            (Status::Running, Some(init), Some(pidfd)) if !status::executed(init.pid, pidfd.as_raw_fd())? => {
                Status::Stopped
            }
            _ => status,
        };
        let (Status::Created, Some(record), Some(pidfd)) = (status, record, pidfd) else {
            let text = match status {
                Status::Stopped => "cannot start a container that has stopped".to_string(),
                Status::Running => "cannot start a container that is already running".to_string(),
                status => format!("cannot start a container that is {status}"),
            };
            return Err(Error::new(Code::State, text));
        };
        let init = match status::waiting_init(&directory)? {
            Waiting::Yes(init) => init,
            Waiting::Busy => {
                return Err(Error::new(Code::Busy, "too many commands want to start the container"));
            }
            Waiting::No => {
                return Err(Error::new(Code::State, "cannot start a container whose init no longer waits"));
            }
        };
        let process = record.process.unwrap_or(Process { pid: 0, start_time: 0 });
        let notify = match reach(&directory, options, tell) {
            Some(host) => {
                let processes = Processes { main: process.pid, init: process.pid };
                Some(Proxy::listen(&directory, host, processes, record.cgroup.open())?)
            }
            None => None,
        };
        let signals = self.signals(false)?;
        let group = record.cgroup.open();
        execute(&init, &process, &pidfd, &record.late_steps, Some(&group), signals.as_ref())?;
        // A convenience for whoever looks: nobody listens on it any more.
        match std::fs::remove_file(directory.member(crate::record::START_SOCKET)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove the start socket", &error));
            }
            _ => {}
        }
        if !record.hooks.poststart.is_empty() {
            // A hook may want to exec.
            directory.admit()?;
        }
        poststart(&record, signals.as_ref()).inspect_err(|_| {
            // The specification has the container stopped then; the hook's error is what the caller hears.
            crate::create::signal(pidfd.as_fd(), libc::SIGKILL).ok(); // see above
        })?;
        // Other commands may want the container while it gets ready; and a signal ends this one as ever.
        drop((directory, signals));
        match notify.map(|notify| notify.until_ready(pidfd.as_raw_fd())).transpose()? {
            // How it ended is for its parent to know.
            Some(false) => Err(Error::new(Code::System, UNREADY)),
            _ => Ok(()),
        }
    }
}

/// The way to the supervisor, for a container that has a socket for it.
fn reach(directory: &Directory, options: &StartOptions, tell: &mut dyn FnMut(Told<'_>)) -> Option<OwnedFd> {
    let socket = options.notify_socket.as_ref()?;
    if !notify::is_there(directory) {
        tell(Told::Note("NOTIFY_SOCKET was not set for create: sd_notify is not forwarded"));
        return None;
    }
    let (host, unheard) = notify::reach(Some(socket));
    unheard.iter().for_each(|warning| tell(Told::Warning(warning)));
    host
}

/// Tell an init that waits to execute, and stay until it did, or said why not and has ended.
pub(crate) fn execute(
    init: &OwnedFd,
    process: &Process,
    pidfd: &OwnedFd,
    late_steps: &[Named],
    cgroup: Option<&Cgroup>,
    signals: Option<&Signals>,
) -> Result<()> {
    fcntl(init, FcntlArg::F_SETFL(OFlag::empty()))
        .map_err(|errno| Error::system("prepare the start socket", errno))?;
    // An init that is gone by now shows in the wait below.
    if socket::is_hung_up(init.as_raw_fd()) {
        return Err(died_how("it is gone", cgroup));
    }
    messages::ask(init.as_fd(), MessageKind::Start)?;
    let error = match messages::await_execve(init.as_fd(), None, late_steps, signals) {
        Ok(Started::Yes) if status::executed(process.pid, pidfd.as_raw_fd())? => return Ok(()),
        Ok(Started::Yes | Started::Died) => match died_how("killed", cgroup) {
            error @ Error { hint: None, .. } if late_steps.iter().any(|step| step.filtered) => {
                error.hint(step::FILTERED)
            }
            error => error,
        },
        // It has heard Start, and goes on.
        Err(error) if error.code == Code::Interrupted => return Err(error.hint(GOES_ON)),
        Err(error) => error,
    };
    // Its last word is said; whoever looks after us must find it stopped.
    fd::wait_readable(pidfd.as_raw_fd(), Some(EXIT_PATIENCE))
        .map_err(|errno| Error::system("wait for the container's process", crate::errno(errno)))?;
    Err(error)
}
