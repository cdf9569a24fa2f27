//! `monkey`: `read`, `write` and their kin, on pipes, terminals and all the rest.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::ffi::CString;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use common::MS;
use patched::*;

fn owned(fd: i32) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just made, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

fn readv(fd: &impl AsRawFd, iov: &mut [libc::iovec]) -> Result<usize, i32> {
    // SAFETY: the buffers are live.
    checked(|| unsafe { libc::readv(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32) } as i64)
}

fn writev(fd: &impl AsRawFd, iov: &mut [libc::iovec]) -> Result<usize, i32> {
    // SAFETY: the buffers are live.
    checked(|| unsafe { libc::writev(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32) } as i64)
}

#[test]
fn reading_a_pipe_parks() {
    let _watchdog = patched();
    let (reader, writer) = pipe();
    let reading = reader.try_clone().unwrap();
    let read_some = move || {
        let mut buffer = [0; 8];
        (read(&reading, &mut buffer), buffer)
    };
    let got = parks(read_some, || assert_eq!(write(&writer, b"short"), Ok(5)));
    assert_eq!(got, (Ok(5), *b"short\0\0\0"));
    let reading = reader.try_clone().unwrap();
    let read_some = move || {
        let (mut a, mut b) = ([0; 2], [0; 8]);
        (readv(&reading, &mut [iovec(&mut a), iovec(&mut b)]), a, b)
    };
    let got = parks(read_some, || assert_eq!(write(&writer, b"short"), Ok(5)));
    assert_eq!(got, (Ok(5), *b"sh", *b"ort\0\0\0\0\0"));
    let reading = reader.try_clone().unwrap();
    assert_eq!(
        parks(move || read(&reading, &mut [0; 8]), || drop(writer)),
        Ok(0)
    );
    assert_blocking(&reader);
}

#[test]
fn writing_a_pipe_parks_until_all_is_written() {
    let _watchdog = patched();
    const SIZE: usize = 1 << 20;
    for vectored in [false, true] {
        let (reader, writer) = pipe();
        let writing = move || {
            let mut bytes = vec![7; SIZE];
            let n = match vectored {
                false => write(&writer, &bytes),
                true => {
                    let (a, b) = bytes.split_at_mut(SIZE / 3);
                    writev(&writer, &mut [iovec(a), iovec(&mut []), iovec(b)])
                }
            };
            assert_blocking(&writer);
            n
        };
        let mut all = Vec::new();
        let written = parks(writing, || {
            let mut part = vec![0; 10_000];
            while all.len() < SIZE {
                let n = read(&reader, &mut part).unwrap();
                all.extend_from_slice(&part[..n]);
            }
        });
        assert_eq!(written, Ok(SIZE));
        assert!(all == vec![7; SIZE]);
    }
}

#[test]
fn a_small_write_to_a_pipe_is_whole() {
    let _watchdog = patched();
    const SIZE: usize = libc::PIPE_BUF;
    let path = fifo("whole");
    let (reader, writer) = open_fifo(&path);
    let (plain_reader, plain_writer) = pipe();
    for (reader, writer) in [(plain_reader, plain_writer), (reader, writer)] {
        let writer = std::rc::Rc::new(writer);
        let writing: Vec<_> = (1..=50)
            .map(|byte| {
                let writer = writer.clone();
                greenlet::spawn(move || {
                    let (mut a, mut b) = (vec![byte; 100], vec![byte; SIZE - 100]);
                    assert_eq!(
                        writev(&*writer, &mut [iovec(&mut a), iovec(&mut b)]),
                        Ok(SIZE)
                    );
                })
            })
            .collect();
        for _ in 1..=50 {
            let mut buffer = vec![0; SIZE];
            let mut got = 0;
            while got < SIZE {
                got += read(&reader, &mut buffer[got..]).unwrap();
            }
            assert!(
                buffer.iter().all(|byte| *byte == buffer[0]),
                "others wrote in between"
            );
        }
        greenlet::joinall(writing);
    }
    std::fs::remove_file(path.to_str().unwrap()).unwrap();
}

