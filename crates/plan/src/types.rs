// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plan's types: what will be done, with nothing left to decide.
//!
//! Built only by [`crate::plan`]; read by the runtime, which lowers [`Plan::steps`] into init's program and does
//! the rest itself, and by [`crate::explain`], which prints it. No type here knows a file descriptor or a pid.

use std::collections::BTreeMap;

/// Where in the document a thing was asked for, e.g. `linux.namespaces[2].path`; empty for what the runtime adds.
pub type Place = String;

/// One thing that is wrong with a document, as one line: `place: rule (got value)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub place: Place,
    pub rule: String,
}

/// Something accepted but worth telling the user once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub place: Place,
    pub text: String,
}

/// Facts about the kernel and the caller, gathered by the runtime. Everything the planner may depend on besides
/// the document and the caller's [`Options`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub euid: u32,
    pub egid: u32,
    /// CAP_SYS_ADMIN is effective: mounts and namespaces can be made without a user namespace.
    pub privileged: bool,
    /// The caller's own user namespace is the initial one (its uid_map is the identity over all ids).
    pub initial_user_namespace: bool,
    pub user_namespace: UserNamespace,
    /// Gathered for callers without privileges.
    pub sub_ids: SubIds,
    pub kernel: (u32, u32),
    /// Highest capability number that the kernel knows (`/proc/sys/kernel/cap_last_cap`).
    pub last_capability: u8,
    /// Capabilities in the caller's bounding set, one bit for each number.
    pub bounding: u64,
    pub cgroup: CgroupHost,
    /// Looked for when `cgroup.closed` has something.
    pub systemd: ServiceManager,
    pub apparmor: bool,
    pub selinux: bool,
    /// `/proc/kcore` exists, so `/dev/core` is made.
    pub kcore: bool,
    /// `/dev/mqueue` exists.
    pub mqueue: bool,
    /// Where resctrl is mounted; empty when it is not.
    pub resctrl: String,
    /// NUMA nodes that exist, as in `/sys/devices/system/node/online` (e.g. `0-1`).
    pub numa_nodes: String,
    /// CPUs that exist, as in `/sys/devices/system/cpu/possible`.
    pub cpus: String,
    /// The caller's hard limits, by name (`RLIMIT_NOFILE`), u64::MAX for infinity. Checked when
    /// `raise_rlimits` is false.
    pub hard_rlimits: BTreeMap<String, u64>,
    /// CAP_SYS_RESOURCE is effective.
    pub raise_rlimits: bool,
    /// The caller's own oom_score_adj: without CAP_SYS_RESOURCE a container cannot go below it.
    pub oom_score_adj: i32,
    /// Filesystem types that the kernel has now (`/proc/filesystems`).
    pub filesystems: Vec<String>,
}

/// What the host's cgroups look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupHost {
    pub mode: CgroupMode,
    /// Mount point of cgroup2 (`/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host); empty without one.
    pub unified: String,
    /// Controllers of the cgroup2 root (`cgroup.controllers`).
    pub unified_controllers: Vec<String>,
    /// v1 hierarchies: mount point, and the controllers or `name=…` in it.
    pub v1: Vec<V1Hierarchy>,
    /// Mount points of those above in which this caller may not make the cgroup that the document asks for. Empty for
    /// root.
    pub closed: Vec<String>,
    /// Mount points where the caller's own cgroup is theirs and the one above is not: a relative path is below their own
    /// there.
    pub below_own: Vec<String>,
}

impl CgroupHost {
    /// The container can have a directory in none of the hierarchies.
    pub fn is_closed(&self) -> bool {
        let mut mount_points = self.v1.iter().map(|hierarchy| &hierarchy.mount_point).chain([&self.unified]);
        mount_points.all(|point| point.is_empty() || self.closed.contains(point))
    }
}

/// Which systemd could make a cgroup for this caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ServiceManager {
    /// None is known: it is not running, or it was not looked for because nothing depends on it.
    #[default]
    None,
    /// The system's, but the caller has no manager of their own.
    System,
    /// The caller's own.
    User,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// cgroup2 alone.
    V2,
    /// v1 controllers with a cgroup2 tree beside them.
    Hybrid,
    /// v1 alone.
    V1,
    /// No cgroup filesystem is mounted.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1Hierarchy {
    pub mount_point: String,
    /// `["cpu", "cpuacct"]`, or `["name=systemd"]`.
    pub controllers: Vec<String>,
}

