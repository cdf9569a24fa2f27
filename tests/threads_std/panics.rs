//! Panics: what is seen while one unwinds, and several at once.

use std::panic::{catch_unwind, panic_any, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::shared::{OnDrop, event, text};
use crate::twice::Section;

pub const SECTIONS: &[Section] = &[
    ("panic: of a detached thread", detached),
    ("panic: what was thrown is dropped", payload),
    ("panic: seen while it unwinds", panicking),
    ("panic: waits while it unwinds", waits),
    ("panic: several at once, each waiting", at_once),
    ("panic: another one, caught, while it unwinds", inner),
    ("panic: caught in a thread", caught),
    ("panic: resumed elsewhere", resumed),
    ("panic: from depth", from_depth),
    ("panic: many", many),
    ("backtraces", backtraces),
];

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

/// Main waits for something else meanwhile.
fn detached() {
    let (tell, told) = event();
    let (go, gone) = event();
    drop(thread::spawn(move || {
        let _tell = tell;
        gone.recv().unwrap();
        panic!("where nobody looks");
    }));
    let other = thread::spawn(move || {
        go.send(()).unwrap();
        told.recv().is_err()
    });
    println!("ended: {}", other.join().unwrap());
    println!("main is panicking: {}", thread::panicking());
}

fn payload() {
    let (tell, told) = mpsc::channel();
    let dropped = |tell: mpsc::Sender<Option<String>>| {
        OnDrop(move || {
            tell.send(thread::current().name().map(str::to_owned))
                .unwrap()
        })
    };
    let thrown = dropped(tell.clone());
    let joined = named("joined").spawn(move || panic_any(thrown)).unwrap();
    let thrown = joined.join().unwrap_err();
    println!("before: {:?}", told.try_recv());
    drop(thrown);
    println!("after: {:?}", told.try_recv());
    let thrown = dropped(tell);
    let (go, gone) = event();
    let thread = named("detached").spawn(move || {
        gone.recv().unwrap();
        panic_any(thrown)
    });
    drop(thread);
    go.send(()).unwrap();
    println!("detached: {:?}", told.recv());
}

fn panicking() {
    let thread = thread::spawn(|| {
        let _seen = OnDrop(|| {
            println!("panicking: {}", thread::panicking());
            let other = thread::spawn(thread::panicking);
            println!("another one: {}", other.join().unwrap());
        });
        println!("before: {}", thread::panicking());
        panic!("to be seen");
    });
    println!("thrown: {}", thread.join().is_err());
}

fn waits() {
    let (tell, told) = mpsc::channel();
    let (go, gone) = event();
    let thread = thread::spawn(move || {
        let _waits = OnDrop(move || {
            tell.send(()).unwrap();
            gone.recv().unwrap();
            println!("still panicking: {}", thread::panicking());
        });
        panic!("and wait");
    });
    told.recv().unwrap();
    let between = thread::spawn(|| {
        let inner = catch_unwind(|| panic!("in between"));
        (inner.is_err(), thread::panicking())
    });
    println!("in between: {:?}", between.join().unwrap());
    println!("main: {}", thread::panicking());
    go.send(()).unwrap();
    println!("{}", text(&*thread.join().unwrap_err()));
}

/// All of them unwind at once, and go on in an order of their own.
fn at_once() {
    let (tell, told) = mpsc::channel();
    let mut gates = Vec::new();
    let mut threads = Vec::new();
    for number in 0..10 {
        let tell = tell.clone();
        let (go, gone) = event();
        gates.push(go);
        threads.push(thread::spawn(move || {
            let _waits = OnDrop(move || {
                tell.send(()).unwrap();
                gone.recv().unwrap();
            });
            panic!("number {number}");
        }));
    }
    (0..10).for_each(|_| told.recv().unwrap());
    for at in [3, 9, 0, 5, 7, 1, 8, 2, 6, 4] {
        gates[at].send(()).unwrap();
        thread::yield_now();
    }
    for thread in threads {
        println!("{}", text(&*thread.join().unwrap_err()));
    }
}

fn inner() {
    let thread = thread::spawn(|| {
        let _catches = OnDrop(|| {
            let inner = catch_unwind(|| {
                thread::yield_now();
                panic!("the inner one");
            });
            println!("{}, {}", text(&*inner.unwrap_err()), thread::panicking());
        });
        panic!("the outer one");
    });
    println!("{}", text(&*thread.join().unwrap_err()));
}

fn caught() {
    let thread = thread::spawn(|| {
        let mut said = Vec::new();
        for number in 0..5 {
            let thrown = catch_unwind(|| {
                thread::yield_now();
                panic!("{number}");
            });
            said.push(text(&*thrown.unwrap_err()));
            thread::yield_now();
        }
        (said, thread::panicking())
    });
    println!("{:?}", thread.join().unwrap());
}

fn resumed() {
    let first = thread::spawn(|| panic!("once thrown"));
    let second = thread::spawn(move || resume_unwind(first.join().unwrap_err()));
    let third = thread::spawn(move || resume_unwind(second.join().unwrap_err()));
    println!("{}", text(&*third.join().unwrap_err()));
}

fn many() {
    let dropped = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..500)
        .map(|number| {
            let dropped = Arc::clone(&dropped);
            thread::spawn(move || {
                let _counts = OnDrop(|| {
                    dropped.fetch_add(1, SeqCst);
                });
                if number % 2 == 0 {
                    panic!("even");
                }
            })
        })
        .collect();
    let ended = threads.into_iter().map(|thread| thread.join());
    let thrown = ended.filter(Result::is_err).count();
    println!("{thrown} of {}", dropped.load(SeqCst));
}

fn from_depth() {
    fn down(left: u32, dropped: &AtomicU32) {
        let _counts = OnDrop(|| {
            dropped.fetch_add(1, SeqCst);
            if left % 100 == 0 {
                thread::yield_now();
            }
        });
        assert!(left > 0, "at the bottom");
        down(left - 1, dropped);
    }
    let dropped = Arc::new(AtomicU32::new(0));
    let threads = [(); 3].map(|()| {
        let dropped = Arc::clone(&dropped);
        thread::spawn(move || down(1000, &dropped))
    });
    for thread in threads {
        println!("{}", text(&*thread.join().unwrap_err()));
    }
    println!("{}", dropped.load(SeqCst));
}

/// They end where the thread begins.
fn backtraces() {
    #[inline(never)]
    fn deep(left: u32) -> String {
        match left {
            0 => std::backtrace::Backtrace::force_capture().to_string(),
            _ => deep(std::hint::black_box(left) - 1),
        }
    }
    for name in ["first", "second"] {
        let thread = named(name).spawn(|| {
            thread::yield_now();
            deep(5)
        });
        let trace = thread.unwrap().join().unwrap();
        let frames = trace.matches("backtraces::deep").count();
        let spawned = trace.contains("panics::backtraces");
        println!("frames: {frames}, with who was spawned: {spawned}");
        println!(
            "std's beginning: {}",
            trace.contains("__rust_begin_short_backtrace")
        );
    }
}
