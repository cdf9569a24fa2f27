//! `monkey`: random calls, made by the interposed function in one world of descriptors
//! and by the system call in its twin: result, errno, bytes, and what is left behind
//! must be the same. The seed is printed; GREENLET_FUZZ_SEED repeats a run, and
//! GREENLET_FUZZ_ROUNDS makes it longer.
//! GREENLET_FUZZ_TRACE shows all calls.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::ffi::c_void;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use common::MS;
use patched::{errno, pair, patched, pipe, set_nonblocking, set_timeout, tcp_pair};

/// xorshift64*.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

// ---- descriptors

/// Descriptors of all kinds. Two worlds of the same seed are alike but for the
/// numbers.
struct World {
    fds: Vec<RawFd>,
    /// What they hold open: their other ends, and themselves.
    owned: Vec<OwnedFd>,
    /// Other ends to be written to, or read from, until a call is through.
    peers: Vec<RawFd>,
    /// Where to connect to, and where not.
    addresses: [libc::sockaddr_in; 2],
    timed: bool,
}

const CLOSED: RawFd = 1_000_007;

impl World {
    fn new(random: &mut Random, timed: bool) -> World {
        let mut world = World {
            fds: vec![-1, CLOSED],
            owned: Vec::new(),
            peers: Vec::new(),
            addresses: [address(1), address(1)],
            timed,
        };
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            for _ in 0..3 {
                let (a, b) = pair(kind);
                for _ in 0..random.below(3) {
                    raw_write(b.as_raw_fd(), &vec![b'q'; 1 + random.below(40) as usize]);
                }
                if random.one_in(4) {
                    fill(a.as_raw_fd());
                }
                match random.below(6) {
                    0 => set_nonblocking(&a, true),
                    // SAFETY: they take no memory.
                    1 => drop(unsafe { libc::shutdown(a.as_raw_fd(), libc::SHUT_WR) }),
                    2 if kind == libc::SOCK_STREAM => {
                        world.add(a, None);
                        continue;
                    }
                    _ => {}
                }
                world.add(a, Some(b));
            }
        }
        let (a, b) = tcp_pair();
        raw_write(b.as_raw_fd(), &vec![b't'; random.below(40) as usize]);
        world.add(a.into(), Some(b.into()));
        for _ in 0..2 {
            let (reader, writer) = pipe();
            raw_write(
                writer.as_raw_fd(),
                &vec![b'p'; random.below(3) as usize * 7],
            );
            if random.one_in(3) {
                set_nonblocking(&reader, true);
            }
            world.add(reader, Some(writer));
            let (reader, writer) = pipe();
            if random.one_in(2) {
                fill(writer.as_raw_fd());
            }
            if random.one_in(3) {
                set_nonblocking(&writer, true);
            }
            world.add(writer, (!random.one_in(4)).then_some(reader));
        }
        // SAFETY: they take no memory but strings.
        unsafe {
            let event = libc::eventfd(random.below(3) as u32, libc::EFD_CLOEXEC);
            world.add(OwnedFd::from_raw_fd(event), None);
            world.peers.push(event);
            for (path, flags) in [
                (c"/dev/null", libc::O_RDWR),
                (c"/", libc::O_RDONLY),
                (c"/dev/zero", libc::O_RDWR),
                (c"/proc/self/stat", libc::O_PATH),
            ] {
                world.add(OwnedFd::from_raw_fd(libc::open(path.as_ptr(), flags)), None);
            }
            let file = libc::memfd_create(c"file".as_ptr(), 0);
            raw_write(file, &[b'f'; 100]);
            libc::lseek(file, random.below(120) as i64, libc::SEEK_SET);
            world.add(OwnedFd::from_raw_fd(file), None);
            world.add(OwnedFd::from_raw_fd(libc::epoll_create1(0)), None);
            world.add(
                OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
                None,
            );
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        world.addresses[0] = address(listener.local_addr().unwrap().port());
        for _ in 0..random.below(3) {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            world.owned.push(client.into());
        }
        if random.one_in(3) {
            listener.set_nonblocking(true).unwrap();
        }
        world.add(listener.into(), None);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.connect(udp.local_addr().unwrap()).unwrap();
        if random.one_in(2) {
            raw_write(other.as_raw_fd(), b"datagram");
        }
        world.add(udp.into(), Some(other.into()));
        world
    }

