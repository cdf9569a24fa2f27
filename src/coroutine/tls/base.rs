//! The thread pointer: the one register that says whose thread-locals are meant.
//!
//! The compiler takes it for granted that it does not change while a function runs:
//! having computed the address of a thread-local it may use it again further down.
//! So nothing that uses a thread-local may stand in a function that changes the
//! register, nor be inlined into it. There are two such functions, both here:
//!
//! ```text
//!   resume_on:   fs = block; switch to the greenlet's stack … and back; who is next?
//!                fs = its block; switch to its stack        … and back; who is next?
//!                …                                          nobody, or who has no block
//!                fs = home
//!   on_base:     fs = base;  call a function that is passed by pointer; fs = before
//! ```
//!
//! Between the first change and the last stands nothing that allocates, panics, or
//! unwinds. To set the register costs more than all the rest of a switch: therefore
//! who has a block follows another one who has without a way home in between.
//!
//! A signal handler that runs in between finds one block or the other, whole.

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::NonNull;

use crate::coroutine::Fiber;
use crate::coroutine::fiber::Word;

/// A value of the thread pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base(NonNull<u8>);

impl Base {
    pub(super) fn new(address: NonNull<u8>) -> Base {
        Base(address)
    }

    pub(super) fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr()
    }

    pub(crate) fn address(self) -> usize {
        self.0.as_ptr() as usize
    }
}

/// The block that the caller runs on.
#[inline(always)]
pub(crate) fn current() -> Base {
    match NonNull::new(crate::sys::panics::thread_pointer() as *mut u8) {
        Some(pointer) => Base(pointer),
        // Elsewhere than on x86-64 and AArch64, where there is no support.
        None => Base(NonNull::dangling()),
    }
}

/// Resumes a fiber on a block, as [`Fiber::resume`], and those that `next` names, on
/// theirs; it gets the word of the one before.
///
/// # Safety
/// As there, for all of them, and nobody else refers to them while they run; the blocks
/// are alive, and what runs on a fiber has run on its block, or not at all, before. `next`
/// uses no thread-local, and does not unwind.
#[inline(never)]
pub(crate) unsafe fn resume_on(
    mut fiber: NonNull<Fiber>,
    mut base: Base,
    next: impl Fn(Word) -> Option<(NonNull<Fiber>, Base)>,
) -> Word {
    let home = current();
    // SAFETY: the blocks are alive and initialised. What stands between the first change
    // and the last uses no thread-local: see above.
    unsafe {
        let word = loop {
            set(base);
            let word = fiber.as_mut().resume();
            // It would have suspended in the middle of `on_base`, whose caller has promised
            // not to. To look costs a cache line of the block.
            if cfg!(debug_assertions) && current() != base {
                lost();
            }
            match next(word) {
                Some(following) => (fiber, base) = following,
                None => break word,
            }
        };
        set(home);
        word
    }
}

/// A stack keeps its thread-locals for life. One that does not is never resumed.
#[cold]
fn lost() -> ! {
    crate::sys::os::write_stderr(
        b"greenlet: fatal: a handler of fork waits in an isolated greenlet; aborting\n",
    );
    crate::sys::os::abort();
}

/// Calls a function on a block, on the caller's stack.
///
/// # Safety
/// The block is alive and initialised, and belongs to this thread. The function takes
/// this argument, and neither unwinds nor switches to another greenlet.
#[inline(never)]
pub(crate) unsafe fn on_base(
    base: Base,
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) {
    // So that the compiler does not know what it calls, and cannot inline it.
    let function = black_box(function);
    let before = current();
    // SAFETY: the caller's promise.
    unsafe {
        set(base);
        function(argument);
        set(before);
    }
}

/// Sets the thread pointer.
///
/// # Safety
/// The block is alive and initialised; and what is said at the top of this file.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn set(base: Base) {
    // SAFETY: the caller's promise. Of user code, only thread-locals depend on `fs`.
    unsafe {
        if has_instruction() {
            std::arch::asm!("wrfsbase {}", in(reg) base.address(), options(nostack, preserves_flags));
        } else {
            set_by_system_call(base);
        }
    }
}

/// Where the kernel does not let programs use the instruction: before Linux 5.9, on
/// processors without it, and under valgrind.
#[cfg(target_arch = "x86_64")]
#[cold]
unsafe fn set_by_system_call(base: Base) {
    const ARCH_SET_FS: usize = 0x1002;
    // SAFETY: the caller's promise; the call has no other effect, and is made
    // without libc, whose errno is a thread-local.
    let answer = unsafe {
        crate::sys::os::syscall6(
            libc::SYS_arch_prctl,
            [ARCH_SET_FS, base.address(), 0, 0, 0, 0],
        )
    };
    if answer.is_err() {
        // It cannot fail with an address of this process; going on would be on the
        // wrong thread-locals.
        std::process::abort();
    }
}

/// No block is made on other architectures.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn set(_: Base) {
    std::process::abort();
}

/// Whether the kernel lets programs use `wrfsbase`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn has_instruction() -> bool {
    FSGSBASE.load(std::sync::atomic::Ordering::Relaxed)
}

#[cfg(target_arch = "x86_64")]
static FSGSBASE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Finds out whether the kernel lets programs use `wrfsbase`.
pub(super) fn find_instruction() {
    #[cfg(target_arch = "x86_64")]
    {
        const HWCAP2_FSGSBASE: u64 = 1 << 1;
        // SAFETY: getauxval has no preconditions.
        let capabilities = unsafe { libc::getauxval(libc::AT_HWCAP2) };
        // The variable is for tests of the other way, without valgrind.
        let off = std::env::var_os("GREENLET_FSGSBASE").is_some_and(|value| value == "off");
        let usable = capabilities & HWCAP2_FSGSBASE != 0 && !off;
        FSGSBASE.store(usable, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Has other tests' blocks entered by a system call too, meanwhile.
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) fn without_instruction(f: impl FnOnce()) {
    use std::sync::atomic::Ordering;
    let before = FSGSBASE.swap(false, Ordering::Relaxed);
    f();
    FSGSBASE.store(before, Ordering::Relaxed);
}
