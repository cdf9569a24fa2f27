//! What a thread of ours is: a mark that it bears from its start to its end, and that
//! isolated greenlets on it bear too.

use std::cell::Cell;

/// The marks of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    /// It does the jobs of `offload`.
    pub(crate) helper: bool,
    /// The number of the executor whose worker it is; 0 if of none.
    pub(crate) worker_of: u64,
}

thread_local! {
    static MARK: Cell<Mark> = const {
        Cell::new(Mark {
            helper: false,
            worker_of: 0,
        })
    };
}

/// The marks of the calling thread.
pub(crate) fn get() -> Mark {
    MARK.get()
}

/// Marks the calling thread.
pub(crate) fn set(mark: Mark) {
    MARK.set(mark);
}
