// SPDX-License-Identifier: MIT OR Apache-2.0
//! The listener of a filter that notifies: from init, which made it, to the agent that answers.
//!
//! Never asks init for it: under the filter any call of init may wait for that very agent. Takes it out of init's
//! table instead, and sends it with the state (runtime-spec config-linux.md "The Container Process State").

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use coracle_plan::Plan;
use coracle_sys::clone::Child;
use coracle_sys::{Errno, Fd, fd, process};
use serde_json::{Value, json};

use crate::error::{Code, Error, Result};
use crate::foreground::Signals;
use crate::terminal::FdSocket;
use crate::{OCI_VERSION, errno};

/// Between two looks, in milliseconds. Loading a filter takes a tenth of one.
const BETWEEN_LOOKS: i32 = 1;

/// Before anything of the container exists, as for the sockets of the command line.
pub(crate) fn connect(plan: &Plan) -> Result<Option<FdSocket>> {
    let listener = plan.outside.seccomp_listener.as_ref();
    listener
        .map(|listener| FdSocket::connect(Path::new(&listener.path), "linux.seccomp.listenerPath"))
        .transpose()
}

/// The listener, as soon as init has loaded its filter; it is then open in init under `number`, and nothing else can be.
/// `None` if init said something instead, or ended.
pub(crate) fn take(
    child: &Child,
    number: i32,
    control: BorrowedFd<'_>,
    signals: Option<&Signals>,
) -> Result<Option<Fd>> {
    let failed = |error: Errno| {
        let error_line = Error::system("linux.seccomp: take the listener from init", errno(error));
        match error {
            Errno::PERM => {
                error_line.hint("it takes CAP_SYS_PTRACE, and no LSM that forbids it (Yama's scope 3)")
            }
            _ => error_line,
        }
    };
    loop {
        match process::pidfd_getfd(child.pidfd.number(), number) {
            Ok(listener) => return Ok(Some(listener)),
            // Not loaded yet; or init is gone, which the socket tells.
            Err(Errno::BADF | Errno::SRCH) => {}
            Err(error) => return Err(failed(error)),
        }
        signals.map_or(Ok(()), Signals::check)?;
        if fd::wait_readable(control.as_raw_fd(), Some(BETWEEN_LOOKS)).map_err(failed)? {
            return Ok(None);
        }
    }
}

/// Send it with the state, in the order of `fds`.
pub(crate) fn hand_over(agent: FdSocket, plan: &Plan, pid: i32, state: &[u8], listener: Fd) -> Result<()> {
    let state: Value = serde_json::from_slice(state)
        .map_err(|error| Error::new(Code::System, format!("the state document: {error}")))?;
    let mut document = json!({"ociVersion": OCI_VERSION, "fds": ["seccompFd"], "pid": pid, "state": state});
    let metadata = plan.outside.seccomp_listener.as_ref().map_or("", |listener| listener.metadata.as_str());
    if !metadata.is_empty() {
        document["metadata"] = json!(metadata);
    }
    agent.send_document(document.to_string().as_bytes(), listener.number())
}
