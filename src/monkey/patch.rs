//! Switching it on: `patch_all`, `Patch`, and the table of what is covered.

use std::ffi::CString;
use std::mem::MaybeUninit;

use super::entry::{self, Part, Row};
use super::signal;
use crate::error::PatchError;
use crate::hub::{self, Hub};
use crate::sys::panics::PanicCount;

/// All functions that take the place of libc's.
static TABLES: &[&[Row]] = &[
    super::sleep::ROWS,
    super::receive::ROWS,
    super::send::ROWS,
    super::connect::ROWS,
    super::stream::ROWS,
    super::descriptor::ROWS,
    super::poll::ROWS,
    super::select::ROWS,
    super::epoll::ROWS,
    super::futex::ROWS,
    super::join::ROWS,
    super::signal::ROWS,
    super::await_signal::ROWS,
    super::process::ROWS,
    super::disk::ROWS,
    super::transfer::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::shell::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::dns::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::hosts::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::identity::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::mutex::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::cond::WAITS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::cond::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::rwlock::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::barrier::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::once::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::spin::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::c11::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::semaphore::WAITS,
    #[cfg(not(target_feature = "crt-static"))]
    super::locks::semaphore::ROWS,
    #[cfg(not(target_feature = "crt-static"))]
    super::threads::CREATE,
    #[cfg(not(target_feature = "crt-static"))]
    super::threads::JOIN,
    #[cfg(not(target_feature = "crt-static"))]
    super::threads::ABOUT,
    #[cfg(not(target_feature = "crt-static"))]
    super::threads::SCHEDULING,
];

fn rows() -> impl Iterator<Item = &'static Row> {
    TABLES.iter().copied().flatten()
}

/// Patches everything that [`Patch::new`] names. See the
/// [module](crate::monkey).
///
/// Calling it again is harmless, and it does not matter when it is called: what is
/// open or locked by then is patched as well.
///
/// # Errors
/// [`PatchError`] if the program's calls do not reach this crate, or if threads cannot be
/// greenlets here. Nothing is patched then; what [`Patch::threads`] leaves out can be.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// greenlet::monkey::patch_all()?;
/// let long = greenlet::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
/// let short = greenlet::spawn(|| std::thread::sleep(Duration::from_millis(1)));
/// short.join().unwrap();
/// assert!(!long.is_finished());
/// # Ok::<(), greenlet::error::PatchError>(())
/// ```
pub fn patch_all() -> Result<(), PatchError> {
    Patch::new().apply()
}

/// Which parts are to be patched.
///
/// # Examples
/// ```
/// use greenlet::monkey::{Part, Patch, is_patched};
///
/// Patch::new().locks(false).apply()?;
/// assert!(is_patched("recv"));
/// assert!(is_patched("sockets") && !is_patched("locks"));
/// # Ok::<(), greenlet::error::PatchError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is patched before `apply`"]
pub struct Patch {
    parts: u32,
    hubs: usize,
}

impl Default for Patch {
    fn default() -> Patch {
        Patch::new()
    }
}

/// The parts, by the names that `Patch` and `is_patched` have for them.
const PARTS: [(&str, Part); 9] = [
    ("sleep", Part::Sleep),
    ("sockets", Part::Sockets),
    ("poll", Part::Poll),
    ("epoll", Part::Epoll),
    ("files", Part::Files),
    ("process", Part::Process),
    ("dns", Part::Dns),
    ("locks", Part::Locks),
    ("threads", Part::Threads),
];

impl Patch {
    /// Everything but `epoll_wait`: who calls that mostly has a loop of its own,
    /// with marks in thread-locals that another greenlet would run into, as
    /// tokio's `block_on` has. [`epoll`](Patch::epoll) adds it.
    pub const fn new() -> Patch {
        let mut parts = 0;
        let mut at = 0;
        while at < PARTS.len() {
            parts |= PARTS[at].1.bit();
            at += 1;
        }
        Patch {
            parts: parts & !Part::Epoll.bit(),
            hubs: 0,
        }
    }

    const fn set(self, part: Part, on: bool) -> Patch {
        let parts = match on {
            true => self.parts | part.bit(),
            false => self.parts & !part.bit(),
        };
        Patch {
            parts,
            hubs: self.hubs,
        }
    }

    /// Sleeping, and `sched_yield`.
    pub const fn sleep(self, on: bool) -> Patch {
        self.set(Part::Sleep, on)
    }

    /// Sockets.
    pub const fn sockets(self, on: bool) -> Patch {
        self.set(Part::Sockets, on)
    }

    /// `poll` and `select`.
    pub const fn poll(self, on: bool) -> Patch {
        self.set(Part::Poll, on)
    }

    /// `epoll_wait`; not among those of `new`.
    pub const fn epoll(self, on: bool) -> Patch {
        self.set(Part::Epoll, on)
    }

    /// Pipes and terminals, and locking and syncing files.
    pub const fn files(self, on: bool) -> Patch {
        self.set(Part::Files, on)
    }

    /// Waiting for processes and threads to end.
    pub const fn process(self, on: bool) -> Patch {
        self.set(Part::Process, on)
    }

    /// Looking up names.
    pub const fn dns(self, on: bool) -> Patch {
        self.set(Part::Dns, on)
    }

    /// std's locks, and those of C.
    pub const fn locks(self, on: bool) -> Patch {
        self.set(Part::Locks, on)
    }

