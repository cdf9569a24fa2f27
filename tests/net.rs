//! Streams: echo, options, timeouts, connecting, and what several greenlets do
//! with one socket.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use greenlet::net::unix::SocketAddr as UnixAddr;
use greenlet::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream};
use greenlet::{joinall, sleep, spawn, timeout, yield_now};

mod common;
use common::{refusing, watchdog};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(30);

/// Two ends of a TCP connection.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, from) = listener.accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    (client, server)
}

fn abstract_address(what: &str) -> UnixAddr {
    UnixAddr::from_abstract_name(format!("greenlet {what} {}", std::process::id())).unwrap()
}

/// Lets everybody who is runnable come to a stop.
fn settle() {
    for _ in 0..10 {
        yield_now();
    }
    sleep(Duration::from_millis(1));
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Sends back what comes in, until there is no more.
fn echo(mut stream: impl Read + Write) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return,
            n => stream.write_all(&buffer[..n]).unwrap(),
        }
    }
}

fn echoes(mut stream: impl Read + Write, len: usize) {
    let sent = pattern(len);
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; len];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(sent, back);
}

#[test]
fn tcp_sends_back_what_it_was_sent() {
    let _watchdog = watchdog();
    let (client, server) = tcp_pair();
    let server = spawn(move || echo(server));
    for len in [1, 2, 4095, 4096, 4097, 30_000] {
        echoes(&client, len);
    }
    drop(client);
    server.join().unwrap();
}

#[test]
fn unix_streams_send_back_what_they_were_sent() {
    let _watchdog = watchdog();
    let address = abstract_address("echo");
    let listener = UnixListener::bind_addr(&address).unwrap();
    let server = spawn(move || {
        for stream in listener.incoming().take(2) {
            echo(stream.unwrap());
        }
    });
    for _ in 0..2 {
        let client = UnixStream::connect_addr(&address).unwrap();
        assert_eq!(
            client.peer_addr().unwrap().as_abstract_name(),
            address.as_abstract_name()
        );
        echoes(&client, 10_000);
    }
    server.join().unwrap();
}

#[test]
fn a_unix_listener_at_a_path_tells_who_connects() {
    let _watchdog = watchdog();
    let dir = std::env::temp_dir().join(format!("greenlet-net-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (server_path, client_path) = (dir.join("server"), dir.join("client"));
    let listener = UnixListener::bind(&server_path).unwrap();
    let _plain = UnixStream::connect(&server_path).unwrap();
    assert!(listener.accept().unwrap().1.is_unnamed());
    let client = bound_unix_socket(&client_path);
    // SAFETY: the address is a valid sockaddr_un.
    let connected = unsafe {
        let (address, len) = unix_sockaddr(&server_path);
        libc::connect(client.as_raw_fd(), (&raw const address).cast(), len)
    };
    assert_eq!(connected, 0);
    let (_stream, from) = listener.accept().unwrap();
    assert_eq!(from.as_pathname(), Some(&*client_path));
    let refused = UnixStream::connect(dir.join("nobody")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    let long = UnixStream::connect("x".repeat(108)).unwrap_err();
    assert_eq!(long.kind(), ErrorKind::InvalidInput);
    let again = UnixListener::bind(&server_path).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AddrInUse);
    drop(listener);
    let dead = UnixStream::connect(&server_path).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::ConnectionRefused);
    std::fs::remove_dir_all(dir).unwrap();
}

fn unix_sockaddr(path: &Path) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: all zeroes is a sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *to = *from as libc::c_char;
    }
    (address, size_of::<libc::sockaddr_un>() as libc::socklen_t)
}

/// A stream socket with a name of its own, which std has no words for.
fn bound_unix_socket(path: &Path) -> OwnedFd {
    let (address, len) = unix_sockaddr(path);
    // SAFETY: the descriptor is new, and the address a valid sockaddr_un.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        let fd = OwnedFd::from_raw_fd(fd);
        let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len);
        assert_eq!(bound, 0);
        fd
    }
}

