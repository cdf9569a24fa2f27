//! A request of 64 bytes and its answer, over Unix socket pairs in one process.
//!
//! Client and server share a thread (except with OS threads, where each end has
//! its own), so the time is that of both, and of four system calls at least.
//! With 64 pairs, one look of the reactor finds many of them ready.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use greenlet_benches::epoll::Epoll;
use greenlet_benches::scale;

const SIZE: usize = 64;

/// Requests for each pair.
fn share(iters: u64, pairs: u64) -> u64 {
    iters.div_ceil(pairs)
}

fn greenlets(pairs: u64, iters: u64) -> Duration {
    use greenlet::net::UnixStream;

    let each = share(iters, pairs);
    let mut all = Vec::new();
    let start = Instant::now();
    for _ in 0..pairs {
        let (mut client, mut server) = UnixStream::pair().expect("no sockets");
        all.push(greenlet::spawn(move || {
            let mut buffer = [0; SIZE];
            while server.read_exact(&mut buffer).is_ok() {
                server.write_all(&buffer).expect("cannot send");
            }
        }));
        all.push(greenlet::spawn(move || {
            let mut buffer = [0x5a; SIZE];
            for _ in 0..each {
                client.write_all(&buffer).expect("cannot send");
                client.read_exact(&mut buffer).expect("no answer");
            }
        }));
    }
    for one in all {
        one.join().expect("it does not panic");
    }
    scale(start.elapsed(), each * pairs, iters)
}

/// One loop over all sockets, without tasks.
fn epoll_loop(pairs: u64, iters: u64) -> Duration {
    let each = share(iters, pairs);
    let start = Instant::now();
    let mut epoll = Epoll::new().expect("no epoll");
    let mut sockets = Vec::new();
    let mut left = vec![each; pairs as usize];
    let mut buffer = [0x5a; SIZE];
    for _ in 0..pairs {
        let (mut client, server) = UnixStream::pair().expect("no sockets");
        for socket in [&client, &server] {
            socket.set_nonblocking(true).expect("cannot set an option");
            let token = sockets.len() as u64 + u64::from(std::ptr::eq(socket, &server));
            epoll.add(socket.as_raw_fd(), token).expect("epoll");
        }
        client.write_all(&buffer).expect("cannot send");
        // Even ones are clients.
        sockets.push(client);
        sockets.push(server);
    }
    let mut open = pairs;
    while open > 0 {
        epoll
            .wait(|token| {
                let at = token as usize;
                let count = sockets[at].read(&mut buffer).expect("cannot receive");
                assert_eq!(count, SIZE, "64 bytes arrive in one piece");
                if at & 1 == 0 {
                    left[at / 2] -= 1;
                    if left[at / 2] == 0 {
                        open -= 1;
                        return;
                    }
                }
                sockets[at].write_all(&buffer).expect("cannot send");
            })
            .expect("epoll");
    }
    scale(start.elapsed(), each * pairs, iters)
}

fn tokio_tasks(pairs: u64, iters: u64) -> Duration {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    let each = share(iters, pairs);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("no tokio");
    let start = Instant::now();
    runtime.block_on(async {
        let mut all = Vec::new();
        for _ in 0..pairs {
            let (mut client, mut server) = UnixStream::pair().expect("no sockets");
            all.push(tokio::spawn(async move {
                let mut buffer = [0; SIZE];
                while server.read_exact(&mut buffer).await.is_ok() {
                    server.write_all(&buffer).await.expect("cannot send");
                }
            }));
            all.push(tokio::spawn(async move {
                let mut buffer = [0x5a; SIZE];
                for _ in 0..each {
                    client.write_all(&buffer).await.expect("cannot send");
                    client.read_exact(&mut buffer).await.expect("no answer");
                }
            }));
        }
        for one in all {
            one.await.expect("it does not panic");
        }
    });
    scale(start.elapsed(), each * pairs, iters)
}

fn threads(pairs: u64, iters: u64) -> Duration {
    let each = share(iters, pairs);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..pairs {
            let (mut client, mut server) = UnixStream::pair().expect("no sockets");
            scope.spawn(move || {
                let mut buffer = [0; SIZE];
                while server.read_exact(&mut buffer).is_ok() {
                    server.write_all(&buffer).expect("cannot send");
                }
            });
            scope.spawn(move || {
                let mut buffer = [0x5a; SIZE];
                for _ in 0..each {
                    client.write_all(&buffer).expect("cannot send");
                    client.read_exact(&mut buffer).expect("no answer");
                }
            });
        }
    });
    scale(start.elapsed(), each * pairs, iters)
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("echo, 64 bytes there and back");
    group.measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    group.sample_size(20);
    type Contender = (&'static str, fn(u64, u64) -> Duration);
    let contenders: [Contender; 4] = [
        ("greenlet", greenlets),
        ("bare epoll loop", epoll_loop),
        ("tokio", tokio_tasks),
        ("threads", threads),
    ];
    for pairs in [1, 64] {
        for (name, run) in contenders {
            group.bench_function(BenchmarkId::new(name, pairs), |b| {
                b.iter_custom(|iters| run(pairs, iters));
            });
        }
    }
    group.finish();
}

criterion_group!(group, benches);
criterion_main!(group);
