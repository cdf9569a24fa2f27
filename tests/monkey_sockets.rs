//! `monkey`: sockets, with std's and libc's own functions, to the flag and the errno.
//! The numbers G173 to G178 are GEVENT's.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use common::{MS, refusing, refusing_datagrams};
use patched::*;

// ---- std

#[test]
fn std_streams_park_when_they_read() {
    let _watchdog = patched();
    let (mut client, mut server) = tcp_pair();
    client.write_all(b"peeked").unwrap();
    let mut buffer = [0; 16];
    let mut peeker = server.try_clone().unwrap();
    let peeked = in_greenlet(move || peeker.peek(&mut buffer).map(|n| (n, peeker.flush())));
    assert_eq!(peeked.unwrap().0, 6);
    server.read_exact(&mut [0; 6]).unwrap();

    let mut reader = server.try_clone().unwrap();
    let read = move || {
        let mut buffer = [0; 16];
        let n = reader.read(&mut buffer).unwrap();
        buffer[..n].to_vec()
    };
    let mut writer = client.try_clone().unwrap();
    assert_eq!(
        parks(read, || writer.write_all(b"short").unwrap()),
        b"short"
    );

    let mut reader = server.try_clone().unwrap();
    let read = move || {
        let (mut a, mut b) = ([0; 2], [0; 8]);
        let n = reader.read_vectored(&mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)]);
        (n.unwrap(), a, b[..3].to_vec())
    };
    let (n, a, b) = parks(read, || client.write_all(b"hello").unwrap());
    assert_eq!((n, &a[..], &b[..]), (5, &b"he"[..], &b"llo"[..]));

    // The end of the stream is an answer too.
    let mut reader = server.try_clone().unwrap();
    let ended = parks(
        move || reader.read(&mut [0; 8]).unwrap(),
        || drop((client, writer)),
    );
    assert_eq!(ended, 0);
    assert_blocking(&server);
}

#[test]
fn std_streams_park_when_they_write_and_write_all() {
    let _watchdog = patched();
    const SIZE: usize = 20 << 20;
    for vectored in [false, true] {
        let (mut client, mut server) = tcp_pair();
        let write = move || {
            let bytes = vec![7; SIZE];
            let (a, b) = bytes.split_at(SIZE / 3);
            let n = match vectored {
                false => client.write(&bytes),
                true => client.write_vectored(&[IoSlice::new(a), IoSlice::new(b)]),
            };
            assert_blocking(&client);
            n.unwrap()
        };
        let mut got = 0;
        let written = parks(write, || {
            // G173: a slow reader gets all of it.
            let mut buffer = vec![0; 1 << 20];
            while got < SIZE {
                let n = server.read(&mut buffer).unwrap();
                assert!(buffer[..n].iter().all(|byte| *byte == 7));
                got += n;
            }
        });
        assert_eq!((written, got), (SIZE, SIZE), "a blocking send takes all");
    }
}

#[test]
fn std_accepts_and_connects() {
    let _watchdog = patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = listener.try_clone().unwrap();
    let mut client = None;
    let accept = move || {
        let (stream, peer) = acceptor.accept().unwrap();
        assert_blocking(&acceptor);
        assert_blocking(&stream);
        (stream, peer)
    };
    let (_stream, peer) = parks(accept, || {
        client = Some(TcpStream::connect(address).unwrap())
    });
    let client = client.unwrap();
    assert_eq!(client.local_addr().unwrap(), peer);
    assert_blocking(&client);
    assert_blocking(&listener);

    let path = std::env::temp_dir().join(format!("greenlet-{}-accept", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let acceptor = listener.try_clone().unwrap();
    let to = path.clone();
    let (mut stream, _) = parks(
        move || acceptor.accept().unwrap(),
        || drop(UnixStream::connect(&to).unwrap()),
    );
    assert_eq!(stream.read(&mut [0; 4]).unwrap(), 0);
    assert_blocking(&listener);
    std::fs::remove_file(path).unwrap();
}

/// An address that is not answered for some time: the queue of its listener is full.
fn unanswering() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: it takes no memory. A second listen changes the length of the queue.
    assert_eq!(unsafe { libc::listen(socket.as_raw_fd(), 0) }, 0);
    let address = socket.local_addr().unwrap();
    let mut in_queue = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&address, MS * 100) {
        in_queue.push(client);
    }
    (socket, in_queue)
}

#[test]
fn a_connect_that_takes_its_time_parks() {
    let _watchdog = patched();
    let (listener, in_queue) = unanswering();
    let address = listener.local_addr().unwrap();
    // The second attempt of the handshake comes after a second.
    let stream = parks(
        move || TcpStream::connect(address).unwrap(),
        || {
            for _ in 0..=in_queue.len() {
                listener.accept().unwrap();
            }
        },
    );
    assert_blocking(&stream);
    // It is as connected as any: another connect says so.
    let address = stream.peer_addr().unwrap();
    assert_eq!(raw_connect(&stream, address), Err(libc::EISCONN));
}

fn raw_connect(fd: &impl AsRawFd, address: std::net::SocketAddr) -> Result<usize, i32> {
    let std::net::SocketAddr::V4(address) = address else {
        panic!("IPv4 only")
    };
    // SAFETY: an address of zeros is one.
    let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    raw.sin_family = libc::AF_INET as _;
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    let len = size_of::<libc::sockaddr_in>() as u32;
    let fd = fd.as_raw_fd();
    // SAFETY: the address is live.
    checked(|| unsafe { libc::connect(fd, (&raw const raw).cast(), len) })
}

fn socket(kind: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: it takes no memory; and the descriptor is nobody else's.
    unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, kind, 0)) }
}

