//! Locks of C, as C code has them: each lives for as long as the program, or until it is
//! destroyed by the test itself.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use libc::{clockid_t, timespec};

use crate::common::{self, MS, os_thread, until};
use crate::patched::{Ticker, errno};
use greenlet::{IsolatedHandle, spawn, spawn_isolated};

unsafe extern "C" {
    fn pthread_mutex_clocklock(
        m: *mut libc::pthread_mutex_t,
        c: clockid_t,
        t: *const timespec,
    ) -> c_int;
    fn pthread_cond_clockwait(
        cond: *mut libc::pthread_cond_t,
        mutex: *mut libc::pthread_mutex_t,
        clock: clockid_t,
        time: *const timespec,
    ) -> c_int;
    fn pthread_rwlock_clockrdlock(
        l: *mut libc::pthread_rwlock_t,
        c: clockid_t,
        t: *const timespec,
    ) -> c_int;
    fn pthread_rwlock_clockwrlock(
        l: *mut libc::pthread_rwlock_t,
        c: clockid_t,
        t: *const timespec,
    ) -> c_int;
    fn pthread_rwlock_timedrdlock(l: *mut libc::pthread_rwlock_t, t: *const timespec) -> c_int;
    fn pthread_rwlock_timedwrlock(l: *mut libc::pthread_rwlock_t, t: *const timespec) -> c_int;
    fn sem_clockwait(s: *mut libc::sem_t, c: clockid_t, t: *const timespec) -> c_int;
}

unsafe extern "C-unwind" {
    fn pthread_once(control: *mut c_int, f: extern "C-unwind" fn()) -> c_int;
    fn call_once(control: *mut c_int, f: extern "C-unwind" fn());
}

/// A moment from now, by a clock.
pub fn after(clock: clockid_t, time: Duration) -> timespec {
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live variable.
    unsafe { libc::clock_gettime(clock, &mut now) };
    let at = Duration::new(now.tv_sec as u64, now.tv_nsec as u32) + time;
    timespec {
        tv_sec: at.as_secs() as _,
        tv_nsec: at.subsec_nanos().into(),
    }
}

/// Memory of one's own, or of several processes.
fn room<T>(shared: bool) -> &'static UnsafeCell<T> {
    if !shared {
        let room: MaybeUninit<T> = MaybeUninit::zeroed();
        // SAFETY: objects of C, of which all bytes may be zero.
        return Box::leak(Box::new(UnsafeCell::new(unsafe { room.assume_init() })));
    }
    // SAFETY: a new mapping, filled with zeroes.
    unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        &*page.cast()
    }
}

const fn pshared(shared: bool) -> c_int {
    match shared {
        true => libc::PTHREAD_PROCESS_SHARED,
        false => libc::PTHREAD_PROCESS_PRIVATE,
    }
}

