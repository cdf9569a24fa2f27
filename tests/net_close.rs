//! Closing a socket under those who wait for it: they are woken with an error,
//! and nobody ever touches a descriptor whose number is in use again.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use greenlet::net::{Shutdown, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream};
use greenlet::{joinall, sleep, spawn, yield_now};

mod common;
use common::{listener_of_kept_port, watchdog};

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn settle() {
    for _ in 0..10 {
        yield_now();
    }
    sleep(Duration::from_millis(1));
}

/// Fills a stream until a write would have to wait.
fn fill(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    while (&*stream).write(&[0; 65536]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
}

fn assert_closed<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
}

/// Runs `wait` in a greenlet, closes the socket under it, and expects EBADF.
fn closes_under<S: 'static, R: 'static + std::fmt::Debug>(
    socket: S,
    wait: impl Fn(&S) -> io::Result<R> + 'static,
    close: impl Fn(&S) -> io::Result<()>,
) {
    let socket = Rc::new(socket);
    let wait = Rc::new(wait);
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let (socket, wait) = (Rc::clone(&socket), Rc::clone(&wait));
            spawn(move || wait(&socket))
        })
        .collect();
    settle();
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    close(&socket).unwrap();
    for result in joinall(waiters) {
        assert_closed(result.unwrap());
    }
    assert_closed(wait(&socket));
    close(&socket).unwrap();
}

#[test]
fn closing_wakes_readers_writers_and_acceptors() {
    let _watchdog = watchdog();
    let (a, b) = tcp_pair();
    closes_under(a, |s| (&*s).read(&mut [0]), TcpStream::close);
    // The other side sees the end.
    assert_eq!((&b).read(&mut [0]).unwrap(), 0);
    let (a, _b) = tcp_pair();
    fill(&a);
    closes_under(a, |s| (&*s).write(&[0; 65536]), TcpStream::close);
    let (a, _b) = tcp_pair();
    closes_under(a, |s| s.peek(&mut [0]), TcpStream::close);
    let (listener, _kept) = listener_of_kept_port();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    closes_under(listener, |s| s.accept().map(|_| ()), TcpListener::close);
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    closes_under(socket, |s| s.recv_from(&mut [0]), UdpSocket::close);
    let (a, _b) = UnixStream::pair().unwrap();
    closes_under(a, |s| (&*s).read(&mut [0]), UnixStream::close);
    let (a, _b) = UnixDatagram::pair().unwrap();
    closes_under(a, |s| s.recv(&mut [0]), UnixDatagram::close);
}

#[test]
fn closing_wakes_who_waits_on_other_threads() {
    let _watchdog = watchdog();
    for round in 0..50 {
        let (a, _b) = tcp_pair();
        let a = Arc::new(a);
        let (ready, is_ready) = mpsc::channel();
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let (a, ready) = (Arc::clone(&a), ready.clone());
                thread::spawn(move || {
                    let greenlet = spawn(move || (&*a).read(&mut [0]));
                    if round % 2 == 0 {
                        settle();
                    }
                    ready.send(()).unwrap();
                    greenlet.join().unwrap()
                })
            })
            .collect();
        // In odd rounds the close races with the registration.
        is_ready.recv().unwrap();
        is_ready.recv().unwrap();
        a.close().unwrap();
        for waiter in waiters {
            assert_closed(waiter.join().unwrap());
        }
    }
}

#[test]
fn a_listener_closed_on_one_thread_wakes_the_acceptor_of_another() {
    let _watchdog = watchdog();
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let (ready, is_ready) = mpsc::channel();
    let acceptor = thread::spawn({
        let listener = Arc::clone(&listener);
        move || {
            let greenlet = spawn(move || listener.accept().map(|_| ()));
            settle();
            ready.send(()).unwrap();
            greenlet.join().unwrap()
        }
    });
    is_ready.recv().unwrap();
    listener.close().unwrap();
    assert_closed(acceptor.join().unwrap());
}

#[test]
fn a_closed_socket_keeps_its_number_until_it_is_dropped() {
    let _watchdog = watchdog();
    common::alone(
        "a_closed_socket_keeps_its_number_until_it_is_dropped",
        || {
            let (a, _b) = UnixStream::pair().unwrap();
            let number = a.as_raw_fd();
            a.close().unwrap();
            let others: Vec<_> = (0..50).map(|_| UnixStream::pair().unwrap()).collect();
            let used = |fd| {
                others
                    .iter()
                    .any(|(x, y)| x.as_raw_fd() == fd || y.as_raw_fd() == fd)
            };
            assert!(!used(number));
            assert_closed((&a).write(b"into somebody else's socket"));
            assert_closed(a.set_nonblocking(true));
            assert!(a.local_addr().is_err());
            assert!(
                a.try_clone()
                    .map(|c| c.local_addr())
                    .is_ok_and(|a| a.is_err())
            );
            drop(a);
            let is_given_out = || {
                let (a, b) = UnixStream::pair().unwrap();
                has_number(number, &a, &b)
            };
            while !is_given_out() {
                thread::yield_now();
            }
        },
    );
}

/// Whether one of the two has this number. It does not if the watchdog's thread, which
/// looks into a file now and then, has it at the moment.
fn has_number(fd: RawFd, a: &UnixStream, b: &UnixStream) -> bool {
    a.as_raw_fd() == fd || b.as_raw_fd() == fd
}

