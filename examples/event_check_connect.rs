//! N16, N17: one checks the network, three wait for its word, and none waits for
//! ever: an event shared by threads, by greenlets, and by processes.
//!
//! ```text
//! $ cargo run --features process --example event_check_connect
//! threads:
//! 0 s  check: is the network up?
//! 0 s  connector 1: try 1
//! 0 s  connector 2: try 1
//! 0 s  connector 3: try 1
//! 2 s  connector 1: try 2
//! 2 s  connector 2: try 2
//! 2 s  connector 3: try 2
//! 3 s  check: it is
//! 3 s  connector 1: connected
//! 3 s  connector 2: connected
//! 3 s  connector 3: connected
//! 3 of 3 connected
//!
//! greenlets:
//! 0 s  check: is the network up?
//! 0 s  connector 1: try 1
//! 0 s  connector 2: try 1
//! 0 s  connector 3: try 1
//! 2 s  connector 1: try 2
//! 2 s  connector 2: try 2
//! 2 s  connector 3: try 2
//! 3 s  check: it is
//! 3 s  connector 1: connected
//! 3 s  connector 2: connected
//! 3 s  connector 3: connected
//! 3 of 3 connected
//!
//! processes:
//! 0 s  check: is the network up?
//! 0 s  connector 1: try 1
//! 0 s  connector 2: try 1
//! 0 s  connector 3: try 1
//! 1 s  check: it is
//! 1 s  connector 1: connected
//! 1 s  connector 2: connected
//! 1 s  connector 3: connected
//! 3 of 3 connected
//!
//! nocheck:
//! 0 s  connector 1: try 1
//! 0 s  connector 2: try 1
//! 0 s  connector 3: try 1
//! 1 s  connector 1: try 2
//! 1 s  connector 2: try 2
//! 1 s  connector 3: try 2
//! 2 s  connector 1: try 3
//! 2 s  connector 2: try 3
//! 2 s  connector 3: try 3
//! 3 s  connector 1: failed
//! 3 s  connector 2: failed
//! 3 s  connector 3: failed
//! 0 of 3 connected
//! ```
//!
//! Between processes the check takes 1 s and so does each try: the word may come in
//! the last moment of the first try, or in the first of the second.
//!
//! Greenlets wait in a line and are woken in its order. Threads are woken in that
//! order too, but which of them then speaks first is up to the system.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use greenlet::sync::Event;
use greenlet::{joinall, process, sleep};

const USAGE: &str =
    "usage: event_check_connect [threads | greenlets | processes | nocheck]    (default: all)";
const CONNECTORS: usize = 3;
const TRIES: usize = 3;

/// The clock of the machine, for other processes know no other of ours.
fn say(start: SystemTime, who: &str, what: &str) {
    let elapsed = start.elapsed().unwrap_or_default();
    println!("{:.0} s  {who}: {what}", elapsed.as_secs_f64());
}

/// Finds out whether the network is up, and tells everybody who waits.
fn check(start: SystemTime, takes: Duration, set: impl Fn()) {
    say(start, "check", "is the network up?");
    sleep(takes);
    say(start, "check", "it is");
    set();
}

/// Tries to connect; returns whether it could.
fn connect(start: SystemTime, number: usize, wait: impl Fn() -> bool) -> bool {
    let name = format!("connector {number}");
    for n in 1..=TRIES {
        say(start, &name, &format!("try {n}"));
        // On a thread this blocks the thread, in a greenlet only the greenlet.
        if wait() {
            say(start, &name, "connected");
            return true;
        }
    }
    say(start, &name, "failed");
    false
}

fn threads() -> usize {
    let (event, start) = (Arc::new(Event::new()), SystemTime::now());
    std::thread::spawn({
        let event = Arc::clone(&event);
        move || check(start, Duration::from_secs(3), || event.set())
    });
    let mut connectors = Vec::new();
    for number in 1..=CONNECTORS {
        let event = Arc::clone(&event);
        let connector =
            move || connect(start, number, || event.wait_timeout(Duration::from_secs(2)));
        connectors.push(std::thread::spawn(connector));
    }
    let results = connectors.into_iter().map(|thread| thread.join());
    results.filter(|result| matches!(result, Ok(true))).count()
}

fn greenlets() -> usize {
    let (event, start) = (Arc::new(Event::new()), SystemTime::now());
    greenlet::spawn({
        let event = Arc::clone(&event);
        move || check(start, Duration::from_secs(3), || event.set())
    });
    let mut connectors = Vec::new();
    for number in 1..=CONNECTORS {
        let event = Arc::clone(&event);
        let connector =
            move || connect(start, number, || event.wait_timeout(Duration::from_secs(2)));
        connectors.push(greenlet::spawn(connector));
    }
    let results = joinall(connectors).into_iter();
    results.filter(|result| matches!(result, Ok(true))).count()
}

/// Everybody is a process of its own, and so the event is another one, which goes
/// to them in their arguments.
fn processes() -> usize {
    const SECOND: Duration = Duration::from_secs(1);
    let start = SystemTime::now();
    let event = process::Event::new().expect("there is a descriptor for it");
    let begun = process::Event::new().expect("there is a descriptor for it");
    let checker = |(start, event, begun): (SystemTime, process::Event, process::Event)| {
        begun.set();
        check(start, SECOND, || event.set());
    };
    let connector = |(start, number, event): (SystemTime, usize, process::Event)| {
        connect(start, number, || {
            event.wait_timeout(SECOND).unwrap_or(false)
        })
    };
    let checks = process::spawn(checker, (start, event.clone(), begun.clone()));
    // It takes a moment until a process has started.
    begun.wait().expect("the event is there");
    let connectors: Vec<_> = (1..=CONNECTORS)
        .map(|number| process::spawn(connector, (start, number, event.clone())))
        .collect();
    drop(checks);
    let results = connectors.into_iter().map(|child| child.ok()?.join().ok());
    results.filter(|result| *result == Some(true)).count()
}

/// Nobody will ever set the event.
fn nocheck() -> usize {
    let (event, start) = (Arc::new(Event::new()), SystemTime::now());
    let mut connectors = Vec::new();
    for number in 1..=CONNECTORS {
        let event = Arc::clone(&event);
        let connector =
            move || connect(start, number, || event.wait_timeout(Duration::from_secs(1)));
        connectors.push(greenlet::spawn(connector));
    }
    let results = joinall(connectors).into_iter();
    results.filter(|result| matches!(result, Ok(true))).count()
}

/// Returns how many have connected.
type Mode = fn() -> usize;

fn main() -> ExitCode {
    let modes: [(&str, Mode); 4] = [
        ("threads", threads),
        ("greenlets", greenlets),
        ("processes", processes),
        ("nocheck", nocheck),
    ];
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chosen = match arguments.as_slice() {
        [] => modes.to_vec(),
        [help] if help == "--help" || help == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [name] => modes.into_iter().filter(|mode| mode.0 == name).collect(),
        _ => Vec::new(),
    };
    if chosen.is_empty() {
        eprintln!("event_check_connect: one mode is expected, not {arguments:?}\n{USAGE}");
        return ExitCode::from(2);
    }
    for (n, (name, run)) in chosen.into_iter().enumerate() {
        if n > 0 {
            println!();
        }
        println!("{name}:");
        println!("{} of {CONNECTORS} connected", run());
    }
    ExitCode::SUCCESS
}
