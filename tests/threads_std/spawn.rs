//! `spawn`, `join`, detached threads, and what their handles say.

use std::collections::HashSet;
use std::num::NonZero;
use std::panic::panic_any;
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, JoinHandle};

use crate::shared::{OnDrop, event, text};
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("spawn: what a thread returns is what join gives", results),
    ("spawn: what a thread throws is what join gives", thrown),
    ("spawn: what it owns is dropped in it, before join", owned),
    ("spawn: a result nobody wants is dropped in it", unwanted),
    ("spawn: ids differ", ids),
    ("spawn: a handle says whether it has ended", finished),
    ("spawn: detached threads go on", detached),
    ("spawn: a handle can be joined elsewhere", elsewhere),
    ("spawn: threads that spawn threads", nested),
    ("spawn: one after the other", in_series),
    ("spawn: all of them at once run at once", at_once),
    ("spawn: available_parallelism", parallelism),
];

fn results() {
    println!("{}", thread::spawn(|| 42).join().unwrap());
    println!("{}", thread::spawn(|| "a".repeat(3)).join().unwrap());
    thread::spawn(|| ()).join().unwrap();
    let large = thread::spawn(|| [7_u8; 100_000]).join().unwrap();
    println!("{} {}", large.len(), large[99_999]);
    let error: Result<(), String> = thread::spawn(|| Err("no".to_owned())).join().unwrap();
    println!("{error:?}");
    let captured = [3_u64; 1000];
    let sum = thread::spawn(move || captured.iter().sum::<u64>());
    println!("{}", sum.join().unwrap());
}

fn thrown() {
    let message = thread::spawn(|| panic!("a constant"));
    println!("{}", text(&*message.join().unwrap_err()));
    let number = 3;
    let formatted = thread::spawn(move || panic!("formatted {number}"));
    println!("{}", text(&*formatted.join().unwrap_err()));
    let value = thread::spawn(|| panic_any(17_i32));
    println!("{:?}", value.join().unwrap_err().downcast_ref::<i32>());
    let resumed = thread::spawn(|| std::panic::resume_unwind(Box::new("resumed")));
    println!("{}", text(&*resumed.join().unwrap_err()));
    let index = thread::spawn(|| [1, 2, 3].get(5).copied().unwrap());
    println!("{}", text(&*index.join().unwrap_err()));
    println!("main is panicking: {}", thread::panicking());
}

fn owned() {
    let (tell, told) = mpsc::channel();
    let owned = OnDrop(move || {
        tell.send(thread::current().name().map(str::to_owned))
            .unwrap()
    });
    let builder = thread::Builder::new().name("owner".to_owned());
    let owner = builder.spawn(move || {
        let _owned = &owned;
    });
    owner.unwrap().join().unwrap();
    println!("dropped in {:?}", told.try_recv());
    let shared = Arc::new(());
    let clone = Arc::clone(&shared);
    thread::spawn(move || drop(clone)).join().unwrap();
    println!("references after join: {}", Arc::strong_count(&shared));
    let inside = Arc::clone(&shared);
    let thrower = thread::spawn(move || {
        let _inside = inside;
        panic!("with something in hand");
    });
    println!("thrown: {}", thrower.join().is_err());
    println!("references after a panic: {}", Arc::strong_count(&shared));
}

fn unwanted() {
    let (tell, told) = mpsc::channel();
    let (go, gone) = event();
    let builder = thread::Builder::new().name("unwanted".to_owned());
    let handle = builder.spawn(move || {
        gone.recv().unwrap();
        OnDrop(move || {
            tell.send(thread::current().name().map(str::to_owned))
                .unwrap()
        })
    });
    drop(handle);
    go.send(()).unwrap();
    println!("dropped in {:?}", told.recv());
}

