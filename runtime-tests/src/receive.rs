// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the other end of `--console-socket` and `--pidfd-socket`: one connection, one message, one descriptor.
//! Never waits longer than a deadline, and never answers.
//! The socket's path goes to the runtime; the descriptor and the bytes beside it come back.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

/// A listening socket with a thread that takes the one message.
#[derive(Debug)]
pub struct Console {
    pub path: PathBuf,
    receiver: JoinHandle<Result<Received, String>>,
}

/// What came: the descriptors, and the bytes they came with.
#[derive(Debug)]
pub struct Received {
    pub fds: Vec<OwnedFd>,
    pub bytes: Vec<u8>,
}

fn deadline() -> Timespec {
    Timespec { tv_sec: 20 * i64::from(crate::patience()), tv_nsec: 0 }
}

impl Console {
    pub fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        Console { path: path.to_path_buf(), receiver: thread::spawn(move || take(&listener)) }
    }

    #[track_caller]
    pub fn receive(self) -> Received {
        self.receiver.join().unwrap().unwrap_or_else(|e| panic!("console socket: {e}"))
    }
}

fn take(listener: &UnixListener) -> Result<Received, String> {
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&deadline())).map_err(|e| e.to_string())? == 0 {
        return Err("nobody connected in time".to_owned());
    }
    let (stream, _) = listener.accept().map_err(|e| e.to_string())?;
    if poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&deadline())).map_err(|e| e.to_string())? == 0 {
        return Err("no message in time".to_owned());
    }
    let mut bytes = [0_u8; 4097];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e| e.to_string())?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            fds.extend(list);
        }
    }
    Ok(Received { fds, bytes: bytes[..got.bytes].to_vec() })
}

impl Received {
    /// Reads from the terminal until the other side is gone (EIO on a pty) or `until` has been seen.
    pub fn read_until(&self, until: &str) -> String {
        let mut text = String::new();
        let mut buffer = [0_u8; 4096];
        loop {
            if poll(&mut [PollFd::new(&self.fds[0], PollFlags::IN)], Some(&deadline())).unwrap_or(0) == 0 {
                return text;
            }
            match rustix::io::read(&self.fds[0], &mut buffer) {
                Ok(n) if n > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
                _ => return text,
            }
            if !until.is_empty() && text.contains(until) {
                return text;
            }
        }
    }

    pub fn write(&self, text: &str) {
        rustix::io::write(&self.fds[0], text.as_bytes()).unwrap();
    }
}