#[test]
fn a_broken_pipe_is_a_signal_and_an_error_as_ever() {
    common::alone("a_broken_pipe_is_a_signal_and_an_error_as_ever", || {
        let _watchdog = patched();
        static SIGNALS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        extern "C" fn count(_: i32) {
            SIGNALS.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        let signals = || SIGNALS.load(std::sync::atomic::Ordering::SeqCst);
        // SAFETY: the handler does what handlers may do.
        unsafe { libc::signal(libc::SIGPIPE, count as *const () as usize) };
        let (reader, writer) = pipe();
        let writing = move || (write(&writer, &[0; 1 << 20]), write(&writer, b"x"));
        let (first, second) = parks(writing, || {
            assert_eq!(read(&reader, &mut [0; 1000]), Ok(1000));
            drop(reader);
        });
        assert_eq!(first, Ok(65536));
        assert_eq!(second, Err(libc::EPIPE));
        // The kernel sends one for either, and so it was ever.
        assert_eq!(signals(), 2);
        let (a, b) = pair(libc::SOCK_STREAM);
        let writing = move || (write(&a, &[0; 10 << 20]), write(&a, b"x"));
        let (first, second) = parks(writing, || {
            assert_eq!(read(&b, &mut [0; 1000]), Ok(1000));
            drop(b);
        });
        // Of a socket only for the call that has written nothing.
        assert!(first.is_ok_and(|n| n > 0));
        assert_eq!((second, signals()), (Err(libc::EPIPE), 3));
    });
}

#[test]
fn std_pipes_and_those_of_children_park() {
    let _watchdog = patched();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let reading = move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    };
    let all = parks(reading, || {
        writer.write_all(b"one ").unwrap();
        greenlet::sleep(MS);
        writer.write_all(b"two").unwrap();
        drop(writer);
    });
    assert_eq!(all, "one two");

    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reading = move || {
        let mut line = [0; 6];
        stdout.read_exact(&mut line).unwrap();
        (line, stdout)
    };
    let (line, mut stdout) = parks(reading, || stdin.write_all(b"hello\n").unwrap());
    assert_eq!(&line, b"hello\n");
    assert_blocking(&stdin);
    assert_blocking(&stdout);
    // More than a pipe holds goes round.
    let writing = greenlet::spawn(move || stdin.write_all(&[b'x'; 300_000]).unwrap());
    let mut all = Vec::new();
    stdout.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 300_000);
    writing.join().unwrap();
    child.wait().unwrap();
}

#[test]
fn eventfds_and_timerfds_park() {
    let _watchdog = patched();
    // SAFETY: it takes no memory.
    let event = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) });
    let reading = event.try_clone().unwrap();
    let read_it = move || {
        let mut value = [0; 8];
        (read(&reading, &mut value), u64::from_ne_bytes(value))
    };
    let got = parks(read_it, || {
        assert_eq!(write(&event, &7u64.to_ne_bytes()), Ok(8))
    });
    assert_eq!(got, (Ok(8), 7));
    // Too small a buffer is an error, whether it is ready or not.
    assert_eq!(read(&event, &mut [0; 4]), Err(libc::EINVAL));
    // Full: its writer waits.
    assert_eq!(write(&event, &(u64::MAX - 1).to_ne_bytes()), Ok(8));
    let writing = event.try_clone().unwrap();
    let written = parks(
        move || write(&writing, &1u64.to_ne_bytes()),
        || assert_eq!(read(&event, &mut [0; 8]), Ok(8)),
    );
    assert_eq!(written, Ok(8));
    assert_blocking(&event);

    // SAFETY: it takes no memory.
    let timer = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) });
    let reading = timer.try_clone().unwrap();
    let read_it = move || {
        let mut count = [0; 8];
        (read(&reading, &mut count), u64::from_ne_bytes(count))
    };
    let expired = parks(read_it, || {
        // SAFETY: times of zeros are some; and the new one is live.
        unsafe {
            let mut time: libc::itimerspec = std::mem::zeroed();
            time.it_value.tv_nsec = 1_000_000;
            assert_eq!(
                libc::timerfd_settime(timer.as_raw_fd(), 0, &time, std::ptr::null_mut()),
                0
            );
        }
    });
    assert_eq!(expired, (Ok(8), 1));
}

fn open_pty() -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: the two are live, and nothing else is asked for.
    let opened = unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()) };
    assert_eq!(opened, 0);
    // SAFETY: a record of zeros is one; the kernel fills it in.
    unsafe {
        let mut mode: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(slave, &mut mode), 0);
        libc::cfmakeraw(&mut mode);
        assert_eq!(libc::tcsetattr(slave, libc::TCSANOW, &mode), 0);
    }
    (owned(master), owned(slave))
}

