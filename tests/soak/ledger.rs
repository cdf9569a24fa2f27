//! The account of everybody who has been spawned, and of all that is destroyed at a
//! thread's end: each has begun once, and has ended once.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::common::MS;
use super::common::stress::Random;

/// Begun and ended.
#[derive(Default)]
struct Pair(AtomicUsize, AtomicUsize);

impl Pair {
    const fn new() -> Pair {
        Pair(AtomicUsize::new(0), AtomicUsize::new(0))
    }

    fn is_even(&self) -> bool {
        // In this order: nothing ends that has not begun.
        let ended = self.1.load(Relaxed);
        ended == self.0.load(Relaxed)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.1.load(Relaxed), self.0.load(Relaxed))
    }
}

pub struct Ledger {
    /// Closures: each is run or dropped, and is gone then.
    lives: Pair,
    /// Threads that have got as far as to have thread-locals to destroy.
    locals: Pair,
    /// Values of a `pthread` key.
    keys: Pair,
    pub returned: AtomicUsize,
    pub panicked: AtomicUsize,
    pub killed: AtomicUsize,
    /// Those for whom nobody has waited.
    pub detached: AtomicUsize,
    /// Those whom there was no memory for.
    pub refused: AtomicUsize,
}

pub static LEDGER: Ledger = Ledger {
    lives: Pair::new(),
    locals: Pair::new(),
    keys: Pair::new(),
    returned: AtomicUsize::new(0),
    panicked: AtomicUsize::new(0),
    killed: AtomicUsize::new(0),
    detached: AtomicUsize::new(0),
    refused: AtomicUsize::new(0),
};

impl Ledger {
    pub fn is_settled(&self) -> bool {
        [&self.lives, &self.locals, &self.keys]
            .into_iter()
            .all(Pair::is_even)
    }

    pub fn spawned(&self) -> usize {
        self.lives.0.load(Relaxed)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ledger {
            lives,
            locals,
            keys,
            returned,
            panicked,
            killed,
            detached,
            refused,
        } = self;
        let [returned, panicked, killed, detached, refused] =
            [returned, panicked, killed, detached, refused].map(|count| count.load(Relaxed));
        write!(
            f,
            "ended {lives}, thread-locals {locals}, keys {keys}; \
             joined: {returned} returned, {panicked} panicked, {killed} killed; \
             detached {detached}, refused {refused}"
        )
    }
}

/// Goes with a closure; ends when that does.
pub struct Life(Box<u64>);

const ALIVE: u64 = 0x11fe;

impl Life {
    pub fn new() -> Life {
        LEDGER.lives.0.fetch_add(1, Relaxed);
        Life(Box::new(ALIVE))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if std::mem::take(&mut *self.0) != ALIVE {
            eprintln!("somebody has ended twice");
            std::process::abort();
        }
        LEDGER.lives.1.fetch_add(1, Relaxed);
    }
}

/// What a thread-local does when it is destroyed.
#[derive(Clone, Copy)]
enum Last {
    Nothing,
    Sleeps,
    SpawnsAThread,
    SpawnsAnIsolatedOne,
    SpawnsALightOne,
    UsesAnotherOne,
}

struct Local(Last, #[allow(dead_code, reason = "it is dropped")] Gone);

/// Counts, also where a kill is thrown through the destructor of a `Local` that is
/// replaced by another one.
struct Gone(Box<u64>);

impl Drop for Gone {
    fn drop(&mut self) {
        if std::mem::take(&mut *self.0) != ALIVE {
            eprintln!("a thread-local was destroyed twice");
            std::process::abort();
        }
        LEDGER.locals.1.fetch_add(1, Relaxed);
    }
}

impl Local {
    fn new(last: Last) -> Local {
        LEDGER.locals.0.fetch_add(1, Relaxed);
        Local(last, Gone(Box::new(ALIVE)))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        match self.0 {
            Last::Nothing => {}
            Last::Sleeps => thread::sleep(MS / 4),
            Last::SpawnsAThread => {
                let life = Life::new();
                let spawned = thread::Builder::new().spawn(move || drop(life));
                if let Ok(thread) = spawned {
                    thread.join().unwrap();
                }
            }
            Last::SpawnsAnIsolatedOne => {
                let life = Life::new();
                let spawned = greenlet::Builder::new().spawn_isolated(move || drop(life));
                if let Ok(handle) = spawned {
                    handle.join().unwrap();
                }
            }
            // It may be killed before its first turn, or be one of a living domain.
            Last::SpawnsALightOne => {
                let life = Life::new();
                let _ = greenlet::Builder::new().spawn(move || drop(life));
            }
            Last::UsesAnotherOne => {
                let _ = OTHER.try_with(|other| other.replace(Some(Local::new(Last::Nothing))));
            }
        }
    }
}

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
    static OTHER: RefCell<Option<Local>> = const { RefCell::new(None) };
    /// Whose thread-locals these are.
    static OWNER: Cell<u64> = const { Cell::new(0) };
}

/// Leaves something in a thread-local that is destroyed at the thread's end.
pub fn leave_a_local(random: &mut Random) {
    let last = [
        Last::Nothing,
        Last::Sleeps,
        Last::SpawnsAThread,
        Last::SpawnsAnIsolatedOne,
        Last::SpawnsALightOne,
        Last::UsesAnotherOne,
    ][random.below(6)];
    // What it replaces is destroyed when nothing is borrowed any more.
    drop(LOCAL.with(|local| local.replace(Some(Local::new(last)))));
}

/// Says that the thread is this one's, from now on.
pub fn own(tag: u64) {
    assert_eq!(OWNER.replace(tag), 0);
}

pub fn is_owner(tag: u64) -> bool {
    OWNER.get() == tag
}

/// Leaves something for the destructor of a `pthread` key.
pub fn leave_a_value() {
    static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
    extern "C" fn destroy(value: *mut c_void) {
        // SAFETY: it is one of those below, and only here again.
        let value = unsafe { Box::from_raw(value.cast::<u64>()) };
        if *value % 4 == 1 {
            thread::sleep(MS / 8);
        }
        LEDGER.keys.1.fetch_add(1, Relaxed);
        // It is called again for what it sets now.
        if *value % 8 == 2 {
            set(*value + 1);
        }
    }
    fn set(value: u64) {
        let key = *KEY.get_or_init(|| {
            let mut key = 0;
            // SAFETY: a variable, and a function of the right type.
            let error = unsafe { libc::pthread_key_create(&mut key, Some(destroy)) };
            assert_eq!(error, 0);
            key
        });
        // SAFETY: the key is one.
        unsafe {
            if libc::pthread_getspecific(key).is_null() {
                LEDGER.keys.0.fetch_add(1, Relaxed);
                let value = Box::into_raw(Box::new(value));
                libc::pthread_setspecific(key, value.cast());
            }
        }
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    set(NEXT.fetch_add(1, Relaxed) as u64);
}
