// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container's device rules into its cgroup: exceptions of the v1 `devices` controller where that hierarchy is
//! there, else a BPF program on the cgroup2 directory.
//!
//! Never decides what is permitted ([`crate::device_filter`] has the meaning of the list), never touches programs of
//! others, and reads back what the kernel holds. An update has no moment without rules (R-31, T-71).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsRawFd;
use std::path::Path;

use coracle_plan::DeviceRule;
use coracle_sys::{Fd, bpf};
use nix::errno::Errno;

use crate::cgroup::Tree;
use crate::device_filter::{self, MKNOD, Numbers, READ, Rule, Rules, WRITE};
use crate::error::Error;
use crate::tree;

/// By this name an update finds the program that it replaces.
const NAME: &std::ffi::CStr = c"oar_devices";
/// What the program is: ours. The kernel asks for GPL only where a program calls a helper function that does.
const LICENSE: &std::ffi::CStr = c"MIT OR Apache-2.0";

const LIMIT: &str = "device rules";

fn limit<T>(rule: String) -> Result<T, Error> {
    Err(Error::Limit { limit: LIMIT.to_string(), rule })
}

/// Enforces the list; an empty one changes nothing. With `optional`, a host that does not let the caller is no error.
pub(crate) fn apply(trees: &[Tree], rules: &[DeviceRule], optional: bool) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    if let Some(tree) = trees.iter().find(|tree| tree.has("devices")) {
        return exceptions(tree, rules, optional);
    }
    let filtered = match trees.iter().find(|tree| tree.unified()) {
        Some(tree) => filter(tree, rules),
        None if optional => Ok(()),
        None => Err(Error::Controller {
            controller: "devices".to_string(),
            limit: "device filter".to_string(),
            directory: "/sys/fs/cgroup".into(),
        }),
    };
    match filtered {
        Err(Error::Io { errno: Errno::EPERM | Errno::EACCES, .. }) if optional => Ok(()),
        other => other,
    }
}

/// What a cgroup permitted before an update.
#[derive(Debug)]
pub(crate) enum Before {
    /// No rules were given, or there were none of ours.
    Nothing,
    /// v1 shows nothing of what it denies out of everything.
    Unknown,
    Program(Fd),
    List(List),
}

/// What [`restore`] brings back, if `rules` are to be applied.
pub(crate) fn before(trees: &[Tree], rules: &[DeviceRule]) -> Result<Before, Error> {
    if rules.is_empty() {
        return Ok(Before::Nothing);
    }
    if let Some(tree) = trees.iter().find(|tree| tree.has("devices")) {
        let text = tree.read_if_there("devices.list")?;
        return Ok(match text.map(|text| List::parse(&text)) {
            None => Before::Nothing,
            Some(list) if list.allow_all => Before::Unknown,
            Some(list) => Before::List(list),
        });
    }
    let group = match trees.iter().find(|tree| tree.unified()) {
        Some(tree) => tree.group()?,
        None => None,
    };
    // Whoever may not look has none to bring back; whether that is an error, applying the rules tells.
    let program = group.and_then(|group| ours(group.as_raw_fd()).ok()?.into_iter().next());
    Ok(program.map_or(Before::Nothing, Before::Program))
}

pub(crate) fn restore(trees: &[Tree], before: &Before) -> Result<(), Error> {
    match before {
        Before::Nothing => Ok(()),
        Before::Unknown => limit("cgroup v1 does not tell what they were".to_string()),
        Before::Program(program) => match trees.iter().find(|tree| tree.unified()) {
            Some(tree) => attach(tree.existing()?.as_raw_fd(), program, &tree.directory.path),
            None => Ok(()),
        },
        Before::List(list) => match trees.iter().find(|tree| tree.has("devices")) {
            Some(tree) => change(tree, list, false),
            None => Ok(()),
        },
    }
}

/// Our program on the cgroup2 directory, in the place of an older one of ours. Those of others (systemd's) stay: an
/// access needs the consent of all.
fn filter(tree: &Tree, rules: &[DeviceRule]) -> Result<(), Error> {
    let path = &tree.directory.path;
    let program = load(&device_filter::lower(rules)?, rules.len(), path)?;
    let group = tree.existing()?.as_raw_fd();
    attach(group, &program, path)?;
    let unread = |errno| failed("read back device filter of cgroup", path, errno);
    let id = bpf::program_info(program.number()).map_err(unread)?.id;
    let mut ids = [0; bpf::MAX_PROGRAMS];
    match bpf::device_programs(group, &mut ids).map_err(unread)?.contains(&id) {
        true => Ok(()),
        false => limit(format!("attached to {}, and the kernel does not list them", path.display())),
    }
}

