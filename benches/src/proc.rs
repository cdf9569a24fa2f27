//! What the kernel knows about this process and its threads.

use std::time::Duration;

/// A field of `/proc/self/status` in KiB, for instance `VmRSS`.
pub fn status_kib(field: &str) -> u64 {
    status(field)
}

/// A number from `/proc/self/status`.
pub fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("no /proc");
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {field} in /proc/self/status"))
}

/// How many mappings this process has.
pub fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("no /proc");
    maps.lines().count()
}

/// `vm.max_map_count`, the most mappings that a process may have.
pub fn max_map_count() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("no /proc");
    text.trim().parse().expect("not a number")
}

/// Keeps the calling thread, and those it starts, on one processor.
pub fn pin_to(cpu: usize) {
    // SAFETY: a zeroed set is a valid, empty one, and the kernel only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        let answer = libc::sched_setaffinity(0, size_of_val(&set), &set);
        assert_eq!(answer, 0, "cannot pin to processor {cpu}");
    }
}

/// Lets the calling thread run on all the processors it may have.
pub fn unpin() {
    // SAFETY: as in `pin_to`; the kernel ignores processors that are not there.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in 0..libc::CPU_SETSIZE as usize {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// The clock of the processor time that one thread has used.
#[derive(Clone, Copy)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of all threads of this process together.
    pub fn of_process() -> CpuClock {
        CpuClock(libc::CLOCK_PROCESS_CPUTIME_ID)
    }

    pub fn now(self) -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes one timespec.
        let answer = unsafe { libc::clock_gettime(self.0, &mut time) };
        assert_eq!(answer, 0, "the thread of this clock is gone");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Raises the soft limit on descriptors to the hard one, and says what it is.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes, then reads, one rlimit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur
}
