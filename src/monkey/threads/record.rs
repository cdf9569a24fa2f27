//! What is known of an isolated greenlet as a thread, found by its `pthread_t`.
//!
//! ```text
//!   pthread_t ─▶ block of thread-locals ─ RECORD ─▶ Thread ─▶ the block
//! ```
//!
//! Both stay until the thread has ended and has been joined or detached, so that until
//! then no other one has the same `pthread_t`. One reference to the record is RECORD's:
//!
//! ```text
//!   flags   0 ──ended──▶ ENDED ──joined, or detached──▶ ENDED | PARTED ─▶ given back
//!           0 ──detached──▶ PARTED ──────ended────────▶ ENDED | PARTED ─▶ given back
//! ```

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libc::pthread_t;

use crate::hub::{self, AtEnd, Hub, Seat, Storage, Task, address};
use crate::sys::pass::PassThrough;

/// The thread has ended, the destructors of its thread-locals included.
const ENDED: u32 = 1;
/// Nobody can join it any more.
const PARTED: u32 = 2;

/// The longest name that a thread can have, with the zero at its end.
pub(super) const NAME: usize = 16;

/// What a thread is that an isolated greenlet is.
pub(crate) struct Thread {
    /// Also what those who join it wait for.
    pub(super) flags: AtomicU32,
    /// Who joins it; 0 if nobody does.
    pub(super) joiner: AtomicUsize,
    value: AtomicPtr<c_void>,
    /// It was made by `pthread_create`.
    is_thread: bool,
    /// Its name, if it has one of its own.
    name: Mutex<Option<[u8; NAME]>>,
    /// The low end of its stack, once it has begun, and the stack's size.
    stack: (AtomicUsize, AtomicUsize),
    /// The kernel's number of the OS thread that it runs on.
    runs_on: AtomicI32,
    storage: Storage,
    /// The reference that RECORD has; null when it has been given back.
    kept: AtomicPtr<Thread>,
}

thread_local! {
    /// Of an isolated greenlet, its record.
    static RECORD: Cell<*const Thread> = const { Cell::new(ptr::null()) };
}

extern "C" fn set_record(record: *mut c_void) {
    RECORD.set(record.cast_const().cast());
}

impl Thread {
    /// The record of a thread that is to run on this seat.
    pub(super) fn new(seat: &Seat, detached: bool, stack: usize) -> Arc<Thread> {
        Thread::make(seat, detached, stack, true)
    }

    /// That of an isolated greenlet which `pthread_create` has not made: nobody joins it.
    pub(crate) fn of_greenlet(hub: &Hub, seat: &Seat) -> Arc<Thread> {
        let thread = Thread::make(seat, true, 0, false);
        thread.belongs_to(hub);
        thread
    }

    fn make(seat: &Seat, detached: bool, stack: usize, is_thread: bool) -> Arc<Thread> {
        let thread = Arc::new(Thread {
            flags: AtomicU32::new(if detached { PARTED } else { 0 }),
            joiner: AtomicUsize::new(0),
            // `PTHREAD_CANCELED`, for one that never gets as far as to return something.
            value: AtomicPtr::new(ptr::without_provenance_mut(usize::MAX)),
            is_thread,
            // A new thread has the name of the one that has made it.
            name: Mutex::new(Thread::current().and_then(|me| me.own_name())),
            stack: (AtomicUsize::new(0), AtomicUsize::new(stack)),
            runs_on: AtomicI32::new(0),
            storage: seat.storage(),
            kept: AtomicPtr::new(ptr::null_mut()),
        });
        let record = Arc::into_raw(Arc::clone(&thread)).cast_mut();
        thread.kept.store(record, Ordering::Relaxed);
        // SAFETY: nobody runs on the block yet; the function takes this argument and
        // sets a variable.
        unsafe { seat.prepare(set_record, record.cast()) };
        thread
    }

    /// The record behind a `pthread_t`; none if that is an OS thread's.
    ///
    /// # Safety
    /// The thread has neither been joined, nor has it been detached and has ended, until
    /// this returns.
    pub(in crate::monkey) unsafe fn of(thread: pthread_t) -> Option<Arc<Thread>> {
        let pointer = thread as usize;
        // SAFETY: the caller's promise.
        if pointer == 0 || unsafe { !hub::is_block(pointer) } {
            return None;
        }
        let offset =
            RECORD.with(|record| ptr::from_ref(record) as isize) - hub::thread_pointer() as isize;
        // SAFETY: the variable is one of the program's own, which are as far from every
        // thread pointer. It was set before anybody knew the `pthread_t`, and has not
        // changed since; RECORD's reference has not been given back.
        unsafe {
            let variable = pointer.wrapping_add_signed(offset) as *const Cell<*const Thread>;
            Thread::behind((*variable).get())
        }
    }

