//! Where a thread's thread-locals are: those of the program and of the libraries that it
//! was started with, which are as far from every thread's thread pointer.

use std::sync::atomic::{AtomicIsize, Ordering};

use super::panics::{static_blocks, thread_pointer};

/// Where they begin and end, from the thread pointer on; nowhere as long as nobody has
/// looked.
static BEGIN: AtomicIsize = AtomicIsize::new(0);
static END: AtomicIsize = AtomicIsize::new(0);

/// Finds out where they are.
pub(crate) fn find() {
    let pointer = thread_pointer();
    let from_pointer = |address: usize| address.wrapping_sub(pointer) as isize;
    let blocks = static_blocks();
    let begin = blocks.iter().map(|block| from_pointer(block.start)).min();
    let end = blocks.iter().map(|block| from_pointer(block.end)).max();
    BEGIN.store(begin.unwrap_or(0), Ordering::Relaxed);
    END.store(end.unwrap_or(0), Ordering::Relaxed);
}

/// Whether this is the address of a thread-local of the calling thread.
pub(crate) fn hold(address: usize) -> bool {
    let at = address.wrapping_sub(thread_pointer()) as isize;
    (BEGIN.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn thread_locals_are_told_from_everything_else() {
        thread_local!(static LOCAL: Cell<usize> = const { Cell::new(0) });
        static GLOBAL: AtomicIsize = AtomicIsize::new(0);
        find();
        let look = || {
            let (here, boxed) = (0usize, Box::new(0usize));
            assert!(LOCAL.with(|local| hold(local.as_ptr() as usize)));
            assert!(!hold(GLOBAL.as_ptr() as usize));
            assert!(!hold(&raw const here as usize) && !hold(&raw const *boxed as usize));
            LOCAL.with(|local| local.as_ptr() as usize)
        };
        let mine = look();
        std::thread::spawn(move || {
            look();
            assert!(!hold(mine));
        })
        .join()
        .unwrap();
    }
}
