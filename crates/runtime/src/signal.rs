// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals by name and by number (signal(7)).

use crate::error::{Code, Error, Result};

/// A signal number from 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

const NAMES: [(&str, i32); 37] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

impl Signal {
    pub const KILL: Signal = Signal(libc::SIGKILL);
    pub const TERM: Signal = Signal(libc::SIGTERM);

    pub fn number(self) -> i32 {
        self.0
    }

    /// A number from 1 to 64, or a name with or without `SIG`, in any case; also `RTMIN+n` and `RTMAX-n`.
    /// Errors: [`Code::Invalid`].
    pub fn parse(text: &str) -> Result<Signal> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let offset = |base: i32, text: &str, sign: i32| {
            text.parse::<u8>().ok().map(|n| base + sign * n as i32).filter(|n| (34..=64).contains(n))
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN+") {
            offset(34, rest, 1)
        } else if let Some(rest) = name.strip_prefix("RTMAX-") {
            offset(64, rest, -1)
        } else if let Ok(number) = text.parse::<i32>() {
            Some(number).filter(|n| (1..=64).contains(n))
        } else {
            NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
        };
        let shown: String = text.escape_debug().take(80).collect();
        number.map(Signal).ok_or_else(|| Error::new(Code::Invalid, format!("unknown signal \"{shown}\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b119_signals() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("Usr1", 10),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
            ("64", 64),
        ] {
            assert_eq!(Signal::parse(text).unwrap().number(), number, "{text}");
        }
        for bad in ["", "0", "-1", "65", "999999999999", "SIGFOO", "RTMIN+99", "RTMAX-31", "+9x"] {
            assert!(Signal::parse(bad).is_err(), "{bad}");
        }
    }
}
