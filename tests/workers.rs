//! `server::workers`: one port, served by processes, threads and greenlets.

mod common;

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use common::{alone, fork, watchdog};
use greenlet::net::{TcpListener, TcpStream};
use greenlet::server::{self, Workers};

/// Says who serves, and then echoes.
fn serve(mut stream: TcpStream, _from: SocketAddr) {
    let thread = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(stream, "{} {thread}", std::process::id());
    let _ = io::copy(&mut &stream, &mut &stream);
}

fn start(processes: usize, threads: usize) -> Workers {
    server::workers(processes, threads)
        .bind("127.0.0.1:0", serve)
        .unwrap()
}

/// A connection, with the process and thread that serve it.
fn connect(server: &Workers) -> io::Result<(TcpStream, u32, String)> {
    let mut stream = TcpStream::connect(server.local_addr())?;
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    let (pid, thread) = line.trim().split_once(' ').unwrap();
    Ok((stream, pid.parse().unwrap(), thread.to_owned()))
}

fn kill(pid: u32) {
    // SAFETY: a signal to a process that this test has started.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
}

#[test]
fn one_port_is_served_by_all_processes_and_threads() {
    let _watchdog = watchdog();
    let server = start(2, 2);
    let mut seen = HashSet::new();
    let mut open = Vec::new();
    // The kernel chooses by the addresses, so it is a matter of luck, and of patience.
    while seen.len() < 4 {
        let (stream, pid, thread) = connect(&server).unwrap();
        seen.insert((pid, thread));
        open.push(stream);
    }
    let pids: HashSet<u32> = server.pids().into_iter().collect();
    assert_eq!(pids.len(), 2);
    assert!(seen.iter().all(|(pid, _)| pids.contains(pid)), "{seen:?}");
    // Those that are open are echoed to, side by side.
    for stream in &mut open {
        stream.write_all(b"ping").unwrap();
    }
    for stream in &mut open {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }
    assert_eq!(server.restarts(), 0);
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_the_others_go_on() {
    let _watchdog = watchdog();
    let server = start(2, 1);
    let (mut kept, survivor, victim) = loop {
        let (stream, pid, _) = connect(&server).unwrap();
        let other = server.pids().into_iter().find(|other| *other != pid);
        if let Some(other) = other {
            break (stream, pid, other);
        }
    };
    kill(victim);
    while server.restarts() == 0 || server.pids().len() < 2 {
        greenlet::sleep(Duration::from_millis(1));
    }
    assert!(!server.pids().contains(&victim));
    assert!(server.pids().contains(&survivor));
    kept.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    kept.read_exact(&mut answer).unwrap();
    // The new one serves on the same port.
    let new = server.pids().into_iter().find(|pid| *pid != survivor);
    let served = |pid| matches!(connect(&server), Ok((_, by, _)) if Some(by) == pid);
    while !served(new) {
        greenlet::sleep(Duration::from_millis(1));
    }
}

#[test]
fn stop_lets_open_connections_end_by_themselves() {
    let _watchdog = watchdog();
    let server = std::sync::Arc::new(start(2, 2));
    let (mut stream, ..) = connect(&server).unwrap();
    let pids = server.pids();
    let stopping = greenlet::spawn({
        let server = std::sync::Arc::clone(&server);
        move || server.stop(Duration::from_secs(30))
    });
    // New ones are refused once it has begun, and this one is served on.
    while TcpStream::connect(server.local_addr()).is_ok() {
        greenlet::sleep(Duration::from_millis(1));
    }
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "last words");
    assert_eq!(stopping.join().unwrap(), 0);
    for pid in pids {
        // SAFETY: signal 0 asks whether the process is there.
        assert_eq!(unsafe { libc::kill(pid as i32, 0) }, -1);
    }
    assert_eq!(server.restarts(), 0);
    assert!(server.pids().is_empty());
}

