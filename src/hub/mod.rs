//! The scheduler of one OS thread, and everything a greenlet waits with.
//!
//! Every OS thread gets a hub on first use. The thread's own stack is its
//! *main greenlet*, and a blocking call made there runs the hub's loop, on that
//! very stack, until the call is answered:
//!
//! ```text
//!   main greenlet's stack                    greenlets' stacks
//!   ┌─────────────────────────┐
//!   │ fn main                 │
//!   │   handle.join()         │            ┌───────────────────────┐
//!   │     park()              │   resume   │ body of greenlet 7    │
//!   │       Hub::run (loop) ──┼──────────▶ │   sleep()             │
//!   │                       ◀─┼─────────── │     park()            │
//!   └─────────────────────────┘   suspend  └───────────────────────┘
//! ```
//!
//! For users there is this: [`Parker`] and [`Unparker`], to build waiting of
//! your own; [`shutdown`], which ends all other greenlets of the thread;
//! [`report`](report()), which tells who waits for what; and [`set_stack_size`].
//!
//! # Inside
//! There is one switch into a greenlet and one out of it per turn, and no
//! hub greenlet in between. No user code ever runs on the loop's own frame: a
//! blocking call there would enter the loop a second time.
//!
//! | file | what it is |
//! |---|---|
//! | `run` | the loop: whose turn it is, and what happens when it is nobody's |
//! | `task`, `cell` | the record of a greenlet; its memory, closure and result |
//! | `wait` | waiters, and the claim |
//! | `list`, `wait_queue` | those who wait, linked through their frames; the one `WaitQueue` |
//! | `interrupt`, `unwind` | kill and timeout; every catch and throw |
//! | `timers`, `reactor`, `inbox` | what wakes a hub: the clock, descriptors, other threads |
//! | `switch` | explicit switches, and the values they carry |
//! | `source` | what the reactor knows of one descriptor: who waits for what of it |
//! | `io` | "try, else park until ready", for every descriptor |
//! | `foreign`, `ask` | the same for descriptors that nobody keeps an account of; until when to wait |
//! | `doubts` | when what is known of these is to be made sure of |
//! | `closing` | who is told when one of these is closed |
//! | `numbers` | the sets of descriptor numbers that are asked at every `close` |
//! | `own` | the hub's own descriptors, which others may close |
//! | `quiet` | waits that end with an error where others unwind |
//! | `monitor` | a state that several threads change and wait for: what `sync` stands on |
//! | `exclusive` | a value that one greenlet at a time may change |
//! | `address` | waits by address, as the kernel's futexes are |
//! | `gate` | what many wait for together, woken in batches |
//! | `parker` | `Parker` and `Unparker`, the public face of waiting |
//! | `domain`, `seat` | thread-local storage of a greenlet's own, who shares it, and how it is made |
//! | `held` | a domain whose members wait for one of them |
//! | `threads` | threads that are isolated greenlets |
//! | `end` | threads that end, `shutdown`, and fork |
//! | `report` | who waits on what, and the deadlock report |
//! | `watch` | how other threads see whether a hub goes on |

pub(crate) mod address;
mod ask;
mod cell;
mod closing;
mod domain;
mod doubts;
mod end;
mod exclusive;
mod foreign;
mod gate;
mod held;
mod inbox;
mod interrupt;
mod io;
mod list;
mod monitor;
mod numbers;
mod own;
mod parker;
mod quiet;
mod reactor;
mod report;
mod run;
mod run_queue;
mod seat;
mod shared;
mod slab;
mod source;
mod switch;
mod task;
mod threads;
mod timers;
mod unwind;
mod wait;
mod wait_queue;
pub(crate) mod watch;

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::cell::{Blocks, Spec};
use self::domain::DomainPtr;
use self::doubts::Doubts;
use self::held::HeldBack;
use self::reactor::Reactor;
use self::run_queue::RunQueue;
use self::slab::Slab;
use self::threads::Threads;
use self::timers::{TimerKey, Timers};
use self::wait::Waiter;
use self::watch::Pulse;
use crate::coroutine::Fibers;
use crate::coroutine::tls::{self, Base};
use crate::error::SpawnError;
use crate::sys::pass::PassThrough;
use crate::sys::{clock, thread_end, threads as os_threads};

