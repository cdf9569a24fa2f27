//! `poll`, `select`, `epoll_wait` and their kin, patched: what G176 to G179 say of
//! gevent's `select`, and what libc's say of themselves. A greenlet that ticks beside
//! them proves that the thread does not block: it is also the one that makes ready
//! what they wait for.
#![cfg(feature = "monkey")]

mod common;

use std::cell::Cell;
use std::ffi::{CString, c_int};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{MS, alone, flag, run_alone, watchdog};
use greenlet::monkey::Patch;
use libc::{POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDHUP, pollfd, timespec, timeval};

fn patch() {
    Patch::new().threads(false).epoll(true).apply().unwrap();
}

/// Counts the turns of a greenlet that sleeps a millisecond in each, and has it run
/// `action` in the fifth. Ends with the value.
struct Ticker(Rc<Cell<(u32, bool)>>);

impl Ticker {
    fn new() -> Ticker {
        Ticker::with(|| ())
    }

    fn with(action: impl FnOnce() + 'static) -> Ticker {
        let state = Rc::new(Cell::new((0, true)));
        let ticker = Ticker(Rc::clone(&state));
        greenlet::spawn(move || {
            let mut action = Some(action);
            while state.get().1 || action.is_some() {
                greenlet::sleep(MS);
                let ticks = state.get().0 + 1;
                state.set((ticks, state.get().1));
                if ticks == 5 {
                    action.take().unwrap()();
                }
            }
        });
        ticker
    }

    fn ticks(&self) -> u32 {
        self.0.get().0
    }

    /// The thread did not block while the ticker was to act.
    #[track_caller]
    fn has_acted(&self) {
        assert!(self.ticks() >= 5, "{} ticks", self.ticks());
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.set((self.ticks(), false));
    }
}

fn entry(fd: RawFd, events: i16) -> pollfd {
    // What it says before is overwritten.
    pollfd {
        fd,
        events,
        revents: -1,
    }
}

fn poll(fds: &mut [pollfd], timeout: c_int) -> Result<usize, c_int> {
    // SAFETY: the array is live.
    answer(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as _, timeout) })
}

fn answer(answer: c_int) -> Result<usize, c_int> {
    usize::try_from(answer).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap())
}

fn seen(fds: &[pollfd]) -> Vec<i16> {
    fds.iter().map(|entry| entry.revents).collect()
}

/// A set of descriptors, for `select`.
fn set(fds: &[RawFd]) -> libc::fd_set {
    // SAFETY: zeros are an empty set, and the numbers are within it.
    unsafe {
        let mut set = std::mem::zeroed();
        fds.iter().for_each(|fd| libc::FD_SET(*fd, &mut set));
        set
    }
}

fn members(set: &libc::fd_set) -> Vec<RawFd> {
    // SAFETY: the numbers are within the set.
    (0..1024)
        .filter(|fd| unsafe { libc::FD_ISSET(*fd, set) })
        .collect()
}

fn select(
    sets: [Option<&mut libc::fd_set>; 3],
    time: Option<&mut timeval>,
) -> Result<usize, c_int> {
    let [r, w, e] = sets.map(|set| set.map_or(ptr::null_mut(), ptr::from_mut));
    // SAFETY: all pointers are null or live.
    answer(unsafe { libc::select(1024, r, w, e, time.map_or(ptr::null_mut(), ptr::from_mut)) })
}

fn timespec(time: Duration) -> timespec {
    timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// An epoll set in which a descriptor is waited for.
fn epoll_of(fd: RawFd, events: c_int) -> OwnedFd {
    // SAFETY: a new descriptor, and a live event.
    unsafe {
        let set = OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC));
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: 7,
        };
        let added = libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event);
        assert_eq!(added, 0);
        set
    }
}

fn epoll_wait(set: RawFd, timeout: c_int) -> Result<usize, c_int> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    // SAFETY: the array is live.
    answer(unsafe { libc::epoll_wait(set, events.as_mut_ptr(), 4, timeout) })
}

/// Processor time of this thread.
fn used() -> Duration {
    // SAFETY: a live variable, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .sum()
}

/// Fails if most of the time is spent in computing.
#[track_caller]
fn without_spinning<R>(f: impl FnOnce() -> R) -> R {
    let (start, before) = (Instant::now(), used());
    let result = f();
    let (time, used) = (start.elapsed(), used() - before);
    assert!(used < time / 2, "{used:?} of {time:?}");
    result
}

