// SPDX-License-Identifier: MIT OR Apache-2.0
//! config.json's bytes → Spec.
//!
//! Never accepts what two readers could read differently (duplicate keys, arrays for objects, NULs), and never
//! fails for what the specification says to tolerate (unknown capabilities). Reads the bytes twice: once for their
//! shape, once into types; a third time only to repair.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use oci_spec::runtime::{LinuxResources, Spec};
use serde::de::DeserializeOwned;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::capabilities;
use crate::check::{Check, shorten, shown};
use crate::seccomp;
use crate::types::{Violation, Warning};

/// Nobody reads more, and a document may hold millions.
const MAX_VIOLATIONS: usize = 100;

/// Parses a document. The caller has limited its size. Warnings are for what was dropped or changed.
pub fn parse(document: &[u8]) -> Result<(Spec, Vec<Warning>), Vec<Violation>> {
    parse_below(document, &[])
}

/// Parses `linux.resources` alone. Places are those of a whole document.
pub fn parse_resources(document: &[u8]) -> Result<(LinuxResources, Vec<Warning>), Vec<Violation>> {
    parse_below(document, &["linux", "resources"])
}

/// `base` is where the document's value would be in a whole one.
fn parse_below<T: DeserializeOwned>(
    document: &[u8],
    base: &[&str],
) -> Result<(T, Vec<Warning>), Vec<Violation>> {
    if let Some(name) = byte_order_mark(document) {
        return Err(vec![Violation {
            place: String::new(),
            rule: format!("must be UTF-8 without a byte order mark (got {name} at line 1 column 1)"),
        }]);
    }
    let base: Vec<Segment> = base.iter().map(|key| Segment::Key(key.to_string())).collect();
    let mut scan = Scan { path: base.clone(), ..Scan::default() };
    let mut reader = serde_json::Deserializer::from_slice(document);
    let shape = Node { scan: &mut scan }.deserialize(&mut reader);
    if let Err(error) = shape.and_then(|()| reader.end()) {
        let place = if error.is_data() { path_text(&scan.path) } else { String::new() };
        return Err(vec![Violation { place, rule: message(&error) }]);
    }
    if !scan.check.violations.is_empty() {
        return Err(scan.check.violations);
    }
    if scan.repairs.is_empty() {
        // To know the place of an error takes a string for each key: only where there is one.
        if let Ok(typed) = serde_json::from_slice::<T>(document) {
            return Ok((typed, scan.check.warnings));
        }
        let mut typed = serde_json::Deserializer::from_slice(document);
        return serde_path_to_error::deserialize::<_, T>(&mut typed)
            .map(|typed| (typed, scan.check.warnings))
            .map_err(|error| vec![violation(document, &base, error)]);
    }
    let mut value: Value = match serde_json::from_slice(document) {
        Ok(value) => value,
        Err(error) => return Err(vec![Violation { place: String::new(), rule: message(&error) }]),
    };
    // From the last to the first, so that removing from a list does not move what is yet to be removed.
    for repair in scan.repairs.iter().rev() {
        repair.apply(base.len(), &mut value);
    }
    match serde_path_to_error::deserialize::<_, T>(value) {
        Ok(spec) => Ok((spec, scan.check.warnings)),
        Err(error) => Err(vec![violation(document, &base, error)]),
    }
}

fn byte_order_mark(document: &[u8]) -> Option<&'static str> {
    [(&b"\xef\xbb\xbf"[..], "UTF-8's"), (b"\xff\xfe", "UTF-16's"), (b"\xfe\xff", "UTF-16's")]
        .into_iter()
        .find(|(mark, _)| document.starts_with(mark))
        .map(|(_, name)| name)
}

fn violation(
    document: &[u8],
    base: &[Segment],
    error: serde_path_to_error::Error<serde_json::Error>,
) -> Violation {
    let above = path_text(base);
    let place = match error.path().to_string() {
        path if path == "." => above,
        path if above.is_empty() => shorten(&path, 200),
        path => shorten(&format!("{above}.{path}"), 200),
    };
    let inner = error.inner();
    if inner.line() != 0 {
        return Violation { place, rule: message(inner) };
    }
    // A value in memory has no position; the document has.
    let position =
        locate(document, base, &place).map(|(line, column)| format!(" at line {line} column {column}"));
    Violation { place, rule: format!("{}{}", message(inner), position.unwrap_or_default()) }
}

/// serde_json's message on one line, with its position at the end even when the value in it is long.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&position) {
        Some(text) => format!("{}{position}", shorten(text, 300)),
        None => shorten(&text, 300),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

fn path_text(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Index(index) => text.push_str(&format!("[{index}]")),
            Segment::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&shown(key));
            }
        }
    }
    text
}

