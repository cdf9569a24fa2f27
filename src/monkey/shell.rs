//! `system` and `pclose`, which wait for a shell somewhere inside libc: there they are
//! run on helper threads.
//!
//! What `popen` gives is a stream of libc's, and reading from it is libc's business:
//! that blocks the thread.

use std::ffi::{CStr, c_char, c_int};
use std::mem;
use std::ptr;

use libc::FILE;

use super::entry::{Answer, Part, hub, interposed};
use super::real::Real;
use crate::hub::Hub;
use crate::offload;
use crate::sys::os::{self, Errno};

type System = unsafe extern "C" fn(*const c_char) -> c_int;
type Close = unsafe extern "C" fn(*mut FILE) -> c_int;

// SAFETY: that is its type.
static SYSTEM: Real<System> = unsafe { Real::new(c"system") };
// SAFETY: that is its type.
static PCLOSE: Real<Close> = unsafe { Real::new(c"pclose") };

interposed! {
    Process;

    /// Runs a shell, on a helper thread.
    fn system(command: *const c_char) -> c_int {
        match (SYSTEM.get(), hub(Part::Process)) {
            // SAFETY: the caller's promise.
            (Some(real), None) => unsafe { real(command) },
            // SAFETY: as above.
            (Some(real), Some(hub)) => unsafe { system_parking(hub, real, command) },
            (None, _) => Err(libc::ENOSYS).answer() as c_int,
        }
    }

    /// Waits for what `popen` has started, on a helper thread.
    fn pclose(stream: *mut FILE) -> c_int {
        match (PCLOSE.get(), hub(Part::Process)) {
            // SAFETY: the caller's promise.
            (Some(real), None) => unsafe { real(stream) },
            (Some(real), Some(hub)) => pclose_parking(hub, Stream { real, stream }),
            (None, _) => Err(libc::ENOSYS).answer() as c_int,
        }
    }
}

/// # Safety
/// As for `system`.
unsafe fn system_parking(hub: &Hub, real: System, command: *const c_char) -> c_int {
    if let Some(error) = hub.refusal() {
        return Err(error).answer() as c_int;
    }
    // SAFETY: null, or a string with its end by the caller's promise.
    let command = (!command.is_null()).then(|| unsafe { CStr::from_ptr(command) }.to_owned());
    told(offload::quietly(hub, move || {
        let command = command.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        // SAFETY: as above.
        (unsafe { real(command) }, os::errno())
    }))
}

fn pclose_parking(hub: &Hub, stream: Stream) -> c_int {
    told(offload::quietly(hub, move || stream.close()))
}

/// A stream that its owner has given up. It is closed also where nobody waits for
/// that any more, for nobody else will do it.
struct Stream {
    real: Close,
    stream: *mut FILE,
}

// SAFETY: libc's streams have locks, and any thread may use them.
unsafe impl Send for Stream {}

impl Stream {
    fn close(self) -> (c_int, Errno) {
        let (real, stream) = (self.real, self.stream);
        mem::forget(self);
        // SAFETY: the promise of who has called `pclose`; this happens once.
        (unsafe { real(stream) }, os::errno())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: as in `close`.
        unsafe { (self.real)(self.stream) };
    }
}

/// What a helper thread's call has answered, with errno as it was there.
fn told(answer: Result<(c_int, Errno), Errno>) -> c_int {
    match answer {
        Ok((-1, error)) | Err(error) => Err(error).answer() as c_int,
        Ok((status, _)) => status,
    }
}
