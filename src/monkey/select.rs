//! `select` and `pselect`.
//!
//! As for `poll`, the kernel is asked first, without waiting. It writes its answer
//! over the question, so that is kept:
//!
//! ```text
//!   the caller's set   1 0 1 1 │ 1 …    kept    1 0 1 1 │ 1 …
//!   after the call     0 0 0 0 │ 1 …
//!                               └── beyond the numbers that this process can
//!                                   have the kernel looks at nothing
//! ```
//!
//! A set bit that is cleared in a call that found nothing ready was part of the
//! question. On an error the sets are as they were.

use std::ffi::{c_int, c_ulong};
use std::os::fd::RawFd;
use std::ptr;

use libc::{fd_set, sigset_t, timespec, timeval};

use super::entry::{Answer, Part, hub, interposed, operation_within, raw};
use super::kernel;
use crate::hub::{Hub, Interest, WatchEnded, bits};
use crate::sys::clock;
use crate::sys::os::{self, Errno};

interposed! {
    Poll;

    /// Waits for descriptors; parks until one is ready.
    fn select(
        count: c_int,
        readable: *mut fd_set,
        writable: *mut fd_set,
        exceptional: *mut fd_set,
        time: *mut timeval,
    ) -> c_int {
        let sets = [readable, writable, exceptional];
        // SAFETY: the caller's promise.
        unsafe { select_and_tell(count, sets, time) }.answer() as c_int
    }

    /// Waits for descriptors; parks until one is ready, unless the signal mask is another.
    fn pselect(
        count: c_int,
        readable: *mut fd_set,
        writable: *mut fd_set,
        exceptional: *mut fd_set,
        time: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        let sets = [readable, writable, exceptional];
        // SAFETY: the caller's promise.
        let answer = unsafe {
            match hub(Part::Poll) {
                None => plain(count, sets, &mut time.as_ref().copied(), mask),
                Some(hub) => kernel::time_or_never(time)
                    .and_then(|time| select_parking(hub, count, sets, time, mask)),
            }
        };
        answer.answer() as c_int
    }

    /// As `select`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __select(
        count: c_int,
        readable: *mut fd_set,
        writable: *mut fd_set,
        exceptional: *mut fd_set,
        time: *mut timeval,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { select(count, readable, writable, exceptional, time) }
    }
}

type Sets = [*mut fd_set; 3];

/// What each of the three sets asks for.
const WANTED: [u32; 3] = [bits::IN, bits::OUT, bits::PRI];

/// The system call, which leaves in the time what is left of it.
///
/// # Safety
/// As for `pselect`.
unsafe fn plain(
    count: c_int,
    sets: Sets,
    time: &mut Option<timespec>,
    mask: *const sigset_t,
) -> Result<usize, Errno> {
    let [readable, writable, exceptional] = sets;
    let time = time.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    let mask = [mask as usize, kernel::MASK_SIZE];
    // SAFETY: the caller's promise; the kernel reads two words of a live array.
    unsafe {
        raw!(
            libc::SYS_pselect6,
            count,
            readable,
            writable,
            exceptional,
            time,
            mask.as_ptr()
        )
    }
}

/// `select`, which writes into the caller's time what is left of it.
///
/// # Safety
/// As for `select`.
unsafe fn select_and_tell(count: c_int, sets: Sets, time: *mut timeval) -> Result<usize, Errno> {
    let (answer, left) = match hub(Part::Poll) {
        None => {
            // SAFETY: the caller's promise; libc's function reads it too.
            let given = (!time.is_null()).then(|| unsafe { time.read_unaligned() });
            let mut time = nanos_of(given)?.map(kernel::timespec_of);
            // SAFETY: as above.
            let answer = unsafe { plain(count, sets, &mut time, ptr::null()) };
            (answer, time.map(kernel::nanos_of))
        }
        Some(hub) => {
            // SAFETY: as above.
            let nanos = nanos_of(unsafe { peek_at(time) }?)?;
            let start = nanos.map(|_| clock::now_ns());
            // SAFETY: as above.
            let answer = unsafe { select_parking(hub, count, sets, nanos, ptr::null()) };
            let left = start
                .zip(nanos)
                .map(|(start, nanos)| nanos.saturating_sub(clock::now_ns().saturating_sub(start)));
            (answer, left)
        }
    };
    if let Some(left) = left {
        let left = timeval {
            tv_sec: (left / 1_000_000_000) as libc::time_t,
            tv_usec: (left % 1_000_000_000 / 1000) as libc::suseconds_t,
        };
        // SAFETY: it has been read from there, and libc's function writes it back.
        unsafe { time.write_unaligned(left) };
    }
    answer
}

