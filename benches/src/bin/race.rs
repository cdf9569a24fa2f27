//! Threads, tokio and this crate, side by side, as rows of a table.
//!
//! ```text
//! cargo run --release -p greenlet-benches --bin race [TASKS]
//! ```
//!
//! Each contender starts so many tasks (10,000 unless another number is given);
//! each sleeps 100 ms; then all are joined. Every run is a process of its own,
//! they take turns, and the medians of seven are printed: the time of it all,
//! the processor time, and how much memory the process had at its largest.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use greenlet_benches::proc::{self, CpuClock};
use greenlet_benches::stats::median;

const NAP: Duration = Duration::from_millis(100);
const ROUNDS: usize = 7;

type Contender = fn(usize) -> Result<(), String>;

const CONTENDERS: [(&str, Contender); 3] = [
    ("OS threads", threads),
    ("tokio (current thread)", tokio_tasks),
    ("greenlet", greenlets),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [mode, which, tasks] if mode == "--run" => {
            return run(which, tasks.parse().expect("a number"));
        }
        _ => {}
    }
    let Ok(tasks) = arguments.first().map_or(Ok(10_000), |a| a.parse::<usize>()) else {
        eprintln!("usage: race [TASKS]");
        return ExitCode::FAILURE;
    };
    table(tasks);
    ExitCode::SUCCESS
}

/// In a process of its own: one run, and three numbers.
fn run(which: &str, tasks: usize) -> ExitCode {
    let found = CONTENDERS.iter().find(|(name, _)| *name == which);
    let (_, contender) = found.expect("a contender's name");
    let before = proc::status_kib("VmRSS");
    let start = Instant::now();
    if let Err(error) = contender(tasks) {
        eprintln!("{which}: {error}");
        return ExitCode::FAILURE;
    }
    let wall = start.elapsed();
    println!(
        "{} {} {}",
        wall.as_secs_f64() * 1e3,
        CpuClock::of_process().now().as_secs_f64() * 1e3,
        (proc::status_kib("VmHWM") - before) as f64 / tasks as f64
    );
    ExitCode::SUCCESS
}

fn table(tasks: usize) {
    let mut numbers = [const { [const { Vec::new() }; 3] }; CONTENDERS.len()];
    for round in 0..ROUNDS {
        for turn in 0..CONTENDERS.len() {
            let which = (round + turn) % CONTENDERS.len();
            let output = Command::new("/proc/self/exe")
                .args(["--run", CONTENDERS[which].0, &tasks.to_string()])
                .output()
                .expect("cannot start a process");
            if !output.status.success() {
                eprint!("{}", String::from_utf8_lossy(&output.stderr));
                continue;
            }
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            for (column, number) in text.split_whitespace().enumerate() {
                numbers[which][column].push(number.parse().expect("a number"));
            }
        }
    }
    println!("| {tasks} tasks, each sleeps 100 ms | time | processor time | memory each |");
    println!("|---|---|---|---|");
    for ((name, _), [wall, cpu, memory]) in CONTENDERS.iter().zip(&numbers) {
        if wall.is_empty() {
            println!("| {name} | refused by the machine | | |");
            continue;
        }
        println!(
            "| {name} | {:.0} ms | {:.0} ms | {:.1} KiB |",
            median(wall),
            median(cpu),
            median(memory)
        );
    }
}

fn threads(tasks: usize) -> Result<(), String> {
    let mut handles = Vec::with_capacity(tasks);
    for _ in 0..tasks {
        let handle = std::thread::Builder::new().spawn(|| std::thread::sleep(NAP));
        handles.push(handle.map_err(|error| error.to_string())?);
    }
    for handle in handles {
        handle.join().map_err(|_| "it panicked")?;
    }
    Ok(())
}

fn tokio_tasks(tasks: usize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let handles: Vec<_> = (0..tasks)
            .map(|_| tokio::spawn(tokio::time::sleep(NAP)))
            .collect();
        for handle in handles {
            handle.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

fn greenlets(tasks: usize) -> Result<(), String> {
    let mut handles = Vec::with_capacity(tasks);
    for _ in 0..tasks {
        let handle = greenlet::Builder::new().spawn(|| greenlet::sleep(NAP));
        handles.push(handle.map_err(|error| error.to_string())?);
    }
    for handle in handles {
        handle.join().map_err(|error| error.to_string())?;
    }
    Ok(())
}