pub(crate) use self::ask::{Ask, descriptor_changed};
pub(crate) use self::cell::{Ended, Handle};
pub(crate) use self::closing::{all_look_again, closing, closing_range, replacing};
#[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
pub(crate) use self::domain::is_isolated_number;
pub(crate) use self::domain::{Attachment, WaitsAsThread, isolation};
pub(crate) use self::end::close_isolated;
pub use self::end::shutdown;
pub(crate) use self::exclusive::{Exclusive, Owned, park_releasing};
pub(crate) use self::foreign::{Ended as WatchEnded, Interest};
pub(crate) use self::gate::Gate;
pub(crate) use self::interrupt::kill_on;
pub(crate) use self::interrupt::{TimeoutFrame, check_interrupts, kill, throw_kill};
pub(crate) use self::io::{Io, Patience};
pub(crate) use self::monitor::{Guard, Guarded, Monitor, Ready, Wait, interrupted};
pub(crate) use self::own::{is_own, own_within};
pub use self::parker::{Parker, Unparker};
pub(crate) use self::quiet::{Quiet, passes_through, passing, run_handler};
pub use self::report::report;
pub(crate) use self::report::{abort_blocked, no_other_threads, panic_deadlock};
pub(crate) use self::run::may_switch;
pub(crate) use self::seat::Seat;
#[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
pub(crate) use self::seat::{Storage, thread_pointer};
pub(crate) use self::shared::HubShared;
pub(crate) use self::source::{Direction, bits};
pub(crate) use self::switch::{Anything, Arrival, Special, awaited_by};
pub(crate) use self::task::{AtEnd, Link, Local, LocalValue, State, Task, TaskPtr, TaskRef};
pub(crate) use self::threads::{process_exits, thread_leaves, with_os_threads};
pub(crate) use self::unwind::{
    Payload, catch, contain, is_interrupt, is_kill, is_timeout, rethrow,
};
pub(crate) use self::wait::{Kind, Reason, Woken, pause};
pub(crate) use self::wait_queue::{Place, WaitQueue, wait_any};
pub use crate::coroutine::StackSize;
#[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
pub(crate) use crate::coroutine::{stack_around, tls::is_block};

/// The scheduler of one OS thread.
pub(crate) struct Hub {
    // The loop's own, touched at every turn.
    /// Whose turn it is.
    current: Cell<TaskPtr>,
    queue: RunQueue,
    /// Counts the turns; also until the loop looks at the clock, the inbox and
    /// the reactor.
    pulse: Pulse,
    /// The time of the last look (nanoseconds), good enough for reports.
    coarse_now: Cell<u64>,
    /// When the reactor was last asked.
    polled_at: Cell<u64>,
    // What greenlets are made of.
    main: Box<Task>,
    fibers: Fibers,
    blocks: Blocks,
    /// The OS thread's own thread-locals, on which the loop runs.
    home: Base,
    /// How many tasks there are on other thread-locals.
    isolated: Cell<usize>,
    threads: Threads,
    held_back: HeldBack,
    tasks: RefCell<Slab<TaskPtr>>,
    stack_size: Cell<StackSize>,
    next_id: Cell<u64>,
    /// The kernel's number of the thread.
    os_thread: Cell<i32>,
    /// Greenlets that have ended.
    ends: Cell<u64>,
    // What wakes them.
    timers: RefCell<Timers<TimerTarget>>,
    doubts: Doubts,
    reactor: RefCell<Option<Reactor>>,
    shared: RefCell<Arc<HubShared>>,
    /// Waits that only another thread could end, and waits on the outside.
    shared_waits: Cell<isize>,
    external_waits: Cell<isize>,
    /// Another thread has called since it was last asked whether there is one.
    called: Cell<bool>,
    /// I/O operations until a greenlet that never has to wait yields.
    io_budget: Cell<u32>,
    /// Retired greenlets since stacks were last looked through.
    retired: Cell<u32>,
    /// How many domains have their explicit switches watched, and where the last came from.
    watched: Cell<u32>,
    origin: Cell<u64>,
    /// What the room `greenlet/` keeps of the thread's own domain.
    attachment: OnceCell<Box<dyn Attachment>>,
    /// After a fork, in the child: the greenlet whose stack carries the loop
    /// is not here any more, and the process ends when nobody else is.
    orphaned: Cell<bool>,
    /// The thread ends: no greenlet is resumed any more. See `end`.
    closing: bool,
    /// What the thread calls first when it ends, and what that was when it was
    /// this hub's sentinel. See `end`.
    newest_callback: thread_end::Newest,
    sentinel: Cell<usize>,
}

/// What a timer does when it is due.
#[derive(Clone, Copy)]
pub(crate) enum TimerTarget {
    /// Ends a wait. The wait cancels its timer before it leaves its frame.
    Waiter(*const Waiter),
    /// Tells a `timeout` frame, which cancels its timer when it is left.
    Timeout { task: TaskPtr, id: u64 },
    /// Starts a delayed greenlet, which cannot end before.
    Start(TaskPtr),
    /// What is known of descriptors is doubted.
    Doubts,
}

