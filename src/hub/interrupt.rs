//! Kill and timeout: how a greenlet is told to stop what it waits for.
//!
//! An interrupt is a bit of the task that stays until it is thrown. It is
//! thrown at a blocking point only, never into a greenlet that is unwinding
//! already, and where several are due, the kill comes first and then the
//! outermost `timeout` frame, whose unwinding passes the inner ones anyway.

use super::shared::HubShared;
use super::slab::Key;
use super::task::{DEADLOCK, KILL, KILLED, State, TIMEOUT, TaskPtr};
use super::timers::TimerKey;
use super::unwind;
use super::{Hub, TimerTarget};

/// Throws what is pending for the current greenlet.
pub(crate) fn throw(hub: &Hub) -> ! {
    let task = hub.current();
    if task.interrupts.get() & KILL != 0 {
        throw_kill(hub);
    }
    let outermost = task.with_extra(|extra| {
        let (at, _) = extra
            .elapsed
            .iter()
            .enumerate()
            .min_by_key(|(_, id)| **id)?;
        Some(extra.elapsed.swap_remove(at))
    });
    match outermost {
        Some(id) => {
            forget_elapsed(task, id);
            unwind::throw_timeout(id)
        }
        None => unreachable!("an interrupted wait has a kill or a timeout pending"),
    }
}

/// Unwinds the current greenlet, as a kill does that it was not asked to wait for.
pub(crate) fn throw_kill(hub: &Hub) -> ! {
    let task = hub.current();
    task.clear_interrupt(KILL);
    task.interrupt(KILLED);
    unwind::throw_kill()
}

/// A blocking point without a wait: throws what is pending, if it may.
#[inline]
pub(crate) fn check(hub: &Hub) {
    if hub.current().interrupts.get() & (KILL | TIMEOUT) != 0 && !std::thread::panicking() {
        throw(hub);
    }
}

/// [`check`], for the rooms above.
pub(crate) fn check_interrupts() {
    check(Hub::get());
}

/// Asks a greenlet to end. The first kill wins; the finished do not mind.
pub(crate) fn kill(hub: &Hub, task: TaskPtr) {
    if task.done.get() || task.interrupts.get() & (KILL | KILLED) != 0 {
        return;
    }
    task.interrupt(KILL);
    wake(hub, task);
}

/// As `kill`, from any thread: that greenlet of that hub, if it is still there.
pub(crate) fn kill_on(shared: &HubShared, key: u64) {
    match Hub::try_current() {
        Some(hub) if std::ptr::eq(hub.shared_ptr(), shared) => kill_key(hub, key),
        _ => shared.push_kill(key),
    }
}

/// Kills what other threads want killed.
pub(super) fn kill_as_asked(hub: &Hub) {
    let keys = hub.shared.borrow().take_kills();
    for key in keys {
        kill_key(hub, key);
    }
}

fn kill_key(hub: &Hub, key: u64) {
    let task = hub.tasks.borrow().get(Key::from_u64(key)).copied();
    if let Some(task) = task {
        kill(hub, task);
    }
}

/// Makes a task that waits notice what is pending for it.
fn wake(hub: &Hub, task: TaskPtr) {
    match task.state.get() {
        // SAFETY: a parked task's waiter lives in its frame.
        State::Parked => unsafe { (*task.waiter.get()).interrupt(hub) },
        // Nothing is thrown into one that unwinds: it would abort the process.
        State::Switched if task.unwinding.get() => {}
        State::Switched => hub.make_ready(task),
        State::New => {
            let timer = task.with_extra(|extra| extra.start_timer.take());
            if let Some(timer) = timer {
                hub.cancel_timer(timer);
            }
            hub.make_ready(task);
        }
        // They come to a blocking point, or to their end, by themselves.
        State::Runnable | State::Finished | State::Lost => {}
    }
}

/// Nothing will ever resume this task, whose stack carries the hub's loop.
pub(crate) fn deadlock(hub: &Hub, task: TaskPtr) {
    match task.state.get() {
        // SAFETY: a parked task's waiter lives in its frame.
        State::Parked => unsafe { (*task.waiter.get()).deadlock(hub) },
        State::Switched => {
            task.interrupt(DEADLOCK);
            hub.make_ready(task);
        }
        _ => {}
    }
}

/// The time of a `timeout` frame is over.
pub(crate) fn time_is_up(hub: &Hub, task: TaskPtr, id: u64) {
    task.with_extra(|extra| extra.elapsed.push(id));
    task.interrupt(TIMEOUT);
    wake(hub, task);
}

/// A `timeout` frame on the current greenlet's stack: from its creation to its
/// drop, the deadline may unwind the greenlet up to it.
pub(crate) struct TimeoutFrame {
    task: TaskPtr,
    id: u64,
    timer: Option<TimerKey>,
}

impl TimeoutFrame {
    pub(crate) fn enter(deadline: u64) -> TimeoutFrame {
        let hub = Hub::get();
        let task = hub.current();
        let id = hub.next_id();
        let target = TimerTarget::Timeout { task, id };
        let timer =
            (deadline != crate::sys::clock::NEVER).then(|| hub.start_timer(deadline, target));
        TimeoutFrame { task, id, timer }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for TimeoutFrame {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            Hub::get().cancel_timer(timer);
        }
        // Late: nobody is to be told any more.
        forget_elapsed(self.task, self.id);
    }
}

/// Takes one frame off the list of those whose time is over.
fn forget_elapsed(task: TaskPtr, id: u64) {
    if task.interrupts.get() & TIMEOUT == 0 {
        return;
    }
    let none_left = task.with_extra(|extra| {
        extra.elapsed.retain(|elapsed| *elapsed != id);
        extra.elapsed.is_empty()
    });
    if none_left {
        task.clear_interrupt(TIMEOUT);
    }
}
