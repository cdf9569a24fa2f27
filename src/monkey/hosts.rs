//! Looking up names in the old way: `gethostbyname` and its kin.
//!
//! As in `dns`, a helper thread asks, and numbers are never sent there. It gives
//! back a copy of the entry, which is then laid out where the caller wants it:
//!
//! ```text
//!   hostent { h_name, h_aliases, h_addr_list } ─┐        in the caller's buffer, or
//!   ┌──────────────┬──────────────┬─────────────▼─────┐  in one of ours for those
//!   │ alias, null  │ addr…, null  │ addresses, names  │  functions that give one
//!   └──────────────┴──────────────┴───────────────────┘
//! ```
//!
//! libc has one buffer, which the next call overwrites. The greenlets of a thread do
//! not know of each other's calls, so ours are several: an entry stays until the
//! thread has made so many calls more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem;
use std::net::IpAddr;
use std::ptr;

use libc::{hostent, size_t, socklen_t};

use super::dns;
use super::entry::{Part, hub, interposed};
use super::real::Real;
use crate::hub::Hub;
use crate::offload;
use crate::sys::os::{self, Errno};
use crate::sys::pass::PassThrough;

unsafe extern "C" {
    /// Where the calling thread's h_errno is.
    fn __h_errno_location() -> *mut c_int;
}

/// In h_errno: see errno.
const NETDB_INTERNAL: c_int = -1;
/// How many entries a thread keeps.
const KEPT: usize = 16;

type ByName = unsafe extern "C" fn(*const c_char) -> *mut hostent;
type ByName2 = unsafe extern "C" fn(*const c_char, c_int) -> *mut hostent;
type ByAddress = unsafe extern "C" fn(*const c_void, socklen_t, c_int) -> *mut hostent;
type ByNameR = unsafe extern "C" fn(
    *const c_char,
    *mut hostent,
    *mut c_char,
    size_t,
    *mut *mut hostent,
    *mut c_int,
) -> c_int;
type ByName2R = unsafe extern "C" fn(
    *const c_char,
    c_int,
    *mut hostent,
    *mut c_char,
    size_t,
    *mut *mut hostent,
    *mut c_int,
) -> c_int;
type ByAddressR = unsafe extern "C" fn(
    *const c_void,
    socklen_t,
    c_int,
    *mut hostent,
    *mut c_char,
    size_t,
    *mut *mut hostent,
    *mut c_int,
) -> c_int;

// SAFETY: that is its type.
static BY_NAME: Real<ByName> = unsafe { Real::new(c"gethostbyname") };
// SAFETY: that is its type.
static BY_NAME2: Real<ByName2> = unsafe { Real::new(c"gethostbyname2") };
// SAFETY: that is its type.
static BY_ADDRESS: Real<ByAddress> = unsafe { Real::new(c"gethostbyaddr") };
// SAFETY: that is its type.
static BY_NAME_R: Real<ByNameR> = unsafe { Real::new(c"gethostbyname_r") };
// SAFETY: that is its type.
static BY_NAME2_R: Real<ByName2R> = unsafe { Real::new(c"gethostbyname2_r") };
// SAFETY: that is its type.
static BY_ADDRESS_R: Real<ByAddressR> = unsafe { Real::new(c"gethostbyaddr_r") };

