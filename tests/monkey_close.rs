//! `monkey`: descriptors that are closed, taken over, copied, inherited and passed on
//! while greenlets wait for them; and many greenlets on one.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::cell::Cell;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::mpsc;

use common::{MS, alone_unwatched};
use patched::*;

fn dup2(old: &impl AsRawFd, new: RawFd) -> Result<usize, i32> {
    // SAFETY: it takes no memory. The new number is the caller's.
    checked(|| unsafe { libc::dup2(old.as_raw_fd(), new) })
}

fn clone(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().unwrap()
}

#[test]
fn who_waits_for_a_descriptor_that_is_closed_gets_ebadf() {
    let _watchdog = patched();
    let ways: [fn(RawFd); 5] = [
        |fd| assert_eq!(close(fd), Ok(0)),
        |fd| {
            let (other, _) = pair(libc::SOCK_STREAM);
            assert_eq!(dup2(&other, fd), Ok(fd as usize));
            // What it is now is read by nobody but its owner.
            assert_eq!(close(fd), Ok(0));
        },
        |fd| {
            let (other, _) = pair(libc::SOCK_STREAM);
            // SAFETY: the number is this closure's.
            let made = checked(|| unsafe { libc::dup3(other.as_raw_fd(), fd, libc::O_CLOEXEC) });
            assert_eq!(made, Ok(fd as usize));
            assert_eq!(close(fd), Ok(0));
        },
        |fd| {
            let fd = fd as u32;
            // SAFETY: the number is this closure's.
            assert_eq!(checked(|| unsafe { libc::close_range(fd, fd, 0) }), Ok(0));
        },
        // Another thread, which has no hub.
        |fd| {
            std::thread::spawn(move || {
                close(fd).unwrap();
            })
            .join()
            .unwrap()
        },
    ];
    for (number, way) in ways.into_iter().enumerate() {
        for write in [false, true] {
            let (a, b) = pair(libc::SOCK_STREAM);
            let fd = a.into_raw_fd();
            let wait = move || match write {
                false => recv(&fd, &mut [0; 4], 0),
                true => {
                    while send(&fd, &[0; 100_000], libc::MSG_DONTWAIT).is_ok() {}
                    send(&fd, &[0; 100_000], 0)
                }
            };
            assert_eq!(parks(wait, || way(fd)), Err(libc::EBADF), "way {number}");
            drop(b);
        }
    }
    let (reader, _writer) = pipe();
    let fd = reader.into_raw_fd();
    assert_eq!(
        parks(
            move || read(&fd, &mut [0; 4]),
            || {
                let _ = close(fd);
            }
        ),
        Err(libc::EBADF)
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_raw_fd();
    let accept = move || {
        let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: no address is asked for.
        checked(|| unsafe { libc::accept(fd, address, len) })
    };
    assert_eq!(parks(accept, || drop(listener)), Err(libc::EBADF));
}

#[test]
fn a_failed_dup2_closes_nothing() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let fd = a.as_raw_fd();
    let got = parks(
        move || recv(&fd, &mut [0; 4], 0),
        || {
            assert_eq!(dup2(&-1, fd), Err(libc::EBADF));
            assert_eq!(dup2(&a, fd), Ok(fd as usize));
            // SAFETY: they change nothing.
            unsafe {
                assert_eq!(checked(|| libc::dup3(fd, fd, 0)), Err(libc::EINVAL));
                assert_eq!(
                    checked(|| libc::dup3(b.as_raw_fd(), fd, 77)),
                    Err(libc::EINVAL)
                );
                let fd = fd as u32;
                let flags = libc::CLOSE_RANGE_CLOEXEC as i32;
                assert_eq!(checked(|| libc::close_range(fd, fd, flags)), Ok(0));
                assert_eq!(
                    checked(|| libc::close_range(fd, fd, 1 << 20)),
                    Err(libc::EINVAL)
                );
                assert_eq!(
                    checked(|| libc::close_range(fd, fd - 1, 0)),
                    Err(libc::EINVAL)
                );
            }
            assert_eq!(send(&b, b"abc", 0), Ok(3));
        },
    );
    assert_eq!(got, Ok(3));
}

