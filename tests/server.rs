//! `StreamServer`: a greenlet for each connection, bounds, stopping, and the
//! errors that a server survives. Numbers are those of test__server.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use greenlet::net::{SocketAddr, TcpListener, TcpStream, UdpSocket, UnixStream};
use greenlet::server::StreamServer;
use greenlet::{Pool, sleep, spawn, timeout, yield_now};

mod common;
use common::{MS, OnDrop, alone, flag, fork, listener_of_kept_port, quiet_panics, until, watchdog};

const LONG: Duration = Duration::from_secs(30);

/// Sends back what comes, until there is no more.
fn echo(mut stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

fn echo_server() -> StreamServer {
    StreamServer::bind("127.0.0.1:0", echo).unwrap()
}

fn connect(server: &StreamServer) -> TcpStream {
    TcpStream::connect(server.local_addr().unwrap()).unwrap()
}

/// Whether the server answers on this connection.
fn answers(mut client: &TcpStream) -> bool {
    client.write_all(b"PING").unwrap();
    let mut answer = [0; 4];
    timeout(LONG, || client.read_exact(&mut answer))
        .unwrap()
        .is_ok_and(|()| &answer == b"PING")
}

/// Whether nothing comes, though everybody has had turns enough.
fn is_not_served(mut client: &TcpStream) -> bool {
    client.write_all(b"PING").unwrap();
    client.set_read_timeout(Some(MS * 20)).unwrap();
    let error = client.read(&mut [0; 4]).unwrap_err();
    client.set_read_timeout(None).unwrap();
    error.kind() == ErrorKind::WouldBlock
}

fn reads_ping(mut client: &TcpStream) {
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"PING");
}

/// G188: with a socket, clients connect before the start, and are not accepted.
#[test]
fn clients_connect_before_the_start_and_are_served_after_it() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = StreamServer::new(listener, echo).unwrap();
    let client = connect(&server);
    assert!(is_not_served(&client));
    assert_eq!(server.connection_count(), 0);
    server.start().unwrap();
    reads_ping(&client);
    assert_eq!(server.connection_count(), 1);
    assert!(answers(&connect(&server)));
}

/// G188: after a stop connecting is refused.
#[test]
fn a_stopped_server_refuses_clients_and_cannot_be_started() {
    let _watchdog = watchdog();
    let (listener, _kept) = listener_of_kept_port();
    let server = StreamServer::new(TcpListener::from(listener), echo).unwrap();
    let address = server.local_addr().unwrap();
    server.start().unwrap();
    assert!(answers(&connect(&server)));
    assert_eq!(server.stop(LONG), 0);
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        server.start().unwrap_err().raw_os_error(),
        Some(libc::EBADF)
    );
    assert!(server.local_addr().is_err() && !server.is_accepting());
    assert_eq!(server.stop(LONG), 0);
}

/// G188: accepting may be stopped and started again; nobody is lost.
#[test]
fn accepting_stops_and_starts_again_and_open_connections_go_on() {
    let _watchdog = watchdog();
    let server = echo_server();
    server.start().unwrap();
    server.start().unwrap();
    let first = connect(&server);
    assert!(answers(&first));
    for _ in 0..3 {
        server.stop_accepting();
        assert!(!server.is_accepting());
        let waiting = connect(&server);
        assert!(is_not_served(&waiting));
        assert!(answers(&first));
        server.start().unwrap();
        reads_ping(&waiting);
    }
}

/// G189: the backlog is set, also where the listener was made by another.
#[test]
fn a_backlog_may_be_set_for_an_address_and_for_a_listener() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_raw_fd();
    let server = StreamServer::new(listener, echo).unwrap();
    assert_ne!(backlog(fd), 5);
    let server = server.backlog(5).unwrap();
    assert_eq!(backlog(fd), 5);
    server.start().unwrap();
    assert!(answers(&connect(&server)));
}

fn backlog(fd: i32) -> u32 {
    // SAFETY: all zeros are a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a tcp_info.
    let answer = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut len,
        )
    };
    assert_eq!(answer, 0);
    // Of a listening socket, this field is the length of its queue.
    info.tcpi_sacked
}

