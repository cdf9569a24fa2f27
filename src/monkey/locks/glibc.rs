//! glibc's own functions, which ours take the place of.
//!
//! They are looked for by `dlsym`, all at once: before `main`, or at the first call of
//! one of ours, if that comes from a library's constructor. `dlsym` may free what
//! `dlerror` had to say before, and so call an allocator that locks a mutex: see
//! [`mutex`](super::mutex) for what it gets, where libc's function is not known yet.

use std::cell::Cell;
use std::ffi::CStr;

use libc::{
    c_int, clockid_t, pthread_barrier_t, pthread_cond_t, pthread_mutex_t, pthread_rwlock_t,
    pthread_spinlock_t, sem_t, timespec,
};

use crate::monkey::real::Real;
use crate::sys::os;

/// A function that returns an `int`.
macro_rules! plain {
    ($($type:ty),*) => { unsafe extern "C" fn($($type),*) -> c_int };
}

/// One that a thread may be cancelled in, or that calls what unwinds: see
/// `interposed_unwinding!`.
#[cfg(panic = "unwind")]
macro_rules! unwinding {
    ($($type:ty),*) => { unsafe extern "C-unwind" fn($($type),*) -> c_int };
}
#[cfg(not(panic = "unwind"))]
macro_rules! unwinding {
    ($($type:ty),*) => { unsafe extern "C" fn($($type),*) -> c_int };
}

/// A static for each function, and `find_all`, which looks for them.
macro_rules! functions {
    ($($static:ident = $name:literal $(of $version:literal)?: $type:ty;)*) => {
        $(
            pub(super) static $static: Function<$type> = Function {
                // SAFETY: that is its type.
                real: unsafe { Real::new($name) },
                version: [$($version)?].first().copied(),
            };
        )*

        fn find_all() {
            $($static.find();)*
        }
    };
}

type Mutex = *mut pthread_mutex_t;
type Cond = *mut pthread_cond_t;
type Rwlock = *mut pthread_rwlock_t;
type Semaphore = *mut sem_t;
type Time = *const timespec;
/// What `pthread_once` calls.
#[cfg(panic = "unwind")]
pub(super) type Initialiser = unsafe extern "C-unwind" fn();
#[cfg(not(panic = "unwind"))]
pub(super) type Initialiser = unsafe extern "C" fn();

functions! {
    MUTEX_UNLOCK = c"pthread_mutex_unlock": plain!(Mutex);
    MUTEX_LOCK = c"pthread_mutex_lock": plain!(Mutex);
    MUTEX_TIMEDLOCK = c"pthread_mutex_timedlock": plain!(Mutex, Time);
    MUTEX_CLOCKLOCK = c"pthread_mutex_clocklock": plain!(Mutex, clockid_t, Time);
    COND_WAIT = c"pthread_cond_wait" of c"GLIBC_2.3.2": unwinding!(Cond, Mutex);
    COND_TIMEDWAIT = c"pthread_cond_timedwait" of c"GLIBC_2.3.2": unwinding!(Cond, Mutex, Time);
    COND_CLOCKWAIT = c"pthread_cond_clockwait": unwinding!(Cond, Mutex, clockid_t, Time);
    COND_SIGNAL = c"pthread_cond_signal" of c"GLIBC_2.3.2": plain!(Cond);
    COND_BROADCAST = c"pthread_cond_broadcast" of c"GLIBC_2.3.2": plain!(Cond);
    RWLOCK_RDLOCK = c"pthread_rwlock_rdlock": plain!(Rwlock);
    RWLOCK_WRLOCK = c"pthread_rwlock_wrlock": plain!(Rwlock);
    RWLOCK_TIMEDRDLOCK = c"pthread_rwlock_timedrdlock": plain!(Rwlock, Time);
    RWLOCK_TIMEDWRLOCK = c"pthread_rwlock_timedwrlock": plain!(Rwlock, Time);
    RWLOCK_CLOCKRDLOCK = c"pthread_rwlock_clockrdlock": plain!(Rwlock, clockid_t, Time);
    RWLOCK_CLOCKWRLOCK = c"pthread_rwlock_clockwrlock": plain!(Rwlock, clockid_t, Time);
    RWLOCK_UNLOCK = c"pthread_rwlock_unlock": plain!(Rwlock);
    BARRIER_WAIT = c"pthread_barrier_wait": plain!(*mut pthread_barrier_t);
    BARRIER_DESTROY = c"pthread_barrier_destroy": plain!(*mut pthread_barrier_t);
    ONCE = c"pthread_once": unwinding!(*mut c_int, Initialiser);
    SPIN_LOCK = c"pthread_spin_lock": plain!(*mut pthread_spinlock_t);
    SEM_WAIT = c"sem_wait": unwinding!(Semaphore);
    SEM_TIMEDWAIT = c"sem_timedwait": unwinding!(Semaphore, Time);
    SEM_CLOCKWAIT = c"sem_clockwait": unwinding!(Semaphore, clockid_t, Time);
    SEM_POST = c"sem_post": plain!(Semaphore);
}

/// A function of libc's.
pub(super) struct Function<F> {
    real: Real<F>,
    /// Of several that x86-64's glibc has, for programs that are older than glibc 2.3.2.
    /// Up to glibc 2.35 `dlsym` finds the oldest.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there is one"))]
    version: Option<&'static CStr>,
}

impl<F: Copy> Function<F> {
    /// None if this libc has no such function, or this thread is looking for it.
    #[inline(always)]
    pub(super) fn get(&self) -> Option<F> {
        match self.real.known() {
            None => {
                look_up();
                self.real.known()
            }
            known => known,
        }
    }

    fn find(&self) {
        match self.version {
            #[cfg(target_arch = "x86_64")]
            Some(version) => self.real.get_version(version),
            _ => self.real.get(),
        };
    }
}

thread_local! {
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Looks for all of them, unless this thread is at it.
#[cold]
#[inline(never)]
pub(super) extern "C" fn look_up() {
    if !LOOKING.replace(true) {
        let saved = os::errno();
        find_all();
        os::set_errno(saved);
        LOOKING.set(false);
    }
}

// SAFETY: the section is one of pointers to functions, which the loader calls one after
// the other, with arguments that this one does not look at. What it calls needs nothing
// that is not there before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look_up;
