//! Thread-locals: each thread has its own, and they are destroyed before it is joined.

use std::cell::{Cell, RefCell};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};

use crate::shared::{MS, event};
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("locals: each has its own", own),
    ("locals: borrowed across a wait", borrowed),
    ("locals: an initialiser that waits", initialiser),
    ("locals: destroyed before join", destroyed),
    ("locals: the order of destruction", order),
    ("locals: used in destructors", in_destructors),
    ("locals: a destructor that waits", waiting),
    ("locals: a destructor that spawns", spawning),
    ("locals: thread::current in a destructor", current),
    ("locals: destroyed after a panic", after_panic),
    ("locals: after many threads nothing is left", many),
];

/// Does something when it is dropped.
#[derive(Default)]
struct AtEnd(RefCell<Option<Box<dyn FnOnce()>>>);

impl AtEnd {
    fn run(&self, f: impl FnOnce() + 'static) {
        *self.0.borrow_mut() = Some(Box::new(f));
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(0) };
    static TEXT: RefCell<String> = RefCell::new("as it is at first".to_owned());
    static FIRST: AtEnd = AtEnd::default();
    static SECOND: AtEnd = AtEnd::default();
    static THIRD: AtEnd = AtEnd::default();
}

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, entry: impl ToString) {
    log.lock().unwrap().push(entry.to_string());
}

fn own() {
    COUNT.set(100);
    let barrier = Arc::new(Barrier::new(11));
    let threads: Vec<_> = (1..=10)
        .map(|number| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                let at_first = COUNT.get();
                for _ in 0..number {
                    COUNT.set(COUNT.get() + 1);
                    thread::yield_now();
                }
                barrier.wait();
                let address = COUNT.with(|count| std::ptr::from_ref(count).addr());
                barrier.wait();
                (at_first, COUNT.replace(0), address)
            })
        })
        .collect();
    barrier.wait();
    count_threads();
    barrier.wait();
    let all = threads.into_iter().map(|thread| thread.join().unwrap());
    let (all, mut addresses): (Vec<_>, Vec<_>) = all.map(|(a, b, at)| ((a, b), at)).unzip();
    println!("{all:?}");
    addresses.sort_unstable();
    addresses.dedup();
    println!("addresses: {}", addresses.len());
    println!("main: {}", COUNT.replace(0));
}

fn borrowed() {
    let (go, gone) = event();
    let (tell, told) = mpsc::channel();
    let first = thread::spawn(move || {
        TEXT.with_borrow_mut(|text| {
            tell.send(()).unwrap();
            gone.recv().unwrap();
            text.push('!');
            text.clone()
        })
    });
    told.recv().unwrap();
    let second = thread::spawn(|| TEXT.take());
    println!("{}", second.join().unwrap());
    println!("main: {}", TEXT.with_borrow(String::clone));
    go.send(()).unwrap();
    println!("{}", first.join().unwrap());
}

fn initialiser() {
    thread_local! {
        static SLOW: u32 = {
            thread::sleep(MS);
            thread::spawn(|| COUNT.get() + 7).join().unwrap()
        };
    }
    let threads = [1, 2, 3].map(|number| thread::spawn(move || SLOW.with(|slow| slow * number)));
    println!("{:?}", threads.map(|thread| thread.join().unwrap()));
}

fn destroyed() {
    for _ in 0..100 {
        let log = Log::default();
        let inner = Arc::clone(&log);
        let thread = thread::spawn(move || {
            let at_end = Arc::clone(&inner);
            FIRST.with(|first| first.run(move || note(&at_end, "destroyed")));
            note(&inner, "returned");
        });
        thread.join().unwrap();
        assert_eq!(*log.lock().unwrap(), ["returned", "destroyed"]);
    }
    println!("a hundred times");
}

fn order() {
    let log = Log::default();
    let inner = Arc::clone(&log);
    let thread = thread::spawn(move || {
        let noting = |name| {
            let log = Arc::clone(&inner);
            move || note(&log, name)
        };
        THIRD.with(|at_end| at_end.run(noting("third")));
        FIRST.with(|at_end| at_end.run(noting("first")));
        SECOND.with(|at_end| at_end.run(noting("second")));
    });
    thread.join().unwrap();
    println!("{:?}", log.lock().unwrap());
}

