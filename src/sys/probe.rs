//! Asks another thread of this process where it is: which functions it is in.
//!
//! Only a thread itself can walk its stack, so it gets a signal, and the handler
//! does it there, wherever the thread is: in a loop, in a C library, or blocked in
//! a system call.
//!
//! ```text
//!   asker                              REQUEST             the thread
//!   writes the question ────────────▶ Idle → Asked
//!   rt_tgsigqueueinfo ──────────────────────────────────▶ handler
//!   sleeps on the bell                Asked → Looking ◀── claims it; the rooms above
//!        │                                                say whether they want it;
//!        │                                                return addresses, at most 64
//!        ◀──────────────────────────  Looking → Done ◀─── rings
//!   reads the answer                  Done → Idle
//!   or has no patience any more:      Asked → Idle        a late handler finds nothing
//! ```
//!
//! **The signal** is SIGURG, which is ignored unless somebody asks for it, and
//! which programs hardly ever do ask for (Go takes it for the same purpose). It is
//! taken when the first question is asked, and not before. Ours bears a mark;
//! others go on to the handler that was there before. If the program installs one
//! later, that is left alone, and no question is asked.
//!
//! **Interrupted calls** go on. Most are restarted by the kernel (`SA_RESTART`);
//! those that it never restarts (`poll`, `nanosleep`, `epoll_wait` and their like)
//! would answer EINTR, so the handler has the thread go back to the instruction
//! that made the call. It knows the call from `/proc`, and does so only if
//! everything fits. All signals are held back meanwhile, so it is as if the thread
//! had been a moment late to make the call. A relative timeout begins anew, which
//! makes it late by the time that has passed, never early.
//!
//! **What is safe there.** The handler takes no lock and allocates nothing. The
//! unwinder does neither once the loader has resolved what it calls, for which the
//! asker walks its own stack once before. (glibc before 2.35 takes the loader's lock
//! to find unwinding tables, which is recursive: it is in the way only while another
//! thread loads a library and waits for this one.)

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::pass::PassThrough;
use super::published::Published;
use super::threads::{self, InCall};
use super::{futex, os, resume, signal};

const SIGNAL: c_int = libc::SIGURG;
/// A stack is walked so deep.
const MOST_FRAMES: usize = 64;
/// What walking takes of the handler's stack is 2.5 KiB without optimisation. std
/// gives threads 8 KiB to handle signals on, of which the kernel takes up to 3.5.
const ROOM: usize = 3 << 10;
/// A thread that has not begun to answer after this cannot: it holds signals back,
/// or is in a call that none interrupts.
const PATIENCE: Duration = Duration::from_millis(50);
/// After this, one that has begun to answer is given up, and with it all asking.
const DESPAIR: Duration = Duration::from_secs(2);

/// What the rooms above say of the greenlet that a thread is in.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) name: [u8; 128],
    pub(crate) name_len: usize,
    pub(crate) spawned_at: Option<&'static Location<'static>>,
    /// The stack that it runs on; empty if it is the thread's own.
    pub(crate) stack: Range<usize>,
    /// How many others wait meanwhile.
    pub(crate) others: usize,
}

/// Whether it is as the asker believes: the hub with this number is that of the
/// calling thread, and is blocked in this turn. It runs in a signal handler.
pub(crate) type Look = fn(hub: u64, turn: u64, note: &mut Note) -> bool;

/// What is to be asked.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) thread: i32,
    pub(crate) hub: u64,
    pub(crate) turn: u64,
    pub(crate) look: Look,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is blocked, there: addresses of calls, the innermost first.
    Blocked(Note, Vec<usize>),
    /// It is not, or not any more.
    NotBlocked,
    /// The thread has not answered.
    Silent,
}

/// The two lowest bits of the state; above them is the number of the thread.
const ASKED: u64 = 1;
const LOOKING: u64 = 2;
const DONE: u64 = 3;
const IDLE: u64 = 0;

fn state_of(thread: i32, phase: u64) -> u64 {
    u64::from(thread as u32) << 2 | phase
}

struct Request {
    state: AtomicU64,
    bell: AtomicU32,
    /// Written by the asker while idle, read by who has claimed it.
    question: UnsafeCell<Option<(Question, Option<InCall>)>>,
    /// Written by who has claimed it, read by the asker when done.
    sight: UnsafeCell<Sight>,
}

// SAFETY: who may touch the cells, and when, is said by `state`.
unsafe impl Sync for Request {}

struct Sight {
    blocked: bool,
    note: Note,
    frames: [usize; MOST_FRAMES],
    count: usize,
}

