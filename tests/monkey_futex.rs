//! `syscall(SYS_futex)` under `monkey::patch_all`, as C libraries call it: every answer
//! is the kernel's, and greenlets and threads are in one queue.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::ffi::c_int;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use common::{MS, alone, until, watchdog};
use greenlet::{joinall, sleep, spawn};
use patched::Ticker;

/// Patches everything too.
fn ticker() -> Ticker {
    common::patch();
    Ticker::new()
}

const WAIT: c_int = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
const WAKE: c_int = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
const WAIT_BITSET: c_int = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
const WAKE_BITSET: c_int = libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG;

fn futex(
    word: *const AtomicU32,
    op: c_int,
    value: u32,
    time: Option<*const libc::timespec>,
    bits: u32,
) -> Result<i64, i32> {
    let time = time.unwrap_or(std::ptr::null());
    // SAFETY: the kernel finds out what is wrong with a pointer.
    let answer = unsafe { libc::syscall(libc::SYS_futex, word, op, value, time, 0usize, bits) };
    match answer {
        // SAFETY: errno has no preconditions.
        -1 => Err(unsafe { *libc::__errno_location() }),
        answer => Ok(answer),
    }
}

/// The kernel's own answer.
#[cfg(target_arch = "x86_64")]
fn raw_futex(
    word: *const AtomicU32,
    op: c_int,
    value: u32,
    time: Option<*const libc::timespec>,
    bits: u32,
) -> Result<i64, i32> {
    let time = time.unwrap_or(std::ptr::null());
    let answer: i64;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_futex => answer,
            in("rdi") word,
            in("rsi") op,
            in("edx") value,
            in("r10") time,
            in("r8") 0usize,
            in("r9d") bits,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if answer < 0 {
        Err(-answer as i32)
    } else {
        Ok(answer)
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_error_is_the_kernels() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    let word = AtomicU32::new(7);
    let page = page_without_access();
    let words: [*const AtomicU32; 6] = [
        &word,
        std::ptr::null(),
        (&raw const word).wrapping_byte_add(1),
        usize::MAX as *const AtomicU32,
        (usize::MAX - 3) as *const AtomicU32,
        page.cast(),
    ];
    let time = |tv_sec, tv_nsec| libc::timespec { tv_sec, tv_nsec };
    let times = [
        time(0, 0),
        time(0, 1),
        time(-1, 0),
        time(0, -1),
        time(0, 1_000_000_000),
    ];
    let mut pointers: Vec<Option<*const libc::timespec>> =
        times.iter().map(|time| Some(&raw const *time)).collect();
    pointers.extend([Some(page.cast()), Some(std::ptr::without_provenance(8))]);
    let real = libc::FUTEX_CLOCK_REALTIME;
    let ops = [
        WAIT,
        WAIT_BITSET,
        WAIT_BITSET | real,
        WAIT | real,
        WAKE,
        WAKE_BITSET,
        WAKE | real,
        libc::FUTEX_WAIT,
        libc::FUTEX_WAKE,
        libc::FUTEX_REQUEUE | libc::FUTEX_PRIVATE_FLAG,
        libc::FUTEX_CMP_REQUEUE | libc::FUTEX_PRIVATE_FLAG,
        libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG,
        77 | libc::FUTEX_PRIVATE_FLAG,
        -1,
    ];
    let mut compared = 0;
    let mut compare = || {
        for (op, word) in ops.into_iter().flat_map(|op| words.map(|word| (op, word))) {
            for (value, bits) in [(7, 1), (7, 0), (8, 1), (8, 0), (0, 1), (u32::MAX, 1)] {
                // Without a time, a wait for what is so has no end.
                let endless = value == 7 && word == words[0];
                let times = pointers.iter().chain((!endless).then_some(&None));
                for &time in times {
                    let ours = futex(word, op, value, time, bits);
                    let theirs = raw_futex(word, op, value, time, bits);
                    let call = format!("op {op} of {word:?}, value {value}, {time:?}, bits {bits}");
                    assert_eq!(ours, theirs, "{call}");
                    compared += 1;
                }
            }
        }
    };
    compare();
    greenlet::monkey::unpatched(&mut compare);
    assert!(compared > 2000);
}

/// A page that nobody may read or write.
#[cfg(target_arch = "x86_64")]
fn page_without_access() -> *const u8 {
    // SAFETY: a new mapping.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    page as *const u8
}

#[test]
fn errno_is_left_alone_by_what_succeeds() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Rc::new(Mutex::new(()));
    let guard = mutex.lock().unwrap();
    let waiter = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            // SAFETY: errno has no preconditions.
            unsafe { *libc::__errno_location() = 4242 };
            drop(mutex.lock().unwrap());
            // SAFETY: as above.
            assert_eq!(unsafe { *libc::__errno_location() }, 4242);
        }
    });
    ticker.tick();
    drop(guard);
    waiter.join().unwrap();
}

