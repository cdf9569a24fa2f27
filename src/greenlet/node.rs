//! One greenlet in the tree of parents, without its type.
//!
//! ```text
//!   Greenlet<T> ──┐ counted handles               ┌────────── main's node
//!   Greenlet<U> ──┼──▶ NodeRef ──▶ Rc<Node> ── parent (a NodeRef) ──▶ …
//!   children   ───┘                  │  ▲
//!                                    │  └─ the running body holds the Rc, uncounted
//!                                    └─ task, once it has started
//! ```
//!
//! Handles are counted apart from the `Rc`, for the body itself keeps its node alive: when the last handle goes,
//! a suspended greenlet can never be switched to again, so it is killed. One that runs, or that the hub will
//! resume, is an *orphan*: it is looked at again when it has switched away.

use std::any::{Any, type_name};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};

use super::{GreenletState, ending, trace};
use crate::error::{BindError, ParentError, SpawnError, SwitchError};
use crate::hub::{self, Hub, SpawnOptions, Special, State, TaskPtr, TaskRef};
use crate::sys::pass::PassThrough;

/// The function of a greenlet that has not started.
pub(super) struct Body<T>(Box<dyn FnOnce(T) -> T>);

impl<T> Body<T> {
    pub(super) fn new(body: impl FnOnce(T) -> T + 'static) -> Body<T> {
        Body(Box::new(body))
    }

    pub(super) fn call(self, value: T) -> T {
        (self.0)(value)
    }
}

/// A body whose type is known only to whoever starts it.
struct Startable {
    awaits: &'static str,
    body: Box<dyn Any>,
}

/// One greenlet.
pub(super) struct Node {
    /// How its task is to be made; none for one that the hub schedules, and for a thread's main greenlet.
    options: Option<SpawnOptions>,
    id: u64,
    parent: RefCell<Option<NodeRef>>,
    start: RefCell<Option<Startable>>,
    task: OnceCell<TaskRef>,
    dead: Cell<bool>,
    handles: Cell<usize>,
}

/// What a task remembers of its node.
struct Tag(Weak<Node>);

/// A counted handle of a node.
pub(super) struct NodeRef(Rc<Node>);

impl NodeRef {
    fn new(node: Node) -> NodeRef {
        node.handles.set(1);
        NodeRef(Rc::new(node))
    }

    /// One more handle of a node that is alive for another reason.
    pub(super) fn of(node: &Rc<Node>) -> NodeRef {
        node.handles.set(node.handles.get() + 1);
        NodeRef(Rc::clone(node))
    }

    /// A new greenlet, whose parent is the current one.
    pub(super) fn explicit(mut options: SpawnOptions) -> NodeRef {
        let hub = Hub::get();
        let id = hub.next_id();
        options.id = Some(id);
        NodeRef::new(Node {
            options: Some(options),
            id,
            parent: RefCell::new(Some(NodeRef::current(hub))),
            start: RefCell::new(None),
            task: OnceCell::new(),
            dead: Cell::new(false),
            handles: Cell::new(0),
        })
    }

    /// The greenlet that runs.
    pub(super) fn current(hub: &Hub) -> NodeRef {
        NodeRef::of_task(hub.current())
    }

    /// The node of a task; one that the hub schedules gets it when it is first asked for.
    fn of_task(task: TaskPtr) -> NodeRef {
        let known = task.with_extra(|extra| {
            let tag: &Tag = extra.tag.as_ref()?.downcast_ref()?;
            tag.0.upgrade()
        });
        if let Some(node) = known {
            return NodeRef::of(&node);
        }
        let node = NodeRef::new(Node {
            options: None,
            id: task.id,
            parent: RefCell::new(None),
            start: RefCell::new(None),
            task: OnceCell::from(TaskRef::new(task)),
            dead: Cell::new(false),
            handles: Cell::new(0),
        });
        node.0.tag(task);
        node
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// The task, once it has started.
    #[inline]
    pub(super) fn task(&self) -> Option<TaskPtr> {
        self.0.task.get().map(TaskRef::ptr)
    }

    pub(super) fn is_current(&self, hub: &Hub) -> bool {
        self.task() == Some(hub.current())
    }

    pub(super) fn is_main(&self, hub: &Hub) -> bool {
        self.task() == Some(hub.main())
    }

    pub(super) fn name(&self) -> String {
        let given = self
            .0
            .options
            .as_ref()
            .and_then(|options| options.name.as_deref());
        match (given, self.0.task.get()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(task)) => task.name(),
            (None, None) => format!("greenlet-{}", self.0.id),
        }
    }

