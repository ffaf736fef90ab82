// SPDX-License-Identifier: MIT OR Apache-2.0
//! D-Bus as far as systemd's manager needs it: one connection, calls in one write, every wait with a deadline.
//!
//! Never starts a thread, never waits outside of poll(2), never panics whatever a peer sends. Calls come from
//! [`crate::systemd`]; answers and signals go back to it. D-Bus Specification "Message Protocol",
//! "Authentication Protocol".

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// More than any answer to what is asked here. A longer message ends the connection.
const MAX_MESSAGE: usize = 1 << 20;
/// The lines of the authentication are shorter.
const MAX_LINE: usize = 4096;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The peer's own words: the error's name, and its text.
    Answer { name: String, text: String },
    /// The connection is of no more use.
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

impl Address {
    /// The unix sockets of a D-Bus server address as in DBUS_SESSION_BUS_ADDRESS; other transports are left out.
    pub(crate) fn list(text: &[u8]) -> Vec<Address> {
        text.split(|byte| *byte == b';').filter_map(Address::one).collect()
    }

    fn one(text: &[u8]) -> Option<Address> {
        for pair in text.strip_prefix(b"unix:")?.split(|byte| *byte == b',') {
            if let Some(path) = pair.strip_prefix(b"path=") {
                return Some(Address::Path(OsString::from_vec(unescaped(path)?).into()));
            }
            if let Some(name) = pair.strip_prefix(b"abstract=") {
                return Some(Address::Abstract(unescaped(name)?));
            }
        }
        None
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Path(path) => path.display().fmt(f),
            Address::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

/// `%20` and the like.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    Some(bytes)
}

/// What is called, and with what.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    /// Of the body.
    pub(crate) signature: &'a str,
    pub(crate) body: Writer,
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// Goes out before the next wait, all at once.
    unsent: Vec<u8>,
    /// The same before the server has said yes. Calls wait for that: systemd's own server does not look at a
    /// call that it has read together with the end of the authentication, until more comes.
    greeting: &'static [u8],
    unread: Vec<u8>,
    authenticated: bool,
    serial: u32,
}

impl Connection {
    pub(crate) fn connect(address: &Address, patience: Duration) -> Result<Connection, Errno> {
        let name = match address {
            Address::Path(path) => UnixAddr::new(path.as_path())?,
            Address::Abstract(name) => UnixAddr::new_abstract(name)?,
        };
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // connect(2) waits where too many others do; this limits it (unix(7)). All else asks not to wait.
        let limit = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        while let Err(errno) = connect(socket.as_raw_fd(), &name) {
            match errno {
                Errno::EINTR => {}
                Errno::EAGAIN => return Err(Errno::ETIMEDOUT),
                errno => return Err(errno),
            }
        }
        Ok(Connection::over(socket))
    }

    /// The server's process has a number here (unix(7) SO_PEERCRED). One of another pid namespace takes the numbers that we
    /// name for those of its own.
    pub(crate) fn shares_pids(&self) -> bool {
        getsockopt(&self.socket, sockopt::PeerCredentials).is_ok_and(|peer| peer.pid() != 0)
    }

