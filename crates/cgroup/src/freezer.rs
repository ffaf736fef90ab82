// SPDX-License-Identifier: MIT OR Apache-2.0
//! The freezer: all processes of a container stopped where they are, and let go again.
//!
//! Never freezes the caller, and never leaves a container half frozen: what does not freeze in time is thawed. cgroup2's
//! own freezer wherever there is cgroup2, also on hybrid hosts, because it tells when it has done and lets SIGKILL
//! through; the v1 controller on hosts with v1 alone. Kernel: cgroup-v2.rst "cgroup.freeze",
//! cgroup-v1/freezer-subsystem.rst.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::cgroup::{Cgroup, Pause, Tree};
use crate::error::Error;
use crate::tree::{self, Visit};

/// So many looks at a v1 freezer, and then everything may run for a moment: what held it up may be over then.
const LOOKS: u32 = 25;

/// How often to look whether somebody has thawed what is still being frozen: cgroup2 tells that to nobody.
const GLANCE: Duration = Duration::from_millis(100);

/// How a freeze came out.
enum Outcome {
    Frozen,
    /// Somebody else wants it to run: a kill, or whoever has the cgroup.
    Thawed,
    Late,
}

impl Cgroup {
    /// Freezes all processes in it and its sub-cgroups, and waits until all of them are, or none is left. Errors:
    /// [`Error::Inside`]; [`Error::Thawed`] by somebody else meanwhile; [`Error::Unfrozen`] after `deadline`.
    pub fn freeze(&self, deadline: Duration) -> Result<(), Error> {
        let freezer = self.unified().or(self.v1_freezer());
        let Some(tree) = freezer else {
            return Err(Error::Controller {
                controller: "freezer".to_string(),
                limit: "freezing".to_string(),
                directory: "/sys/fs/cgroup".into(),
            });
        };
        tree.existing()?;
        let path = || tree.directory.path.clone();
        if i32::try_from(std::process::id())
            .is_ok_and(|own| tree.pids().is_ok_and(|pids| pids.contains(&own)))
        {
            return Err(Error::Inside { path: path() });
        }
        let end = Instant::now() + deadline;
        let frozen = if tree.unified() { freeze_v2(tree, end) } else { freeze_v1(tree, end) };
        let error = match frozen {
            Ok(Outcome::Frozen) => return Ok(()),
            Ok(Outcome::Thawed) => return Err(Error::Thawed { path: path() }),
            Ok(Outcome::Late) => Error::Unfrozen { path: path(), pids: still_running(tree) },
            Err(error) => error,
        };
        // Only what was done here is undone: a sub-cgroup may be frozen on its own.
        let (file, value) = if tree.unified() { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        tree.write_if_there(file, value)?;
        Err(error)
    }

    /// Thaws it, and waits until it is. Errors: [`Error::Frozen`] when one above it stays frozen.
    pub fn resume(&self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        self.thaw()?;
        if let Some(tree) = self.unified()
            && !tree.wait_event(end, &|events| tree::keyed(events, "frozen") != Some(1))?
        {
            return Err(Error::Frozen { path: tree.directory.path.clone() });
        }
        match self.v1_freezer() {
            Some(tree) if is_frozen_v1(tree)? => Err(Error::Frozen { path: tree.directory.path.clone() }),
            _ => Ok(()),
        }
    }

    /// It, or one above it, is frozen or being frozen, by whichever freezer there is.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        if let Some(tree) = self.unified() {
            let asked = tree.read_if_there("cgroup.freeze")?;
            if asked.is_some_and(|text| text.trim() == "1") {
                return Ok(true);
            }
            let events = tree.read_if_there("cgroup.events")?.unwrap_or_default();
            if tree::keyed(&events, "frozen") == Some(1) {
                return Ok(true);
            }
        }
        self.v1_freezer().map_or(Ok(false), is_frozen_v1)
    }

    /// Lets a frozen container run again. Does not wait: see [`Cgroup::resume`].
    pub fn thaw(&self) -> Result<(), Error> {
        if let Some(tree) = self.unified() {
            tree.write_if_there("cgroup.freeze", "0")?;
        }
        self.thaw_v1()
    }

    /// The sub-cgroups too: a container that may write to the freezer can have frozen them on their own.
    pub(crate) fn thaw_v1(&self) -> Result<(), Error> {
        let Some(tree) = self.v1_freezer() else { return Ok(()) };
        let Some(group) = tree.group()? else { return Ok(()) };
        let thawed = tree::walk(group, &mut |visit| match visit {
            Visit::Enter(group) => match tree::write(group, "freezer.state", "THAWED") {
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
                Err(errno) => Err(errno),
            },
            Visit::Leave(..) => Ok(()),
        });
        match thawed {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            Err(errno) => Err(Error::io("thaw cgroup", &tree.directory.path, errno)),
        }
    }

    fn v1_freezer(&self) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.has("freezer"))
    }
}

