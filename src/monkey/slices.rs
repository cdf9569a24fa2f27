//! The buffers of a scattered read or a gathered write, and what is left of them
//! when a part is done.

use std::ffi::c_int;

use libc::{iovec, msghdr};

/// A copy of an array of buffers. The caller's own is not changed.
pub(super) struct Slices {
    all: Vec<iovec>,
    rest: Vec<iovec>,
}

impl Slices {
    /// # Safety
    /// The kernel has just read the array from there.
    pub(super) unsafe fn of_array(array: *const iovec, count: c_int) -> Slices {
        // SAFETY: the caller's promise, of each of them.
        let all = (0..count as usize).map(|at| unsafe { array.add(at).read_unaligned() });
        Slices {
            all: all.collect(),
            rest: Vec::new(),
        }
    }

    /// # Safety
    /// The kernel has just read the header from there, and its array.
    pub(super) unsafe fn of_message(message: *const msghdr) -> Slices {
        // SAFETY: the caller's promise.
        unsafe {
            let message = message.read_unaligned();
            Slices::of_array(message.msg_iov, message.msg_iovlen as c_int)
        }
    }

    /// How many bytes there are in all.
    pub(super) fn len(&self) -> usize {
        self.all.iter().map(|slice| slice.iov_len).sum()
    }

    /// What is left when so many bytes are done.
    pub(super) fn after(&mut self, mut done: usize) -> &mut [iovec] {
        self.rest.clear();
        for slice in &self.all {
            let skipped = done.min(slice.iov_len);
            done -= skipped;
            if skipped < slice.iov_len {
                self.rest.push(iovec {
                    iov_base: slice.iov_base.wrapping_byte_add(skipped),
                    iov_len: slice.iov_len - skipped,
                });
            }
        }
        &mut self.rest
    }

    /// A message of nothing but these buffers.
    pub(super) fn header(slices: &mut [iovec]) -> msghdr {
        // SAFETY: a header of zeros is one without a name, buffers or control data.
        let mut header: msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = slices.as_mut_ptr();
        header.msg_iovlen = slices.len() as _;
        header
    }
}
