// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns what a supervisor hears of a container by sd_notify(3), and socket activation.
//! Never needs systemd: a datagram socket of the case stands in for it. The service is `src/bin/service.rs`.
//! Expectations come from sd_notify(3), sd_listen_fds(3) and features.md §4.

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use runtime_tests::{Bundle, Invocation, Test, any, copy_program, executes, json, oar_only, run_case};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::fs::{self, File};
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// What stands in for systemd.
struct Supervisor {
    socket: UnixDatagram,
    address: String,
}

impl Supervisor {
    fn new(t: &Test) -> Supervisor {
        let path = t.dir.join("supervisor");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Supervisor { socket, address: path.to_str().unwrap().to_owned() }
    }

    fn told(&self, run: Invocation) -> Invocation {
        run.env("NOTIFY_SOCKET", &self.address)
    }

    #[track_caller]
    fn next(&self) -> (String, Vec<OwnedFd>) {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        // A wait with a limit is not taken up again by the kernel after an interruption (signal(7)).
        let receive = || recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
        let got = rustix::io::retry_on_intr(receive).unwrap_or_else(|e| panic!("nothing was told: {e}"));
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                fds.extend(list);
            }
        }
        (String::from_utf8(bytes[..got.bytes].to_vec()).unwrap(), fds)
    }

    #[track_caller]
    fn hears(&self, text: &str) -> Vec<OwnedFd> {
        let (told, fds) = self.next();
        assert_eq!(told, text);
        fds
    }

    /// In the first datagram, whatever else is in it.
    #[track_caller]
    fn hears_ready(&self) {
        let (told, _) = self.next();
        assert!(told.lines().any(|line| line == "READY=1"), "{told:?}");
    }

    /// Reads on, whatever comes, until this is dropped: each runtime has its own way to go on after READY.
    fn keep_reading(self) -> Reading {
        let socket = self.socket.try_clone().unwrap();
        let reads_on = move || {
            socket
                .recv(&mut [0; 4096])
                .map_or_else(|error| error.kind() == ErrorKind::Interrupted, |length| length > 0)
        };
        let reader = thread::spawn(move || while reads_on() {});
        Reading { supervisor: self, reader: Some(reader) }
    }

    fn heard_nothing_more(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let nothing = self.socket.recv(&mut [0; 100]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        nothing
    }
}

struct Reading {
    supervisor: Supervisor,
    reader: Option<thread::JoinHandle<()>>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.supervisor.socket.shutdown(Shutdown::Both).unwrap();
        self.reader.take().unwrap().join().unwrap();
    }
}

/// A FIFO on which the service waits.
struct Gate(File);

impl Gate {
    fn new(b: &Bundle) -> Gate {
        let path = b.rootfs().join("gate");
        mkfifo(&path, Mode::from_bits_truncate(0o666)).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        Gate(File::options().read(true).write(true).open(path).unwrap())
    }

    fn open(&mut self) {
        self.0.write_all(b"\n").unwrap();
    }
}

fn service(t: &Test, words: &[&str]) -> Bundle {
    let mut b = t.bundle();
    copy_program(Path::new(env!("CARGO_BIN_EXE_service")), &b.rootfs().join("bin/service"));
    for dir in ["/lib", "/lib64", "/usr/lib"] {
        if Path::new(dir).is_dir() {
            b.mount(dir, "bind", dir, &["bind", "ro"]);
        }
    }
    b.args(&[&["/bin/service"], words].concat());
    b
}

fn pid_of(told: &str) -> i32 {
    let line = told.lines().find_map(|line| line.strip_prefix("MAINPID="));
    line.unwrap_or_else(|| panic!("no MAINPID in {told:?}")).parse().unwrap()
}

const ENDLESS: [&str; 2] = ["wait", "/gate"];

