//! One operation, done again and again by greenlets of two hubs and by two plain
//! threads, while greenlets are killed.
//!
//! `GREENLET_SEED=<what was printed>` makes the same choices again; what the
//! threads make of them may differ.

use std::time::Duration;

use greenlet::{joinall, sleep, spawn, yield_now};

/// A generator of numbers (splitmix64).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// With a seed that is printed, under the name of who uses it.
    pub fn seeded(name: &str) -> Random {
        let given = std::env::var("GREENLET_SEED").ok();
        let seed = given.map(|seed| seed.parse().expect("GREENLET_SEED is a number"));
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap().as_nanos() as u64
        });
        println!("{name}: GREENLET_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One that has nothing to do with what this one gives from now on.
    pub fn split(&mut self) -> Random {
        Random(self.next())
    }

    pub fn below(&mut self, end: u64) -> usize {
        (self.next() % end) as usize
    }

    /// Up to so many microseconds, and sometimes nothing.
    pub fn micros(&mut self, end: u64) -> Duration {
        Duration::from_micros(self.next() % end)
    }

    /// Up to a fifth of a millisecond.
    pub fn short(&mut self) -> Duration {
        self.micros(200)
    }

    pub fn pause(&mut self) {
        match self.below(8) {
            0 => sleep(self.short()),
            1 | 2 => yield_now(),
            _ => {}
        }
    }
}

const GREENLETS: usize = 16;
const ROUNDS: usize = 150;

/// Runs `op` again and again, on everybody, and kills some; how many.
pub fn stress(name: &str, op: impl Fn(&mut Random) + Clone + Send + 'static) -> usize {
    let mut seeds = Random::seeded(name);
    let hubs: Vec<_> = (0..2)
        .map(|_| {
            let (op, mut random) = (op.clone(), seeds.split());
            std::thread::spawn(move || {
                let workers: Vec<_> = (0..GREENLETS)
                    .map(|_| {
                        let (op, mut random) = (op.clone(), random.split());
                        spawn(move || (0..ROUNDS).for_each(|_| op(&mut random)))
                    })
                    .collect();
                let mut killed = 0;
                while killed < GREENLETS / 2 && !workers.iter().all(|w| w.is_finished()) {
                    sleep(random.short() * 2);
                    workers[random.below(GREENLETS as u64)].kill();
                    killed += 1;
                }
                for result in joinall(workers) {
                    match result {
                        Ok(()) => {}
                        Err(error) => assert!(error.is_killed(), "{error:?}"),
                    }
                }
                killed
            })
        })
        .collect();
    let plain: Vec<_> = (0..2)
        .map(|_| {
            let (op, mut random) = (op.clone(), seeds.split());
            std::thread::spawn(move || (0..ROUNDS * 4).for_each(|_| op(&mut random)))
        })
        .collect();
    plain.into_iter().for_each(|thread| thread.join().unwrap());
    hubs.into_iter().map(|thread| thread.join().unwrap()).sum()
}
