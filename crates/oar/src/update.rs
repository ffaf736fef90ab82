// SPDX-License-Identifier: MIT OR Apache-2.0
//! `update`: from the flags to the limits that they give.
//! Decides nothing about containers.
//! Options come from the command line, a document from a file or stdin.

use coracle_runtime::{Code, Error, Id, Result, Runtime};

use crate::flags::Options;
use crate::log::Log;

pub(crate) fn update(_runtime: &Runtime, _id: &Id, _options: &Options, _log: &Log) -> Result<u8> {
    Err(Error::new(Code::Unsupported, "update is not in this version"))
}
