//! The least hub that the files under test can stand on.
//!
//! It has one greenlet, the thread's main one, so its loop is what the real
//! loop does when nobody is runnable: fire what is due, take in the inbox,
//! else sleep until a waker calls. Time stands still; a wait that has a
//! deadline meets it as soon as the hub would otherwise sleep, and loom finds
//! every moment at which that can be.

#[path = "../../../src/hub/gate.rs"]
pub(crate) mod gate;
#[path = "../../../src/hub/inbox.rs"]
pub(crate) mod inbox;
#[path = "../../../src/hub/list.rs"]
mod list;
#[cfg(test)]
#[path = "models.rs"]
mod models;
#[path = "../../../src/hub/monitor.rs"]
pub(crate) mod monitor;
#[cfg(test)]
#[path = "monitor_models.rs"]
mod monitor_models;
#[path = "../../../src/hub/parker.rs"]
pub(crate) mod parker;
#[path = "../../../src/hub/wait.rs"]
pub(crate) mod wait;
#[path = "../../../src/hub/wait_queue.rs"]
pub(crate) mod wait_queue;

use std::cell::Cell;

use loom::sync::Arc;

/// Nobody waits by address here.
pub(crate) mod address {
    pub(crate) fn blocking<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
}

use self::shared::{Bell, HubShared};
use self::task::{State, Task, TaskPtr};
use self::wait::{Kind, Reason, Waiter, Woken};

pub(crate) struct Hub {
    number: u64,
    main: Box<Task>,
    shared: Arc<HubShared>,
    bell: Bell,
    timer: Cell<Option<*const Waiter>>,
}

#[derive(Clone, Copy)]
pub(crate) enum TimerTarget {
    Waiter(*const Waiter),
}

loom::thread_local! {
    static HUB: Cell<*const Hub> = Cell::new(std::ptr::null());
}

/// Runs `body` on a thread that has a hub.
pub(crate) fn with_hub<R>(body: impl FnOnce() -> R) -> R {
    let hub = Hub::new();
    HUB.with(|current| current.set(&*hub));
    let result = body();
    HUB.with(|current| current.set(std::ptr::null()));
    hub.shared.close();
    result
}

/// The key of the one timer.
pub(crate) struct Timer;

impl Hub {
    fn new() -> Box<Hub> {
        let bell = Bell::new();
        let shared = Arc::new(HubShared::new());
        shared.inbox.set_waker(bell.clone());
        // Nobody asks more of a number than whether it is another one.
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Box::new(Hub {
            number: NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            main: Box::new(Task::new()),
            shared,
            bell,
            timer: Cell::new(None),
        })
    }

    pub(crate) fn get() -> &'static Hub {
        Hub::try_current().expect("this thread was started without a hub")
    }

    pub(crate) fn try_current() -> Option<&'static Hub> {
        // SAFETY: `with_hub` takes the pointer back before the hub ends.
        HUB.with(|hub| unsafe { hub.get().as_ref() })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn current(&self) -> TaskPtr {
        TaskPtr(&raw const *self.main)
    }

    pub(crate) fn coarse_now(&self) -> u64 {
        0
    }

    pub(crate) fn shared_ptr(&self) -> *const HubShared {
        Arc::as_ptr(&self.shared)
    }

    pub(crate) fn shared(&self) -> Arc<HubShared> {
        Arc::clone(&self.shared)
    }

    pub(crate) fn count_wait(&self, _: Kind, _: isize) {}

    pub(crate) fn start_timer(&self, _: u64, TimerTarget::Waiter(waiter): TimerTarget) -> Timer {
        self.timer.set(Some(waiter));
        Timer
    }

    pub(crate) fn cancel_timer(&self, _: Timer) {
        self.timer.set(None);
    }

    pub(crate) fn make_ready(&self, task: TaskPtr) {
        if task.state.get() == State::Parked {
            task.state.set(State::Ready);
        }
    }

    pub(crate) fn keep_sentinel(&self) {}

    pub(crate) fn suspend_runnable(&self, _: TaskPtr) {
        self.take_in_inbox();
    }

    /// As the real loop: runs until the greenlet is ready.
    pub(crate) fn suspend(&self, state: State) {
        self.main.state.set(state);
        loop {
            self.take_in_inbox();
            if self.main.state.get() == State::Ready {
                break;
            }
            if let Some(waiter) = self.timer.take() {
                // SAFETY: a waiter's timer is cancelled before its frame ends.
                unsafe { (*waiter).time_out(self) };
                continue;
            }
            if self.shared.inbox.prepare_sleep() {
                self.bell.wait();
                self.shared.inbox.woke_up();
            }
        }
        self.main.state.set(State::Running);
    }

    fn take_in_inbox(&self) {
        if self.shared.inbox.is_empty_hint() {
            return;
        }
        for message in self.shared.inbox.take() {
            self.notified(message.key, message.token);
        }
    }

    pub(crate) fn notified(&self, key: u64, token: u32) {
        assert_eq!(key, 0, "a message for another hub's greenlet");
        // SAFETY: a task's waiter is null or in its frame.
        let waiter: Option<&Waiter> = unsafe { self.main.waiter.get().as_ref() };
        if let Some(waiter) = waiter {
            if waiter.token() == token {
                waiter.notified(self);
            }
        }
    }
}

