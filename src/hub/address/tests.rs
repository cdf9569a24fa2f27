use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use super::crowd::CROWD;
use super::*;

const SLEEP: Sleep = Sleep {
    reason: Reason::new("waiting for a test"),
    kind: Kind::Shared,
    deadline: None,
    may_go_first: true,
};

/// Blocks the thread on its word, for some time at most.
fn blocked(word: &AtomicU32) -> Result<(), Errno> {
    let op = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    let args = [
        word as *const AtomicU32 as usize,
        op,
        0,
        &raw const time as usize,
    ];
    // SAFETY: both are live variables.
    unsafe { os::syscall(libc::SYS_futex, args) }.map(|_| ())
}

/// A lock as one makes it of futexes, on whatever waits: 0 free, 1 held, 2 contended.
struct Futex(AtomicU32, AtomicU64);

impl Futex {
    fn with(&self, wait: impl Fn(usize, &dyn Fn() -> bool)) {
        let mut was = self
            .0
            .compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst)
            .err();
        while was.is_some() {
            was = Some(self.0.swap(2, Ordering::SeqCst)).filter(|was| *was != 0);
            if was.is_some() {
                let address = &raw const self.0 as usize;
                wait(address, &|| self.0.load(Ordering::SeqCst) == 2);
            }
        }
        let count = self.1.load(Ordering::Relaxed);
        thread::yield_now();
        self.1.store(count + 1, Ordering::Relaxed);
        if self.0.swap(0, Ordering::SeqCst) == 2 {
            wake(&raw const self.0 as usize, ANY, 1);
        }
    }
}

/// Threads that are woken, threads whose time is over in the same instant, and
/// greenlets of two hubs: a wake-up is never lost, or one of them would hang.
#[test]
fn a_wake_up_is_not_lost() {
    const ROUNDS: usize = 3000;
    let futex = Arc::new(Futex(AtomicU32::new(0), AtomicU64::new(0)));
    let in_threads = {
        let futex = Arc::clone(&futex);
        move || {
            for _ in 0..ROUNDS {
                futex.with(|address, still| {
                    let _ = block(address, 1, still, blocked);
                });
            }
        }
    };
    let in_hub = {
        let futex = Arc::clone(&futex);
        move || {
            let greenlets = [(); 3].map(|()| {
                let futex = Arc::clone(&futex);
                crate::spawn(move || {
                    for round in 0..ROUNDS {
                        futex.with(|address, still| {
                            let soon = crate::sys::clock::now_ns() + 20_000;
                            let deadline = (round % 3 == 0).then_some(soon);
                            wait(Hub::get(), address, 2, still, Sleep { deadline, ..SLEEP });
                        });
                    }
                })
            });
            assert!(
                crate::joinall(greenlets)
                    .into_iter()
                    .all(|ended| ended.is_ok())
            );
        }
    };
    let threads = [
        thread::spawn(in_threads.clone()),
        thread::spawn(in_threads),
        thread::spawn(in_hub.clone()),
        thread::spawn(in_hub),
    ];
    for thread in threads {
        assert!(thread.join().is_ok());
    }
    assert_eq!(futex.1.load(Ordering::Relaxed), 8 * ROUNDS as u64);
}

#[test]
fn those_of_another_address_in_the_same_bucket_sleep_on() {
    let one = 0x1000;
    let same_bucket = |other: &usize| ptr::eq(Bucket::of(one), Bucket::of(*other));
    let Some(other) = (one + 4..).step_by(4).find(same_bucket) else {
        unreachable!("there are more addresses than buckets");
    };
    let first = crate::spawn(move || wait(Hub::get(), one, ANY, || true, SLEEP));
    let second = crate::spawn(move || wait(Hub::get(), other, ANY, || true, SLEEP));
    crate::yield_now();
    assert_eq!(wake(other, ANY, usize::MAX), 1);
    assert!(matches!(second.join(), Ok(Slept::Woken)));
    assert!(!first.is_finished());
    assert_eq!(wake(one, 0, usize::MAX), 0);
    assert_eq!(wake(one, 4, usize::MAX), 1);
    assert!(matches!(first.join(), Ok(Slept::Woken)));
}

#[test]
fn more_than_a_crowd_are_woken_in_their_order() {
    let address = 0x2000;
    let order = std::rc::Rc::new(Cell::new(0));
    let greenlets: Vec<_> = (0..5 * CROWD + 3)
        .map(|number| {
            let order = std::rc::Rc::clone(&order);
            crate::spawn(move || {
                assert_eq!(wait(Hub::get(), address, ANY, || true, SLEEP), Slept::Woken);
                assert_eq!(order.replace(number + 1), number);
            })
        })
        .collect();
    crate::yield_now();
    assert_eq!(wake(address, ANY, 2), 2);
    assert_eq!(wake(address, ANY, usize::MAX), 5 * CROWD + 1);
    assert!(
        crate::joinall(greenlets)
            .into_iter()
            .all(|ended| ended.is_ok())
    );
}

#[test]
fn a_word_that_has_changed_is_not_waited_for() {
    let slept = wait(Hub::get(), 0x3000, ANY, || false, SLEEP);
    assert_eq!(slept, Slept::Changed);
    assert_eq!(block(0x3000, ANY, || false, blocked), Ok(Slept::Changed));
    assert_eq!(block(0x3000, ANY, || true, blocked), Err(libc::ETIMEDOUT));
    assert_eq!(wake(0x3000, ANY, 1), 0);
}

/// A greenlet whose time is over lets others have one turn, and is woken from afar in
/// that turn: it goes on without having parked.
#[test]
fn who_is_woken_before_it_parks_leaves_nothing_of_its_frame_behind() {
    let address = 0x4000;
    let waits = crate::spawn(move || {
        let deadline = Some(0);
        let slept = wait(
            Hub::get(),
            address,
            ANY,
            || true,
            Sleep { deadline, ..SLEEP },
        );
        (slept, Hub::get().shared().arrivals.is_empty())
    });
    let wakes = crate::spawn(move || {
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || tell.send(wake(address, ANY, 1)));
        told.recv()
    });
    assert!(matches!(waits.join(), Ok((Slept::Woken, true))));
    assert!(matches!(wakes.join(), Ok(Ok(1))));
}
