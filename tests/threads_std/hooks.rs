//! Panic hooks.

use std::any::Any;
use std::panic::{self, catch_unwind, panic_any, resume_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::shared::event;
use crate::twice::Section;

pub const SECTIONS: &[Section] = &[
    ("panic hook: sees the thread and the place", seen),
    ("panic hook: that waits", waits),
    ("panic hook: that another thread answers", is_answered),
];

/// Runs `f` with this hook.
fn with_hook(hook: impl Fn(&panic::PanicHookInfo<'_>) + Send + Sync + 'static, f: impl FnOnce()) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(hook));
    f();
    panic::set_hook(before);
}

/// As `text`, of what may not be sent.
fn words(payload: &dyn Any) -> String {
    let constant = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    constant
        .or_else(|| payload.downcast_ref().cloned())
        .unwrap()
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

fn seen() {
    let saying = |info: &panic::PanicHookInfo<'_>| {
        let place = info.location().unwrap();
        let is_here = place.file().ends_with("panics.rs");
        let thread = thread::current();
        let (name, panicking) = (thread.name(), thread::panicking());
        let said = match info.payload().downcast_ref::<i32>() {
            Some(number) => number.to_string(),
            None => words(info.payload()),
        };
        println!("{name:?} says {said:?}, here: {is_here}, panicking: {panicking}");
    };
    with_hook(saying, || {
        let thread = named("thrower").spawn(|| panic!("a constant")).unwrap();
        println!("{}", thread.join().is_err());
        let thread = thread::spawn(|| panic!("number {}", 3));
        println!("{}", thread.join().is_err());
        let thread = named("of any kind").spawn(|| panic_any(5)).unwrap();
        println!("{}", thread.join().is_err());
        println!("{}", catch_unwind(|| panic!("in main")).is_err());
        let thread = thread::spawn(|| resume_unwind(Box::new("without the hook")));
        println!("{}", thread.join().is_err());
    });
}

fn waits() {
    let count = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&count);
    let waiting = move |_: &panic::PanicHookInfo<'_>| {
        let mut counter = counter.lock().unwrap();
        thread::yield_now();
        *counter += 1;
    };
    with_hook(waiting, || {
        let threads = [(); 10].map(|()| thread::spawn(|| panic!("with a hook that waits")));
        let ended = threads.map(|thread| thread.join().is_err());
        println!("{ended:?}");
    });
    println!("{}", count.lock().unwrap());
}

/// As a logger in a thread of its own does.
fn is_answered() {
    let (tell, told) = mpsc::channel::<(String, mpsc::Sender<()>)>();
    let logger = thread::spawn(move || {
        for (line, done) in told {
            println!("logged: {line}");
            done.send(()).unwrap();
        }
    });
    let asking = move |info: &panic::PanicHookInfo<'_>| {
        let (done, answered) = event();
        tell.send((words(info.payload()), done)).unwrap();
        answered.recv().unwrap();
    };
    with_hook(asking, || {
        let thrower = thread::spawn(|| panic!("to be logged"));
        println!("{}", thrower.join().is_err());
        println!("main: {}", catch_unwind(|| panic!("as well")).is_err());
    });
    logger.join().unwrap();
}
