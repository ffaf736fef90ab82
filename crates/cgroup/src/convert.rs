// SPDX-License-Identifier: MIT OR Apache-2.0
//! The OCI document's numbers as what the kernel's files take, for cgroup2 and for v1.
//!
//! Never touches a file: numbers come from the plan's [`Resources`] and go, as [`Write`]s, to [`crate::limits`].
//! Rules: runtime-spec config-linux.md; kernel cgroup-v2.rst and cgroup-v1/*.rst. [`crate::table`] has the overview.

use std::borrow::Cow;

use coracle_plan::{BlockIo, Rdma, Resources, Throttle};

use crate::error::Error;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) controller: Cow<'static, str>,
    /// Words for errors.
    pub(crate) limit: Cow<'static, str>,
    pub(crate) file: Cow<'static, str>,
    pub(crate) value: String,
    /// What a new cgroup has anyway ("no limit"): needs no controller and no write there.
    pub(crate) unlimited: bool,
    /// cgroup2 has nothing like it.
    pub(crate) only_v1: bool,
    pub(crate) missing: Missing,
    pub(crate) kept: Kept,
}

/// What to do when the kernel has no such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    Refuse,
    Skip,
    Instead { file: &'static str, value: String },
}

/// How what is read back afterwards compares with what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    NotRead,
    Same,
    /// The kernel may add words of its own behind.
    Begins,
    /// A number of bytes, which the kernel rounds to pages.
    Pages,
    /// A list as `0-3,7`.
    List,
}

/// What an existing cgroup has now, where a value that is not given decides another one's. Empty for a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Bytes; -1 is no limit.
    pub(crate) memory_limit: Option<i64>,
    /// Microseconds; -1 is no limit.
    pub(crate) quota: Option<i64>,
}

pub(crate) const MEMORY_LIMIT: &str = "memory limit";
pub(crate) const SWAP_LIMIT: &str = "memory and swap limit";
const RESERVATION: &str = "memory reservation";
const SHARES: &str = "cpu shares";
const QUOTA: &str = "cpu quota";
const PERIOD: &str = "cpu period";
const PIDS_LIMIT: &str = "pids limit";
const WEIGHT: &str = "block io weight";
const DEVICE_WEIGHT: &str = "block io weight of a device";

/// A zero in these members means "not given", as everywhere in the OCI world; less than zero is no limit.
fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0).map(|value| value.max(-1))
}

fn not_zero(value: Option<u64>) -> Option<u64> {
    value.filter(|value| *value != 0)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_string() } else { value.to_string() }
}

