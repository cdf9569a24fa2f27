//! `std::sync::mpsc`: what it is used for.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("mpsc: many senders", many_senders),
    ("mpsc: to and fro", to_and_fro),
    ("mpsc: channels through channels", replies),
    ("mpsc: a pool of workers", pool),
    ("mpsc: a ring", ring),
];

fn many_senders() {
    for bound in [None, Some(0), Some(1), Some(10)] {
        let (sum, is_in_order) = match bound {
            None => {
                let (send, receive) = channel();
                from_many(move |pair| send.send(pair).unwrap(), receive)
            }
            Some(bound) => {
                let (send, receive) = sync_channel(bound);
                from_many(move |pair| send.send(pair).unwrap(), receive)
            }
        };
        println!("{bound:?}: {sum}, each in order: {is_in_order}");
    }
}

fn from_many(
    send: impl Fn((usize, u64)) + Clone + Send + 'static,
    receive: Receiver<(usize, u64)>,
) -> (u64, bool) {
    let threads: Vec<_> = (0..20)
        .map(|me| {
            let send = send.clone();
            thread::spawn(move || (0..100).for_each(|number| send((me, number))))
        })
        .collect();
    drop(send);
    let (mut sum, mut next, mut is_in_order) = (0, [0; 20], true);
    for (from, number) in receive {
        is_in_order &= next[from] == number;
        next[from] = number + 1;
        sum += number;
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    (sum, is_in_order)
}

fn to_and_fro() {
    let (ping, pinged) = channel::<u32>();
    let (pong, ponged) = channel::<u32>();
    let other = thread::spawn(move || {
        for number in pinged {
            pong.send(number + 1).unwrap();
        }
    });
    let mut number = 0;
    for _ in 0..1000 {
        ping.send(number).unwrap();
        number = ponged.recv().unwrap();
    }
    drop(ping);
    other.join().unwrap();
    println!("{number}");
}

fn replies() {
    let (ask, asked) = channel::<(u32, SyncSender<u32>)>();
    let server = thread::spawn(move || {
        for (number, reply) in asked {
            reply.send(number * number).unwrap();
        }
    });
    let clients: Vec<_> = (0..20)
        .map(|number| {
            let ask = ask.clone();
            thread::spawn(move || {
                let (reply, replied) = sync_channel(0);
                ask.send((number, reply)).unwrap();
                replied.recv().unwrap()
            })
        })
        .collect();
    drop(ask);
    let answers: Vec<_> = clients.into_iter().map(|t| t.join().unwrap()).collect();
    server.join().unwrap();
    println!("{answers:?}");
}

fn pool() {
    type Job = Box<dyn FnOnce() -> u64 + Send>;
    let (jobs, queue) = mpsc::channel::<Job>();
    let (results, done) = mpsc::channel();
    let queue = Arc::new(Mutex::new(queue));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            thread::spawn(move || {
                loop {
                    // The lock is held while it waits, as in many programs.
                    let job = queue.lock().unwrap().recv();
                    let Ok(job) = job else { break };
                    results.send(job()).unwrap();
                }
            })
        })
        .collect();
    drop(results);
    for number in 0..100_u64 {
        jobs.send(Box::new(move || number * 2)).unwrap();
    }
    count_threads();
    drop(jobs);
    println!("{}", done.iter().sum::<u64>());
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
}

fn ring() {
    let (first, mut receive): (Sender<u32>, Receiver<u32>) = channel();
    for _ in 0..100 {
        let (send, next) = channel();
        thread::spawn(move || receive.iter().for_each(|n| send.send(n + 1).unwrap()));
        receive = next;
    }
    let last = receive;
    for round in 0..10 {
        first.send(round).unwrap();
    }
    drop(first);
    println!("{:?}", last.iter().collect::<Vec<_>>());
}