interposed! {
    Dns;

    /// Looks a name up, on a helper thread; numbers at once.
    fn gethostbyname(name: *const c_char) -> *mut hostent {
        // SAFETY: the caller's promise.
        match unsafe { ask_for(name, None) } {
            Some(told) => give(told),
            // SAFETY: as above.
            None => BY_NAME.get().map_or_else(missing, |real| unsafe { real(name) }),
        }
    }

    /// Looks a name up, on a helper thread; numbers at once.
    fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent {
        // SAFETY: the caller's promise.
        match unsafe { ask_for(name, Some(family)) } {
            Some(told) => give(told),
            // SAFETY: as above.
            None => BY_NAME2.get().map_or_else(missing, |real| unsafe { real(name, family) }),
        }
    }

    /// Looks up whose an address is, on a helper thread.
    fn gethostbyaddr(address: *const c_void, len: socklen_t, family: c_int) -> *mut hostent {
        // SAFETY: the caller's promise.
        match unsafe { ask_whose(address, len, family) } {
            Some(told) => give(told),
            None => BY_ADDRESS
                .get()
                // SAFETY: as above.
                .map_or_else(missing, |real| unsafe { real(address, len, family) }),
        }
    }

    /// Looks a name up, on a helper thread; numbers at once.
    fn gethostbyname_r(
        name: *const c_char,
        entry: *mut hostent,
        buffer: *mut c_char,
        len: size_t,
        result: *mut *mut hostent,
        h_errno: *mut c_int,
    ) -> c_int {
        let into = Into { entry, buffer, len, result, h_errno };
        // SAFETY: the caller's promise.
        unsafe {
            match (ask_for(name, None), BY_NAME_R.get()) {
                (Some(told), _) => into.put(told),
                (None, Some(real)) => real(name, entry, buffer, len, result, h_errno),
                (None, None) => into.put(Err(libc::ENOSYS)),
            }
        }
    }

    /// Looks a name up, on a helper thread; numbers at once.
    fn gethostbyname2_r(
        name: *const c_char,
        family: c_int,
        entry: *mut hostent,
        buffer: *mut c_char,
        len: size_t,
        result: *mut *mut hostent,
        h_errno: *mut c_int,
    ) -> c_int {
        let into = Into { entry, buffer, len, result, h_errno };
        // SAFETY: the caller's promise.
        unsafe {
            match (ask_for(name, Some(family)), BY_NAME2_R.get()) {
                (Some(told), _) => into.put(told),
                (None, Some(real)) => real(name, family, entry, buffer, len, result, h_errno),
                (None, None) => into.put(Err(libc::ENOSYS)),
            }
        }
    }

    /// Looks up whose an address is, on a helper thread.
    fn gethostbyaddr_r(
        address: *const c_void,
        size: socklen_t,
        family: c_int,
        entry: *mut hostent,
        buffer: *mut c_char,
        len: size_t,
        result: *mut *mut hostent,
        h_errno: *mut c_int,
    ) -> c_int {
        let into = Into { entry, buffer, len, result, h_errno };
        // SAFETY: the caller's promise.
        unsafe {
            match (ask_whose(address, size, family), BY_ADDRESS_R.get()) {
                (Some(told), _) => into.put(told),
                (None, Some(real)) => {
                    real(address, size, family, entry, buffer, len, result, h_errno)
                }
                (None, None) => into.put(Err(libc::ENOSYS)),
            }
        }
    }
}

/// There is no such function in libc.
fn missing() -> *mut hostent {
    give(Err(libc::ENOSYS))
}

/// What is asked on the helper thread.
enum Question {
    Name(CString, Option<c_int>),
    Whose(Vec<u8>, c_int),
}

/// What it has found.
struct Told {
    /// What the call returned: 0, or an error.
    code: c_int,
    error: Errno,
    /// None if it was left as it was.
    h_errno: Option<c_int>,
    host: Option<Host>,
}

/// A copy of a `hostent`.
struct Host {
    name: CString,
    aliases: Vec<CString>,
    family: c_int,
    length: c_int,
    addresses: Vec<Vec<u8>>,
}

/// None if it need not be looked up, or not by a helper thread.
///
/// # Safety
/// As for `gethostbyname`.
unsafe fn ask_for(name: *const c_char, family: Option<c_int>) -> Option<Result<Told, Errno>> {
    let hub = hub(Part::Dns)?;
    // SAFETY: the caller's promise.
    let name = unsafe { dns::copy(name) }?;
    if is_number(name.to_bytes()) {
        return None;
    }
    Some(ask(hub, Question::Name(name, family)))
}

