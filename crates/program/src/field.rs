// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kinds of field that an op may have, each with its two directions.

use core::ffi::CStr;

use crate::Malformed;

/// The rest of some encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

pub trait Field<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed>;
    #[cfg(feature = "encode")]
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl<'a> Field<'a> for $type {
            fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
                let bytes = reader.take(size_of::<$type>())?;
                Ok(<$type>::from_ne_bytes(bytes.try_into().map_err(|_| Malformed)?))
            }
            #[cfg(feature = "encode")]
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}
number!(u16 u32 u64 i32);

/// A length, and as many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Bytes<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let length = u32::read(reader)?;
        Ok(Bytes(reader.take(length as usize)?))
    }
    #[cfg(feature = "encode")]
    fn write(&self, out: &mut Vec<u8>) {
        (self.0.len() as u32).write(out);
        out.extend_from_slice(self.0);
    }
}

impl<'a> Field<'a> for &'a CStr {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        CStr::from_bytes_with_nul(Bytes::read(reader)?.0).map_err(|_| Malformed)
    }
    #[cfg(feature = "encode")]
    fn write(&self, out: &mut Vec<u8>) {
        Bytes(self.to_bytes_with_nul()).write(out);
    }
}

/// Strings, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List<'a> {
    count: u32,
    strings: Bytes<'a>,
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        self.count as usize
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    pub fn iter(&self) -> impl Iterator<Item = &'a CStr> + use<'a> {
        let mut rest = Reader::new(self.strings.0);
        // `read` has walked the whole list once, so nothing is cut off here.
        core::iter::from_fn(move || <&CStr>::read(&mut rest).ok())
    }

    /// Encode strings into `storage`, which the list then borrows.
    #[cfg(feature = "encode")]
    pub fn collect<'s, S: AsRef<CStr>>(storage: &'s mut Vec<u8>, strings: &[S]) -> List<'s> {
        storage.clear();
        for string in strings {
            string.as_ref().write(storage);
        }
        List { count: strings.len() as u32, strings: Bytes(storage) }
    }
}

impl<'a> Field<'a> for List<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let list = List { count: u32::read(reader)?, strings: Bytes::read(reader)? };
        let mut rest = Reader::new(list.strings.0);
        let mut count = 0;
        while !rest.is_empty() {
            <&CStr>::read(&mut rest)?;
            count += 1;
        }
        if count == list.count { Ok(list) } else { Err(Malformed) }
    }
    #[cfg(feature = "encode")]
    fn write(&self, out: &mut Vec<u8>) {
        self.count.write(out);
        self.strings.write(out);
    }
}
