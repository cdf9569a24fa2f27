//! Looking up names under `patch_all`: the answers are libc's, and only the greenlet
//! waits (G187).
#![cfg(feature = "monkey")]

mod common;
#[path = "common/interposed.rs"]
mod interposed;
#[path = "common/patched.rs"]
mod patched;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;
use std::sync::{Arc, Mutex};

use common::{MS, in_subprocess_with};
use greenlet::spawn;
use interposed::helpers;
use libc::{addrinfo, hostent, sockaddr, socklen_t};
use patched::{Ticker, errno, patched, set_errno};

type GetAddrInfo = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const addrinfo,
    *mut *mut addrinfo,
) -> c_int;
type GetNameInfo = unsafe extern "C" fn(
    *const sockaddr,
    socklen_t,
    *mut c_char,
    socklen_t,
    *mut c_char,
    socklen_t,
    c_int,
) -> c_int;
type ByName = unsafe extern "C" fn(*const c_char) -> *mut hostent;
type ByName2 = unsafe extern "C" fn(*const c_char, c_int) -> *mut hostent;
type ByAddress = unsafe extern "C" fn(*const c_void, socklen_t, c_int) -> *mut hostent;
type ByNameR = unsafe extern "C" fn(
    *const c_char,
    *mut hostent,
    *mut c_char,
    usize,
    *mut *mut hostent,
    *mut c_int,
) -> c_int;
type ByName2R = unsafe extern "C" fn(
    *const c_char,
    c_int,
    *mut hostent,
    *mut c_char,
    usize,
    *mut *mut hostent,
    *mut c_int,
) -> c_int;
type ByAddressR = unsafe extern "C" fn(
    *const c_void,
    socklen_t,
    c_int,
    *mut hostent,
    *mut c_char,
    usize,
    *mut *mut hostent,
    *mut c_int,
) -> c_int;

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}

/// The function that the program has under this name, and libc's own.
fn both<F: Copy>(name: &CStr) -> [F; 2] {
    // SAFETY: strings with their ends; the caller knows the type.
    unsafe {
        let libc = libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        let ours = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        let real = libc::dlsym(libc, name.as_ptr());
        assert!(
            !ours.is_null() && !real.is_null() && ours != real,
            "{name:?}"
        );
        [mem::transmute_copy(&ours), mem::transmute_copy(&real)]
    }
}

/// Runs the test alone, where a look-up does not take long.
fn with_a_short_resolver(name: &str, body: impl FnOnce()) {
    let quick = [("RES_OPTIONS", "timeout:1 attempts:1")];
    if let Some(finished) = in_subprocess_with(name, &quick, body) {
        finished.succeeded();
    }
}

type Entry = (c_int, c_int, c_int, Vec<u8>, Option<CString>);

/// What a call of `getaddrinfo` answers, and errno with it.
fn addresses(
    call: GetAddrInfo,
    node: Option<&CStr>,
    service: Option<&CStr>,
    hints: Option<&addrinfo>,
) -> Result<Vec<Entry>, (c_int, c_int)> {
    let text = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    let hints = hints.map_or(ptr::null(), ptr::from_ref);
    let mut list = ptr::null_mut();
    set_errno(0);
    // SAFETY: strings with their ends, and live variables.
    unsafe {
        let code = call(text(node), text(service), hints, &mut list);
        if code != 0 {
            // Whom the network tells that there is no such name, and whom it tells
            // nothing, it may tell the next time.
            let code = match code {
                libc::EAI_AGAIN | libc::EAI_FAIL => libc::EAI_NONAME,
                code => code,
            };
            return Err((code, if code == libc::EAI_SYSTEM { errno() } else { 0 }));
        }
        let mut entries = Vec::new();
        let mut at = list.cast_const();
        while let Some(entry) = at.as_ref() {
            let len = entry.ai_addrlen as usize;
            let address = std::slice::from_raw_parts(entry.ai_addr.cast::<u8>(), len);
            let name = (!entry.ai_canonname.is_null())
                .then(|| CStr::from_ptr(entry.ai_canonname).to_owned());
            let (family, kind, protocol) = (entry.ai_family, entry.ai_socktype, entry.ai_protocol);
            entries.push((family, kind, protocol, address.to_vec(), name));
            at = entry.ai_next;
        }
        libc::freeaddrinfo(list);
        Ok(entries)
    }
}