    fn add(&mut self, fd: OwnedFd, peer: Option<OwnedFd>) {
        if self.timed {
            for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
                set_timeout_if_it_can(&fd, option);
            }
        }
        self.fds.push(fd.as_raw_fd());
        self.owned.push(fd);
        if let Some(peer) = peer {
            set_nonblocking(&peer, true);
            self.peers.push(peer.as_raw_fd());
            self.owned.push(peer);
        }
    }

    /// Gives who reads something to read, who writes room, who accepts a client.
    fn feed(&self) {
        for peer in &self.peers {
            let mut drained = vec![0; 1 << 16];
            let at = drained.as_mut_ptr();
            // SAFETY: the buffer is live. Whatever it answers is all right.
            unsafe {
                let flags = libc::MSG_DONTWAIT;
                let null = std::ptr::null_mut::<c_void>();
                if libc::syscall(libc::SYS_recvfrom, *peer, at, 1 << 16, flags, null, null) < 0
                    && errno() == libc::ENOTSOCK
                    && patched::kernel_flags(*peer) & libc::O_NONBLOCK != 0
                {
                    libc::syscall(libc::SYS_read, *peer, at, 1 << 16);
                }
            }
            raw_write(*peer, &1u64.to_ne_bytes().repeat(125));
            raw_write(*peer, &1u64.to_ne_bytes());
        }
        // SAFETY: the address is live, and the socket is closed again by no one: the
        // process has room for some.
        unsafe {
            let client = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
            let len = size_of::<libc::sockaddr_in>();
            let at = &raw const self.addresses[0];
            libc::syscall(libc::SYS_connect, client, at, len);
            // It stays in the queue when it is closed.
            libc::syscall(libc::SYS_close, client);
        }
    }

    /// What can be seen of the descriptors afterwards.
    fn traces(&self) -> Vec<(i64, i64)> {
        let trace = |fd: &RawFd| {
            // SAFETY: the kernel writes an int.
            unsafe {
                let mut waiting: i32 = -1;
                libc::syscall(libc::SYS_ioctl, *fd, libc::FIONREAD, &raw mut waiting);
                let flags = libc::syscall(libc::SYS_fcntl, *fd, libc::F_GETFL, 0);
                (flags, i64::from(waiting))
            }
        };
        self.fds.iter().map(trace).collect()
    }
}

fn set_timeout_if_it_can(fd: &OwnedFd, option: i32) {
    // SAFETY: a stat of zeros is one, and the kernel fills it in.
    let mode = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        libc::fstat(fd.as_raw_fd(), &mut stat);
        stat.st_mode
    };
    if mode & libc::S_IFMT == libc::S_IFSOCK {
        set_timeout(fd, option, MS * 8);
    }
}

fn address(port: u16) -> libc::sockaddr_in {
    // SAFETY: an address of zeros is one.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as _;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    address
}

fn raw_write(fd: RawFd, bytes: &[u8]) {
    if !bytes.is_empty() {
        // SAFETY: the bytes are live.
        unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) };
    }
}

/// Leaves no room to write to.
fn fill(fd: RawFd) {
    let flags = patched::kernel_flags(fd);
    let much = [b'x'; 4096];
    // SAFETY: the bytes are live.
    unsafe {
        libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
        while libc::syscall(libc::SYS_write, fd, much.as_ptr(), much.len()) > 0 {}
        while libc::syscall(libc::SYS_write, fd, much.as_ptr(), 1) > 0 {}
        libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFL, flags);
    }
}

