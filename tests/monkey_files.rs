//! Files, locks of files, and moving bytes between descriptors under `patch_all`, by
//! std and by libc's own functions (G183).
#![cfg(feature = "monkey")]

mod common;
#[path = "common/interposed.rs"]
mod interposed;
#[path = "common/patched.rs"]
mod patched;

use std::cell::Cell;
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use common::{MS, alone, fork};
use greenlet::spawn;
use interposed::{Gate, helpers, outcome};
use libc::{flock as Record, loff_t, off_t};
use patched::{Ticker, patched};

/// A file with a name of its own, which is gone afterwards.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "scratch-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = open(&path);
        Scratch { path, file }
    }

    fn with(content: &[u8]) -> Scratch {
        let mut scratch = Scratch::new();
        scratch.file.write_all(content).unwrap();
        scratch.file.rewind().unwrap();
        scratch
    }

    /// The same file, opened once more.
    fn again(&self) -> File {
        open(&self.path)
    }
}

fn open(path: &PathBuf) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A pipe whose ends close themselves.
fn pipe() -> (File, File) {
    let (reader, writer) = interposed::pipe();
    // SAFETY: new descriptors, and nobody else's.
    unsafe { (File::from_raw_fd(reader), File::from_raw_fd(writer)) }
}

/// Bytes that are no two blocks the same.
fn bytes(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at % 251) as u8 ^ (at >> 12) as u8)
        .collect()
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn flock(file: &File, operation: c_int) -> Result<i64, c_int> {
    // SAFETY: the call takes no memory.
    outcome(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

fn status_flags(file: &impl AsRawFd) -> c_int {
    // SAFETY: the call takes no memory.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

fn set_nonblocking(file: &impl AsRawFd) {
    let flags = status_flags(file) | libc::O_NONBLOCK;
    // SAFETY: the call takes no memory.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) };
    assert_eq!(set, 0);
}

/// Ends once a child of this process has done `first`; what it holds, it gives up
/// when the gate is open.
fn child_that(gate: &Gate, first: impl Fn() -> bool) -> libc::pid_t {
    let (mut reader, writer) = pipe();
    // SAFETY: the child calls nothing that is not safe after a fork.
    let child = match unsafe { libc::fork() } {
        0 => {
            let done = first() as u8;
            // SAFETY: one byte of a live variable.
            unsafe { libc::write(writer.as_raw_fd(), (&raw const done).cast(), 1) };
            gate.pass(0)
        }
        child => child,
    };
    drop(writer);
    let mut done = [0];
    reader.read_exact(&mut done).unwrap();
    assert_eq!(done, [1]);
    child
}

#[test]
fn a_lock_that_another_process_holds_is_waited_for() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    for kind in [libc::LOCK_EX, libc::LOCK_SH] {
        let scratch = Scratch::new();
        let gate = Gate::new();
        let theirs = scratch.again();
        let holder = child_that(&gate, || flock(&theirs, libc::LOCK_EX).is_ok());
        // It has what is open there too.
        drop(theirs);
        assert_eq!(
            flock(&scratch.file, kind | libc::LOCK_NB),
            Err(libc::EWOULDBLOCK)
        );
        let opener = gate.open_after(&ticker);
        assert_eq!(ticker.ticks_during(|| flock(&scratch.file, kind)), Ok(0));
        opener.join().unwrap();
        assert_eq!(
            flock(&scratch.again(), libc::LOCK_EX | libc::LOCK_NB),
            Err(libc::EWOULDBLOCK)
        );
        assert_eq!(common::reap(holder), 0);
    }
}

#[test]
fn a_lock_that_another_greenlet_holds_is_waited_for() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let scratch = Scratch::new();
    assert_eq!(flock(&scratch.file, libc::LOCK_EX), Ok(0));
    let other = scratch.again();
    let waiter = spawn(move || {
        let locked = flock(&other, libc::LOCK_EX);
        (locked, other)
    });
    let first = scratch.file.try_clone().unwrap();
    let opener = ticker.after(move || flock(&first, libc::LOCK_UN));
    let (locked, other) = ticker.ticks_during(|| waiter.join().unwrap());
    assert_eq!((locked, opener.join().unwrap()), (Ok(0), Ok(0)));
    assert_eq!(
        flock(&scratch.file, libc::LOCK_SH | libc::LOCK_NB),
        Err(libc::EWOULDBLOCK)
    );
    drop(other);
    assert_eq!(flock(&scratch.file, libc::LOCK_SH), Ok(0));
}

#[test]
fn who_is_killed_while_waiting_for_a_lock_never_has_it() {
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let scratch = Scratch::new();
    let (waiting, third) = (Rc::new(scratch.again()), scratch.again());
    assert_eq!(flock(&scratch.file, libc::LOCK_EX), Ok(0));
    let killed = spawn({
        let waiting = Rc::clone(&waiting);
        move || flock(&waiting, libc::LOCK_EX)
    });
    greenlet::sleep(5 * MS);
    killed.kill();
    assert_eq!(killed.join().unwrap(), Err(libc::ECANCELED));
    let mut told = Ok(0);
    let over = greenlet::timeout(5 * MS, || {
        told = flock(&waiting, libc::LOCK_EX);
        greenlet::sleep(MS);
    });
    assert!(over.is_err() && told == Err(libc::ETIMEDOUT));
    assert_eq!(flock(&scratch.file, libc::LOCK_UN), Ok(0));
    // It is free, also after a while.
    greenlet::sleep(40 * MS);
    assert_eq!(flock(&third, libc::LOCK_EX | libc::LOCK_NB), Ok(0));
    assert_eq!(flock(&third, libc::LOCK_UN), Ok(0));
    // Who asks again by the same description has it, and keeps it.
    assert_eq!(flock(&waiting, libc::LOCK_EX), Ok(0));
    greenlet::sleep(40 * MS);
    assert_eq!(
        flock(&third, libc::LOCK_EX | libc::LOCK_NB),
        Err(libc::EWOULDBLOCK)
    );
}

/// A record lock of the whole file.
fn record(kind: c_int) -> Record {
    // SAFETY: all zeros is a lock; of the whole file.
    let mut record: Record = unsafe { std::mem::zeroed() };
    record.l_type = kind as _;
    record
}

fn lock_record(file: &File, command: c_int, kind: c_int) -> Result<i64, c_int> {
    let record = record(kind);
    // SAFETY: a live variable.
    outcome(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const record) })
}

