// SPDX-License-Identifier: MIT OR Apache-2.0
//! The systemd driver against a user's own manager, as an ordinary user: private socket, session bus, from inside
//! of a user namespace.
//!
//! Never touches a unit that it did not start; each is stopped also after a panic. Without a user manager it
//! skips, and says so. The variants run in processes of their own, since they differ in the environment.

// The helpers below belong to the tests, where a panic is the report.
#![allow(clippy::unwrap_used)]

mod sleeper;

use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_cgroup::{Systemd, path_of};
use coracle_plan::Resources;
use sleeper::{Sleeper, Unit, slice};

/// XDG_RUNTIME_DIR, where a manager is.
fn manager() -> Option<PathBuf> {
    let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    run.join("systemd/private").exists().then_some(run)
}

fn skipped() -> bool {
    let skip = manager().is_none() || nix::unistd::geteuid().is_root();
    if skip {
        eprintln!("skip: needs an ordinary user with a systemd user manager (XDG_RUNTIME_DIR)");
    }
    skip
}

/// One scope's life in the user's manager.
fn round() {
    let mut systemd = Systemd::connect(true).unwrap();
    let base = systemd.control_group().unwrap();
    assert!(base.starts_with("/user.slice/user-") && base.ends_with(".service"), "{base}");
    let mut unit = Unit::scope(&format!("{}-u.slice", slice("user")), "user");
    unit.change(|unit| unit.user = true);
    let mut sleeper = Sleeper::new();
    let resources = Resources { memory_limit: Some(64 << 20), pids_limit: Some(77), ..Resources::default() };
    let path = systemd.start(&unit, &resources, sleeper.pid()).unwrap();
    assert_eq!(path, format!("{base}/{}", path_of(&unit)));
    assert_eq!(sleeper.cgroup(), path);
    let directory = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    if directory.join("pids.max").exists() {
        assert_eq!(std::fs::read_to_string(directory.join("pids.max")).unwrap(), "77\n");
        assert_eq!(std::fs::read_to_string(directory.join("memory.max")).unwrap(), "67108864\n");
    }
    let mut other = Sleeper::new();
    let error = systemd.start(&unit, &resources, other.pid()).unwrap_err().to_string();
    assert!(error.contains("already exists"), "{error}");
    other.end();
    sleeper.end();
    systemd.stop(&unit.name).unwrap();
    systemd.stop(&unit.name).unwrap();
    assert!(!directory.exists());
}

const VARIANT: &str = "CORACLE_TEST_SYSTEMD_USER";

/// This test program again, running [`in_another_process`] alone.
fn again(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "in_another_process", "--nocapture"]).env(VARIANT, "1");
    command
}

#[test]
fn in_another_process() {
    if std::env::var_os(VARIANT).is_some() {
        round();
    }
}

#[test]
fn through_the_private_socket() {
    if skipped() {
        return;
    }
    round();
}

#[test]
fn through_the_session_bus() {
    if skipped() {
        return;
    }
    let Some(bus) = manager().map(|run| run.join("bus")).filter(|bus| bus.exists()) else {
        eprintln!("skip: no session bus");
        return;
    };
    // No private socket is where this environment points to.
    let address = format!("unix:path=/nonexistent;unix:path={}", bus.display());
    let mut command = again("env", &[]);
    command.env("XDG_RUNTIME_DIR", "/nonexistent").env("DBUS_SESSION_BUS_ADDRESS", address);
    assert!(command.status().unwrap().success());
}

#[test]
fn as_root_of_a_user_namespace_with_nearly_no_environment() {
    if skipped() {
        return;
    }
    let map = ["--user", "--map-root-user"];
    if !Command::new("unshare").args(map).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skip: no user namespaces here");
        return;
    }
    // /run/user/UID is by the uid outside, which is not 0.
    let mut command = again("unshare", &map);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("DBUS_SESSION_BUS_ADDRESS");
    assert!(command.status().unwrap().success());
}

#[test]
fn the_systems_manager_answers_through_its_bus() {
    if skipped() {
        return;
    }
    if !Path::new("/run/dbus/system_bus_socket").exists() {
        eprintln!("skip: no system bus");
        return;
    }
    let mut systemd = Systemd::connect(false).unwrap();
    assert_eq!(systemd.control_group().unwrap(), "");
    // Not ours to start units there: its refusal comes back, not a wait for it.
    let unit = Unit::scope("system.slice", "refused");
    let mut sleeper = Sleeper::new();
    let error = systemd.start(&unit, &Resources::default(), sleeper.pid()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("systemd: start {}: ", unit.name)), "{error}");
    assert!(!error.contains("in time"), "{error}");
    sleeper.end();
}

#[test]
fn no_manager_is_said_with_a_hint() {
    if std::env::var_os(VARIANT).is_some() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "without_a_manager", "--nocapture", "--ignored"]);
    command.env("XDG_RUNTIME_DIR", "/nonexistent").env_remove("DBUS_SESSION_BUS_ADDRESS");
    assert!(command.status().unwrap().success());
}

#[test]
#[ignore = "run by no_manager_is_said_with_a_hint, with its environment"]
fn without_a_manager() {
    assert_eq!(
        Systemd::connect(true).unwrap_err().to_string(),
        "systemd: connect to /nonexistent/systemd/private: no such file or directory \
         (is systemd running? leave out --systemd-cgroup)"
    );
}
