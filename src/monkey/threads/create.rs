//! `pthread_create`: where it makes a greenlet, and how.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use libc::{pthread_attr_t, pthread_t};

use super::about::Attributes;
use super::exit;
use super::hubs;
use super::record::Thread;
use crate::error::SpawnError;
use crate::hub::{self, Hub, Seat, SpawnOptions, StackSize};
use crate::monkey::entry::{Part, interposed, is_on};
use crate::monkey::real::real;
use crate::sys::os;

/// What a thread runs.
pub(super) type Start = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

interposed! {
    Threads;

    /// On a thread that has called `patch_all`, makes an isolated greenlet.
    fn pthread_create(
        thread: *mut pthread_t,
        attributes: *const pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int {
        let Some(hub) = maker() else {
            // SAFETY: the caller's promise.
            return unsafe {
                real!(
                    c"pthread_create",
                    fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void),
                    (thread, attributes, start, argument)
                )
            };
        };
        let saved = os::errno();
        // SAFETY: as above.
        let made = Attributes::of(unsafe { attributes.as_ref() })
            .and_then(|attributes| create(hub, &attributes, Call { start, argument }));
        os::set_errno(saved);
        match made {
            Ok(handle) => {
                // SAFETY: as above. The new one cannot have run on this hub; on another
                // one it may have, as with OS threads.
                unsafe { thread.write(handle) };
                0
            }
            Err(error) => error,
        }
    }
}

/// This thread's hub, if new threads are to be greenlets.
fn maker() -> Option<&'static Hub> {
    if !is_on(Part::Threads) {
        return None;
    }
    let hub = Hub::try_current()?;
    (hub.makes_threads() && !hub::passes_through()).then_some(hub)
}

/// What a new thread is to call.
pub(super) struct Call {
    start: Start,
    argument: *mut c_void,
}

impl Call {
    /// None if the thread has left by `pthread_exit`.
    fn make(self) -> Option<*mut c_void> {
        exit::run(self.start, self.argument)
    }
}

// SAFETY: whoever calls `pthread_create` hands both to another thread.
unsafe impl Send for Call {}

/// A thread that has all but a stack and a hub.
pub(super) struct Beginner {
    seat: Seat,
    thread: Arc<Thread>,
    call: Call,
    stack: StackSize,
    /// How often there was no stack for it.
    pub(super) in_vain: u32,
}

fn create(hub: &Hub, attributes: &Attributes, call: Call) -> Result<pthread_t, c_int> {
    let stack = attributes.stack()?;
    let seat = Seat::new().map_err(|_| libc::EAGAIN)?;
    let thread = Thread::new(&seat, attributes.detached, stack.bytes());
    let handle = thread.handle();
    let beginner = Beginner {
        seat,
        thread,
        call,
        stack,
        in_vain: 0,
    };
    match hubs::next() {
        Some(elsewhere) => elsewhere.send(beginner),
        None => beginner.begin_on(hub).map_err(|_| libc::EAGAIN)?,
    }
    Ok(handle)
}

impl Beginner {
    pub(super) fn stack_size(&self) -> StackSize {
        self.stack
    }

    pub(super) fn with_stack(self, stack: StackSize) -> Beginner {
        Beginner { stack, ..self }
    }

    /// Makes a greenlet of this hub of it.
    pub(super) fn begin_on(self, hub: &Hub) -> Result<(), SpawnError> {
        let Beginner {
            seat,
            thread,
            call,
            stack,
            in_vain: _,
        } = self;
        thread.belongs_to(hub);
        let mut options = SpawnOptions::new();
        options.stack_size = Some(stack);
        let (told, me) = (Arc::clone(&thread), Arc::clone(&thread));
        let spawned = hub.spawn_thread(seat, options, told, move || {
            me.begin();
            if let Some(value) = call.make() {
                me.set_value(value);
            }
        });
        if spawned.is_err() {
            thread.never_begins();
        }
        spawned
    }
}
