// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the parser accepts and refuses; the b numbers are those of the project's list of bad inputs.
//!
//! Never reads files but those of tests/data, at compile time.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod facts;

use coracle_plan::parse;
use facts::{base, with};
use proptest::prelude::*;
use serde_json::json;

const DEFAULT: &[u8] = include_bytes!("data/default.json");
const DOCKER: &[u8] = include_bytes!("data/docker.json");
const RESOURCES: &[u8] = include_bytes!("data/resources-systemd.json");

#[track_caller]
fn errors(document: impl AsRef<[u8]>) -> Vec<String> {
    match parse(document.as_ref()) {
        Ok(_) => panic!("accepted"),
        Err(violations) => violations.iter().map(ToString::to_string).collect(),
    }
}

#[track_caller]
fn error(document: impl AsRef<[u8]>, wanted: &[&str]) {
    let errors = errors(document);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    for text in wanted {
        assert!(errors[0].contains(text), "wanted {text:?}, got {:?}", errors[0]);
    }
    assert!(!errors[0].contains('\n') && errors[0].len() < 700, "{:?}", errors[0]);
}

/// The base document as text, with one piece of it exchanged.
#[track_caller]
fn exchanged(old: &str, new: &str) -> String {
    let text = serde_json::to_string_pretty(&base()).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old}");
    text.replace(old, new)
}

#[test]
fn b02_empty_or_marked() {
    error("", &["line 1 column 0"]);
    error("  \n ", &["line 2 column 1"]);
    error(b"\xef\xbb\xbf{}", &["byte order mark", "line 1 column 1"]);
    error(b"\xff\xfe{\0}\0", &["byte order mark", "UTF-16", "line 1 column 1"]);
    error(b"\xfe\xff\0{\0}", &["byte order mark"]);
    error(b"{\0}\0", &["line 1 column"]);
}

#[test]
fn b03_truncated_at_every_byte() {
    let end = DEFAULT.iter().rposition(|&b| b == b'}').unwrap();
    for length in 0..=end {
        error(&DEFAULT[..length], &[" at line "]);
    }
    assert!(parse(&DEFAULT[..=end]).is_ok());
}

#[test]
fn b04_trailing_garbage() {
    let text = base().to_string();
    error(format!("{text} {text}"), &["trailing characters", "line 1 column"]);
    error(format!("{text}\n]"), &["trailing characters", "line 2 column 1"]);
    assert!(parse(format!("{text}\n\n").as_bytes()).is_ok());
}

#[test]
fn b05_not_unicode() {
    let mut text = base().to_string().into_bytes();
    let at = text.windows(9).position(|w| w == b"/bin/true").unwrap();
    text[at] = 0xff;
    error(&text, &["invalid unicode", "line 1 column"]);
    error(exchanged("\"/bin/true\"", "\"\\ud800\""), &["line"]);
    error(exchanged("\"ociVersion\"", "\"\\ud800\": 1, \"ociVersion\""), &["line"]);
}

#[test]
fn b06_duplicate_keys_at_any_depth() {
    error(exchanged("\"cwd\"", "\"args\": [], \"cwd\""), &["process.args: the key is given twice"]);
    error(exchanged("\"root\"", "\"root\": {}, \"root\""), &["root: the key is given twice"]);
    let unknown = exchanged("\"ociVersion\"", "\"x\": [{\"a\": {\"b\": 1, \"b\": 1}}], \"ociVersion\"");
    error(unknown, &["x[0].a.b: the key is given twice"]);
    let escaped = exchanged("\"cwd\"", "\"\\u0063wd\": \"/\", \"cwd\"");
    error(escaped, &["process.cwd: the key is given twice"]);
    let two = exchanged("\"cwd\"", "\"cwd\": 1, \"cwd\": 2, \"cwd\"");
    assert_eq!(errors(two).len(), 2);
}

#[test]
fn b07_nesting() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"x\":{}1{}}}", open.repeat(10_000), close.repeat(10_000));
        error(deep, &["recursion limit"]);
        error(open.repeat(1_000_000), &["recursion limit"]);
    }
}

#[test]
fn b09_unknown_properties_are_ignored() {
    let document = with(&[("/x", json!({"y": [[]]})), ("/linux/future", json!([1.5, null]))]);
    assert!(parse(document.to_string().as_bytes()).unwrap().1.is_empty());
}

#[test]
fn b10_wrong_types_name_their_place() {
    for (old, new, place) in [
        ("\"uid\": 0", "\"uid\": \"0\"", "process.user.uid: "),
        ("\"cwd\": \"/\"", "\"cwd\": null", "process.cwd: "),
        ("\"cwd\": \"/\"", "\"cwd\": {}", "process.cwd: "),
        ("\"type\": \"ipc\"", "\"type\": 1", "linux.namespaces[2].type: "),
        ("\"type\": \"ipc\"", "\"type\": \"foo\"", "linux.namespaces[2].type: "),
        ("\"type\": \"ipc\"", "\"path\": \"/x\"", "linux.namespaces[2]: missing field `type`"),
        ("\"source\": \"proc\"", "\"source\": 1", "mounts[0].source: "),
        ("\"destination\": \"/proc\"", "\"x\": 1", "mounts[0]: missing field `destination`"),
    ] {
        error(exchanged(old, new), &[place, " at line ", " column "]);
    }
    // Go's encoders write null for a slice or pointer that is not set.
    assert!(
        parse(with(&[("/hooks", json!(null)), ("/linux/sysctl", json!(null))]).to_string().as_bytes())
            .is_ok()
    );
}

