// SPDX-License-Identifier: MIT OR Apache-2.0
//! systemd as the one who makes cgroups: transient scopes and slices with the container's limits as properties.
//!
//! Never writes a cgroup file, never starts a thread, never waits without a deadline. Units come from the plan;
//! where systemd put them goes back to the caller, who compares it with [`path_of`] and works on there.
//!
//! # What systemd must know, and what it does not
//!
//! systemd writes its own values again whenever it likes, at `daemon-reload` for one. So each limit of a kind
//! that it manages is a property here, and the exact values are written by the caller afterwards. Coarser in
//! systemd's hands: a CPU quota is whole percents (rounded up here), and the weight for bfq is derived from
//! IOWeight. Not sent: limits of single block devices (systemd takes paths of nodes, the document has numbers;
//! it touches only the devices that it was told), and what it does not manage at all: huge pages, rdma, misc,
//! burst, realtime, v1's cpuset.
//!
//! Its device filter stands beside ours, and both must allow an access. The list that it gets is therefore
//! never narrower than ours, only as near as its syntax comes: rules that take a part away again are not in it.
//! v1 has one list, so there a reload leaves systemd's. A user's manager has no rights to make a filter.
//!
//! Needs systemd 244 (numbers for majors since 240, AllowedCPUs since 244); 252 for an idle CPU weight.
//!
//! # System calls
//!
//! On the private socket: socket, setsockopt, connect; then send, poll, recv for the authentication and for each
//! call, and poll, recv for the end of a job where that does not come with the answer.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use coracle_plan::{DeviceAccess, DeviceRule, DeviceRuleKind, Resources, SystemdUnit};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::convert;
use crate::dbus::{Address, Call, Connection, Failure, Kind, Message, Writer};
use crate::error::{Error, words};
use crate::gvariant::{self, Value};

/// For each function as a whole, the job included: longer than a busy manager takes, shorter than engines wait.
const PATIENCE: Duration = Duration::from_secs(30);

const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What systemd calls infinity, and for a weight: the default.
const NO_LIMIT: u64 = u64::MAX;

/// One connection to one manager.
#[derive(Debug)]
pub struct Systemd {
    connection: Connection,
    user: bool,
    patience: Duration,
    /// Answers to these are only looked at when they are errors.
    greetings: Vec<u32>,
    /// Jobs of other units end all the time.
    unit: String,
    ended: Vec<Ended>,
}

#[derive(Debug)]
struct Ended {
    job: String,
    result: String,
    sender: String,
}

impl Systemd {
    /// `user`: the manager of the calling user, else the system's. The manager's private socket where the caller
    /// may use it, else the bus. Environment: XDG_RUNTIME_DIR, DBUS_SESSION_BUS_ADDRESS,
    /// DBUS_SYSTEM_BUS_ADDRESS.
    pub fn connect(user: bool) -> Result<Systemd, Error> {
        let mut first = None;
        for (address, bus) in addresses(user) {
            match Connection::connect(&address, PATIENCE) {
                Ok(mut connection) => {
                    let what = || format!("connect to {address}");
                    if !connection.shares_pids() {
                        return Err(error(
                            what(),
                            "it is in another pid namespace, and would move other processes",
                        ));
                    }
                    let deadline = Instant::now() + PATIENCE;
                    connection.authenticate(deadline).map_err(|failure| told(what(), failure))?;
                    return Systemd::over(connection, user, bus, PATIENCE);
                }
                Err(errno) => {
                    first.get_or_insert((address, errno));
                }
            }
        }
        let Some((address, errno)) = first else {
            return Err(error("connect", "the bus address of the environment has no unix socket"));
        };
        let hint = match errno {
            Errno::ENOENT | Errno::ECONNREFUSED => " (is systemd running? leave out --systemd-cgroup)",
            _ => "",
        };
        Err(error(format!("connect to {address}"), format!("{}{hint}", words(errno))))
    }

    fn over(connection: Connection, user: bool, bus: bool, patience: Duration) -> Result<Systemd, Error> {
        let mut systemd = Systemd {
            connection,
            user,
            patience,
            greetings: Vec::new(),
            unit: String::new(),
            ended: Vec::new(),
        };
        if bus {
            systemd.greet().map_err(|failure| told("connect", failure))?;
        }
        Ok(systemd)
    }

