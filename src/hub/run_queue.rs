//! The run queue: who is runnable, in the order of their turns.
//!
//! It is a ring through the tasks themselves, so queueing never allocates. The
//! task whose turn it is stays in the ring, as its first, while it runs. So the
//! commonest thing a scheduler does, a yield, moves one pointer:
//!
//! ```text
//!      ┌──────────────────────────────────────────┐
//!      └─▶ A ────▶ B ────▶ C ────▶ D ─────────────┘
//!        first: runs               last ◀── the queue holds this pointer
//!
//!      A yields:     `last` moves on to A, which makes B the first
//!      A parks:      D is linked to B
//!      E is woken:   between D and A, and `last` moves on to E
//!      A switches to F, which is not in the ring: F takes the place of A
//! ```

use std::cell::Cell;

use super::task::TaskPtr;

pub(crate) struct RunQueue {
    last: Cell<Option<TaskPtr>>,
}

impl RunQueue {
    pub(crate) const fn new() -> RunQueue {
        RunQueue {
            last: Cell::new(None),
        }
    }

    /// Whose turn it is.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<TaskPtr> {
        self.last.get()?.next.get()
    }

    /// Puts a task behind all others. It must not be in the queue.
    #[inline(always)]
    pub(crate) fn push(&self, task: TaskPtr) {
        self.push_first(task);
        self.last.set(Some(task));
    }

    /// Puts a task before all others. It must not be in the queue.
    #[inline(always)]
    pub(crate) fn push_first(&self, task: TaskPtr) {
        match self.last.get() {
            Some(last) => {
                task.next.set(last.next.get());
                last.next.set(Some(task));
            }
            None => {
                task.next.set(Some(task));
                self.last.set(Some(task));
            }
        }
    }

    /// Puts a task behind the first, which is there.
    pub(crate) fn push_second(&self, task: TaskPtr) {
        let Some(first) = self.first() else {
            return self.push(task);
        };
        task.next.set(first.next.get());
        first.next.set(Some(task));
        if self.last.get() == Some(first) {
            self.last.set(Some(task));
        }
    }

    /// Another task, which is not in the queue, takes the place of the first.
    #[inline(always)]
    pub(crate) fn replace_first(&self, first: TaskPtr, with: TaskPtr) {
        debug_assert!(self.first() == Some(first));
        match self.last.get() {
            Some(last) if last != first => {
                with.next.set(first.next.get());
                last.next.set(Some(with));
            }
            _ => {
                with.next.set(Some(with));
                self.last.set(Some(with));
            }
        }
    }

    /// Takes the first out, and says who is the first now.
    #[inline(always)]
    pub(crate) fn remove_first(&self, first: TaskPtr) -> Option<TaskPtr> {
        debug_assert!(self.first() == Some(first));
        match self.last.get() {
            Some(last) if last != first => {
                last.next.set(first.next.get());
                first.next.get()
            }
            _ => {
                self.last.set(None);
                None
            }
        }
    }

    /// The first goes behind all others; says who is the first now, or nobody
    /// if it was alone.
    #[inline(always)]
    pub(crate) fn rotate(&self, first: TaskPtr) -> Option<TaskPtr> {
        debug_assert!(self.first() == Some(first));
        let next = first.next.get();
        if next == Some(first) {
            return None;
        }
        self.last.set(Some(first));
        next
    }

    /// Moves a queued task before all others.
    pub(crate) fn move_first(&self, task: TaskPtr) {
        let Some(mut before) = self.last.get() else {
            return;
        };
        while let Some(next) = before.next.get() {
            if next == task {
                break;
            }
            before = next;
        }
        if before == task {
            return;
        }
        before.next.set(task.next.get());
        if self.last.get() == Some(task) {
            self.last.set(Some(before));
        }
        self.push_first(task);
    }

    /// Takes them all out, in their order.
    pub(crate) fn take(&self) -> RunQueue {
        RunQueue {
            last: Cell::new(self.last.take()),
        }
    }

    /// Forgets who is queued, without touching them.
    pub(crate) fn clear(&self) {
        self.last.set(None);
    }
}
