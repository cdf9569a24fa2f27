//! Code that closes descriptors which it did not open: the hub's own are among them.
#![cfg(feature = "monkey")]

mod common;

use std::ffi::c_int;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use common::{MS, alone, fork, watchdog};
use greenlet::monkey::Patch;
use greenlet::sync::Event;
use libc::{POLLIN, POLLPRI, pollfd};

fn patch() {
    Patch::new().threads(false).epoll(true).apply().unwrap();
}

/// The descriptors of this process, and what is open behind them.
fn open() -> Vec<(RawFd, String)> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let what = std::fs::read_link(entry.path()).ok()?;
            let fd = entry.file_name().to_str().unwrap().parse().unwrap();
            Some((fd, what.to_str().unwrap().to_owned()))
        })
        .collect();
    all.sort_unstable();
    all
}

/// Those of the hub; nothing else of a test has any of these kinds.
fn own() -> Vec<RawFd> {
    let kinds = ["eventpoll", "eventfd", "timerfd"];
    open()
        .into_iter()
        .filter(|(_, what)| kinds.iter().any(|kind| what.contains(kind)))
        .map(|(fd, _)| fd)
        .collect()
}

/// Sees to it that this thread's hub has what it sleeps with: it does not sleep if
/// the moment has come before.
fn with_reactor() {
    let before = own().len();
    while own().len() < before + 3 {
        greenlet::sleep(MS);
    }
}

fn raw_close_range() -> c_int {
    // SAFETY: nothing of the test is used after it that would not say so.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) as c_int }
}

fn close_range() -> c_int {
    // SAFETY: as above.
    unsafe { libc::close_range(3, u32::MAX, 0) }
}