#[test]
fn terminals_park() {
    let _watchdog = patched();
    let (master, slave) = open_pty();
    let reading = slave.try_clone().unwrap();
    let read_it = move || {
        let mut buffer = [0; 16];
        (read(&reading, &mut buffer), buffer[..5].to_vec())
    };
    let got = parks(read_it, || assert_eq!(write(&master, b"typed"), Ok(5)));
    assert_eq!(got, (Ok(5), b"typed".to_vec()));
    const SIZE: usize = 200_000;
    let writing = slave.try_clone().unwrap();
    let mut got = 0;
    let written = parks(
        move || write(&writing, &[b'x'; SIZE]),
        || {
            while got < SIZE {
                got += read(&master, &mut [0; 4096]).unwrap();
            }
        },
    );
    assert_eq!((written, got), (Ok(SIZE), SIZE));
    assert_blocking(&slave);
    assert_blocking(&master);
    // Nobody at the other end.
    let reading = master.try_clone().unwrap();
    assert_eq!(
        parks(move || read(&reading, &mut [0; 4]), || drop(slave)),
        Err(libc::EIO)
    );
}

fn fifo(name: &str) -> CString {
    let path = std::env::temp_dir().join(format!("greenlet-{}-{name}", std::process::id()));
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    path
}

fn open_fifo(path: &CString) -> (OwnedFd, OwnedFd) {
    // SAFETY: the path is a string.
    unsafe {
        let reader = owned(libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK));
        let writer = owned(libc::open(path.as_ptr(), libc::O_WRONLY));
        set_nonblocking(&reader, false);
        (reader, writer)
    }
}

#[test]
fn named_pipes_park() {
    let _watchdog = patched();
    let path = fifo("named");
    let (reader, writer) = open_fifo(&path);
    let reading = reader.try_clone().unwrap();
    let read_it = move || read(&reading, &mut [0; 16]);
    assert_eq!(
        parks(read_it, || assert_eq!(write(&writer, b"named"), Ok(5))),
        Ok(5)
    );
    const SIZE: usize = 300_000;
    let writing = writer.try_clone().unwrap();
    let written = parks(
        move || write(&writing, &[b'x'; SIZE]),
        || {
            let mut got = 0;
            while got < SIZE {
                got += read(&reader, &mut [0; 4096]).unwrap();
            }
        },
    );
    assert_eq!(written, Ok(SIZE));
    assert_blocking(&reader);
    assert_blocking(&writer);
    let reading = reader.try_clone().unwrap();
    assert_eq!(
        parks(move || read(&reading, &mut [0; 4]), || drop(writer)),
        Ok(0)
    );
    std::fs::remove_file(path.to_str().unwrap()).unwrap();
}