/// What the caller said beside the document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub id: String,
    /// Absolute path of the bundle directory.
    pub bundle: String,
    pub terminal: TerminalTo,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that the process inherits: LISTEN_FDS and --preserve-fds together.
    pub preserve_fds: u32,
    /// Value for LISTEN_FDS in the process's environment; 0 leaves it out. LISTEN_PID goes with it.
    pub listen_fds: u32,
    /// Value for LISTEN_FDNAMES beside it; empty leaves it out.
    pub listen_fd_names: String,
    /// Absolute path of a directory on the host for the socket to which the process may say what sd_notify(3) has;
    /// empty leaves it out.
    pub notify: String,
    /// Of the new network namespace, which the document then has.
    pub interfaces: Vec<Interface>,
    pub systemd_cgroup: bool,
    /// [`CgroupPlan::leaf`].
    pub cgroup_leaf: bool,
    /// What the host cannot do is a violation, not a warning.
    pub strict: bool,
    /// Annotations that change what is done are followed.
    pub allow_annotations: bool,
    /// The process has its creator's supplementary groups, instead of `process.user.additionalGids`.
    pub keep_groups: bool,
    /// create + start in one command: the process is not parked, and hears the start on the control socket.
    pub run: bool,
}

/// An interface of the container and the network of ours to which the runtime connects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub network: String,
    /// Ports of the host that lead to it, as they were asked for.
    pub publish: Vec<String>,
}

/// Where the master side of the process's terminal goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TerminalTo {
    /// `--console-socket` was given.
    ConsoleSocket,
    /// The caller stays in the foreground and relays the terminal itself.
    Foreground,
    /// Neither: a config with a terminal is refused.
    #[default]
    Nowhere,
}

/// The caller's own user namespace. All of it is empty in the initial one, where there are no such limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserNamespace {
    /// The ids that exist.
    pub uid_map: Vec<IdMap>,
    pub gid_map: Vec<IdMap>,
    /// setgroups(2) is denied, here and in all user namespaces below (`/proc/self/setgroups`).
    pub setgroups_denied: bool,
    /// The caller's own namespaces of other kinds that belong to a user namespace above: CAP_SYS_ADMIN here means nothing
    /// there.
    pub foreign: Vec<Namespace>,
}

impl Host {
    /// May the caller mount in the mount namespace that it is in?
    pub fn may_mount(&self) -> bool {
        self.privileged && !self.user_namespace.foreign.contains(&Namespace::Mount)
    }
}

/// Everything that creating the container will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub id: String,
    pub bundle: String,
    /// Absolute path of the root filesystem, not resolved: the runtime opens it once.
    pub rootfs: String,
    pub annotations: BTreeMap<String, String>,
    pub cgroup: CgroupPlan,
    pub spawn: Spawn,
    /// Done by the runtime between the clone and the container's readiness.
    pub outside: Outside,
    /// Done by init, in this order, each counted from 1 in messages and in `--dry-run`.
    pub steps: Vec<Step>,
    pub hooks: Hooks,
    pub terminal: bool,
    pub preserve_fds: u32,
    /// The process has its creator's groups because that was asked for: so do those of exec.
    pub keep_groups: bool,
    pub warnings: Vec<Warning>,
    /// What is as the specification wants it, and may still explain a surprise: for those who ask for details.
    pub notes: Vec<Warning>,
}

/// The clone: which namespaces are made and which are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn {
    pub new: Vec<Namespace>,
    /// Joined by path. The runtime opens each and checks its type.
    pub join: Vec<JoinNamespace>,
    /// Empty unless a user namespace is made.
    pub uid_map: Vec<IdMap>,
    pub gid_map: Vec<IdMap>,
    pub uid_writer: MapWriter,
    pub gid_writer: MapWriter,
    /// Why there is a user namespace that the document has not asked for; empty when it has.
    pub user_added: String,
    /// (clock as in /proc/PID/timens_offsets: `monotonic` or `boottime`, seconds, nanoseconds).
    pub time_offsets: Vec<(String, i64, u32)>,
}