// ---- calls

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pointer {
    Good,
    Null,
    Nowhere,
    Kernels,
    /// Half of it is there.
    Torn,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Recv,
    Recvfrom,
    Recvmsg,
    Read,
    Readv,
    Send,
    Sendto,
    Sendmsg,
    Write,
    Writev,
    Accept4,
    Connect,
    Close,
    Dup2,
    Dup3,
    Fcntl,
    Ioctl,
    Nanosleep,
    ClockNanosleep,
    Usleep,
}

const CALLS: [Call; 20] = [
    Call::Recv,
    Call::Recvfrom,
    Call::Recvmsg,
    Call::Read,
    Call::Readv,
    Call::Send,
    Call::Sendto,
    Call::Sendmsg,
    Call::Write,
    Call::Writev,
    Call::Accept4,
    Call::Connect,
    Call::Close,
    Call::Dup2,
    Call::Dup3,
    Call::Fcntl,
    Call::Ioctl,
    Call::Nanosleep,
    Call::ClockNanosleep,
    Call::Usleep,
];

/// One call; the descriptors are places in a world.
#[derive(Clone, Copy, Debug)]
struct Case {
    call: Call,
    fd: usize,
    other: usize,
    buffer: Pointer,
    array: Pointer,
    name: Pointer,
    len: usize,
    slices: [usize; 3],
    count: i32,
    flags: i32,
    to: usize,
    name_len: u32,
    number: i64,
    time: (i64, i64),
    clock: i32,
}

impl Case {
    fn new(random: &mut Random, fds: usize) -> Case {
        use Pointer::*;
        let pointer = |random: &mut Random| match random.below(8) {
            0 => random.pick(&[Null, Nowhere, Kernels, Torn]),
            _ => Good,
        };
        let flags = [
            libc::MSG_DONTWAIT,
            libc::MSG_PEEK,
            libc::MSG_WAITALL,
            libc::MSG_TRUNC,
            libc::MSG_NOSIGNAL,
            libc::MSG_MORE,
            libc::MSG_OOB,
            libc::MSG_ERRQUEUE,
            libc::MSG_CMSG_CLOEXEC,
        ];
        let mut all = 0;
        for _ in 0..random.below(3) {
            all |= random.pick(&flags);
        }
        let len = |random: &mut Random| random.pick(&[0, 1, 4, 8, 20, 64, 300, 1500]);
        let mut case = Case {
            call: random.pick(&CALLS),
            fd: random.below(fds as u64) as usize,
            other: random.below(fds as u64) as usize,
            buffer: pointer(random),
            array: pointer(random),
            name: pointer(random),
            len: len(random),
            slices: [len(random), len(random), len(random)],
            count: random.pick(&[-1, 0, 1, 2, 3, 3, 3, 1025]),
            flags: all,
            to: random.below(2) as usize,
            name_len: random.pick(&[0, 2, 15, 16, 16, 16, 100, u32::MAX]),
            number: random.pick(&[-1, 0, 1, 2, 3, 4, 77, 1030, 0x5421, 0x541b]),
            time: (
                random.pick(&[0, 0, 0, -1]),
                random.pick(&[0, 1000, 3_000_000, -1, 1 << 30]),
            ),
            clock: random.pick(&[0, 1, 7, 11, 4, 3, 77, -1]),
        };
        if matches!(case.call, Call::Recvfrom) && case.flags & libc::MSG_WAITALL != 0 {
            // A bad address is found when something has come, and for that we do not
            // wait until all has.
            (case.name, case.name_len) = (Good, 16);
        }
        case
    }
}

/// What can be seen of a call.
#[derive(Debug, PartialEq)]
struct Outcome {
    answer: Result<i64, i32>,
    /// What is where the buffers are: how it begins, and the sum of it.
    bytes: (String, u64),
    name: (Vec<u8>, u32),
    message: (u32, usize, i32),
}

/// Memory with nothing behind it.
struct Memory(*mut u8);

const PAGE: usize = 4096;