    /// Queued only: goes out with the first call. On the private socket signals come unasked.
    fn greet(&mut self) -> Result<(), Failure> {
        let mut rule = Writer::default();
        rule.string(&format!(
            "type='signal',sender='{DESTINATION}',path='{PATH}',interface='{MANAGER}',member='JobRemoved'"
        ));
        let bus = |member, signature, body| Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            signature,
            body,
        };
        for call in [
            bus("Hello", "", Writer::default()),
            bus("AddMatch", "s", rule),
            manager("Subscribe", "", Writer::default()),
        ] {
            self.greetings.push(self.connection.queue(call)?);
        }
        Ok(())
    }

    /// The cgroup below which this manager's units are, as `/proc/PID/cgroup` names it: empty for the system's,
    /// `/user.slice/user-1000.slice/user@1000.service` for a user's.
    pub fn control_group(&mut self) -> Result<String, Error> {
        let deadline = self.deadline();
        self.text_property(PATH, MANAGER, "ControlGroup", deadline)
            .map_err(|failure| told("get ControlGroup", failure))
    }

    /// Starts the transient unit, with `pid` in it unless it is a slice, and waits for the job. A failed unit
    /// of this name is forgotten first. Returns the unit's cgroup as systemd tells it. On an error that comes
    /// after the job was queued the unit may exist: [`Self::stop`] it.
    pub fn start(&mut self, unit: &SystemdUnit, resources: &Resources, pid: i32) -> Result<String, Error> {
        let what = format!("start {}", unit.name);
        let deadline = self.deadline();
        let cgroup2 = cgroup2_alone();
        let mut properties = of_unit(unit, pid, cgroup2);
        properties.extend(self.limits(resources, cgroup2, deadline).map_err(|failure| told(&what, failure))?);
        for (name, text) in &unit.properties {
            let (name, value) = gvariant::property(name, text).map_err(|rule| {
                error(format!("annotation org.systemd.property.{name}"), format!("the value {rule}"))
            })?;
            // The one who wrote the annotation knows better.
            properties.retain(|(ours, _)| *ours != name);
            properties.push((name, value));
        }
        self.watch(&unit.name);
        let mut tried = false;
        let job = loop {
            let mut body = Writer::default();
            body.string(&unit.name);
            body.string("replace");
            write_properties(&mut body, &properties);
            body.array(8, |_| {});
            match self.job(manager("StartTransientUnit", "ssa(sv)a(sa(sv))", body), deadline) {
                Err(Failure::Answer { name, .. }) if name == UNIT_EXISTS && tried => {
                    return Err(error(&what, format!("unit {} already exists", unit.name)));
                }
                Err(Failure::Answer { name, .. }) if name == UNIT_EXISTS => {
                    tried = true;
                    self.reset_failed(&unit.name, deadline).map_err(|failure| told(&what, failure))?;
                }
                other => break other.map_err(|failure| told(&what, failure))?,
            }
        };
        self.wait(&what, &job, deadline)?;
        let path = self
            .text_property(&object_path(&unit.name), interface(&unit.name), "ControlGroup", deadline)
            .map_err(|failure| told(&what, failure))?;
        if path.is_empty() {
            return Err(error(&what, "the unit has no cgroup: its process has ended"));
        }
        Ok(path)
    }

    /// Tells systemd the limits of a unit that runs, until it ends. Members that are absent are left. All or nothing.
    /// Returns when systemd has written them to the cgroup.
    pub fn set_limits(&mut self, name: &str, resources: &Resources) -> Result<(), Error> {
        let deadline = self.deadline();
        self.update(name, resources, deadline).map_err(|failure| told(format!("update {name}"), failure))
    }

    fn update(&mut self, name: &str, resources: &Resources, deadline: Instant) -> Result<(), Failure> {
        let mut properties = self.limits(resources, cgroup2_alone(), deadline)?;
        let weighed = properties.iter().any(|(name, _)| name == "CPUWeight");
        // Idle is a weight of 0 to systemd: to end it is to give another.
        if resources.cpu_idle == Some(false) && !weighed {
            let message = self.property(&object_path(name), interface(name), "CPUWeight", deadline)?;
            let mut body = message.body("v").ok_or_else(unexpected)?;
            if body.signature() == Some("t") && body.u64() == Some(0) {
                properties.push(("CPUWeight".to_string(), Value::Uint64(NO_LIMIT)));
            }
        }
        // Lists are added to, unless they are emptied first.
        if let Some(at) = properties.iter().position(|(name, _)| name == "DeviceAllow") {
            properties.insert(at, ("DeviceAllow".to_string(), Value::Pairs(Vec::new())));
        }
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Writer::default();
        body.string(name);
        body.u32(1);
        write_properties(&mut body, &properties);
        self.call(manager("SetUnitProperties", "sba(sv)", body), deadline)?;
        // The answer comes before the files are written, which systemd does before it takes the next message.
        self.text_property(PATH, MANAGER, "Version", deadline).map(drop)
    }

    /// Stops the unit and waits for the job, then forgets that it failed, if it did. A unit that is not loaded
    /// is a success. Processes are to be killed before: systemd would give them time.
    pub fn stop(&mut self, name: &str) -> Result<(), Error> {
        let what = format!("stop {name}");
        let deadline = self.deadline();
        self.watch(name);
        let mut body = Writer::default();
        body.string(name);
        body.string("replace");
        let job = match self.job(manager("StopUnit", "ss", body), deadline) {
            Err(Failure::Answer { name, .. }) if name == NO_SUCH_UNIT => return Ok(()),
            other => other.map_err(|failure| told(&what, failure))?,
        };
        let ended = self.wait(&what, &job, deadline);
        self.reset_failed(name, deadline).map_err(|failure| told(&what, failure))?;
        ended
    }

    /// Moves a process of the caller's own uid into the unit's cgroup, or to the existing `below` in it (absolute, `/` is
    /// the unit's). A user's manager asks the system's where it may not itself (systemd 238).
    pub fn attach(&mut self, name: &str, below: &str, pid: i32) -> Result<(), Error> {
        let mut body = Writer::default();
        body.string(name);
        body.string(below);
        body.array(4, |w| w.u32(pid.unsigned_abs()));
        self.call(manager("AttachProcessesToUnit", "ssau", body), self.deadline())
            .map(drop)
            .map_err(|failure| told(format!("move process {pid} to {name}"), failure))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    fn watch(&mut self, unit: &str) {
        self.unit = unit.to_string();
        self.ended.clear();
    }

    /// Sends a call and returns its answer.
    fn call(&mut self, call: Call<'_>, deadline: Instant) -> Result<Message, Failure> {
        let serial = self.connection.queue(call)?;
        loop {
            let message = self.connection.receive(deadline)?;
            let ours = message.reply_to == serial;
            match message.kind {
                Kind::Return if ours => return Ok(message),
                Kind::Error if ours || self.greetings.contains(&message.reply_to) => {
                    return Err(message.failure());
                }
                _ => self.note(&message),
            }
        }
    }

    /// Keeps the end of a job of the unit that is watched.
    fn note(&mut self, message: &Message) {
        if message.kind != Kind::Signal || message.member != "JobRemoved" || message.interface != MANAGER {
            return;
        }
        let Some(mut body) = message.body("uoss") else { return };
        let (_, job, unit, result) = (body.u32(), body.string(), body.string(), body.string());
        if let (Some(job), Some(result)) = (job, result)
            && unit == Some(&self.unit)
        {
            let (job, result) = (job.to_string(), result.to_string());
            self.ended.push(Ended { job, result, sender: message.sender.clone() });
        }
    }

    /// Sends a call that makes a job: its path, and who answered.
    fn job(&mut self, call: Call<'_>, deadline: Instant) -> Result<(String, String), Failure> {
        let message = self.call(call, deadline)?;
        let job = message.body("o").and_then(|mut body| body.string()).ok_or_else(unexpected)?;
        Ok((job.to_string(), message.sender))
    }

    fn wait(&mut self, what: &str, (job, sender): &(String, String), deadline: Instant) -> Result<(), Error> {
        loop {
            // On a bus anybody may send such a signal: only the one who answered is believed.
            let ended = self.ended.iter().find(|ended| ended.job == *job && ended.sender == *sender);
            match ended.map(|ended| ended.result.as_str()) {
                Some("done") => return Ok(()),
                Some(result) => return Err(error(what, format!("the job's result is {result}"))),
                None => {}
            }
            let message = self.connection.receive(deadline).map_err(|failure| match failure {
                Failure::Broken(why) => error(what, format!("waiting for the job: {why}")),
                failure => told(what, failure),
            })?;
            self.note(&message);
        }
    }

    /// A unit that is not loaded or has not failed needs none, so only the connection can fail.
    fn reset_failed(&mut self, name: &str, deadline: Instant) -> Result<(), Failure> {
        let mut body = Writer::default();
        body.string(name);
        match self.call(manager("ResetFailedUnit", "s", body), deadline) {
            Ok(_) | Err(Failure::Answer { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The answer has a variant.
    fn property(&mut self, path: &str, of: &str, name: &str, deadline: Instant) -> Result<Message, Failure> {
        let mut body = Writer::default();
        body.string(of);
        body.string(name);
        let (destination, signature) = (DESTINATION, "ss");
        let call = Call { destination, path, interface: PROPERTIES, member: "Get", signature, body };
        self.call(call, deadline)
    }

    fn text_property(
        &mut self,
        path: &str,
        of: &str,
        name: &str,
        deadline: Instant,
    ) -> Result<String, Failure> {
        let message = self.property(path, of, name, deadline)?;
        let mut body = message.body("v").ok_or_else(unexpected)?;
        match body.signature() {
            Some("s") => body.string().map(String::from).ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    /// [`of_resources`], and what depends on the manager.
    fn limits(
        &mut self,
        resources: &Resources,
        cgroup2: bool,
        deadline: Instant,
    ) -> Result<Vec<(String, Value)>, Failure> {
        let mut properties = of_resources(resources, cgroup2);
        if !self.user && !resources.devices.is_empty() {
            let (policy, list) = devices(&resources.devices);
            properties.push(("DevicePolicy", Value::String(policy.to_string())));
            properties.push(("DeviceAllow", Value::Pairs(list)));
        }
        let idle = ("CPUWeight", Value::Uint64(0));
        if properties.contains(&idle) {
            let version = self.text_property(PATH, MANAGER, "Version", deadline)?;
            // An older one refuses it, with all the rest: idle then lasts until systemd writes a weight.
            if major(&version) < 252 {
                properties.retain(|property| *property != idle);
            }
        }
        Ok(properties.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
    }
}

/// Where the unit's cgroup will be, below the manager's [`Systemd::control_group`]: `a.slice/a-b.slice/c.scope`.
/// Without a `/` at the beginning; empty for the root slice.
pub fn path_of(unit: &SystemdUnit) -> String {
    // A slice is where its own name says, whatever slice was asked for.
    if unit.name.ends_with(".slice") {
        return slice_path(&unit.name);
    }
    let name = cgroup_name(&unit.name);
    match slice_path(&unit.slice) {
        slice if slice.is_empty() => name,
        slice => format!("{slice}/{name}"),
    }
}

/// systemd.slice(5): each `-` is one level.
fn slice_path(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if stem == "-" {
        return String::new();
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    let levels = ends.filter_map(|end| stem.get(..end)).map(|level| cgroup_name(&format!("{level}.slice")));
    levels.collect::<Vec<_>>().join("/")
}

/// systemd puts `_` before the name of a directory that could be mistaken for one of the kernel's files.
fn cgroup_name(unit: &str) -> String {
    const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids"];
    let file = unit.starts_with(['_', '.'])
        || unit.starts_with("bpf-")
        || unit.split_once('.').is_some_and(|(word, _)| word == "cgroup" || CONTROLLERS.contains(&word));
    if file { format!("_{unit}") } else { unit.to_string() }
}

/// Of the unit's object: what is neither letter nor digit, and a digit at the beginning, is escaped.
fn object_path(unit: &str) -> String {
    let mut path = format!("{PATH}/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && at > 0) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

fn interface(unit: &str) -> &'static str {
    match unit.ends_with(".slice") {
        true => "org.freedesktop.systemd1.Slice",
        false => "org.freedesktop.systemd1.Scope",
    }
}

/// As systemd decides it for itself: else it manages v1 hierarchies.
fn cgroup2_alone() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|about| about.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// `252.38-1~deb12u1`, `257.3`, `systemd 249`.
fn major(version: &str) -> u32 {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Sockets to try, and whether a bus is behind them.
fn addresses(user: bool) -> Vec<(Address, bool)> {
    let path = |path: PathBuf| Address::Path(path);
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let (private, variable, bus) = if user {
        let run = given("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|run| run.is_absolute());
        let run = run.unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", outer_uid())));
        (Some(run.join("systemd/private")), "DBUS_SESSION_BUS_ADDRESS", run.join("bus"))
    } else {
        let root = nix::unistd::geteuid().is_root();
        let private = root.then(|| PathBuf::from("/run/systemd/private"));
        (private, "DBUS_SYSTEM_BUS_ADDRESS", PathBuf::from("/run/dbus/system_bus_socket"))
    };
    let buses = match given(variable) {
        Some(list) => Address::list(list.as_bytes()),
        None => vec![path(bus)],
    };
    private
        .map(|private| (path(private), false))
        .into_iter()
        .chain(buses.into_iter().map(|bus| (bus, true)))
        .collect()
}

/// The caller's uid outside of its user namespace: there the user's directory was named.
fn outer_uid() -> u32 {
    let uid = nix::unistd::geteuid().as_raw();
    let map = crate::host::read("/proc/self/uid_map").unwrap_or_default();
    mapped(&map, uid).unwrap_or(uid)
}

/// user_namespaces(7).
fn mapped(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (inside, outside, length) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = uid.checked_sub(inside).filter(|offset| *offset < length)?;
        outside.checked_add(offset)
    })
}

fn manager<'a>(member: &'a str, signature: &'a str, body: Writer) -> Call<'a> {
    Call { destination: DESTINATION, path: PATH, interface: MANAGER, member, signature, body }
}

fn write_properties(w: &mut Writer, properties: &[(String, Value)]) {
    w.array(8, |w| {
        for (name, value) in properties {
            w.align(8);
            w.string(name);
            value.write(w);
        }
    });
}

/// What each unit gets, limits apart.
fn of_unit(unit: &SystemdUnit, pid: i32, cgroup2: bool) -> Vec<(String, Value)> {
    let yes = Value::Boolean(true);
    let slice = || unit.slice.clone();
    let mut properties = vec![("Description", Value::String(unit.description.clone()))];
    if unit.name.ends_with(".slice") {
        properties.push(("Wants", Value::Strings(vec![slice()])));
    } else {
        properties.push(("Slice", Value::String(slice())));
        properties.push(("PIDs", Value::Uint32s(vec![pid.unsigned_abs()])));
        // What is below the scope is the container's, and all controllers are enabled for the scope.
        properties.push(("Delegate", yes.clone()));
    }
    // No order at shutdown, no conflict with it: the engine's business.
    properties.push(("DefaultDependencies", Value::Boolean(false)));
    // Nobody would reset the failure of a container that was killed for its memory (systemd 236).
    properties.push(("CollectMode", Value::String("inactive-or-failed".to_string())));
    let io = if cgroup2 { "IOAccounting" } else { "BlockIOAccounting" };
    for name in ["CPUAccounting", "MemoryAccounting", "TasksAccounting", io] {
        properties.push((name, yes.clone()));
    }
    properties.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// The limits that systemd manages; each property once. Without a pids limit systemd's DefaultTasksMax stays,
/// which is the administrator's word.
fn of_resources(resources: &Resources, cgroup2: bool) -> Vec<(&'static str, Value)> {
    let mut limits = Limits::default();
    // As everywhere, 0 is not given, except for pids; below 0 is no limit.
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let or_none = |value: i64| u64::try_from(value).unwrap_or(NO_LIMIT);
    let limit = given(resources.memory_limit);
    limits.set(if cgroup2 { "MemoryMax" } else { "MemoryLimit" }, limit.map(or_none));
    if cgroup2 {
        limits.set("MemoryLow", given(resources.memory_reservation).map(or_none));
        // The document has the sum of both.
        let swap = given(resources.memory_swap).map(|swap| match swap {
            ..0 => NO_LIMIT,
            swap => swap.saturating_sub(limit.unwrap_or(0).max(0)).max(0).unsigned_abs(),
        });
        limits.set("MemorySwapMax", swap);
        limits.set("CPUWeight", resources.cpu_shares.filter(|shares| *shares != 0).map(convert::weight));
        if resources.cpu_idle == Some(true) {
            limits.set("CPUWeight", Some(0));
        }
        limits.set("IOWeight", resources.block_io.weight.map(io_weight));
        limits.mask("AllowedCPUs", resources.cpus.as_deref());
        limits.mask("AllowedMemoryNodes", resources.mems.as_deref());
    } else {
        let shares = resources.cpu_shares.filter(|shares| *shares != 0);
        limits.set("CPUShares", shares.map(|shares| shares.clamp(2, 262_144)));
        limits
            .set("BlockIOWeight", resources.block_io.weight.map(|weight| u64::from(weight.clamp(10, 1000))));
    }
    let period = resources.cpu_period.filter(|period| *period != 0);
    limits.bandwidth(given(resources.cpu_quota).map(or_none), period);
    limits.set("TasksMax", resources.pids_limit.map(|pids| or_none(pids).max(1)));
    if cgroup2 {
        for (file, value) in &resources.unified {
            limits.unified(file, value.trim());
        }
    }
    limits.0
}

#[derive(Default)]
struct Limits(Vec<(&'static str, Value)>);

impl Limits {
    /// The last one counts.
    fn put(&mut self, name: &'static str, value: Value) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    fn set(&mut self, name: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.put(name, Value::Uint64(value));
        }
    }

    /// Microseconds in each period of so many microseconds.
    fn bandwidth(&mut self, quota: Option<u64>, period: Option<u64>) {
        // The kernel's own period when none is given.
        let of = u128::from(period.unwrap_or(100_000).max(1));
        let second = quota.map(|quota| match quota {
            NO_LIMIT => NO_LIMIT,
            // Whole percents are what systemd keeps: a lower one would strangle after a reload.
            quota => u64::try_from((u128::from(quota) * 1_000_000).div_ceil(of).next_multiple_of(10_000))
                .unwrap_or(NO_LIMIT),
        });
        self.set("CPUQuotaPerSecUSec", second);
        self.set("CPUQuotaPeriodUSec", period);
    }

    fn mask(&mut self, name: &'static str, list: Option<&str>) {
        if let Some(mask) = list.and_then(mask) {
            self.put(name, Value::Bytes(mask));
        }
    }

    /// What is not understood is left to the kernel, which gets the same text.
    fn unified(&mut self, file: &str, value: &str) {
        let number = || value.parse::<u64>().ok();
        match file {
            "memory.max" => self.set("MemoryMax", amount(value)),
            "memory.high" => self.set("MemoryHigh", amount(value)),
            "memory.low" => self.set("MemoryLow", amount(value)),
            "memory.min" => self.set("MemoryMin", amount(value)),
            "memory.swap.max" => self.set("MemorySwapMax", amount(value)),
            "pids.max" => self.set("TasksMax", amount(value).map(|pids| pids.max(1))),
            "cpu.weight" => self.set("CPUWeight", number().filter(|weight| (1..=10_000).contains(weight))),
            "cpu.idle" => self.set("CPUWeight", number().filter(|idle| *idle == 1).map(|_| 0)),
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = words
                    .next()
                    .and_then(|word| if word == "max" { Some(NO_LIMIT) } else { word.parse().ok() });
                self.bandwidth(quota, words.next().and_then(|word| word.parse().ok()));
            }
            "cpuset.cpus" => self.mask("AllowedCPUs", Some(value)),
            "cpuset.mems" => self.mask("AllowedMemoryNodes", Some(value)),
            "io.weight" => {
                let weight = value.strip_prefix("default").unwrap_or(value).trim().parse().ok();
                self.set("IOWeight", weight.filter(|weight| (1..=10_000).contains(weight)));
            }
            _ => {}
        }
    }
}

/// `max`, or bytes with one of the kernel's suffixes.
fn amount(text: &str) -> Option<u64> {
    if text == "max" {
        return Some(NO_LIMIT);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// blkio.weight (10 to 1000) as io.weight (1 to 10000), both linear.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

/// `0-3,7` as bits, the lowest first in the first byte.
fn mask(list: &str) -> Option<Vec<u8>> {
    /// Linux has no more CPUs than that, nor nodes.
    const MOST: usize = 8192;
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            return None;
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    Some(bytes)
}

/// DevicePolicy and DeviceAllow: all that any rule allows since everything was denied last. What a later rule
/// takes away is left to our own filter.
fn devices(rules: &[DeviceRule]) -> (&'static str, Vec<(String, String)>) {
    let everything = |rule: &DeviceRule| {
        rule.kind == DeviceRuleKind::All
            && (rule.major, rule.minor) == (None, None)
            && rule.access == DeviceAccess { read: true, write: true, mknod: true }
    };
    let denied = rules.iter().rposition(|rule| !rule.allow && everything(rule));
    let since = rules.get(denied.map_or(0, |at| at + 1)..).unwrap_or_default();
    let allowed = || since.iter().filter(|rule| rule.allow);
    if denied.is_none() || allowed().any(everything) {
        return ("auto", Vec::new());
    }
    let mut list: Vec<(String, DeviceAccess)> = Vec::new();
    for rule in allowed() {
        let kinds: &[&str] = match rule.kind {
            DeviceRuleKind::All => &["char", "block"],
            DeviceRuleKind::Character => &["char"],
            DeviceRuleKind::Block => &["block"],
        };
        for kind in kinds {
            let name = match (rule.major, rule.minor) {
                // systemd knows no minor of all majors: it gets all of them.
                (None, _) => format!("{kind}-*"),
                (Some(major), None) if major < 1 << 12 => format!("{kind}-{major}"),
                (Some(major), Some(minor)) if major < 1 << 12 && minor < 1 << 20 => {
                    format!("/dev/{kind}/{major}:{minor}")
                }
                // The kernel has no such device, and systemd refuses the number.
                _ => continue,
            };
            match list.iter_mut().find(|(known, _)| *known == name) {
                Some((_, access)) => {
                    access.read |= rule.access.read;
                    access.write |= rule.access.write;
                    access.mknod |= rule.access.mknod;
                }
                None => list.push((name, rule.access)),
            }
        }
    }
    let words = |access: DeviceAccess| {
        let letters = [(access.read, 'r'), (access.write, 'w'), (access.mknod, 'm')];
        letters.into_iter().filter_map(|(has, letter)| has.then_some(letter)).collect::<String>()
    };
    let list = list.into_iter().map(|(name, access)| (name, words(access)));
    ("strict", list.filter(|(_, access)| !access.is_empty()).collect())
}

fn unexpected() -> Failure {
    Failure::Broken("the answer is not the one of systemd".to_string())
}

fn error(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Systemd { what: what.into(), why: why.into() }
}

/// The manager's own words, made safe to print, or what happened to the connection.
fn told(what: impl Into<String>, failure: Failure) -> Error {
    let why = match failure {
        Failure::Broken(why) => why,
        Failure::Answer { name, text } if text.is_empty() => shown(&name),
        Failure::Answer { text, .. } => shown(text.trim_end_matches('.')),
    };
    error(what, why)
}

fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(400) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    use coracle_plan::BlockIo;

    use super::*;
    use crate::dbus::fake::Server;

    fn unit(slice: &str, name: &str) -> SystemdUnit {
        SystemdUnit {
            slice: slice.to_string(),
            name: name.to_string(),
            description: "oar container web".to_string(),
            user: false,
            properties: Vec::new(),
        }
    }

    fn played(bus: bool, script: impl FnOnce(&mut Server) + Send + 'static) -> (Systemd, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || script(&mut Server::new(theirs)));
        let connection = Connection::over(ours.into());
        (Systemd::over(connection, false, bus, Duration::from_secs(20)).unwrap(), server)
    }

    fn job(server: &mut Server, number: u32) {
        server.answer("o", |w| w.string(&format!("/job/{number}")));
    }

    fn removed(server: &mut Server, sender: &str, number: u32, unit: &str, result: &str) {
        server.signal(sender, MANAGER, "JobRemoved", |w| {
            w.u32(number);
            w.string(&format!("/job/{number}"));
            w.string(unit);
            w.string(result);
        });
    }

    fn text(server: &mut Server, text: &str) {
        server.answer("v", |w| {
            w.signature("s");
            w.string(text);
        });
    }

    #[test]
    fn a_start_waits_for_its_own_job_on_a_bus() {
        let (mut systemd, server) = played(true, |server| {
            server.name = ":1.0";
            server.expect("Hello");
            server.answer("s", |w| w.string(":1.7"));
            server.expect("AddMatch");
            server.answer("", |_| {});
            server.expect("Subscribe");
            server.answer("", |_| {});
            let call = server.expect("StartTransientUnit");
            let mut body = call.body("ssa(sv)a(sa(sv))").unwrap();
            assert_eq!((body.string(), body.string()), (Some("a.scope"), Some("replace")));
            // Before the answer, of another unit, from somebody else, another signal: none of them ends it.
            removed(server, ":1.0", 8, "b.scope", "failed");
            job(server, 9);
            removed(server, ":1.0", 9, "b.scope", "failed");
            removed(server, ":1.66", 9, "a.scope", "failed");
            removed(server, ":1.0", 8, "a.scope", "failed");
            server.signal(":1.0", "x.y", "JobRemoved", |w| w.u32(1));
            removed(server, ":1.0", 9, "a.scope", "done");
            let mut get = server.expect("Get");
            assert_eq!(get.path, "/org/freedesktop/systemd1/unit/a_2escope");
            get.path.clear();
            text(server, "/a.slice/a.scope");
        });
        let path = systemd.start(&unit("a.slice", "a.scope"), &Resources::default(), 5);
        assert_eq!(path.unwrap(), "/a.slice/a.scope");
        server.join().unwrap();
    }

    #[test]
    fn a_failed_unit_of_the_name_is_forgotten_and_a_living_one_is_not() {
        let (mut systemd, server) = played(false, |server| {
            server.expect("StartTransientUnit");
            server.refuse(UNIT_EXISTS, "Unit a.scope was already loaded or has a fragment file.");
            server.expect("ResetFailedUnit");
            server.answer("", |_| {});
            server.expect("StartTransientUnit");
            job(server, 1);
            removed(server, "", 1, "a.scope", "done");
            server.expect("Get");
            text(server, "/a.scope");

            server.expect("StartTransientUnit");
            server.refuse(UNIT_EXISTS, "Unit a.scope was already loaded or has a fragment file.");
            server.expect("ResetFailedUnit");
            server.refuse(NO_SUCH_UNIT, "Unit a.scope not loaded.");
            server.expect("StartTransientUnit");
            server.refuse(UNIT_EXISTS, "Unit a.scope was already loaded or has a fragment file.");
        });
        let unit = unit("-.slice", "a.scope");
        assert_eq!(systemd.start(&unit, &Resources::default(), 5).unwrap(), "/a.scope");
        let error = systemd.start(&unit, &Resources::default(), 5).unwrap_err();
        assert_eq!(error.to_string(), "systemd: start a.scope: unit a.scope already exists");
        server.join().unwrap();
    }

    #[test]
    fn what_goes_wrong_is_said_in_one_line() {
        let unit = || unit("-.slice", "a.scope");
        let start = |script: fn(&mut Server)| {
            let (mut systemd, server) = played(false, script);
            let error = systemd.start(&unit(), &Resources::default(), 5).unwrap_err().to_string();
            server.join().unwrap();
            error
        };
        assert_eq!(
            start(|server| {
                server.expect("StartTransientUnit");
                job(server, 1);
                removed(server, "", 1, "a.scope", "dependency");
            }),
            "systemd: start a.scope: the job's result is dependency"
        );
        assert_eq!(
            start(|server| {
                server.expect("StartTransientUnit");
                server.refuse("a.b", "Cannot set \x1b[31mX\n.");
            }),
            r"systemd: start a.scope: Cannot set \u{1b}[31mX\n"
        );
        assert_eq!(
            start(|server| {
                server.expect("StartTransientUnit");
                server.refuse("a.b.Refused", "");
            }),
            "systemd: start a.scope: a.b.Refused"
        );
        assert_eq!(
            start(|server| {
                server.expect("StartTransientUnit");
                job(server, 1);
            }),
            "systemd: start a.scope: waiting for the job: the connection was closed"
        );
        assert_eq!(
            start(|server| {
                server.expect("StartTransientUnit");
                server.answer("s", |w| w.string("/job/1"));
            }),
            "systemd: start a.scope: the answer is not the one of systemd"
        );
        assert_eq!(
            start(|server| {
                server.expect("StartTransientUnit");
                job(server, 1);
                removed(server, "", 1, "a.scope", "done");
                server.expect("Get");
                text(server, "");
            }),
            "systemd: start a.scope: the unit has no cgroup: its process has ended"
        );
    }

    #[test]
    fn a_job_that_never_ends_is_not_waited_for() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (mut systemd, server) = played(false, move |server| {
            server.expect("StopUnit");
            job(server, 1);
            // The sender is dropped when the test is done.
            released.recv().ok();
        });
        let deadline = systemd.deadline();
        let job = systemd.job(manager("StopUnit", "", Writer::default()), deadline).unwrap();
        let error = systemd.wait("stop a.scope", &job, Instant::now()).unwrap_err().to_string();
        assert_eq!(error, "systemd: stop a.scope: waiting for the job: no answer in time");
        drop(release);
        server.join().unwrap();
    }

    #[test]
    fn a_bus_that_refuses_us_is_an_error_of_the_first_call() {
        let (mut systemd, server) = played(true, |server| {
            server.expect("Hello");
            server.refuse("a.b.LimitsExceeded", "too many connections");
        });
        let error = systemd.control_group().unwrap_err().to_string();
        assert_eq!(error, "systemd: get ControlGroup: too many connections");
        server.join().unwrap();
    }

    #[test]
    fn stopping_what_is_not_there_is_a_success_and_a_failure_is_forgotten() {
        let (mut systemd, server) = played(false, |server| {
            server.expect("StopUnit");
            server.refuse(NO_SUCH_UNIT, "Unit a.scope not loaded.");
            server.expect("StopUnit");
            job(server, 3);
            removed(server, "", 3, "a.scope", "failed");
            server.expect("ResetFailedUnit");
            server.answer("", |_| {});
        });
        systemd.stop("a.scope").unwrap();
        let error = systemd.stop("a.scope").unwrap_err().to_string();
        assert_eq!(error, "systemd: stop a.scope: the job's result is failed");
        server.join().unwrap();
    }

    #[test]
    fn a_process_is_moved_or_the_reason_is_told() {
        let (mut systemd, server) = played(false, |server| {
            server.expect("AttachProcessesToUnit");
            server.answer("", |_| {});
            server.expect("AttachProcessesToUnit");
            server.refuse("org.freedesktop.DBus.Error.AccessDenied", "Process 7 not owned by client's UID.");
        });
        systemd.attach("a.scope", "/", 7).unwrap();
        let error = systemd.attach("a.scope", "/init", 7).unwrap_err().to_string();
        assert_eq!(error, "systemd: move process 7 to a.scope: Process 7 not owned by client's UID");
        server.join().unwrap();
    }

    #[test]
    fn an_old_manager_is_not_told_to_idle_and_an_idle_unit_is_woken() {
        let (mut systemd, server) = played(false, |server| {
            server.expect("Get");
            text(server, "249.11-0ubuntu3");
            server.expect("Get");
            text(server, "252.38-1~deb12u1");
            let call = server.expect("SetUnitProperties");
            let mut body = call.body("sba(sv)").unwrap();
            assert_eq!((body.string(), body.u32()), (Some("a.scope"), Some(1)));
            server.answer("", |_| {});
            server.expect("Get");
            text(server, "252.38-1~deb12u1");
            server.expect("Get");
            server.answer("v", |w| {
                w.signature("t");
                w.fixed(&0u64.to_le_bytes());
            });
            server.expect("SetUnitProperties");
            server.answer("", |_| {});
            server.expect("Get");
            text(server, "252.38-1~deb12u1");
            server.expect("Get");
            server.answer("v", |w| {
                w.signature("t");
                w.fixed(&50u64.to_le_bytes());
            });
        });
        let idle = |idle| Resources { cpu_idle: Some(idle), ..Resources::default() };
        let deadline = systemd.deadline();
        assert_eq!(systemd.limits(&idle(true), true, deadline).unwrap(), []);
        let zero = [("CPUWeight".to_string(), Value::Uint64(0))];
        assert_eq!(systemd.limits(&idle(true), true, deadline).unwrap(), zero);
        systemd.set_limits("a.scope", &Resources { pids_limit: Some(1), ..Resources::default() }).unwrap();
        systemd.set_limits("a.scope", &idle(false)).unwrap();
        systemd.set_limits("a.scope", &idle(false)).unwrap();
        systemd.set_limits("a.scope", &Resources::default()).unwrap();
        server.join().unwrap();
    }

    #[test]
    fn a_bad_annotation_is_named() {
        let (mut systemd, server) = played(false, |_| {});
        let mut unit = unit("-.slice", "a.scope");
        unit.properties = vec![("TimeoutStopSec".to_string(), "soon".to_string())];
        let error = systemd.start(&unit, &Resources::default(), 5).unwrap_err().to_string();
        assert_eq!(
            error,
            "systemd: annotation org.systemd.property.TimeoutStopSec: the value \"soon\" is no boolean, number, \
             string or array of strings"
        );
        server.join().unwrap();
    }

    #[test]
    fn paths() {
        let path = |slice, name| path_of(&unit(slice, name));
        assert_eq!(path("system.slice", "docker-abc.scope"), "system.slice/docker-abc.scope");
        assert_eq!(path("a-b-c.slice", "x.scope"), "a.slice/a-b.slice/a-b-c.slice/x.scope");
        assert_eq!(path("-.slice", "x.scope"), "x.scope");
        assert_eq!(path("-.slice", "-.slice"), "");
        assert_eq!(path("ignored.slice", "a-b.slice"), "a.slice/a-b.slice");
        assert_eq!(path("memory.slice", "cpu.max.scope"), "_memory.slice/_cpu.max.scope");
        assert_eq!(path("-.slice", "_x.scope"), "__x.scope");
        assert_eq!(path("-.slice", "pids-x.scope"), "pids-x.scope");
        assert_eq!(object_path("1-a_b.scope"), "/org/freedesktop/systemd1/unit/_31_2da_5fb_2escope");
    }

    #[test]
    fn versions_and_maps() {
        assert_eq!(major("252.38-1~deb12u1"), 252);
        assert_eq!(major("systemd 249"), 249);
        assert_eq!(major("v257~rc1"), 257);
        assert_eq!(major("new"), 0);
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!((mapped(map, 0), mapped(map, 3), mapped(map, 70_000)), (Some(1000), Some(100_002), None));
        assert_eq!(mapped("0 0 4294967295\n", 1000), Some(1000));
        assert_eq!(
            (mapped("x y z", 0), mapped("", 0), mapped("0 4294967295 4294967295", 9)),
            (None, None, None)
        );
    }

    fn numbers(resources: &Resources, cgroup2: bool) -> Vec<(&'static str, u64)> {
        let number = |(name, value)| match value {
            Value::Uint64(number) => (name, number),
            other => panic!("{name} {other:?}"),
        };
        of_resources(resources, cgroup2).into_iter().map(number).collect()
    }

    #[test]
    fn limits_as_properties() {
        let resources = Resources {
            memory_limit: Some(1 << 20),
            memory_swap: Some(3 << 20),
            memory_reservation: Some(4096),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(200_000),
            pids_limit: Some(0),
            block_io: BlockIo { weight: Some(1000), ..BlockIo::default() },
            ..Resources::default()
        };
        let both = [("CPUQuotaPerSecUSec", 250_000), ("CPUQuotaPeriodUSec", 200_000), ("TasksMax", 1)];
        let mut expected = vec![
            ("MemoryMax", 1 << 20),
            ("MemoryLow", 4096),
            ("MemorySwapMax", 2 << 20),
            ("CPUWeight", 100),
            ("IOWeight", 10_000),
        ];
        expected.extend(both);
        assert_eq!(numbers(&resources, true), expected);
        let mut expected = vec![("MemoryLimit", 1 << 20), ("CPUShares", 1024), ("BlockIOWeight", 1000)];
        expected.extend(both);
        assert_eq!(numbers(&resources, false), expected);

        let none = Resources {
            memory_limit: Some(-1),
            memory_swap: Some(-1),
            cpu_quota: Some(-1),
            pids_limit: Some(-1),
            cpu_shares: Some(0),
            ..Resources::default()
        };
        let names = ["MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "TasksMax"];
        assert_eq!(numbers(&none, true), names.map(|name| (name, NO_LIMIT)));
        assert!(of_resources(&Resources::default(), true).is_empty());
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_percents_and_never_wraps() {
        let per_second = |quota, period| {
            let resources = Resources { cpu_quota: Some(quota), cpu_period: period, ..Resources::default() };
            numbers(&resources, true).first().map(|(_, value)| *value)
        };
        assert_eq!(per_second(1000, None), Some(10_000));
        assert_eq!(per_second(1001, None), Some(20_000));
        assert_eq!(per_second(33_333, Some(100_000)), Some(340_000));
        assert_eq!(per_second(1, Some(1_000_000)), Some(10_000));
        assert_eq!(per_second(i64::MAX, Some(1)), Some(NO_LIMIT));
    }

    #[test]
    fn unified_files_that_systemd_would_overwrite() {
        let of = |file: &str, value: &str| {
            let unified = vec![(file.to_string(), value.to_string())];
            of_resources(&Resources { unified, memory_limit: Some(7), ..Resources::default() }, true)
                .split_off(usize::from(file != "memory.max"))
        };
        let number = |name, value| vec![(name, Value::Uint64(value))];
        assert_eq!(of("memory.max", "1G"), number("MemoryMax", 1 << 30));
        assert_eq!(of("memory.high", "max"), number("MemoryHigh", NO_LIMIT));
        assert_eq!(of("memory.min", "4k"), number("MemoryMin", 4096));
        assert_eq!(of("memory.low", "1"), number("MemoryLow", 1));
        assert_eq!(of("memory.swap.max", "0"), number("MemorySwapMax", 0));
        assert_eq!(of("pids.max", "0"), number("TasksMax", 1));
        assert_eq!(of("cpu.weight", "50"), number("CPUWeight", 50));
        assert_eq!(of("cpu.idle", "1"), number("CPUWeight", 0));
        assert_eq!(of("io.weight", "default 20"), number("IOWeight", 20));
        let max =
            [("CPUQuotaPerSecUSec", Value::Uint64(100_000)), ("CPUQuotaPeriodUSec", Value::Uint64(20_000))];
        assert_eq!(of("cpu.max", "2000 20000"), max);
        assert_eq!(of("cpu.max", "max"), number("CPUQuotaPerSecUSec", NO_LIMIT));
        assert_eq!(of("cpuset.cpus", "0-3,9"), [("AllowedCPUs", Value::Bytes(vec![0x0f, 0x02]))]);
        assert_eq!(of("cpuset.mems", "0"), [("AllowedMemoryNodes", Value::Bytes(vec![1]))]);
        for (file, value) in [
            ("memory.high", "much"),
            ("memory.high", "99999999999T"),
            ("memory.high", "é"),
            ("cpu.weight", "0"),
            ("cpu.idle", "0"),
            ("cpu.max", "x y"),
            ("cpuset.cpus", "0-99999"),
            ("cpuset.cpus", "3-"),
            ("io.weight", "8:0 100"),
            ("hugetlb.2MB.max", "0"),
        ] {
            assert_eq!(of(file, value), [], "{file} {value}");
        }
    }

    fn rule(
        allow: bool,
        kind: DeviceRuleKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: &str,
    ) -> DeviceRule {
        let has = |letter| access.contains(letter);
        let access = DeviceAccess { read: has('r'), write: has('w'), mknod: has('m') };
        DeviceRule { allow, kind, major, minor, access }
    }

    #[test]
    fn device_rules_become_a_list_that_is_never_narrower() {
        use DeviceRuleKind::{All, Block, Character};
        let deny = rule(false, All, None, None, "rwm");
        let list = |rules: &[DeviceRule]| {
            let (policy, list) = devices(rules);
            let words: Vec<String> = list.iter().map(|(name, access)| format!("{name} {access}")).collect();
            (policy, words.join(", "))
        };
        assert_eq!(list(&[deny]), ("strict", String::new()));
        let rules = [
            rule(true, All, None, None, "rwm"),
            deny,
            rule(true, Character, None, None, "m"),
            rule(true, Block, None, None, "m"),
            rule(true, Character, Some(1), Some(3), "r"),
            rule(true, Character, Some(136), None, "rwm"),
            rule(true, Character, Some(1), Some(3), "w"),
            rule(false, Character, Some(1), Some(3), "w"),
            rule(true, All, Some(7), Some(1), "r"),
            rule(true, Block, None, Some(9), "r"),
            rule(true, Character, Some(4096), None, "r"),
            rule(true, Character, Some(1), Some(1 << 20), "r"),
            rule(true, Character, Some(5), None, ""),
        ];
        assert_eq!(
            list(&rules),
            (
                "strict",
                "char-* m, block-* rm, /dev/char/1:3 rw, char-136 rwm, /dev/char/7:1 r, /dev/block/7:1 r"
                    .to_string()
            )
        );
        let open = ("auto", String::new());
        assert_eq!(
            list(&[rule(true, All, None, None, "rwm"), rule(false, Block, Some(8), None, "rwm")]),
            open
        );
        assert_eq!(list(&[deny, rule(true, All, None, None, "rwm")]), open);
        assert_eq!(list(&[rule(false, All, None, None, "w")]), open);
    }
}
