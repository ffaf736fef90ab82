// SPDX-License-Identifier: MIT OR Apache-2.0
//! `update`: from the flags to the limits that they give.
//! Decides nothing about containers.
//! Options come from the command line, a document from a file or stdin.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use coracle_runtime::{
    Code, Error, Id, LinuxResources, PosixRlimit, Result, Runtime, UpdateOptions, parse_resources,
};
use serde_json::{Value, json};

use crate::flags::Options;
use crate::log::{Log, shown};

/// Bytes. What engines send has some kilobytes.
const LARGEST: u64 = 16 << 20;

/// (flag, its place in `linux.resources`, what it is).
const RESOURCES: [(&str, &str, Amount); 14] = [
    ("blkio-weight", "blockIO/weight", Amount::Number),
    ("cpu-period", "cpu/period", Amount::Number),
    ("cpu-quota", "cpu/quota", Amount::Number),
    ("cpu-burst", "cpu/burst", Amount::Number),
    ("cpu-share", "cpu/shares", Amount::Number),
    ("cpu-rt-period", "cpu/realtimePeriod", Amount::Number),
    ("cpu-rt-runtime", "cpu/realtimeRuntime", Amount::Number),
    ("cpu-idle", "cpu/idle", Amount::Number),
    ("cpuset-cpus", "cpu/cpus", Amount::Text),
    ("cpuset-mems", "cpu/mems", Amount::Text),
    ("memory", "memory/limit", Amount::Bytes),
    ("memory-reservation", "memory/reservation", Amount::Bytes),
    ("memory-swap", "memory/swap", Amount::Bytes),
    ("pids-limit", "pids/limit", Amount::Number),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Number,
    Bytes,
    Text,
}

pub(crate) fn update(runtime: &Runtime, id: &Id, options: &Options, log: &Log) -> Result<u8> {
    let resources = match &options.resources {
        Some(path) => {
            let (resources, warnings) = parse_resources(&read(path)?)
                .map_err(|error| error.during(format_args!("resources {}", shown(path.as_os_str()))))?;
            warnings.iter().for_each(|warning| log.warning(warning));
            resources
        }
        None => LinuxResources::default(),
    };
    let given = given(resources, options)?;
    let warnings = runtime.update(id, &given)?;
    warnings.iter().for_each(|warning| log.warning(warning));
    Ok(0)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::io(format_args!("read {}", shown(path.as_os_str())), &error);
    let source: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut document = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut document).map_err(failed)?;
    if document.len() as u64 > LARGEST {
        let text = format!("resources {} are larger than {LARGEST} bytes", shown(path.as_os_str()));
        return Err(Error::new(Code::Invalid, text));
    }
    Ok(document)
}

/// What the flags give, on top of a document. An empty value gives nothing.
fn given(document: LinuxResources, options: &Options) -> Result<UpdateOptions> {
    let limits: BTreeMap<&str, &str> = options
        .limits
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let text = |name: &str| limits.get(name).map(|text| text.to_string());
    let oom_score_adj = match limits.get("oom-score-adj") {
        Some(text) => Some(text.parse().map_err(|_| invalid("oom-score-adj", text, "a whole number"))?),
        None => None,
    };
    Ok(UpdateOptions {
        resources: on_top(document, &limits)?,
        rlimits: options.rlimits.iter().map(|text| rlimit(text)).collect::<Result<_>>()?,
        oom_score_adj,
        l3_cache_schema: text("l3-cache-schema"),
        mem_bw_schema: text("mem-bw-schema"),
    })
}

fn on_top(document: LinuxResources, limits: &BTreeMap<&str, &str>) -> Result<LinuxResources> {
    let unreadable = |error: serde_json::Error| Error::new(Code::Invalid, error.to_string());
    let mut value = serde_json::to_value(document).map_err(unreadable)?;
    for (name, place, amount) in RESOURCES {
        let Some(&text) = limits.get(name) else { continue };
        let number = || text.parse::<i64>().map_err(|_| invalid(name, text, "a whole number"));
        let given = match amount {
            Amount::Text => json!(text),
            Amount::Number => json!(number()?),
            Amount::Bytes => json!(bytes(text).ok_or_else(|| invalid(
                name,
                text,
                "a number of bytes, one as 64m or 1.5g, or -1"
            ))?),
        };
        let (object, member) = place.split_once('/').unwrap_or((place, ""));
        value[object][member] = given;
        // The types tell what fits, one flag at a time so that it can be named.
        serde_json::from_value::<LinuxResources>(value.clone())
            .map_err(|_| invalid(name, text, "it is out of range"))?;
    }
    serde_json::from_value(value).map_err(unreadable)
}

fn invalid(name: &str, text: &str, wanted: &str) -> Error {
    Error::new(Code::Invalid, format!("invalid value \"{}\" for --{name}: {wanted}", shown(text.as_ref())))
}

