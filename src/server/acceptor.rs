//! The acceptor: takes connections, and makes a greenlet for each.
//!
//! It asks for a free slot before it accepts, so that what the server
//! cannot serve yet waits in the kernel's queue, where another process that
//! listens may take it. A connection that was accepted lies in `pending` until
//! its greenlet has been made: an acceptor that is stopped loses none.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::listener::{Accept, Listener};
use super::open::Open;
use crate::hub::{State, WaitQueue};
use crate::sys::fork;
use crate::sys::pass::PassThrough;
use crate::{Builder, JoinHandle, Pool};

/// How long accepting pauses after a first error.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How long it pauses at most.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type Handler<L> = dyn Fn(<L as Accept>::Stream, <L as Accept>::Addr);
type Connection<L> = (<L as Accept>::Stream, <L as Accept>::Addr);

/// What a server and its acceptor share.
pub(super) struct Inner<L: Listener> {
    /// None once the server has been stopped.
    pub(super) listener: RefCell<Option<Rc<L>>>,
    handler: Rc<Handler<L>>,
    pub(super) pool: RefCell<Option<Rc<Pool>>>,
    pub(super) acceptor: RefCell<Option<JoinHandle<()>>>,
    /// Accepted, and without a greenlet so far.
    pub(super) pending: RefCell<Option<Connection<L>>>,
    pub(super) open: Rc<Open>,
    /// The last error of accepting that nobody has taken.
    pub(super) error: RefCell<Option<io::Error>>,
    /// Who is in `serve_forever`.
    pub(super) stopped: WaitQueue,
    generation: Cell<u32>,
}

impl<L: Listener> Inner<L> {
    pub(super) fn new(listener: L, handler: Rc<Handler<L>>) -> Inner<L> {
        Inner {
            listener: RefCell::new(Some(Rc::new(listener))),
            handler,
            pool: RefCell::default(),
            acceptor: RefCell::default(),
            pending: RefCell::default(),
            open: Open::new(),
            error: RefCell::default(),
            stopped: WaitQueue::new(),
            generation: Cell::new(fork::generation()),
        }
    }

    pub(super) fn listener(&self) -> io::Result<Rc<L>> {
        let listener = self.listener.borrow().clone();
        listener.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// What the acceptor does, until it is killed or the listener closed.
    pub(super) fn accept_all(&self, listener: &L, pool: Option<&Pool>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.accept_one(listener, pool) {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    let fatal = is_fatal(&error);
                    // Whoever stops the server has taken the listener away, and
                    // its closing is no error.
                    if self.listener.borrow().is_none() {
                        return;
                    }
                    self.error.replace(Some(error));
                    if fatal {
                        let listener = self.listener.take();
                        drop(listener);
                        self.stopped.wake_all();
                        return;
                    }
                    crate::sleep(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// Nothing that blocks comes between a connection's acceptance and its
    /// being in `pending`, or between that and its greenlet.
    fn accept_one(&self, listener: &L, pool: Option<&Pool>) -> io::Result<()> {
        if let Some(pool) = pool {
            pool.wait_available();
        }
        if self.pending.borrow().is_none() {
            let connection = listener.accept()?;
            self.pending.replace(Some(connection));
        }
        // Nobody runs from here on, though memory is asked for: the greenlet not before
        // it is among those that are open, and nobody who would use the pool.
        let _pass = PassThrough::enter();
        // Others that use the pool may have been faster.
        if pool.is_some_and(Pool::is_full) {
            return Ok(());
        }
        self.spawn_pending(pool)
    }

    fn spawn_pending(&self, pool: Option<&Pool>) -> io::Result<()> {
        // Shared, so that it is still there when there is no greenlet for it.
        let connection = Rc::new(Cell::new(self.pending.take()));
        let (number, leave) = Open::enter(&self.open);
        let handler = Rc::clone(&self.handler);
        let spawned = Builder::new().spawn({
            let connection = Rc::clone(&connection);
            move || {
                let _leave = leave;
                if let Some((stream, from)) = connection.take() {
                    handler(stream, from);
                }
            }
        });
        match spawned {
            Ok(handle) => {
                if let Some(pool) = pool {
                    let added = pool.try_add(&handle);
                    debug_assert!(added.is_ok(), "it was not full just now");
                }
                // It has not run yet: a spawned greenlet waits until this blocks.
                self.open.add(number, handle);
                Ok(())
            }
            Err(error) => {
                self.pending.replace(connection.take());
                Err(io::Error::new(io::ErrorKind::OutOfMemory, error))
            }
        }
    }

    /// In the child of a fork there are neither acceptor nor handlers. What was
    /// accepted, and the listener, are there as they were.
    pub(super) fn forget_before_fork(&self) {
        if self.generation.replace(fork::generation()) == fork::generation() {
            return;
        }
        let lost = |handle: &JoinHandle<()>| handle.task().state.get() == State::Lost;
        let mut acceptor = self.acceptor.borrow_mut();
        if acceptor.as_ref().is_some_and(lost) {
            // The block behind it is the parent's business.
            std::mem::forget(acceptor.take());
        }
        // The parent serves it.
        let pending = self.pending.take();
        self.open.forget(lost);
        drop(pending);
    }
}

/// What will be so again however often one asks.
pub(super) fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP)
    )
}
