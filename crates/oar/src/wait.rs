// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wait`: how a container ended.
//! Decides nothing about containers.
//! The status comes from the library; it goes to stdout.

use coracle_runtime::{ExitStatus, Id, Result, Runtime};
use serde_json::json;

use crate::verbs::print_line;

pub(crate) fn wait(runtime: &Runtime, id: &Id, json: bool) -> Result<u8> {
    print_line(&text(id, runtime.wait(id)?, json))
}

fn text(id: &Id, exit: ExitStatus, json: bool) -> String {
    if !json {
        return exit.code().to_string();
    }
    let (code, signal) = match exit {
        ExitStatus::Signal(signal) => (None, Some(signal)),
        other => (Some(other.code()), None),
    };
    json!({ "id": id.as_str(), "code": code, "signal": signal, "status": exit.code() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_a_shells() {
        let id = Id::new("web").unwrap();
        assert_eq!(text(&id, ExitStatus::Code(3), false), "3");
        assert_eq!(text(&id, ExitStatus::Signal(9), false), "137");
        assert_eq!(text(&id, ExitStatus::Code(3), true), r#"{"code":3,"id":"web","signal":null,"status":3}"#);
        assert_eq!(
            text(&id, ExitStatus::Signal(9), true),
            r#"{"code":null,"id":"web","signal":9,"status":137}"#
        );
    }
}
