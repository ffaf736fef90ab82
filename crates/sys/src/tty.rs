// SPDX-License-Identifier: MIT OR Apache-2.0
//! Terminals: a pty's two ends, size, modes, controlling session (ioctl_tty(2), pty(7)); waiting on both sides.
//!
//! Never reaches a slave by its name: the name belongs to whichever devpts is mounted, the descriptor to this pty.
//! Descriptors come from the caller; ends that are opened here are close-on-exec and control nothing.

use crate::raw::*;
use crate::{Errno, Fd, Result};

/// struct winsize (ioctl_tty(2)); the members in pixels are left at 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// The size of the terminal, or of the pty whose master this is (TIOCGWINSZ). ENOTTY for anything else.
pub fn window_size(fd: i32) -> Result<WindowSize> {
    let mut size = [0u16; 4];
    // SAFETY: TIOCGWINSZ writes one struct winsize, which is four u16; the array is that and writable.
    unsafe { syscall3(libc::SYS_ioctl, fd as usize, libc::TIOCGWINSZ as usize, size.as_mut_ptr() as usize) }?;
    Ok(WindowSize { rows: size[0], columns: size[1] })
}

/// Set the size (TIOCSWINSZ); the foreground process group of the terminal hears SIGWINCH if it changed.
pub fn set_window_size(fd: i32, size: WindowSize) -> Result<()> {
    let size = [size.rows, size.columns, 0, 0];
    // SAFETY: TIOCSWINSZ reads one struct winsize, which is four u16; the array lives across the call.
    unsafe { syscall3(libc::SYS_ioctl, fd as usize, libc::TIOCSWINSZ as usize, size.as_ptr() as usize) }
        .map(drop)
}

/// Let the slave of a new master be opened (TIOCSPTLCK with 0).
pub fn unlock(master: i32) -> Result<()> {
    let locked = 0i32;
    // SAFETY: TIOCSPTLCK reads one int, which lives across the call.
    unsafe {
        syscall3(libc::SYS_ioctl, master as usize, libc::TIOCSPTLCK as usize, &raw const locked as usize)
    }
    .map(drop)
}

/// The number of the pty in its devpts: its slave is `pts/N` there (TIOCGPTN).
pub fn number(master: i32) -> Result<u32> {
    let mut number = 0u32;
    // SAFETY: TIOCGPTN writes one unsigned int; `number` is that and writable.
    unsafe { syscall3(libc::SYS_ioctl, master as usize, libc::TIOCGPTN as usize, &raw mut number as usize) }?;
    Ok(number)
}

/// Open the slave of this very master, by no path (TIOCGPTPEER): nothing mounted over `/dev/pts` can stand in
/// for it. It does not become the controlling terminal.
pub fn open_slave(master: i32) -> Result<Fd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value; no pointers.
    unsafe { syscall3(libc::SYS_ioctl, master as usize, libc::TIOCGPTPEER as usize, flags as usize) }
        .map(|fd| Fd::own(fd as i32))
}

/// Make the terminal the controlling one of the caller's session, which must not have one yet (TIOCSCTTY).
pub fn make_controlling(slave: i32) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number by value (0: do not steal it from another session); no pointers.
    unsafe { syscall3(libc::SYS_ioctl, slave as usize, libc::TIOCSCTTY as usize, 0) }.map(drop)
}

/// struct termios of the kernel's interface (asm-generic/termbits.h): what TCGETS and TCSETS exchange.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    line: u8,
    characters: [u8; 19],
}

impl Modes {
    /// The same without any processing in either direction, byte by byte (cfmakeraw(3)).
    pub fn raw(mut self) -> Modes {
        self.input &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        self.output &= !libc::OPOST;
        self.local &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN);
        self.control = self.control & !(libc::CSIZE | libc::PARENB) | libc::CS8;
        self.characters[libc::VMIN] = 1;
        self.characters[libc::VTIME] = 0;
        self
    }

    /// The same without a carriage return before each newline that a program writes.
    pub fn plain_newlines(mut self) -> Modes {
        self.output &= !libc::ONLCR;
        self
    }

    /// The character that a reader of whole lines takes for the end of input (termios(3), VEOF).
    pub fn end_of_input(&self) -> u8 {
        self.characters[libc::VEOF]
    }

    /// Whole lines; else byte by byte.
    pub fn reads_lines(&self) -> bool {
        self.local & libc::ICANON != 0
    }
}

/// The modes of a terminal; through a master, those of its slave (TCGETS). ENOTTY for anything else.
pub fn modes(fd: i32) -> Result<Modes> {
    let mut modes = Modes { input: 0, output: 0, control: 0, local: 0, line: 0, characters: [0; 19] };
    // SAFETY: TCGETS writes one struct termios, whose layout `Modes` has; it is writable.
    unsafe { syscall3(libc::SYS_ioctl, fd as usize, libc::TCGETS as usize, &raw mut modes as usize) }?;
    Ok(modes)
}

/// Set them at once, without waiting for output and without dropping input (TCSETS).
pub fn set_modes(fd: i32, modes: &Modes) -> Result<()> {
    // SAFETY: TCSETS reads one struct termios, whose layout `Modes` has; it lives across the call.
    unsafe { syscall3(libc::SYS_ioctl, fd as usize, libc::TCSETS as usize, &raw const *modes as usize) }
        .map(drop)
}

/// Reads and writes answer EAGAIN instead of waiting, for everyone who shares this open file (fcntl(2)).
pub fn set_nonblocking(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    let flags = unsafe { syscall2(libc::SYS_fcntl, fd as usize, libc::F_GETFL as usize) }?;
    let flags = flags | libc::O_NONBLOCK as usize;
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_fcntl, fd as usize, libc::F_SETFL as usize, flags) }.map(drop)
}

