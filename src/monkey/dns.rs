//! Looking up names: `getaddrinfo` and `getnameinfo`.
//!
//! libc can do that only by blocking its thread, so that is left to a helper thread.
//! What is a number already is never sent there:
//!
//! ```text
//!   getaddrinfo ─▶ libc's, AI_NUMERICHOST ── it is a name ─▶ a helper thread: libc's
//!                     │                                          │
//!                     ▼                                          ▼
//!                  answer                            the list is handed over
//! ```
//!
//! A helper has copies of all that it needs, and what it finds is its own, until
//! somebody takes it: a greenlet that is refused leaves it to itself, and answers
//! EAI_SYSTEM with ECANCELED or ETIMEDOUT. What a thread has told its resolver by
//! `_res` is not known to the helper.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem;
use std::ptr;

use libc::{addrinfo, sockaddr, socklen_t};

use super::entry::{Part, hub, interposed};
use super::real::Real;
use crate::hub::Hub;
use crate::offload;
use crate::sys::os::{self, Errno};

type ByName = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const addrinfo,
    *mut *mut addrinfo,
) -> c_int;
type ByAddress = unsafe extern "C" fn(
    *const sockaddr,
    socklen_t,
    *mut c_char,
    socklen_t,
    *mut c_char,
    socklen_t,
    c_int,
) -> c_int;

// SAFETY: that is its type.
static GETADDRINFO: Real<ByName> = unsafe { Real::new(c"getaddrinfo") };
// SAFETY: that is its type.
static GETNAMEINFO: Real<ByAddress> = unsafe { Real::new(c"getnameinfo") };

interposed! {
    Dns;

    /// Looks a name up, on a helper thread; numbers at once.
    fn getaddrinfo(
        node: *const c_char,
        service: *const c_char,
        hints: *const addrinfo,
        found: *mut *mut addrinfo,
    ) -> c_int {
        match (GETADDRINFO.get(), hub(Part::Dns)) {
            // SAFETY: the caller's promise.
            (Some(real), None) => unsafe { real(node, service, hints, found) },
            // SAFETY: as above.
            (Some(real), Some(hub)) => unsafe { by_name(hub, real, node, service, hints, found) },
            (None, _) => system_error(libc::ENOSYS),
        }
    }

    /// Looks up whose an address is, on a helper thread; numbers at once.
    fn getnameinfo(
        address: *const sockaddr,
        len: socklen_t,
        host: *mut c_char,
        host_len: socklen_t,
        service: *mut c_char,
        service_len: socklen_t,
        flags: c_int,
    ) -> c_int {
        let Some(real) = GETNAMEINFO.get() else {
            return system_error(libc::ENOSYS);
        };
        let wants_host = !host.is_null() && host_len > 0;
        let wants_service = !service.is_null() && service_len > 0;
        let is_number = (!wants_host || flags & libc::NI_NUMERICHOST != 0)
            && (!wants_service || flags & libc::NI_NUMERICSERV != 0);
        let answer = match hub(Part::Dns) {
            Some(hub) if !is_number => {
                let host = Room { place: host, len: host_len };
                let service = Room { place: service, len: service_len };
                // SAFETY: the caller's promise.
                unsafe { by_address(hub, real, address, len, host, service, flags) }
            }
            _ => None,
        };
        // SAFETY: as above.
        answer.unwrap_or_else(|| unsafe {
            real(address, len, host, host_len, service, service_len, flags)
        })
    }
}

fn system_error(error: Errno) -> c_int {
    os::set_errno(error);
    libc::EAI_SYSTEM
}

/// A copy of the caller's string.
///
/// # Safety
/// It is null, or a string with its end.
pub(super) unsafe fn copy(text: *const c_char) -> Option<CString> {
    // SAFETY: the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_owned())
}

/// What the helper asks for; its pointers are null.
struct Hints(addrinfo);

// SAFETY: numbers, and null pointers.
unsafe impl Send for Hints {}

/// What `getaddrinfo` has found, until it is handed over.
struct Found(*mut addrinfo);

// SAFETY: memory of libc's, which any thread may free.
unsafe impl Send for Found {}

