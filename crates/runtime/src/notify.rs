// SPDX-License-Identifier: MIT OR Apache-2.0
//! sd_notify(3): what a container's processes tell, passed on to whoever supervises the caller.
//!
//! Owns the socket inside, in the container's directory, and the way out to `$NOTIFY_SOCKET`. Holds one datagram at a
//! time and never waits for either side while it is served from a loop: the container's senders wait, as they would for
//! the supervisor. What goes on is written anew, of assignments that every reader takes apart as we do, with process ids
//! translated: the supervisor signals, and kills, whatever process it takes for the service's.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use coracle_cgroup::Cgroup;
use coracle_sys::tty::{Poll, poll};
use coracle_sys::{Errno, Fd, fd, socket};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, setsockopt, sockopt};

use crate::error::{Code, Error, Result};
use crate::members;
use crate::record::Directory;

/// In the container's directory; bound into the container.
pub(crate) const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";

/// Bytes of a datagram. systemd itself takes 4096.
const LARGEST: usize = 64 << 10;
/// What is still queued when the container has ended is passed on for this long, and up to this number.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
const LAST_DATAGRAMS: usize = 1024;
/// How long the supervisor may take to read what a detached container was ready with, in milliseconds.
const BARRIER_PATIENCE: i32 = 30_000;

/// A supervisor's socket: the value of `$NOTIFY_SOCKET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotifySocket(UnixAddr);

impl NotifySocket {
    /// An absolute path, or a name in the abstract namespace after `@`. Errors: [`Code::Invalid`].
    pub fn new(value: &OsStr) -> Result<NotifySocket> {
        let address = match value.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => UnixAddr::new_abstract(name),
            [b'/', ..] => UnixAddr::new(value),
            _ => {
                let text = format!("NOTIFY_SOCKET {value:?} is neither an absolute path nor @name");
                return Err(Error::new(Code::Invalid, text));
            }
        };
        address
            .map(NotifySocket)
            .map_err(|errno| Error { code: Code::Invalid, ..Error::system("NOTIFY_SOCKET", errno) })
    }

    /// Errors: nobody listens there.
    pub(crate) fn connect(&self) -> Result<OwnedFd> {
        let failed = |errno| Error::system(format!("NOTIFY_SOCKET {}", self.0), errno);
        let socket = datagram_socket().map_err(failed)?;
        connect(socket.as_raw_fd(), &self.0).map_err(failed)?;
        Ok(socket)
    }
}

fn datagram_socket() -> nix::Result<OwnedFd> {
    nix::sys::socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

/// The way out, or a warning: a supervisor that is not there is not the container's business.
pub(crate) fn reach(socket: Option<&NotifySocket>) -> (Option<OwnedFd>, Option<String>) {
    match socket.map(NotifySocket::connect) {
        None => (None, None),
        Some(Ok(host)) => (Some(host), None),
        Some(Err(error)) => (None, Some(format!("{}; sd_notify is not forwarded", error.message))),
    }
}

/// Make the directory that the container will see, while it is still empty.
pub(crate) fn make_directory(directory: &Directory) -> Result<()> {
    let path = directory.member(DIRECTORY);
    let made = DirBuilder::new().mode(0o755).create(&path);
    // Whatever the umask is: users of the container go through it.
    made.and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o755)))
        .map_err(|error| Error::io("make the directory for sd_notify", &error))
}

/// Has the container got the directory?
pub(crate) fn is_there(directory: &Directory) -> bool {
    directory.member(DIRECTORY).is_dir()
}

/// The process that the supervisor is to know as the service's main process, and the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processes {
    /// In the foreground the caller itself, which forwards signals to the container's and ends as it does.
    pub main: i32,
    pub init: i32,
}

/// Both sockets, and the datagram on its way between them.
#[derive(Debug)]
pub(crate) struct Proxy {
    inside: OwnedFd,
    host: OwnedFd,
    /// Of the socket inside; it goes with this.
    directory: File,
    processes: Processes,
    cgroup: Cgroup,
    buffer: Vec<u8>,
    pending: Option<Pending>,
    ready: bool,
    /// Receiving has failed in a way that will not pass.
    broken: bool,
}

#[derive(Debug)]
struct Pending {
    message: Message,
    fds: Vec<Fd>,
}

