//! What an adversary would try in safe code. Each of these once was, or easily
//! could be, undefined behaviour.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{MS, alone, run_alone, until, watchdog};
use greenlet::hub::{self, Parker};
use greenlet::{JoinHandle, sleep, spawn, spawn_later, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// A greenlet may hold a reference into a thread-local while it is parked. Once
/// the thread's end destroys thread-locals, it must not run any more, although
/// the destructor of another one blocks.
#[test]
fn no_greenlet_runs_once_thread_locals_are_being_destroyed() {
    let _watchdog = watchdog();
    alone(
        "no_greenlet_runs_once_thread_locals_are_being_destroyed",
        || {
            static DESTROYED: AtomicUsize = AtomicUsize::new(0);
            static RAN_AFTERWARDS: AtomicUsize = AtomicUsize::new(0);
            struct Value(Cell<u32>);
            impl Drop for Value {
                fn drop(&mut self) {
                    self.0.set(0);
                    DESTROYED.fetch_add(1, Ordering::Relaxed);
                    // Others have time to run, if they can.
                    for _ in 0..10 {
                        sleep(MS);
                        yield_now();
                    }
                    // So have those that are spawned now, and look at the next.
                    spawn(look);
                    sleep(2 * MS);
                }
            }
            thread_local! {
                static A: Value = const { Value(Cell::new(1)) };
                static B: Value = const { Value(Cell::new(1)) };
                static C: Value = const { Value(Cell::new(1)) };
            }
            fn look() {
                let looks = |value: &Value| {
                    for _ in 0..5 {
                        sleep(MS);
                        if DESTROYED.load(Ordering::Relaxed) > 0 {
                            RAN_AFTERWARDS.fetch_add(1, Ordering::Relaxed);
                        }
                        assert_eq!(value.0.get(), 1, "it was destroyed");
                    }
                };
                let _ = A.try_with(looks);
                let _ = B.try_with(looks);
                let _ = C.try_with(looks);
            }
            for hub_first in [true, false] {
                DESTROYED.store(0, Ordering::Relaxed);
                std::thread::spawn(move || {
                    if !hub_first {
                        C.with(|_| ());
                    }
                    spawn(|| A.with(|_| look()));
                    spawn(|| B.with(|_| look()));
                    spawn(|| {
                        loop {
                            C.with(|value| {
                                yield_now();
                                assert_eq!(value.0.get(), 1, "it was destroyed");
                            });
                        }
                    });
                    yield_now();
                })
                .join()
                .unwrap();
                assert_eq!(DESTROYED.load(Ordering::Relaxed), 3);
                assert_eq!(RAN_AFTERWARDS.load(Ordering::Relaxed), 0);
            }
        },
    );
}

/// The same where the process ends, in main and inside a greenlet.
#[test]
fn no_greenlet_runs_once_exit_destroys_thread_locals() {
    let _watchdog = watchdog();
    for place in ["main", "greenlet"] {
        let name = "no_greenlet_runs_once_exit_destroys_thread_locals";
        let finished = common::in_subprocess_with(name, &[("EXIT_IN", place)], || {
            struct Value;
            impl Drop for Value {
                fn drop(&mut self) {
                    eprintln!("destroyed");
                    sleep(5 * MS);
                    yield_now();
                    eprintln!("through");
                }
            }
            thread_local! {
                static VALUE: Value = const { Value };
            }
            spawn(|| {
                VALUE.with(|_| {
                    loop {
                        sleep(MS);
                        eprintln!("ran");
                    }
                })
            });
            sleep(3 * MS);
            if std::env::var_os("EXIT_IN").is_some_and(|place| place == "greenlet") {
                spawn(|| std::process::exit(3));
                sleep(HOUR);
            }
            std::process::exit(3)
        });
        let Some(finished) = finished else { return };
        finished.exited_with(3);
        finished.said("through");
        let (_, after) = finished.stderr.split_once("destroyed").unwrap();
        assert!(!after.contains("ran"), "{finished:?}");
    }
}

/// Handles stay on their thread; what wakes may go anywhere.
#[test]
fn handles_do_not_leave_their_thread() {
    // The method of the type itself is there only for what is `Send`, and is
    // preferred to that of the trait.
    struct Is<T>(std::marker::PhantomData<T>);
    trait Not {
        fn send(&self) -> bool {
            false
        }
        fn sync(&self) -> bool {
            false
        }
    }
    impl<T> Not for &Is<T> {}
    impl<T: Send> Is<T> {
        fn send(&self) -> bool {
            true
        }
    }
    impl<T: Sync> Is<T> {
        fn sync(&self) -> bool {
            true
        }
    }
    macro_rules! check {
        ($type:ty, $expected:expr) => {
            let is = Is::<$type>(std::marker::PhantomData);
            assert_eq!((&is).send(), $expected, "Send: {}", stringify!($type));
            assert_eq!((&is).sync(), $expected, "Sync: {}", stringify!($type));
        };
    }
    check!(greenlet::JoinHandle<u32>, false);
    check!(greenlet::Current, false);
    check!(Parker, false);
    check!(greenlet::IWait<'static>, false);
    check!(hub::Unparker, true);
    check!(greenlet::GreenletId, true);
    check!(greenlet::LinkId, true);
    check!(greenlet::Builder, true);
}

/// A cycle of handles, results and links: nothing is freed twice, or early.
#[test]
fn results_may_own_handles_of_each_other() {
    let _watchdog = watchdog();
    struct Owns {
        other: RefCell<Option<JoinHandle<Owns>>>,
        drops: Rc<Cell<u32>>,
    }
    impl Drop for Owns {
        fn drop(&mut self) {
            self.drops.set(self.drops.get() + 1);
            if let Some(other) = self.other.take() {
                other.kill();
                other.wait();
                drop(other);
            }
        }
    }
    let drops = Rc::new(Cell::new(0));
    // A chain, each the result of the next: dropped from the outside in.
    let mut chain: Option<JoinHandle<Owns>> = None;
    for _ in 0..100 {
        let (other, drops) = (RefCell::new(chain.take()), Rc::clone(&drops));
        chain = Some(spawn(move || {
            yield_now();
            Owns { other, drops }
        }));
    }
    let last = chain.unwrap();
    last.wait();
    drop(last);
    assert_eq!(drops.get(), 100);

    // One that owns its own handle: a leak, as with Rc, and nothing worse.
    let slot: Rc<RefCell<Option<JoinHandle<Owns>>>> = Rc::default();
    let own = {
        let (slot, drops) = (Rc::clone(&slot), Rc::clone(&drops));
        spawn(move || Owns {
            other: RefCell::new(slot.take()),
            drops,
        })
    };
    slot.replace(Some(own));
    yield_now();
    assert!(slot.borrow().is_none());
    assert_eq!(drops.get(), 100);
}

/// The result of a detached greenlet whose destructor waits is dropped on a
/// stack of its own, whoever else holds a reference to the greenlet.
#[test]
fn a_current_that_outlives_its_greenlet_is_harmless() {
    let _watchdog = watchdog();
    let currents: Rc<RefCell<Vec<greenlet::Current>>> = Rc::default();
    let drops = Rc::new(Cell::new(0));
    for n in 0..100u32 {
        let (currents, drops) = (Rc::clone(&currents), Rc::clone(&drops));
        let handle = spawn(move || {
            currents.borrow_mut().push(greenlet::current());
            yield_now();
            common::defer(move || {
                sleep(MS / 10);
                drops.set(drops.get() + 1);
            })
        });
        match n % 3 {
            0 => drop(handle),
            1 => {
                yield_now();
                drop(handle)
            }
            _ => {
                handle.wait();
                drop(handle)
            }
        }
    }
    until(|| drops.get() == 100);
    let names: Vec<String> = currents
        .borrow()
        .iter()
        .map(|current| current.name())
        .collect();
    assert!(names.iter().all(|name| name.starts_with("greenlet-")));
    currents.borrow_mut().clear();
}

/// std: a panic while another one's hook runs aborts. A hook that blocks lets
/// others run, whose panics then look so. Documented in docs/differences.md.
#[test]
fn a_panic_elsewhere_while_a_panic_hook_blocks_aborts() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    let name = "a_panic_elsewhere_while_a_panic_hook_blocks_aborts";
    let finished = run_alone(name, || {
        std::panic::set_hook(Box::new(|_| sleep(5 * MS)));
        let first = spawn(|| panic!("first"));
        let second = spawn(|| panic!("second"));
        let _ = first.join();
        let _ = second.join();
    });
    let Some(finished) = finished else { return };
    finished.was_killed_by(libc::SIGABRT);
    finished.said("thread panicked while processing panic");
}

/// Everything at once, in an order that a generator chooses: each value is
/// dropped once, each greenlet ends, and each link fires.
#[test]
fn whatever_is_done_in_whatever_order_everything_ends_once() {
    let _watchdog = watchdog();
    common::quiet_panics();
    for seed in 1..=20u64 {
        std::thread::spawn(move || chaos(seed)).join().unwrap();
    }
}

#[derive(Default)]
struct World {
    random: Cell<u64>,
    handles: RefCell<Vec<Rc<JoinHandle<Token>>>>,
    unparkers: RefCell<Vec<hub::Unparker>>,
    links: Cell<u32>,
    fired: Cell<u32>,
    made: Cell<u32>,
    /// The tokens that have not been dropped, and what they are for.
    live: RefCell<BTreeMap<u32, &'static str>>,
    spawned: Cell<u32>,
}

struct Token(Rc<World>, u32);

impl Drop for Token {
    fn drop(&mut self) {
        assert!(self.0.live.borrow_mut().remove(&self.1).is_some());
        if self.0.below(8) == 0 {
            yield_now();
        }
    }
}

impl World {
    fn token(self: &Rc<World>, what: &'static str) -> Token {
        let number = self.made.get();
        self.made.set(number + 1);
        self.live.borrow_mut().insert(number, what);
        Token(Rc::clone(self), number)
    }

    /// xorshift64
    fn below(&self, n: u64) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x % n
    }

    fn some_handle(&self) -> Option<Rc<JoinHandle<Token>>> {
        let len = self.handles.borrow().len() as u64;
        (len > 0).then(|| Rc::clone(&self.handles.borrow()[self.below(len) as usize]))
    }

    fn spawn_one(self: &Rc<World>) {
        if self.spawned.get() >= 300 {
            return;
        }
        self.spawned.set(self.spawned.get() + 1);
        let (captured, world) = (self.token("capture"), Rc::clone(self));
        let body = move || {
            for _ in 0..world.below(12) {
                let _local = world.token("local");
                world.act();
            }
            // Before the result is made: rustc leaks a return value where the
            // destructor of a local unwinds (rust-lang/rust#47949).
            drop(captured);
            world.token("result")
        };
        let handle = match self.below(4) {
            0 => spawn_later(self.below(2000) as u32 * MS / 1000, body),
            _ => spawn(body),
        };
        if self.below(3) == 0 {
            let (token, world) = (self.token("link"), Rc::clone(self));
            self.links.set(self.links.get() + 1);
            handle.link(move || {
                let _token = token;
                world.fired.set(world.fired.get() + 1);
                if world.below(3) == 0 {
                    yield_now();
                }
            });
        }
        if self.below(4) > 0 {
            self.handles.borrow_mut().push(Rc::new(handle));
        }
    }

    fn act(self: &Rc<World>) {
        let short = self.below(300) as u32 * MS / 1000;
        match self.below(18) {
            0..=2 => self.spawn_one(),
            3 | 4 => yield_now(),
            5 => sleep(short),
            6 => {
                if let Some(handle) = self.some_handle() {
                    handle.wait_timeout(short);
                }
            }
            7 => {
                if let Some(handle) = self.some_handle() {
                    handle.kill();
                }
            }
            8 => {
                let len = self.handles.borrow().len() as u64;
                if len > 0 {
                    let at = self.below(len) as usize;
                    let handle = self.handles.borrow_mut().swap_remove(at);
                    drop(handle);
                }
            }
            9 => {
                let world = Rc::clone(self);
                let _ = greenlet::timeout(short, move || {
                    let _token = world.token("in a timeout");
                    world.act();
                    sleep(HOUR);
                });
            }
            10 => {
                let parker = Parker::new();
                self.unparkers.borrow_mut().push(parker.unparker());
                parker.park_timeout(short);
            }
            11 => {
                let unparker = self.unparkers.borrow_mut().pop();
                if let Some(unparker) = unparker {
                    unparker.unpark();
                }
            }
            12 => {
                let some: Vec<_> = (0..3).filter_map(|_| self.some_handle()).collect();
                let objects: Vec<&dyn greenlet::Waitable> = some
                    .iter()
                    .map(|handle| &**handle as &dyn greenlet::Waitable)
                    .collect();
                greenlet::wait(&objects, Some(short), Some(2));
            }
            13 if greenlet::current().is_main() => (),
            13 => {
                let _token = self.token("in a panic");
                if self.below(4) == 0 {
                    panic!("on purpose");
                }
            }
            14 => {
                let (token, world) = (self.token("in a destructor"), Rc::clone(self));
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let inner = Rc::clone(&world);
                    let _waits = common::defer(move || {
                        let _token = token;
                        sleep(inner.below(200) as u32 * MS / 1000);
                        yield_now();
                    });
                    panic!("on purpose");
                }));
            }
            15 => {
                if let Some(handle) = self.some_handle() {
                    let id = handle.link(|| ());
                    if self.below(2) == 0 {
                        handle.unlink(id);
                    }
                }
            }
            16 => drop(hub::report()),
            _ => {
                let stack = 1 << (14 + self.below(6));
                let token = self.token("on a stack of its own size");
                let built = greenlet::Builder::new().stack_size(stack);
                drop(built.spawn(move || drop(token)).unwrap());
            }
        }
    }
}