#[test]
fn a_record_lock_is_waited_for() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    // Those of another process, and those of another description.
    for (now, wait) in [
        (libc::F_SETLK, libc::F_SETLKW),
        (libc::F_OFD_SETLK, libc::F_OFD_SETLKW),
    ] {
        let scratch = Scratch::new();
        let gate = Gate::new();
        let theirs = scratch.again();
        let holder = child_that(&gate, || lock_record(&theirs, now, libc::F_WRLCK).is_ok());
        drop(theirs);
        assert_eq!(
            lock_record(&scratch.file, now, libc::F_RDLCK),
            Err(libc::EAGAIN)
        );
        let file = scratch.file.try_clone().unwrap();
        let killed = spawn(move || lock_record(&file, wait, libc::F_WRLCK));
        greenlet::sleep(5 * MS);
        killed.kill();
        assert_eq!(killed.join().unwrap(), Err(libc::ECANCELED));
        let opener = gate.open_after(&ticker);
        let locked = ticker.ticks_during(|| lock_record(&scratch.file, wait, libc::F_WRLCK));
        assert_eq!(locked, Ok(0));
        opener.join().unwrap();
        assert_eq!(common::reap(holder), 0);
        // And a sync does not give it up.
        scratch.file.sync_all().unwrap();
        scratch.file.sync_data().unwrap();
        let file = scratch.file.as_raw_fd();
        let path = scratch.path.clone();
        let seen = fork(|| {
            let other = if now == libc::F_SETLK {
                // SAFETY: the parent's, and still open.
                unsafe { File::from_raw_fd(file) }
            } else {
                open(&path)
            };
            match lock_record(&other, now, libc::F_WRLCK) {
                Err(libc::EAGAIN) => 1,
                _ => 2,
            }
        });
        assert_eq!(seen, 1);
    }
}