fn hints(flags: c_int, family: c_int, kind: c_int, protocol: c_int) -> addrinfo {
    // SAFETY: all zeros asks for nothing in particular.
    let mut hints: addrinfo = unsafe { mem::zeroed() };
    hints.ai_flags = flags;
    hints.ai_family = family;
    hints.ai_socktype = kind;
    hints.ai_protocol = protocol;
    hints
}

#[test]
fn getaddrinfo_answers_what_libc_answers() {
    with_a_short_resolver("getaddrinfo_answers_what_libc_answers", || {
        let _watchdog = patched();
        let _ticker = Ticker::new();
        let [ours, real]: [GetAddrInfo; 2] = both(c"getaddrinfo");
        let nodes = [
            None,
            Some(c"127.0.0.1"),
            Some(c"127.1"),
            Some(c"::1"),
            Some(c"fe80::1%lo"),
            Some(c"localhost"),
            Some(c"nonexistent.invalid"),
            Some(c""),
            Some(c"b\xc3\xbccher.invalid"),
            Some(c"\xff\xfe.invalid"),
            Some(c"1.2.3.4.5"),
        ];
        let services = [
            None,
            Some(c"80"),
            Some(c"http"),
            Some(c"no such service"),
            Some(c"99999"),
        ];
        let numeric = libc::AI_NUMERICHOST | libc::AI_CANONNAME;
        let asked = [
            None,
            Some(hints(0, libc::AF_INET, libc::SOCK_STREAM, 0)),
            Some(hints(0, libc::AF_INET6, libc::SOCK_STREAM, 0)),
            Some(hints(numeric, libc::AF_UNSPEC, 0, 0)),
            Some(hints(
                libc::AI_PASSIVE | libc::AI_NUMERICSERV,
                0,
                libc::SOCK_DGRAM,
                0,
            )),
            Some(hints(
                libc::AI_CANONNAME | libc::AI_ADDRCONFIG,
                0,
                0,
                libc::IPPROTO_TCP,
            )),
            Some(hints(0, 77, 0, 0)),
            Some(hints(0, 0, 77, 0)),
            Some(hints(0, 0, libc::SOCK_STREAM, libc::IPPROTO_UDP)),
            Some(hints(0x4000_0000, 0, 0, 0)),
        ];
        for node in nodes {
            for service in services {
                for (number, hints) in asked.iter().enumerate() {
                    // One that may take a second, where nobody answers.
                    let is_asked_for =
                        node.is_some_and(|node| node.to_bytes().ends_with(b"invalid"));
                    if is_asked_for && (number > 1 || service != Some(c"80")) {
                        continue;
                    }
                    let ours = addresses(ours, node, service, hints.as_ref());
                    let real = addresses(real, node, service, hints.as_ref());
                    let asked = hints
                        .as_ref()
                        .map(|h| (h.ai_flags, h.ai_family, h.ai_socktype));
                    assert_eq!(ours, real, "{node:?} {service:?} {asked:?}");
                }
            }
        }
    });
}

#[test]
fn only_what_has_to_be_looked_up_is() {
    with_a_short_resolver("only_what_has_to_be_looked_up_is", || {
        let _watchdog = patched();
        let _ticker = Ticker::new();
        let [ours, _]: [GetAddrInfo; 2] = both(c"getaddrinfo");
        let [by_name, _]: [ByName; 2] = both(c"gethostbyname");
        let tcp = hints(0, libc::AF_UNSPEC, libc::SOCK_STREAM, 0);
        let ask = |node, service| addresses(ours, node, service, Some(&tcp));
        for (node, service) in [
            (Some(c"127.0.0.1"), Some(c"80")),
            (Some(c"::1"), None),
            (Some(c"10.1"), Some(c"80")),
            (None, Some(c"80")),
        ] {
            assert!(ask(node, service).is_ok());
        }
        let found = "127.0.0.1:80".to_socket_addrs().unwrap();
        assert_eq!(
            found.collect::<Vec<_>>(),
            [SocketAddr::from(([127, 0, 0, 1], 80))]
        );
        // SAFETY: a string with its end.
        assert!(host(unsafe { by_name(c"127.0.0.1".as_ptr()) }).is_ok());
        assert_eq!(helpers(), 0);
        assert!(ask(Some(c"127.0.0.1"), Some(c"http")).is_ok());
        assert!(helpers() > 0);
        let mut found = "localhost:80".to_socket_addrs().unwrap();
        assert!(found.all(|address| address.ip().is_loopback()));
        assert!("nonexistent.invalid:80".to_socket_addrs().is_err());
    });
}