impl Spawn {
    pub fn makes(&self, namespace: Namespace) -> bool {
        self.new.contains(&namespace)
    }
    pub fn joins(&self, namespace: Namespace) -> bool {
        self.join.iter().any(|join| join.namespace == namespace)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    User,
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinNamespace {
    pub namespace: Namespace,
    pub path: String,
    pub place: Place,
}

/// `size` ids from `container` on inside are the ids from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

/// Who writes a map of a new user namespace (user_namespaces(7), "Defining user and group ID mappings").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MapWriter {
    /// The runtime, whose caller may map any id.
    #[default]
    Privileged,
    /// The runtime, which maps the caller's own id alone. For groups setgroups(2) is denied before.
    OwnId,
    /// newuidmap(1) or newgidmap(1), at this path: there are others than the caller's own id.
    Helper(String),
}

/// What an ordinary caller may map beside their own id, and by which programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubIds {
    /// (first, count) in the order of /etc/subuid (subuid(5)).
    pub uids: Vec<(u32, u32)>,
    pub gids: Vec<(u32, u32)>,
    /// Paths of the programs; empty when they were not found.
    pub newuidmap: String,
    pub newgidmap: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPlan {
    pub place: CgroupPlace,
    pub resources: Resources,
    /// Host uid that gets the cgroup's delegatable files (cgroups(7) "Delegation"); None leaves them the
    /// caller's. Set under the three conditions of runtime-spec config-linux.md "Cgroup ownership" only.
    pub owner: Option<u32>,
    /// cgroup2 only: the container's first process ends up in a sub-cgroup of this name, so that a systemd or
    /// an engine inside may enable controllers in the container's own (no processes in inner cgroups).
    pub leaf: Option<String>,
}

/// Who makes the cgroup, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPlace {
    /// The runtime itself (cgroupfs driver).
    Directory(CgroupPath),
    /// systemd, as a transient unit (systemd driver).
    Unit(SystemdUnit),
    /// There is none: the processes stay in the caller's.
    Nowhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPath {
    /// Below the root of each hierarchy; begins with `/`.
    Absolute(String),
    /// Beside the caller's own cgroup: relative to its parent.
    Relative(String),
    /// Below the caller's own cgroup, in the hierarchies of [`CgroupHost::below_own`]; beside it in others.
    Below(String),
}

/// A transient unit: `<prefix>-<name>.scope` in a slice, or a slice of its own (systemd.scope(5),
/// systemd.slice(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdUnit {
    /// `system.slice`, `a-b.slice`; `-.slice` is the root.
    pub slice: String,
    /// With its suffix: `docker-abc.scope`, or `name.slice`.
    pub name: String,
    /// `oar container web`.
    pub description: String,
    /// The calling user's manager instead of the system's.
    pub user: bool,
    /// Of `org.systemd.property.*` annotations, in order of name: property, and its value as GVariant text.
    pub properties: Vec<(String, String)>,
}

/// What the container may use. Absent and empty members are left at what the kernel starts with.
/// Sources: runtime-spec config-linux.md "Control groups"; kernel Documentation/admin-guide/cgroup-v2.rst and
/// cgroup-v1/. Values are those of the document; the cgroup crate converts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes; -1 is no limit.
    pub memory_limit: Option<i64>,
    /// Bytes; -1 is no limit.
    pub memory_reservation: Option<i64>,
    /// Memory and swap together, bytes; -1 is no limit.
    pub memory_swap: Option<i64>,
    /// 0 to 100 (v1 only).
    pub memory_swappiness: Option<u64>,
    /// v1 only.
    pub disable_oom_killer: Option<bool>,
    /// A memory limit at or below what is used already is refused.
    pub check_before_update: bool,
    pub cpu_shares: Option<u64>,
    /// Microseconds in each period; -1 is no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds.
    pub cpu_burst: Option<u64>,
    /// Microseconds (v1 only).
    pub cpu_realtime_runtime: Option<i64>,
    /// Microseconds (v1 only).
    pub cpu_realtime_period: Option<u64>,
    pub cpu_idle: Option<bool>,
    /// A list as `0-3,7`.
    pub cpus: Option<String>,
    /// A list as `0-1`.
    pub mems: Option<String>,
    /// -1 is no limit.
    pub pids_limit: Option<i64>,
    pub block_io: BlockIo,
    /// (page size as `2MB`, bytes); each size once.
    pub hugepage_limits: Vec<(String, u64)>,
    /// v1 only.
    pub network_class_id: Option<u32>,
    /// (interface, priority); v1 only.
    pub network_priorities: Vec<(String, u32)>,
    /// In order of device name.
    pub rdma: Vec<Rdma>,
    /// Files of cgroup2 and what is written to them, after everything else, in order of name.
    pub unified: Vec<(String, String)>,
    /// What may be done with device nodes, in order: for each of the accesses, the last rule that speaks of
    /// the device and of the access decides. The first rule denies everything unless the document's own first
    /// rule speaks of everything; the runtime's own devices are at the end. Empty: no change (an update).
    pub devices: Vec<DeviceRule>,
    /// The caller may be refused to filter devices and goes on without: in a user namespace, where no usable
    /// device node can be made either.
    pub devices_optional: bool,
}

