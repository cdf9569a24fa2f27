//! The names that programs use which were compiled with `_FORTIFY_SOURCE`: they
//! say how much room there is, and are to be aborted rather than overrun it.

#[cfg(not(target_feature = "crt-static"))]
unsafe extern "C" {
    /// glibc's: says that a buffer overflow was detected, and aborts.
    fn __chk_fail() -> !;
}

/// Aborts as glibc does, if more is asked for than there is room.
#[cfg(not(target_feature = "crt-static"))]
#[inline]
pub(super) fn room_for(wanted: usize, room: usize) {
    if wanted > room {
        // SAFETY: it takes nothing, and does not return.
        unsafe { __chk_fail() }
    }
}
