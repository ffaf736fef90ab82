// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container's cgroup between the plan and the crate that makes it: by whom, when, for whom, and its removal.
//!
//! Writes no file of a cgroup itself. From the plan's place to a [`Location`] for the record, and from there to an
//! open [`Cgroup`] that create and delete work with.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use coracle_cgroup::{Cgroup, Location, Ownership, Systemd};
use coracle_plan::{CgroupPlace, CgroupPlan, SystemdUnit};
use nix::errno::Errno;

use crate::config::Decided;
use crate::error::{Code, Error, Result};
use crate::status;

/// How long a cgroup may take to become empty once everything in it was killed.
pub(crate) const EMPTY_DEADLINE: Duration = Duration::from_secs(10);

/// What removal gets at least, when the wait has taken it all.
const REMOVAL: Duration = Duration::from_secs(1);

/// Who makes the container's cgroup.
pub(crate) enum Driver<'a> {
    /// We do, with its limits, before the process exists: it is born there.
    Cgroupfs,
    /// systemd does, around the process that waits for it in our own cgroup.
    Systemd { unit: &'a SystemdUnit, manager: Box<Systemd>, root: String },
}

/// Where the container's cgroup will be, and who makes it.
pub(crate) struct Placed<'a> {
    pub driver: Driver<'a>,
    pub location: Location,
}