#[test]
fn polling_parks_until_a_descriptor_is_ready() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    let idle = UnixStream::pair().unwrap();
    let ticker = Ticker::with(move || {
        b.write_all(b"x").unwrap();
        std::mem::forget(b);
    });
    let mut fds = [
        entry(idle.0.as_raw_fd(), POLLIN),
        entry(a.as_raw_fd(), POLLIN),
    ];
    assert_eq!(poll(&mut fds, -1), Ok(1));
    assert_eq!(seen(&fds), [0, POLLIN]);
    ticker.has_acted();
}

#[test]
fn a_poll_without_descriptors_is_a_sleep() {
    let _watchdog = watchdog();
    patch();
    let ticker = Ticker::new();
    let start = Instant::now();
    assert_eq!(poll(&mut [], 20), Ok(0));
    // One at least, also if the machine had no time for more.
    assert!(start.elapsed() >= 20 * MS && ticker.ticks() > 0);
    let before = ticker.ticks();
    let mut time = timeval {
        tv_sec: 0,
        tv_usec: 10_000,
    };
    assert_eq!(select([None, None, None], Some(&mut time)), Ok(0));
    assert!(ticker.ticks() > before);
}

#[test]
fn a_poll_with_no_time_parks_nobody() {
    let _watchdog = watchdog();
    patch();
    let ticker = Ticker::new();
    let (a, _b) = UnixStream::pair().unwrap();
    assert_eq!(poll(&mut [entry(a.as_raw_fd(), POLLIN)], 0), Ok(0));
    let mut readable = set(&[a.as_raw_fd()]);
    let mut time = timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    assert_eq!(
        select([Some(&mut readable), None, None], Some(&mut time)),
        Ok(0)
    );
    assert_eq!(
        epoll_wait(epoll_of(a.as_raw_fd(), libc::EPOLLIN).as_raw_fd(), 0),
        Ok(0)
    );
    assert_eq!(ticker.ticks(), 0);
}

/// Event loops make such calls in the midst of things; others that need not wait let
/// others run now and then.
#[test]
fn polls_with_no_time_never_give_others_a_turn_and_are_never_refused() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let set_of_it = epoll_of(fd, libc::EPOLLIN);
    let polls = move |timeout: c_int, expected| {
        let mut readable = set(&[fd]);
        let mut time = timeval {
            tv_sec: timeout.into(),
            tv_usec: 0,
        };
        let sets = [Some(&mut readable), None, None];
        assert_eq!(poll(&mut [entry(fd, POLLIN)], timeout), expected);
        assert_eq!(select(sets, Some(&mut time)), expected);
        assert_eq!(epoll_wait(set_of_it.as_raw_fd(), timeout), expected);
    };
    let turn = flag();
    let seen = turn.clone();
    greenlet::spawn(move || seen.set(true));
    (0..200).for_each(|_| polls(0, Ok(0)));
    assert!(!turn.get());
    b.write_all(b"x").unwrap();
    (0..200).for_each(|_| polls(1, Ok(1)));
    assert!(turn.get());
    let killed = greenlet::spawn(move || {
        assert_eq!(poll(&mut [], -1), Err(libc::ECANCELED));
        // More than a greenlet is ever refused.
        (0..200).for_each(|_| polls(0, Ok(1)));
        "not refused"
    });
    greenlet::sleep(MS);
    killed.kill();
    assert_eq!(killed.join().unwrap(), "not refused");
}

/// G177: "poll honours its timeout".
#[test]
fn a_poll_ends_with_nothing_when_its_time_is_over() {
    let _watchdog = watchdog();
    patch();
    let ticker = Ticker::new();
    let (a, _b) = UnixStream::pair().unwrap();
    let start = Instant::now();
    let mut fds = [entry(a.as_raw_fd(), POLLIN | POLLPRI | POLLRDHUP)];
    assert_eq!(poll(&mut fds, 20), Ok(0));
    assert!(start.elapsed() >= 20 * MS && ticker.ticks() > 0);
    assert_eq!(seen(&fds), [0]);
}

