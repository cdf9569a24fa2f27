//! `block_on`: futures inside greenlets, and greenlets as futures.

mod common;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use common::{alone, fork, watchdog};
use greenlet::error::{Deadlock, JoinError};
use greenlet::{block_on, current, joinall, sleep, spawn, timeout, yield_now};

/// A future that another party completes.
#[derive(Clone, Default)]
struct Promise<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Promise<T> {
    fn fulfil(&self, value: T) {
        let mut state = self.0.lock().unwrap();
        state.0 = Some(value);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    fn waker(&self) -> Option<Waker> {
        self.0.lock().unwrap().1.clone()
    }
}

impl<T> Future for Promise<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.lock().unwrap();
        match state.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A timer made of a greenlet.
fn after(time: Duration) -> impl Future<Output = ()> {
    let handle = spawn(move || sleep(time));
    async move { handle.await.unwrap() }
}

/// Both, however their turns fall.
async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut a_done, mut b_done) = (None, None);
    poll_fn(|context| {
        if a_done.is_none() {
            if let Poll::Ready(value) = a.as_mut().poll(context) {
                a_done = Some(value);
            }
        }
        if b_done.is_none() {
            if let Poll::Ready(value) = b.as_mut().poll(context) {
                b_done = Some(value);
            }
        }
        if a_done.is_some() && b_done.is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    (a_done.unwrap(), b_done.unwrap())
}

/// Pending once, and woken at once.
fn yields() -> impl Future<Output = ()> {
    let mut first = true;
    poll_fn(move |context| {
        if std::mem::replace(&mut first, false) {
            context.waker().wake_by_ref();
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
}

#[test]
fn a_ready_future_needs_no_turn() {
    let _watchdog = watchdog();
    assert_eq!(block_on(async { 1 + 1 }), 2);
    assert_eq!(spawn(|| block_on(async { 3 })).join().unwrap(), 3);
}

#[test]
fn a_join_handle_is_a_future() {
    let _watchdog = watchdog();
    let returned = spawn(|| 1);
    let panicked = spawn(|| -> u32 { panic!("expected in this test") });
    let killed = spawn(|| sleep(Duration::MAX));
    killed.kill();
    let (returned, (panicked, killed)) = block_on(both(returned, both(panicked, killed)));
    assert_eq!(returned.unwrap(), 1);
    assert!(panicked.unwrap_err().is_panic());
    assert!(matches!(killed, Err(JoinError::Killed)));
    // And one that has ended before.
    let ended = spawn(|| 5);
    ended.wait();
    assert_eq!(block_on(ended).unwrap(), 5);
}

#[test]
fn a_completed_join_handle_must_not_be_polled_again() {
    let _watchdog = watchdog();
    let mut handle = spawn(|| 5);
    assert_eq!(block_on(&mut handle).unwrap(), 5);
    let again = catch_unwind(AssertUnwindSafe(|| block_on(&mut handle)));
    assert!(again.is_err());
}

#[test]
fn two_tasks_may_await_one_greenlet_one_after_the_other() {
    let _watchdog = watchdog();
    // The last waker of each is called, as the contract of futures wants.
    let handle = Rc::new(RefCell::new(spawn(|| {
        yield_now();
        yield_now();
        8
    })));
    let gives_up = spawn({
        let handle = Rc::clone(&handle);
        move || {
            let mut handle = handle.borrow_mut();
            let polled = block_on(poll_fn(|context| {
                Poll::Ready(Pin::new(&mut *handle).poll(context).is_pending())
            }));
            assert!(polled);
        }
    });
    gives_up.join().unwrap();
    let result = block_on(poll_fn(|context| {
        Pin::new(&mut *handle.borrow_mut()).poll(context)
    }));
    assert_eq!(result.unwrap(), 8);
}

#[test]
fn only_the_last_waker_is_called_at_the_end_and_it_may_use_the_handle() {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;
    let _watchdog = watchdog();
    #[derive(Default)]
    struct Counts(AtomicU32);
    impl Wake for Counts {
        fn wake(self: Arc<Counts>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    impl Drop for Counts {
        fn drop(&mut self) {
            // Blocking and asking are both allowed here.
            yield_now();
            let _ = current().name();
        }
    }
    let mut handle = spawn(|| {
        sleep(Duration::from_millis(2));
        5
    });
    let mut poll = |waker: &Waker| {
        Pin::new(&mut handle)
            .poll(&mut Context::from_waker(waker))
            .is_pending()
    };
    for _ in 0..100 {
        assert!(poll(&Waker::from(Arc::new(Counts::default()))));
    }
    let last = Arc::new(Counts::default());
    let waker = Waker::from(Arc::clone(&last));
    assert!(poll(&waker));
    assert!(poll(&waker));
    drop(waker);
    handle.wait();
    yield_now();
    assert_eq!(last.0.load(Ordering::SeqCst), 1);
    // Nobody else holds one: the others were dropped when they were replaced.
    assert_eq!(Arc::strong_count(&last), 1);
    assert_eq!(handle.join().unwrap(), 5);
}

#[test]
fn others_run_while_a_future_is_pending() {
    let _watchdog = watchdog();
    let start = Instant::now();
    let begun = Rc::new(Cell::new(0));
    let handles = (0..100).map(|_| {
        common::with(&begun, |begun| {
            begun.set(begun.get() + 1);
            block_on(after(Duration::from_millis(20)));
            begun.get()
        })
    });
    for begun in joinall(handles.collect::<Vec<_>>()) {
        assert_eq!(begun.unwrap(), 100, "they wait one after the other");
    }
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_waker_is_called_from_another_thread() {
    let _watchdog = watchdog();
    let promise = Promise::default();
    let thread = std::thread::spawn({
        let promise = promise.clone();
        move || {
            while promise.waker().is_none() {
                std::thread::yield_now();
            }
            promise.fulfil("from afar");
        }
    });
    assert_eq!(block_on(promise), "from afar");
    thread.join().unwrap();
}

#[test]
fn spurious_wake_ups_only_poll_again() {
    let _watchdog = watchdog();
    let promise = Promise::default();
    let polls = Rc::new(Cell::new(0));
    let waits = spawn({
        let (promise, polls) = (promise.clone(), Rc::clone(&polls));
        move || {
            let mut promise = pin!(promise);
            block_on(poll_fn(|context| {
                polls.set(polls.get() + 1);
                promise.as_mut().poll(context)
            }))
        }
    });
    yield_now();
    for n in 1..5 {
        assert_eq!(polls.get(), n);
        // Several at a time are one.
        promise.waker().unwrap().wake();
        promise.waker().unwrap().wake();
        yield_now();
    }
    promise.fulfil(3);
    assert_eq!(waits.join().unwrap(), 3);
}

#[test]
fn a_future_that_wakes_itself_lets_others_run_in_between() {
    let _watchdog = watchdog();
    let log = Rc::new(RefCell::new(Vec::new()));
    let handles = ["a", "b"].map(|name| {
        let log = Rc::clone(&log);
        spawn(move || {
            block_on(async {
                for _ in 0..3 {
                    log.borrow_mut().push(name);
                    yields().await;
                }
            });
        })
    });
    joinall(handles).into_iter().for_each(|r| r.unwrap());
    assert_eq!(*log.borrow(), ["a", "b", "a", "b", "a", "b"]);
}

#[test]
fn a_future_that_always_wakes_itself_starves_no_timer_and_can_be_timed_out() {
    let _watchdog = watchdog();
    let never = || {
        block_on(poll_fn(|context| -> Poll<()> {
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    };
    assert!(timeout(Duration::from_millis(5), never).is_err());
    let handle = spawn(never);
    yield_now();
    handle.kill_wait();
    assert!(handle.is_finished());
}

#[test]
fn block_on_may_be_nested_and_a_future_may_block() {
    let _watchdog = watchdog();
    let result = block_on(async {
        let inner = block_on(async {
            yields().await;
            sleep(Duration::from_millis(1));
            block_on(after(Duration::from_millis(1)));
            2
        });
        after(Duration::from_millis(1)).await;
        spawn(move || inner).join().unwrap() + 1
    });
    assert_eq!(result, 3);
}

#[test]
fn a_future_may_borrow_and_need_not_be_send() {
    let _watchdog = watchdog();
    let mut text = String::from("borrowed");
    let shared = Rc::new(Cell::new(1));
    block_on(async {
        yields().await;
        text.push('!');
        shared.set(2);
    });
    assert_eq!((text.as_str(), shared.get()), ("borrowed!", 2));
}

#[test]
fn a_kill_and_a_timeout_drop_the_future_where_it_stands() {
    let _watchdog = watchdog();
    struct Tells(Rc<Cell<u32>>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let promise = Promise::<()>::default();
    let body = {
        let (dropped, promise) = (Rc::clone(&dropped), promise.clone());
        move || {
            let (dropped, promise) = (Rc::clone(&dropped), promise.clone());
            block_on(async move {
                let _tells = Tells(dropped);
                promise.await;
            })
        }
    };
    let handle = spawn(body.clone());
    yield_now();
    handle.kill_wait();
    assert_eq!(dropped.get(), 1);
    assert!(timeout(Duration::from_millis(2), body).is_err());
    assert_eq!(dropped.get(), 2);
    // A waker that outlives its greenlet wakes nobody, here and elsewhere.
    let waker = promise.waker().unwrap();
    waker.wake_by_ref();
    std::thread::spawn(move || waker.wake()).join().unwrap();
    // A greenlet in the same block of memory does not mind.
    let sleeper = spawn(|| sleep(Duration::from_millis(2)));
    promise.fulfil(());
    sleeper.join().unwrap();
}

#[test]
fn a_panic_in_the_future_is_the_callers() {
    let _watchdog = watchdog();
    let caught = catch_unwind(|| {
        block_on(async {
            yields().await;
            std::panic::panic_any(17);
        })
    });
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&17));
}

#[test]
fn a_future_that_nobody_can_wake_is_a_deadlock() {
    alone("a_future_that_nobody_can_wake_is_a_deadlock", || {
        // A fork's child is a process of one thread.
        let code = fork(|| {
            let caught = catch_unwind(|| block_on(std::future::pending::<()>()));
            match caught {
                Err(payload) if payload.is::<Deadlock>() => 7,
                _ => 1,
            }
        });
        assert_eq!(code, 7);
    });
}

#[test]
fn a_pending_future_of_the_parent_is_not_in_a_forks_child() {
    alone(
        "a_pending_future_of_the_parent_is_not_in_a_forks_child",
        || {
            let promise = Promise::default();
            let waits = spawn({
                let promise = promise.clone();
                move || block_on(promise)
            });
            yield_now();
            let code = fork(|| {
                promise.fulfil(1);
                for _ in 0..3 {
                    yield_now();
                }
                // A future of the child itself works.
                block_on(after(Duration::from_millis(1)));
                if waits.is_finished() { 1 } else { 7 }
            });
            assert_eq!(code, 7);
            promise.fulfil(2);
            assert_eq!(waits.join().unwrap(), 2);
        },
    );
}

#[test]
fn wakers_of_one_greenlet_are_told_apart() {
    let _watchdog = watchdog();
    let outer = current().id();
    // The inner block_on's wake-ups do not reach the outer one, and the other
    // way round.
    let (a, b) = (Promise::default(), Promise::default());
    let helper = spawn({
        let (a, b) = (a.clone(), b.clone());
        move || {
            a.fulfil(1);
            yield_now();
            b.fulfil(2);
        }
    });
    let sum = block_on(async {
        let mut a = pin!(a);
        // Registers the outer waker.
        let first = poll_fn(|context| Poll::Ready(a.as_mut().poll(context))).await;
        assert!(first.is_pending());
        let two = block_on(b);
        a.await + two
    });
    assert_eq!(sum, 3);
    assert_eq!(current().id(), outer);
    helper.join().unwrap();
}
