//! Runtimes of tokio's inside of threads that are greenlets: what waits in them parks in
//! `epoll_wait`, and their worker threads are greenlets as well.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use greenlet_real::{WHILE, on_one_os_thread, overlap_threads, pattern, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

fn main() {
    run(&[
        ("a_hundred_runtimes_sleep_together", sleeps),
        ("a_hundred_runtimes_talk_to_one_another", talks),
        ("the_workers_of_a_runtime_are_greenlets", workers),
        ("what_blocks_is_a_greenlet_too", blocking),
    ]);
}

const RUNTIMES: usize = 100;

fn on_this_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Whoever waits does so in a runtime, until all the others do.
fn sleeps() {
    let arrived = AtomicUsize::new(0);
    overlap_threads(RUNTIMES, |_, flight| {
        let runtime = on_this_thread();
        flight.during(|| {
            runtime.block_on(async {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < RUNTIMES {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(WHILE).await;
            });
        });
    });
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn comes_back(stream: &mut TcpStream, sent: &[u8]) {
    let mut back = vec![0; sent.len()];
    let (mut reader, mut writer) = stream.split();
    let write = async { writer.write_all(sent).await.unwrap() };
    let read = async { reader.read_exact(&mut back).await.unwrap() };
    let ((), _) = both(write, read).await;
    assert!(back == sent);
}

/// `tokio::join!` is behind a feature that takes a macro crate.
async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let (mut of_a, mut of_b) = (None, None);
    std::future::poll_fn(move |context| {
        use std::task::Poll;
        if of_a.is_none() {
            if let Poll::Ready(output) = a.as_mut().poll(context) {
                of_a = Some(output);
            }
        }
        if of_b.is_none() {
            if let Poll::Ready(output) = b.as_mut().poll(context) {
                of_b = Some(output);
            }
        }
        match (of_a.take(), of_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (of_a, of_b) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

/// Each serves one of the others, and talks to another one.
fn talks() {
    let addresses = std::sync::Mutex::new(Vec::new());
    overlap_threads(RUNTIMES, |number, flight| {
        let runtime = on_this_thread();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        addresses.lock().unwrap().push(address);
        flight.meet();
        let peer = {
            let addresses = addresses.lock().unwrap();
            let mine = addresses.iter().position(|other| *other == address);
            addresses[(mine.unwrap() + 1) % RUNTIMES]
        };
        flight.during(|| {
            runtime.block_on(async {
                let serves = tokio::spawn(async move { echo(listener.accept().await?.0).await });
                let mut stream = TcpStream::connect(peer).await.unwrap();
                for length in [1, 1000, 100_000] {
                    comes_back(&mut stream, &pattern(number, length)).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                drop(stream);
                serves.await.unwrap().unwrap();
            });
        });
    });
}

fn two_workers() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// The runtime's tasks go on while the caller does something else, and the other way
/// round.
fn workers() {
    on_one_os_thread(|| {
        let runtime = two_workers();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(echo(stream));
            }
        });
        let clients: Vec<_> = (0..RUNTIMES)
            .map(|number| {
                runtime.spawn(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    for length in [1, 1000, 100_000] {
                        comes_back(&mut stream, &pattern(number, length)).await;
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            for client in clients {
                client.await.unwrap();
            }
        });
    });
}

/// `spawn_blocking` makes threads, as many as there is to do.
fn blocking() {
    on_one_os_thread(|| {
        let runtime = two_workers();
        let arrived = std::sync::Arc::new(std::sync::Barrier::new(RUNTIMES));
        let all: Vec<_> = (0..RUNTIMES)
            .map(|number| {
                let arrived = arrived.clone();
                runtime.spawn_blocking(move || {
                    arrived.wait();
                    number
                })
            })
            .collect();
        let sum = runtime.block_on(async {
            let mut sum = 0;
            for number in all {
                sum += number.await.unwrap();
            }
            sum
        });
        assert_eq!(sum, RUNTIMES * (RUNTIMES - 1) / 2);
    });
}
