// SPDX-License-Identifier: MIT OR Apache-2.0
//! `events`: statistics once or again and again, and what happens, as lines of JSON.
//! Decides nothing about containers; waits in one poll(2), for what the library follows, for the next statistics, and for a
//! reader that goes away.
//! Options come from the command line; lines go to stdout, each at once.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant, SystemTime};

use coracle_runtime::{Code, Error, Event, Follow, Id, Result, Runtime, Statistics, What, rfc3339};
use coracle_sys::tty::{Poll, poll};
use serde_json::Value;

use crate::flags::Options;
use crate::verbs::{GONE, print_line, unprintable};

/// runc's.
const INTERVAL: Duration = Duration::from_secs(5);

pub(crate) fn events(runtime: &Runtime, id: Option<&Id>, options: &Options) -> Result<u8> {
    let interval = options.interval.as_deref().map(interval).transpose()?;
    match (id, options.stats, options.follow) {
        (_, true, true) => Err(invalid("--stats and --follow exclude each other")),
        (id, false, true) if interval.is_none() => follow(runtime, id),
        (_, false, true) => Err(invalid("--interval is for statistics, and --follow has none")),
        (Some(id), true, false) => print_line(&statistics(id, &runtime.stats(id)?)?),
        (Some(id), false, false) => stream(runtime, id, interval.unwrap_or(INTERVAL)),
        (None, _, false) => Err(invalid("events needs an ID")),
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Code::Invalid, text)
}