impl Proxy {
    /// Listen where the container will find it. To be called before its process goes.
    pub(crate) fn listen(
        directory: &Directory,
        host: OwnedFd,
        processes: Processes,
        cgroup: Cgroup,
    ) -> Result<Proxy> {
        let failed = |errno| Error::system("make the socket for sd_notify", errno);
        let failed_io = |error: std::io::Error| Error::io("make the socket for sd_notify", &error);
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = File::options()
            .read(true)
            .custom_flags(flags)
            .open(directory.member(DIRECTORY))
            .map_err(failed_io)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed_io(error)),
            // One of a start that was cut short is gone.
            _ => {}
        }
        let inside = datagram_socket().map_err(failed)?;
        setsockopt(&inside, sockopt::PassCred, &true).map_err(failed)?;
        bind(inside.as_raw_fd(), &UnixAddr::new(&path).map_err(failed)?).map_err(failed)?;
        // Every user of the container may tell; nobody else gets through the directory above.
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = File::options().read(true).custom_flags(flags).open(&path).map_err(failed_io)?;
        let file = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(file, Permissions::from_mode(0o666)).map_err(failed_io)?;
        Ok(Proxy {
            inside,
            host,
            directory,
            processes,
            cgroup,
            buffer: vec![0; LARGEST],
            pending: None,
            ready: false,
            broken: false,
        })
    }

    /// For poll: the socket inside while there is room, the way out while there is something to send.
    pub(crate) fn interests(&self) -> [Poll; 2] {
        let (inside, host) = match self.pending {
            None if self.broken => (-1, -1),
            None => (self.inside.as_raw_fd(), -1),
            Some(_) => (-1, self.host.as_raw_fd()),
        };
        [Poll::readable(inside), Poll::writable(host)]
    }

    /// Move one datagram as far as it goes without waiting. False when there was none.
    pub(crate) fn advance(&mut self) -> bool {
        let moved = self.pending.is_some() || self.receive();
        self.send();
        moved
    }

    /// False when nothing is queued.
    fn receive(&mut self) -> bool {
        let mut fds = Vec::new();
        let received = socket::receive_datagram(self.inside.as_raw_fd(), &mut self.buffer, &mut fds);
        let datagram = match received {
            Ok(datagram) => datagram,
            Err(Errno(libc::EAGAIN)) => return false,
            Err(_) => {
                self.broken = true;
                return false;
            }
        };
        // A sender without a number here is in no namespace below ours, and so in no container of ours.
        if datagram.truncated || !matches!(datagram.sender, Some(1..)) {
            return true;
        }
        let text = self.buffer.get(..datagram.length).unwrap_or_default();
        let (processes, cgroup) = (self.processes, &self.cgroup);
        let message = translate(text, processes.main, |inside| outside(inside, processes, cgroup));
        self.pending = message.map(|message| {
            fds.truncate(message.descriptors);
            Pending { message, fds }
        });
        true
    }

    fn send(&mut self) {
        let Some(Pending { message, fds }) = &self.pending else { return };
        let fds = fds.iter().map(Fd::number);
        // Any other error is of this datagram, or of a supervisor that has gone: it is lost, as it would be without us.
        if socket::send_datagram(self.host.as_raw_fd(), &message.text, fds) != Err(Errno(libc::EAGAIN)) {
            self.ready |= message.ready;
            self.pending = None;
        }
    }

    /// The container has ended: pass on what it said last.
    pub(crate) fn finish(&mut self) {
        let deadline = Instant::now() + LAST_PATIENCE;
        for _ in 0..LAST_DATAGRAMS {
            if !self.advance() {
                return;
            }
            while self.pending.is_some() {
                if !self.wait_for_room(deadline) {
                    return;
                }
                self.send();
            }
        }
    }

    fn wait_for_room(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
        let mut entries = [Poll::writable(self.host.as_raw_fd())];
        matches!(poll(&mut entries, Some(left)), Ok(1..))
    }

    /// Forward until the container is ready, and the supervisor knows. False if its process ended before.
    pub(crate) fn until_ready(mut self, pidfd: i32) -> Result<bool> {
        while !self.ready {
            let [inside, host] = self.interests();
            let mut entries = [Poll::readable(pidfd), inside, host];
            poll(&mut entries, None).map_err(|error| Error::system("poll", crate::errno(error)))?;
            if entries[0].ready != 0 {
                self.finish();
                break;
            }
            self.advance();
        }
        if self.ready {
            self.barrier();
        }
        Ok(self.ready)
    }

    /// Wait until the supervisor has read all that was sent: a caller that ends before would not be its main process
    /// any more, whose word counts.
    fn barrier(&self) {
        let Ok((read, write)) = fd::pipe() else { return };
        let deadline = Instant::now() + Duration::from_millis(BARRIER_PATIENCE as u64);
        let send =
            || socket::send_datagram(self.host.as_raw_fd(), b"BARRIER=1", std::iter::once(write.number()));
        while send() == Err(Errno(libc::EAGAIN)) && self.wait_for_room(deadline) {}
        drop(write);
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
        fd::wait_readable(read.number(), Some(left)).ok(); // a supervisor that does not read is not waited for
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Nobody listens any more; the directory may be gone already.
        fd::unlinkat(self.directory.as_raw_fd(), c"notify.sock", 0).ok();
    }
}