#[test]
fn a_refused_connect_says_so_and_the_socket_can_be_used_again() {
    let _watchdog = patched();
    // G178
    let (_kept, closed) = refusing();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = open.local_addr().unwrap();
    let answers = in_greenlet(move || {
        assert_eq!(
            TcpStream::connect(closed).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        let socket = socket(libc::SOCK_STREAM);
        let answers = [closed, closed, address, address].map(|to| raw_connect(&socket, to));
        assert_blocking(&socket);
        answers
    });
    let refused = Err(libc::ECONNREFUSED);
    assert_eq!(answers, [refused, refused, Ok(0), Err(libc::EISCONN)]);
}

#[test]
fn a_connect_times_out_as_the_kernel_has_it() {
    let _watchdog = patched();
    let (listener, _in_queue) = unanswering();
    let address = listener.local_addr().unwrap();
    lets_others_run(move || {
        let socket = socket(libc::SOCK_STREAM);
        set_timeout(&socket, libc::SO_SNDTIMEO, MS * 30);
        assert_eq!(raw_connect(&socket, address), Err(libc::EINPROGRESS));
        assert_eq!(raw_connect(&socket, address), Err(libc::EALREADY));
        assert_blocking(&socket);
        set_nonblocking(&socket, true);
        assert_eq!(raw_connect(&socket, address), Err(libc::EALREADY));
    });
}

#[test]
fn std_udp_sockets_park() {
    let _watchdog = patched();
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    let b = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = a.local_addr().unwrap();
    let from = b.local_addr().unwrap();
    for _ in 0..2 {
        let receiver = a.try_clone().unwrap();
        let receive = move || {
            let mut buffer = [0; 8];
            let (n, from) = receiver.recv_from(&mut buffer).unwrap();
            (buffer[..n].to_vec(), from)
        };
        let got = parks(receive, || assert_eq!(b.send_to(b"to", to).unwrap(), 2));
        assert_eq!(got, (b"to".to_vec(), from));
    }
    a.connect(from).unwrap();
    let receiver = a.try_clone().unwrap();
    let receive = move || receiver.recv(&mut [0; 8]).unwrap();
    // An empty datagram is one.
    assert_eq!(
        parks(receive, || assert_eq!(b.send_to(b"", to).unwrap(), 0)),
        0
    );
    assert_eq!(a.send(b"back").unwrap(), 4);
    assert_eq!(b.recv(&mut [0; 8]).unwrap(), 4);
    assert_blocking(&a);
}

#[test]
fn a_refused_datagram_is_an_error_of_the_receiver() {
    let _watchdog = patched();
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (_kept, gone) = refusing_datagrams();
    a.connect(gone).unwrap();
    let receiver = a.try_clone().unwrap();
    let error = parks(
        move || receiver.recv(&mut [0; 8]).unwrap_err(),
        || drop(a.send(b"x")),
    );
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn std_unix_sockets_park() {
    let _watchdog = patched();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    let got = parks(
        move || {
            let mut buffer = [0; 8];
            let n = b.read(&mut buffer).unwrap();
            assert_eq!(b.write(b"answer").unwrap(), 6);
            buffer[..n].to_vec()
        },
        || a.write_all(b"unix").unwrap(),
    );
    assert_eq!(got, b"unix");
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 6);

    let (a, b) = UnixDatagram::pair().unwrap();
    let receiver = b.try_clone().unwrap();
    let got = parks(
        move || receiver.recv(&mut [0; 8]).unwrap(),
        || assert_eq!(a.send(b"datagram").unwrap(), 8),
    );
    assert_eq!(got, 8);
    // The queue of a Unix datagram socket is short, and a sender waits for room.
    let sender = a.try_clone().unwrap();
    let sent = parks(
        move || (0..500).map(|_| sender.send(b"x").unwrap()).sum::<usize>(),
        || (0..500).for_each(|_| assert_eq!(b.recv(&mut [0; 8]).unwrap(), 1)),
    );
    assert_eq!(sent, 500);
    assert_blocking(&a);
    assert_blocking(&b);
}

#[test]
fn a_unix_connect_waits_for_room_in_the_queue() {
    let _watchdog = patched();
    let path = std::env::temp_dir().join(format!("greenlet-{}-queue", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: it takes no memory.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let to = path.clone();
    let first = UnixStream::connect(&path).unwrap();
    let second = parks(
        move || UnixStream::connect(&to).unwrap(),
        || drop(listener.accept().unwrap()),
    );
    assert_blocking(&second);
    drop((first, second));
    drop(listener.accept().unwrap());
    drop(UnixStream::connect(&path).unwrap());

    // The queue is full again.
    let to = path.clone();
    let timed_out = lets_others_run(move || {
        use std::os::unix::ffi::OsStrExt;
        let (socket, _) = pair(libc::SOCK_STREAM);
        drop(socket);
        // SAFETY: it takes no memory.
        let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
        set_timeout(&fd, libc::SO_SNDTIMEO, MS * 20);
        // SAFETY: an address of zeros is one.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as _;
        for (to, from) in address.sun_path.iter_mut().zip(to.as_os_str().as_bytes()) {
            *to = *from as _;
        }
        let len = size_of::<libc::sockaddr_un>() as u32;
        // SAFETY: the address is live.
        let blocking = checked(|| unsafe { libc::connect(fd, (&raw const address).cast(), len) });
        assert_blocking(&fd);
        set_nonblocking(&fd, true);
        // SAFETY: as above.
        let other = checked(|| unsafe { libc::connect(fd, (&raw const address).cast(), len) });
        close(fd).unwrap();
        (blocking, other)
    });
    assert_eq!(timed_out, (Err(libc::EAGAIN), Err(libc::EAGAIN)));
    std::fs::remove_file(path).unwrap();
}

// ---- the user's own O_NONBLOCK

#[test]
fn what_its_user_made_nonblocking_does_not_park_in_any_of_three_ways() {
    let _watchdog = patched();
    let make: [fn() -> (OwnedFd, OwnedFd); 3] = [
        || pair(libc::SOCK_STREAM | libc::SOCK_NONBLOCK),
        || {
            let (a, b) = pair(libc::SOCK_STREAM);
            set_nonblocking(&a, true);
            set_nonblocking(&b, true);
            (a, b)
        },
        || {
            let (a, b) = pair(libc::SOCK_STREAM);
            for fd in [&a, &b] {
                let mut on = 1;
                // SAFETY: the kernel reads an int.
                let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut on) };
                assert_eq!(set, 0);
            }
            (a, b)
        },
    ];
    for make in make {
        in_greenlet(move || {
            let (a, b) = make();
            assert_eq!(recv(&a, &mut [0; 4], 0), Err(libc::EAGAIN));
            assert_eq!(recv(&a, &mut [0; 4], libc::MSG_WAITALL), Err(libc::EAGAIN));
            assert_eq!(recv(&a, &mut [0; 4], libc::MSG_PEEK), Err(libc::EAGAIN));
            assert_eq!(read(&a, &mut [0; 4]), Err(libc::EAGAIN));
            let much = vec![0; 10 << 20];
            let sent = send(&a, &much, 0).unwrap();
            assert!(sent < much.len());
            assert_eq!(send(&a, &much, 0), Err(libc::EAGAIN));
            assert_eq!(write(&a, &much), Err(libc::EAGAIN));
            assert!(recv(&b, &mut vec![0; 10 << 20], libc::MSG_WAITALL).unwrap() <= sent);
            assert_ne!(kernel_flags(a.as_raw_fd()) & libc::O_NONBLOCK, 0);
            // SAFETY: it takes no memory.
            let seen = unsafe { libc::fcntl(a.as_raw_fd(), libc::F_GETFL) };
            assert_eq!(seen, kernel_flags(a.as_raw_fd()));
        });
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let accept = listener.try_clone().unwrap();
    let error = in_greenlet(move || accept.accept().unwrap_err());
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    common::until(|| listener.accept().is_ok());
    assert_ne!(kernel_flags(listener.as_raw_fd()) & libc::O_NONBLOCK, 0);
    client.set_nonblocking(true).unwrap();
    client.set_nonblocking(false).unwrap();
    assert_blocking(&client);
    // And a connect.
    let connecting = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
    let to = listener.local_addr().unwrap();
    assert_eq!(
        in_greenlet(move || raw_connect(&connecting, to)),
        Err(libc::EINPROGRESS)
    );
}

#[test]
fn nonblocking_calls_never_give_others_a_turn() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    set_nonblocking(&a, true);
    let turn = common::flag();
    let seen = turn.clone();
    greenlet::spawn(move || seen.set(true));
    for _ in 0..1000 {
        assert_eq!(send(&a, b"x", 0), Ok(1));
        assert_eq!(recv(&b, &mut [0; 4], libc::MSG_DONTWAIT), Ok(1));
        assert_eq!(recv(&a, &mut [0; 4], 0), Err(libc::EAGAIN));
    }
    assert!(
        !turn.get(),
        "event loops make such calls in the midst of things"
    );
    // Blocking ones that need not wait let others run now and then.
    for _ in 0..200 {
        assert_eq!(send(&b, b"x", 0), Ok(1));
    }
    assert!(turn.get());
}

// ---- timeouts

#[test]
fn the_sockets_own_timeouts_end_a_wait_with_eagain() {
    let _watchdog = patched();
    let (a, b) = tcp_pair();
    let (read_timeout, write_timeout) = (MS * 40, MS * 60);
    a.set_read_timeout(Some(read_timeout)).unwrap();
    a.set_write_timeout(Some(write_timeout)).unwrap();
    // The kernel counts in ticks of its own.
    assert!(a.read_timeout().unwrap() >= Some(read_timeout));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set_timeout(&listener, libc::SO_RCVTIMEO, MS * 30);
    lets_others_run(move || {
        let timed = |least: Duration, call: &mut dyn FnMut() -> Result<usize, i32>| {
            let start = Instant::now();
            assert_eq!(call(), Err(libc::EAGAIN));
            let elapsed = start.elapsed();
            assert!(elapsed >= least, "{elapsed:?}");
        };
        timed(read_timeout, &mut || recv(&a, &mut [0; 4], 0));
        timed(read_timeout, &mut || recv(&a, &mut [0; 4], libc::MSG_PEEK));
        timed(read_timeout, &mut || {
            recv(&a, &mut [0; 4], libc::MSG_WAITALL)
        });
        timed(read_timeout, &mut || read(&a, &mut [0; 4]));
        timed(MS * 30, &mut || {
            let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: no address is asked for.
            checked(|| unsafe { libc::accept(listener.as_raw_fd(), address, len) })
        });
        // A part that has come or gone before the time was over is the answer.
        let start = Instant::now();
        (&b).write_all(b"part").unwrap();
        assert_eq!(recv(&a, &mut [0; 8], libc::MSG_WAITALL), Ok(4));
        assert!(start.elapsed() >= read_timeout);
        let start = Instant::now();
        let much = vec![0; 20 << 20];
        let sent = send(&a, &much, 0).unwrap();
        assert!(sent > 0 && sent < much.len() && start.elapsed() >= write_timeout);
        // There is more room when the other end has acknowledged what came, by and by.
        while send(&a, &much, 0).is_ok() {}
        timed(write_timeout, &mut || send(&a, &much, 0));
        timed(write_timeout, &mut || write(&a, &much));
        assert_blocking(&a);
        assert_blocking(&listener);
    });
}

#[test]
fn a_waitall_has_one_timeout_for_all_of_it() {
    let _watchdog = patched();
    let (a, b) = tcp_pair();
    a.set_read_timeout(Some(MS * 60)).unwrap();
    let feeding = greenlet::spawn(move || {
        for _ in 0..40 {
            (&b).write_all(b"x").unwrap();
            greenlet::sleep(MS * 10);
        }
    });
    let start = Instant::now();
    let got = greenlet::spawn(move || recv(&a, &mut [0; 100], libc::MSG_WAITALL))
        .join()
        .unwrap();
    let elapsed = start.elapsed();
    assert!(elapsed >= MS * 60 && !feeding.is_finished(), "{elapsed:?}");
    assert!(got.unwrap() < 40);
    feeding.kill();
}

// ---- flags

#[test]
fn waitall_waits_for_all_of_a_stream() {
    let _watchdog = patched();
    for _ in 0..2 {
        let (a, b) = tcp_pair();
        let got = parks(
            move || {
                let mut buffer = [0; 6];
                (recv(&a, &mut buffer, libc::MSG_WAITALL), buffer)
            },
            || {
                for part in [&b"ab"[..], b"cd", b"efgh"] {
                    (&b).write_all(part).unwrap();
                    greenlet::sleep(MS);
                }
            },
        );
        assert_eq!(got, (Ok(6), *b"abcdef"));
    }
    // The end of the stream ends it.
    let (a, b) = tcp_pair();
    let receive = move || recv(&a, &mut [0; 6], libc::MSG_WAITALL);
    let got = parks(receive, || {
        (&b).write_all(b"abc").unwrap();
        greenlet::sleep(MS);
        drop(b);
    });
    assert_eq!(got, Ok(3));
    // A datagram is whole by itself.
    let (a, b) = pair(libc::SOCK_DGRAM);
    let receive = move || recv(&a, &mut [0; 6], libc::MSG_WAITALL);
    assert_eq!(
        parks(receive, || assert!(send(&b, b"abc", 0).is_ok())),
        Ok(3)
    );
}

/// A message of these buffers.
fn message(iov: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: a header of zeros is one.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov.as_mut_ptr();
    header.msg_iovlen = iov.len();
    header
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

fn recvmsg(fd: &impl AsRawFd, message: &mut libc::msghdr, flags: i32) -> Result<usize, i32> {
    // SAFETY: the message is live, and what it refers to.
    checked(|| unsafe { libc::recvmsg(fd.as_raw_fd(), message, flags) } as i64)
}

fn sendmsg(fd: &impl AsRawFd, message: &libc::msghdr, flags: i32) -> Result<usize, i32> {
    // SAFETY: the message is live, and what it refers to.
    checked(|| unsafe { libc::sendmsg(fd.as_raw_fd(), message, flags) } as i64)
}

#[test]
fn waitall_fills_all_buffers_of_a_message() {
    let _watchdog = patched();
    let (a, b) = tcp_pair();
    let receive = move || {
        let (mut x, mut y, mut z) = ([0; 3], [0; 1], [0; 4]);
        let mut iov = [iovec(&mut x), iovec(&mut []), iovec(&mut y), iovec(&mut z)];
        let n = recvmsg(&a, &mut message(&mut iov), libc::MSG_WAITALL);
        (n, [&x[..], &y, &z].concat())
    };
    let got = parks(receive, || {
        for part in [&b"ab"[..], b"cd", b"efg", b"hi"] {
            (&b).write_all(part).unwrap();
            greenlet::sleep(MS);
        }
    });
    assert_eq!(got, (Ok(8), b"abcdefgh".to_vec()));
}

#[test]
fn peek_and_waitall_wait_until_there_is_enough_and_take_nothing() {
    let _watchdog = patched();
    let (a, b) = tcp_pair();
    let (a, again) = (a.try_clone().unwrap(), a);
    let peek = libc::MSG_PEEK | libc::MSG_WAITALL;
    let receive = move || {
        let mut buffer = [0; 6];
        (recv(&a, &mut buffer, peek), buffer)
    };
    let got = parks(receive, || {
        for part in [&b"ab"[..], b"cd", b"efgh"] {
            (&b).write_all(part).unwrap();
            greenlet::sleep(MS);
        }
    });
    assert_eq!(got, (Ok(6), *b"abcdef"));
    let rest = in_greenlet(move || (recv(&again, &mut [0; 20], 0), again));
    assert_eq!(rest.0, Ok(8));
    // When the stream ends there will never be enough.
    let again = rest.1;
    (&b).write_all(b"end").unwrap();
    let got = parks(move || recv(&again, &mut [0; 6], peek), || drop(b));
    assert_eq!(got, Ok(3));
}

#[test]
fn dontwait_and_errqueue_never_park() {
    let _watchdog = patched();
    in_greenlet(|| {
        let (a, b) = tcp_pair();
        assert_eq!(recv(&a, &mut [0; 4], libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        assert_eq!(recv(&a, &mut [0; 4], libc::MSG_ERRQUEUE), Err(libc::EAGAIN));
        assert_eq!(recv(&a, &mut [0; 4], libc::MSG_OOB), Err(libc::EINVAL));
        let much = vec![0; 20 << 20];
        let sent = send(&a, &much, libc::MSG_DONTWAIT).unwrap();
        assert!(sent > 0 && sent < much.len());
        // Until the peer's window is full too.
        let mut refused = 0;
        while refused < 3 {
            match send(&a, &much, libc::MSG_DONTWAIT) {
                Err(error) => {
                    assert_eq!(error, libc::EAGAIN);
                    refused += 1;
                    greenlet::sleep(MS);
                }
                Ok(n) => assert!(n > 0),
            }
        }
        drop(b);
    });
}

#[test]
fn an_error_queue_that_nobody_reads_does_not_keep_the_hub_busy() {
    let _watchdog = patched();
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as u32;
    // SAFETY: the option is an int.
    let set = unsafe {
        let at = (&raw const on).cast();
        libc::setsockopt(a.as_raw_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, at, len)
    };
    assert_eq!(set, 0);
    let (_kept, gone) = refusing_datagrams();
    a.send_to(b"x", gone).unwrap();
    // The error is taken, and its message stays in the queue: POLLERR from now on.
    greenlet::sleep(MS);
    assert_eq!(
        recv(&a, &mut [0; 4], libc::MSG_DONTWAIT),
        Err(libc::ECONNREFUSED)
    );
    let to = a.local_addr().unwrap();
    let receiver = a.try_clone().unwrap();
    let receiving = greenlet::spawn(move || recv(&receiver, &mut [0; 4], 0));
    greenlet::sleep(MS * 5);
    let before = cpu_time();
    greenlet::sleep(MS * 200);
    let used = cpu_time() - before;
    assert!(
        !receiving.is_finished() && used < MS * 100,
        "{used:?} of 200 ms"
    );
    a.send_to(b"yes", to).unwrap();
    assert_eq!(receiving.join().unwrap(), Ok(3));
}

/// What this thread has used of a processor.
fn cpu_time() -> Duration {
    // SAFETY: a time of zeros is one; and the kernel writes it.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        assert_eq!(
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time),
            0
        );
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

#[test]
fn urgent_data_is_found_apart_and_ends_a_waitall() {
    let _watchdog = patched();
    let (a, b) = tcp_pair();
    let receive = move || {
        let mut buffer = [0; 8];
        let first = recv(&a, &mut buffer, libc::MSG_WAITALL);
        let mut urgent = [0; 1];
        let apart = recv(&a, &mut urgent, libc::MSG_OOB);
        (first, apart, urgent[0], recv(&a, &mut buffer, 0))
    };
    let got = parks(receive, || {
        assert_eq!(send(&b, b"abc", 0), Ok(3));
        greenlet::sleep(MS * 2);
        assert_eq!(send(&b, b"!", libc::MSG_OOB), Ok(1));
        assert_eq!(send(&b, b"defghijk", 0), Ok(8));
    });
    assert_eq!(got, (Ok(3), Ok(1), b'!', Ok(8)));
}

#[test]
fn trunc_tells_the_length_of_a_datagram() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_DGRAM);
    let receive = move || recv(&a, &mut [0; 2], libc::MSG_TRUNC);
    assert_eq!(
        parks(receive, || assert!(send(&b, b"abcdef", 0).is_ok())),
        Ok(6)
    );
    let (a, b) = pair(libc::SOCK_DGRAM);
    let receive = move || {
        let mut bytes = [0; 2];
        let mut iov = [iovec(&mut bytes)];
        let mut message = message(&mut iov);
        (recvmsg(&a, &mut message, 0), message.msg_flags)
    };
    let got = parks(receive, || {
        assert!(send(&b, b"abcdef", libc::MSG_MORE).is_ok())
    });
    assert_eq!(got, (Ok(2), libc::MSG_TRUNC));
}

#[test]
fn nothing_at_all_is_sent_and_received_at_once() {
    let _watchdog = patched();
    // G173: empty sends.
    in_greenlet(|| {
        let (a, b) = tcp_pair();
        assert_eq!(send(&a, b"", 0), Ok(0));
        assert_eq!(write(&a, b""), Ok(0));
        assert_eq!(
            recv(&b, &mut [], libc::MSG_WAITALL | libc::MSG_DONTWAIT),
            raw_recv_nothing(&b)
        );
        assert_eq!(read(&b, &mut []), Ok(0));
        let (a, b) = pair(libc::SOCK_DGRAM);
        // Of datagrams, empty ones are some, and a write sends one as well; but not a
        // `writev`.
        assert_eq!(send(&a, b"", 0), Ok(0));
        assert_eq!(write(&a, b""), Ok(0));
        assert_eq!(send(&a, b"next", 0), Ok(4));
        assert_eq!(read(&b, &mut []), Ok(0));
        for (call, name) in [(libc::SYS_readv, "readv"), (libc::SYS_writev, "writev")] {
            let mut iov = [iovec(&mut []), iovec(&mut [])];
            // SAFETY: the array is live.
            let answer = checked(|| unsafe {
                match call {
                    libc::SYS_readv => libc::readv(b.as_raw_fd(), iov.as_ptr(), 2) as i64,
                    _ => libc::writev(a.as_raw_fd(), iov.as_mut_ptr(), 2) as i64,
                }
            });
            assert_eq!(answer, Ok(0), "{name}");
        }
        assert_eq!(recv(&b, &mut [0; 8], 0), Ok(0));
        assert_eq!(recv(&b, &mut [0; 8], 0), Ok(0));
        assert_eq!(recv(&b, &mut [0; 8], 0), Ok(4));
        assert_eq!(recv(&b, &mut [0; 8], libc::MSG_DONTWAIT), Err(libc::EAGAIN));
    });
    // On a stream, a receive of nothing waits for something.
    let (a, b) = tcp_pair();
    let receive = move || (recv(&a, &mut [], 0), recv(&a, &mut [0; 4], 0));
    let got = parks_or_not(receive, || (&b).write_all(b"abc").unwrap());
    assert_eq!(got, (Ok(0), Ok(3)));
}

fn raw_recv_nothing(fd: &impl AsRawFd) -> Result<usize, i32> {
    let none = std::ptr::null_mut::<u8>();
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: no room is given.
    checked(|| unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            fd.as_raw_fd(),
            none,
            0,
            flags,
            none,
            none,
        )
    })
}

