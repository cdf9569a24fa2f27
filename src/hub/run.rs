//! The loop: whose turn it is, and what happens when it is nobody's.
//!
//! ```text
//!   ┌─▶ the target of an explicit switch, else the first of the run queue
//!   │     │ none: fire due timers, take in the inbox; still none: is this a
//!   │     │       deadlock? else sleep in the reactor until something happens
//!   │     ▼
//!   │   the main greenlet? ──▶ return into it (the loop stands on its stack)
//!   │     │ no
//!   │     ▼
//!   │   resume it; retire it if its body has ended
//!   │     │
//!   └─────┘ every 61 turns: a look at the clock, so that a busy run queue
//!           keeps neither timers nor I/O nor other threads waiting
//! ```

use std::ptr::NonNull;

use super::domain::DomainPtr;
use super::slab::Key;
use super::task::{self, State, TaskPtr};
use super::wait::{Kind, Waiter};
use super::{Hub, TimerTarget, address, interrupt, report};
use crate::coroutine::tls::Base;
use crate::coroutine::{Fiber, Suspender, Word};
use crate::sys::clock;
use crate::sys::panics::PanicCount;
use crate::sys::pass::{self, PassThrough};

/// Turns between two looks at the clock. A prime, so that it does not fall
/// into step with a program's own rounds.
pub(super) const TURNS_PER_LOOK: u32 = 61;
/// A reactor that has been asked this long ago (nanoseconds) is asked again.
const POLL_INTERVAL: u64 = 100_000;
/// A hub that will sleep for longer than this (nanoseconds) is at leisure.
const LEISURE: u64 = 1_000_000;
/// A hub that another thread has just called sleeps for this long (nanoseconds)
/// before it asks whether there still is one.
const CONFIDENCE: u64 = 5_000_000;
/// Stacks are looked through once in so many retired greenlets.
const RETIRED_PER_TRIM: u32 = 1024;

/// What a fiber runs: the body of the task whose turn it is.
pub(super) fn entry(suspender: Suspender) {
    let task = Hub::get().current();
    task.suspender.set(Some(suspender));
    // SAFETY: a task is resumed for the first time once, with the function
    // that its maker gave it.
    unsafe { (task.vtable.run)(task) }
}

/// Whether the current greenlet may switch explicitly: not while it unwinds, unless
/// std's panic count can be put aside meanwhile.
pub(crate) fn may_switch() -> bool {
    !std::thread::panicking() || PanicCount::get().is_some()
}

impl Hub {
    /// Lets everybody who is runnable go first.
    ///
    /// Always inlined: the processor predicts a return by the calls before it,
    /// which were another greenlet's, so each frame that is returned from after
    /// the switch costs a misprediction, several times what the switch costs.
    #[inline(always)]
    pub(crate) fn yield_now(&self) {
        let task = self.current();
        self.suspend_runnable(task);
        if task.interrupts.get() & (task::KILL | task::TIMEOUT) != 0 {
            interrupt::check(self);
        }
    }

    /// Nobody else is runnable; once in a while somebody may have become so.
    #[cold]
    fn yield_alone(&self, task: TaskPtr) {
        self.count_turn();
        if let next @ Some(_) = self.queue.rotate(task) {
            self.leave(task, next);
        }
    }

    /// Gives whoever is runnable one turn. A loop of it does not starve timers
    /// and I/O either.
    #[inline(always)]
    pub(crate) fn suspend_runnable(&self, task: TaskPtr) {
        match self.queue.rotate(task) {
            next @ Some(_) => self.leave(task, next),
            None => self.yield_alone(task),
        }
    }

    /// Takes the current task out of the queue, until somebody calls
    /// [`make_ready`](Hub::make_ready).
    #[inline]
    pub(crate) fn suspend(&self, state: State) {
        let task = self.current();
        task.state.set(state);
        let next = self.queue.remove_first(task);
        self.leave(task, next);
    }

