//! What an isolated greenlet needs before it can be made: thread-local storage, and a
//! number by which locks know it. Any thread can make them, for any hub.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::{HUB, Hub};
use crate::coroutine::tls::{self, Base, TlsBlock};
use crate::error::IsolationError;
use crate::sys::mark::{self, Mark};
use crate::sys::pass::PassThrough;

/// Thread-local storage that nobody runs on yet, with a thread id of its own.
pub(crate) struct Seat {
    /// Freed when the domain is, and whoever else keeps it: as long as a block is there,
    /// no other one has its address.
    block: Arc<TlsBlock>,
    tid: Tid,
}

impl Seat {
    /// # Errors
    /// If this process cannot have isolated greenlets, or not so many of them.
    pub(crate) fn new() -> Result<Seat, IsolationError> {
        // The loader has locks of its own meanwhile.
        let _pass = PassThrough::enter();
        let tid = Tid::take()?;
        let block = Arc::new(TlsBlock::new(tid.0)?);
        Ok(Seat { block, tid })
    }

    pub(super) fn base(&self) -> Base {
        self.block.base()
    }

    /// The storage itself: there as long as anybody has this.
    pub(crate) fn storage(&self) -> Storage {
        Storage(Arc::clone(&self.block))
    }

    /// Calls a function on the storage, before the greenlet is made that runs on it.
    ///
    /// # Safety
    /// The function takes this argument, sets variables, and does nothing else.
    pub(crate) unsafe fn prepare(
        &self,
        function: unsafe extern "C" fn(*mut c_void),
        argument: *mut c_void,
    ) {
        // SAFETY: the block is alive, and nobody runs on it; the rest is the caller's
        // promise.
        unsafe { tls::on_base(self.block.base(), function, argument) };
    }

    /// By what number glibc's locks know who sits here.
    #[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
    pub(super) fn tid(&self) -> u32 {
        self.tid.0
    }

    /// Prepares it for a greenlet of this hub.
    pub(super) fn bring_to(&self, hub: &Hub) {
        let _pass = PassThrough::enter();
        let inherited = Inherited {
            hub,
            mark: mark::get(),
        };
        // SAFETY: the block is alive, nothing has run on it but what `on_base` calls, and
        // from now on it is this thread's. What is called takes this argument, sets
        // variables, and does nothing else.
        unsafe {
            self.block.take_over();
            let inherited = (&raw const inherited).cast_mut().cast();
            self.prepare(inherit, inherited);
        }
    }
}

/// Thread-local storage of an isolated greenlet, which outlives it: as long as somebody
/// has this, no other one is at the same address.
pub(crate) struct Storage(Arc<TlsBlock>);

impl Storage {
    /// Its thread pointer, which is the greenlet's `pthread_t`.
    pub(crate) fn pointer(&self) -> usize {
        self.0.base().address()
    }
}

/// The thread pointer of the caller.
pub(crate) fn thread_pointer() -> usize {
    tls::current().address()
}

/// What a new domain's variables of this crate are to be.
struct Inherited {
    hub: *const Hub,
    mark: Mark,
}

/// On the new block. All other variables of this crate begin as on a new thread.
extern "C" fn inherit(inherited: *mut c_void) {
    // SAFETY: the caller's variable.
    let inherited = unsafe { &*inherited.cast::<Inherited>() };
    HUB.set(inherited.hub);
    mark::set(inherited.mark);
}

/// A thread id that nobody else has who is alive.
struct Tid(u32);

/// Those that have been given back. It is never waited for: whoever finds it locked takes
/// a new number, or loses an old one, of which there are a thousand million. In the child
/// of a fork it may be locked for ever.
static FREE: Mutex<Vec<u32>> = Mutex::new(Vec::new());

impl Tid {
    fn take() -> Result<Tid, IsolationError> {
        static NEXT: AtomicU32 = AtomicU32::new(*tls::TIDS.start());
        if let Some(tid) = FREE.try_lock().ok().and_then(|mut free| free.pop()) {
            return Ok(Tid(tid));
        }
        let next = |tid: u32| (tid < *tls::TIDS.end()).then_some(tid + 1);
        NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map(Tid)
            .map_err(|_| IsolationError::TooMany)
    }
}

impl Drop for Tid {
    fn drop(&mut self) {
        let _pass = PassThrough::enter();
        if let Ok(mut free) = FREE.try_lock() {
            free.push(self.0);
        }
    }
}
