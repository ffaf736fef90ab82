// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages and descriptors over Unix sockets; and the loopback interface, which takes a socket too.

use core::mem::MaybeUninit;

use crate::raw::*;
use crate::{Errno, Fd, Result};

/// A connected pair of SOCK_SEQPACKET sockets, close-on-exec.
pub fn pair() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the array is writable for two numbers.
    unsafe {
        syscall4(libc::SYS_socketpair, libc::AF_UNIX as usize, kind as usize, 0, ends.as_mut_ptr() as usize)
    }?;
    Ok((Fd::own(ends[0]), Fd::own(ends[1])))
}

/// cmsghdr with room for one descriptor.
#[repr(C)]
#[derive(Default)]
struct OneFd {
    length: usize,
    level: i32,
    kind: i32,
    fd: i32,
    padding: i32,
}

const ONE_FD_LENGTH: usize = 16 + size_of::<i32>();

/// Send one message, with a descriptor if given. EPIPE instead of a signal when nobody reads.
pub fn send(socket: i32, data: &[u8], fd: Option<i32>) -> Result<()> {
    let mut control = OneFd {
        length: ONE_FD_LENGTH,
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd: fd.unwrap_or(-1),
        padding: 0,
    };
    let mut part = libc::iovec { iov_base: data.as_ptr() as *mut _, iov_len: data.len() };
    // SAFETY: zeroed is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if fd.is_some() {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<OneFd>();
    }
    loop {
        // SAFETY: every pointer in the message is to something that lives here.
        let result = unsafe {
            syscall3(
                libc::SYS_sendmsg,
                socket as usize,
                &raw const message as usize,
                libc::MSG_NOSIGNAL as usize,
            )
        };
        match result {
            Err(Errno::INTR) => {}
            // Not the kernel's word: a seccomp filter can answer a call with success.
            Ok(0) if !data.is_empty() => return Err(Errno::PROTO),
            other => return other.map(drop),
        }
    }
}

/// Receive one message: its length (0: the other side is gone), and the descriptor that came with it.
pub fn receive(socket: i32, buffer: &mut [u8]) -> Result<(usize, Option<Fd>)> {
    let mut control = OneFd::default();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: zeroed is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<OneFd>();
    let length = loop {
        // SAFETY: every pointer in the message is to something that lives here and is writable.
        let result = unsafe {
            syscall3(
                libc::SYS_recvmsg,
                socket as usize,
                &raw mut message as usize,
                libc::MSG_CMSG_CLOEXEC as usize,
            )
        };
        match result {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let has_fd = control.length >= ONE_FD_LENGTH
        && control.level == libc::SOL_SOCKET
        && control.kind == libc::SCM_RIGHTS;
    Ok((length, has_fd.then(|| Fd::own(control.fd))))
}

/// The kernel's SCM_MAX_FD: descriptors in one message.
pub const MOST_DESCRIPTORS: usize = 253;
const HEADER: usize = size_of::<libc::cmsghdr>();

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(size_of::<usize>())
}

/// Room for every descriptor that one message can have, and for who sent it.
const CONTROL: usize = aligned(HEADER + MOST_DESCRIPTORS * size_of::<i32>()) + aligned(HEADER + 12);

/// Control messages (cmsg(3)), aligned as the kernel wants them.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Of one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    pub length: usize,
    /// The buffer, or the table of descriptors, was too small for all of it.
    pub truncated: bool,
    /// The sender's pid in the caller's pid namespace, 0 for one that is not in it; with SO_PASSCRED.
    pub sender: Option<i32>,
}