/// `linux.resources.blockIO`. Weights are 10 to 1000.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    pub weight: Option<u16>,
    /// v1 only.
    pub leaf_weight: Option<u16>,
    pub weight_device: Vec<WeightDevice>,
    /// Bytes per second.
    pub read_bps: Vec<Throttle>,
    pub write_bps: Vec<Throttle>,
    /// Operations per second.
    pub read_iops: Vec<Throttle>,
    pub write_iops: Vec<Throttle>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightDevice {
    pub major: u32,
    pub minor: u32,
    pub weight: Option<u16>,
    /// v1 only.
    pub leaf_weight: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    pub major: u32,
    pub minor: u32,
    /// 0 is no limit.
    pub rate: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rdma {
    pub device: String,
    pub hca_handles: Option<u32>,
    pub hca_objects: Option<u32>,
}

/// One entry of `linux.resources.devices`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceRuleKind,
    /// None is every one.
    pub major: Option<u32>,
    /// None is every one.
    pub minor: Option<u32>,
    pub access: DeviceAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceRuleKind {
    /// Blocks and characters. Planned rules of this kind have no numbers and every access; a document's "all
    /// types" with a number or fewer accesses is planned as a rule for each kind.
    All,
    Block,
    Character,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceAccess {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

/// What the runtime does to the new process from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outside {
    pub rlimits: Vec<Rlimit>,
    /// Written when given by the document.
    pub oom_score_adj: Option<i32>,
    pub net_devices: Vec<NetDevice>,
    pub interfaces: Vec<Interface>,
    pub intel_rdt: Option<IntelRdt>,
    /// Who answers for a filter that notifies.
    pub seccomp_listener: Option<SeccompListener>,
    /// The runtime serves [`crate::NOTIFY_SOCKET`], in a directory that it has made for it.
    pub notify: bool,
    /// exec only: CPUs by number (runtime-spec config.md "execCPUAffinity"): at first, and when it is ready. Empty
    /// leaves them alone.
    pub initial_cpus: Vec<u32>,
    /// exec only: somebody in the pid namespace may trace the process there, so it must be born with all that holds it.
    pub traceable: bool,
    /// A scheduler that a fork would take away again (sched(7)): set when the process is ready.
    pub scheduler: Option<Scheduler>,
    pub final_cpus: Vec<u32>,
}

/// `linux.seccomp.listenerPath` and `listenerMetadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompListener {
    /// A stream socket on the host, absolute.
    pub path: String,
    /// Passed on as it is; may be empty.
    pub metadata: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// RLIMIT_NOFILE and so on.
    pub name: String,
    /// The kernel's number (asm-generic/resource.h).
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    pub host_name: String,
    /// May hold `%d`.
    pub container_name: String,
    pub place: Place,
}

/// runtime-spec config-linux.md "IntelRdt"; kernel Documentation/arch/x86/resctrl.rst.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IntelRdt {
    /// Directory below the resctrl mount; empty for the root group (closID `/`).
    pub group: String,
    /// The document named the group, so one that exists already is used and compared.
    pub named: bool,
    /// Lines for the `schemata` file, in order.
    pub schemata: Vec<String>,
    pub monitoring: bool,
}

