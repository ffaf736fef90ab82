// SPDX-License-Identifier: MIT OR Apache-2.0
//! The systemd driver: `linux.cgroupsPath` as `slice:prefix:name`, and `org.systemd.property.*` annotations.
//!
//! Never escapes or repairs a name: what systemd would refuse is refused here. From the document to the
//! [`SystemdUnit`] that the runtime asks a manager for.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;

use crate::cgroup::PLACE;
use crate::check::{Check, shown};
use crate::types::{Host, Options, SystemdUnit};

/// UNIT_NAME_MAX of systemd, without the NUL.
const MAX_NAME: usize = 255;
const ROOT_SLICE: &str = "-.slice";
const PROPERTY: &str = "org.systemd.property.";

pub(crate) fn plan(
    spec: &Spec,
    given: &str,
    host: &Host,
    options: &Options,
    check: &mut Check,
) -> SystemdUnit {
    let user = host.euid != 0 || !host.initial_user_namespace;
    let default_slice = if user { "user.slice" } else { "system.slice" };
    let default;
    let path = if given.is_empty() {
        default = format!("{default_slice}:oar:{}", options.id);
        default.as_str()
    } else {
        given
    };
    let (slice, name) = match path.split(':').collect::<Vec<_>>().as_slice() {
        &[slice, prefix, name] => unit(slice, prefix, name, default_slice, path, check),
        _ => {
            check.refuse(PLACE, "must be slice:prefix:name for the systemd cgroup driver", path);
            (String::new(), String::new())
        }
    };
    SystemdUnit {
        slice,
        name,
        description: format!("oar container {}", options.id),
        user,
        properties: if options.allow_annotations { properties(spec, check) } else { Vec::new() },
    }
}

/// The slice, and the unit in it.
fn unit(
    slice: &str,
    prefix: &str,
    name: &str,
    default_slice: &str,
    path: &str,
    check: &mut Check,
) -> (String, String) {
    if name.is_empty() {
        check.refuse(PLACE, "the name must not be empty, it is slice:prefix:name", path);
        return (String::new(), String::new());
    }
    if name.ends_with(".slice") {
        // systemd places a slice by its name alone.
        let sound = check_slice("name", name, path, check);
        let parent = parent_slice(name);
        if sound && name == ROOT_SLICE {
            check.refuse(PLACE, "the name must not be the root slice", path);
        } else if sound && !slice.is_empty() && slice != parent {
            check.refuse(
                PLACE,
                &format!("systemd puts {name} into {parent}, so the slice must be that"),
                path,
            );
        }
        return (parent, name.to_string());
    }
    let slice = if slice.is_empty() { default_slice } else { slice };
    check_slice("slice", slice, path, check);
    let unit = match prefix {
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    };
    check_characters("unit name", &unit, path, check);
    // What is before the @ is a template's name, what is after it an instance's.
    if unit.starts_with(['.', '@']) || unit.ends_with("@.scope") {
        check.refuse(PLACE, "a unit name must not begin with . or @, or end with @", path);
    }
    (slice.to_string(), unit)
}

/// systemd's slice_name_is_valid(): each dash goes one level down.
fn check_slice(part: &str, slice: &str, path: &str, check: &mut Check) -> bool {
    let before = check.violations.len();
    let Some(stem) = slice.strip_suffix(".slice") else {
        check.refuse(PLACE, &format!("the {part} must end with .slice"), path);
        return false;
    };
    check_characters(part, slice, path, check);
    if slice.contains('@') {
        check.refuse(PLACE, &format!("the {part} must not hold @: a slice has no instances"), path);
    }
    if stem.is_empty() || stem.starts_with('.') {
        check.refuse(
            PLACE,
            &format!("the {part} must be a name before .slice, without a dot at its start"),
            path,
        );
    }
    let dashes = stem.starts_with('-') || stem.ends_with('-') || stem.contains("--");
    if slice != ROOT_SLICE && dashes {
        let rule = format!("the {part} must not begin or end with -, or have two in a row");
        check.refuse(PLACE, &rule, path);
    }
    check.violations.len() == before
}

/// `a-b.slice` of `a-b-c.slice`.
fn parent_slice(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    match stem.rsplit_once('-') {
        Some((parent, _)) if !parent.is_empty() => format!("{parent}.slice"),
        _ => ROOT_SLICE.to_string(),
    }
}

fn check_characters(part: &str, name: &str, path: &str, check: &mut Check) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if let Some(bad) = name.chars().find(|&c| !allowed(c)) {
        let bad = shown(&bad.to_string());
        check.refuse(
            PLACE,
            &format!("systemd allows letters, digits and :-_.\\@ in the {part}, not {bad}"),
            path,
        );
    }
    if name.len() > MAX_NAME {
        check.refuse(PLACE, &format!("the {part} has at most {MAX_NAME} bytes"), path);
    }
}

fn properties(spec: &Spec, check: &mut Check) -> Vec<(String, String)> {
    let mut properties = Vec::new();
    for (key, value) in spec.annotations().iter().flatten().collect::<BTreeMap<_, _>>() {
        let Some(name) = key.strip_prefix(PROPERTY) else {
            continue;
        };
        let place = format!("annotations[\"{}\"]", shown(key));
        if !name.starts_with(|c: char| c.is_ascii_uppercase())
            || !name.chars().all(|c| c.is_ascii_alphanumeric())
        {
            check.refuse(&place, "a unit property is letters and digits, the first a capital", name);
        }
        // They are the document's cgroupsPath, the container's process, and what makes the rest of this work.
        if ["Slice", "PIDs", "Delegate"].contains(&name) {
            check.refuse(&place, "is for the runtime to set", name);
        }
        check.text(&place, value);
        properties.push((name.to_string(), value.clone()));
    }
    properties
}
