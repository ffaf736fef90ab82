// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor`: what the library has found, as a table or as JSON.
//! Judges nothing.
//! Findings come from the library; the text goes to stdout.

use coracle_runtime::{Check, Result};
use serde_json::{Value, json};

use crate::flags::Options;
use crate::log::escape;
use crate::verbs::{print, print_json};

const CANNOT: u8 = 1;

pub(crate) fn doctor(options: &Options) -> Result<u8> {
    let root = options.root.clone().unwrap_or_else(coracle_runtime::default_root);
    let diagnosis = coracle_runtime::doctor(&root);
    let printed = match options.json {
        true => print_json(serde_json::to_string_pretty(&array(&diagnosis.checks)))?,
        false => print(&table(&diagnosis.checks))?,
    };
    Ok(if diagnosis.works { printed } else { CANNOT })
}

fn array(checks: &[Check]) -> Vec<Value> {
    let object = |check: &Check| {
        json!({
            "name": check.name,
            "status": check.status.name(),
            "detail": check.detail,
            "mend": check.mend,
        })
    };
    checks.iter().map(object).collect()
}

/// A line for each check, and one below it for what mends it.
fn table(checks: &[Check]) -> String {
    let name = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let status = check.status.name();
        text.push_str(&format!("{status:7}  {:name$}  {}\n", check.name, escape(&check.detail)));
        if let Some(mend) = &check.mend {
            text.push_str(&format!("{:7}  {:name$}  → {}\n", "", "", escape(mend)));
        }
    }
    text
}
