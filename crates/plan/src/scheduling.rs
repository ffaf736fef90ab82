// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the process is run: scheduler, I/O priority, CPU affinity, personality, OOM score.
//!
//! Never leaves to the kernel what it would answer with a bare EINVAL. From `process` to steps and numbers.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process,
};

use crate::check::{Check, shown};
use crate::list;
use crate::types::{Action, Host, Scheduler, Step};

pub(crate) fn scheduler(process: &Process, check: &mut Check) -> Option<Step> {
    const PLACE: &str = "process.scheduler";
    let given = process.scheduler().as_ref()?;
    // linux/sched.h
    let (policy, realtime, deadline) = match given.policy() {
        LinuxSchedulerPolicy::SchedOther => (0, false, false),
        LinuxSchedulerPolicy::SchedFifo => (1, true, false),
        LinuxSchedulerPolicy::SchedRr => (2, true, false),
        LinuxSchedulerPolicy::SchedBatch => (3, false, false),
        LinuxSchedulerPolicy::SchedIdle => (5, false, false),
        LinuxSchedulerPolicy::SchedDeadline => (6, false, true),
        LinuxSchedulerPolicy::SchedIso => {
            check.refuse(format!("{PLACE}.policy"), "no Linux kernel implements this policy", "SCHED_ISO");
            return None;
        }
    };
    let nice = given.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        check.refuse(format!("{PLACE}.nice"), "must be from -20 to 19", nice);
    }
    let priority = given.priority().unwrap_or(0);
    if realtime && !(1..=99).contains(&priority) {
        check.refuse(format!("{PLACE}.priority"), &format!("{} needs 1 to 99", given.policy()), priority);
    } else if !realtime && priority != 0 {
        check.refuse(format!("{PLACE}.priority"), "goes with SCHED_FIFO or SCHED_RR only", priority);
    }
    let [runtime, relative, period] =
        [given.runtime(), given.deadline(), given.period()].map(|time| time.unwrap_or(0));
    if !deadline && (runtime, relative, period) != (0, 0, 0) {
        check.refuse(PLACE, "runtime, deadline and period go with SCHED_DEADLINE only", given.policy());
    }
    if deadline {
        // The kernel counts in units of 1024 ns, and takes a period of 0 for the deadline.
        if runtime < 1024 {
            check.refuse(format!("{PLACE}.runtime"), "must be at least 1024 ns", runtime);
        }
        if relative < runtime {
            check.refuse(format!("{PLACE}.deadline"), "must not be below the runtime", relative);
        }
        if period != 0 && period < relative {
            check.refuse(format!("{PLACE}.period"), "must not be below the deadline", period);
        }
    }
    let flags = given.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x1,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x2,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x4,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x8,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = u32::try_from(priority).unwrap_or(0);
    let action =
        Action::Scheduler(Scheduler { policy, flags, nice, priority, runtime, deadline: relative, period });
    Some(Step { action, place: PLACE.to_string() })
}

pub(crate) fn io_priority(process: &Process, check: &mut Check) -> Option<Step> {
    const PLACE: &str = "process.ioPriority";
    let given = process.io_priority().as_ref()?;
    // linux/ioprio.h
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    if !(0..=7).contains(&given.priority()) {
        check.refuse(format!("{PLACE}.priority"), "must be from 0 to 7", given.priority());
    }
    let level = u16::try_from(given.priority()).unwrap_or(0);
    Some(Step { action: Action::IoPriority { value: class << 13 | level }, place: PLACE.to_string() })
}

pub(crate) fn personality(linux: Option<&Linux>, check: &mut Check) -> Option<Step> {
    const PLACE: &str = "linux.personality";
    let given = linux.and_then(|l| l.personality().as_ref())?;
    if let Some(flag) = given.flags().iter().flatten().next() {
        check.refuse(format!("{PLACE}.flags"), "no flag is defined for a personality", flag);
    }
    // linux/personality.h
    let domain = match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0x0,
        LinuxPersonalityDomain::PerLinux32 => 0x8,
    };
    Some(Step { action: Action::Personality { domain }, place: PLACE.to_string() })
}

/// execCPUAffinity, initial and final. It matters to exec only, but a config is wrong from the beginning.
pub(crate) fn exec_affinity(process: &Process, host: &Host, check: &mut Check) -> [Vec<u32>; 2] {
    let Some(given) = process.exec_cpu_affinity().as_ref() else { return Default::default() };
    [("initial", given.initial()), ("final", given.cpu_affinity_final())].map(|(field, value)| {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { return Vec::new() };
        let place = format!("process.execCPUAffinity.{field}");
        match list::ranges(value) {
            Err(rule) => check.refuse(place, &rule, value),
            Ok(ranges) => match list::first_missing(&ranges, &host.cpus) {
                Some(cpu) => check.refuse(place, &format!("this host has no CPU {cpu}"), shown(value)),
                None => return ranges.into_iter().flat_map(|(first, last)| first..=last).collect(),
            },
        }
        Vec::new()
    })
}

pub(crate) fn oom_score_adj(process: &Process, host: &Host, check: &mut Check) -> Option<i32> {
    const PLACE: &str = "process.oomScoreAdj";
    let given = process.oom_score_adj()?;
    if !(-1000..=1000).contains(&given) {
        check.refuse(PLACE, "must be from -1000 to 1000", given);
    } else if given < host.oom_score_adj && !host.raise_rlimits {
        let rule = format!("without CAP_SYS_RESOURCE it cannot go below the caller's {}", host.oom_score_adj);
        check.refuse(PLACE, &rule, given);
    }
    Some(given)
}