/// Hooks that the runtime runs in its own namespaces; those inside are steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hook {
    pub path: String,
    /// argv, argv[0] included; `[path]` when the document has none.
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// Seconds; 0 waits for ever.
    pub timeout: u32,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub action: Action,
    pub place: Place,
}

/// What init can do. One variant is one kind of line in `--dry-run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Join a new session keyring of this name (keyctl(2)). A kernel without keyrings, or a full quota, is a
    /// warning: the process then keeps the caller's keyring.
    JoinSessionKeyring {
        name: String,
    },
    /// Wait until the runtime has written the id maps, attached the process to v1 cgroups, moved network devices.
    AwaitRuntime,
    /// Become uid 0 and gid 0 of the new or joined user namespace.
    BecomeNamespaceRoot,
    /// unshare(CLONE_NEWCGROUP), after the process is where it belongs.
    UnshareCgroup,
    SetHostname {
        name: String,
    },
    SetDomainname {
        name: String,
    },
    /// Bring `lo` up in the new network namespace.
    LoopbackUp,
    /// Make every mount of the new mount namespace a slave (or private): nothing leaks back to the host.
    IsolateMounts {
        propagation: Propagation,
    },
    /// Attach the root filesystem over `/`, so that it can become the root later.
    AttachRoot,
    Mount(Mount),
    Bind(Bind),
    /// Change a mount that is there.
    Remount(Remount),
    /// A device node; made with mknod(2), or the host's node bound where mknod is not permitted.
    Device(Device),
    Symlink {
        target: String,
        path: String,
    },
    /// Let the runtime run prestart and createRuntime hooks: tell it, and wait.
    RuntimeHooks,
    /// A createContainer or startContainer hook, run by init.
    Hook {
        hook: Hook,
        kind: InitHook,
    },
    /// A pty from the container's own /dev/pts: its master goes to the runtime, its slave becomes 0, 1, 2, and with
    /// `console` /dev/console.
    Terminal {
        columns: u16,
        rows: u16,
        uid: u32,
        console: bool,
    },
    /// Make a session of its own (setsid(2)), with the terminal as its controlling one if there is one.
    NewSession {
        terminal: bool,
    },
    /// pivot_root(2) into the attached root and detach the old one.
    PivotRoot,
    /// Without pivot_root: drop the host's proc and sys mounts, then chroot(2) into the attached root.
    MoveRoot,
    /// No mount namespace of its own: chroot(2) only.
    Chroot,
    /// exec: the root directory is the one of the joined mount namespace.
    OpenRoot,
    /// Set the propagation of the root mount. What the document's word says of the mounts below, those without
    /// words of their own have among theirs.
    RootPropagation {
        propagation: Propagation,
    },
    /// A private procfs for the steps below that write to it; the host's for exec, which is not in the container's pid
    /// namespace yet.
    OpenProc,
    /// `key` with slashes, relative to /proc/sys.
    Sysctl {
        key: String,
        value: String,
    },
    /// Hide a path: /dev/null over a file, an empty read-only directory over a directory; absent is fine.
    Mask {
        path: String,
    },
    /// Make a path and what is below it read-only; absent is fine.
    Readonly {
        path: String,
    },
    /// Seal a mount that had to be filled before: the target of an earlier [`Mount`] with `late_readonly`.
    SealReadonly {
        target: String,
    },
    ReadonlyRoot,
    AppArmor {
        profile: String,
    },
    SelinuxLabel {
        label: String,
    },
    Scheduler(Scheduler),
    /// ioprio_set(2) value: class << 13 | level.
    IoPriority {
        value: u16,
    },
    /// personality(2) domain.
    Personality {
        domain: u32,
    },
    MemoryPolicy {
        mode: u32,
        nodes: Vec<u64>,
    },
    Umask {
        mask: u32,
    },
    NoNewPrivileges,
    /// The process changes to it; with `make` it is made when it is missing.
    WorkingDirectory {
        path: String,
        make: bool,
    },
    /// Groups, ids and the bounding set, read back afterwards.
    Identity(Identity),
    /// The other four sets, read back afterwards.
    Capabilities(Capabilities),
    /// exec: go on as a copy of this process that is born in the container's pid namespace. Only what cannot be done
    /// before is done in there, where others may look at it (CVE-2016-9962).
    Fork,
    /// The filter, which the step after this one loads at its last moment: [`Action::Capabilities`] before it gives up
    /// CAP_SYS_ADMIN, [`Action::AwaitStart`] before it waits, [`Action::Execute`] right before execve(2).
    Seccomp(Seccomp),
    /// Ready: the runtime commits; then wait for start (parked on the start socket, or on the control socket).
    AwaitStart {
        parked: bool,
    },
    /// Find args[0] and keep it; an executable that is missing or may not be run is an error of create.
    FindExecutable {
        name: String,
        search: Vec<String>,
        cwd: String,
    },
    /// execve(2).
    Execute {
        args: Vec<String>,
        env: Vec<String>,
        home_of_uid: Option<u32>,
        /// Add LISTEN_PID, which only the process itself can know.
        listen_pid: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitHook {
    CreateContainer,
    StartContainer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Shared,
    Slave,
    Private,
    Unbindable,
}

/// A new filesystem: fsopen(2), fsconfig(2), fsmount(2), move_mount(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub target: String,
    pub fstype: String,
    /// The `source` key of fsconfig(2); empty leaves it out.
    pub source: String,
    /// Keys and values for fsconfig(2); an empty value is a flag.
    pub options: Vec<(String, String)>,
    pub attributes: Attributes,
    /// Each is (propagation, recursive).
    pub propagation: Vec<(Propagation, bool)>,
    /// Copy what the target directory held into the new (tmpfs) filesystem.
    pub copy_up: bool,
    /// A tmpfs without a `mode` option takes the mode of the directory that it covers.
    pub mode_of_target: bool,
    /// Read-only only after everything else was put in: a [`Action::SealReadonly`] follows.
    pub late_readonly: bool,
    /// Ids mapped on the new mount; empty for none.
    pub id_map: MountIdMap,
}

