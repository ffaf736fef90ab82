// SPDX-License-Identifier: MIT OR Apache-2.0
//! The OCI document's numbers as what the kernel's files take, for cgroup2 and for v1.
//!
//! Never touches a file: numbers come from the plan's [`Resources`] and go, as [`Write`]s, to the cgroup that
//! is being made. Rules: runtime-spec config-linux.md; kernel cgroup-v2.rst and cgroup-v1/*.rst.

use coracle_plan::Resources;

use crate::error::Error;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) controller: &'static str,
    /// Words for errors.
    pub(crate) limit: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
    /// What a new cgroup has anyway ("no limit"): needs no controller and no write there.
    pub(crate) unlimited: bool,
}

pub(crate) const MEMORY_LIMIT: &str = "memory limit";
pub(crate) const SWAP_LIMIT: &str = "memory and swap limit";
pub(crate) const RESERVATION: &str = "memory reservation";
pub(crate) const SHARES: &str = "cpu shares";
pub(crate) const QUOTA: &str = "cpu quota";
pub(crate) const PIDS_LIMIT: &str = "pids limit";

/// Microseconds; what the kernel starts with.
const DEFAULT_PERIOD: u64 = 100_000;

/// A zero in these members means "not given", as everywhere in the OCI world; less than zero is no limit.
fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0).map(|value| value.max(-1))
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_string() } else { value.to_string() }
}

/// Contradictions between memory limit and memory+swap limit, the same for v1 and cgroup2.
pub(crate) fn check(resources: &Resources) -> Result<(), Error> {
    let broken = |rule: String| Err(Error::Limit { limit: SWAP_LIMIT.to_string(), rule });
    let Some(swap) = given(resources.memory_swap).filter(|swap| *swap > 0) else { return Ok(()) };
    match given(resources.memory_limit) {
        None => broken(format!("{swap} is given without a memory limit")),
        Some(limit) if limit < 0 => broken(format!("{swap} is given with an unlimited memory limit")),
        Some(limit) if swap < limit => broken(format!(
            "{swap} is smaller than the memory limit {limit}: it is the sum of memory and swap"
        )),
        Some(_) => Ok(()),
    }
}

/// The files of cgroup2. Call [`check`] first.
pub(crate) fn v2(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut push = |controller, limit, file, value: String, unlimited| {
        writes.push(Write { controller, limit, file, value, unlimited });
    };
    let limit = given(resources.memory_limit);
    if let Some(limit) = limit {
        push("memory", MEMORY_LIMIT, "memory.max", or_max(limit), limit < 0);
    }
    if let Some(swap) = given(resources.memory_swap) {
        // OCI counts memory and swap together, cgroup2 counts swap alone.
        let alone = if swap < 0 { -1 } else { (swap - limit.unwrap_or(0).max(0)).max(0) };
        push("memory", SWAP_LIMIT, "memory.swap.max", or_max(alone), swap < 0);
    }
    if let Some(low) = given(resources.memory_reservation) {
        // A reservation is a protection: "max" protects everything, so it is a real write even on a new
        // cgroup.
        push("memory", RESERVATION, "memory.low", or_max(low), false);
    }
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        push("cpu", SHARES, "cpu.weight", weight(shares).to_string(), false);
    }
    if let Some((quota, period)) = bandwidth(resources) {
        let unlimited = quota < 0 && period.is_none();
        let value = format!("{} {}", or_max(quota), period.unwrap_or(DEFAULT_PERIOD));
        push("cpu", QUOTA, "cpu.max", value, unlimited);
    }
    if let Some(pids) = resources.pids_limit {
        push("pids", PIDS_LIMIT, "pids.max", or_max(pids), pids < 0);
    }
    writes
}

/// (quota in microseconds or -1, period in microseconds when given); None when neither is.
pub(crate) fn bandwidth(resources: &Resources) -> Option<(i64, Option<u64>)> {
    let period = resources.cpu_period.filter(|period| *period != 0);
    match given(resources.cpu_quota) {
        Some(quota) => Some((quota, period)),
        None => period.map(|period| (-1, Some(period))),
    }
}