/// Runs `call` in a greenlet, and `release` a little later.
fn parks_or_not<R: 'static>(call: impl FnOnce() -> R + 'static, release: impl FnOnce()) -> R {
    let waiting = greenlet::spawn(call);
    greenlet::sleep(MS);
    release();
    waiting.join().unwrap()
}

// ---- full sends that do not get through

#[test]
fn a_reset_in_the_middle_of_a_send_is_a_part_and_then_the_error() {
    let _watchdog = patched();
    for vectored in [false, true] {
        let (a, b) = tcp_pair();
        let sending = move || {
            let mut much = vec![0; 20 << 20];
            let first = match vectored {
                false => send(&a, &much, libc::MSG_NOSIGNAL),
                true => {
                    let (x, y) = much.split_at_mut(1000);
                    let mut iov = [iovec(x), iovec(y)];
                    sendmsg(&a, &message(&mut iov), libc::MSG_NOSIGNAL)
                }
            };
            (
                first,
                send(&a, b"x", libc::MSG_NOSIGNAL),
                send(&a, b"x", libc::MSG_NOSIGNAL),
            )
        };
        let (first, second, third) = parks(sending, || {
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            let len = size_of::<libc::linger>() as u32;
            // SAFETY: the option is a linger.
            let set = unsafe {
                let at = (&raw const linger).cast();
                libc::setsockopt(b.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, at, len)
            };
            assert_eq!(set, 0);
            drop(b);
        });
        let first = first.unwrap();
        assert!(first > 0 && first < 20 << 20, "{first}");
        assert_eq!(second, Err(libc::ECONNRESET), "it is left to the next call");
        assert_eq!(third, Err(libc::EPIPE));
    }
}

