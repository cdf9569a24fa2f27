//! `pthread_exit`: ends an isolated greenlet in the middle of what it calls.
//!
//! glibc's own unwinds all frames of the thread, runs the handlers that
//! `pthread_cleanup_push` has left, and then jumps to where `start_thread` has said, in
//! the thread's record, that the thread begins. No `start_thread` is below an isolated
//! greenlet, so this does what that does:
//!
//! ```text
//!   run ─▶ shell: __sigsetjmp, __pthread_register_cancel ─▶ start ─▶ … ─▶ pthread_exit
//!                  ▲                                                        │
//!                  └───────────────── longjmp, by glibc ◀── frames unwound ─┘
//! ```
//!
//! The shell is written in assembly, for it returns from `__sigsetjmp` twice. Light
//! greenlets are on stacks of their own, which do not lead there: they are refused.

use std::ffi::c_void;

use super::create::Start;
#[cfg(panic = "unwind")]
use super::record::Thread;
#[cfg(panic = "unwind")]
use crate::hub::{self, Hub};
#[cfg(panic = "unwind")]
use crate::monkey::real::Real;
#[cfg(panic = "unwind")]
use crate::sys::os;

/// Calls what a thread starts with. None if it has left by `pthread_exit`.
#[cfg(target_arch = "x86_64")]
pub(super) fn run(start: Start, argument: *mut c_void) -> Option<*mut c_void> {
    let mut place = Place([0; 256]);
    // SAFETY: whoever has called `pthread_create` says that this may be called so, once;
    // the place outlives the call.
    let left = unsafe { greenlet_thread_shell(start, argument, &mut place) };
    (left.by_exit == 0).then_some(left.value)
}

/// Where there are no isolated greenlets.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn run(start: Start, argument: *mut c_void) -> Option<*mut c_void> {
    Some(start(argument))
}

/// Room for a `__pthread_unwind_buf_t`, which begins with a `jmp_buf`.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(16))]
struct Place([u8; 256]);

/// How the shell was left.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
struct Left {
    value: *mut c_void,
    by_exit: usize,
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C-unwind" {
    fn greenlet_thread_shell(start: Start, argument: *mut c_void, place: &mut Place) -> Left;
}

// The registers that a function has to keep are in its frame and in the jmp_buf, so they
// are what they were, also when `__sigsetjmp` returns for the second time.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.greenlet_thread_shell,\"ax\",@progbits",
    ".globl greenlet_thread_shell",
    ".hidden greenlet_thread_shell",
    ".type greenlet_thread_shell,@function",
    "greenlet_thread_shell:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    ".cfi_offset rbx, -24",
    ".cfi_offset r12, -32",
    ".cfi_offset r13, -40",
    ".cfi_offset r14, -48",
    "mov r12, rdi",
    "mov r13, rsi",
    "mov r14, rdx",
    // The signal mask is not kept: it is the OS thread's.
    "mov rdi, rdx",
    "xor esi, esi",
    "call qword ptr [rip + __sigsetjmp@GOTPCREL]",
    "test eax, eax",
    "jne 2f",
    "mov rdi, r14",
    "call qword ptr [rip + __pthread_register_cancel@GOTPCREL]",
    "mov rdi, r13",
    "call r12",
    "mov rbx, rax",
    "mov rdi, r14",
    "call qword ptr [rip + __pthread_unregister_cancel@GOTPCREL]",
    "mov rax, rbx",
    "xor edx, edx",
    "jmp 3f",
    "2:",
    "xor eax, eax",
    "mov edx, 1",
    "3:",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    ".size greenlet_thread_shell, . - greenlet_thread_shell",
    ".popsection",
);

/// Ends a thread that is a greenlet, and runs what `pthread_cleanup_push` has left. In
/// any other greenlet it ends the process, with a message: no thread begins below.
///
/// glibc unwinds the frames of a thread that calls it, this one too: so there must be
/// nothing to drop in it, and it is not there in programs that cannot unwind.
///
/// # Safety
/// As for libc's function of this name.
#[cfg(panic = "unwind")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pthread_exit(value: *mut c_void) -> ! {
    // SAFETY: it has this type.
    static REAL: Real<unsafe extern "C-unwind" fn(*mut c_void) -> !> =
        unsafe { Real::new(c"pthread_exit") };
    prepare(value);
    match REAL.get() {
        // SAFETY: the caller's promise.
        Some(pthread_exit) => unsafe { pthread_exit(value) },
        None => os::abort(),
    }
}

#[cfg(panic = "unwind")]
fn prepare(value: *mut c_void) {
    let Some(hub) = Hub::try_current() else {
        return;
    };
    match Thread::current() {
        None if hub.current() == hub.main() => hub::thread_leaves(),
        Some(thread) if hub.is_owner_here() && thread.is_thread() => thread.set_value(value),
        _ => {
            os::write_stderr(
                b"greenlet: fatal: pthread_exit in a greenlet that is no thread: it ends by returning\n",
            );
            os::abort();
        }
    }
}