#[test]
fn a_file_is_synced_by_a_helper_thread_and_to_the_end() {
    alone("a_file_is_synced_by_a_helper_thread_and_to_the_end", || {
        let _watchdog = patched();
        // Its thread would be counted too.
        greenlet::diagnostics::watchdog(None);
        let mut scratch = Scratch::new();
        // Nobody else runs: nobody waits for it but the thread.
        scratch.file.sync_all().unwrap();
        assert_eq!(helpers(), 0);
        let ticker = Ticker::new();
        scratch.file.write_all(&bytes(1 << 20)).unwrap();
        scratch.file.sync_all().unwrap();
        scratch.file.sync_data().unwrap();
        assert!(helpers() > 0);
        // Who is to end still gets to know whether it is written.
        let (mut reader, _writer) = pipe();
        let killed = spawn(move || {
            std::thread::sleep(1000 * MS);
            scratch.file.write_all(b"last").unwrap();
            let synced = scratch.file.sync_all();
            let read = reader.read(&mut [0]).map_err(|error| error.raw_os_error());
            (synced.is_ok(), read)
        });
        greenlet::sleep(5 * MS);
        killed.kill();
        let (synced, read) = killed.join().unwrap();
        assert!(synced);
        assert_eq!(read, Err(Some(libc::ECANCELED)));
        drop(ticker);
    });
}

/// Reads all that comes, a little at a time, with breaks.
fn slowly(mut from: impl Read + 'static) -> greenlet::JoinHandle<Vec<u8>> {
    spawn(move || {
        let (mut all, mut part) = (Vec::new(), vec![0; 100_000]);
        loop {
            match from.read(&mut part).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&part[..n]),
            }
            greenlet::sleep(MS / 4);
        }
    })
}

/// Has a socket hold little of what is sent.
fn small(socket: &impl AsRawFd) {
    let size: c_int = 200_000;
    let (place, len) = (
        (&raw const size).cast(),
        size_of::<c_int>() as libc::socklen_t,
    );
    let fd = socket.as_raw_fd();
    // SAFETY: the option is an int.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, place, len) };
    assert_eq!(set, 0);
}

fn sendfile(
    to: &impl AsRawFd,
    from: &impl AsRawFd,
    at: Option<&mut off_t>,
    count: usize,
) -> Result<i64, c_int> {
    let at = at.map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: null or a live variable.
    outcome(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), at, count) } as i64)
}

#[test]
fn sendfile_sends_all_to_a_socket_that_is_read_slowly() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let content = bytes(6_000_000);
    let scratch = Scratch::with(&content);
    let pairs: [fn() -> (OwnedFd, OwnedFd); 2] = [
        || {
            let (a, b) = tcp();
            (a.into(), b.into())
        },
        || {
            let (a, b) = UnixStream::pair().unwrap();
            (a.into(), b.into())
        },
    ];
    for pair in pairs {
        let (out, back) = pair();
        small(&out);
        let mut back = File::from(back);
        let reader = ticker.after(move || {
            let mut all = Vec::new();
            back.read_to_end(&mut all).unwrap();
            all
        });
        let mut at = 1000;
        let sent = ticker.ticks_during(|| sendfile(&out, &scratch.file, Some(&mut at), 5_000_000));
        assert_eq!((sent, at), (Ok(5_000_000), 5_001_000));
        // Less than was asked for, at the end of the file; here by its own position.
        let mut file = scratch.again();
        file.seek(SeekFrom::Start(5_001_000)).unwrap();
        assert_eq!(sendfile(&out, &file, None, 5_000_000), Ok(999_000));
        assert_eq!(sendfile(&out, &file, None, 5_000_000), Ok(0));
        assert_eq!(file.stream_position().unwrap(), 6_000_000);
        assert_eq!(status_flags(&out) & libc::O_NONBLOCK, 0);
        drop(out);
        assert!(reader.join().unwrap() == content[1000..]);
    }
}