fn failed(what: &str, path: &Path, errno: coracle_sys::Errno) -> Error {
    Error::io(what, path, Errno::from_raw(errno.0))
}

/// Never without a program where there was one.
fn attach(group: i32, program: &Fd, path: &Path) -> Result<(), Error> {
    let program = program.number();
    // Another update may take away what was found: look again then.
    for _ in 0..8 {
        let old = ours(group).map_err(|errno| failed("find the device filter of cgroup", path, errno))?;
        let Some((first, rest)) = old.split_first() else {
            return bpf::attach_device_program(group, program)
                .map_err(|errno| failed("attach device filter to cgroup", path, errno));
        };
        match bpf::replace_device_program(group, program, first.number()) {
            Ok(()) => {}
            Err(coracle_sys::Errno::NOENT) => continue,
            Err(errno) => return Err(failed("replace device filter of cgroup", path, errno)),
        }
        // Two creates at once can leave two; the rules of the last are the ones that hold.
        for stale in rest {
            match bpf::detach_device_program(group, stale.number()) {
                Ok(()) | Err(coracle_sys::Errno::NOENT) => {}
                Err(errno) => return Err(failed("detach old device filter from cgroup", path, errno)),
            }
        }
        return Ok(());
    }
    Err(Error::io("replace device filter of cgroup", path, Errno::EBUSY))
}