pub(crate) mod shared {
    //! A hub as other threads see it, with a bell in the place of the eventfd.

    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};

    use super::inbox::{Inbox, Message, Wake};

    pub(crate) struct HubShared {
        closed: AtomicBool,
        pub(crate) inbox: Inbox<Bell>,
    }

    impl HubShared {
        pub(crate) fn new() -> HubShared {
            HubShared {
                closed: AtomicBool::new(false),
                inbox: Inbox::new(),
            }
        }

        pub(crate) fn is_closed(&self) -> bool {
            self.closed.load(Ordering::Acquire)
        }

        pub(crate) fn close(&self) {
            self.closed.store(true, Ordering::Release);
        }

        pub(crate) fn push(&self, (key, token): (u64, u32)) {
            if !self.is_closed() {
                self.inbox.push(Message { key, token });
            }
        }
    }

    /// Rings until it is heard, as an eventfd does.
    #[derive(Clone)]
    pub(crate) struct Bell {
        inner: Arc<Inner>,
    }

    struct Inner {
        rings: Mutex<bool>,
        heard: Condvar,
        /// How often it was rung.
        count: AtomicUsize,
    }

    impl Bell {
        pub(crate) fn new() -> Bell {
            Bell {
                inner: Arc::new(Inner {
                    rings: Mutex::new(false),
                    heard: Condvar::new(),
                    count: AtomicUsize::new(0),
                }),
            }
        }

        pub(crate) fn wait(&self) {
            let mut rings = self.inner.rings.lock().unwrap();
            while !*rings {
                rings = self.inner.heard.wait(rings).unwrap();
            }
            *rings = false;
        }

        pub(crate) fn count(&self) -> usize {
            self.inner.count.load(Ordering::SeqCst)
        }
    }

    impl Wake for Bell {
        fn wake(&self) {
            self.inner.count.fetch_add(1, Ordering::SeqCst);
            *self.inner.rings.lock().unwrap() = true;
            self.inner.heard.notify_one();
        }
    }
}

pub(crate) mod task {
    //! The fields of a greenlet's record that a wait uses.

    use std::cell::Cell;

    use super::wait::Waiter;

    pub(crate) const PENDING: u8 = 1;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum State {
        Running,
        Ready,
        Parked,
    }

    pub(crate) struct Task {
        pub(crate) state: Cell<State>,
        pub(crate) token: Cell<u32>,
        pub(crate) key: Cell<Key>,
        pub(crate) interrupts: Cell<u8>,
        pub(crate) waiter: Cell<*const Waiter>,
    }

    impl Task {
        pub(crate) fn new() -> Task {
            Task {
                state: Cell::new(State::Running),
                token: Cell::new(0),
                key: Cell::new(Key),
                interrupts: Cell::new(0),
                waiter: Cell::new(std::ptr::null()),
            }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Key;

    impl Key {
        pub(crate) fn to_u64(self) -> u64 {
            0
        }
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct TaskPtr(pub(super) *const Task);

    impl std::ops::Deref for TaskPtr {
        type Target = Task;

        fn deref(&self) -> &Task {
            // SAFETY: a hub's one task lives as long as the hub.
            unsafe { &*self.0 }
        }
    }
}

mod interrupt {
    pub(super) fn throw(_: &super::Hub) -> ! {
        unreachable!("nobody kills in these models")
    }
}

mod report {
    pub(super) fn panic_deadlock() -> ! {
        unreachable!("the fake hub declares no deadlock")
    }
}