    /// New threads: where the calling thread makes one from now on, and where such
    /// a thread does, it is an isolated greenlet.
    ///
    /// Threads that other OS threads make stay OS threads, until these call `apply` too.
    /// An OS thread ends after the threads that run on it, and a process with its main
    /// thread, as ever. [`os_thread`](super::os_thread) makes OS threads nevertheless.
    pub const fn threads(self, on: bool) -> Patch {
        self.set(Part::Threads, on)
    }

    /// Has new threads placed on so many further OS threads, in turn, rather than on the
    /// one that makes them; they stay where they are placed. Without
    /// [`threads`](Patch::threads) it has no effect.
    ///
    /// If there are more already, these stay.
    ///
    /// # Examples
    /// ```
    /// use greenlet::monkey::Patch;
    ///
    /// let cores = std::thread::available_parallelism()?.get();
    /// # if greenlet::isolation().is_err() { return Ok(()); }
    /// Patch::new().hubs(cores).apply()?;
    /// let threads = [1, 2, 3].map(|n| std::thread::spawn(move || n * n));
    /// assert_eq!(threads.map(|thread| thread.join().unwrap()), [1, 4, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn hubs(self, count: usize) -> Patch {
        Patch {
            parts: self.parts,
            hubs: count,
        }
    }

    /// Patches these parts, beside those that are patched already.
    ///
    /// # Errors
    /// As for [`patch_all`]; and [`PatchError::Hubs`], when everything is patched.
    pub fn apply(self) -> Result<(), PatchError> {
        for row in rows() {
            if !is_in_place(row) {
                return Err(PatchError::NotInterposed { symbol: row.name });
            }
        }
        let threads = self.parts & Part::Threads.bit() != 0;
        if threads {
            crate::isolation()?;
        }
        // To be known before a panic hook asks; and a thread is started to find it, which
        // is not for the middle of whatever parks first.
        let _ = PanicCount::get();
        if self.parts & Part::Locks.bit() != 0 {
            super::as_thread::prepare();
            #[cfg(not(target_feature = "crt-static"))]
            super::locks::prepare();
        }
        // Before anything parks, for handlers must not.
        signal::wrap_all();
        entry::switch_on(self.parts);
        #[cfg(not(target_feature = "crt-static"))]
        if threads {
            Hub::get().make_threads();
            super::threads::start_hubs(self.hubs)
                .map_err(|error| PatchError::Hubs(error.kind()))?;
        }
        Ok(())
    }
}

/// The first function that isolated greenlets need to be ours, and which is not. In a
/// statically linked program they are not possible for other reasons.
pub(crate) fn not_in_place() -> Option<&'static str> {
    #[cfg(not(target_feature = "crt-static"))]
    for row in super::identity::ROWS {
        if !is_in_place(row) {
            return Some(row.name);
        }
    }
    None
}

/// Whether the program's calls of this function are calls of ours.
fn is_in_place(row: &Row) -> bool {
    let ours = (row.address)();
    if cfg!(target_feature = "crt-static") {
        // There is one of each name in the program, and it has linked.
        return ours != 0;
    }
    let Ok(name) = CString::new(row.name) else {
        return false;
    };
    // SAFETY: the name is a string with its end.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // A libc that has none of that name exports none of ours; who calls it is in the
    // program itself. In a plug-in even the address of our own function, taken by
    // name, is that of libc's: so it is asked in which object it is.
    found.is_null() || object_of(found as usize) == object_of(is_in_place as *const () as usize)
}

/// Where the program or library begins that this address is in.
fn object_of(address: usize) -> Option<usize> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: the record is written if something is found.
    unsafe {
        (libc::dladdr(address as *const _, info.as_mut_ptr()) != 0)
            .then(|| info.assume_init().dli_fbase as usize)
    }
}

/// Whether a function of libc, or a part by its name in [`Patch`], is patched.
///
/// # Examples
/// ```
/// assert!(!greenlet::monkey::is_patched("no such function"));
/// ```
#[must_use]
pub fn is_patched(name: &str) -> bool {
    let part = PARTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, part)| *part)
        .or_else(|| rows().find(|row| row.name == name).map(|row| row.part));
    part.is_some_and(entry::is_on)
}

/// One function of libc that this crate takes the place of.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Covered {
    /// Its name.
    pub name: &'static str,
    /// What it is patched with.
    pub part: Part,
    /// What it does in a greenlet, when patched.
    pub what: &'static str,
    /// Whether it is patched.
    pub patched: bool,
}

/// The functions of libc that this crate takes the place of.
///
/// # Examples
/// ```
/// for function in greenlet::monkey::coverage() {
///     println!("{:16} {}", function.name, function.what);
/// }
/// ```
#[must_use]
pub fn coverage() -> Vec<Covered> {
    rows()
        .map(|row| Covered {
            name: row.name,
            part: row.part,
            what: row.what.trim(),
            patched: entry::is_on(row.part),
        })
        .collect()
}

/// Has blocking calls of this greenlet block its thread while `f` runs, as if
/// nothing were patched. Others of the thread stand still meanwhile.
///
/// It is for code that must not be interrupted by other greenlets. Blocking calls of
/// this crate's own park as ever, and greenlets that `f` spawns are patched.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// greenlet::monkey::patch_all()?;
/// let other = greenlet::spawn(|| ());
/// greenlet::monkey::unpatched(|| std::thread::sleep(Duration::from_millis(1)));
/// assert!(!other.is_finished());
/// other.join().unwrap();
/// # Ok::<(), greenlet::error::PatchError>(())
/// ```
pub fn unpatched<R>(f: impl FnOnce() -> R) -> R {
    hub::passing(f)
}
