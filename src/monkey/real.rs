//! libc's own functions, where a system call would not do.
//!
//! There is none for looking a name up, or for running a shell. So these are found
//! behind ours, in the libraries that the program has been linked with. In a static
//! program there is nothing behind, and they are not interposed at all.

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::mem::{size_of, transmute_copy};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::entry::Answer;

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

    /// The function. It is looked for at first use, by `dlsym`, which takes the loader's
    /// lock: a signal handler that is the first to call `pthread_kill` waits for whoever
    /// loads a library. Those of the locks are looked for beforehand: see `locks::glibc`.
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

/// Calls a function of libc's that returns an `int`: one that is declared elsewhere, or
/// the one of this name and type, which is looked for here. Where there is none, the answer
/// is ENOSYS, or what comes after `else`.
///
/// # Safety
/// The caller's promise is that of the function, and that this is its type.
macro_rules! real {
    ($name:literal, fn($($type:ty),*), ($($argument:expr),*) $(else $missing:expr)?) => {{
        type Function = unsafe extern "C" fn($($type),*) -> std::ffi::c_int;
        static REAL: $crate::monkey::real::Real<Function> =
            // SAFETY: the caller's promise.
            unsafe { $crate::monkey::real::Real::new($name) };
        $crate::monkey::real::real!(REAL($($argument),*) $(else $missing)?)
    }};
    ($($function:ident)::+($($argument:expr),*)) => {
        $crate::monkey::real::real!($($function)::+($($argument),*) else libc::ENOSYS)
    };
    ($($function:ident)::+($($argument:expr),*) else $missing:expr) => {
        match $($function)::+.get() {
            Some(function) => function($($argument),*),
            None => $missing,
        }
    };
}
pub(super) use real;

/// The answer of a function that libc has not, and that says by errno what is wrong.
pub(super) fn missing() -> c_int {
    Err(libc::ENOSYS).answer() as c_int
}