/// What to change before the strict types can read the document.
#[derive(Debug)]
struct Repair {
    path: Vec<Segment>,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Remove,
    Replace(Value),
}

impl Repair {
    /// `above`: how much of the path is above the value.
    fn apply(&self, above: usize, value: &mut Value) {
        let Some((last, parents)) = self.path.get(above..).and_then(|path| path.split_last()) else {
            return;
        };
        let parent = parents.iter().try_fold(value, |value, segment| match segment {
            Segment::Key(key) => value.get_mut(key),
            Segment::Index(index) => value.get_mut(index),
        });
        match (parent, last, &self.change) {
            (Some(Value::Array(list)), Segment::Index(index), Change::Remove) if *index < list.len() => {
                list.remove(*index);
            }
            (Some(Value::Array(list)), Segment::Index(index), Change::Replace(new))
                if *index < list.len() =>
            {
                list[*index] = new.clone();
            }
            (Some(Value::Object(map)), Segment::Key(key), Change::Replace(new)) => {
                map.insert(key.clone(), new.clone());
            }
            (Some(Value::Object(map)), Segment::Key(key), Change::Remove) => {
                map.remove(key);
            }
            _ => {}
        }
    }
}

/// The walk over a document's shape.
#[derive(Debug, Default)]
struct Scan {
    path: Vec<Segment>,
    check: Check,
    repairs: Vec<Repair>,
    /// linux.seccomp has rules, and a default action that is not empty.
    seccomp_rules: bool,
    seccomp_action: bool,
    /// Stop here: [`locate`] wants the position of this place.
    target: Option<String>,
}

impl Scan {
    fn violation(&mut self, rule: String) {
        if self.check.violations.len() < MAX_VIOLATIONS {
            let place = path_text(&self.path);
            self.check.violation(place, rule);
        }
    }

    fn string(&mut self, text: &str) {
        if text.contains('\0') {
            self.violation(format!("must not hold a NUL (got {})", shown(text)));
        }
        let is = |at: usize, name: &str| matches!(self.path.get(at), Some(Segment::Key(key)) if key == name);
        if is(1, "seccomp") && is(0, "linux") {
            if is(2, "defaultAction") {
                self.seccomp_action = !text.is_empty();
                if text.is_empty() {
                    return;
                }
            }
            // All of them, where the types would stop at the first one. Most of the strings are names of syscalls.
            if !is(4, "names")
                && let Some(rule) = seccomp::unknown_name(&self.shape(), text)
            {
                self.violation(crate::check::refusal(rule, text));
            }
            return;
        }
        // Most strings are elsewhere; a shape costs an allocation.
        if self.path.len() < 4 {
            return;
        }
        let change = match self.shape().as_slice() {
            ["process", "capabilities", _, "[]"] if !capabilities::is_known(text) => {
                let place = path_text(&self.path);
                self.check.warn(place, format!("unknown capability {}, dropped", shown(text)));
                Change::Remove
            }
            // The types' crate spells these two in its own way.
            ["process", "scheduler", "flags", "[]"] => match text {
                "SCHED_FLAG_RESET_ON_FORK" => Change::Replace("SCHED_RESET_ON_FORK".into()),
                "SCHED_FLAG_DL_OVERRUN" => Change::Replace("SCHED_FLAG_D_L_OVERRUN".into()),
                _ => return,
            },
            // Go's encoders write an empty string for what was not given.
            ["linux", "resources", "devices", "[]", "type"] if text.is_empty() => Change::Remove,
            _ => return,
        };
        self.repairs.push(Repair { path: self.path.clone(), change });
    }

    /// runc's types have no other word for "no profile", and write it so (runc libcontainer/specconv, SetupSeccomp).
    fn seccomp_without_action(&mut self) {
        if self.seccomp_rules {
            self.path.push(Segment::Key("defaultAction".into()));
            self.violation("is missing: there are rules, but nothing for all other calls".to_string());
            self.path.pop();
        } else {
            let place = path_text(&self.path);
            self.check.warn(place, "has neither a defaultAction nor a rule: no filter");
            self.repairs.push(Repair { path: self.path.clone(), change: Change::Remove });
        }
    }

    fn number(&mut self, number: u64) {
        // The specification has 64 bits here, the types have 63; either is more than any memory.
        if number > i64::MAX as u64
            && matches!(self.shape().as_slice(), ["linux", "resources", "hugepageLimits", "[]", "limit"])
        {
            self.repairs.push(Repair { path: self.path.clone(), change: Change::Replace(i64::MAX.into()) });
        }
    }