/// A greenlet waits for a number; it is closed, used again at once, and another one
/// waits for what it is now.
#[test]
fn a_number_that_is_used_again_is_another_descriptor() {
    let _watchdog = patched();
    for by_thread in [false, true] {
        for _ in 0..100 {
            let (a, _b) = pair(libc::SOCK_STREAM);
            let (c, d) = pair(libc::SOCK_STREAM);
            let fd = a.into_raw_fd();
            let first = greenlet::spawn(move || recv(&fd, &mut [0; 4], 0));
            greenlet::yield_now();
            // The old one closes by being replaced.
            let replace = move || assert_eq!(dup2(&c, fd), Ok(fd as usize));
            match by_thread {
                false => replace(),
                true => std::thread::spawn(replace).join().unwrap(),
            }
            let second = greenlet::spawn(move || recv(&fd, &mut [0; 4], 0));
            greenlet::yield_now();
            assert_eq!(first.join().unwrap(), Err(libc::EBADF));
            greenlet::sleep(MS / 10);
            assert!(
                !second.is_finished(),
                "the second was told of the first's end"
            );
            assert_eq!(send(&d, b"second", 0), Ok(6));
            assert_eq!(second.join().unwrap(), Ok(4));
            assert_eq!(close(fd), Ok(0));
        }
    }
}

/// A socket of our own is dropped by another thread, and its number is somebody else's
/// before the first one's hub has heard of it.
#[test]
fn the_number_of_an_own_socket_that_another_thread_closed_is_another_descriptor() {
    alone_unwatched(
        "the_number_of_an_own_socket_that_another_thread_closed_is_another_descriptor",
        || {
            let _watchdog = patched();
            let own = greenlet::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let fd = own.as_raw_fd();
            own.set_read_timeout(Some(MS)).unwrap();
            assert!(own.recv(&mut [0]).is_err());
            let (a, b) = pair(libc::SOCK_STREAM);
            let replace = move || {
                drop(own);
                assert_eq!(dup2(&a, fd), Ok(fd as usize));
            };
            greenlet::monkey::unpatched(|| std::thread::spawn(replace).join().unwrap());
            greenlet::spawn(move || assert_eq!(send(&b, b"new", 0), Ok(3)));
            assert_eq!(recv(&fd, &mut [0; 4], 0), Ok(3));
            assert_eq!(close(fd), Ok(0));
        },
    );
}

/// libc closes what is in a `FILE` without a word to us.
#[test]
fn a_number_that_was_closed_behind_our_back_is_another_descriptor() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let fd = a.as_raw_fd();
    let got = parks(
        move || recv(&fd, &mut [0; 4], 0),
        || assert_eq!(send(&b, b"abc", 0), Ok(3)),
    );
    assert_eq!(got, Ok(3));
    // SAFETY: the number is closed by us alone.
    unsafe {
        let file = libc::fdopen(a.into_raw_fd(), c"r".as_ptr());
        libc::fclose(file);
    }
    let (c, d) = pair(libc::SOCK_STREAM);
    let again = if c.as_raw_fd() == fd { c } else { return };
    let got = parks(
        move || recv(&again, &mut [0; 4], 0),
        || assert_eq!(send(&d, b"de", 0), Ok(2)),
    );
    assert_eq!(got, Ok(2));
}

/// Who waits for the next one with such a number hears of it late, once.
#[test]
fn a_number_that_was_closed_behind_our_back_is_found_out() {
    alone_unwatched(
        "a_number_that_was_closed_behind_our_back_is_found_out",
        || {
            let _watchdog = patched();
            let (a, b) = pair(libc::SOCK_STREAM);
            let fd = a.into_raw_fd();
            let hears = || {
                parks(
                    move || recv(&fd, &mut [0; 4], 0),
                    || assert_eq!(send(&b, b"abc", 0), Ok(3)),
                )
            };
            assert_eq!((hears(), hears()), (Ok(3), Ok(3)));
            // Its place is taken by another one, without a word.
            let (c, d) = pair(libc::SOCK_STREAM);
            // SAFETY: both are ours, and stay open.
            unsafe { libc::syscall(libc::SYS_dup3, c.as_raw_fd(), fd, 0) };
            let waits = greenlet::spawn(move || recv(&fd, &mut [0; 4], 0));
            greenlet::yield_now();
            assert_eq!(send(&d, b"late", 0), Ok(4));
            assert_eq!(waits.join().unwrap(), Ok(4));
            let waits = greenlet::spawn(move || recv(&fd, &mut [0; 4], 0));
            greenlet::yield_now();
            assert!(is_watched(fd));
            assert_eq!(send(&d, b"now", 0), Ok(3));
            assert_eq!(waits.join().unwrap(), Ok(3));
        },
    );
}

