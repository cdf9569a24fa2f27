//! Descriptors without an owner that are closed, on any thread, while somebody waits for
//! them: they are known by their numbers only, and a number is another's at once.
//!
//! It is remembered which numbers some hub has armed. Whoever closes a number looks
//! there, and has those who wait for it answered with EBADF *before* the number can be
//! given out again:
//!
//! ```text
//!   closing:  out of ARMED ─▶ out of every epoll set ─▶ close ─▶ in ARMED? verify
//!   arming:   into ARMED ─▶ into the epoll set ─▶ still in ARMED? else in again,
//!                                                 and verify
//! ```
//!
//! So whoever arms it at the same moment on another thread either finds it closed,
//! or is told.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::Hub;
use super::io::Io;
use super::numbers::Numbers;
use super::own::is_own;
use super::reactor::{ALL_CLOSED, LOST};
use super::shared::HubShared;
use super::source::NOBODY;
use crate::sys::fork::PerProcess;
use crate::sys::os;
use crate::sys::pass::PassThrough;

/// The numbers of foreign descriptors that some hub has armed.
pub(super) static ARMED: Numbers = Numbers::new();

/// Where foreign descriptors may be known: all hubs that have a reactor.
pub(super) fn everywhere() -> &'static Io {
    static EVERYWHERE: PerProcess<Io> = PerProcess::new();
    EVERYWHERE.get(Io::of_nobody)
}

/// Runs `close`, which closes a descriptor number, or makes it another's. Who
/// waits for it, on whatever hub, gets EBADF.
#[inline]
pub(crate) fn closing<R>(fd: RawFd, close: impl FnOnce() -> R) -> R {
    if ARMED.contains(fd) {
        forget(fd);
    }
    let answer = close();
    if ARMED.contains(fd) {
        verify(fd);
    }
    answer
}

/// As `closing`, and if the number is one of our own, the hub whose it is has to
/// do without.
#[inline]
pub(crate) fn replacing<R>(fd: RawFd, replace: impl FnOnce() -> R) -> R {
    if is_own(fd) {
        lose(fd);
    }
    closing(fd, replace)
}

/// As `closing`, for all numbers from the first to the last.
pub(crate) fn closing_range<R>(first: u32, last: u32, close: impl FnOnce() -> R) -> R {
    ARMED.within(first, last).for_each(forget);
    let answer = close();
    ARMED.within(first, last).for_each(verify);
    answer
}

#[cold]
fn forget(fd: RawFd) {
    if is_borrowed_memory() {
        return;
    }
    let saved = os::errno();
    ARMED.remove(fd);
    everywhere().retire(fd);
    os::set_errno(saved);
}

/// Somebody has armed it while it was being closed; or this is the next to have
/// that number, and all is well with it.
#[cold]
fn verify(fd: RawFd) {
    tell_hubs(
        |hub| hub.verify_source(fd),
        |shared| shared.push_retired(fd, NOBODY),
    );
}

/// Has every hub that has a reactor do something: this thread's at once, and the
/// others when they come to their notes.
fn tell_hubs(mine: impl Fn(&Hub), others: impl Fn(&HubShared)) {
    if is_borrowed_memory() {
        return;
    }
    let _pass = PassThrough::enter();
    let saved = os::errno();
    everywhere().for_each_hub(|shared| match Hub::try_current() {
        Some(hub) if std::ptr::eq(hub.shared_ptr(), Arc::as_ptr(shared)) => mine(hub),
        _ if shared.is_closed() => {}
        _ => others(shared),
    });
    os::set_errno(saved);
}

/// Whether this is the child of a `vfork`: what it closes is its own, and stays
/// open in the parent, whose memory it runs in.
pub(super) fn is_borrowed_memory() -> bool {
    static PROCESS: PerProcess<u32> = PerProcess::new();
    *PROCESS.get(os::process_id) != os::process_id()
}

#[cold]
fn lose(fd: RawFd) {
    tell_hubs(
        |hub| hub.lose(fd),
        |shared| {
            if shared.stands_on(fd) {
                shared.push_retired(fd, LOST);
            }
        },
    );
}

/// Many descriptors were closed at once, those that have an owner among them, who
/// knows nothing of it: everybody who waits for any of them is to try again.
#[cold]
pub(crate) fn all_look_again() {
    tell_hubs(Hub::look_again, |shared| {
        shared.push_retired(-1, ALL_CLOSED)
    });
}
