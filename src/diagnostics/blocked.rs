//! What is known of a greenlet that holds its thread, and how it is told.

use std::fmt;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::symbols;
use crate::sys::probe::Note;
use crate::sys::published::Published;
use crate::sys::{os, threads};

/// A greenlet that holds its thread for too long. `Display` gives the report.
#[derive(Clone, Debug)]
pub struct Blocked {
    /// None if the thread has not answered.
    greenlet: Option<Holder>,
    thread: i32,
    thread_name: Option<String>,
    held: Duration,
    computed: Option<Duration>,
    frames: Vec<Frame>,
}

#[derive(Clone, Debug)]
struct Holder {
    name: String,
    spawned_at: Option<&'static Location<'static>>,
    others: usize,
}

/// One of the calls that a greenlet is in.
#[derive(Clone, Debug)]
pub struct Frame {
    pub(super) address: usize,
    pub(super) function: Option<String>,
    pub(super) object: Option<PathBuf>,
    pub(super) offset: usize,
}

impl Frame {
    /// The address in memory of the instruction that is being carried out, or that
    /// has made the call.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address
    }

    /// The name of the function, where the program still has it.
    #[must_use]
    pub fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }

    /// The program or the shared object that it belongs to, and the address in that
    /// file, as `addr2line -e` wants it.
    #[must_use]
    pub fn object(&self) -> Option<(&Path, usize)> {
        Some((self.object.as_deref()?, self.offset))
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.function.as_deref().unwrap_or("(no name)");
        match &self.object {
            Some(object) => write!(f, "{name} ({}+{:#x})", object.display(), self.offset),
            None => write!(f, "{name} ({:#x})", self.address),
        }
    }
}

impl Blocked {
    pub(super) fn new(
        thread: i32,
        held: Duration,
        computed: Option<Duration>,
        note: Note,
        calls: &[usize],
    ) -> Blocked {
        let name = note.name.get(..note.name_len).unwrap_or_default();
        Blocked {
            greenlet: Some(Holder {
                name: String::from_utf8_lossy(name).into_owned(),
                spawned_at: note.spawned_at,
                others: note.others,
            }),
            frames: symbols::resolve(calls),
            ..Blocked::silent(thread, held, computed)
        }
    }

    /// One of which nothing more is known.
    pub(super) fn silent(thread: i32, held: Duration, computed: Option<Duration>) -> Blocked {
        Blocked {
            greenlet: None,
            thread,
            thread_name: threads::name_of(thread),
            held,
            computed,
            frames: Vec::new(),
        }
    }

    /// The greenlet's name, as in [`Current::name`](crate::Current::name). None if
    /// its thread has not answered: it holds signals back, or is in a system call
    /// that cannot be interrupted, or the program has a handler of its own for
    /// SIGURG.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        Some(&self.greenlet.as_ref()?.name)
    }

    /// Where it was spawned; none for a thread's main greenlet.
    #[must_use]
    pub fn spawned_at(&self) -> Option<&'static Location<'static>> {
        self.greenlet.as_ref()?.spawned_at
    }

    /// The kernel's number of the thread, as `ps -L` shows it, and its name.
    #[must_use]
    pub fn thread(&self) -> (i32, Option<&str>) {
        (self.thread, self.thread_name.as_deref())
    }

    /// For how long, at least, it has held the thread by now.
    #[must_use]
    pub fn held(&self) -> Duration {
        self.held
    }

    /// How much of that time the thread was on a processor. Little: it waits in a
    /// system call, or the machine was busy as well. None: the kernel does not tell.
    #[must_use]
    pub fn computed(&self) -> Option<Duration> {
        self.computed
    }

    /// How many other greenlets the thread has.
    #[must_use]
    pub fn others(&self) -> usize {
        self.greenlet.as_ref().map_or(0, |greenlet| greenlet.others)
    }

    /// The calls that it is in, the innermost first; at most 64.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Writes the report to the standard error stream, past std's lock.
    pub fn print(&self) {
        os::write_stderr(self.to_string().as_bytes());
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "greenlet: watchdog: ")?;
        match &self.greenlet {
            Some(greenlet) => write!(f, "'{}'", greenlet.name)?,
            None => write!(f, "a greenlet")?,
        }
        if let Some(spawned_at) = self.spawned_at() {
            write!(f, ", spawned at {spawned_at},")?;
        }
        write!(f, " has held thread {}", self.thread)?;
        if let Some(name) = &self.thread_name {
            write!(f, " ('{name}')")?;
        }
        write!(f, " for {} ms", self.held.as_millis())?;
        if let Some(computed) = self.computed {
            write!(f, " ({} ms of it computing)", computed.as_millis())?;
        }
        match self.others() {
            0 => {}
            1 => write!(f, " while 1 other greenlet waits")?,
            others => write!(f, " while {others} other greenlets wait")?,
        }
        if self.greenlet.is_none() {
            writeln!(f, ", and cannot be interrupted to say where it is")?;
        } else {
            writeln!(f, ":")?;
        }
        for (number, frame) in self.frames.iter().enumerate() {
            writeln!(f, "{number:4}: {frame}")?;
        }
        writeln!(
            f,
            "greenlet: watchdog: see `offload`, `yield_now` and `diagnostics::unwatched`; \
             GREENLET_WATCHDOG=off ends these reports"
        )
    }
}

type Hook = Box<dyn Fn(&Blocked) + Send + Sync>;

static HOOK: Published<Hook> = Published::nothing();

/// Has `hook` called in place of each report of the [`watchdog`](super::watchdog).
///
/// It runs on the watchdog's thread, and until it returns nobody is watched, so it
/// must not wait for greenlets. What it panics with is dropped. The one before is
/// replaced, and never freed. [`Blocked::print`] does what is done without one.
///
/// # Examples
/// ```
/// use greenlet::diagnostics::on_blocked;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// static BLOCKED: AtomicU64 = AtomicU64::new(0);
/// on_blocked(|blocked| {
///     BLOCKED.fetch_add(1, Ordering::Relaxed);
///     blocked.print();
/// });
/// ```
#[doc(alias = "EventLoopBlocked")]
pub fn on_blocked(hook: impl Fn(&Blocked) + Send + Sync + 'static) {
    HOOK.set(Box::new(hook));
}

/// Tells whoever wants to know.
pub(super) fn tell(blocked: &Blocked) {
    match HOOK.get() {
        Some(hook) => crate::hub::contain(|| hook(blocked)),
        None => blocked.print(),
    }
}