#[test]
fn a_peer_that_leaves_in_the_middle_of_a_send_is_a_part_and_then_a_broken_pipe() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let sending = move || {
        let much = vec![0; 20 << 20];
        let first = send(&a, &much, libc::MSG_NOSIGNAL);
        (first, send(&a, b"x", libc::MSG_NOSIGNAL))
    };
    let (first, second) = parks(sending, || {
        let mut some = vec![0; 1000];
        assert_eq!(recv(&b, &mut some, 0), Ok(1000));
        drop(b);
    });
    let first = first.unwrap();
    assert!(first > 0 && first < 20 << 20, "{first}");
    assert_eq!(second, Err(libc::EPIPE));
}

// ---- several messages

#[test]
fn several_messages_are_sent_and_received() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_DGRAM);
    let receive = move |flags: i32, count: usize, timeout: Option<Duration>| {
        let mut bytes = [[0; 8]; 8];
        let mut iov: Vec<_> = bytes.iter_mut().map(|bytes| [iovec(bytes)]).collect();
        let mut messages: Vec<_> = iov
            .iter_mut()
            .map(|iov| libc::mmsghdr {
                msg_hdr: message(iov),
                msg_len: 77,
            })
            .collect();
        let mut timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout
            .as_mut()
            .map_or(std::ptr::null_mut(), |at| at as *mut _);
        let fd = b.as_raw_fd();
        // SAFETY: the messages are live, and what they refer to.
        let n = checked(|| unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), count as u32, flags as _, timeout)
        });
        let lens: Vec<_> = messages.iter().map(|message| message.msg_len).collect();
        (n, lens[..n.unwrap_or(0)].to_vec())
    };
    let receive = std::rc::Rc::new(receive);

    let call = receive.clone();
    let got = parks(
        move || call(0, 3, None),
        || {
            for bytes in [&b"a"[..], b"", b"abc", b"next"] {
                assert!(send(&a, bytes, 0).is_ok());
                greenlet::sleep(MS);
            }
        },
    );
    assert_eq!(got, (Ok(3), vec![1, 0, 3]));
    let call = receive.clone();
    assert_eq!(
        in_greenlet(move || call(libc::MSG_WAITFORONE, 8, None)),
        (Ok(1), vec![4])
    );
    let call = receive.clone();
    let none = in_greenlet(move || call(libc::MSG_DONTWAIT, 8, None));
    assert_eq!(none, (Err(libc::EAGAIN), vec![]));
    let call = receive.clone();
    assert_eq!(in_greenlet(move || call(0, 0, None)), (Ok(0), vec![]));
    // The time is looked at when something has come.
    let call = receive.clone();
    let got = parks(
        move || call(0, 8, Some(MS)),
        || {
            assert!(send(&a, b"late", 0).is_ok());
            assert!(send(&a, b"later", 0).is_ok());
        },
    );
    assert_eq!(got.1[0], 4);
    // More than the queue holds.
    let sending = move || {
        let mut iov: Vec<_> = (0..600).map(|_| [iovec(&mut [])]).collect();
        let mut messages: Vec<_> = iov
            .iter_mut()
            .map(|iov| libc::mmsghdr {
                msg_hdr: message(iov),
                msg_len: 77,
            })
            .collect();
        // SAFETY: the messages are live, and what they refer to.
        let n = checked(|| unsafe {
            libc::sendmmsg(
                a.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                0,
            )
        });
        (n, messages.iter().all(|message| message.msg_len == 0))
    };
    let sent = parks(sending, || {
        (0..600).for_each(|_| assert!(receive(0, 1, None).0.is_ok()))
    });
    assert_eq!(sent, (Ok(600), true));
}

