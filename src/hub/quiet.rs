//! Waits that end with an error where others unwind: those of code that never
//! heard of this crate, and that nothing may be thrown through.
//!
//! A kill or a timeout that is pending makes such a wait answer an error, and
//! stays pending: it is thrown at the next blocking call of our own. Code that
//! takes no notice of errors, as a loop over `incoming()`, would go round for
//! ever, so
//!
//! ```text
//!   refusal 1 … 100    one turn for everybody else, then the error
//!   refusal 101        the greenlet is given up: it is never resumed, those who
//!                      join it hear that it was killed, its stack is leaked
//! ```
//!
//! Nothing on that stack is unwound, as if it had been forgotten, which safe code
//! has to bear. A scope however promises to outlive its greenlets' frames, and
//! the loop of a hub stands on its main greenlet's stack: these are refused on
//! and on, and each time sleep a little.

use std::time::Duration;

use super::Hub;
use super::io::BUDGET;
use super::parker::Parker;
use super::task::{self, KILL, KILLED, PENDING, State, TIMEOUT, TaskPtr};
use super::wait::{Kind, Reason, Woken};
use super::wait_queue::{self, Place, WaitQueue};
use crate::sys::os::Errno;
use crate::sys::panics::PanicCount;
use crate::sys::pass::{self, PassThrough};
use crate::sys::{clock, handler, os};

/// So many calls in a row are refused before a greenlet is given up.
const MOST_REFUSALS: u8 = 100;
/// How long a greenlet sleeps that is refused and cannot be given up.
const NAP: Duration = Duration::from_millis(1);

/// How a wait has ended that does not unwind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quiet {
    Answered,
    TimedOut,
    /// The greenlet is to end, or to leave a `timeout`: this is the error.
    Refused(Errno),
}

