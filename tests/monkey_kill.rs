//! `monkey`: kill and timeout reach patched calls as errors; greenlets that take no
//! notice are given up, where they may be.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use common::{MS, OnDrop, flag};
use greenlet::error::JoinError;
use greenlet::{killall, spawn, timeout};
use patched::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A call that waits, and what it answers.
type Wait = Box<dyn FnOnce() -> Result<usize, i32>>;

/// Pairs of what can wait for ever, and what it answers when it is told to stop.
fn waits() -> Vec<(&'static str, Wait)> {
    let (a, b) = pair(libc::SOCK_STREAM);
    let (reader, writer) = pipe();
    let (full, full_end) = pipe();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (datagrams, datagrams_end) = pair(libc::SOCK_DGRAM);
    let (partly, partly_end) = tcp_pair();
    let to_errno = |error: std::io::Error| error.raw_os_error().unwrap();
    vec![
        ("recv", Box::new(move || (recv(&a, &mut [0; 4], 0), b).0)),
        (
            "read",
            Box::new(move || (read(&reader, &mut [0; 4]), writer).0),
        ),
        (
            "accept",
            Box::new(move || listener.accept().map(|_| 0).map_err(to_errno)),
        ),
        (
            "write",
            Box::new(move || {
                set_nonblocking(&full_end, true);
                while write(&full_end, &[0; 4096]).is_ok() {}
                set_nonblocking(&full_end, false);
                (write(&full_end, b"x"), full).0
            }),
        ),
        (
            "send",
            Box::new(move || {
                while send(&datagrams, b"x", libc::MSG_DONTWAIT).is_ok() {}
                (send(&datagrams, b"x", 0), datagrams_end).0
            }),
        ),
        (
            "waitall of what has come in part",
            Box::new(move || {
                assert_eq!(send(&partly_end, b"ab", 0), Ok(2));
                let got = recv(&partly, &mut [0; 4], libc::MSG_WAITALL);
                assert_eq!(got, Ok(2), "a part is the answer");
                recv(&partly, &mut [0; 4], 0)
            }),
        ),
    ]
}

#[test]
fn a_kill_is_an_error_of_what_waits_and_then_unwinds() {
    let _watchdog = patched();
    for (name, wait) in waits() {
        let (answered, dropped) = (Rc::new(Cell::new(Ok(0))), flag());
        let (answer, guard) = (answered.clone(), OnDrop(dropped.clone()));
        let waiting = spawn(move || {
            let _guard = guard;
            answer.set(wait());
            greenlet::sleep(HOUR);
        });
        greenlet::sleep(MS * 3);
        assert!(!waiting.is_finished(), "{name}");
        waiting.kill_wait();
        assert_eq!(answered.get(), Err(libc::ECANCELED), "{name}");
        assert!(dropped.get(), "{name}");
        assert!(matches!(waiting.join(), Err(JoinError::Killed)), "{name}");
    }
}

#[test]
fn a_timeout_is_an_error_of_what_waits_and_then_unwinds() {
    let _watchdog = patched();
    for (name, wait) in waits() {
        let (answered, went_on) = (Rc::new(Cell::new(Ok(0))), flag());
        let (answer, on) = (answered.clone(), went_on.clone());
        let waiting = spawn(move || {
            let first = timeout(MS * 10, || {
                answer.set(wait());
                greenlet::sleep(HOUR);
            });
            // It is over with, and calls wait as ever.
            let (a, b) = pair(libc::SOCK_STREAM);
            let second = timeout(HOUR, || {
                on.set(true);
                recv(&a, &mut [0; 4], 0)
            });
            drop(b);
            (first.is_err(), second.unwrap())
        });
        common::until(|| went_on.get());
        greenlet::sleep(MS * 3);
        assert!(!waiting.is_finished(), "{name}");
        waiting.kill();
        assert_eq!(answered.get(), Err(libc::ETIMEDOUT), "{name}");
        assert_eq!(
            waiting.join().unwrap(),
            (true, Err(libc::ECANCELED)),
            "{name}"
        );
    }
}

#[test]
fn a_call_that_has_begun_to_send_answers_with_what_was_sent() {
    let _watchdog = patched();
    let (a, b) = tcp_pair();
    let much = vec![0; 20 << 20];
    let sending = spawn(move || {
        (
            send(&a, &much, 0),
            send(&a, &much, 0),
            recv(&a, &mut [0; 1], 0),
        )
    });
    greenlet::sleep(MS * 5);
    sending.kill();
    let (first, second, third) = sending.join().unwrap();
    assert!(first.is_ok_and(|n| n > 0 && n < 20 << 20), "{first:?}");
    assert_eq!(
        (second, third),
        (Err(libc::ECANCELED), Err(libc::ECANCELED))
    );
    drop(b);
}

