//! Sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::common::listener_of_kept_port;
use crate::shared::MS;
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("tcp: an echo with a thread per connection", echo),
    ("tcp: times, and the end", tcp_end),
    ("udp: to and fro", udp),
    ("unix sockets: both ways at once", unix),
];

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
                count_threads();
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
    let sums: Vec<_> = clients.into_iter().map(|t| t.join().unwrap()).collect();
    println!("{sums:?}");
    println!("served: {}", server.join().unwrap());
}

fn tcp_end() {
    let (listener, _kept) = listener_of_kept_port();
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
