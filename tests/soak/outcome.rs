//! How those end who are spawned, as their handles have it.

use std::any::Any;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use greenlet::IsolatedHandle;
use greenlet::error::JoinError;

use super::common::stress::Random;
use super::ledger::LEDGER;

/// What whoever joins one has to see.
#[derive(Clone, Copy)]
pub struct Expected {
    pub tag: u64,
    pub panics: bool,
    pub killed: bool,
}

pub enum Handle {
    Thread(thread::JoinHandle<u64>),
    Isolated(IsolatedHandle<u64>),
}

pub type Spawned = (Handle, Expected);

/// Joins it, detaches it, or kills it if that is possible.
pub fn part((handle, mut expected): Spawned, random: &mut Random) {
    if random.below(5) == 0 {
        LEDGER.detached.fetch_add(1, Relaxed);
        return;
    }
    match handle {
        Handle::Thread(thread) => match thread.join() {
            Ok(tag) => returned(tag, expected),
            Err(payload) => panicked(payload, expected),
        },
        Handle::Isolated(handle) => {
            if random.below(3) == 0 {
                handle.kill();
                expected.killed = true;
            }
            if random.below(4) == 0 {
                handle.wait_timeout(random.short());
            }
            check_greenlet(handle.join(), expected);
        }
    }
}

pub fn check_greenlet(result: Result<u64, JoinError>, expected: Expected) {
    match result {
        Ok(tag) => returned(tag, expected),
        Err(JoinError::Panicked(payload)) => panicked(payload, expected),
        Err(error) => {
            assert!(error.is_killed() && expected.killed, "{error:?}");
            LEDGER.killed.fetch_add(1, Relaxed);
        }
    }
}

fn returned(tag: u64, expected: Expected) {
    assert_eq!((tag, false), (expected.tag, expected.panics));
    LEDGER.returned.fetch_add(1, Relaxed);
}

fn panicked(payload: Box<dyn Any + Send>, expected: Expected) {
    let text = payload
        .downcast_ref::<String>()
        .map_or("no text", |text| text);
    let wanted = format!("{} on purpose", expected.tag);
    assert!(
        expected.panics && text == wanted,
        "{text:?}, not {wanted:?}"
    );
    LEDGER.panicked.fetch_add(1, Relaxed);
}