fn switch(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

pub(crate) fn memory_limit(resources: &Resources) -> Option<i64> {
    given(resources.memory_limit)
}

/// The sum of memory and swap says something about swap alone only beside a memory limit.
pub(crate) fn needs_memory_limit(resources: &Resources) -> bool {
    given(resources.memory_swap).is_some_and(|swap| swap > 0) && memory_limit(resources).is_none()
}

/// cgroup2 has quota and period in one file, quota first.
pub(crate) fn needs_quota(resources: &Resources) -> bool {
    not_zero(resources.cpu_period).is_some() && given(resources.cpu_quota).is_none()
}

/// Contradictions, the same for v1 and cgroup2.
pub(crate) fn check(resources: &Resources, now: &Now) -> Result<(), Error> {
    check_swap(resources, now)?;
    resources.unified.iter().try_for_each(|(key, value)| check_unified(key, value))
}

fn check_swap(resources: &Resources, now: &Now) -> Result<(), Error> {
    let broken = |rule: String| Err(Error::Limit { limit: SWAP_LIMIT.to_string(), rule });
    let Some(swap) = given(resources.memory_swap).filter(|swap| *swap > 0) else { return Ok(()) };
    match memory_limit(resources).or(now.memory_limit) {
        None => broken(format!("{swap} is given without a memory limit")),
        Some(limit) if limit < 0 => broken(format!("{swap} is given with an unlimited memory limit")),
        Some(limit) if swap < limit => broken(format!(
            "{swap} is smaller than the memory limit {limit}: it is the sum of memory and swap"
        )),
        Some(_) => Ok(()),
    }
}

/// Keys and values are the document's own words: only the name of one file of a controller is a key, and a value
/// is one line (the kernel takes one device in each write).
fn check_unified(key: &str, value: &str) -> Result<(), Error> {
    let broken =
        |rule: &str| Err(Error::Limit { limit: format!("unified[{key:?}]"), rule: rule.to_string() });
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    match key.split_once('.') {
        Some(("cgroup", _)) => broken("moves, freezes or kills processes: it is no limit"),
        Some((controller, file)) if plain(controller) && plain(file) => match value.contains(['\n', '\0']) {
            true => broken("the value must be one line without a NUL"),
            false => Ok(()),
        },
        _ => broken("is not the name of a file as memory.high"),
    }
}

impl Write {
    fn new(
        controller: &'static str,
        limit: impl Into<Cow<'static, str>>,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Write {
        Write {
            controller: controller.into(),
            limit: limit.into(),
            file: file.into(),
            value: value.into(),
            unlimited: false,
            only_v1: false,
            missing: Missing::Refuse,
            kept: Kept::NotRead,
        }
    }

    fn unlimited(self, unlimited: bool) -> Write {
        Write { unlimited, ..self }
    }

    fn only_v1(self) -> Write {
        Write { only_v1: true, ..self }
    }

    fn kept(self, kept: Kept) -> Write {
        Write { kept, ..self }
    }

    fn missing(self, missing: Missing) -> Write {
        Write { missing, ..self }
    }

    /// The same value in the file that takes the first one's place.
    fn or(self, file: &'static str) -> Write {
        let value = self.value.clone();
        self.missing(Missing::Instead { file, value })
    }
}

/// The files of cgroup2, in the order of writing. Call [`check`] first.
pub(crate) fn v2(resources: &Resources, now: &Now) -> Vec<Write> {
    let mut writes = Vec::new();
    let limit = memory_limit(resources);
    if let Some(swap) = given(resources.memory_swap) {
        // OCI counts memory and swap together, cgroup2 counts swap alone. It comes first: what a smaller memory
        // limit pushes out may need the room.
        let beside = limit.or(now.memory_limit).unwrap_or(0).max(0);
        let alone = if swap < 0 { -1 } else { (swap - beside).max(0) };
        // A kernel without swap has no such file: no swap, or as much as there is, is what it gives.
        let missing = if alone > 0 { Missing::Refuse } else { Missing::Skip };
        let write = Write::new("memory", SWAP_LIMIT, "memory.swap.max", or_max(alone));
        writes.push(write.unlimited(swap < 0).missing(missing).kept(Kept::Pages));
    }
    if let Some(limit) = limit {
        let write = Write::new("memory", MEMORY_LIMIT, "memory.max", or_max(limit));
        writes.push(write.unlimited(limit < 0).kept(Kept::Pages));
    }
    if let Some(low) = given(resources.memory_reservation) {
        // A reservation is a protection: "max" protects everything, so it is a real write even on a new
        // cgroup.
        writes.push(Write::new("memory", RESERVATION, "memory.low", or_max(low)));
    }
    idle_and_weight(resources, "cpu.weight", &|shares| weight(shares).to_string(), &mut writes);
    let period = not_zero(resources.cpu_period);
    let quota = given(resources.cpu_quota);
    if quota.is_some() || period.is_some() {
        let limit = if quota.is_some() { QUOTA } else { PERIOD };
        let quota = or_max(quota.or(now.quota).unwrap_or(-1));
        let value = match period {
            Some(period) => format!("{quota} {period}"),
            None => quota.clone(),
        };
        let unlimited = quota == "max" && period.is_none();
        writes.push(Write::new("cpu", limit, "cpu.max", value).unlimited(unlimited).kept(Kept::Begins));
    }
    burst(resources, "cpu.max.burst", &mut writes);
    cpusets(resources, &mut writes);
    pids(resources, &mut writes);
    io(&resources.block_io, &mut writes);
    hugepages(resources, ["max", "rsvd.max"], &mut writes);
    rdma(&resources.rdma, &mut writes);
    writes
}

/// The files of v1, in the order of writing. Call [`check`] first.
pub(crate) fn v1(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(limit) = memory_limit(resources) {
        let write = Write::new("memory", MEMORY_LIMIT, "memory.limit_in_bytes", limit.to_string());
        writes.push(write.unlimited(limit < 0).kept(Kept::Pages));
    }
    if let Some(swap) = given(resources.memory_swap) {
        // No swap accounting in this kernel: "no limit" is what there is.
        let missing = if swap < 0 { Missing::Skip } else { Missing::Refuse };
        let write = Write::new("memory", SWAP_LIMIT, "memory.memsw.limit_in_bytes", swap.to_string());
        writes.push(write.unlimited(swap < 0).missing(missing).kept(Kept::Pages));
    }
    if let Some(soft) = given(resources.memory_reservation) {
        let write = Write::new("memory", RESERVATION, "memory.soft_limit_in_bytes", soft.to_string());
        writes.push(write.unlimited(soft < 0));
    }
    if let Some(swappiness) = resources.memory_swappiness {
        let write = Write::new("memory", "memory swappiness", "memory.swappiness", swappiness.to_string());
        writes.push(write.only_v1());
    }
    if let Some(disable) = resources.disable_oom_killer {
        let write =
            Write::new("memory", "disabling of the oom killer", "memory.oom_control", switch(disable));
        writes.push(write.unlimited(!disable).only_v1());
    }
    idle_and_weight(resources, "cpu.shares", &|shares| shares.clamp(2, 262_144).to_string(), &mut writes);
    if let Some(period) = not_zero(resources.cpu_period) {
        writes.push(Write::new("cpu", PERIOD, "cpu.cfs_period_us", period.to_string()).kept(Kept::Same));
    }
    if let Some(quota) = given(resources.cpu_quota) {
        let write = Write::new("cpu", QUOTA, "cpu.cfs_quota_us", quota.to_string());
        writes.push(write.unlimited(quota < 0).kept(Kept::Same));
    }
    burst(resources, "cpu.cfs_burst_us", &mut writes);
    if let Some(period) = not_zero(resources.cpu_realtime_period) {
        let write = Write::new("cpu", "cpu realtime period", "cpu.rt_period_us", period.to_string());
        writes.push(write.only_v1().kept(Kept::Same));
    }
    if let Some(runtime) = given(resources.cpu_realtime_runtime) {
        let write = Write::new("cpu", "cpu realtime runtime", "cpu.rt_runtime_us", runtime.to_string());
        writes.push(write.only_v1().kept(Kept::Same));
    }
    cpusets(resources, &mut writes);
    pids(resources, &mut writes);
    blkio(&resources.block_io, &mut writes);
    hugepages(resources, ["limit_in_bytes", "rsvd.limit_in_bytes"], &mut writes);
    if let Some(class) = resources.network_class_id {
        let write = Write::new("net_cls", "network class id", "net_cls.classid", class.to_string());
        writes.push(write.unlimited(class == 0).only_v1());
    }
    for (interface, priority) in &resources.network_priorities {
        let value = format!("{interface} {priority}");
        writes.push(Write::new("net_prio", "network priority", "net_prio.ifpriomap", value).only_v1());
    }
    rdma(&resources.rdma, &mut writes);
    writes
}

/// The document's own files of cgroup2.
pub(crate) fn unified(resources: &Resources) -> Vec<Write> {
    let write = |(key, value): &(String, String)| {
        let controller = key.split('.').next().unwrap_or_default().to_string();
        let write = Write::new("", format!("unified[{key}]"), key.clone(), value.clone());
        Write { controller: controller.into(), ..write }
    };
    resources.unified.iter().map(write).collect()
}

/// An idle cgroup has no weight: the kernel refuses one, and takes the default with the end of idleness.
fn idle_and_weight(
    resources: &Resources,
    file: &'static str,
    convert: &dyn Fn(u64) -> String,
    writes: &mut Vec<Write>,
) {
    if let Some(idle) = resources.cpu_idle {
        writes.push(Write::new("cpu", "cpu idle", "cpu.idle", switch(idle)).unlimited(!idle));
    }
    if let Some(shares) = not_zero(resources.cpu_shares).filter(|_| resources.cpu_idle != Some(true)) {
        writes.push(Write::new("cpu", SHARES, file, convert(shares)));
    }
}

fn burst(resources: &Resources, file: &'static str, writes: &mut Vec<Write>) {
    if let Some(burst) = resources.cpu_burst {
        writes.push(Write::new("cpu", "cpu burst", file, burst.to_string()).unlimited(burst == 0));
    }
}

fn cpusets(resources: &Resources, writes: &mut Vec<Write>) {
    for (list, limit, file) in
        [(&resources.cpus, "cpus", "cpuset.cpus"), (&resources.mems, "memory nodes", "cpuset.mems")]
    {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            writes.push(Write::new("cpuset", limit, file, list.clone()).kept(Kept::List));
        }
    }
}