#[test]
fn several_messages_of_a_stream_are_sent_whole() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    const SIZE: usize = 1 << 20;
    let sending = move || {
        let mut bytes = vec![1; SIZE];
        let mut iov = [[iovec(&mut bytes)], [iovec(&mut [])]];
        iov[1] = iov[0];
        let mut messages = iov.each_mut().map(|iov| libc::mmsghdr {
            msg_hdr: message(iov),
            msg_len: 77,
        });
        // SAFETY: the messages are live, and what they refer to.
        let n = checked(|| unsafe { libc::sendmmsg(a.as_raw_fd(), messages.as_mut_ptr(), 2, 0) });
        (n, messages.map(|message| message.msg_len as usize))
    };
    let sent = parks(sending, || {
        let got = recv(&b, &mut vec![0; 2 * SIZE], libc::MSG_WAITALL);
        assert_eq!(got, Ok(2 * SIZE));
    });
    assert_eq!(sent, (Ok(2), [SIZE, SIZE]));
}

/// C knows of no alignment that the kernel would insist on.
#[test]
fn messages_may_lie_at_odd_addresses() {
    let _watchdog = patched();
    let (a, b) = pair(libc::SOCK_STREAM);
    let sending = move || {
        let mut bytes = *b"some";
        let mut iov = [iovec(&mut bytes)];
        let mut place = [0u8; 2 * size_of::<libc::mmsghdr>()];
        let at = place.as_mut_ptr().wrapping_add(1).cast::<libc::mmsghdr>();
        // SAFETY: there is room, and what the message refers to is live.
        unsafe {
            at.write_unaligned(libc::mmsghdr {
                msg_hdr: message(&mut iov),
                msg_len: 77,
            });
            assert_eq!(checked(|| libc::sendmmsg(a.as_raw_fd(), at, 1, 0)), Ok(1));
            assert_eq!(at.read_unaligned().msg_len, 4);
        }
        a
    };
    let a = in_greenlet(sending);
    let receiving = move || {
        let mut bytes = [0; 8];
        let mut iov = [iovec(&mut bytes)];
        let mut place = [0u8; 2 * size_of::<libc::msghdr>()];
        let at = place.as_mut_ptr().wrapping_add(1).cast::<libc::msghdr>();
        // SAFETY: as above.
        let n = unsafe {
            at.write_unaligned(message(&mut iov));
            checked(|| libc::recvmsg(b.as_raw_fd(), at, libc::MSG_WAITALL) as i64)
        };
        (n, bytes)
    };
    let received = parks(receiving, || assert_eq!(send(&a, b"more", 0), Ok(4)));
    assert_eq!(received, (Ok(8), *b"somemore"));
}