#[test]
fn one_descriptor_may_be_there_twice_and_negative_ones_are_passed_over() {
    let _watchdog = watchdog();
    patch();
    for reading in [true, false] {
        let (a, mut b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        while (&a).write(&[0; 4096]).is_ok() {}
        let fd = a.as_raw_fd();
        let ticker = Ticker::with(move || {
            if reading {
                b.write_all(b"x").unwrap();
            } else {
                let mut all = vec![0; 1 << 20];
                b.set_nonblocking(true).unwrap();
                while b.read(&mut all).is_ok() {}
            }
            std::mem::forget(b);
        });
        // Whichever is the last to be asked for, the other is not forgotten.
        for _ in 0..2 {
            let mut fds = [
                entry(-1, POLLIN),
                entry(fd, POLLIN),
                entry(fd, POLLOUT),
                entry(fd, 0),
                entry(RawFd::MIN, POLLOUT),
            ];
            let (ready, revents) = match reading {
                true => (1, [0, POLLIN, 0, 0, 0]),
                false => (1, [0, 0, POLLOUT, 0, 0]),
            };
            assert_eq!(poll(&mut fds, -1), Ok(ready));
            assert_eq!(seen(&fds), revents);
        }
        ticker.has_acted();
    }
}

#[test]
fn a_hang_up_is_reported_to_who_asks_for_nothing_and_data_does_not_wake_them() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    b.write_all(b"there is something").unwrap();
    let ticker = Ticker::with(|| ());
    let mut fds = [entry(a.as_raw_fd(), 0)];
    without_spinning(|| assert_eq!(poll(&mut fds, 60), Ok(0)));
    drop(ticker);
    let ticker = Ticker::with(move || drop(b));
    assert_eq!(poll(&mut fds, -1), Ok(1));
    assert_eq!(seen(&fds), [POLLHUP]);
    ticker.has_acted();
}

