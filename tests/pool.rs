//! `Pool`: a group of at most so many greenlets.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::stress::Random;
use common::{Log, MS, alone, fork, quiet_panics, watchdog};
use greenlet::error::{Deadlock, JoinError, PoolFull};
use greenlet::{JoinHandle, Pool, sleep, spawn, timeout, yield_now};

/// Members that stay until they are let go.
fn fill(pool: &Pool) -> Vec<JoinHandle<()>> {
    (0..pool.free_count())
        .map(|_| pool.try_spawn(|| sleep(Duration::MAX)).unwrap())
        .collect()
}

/// G141
#[test]
fn a_spawn_on_a_full_pool_waits_for_a_slot() {
    let _watchdog = watchdog();
    let pool = Pool::new(1);
    let log = Log::new();
    for name in ["one", "two", "three"] {
        let log = log.clone();
        pool.spawn(move || {
            sleep(MS);
            log.add(name);
        })
        .unwrap();
        assert_eq!(pool.len(), 1);
    }
    assert_eq!(log.joined(), "one two");
    pool.join();
    assert_eq!(log.joined(), "one two three");
    assert_eq!((pool.len(), pool.free_count()), (0, 1));
}

/// G140
#[test]
fn free_count_follows_the_members() {
    let pool = Pool::new(2);
    assert_eq!((pool.size(), pool.free_count()), (2, 2));
    let handle = pool.spawn(|| ()).unwrap();
    assert_eq!(pool.free_count(), 1);
    handle.join().unwrap();
    assert_eq!(pool.free_count(), 2);
}

#[test]
fn those_who_wait_for_a_slot_get_one_in_their_order() {
    let _watchdog = watchdog();
    let pool = Rc::new(Pool::new(1));
    let members = fill(&pool);
    let log = Log::new();
    let waiters: Vec<_> = (0..4)
        .map(|n| {
            let (pool, log) = (Rc::clone(&pool), log.clone());
            spawn(move || {
                let log = log.clone();
                pool.spawn(move || log.add(n)).unwrap();
            })
        })
        .collect();
    yield_now();
    members[0].kill_wait();
    // The slot is the first waiter's: nobody overtakes.
    assert!(matches!(pool.try_spawn(|| ()), Err(PoolFull::Full(_))));
    greenlet::joinall(waiters);
    pool.join();
    assert_eq!(log.joined(), "0 1 2 3");
}

/// G142: refused, in time, or given back.
#[test]
fn a_full_pool_gives_the_closure_back() {
    let _watchdog = watchdog();
    let pool = Pool::new(1);
    let members = fill(&pool);
    let text = String::from("mine");
    let refused = pool.try_spawn(move || text).unwrap_err();
    assert_eq!(refused.to_string(), "the pool is full");
    assert_eq!(refused.into_inner()(), "mine");
    let refused = pool.spawn_timeout(MS, || 7).unwrap_err();
    assert!(matches!(refused, PoolFull::Full(_)));
    assert_eq!(refused.into_inner()(), 7);
    assert!(timeout(MS, || pool.spawn(|| ())).is_err());
    members[0].kill_wait();
    assert_eq!(pool.free_count(), 1);
    assert_eq!(pool.spawn_timeout(MS, || 7).unwrap().join().unwrap(), 7);
}

/// G142: greenlets from elsewhere count too.
#[test]
fn adding_a_greenlet_respects_the_limit() {
    let _watchdog = watchdog();
    let pool = Pool::new(1);
    let [one, two] = [(), ()].map(|()| spawn(|| sleep(Duration::MAX)));
    pool.add(&one).unwrap();
    pool.add(&one).unwrap();
    assert!(matches!(pool.try_add(&two), Err(PoolFull::Full(()))));
    assert!(matches!(
        pool.add_timeout(MS, &two),
        Err(PoolFull::Full(()))
    ));
    assert!(timeout(MS, || pool.add(&two)).is_err());
    assert!(pool.remove(&one));
    pool.try_add(&two).unwrap();
    assert!(pool.contains(&two) && !pool.contains(&one));
    one.kill_wait();
    two.kill_wait();
    assert_eq!(pool.free_count(), 1);
}