/// What goes out for a datagram.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    text: Vec<u8>,
    ready: bool,
    /// Descriptors that go with it, at most.
    descriptors: usize,
}

/// sd_notify(3), "Well-known assignments": one in each line; those that [`assignment`] refuses are left out. Process ids
/// become those of the caller's pid namespace by `outside`, which knows none for a process that is not the container's:
/// such an assignment is left out. With READY=1 goes who is ready, `main` unless the container names another. `None` for
/// what is no message.
fn translate(text: &[u8], main: i32, outside: impl Fn(i32) -> Option<i32>) -> Option<Message> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.contains(&0) {
        return None;
    }
    // systemd ends a line at either.
    let lines: Vec<Vec<u8>> =
        text.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(assignment).collect();
    // It stands alone, or nothing of the message counts.
    if lines.iter().any(|line| line == b"BARRIER=1") {
        return Some(Message { text: b"BARRIER=1".to_vec(), ready: false, descriptors: 1 });
    }
    let ready = lines.iter().any(|line| line == b"READY=1");
    // The last one counts, and is the only one looked up.
    let named = lines.iter().filter_map(|line| line.strip_prefix(b"MAINPID=")).next_back();
    let named = named.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
    let pid = named.and_then(&outside).or(ready.then_some(main));
    // First, where nothing before it can change how it is read.
    let mut sent: Vec<Vec<u8>> = pid.map(|pid| format!("MAINPID={pid}").into_bytes()).into_iter().collect();
    // These name the same process in other ways, and pidfds of the container could not be checked.
    sent.extend(lines.into_iter().filter(|line| {
        !["MAINPID=", "MAINPIDFD=", "MAINPIDFDID="].iter().any(|name| line.starts_with(name.as_bytes()))
    }));
    (!sent.is_empty()).then(|| Message { text: sent.join(&b'\n'), ready, descriptors: usize::MAX })
}

/// The line as it may go on: NAME=value, NAME of `A-Z0-9_`, and nothing in it that a reader could take for more than
/// itself. systemd drops backslashes, and does not see a line end after one; quotes and control characters are left out
/// with them. In STATUS, which is for people, a space stands for each.
fn assignment(line: &[u8]) -> Option<Vec<u8>> {
    let name = line.split(|byte| *byte == b'=').next().filter(|name| name.len() < line.len())?;
    if name.is_empty() || !name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
        return None;
    }
    let special = |byte: &u8| byte.is_ascii_control() || matches!(byte, b'\\' | b'\'' | b'"');
    if name == b"STATUS" {
        return Some(line.iter().map(|byte| if special(byte) { b' ' } else { *byte }).collect());
    }
    (!line.iter().any(special)).then(|| line.to_vec())
}

/// The process of the container that has the number `inside` in the pid namespace of its first one.
fn outside(inside: i32, processes: Processes, cgroup: &Cgroup) -> Option<i32> {
    let Processes { main, init } = processes;
    let chain = numbers(init)?;
    let depth = chain.len().checked_sub(1)?;
    if chain.get(depth) == Some(&inside) {
        return Some(main);
    }
    let pids = if cgroup.directories().is_empty() { members::of(init).ok()? } else { cgroup.pids().ok()? };
    pids.into_iter().find(|pid| numbers(*pid).is_some_and(|chain| chain.get(depth) == Some(&inside)))
}

