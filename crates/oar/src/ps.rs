// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ps`: the pids as JSON, or a table by ps(1).
//! Decides nothing about containers.
//! Pids come from the library; the text goes to stdout.

use std::ffi::OsString;

use coracle_runtime::{Code, Error, Id, Result, Runtime};

pub(crate) fn ps(_runtime: &Runtime, _id: &Id, _words: &[OsString], _json: bool) -> Result<u8> {
    Err(Error::new(Code::Unsupported, "ps is not in this version"))
}
