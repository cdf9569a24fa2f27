//! `workers`: one port, served by processes, in each by threads, on each by
//! greenlets.
//!
//! ```text
//!   this process                         worker processes
//!   Workers ── thread "workers" ──┬──▶ serve: thread 0  StreamServer ─ greenlets
//!     │   a greenlet for each     │           thread 1  StreamServer ─ greenlets
//!     │   worker: starts it, and  └──▶ serve: thread 0  …
//!     │   again when it has died              thread 1  …
//!     │                                        every thread has a listener of its own
//!     └─ keeps the port: bound, not listening    on the port (SO_REUSEPORT)
//! ```
//!
//! The kernel shares the connections out among the listeners. Nothing else is
//! shared: a worker that dies takes its own connections along.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::StreamServer;
use super::acceptor::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::hub::Patience;
use crate::net::{ReservedPort, TcpListener, TcpStream, ToSocketAddrs, UnixStream};
use crate::process::{Function, Process, Request, Worker};
use crate::queue::Queue;
use crate::sync::Event;
use crate::sys::os_thread;
use crate::sys::{fork, signal};
use crate::task::refuse_with_panic_abort;

/// What serves a connection in a worker.
type Handler = fn(TcpStream, SocketAddr);

/// So much longer than it was given a worker may take to stop, before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// A worker that has lived for so long has not died of its start.
const SETTLED: Duration = Duration::from_secs(1);

/// A server of `processes` worker processes with `threads` OS threads each, on
/// each of which every connection has a greenlet. It uses all processors, and a
/// crash costs the connections of one process.
///
/// # Examples
/// ```
/// use std::io::{Read, Write};
/// use std::time::Duration;
/// use greenlet::net::TcpStream;
/// use greenlet::server;
///
/// // It captures nothing: it runs in other processes.
/// let server = server::workers(2, 1).bind("127.0.0.1:0", |mut stream, _from| {
///     let _ = write!(stream, "served by {}", std::process::id());
/// })?;
/// let mut text = String::new();
/// TcpStream::connect(server.local_addr())?.read_to_string(&mut text)?;
/// let pid = text.strip_prefix("served by ").unwrap().parse().unwrap();
/// assert!(server.pids().contains(&pid));
/// assert_eq!(server.stop(Duration::from_secs(1)), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "nothing is started before `bind`"]
pub fn workers(processes: usize, threads: usize) -> WorkersBuilder {
    WorkersBuilder {
        processes,
        threads,
        most: None,
        backlog: None,
    }
}

/// What [`workers`] gives: how they are to be, until [`bind`](WorkersBuilder::bind)
/// starts them.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is started before `bind`"]
pub struct WorkersBuilder {
    processes: usize,
    threads: usize,
    most: Option<usize>,
    backlog: Option<u32>,
}

impl WorkersBuilder {
    /// Bounds how many connections are open at a time on each thread: see
    /// [`StreamServer::max_connections`].
    pub fn max_connections(self, most: usize) -> WorkersBuilder {
        WorkersBuilder {
            most: Some(most),
            ..self
        }
    }

    /// Sets how many clients the kernel keeps for each thread that are connected
    /// and not accepted: see [`StreamServer::backlog`].
    pub fn backlog(self, clients: u32) -> WorkersBuilder {
        WorkersBuilder {
            backlog: Some(clients),
            ..self
        }
    }