#[test]
fn sendfile_does_what_a_socket_of_its_user_does() {
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let scratch = Scratch::with(&bytes(4_000_000));
    let (out, back) = UnixStream::pair().unwrap();
    // One that does not block takes what there is room for.
    set_nonblocking(&out);
    let mut total = 0;
    loop {
        match sendfile(&out, &scratch.file, None, 4_000_000) {
            Ok(n) => total += n,
            Err(error) => break assert_eq!(error, libc::EAGAIN),
        }
    }
    assert!(total > 0 && total < 4_000_000);
    // One with a timeout too, and a kill ends it: then it is full already.
    let (out, _back) = UnixStream::pair().unwrap();
    out.set_write_timeout(Some(20 * MS)).unwrap();
    let mut file = scratch.again();
    let sent = sendfile(&out, &file, None, 4_000_000).unwrap();
    assert!(sent > 0 && sent < 4_000_000);
    assert_eq!(file.stream_position().unwrap(), sent as u64);
    assert_eq!(sendfile(&out, &file, None, 4_000_000), Err(libc::EAGAIN));
    out.set_write_timeout(None).unwrap();
    let killed = spawn(move || sendfile(&out, &file, None, 4_000_000));
    greenlet::sleep(5 * MS);
    killed.kill();
    assert_eq!(killed.join().unwrap(), Err(libc::ECANCELED));
    // And who has gone.
    let (out, gone) = UnixStream::pair().unwrap();
    gone.shutdown(std::net::Shutdown::Both).unwrap();
    drop((gone, back));
    let file = scratch.again();
    assert_eq!(sendfile(&out, &file, None, 1000), Err(libc::EPIPE));
}

#[test]
fn sendfile_to_a_pipe_does_as_much_as_the_kernels() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let content = bytes(1_000_000);
    let scratch = Scratch::with(&content);
    let (_reader, writer) = pipe();
    // On a thread without greenlets it is the kernel's.
    let raw = {
        let (file, writer) = (scratch.again(), writer.try_clone().unwrap());
        std::thread::spawn(move || sendfile(&writer, &file, None, 1_000_000))
            .join()
            .unwrap()
    };
    let (mut reader, writer) = pipe();
    let file = scratch.again();
    assert_eq!(sendfile(&writer, &file, None, 1_000_000), raw);
    let first = raw.unwrap() as usize;
    let reading = ticker.after(move || {
        let mut all = vec![0; first];
        reader.read_exact(&mut all).unwrap();
        (all, reader)
    });
    // There is no room, and then there is.
    let more = ticker
        .ticks_during(|| sendfile(&writer, &file, None, 1000))
        .unwrap();
    assert!(more > 0);
    assert!(reading.join().unwrap().0 == content[..first]);
    assert_eq!(status_flags(&writer) & libc::O_NONBLOCK, 0);
}

fn splice(from: &impl AsRawFd, to: &impl AsRawFd, len: usize, flags: u32) -> Result<i64, c_int> {
    let none = ptr::null_mut::<loff_t>();
    // SAFETY: no memory is given.
    outcome(
        unsafe { libc::splice(from.as_raw_fd(), none, to.as_raw_fd(), none, len, flags) } as i64,
    )
}

