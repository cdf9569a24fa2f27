//! Datagram sockets.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::rc::Rc;
use std::time::Duration;

use greenlet::net::unix::SocketAddr as UnixAddr;
use greenlet::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket, UnixDatagram};
use greenlet::{joinall, sleep, spawn, timeout, yield_now};

mod common;
use common::{refusing_datagrams, watchdog};

const SHORT: Duration = Duration::from_millis(20);

fn udp() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

fn settle() {
    for _ in 0..10 {
        yield_now();
    }
    sleep(Duration::from_millis(1));
}

#[test]
fn udp_sends_back_what_it_was_sent() {
    let _watchdog = watchdog();
    let server = udp();
    let address = server.local_addr().unwrap();
    spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..len], from).unwrap();
        }
    });
    let clients: Vec<_> = (0..20u8)
        .map(|client| {
            spawn(move || {
                let socket = udp();
                socket.connect(address).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), address);
                for round in 0..20 {
                    let sent = [client, round, 3];
                    assert_eq!(socket.send(&sent).unwrap(), 3);
                    let mut back = [0; 8];
                    assert_eq!(socket.peek(&mut back).unwrap(), 3);
                    assert_eq!(socket.recv(&mut back).unwrap(), 3);
                    assert_eq!(back[..3], sent);
                }
            })
        })
        .collect();
    for client in joinall(clients) {
        client.unwrap();
    }
}

#[test]
fn a_short_datagram_says_nothing_about_the_next() {
    let _watchdog = watchdog();
    let (a, b) = (udp(), udp());
    let address = b.local_addr().unwrap();
    let reader = spawn(move || {
        let lens: Vec<_> = (0..4)
            .map(|_| b.recv_from(&mut [0; 64]).unwrap().0)
            .collect();
        lens
    });
    settle();
    for len in [1, 2, 0, 3] {
        a.send_to(&[0; 3][..len], address).unwrap();
    }
    assert_eq!(reader.join().unwrap(), [1, 2, 0, 3]);
}

#[test]
fn udp_peeks_and_times_out_as_std() {
    let _watchdog = watchdog();
    let socket = udp();
    let me = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(
        socket.recv_from(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert_eq!(
        socket.peek_from(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    socket.send_to(b"abc", me).unwrap();
    assert_eq!(socket.peek_from(&mut [0; 8]).unwrap(), (3, me));
    assert_eq!(socket.recv_from(&mut [0; 8]).unwrap(), (3, me));
    assert!(timeout(SHORT / 2, || socket.recv(&mut [0])).is_err());
    let nowhere = socket.send_to(b"x", &[] as &[SocketAddr]).unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::InvalidInput);
    let zero = socket.set_read_timeout(Some(Duration::ZERO)).unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_refused_datagram_is_told_to_a_connected_socket() {
    let _watchdog = watchdog();
    let (_kept, nobody) = refusing_datagrams();
    let socket = Rc::new(udp());
    socket.connect(nobody).unwrap();
    let reader = spawn({
        let socket = Rc::clone(&socket);
        move || socket.recv(&mut [0]).unwrap_err().kind()
    });
    settle();
    socket.send(b"x").unwrap();
    assert_eq!(reader.join().unwrap(), ErrorKind::ConnectionRefused);
}

#[test]
fn udp_options_are_those_of_std() {
    let _watchdog = watchdog();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_broadcast(true).unwrap();
    assert!(socket.broadcast().unwrap());
    socket.set_multicast_loop_v4(false).unwrap();
    assert!(!socket.multicast_loop_v4().unwrap());
    socket.set_multicast_ttl_v4(7).unwrap();
    assert_eq!(socket.multicast_ttl_v4().unwrap(), 7);
    let group = Ipv4Addr::new(224, 0, 0, 77);
    socket
        .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
        .unwrap();
    assert!(
        socket
            .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
            .is_err()
    );
    socket
        .leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
        .unwrap();
    let std = std::net::UdpSocket::from(socket);
    assert!(std.broadcast().unwrap());
}

#[test]
fn unix_datagrams_arrive_with_their_sender() {
    let _watchdog = watchdog();
    let address = |what: &str| {
        UnixAddr::from_abstract_name(format!("greenlet {what} {}", std::process::id())).unwrap()
    };
    let (a_addr, b_addr) = (address("datagram a"), address("datagram b"));
    let a = UnixDatagram::bind_addr(&a_addr).unwrap();
    let b = UnixDatagram::bind_addr(&b_addr).unwrap();
    let reader = spawn(move || {
        let mut buffer = [0; 16];
        let (len, from) = b.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        b.send_to_addr(b"back", &from).unwrap();
    });
    settle();
    assert_eq!(a.send_to_addr(b"hello", &b_addr).unwrap(), 5);
    assert_eq!(a.recv(&mut [0; 16]).unwrap(), 4);
    reader.join().unwrap();
    a.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(
        a.recv(&mut [0; 16]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let dead = a.send_to_addr(b"x", &b_addr).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_full_queue_makes_senders_wait_and_loses_nothing() {
    let _watchdog = watchdog();
    const COUNT: u32 = 2000;
    let path = std::env::temp_dir().join(format!("greenlet-queue-{}", std::process::id()));
    let receiver = UnixDatagram::bind(&path).unwrap();
    let connected = UnixDatagram::unbound().unwrap();
    connected.connect(&path).unwrap();
    let unconnected = UnixDatagram::unbound().unwrap();
    let to = path.clone();
    let senders = [
        spawn(move || {
            for i in 0..COUNT {
                assert_eq!(connected.send(&i.to_ne_bytes()).unwrap(), 4);
            }
        }),
        spawn(move || {
            for i in COUNT..2 * COUNT {
                assert_eq!(unconnected.send_to(&i.to_ne_bytes(), &to).unwrap(), 4);
            }
        }),
    ];
    settle();
    assert!(senders.iter().all(|sender| !sender.is_finished()));
    let mut received: Vec<u32> = (0..2 * COUNT)
        .map(|_| {
            let mut buffer = [0; 4];
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 4);
            u32::from_ne_bytes(buffer)
        })
        .collect();
    received.sort();
    assert!(received.into_iter().eq(0..2 * COUNT));
    joinall(senders);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_write_timeout_ends_a_send_to_a_full_queue() {
    let _watchdog = watchdog();
    let path = std::env::temp_dir().join(format!("greenlet-full-{}", std::process::id()));
    let _receiver = UnixDatagram::bind(&path).unwrap();
    for connect in [false, true] {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_write_timeout(Some(SHORT)).unwrap();
        if connect {
            sender.connect(&path).unwrap();
        }
        let error = loop {
            let sent = match connect {
                true => sender.send(b"x"),
                false => sender.send_to(b"x", &path),
            };
            if let Err(error) = sent {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        sender.set_nonblocking(true).unwrap();
        let error = sender.send_to(b"x", &path).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock) || connect,
            "{error}"
        );
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_pair_of_datagram_sockets_is_connected() {
    let _watchdog = watchdog();
    let (a, b) = UnixDatagram::pair().unwrap();
    let clone = b.try_clone().unwrap();
    let receiver = spawn(move || clone.recv_from(&mut [0; 8]).unwrap().0);
    settle();
    a.send(b"abc").unwrap();
    assert_eq!(receiver.join().unwrap(), 3);
    b.shutdown(Shutdown::Both).unwrap();
    assert!(a.send(b"x").is_err());
}