#[test]
fn inotify_parks() {
    let _watchdog = patched();
    let directory = std::env::temp_dir().join(format!("greenlet-{}-watched", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = CString::new(directory.to_str().unwrap()).unwrap();
    // SAFETY: the path is a string.
    let watch = unsafe {
        let watch = owned(libc::inotify_init1(libc::IN_CLOEXEC));
        assert!(libc::inotify_add_watch(watch.as_raw_fd(), path.as_ptr(), libc::IN_CREATE) > 0);
        watch
    };
    let got = parks(
        move || read(&watch, &mut [0; 1024]),
        || std::fs::write(directory.join("file"), "").unwrap(),
    );
    assert!(got.unwrap() >= 16);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn files_and_devices_are_read_and_written_as_ever() {
    let _watchdog = patched();
    in_greenlet(|| {
        let path = std::env::temp_dir().join(format!("greenlet-{}-file", std::process::id()));
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let bytes: Vec<u8> = (0..3_000_000).map(|at| (at % 251) as u8).collect();
        assert_eq!(file.write(&bytes).unwrap(), bytes.len());
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut all = vec![0; bytes.len() + 1];
        assert_eq!(file.read(&mut all).unwrap(), bytes.len());
        assert!(all[..bytes.len()] == bytes);
        assert_eq!(file.read(&mut all).unwrap(), 0);
        file.seek(SeekFrom::Start(10)).unwrap();
        let (mut a, mut b) = ([0; 3], [0; 2]);
        assert_eq!(readv(&file, &mut [iovec(&mut a), iovec(&mut b)]), Ok(5));
        assert_eq!((&a[..], &b[..]), (&bytes[10..13], &bytes[13..15]));
        std::fs::remove_file(path).unwrap();

        let mut null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        assert_eq!(null.write(&bytes).unwrap(), bytes.len());
        assert_eq!(null.read(&mut all).unwrap(), 0);
        let mut zero = std::fs::File::open("/dev/zero").unwrap();
        assert_eq!(zero.read(&mut all[..1000]).unwrap(), 1000);
        let mut random = std::fs::File::open("/dev/urandom").unwrap();
        assert_eq!(random.read(&mut all[..100]).unwrap(), 100);
        let directory = std::fs::File::open("/").unwrap();
        assert_eq!(read(&directory, &mut all), Err(libc::EISDIR));
        assert_eq!(write(&directory, b"x"), Err(libc::EBADF));
        let mut proc = String::new();
        std::fs::File::open("/proc/self/status")
            .unwrap()
            .read_to_string(&mut proc)
            .unwrap();
        assert!(proc.contains("VmRSS"));
        let (reader, writer) = pipe();
        assert_eq!(write(&reader, b"x"), Err(libc::EBADF));
        assert_eq!(read(&writer, &mut [0; 4]), Err(libc::EBADF));
        // SAFETY: it takes no memory.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
        assert_eq!(read(&epoll, &mut [0; 4]), Err(libc::EINVAL));
        assert_eq!(write(&epoll, &[0; 4]), Err(libc::EINVAL));
    });
}

#[test]
fn what_its_user_made_nonblocking_does_not_park() {
    let _watchdog = patched();
    in_greenlet(|| {
        let (reader, writer) = pipe();
        set_nonblocking(&reader, true);
        set_nonblocking(&writer, true);
        let (master, slave) = open_pty();
        set_nonblocking(&slave, true);
        // SAFETY: it takes no memory.
        let event = owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) });
        for fd in [&reader, &slave, &event] {
            assert_eq!(read(fd, &mut [0; 8]), Err(libc::EAGAIN));
            assert_eq!(readv(fd, &mut [iovec(&mut [0; 8])]), Err(libc::EAGAIN));
        }
        let much = vec![b'x'; 1 << 20];
        for fd in [&writer, &slave] {
            assert!(write(fd, &much).is_ok_and(|n| n > 0 && n < much.len()));
            // The kernel moves on what a terminal was given when it finds the time, and
            // then there is room again: a first refusal need not be followed by another.
            for piece in [&much, &b"x"[..]] {
                let refusal = loop {
                    if let Err(errno) = write(fd, piece) {
                        break errno;
                    }
                };
                assert_eq!(refusal, libc::EAGAIN);
            }
        }
        drop(master);
    });
}

#[test]
fn standard_output_and_error_never_park() {
    let _watchdog = patched();
    common::alone("standard_output_and_error_never_park", || {
        common::patch();
        let (reader, writer) = pipe();
        let saved = owned(unsafe_dup(1));
        // SAFETY: both are open.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 1) }, 1);
        // A thread that empties it now and then: the writer blocks its own.
        let other = common::flag();
        let seen = other.clone();
        greenlet::spawn(move || seen.set(true));
        let emptying = std::thread::spawn(move || {
            let mut got = 0;
            while got < 200_000 {
                std::thread::sleep(MS);
                got += read(&reader, &mut [0; 50_000]).unwrap();
            }
        });
        let written = write(&1, &[b'x'; 200_000]);
        assert!(!other.get(), "stdout's lock is the thread's");
        assert_blocking(&1);
        // SAFETY: both are open.
        assert_eq!(unsafe { libc::dup2(saved.as_raw_fd(), 1) }, 1);
        assert_eq!(written, Ok(200_000));
        emptying.join().unwrap();
    });
}

fn unsafe_dup(fd: i32) -> i32 {
    // SAFETY: it takes no memory.
    unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) }
}

#[test]
fn standard_input_parks_and_stays_blocking() {
    common::alone("standard_input_parks_and_stays_blocking", || {
        let _watchdog = patched();
        let (reader, writer) = pipe();
        // SAFETY: both are open.
        assert_eq!(unsafe { libc::dup2(reader.as_raw_fd(), 0) }, 0);
        let reading = || {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            line
        };
        let line = parks(reading, || {
            assert_eq!(write(&writer, b"a line\nmore"), Ok(11))
        });
        assert_eq!(line, "a line\n");
        assert_blocking(&0);
        let (listener, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        in_greenlet(move || {
            // SAFETY: no address is asked for.
            let accepted = checked(|| unsafe { libc::accept(0, listener, len) });
            assert_eq!(accepted, Err(libc::ENOTSOCK));
            // SAFETY: the address is live.
            let connected = checked(|| unsafe {
                let address: libc::sockaddr_in = std::mem::zeroed();
                libc::connect(0, (&raw const address).cast(), 16)
            });
            assert_eq!(connected, Err(libc::ENOTSOCK));
        });
    });
}