#[test]
fn b10_arrays_are_not_objects() {
    for (pointer, place) in [
        ("/root", "root: must be an object"),
        ("/hooks", "hooks: must be an object"),
        ("/process/user", "process.user: must be an object"),
        ("/mounts/0", "mounts[0]: must be an object"),
        ("/linux/namespaces/0", "linux.namespaces[0]: must be an object"),
        ("/linux/resources/memory", "linux.resources.memory: must be an object"),
    ] {
        error(with(&[(pointer, json!(["rootfs"]))]).to_string(), &[place]);
    }
}

#[test]
fn b12_numbers() {
    for number in ["1.0", "1e3", "-0", "-1", "4294967296", "18446744073709551616", "1.5"] {
        error(exchanged("\"uid\": 0", &format!("\"uid\": {number}")), &["process.user.uid: "]);
    }
    let limit = exchanged(
        "\"cwd\"",
        "\"rlimits\": [{\"type\":\"RLIMIT_CORE\",\"hard\":18446744073709551615}], \"cwd\"",
    );
    assert!(parse(limit.as_bytes()).is_ok());
}

#[test]
fn b13_nul_in_any_string() {
    error(
        exchanged("\"/bin/true\"", "\"/bin\\u0000\""),
        &["process.args[0]: must not hold a NUL (got /bin\\u{0})"],
    );
    error(
        exchanged("\"source\": \"proc\"", "\"source\": \"\\u0000\""),
        &["mounts[0].source: must not hold a NUL"],
    );
    error(
        exchanged("\"ociVersion\"", "\"x\\u0000\": 1, \"ociVersion\""),
        &["x\\u{0}: a key must not hold a NUL"],
    );
    error(
        exchanged("\"ociVersion\"", "\"x\": [[\"\\u0000\"]], \"ociVersion\""),
        &["x[0][0]: must not hold a NUL"],
    );
}

#[test]
fn b14_top_level() {
    for document in ["[]", "[\"1.0.2\"]"] {
        error(document, &["must be an object (got an array)"]);
    }
    for document in ["\"x\"", "1", "null", "true"] {
        error(document, &["invalid type", "line 1 column"]);
    }
}

#[test]
fn b57_unknown_capabilities_are_dropped_with_a_warning() {
    let document = with(&[(
        "/process/capabilities",
        json!({"bounding": ["CAP_FUTURE", "CAP_KILL", "kill", "cap_chown", "CAP_CAP_KILL"], "effective": ["X", "Y"]}),
    )]);
    let (spec, warnings) = parse(document.to_string().as_bytes()).unwrap();
    let capabilities = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
    assert!(capabilities.effective().as_ref().unwrap().is_empty());
    let places: Vec<&str> = warnings.iter().map(|w| w.place.as_str()).collect();
    assert_eq!(places.len(), 6);
    assert_eq!(places[0], "process.capabilities.bounding[0]");
    assert!(warnings[0].text.contains("CAP_FUTURE"));
}

#[test]
fn an_error_beside_a_repair_keeps_its_position() {
    let text = exchanged("\"cwd\": \"/\"", "\"cwd\": 1, \"capabilities\": {\"bounding\": [\"CAP_FUTURE\"]}");
    let line = text.lines().position(|line| line.contains("\"cwd\"")).unwrap() + 1;
    error(text, &["process.cwd: invalid type: integer `1`", &format!("at line {line} column ")]);
}

#[test]
fn scheduler_flags_by_the_names_of_the_specification() {
    let flags = json!(["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"]);
    let document = with(&[("/process/scheduler", json!({"policy": "SCHED_OTHER", "flags": flags}))]);
    let (spec, warnings) = parse(document.to_string().as_bytes()).unwrap();
    let scheduler = spec.process().as_ref().unwrap().scheduler().as_ref().unwrap();
    assert_eq!(scheduler.flags().as_ref().unwrap().len(), 3);
    assert!(warnings.is_empty());
}

#[test]
fn go_spellings_of_absent() {
    let devices = json!([{"allow": false, "type": "", "access": "rwm"}]);
    let document = with(&[("/linux/resources", json!({"pids": {}, "devices": devices}))]);
    let (spec, _) = parse(document.to_string().as_bytes()).unwrap();
    let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
    assert!(resources.pids().is_none());
    assert!(resources.devices().as_ref().unwrap()[0].typ().is_none());
}