// ---- bad input

#[test]
fn bad_descriptors_and_pointers_are_answered_as_by_the_kernel() {
    let _watchdog = patched();
    in_greenlet(|| {
        let (mut pipe, pipe_end) = pipe();
        let (a, b) = pair(libc::SOCK_STREAM);
        let unconnected = socket(libc::SOCK_STREAM);
        assert_eq!(send(&b, b"data", 0), Ok(4));
        let mut buffer = [0; 4];
        for (fd, error) in [
            (-1, libc::EBADF),
            (1 << 20, libc::EBADF),
            (pipe.as_raw_fd(), libc::ENOTSOCK),
        ] {
            assert_eq!(recv(&fd, &mut buffer, 0), Err(error));
            assert_eq!(recv(&fd, &mut buffer, libc::MSG_WAITALL), Err(error));
            assert_eq!(send(&fd, &buffer, 0), Err(error));
            let mut iov = [iovec(&mut buffer)];
            let mut message = message(&mut iov);
            assert_eq!(recvmsg(&fd, &mut message, 0), Err(error));
            assert_eq!(recvmsg(&fd, &mut message, libc::MSG_WAITALL), Err(error));
            assert_eq!(sendmsg(&fd, &message, 0), Err(error));
            let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: no address is asked for.
            assert_eq!(
                // SAFETY: as above.
                checked(|| unsafe { libc::accept(fd, address, len) }),
                Err(error)
            );
            assert_eq!(raw_connect(&fd, "127.0.0.1:1".parse().unwrap()), Err(error));
        }
        assert_eq!(read(&-1, &mut buffer), Err(libc::EBADF));
        assert_eq!(write(&-1, &buffer), Err(libc::EBADF));
        assert_eq!(recv(&unconnected, &mut buffer, 0), Err(libc::ENOTCONN));
        assert_eq!(read(&unconnected, &mut buffer), Err(libc::ENOTCONN));
        let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        let fd = unconnected.as_raw_fd();
        // SAFETY: no address is asked for.
        unsafe {
            assert_eq!(
                checked(|| libc::accept(fd, address, len)),
                Err(libc::EINVAL)
            );
            assert_eq!(
                checked(|| libc::accept4(fd, address, len, 77)),
                Err(libc::EINVAL)
            );
        }

        let fd = a.as_raw_fd();
        for bad in [
            nowhere::<libc::c_void>(),
            std::ptr::null_mut(),
            (usize::MAX - 4096) as *mut _,
        ] {
            // SAFETY: the kernel finds out that there is nothing.
            unsafe {
                let fault = Err(libc::EFAULT);
                for flags in [0, libc::MSG_WAITALL] {
                    assert_eq!(checked(|| libc::recv(fd, bad, 4, flags) as i64), fault);
                    assert_eq!(
                        checked(|| libc::recvmsg(fd, bad.cast(), flags) as i64),
                        fault
                    );
                    let mut header: libc::msghdr = std::mem::zeroed();
                    header.msg_iov = bad.cast();
                    header.msg_iovlen = 1;
                    assert_eq!(
                        checked(|| libc::recvmsg(fd, &mut header, flags) as i64),
                        fault
                    );
                }
                assert_eq!(
                    checked(|| libc::recv(fd, bad, 4, libc::MSG_PEEK) as i64),
                    fault
                );
                assert_eq!(checked(|| libc::read(fd, bad, 4) as i64), fault);
                assert_eq!(checked(|| libc::readv(fd, bad.cast(), 1) as i64), fault);
                assert_eq!(checked(|| libc::send(fd, bad, 4, 0) as i64), fault);
                assert_eq!(checked(|| libc::sendmsg(fd, bad.cast(), 0) as i64), fault);
                assert_eq!(checked(|| libc::write(fd, bad, 4) as i64), fault);
                assert_eq!(checked(|| libc::writev(fd, bad.cast(), 1) as i64), fault);
                assert_eq!(
                    checked(|| libc::write(pipe_end.as_raw_fd(), bad, 4) as i64),
                    fault
                );
                let timeout = std::ptr::null_mut();
                assert_eq!(
                    checked(|| libc::recvmmsg(fd, bad.cast(), 2, 0, timeout)),
                    fault
                );
                assert_eq!(checked(|| libc::sendmmsg(fd, bad.cast(), 2, 0)), fault);
                let mut one: libc::mmsghdr = std::mem::zeroed();
                if !bad.is_null() {
                    let timeout = bad.cast();
                    assert_eq!(
                        checked(|| libc::recvmmsg(fd, &mut one, 1, 0, timeout)),
                        fault
                    );
                }
                assert_eq!(checked(|| libc::connect(fd, bad.cast(), 16)), fault);
            }
        }
        // What the failed ones have not taken is still there.
        assert_eq!(recv(&a, &mut buffer, libc::MSG_PEEK), Ok(4));
        // SAFETY: the kernel finds out.
        unsafe {
            let mut iov = [iovec(&mut buffer)];
            for count in [-1, 1025] {
                let answers = [
                    checked(|| libc::readv(fd, iov.as_ptr(), count) as i64),
                    checked(|| libc::writev(fd, iov.as_mut_ptr(), count) as i64),
                ];
                assert_eq!(answers, [Err(libc::EINVAL); 2]);
            }
        }
        // SAFETY: the descriptors are open, and no pointer is good.
        unsafe {
            let bad = nowhere::<libc::c_void>();
            drop(std::mem::replace(&mut pipe, pipe_end.try_clone().unwrap()));
            let (reader, writer) = crate::pipe();
            assert_eq!(write(&writer, b"abc"), Ok(3));
            assert_eq!(
                checked(|| libc::read(reader.as_raw_fd(), bad, 3) as i64),
                Err(libc::EFAULT)
            );
            assert_eq!(read(&reader, &mut [0; 8]), Ok(3));
        }
    });
}

