// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container's name. Made in one place, so that no verb can forget the rule: it becomes a directory's name.

use std::fmt;

use crate::error::{Code, Error, Result};

const LONGEST: usize = 1024;

/// Letters, digits, `_`, `+`, `.`, `-`; not `.` nor `..`; at most 1024 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// Errors: [`Code::Invalid`].
    pub fn new(text: &str) -> Result<Id> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(&byte);
        let rule = if text.is_empty() {
            "it is empty"
        } else if text.len() > LONGEST {
            "it is longer than 1024 bytes"
        } else if text == "." || text == ".." || !text.bytes().all(allowed) {
            "only letters, digits and _ + . - are allowed, and not . or .. alone"
        } else {
            return Ok(Id(text.to_string()));
        };
        let shown: String = text.escape_debug().take(80).collect();
        Err(Error::new(Code::Invalid, format!("invalid container id \"{shown}\": {rule}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t90_ids() {
        for good in ["a", "web-1", "a+b_c.d", "...", &"a".repeat(1024)] {
            assert_eq!(Id::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "/", "a\n", "é", "a b", "%s", "*", &"a".repeat(1025)] {
            assert_eq!(Id::new(bad).unwrap_err().code, Code::Invalid, "{bad:?}");
        }
    }
}
