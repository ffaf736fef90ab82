// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns a whole distribution as the root: Debian (or what the machine itself runs) as mmdebstrap makes it.
//! Never skips: without a root there is no case, and mmdebstrap's own words are the failure.
//! The root is made once from the machine's apt sources, into `RUNTIME_TESTS_DEBIAN` or below the target directory.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime_tests::netns::{leave_hosts_network, outside, within};
use runtime_tests::{Bundle, Out, Test, Value, any, copy_program, json, oar_only, run_case};
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The release that the machine itself runs, and thus offers by its apt sources.
fn codename() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    line.unwrap_or_else(|| panic!("VERSION_CODENAME is needed:\n{text}")).trim_matches('"').to_owned()
}

/// The machine's own sources of that release; with none, mmdebstrap takes what it knows of the release.
fn sources(codename: &str) -> Vec<PathBuf> {
    let names =
        ["sources.list.d/debian.sources", "sources.list.d/ubuntu.sources", "sources.list"].map(PathBuf::from);
    let offers = |p: &PathBuf| {
        let text = fs::read_to_string(p).unwrap_or_default();
        text.lines().filter(|l| !l.starts_with('#')).any(|l| l.split_whitespace().any(|w| w == codename))
    };
    names.into_iter().map(|n| Path::new("/etc/apt").join(n)).filter(offers).collect()
}

/// The made root, made now when this is the first case to want it. It is shared: nothing may write to it.
fn debian(t: &Test) -> PathBuf {
    made(t, "with-python", "bash,mount,python3,strace")
}

fn made(t: &Test, name: &str, packages: &str) -> PathBuf {
    let codename = codename();
    let place = std::env::var_os("RUNTIME_TESTS_DEBIAN")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    fs::create_dir_all(&place).unwrap();
    let lock = fs::File::create(place.join(".debian.lock")).unwrap();
    lock.lock().unwrap();
    let root = place.join(format!("debian-{codename}-{name}"));
    if root.exists() {
        return root;
    }
    let partial = place.join(format!("debian-{codename}-{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).unwrap(); // of a run that was ended
    }
    let program = |argv: Vec<OsString>| t.program(argv).deadline(600).run();
    let need = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/need");
    let out = program(vec![need.into(), "mmdebstrap".into()]);
    assert!(out.code == 0, "mmdebstrap cannot be installed\n{out}");
    let include = format!("--include={packages}");
    let mut argv: Vec<OsString> = ["mmdebstrap", "--variant=apt", &include, "--format=directory", &codename]
        .map(OsString::from)
        .to_vec();
    argv.push(partial.clone().into());
    argv.extend(sources(&codename).into_iter().map(OsString::from));
    let out = program(argv);
    assert!(out.code == 0, "no {codename} root can be made here; without it there is nothing to test\n{out}");
    fs::rename(&partial, &root).unwrap();
    root
}

/// A writable view of the made root, for one case; its mount ends with the value.
struct View {
    at: PathBuf,
}

impl View {
    /// What is written goes below `place`, which is the view's alone.
    fn of(root: &Path, at: PathBuf, place: &Path) -> Self {
        let (upper, work) = (place.join("upper"), place.join("work"));
        for dir in [&upper, &work] {
            fs::create_dir(dir).unwrap();
        }
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", root.display(), upper.display(), work.display());
        mount(Some("overlay"), &at, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        View { at }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).unwrap();
    }
}

/// What the runtime's own `spec` writes, over a Debian root.
fn specified(t: &Test) -> (Bundle, View) {
    let dir = t.scratch("debian");
    t.bare(&["spec"]).cwd(&dir).run().ok();
    let text = fs::read(dir.join("config.json")).unwrap();
    let config: Value = String::from_utf8(text).unwrap().parse().unwrap();
    fs::create_dir(dir.join("rootfs")).unwrap();
    let mut b = Bundle { dir, config };
    b.set("/process/env/-", json!(format!("RT_TAG={}", t.tag)));
    let view = View::of(&debian(t), b.rootfs(), &b.dir);
    (b, view)
}

/// Over a root with servers.
fn serving(t: &Test, args: &[&str]) -> (Bundle, View) {
    let mut b = t.bundle();
    fs::remove_dir_all(b.rootfs()).unwrap();
    fs::create_dir(b.rootfs()).unwrap();
    b.set("/process/env", json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", format!("RT_TAG={}", t.tag)]));
    // What Docker gives, as far as servers use it.
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_NET_BIND_SERVICE",
        "CAP_KILL"
    ]);
    for set in ["bounding", "effective", "permitted"] {
        b.set(&format!("/process/capabilities/{set}"), caps.clone());
    }
    b.args(args);
    let view = View::of(&made(t, "with-servers", "nginx,redis-server"), b.rootfs(), &b.dir);
    (b, view)
}

