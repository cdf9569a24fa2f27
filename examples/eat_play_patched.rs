//! N22: two greenlets take turns with the standard library's own sleep, for
//! everything that blocks has been patched.
//!
//! ```text
//! $ cargo run --release --example eat_play_patched
//! eg eat 1
//! on play 1
//! on play 2
//! eg eat 2
//! ~2 s in all, 1 OS thread
//! main
//! ```
//!
//! A debug build has one thread more: that of the watchdog.

use std::thread::sleep;
use std::time::{Duration, Instant};

use greenlet::{joinall, monkey, spawn};

fn eat(name: &str) {
    println!("{name} eat 1");
    sleep(Duration::from_secs(2));
    println!("{name} eat 2");
}

fn play(name: &str) {
    println!("{name} play 1");
    sleep(Duration::from_secs(1));
    println!("{name} play 2");
}

fn main() -> Result<(), greenlet::error::PatchError> {
    monkey::patch_all()?;
    let start = Instant::now();
    joinall([spawn(|| eat("eg")), spawn(|| play("on"))]);
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let s = if threads == 1 { "" } else { "s" };
    println!(
        "{} s in all, {threads} OS thread{s}",
        start.elapsed().as_secs()
    );
    println!("main");
    Ok(())
}
