// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the bundle of a case: a root of Debian's static busybox and a base config that cases patch by JSON pointer.
//! Never asks a runtime for its template, so that a case means the same on every runtime.
//! Data comes from the case; it goes to `config.json` when the case runs it.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A directory with `config.json` (written by [`Bundle::write`]) and `rootfs`.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub dir: PathBuf,
    pub config: Value,
}

impl Bundle {
    /// A bundle in the new directory `dir`: busybox with all applets, the base config, `tag` in its environment.
    pub fn create(dir: &Path, tag: &str) -> Self {
        let rootfs = dir.join("rootfs");
        for name in ["bin", "etc", "tmp", "root", "proc", "sys", "dev"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .unwrap();
        fs::write(rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
        copy_program(&busybox(), &rootfs.join("bin/busybox"));
        fs::set_permissions(rootfs.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        for applet in applets() {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        Bundle { dir: dir.to_path_buf(), config: base_config(tag) }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Sets the value at a JSON pointer; objects on the way are made, `/-` at the end appends to a list.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        set_at(&mut self.config, pointer, value);
        self
    }

    /// Removes the value at a JSON pointer, if it is there.
    pub fn remove(&mut self, pointer: &str) -> &mut Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer begins with /");
        match self.config.pointer_mut(parent) {
            Some(Value::Object(map)) => drop(map.remove(key)),
            Some(Value::Array(list)) => drop(list.remove(key.parse::<usize>().unwrap())),
            _ => {}
        }
        self
    }

    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.set("/process/args", json!(args))
    }

    /// The container's command is this script of busybox' sh.
    pub fn sh(&mut self, script: &str) -> &mut Self {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Appends a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        self.set(
            "/mounts/-",
            json!({"destination": destination, "type": kind, "source": source, "options": options}),
        )
    }

    /// Removes the mount of `destination` from the base config.
    pub fn unmount(&mut self, destination: &str) -> &mut Self {
        let mounts = self.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != destination);
        self
    }

    /// Removes a namespace of the base config.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        let list = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|n| n["type"] != kind);
        self
    }

    /// Adds (or replaces) a namespace, joined by `path` when that is not empty.
    pub fn namespace(&mut self, kind: &str, path: &str) -> &mut Self {
        self.without_namespace(kind);
        let entry = if path.is_empty() { json!({"type": kind}) } else { json!({"type": kind, "path": path}) };
        self.set("/linux/namespaces/-", entry)
    }

    /// A user namespace in which 0…65535 are 100000…165535 outside, and a root that is owned accordingly.
    pub fn user_namespace(&mut self) -> &mut Self {
        self.namespace("user", "");
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        self.set("/linux/uidMappings", map.clone());
        self.set("/linux/gidMappings", map);
        chown_tree(&self.rootfs(), 100_000);
        self
    }

    pub fn write(&self) {
        fs::write(self.dir.join("config.json"), serde_json::to_vec_pretty(&self.config).unwrap()).unwrap();
    }
}

fn chown_tree(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            chown_tree(&entry.unwrap().path(), id);
        }
    }
}

fn set_at(root: &mut Value, pointer: &str, value: Value) {
    let mut here = root;
    for raw in pointer.split('/').skip(1) {
        let key = raw.replace("~1", "/").replace("~0", "~");
        if let Value::Array(list) = here {
            if key == "-" {
                list.push(Value::Null);
            }
            let index = if key == "-" { list.len() - 1 } else { key.parse().expect("an index into a list") };
            here = &mut list[index];
            continue;
        }
        if !here.is_object() {
            *here = if key == "-" { json!([]) } else { json!({}) };
        }
        if let Value::Array(list) = here {
            list.push(Value::Null);
            here = list.last_mut().unwrap();
        } else {
            here = here.as_object_mut().unwrap().entry(key).or_insert(Value::Null);
        }
    }
    *here = value;
}

/// A copy that can be executed at once. Written by a process of its own: what this one has open for writing, a child that
/// another thread starts at that moment has too, and the file is busy (ETXTBSY of execve(2)) until that one executes.
pub fn copy_program(from: &Path, to: &Path) {
    let status = Command::new(busybox()).arg("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp {} {}: {status}", from.display(), to.display());
}

/// A program of these bytes that can be executed at once, as [`copy_program`] does it.
pub fn write_program(to: &Path, bytes: &[u8]) {
    let draft = to.with_extension("draft");
    fs::write(&draft, bytes).unwrap();
    copy_program(&draft, to);
    fs::remove_file(&draft).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Debian's static busybox.
pub fn busybox() -> PathBuf {
    let candidates = ["/bin/busybox", "/usr/bin/busybox"];
    candidates
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .expect("busybox-static is installed (scripts/need)")
}

fn applets() -> &'static [String] {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let out = Command::new(busybox()).arg("--list").output().unwrap();
        String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .filter(|l| *l != "busybox")
            .map(str::to_owned)
            .collect()
    })
}

/// A 64-bit ELF executable whose program does exit(42), with the machine number and the interpreter that are asked for.
pub fn hand_made_elf(machine: u16, interpreter: Option<&str>) -> Vec<u8> {
    // mov eax,60; mov edi,42; syscall
    hand_made_program(machine, interpreter, &[0xb8, 60, 0, 0, 0, 0xbf, 42, 0, 0, 0, 0x0f, 0x05])
}

/// The same with a program of the caller's own, which does not return.
pub fn hand_made_program(machine: u16, interpreter: Option<&str>, code: &[u8]) -> Vec<u8> {
    let interpreter = interpreter.map(|i| [i.as_bytes(), &[0]].concat());
    let segments: u16 = if interpreter.is_some() { 2 } else { 1 };
    let text = 64 + 56 * u64::from(segments);
    let name = text + code.len() as u64;
    let size = name + interpreter.as_ref().map_or(0, |i| i.len() as u64);
    let base = 0x40_0000_u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2_u16.to_le_bytes()); // ET_EXEC
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    for word in [base + text, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64, 56, segments, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, offset: u64, length: u64, align: u64| {
        elf.extend(kind.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for word in [offset, base + offset, base + offset, length, length, align] {
            elf.extend(word.to_le_bytes());
        }
    };
    if let Some(i) = &interpreter {
        segment(3, 4, name, i.len() as u64, 1); // PT_INTERP comes before PT_LOAD
    }
    segment(1, 5, 0, size, 0x1000);
    elf.extend(code);
    elf.extend(interpreter.unwrap_or_default());
    elf
}

fn base_config(tag: &str) -> Value {
    let capabilities = json!([
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "coracle-test",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin", format!("RT_TAG={tag}")],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ]
        }
    })
}
