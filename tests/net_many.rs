//! Many connections, and no descriptor left.

use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use greenlet::net::{TcpListener, TcpStream};
use greenlet::{joinall, sleep, spawn};

mod common;
use common::watchdog;

/// The soft limit of descriptors; sets it first, if told to.
fn descriptor_limit(new: Option<u64>) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a live rlimit.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        if let Some(new) = new {
            limit.rlim_cur = new.min(limit.rlim_max);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        }
    }
    limit.rlim_cur
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return,
            n => stream.write_all(&buffer[..n]).unwrap(),
        }
    }
}

#[test]
fn a_thousand_connections_are_served_on_one_thread() {
    let _watchdog = watchdog();
    common::alone("a_thousand_connections_are_served_on_one_thread", || {
        let limit = descriptor_limit(Some(4096));
        let count = 1000.min((limit as usize - 50) / 2);
        assert_eq!(count, 1000, "the hard limit of descriptors is too low");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = spawn(move || {
            let connections: Vec<_> = (0..count)
                .map(|_| {
                    let (stream, _) = listener.accept().unwrap();
                    spawn(move || echo(stream))
                })
                .collect();
            joinall(connections).len()
        });
        let all_there = Rc::new(std::cell::Cell::new(0));
        let clients: Vec<_> = (0..count as u32)
            .map(|client| {
                let all_there = Rc::clone(&all_there);
                spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    all_there.set(all_there.get() + 1);
                    while all_there.get() < count {
                        sleep(Duration::from_millis(1));
                    }
                    for round in 0..10u32 {
                        let sent = [client.to_ne_bytes(), round.to_ne_bytes()].concat();
                        stream.write_all(&sent).unwrap();
                        let mut back = [0; 8];
                        stream.read_exact(&mut back).unwrap();
                        assert_eq!(sent, back);
                    }
                })
            })
            .collect();
        for client in joinall(clients) {
            client.unwrap();
        }
        assert_eq!(server.join().unwrap(), count);
        assert!(common::threads() <= 4, "{} threads", common::threads());
    });
}

#[test]
fn an_accept_without_a_descriptor_left_is_an_error_and_the_connection_stays() {
    let _watchdog = watchdog();
    common::alone(
        "an_accept_without_a_descriptor_left_is_an_error_and_the_connection_stays",
        || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            // The reactor is there, and the listener known to it.
            let acceptor = spawn(move || (listener.accept().map(|_| ()), listener));
            sleep(Duration::from_millis(1));
            descriptor_limit(Some(64));
            // std's, so that the acceptor does not run before all is used up.
            let client = std::net::TcpStream::connect(address).unwrap();
            let mut ballast = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                ballast.push(file);
            }
            let (accepted, listener) = acceptor.join().unwrap();
            assert_eq!(accepted.unwrap_err().raw_os_error(), Some(libc::EMFILE));
            assert_eq!(
                listener.accept().unwrap_err().raw_os_error(),
                Some(libc::EMFILE)
            );
            ballast.pop();
            let (_stream, from) = listener.accept().unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            // No descriptor is left for the one that would take its place.
            assert_eq!(
                listener.close().unwrap_err().raw_os_error(),
                Some(libc::EMFILE)
            );
            assert_eq!(
                listener.accept().unwrap_err().raw_os_error(),
                Some(libc::EBADF)
            );
        },
    );
}

#[test]
fn sockets_that_come_and_go_leave_nothing_behind() {
    let _watchdog = watchdog();
    common::alone_unwatched("sockets_that_come_and_go_leave_nothing_behind", || {
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let round = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = spawn(move || echo(listener.accept().unwrap().0));
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client.close().unwrap();
            server.join().unwrap();
        };
        round();
        let before = descriptors();
        for _ in 0..200 {
            round();
        }
        assert_eq!(descriptors(), before);
    });
}