/// The container's first process is made inside, where 0 would refuse it: 1 lets it live, and alone.
fn pids(resources: &Resources, writes: &mut Vec<Write>) {
    if let Some(pids) = resources.pids_limit {
        let value = if pids == 0 { 1 } else { pids };
        let write = Write::new("pids", PIDS_LIMIT, "pids.max", or_max(value));
        writes.push(write.unlimited(pids < 0).kept(Kept::Same));
    }
}

/// The kernel's limit of a page size, and that of the reservations of it where the kernel has one (Linux 5.7).
fn hugepages(resources: &Resources, files: [&'static str; 2], writes: &mut Vec<Write>) {
    let [file, reserved] = files;
    for (size, bytes) in &resources.hugepage_limits {
        for (file, missing) in [(file, Missing::Refuse), (reserved, Missing::Skip)] {
            let (limit, file) = (format!("hugepage limit of {size}"), format!("hugetlb.{size}.{file}"));
            writes.push(Write::new("hugetlb", limit, file, bytes.to_string()).missing(missing));
        }
    }
}

fn rdma(devices: &[Rdma], writes: &mut Vec<Write>) {
    for Rdma { device, hca_handles, hca_objects } in devices {
        let mut value = device.clone();
        for (name, number) in [("hca_handle", hca_handles), ("hca_object", hca_objects)] {
            if let Some(number) = number {
                value += &format!(" {name}={number}");
            }
        }
        writes.push(Write::new("rdma", "rdma limit", "rdma.max", value));
    }
}

fn io(block_io: &BlockIo, writes: &mut Vec<Write>) {
    let mut push = |limit, who: &str, weight: u16| {
        let instead = Missing::Instead { file: "io.weight", value: format!("{who} {}", io_weight(weight)) };
        let write = Write::new("io", limit, "io.bfq.weight", format!("{who} {weight}"));
        writes.push(write.missing(instead));
    };
    if let Some(weight) = block_io.weight.filter(|weight| *weight != 0) {
        push(WEIGHT, "default", weight);
    }
    for device in &block_io.weight_device {
        if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
            push(DEVICE_WEIGHT, &format!("{}:{}", device.major, device.minor), weight);
        }
    }
    // One line for each device: (major, minor) in the order of their first mention.
    let mut lines: Vec<((u32, u32), String, bool)> = Vec::new();
    for (list, name) in [
        (&block_io.read_bps, "rbps"),
        (&block_io.write_bps, "wbps"),
        (&block_io.read_iops, "riops"),
        (&block_io.write_iops, "wiops"),
    ] {
        for Throttle { major, minor, rate } in list {
            let rate = if *rate == 0 { "max".to_string() } else { rate.to_string() };
            let (text, unlimited) = (format!(" {name}={rate}"), rate == "max");
            match lines.iter_mut().find(|(device, ..)| *device == (*major, *minor)) {
                Some((_, line, all)) => {
                    *line += &text;
                    *all &= unlimited;
                }
                None => lines.push(((*major, *minor), format!("{major}:{minor}{text}"), unlimited)),
            }
        }
    }
    for (_, line, unlimited) in lines {
        writes.push(Write::new("io", "block io throttle", "io.max", line).unlimited(unlimited));
    }
}

