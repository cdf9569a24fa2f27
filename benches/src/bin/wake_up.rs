//! What it costs to wake somebody on another thread.
//!
//! ```text
//! cargo run --release -p greenlet-benches --bin wake_up [ROUNDS [REPEATS]]
//! ```
//!
//! Two threads wake each other in turns. A round is two wake-ups, each of one
//! who sleeps; what is printed is the time of one. The least that it can cost is
//! a write to an eventfd that the other one reads from; one who has several
//! descriptors to wait for sleeps in `epoll_wait`, and writes just the same. All
//! take turns, repeat by repeat, and each is compared with the bare eventfd of
//! its own repeat: first with both threads on one processor, where the time is
//! that of the calls, then with one processor for each, where most of it is the
//! machine's time to get a processor out of its idle state.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Instant;

use greenlet::hub::Parker;
use greenlet::queue::{Channel, Queue};
use greenlet::sync::{Event, Semaphore};
use greenlet_benches::epoll::Epoll;
use greenlet_benches::proc;
use greenlet_benches::stats::median;

/// One of the two: wakes the other, and waits to be woken.
trait Side: Send {
    /// Called once, on its own thread.
    fn begin(&mut self) {}
    fn wake(&mut self);
    fn wait(&mut self);
}

type Pair = fn() -> [Box<dyn Side>; 2];

const PAIRS: [(&str, Pair); 8] = [
    ("eventfd", || {
        fds(|here, there| Box::new(Fd { here, there }))
    }),
    ("eventfd in epoll", || {
        fds(|here, there| {
            let epoll = Epoll::new().expect("no epoll");
            epoll.add_edge(here.as_raw_fd(), 0).expect("not added");
            Box::new(InEpoll {
                epoll,
                there,
                _here: here,
            })
        })
    }),
    ("thread::park", || two(Parked::default)),
    ("Semaphore", || two(|| Semaphore::new(0))),
    ("Event", || two(Event::new)),
    ("Queue", || two(|| Queue::<()>::bounded(1))),
    ("Channel", || two(Channel::<()>::new)),
    ("Unparker", || two(Unparked::default)),
];

fn main() -> ExitCode {
    let number = |at: usize, default: usize| {
        let given = std::env::args().nth(at).map(|given| given.parse());
        given.unwrap_or(Ok(default))
    };
    let (Ok(rounds), Ok(repeats)) = (number(1, 20_000), number(2, 15)) else {
        eprintln!("usage: wake_up [ROUNDS [REPEATS]]");
        return ExitCode::FAILURE;
    };
    for cpus in [[0, 0], [0, 1]] {
        println!("on processors {cpus:?}, {repeats} times {rounds} rounds:");
        compare(cpus, rounds.max(1), repeats.max(1));
    }
    ExitCode::SUCCESS
}

fn compare(cpus: [usize; 2], rounds: usize, repeats: usize) {
    let mut times = [const { Vec::new() }; PAIRS.len()];
    for repeat in 0..repeats {
        for turn in 0..PAIRS.len() {
            // Nobody is always the first.
            let which = (repeat + turn) % PAIRS.len();
            times[which].push(measure(PAIRS[which].1(), cpus, rounds));
        }
    }
    for ((name, _), these) in PAIRS.iter().zip(&times) {
        let ratios: Vec<f64> = these.iter().zip(&times[0]).map(|(a, b)| a / b).collect();
        println!(
            "  {name:<16} {:>7.0} ns a wake-up, {:.2} of the eventfd's",
            median(these),
            median(&ratios)
        );
    }
}

/// Nanoseconds for one wake-up.
fn measure(pair: [Box<dyn Side>; 2], cpus: [usize; 2], rounds: usize) -> f64 {
    let [mut one, mut other] = pair;
    let (ready, others_turn) = std::sync::mpsc::channel();
    let answering = thread::spawn(move || {
        proc::pin_to(cpus[1]);
        other.begin();
        ready.send(()).expect("it is being waited for");
        for _ in 0..rounds {
            other.wait();
            other.wake();
        }
    });
    let asking = thread::spawn(move || {
        proc::pin_to(cpus[0]);
        one.begin();
        others_turn.recv().expect("it sends first");
        let start = Instant::now();
        for _ in 0..rounds {
            one.wake();
            one.wait();
        }
        start.elapsed().as_nanos() as f64 / (2 * rounds) as f64
    });
    answering.join().expect("it does not panic");
    asking.join().expect("it does not panic")
}