/// One that is used for the first time in a destructor is destroyed as well; one that
/// has been destroyed says so.
fn in_destructors() {
    let log = Log::default();
    let inner = Arc::clone(&log);
    let thread = thread::spawn(move || {
        SECOND.with(|at_end| {
            let log = Arc::clone(&inner);
            at_end.run(move || {
                note(&log, "second");
                note(&log, format!("count {:?}", COUNT.try_with(Cell::get)));
                note(
                    &log,
                    format!("text {:?}", TEXT.try_with(|t| t.borrow().len())),
                );
                note(&log, format!("itself {}", SECOND.try_with(|_| ()).is_ok()));
                let late = Arc::clone(&log);
                let used = THIRD.try_with(|third| third.run(move || note(&late, "third")));
                note(&log, format!("third {}", used.is_ok()));
            });
        });
        FIRST.with(|at_end| {
            let log = Arc::clone(&inner);
            at_end.run(move || note(&log, format!("second {}", SECOND.try_with(|_| ()).is_ok())));
        });
    });
    thread.join().unwrap();
    println!("{:?}", log.lock().unwrap());
}

fn waiting() {
    let (tell, told) = mpsc::channel();
    let (go, gone) = event();
    let thread = thread::spawn(move || {
        FIRST.with(|at_end| {
            at_end.run(move || {
                tell.send("begins").unwrap();
                gone.recv().unwrap();
                thread::sleep(MS);
                tell.send("ends").unwrap();
            });
        });
    });
    println!("{:?}", told.recv());
    // Another one runs from its beginning to its end meanwhile.
    let other = thread::spawn(|| COUNT.get());
    println!("another: {}", other.join().unwrap());
    go.send(()).unwrap();
    thread.join().unwrap();
    println!("after join: {:?}", told.try_recv());
}

fn spawning() {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        FIRST.with(|at_end| {
            at_end.run(move || {
                let inner = {
                    let tell = tell.clone();
                    thread::spawn(move || {
                        let at_end = tell.clone();
                        SECOND.with(|second| {
                            second.run(move || at_end.send("its locals".to_owned()).unwrap());
                        });
                        tell.send("spawned in a destructor".to_owned()).unwrap();
                        3
                    })
                };
                let joined = inner.join();
                tell.send(format!("joined in a destructor: {joined:?}"))
                    .unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| tell.send("scoped in a destructor".to_owned()).unwrap());
                });
            });
        });
    });
    thread.join().unwrap();
    told.try_iter().for_each(|line| println!("{line}"));
    println!("all said: {}", told.recv().is_err());
}

fn current() {
    type Seen = (Option<String>, ThreadId);
    fn seen(tell: Sender<Seen>) -> impl FnOnce() {
        move || {
            let me = thread::current();
            tell.send((me.name().map(str::to_owned), me.id())).unwrap();
        }
    }
    let (tell, told) = mpsc::channel();
    let builder = thread::Builder::new().name("ending".to_owned());
    let thread = builder.spawn(move || {
        FIRST.with(|at_end| at_end.run(seen(tell.clone())));
        SECOND.with(|at_end| at_end.run(seen(tell)));
    });
    let thread = thread.unwrap();
    let id = thread.thread().id();
    thread.join().unwrap();
    for (name, own) in told.try_iter() {
        println!("{name:?}, the same id: {}", id == own);
    }
}

fn after_panic() {
    let log = Log::default();
    let inner = Arc::clone(&log);
    let thread = thread::spawn(move || {
        let at_end = Arc::clone(&inner);
        FIRST.with(|first| {
            first.run(move || note(&at_end, format!("panicking: {}", thread::panicking())));
        });
        panic!("with a local to destroy");
    });
    println!("thrown: {}", thread.join().is_err());
    println!("{:?}", log.lock().unwrap());
}

fn many() {
    let left = Arc::new(());
    let threads: Vec<_> = (0..200)
        .map(|_| {
            let left = Arc::clone(&left);
            thread::spawn(move || {
                let also = Arc::clone(&left);
                FIRST.with(|at_end| at_end.run(move || drop(left)));
                THIRD.with(|at_end| at_end.run(move || drop(also)));
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    println!("references: {}", Arc::strong_count(&left));
}