macro_rules! object {
    ($name:ident, $type:ty) => {
        #[derive(Clone, Copy)]
        pub struct $name(pub &'static UnsafeCell<$type>);
        // SAFETY: that is what they are for.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
        impl $name {
            pub fn at(self) -> *mut $type {
                self.0.get()
            }
        }
    };
}

object!(Mutex, libc::pthread_mutex_t);
object!(Cond, libc::pthread_cond_t);
object!(Rwlock, libc::pthread_rwlock_t);
object!(Barrier, libc::pthread_barrier_t);
object!(Semaphore, libc::sem_t);
object!(Once, c_int);
object!(Spin, libc::pthread_spinlock_t);

// SAFETY, of all that follows: the objects have been initialised, and live for ever; times
// are live variables.
#[allow(clippy::undocumented_unsafe_blocks)]
mod calls {
    use super::*;

    impl Mutex {
        pub fn new() -> Mutex {
            Mutex::of(libc::PTHREAD_MUTEX_NORMAL, false)
        }

        pub fn of(kind: c_int, shared: bool) -> Mutex {
            let mutex = Mutex(room(shared));
            let mut attributes = MaybeUninit::zeroed();
            unsafe {
                libc::pthread_mutexattr_init(attributes.as_mut_ptr());
                libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), kind);
                libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), pshared(shared));
                assert_eq!(libc::pthread_mutex_init(mutex.at(), attributes.as_ptr()), 0);
            }
            mutex
        }

        pub fn lock(self) -> c_int {
            unsafe { libc::pthread_mutex_lock(self.at()) }
        }

        pub fn try_lock(self) -> c_int {
            unsafe { libc::pthread_mutex_trylock(self.at()) }
        }

        pub fn unlock(self) -> c_int {
            unsafe { libc::pthread_mutex_unlock(self.at()) }
        }

        pub fn lock_until(self, time: timespec) -> c_int {
            unsafe { libc::pthread_mutex_timedlock(self.at(), &time) }
        }

        pub fn lock_by(self, clock: clockid_t, time: timespec) -> c_int {
            unsafe { pthread_mutex_clocklock(self.at(), clock, &time) }
        }
    }

    impl Cond {
        pub fn new() -> Cond {
            Cond::of(libc::CLOCK_REALTIME, false)
        }

        pub fn of(clock: clockid_t, shared: bool) -> Cond {
            let cond = Cond(room(shared));
            let mut attributes = MaybeUninit::zeroed();
            unsafe {
                libc::pthread_condattr_init(attributes.as_mut_ptr());
                libc::pthread_condattr_setclock(attributes.as_mut_ptr(), clock);
                libc::pthread_condattr_setpshared(attributes.as_mut_ptr(), pshared(shared));
                assert_eq!(libc::pthread_cond_init(cond.at(), attributes.as_ptr()), 0);
            }
            cond
        }

        pub fn wait(self, mutex: Mutex) -> c_int {
            unsafe { libc::pthread_cond_wait(self.at(), mutex.at()) }
        }

        pub fn wait_until(self, mutex: Mutex, time: timespec) -> c_int {
            unsafe { libc::pthread_cond_timedwait(self.at(), mutex.at(), &time) }
        }

        pub fn wait_by(self, mutex: Mutex, clock: clockid_t, time: timespec) -> c_int {
            unsafe { pthread_cond_clockwait(self.at(), mutex.at(), clock, &time) }
        }

        pub fn signal(self) {
            assert_eq!(unsafe { libc::pthread_cond_signal(self.at()) }, 0);
        }

        pub fn broadcast(self) {
            assert_eq!(unsafe { libc::pthread_cond_broadcast(self.at()) }, 0);
        }
    }

    impl Rwlock {
        pub fn new(shared: bool) -> Rwlock {
            let lock = Rwlock(room(shared));
            let mut attributes = MaybeUninit::zeroed();
            unsafe {
                libc::pthread_rwlockattr_init(attributes.as_mut_ptr());
                libc::pthread_rwlockattr_setpshared(attributes.as_mut_ptr(), pshared(shared));
                assert_eq!(libc::pthread_rwlock_init(lock.at(), attributes.as_ptr()), 0);
            }
            lock
        }

        pub fn read(self) -> c_int {
            unsafe { libc::pthread_rwlock_rdlock(self.at()) }
        }

        pub fn write(self) -> c_int {
            unsafe { libc::pthread_rwlock_wrlock(self.at()) }
        }

        pub fn try_write(self) -> c_int {
            unsafe { libc::pthread_rwlock_trywrlock(self.at()) }
        }

        pub fn read_until(self, time: timespec) -> c_int {
            unsafe { pthread_rwlock_timedrdlock(self.at(), &time) }
        }

        pub fn write_until(self, time: timespec) -> c_int {
            unsafe { pthread_rwlock_timedwrlock(self.at(), &time) }
        }

        pub fn read_by(self, clock: clockid_t, time: timespec) -> c_int {
            unsafe { pthread_rwlock_clockrdlock(self.at(), clock, &time) }
        }

        pub fn write_by(self, clock: clockid_t, time: timespec) -> c_int {
            unsafe { pthread_rwlock_clockwrlock(self.at(), clock, &time) }
        }

        pub fn unlock(self) {
            assert_eq!(unsafe { libc::pthread_rwlock_unlock(self.at()) }, 0);
        }
    }

    impl Barrier {
        pub fn new(count: u32, shared: bool) -> Barrier {
            let barrier = Barrier(room(shared));
            let mut attributes = MaybeUninit::zeroed();
            unsafe {
                libc::pthread_barrierattr_init(attributes.as_mut_ptr());
                libc::pthread_barrierattr_setpshared(attributes.as_mut_ptr(), pshared(shared));
                let made = libc::pthread_barrier_init(barrier.at(), attributes.as_ptr(), count);
                assert_eq!(made, 0);
            }
            barrier
        }

        /// Whether it is the one of its round.
        pub fn wait(self) -> bool {
            match unsafe { libc::pthread_barrier_wait(self.at()) } {
                0 => false,
                libc::PTHREAD_BARRIER_SERIAL_THREAD => true,
                error => panic!("{error}"),
            }
        }

        /// Destroys it, and fills its place with something else.
        pub fn destroy(self) {
            unsafe {
                assert_eq!(libc::pthread_barrier_destroy(self.at()), 0);
                self.at().write_bytes(0xa5, 1);
            }
        }
    }

    impl Semaphore {
        pub fn new(value: u32, shared: bool) -> Semaphore {
            let semaphore = Semaphore(room(shared));
            assert_eq!(
                unsafe { libc::sem_init(semaphore.at(), shared.into(), value) },
                0
            );
            semaphore
        }

        pub fn wait(self) -> Result<(), c_int> {
            result(unsafe { libc::sem_wait(self.at()) })
        }

        pub fn wait_until(self, time: timespec) -> Result<(), c_int> {
            result(unsafe { libc::sem_timedwait(self.at(), &time) })
        }

        pub fn wait_by(self, clock: clockid_t, time: timespec) -> Result<(), c_int> {
            result(unsafe { sem_clockwait(self.at(), clock, &time) })
        }

        pub fn post(self) {
            assert_eq!(unsafe { libc::sem_post(self.at()) }, 0);
        }

        pub fn value(self) -> c_int {
            let mut value = 0;
            assert_eq!(unsafe { libc::sem_getvalue(self.at(), &mut value) }, 0);
            value
        }
    }

    fn result(answer: c_int) -> Result<(), c_int> {
        match answer {
            0 => Ok(()),
            _ => Err(errno()),
        }
    }

    impl Once {
        pub fn new() -> Once {
            Once(room(false))
        }

        pub fn call(self, f: extern "C-unwind" fn()) {
            // As each of the two names.
            match self.at() as usize / 16 % 2 {
                0 => assert_eq!(unsafe { pthread_once(self.at(), f) }, 0),
                _ => unsafe { call_once(self.at(), f) },
            }
        }
    }

    impl Spin {
        pub fn new() -> Spin {
            let spin = Spin(room(false));
            let private = libc::PTHREAD_PROCESS_PRIVATE;
            assert_eq!(
                unsafe { libc::pthread_spin_init(spin.at() as _, private) },
                0
            );
            spin
        }

        pub fn lock(self) {
            assert_eq!(unsafe { libc::pthread_spin_lock(self.at()) }, 0);
        }

        pub fn unlock(self) {
            assert_eq!(unsafe { libc::pthread_spin_unlock(self.at()) }, 0);
        }
    }
}

