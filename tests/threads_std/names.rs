//! Names: what std says, and what `pthread_getname_np` says.

use std::ffi::{CStr, CString, c_char};
use std::os::unix::thread::JoinHandleExt;
use std::sync::mpsc;
use std::thread;

use crate::shared::{event, text};
use crate::twice::Section;

pub const SECTIONS: &[Section] = &[
    ("names: as given", as_given),
    ("names: none given", none_given),
    ("names: with a zero in it", with_zero),
    ("names: set and asked by libc's functions", by_libc),
    ("names: seen from outside", from_outside),
];

/// What `pthread_getname_np` says of a thread.
fn name_of(thread: libc::pthread_t) -> Result<String, i32> {
    let mut name: [c_char; 16] = [0; 16];
    // SAFETY: the thread has not been joined, and the name has room for 16 bytes.
    match unsafe { libc::pthread_getname_np(thread, name.as_mut_ptr(), name.len()) } {
        0 => {
            // SAFETY: it was written with its end.
            let name = unsafe { CStr::from_ptr(name.as_ptr()) };
            Ok(name.to_bytes().escape_ascii().to_string())
        }
        error => Err(error),
    }
}

fn myself() -> libc::pthread_t {
    // SAFETY: it has no preconditions.
    unsafe { libc::pthread_self() }
}

fn set_name(thread: libc::pthread_t, name: &str) -> i32 {
    let name = CString::new(name).unwrap();
    // SAFETY: the thread is there, and the name a string with its end.
    unsafe { libc::pthread_setname_np(thread, name.as_ptr()) }
}

/// What a thread of this name, or of none, sees of it.
fn seen_by(name: Option<&str>) -> (Option<String>, Result<String, i32>) {
    let mut builder = thread::Builder::new();
    if let Some(name) = name {
        builder = builder.name(name.to_owned());
    }
    let thread = builder.spawn(|| {
        let name = thread::current().name().map(str::to_owned);
        (name, name_of(myself()))
    });
    thread.unwrap().join().unwrap()
}

fn as_given() {
    for name in [
        "",
        "short",
        "with a space",
        "fifteen bytes..",
        "sixteen bytes...",
        "much longer than the kernel's names are",
        "zwölf Boxkämpfer jagen Viktor",
    ] {
        println!("{name:?}: {:?}", seen_by(Some(name)));
    }
}

/// The kernel's name is that of who has spawned it.
fn none_given() {
    println!("main: {:?}", thread::current().name());
    let (name, kernels) = seen_by(None);
    println!("{name:?}, as main: {}", kernels == name_of(myself()));
    let builder = thread::Builder::new().name("parent".to_owned());
    let parent = builder.spawn(|| seen_by(None));
    println!("in \"parent\": {:?}", parent.unwrap().join().unwrap());
}

fn with_zero() {
    let spawned = std::panic::catch_unwind(|| {
        let builder = thread::Builder::new().name("a\0b".to_owned());
        builder.spawn(|| ()).unwrap().join().unwrap();
    });
    println!("{}", text(&*spawned.unwrap_err()));
}

fn by_libc() {
    let builder = thread::Builder::new().name("first".to_owned());
    let thread = builder.spawn(|| {
        println!("set: {}", set_name(myself(), "second"));
        println!("libc: {:?}", name_of(myself()));
        println!("std: {:?}", thread::current().name());
        println!("15 bytes: {}", set_name(myself(), "123456789012345"));
        println!("16 bytes: {}", set_name(myself(), "1234567890123456"));
        println!("libc: {:?}", name_of(myself()));
        let mut small: [c_char; 5] = [0; 5];
        // SAFETY: the name has room for 5 bytes.
        let answer = unsafe { libc::pthread_getname_np(myself(), small.as_mut_ptr(), 5) };
        println!("asked with 5 bytes: {answer}");
    });
    let before = name_of(myself());
    thread.unwrap().join().unwrap();
    println!("main's is what it was: {}", name_of(myself()) == before);
}

fn from_outside() {
    let (go, gone) = event();
    let (tell, told) = mpsc::channel();
    let builder = thread::Builder::new().name("inside".to_owned());
    let thread = builder.spawn(move || {
        tell.send(()).unwrap();
        gone.recv().unwrap();
        name_of(myself())
    });
    let thread = thread.unwrap();
    told.recv().unwrap();
    let posix = thread.as_pthread_t();
    println!("handle: {:?}", thread.thread().name());
    println!("libc: {:?}", name_of(posix));
    println!("set: {}", set_name(posix, "from outside"));
    println!("libc: {:?}", name_of(posix));
    go.send(()).unwrap();
    println!("seen inside: {:?}", thread.join().unwrap());
}