/// G149: nothing that a member does keeps its slot.
#[test]
fn a_slot_is_free_after_a_panic_and_after_a_kill_and_unstarted() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = Pool::new(1);
    pool.spawn(|| panic!("on purpose")).unwrap();
    pool.spawn(|| sleep(Duration::MAX)).unwrap().kill();
    let started = pool.spawn(|| sleep(Duration::MAX)).unwrap();
    yield_now();
    started.kill();
    assert_eq!(pool.spawn(|| 1).unwrap().join().unwrap(), 1);
    assert_eq!(pool.free_count(), 1);
}

/// G149: a panic that cannot be printed costs no slot either.
#[test]
fn a_slot_is_free_after_a_panic_that_nobody_can_print() {
    let name = "a_slot_is_free_after_a_panic_that_nobody_can_print";
    let Some(finished) = common::run_alone(name, || {
        let mut pipe = [0; 2];
        // SAFETY: the kernel writes two descriptors, which are ours; the standard
        // error stream becomes a pipe that nobody reads.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            libc::dup2(pipe[1], libc::STDERR_FILENO);
            libc::close(pipe[0]);
            libc::close(pipe[1]);
        }
        let pool = Pool::new(1);
        for _ in 0..3 {
            let member = pool.spawn(|| panic!("unheard")).unwrap();
            assert!(member.join().unwrap_err().is_panic());
            assert_eq!(pool.free_count(), 1);
        }
    }) else {
        return;
    };
    finished.succeeded();
    finished.did_not_say("unheard");
}

/// Killed in each state of its wait, also when the slot is its own already.
#[test]
fn a_killed_waiter_loses_no_slot_and_nobody_is_skipped() {
    let _watchdog = watchdog();
    for kill_after_the_hand_over in [false, true] {
        let pool = Rc::new(Pool::new(1));
        let members = fill(&pool);
        let waiters: Vec<JoinHandle<bool>> = (0..2)
            .map(|_| {
                let pool = Rc::clone(&pool);
                spawn(move || pool.spawn(|| ()).is_ok())
            })
            .collect();
        yield_now();
        if kill_after_the_hand_over {
            members[0].kill();
            // It ends, and hands its slot to the first waiter, which is killed
            // before it has had its turn.
            pool.join_timeout(Duration::ZERO);
        }
        waiters[0].kill();
        members[0].kill();
        let results = greenlet::joinall(waiters);
        assert!(results[1].as_ref().is_ok_and(|spawned| *spawned));
        pool.join();
        assert_eq!(pool.free_count(), 1);
    }
}

#[test]
fn a_waiter_that_times_out_as_the_slot_comes_loses_nothing() {
    let _watchdog = watchdog();
    let pool = Rc::new(Pool::new(1));
    for round in 0..200u32 {
        let members = fill(&pool);
        let waiter = spawn({
            let pool = Rc::clone(&pool);
            move || pool.spawn_timeout(Duration::from_micros(50), || ()).is_ok()
        });
        sleep(Duration::from_micros((round % 10 * 10).into()));
        members[0].kill();
        waiter.join().unwrap();
        pool.join();
        assert_eq!(pool.free_count(), 1);
    }
}

/// G230: an error where gevent deadlocks.
#[test]
fn a_member_of_a_full_pool_cannot_wait_for_its_own_slot() {
    let _watchdog = watchdog();
    let pool = Rc::new(Pool::new(1));
    let member = pool.spawn({
        let pool = Rc::clone(&pool);
        move || {
            let refused = pool.spawn(|| 5).unwrap_err();
            assert!(matches!(refused, PoolFull::Member(_)));
            assert!(matches!(
                pool.spawn_timeout(MS, || ()),
                Err(PoolFull::Full(_))
            ));
            assert_eq!(pool.wait_available(), 0);
            refused.into_inner()()
        }
    });
    assert_eq!(member.unwrap().join().unwrap(), 5);
}