// How the tests wait.

pub const HOUR: Duration = Duration::from_secs(3600);

/// Patches everything but threads.
pub fn ticker() -> Ticker {
    common::patch();
    Ticker::new()
}

/// A number that threads and greenlets share.
#[derive(Clone, Default)]
pub struct Count(pub Arc<AtomicUsize>);

impl Count {
    pub fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

pub fn join_all<T>(handles: impl IntoIterator<Item = IsolatedHandle<T>>) -> Vec<T> {
    let handles: Vec<_> = handles.into_iter().collect();
    handles.into_iter().map(|it| it.join().unwrap()).collect()
}

/// Runs `wait` in an isolated greenlet and then in a light one. It must not end before
/// `release` is called, in a greenlet whose OS thread goes on meanwhile.
#[track_caller]
pub fn parks(wait: impl Fn() + Clone + Send + 'static, prepare: impl Fn(), release: impl Fn()) {
    let ticker = ticker();
    prepare();
    let isolated = spawn_isolated(wait.clone());
    ticker.tick();
    assert!(!isolated.is_finished(), "it did not wait");
    release();
    isolated.join().unwrap();
    prepare();
    let light = spawn(wait);
    ticker.tick();
    assert!(!light.is_finished(), "it did not wait");
    release();
    light.join().unwrap();
}

/// As `parks`, where an OS thread releases what it has taken itself.
#[track_caller]
pub fn parks_for_a_thread(
    wait: impl FnOnce() + Send + 'static,
    prepare: impl FnOnce() + Send + 'static,
    release: impl FnOnce() + Send + 'static,
) {
    let ticker = ticker();
    let (taken, go) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let thread = os_thread({
        let (taken, go) = (Arc::clone(&taken), Arc::clone(&go));
        move || {
            prepare();
            taken.store(true, Ordering::SeqCst);
            while !go.load(Ordering::SeqCst) {
                std::thread::sleep(MS / 2);
            }
            release();
        }
    });
    until(|| taken.load(Ordering::SeqCst));
    let waiter = spawn_isolated(wait);
    ticker.tick();
    assert!(!waiter.is_finished(), "it did not wait");
    go.store(true, Ordering::SeqCst);
    waiter.join().unwrap();
    thread.join().unwrap();
}
