//! Waits for the workers that nobody waits for any more, so that they do not stay in the kernel's table as zombies.
//!
//! It is one thread with a hub, started when the first handle of a running worker is dropped, and a greenlet for
//! each such worker.

use std::sync::Arc;

use super::worker::Process;
use crate::hub::Patience;
use crate::queue::Queue;
use crate::sys::fork::PerProcess;
use crate::sys::helpers::IdleGuard;
use crate::sys::signal::SignalMask;

/// Where the thread gets them from; none if there is no thread.
type Orphans = Option<Arc<Queue<Arc<Process>>>>;

/// The child of a fork has none of its parent's threads, and none of its children.
static ORPHANS: PerProcess<std::sync::OnceLock<Orphans>> = PerProcess::new();

/// Sees to it that a process whose handle is gone is waited for.
pub(super) fn adopt(process: &Arc<Process>) {
    if process.is_over() {
        return;
    }
    let orphans = ORPHANS.get(std::sync::OnceLock::new).get_or_init(start);
    if let Some(orphans) = orphans {
        let _ = orphans.put(Arc::clone(process));
    }
}

fn start() -> Orphans {
    let orphans = Arc::new(Queue::unbounded());
    let queue = Arc::clone(&orphans);
    // The new thread inherits the mask, so it is never in a signal's way.
    let mask = SignalMask::all_but_faults().swap();
    let started = std::thread::Builder::new()
        .name("greenlet-reaper".to_owned())
        .spawn(move || reap(&queue));
    mask.swap();
    // Without a thread they are zombies until this process ends.
    started.is_ok().then_some(orphans)
}

fn reap(orphans: &Queue<Arc<Process>>) {
    // Nobody waits for this thread, whatever it does.
    let _idle = IdleGuard::new();
    for process in orphans.iter() {
        crate::spawn(move || process.wait(Patience::Forever));
    }
}
