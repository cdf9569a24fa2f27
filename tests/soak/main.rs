//! A soak: threads that are greenlets, isolated ones and light ones inside of these are
//! spawned, wait in all ways, panic, are killed, detached and joined, from greenlets and
//! from OS threads, under a limit of memory. Each has to end once, all that they leave
//! to destructors has to be destroyed once, and nothing may be left behind.
//!
//! `GREENLET_SOAK=<seconds>` has it go on for longer than the few seconds of a test, and
//! `GREENLET_SEED=<what was printed>` has it make the same choices again.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod actor;
mod allocator;
#[path = "../common/mod.rs"]
mod common;
mod ledger;
mod library;
mod outcome;
mod server;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use actor::{World, spawn};
use common::stress::Random;
use common::{MS, alone, os_thread, proc_status, quiet_panics, resident_kib, soaking, watchdog};
use greenlet::monkey::Patch;
use ledger::{LEDGER, Life};
use outcome::{Spawned, part};
use server::Server;

#[global_allocator]
static ALLOCATOR: allocator::Guarded = allocator::Guarded::new();

/// What the process may map for each hub, stacks that are reserved and not used included.
const ADDRESS_SPACE: u64 = 3 << 30;
/// What it may have in memory at any time.
const RESIDENT_KIB: usize = 96 << 10;

#[test]
fn a_soak_on_one_os_thread_leaves_nothing_behind() {
    alone("a_soak_on_one_os_thread_leaves_nothing_behind", || soak(0));
}

#[test]
fn a_soak_on_two_further_hubs_leaves_nothing_behind() {
    alone("a_soak_on_two_further_hubs_leaves_nothing_behind", || {
        soak(2)
    });
}

/// memcheck understands threads that are greenlets, if stacks have guards that it knows;
/// and it has no `wrfsbase`, so this is the way without.
#[test]
fn a_small_soak_is_clean_under_valgrind() {
    const NAME: &str = "a_small_soak_is_clean_under_valgrind";
    let Ok(me) = std::env::current_exe() else {
        return;
    };
    if std::env::var_os("GREENLET_TEST_SUBPROCESS").is_some() {
        let mut soak = Soak::start(0);
        for _ in 0..8 {
            soak.round();
        }
        return soak.stop();
    }
    let mut valgrind = std::process::Command::new("valgrind");
    valgrind
        .args(["--quiet", "--error-exitcode=9", "--exit-on-first-error=yes"])
        // What is farther away is another stack. Guards are larger, and frames smaller.
        .arg("--max-stackframe=60000")
        .arg(me)
        .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
        .envs([("GREENLET_TEST_SUBPROCESS", "1"), ("RUST_BACKTRACE", "0")])
        .envs([("GREENLET_GUARD", "mprotect"), ("GREENLET_SOAK", "60")])
        .env(allocator::PLAIN.to_str().unwrap(), "1");
    let Ok(output) = valgrind.output() else {
        eprintln!("no valgrind here: not tested");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(
        !said.contains("Invalid") && !said.contains("ninitialised"),
        "{said}"
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{said}");
}

/// All that runs while it soaks.
struct Soak {
    _aborts: AbortsWhenItPanics,
    random: Random,
    server: Server,
    helper: Helper,
    rounds: usize,
}

impl Soak {
    fn start(hubs: usize) -> Soak {
        quiet_panics();
        library::compile();
        // Machines with much else to do are no concern here.
        greenlet::diagnostics::watchdog(None);
        Patch::new().hubs(hubs).apply().unwrap();
        let mut random = Random::seeded("soak");
        let server = Server::start();
        let helper = Helper::start(random.split());
        Soak {
            _aborts: AbortsWhenItPanics,
            random,
            server,
            helper,
            rounds: 0,
        }
    }

    fn round(&mut self) {
        one_round(&self.server, &self.helper, &mut self.random);
        self.rounds += 1;
    }

    fn stop(self) {
        let Soak { helper, server, .. } = self;
        helper.stop();
        server.stop();
        library::remove();
    }
}

/// The test's thread would wait for those that run on it.
struct AbortsWhenItPanics;

impl Drop for AbortsWhenItPanics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            library::remove();
            std::process::abort();
        }
    }
}

