//! An allocator that counts, and that finds who writes where nothing is his:
//!
//! ```text
//!   one allocation:   | size, MARK |  what was asked for  | MARK |
//!   when given back:  both marks are looked at, and all of it is filled with DEAD;
//!                     it lies in quarantine for a while, and must be DEAD still
//!                     when it leaves
//! ```
//!
//! Under valgrind, which sees all of that itself, it is the system's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// What lies around each allocation.
const MARK: u64 = 0x5afe_c0de_5afe_c0de;
/// What is in memory that has been given back.
const DEAD: u8 = 0xdd;
/// The largest allocations that are kept in quarantine, and how many.
const KEPT_BYTES: usize = 4096;
const KEPT: usize = 1024;

/// Set where all this is to be left to somebody else.
pub const PLAIN: &std::ffi::CStr = c"GREENLET_SOAK_PLAIN";

pub struct Guarded {
    /// 0 as long as nobody has asked.
    plain: AtomicU8,
    bytes: AtomicUsize,
    count: AtomicUsize,
    /// Held for a few instructions, and never while anything waits.
    busy: AtomicBool,
    kept: UnsafeCell<Ring>,
}

struct Ring {
    next: usize,
    places: [(*mut u8, usize, usize); KEPT],
}

// SAFETY: the ring is used by who holds `busy`.
unsafe impl Sync for Guarded {}

impl Guarded {
    pub const fn new() -> Guarded {
        Guarded {
            plain: AtomicU8::new(0),
            bytes: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            kept: UnsafeCell::new(Ring {
                next: 0,
                places: [(ptr::null_mut(), 0, 0); KEPT],
            }),
        }
    }

    /// How many bytes are allocated, in how many pieces.
    pub fn in_use(&self) -> (usize, usize) {
        let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (of(&self.bytes), of(&self.count))
    }

    fn is_plain(&self) -> bool {
        let known = self.plain.load(Ordering::Relaxed);
        if known != 0 {
            return known == 2;
        }
        // SAFETY: a string with its end; nobody changes the environment yet.
        let plain = unsafe { !libc::getenv(PLAIN.as_ptr()).is_null() };
        self.plain.store(1 + u8::from(plain), Ordering::Relaxed);
        plain
    }

    /// Puts memory into quarantine; what comes out for it, to be freed.
    fn exchange(&self, block: (*mut u8, usize, usize)) -> (*mut u8, usize, usize) {
        while self.busy.swap(true, Ordering::Acquire) {
            // An OS thread holds it, and is about to let go of it.
            std::hint::spin_loop();
        }
        // SAFETY: `busy` is held.
        let ring = unsafe { &mut *self.kept.get() };
        let old = std::mem::replace(&mut ring.places[ring.next], block);
        ring.next = (ring.next + 1) % KEPT;
        self.busy.store(false, Ordering::Release);
        old
    }
}

/// Bytes before what was asked for, and the layout with both marks.
fn around(layout: Layout) -> Option<(usize, Layout)> {
    let before = layout.align().max(16);
    let size = layout.size().checked_add(before + 8)?;
    Some((before, Layout::from_size_align(size, before).ok()?))
}

fn fail(what: &str) -> ! {
    // Nothing is allocated on the way.
    // SAFETY: a string of this length.
    unsafe { libc::write(2, what.as_ptr().cast(), what.len()) };
    std::process::abort();
}

// SAFETY: it is the system's, with something before and behind.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.is_plain() {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        }
        let Some((before, outer)) = around(layout) else {
            return ptr::null_mut();
        };
        // SAFETY: it is not of size 0; all that is written lies in it.
        unsafe {
            let start = System.alloc(outer);
            if start.is_null() {
                return start;
            }
            let at = start.add(before);
            at.sub(16).cast::<u64>().write(layout.size() as u64);
            at.sub(8).cast::<u64>().write(MARK);
            at.add(layout.size()).cast::<u64>().write_unaligned(MARK);
            self.bytes.fetch_add(layout.size(), Ordering::Relaxed);
            self.count.fetch_add(1, Ordering::Relaxed);
            at
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if self.is_plain() {
            // SAFETY: the caller's promise.
            return unsafe { System.dealloc(at, layout) };
        }
        let Some((before, outer)) = around(layout) else {
            fail("allocator: a size that never was\n");
        };
        let size = layout.size();
        // SAFETY: as above, says the caller; if not, the marks most probably say so.
        unsafe {
            if at.sub(8).cast::<u64>().read() != MARK {
                fail("allocator: freed twice, or somebody wrote before it\n");
            }
            if at.sub(16).cast::<u64>().read() != size as u64 {
                fail("allocator: freed with another size\n");
            }
            if at.add(size).cast::<u64>().read_unaligned() != MARK {
                fail("allocator: somebody wrote behind it\n");
            }
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
            let start = at.sub(before);
            start.write_bytes(DEAD, outer.size());
            if outer.size() > KEPT_BYTES {
                return System.dealloc(start, outer);
            }
            let (old, size, align) = self.exchange((start, outer.size(), outer.align()));
            if old.is_null() {
                return;
            }
            if std::slice::from_raw_parts(old, size)
                .iter()
                .any(|byte| *byte != DEAD)
            {
                fail("allocator: somebody wrote to memory that had been freed\n");
            }
            System.dealloc(old, Layout::from_size_align_unchecked(size, align));
        }
    }
}