    /// Starts them all, and returns when all of them listen. On port 0 the kernel
    /// chooses a port.
    ///
    /// The handler runs in the workers. It is a function of this program, or a
    /// closure that captures nothing.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for no processes, threads or
    /// connections, and for a handler that is not part of the executable; that of
    /// the look-up; what a worker met when it began to listen, for instance
    /// [`AddrInUse`](io::ErrorKind::AddrInUse); that no process can be started.
    pub fn bind<A: ToSocketAddrs>(self, address: A, handler: Handler) -> io::Result<Workers> {
        refuse_with_panic_abort::<Handler>();
        for (number, what) in [
            (self.processes, "processes"),
            (self.threads, "threads"),
            (self.most.unwrap_or(1), "connections"),
        ] {
            if number == 0 {
                let error = format!("a server of zero {what} could never serve anybody");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
        }
        let handler = Function::of(handler).map_err(io::Error::from)?;
        let port = ReservedPort::new(address)?;
        let plan = Plan {
            address: port.address(),
            handler,
            threads: self.threads,
            most: self.most,
            backlog: self.backlog,
        };
        let shared = Arc::new(Shared {
            plan,
            slots: (0..self.processes).map(|_| Mutex::default()).collect(),
            stopping: AtomicBool::new(false),
            stop: Event::new(),
            ended: Event::new(),
            killed: AtomicUsize::new(0),
            restarts: AtomicU64::new(0),
            generation: fork::generation(),
        });
        let first = Arc::new(Queue::unbounded());
        os_thread::spawn(Builder::new().name("workers".to_owned()), {
            let (shared, first) = (Arc::clone(&shared), Arc::clone(&first));
            move || look_after(&shared, &first)
        })?;
        let server = Workers { shared, port };
        for _ in 0..self.processes {
            match first.get() {
                Ok(started) => started?,
                Err(_) => return Err(io::Error::other("the workers' thread has ended")),
            }
        }
        Ok(server)
    }
}

/// What a worker is to do.
#[derive(Clone, Serialize, Deserialize)]
struct Plan {
    address: SocketAddr,
    handler: Function<TcpStream, SocketAddr>,
    threads: usize,
    most: Option<usize>,
    backlog: Option<u32>,
}

/// The plan, and the connection that a worker hears by that it is to stop.
#[derive(Serialize, Deserialize)]
struct Assignment {
    plan: Plan,
    control: UnixStream,
}

/// Why a worker could not serve: an error of the system, or another.
#[derive(Serialize, Deserialize)]
struct Failure {
    number: Option<i32>,
    text: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure {
            number: error.raw_os_error(),
            text: error.to_string(),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure.number {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::other(failure.text),
        }
    }
}

/// A server that runs in worker processes: what [`workers`] starts.
///
/// A worker that dies is replaced: at once, and when it dies again within a second,
/// after a pause that grows from 10 ms to 1 s. Workers take no notice of Ctrl-C
/// (SIGINT) and SIGTERM, which the terminal or a service manager may send to all of
/// them: it is for this process to [`stop`](Workers::stop) them. When it ends, they
/// end.
///
/// It may be used from several threads. Dropping it stops it with a timeout of zero.
///
/// In the child of a fork it has no workers, for they are the parent's: stopping or
/// dropping it there does nothing.
pub struct Workers {
    shared: Arc<Shared>,
    /// Kept bound, so that nobody else gets it while a worker is being replaced.
    port: ReservedPort,
}

struct Shared {
    plan: Plan,
    /// What runs in each worker's place.
    slots: Vec<Mutex<Option<Running>>>,
    stopping: AtomicBool,
    /// Set when they are to stop: it ends the pauses.
    stop: Event,
    /// All workers have ended, and no more are started.
    ended: Event,
    /// Connections that were cut off when their workers stopped.
    killed: AtomicUsize,
    restarts: AtomicU64,
    /// The fork count of the process whose workers they are.
    generation: u32,
}

#[derive(Clone)]
struct Running {
    process: Arc<Process>,
    control: Arc<UnixStream>,
}

impl Shared {
    /// Then the thread that looks after them is not here, who may have held a lock.
    fn is_the_parents(&self) -> bool {
        self.generation != fork::generation()
    }
}

impl Workers {
    /// The address they listen on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.port.address()
    }

    /// The numbers of the worker processes that run now.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        if self.shared.is_the_parents() {
            return Vec::new();
        }
        let running = |slot: &Mutex<Option<Running>>| {
            let slot = lock(slot);
            slot.as_ref().map(|running| running.process.pid())
        };
        self.shared.slots.iter().filter_map(running).collect()
    }

    /// How many workers had to be replaced so far.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }

    /// Has all workers accept no more, give their open connections `timeout` to end
    /// by themselves, cut off those that are left, and end; returns how many those
    /// were. A worker that has not ended 5 s later is killed.
    ///
    /// A greenlet that calls it parks, a plain thread blocks.
    pub fn stop(&self, timeout: Duration) -> usize {
        let shared = &self.shared;
        if shared.is_the_parents() {
            return 0;
        }
        if !shared.stopping.swap(true, Ordering::SeqCst) {
            shared.stop.set();
            let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            for slot in &shared.slots {
                let running = lock(slot).clone();
                if let Some(running) = running {
                    // One that has died meanwhile does not hear it.
                    let _ = (&*running.control).write_all(&nanos.to_ne_bytes());
                }
            }
        }
        if !shared.ended.wait_timeout(timeout.saturating_add(GRACE)) {
            for slot in &shared.slots {
                let running = lock(slot).clone();
                if let Some(running) = running {
                    let _ = running.process.signal(libc::SIGKILL);
                }
            }
            shared.ended.wait();
        }
        shared.killed.load(Ordering::Relaxed)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("address", &self.local_addr())
            .field("pids", &self.pids())
            .finish_non_exhaustive()
    }
}

/// What has become of each worker's first start.
type First = Queue<io::Result<()>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The life of the thread that looks after the workers.
fn look_after(shared: &Shared, first: &First) {
    crate::scope(|s| {
        for at in 0..shared.slots.len() {
            s.spawn(move || keep_running(shared, at, first));
        }
    });
    shared.ended.set();
}

