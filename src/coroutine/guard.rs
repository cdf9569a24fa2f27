//! Guards: the memory below a stack that faults when it is touched, so that a stack overflow is a clear end and
//! not silent damage to the neighbour.
//!
//! From Linux 6.13 on, `madvise(MADV_GUARD_INSTALL)` marks pages as guards inside one large mapping. Before that,
//! and where the call is refused (memory locked by `mlockall`), `mprotect(PROT_NONE)` does the same at the price
//! of two mappings for each stack.
//!
//! The environment variable `GREENLET_GUARD=mprotect`, read once, forces the second way: to test it, and for
//! tools that do not know guard pages yet (some checkpointers and emulators).

use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys::os::{self, Errno};

/// How the guards of an arena are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardKind {
    /// `madvise(MADV_GUARD_INSTALL)`: no mapping of its own.
    Madvise,
    /// `mprotect(PROT_NONE)`: splits the mapping.
    Mprotect,
}

/// `MADV_GUARD_INSTALL` of Linux 6.13, which the libc crate does not name on every target.
#[cfg(target_os = "linux")]
const MADV_GUARD_INSTALL: libc::c_int = 102;

impl GuardKind {
    /// What this process should try first. Tested once, by making a guard and touching it.
    pub(crate) fn preferred() -> GuardKind {
        static PREFERRED: AtomicU8 = AtomicU8::new(UNKNOWN);
        const UNKNOWN: u8 = 0;
        const MADVISE: u8 = 1;
        const MPROTECT: u8 = 2;
        match PREFERRED.load(Ordering::Relaxed) {
            MADVISE => GuardKind::Madvise,
            MPROTECT => GuardKind::Mprotect,
            _ => {
                let forced =
                    std::env::var_os("GREENLET_GUARD").is_some_and(|value| value == "mprotect");
                let madvise = !forced && madvise_really_guards();
                PREFERRED.store(if madvise { MADVISE } else { MPROTECT }, Ordering::Relaxed);
                if madvise {
                    GuardKind::Madvise
                } else {
                    GuardKind::Mprotect
                }
            }
        }
    }

    /// The system call's name, for reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            GuardKind::Madvise => "madvise",
            GuardKind::Mprotect => "mprotect",
        }
    }

    /// Makes `[start, start + len)` fault when touched. What was in it is lost.
    ///
    /// # Safety
    ///
    /// The range must be whole pages of a private anonymous mapping of ours that nothing lives in.
    pub(crate) unsafe fn install(self, start: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: the caller's promise: nobody uses this memory, so taking it away harms nobody.
        let answer = unsafe {
            match self {
                #[cfg(target_os = "linux")]
                GuardKind::Madvise => libc::madvise(start as *mut _, len, MADV_GUARD_INSTALL),
                #[cfg(not(target_os = "linux"))]
                GuardKind::Madvise => return Err(libc::EINVAL),
                GuardKind::Mprotect => libc::mprotect(start as *mut _, len, libc::PROT_NONE),
            }
        };
        if answer == 0 {
            Ok(())
        } else {
            Err(os::last_errno())
        }
    }

    /// Takes an `mprotect` guard away again, which joins the mappings that it had split.
    ///
    /// # Safety
    ///
    /// The range must be one that `install` was called with.
    pub(crate) unsafe fn undo(self, start: usize, len: usize) {
        if self == GuardKind::Mprotect {
            // SAFETY: the range is ours and unused; more access to it harms nobody. A failure leaves a guard
            // where none is needed.
            unsafe { libc::mprotect(start as *mut _, len, libc::PROT_READ | libc::PROT_WRITE) };
        }
    }
}

/// Some kernels, and emulators of kernels, accept any advice and do nothing. So make a guard on a scratch page
/// and let the kernel read from it: only a real guard answers EFAULT.
fn madvise_really_guards() -> bool {
    let page = os::page_size();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let scratch = unsafe {
        libc::mmap(
            ptr::null_mut(),
            page,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if scratch == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the scratch page is ours and empty.
    let installed = unsafe { GuardKind::Madvise.install(scratch as usize, page) }.is_ok();
    let guarded = installed && kernel_cannot_read(scratch as usize);
    // SAFETY: the page was mapped above and nothing refers to it.
    unsafe { libc::munmap(scratch, page) };
    guarded
}

/// Whether the kernel answers EFAULT for `address`. Asked by blocking the signals of the set found there, which
/// are none where the page is readable and empty: the one call that every sandbox allows and that changes
/// nothing.
fn kernel_cannot_read(address: usize) -> bool {
    const KERNEL_SIGSET_BYTES: usize = 8;
    // SAFETY: the kernel checks the address itself; a readable page holds zeros, an empty set of signals.
    let answer = unsafe {
        os::syscall(
            libc::SYS_rt_sigprocmask,
            [libc::SIG_BLOCK as usize, address, 0, KERNEL_SIGSET_BYTES],
        )
    };
    answer == Err(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_guard_fault() {
        let page = os::page_size();
        for kind in [GuardKind::Madvise, GuardKind::Mprotect] {
            if kind == GuardKind::Madvise && !madvise_really_guards() {
                continue;
            }
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a fresh mapping, touched only through the kernel and unmapped at the end.
            unsafe {
                let map = libc::mmap(
                    ptr::null_mut(),
                    2 * page,
                    libc::PROT_READ | libc::PROT_WRITE,
                    flags,
                    -1,
                    0,
                );
                assert_ne!(map, libc::MAP_FAILED);
                assert!(!kernel_cannot_read(map as usize));
                kind.install(map as usize, page).unwrap();
                assert!(kernel_cannot_read(map as usize), "{kind:?}");
                assert!(!kernel_cannot_read(map as usize + page), "{kind:?}");
                libc::munmap(map, 2 * page);
            }
        }
    }
}