    /// Is the path of this shape?
    fn is_at(&self, shape: &[&str]) -> bool {
        let same = |(segment, name): (&Segment, &&str)| match segment {
            Segment::Key(key) => key == name,
            Segment::Index(_) => *name == "[]",
        };
        self.path.len() == shape.len() && self.path.iter().zip(shape).all(same)
    }

    /// The path with `[]` for every index.
    fn shape(&self) -> Vec<&str> {
        self.path
            .iter()
            .map(|segment| match segment {
                Segment::Key(key) => key.as_str(),
                Segment::Index(_) => "[]",
            })
            .collect()
    }

    /// Is this where the specification has an object? serde would take an array for one, field by field.
    fn wants_object(&self) -> bool {
        match self.shape().as_slice() {
            [] => true,
            [top] => matches!(*top, "root" | "process" | "hooks" | "annotations" | "linux"),
            ["process", field] => matches!(
                *field,
                "user" | "consoleSize" | "capabilities" | "scheduler" | "ioPriority" | "execCPUAffinity"
            ),
            ["process", "rlimits", "[]"] | ["mounts", "[]"] | ["hooks", _, "[]"] => true,
            ["mounts", "[]", "uidMappings" | "gidMappings", "[]"] => true,
            ["linux", field] => matches!(
                *field,
                "resources"
                    | "seccomp"
                    | "sysctl"
                    | "intelRdt"
                    | "personality"
                    | "memoryPolicy"
                    | "timeOffsets"
                    | "netDevices"
            ),
            ["linux", "uidMappings" | "gidMappings" | "namespaces" | "devices", "[]"] => true,
            ["linux", "timeOffsets" | "netDevices", _] => true,
            ["linux", "resources", field] => {
                matches!(*field, "memory" | "cpu" | "pids" | "blockIO" | "network" | "rdma" | "unified")
            }
            ["linux", "resources", "devices" | "hugepageLimits", "[]"] => true,
            ["linux", "resources", "rdma", _] => true,
            ["linux", "resources", "blockIO" | "network", _, "[]"] => true,
            ["linux", "seccomp", "syscalls", "[]"] | ["linux", "seccomp", "syscalls", "[]", "args", "[]"] => {
                true
            }
            _ => false,
        }
    }
}

/// One value of the document, walked for [`Scan`]. Depth is limited by serde_json.
struct Node<'a> {
    scan: &'a mut Scan,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Some(target) = &self.scan.target
            && *target == path_text(&self.scan.path)
        {
            return Err(serde::de::Error::custom(""));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.scan.number(number);
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.scan.string(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.scan.wants_object() {
            self.scan.violation("must be an object (got an array)".to_string());
        }
        for index in 0.. {
            self.scan.path.push(Segment::Index(index));
            if list.next_element_seed(Node { scan: self.scan })?.is_none() {
                break;
            }
            self.scan.path.pop();
        }
        self.scan.path.pop();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys: BTreeSet<Cow<'de, str>> = BTreeSet::new();
        let pids = self.scan.is_at(&["linux", "resources", "pids"]);
        let huge_pages = self.scan.is_at(&["linux", "resources", "hugepageLimits", "[]"]);
        self.scan.seccomp_rules |= self.scan.is_at(&["linux", "seccomp", "syscalls", "[]"]);
        while let Some(Key(key)) = map.next_key()? {
            self.scan.path.push(Segment::Key(key.clone().into_owned()));
            if key.contains('\0') {
                self.scan.violation("a key must not hold a NUL".to_string());
            }
            if !keys.insert(key) {
                self.scan.violation("the key is given twice".to_string());
            }
            map.next_value_seed(Node { scan: self.scan })?;
            self.scan.path.pop();
        }
        // The types read an absent limit as 0, which would let no process live, and no huge page.
        if pids && !keys.contains("limit") {
            self.scan.repairs.push(Repair { path: self.scan.path.clone(), change: Change::Remove });
        }
        if self.scan.is_at(&["linux", "seccomp"]) && !self.scan.seccomp_action {
            self.scan.seccomp_without_action();
        }
        if huge_pages && !keys.contains("limit") {
            self.scan.violation("needs a limit".to_string());
        }
        Ok(())
    }
}

struct Key<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_string())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Line and column of a place.
fn locate(document: &[u8], base: &[Segment], place: &str) -> Option<(usize, usize)> {
    let mut scan = Scan { path: base.to_vec(), target: Some(place.to_string()), ..Scan::default() };
    let mut reader = serde_json::Deserializer::from_slice(document);
    let error = Node { scan: &mut scan }.deserialize(&mut reader).err()?;
    error.is_data().then(|| (error.line(), error.column()))
}