/// What a server says, once it listens. It tells nobody when: until then it is asked again.
fn ask(at: &str, question: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_secs(10)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{at}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn nginx_and_redis_serve_the_world_outside() {
    run_case(oar_only("others have no networks"), |t| {
        let redis = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""];
        let (nginx, _view) = serving(t, &["nginx", "-g", "daemon off;"]);
        let (redis, _view) = serving(t, &redis);
        leave_hosts_network();
        let outside = outside();
        let web = t.create_with(&nginx, &["--network", "default", "--publish", "8080:80"]);
        let store = t.create_with(&redis, &["--network", "default", "--publish", "6379:6379"]);
        web.start();
        store.start();
        let page = within(&outside, || {
            ask("198.51.100.2:8080", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        });
        assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("Welcome to nginx"), "{page}");
        let answer =
            within(&outside, || ask("198.51.100.2:6379", "SET boat coracle\r\nGET boat\r\nQUIT\r\n"));
        assert_eq!(answer, "+OK\r\n$7\r\ncoracle\r\n+OK\r\n");
        // nginx writes down who asked.
        let log = t.rt(&["exec", &web.id, "cat", "/var/log/nginx/access.log"]).run();
        assert!(log.ok().starts_with("198.51.100.1 "), "{log}");
    });
}

