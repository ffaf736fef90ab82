// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a profile says.
//!
//! Owns the input types and the spec's names for their values. Decides nothing about their combination. Comes from
//! the planner, which maps `linux.seccomp` to it; goes to check.rs and compile.rs.

use std::borrow::Cow;

use crate::Architecture;

/// `linux.seccomp`, without what the loader alone needs (the listener's path and metadata).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile<'a> {
    /// For calls that no rule decides.
    pub default: Action,
    /// Besides the native one, which is always part of a filter.
    pub architectures: Vec<Architecture>,
    /// In the order of `syscalls`.
    pub rules: Vec<Rule<'a>>,
    pub flags: Flags,
    /// A name that no architecture has is a problem, rather than one of [`crate::Filter::unknown`].
    pub strict: bool,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    /// The call returns this errno, at most 4095.
    Errno(u16),
    KillProcess,
    /// `SCMP_ACT_KILL` too.
    KillThread,
    Trap,
    /// A tracer is told, with this message. Without one the call fails with ENOSYS.
    Trace(u16),
    Log,
    /// The listener decides.
    Notify,
}

/// One entry of `syscalls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Borrowed where a document has them: a profile has hundreds.
    pub names: Cow<'a, [String]>,
    pub action: Action,
    pub conditions: Vec<Condition>,
}

/// One entry of `args`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// 0 to 5.
    pub index: u8,
    pub operator: Operator,
    /// What the argument is compared with; the mask of `MaskedEqual`.
    pub value: u64,
    /// What the masked argument is compared with; unused by the other operators.
    pub value_two: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    MaskedEqual,
}

/// `flags`. A config without that field means [`Flags::ABSENT`], as in runc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub tsync: bool,
    pub log: bool,
    pub spec_allow: bool,
    pub wait_killable_recv: bool,
}

/// One thing that is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Within `linux.seccomp`: `syscalls[3].args[0].index`. Empty for the whole.
    pub place: String,
    /// The value and the rule, lower-case, one line.
    pub words: String,
}

const ACTIONS: [(&str, Action); 9] = [
    ("SCMP_ACT_KILL", Action::KillThread),
    ("SCMP_ACT_KILL_PROCESS", Action::KillProcess),
    ("SCMP_ACT_KILL_THREAD", Action::KillThread),
    ("SCMP_ACT_TRAP", Action::Trap),
    ("SCMP_ACT_ERRNO", Action::Errno(EPERM)),
    ("SCMP_ACT_TRACE", Action::Trace(EPERM)),
    ("SCMP_ACT_ALLOW", Action::Allow),
    ("SCMP_ACT_LOG", Action::Log),
    ("SCMP_ACT_NOTIFY", Action::Notify),
];

const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_NE", Operator::NotEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_LE", Operator::LessOrEqual),
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterOrEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual),
];

const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The spec's errno where an action that returns one names none.
const EPERM: u16 = 1;
pub(crate) const ENOSYS: u16 = 38;
/// The kernel's MAX_ERRNO: it turns a larger one into this.
pub(crate) const MAX_ERRNO: u16 = 4095;

/// The names of all actions.
pub fn actions() -> Vec<&'static str> {
    ACTIONS.iter().map(|(name, _)| *name).collect()
}

/// The names of all operators.
pub fn operators() -> Vec<&'static str> {
    OPERATORS.iter().map(|(name, _)| *name).collect()
}

/// The names of all flags. Which of them the kernel takes is for the loader to find out.
pub fn flags() -> Vec<&'static str> {
    FLAGS.to_vec()
}

impl Action {
    /// From the spec's name and `errnoRet` or `defaultErrnoRet`. EPERM where none is given.
    pub fn from_name(name: &str, errno: Option<u32>) -> Result<Self, String> {
        let action = ACTIONS.iter().find(|(known, _)| *known == name).map(|(_, action)| *action);
        let action = action.ok_or_else(|| format!("{name:?} is not an action"))?;
        let Some(errno) = errno else { return Ok(action) };
        match action {
            Action::Errno(_) => match u16::try_from(errno) {
                Ok(errno) if errno <= MAX_ERRNO => Ok(Action::Errno(errno)),
                _ => Err(format!("errno {errno} is more than {MAX_ERRNO}, the kernel's largest")),
            },
            Action::Trace(_) => u16::try_from(errno)
                .map(Action::Trace)
                .map_err(|_| format!("message {errno} to the tracer is more than {}", u16::MAX)),
            _ => Err(format!("{name} returns no errno, and {errno} is given")),
        }
    }

    /// The spec's name.
    pub fn name(self) -> &'static str {
        match self {
            Action::Allow => "SCMP_ACT_ALLOW",
            Action::Errno(_) => "SCMP_ACT_ERRNO",
            Action::KillProcess => "SCMP_ACT_KILL_PROCESS",
            Action::KillThread => "SCMP_ACT_KILL_THREAD",
            Action::Trap => "SCMP_ACT_TRAP",
            Action::Trace(_) => "SCMP_ACT_TRACE",
            Action::Log => "SCMP_ACT_LOG",
            Action::Notify => "SCMP_ACT_NOTIFY",
        }
    }

    /// What a filter returns for it (`SECCOMP_RET_…` of linux/seccomp.h).
    pub fn value(self) -> u32 {
        match self {
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0x0000_0000,
            Action::Trap => 0x0003_0000,
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::Notify => 0x7fc0_0000,
            Action::Trace(message) => 0x7ff0_0000 | u32::from(message),
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }
}

impl Operator {
    /// From the spec's name.
    pub fn from_name(name: &str) -> Option<Self> {
        OPERATORS.iter().find(|(known, _)| *known == name).map(|(_, operator)| *operator)
    }
}

impl Flags {
    /// What a config without `flags` means, in runc and crun.
    pub const ABSENT: Self = Self { tsync: false, log: false, spec_allow: true, wait_killable_recv: false };

    /// Sets the flag of the spec's name; false if there is none of it.
    #[must_use]
    pub fn set(&mut self, name: &str) -> bool {
        match name {
            "SECCOMP_FILTER_FLAG_TSYNC" => self.tsync = true,
            "SECCOMP_FILTER_FLAG_LOG" => self.log = true,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => self.spec_allow = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => self.wait_killable_recv = true,
            _ => return false,
        }
        true
    }
}
