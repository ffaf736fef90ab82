// SPDX-License-Identifier: MIT OR Apache-2.0
//! Build init, the program that this library embeds, so that `cargo build` alone is enough.
//!
//! It is another target of the same workspace (no C library, not position independent), so it is built by a cargo
//! of its own into a directory of its own.

use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let variable = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_default());
    let crates = variable("CARGO_MANIFEST_DIR").join("..");
    for source in ["init", "program/src", "program/Cargo.toml", "sys/src", "sys/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", crates.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let directory = variable("OUT_DIR").join("init");
    let status = Command::new(variable("CARGO"))
        .args(["build", "--quiet", "--profile", "init", "--features", "freestanding", "--target", TARGET])
        .arg("--manifest-path")
        .arg(crates.join("init/Cargo.toml"))
        .arg("--target-dir")
        .arg(&directory)
        // What the outer build was told about its own target, or wraps rustc with, is not for this one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .env("RUSTFLAGS", "-C relocation-model=static")
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("building coracle-init failed: {other:?}"),
    }
    let program = directory.join(TARGET).join("init/coracle-init");
    println!("cargo::rustc-env=CORACLE_INIT={}", program.display());
}
