//! The behaviours of std's `thread`, `mpsc`, `sync` and `scope`, in one program that is
//! run twice, with real threads and after `patch_all`: the same is to be seen. See
//! `common/twice.rs` for how, and `threads_std/` for what.

mod common;
#[path = "common/twice.rs"]
mod twice;

mod threads_std {
    pub mod channel_uses;
    pub mod channels;
    pub mod conditions;
    pub mod ends;
    pub mod hooks;
    pub mod locals;
    pub mod locks;
    pub mod names;
    pub mod once;
    pub mod panics;
    pub mod park;
    pub mod scope;
    pub mod sockets;
    pub mod spawn;
    pub mod stacks;
    pub mod world;
}

use threads_std::*;
use twice::{Known, Section};

/// In the order in which they are run.
const GROUPS: &[&[Section]] = &[
    spawn::SECTIONS,
    names::SECTIONS,
    park::SECTIONS,
    scope::SECTIONS,
    locals::SECTIONS,
    channels::SECTIONS,
    channel_uses::SECTIONS,
    locks::SECTIONS,
    conditions::SECTIONS,
    once::SECTIONS,
    panics::SECTIONS,
    hooks::SECTIONS,
    stacks::SECTIONS,
    world::SECTIONS,
    sockets::SECTIONS,
    ends::SECTIONS,
];

/// What differs.
const KNOWN: Known<'_> = &[];

fn main() {
    let sections = || GROUPS.iter().copied().flatten().map(Into::into).collect();
    let same = twice::run(&[], sections, ends::ENDS, KNOWN);
    assert!(same && twice::still_differ(&[], KNOWN));
}

/// What the sections share.
mod shared {
    use std::any::Any;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    pub const MS: Duration = Duration::from_millis(1);
    pub const HOUR: Duration = Duration::from_secs(3600);

    /// The text of what was thrown.
    pub fn text(payload: &(dyn Any + Send)) -> String {
        match payload.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => match payload.downcast_ref::<&str>() {
                Some(text) => (*text).to_owned(),
                None => "something that is no text".to_owned(),
            },
        }
    }

    /// Something that happens once, and who waits for it.
    pub fn event() -> (Sender<()>, Receiver<()>) {
        channel()
    }

    /// Tells that it is dropped, by calling a function.
    pub struct OnDrop<F: FnMut()>(pub F);

    impl<F: FnMut()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            self.0();
        }
    }
}
