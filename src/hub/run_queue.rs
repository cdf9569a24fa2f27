//! The run queue: tasks whose turn will come, first in, first out.
//!
//! The links are in the tasks, so queueing never allocates, and a task is in
//! the queue at most once: it is pushed only on its way into the state `Ready`.

use std::cell::Cell;

use super::task::TaskPtr;

pub(crate) struct RunQueue {
    first: Cell<Option<TaskPtr>>,
    last: Cell<Option<TaskPtr>>,
}

impl RunQueue {
    pub(crate) const fn new() -> RunQueue {
        RunQueue {
            first: Cell::new(None),
            last: Cell::new(None),
        }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }

    #[inline(always)]
    pub(crate) fn push(&self, task: TaskPtr) {
        task.next.set(None);
        match self.last.replace(Some(task)) {
            Some(last) => last.next.set(Some(task)),
            None => self.first.set(Some(task)),
        }
    }

    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<TaskPtr> {
        let task = self.first.get()?;
        let next = task.next.get();
        self.first.set(next);
        if next.is_none() {
            self.last.set(None);
        }
        Some(task)
    }

    /// Takes one task out of the middle; the others keep their order.
    pub(crate) fn remove(&self, task: TaskPtr) {
        let mut kept = Vec::new();
        while let Some(other) = self.pop() {
            if other != task {
                kept.push(other);
            }
        }
        kept.into_iter().for_each(|other| self.push(other));
    }

    /// Forgets who is queued, without touching them.
    pub(crate) fn clear(&self) {
        self.first.set(None);
        self.last.set(None);
    }
}
