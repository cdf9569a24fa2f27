//! A worker process, seen from its parent: it does one job after the other.
//!
//! ```text
//!   parent                                    worker
//!   Worker::start ─── posix_spawn ──────────▶ this program anew, caught before main
//!   call(&request) ── function, argument ───▶ calls the function
//!                  ◀─ result, or a panic ────
//!   call(&request) ── …
//!   close          ── end of the connection ▶ std::process::exit
//!     wait, kill   ◀─ pidfd: it has ended
//! ```

use std::io;
use std::os::fd::AsFd;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::ProcessError;
use super::job::{Reply, Request};
use super::watched::Watched;
use super::wire::Wire;
use super::{entry, reaper};
use crate::hub::{Direction, Patience};
use crate::sys::{child, fork, passing, shared};

/// The worker as a process: it can be waited for, and sent signals, from anywhere in its parent.
pub(crate) struct Process {
    pid: u32,
    /// Becomes readable when the process has ended.
    descriptor: Watched,
    ended: Mutex<Option<Ended>>,
    /// The fork count of its parent.
    generation: u32,
}

/// How a process has ended, as far as that is known.
#[derive(Clone, Copy)]
enum Ended {
    With(ExitStatus),
    /// Somebody else has taken the status.
    Somehow,
}

impl Process {
    /// Starts this program anew, as a worker, and returns the connection to it.
    fn start() -> io::Result<(Arc<Process>, Wire)> {
        entry::check()?;
        fork::watch();
        let (ours, theirs) = passing::pair()?;
        let mark = entry::mark();
        let pid = child::start_anew(theirs.as_fd(), entry::MARK, &mark)?;
        drop(theirs);
        let descriptor = child::open(pid).inspect_err(|_| child::abandon(pid))?;
        let process = Process {
            pid: pid as u32,
            descriptor: Watched::new(descriptor),
            ended: Mutex::new(None),
            generation: fork::generation(),
        };
        Ok((Arc::new(process), Wire::new(ours)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end of the process; none if the patience ends first.
    ///
    /// # Errors
    /// ECHILD, if it has ended and somebody else has taken its status.
    pub(crate) fn wait(&self, patience: Patience) -> io::Result<Option<ExitStatus>> {
        self.is_ours()?;
        let ended = self
            .descriptor
            .run(Direction::Read, patience, |_| self.try_wait());
        match ended {
            Ok(Ended::With(status)) => Ok(Some(status)),
            Ok(Ended::Somehow) => Err(io::Error::from_raw_os_error(libc::ECHILD)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn try_wait(&self) -> io::Result<Ended> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = *ended {
            return Ok(ended);
        }
        let now = match child::try_wait(self.descriptor.as_fd()) {
            Ok(Some(status)) => Ended::With(status),
            Ok(None) => return Err(io::ErrorKind::WouldBlock.into()),
            // Either it has been waited for by somebody else, or it has not ended and nobody ever will be told.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                if !shared::is_readable(self.descriptor.as_fd()) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ended::Somehow
            }
            Err(error) => return Err(error),
        };
        *ended = Some(now);
        Ok(now)
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.is_ours()?;
        child::send_signal(self.descriptor.as_fd(), signal)
    }

    /// Why it has given no result: waits for its end, and tells of that.
    pub(super) fn cause(&self) -> ProcessError {
        let pid = self.pid;
        if self.is_ours().is_err() {
            return ProcessError::Forked;
        }
        match self.wait(Patience::Forever) {
            Ok(Some(status)) => ProcessError::Ended { pid, status },
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => ProcessError::Lost { pid },
            Err(error) => error.into(),
            Ok(None) => unreachable!("a wait without an end ended by it"),
        }
    }

    fn is_ours(&self) -> io::Result<()> {
        match self.generation == fork::generation() {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::NotFound,
                ProcessError::Forked,
            )),
        }
    }

    /// Whether there is nothing to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.is_ours().is_err() || self.try_wait().is_ok()
    }
}

/// A worker process and the connection to it. Dropping it closes the connection: the worker ends when it has done
/// the job that it is at.
pub(crate) struct Worker {
    wire: Wire,
    process: Arc<Process>,
}

impl Worker {
    /// Starts this program anew as a worker, which waits for its first job. That takes about a millisecond, for
    /// which the thread is blocked.
    pub(crate) fn start() -> io::Result<Worker> {
        let (process, wire) = Process::start()?;
        Ok(Worker { wire, process })
    }

    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Has a job done, and waits for the reply. If the worker ends meanwhile, the error says how.
    ///
    /// After an error, and after a kill or a timeout in the middle, the worker is of no more use, and ends.
    pub(crate) fn call(&mut self, request: &Request) -> Result<Reply, ProcessError> {
        if self.process.is_ours().is_err() {
            return Err(ProcessError::Forked);
        }
        let unfinished = Unfinished(&self.process);
        self.send(request)?;
        match self.receive(Patience::Forever)? {
            Some(reply) => {
                std::mem::forget(unfinished);
                Ok(reply)
            }
            None => Err(self.process.cause()),
        }
    }

