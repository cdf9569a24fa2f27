//! The ends of a hub: its thread's, the one asked for, and fork.
//!
//! When a thread ends, nothing is unwound: its thread-locals are being torn
//! down, and a destructor on a suspended stack could use one that is gone.
//! Suspended greenlets are leaked, and their stacks stay mapped, for other
//! threads may hold pointers into them. Whoever wants destructors to run calls
//! [`shutdown`] while the thread still lives.
//!
//! Nor does any greenlet run from then on: it might hold a reference into a
//! thread-local. The hub is taken away before the first of them is destroyed,
//! and a destructor that uses the crate gets a *closing* hub, which resumes
//! nobody: what blocks, blocks the thread, and what only a greenlet could end
//! is a deadlock.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};
use std::time::Duration;

use super::shared::HubShared;
use super::task::{KILLED, MAIN_REFS, State, TaskPtr};
use super::wait::{self, Kind, Reason};
use super::{HUB, Hub, TimerTarget, interrupt, watch};
use crate::coroutine::{overflow, tls};
use crate::sys::pass::PassThrough;
use crate::sys::{clock, fork, thread_end, threads};

/// How many rounds of a millisecond or more `shutdown` gives greenlets that
/// were killed and still run.
const PATIENCE: u32 = 100;

/// Takes the hub away when the thread's thread-locals are destroyed: too late
/// for what is said above, and meant for systems that have no earlier moment.
struct ThreadEnd(Cell<*const Hub>);

thread_local! {
    static THREAD_END: ThreadEnd = const { ThreadEnd(Cell::new(ptr::null())) };
    /// This thread's thread-locals are being destroyed.
    static CLOSING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a hub that is made now is a closing one.
pub(super) fn is_closing() -> bool {
    CLOSING.get()
}

/// Prepares the thread and the process for a new hub.
pub(super) fn adopt(hub: &'static Hub) {
    fork::on_child(after_fork);
    overflow::set_namer(super::report::name_for_signal_handler);
    overflow::install();
    let _ = THREAD_END.try_with(|end| end.0.set(hub));
    hub.renew_sentinel();
}

impl Hub {
    /// The current greenlet is about to be left, or has just been left by the
    /// others: whatever thread-local somebody may hold a reference into now,
    /// the hub is to be taken away before that is destroyed.
    #[inline(always)]
    pub(super) fn keep_sentinel(&self) {
        // SAFETY: the address is that of a word of this thread, or of a static.
        if unsafe { self.newest_callback.read_volatile() } != self.sentinel.get() {
            self.renew_sentinel();
        }
    }

    #[cold]
    #[inline(never)]
    fn renew_sentinel(&self) {
        if tls::current() != self.home {
            // The list of an isolated greenlet is another one, and is gone through
            // while the thread lives on.
            return;
        }
        let hub = ptr::from_ref(self).cast_mut().cast();
        thread_end::before_thread_locals(before_thread_locals, hub);
        // SAFETY: as above.
        self.sentinel
            .set(unsafe { self.newest_callback.read_volatile() });
    }
}

extern "C" fn before_thread_locals(hub: *mut c_void) {
    if let Some(hub) = Hub::try_current() {
        super::threads::run_to_their_end(hub);
    }
    take_away(hub.cast_const().cast());
}

/// The process ends, and the caller is an isolated greenlet whose thread-locals are
/// about to be destroyed: for it the thread has a closing hub from now on.
pub(crate) fn close_isolated() {
    CLOSING.set(true);
    HUB.set(ptr::null());
}

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        take_away(self.0.replace(ptr::null()));
    }
}

/// The thread parts with its hub, if it still has this one.
fn take_away(hub: *const Hub) {
    let _pass = PassThrough::enter();
    CLOSING.set(true);
    if hub.is_null() || !ptr::eq(hub, HUB.get()) {
        return;
    }
    // SAFETY: as below. From here on no other thread looks at this hub.
    unsafe { watch::unlist(&*hub) };
    // SAFETY: hubs are leaked boxes, freed only below.
    let alone = unsafe {
        (*hub).shared.borrow().close();
        if (*hub).reactor.borrow().is_some() {
            super::closing::everywhere().leave(&(*hub).shared.borrow());
        }
        let main = (*hub).main();
        let tasks = (*hub).tasks.borrow();
        for task in tasks.iter() {
            task.state.set(State::Lost);
        }
        // Somebody may still hold what `current()` gave for the main one.
        tasks.len() == 1 && (*hub).current() == main && main.refs.get() == MAIN_REFS
    };
    HUB.set(ptr::null());
    // A signal handler of this thread must not find what is freed below.
    compiler_fence(Ordering::SeqCst);
    // SAFETY: as above. The main greenlet's locals are leaked, for their
    // destructors may use thread-locals that are gone.
    unsafe { (*hub).main.extra.take().map(std::mem::forget) };
    if alone {
        // SAFETY: this was the thread's hub, no task of it is left but the
        // main one, and nothing keeps references to a hub.
        drop(unsafe { Box::from_raw(hub.cast_mut()) });
    } else {
        // SAFETY: as above. The rest stays as it is: leaked stacks refer
        // to it.
        unsafe { (*hub).reactor.borrow_mut().take() };
    }
}

