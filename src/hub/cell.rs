//! The block of memory behind a greenlet: its task, its closure, its result.
//!
//! One allocation holds all three, and blocks of the usual size are recycled
//! last in first out, so a spawn on a warm hub allocates nothing.
//!
//! ```text
//!   Full<F, T>   ┌──────────┬───────────────────┬────────────┐
//!                │   Task   │ result: Option<…> │ closure: F │
//!                └──────────┴───────────────────┴────────────┘
//!   Typed<T>     ╰──────── what a Handle<T> knows ─╯
//! ```
//!
//! User code that runs here (the closure, its captures' destructors, a result
//! that nobody will ask for) runs on the greenlet's own stack: the hub's loop
//! only ever frees a block that has nothing of the user's left in it.

use std::alloc::Layout;
use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::NonNull;

use super::Hub;
use super::domain::{self, DomainPtr};
use super::slab::Key;
use super::task::{self, KILL, KILLED, MAIN_REFS, State, Task, TaskPtr, TaskRef, VTable};
use super::unwind;
use super::wait_queue::WaitQueue;
use crate::coroutine::StackSize;
use crate::sys::pass::PassThrough;

/// How a greenlet ended that did not return.
pub(crate) enum Ended {
    Panicked(Box<dyn Any + Send>),
    Killed,
}

/// What a greenlet leaves behind.
pub(crate) type Outcome<T> = Result<T, Ended>;

/// What is known of a greenlet before it starts.
pub(crate) struct Spec {
    pub(crate) id: u64,
    pub(crate) stack_size: StackSize,
    pub(crate) spawned_at: &'static Location<'static>,
    pub(crate) domain: Option<DomainPtr>,
}

#[repr(C)]
struct Typed<T> {
    task: Task,
    result: UnsafeCell<Option<Outcome<T>>>,
}

#[repr(C)]
struct Full<F, T> {
    typed: Typed<T>,
    closure: UnsafeCell<Option<F>>,
}

/// Makes a task in the state `New`, with one reference for the hub and one for
/// the handle that is returned.
#[inline]
pub(crate) fn create<F, T>(hub: &Hub, spec: Spec, body: F) -> Handle<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let block = hub
        .blocks
        .take(Layout::new::<Full<F, T>>())
        .cast::<Full<F, T>>();
    let task = new_task(spec, &Functions::<F, T>::VTABLE);
    // SAFETY: the block is fresh memory of this type's layout.
    unsafe {
        block.write(Full {
            typed: Typed {
                task,
                result: UnsafeCell::new(None),
            },
            closure: UnsafeCell::new(Some(body)),
        });
    }
    Handle {
        task: TaskRef::adopt(TaskPtr(block.cast())),
        result: PhantomData,
    }
}

/// A task that is not in a block: the main greenlet's, which lives in its hub.
pub(crate) fn main_task(id: u64) -> Task {
    fn never(_: TaskPtr) {
        unreachable!("the main greenlet is neither started nor ended by its hub");
    }
    static VTABLE: VTable = VTable {
        run: never,
        destroy: never,
        give_up: never,
    };
    let spec = Spec {
        id,
        stack_size: StackSize::DEFAULT,
        spawned_at: Location::caller(),
        domain: None,
    };
    new_task(spec, &VTABLE)
}

#[inline(always)]
fn new_task(spec: Spec, vtable: &'static VTable) -> Task {
    Task {
        next: Cell::new(None),
        suspender: Cell::new(None),
        fiber: UnsafeCell::new(None),
        domain: spec.domain,
        isolated: UnsafeCell::new(None),
        state: Cell::new(State::New),
        interrupts: Cell::new(0),
        done: Cell::new(false),
        unwinding: Cell::new(false),
        has_extra: Cell::new(false),
        scoped: Cell::new(false),
        refusals: Cell::new(0),
        passing: Cell::new(0),
        os_threads: Cell::new(false),
        midway: Cell::new(false),
        in_vain: Cell::default(),
        detached: Cell::new(false),
        token: Cell::new(0),
        waiter: Cell::new(std::ptr::null()),
        landing: Cell::new(std::ptr::null()),
        vtable,
        // One for the hub, one for the handle.
        refs: Cell::new(MAIN_REFS),
        key: Cell::new(Key::DANGLING),
        id: spec.id,
        ended: Cell::new(0),
        stack_size: spec.stack_size,
        spawned_at: spec.spawned_at,
        joiners: WaitQueue::new(),
        extra: RefCell::new(None),
    }
}