#[test]
fn splice_waits_for_what_comes_and_for_room() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let content = bytes(300_000);
    // From a pipe that is empty, to one that is full, and on to a socket.
    let (first_reader, mut first_writer) = pipe();
    let (second_reader, second_writer) = pipe();
    let (socket, back) = tcp();
    let received = slowly(back);
    let source = content.clone();
    let writer = ticker.after(move || first_writer.write_all(&source).unwrap());
    let second = spawn(move || {
        let mut moved = 0;
        loop {
            match splice(&first_reader, &second_writer, 70_000, 0).unwrap() {
                0 => return moved,
                n => moved += n,
            }
        }
    });
    let third = spawn(move || {
        let mut moved = 0;
        loop {
            match splice(&second_reader, &socket, 500_000, libc::SPLICE_F_MOVE).unwrap() {
                0 => {
                    assert_eq!(status_flags(&socket) & libc::O_NONBLOCK, 0);
                    return moved;
                }
                n => moved += n,
            }
        }
    });
    ticker.ticks_during(|| {
        assert_eq!(second.join().unwrap(), 300_000);
        assert_eq!(third.join().unwrap(), 300_000);
        writer.join().unwrap();
    });
    assert!(received.join().unwrap() == content);
}

#[test]
fn splice_from_a_socket_and_a_file_and_to_one() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let content = bytes(50_000);
    for unix in [false, true] {
        let (reader, writer) = pipe();
        let (out, back): (OwnedFd, OwnedFd) = match unix {
            true => UnixStream::pair()
                .map(|(a, b)| (a.into(), b.into()))
                .unwrap(),
            false => {
                let (a, b) = tcp();
                (a.into(), b.into())
            }
        };
        let source = content.clone();
        let sender = ticker.after(move || {
            File::from(out).write_all(&source).unwrap();
        });
        let target = Scratch::new();
        let mut total = 0;
        loop {
            let n = match total {
                0 => ticker.ticks_during(|| splice(&back, &writer, 50_000, 0)),
                _ => splice(&back, &writer, 50_000, 0),
            };
            let n = n.unwrap();
            if n == 0 {
                break;
            }
            total += n;
            assert_eq!(splice(&reader, &target.file, n as usize, 0), Ok(n));
        }
        sender.join().unwrap();
        assert_eq!((total, status_flags(&back) & libc::O_NONBLOCK), (50_000, 0));
        assert!(std::fs::read(&target.path).unwrap() == content);
        // And a file into a pipe, with an offset that is counted on.
        let mut at: loff_t = 49_000;
        let none = ptr::null_mut();
        let (file, pipe) = (target.file.as_raw_fd(), writer.as_raw_fd());
        // SAFETY: a live variable.
        let moved = unsafe { libc::splice(file, &mut at, pipe, none, 10_000, 0) };
        assert_eq!((moved, at), (1000, 50_000));
    }
}

#[test]
fn splice_heeds_its_flag_and_who_does_not_block() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let (reader, writer) = pipe();
    let (other_reader, other_writer) = pipe();
    let flag = libc::SPLICE_F_NONBLOCK;
    assert_eq!(splice(&reader, &other_writer, 10, flag), Err(libc::EAGAIN));
    let (socket, back) = UnixStream::pair().unwrap();
    assert_eq!(splice(&socket, &other_writer, 10, flag), Err(libc::EAGAIN));
    assert_eq!(splice(&reader, &socket, 10, flag), Err(libc::EAGAIN));
    // Nor does it give others a turn, however often.
    let turn = common::flag();
    let seen = turn.clone();
    let other = spawn(move || seen.set(true));
    for _ in 0..200 {
        assert_eq!(splice(&reader, &other_writer, 10, flag), Err(libc::EAGAIN));
    }
    assert!(!turn.get());
    other.join().unwrap();
    // The flag is not for this kind of socket: it waits, as the kernel does.
    let (tcp_out, tcp_in) = tcp();
    let sender = ticker.after(move || (&tcp_out).write_all(b"late").map(|()| tcp_out).unwrap());
    assert_eq!(
        ticker.ticks_during(|| splice(&tcp_in, &writer, 10, flag)),
        Ok(4)
    );
    drop(sender.join().unwrap());
    assert_eq!(splice(&reader, &socket, 10, 0), Ok(4));
    set_nonblocking(&socket);
    assert_eq!(splice(&socket, &other_writer, 10, 0), Err(libc::EAGAIN));
    set_nonblocking(&reader);
    assert_eq!(splice(&reader, &other_writer, 10, 0), Err(libc::EAGAIN));
    assert_eq!(splice(&reader, &socket, 10, 0), Err(libc::EAGAIN));
    // Timeouts, and the end.
    back.set_read_timeout(Some(10 * MS)).unwrap();
    let mut four = [0; 4];
    (&back).read_exact(&mut four).unwrap();
    assert_eq!(splice(&back, &writer, 10, 0), Err(libc::EAGAIN));
    back.set_read_timeout(None).unwrap();
    let last = back.try_clone().unwrap();
    let killed = spawn(move || splice(&back, &writer, 10, 0));
    greenlet::sleep(5 * MS);
    killed.kill();
    assert_eq!(killed.join().unwrap(), Err(libc::ECANCELED));
    // A child of a fork beside this test may have it too, for a moment.
    last.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(splice(&socket, &other_writer, 10, 0), Ok(0));
    drop(other_writer);
    assert_eq!(splice(&other_reader, &socket, 10, 0), Ok(0));
}

