// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the service of the sd_notify and socket activation tests: what its arguments say, one after the other.
//! Never decides anything, and never goes on after an error: that ends it with status 9.
//! `$NOTIFY_SOCKET`, `$LISTEN_*` and files of its root come in; datagrams, answers and lines on stdout go out.

use std::fs::File;
use std::io::{Error, IoSlice, Read, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, exit};

fn main() {
    let mut words = std::env::args().skip(1);
    while let Some(verb) = words.next() {
        if let Err(error) = perform(&verb, &mut words) {
            println!("{verb}: {error}");
            exit(9);
        }
    }
}

fn perform(verb: &str, words: &mut impl Iterator<Item = String>) -> Result<()> {
    let mut word = || words.next().ok_or_else(|| Error::other("an argument is missing"));
    match verb {
        // TEXT, `;` between lines
        "send" => tell(&word()?.replace(';', "\n"), &[]),
        // TEXT FILE: with a descriptor
        "store" => tell(&word()?.replace(';', "\n"), &[File::open(word()?)?.as_fd()]),
        "barrier" => {
            let (mut read, write) = std::io::pipe()?;
            tell("BARRIER=1", &[write.as_fd()])?;
            drop(write);
            read.read(&mut [0]).map(|_| println!("barrier over"))
        }
        // Its main process is another one than the first.
        "child" => {
            let child = Command::new("/bin/sleep").arg("1000").spawn()?;
            tell(&format!("MAINPID={}", child.id()), &[])
        }
        // FIFO: until somebody writes to it
        "wait" => File::open(word()?)?.read_exact(&mut [0]),
        // One connection to descriptor 3
        "answer" => {
            let variable = |name| std::env::var(name).unwrap_or_default();
            let own = variable("LISTEN_PID") == std::process::id().to_string();
            let text =
                format!("fds {} names {} pid {own}", variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
            let connection = nix::sys::socket::accept(3)?;
            nix::sys::socket::send(connection, text.as_bytes(), nix::sys::socket::MsgFlags::empty())?;
            Ok(())
        }
        "exit" => exit(word()?.parse().map_err(Error::other)?),
        _ => Err(Error::other("unknown")),
    }
}

fn tell(text: &str, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let path = std::env::var("NOTIFY_SOCKET").map_err(Error::other)?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(rustix::net::SendAncillaryMessage::ScmRights(fds));
    }
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut control, flags)?;
    Ok(())
}