#[test]
fn ready_ends_the_wait_of_a_detached_run() {
    run_case(any(), |t| {
        let supervisor = Supervisor::new(t);
        let b = service(t, &[&["send", "READY=1"][..], &ENDLESS].concat());
        let _gate = Gate::new(&b);
        let run = supervisor.told(t.run_with(&b, &["--detach"])).spawn();
        // What comes with it, and in how many datagrams, is each runtime's own.
        supervisor.hears_ready();
        let _reading = supervisor.keep_reading();
        run.wait().ok();
    });
}

#[test]
fn a_detached_run_returns_when_the_supervisor_knows() {
    run_case(oar_only("what comes before READY is passed on too"), |t| {
        let supervisor = Supervisor::new(t);
        let b = service(t, &["send", "STATUS=starting", "wait", "/gate", "send", "READY=1", "wait", "/gate"]);
        let mut gate = Gate::new(&b);
        let id = t.id();
        t.write(&b, &id);
        let arguments = ["run", "--detach", "--bundle", b.dir.to_str().unwrap(), &id];
        let run = supervisor.told(t.rt(&arguments)).spawn();
        supervisor.hears("STATUS=starting");
        gate.open();
        let (told, _) = supervisor.next();
        let barrier = supervisor.hears("BARRIER=1");
        // For as long as it is not over, the command is there.
        let alive = fs::read_to_string(format!("/proc/{}/stat", run.pid())).unwrap();
        assert!(!alive.contains(") Z "), "{alive}");
        assert_eq!(barrier.len(), 1);
        drop(barrier);
        run.wait().ok();
        let c = t.container(id, &b, t.rt(&["list"]).run());
        assert_eq!(
            (told.as_str(), c.status().as_str()),
            (&*format!("MAINPID={}\nREADY=1", c.pid), "running")
        );
        assert!(supervisor.heard_nothing_more());
    });
}

#[test]
fn ready_ends_the_wait_of_start() {
    run_case(any(), |t| {
        let supervisor = Supervisor::new(t);
        let b = service(t, &[&["send", "READY=1"][..], &ENDLESS].concat());
        let _gate = Gate::new(&b);
        let (id, creation) = t.creation(&b, &[]);
        let c = t.container(id, &b, supervisor.told(creation).run());
        let start = supervisor.told(t.rt(&["start", &c.id])).spawn();
        supervisor.hears_ready();
        let _reading = supervisor.keep_reading();
        start.wait().ok();
        assert_eq!(c.status(), "running");
    });
}

#[test]
fn start_tells_whose_readiness_it_is() {
    run_case(oar_only("one datagram has both; runc 1.1.5 sends two, crun 1.8.1 names nobody"), |t| {
        let supervisor = Supervisor::new(t);
        let b = service(t, &[&["send", "READY=1;STATUS=up"][..], &ENDLESS].concat());
        let _gate = Gate::new(&b);
        let (id, creation) = t.creation(&b, &[]);
        let c = t.container(id, &b, supervisor.told(creation).run());
        let start = supervisor.told(t.rt(&["start", &c.id])).spawn();
        supervisor.hears(&format!("MAINPID={}\nREADY=1\nSTATUS=up", c.pid));
        drop(supervisor.hears("BARRIER=1"));
        start.wait().ok();
        // Nobody listens any more.
        assert!(!t.state_root().join(&c.id).join("notify/notify.sock").exists());
    });
}