#[test]
fn a_call_need_not_have_to_wait_to_be_refused() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let (go, going) = (flag(), flag());
    let (is_told, is_there) = (go.clone(), going.clone());
    let reading = spawn(move || {
        is_there.set(true);
        while !is_told.get() {
            std::thread::yield_now();
        }
        recv(&a, &mut [0; 4], 0)
    });
    common::until(|| going.get());
    assert_eq!(send(&b, b"data", 0), Ok(4));
    reading.kill();
    go.set(true);
    assert_eq!(reading.join().unwrap(), Err(libc::ECANCELED));
}

#[test]
fn std_says_timed_out_and_goes_on() {
    let _watchdog = patched();
    let (mut stream, peer) = tcp_pair();
    let got = spawn(move || timeout(MS * 10, || stream.read(&mut [0; 4])))
        .join()
        .unwrap();
    assert_eq!(got.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    drop(peer);
}

#[test]
fn main_alone_can_have_a_timeout() {
    common::alone("main_alone_can_have_a_timeout", || {
        let _watchdog = patched();
        let (mut stream, peer) = tcp_pair();
        let start = Instant::now();
        let got = timeout(MS * 20, || stream.read(&mut [0; 4]));
        assert_eq!(got.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        timeout(MS * 20, || std::thread::sleep(HOUR)).unwrap();
        let unwound = timeout(MS * 20, || {
            std::thread::sleep(HOUR);
            greenlet::sleep(HOUR);
        });
        assert!(unwound.is_err());
        assert!(start.elapsed() >= MS * 60);
        // What comes in time is as ever.
        (&peer).write_all(b"abc").unwrap();
        assert_eq!(
            timeout(HOUR, || stream.read(&mut [0; 4])).unwrap().unwrap(),
            3
        );
    });
}

#[test]
fn an_outer_timeout_goes_through_patched_calls_and_inner_ones() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let outer = spawn(move || {
        timeout(MS * 10, || {
            let inner = timeout(HOUR, || {
                let got = recv(&a, &mut [0; 4], 0);
                assert_eq!(got, Err(libc::ETIMEDOUT));
                greenlet::sleep(HOUR);
            });
            panic!("the inner one has swallowed it: {inner:?}");
        })
    });
    assert!(outer.join().unwrap().is_err());
    drop(b);
}

#[test]
fn files_are_read_on_by_who_is_to_end() {
    let _watchdog = patched();
    let path = std::env::temp_dir().join(format!("greenlet-{}-killed", std::process::id()));
    std::fs::write(&path, [7; 2000]).unwrap();
    let (go, to) = (flag(), path.clone());
    let is_told = go.clone();
    let reading = spawn(move || {
        while !is_told.get() {
            std::thread::yield_now();
        }
        let mut file = std::fs::File::open(&to).unwrap();
        let mut byte = [0];
        // More than a greenlet is ever refused.
        (0..2000)
            .map(|_| file.read(&mut byte).unwrap())
            .sum::<usize>()
    });
    greenlet::sleep(MS);
    reading.kill();
    go.set(true);
    assert_eq!(reading.join().unwrap(), 2000);
    std::fs::remove_file(path).unwrap();
}

/// A loop that takes no notice of errors, as one over `incoming()`.
fn deaf(count: &Rc<Cell<u32>>) -> impl FnOnce() + use<> {
    let count = count.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    move || {
        for stream in listener.incoming() {
            assert!(stream.is_err());
            count.set(count.get() + 1);
        }
    }
}

#[test]
fn a_loop_over_incoming_is_given_up_and_who_joins_hears_of_a_kill() {
    let _watchdog = patched();
    let count = Rc::new(Cell::new(0));
    let looping = spawn(deaf(&count));
    let linked = flag();
    let link = linked.clone();
    looping.link(move || link.set(true));
    greenlet::sleep(MS);
    let turns = Rc::new(Cell::new(0));
    let turn = turns.clone();
    let ticker = spawn(move || {
        loop {
            turn.set(turn.get() + 1);
            greenlet::yield_now();
        }
    });
    looping.kill_wait();
    assert_eq!(count.get(), 100, "refused a hundred times, and no more");
    assert!(
        turns.get() >= 90,
        "others had a turn each time: {}",
        turns.get()
    );
    common::until(|| linked.get());
    ticker.kill_wait();
    greenlet::sleep(MS * 5);
    assert_eq!(count.get(), 100, "it is never resumed");
    assert!(matches!(looping.join(), Err(JoinError::Killed)));
}

#[test]
fn loops_of_sleeps_and_of_reads_are_given_up_too() {
    let _watchdog = patched();
    let (reader, _writer) = pipe();
    let sleeping = spawn(|| {
        loop {
            std::thread::sleep(HOUR);
        }
    });
    let reading = spawn(move || {
        loop {
            let _ = read(&reader, &mut [0; 4]);
        }
    });
    greenlet::sleep(MS);
    let all: Vec<greenlet::JoinHandle<()>> = vec![sleeping, reading];
    killall(&all);
    for ended in greenlet::joinall(all) {
        assert!(matches!(ended, Err(JoinError::Killed)));
    }
}

#[test]
fn what_is_given_up_is_not_unwound() {
    let _watchdog = patched();
    let (count, dropped) = (Rc::new(Cell::new(0)), flag());
    let (looping, guard) = (deaf(&count), OnDrop(dropped.clone()));
    let given_up = spawn(move || {
        let _guard = guard;
        looping();
    });
    greenlet::sleep(MS);
    given_up.kill_wait();
    greenlet::sleep(MS);
    assert!(!dropped.get());
}

/// It runs on the stack of who was given up, which ends with that, as any greenlet that
/// has ended: what it calls is not refused any more.
#[test]
fn a_waker_that_hears_of_who_was_given_up_makes_calls_that_wait() {
    struct Sleeps(AtomicU32);
    impl Wake for Sleeps {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(MS);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let _watchdog = patched();
    let sleeps = Arc::new(Sleeps(AtomicU32::new(0)));
    let mut given_up = spawn(deaf(&Rc::default()));
    let waker = Waker::from(sleeps.clone());
    let polled = Pin::new(&mut given_up).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    greenlet::sleep(MS);
    given_up.kill_wait();
    common::until(|| sleeps.0.load(Ordering::Relaxed) > 1);
    greenlet::sleep(MS);
    assert_eq!(sleeps.0.load(Ordering::Relaxed), 2, "it is told once");
    assert!(matches!(given_up.join(), Err(JoinError::Killed)));
}

#[test]
fn a_scopes_greenlet_is_refused_on_and_on_and_never_given_up() {
    let _watchdog = patched();
    let count = Cell::new(0);
    let borrowed = String::from("of the frame that the scope must not outlive");
    greenlet::scope(|scope| {
        let (reader, writer) = pipe();
        let (count, borrowed) = (&count, &borrowed);
        let looping = scope.spawn(move || {
            while count.get() < 130 {
                assert_eq!(read(&reader, &mut [0; 4]), Err(libc::ECANCELED));
                count.set(count.get() + 1);
                assert!(!borrowed.is_empty());
            }
            drop(writer);
        });
        greenlet::sleep(MS);
        looping.kill();
        looping.join().unwrap();
    });
    assert_eq!(count.get(), 130);
}

#[test]
fn main_is_refused_on_and_on_and_never_given_up() {
    let _watchdog = patched();
    let (reader, _writer) = pipe();
    let mut count = 0;
    let start = Instant::now();
    let got = timeout(MS, || {
        while count < 130 {
            assert_eq!(read(&reader, &mut [0; 4]), Err(libc::ETIMEDOUT));
            count += 1;
        }
    });
    assert!(got.is_ok());
    // From the hundredth on it sleeps a little, and does not spin.
    assert!(start.elapsed() >= MS * 25);
}

#[test]
fn shutdown_ends_what_can_be_ended_and_gives_up_the_rest() {
    common::alone(
        "shutdown_ends_what_can_be_ended_and_gives_up_the_rest",
        || {
            let _watchdog = patched();
            std::thread::spawn(|| {
                let count = Rc::new(Cell::new(0));
                let dropped = flag();
                let guard = OnDrop(dropped.clone());
                spawn(deaf(&count));
                let (a, _b) = pair(libc::SOCK_STREAM);
                spawn(move || {
                    let _guard = guard;
                    recv(&a, &mut [0; 4], 0)
                });
                spawn(|| std::thread::sleep(HOUR));
                greenlet::sleep(MS);
                assert_eq!(greenlet::hub::shutdown(), 0);
                assert!(dropped.get());
                assert_eq!(count.get(), 100);
            })
            .join()
            .unwrap();
            // And without it: the thread ends, and what waits is leaked.
            std::thread::spawn(|| {
                let looping = spawn(deaf(&Rc::new(Cell::new(0))));
                spawn(deaf(&Rc::new(Cell::new(0))));
                greenlet::sleep(MS);
                looping.kill_wait();
            })
            .join()
            .unwrap();
        },
    );
}

#[test]
fn groups_and_pools_go_on_without_who_was_given_up() {
    let _watchdog = patched();
    let group = greenlet::Group::new();
    group.spawn(deaf(&Rc::new(Cell::new(0))));
    greenlet::sleep(MS);
    group.kill_wait();
    assert!(group.is_empty());
    let pool = greenlet::Pool::new(1);
    let given_up = pool.spawn(deaf(&Rc::new(Cell::new(0)))).unwrap();
    greenlet::sleep(MS);
    assert!(pool.is_full());
    given_up.kill();
    assert_eq!(
        pool.spawn(|| 7).unwrap().join().unwrap(),
        7,
        "its place is free"
    );
    pool.join();
    pool.spawn(deaf(&Rc::new(Cell::new(0)))).unwrap();
    greenlet::sleep(MS);
    pool.kill_wait();
    assert!(pool.is_empty() && pool.free_count() == 1);
}

#[test]
fn nothing_is_left_open_by_who_was_told_to_end() {
    common::alone_unwatched("nothing_is_left_open_by_who_was_told_to_end", || {
        let _watchdog = patched();
        let round = || {
            let all: Vec<_> = (0..50)
                .map(|_| {
                    let (a, b) = pair(libc::SOCK_STREAM);
                    spawn(move || {
                        let _b: OwnedFd = b;
                        let _ = recv(&a, &mut [0; 4], 0);
                    })
                })
                .collect();
            greenlet::sleep(MS);
            killall(&all);
            assert!(greenlet::joinall(all).iter().all(Result::is_ok));
        };
        round();
        let before = (open_descriptors(), common::resident_kib());
        for _ in 0..50 {
            round();
        }
        assert_eq!(open_descriptors(), before.0);
        assert!(common::resident_kib() < before.1 + 2048);
    });
}

#[test]
fn who_was_given_up_costs_nothing() {
    let _watchdog = patched();
    let all: Vec<_> = (0..50)
        .map(|_| spawn(deaf(&Rc::new(Cell::new(0)))))
        .collect();
    greenlet::sleep(MS);
    killall(&all);
    drop(all);
    let cpu = || {
        // SAFETY: a record of zeros is one, and the kernel fills it in.
        unsafe {
            let mut time: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        }
    };
    let before = cpu();
    greenlet::sleep(MS * 100);
    assert!(cpu() - before < MS * 50, "something spins");
}

#[test]
fn a_destructor_may_read_while_its_greenlet_is_being_killed() {
    let _watchdog = patched();
    if common::panic_count_is_off() {
        return;
    }
    struct Farewell(OwnedFd, Rc<Cell<Result<usize, i32>>>);
    impl Drop for Farewell {
        fn drop(&mut self) {
            self.1.set(recv(&self.0, &mut [0; 4], 0));
        }
    }
    let (a, b) = pair(libc::SOCK_STREAM);
    let got = Rc::new(Cell::new(Ok(0)));
    let farewell = Farewell(a, got.clone());
    let dying = spawn(move || {
        let _farewell = farewell;
        greenlet::sleep(HOUR);
    });
    greenlet::sleep(MS);
    dying.kill();
    greenlet::sleep(MS * 3);
    assert!(!dying.is_finished());
    assert_eq!(send(&b, b"bye", 0), Ok(3));
    assert!(matches!(dying.join(), Err(JoinError::Killed)));
    assert_eq!(got.get(), Ok(3));
}

#[test]
fn a_process_that_was_given_greenlets_up_exits_cleanly() {
    let ended = common::run_alone(
        "a_process_that_was_given_greenlets_up_exits_cleanly",
        || {
            common::patch();
            let looping = spawn(deaf(&Rc::new(Cell::new(0))));
            greenlet::sleep(MS);
            looping.kill_wait();
            drop(TcpStream::connect("127.0.0.1:1"));
        },
    );
    if let Some(ended) = ended {
        ended.succeeded();
        ended.did_not_say("panicked");
    }
}
