//! How the process ends: each of these is a process of its own, started by its section,
//! with threads of the same kind.

use std::cell::RefCell;
use std::process;
use std::sync::Mutex;
use std::thread;

use crate::shared::{HOUR, OnDrop, event};
use crate::twice::{Section, end_of, how};

pub const SECTIONS: &[Section] = &[
    ("end: of the process, with threads that go on", all),
    ("end: what is said of a panic", said_of_a_panic),
    ("end: what is said of a stack overflow", said_of_an_overflow),
];

pub const ENDS: &[Section] = &[
    ("main returns", main_returns),
    ("main panics", main_panics),
    ("exit in main", || exit_in_main(3)),
    ("exit in a thread", exit_in_a_thread),
    ("abort in a thread", abort_in_a_thread),
    ("a panic in a thread", panic_in_a_thread),
    ("a panic in a named thread", panic_in_a_named_thread),
    ("a panic while another unwinds", double_panic),
    ("a panic in a local's destructor", panic_in_a_destructor),
    (
        "a panic in the destructor of what it returns",
        panic_of_a_result,
    ),
    ("exit while a destructor waits", exit_meanwhile),
    ("exit in a thread with a local", exit_with_a_local),
    ("main returns with a local", return_with_a_local),
    ("exit while a thread has stdout", exit_with_stdout),
    ("a handler of atexit joins a thread", at_exit),
    ("a signal to itself", signal_to_itself),
    ("a bad pointer in a thread", bad_pointer),
    ("an overflow of a stack", overflow),
    ("an overflow of a small stack", overflow_of_a_small_one),
    ("an overflow of main's stack", overflow_of_mains),
];

fn all() {
    for (name, _) in ENDS {
        let output = end_of(name);
        let said = String::from_utf8(output.stdout).unwrap();
        println!("{name}: {}, {said:?}", how(output.status));
    }
}

/// The lines that a process wrote to its standard error, without numbers, which are
/// different ones each time.
fn errors_of(name: &str) {
    let errors = String::from_utf8(end_of(name).stderr).unwrap();
    for line in errors.lines() {
        let line: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
        println!("{line}");
    }
}

fn said_of_a_panic() {
    for name in [
        "main panics",
        "a panic in a thread",
        "a panic in a named thread",
        "a panic in a local's destructor",
        "a panic in the destructor of what it returns",
    ] {
        errors_of(name);
    }
}

/// Who it was, and why it ends; the words are not the same.
fn said_of_an_overflow() {
    for (end, name) in [
        ("an overflow of a stack", "too deep"),
        ("an overflow of a small stack", "small"),
        ("an overflow of main's stack", "main"),
    ] {
        let errors = String::from_utf8(end_of(end).stderr).unwrap();
        let line = errors
            .lines()
            .find(|line| line.contains("overflowed its stack"));
        let named = line.is_some_and(|line| line.contains(&format!("'{name}'")));
        println!("said: {}, with its name: {named}", line.is_some());
    }
}

/// Threads that never end: one sleeps, one waits for nothing.
fn endless() {
    let (go, gone) = event();
    let (tell, told) = event();
    let other = tell.clone();
    thread::spawn(move || {
        let _never = OnDrop(|| println!("dropped"));
        tell.send(()).unwrap();
        thread::sleep(HOUR);
    });
    thread::spawn(move || {
        let _go = go;
        other.send(()).unwrap();
        let _ = gone.recv();
        println!("received");
    });
    (0..2).for_each(|_| told.recv().unwrap());
}

fn main_returns() {
    endless();
    println!("returning");
}

fn main_panics() {
    endless();
    panic!("the end of main");
}

fn exit_in_main(code: i32) {
    endless();
    print!("without a line's end");
    process::exit(code);
}

fn exit_in_a_thread() {
    endless();
    let _never = OnDrop(|| println!("dropped"));
    let _ = thread::spawn(|| process::exit(4)).join();
    println!("joined");
}

fn abort_in_a_thread() {
    endless();
    let _ = thread::spawn(|| process::abort()).join();
}

fn panic_in_a_thread() {
    let _ = thread::spawn(|| panic!("of no name")).join();
    println!("main goes on");
}

fn panic_in_a_named_thread() {
    let builder = thread::Builder::new().name("the thrower".to_owned());
    let thread = builder.spawn(|| panic!("of this name"));
    let _ = thread.unwrap().join();
    println!("main goes on");
}