/// As `ask_for`. What is no address, libc has an answer to.
///
/// # Safety
/// As for `gethostbyaddr`.
unsafe fn ask_whose(
    address: *const c_void,
    len: socklen_t,
    family: c_int,
) -> Option<Result<Told, Errno>> {
    let hub = hub(Part::Dns)?;
    let fits = matches!((family, len), (libc::AF_INET, 4) | (libc::AF_INET6, 16));
    if !fits || address.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), len as usize) };
    Some(ask(hub, Question::Whose(bytes.to_vec(), family)))
}

/// What libc takes for a number without asking anybody.
fn is_number(name: &[u8]) -> bool {
    let is_address = || std::str::from_utf8(name).is_ok_and(|name| name.parse::<IpAddr>().is_ok());
    let is_dotted = |name: &[u8]| {
        name.iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'.')
    };
    match name {
        [b'0'..=b'9', .., b'.'] => false,
        [b'0'..=b'9', ..] if is_dotted(name) => true,
        _ => is_address(),
    }
}

fn ask(hub: &Hub, question: Question) -> Result<Told, Errno> {
    if let Some(error) = hub.refusal() {
        return Err(error);
    }
    offload::quietly(hub, move || question.answer())
}

impl Question {
    /// Asks libc, with as much room as it wants.
    fn answer(&self) -> Told {
        const MOST: usize = 1 << 20;
        const UNTOUCHED: c_int = c_int::MIN;
        let mut buffer = vec![0u64; 128];
        loop {
            // SAFETY: all zeros is an entry of which nothing is read.
            let mut entry: hostent = unsafe { mem::zeroed() };
            let mut found = ptr::null_mut();
            let mut h_errno = UNTOUCHED;
            os::set_errno(0);
            // SAFETY: live variables, and a buffer of that length.
            let code = unsafe { self.ask(&mut buffer, &mut entry, &mut found, &mut h_errno) };
            let error = os::errno();
            if code == libc::ERANGE && buffer.len() < MOST {
                let len = buffer.len() * 2;
                buffer.resize(len, 0);
                continue;
            }
            return Told {
                code,
                error,
                h_errno: (h_errno != UNTOUCHED).then_some(h_errno),
                // SAFETY: it has been filled, in our variables.
                host: (!found.is_null()).then(|| unsafe { Host::of(&entry) }),
            };
        }
    }

    /// # Safety
    /// The question is one that may be asked.
    unsafe fn ask(
        &self,
        buffer: &mut [u64],
        entry: &mut hostent,
        found: &mut *mut hostent,
        h_errno: &mut c_int,
    ) -> c_int {
        let (room, len) = (buffer.as_mut_ptr().cast(), mem::size_of_val(buffer));
        // SAFETY: live variables, and as much room as is said.
        let code = unsafe {
            match self {
                Question::Name(name, None) => BY_NAME_R
                    .get()
                    .map(|real| real(name.as_ptr(), entry, room, len, found, h_errno)),
                Question::Name(name, Some(family)) => BY_NAME2_R
                    .get()
                    .map(|real| real(name.as_ptr(), *family, entry, room, len, found, h_errno)),
                Question::Whose(bytes, family) => BY_ADDRESS_R.get().map(|real| {
                    let (address, size) = (bytes.as_ptr().cast(), bytes.len() as socklen_t);
                    real(address, size, *family, entry, room, len, found, h_errno)
                }),
            }
        };
        code.unwrap_or(libc::ENOSYS)
    }
}

/// The pointers of an array that ends with null.
///
/// # Safety
/// It is null, or such an array.
unsafe fn pointers(array: *mut *mut c_char) -> impl Iterator<Item = *mut c_char> {
    let mut at = array;
    std::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: the caller's promise; nothing after the null is read.
        let pointer = unsafe { *at };
        // SAFETY: as above.
        at = unsafe { at.add(1) };
        if pointer.is_null() {
            at = ptr::null_mut();
            return None;
        }
        Some(pointer)
    })
}

