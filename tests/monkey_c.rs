//! `monkey`: C code, in a library that is loaded at run time, as it stands and compiled
//! with `_FORTIFY_SOURCE`. Without a C compiler there is nothing to be tested.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::ffi::CString;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::Command;

use common::refusing;
use patched::*;

type Function = unsafe extern "C" fn(i32, *mut u8, usize) -> i64;

/// A library of tests/c/blocking.c. It stays loaded.
#[derive(Clone, Copy)]
struct Library(*mut libc::c_void);

impl Library {
    /// None if there is no C compiler.
    fn load(fortified: bool) -> Option<(Library, PathBuf)> {
        let name = if fortified { "fortified" } else { "plain" };
        let file = format!(
            "greenlet-{}-{name}-{:?}.so",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(file);
        let flags: &[&str] = match fortified {
            true => &["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"],
            false => &["-O0", "-U_FORTIFY_SOURCE"],
        };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/blocking.c");
        let compiled = Command::new(std::env::var("CC").unwrap_or("cc".into()))
            .args(["-shared", "-fPIC", "-Wall", "-o"])
            .args([path.as_os_str(), source.as_ref()])
            .args(flags)
            .output();
        let Ok(compiled) = compiled else {
            eprintln!("no C compiler here: C code is not tested");
            return None;
        };
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the library's initialisers do nothing.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null());
        Some((Library(library), path))
    }

    fn get(self, name: &str) -> Function {
        let name = CString::new(name).unwrap();
        // SAFETY: the name is a string; and all functions there are of this type.
        unsafe {
            let found = libc::dlsym(self.0, name.as_ptr());
            assert!(!found.is_null());
            std::mem::transmute::<*mut libc::c_void, Function>(found)
        }
    }

    /// Calls it, with a buffer of 64 bytes.
    fn call(self, name: &str, fd: RawFd, len: usize) -> Result<usize, i32> {
        let mut buffer = [b'c'; 64];
        let function = self.get(name);
        // SAFETY: no more is read or written than there is.
        checked(|| unsafe { function(fd, buffer.as_mut_ptr(), len) })
    }
}

fn both(test: impl Fn(Library, &PathBuf, bool)) {
    for fortified in [false, true] {
        if let Some((library, path)) = Library::load(fortified) {
            test(library, &path, fortified);
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn c_code_that_receives_parks() {
    let _watchdog = patched();
    both(|library, _, _| {
        for name in ["c_recv", "c_recvfrom", "c_read"] {
            let (a, b) = pair(libc::SOCK_STREAM);
            let got = parks(
                move || library.call(name, a.as_raw_fd(), 10),
                || assert_eq!(send(&b, b"abc", 0), Ok(3)),
            );
            assert_eq!(got, Ok(3), "{name}");
        }
        let (reader, writer) = pipe();
        let got = parks(
            move || {
                (
                    library.call("c_poll", reader.as_raw_fd(), 1),
                    library.call("c_read", reader.as_raw_fd(), 10),
                )
            },
            || assert_eq!(write(&writer, b"abc"), Ok(3)),
        );
        assert_eq!(got, (Ok(1), Ok(3)));
    });
}

#[test]
fn c_code_that_sends_parks() {
    let _watchdog = patched();
    both(|library, _, _| {
        for name in ["c_send", "c_write"] {
            let (a, b) = pair(libc::SOCK_DGRAM);
            while send(&a, b"full", libc::MSG_DONTWAIT).is_ok() {}
            let sent = parks(
                move || library.call(name, a.as_raw_fd(), 10),
                || while recv(&b, &mut [0; 64], libc::MSG_DONTWAIT).is_ok() {},
            );
            assert_eq!(sent, Ok(10), "{name}");
        }
    });
}

#[test]
fn c_code_that_connects_and_accepts_parks() {
    let _watchdog = patched();
    both(|library, _, _| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let fd = listener.as_raw_fd();
        let mut client = None;
        let accepted = parks(
            move || library.call("c_accept", fd, 0),
            || client = Some(TcpStream::connect(("127.0.0.1", port)).unwrap()),
        );
        assert_eq!(accepted, Ok(0));
        let connected = in_greenlet(move || library.call("c_connect", i32::from(port), 0));
        assert_eq!(connected, Ok(0));
        assert_blocking(&listener);
        let (_kept, refusing) = refusing();
        let port = i32::from(refusing.port());
        let refused = in_greenlet(move || library.call("c_connect", port, 0));
        assert_eq!(refused, Err(libc::ECONNREFUSED));
    });
}

#[test]
fn c_code_that_sleeps_lets_others_run() {
    let _watchdog = patched();
    both(|library, _, _| {
        for name in ["c_nanosleep", "c_usleep", "c_sleep"] {
            assert_eq!(
                lets_others_run(move || library.call(name, 20, 0)),
                Ok(0),
                "{name}"
            );
        }
    });
}

#[test]
fn fortified_code_calls_the_functions_that_check() {
    both(|_, path, fortified| {
        let Ok(symbols) = Command::new("nm")
            .args(["-D", "--undefined-only"])
            .arg(path)
            .output()
        else {
            eprintln!("no nm here: the names are not looked at");
            return;
        };
        let symbols = String::from_utf8(symbols.stdout).unwrap();
        for name in ["recv", "recvfrom", "read", "poll"] {
            let is_there = |name: &str| symbols.split([' ', '\n', '@']).any(|word| word == name);
            assert_eq!(
                is_there(&format!("__{name}_chk")),
                fortified,
                "{name}: {symbols}"
            );
            assert_eq!(is_there(name), !fortified, "{name}: {symbols}");
        }
    });
}

#[test]
fn an_overlong_length_aborts_fortified_code() {
    for name in ["c_recv", "c_recvfrom", "c_read", "c_poll"] {
        for in_greenlets in ["yes", "no"] {
            let variables = [("OVERLONG", name), ("IN_GREENLETS", in_greenlets)];
            let test = "an_overlong_length_aborts_fortified_code";
            let ended = common::in_subprocess_with(test, &variables, || {
                let Some((library, path)) = Library::load(true) else {
                    std::process::abort();
                };
                let _ = std::fs::remove_file(path);
                let name = std::env::var("OVERLONG").unwrap();
                let (reader, _writer) = pipe();
                if std::env::var("IN_GREENLETS").unwrap() == "yes" {
                    let _watchdog = patched();
                    in_greenlet(move || {
                        let _ = library.call(&name, reader.as_raw_fd(), 65);
                    });
                } else {
                    let _ = library.call(&name, reader.as_raw_fd(), 65);
                }
            });
            let Some(ended) = ended else { return };
            ended.was_killed_by(libc::SIGABRT);
            if !ended.stderr.contains("no C compiler") {
                ended.said("buffer overflow detected");
            }
        }
    }
}
