// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory without an allocator: a file mapped for reading, and the pointer arrays that execve(2) wants.

use core::ffi::{CStr, c_char};

use crate::raw::*;
use crate::{Errno, Result};

/// Map a whole file for reading, for as long as the process lives. The file must be sealed or private to the
/// caller, so that nothing changes or truncates it.
pub fn map_file(fd: i32) -> Result<&'static [u8]> {
    let size = crate::fd::fstat(fd)?.size as usize;
    if size == 0 {
        return Ok(&[]);
    }
    // SAFETY: a new private mapping, chosen by the kernel, disturbs no other memory.
    let address = unsafe {
        syscall6(
            libc::SYS_mmap,
            0,
            size,
            libc::PROT_READ as usize,
            (libc::MAP_PRIVATE | libc::MAP_POPULATE) as usize,
            fd as usize,
            0,
        )
    }
    .and_then(mapped)?;
    // SAFETY: the mapping is readable for `size` bytes and is never unmapped.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, size) })
}

/// One page of a file, shared with whoever else has the file open: a word can be left there without a system call.
#[derive(Debug)]
pub struct SharedPage(*mut u8);

impl SharedPage {
    /// Bytes.
    pub const SIZE: usize = 4096;

    /// Map the first page, for as long as the process lives. The file must have one, and keep it.
    pub fn map(fd: i32) -> Result<SharedPage> {
        // SAFETY: a new mapping, chosen by the kernel, disturbs no other memory.
        let address = unsafe {
            syscall6(
                libc::SYS_mmap,
                0,
                Self::SIZE,
                (libc::PROT_READ | libc::PROT_WRITE) as usize,
                (libc::MAP_SHARED | libc::MAP_POPULATE) as usize,
                fd as usize,
                0,
            )
        }
        .and_then(mapped)?;
        Ok(SharedPage(address as *mut u8))
    }

    /// From the start of the page; what does not fit is cut off.
    pub fn write(&self, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().take(Self::SIZE).enumerate() {
            // SAFETY: within the mapping, which is never unmapped; nothing else in this process refers to it. Volatile:
            // it is read by another process.
            unsafe { self.0.add(offset).write_volatile(*byte) };
        }
    }
}

/// A null-terminated array of string pointers, as execve(2) takes.
#[derive(Debug)]
pub struct PointerArray {
    base: *mut *const c_char,
    capacity: usize,
    used: usize,
}

impl PointerArray {
    /// Room for `count` strings, zero pages from the kernel; kept until execve(2) replaces the process.
    pub fn new(count: usize) -> Result<PointerArray> {
        let capacity = count.checked_add(1).ok_or(Errno::NOMEM)?;
        let bytes = capacity.checked_mul(size_of::<*const c_char>()).ok_or(Errno::NOMEM)?;
        let address = pages(bytes)?;
        Ok(PointerArray { base: address.cast(), capacity, used: 0 })
    }

    /// The string must live until the array is used: the program's mapping, or static data.
    pub fn push(&mut self, string: &'static CStr) -> Result<()> {
        if self.used + 1 >= self.capacity {
            return Err(Errno::NOMEM);
        }
        // SAFETY: `used` is below the capacity of the mapping, whose last entry stays zero.
        unsafe { self.base.add(self.used).write(string.as_ptr()) };
        self.used += 1;
        Ok(())
    }

    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.base
    }
}

fn pages(bytes: usize) -> Result<*mut u8> {
    // SAFETY: a new anonymous mapping disturbs no other memory.
    unsafe {
        syscall6(
            libc::SYS_mmap,
            0,
            bytes,
            (libc::PROT_READ | libc::PROT_WRITE) as usize,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize,
            usize::MAX,
            0,
        )
    }
    .and_then(mapped)
    .map(|address| address as *mut u8)
}

/// Is it an address that the kernel may have chosen (vm.mmap_min_addr apart)? A seccomp filter can answer with any number.
fn mapped(address: usize) -> Result<usize> {
    const PAGE: usize = 4096;
    if address >= PAGE && address.is_multiple_of(PAGE) { Ok(address) } else { Err(Errno::PROTO) }
}

/// Read a file from its start into memory of its own, up to a limit in bytes; kept as long as the process lives.
pub fn read_file(fd: i32, limit: usize) -> Result<&'static [u8]> {
    let size = (crate::fd::fstat(fd)?.size as usize).min(limit);
    if size == 0 {
        return Ok(&[]);
    }
    let base = pages(size)?;
    // SAFETY: a fresh mapping of at least `size` zero bytes, which nothing else knows.
    let buffer = unsafe { core::slice::from_raw_parts_mut(base, size) };
    let length = crate::fd::read_at(fd, buffer, 0)?;
    // SAFETY: within the mapping, which is never unmapped nor written again.
    Ok(unsafe { core::slice::from_raw_parts(base, length) })
}

/// `name` and `value` as one string, kept as long as the process lives.
pub fn variable(name: &CStr, value: &[u8]) -> Result<&'static CStr> {
    let name = name.to_bytes();
    let size = name.len() + value.len() + 1;
    let base = pages(size)?;
    // SAFETY: a fresh mapping of at least `size` zero bytes, which nothing else knows.
    let buffer = unsafe { core::slice::from_raw_parts_mut(base, size) };
    for (to, from) in buffer.iter_mut().zip(name.iter().chain(value)) {
        *to = *from;
    }
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::INVAL)
}