impl Hub {
    /// This thread's hub, if a blocking call that is made right here may park
    /// the greenlet that makes it.
    ///
    /// It may not where there is nobody else to run; where somebody asked for
    /// that (see `sys::pass`, and `Task::passing`); under a lock of ours; when the
    /// thread is ending; and in a panic hook, which std runs under a mark of the
    /// thread's.
    #[inline(always)]
    pub(crate) fn parking() -> Option<&'static Hub> {
        let hub = Hub::try_current()?;
        (!pass::is_set(|| hub.greenlet_here()) && hub.may_park()).then_some(hub)
    }

    /// A number of the greenlet whose turn it is, for `sys::handler`.
    #[inline]
    fn greenlet_here(&self) -> usize {
        self.current().0.as_ptr() as usize
    }

    #[inline]
    fn may_park(&self) -> bool {
        let task = self.current();
        // The loop looks after one that does not run, or it is about to be left.
        let runs = task.state.get() == State::Runnable;
        if self.closing || task.passing.get() != 0 || !runs || pass::is_locked() {
            return false;
        }
        // Whoever runs next would find borrowed what is borrowed here, interrupted or not.
        let (Ok(tasks), Ok(timers)) = (self.tasks.try_borrow_mut(), self.timers.try_borrow_mut())
        else {
            return false;
        };
        // A timer may be that of a `timeout`, which is to end the call.
        let somebody_may_run = tasks.len() > 1 || timers.len() > 0;
        drop((tasks, timers));
        // std marks the thread in a panic hook; who is alone on its thread-locals has that
        // mark to itself.
        if std::thread::panicking() && !self.is_alone(task) && PanicCount::in_hook() {
            return false;
        }
        somebody_may_run || self.is_interrupted()
    }

    /// Whether the current greenlet is to end, or to leave a `timeout`.
    #[inline(always)]
    fn is_interrupted(&self) -> bool {
        self.current().interrupts.get() & (KILL | TIMEOUT) != 0
    }

    /// To be asked before a call does anything: the error that it has to answer
    /// instead, if the greenlet is to end or to leave a `timeout`. Others have
    /// had a turn then.
    #[inline]
    pub(crate) fn refusal(&self) -> Option<Errno> {
        if !self.is_interrupted() || std::thread::panicking() {
            return None;
        }
        Some(self.refuse())
    }

    /// One operation on a descriptor more, for which nothing else is to be done.
    /// False, and not counted, if it is to be refused, or is the last of the budget.
    #[inline(always)]
    pub(crate) fn count_plain_operation(&self) -> bool {
        let left = self.io_budget.get() - 1;
        if left == 0 || self.is_interrupted() {
            return false;
        }
        self.io_budget.set(left);
        true
    }

    /// As if the greenlet had just come back from a wait: it has all of its budget.
    pub(crate) fn renew_budget(&self) {
        self.io_budget.set(BUDGET);
    }

    /// One operation on a descriptor more: now and then somebody else's turn.
    #[inline]
    pub(crate) fn spend_operation(&self) {
        let saved = os::errno();
        self.count_operation();
        os::set_errno(saved);
    }

    #[cold]
    fn refuse(&self) -> Errno {
        let saved = os::errno();
        let error = self.refusal_after_a_turn();
        os::set_errno(saved);
        error
    }

    fn refusal_after_a_turn(&self) -> Errno {
        let task = self.current();
        let error = match task.interrupts.get() & KILL {
            0 => libc::ETIMEDOUT,
            _ => libc::ECANCELED,
        };
        let refusals = task.refusals.get().saturating_add(1);
        task.refusals.set(refusals);
        if refusals <= MOST_REFUSALS {
            self.suspend_runnable(task);
        } else if task == self.main() || task.scoped.get() || task.unwinding.get() {
            let wait = Reason::new("being refused");
            let deadline = clock::deadline_after(NAP);
            let nobody = WaitQueue::new();
            nobody.park(wait, Kind::External, Some(deadline), false);
        } else {
            self.abandon(task);
        }
        error
    }

    /// Gives up the current greenlet, which does not end. Never returns.
    fn abandon(&self, task: TaskPtr) -> ! {
        // From here on it ends, as one that was killed. Wakers make calls on this stack,
        // which is to be given up once.
        task.clear_interrupt(PENDING);
        task.interrupt(KILLED);
        task.unwinding.set(true);
        // Destructors are not run for it; those of its variables neither.
        if task.has_extra.get() {
            task.with_extra(|extra| std::mem::forget(std::mem::take(&mut extra.locals)));
        }
        // SAFETY: the body has begun, for it called us, and is not resumed.
        unsafe { (task.vtable.give_up)(task) };
        task::finish(task);
        self.tasks.borrow_mut().remove(task.key.get());
        if task.domain.is_some() {
            self.isolated.set(self.isolated.get() - 1);
        }
        // The hub's reference is not given back: the block is leaked with the
        // stack, whose frames refer to it.
        loop {
            self.suspend(State::Lost);
        }
    }

    /// Parks the current greenlet in a queue, where it is taken care of errno
    /// and nothing is thrown.
    pub(crate) fn park_quietly(
        &self,
        queue: &WaitQueue,
        reason: Reason,
        kind: Kind,
        deadline: Option<u64>,
    ) -> Quiet {
        self.quietly(kind, |kind| queue.park(reason, kind, deadline, true))
    }

    /// As `park_quietly`, in several places at once.
    pub(crate) fn park_quietly_in(
        &self,
        places: &[&dyn Place],
        reason: Reason,
        kind: Kind,
        deadline: Option<u64>,
    ) -> Quiet {
        self.quietly(kind, |kind| {
            wait_queue::park_any(places, reason, kind, deadline)
        })
    }

    /// Parks the current greenlet until the parker's other half is called, from
    /// outside. Without `interruptible` a kill or a timeout does not end that: it
    /// stays pending, and nobody hears of it here.
    pub(crate) fn wait_quietly(&self, parker: &Parker, interruptible: bool) -> Quiet {
        self.quietly(Kind::External, |_| parker.try_wait(None, interruptible))
    }

    /// Lets time pass.
    pub(crate) fn sleep_quietly(&self, deadline: u64) -> Quiet {
        let nobody = WaitQueue::new();
        self.park_quietly(
            &nobody,
            Reason::new("sleeping"),
            Kind::External,
            Some(deadline),
        )
    }

    /// As `sleep_quietly`, with the answer of a wait for a descriptor: EAGAIN when
    /// the time is over.
    pub(crate) fn pause_quietly(&self, deadline: u64) -> Result<(), Errno> {
        match self.sleep_quietly(deadline) {
            Quiet::Refused(error) => Err(error),
            Quiet::Answered | Quiet::TimedOut => Err(libc::EAGAIN),
        }
    }

    /// Lets time pass, and a kill or a timeout wait meanwhile.
    pub(crate) fn sleep_regardless(&self, deadline: u64, reason: Reason) {
        let nobody = WaitQueue::new();
        self.quietly(Kind::External, |kind| {
            nobody.park(reason, kind, Some(deadline), false)
        });
    }

    /// Lets everybody who is runnable go first, and throws nothing.
    pub(crate) fn yield_quietly(&self) {
        let saved = os::errno();
        self.suspend_runnable(self.current());
        os::set_errno(saved);
    }

    /// As `yield_quietly`, in the middle of something: see `somebody_is_midway`.
    pub(crate) fn yield_midway(&self) {
        let midway = Midway::enter(self.current());
        self.yield_quietly();
        drop(midway);
    }

    /// Whether there is a greenlet that could run, and that was left where other code
    /// gave the thread away: in the middle of something that another thread may be
    /// waiting for the end of.
    pub(crate) fn somebody_is_midway(&self) -> bool {
        let _pass = PassThrough::enter();
        self.look_around();
        let me = self.current();
        let left = |task: &TaskPtr| {
            *task != me && task.midway.get() && task.state.get() == State::Runnable
        };
        self.tasks.borrow().iter().any(left)
    }

    /// Others run while a call waits, and errno is the thread's.
    pub(super) fn quietly(&self, kind: Kind, mut park: impl FnMut(Kind) -> Option<Woken>) -> Quiet {
        let saved = os::errno();
        let mut kind = kind;
        let ended = loop {
            match park(kind) {
                Some(Woken::Answered(_)) => break Quiet::Answered,
                Some(Woken::TimedOut) => break Quiet::TimedOut,
                // It has been reported, and there is no way to say it here.
                Some(Woken::Deadlock) => kind = Kind::External,
                None => break Quiet::Refused(self.refuse()),
            }
        };
        os::set_errno(saved);
        ended
    }
}

