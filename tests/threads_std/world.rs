//! The world outside: what is printed, processes, sockets, pipes and files.

use std::io::{Read, Write, stdout};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::shared::{MS, event};
use crate::twice::{Section, count_threads, how};

pub const SECTIONS: &[Section] = &[
    ("stdout: its lock is held across a wait", stdout_lock),
    ("stdout: lines of many are whole", stdout_lines),
    ("process: the output of commands", commands),
    ("process: piped to and fro", piped),
    ("process: something before it begins", before_it_begins),
    ("tcp: an echo with a thread per connection", echo),
    ("tcp: times, and the end", tcp_end),
    ("udp: to and fro", udp),
    ("unix sockets: both ways at once", unix),
    ("pipe: between threads", pipe),
    ("file: written by many", file),
];

fn stdout_lock() {
    let (tell, told) = event();
    let holder = thread::spawn(move || {
        let mut lock = stdout().lock();
        writeln!(lock, "first").unwrap();
        tell.send(()).unwrap();
        thread::sleep(20 * MS);
        // The lock is the thread's: it may take it again.
        println!("second");
        writeln!(lock, "third").unwrap();
    });
    told.recv().unwrap();
    let others = [(); 3].map(|()| thread::spawn(|| println!("after the lock")));
    holder.join().unwrap();
    others.into_iter().for_each(|other| other.join().unwrap());
}

fn stdout_lines() {
    let barrier = Arc::new(Barrier::new(10));
    let threads: Vec<_> = (0..10)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                barrier.wait();
                for _ in 0..20 {
                    println!("{}", "a whole line ".repeat(40));
                    thread::yield_now();
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

fn commands() {
    let threads: Vec<_> = (0..6)
        .map(|number| {
            thread::spawn(move || {
                let script = format!("echo out {number}; echo err {number} >&2; exit {number}");
                Command::new("sh").args(["-c", &script]).output().unwrap()
            })
        })
        .collect();
    count_threads();
    for thread in threads {
        let output = thread.join().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        println!("{said:?} {}", how(output.status));
    }
    let status = thread::spawn(|| Command::new("sh").args(["-c", "kill -9 $$"]).status());
    println!("{}", how(status.join().unwrap().unwrap()));
    let missing = thread::spawn(|| Command::new("/no/such/program").spawn().err());
    println!("{:?}", missing.join().unwrap().map(|error| error.kind()));
}

/// More than a pipe holds, in both directions at once.
fn piped() {
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
    let writer = thread::spawn(move || to.write_all(&[b'x'; 1_000_000]).unwrap());
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    writer.join().unwrap();
    println!("{} {}", all.len(), how(cat.wait().unwrap()));
}

/// Which has it forked.
fn before_it_begins() {
    let threads = [1, 2, 3].map(|number| {
        thread::spawn(move || {
            let mut command = Command::new("sh");
            command.args(["-c", "echo $0; exit 5", "in the child"]);
            // SAFETY: it writes, which is safe after a fork.
            unsafe {
                command.pre_exec(move || {
                    let line = [b'0' + number, b'\n'];
                    libc::write(1, line.as_ptr().cast(), 2);
                    Ok(())
                });
            }
            let output = command.output().unwrap();
            (
                String::from_utf8(output.stdout).unwrap(),
                how(output.status),
            )
        })
    });
    for thread in threads {
        println!("{:?}", thread.join().unwrap());
    }
    let refused = thread::spawn(|| {
        let mut command = Command::new("true");
        // SAFETY: it does nothing.
        unsafe { command.pre_exec(|| Err(std::io::ErrorKind::NotFound.into())) };
        command.status().map_err(|error| error.kind())
    });
    println!("{:?}", refused.join().unwrap().map(how));
}

fn echo() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let connections: Vec<_> = (0..20)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                thread::spawn(move || {
                    let (mut buffer, mut total) = ([0; 64], 0);
                    loop {
                        match stream.read(&mut buffer).unwrap() {
                            0 => return total,
                            n => stream.write_all(&buffer[..n]).unwrap(),
                        }
                        total += 1;
                    }
                })
            })
            .collect();
        let served = connections.into_iter().map(|t| t.join().unwrap());
        served.filter(|total| *total >= 10).count()
    });
    let barrier = Arc::new(Barrier::new(20));
    let clients: Vec<_> = (0..20_u8)
        .map(|number| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                barrier.wait();
                let mut sum = 0;
                for round in 0..10 {
                    stream.write_all(&[number, round]).unwrap();
                    let mut answer = [0; 2];
                    stream.read_exact(&mut answer).unwrap();
                    sum += u32::from(answer[0]) + u32::from(answer[1]);
                }
                barrier.wait();
                sum
            })
        })
        .collect();
    count_threads();
    let sums: Vec<_> = clients.into_iter().map(|t| t.join().unwrap()).collect();
    println!("{sums:?}");
    println!("served: {}", server.join().unwrap());
}