fn ours(group: i32) -> coracle_sys::Result<Vec<Fd>> {
    let mut ids = [0; bpf::MAX_PROGRAMS];
    let mut found = Vec::new();
    for id in bpf::device_programs(group, &mut ids)? {
        match bpf::program_by_id(*id) {
            Ok(program) if bpf::program_info(program.number())?.name() == NAME.to_bytes() => {
                found.push(program)
            }
            Ok(_) | Err(coracle_sys::Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

fn load(program: &[bpf::Instruction], rules: usize, path: &Path) -> Result<Fd, Error> {
    match bpf::load_device_program(program, NAME, LICENSE) {
        Err(coracle_sys::Errno(libc::E2BIG)) => {
            limit(format!("{rules} rules are too many for the verifier of this kernel"))
        }
        Err(coracle_sys::Errno::INVAL | coracle_sys::Errno::NOSYS) if !supported() => limit(
            "this kernel has no BPF for cgroups (CONFIG_CGROUP_BPF), so they cannot be enforced".to_string(),
        ),
        Err(errno) => Err(failed("load device filter for cgroup", path, errno)),
        Ok(program) => Ok(program),
    }
}

/// A kernel without BPF for cgroups answers EINVAL to the simplest program, too.
fn supported() -> bool {
    let permit = device_filter::lower(&[]);
    permit.is_ok_and(|program| bpf::load_device_program(&program, NAME, LICENSE).is_ok())
}

/// What a v1 cgroup permits: all but the exceptions, or nothing but the exceptions. An access needs one exception
/// that has all of its letters where nothing is permitted otherwise, and is refused by one letter where all is
/// (kernel security/device_cgroup.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    allow_all: bool,
    exceptions: BTreeMap<(Kind, Numbers), u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Block,
    Character,
}

/// Changes the exceptions of a v1 cgroup from what `devices.list` says to what the rules mean.
fn exceptions(tree: &Tree, rules: &[DeviceRule], optional: bool) -> Result<(), Error> {
    let wanted = List::of_rules(rules)?;
    if wanted.exceptions.len() > MAX_EXCEPTIONS {
        return limit(format!("more than {MAX_EXCEPTIONS} exceptions of cgroup v1 are needed"));
    }
    change(tree, &wanted, optional)
}

fn change(tree: &Tree, wanted: &List, optional: bool) -> Result<(), Error> {
    let group = tree.existing()?;
    let path = &tree.directory.path;
    let read = |what: &str| {
        let text = tree::read(group, "devices.list");
        text.map(|text| List::parse(&text)).map_err(|errno| Error::io(what, path.join("devices.list"), errno))
    };
    let now = read("read")?;
    for (at, (file, line)) in now.changes_to(wanted).into_iter().enumerate() {
        // Nothing is denied from the moment of this write to those of the denials, and the kernel does not tell
        // which of these an earlier list has made: fine for a new container, not below one that runs.
        if (file, line.as_str()) == (ALLOW, EVERYTHING) && !wanted.exceptions.is_empty() {
            let procs = tree::read(group, "cgroup.procs")
                .map_err(|errno| Error::io("read", path.join("cgroup.procs"), errno))?;
            if let Some(pid) = procs.split_whitespace().next() {
                return limit(format!(
                    "cgroup v1 cannot change what it denies out of everything while process {pid} is in {}",
                    path.display()
                ));
            }
        }
        let Err(errno) = tree::write(group, file, &line) else { continue };
        // Who may write at all is asked first; what comes after the first write must not be left half done.
        if optional && at == 0 && matches!(errno, Errno::EPERM | Errno::EACCES) {
            return Ok(());
        }
        let what = match (errno, file) {
            (Errno::EPERM, ALLOW) => {
                format!("allow device {line}, which the parent cgroup may not allow, in")
            }
            (Errno::EINVAL, _) if line == EVERYTHING => {
                "change all device rules at once, which sub-cgroups prevent, in".to_string()
            }
            (_, ALLOW) => format!("allow device {line} in"),
            _ => format!("deny device {line} in"),
        };
        return Err(Error::io(what, path.join(file), errno));
    }
    let kept = read("read back")?;
    // Of a list that permits all but exceptions, the kernel shows only that.
    if kept.allow_all == wanted.allow_all && (wanted.allow_all || kept.exceptions == wanted.exceptions) {
        return Ok(());
    }
    limit(format!("{} keeps others than were written", path.join("devices.list").display()))
}

/// A write for each of them is done in a fraction of a second.
const MAX_EXCEPTIONS: usize = 4096;

const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";
/// Written to either file, it makes the new list, without exceptions.
const EVERYTHING: &str = "a *:* rwm";

impl List {
    /// The shorter of the two ways to say it, if there are two.
    fn of_rules(rules: &[DeviceRule]) -> Result<List, Error> {
        let deny_all = List::exceptions_of(device_filter::simplify(rules, false)?, false);
        let allow_all = List::exceptions_of(device_filter::simplify(rules, true)?, true);
        match (deny_all, allow_all) {
            (Ok(deny_all), Ok(allow_all)) if allow_all.exceptions.len() < deny_all.exceptions.len() => {
                Ok(allow_all)
            }
            (Err(_), Ok(allow_all)) => Ok(allow_all),
            (Ok(deny_all), _) => Ok(deny_all),
            (Err((kind, rule)), Err(_)) => Err(Error::Limit {
                limit: format!("device rule deny {}", line(kind, rule.numbers, rule.access)),
                rule: "cgroup v1 cannot deny a part of what an earlier rule allows".to_string(),
            }),
        }
    }

    /// Only rules that say the opposite of the rest can be exceptions. `Err` has the rule that is none.
    fn exceptions_of(rules: Rules, allow_all: bool) -> Result<List, (Kind, Rule)> {
        let mut list = List { allow_all, exceptions: BTreeMap::new() };
        for (kind, rules) in [(Kind::Block, rules.block), (Kind::Character, rules.character)] {
            for rule in rules {
                if rule.allow == allow_all {
                    return Err((kind, rule));
                }
                *list.exceptions.entry((kind, rule.numbers)).or_default() |= rule.access;
            }
        }
        if !allow_all {
            list.unite();
        }
        Ok(list)
    }

    /// Gives each device one exception with all that its exceptions have together: the kernel does not add them up.
    fn unite(&mut self) {
        let given = std::mem::take(&mut self.exceptions);
        let access = |kind, numbers: Numbers| {
            let above = given.iter().filter(|((other, wide), _)| *other == kind && wide.covers(numbers));
            above.fold(0, |sum, (_, access)| sum | access)
        };
        for (&(kind, numbers), &own) in &given {
            let whole = access(kind, numbers);
            self.exceptions.insert((kind, numbers), whole);
            // Those of one major and those of one minor number share a device that neither covers.
            for (&(other_kind, other), &others) in given.range((kind, numbers)..) {
                if let Some(both) = numbers.meet(other).filter(|_| kind == other_kind)
                    && own | others != own
                    && own | others != others
                {
                    self.exceptions.insert((kind, both), access(kind, both));
                }
                if self.exceptions.len() > MAX_EXCEPTIONS {
                    return;
                }
            }
        }
        let all = self.exceptions.clone();
        self.exceptions.retain(|(kind, numbers), own| {
            // One that a wider exception repeats is none.
            !all.iter().any(|((other, wide), access)| {
                other == kind && wide != numbers && wide.covers(*numbers) && access == own
            })
        });
    }

    /// `devices.list`: `a *:* rwm`, or a line `c 1:3 rwm` for each exception.
    fn parse(text: &str) -> List {
        let mut list = List { allow_all: false, exceptions: BTreeMap::new() };
        for line in text.lines() {
            let mut words = line.split([' ', ':']);
            let kind = match words.next() {
                Some("a") => {
                    list.allow_all = true;
                    continue;
                }
                Some("b") => Kind::Block,
                _ => Kind::Character,
            };
            let mut number = || words.next().and_then(|word| word.parse().ok());
            let numbers = Numbers { major: number(), minor: number() };
            let letters = words.next().unwrap_or_default();
            let access = LETTERS
                .iter()
                .filter(|(letter, _)| letters.contains(*letter))
                .fold(0, |sum, (_, bit)| sum | bit);
            *list.exceptions.entry((kind, numbers)).or_default() |= access;
        }
        list
    }

    /// Files and what to write to them, in this order: at no moment is an access refused that both lists permit,
    /// nor permitted that both refuse. A change to or from "all" cannot be so: it begins with nothing, or with all.
    fn changes_to(&self, wanted: &List) -> Vec<(&'static str, String)> {
        let mut changes: Vec<(u8, &'static str, String)> = Vec::new();
        let nothing = BTreeMap::new();
        let now = match (self.allow_all, wanted.allow_all) {
            (false, false) => &self.exceptions,
            (true, false) => {
                changes.push((0, DENY, EVERYTHING.to_string()));
                &nothing
            }
            // Also from all to all: there may be exceptions, which the list does not show.
            (_, true) => {
                changes.push((0, ALLOW, EVERYTHING.to_string()));
                &nothing
            }
        };
        let (except, restore) = if wanted.allow_all { (DENY, ALLOW) } else { (ALLOW, DENY) };
        let places: BTreeSet<_> = now.keys().chain(wanted.exceptions.keys()).collect();
        for place in places {
            let of = |list: &BTreeMap<_, u8>| list.get(place).copied().unwrap_or(0);
            let (old, new) = (of(now), of(&wanted.exceptions));
            let (more, less) = (new & !old, old & !new);
            // First exceptions that only grow: they may stand in for others. In one that changes both ways, a
            // union of the two would permit an access of several letters that neither permits.
            let turn = match (more, less) {
                (_, 0) => 1,
                (0, _) => 3,
                _ => 2,
            };
            if less != 0 {
                changes.push((turn, restore, line(place.0, place.1, less)));
            }
            if more != 0 {
                changes.push((turn, except, line(place.0, place.1, more)));
            }
        }
        changes.sort_by_key(|(turn, _, _)| *turn);
        changes.into_iter().map(|(_, file, line)| (file, line)).collect()
    }
}

const LETTERS: [(char, u8); 3] = [('r', READ), ('w', WRITE), ('m', MKNOD)];

/// `c 1:3 rwm`, as the kernel reads and writes it.
fn line(kind: Kind, numbers: Numbers, access: u8) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_string(), |number| number.to_string());
    let letters: String =
        LETTERS.iter().filter(|(_, bit)| access & bit != 0).map(|(letter, _)| letter).collect();
    let kind = if kind == Kind::Block { 'b' } else { 'c' };
    format!("{kind} {}:{} {letters}", number(numbers.major), number(numbers.minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_filter::tests::{DOCKER, Random, Request, by_the_list, list, requests};

    /// The kernel's own decision (security/device_cgroup.c, match_exception and match_exception_partial).
    fn by_the_kernel(list: &List, request: Request) -> bool {
        let kind = if request.block { Kind::Block } else { Kind::Character };
        let device = Numbers { major: Some(request.major), minor: Some(request.minor) };
        let mut matching =
            list.exceptions.iter().filter(|((one, numbers), _)| *one == kind && numbers.covers(device));
        match list.allow_all {
            true => !matching.any(|(_, access)| access & request.access != 0),
            false => matching.any(|(_, access)| request.access & !access == 0),
        }
    }

    /// What a write does to the kernel's list (devcgroup_update_access), below a parent that allows all.
    fn write(list: &mut List, file: &str, line: &str) {
        if line == EVERYTHING {
            *list = List { allow_all: file == ALLOW, exceptions: BTreeMap::new() };
            return;
        }
        let change = List::parse(line);
        let (place, access) = change.exceptions.iter().next().unwrap();
        let kept = list.exceptions.entry(*place).or_default();
        match (file == ALLOW) == list.allow_all {
            true => *kept &= !access,
            false => *kept |= access,
        }
        list.exceptions.retain(|_, access| *access != 0);
    }

    fn show(list: &List) -> String {
        let sign = if list.allow_all { "all but" } else { "none but" };
        let lines = list.exceptions.iter().map(|((kind, numbers), access)| line(*kind, *numbers, *access));
        format!("{sign} {}", lines.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn lists_of_v1_decide_as_the_rules_do_and_so_does_every_moment_of_a_change() {
        let (mut random, requests) = (Random(1234), requests());
        let (mut said, mut changed) = (0, 0);
        let mut last: Option<(List, Vec<DeviceRule>)> = None;
        for _ in 0..2000 {
            let rules = random.rules();
            let Ok(wanted) = List::of_rules(&rules) else { continue };
            said += 1;
            for request in &requests {
                assert_eq!(
                    by_the_kernel(&wanted, *request),
                    by_the_list(&rules, *request),
                    "{request:?} of {rules:#?}: {}",
                    show(&wanted)
                );
            }
            if let Some((mut kernel, old_rules)) = last {
                // What the kernel shows of it.
                let now = List {
                    exceptions: if kernel.allow_all { BTreeMap::new() } else { kernel.exceptions.clone() },
                    ..kernel
                };
                let steady = !kernel.allow_all && !wanted.allow_all;
                changed += u32::from(steady);
                for (file, line) in now.changes_to(&wanted) {
                    write(&mut kernel, file, &line);
                    for request in requests.iter().filter(|_| steady) {
                        let (old, new) = (by_the_list(&old_rules, *request), by_the_list(&rules, *request));
                        assert!(
                            old != new || by_the_kernel(&kernel, *request) == new,
                            "{request:?} after {line} to {file}\n{}\n{}\n{}",
                            show(&now),
                            show(&kernel),
                            show(&wanted)
                        );
                    }
                }
                assert_eq!(kernel, wanted);
            }
            last = Some((wanted, rules));
        }
        assert!(said > 300 && changed > 100, "{said} {changed}");
    }

    #[test]
    fn every_list_of_allows_can_be_said() {
        let mut random = Random(99);
        for _ in 0..1000 {
            let mut rules = random.rules();
            rules[0].allow = false;
            rules.iter_mut().skip(1).for_each(|rule| rule.allow = true);
            assert!(List::of_rules(&rules).is_ok(), "{rules:#?}");
        }
    }

    #[test]
    fn the_shorter_list_is_taken() {
        let said = |text: &str| match List::of_rules(&list(text)) {
            Ok(list) => show(&list),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            said(DOCKER),
            "none but b *:* m, c *:* m, c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, c 1:9 rwm, \
             c 5:0 rwm, c 5:1 rwm, c 5:2 rwm, c 136:* rwm"
        );
        let cannot = "cgroup v1 cannot deny a part of what an earlier rule allows";
        for (text, expected) in [
            ("deny a *:* rwm", "none but "),
            ("allow a *:* rwm", "all but "),
            ("deny a *:* rwm\nallow a *:* rwm", "all but "),
            ("allow a *:* rwm\ndeny c 1:5 w\ndeny b *:* m", "all but b *:* m, c 1:5 w"),
            ("deny a *:* rwm\nallow c 1:3 rwm\ndeny c 1:3 m", "none but c 1:3 rw"),
            // An open for both needs one exception with both.
            ("deny a *:* rwm\nallow c 1:* r\nallow c *:3 w", "none but c *:3 w, c 1:* r, c 1:3 rw"),
            ("deny a *:* rwm\nallow c *:* r\nallow c 1:3 w", "none but c *:* r, c 1:3 rw"),
            ("deny a *:* rwm\nallow c 1:* rwm\ndeny c 1:3 w", &format!("device rule deny c 1:3 w: {cannot}")),
            (
                "allow a *:* rwm\ndeny c 1:* rw\nallow c 1:3 r",
                &format!("device rule deny c 1:* rw: {cannot}"),
            ),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }

    #[test]
    fn devices_list_is_read_as_the_kernel_writes_it() {
        assert_eq!(show(&List::parse("a *:* rwm\n")), "all but ");
        assert_eq!(show(&List::parse("")), "none but ");
        assert_eq!(
            show(&List::parse("c 1:3 rwm\nb *:* m\nc 136:* rw\n")),
            "none but b *:* m, c 1:3 rwm, c 136:* rw"
        );
    }
}
