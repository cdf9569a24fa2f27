//! Two greenlets take turns: by switching explicitly, and by sleeping.
//!
//! ```text
//! $ cargo run --example eat_play
//! taibai eat 1
//! taibai play 1
//! taibai eat 2
//! taibai play 2
//!
//! eg eat 1
//! on play 1
//! on play 2
//! eg eat 2
//! main: ~2.0 s in all
//! ```
//!
//! The first half names whom to switch to, and does not react to anything else.
//! The second half only sleeps. Each sleep hands the thread to whoever can go
//! on, so the two sleeps, of 2 s and of 1 s, take 2 s together.

use std::time::{Duration, Instant};

use greenlet::{Greenlet, joinall, sleep, spawn};

fn main() {
    explicit();
    println!();
    scheduled();
}

/// Who is next is written in the code.
fn explicit() {
    let eat = Greenlet::<String>::unbound();
    let play = Greenlet::<String>::unbound();
    eat.bind({
        let play = play.clone();
        move |name| {
            println!("{name} eat 1");
            play.switch(name.clone());
            println!("{name} eat 2");
            play.switch(name)
        }
    });
    play.bind({
        let eat = eat.clone();
        move |name| {
            println!("{name} play 1");
            eat.switch(name.clone());
            println!("{name} play 2");
            // It ends here, and what it returns goes to its parent: to `main`.
            name
        }
    });
    eat.switch("taibai".into());
}

/// Who is next depends on who has to wait.
fn scheduled() {
    let start = Instant::now();
    let eat = spawn(|| {
        println!("eg eat 1");
        sleep(Duration::from_secs(2));
        println!("eg eat 2");
    });
    let play = spawn(|| {
        println!("on play 1");
        sleep(Duration::from_secs(1));
        println!("on play 2");
    });
    // Without this, `main` would end before either has begun.
    joinall([eat, play]);
    println!("main: {:.1} s in all", start.elapsed().as_secs_f64());
}