#[test]
fn a_full_backlog_delays_a_unix_connect_and_does_not_fail_it() {
    let _watchdog = watchdog();
    let address = abstract_address("backlog");
    // std's backlog is the system's limit; this one is made by hand.
    let listener = UnixListener::bind_addr(&address).unwrap();
    // SAFETY: listen on an open socket; a second call changes its backlog.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let connected = Rc::new(Cell::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, connected) = (address.clone(), Rc::clone(&connected));
            spawn(move || {
                let stream = UnixStream::connect_addr(&address).unwrap();
                connected.set(connected.get() + 1);
                stream
            })
        })
        .collect();
    settle();
    assert!((1..4).contains(&connected.get()), "{}", connected.get());
    let accepted: Vec<_> = (0..4).map(|_| listener.accept().unwrap()).collect();
    assert_eq!(joinall(clients).len(), accepted.len());
}

#[test]
fn vectored_calls_use_all_their_buffers() {
    let _watchdog = watchdog();
    let (tcp, tcp_peer) = tcp_pair();
    let (unix, unix_peer) = UnixStream::pair().unwrap();
    fn check(mut a: impl Write, mut b: impl Read) {
        let parts = [
            IoSlice::new(b"one"),
            IoSlice::new(b""),
            IoSlice::new(b"two"),
        ];
        assert_eq!(a.write_vectored(&parts).unwrap(), 6);
        let (mut first, mut second) = ([0; 4], [0; 4]);
        let mut parts = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(b.read_vectored(&mut parts).unwrap(), 6);
        assert_eq!((&first, &second[..2]), (b"onet", &b"wo"[..]));
        assert_eq!(a.write_vectored(&[]).unwrap(), 0);
        assert_eq!(b.read_vectored(&mut []).unwrap(), 0);
        // More slices than one call takes.
        let many = vec![IoSlice::new(b"x"); 3000];
        let written = a.write_vectored(&many).unwrap();
        let mut all = vec![0; written];
        b.read_exact(&mut all).unwrap();
        assert!(all.iter().all(|byte| *byte == b'x'));
    }
    check(&tcp, &tcp_peer);
    check(&unix, &unix_peer);
}

#[test]
fn a_vectored_read_of_more_slices_than_one_call_takes_leaves_nothing_behind() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    // Registered, so that a short read would be believed to mean "empty".
    let reader = spawn(move || {
        b.read_exact(&mut [0]).unwrap();
        let mut bytes = vec![0; 3000];
        let mut read = 0;
        while read < 3000 {
            let mut slices: Vec<_> = bytes.chunks_mut(1).map(IoSliceMut::new).collect();
            read += b.read_vectored(&mut slices).unwrap();
        }
        read
    });
    settle();
    a.write_all(&[7; 3001]).unwrap();
    assert_eq!(reader.join().unwrap(), 3000);
}

#[test]
fn peek_leaves_what_it_shows() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    let writer = spawn(move || {
        a.write_all(b"abc").unwrap();
        a
    });
    let mut buffer = [0; 8];
    assert_eq!(b.peek(&mut buffer).unwrap(), 3);
    assert_eq!(b.peek(&mut buffer[..1]).unwrap(), 1);
    assert_eq!(b.read(&mut buffer).unwrap(), 3);
    drop(writer.join().unwrap());
    assert_eq!(b.peek(&mut buffer).unwrap(), 0);
}

#[test]
fn a_short_read_is_followed_by_what_comes_next() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    let reader = spawn(move || {
        let mut lens = Vec::new();
        loop {
            match b.read(&mut [0; 64]).unwrap() {
                0 => return lens,
                n => lens.push(n),
            }
        }
    });
    for len in 1..20 {
        a.write_all(&vec![1; len]).unwrap();
        settle();
    }
    drop(a);
    assert_eq!(reader.join().unwrap(), (1..20).collect::<Vec<_>>());
}

#[test]
fn the_end_of_a_stream_is_seen_though_it_came_with_the_last_bytes() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    let reader = spawn(move || {
        // Makes sure of the registration, in which short reads are believed.
        b.read_exact(&mut [0]).unwrap();
        sleep(SHORT);
        (b.read(&mut [0; 64]).unwrap(), b.read(&mut [0; 64]).unwrap())
    });
    settle();
    a.write_all(b"1").unwrap();
    settle();
    a.write_all(b"last").unwrap();
    drop(a);
    // The event is taken before the read comes.
    assert_eq!(reader.join().unwrap(), (4, 0));
}

