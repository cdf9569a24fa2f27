//! The buffers of a scattered read or a gathered write, and what is left of them
//! when a part is done.

use std::ffi::c_int;

use libc::{iovec, msghdr};

use super::kernel;
use crate::sys::os::Errno;

/// The kernel moves no more at once.
pub(super) const MOST: usize = 0x7fff_f000;

/// How many bytes there are in all, of which the kernel moves no more than so many
/// at once.
///
/// # Safety
/// The kernel has just read the array from there.
pub(super) unsafe fn total(array: *const iovec, count: usize) -> usize {
    (0..count).fold(0, |sum: usize, at| {
        // SAFETY: the caller's promise.
        let slice = unsafe { array.add(at).read_unaligned() };
        sum.saturating_add(slice.iov_len).min(MOST)
    })
}

/// As `total`, of a message.
///
/// # Safety
/// The kernel has just read the message from there, and its array.
pub(super) unsafe fn total_of(message: *const msghdr) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let message = message.read_unaligned();
        total(message.msg_iov, message.msg_iovlen)
    }
}

/// How many buffers there are in an array that a caller has given, which may be no good.
///
/// # Errors
/// EINVAL and EFAULT, as `readv` has them.
fn readable(array: *const iovec, count: c_int) -> Result<usize, Errno> {
    match usize::try_from(count) {
        Ok(count) if count <= libc::UIO_MAXIOV as usize => {
            kernel::readable(array as usize, count * size_of::<iovec>())?;
            Ok(count)
        }
        _ => Err(libc::EINVAL),
    }
}

/// As `total`, of an array that a caller has given.
///
/// # Errors
/// As for `readable`.
pub(super) fn room_of(array: *const iovec, count: c_int) -> Result<usize, Errno> {
    let count = readable(array, count)?;
    // SAFETY: the kernel would read all of the array.
    Ok(unsafe { total(array, count) })
}

/// A copy of an array of buffers. The caller's own is not changed.
#[derive(Default)]
pub(super) struct Slices {
    all: Vec<iovec>,
    rest: Vec<iovec>,
}

impl Slices {
    /// Those of an array that a caller has given, which may be no good.
    ///
    /// # Errors
    /// EINVAL and EFAULT, as `readv` has them.
    pub(super) fn of_array(array: *const iovec, count: c_int) -> Result<Slices, Errno> {
        let count = readable(array, count)?;
        // SAFETY: the kernel would read all of the array.
        Ok(unsafe { Slices::known(array, count) })
    }

    /// # Safety
    /// The kernel has just read the array from there.
    pub(super) unsafe fn known(array: *const iovec, count: usize) -> Slices {
        // SAFETY: the caller's promise.
        let all = (0..count).map(|at| unsafe { array.add(at).read_unaligned() });
        Slices {
            all: all.collect(),
            rest: Vec::new(),
        }
    }

    /// Those of a message.
    ///
    /// # Safety
    /// The kernel has just read the message from there, and its array.
    pub(super) unsafe fn of_message(message: *const msghdr) -> Slices {
        // SAFETY: the caller's promise.
        unsafe {
            let message = message.read_unaligned();
            Slices::known(message.msg_iov, message.msg_iovlen)
        }
    }

    /// How many bytes there are in all.
    pub(super) fn len(&self) -> usize {
        // SAFETY: it is an array of our own.
        unsafe { total(self.all.as_ptr(), self.all.len()) }
    }

    /// What is left when so many bytes are done.
    pub(super) fn after(&mut self, done: usize) -> &mut [iovec] {
        self.part(done, usize::MAX)
    }

    /// As `after`, and no more than so many bytes of it.
    pub(super) fn part(&mut self, mut done: usize, mut room: usize) -> &mut [iovec] {
        self.rest.clear();
        for slice in &self.all {
            let skipped = done.min(slice.iov_len);
            let taken = (slice.iov_len - skipped).min(room);
            done -= skipped;
            room -= taken;
            if taken > 0 {
                self.rest.push(iovec {
                    iov_base: slice.iov_base.wrapping_byte_add(skipped),
                    iov_len: taken,
                });
            }
        }
        &mut self.rest
    }

    /// A message of nothing but these buffers.
    pub(super) fn header(slices: &mut [iovec]) -> msghdr {
        message_of(slices.as_mut_ptr(), slices.len())
    }
}

/// A message of nothing but these buffers.
pub(super) fn message_of(array: *mut iovec, count: usize) -> msghdr {
    // SAFETY: a message of zeros is one without a name, buffers or control data.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = array;
    message.msg_iovlen = count as _;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(slices: &[iovec]) -> Vec<usize> {
        slices.iter().map(|slice| slice.iov_len).collect()
    }

    #[test]
    fn what_is_left_begins_where_the_part_ended() {
        let bytes = [0u8; 16];
        let slice = |at: usize, len| iovec {
            iov_base: bytes[at..].as_ptr().cast_mut().cast(),
            iov_len: len,
        };
        let array = [slice(0, 4), slice(4, 0), slice(4, 6), slice(10, 2)];
        let mut slices = Slices::of_array(array.as_ptr(), 4).unwrap();
        assert_eq!(slices.len(), 12);
        assert_eq!(lens(slices.after(0)), [4, 6, 2]);
        assert_eq!(lens(slices.after(4)), [6, 2]);
        assert_eq!(lens(slices.after(5)), [5, 2]);
        assert_eq!(
            slices.after(5)[0].iov_base,
            array[2].iov_base.wrapping_byte_add(1)
        );
        assert_eq!(lens(slices.part(3, 4)), [1, 3]);
        assert!(slices.after(12).is_empty());
    }

    #[test]
    fn an_array_that_is_no_good_is_an_error() {
        let none = std::ptr::null();
        assert_eq!(Slices::of_array(none, 1).err(), Some(libc::EFAULT));
        assert_eq!(Slices::of_array(none, -1).err(), Some(libc::EINVAL));
        assert_eq!(Slices::of_array(none, 1025).err(), Some(libc::EINVAL));
        assert!(Slices::of_array(none, 0).is_ok());
        let last = usize::MAX as *const iovec;
        assert_eq!(Slices::of_array(last, 2).err(), Some(libc::EFAULT));
    }
}