#[test]
fn getnameinfo_answers_what_libc_answers() {
    with_a_short_resolver("getnameinfo_answers_what_libc_answers", || {
        let _watchdog = patched();
        let _ticker = Ticker::new();
        let [ours, real]: [GetNameInfo; 2] = both(c"getnameinfo");
        let socket_address = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            // SAFETY: all zeros is an address, and what is written is one.
            unsafe {
                let mut storage: libc::sockaddr_storage = mem::zeroed();
                let len = match address {
                    SocketAddr::V4(v4) => {
                        let four = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                        four.sin_family = libc::AF_INET as u16;
                        four.sin_port = v4.port().to_be();
                        four.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                        size_of::<libc::sockaddr_in>()
                    }
                    SocketAddr::V6(v6) => {
                        let six = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                        six.sin6_family = libc::AF_INET6 as u16;
                        six.sin6_port = v6.port().to_be();
                        six.sin6_addr.s6_addr = v6.ip().octets();
                        size_of::<libc::sockaddr_in6>()
                    }
                };
                (storage, len as socklen_t)
            }
        };
        let mut unknown = socket_address("127.0.0.1:80");
        unknown.0.ss_family = 77;
        let mut short = socket_address("127.0.0.1:80");
        short.1 = 7;
        let all = [
            socket_address("127.0.0.1:80"),
            socket_address("192.0.2.1:1"),
            socket_address("[::1]:22"),
            unknown,
            short,
        ];
        let flags = [
            libc::NI_NUMERICHOST | libc::NI_NUMERICSERV,
            0,
            libc::NI_NUMERICHOST,
            libc::NI_NUMERICSERV,
            libc::NI_NAMEREQD,
            libc::NI_DGRAM,
        ];
        for (number, (address, len)) in all.iter().enumerate() {
            for flags in flags {
                // Whose the others are is for the network to say, and that varies.
                if (number == 1 || number == 2) && flags & libc::NI_NUMERICHOST == 0 {
                    continue;
                }
                for (host_len, service_len) in
                    [(1025, 32), (3, 32), (1025, 1), (0, 32), (1025, 0), (0, 0)]
                {
                    let ask = |call: GetNameInfo| {
                        let (mut host, mut service) = ([1u8; 1025], [1u8; 32]);
                        let (host_at, service_at) = (host.as_mut_ptr(), service.as_mut_ptr());
                        let place = (&raw const *address).cast();
                        // SAFETY: live variables of those lengths.
                        let code = unsafe {
                            let (host, service) = (host_at.cast(), service_at.cast());
                            call(place, *len, host, host_len, service, service_len, flags)
                        };
                        let text = |text: &[u8]| match code {
                            0 => CStr::from_bytes_until_nul(text).ok().map(CStr::to_owned),
                            _ => None,
                        };
                        (code, text(&host), text(&service))
                    };
                    // Numbers first, for which no helper is started.
                    assert_eq!(
                        ask(ours),
                        ask(real),
                        "{number} {flags} {host_len} {service_len}"
                    );
                    let numbers = libc::NI_NUMERICHOST | libc::NI_NUMERICSERV;
                    let is_number = flags & numbers == numbers || number > 2;
                    let is_first = number == 0 && flags == numbers;
                    assert!(!(is_number && is_first) || helpers() == 0);
                }
            }
        }
    });
}

type Host = (CString, Vec<CString>, c_int, c_int, Vec<Vec<u8>>);

/// h_errno, where it does not matter what the network has said.
fn kind(h_errno: c_int) -> c_int {
    match h_errno {
        1..=4 => 1,
        other => other,
    }
}