/// A poll of many does not tell the kernel anew of those that it knows.
#[test]
fn one_of_many_that_was_closed_behind_our_back_is_found_out() {
    alone_unwatched(
        "one_of_many_that_was_closed_behind_our_back_is_found_out",
        || {
            let _watchdog = patched();
            let pairs: Vec<_> = (0..100).map(|_| pair(libc::SOCK_STREAM)).collect();
            let fds: Vec<RawFd> = pairs.iter().map(|(a, _)| a.as_raw_fd()).collect();
            let poll = move || {
                let mut entries: Vec<_> = fds
                    .iter()
                    .map(|&fd| libc::pollfd {
                        fd,
                        events: libc::POLLIN,
                        revents: 0,
                    })
                    .collect();
                // SAFETY: the array is live.
                unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as _, -1) }
            };
            let (a, b) = &pairs[50];
            let hears = |b: &OwnedFd| {
                let answer = parks(poll.clone(), || assert_eq!(send(b, b"abc", 0), Ok(3)));
                assert_eq!(recv(&pairs[50].0, &mut [0; 4], 0), Ok(3));
                answer
            };
            assert_eq!((hears(b), hears(b)), (1, 1));
            let (c, d) = pair(libc::SOCK_STREAM);
            // SAFETY: both are ours, and stay open.
            unsafe { libc::syscall(libc::SYS_dup3, c.as_raw_fd(), a.as_raw_fd(), 0) };
            let waits = greenlet::spawn(poll.clone());
            greenlet::yield_now();
            assert_eq!(send(&d, b"abc", 0), Ok(3));
            assert_eq!(waits.join().unwrap(), 1);
            assert!(is_watched(a.as_raw_fd()));
        },
    );
}

/// Whether some epoll set of the process has what is open under the number.
fn is_watched(fd: RawFd) -> bool {
    let of = |fd: RawFd| std::fs::metadata(format!("/proc/self/fd/{fd}")).map(|it| it.ino());
    let inode = format!(" ino:{:x} ", of(fd).unwrap());
    let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    infos
        .filter_map(|info| std::fs::read_to_string(info.ok()?.path()).ok())
        .any(|text| {
            text.lines()
                .any(|line| line.starts_with("tfd:") && format!("{line} ").contains(&inode))
        })
}

/// Threads close what greenlets of another thread are about to wait for.
#[test]
fn what_is_closed_at_the_very_moment_of_waiting_is_not_waited_for() {
    // Nobody else is to use the numbers again, nor the watchdog, which reads files.
    let name = "what_is_closed_at_the_very_moment_of_waiting_is_not_waited_for";
    let ended = common::in_subprocess_with(name, &[("GREENLET_WATCHDOG", "off")], || {
        let _watchdog = patched();
        const ROUNDS: usize = 5000;
        // The hub has its descriptors from now on.
        greenlet::sleep(MS);
        let (to_close, closing) = mpsc::channel::<RawFd>();
        let closer = std::thread::spawn(move || {
            for fd in closing {
                // SAFETY: the number was given away.
                assert_eq!(unsafe { libc::close(fd) }, 0);
            }
        });
        for round in 0..ROUNDS {
            let (a, _b) = pair(libc::SOCK_STREAM);
            let fd = a.into_raw_fd();
            let reading = greenlet::spawn(move || recv(&fd, &mut [0; 4], 0));
            to_close.send(fd).unwrap();
            (0..round % 500).for_each(|_| std::hint::spin_loop());
            assert_eq!(reading.join().unwrap(), Err(libc::EBADF));
        }
        drop(to_close);
        closer.join().unwrap();
    });
    if let Some(ended) = ended {
        ended.succeeded();
    }
}

#[test]
fn two_hubs_wait_for_one_descriptor_and_both_hear_of_its_end() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let fd = a.into_raw_fd();
    let (ready, is_ready) = mpsc::channel();
    let other = std::thread::spawn(move || {
        let waiting = greenlet::spawn(move || recv(&fd, &mut [0; 4], 0));
        greenlet::sleep(MS);
        ready.send(()).unwrap();
        waiting.join().unwrap()
    });
    is_ready.recv().unwrap();
    let got = parks(
        move || recv(&fd, &mut [0; 4], 0),
        || assert_eq!(close(fd), Ok(0)),
    );
    assert_eq!(got, Err(libc::EBADF));
    assert_eq!(other.join().unwrap(), Err(libc::EBADF));
    drop(b);
}