/// The suite's base config over a Debian root.
fn based(t: &Test) -> (Bundle, View) {
    let mut b = t.bundle();
    fs::remove_dir_all(b.rootfs()).unwrap();
    fs::create_dir(b.rootfs()).unwrap();
    b.set("/process/env", json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", format!("RT_TAG={}", t.tag)]));
    let view = View::of(&debian(t), b.rootfs(), &b.dir);
    (b, view)
}

const THREE: &str = "apt-get --version; mount; id";

/// All three programs have said what they are to say, and `mount` has every mount of the config.
#[track_caller]
fn three(b: &Bundle, out: &Out) {
    out.expect_code(0);
    let lines: Vec<_> = out.stdout.lines().map(str::trim_end).collect();
    assert!(lines.iter().any(|l| l.contains("apt ") && l.ends_with(')')), "{out}");
    assert!(lines.contains(&"uid=0(root) gid=0(root) groups=0(root)"), "{out}");
    assert!(lines.iter().any(|l| l.contains(" on / type ")), "{out}");
    for m in b.config["mounts"].as_array().unwrap() {
        let point = format!(" on {} type ", m["destination"].as_str().unwrap());
        assert!(lines.iter().any(|l| l.contains(&point)), "`{point}`\n{out}");
    }
}

/// `run` on a terminal that script(1) makes and types `input` into.
fn on_a_terminal(t: &Test, b: &Bundle, input: &str) -> Out {
    let id = t.id();
    t.write(b, &id);
    let typed = t.dir.join("typed");
    fs::write(&typed, input).unwrap();
    let line = format!(
        "{} --root {} run --bundle {} {id}",
        t.runtime.display(),
        t.state_root().display(),
        b.dir.display()
    );
    let argv = ["script", "-q", "-e", "-c", &line, "/dev/null"].map(OsString::from);
    t.program(argv.to_vec()).env("TERM", "xterm").stdin(&typed).run()
}

#[test]
fn the_three_programs_with_the_config_of_spec() {
    run_case(any().differs("crun", "1.8.1 cannot mount cgroups of this kind of host"), |t| {
        let (mut b, _view) = specified(t);
        b.set("/process/terminal", json!(false)).args(&["bash", "-c", THREE]);
        three(&b, &t.run(&b));
    });
}

#[test]
fn the_three_programs_on_a_terminal() {
    run_case(any().differs("crun", "1.8.1 cannot mount cgroups of this kind of host"), |t| {
        let (mut b, _view) = specified(t);
        assert_eq!(b.config["process"]["terminal"], true, "spec asks for a terminal");
        b.args(&["bash", "-c", &format!("{THREE}; tty")]);
        let out = on_a_terminal(t, &b, "");
        three(&b, &out);
        assert!(out.stdout.contains("/dev/pts/0") || out.stdout.contains("/dev/console"), "{out}");
    });
}

#[test]
fn an_interactive_bash_on_a_terminal() {
    run_case(any().differs("crun", "1.8.1 cannot mount cgroups of this kind of host"), |t| {
        let (mut b, _view) = specified(t);
        b.args(&["bash", "--norc"]);
        let out = on_a_terminal(t, &b, "echo $((6*7)) $-\nexit 9\n");
        out.expect_code(9);
        let said = out.stdout.split_once("42 ").map(|(_, rest)| rest.lines().next().unwrap());
        let flags = said.unwrap_or_else(|| panic!("{out}"));
        // i: interactive; m: job control, which bash has only where it controls the terminal.
        assert!(flags.contains('i') && flags.contains('m'), "{out}");
        assert!(!out.stdout.contains("no job control"), "{out}");
    });
}

#[test]
fn as_another_user() {
    run_case(any(), |t| {
        let (mut b, _view) = based(t);
        b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        b.args(&["bash", "-c", "set -o pipefail; dpkg -l | head -4 | tail -1; dpkg -l apt | tail -1; id; apt-get --version | head -1; touch /mine"]);
        let out = t.run(&b);
        assert!(out.stdout.contains("\nii  apt ") && out.stdout.contains("\nuid=1000 gid=1000"), "{out}");
        assert!(out.stdout.lines().last().unwrap().starts_with("apt "), "{out}");
        out.expect_code(1).says("cannot touch '/mine': Permission denied");
    });
}

#[test]
fn on_a_read_only_root() {
    run_case(any(), |t| {
        let (mut b, _view) = based(t);
        b.set("/root/readonly", json!(true));
        b.args(&["bash", "-c", &format!("{THREE}; touch /usr/mine; touch /dev/shm/mine && echo shm")]);
        let out = t.run(&b);
        three(&b, &out);
        let root = out.stdout.lines().find(|l| l.contains(" on / type ")).unwrap();
        assert!(root.contains("(ro,"), "{root}");
        out.says("cannot touch '/usr/mine': Read-only file system");
        assert_eq!(out.stdout.lines().last(), Some("shm"));
    });
}

/// dpkg renames, links, syncs, changes owners and runs a script of the package: much of what packages do.
const A_PACKAGE: &str = "set -e
mkdir -p /p/DEBIAN /p/opt/own
printf 'Package: own\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: own\n' > /p/DEBIAN/control
printf '#!/bin/sh\nchown 7:8 /opt/own/file\n' > /p/DEBIAN/postinst
chmod 755 /p/DEBIAN/postinst
echo content > /p/opt/own/file
dpkg-deb --build /p /tmp/own.deb
dpkg -i /tmp/own.deb
dpkg -s own | grep ^Status
stat -c %u:%g /opt/own/file
dpkg -P own
test ! -e /opt/own/file";

#[test]
fn a_package_is_made_installed_and_purged() {
    run_case(any(), |t| {
        let (mut b, _view) = based(t);
        b.args(&["bash", "-c", A_PACKAGE]);
        let out = t.run(&b);
        assert!(out.ok().contains("\nStatus: install ok installed\n7:8\n"), "{out}");
    });
}

#[test]
fn under_a_seccomp_profile_like_dockers() {
    run_case(any(), |t| {
        let (mut b, _view) = based(t);
        let profile: Value =
            serde_json::from_str(include_str!("../../crates/seccomp/tests/like-docker.json")).unwrap();
        b.set("/linux/seccomp", profile);
        for no_new_privs in [true, false] {
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            b.args(&["bash", "-c", &format!("{THREE}; grep ^Seccomp: /proc/self/status")]);
            let out = t.run(&b);
            three(&b, &out);
            assert_eq!(out.stdout.lines().last(), Some("Seccomp:\t2"), "{out}");
            b.args(&["bash", "-c", A_PACKAGE]);
            let out = t.run(&b);
            assert!(out.ok().contains("\nStatus: install ok installed\n7:8\n"), "{out}");
        }
    });
}

/// write(2) on 1, mount(2) of nothing, and 7 as the status if that was answered EPERM; in the 32-bit way.
const AS_I386: &str = r#"
static int call(int number, int a, int b, int c) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
void _start(void) {
    call(4, 1, (int)"32 bits\n", 8);
    call(1, call(21, 0, 0, 0) == -1 ? 7 : 8, 0, 0);
}
"#;

/// Threads, processes, sockets, a timer and a pool: what Python takes of the kernel.
const IN_PYTHON: &str = r#"
import asyncio, multiprocessing, os, socket, sqlite3, subprocess, tempfile, threading
thread = threading.Thread(target=lambda: print("thread")); thread.start(); thread.join()
print(subprocess.run(["echo", "process"], capture_output=True, text=True).stdout.strip())
async def serve():
    async def answer(reader, writer):
        writer.write(await reader.readline()); writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"socket\n")
    print((await reader.readline()).decode().strip())
