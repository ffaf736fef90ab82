// SPDX-License-Identifier: MIT OR Apache-2.0
//! `root`, and what is done to the tree around its mounts: isolation, the change of root, covers and seals.
//!
//! Never resolves the path: the runtime opens it once, and everything goes through that descriptor.

use oci_spec::runtime::{Linux, Spec};

use crate::check::{Check, clean};
use crate::mount_options;
use crate::namespaces::Namespaces;
use crate::types::{Action, Options, Propagation, Step};

/// What `root` and the path lists of `linux` ask for.
#[derive(Debug)]
pub(crate) struct Rootfs {
    /// Absolute path on the host.
    pub(crate) path: String,
    /// Before the mounts; empty without a mount namespace.
    pub(crate) before: Vec<Step>,
    /// Into the root.
    pub(crate) enter: Step,
    /// After entering: propagation of the root.
    pub(crate) propagation: Vec<Step>,
    /// The same for mounts that say nothing themselves.
    pub(crate) for_mounts: Option<(Propagation, bool)>,
    /// Masked and read-only paths.
    pub(crate) covers: Vec<Step>,
    /// After everything was put in.
    pub(crate) readonly: Vec<Step>,
}

fn step(action: Action, place: &str) -> Step {
    Step { action, place: place.to_string() }
}

pub(crate) fn plan(spec: &Spec, options: &Options, namespaces: &Namespaces, check: &mut Check) -> Rootfs {
    let linux = spec.linux().as_ref();
    let path = path(spec, options, check);
    let readonly = spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true));
    let propagation = propagation(linux, check);
    let covers = covers(linux, check);
    if !namespaces.own_mounts() {
        without_mounts(spec, readonly, propagation.is_some(), check);
        let enter = step(Action::Chroot, "root.path");
        return Rootfs {
            path,
            before: Vec::new(),
            enter,
            propagation: Vec::new(),
            for_mounts: None,
            covers: Vec::new(),
            readonly: Vec::new(),
        };
    }
    // Private keeps the host's later mounts out as well; every other word starts from slave, so that nothing of
    // the container leaks back before the root has its own propagation.
    let isolation = match propagation {
        Some((Propagation::Private, _)) => Propagation::Private,
        _ => Propagation::Slave,
    };
    let before = vec![
        step(Action::IsolateMounts { propagation: isolation }, ""),
        step(Action::AttachRoot, "root.path"),
    ];
    let enter = step(if options.no_pivot { Action::MoveRoot } else { Action::PivotRoot }, "root.path");
    let for_mounts = propagation.filter(|(_, recursive)| *recursive);
    let propagation = propagation
        .map(|(propagation, _)| step(Action::RootPropagation { propagation }, "linux.rootfsPropagation"))
        .into_iter()
        .collect();
    let readonly = if readonly { vec![step(Action::ReadonlyRoot, "root.readonly")] } else { Vec::new() };
    Rootfs { path, before, enter, propagation, for_mounts, covers, readonly }
}

fn path(spec: &Spec, options: &Options, check: &mut Check) -> String {
    let Some(root) = spec.root() else {
        check.violation("root", "is missing: a container on Linux needs a root filesystem");
        return String::new();
    };
    let given = root.path().to_string_lossy();
    check.text("root.path", &given);
    if given.is_empty() {
        check.violation("root.path", "must not be empty");
        return String::new();
    }
    let path = if given.starts_with('/') {
        given.trim_end_matches('/').to_string()
    } else {
        let given = given.trim_start_matches("./").trim_end_matches('/');
        format!("{}/{given}", options.bundle.trim_end_matches('/'))
    };
    if clean(&path) == "/" {
        check.refuse("root.path", "must not be the root of the host", &given);
    }
    path
}

fn propagation(linux: Option<&Linux>, check: &mut Check) -> Option<(Propagation, bool)> {
    let word = linux.and_then(|l| l.rootfs_propagation().as_deref()).filter(|word| !word.is_empty())?;
    let found = mount_options::propagation(word);
    if found.is_none() {
        let rule = "must be shared, slave, private or unbindable, with or without an r before it";
        check.refuse("linux.rootfsPropagation", rule, word);
    }
    found
}

fn covers(linux: Option<&Linux>, check: &mut Check) -> Vec<Step> {
    let mut steps = Vec::new();
    for (i, path) in linux.and_then(|l| l.masked_paths().as_ref()).into_iter().flatten().enumerate() {
        let place = format!("linux.maskedPaths[{i}]");
        if cover(path, &place, check) {
            steps.push(step(Action::Mask { path: clean(path) }, &place));
        }
    }
    for (i, path) in linux.and_then(|l| l.readonly_paths().as_ref()).into_iter().flatten().enumerate() {
        let place = format!("linux.readonlyPaths[{i}]");
        if cover(path, &place, check) {
            steps.push(step(Action::Readonly { path: clean(path) }, &place));
        }
    }
    steps
}

fn cover(path: &str, place: &str, check: &mut Check) -> bool {
    if clean(path) == "/" && path.starts_with('/') {
        check.refuse(place, "must be a path below the root", path);
        return false;
    }
    check.absolute(place, path)
}

/// Mounting in a namespace that others live in would change them, and mask their paths: the host's, at worst.
fn without_mounts(spec: &Spec, readonly: bool, propagation: bool, check: &mut Check) {
    let given = |list: Option<&Vec<String>>| list.is_some_and(|list| !list.is_empty());
    let linux = spec.linux().as_ref();
    for (asked, place) in [
        (spec.mounts().as_ref().is_some_and(|list| !list.is_empty()), "mounts"),
        (readonly, "root.readonly"),
        (given(linux.and_then(|l| l.masked_paths().as_ref())), "linux.maskedPaths"),
        (given(linux.and_then(|l| l.readonly_paths().as_ref())), "linux.readonlyPaths"),
        (propagation, "linux.rootfsPropagation"),
    ] {
        if asked {
            check.violation(place, "needs a new mount namespace in linux.namespaces");
        }
    }
}