/// A process's ids, from ours to its own pid namespace's.
fn numbers(pid: i32) -> Option<Vec<i32>> {
    let status = fd::read_file(format!("/proc/{pid}/status")).ok()?;
    parse_numbers(&String::from_utf8_lossy(&status))
}

/// proc_pid_status(5), `NSpid`.
fn parse_numbers(status: &str) -> Option<Vec<i32>> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    /// Of a container whose first process stands for 1 → 4000, and another 7 → 4007.
    fn told(text: &str) -> Option<(String, bool)> {
        let outside = |inside| [(1, 4000), (7, 4007)].iter().find(|(n, _)| *n == inside).map(|(_, pid)| *pid);
        translate(text.as_bytes(), 4000, outside)
            .map(|message| (String::from_utf8(message.text).unwrap(), message.ready))
    }

    #[test]
    fn readiness_names_the_main_process() {
        let ready = |text: &str| Some((text.to_string(), true));
        assert_eq!(told("READY=1"), ready("MAINPID=4000\nREADY=1"));
        assert_eq!(told("READY=1\n"), ready("MAINPID=4000\nREADY=1"));
        assert_eq!(told("READY=1\0"), ready("MAINPID=4000\nREADY=1"));
        assert_eq!(told("STATUS=up\nREADY=1\nERRNO=2"), ready("MAINPID=4000\nSTATUS=up\nREADY=1\nERRNO=2"));
        assert_eq!(told("MAINPID=1\nREADY=1"), ready("MAINPID=4000\nREADY=1"));
        assert_eq!(told("READY=1\nMAINPID=7"), ready("MAINPID=4007\nREADY=1"));
        // Not a process of the container, or no number.
        assert_eq!(told("READY=1\nMAINPID=8"), ready("MAINPID=4000\nREADY=1"));
        assert_eq!(told("READY=1\nMAINPID=99999999999"), ready("MAINPID=4000\nREADY=1"));
    }

    #[test]
    fn ids_are_translated_or_left_out() {
        let plain = |text: &str| Some((text.to_string(), false));
        assert_eq!(told("MAINPID=7"), plain("MAINPID=4007"));
        assert_eq!(told("MAINPID=7\nMAINPID=1"), plain("MAINPID=4000"));
        for none in ["MAINPID=8", "MAINPID=", "MAINPID=-1", "MAINPID=x", "MAINPIDFD=1", "MAINPIDFDID=4711"] {
            assert_eq!(told(none), None, "{none}");
            assert_eq!(told(&format!("STATUS=x\n{none}")), plain("STATUS=x"), "{none}");
        }
    }

    #[test]
    fn everything_else_goes_on_as_it_came() {
        for text in [
            "STATUS=half way",
            "RELOADING=1\nMONOTONIC_USEC=123",
            "STOPPING=1",
            "WATCHDOG=1",
            "WATCHDOG=trigger",
            "WATCHDOG_USEC=20000000",
            "EXTEND_TIMEOUT_USEC=1000000",
            "FDSTORE=1\nFDNAME=x\nFDPOLL=0",
            "FDSTOREREMOVE=1\nFDNAME=x",
            "NOTIFYACCESS=all",
            "X_OF_SOMEBODY=ü",
            "READY=0",
            "BARRIER=1",
            "STATUS=",
            "STATUS=a=b; c",
        ] {
            assert_eq!(told(text), Some((text.to_string(), false)), "{text}");
        }
        let bytes = b"STATUS=\xff\xfe";
        assert_eq!(translate(bytes, 1, |_| None).unwrap().text, bytes);
    }

    /// What systemd 252 makes of each by its strv_split, with "\n\r" for ends of lines: MAINPID=3.
    #[test]
    fn a_main_pid_is_not_smuggled() {
        let plain = |text: &str| Some((text.to_string(), false));
        assert_eq!(told("STATUS=x\rMAINPID=3"), plain("STATUS=x"));
        assert_eq!(told("STATUS=x\rMAINPID=7"), plain("MAINPID=4007\nSTATUS=x"));
        for alone in
            ["M\\AINPID=3", "MAINPID\\=3", "\\MAINPID=3", "MAINPID=\\3", "MAINPIDF\\D=1", "MAINPID=3\\"]
        {
            assert_eq!(told(alone), None, "{alone:?}");
            assert_eq!(told(&format!("{alone}\rSTATUS=x\n{alone}")), plain("STATUS=x"), "{alone:?}");
        }
    }

    #[test]
    fn readiness_is_seen_as_the_supervisor_sees_it() {
        let ready = |text: &str| Some((text.to_string(), true));
        assert_eq!(told("READY=1\rSTATUS=up"), ready("MAINPID=4000\nREADY=1\nSTATUS=up"));
        assert_eq!(told("STATUS=up\r\nREADY=1\r\n"), ready("MAINPID=4000\nSTATUS=up\nREADY=1"));
        assert_eq!(told("R\\EADY=1"), None);
    }

    #[test]
    fn no_line_swallows_another() {
        let ready = |text: &str| Some((text.to_string(), true));
        assert_eq!(told("READY=1\nSTATUS=a\\"), ready("MAINPID=4000\nREADY=1\nSTATUS=a "));
        assert_eq!(told("STATUS=a\\\nREADY=1"), ready("MAINPID=4000\nSTATUS=a \nREADY=1"));
        assert_eq!(told("READY=1\nX_A=a\\"), ready("MAINPID=4000\nREADY=1"));
    }

    #[test]
    fn what_could_be_read_otherwise_is_left_out() {
        for line in [
            "READY",
            "=1",
            "=",
            "ready=1",
            " READY=1",
            "READY =1",
            "\tREADY=1",
            "Ü=1",
            "X-Y=1",
            "'READY=1'",
            "FDNAME=a\\b",
            "FDNAME='a'",
            "FDNAME=\"a\"",
            "FDNAME=a\tb",
            "FDNAME=a\x0bb",
            "FDNAME=a\x7f",
        ] {
            assert_eq!(told(line), None, "{line:?}");
            assert_eq!(told(&format!("{line}\nERRNO=2")), Some(("ERRNO=2".to_string(), false)), "{line:?}");
        }
        let status = told("STATUS=it's \"C:\\\" \t\x1b[1m, \u{fc}");
        assert_eq!(status, Some(("STATUS=it s  C:     [1m, \u{fc}".to_string(), false)));
    }

    #[test]
    fn a_barrier_stands_alone() {
        for text in
            ["BARRIER=1", "BARRIER=1\nMAINPID=1", "READY=1\rBARRIER=1\nM\\AINPID=3", "MAINPID=7\nBARRIER=1\n"]
        {
            let message = translate(text.as_bytes(), 4000, Some).unwrap();
            assert_eq!(
                message,
                Message { text: b"BARRIER=1".to_vec(), ready: false, descriptors: 1 },
                "{text:?}"
            );
        }
        for not in ["B\\ARRIER=1", "BARRIER=1\\"] {
            assert_eq!(told(not), None, "{not:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_dropped() {
        for text in ["", "\0", "\n\n", "\r", "READY=1\0STATUS=x", "\0READY=1", "READY=1\0\0"] {
            assert_eq!(told(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_value_of_the_variable() {
        for good in ["/run/systemd/notify", "@/org/freedesktop/systemd1/notify/1"] {
            assert!(NotifySocket::new(OsStr::new(good)).is_ok(), "{good}");
        }
        let long = format!("/{}", "x".repeat(200));
        for bad in ["", "@", "notify", "vsock:2:1234", &long] {
            assert_eq!(NotifySocket::new(OsStr::new(bad)).unwrap_err().code, Code::Invalid, "{bad}");
        }
        let absent = NotifySocket::new(OsStr::from_bytes(b"/nowhere/notify")).unwrap();
        let (None, Some(warning)) = reach(Some(&absent)) else { panic!() };
        assert!(warning.contains("/nowhere/notify: no such file or directory"), "{warning}");
    }

    #[test]
    fn numbers_of_a_process() {
        assert_eq!(parse_numbers("Name:\tx\nNSpid:\t4711\t12\t1\nNSpgid:\t0\n"), Some(vec![4711, 12, 1]));
        assert_eq!(parse_numbers("Name:\tx\n"), None);
        assert_eq!(numbers(std::process::id() as i32).unwrap()[0], std::process::id() as i32);
    }

    mod served {
        use super::*;
        use crate::Id;
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::io::IoSlice;
        use std::os::unix::net::UnixDatagram;

        struct Served {
            root: tempfile::TempDir,
            supervisor: UnixDatagram,
            proxy: Proxy,
        }

        /// A proxy for this very process, whose number is the same inside and outside.
        fn serve() -> Served {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("supervisor");
            let supervisor = UnixDatagram::bind(&path).unwrap();
            supervisor.set_nonblocking(true).unwrap();
            let directory = Directory::claim(root.path(), &Id::new("web").unwrap()).unwrap();
            make_directory(&directory).unwrap();
            assert!(is_there(&directory));
            let host = NotifySocket::new(path.as_os_str()).unwrap().connect().unwrap();
            let own = std::process::id() as i32;
            let cgroup = coracle_cgroup::Location::default().open();
            let processes = Processes { main: own, init: own };
            let proxy = Proxy::listen(&directory, host, processes, cgroup).unwrap();
            Served { root, supervisor, proxy }
        }

        impl Served {
            fn service(&self) -> UnixDatagram {
                let socket = UnixDatagram::unbound().unwrap();
                socket.connect(self.root.path().join("web/notify/notify.sock")).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            }

            fn heard(&self) -> Option<String> {
                let mut buffer = [0; LARGEST];
                let length = self.supervisor.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            }
        }

        fn with_fds(socket: &UnixDatagram, text: &[u8], fds: &[i32]) {
            let rights = [ControlMessage::ScmRights(fds)];
            sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text)], &rights, MsgFlags::empty(), None)
                .unwrap();
        }

        fn open_descriptors() -> usize {
            std::fs::read_dir("/proc/self/fd").unwrap().count()
        }

        #[test]
        fn the_socket_is_for_every_user_and_goes_with_the_proxy() {
            let served = serve();
            let path = served.root.path().join("web/notify/notify.sock");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
            drop(served.proxy);
            assert!(!path.exists());
        }

        #[test]
        fn a_message_with_descriptors_goes_on_with_them() {
            let mut served = serve();
            let service = served.service();
            let (read, write) = fd::pipe().unwrap();
            with_fds(&service, b"FDSTORE=1\nFDNAME=pipe", &[read.number(), write.number()]);
            assert!(served.proxy.advance() && !served.proxy.ready);
            let mut fds: Vec<Fd> = Vec::new();
            let mut buffer = [0; 100];
            let got = socket::receive_datagram(served.supervisor.as_raw_fd(), &mut buffer, &mut fds).unwrap();
            assert_eq!(&buffer[..got.length], b"FDSTORE=1\nFDNAME=pipe");
            assert_eq!(fds.len(), 2);
            fd::write(fds[1].number(), b"x").unwrap();
            assert_eq!(fd::read(read.number(), &mut buffer), Ok(1));
        }

        #[test]
        fn a_barrier_is_over_when_the_supervisor_has_read_it() {
            let mut served = serve();
            let service = served.service();
            let (read, write) = fd::pipe().unwrap();
            with_fds(&service, b"BARRIER=1", &[write.number()]);
            drop(write);
            assert!(served.proxy.advance());
            // Nothing of ours keeps it open, and nothing has closed it.
            assert_eq!(fd::wait_readable(read.number(), Some(0)), Ok(false));
            assert_eq!(served.heard().unwrap(), "BARRIER=1");
            assert_eq!(fd::wait_readable(read.number(), Some(20_000)), Ok(true));
        }

        #[test]
        fn a_barrier_goes_on_with_one_descriptor() {
            let mut served = serve();
            let service = served.service();
            let (read, write) = fd::pipe().unwrap();
            let null = File::open("/dev/null").unwrap();
            with_fds(&service, b"BARRIER=1\nMAINPID=1", &[null.as_raw_fd(), write.number()]);
            drop(write);
            assert!(served.proxy.advance());
            assert_eq!(fd::wait_readable(read.number(), Some(20_000)), Ok(true));
            let mut fds: Vec<Fd> = Vec::new();
            let mut buffer = [0; 100];
            let got = socket::receive_datagram(served.supervisor.as_raw_fd(), &mut buffer, &mut fds).unwrap();
            assert_eq!((&buffer[..got.length], fds.len()), (&b"BARRIER=1"[..], 1));
        }

        #[test]
        fn nothing_grows_when_the_supervisor_does_not_read() {
            let mut served = serve();
            let service = served.service();
            let sent = (0..10_000).take_while(|_| {
                let sent = service.send(b"STATUS=x").is_ok();
                served.proxy.advance();
                sent
            });
            let sent = sent.count();
            // Two queues, one datagram between them.
            assert!(sent < 10_000 && served.proxy.pending.is_some(), "{sent}");
            assert_eq!(served.proxy.interests()[0].fd, -1);
            let heard = || {
                let mut count = 0;
                while served.heard().is_some() {
                    count += 1;
                }
                count
            };
            let mut all = heard();
            let mut proxy = serve().proxy;
            std::mem::swap(&mut proxy, &mut served.proxy);
            while proxy.advance() {
                let mut buffer = [0; 100];
                while served.supervisor.recv(&mut buffer).is_ok() {
                    all += 1;
                }
            }
            assert_eq!(all, sent);
        }

        #[test]
        fn hostile_datagrams_leave_nothing_behind() {
            let mut served = serve();
            let service = served.service();
            let null = File::open("/dev/null").unwrap();
            let many = [null.as_raw_fd(); socket::MOST_DESCRIPTORS];
            let send = |served: &mut Served, text: &[u8], fds: &[i32]| {
                with_fds(&service, text, fds);
                assert!(served.proxy.advance());
            };
            send(&mut served, b"", &many);
            send(&mut served, b"READY=1\0x", &many);
            send(&mut served, &vec![b'x'; LARGEST + 1], &[]);
            send(&mut served, b"MAINPID=1", &many);
            assert!(served.proxy.pending.is_none() && !served.proxy.ready);
            assert_eq!(served.heard(), None);
            // The most that fits goes on whole.
            send(&mut served, b"FDSTORE=1", &many);
            let mut fds: Vec<Fd> = Vec::new();
            socket::receive_datagram(served.supervisor.as_raw_fd(), &mut [0; 100], &mut fds).unwrap();
            assert_eq!(fds.len(), socket::MOST_DESCRIPTORS);
            assert!(served.proxy.pending.is_none() && open_descriptors() < 1000);
            // A supervisor that has gone.
            let Served { supervisor, mut proxy, .. } = served;
            drop(supervisor);
            service.send(b"READY=1").unwrap();
            assert!(proxy.advance());
            assert!(proxy.ready && proxy.pending.is_none());
        }

        #[test]
        fn the_last_words_of_an_ended_process_count() {
            let served = serve();
            let service = served.service();
            service.send(b"STATUS=almost").unwrap();
            service.send(b"READY=1").unwrap();
            let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
            let pidfd = coracle_sys::process::pidfd_open(child.id() as i32).unwrap();
            fd::wait_readable(pidfd.number(), None).unwrap();
            let Served { supervisor, proxy, root } = served;
            // It reads the barrier, which is waited for.
            supervisor.set_nonblocking(false).unwrap();
            let reader = std::thread::spawn(move || {
                let mut buffer = [0; 100];
                (0..3)
                    .map(|_| {
                        let length = supervisor.recv(&mut buffer).unwrap();
                        String::from_utf8_lossy(&buffer[..length]).into_owned()
                    })
                    .collect::<Vec<_>>()
            });
            assert!(proxy.until_ready(pidfd.number()).unwrap());
            child.wait().unwrap();
            let own = std::process::id();
            assert_eq!(
                reader.join().unwrap(),
                ["STATUS=almost", &format!("MAINPID={own}\nREADY=1"), "BARRIER=1"]
            );
            drop(root);
        }

        #[test]
        fn a_process_that_ends_without_a_word_was_never_ready() {
            let served = serve();
            let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
            let pidfd = coracle_sys::process::pidfd_open(child.id() as i32).unwrap();
            assert!(!served.proxy.until_ready(pidfd.number()).unwrap());
            child.wait().unwrap();
        }
    }
}