asyncio.run(serve())
with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, [-1, -2])))
with tempfile.TemporaryDirectory() as d:
    base = sqlite3.connect(d + "/base"); base.execute("create table t (n)"); base.commit()
    print(base.execute("select count(*) from t").fetchone()[0])
"#;

/// The errno of each call: EPERM is the profile's, ENOSYS what it has for calls that it is too old for. Without it the
/// first would succeed, and the others say EFAULT or EINVAL.
const FORBIDDEN: &str = r#"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, number, *arguments in [
    ("unshare", 272, 0x10000000), ("mount", 165, 0, 0, 0, 0, 0), ("keyctl", 250, 99, 0, 0, 0, 0), ("bpf", 321, 999, 0, 0),
    ("perf_event_open", 298, 0, 0, 0, 0, 0), ("init_module", 175, 0, 0, 0), ("pivot_root", 155, 0, 0),
    ("clone3", 435, 0, 0), ("from the future", 1000)
]:
    ctypes.set_errno(0)
    result = libc.syscall(number, *[ctypes.c_long(n) for n in arguments])
    print(name, ctypes.get_errno() if result < 0 else "succeeds")
"#;

/// The profile allows ptrace(2), as Docker's has since Linux 4.8 (there a tracer cannot get round a filter): strace works.
#[test]
fn real_programs_under_a_profile_like_dockers() {
    run_case(any().differs("crun", "1.8.1 has EPERM for calls that the profile is too old for"), |t| {
        let (mut b, _view) = based(t);
        let profile: Value =
            serde_json::from_str(include_str!("../../crates/seccomp/tests/like-docker.json")).unwrap();
        b.set("/linux/seccomp", profile);
        let source = t.dir.join("i386.c");
        fs::write(&source, AS_I386).unwrap();
        let program = b.rootfs().join("i386");
        let argv =
            ["cc", "-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector", "-o"];
        let argv = argv.map(OsString::from).into_iter().chain([program.into(), source.into()]);
        t.program(argv.collect()).run().expect_code(0);
        for no_new_privs in [true, false] {
            b.set("/process/noNewPrivileges", json!(no_new_privs));
            b.args(&["python3", "-c", IN_PYTHON]);
            assert_eq!(t.run(&b).ok(), "thread\nprocess\nsocket\n3\n0\n", "no_new_privs {no_new_privs}");
            b.args(&["/i386"]);
            assert_eq!(t.run(&b).expect_code(7).stdout, "32 bits\n", "no_new_privs {no_new_privs}");
            b.args(&["bash", "-c", "strace -f -e trace=write -o /tmp/trace echo traced && grep -c '^[0-9]* *write(1, \"traced' /tmp/trace"]);
            assert_eq!(t.run(&b).ok(), "traced\n1\n", "no_new_privs {no_new_privs}");
            b.args(&["python3", "-c", FORBIDDEN]);
            let out = t.run(&b);
            let wanted = "unshare 1\nmount 1\nkeyctl 1\nbpf 1\nperf_event_open 1\ninit_module 1\npivot_root 1\nclone3 38\nfrom the future 38\n";
            assert_eq!(out.ok(), wanted, "no_new_privs {no_new_privs}");
            let made = A_PACKAGE.split("dpkg -i").next().unwrap();
            let install = "apt-get install --yes /tmp/own.deb 2>&1 && apt-get purge --yes own 2>&1 && test ! -e /opt/own/file && rm -r /p /tmp/own.deb";
            b.args(&["bash", "-c", &format!("{made}{install}")]);
            let out = t.run(&b);
            assert!(out.ok().contains("Setting up own (1)"), "{out}");
        }
    });
}

#[test]
fn in_a_user_namespace_by_id_mapped_binds() {
    run_case(oar_only("ridmap with the container's own mappings"), |t| {
        let made = debian(t);
        // overlayfs has no id-mapped mounts; where the target directory lies on one, a copy does.
        let on_overlay = rustix::fs::statfs(&made).unwrap().f_type == 0x794c_7630;
        let source = if on_overlay { copied(t, &made) } else { made };
        let mut b = t.bundle();
        fs::remove_dir_all(b.rootfs()).unwrap();
        fs::create_dir(b.rootfs()).unwrap();
        for (link, target) in
            [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
        {
            symlink(target, b.rootfs().join(link)).unwrap();
        }
        fs::create_dir(b.rootfs().join("tmp")).unwrap();
        chown(b.rootfs().join("tmp"), Some(100_000), Some(100_000)).unwrap();
        b.user_namespace();
        for name in ["usr", "etc", "var"] {
            let from = source.join(name);
            b.mount(&format!("/{name}"), "bind", from.to_str().unwrap(), &["rbind", "ridmap", "ro"]);
        }
        b.set("/process/env", json!(["PATH=/usr/sbin:/usr/bin", format!("RT_TAG={}", t.tag)]));
        let owners =
            "find /usr /etc /var -xdev -uid 65534 | wc -l; stat -c %U:%G /usr/bin/apt-get /etc/shadow";
        b.args(&["bash", "-c", &format!("{THREE}; {owners}; cat /proc/self/uid_map; touch /tmp/mine")]);
        let out = t.run(&b);
        three(&b, &out);
        assert!(out.stdout.contains("\n0\nroot:root\nroot:shadow\n"), "{out}");
        let last: Vec<_> = out.stdout.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["0", "100000", "65536"]);
        let mine = fs::metadata(b.rootfs().join("tmp/mine")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&mine), 100_000);
    });
}

