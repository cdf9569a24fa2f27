//! What glibc keeps in its objects beside the lock itself, on 64-bit machines:
//!
//! ```text
//!   words (32 bits)    0        1        2       3         4        5   6        7
//!   mutex              lock     count    owner   users     kind│S
//!   rwlock             readers  writers  phase   futex                  writer   shared
//!   barrier            in       round    count   shared    out
//!   semaphore          value    waiters  shared
//!   condition          somewhere, one word with a flag S and one for its clock
//!   once               0: not yet, 1 + 4 × fork's number: it runs, 2: done
//! ```
//!
//! None of that is promised by glibc, though statically initialised mutexes keep it from
//! changing the first line. So objects of all kinds are made and looked at before the
//! locks are patched, and if anything is elsewhere, all locks of C stay as they were:
//! they block the thread.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use libc::{
    PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE,
    PTHREAD_PROCESS_PRIVATE, PTHREAD_PROCESS_SHARED, c_int, c_uint, pthread_barrier_t,
    pthread_cond_t, pthread_mutex_t, pthread_rwlock_t, sem_t,
};

use super::glibc::{self, Initialiser};
use crate::hub::Hub;
use crate::monkey::real::real;
use crate::sys::threads;

/// In which word of a condition variable its flags are; 0 until all is known.
static COND_FLAGS: AtomicUsize = AtomicUsize::new(0);

/// Whether the locks of C are patched.
#[inline(always)]
pub(super) fn on() -> bool {
    COND_FLAGS.load(Ordering::Relaxed) != 0
}

/// Looks at objects of all kinds, once.
pub(super) fn prepare() {
    if on() || cfg!(not(target_pointer_width = "64")) {
        return;
    }
    if let (true, true, true, true, true, Some(flags)) = (
        mutexes_fit(),
        rwlocks_fit(),
        barriers_fit(),
        semaphores_fit(),
        generation().is_some(),
        find_cond_flags(),
    ) {
        COND_FLAGS.store(flags, Ordering::SeqCst);
    }
}

/// A word of an object.
///
/// # Safety
/// The object is alive, and has so many words; all of it is changed by atomic
/// instructions only.
#[inline(always)]
pub(super) unsafe fn word<'a, T>(object: *const T, index: usize) -> &'a AtomicU32 {
    // SAFETY: the caller's promise; objects of C are aligned to four bytes at least.
    unsafe { AtomicU32::from_ptr(object.cast::<u32>().add(index).cast_mut()) }
}

/// What there is to know of a mutex.
#[derive(Clone, Copy)]
pub(super) struct MutexShape {
    kind: u32,
}

const OWNER: usize = 2;
const KIND: usize = 4;
/// Of a mutex's kind: its type, and that processes share it.
const TYPE: u32 = 3;
const MUTEX_SHARED: u32 = 128;

impl MutexShape {
    /// # Safety
    /// The mutex is alive.
    pub(super) unsafe fn of(mutex: *const pthread_mutex_t) -> MutexShape {
        // SAFETY: the caller's promise.
        let kind = unsafe { word(mutex, KIND) }.load(Ordering::Relaxed);
        MutexShape { kind }
    }

    pub(super) fn is_shared(self) -> bool {
        self.kind & MUTEX_SHARED != 0
    }

    /// Whether whoever has it gets an error for wanting it again.
    pub(super) fn checks_errors(self) -> bool {
        self.kind & TYPE == PTHREAD_MUTEX_ERRORCHECK as u32
    }
}

/// By what number glibc's locks know who has the mutex; 0 if nobody has, or nobody yet.
///
/// # Safety
/// The mutex is alive.
pub(super) unsafe fn owner(mutex: *const pthread_mutex_t) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { word(mutex, OWNER) }.load(Ordering::Relaxed)
}

/// By what number glibc's locks know the caller.
pub(super) fn me() -> u32 {
    let mut mine = libc::PTHREAD_MUTEX_INITIALIZER;
    // SAFETY: a mutex of our own, which needs no end.
    unsafe {
        libc::pthread_mutex_trylock(&raw mut mine);
        owner(&raw const mine)
    }
}

/// # Safety
/// The lock is alive.
pub(super) unsafe fn rwlock_is_shared(lock: *const pthread_rwlock_t) -> bool {
    // SAFETY: the caller's promise.
    unsafe { word(lock, 7) }.load(Ordering::Relaxed) & 0xff != 0
}

/// By what number glibc knows who writes.
///
/// # Safety
/// The lock is alive.
pub(super) unsafe fn writer(lock: *const pthread_rwlock_t) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { word(lock, 6) }.load(Ordering::Relaxed)
}