    /// Goes to the loop, and comes back when the loop resumes this task.
    #[inline(always)]
    pub(super) fn leave(&self, task: TaskPtr, next: Option<TaskPtr>) {
        super::monitor::held::check();
        pass::check();
        if std::thread::panicking() {
            self.leave_unwinding(task, next);
        } else {
            self.switch_away(task, next);
        }
    }

    /// Tells the loop who is the first of the queue now, in a register: that
    /// way the next switch does not wait for what this one has just stored.
    #[inline(always)]
    pub(super) fn switch_away(&self, task: TaskPtr, next: Option<TaskPtr>) {
        match task.suspender.get() {
            // SAFETY: the task is current, so this code runs on its fiber, and
            // the suspender is that fiber's.
            Some(suspender) => unsafe { suspender.suspend(next.map(|next| next.0.cast())) },
            // Only the main greenlet has none: the loop stands on its stack.
            None => self.run(next),
        }
    }

    /// A destructor blocks while its greenlet unwinds. std counts panics by
    /// thread; the count is put aside, or everybody else would seem to unwind.
    #[cold]
    fn leave_unwinding(&self, task: TaskPtr, next: Option<TaskPtr>) {
        let before = task.unwinding.replace(true);
        if self.is_alone(task) {
            // The count is its own.
            self.switch_away(task, next);
            task.unwinding.set(before);
            return;
        }
        match PanicCount::get().and_then(|count| Some((count, count.take()?))) {
            Some((count, saved)) => {
                self.switch_away(task, next);
                count.restore(saved);
            }
            // An explicit switch: only another greenlet could answer it.
            None if task.state.get() == State::Switched => report::abort_unwinding(self),
            None => self.block_thread(task),
        }
        task.unwinding.set(before);
    }

    /// std's panic count cannot be put aside, or the thread ends: nobody else
    /// may run before this wait is over, so it blocks the thread, and if only
    /// this hub's greenlets could end it, there is no way on.
    fn block_thread(&self, task: TaskPtr) {
        while task.state.get() != State::Runnable {
            let pass = PassThrough::enter();
            self.look_around();
            if task.state.get() == State::Runnable {
                break;
            }
            if !self.can_end_without_others(task) {
                if !self.closing {
                    report::abort_unwinding(self);
                }
                report::deadlock(self);
                interrupt::deadlock(self, task);
                continue;
            }
            let goes_on = || task.state.get() == State::Runnable;
            address::blocking(|| self.sleep_in_reactor(None, goes_on));
            drop(pass);
        }
        // It goes on now; others that became ready keep their order.
        self.queue.move_first(task);
    }

    /// Whether something else than this hub's greenlets could end what a task
    /// waits for.
    fn can_end_without_others(&self, task: TaskPtr) -> bool {
        // SAFETY: a task's waiter is null or in its frame.
        let waiter: Option<&Waiter> = unsafe { task.waiter.get().as_ref() };
        let Some(waiter) = waiter else { return false };
        waiter.is_timed()
            || match waiter.kind {
                Kind::Local => false,
                Kind::Shared => !report::no_other_threads(),
                Kind::External => true,
            }
    }

    /// Makes a task that waits runnable; does nothing to one that is.
    #[inline]
    pub(crate) fn make_ready(&self, task: TaskPtr) {
        match task.state.get() {
            State::Parked | State::Switched | State::New => {
                task.state.set(State::Runnable);
                if !self.held_back.take(task) {
                    self.queue.push(task);
                }
            }
            State::Runnable | State::Finished | State::Lost => {}
        }
    }

    /// The loop. Returns when the main greenlet's turn has come.
    fn run(&self, first: Option<TaskPtr>) {
        if self.closing {
            return self.block_thread(self.main());
        }
        // The main greenlet's turn is over.
        self.count_turn();
        let mut next = first;
        loop {
            let Some(mut task) = next.or_else(|| self.queue.first()) else {
                self.idle();
                continue;
            };
            debug_assert!(self.queue.first() == Some(task));
            self.current.set(task);
            // SAFETY: only the loop touches fibers, and a task's fiber stays
            // with it until the task has finished; so does its domain.
            let word = unsafe {
                match &mut *task.fiber.get() {
                    Some(fiber) => fiber.resume(),
                    None if task == self.main() => return self.keep_sentinel(),
                    none => match task.domain {
                        None => none.insert(self.take_fiber(task)).resume(),
                        Some(domain) => {
                            let word = self.resume_isolated(task, domain);
                            // Of several in a row, the last.
                            task = self.current();
                            word
                        }
                    },
                }
            };
            next = word.map(|next| TaskPtr(next.cast()));
            // Who ends does not say who is next.
            if next.is_none() && task.state.get() == State::Finished {
                next = self.queue.remove_first(task);
                self.retire(task);
            }
            self.count_turn();
        }
    }

