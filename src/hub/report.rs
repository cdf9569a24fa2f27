//! Who waits on what: the report, and what is said when nothing can go on.

use std::fmt::{self, Write};

use super::Hub;
use super::task::{State, TaskPtr};
use crate::error::Deadlock;
use crate::sys::clock;
use crate::sys::os;
use crate::sys::pass::PassThrough;
use crate::sys::text::SliceText;

/// The greenlets of this thread: for each its name, where it was spawned, and
/// what it waits on since when (to about a tenth of a second).
///
/// # Examples
/// ```
/// let worker = greenlet::Builder::new()
///     .name("worker")
///     .spawn(|| greenlet::sleep(std::time::Duration::from_millis(5)))
///     .unwrap();
/// greenlet::yield_now();
/// let report = greenlet::hub::report();
/// assert!(report.contains("worker"));
/// assert!(report.contains("sleeping"));
/// worker.join().unwrap();
/// ```
#[must_use]
pub fn report() -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_report(Hub::get(), &mut out);
    out
}

fn write_report(hub: &Hub, out: &mut dyn Write) -> fmt::Result {
    // Nobody may end before it is through: `out` may allocate.
    let _pass = PassThrough::enter();
    let now = clock::now_ns();
    let tasks: Vec<TaskPtr> = hub.tasks.borrow().iter().copied().collect();
    writeln!(out, "{} greenlets on this thread:", tasks.len())?;
    for task in tasks {
        write!(out, "  ")?;
        task.write_name(out)?;
        match task.state.get() {
            State::Parked => {
                // SAFETY: a parked task's waiter lives in its frame.
                let waiter = unsafe { &*task.waiter.get() };
                write!(out, ": {}", waiter.reason.verb)?;
                if let Some(detail) = waiter.reason.detail {
                    write!(out, " {detail}")?;
                }
                let since = now.saturating_sub(waiter.since);
                write!(out, " since {:.1} s", since as f64 / 1e9)?;
            }
            State::Switched => write!(out, ": waiting to be switched to")?,
            State::Runnable if task == hub.current() => write!(out, ": running")?,
            State::Runnable => write!(out, ": runnable")?,
            State::New => write!(out, ": not started")?,
            State::Finished => write!(out, ": ending")?,
            State::Lost => write!(out, ": lost")?,
        }
        if task != hub.main() {
            write!(out, ", spawned at {}", task.spawned_at)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Says on the standard error stream, past std's locks, that all wait for each
/// other.
pub(super) fn deadlock(hub: &Hub) {
    let mut out = String::from("greenlet: deadlock: nothing can wake any of ");
    let _ = write_report(hub, &mut out);
    os::write_stderr(out.as_bytes());
}

/// Panics in a call that has no other way to say so.
pub(crate) fn panic_deadlock() -> ! {
    std::panic::panic_any(Deadlock)
}

/// A destructor blocks during an unwinding, std's panic count cannot be put
/// aside, and only this hub's greenlets could end that wait.
pub(super) fn abort_unwinding(hub: &Hub) -> ! {
    let _pass = PassThrough::enter();
    let mut out = String::from(
        "greenlet: fatal: a destructor waits while its greenlet unwinds, for another greenlet of \
         the same thread, which cannot run meanwhile (std's panic count was not found). Among ",
    );
    let _ = write_report(hub, &mut out);
    os::write_stderr(out.as_bytes());
    std::process::abort()
}

/// A greenlet blocks its thread, in a way that belongs to the thread and not to the
/// greenlet, and only this thread's greenlets could end that.
#[cold]
pub(crate) fn abort_blocked(hub: &Hub, what: &str) -> ! {
    // The end has come for the others, too.
    let _pass = PassThrough::enter();
    let mut out = String::from("greenlet: fatal: the greenlet \"");
    let _ = hub.current().write_name(&mut out);
    let _ = write!(
        out,
        "\" waits in {what}. Such a wait belongs to the OS thread, so no other greenlet of this \
         thread runs meanwhile, and there is no other thread that could end it. Use the queues and \
         locks of this crate (greenlet::queue, greenlet::sync) between greenlets, or give this code \
         thread-locals of its own: spawn_isolated, or std::thread::spawn. Among "
    );
    let _ = write_report(hub, &mut out);
    os::write_stderr(out.as_bytes());
    std::process::abort()
}

/// For the overflow handler: writes the running greenlet's name and says how
/// long it is. It runs in a signal handler: no allocation, no lock.
pub(super) fn name_for_signal_handler(buffer: &mut [u8]) -> usize {
    let Some(hub) = Hub::try_current() else {
        return 0;
    };
    let mut text = SliceText::new(buffer);
    let _ = hub.current().write_name(&mut text);
    text.len()
}

/// Whether this process has no other threads than this one and our helpers
/// that have nothing to do.
pub(crate) fn no_other_threads() -> bool {
    // Asked whenever a hub goes to sleep on what other threads may end.
    let ours = 1 + crate::sys::helpers::idle();
    !os::has_more_threads_than(ours) && os::thread_count().is_some_and(|threads| threads <= ours)
}