/// G189: `serve_forever` starts, or goes on with what was started; `stop` ends it.
#[test]
fn stop_ends_serve_forever_whether_it_was_started_before_or_not() {
    let _watchdog = watchdog();
    for started in [false, true] {
        let server = Rc::new(echo_server());
        if started {
            server.start().unwrap();
        }
        let serving = spawn({
            let server = Rc::clone(&server);
            move || server.serve_forever()
        });
        assert!(answers(&connect(&server)));
        assert!(!serving.is_finished());
        server.stop(LONG);
        serving.join().unwrap().unwrap();
    }
}

/// G193: the connection is closed when the handler has returned.
#[test]
fn the_connection_is_closed_after_the_handler_returns() {
    let _watchdog = watchdog();
    let server = StreamServer::bind("127.0.0.1:0", |mut stream: TcpStream, _| {
        stream.write_all(b"bye")
    })
    .unwrap();
    server.start().unwrap();
    let mut text = String::new();
    connect(&server).read_to_string(&mut text).unwrap();
    assert_eq!(text, "bye");
    until(|| server.connection_count() == 0);
}

/// G192: handlers have a greenlet of their own, so one that blocks is no error.
#[test]
fn a_handler_that_blocks_keeps_nobody_waiting() {
    let _watchdog = watchdog();
    let server = echo_server();
    server.start().unwrap();
    let idle: Vec<_> = (0..50).map(|_| connect(&server)).collect();
    until(|| server.connection_count() == 50);
    assert!(answers(&connect(&server)));
    drop(idle);
    until(|| server.connection_count() == 0);
}

#[test]
fn a_handler_that_panics_ends_its_connection_only() {
    let _watchdog = watchdog();
    quiet_panics();
    let server = StreamServer::bind("127.0.0.1:0", |mut stream: TcpStream, from| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        assert_ne!(&first, b"!", "on purpose");
        stream.write_all(&first).unwrap();
        echo(stream, from)
    })
    .unwrap();
    server.start().unwrap();
    let good = connect(&server);
    assert!(answers(&good));
    let mut bad = connect(&server);
    bad.write_all(b"!").unwrap();
    assert_eq!(bad.read(&mut [0]).unwrap(), 0);
    until(|| server.connection_count() == 1);
    assert!(answers(&good) && answers(&connect(&server)));
    assert!(server.take_error().is_none());
}

