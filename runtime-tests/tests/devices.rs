// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns device nodes, default and configured, and the sysctls: what the container's /dev and /proc/sys hold.
//! Never sets a sysctl of the host.
//! Expectations come from config-linux.md (Default Devices, Devices, Sysctl) and runtime-linux.md (links).

use runtime_tests::{any, json, run_case};

#[test]
fn default_devices() {
    run_case(any(), |t| {
        let out = t.sh("cd /dev; stat -c '%n %t:%T %a %u:%g' null zero full random urandom tty");
        let wanted = "null 1:3 666 0:0\nzero 1:5 666 0:0\nfull 1:7 666 0:0\nrandom 1:8 666 0:0\nurandom 1:9 666 0:0\ntty 5:0 666 0:0\n";
        assert_eq!(out, wanted);
    });
}

#[test]
fn default_links() {
    run_case(any(), |t| {
        let out = t.sh("cd /dev; for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done");
        let wanted = "fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\nptmx pts/ptmx\n";
        assert_eq!(out.replace("/dev/pts/ptmx", "pts/ptmx"), wanted);
    });
}

#[test]
fn default_devices_work() {
    run_case(any(), |t| {
        let out = t.sh("head -c 5 /dev/zero | wc -c; head -c 7 /dev/urandom | wc -c; echo x > /dev/null; echo x > /dev/full || echo full");
        assert_eq!(out, "5\n7\nfull\n");
    });
}

#[test]
fn configured_devices() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set(
            "/linux/devices",
            json!([
                {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
                {"path": "/dev/sub/dir/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
                {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 3},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o622}
            ]),
        );
        b.set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]));
        b.sh("cd /dev; stat -c '%n %F %t:%T %a %u:%g' mine sub/dir/block pipe; stat -c %F unbuffered; head -c 3 mine | wc -c");
        let out = t.run(&b);
        let wanted = "mine character special file 1:5 640 7:8\nsub/dir/block block special file 7:0 600 0:0\npipe fifo 0:0 622 0:0\ncharacter special file\n3\n";
        assert_eq!(out.ok(), wanted);
    });
}

#[test]
fn devices_in_a_user_namespace() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.user_namespace();
        b.sh("cd /dev; stat -c '%n %t:%T' null zero full random urandom tty; echo x > null && head -c 2 zero | wc -c");
        let out = t.run(&b);
        assert!(out.ok().ends_with("2\n") && out.stdout.contains("tty 5:0"), "{out}");
    });
}

#[test]
fn sysctls_of_the_network_and_ipc_namespaces() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set(
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "123456", "kernel.msgmax": "4321", "fs.mqueue.msg_max": "77"}),
        );
        b.sh("cd /proc/sys; cat net/ipv4/ip_forward kernel/shmmax kernel/msgmax fs/mqueue/msg_max");
        let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(t.run(&b).ok(), "1\n123456\n4321\n77\n");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), before);
    });
}

#[test]
fn sysctl_keys_with_slashes() {
    run_case(any().differs("crun", "1.8.1 knows dots only"), |t| {
        let mut b = t.bundle();
        b.set("/linux/sysctl", json!({"net/ipv4/conf/lo/forwarding": "1"}));
        b.sh("cat /proc/sys/net/ipv4/conf/lo/forwarding");
        assert_eq!(t.run(&b).ok(), "1\n");
    });
}

#[test]
fn sysctls_are_set_even_with_a_read_only_proc_sys() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/linux/readonlyPaths", json!(["/proc/sys"]))
            .set("/linux/sysctl", json!({"kernel.shmmax": "99"}));
        b.sh("cat /proc/sys/kernel/shmmax");
        assert_eq!(t.run(&b).ok(), "99\n");
    });
}
