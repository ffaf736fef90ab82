// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which file each member of `linux.resources` goes to, as one table: docs/cgroups.md shows it, and tests hold
//! [`crate::convert`] to it.
//!
//! Never read at run time: the conversions are code. A new limit begins here, and the tests say what is missing.

/// One member of the document.
pub(crate) struct Key {
    /// Below `linux.resources`.
    pub(crate) oci: &'static str,
    /// Files of cgroup2; empty: v1 only. `SIZE` stands for a page size. With `|`: the first one that is there.
    pub(crate) v2: &'static [&'static str],
    /// Files of v1; empty: cgroup2 only.
    pub(crate) v1: &'static [&'static str],
    pub(crate) rule: &'static str,
}

const fn key(
    oci: &'static str,
    v2: &'static [&'static str],
    v1: &'static [&'static str],
    rule: &'static str,
) -> Key {
    Key { oci, v2, v1, rule }
}

pub(crate) const KEYS: &[Key] = &[
    key("memory.limit", &["memory.max"], &["memory.limit_in_bytes"], "bytes; less than 0: no limit"),
    key(
        "memory.swap",
        &["memory.swap.max"],
        &["memory.memsw.limit_in_bytes"],
        "v2: swap − limit; v1: as given, the sum",
    ),
    key(
        "memory.reservation",
        &["memory.low"],
        &["memory.soft_limit_in_bytes"],
        "bytes; less than 0: `max` (v2), -1 (v1)",
    ),
    key("memory.swappiness", &[], &["memory.swappiness"], "as given"),
    key("memory.disableOOMKiller", &[], &["memory.oom_control"], "true: 1, false: 0"),
    key(
        "cpu.shares",
        &["cpu.weight"],
        &["cpu.shares"],
        "v2: ⌈10^((l² + 125·l)/612 − 7/34)⌉, l = log2(shares); not beside idle",
    ),
    key(
        "cpu.quota",
        &["cpu.max"],
        &["cpu.cfs_quota_us"],
        "v2: `quota period`, without period the present one stays; less than 0: no limit",
    ),
    key("cpu.period", &["cpu.max"], &["cpu.cfs_period_us"], "v2: without quota the present one stays"),
    key("cpu.burst", &["cpu.max.burst"], &["cpu.cfs_burst_us"], "as given"),
    key("cpu.idle", &["cpu.idle"], &["cpu.idle"], "true: 1, false: 0"),
    key("cpu.realtimeRuntime", &[], &["cpu.rt_runtime_us"], "as given"),
    key("cpu.realtimePeriod", &[], &["cpu.rt_period_us"], "as given"),
    key("cpu.cpus", &["cpuset.cpus"], &["cpuset.cpus"], "as given"),
    key("cpu.mems", &["cpuset.mems"], &["cpuset.mems"], "as given"),
    key("pids.limit", &["pids.max"], &["pids.max"], "0: 1; less than 0: `max`"),
    key(
        "blockIO.weight",
        &["io.bfq.weight | io.weight"],
        &["blkio.bfq.weight | blkio.weight"],
        "v2: `default W`, in io.weight W is 1 + (weight − 10)·9999/990; v1: as given",
    ),
    key("blockIO.leafWeight", &[], &["blkio.leaf_weight"], "as given"),
    key(
        "blockIO.weightDevice.weight",
        &["io.bfq.weight | io.weight"],
        &["blkio.bfq.weight_device | blkio.weight_device"],
        "`MAJ:MIN W`; io.weight: as above",
    ),
    key("blockIO.weightDevice.leafWeight", &[], &["blkio.leaf_weight_device"], "`MAJ:MIN W`"),
    key(
        "blockIO.throttleReadBpsDevice",
        &["io.max"],
        &["blkio.throttle.read_bps_device"],
        "v2: `MAJ:MIN rbps=N`, one line for each device; 0: `max`; v1: `MAJ:MIN N`",
    ),
    key(
        "blockIO.throttleWriteBpsDevice",
        &["io.max"],
        &["blkio.throttle.write_bps_device"],
        "the same, wbps",
    ),
    key(
        "blockIO.throttleReadIOPSDevice",
        &["io.max"],
        &["blkio.throttle.read_iops_device"],
        "the same, riops",
    ),
    key(
        "blockIO.throttleWriteIOPSDevice",
        &["io.max"],
        &["blkio.throttle.write_iops_device"],
        "the same, wiops",
    ),
    key(
        "hugepageLimits",
        &["hugetlb.SIZE.max", "hugetlb.SIZE.rsvd.max"],
        &["hugetlb.SIZE.limit_in_bytes", "hugetlb.SIZE.rsvd.limit_in_bytes"],
        "bytes; rsvd where the kernel has it",
    ),
    key("network.classID", &[], &["net_cls.classid"], "as given"),
    key("network.priorities", &[], &["net_prio.ifpriomap"], "`interface priority`"),
    key("rdma", &["rdma.max"], &["rdma.max"], "`device hca_handle=N hca_object=M`"),
    key("unified", &["KEY"], &[], "as given, after everything else"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use coracle_plan::{BlockIo, Rdma, Resources, Throttle, WeightDevice};

    use super::*;
    use crate::convert::{self, Missing, Now, Write};

    const BEGIN: &str = "<!-- table: made by `BLESS=1 cargo test -p coracle-cgroup table` -->\n";
    const END: &str = "<!-- end of table -->\n";

    fn table() -> String {
        let cell = |files: &[&str]| match files {
            [] => "–".to_string(),
            files => files
                .iter()
                .flat_map(|file| file.split(" | "))
                .map(|file| format!("`{file}`"))
                .collect::<Vec<_>>()
                .join(if files.len() > 1 { ", " } else { ", else " }),
        };
        let mut text = "| `linux.resources` | cgroup2 | v1 | value |\n|---|---|---|---|\n".to_string();
        for key in KEYS {
            text += &format!("| {} | {} | {} | {} |\n", key.oci, cell(key.v2), cell(key.v1), key.rule);
        }
        text
    }

    #[test]
    fn the_document_shows_this_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cgroups.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (shown, after) = rest.split_once(END).unwrap();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        } else {
            assert_eq!(shown, table(), "BLESS=1 writes it anew");
        }
    }

    /// Every member is named: one more does not compile until it has its place here.
    fn everything() -> Resources {
        let throttle = || vec![Throttle { major: 8, minor: 0, rate: 5 }];
        Resources {
            memory_limit: Some(100),
            memory_reservation: Some(50),
            memory_swap: Some(150),
            memory_swappiness: Some(10),
            disable_oom_killer: Some(true),
            check_before_update: true,
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            cpu_burst: Some(1_000),
            cpu_realtime_runtime: Some(1_000),
            cpu_realtime_period: Some(1_000_000),
            cpu_idle: Some(false),
            cpus: Some("0".to_string()),
            mems: Some("0".to_string()),
            pids_limit: Some(7),
            block_io: BlockIo {
                weight: Some(500),
                leaf_weight: Some(500),
                weight_device: vec![WeightDevice {
                    major: 8,
                    minor: 0,
                    weight: Some(10),
                    leaf_weight: Some(20),
                }],
                read_bps: throttle(),
                write_bps: throttle(),
                read_iops: throttle(),
                write_iops: throttle(),
            },
            hugepage_limits: vec![("2MB".to_string(), 1 << 21)],
            network_class_id: Some(0x10_0001),
            network_priorities: vec![("eth0".to_string(), 5)],
            rdma: vec![Rdma { device: "mlx5_0".to_string(), hca_handles: Some(2), hca_objects: Some(3) }],
            unified: vec![("memory.high".to_string(), "99".to_string())],
            devices: Vec::new(),
            devices_optional: false,
        }
    }

    fn files(writes: &[Write]) -> BTreeSet<String> {
        let name = |write: &Write| match &write.missing {
            Missing::Instead { file, .. } => format!("{} | {file}", write.file),
            _ => write.file.replace("2MB", "SIZE"),
        };
        writes.iter().map(name).collect()
    }

    fn named(column: impl Fn(&Key) -> &'static [&'static str]) -> BTreeSet<String> {
        let files = KEYS.iter().flat_map(column).map(|file| file.to_string());
        files.filter(|file| file != "KEY").collect()
    }

    #[test]
    fn what_is_written_is_what_the_table_says() {
        let all = everything();
        convert::check(&all, &Now::default()).unwrap();
        assert_eq!(files(&convert::v2(&all, &Now::default())), named(|key| key.v2));
        assert_eq!(files(&convert::v1(&all)), named(|key| key.v1));
        assert_eq!(files(&convert::unified(&all)), BTreeSet::from(["memory.high".to_string()]));
    }

    #[test]
    fn what_only_v1_has_is_what_the_table_says() {
        let v1_alone: BTreeSet<String> = KEYS
            .iter()
            .filter(|key| key.v2.is_empty())
            .flat_map(|key| key.v1)
            .map(|file| file.to_string())
            .collect();
        let writes: Vec<Write> =
            convert::v1(&everything()).into_iter().filter(|write| write.only_v1).collect();
        assert_eq!(files(&writes), v1_alone);
    }
}
