//! Further OS threads, on which new threads are placed in turn: `Patch::hubs`.
//!
//! ```text
//!   pthread_create ── a Beginner ──▶ Elsewhere { waiting, news } ──▶ the main greenlet
//!      on any hub                                                    of hub n makes it
//! ```
//!
//! A thread that has been placed stays there. The block of thread-locals is made by who
//! creates the thread, so that its `pthread_t` is known at once.

use std::collections::VecDeque;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use super::create::Beginner;
use crate::hub::address::{self, Sleep, Slept};
use crate::hub::{Hub, Kind, Reason};
use crate::sys::fork::PerProcess;
use crate::sys::list::List;
use crate::sys::pass::PassThrough;
use crate::sys::{clock, os, os_thread};

/// An OS thread that runs what it is sent.
pub(super) struct Elsewhere {
    waiting: Mutex<VecDeque<Beginner>>,
    /// 1 if somebody is waiting.
    news: AtomicU32,
}

struct Hubs {
    /// One at a time starts them.
    count: Mutex<usize>,
    all: List<Elsewhere>,
    next: AtomicUsize,
}

/// Those of this process: a fork's child has none.
static HUBS: PerProcess<Hubs> = PerProcess::new();

fn hubs() -> &'static Hubs {
    HUBS.get(|| Hubs {
        count: Mutex::new(0),
        all: List::new(),
        next: AtomicUsize::new(0),
    })
}

/// Sees to it that there are so many.
///
/// # Errors
/// That of the thread that could not be started; those that could be are there.
pub(in crate::monkey) fn start(count: usize) -> io::Result<()> {
    let _pass = PassThrough::enter();
    let hubs = hubs();
    let mut started = hubs.count.lock().unwrap_or_else(PoisonError::into_inner);
    while *started < count {
        let elsewhere = hubs.all.add(Elsewhere {
            waiting: Mutex::default(),
            news: AtomicU32::new(0),
        });
        let named = Builder::new().name(format!("greenlet-hub-{}", *started + 1));
        os_thread::spawn(named, || elsewhere.run())?;
        *started += 1;
    }
    Ok(())
}

/// Whose turn it is to get a thread; nobody's if there are no further hubs.
pub(super) fn next() -> Option<&'static Elsewhere> {
    let hubs = hubs();
    let count = hubs.all.iter().count();
    let turn = hubs.next.fetch_add(1, Ordering::Relaxed);
    hubs.all.iter().nth(turn.checked_rem(count)?)
}

impl Elsewhere {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Beginner>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self) -> usize {
        ptr::from_ref(&self.news) as usize
    }

    pub(super) fn send(&self, beginner: Beginner) {
        let _pass = PassThrough::enter();
        self.waiting().push_back(beginner);
        self.news.store(1, Ordering::SeqCst);
        address::wake(self.address(), address::ANY, 1);
    }

    fn run(&self) {
        let hub = Hub::get();
        hub.make_threads();
        // Those whom there is no stack for here. Whoever has made one has been told that
        // it begins, so it does when there is one, here or elsewhere; others do not wait
        // for that.
        let mut late = Vec::new();
        loop {
            self.news.store(0, Ordering::SeqCst);
            late.retain_mut(|beginner| !begin(beginner, hub));
            while let Some(beginner) = self.take() {
                let mut beginner = Some(beginner);
                if !begin(&mut beginner, hub) {
                    late.push(beginner);
                }
            }
            let sleep = Sleep {
                reason: Reason::new("waiting for threads to run"),
                kind: Kind::External,
                deadline: (!late.is_empty()).then(|| clock::deadline_after(PAUSE)),
                may_go_first: true,
            };
            let still = || self.news.load(Ordering::SeqCst) == 0;
            let slept = address::wait(hub, self.address(), address::ANY, still, sleep);
            if matches!(slept, Slept::TimedOut) {
                late.retain_mut(|beginner| !begin(beginner, hub));
                for mut beginner in late.drain(..).flatten() {
                    beginner.in_vain += 1;
                    if beginner.in_vain == PATIENCE {
                        os::write_stderr(
                            b"greenlet: a thread cannot begin, for there is no address space left \
                              for its stack; it does when another one has ended\n",
                        );
                    }
                    next().unwrap_or(self).send(beginner);
                }
            }
        }
    }

    fn take(&self) -> Option<Beginner> {
        let _pass = PassThrough::enter();
        self.waiting().pop_front()
    }
}

/// So many pauses, and it is said that a thread waits: some seconds.
const PATIENCE: u32 = 500;
/// How long to wait for others to give their stacks back.
const PAUSE: Duration = Duration::from_millis(5);

/// Whether it has begun, for which there has to be a stack.
fn begin(beginner: &mut Option<Beginner>, hub: &Hub) -> bool {
    let size = beginner.as_ref().map(Beginner::stack_size);
    let Some(stack) = size.and_then(|size| hub.stack_for(size)) else {
        return false;
    };
    if let Some(beginner) = beginner.take() {
        // What has been found is there.
        let _ = beginner.with_stack(stack).begin_on(hub);
    }
    true
}