static REQUEST: Request = Request {
    state: AtomicU64::new(IDLE),
    bell: AtomicU32::new(0),
    question: UnsafeCell::new(None),
    sight: UnsafeCell::new(Sight {
        blocked: false,
        note: Note {
            name: [0; 128],
            name_len: 0,
            spawned_at: None,
            stack: 0..0,
            others: 0,
        },
        frames: [0; MOST_FRAMES],
        count: 0,
    }),
};

/// The right to ask. There is one asker in a process; in a fork's child it may be
/// made anew.
pub(crate) struct Asker(());

impl Asker {
    /// Nobody else may have one in this process. Takes the signal if it can.
    pub(crate) fn new() -> Asker {
        // What a parent has left behind.
        REQUEST.state.store(IDLE, Ordering::Release);
        Asker(())
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, question: Question) -> Answer {
        let thread = question.thread;
        if !has_the_signal() || REQUEST.state.load(Ordering::Acquire) != IDLE {
            return Answer::Silent;
        }
        let call = threads::call_of(thread);
        // SAFETY: the state is idle, so nobody else touches it.
        unsafe { *REQUEST.question.get() = Some((question, call)) };
        REQUEST.bell.store(0, Ordering::Relaxed);
        REQUEST
            .state
            .store(state_of(thread, ASKED), Ordering::Release);
        if !send(thread) || !self.wait(thread) {
            return Answer::Silent;
        }
        // SAFETY: it is done, so the other thread does not touch it any more.
        let sight = unsafe { &*REQUEST.sight.get() };
        let answer = match sight.blocked {
            true => Answer::Blocked(sight.note.clone(), sight.frames[..sight.count].to_vec()),
            false => Answer::NotBlocked,
        };
        REQUEST.state.store(IDLE, Ordering::Release);
        answer
    }

    /// Whether the answer has come.
    fn wait(&self, thread: i32) -> bool {
        let start = Instant::now();
        let (asked, done) = (state_of(thread, ASKED), state_of(thread, DONE));
        while REQUEST.state.load(Ordering::Acquire) != done {
            let waited = start.elapsed();
            if waited >= PATIENCE {
                let taken_back = REQUEST.state.compare_exchange(
                    asked,
                    IDLE,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                if taken_back.is_ok() || waited >= DESPAIR {
                    return false;
                }
            }
            futex::wait(&REQUEST.bell, 0, Some(PATIENCE));
        }
        true
    }
}

/// The disposition that was there before ours.
static PREVIOUS: Published<libc::sigaction> = Published::nothing();

/// Takes the signal the first time. False if it has been taken from us since.
fn has_the_signal() -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one.
    let now = unsafe {
        if libc::sigaction(SIGNAL, ptr::null(), now.as_mut_ptr()) != 0 {
            return false;
        }
        now.assume_init()
    };
    if PREVIOUS.get().is_some() {
        return now.sa_sigaction == on_signal as *const () as usize;
    }
    // What the handler calls is resolved by the loader now, and not in there.
    let mut nothing = ([0; MOST_FRAMES], 0);
    walk(0..0, &mut nothing.0, &mut nothing.1);
    PREVIOUS.set(now);
    // SAFETY: all zeros is a valid sigaction. The handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_signal as *const () as usize;
        // On the alternate stack: a greenlet's may have little room left.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        action.sa_mask = signal::SignalMask::all_but_faults().set();
        libc::sigaction(SIGNAL, &action, ptr::null_mut()) == 0
    }
}

/// Sends a thread the signal, with our mark.
fn send(thread: i32) -> bool {
    let process = std::process::id();
    // The kernel's siginfo: three numbers, then, from byte 16 on, who sends it
    // (process, user) and a value.
    let mut info = [0u64; 16];
    info[0] = SIGNAL as u64;
    info[1] = u64::from(libc::SI_QUEUE as u32);
    info[2] = u64::from(process);
    info[3] = mark() as u64;
    // SAFETY: the kernel reads a siginfo of 128 bytes.
    let sent = unsafe {
        os::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            [
                process as usize,
                thread as usize,
                SIGNAL as usize,
                info.as_ptr() as usize,
            ],
        )
    };
    sent.is_ok()
}

/// What tells our signals from others: an address that nobody else has.
fn mark() -> *const c_void {
    (&raw const REQUEST).cast()
}