/// The same arguments to the interposed call, in a greenlet, and to the kernel.
#[test]
fn every_refusal_is_the_kernels() {
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let scratch = Scratch::with(b"some content");
    let directory = File::open("/").unwrap();
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    let read_only = File::open(&scratch.path).unwrap();
    let (reader, writer) = pipe();
    let (socket, _back) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for file in [&reader, &writer, &directory, &null] {
        set_nonblocking(file);
    }
    set_nonblocking(&socket);
    set_nonblocking(&listener);
    // Of those that block, these have an answer at once.
    let (blocking_reader, blocking_writer) = pipe();
    let (blocking, _other) = UnixStream::pair().unwrap();
    for (from, to) in [
        (blocking_writer.as_raw_fd(), blocking.as_raw_fd()),
        (blocking.as_raw_fd(), blocking_reader.as_raw_fd()),
        (blocking_writer.as_raw_fd(), blocking_writer.as_raw_fd()),
        (null.as_raw_fd(), blocking_writer.as_raw_fd()),
        (scratch.file.as_raw_fd(), blocking_reader.as_raw_fd()),
        (blocking.as_raw_fd(), blocking.as_raw_fd()),
    ] {
        let none = 0usize;
        // SAFETY: no memory is given.
        unsafe {
            let ours =
                outcome(libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), 5, 0) as i64);
            let raw = libc::syscall(libc::SYS_splice, from, none, to, none, 5, 0);
            assert_eq!(ours, outcome(raw), "splice {from} {to}");
            let ours = outcome(libc::sendfile(to, from, ptr::null_mut(), 5) as i64);
            let raw = libc::syscall(libc::SYS_sendfile, to, from, none, 5);
            assert_eq!(ours, outcome(raw), "sendfile {from} {to}");
        }
    }
    let all = [
        -1,
        9999,
        scratch.file.as_raw_fd(),
        read_only.as_raw_fd(),
        directory.as_raw_fd(),
        null.as_raw_fd(),
        reader.as_raw_fd(),
        writer.as_raw_fd(),
        socket.as_raw_fd(),
        listener.as_raw_fd(),
    ];
    let bad = ptr::without_provenance_mut::<loff_t>(8);
    // SAFETY: bad pointers are answered, and nothing is written anywhere but into
    // the test's own files.
    unsafe {
        for fd in all {
            for operation in [
                0,
                3,
                99,
                -1,
                libc::LOCK_UN,
                libc::LOCK_SH | libc::LOCK_NB,
                16 | 4,
            ] {
                let raw = outcome(libc::syscall(libc::SYS_flock, fd, operation));
                assert_eq!(outcome(libc::flock(fd, operation)), raw, "{fd} {operation}");
            }
            for number in [libc::SYS_fsync, libc::SYS_fdatasync] {
                let ours = match number {
                    libc::SYS_fsync => libc::fsync(fd),
                    _ => libc::fdatasync(fd),
                };
                let ours = outcome(ours);
                assert_eq!(ours, outcome(libc::syscall(number, fd)), "{fd}");
            }
            for command in [libc::F_SETLKW, libc::F_OFD_SETLKW] {
                for kind in [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK, 77] {
                    for whence in [0, 9] {
                        let mut lock = record(kind);
                        lock.l_whence = whence;
                        let place = &raw const lock;
                        let ours = outcome(libc::fcntl(fd, command, place));
                        let raw = outcome(libc::syscall(libc::SYS_fcntl, fd, command, place));
                        assert_eq!(ours, raw, "{fd} {command} {kind} {whence}");
                    }
                }
                let ours = outcome(libc::fcntl(fd, command, bad));
                let raw = outcome(libc::syscall(libc::SYS_fcntl, fd, command, bad));
                assert_eq!(ours, raw, "{fd} {command}");
            }
            for other in all {
                for at in [ptr::null_mut(), bad] {
                    for len in [0usize, 5] {
                        // What moves bytes moves them twice, which is the same.
                        let ours = outcome(libc::sendfile(fd, other, at, len) as i64);
                        scratch.again().rewind().unwrap();
                        libc::lseek(other, 0, libc::SEEK_SET);
                        let raw = libc::syscall(libc::SYS_sendfile, fd, other, at, len);
                        assert_eq!(ours, outcome(raw), "sendfile {fd} {other} {at:?} {len}");
                        libc::lseek(other, 0, libc::SEEK_SET);
                        for flags in [0u32, 2, 99, 1 << 20] {
                            let none = ptr::null_mut::<loff_t>();
                            empty(&reader);
                            let ours = libc::splice(fd, at, other, none, len, flags);
                            let ours = outcome(ours as i64);
                            libc::lseek(fd, 0, libc::SEEK_SET);
                            empty(&reader);
                            let number = libc::SYS_splice;
                            let raw = libc::syscall(number, fd, at, other, none, len, flags);
                            let what = format!("splice {fd} {other} {at:?} {len} {flags}");
                            assert_eq!(ours, outcome(raw), "{what}");
                            libc::lseek(fd, 0, libc::SEEK_SET);
                        }
                    }
                }
            }
        }
    }
}