/// `64m`, `2g`, `1.5G`, `100kb`, `1 GiB`: multiples of 1024, as runc takes them; -1 is no limit.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..)?.to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let digits = digits.strip_suffix(' ').unwrap_or(digits);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |text: &str| !text.is_empty() && text.len() < 19 && text.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(part) {
        return None;
    }
    let fraction = (part.parse::<u128>().ok()? << shift) / 10_u128.pow(part.len() as u32);
    i64::try_from((whole.parse::<u128>().ok()? << shift) + fraction).ok()
}

/// `NAME=SOFT[:HARD]`, with or without RLIMIT_.
fn rlimit(text: &str) -> Result<PosixRlimit> {
    let wanted = "NAME=SOFT[:HARD], numbers or unlimited, as nofile=1024:4096";
    let wrong = || invalid("rlimit", text, wanted);
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "unlimited" | "infinity" | "-1" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| wrong()),
    };
    let upper = name.to_ascii_uppercase();
    let name = format!("RLIMIT_{}", upper.strip_prefix("RLIMIT_").unwrap_or(&upper));
    let value: Value = json!({"type": name, "soft": number(soft)?, "hard": number(hard)?});
    serde_json::from_value(value).map_err(|_| invalid("rlimit", text, "there is no limit of this name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_runcs() {
        for (text, wanted) in [
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64m", Some(64 << 20)),
            ("64MB", Some(64 << 20)),
            ("2g", Some(2 << 30)),
            ("1.5G", Some(3 << 29)),
            ("0.5k", Some(512)),
            ("1 GiB", Some(1 << 30)),
            ("10b", Some(10)),
            ("1P", Some(1 << 50)),
            ("9223372036854775807", None),
            ("-2", None),
            ("", None),
            ("m", None),
            (".5m", None),
            ("1.", None),
            ("1x", None),
            ("1e3", None),
            ("9999999p", None),
            ("é", None),
            ("+5", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn limits_of_a_process() {
        let limit = |text: &str| rlimit(text).map(|limit| (limit.soft(), limit.hard()));
        assert_eq!(limit("nofile=5"), Ok((5, 5)));
        assert_eq!(limit("RLIMIT_CORE=0:unlimited"), Ok((0, u64::MAX)));
        assert_eq!(limit("rlimit_nproc=-1"), Ok((u64::MAX, u64::MAX)));
        for bad in ["", "nofile", "nofile=", "nofile=1:", "=1", "frob=1", "nofile=1:2:3", "nofile=-2"] {
            assert!(limit(bad).unwrap_err().message.contains("--rlimit"), "{bad:?}");
        }
    }

    fn typed(limits: &[(&'static str, &str)]) -> Options {
        let limits = limits.iter().map(|(name, text)| (*name, text.to_string())).collect();
        Options { limits, ..Options::default() }
    }

    /// Each flag, on top of a document that has other values.
    #[test]
    fn flags_are_added_to_the_document() {
        let document =
            br#"{"memory": {"limit": 5, "swap": 9}, "cpu": {"quota": 4000}, "pids": {"limit": 3}}"#;
        let (document, _) = parse_resources(document).unwrap();
        let options = typed(&[
            ("memory", "1m"),
            ("cpu-period", "5000"),
            ("cpuset-cpus", "0"),
            ("pids-limit", "-1"),
            ("cpu-share", ""),
            ("oom-score-adj", "-7"),
            ("l3-cache-schema", "L3:0=f"),
        ]);
        let given = given(document, &options).unwrap();
        let value = serde_json::to_value(&given.resources).unwrap();
        let cpu = json!({"quota": 4000, "period": 5000, "cpus": "0"});
        assert_eq!(value["memory"]["limit"], json!(1 << 20));
        assert_eq!(value["memory"]["swap"], json!(9));
        assert_eq!((&value["cpu"], &value["pids"]), (&cpu, &json!({"limit": -1})));
        assert_eq!((given.oom_score_adj, given.l3_cache_schema.as_deref()), (Some(-7), Some("L3:0=f")));
        assert_eq!(given.mem_bw_schema, None);
        for (name, place, amount) in RESOURCES {
            let text = if amount == Amount::Text { "0-1" } else { "20" };
            let one = super::given(LinuxResources::default(), &typed(&[(name, text)])).unwrap();
            let value = serde_json::to_value(&one.resources).unwrap();
            let expected = if amount == Amount::Text { json!("0-1") } else { json!(20) };
            assert_eq!(value.pointer(&format!("/{place}")), Some(&expected), "--{name}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_refused_by_the_name_of_the_flag() {
        for (name, text) in [
            ("memory", "lots"),
            ("memory", "-2"),
            ("cpu-period", "-1"),
            ("cpu-share", "x"),
            ("blkio-weight", "70000"),
            ("pids-limit", "1.5"),
            ("cpu-idle", "yes"),
            ("oom-score-adj", "a\n"),
        ] {
            let error = given(LinuxResources::default(), &typed(&[(name, text)])).unwrap_err();
            assert!(error.message.contains(&format!("for --{name}: ")), "{error}");
            assert!(!error.message.contains('\n'), "{error}");
        }
    }
}
