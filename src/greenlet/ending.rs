//! How a greenlet lives and ends: where its result goes, or what was thrown.

use std::any::type_name;
use std::rc::Rc;

use super::node::{self, Body, Node, NodeRef};
use super::{TraceKind, trace};
use crate::error::SwitchError;
use crate::hub::{self, Anything, Arrival, Hub, Special, TaskPtr};

/// Runs on the greenlet's own stack, from its start to its end. `origin` is who started it.
pub(super) fn live<T: 'static>(node: Rc<Node>, body: Body<T>, value: T, origin: u64) {
    let outcome = hub::catch(move || {
        let hub = Hub::get();
        if hub.is_watched() {
            trace::arrive(hub, TraceKind::Switch, origin);
        }
        body.call(value)
    });
    let legacy = match outcome {
        Ok(value) => Legacy::Value(value),
        Err(payload) if hub::is_kill(&payload) => Legacy::Special(Special::ChildKilled),
        Err(payload) => Legacy::Special(Special::Throw(payload)),
    };
    // Whatever destructors of the user's run from here on are contained: this is the end.
    hub::contain(move || bequeath(node, legacy));
}

/// What a greenlet leaves to its parent.
enum Legacy<T> {
    Value(T),
    Special(Special),
}

/// Hands the legacy to the nearest ancestor that can take it, which runs next. Where that one is not suspended in
/// a switch (it waits in a blocking call, say), nobody asks for the result: it is dropped, and the hub goes on.
fn bequeath<T: 'static>(node: Rc<Node>, mut legacy: Legacy<T>) {
    let hub = Hub::get();
    node.set_dead();
    let mut heir = NodeRef::of(&node).parent(hub);
    while let Some(ancestor) = heir {
        let next = match ancestor.task() {
            Some(task) => take(hub, task, legacy),
            None => inherit_unstarted(hub, &ancestor, legacy),
        };
        match next {
            Next::Run(task, rest) => {
                hub.end_into(task);
                // Not before: its destructor may switch, and find that one.
                return drop(rest);
            }
            Next::Parent(rest) if ancestor.is_dead() || ancestor.task().is_none() => {
                legacy = rest;
                heir = ancestor.parent(hub);
            }
            Next::Parent(rest) => return drop(rest),
        }
    }
}

/// Who is asked next.
enum Next<T> {
    /// This one has got it, or has been told why not, and runs.
    Run(TaskPtr, Option<T>),
    /// This one does not take it.
    Parent(Legacy<T>),
}

/// An ancestor that has started takes a legacy if it is suspended in a switch.
fn take<T: 'static>(hub: &Hub, task: TaskPtr, legacy: Legacy<T>) -> Next<T> {
    let refused = match legacy {
        Legacy::Value(value) => match hub.deliver(task, value) {
            Ok(()) => return Next::Run(task, None),
            Err(value) if hub::awaited_by(task).is_some() => {
                // Its type is not the one that is awaited there.
                let told = hub.deliver_special(task, Special::Mismatch(type_name::<T>()));
                debug_assert!(told.is_ok());
                return Next::Run(task, Some(value));
            }
            Err(value) => Legacy::Value(value),
        },
        Legacy::Special(special) => match hub.deliver_special(task, special) {
            Ok(()) => return Next::Run(task, None),
            Err(special) => Legacy::Special(special),
        },
    };
    Next::Parent(refused)
}

/// An ancestor that has not started is started with a value, and dies of anything else.
fn inherit_unstarted<T: 'static>(hub: &Hub, ancestor: &NodeRef, legacy: Legacy<T>) -> Next<T> {
    let value = match legacy {
        Legacy::Value(value) => value,
        Legacy::Special(special) => {
            if matches!(special, Special::Throw(_)) {
                ancestor.die_unstarted();
            }
            return Next::Parent(Legacy::Special(special));
        }
    };
    match node::start(hub, ancestor, value) {
        Ok(task) => Next::Run(task, None),
        Err(SwitchError::Unbound(value)) => Next::Parent(Legacy::Value(value)),
        Err(error) => {
            // It cannot be started with this; its own parent is told why.
            ancestor.die_unstarted();
            Next::Parent(Legacy::Special(Special::Throw(Box::new(error.to_string()))))
        }
    }
}

/// Finds who is to be thrown at: this greenlet, or, if it has not started or is dead, its nearest ancestor that
/// lives. Those that have not started die on the way.
pub(super) fn throw_into(node: &NodeRef, mut special: Special) -> (NodeRef, Special) {
    let hub = Hub::get();
    let mut target = node.clone();
    while target.is_dead() || target.task().is_none() {
        let Some(parent) = target.parent(hub) else {
            break;
        };
        if !target.is_dead() {
            target.die_unstarted();
        }
        if matches!(special, Special::Kill) {
            // What its parent gets is the result of a kill.
            special = Special::ChildKilled;
        }
        target = parent;
    }
    (target, special)
}

/// The greenlet that was killed by the drop of its last handle has ended, or has switched away. What it left is
/// nobody's; a panic in its destructors has been reported by the panic hook.
pub(super) fn dismiss(hub: &Hub, arrival: Arrival<Anything>) {
    match arrival {
        Arrival::Special(Special::Kill, _) => hub::kill(hub, hub.current()),
        arrival => hub::contain(move || drop(arrival)),
    }
}