impl<'a> Placed<'a> {
    /// Nothing is made.
    pub(crate) fn decide(decided: &'a Decided) -> Result<Placed<'a>> {
        let driver = Driver::of(&decided.plan.cgroup)?;
        let mut location = driver.locate(decided)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        location.mark = Some(format!("{} {} {}", decided.plan.id, std::process::id(), now.as_nanos()));
        Ok(Placed { driver, location })
    }
}

impl<'a> Driver<'a> {
    fn of(plan: &'a CgroupPlan) -> Result<Driver<'a>> {
        let CgroupPlace::Unit(unit) = &plan.place else { return Ok(Driver::Cgroupfs) };
        let mut manager = Systemd::connect(unit.user).map_err(error)?;
        let root = manager.control_group().map_err(error)?;
        Ok(Driver::Systemd { unit, manager: Box::new(manager), root })
    }

    fn locate(&self, decided: &Decided) -> Result<Location> {
        let manager = match self {
            Driver::Cgroupfs => "",
            Driver::Systemd { root, .. } => root,
        };
        let plan = &decided.plan;
        coracle_cgroup::locate(&decided.host.cgroup, &plan.cgroup.place, &plan.id, manager).map_err(error)
    }

    /// The unit with the process in it. Until this has succeeded no unit of that name is ours.
    pub(crate) fn start(&mut self, plan: &CgroupPlan, pid: i32) -> Result<()> {
        let Driver::Systemd { unit, manager, root } = self else { return Ok(()) };
        let given = manager.start(unit, &plan.resources, pid).map_err(error)?;
        let asked = Path::new("/").join(root.trim_start_matches('/')).join(coracle_cgroup::path_of(unit));
        if Path::new(&given) == asked {
            return Ok(());
        }
        // It ends with its process, which is killed now.
        let text = format!("systemd has put {} at {given}, and {} was asked for", unit.name, asked.display());
        Err(Error::new(Code::Cgroup, text))
    }
}

/// Hands the cgroup to the owner that the plan names. A caller who may not give files away keeps them: a warning.
pub(crate) fn delegate(cgroup: &Cgroup, decided: &Decided) -> Option<String> {
    let owner = decided.plan.cgroup.owner.filter(|owner| *owner != decided.host.euid)?;
    let refused = cgroup.delegate(owner).err()?;
    Some(format!("the container cannot manage its cgroup: {refused}"))
}

/// The process into a sub-cgroup, when that was asked for. Only once it has made its view of the cgroup tree.
pub(crate) fn move_to_leaf(cgroup: &Cgroup, decided: &Decided, pid: i32) -> Result<()> {
    let Some(name) = &decided.plan.cgroup.leaf else { return Ok(()) };
    let owner = decided.plan.cgroup.owner.filter(|owner| *owner != decided.host.euid);
    cgroup.move_to_leaf(name, pid, owner).map_err(error)
}

/// Kill what is left in a cgroup and remove it, with its unit. A missing one is a success. What is somebody else's by now
/// is left alone: the warning says so.
pub(crate) fn remove(cgroup: &Cgroup) -> Result<Option<String>> {
    remove_until(cgroup, Instant::now() + EMPTY_DEADLINE)
}

/// The same with the patience that is left.
pub(crate) fn remove_until(cgroup: &Cgroup, end: Instant) -> Result<Option<String>> {
    let unit = cgroup.location().unit.as_ref();
    let left = || end.saturating_duration_since(Instant::now());
    let ownership = cgroup.ownership().map_err(error)?;
    match ownership {
        Ownership::Ours => {
            if cgroup.populated().map_err(error)? {
                cgroup.kill().map_err(error)?;
                cgroup.thaw().map_err(error)?;
                cgroup
                    .wait_empty(left())
                    .map_err(|busy| still_there(cgroup).unwrap_or_else(|| error(busy)))?;
            } else if !cgroup.created() {
                // One that stays must take the next container's processes, also when this one was paused at its end.
                cgroup.thaw().map_err(error)?;
            }
            // A manager that is gone, as that of a user who has logged out, has no units either.
            if let Some(unit) = unit
                && let Ok(mut manager) = Systemd::connect(unit.user)
            {
                manager.stop(&unit.name).map_err(error)?;
            }
        }
        // A unit without its cgroup is none of ours any more.
        Ownership::Gone => {}
        // The creator died before it had the cgroup for itself, and its init died with it: whoever is in there was there
        // before. An empty scope systemd takes away by itself.
        Ownership::Unmarked => match cgroup.wait_empty(left()) {
            Ok(()) if unit.is_some() => return Ok(None),
            Ok(()) => {}
            Err(why) => return Ok(Some(format!("cgroup left alone: {why}"))),
        },
        Ownership::Others => {
            let path = cgroup.directories().first().map(|own| own.path.display().to_string());
            let path = path.unwrap_or_default();
            return Ok(Some(format!("cgroup left alone: {path} is another container's by now")));
        }
    }
    match cgroup.remove(Duration::ZERO) {
        Err(coracle_cgroup::Error::Busy { .. }) => {
            if ownership == Ownership::Ours {
                cgroup.kill_strays().map_err(error)?;
            }
            cgroup.remove(left().max(REMOVAL))
        }
        other => other,
    }
    .map_err(error)?;
    let unmounted: Vec<String> = cgroup.unmounted().iter().map(|path| path.display().to_string()).collect();
    Ok((!unmounted.is_empty())
        .then(|| format!("cgroup left alone, its hierarchy is not mounted: {}", unmounted.join(", "))))
}

/// What keeps a killed container from ending, in words. `None` when all in it have ended.
pub(crate) fn still_there(cgroup: &Cgroup) -> Option<Error> {
    // Words for an error: what cannot be read is left out.
    stuck(&cgroup.pids().unwrap_or_default())
}

/// The same of these processes: one that the kernel does not let die, with its state and where it sleeps, before others,
/// which may only wait for it.
pub(crate) fn stuck(pids: &[i32]) -> Option<Error> {
    let read = |id: i32, file: &str| {
        let text = coracle_sys::fd::read_file(format!("/proc/{id}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(text.trim_ascii_end()).into_owned()
    };
    let held = |state: &char| matches!(state, 'D' | 't');
    // The thread that is held, when the first one has ended.
    let last_thread = |pid: i32| {
        let ids = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.filter_map(|entry| {
            let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let (state, _) = status::stat(id).ok()??;
            (!matches!(state, 'Z' | 'X')).then_some((id, state))
        });
        ids.max_by_key(|(_, state)| held(state))
    };
    let living: Vec<(i32, (i32, char))> =
        pids.iter().filter_map(|pid| Some((*pid, last_thread(*pid)?))).collect();
    let (pid, (thread, state)) = *living.iter().find(|(_, (_, state))| held(state)).or(living.first())?;
    // proc_pid_wchan(5): `0` when it runs, or when the caller may not know.
    let place = Some(read(thread, "wchan")).filter(|place| !matches!(place.as_str(), "" | "0"));
    let text = format!(
        "process {pid} ({}){} not end: it is in state {state}{}",
        read(pid, "comm").escape_debug(),
        match living.len() {
            1 => " does".to_string(),
            2 => " and another one do".to_string(),
            all => format!(" and {} others do", all - 1),
        },
        place.as_ref().map_or_else(String::new, |place| format!(" in {place}")),
    );
    let error = Error::new(Code::Busy, text);
    let status = read(thread, "status");
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:\t"));
    Some(match (state, place, tracer) {
        ('t', _, Some(tracer)) => error.hint(format!("process {tracer} traces it")),
        (_, Some(place), _) if place.contains("refrigerator") => {
            error.hint("a freezer above the container's holds it")
        }
        ('D', ..) => error
            .hint("the kernel lets it die when what it waits for comes; the container can be deleted then"),
        _ => error,
    })
}

pub(crate) fn error(error: coracle_cgroup::Error) -> Error {
    let words = Error::new(Code::Cgroup, error.to_string());
    match error {
        // To root nobody has to give it.
        coracle_cgroup::Error::Controller { .. } if !nix::unistd::geteuid().is_root() => words.hint(
            "on cgroup v2 root can delegate it: `systemctl edit user@.service`, [Service] Delegate=cpu cpuset io memory pids; \
             then log in again",
        ),
        coracle_cgroup::Error::Io { errno: Errno::EBUSY, ref what, .. } if what.starts_with("enable ") => words.hint(
            "processes and limits below them exclude each other in cgroup v2: `mkdir CGROUP/shell && echo $$ \
             >CGROUP/shell/cgroup.procs`, as whoever owns it, makes room",
        ),
        _ => words,
    }
}

/// The error of a verb that can do nothing without a cgroup.
pub(crate) fn lacking(what: &str) -> Error {
    Error::new(Code::Cgroup, format!("{what}: the container has no cgroup"))
        .hint("`oar --debug run` says why it has none when it makes one without")
}