fn empty(mut pipe: &File) {
    let mut buffer = [0; 4096];
    while pipe.read(&mut buffer).is_ok_and(|n| n > 0) {}
}

#[test]
fn stds_copy_between_files_and_sockets_and_pipes() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let content = bytes(3_000_000);
    let scratch = Scratch::with(&content);
    // A file to a socket that holds less, and that is read later.
    let (mut out, mut back) = UnixStream::pair().unwrap();
    let received = ticker.after(move || {
        let mut all = Vec::new();
        back.read_to_end(&mut all).unwrap();
        all
    });
    let mut file = scratch.again();
    let copied = ticker.ticks_during(|| io::copy(&mut file, &mut out).unwrap());
    assert_eq!(copied, 3_000_000);
    drop(out);
    assert!(received.join().unwrap() == content);
    // A socket to a file, with a slow writer.
    let (mut out, mut back) = tcp();
    let source = content.clone();
    let sending = ticker.after(move || out.write_all(&source).unwrap());
    let target = Scratch::new();
    let mut into = target.again();
    let copied = ticker.ticks_during(|| io::copy(&mut back, &mut into).unwrap());
    assert_eq!(copied, 3_000_000);
    sending.join().unwrap();
    assert!(std::fs::read(&target.path).unwrap() == content);
    // A pipe to a socket, with a slow writer.
    let (mut reader, mut writer) = pipe();
    let (mut out, back) = tcp();
    let received = slowly(back);
    let source = content.clone();
    let writing = ticker.after(move || writer.write_all(&source).unwrap());
    assert_eq!(
        ticker.ticks_during(|| io::copy(&mut reader, &mut out).unwrap()),
        3_000_000
    );
    drop(out);
    writing.join().unwrap();
    assert!(received.join().unwrap() == content);
    // A socket to a pipe, with a slow reader.
    let (mut out, mut back) = tcp();
    let (reader, mut writer) = pipe();
    let received = slowly(reader);
    let source = content.clone();
    let sending = ticker.after(move || out.write_all(&source).unwrap());
    assert_eq!(
        ticker.ticks_during(|| io::copy(&mut back, &mut writer).unwrap()),
        3_000_000
    );
    drop(writer);
    sending.join().unwrap();
    assert!(received.join().unwrap() == content);
    // And one file to another.
    let other = Scratch::new();
    assert_eq!(
        std::fs::copy(&scratch.path, &other.path).unwrap(),
        3_000_000
    );
    assert!(std::fs::read(&other.path).unwrap() == content);
}