#[test]
fn bytes_behind_an_urgent_mark_are_read_without_waiting_for_more() {
    let _watchdog = watchdog();
    for wait_first in [false, true] {
        let (mut a, mut b) = tcp_pair();
        let reader = spawn(move || {
            b.read_exact(&mut [0]).unwrap();
            if wait_first {
                sleep(SHORT);
            }
            let mut all = Vec::new();
            while all.len() < 5 {
                let mut buffer = [0; 64];
                let n = b.read(&mut buffer).unwrap();
                all.extend_from_slice(&buffer[..n]);
            }
            all
        });
        settle();
        a.write_all(b"1").unwrap();
        if wait_first {
            settle();
        }
        a.write_all(b"ab").unwrap();
        // SAFETY: one byte is read from a live buffer.
        let sent = unsafe { libc::send(a.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        a.write_all(b"cde").unwrap();
        assert_eq!(reader.join().unwrap(), b"abcde");
        drop(a);
    }
}

#[test]
fn a_read_timeout_ends_the_read_as_in_std() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    b.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(b.read_timeout().unwrap(), Some(SHORT));
    let start = Instant::now();
    let error = b.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    assert!(start.elapsed() >= SHORT);
    a.write_all(b"x").unwrap();
    assert_eq!(b.read(&mut [0]).unwrap(), 1);
    let zero = b.set_read_timeout(Some(Duration::ZERO)).unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::InvalidInput);
    let zero = b.set_write_timeout(Some(Duration::ZERO)).unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::InvalidInput);
    assert_eq!(b.read_timeout().unwrap(), Some(SHORT));
    b.set_read_timeout(Some(Duration::MAX)).unwrap();
    b.set_read_timeout(None).unwrap();
    assert_eq!(b.read_timeout().unwrap(), None);
}

