//! Threads of the operating system, also where `patch_all` makes greenlets of new threads.

use std::io;
use std::thread::{Builder, JoinHandle};

use super::pass::PassThrough;

/// As `Builder::spawn`.
///
/// # Errors
/// As there.
pub(crate) fn spawn<F, T>(builder: Builder, body: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let _pass = PassThrough::enter();
    builder.spawn(body)
}