/// # Errors
/// EFAULT, where libc's function would crash.
///
/// # Safety
/// The pointer is good, or no good in a way that the kernel finds out.
unsafe fn peek_at(time: *const timeval) -> Result<Option<timeval>, Errno> {
    if time.is_null() {
        return Ok(None);
    }
    let mut words = [0 as c_ulong; 2];
    // SAFETY: the caller's promise.
    if unsafe { kernel::peek(time.cast(), &mut words) } < words.len() {
        return Err(libc::EFAULT);
    }
    let [seconds, micros] = words;
    Ok(Some(timeval {
        tv_sec: seconds as libc::time_t,
        tv_usec: micros as libc::suseconds_t,
    }))
}

/// # Errors
/// As those of libc's function.
fn nanos_of(time: Option<timeval>) -> Result<Option<u64>, Errno> {
    let Some(time) = time else {
        return Ok(None);
    };
    if time.tv_sec < 0 || time.tv_usec < 0 {
        return Err(libc::EINVAL);
    }
    let nanos = (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add((time.tv_usec as u64).saturating_mul(1000));
    Ok(Some(nanos))
}

/// # Safety
/// As for `pselect`.
unsafe fn select_parking(
    hub: &Hub,
    count: c_int,
    sets: Sets,
    time: Option<u64>,
    mask: *const sigset_t,
) -> Result<usize, Errno> {
    operation_within(hub, time)?;
    // SAFETY: the caller's promise.
    let mut question = unsafe { Question::keep(count, sets) };
    // SAFETY: as above.
    let ready = unsafe { plain(count, sets, &mut Some(kernel::NO_TIME), mask) }?;
    if ready > 0 || time == Some(0) {
        return Ok(ready);
    }
    // SAFETY: the kernel has written the sets.
    unsafe { question.keep_what_was_cleared(sets) };
    // SAFETY: the kernel has read it.
    if !mask.is_null() && !unsafe { kernel::is_present_mask(mask) } {
        // SAFETY: as above.
        unsafe { question.write(sets, &question.kept) };
        // SAFETY: the caller's promise.
        return unsafe { plain(count, sets, &mut time.map(kernel::timespec_of), mask) };
    }
    let deadline = time.map(|time| clock::now_ns().saturating_add(time));
    let mut watch = hub.watch(question.interests());
    loop {
        let ended = match watch.park(deadline) {
            Ok(WatchEnded::Closed) => Err(libc::EBADF),
            other => other,
        };
        match ended.and_then(|ended| Ok((question.ask()?, ended))) {
            Ok((0, WatchEnded::TimedOut)) => return Ok(0),
            Ok((0, _)) => {}
            Ok((ready, _)) => {
                // SAFETY: as above.
                unsafe { question.write(sets, &question.answer) };
                return Ok(ready);
            }
            Err(error) => {
                // SAFETY: as above.
                unsafe { question.write(sets, &question.kept) };
                return Err(error);
            }
        }
    }
}

/// What the sets of a call ask for. A set that is not given has no words.
struct Question {
    count: c_int,
    kept: [Vec<c_ulong>; 3],
    answer: [Vec<c_ulong>; 3],
}

const BITS: usize = c_ulong::BITS as usize;

impl Question {
    /// Reads the sets, or as much of them as can be.
    ///
    /// # Safety
    /// The pointers are good, or no good in a way that the kernel finds out.
    unsafe fn keep(count: c_int, sets: Sets) -> Question {
        let bits = match usize::try_from(count).unwrap_or(0) {
            few @ ..=libc::FD_SETSIZE => few,
            // A number beyond what the process has room for now is open nowhere.
            many => many.min(os::proc_field(c"/proc/self/status", b"FDSize:").unwrap_or(many)),
        };
        let kept = sets.map(|set| {
            let mut words = Vec::new();
            if !set.is_null() {
                words.resize(bits.div_ceil(BITS), 0);
                // SAFETY: the caller's promise.
                let whole = unsafe { kernel::peek(set.cast(), &mut words) };
                words.truncate(whole);
            }
            words
        });
        Question {
            count,
            kept,
            answer: [const { Vec::new() }; 3],
        }
    }

    /// The kernel has found nothing ready, and cleared what it has looked at.
    ///
    /// # Safety
    /// They are the sets that were kept, and the call has succeeded.
    unsafe fn keep_what_was_cleared(&mut self, sets: Sets) {
        for (kept, set) in self.kept.iter_mut().zip(sets) {
            for (at, word) in kept.iter_mut().enumerate() {
                // SAFETY: it has been read from there.
                if unsafe { word_of(set, at).read_unaligned() } != 0 {
                    *word = 0;
                }
            }
        }
    }

    /// Writes into the sets where the kernel would.
    ///
    /// # Safety
    /// As for `keep_what_was_cleared`.
    unsafe fn write(&self, sets: Sets, words: &[Vec<c_ulong>; 3]) {
        for ((kept, words), set) in self.kept.iter().zip(words).zip(sets) {
            for (at, (kept, word)) in kept.iter().zip(words).enumerate() {
                if *kept != 0 {
                    // SAFETY: the kernel has cleared it before.
                    unsafe { word_of(set, at).write_unaligned(*word) };
                }
            }
        }
    }

    /// Asks the kernel once more, without waiting.
    fn ask(&mut self) -> Result<usize, Errno> {
        self.answer.clone_from(&self.kept);
        let sets = self.answer.each_mut().map(|words| match &mut words[..] {
            [] => ptr::null_mut(),
            words => words.as_mut_ptr().cast(),
        });
        let words = self.answer.iter().map(Vec::len).max().unwrap_or(0);
        let count = self
            .count
            .min(c_int::try_from(words * BITS).unwrap_or(c_int::MAX));
        // SAFETY: each set is null, or a live array of as many bits as are asked about.
        unsafe { plain(count, sets, &mut Some(kernel::NO_TIME), ptr::null()) }
    }

    fn interests(&self) -> impl Iterator<Item = Interest> {
        let words = self.kept.iter().map(Vec::len).max().unwrap_or(0);
        let fds = (0..words).flat_map(|at| {
            let any = self
                .kept
                .iter()
                .fold(0, |any, set| any | set.get(at).unwrap_or(&0));
            (0..BITS)
                .filter(move |bit| any >> bit & 1 != 0)
                .map(move |bit| (at, bit))
        });
        let count = self.count;
        // The last word is read and written as a whole, but not looked at.
        let fds = fds.filter(move |(at, bit)| ((at * BITS + bit) as RawFd) < count);
        fds.map(|(at, bit)| Interest {
            fd: (at * BITS + bit) as RawFd,
            wanted: self.kept.iter().zip(WANTED).fold(0, |all, (set, wanted)| {
                let is_in = set.get(at).is_some_and(|word| word >> bit & 1 != 0);
                all | if is_in { wanted } else { 0 }
            }),
        })
    }
}

fn word_of(set: *mut fd_set, at: usize) -> *mut c_ulong {
    set.cast::<c_ulong>().wrapping_add(at)
}
