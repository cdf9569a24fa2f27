//! What several test files share.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_void};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub mod stress;

/// How long a test may take before it counts as hanging.
const LIMIT: Duration = Duration::from_secs(60);
/// For how many seconds to soak; see `soaking`.
const SOAK: &str = "GREENLET_SOAK";
/// Set in a process that was started by `in_subprocess`.
const MARK: &str = "GREENLET_TEST_SUBPROCESS";

pub const MS: Duration = Duration::from_millis(1);

/// Patches everything but threads: where tests make threads, these are to be OS threads.
#[cfg(feature = "monkey")]
pub fn patch() {
    let patch = greenlet::monkey::Patch::new().threads(false);
    patch.apply().unwrap();
}

/// A thread of the operating system, whatever is patched.
pub fn os_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(feature = "monkey")]
    return greenlet::monkey::os_thread::spawn(body);
    #[cfg(not(feature = "monkey"))]
    std::thread::spawn(body)
}

/// How long a soak goes on: a few seconds, or what the environment says.
pub fn soaking() -> Duration {
    let given = std::env::var(SOAK).ok();
    let seconds = given.map(|seconds| seconds.parse().expect("GREENLET_SOAK is a number"));
    Duration::from_secs(seconds.unwrap_or(3))
}

/// How long a test may take that may soak.
fn limit() -> Duration {
    match std::env::var_os(SOAK) {
        Some(_) => LIMIT + 2 * soaking(),
        None => LIMIT,
    }
}

/// Ends the process with a message if a test hangs, until it is dropped.
pub struct Watchdog {
    _alive: Sender<()>,
}

/// Watches the test that calls it.
#[must_use]
pub fn watchdog() -> Watchdog {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let (alive, gone): (Sender<()>, Receiver<()>) = channel();
    os_thread(move || {
        if gone.recv_timeout(limit()) == Err(RecvTimeoutError::Timeout) {
            eprintln!("watchdog: {name} has been hanging for {:?}", limit());
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}

/// What a subprocess has left behind.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Fails, showing what was printed, unless it ended well.
    #[track_caller]
    pub fn succeeded(&self) {
        assert!(self.status.success(), "{self:?}");
    }

    /// Fails unless it ended by this signal, or with this exit code.
    #[track_caller]
    pub fn was_killed_by(&self, signal: i32) {
        assert_eq!(self.status.signal(), Some(signal), "{self:?}");
    }

    #[track_caller]
    pub fn exited_with(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
    }

    /// Fails unless this text is in what it wrote to the standard error stream.
    #[track_caller]
    pub fn said(&self, text: &str) {
        assert!(self.stderr.contains(text), "no {text:?} in {self:?}");
    }

    #[track_caller]
    pub fn did_not_say(&self, text: &str) {
        assert!(!self.stderr.contains(text), "{text:?} in {self:?}");
    }
}

impl std::fmt::Debug for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finished {
            status,
            stdout,
            stderr,
        } = self;
        write!(f, "{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Runs `body` in a process of its own: this test binary, started again for the
/// test `name` alone, with these variables in its environment. None in that
/// process itself, once `body` is through. For what ends the process, or needs
/// it to itself.
pub fn in_subprocess_with(
    name: &str,
    env: &[(&str, &str)],
    body: impl FnOnce(),
) -> Option<Finished> {
    if std::env::var_os(MARK).is_some() {
        body();
        return None;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .env("RUST_BACKTRACE", "0")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let deadline = Instant::now() + limit();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the subprocess of {name} was hanging for {:?}", limit());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let finished = Finished {
        status,
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    };
    // A name that fits no test would make every "it did not crash" true.
    assert!(finished.stdout.contains("running 1 test"), "{finished:?}");
    Some(finished)
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// As `in_subprocess_with`, without variables.
pub fn run_alone(name: &str, body: impl FnOnce()) -> Option<Finished> {
    in_subprocess_with(name, &[], body)
}

/// As `run_alone`, in std's words.
pub fn in_subprocess(name: &str, body: impl FnOnce()) -> Option<Output> {
    run_alone(name, body).map(|finished| Output {
        status: finished.status,
        stdout: finished.stdout.into_bytes(),
        stderr: finished.stderr.into_bytes(),
    })
}

/// As `alone`, without the crate's own thread that watches: it opens a file now and then,
/// and may interrupt who has not run for a while.
pub fn alone_unwatched(name: &str, body: impl FnOnce()) {
    if let Some(finished) = in_subprocess_with(name, &[("GREENLET_WATCHDOG", "off")], body) {
        finished.succeeded();
    }
}

/// As `in_subprocess`, for a body that is expected to succeed.
pub fn alone(name: &str, body: impl FnOnce()) {
    if let Some(finished) = run_alone(name, body) {
        finished.succeeded();
    }
}

/// Forks; the child runs `body` and leaves with the code that it returns.
/// Returns how the child ended: its code, or minus the signal's number. The
/// child has one thread only.
pub fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs on with this thread alone, and what it calls is
    // prepared for that.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: an alarm has no preconditions. It ends a child that hangs.
            unsafe { libc::alarm(LIMIT.as_secs() as u32) };
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: _exit has no preconditions.
            unsafe { libc::_exit(code) }
        }
        child => reap(child),
    }
}

/// Leaves rubbish where malloc finds memory next.
pub fn spoil_heap() {
    let spoilt: Vec<Vec<u8>> = (512..8192).step_by(16).map(|len| vec![0xaa; len]).collect();
    drop(std::hint::black_box(spoilt));
}

/// Waits for a child process; blocks the thread.
pub fn reap(child: i32) -> i32 {
    assert!(child > 0, "fork failed");
    let mut status = 0;
    // SAFETY: the status is a live variable.
    let reaped = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(reaped, child);
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}

/// An address of TCP that refuses connections, and the socket that keeps others from having it.
pub fn refusing() -> (OwnedFd, SocketAddr) {
    bound(0)
}

/// A listener, and a socket that keeps its port from others when the listener is closed.
pub fn listener_of_kept_port() -> (TcpListener, OwnedFd) {
    let (kept, address) = bound(0);
    let (socket, _) = bound(address.port());
    // SAFETY: no preconditions.
    assert_eq!(unsafe { libc::listen(socket.as_raw_fd(), 128) }, 0);
    (TcpListener::from(socket), kept)
}

/// A socket that has a port, which it shares, and does not listen.
fn bound(port: u16) -> (OwnedFd, SocketAddr) {
    let mut address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is new, and the rest are live variables.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0);
        let socket = OwnedFd::from_raw_fd(socket);
        let fd = socket.as_raw_fd();
        let (option, value) = (libc::SO_REUSEPORT, (&raw const on).cast());
        let size = size_of_val(&on) as libc::socklen_t;
        let set = libc::setsockopt(fd, libc::SOL_SOCKET, option, value, size);
        assert_eq!(set, 0);
        let at = (&raw mut address).cast::<libc::sockaddr>();
        assert_eq!(libc::bind(fd, at, len), 0);
        assert_eq!(libc::getsockname(fd, at, &mut len), 0);
        socket
    };
    let port = u16::from_be(address.sin_port);
    (socket, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// An address of UDP that refuses datagrams, and the socket that keeps others from having
/// it: it takes its own only.
pub fn refusing_datagrams() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.connect(address).unwrap();
    (socket, address)
}