/// # Safety
/// The semaphore is alive.
pub(super) unsafe fn semaphore_is_shared(semaphore: *const sem_t) -> bool {
    // SAFETY: the caller's promise.
    unsafe { word(semaphore, 2) }.load(Ordering::Relaxed) != 0
}

const COND_SHARED: u32 = 1;
const COND_MONOTONIC: u32 = 2;

/// Whether a condition variable is shared with other processes, and its clock.
///
/// # Safety
/// It is alive, and the locks are patched.
pub(super) unsafe fn cond(cond: *const pthread_cond_t) -> (bool, libc::clockid_t) {
    // SAFETY: the caller's promise.
    let flags = unsafe { word(cond, COND_FLAGS.load(Ordering::Relaxed)) };
    let flags = flags.load(Ordering::Relaxed);
    let clock = match flags & COND_MONOTONIC {
        0 => libc::CLOCK_REALTIME,
        _ => libc::CLOCK_MONOTONIC,
    };
    (flags & COND_SHARED != 0, clock)
}

/// What stands in the word of a `pthread_once_t` while its initialiser runs, in this
/// process: one that a fork has found running is run again.
pub(super) fn generation() -> Option<u32> {
    thread_local! {
        static LOOK_AT: Cell<*const c_int> = const { Cell::new(std::ptr::null()) };
        static SEEN: Cell<u32> = const { Cell::new(0) };
    }
    #[cfg(panic = "unwind")]
    unsafe extern "C-unwind" fn look() {
        // SAFETY: the variable below.
        SEEN.set(unsafe { LOOK_AT.get().cast::<u32>().read_volatile() });
    }
    #[cfg(not(panic = "unwind"))]
    unsafe extern "C" fn look() {
        // SAFETY: as above.
        SEEN.set(unsafe { LOOK_AT.get().cast::<u32>().read_volatile() });
    }
    let mut mine: c_int = libc::PTHREAD_ONCE_INIT;
    LOOK_AT.set(&raw const mine);
    // SAFETY: a variable of our own, and a function that takes nothing.
    unsafe { real!(glibc::ONCE(&raw mut mine, look as Initialiser)) };
    LOOK_AT.set(std::ptr::null());
    let seen = SEEN.get();
    (mine as u32 == super::once::DONE && seen & 3 == super::once::RUNS).then_some(seen)
}

// Trying it out.

const BOTH: [c_int; 2] = [PTHREAD_PROCESS_PRIVATE, PTHREAD_PROCESS_SHARED];

/// How often an object of this many bytes has a word.
const fn words<T>() -> usize {
    size_of::<T>() / size_of::<u32>()
}

fn mutexes_fit() -> bool {
    const ADAPTIVE: c_int = 3;
    let kinds = [
        PTHREAD_MUTEX_NORMAL,
        PTHREAD_MUTEX_RECURSIVE,
        PTHREAD_MUTEX_ERRORCHECK,
        ADAPTIVE,
    ];
    let mut owners = [0; 4];
    for (shared, (at, kind)) in BOTH.into_iter().flat_map(|shared| {
        kinds
            .into_iter()
            .enumerate()
            .map(move |kind| (shared, kind))
    }) {
        let mut attributes = MaybeUninit::zeroed();
        let mut mutex = MaybeUninit::<pthread_mutex_t>::zeroed();
        let at_mutex = mutex.as_mut_ptr();
        // SAFETY: objects of our own, each made before it is used.
        let (held, shape) = unsafe {
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), kind);
            libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), shared);
            libc::pthread_mutex_init(at_mutex, attributes.as_ptr());
            libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
            let shape = MutexShape::of(at_mutex);
            libc::pthread_mutex_trylock(at_mutex);
            let held = owner(at_mutex);
            real!(glibc::MUTEX_UNLOCK(at_mutex));
            let free = owner(at_mutex);
            libc::pthread_mutex_destroy(at_mutex);
            (if free == 0 { held } else { 0 }, shape)
        };
        owners[at] = held;
        let fits = shape.kind & TYPE == kind as u32
            && shape.is_shared() == (shared == PTHREAD_PROCESS_SHARED)
            && held == owners[0]
            && is_me(held);
        if !fits {
            return false;
        }
    }
    true
}

/// Whether this can be the caller's number. What an isolated greenlet's is, we say.
fn is_me(number: u32) -> bool {
    let tid = threads::current() as u32;
    number != 0 && (number == tid || Hub::is_isolated()) && number == me()
}