#[test]
fn a_pipe_is_read_as_it_is_written() {
    // G183: five bytes, and then none.
    let _watchdog = patched();
    let ticker = Ticker::new();
    let (mut reader, mut writer) = pipe();
    let writing = ticker.after(move || writer.write_all(b"bytes").unwrap());
    let mut buffer = [0; 16];
    assert_eq!(ticker.ticks_during(|| reader.read(&mut buffer).unwrap()), 5);
    assert_eq!(&buffer[..5], b"bytes");
    writing.join().unwrap();
    assert_eq!(reader.read(&mut buffer).unwrap(), 0);
    assert_eq!(
        reader.seek(SeekFrom::Start(0)).unwrap_err().raw_os_error(),
        Some(libc::ESPIPE)
    );
    // One byte at a time can be seen at once.
    let (mut reader, mut writer) = pipe();
    for byte in 0..10u8 {
        writer.write_all(&[byte]).unwrap();
        assert_eq!(reader.read(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], byte);
    }
}

#[test]
fn a_file_is_what_it_is_elsewhere() {
    // G183: reading piece by piece, position, and closing once.
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let scratch = Scratch::with(b"some content");
    let mut file = scratch.again();
    let mut buffer = [0; 64];
    assert_eq!(file.read(&mut buffer[..2]).unwrap(), 2);
    assert_eq!(file.read(&mut buffer[2..3]).unwrap(), 1);
    assert_eq!(file.stream_position().unwrap(), 3);
    assert_eq!(file.read(&mut buffer[3..]).unwrap(), 9);
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
    assert_eq!(&buffer[..12], b"some content");
    assert_eq!(file.seek(SeekFrom::End(-7)).unwrap(), 5);
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "content");
    let closes = Rc::new(Cell::new(0));
    let closing = Rc::clone(&closes);
    let number = file.as_raw_fd();
    spawn(move || {
        drop(file);
        closing.set(closing.get() + 1);
    })
    .join()
    .unwrap();
    // SAFETY: the call takes no memory.
    let gone = outcome(unsafe { libc::fcntl(number, libc::F_GETFD) });
    assert!(closes.get() == 1 && (gone == Err(libc::EBADF) || gone == Ok(1)));
}

#[test]
fn without_its_part_a_lock_is_waited_for_by_the_thread() {
    alone(
        "without_its_part_a_lock_is_waited_for_by_the_thread",
        || {
            use greenlet::monkey::{Patch, is_patched};
            Patch::new().threads(false).files(false).apply().unwrap();
            assert!(!is_patched("flock") && !is_patched("sendfile") && is_patched("recv"));
            let ticker = Ticker::new();
            let scratch = Scratch::new();
            let theirs = scratch.again();
            assert_eq!(flock(&theirs, libc::LOCK_EX), Ok(0));
            let other = std::thread::spawn(move || {
                std::thread::sleep(20 * MS);
                drop(theirs);
            });
            greenlet::sleep(3 * MS);
            let before = ticker.ticks();
            assert_eq!(flock(&scratch.file, libc::LOCK_EX), Ok(0));
            assert_eq!(ticker.ticks(), before);
            other.join().unwrap();
        },
    );
}