/// The typed operations, as plain function pointers.
struct Functions<F, T>(PhantomData<(F, T)>);

impl<F, T> Functions<F, T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    const VTABLE: VTable = VTable {
        run: Self::run,
        destroy: Self::destroy,
        give_up: Self::give_up,
    };

    /// Runs on the greenlet's own stack, from its start to its end.
    ///
    /// # Safety
    /// `task` was made by `create::<F, T>`, is current, and runs once.
    unsafe fn run(task: TaskPtr) {
        let full = task.0.cast::<Full<F, T>>().as_ptr();
        // SAFETY: the block is alive for as long as its task runs, and nobody
        // else looks at the closure.
        let body = unsafe { (*(*full).closure.get()).take() };
        // SAFETY: the block is alive, as above.
        let result = unsafe { (*full).typed.result.get() };
        let ended = match body {
            Some(body) if task.interrupts.get() & KILL == 0 || domain::begins_in_any_case(task) => {
                // The body is moved and its result written as seldom as can
                // be: both may be large.
                match unwind::catch(|| {
                    // SAFETY: handles look at the result only once the task
                    // has finished, which `finish` below makes true.
                    unsafe { *result = Some(Ok(body())) }
                }) {
                    Ok(()) => None,
                    Err(payload) if unwind::is_kill(&payload) => Some(Ended::Killed),
                    Err(payload) => Some(Ended::Panicked(payload)),
                }
            }
            unstarted => {
                // Killed before its first turn: it never runs, but what it
                // captured is dropped as usual.
                task.clear_interrupt(KILL);
                task.interrupt(KILLED);
                task.unwinding.set(true);
                unwind::contain(move || drop(unstarted));
                Some(Ended::Killed)
            }
        };
        // From here on it ends, whatever its destructors wait for.
        task.unwinding.set(true);
        if let Some(ended) = ended {
            // SAFETY: as above.
            unsafe { *result = Some(Err(ended)) };
        }
        task::drop_locals(task);
        if task.detached.get() {
            // Nobody can ask for it any more, and the loop must not run the
            // user's destructors.
            // SAFETY: as above.
            unwind::contain(|| unsafe { *result = None });
            // A destructor in it may have used further variables.
            task::drop_locals(task);
        }
        domain::leave(task);
        task::finish(task);
    }

    /// # Safety
    /// `task` was made by `create::<F, T>`, its body has begun, and will never
    /// be resumed.
    unsafe fn give_up(task: TaskPtr) {
        let typed = task.0.cast::<Typed<T>>().as_ptr();
        // SAFETY: the block is alive, and only the body, which stands still for
        // ever, would write the result.
        unsafe { *(*typed).result.get() = Some(Err(Ended::Killed)) }
    }

    /// # Safety
    /// `task` was made by `create::<F, T>`, and this was its last reference.
    unsafe fn destroy(task: TaskPtr) {
        let full = task.0.cast::<Full<F, T>>();
        // SAFETY: the block was initialised by `create` and nobody refers to
        // it any more; its memory goes back to where it came from.
        unsafe {
            full.as_ptr().drop_in_place();
            Blocks::give(full.cast(), Layout::new::<Full<F, T>>());
        }
    }
}

/// The one handle that owns a greenlet's result. Dropping it detaches.
pub(crate) struct Handle<T> {
    task: TaskRef,
    result: PhantomData<T>,
}

impl<T> Handle<T> {
    pub(crate) fn task(&self) -> &TaskRef {
        &self.task
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.task.done.get()
    }

    fn cell(&self) -> NonNull<Typed<T>> {
        self.task.ptr().0.cast()
    }

    /// The result, once finished; none if it was taken.
    pub(crate) fn peek(&self) -> Option<&Outcome<T>> {
        if !self.is_finished() {
            return None;
        }
        // SAFETY: the body has ended, so nobody writes the result any more,
        // except `take`, which needs this handle for itself.
        unsafe { (*self.cell().as_ref().result.get()).as_ref() }
    }

