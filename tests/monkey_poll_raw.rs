//! Patched `poll`, `select` and `epoll_wait` against the system calls: for random
//! arguments, good and bad, the same answer, the same errno, and the same in memory.
#![cfg(feature = "monkey")]

mod common;

use std::ffi::{c_int, c_long};
use std::fmt::Debug;
use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::rc::Rc;

use common::{MS, flag, watchdog};
use greenlet::monkey::Patch;
use libc::{epoll_event, pollfd, sigset_t, timespec, timeval};

/// xorshift64*, by Marsaglia and Vigna.
struct Random(u64);

impl Random {
    /// From the environment, to see a failure again; printed, to be able to.
    fn new() -> Random {
        let seed = match std::env::var("GREENLET_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
        };
        eprintln!("GREENLET_TEST_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Descriptors of many kinds in many states, none of which changes.
struct Zoo {
    fds: Vec<RawFd>,
    _open: Vec<Box<dyn std::any::Any>>,
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut both = [0; 2];
    // SAFETY: the array has room for two, which are new.
    unsafe {
        assert_eq!(libc::pipe2(both.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(both[0]), OwnedFd::from_raw_fd(both[1]))
    }
}

fn owned(fd: c_int) -> OwnedFd {
    assert!(fd >= 0);
    // SAFETY: it is new.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn fill(fd: &impl AsRawFd) {
    // SAFETY: the buffer is live.
    unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        while libc::write(fd.as_raw_fd(), [0u8; 4096].as_ptr().cast(), 4096) > 0 {}
    }
}

impl Zoo {
    fn new() -> Zoo {
        let mut zoo = Zoo {
            fds: Vec::new(),
            _open: Vec::new(),
        };
        let (empty, full) = (pipe(), pipe());
        fill(&full.1);
        let (no_writer, no_reader) = (pipe().0, pipe().1);
        let (idle, ended, shut) = (
            UnixStream::pair().unwrap(),
            UnixStream::pair().unwrap(),
            UnixStream::pair().unwrap(),
        );
        fill(&idle.0);
        drop(ended.1);
        shut.0.shutdown(std::net::Shutdown::Write).unwrap();
        (&shut.0).write_all(b"").unwrap();
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
        let waiting = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagram
            .send_to(b"x", waiting.local_addr().unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: none of these has preconditions.
        let (counter, timer, set, fresh) = unsafe {
            (
                owned(libc::eventfd(0, libc::EFD_CLOEXEC)),
                owned(libc::timerfd_create(
                    libc::CLOCK_MONOTONIC,
                    libc::TFD_CLOEXEC,
                )),
                owned(libc::epoll_create1(libc::EPOLL_CLOEXEC)),
                owned(libc::socket(
                    libc::AF_INET,
                    libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
                    0,
                )),
            )
        };
        zoo.keep([empty.0, empty.1, full.0, full.1, no_writer, no_reader]);
        zoo.keep([idle.0, idle.1, ended.0, shut.0, shut.1]);
        zoo.keep([datagram, waiting]);
        zoo.keep([listener]);
        zoo.keep([counter, timer, set, fresh]);
        zoo.keep([File::open(file!()).unwrap(), File::open("/").unwrap()]);
        zoo.keep([
            File::open("/dev/null").unwrap(),
            File::open("/proc/self/mounts").unwrap(),
        ]);
        zoo
    }

    fn keep<T: AsRawFd + 'static>(&mut self, all: impl IntoIterator<Item = T>) {
        for one in all {
            self.fds.push(one.as_raw_fd());
            self._open.push(Box::new(one));
        }
    }

    /// One of them, or one that is none.
    fn any(&self, random: &mut Random, also_bad: bool) -> RawFd {
        match random.one_in(6) && also_bad {
            true => random.of(&[-1, -2, RawFd::MIN, RawFd::MAX, 19_000]),
            false => random.of(&self.fds),
        }
    }
}

fn answer(answer: c_long) -> Result<usize, c_int> {
    usize::try_from(answer).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap())
}

/// Runs the test in a process that is patched, beside a greenlet, so that it parks.
fn beside_another(body: impl FnOnce()) {
    let _watchdog = watchdog();
    Patch::new().threads(false).epoll(true).apply().unwrap();
    let ends = flag();
    let is_ending = Rc::clone(&ends);
    let other = greenlet::spawn(move || {
        while !is_ending.get() {
            greenlet::sleep(MS);
        }
    });
    body();
    ends.set(true);
    other.join().unwrap();
}

#[track_caller]
fn same<T: PartialEq + Debug>(round: usize, patched: T, raw: T, arguments: impl Debug) {
    assert_eq!(
        patched, raw,
        "round {round}: patched, raw, of {arguments:?}"
    );
}

const MASK: *const sigset_t = ptr::null();

#[test]
fn poll_answers_as_the_system_call_does() {
    beside_another(|| {
        let (zoo, mut random) = (Zoo::new(), Random::new());
        for round in 0..600 {
            let all: Vec<(RawFd, i16)> = (0..random.below(9))
                .map(|_| {
                    let events = match random.below(4) {
                        0 => random.of(&[0, libc::POLLPRI, libc::POLLRDHUP, libc::POLLERR]),
                        1 => random.below(1 << 16) as u16 as i16,
                        _ => random.of(&[libc::POLLIN, libc::POLLOUT, libc::POLLRDNORM]),
                    };
                    (zoo.any(&mut random, true), events)
                })
                .collect();
            let millis = random.below(3) as c_int;
            let of = |call: &dyn Fn(*mut pollfd, usize) -> c_long| {
                let mut fds: Vec<_> = all
                    .iter()
                    .map(|(fd, events)| pollfd {
                        fd: *fd,
                        events: *events,
                        revents: 77,
                    })
                    .collect();
                let answer = answer(call(fds.as_mut_ptr(), fds.len()));
                (
                    answer,
                    fds.iter().map(|entry| entry.revents).collect::<Vec<_>>(),
                )
            };
            let time = timespec {
                tv_sec: 0,
                tv_nsec: c_long::from(millis) * 1_000_000,
            };
            // SAFETY: the arrays and times are live.
            let raw = of(&|fds, count| unsafe {
                let mut time = time;
                libc::syscall(libc::SYS_ppoll, fds, count, &raw mut time, MASK, 8)
            });
            // SAFETY: as above.
            let polled = of(&|fds, count| unsafe { libc::poll(fds, count as _, millis).into() });
            // SAFETY: as above.
            let ppolled =
                of(&|fds, count| unsafe { libc::ppoll(fds, count as _, &time, MASK).into() });
            same(round, polled, raw.clone(), (&all, millis));
            same(round, ppolled, raw, (&all, millis));
        }
    });
}

#[test]
fn select_answers_as_the_system_call_does() {
    beside_another(|| {
        let (zoo, mut random) = (Zoo::new(), Random::new());
        const WORDS: usize = 400;
        for round in 0..600 {
            let sets: [Option<Vec<u64>>; 3] = std::array::from_fn(|_| {
                (!random.one_in(4)).then(|| {
                    let mut words = vec![0u64; WORDS];
                    for _ in 0..random.below(5) {
                        let fd = zoo.any(&mut random, false) as usize;
                        words[fd / 64] |= 1 << (fd % 64);
                    }
                    if random.one_in(8) {
                        let fd = random.of(&[250, 1000, 1030, 19_000]);
                        words[fd / 64] |= 1 << (fd % 64);
                    }
                    words
                })
            });
            let count = match random.below(4) {
                0 => random.of(&[0, -1, 1024, 1025, 25_600, c_int::MIN]),
                1 => random.below(70) as c_int,
                _ => 200,
            };
            let (seconds, micros) = match random.below(8) {
                0 => random.of(&[(-1, 0), (0, -1), (0, 1_500), (3, -5_000_000)]),
                _ => (0, random.below(3) as c_long * 900),
            };
            type Call<'a> = &'a dyn Fn([*mut libc::fd_set; 3]) -> c_long;
            let of = |call: Call<'_>| {
                let mut sets = sets.clone();
                let pointers = sets.each_mut().map(|set| match set {
                    Some(words) => words.as_mut_ptr().cast(),
                    None => ptr::null_mut(),
                });
                (answer(call(pointers)), sets)
            };
            let time = timespec {
                tv_sec: seconds,
                tv_nsec: micros * 1000,
            };
            // SAFETY: the sets have more bits than are asked about, and the times live.
            unsafe {
                let raw = of(&|[r, w, e]| {
                    let mut time = time;
                    let none = [0usize, 8];
                    let time = &raw mut time;
                    libc::syscall(libc::SYS_pselect6, count, r, w, e, time, none.as_ptr())
                });
                let selected = of(&|[r, w, e]| {
                    let mut time = timeval {
                        tv_sec: seconds,
                        tv_usec: micros,
                    };
                    libc::select(count, r, w, e, &mut time).into()
                });
                let pselected = of(&|[r, w, e]| libc::pselect(count, r, w, e, &time, MASK).into());
                let open: Vec<_> = sets.iter().map(|set| set.as_deref().map(members)).collect();
                same(
                    round,
                    selected,
                    raw.clone(),
                    (count, &open, seconds, micros),
                );
                same(round, pselected, raw, (count, &open, seconds, micros));
            }
        }
    });
}

fn members(words: &[u64]) -> Vec<usize> {
    (0..words.len() * 64)
        .filter(|fd| words[fd / 64] >> (fd % 64) & 1 != 0)
        .collect()
}

#[test]
fn epoll_wait_answers_as_the_system_call_does() {
    beside_another(|| {
        let (zoo, mut random) = (Zoo::new(), Random::new());
        for round in 0..300 {
            // SAFETY: it has no preconditions.
            let set = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
            for _ in 0..random.below(5) {
                let events = random.of(&[libc::EPOLLIN, libc::EPOLLOUT, libc::EPOLLPRI, 0]) as u32;
                let fd = zoo.any(&mut random, true);
                let mut event = epoll_event {
                    events,
                    u64: fd as u64,
                };
                // SAFETY: the event is live; what is no good is refused.
                unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
            }
            let fd = match random.one_in(8) {
                true => zoo.any(&mut random, true),
                false => set.as_raw_fd(),
            };
            let most = random.of(&[8, 8, 8, 1, 0, -1]);
            let millis = random.below(3) as c_int;
            let of = |call: &dyn Fn(*mut epoll_event) -> c_long| {
                let mut events = [epoll_event { events: 0, u64: 0 }; 8];
                let answer = answer(call(events.as_mut_ptr()));
                // A set that has more than there is room for takes turns.
                let mut seen = events.map(|event| (event.events, event.u64));
                seen.sort_unstable();
                (answer, (most > 1).then_some(seen))
            };
            let time = timespec {
                tv_sec: 0,
                tv_nsec: c_long::from(millis) * 1_000_000,
            };
            // SAFETY: there is room for as many events as are asked for.
            unsafe {
                let raw = of(&|events| {
                    libc::syscall(libc::SYS_epoll_pwait, fd, events, most, millis, MASK, 8)
                });
                let arguments = (fd, most, millis);
                let waited = of(&|events| libc::epoll_wait(fd, events, most, millis).into());
                same(round, waited, raw, arguments);
                let waited = of(&|events| libc::epoll_pwait(fd, events, most, millis, MASK).into());
                same(round, waited, raw, arguments);
                let waited = of(&|events| libc::epoll_pwait2(fd, events, most, &time, MASK).into());
                same(round, waited, raw, arguments);
            }
        }
    });
}

#[test]
fn bad_pointers_and_numbers_get_the_kernels_errors() {
    beside_another(|| {
        let (empty, _writer) = pipe();
        let fd = empty.as_raw_fd();
        let bad = ptr::without_provenance_mut::<u8>(8);
        let wrong = timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000_000,
        };
        let negative = timespec {
            tv_sec: -1,
            tv_nsec: 0,
        };
        // SAFETY: a limit that is a live variable.
        let most = unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
            limit.rlim_cur
        };
        let one = || pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut event = epoll_event { events: 0, u64: 0 };
        // SAFETY: what is no good here, the kernel finds out.
        unsafe {
            let fds = bad.cast();
            assert_eq!(answer(libc::poll(fds, 1, -1).into()), Err(libc::EFAULT));
            assert_eq!(
                answer(libc::poll(fds, most + 1, -1).into()),
                Err(libc::EINVAL)
            );
            assert_eq!(
                answer(libc::poll(fds, u64::from(u32::MAX), 5).into()),
                Err(libc::EINVAL)
            );
            // The kernel takes the lower half: none.
            assert_eq!(answer(libc::poll(fds, 1 << 32, 1).into()), Ok(0));
            for (time, error) in [
                (&raw const wrong, libc::EINVAL),
                (&raw const negative, libc::EINVAL),
                (bad.cast_const().cast(), libc::EFAULT),
            ] {
                assert_eq!(
                    answer(libc::ppoll(&mut one(), 1, time, MASK).into()),
                    Err(error)
                );
                let null = ptr::null_mut();
                let selected = libc::pselect(0, null, null, null, time, MASK);
                assert_eq!(answer(selected.into()), Err(error));
                let waited = libc::epoll_pwait2(fd, &mut event, 1, time, MASK);
                assert_eq!(answer(waited.into()), Err(error));
            }
            let mask = bad.cast_const().cast();
            let polled = libc::ppoll(&mut one(), 1, ptr::null(), mask);
            assert_eq!(answer(polled.into()), Err(libc::EFAULT));
            let null = ptr::null_mut();
            let selected = libc::pselect(0, null, null, null, ptr::null(), mask);
            assert_eq!(answer(selected.into()), Err(libc::EFAULT));
            let selected = libc::select(fd + 1, bad.cast(), null, null, null.cast());
            assert_eq!(answer(selected.into()), Err(libc::EFAULT));
            let selected = libc::select(0, null, null, null, bad.cast());
            assert_eq!(answer(selected.into()), Err(libc::EFAULT));
            assert_eq!(
                answer(libc::epoll_wait(fd, &mut event, 1, -1).into()),
                Err(libc::EINVAL)
            );
            assert_eq!(
                answer(libc::epoll_wait(-1, &mut event, 1, -1).into()),
                Err(libc::EBADF)
            );
        }
    });
}

#[test]
fn errno_is_as_it_was_after_a_wait_that_succeeds() {
    beside_another(|| {
        let (empty, _writer) = pipe();
        let mut one = pollfd {
            fd: empty.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut time = timeval {
            tv_sec: 0,
            tv_usec: 2000,
        };
        let null = ptr::null_mut();
        // SAFETY: errno's address is good; the others are live.
        unsafe {
            *libc::__errno_location() = 4321;
            assert_eq!(libc::poll(&mut one, 1, 2), 0);
            assert_eq!(libc::select(0, null, null, null, &mut time), 0);
            assert_eq!(*libc::__errno_location(), 4321);
        }
    });
}
