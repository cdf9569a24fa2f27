//! What parked greenlets cost in memory, and whether their stacks are guarded.
//!
//! ```text
//! cargo run --release -p greenlet-benches --bin memory [GREENLETS]
//! cargo run --release -p greenlet-benches --bin memory [GREENLETS] --check-guards
//! ```
//!
//! All greenlets (100,000 unless another number is given) are parked at once.
//! With `--check-guards` the stacks of a sample of them are then read downwards,
//! page by page, through the kernel: below each there must be 64 KiB that cannot
//! be read. And a greenlet of a child process, which touches its guard, must be
//! the end of that process.

use std::cell::{Cell, RefCell};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::rc::Rc;

use greenlet::hub::{Parker, StackSize};
use greenlet_benches::proc;

const PAGE: usize = 4096;
const GUARD: usize = 64 << 10;
const SAMPLE: usize = 1000;
const CHILD: &str = "--touch-guard";

fn main() -> ExitCode {
    let mut greenlets = 100_000;
    let mut check = false;
    for argument in std::env::args().skip(1) {
        if argument == "--check-guards" {
            check = true;
        } else if argument == CHILD {
            touch_guard();
            return ExitCode::SUCCESS;
        } else if let Ok(number) = argument.parse() {
            greenlets = number;
        } else {
            eprintln!("usage: memory [GREENLETS] [--check-guards]");
            return ExitCode::FAILURE;
        }
    }
    let stacks = park(greenlets);
    if check {
        return check_guards(&stacks);
    }
    ExitCode::SUCCESS
}

struct Memory {
    resident: u64,
    page_tables: u64,
    mappings: usize,
}

impl Memory {
    fn now() -> Memory {
        Memory {
            resident: proc::status_kib("VmRSS"),
            page_tables: proc::status_kib("VmPTE"),
            mappings: proc::mappings(),
        }
    }
}

/// Parks so many greenlets, prints what they cost, and returns an address in
/// each one's stack.
fn park(greenlets: usize) -> Vec<usize> {
    // What is ours, and not theirs, is there and touched before.
    let stacks = Rc::new(RefCell::new(vec![usize::MAX; greenlets]));
    let parked = Rc::new(Cell::new(0));
    greenlet::spawn(|| ()).join().expect("it does not panic");
    let before = Memory::now();
    for at in 0..greenlets {
        let (stacks, parked) = (Rc::clone(&stacks), Rc::clone(&parked));
        greenlet::spawn(move || {
            let here = 0u8;
            stacks.borrow_mut()[at] = &raw const here as usize;
            parked.set(parked.get() + 1);
            Parker::new().park();
        });
        // So that they start one after the other, as connections would come.
        if at % 1000 == 999 {
            greenlet::yield_now();
        }
    }
    while parked.get() < greenlets {
        greenlet::yield_now();
    }
    let after = Memory::now();
    let each =
        |before: u64, after: u64| (after.saturating_sub(before) * 1024) as f64 / greenlets as f64;
    println!("greenlets parked:         {greenlets}");
    println!(
        "resident, each:           {:.0} bytes",
        each(before.resident, after.resident)
    );
    println!(
        "page tables, each:        {:.0} bytes",
        each(before.page_tables, after.page_tables)
    );
    println!(
        "mappings of the process:  {} (vm.max_map_count is {})",
        after.mappings,
        proc::max_map_count()
    );
    Rc::unwrap_or_clone(stacks).into_inner()
}

/// Whether the kernel can read a byte there.
fn readable(address: usize) -> bool {
    let mut byte = 0u8;
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: 1,
    };
    // SAFETY: the kernel checks the remote address itself, and writes one byte.
    unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) == 1 }
}

fn check_guards(stacks: &[usize]) -> ExitCode {
    let size = StackSize::DEFAULT.bytes();
    let step = stacks.len().div_ceil(SAMPLE).max(1);
    let mut checked = 0;
    for &local in stacks.iter().step_by(step) {
        let mut page = local & !(PAGE - 1);
        while readable(page) {
            page -= PAGE;
            if local - page > size + PAGE {
                println!("a stack of {size} bytes has no end: {local:#x}");
                return ExitCode::FAILURE;
            }
        }
        for below in (page - GUARD + PAGE..=page).step_by(PAGE) {
            if readable(below) {
                println!("the guard of {local:#x} has a hole at {below:#x}");
                return ExitCode::FAILURE;
            }
        }
        checked += 1;
    }
    println!("guards checked:           {checked}, each at least {GUARD} bytes");
    let child = Command::new("/proc/self/exe")
        .arg(CHILD)
        .output()
        .expect("cannot start a child");
    let Some(signal) = child.status.signal() else {
        println!("touching a guard did not end the process");
        return ExitCode::FAILURE;
    };
    println!("touching a guard ends the process by signal {signal}, and says:");
    for line in String::from_utf8_lossy(&child.stderr).lines() {
        println!("    {line}");
    }
    ExitCode::SUCCESS
}

/// In the child: writes below the stack of a greenlet, from within it.
fn touch_guard() {
    let body = || {
        let here = 0u8;
        let mut page = (&raw const here as usize) & !(PAGE - 1);
        while readable(page) {
            page -= PAGE;
        }
        // SAFETY: none; this is to be the end of the process.
        unsafe { (page as *mut u8).write_volatile(1) };
    };
    let _ = greenlet::Builder::new()
        .name("toucher")
        .spawn(body)
        .map(|handle| handle.join());
}
