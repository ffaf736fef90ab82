// SPDX-License-Identifier: MIT OR Apache-2.0
//! Golden files of `--dry-run`: documents that the world is full of, and what they come to.
//!
//! Never writes a file unless BLESS is set. Data is in tests/data.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod facts;

use coracle_plan::{Host, Options, TerminalTo, explain, parse, plan};
use facts::{host, hybrid, options, user, v1};

#[track_caller]
fn golden(document: &str, wanted: &str, host: &Host, options: &Options) {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/");
    let (spec, _) = parse(&read(&format!("{data}{document}"))).unwrap();
    let got = explain(&plan(&spec, host, options).unwrap());
    let path = format!("{data}{wanted}");
    if option_env!("BLESS").is_some() {
        write(&path, &got);
    }
    let wanted = String::from_utf8(read(&path)).unwrap();
    assert!(got == wanted, "wanted:\n{wanted}\ngot:\n{got}");
}

// The planner may not touch files; its tests read their own data.
#[allow(clippy::disallowed_methods)]
fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

#[allow(clippy::disallowed_methods)]
fn write(path: &str, text: &str) {
    std::fs::write(path, text).unwrap();
}

fn console() -> Options {
    Options { terminal: TerminalTo::ConsoleSocket, ..options() }
}

#[test]
fn the_default_document() {
    golden("default.json", "default.txt", &host(), &console());
}

#[test]
fn the_default_document_on_a_hybrid_host() {
    golden("default.json", "default-hybrid.txt", &hybrid(), &console());
}

#[test]
fn the_document_of_an_ordinary_user() {
    golden("rootless.json", "rootless.txt", &user(), &console());
}

#[test]
fn what_docker_writes() {
    golden("docker.json", "docker.txt", &host(), &options());
}

#[test]
fn every_resource_on_cgroup_v1() {
    golden("resources.json", "resources-v1.txt", &v1(), &options());
}

/// The same document: what v1 alone can do is left out with a warning, and `unified` is possible.
#[test]
fn every_resource_on_cgroup_v2_under_systemd() {
    let options = Options { systemd_cgroup: true, cgroup_leaf: true, allow_annotations: true, ..options() };
    golden("resources-systemd.json", "resources-systemd.txt", &host(), &options);
}

#[test]
fn the_document_of_an_ordinary_user_under_systemd() {
    golden("rootless.json", "rootless-systemd.txt", &user(), &Options { systemd_cgroup: true, ..console() });
}