#[test]
fn the_end_of_the_other_side_is_told_from_its_data() {
    let _watchdog = watchdog();
    patch();
    for events in [POLLRDHUP, POLLRDHUP | POLLPRI] {
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(b"there is something").unwrap();
        let _ticker = Ticker::new();
        let mut fds = [entry(a.as_raw_fd(), events)];
        without_spinning(|| assert_eq!(poll(&mut fds, 60), Ok(0)));
        let ticker = Ticker::with(move || {
            b.shutdown(std::net::Shutdown::Write).unwrap();
            std::mem::forget(b);
        });
        assert_eq!(poll(&mut fds, -1), Ok(1));
        assert_eq!(seen(&fds), [POLLRDHUP]);
        ticker.has_acted();
    }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

fn send_urgent(stream: &TcpStream) {
    // SAFETY: one byte of a live string.
    let sent = unsafe { libc::send(stream.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
}

#[test]
fn urgent_data_is_told_from_other_data() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = tcp_pair();
    b.write_all(b"there is something").unwrap();
    let fd = a.as_raw_fd();
    poll(&mut [entry(fd, POLLIN)], -1).unwrap();
    let idle = Ticker::new();
    without_spinning(|| assert_eq!(poll(&mut [entry(fd, POLLPRI)], 3), Ok(0)));
    drop(idle);
    let ticker = Ticker::with(move || {
        send_urgent(&b);
        std::mem::forget(b);
    });
    let mut exceptional = set(&[fd]);
    without_spinning(|| {
        assert_eq!(select([None, None, Some(&mut exceptional)], None), Ok(1));
    });
    assert_eq!(members(&exceptional), [fd]);
    assert_eq!(poll(&mut [entry(fd, POLLPRI)], -1), Ok(1));
    ticker.has_acted();
    // And who asks for data is not woken by what is urgent, again and again.
    (&a).read_exact(&mut [0; 18]).unwrap();
    let _ticker = Ticker::new();
    without_spinning(|| assert_eq!(poll(&mut [entry(fd, POLLIN)], 60), Ok(0)));
    a.set_read_timeout(Some(60 * MS)).unwrap();
    without_spinning(|| assert!((&a).read(&mut [0; 18]).is_err()));
}

#[test]
fn what_is_always_ready_is_waited_for_when_something_else_is_asked_for() {
    let _watchdog = watchdog();
    patch();
    let file = std::fs::File::open(file!()).unwrap();
    let fd = file.as_raw_fd();
    let ticker = Ticker::new();
    let mut fds = [entry(fd, POLLIN | POLLOUT)];
    assert_eq!(poll(&mut fds, -1), Ok(1));
    assert_eq!((seen(&fds), ticker.ticks()), (vec![POLLIN | POLLOUT], 0));
    assert_eq!(poll(&mut [entry(fd, POLLPRI), entry(fd, 0)], 10), Ok(0));
    let mut exceptional = set(&[fd]);
    let mut time = timeval {
        tv_sec: 0,
        tv_usec: 10_000,
    };
    assert_eq!(
        select([None, None, Some(&mut exceptional)], Some(&mut time)),
        Ok(0)
    );
    assert!(members(&exceptional).is_empty() && ticker.ticks() > 1);
}

/// G178: closing what is polled. A number that is used again is another descriptor.
#[test]
fn a_descriptor_that_is_closed_while_it_is_polled_is_no_good() {
    let _watchdog = watchdog();
    patch();
    for again in [false, true] {
        let (a, _b) = UnixStream::pair().unwrap();
        let (other, _d) = UnixStream::pair().unwrap();
        let (fd, watched) = (a.as_raw_fd(), other.as_raw_fd());
        let ticker = Ticker::with(move || {
            if again {
                // SAFETY: the numbers are open.
                assert_eq!(unsafe { libc::dup2(watched, fd) }, fd);
                std::mem::forget(a);
            } else {
                drop(a);
            }
        });
        let mut fds = [entry(watched, POLLIN), entry(fd, POLLIN), entry(fd, 0)];
        assert_eq!(poll(&mut fds, -1), Ok(2));
        assert_eq!(seen(&fds), [0, POLLNVAL, POLLNVAL]);
        ticker.has_acted();
        if again {
            // SAFETY: it was opened above.
            unsafe { libc::close(fd) };
        }
    }
}

#[test]
fn another_thread_may_close_what_is_polled() {
    let _watchdog = watchdog();
    patch();
    let (a, _b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let polls = flag();
    let is_polling = Rc::clone(&polls);
    let polling = greenlet::spawn(move || {
        is_polling.set(true);
        let mut fds = [entry(fd, POLLIN)];
        (poll(&mut fds, -1), fds[0].revents)
    });
    common::until(|| polls.get());
    std::thread::spawn(move || drop(a)).join().unwrap();
    assert_eq!(polling.join().unwrap(), (Ok(1), POLLNVAL));
}

#[test]
fn a_select_of_what_is_closed_fails_and_leaves_the_sets_as_they_were() {
    let _watchdog = watchdog();
    patch();
    let (a, _b) = UnixStream::pair().unwrap();
    let (other, _d) = UnixStream::pair().unwrap();
    let all = set(&[a.as_raw_fd(), other.as_raw_fd()]);
    let (mut readable, mut exceptional) = (all, all);
    let ticker = Ticker::with(move || drop(a));
    let answer = select([Some(&mut readable), None, Some(&mut exceptional)], None);
    assert_eq!(answer, Err(libc::EBADF));
    assert_eq!(members(&readable), members(&all));
    assert_eq!(members(&exceptional), members(&all));
    ticker.has_acted();
}

#[test]
fn an_epoll_set_that_is_closed_is_no_good() {
    let _watchdog = watchdog();
    patch();
    let (a, _b) = UnixStream::pair().unwrap();
    let set = epoll_of(a.as_raw_fd(), libc::EPOLLIN);
    let fd = set.as_raw_fd();
    let ticker = Ticker::with(move || drop(set));
    assert_eq!(epoll_wait(fd, -1), Err(libc::EBADF));
    ticker.has_acted();
}

#[test]
fn a_wait_of_a_greenlet_that_is_to_end_or_to_leave_is_refused() {
    let _watchdog = watchdog();
    patch();
    let waits: [fn(RawFd) -> Result<usize, c_int>; 5] = [
        |fd| poll(&mut [entry(fd, POLLIN)], -1),
        |fd| poll(&mut [entry(fd, POLLIN), entry(fd, POLLPRI)], 60_000),
        |_| poll(&mut [], -1),
        |fd| {
            let mut readable = set(&[fd]);
            let answer = select([Some(&mut readable), None, None], None);
            assert_eq!(members(&readable), [fd]);
            answer
        },
        |fd| epoll_wait(epoll_of(fd, libc::EPOLLIN).as_raw_fd(), -1),
    ];
    let (a, _b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    for wait in waits {
        let answer = Rc::new(Cell::new(None));
        let told = Rc::clone(&answer);
        let waiting = greenlet::spawn(move || told.set(Some(wait(fd))));
        greenlet::sleep(MS);
        assert!(!waiting.is_finished());
        waiting.kill_wait();
        assert_eq!(answer.take(), Some(Err(libc::ECANCELED)));

        let mut answer = None;
        let _ = greenlet::timeout(3 * MS, || answer = Some(wait(fd)));
        assert_eq!(answer, Some(Err(libc::ETIMEDOUT)));
    }
}

#[test]
fn one_polls_what_another_reads_and_a_third_writes() {
    let _watchdog = watchdog();
    patch();
    let (a, b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let mut writes = a.try_clone().unwrap();
    // The number that is polled is the one that is written to.
    let writer = greenlet::spawn(move || {
        let big = vec![1u8; 1 << 20];
        // SAFETY: the buffer is live.
        let sent = unsafe { libc::send(fd, big.as_ptr().cast(), big.len(), 0) };
        assert_eq!(sent, 1 << 20);
    });
    let poller = greenlet::spawn(move || {
        let mut fds = [entry(fd, POLLIN)];
        (poll(&mut fds, -1), fds[0].revents)
    });
    let other = greenlet::spawn(move || {
        let mut fds = [entry(fd, POLLPRI), entry(fd, POLLIN)];
        (poll(&mut fds, -1), fds[1].revents)
    });
    greenlet::sleep(3 * MS);
    let mut b = b;
    b.read_exact(&mut vec![0; 1 << 20]).unwrap();
    writer.join().unwrap();
    greenlet::sleep(3 * MS);
    assert!(!poller.is_finished() && !other.is_finished());
    writes.write_all(b"x").unwrap();
    b.write_all(b"y").unwrap();
    assert_eq!(poller.join().unwrap(), (Ok(1), POLLIN));
    assert_eq!(other.join().unwrap(), (Ok(1), POLLIN));
}

#[test]
fn many_readers_and_pollers_of_one_descriptor_lose_nothing() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let got = Rc::new(Cell::new(0));
    let all: Vec<_> = (0..100)
        .map(|i| {
            let got = Rc::clone(&got);
            greenlet::spawn(move || {
                if i % 2 == 0 {
                    poll(&mut [entry(fd, POLLIN | POLLRDHUP), entry(fd, POLLPRI)], -1).unwrap();
                }
                let mut byte = 0u8;
                // SAFETY: the buffer is a live variable.
                let n = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, 0) };
                assert_eq!(n, 1);
                got.set(got.get() + 1);
            })
        })
        .collect();
    for i in 0..100 {
        b.write_all(&[i]).unwrap();
        greenlet::yield_now();
    }
    greenlet::joinall(all);
    assert_eq!(got.get(), 100);
}

#[test]
fn a_select_says_how_much_time_is_left_and_the_others_do_not() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let ticker = Ticker::with(move || {
        b.write_all(b"x").unwrap();
        std::mem::forget(b);
    });
    let mut time = timeval {
        tv_sec: 100,
        tv_usec: 0,
    };
    let mut readable = set(&[fd]);
    let start = Instant::now();
    assert_eq!(
        select([Some(&mut readable), None, None], Some(&mut time)),
        Ok(1)
    );
    let passed = start.elapsed();
    let left = Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    assert!(left <= Duration::from_secs(100) - 4 * MS, "{left:?}");
    assert!(
        left + passed >= Duration::from_secs(100) - MS,
        "{left:?} {passed:?}"
    );
    ticker.has_acted();
    let _ = (&a).read(&mut [0]);

    let mut time = timeval {
        tv_sec: 0,
        tv_usec: 3000,
    };
    assert_eq!(
        select([Some(&mut readable), None, None], Some(&mut time)),
        Ok(0)
    );
    assert_eq!((time.tv_sec, time.tv_usec), (0, 0));
    assert!(members(&readable).is_empty());

    let time = timespec(3 * MS);
    let ticks = ticker.ticks();
    readable = set(&[fd]);
    let null = ptr::null_mut();
    // SAFETY: the set and the time are live.
    let selected = unsafe { libc::pselect(fd + 1, &mut readable, null, null, &time, ptr::null()) };
    // SAFETY: as above.
    let polled = unsafe { libc::ppoll(&mut entry(fd, POLLIN), 1, &time, ptr::null()) };
    assert_eq!((selected, polled), (0, 0));
    assert_eq!((time.tv_sec, time.tv_nsec), (0, 3_000_000));
    assert!(ticker.ticks() > ticks);
}

#[test]
fn a_wait_with_the_mask_that_is_set_anyway_parks() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    // SAFETY: a live variable, which the call fills.
    let mask = unsafe {
        let mut mask = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut mask);
        mask
    };
    let ticker = Ticker::with(move || {
        b.write_all(b"x").unwrap();
        std::mem::forget(b);
    });
    let set = epoll_of(fd, libc::EPOLLIN);
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: all of them are live.
    unsafe {
        assert_eq!(
            libc::ppoll(&mut entry(fd, POLLIN), 1, ptr::null(), &mask),
            1
        );
        ticker.has_acted();
        let mut readable = self::set(&[fd]);
        let null = ptr::null_mut();
        let time = ptr::null();
        assert_eq!(
            libc::pselect(fd + 1, &mut readable, null, null, time, &mask),
            1
        );
        assert_eq!(
            libc::epoll_pwait(set.as_raw_fd(), &mut event, 1, -1, &mask),
            1
        );
    }
}