/// A copy of an entry, or h_errno.
fn host(entry: *const hostent) -> Result<Host, c_int> {
    // SAFETY: null, or what one of the functions gave.
    unsafe {
        let Some(entry) = entry.as_ref() else {
            return Err(kind(*__h_errno_location()));
        };
        let all = |mut list: *mut *mut c_char| {
            let mut found = Vec::new();
            while !(*list).is_null() {
                found.push(*list);
                list = list.add(1);
            }
            found
        };
        let text = |text: *mut c_char| CStr::from_ptr(text).to_owned();
        let aliases = all(entry.h_aliases).into_iter().map(text).collect();
        let len = entry.h_length as usize;
        let bytes = |at: *mut c_char| std::slice::from_raw_parts(at.cast::<u8>(), len).to_vec();
        let addresses = all(entry.h_addr_list).into_iter().map(bytes).collect();
        Ok((
            text(entry.h_name),
            aliases,
            entry.h_addrtype,
            entry.h_length,
            addresses,
        ))
    }
}

const NAMES: [&CStr; 8] = [
    c"localhost",
    c"127.0.0.1",
    c"127.1",
    c"::1",
    c"1.2.3.4.5",
    c"nonexistent.invalid",
    c"",
    c"\xc3\xbc.invalid",
];

#[test]
fn gethostbyname_and_its_kin_answer_what_libc_answers() {
    with_a_short_resolver("gethostbyname_and_its_kin_answer_what_libc_answers", || {
        let _watchdog = patched();
        let _ticker = Ticker::new();
        let by_name: [ByName; 2] = both(c"gethostbyname");
        let by_name2: [ByName2; 2] = both(c"gethostbyname2");
        let by_address: [ByAddress; 2] = both(c"gethostbyaddr");
        for name in NAMES {
            // SAFETY: strings with their ends.
            let [ours, real] = by_name.map(|call| host(unsafe { call(name.as_ptr()) }));
            assert_eq!(ours, real, "{name:?}");
            for family in [libc::AF_INET, libc::AF_INET6, 77] {
                // SAFETY: as above.
                let [ours, real] =
                    by_name2.map(|call| host(unsafe { call(name.as_ptr(), family) }));
                assert_eq!(ours, real, "{name:?} {family}");
            }
        }
        let six = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        for (address, family) in [
            (&[127, 0, 0, 1][..], libc::AF_INET),
            (&[192, 0, 2, 1][..], libc::AF_INET),
            (&six[..], libc::AF_INET6),
            (&[0; 16][..], libc::AF_INET6),
            (&[127, 0, 0][..], libc::AF_INET),
            (&six[..], libc::AF_INET),
            (&six[..], 77),
        ] {
            let len = address.len() as socklen_t;
            // SAFETY: a live slice.
            let ask = |call: ByAddress| host(unsafe { call(address.as_ptr().cast(), len, family) });
            let [ours, real] = by_address.map(ask);
            assert_eq!(ours, real, "{address:?} {family}");
        }
    });
}

#[test]
fn the_reentrant_ones_answer_what_libc_answers() {
    with_a_short_resolver("the_reentrant_ones_answer_what_libc_answers", || {
        let _watchdog = patched();
        let _ticker = Ticker::new();
        let by_name: [ByNameR; 2] = both(c"gethostbyname_r");
        let by_name2: [ByName2R; 2] = both(c"gethostbyname2_r");
        let by_address: [ByAddressR; 2] = both(c"gethostbyaddr_r");
        type Call<'a> =
            &'a dyn Fn(*mut hostent, *mut c_char, usize, *mut *mut hostent, *mut c_int) -> c_int;
        let answer = |call: Call, len: usize| {
            let mut entry = MaybeUninit::<hostent>::zeroed();
            let mut buffer = [0u64; 1024];
            let mut found = ptr::null_mut();
            let mut h_errno = 77;
            let room = buffer.as_mut_ptr().cast();
            let code = call(entry.as_mut_ptr(), room, len, &mut found, &mut h_errno);
            assert!(found.is_null() || found == entry.as_mut_ptr());
            let found = (!found.is_null()).then(|| host(found).unwrap());
            match code {
                // libc says so before it has looked for what there is to find.
                libc::ERANGE => (code, None, h_errno),
                // What the network has said varies.
                _ if found.is_none() => (0, None, kind(h_errno)),
                code => (code, found, kind(h_errno)),
            }
        };
        for len in [8192, 0, 10] {
            // Of others libc says first that there is not enough room, and then nothing.
            let is_small = len <= 10;
            for name in if is_small { &NAMES[..1] } else { &NAMES[..] } {
                let name_at = name.as_ptr();
                let [ours, real] = by_name.map(|by_name| {
                    let call: Call = &|entry, room, len, found, h_errno| {
                        // SAFETY: a string with its end, and live variables.
                        unsafe { by_name(name_at, entry, room, len, found, h_errno) }
                    };
                    answer(call, len)
                });
                assert_eq!(ours, real, "{name:?} {len}");
                let six = (!is_small).then_some(libc::AF_INET6);
                for family in [Some(libc::AF_INET), six].into_iter().flatten() {
                    let [ours, real] = by_name2.map(|by_name2| {
                        let call: Call = &|entry, room, len, found, h_errno| {
                            // SAFETY: as above.
                            unsafe { by_name2(name_at, family, entry, room, len, found, h_errno) }
                        };
                        answer(call, len)
                    });
                    assert_eq!(ours, real, "{name:?} {family} {len}");
                }
            }
            let unknown = (!is_small).then_some([192, 0, 2, 1]);
            for address in [Some([127u8, 0, 0, 1]), unknown].into_iter().flatten() {
                let place = address.as_ptr().cast();
                let [ours, real] = by_address.map(|by_address| {
                    let call: Call = &|entry, room, len, found, h_errno| {
                        let family = libc::AF_INET;
                        // SAFETY: four bytes, and live variables.
                        unsafe { by_address(place, 4, family, entry, room, len, found, h_errno) }
                    };
                    answer(call, len)
                });
                assert_eq!(ours, real, "{address:?} {len}");
            }
        }
    });
}