fn fds(side: fn(Arc<OwnedFd>, Arc<OwnedFd>) -> Box<dyn Side>) -> [Box<dyn Side>; 2] {
    let [a, b] = [(); 2].map(|()| {
        // SAFETY: the call takes no memory; its descriptor is ours.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            assert!(fd >= 0, "no eventfd");
            Arc::new(OwnedFd::from_raw_fd(fd))
        }
    });
    [side(Arc::clone(&a), Arc::clone(&b)), side(b, a)]
}

fn write(fd: &OwnedFd) {
    let one = 1u64;
    // SAFETY: the kernel reads the eight bytes of a live number.
    let wrote = unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
    assert_eq!(wrote, 8);
}

/// Sleeps in a `read`.
struct Fd {
    here: Arc<OwnedFd>,
    there: Arc<OwnedFd>,
}

impl Side for Fd {
    fn wake(&mut self) {
        write(&self.there);
    }

    fn wait(&mut self) {
        let mut count = 0u64;
        // SAFETY: the kernel writes the eight bytes of a live number.
        let read = unsafe { libc::read(self.here.as_raw_fd(), (&raw mut count).cast(), 8) };
        assert_eq!(read, 8);
    }
}

/// Sleeps in `epoll_wait`; each write is an edge, which needs no `read`.
struct InEpoll {
    epoll: Epoll,
    there: Arc<OwnedFd>,
    _here: Arc<OwnedFd>,
}

impl Side for InEpoll {
    fn wake(&mut self) {
        write(&self.there);
    }

    fn wait(&mut self) {
        let mut woken = false;
        while !woken {
            self.epoll.wait(|_| woken = true).expect("epoll fails");
        }
    }
}

/// What both sides have one of each.
trait Signal: Send + Sync + 'static {
    fn begin(&self) {}
    fn wake(&self);
    fn wait(&self);
}

struct Shared<S> {
    here: Arc<S>,
    there: Arc<S>,
}

fn two<S: Signal>(signal: impl Fn() -> S) -> [Box<dyn Side>; 2] {
    let (a, b) = (Arc::new(signal()), Arc::new(signal()));
    let one = Shared {
        here: Arc::clone(&a),
        there: Arc::clone(&b),
    };
    [Box::new(one), Box::new(Shared { here: b, there: a })]
}

impl<S: Signal> Side for Shared<S> {
    fn begin(&mut self) {
        self.here.begin();
    }

    fn wake(&mut self) {
        self.there.wake();
    }

    fn wait(&mut self) {
        self.here.wait();
    }
}

impl Signal for Semaphore {
    fn wake(&self) {
        self.release();
    }

    fn wait(&self) {
        self.acquire().forget();
    }
}

impl Signal for Event {
    fn wake(&self) {
        self.set();
    }

    fn wait(&self) {
        Event::wait(self);
        self.clear();
    }
}

impl Signal for Queue<()> {
    fn wake(&self) {
        self.put(()).expect("it is not shut down");
    }

    fn wait(&self) {
        self.get().expect("it is not shut down");
    }
}

impl Signal for Channel<()> {
    fn wake(&self) {
        self.put(()).expect("it is not shut down");
    }

    fn wait(&self) {
        self.get().expect("it is not shut down");
    }
}

/// std's own, which sleeps in a futex.
#[derive(Default)]
struct Parked {
    thread: std::sync::OnceLock<Thread>,
    woken: std::sync::atomic::AtomicBool,
}

impl Signal for Parked {
    fn begin(&self) {
        self.thread.set(thread::current()).expect("set once");
    }

    fn wake(&self) {
        self.woken.store(true, std::sync::atomic::Ordering::Release);
        let thread = loop {
            match self.thread.get() {
                Some(thread) => break thread,
                None => thread::yield_now(),
            }
        };
        thread.unpark();
    }

    fn wait(&self) {
        while !self.woken.swap(false, std::sync::atomic::Ordering::Acquire) {
            thread::park();
        }
    }
}

/// What all of ours stand on.
#[derive(Default)]
struct Unparked {
    unparker: std::sync::OnceLock<greenlet::hub::Unparker>,
}

thread_local! {
    static PARKER: Parker = Parker::new();
}

impl Signal for Unparked {
    fn begin(&self) {
        let unparker = PARKER.with(Parker::unparker);
        assert!(self.unparker.set(unparker).is_ok());
    }

    fn wake(&self) {
        loop {
            match self.unparker.get() {
                Some(unparker) => return unparker.unpark(),
                None => thread::yield_now(),
            }
        }
    }

    fn wait(&self) {
        PARKER.with(Parker::park);
    }
}
