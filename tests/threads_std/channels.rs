//! `std::sync::mpsc`: what its functions answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{TrySendError, channel, sync_channel};
use std::thread;
use std::time::Instant;

use crate::shared::{HOUR, MS, OnDrop, event};
use crate::twice::Section;

pub const SECTIONS: &[Section] = &[
    ("mpsc: in order, to the end", in_order),
    ("mpsc: a rendezvous", rendezvous),
    ("mpsc: a bound of one", bounded),
    ("mpsc: nobody receives any more", no_receiver),
    ("mpsc: nobody sends any more", no_sender),
    ("mpsc: a receive with a time", with_time),
    ("mpsc: tries", tries),
    ("mpsc: iterators", iterators),
    ("mpsc: what is not received is dropped", dropped),
];

fn in_order() {
    let (send, receive) = channel();
    let sender = thread::spawn(move || {
        for number in 0..1000 {
            send.send(number).unwrap();
            if number % 100 == 0 {
                thread::yield_now();
            }
        }
    });
    println!("in order: {}", receive.iter().eq(0..1000));
    println!("{:?}", receive.recv());
    sender.join().unwrap();
    // Main sends, a thread receives.
    let (send, receive) = channel::<String>();
    let receiver = thread::spawn(move || receive.iter().collect::<Vec<_>>().join(" "));
    for word in ["from", "main", "to", "a", "thread"] {
        send.send(word.to_owned()).unwrap();
    }
    drop(send);
    println!("{}", receiver.join().unwrap());
}

/// A send has not returned before the value is taken.
fn rendezvous() {
    let (send, receive) = sync_channel(0);
    let sent = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&sent);
    let sender = thread::spawn(move || {
        for number in 1..=50 {
            send.send(number).unwrap();
            counter.store(number, SeqCst);
        }
    });
    let mut ahead = 0;
    for number in 1..=50 {
        thread::yield_now();
        ahead += u32::from(sent.load(SeqCst) >= number);
        assert_eq!(receive.recv(), Ok(number));
    }
    sender.join().unwrap();
    println!("sent {}, too early {ahead}", sent.load(SeqCst));
}

/// A send may be one ahead, and no more.
fn bounded() {
    let (send, receive) = sync_channel(1);
    let sent = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&sent);
    let (tell, told) = event();
    let sender = thread::spawn(move || {
        for number in 1..=50 {
            send.send(number).unwrap();
            counter.store(number, SeqCst);
            let _ = tell.send(());
        }
    });
    told.recv().unwrap();
    println!("without a receiver: {}", sent.load(SeqCst));
    let mut too_early = 0;
    for number in 1..=50 {
        thread::yield_now();
        too_early += u32::from(sent.load(SeqCst) > number);
        assert_eq!(receive.recv(), Ok(number));
    }
    sender.join().unwrap();
    println!("sent {}, too early {too_early}", sent.load(SeqCst));
}

fn no_receiver() {
    let (send, receive) = channel();
    drop(receive);
    println!("{:?}", send.send("unbounded"));
    // Senders that wait already.
    for bound in [0, 1] {
        let (send, receive) = sync_channel(bound);
        if bound == 1 {
            send.send(0).unwrap();
        }
        let (tell, told) = channel();
        let waiting: Vec<_> = (1..=3)
            .map(|number| {
                let (send, tell) = (send.clone(), tell.clone());
                thread::spawn(move || {
                    tell.send(()).unwrap();
                    send.send(number)
                })
            })
            .collect();
        (0..3).for_each(|_| told.recv().unwrap());
        drop(receive);
        let answers: Vec<_> = waiting.into_iter().map(|t| t.join().unwrap()).collect();
        println!("bound {bound}: {answers:?} {:?}", send.try_send(9));
    }
}

fn no_sender() {
    let (send, receive) = channel::<u32>();
    let clone = send.clone();
    let (tell, told) = event();
    let receiver = thread::spawn(move || {
        tell.send(()).unwrap();
        receive.recv()
    });
    told.recv().unwrap();
    drop(send);
    drop(clone);
    println!("{:?}", receiver.join().unwrap());
    let (send, receive) = channel();
    send.send("the last one").unwrap();
    drop(send);
    println!("{:?} {:?}", receive.recv(), receive.recv());
    println!("{:?} {:?}", receive.try_recv(), receive.recv_timeout(MS));
    // The sender ends by a panic.
    let (send, receive) = channel::<u32>();
    let thrower = thread::spawn(move || {
        send.send(1).unwrap();
        panic!("with a sender");
    });
    println!("{:?}", receive.iter().collect::<Vec<_>>());
    println!("thrown: {}", thrower.join().is_err());
}

fn with_time() {
    let (send, receive) = channel::<u32>();
    let waiting = move || {
        let start = Instant::now();
        let answer = receive.recv_timeout(20 * MS);
        (answer, start.elapsed() >= 20 * MS, receive)
    };
    let (answer, waited, receive) = thread::spawn(waiting).join().unwrap();
    println!("{answer:?}, waited: {waited}");
    let receiver = thread::spawn(move || {
        let first = receive.recv_timeout(HOUR);
        (first, receive.recv_timeout(HOUR))
    });
    send.send(5).unwrap();
    drop(send);
    println!("{:?}", receiver.join().unwrap());
}

fn tries() {
    let (send, receive) = channel();
    println!("{:?}", receive.try_recv());
    send.send(1).unwrap();
    println!("{:?} {:?}", receive.try_recv(), receive.try_recv());
    let (send, receive) = sync_channel(0);
    println!("{}", matches!(send.try_send(1), Err(TrySendError::Full(1))));
    // Somebody waits to receive, soon.
    let receiver = thread::spawn(move || receive.recv());
    while send.try_send(2).is_err() {
        thread::yield_now();
    }
    println!("{:?}", receiver.join().unwrap());
    println!("{:?}", send.try_send(3));
    let (send, receive) = sync_channel(1);
    println!("{:?} {:?}", send.try_send(1), send.try_send(2));
    println!("{:?} {:?}", receive.try_recv(), receive.try_recv());
}

fn iterators() {
    let (send, receive) = channel();
    (0..5).for_each(|number| send.send(number).unwrap());
    println!("{:?}", receive.try_iter().collect::<Vec<_>>());
    let sender = thread::spawn(move || (5..10).for_each(|number| send.send(number).unwrap()));
    println!("{:?}", receive.iter().take(2).collect::<Vec<_>>());
    println!("{:?}", receive.into_iter().collect::<Vec<_>>());
    sender.join().unwrap();
}

fn dropped() {
    let count = Arc::new(AtomicU32::new(0));
    let counting = || {
        let count = Arc::clone(&count);
        OnDrop(move || {
            count.fetch_add(1, SeqCst);
        })
    };
    let (send, receive) = channel();
    (0..10).for_each(|_| assert!(send.send(counting()).is_ok()));
    drop(receive.recv());
    println!("received: {}", count.load(SeqCst));
    thread::spawn(move || drop(receive)).join().unwrap();
    println!("receiver dropped: {}", count.load(SeqCst));
    println!("refused: {}", send.send(counting()).is_err());
    println!("at the end: {}", count.load(SeqCst));
}