impl Found {
    fn hand_over(self) -> *mut addrinfo {
        let list = self.0;
        mem::forget(self);
        list
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: nobody else knows it.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}

/// # Safety
/// As for `getaddrinfo`.
unsafe fn by_name(
    hub: &Hub,
    real: ByName,
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    found: *mut *mut addrinfo,
) -> c_int {
    if let Some(error) = hub.refusal() {
        return system_error(error);
    }
    // SAFETY: the caller's promise.
    let (name, port) = unsafe { (copy(node), copy(service)) };
    // SAFETY: null, or the caller's promise.
    let hints = unsafe { hints.as_ref() };
    let has_number = port.as_ref().is_none_or(|port| is_number(port.as_bytes()));
    let wants_number = hints.is_some_and(|hints| hints.ai_flags & libc::AI_NUMERICHOST != 0);
    if has_number || wants_number || name.is_none() {
        // SAFETY: all zeros is one that asks for nothing in particular.
        let mut quick: addrinfo = unsafe { mem::zeroed() };
        // What libc takes where nothing is given.
        quick.ai_flags = libc::AI_V4MAPPED | libc::AI_ADDRCONFIG;
        if let Some(hints) = hints {
            quick = *hints;
        }
        if name.is_some() {
            quick.ai_flags |= libc::AI_NUMERICHOST;
        }
        let hints: *const addrinfo = match wants_number || name.is_none() {
            true => hints.map_or(ptr::null(), ptr::from_ref),
            false => &quick,
        };
        // SAFETY: the caller's promise; it looks nothing up.
        let code = unsafe { real(node, service, hints, found) };
        if code != libc::EAI_NONAME || wants_number || name.is_none() {
            return code;
        }
    }
    let hints = hints.map(|hints| {
        Hints(addrinfo {
            ai_addrlen: 0,
            ai_addr: ptr::null_mut(),
            ai_canonname: ptr::null_mut(),
            ai_next: ptr::null_mut(),
            ..*hints
        })
    });
    let answer = offload::quietly(hub, move || {
        let mut list = ptr::null_mut();
        let text = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        let hints = hints
            .as_ref()
            .map_or(ptr::null(), |hints| &raw const hints.0);
        // SAFETY: live copies of what the caller has given.
        let code = unsafe { real(text(&name), text(&port), hints, &mut list) };
        let error = os::errno();
        (code, error, Found(list))
    });
    match answer {
        Ok((0, _, list)) => {
            // SAFETY: the caller's promise.
            unsafe { found.write(list.hand_over()) };
            0
        }
        Ok((libc::EAI_SYSTEM, error, _)) | Err(error) => system_error(error),
        Ok((code, ..)) => code,
    }
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Where the caller has room for a string.
#[derive(Clone, Copy)]
struct Room {
    place: *mut c_char,
    len: socklen_t,
}

/// No name is longer, nor is there one of a service.
const LONGEST: socklen_t = 4096;

impl Room {
    /// As much room, elsewhere.
    fn own(self) -> Vec<u8> {
        match self.place.is_null() {
            true => Vec::new(),
            false => vec![0; self.len.min(LONGEST) as usize],
        }
    }

    /// # Safety
    /// There is as much room as was said.
    unsafe fn fill(self, text: &[u8]) {
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            // SAFETY: it was written into no more room than there is.
            unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), self.place, end + 1) };
        }
    }
}

/// None if it does not have to be looked up: libc says what is wrong with it.
///
/// # Safety
/// As for `getnameinfo`.
unsafe fn by_address(
    hub: &Hub,
    real: ByAddress,
    address: *const sockaddr,
    len: socklen_t,
    host: Room,
    service: Room,
    flags: c_int,
) -> Option<c_int> {
    if (len as usize) < mem::size_of::<libc::sa_family_t>() || address.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let family = c_int::from(unsafe { (*address).sa_family });
    let needed = match family {
        libc::AF_INET => mem::size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => mem::size_of::<libc::sockaddr_in6>(),
        _ => return None,
    };
    if (len as usize) < needed {
        return None;
    }
    if let Some(error) = hub.refusal() {
        return Some(system_error(error));
    }
    // SAFETY: all zeros is an address.
    let mut copy: libc::sockaddr_storage = unsafe { mem::zeroed() };
    // SAFETY: there is as much, by the caller's promise, and room for it.
    unsafe { ptr::copy_nonoverlapping(address.cast::<u8>(), (&raw mut copy).cast(), needed) };
    let (mut name, mut port) = (host.own(), service.own());
    let answer = offload::quietly(hub, move || {
        let place = |text: &mut Vec<u8>| match text.is_empty() {
            true => (ptr::null_mut(), 0),
            false => (text.as_mut_ptr().cast(), text.len() as socklen_t),
        };
        let ((name_at, name_len), (port_at, port_len)) = (place(&mut name), place(&mut port));
        let address = (&raw const copy).cast();
        let needed = needed as socklen_t;
        // SAFETY: live copies, and as much room as is said.
        let code = unsafe { real(address, needed, name_at, name_len, port_at, port_len, flags) };
        (code, os::errno(), name, port)
    });
    Some(match answer {
        Ok((0, _, name, port)) => {
            // SAFETY: the caller's promise.
            unsafe {
                host.fill(&name);
                service.fill(&port);
            }
            0
        }
        Ok((libc::EAI_SYSTEM, error, ..)) | Err(error) => system_error(error),
        Ok((code, ..)) => code,
    })
}
