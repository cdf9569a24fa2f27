//! Stacks of all sizes.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::{Arc, Barrier};
use std::thread;

use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("stack: as large as asked", as_asked),
    ("stack: deep inside", deep),
    ("stack: small ones", small),
    ("stack: impossible ones", impossible),
    ("stack: what pthread_getattr_np says", attributes),
    ("stack: kept across waits", kept),
];

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn sized(size: usize) -> thread::Builder {
    thread::Builder::new().stack_size(size)
}

/// Uses a kilobyte and more for each level.
#[inline(never)]
fn descend(levels: u64) -> u64 {
    let frame = [levels as u8; KIB];
    black_box(&frame);
    match levels {
        0 => 0,
        _ => descend(levels - 1) + u64::from(frame[500] == levels as u8),
    }
}

/// From the first frame to the last.
fn as_asked() {
    #[inline(never)]
    fn down_to(lowest: usize) -> u64 {
        let frame = [1_u8; 4 * KIB];
        black_box(&frame);
        match (&raw const frame).addr() > lowest {
            true => down_to(lowest) + u64::from(frame[0]),
            false => 0,
        }
    }
    for (size, used) in [(16 * MIB, 8 * MIB), (MIB, 900 * KIB), (64 * MIB, 60 * MIB)] {
        let thread = sized(size).spawn(move || {
            let top = 0_u8;
            down_to((&raw const top).addr() - used) > 0
        });
        println!("{size}: {}", thread.unwrap().join().unwrap());
    }
}

fn deep() {
    let default = thread::spawn(|| descend(1000));
    println!("{}", default.join().unwrap());
    let barrier = Arc::new(Barrier::new(9));
    let threads: Vec<_> = (1..=8)
        .map(|number| {
            let barrier = Arc::clone(&barrier);
            let thread = sized(number as usize * MIB).spawn(move || {
                let sum = descend(number * 300);
                barrier.wait();
                sum
            });
            thread.unwrap()
        })
        .collect();
    count_threads();
    barrier.wait();
    let sums: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    println!("{sums:?}");
}

fn small() {
    for size in [0, 1, KIB, 16 * KIB, 64 * KIB, 64 * KIB + 1] {
        let thread = sized(size).spawn(|| format!("{:?}", thread::current().name()));
        println!("{size}: {:?}", thread.unwrap().join().unwrap());
    }
    let thread = sized(64 * KIB).spawn(|| descend(20));
    println!("{}", thread.unwrap().join().unwrap());
}

fn impossible() {
    for size in [usize::MAX / 2, usize::MAX / 4, 1 << 50] {
        match sized(size).spawn(|| ()) {
            Ok(_) => println!("{size}: it is there"),
            Err(error) => println!("{size}: {:?}, {error}", error.kind()),
        }
    }
    println!("{}", thread::spawn(|| "and on").join().unwrap());
}

/// Whether the stack that the thread is said to have holds its variables, and is as
/// large as it was asked to be.
fn attributes() {
    for size in [64 * KIB, MIB, 16 * MIB] {
        let thread = sized(size).spawn(|| {
            let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
            let (mut low, mut length) = (std::ptr::null_mut(), 0);
            // SAFETY: what the first call writes is what the others are given.
            unsafe {
                let me = libc::pthread_self();
                let answer = libc::pthread_getattr_np(me, attributes.as_mut_ptr());
                assert_eq!(answer, 0);
                let mut attributes = attributes.assume_init();
                libc::pthread_attr_getstack(&attributes, &mut low, &mut length);
                libc::pthread_attr_destroy(&mut attributes);
            }
            let here = (&raw const low).addr();
            ((low.addr()..low.addr() + length).contains(&here), length)
        });
        let (inside, length) = thread.unwrap().join().unwrap();
        println!("{size}: inside {inside}, large enough {}", length >= size);
        println!("not four times as large: {}", length < 4 * size);
    }
}

fn kept() {
    #[inline(never)]
    fn down_and_wait(levels: u64, barrier: &Barrier) -> u64 {
        let frame = [levels; 16];
        black_box(&frame);
        if levels == 0 {
            barrier.wait();
            return 0;
        }
        let below = down_and_wait(levels - 1, barrier);
        thread::yield_now();
        below + frame[levels as usize % 16]
    }
    let barrier = Arc::new(Barrier::new(10));
    let threads: Vec<_> = (0..10)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || down_and_wait(100, &barrier))
        })
        .collect();
    let sums: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    println!("{sums:?}");
}