impl Host {
    /// # Safety
    /// The entry is one that libc has filled.
    unsafe fn of(entry: &hostent) -> Host {
        // SAFETY: the caller's promise.
        let text = |text: *mut c_char| unsafe { CStr::from_ptr(text) }.to_owned();
        let length = entry.h_length.max(0) as usize;
        // SAFETY: as above.
        let bytes = |address: *mut c_char| unsafe {
            std::slice::from_raw_parts(address.cast::<u8>(), length).to_vec()
        };
        // SAFETY: as above.
        unsafe {
            Host {
                name: text(entry.h_name),
                aliases: pointers(entry.h_aliases).map(text).collect(),
                family: entry.h_addrtype,
                length: entry.h_length,
                addresses: pointers(entry.h_addr_list).map(bytes).collect(),
            }
        }
    }

    /// How much room it takes, wherever that begins.
    fn size(&self) -> usize {
        let pointer = mem::size_of::<*mut c_char>();
        let pointers = (self.aliases.len() + self.addresses.len() + 2) * pointer;
        let addresses: usize = self.addresses.iter().map(Vec::len).sum();
        let names: usize = self.names().map(|name| name.len()).sum();
        pointer - 1 + pointers + addresses + names
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.name)
            .chain(&self.aliases)
            .map(|name| name.as_bytes_with_nul())
    }

    /// Lays it out. False if there is not enough room.
    ///
    /// # Safety
    /// There is as much room as is said, and some for the entry.
    unsafe fn lay_out(&self, entry: *mut hostent, buffer: *mut c_char, len: usize) -> bool {
        if len < self.size() {
            return false;
        }
        let pointer = mem::align_of::<*mut c_char>();
        let start = buffer.wrapping_add(buffer.align_offset(pointer));
        let aliases: *mut *mut c_char = start.cast();
        let list = aliases.wrapping_add(self.aliases.len() + 1);
        let mut at: *mut c_char = list.wrapping_add(self.addresses.len() + 1).cast();
        let mut place = |bytes: &[u8]| {
            let placed = at;
            // SAFETY: there is room for all of it, see `size`.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().cast(), placed, bytes.len()) };
            at = at.wrapping_add(bytes.len());
            placed
        };
        // SAFETY: as above; the arrays have room for one pointer more each.
        unsafe {
            for (number, address) in self.addresses.iter().enumerate() {
                list.add(number).write(place(address));
            }
            list.add(self.addresses.len()).write(ptr::null_mut());
            let name = place(self.name.as_bytes_with_nul());
            for (number, alias) in self.aliases.iter().enumerate() {
                aliases.add(number).write(place(alias.as_bytes_with_nul()));
            }
            aliases.add(self.aliases.len()).write(ptr::null_mut());
            entry.write(hostent {
                h_name: name,
                h_aliases: aliases,
                h_addrtype: self.family,
                h_length: self.length,
                h_addr_list: list,
            });
        }
        true
    }
}

/// Where a caller wants it.
struct Into {
    entry: *mut hostent,
    buffer: *mut c_char,
    len: usize,
    result: *mut *mut hostent,
    h_errno: *mut c_int,
}

impl Into {
    /// # Safety
    /// The pointers are what the functions ask for.
    unsafe fn put(self, told: Result<Told, Errno>) -> c_int {
        let (code, h_errno, found) = match told {
            Ok(Told {
                code,
                h_errno,
                host: None,
                ..
            }) => (code, h_errno, ptr::null_mut()),
            Ok(Told {
                code,
                h_errno,
                host: Some(host),
                ..
            }) => {
                // SAFETY: the caller's promise.
                match unsafe { host.lay_out(self.entry, self.buffer, self.len) } {
                    true => (code, h_errno, self.entry),
                    false => (libc::ERANGE, Some(NETDB_INTERNAL), ptr::null_mut()),
                }
            }
            Err(error) => (error, Some(NETDB_INTERNAL), ptr::null_mut()),
        };
        // SAFETY: as above.
        unsafe {
            self.result.write(found);
            if let Some(h_errno) = h_errno {
                self.h_errno.write(h_errno);
            }
        }
        if code != 0 {
            os::set_errno(code);
        }
        code
    }
}