/// The files of v1. Order matters only within a controller; the one who writes knows it. Call [`check`]
/// first.
pub(crate) fn v1(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut push = |controller, limit, file, value: String, unlimited| {
        writes.push(Write { controller, limit, file, value, unlimited });
    };
    if let Some(limit) = given(resources.memory_limit) {
        push("memory", MEMORY_LIMIT, "memory.limit_in_bytes", limit.to_string(), limit < 0);
    }
    if let Some(swap) = given(resources.memory_swap) {
        push("memory", SWAP_LIMIT, "memory.memsw.limit_in_bytes", swap.to_string(), swap < 0);
    }
    if let Some(soft) = given(resources.memory_reservation) {
        push("memory", RESERVATION, "memory.soft_limit_in_bytes", soft.to_string(), soft < 0);
    }
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        push("cpu", SHARES, "cpu.shares", shares.clamp(2, 262_144).to_string(), false);
    }
    if let Some((quota, period)) = bandwidth(resources) {
        if let Some(period) = period {
            push("cpu", QUOTA, "cpu.cfs_period_us", period.to_string(), false);
        }
        push("cpu", QUOTA, "cpu.cfs_quota_us", quota.to_string(), quota < 0);
    }
    if let Some(pids) = resources.pids_limit {
        push("pids", PIDS_LIMIT, "pids.max", or_max(pids), pids < 0);
    }
    writes
}