    /// Sends a job. Nothing is said if the worker has ended: whoever waits for the reply will see it.
    pub(super) fn send(&self, request: &Request) -> io::Result<()> {
        match self.wire.send(request.message()) {
            Err(error) if is_end(&error) => Ok(()),
            other => other,
        }
    }

    /// Receives a reply; none if the worker has ended, or is about to.
    pub(super) fn receive(&self, patience: Patience) -> io::Result<Option<Reply>> {
        self.process.is_ours()?;
        match self.wire.receive(patience) {
            Err(error) if is_end(&error) => Ok(None),
            other => Ok(other?.map(Reply::of)),
        }
    }

    /// There will be no more jobs: the worker ends when it has done those that were sent.
    pub(crate) fn finish(&self) {
        if self.process.is_ours().is_ok() {
            self.wire.finish();
        }
    }
}

/// What the kernel says when the other end was closed, before or after it had read everything.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// A call that is left in the middle: its reply would be taken for that of the next.
struct Unfinished<'a>(&'a Process);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // It may have ended, and then this does nothing.
        let _ = self.0.signal(libc::SIGKILL);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.finish();
        reaper::adopt(&self.process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::JoinError;

    fn count(step: u64) -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        COUNT.fetch_add(step, Ordering::SeqCst) + step
    }

    fn call(worker: &mut Worker, f: fn(u64) -> u64, argument: u64) -> Result<u64, JoinError> {
        let request = Request::new(f, &argument).unwrap();
        worker.call(&request)?.into_result()
    }

    #[test]
    fn one_worker_does_many_jobs_and_keeps_its_state() {
        let mut worker = Worker::start().unwrap();
        for n in 1..=100 {
            assert_eq!(call(&mut worker, count, 2).unwrap(), 2 * n);
        }
        worker.finish();
        let status = worker.process().wait(Patience::Forever).unwrap();
        assert_eq!(status.and_then(|status| status.code()), Some(0));
        let ended = call(&mut worker, count, 2).unwrap_err().to_string();
        assert!(ended.contains("exit status: 0"), "{ended}");
    }

    #[test]
    fn a_worker_survives_a_panic_and_says_how_it_died() {
        let mut worker = Worker::start().unwrap();
        let panics = |n| if n == 1 { panic!("on purpose") } else { n };
        assert!(call(&mut worker, panics, 1).unwrap_err().is_panic());
        assert_eq!(call(&mut worker, panics, 2).unwrap(), 2);
        let dies = |code| std::process::exit(code as i32);
        let died = call(&mut worker, dies, 9).unwrap_err().to_string();
        assert!(died.contains("exit status: 9"), "{died}");
    }

    #[test]
    fn what_a_job_spawned_and_did_not_join_is_killed_when_it_ends() {
        use std::sync::atomic::{AtomicU64, Ordering};
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        struct Drops;
        impl Drop for Drops {
            fn drop(&mut self) {
                DROPPED.fetch_add(1, Ordering::SeqCst);
            }
        }
        let leaves = |_| {
            crate::spawn(|| {
                let _drops = Drops;
                crate::sleep(std::time::Duration::MAX);
            });
            crate::yield_now();
            DROPPED.load(Ordering::SeqCst)
        };
        let mut worker = Worker::start().unwrap();
        assert_eq!(call(&mut worker, leaves, 0).unwrap(), 0);
        assert_eq!(call(&mut worker, leaves, 0).unwrap(), 1);
    }

    #[test]
    fn a_call_that_is_left_in_the_middle_ends_the_worker() {
        let sleeps = |n| {
            crate::sleep(std::time::Duration::MAX);
            n
        };
        let mut worker = Worker::start().unwrap();
        let process = Arc::clone(worker.process());
        let caller = crate::spawn(move || call(&mut worker, sleeps, 1));
        crate::yield_now();
        caller.kill_wait();
        let status = process.wait(Patience::Forever).unwrap().unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