#[test]
fn a_wait_with_another_mask_is_the_kernels_and_a_signal_ends_it() {
    let _watchdog = watchdog();
    patch();
    extern "C" fn nothing(_: c_int) {}
    let (a, _b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let ticker = Ticker::new();
    // SAFETY: all of them are live, and the handler does nothing. The signal is sent
    // to this thread, where it is blocked but for the calls.
    unsafe {
        libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t);
        let (mut one, mut before) = std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigemptyset(&mut one);
        libc::sigaddset(&mut one, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_BLOCK, &one, &mut before);
        let set = epoll_of(fd, libc::EPOLLIN);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let short = timespec(5 * MS);
        let never = ptr::null::<timespec>();
        for (time, is_sent, expected) in [
            (&raw const short, false, Ok(0)),
            (never, true, Err(libc::EINTR)),
        ] {
            let send = || match is_sent {
                true => libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1),
                false => 0,
            };
            send();
            assert_eq!(
                answer(libc::ppoll(&mut entry(fd, POLLIN), 1, time, &before)),
                expected
            );
            send();
            let mut readable = self::set(&[fd]);
            let null = ptr::null_mut();
            let selected = libc::pselect(fd + 1, &mut readable, null, null, time, &before);
            assert_eq!(answer(selected), expected);
            assert_eq!(members(&readable).len(), usize::from(is_sent));
            send();
            let waited = libc::epoll_pwait2(set.as_raw_fd(), &mut event, 1, time, &before);
            assert_eq!(answer(waited), expected);
        }
        assert_eq!(ticker.ticks(), 0, "the kernel was to block");
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
    }
}