#[test]
fn everything_is_passed_on_in_the_foreground() {
    run_case(oar_only("runc and crun pass on READY alone"), |t| {
        let supervisor = Supervisor::new(t);
        let lines = [
            "STATUS=half way",
            "EXTEND_TIMEOUT_USEC=1000000",
            "WATCHDOG=1",
            "RELOADING=1;MONOTONIC_USEC=4711",
            "NOTIFYACCESS=all",
            "X_OWN=1",
        ];
        let mut words = vec!["send", "READY=1"];
        words.extend(lines.iter().flat_map(|line| ["send", line]));
        words.extend(["store", "FDSTORE=1;FDNAME=passwd", "/etc/passwd"]);
        words.extend(["barrier", "send", "STOPPING=1", "exit", "7"]);
        let run = supervisor.told(t.run_with(&service(t, &words), &[])).spawn();
        // It stands for the container's first process: it has its signals and its exit status.
        supervisor.hears(&format!("MAINPID={}\nREADY=1", run.pid()));
        for line in lines {
            assert!(supervisor.hears(&line.replace(';', "\n")).is_empty());
        }
        let [stored] = <[OwnedFd; 1]>::try_from(supervisor.hears("FDSTORE=1\nFDNAME=passwd")).unwrap();
        let mut text = String::new();
        File::from(stored).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("root:"), "{text}");
        let barrier = supervisor.hears("BARRIER=1");
        assert_eq!((barrier.len(), run.stdout().as_str()), (1, ""));
        drop(barrier);
        // The last word, although its sender has ended by then.
        supervisor.hears("STOPPING=1");
        let out = run.wait();
        out.expect_code(7);
        assert_eq!(out.stdout, "barrier over\n");
        assert!(supervisor.heard_nothing_more());
    });
}

#[test]
fn main_pid_is_translated_or_left_out() {
    run_case(oar_only("runc and crun pass on READY alone"), |t| {
        let supervisor = Supervisor::new(t);
        let words = ["send", "MAINPID=1", "send", "STATUS=x;MAINPID=77777", "send", "MAINPID=77777", "child"];
        let b = service(t, &[&words[..], &ENDLESS, &["exit", "0"]].concat());
        let mut gate = Gate::new(&b);
        let run = supervisor.told(t.run_with(&b, &[])).spawn();
        supervisor.hears(&format!("MAINPID={}", run.pid()));
        supervisor.hears("STATUS=x");
        let (told, _) = supervisor.next();
        executes(pid_of(&told), &["/bin/sleep", "1000"]);
        gate.open();
        run.wait().ok();
    });
}

/// systemd ends lines at a carriage return too, drops backslashes, and a line end after one is none for it.
#[test]
fn a_mainpid_cannot_be_smuggled() {
    run_case(oar_only("runc and crun pass on READY alone"), |t| {
        let supervisor = Supervisor::new(t);
        let words = [
            ["send", "STATUS=1\rMAINPID=77777"],
            ["send", "M\\AINPID=77777"],
            ["send", "STATUS=2;MAINPID\\=77777\rMAINPID=\\77777;MAINPIDF\\D=1"],
            ["send", "STATUS=it's \\;MAINPID=1"],
            ["send", "READY=1\rSTATUS=up\\"],
        ];
        let last =
            ["store", "BARRIER=1;MAINPID=1\rMAINPID=77777", "/etc/passwd", "wait", "/gate", "exit", "0"];
        let b = service(t, &[&words.concat()[..], &last].concat());
        let mut gate = Gate::new(&b);
        let run = supervisor.told(t.run_with(&b, &[])).spawn();
        supervisor.hears("STATUS=1");
        supervisor.hears("STATUS=2");
        supervisor.hears(&format!("MAINPID={}\nSTATUS=it s  ", run.pid()));
        supervisor.hears(&format!("MAINPID={}\nREADY=1\nSTATUS=up ", run.pid()));
        assert_eq!(supervisor.hears("BARRIER=1").len(), 1);
        gate.open();
        run.wait().ok();
        assert!(supervisor.heard_nothing_more());

        // Detached, the command returns: what the supervisor takes for READY is seen here too.
        let b = service(t, &[&["send", "STATUS=x\\\rREADY=1"][..], &ENDLESS].concat());
        let _gate = Gate::new(&b);
        let run = supervisor.told(t.run_with(&b, &["--detach"])).spawn();
        supervisor.hears_ready();
        drop(supervisor.hears("BARRIER=1"));
        run.wait().ok();
    });
}

