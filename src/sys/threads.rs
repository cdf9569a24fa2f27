//! What the kernel tells of the other threads of this process.

use std::ffi::CString;
use std::time::Duration;

use super::os;

/// The kernel's number of the calling thread.
pub(crate) fn current() -> i32 {
    // SAFETY: gettid has no arguments, and does not fail.
    unsafe { os::syscall(libc::SYS_gettid, [0; 4]) }.unwrap_or(0) as i32
}

/// A file of a thread's directory in `/proc`.
fn file_of(thread: i32, file: &str) -> Option<String> {
    let path = CString::new(format!("/proc/self/task/{thread}/{file}")).ok()?;
    let mut bytes = Vec::new();
    let whole = os::read_file(&path, |piece| bytes.extend_from_slice(piece));
    whole.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// The name of a thread.
pub(crate) fn name_of(thread: i32) -> Option<String> {
    file_of(thread, "comm").map(|name| name.trim_end().to_owned())
}

/// What a thread has spent its time with, as far as it was not asleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// It was on a processor.
    pub(crate) ran: Duration,
    /// It could have run, but others were on the processors.
    pub(crate) delayed: Duration,
}

/// How a thread has spent its time. None where the kernel does not keep account.
pub(crate) fn times_of(thread: i32) -> Option<Times> {
    let line = file_of(thread, "schedstat")?;
    let mut numbers = line
        .split_whitespace()
        .map(|word| word.parse().map(Duration::from_nanos));
    Some(Times {
        ran: numbers.next()?.ok()?,
        delayed: numbers.next()?.ok()?,
    })
}

/// A system call that a thread is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InCall {
    pub(crate) number: u64,
    pub(crate) arguments: [u64; 6],
    pub(crate) stack_pointer: u64,
    /// Where it will go on.
    pub(crate) program_counter: u64,
}

/// The system call that a thread waits in. None also where the kernel keeps it
/// to itself.
pub(crate) fn call_of(thread: i32) -> Option<InCall> {
    parse_call(&file_of(thread, "syscall")?)
}

/// `0 0x3 0x7f59dc58f000 0x20000 0x0 0x0 0x0 0x7ffeb3a4f7f8 0x7f59dc70b2ad`
fn parse_call(line: &str) -> Option<InCall> {
    let mut words = line.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut hexadecimal = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = hexadecimal()?;
    }
    Some(InCall {
        number,
        arguments,
        stack_pointer: hexadecimal()?,
        program_counter: hexadecimal()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_known_by_its_number() {
        let named = std::thread::Builder::new().name("somebody".to_owned());
        let checked = named.spawn(|| {
            let me = current();
            assert_eq!(name_of(me).as_deref(), Some("somebody"));
            // The account is kept when the clock ticks, where it is kept at all.
            while times_of(me).is_some_and(|times| times.ran.is_zero()) {
                std::hint::spin_loop();
            }
        });
        checked.unwrap().join().unwrap();
        assert_eq!(name_of(0), None);
        assert!(times_of(1 << 22).is_none());
    }

    #[test]
    fn a_call_is_read_and_what_is_no_call_is_none() {
        let call = parse_call("35 0x1 0x2 0x3 0x4 0x5 0x6 0x7f 0xab\n").unwrap();
        assert_eq!((call.number, call.arguments[5]), (35, 6));
        assert_eq!((call.stack_pointer, call.program_counter), (0x7f, 0xab));
        for line in [
            "running\n",
            "-1 0x7f 0xab\n",
            "",
            "35 0x1\n",
            "35 1 2 3 4 5 6 7 8",
        ] {
            assert_eq!(parse_call(line), None, "{line}");
        }
    }
}