#[test]
fn accept_without_a_descriptor_left_says_so() {
    common::alone_unwatched("accept_without_a_descriptor_left_says_so", || {
        let _watchdog = patched();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let second = TcpStream::connect(address).unwrap();
        in_greenlet(move || {
            let mut all = Vec::new();
            let accept = || {
                let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
                // SAFETY: no address is asked for.
                checked(|| unsafe { libc::accept(listener.as_raw_fd(), address, len) })
            };
            // SAFETY: the limit is a live variable.
            unsafe {
                let mut limit = std::mem::zeroed();
                assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
                limit.rlim_cur = 200;
                assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
            }
            while let Ok(clone) = client.try_clone() {
                all.push(clone);
            }
            assert_eq!(accept(), Err(libc::EMFILE));
            // Nothing is lost by that.
            all.pop();
            assert!(accept().is_ok());
            assert_eq!(accept(), Err(libc::EMFILE));
            drop((all, second));
            assert_blocking(&listener);
        });
    });
}

#[test]
fn a_hub_without_a_descriptor_left_waits_nevertheless() {
    common::alone("a_hub_without_a_descriptor_left_waits_nevertheless", || {
        let _watchdog = patched();
        let (a, b) = pair(libc::SOCK_STREAM);
        // SAFETY: the limit is a live variable.
        unsafe {
            let mut limit = std::mem::zeroed();
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
            limit.rlim_cur = 100;
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        }
        let mut all = Vec::new();
        while let Ok(clone) = a.try_clone() {
            all.push(clone);
        }
        let got = parks(
            move || recv(&a, &mut [0; 4], 0),
            || assert!(send(&b, b"abc", 0).is_ok()),
        );
        assert_eq!(got, Ok(3));
    });
}

