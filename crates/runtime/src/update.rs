// SPDX-License-Identifier: MIT OR Apache-2.0
//! update: other limits for a container that exists.
//!
//! All of it or nothing, in an order that makes it so: what may be refused comes first, what cannot be taken back last.
//! Wishes come from the caller; the copy of the config in the state directory says afterwards what holds.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use coracle_cgroup::{Cgroup, Changed, Systemd};
use coracle_plan::{Given, Resources, Rlimit, Update, Violation};
use coracle_sys::process;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxResources, PosixRlimit};
use serde_json::Value;

use crate::create::signal;
use crate::error::{Code, Error, Result};
use crate::pause::own;
use crate::probe::{self, Needs};
use crate::record::{Directory, Process, Rdt};
use crate::status::{self, Status};
use crate::{Id, Runtime, cgroup, members, rdt};

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateOptions {
    /// `linux.resources` of the specification (config-linux.md).
    pub resources: LinuxResources,
    /// Of the container's first process; its children have what they have.
    pub rlimits: Vec<PosixRlimit>,
    /// Of the container's first process, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Lines of the schemata of the container's own resctrl group.
    pub l3_cache_schema: Option<String>,
    pub mem_bw_schema: Option<String>,
}

/// `linux.resources` as JSON, read as leniently as a config is. Warnings come with it. Errors: [`Code::Invalid`].
pub fn parse_resources(document: &[u8]) -> Result<(LinuxResources, Vec<String>)> {
    let (resources, warnings) = coracle_plan::parse_resources(document).map_err(|all| refused(&all))?;
    Ok((resources, warnings.iter().map(ToString::to_string).collect()))
}

/// The container's first process, held.
struct Subject {
    process: Process,
    pidfd: OwnedFd,
}

/// How to go back, newest last.
#[derive(Default)]
struct Undo {
    limits: Vec<Rlimit>,
    schemata: Option<String>,
    oom_score_adj: Option<String>,
}

impl Runtime {
    /// Change the limits of a created, running or paused container. All of it is done, or nothing. No process is killed
    /// for want of memory: a limit below what is in use, and cannot be reclaimed, is refused.
    ///
    /// What comes back are warnings: members that this host cannot express.
    ///
    /// Errors: [`Code::NotFound`]; [`Code::State`] with `container not running`; [`Code::Invalid`]; [`Code::Cgroup`] and
    /// [`Code::System`] when the kernel or systemd refuses.
    pub fn update(&self, id: &Id, options: &UpdateOptions) -> Result<Vec<String>> {
        let directory = Directory::open(&self.root, id)?.lock()?;
        let record = directory.read()?;
        let (status, pidfd) = status::derive(&directory, record.as_ref())?;
        let not_running = |why: &str| Error::new(Code::State, format!("container not running{why}"));
        let (record, pidfd) = match (status, record, pidfd) {
            (Status::Creating, ..) => return Err(not_running(": it is being created")),
            (_, Some(record), Some(pidfd)) => (record, pidfd),
            _ => return Err(not_running("")),
        };
        let subject = Subject { process: record.process.ok_or_else(|| not_running(""))?, pidfd };
        let document = directory.read_config()?.ok_or_else(|| {
            Error::new(Code::Invalid, "the container's copy of its config is missing".to_string())
        })?;
        let cpu = options.resources.cpu().as_ref();
        let needs = Needs {
            cpus: cpu.is_some_and(|cpu| cpu.cpus().is_some()),
            numa: cpu.is_some_and(|cpu| cpu.mems().is_some()),
            ..Needs::default()
        };
        let given = Given {
            resources: options.resources.clone(),
            rlimits: options.rlimits.clone(),
            oom_score_adj: options.oom_score_adj,
            l3_cache_schema: options.l3_cache_schema.clone(),
            mem_bw_schema: options.mem_bw_schema.clone(),
        };
        let update =
            coracle_plan::update(&document, &given, &probe::host(&needs)?).map_err(|all| refused(&all))?;
        let document = serde_json::to_vec(&update.document)
            .map_err(|error| Error::new(Code::System, format!("encode the config: {error}")))?;

        // Nothing is changed until here.
        let group = if members::without_cgroup(&record) {
            if needs_cgroup(&update.resources) {
                return Err(cgroup::lacking("limits cannot be changed"));
            }
            record.cgroup.open()
        } else {
            own(record.cgroup.open())?
        };
        let before = subject.rlimits(&update.rlimits)?;
        directory.draft_config(&document)?;
        let changed = group.update(&update.resources).map_err(cgroup::error)?;
        let mut undo = Undo::default();
        let rest = || -> Result<()> {
            if !update.schemata.is_empty() {
                undo.schemata = Some(schemata(record.intel_rdt.as_ref(), &update.schemata)?);
            }
            if let Some(score) = update.oom_score_adj {
                undo.oom_score_adj = Some(subject.oom_score_adj(&score.to_string())?);
            }
            for (limit, before) in update.rlimits.iter().zip(before) {
                subject.rlimit(limit)?;
                undo.limits.push(before);
            }
            if let Some(unit) = &record.cgroup.unit {
                let whole = whole(&update);
                let mut manager = Systemd::connect(unit.user).map_err(cgroup::error)?;
                manager.set_limits(&unit.name, &whole).map_err(cgroup::error)?;
                // What systemd has written is coarser.
                group.update(&whole).map_err(cgroup::error)?;
            }
            // The draft is there: nothing is left that may fail but a rename.
            directory.commit_config()
        };
        match rest() {
            Ok(()) => Ok(update.warnings.iter().map(ToString::to_string).collect()),
            Err(error) => Err(undo.all(error, &subject, record.intel_rdt.as_ref(), &group, changed)),
        }
    }
}