#[test]
fn a_number_that_is_used_again_gets_events_of_its_own() {
    let _watchdog = watchdog();
    common::alone("a_number_that_is_used_again_gets_events_of_its_own", || {
        let mut used_again = 0;
        while used_again < 100 {
            let (mut a, b) = UnixStream::pair().unwrap();
            let fd = b.as_raw_fd();
            // A clone keeps the open file, and its place in the kernel's lists.
            let clone = b.try_clone().unwrap();
            let reader = spawn(move || (&b).read(&mut [0; 8]).unwrap());
            settle();
            a.write_all(b"x").unwrap();
            assert_eq!(reader.join().unwrap(), 1);
            let (mut c, d) = UnixStream::pair().unwrap();
            if !has_number(fd, &c, &d) {
                continue;
            }
            used_again += 1;
            let reader = spawn(move || (&d).read(&mut [0; 8]).unwrap());
            settle();
            // The old file has news; they are not the new one's.
            a.write_all(b"yy").unwrap();
            settle();
            assert!(!reader.is_finished());
            c.write_all(b"zzz").unwrap();
            assert_eq!(reader.join().unwrap(), 3);
            assert_eq!((&clone).read(&mut [0; 8]).unwrap(), 2);
        }
    });
}

#[test]
fn a_socket_dropped_elsewhere_leaves_no_trace_for_its_number() {
    let _watchdog = watchdog();
    common::alone(
        "a_socket_dropped_elsewhere_leaves_no_trace_for_its_number",
        || {
            let mut used_again = 0;
            while used_again < 50 {
                let (mut a, mut b) = UnixStream::pair().unwrap();
                let fd = b.as_raw_fd();
                a.write_all(b"x").unwrap();
                b.read_exact(&mut [0]).unwrap();
                // Known to this thread's reactor from here on.
                b.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                assert!(b.read(&mut [0]).is_err());
                thread::spawn(move || drop(b)).join().unwrap();
                let (mut c, d) = UnixStream::pair().unwrap();
                if !has_number(fd, &c, &d) {
                    continue;
                }
                used_again += 1;
                let reader = spawn(move || (&d).read(&mut [0; 8]).unwrap());
                settle();
                assert!(!reader.is_finished());
                c.write_all(b"abc").unwrap();
                assert_eq!(reader.join().unwrap(), 3);
            }
        },
    );
}

/// How many descriptors this process has in its epoll set, which it may know
/// under several numbers.
fn watched_descriptors() -> usize {
    let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    infos
        .filter_map(|info| std::fs::read_to_string(info.ok()?.path()).ok())
        .map(|text| text.lines().filter(|l| l.starts_with("tfd:")).count())
        .max()
        .unwrap_or(0)
}

#[test]
fn a_dropped_socket_is_watched_no_longer_though_a_clone_lives() {
    let _watchdog = watchdog();
    common::alone(
        "a_dropped_socket_is_watched_no_longer_though_a_clone_lives",
        || {
            let register = || {
                let (a, b) = UnixStream::pair().unwrap();
                let clone = b.try_clone().unwrap();
                b.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                assert!((&b).read(&mut [0]).is_err());
                (a, b, clone)
            };
            let first = register();
            let before = watched_descriptors();
            for end in 0..3 {
                let (_a, b, _clone) = register();
                assert_eq!(watched_descriptors(), before + 1);
                match end {
                    0 => drop(b),
                    1 => b.close().unwrap(),
                    _ => thread::spawn(move || drop(b)).join().unwrap(),
                }
                assert_eq!(watched_descriptors(), before);
            }
            drop(first);
            assert_eq!(watched_descriptors(), before - 1);
        },
    );
}

#[test]
fn closing_races_with_everything_and_nobody_hangs() {
    let _watchdog = watchdog();
    for _ in 0..200 {
        let (a, b) = tcp_pair();
        let (a, b) = (Arc::new(a), Arc::new(b));
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (a, b) = (Arc::clone(&a), Arc::clone(&b));
                thread::spawn(move || {
                    let reader = spawn(move || while (&*a).read(&mut [0; 16]).is_ok() {});
                    let writer = spawn(move || while (&*b).write(&[0; 16]).is_ok() {});
                    joinall([reader, writer]);
                })
            })
            .collect();
        yield_now();
        a.close().unwrap();
        stop.store(true, Ordering::Relaxed);
        b.close().unwrap();
        for worker in workers {
            worker.join().unwrap();
        }
    }
}

#[test]
fn a_shutdown_wakes_the_reader_with_the_end_of_the_stream() {
    let _watchdog = watchdog();
    let (a, _b) = tcp_pair();
    let a = Arc::new(a);
    let here = spawn({
        let a = Arc::clone(&a);
        move || (&*a).read(&mut [0]).unwrap()
    });
    let elsewhere = thread::spawn({
        let a = Arc::clone(&a);
        move || (&*a).read(&mut [0]).unwrap()
    });
    settle();
    a.shutdown(Shutdown::Both).unwrap();
    assert_eq!(here.join().unwrap(), 0);
    assert_eq!(elsewhere.join().unwrap(), 0);
}

#[test]
fn a_socket_is_dropped_by_a_greenlet_that_is_killed_while_it_waits() {
    let _watchdog = watchdog();
    let (a, mut b) = tcp_pair();
    let victim = spawn(move || {
        let mut a = a;
        a.read(&mut [0]).map(|_| ())
    });
    settle();
    victim.kill_wait();
    assert_eq!(b.read(&mut [0]).unwrap(), 0);
}
