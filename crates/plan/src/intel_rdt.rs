// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.intelRdt`: a resctrl group, its schemata and its monitoring.
//!
//! Never knows which resources the machine has: the kernel checks the lines. To [`crate::Outside`].

use oci_spec::runtime::Linux;

use crate::check::Check;
use crate::types::{Host, IntelRdt, Options};

pub(crate) fn plan(
    linux: Option<&Linux>,
    host: &Host,
    options: &Options,
    check: &mut Check,
) -> Option<IntelRdt> {
    const PLACE: &str = "linux.intelRdt";
    let given = linux.and_then(|l| l.intel_rdt().as_ref())?;
    if host.resctrl.is_empty() {
        check.violation(PLACE, "resctrl is not mounted on this host");
    }
    let named = given.clos_id().as_deref().filter(|id| !id.is_empty());
    if let Some(id) = named
        && id != "/"
        && (matches!(id, "." | "..") || id.contains(['/', '\n', '\0']))
    {
        check.refuse(format!("{PLACE}.closID"), "must be / or the name of one directory", id);
    }
    let mut schemata: Vec<String> = Vec::new();
    let bandwidth = given.mem_bw_schema().as_deref().unwrap_or_default();
    for line in given.l3_cache_schema().as_deref().unwrap_or_default().lines() {
        // The bandwidth has a field of its own, which wins.
        if !line.is_empty() && (bandwidth.is_empty() || !line.starts_with("MB:")) {
            check.text(&format!("{PLACE}.l3CacheSchema"), line);
            schemata.push(line.to_string());
        }
    }
    if !bandwidth.is_empty() {
        if !bandwidth.starts_with("MB:") || bandwidth.contains(['\n', '\0']) {
            check.refuse(format!("{PLACE}.memBwSchema"), "must be one line that begins with MB:", bandwidth);
        }
        schemata.push(bandwidth.to_string());
    }
    for (i, line) in given.schemata().iter().flatten().enumerate() {
        if line.is_empty() || line.contains(['\n', '\0']) {
            check.refuse(format!("{PLACE}.schemata[{i}]"), "must be one line", line);
        }
        schemata.push(line.clone());
    }
    #[allow(deprecated)]
    let old_monitoring = given.enable_cmt().unwrap_or(false) || given.enable_mbm().unwrap_or(false);
    if old_monitoring {
        check.warn(PLACE, "enableCMT and enableMBM are gone from the specification, use enableMonitoring");
    }
    let group = match named {
        Some("/") => String::new(),
        Some(id) => id.to_string(),
        None => options.id.clone(),
    };
    Some(IntelRdt {
        group,
        named: named.is_some(),
        schemata,
        monitoring: given.enable_monitoring().unwrap_or(false),
    })
}