// ---- how many system calls

/// Whether a call in a greenlet, beside another one, makes no system call but that of
/// this number, which it may make again. In a child, which the kernel ends otherwise.
fn makes_no_other(number: i64, call: impl FnOnce() -> Result<usize, i32> + 'static) -> bool {
    let ended = common::fork(|| {
        in_greenlet(move || {
            forbid(&[number, libc::SYS_exit_group], false);
            let is_done = call().is_ok_and(|n| n > 0);
            // SAFETY: it has no preconditions.
            unsafe { libc::_exit(if is_done { 7 } else { 8 }) }
        })
    });
    assert!(ended == 7 || ended == -libc::SIGSYS, "{ended}");
    ended == 7
}

#[test]
fn a_call_on_a_socket_that_need_not_wait_makes_no_further_system_call() {
    let name = "a_call_on_a_socket_that_need_not_wait_makes_no_further_system_call";
    common::alone_unwatched(name, || {
        let _watchdog = patched();
        let (a, b) = pair(libc::SOCK_STREAM);
        assert_eq!(send(&b, b"there is something", 0), Ok(18));
        let fd = a.as_raw_fd();
        let alone = |number, call: fn(RawFd) -> Result<usize, i32>| {
            assert!(makes_no_other(number, move || call(fd)), "{number}");
        };
        fn borrowed(fd: RawFd) -> BorrowedFd<'static> {
            // SAFETY: the socket stays open until the end of the test.
            unsafe { BorrowedFd::borrow_raw(fd) }
        }
        alone(libc::SYS_recvfrom, |fd| recv(&borrowed(fd), &mut [0], 0));
        alone(libc::SYS_recvfrom, |fd| read(&borrowed(fd), &mut [0]));
        alone(libc::SYS_sendto, |fd| send(&borrowed(fd), b"a", 0));
        alone(libc::SYS_sendto, |fd| write(&borrowed(fd), b"a"));
        alone(libc::SYS_recvmsg, |fd| {
            let mut buffer = [0];
            let mut iov = [iovec(&mut buffer)];
            recvmsg(&borrowed(fd), &mut message(&mut iov), 0)
        });
        alone(libc::SYS_sendmsg, |fd| {
            let mut buffer = [0];
            let mut iov = [iovec(&mut buffer)];
            sendmsg(&borrowed(fd), &message(&mut iov), 0)
        });
        // And one that makes several is found out.
        let (reader, writer) = pipe();
        assert_eq!(write(&writer, b"abc"), Ok(3));
        assert!(!makes_no_other(libc::SYS_recvfrom, move || read(
            &reader,
            &mut [0]
        )));
    });
}
