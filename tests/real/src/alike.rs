//! Programs that are run twice, with OS threads and with threads that are greenlets,
//! and have to print the same.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::{main_thread, threads};

/// A program: its name, its `main`, and what is done while it runs.
pub struct Program {
    pub name: &'static str,
    pub main: fn(),
    /// What may differ from run to run is taken out of what it has printed.
    pub essence: fn(&str) -> String,
    /// Of so many lines that it prints it is then sent a SIGINT.
    pub interrupted_after: usize,
}

impl Program {
    /// One that always prints the same, and ends by itself.
    #[must_use]
    pub const fn new(name: &'static str, main: fn()) -> Program {
        Program {
            name,
            main,
            essence: str::to_owned,
            interrupted_after: 0,
        }
    }

    fn run_as(&self, how: &str) -> String {
        let this = env::current_exe().expect("the program knows where it is");
        let mut child = Command::new(this)
            .args([how, self.name])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be run");
        let output = self.collect(&mut child);
        let ended = child.wait().expect("it is ours");
        assert!(ended.success(), "{} ({how}): {ended}\n{output}", self.name);
        output
    }

    fn collect(&self, child: &mut Child) -> String {
        let stdout: ChildStdout = child.stdout.take().expect("it is piped");
        let mut stdout = BufReader::new(stdout);
        let mut output = String::new();
        for _ in 0..self.interrupted_after {
            stdout.read_line(&mut output).expect("it writes text");
        }
        if self.interrupted_after > 0 {
            // SAFETY: it is our child, and has not been waited for.
            assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
        }
        stdout.read_to_string(&mut output).expect("it writes text");
        output
    }
}

const OS_THREADS: &str = "os-threads";
const GREENLETS: &str = "greenlets";

/// The `main` of a test of such programs. What they print is captured from processes of
/// their own; one whose threads are greenlets has one OS thread when it is over.
pub fn run(programs: &[Program]) {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [how, name] = arguments.as_slice() {
        let program = programs.iter().find(|program| program.name == name);
        let program = program.expect("it was named by ourselves");
        // SAFETY: without a handler SIGALRM ends the process.
        unsafe { libc::alarm(crate::LIMIT) };
        greenlet::diagnostics::watchdog(None);
        if how == GREENLETS {
            greenlet::monkey::patch_all().expect("threads can be greenlets here");
        }
        (program.main)();
        if how == GREENLETS {
            assert_eq!(threads(), [main_thread()], "the threads of the process");
        }
        return;
    }
    for program in programs {
        let [real, patched] = [OS_THREADS, GREENLETS].map(|how| program.run_as(how));
        let [expected, got] = [&real, &patched].map(|output| (program.essence)(output));
        assert_eq!(expected, got, "{}: {real}\nand:\n{patched}", program.name);
        println!("test {} ... ok", program.name);
    }
}