    /// The result, for good: the handle is used up.
    pub(crate) fn into_outcome(self) -> Option<Outcome<T>> {
        let mut handle = ManuallyDrop::new(self);
        let outcome = handle.take();
        task::release(handle.task.ptr());
        outcome
    }

    /// Takes the result out, once finished.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Outcome<T>> {
        if !self.is_finished() {
            return None;
        }
        // SAFETY: as in `peek`, and the handle is borrowed exclusively.
        unsafe { (*self.cell().as_ref().result.get()).take() }
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.task.detached.set(true);
        // The result is the user's, and its destructor may do anything, so it
        // goes before the reference does.
        drop(self.take());
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = String::new();
        self.task.write_name(&mut name)?;
        f.debug_struct("JoinHandle")
            .field("name", &name)
            .field("state", &self.task.state.get())
            .finish_non_exhaustive()
    }
}

/// Blocks up to this size are recycled; larger ones go back to the allocator.
const BLOCK_SIZE: usize = 256;
const BLOCK_ALIGN: usize = 16;
/// So many free blocks are kept; beyond that, memory follows what is alive.
const KEPT_BLOCKS: usize = 4096;

/// The free blocks of one hub, linked through their first word.
pub(crate) struct Blocks {
    free: Cell<Option<NonNull<FreeBlock>>>,
    len: Cell<usize>,
}

struct FreeBlock {
    next: Option<NonNull<FreeBlock>>,
}

impl Blocks {
    pub(crate) const fn new() -> Blocks {
        Blocks {
            free: Cell::new(None),
            len: Cell::new(0),
        }
    }

    /// The layout that memory for `wanted` really has, and whether such blocks
    /// are recycled.
    const fn rounded(wanted: Layout) -> (Layout, bool) {
        if wanted.size() <= BLOCK_SIZE && wanted.align() <= BLOCK_ALIGN {
            match Layout::from_size_align(BLOCK_SIZE, BLOCK_ALIGN) {
                Ok(layout) => (layout, true),
                Err(_) => unreachable!(),
            }
        } else {
            (wanted, false)
        }
    }

    #[inline]
    fn take(&self, wanted: Layout) -> NonNull<u8> {
        let (layout, pooled) = Blocks::rounded(wanted);
        if pooled {
            if let Some(block) = self.free.get() {
                // SAFETY: what is in the list is free memory, written by `keep`.
                self.free.set(unsafe { block.as_ref().next });
                self.len.set(self.len.get() - 1);
                return block.cast();
            }
        }
        // SAFETY: a task is not of size zero.
        let memory = unsafe { std::alloc::alloc(layout) };
        NonNull::new(memory).unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
    }

    /// Frees a block, on whichever hub this thread now has.
    ///
    /// # Safety
    /// The block came from `take(wanted)` and nothing refers to it.
    unsafe fn give(block: NonNull<u8>, wanted: Layout) {
        let (layout, pooled) = Blocks::rounded(wanted);
        if pooled {
            if let Some(hub) = Hub::try_current() {
                if hub.blocks.len.get() < KEPT_BLOCKS {
                    hub.blocks.keep(block.cast());
                    return;
                }
            }
        }
        // The loop may have called, whose current task this was: no allocator that waits
        // looks at it to find out whether it may park.
        let _pass = PassThrough::enter();
        // SAFETY: the caller's promise, and `take` used the same layout.
        unsafe { std::alloc::dealloc(block.as_ptr(), layout) }
    }

    #[inline]
    fn keep(&self, block: NonNull<FreeBlock>) {
        let free = FreeBlock {
            next: self.free.get(),
        };
        // SAFETY: a free block is at least a word of memory that is ours.
        unsafe { block.write(free) };
        self.free.set(Some(block));
        self.len.set(self.len.get() + 1);
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let (layout, _) = Blocks::rounded(Layout::new::<Task>());
        while let Some(block) = self.free.get() {
            // SAFETY: as in `take`; only blocks of the pooled layout are kept.
            unsafe {
                self.free.set(block.as_ref().next);
                std::alloc::dealloc(block.as_ptr().cast(), layout);
            }
        }
    }
}