/// How a greenlet is to be made.
#[derive(Clone, Debug)]
pub(crate) struct SpawnOptions {
    /// Its number, if it has one already.
    pub(crate) id: Option<u64>,
    pub(crate) name: Option<Box<str>>,
    pub(crate) stack_size: Option<StackSize>,
    pub(crate) spawned_at: &'static Location<'static>,
}

impl SpawnOptions {
    #[track_caller]
    pub(crate) fn new() -> SpawnOptions {
        SpawnOptions {
            id: None,
            name: None,
            stack_size: None,
            spawned_at: Location::caller(),
        }
    }
}

thread_local! {
    /// This thread's hub, once it has one. `const` and without a destructor:
    /// reachable before, during and after everything else, and one load.
    static HUB: Cell<*const Hub> = const { Cell::new(std::ptr::null()) };
}

/// Numbers hubs, so that greenlets of different threads have different ids.
static NEXT_HUB: AtomicU64 = AtomicU64::new(0);

impl Hub {
    /// This thread's hub, made on first use.
    ///
    /// The reference is good until the thread's thread-locals are destroyed.
    /// Nothing stores it: everybody asks again.
    #[inline(always)]
    pub(crate) fn get() -> &'static Hub {
        match Hub::try_current() {
            Some(hub) => hub,
            None => Hub::create(),
        }
    }

    /// This thread's hub, if it has one.
    #[inline(always)]
    pub(crate) fn try_current() -> Option<&'static Hub> {
        // SAFETY: the pointer is null or that of a hub that `end` has not yet
        // taken away from this thread, which nulls it first.
        unsafe { HUB.get().as_ref() }
    }

    #[cold]
    #[inline(never)]
    fn create() -> &'static Hub {
        let number = NEXT_HUB.fetch_add(1, Ordering::Relaxed);
        let first_id = number << 40;
        let main = Box::new(cell::main_task(first_id));
        let main_ptr = TaskPtr((&*main).into());
        main.state.set(State::Runnable);
        let hub = Hub {
            current: Cell::new(main_ptr),
            queue: RunQueue::new(),
            pulse: Pulse::new(number),
            coarse_now: Cell::new(clock::now_ns()),
            polled_at: Cell::new(0),
            main,
            fibers: Fibers::new(run::entry),
            blocks: Blocks::new(),
            home: tls::current(),
            isolated: Cell::new(0),
            threads: Threads::new(),
            held_back: HeldBack::new(),
            tasks: RefCell::new(Slab::new()),
            stack_size: Cell::new(StackSize::DEFAULT),
            next_id: Cell::new(first_id + 1),
            os_thread: Cell::new(os_threads::current()),
            ends: Cell::new(0),
            timers: RefCell::new(Timers::new()),
            doubts: Doubts::new(),
            reactor: RefCell::new(None),
            shared: RefCell::new(HubShared::new(number)),
            shared_waits: Cell::new(0),
            called: Cell::new(false),
            external_waits: Cell::new(0),
            io_budget: Cell::new(io::BUDGET),
            retired: Cell::new(0),
            watched: Cell::new(0),
            origin: Cell::new(0),
            attachment: OnceCell::new(),
            orphaned: Cell::new(false),
            closing: end::is_closing(),
            newest_callback: thread_end::newest_callback(),
            sentinel: Cell::new(0),
        };
        let key = hub.tasks.borrow_mut().insert(main_ptr);
        hub.main.key.set(key);
        hub.queue.push(main_ptr);
        let hub: &'static Hub = Box::leak(Box::new(hub));
        end::adopt(hub);
        HUB.set(hub);
        hub
    }

    #[inline(always)]
    pub(crate) fn current(&self) -> TaskPtr {
        self.current.get()
    }

    pub(crate) fn main(&self) -> TaskPtr {
        TaskPtr((&*self.main).into())
    }

    pub(crate) fn os_thread(&self) -> i32 {
        self.os_thread.get()
    }

    pub(crate) fn coarse_now(&self) -> u64 {
        self.coarse_now.get()
    }

    #[inline(always)]
    pub(crate) fn shared_ptr(&self) -> *const HubShared {
        Arc::as_ptr(&self.shared.borrow())
    }

    /// A number that no other hub of this process has, or had.
    pub(crate) fn number(&self) -> u64 {
        self.shared.borrow().number
    }

    pub(crate) fn shared(&self) -> Arc<HubShared> {
        Arc::clone(&self.shared.borrow())
    }

    /// What another room keeps of the current domain: one value, made when first
    /// asked for.
    pub(crate) fn attachment<A: Attachment + Default>(&self) -> &A {
        let task = self.current();
        let place = match &task.domain {
            None => &self.attachment,
            Some(domain) => domain.attachment(),
        };
        let attachment = place.get().unwrap_or_else(|| {
            // Nobody else may make it meanwhile.
            let _pass = PassThrough::enter();
            place.get_or_init(|| Box::new(A::default()))
        });
        match attachment.as_any().downcast_ref::<A>() {
            // SAFETY: the hub, or the domain that the caller runs in, outlives what the
            // caller does with it.
            Some(attachment) => unsafe { &*std::ptr::from_ref(attachment) },
            None => unreachable!("one room attaches something to hubs"),
        }
    }

    /// A number that no greenlet, link or frame of any hub had before.
    pub(crate) fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Counts the end of a greenlet, and says which it was.
    #[inline(always)]
    pub(crate) fn count_end(&self) -> u64 {
        let ends = self.ends.get() + 1;
        self.ends.set(ends);
        ends
    }

    /// Makes a greenlet and queues it behind everybody who is runnable.
    #[inline]
    pub(crate) fn spawn<F, T>(
        &self,
        options: SpawnOptions,
        body: F,
    ) -> Result<Handle<T>, SpawnError>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let handle = self.create_task(options, body)?;
        self.make_ready(handle.task().ptr());
        Ok(handle)
    }

    /// Makes a greenlet that is queued when the deadline comes.
    pub(crate) fn spawn_at<F, T>(
        &self,
        options: SpawnOptions,
        deadline: u64,
        body: F,
    ) -> Result<Handle<T>, SpawnError>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let handle = self.create_task(options, body)?;
        let task = handle.task().ptr();
        if task.done.get() {
            // It was refused: see `domain`.
            return Ok(handle);
        }
        let timer = self.start_timer(deadline, TimerTarget::Start(task));
        task.with_extra(|extra| extra.start_timer = Some(timer));
        Ok(handle)
    }

    /// Makes a greenlet in the state `New`. Its stack is promised, not yet
    /// taken: a greenlet that has not started costs one block of memory.
    #[inline]
    pub(crate) fn create_task<F, T>(
        &self,
        options: SpawnOptions,
        body: F,
    ) -> Result<Handle<T>, SpawnError>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.create_task_in(options, self.current().domain, body)
    }

    /// As `create_task`, in this domain.
    #[inline]
    fn create_task_in<F, T>(
        &self,
        options: SpawnOptions,
        domain: Option<DomainPtr>,
        body: F,
    ) -> Result<Handle<T>, SpawnError>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let stack_size = options.stack_size.unwrap_or(self.stack_size.get());
        let stack_size = stack_size.with_room_for::<F, T>();
        let spec = Spec {
            id: options.id.unwrap_or_else(|| self.next_id()),
            stack_size,
            spawned_at: options.spawned_at,
            domain,
        };
        if domain.is_some_and(|domain| domain.is_ending()) {
            return Ok(domain::refuse(self, spec, body));
        }
        self.fibers.reserve(stack_size)?;
        let handle = cell::create(self, spec, body);
        let task = handle.task();
        if let Some(name) = options.name {
            task.with_extra(|extra| extra.name = Some(name));
        }
        task.key.set(self.tasks.borrow_mut().insert(task.ptr()));
        // With nothing in between that asks for memory: whoever ran there would find one
        // who is counted in its domain, and not among all tasks.
        if let Some(domain) = domain {
            self.enter_domain(domain);
        }
        if !self.pulse.is_listed() {
            watch::list(self);
        }
        Ok(handle)
    }

    pub(crate) fn start_timer(&self, deadline: u64, target: TimerTarget) -> TimerKey {
        self.timers.borrow_mut().start(deadline, target)
    }

    pub(crate) fn cancel_timer(&self, timer: TimerKey) {
        self.timers.borrow_mut().cancel(timer);
    }

    pub(crate) fn count_wait(&self, kind: Kind, by: isize) {
        let count = match kind {
            Kind::Local => return,
            Kind::Shared => &self.shared_waits,
            Kind::External => &self.external_waits,
        };
        count.set(count.get() + by);
    }
}

/// Sets the stack size of greenlets that are spawned on this thread from now
/// on and do not ask for one. It is [`StackSize::DEFAULT`] at first.
///
/// # Examples
/// ```
/// use greenlet::hub::{self, StackSize};
///
/// hub::set_stack_size(StackSize::new(64 << 10)?);
/// # Ok::<(), greenlet::error::StackError>(())
/// ```
pub fn set_stack_size(size: StackSize) {
    Hub::get().stack_size.set(size);
}