    /// As the loop resumes others, on the thread-locals of its domain; and those who come
    /// next, on theirs, as long as nothing else is to be done. The last one is current.
    ///
    /// # Safety
    /// As for `Fiber::resume`, and the task's domain is alive.
    #[inline(never)]
    unsafe fn resume_isolated(&self, task: TaskPtr, domain: DomainPtr) -> Word {
        // SAFETY: only the loop touches fibers; the rest is the caller's promise.
        unsafe {
            let fiber = match &mut *task.isolated.get() {
                Some(fiber) => fiber,
                none => none.insert(self.take_fiber(task)),
            };
            let fiber = NonNull::from(fiber);
            Fiber::resume_on(fiber, domain.base(), |word| self.next_isolated(word))
        }
    }

    /// Who follows an isolated task, if it is another one and there is nothing else to do:
    /// it has its stack, and the hub need not look around yet. It is current from here on.
    ///
    /// This runs on the thread-locals of the one before, and uses none.
    #[inline(always)]
    fn next_isolated(&self, word: Word) -> Option<(NonNull<Fiber>, Base)> {
        let next = TaskPtr(word?.cast());
        let base = next.domain?.base();
        // SAFETY: as in `run`.
        let fiber = unsafe { (*next.isolated.get()).as_mut() }?;
        if !self.pulse.count_turn_within() {
            return None;
        }
        self.current.set(next);
        Some((NonNull::from(fiber), base))
    }

    /// A stack for a task that starts. Whatever that calls must not park here, on the
    /// loop's own frame, an allocator with a lock for instance.
    #[inline]
    fn take_fiber(&self, task: TaskPtr) -> Fiber {
        let _pass = PassThrough::enter();
        self.fibers.take(task.stack_size)
    }

    /// Takes leave of a task whose body has ended.
    #[inline]
    fn retire(&self, task: TaskPtr) {
        // SAFETY: as in `resume`; the fiber has run to the end of its job.
        if let Some(fiber) = unsafe { (*task.fiber.get()).take() } {
            self.fibers.give(fiber);
        }
        self.tasks.borrow_mut().remove(task.key.get());
        let domain = task.domain;
        if domain.is_some() {
            // SAFETY: as above.
            if let Some(fiber) = unsafe { (*task.isolated.get()).take() } {
                self.fibers.give(fiber);
            }
        }
        // From here on nobody is current: whatever asks for memory, or frees it, must not
        // look whether it may park.
        task::release(task);
        if let Some(domain) = domain {
            self.leave_domain(domain);
        }
        let retired = self.retired.get() + 1;
        self.retired.set(retired);
        if retired == RETIRED_PER_TRIM {
            let _pass = PassThrough::enter();
            self.retired.set(0);
            self.fibers.trim(self.coarse_now(), false);
        }
    }

    /// One turn is over; looks around if it was the 61st.
    #[inline(always)]
    fn count_turn(&self) {
        if self.pulse.count_turn() == 0 {
            self.look_from_within();
        }
    }

    /// The look at the clock that a busy run queue is interrupted for.
    #[cold]
    #[inline(never)]
    pub(super) fn look_from_within(&self) {
        let _pass = PassThrough::enter();
        self.pulse.begin_round();
        self.take_in_inbox();
        let now = clock::now_ns();
        self.coarse_now.set(now);
        if now.saturating_sub(self.polled_at.get()) >= POLL_INTERVAL {
            self.polled_at.set(now);
            self.fire_timers(now);
            self.poll_reactor();
        }
    }