#[test]
fn a_slot_that_nobody_can_free_is_a_deadlock() {
    alone("a_slot_that_nobody_can_free_is_a_deadlock", || {
        // The member of each waits for a slot of the other.
        let pools = Rc::new([Pool::new(1), Pool::new(1)]);
        for at in 0..2 {
            let other = Rc::clone(&pools);
            let member = move || drop(other[1 - at].spawn(|| ()));
            pools[at].spawn(member).unwrap();
        }
        assert!(matches!(pools[0].spawn(|| ()), Err(PoolFull::Deadlock(_))));
        assert_eq!(pools[0].free_count(), 0);
    });
}

/// G148: refused at once, for there will never be a slot.
#[test]
fn a_pool_of_size_zero_refuses_everything() {
    let _watchdog = watchdog();
    let pool = Pool::new(0);
    assert!(pool.is_full());
    assert_eq!(pool.free_count(), 0);
    assert_eq!(pool.wait_available(), 0);
    assert_eq!(pool.wait_available_timeout(MS * 10), 0);
    assert!(matches!(pool.spawn(|| ()), Err(PoolFull::Full(_))));
    assert!(matches!(pool.apply(|| ()), Err(JoinError::Deadlock(_))));
    assert!(matches!(
        pool.map(|n: u8| n, [1])[..],
        [Err(JoinError::Deadlock(Deadlock))]
    ));
    assert!(pool.imap(|n: u8| n, [1]).next().unwrap().is_err());
    pool.join();
}

#[test]
fn wait_available_takes_nothing() {
    let _watchdog = watchdog();
    let pool = Pool::new(1);
    assert_eq!(pool.wait_available(), 1);
    let member = pool.spawn(|| sleep(MS)).unwrap();
    assert_eq!(pool.wait_available_timeout(Duration::ZERO), 0);
    assert_eq!(pool.wait_available(), 1);
    assert!(member.is_finished());
    assert_eq!(pool.free_count(), 1);
}

/// G139, G230
#[test]
fn apply_returns_the_result_and_runs_inline_in_a_member() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = Rc::new(Pool::new(1));
    assert_eq!(pool.apply(|| 1).unwrap(), 1);
    assert!(pool.apply(|| panic!("on purpose")).unwrap_err().is_panic());
    let inner = Rc::clone(&pool);
    let nested = pool.apply(move || {
        let me = greenlet::current().id();
        assert!(inner.apply(|| panic!("on purpose")).unwrap_err().is_panic());
        (inner.apply(move || greenlet::current().id()).unwrap() == me) as i32 + 5
    });
    assert_eq!(nested.unwrap(), 6);
}

#[test]
fn a_kill_goes_through_an_apply_that_runs_inline() {
    let _watchdog = watchdog();
    let pool = Rc::new(Pool::new(1));
    let member = pool
        .spawn({
            let pool = Rc::clone(&pool);
            move || pool.apply(|| sleep(Duration::MAX)).is_ok()
        })
        .unwrap();
    yield_now();
    member.kill();
    assert!(member.join().unwrap_err().is_killed());
}

/// G143
#[test]
fn map_and_imap_keep_the_order_for_any_size() {
    let _watchdog = watchdog();
    for size in [1, 2, 3, 10, usize::MAX] {
        for count in [0u64, 1, 10, 300] {
            let pool = Pool::new(size);
            let square = |n: u64| {
                sleep(Duration::from_micros(n * 7919 % 300));
                n * n
            };
            let expected: Vec<u64> = (0..count).map(|n| n * n).collect();
            let collect = |results: Vec<Result<u64, JoinError>>| -> Vec<u64> {
                results.into_iter().map(Result::unwrap).collect()
            };
            assert_eq!(collect(pool.map(square, 0..count)), expected);
            if size < usize::MAX || count < 100 {
                assert_eq!(collect(pool.imap(square, 0..count).collect()), expected);
            }
            let mut any = collect(pool.imap_unordered(square, 0..count).collect());
            any.sort_unstable();
            assert_eq!(any, expected);
            assert!(pool.is_empty());
        }
    }
}

