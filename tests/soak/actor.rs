//! Who is spawned, and what they do: a few things at random, of what threads do.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, Thread};
use std::time::Duration;

use greenlet::yield_now;

use super::common::stress::Random;
use super::ledger::{self, LEDGER, Life};
use super::library;
use super::outcome::{Expected, Handle, Spawned, check_greenlet, part};

/// What all of them share.
pub struct World {
    numbers: [Mutex<u64>; 3],
    changed: Condvar,
    table: RwLock<Vec<u64>>,
    says: SyncSender<u64>,
    hears: Mutex<Receiver<u64>>,
    /// Some who may be unparked.
    threads: Mutex<VecDeque<Thread>>,
    server: SocketAddr,
}

impl World {
    pub fn new(server: SocketAddr) -> World {
        let (says, hears) = std::sync::mpsc::sync_channel(8);
        World {
            numbers: Default::default(),
            changed: Condvar::new(),
            table: RwLock::default(),
            says,
            hears: Mutex::new(hears),
            threads: Mutex::default(),
            server,
        }
    }

    /// Lets go of what would keep something for longer than who has left it.
    pub fn clear(&self) {
        locked(&self.threads).clear();
        while locked(&self.hears).try_recv().is_ok() {}
    }
}

/// Those who panic or are killed poison what they hold.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Actor {
    world: Arc<World>,
    random: Random,
    /// How many generations there may be below.
    depth: usize,
    tag: u64,
    panics: bool,
    _life: Life,
}

/// Waits while it is dropped, mostly in the middle of a panic or a kill.
struct Waits(Duration);

impl Drop for Waits {
    fn drop(&mut self) {
        thread::sleep(self.0);
    }
}