fn is_frozen_v1(tree: &Tree) -> Result<bool, Error> {
    Ok(tree.read_if_there("freezer.state")?.is_some_and(|state| !matches!(state.trim(), "THAWED" | "")))
}

fn freeze_v2(tree: &Tree, end: Instant) -> Result<Outcome, Error> {
    tree.write_if_there("cgroup.freeze", "1")?;
    let over = |events: &str| {
        tree::keyed(events, "frozen") == Some(1) || tree::keyed(events, "populated") == Some(0)
    };
    loop {
        let glance = end.min(Instant::now() + GLANCE);
        if tree.wait_event(glance, &over)? {
            return Ok(Outcome::Frozen);
        }
        if tree.read_if_there("cgroup.freeze")?.is_some_and(|asked| asked.trim() != "1") {
            return Ok(Outcome::Thawed);
        }
        if Instant::now() >= end {
            return Ok(Outcome::Late);
        }
    }
}

/// This freezer tells nothing: each read of its state looks at all processes. One that forks, or waits for another that
/// is frozen already, can keep it at FREEZING; so it is asked again each time.
fn freeze_v1(tree: &Tree, end: Instant) -> Result<Outcome, Error> {
    let mut pause = Pause::new();
    for look in 1_u32.. {
        tree.write_if_there("freezer.state", "FROZEN")?;
        match tree.read_if_there("freezer.state")? {
            None => return Ok(Outcome::Frozen),
            Some(state) if state.trim() == "FROZEN" => return Ok(Outcome::Frozen),
            Some(_) => {}
        }
        if Instant::now() >= end {
            break;
        }
        let own_thaw = look % LOOKS == 0;
        if own_thaw {
            tree.write_if_there("freezer.state", "THAWED")?;
        }
        pause.take(end);
        if !own_thaw && tree.read_if_there("freezer.state")?.is_some_and(|state| state.trim() == "THAWED") {
            return Ok(Outcome::Thawed);
        }
    }
    Ok(Outcome::Late)
}

/// Those that did not freeze, as far as /proc tells; else all.
fn still_running(tree: &Tree) -> Vec<i32> {
    // For the words of an error: what cannot be read is no second error.
    let pids = tree.pids().unwrap_or_default();
    let running: Vec<i32> = pids.iter().copied().filter(|pid| runs(*pid, tree.unified())).collect();
    if running.is_empty() { pids } else { running }
}

/// A thread of it is neither frozen nor, as the kernel has it, as good as frozen (stopped, traced, ended).
fn runs(pid: i32, unified: bool) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let read = |file: &str| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
        if unified {
            // What cgroup2 has frozen sleeps interruptibly.
            matches!(state, Some('R' | 'D'))
        } else {
            !matches!(state, Some('Z' | 'X') | None) && read("wchan") != "__refrigerator"
        }
    })
}