#[test]
fn a_client_that_resets_ends_its_own_connection_only() {
    let _watchdog = watchdog();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let server = StreamServer::bind("127.0.0.1:0", {
        let seen = Rc::clone(&seen);
        move |stream, from| {
            let result = echo(stream, from);
            let kind = result.err().map(|error| error.kind());
            seen.borrow_mut().push(kind);
        }
    })
    .unwrap();
    server.start().unwrap();
    let reset = |client: TcpStream| {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: the kernel reads a linger.
        let answer = unsafe {
            libc::setsockopt(
                client.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        };
        assert_eq!(answer, 0);
        drop(client);
    };
    let served = connect(&server);
    assert!(answers(&served));
    reset(served);
    until(|| seen.borrow().len() == 1);
    // One that is gone before it has been accepted.
    server.stop_accepting();
    reset(connect(&server));
    server.start().unwrap();
    assert!(answers(&connect(&server)));
    assert_eq!(seen.borrow()[0], Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_full_server_accepts_nobody_until_a_connection_ends() {
    let _watchdog = watchdog();
    let server = echo_server().max_connections(2);
    server.start().unwrap();
    let (first, second) = (connect(&server), connect(&server));
    assert!(answers(&first) && answers(&second));
    let third = connect(&server);
    assert!(is_not_served(&third));
    assert_eq!(server.connection_count(), 2);
    drop(first);
    reads_ping(&third);
    assert!(answers(&second));
    assert_eq!(server.connection_count(), 2);
}

#[test]
fn many_clients_are_all_served_and_never_more_at_a_time_than_the_bound() {
    let _watchdog = watchdog();
    let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let server = StreamServer::bind("127.0.0.1:0", {
        let (now, most) = (Rc::clone(&now), Rc::clone(&most));
        move |stream, from| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            let result = echo(stream, from);
            now.set(now.get() - 1);
            result
        }
    })
    .unwrap()
    .max_connections(5);
    server.start().unwrap();
    let server = Rc::new(server);
    let clients = (0..100).map(|_| {
        let server = Rc::clone(&server);
        spawn(move || answers(&connect(&server)))
    });
    let results = greenlet::joinall(clients.collect::<Vec<_>>());
    assert!(results.into_iter().all(Result::unwrap));
    assert_eq!(most.get(), 5);
}

#[test]
fn servers_that_share_a_pool_share_its_slots() {
    let _watchdog = watchdog();
    let pool = Rc::new(Pool::new(1));
    let one = echo_server().pool(Rc::clone(&pool));
    let other = echo_server().pool(Rc::clone(&pool));
    one.start().unwrap();
    other.start().unwrap();
    let first = connect(&one);
    assert!(answers(&first));
    assert!(pool.is_full());
    let second = connect(&other);
    assert!(is_not_served(&second));
    drop(first);
    reads_ping(&second);
    assert_eq!((one.connection_count(), other.connection_count()), (0, 1));
}

/// The slot is taken by another while the acceptor waits for a client: the
/// client is accepted, and must outlive a stop.
#[test]
fn a_connection_that_was_accepted_without_a_slot_is_not_lost() {
    let _watchdog = watchdog();
    let pool = Rc::new(Pool::new(1));
    let server = echo_server().pool(Rc::clone(&pool));
    server.start().unwrap();
    sleep(MS);
    let other = pool.spawn(|| sleep(Duration::MAX)).unwrap();
    let client = connect(&server);
    assert!(is_not_served(&client));
    server.stop_accepting();
    server.start().unwrap();
    assert!(is_not_served(&client));
    other.kill_wait();
    let mut twice = [0; 8];
    (&client).read_exact(&mut twice).unwrap();
    assert_eq!(&twice, b"PINGPING");
}

#[test]
fn a_bound_of_zero_is_refused() {
    let server = echo_server().max_connections(0);
    for result in [server.start(), server.serve_forever()] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn stop_lets_connections_finish_in_time() {
    let _watchdog = watchdog();
    let finished = flag();
    let server = StreamServer::bind("127.0.0.1:0", {
        let finished = Rc::clone(&finished);
        move |_stream, _| {
            sleep(MS * 5);
            finished.set(true);
        }
    })
    .unwrap();
    server.start().unwrap();
    let _client = connect(&server);
    until(|| server.connection_count() == 1);
    assert_eq!(server.stop(LONG), 0);
    assert!(finished.get());
}

#[test]
fn stop_kills_who_is_late_and_waits_until_they_have_unwound() {
    let _watchdog = watchdog();
    let unwound = flag();
    let server = StreamServer::bind("127.0.0.1:0", {
        let unwound = Rc::clone(&unwound);
        move |_stream, _| {
            let _on_drop = OnDrop(Rc::clone(&unwound));
            // Unwinding that takes a while.
            let _slow = common::defer(|| sleep(MS * 5));
            sleep(Duration::MAX);
        }
    })
    .unwrap();
    server.start().unwrap();
    let mut client = connect(&server);
    until(|| server.connection_count() == 1);
    if common::panic_count_is_off() {
        // A destructor cannot wait then.
        return;
    }
    assert_eq!(server.stop(MS), 1);
    assert!(unwound.get());
    assert_eq!(server.connection_count(), 0);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_handler_may_stop_its_own_server() {
    let _watchdog = watchdog();
    let server = Rc::new(RefCell::new(None::<Rc<StreamServer>>));
    let killed = Rc::new(Cell::new(usize::MAX));
    let made = StreamServer::bind("127.0.0.1:0", {
        let (server, killed) = (Rc::clone(&server), Rc::clone(&killed));
        move |mut stream: TcpStream, _| {
            let mut order = [0];
            stream.read_exact(&mut order)?;
            let server = server.borrow().clone().unwrap();
            killed.set(server.stop(MS));
            stream.write_all(b"down")
        }
    });
    let made = Rc::new(made.unwrap());
    server.replace(Some(Rc::clone(&made)));
    let mut others = [connect(&made), connect(&made)];
    let mut client = connect(&made);
    client.write_all(b"!").unwrap();
    made.serve_forever().unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), killed.get()), ("down", 2));
    assert!(
        others
            .iter_mut()
            .all(|other| other.read(&mut [0]).unwrap() == 0)
    );
    server.take();
}

#[test]
fn dropping_a_server_closes_it_and_leaves_its_connections_running() {
    let _watchdog = watchdog();
    let (listener, _kept) = listener_of_kept_port();
    let server = StreamServer::new(TcpListener::from(listener), echo).unwrap();
    let server = server.max_connections(1);
    let address = server.local_addr().unwrap();
    server.start().unwrap();
    let client = connect(&server);
    assert!(answers(&client));
    drop(server);
    yield_now();
    // A child of another test may hold the listener for a moment, until it runs its program.
    until(|| {
        TcpStream::connect(address).is_err_and(|it| it.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(answers(&client));
}

#[test]
fn running_out_of_descriptors_is_survived() {
    alone("running_out_of_descriptors_is_survived", || {
        let _watchdog = watchdog();
        let server = echo_server();
        let clients = [connect(&server), connect(&server)];
        // One turn of the hub, which opens what it needs.
        sleep(MS);
        let limit = libc::rlimit {
            rlim_cur: 64,
            rlim_max: 64,
        };
        // SAFETY: the kernel reads an rlimit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        server.start().unwrap();
        for _ in 0..2 {
            // It goes on trying.
            let error = Cell::new(None);
            until(|| {
                error.set(server.take_error());
                error.take().is_some_and(|error| {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                    true
                })
            });
        }
        assert!(server.is_accepting());
        assert_eq!(server.connection_count(), 0);
        hoard.clear();
        assert!(clients.iter().all(answers));
    });
}

#[test]
fn what_cannot_be_accepted_from_ends_the_server_with_its_error() {
    let _watchdog = watchdog();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::from(OwnedFd::from(socket));
    let server = StreamServer::new(listener, echo).unwrap();
    let error = server.serve_forever().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    assert!(!server.is_accepting());
    assert!(server.local_addr().is_err());
}

#[test]
fn a_listener_that_did_not_block_is_served_all_the_same() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = StreamServer::new(listener, echo).unwrap();
    server.start().unwrap();
    sleep(MS * 2);
    assert!(server.take_error().is_none());
    assert!(answers(&connect(&server)));
}

#[test]
fn unix_sockets_are_served_too() {
    let _watchdog = watchdog();
    let path = std::env::temp_dir().join(format!("greenlet-server-{}", std::process::id()));
    let server = StreamServer::bind_unix(&path, |mut stream: UnixStream, from| {
        assert!(from.is_unnamed());
        let mut word = [0; 4];
        stream.read_exact(&mut word)?;
        stream.write_all(&word)
    })
    .unwrap()
    .backlog(3)
    .unwrap();
    server.start().unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"PING").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "PING");
    let address = server.local_addr().unwrap();
    assert_eq!(address.as_pathname(), Some(path.as_path()));
    assert_eq!(server.stop(LONG), 0);
    assert!(UnixStream::connect(&path).is_err());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn in_the_child_of_a_fork_a_server_has_no_connections_and_may_start_anew() {
    alone(
        "in_the_child_of_a_fork_a_server_has_no_connections_and_may_start_anew",
        || {
            let _watchdog = watchdog();
            let server = echo_server();
            server.start().unwrap();
            let client = connect(&server);
            assert!(answers(&client));
            let code = fork(|| {
                let fresh = server.connection_count() == 0 && !server.is_accepting();
                server.start().unwrap();
                let served = answers(&connect(&server));
                let killed = server.stop(LONG);
                i32::from(!(fresh && served && killed == 0))
            });
            assert_eq!(code, 0);
            assert_eq!(server.connection_count(), 1);
            assert!(answers(&client) && answers(&connect(&server)));
        },
    );
}