fn copied(t: &Test, made: &Path) -> PathBuf {
    let copy = t.dir.join("copy");
    let argv = vec!["cp".into(), "-a".into(), made.into(), copy.clone().into()];
    t.program(argv).deadline(60).run().ok();
    copy
}

/// An account that this case alone sees: /etc is a view of the host's.
struct Account {
    name: String,
    uid: String,
    home: PathBuf,
    _etc: View,
}

impl Account {
    /// By useradd(8), whose login shell finds the runtime in ~/bin.
    fn new(t: &Test) -> Self {
        let etc = View::of(Path::new("/etc"), PathBuf::from("/etc"), &t.scratch("account"));
        let (name, home) = (t.tag.clone(), t.dir.join("home"));
        let uid = (500_000 + std::process::id() % 400_000).to_string();
        let words = ["useradd", "--no-log-init", "--create-home", "--home-dir", home.to_str().unwrap()];
        let words = [&words[..], &["--shell", "/bin/bash", "--uid", &uid, "--user-group", &name]].concat();
        let out = t.program(words.into_iter().map(OsString::from).collect()).run();
        assert_eq!(out.code, 0, "{out}");
        fs::create_dir(home.join("bin")).unwrap();
        copy_program(&t.runtime, &home.join("bin").join(t.runtime.file_name().unwrap()));
        Account { name, uid, home, _etc: etc }
    }

    /// A login on a terminal into which `input` is typed.
    fn log_in(&self, t: &Test, input: &str) -> Out {
        let typed = t.dir.join("typed");
        fs::write(&typed, input).unwrap();
        let line = format!("su --login {}", self.name);
        let argv = ["script", "-q", "-e", "-c", &line, "/dev/null"].map(OsString::from);
        t.program(argv.to_vec()).env("TERM", "xterm").stdin(&typed).run()
    }
}

#[test]
fn from_a_new_account_to_a_shell_in_two_commands() {
    const NEEDS_XDG: &str = "needs XDG_RUNTIME_DIR, which su(1) does not set";
    run_case(any().differs("runc", NEEDS_XDG).differs("crun", NEEDS_XDG), |t| {
        let account = Account::new(t);
        let home = account.home.display();
        // As whoever unpacks an archive: all files are the user's own.
        let unpack = format!(
            "cd {home} && tar -c -C {} --exclude './dev/*' --exclude './proc/*' --exclude './sys/*' . | \
             runuser -u {} -- sh -c 'mkdir rootfs && tar -x --no-same-owner --delay-directory-restore -C rootfs'",
            debian(t).display(),
            account.name,
        );
        let out = t.program(["bash", "-o", "pipefail", "-c", &unpack].map(OsString::from).to_vec()).run();
        assert_eq!(out.code, 0, "{out}");
        let runtime = t.runtime.file_name().unwrap().to_str().unwrap();
        // What the shell of the account has not read when the container begins is the container's.
        let out = account.log_in(
            t,
            &format!(
                "{runtime} spec --rootless\n{runtime} run {}; exit\n\
                 . /etc/os-release; echo \"in $ID as $(id -u) on $(tty)\"; apt-get --version | head -1; exit 7\n",
                t.id()
            ),
        );
        fs::remove_dir_all(format!("/tmp/oar-{}", account.uid)).ok(); // only where there is no /run/user
        out.expect_code(7);
        let release = fs::read_to_string(account.home.join("rootfs/etc/os-release")).unwrap();
        let id = release.lines().find_map(|line| line.strip_prefix("ID=")).unwrap();
        assert!(out.stdout.contains(&format!("in {id} as 0 on /dev/")), "{out}");
        assert!(out.stdout.contains("\napt "), "{out}");
    });
}
