//! `Results`: what an executor's `map` returns.

use std::collections::VecDeque;
use std::fmt;

use super::job::Job;
use super::kinds::{Threads, Workers};
use crate::error::JoinError;

/// The iterator of an executor's `map`: waits for one result after the other,
/// in the order of the items. Dropping it leaves the jobs as they are.
#[must_use = "it waits for the results that are asked for"]
pub struct Results<T, W: Workers = Threads> {
    jobs: VecDeque<Job<T, W>>,
}

impl<T, W: Workers> Results<T, W> {
    pub(super) fn new(jobs: VecDeque<Job<T, W>>) -> Results<T, W> {
        Results { jobs }
    }
}

impl<T, W: Workers> Iterator for Results<T, W> {
    type Item = Result<T, JoinError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.jobs.pop_front().map(Job::join)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.jobs.len(), Some(self.jobs.len()))
    }
}

impl<T, W: Workers> ExactSizeIterator for Results<T, W> {}

impl<T, W: Workers> fmt::Debug for Results<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("left", &self.jobs.len())
            .finish()
    }
}