#[test]
fn stop_cuts_off_those_that_do_not_end_and_counts_them() {
    let _watchdog = watchdog();
    let server = start(1, 2);
    let open: Vec<_> = (0..5).map(|_| connect(&server).unwrap()).collect();
    assert_eq!(server.stop(Duration::from_millis(10)), open.len());
    // It may be called again.
    assert_eq!(server.stop(Duration::ZERO), open.len());
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    for (processes, threads, what) in [(0, 1, "zero processes"), (1, 0, "zero threads")] {
        let error = server::workers(processes, threads)
            .bind("127.0.0.1:0", serve)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(what), "{error}");
    }
    let error = server::workers(1, 1)
        .max_connections(0)
        .bind("127.0.0.1:0", serve)
        .unwrap_err();
    assert!(error.to_string().contains("zero connections"), "{error}");
}

#[test]
fn a_port_that_somebody_else_has_is_an_error_at_once() {
    let _watchdog = watchdog();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = server::workers(2, 1)
        .bind(taken.local_addr().unwrap(), serve)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_handler_that_panics_costs_its_own_connection() {
    fn panics(_: TcpStream, _: SocketAddr) {
        std::panic::set_hook(Box::new(|_| {}));
        panic!("on purpose");
    }
    let _watchdog = watchdog();
    let server = server::workers(1, 1).bind("127.0.0.1:0", panics).unwrap();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    assert_eq!(server.restarts(), 0);
}

#[test]
fn a_worker_that_dies_again_and_again_is_started_more_and_more_seldom() {
    fn leaves(_: TcpStream, _: SocketAddr) {
        std::process::exit(3);
    }
    let _watchdog = watchdog();
    let server = server::workers(1, 1).bind("127.0.0.1:0", leaves).unwrap();
    let start = Instant::now();
    while server.restarts() < 4 {
        if let Ok(mut stream) = TcpStream::connect(server.local_addr()) {
            let _ = stream.read(&mut [0]);
        }
        greenlet::sleep(Duration::from_millis(1));
    }
    // 10, 20 and 40 ms between them at least.
    assert!(start.elapsed() >= Duration::from_millis(70));
}

#[test]
fn the_workers_end_with_their_parent() {
    alone("the_workers_end_with_their_parent", || {
        let server = start(2, 1);
        std::mem::forget(server);
    });
}

#[test]
fn the_child_of_a_fork_leaves_the_workers_to_its_parent() {
    alone(
        "the_child_of_a_fork_leaves_the_workers_to_its_parent",
        || {
            let server = start(1, 1);
            let (mut stream, pid, _) = connect(&server).unwrap();
            let mut child = Some(server);
            let code = fork(|| {
                let server = child.take().unwrap();
                let alone = server.pids().is_empty() && server.stop(Duration::ZERO) == 0;
                drop(server);
                i32::from(!alone)
            });
            assert_eq!(code, 0);
            let server = child.unwrap();
            assert_eq!(server.pids(), [pid]);
            stream.write_all(b"still here").unwrap();
            let mut answer = [0; 10];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"still here");
            assert_eq!((server.restarts(), server.stop(Duration::ZERO)), (0, 1));
        },
    );
}

#[test]
fn a_port_can_be_shared_by_listeners_of_one_process() {
    let _watchdog = watchdog();
    let one = TcpListener::bind_reuse_port("127.0.0.1:0").unwrap();
    let address = one.local_addr().unwrap();
    let other = TcpListener::bind_reuse_port(address).unwrap();
    assert!(TcpListener::bind(address).is_err());
    let accept = |listener: TcpListener| {
        greenlet::spawn(move || {
            listener.accept().unwrap();
        })
    };
    let both = [accept(one), accept(other)];
    let mut clients = Vec::new();
    while both.iter().any(|handle| !handle.is_finished()) {
        clients.push(TcpStream::connect(address));
        greenlet::yield_now();
    }
}