#[test]
fn entries_of_a_threads_greenlets_do_not_overwrite_each_other() {
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let [ours, _]: [ByName; 2] = both(c"gethostbyname");
    // SAFETY: a string with its end.
    let ask = move || unsafe { ours(c"localhost".as_ptr()) };
    let mine = ask();
    let before = host(mine).unwrap();
    for other in (0..10)
        .map(|_| spawn(move || ask() as usize))
        .collect::<Vec<_>>()
    {
        assert_ne!(other.join().unwrap(), mine as usize);
    }
    assert_eq!(host(mine).unwrap(), before);
    // They do not grow without end.
    let places: std::collections::HashSet<usize> = (0..100).map(|_| ask() as usize).collect();
    assert!(places.len() < 100, "{}", places.len());
}

/// A look-up that takes until somebody lets it go on: libc reads the aliases of
/// hosts from a file, which here is a named pipe.
struct Slow {
    goes_on: Arc<Mutex<bool>>,
}

const PIPE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/aliases");

fn with_slow_names(name: &str, body: impl FnOnce(Slow)) {
    // The test's own process has named it, with its number.
    let pipe = std::env::var("HOSTALIASES")
        .unwrap_or_else(|_| format!("{PIPE}-{name}-{}", std::process::id()));
    let env = [
        ("HOSTALIASES", &*pipe),
        ("RES_OPTIONS", "timeout:1 attempts:1"),
    ];
    let path = CString::new(std::ffi::OsStr::new(&pipe).as_bytes()).unwrap();
    let finished = in_subprocess_with(name, &env, || {
        // SAFETY: a string with its end.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let goes_on = Arc::new(Mutex::new(false));
        let flag = Arc::clone(&goes_on);
        let pipe = pipe.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(MS);
                // Whoever says "no longer" waits until this is through.
                let goes_on = flag.lock().unwrap();
                if *goes_on {
                    // Who opens it to read goes on, and finds nothing in it.
                    let mut options = std::fs::OpenOptions::new();
                    let _ = options
                        .write(true)
                        .custom_flags(libc::O_NONBLOCK)
                        .open(&pipe);
                }
            }
        });
        body(Slow { goes_on });
    });
    let _ = std::fs::remove_file(&pipe);
    if let Some(finished) = finished {
        finished.succeeded();
    }
}

impl Slow {
    /// Runs a look-up, which ends only when the ticker has had some turns.
    #[track_caller]
    fn meanwhile<R>(&self, ticker: &Ticker, f: impl FnOnce() -> R) -> R {
        *self.goes_on.lock().unwrap() = false;
        let flag = Arc::clone(&self.goes_on);
        let opener = ticker.after(move || *flag.lock().unwrap() = true);
        let result = ticker.ticks_during(f);
        opener.join().unwrap();
        result
    }
}

