//! The examples of crossbeam-channel, as they are published but for a `pub` before
//! `main`, with OS threads and with greenlets; and channels between many.

use greenlet_real::alike::{self, Program};

#[allow(clippy::all)]
#[rustfmt::skip]
mod fibonacci;
#[allow(clippy::all)]
#[rustfmt::skip]
mod matching;
#[allow(clippy::all)]
#[rustfmt::skip]
mod stopwatch;

fn main() {
    alike::run(&[
        Program::new("fibonacci", fibonacci::main),
        Program {
            essence: couples,
            ..Program::new("matching", matching::main)
        },
        Program {
            essence: without_digits,
            interrupted_after: 2,
            ..Program::new("stopwatch", stopwatch::main)
        },
    ]);
}

/// Who meets whom is left to chance. Everybody is named once, in sentences of two kinds.
fn couples(output: &str) -> String {
    let names = ["Anna", "Bob", "Cody", "Dave", "Eva"];
    let mut text = output.to_owned();
    for name in names {
        assert_eq!(output.matches(name).count(), 1, "{name}: {output}");
        text = text.replace(name, "somebody");
    }
    text
}

/// It prints how many milliseconds it took, each second until it is interrupted.
fn without_digits(output: &str) -> String {
    let text = output.replace(|letter: char| letter.is_ascii_digit(), "");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.dedup();
    lines.join("\n")
}