/// runc's order of keys: the first is what a reader of the stream looks for.
fn statistics(id: &Id, data: &Statistics) -> Result<String> {
    let data = serde_json::to_string(data).map_err(unprintable)?;
    Ok(format!(r#"{{"type":"stats","id":{},"data":{data}}}"#, Value::from(id.as_str())))
}

fn follow(runtime: &Runtime, id: Option<&Id>) -> Result<u8> {
    raise_descriptor_limit();
    let mut follow = runtime.follow(id)?;
    // From here on nothing is missed: whoever wants to know what was before may look now.
    let id = id.map_or(String::new(), |id| format!(r#""id":{},"#, Value::from(id.as_str())));
    let mut status =
        print_line(&format!(r#"{{"type":"following",{id}"time":"{}"}}"#, rfc3339(SystemTime::now())))?;
    while status == 0 {
        match follow.next()? {
            Some(event) => status = print_line(&serde_json::to_string(&event).map_err(unprintable)?)?,
            None if follow.is_over() => break,
            None => status = wait(&follow, None)?,
        }
    }
    Ok(status)
}

/// runc's `events`: statistics, and `oom` at each time that memory ran out or a process was killed for it.
fn stream(runtime: &Runtime, id: &Id, interval: Duration) -> Result<u8> {
    let mut follow = runtime.follow(Some(id))?;
    let mut meter = match runtime.meter(id) {
        // Ended since.
        Err(error) if error.code == Code::State => return Ok(0),
        other => other?,
    };
    let oom = format!(r#"{{"type":"oom","id":{}}}"#, Value::from(id.as_str()));
    let (mut ooms, mut status) = (Ooms::default(), 0);
    let mut next = Instant::now().checked_add(interval);
    while status == 0 {
        match follow.next()? {
            Some(event) if ooms.is_news(&event) => status = print_line(&oom)?,
            Some(_) => {}
            None if follow.is_over() => break,
            None if next.is_none_or(|next| Instant::now() < next) => status = wait(&follow, next)?,
            None => {
                match meter.read() {
                    Ok(data) => status = print_line(&statistics(id, &data)?)?,
                    // The follower is about to hear of the end.
                    Err(error) if error.code == Code::State => {}
                    Err(error) => return Err(error),
                }
                // A reader that was slow gets the next one in time, not all those that it missed.
                next = Instant::now().checked_add(interval);
            }
        }
    }
    Ok(status)
}

/// cgroup2 counts an OOM and the kill for it, in one moment; a kill alone is for want of memory above the container.
#[derive(Default)]
struct Ooms {
    oom: u64,
    killed: u64,
}

impl Ooms {
    fn is_news(&mut self, event: &Event) -> bool {
        let before = self.oom.max(self.killed);
        match event.what {
            What::Oom { count } => self.oom += count,
            What::OomKill { count } => self.killed += count,
            _ => {}
        }
        self.oom.max(self.killed) > before
    }
}

/// Until something happens, or it is time. Not 0 when nobody reads any more.
fn wait(follow: &Follow, until: Option<Instant>) -> Result<u8> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    // Rounded up: a millisecond too early would be one more turn.
    let left = left.map(|left| i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1));
    // No events: only what poll tells unasked, an error or a hang-up.
    let mut entries = [Poll::readable(follow.as_fd().as_raw_fd()), Poll { fd: 1, events: 0, ready: 0 }];
    poll(&mut entries, left)
        .map_err(|errno| Error::new(Code::System, format!("wait for events: {}", errno.words())))?;
    let [_, stdout] = entries;
    Ok(if stdout.ready & (libc::POLLERR | libc::POLLHUP) != 0 { GONE } else { 0 })
}

/// A dozen descriptors for each container are soon more than the usual 1024.
fn raise_descriptor_limit() {
    let limit = coracle_sys::process::get_prlimit(0, libc::RLIMIT_NOFILE);
    if let Ok((soft, hard)) = limit
        && soft < hard
    {
        // Without it there is room for fewer containers.
        coracle_sys::process::prlimit(0, libc::RLIMIT_NOFILE, hard, hard).ok();
    }
}

/// A duration as Go's time.ParseDuration takes it: `5s`, `1m30s`, `.5h`.
fn interval(text: &str) -> Result<Duration> {
    let wrong = |why: &str| invalid(format!("--interval \"{}\": {why}", text.escape_debug()));
    let malformed = || wrong("it is not a duration such as 5s, 500ms or 1m30s");
    let nanoseconds = parse_duration(text).ok_or_else(malformed)?;
    match u64::try_from(nanoseconds) {
        Ok(0) => Err(wrong("it must be greater than 0")),
        Ok(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        Err(_) => Err(wrong("it must be greater than 0")),
    }
}

/// Nanoseconds. None: malformed, or longer than Go can count (292 years).
fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    match rest {
        "" => return None,
        "0" => return Some(0),
        _ => {}
    }
    let mut sum: i64 = 0;
    while !rest.is_empty() {
        let whole = digits(&mut rest);
        let fraction = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                digits(&mut rest)
            }
            None => "",
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, after) = rest.split_at(end);
        rest = after;
        let unit: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // Exact to a nanosecond or so.
        let fraction: f64 = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
        sum = sum.checked_add(whole.checked_mul(unit)?)?.checked_add((fraction * unit as f64) as i64)?;
    }
    Some(if negative { -sum } else { sum })
}

fn digits<'a>(rest: &mut &'a str) -> &'a str {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        const MS: i64 = 1_000_000;
        for (text, nanoseconds) in [
            ("0", 0),
            ("+0", 0),
            ("0s", 0),
            ("5s", 5000 * MS),
            ("500ms", 500 * MS),
            ("1m30s", 90_000 * MS),
            ("1.5h", 5_400_000 * MS),
            (".5s", 500 * MS),
            ("1.s", 1000 * MS),
            ("-2s", -2000 * MS),
            ("1h1m1s1ms1us1ns", 3_661_001 * MS + 1_001),
            ("2µs", 2_000),
            ("2μs", 2_000),
            ("0.000000001s", 1),
            ("1.00000000000000000000001s", 1000 * MS),
            ("2562047h", 2_562_047 * 3_600_000 * MS),
        ] {
            assert_eq!(parse_duration(text), Some(nanoseconds), "{text}");
        }
        for text in [
            "",
            "+",
            "-",
            "5",
            "s",
            ".s",
            "5 s",
            " 5s",
            "5s ",
            "5S",
            "5d",
            "--5s",
            "1e3s",
            "3000000h",
            "5s5",
            "99999999999999999999s",
            "٥s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn an_interval_is_more_than_nothing() {
        assert_eq!(interval("250us").unwrap(), Duration::from_micros(250));
        for text in ["0", "0s", "-5s"] {
            assert!(interval(text).unwrap_err().message.ends_with("must be greater than 0"));
        }
        assert_eq!(
            interval("5\n").unwrap_err().message,
            r#"--interval "5\n": it is not a duration such as 5s, 500ms or 1m30s"#
        );
    }

    #[test]
    fn an_oom_and_its_kill_are_one_line() {
        let mut ooms = Ooms::default();
        let mut news = |what| ooms.is_news(&Event { id: "web".into(), time: SystemTime::now(), what });
        assert!(news(What::Oom { count: 1 }));
        assert!(!news(What::OomKill { count: 1 }));
        assert!(!news(What::Frozen));
        // Above the container.
        assert!(news(What::OomKill { count: 2 }));
        assert!(!news(What::Oom { count: 2 }));
        assert!(news(What::Oom { count: 1 }));
    }
}
