use super::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(7) };
    static LOG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// A number of its own for each block: glibc takes threads of one number for one thread,
/// also where they wait for its locks.
fn next_tid() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1 << 29);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs a closure on a block.
fn visit<F: FnOnce()>(block: &TlsBlock, f: F) {
    extern "C" fn call<F: FnOnce()>(f: *mut c_void) {
        // SAFETY: the caller's variable, of this type.
        if let Some(f) = unsafe { (*f.cast::<Option<F>>()).take() } {
            f();
        }
    }
    let mut f = Some(f);
    // SAFETY: the block is alive and this thread's; tests that panic here abort.
    unsafe { on_base(block.base(), call::<F>, (&raw mut f).cast()) };
}

#[test]
fn thread_locals_errno_and_the_current_thread_are_the_blocks_own() {
    let block = TlsBlock::new(next_tid()).unwrap();
    COUNT.set(1);
    crate::sys::os::set_errno(libc::EPERM);
    let me = std::thread::current().id();
    visit(&block, || {
        assert_eq!(COUNT.get(), 7);
        COUNT.set(2);
        assert_eq!(crate::sys::os::errno(), 0);
        crate::sys::os::set_errno(libc::ENOENT);
        assert_ne!(std::thread::current().id(), me);
        assert_eq!(std::thread::current().name(), None);
        // SAFETY: no preconditions.
        let myself = unsafe { libc::pthread_self() } as usize;
        assert_eq!(myself, current().address());
    });
    assert_eq!((COUNT.get(), crate::sys::os::errno()), (1, libc::EPERM));
    visit(&block, || {
        assert_eq!((COUNT.get(), crate::sys::os::errno()), (2, libc::ENOENT));
        // SAFETY: it runs on the block, for the last time.
        unsafe { run_down() };
    });
}

#[test]
fn destructors_run_in_glibcs_order_and_may_register_more() {
    struct Noisy(&'static str, bool);
    impl Drop for Noisy {
        fn drop(&mut self) {
            LOG.with_borrow_mut(|log| log.push(self.0));
            if self.1 {
                LATE.with(|_| {});
            }
        }
    }
    thread_local! {
        static FIRST: Noisy = const { Noisy("first", false) };
        static SECOND: Noisy = const { Noisy("second", true) };
        static LATE: Noisy = const { Noisy("late", false) };
    }
    extern "C" fn of_key(value: *mut c_void) {
        let name = if value as usize == 1 {
            "key 1"
        } else {
            "key 2"
        };
        OUT.with_borrow_mut(|out| out.push(name));
    }
    // Without a destructor, so that it is there to the end.
    thread_local! {
        static OUT: RefCell<std::mem::ManuallyDrop<Vec<&'static str>>> =
            const { RefCell::new(std::mem::ManuallyDrop::new(Vec::new())) };
    }
    let mut keys = [0; 40];
    for key in &mut keys {
        // SAFETY: the key is a variable, the destructor a function.
        assert_eq!(unsafe { libc::pthread_key_create(key, Some(of_key)) }, 0);
    }
    let mut seen = Vec::new();
    let block = TlsBlock::new(next_tid()).unwrap();
    visit(&block, || {
        LOG.with_borrow_mut(|log| log.push("began"));
        FIRST.with(|_| {});
        SECOND.with(|_| {});
        // The second lies in the second level, which is allocated.
        for (key, value) in [(keys[0], 1), (keys[39], 2)] {
            // SAFETY: the key was made above.
            unsafe { libc::pthread_setspecific(key, value as *const c_void) };
        }
        // `LOG` has a destructor too, which is run after the others'.
        LOG.with_borrow_mut(|log| log.reserve(16));
        // SAFETY: it runs on the block, for the last time. (The log is read by
        // address: its own destructor comes before the end.)
        unsafe { run_down() };
        seen = OUT.with_borrow(|out| out.to_vec());
        OUT.with_borrow_mut(|out| {
            // SAFETY: it is not used again.
            unsafe { std::mem::ManuallyDrop::drop(out) }
        });
    });
    assert_eq!(seen, ["key 1", "key 2"]);
    for key in keys {
        // SAFETY: made above, and nobody uses it.
        unsafe { libc::pthread_key_delete(key) };
    }
}

#[test]
fn a_block_that_was_freed_leaves_nothing_behind() {
    let round = || {
        let block = TlsBlock::new(next_tid()).unwrap();
        visit(&block, || {
            LOG.with_borrow_mut(|log| log.push("something"));
            let _ = std::thread::current().id();
            let _ = std::collections::HashMap::<u8, u8>::new();
            // SAFETY: it runs on the block, for the last time.
            unsafe { run_down() };
        });
    };
    (0..1000).for_each(|_| round());
    // Other tests allocate meanwhile, but not a hundred thousand times as much.
    let in_use = || {
        // SAFETY: no preconditions.
        unsafe { libc::mallinfo() }.uordblks as isize
    };
    let before = in_use();
    (0..20_000).for_each(|_| round());
    let grown = in_use() - before;
    assert!(grown < 400_000, "{grown} bytes more after 20,000 blocks");
}

#[test]
fn a_symbol_that_is_missing_is_named() {
    let said = glibc::missing().to_string();
    assert!(said.contains("need _dl_no_such_symbol of glibc"), "{said}");
}

#[test]
fn the_path_without_the_instruction_works() {
    let block = TlsBlock::new(next_tid()).unwrap();
    base::without_instruction(|| {
        COUNT.set(1);
        visit(&block, || {
            assert_eq!(COUNT.get(), 7);
            // SAFETY: it runs on the block, for the last time.
            unsafe { run_down() };
        });
        assert_eq!(COUNT.get(), 1);
    });
}