#[test]
fn main_pid_without_a_pid_namespace() {
    run_case(oar_only("runc and crun pass on READY alone"), |t| {
        let supervisor = Supervisor::new(t);
        // The host's own first process is none of the container's.
        let mut b =
            service(t, &[&["send", "MAINPID=1;STATUS=x", "child"][..], &ENDLESS, &["exit", "0"]].concat());
        b.without_namespace("pid");
        let mut gate = Gate::new(&b);
        let run = supervisor.told(t.run_with(&b, &[])).spawn();
        supervisor.hears("STATUS=x");
        let child = pid_of(&supervisor.next().0);
        executes(child, &["/bin/sleep", "1000"]);
        gate.open();
        run.wait().ok();
        if Path::new(&format!("/proc/{child}")).exists() {
            kill(Pid::from_raw(child), Signal::SIGKILL).ok(); // run has killed it, or is about to
        }
    });
}

#[test]
fn an_end_before_ready_is_an_error() {
    run_case(
        oar_only("runc 1.1.5 does not return, crun 1.8.1 ends with the container's status and no word"),
        |t| {
            let supervisor = Supervisor::new(t);
            let b = service(t, &["send", "STATUS=going", "exit", "3"]);
            let out = supervisor.told(t.run_with(&b, &["--detach"])).run();
            out.clean_error().says("ended before it said READY=1").says("exit status 3");
            supervisor.hears("STATUS=going");
            assert_eq!(fs::read_dir(t.state_root()).unwrap().count(), 0);

            let (id, creation) = t.creation(&b, &[]);
            let c = t.container(id, &b, supervisor.told(creation).run());
            let out = supervisor.told(t.rt(&["start", &c.id])).run();
            out.clean_error().says("ended before it said READY=1");
            assert_eq!(c.status(), "stopped");
        },
    );
}

#[test]
fn a_signal_ends_the_wait_for_ready() {
    run_case(oar_only("told by what comes before READY, which runc and crun keep"), |t| {
        let supervisor = Supervisor::new(t);
        let b = service(t, &[&["send", "STATUS=going"][..], &ENDLESS].concat());
        let _gate = Gate::new(&b);
        let (id, creation) = t.creation(&b, &[]);
        let c = t.container(id, &b, supervisor.told(creation).run());
        let start = supervisor.told(t.rt(&["start", &c.id])).spawn();
        supervisor.hears("STATUS=going");
        // Other commands have their turn meanwhile.
        assert_eq!(c.status(), "running");
        c.verb(&["start"]).failed().says("already running");
        kill(Pid::from_raw(start.pid()), Signal::SIGTERM).unwrap();
        start.wait().expect_code(128 + 15);
        assert_eq!(c.status(), "running");
    });
}

/// In the container that `change` makes, somebody says READY=1, and it is heard.
fn ready_is_heard(t: &Test, change: fn(&mut Bundle) -> &mut Bundle) {
    let supervisor = Supervisor::new(t);
    let mut b = service(t, &[&["send", "READY=1"][..], &ENDLESS].concat());
    let _gate = Gate::new(&b);
    change(&mut b);
    let run = supervisor.told(t.run_with(&b, &["--detach"])).spawn();
    supervisor.hears_ready();
    let _reading = supervisor.keep_reading();
    run.wait().ok();
}

#[test]
fn a_user_may_tell() {
    let case = any().differs("crun", "1.8.1 hears root only");
    run_case(case, |t| ready_is_heard(t, |b| b.set("/process/user", json!({"uid": 1000, "gid": 1000}))));
}

#[test]
fn a_user_namespace_may_tell() {
    run_case(any(), |t| ready_is_heard(t, |b| b.user_namespace()));
}

#[test]
fn the_socket_lies_on_mounts_of_the_config() {
    run_case(any(), |t| {
        ready_is_heard(t, |b| b.mount("/run", "tmpfs", "tmpfs", &["ro"]).set("/root/readonly", json!(true)));
    });
}