    /// EXTERNAL without a name: the server takes the uid that the kernel tells it of the peer. A name would have
    /// to be the uid as the server sees it, which inside of nested user namespaces nothing tells.
    pub(crate) fn over(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            unsent: Vec::new(),
            greeting: b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n",
            unread: Vec::new(),
            authenticated: false,
            serial: 0,
        }
    }

    /// Returns the serial that the answer will have as its `reply_to`. Nothing is sent before [`Self::receive`].
    pub(crate) fn queue(&mut self, call: Call<'_>) -> Result<u32, Failure> {
        self.serial = self.serial.checked_add(1).ok_or_else(|| Failure::Broken("too many calls".into()))?;
        let message = call.message(self.serial);
        if message.len() > MAX_MESSAGE {
            return Err(Failure::Broken("the call is too long".to_string()));
        }
        self.unsent.extend(message);
        Ok(self.serial)
    }

    /// The next message of any kind.
    pub(crate) fn receive(&mut self, deadline: Instant) -> Result<Message, Failure> {
        self.authenticate(deadline)?;
        let calls = std::mem::take(&mut self.unsent);
        self.send(&calls, deadline)?;
        loop {
            match parse(&self.unread) {
                Ok(Some((message, length))) => {
                    self.unread.drain(..length);
                    return Ok(message);
                }
                Ok(None) => self.fill(deadline)?,
                Err(Malformed) => {
                    return Err(Failure::Broken("the answer is not D-Bus, or too long".to_string()));
                }
            }
        }
    }

    /// Does nothing when it is done.
    pub(crate) fn authenticate(&mut self, deadline: Instant) -> Result<(), Failure> {
        let greeting = std::mem::take(&mut self.greeting);
        self.send(greeting, deadline)?;
        while !self.authenticated {
            let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") else {
                if self.unread.len() > MAX_LINE {
                    return Err(Failure::Broken("the answer is not D-Bus".to_string()));
                }
                self.fill(deadline)?;
                continue;
            };
            let line: Vec<u8> = self.unread.drain(..end + 2).collect();
            let line = &line[..end];
            if line == b"OK" || line.starts_with(b"OK ") {
                self.authenticated = true;
            } else if line.starts_with(b"REJECTED") {
                return Err(Failure::Broken("authentication is refused".to_string()));
            } else if line != b"DATA" && !line.starts_with(b"DATA ") {
                let line = line.escape_ascii().to_string();
                let shown = line.get(..line.len().min(64)).unwrap_or_default();
                return Err(Failure::Broken(format!("authentication is answered with {shown:?}")));
            }
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8], deadline: Instant) -> Result<(), Failure> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match send(self.socket.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(length) => sent += length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, deadline)?,
                // The peer's last words say more.
                Err(Errno::EPIPE) => break,
                Err(errno) => return Err(broken("send", errno)),
            }
        }
        Ok(())
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), Failure> {
        let mut buffer = [0; 8192];
        loop {
            self.wait(PollFlags::POLLIN, deadline)?;
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Failure::Broken("the connection was closed".to_string())),
                Ok(length) => {
                    self.unread.extend(buffer.iter().take(length));
                    return Ok(());
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::ECONNRESET) => {
                    return Err(Failure::Broken("the connection was closed".to_string()));
                }
                Err(errno) => return Err(broken("receive", errno)),
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: Instant) -> Result<(), Failure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Broken("no answer in time".to_string()));
            }
            // Rounded up, so that the last fraction of a millisecond is not spun away.
            let left = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), events)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(broken("poll", errno)),
            }
        }
    }
}

fn broken(what: &str, errno: Errno) -> Failure {
    Failure::Broken(format!("{what}: {}", crate::error::words(errno)))
}

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Codes of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;

impl Call<'_> {
    fn message(self, serial: u32) -> Vec<u8> {
        let body = self.body.into_bytes();
        let mut w = Writer::default();
        // Little-endian, a call, no flags, version 1 of the protocol.
        w.fixed(b"l");
        w.fixed(&[METHOD_CALL]);
        w.fixed(&[0]);
        w.fixed(&[1]);
        w.u32(length(&body));
        w.u32(serial);
        w.array(8, |w| {
            let texts = [
                (PATH, "o", self.path),
                (DESTINATION, "s", self.destination),
                (INTERFACE, "s", self.interface),
                (MEMBER, "s", self.member),
            ];
            for (code, kind, text) in texts {
                w.align(8);
                w.byte(code);
                w.signature(kind);
                w.string(text);
            }
            if !self.signature.is_empty() {
                w.align(8);
                w.byte(SIGNATURE);
                w.signature("g");
                w.signature(self.signature);
            }
        });
        w.align(8);
        let mut bytes = w.into_bytes();
        bytes.extend(body);
        bytes
    }
}

