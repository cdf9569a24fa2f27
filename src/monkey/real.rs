//! libc's own functions, where a system call would not do.
//!
//! There is none for looking a name up, or for running a shell. So these are found
//! behind ours, in the libraries that the program has been linked with. In a static
//! program there is nothing behind, and they are not interposed at all.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::mem::{size_of, transmute_copy};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function of libc's, of type `F`.
pub(super) struct Real<F> {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
    of: PhantomData<F>,
}

impl<F: Copy> Real<F> {
    /// # Safety
    /// `F` is the type of a function pointer, and that of the function of this name.
    pub(super) const unsafe fn new(name: &'static CStr) -> Real<F> {
        assert!(size_of::<F>() == size_of::<*mut c_void>());
        Real {
            name,
            address: AtomicPtr::new(ptr::null_mut()),
            of: PhantomData,
        }
    }

    /// The function. It is looked for at first use, by `dlsym`, which may take
    /// locks: not to be used in a signal handler first. None of those that are
    /// interposed so may be called there anyway.
    pub(super) fn get(&self) -> Option<F> {
        let mut address = self.address.load(Ordering::Acquire);
        if address.is_null() {
            // SAFETY: a string with its end.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.address.store(address, Ordering::Release);
        }
        // SAFETY: it is a pointer of the same size, to a function of this type.
        (!address.is_null()).then(|| unsafe { transmute_copy(&address) })
    }
}
