// SPDX-License-Identifier: MIT OR Apache-2.0
//! `events`: statistics once or again and again, and what happens, as lines of JSON.
//! Decides nothing about containers.
//! Options come from the command line; lines go to stdout.

use coracle_runtime::{Code, Error, Id, Result, Runtime};
use serde_json::Value;

use crate::flags::Options;
use crate::log::Log;
use crate::verbs::{print_line, unprintable};

pub(crate) fn events(runtime: &Runtime, id: Option<&Id>, options: &Options, _log: &Log) -> Result<u8> {
    let Some(id) = id.filter(|_| options.stats) else {
        return Err(Error::new(Code::Unsupported, "events is not in this version"));
    };
    let data = serde_json::to_string(&runtime.stats(id)?).map_err(unprintable)?;
    // runc's order of keys: the first is what a reader of the stream looks for.
    print_line(&format!(r#"{{"type":"stats","id":{},"data":{data}}}"#, Value::from(id.as_str())))
}