/// Marks a greenlet as left in the middle of something, until it is dropped.
pub(super) struct Midway {
    task: TaskPtr,
    /// It may be in the middle of something else already: who wakes others where it is
    /// about to wait itself may let them go first.
    before: bool,
}

impl Midway {
    pub(super) fn enter(task: TaskPtr) -> Midway {
        let before = task.midway.replace(true);
        Midway { task, before }
    }
}

impl Drop for Midway {
    fn drop(&mut self) {
        self.task.midway.set(self.before);
    }
}

/// Runs a signal handler, in which nothing parks. Async-signal-safe.
#[inline(always)]
pub(crate) fn run_handler(handler: impl FnOnce()) {
    handler::run(greenlet_here(), handler);
}

/// Whether this is the hub's own code, or a signal handler: either may stand in
/// the middle of something.
#[inline(always)]
pub(crate) fn passes_through() -> bool {
    pass::is_set(greenlet_here)
}

fn greenlet_here() -> usize {
    Hub::try_current().map_or(0, Hub::greenlet_here)
}

/// Has blocking calls of the current greenlet block the thread while `f` runs.
pub(crate) fn passing<R>(f: impl FnOnce() -> R) -> R {
    /// Counts down however `f` is left.
    struct Leave(TaskPtr);
    impl Drop for Leave {
        fn drop(&mut self) {
            self.0.passing.set(self.0.passing.get() - 1);
        }
    }
    let task = Hub::get().current();
    task.passing.set(task.passing.get() + 1);
    let _leave = Leave(task);
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_the_middle_of_two_things_is_so_until_both_are_over() {
        let task = Hub::get().current();
        let outer = Midway::enter(task);
        drop(Midway::enter(task));
        assert!(task.midway.get());
        drop(outer);
        assert!(!task.midway.get());
    }
}