#[test]
fn a_write_timeout_ends_the_write_when_nobody_reads() {
    let _watchdog = watchdog();
    let (mut a, _b) = tcp_pair();
    a.set_write_timeout(Some(SHORT)).unwrap();
    let error = loop {
        if let Err(error) = a.write(&[0; 65536]) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(matches!(a.write(&[]), Ok(0)));
}

#[test]
fn other_greenlets_run_while_one_reads_with_a_timeout() {
    let _watchdog = watchdog();
    let (_a, mut b) = UnixStream::pair().unwrap();
    b.set_read_timeout(Some(SHORT)).unwrap();
    let turns = Rc::new(Cell::new(0));
    let counter = Rc::clone(&turns);
    let other = spawn(move || {
        loop {
            counter.set(counter.get() + 1);
            sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(b.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // One at least, also if the machine had no time for more.
    assert!(turns.get() > 0);
    other.kill();
}

#[test]
fn connecting_to_nobody_is_refused() {
    let _watchdog = watchdog();
    let (_kept, address) = refusing();
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = TcpStream::connect_timeout(&address, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn connect_tries_the_addresses_in_their_order() {
    let _watchdog = watchdog();
    let (_kept, nobody) = refusing();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(&[nobody, address][..]).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), address);
    let error = TcpStream::connect(&[][..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_connect_that_nobody_answers_times_out() {
    let _watchdog = watchdog();
    // A backlog that is full drops further attempts, silently.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: listen on an open socket; a second call changes its backlog.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        match TcpStream::connect_timeout(&address, SHORT) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let zero = TcpStream::connect_timeout(&address, Duration::ZERO).unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::InvalidInput);
    // A `timeout` around it, and a kill, leave nothing behind either.
    assert!(timeout(SHORT, || TcpStream::connect(address)).is_err());
    let victim = spawn(move || TcpStream::connect(address).map(|_| ()));
    settle();
    victim.kill();
    assert!(victim.join().unwrap_err().is_killed());
}

#[test]
fn an_address_in_use_is_an_error() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = TcpListener::bind(listener.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn two_acceptors_of_one_listener_get_a_connection_each() {
    let _watchdog = watchdog();
    let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let acceptors: Vec<_> = (0..2)
        .map(|_| {
            let listener = Rc::clone(&listener);
            spawn(move || listener.accept().unwrap().1)
        })
        .collect();
    settle();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..2)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut accepted: Vec<_> = joinall(acceptors).into_iter().map(Result::unwrap).collect();
    let mut expected: Vec<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    accepted.sort();
    expected.sort();
    assert_eq!(accepted, expected);
}

#[test]
fn a_reader_and_a_writer_wait_on_one_socket() {
    let _watchdog = watchdog();
    let (a, b) = tcp_pair();
    let (a, b) = (Rc::new(a), Rc::new(b));
    const LEN: usize = 8 << 20;
    // Both directions are full long before the end, so all four wait.
    let write = |stream: &Rc<TcpStream>| {
        let stream = Rc::clone(stream);
        spawn(move || (&*stream).write_all(&pattern(LEN)).unwrap())
    };
    let read = |stream: &Rc<TcpStream>| {
        let stream = Rc::clone(stream);
        spawn(move || {
            let mut all = vec![0; LEN];
            (&*stream).read_exact(&mut all).unwrap();
            assert!(all == pattern(LEN));
        })
    };
    for result in joinall([write(&a), write(&b), read(&a), read(&b)]) {
        result.unwrap();
    }
}

#[test]
fn a_large_transfer_goes_through_small_buffers() {
    let _watchdog = watchdog();
    const LEN: usize = 16 << 20;
    fn transfer(mut a: impl Write + 'static, mut b: impl Read) {
        let writer = spawn(move || {
            for part in pattern(LEN).chunks(1_000_003) {
                a.write_all(part).unwrap();
            }
        });
        let mut all = Vec::new();
        b.read_to_end(&mut all).unwrap();
        assert!(all == pattern(LEN));
        writer.join().unwrap();
    }
    let (a, b) = tcp_pair();
    transfer(a, b);
    let (a, b) = UnixStream::pair().unwrap();
    transfer(a, b);
}

#[test]
fn a_clone_is_the_same_stream_with_the_same_settings() {
    let _watchdog = watchdog();
    let (mut a, b) = tcp_pair();
    let clone = b.try_clone().unwrap();
    assert_ne!(clone.as_raw_fd(), b.as_raw_fd());
    b.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(clone.read_timeout().unwrap(), Some(SHORT));
    assert_eq!(
        (&clone).read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    clone.set_read_timeout(None).unwrap();
    clone.set_nonblocking(true).unwrap();
    assert_eq!(
        (&b).read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    b.set_nonblocking(false).unwrap();
    // Both wait at once; each gets its own byte.
    let bytes = Rc::new(RefCell::new(Vec::new()));
    let readers: Vec<_> = [b, clone]
        .into_iter()
        .map(|mut stream| {
            let bytes = Rc::clone(&bytes);
            spawn(move || {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                bytes.borrow_mut().push(byte[0]);
                stream
            })
        })
        .collect();
    settle();
    a.write_all(b"12").unwrap();
    let streams: Vec<_> = joinall(readers).into_iter().map(Result::unwrap).collect();
    bytes.borrow_mut().sort();
    assert_eq!(*bytes.borrow(), b"12");
    // One is closed; the other goes on.
    streams[0].close().unwrap();
    a.write_all(b"3").unwrap();
    assert_eq!((&streams[1]).read(&mut [0]).unwrap(), 1);
}

#[test]
fn nonblocking_is_the_users_choice() {
    let _watchdog = watchdog();
    let (a, b) = tcp_pair();
    b.set_nonblocking(true).unwrap();
    assert_eq!(
        (&b).read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    (&a).write_all(b"x").unwrap();
    // No wait of ours ever asks the reactor.
    while (&b).read(&mut [0]).is_err() {}
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    b.set_nonblocking(false).unwrap();
    let reader = spawn(move || (&b).read(&mut [0]).unwrap());
    settle();
    assert!(!reader.is_finished());
    (&a).write_all(b"y").unwrap();
    assert_eq!(reader.join().unwrap(), 1);
}

#[test]
fn a_nonblocking_read_after_a_wait_does_not_trust_the_last_event() {
    let _watchdog = watchdog();
    let (a, b) = tcp_pair();
    let (a, b) = (Rc::new(a), Rc::new(b));
    let reader = spawn({
        let b = Rc::clone(&b);
        move || (&*b).read(&mut [0; 8]).unwrap()
    });
    settle();
    (&*a).write_all(b"x").unwrap();
    assert_eq!(reader.join().unwrap(), 1);
    // Registered and used up; nothing will look for events from here on.
    b.set_nonblocking(true).unwrap();
    (&*a).write_all(b"y").unwrap();
    let ran = Rc::new(Cell::new(false));
    spawn({
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    let mut tries = 0;
    while (&*b).read(&mut [0; 8]).is_err() {
        tries += 1;
        assert!(tries > 50 || !ran.get(), "the read has parked");
    }
    assert!(tries > 50 || !ran.get(), "the read has parked");
}

#[test]
fn std_types_come_and_go() {
    let _watchdog = watchdog();
    let std_listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = std_listener.local_addr().unwrap();
    let listener = TcpListener::from(std_listener);
    let std_client = StdStream::connect(address).unwrap();
    std_client.set_read_timeout(Some(SHORT)).unwrap();
    let (server, _) = listener.accept().unwrap();
    let client = TcpStream::from(std_client);
    assert_eq!(client.read_timeout().unwrap(), Some(SHORT));
    assert_eq!(
        (&client).read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    client.set_read_timeout(None).unwrap();
    client.set_write_timeout(Some(LONG)).unwrap();
    let server = spawn(move || echo(server));
    echoes(&client, 100);
    let mut client = StdStream::from(client);
    assert_eq!(client.write_timeout().unwrap(), Some(LONG));
    assert!(is_blocking(&client));
    // The echo runs on this thread, so std must not wait for it here.
    client.write_all(b"x").unwrap();
    settle();
    client.read_exact(&mut [0]).unwrap();
    client.set_nonblocking(true).unwrap();
    let client = TcpStream::from(client);
    assert_eq!(
        (&client).read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let client = StdStream::from(client);
    assert!(!is_blocking(&client));
    let client = TcpStream::from(OwnedFd::from(client));
    let fd = client.into_raw_fd();
    // SAFETY: the descriptor was just given away by its owner.
    let client = unsafe { TcpStream::from_raw_fd(fd) };
    assert_eq!(client.as_fd().as_raw_fd(), fd);
    drop(OwnedFd::from(client));
    server.join().unwrap();
}

fn is_blocking(fd: &impl AsRawFd) -> bool {
    // SAFETY: F_GETFL changes nothing.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags & libc::O_NONBLOCK == 0
}

#[test]
fn debug_is_that_of_std() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("{listener:?}");
    let listener = StdListener::from(listener);
    assert_eq!(text, format!("{listener:?}"));
    assert!(text.starts_with("TcpListener { addr: 127.0.0.1:"), "{text}");
}

#[test]
fn a_descriptor_that_is_no_socket_answers_with_an_error() {
    let _watchdog = watchdog();
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut stream = TcpStream::from(OwnedFd::from(file));
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().raw_os_error(),
        Some(libc::ENOTSOCK)
    );
    assert_eq!(
        stream.write(&[0]).unwrap_err().raw_os_error(),
        Some(libc::ENOTSOCK)
    );
    assert!(stream.set_read_timeout(Some(SHORT)).is_err());
    let file = std::fs::File::open("/").unwrap();
    let listener = TcpListener::from(OwnedFd::from(file));
    assert_eq!(
        listener.accept().unwrap_err().raw_os_error(),
        Some(libc::ENOTSOCK)
    );
}

#[test]
fn a_killed_reader_leaves_the_socket_usable() {
    let _watchdog = watchdog();
    let (a, b) = tcp_pair();
    let b = Rc::new(b);
    let victim = spawn({
        let b = Rc::clone(&b);
        move || (&*b).read(&mut [0; 8]).map(|_| ())
    });
    settle();
    victim.kill();
    assert!(victim.join().unwrap_err().is_killed());
    (&a).write_all(b"abc").unwrap();
    assert_eq!((&*b).read(&mut [0; 8]).unwrap(), 3);
}

#[test]
fn a_killed_acceptor_leaves_the_listener_usable() {
    let _watchdog = watchdog();
    let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let victim = spawn({
        let listener = Rc::clone(&listener);
        move || listener.accept().map(|_| ())
    });
    settle();
    victim.kill();
    assert!(victim.join().unwrap_err().is_killed());
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
}

#[test]
fn a_timeout_around_a_read_ends_it_and_loses_nothing() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    for round in 0..3 {
        assert!(timeout(SHORT, || b.read(&mut [0])).is_err());
        a.write_all(&[round]).unwrap();
        let mut byte = [9];
        b.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
    }
}

#[test]
fn a_deadlock_is_not_declared_while_somebody_waits_on_a_socket() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    let reader = spawn(move || b.read(&mut [0]).unwrap());
    let joiner = spawn(move || reader.join().unwrap());
    let far_away = std::thread::spawn(move || {
        std::thread::sleep(SHORT);
        a.write_all(b"x").unwrap();
    });
    assert_eq!(joiner.join().unwrap(), 1);
    far_away.join().unwrap();
}

#[test]
fn a_greenlet_whose_socket_is_always_ready_lets_others_run() {
    let _watchdog = watchdog();
    let (a, b) = tcp_pair();
    let (c, mut d) = UnixStream::pair().unwrap();
    let other = spawn(move || d.read(&mut [0]).unwrap());
    settle();
    let busy = spawn(move || {
        let round = || {
            (&a).write_all(b"x").unwrap();
            (&b).read_exact(&mut [0]).unwrap();
        };
        (0..500).for_each(|_| round());
        (&c).write_all(b"x").unwrap();
        let mut rounds = 0;
        while !other.is_finished() {
            round();
            rounds += 1;
        }
        rounds
    });
    // The socket of the other is looked at between two budgets of operations,
    // not only once in so many turns of its own.
    let rounds = busy.join().unwrap();
    assert!(rounds < 2000, "{rounds}");
}

#[test]
fn one_listener_serves_two_threads() {
    let _watchdog = watchdog();
    const CLIENTS: usize = 200;
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let servers: Vec<_> = (0..2)
        .map(|_| {
            let listener = Arc::clone(&listener);
            std::thread::spawn(move || {
                let mut served = Vec::new();
                loop {
                    match listener.accept() {
                        Ok((stream, _)) => served.push(spawn(move || echo(stream))),
                        Err(error) => {
                            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
                            break;
                        }
                    }
                }
                let count = served.len();
                joinall(served);
                count
            })
        })
        .collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| spawn(move || echoes(&TcpStream::connect(address).unwrap(), 1000)))
        .collect();
    for client in joinall(clients) {
        client.unwrap();
    }
    listener.close().unwrap();
    let served: usize = servers.into_iter().map(|s| s.join().unwrap()).sum();
    assert_eq!(served, CLIENTS);
}

#[test]
fn one_stream_is_read_on_one_thread_and_written_on_another() {
    let _watchdog = watchdog();
    let (a, b) = tcp_pair();
    let a = Arc::new(a);
    let echo = std::thread::spawn(move || echo(b));
    let reader = std::thread::spawn({
        let a = Arc::clone(&a);
        move || {
            let mut all = vec![0; 4 << 20];
            (&*a).read_exact(&mut all).unwrap();
            all
        }
    });
    (&*a).write_all(&pattern(4 << 20)).unwrap();
    assert!(reader.join().unwrap() == pattern(4 << 20));
    a.shutdown(Shutdown::Both).unwrap();
    echo.join().unwrap();
}

#[test]
fn a_stream_moves_to_another_thread_after_it_has_waited() {
    let _watchdog = watchdog();
    let (mut a, mut b) = tcp_pair();
    b.set_read_timeout(Some(SHORT)).unwrap();
    assert!(b.read(&mut [0]).is_err());
    b.set_read_timeout(None).unwrap();
    let elsewhere = std::thread::spawn(move || {
        b.read_exact(&mut [0]).unwrap();
        b
    });
    a.write_all(b"xy").unwrap();
    let mut b = elsewhere.join().unwrap();
    // That thread's hub is gone.
    b.read_exact(&mut [0]).unwrap();
    let reader = spawn(move || b.read(&mut [0]).unwrap());
    settle();
    a.write_all(b"z").unwrap();
    assert_eq!(reader.join().unwrap(), 1);
}

#[test]
fn sockets_of_the_parent_work_in_a_fork() {
    let _watchdog = watchdog();
    // In a process of its own: a fork beside other tests' threads is not to be
    // recommended.
    common::alone("sockets_of_the_parent_work_in_a_fork", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mut a, mut b) = tcp_pair();
        // Both are known to the parent's reactor.
        b.set_read_timeout(Some(SHORT)).unwrap();
        assert!(b.read(&mut [0]).is_err());
        b.set_read_timeout(None).unwrap();
        assert!(timeout(SHORT, || listener.accept()).is_err());
        let code = common::fork(|| {
            let client = spawn(move || TcpStream::connect(address).unwrap());
            let (stream, _) = listener.accept().unwrap();
            drop((client.join().unwrap(), stream));
            let reader = spawn(move || b.read(&mut [0; 8]).unwrap());
            settle();
            a.write_all(b"abc").unwrap();
            i32::from(reader.join().unwrap() != 3)
        });
        assert_eq!(code, 0);
        // What the child has closed is still there, and still waited for.
        let acceptor = spawn(move || listener.accept().unwrap().1);
        settle();
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(acceptor.join().unwrap(), client.local_addr().unwrap());
    });
}

#[test]
fn socket_types_are_as_free_as_those_of_std() {
    fn check<T: Send + Sync + Unpin + std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
    check::<TcpListener>();
    check::<TcpStream>();
    check::<greenlet::net::UdpSocket>();
    check::<UnixListener>();
    check::<UnixStream>();
    check::<greenlet::net::UnixDatagram>();
}

#[test]
fn others_go_on_while_a_name_is_looked_up() {
    let _watchdog = watchdog();
    let turns = Rc::new(Cell::new(0));
    let counter = Rc::clone(&turns);
    let other = spawn(move || {
        loop {
            counter.set(counter.get() + 1);
            yield_now();
        }
    });
    // An answer may be so quick that nobody had to wait for it. A look-up that
    // blocked the thread would do so for ever.
    let mut addresses = Vec::new();
    while turns.get() == 0 {
        addresses = "localhost:80".to_socket_addrs().unwrap().collect();
    }
    assert!(!addresses.is_empty());
    assert!(
        addresses
            .iter()
            .all(|a| a.ip().is_loopback() && a.port() == 80)
    );
    other.kill();
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(TcpStream::connect(("localhost", port)).is_ok());
    assert!(TcpStream::connect((String::from("localhost"), port)).is_ok());
}

#[test]
fn what_is_an_address_already_is_not_looked_up() {
    let _watchdog = watchdog();
    let turns = Rc::new(Cell::new(0));
    let counter = Rc::clone(&turns);
    spawn(move || counter.set(1));
    for text in ["127.0.0.1:80", "[::1]:80"] {
        assert_eq!(
            text.to_socket_addrs().unwrap().next(),
            Some(text.parse().unwrap())
        );
    }
    assert_eq!(("::1", 80).to_socket_addrs().unwrap().count(), 1);
    assert_eq!(turns.get(), 0, "nobody had to wait");
}

#[test]
fn names_that_are_wrong_fail_as_in_std() {
    let _watchdog = watchdog();
    for text in [
        "",
        "localhost",
        "localhost:",
        "localhost:x",
        "localhost:65536",
        "127.0.0.1:-1",
    ] {
        let ours = text.to_socket_addrs().map(|_| ()).unwrap_err();
        let theirs = std::net::ToSocketAddrs::to_socket_addrs(text)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(ours.kind(), theirs.kind(), "{text}");
        assert_eq!(ours.to_string(), theirs.to_string(), "{text}");
    }
    let name = "no-such-host.invalid:1";
    let ours = TcpStream::connect(name).unwrap_err();
    let theirs = StdStream::connect(name).unwrap_err();
    assert_eq!(ours.kind(), theirs.kind());
}

#[test]
fn incoming_yields_connections_without_end() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    assert_eq!(listener.incoming().take(2).filter(|s| s.is_ok()).count(), 2);
    assert!(listener.into_incoming().next().unwrap().is_ok());
    drop(clients);
}
