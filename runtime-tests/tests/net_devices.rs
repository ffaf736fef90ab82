// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `linux.netDevices`: a device that moves into the container's network namespace, or a refusal.
//! Never makes a link in the host's namespace: the runtime itself runs in a network namespace of its own.
//! Expectations come from config-linux.md (Network Devices).

use runtime_tests::{Bundle, Case, Test, any, json, run_case};

/// A pair of veth devices in a network namespace of this shell, which then becomes the runtime.
const PAIR: &str = "ip link add made0 type veth peer name made1 && ip addr add 192.0.2.5/24 dev made0 && ip link set made0 up && exec \"$@\"";

fn case() -> Case {
    let old = "this version is older than linux.netDevices";
    any().differs("runc", old).differs("crun", old)
}

fn run(t: &Test, b: &Bundle) -> runtime_tests::Out {
    t.run_with(b, &[]).wrap(&["unshare", "-n", "sh", "-c", PAIR, "sh"]).run()
}

#[test]
fn moved_and_renamed_with_its_address() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.set("/linux/netDevices", json!({"made0": {"name": "eth0"}}));
        b.sh("ip link show eth0; ip addr show eth0");
        let out = run(t, &b);
        assert!(out.ok().contains("eth0") && out.stdout.contains("192.0.2.5/24"), "{out}");
        assert!(out.stdout.contains("UP"), "{out}");
    });
}

#[test]
fn moved_under_its_own_name() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.set("/linux/netDevices", json!({"made1": {}})).sh("ls /sys/class/net");
        assert!(run(t, &b).ok().contains("made1"));
    });
}

#[test]
fn missing_device_is_refused() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.set("/linux/netDevices", json!({"nosuch0": {}}));
        run(t, &b).failed().says("nosuch0");
    });
}

#[test]
fn refused_without_a_network_namespace_of_its_own() {
    run_case(case(), |t| {
        let mut b = t.bundle();
        b.without_namespace("network").unmount("/sys");
        b.set("/linux/netDevices", json!({"made0": {}}));
        run(t, &b).failed();
    });
}