#[test]
fn copies_of_a_descriptor_are_independent_of_each_other() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let copy = clone(&a);
    let first = a.into_raw_fd();
    let closed = greenlet::spawn(move || recv(&first, &mut [0; 4], 0));
    let got = parks(
        move || recv(&copy, &mut [0; 4], 0),
        || {
            assert_eq!(close(first), Ok(0));
            greenlet::sleep(MS);
            assert_eq!(send(&b, b"abc", 0), Ok(3));
        },
    );
    assert_eq!((got, closed.join().unwrap()), (Ok(3), Err(libc::EBADF)));
    // The same number is another one's copy now.
    let (c, d) = pair(libc::SOCK_STREAM);
    let copies: Vec<_> = (0..20).map(|_| clone(&c)).collect();
    let waiting: Vec<_> = copies
        .into_iter()
        .map(|copy| greenlet::spawn(move || recv(&copy, &mut [0; 1], 0)))
        .collect();
    greenlet::sleep(MS);
    assert_eq!(send(&d, &[7; 20], 0), Ok(20));
    let all = greenlet::joinall(waiting);
    assert!(all.into_iter().all(|got| got.unwrap() == Ok(1)));
}

#[test]
fn a_descriptor_that_was_passed_by_a_message_parks() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let (passed, partner) = pair(libc::SOCK_STREAM);
    let receive = move || receive_descriptor(&a, libc::MSG_WAITALL);
    let fd = parks(receive, || send_descriptor(&b, &passed));
    drop(passed);
    let got = parks(
        move || recv(&fd, &mut [0; 4], 0),
        || {
            let _ = send(&partner, b"abc", 0);
        },
    );
    assert_eq!(got, Ok(3));
}

#[repr(C, align(8))]
struct Control([u8; 64]);

/// Two bytes, and a descriptor with the second.
fn send_descriptor(to: &OwnedFd, fd: &OwnedFd) {
    assert_eq!(send(to, b"x", 0), Ok(1));
    greenlet::sleep(MS);
    let mut byte = [7u8];
    let mut iov = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: the message and its parts are live, and there is room.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = &mut *libc::CMSG_FIRSTHDR(&message);
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        header.cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header)
            .cast::<i32>()
            .write_unaligned(fd.as_raw_fd());
        assert_eq!(
            checked(|| libc::sendmsg(to.as_raw_fd(), &message, 0) as i64),
            Ok(1)
        );
    }
}

fn receive_descriptor(from: &OwnedFd, flags: i32) -> OwnedFd {
    let mut bytes = [0u8; 2];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: 2,
    };
    let mut control = Control([0; 64]);
    // SAFETY: the message and its parts are live, and there is room.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = 64;
        assert_eq!(
            checked(|| libc::recvmsg(from.as_raw_fd(), &mut message, flags) as i64),
            Ok(2)
        );
        assert_eq!(message.msg_flags & libc::MSG_CTRUNC, 0);
        let header = libc::CMSG_FIRSTHDR(&message);
        assert!(!header.is_null(), "the descriptor was lost");
        OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    }
}

#[test]
fn a_forked_child_parks_on_what_it_has_inherited_and_the_parent_goes_on() {
    common::alone(
        "a_forked_child_parks_on_what_it_has_inherited_and_the_parent_goes_on",
        || {
            let _watchdog = patched();
            let (a, b) = pair(libc::SOCK_STREAM);
            let (c, d) = pair(libc::SOCK_STREAM);
            let inherited = clone(&a);
            let got = parks(
                move || recv(&inherited, &mut [0; 4], libc::MSG_WAITALL),
                || {
                    let ended = common::fork(|| {
                        // The parent's greenlet is not here, but its descriptors are.
                        let number = c.as_raw_fd();
                        let got = parks(
                            move || recv(&number, &mut [0; 4], 0),
                            || assert_eq!(send(&d, b"abc", 0), Ok(3)),
                        );
                        assert_eq!(got, Ok(3));
                        // Closing a copy is nothing to the parent.
                        let _ = close(a.as_raw_fd());
                        0
                    });
                    assert_eq!(ended, 0);
                    greenlet::sleep(MS);
                    assert_eq!(send(&b, b"on__", 0), Ok(4));
                },
            );
            assert_eq!(got, Ok(4));
        },
    );
}

#[test]
fn what_the_child_of_a_vfork_closes_is_open_in_the_parent() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let fd = a.as_raw_fd();
    let got = parks(
        move || recv(&fd, &mut [0; 4], 0),
        || {
            let child = vfork_and_close(fd);
            assert_eq!(common::reap(child), 7);
            greenlet::sleep(MS);
            assert_eq!(send(&b, b"abc", 0), Ok(3));
        },
    );
    assert_eq!(got, Ok(3));
}