/// gevent's map raises the first failure in the order of the items.
#[test]
fn map_gives_each_item_its_own_result() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = Pool::new(2);
    let results = pool.map(
        |n: u32| {
            sleep(MS * (4 - n));
            assert!(n % 2 == 0, "on purpose {n}");
            n
        },
        0..4,
    );
    let kinds: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(kinds, [true, false, true, false]);
    let first = results
        .into_iter()
        .collect::<Result<Vec<u32>, _>>()
        .unwrap_err();
    assert!(first.to_string().contains("on purpose 1"));
    // imap: the error stands at its element, and the iteration goes on.
    let kinds: Vec<bool> = pool
        .imap(|n: u32| assert!(n != 1, "on purpose"), 0..3)
        .map(|result| result.is_ok())
        .collect();
    assert_eq!(kinds, [true, false, true]);
}

#[test]
fn map_never_runs_more_than_the_size_at_a_time() {
    let _watchdog = watchdog();
    let pool = Pool::new(3);
    let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let count = (Rc::clone(&now), Rc::clone(&most));
    pool.map(
        move |_| {
            count.0.set(count.0.get() + 1);
            count.1.set(count.1.get().max(count.0.get()));
            sleep(MS);
            count.0.set(count.0.get() - 1);
        },
        0..20,
    );
    assert_eq!((now.get(), most.get()), (0, 3));
}

#[test]
fn a_map_inside_of_a_member_of_the_same_pool_ends() {
    let _watchdog = watchdog();
    let pool = Rc::new(Pool::new(2));
    let inner = Rc::clone(&pool);
    let sums = pool.map(
        move |n: u32| -> u32 {
            let all = inner.map(move |m: u32| n * m, 1..=3);
            let lazily = inner.imap(move |m: u32| n * m, 1..=3).count() as u32;
            all.into_iter().map(Result::unwrap).sum::<u32>() + lazily
        },
        1..=4,
    );
    let sums: Vec<u32> = sums.into_iter().map(Result::unwrap).collect();
    assert_eq!(sums, [9, 15, 21, 27]);
}

#[test]
fn imap_takes_items_only_when_it_is_asked() {
    let _watchdog = watchdog();
    let taken = Rc::new(Cell::new(0));
    let pool = Pool::new(2);
    let items = (0..).inspect(|_| taken.set(taken.get() + 1));
    let mut results = pool.imap(|n: u32| n, items);
    assert_eq!(taken.get(), 0);
    assert_eq!(results.next().unwrap().unwrap(), 0);
    assert_eq!(taken.get(), 2);
    assert_eq!(results.next().unwrap().unwrap(), 1);
    assert!(taken.get() <= 4);
    drop(results);
    pool.join();
}

/// G145
#[test]
fn input_that_blocks_ends_cleanly() {
    let _watchdog = watchdog();
    let pool = Pool::new(2);
    let slow = || {
        let mut n = 0;
        std::iter::from_fn(move || {
            sleep(MS);
            n += 1;
            (n <= 4).then_some(n)
        })
    };
    assert_eq!(pool.map(|n: u32| n, slow()).len(), 4);
    let got: Vec<u32> = pool.imap(|n| n, slow()).map(Result::unwrap).collect();
    assert_eq!(got, [1, 2, 3, 4]);
    assert_eq!(pool.imap_unordered(|n| n, slow()).count(), 4);
    assert_eq!(pool.free_count(), 2);
}

/// G145: the items come from a queue, and end when it is shut down.
#[test]
fn input_from_a_queue_ends_cleanly() {
    let _watchdog = watchdog();
    let pool = Pool::new(2);
    let queue = Rc::new(greenlet::queue::Queue::bounded(1));
    let putter = spawn({
        let queue = Rc::clone(&queue);
        move || {
            (0..20).for_each(|n: u32| queue.put(n).unwrap());
            queue.shutdown();
        }
    });
    let squares = pool.imap(|n| n * n, queue.iter()).map(Result::unwrap);
    assert!(squares.eq((0..20).map(|n| n * n)));
    putter.join().unwrap();
    assert_eq!(pool.free_count(), 2);
}

