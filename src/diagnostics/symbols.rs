//! From addresses in memory to names of functions.

use std::path::{Path, PathBuf};

use super::blocked::Frame;
use super::demangle::demangle;
use crate::sys::elf;
use crate::sys::objects::{self, Object};

/// Functions that stand under the body of every greenlet, and of every thread of
/// std's: what lies deeper is the same for all.
const RUNNERS: &[&str] = &[
    "greenlet::hub::cell::",
    "std::sys::backtrace::__rust_begin_short_backtrace",
];

/// Finds out what is at these addresses; one that cannot be found stays a number.
pub(super) fn resolve(addresses: &[usize]) -> Vec<Frame> {
    let objects = objects::loaded();
    let mut frames: Vec<Frame> = addresses
        .iter()
        .map(|&address| frame(address, &objects))
        .collect();
    for object in &objects {
        let inside: Vec<usize> = (0..frames.len())
            .filter(|&at| object.contains(frames[at].address))
            .collect();
        if inside.is_empty() {
            continue;
        }
        let offsets: Vec<usize> = inside.iter().map(|&at| frames[at].offset).collect();
        // A file that cannot be read has no names for us.
        let names = elf::function_names(file_of(object), &offsets).unwrap_or_default();
        for (at, name) in inside.into_iter().zip(names) {
            frames[at].function = name.map(|name| demangle(&name));
        }
    }
    let is_runner = |frame: &Frame| {
        let name = frame.function().unwrap_or_default();
        RUNNERS.iter().any(|runner| name.contains(runner))
    };
    if let Some(end) = frames.iter().position(is_runner) {
        frames.truncate(end);
    }
    frames
}

fn frame(address: usize, objects: &[Object]) -> Frame {
    let object = objects.iter().find(|object| object.contains(address));
    Frame {
        address,
        function: None,
        object: object.map(shown),
        offset: object.map_or(0, |object| address.wrapping_sub(object.base)),
    }
}

/// What to open: the program's own file even if it has been replaced.
fn file_of(object: &Object) -> &Path {
    match object.path.as_os_str().is_empty() {
        true => Path::new("/proc/self/exe"),
        false => &object.path,
    }
}

/// What to call it.
fn shown(object: &Object) -> PathBuf {
    match object.path.as_os_str().is_empty() {
        true => std::env::current_exe().unwrap_or_else(|_| file_of(object).into()),
        false => object.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_program_and_of_libraries_have_names() {
        let ours = resolve as fn(&[usize]) -> Vec<Frame> as usize;
        // SAFETY: the name is a string with its end.
        let theirs = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"qsort".as_ptr()) } as usize;
        let frames = resolve(&[ours + 1, theirs + 1, 1]);
        let name = frames[0].function().unwrap_or_default();
        assert_eq!(name, "greenlet::diagnostics::symbols::resolve");
        assert_eq!(frames[1].function().unwrap_or_default(), "qsort");
        assert!(frames[1].to_string().contains("libc"), "{}", frames[1]);
        assert_eq!(frames[2].to_string(), "(no name) (0x1)");
    }
}
