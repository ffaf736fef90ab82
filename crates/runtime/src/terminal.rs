// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets of the caller that take one descriptor: `--console-socket`, `--pidfd-socket`, and a seccomp agent's.
//!
//! Never waits for the peer to read what fits into a buffer. The path is the caller's and on the host, so symbolic links in it are followed;
//! the descriptor goes out in one message, with a name as its data, and the connection is closed after it.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::time::TimeVal;

use crate::error::{Code, Error, Result};

/// Longest name that receivers have room for, in bytes (containerd's and conmon's buffers).
const LONGEST_NAME: usize = 4095;

/// A listener that does not accept must not hold a create for ever, in seconds.
const PATIENCE: i64 = 10;

/// A connection on which one descriptor will be sent. Made before anything of the container exists, so that a wrong
/// path is an error without effects; dropped, it tells the peer that nothing will come.
#[derive(Debug)]
pub struct FdSocket {
    socket: OwnedFd,
    /// `--console-socket /path`, for errors.
    what: String,
}

impl FdSocket {
    /// Connect to the stream socket at `path`. `flag_name` is how the caller calls it, e.g. `--console-socket`.
    pub fn connect(path: &Path, flag_name: &str) -> Result<FdSocket> {
        let what = format!("{flag_name} {}", path.display());
        let failed = |errno| Error::system(&what, errno);
        // Opened first: a path of any length works through the descriptor, where an address holds 107 bytes, and
        // what is not a socket can be told from a socket without a listener.
        let place = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        let kind = fstat(&place).map_err(failed)?.st_mode & SFlag::S_IFMT.bits();
        if kind != SFlag::S_IFSOCK.bits() {
            return Err(Error::new(Code::Invalid, format!("{what}: not a socket")));
        }
        let socket =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(PATIENCE, 0)).map_err(failed)?;
        let address =
            UnixAddr::new(format!("/proc/self/fd/{}", place.as_raw_fd()).as_str()).map_err(failed)?;
        loop {
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Ok(FdSocket { socket, what }),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(failed(Errno::ETIMEDOUT).hint("its listener does not accept"));
                }
                Err(Errno::EPROTOTYPE) => {
                    return Err(failed(Errno::EPROTOTYPE).hint("it must be a stream socket"));
                }
                Err(Errno::ECONNREFUSED) => {
                    return Err(failed(Errno::ECONNREFUSED).hint("nobody listens on it"));
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Send the descriptor (for a console, `/dev/ptmx` is the usual name) in one message with `name` as its data, 1 to 4095 bytes, and close the connection.
    pub fn send(self, name: &str, fd: i32) -> Result<()> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            let rule =
                format!("{}: a name of {} bytes, where 1 to {LONGEST_NAME} fit", self.what, name.len());
            return Err(Error::new(Code::Invalid, rule));
        }
        self.send_document(name.as_bytes(), fd)
    }

    /// Send the descriptor with a document of any length, and close the connection. Into the empty buffer of a new
    /// connection most go as one message; a reader of a longer one has [`PATIENCE`].
    pub fn send_document(self, document: &[u8], fd: i32) -> Result<()> {
        let fds = [fd];
        let mut rights: &[ControlMessage<'_>] = &[ControlMessage::ScmRights(&fds)];
        let mut rest = document;
        while !rest.is_empty() {
            match sendmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(rest)],
                rights,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    rights = &[];
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(Error::system(&self.what, Errno::ETIMEDOUT)),
                Err(errno) => return Err(Error::system(&self.what, errno)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use coracle_sys::{Fd, fd};
    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    /// What one connection brings: data of each message, and all descriptors.
    fn received(listener: &UnixListener) -> (Vec<u8>, Vec<Fd>, usize) {
        let (mut peer, _) = listener.accept().unwrap();
        let mut data = [0; 8192];
        let mut space = nix::cmsg_space!([i32; 8]);
        let mut parts = [IoSliceMut::new(&mut data)];
        let message =
            recvmsg::<UnixAddr>(peer.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
                .unwrap();
        let length = message.bytes;
        let mut fds = Vec::new();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                fds.extend(numbers.into_iter().map(Fd::own));
            }
        }
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        (data[..length].to_vec(), fds, rest.len())
    }

    // engines.md §0.12
    #[test]
    fn one_message_with_one_descriptor_then_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (read, write) = fd::pipe().unwrap();
        FdSocket::connect(&path, "--console-socket").unwrap().send("/dev/ptmx", write.number()).unwrap();
        drop(write);
        let (data, fds, rest) = received(&listener);
        assert_eq!((data.as_slice(), fds.len(), rest), (b"/dev/ptmx".as_slice(), 1, 0));

        // It is the descriptor that was sent, and its last copy.
        fd::write_all(fds[0].number(), b"through").unwrap();
        drop(fds);
        let mut buffer = [0; 16];
        assert_eq!(fd::read(read.number(), &mut buffer), Ok(7));
        assert_eq!(&buffer[..7], b"through");
        assert_eq!(fd::read(read.number(), &mut buffer), Ok(0));
    }

    // T-96: longer than an address, with a name that is longer still
    #[test]
    fn a_path_of_any_length() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        let short = directory.path().join("short.sock");
        let listener = UnixListener::bind(&short).unwrap();
        let path = deep.join("s".repeat(200));
        std::fs::rename(&short, &path).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        FdSocket::connect(&path, "--pidfd-socket").unwrap().send("pidfd", null.as_raw_fd()).unwrap();
        assert_eq!(received(&listener).0, b"pidfd");
    }

    #[test]
    fn a_symbolic_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        FdSocket::connect(&link, "--console-socket").unwrap().send("x", null.as_raw_fd()).unwrap();
        assert_eq!(received(&listener).0, b"x");
    }

    fn refused(path: &Path) -> String {
        let error = FdSocket::connect(path, "--console-socket").unwrap_err();
        let start = format!("--console-socket {}: ", path.display());
        error.message.strip_prefix(&start).unwrap_or_else(|| panic!("{error}")).to_string()
    }

    // B-126, T-96
    #[test]
    fn what_cannot_be_connected_to_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert_eq!(refused(&at("absent")), "no such file or directory");
        assert_eq!(refused(&at("absent/sock")), "no such file or directory");
        std::fs::write(at("file"), "").unwrap();
        assert_eq!(refused(&at("file")), "not a socket");
        assert_eq!(refused(directory.path()), "not a socket");
        drop(UnixListener::bind(at("dead")).unwrap());
        assert_eq!(refused(&at("dead")), "connection refused");
        let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
        assert_eq!(refused(&at("datagram")), "protocol wrong type for socket");
    }

    // T-96, F-63
    #[test]
    fn a_peer_that_reads_nothing_or_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        // Nobody accepts: the message waits in the buffer.
        FdSocket::connect(&path, "--console-socket")
            .unwrap()
            .send(&"n".repeat(LONGEST_NAME), null.as_raw_fd())
            .unwrap();
        let socket = FdSocket::connect(&path, "--console-socket").unwrap();
        drop(listener);
        let error = socket.send("x", null.as_raw_fd()).unwrap_err();
        assert!(
            error.message.starts_with("--console-socket ") && error.message.ends_with(": broken pipe"),
            "{error}"
        );
    }

    #[test]
    fn names_have_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        for name in [String::new(), "n".repeat(LONGEST_NAME + 1)] {
            let socket = FdSocket::connect(&path, "--console-socket").unwrap();
            assert_eq!(socket.send(&name, null.as_raw_fd()).unwrap_err().code, Code::Invalid);
        }
    }
}