    /// That of the caller, if it runs on a block of its own.
    pub(super) fn current() -> Option<Arc<Thread>> {
        // SAFETY: RECORD's reference is given back when nobody's code runs there any more.
        unsafe { Thread::behind(RECORD.get()) }
    }

    /// # Safety
    /// RECORD has this, and its reference has not been given back.
    unsafe fn behind(record: *const Thread) -> Option<Arc<Thread>> {
        if record.is_null() {
            return None;
        }
        // SAFETY: the pointer came from `Arc::into_raw`, and there is a reference.
        unsafe {
            Arc::increment_strong_count(record);
            Some(Arc::from_raw(record))
        }
    }

    pub(super) fn is_thread(&self) -> bool {
        self.is_thread
    }

    pub(super) fn set_value(&self, value: *mut c_void) {
        self.value.store(value, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> *mut c_void {
        self.value.load(Ordering::Relaxed)
    }

    pub(super) fn handle(&self) -> pthread_t {
        self.storage.pointer() as pthread_t
    }

    /// Its OS thread is this one.
    pub(super) fn belongs_to(&self, hub: &Hub) {
        self.runs_on.store(hub.os_thread(), Ordering::Relaxed);
    }

    /// It begins to run, on this stack.
    pub(crate) fn begin(&self) {
        let here = 0u8;
        if let Some(stack) = hub::stack_around(&raw const here as usize) {
            self.stack.1.store(stack.len(), Ordering::Relaxed);
            self.stack.0.store(stack.start, Ordering::Release);
        }
    }

    /// The low end of its stack, 0 if it has not begun, and the size.
    pub(super) fn stack(&self) -> (usize, usize) {
        let low = self.stack.0.load(Ordering::Acquire);
        (low, self.stack.1.load(Ordering::Relaxed))
    }

    pub(super) fn runs_on(&self) -> c_int {
        self.runs_on.load(Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.flags.load(Ordering::Acquire) & ENDED != 0
    }

    pub(super) fn is_detached(&self) -> bool {
        self.flags.load(Ordering::Acquire) & PARTED != 0
    }

    pub(super) fn name(&self) -> [u8; NAME] {
        if let Some(name) = self.own_name() {
            return name;
        }
        let mut name = [0; NAME];
        // SAFETY: it writes so many bytes at most.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        name
    }

    fn own_name(&self) -> Option<[u8; NAME]> {
        let _pass = PassThrough::enter();
        *self.lock_name()
    }

    fn lock_name(&self) -> MutexGuard<'_, Option<[u8; NAME]>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_name(&self, name: [u8; NAME]) {
        let _pass = PassThrough::enter();
        *self.lock_name() = Some(name);
        if Thread::current().is_some_and(|me| ptr::eq(&*me, self)) {
            let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
            Hub::get().name_current(&String::from_utf8_lossy(text));
        }
    }

    /// Nobody may join it from now on. False if that was so already.
    pub(super) fn part(&self) -> bool {
        let before = self.flags.fetch_or(PARTED, Ordering::AcqRel);
        if before & PARTED != 0 {
            return false;
        }
        if before & ENDED != 0 {
            self.give_back();
        }
        true
    }

    /// There was no memory to begin it: nobody has ever known of it, or will.
    pub(crate) fn never_begins(&self) {
        self.give_back();
    }

    /// Gives back the reference that RECORD has.
    fn give_back(&self) {
        let _pass = PassThrough::enter();
        let kept = self.kept.swap(ptr::null_mut(), Ordering::AcqRel);
        if !kept.is_null() {
            // SAFETY: it came from `Arc::into_raw`, and is taken from `kept` once. Whoever
            // calls this has a reference of its own.
            drop(unsafe { Arc::from_raw(kept) });
        }
    }
}

impl AtEnd for Thread {
    /// The destructors of its thread-locals have run.
    fn ended(&self, _: &Task) {
        let before = self.flags.fetch_or(ENDED, Ordering::AcqRel);
        address::wake(self.flags.as_ptr() as usize, address::ANY, usize::MAX);
        if before & PARTED != 0 {
            self.give_back();
        }
    }
}
