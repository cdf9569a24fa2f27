//! Sockets in arguments and results of jobs of other processes.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::{alone, watchdog};
use greenlet::error::JoinError;
use greenlet::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use greenlet::process;
use greenlet::process::error::{ProcessError, SpawnError};
use greenlet::spawn;
use serde::{Deserialize, Serialize};

fn answer(mut stream: TcpStream) -> u32 {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    write!(stream, "{text}{text}{text}").unwrap();
    std::process::id()
}

#[test]
fn an_accepted_connection_is_served_by_another_process() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = spawn(move || {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"12").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    });
    let (stream, _) = listener.accept().unwrap();
    let child = process::spawn(answer, stream).unwrap();
    // The end of the stream shows that this process has it no more.
    assert_eq!(client.join().unwrap(), "121212");
    let pid = child.pid();
    assert_eq!(child.join().unwrap(), pid);
}

#[test]
fn a_listener_accepts_in_two_processes_and_comes_back() {
    let _watchdog = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accept = |listener: TcpListener| {
        let (stream, _) = listener.accept().unwrap();
        // Greenlets of the other process serve it.
        let server = spawn(move || answer(stream));
        server.join().unwrap();
        listener
    };
    let copy = listener.try_clone().unwrap();
    let child = process::spawn(accept, copy).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"x").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "xxx");
    let again = child.join().unwrap();
    assert_eq!(again.local_addr().unwrap(), address);
    let client = TcpStream::connect(address).unwrap();
    let (stream, _) = again.accept().unwrap();
    assert_eq!(stream.peer_addr().unwrap(), client.local_addr().unwrap());
    drop(listener);
}