#[test]
fn an_epoll_set_is_waited_for() {
    let _watchdog = watchdog();
    patch();
    for events in [
        libc::EPOLLIN,
        libc::EPOLLIN | libc::EPOLLET,
        libc::EPOLLIN | libc::EPOLLONESHOT,
    ] {
        let (a, mut b) = UnixStream::pair().unwrap();
        let set = epoll_of(a.as_raw_fd(), events);
        let fd = set.as_raw_fd();
        let idle = Ticker::new();
        let start = Instant::now();
        assert_eq!(epoll_wait(fd, 2), Ok(0));
        assert!(start.elapsed() >= 2 * MS);
        drop(idle);
        let ticker = Ticker::with(move || {
            b.write_all(b"x").unwrap();
            // Its end would be another edge, if a child of a fork beside this had it too.
            std::mem::forget(b);
        });
        // Two wait for the same set: edges, and those of one shot, are for one of them.
        let is_for_both = events == libc::EPOLLIN;
        let limit = if is_for_both { -1 } else { 50 };
        let second = greenlet::spawn(move || epoll_wait(fd, limit));
        assert_eq!(epoll_wait(fd, -1), Ok(1));
        ticker.has_acted();
        assert_eq!(second.join().unwrap(), Ok(usize::from(is_for_both)));
    }
}

#[test]
fn an_epoll_set_in_an_epoll_set_is_polled() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    let inner = epoll_of(a.as_raw_fd(), libc::EPOLLIN);
    let outer = epoll_of(inner.as_raw_fd(), libc::EPOLLIN);
    let ticker = Ticker::with(move || {
        b.write_all(b"x").unwrap();
        std::mem::forget(b);
    });
    assert_eq!(poll(&mut [entry(outer.as_raw_fd(), POLLIN)], -1), Ok(1));
    ticker.has_acted();
}

#[test]
fn a_set_may_be_larger_than_the_usual() {
    let _watchdog = watchdog();
    patch();
    let (a, mut b) = UnixStream::pair().unwrap();
    // SAFETY: a free number, or an error.
    let high = unsafe { libc::fcntl(a.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3000) };
    assert!(high >= 3000);
    let ticker = Ticker::with(move || {
        b.write_all(b"x").unwrap();
        std::mem::forget(b);
    });
    let mut words = vec![0u64; 100];
    words[high as usize / 64] |= 1 << (high % 64);
    // Nobody can have this one: the kernel does not look.
    let nobodys = 1 << 20;
    let mut far = vec![0u64; nobodys / 64 + 1];
    far[..100].copy_from_slice(&words);
    far[nobodys / 64] = 1;
    let null = ptr::null_mut();
    // SAFETY: the sets have as many bits as are asked about.
    unsafe {
        assert_eq!(
            libc::select(6400, words.as_mut_ptr().cast(), null, null, null.cast()),
            1
        );
        ticker.has_acted();
        let count = nobodys as c_int + 1;
        assert_eq!(
            libc::select(count, far.as_mut_ptr().cast(), null, null, null.cast()),
            1
        );
        (&a).read_exact(&mut [0]).unwrap();
        let mut time = timeval {
            tv_sec: 0,
            tv_usec: 5000,
        };
        assert_eq!(
            libc::select(count, far.as_mut_ptr().cast(), null, null, &mut time),
            0
        );
        libc::close(high);
    }
    assert_eq!(words[high as usize / 64], 1 << (high % 64));
    assert_eq!((far[high as usize / 64], far[nobodys / 64]), (0, 1));
}