#[test]
fn a_wake_up_finds_those_with_a_bit_in_common() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let word = Rc::new(AtomicU32::new(0));
    let woken = common::Log::new();
    let waiters: Vec<_> = [1, 2, 3]
        .map(|bits| {
            let (word, woken) = (Rc::clone(&word), woken.clone());
            spawn(move || {
                assert_eq!(futex(&*word, WAIT_BITSET, 0, None, bits), Ok(0));
                woken.add(bits);
            })
        })
        .into();
    ticker.tick();
    assert_eq!(futex(&*word, WAKE_BITSET, 9, None, 4), Ok(0));
    assert_eq!(futex(&*word, WAKE_BITSET, 9, None, 2), Ok(2));
    ticker.tick();
    assert_eq!(woken.joined(), "2 3");
    assert_eq!(
        futex(&*word, WAKE, 0, None, 0),
        Ok(1),
        "as the kernel has it"
    );
    joinall(waiters);
}

/// Absolute times of both clocks.
#[test]
fn a_wait_ends_in_time() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let word = AtomicU32::new(0);
    let clocks = [
        (libc::CLOCK_MONOTONIC, 0),
        (libc::CLOCK_REALTIME, libc::FUTEX_CLOCK_REALTIME),
    ];
    for (clock, flag) in clocks {
        let start = Instant::now();
        let before = ticker.ticks();
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: it is a live variable.
        unsafe { libc::clock_gettime(clock, &mut time) };
        time.tv_nsec += 50_000_000;
        time.tv_sec += time.tv_nsec / 1_000_000_000;
        time.tv_nsec %= 1_000_000_000;
        let answer = futex(&word, WAIT_BITSET | flag, 0, Some(&time), 1);
        assert_eq!(answer, Err(libc::ETIMEDOUT));
        assert!(start.elapsed() >= 49 * MS && ticker.ticks() > before);
    }
}

#[test]
fn who_would_be_moved_to_another_address_is_woken() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let word = Rc::new(AtomicU32::new(0));
    for op in [
        libc::FUTEX_REQUEUE,
        libc::FUTEX_CMP_REQUEUE,
        libc::FUTEX_WAKE_OP,
    ] {
        let waiter = spawn({
            let word = Rc::clone(&word);
            move || futex(&*word, WAIT_BITSET, 0, None, 1)
        });
        ticker.tick();
        let other = AtomicU32::new(0);
        let op = op | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: both words are live.
        let answer = unsafe { libc::syscall(libc::SYS_futex, &*word, op, 0, 9usize, &other, 0) };
        assert_ne!(answer, -1);
        assert_eq!(waiter.join().unwrap(), Ok(0));
    }
}

/// A futex of the processes' is the kernel's.
#[test]
fn a_futex_that_processes_share_is_passed_through() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    let word = Arc::new(AtomicU32::new(0));
    let thread = thread::spawn({
        let word = Arc::clone(&word);
        move || futex(&*word, libc::FUTEX_WAIT, 0, None, 0)
    });
    until(|| futex(&*word, libc::FUTEX_WAKE, 1, None, 0) == Ok(1));
    assert_eq!(thread.join().unwrap(), Ok(0));
}

