//! What is remembered of a foreign descriptor: that its operations wait, and for ever.
//! What its user changes by libc counts at once, what other processes change soon.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use common::{MS, alone, fork};
use patched::*;

/// A descriptor of which an operation has waited, so that it is known to do so.
struct Known {
    fd: OwnedFd,
    operation: Operation,
    is_writing: bool,
    /// The other end.
    peer: OwnedFd,
}

type Operation = fn(&OwnedFd) -> Result<usize, i32>;

const RECEIVES: Operation = |fd| recv(fd, &mut [0; 8], 0);
const READS: Operation = |fd| read(fd, &mut [0; 8]);
const SENDS: Operation = |fd| send(fd, &[0; 1 << 20], 0);
const WRITES: Operation = |fd| write(fd, &[0; 1 << 20]);

impl Known {
    fn by_reading(fd: OwnedFd, peer: OwnedFd, operation: Operation) -> Rc<Known> {
        let send_some = |peer: &OwnedFd| assert_eq!(write(peer, b"123"), Ok(3));
        Known::new(fd, peer, operation, false, 3, send_some)
    }

    fn by_writing(fd: OwnedFd, peer: OwnedFd, operation: Operation) -> Rc<Known> {
        let take_all = |peer: &OwnedFd| {
            let mut left = 1 << 20;
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                let room = left.min(buffer.len());
                left -= read(peer, &mut buffer[..room]).unwrap();
            }
        };
        Known::new(fd, peer, operation, true, 1 << 20, take_all)
    }

    /// `release` has an operation that waits go on, with this answer.
    fn new(
        fd: OwnedFd,
        peer: OwnedFd,
        operation: Operation,
        is_writing: bool,
        answer: usize,
        release: impl Fn(&OwnedFd),
    ) -> Rc<Known> {
        let known = Rc::new(Known {
            fd,
            operation,
            is_writing,
            peer,
        });
        // The first wait registers it, and the second finds the registration.
        for _ in 0..2 {
            let waits = Rc::clone(&known);
            let answered = parks(
                move || (waits.operation)(&waits.fd),
                || release(&known.peer),
            );
            assert_eq!(answered, Ok(answer));
        }
        known
    }

    fn all() -> Vec<Rc<Known>> {
        let (client, server) = tcp_pair();
        let (a, b) = pair(libc::SOCK_STREAM);
        let (c, d) = pair(libc::SOCK_STREAM);
        let (reads, writes) = pipe();
        let (reads_2, writes_2) = pipe();
        vec![
            Known::by_reading(client.into(), server.into(), RECEIVES),
            Known::by_reading(a, b, READS),
            Known::by_reading(reads, writes, READS),
            Known::by_writing(c, d, SENDS),
            Known::by_writing(writes_2, reads_2, WRITES),
        ]
    }

    /// The answer of an operation that would block, and whether others ran meanwhile.
    fn would_block(self: &Rc<Known>) -> (Result<usize, i32>, bool) {
        if self.is_writing {
            self.fill();
        }
        let known = Rc::clone(self);
        greenlet::spawn(move || {
            let ran = Rc::new(Cell::new(false));
            let runs = Rc::clone(&ran);
            let other = greenlet::spawn(move || runs.set(true));
            let answer = (known.operation)(&known.fd);
            let others_ran = ran.get();
            other.join().unwrap();
            (answer, others_ran)
        })
        .join()
        .unwrap()
    }

    /// Has another process leave no room.
    fn fill(&self) {
        let ended = fork(|| {
            let before = kernel_flags(self.fd.as_raw_fd());
            set_nonblocking(&self.fd, true);
            while write(&self.fd, &[0; 4096]).is_ok() {}
            // SAFETY: it takes no memory.
            unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETFL, before) }
        });
        assert_eq!(ended, 0);
    }
}

/// Another process, with which this one shares the descriptor, changes it.
fn set_elsewhere(fd: &OwnedFd, on: bool) {
    let ended = fork(|| {
        set_nonblocking(fd, on);
        0
    });
    assert_eq!(ended, 0);
}

#[test]
fn who_is_known_to_wait_for_ever_is_not_asked_again() {
    alone("who_is_known_to_wait_for_ever_is_not_asked_again", || {
        let _watchdog = patched();
        let (a, b) = UnixStream::pair().unwrap();
        let play = |mut stream: UnixStream, rounds| {
            greenlet::spawn(move || {
                let mut byte = [0];
                for _ in 0..rounds {
                    stream.write_all(&byte).unwrap();
                    stream.read_exact(&mut byte).unwrap();
                }
                stream
            })
        };
        let both = [play(a, 3), play(b, 3)].map(|one| one.join().unwrap());
        forbid(&[libc::SYS_fcntl, libc::SYS_getsockopt], true);
        let [a, b] = both;
        let _open = [play(a, 1000), play(b, 1000)].map(|one| one.join().unwrap());
        // SAFETY: it has no preconditions.
        unsafe { libc::_exit(0) };
    });
}

/// Otherwise the tests below would show nothing.
#[test]
fn what_another_process_changes_counts_soon() {
    alone("what_another_process_changes_counts_soon", || {
        let _watchdog = patched();
        for known in Known::all() {
            set_elsewhere(&known.fd, true);
            assert_eq!(known.would_block(), (Err(libc::EAGAIN), true), "at first");
            set_elsewhere(&known.fd, true);
            assert_eq!(known.would_block(), (Err(libc::EAGAIN), false), "then");
        }
    });
}

