//! `process::spawn`: a function in another process.
#![cfg(feature = "process")]

mod common;

use common::watchdog;
use greenlet::process;

fn double(n: u64) -> u64 {
    n * 2
}

#[test]
fn a_function_is_called_in_another_process_and_its_result_comes_back() {
    let _watchdog = watchdog();
    let child = process::spawn(double, 21).unwrap();
    assert_ne!(child.pid(), std::process::id());
    assert_eq!(child.join().unwrap(), 42);
}