fn tcp_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(20 * MS)).unwrap();
        let answer = stream.read(&mut [0; 8]);
        println!("{:?}", answer.map_err(|error| error.kind()));
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(b"go").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        println!("{text}");
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut two = [0; 2];
    stream.read_exact(&mut two).unwrap();
    stream.write_all(b"the last words").unwrap();
    drop(stream);
    client.join().unwrap();
    drop(listener);
    let refused = thread::spawn(move || TcpStream::connect(address).map(|_| ()));
    println!(
        "{:?}",
        refused.join().unwrap().map_err(|error| error.kind())
    );
}

fn udp() {
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    let there = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (ours, theirs) = (here.local_addr().unwrap(), there.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..10 {
            let (length, from) = there.recv_from(&mut buffer).unwrap();
            buffer[..length].reverse();
            there.send_to(&buffer[..length], from).unwrap();
        }
    });
    for number in 0..10 {
        let text = format!("{number} abc");
        here.send_to(text.as_bytes(), theirs).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = here.recv_from(&mut buffer).unwrap();
        let answer = String::from_utf8_lossy(&buffer[..length]);
        println!(
            "{answer}, from the other: {}",
            from != ours && from == theirs
        );
    }
    thread.join().unwrap();
}

fn unix() {
    let (left, right) = UnixStream::pair().unwrap();
    let halves = [left, right].map(|stream| {
        let mut writer = stream.try_clone().unwrap();
        let writes = thread::spawn(move || {
            writer.write_all(&[7; 500_000]).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let reads = thread::spawn(move || {
            let mut all = Vec::new();
            (&stream).read_to_end(&mut all).unwrap();
            all.iter().map(|byte| u64::from(*byte)).sum::<u64>()
        });
        (writes, reads)
    });
    for (writes, reads) in halves {
        writes.join().unwrap();
        println!("{}", reads.join().unwrap());
    }
}

fn pipe() {
    let mut ends = [0; 2];
    // SAFETY: the call writes two descriptors, which are then owned.
    let [mut reader, mut writer] = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        ends.map(|end| <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(end))
    };
    let thread = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (text.len(), text.lines().count())
    });
    for number in 0..20_000 {
        writeln!(writer, "line {number}").unwrap();
    }
    drop(writer);
    println!("{:?}", thread.join().unwrap());
}

fn file() {
    let name = format!("greenlet-threads-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let threads: Vec<_> = (0..10)
        .map(|number| {
            let path = path.clone();
            thread::spawn(move || {
                let mut options = std::fs::OpenOptions::new();
                let mut file = options.append(true).create(true).open(path).unwrap();
                for _ in 0..10 {
                    // Whole, by one call.
                    file.write_all(format!("line of {number}\n").as_bytes())
                        .unwrap();
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let read = path.clone();
    let text = thread::spawn(move || std::fs::read_to_string(read).unwrap());
    let text = text.join().unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    println!("{} {lines:?}", text.lines().count());
    std::fs::remove_file(path).unwrap();
}