#[test]
fn ten_thousand_descriptors_are_polled() {
    alone("ten_thousand_descriptors_are_polled", || {
        let _watchdog = watchdog();
        patch();
        const COUNT: usize = 10_000;
        // SAFETY: live variables.
        let most = unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            limit.rlim_cur as usize
        };
        let count = COUNT.min(most - 100);
        let (idle, _other) = UnixStream::pair().unwrap();
        let mut fds: Vec<_> = (0..count - 1)
            // SAFETY: a new descriptor, or an error.
            .map(|_| entry(unsafe { libc::dup(idle.as_raw_fd()) }, POLLIN))
            .collect();
        assert!(fds.iter().all(|entry| entry.fd > 2));
        let (a, b) = UnixStream::pair().unwrap();
        fds.push(entry(a.as_raw_fd(), POLLIN));
        for _ in 0..5 {
            let mut b = b.try_clone().unwrap();
            let ticker = Ticker::with(move || b.write_all(b"x").unwrap());
            assert_eq!(poll(&mut fds, -1), Ok(1));
            assert_eq!(fds[count - 1].revents, POLLIN);
            (&a).read_exact(&mut [0]).unwrap();
            ticker.has_acted();
        }
        assert_eq!(poll(&mut fds, 10), Ok(0));
        // All closed while they are polled: no search of each among all.
        let last = fds[count - 2].fd as u32;
        let first = fds[0].fd as u32;
        let ticker = Ticker::with(move || {
            // SAFETY: nobody else has these.
            assert_eq!(unsafe { libc::close_range(first, last, 0) }, 0);
        });
        assert_eq!(poll(&mut fds, -1), Ok(count - 1));
        assert_eq!((fds[0].revents, fds[count - 1].revents), (POLLNVAL, 0));
        ticker.has_acted();
    });
}

/// With many descriptors the kernel is not told of each at every call. One that was waited
/// for has its number taken over by `a`, in `replace`, and something comes for that.
fn is_noticed_among_many(replace: impl FnOnce(UnixStream, RawFd)) {
    let _watchdog = watchdog();
    patch();
    let (idle, _other) = UnixStream::pair().unwrap();
    let mut fds: Vec<_> = (0..100)
        // SAFETY: a new descriptor, or an error.
        .map(|_| entry(unsafe { libc::dup(idle.as_raw_fd()) }, POLLIN))
        .collect();
    let ticker = Ticker::new();
    assert_eq!(poll(&mut fds, 3), Ok(0));
    let (a, mut b) = UnixStream::pair().unwrap();
    replace(a, fds[50].fd);
    drop(ticker);
    let ticker = Ticker::with(move || {
        b.write_all(b"x").unwrap();
        std::mem::forget(b);
    });
    assert_eq!(poll(&mut fds, -1), Ok(1));
    assert_eq!(fds[50].revents, POLLIN);
    ticker.has_acted();
    for entry in fds {
        // SAFETY: they were opened above.
        unsafe { libc::close(entry.fd) };
    }
}

/// A number that has become another's where nobody could see it is noticed nevertheless.
#[test]
fn a_number_that_is_anothers_by_now_is_noticed_among_many() {
    is_noticed_among_many(|a, number| {
        // SAFETY: the numbers are open.
        let moved = unsafe { libc::syscall(libc::SYS_dup3, a.as_raw_fd(), number, 0) };
        assert_eq!(moved, number.into());
    });
}

/// And one that another thread has closed a moment ago, of which this hub has not heard
/// yet, is not told the end of the former.
#[test]
fn a_number_that_another_thread_has_just_used_again_is_no_bad_one_among_many() {
    is_noticed_among_many(|a, number| {
        greenlet::monkey::unpatched(|| {
            let replace = move || {
                // SAFETY: both are open.
                assert_eq!(unsafe { libc::dup2(a.as_raw_fd(), number) }, number);
            };
            std::thread::spawn(replace).join().unwrap();
        });
    });
}

/// std's `connect_timeout` polls the socket for which it set O_NONBLOCK.
#[test]
fn stds_connect_with_a_timeout_parks() {
    let _watchdog = watchdog();
    patch();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ticker = Ticker::new();
    TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
    // SAFETY: the socket is open. From now on the queue is full after one more.
    unsafe { libc::listen(listener.as_raw_fd(), 0) };
    let mut held = Vec::new();
    let failed = loop {
        match TcpStream::connect_timeout(&address, 20 * MS) {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
        assert!(held.len() < 10);
    };
    assert_eq!(failed.kind(), std::io::ErrorKind::TimedOut);
    assert!(ticker.ticks() > 0);
}

/// std's `output` polls two pipes and reads them.
#[test]
fn stds_command_output_parks() {
    let _watchdog = watchdog();
    patch();
    let (go, mut gate) = std::io::pipe().unwrap();
    let ticker = Ticker::with(move || gate.write_all(b"go\n").unwrap());
    let output = std::process::Command::new("sh")
        .args(["-c", "read go; echo out; echo err >&2"])
        .stdin(go)
        .output()
        .unwrap();
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    ticker.has_acted();
}

#[test]
#[cfg_attr(
    target_feature = "crt-static",
    ignore = "what it loads has a libc of its own"
)]
fn the_second_names_are_ours() {
    patch();
    for name in [
        "__poll",
        "__poll_chk",
        "__ppoll_chk",
        "__select",
        "__read",
        "__write",
        "__send",
        "__connect",
        "__close",
        "__nanosleep",
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
    ] {
        assert!(greenlet::monkey::is_patched(name), "{name}");
    }
}