fn close_each() -> c_int {
    for fd in 3..2000 {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
    0
}

unsafe extern "C" {
    fn closefrom(first: c_int);
}

fn close_from() -> c_int {
    // SAFETY: as above.
    unsafe { closefrom(3) };
    0
}

/// Greenlets that wait for all kinds of things, whose descriptors are closed.
fn is_survived(close_all: fn() -> c_int) {
    let _watchdog = watchdog();
    let (event, early) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let waiting = {
        let event = Arc::clone(&event);
        greenlet::spawn(move || event.wait_timeout(Duration::from_secs(50)))
    };
    let receiving = greenlet::spawn(|| {
        let (a, b) = UnixStream::pair().unwrap();
        let mut byte = 0u8;
        // SAFETY: a live variable.
        let n = unsafe { libc::recv(a.as_raw_fd(), (&raw mut byte).cast(), 1, 0) };
        let error = std::io::Error::last_os_error();
        std::mem::forget((a, b));
        (n, error.raw_os_error())
    });
    let polling = greenlet::spawn(|| {
        let (a, b) = UnixStream::pair().unwrap();
        let mut entry = pollfd {
            fd: a.as_raw_fd(),
            events: POLLIN,
            revents: 0,
        };
        // SAFETY: a live variable.
        let n = unsafe { libc::poll(&mut entry, 1, -1) };
        std::mem::forget((a, b));
        (n, entry.revents)
    });
    let own_net = greenlet::spawn(|| {
        let (mut a, b) = greenlet::net::UnixStream::pair().unwrap();
        let error = a.read(&mut [0]).unwrap_err();
        std::mem::forget((a, b));
        error.raw_os_error()
    });
    let sleeping = greenlet::spawn(|| greenlet::sleep(20 * MS));
    // It has a hub of its own, which sleeps meanwhile, or is about to.
    let other = {
        let (event, early) = (Arc::clone(&event), Arc::clone(&early));
        std::thread::spawn(move || {
            greenlet::spawn(move || {
                early.set();
                event.wait();
            })
            .join()
            .unwrap();
        })
    };
    early.wait();
    greenlet::sleep(5 * MS);

    assert_eq!(close_all(), 0);

    sleeping.join().unwrap();
    assert_eq!(receiving.join().unwrap(), (-1, Some(libc::EBADF)));
    assert_eq!(polling.join().unwrap(), (1, libc::POLLNVAL));
    assert_eq!(own_net.join().unwrap(), Some(libc::EBADF));
    // From another thread, while this one sleeps.
    let sets = {
        let event = Arc::clone(&event);
        std::thread::spawn(move || {
            // SAFETY: it takes no pointers but this one, which is live.
            unsafe { libc::usleep(5000) };
            event.set();
        })
    };
    assert!(waiting.join().unwrap());
    sets.join().unwrap();
    if close_all as usize != raw_close_range as *const () as usize {
        other.join().unwrap();
    }
    // And descriptors are waited for as ever, whatever their numbers.
    let (a, mut b) = UnixStream::pair().unwrap();
    let writing = greenlet::spawn(move || {
        greenlet::sleep(MS);
        b.write_all(b"x").unwrap();
    });
    let mut entry = pollfd {
        fd: a.as_raw_fd(),
        events: POLLIN,
        revents: 0,
    };
    // SAFETY: a live variable.
    assert_eq!(unsafe { libc::poll(&mut entry, 1, -1) }, 1);
    writing.join().unwrap();
    assert!(own().len() >= 3);
}

#[test]
fn a_hub_survives_a_close_of_all_descriptors() {
    alone("a_hub_survives_a_close_of_all_descriptors", || {
        patch();
        is_survived(close_range);
    });
}

#[test]
fn a_hub_survives_a_loop_that_closes_each() {
    alone("a_hub_survives_a_loop_that_closes_each", || {
        patch();
        with_reactor();
        let after = own();
        for fd in own() {
            // SAFETY: what is closed here is nobody's but the hub's, which does not let it be.
            assert_eq!(unsafe { libc::close(fd) }, -1);
            assert_eq!(
                std::io::Error::last_os_error().raw_os_error(),
                Some(libc::EBADF)
            );
        }
        assert_eq!(own(), after);
    });
}

#[test]
fn a_hub_survives_a_closefrom() {
    alone("a_hub_survives_a_closefrom", || {
        patch();
        is_survived(close_from);
    });
}

/// Nobody can be told of that before. It is found out when the hub sleeps next.
#[test]
fn a_hub_survives_the_system_call_that_closes_all() {
    alone("a_hub_survives_the_system_call_that_closes_all", || {
        patch();
        is_survived(raw_close_range);
    });
}

#[test]
fn a_hub_that_is_not_patched_survives_it_too() {
    alone("a_hub_that_is_not_patched_survives_it_too", || {
        let _watchdog = watchdog();
        let event = Arc::new(Event::new());
        let waiting = {
            let event = Arc::clone(&event);
            greenlet::spawn(move || event.wait())
        };
        let own_net = greenlet::spawn(|| {
            let (mut a, b) = greenlet::net::UnixStream::pair().unwrap();
            let error = a.read(&mut [0]).unwrap_err();
            std::mem::forget((a, b));
            error.raw_os_error()
        });
        greenlet::sleep(MS);
        assert_eq!(close_each(), 0);
        assert_eq!(own_net.join().unwrap(), Some(libc::EBADF));
        let sets = std::thread::spawn(move || {
            std::thread::sleep(5 * MS);
            event.set();
        });
        waiting.join().unwrap();
        sets.join().unwrap();
    });
}

/// `dup2` gets the number that it asks for: the hub does with others.
#[test]
fn a_hub_survives_a_dup2_to_its_own_numbers() {
    alone("a_hub_survives_a_dup2_to_its_own_numbers", || {
        let _watchdog = watchdog();
        patch();
        with_reactor();
        let (file, mut peer) = UnixStream::pair().unwrap();
        for fd in own() {
            // SAFETY: the number is the hub's, which gives it up.
            assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), fd) }, fd);
            let event = Arc::new(Event::new());
            let sets = {
                let event = Arc::clone(&event);
                std::thread::spawn(move || {
                    // SAFETY: it has no preconditions.
                    unsafe { libc::usleep(3000) };
                    event.set();
                })
            };
            let _other = greenlet::spawn(|| greenlet::sleep(MS));
            event.wait();
            sets.join().unwrap();
        }
        // Nothing of the hub's has been written where the user's is open now.
        peer.set_nonblocking(true).unwrap();
        assert!(peer.read(&mut [0]).is_err());
    });
}

