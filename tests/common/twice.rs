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
use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::{env, panic, process, thread};

/// Set in the two runs.
const RUN: &str = "GREENLET_RUN";
/// Set in a process that a section has started, see `end_of`.
const END: &str = "GREENLET_END";
/// Begins a line that says which section begins.
const SECTION: &str = "== ";
/// Begins a line that says how many threads the kernel knew of.
const THREADS: &str = "## threads: ";
/// Set to the seconds until a process that hangs is ended, if they are others.
const LIMIT: &str = "GREENLET_LIMIT";
const DEFAULT_LIMIT: u32 = 120;
/// Set to the only section that is to be run.
const ONLY: &str = "GREENLET_ONLY";
/// Set to the sections that are not to be run, one a line.
const ALL_BUT: &str = "GREENLET_ALL_BUT";

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

/// Sections that differ, each with why.
pub type Known<'a> = &'a [(&'static str, &'static str)];

/// The `main` of such a program. In both runs, what `sections` gives is run one after
/// the other, without those that are known to differ; `ends` are what sections start in a
/// process of its own. The variables are set in the environment of both. False, after it
/// has said why, if they differ.
#[must_use]
pub fn run(
    variables: &[(&str, &str)],
    sections: impl FnOnce() -> Vec<Found>,
    ends: &[Section],
    known: Known<'_>,
) -> bool {
    let Ok(run) = env::var(RUN) else {
        return compare(variables, known);
    };
    let limit = env::var(LIMIT).map_or(DEFAULT_LIMIT, |limit| limit.parse().unwrap());
    // SAFETY: without a handler SIGALRM ends the process.
    unsafe { libc::alarm(limit) };
    if run == "patched" {
        greenlet::monkey::patch_all().expect("the program owns its symbols");
        wait_for_strangers();
    }
    if let Ok(wanted) = env::var(END) {
        let (_, end) = ends.iter().find(|(name, _)| *name == wanted).unwrap();
        end();
        return true;
    }
    let sections = sections();
    // What panics on purpose does not say so; but when a section does, it ends the process.
    panic::set_hook(Box::new(|info| *PANIC.lock().unwrap() = info.to_string()));
    for section in sections {
        if is_wanted(&section.name) {
            println!("{SECTION}{}", section.name);
            let done = panic::catch_unwind(AssertUnwindSafe(section.body));
            if done.is_err() {
                eprintln!("{}", PANIC.lock().unwrap());
                process::exit(101);
            }
            let most = MOST.swap(0, SeqCst);
            if most > 0 {
                println!("{THREADS}{most}");
            }
        }
    }
    true
}

/// What was last said of a panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Whether the arguments name it, or nothing, and the environment has nothing against it.
fn is_wanted(name: &str) -> bool {
    if let Ok(only) = env::var(ONLY) {
        return name == only;
    }
    let others = env::var(ALL_BUT).unwrap_or_default();
    let mut parts = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    let is_named = parts.peek().is_none() || parts.any(|part| name.contains(&part));
    is_named && others.lines().all(|other| name != other)
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

fn compare(variables: &[(&str, &str)], known: Known<'_>) -> bool {
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let names = names.join("\n");
    let variables: Vec<_> = [variables, &[(ALL_BUT, &names)]].concat();
    let differences = differences(&variables);
    match &differences {
        Ok(sections) => println!("{sections} sections, real and patched: the same"),
        Err(said) => eprintln!("real and patched, with {variables:?}:\n{said}"),
    }
    differences.is_ok()
}

/// Runs those that are known to differ, each alone. False, after it has said so, if one
/// does not: then it is not to be in that list.
#[must_use]
pub fn still_differ(variables: &[(&str, &str)], known: Known<'_>) -> bool {
    if env::var_os(RUN).is_some() {
        return true;
    }
    let mut all = true;
    for (name, why) in known.iter().filter(|(name, _)| is_wanted(name)) {
        let variables: Vec<_> = [variables, &[(ONLY, name), (LIMIT, "3")]].concat();
        match differences(&variables) {
            Err(_) => println!("\"{name}\" differs: {why}"),
            Ok(_) => {
                eprintln!("\"{name}\" is the same (by now), or is not there");
                all = false;
            }
        }
    }
    all
}

/// Compares two runs: how many sections there are, or what differs.
fn differences(variables: &[(&str, &str)]) -> Result<usize, String> {
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
    match differences.is_empty() && real.said.len() == patched.said.len() {
        true => Ok(real.said.len()),
        false => Err(differences),
    }
}
