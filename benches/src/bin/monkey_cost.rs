//! What an interposed call costs beyond libc's own, where it does not park.
//!
//! ```text
//! cargo run --release -p greenlet-benches --bin monkey_cost
//! ```
//!
//! Each call is made by the name that the program has (this crate's function) and by
//! the address that the next library has (libc's), in turns of some thousand calls;
//! medians, and the median of the differences. The calls are the cheapest there are:
//! to read nothing from an eventfd, and to receive from an empty non-blocking socket;
//! to take a mutex and to give it back, to post a semaphore and to take that, and to
//! signal a condition that nobody waits for.

use std::ffi::{CStr, c_int, c_void};
use std::time::Instant;

use greenlet_benches::proc;
use greenlet_benches::stats::median;

const CALLS: u32 = 5_000;
const ROUNDS: usize = 401;

type Read = unsafe extern "C" fn(c_int, *mut c_void, usize) -> isize;
type Recv = unsafe extern "C" fn(c_int, *mut c_void, usize, c_int) -> isize;

fn next(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "libc has no {name:?}");
    found
}

fn nanos(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn compare(what: &str, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    let (mut by_us, mut by_libc, mut more) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (a, b) = match round % 2 {
            0 => (nanos(&mut ours), nanos(&mut theirs)),
            _ => {
                let b = nanos(&mut theirs);
                (nanos(&mut ours), b)
            }
        };
        by_us.push(a);
        by_libc.push(b);
        more.push(a - b);
    }
    println!(
        "  {what:<28} {:>6.1} ns, libc's {:>6.1} ns: {:+.1} ns",
        median(&by_us),
        median(&by_libc),
        median(&more)
    );
}

fn all() {
    // SAFETY: these are libc's functions of that name.
    let (read, recv) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Read>(next(c"read")),
            std::mem::transmute::<*mut c_void, Recv>(next(c"recv")),
        )
    };
    let mut buffer = [0u8; 8];
    let at: *mut c_void = buffer.as_mut_ptr().cast();
    let mut pair = [0; 2];
    // SAFETY: they write two descriptors, and take no memory else.
    let event = unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        assert_eq!(
            libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()),
            0
        );
        libc::eventfd(1, libc::EFD_NONBLOCK)
    };
    let socket = pair[0];
    // SAFETY: the buffer is larger than what is asked for.
    unsafe {
        compare(
            "read of nothing",
            || assert_eq!(libc::read(event, at, 0), -1),
            || assert_eq!(read(event, at, 0), -1),
        );
        compare(
            "recv, nothing there",
            || assert_eq!(libc::recv(socket, at, 8, 0), -1),
            || assert_eq!(recv(socket, at, 8, 0), -1),
        );
        for fd in [event, pair[0], pair[1]] {
            libc::close(fd);
        }
    }
}

type OfMutex = unsafe extern "C" fn(*mut libc::pthread_mutex_t) -> c_int;
type OfCond = unsafe extern "C" fn(*mut libc::pthread_cond_t) -> c_int;
type OfSemaphore = unsafe extern "C" fn(*mut libc::sem_t) -> c_int;

fn locks() {
    // SAFETY: these are libc's functions of that name.
    let (lock, unlock, signal, wait, post) = unsafe {
        (
            std::mem::transmute::<*mut c_void, OfMutex>(next(c"pthread_mutex_lock")),
            std::mem::transmute::<*mut c_void, OfMutex>(next(c"pthread_mutex_unlock")),
            std::mem::transmute::<*mut c_void, OfCond>(next(c"pthread_cond_signal")),
            std::mem::transmute::<*mut c_void, OfSemaphore>(next(c"sem_wait")),
            std::mem::transmute::<*mut c_void, OfSemaphore>(next(c"sem_post")),
        )
    };
    let mut mutex = libc::PTHREAD_MUTEX_INITIALIZER;
    let mutex = &raw mut mutex;
    let mut cond = libc::PTHREAD_COND_INITIALIZER;
    let cond = &raw mut cond;
    let mut semaphore = std::mem::MaybeUninit::<libc::sem_t>::uninit();
    let semaphore = semaphore.as_mut_ptr();
    // SAFETY: all of them are live variables, and initialised.
    unsafe {
        assert_eq!(libc::sem_init(semaphore, 0, 0), 0);
        compare(
            "mutex: lock and unlock",
            || {
                assert_eq!(
                    libc::pthread_mutex_lock(mutex) + libc::pthread_mutex_unlock(mutex),
                    0
                )
            },
            || assert_eq!(lock(mutex) + unlock(mutex), 0),
        );
        compare(
            "semaphore: post and wait",
            || assert_eq!(libc::sem_post(semaphore) + libc::sem_wait(semaphore), 0),
            || assert_eq!(post(semaphore) + wait(semaphore), 0),
        );
        compare(
            "condition: signal nobody",
            || assert_eq!(libc::pthread_cond_signal(cond), 0),
            || assert_eq!(signal(cond), 0),
        );
    }
}

fn main() {
    proc::pin_to(0);
    println!("before patch_all:");
    all();
    locks();
    greenlet::monkey::patch_all().expect("cannot patch");
    println!("after patch_all, on a thread without greenlets:");
    greenlet::monkey::os_thread::spawn(|| (all(), locks()))
        .join()
        .expect("it does not panic");
    println!("after patch_all, on a thread whose greenlets have ended:");
    greenlet::spawn(|| ()).join().expect("it does not panic");
    all();
    locks();
    println!("after patch_all, in a greenlet (it might park):");
    let other = greenlet::spawn(|| greenlet::sleep(std::time::Duration::from_secs(3600)));
    greenlet::spawn(|| (all(), locks()))
        .join()
        .expect("it does not panic");
    other.kill();
}
