// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of what is wrong, and the checks that every topic shares.
//!
//! Never stops at the first violation and never repairs a value silently. Filled by each topic's file while it
//! plans; emptied by [`crate::plan`] into its result.

use std::fmt;

use crate::types::{Violation, Warning};

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Check {
    pub(crate) violations: Vec<Violation>,
    pub(crate) warnings: Vec<Warning>,
    /// [`crate::Plan::notes`].
    pub(crate) notes: Vec<Warning>,
    /// [`crate::Options::strict`].
    pub(crate) strict: bool,
}

impl Check {
    pub(crate) fn violation(&mut self, place: impl Into<String>, rule: impl Into<String>) {
        self.violations.push(Violation { place: place.into(), rule: rule.into() });
    }

    /// A violation that shows the value.
    pub(crate) fn refuse(&mut self, place: impl Into<String>, rule: &str, got: impl fmt::Display) {
        self.violation(place, refusal(rule, &got.to_string()));
    }

    pub(crate) fn warn(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.warnings.push(Warning { place: place.into(), text: text.into() });
    }

    pub(crate) fn note(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.notes.push(Warning { place: place.into(), text: text.into() });
    }

    /// What this host cannot express: it is left out, unless the caller wants all or nothing.
    pub(crate) fn lenient(&mut self, place: impl Into<String>, text: &str) {
        if self.strict { self.violation(place, text) } else { self.warn(place, format!("{text}: ignored")) }
    }

    /// A string that reaches the kernel ends at its first NUL (CVE-2021-43784's neighbours), so none may hold one.
    /// Documents were checked while parsing; a Spec that was built in memory was not.
    pub(crate) fn text(&mut self, place: &str, value: &str) -> bool {
        let ok = !value.contains('\0');
        if !ok {
            self.refuse(place, "must not hold a NUL", value);
        }
        ok
    }

    /// An absolute path inside or outside of the container, as its field demands.
    pub(crate) fn absolute(&mut self, place: &str, path: &str) -> bool {
        if !path.starts_with('/') {
            self.refuse(place, "must be an absolute path", path);
            return false;
        }
        self.text(place, path)
    }
}

/// A rule, and the value that breaks it.
pub(crate) fn refusal(rule: &str, got: &str) -> String {
    if got.is_empty() { format!("{rule} (it is empty)") } else { format!("{rule} (got {})", shown(got)) }
}

/// A value for a message: one line, escaped, at most 80 characters.
pub(crate) fn shown(value: &str) -> String {
    shorten(value, 80)
}

/// Escapes what would break a line or a terminal, and cuts after `limit` characters.
pub(crate) fn shorten(value: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut length = 0;
    for c in value.chars() {
        let start = out.len();
        // Bidirectional overrides and the like are not control characters, but lie to the reader as well.
        if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        let added = out[start..].chars().count();
        if length + added > limit {
            out.truncate(start);
            out.push('…');
            break;
        }
        length += added;
    }
    out
}

/// Removes `.`, empty and, lexically, `..` components, as engines expect of a destination in the container. The
/// result begins with `/` whether or not the argument does.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Is `path` below `directory`, both clean?
pub(crate) fn below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn line(f: &mut fmt::Formatter<'_>, place: &str, text: &str) -> fmt::Result {
    if place.is_empty() { f.write_str(text) } else { write!(f, "{place}: {text}") }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.place, &self.rule)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.place, &self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_one_short_line() {
        assert_eq!(shown("a\nb\0\u{1b}"), "a\\nb\\u{0}\\u{1b}");
        assert_eq!(shown(&"x".repeat(200)).chars().count(), 81);
        assert_eq!(shown(&"x".repeat(80)), "x".repeat(80));
        assert_eq!(shown("\u{202e}gpj"), "\\u{202e}gpj");
    }

    #[test]
    fn clean_is_lexical_and_stays_below_the_root() {
        for (given, wanted) in [
            ("/", "/"),
            ("", "/"),
            ("a/b", "/a/b"),
            ("//a/./b/", "/a/b"),
            ("/a/../..", "/"),
            ("/../proc", "/proc"),
        ] {
            assert_eq!(clean(given), wanted, "{given}");
        }
        assert!(below("/proc/a", "/proc") && !below("/procfs", "/proc") && !below("/proc", "/proc"));
    }
}