    /// Takes in what has happened, without sleeping.
    pub(super) fn look_around(&self) {
        self.take_in_inbox();
        let now = clock::now_ns();
        self.coarse_now.set(now);
        self.fire_timers(now);
    }

    /// Nobody is runnable: finds somebody, or sleeps.
    #[cold]
    #[inline(never)]
    fn idle(&self) {
        let _pass = PassThrough::enter();
        let _idle = self.pulse.idle();
        self.look_around();
        if self.queue.first().is_some() {
            return;
        }
        self.current.set(self.main());
        let now = self.coarse_now();
        let next = self.timers.borrow().next_deadline();
        let at_leisure = next.is_none_or(|next| next > now + LEISURE);
        let trim_again = self.fibers.trim(now, at_leisure);
        let mut ask_again = None;
        if self.timers.borrow().len() == 0 {
            if self.was_called() {
                ask_again = Some(now + CONFIDENCE);
            } else if self.nobody_outside() {
                // A thread that has ended meanwhile, or a helper that has become
                // idle, may have woken somebody before it did.
                self.take_in_inbox();
                if self.queue.first().is_none() {
                    self.nothing_can_happen();
                }
                return;
            }
        }
        let housekeeping = [trim_again, ask_again].into_iter().flatten().min();
        self.sleep_in_reactor(housekeeping, || self.queue.first().is_some());
    }

    /// Whether another thread has called since the last time, and may be waited
    /// for. To count the threads costs a system call, as much as the sleep itself,
    /// and who is called often would pay it for every call.
    fn was_called(&self) -> bool {
        self.called.take() && self.external_waits.get() == 0 && self.shared_waits.get() > 0
    }

    /// Fires what is due, in the order of the deadlines.
    fn fire_timers(&self, now: u64) {
        loop {
            let due = self.timers.borrow_mut().pop_due(now);
            match due {
                Some(TimerTarget::Waiter(waiter)) => {
                    // SAFETY: a waiter's timer is cancelled before its frame
                    // is left.
                    unsafe { (*waiter).time_out(self) }
                }
                Some(TimerTarget::Timeout { task, id }) => interrupt::time_is_up(self, task, id),
                Some(TimerTarget::Start(task)) => {
                    task.with_extra(|extra| extra.start_timer = None);
                    self.make_ready(task);
                }
                Some(TimerTarget::Doubts) => self.doubt(),
                None => return,
            }
        }
    }

    /// Wakes whom other threads have answered.
    fn take_in_inbox(&self) {
        let shared = self.shared.borrow();
        if !shared.arrivals.is_empty() {
            shared.arrivals.take_in(self);
        }
        if shared.inbox.is_empty_hint() {
            return;
        }
        self.called.set(true);
        for message in shared.inbox.take() {
            self.notified(message.key, message.token);
        }
    }

    /// A wake-up by address: for the wait that it names, or for nobody.
    pub(super) fn notified(&self, key: u64, token: u32) {
        let task = self.tasks.borrow().get(Key::from_u64(key)).copied();
        let Some(task) = task else {
            // The greenlet has ended, or there never was one: see `shared`.
            let _pass = PassThrough::enter();
            self.deregister_retired();
            return interrupt::kill_as_asked(self);
        };
        // SAFETY: a task's waiter is null or in its frame.
        let waiter: Option<&Waiter> = unsafe { task.waiter.get().as_ref() };
        if let Some(waiter) = waiter {
            if waiter.token() == token {
                waiter.notified(self);
            }
        }
    }

    /// Whether nothing but this hub's own greenlets could wake one of them.
    fn nobody_outside(&self) -> bool {
        self.external_waits.get() == 0
            && (self.shared_waits.get() == 0 || report::no_other_threads())
    }

    /// Every greenlet waits for another one.
    fn nothing_can_happen(&self) {
        if self.orphaned.get() {
            super::end::exit_child(self);
        }
        report::deadlock(self);
        interrupt::deadlock(self, self.main());
    }
}