/// Compiles C to a shared object, and loads it for good. None, having said so, if there is
/// no compiler, or none that knows these flags.
pub fn load_library(name: &str, source: &str, flags: &[&str]) -> Option<*mut c_void> {
    let folder = std::env::temp_dir().join(format!("greenlet-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (from, to) = (folder.join("a.c"), folder.join("a.so"));
    std::fs::write(&from, source).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1"])
        .args(flags)
        .arg("-o")
        .args([&to, &from])
        .status();
    let library = match compiled {
        Ok(status) if status.success() => {
            let path = CString::new(to.to_str().unwrap()).unwrap();
            // SAFETY: the path is a string with its end.
            let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
            assert!(!library.is_null());
            Some(library)
        }
        compiled => {
            eprintln!("{name} is skipped: cc: {compiled:?}");
            None
        }
    };
    let _ = std::fs::remove_dir_all(folder);
    library
}

/// How many threads this process has.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// A number of /proc/self/status, in KiB or as it is.
pub fn proc_status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Resident memory in KiB.
pub fn resident_kib() -> usize {
    proc_status("VmRSS:")
}

/// What happened, in its order; clones write to the same log.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn new() -> Log {
        Log::default()
    }

    pub fn add(&self, entry: impl ToString) {
        self.0.borrow_mut().push(entry.to_string());
    }

    pub fn entries(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub fn joined(&self) -> String {
        self.0.borrow().join(" ")
    }
}

/// Sets a flag when it is dropped.
pub struct OnDrop(pub Rc<Cell<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// Runs a closure when it is dropped.
pub struct Defer<F: FnOnce()>(Option<F>);

pub fn defer<F: FnOnce()>(f: F) -> Defer<F> {
    Defer(Some(f))
}

impl<F: FnOnce()> Drop for Defer<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// Lets others run until it is so. A test that calls it has a watchdog.
pub fn until(so: impl Fn() -> bool) {
    while !so() {
        greenlet::sleep(MS / 2);
    }
}

/// A flag that clones share.
pub fn flag() -> Rc<Cell<bool>> {
    Rc::new(Cell::new(false))
}

/// Whether this run is one without std's panic count, where a destructor cannot
/// wait for another greenlet while its own unwinds. What needs that is not
/// tested then.
pub fn panic_count_is_off() -> bool {
    std::env::var_os("GREENLET_PANIC_COUNT").is_some_and(|value| value == "off")
}

/// Spawns a greenlet that shares this with the caller.
pub fn with<Q: 'static, R: 'static>(
    shared: &Rc<Q>,
    body: impl FnOnce(&Q) -> R + 'static,
) -> greenlet::JoinHandle<R> {
    let shared = Rc::clone(shared);
    greenlet::spawn(move || body(&shared))
}

/// Keeps the panic hook from printing what a test throws on purpose.
pub fn quiet_panics() {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = match payload.downcast_ref::<String>() {
                Some(text) => text,
                None => payload.downcast_ref::<&str>().copied().unwrap_or_default(),
            };
            if !text.contains("on purpose") {
                print(info);
            }
        }));
    });
}