#[test]
fn imap_unordered_gives_the_quick_ones_first() {
    let _watchdog = watchdog();
    let pool = Pool::new(3);
    let order: Vec<u64> = pool
        .imap_unordered(
            |ms: u64| {
                sleep(MS * ms as u32);
                ms
            },
            [40, 1, 20],
        )
        .map(Result::unwrap)
        .collect();
    assert_eq!(order, [1, 20, 40]);
}

/// G230, G152
#[test]
fn a_pool_that_was_killed_takes_greenlets_again() {
    let _watchdog = watchdog();
    let pool = Pool::new(2);
    let members = fill(&pool);
    pool.kill();
    assert_eq!(pool.len(), 2);
    assert_eq!(pool.spawn(|| "next").unwrap().join().unwrap(), "next");
    assert!(members.iter().all(JoinHandle::is_finished));
    fill(&pool);
    pool.kill_wait();
    assert_eq!(pool.free_count(), 2);
}

/// G148
#[test]
fn join_timeout_tells_whether_the_pool_is_empty() {
    let _watchdog = watchdog();
    let pool = Pool::new(1);
    pool.join();
    pool.spawn(|| sleep(MS * 20)).unwrap();
    assert!(!pool.join_timeout(MS));
    assert!(pool.join_timeout(Duration::MAX));
}

#[test]
fn nothing_is_lost_and_nothing_overfilled_whatever_is_killed() {
    let _watchdog = watchdog();
    let mut random = Random::seeded("Pool");
    let pool = Rc::new(Pool::new(3));
    let running = Rc::new(Cell::new(0usize));
    let spawned = Rc::new(RefCell::new(Vec::<JoinHandle<()>>::new()));
    for _ in 0..300 {
        let spawners: Vec<JoinHandle<()>> = (0..6)
            .map(|_| {
                let (pool, running) = (Rc::clone(&pool), Rc::clone(&running));
                let spawned = Rc::clone(&spawned);
                let (limit, nap) = (random.below(3), random.micros(40));
                spawn(move || {
                    let member = move || {
                        struct Leave(Rc<Cell<usize>>);
                        impl Drop for Leave {
                            fn drop(&mut self) {
                                self.0.set(self.0.get() - 1);
                            }
                        }
                        running.set(running.get() + 1);
                        assert!(running.get() <= 3);
                        let _leave = Leave(running);
                        sleep(nap);
                    };
                    let handle = match limit {
                        0 => pool.try_spawn(member).ok(),
                        1 => pool.spawn_timeout(Duration::from_micros(30), member).ok(),
                        _ => pool.spawn(member).ok(),
                    };
                    spawned.borrow_mut().extend(handle);
                })
            })
            .collect();
        sleep(random.micros(60));
        spawners[random.below(6)].kill();
        if let Some(handle) = spawned.borrow_mut().pop() {
            handle.kill();
        }
        greenlet::joinall(spawners);
    }
    pool.join();
    assert_eq!((pool.free_count(), running.get()), (3, 0));
    let panics = spawned.take().into_iter().map(JoinHandle::join);
    assert!(
        panics
            .filter_map(Result::err)
            .all(|error| error.is_killed())
    );
}

#[test]
fn after_a_fork_the_childs_pool_has_its_slots() {
    alone("after_a_fork_the_childs_pool_has_its_slots", || {
        let pool = Rc::new(Pool::new(2));
        fill(&pool);
        let waiter = spawn({
            let pool = Rc::clone(&pool);
            move || pool.spawn(|| ()).is_ok()
        });
        yield_now();
        let free = fork(|| {
            assert_eq!(pool.spawn(|| 3).unwrap().join().unwrap(), 3);
            pool.free_count() as i32
        });
        assert_eq!((free, pool.free_count()), (2, 0));
        pool.kill();
        assert!(waiter.join().unwrap());
    });
}
