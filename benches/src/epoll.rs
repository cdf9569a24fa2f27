//! As little as epoll needs: the loop that has no tasks, and the load.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: the call takes no memory; its descriptor is ours.
        let fd = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Epoll {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 1024],
        })
    }

    /// Reports `fd` as `token` while it can be read (level-triggered).
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.add_for(libc::EPOLLIN, fd, token)
    }

    /// As `add`, once each time that there is more to be read (edge-triggered).
    pub fn add_edge(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.add_for(libc::EPOLLIN | libc::EPOLLET, fd, token)
    }

    fn add_for(&self, events: i32, fd: RawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: the kernel reads one event.
        let answer =
            unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        if answer == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Waits, and calls `ready` with the token of each that can be read.
    pub fn wait(&mut self, mut ready: impl FnMut(u64)) -> io::Result<()> {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                -1,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        }
        for event in &self.events[..count as usize] {
            ready(event.u64);
        }
        Ok(())
    }
}