#[test]
fn an_abstract_socket() {
    run_case(any(), |t| {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("{}/notify", t.tag);
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let supervisor = Supervisor { socket, address: format!("@{name}") };
        let b = service(t, &[&["send", "READY=1"][..], &ENDLESS].concat());
        let _gate = Gate::new(&b);
        let run = supervisor.told(t.run_with(&b, &["--detach"])).spawn();
        supervisor.hears_ready();
        let _reading = supervisor.keep_reading();
        run.wait().ok();
    });
}

#[test]
fn a_supervisor_that_is_not_there_changes_nothing() {
    run_case(oar_only("B-142: runc and crun set NOTIFY_SOCKET inside all the same"), |t| {
        let nowhere = t.dir.join("nowhere");
        for bad in [nowhere.to_str().unwrap(), "relative", "@", "vsock:2:4711", "@nobody-is-here"] {
            let mut b = t.bundle();
            b.sh("echo socket $NOTIFY_SOCKET; ls /run 2>&1; exit 4");
            let out = t.run_with(&b, &[]).env("NOTIFY_SOCKET", bad).run();
            out.expect_code(4)
                .says(&format!("NOTIFY_SOCKET {}", if bad.starts_with('/') { bad } else { "" }));
            assert!(out.stdout.starts_with("socket\n") && !out.stdout.contains("notify"), "{out}");
        }
        let out = t.run_with(&t.bundle(), &[]).env("NOTIFY_SOCKET", "").run();
        assert_eq!((out.code, out.stderr.as_str()), (0, ""), "{out}");
    });
}

#[test]
fn start_without_a_socket_in_the_container_does_not_wait() {
    run_case(oar_only("runc 1.1.5 and crun 1.8.1 fail to start it"), |t| {
        let supervisor = Supervisor::new(t);
        let c = t.create(&t.bundle());
        let out = supervisor.told(t.rt(&["--debug", "start", &c.id])).run();
        out.ok();
        out.says("NOTIFY_SOCKET was not set for create");
        assert!(supervisor.heard_nothing_more());
    });
}

/// In front of the runtime, as systemd does it: a listening socket on 3, and the variables about it. It has its name when
/// it listens, not before.
fn activated(run: Invocation, path: &Path, names: &str) -> Invocation {
    let script = "use IO::Socket::UNIX; use POSIX; $^F = 100; \
        my $name = shift; my $s = IO::Socket::UNIX->new(Local => \"$name.new\", Listen => 8) or die; \
        rename \"$name.new\", $name or die; \
        POSIX::dup2(fileno($s), 3) unless fileno($s) == 3; \
        @ENV{qw(LISTEN_FDS LISTEN_PID LISTEN_FDNAMES)} = (1, $$, shift); exec @ARGV; die";
    run.wrap(&["perl", "-e", script, path.to_str().unwrap(), names])
}

fn answer(t: &Test, change: fn(&mut Bundle) -> &mut Bundle, names: &str) -> String {
    let mut b = service(t, &["answer"]);
    change(&mut b);
    let path = t.dir.join(format!("listening-{names}"));
    let run = activated(t.run_with(&b, &[]), &path, names).spawn();
    t.wait_for(&t.dir, || path.exists());
    let mut connection = UnixStream::connect(&path).unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    run.wait().ok();
    text
}

#[test]
fn a_socket_activated_service_answers() {
    run_case(any().differs("crun", "1.8.1 passes the descriptors, not the count"), |t| {
        let text = answer(t, |b| b, "web");
        assert!(text.starts_with("fds 1 ") && text.ends_with(" pid true"), "{text}");
    });
}

#[test]
fn a_socket_activated_service_knows_the_names() {
    run_case(oar_only("runc and crun do not pass LISTEN_FDNAMES on"), |t| {
        assert_eq!(answer(t, |b| b, "web:gone"), "fds 1 names web pid true");
    });
}

#[test]
fn a_socket_activated_service_of_the_hosts_pid_namespace() {
    run_case(oar_only("LISTEN_PID is the process's own number, which is not 1 there"), |t| {
        let text = answer(t, |b| b.without_namespace("pid"), "host");
        assert_eq!(text, "fds 1 names host pid true");
    });
}