/// Ends every other greenlet of this thread: kills them all, lets their
/// destructors run, and waits until they have ended.
///
/// This is how a thread that is about to end gets the destructors of its
/// greenlets run; otherwise they are leaked, as when `main` returns. Returns
/// how many would not end: those that caught their kill and wait again.
///
/// In a program that is built with `panic = "abort"`, where nothing can be
/// unwound, it leaves them all as they are, and returns how many there are.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// greenlet::spawn(|| greenlet::sleep(Duration::from_secs(3600)));
/// greenlet::yield_now();
/// assert_eq!(greenlet::hub::shutdown(), 0);
/// ```
pub fn shutdown() -> usize {
    let Some(hub) = Hub::try_current() else {
        return 0;
    };
    let me = hub.current();
    // In an isolated greenlet, its own ones: it is a thread for who runs in it.
    let is_other = |task: TaskPtr| match me.domain {
        None => task != me && task != hub.main(),
        Some(domain) => task != me && task.domain == Some(domain) && !domain.is_owner(task),
    };
    end_all(hub, is_other, |reason, deadline| {
        wait::pause(reason, Kind::External, Some(deadline), |_| {});
    })
}

/// Kills these, and waits for them with `pause`, which takes a deadline. Returns how
/// many would not end.
pub(super) fn end_all(
    hub: &Hub,
    is_one: impl Fn(TaskPtr) -> bool,
    pause: impl Fn(Reason, u64),
) -> usize {
    let mut patience = PATIENCE;
    loop {
        let others: Vec<TaskPtr> = {
            let tasks = hub.tasks.borrow();
            tasks.iter().copied().filter(|task| is_one(*task)).collect()
        };
        if cfg!(panic = "abort") {
            return others.len();
        }
        for task in &others {
            interrupt::kill(hub, *task);
        }
        if hub.closing {
            return others.len();
        }
        if others.iter().all(|task| has_refused(*task)) {
            // One that still runs may be on its way to its end, but one that
            // only yields, for ever, is not.
            let runs = |task: &TaskPtr| task.state.get() == State::Runnable;
            if patience == 0 || !others.iter().any(runs) {
                return others.len();
            }
            patience -= 1;
        }
        // Whoever is unwinding may need a while, or something from outside.
        let deadline = clock::deadline_after(Duration::from_millis(1));
        pause(Reason::new("shutting the hub down"), deadline);
    }
}

/// It was killed, and has gone on nevertheless, though not in a destructor.
fn has_refused(task: TaskPtr) -> bool {
    let goes_on = matches!(
        task.state.get(),
        State::Parked | State::Switched | State::Runnable
    );
    goes_on && task.interrupts.get() & KILLED != 0 && !task.unwinding.get()
}

/// In the child of a fork there is one greenlet: the one that called fork. The
/// parent's others are forgotten, neither unwound nor freed; and what the
/// parent's kernel objects wake is none of this process's business.
fn after_fork() {
    let _pass = PassThrough::enter();
    super::own::forget_own();
    let Some(hub) = Hub::try_current() else {
        return;
    };
    let me = hub.current();
    hub.queue.clear();
    hub.queue.push(me);
    // The forker may be inside of `timeout`s, which count for it here too.
    let is_mine =
        |target: &TimerTarget| matches!(target, TimerTarget::Timeout { task, .. } if *task == me);
    hub.timers.borrow_mut().retain(is_mine);
    hub.doubts.forget();
    let number = hub.shared.borrow().number;
    // The old one stays allocated, and two descriptors open with it: waiters of
    // forgotten greenlets refer to it.
    std::mem::forget(hub.shared.replace(HubShared::new(number)));
    // Closes this process's copies of the others, and changes nothing in the
    // epoll set, which is the parent's.
    drop(hub.reactor.take());
    hub.pulse.forget_list();
    hub.shared_waits.set(0);
    hub.called.set(false);
    hub.external_waits.set(0);
    let mut tasks = hub.tasks.borrow_mut();
    for task in tasks.iter().filter(|task| **task != me) {
        task.state.set(State::Lost);
    }
    tasks.clear();
    hub.isolated.set(usize::from(me.domain.is_some()));
    hub.threads.only_is_left(me.domain);
    hub.held_back.forget();
    hub.os_thread.set(threads::current());
    if let Some(domain) = me.domain {
        domain.only_one_is_left();
    }
    me.key.set(tasks.insert(me));
    hub.orphaned.set(me != hub.main());
}

/// The last greenlet of a fork's child has ended, as a process ends with its
/// last thread.
pub(super) fn exit_child(hub: &Hub) -> ! {
    if hub.tasks.borrow().len() == 0 {
        std::process::exit(0);
    }
    super::report::deadlock(hub);
    std::process::exit(1);
}