fn blkio(block_io: &BlockIo, writes: &mut Vec<Write>) {
    if let Some(weight) = block_io.weight.filter(|weight| *weight != 0) {
        writes.push(Write::new("blkio", WEIGHT, "blkio.bfq.weight", weight.to_string()).or("blkio.weight"));
    }
    if let Some(weight) = block_io.leaf_weight.filter(|weight| *weight != 0) {
        let write = Write::new("blkio", "block io leaf weight", "blkio.leaf_weight", weight.to_string());
        writes.push(write.only_v1());
    }
    for device in &block_io.weight_device {
        let line = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
        if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
            let write = Write::new("blkio", DEVICE_WEIGHT, "blkio.bfq.weight_device", line(weight));
            writes.push(write.or("blkio.weight_device"));
        }
        if let Some(weight) = device.leaf_weight.filter(|weight| *weight != 0) {
            let limit = "block io leaf weight of a device";
            writes.push(Write::new("blkio", limit, "blkio.leaf_weight_device", line(weight)).only_v1());
        }
    }
    for (list, file) in [
        (&block_io.read_bps, "blkio.throttle.read_bps_device"),
        (&block_io.write_bps, "blkio.throttle.write_bps_device"),
        (&block_io.read_iops, "blkio.throttle.read_iops_device"),
        (&block_io.write_iops, "blkio.throttle.write_iops_device"),
    ] {
        for Throttle { major, minor, rate } in list {
            let write = Write::new("blkio", "block io throttle", file, format!("{major}:{minor} {rate}"));
            writes.push(write.unlimited(*rate == 0));
        }
    }
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

