//! A block of thread-local storage that no OS thread owns: what a greenlet runs on
//! that every library is to take for a thread.
//!
//! glibc keeps the thread-locals of each thread in one allocation. The thread pointer
//! (the register `fs`) says whose it is:
//!
//! ```text
//!      memory of ours, filled by `_dl_allocate_tls`        fs
//!   ┌─────────────┬──────────────┬──────────────────┬──────▼─────────────────────┐
//!   │ room for    │ libc.so:     │ the executable:  │ `struct pthread`           │
//!   │ libraries   │ errno,       │ the hub's        │  00 self, 08 dtv, 10 self  │
//!   │ that are    │ malloc's     │ address, std's   │  18 1, 28 stack guard,     │
//!   │ loaded      │ cache, list  │ current thread   │  30 pointer guard, tid,    │
//!   │ later       │ of dtors …   │ and panics …     │  values of `pthread` keys  │
//!   └─────────────┴──────────────┴──────────────────┴────────────────────────────┘
//!                  ◀── at negative distances from fs   positive ──▶
//! ```
//!
//! So a greenlet whose stack is entered with `fs` set to a block of its own has
//! thread-locals, errno, a count of panics and a thread id of its own:
//!
//! ```text
//!   OS thread's block        hub's loop  ──fs = block──▶  greenlet's stack
//!   (fs = home)                                           (until it suspends)
//!                                        ──fs = block──▶  the next one's, if it has
//!                                        ◀──fs = home───  a block too
//! ```
//!
//! The changes stand in one function that is never inlined, around the switch of
//! stacks (`base.rs`). The life of a block:
//!
//! | | what | by whom |
//! |---|---|---|
//! | made | [`TlsBlock::new`]: what a thread that glibc starts finds in its block | any thread |
//! | prepared | [`visit`]: a function runs on it, on the caller's stack | any thread |
//! | entered, left | [`Fiber::resume_on`](super::Fiber::resume_on) | one thread |
//! | run down | [`run_down`]: the destructors of thread-locals and of `pthread` keys | who runs on it |
//! | taken over | [`TlsBlock::take_over`], if another thread is to run it: malloc's cache is that one's from now on | the one thread |
//! | given back | dropped, when nothing runs on it any more | any thread |
//!
//! It is not glibc's own: glibc's lists of threads do not have it. `docs/isolated.md`
//! tells what follows from that.

mod base;
mod glibc;
mod keys;
mod memory;
mod symbols;

use std::ffi::c_void;
use std::ops::RangeInclusive;

pub(super) use self::base::resume_on;
pub(crate) use self::base::{Base, current, on_base};
use self::glibc::Glibc;
use self::memory::Memory;
use crate::error::IsolationError;

/// A block of thread-local storage, initialised as for a new thread.
///
/// Dropping it frees it: nothing may run on it, or refer into it, any more. It shares
/// the malloc cache of the thread that has made it, or taken it over, and only there
/// may anything run on it.
pub(crate) struct TlsBlock {
    base: Base,
    memory: Memory,
    glibc: &'static Glibc,
}

// SAFETY: it is the address of memory that any thread may free.
unsafe impl Send for TlsBlock {}
// SAFETY: all that can be done by reference is to ask for the address.
unsafe impl Sync for TlsBlock {}

/// Numbers beyond those of the kernel's threads, of which there are never more than
/// 2^22, and within those that a lock's word has room for.
pub(crate) const TIDS: RangeInclusive<u32> = (1 << 22) + 1..=(1 << 30) - 2;

/// Whether this is the thread pointer of such a block, which is a `pthread_t`, and not
/// that of a thread.
///
/// # Safety
/// It is one of the two, of a thread that has not been joined.
pub(crate) unsafe fn is_block(pointer: usize) -> bool {
    let Some(glibc) = Glibc::known() else {
        return false;
    };
    // SAFETY: both begin with a `struct pthread`, which has its number there.
    let tid = unsafe { ((pointer + glibc.tid) as *const u32).read_volatile() };
    TIDS.contains(&tid)
}

/// Whether this process can have such blocks; found out once.
pub(crate) fn support() -> Result<(), IsolationError> {
    Glibc::get().map(drop)
}

impl TlsBlock {
    /// A new block. `tid` is what glibc's locks know its owner by: nobody else who
    /// lives has it, and no thread ever will.
    pub(crate) fn new(tid: u32) -> Result<TlsBlock, IsolationError> {
        let glibc = Glibc::get()?;
        let (memory, base) = glibc.make(tid).ok_or(IsolationError::OutOfMemory)?;
        let block = TlsBlock {
            base,
            memory,
            glibc,
        };
        // SAFETY: it is initialised, and `start` does not unwind.
        unsafe { on_base(block.base, start, std::ptr::null_mut()) };
        Ok(block)
    }

    pub(crate) fn base(&self) -> Base {
        self.base
    }

    /// Has the block share with the calling thread, on which it is to be run, and on
    /// no other from now on.
    ///
    /// # Safety
    /// Nothing has run on it so far but functions that were called by `on_base`.
    pub(crate) unsafe fn take_over(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.glibc.share(self.base) };
    }
}

/// What a thread does first in glibc, on its own block: its locale's tables.
extern "C" fn start(_: *mut c_void) {
    if let Ok(glibc) = Glibc::get() {
        // SAFETY: it has no preconditions.
        unsafe { (glibc.ctype_init)() };
    }
}

/// Runs the destructors of everything that has been used on the caller's block, in
/// glibc's order: those of thread-locals, the last one first, then those of `pthread`
/// keys. They may block, and use further thread-locals.
///
/// # Safety
/// The caller runs on a [`TlsBlock`], and nobody else runs on it from now on, or has
/// a reference into its thread-locals.
pub(crate) unsafe fn run_down() {
    if let Ok(glibc) = Glibc::get() {
        // SAFETY: as at the end of a thread of glibc's: nothing of the user's runs
        // on this block after its destructors.
        unsafe {
            (glibc.call_tls_dtors)();
            keys::run_down(glibc);
        }
    }
}

impl Drop for TlsBlock {
    fn drop(&mut self) {
        debug_assert!(current() != self.base, "a block is freed by who runs on it");
        // SAFETY: it was made, and nobody runs on it. The number of no thread
        // tells glibc, for as long as nobody else uses this memory, that the thread that
        // somebody asks for has been joined already.
        unsafe {
            let tid = self.base.as_ptr().add(self.glibc.tid);
            tid.cast::<u32>().write_volatile(u32::MAX);
            self.glibc.free(&mut self.memory, self.base);
        }
    }
}

#[cfg(all(test, target_arch = "x86_64", target_env = "gnu"))]
mod tests;
