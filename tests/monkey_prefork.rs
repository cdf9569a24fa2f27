//! `monkey`: several processes accept on one listener that they have inherited.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use patched::{assert_blocking, pair, recv, send};

const CHILDREN: usize = 4;
const GREENLETS: usize = 5;
const ROUNDS: usize = 800;
const AT_ONCE: usize = 8;
const CONNECTIONS: usize = ROUNDS * AT_ONCE;

/// A child that serves connections until it is told to end. Its code tells the error
/// of its first accept that failed.
fn patched_child(listener: &TcpListener, orders: &OwnedFd) -> i32 {
    let listener = Rc::new(listener.try_clone().unwrap());
    for _ in 0..GREENLETS {
        let listener = listener.clone();
        greenlet::spawn(move || {
            loop {
                match listener.accept() {
                    Ok((mut stream, _)) => stream.write_all(b"p").unwrap(),
                    Err(error) => std::process::exit(error.raw_os_error().unwrap()),
                }
            }
        });
    }
    // If an accept blocked the thread, an order would never be read.
    let mut order = [0];
    loop {
        assert_eq!(recv(orders, &mut order, 0), Ok(1));
        if order == *b"e" {
            return 0;
        }
        assert_eq!(send(orders, b"here", 0), Ok(4));
    }
}

/// A child in which nothing is patched, and which blocks in accept.
fn unpatched_child(listener: &TcpListener) -> ! {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => stream.write_all(b"u").unwrap(),
            // It may look in the microseconds in which another's accept does not
            // block, and this is what `docs/monkey.md` says of that.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => std::process::exit(error.raw_os_error().unwrap()),
        }
    }
}

#[test]
fn prefork_servers_share_a_listener() {
    common::alone("prefork_servers_share_a_listener", || {
        let _watchdog = common::watchdog();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // SAFETY: the child goes on with this thread alone, and with nothing patched.
        let unpatched = match unsafe { libc::fork() } {
            0 => unpatched_child(&listener),
            child => child,
        };
        common::patch();
        let children: Vec<_> = (0..CHILDREN)
            .map(|_| {
                let (ours, orders) = pair(libc::SOCK_STREAM);
                // SAFETY: as above; what it calls is prepared for that.
                match unsafe { libc::fork() } {
                    0 => {
                        let code = patched_child(&listener, &orders);
                        // SAFETY: it has no preconditions.
                        unsafe { libc::_exit(code) }
                    }
                    child => (child, ours),
                }
            })
            .collect();
        let mut served = String::new();
        for _ in 0..ROUNDS {
            let clients: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    greenlet::spawn(move || {
                        let mut served = String::new();
                        let mut stream = TcpStream::connect(address).unwrap();
                        stream.read_to_string(&mut served).unwrap();
                        served
                    })
                })
                .collect();
            served.extend(greenlet::joinall(clients).into_iter().map(Result::unwrap));
            // Nobody connects now: who answers is not blocked in an accept.
            for (_, orders) in &children {
                assert_eq!(send(orders, b"?", 0), Ok(1));
                assert_eq!(recv(orders, &mut [0; 4], libc::MSG_WAITALL), Ok(4));
            }
        }
        assert_eq!(served.len(), CONNECTIONS, "each is served, and once");
        let by = |who| served.chars().filter(|by| *by == who).count();
        assert!(by('p') > 0 && by('p') + by('u') == CONNECTIONS);
        assert_blocking(&listener);
        for (child, orders) in children {
            assert_eq!(send(&orders, b"e", 0), Ok(1));
            assert_eq!(common::reap(child), 0, "an accept failed");
        }
        // SAFETY: it is our child.
        unsafe { libc::kill(unpatched, libc::SIGKILL) };
        assert_eq!(common::reap(unpatched), -libc::SIGKILL);
        assert_blocking(&listener);
    });
}

/// A process that is killed in the middle of an accept leaves the listener
/// non-blocking; the next one mends it.
#[test]
fn what_a_killed_process_has_left_behind_is_mended() {
    let _watchdog = patched::patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = patched::kernel_flags(listener.as_raw_fd()) | libc::O_NONBLOCK | libc::O_APPEND;
    // SAFETY: it takes no memory.
    let set = unsafe { libc::syscall(libc::SYS_fcntl, listener.as_raw_fd(), libc::F_SETFL, left) };
    assert_eq!(set, 0);
    let address = listener.local_addr().unwrap();
    let acceptor = listener.try_clone().unwrap();
    let mut client = None;
    patched::parks(
        move || drop(acceptor.accept().unwrap()),
        || client = Some(TcpStream::connect(address).unwrap()),
    );
    assert_blocking(&listener);
    drop(client);
}