fn soak(hubs: usize) {
    let _watchdog = watchdog();
    limit_memory(1 + hubs as u64);
    let mut soak = Soak::start(hubs);
    let start = Instant::now();
    // Until everything has been as large as it gets.
    while start.elapsed() < soaking() / 4 {
        soak.round();
    }
    let before = Memory::now();
    println!("after {:?}: {before:?}; {LEDGER}", start.elapsed());
    let mut said = Instant::now();
    while start.elapsed() < soaking() {
        soak.round();
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            println!(
                "after {:?}: {:?}; {} rounds",
                start.elapsed(),
                Memory::now(),
                soak.rounds
            );
        }
    }
    let after = Memory::now();
    println!(
        "after {:?}: {after:?}; {} rounds; {LEDGER}",
        start.elapsed(),
        soak.rounds
    );
    assert!(LEDGER.spawned() > 500, "{LEDGER}");
    before.has_not_grown_to(after);
    soak.stop();
    assert!(
        proc_status("VmHWM:") < RESIDENT_KIB,
        "{} KiB",
        proc_status("VmHWM:")
    );
}

fn limit_memory(hubs: u64) {
    let limit = libc::rlimit {
        rlim_cur: hubs * ADDRESS_SPACE,
        rlim_max: hubs * ADDRESS_SPACE,
    };
    // SAFETY: a live variable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Spawns some, sees how they end, and waits until everybody has ended.
fn one_round(server: &Server, helper: &Helper, random: &mut Random) {
    let world = Arc::new(World::new(server.address));
    let mut mine = Vec::new();
    for _ in 0..20 + random.below(60) {
        let Some(spawned) = spawn(&world, random, 2) else {
            continue;
        };
        match random.below(4) {
            0 => helper.part(spawned),
            1 => {
                let (life, mut random) = (Life::new(), random.split());
                greenlet::spawn(move || {
                    let _life = life;
                    random.pause();
                    part(spawned, &mut random);
                });
            }
            _ => mine.push(spawned),
        }
        random.pause();
    }
    while !mine.is_empty() {
        let at = random.below(mine.len() as u64);
        part(mine.swap_remove(at), random);
    }
    let start = Instant::now();
    while !LEDGER.is_settled() {
        greenlet::sleep(MS / 4);
        if start.elapsed() > Duration::from_secs(30) {
            eprintln!(
                "somebody does not end: {LEDGER}\n{}",
                greenlet::hub::report()
            );
            std::process::abort();
        }
    }
    world.clear();
}

/// An OS thread that joins, detaches and kills.
struct Helper {
    sends: mpsc::Sender<(Spawned, Life)>,
    thread: std::thread::JoinHandle<()>,
}

impl Helper {
    fn start(mut random: Random) -> Helper {
        let (sends, gets) = mpsc::channel::<(Spawned, Life)>();
        let thread = os_thread(move || {
            for (spawned, _life) in gets {
                std::thread::sleep(random.short());
                part(spawned, &mut random);
            }
        });
        Helper { sends, thread }
    }

    /// The round goes on until it has done so.
    fn part(&self, spawned: Spawned) {
        self.sends.send((spawned, Life::new())).unwrap();
    }

    fn stop(self) {
        drop(self.sends);
        self.thread.join().unwrap();
    }
}

/// What there is between two rounds.
#[derive(Debug)]
#[allow(dead_code, reason = "they are printed")]
struct Memory {
    /// Of Rust's: bytes, pieces.
    allocated: (usize, usize),
    /// Of malloc's, in bytes.
    malloc: usize,
    resident_kib: usize,
    mapped_kib: usize,
    descriptors: usize,
    threads: usize,
}

impl Memory {
    fn now() -> Memory {
        // Those who have just ended are on their way out.
        greenlet::sleep(20 * MS);
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        Memory {
            allocated: ALLOCATOR.in_use(),
            // SAFETY: no preconditions.
            malloc: unsafe { libc::mallinfo() }.uordblks as u32 as usize,
            resident_kib: resident_kib(),
            mapped_kib: proc_status("VmSize:"),
            descriptors,
            threads: common::threads(),
        }
    }

    fn has_not_grown_to(&self, after: Memory) {
        let both = format!("{self:#?} {after:#?}");
        // Tables, and pools of stacks, grow with the most that there have been at a time.
        let ((bytes, pieces), (bytes_after, pieces_after)) = (self.allocated, after.allocated);
        assert!(pieces_after <= pieces + 256, "{both}");
        assert!(bytes_after <= bytes + (128 << 10), "{both}");
        assert!(
            after.resident_kib <= self.resident_kib + (8 << 10),
            "{both}"
        );
        assert_eq!(
            (after.descriptors, after.threads),
            (self.descriptors, self.threads),
            "{both}"
        );
    }
}