    pub(super) fn bind<T: 'static>(&self, body: Body<T>) -> Result<(), BindError> {
        let startable = Startable {
            awaits: type_name::<T>(),
            body: Box::new(body),
        };
        // After that, for others may run where memory is asked for.
        if !self.is_unbound() {
            return Err(BindError);
        }
        self.0.start.replace(Some(startable));
        Ok(())
    }

    /// Whether it still needs a function.
    pub(super) fn is_unbound(&self) -> bool {
        !self.is_dead() && self.task().is_none() && self.0.start.borrow().is_none()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.0.dead.get()
            || self
                .task()
                .is_some_and(|task| task.done.get() || is_lost(task))
    }

    pub(super) fn state(&self) -> GreenletState {
        if self.is_dead() {
            return GreenletState::Dead;
        }
        match self.task() {
            None if self.is_unbound() => GreenletState::Unbound,
            None => GreenletState::Unstarted,
            Some(task) => match task.state.get() {
                State::Switched => GreenletState::Suspended,
                State::Parked => GreenletState::Parked,
                State::Runnable if task.is_current() => GreenletState::Running,
                State::New | State::Runnable => GreenletState::Runnable,
                State::Finished | State::Lost => GreenletState::Dead,
            },
        }
    }

    /// The parent. Main greenlets have none; those that the hub schedules count as children of the main one: that
    /// of the caller's thread-locals, where all whom it can refer to belong.
    pub(super) fn parent(&self, hub: &Hub) -> Option<NodeRef> {
        if self.0.options.is_some() {
            return self.0.parent.borrow().clone();
        }
        let main = hub.main_here();
        // A main greenlet whose hub has ended is nobody's child either; one that has ended has none.
        let has_parent = self.task() != Some(main) && !self.task().is_some_and(is_lost);
        (has_parent && !main.done.get()).then(|| NodeRef::of_task(main))
    }

    pub(super) fn set_parent(&self, hub: &Hub, parent: &NodeRef) -> Result<(), ParentError> {
        if self.0.options.is_none() {
            return Err(if self.is_main(hub) {
                ParentError::Main
            } else {
                ParentError::Scheduled
            });
        }
        let mut ancestor = Some(parent.clone());
        while let Some(one) = ancestor {
            if one.id() == self.id() {
                return Err(ParentError::Cycle);
            }
            ancestor = one.parent(hub);
        }
        // The old one is dropped when nothing is borrowed any more.
        let old = self.0.parent.replace(Some(parent.clone()));
        drop(old);
        Ok(())
    }

    /// This greenlet, or else its nearest ancestor that can be switched to.
    pub(super) fn nearest_living(&self) -> NodeRef {
        let hub = Hub::get();
        let mut node = self.clone();
        while node.is_dead() || node.is_unbound() {
            match node.parent(hub) {
                Some(parent) => node = parent,
                None => break,
            }
        }
        node
    }

    /// Ends a greenlet that has not started; its function is dropped.
    pub(super) fn die_unstarted(&self) {
        self.0.dead.set(true);
        let start = self.0.start.replace(None);
        drop(start);
    }
}

/// Makes the task of a greenlet whose function takes a `V`, with `value` as its argument.
pub(super) fn start<V: 'static>(
    hub: &Hub,
    node: &NodeRef,
    value: V,
) -> Result<TaskPtr, SwitchError<V>> {
    // Whoever else ran here would find it neither unstarted nor started.
    let _pass = PassThrough::enter();
    let Some(startable) = node.0.start.take() else {
        return Err(SwitchError::Unbound(value));
    };
    let awaits = startable.awaits;
    let body = match startable.body.downcast::<Body<V>>() {
        Ok(body) => body,
        Err(body) => {
            node.0.start.replace(Some(Startable { awaits, body }));
            return Err(SwitchError::WrongType {
                value,
                awaited: awaits,
                sent: type_name::<V>(),
            });
        }
    };
    match launch(hub, node, body, value) {
        Ok(Some(task)) => Ok(task),
        Ok(None) => Err(SwitchError::Killed),
        Err((error, body, value)) => {
            node.0.start.replace(Some(Startable { awaits, body }));
            Err(SwitchError::NoStack { value, error })
        }
    }
}

type Refused<V> = (SpawnError, Box<Body<V>>, V);