#[test]
fn a_slow_look_up_parks_the_greenlet() {
    with_slow_names("a_slow_look_up_parks_the_greenlet", |slow| {
        let _watchdog = patched();
        let ticker = Ticker::new();
        assert!(
            slow.meanwhile(&ticker, || "slowly:80".to_socket_addrs())
                .is_err()
        );
        let [get_address, _]: [GetAddrInfo; 2] = both(c"getaddrinfo");
        let found = slow.meanwhile(&ticker, || {
            addresses(get_address, Some(c"slowly"), None, None)
        });
        assert!(found.is_err());
        let [by_name, _]: [ByName; 2] = both(c"gethostbyname");
        let [by_name2, _]: [ByName2; 2] = both(c"gethostbyname2");
        let name = c"slowly".as_ptr();
        // SAFETY: a string with its end.
        let found = slow.meanwhile(&ticker, || host(unsafe { by_name(name) }));
        assert!(found.is_err());
        // SAFETY: as above.
        let found = slow.meanwhile(&ticker, || host(unsafe { by_name2(name, libc::AF_INET) }));
        assert!(found.is_err());
        let [by_name_r, _]: [ByNameR; 2] = both(c"gethostbyname_r");
        let (mut found, mut h_errno) = (ptr::null_mut(), 0);
        let (mut entry, mut room) = (MaybeUninit::zeroed(), [0; 1000]);
        // SAFETY: live variables.
        slow.meanwhile(&ticker, || unsafe {
            let (entry, room_at) = (entry.as_mut_ptr(), room.as_mut_ptr());
            by_name_r(name, entry, room_at, 1000, &mut found, &mut h_errno)
        });
        assert!(found.is_null() && h_errno != 0);
    });
}

#[test]
fn a_look_up_is_ended_by_a_kill_and_by_a_timeout() {
    with_slow_names("a_look_up_is_ended_by_a_kill_and_by_a_timeout", |slow| {
        let _watchdog = patched();
        let ticker = Ticker::new();
        let name = c"slowly".as_ptr() as usize;
        let [get_address, _]: [GetAddrInfo; 2] = both(c"getaddrinfo");
        let [by_name, _]: [ByName; 2] = both(c"gethostbyname");
        // G187.
        let mut heard = Ok(Vec::new());
        let over = greenlet::timeout(10 * MS, || {
            heard = addresses(get_address, Some(c"slowly"), None, None);
            greenlet::sleep(MS);
        });
        assert!(over.is_err());
        assert_eq!(heard, Err((libc::EAI_SYSTEM, libc::ETIMEDOUT)));
        let killed = spawn(move || {
            // SAFETY: a string with its end.
            let found = host(unsafe { by_name(name as *const c_char) });
            (found, errno())
        });
        let by_std = spawn(|| "slowly:80".to_socket_addrs().map(|_| ()));
        let by_reentrant = spawn(move || {
            let [by_name_r, _]: [ByNameR; 2] = both(c"gethostbyname_r");
            let (mut found, mut h_errno) = (ptr::null_mut(), 0);
            let (mut entry, mut room) = (MaybeUninit::zeroed(), [0; 1000]);
            let name = name as *const c_char;
            // SAFETY: live variables.
            let code = unsafe {
                let (entry, room_at) = (entry.as_mut_ptr(), room.as_mut_ptr());
                by_name_r(name, entry, room_at, 1000, &mut found, &mut h_errno)
            };
            (code, found.is_null(), h_errno)
        });
        greenlet::sleep(10 * MS);
        killed.kill();
        by_std.kill();
        by_reentrant.kill();
        assert_eq!(killed.join().unwrap(), (Err(-1), libc::ECANCELED));
        let error = by_std.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
        assert_eq!(by_reentrant.join().unwrap(), (libc::ECANCELED, true, -1));
        // The helpers end by themselves, and take back what they have found.
        *slow.goes_on.lock().unwrap() = true;
        assert!("slowly:80".to_socket_addrs().is_err());
        drop(ticker);
    });
}

#[test]
fn a_thread_without_greenlets_asks_libc_itself() {
    let _watchdog = patched();
    std::thread::spawn(|| {
        let [ours, real]: [ByName; 2] = both(c"gethostbyname");
        // SAFETY: a string with its end; nobody else of this process asks libc so.
        let places = [ours, real].map(|call| unsafe { call(c"127.0.0.1".as_ptr()) });
        // Its one buffer.
        assert_eq!(places[0], places[1]);
    })
    .join()
    .unwrap();
}
