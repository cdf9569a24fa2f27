//! A program that is run twice, with real threads and patched, and has to say the same.
//!
//! ```text
//!   cargo test ─▶ the program ──┬─▶ itself, GREENLET_RUN=real    ─▶ what it says ─┐
//!                               └─▶ itself, GREENLET_RUN=patched ─▶ what it says ─┴▶ the same?
//! ```
//!
//! It is made of sections, which print what they observe. The order of what is printed
//! comes from channels, barriers and joins, never from time. How many threads of the
//! kernel there were is said as well, in lines of their own that are not compared: more
//! than one in the first run, and in the second one only.
//!
//! Arguments choose sections by a part of their names. To see what one of the two says:
//! `GREENLET_RUN=patched target/debug/deps/threads_std-… scope`.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::{env, panic, thread};

/// Set in the two runs.
const RUN: &str = "GREENLET_RUN";
/// Set in a process that a section has started, see `end_of`.
const END: &str = "GREENLET_END";
/// Begins a line that says which section begins.
const SECTION: &str = "== ";
/// Begins a line that says how many threads the kernel knew of.
const THREADS: &str = "## threads: ";
/// Seconds until a process that hangs is ended.
const LIMIT: u32 = 120;

/// A section: its name, and what it does.
pub type Section = (&'static str, fn());

/// As `Section`, for what is found at run time.
pub struct Found {
    pub name: String,
    pub body: Box<dyn Fn()>,
}

impl From<&Section> for Found {
    fn from(&(name, body): &Section) -> Found {
        Found {
            name: name.to_owned(),
            body: Box::new(body),
        }
    }
}

/// The `main` of such a program. In both runs, what `sections` gives is run one after
/// the other; `ends` are what sections start in a process of its own. The variables are
/// set in the environment of both. False, after it has said why, if they differ.
#[must_use]
pub fn run(
    variables: &[(&str, &str)],
    sections: impl FnOnce() -> Vec<Found>,
    ends: &[Section],
) -> bool {
    let Ok(run) = env::var(RUN) else {
        return compare(variables);
    };
    // SAFETY: without a handler SIGALRM ends the process.
    unsafe { libc::alarm(LIMIT) };
    if run == "patched" {
        greenlet::monkey::patch_all().expect("the program owns its symbols");
        wait_for_strangers();
    }
    if let Ok(wanted) = env::var(END) {
        let (_, end) = ends.iter().find(|(name, _)| *name == wanted).unwrap();
        end();
        return true;
    }
    // What panics on purpose does not say so; whatever else panics ends the section, and
    // with it the process.
    panic::set_hook(Box::new(|_| {}));
    for section in sections() {
        if is_wanted(&section.name) {
            println!("{SECTION}{}", section.name);
            (section.body)();
            let most = MOST.swap(0, SeqCst);
            if most > 0 {
                println!("{THREADS}{most}");
            }
        }
    }
    true
}

/// Whether the arguments name it, or nothing.
fn is_wanted(name: &str) -> bool {
    let mut parts = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    parts.peek().is_none() || parts.any(|part| name.contains(&part))
}

/// The most threads that this section has counted.
static MOST: AtomicUsize = AtomicUsize::new(0);

/// How many threads of the kernel there are, without the helpers of this crate: what
/// watches the others, and what runs `system` in their place.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // One that has ended meanwhile has no name any more.
    let names = tasks.filter_map(|task| std::fs::read(task.ok()?.path().join("comm")).ok());
    let helpers: [&[u8]; 2] = [b"greenlet-watch", b"greenlet-offloa"];
    names
        .filter(|name| !helpers.contains(&name.trim_ascii_end()))
        .count()
}

/// Counts the threads that the kernel knows of, at a moment when there are several that
/// this program has made, and no others.
pub fn count_threads() {
    MOST.fetch_max(threads(), SeqCst);
}

/// Patching may start a thread to look at it, which is gone from /proc a little after it
/// has been joined.
fn wait_for_strangers() {
    while threads() > 1 {
        thread::yield_now();
    }
}

/// Runs one of the program's `ends` in a process of its own, with threads as here.
pub fn end_of(name: &str) -> Output {
    let program = env::current_exe().unwrap();
    Command::new(program)
        .env(END, name)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// How a process has ended, in words.
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{status}"),
    }
}

/// What was said between two lines that begin a section.
#[derive(Default, PartialEq)]
struct Said {
    name: String,
    lines: Vec<String>,
    threads: Option<usize>,
}

/// One of the two runs.
struct Run {
    name: &'static str,
    said: Vec<Said>,
    /// How it has ended, and what it wrote to its standard error, unless it ended well.
    trouble: Option<String>,
}

impl Run {
    fn of(name: &'static str, variables: &[(&str, &str)]) -> Run {
        let output = Command::new(env::current_exe().unwrap())
            .args(env::args_os().skip(1))
            .env(RUN, name)
            .env("RUST_BACKTRACE", "0")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut said: Vec<Said> = Vec::new();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            if let Some(name) = line.strip_prefix(SECTION) {
                said.push(Said {
                    name: name.to_owned(),
                    ..Said::default()
                });
                continue;
            }
            let section = said.last_mut().expect("sections begin with their name");
            match line.strip_prefix(THREADS) {
                Some(number) => section.threads = Some(number.parse().unwrap()),
                None => section.lines.push(line.to_owned()),
            }
        }
        let trouble = (!output.status.success()).then(|| {
            let hung = match output.status.signal() == Some(libc::SIGALRM) {
                true => ", for it hung",
                false => "",
            };
            let end = how(output.status);
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = said.last().map_or("", |section| &section.name);
            format!("ended in section \"{last}\" with {end}{hung}. It wrote:\n{errors}")
        });
        Run {
            name,
            said,
            trouble,
        }
    }
}

fn compare(variables: &[(&str, &str)]) -> bool {
    let real = Run::of("real", variables);
    let patched = Run::of("patched", variables);
    let mut differences = String::new();
    for run in [&real, &patched] {
        if let Some(trouble) = &run.trouble {
            let _ = writeln!(differences, "the {} run {trouble}", run.name);
        }
    }
    for (ours, theirs) in real.said.iter().zip(&patched.said) {
        let name = &ours.name;
        assert_eq!(name, &theirs.name);
        if ours.lines.is_empty() {
            let _ = writeln!(differences, "section \"{name}\" says nothing");
        }
        let lines = ours.lines.len().max(theirs.lines.len());
        for at in 0..lines {
            let pair = [ours, theirs].map(|said| said.lines.get(at).map_or("(nothing)", |l| l));
            if pair[0] != pair[1] {
                let _ = writeln!(
                    differences,
                    "section \"{name}\", line {}:\n  real:    {}\n  patched: {}",
                    at + 1,
                    pair[0],
                    pair[1]
                );
            }
        }
        if let Some(threads) = ours.threads {
            if threads < 2 {
                let _ = writeln!(differences, "section \"{name}\" had no threads");
            }
            if theirs.threads != Some(1) {
                let threads = theirs.threads;
                let _ = writeln!(differences, "section \"{name}\" had {threads:?} OS threads");
            }
        }
    }
    let sections = real.said.len();
    if differences.is_empty() {
        assert_eq!(sections, patched.said.len());
        println!("{sections} sections, real and patched {variables:?}: the same");
    } else {
        eprintln!("real and patched {variables:?} differ:\n{differences}");
    }
    differences.is_empty()
}
