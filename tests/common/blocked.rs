//! What the tests of the watchdog share: greenlets that hold their thread, and what is
//! reported of them.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use greenlet::diagnostics::{Blocked, on_blocked};
use greenlet::{Builder, sleep, spawn};

use crate::common::{self, Finished, in_subprocess_with};

pub const VARIABLE: &str = "GREENLET_WATCHDOG";

/// Runs `body` alone, with the watchdog set so by the environment.
pub fn with(setting: &str, name: &str, body: impl FnOnce()) -> Option<Finished> {
    let _watchdog = common::watchdog();
    let finished = in_subprocess_with(name, &[(VARIABLE, setting)], body)?;
    finished.succeeded();
    Some(finished)
}

pub fn reports_of(finished: &Finished, name: &str) -> usize {
    let start = format!("greenlet: watchdog: {name}");
    finished.stderr.matches(&start).count()
}

/// Holds the thread until it is so.
#[inline(never)]
pub fn spin_until(so: impl Fn() -> bool) {
    while !so() {
        std::hint::black_box(());
    }
}

/// Holds the thread, and has it compute for so long: however busy the machine is.
#[inline(never)]
pub fn spin_for(time: Duration) {
    let start = computed();
    spin_until(|| computed() - start >= time);
}

/// How long the calling thread has computed by now.
fn computed() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes a time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A greenlet that only waits, so that somebody is kept waiting.
pub fn bystander() -> greenlet::JoinHandle<()> {
    spawn(|| sleep(Duration::from_secs(3600)))
}

/// Runs `body` in a greenlet with this name, beside others.
#[track_caller]
pub fn in_greenlet<T: 'static>(name: &str, body: impl FnOnce() -> T + 'static) -> T {
    let _other = bystander();
    let handle = Builder::new().name(name).spawn(body).unwrap();
    handle.join().unwrap()
}

/// Keeps the reports, and prints them too; those who hold a thread wait for them.
pub struct Reports {
    pub all: Mutex<Vec<Blocked>>,
    pub count: AtomicUsize,
}

pub static REPORTS: Reports = Reports {
    all: Mutex::new(Vec::new()),
    count: AtomicUsize::new(0),
};

impl Reports {
    pub fn keep() {
        on_blocked(|blocked| {
            blocked.print();
            REPORTS.all.lock().unwrap().push(blocked.clone());
            REPORTS.count.fetch_add(1, Ordering::SeqCst);
        });
    }

    pub fn count() -> usize {
        REPORTS.count.load(Ordering::SeqCst)
    }

    pub fn of_thread(name: &str) -> usize {
        let all = REPORTS.all.lock().unwrap();
        let is_its = |one: &&Blocked| one.thread().1 == Some(name);
        all.iter().filter(is_its).count()
    }

    pub fn named(name: &str) -> Option<Blocked> {
        let all = REPORTS.all.lock().unwrap();
        all.iter().find(|one| one.name() == Some(name)).cloned()
    }
}

pub fn functions_of(blocked: &Blocked) -> Vec<String> {
    let names = blocked.frames().iter().filter_map(|frame| frame.function());
    names.map(str::to_owned).collect()
}
