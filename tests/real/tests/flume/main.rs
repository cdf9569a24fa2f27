//! The examples of flume, as they are published but for a `pub` before `main`, and the
//! one of its README: with OS threads and with greenlets.

use greenlet_real::alike::{self, Program};

#[allow(clippy::all)]
#[rustfmt::skip]
mod perf;
#[allow(clippy::all)]
#[rustfmt::skip]
mod readme;
#[allow(clippy::all)]
#[rustfmt::skip]
mod simple;

fn main() {
    alike::run(&[
        Program::new("simple", simple::main),
        Program::new("perf", perf::main),
        Program::new("readme", readme::main),
    ]);
}