/// As C code does before it executes another program.
fn vfork_and_close(fd: RawFd) -> i32 {
    extern "C" fn child(fd: *mut libc::c_void) -> i32 {
        let fd = fd as usize as RawFd;
        // SAFETY: the table of descriptors is the child's own.
        unsafe {
            libc::close(fd);
            libc::close_range(fd as u32, fd as u32, 0);
            libc::_exit(7)
        }
    }
    let mut stack = vec![0u8; 256 << 10];
    // SAFETY: the child runs on a stack of its own, in our memory, until it exits,
    // and we wait for that.
    unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<libc::c_void>();
        let top = top.map_addr(|top| top & !15);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(child, top, flags, fd as usize as *mut libc::c_void)
    }
}

#[test]
fn a_hundred_greenlets_read_one_descriptor() {
    let _watchdog = patched();
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let (a, b) = pair(kind);
        let a = Rc::new(a);
        let order = Rc::new(Cell::new(0));
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let (a, order) = (a.clone(), order.clone());
                greenlet::spawn(move || {
                    let got = recv(&*a, &mut [0; 1], 0);
                    order.set(order.get() + 1);
                    got
                })
            })
            .collect();
        greenlet::sleep(MS * 2);
        assert_eq!(order.get(), 0);
        for count in 1..=100 {
            assert_eq!(send(&b, b"x", 0), Ok(1));
            common::until(|| order.get() == count);
        }
        assert!(
            greenlet::joinall(waiting)
                .into_iter()
                .all(|got| got.unwrap() == Ok(1))
        );
    }
    // And all are told when it is closed.
    let (a, _b) = pair(libc::SOCK_STREAM);
    let fd = a.into_raw_fd();
    let waiting: Vec<_> = (0..100)
        .map(|at| {
            greenlet::spawn(move || match at % 2 {
                0 => recv(&fd, &mut [0; 1], 0),
                _ => {
                    while send(&fd, &[0; 10_000], libc::MSG_DONTWAIT).is_ok() {}
                    send(&fd, &[0; 10_000], 0)
                }
            })
        })
        .collect();
    greenlet::sleep(MS * 2);
    assert_eq!(close(fd), Ok(0));
    assert!(
        greenlet::joinall(waiting)
            .into_iter()
            .all(|got| got.unwrap() == Err(libc::EBADF))
    );
}

#[test]
fn a_reader_and_a_writer_of_one_descriptor_do_not_hold_each_other_up() {
    let _watchdog = patched();
    const SIZE: usize = 4 << 20;
    let (a, b) = tcp_pair();
    let both = |stream: &TcpStream| {
        let (reader, writer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let reading =
            greenlet::spawn(move || recv(&reader, &mut vec![0; SIZE], libc::MSG_WAITALL).unwrap());
        let writing = greenlet::spawn(move || send(&writer, &vec![7; SIZE], 0).unwrap());
        [reading, writing]
    };
    let all: Vec<_> = both(&a).into_iter().chain(both(&b)).collect();
    assert!(
        greenlet::joinall(all)
            .into_iter()
            .all(|n| n.unwrap() == SIZE)
    );
}

/// They are non-blocking, which is to be found by who takes their descriptors.
#[test]
fn own_sockets_stay_nonblocking() {
    let _watchdog = patched();
    let listener = greenlet::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (own, _) = listener.accept().unwrap();
    let fd = own.as_raw_fd();
    assert_eq!(
        in_greenlet(move || recv(&fd, &mut [0; 1], 0)),
        Err(libc::EAGAIN)
    );
    drop((own, client));
}

#[test]
fn nothing_is_left_open() {
    common::alone("nothing_is_left_open", || {
        let _watchdog = patched();
        let round = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let server = greenlet::spawn(move || {
                for _ in 0..20 {
                    let (stream, _) = listener.accept().unwrap();
                    greenlet::spawn(move || std::io::copy(&mut &stream, &mut &stream).unwrap());
                }
            });
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    greenlet::spawn(move || {
                        let stream = TcpStream::connect(to).unwrap();
                        assert_eq!(send(&stream, b"echo", 0), Ok(4));
                        assert_eq!(recv(&stream, &mut [0; 4], libc::MSG_WAITALL), Ok(4));
                    })
                })
                .collect();
            greenlet::joinall(clients);
            server.join().unwrap();
            // The servers see the end of their streams.
            for _ in 0..5 {
                greenlet::sleep(MS);
            }
        };
        round();
        let before = open_descriptors();
        for _ in 0..5 {
            round();
        }
        common::until(|| open_descriptors() == before);
    });
}
