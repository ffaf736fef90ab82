// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one error type of the library: a stable code for programs, one line for people, and sometimes a hint.
//!
//! Words that engines match on (`does not exist`, `container not running`, `permission denied` …) are kept in the
//! line: research of their sources is why error numbers are spelled as Go spells them, in lower case.

use std::fmt;

use nix::errno::Errno;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb failed. `Display` is the line without the verb and the container: the caller knows those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// What to do about it, where the error number alone misleads.
    pub hint: Option<String>,
}

/// Stable names, `E_…` in the JSON log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The config, or an argument, breaks a rule.
    Invalid,
    NotFound,
    Exists,
    /// The container is in a state in which the verb is not legal.
    State,
    /// Another command holds the container's lock, or a container has the network, address or port.
    Busy,
    /// A call of the kernel failed.
    System,
    /// A step of init failed.
    Step,
    /// The user's command could not be executed.
    Execute,
    Hook,
    Cgroup,
    /// A link, an address, a rule, or a claim of them.
    Network,
    /// The kernel, or this version, cannot do what was asked.
    Unsupported,
    /// A signal asked the caller to end ([`crate::Runtime::interruptible`]).
    Interrupted,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Code::Invalid => "E_INVALID",
            Code::NotFound => "E_NOT_FOUND",
            Code::Exists => "E_EXISTS",
            Code::State => "E_STATE",
            Code::Busy => "E_BUSY",
            Code::System => "E_SYSTEM",
            Code::Step => "E_STEP",
            Code::Execute => "E_EXECUTE",
            Code::Hook => "E_HOOK",
            Code::Cgroup => "E_CGROUP",
            Code::Network => "E_NETWORK",
            Code::Unsupported => "E_UNSUPPORTED",
            Code::Interrupted => "E_INTERRUPTED",
        }
    }
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), hint: None }
    }

    /// `what: the error number in words`.
    pub fn system(what: impl fmt::Display, errno: Errno) -> Error {
        Error::new(Code::System, format!("{what}: {}", words(errno)))
    }

    /// The same for an error of the standard library.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(number) => {
                Error::new(Code::System, format!("{what}: {}", coracle_sys::Errno(number).words()))
            }
            None => Error::new(Code::System, format!("{what}: {error}")),
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Put what was being done in front.
    pub fn during(mut self, what: impl fmt::Display) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The error number in lower-case words: `no such file or directory`.
pub fn words(errno: Errno) -> &'static str {
    coracle_sys::Errno(errno as i32).words()
}
