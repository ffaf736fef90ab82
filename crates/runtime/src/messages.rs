// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime's side of the messages (drawn in `coracle_program::message`).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use coracle_program::{Message, MessageKind};
use coracle_sys::{fd, socket, tty};

use crate::errno;
use crate::error::{Code, Error, Result};
use crate::foreground::Signals;
use crate::step::{self, Kind, Named};

pub(crate) fn send(socket: BorrowedFd<'_>, kind: MessageKind) -> Result<()> {
    socket::send(socket.as_raw_fd(), &Message::new(kind).encode(), None)
        .map_err(|error| Error::system("tell init to go on", errno(error)))
}

/// To one whose answer is waited for next: that it is gone by now shows there, with the cause.
pub(crate) fn ask(socket: BorrowedFd<'_>, kind: MessageKind) -> Result<()> {
    match socket::send(socket.as_raw_fd(), &Message::new(kind).encode(), None) {
        Err(coracle_sys::Errno(libc::EPIPE)) => Ok(()),
        other => other.map_err(|error| Error::system("tell init to go on", errno(error))),
    }
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

/// The same, but also `None` when init itself has ended: its copy may hold the other side. A signal that asks the caller
/// to end is an error.
pub(crate) fn receive_from(
    socket: BorrowedFd<'_>,
    init: i32,
    signals: Option<&Signals>,
) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let both = [socket.as_raw_fd(), init];
    match signals {
        Some(signals) => signals.wait_for(both, 0)?,
        None => {
            let mut entries = both.map(tty::Poll::readable);
            while entries.iter().all(|entry| entry.ready == 0) {
                tty::poll(&mut entries, None).map_err(|error| Error::system("poll", errno(error)))?;
            }
        }
    }
    // What init said comes before its end.
    let said = fd::wait_readable(socket.as_raw_fd(), Some(0))
        .map_err(|error| Error::system("hear from init", errno(error)))?;
    if said { receive(socket) } else { Ok(None) }
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
    /// An execve(2) takes less; one that waits for a seccomp agent may take for ever.
    const EXECVE_PATIENCE: i32 = 1000;
    let failed = |message: &Message| {
        let unknown =
            Named { number: message.step, name: "start".into(), kind: Kind::Other, filtered: false };
        let step = steps.iter().find(|step| step.number == message.step).unwrap_or(&unknown);
        step::explain(step, message)
    };
    let mut announced = false;
    let mut page: Option<OwnedFd> = None;
    loop {
        // Once it is announced, a signal is for the command if that is executed in time.
        if let Some(signals) = signals {
            signals.wait_for([socket.as_raw_fd(), -1], if announced { EXECVE_PATIENCE } else { 0 })?;
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
            Some((Message { kind: MessageKind::Executing, .. }, file)) if !announced => {
                (announced, page) = (true, file)
            }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn one_that_is_gone_is_asked_and_does_not_answer() {
        let (ours, theirs) = socket::pair().unwrap();
        let ours = OwnedFd::from(ours);
        drop(theirs);
        assert!(send(ours.as_fd(), MessageKind::Go).is_err());
        ask(ours.as_fd(), MessageKind::Go).unwrap();
        assert!(receive(ours.as_fd()).unwrap().is_none());
        assert!(matches!(await_execve(ours.as_fd(), None, &[], None).unwrap(), Started::Died));
    }
}