/// Who has been waiting since before the locks were patched is woken too.
#[test]
fn who_waits_since_before_is_woken() {
    let name = "who_waits_since_before_is_woken";
    alone(name, || {
        let word = Arc::new(AtomicU32::new(0));
        let thread = thread::spawn({
            let word = Arc::clone(&word);
            move || futex(&*word, WAIT, 0, None, 0)
        });
        thread::sleep(30 * MS);
        common::patch();
        // Most likely it has been waiting for long; if it is late, that is fine too.
        until(|| futex(&*word, WAKE, 1, None, 0) == Ok(1));
        assert_eq!(thread.join().unwrap(), Ok(0));
    });
}

/// The queue of those who wait is one, whoever they are.
#[test]
fn greenlets_and_threads_are_woken_in_the_order_in_which_they_came() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let word = Arc::new(AtomicU32::new(0));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut greenlets = Vec::new();
    let mut threads = Vec::new();
    for number in 0..6 {
        let (word, order) = (Arc::clone(&word), Arc::clone(&order));
        let id = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&id);
        let wait = move || {
            // SAFETY: it has no preconditions.
            tell.store(unsafe { libc::gettid() } as u32, Ordering::Relaxed);
            assert_eq!(futex(&*word, WAIT_BITSET, 0, None, u32::MAX), Ok(0));
            order.lock().unwrap().push(number);
        };
        match number % 2 {
            0 => greenlets.push(spawn(wait)),
            _ => threads.push(thread::spawn(wait)),
        }
        // This greenlet goes on when that one waits; the thread when it sleeps.
        sleep(MS);
        until(|| id.load(Ordering::Relaxed) != 0);
        until(|| number % 2 == 0 || sleeps(id.load(Ordering::Relaxed)));
    }
    for number in 0..6 {
        assert_eq!(futex(&*word, WAKE, 1, None, 0), Ok(1));
        until(|| order.lock().unwrap().len() == number + 1);
    }
    ticker.tick();
    joinall(greenlets);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
}

/// Whether a thread of this process sleeps.
fn sleeps(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with('S')
}

/// A handler finds the queue locked by the very thread that it interrupts. Somebody
/// waits meanwhile, so that the queue has to be looked through.
#[test]
fn a_signal_handler_may_wake_who_waits() {
    let name = "a_signal_handler_may_wake_who_waits";
    static WORD: AtomicU32 = AtomicU32::new(0);
    static SIGNALS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handler(_: c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
        let _ = futex(&WORD, WAKE_BITSET, 1, None, 4);
    }
    alone(name, || {
        common::patch();
        let waiter = thread::spawn(|| {
            while WORD.load(Ordering::SeqCst) == 0 {
                let _ = futex(&WORD, WAIT_BITSET, 0, None, 1);
            }
        });
        let woken = thread::spawn(|| {
            while WORD.load(Ordering::SeqCst) == 0 {
                let _ = futex(&WORD, WAKE_BITSET, 1, None, 2);
            }
        });
        let handler = handler as extern "C" fn(c_int) as libc::sighandler_t;
        // SAFETY: what the handler does may be done in one.
        unsafe { libc::signal(libc::SIGUSR1, handler) };
        while SIGNALS.load(Ordering::Relaxed) < 2000 {
            use std::os::unix::thread::JoinHandleExt;
            // SAFETY: it has not been joined.
            unsafe { libc::pthread_kill(woken.as_pthread_t(), libc::SIGUSR1) };
        }
        WORD.store(1, Ordering::SeqCst);
        let _ = futex(&WORD, WAKE, i32::MAX as u32, None, 0);
        woken.join().unwrap();
        waiter.join().unwrap();
    });
}