impl Actor {
    fn new(world: &Arc<World>, random: &mut Random, depth: usize) -> (Actor, Expected) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (tag, panics) = (NEXT.fetch_add(1, Relaxed), random.below(10) == 0);
        let actor = Actor {
            world: Arc::clone(world),
            random: random.split(),
            depth,
            tag,
            panics,
            _life: Life::new(),
        };
        let killed = false;
        (
            actor,
            Expected {
                tag,
                panics,
                killed,
            },
        )
    }

    fn run(mut self) -> u64 {
        ledger::own(self.tag);
        let _waits = (self.random.below(8) == 0).then(|| Waits(self.random.short()));
        let me = thread::current();
        for _ in 0..self.random.below(7) {
            self.act();
            assert!(ledger::is_owner(self.tag), "another's thread-locals");
            assert_eq!(thread::current().id(), me.id());
        }
        self.end()
    }

    fn run_lightly(mut self) -> u64 {
        for _ in 0..self.random.below(5) {
            self.act_lightly();
        }
        self.end()
    }

    fn end(&mut self) -> u64 {
        if self.panics {
            let _held = (self.random.below(3) == 0).then(|| locked(&self.world.numbers[0]));
            panic!("{} on purpose", self.tag);
        }
        self.tag
    }

    /// What a light greenlet may do beside others on the same thread-locals.
    fn act_lightly(&mut self) {
        let world = Arc::clone(&self.world);
        let random = &mut self.random;
        match random.below(9) {
            0 => yield_now(),
            1 => thread::sleep(random.short()),
            2 => greenlet::sleep(random.short()),
            3 => {
                let mut number = locked(&world.numbers[random.below(3)]);
                let before = *number;
                random.pause();
                assert_eq!(*number, before, "two have the lock");
                *number += 1;
                world.changed.notify_one();
            }
            4 => {
                let number = locked(&world.numbers[1]);
                drop(world.changed.wait_timeout(number, random.short()));
            }
            5 => match random.below(2) {
                0 => {
                    let table = world.table.read().unwrap_or_else(PoisonError::into_inner);
                    let before = table.len();
                    random.pause();
                    assert_eq!(table.len(), before, "somebody writes");
                }
                _ => {
                    let mut table = world.table.write().unwrap_or_else(PoisonError::into_inner);
                    random.pause();
                    table.push(self.tag);
                    if table.len() > 50 {
                        table.clear();
                    }
                }
            },
            6 => ledger::leave_a_local(random),
            7 => ledger::leave_a_value(),
            _ => {
                let _ = greenlet::timeout(random.short(), || {
                    let _waits = Waits(Duration::ZERO);
                    greenlet::sleep(random.short());
                    thread::sleep(random.short());
                    yield_now();
                });
            }
        }
    }

    fn act(&mut self) {
        let world = Arc::clone(&self.world);
        match self.random.below(12) {
            0..=3 => self.act_lightly(),
            4 => {
                let mut threads = locked(&world.threads);
                threads.push_back(thread::current());
                let other = (threads.len() > 8).then(|| threads.pop_front()).flatten();
                drop(threads);
                if let Some(other) = other {
                    other.unpark();
                }
                thread::park_timeout(self.random.short());
            }
            5 => match self.random.below(2) {
                0 => drop(world.says.try_send(self.tag)),
                _ => {
                    if let Ok(hears) = world.hears.try_lock() {
                        let _ = hears.recv_timeout(self.random.short());
                    }
                }
            },
            // A kill or a timeout makes these fail.
            6 => drop(self.talk_to_the_server()),
            7 => drop(self.talk_to_a_child()),
            8 => self.have_children(),
            9 => self.have_light_children(),
            10 => self.have_scoped_children(),
            _ => match self.random.below(20) {
                0 => library::use_one(&mut self.random),
                _ => drop(std::hint::black_box([self.tag; 256])),
            },
        }
    }

    fn talk_to_the_server(&mut self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&self.world.server, Duration::from_secs(20))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        for _ in 0..self.random.below(4) {
            let said = self.random.next().to_le_bytes();
            let mut heard = [0; 8];
            stream.write_all(&said)?;
            stream.read_exact(&mut heard)?;
            assert_eq!(said, heard);
        }
        Ok(())
    }

    fn talk_to_a_child(&mut self) -> std::io::Result<()> {
        let (mut mine, mut its) = UnixStream::pair()?;
        let life = Life::new();
        let Ok(child) = thread::Builder::new().spawn(move || {
            let _life = life;
            let mut heard = Vec::new();
            its.read_to_end(&mut heard).map(|_| heard)
        }) else {
            return Ok(());
        };
        let sent = mine.write_all(&self.tag.to_le_bytes());
        drop(mine);
        let heard = child.join().unwrap()?;
        if sent.is_ok() {
            assert_eq!(heard, self.tag.to_le_bytes());
        }
        Ok(())
    }

    fn have_children(&mut self) {
        if self.depth == 0 {
            return;
        }
        let mut children = Vec::new();
        for _ in 0..self.random.below(4) {
            children.extend(spawn(&self.world, &mut self.random, self.depth - 1));
        }
        for child in children {
            self.random.pause();
            part(child, &mut self.random);
        }
    }

    fn have_light_children(&mut self) {
        let mut children = Vec::new();
        for _ in 0..self.random.below(3) {
            let (actor, expected) = Actor::new(&self.world, &mut self.random, 0);
            match greenlet::Builder::new().spawn(move || actor.run_lightly()) {
                Ok(child) => children.push((child, expected)),
                Err(_) => _ = LEDGER.refused.fetch_add(1, Relaxed),
            }
        }
        for (child, expected) in children {
            self.random.pause();
            match self.random.below(4) {
                // It ends with the domain at the latest.
                0 => _ = LEDGER.detached.fetch_add(1, Relaxed),
                1 => {
                    child.kill();
                    check_greenlet(
                        child.join(),
                        Expected {
                            killed: true,
                            ..expected
                        },
                    );
                }
                _ => check_greenlet(child.join(), expected),
            }
        }
    }

    fn have_scoped_children(&mut self) {
        let count = 1 + self.random.below(3);
        let mut seen = vec![0; count];
        let (barrier, tag) = (Barrier::new(count), self.tag);
        thread::scope(|scope| {
            for place in &mut seen {
                let (barrier, mut random) = (&barrier, self.random.split());
                let life = Life::new();
                scope.spawn(move || {
                    let _life = life;
                    barrier.wait();
                    thread::sleep(random.short());
                    *place = tag;
                });
            }
        });
        assert_eq!(seen, vec![tag; count]);
    }
}

/// Spawns one of any kind that may live anywhere; none if there is no memory.
pub fn spawn(world: &Arc<World>, random: &mut Random, depth: usize) -> Option<Spawned> {
    let (actor, expected) = Actor::new(world, random, depth);
    // Mostly as they come, otherwise of any size up to 2 MiB.
    let size = (random.below(3) == 0).then(|| {
        let size = (48 << 10) << random.below(6);
        size + random.below(size as u64)
    });
    let name = (random.below(2) == 0).then(|| format!("actor {}", expected.tag));
    let handle = match random.below(3) {
        0 => {
            let mut builder = greenlet::Builder::new();
            if let Some(size) = size {
                builder = builder.stack_size(size);
            }
            if let Some(name) = name {
                builder = builder.name(name);
            }
            builder
                .spawn_isolated(move || actor.run())
                .ok()
                .map(Handle::Isolated)
        }
        _ => {
            let mut builder = thread::Builder::new();
            if let Some(size) = size {
                builder = builder.stack_size(size);
            }
            if let Some(name) = name.clone() {
                builder = builder.name(name);
            }
            let run = move || {
                assert_eq!(thread::current().name(), name.as_deref());
                actor.run()
            };
            builder.spawn(run).ok().map(Handle::Thread)
        }
    };
    if handle.is_none() {
        LEDGER.refused.fetch_add(1, Relaxed);
    }
    handle.map(|handle| (handle, expected))
}