fn ids() {
    let barrier = Arc::new(Barrier::new(101));
    let threads: Vec<_> = (0..100)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                barrier.wait();
                // SAFETY: it has no preconditions.
                (thread::current().id(), unsafe { libc::pthread_self() })
            })
        })
        .collect();
    count_threads();
    barrier.wait();
    let by_handle: Vec<_> = threads.iter().map(|handle| handle.thread().id()).collect();
    let pairs = threads.into_iter().map(|handle| handle.join().unwrap());
    let (own, posix): (Vec<_>, HashSet<_>) = pairs.unzip();
    println!("handles know them: {}", by_handle == own);
    let mut all: HashSet<_> = own.into_iter().collect();
    all.insert(thread::current().id());
    println!("{} ids", all.len());
    println!("{} of pthread", posix.len());
    // SAFETY: it has no preconditions.
    let main = unsafe { libc::pthread_self() };
    println!("one of them is main's: {}", posix.contains(&main));
}

fn finished() {
    let (go, gone) = event();
    let handle = thread::spawn(move || gone.recv().unwrap());
    println!("before: {}", handle.is_finished());
    go.send(()).unwrap();
    while !handle.is_finished() {
        thread::yield_now();
    }
    println!("after: {}", handle.is_finished());
    handle.join().unwrap();
    let thrower = thread::spawn(|| panic!("the end"));
    while !thrower.is_finished() {
        thread::yield_now();
    }
    println!("thrown: {}", thrower.join().is_err());
}

fn detached() {
    let (tell, told) = mpsc::channel();
    for number in 0..10 {
        let tell = tell.clone();
        drop(thread::spawn(move || tell.send(number * number).unwrap()));
    }
    drop(tell);
    let mut all: Vec<i32> = told.iter().collect();
    all.sort_unstable();
    println!("{all:?}");
    // One that outlives who has spawned it.
    let (tell, told) = mpsc::channel();
    let (go, gone) = event();
    let parent = thread::spawn(move || {
        thread::spawn(move || {
            gone.recv().unwrap();
            tell.send("outlived").unwrap();
        });
    });
    parent.join().unwrap();
    go.send(()).unwrap();
    println!("{:?}", told.recv());
}

fn elsewhere() {
    let (go, gone) = event();
    let first = thread::spawn(move || {
        gone.recv().unwrap();
        "joined elsewhere"
    });
    let second = thread::spawn(move || first.join().unwrap());
    go.send(()).unwrap();
    println!("{}", second.join().unwrap());
    let (send, receive) = mpsc::channel::<JoinHandle<u32>>();
    let joiner = thread::spawn(move || receive.iter().map(|h| h.join().unwrap()).sum::<u32>());
    for number in 0..50 {
        send.send(thread::spawn(move || number)).unwrap();
    }
    drop(send);
    println!("{}", joiner.join().unwrap());
}

fn depth(left: u32) -> u32 {
    match left {
        0 => {
            count_threads();
            0
        }
        _ => 1 + thread::spawn(move || depth(left - 1)).join().unwrap(),
    }
}

fn nested() {
    println!("a chain of {}", depth(50));
    let tree = thread::spawn(|| {
        let children: Vec<_> = (0..5).map(|_| thread::spawn(|| depth(3))).collect();
        children.into_iter().map(|c| c.join().unwrap()).sum::<u32>()
    });
    println!("a tree of {}", tree.join().unwrap());
    let thrower = thread::spawn(|| {
        let inner = thread::spawn(|| panic!("from inside"));
        std::panic::resume_unwind(inner.join().unwrap_err());
    });
    println!("{}", text(&*thrower.join().unwrap_err()));
}

fn in_series() {
    let mut sum = 0_u64;
    for number in 0..2000 {
        sum += thread::spawn(move || number).join().unwrap();
    }
    println!("{sum}");
}

fn at_once() {
    let barrier = Arc::new(Barrier::new(1001));
    let threads: Vec<_> = (0..1000_u64)
        .map(|number| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                barrier.wait();
                barrier.wait();
                number
            })
        })
        .collect();
    barrier.wait();
    count_threads();
    println!("all of them are there");
    barrier.wait();
    let sum: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    println!("{sum}");
}

fn parallelism() {
    let here = thread::available_parallelism().map(NonZero::get);
    let there = thread::spawn(|| thread::available_parallelism().map(NonZero::get));
    let there = there.join().unwrap();
    println!("{here:?} {there:?}");
}
