//! The memory of a block: how much there must be, and where in it the thread pointer is.
//!
//! `_dl_allocate_tls` has memory of its own for whoever gives it none, and leaves in the
//! room for libraries that are loaded later whatever was there before. Their thread-locals
//! would not begin as zero in those who live already. So it is given memory that is zero,
//! as threads' stacks are on which glibc makes a block itself:
//!
//! ```text
//!    start                               base (fs)
//!      ┌───────────────┬──────────────────┬──────────────────┐
//!      │ room for      │ thread-locals of │ struct pthread   │
//!      │ libraries     │ what is loaded   │                  │
//!      └───────────────┴──────────────────┴──────────────────┘
//!      ◀───────────── below ─────────────▶◀────── size ──────▶
//! ```
//!
//! How much is below nobody tells. But a thread's first frame stands just below its block:
//! so the distance from there is enough, and hardly more. glibc notes behind a block where
//! its memory begins; what is found there counts, if it is about that.

use std::ffi::c_void;
use std::ptr::NonNull;

use super::base::Base;
use crate::error::IsolationError;

/// More is not plausible.
const MOST: usize = 1 << 20;
/// The frames of a thread's beginning are smaller than that.
const FRAMES: usize = 4096;

/// What all blocks have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    below: usize,
    size: usize,
    align: usize,
}

impl Shape {
    /// Of blocks with a `struct pthread` of so many bytes, of which a thread has one whose
    /// first frame is so far below it. `noted` is how far below another block its memory
    /// begins, if that is what is noted there.
    pub(super) fn new(
        size: usize,
        first_frame: usize,
        noted: usize,
    ) -> Result<Shape, IsolationError> {
        let align = alignment();
        if !(align..MOST).contains(&first_frame) || align > FRAMES {
            return Err(IsolationError::Unverified {
                what: "where the stack of a thread begins",
            });
        }
        let is_plausible = noted <= first_frame + align && noted + FRAMES > first_frame;
        Ok(Shape {
            below: if is_plausible { noted } else { first_frame },
            size,
            align,
        })
    }
}

/// As the thread-locals of all that is loaded need it; the loader refuses what needs more.
fn alignment() -> usize {
    extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        most: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes valid records, and our variable back.
        unsafe {
            let (info, most) = (&*info, &mut *most.cast::<usize>());
            for index in 0..usize::from(info.dlpi_phnum) {
                let header = &*info.dlpi_phdr.add(index);
                if header.p_type == libc::PT_TLS {
                    *most = (*most).max(header.p_align as usize);
                }
            }
        }
        0
    }
    // That of `struct pthread`.
    let mut most = 64_usize;
    // SAFETY: the callback has the type that is asked for, and the variable outlives it.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut most).cast()) };
    most.next_power_of_two()
}

/// Memory for one block.
pub(super) struct Memory {
    start: NonNull<c_void>,
}

impl Memory {
    /// Zeros, and where in it the thread pointer is to be; none if there is no memory.
    pub(super) fn new(shape: Shape) -> Option<(Memory, Base)> {
        let Shape { below, size, align } = shape;
        // SAFETY: it has no preconditions.
        let start = NonNull::new(unsafe { libc::calloc(1, below + align + size) })?;
        let above = start.as_ptr() as usize + below;
        let padding = above.next_multiple_of(align) - above;
        // SAFETY: that is less than the alignment away, and so within the memory.
        let base = unsafe { start.cast::<u8>().add(below + padding) };
        Some((Memory { start }, Base::new(base)))
    }

    /// # Safety
    /// Nobody refers to it.
    pub(super) unsafe fn free(&mut self) {
        // SAFETY: it came from `calloc`; the rest is the caller's promise.
        unsafe { libc::free(self.start.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_counts_if_it_is_plausible() {
        let below = |noted| Shape::new(2304, 3000, noted).unwrap().below;
        assert_eq!(below(2600), 2600);
        // As where nothing is noted, or something else.
        for noted in [0_usize.wrapping_sub(64), 0x5555_0000_0000, 5000] {
            assert_eq!(below(noted), 3000);
        }
    }

    #[test]
    fn no_stack_begins_in_another_mapping() {
        for first_frame in [0, 8, 1 << 30, usize::MAX] {
            assert!(Shape::new(2304, first_frame, 64).is_err());
        }
    }

    #[test]
    fn it_is_zero_and_aligned() {
        let shape = Shape::new(2304, 3000, 0).unwrap();
        for _ in 0..100 {
            let (mut memory, base) = Memory::new(shape).unwrap();
            assert_eq!(base.address() % shape.align, 0);
            let start = base.address() - shape.below;
            assert!(start >= memory.start.as_ptr() as usize);
            // SAFETY: all of it is ours, and nobody refers to it at the end.
            unsafe {
                let len = shape.below + shape.size;
                let bytes = std::slice::from_raw_parts_mut(start as *mut u8, len);
                assert!(bytes.iter().all(|byte| *byte == 0));
                bytes.fill(0xaa);
                memory.free();
            }
        }
    }
}
