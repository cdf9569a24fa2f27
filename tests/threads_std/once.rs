//! `Barrier`, `Once`, `OnceLock` and `LazyLock`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier, LazyLock, Mutex, Once, OnceLock};
use std::thread;

use crate::shared::{MS, event, text};
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("barrier: one leader each time", leader),
    ("barrier: nobody passes before all are there", together),
    ("once: one runs it, all wait for it", once),
    ("once: poison", once_poison),
    ("once lock: an initialiser that waits", once_lock),
    ("once lock: set and get", set_and_get),
    ("lazy lock: an initialiser that waits", lazy_lock),
    ("lazy lock: poison", lazy_poison),
    ("lazy lock: one in another", lazy_nested),
];

fn leader() {
    const ROUNDS: usize = 20;
    let barrier = Arc::new(Barrier::new(8));
    let leaders: Arc<Vec<_>> = Arc::new((0..ROUNDS).map(|_| AtomicU32::new(0)).collect());
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (barrier, leaders) = (Arc::clone(&barrier), Arc::clone(&leaders));
            thread::spawn(move || {
                for leaders in leaders.iter() {
                    if barrier.wait().is_leader() {
                        leaders.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    count_threads();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let leaders: Vec<_> = leaders.iter().map(|number| number.load(SeqCst)).collect();
    println!("{leaders:?}");
    println!("alone: {}", Barrier::new(1).wait().is_leader());
    println!("of nobody: {}", Barrier::new(0).wait().is_leader());
}

fn together() {
    let barrier = Arc::new(Barrier::new(5));
    let arrived = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..5)
        .map(|number| {
            let (barrier, arrived) = (Arc::clone(&barrier), Arc::clone(&arrived));
            thread::spawn(move || {
                (0..number).for_each(|_| thread::yield_now());
                arrived.fetch_add(1, SeqCst);
                barrier.wait();
                arrived.load(SeqCst)
            })
        })
        .collect();
    let seen: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    println!("{seen:?}");
}

/// Has five threads call `f`, all of which have arrived before an initialiser that
/// waits for the receiver may go on.
fn five<R: Send + 'static>(
    f: impl Fn(&Mutex<Receiver<()>>) -> R + Clone + Send + 'static,
) -> Vec<R> {
    let (go, gone): (Sender<()>, Receiver<()>) = event();
    let gone = Arc::new(Mutex::new(gone));
    let (tell, told) = mpsc::channel();
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let (gone, tell, f) = (Arc::clone(&gone), tell.clone(), f.clone());
            thread::spawn(move || {
                tell.send(()).unwrap();
                f(&gone)
            })
        })
        .collect();
    (0..5).for_each(|_| told.recv().unwrap());
    go.send(()).unwrap();
    threads.into_iter().map(|t| t.join().unwrap()).collect()
}

fn once() {
    static ONCE: Once = Once::new();
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let seen = five(|gone| {
        ONCE.call_once(|| {
            gone.lock().unwrap().recv().unwrap();
            thread::sleep(MS);
            RUNS.fetch_add(1, SeqCst);
        });
        (ONCE.is_completed(), RUNS.load(SeqCst))
    });
    println!("{seen:?}");
}

fn once_poison() {
    let once = Arc::new(Once::new());
    let thrower = {
        let once = Arc::clone(&once);
        thread::spawn(move || once.call_once(|| panic!("an initialiser")))
    };
    println!("{}", text(&*thrower.join().unwrap_err()));
    println!("completed: {}", once.is_completed());
    let again = {
        let once = Arc::clone(&once);
        thread::spawn(move || once.call_once(|| println!("it runs")))
    };
    println!("{}", text(&*again.join().unwrap_err()));
    once.call_once_force(|state| println!("poisoned: {}", state.is_poisoned()));
    once.call_once_force(|_| println!("it runs again"));
    println!("completed: {}", once.is_completed());
}

fn once_lock() {
    static CELL: OnceLock<u32> = OnceLock::new();
    static RUNS: AtomicU32 = AtomicU32::new(0);
    println!("{:?}", CELL.get());
    let seen = five(|gone| {
        *CELL.get_or_init(|| {
            gone.lock().unwrap().recv().unwrap();
            let other = thread::spawn(|| RUNS.fetch_add(1, SeqCst) + 41);
            other.join().unwrap() + 1
        })
    });
    println!("{seen:?}");
}

fn set_and_get() {
    let cell = Arc::new(OnceLock::new());
    let threads: Vec<_> = (0..10)
        .map(|number| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.set(number).is_ok())
        })
        .collect();
    let set = threads.into_iter().map(|t| t.join().unwrap());
    println!("set by {}", set.filter(|set| *set).count());
    println!("{} {:?}", cell.get().is_some(), cell.set(99));
    let cell = OnceLock::new();
    let thrown = catch_unwind(AssertUnwindSafe(|| {
        cell.get_or_init(|| panic!("not this time"));
    }));
    println!("{}", text(&*thrown.unwrap_err()));
    println!("{:?}", cell.get_or_init(|| 5));
}

fn lazy_lock() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    static GONE: Mutex<Option<Receiver<()>>> = Mutex::new(None);
    static LAZY: LazyLock<String> = LazyLock::new(|| {
        GONE.lock().unwrap().take().unwrap().recv().unwrap();
        thread::sleep(MS);
        format!("made {} time", RUNS.fetch_add(1, SeqCst) + 1)
    });
    let (go, gone) = event();
    *GONE.lock().unwrap() = Some(gone);
    let (tell, told) = mpsc::channel();
    let threads = [(); 5].map(|()| {
        let tell = tell.clone();
        thread::spawn(move || {
            tell.send(()).unwrap();
            LAZY.len()
        })
    });
    (0..5).for_each(|_| told.recv().unwrap());
    go.send(()).unwrap();
    println!("{:?}", threads.map(|thread| thread.join().unwrap()));
    println!("{}", *LAZY);
}

fn lazy_poison() {
    static LAZY: LazyLock<u32> = LazyLock::new(|| panic!("the lazy one"));
    for _ in 0..2 {
        let thrower = thread::spawn(|| *LAZY);
        println!("{}", text(&*thrower.join().unwrap_err()));
    }
}

fn lazy_nested() {
    static INNER: LazyLock<u32> = LazyLock::new(|| {
        thread::sleep(MS);
        20
    });
    static OUTER: LazyLock<u32> = LazyLock::new(|| thread::spawn(|| *INNER).join().unwrap() + 1);
    let threads = [0, 1, 2, 3].map(|number| {
        thread::spawn(move || match number % 2 {
            0 => *OUTER,
            _ => *INNER,
        })
    });
    println!("{:?}", threads.map(|thread| thread.join().unwrap()));
}