unsafe extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid record to a handler with SA_SIGINFO, which
    // has a value if it was queued.
    let ours = unsafe {
        (*info).si_code == libc::SI_QUEUE && (*info).si_value().sival_ptr.cast_const() == mark()
    };
    if !ours {
        // SAFETY: the arguments are the kernel's.
        return unsafe { pass_on(signal, info, context) };
    }
    let saved = os::errno();
    let _pass = PassThrough::enter();
    let thread = threads::current();
    let claimed = REQUEST.state.compare_exchange(
        state_of(thread, ASKED),
        state_of(thread, LOOKING),
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    if claimed.is_ok() {
        // SAFETY: it has been claimed, and was asked with a question. The context
        // is the kernel's.
        unsafe {
            if let Some((question, call)) = *REQUEST.question.get() {
                let context = &mut *context.cast::<libc::ucontext_t>();
                if let Some(call) = call {
                    resume::call_again(context, &call);
                }
                look(question, context, &mut *REQUEST.sight.get());
            }
        }
        REQUEST
            .state
            .store(state_of(thread, DONE), Ordering::Release);
        REQUEST.bell.store(1, Ordering::Release);
        futex::wake(&REQUEST.bell);
    }
    os::set_errno(saved);
}

/// Somebody else's signal, for the handler that was there before ours.
///
/// # Safety
/// The arguments are those of a handler.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS.get() else {
        return;
    };
    let handler = previous.sa_sigaction;
    // By default this signal is ignored.
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    // SAFETY: it is a handler of the kind that its flags say.
    unsafe {
        if previous.sa_flags & libc::SA_SIGINFO != 0 {
            type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
            std::mem::transmute::<usize, Handler>(handler)(signal, info, context);
        } else {
            std::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal);
        }
    }
}

fn look(question: Question, context: &libc::ucontext_t, sight: &mut Sight) {
    sight.count = 0;
    sight.blocked = (question.look)(question.hub, question.turn, &mut sight.note);
    if sight.blocked && room(context, &sight.note.stack) >= ROOM {
        let stack = sight.note.stack.clone();
        walk(stack, &mut sight.frames, &mut sight.count);
    }
}

/// How much is left of the stack that the handler runs on.
fn room(context: &libc::ucontext_t, stack: &Range<usize>) -> usize {
    let here = (&raw const context) as usize;
    let alternate = &context.uc_stack;
    let start = alternate.ss_sp as usize;
    if (start..start.wrapping_add(alternate.ss_size)).contains(&here) {
        here - start
    } else if stack.contains(&here) {
        here - stack.start
    } else {
        // A thread's own.
        usize::MAX
    }
}

/// The unwinder's, which every Rust program is linked with.
#[repr(C)]
struct UnwindContext {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: unsafe extern "C" fn(*mut UnwindContext, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIPInfo(context: *mut UnwindContext, before_instruction: *mut c_int) -> usize;
    fn _Unwind_GetCFA(context: *mut UnwindContext) -> usize;
}

struct Walk<'a> {
    /// Frames below the one that was interrupted are the handler's.
    in_handler: bool,
    stack: Range<usize>,
    frames: &'a mut [usize; MOST_FRAMES],
    count: &'a mut usize,
}

/// Collects what has called whom, from where the thread was interrupted to the top
/// of the stack.
fn walk(stack: Range<usize>, frames: &mut [usize; MOST_FRAMES], count: &mut usize) {
    let mut walk = Walk {
        in_handler: true,
        stack,
        frames,
        count,
    };
    // SAFETY: the callback takes the argument for what it is.
    unsafe { _Unwind_Backtrace(enter_frame, (&raw mut walk).cast()) };
}

unsafe extern "C" fn enter_frame(context: *mut UnwindContext, argument: *mut c_void) -> c_int {
    const GO_ON: c_int = 0;
    const NORMAL_STOP: c_int = 4;
    // SAFETY: the argument is that of `walk`.
    let walk = unsafe { &mut *argument.cast::<Walk<'_>>() };
    let mut interrupted = 0;
    // SAFETY: the unwinder hands out a valid context.
    let (address, frame) = unsafe {
        (
            _Unwind_GetIPInfo(context, &mut interrupted),
            _Unwind_GetCFA(context),
        )
    };
    if address == 0 {
        return NORMAL_STOP;
    }
    // An interrupted frame goes on at its address; others have made a call, which
    // ends there.
    let address = match interrupted {
        0 => address.wrapping_sub(1),
        _ => {
            walk.in_handler = false;
            address
        }
    };
    if walk.in_handler {
        return GO_ON;
    }
    // Where the greenlet's stack ends the unwinder goes on into the loop's.
    if !walk.stack.is_empty() && !walk.stack.contains(&frame) {
        return NORMAL_STOP;
    }
    let Some(place) = walk.frames.get_mut(*walk.count) else {
        return NORMAL_STOP;
    };
    *place = address;
    *walk.count += 1;
    GO_ON
}