/// None: it was killed before its first turn, see `hub::domain`.
fn launch<V: 'static>(
    hub: &Hub,
    node: &NodeRef,
    body: Box<Body<V>>,
    value: V,
) -> Result<Option<TaskPtr>, Refused<V>> {
    let Some(options) = node.0.options.clone() else {
        unreachable!("only explicit greenlets have a function to start");
    };
    // Where there is no stack, both are wanted back.
    let cargo = Rc::new(Cell::new(Some((body, value))));
    let run = {
        let cargo = Rc::clone(&cargo);
        let node = Rc::clone(&node.0);
        let origin = hub.current().id;
        move || {
            if let Some((body, value)) = cargo.take() {
                ending::live(node, *body, value, origin);
            }
        }
    };
    match hub.create_task(options, run) {
        Ok(handle) if handle.is_finished() => {
            node.0.set_dead();
            Ok(None)
        }
        Ok(handle) => {
            let task = handle.task().clone();
            node.0.tag(task.ptr());
            let ptr = task.ptr();
            // A node's body is taken out once, so it has no task yet.
            let _ = node.0.task.set(task);
            Ok(Some(ptr))
        }
        Err(error) => match cargo.take() {
            Some((body, value)) => Err((error, body, value)),
            None => unreachable!("a task that was not made has not run"),
        },
    }
}

pub(super) fn is_lost(task: TaskPtr) -> bool {
    task.state.get() == State::Lost
}

pub(super) fn is_runnable(task: TaskPtr) -> bool {
    task.state.get() == State::Runnable
}

impl Node {
    fn tag(self: &Rc<Node>, task: TaskPtr) {
        let tag = Box::new(Tag(Rc::downgrade(self)));
        let old = task.with_extra(|extra| extra.tag.replace(tag));
        drop(old);
    }

    pub(super) fn set_dead(&self) {
        self.dead.set(true);
    }

    /// Whether nobody can switch to it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.handles.get() == 0
    }

    /// Whether it has started and has not ended.
    pub(super) fn is_alive(&self) -> bool {
        !self.dead.get() && self.task.get().is_some_and(|task| !is_lost(task.ptr()))
    }

    /// Kills an abandoned greenlet that is suspended in a switch. False if it is not, and must be looked at later.
    pub(super) fn kill_abandoned(self: &Rc<Node>) -> bool {
        let (Some(hub), Some(task)) = (Hub::try_current(), self.task.get()) else {
            return true;
        };
        if task.state.get() != State::Switched {
            return false;
        }
        if cfg!(panic = "abort") || task.unwinding.get() || !hub::may_switch() {
            // It cannot be unwound here and now: it is leaked, which is sound.
            return true;
        }
        // Before that: nothing comes between a delivery and its switch.
        let me = NodeRef::current(hub);
        if hub.deliver_special(task.ptr(), Special::Kill).is_ok() {
            let restore = RestoreParent {
                node: self,
                parent: self.parent.replace(Some(me)),
            };
            let arrival = hub.switch_to::<hub::Anything>(task.ptr());
            drop(restore);
            ending::dismiss(hub, arrival);
        }
        true
    }
}

/// While a greenlet is killed because its last handle was dropped, its parent is the one that dropped it. One that
/// survives gets its own back.
struct RestoreParent<'a> {
    node: &'a Rc<Node>,
    parent: Option<NodeRef>,
}

impl Drop for RestoreParent<'_> {
    fn drop(&mut self) {
        let parent = self.parent.take();
        let temporary = self.node.parent.replace(parent);
        drop(temporary);
    }
}

impl Clone for NodeRef {
    fn clone(&self) -> NodeRef {
        NodeRef::of(&self.0)
    }
}

impl Drop for NodeRef {
    fn drop(&mut self) {
        let handles = self.0.handles.get() - 1;
        self.0.handles.set(handles);
        let abandoned = handles == 0 && self.0.options.is_some() && self.0.is_alive();
        if abandoned && !self.0.kill_abandoned() {
            trace::adopt_orphan(&self.0);
        }
    }
}

impl Drop for Node {
    /// Ancestors that only their children keep are dropped one by one: a long line of them would need a deep stack.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(node) = parent {
            let last = node.0.handles.get() == 1 && Rc::strong_count(&node.0) == 1;
            parent = if last && !node.0.is_alive() {
                node.0.parent.take()
            } else {
                None
            };
        }
    }
}