/// One entry of [`poll`]: struct pollfd. A negative descriptor is passed over.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    pub fd: i32,
    /// POLLIN, POLLOUT.
    pub events: i16,
    /// What came true, with POLLHUP, POLLERR and POLLNVAL even if not asked for.
    pub ready: i16,
}

impl Poll {
    pub fn readable(fd: i32) -> Poll {
        Poll { fd, events: libc::POLLIN, ready: 0 }
    }
    pub fn writable(fd: i32) -> Poll {
        Poll { fd, events: libc::POLLOUT, ready: 0 }
    }
}

/// Wait until something is ready, at most so many milliseconds; `None` waits for ever. The number of entries that
/// are ready: 0 after the time, or when a signal came in between.
pub fn poll(entries: &mut [Poll], milliseconds: Option<i32>) -> Result<usize> {
    let time = milliseconds.unwrap_or(-1) as isize as usize;
    // SAFETY: `Poll` has the layout of struct pollfd; the slice is writable for its length.
    match unsafe { syscall3(libc::SYS_poll, entries.as_mut_ptr() as usize, entries.len(), time) } {
        Err(Errno::INTR) => {
            for entry in entries {
                entry.ready = 0;
            }
            Ok(0)
        }
        // Not the kernel's word: a seccomp filter can answer a call with success.
        Ok(0) if milliseconds.is_none() => Err(Errno::PROTO),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fd;

    fn pty() -> (Fd, Fd) {
        let master = fd::openat(libc::AT_FDCWD, c"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY, 0).unwrap();
        assert_eq!(open_slave(master.number()).unwrap_err(), Errno::IO, "a new pty is locked");
        unlock(master.number()).unwrap();
        let slave = open_slave(master.number()).unwrap();
        (master, slave)
    }

    #[test]
    fn the_slave_belongs_to_the_master() {
        let (master, slave) = pty();
        fd::write_all(slave.number(), b"out").unwrap();
        let mut buffer = [0; 16];
        let length = fd::read(master.number(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"out");

        let name = std::fs::read_link(std::format!("/proc/self/fd/{}", slave.number())).unwrap();
        assert!(name.ends_with(std::format!("{}", number(master.number()).unwrap())), "{name:?}");
    }

    #[test]
    fn both_ends_have_one_size() {
        let (master, slave) = pty();
        let size = WindowSize { rows: 41, columns: 132 };
        set_window_size(master.number(), size).unwrap();
        assert_eq!(window_size(slave.number()), Ok(size));
        assert_eq!(window_size(master.number()), Ok(size));
    }

    #[test]
    fn what_is_no_terminal_is_refused() {
        let (read, _write) = fd::pipe().unwrap();
        assert_eq!(window_size(read.number()), Err(Errno(libc::ENOTTY)));
        assert_eq!(number(read.number()), Err(Errno(libc::ENOTTY)));
        assert_eq!(make_controlling(read.number()), Err(Errno(libc::ENOTTY)));
    }

    #[test]
    fn raw_modes_pass_every_byte() {
        let (master, slave) = pty();
        let before = modes(slave.number()).unwrap();
        assert_eq!((before.end_of_input(), before.reads_lines()), (4, true));
        set_modes(slave.number(), &before.raw()).unwrap();
        assert_eq!(modes(master.number()).unwrap(), before.raw());
        assert_eq!((before.raw().end_of_input(), before.raw().reads_lines()), (4, false));

        // In the modes that a new pty has, this would come back as an echo and wait for the end of a line.
        fd::write_all(master.number(), b"\x03\r").unwrap();
        fd::write_all(slave.number(), b"\n").unwrap();
        let mut buffer = [0; 16];
        let length = fd::read(slave.number(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"\x03\r");
        let length = fd::read(master.number(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"\n");
    }

    #[test]
    fn newlines_get_a_carriage_return_unless_told() {
        let (master, slave) = pty();
        // It may come in parts.
        let line = || {
            let (mut text, mut byte) = (std::vec::Vec::new(), [0; 1]);
            while text.last() != Some(&b'\n') {
                assert_eq!(fd::read(master.number(), &mut byte), Ok(1));
                text.push(byte[0]);
            }
            text
        };
        fd::write_all(slave.number(), b"a\n").unwrap();
        assert_eq!(line(), b"a\r\n");
        set_modes(master.number(), &modes(master.number()).unwrap().plain_newlines()).unwrap();
        fd::write_all(slave.number(), b"a\n").unwrap();
        assert_eq!(line(), b"a\n");
    }

    #[test]
    fn poll_tells_which_is_ready() {
        let (read, write) = fd::pipe().unwrap();
        let mut entries = [Poll::readable(read.number()), Poll::writable(write.number()), Poll::readable(-1)];
        assert_eq!(poll(&mut entries[..1], Some(0)), Ok(0));
        assert_eq!(poll(&mut entries, None), Ok(1));
        assert_eq!(entries.map(|entry| entry.ready), [0, libc::POLLOUT, 0]);
        drop(write);
        entries[1].fd = -1;
        assert_eq!(poll(&mut entries, None), Ok(1));
        assert_eq!(entries[0].ready, libc::POLLHUP);
        set_nonblocking(read.number()).unwrap();
        assert_eq!(fd::read(read.number(), &mut [0; 4]), Ok(0));
    }

    #[test]
    fn an_empty_pipe_does_not_block_when_told() {
        let (read, _write) = fd::pipe().unwrap();
        set_nonblocking(read.number()).unwrap();
        assert_eq!(fd::read(read.number(), &mut [0; 4]), Err(Errno::AGAIN));
    }
}
