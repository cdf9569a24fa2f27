//! The parts of std's face that all socket types have, word for word the same.

/// Conversions from and to std's type and descriptors, and `Debug`.
macro_rules! conversions {
    ($type:ident, $std:ty) => {
        impl From<$std> for $type {
            /// Takes over a socket of std. It is made non-blocking; if it was
            /// already, so is the new one for its user.
            fn from(inner: $std) -> $type {
                $type {
                    socket: Socket::adopt(inner),
                }
            }
        }

        impl From<$type> for $std {
            /// Gives the socket to std, blocking again unless its user had
            /// asked otherwise.
            fn from(socket: $type) -> $std {
                socket.socket.release()
            }
        }

        impl From<std::os::fd::OwnedFd> for $type {
            fn from(fd: std::os::fd::OwnedFd) -> $type {
                $type::from(<$std>::from(fd))
            }
        }

        impl From<$type> for std::os::fd::OwnedFd {
            fn from(socket: $type) -> std::os::fd::OwnedFd {
                <$std>::from(socket).into()
            }
        }

        impl std::os::fd::AsFd for $type {
            /// The descriptor, which is in non-blocking mode.
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.socket.as_fd()
            }
        }

        impl std::os::fd::AsRawFd for $type {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(self))
            }
        }

        impl std::os::fd::IntoRawFd for $type {
            fn into_raw_fd(self) -> std::os::fd::RawFd {
                std::os::fd::IntoRawFd::into_raw_fd(<$std>::from(self))
            }
        }

        impl std::os::fd::FromRawFd for $type {
            unsafe fn from_raw_fd(fd: std::os::fd::RawFd) -> $type {
                // SAFETY: the caller promises what std's function asks for: the
                // descriptor is open and nobody else's.
                $type::from(unsafe { <$std as std::os::fd::FromRawFd>::from_raw_fd(fd) })
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.socket.get().fmt(f)
            }
        }
    };
}

/// Methods that every socket has. `$setup` and `$make` are the examples' way to
/// get one.
macro_rules! common_methods {
    ($type:ident, $setup:literal, $make:literal) => {
        /// Another handle of the same socket, as std's: it has a descriptor of
        /// its own, and what is set on one of them holds for both.
        ///
        /// If one of them is turned into a socket of std, the other is to be
        /// used no longer: whether calls block is a property of the socket that
        /// they share, so it would block its whole thread.
        ///
        /// # Errors
        /// The process has no descriptor left.
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// let clone = socket.try_clone()?;
        /// drop(socket);
        /// assert!(clone.local_addr().is_ok());
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn try_clone(&self) -> io::Result<$type> {
            let inner = self.socket.get().try_clone()?;
            Ok($type {
                socket: self.socket.clone_as(inner),
            })
        }

        /// With true, calls that would have to wait fail with
        /// [`WouldBlock`](std::io::ErrorKind::WouldBlock) instead.
        ///
        /// The descriptor itself is in non-blocking mode either way.
        ///
        /// # Errors
        /// The socket was [closed](Self::close).
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// socket.set_nonblocking(true)?;
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
            self.socket.set_nonblocking(nonblocking)
        }

        /// Takes the error that is pending on the socket (`SO_ERROR`).
        ///
        /// # Errors
        /// The kernel could not be asked.
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// assert!(socket.take_error()?.is_none());
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn take_error(&self) -> io::Result<Option<io::Error>> {
            self.socket.get().take_error()
        }

        /// Closes the socket while others may hold references to it.
        ///
        /// Whoever waits for it, on this thread or another, gets an error
        /// (`EBADF`), and so does every later call. The descriptor's number is
        /// not used again before this value is dropped, so nobody who is late
        /// reaches somebody else's descriptor. Handles made by
        /// [`try_clone`](Self::try_clone) stay open. Closing twice does nothing.
        ///
        /// std has no such method; it follows `socket.close()` of gevent.
        ///
        /// # Errors
        /// The process has no descriptor left for what takes the socket's
        /// place. The socket is unusable then, but closed only when dropped.
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// socket.close()?;
        /// assert!(socket.local_addr().is_err());
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn close(&self) -> io::Result<()> {
            self.socket.close()
        }
    };
}

/// Read and write timeouts, with examples as above.
macro_rules! timeout_methods {
    ($type:ident, $setup:literal, $make:literal) => {
        /// Limits how long a read may wait; `None` is for ever. A read that is
        /// cut short fails with [`WouldBlock`](std::io::ErrorKind::WouldBlock),
        /// as std's on Unix.
        ///
        /// # Errors
        /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) for a time of
        /// zero.
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        /// use std::time::Duration;
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// socket.set_read_timeout(Some(Duration::from_millis(5)))?;
        /// assert_eq!(socket.read_timeout()?, Some(Duration::from_millis(5)));
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
            // The kernel's own setting means nothing to a descriptor that does
            // not block, but it is there for whom the socket is given to.
            self.socket.get().set_read_timeout(timeout)?;
            self.socket.set_timeout(Direction::Read, timeout);
            Ok(())
        }

        /// Limits how long a write may wait; see
        /// [`set_read_timeout`](Self::set_read_timeout).
        ///
        /// # Errors
        /// [`InvalidInput`](std::io::ErrorKind::InvalidInput) for a time of
        /// zero.
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        /// use std::time::Duration;
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// socket.set_write_timeout(Some(Duration::from_secs(5)))?;
        /// socket.set_write_timeout(None)?;
        /// assert_eq!(socket.write_timeout()?, None);
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
            self.socket.get().set_write_timeout(timeout)?;
            self.socket.set_timeout(Direction::Write, timeout);
            Ok(())
        }

        /// The timeout of reads, exactly as it was set.
        ///
        /// # Errors
        /// None; the result is std's.
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// assert_eq!(socket.read_timeout()?, None);
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
            Ok(self.socket.timeout(Direction::Read))
        }

        /// The timeout of writes, exactly as it was set.
        ///
        /// # Errors
        /// None; the result is std's.
        ///
        /// # Examples
        /// ```
        #[doc = concat!("use greenlet::net::", stringify!($type), ";")]
        #[doc = $setup]
        #[doc = concat!("let socket = ", $make, ";")]
        /// assert_eq!(socket.write_timeout()?, None);
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
            Ok(self.socket.timeout(Direction::Write))
        }
    };
}

/// `Read` and `Write` for the type and for `&` of it, over the type's
/// `receive`, `transmit` and their vectored forms.
macro_rules! read_and_write {
    ($type:ident) => {
        impl Read for &$type {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.receive(buf)
            }

            fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.receive_vectored(bufs)
            }
        }

        impl Write for &$type {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.transmit(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                self.transmit_vectored(bufs)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        impl Read for $type {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.receive(buf)
            }

            fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.receive_vectored(bufs)
            }
        }

        impl Write for $type {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.transmit(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                self.transmit_vectored(bufs)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(super) use {common_methods, conversions, read_and_write, timeout_methods};
