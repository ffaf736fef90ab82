// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime's side of the messages (drawn in `coracle_program::message`).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use coracle_program::{Message, MessageKind};
use coracle_sys::{fd, socket};

use crate::errno;
use crate::error::{Code, Error, Result};
use crate::foreground::Signals;
use crate::step::{self, Kind, Named};

pub(crate) fn send(socket: BorrowedFd<'_>, kind: MessageKind) -> Result<()> {
    socket::send(socket.as_raw_fd(), &Message::new(kind).encode(), None)
        .map_err(|error| Error::system("tell init to go on", errno(error)))
}

/// The next message; `None` when the other side is gone.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let mut bytes = [0; Message::SIZE];
    let received = match socket::receive(socket.as_raw_fd(), &mut bytes) {
        // It ended with something unread, which is the end all the same.
        Err(coracle_sys::Errno(libc::ECONNRESET)) => return Ok(None),
        other => other.map_err(|error| Error::system("hear from init", errno(error))),
    };
    let (length, fd) = received?;
    if length == 0 {
        return Ok(None);
    }
    match Message::decode(bytes.get(..length).unwrap_or_default()) {
        Ok(message) => Ok(Some((message, fd.map(OwnedFd::from)))),
        Err(_) => Err(Error::new(Code::System, "init sent something that is no message")),
    }
}

/// How a start went.
#[derive(Debug)]
pub(crate) enum Started {
    Yes,
    /// Init ended without a word: killed, most likely.
    Died,
}

/// Wait for the execve(2) of a started init: end of file after its announcement is the proof. `steps` are those
/// that were left to do, `outcome` the page for init's last word if the caller has it.
pub(crate) fn await_execve(
    socket: BorrowedFd<'_>,
    outcome: Option<&OwnedFd>,
    steps: &[Named],
    signals: Option<&Signals>,
) -> Result<Started> {
    let failed = |message: &Message| {
        let unknown = Named { number: message.step, name: "start".into(), kind: Kind::Other };
        let step = steps.iter().find(|step| step.number == message.step).unwrap_or(&unknown);
        step::explain(step, message)
    };
    let mut announced = false;
    let mut page: Option<OwnedFd> = None;
    loop {
        // Once it is announced, a signal is for the command.
        if let (Some(signals), false) = (signals, announced) {
            signals.wait_for(socket.as_raw_fd())?;
        }
        match receive(socket)? {
            None => {
                let last_word = page.as_ref().or(outcome).map(last_word).transpose()?.flatten();
                return match last_word {
                    Some(message) => Err(failed(&message)),
                    None if announced => Ok(Started::Yes),
                    None => Ok(Started::Died),
                };
            }
            Some((Message { kind: MessageKind::Executing, .. }, file)) => (announced, page) = (true, file),
            Some((message, _)) if message.kind == MessageKind::Failed => return Err(failed(&message)),
            Some((message, _)) => {
                let text = format!("init said {:?} where it should execute", message.kind);
                return Err(Error::new(Code::System, text));
            }
        }
    }
}

/// What init left in its page where a seccomp filter may have kept it from saying so; `None` if nothing.
pub(crate) fn last_word(page: &OwnedFd) -> Result<Option<Message>> {
    let mut bytes = [0; Message::SIZE];
    fd::read_at(page.as_raw_fd(), &mut bytes, 0)
        .map_err(|error| Error::system("read what init left", errno(error)))?;
    Ok(Message::decode(&bytes).ok().filter(|message| message.kind == MessageKind::Failed))
}
