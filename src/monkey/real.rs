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
    /// locks: not to be used in a signal handler first. Those of the functions that may
    /// be called there are looked for beforehand: see `locks::glibc`.
    pub(super) fn get(&self) -> Option<F> {
        self.known().or_else(|| {
            // SAFETY: a string with its end.
            let address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.address.store(address, Ordering::Release);
            self.known()
        })
    }

    /// As `get`, of this version of it, where libc has several.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn get_version(&self, version: &CStr) -> Option<F> {
        self.known().or_else(|| {
            let name = self.name.as_ptr();
            // SAFETY: strings with their ends.
            let address = unsafe { libc::dlvsym(libc::RTLD_NEXT, name, version.as_ptr()) };
            self.address.store(address, Ordering::Release);
            self.get()
        })
    }

    /// The function, if it has been found already.
    #[inline(always)]
    pub(super) fn known(&self) -> Option<F> {
        let address = self.address.load(Ordering::Acquire);
        // SAFETY: it is a pointer of the same size, to a function of this type.
        (!address.is_null()).then(|| unsafe { transmute_copy(&address) })
    }
}