/// The document's weight (10 to 1000, as BFQ has it) on io.weight's scale (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use coracle_plan::WeightDevice;

    use super::*;

    fn values(writes: Vec<Write>) -> Vec<(String, String)> {
        writes.into_iter().map(|write| (write.file.into_owned(), write.value)).collect()
    }

    fn v2_of(resources: Resources) -> Vec<(String, String)> {
        v2_now(resources, Now::default())
    }

    fn v2_now(resources: Resources, now: Now) -> Vec<(String, String)> {
        check(&resources, &now).unwrap();
        values(v2(&resources, &now))
    }

    fn v1_of(resources: Resources) -> Vec<(String, String)> {
        check(&resources, &Now::default()).unwrap();
        values(v1(&resources))
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(file, value)| (file.to_string(), value.to_string())).collect()
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
        assert_eq!(v2_of(both.clone()), pairs(&[("memory.swap.max", "50"), ("memory.max", "100")]));
        assert_eq!(
            v1_of(both),
            pairs(&[("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "150")])
        );
        let equal = Resources { memory_limit: Some(100), memory_swap: Some(100), ..Resources::default() };
        assert_eq!(v2_of(equal), pairs(&[("memory.swap.max", "0"), ("memory.max", "100")]));
    }

    #[test]
    fn a_swap_limit_alone_goes_by_the_present_memory_limit() {
        let swap = Resources { memory_swap: Some(150), ..Resources::default() };
        assert!(needs_memory_limit(&swap));
        let now = Now { memory_limit: Some(100), ..Now::default() };
        assert_eq!(v2_now(swap.clone(), now), pairs(&[("memory.swap.max", "50")]));
        let small = Now { memory_limit: Some(200), ..Now::default() };
        assert!(check(&swap, &small).unwrap_err().to_string().contains("smaller than the memory limit 200"));
        let none = Now { memory_limit: Some(-1), ..Now::default() };
        assert!(check(&swap, &none).unwrap_err().to_string().contains("unlimited memory limit"));
        let unlimited = Resources { memory_swap: Some(-1), ..Resources::default() };
        assert!(!needs_memory_limit(&unlimited));
        assert!(!needs_memory_limit(&Resources { memory_limit: Some(100), ..swap }));
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
            cpu_realtime_runtime: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(
            v2_of(none.clone()),
            pairs(&[
                ("memory.swap.max", "max"),
                ("memory.max", "max"),
                ("memory.low", "max"),
                ("cpu.max", "max"),
                ("pids.max", "max"),
            ])
        );
        let v2 = v2(&none, &Now::default());
        assert!(v2.iter().all(|write| write.unlimited || write.file == "memory.low"));
        assert_eq!(
            v1_of(none.clone()),
            pairs(&[
                ("memory.limit_in_bytes", "-1"),
                ("memory.memsw.limit_in_bytes", "-1"),
                ("memory.soft_limit_in_bytes", "-1"),
                ("cpu.cfs_quota_us", "-1"),
                ("cpu.rt_runtime_us", "-1"),
                ("pids.max", "max"),
            ])
        );
        assert!(v1(&none).iter().all(|write| write.unlimited || write.file == "cpu.rt_runtime_us"));
        let far_below =
            Resources { memory_limit: Some(i64::MIN), pids_limit: Some(-7), ..Resources::default() };
        assert_eq!(v1_of(far_below), pairs(&[("memory.limit_in_bytes", "-1"), ("pids.max", "max")]));
    }

    #[test]
    fn zero_is_not_given_but_for_pids_where_it_is_one() {
        let zero = Resources {
            memory_limit: Some(0),
            memory_swap: Some(0),
            memory_reservation: Some(0),
            cpu_shares: Some(0),
            cpu_quota: Some(0),
            cpu_period: Some(0),
            cpu_realtime_runtime: Some(0),
            cpu_realtime_period: Some(0),
            cpus: Some(String::new()),
            mems: Some(String::new()),
            pids_limit: Some(0),
            block_io: BlockIo {
                weight: Some(0),
                leaf_weight: Some(0),
                weight_device: vec![WeightDevice {
                    major: 8,
                    minor: 0,
                    weight: Some(0),
                    leaf_weight: Some(0),
                }],
                ..BlockIo::default()
            },
            ..Resources::default()
        };
        assert_eq!(v2_of(zero.clone()), pairs(&[("pids.max", "1")]));
        assert_eq!(v1_of(zero), pairs(&[("pids.max", "1")]));
        assert!(v2_of(Resources::default()).is_empty());
        assert!(v1_of(Resources::default()).is_empty());
    }

    #[test]
    fn what_a_new_cgroup_has_anyway_is_known() {
        let resources = Resources {
            cpu_idle: Some(false),
            cpu_burst: Some(0),
            disable_oom_killer: Some(false),
            network_class_id: Some(0),
            block_io: BlockIo {
                read_bps: vec![Throttle { major: 8, minor: 0, rate: 0 }],
                ..BlockIo::default()
            },
            ..Resources::default()
        };
        assert_eq!(
            v2_of(resources.clone()),
            pairs(&[("cpu.idle", "0"), ("cpu.max.burst", "0"), ("io.max", "8:0 rbps=max")])
        );
        assert_eq!(
            v1_of(resources.clone()),
            pairs(&[
                ("memory.oom_control", "0"),
                ("cpu.idle", "0"),
                ("cpu.cfs_burst_us", "0"),
                ("blkio.throttle.read_bps_device", "8:0 0"),
                ("net_cls.classid", "0"),
            ])
        );
        let all = v2(&resources, &Now::default()).into_iter().chain(v1(&resources));
        assert!(all.into_iter().all(|write| write.unlimited));
    }

    #[test]
    fn quota_and_period_make_one_line_and_what_is_absent_stays() {
        let of = |quota, period, now| {
            let resources = Resources { cpu_quota: quota, cpu_period: period, ..Resources::default() };
            v2_now(resources, Now { quota: now, ..Now::default() })
        };
        for (quota, period, now, line) in [
            (Some(50_000), None, None, "50000"),
            (Some(50_000), Some(20_000), Some(7_000), "50000 20000"),
            (Some(-1), None, Some(7_000), "max"),
            (None, Some(20_000), None, "max 20000"),
            (Some(0), Some(20_000), Some(7_000), "7000 20000"),
            (None, Some(20_000), Some(-1), "max 20000"),
        ] {
            assert_eq!(of(quota, period, now), pairs(&[("cpu.max", line)]), "{quota:?} {period:?} {now:?}");
        }
        let needs = |quota, period| {
            needs_quota(&Resources { cpu_quota: quota, cpu_period: period, ..Resources::default() })
        };
        assert!(needs(None, Some(20_000)) && needs(Some(0), Some(20_000)));
        assert!(!needs(Some(1), Some(20_000)) && !needs(None, None) && !needs(None, Some(0)));
        let v1 = Resources { cpu_quota: Some(50_000), cpu_period: Some(20_000), ..Resources::default() };
        assert_eq!(v1_of(v1), pairs(&[("cpu.cfs_period_us", "20000"), ("cpu.cfs_quota_us", "50000")]));
        let period = Resources { cpu_period: Some(20_000), ..Resources::default() };
        assert_eq!(v1_of(period), pairs(&[("cpu.cfs_period_us", "20000")]));
    }

    #[test]
    fn an_idle_cgroup_gets_no_weight() {
        let idle = |idle| Resources { cpu_idle: Some(idle), cpu_shares: Some(512), ..Resources::default() };
        assert_eq!(v2_of(idle(true)), pairs(&[("cpu.idle", "1")]));
        assert_eq!(v1_of(idle(true)), pairs(&[("cpu.idle", "1")]));
        assert_eq!(v2_of(idle(false)), pairs(&[("cpu.idle", "0"), ("cpu.weight", "59")]));
        assert_eq!(v1_of(idle(false)), pairs(&[("cpu.idle", "0"), ("cpu.shares", "512")]));
    }

    #[test]
    fn v1_shares_are_clamped_to_what_the_kernel_keeps() {
        let of = |shares| v1_of(Resources { cpu_shares: Some(shares), ..Resources::default() });
        assert_eq!(of(1), pairs(&[("cpu.shares", "2")]));
        assert_eq!(of(512), pairs(&[("cpu.shares", "512")]));
        assert_eq!(of(u64::MAX), pairs(&[("cpu.shares", "262144")]));
    }

    #[test]
    fn throttles_of_one_device_make_one_line() {
        let throttle = |minor, rate| Throttle { major: 8, minor, rate };
        let resources = Resources {
            block_io: BlockIo {
                read_bps: vec![throttle(0, 100), throttle(16, 200)],
                write_bps: vec![throttle(16, 0)],
                read_iops: vec![throttle(0, 0)],
                write_iops: vec![throttle(32, u64::MAX), throttle(0, 5)],
                ..BlockIo::default()
            },
            ..Resources::default()
        };
        assert_eq!(
            v2_of(resources.clone()),
            pairs(&[
                ("io.max", "8:0 rbps=100 riops=max wiops=5"),
                ("io.max", "8:16 rbps=200 wbps=max"),
                ("io.max", "8:32 wiops=18446744073709551615"),
            ])
        );
        assert_eq!(
            v1_of(resources),
            pairs(&[
                ("blkio.throttle.read_bps_device", "8:0 100"),
                ("blkio.throttle.read_bps_device", "8:16 200"),
                ("blkio.throttle.write_bps_device", "8:16 0"),
                ("blkio.throttle.read_iops_device", "8:0 0"),
                ("blkio.throttle.write_iops_device", "8:32 18446744073709551615"),
                ("blkio.throttle.write_iops_device", "8:0 5"),
            ])
        );
    }

    #[test]
    fn io_weights_have_bfqs_scale_and_io_costs() {
        for (weight, wanted) in [(10, 1), (11, 11), (100, 910), (500, 4950), (999, 9989), (1000, 10_000)] {
            assert_eq!(io_weight(weight), wanted, "weight {weight}");
        }
        // Outside of the document's range, and of the plan's.
        assert_eq!((io_weight(0), io_weight(u16::MAX)), (1, 10_000));
        let resources = Resources {
            block_io: BlockIo {
                weight: Some(500),
                leaf_weight: Some(300),
                weight_device: vec![
                    WeightDevice { major: 8, minor: 16, weight: Some(10), leaf_weight: Some(20) },
                    WeightDevice { major: 8, minor: 32, weight: None, leaf_weight: Some(30) },
                ],
                ..BlockIo::default()
            },
            ..Resources::default()
        };
        let both = |writes: Vec<Write>| -> Vec<(String, String)> {
            writes
                .into_iter()
                .flat_map(|write| match write.missing {
                    Missing::Instead { file, value } => {
                        vec![(write.file.into_owned(), write.value), (file.to_string(), value)]
                    }
                    _ => vec![(write.file.into_owned(), write.value)],
                })
                .collect()
        };
        assert_eq!(
            both(v2(&resources, &Now::default())),
            pairs(&[
                ("io.bfq.weight", "default 500"),
                ("io.weight", "default 4950"),
                ("io.bfq.weight", "8:16 10"),
                ("io.weight", "8:16 1"),
            ])
        );
        assert_eq!(
            both(v1(&resources)),
            pairs(&[
                ("blkio.bfq.weight", "500"),
                ("blkio.weight", "500"),
                ("blkio.leaf_weight", "300"),
                ("blkio.bfq.weight_device", "8:16 10"),
                ("blkio.weight_device", "8:16 10"),
                ("blkio.leaf_weight_device", "8:16 20"),
                ("blkio.leaf_weight_device", "8:32 30"),
            ])
        );
    }

    #[test]
    fn huge_pages_rdma_and_the_network_have_lines_of_their_own() {
        let rdma = |device: &str, hca_handles, hca_objects| Rdma {
            device: device.to_string(),
            hca_handles,
            hca_objects,
        };
        let resources = Resources {
            hugepage_limits: vec![("2MB".to_string(), 1 << 22), ("1GB".to_string(), 0)],
            network_class_id: Some(0x10_0001),
            network_priorities: vec![("lo".to_string(), 3), ("eth0".to_string(), 0)],
            rdma: vec![rdma("hfi1_0", Some(3), None), rdma("mlx5_0", Some(2), Some(2000))],
            ..Resources::default()
        };
        assert_eq!(
            v2_of(resources.clone()),
            pairs(&[
                ("hugetlb.2MB.max", "4194304"),
                ("hugetlb.2MB.rsvd.max", "4194304"),
                ("hugetlb.1GB.max", "0"),
                ("hugetlb.1GB.rsvd.max", "0"),
                ("rdma.max", "hfi1_0 hca_handle=3"),
                ("rdma.max", "mlx5_0 hca_handle=2 hca_object=2000"),
            ])
        );
        assert_eq!(
            v1_of(resources),
            pairs(&[
                ("hugetlb.2MB.limit_in_bytes", "4194304"),
                ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
                ("hugetlb.1GB.limit_in_bytes", "0"),
                ("hugetlb.1GB.rsvd.limit_in_bytes", "0"),
                ("net_cls.classid", "1048577"),
                ("net_prio.ifpriomap", "lo 3"),
                ("net_prio.ifpriomap", "eth0 0"),
                ("rdma.max", "hfi1_0 hca_handle=3"),
                ("rdma.max", "mlx5_0 hca_handle=2 hca_object=2000"),
            ])
        );
    }

    fn one_key(key: &str, value: &str) -> Resources {
        Resources { unified: vec![(key.to_string(), value.to_string())], ..Resources::default() }
    }

    #[test]
    fn unified_is_as_given_and_names_its_controller() {
        let resources = one_key("io.max", "8:0 rbps=5");
        assert_eq!(check(&resources, &Now::default()), Ok(()));
        let [write] = unified(&resources).try_into().unwrap();
        assert_eq!((&*write.controller, &*write.file, &*write.value), ("io", "io.max", "8:0 rbps=5"));
        assert_eq!(write.limit, "unified[io.max]");
        assert!(v2_of(resources).is_empty());
    }

    /// T-77.
    #[test]
    fn unified_keys_that_are_no_files_of_a_controller_are_refused() {
        for key in [
            "",
            ".",
            "memory",
            "memory.",
            ".max",
            "../x",
            "a/b",
            "a/memory.max",
            "memory.max/../cgroup.procs",
            "memory.max\n",
            "memory.max\0",
            "memory max.x",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.freeze",
        ] {
            let error = check(&one_key(key, "1"), &Now::default()).unwrap_err().to_string();
            assert!(error.starts_with("unified["), "{key:?}: {error}");
            assert!(!error.contains(['\n', '\0']), "{error:?}");
        }
        for value in ["1\n2", "1\n", "\0"] {
            let error = check(&one_key("memory.high", value), &Now::default()).unwrap_err().to_string();
            assert_eq!(error, r#"unified["memory.high"]: the value must be one line without a NUL"#);
        }
    }

    #[test]
    fn contradicting_swap_is_an_error_that_says_why() {
        let message = |limit, swap| {
            let resources = Resources { memory_limit: limit, memory_swap: swap, ..Resources::default() };
            check(&resources, &Now::default()).unwrap_err().to_string()
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
        assert_eq!(check(&unlimited, &Now::default()), Ok(()));
        assert_eq!(v2_of(unlimited), pairs(&[("memory.swap.max", "max")]));
    }
}
