// SPDX-License-Identifier: MIT OR Apache-2.0
//! The caller's side of a container in the foreground: its signals, its terminal, and how it ended.
//!
//! One loop, no thread, no signal handler. Never leaves the caller's terminal in raw mode, and never changes the
//! flags of descriptors that the caller shares with others. Bytes go from 0 to the pty's master and back to 1.

use std::os::fd::AsRawFd;

use coracle_sys::process::{self, Exit};
use coracle_sys::tty::{self, Modes, Poll, poll};
use coracle_sys::{Fd, fd};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::error::{Code, Error, Result};
use crate::notify::Proxy;

/// How a container's process ended, or that nobody waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Detached,
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    /// What a shell would report: the code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Detached => 0,
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        }
    }
}

/// The caller's signals, held back for [`wait`] until this is dropped. Keep it until the container is cleaned up: a
/// signal that came too late for the container is for the caller then.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

/// Hold back every signal of the calling thread that can be forwarded. To be called before the clone, so that none
/// is lost, and before other threads start, which would take them. SIGTTIN and SIGTTOU stay: with them the caller's
/// terminal stops a command in the background that reads from it or changes it, until it is brought back.
pub fn block_signals() -> Result<Signals> {
    let mut set = SigSet::all();
    set.remove(Signal::SIGTTIN);
    set.remove(Signal::SIGTTOU);
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| Error::system("signalfd", errno))?;
    let before =
        set.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|errno| Error::system("block signals", errno))?;
    Ok(Signals { fd, before })
}