/// A bind mount. The source is opened on the host, before the clone where the caller may do that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub source: BindSource,
    pub target: String,
    pub recursive: bool,
    pub attributes: Attributes,
    pub propagation: Vec<(Propagation, bool)>,
    pub id_map: MountIdMap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindSource {
    /// Absolute path on the host.
    Path(String),
    /// The container's own cgroup directory in the cgroup2 tree.
    OwnCgroup,
    /// The container's own cgroup directory in the v1 hierarchy mounted here.
    OwnV1Cgroup { mount_point: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountIdMap {
    None,
    /// The mapping of the container's user namespace.
    Container {
        recursive: bool,
    },
    Given {
        uid_map: Vec<IdMap>,
        gid_map: Vec<IdMap>,
        recursive: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remount {
    pub target: String,
    /// `remount` without `bind`: the filesystem itself is reconfigured with these.
    pub options: Vec<(String, String)>,
    pub reconfigure: bool,
    pub attributes: Attributes,
    pub propagation: Vec<(Propagation, bool)>,
}

/// MOUNT_ATTR_* bits (mount_setattr(2)) for the top mount, and for every mount below it as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub recursive_set: u64,
    pub recursive_clear: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub path: String,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bind the host's node of the same path instead of making one.
    pub bind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Character,
    Block,
    Fifo,
}

/// A seccomp(2) filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seccomp {
    /// An array of struct sock_filter.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
    /// Calls wait for [`Outside::seccomp_listener`].
    pub notifies: bool,
    /// Init may make a copy of itself under it (clone(2) with CLONE_PARENT and CLONE_PIDFD).
    pub allows_fork: bool,
    /// What happens to a call that no rule decides: `SCMP_ACT_ERRNO 1`.
    pub default: String,
    /// Architectures with calls of their own: `x86_64`, the native one first.
    pub architectures: Vec<String>,
}

/// sched_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// The list stays as it is: setgroups(2) is denied in this user namespace (a single unprivileged mapping), or that
    /// was asked for.
    pub keep_groups: bool,
    /// One bit for each capability number.
    pub bounding: u64,
    /// What is effective from here on; the permitted ones stay until [`Action::Capabilities`].
    pub effective: u64,
}

/// One bit for each capability number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}
