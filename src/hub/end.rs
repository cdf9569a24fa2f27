//! The ends of a hub: its thread's, the one asked for, and fork.
//!
//! When a thread ends, nothing is unwound: its thread-locals are being torn
//! down, and a destructor on a suspended stack could use one that is gone.
//! Suspended greenlets are leaked, and their stacks stay mapped, for other
//! threads may hold pointers into them. Whoever wants destructors to run calls
//! [`shutdown`] while the thread still lives.

use std::cell::Cell;
use std::ptr;
use std::time::Duration;

use super::shared::HubShared;
use super::task::{KILLED, MAIN_REFS, State, TaskPtr};
use super::wait::{self, Kind, Reason};
use super::{HUB, Hub, interrupt};
use crate::coroutine::overflow;
use crate::sys::{clock, fork};

/// Takes the hub away when the thread's thread-locals are destroyed.
struct ThreadEnd(Cell<*const Hub>);

thread_local! {
    static THREAD_END: ThreadEnd = const { ThreadEnd(Cell::new(ptr::null())) };
}

/// Prepares the thread and the process for a new hub.
pub(super) fn adopt(hub: &'static Hub) {
    fork::on_child(after_fork);
    overflow::set_namer(super::report::name_for_signal_handler);
    overflow::install();
    // A hub that is made while the thread-locals are already being destroyed
    // is leaked: there is nobody left to take it away.
    let _ = THREAD_END.try_with(|end| end.0.set(hub));
}

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        let hub = self.0.replace(ptr::null());
        if hub.is_null() || !ptr::eq(hub, HUB.get()) {
            return;
        }
        // SAFETY: hubs are leaked boxes, freed only below.
        let alone = unsafe {
            (*hub).shared.borrow().close();
            let main = (*hub).main();
            let tasks = (*hub).tasks.borrow();
            for task in tasks.iter() {
                task.state.set(State::Lost);
            }
            // Somebody may still hold what `current()` gave for the main one.
            tasks.len() == 1 && (*hub).current() == main && main.refs.get() == MAIN_REFS
        };
        HUB.set(ptr::null());
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
}

/// Ends every other greenlet of this thread: kills them all, lets their
/// destructors run, and waits until they have ended.
///
/// This is how a thread that is about to end gets the destructors of its
/// greenlets run; otherwise they are leaked, as when `main` returns. Returns
/// how many would not end: those that caught their kill and wait again.
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
    loop {
        let others: Vec<TaskPtr> = {
            let tasks = hub.tasks.borrow();
            tasks
                .iter()
                .copied()
                .filter(|task| *task != me && *task != hub.main())
                .collect()
        };
        for task in &others {
            interrupt::kill(hub, *task);
        }
        if others.iter().all(|task| has_refused(*task)) {
            return others.len();
        }
        // Whoever is unwinding may need a while, or something from outside.
        let deadline = clock::deadline_after(Duration::from_millis(1));
        let reason = Reason::new("shutting the hub down");
        wait::pause(reason, Kind::External, Some(deadline), |_| {});
    }
}

/// It was killed, and waits nevertheless, though not in a destructor.
fn has_refused(task: TaskPtr) -> bool {
    let waits = matches!(task.state.get(), State::Parked | State::Switched);
    waits && task.interrupts.get() & KILLED != 0 && !task.unwinding.get()
}

/// In the child of a fork there is one greenlet: the one that called fork. The
/// parent's others are forgotten, neither unwound nor freed; and what the
/// parent's kernel objects wake is none of this process's business.
fn after_fork() {
    let Some(hub) = Hub::try_current() else {
        return;
    };
    let me = hub.current();
    hub.queue.clear();
    hub.queue.push(me);
    hub.timers.replace(super::Timers::new());
    let number = hub.shared.borrow().number;
    // The old one stays allocated: waiters of forgotten greenlets refer to it.
    std::mem::forget(hub.shared.replace(HubShared::new(number)));
    // Closes this process's copies of the descriptors, and changes nothing in
    // the epoll set, which is the parent's.
    drop(hub.reactor.take());
    hub.shared_waits.set(0);
    hub.external_waits.set(0);
    let mut tasks = hub.tasks.borrow_mut();
    for task in tasks.iter().filter(|task| **task != me) {
        task.state.set(State::Lost);
    }
    tasks.clear();
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
