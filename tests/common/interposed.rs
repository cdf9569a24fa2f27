//! What those tests of `monkey` share that have to do with other processes and with C
//! code, beside what is in `patched`.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::ffi::{CString, c_int, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use greenlet::JoinHandle;

use crate::patched::{Ticker, errno};

/// What other processes wait for: a file that is not there yet.
#[derive(Clone)]
pub struct Gate(Rc<CString>);

impl Gate {
    pub fn new() -> Gate {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let (place, id) = (env!("CARGO_TARGET_TMPDIR"), std::process::id());
        Gate(Rc::new(
            CString::new(format!("{place}/gate-{id}-{number}")).unwrap(),
        ))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub fn open(&self) {
        std::fs::write(self.path(), "").unwrap();
    }

    /// Opens it after three more turns of the ticker.
    pub fn open_after(&self, ticker: &Ticker) -> JoinHandle<()> {
        let gate = self.clone();
        ticker.after(move || gate.open())
    }

    /// A shell's script that waits for it first, though not for ever.
    pub fn then(&self, script: &str) -> String {
        let is_shut = format!("[ ! -e {} ] && [ $n -lt 20000 ]", self.path());
        format!("n=0; while {is_shut}; do n=$((n + 1)); sleep 0.001; done; {script}")
    }

    /// A child that waits for it and ends with this code, by a real fork.
    pub fn child(&self, code: i32) -> libc::pid_t {
        // SAFETY: the child calls functions that are safe after a fork.
        match unsafe { libc::fork() } {
            0 => self.pass(code),
            child => {
                assert!(child > 0);
                child
            }
        }
    }
}

impl Gate {
    /// What a child does after a fork: it waits for the gate, and ends.
    pub fn pass(&self, code: i32) -> ! {
        // SAFETY: all of these are safe after a fork.
        unsafe {
            libc::alarm(60);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            while libc::access(self.0.as_ptr(), libc::F_OK) != 0 {
                libc::usleep(1000);
            }
            libc::_exit(code)
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) == 1 {
            let _ = std::fs::remove_file(self.path());
        }
    }
}

/// What a call answers, and errno with it if that is -1.
pub fn outcome(answer: impl Into<i64>) -> Result<i64, c_int> {
    match answer.into() {
        -1 => Err(errno()),
        answer => Ok(answer),
    }
}

/// Both ends of a pipe, as numbers.
pub fn pipe() -> (c_int, c_int) {
    let mut ends = [0; 2];
    // SAFETY: an array of two.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0);
    (ends[0], ends[1])
}

/// Writes into a pipe until there is no room for a byte.
pub fn fill(fd: c_int) -> usize {
    let set = |flags: c_int| {
        // SAFETY: the call takes no memory.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }, 0);
    };
    set(libc::O_NONBLOCK);
    let mut filled = 0;
    for chunk in [&[1u8; 4096][..], &[1u8]] {
        loop {
            // SAFETY: a live slice.
            match unsafe { libc::write(fd, chunk.as_ptr().cast(), chunk.len()) } {
                -1 => break,
                n => filled += n as usize,
            }
        }
    }
    set(0);
    filled
}

/// Closes a descriptor.
pub fn close(fd: c_int) {
    // SAFETY: a descriptor of the test's own.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

/// How many helper threads there are.
pub fn helpers() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("greenlet-offloa"))
        .count()
}

/// A shared library of C code, compiled now. `cc` is there, for cargo links with it.
pub struct CLibrary(*mut c_void);

impl CLibrary {
    pub fn compile(name: &str, source: &str, options: &[&str]) -> CLibrary {
        let library = CLibrary::build(name, source, options);
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the path is a string with its end; the library's constructors may run at
        // any time.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
        let _ = std::fs::remove_file(&library);
        CLibrary(handle)
    }

    /// Compiles it, and does not load it; where it is.
    pub fn build(name: &str, source: &str, options: &[&str]) -> PathBuf {
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let base = format!("{name}-{}", std::process::id());
        let (code, library) = (
            place.join(format!("{base}.c")),
            place.join(format!("{base}.so")),
        );
        std::fs::write(&code, source).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-pthread", "-O1", "-o"])
            .arg(&library)
            .arg(&code)
            .args(options);
        let compiled = cc.output().unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        let _ = std::fs::remove_file(&code);
        library
    }

    /// The address of a function.
    pub fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: an open library, and a string with its end.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null());
        found
    }
}