impl Memory {
    fn new() -> Memory {
        // SAFETY: new memory, of which the second half is given back.
        unsafe {
            let (read, anonymous) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS);
            let flags = libc::MAP_PRIVATE | anonymous;
            let at = libc::mmap(std::ptr::null_mut(), 2 * PAGE, read, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            libc::munmap(at.byte_add(PAGE), PAGE);
            Memory(at.cast())
        }
    }

    /// `len` bytes at `place`, or what is not there.
    fn pointer(&self, kind: Pointer, place: usize, len: usize) -> *mut u8 {
        match kind {
            Pointer::Good => self.0.wrapping_add(place),
            Pointer::Null => std::ptr::null_mut(),
            Pointer::Nowhere => 16 as *mut u8,
            Pointer::Kernels => (usize::MAX - 2 * PAGE) as *mut u8,
            Pointer::Torn => self.0.wrapping_add(PAGE - len / 2),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

/// The numbers that a case is about.
#[derive(Clone, Copy)]
struct Numbers {
    fd: RawFd,
    other: RawFd,
    to: libc::sockaddr_in,
}

/// Makes the call: by the function of this name, or by the system call.
fn perform(case: &Case, numbers: Numbers, raw: bool) -> Outcome {
    const NAME: usize = 2048;
    const MESSAGE: usize = 2500;
    const IOV: usize = 2700;
    let memory = Memory::new();
    let Numbers { fd, other, to } = numbers;
    let Case { len, flags, .. } = *case;
    let buffer: *mut c_void = memory.pointer(case.buffer, 0, len).cast();
    let name: *mut libc::sockaddr = memory.pointer(case.name, NAME, 16).cast();
    let mut name_len = case.name_len;
    // SAFETY: these places are within the page, which is ours.
    unsafe {
        memory.0.write_bytes(b'b', NAME);
        memory.0.add(NAME).cast::<libc::sockaddr_in>().write(to);
        let iov = memory.0.add(IOV).cast::<libc::iovec>();
        let mut place = 0;
        for (at, slice) in case.slices.iter().enumerate() {
            let kind = if at == 1 { case.buffer } else { Pointer::Good };
            let base: *mut c_void = memory.pointer(kind, place % 512, *slice).cast();
            iov.add(at).write(libc::iovec {
                iov_base: base,
                iov_len: *slice,
            });
            place += slice;
        }
    }
    let iov: *mut libc::iovec = memory.pointer(case.array, IOV, 48).cast();
    let header = {
        // SAFETY: a header of zeros is one.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = iov;
        header.msg_iovlen = case.count as isize as usize;
        if case.name != Pointer::Null {
            header.msg_name = name.cast();
            header.msg_namelen = case.name_len;
        }
        header
    };
    let message: *mut libc::msghdr = match case.array {
        Pointer::Torn => memory.0.wrapping_add(PAGE - 20).cast(),
        // SAFETY: it is within the page.
        _ => unsafe {
            let at = memory
                .0
                .add(MESSAGE + 4)
                .map_addr(|at| at & !7)
                .cast::<libc::msghdr>();
            at.write(header);
            at
        },
    };
    let time = libc::timespec {
        tv_sec: case.time.0,
        tv_nsec: case.time.1,
    };
    let time: *const libc::timespec = match case.buffer {
        Pointer::Good => &raw const time,
        kind => memory.pointer(kind, 0, 16).cast(),
    };
    let absolute = flags & libc::TIMER_ABSTIME;
    let none = std::ptr::null_mut::<libc::timespec>();
    let mut int: i32 = 1;
    let mut argument = match case.number {
        // FIONBIO and FIONREAD
        0x5421 | 0x541b => &raw mut int as usize,
        _ => case.flags as usize & 1,
    };
    let mut command = case.number as i32;
    match command {
        libc::F_SETFL => argument *= libc::O_NONBLOCK as usize,
        // With these it would be about locks.
        5..=16 => command = 77,
        _ => {}
    }
    patched::set_errno(0);
    // SAFETY: as in C: descriptors and pointers are what they are, good or bad, and
    // the kernel finds out.
    let answer = unsafe {
        use libc::syscall as s;
        let null = std::ptr::null_mut::<c_void>();
        match (case.call, raw) {
            (Call::Recv, false) => libc::recv(fd, buffer, len, flags) as i64,
            (Call::Recv, true) => s(libc::SYS_recvfrom, fd, buffer, len, flags, null, null),
            (Call::Recvfrom, false) => {
                libc::recvfrom(fd, buffer, len, flags, name, &mut name_len) as i64
            }
            (Call::Recvfrom, true) => s(
                libc::SYS_recvfrom,
                fd,
                buffer,
                len,
                flags,
                name,
                &raw mut name_len,
            ),
            (Call::Recvmsg, false) => libc::recvmsg(fd, message, flags) as i64,
            (Call::Recvmsg, true) => s(libc::SYS_recvmsg, fd, message, flags),
            (Call::Read, false) => libc::read(fd, buffer, len) as i64,
            (Call::Read, true) => s(libc::SYS_read, fd, buffer, len),
            (Call::Readv, false) => libc::readv(fd, iov, case.count) as i64,
            (Call::Readv, true) => s(libc::SYS_readv, fd, iov, case.count),
            (Call::Send, false) => libc::send(fd, buffer, len, flags) as i64,
            (Call::Send, true) => s(libc::SYS_sendto, fd, buffer, len, flags, null, 0),
            (Call::Sendto, false) => {
                libc::sendto(fd, buffer, len, flags, name, case.name_len) as i64
            }
            (Call::Sendto, true) => s(
                libc::SYS_sendto,
                fd,
                buffer,
                len,
                flags,
                name,
                case.name_len,
            ),
            (Call::Sendmsg, false) => libc::sendmsg(fd, message, flags) as i64,
            (Call::Sendmsg, true) => s(libc::SYS_sendmsg, fd, message, flags),
            (Call::Write, false) => libc::write(fd, buffer, len) as i64,
            (Call::Write, true) => s(libc::SYS_write, fd, buffer, len),
            (Call::Writev, false) => libc::writev(fd, iov, case.count) as i64,
            (Call::Writev, true) => s(libc::SYS_writev, fd, iov, case.count),
            (Call::Accept4, false) => libc::accept4(fd, name, &mut name_len, case.flags & 1).into(),
            (Call::Accept4, true) => s(
                libc::SYS_accept4,
                fd,
                name,
                &raw mut name_len,
                case.flags & 1,
            ),
            (Call::Connect, false) => libc::connect(fd, name, case.name_len).into(),
            (Call::Connect, true) => s(libc::SYS_connect, fd, name, case.name_len),
            (Call::Close, false) => libc::close(fd).into(),
            (Call::Close, true) => s(libc::SYS_close, fd),
            (Call::Dup2, false) => libc::dup2(other, fd).into(),
            (Call::Dup2, true) => s(libc::SYS_dup2, other, fd),
            (Call::Dup3, false) => libc::dup3(other, fd, case.flags).into(),
            (Call::Dup3, true) => s(libc::SYS_dup3, other, fd, case.flags),
            (Call::Fcntl, false) => libc::fcntl(fd, command, argument).into(),
            (Call::Fcntl, true) => s(libc::SYS_fcntl, fd, command, argument),
            (Call::Ioctl, false) => libc::ioctl(fd, case.number as _, argument).into(),
            (Call::Ioctl, true) => s(libc::SYS_ioctl, fd, case.number, argument),
            (Call::Nanosleep, false) => libc::nanosleep(time, none).into(),
            (Call::Nanosleep, true) => s(libc::SYS_nanosleep, time, none),
            (Call::ClockNanosleep, false) => {
                let error = libc::clock_nanosleep(case.clock, absolute, time, none);
                patched::set_errno(error);
                if error == 0 { 0 } else { -1 }
            }
            (Call::ClockNanosleep, true) => {
                s(libc::SYS_clock_nanosleep, case.clock, absolute, time, none)
            }
            (Call::Usleep, false) => libc::usleep(case.len as u32).into(),
            (Call::Usleep, true) => {
                let time = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: case.len as i64 * 1000,
                };
                s(libc::SYS_nanosleep, &raw const time, none)
            }
        }
    };
    let mut answer = if answer == -1 {
        Err(errno())
    } else {
        Ok(answer)
    };
    let makes_number = matches!(case.call, Call::Accept4 | Call::Dup2 | Call::Dup3)
        || matches!(case.call, Call::Fcntl) && matches!(command, 0 | 1030);
    if let (true, Ok(made)) = (makes_number, answer) {
        // The numbers of the worlds differ. What replaces one is closed with it.
        if made as RawFd != fd {
            // SAFETY: just made.
            unsafe { libc::syscall(libc::SYS_close, made) };
        }
        answer = Ok(0);
    }
    // SAFETY: the places are within the page.
    let (bytes, name, header) = unsafe {
        let all = std::slice::from_raw_parts(memory.0, NAME);
        let start = String::from_utf8_lossy(&all[..20]).into_owned();
        let sum = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        let bytes = (start, all.iter().fold(0, sum));
        let mut name = std::slice::from_raw_parts(memory.0.add(NAME), 16).to_vec();
        // Ports differ.
        name[2..4].fill(0);
        (bytes, name, message.read_unaligned_if_whole(case.array))
    };
    Outcome {
        answer,
        bytes,
        name: (name, name_len),
        message: header,
    }
}

trait IfWhole {
    unsafe fn read_unaligned_if_whole(self, kind: Pointer) -> (u32, usize, i32);
}

impl IfWhole for *mut libc::msghdr {
    unsafe fn read_unaligned_if_whole(self, kind: Pointer) -> (u32, usize, i32) {
        if kind == Pointer::Torn {
            return (0, 0, 0);
        }
        // SAFETY: the caller's promise.
        let header = unsafe { self.read() };
        (header.msg_namelen, header.msg_controllen, header.msg_flags)
    }
}

// ---- both worlds

/// How a call has gone.
struct Run {
    /// None: it waits for ever.
    outcome: Option<Outcome>,
    /// It had to wait, or was slow to begin.
    was_fed: bool,
    flags: Vec<i64>,
    waiting: Vec<i64>,
}

/// Feeds the world until the call is through.
fn feed_until(finished: impl Fn() -> bool, world: &World) -> (bool, bool) {
    let mut was_fed = false;
    for round in 0..100 {
        for _ in 0..if round == 0 { 6 } else { 1 } {
            if finished() {
                return (true, was_fed);
            }
            greenlet::sleep(MS / 2);
        }
        was_fed = true;
        if !world.timed {
            world.feed();
            // On a busy machine a greenlet would hear of it when there is more already.
            (0..200).for_each(|_| greenlet::yield_now());
        }
    }
    (finished(), was_fed)
}

#[derive(Clone, Copy)]
enum By {
    /// The system call.
    Kernel,
    /// The interposed function, on a thread without greenlets, or in one.
    Thread,
    Greenlet,
}

fn run(case: Case, seed: u64, timed: bool, by: By) -> Run {
    let world = World::new(&mut Random(seed), timed);
    let numbers = Numbers {
        fd: world.fds[case.fd],
        other: world.fds[case.other],
        to: world.addresses[case.to],
    };
    let (outcome, was_fed) = if let By::Greenlet = by {
        let greenlet = greenlet::spawn(move || perform(&case, numbers, false));
        let (ended, was_fed) = feed_until(|| greenlet.is_finished(), &world);
        if !ended {
            greenlet.kill_wait();
        }
        (ended.then(|| greenlet.join().unwrap()), was_fed)
    } else {
        let raw = matches!(by, By::Kernel);
        let thread = std::thread::spawn(move || perform(&case, numbers, raw));
        let (ended, was_fed) = feed_until(|| thread.is_finished(), &world);
        (ended.then(|| thread.join().unwrap()), was_fed)
    };
    let (flags, waiting) = world.traces().into_iter().unzip();
    let run = Run {
        outcome,
        was_fed,
        flags,
        waiting,
    };
    if run.outcome.is_none() {
        // Its thread is in it for ever.
        std::mem::forget(world);
        return run;
    }
    for fd in world.owned {
        // What the call has closed is not closed again, as an owner would find odd. It is
        // told: otherwise who waits for the next that has the number hears of it late.
        // SAFETY: it is ours, or nobody's.
        unsafe { libc::close(fd.into_raw_fd()) };
    }
    run
}

/// What differs, if something does.
fn difference(got: &Run, expected: &Run) -> Option<String> {
    if got.outcome != expected.outcome {
        return Some(format!(
            "{:?} instead of {:?}",
            got.outcome, expected.outcome
        ));
    }
    if got.flags != expected.flags {
        return Some(format!(
            "flags {:?} instead of {:?}",
            got.flags, expected.flags
        ));
    }
    let is_still = !got.was_fed && !expected.was_fed;
    (is_still && got.waiting != expected.waiting)
        .then(|| format!("left {:?} instead of {:?}", got.waiting, expected.waiting))
}

fn fuzz(name: &str, rounds: u64, greenlets: bool) {
    let _watchdog = patched();
    // The hub has its descriptors before numbers are compared.
    greenlet::sleep(MS);
    let from_env = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    let seed: u64 = from_env("GREENLET_FUZZ_SEED").unwrap_or_else(|| {
        use std::hash::{BuildHasher, Hasher};
        std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish()
            | 1
    });
    let rounds = from_env("GREENLET_FUZZ_ROUNDS").unwrap_or(rounds);
    eprintln!("{name}: GREENLET_FUZZ_SEED={seed}");
    let mut random = Random(seed);
    let (mut answered, mut failed) = (0, 0);
    for round in 0..rounds {
        let twin = random.next() | 1;
        let timed = random.one_in(4);
        let fds = World::new(&mut Random(twin), timed).fds.len();
        let case = Case::new(&mut random, fds);
        let by = if greenlets { By::Greenlet } else { By::Thread };
        // A thread that is slow to begin finds another world.
        let found = (0..8).find_map(|_| {
            let expected = run(case, twin, timed, By::Kernel);
            let got = run(case, twin, timed, by);
            let difference = difference(&got, &expected);
            let is_sure = difference.is_none() || !got.was_fed && !expected.was_fed;
            is_sure.then_some((got, difference)).or_else(|| {
                eprintln!("{name}: round {round} once more");
                None
            })
        });
        let story = || format!("seed {seed}, round {round}, timed {timed}, {case:?}");
        let Some((got, None)) = found else {
            let expected = run(case, twin, timed, By::Kernel);
            let got = run(case, twin, timed, by);
            panic!("{}\n{:?}", story(), difference(&got, &expected));
        };
        match got.outcome.map(|got| got.answer.is_ok()) {
            Some(true) => answered += 1,
            Some(false) => failed += 1,
            None => {}
        }
        if std::env::var_os("GREENLET_FUZZ_TRACE").is_some() {
            eprintln!("{round} {case:?}");
        }
    }
    eprintln!("{name}: {answered} calls succeeded, {failed} failed");
    assert!(rounds < 100 || answered > rounds / 5 && failed > rounds / 10);
}

/// Without the watchdog, which opens files, and with them numbers that were closed.
fn alone(name: &str, greenlets: bool) {
    let off = [("GREENLET_WATCHDOG", "off")];
    let ended = common::in_subprocess_with(name, &off, || fuzz(name, 600, greenlets));
    if let Some(ended) = ended {
        ended.succeeded();
    }
}

#[test]
fn random_calls_outside_greenlets_are_the_kernels() {
    let name = "random_calls_outside_greenlets_are_the_kernels";
    alone(name, false);
}

#[test]
fn random_calls_in_greenlets_are_the_kernels() {
    let name = "random_calls_in_greenlets_are_the_kernels";
    alone(name, true);
}
