//! A load for echo servers: a process of its own, which is this program again, with one
//! epoll loop. Every connection sends a request, and the next one when the answer has come.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::epoll::Epoll;
use crate::proc;

/// How large a request is.
pub const SIZE: usize = 64;
/// The processors of the two sides.
pub const SERVER_CPU: usize = 0;
const LOAD_CPU: usize = 1;
const MARK: &str = "--load";

/// The process, seen from the one that has started it.
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Starts this program, whose `main` has to ask [`is_this`] first. Returns when the
    /// server has warmed up.
    pub fn start(address: &str, connections: usize, requests: u64) -> Load {
        let mut child = Command::new("/proc/self/exe")
            .args([MARK, address])
            .args([connections.to_string(), requests.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start the load");
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut load = Load {
            child,
            stdin,
            lines,
        };
        load.hears("warm");
        load
    }

    fn hears(&mut self, wanted: &str) {
        let line = self.lines.next().expect("the load ended");
        assert_eq!(line.expect("cannot read"), wanted);
    }

    fn says_go(&mut self) {
        let stdin = self.stdin.as_mut().expect("it is not closed yet");
        stdin.write_all(b"go\n").expect("cannot write");
    }

    /// Returns when the last answer has come.
    pub fn go(&mut self) {
        self.says_go();
        self.hears("done");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Whether this is the process of a load; it has ended then.
pub fn is_this() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mark, address, connections, requests] = arguments.as_slice() else {
        return false;
    };
    if mark != MARK {
        return false;
    }
    proc::pin_to(LOAD_CPU);
    run(
        address.parse().expect("an address"),
        connections.parse().expect("a number"),
        requests.parse().expect("a number"),
    );
    true
}

fn run(address: SocketAddr, connections: usize, requests: u64) {
    let mut epoll = Epoll::new().expect("no epoll");
    let mut streams: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let stream = TcpStream::connect(address).expect("cannot connect");
            stream.set_nodelay(true).expect("cannot set an option");
            stream
        })
        .collect();
    for (at, stream) in streams.iter().enumerate() {
        epoll.add(stream.as_raw_fd(), at as u64).expect("epoll");
    }
    let mut lines = std::io::stdin().lines();
    ask(&mut epoll, &mut streams, requests / 4);
    println!("warm");
    lines.next();
    ask(&mut epoll, &mut streams, requests);
    println!("done");
    lines.next();
}

fn ask(epoll: &mut Epoll, streams: &mut [TcpStream], requests: u64) {
    let request = [0x5a; SIZE];
    let mut got = vec![0; streams.len()];
    let (mut sent, mut answered) = (0, 0);
    for stream in streams.iter_mut() {
        if sent < requests {
            stream.write_all(&request).expect("cannot send");
            sent += 1;
        }
    }
    let mut buffer = [0; SIZE];
    while answered < requests {
        epoll
            .wait(|at| {
                let at = at as usize;
                let count = streams[at].read(&mut buffer).expect("cannot receive");
                assert!(count > 0, "the server has closed a connection");
                got[at] += count;
                if got[at] == SIZE {
                    got[at] = 0;
                    answered += 1;
                    if sent < requests {
                        streams[at].write_all(&request).expect("cannot send");
                        sent += 1;
                    }
                }
            })
            .expect("epoll");
    }
}