fn chaos(seed: u64) {
    let world = Rc::new(World::default());
    world.random.set(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    for _ in 0..150 {
        world.act();
    }
    // Whatever still goes on ends here.
    let mut rounds = 0;
    while hub::shutdown() > 0 {
        rounds += 1;
        assert!(rounds < 100, "seed {seed}: {}", hub::report());
    }
    world.spawned.set(u32::MAX);
    let left = world.handles.take();
    for handle in &left {
        assert!(handle.is_finished(), "seed {seed}");
    }
    drop(left);
    hub::shutdown();
    // `shutdown` kills links that have not begun.
    assert!(world.fired.get() <= world.links.get(), "seed {seed}");
    assert!(
        world.live.borrow().is_empty(),
        "seed {seed}: {:?}",
        world.live
    );
    assert_eq!(Rc::strong_count(&world), 1, "seed {seed}");
    assert!(hub::report().starts_with("1 greenlet"), "{}", hub::report());
}

type Words = common::Defer<Box<dyn FnOnce()>>;

greenlet::greenlet_local! {
    static LAST_WORDS: RefCell<Option<Words>> = RefCell::new(None);
}

/// A greenlet's variables may be set by its last destructors: they too are
/// dropped where a destructor may block. Wakers that it calls come too late.
#[test]
fn locals_that_are_set_at_the_very_end_are_dropped_on_the_greenlets_stack() {
    use std::future::Future;
    use std::task::{Context, Wake, Waker};
    let _watchdog = watchdog();
    thread_local! {
        static DROPPED: Cell<u32> = const { Cell::new(0) };
    }
    fn set() {
        let words: Box<dyn FnOnce()> = Box::new(|| {
            sleep(MS);
            yield_now();
            DROPPED.set(DROPPED.get() + 1);
        });
        LAST_WORDS.with_borrow_mut(|last| *last = Some(common::defer(words)));
    }
    struct Sets;
    impl Wake for Sets {
        fn wake(self: std::sync::Arc<Self>) {
            // Too late: it has ended.
            assert!(LAST_WORDS.try_with(|_| ()).is_err());
            DROPPED.set(DROPPED.get() + 1);
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Sets));
    let mut polled = Box::pin(spawn(yield_now));
    assert!(
        polled
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(polled);
    // By the destructor of a result that nobody asks for.
    drop(spawn(|| common::defer(set)));
    // And by that of a capture of one that never runs.
    let captured = common::defer(set);
    spawn(move || drop(captured)).kill();
    until(|| DROPPED.get() == 3);
}