impl Signals {
    pub fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// A signal that asks the caller to end, if one has come. Others are dropped: nobody is there yet to get them.
    pub fn interruption(&self) -> Result<Option<i32>> {
        while let Some(signal) = self.next()? {
            let number = signal.ssi_signo as i32;
            if matches!(number, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// A signal that asks the caller to end is an error.
    pub fn check(&self) -> Result<()> {
        match self.interruption()? {
            Some(signal) => Err(Error::new(Code::Interrupted, format!("interrupted by signal {signal}"))),
            None => Ok(()),
        }
    }

    /// Wait until there is something to read on either, or a signal asks the caller to end, which is an error. A signal
    /// is left to whoever reads next if something comes within `patience` milliseconds of it. A descriptor of -1 never
    /// has anything.
    pub fn wait_for(&self, readable: [i32; 2], patience: i32) -> Result<()> {
        let [first, second] = readable.map(Poll::readable);
        let mut entries = [first, second, Poll::readable(self.descriptor())];
        let something = |entries: &[Poll]| entries.iter().take(2).any(|entry| entry.ready != 0);
        loop {
            poll(&mut entries, None).map_err(|errno| failed("poll", errno))?;
            if something(&entries) {
                return Ok(());
            }
            if entries[2].ready != 0 {
                poll(&mut entries[..2], Some(patience)).map_err(|errno| failed("poll", errno))?;
                if something(&entries) {
                    return Ok(());
                }
                self.check()?;
            }
        }
    }

    fn next(&self) -> Result<Option<libc::signalfd_siginfo>> {
        loop {
            match self.fd.read_signal() {
                Err(Errno::EINTR) => {}
                other => return other.map_err(|errno| Error::system("read signals", errno)),
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A write of our own to a reader that has gone may have left this behind, and it would kill the caller.
        let mut pipe = SigSet::empty();
        pipe.add(Signal::SIGPIPE);
        if let Ok(fd) = SignalFd::with_flags(&pipe, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) {
            fd.read_signal().ok();
        }
        // It was the mask of this thread, so the kernel takes it.
        self.before.thread_set_mask().ok();
    }
}

/// Fit a pty to the caller's side, before anything is written to it: the size of the caller's terminal, if there is
/// one, and plain newlines if the output goes elsewhere. To be called as soon as the master is there.
pub fn prepare(master: &Fd) -> Result<()> {
    CALLER.prepare(master)
}

const CALLER: Caller = Caller { input: 0, output: 1, error: 2, subreaper: false };

fn copy_size(terminals: &[i32], master: i32) {
    let size = terminals.iter().find_map(|terminal| tty::window_size(*terminal).ok());
    if let Some(size) = size.filter(|size| *size != tty::WindowSize::default()) {
        // Only a master that is none can fail, and reading from it will tell.
        tty::set_window_size(master, size).ok();
    }
}

/// Wait for the container's process, a child of the caller, and reap it. Signals of the caller are forwarded to it;
/// with a terminal (the pty's master), bytes are relayed and the caller's terminal is raw meanwhile. All that the
/// container wrote has been passed on when this returns. A `subreaper`'s other children are reaped too; without it they
/// belong to whoever made them.
pub fn wait(
    signals: &Signals,
    pidfd: i32,
    pid: i32,
    terminal: Option<Fd>,
    subreaper: bool,
) -> Result<ExitStatus> {
    wait_notified(signals, pidfd, pid, terminal, subreaper, None)
}

/// The same; meanwhile what the container tells its supervisor is passed on.
pub(crate) fn wait_notified(
    signals: &Signals,
    pidfd: i32,
    pid: i32,
    terminal: Option<Fd>,
    subreaper: bool,
    notify: Option<Proxy>,
) -> Result<ExitStatus> {
    wait_with(signals, pidfd, pid, terminal, notify, &Caller { subreaper, ..CALLER })
}

/// The caller's side, by number.
struct Caller {
    input: i32,
    output: i32,
    error: i32,
    /// Orphans come to this process, by its own wish.
    subreaper: bool,
}

impl Caller {
    fn prepare(&self, master: &Fd) -> Result<()> {
        copy_size(&[self.input, self.output, self.error], master.number());
        // A terminal in raw mode wants the carriage returns that the pty adds; a file or a pipe does not.
        if tty::modes(self.output).is_err() {
            let modes = tty::modes(master.number()).map_err(|errno| failed(TERMINAL, errno))?;
            tty::set_modes(master.number(), &modes.plain_newlines())
                .map_err(|errno| failed(TERMINAL, errno))?;
        }
        Ok(())
    }
}

const TERMINAL: &str = "terminal of the container";

fn wait_with(
    signals: &Signals,
    pidfd: i32,
    pid: i32,
    terminal: Option<Fd>,
    mut notify: Option<Proxy>,
    caller: &Caller,
) -> Result<ExitStatus> {
    let mut relay = terminal.map(|master| Relay::new(master, caller)).transpose()?;
    loop {
        let nothing = Poll::readable(-1);
        let [input, master, output] = relay.as_ref().map_or([nothing; 3], Relay::interests);
        let [inside, host] = notify.as_ref().map_or([nothing; 2], Proxy::interests);
        let (signal, exit) = (Poll::readable(signals.fd.as_raw_fd()), Poll::readable(pidfd));
        let mut entries = [signal, exit, inside, host, input, master, output];
        wait_for(&mut entries)?;
        let [signal, exit, inside, host, rest @ ..] = entries;
        if let Some(relay) = &mut relay {
            relay.advance(&rest);
        }
        if let Some(notify) = &mut notify
            && (inside.ready != 0 || host.ready != 0)
        {
            notify.advance();
        }
        if signal.ready != 0 {
            while let Some(signal) = signals.next()? {
                if signal.ssi_signo as i32 != libc::SIGCHLD {
                    handle(&signal, pidfd, &mut relay)?;
                } else if caller.subreaper {
                    reap(pid);
                }
            }
        }
        if exit.ready != 0 {
            break;
        }
    }
    let exit = process::wait(pidfd).map_err(|errno| failed("wait for the container", errno))?;
    if let Some(notify) = &mut notify {
        notify.finish();
    }
    if let Some(relay) = relay {
        relay.finish(signals)?;
    }
    // SIGCHLD of several children is one signal, and one of another thread's mask is none.
    if caller.subreaper {
        reap(pid);
    }
    Ok(match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal(signal) => ExitStatus::Signal(signal),
    })
}

fn failed(what: &str, errno: coracle_sys::Errno) -> Error {
    Error::system(what, Errno::from_raw(errno.0))
}

fn wait_for(entries: &mut [Poll]) -> Result<()> {
    poll(entries, None).map(drop).map_err(|errno| failed("poll", errno))
}

fn handle(signal: &libc::signalfd_siginfo, pidfd: i32, relay: &mut Option<Relay<'_>>) -> Result<()> {
    let number = signal.ssi_signo as i32;
    match number {
        libc::SIGWINCH => {
            if let Some(relay) = relay {
                relay.resize();
            }
            return Ok(());
        }
        libc::SIGURG => return Ok(()),
        // From a write of our own.
        libc::SIGPIPE if signal.ssi_pid == std::process::id() => return Ok(()),
        libc::SIGCONT => {
            // A shell that had the terminal in between has put its own modes back.
            if let Some(relay) = relay {
                relay.resume();
            }
        }
        _ => {}
    }
    match process::pidfd_send_signal(pidfd, number) {
        // ESRCH: it has ended, and the loop is about to see that.
        Ok(()) | Err(coracle_sys::Errno(libc::ESRCH)) => Ok(()),
        Err(errno) => Err(failed(&format!("forward signal {number}"), errno)),
    }
}

/// Reap ended children other than the container: orphans that came to a process which asked for them.
fn reap(container: i32) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Whatever cannot be reaped now is init's when this process ends.
    while let Some(pid) = waitid(Id::All, look).ok().and_then(|status| status.pid()) {
        if pid.as_raw() == container
            || waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).is_err()
        {
            return;
        }
    }
}

/// The caller's terminal in raw mode, until dropped.
struct Raw {
    terminal: i32,
    before: Modes,
}

impl Raw {
    /// `None` if it is no terminal.
    fn enter(terminal: i32) -> Result<Option<Raw>> {
        let Ok(before) = tty::modes(terminal) else { return Ok(None) };
        tty::set_modes(terminal, &before.raw())
            .map_err(|errno| failed("set the terminal to raw mode", errno))?;
        Ok(Some(Raw { terminal, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone has no modes to restore.
        tty::set_modes(self.terminal, &self.before).ok();
    }
}

/// Where bytes are on their way. Each direction holds one chunk and reads no more before that is written, so a slow
/// reader slows its writer, and never the other direction.
struct Relay<'a> {
    master: Fd,
    /// A slave end of our own: without it the master would report a hang-up for as long as no process of the
    /// container has the terminal open. Closed when the container has ended.
    slave: Option<Fd>,
    /// Reading failed; there is nothing to wait for.
    master_ended: bool,
    input: Option<Stream>,
    output: Option<Stream>,
    to_master: Chunk,
    to_output: Chunk,
    /// The last byte that came from the input; `None` if it never had any.
    last_input: Option<u8>,
    /// How often an editor of lines may yet be told that the input has ended.
    ends_left: u32,
    raw: Option<Raw>,
    caller: &'a Caller,
}

impl<'a> Relay<'a> {
    fn new(master: Fd, caller: &'a Caller) -> Result<Relay<'a>> {
        tty::set_nonblocking(master.number()).map_err(|errno| failed(TERMINAL, errno))?;
        let slave = tty::open_slave(master.number()).map_err(|errno| failed(TERMINAL, errno))?;
        caller.prepare(&master)?;
        Ok(Relay {
            master,
            slave: Some(slave),
            master_ended: false,
            input: Some(Stream::open(caller.input, libc::O_RDONLY)),
            output: Some(Stream::open(caller.output, libc::O_WRONLY)),
            to_master: Chunk::default(),
            to_output: Chunk::default(),
            last_input: None,
            ends_left: 0,
            raw: Raw::enter(caller.input)?,
            caller,
        })
    }

    fn resize(&self) {
        copy_size(&[self.caller.input, self.caller.output, self.caller.error], self.master.number());
    }

    fn resume(&self) {
        if let Some(raw) = &self.raw {
            // As in Raw::drop.
            tty::set_modes(raw.terminal, &raw.before.raw()).ok();
        }
        self.resize();
    }

    /// For poll: input, master, output. What has nothing to do is left out, since an error or hang-up of it would
    /// be reported again and again.
    fn interests(&self) -> [Poll; 3] {
        let input = self.input.as_ref().filter(|_| self.to_master.is_empty()).map_or(-1, Stream::number);
        let output = self.output.as_ref().filter(|_| !self.to_output.is_empty()).map_or(-1, Stream::number);
        let mut events = 0;
        if self.to_output.is_empty() {
            events |= libc::POLLIN;
        }
        if !self.to_master.is_empty() {
            events |= libc::POLLOUT;
        }
        let master = if events == 0 || self.master_ended { -1 } else { self.master.number() };
        [Poll::readable(input), Poll { fd: master, events, ready: 0 }, Poll::writable(output)]
    }

    /// Move what can be moved without waiting.
    fn advance(&mut self, [input, master, output]: &[Poll; 3]) {
        if input.ready != 0 {
            self.read_input();
        }
        if master.ready & libc::POLLOUT != 0 || input.ready != 0 {
            // An error: the bytes have nowhere to go, and the loop will hear of the container's end by its pidfd.
            if self.to_master.write_to(self.master.number(), usize::MAX).is_err() {
                self.to_master.clear();
            }
        }
        if master.ready & !libc::POLLOUT != 0 && self.read_master() {
            self.end_editing();
        }
        if output.ready != 0 || master.ready != 0 {
            self.write_output();
        }
    }

    fn read_input(&mut self) {
        let Some(input) = &self.input else { return };
        match self.to_master.fill_from(input.number()) {
            Ok(Some(0)) => {
                self.input = None;
                self.end_input();
            }
            // EIO: the terminal belongs to others, or has gone.
            Err(_) => self.input = None,
            Ok(Some(_)) => self.last_input = self.to_master.last(),
            Ok(None) => {}
        }
    }

    /// A file or pipe that had something in it has ended: tell a program that reads lines from its terminal. Nothing
    /// is said for an input that was empty from the start, as /dev/null of a service is: a shell would exit.
    fn end_input(&mut self) {
        let Some(last) = self.last_input else { return };
        self.ends_left = ENDS;
        let Ok(modes) = tty::modes(self.master.number()) else { return };
        // In the middle of a line the character only sends the line; the second one ends the input.
        let times = if last == b'\n' { 1 } else { 2 };
        self.to_master.set(&[modes.end_of_input(); 2][..times]);
    }

    /// A shell that edits lines itself takes the terminal's own line for nothing as soon as it changes the modes, and the end
    /// of input in it. So it is told again, whenever it has said something: its prompt.
    fn end_editing(&mut self) {
        if self.input.is_some() || self.ends_left == 0 || !self.to_master.is_empty() {
            return;
        }
        if let Ok(modes) = tty::modes(self.master.number())
            && !modes.reads_lines()
        {
            self.ends_left -= 1;
            self.to_master.set(&[modes.end_of_input()]);
        }
    }

    /// False when there is no more for now, or for ever.
    fn read_master(&mut self) -> bool {
        let result = self.to_output.fill_from(self.master.number());
        self.master_ended |= matches!(result, Err(_) | Ok(Some(0)));
        matches!(result, Ok(Some(1..)))
    }

    fn write_output(&mut self) {
        let Some(output) = &self.output else {
            // Nobody reads any more. The container need not stop for that.
            self.to_output.clear();
            return;
        };
        let at_once = if output.blocks() { PIPE_BUF } else { usize::MAX };
        if self.to_output.write_to(output.number(), at_once).is_err() {
            self.output = None;
            self.to_output.clear();
        }
    }

    /// The container has ended: pass on what it wrote, until there is no more.
    fn finish(mut self, signals: &Signals) -> Result<()> {
        // With the last slave closed, the master reads EIO at the end. If a process elsewhere (a shared pid
        // namespace) holds one and goes on writing, only what can have been there until now counts.
        self.slave = None;
        let mut left = PTY_HOLDS;
        loop {
            if self.to_output.is_empty() {
                if left == 0 || !self.read_master() {
                    return Ok(());
                }
                left = left.saturating_sub(self.to_output.bytes.len());
            }
            let Some(output) = &self.output else {
                self.to_output.clear();
                continue;
            };
            let mut entries = [Poll::readable(signals.fd.as_raw_fd()), Poll::writable(output.number())];
            wait_for(&mut entries)?;
            if entries[1].ready != 0 {
                self.write_output();
            }
            if entries[0].ready != 0 && asked_to_end(signals)? {
                return Ok(());
            }
        }
    }
}

/// Was this process asked to end, while the container is gone and the output does not move?
fn asked_to_end(signals: &Signals) -> Result<bool> {
    let mut asked = false;
    while let Some(signal) = signals.next()? {
        asked |=
            matches!(signal.ssi_signo as i32, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT);
    }
    Ok(asked)
}

/// Of no use to a program that is no shell: it may draw something at each.
const ENDS: u32 = 16;

/// More than a pty buffers in the kernel (64 KiB and a page), in bytes.
const PTY_HOLDS: usize = 256 * 1024;

/// What can be written to a pipe that poll calls writable, without waiting (pipe(7)), in bytes.
const PIPE_BUF: usize = 4096;

/// One of the caller's descriptors.
enum Stream {
    /// Opened again for ourselves, where reads and writes do not wait. Setting O_NONBLOCK on the caller's own would
    /// set it for the shell and for everyone else who has it.
    Own(Fd),
    /// What cannot be opened again without a change of meaning (a file's offset, a socket) or at all.
    Callers(i32),
}

impl Stream {
    fn open(number: i32, access: i32) -> Stream {
        let kind = fd::fstat(number).map_or(0, |stat| stat.kind());
        if kind == libc::S_IFCHR || kind == libc::S_IFIFO {
            let flags = access | libc::O_NONBLOCK | libc::O_NOCTTY;
            let path = std::ffi::CString::new(format!("/proc/self/fd/{number}")).unwrap_or_default();
            if let Ok(own) = fd::openat(libc::AT_FDCWD, &path, flags, 0) {
                return Stream::Own(own);
            }
        }
        Stream::Callers(number)
    }

    fn number(&self) -> i32 {
        match self {
            Stream::Own(fd) => fd.number(),
            Stream::Callers(number) => *number,
        }
    }

    fn blocks(&self) -> bool {
        matches!(self, Stream::Callers(_))
    }
}

/// Bytes between one read and the writes that pass them on.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    written: usize,
}

impl Chunk {
    const SIZE: usize = 16 * 1024;

    fn is_empty(&self) -> bool {
        self.written >= self.bytes.len()
    }

    fn last(&self) -> Option<u8> {
        self.bytes.last().copied()
    }

    fn clear(&mut self) {
        self.set(&[]);
    }

    fn set(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.written = 0;
    }

    /// Read once into an empty chunk. Ok(None): nothing there now, or no room yet.
    fn fill_from(&mut self, number: i32) -> coracle_sys::Result<Option<usize>> {
        if !self.is_empty() {
            return Ok(None);
        }
        self.written = 0;
        self.bytes.resize(Self::SIZE, 0);
        let result = fd::read(number, &mut self.bytes);
        self.bytes.truncate(*result.as_ref().unwrap_or(&0));
        match result {
            Err(coracle_sys::Errno::AGAIN) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Write once, at most so many bytes. What does not fit now stays.
    fn write_to(&mut self, number: i32, at_most: usize) -> coracle_sys::Result<()> {
        let left = self.bytes.get(self.written..).unwrap_or_default();
        if left.is_empty() {
            return Ok(());
        }
        match fd::write(number, left.get(..at_most).unwrap_or(left)) {
            Ok(length) => {
                self.written += length;
                Ok(())
            }
            Err(coracle_sys::Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
#[allow(clippy::zombie_processes)] // the code under test reaps them
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::signal::raise;

    use super::*;

    /// A pty as init would hand it over, and its slave as a container's process has it.
    fn pty() -> (Fd, File) {
        let master = fd::openat(libc::AT_FDCWD, c"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY, 0).unwrap();
        tty::unlock(master.number()).unwrap();
        let path = format!("/dev/pts/{}", tty::number(master.number()).unwrap());
        let slave = File::from(
            nix::fcntl::open(
                path.as_str(),
                OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )
            .unwrap(),
        );
        (master, slave)
    }

    fn pipe() -> (File, File) {
        let (read, write): (OwnedFd, OwnedFd) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        (read.into(), write.into())
    }

    /// A process in place of the container's, and its pidfd. It inherits the mask, as a clone would; init resets it,
    /// here the signals are blocked afterwards.
    fn shell(script: &str, stdio: impl Fn() -> Stdio) -> (i32, Fd) {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        // `child` does not reap when it is dropped; the code under test does.
        (pid, process::pidfd_open(pid).unwrap())
    }

    fn on_pty(script: &str, slave: &File) -> (i32, Fd) {
        shell(script, || slave.try_clone().unwrap().into())
    }

    fn caller(input: &File, output: &File) -> Caller {
        Caller { input: input.as_raw_fd(), output: output.as_raw_fd(), error: -1, subreaper: false }
    }

    fn ends_as(script: &str) -> ExitStatus {
        let (pid, pidfd) = shell(script, Stdio::null);
        let signals = block_signals().unwrap();
        wait(&signals, pidfd.number(), pid, None, false).unwrap()
    }

    #[test]
    fn exit_statuses() {
        assert_eq!(ends_as("exit 0"), ExitStatus::Code(0));
        assert_eq!(ends_as("exit 255"), ExitStatus::Code(255));
        assert_eq!(ends_as("kill -KILL $$"), ExitStatus::Signal(9));
        // A real-time signal has no name.
        assert_eq!(ends_as("kill -40 $$"), ExitStatus::Signal(40));
        assert_eq!(ExitStatus::Signal(40).code(), 168);
        assert_eq!(ExitStatus::Code(7).code(), 7);
    }

    #[test]
    fn the_container_is_reaped() {
        let (pid, pidfd) = shell("exit 1", Stdio::null);
        let signals = block_signals().unwrap();
        wait(&signals, pidfd.number(), pid, None, false).unwrap();
        assert_eq!(process::wait(pidfd.number()), Err(coracle_sys::Errno(libc::ECHILD)));
    }

    #[test]
    fn signals_are_forwarded_and_the_mask_comes_back() {
        let before = SigSet::thread_get_mask().unwrap();
        for (name, signal) in [
            ("TERM", Signal::SIGTERM),
            ("INT", Signal::SIGINT),
            ("TSTP", Signal::SIGTSTP),
            ("USR1", Signal::SIGUSR1),
        ] {
            let (read, write) = pipe();
            let script = format!(
                "exec 3>&1 1>&-; sleep 1000 3>&- & trap 'kill -KILL $!; exit 7' {name}; echo ready >&3; exec 3>&-; wait"
            );
            let child = Command::new("/bin/sh").args(["-c", &script]).stdout(write).spawn().unwrap();
            let pidfd = process::pidfd_open(child.id() as i32).unwrap();
            let signals = block_signals().unwrap();
            let mut text = String::new();
            std::io::BufReader::new(read).read_to_string(&mut text).unwrap();
            assert_eq!(text, "ready\n");
            raise(signal).unwrap();
            // Not for the container: it would die of them.
            for kept in [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGURG] {
                raise(kept).unwrap();
            }
            assert_eq!(
                wait(&signals, pidfd.number(), child.id() as i32, None, false).unwrap(),
                ExitStatus::Code(7),
                "{name}"
            );
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    /// Run a script on a pty with this input; its status, and what came out.
    fn relayed(script: &str, input: &[u8]) -> (ExitStatus, String) {
        let (master, slave) = pty();
        let (input_read, mut input_write) = pipe();
        let (mut output_read, output_write) = pipe();
        caller(&input_read, &output_write).prepare(&master).unwrap();
        let (pid, pidfd) = on_pty(script, &slave);
        let signals = block_signals().unwrap();
        drop(slave);
        let input = input.to_vec();
        let writer = std::thread::spawn(move || input_write.write_all(&input));
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            output_read.read_to_end(&mut text).map(|_| text)
        });
        let status =
            wait_with(&signals, pidfd.number(), pid, Some(master), None, &caller(&input_read, &output_write))
                .unwrap();
        drop((input_read, output_write));
        // A container that left its input alone breaks the pipe.
        drop(writer.join().unwrap());
        (status, String::from_utf8(reader.join().unwrap().unwrap()).unwrap())
    }

    #[test]
    fn input_goes_in_and_output_comes_out() {
        assert_eq!(
            relayed("stty -echo; cat; exit 3", b"one\ntwo\n").1.replace("one\ntwo\none", "one"),
            "one\ntwo\n"
        );
        let (status, text) = relayed("stty -echo; echo ready; head -n 1; exit 3", b"one\n");
        assert_eq!(status, ExitStatus::Code(3));
        assert!(text.ends_with("one\n") && text.contains("ready\n") && !text.contains('\r'), "{text:?}");
    }

    #[test]
    fn the_end_of_the_input_reaches_a_reader_of_lines() {
        // Also when it comes in the middle of a line.
        for input in ["one\ntwo\n", "one\ntwo"] {
            let (status, text) = relayed("cat > /dev/null; echo end", input.as_bytes());
            assert_eq!(status, ExitStatus::Code(0));
            assert!(text.ends_with("end\n"), "{text:?}");
        }
    }

    #[test]
    fn the_end_of_the_input_reaches_an_editor_of_lines() {
        // As it does: modes of its own, a prompt, and end of file is a character like others.
        let editor = "stty -icanon -echo min 1; printf '> '; \
                      while c=$(dd bs=1 count=1 2>/dev/null | od -An -tx1) && [ \"$c\" != ' 04' ]; do printf .; done; echo end";
        for input in ["one\n", "one"] {
            let (status, text) = relayed(editor, input.as_bytes());
            assert_eq!(status, ExitStatus::Code(0));
            assert!(text.ends_with("end\n"), "{text:?}");
        }
    }

    #[test]
    fn an_input_that_was_always_empty_is_no_end() {
        for (bytes, sent) in [("", ""), ("x", "\x04\x04"), ("x\n", "\x04")] {
            let (master, _slave) = pty();
            let (input, mut write) = pipe();
            write.write_all(bytes.as_bytes()).unwrap();
            drop(write);
            let null = File::options().write(true).open("/dev/null").unwrap();
            let caller = caller(&input, &null);
            let mut relay = Relay::new(master, &caller).unwrap();
            while relay.input.is_some() {
                relay.to_master.clear();
                relay.read_input();
            }
            assert_eq!(relay.to_master.bytes, sent.as_bytes(), "{bytes:?}");
        }
    }

    #[test]
    fn no_output_is_lost_at_the_end() {
        let expected: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
        let (status, text) = relayed("seq 1 60000; exit 4", b"");
        assert_eq!(status, ExitStatus::Code(4));
        assert!(text == expected, "{} bytes, expected {}", text.len(), expected.len());
        for _ in 0..100 {
            assert_eq!(relayed("printf last", b"").1, "last");
        }
    }

    #[test]
    fn much_input_arrives_whole() {
        let (master, slave) = pty();
        // Nothing is sent before the terminal passes every byte.
        let (pid, pidfd) = on_pty("stty raw -echo; echo ready; head -c 3000000 | md5sum", &slave);
        let signals = block_signals().unwrap();
        drop(slave);
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (input_read, mut input_write) = pipe();
        let (output_read, output_write) = pipe();
        let feeder = std::thread::spawn(move || {
            let mut output = std::io::BufReader::new(output_read);
            let mut line = String::new();
            std::io::BufRead::read_line(&mut output, &mut line).unwrap();
            assert_eq!(line, "ready\n");
            input_write.write_all(&bytes).unwrap();
            let mut sum =
                Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            sum.stdin.take().unwrap().write_all(&bytes).unwrap();
            let expected = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
            line.clear();
            output.read_to_string(&mut line).unwrap();
            (line, expected)
        });
        let status =
            wait_with(&signals, pidfd.number(), pid, Some(master), None, &caller(&input_read, &output_write))
                .unwrap();
        drop(output_write);
        assert_eq!(status, ExitStatus::Code(0));
        let (got, expected) = feeder.join().unwrap();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_reader_that_leaves_does_not_stop_the_container() {
        let (master, slave) = pty();
        let (pid, pidfd) = on_pty("seq 1 50000; exit 3", &slave);
        let signals = block_signals().unwrap();
        drop(slave);
        let (read, write) = pipe();
        let null = File::open("/dev/null").unwrap();
        drop(read);
        let status =
            wait_with(&signals, pidfd.number(), pid, Some(master), None, &caller(&null, &write)).unwrap();
        assert_eq!(status, ExitStatus::Code(3));
        // The test's own SIGPIPE is gone too: this would kill the process otherwise.
        drop(signals);
    }

    #[test]
    fn a_terminal_that_nobody_has_open_can_be_opened_again() {
        let (master, slave) = pty();
        let path = format!("/dev/pts/{}", tty::number(master.number()).unwrap());
        let script =
            format!("echo one; exec 0<&- 1>&- 2>&-; (echo two > {path}); (echo three > {path}); exit 5");
        let null = File::open("/dev/null").unwrap();
        let (mut read, write) = pipe();
        caller(&null, &write).prepare(&master).unwrap();
        let (pid, pidfd) = on_pty(&script, &slave);
        let signals = block_signals().unwrap();
        drop(slave);
        let status =
            wait_with(&signals, pidfd.number(), pid, Some(master), None, &caller(&null, &write)).unwrap();
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!((status, text.as_str()), (ExitStatus::Code(5), "one\ntwo\nthree\n"));
    }

    #[test]
    fn the_callers_terminal_is_raw_meanwhile_and_restored() {
        let (caller_master, caller_slave) = pty();
        let (master, slave) = pty();
        let size = tty::WindowSize { rows: 33, columns: 101 };
        tty::set_window_size(caller_master.number(), size).unwrap();
        let before = tty::modes(caller_slave.as_raw_fd()).unwrap();
        // It lives until the pty has gone: its end would be a signal too.
        let (_, pidfd) = on_pty("read line", &slave);
        let signals = block_signals().unwrap();
        {
            let caller = caller(&caller_slave, &caller_slave);
            let mut relay = Some(Relay::new(master, &caller).unwrap());
            assert_eq!(tty::modes(caller_slave.as_raw_fd()).unwrap(), before.raw());
            assert_eq!(tty::window_size(slave.as_raw_fd()), Ok(size));

            // The window changes.
            let larger = tty::WindowSize { rows: 50, columns: 120 };
            tty::set_window_size(caller_master.number(), larger).unwrap();
            raise(Signal::SIGWINCH).unwrap();
            let signal = signals.next().unwrap().unwrap();
            handle(&signal, pidfd.number(), &mut relay).unwrap();
            assert_eq!(tty::window_size(slave.as_raw_fd()), Ok(larger));

            // A shell took the terminal in between.
            tty::set_modes(caller_slave.as_raw_fd(), &before).unwrap();
            raise(Signal::SIGCONT).unwrap();
            let signal = signals.next().unwrap().unwrap();
            handle(&signal, pidfd.number(), &mut relay).unwrap();
            assert_eq!(tty::modes(caller_slave.as_raw_fd()).unwrap(), before.raw());
        }
        assert_eq!(tty::modes(caller_slave.as_raw_fd()).unwrap(), before);
        process::wait(pidfd.number()).unwrap();
    }

    #[test]
    fn an_error_restores_the_terminal_too() {
        let (_caller_master, caller_slave) = pty();
        let (master, slave) = pty();
        let before = tty::modes(caller_slave.as_raw_fd()).unwrap();
        let (pid, pidfd) = on_pty("exit 0", &slave);
        let signals = block_signals().unwrap();
        // Somebody else reaps the child: its status is lost.
        process::wait(pidfd.number()).unwrap();
        let error = wait_with(
            &signals,
            pidfd.number(),
            pid,
            Some(master),
            None,
            &caller(&caller_slave, &caller_slave),
        )
        .unwrap_err();
        assert_eq!(error.message, "wait for the container: no child processes");
        assert_eq!(tty::modes(caller_slave.as_raw_fd()).unwrap(), before);
    }

    #[test]
    fn a_terminal_for_output_keeps_its_carriage_returns() {
        let (caller_master, caller_slave) = pty();
        let (master, slave) = pty();
        let (pid, pidfd) = on_pty("echo line", &slave);
        let signals = block_signals().unwrap();
        drop(slave);
        wait_with(&signals, pidfd.number(), pid, Some(master), None, &caller(&caller_slave, &caller_slave))
            .unwrap();
        // It may come in parts.
        let (mut text, mut byte) = (Vec::new(), [0; 1]);
        while text.last() != Some(&b'\n') {
            assert_eq!(fd::read(caller_master.number(), &mut byte), Ok(1));
            text.extend(byte);
        }
        assert_eq!(text, b"line\r\n");
    }

    #[test]
    fn flags_of_the_callers_descriptors_stay() {
        let (master, slave) = pty();
        let (_caller_master, input) = pty();
        let (_read, output) = pipe();
        let flags = |file: &File| OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap());
        let before = (flags(&input), flags(&output));
        let (pid, pidfd) = on_pty("echo", &slave);
        let signals = block_signals().unwrap();
        drop(slave);
        let caller = caller(&input, &output);
        let relay = Relay::new(master, &caller).unwrap();
        assert!(matches!(relay.input, Some(Stream::Own(_))) && matches!(relay.output, Some(Stream::Own(_))));
        assert_eq!((flags(&input), flags(&output)), before);
        drop(relay);
        wait(&signals, pidfd.number(), pid, None, false).unwrap();
    }

    #[test]
    fn a_file_is_written_where_the_caller_left_off() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        let (master, slave) = pty();
        let null = File::open("/dev/null").unwrap();
        caller(&null, &file).prepare(&master).unwrap();
        let (pid, pidfd) = on_pty("echo after", &slave);
        let signals = block_signals().unwrap();
        drop(slave);
        wait_with(&signals, pidfd.number(), pid, Some(master), None, &caller(&null, &file)).unwrap();
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before\nafter\n");
    }

    /// A subreaper reaps whatever ends, other tests' children too: this one runs again in a process of its own.
    #[test]
    fn a_subreaper_reaps_orphans() {
        const ALONE: &str = "CORACLE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "foreground::tests::a_subreaper_reaps_orphans";
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let (mut read, write) = pipe();
        // The inner shell's child outlives it, and has ended before the outer one does.
        let script = "orphan=$(sh -c ': > /dev/null & echo $!'); n=0; \
                      while s=$(cut -d' ' -f3 /proc/$orphan/stat 2> /dev/null) && [ $s != Z ]; do \
                      n=$((n + 1)); [ $n -lt 10000 ] || exit 1; done; echo over";
        let child = Command::new("/bin/sh").args(["-c", script]).stdout(write).spawn().unwrap();
        let pidfd = process::pidfd_open(child.id() as i32).unwrap();
        let signals = block_signals().unwrap();
        let status = wait(&signals, pidfd.number(), child.id() as i32, None, true).unwrap();
        assert_eq!(status, ExitStatus::Code(0));
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "over\n");
        // Nobody is left, dead or alive.
        let left = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        assert_eq!(left, Err(Errno::ECHILD));
    }
}