#[test]
fn a_timeout_that_another_process_sets_counts_soon() {
    alone("a_timeout_that_another_process_sets_counts_soon", || {
        let _watchdog = patched();
        let (a, b) = pair(libc::SOCK_STREAM);
        let known = Known::by_reading(a, b, RECEIVES);
        let time = 30 * MS;
        let ended = fork(|| {
            set_timeout(&known.fd, libc::SO_RCVTIMEO, time);
            0
        });
        assert_eq!(ended, 0);
        for _ in 0..2 {
            let begun = Instant::now();
            assert_eq!(known.would_block(), (Err(libc::EAGAIN), true));
            assert!(begun.elapsed() >= time);
        }
    });
}

/// What has changed elsewhere is heeded at once when this process has made any change
/// that could be the one.
#[test]
fn what_is_changed_by_libc_counts_at_once() {
    type Way = (&'static str, fn());
    fn some() -> OwnedFd {
        pair(libc::SOCK_STREAM).0
    }
    fn answered(answer: libc::c_long) {
        assert_eq!(answer, 0);
    }
    const ON: i32 = 1;
    let ways: [Way; 8] = [
        ("std", || {
            UnixStream::from(some()).set_nonblocking(true).unwrap();
        }),
        ("std's timeout", || {
            let stream = UnixStream::from(some());
            stream.set_write_timeout(Some(MS)).unwrap();
        }),
        ("fcntl", || set_nonblocking(&some(), true)),
        ("ioctl", || {
            let fd = some();
            // SAFETY: the number is live.
            answered(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &ON) }.into());
        }),
        ("setsockopt", || set_timeout(&some(), libc::SO_RCVTIMEO, MS)),
        ("syscall of fcntl", || {
            let fd = some();
            let (number, set) = (libc::SYS_fcntl, libc::F_SETFL);
            // SAFETY: it takes no memory.
            answered(unsafe { libc::syscall(number, fd.as_raw_fd(), set, libc::O_NONBLOCK) });
        }),
        ("syscall of ioctl", || {
            let fd = some();
            let (number, set) = (libc::SYS_ioctl, libc::FIONBIO);
            // SAFETY: the number is live.
            answered(unsafe { libc::syscall(number, fd.as_raw_fd(), set, &ON) });
        }),
        ("syscall of setsockopt", || {
            let fd = some();
            let time = libc::timeval {
                tv_sec: 1,
                tv_usec: 0,
            };
            // SAFETY: the time is live.
            answered(unsafe {
                libc::syscall(
                    libc::SYS_setsockopt,
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_SNDTIMEO,
                    &time,
                    size_of_val(&time),
                )
            });
        }),
    ];
    alone("what_is_changed_by_libc_counts_at_once", || {
        let _watchdog = patched();
        for (name, way) in ways {
            for known in Known::all() {
                set_elsewhere(&known.fd, true);
                way();
                let answer = known.would_block();
                assert_eq!(answer, (Err(libc::EAGAIN), false), "{name}");
            }
        }
    });
}

/// The descriptor that is changed is another one than the one that is used.
#[test]
fn a_clone_changes_what_is_known_of_the_original() {
    alone("a_clone_changes_what_is_known_of_the_original", || {
        let _watchdog = patched();
        let (client, server) = tcp_pair();
        let known = Known::by_reading(client.into(), server.into(), RECEIVES);
        let clone = TcpStream::from(known.fd.try_clone().unwrap());
        clone.set_nonblocking(true).unwrap();
        assert_eq!(known.would_block(), (Err(libc::EAGAIN), false));
        clone.set_nonblocking(false).unwrap();
        clone.set_read_timeout(Some(MS)).unwrap();
        assert_eq!(known.would_block(), (Err(libc::EAGAIN), true));
        clone.set_read_timeout(None).unwrap();
        let waits = Rc::clone(&known);
        let release = || assert_eq!(write(&known.peer, b"1"), Ok(1));
        let got = parks(move || (waits.operation)(&waits.fd), release);
        assert_eq!(got, Ok(1));
    });
}

/// The kernel looks when an operation begins.
#[test]
fn a_change_while_an_operation_waits_does_not_concern_it() {
    alone(
        "a_change_while_an_operation_waits_does_not_concern_it",
        || {
            let _watchdog = patched();
            let change: [fn(&OwnedFd); 2] = [
                |fd| set_nonblocking(fd, true),
                |fd| set_timeout(fd, libc::SO_RCVTIMEO, MS),
            ];
            for change in change {
                let (client, server) = tcp_pair();
                let known = Known::by_reading(client.into(), server.into(), RECEIVES);
                let waits = Rc::clone(&known);
                let waiting = greenlet::spawn(move || (waits.operation)(&waits.fd));
                greenlet::yield_now();
                change(&known.fd);
                // What is known is doubted meanwhile.
                greenlet::sleep(50 * MS);
                assert!(!waiting.is_finished());
                assert_eq!(write(&known.peer, b"1"), Ok(1));
                assert_eq!(waiting.join().unwrap(), Ok(1));
                assert_eq!(known.would_block().0, Err(libc::EAGAIN));
            }
        },
    );
}

/// A flag makes one operation of another kind than it is known to be.
#[test]
fn an_operation_that_does_not_wait_is_none_of_a_known_kind() {
    alone(
        "an_operation_that_does_not_wait_is_none_of_a_known_kind",
        || {
            let _watchdog = patched();
            let (client, server) = tcp_pair();
            let known = Known::by_reading(client.into(), server.into(), RECEIVES);
            for flag in [libc::MSG_DONTWAIT, libc::MSG_ERRQUEUE] {
                let known = Rc::clone(&known);
                let answer = in_greenlet(move || recv(&known.fd, &mut [0; 8], flag));
                assert_eq!(answer, Err(libc::EAGAIN));
            }
        },
    );
}
