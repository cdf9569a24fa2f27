//! Waits for the workers that nobody waits for any more, so that they do not stay in the kernel's table as zombies.
//!
//! It is one thread with a hub, started when the first handle of a running worker is dropped, and a greenlet for
//! each such worker.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Builder;

use super::worker::Process;
use crate::hub::{Parker, Patience, Reason, Unparker};
use crate::sys::fork::PerProcess;
use crate::sys::helpers::IdleGuard;
use crate::sys::os_thread;
use crate::sys::signal::SignalMask;

/// Where the thread gets them from.
#[derive(Default)]
struct Orphans {
    processes: Mutex<Vec<Arc<Process>>>,
    /// Wakes the thread, once that is there.
    thread: OnceLock<Unparker>,
}

/// None if there is no thread. The child of a fork has none of its parent's threads, and none of its children.
static ORPHANS: PerProcess<OnceLock<Option<Arc<Orphans>>>> = PerProcess::new();

impl Orphans {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        // Nothing panics while it is held, except for lack of memory.
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that a process whose handle is gone is waited for.
pub(super) fn adopt(process: &Arc<Process>) {
    if process.is_over() {
        return;
    }
    let orphans = ORPHANS.get(OnceLock::new).get_or_init(start);
    if let Some(orphans) = orphans {
        orphans.lock().push(Arc::clone(process));
        // Without one the thread has not looked for the first time.
        if let Some(thread) = orphans.thread.get() {
            thread.unpark();
        }
    }
}

fn start() -> Option<Arc<Orphans>> {
    let orphans = Arc::new(Orphans::default());
    let theirs = Arc::clone(&orphans);
    // The new thread inherits the mask, so it is never in a signal's way.
    let mask = SignalMask::all_but_faults().swap();
    let named = Builder::new().name("greenlet-reaper".to_owned());
    let started = os_thread::spawn(named, move || reap(&theirs));
    mask.swap();
    // Without a thread they are zombies until this process ends.
    started.is_ok().then_some(orphans)
}

fn reap(orphans: &Orphans) {
    // Nobody waits for this thread, whatever it does; and what it waits for comes from outside, or it would
    // take itself for one that nobody can wake.
    let _idle = IdleGuard::new();
    let parker = Parker::for_outside(Reason::new("waiting for worker processes to look after"));
    let _ = orphans.thread.set(parker.unparker());
    loop {
        let processes = std::mem::take(&mut *orphans.lock());
        for process in processes {
            crate::spawn(move || process.wait(Patience::Forever));
        }
        parker.park();
    }
}