/// cpu.shares (2 to 262144, 1024 by default) as cpu.weight (1 to 10000, 100 by default): the quadratic in
/// log2 that maps minimum, default and maximum onto each other, which every runtime uses since 2025.
pub(crate) fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    // The three anchors are exact in mathematics; without the margin an error in the last bit would lift
    // them.
    ((10f64.powf(exponent) - 1e-9).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(writes: Vec<Write>) -> Vec<(&'static str, String)> {
        writes.into_iter().map(|write| (write.file, write.value)).collect()
    }

    fn v2_of(resources: Resources) -> Vec<(&'static str, String)> {
        check(&resources).unwrap();
        values(v2(&resources))
    }

    fn v1_of(resources: Resources) -> Vec<(&'static str, String)> {
        check(&resources).unwrap();
        values(v1(&resources))
    }

    fn pairs(expected: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        expected.iter().map(|(file, value)| (*file, value.to_string())).collect()
    }

    #[test]
    fn shares_become_the_weights_that_the_peers_publish() {
        let expected = [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 2),
            (10, 4),
            (100, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (4096, 303),
            (10_000, 627),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ];
        for (shares, wanted) in expected {
            assert_eq!(weight(shares), wanted, "shares {shares}");
        }
    }

    #[test]
    fn weights_never_fall_when_shares_rise() {
        let weights: Vec<u64> = (2..=20_000).map(weight).collect();
        assert!(weights.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn swap_is_the_difference_on_cgroup2_and_the_sum_on_v1() {
        let both = Resources { memory_limit: Some(100), memory_swap: Some(150), ..Resources::default() };
        assert_eq!(v2_of(both.clone()), pairs(&[("memory.max", "100"), ("memory.swap.max", "50")]));
        assert_eq!(
            v1_of(both),
            pairs(&[("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "150")])
        );
        let equal = Resources { memory_limit: Some(100), memory_swap: Some(100), ..Resources::default() };
        assert_eq!(v2_of(equal), pairs(&[("memory.max", "100"), ("memory.swap.max", "0")]));
    }

    #[test]
    fn a_limit_alone_leaves_swap_alone() {
        let limit = Resources { memory_limit: Some(100), ..Resources::default() };
        assert_eq!(v2_of(limit.clone()), pairs(&[("memory.max", "100")]));
        assert_eq!(v1_of(limit), pairs(&[("memory.limit_in_bytes", "100")]));
    }

    #[test]
    fn less_than_zero_is_no_limit() {
        let none = Resources {
            memory_limit: Some(-1),
            memory_swap: Some(-1),
            memory_reservation: Some(-1),
            cpu_quota: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(
            v2_of(none.clone()),
            pairs(&[
                ("memory.max", "max"),
                ("memory.swap.max", "max"),
                ("memory.low", "max"),
                ("cpu.max", "max 100000"),
                ("pids.max", "max"),
            ])
        );
        assert!(v2(&none).iter().all(|write| write.unlimited || write.file == "memory.low"));
        assert_eq!(
            v1_of(none.clone()),
            pairs(&[
                ("memory.limit_in_bytes", "-1"),
                ("memory.memsw.limit_in_bytes", "-1"),
                ("memory.soft_limit_in_bytes", "-1"),
                ("cpu.cfs_quota_us", "-1"),
                ("pids.max", "max"),
            ])
        );
        assert!(v1(&none).iter().all(|write| write.unlimited));
        let far_below =
            Resources { memory_limit: Some(i64::MIN), pids_limit: Some(-7), ..Resources::default() };
        assert_eq!(v1_of(far_below), pairs(&[("memory.limit_in_bytes", "-1"), ("pids.max", "max")]));
    }

    #[test]
    fn zero_is_not_given_except_for_pids() {
        let zero = Resources {
            memory_limit: Some(0),
            memory_swap: Some(0),
            memory_reservation: Some(0),
            cpu_shares: Some(0),
            cpu_quota: Some(0),
            cpu_period: Some(0),
            pids_limit: Some(0),
        };
        assert_eq!(v2_of(zero.clone()), pairs(&[("pids.max", "0")]));
        assert_eq!(v1_of(zero), pairs(&[("pids.max", "0")]));
        assert!(v2_of(Resources::default()).is_empty());
    }

    #[test]
    fn quota_and_period_make_one_line() {
        let of =
            |quota, period| v2_of(Resources { cpu_quota: quota, cpu_period: period, ..Resources::default() });
        assert_eq!(of(Some(50_000), None), pairs(&[("cpu.max", "50000 100000")]));
        assert_eq!(of(Some(50_000), Some(20_000)), pairs(&[("cpu.max", "50000 20000")]));
        assert_eq!(of(None, Some(20_000)), pairs(&[("cpu.max", "max 20000")]));
        assert_eq!(of(Some(0), Some(20_000)), pairs(&[("cpu.max", "max 20000")]));
        let v1 = Resources { cpu_quota: Some(50_000), cpu_period: Some(20_000), ..Resources::default() };
        assert_eq!(v1_of(v1), pairs(&[("cpu.cfs_period_us", "20000"), ("cpu.cfs_quota_us", "50000")]));
    }

    #[test]
    fn v1_shares_are_clamped_to_what_the_kernel_keeps() {
        let of = |shares| v1_of(Resources { cpu_shares: Some(shares), ..Resources::default() });
        assert_eq!(of(1), pairs(&[("cpu.shares", "2")]));
        assert_eq!(of(512), pairs(&[("cpu.shares", "512")]));
        assert_eq!(of(u64::MAX), pairs(&[("cpu.shares", "262144")]));
    }

    #[test]
    fn contradicting_swap_is_an_error_that_says_why() {
        let message = |limit, swap| {
            let resources = Resources { memory_limit: limit, memory_swap: swap, ..Resources::default() };
            check(&resources).unwrap_err().to_string()
        };
        assert_eq!(message(None, Some(5)), "memory and swap limit: 5 is given without a memory limit");
        assert_eq!(message(Some(0), Some(5)), "memory and swap limit: 5 is given without a memory limit");
        assert_eq!(
            message(Some(-1), Some(5)),
            "memory and swap limit: 5 is given with an unlimited memory limit"
        );
        assert_eq!(
            message(Some(6), Some(5)),
            "memory and swap limit: 5 is smaller than the memory limit 6: it is the sum of memory and swap"
        );
        let unlimited = Resources { memory_swap: Some(-1), ..Resources::default() };
        assert_eq!(check(&unlimited), Ok(()));
        assert_eq!(v2_of(unlimited), pairs(&[("memory.swap.max", "max")]));
    }
}