/// Is there something for the cgroup, beside what is no limit?
fn needs_cgroup(resources: &Resources) -> bool {
    let nothing = Resources {
        devices_optional: resources.devices_optional,
        check_before_update: resources.check_before_update,
        ..Resources::default()
    };
    *resources != nothing
}

/// What systemd has to be told. It writes all limits of a controller when one of them changes, and takes some of the
/// document's members only in pairs.
fn whole(update: &Update) -> Resources {
    let limits = update.document.pointer("/linux/resources");
    let number = |place: &str| limits.and_then(|limits| limits.pointer(place));
    let signed = |place: &str| number(place).and_then(Value::as_i64).filter(|value| *value != 0);
    let unsigned = |place: &str| number(place).and_then(Value::as_u64).filter(|value| *value != 0);
    let mut whole = update.resources.clone();
    whole.check_before_update = false;
    whole.cpu_quota = whole.cpu_quota.or(signed("/cpu/quota"));
    whole.cpu_period = whole.cpu_period.or(unsigned("/cpu/period"));
    if whole.memory_swap.is_some() {
        whole.memory_limit = whole.memory_limit.or(signed("/memory/limit"));
    }
    whole
}

impl Undo {
    fn all(
        self,
        mut error: Error,
        subject: &Subject,
        group_of_rdt: Option<&Rdt>,
        group: &Cgroup,
        changed: Changed,
    ) -> Error {
        let mut left = Vec::new();
        for limit in self.limits.iter().rev() {
            left.extend(subject.rlimit(limit).err());
        }
        if let Some(score) = &self.oom_score_adj {
            left.extend(subject.oom_score_adj(score).err());
        }
        if let Some(lines) = &self.schemata {
            let lines: Vec<String> = lines.lines().map(|line| line.trim().to_string()).collect();
            left.extend(schemata(group_of_rdt, &lines).err());
        }
        left.extend(group.undo(changed).into_iter().map(cgroup::error));
        for again in left {
            error.message = format!("{}; and not all is back: {again}", error.message);
        }
        error
    }
}

impl Subject {
    /// A number that is still there means the process that is held.
    fn lives(&self) -> Result<()> {
        match signal(self.pidfd.as_fd(), 0)? {
            true => Ok(()),
            false => Err(Error::new(Code::State, "container not running: its process has ended meanwhile")),
        }
    }

    /// Limits as they are now, in the order of those that are wanted. Refuses what the kernel would refuse later.
    fn rlimits(&self, wanted: &[Rlimit]) -> Result<Vec<Rlimit>> {
        let mut before = Vec::new();
        for limit in wanted {
            let (soft, hard) = process::get_prlimit(self.process.pid, limit.resource)
                .map_err(|errno| failed(&format!("read {}", limit.name), errno))?;
            before.push(Rlimit { soft, hard, ..limit.clone() });
        }
        if wanted.iter().zip(&before).any(|(wanted, now)| wanted.hard > now.hard) {
            let host = probe::host(&Needs::default())?;
            let above = wanted.iter().zip(&before).find(|(wanted, now)| wanted.hard > now.hard);
            if let Some((limit, now)) = above.filter(|_| !host.raise_rlimits) {
                let text = format!(
                    "raising {} above {} without CAP_SYS_RESOURCE: operation not permitted",
                    limit.name, now.hard
                );
                return Err(Error::new(Code::Invalid, text));
            }
        }
        self.lives().map(|()| before)
    }

    fn rlimit(&self, limit: &Rlimit) -> Result<()> {
        self.lives()?;
        process::prlimit(self.process.pid, limit.resource, limit.soft, limit.hard)
            .map_err(|errno| failed(&format!("set {}", limit.name), errno))
    }

    /// Sets it, and returns what it was.
    fn oom_score_adj(&self, score: &str) -> Result<String> {
        let path = format!("/proc/{}/oom_score_adj", self.process.pid);
        let failed = |error: std::io::Error| {
            let wrong = Error::io(format!("set oom score adjustment to {score}"), &error);
            match error.raw_os_error() {
                Some(libc::EACCES) => wrong.hint("lowering it below what it was needs CAP_SYS_RESOURCE"),
                _ => wrong,
            }
        };
        let mut file = File::options().read(true).write(true).open(&path).map_err(failed)?;
        // The file is of the process that it was opened for.
        self.lives()?;
        let mut before = String::new();
        file.read_to_string(&mut before).map_err(failed)?;
        file.write_all(score.as_bytes()).map_err(failed)?;
        Ok(before.trim().to_string())
    }
}

fn failed(what: &str, errno: coracle_sys::Errno) -> Error {
    Error::system(format!("{what} of the container's process"), Errno::from_raw(errno.0))
}

/// Writes lines of the schemata of the container's own group; returns what they were.
fn schemata(group: Option<&Rdt>, lines: &[String]) -> Result<String> {
    match group {
        Some(Rdt { resctrl, plan, applied }) => rdt::update(plan, resctrl, *applied, lines),
        None => {
            let text = "intel rdt: the container has no group: its config has no linux.intelRdt";
            Err(Error::new(Code::Invalid, text))
        }
    }
}

/// All that is wrong, in one line.
fn refused(violations: &[Violation]) -> Error {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    Error::new(Code::Invalid, lines.join("; "))
}
