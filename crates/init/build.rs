// SPDX-License-Identifier: MIT OR Apache-2.0
//! The linker's arguments for a static program without a C library's start-up code.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
    {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