fn double_panic() {
    let thread = thread::spawn(|| {
        let _again = OnDrop(|| panic!("the second"));
        panic!("the first");
    });
    let _ = thread.join();
    println!("joined");
}

fn panic_in_a_destructor() {
    struct Throws;
    impl Drop for Throws {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    thread_local!(static LOCAL: RefCell<Option<Throws>> = const { RefCell::new(None) });
    let _ = thread::spawn(|| LOCAL.set(Some(Throws))).join();
    println!("joined");
}

fn panic_of_a_result() {
    let (go, gone) = event();
    drop(thread::spawn(move || {
        gone.recv().unwrap();
        OnDrop(|| panic!("in the end"))
    }));
    go.send(()).unwrap();
    thread::sleep(HOUR);
}

fn exit_meanwhile() {
    struct Waits;
    static BEGUN: Mutex<Option<std::sync::mpsc::Sender<()>>> = Mutex::new(None);
    impl Drop for Waits {
        fn drop(&mut self) {
            drop(BEGUN.lock().unwrap().take());
            thread::sleep(HOUR);
            println!("slept");
        }
    }
    thread_local!(static LOCAL: RefCell<Option<Waits>> = const { RefCell::new(None) });
    let (begun, told) = event();
    *BEGUN.lock().unwrap() = Some(begun);
    thread::spawn(|| LOCAL.set(Some(Waits)));
    println!("begun: {}", told.recv().is_err());
    process::exit(5);
}

struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        println!("destroyed {}", self.0);
    }
}

thread_local!(static SAYS: RefCell<Option<Says>> = const { RefCell::new(None) });

/// Those of the thread that exits are destroyed, and no others.
fn exit_with_a_local() {
    endless();
    SAYS.set(Some(Says("main's")));
    let thread = thread::spawn(|| {
        SAYS.set(Some(Says("the thread's")));
        process::exit(6);
    });
    let _ = thread.join();
}

fn return_with_a_local() {
    let (tell, told) = event();
    SAYS.set(Some(Says("main's")));
    thread::spawn(move || {
        SAYS.set(Some(Says("the thread's")));
        tell.send(()).unwrap();
        thread::sleep(HOUR);
    });
    told.recv().unwrap();
}

/// What is in its buffer is not written then, but nobody waits for it.
fn exit_with_stdout() {
    let (tell, told) = event();
    thread::spawn(move || {
        let _lock = std::io::stdout().lock();
        tell.send(()).unwrap();
        thread::sleep(HOUR);
    });
    told.recv().unwrap();
    process::exit(7);
}

fn signal_to_itself() {
    endless();
    // SAFETY: it has no preconditions.
    let _ = thread::spawn(|| unsafe { libc::raise(libc::SIGTERM) }).join();
    println!("joined");
}

fn bad_pointer() {
    let nowhere = std::hint::black_box(8 as *mut u8);
    let nowhere = nowhere.addr();
    // SAFETY: none: this is to end the process.
    let thread = thread::spawn(move || unsafe { (nowhere as *mut u8).write_volatile(1) });
    let _ = thread.join();
    println!("joined");
}

/// Handlers of `atexit` run in the thread that exits, and may use others.
fn at_exit() {
    extern "C" fn handler() {
        println!("joined in it: {}", thread::spawn(|| 5).join().unwrap());
    }
    // SAFETY: the handler does not unwind.
    assert_eq!(unsafe { libc::atexit(handler) }, 0);
    println!("returning");
}

/// Goes on until there is no more stack.
#[inline(never)]
fn endlessly(depth: u64) -> u64 {
    let frame = [depth; 64];
    match *std::hint::black_box(&depth) {
        u64::MAX => 0,
        _ => endlessly(depth + 1) + std::hint::black_box(&frame)[5],
    }
}

fn overflow() {
    let builder = thread::Builder::new().name("too deep".to_owned());
    let _ = builder.spawn(|| endlessly(0)).unwrap().join();
}

fn overflow_of_a_small_one() {
    let builder = thread::Builder::new().name("small".to_owned());
    let thread = builder.stack_size(64 * 1024).spawn(|| endlessly(0));
    let _ = thread.unwrap().join();
}

fn overflow_of_mains() {
    let (tell, told) = event();
    thread::spawn(move || tell.send(()).unwrap());
    told.recv().unwrap();
    endlessly(0);
}