/// The types' crate has one bit less than the specification, and no way to tell 0 from nothing.
#[test]
fn huge_page_limits() {
    let limit = |entry: serde_json::Value| with(&[("/linux/resources", json!({"hugepageLimits": [entry]}))]);
    let most = limit(json!({"pageSize": "2MB", "limit": u64::MAX}));
    let (spec, warnings) = parse(most.to_string().as_bytes()).unwrap();
    let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
    assert_eq!(resources.hugepage_limits().as_ref().unwrap()[0].limit(), i64::MAX);
    assert!(warnings.is_empty());
    let missing = limit(json!({"pageSize": "2MB"})).to_string();
    error(missing, &["linux.resources.hugepageLimits[0]: needs a limit"]);
}

#[test]
fn long_and_hostile_values_stay_one_line() {
    let long = format!("\"\\u001b[31m\\n{}\"", "x".repeat(100_000));
    error(exchanged("\"uid\": 0", &format!("\"uid\": {long}")), &["process.user.uid: ", " at line "]);
    let key = format!("\"\\n{}\"", "k".repeat(100_000));
    error(
        exchanged("\"ociVersion\"", &format!("{key}: \"\\u0000\", \"ociVersion\"")),
        &["must not hold a NUL"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(
        docker: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut document = if docker { DOCKER.to_vec() } else { DEFAULT.to_vec() };
        for (at, byte) in changes {
            let at = at.index(document.len());
            document[at] = byte;
        }
        outcome_is_sound(&document);
    }

    #[test]
    fn cut_and_joined_pieces_never_panic(
        from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(),
    ) {
        let (from, to, at) = (from.index(DOCKER.len()), to.index(DOCKER.len()), at.index(DOCKER.len()));
        let piece = &DOCKER[from.min(to)..from.max(to)];
        outcome_is_sound(&[&DOCKER[..at], piece, &DOCKER[at..]].concat());
        outcome_is_sound(piece);
    }

    #[test]
    fn exchanged_values_never_panic(
        at in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            json!(null), json!(-1), json!(0), json!(u64::MAX), json!(i64::MIN), json!(1.5), json!(""), json!("/"),
            json!(".."), json!("é\n\u{202e}"), json!([]), json!({}), json!([""]), json!([null]), json!(true),
        ]),
    ) {
        let mut document: serde_json::Value = serde_json::from_slice(DOCKER).unwrap();
        let mut leaves = Vec::new();
        pointers(&document, String::new(), &mut leaves);
        let pointer = &leaves[at.index(leaves.len())];
        *document.pointer_mut(pointer).unwrap() = value;
        outcome_is_sound(document.to_string().as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each field of the resources exchanged for a value at or beyond its limits, on every kind of host.
    #[test]
    fn exchanged_resources_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), resource_value()), 1..6),
        systemd: bool, strict: bool,
    ) {
        let mut document: serde_json::Value = serde_json::from_slice(RESOURCES).unwrap();
        for (at, value) in changes {
            let mut leaves = Vec::new();
            pointers(&document["linux"], "/linux".to_string(), &mut leaves);
            let pointer = &leaves[at.index(leaves.len())];
            *document.pointer_mut(pointer).unwrap() = value;
        }
        let options = coracle_plan::Options {
            systemd_cgroup: systemd, strict, cgroup_leaf: true, allow_annotations: true, ..facts::options()
        };
        for host in [facts::host(), facts::hybrid(), facts::v1(), facts::user()] {
            outcome_on(document.to_string().as_bytes(), &host, &options);
        }
    }
}

fn resource_value() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        (-3i64..5000).prop_map(|n| json!(n)),
        "[a-z0-9:=./\\n -]{0,12}(\\.slice)?(:[a-z.-]{0,6}){0,2}".prop_map(|text| json!(text)),
        prop::sample::select(vec![
            json!(null),
            json!(true),
            json!(""),
            json!("p"),
            json!("a"),
            json!("2MB"),
            json!("0-3,7"),
            json!([]),
            json!({}),
            json!([{}]),
            json!([null]),
            json!({"cgroup.procs": "1"}),
            json!({"a.b": "\n"}),
            json!(1.5),
        ]),
    ]
}

/// Every place of a document, as a JSON pointer.
fn pointers(value: &serde_json::Value, at: String, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| pointers(value, format!("{at}/{}", key.replace('/', "~1")), found)),
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| pointers(value, format!("{at}/{i}"), found));
        }
        _ => {}
    }
    found.push(at);
}

/// Either a plan that can be printed, or reasons that can.
fn outcome_is_sound(document: &[u8]) {
    outcome_on(document, &facts::host(), &facts::options());
}

fn outcome_on(document: &[u8], host: &coracle_plan::Host, options: &coracle_plan::Options) {
    match parse(document).and_then(|(spec, _)| coracle_plan::plan(&spec, host, options)) {
        Ok(plan) => {
            let text = coracle_plan::explain(&plan);
            let headings = text.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase())).count();
            assert_eq!(text.lines().count() - headings, plan.steps.len(), "{text}");
        }
        Err(violations) => {
            assert!(!violations.is_empty());
            for violation in violations {
                let line = violation.to_string();
                assert!(!line.is_empty() && !line.chars().any(char::is_control), "{line:?}");
            }
        }
    }
}