fn rwlocks_fit() -> bool {
    BOTH.into_iter().all(|shared| {
        let mut attributes = MaybeUninit::zeroed();
        let mut lock = MaybeUninit::<pthread_rwlock_t>::zeroed();
        let at_lock = lock.as_mut_ptr();
        // SAFETY: objects of our own, each made before it is used.
        unsafe {
            libc::pthread_rwlockattr_init(attributes.as_mut_ptr());
            libc::pthread_rwlockattr_setpshared(attributes.as_mut_ptr(), shared);
            libc::pthread_rwlock_init(at_lock, attributes.as_ptr());
            libc::pthread_rwlockattr_destroy(attributes.as_mut_ptr());
            libc::pthread_rwlock_trywrlock(at_lock);
            let held = writer(at_lock);
            real!(glibc::RWLOCK_UNLOCK(at_lock));
            let fits = is_me(held)
                && writer(at_lock) == 0
                && rwlock_is_shared(at_lock) == (shared == PTHREAD_PROCESS_SHARED);
            libc::pthread_rwlock_destroy(at_lock);
            fits
        }
    })
}

fn barriers_fit() -> bool {
    const COUNT: c_uint = 7;
    BOTH.into_iter().all(|shared| {
        let mut attributes = MaybeUninit::zeroed();
        let mut barrier = MaybeUninit::<pthread_barrier_t>::zeroed();
        let at_barrier = barrier.as_mut_ptr();
        // SAFETY: objects of our own, each made before it is used.
        unsafe {
            libc::pthread_barrierattr_init(attributes.as_mut_ptr());
            libc::pthread_barrierattr_setpshared(attributes.as_mut_ptr(), shared);
            libc::pthread_barrier_init(at_barrier, attributes.as_ptr(), COUNT);
            libc::pthread_barrierattr_destroy(attributes.as_mut_ptr());
            let seen: [u32; 5] =
                std::array::from_fn(|at| word(at_barrier, at).load(Ordering::Relaxed));
            // It counts those that are through, and finds that there was nobody.
            let destroyed = real!(glibc::BARRIER_DESTROY(at_barrier));
            let out = word(at_barrier, 4).load(Ordering::Relaxed);
            let shared = u32::from(shared == PTHREAD_PROCESS_SHARED) * 128;
            destroyed == 0 && seen == [0, 0, COUNT, shared, 0] && out == super::barrier::most(COUNT)
        }
    })
}

fn semaphores_fit() -> bool {
    BOTH.into_iter().all(|shared| {
        let mut semaphore = MaybeUninit::<sem_t>::zeroed();
        let at_semaphore = semaphore.as_mut_ptr();
        // SAFETY: an object of our own, made before it is used.
        unsafe {
            libc::sem_init(at_semaphore, shared, 0);
            let is_shared = semaphore_is_shared(at_semaphore);
            libc::sem_destroy(at_semaphore);
            is_shared == (shared == PTHREAD_PROCESS_SHARED)
        }
    })
}

/// The one word of a new condition variable in which these two flags are.
fn find_cond_flags() -> Option<usize> {
    const WORDS: usize = words::<pthread_cond_t>();
    let made = |shared: c_int, clock: libc::clockid_t| {
        let mut attributes = MaybeUninit::zeroed();
        let mut cond = MaybeUninit::<pthread_cond_t>::zeroed();
        // SAFETY: objects of our own, each made before it is used.
        unsafe {
            libc::pthread_condattr_init(attributes.as_mut_ptr());
            libc::pthread_condattr_setpshared(attributes.as_mut_ptr(), shared);
            libc::pthread_condattr_setclock(attributes.as_mut_ptr(), clock);
            libc::pthread_cond_init(cond.as_mut_ptr(), attributes.as_ptr());
            libc::pthread_condattr_destroy(attributes.as_mut_ptr());
            let words: [u32; WORDS] =
                std::array::from_fn(|at| word(cond.as_ptr(), at).load(Ordering::Relaxed));
            libc::pthread_cond_destroy(cond.as_mut_ptr());
            words
        }
    };
    let [private, shared] = BOTH;
    let seen = [
        (made(private, libc::CLOCK_REALTIME), 0),
        (made(shared, libc::CLOCK_REALTIME), COND_SHARED),
        (made(private, libc::CLOCK_MONOTONIC), COND_MONOTONIC),
        (
            made(shared, libc::CLOCK_MONOTONIC),
            COND_SHARED | COND_MONOTONIC,
        ),
    ];
    let mut places = (1..WORDS).filter(|at| seen.iter().all(|(words, flags)| words[*at] == *flags));
    match (places.next(), places.next()) {
        (Some(place), None) => Some(place),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_where_it_is_expected() {
        super::super::glibc::look_up();
        assert!(mutexes_fit() && rwlocks_fit() && barriers_fit() && semaphores_fit());
        assert!(find_cond_flags().is_some());
        assert_eq!(generation().map(|word| word & 3), Some(1));
        assert_eq!(me(), threads::current() as u32);
    }
}
