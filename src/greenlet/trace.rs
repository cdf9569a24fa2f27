//! The tracer, and the orphans: what is looked after when a switch has arrived.
//!
//! A hub that has neither is *unwatched*, and its switches take the short way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::node::Node;
use crate::hub::{self, Attachment, Hub};
use crate::sys::pass::PassThrough;
use crate::task::GreenletId;

/// What a tracer is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TraceKind {
    /// A value travels.
    Switch,
    /// A panic travels: from [`throw`](super::Greenlet::throw), or from a child that panicked to its parent.
    Throw,
}

/// One explicit switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TraceEvent {
    /// What travels.
    pub kind: TraceKind,
    /// The greenlet that switched away, or ended.
    pub origin: GreenletId,
    /// The greenlet that runs now.
    pub target: GreenletId,
}

/// What [`set_tracer`] takes and gives back.
pub type Tracer = Rc<dyn Fn(&TraceEvent)>;

/// Has `tracer` called at every explicit switch of this thread, or nobody; returns who was before.
///
/// It runs in the greenlet that was switched to, when it has arrived there. If it panics, it is uninstalled, and
/// the panic goes on in that greenlet. Switches that the tracer itself makes are not traced, nor is what the hub
/// does by itself. While the thread-locals of an isolated greenlet are destroyed there are no switches in it:
/// `tracer` is dropped, and nobody was before.
///
/// # Examples
/// ```
/// use greenlet::{Greenlet, TraceEvent, set_tracer};
/// use std::{cell::Cell, rc::Rc};
///
/// let switches = Rc::new(Cell::new(0));
/// let counter = Rc::clone(&switches);
/// set_tracer(Some(Rc::new(move |_: &TraceEvent| counter.set(counter.get() + 1))));
/// Greenlet::new(|n: i32| n).switch(1);
/// set_tracer(None);
/// assert_eq!(switches.get(), 2); // there, and back
/// ```
#[doc(alias = "settrace")]
#[doc(alias = "gettrace")]
pub fn set_tracer(tracer: Option<Tracer>) -> Option<Tracer> {
    let hub = Hub::get();
    if hub.is_running_down() {
        // There is no switch any more, and nobody who would drop it in time.
        return None;
    }
    let watch: &Watch = hub.attachment();
    let old = watch.tracer.replace(tracer);
    watch.tell(hub);
    old
}

/// What this room keeps of each thread, and of each isolated greenlet.
#[derive(Default)]
struct Watch {
    tracer: RefCell<Option<Tracer>>,
    /// The tracer is running: what it does is not traced.
    tracing: Cell<bool>,
    /// Greenlets without handles that could not be killed when the last was dropped.
    orphans: RefCell<Vec<Rc<Node>>>,
    /// What the hub was told last.
    told: Cell<bool>,
}

impl Watch {
    /// Whether anything is to be looked after when a switch arrives.
    fn is_busy(&self) -> bool {
        self.tracer.borrow().is_some() || !self.orphans.borrow().is_empty()
    }

    fn keep_orphan(&self, node: Rc<Node>) {
        let _pass = PassThrough::enter();
        self.orphans.borrow_mut().push(node);
    }

    fn tell(&self, hub: &Hub) {
        let busy = self.is_busy();
        if self.told.replace(busy) != busy {
            hub.watch_switches(busy);
        }
    }
}

impl Attachment for Watch {
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn clear(&self) {
        let tracer = self.tracer.take();
        let orphans = self.orphans.take();
        self.tell(Hub::get());
        drop((tracer, orphans));
    }
}

/// A switch has arrived in the current greenlet.
#[cold]
pub(super) fn arrive(hub: &Hub, kind: TraceKind, origin: u64) {
    let watch: &Watch = hub.attachment();
    trace(watch, hub, kind, origin);
    bury_orphans(watch, hub);
}

fn trace(watch: &Watch, hub: &Hub, kind: TraceKind, origin: u64) {
    if watch.tracing.get() {
        return;
    }
    let Some(tracer) = watch.tracer.borrow().clone() else {
        return;
    };
    let event = TraceEvent {
        kind,
        origin: GreenletId(origin),
        target: GreenletId(hub.current().id),
    };
    watch.tracing.set(true);
    let outcome = hub::catch(|| tracer(&event));
    watch.tracing.set(false);
    if let Err(payload) = outcome {
        let removed = watch.tracer.replace(None);
        watch.tell(hub);
        drop(removed);
        hub::rethrow(payload);
    }
}

/// Keeps an eye on a greenlet that nobody can switch to any more, but which runs still, or will.
pub(super) fn adopt_orphan(node: &Rc<Node>) {
    let hub = Hub::get();
    let watch: &Watch = hub.attachment();
    watch.keep_orphan(Rc::clone(node));
    watch.tell(hub);
}

/// Kills the orphans that have switched away in the meantime.
fn bury_orphans(watch: &Watch, hub: &Hub) {
    let orphans = watch.orphans.take();
    if orphans.is_empty() {
        return;
    }
    for orphan in orphans {
        // One that was found again by `Greenlet::current` has handles once more.
        let unsettled = orphan.is_abandoned() && orphan.is_alive() && !orphan.kill_abandoned();
        if unsettled {
            watch.keep_orphan(orphan);
        }
    }
    watch.tell(hub);
}
