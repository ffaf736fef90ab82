// SPDX-License-Identifier: MIT OR Apache-2.0
//! start: tell the waiting init to execute, and stay until it did, or said why not.

use std::os::fd::{AsFd, AsRawFd};

use coracle_program::MessageKind;
use coracle_sys::{fd, socket};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::create::{died_how, poststart};
use crate::error::{Code, Error, Result};
use crate::messages::{self, Started};
use crate::record::Directory;
use crate::status::{self, Status, Waiting};
use crate::{Id, Runtime};

/// How long a process that failed to execute may take to end, in milliseconds.
const EXIT_PATIENCE: i32 = 5000;

impl Runtime {
    /// Start a created container. Succeeds only when its command was executed; a failure of execve(2) is an error
    /// here, with its reason, and the container is stopped then.
    pub fn start(&self, id: &Id) -> Result<()> {
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
        fcntl(&init, FcntlArg::F_SETFL(OFlag::empty()))
            .map_err(|errno| Error::system("prepare the start socket", errno))?;
        // An init that is gone by now shows in the wait below.
        if socket::is_hung_up(init.as_raw_fd()) {
            return Err(died_how("it is gone", Some(&record.cgroup.open())));
        }
        messages::send(init.as_fd(), MessageKind::Start)?;
        let pid = record.process.map_or(0, |process| process.pid);
        let error = match messages::await_execve(init.as_fd(), None, &record.late_steps, None) {
            Ok(Started::Yes) if status::executed(pid, pidfd.as_raw_fd())? => None,
            Ok(Started::Yes) => Some(died_how("killed", Some(&record.cgroup.open()))),
            Ok(Started::Died) => Some(died_how("killed", Some(&record.cgroup.open()))),
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            // Its last word is said; whoever looks after us must find it stopped.
            fd::wait_readable(pidfd.as_raw_fd(), Some(EXIT_PATIENCE))
                .map_err(|errno| Error::system("wait for the container's process", crate::errno(errno)))?;
            return Err(error);
        }
        // A convenience for whoever looks: nobody listens on it any more.
        match std::fs::remove_file(directory.member(crate::record::START_SOCKET)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove the start socket", &error));
            }
            _ => {}
        }
        poststart(&record).inspect_err(|_| {
            // The specification has the container stopped then; the hook's error is what the caller hears.
            crate::create::signal(pidfd.as_fd(), libc::SIGKILL).ok(); // see above
        })
    }
}