/// Compiles C code into a shared object and finds `name` in it. None, having said so,
/// if there is no compiler.
fn c_function(test: &str, code: &str, name: &str) -> Option<*mut libc::c_void> {
    let dir = std::env::temp_dir().join(format!("greenlet-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (source, object) = (dir.join("code.c"), dir.join("code.so"));
    std::fs::write(&source, code).unwrap();
    let compiled = std::process::Command::new("cc")
        .args([
            "-shared",
            "-fPIC",
            "-O2",
            "-U_FORTIFY_SOURCE",
            "-D_FORTIFY_SOURCE=2",
            "-o",
        ])
        .args([&object, &source])
        .status();
    let found = match compiled {
        Err(error) => {
            eprintln!("{test} is skipped: no cc: {error}");
            None
        }
        Ok(status) => {
            assert!(status.success());
            let object = CString::new(object.to_str().unwrap()).unwrap();
            let name = CString::new(name).unwrap();
            // SAFETY: strings with their ends; the object runs nothing when loaded.
            unsafe {
                let loaded = libc::dlopen(object.as_ptr(), libc::RTLD_NOW);
                assert!(!loaded.is_null());
                let found = libc::dlsym(loaded, name.as_ptr());
                assert!(!found.is_null());
                Some(found)
            }
        }
    };
    std::fs::remove_dir_all(dir).unwrap();
    found
}

const FORTIFIED: &str = r#"
#define _GNU_SOURCE
#include <poll.h>
#include <sys/select.h>

/* The size of the array is known, the number is not: __poll_chk. */
int wait_for(int fd, int which, unsigned long count) {
    struct pollfd fds[2] = {{fd, POLLIN, 0}, {-1, 0, 0}};
    struct timespec time = {60, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    switch (which) {
    case 0: return poll(fds, count, 60000);
    case 1: return ppoll(fds, count, &time, 0);
    case 2: return select(fd + 1, &set, 0, 0, 0);
    default: return pselect(fd + 1, &set, 0, 0, &time, 0);
    }
}
"#;

type WaitFor = unsafe extern "C" fn(c_int, c_int, libc::c_ulong) -> c_int;

#[test]
#[cfg_attr(
    target_feature = "crt-static",
    ignore = "what it loads has a libc of its own"
)]
fn c_code_that_was_compiled_with_checks_parks() {
    let _watchdog = watchdog();
    patch();
    let Some(found) = c_function("checked-poll", FORTIFIED, "wait_for") else {
        return;
    };
    // SAFETY: it is the function above.
    let wait_for = unsafe { std::mem::transmute::<*mut libc::c_void, WaitFor>(found) };
    for which in 0..4 {
        let (a, mut b) = UnixStream::pair().unwrap();
        let ticker = Ticker::with(move || {
            b.write_all(b"x").unwrap();
            std::mem::forget(b);
        });
        // SAFETY: as above.
        assert_eq!(unsafe { wait_for(a.as_raw_fd(), which, 2) }, 1);
        ticker.has_acted();
    }
}

#[test]
#[cfg_attr(
    target_feature = "crt-static",
    ignore = "what it loads has a libc of its own"
)]
fn c_code_that_would_overrun_its_array_is_aborted() {
    const NAME: &str = "c_code_that_would_overrun_its_array_is_aborted";
    let finished = run_alone(NAME, || {
        patch();
        let Some(found) = c_function("overrun-poll", FORTIFIED, "wait_for") else {
            std::process::abort();
        };
        // SAFETY: it is the function above.
        let wait_for = unsafe { std::mem::transmute::<*mut libc::c_void, WaitFor>(found) };
        // SAFETY: it does not come back.
        unsafe { wait_for(0, 0, 3) };
    });
    if let Some(finished) = finished {
        finished.was_killed_by(libc::SIGABRT);
        if !finished.stderr.contains("no cc") {
            finished.said("buffer overflow detected");
        }
    }
}