thread_local! {
    /// Entries in memory of ours, each before what it points to, the oldest first. Most
    /// threads have none, and those that are greenlets pay for each byte here.
    static KEPT_ENTRIES: RefCell<VecDeque<Vec<u64>>> =
        const { RefCell::new(VecDeque::new()) };
}

/// The answer of a function that gives a pointer to memory of libc's.
fn give(told: Result<Told, Errno>) -> *mut hostent {
    let (error, h_errno) = match told {
        Ok(Told {
            host: Some(host), ..
        }) => return keep(&host),
        Ok(Told { error, h_errno, .. }) => (error, h_errno),
        Err(error) => (error, Some(NETDB_INTERNAL)),
    };
    if error != 0 {
        os::set_errno(error);
    }
    if let Some(h_errno) = h_errno {
        // SAFETY: the calling thread's own.
        unsafe { __h_errno_location().write(h_errno) };
    }
    ptr::null_mut()
}

fn keep(host: &Host) -> *mut hostent {
    let words = |bytes: usize| bytes.div_ceil(mem::size_of::<u64>());
    let ahead = words(mem::size_of::<hostent>());
    let mut kept = vec![0u64; ahead + words(host.size())];
    let (entry, buffer) = kept.split_at_mut(ahead);
    let (found, len) = (entry.as_mut_ptr().cast(), mem::size_of_val(buffer));
    // SAFETY: as much room as is said, and words enough for an entry.
    unsafe { host.lay_out(found, buffer.as_mut_ptr().cast(), len) };
    // Nobody else runs while they are borrowed, though memory is asked for.
    let _pass = PassThrough::enter();
    let oldest = KEPT_ENTRIES.try_with(|entries| {
        let mut entries = entries.borrow_mut();
        let oldest = (entries.len() == KEPT).then(|| entries.pop_front());
        entries.push_back(mem::take(&mut kept));
        oldest
    });
    if oldest.is_err() {
        // The thread's own are gone already: this one stays for ever.
        mem::forget(kept);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_wherever_there_is_enough_room() {
        let host = Host {
            name: c"a.example".to_owned(),
            aliases: vec![c"b".to_owned(), c"".to_owned()],
            family: libc::AF_INET,
            length: 4,
            addresses: vec![vec![1, 2, 3, 4], vec![5, 6, 7, 8]],
        };
        let mut room = vec![0xffu8; host.size() + 8];
        for start in 0..8 {
            // SAFETY: all zeros is an entry, and is overwritten.
            let mut entry = unsafe { mem::zeroed() };
            let place: *mut c_char = room[start..].as_mut_ptr().cast();
            // SAFETY: the buffer is as long as is said.
            unsafe {
                assert!(!host.lay_out(&mut entry, place, host.size() - 1));
                assert!(host.lay_out(&mut entry, place, host.size()));
                let copy = Host::of(&entry);
                assert_eq!((&copy.name, &copy.aliases), (&host.name, &host.aliases));
                assert_eq!(copy.addresses, host.addresses);
                assert_eq!((copy.family, copy.length), (libc::AF_INET, 4));
            }
        }
    }

    #[test]
    fn numbers_are_told_from_names() {
        for number in ["1", "127.0.0.1", "127.1", "::1", "fe80::1", "1.2.3.4.5"] {
            assert!(is_number(number.as_bytes()), "{number}");
        }
        for name in ["", "localhost", "1.example", "127.0.0.1.", "a:b", "3com"] {
            assert!(!is_number(name.as_bytes()), "{name}");
        }
    }
}