#[test]
fn all_kinds_of_sockets_travel() {
    let _watchdog = watchdog();
    type All = (UdpSocket, UnixStream, UnixDatagram, UnixListener);
    let use_all = |(udp, mut stream, datagram, listener): All| {
        let mut buffer = [0; 8];
        let (len, from) = udp.recv_from(&mut buffer).unwrap();
        udp.send_to(&buffer[..len], from).unwrap();
        let len = stream.read(&mut buffer).unwrap();
        stream.write_all(&buffer[..len]).unwrap();
        let len = datagram.recv(&mut buffer).unwrap();
        datagram.send(&buffer[..len]).unwrap();
        listener.accept().unwrap().0.write_all(b"four").unwrap();
    };
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    here.connect(udp.local_addr().unwrap()).unwrap();
    let (mut stream, theirs) = UnixStream::pair().unwrap();
    let (datagram, their_datagram) = UnixDatagram::pair().unwrap();
    let path = std::env::temp_dir().join(format!("greenlet-all-kinds-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let child = process::spawn(use_all, (udp, theirs, their_datagram, listener)).unwrap();
    let mut buffer = [0; 8];
    here.send(b"one").unwrap();
    assert_eq!(here.recv(&mut buffer).unwrap(), 3);
    stream.write_all(b"two").unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap(), 3);
    datagram.send(b"three").unwrap();
    assert_eq!(datagram.recv(&mut buffer).unwrap(), 5);
    let mut text = String::new();
    let mut client = UnixStream::connect(&path).unwrap();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "four");
    child.join().unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_was_set_on_a_socket_travels_with_it() {
    let _watchdog = watchdog();
    let look = |(timed, nonblocking, plain): (UnixStream, UnixStream, UnixStream)| {
        let mut kinds = Vec::new();
        assert_eq!(
            timed.read_timeout().unwrap(),
            Some(Duration::from_millis(20))
        );
        for stream in [&timed, &nonblocking] {
            kinds.push((&*stream).read(&mut [0]).unwrap_err().kind() == ErrorKind::WouldBlock);
        }
        // This one waits for an answer.
        (&plain).write_all(b"?").unwrap();
        kinds.push((&plain).read(&mut [0]).unwrap() == 1);
        kinds
    };
    let pairs = [(); 3].map(|()| UnixStream::pair().unwrap());
    let [(a, timed), (b, nonblocking), (c, plain)] = pairs;
    timed
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    nonblocking.set_nonblocking(true).unwrap();
    let copy = plain.try_clone().unwrap();
    let child = process::spawn(look, (timed, nonblocking, plain)).unwrap();
    (&c).read_exact(&mut [0]).unwrap();
    greenlet::sleep(5 * common::MS);
    (&c).write_all(b"!").unwrap();
    assert_eq!(child.join().unwrap(), [true, true, true]);
    drop(c);
    // The sender's own goes on parking greenlets.
    assert_eq!((&copy).read(&mut [0]).unwrap(), 0);
    drop((a, b));
}

#[test]
fn many_descriptors_travel_in_their_order() {
    let _watchdog = watchdog();
    for count in [249, 250, 251, 600] {
        let (here, there): (Vec<_>, Vec<_>) =
            (0..count).map(|_| UnixStream::pair().unwrap()).unzip();
        let number = |(streams, long): (Vec<UnixStream>, String)| {
            for (number, mut stream) in streams.iter().enumerate() {
                stream.write_all(&(number as u32).to_ne_bytes()).unwrap();
            }
            (streams, long)
        };
        // With a body that takes a descriptor of its own, too.
        let long = "x".repeat(if count == 250 { 1 } else { 100_000 });
        let child = process::spawn(number, (there, long)).unwrap();
        let (there, _) = child.join().unwrap();
        for (number, (mut here, mut there)) in here.into_iter().zip(there).enumerate() {
            let mut bytes = [0; 4];
            here.read_exact(&mut bytes).unwrap();
            assert_eq!(u32::from_ne_bytes(bytes), number as u32);
            there.write_all(b"!").unwrap();
            here.read_exact(&mut bytes[..1]).unwrap();
        }
    }
}

#[test]
fn descriptors_for_which_there_is_no_room_are_an_error_that_says_so() {
    alone(
        "descriptors_for_which_there_is_no_room_are_an_error_that_says_so",
        || {
            let many = |count: usize| -> Vec<UdpSocket> {
                (0..count)
                    .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
                    .collect()
            };
            let child = process::spawn(many, 300).unwrap();
            let limit = libc::rlimit {
                rlim_cur: 64,
                rlim_max: 20_000,
            };
            // SAFETY: a valid limit.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            let error = child.join().unwrap_err();
            assert!(matches!(
                error,
                JoinError::Process(ProcessError::Decode { .. })
            ));
            assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
            // Those that had arrived have been closed.
            let left = std::fs::read_dir("/proc/self/fd").unwrap().count();
            assert!(left < 20, "{left}");
            // Nor can it be sent when there is none for a copy.
            let sockets = many(60 - left);
            let error = process::spawn(|sockets: Vec<UdpSocket>| sockets.len(), sockets);
            let error = error.unwrap_err();
            assert!(matches!(error, SpawnError::Argument { .. }), "{error}");
            assert!(error.to_string().contains("Too many open files"), "{error}");
        },
    );
}

#[test]
fn a_socket_is_serialised_only_when_it_is_sent_and_not_closed() {
    let _watchdog = watchdog();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(postcard::to_stdvec(&socket).is_err());
    assert!(postcard::to_stdvec(&process::Event::new().unwrap()).is_err());
    assert!(postcard::from_bytes::<UdpSocket>(&[3, 0, 0]).is_err());
    socket.close().unwrap();
    let error = process::spawn(|_: UdpSocket| (), socket).unwrap_err();
    assert!(
        error.to_string().contains("the socket was closed"),
        "{error}"
    );
}

/// Something that says it is a datagram socket, and reads a connection.
#[derive(Debug)]
struct Liar(Option<UdpSocket>);

impl Serialize for Liar {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Liar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Liar, D::Error> {
        Option::<TcpStream>::deserialize(deserializer)?;
        Ok(Liar(None))
    }
}

#[test]
fn a_socket_that_is_read_as_another_kind_is_an_error() {
    let _watchdog = watchdog();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let child = process::spawn(|_: Liar| (), Liar(Some(socket))).unwrap();
    match child.join().unwrap_err() {
        JoinError::Process(ProcessError::Argument { of, reason }) => {
            assert!(
                of.contains("Liar") && reason.contains("sent as something else"),
                "{reason}"
            );
        }
        other => panic!("{other}"),
    }
}

#[test]
fn descriptors_that_nobody_takes_out_are_closed() {
    let _watchdog = watchdog();
    /// Sends a socket, and reads the place of it only.
    #[derive(Debug)]
    struct Forgets(Option<UnixStream>);
    impl Serialize for Forgets {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.as_ref().unwrap().serialize(serializer)
        }
    }
    impl<'de> Deserialize<'de> for Forgets {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Forgets, D::Error> {
            <((u8, u32), bool)>::deserialize(deserializer)?;
            Ok(Forgets(None))
        }
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (mut may_end, wait) = UnixStream::pair().unwrap();
    let waits = |(_, mut wait): (Forgets, UnixStream)| wait.read(&mut [0]).unwrap();
    let child = process::spawn(waits, (Forgets(Some(theirs)), wait)).unwrap();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0, "nobody has the other end");
    may_end.write_all(b"!").unwrap();
    assert_eq!(child.join().unwrap(), 1);
    let _: OwnedFd = may_end.into();
}