/// Receive one datagram without waiting, and every descriptor that came with it. EAGAIN when there is none.
pub fn receive_datagram(socket: i32, buffer: &mut [u8], fds: &mut impl Extend<Fd>) -> Result<Datagram> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: zeroed is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CONTROL;
    let flags = (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as usize;
    let length = loop {
        // SAFETY: every pointer in the message is to something that lives here and is writable.
        let result =
            unsafe { syscall3(libc::SYS_recvmsg, socket as usize, &raw mut message as usize, flags) };
        match result {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut datagram = Datagram {
        length,
        truncated: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        sender: None,
    };
    let number = |bytes: &[u8]| bytes.first_chunk().copied().map_or(0, i32::from_ne_bytes);
    let mut rest = control.0.get(..message.msg_controllen).unwrap_or_default();
    while let Some((head, data)) = rest.split_at_checked(HEADER) {
        let length = head.first_chunk().copied().map_or(0, usize::from_ne_bytes);
        let Some(data) = data.get(..length.saturating_sub(HEADER)) else { break };
        match (number(&head[8..]), number(&head[12..])) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                fds.extend(data.chunks_exact(size_of::<i32>()).map(|bytes| Fd::own(number(bytes))));
            }
            // struct ucred begins with the pid.
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => datagram.sender = Some(number(data)),
            _ => {}
        }
        rest = rest.get(aligned(length.max(HEADER))..).unwrap_or_default();
    }
    Ok(datagram)
}

/// Send one datagram with these descriptors to where the socket is connected, without waiting. EAGAIN when the receiver
/// has no room.
pub fn send_datagram(socket: i32, data: &[u8], fds: impl Iterator<Item = i32>) -> Result<()> {
    let mut control = Control([0; CONTROL]);
    let mut end = HEADER;
    for fd in fds.take(MOST_DESCRIPTORS) {
        control.0[end..end + size_of::<i32>()].copy_from_slice(&fd.to_ne_bytes());
        end += size_of::<i32>();
    }
    control.0[..8].copy_from_slice(&end.to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    let mut part = libc::iovec { iov_base: data.as_ptr() as *mut _, iov_len: data.len() };
    // SAFETY: zeroed is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if end > HEADER {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = aligned(end);
    }
    let flags = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as usize;
    loop {
        // SAFETY: every pointer in the message is to something that lives here.
        let result =
            unsafe { syscall3(libc::SYS_sendmsg, socket as usize, &raw const message as usize, flags) };
        match result {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Is the other side of a stream or seqpacket socket gone? Takes nothing from the queue.
pub fn is_hung_up(socket: i32) -> bool {
    let mut byte = 0u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: zeroed is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // recvmsg(2), not another call that a seccomp filter could forbid.
    // SAFETY: every pointer in the message is to something that lives here and is writable.
    let result =
        unsafe { syscall3(libc::SYS_recvmsg, socket as usize, &raw mut message as usize, flags as usize) };
    result == Ok(0)
}

pub fn accept(listener: i32) -> Result<Fd> {
    loop {
        // SAFETY: no address is asked for.
        let result =
            unsafe { syscall4(libc::SYS_accept4, listener as usize, 0, 0, libc::SOCK_CLOEXEC as usize) };
        match result {
            Err(Errno::INTR) => {}
            // Standard input is open, so this is not the kernel's word but a seccomp filter's.
            Ok(0) => return Err(Errno::PROTO),
            other => return other.map(|fd| Fd::own(fd as i32)),
        }
    }
}

/// Bring the interface `lo` of the current network namespace up (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up() -> Result<()> {
    // SAFETY: no pointers.
    let socket = unsafe {
        syscall3(
            libc::SYS_socket,
            libc::AF_INET as usize,
            (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize,
            0,
        )
    };
    let socket = match socket {
        // A kernel without IPv4 still has the interface.
        Err(Errno(libc::EAFNOSUPPORT)) => {
            // SAFETY: no pointers.
            unsafe {
                syscall3(
                    libc::SYS_socket,
                    libc::AF_UNIX as usize,
                    (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize,
                    0,
                )
            }
        }
        other => other,
    };
    let socket = Fd::own(socket? as i32);
    // struct ifreq: the name in 16 bytes, then a union whose first member here is the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: ifreq is 40 bytes, writable.
    unsafe {
        syscall3(
            libc::SYS_ioctl,
            socket.number() as usize,
            libc::SIOCSIFFLAGS as usize,
            request.as_mut_ptr() as usize,
        )
    }
    .map(drop)
}