/// Has one worker run, and another when it has died, until all are to stop.
fn keep_running(shared: &Shared, at: usize, first: &First) {
    let mut first = Some(first);
    let mut pause = FIRST_PAUSE;
    while !shared.stopping.load(Ordering::SeqCst) {
        let began = Instant::now();
        match run_one(shared, at, &mut first) {
            Ok(killed) => {
                shared.killed.fetch_add(killed, Ordering::Relaxed);
            }
            Err(error) => {
                if let Some(first) = first.take() {
                    // Nobody is served by workers that cannot start.
                    let _ = first.put(Err(error));
                    return;
                }
            }
        }
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        shared.restarts.fetch_add(1, Ordering::Relaxed);
        if began.elapsed() >= SETTLED {
            pause = FIRST_PAUSE;
        } else {
            shared.stop.wait_timeout(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

/// Runs one worker to its end; returns how many connections it has cut off.
fn run_one(shared: &Shared, at: usize, first: &mut Option<&First>) -> io::Result<usize> {
    let (control, theirs) = UnixStream::pair()?;
    let assignment = Assignment {
        plan: shared.plan.clone(),
        control: theirs,
    };
    let request = Request::new(serve, &assignment).map_err(io::Error::from)?;
    drop(assignment);
    let mut worker = Worker::start()?;
    let control = Arc::new(control);
    *lock(&shared.slots[at]) = Some(Running {
        process: Arc::clone(worker.process()),
        control: Arc::clone(&control),
    });
    let answer = crate::scope(|s| {
        // If they were told to stop before it was in its place, it is told here.
        if shared.stopping.load(Ordering::SeqCst) {
            let _ = (&*control).write_all(&0u64.to_ne_bytes());
        }
        let call = s.spawn(|| {
            let answer = worker.call(&request);
            // Whoever waits to hear that it is ready hears that it is gone.
            let _ = control.shutdown(std::net::Shutdown::Both);
            answer
        });
        if (&*control).read_exact(&mut [0]).is_ok() {
            if let Some(first) = first.take() {
                let _ = first.put(Ok(()));
            }
        }
        call.join()
    });
    // It has no more to do, and leaves.
    worker.finish();
    let _ = worker.process().wait(Patience::Forever);
    lock(&shared.slots[at]).take();
    let reply = match answer {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => return Err(io::Error::other(error)),
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
    let served: Result<usize, Failure> = reply
        .into_result()
        .map_err(|error| io::Error::other(error.to_string()))?;
    served.map_err(io::Error::from)
}

/// What a worker process does: serves, until it is told to stop.
fn serve(assignment: Assignment) -> Result<usize, Failure> {
    for number in [libc::SIGINT, libc::SIGTERM] {
        signal::ignore(number);
    }
    let Assignment { plan, control } = assignment;
    let stop = Arc::new(Event::new());
    let timeout = Arc::new(AtomicU64::new(0));
    let started = Arc::new(Queue::unbounded());
    let threads: Vec<_> = (0..plan.threads)
        .map(|number| {
            let (plan, stop, timeout) = (plan.clone(), Arc::clone(&stop), Arc::clone(&timeout));
            let started = Arc::clone(&started);
            let named = Builder::new().name(format!("hub-{number}"));
            os_thread::spawn(named, move || {
                serve_on_thread(&plan, &stop, &timeout, &started)
            })
        })
        .collect::<io::Result<_>>()?;
    let all_started = threads.iter().try_for_each(|_| match started.get() {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("a thread has ended")),
    });
    if all_started.is_ok() {
        (&control).write_all(&[1])?;
        let mut nanos = [0; 8];
        // If there is nobody who could say how long, there is no time.
        if (&control).read_exact(&mut nanos).is_ok() {
            timeout.store(u64::from_ne_bytes(nanos), Ordering::SeqCst);
        }
    }
    stop.set();
    let killed = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_default())
        .sum();
    all_started?;
    Ok(killed)
}

fn serve_on_thread(
    plan: &Plan,
    stop: &Event,
    timeout: &AtomicU64,
    started: &Queue<io::Result<()>>,
) -> usize {
    let server = match start_server(plan) {
        Ok(server) => server,
        Err(error) => {
            let _ = started.put(Err(error));
            return 0;
        }
    };
    let _ = started.put(Ok(()));
    stop.wait();
    server.stop(Duration::from_nanos(timeout.load(Ordering::SeqCst)))
}

fn start_server(plan: &Plan) -> io::Result<StreamServer> {
    let listener = TcpListener::bind_reuse_port(plan.address)?;
    let handler = plan.handler.get().map_err(io::Error::other)?;
    let mut server = StreamServer::new(listener, handler)?;
    if let Some(most) = plan.most {
        server = server.max_connections(most);
    }
    if let Some(backlog) = plan.backlog {
        server = server.backlog(backlog)?;
    }
    server.start()?;
    Ok(server)
}