/// Values one after the other, each on its boundary. Little-endian.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// A value whose boundary is its own length.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend(bytes);
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.fixed(&value.to_le_bytes());
    }

    /// Also an object path.
    pub(crate) fn string(&mut self, text: &str) {
        self.u32(length(text.as_bytes()));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// Ours are shorter than 255 bytes, all of them constants.
    pub(crate) fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// The padding in front of the first element does not count to the array's length, and is there also
    /// without elements.
    pub(crate) fn array(&mut self, boundary: usize, elements: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let at = self.bytes.len() - 4;
        self.align(boundary);
        let begin = self.bytes.len();
        elements(self);
        let length = length(self.bytes.get(begin..).unwrap_or_default());
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// Never near the limit: [`Connection::queue`] refuses messages from [`MAX_MESSAGE`] on.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Return,
    Error,
    Signal,
    /// A call to us, or what later protocols may have.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) path: String,
    pub(crate) interface: String,
    pub(crate) member: String,
    pub(crate) error: String,
    pub(crate) reply_to: u32,
    /// As the bus tells it; empty without a bus.
    pub(crate) sender: String,
    signature: String,
    body: Vec<u8>,
    big_endian: bool,
}

impl Message {
    /// Reads the body when it has this signature.
    pub(crate) fn body(&self, signature: &str) -> Option<Reader<'_>> {
        (self.signature == signature).then(|| Reader::new(&self.body, self.big_endian))
    }

    /// An answer that is an error.
    pub(crate) fn failure(&self) -> Failure {
        // The first argument is the text when it is a string; more may follow.
        let text = match self.signature.starts_with('s') {
            true => Reader::new(&self.body, self.big_endian).string().unwrap_or_default(),
            false => "",
        };
        Failure::Answer { name: self.error.clone(), text: text.to_string() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Malformed;

/// The first message and its length; None while it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Message, usize)>, Malformed> {
    const FIXED: usize = 16;
    let Some(start) = bytes.get(..FIXED) else { return Ok(None) };
    let big_endian = match start.first() {
        Some(b'l') => false,
        Some(b'B') => true,
        _ => return Err(Malformed),
    };
    let mut fixed = Reader::new(start, big_endian);
    let lengths = (|| {
        fixed.take(1)?;
        let kind = fixed.byte()?;
        fixed.take(1)?;
        let version = fixed.byte()?;
        let body = fixed.u32()? as usize;
        fixed.u32()?;
        let fields = fixed.u32()? as usize;
        (version == 1 && body <= MAX_MESSAGE && fields <= MAX_MESSAGE).then_some((kind, fields, body))
    })();
    let (kind, fields, body) = lengths.ok_or(Malformed)?;
    let begin = (FIXED + fields).next_multiple_of(8);
    let end = begin + body;
    if end > MAX_MESSAGE {
        return Err(Malformed);
    }
    let (Some(header), Some(body)) = (bytes.get(FIXED..FIXED + fields), bytes.get(begin..end)) else {
        return Ok(None);
    };
    let mut message = Message {
        kind: match kind {
            METHOD_RETURN => Kind::Return,
            ERROR => Kind::Error,
            SIGNAL => Kind::Signal,
            _ => Kind::Other,
        },
        path: String::new(),
        interface: String::new(),
        member: String::new(),
        error: String::new(),
        reply_to: 0,
        sender: String::new(),
        signature: String::new(),
        body: body.to_vec(),
        big_endian,
    };
    message.header(Reader::new(header, big_endian)).ok_or(Malformed)?;
    Ok(Some((message, end)))
}

impl Message {
    fn header(&mut self, mut fields: Reader<'_>) -> Option<()> {
        while !fields.is_empty() {
            fields.align(8)?;
            let code = fields.byte()?;
            let text = match fields.signature()? {
                "s" | "o" => fields.string()?,
                "g" => fields.signature()?,
                "u" => {
                    let value = fields.u32()?;
                    if code == REPLY_SERIAL {
                        self.reply_to = value;
                    }
                    continue;
                }
                // No field that the specification knows has another type.
                _ => return None,
            };
            let place = match code {
                PATH => &mut self.path,
                INTERFACE => &mut self.interface,
                MEMBER => &mut self.member,
                ERROR_NAME => &mut self.error,
                SENDER => &mut self.sender,
                SIGNATURE => &mut self.signature,
                _ => continue,
            };
            *place = text.to_string();
        }
        Some(())
    }
}

/// Values as [`Writer`] puts them, in either byte order. None is what does not fit.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], big_endian: bool) -> Reader<'a> {
        Reader { bytes, at: 0, big_endian }
    }

    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.align(8)?;
        let bytes = self.take(8)?.try_into().ok()?;
        Some(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    /// Also an object path.
    pub(crate) fn string(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    pub(crate) fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        let text = self.take(length)?;
        (self.byte()? == 0).then_some(())?;
        std::str::from_utf8(text).ok()
    }
}

/// A peer that plays a script, for the tests of [`crate::systemd`] too.
#[cfg(test)]
pub(crate) mod fake {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A message as a server sends it. `fields` have strings or object paths.
    pub(crate) fn message(
        kind: u8,
        fields: &[(u8, &str, &str)],
        reply_to: u32,
        signature: &str,
        body: Writer,
    ) -> Vec<u8> {
        let body = body.into_bytes();
        let mut w = Writer::default();
        for byte in [b'l', kind, 0, 1] {
            w.byte(byte);
        }
        w.u32(body.len() as u32);
        w.u32(99);
        w.array(8, |w| {
            for (code, kind, text) in fields {
                w.align(8);
                w.byte(*code);
                w.signature(kind);
                w.string(text);
            }
            if reply_to != 0 {
                w.align(8);
                w.byte(REPLY_SERIAL);
                w.signature("u");
                w.u32(reply_to);
            }
            if !signature.is_empty() {
                w.align(8);
                w.byte(SIGNATURE);
                w.signature("g");
                w.signature(signature);
            }
        });
        w.align(8);
        let mut bytes = w.into_bytes();
        bytes.extend(body);
        bytes
    }

    pub(crate) struct Server {
        stream: UnixStream,
        unread: Vec<u8>,
        /// Of the last call: clients count from 1.
        serial: u32,
        /// As a bus would write it on what this one sends.
        pub(crate) name: &'static str,
    }

    impl Server {
        pub(crate) fn new(stream: UnixStream) -> Server {
            Server { stream, unread: Vec::new(), serial: 0, name: "" }
        }

        /// The next call, which must be this one.
        pub(crate) fn expect(&mut self, member: &str) -> Message {
            loop {
                if self.serial == 0 && self.unread.starts_with(b"\0") {
                    let end = b"BEGIN\r\n";
                    if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                        self.unread.drain(..at + end.len());
                        self.stream.write_all(b"DATA\r\nOK 00\r\n").unwrap();
                        continue;
                    }
                } else if let Some((message, length)) = parse(&self.unread).unwrap() {
                    self.unread.drain(..length);
                    self.serial += 1;
                    assert_eq!(message.member, member);
                    return message;
                }
                let mut buffer = [0; 4096];
                let length = self.stream.read(&mut buffer).unwrap();
                assert_ne!(length, 0, "the client went away instead of {member}");
                self.unread.extend(&buffer[..length]);
            }
        }

        pub(crate) fn answer(&mut self, signature: &str, fill: impl FnOnce(&mut Writer)) {
            let mut body = Writer::default();
            fill(&mut body);
            let sender = [(SENDER, "s", self.name)];
            let bytes = message(METHOD_RETURN, &sender, self.serial, signature, body);
            self.stream.write_all(&bytes).unwrap();
        }

        pub(crate) fn refuse(&mut self, name: &str, text: &str) {
            let mut body = Writer::default();
            body.string(text);
            let bytes = message(ERROR, &[(ERROR_NAME, "s", name)], self.serial, "s", body);
            self.stream.write_all(&bytes).unwrap();
        }

        pub(crate) fn signal(
            &mut self,
            sender: &str,
            interface: &str,
            member: &str,
            fill: impl FnOnce(&mut Writer),
        ) {
            let mut body = Writer::default();
            fill(&mut body);
            let fields = [
                (PATH, "o", "/p"),
                (INTERFACE, "s", interface),
                (MEMBER, "s", member),
                (SENDER, "s", sender),
            ];
            self.stream.write_all(&message(SIGNAL, &fields, 0, "uoss", body)).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::fake::message;
    use super::*;

    fn hello() -> Call<'static> {
        Call {
            destination: "a.b",
            path: "/p",
            interface: "c.d",
            member: "Hi",
            signature: "su",
            body: {
                let mut w = Writer::default();
                w.string("abc");
                w.u32(7);
                w
            },
        }
    }

    /// Written down by hand from the specification.
    const HELLO: &[u8] = b"l\x01\0\x01\x0c\0\0\0\x05\0\0\0\x48\0\0\0\
        \x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0\
        \x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0\
        \x02\x01s\0\x03\0\0\0c.d\0\0\0\0\0\
        \x03\x01s\0\x02\0\0\0Hi\0\0\0\0\0\0\
        \x08\x01g\0\x02su\0\
        \x03\0\0\0abc\0\x07\0\0\0";

    #[test]
    fn a_call_as_bytes() {
        assert_eq!(hello().message(5), HELLO);
    }

    fn error_message() -> Vec<u8> {
        let mut body = Writer::default();
        body.string("Unit x.scope not loaded.");
        message(ERROR, &[(ERROR_NAME, "s", "a.b.NoSuchUnit"), (SENDER, "s", ":1.2")], 5, "s", body)
    }

    #[test]
    fn messages_are_read_back() {
        let (call, length) = parse(&hello().message(5)).unwrap().unwrap();
        assert_eq!(length, hello().message(5).len());
        assert_eq!(call.kind, Kind::Other);
        assert_eq!((call.path.as_str(), call.interface.as_str(), call.member.as_str()), ("/p", "c.d", "Hi"));
        let mut body = call.body("su").unwrap();
        assert_eq!((body.string(), body.u32(), body.u32()), (Some("abc"), Some(7), None));
        assert!(call.body("s").is_none());

        let bytes = error_message();
        let (error, _) = parse(&bytes).unwrap().unwrap();
        assert_eq!((error.kind, error.reply_to, error.sender.as_str()), (Kind::Error, 5, ":1.2"));
        let text = "Unit x.scope not loaded.".to_string();
        assert_eq!(error.failure(), Failure::Answer { name: "a.b.NoSuchUnit".to_string(), text });
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn a_big_endian_peer_is_understood() {
        let bytes = b"B\x02\0\x01\0\0\0\x08\0\0\0\x01\0\0\0\x0f\
            \x05\x01u\0\0\0\0\x09\x08\x01g\0\x01t\0\0\0\0\0\0\0\0\x01\x02";
        let (message, length) = parse(bytes).unwrap().unwrap();
        assert_eq!((length, message.kind, message.reply_to), (bytes.len(), Kind::Return, 9));
        assert_eq!(message.body("t").unwrap().u64(), Some(0x102));
    }

    #[test]
    fn lies_about_lengths_are_refused_at_once() {
        let with = |at: usize, value: u32| {
            let mut bytes = error_message();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            parse(&bytes)
        };
        for value in [MAX_MESSAGE as u32, u32::MAX, i32::MAX as u32, u32::MAX - 7] {
            assert_eq!(with(4, value), Err(Malformed), "body {value}");
            assert_eq!(with(12, value), Err(Malformed), "fields {value}");
        }
        // The first field's text is longer than the header.
        assert_eq!(with(20, 5000), Err(Malformed));
        assert_eq!(parse(b"HTTP/1.1 400 Bad Request"), Err(Malformed));
    }

    /// xorshift64: the same on each run.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let valid = [error_message(), hello().message(1)];
        for round in 0..60_000 {
            let mut bytes = valid[round % valid.len()].clone();
            if round % 3 == 0 {
                bytes = (0..random(&mut seed) % 200).map(|_| random(&mut seed) as u8).collect();
                if let Some(first) = bytes.first_mut() {
                    *first = b'l';
                }
                if let Some(version) = bytes.get_mut(3) {
                    *version = 1;
                }
            } else {
                for _ in 0..=random(&mut seed) % 4 {
                    let at = random(&mut seed) as usize % bytes.len();
                    bytes[at] = random(&mut seed) as u8;
                }
                bytes.truncate(random(&mut seed) as usize % (2 * bytes.len()));
            }
            if let Ok(Some((message, length))) = parse(&bytes) {
                assert!(length <= bytes.len());
                message.failure();
                let mut reader = Reader::new(&message.body, message.big_endian);
                while reader.string().is_some() || reader.u64().is_some() || reader.signature().is_some() {}
            }
        }
    }

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::over(ours.into()), theirs)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn calls_go_out_at_once_after_the_authentication_and_answers_come_in_pieces() {
        let (mut connection, mut server) = pair();
        assert_eq!(connection.queue(hello()), Ok(1));
        assert_eq!(connection.queue(hello()), Ok(2));
        let feeder = std::thread::spawn(move || {
            let mut play = |expected: &[u8], answer: &[u8]| {
                // One more than there should be at that moment.
                let mut got = vec![0; expected.len() + 1];
                let length = server.read(&mut got).unwrap();
                assert_eq!(&got[..length], expected);
                answer.chunks(7).for_each(|piece| server.write_all(piece).unwrap());
            };
            play(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", b"DATA\r\nOK 0123456789abcdef\r\n");
            let calls = [hello().message(1), hello().message(2)].concat();
            play(&calls, &[error_message(), error_message()].concat());
        });
        assert_eq!(connection.receive(soon()).unwrap().reply_to, 5);
        assert_eq!(connection.receive(soon()).unwrap().reply_to, 5);
        feeder.join().unwrap();
        assert_eq!(connection.receive(soon()), Err(Failure::Broken("the connection was closed".to_string())));
    }

    #[test]
    fn servers_that_refuse_or_babble() {
        let answered = |bytes: &[u8]| {
            let (mut connection, mut server) = pair();
            server.write_all(bytes).unwrap();
            drop(server);
            match connection.receive(soon()) {
                Err(Failure::Broken(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(answered(b"REJECTED EXTERNAL\r\n"), "authentication is refused");
        assert_eq!(answered(b"\x1bHELO\r\n"), r#"authentication is answered with "\\x1bHELO""#);
        assert_eq!(answered(&[b'x'; MAX_LINE + 1]), "the answer is not D-Bus");
        assert_eq!(answered(b"OK x\r\nHTTP/1.1 400 Bad"), "the answer is not D-Bus, or too long");
        assert_eq!(answered(b"OK x\r\nl"), "the connection was closed");
    }

    #[test]
    fn a_silent_server_is_not_waited_for_longer_than_said() {
        let (mut connection, _server) = pair();
        connection.queue(hello()).unwrap();
        let begin = Instant::now();
        let patience = Duration::from_millis(30);
        assert_eq!(
            connection.receive(begin + patience),
            Err(Failure::Broken("no answer in time".to_string()))
        );
        assert!(begin.elapsed() >= patience);
    }

    #[test]
    fn a_server_that_reads_nothing_is_not_waited_for_either() {
        let (mut connection, _server) = pair();
        for _ in 0..20_000 {
            connection.queue(hello()).unwrap();
        }
        let deadline = Instant::now() + Duration::from_millis(30);
        assert_eq!(connection.receive(deadline), Err(Failure::Broken("no answer in time".to_string())));
    }

    #[test]
    fn a_call_that_is_too_long_is_not_sent() {
        let (mut connection, _server) = pair();
        let mut body = Writer::default();
        body.string(&"x".repeat(MAX_MESSAGE));
        let long = Call { body, ..hello() };
        assert_eq!(connection.queue(long), Err(Failure::Broken("the call is too long".to_string())));
        assert!(connection.unsent.is_empty());
    }

    #[test]
    fn addresses() {
        let path = |path: &str| Address::Path(path.into());
        assert_eq!(Address::list(b"unix:path=/run/user/0/bus"), [path("/run/user/0/bus")]);
        assert_eq!(
            Address::list(b"tcp:host=a;unix:guid=1,path=/a%20b;unix:abstract=%2ftmp/x,guid=2;"),
            [path("/a b"), Address::Abstract(b"/tmp/x".to_vec())]
        );
        assert!(Address::list(b"unix:path=/a%2;unix:path=%zz;unix:runtime=yes;").is_empty());
        assert_eq!(Address::Abstract(b"a\n".to_vec()).to_string(), r"@a\n");
    }

    #[test]
    fn no_socket_is_the_kernels_own_error() {
        let nothing = Address::Path("/nonexistent/bus".into());
        assert_eq!(Connection::connect(&nothing, Duration::from_secs(1)).err(), Some(Errno::ENOENT));
    }
}