#[test]
fn the_hubs_descriptors_are_closed_by_exec() {
    alone("the_hubs_descriptors_are_closed_by_exec", || {
        patch();
        with_reactor();
        let own = own();
        for fd in &own {
            // SAFETY: the call takes no memory.
            let flags = unsafe { libc::fcntl(*fd, libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "{fd}");
        }
        let list = std::process::Command::new("ls")
            .args(["-l", "/proc/self/fd"])
            .output()
            .unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        assert!(list.contains(" 0 -> "), "{list}");
        for fd in &own {
            assert!(!list.contains(&format!(" {fd} -> anon_inode")), "{list}");
        }
    });
}

/// Who polls whatever is open polls the hub's descriptors too.
#[test]
fn polling_the_hubs_own_descriptors_does_no_harm() {
    alone("polling_the_hubs_own_descriptors_does_no_harm", || {
        let _watchdog = watchdog();
        patch();
        with_reactor();
        let _beside = greenlet::spawn(|| greenlet::sleep(Duration::from_secs(50)));
        let mut all: Vec<_> = own()
            .into_iter()
            .map(|fd| pollfd {
                fd,
                events: POLLPRI,
                revents: 0,
            })
            .collect();
        assert!(all.len() >= 3);
        // SAFETY: the array is live.
        let ready = unsafe { libc::poll(all.as_mut_ptr(), all.len() as _, 5) };
        assert_eq!(ready, 0);
        // The clock goes on, and other threads are heard.
        greenlet::sleep(MS);
        let event = Arc::new(Event::new());
        let sets = {
            let event = Arc::clone(&event);
            std::thread::spawn(move || {
                // SAFETY: it has no preconditions.
                unsafe { libc::usleep(5000) };
                event.set();
            })
        };
        assert!(event.wait_timeout(Duration::from_secs(50)));
        sets.join().unwrap();
    });
}

/// The hub's own `epoll_wait` is the one that is interposed: none of its ends parks.
#[test]
fn threads_hubs_and_forks_end_with_epoll_patched() {
    alone("threads_hubs_and_forks_end_with_epoll_patched", || {
        let _watchdog = watchdog();
        patch();
        std::thread::spawn(|| {
            greenlet::spawn(|| greenlet::sleep(Duration::from_secs(3600)));
            greenlet::sleep(MS);
        })
        .join()
        .unwrap();
        let (a, _b) = UnixStream::pair().unwrap();
        greenlet::spawn(move || (&a).read(&mut [0]).is_err());
        greenlet::sleep(MS);
        assert_eq!(
            fork(|| {
                // A daemon's first deed; the parent's hub is of no use here.
                // SAFETY: nothing of the test is used after it that would not say so.
                unsafe { libc::close_range(3, u32::MAX, 0) };
                if !own().is_empty() {
                    return 1;
                }
                let (a, mut b) = UnixStream::pair().unwrap();
                greenlet::spawn(move || {
                    greenlet::sleep(MS);
                    b.write_all(b"x").unwrap();
                });
                let mut entry = pollfd {
                    fd: a.as_raw_fd(),
                    events: POLLIN,
                    revents: 0,
                };
                // SAFETY: a live variable.
                let ready = unsafe { libc::poll(&mut entry, 1, 10_000) };
                if ready == 1 { 7 } else { 2 }
            }),
            7
        );
        assert_eq!(greenlet::hub::shutdown(), 0);
        let null = ptr::null_mut();
        let mut time = libc::timeval {
            tv_sec: 0,
            tv_usec: 1000,
        };
        // SAFETY: no pointers but that to the time are given.
        let ready = unsafe { libc::select(0, null, null, null, &mut time) };
        assert_eq!(ready, 0);
    });
}
