//! Stack overflow: a clear last word instead of a bare SIGSEGV.
//!
//! A greenlet that runs off its stack touches a guard of ours. The handler
//! recognises the address, says who it was, how large its stack was and what
//! to do, and aborts. Every other fault goes on to the handler that was there
//! before, so that std's own message for real threads stays as it is.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::registry;
use crate::sys::os;
use crate::sys::text::Text;

/// Writes the running greenlet's name; async-signal-safe.
type Namer = fn(&mut [u8]) -> usize;

static NAMER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// The handler that was there before ours, in a box that is never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Says how the handler finds the running greenlet's name.
pub(crate) fn set_namer(namer: Namer) {
    NAMER.store(namer as *mut (), Ordering::Release);
}

/// Installs the handler, once in the process, and sees to it that the calling
/// thread has a stack to run it on.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install_handler);
    // Where the thread-locals are being destroyed already, it does without.
    let _ = ALTERNATE.try_with(AlternateStack::provide);
}

fn install_handler() {
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null action only asks. What it answers is published before
    // the handler that needs it is installed.
    unsafe {
        if libc::sigaction(libc::SIGSEGV, ptr::null(), previous.as_mut_ptr()) != 0 {
            return;
        }
        let previous = Box::into_raw(Box::new(previous.assume_init()));
        PREVIOUS.store(previous, Ordering::Release);
    }
    // SAFETY: all zeros is a valid sigaction; the handler is async-signal-safe
    // and runs on the alternate stack.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
    }
}

extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid siginfo to a SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(stack) = registry::stack_guarded_at(address) {
        say_overflow(stack);
        os::abort();
    }
    // SAFETY: the pointer is null or a box that is never freed.
    let previous = unsafe { PREVIOUS.load(Ordering::Acquire).as_ref() };
    match previous {
        Some(action) if action.sa_sigaction == libc::SIG_IGN => {}
        Some(action) if action.sa_sigaction != libc::SIG_DFL => {
            // SAFETY: it is a handler of the kind that its flags say.
            unsafe {
                if action.sa_flags & libc::SA_SIGINFO != 0 {
                    type Handler =
                        extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                    let handler: Handler = std::mem::transmute(action.sa_sigaction);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(libc::c_int) =
                        std::mem::transmute(action.sa_sigaction);
                    handler(signal);
                }
            }
        }
        // The fault happens again, and this time the kernel deals with it.
        // SAFETY: restoring the default action has no preconditions.
        _ => unsafe {
            libc::signal(signal, libc::SIG_DFL);
        },
    }
}

fn say_overflow(stack: usize) {
    let mut text = Text::<512>::new();
    text.push("\ngreenlet '");
    let namer = NAMER.load(Ordering::Acquire);
    if !namer.is_null() {
        // SAFETY: only `set_namer` stores here, and only a `Namer`.
        let namer = unsafe { std::mem::transmute::<*mut (), Namer>(namer) };
        text.push_with(namer);
    }
    text.push("' has overflowed its stack of ");
    text.push_number(stack >> 10);
    text.push(" KiB: give it a larger one with Builder::stack_size, or recurse less deeply\n");
    os::write_stderr(text.as_bytes());
}

thread_local! {
    static ALTERNATE: AlternateStack = const { AlternateStack(Cell::new(ptr::null_mut())) };
}

/// The signal stack that we gave a thread which had none: one that std did not
/// start. Null for the others.
struct AlternateStack(Cell<*mut libc::c_void>);

impl AlternateStack {
    /// Room for our handler and for one that it goes on to.
    const BYTES: usize = 64 << 10;

    fn provide(&self) {
        let mut present = MaybeUninit::<libc::stack_t>::uninit();
        // SAFETY: a null stack only asks; it is initialised on success.
        let missing = unsafe {
            libc::sigaltstack(ptr::null(), present.as_mut_ptr()) == 0
                && present.assume_init().ss_flags & libc::SS_DISABLE != 0
        };
        if !missing || !self.0.get().is_null() {
            return;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which becomes this thread's signal stack and
        // stays until the thread has another one, or none.
        unsafe {
            let memory = libc::mmap(ptr::null_mut(), Self::BYTES, protection, flags, -1, 0);
            if memory == libc::MAP_FAILED {
                return;
            }
            let stack = libc::stack_t {
                ss_sp: memory,
                ss_flags: 0,
                ss_size: Self::BYTES,
            };
            if libc::sigaltstack(&stack, ptr::null_mut()) == 0 {
                self.0.set(memory);
            } else {
                libc::munmap(memory, Self::BYTES);
            }
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let memory = self.0.get();
        if memory.is_null() {
            return;
        }
        let mut present = MaybeUninit::<libc::stack_t>::uninit();
        // SAFETY: the thread ends; the stack is unmapped only if it is still
        // ours that the kernel knows, and after the kernel has let go of it.
        unsafe {
            if libc::sigaltstack(ptr::null(), present.as_mut_ptr()) == 0
                && present.assume_init().ss_sp == memory
            {
                let none = libc::stack_t {
                    ss_sp: ptr::null_mut(),
                    ss_flags: libc::SS_DISABLE,
                    ss_size: Self::BYTES,
                };
                libc::sigaltstack(&none, ptr::null_mut());
                libc::munmap(memory, Self::BYTES);
            }
        }
    }
}
