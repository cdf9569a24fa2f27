//! Names of hosts: `ToSocketAddrs`, whose look-ups park the greenlet.
//!
//! libc can look a name up only by blocking its thread, so that is left to a
//! helper thread. What is an address already is never sent there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::{iter, option, slice, vec};

use crate::offload::offload;

/// What can be turned into socket addresses; the counterpart of
/// [`std::net::ToSocketAddrs`], for the same types.
///
/// A name that has to be looked up is looked up on a helper thread, and only
/// the greenlet waits. A greenlet that is killed meanwhile leaves the look-up
/// to end by itself.
///
/// # Examples
/// ```
/// use greenlet::net::ToSocketAddrs;
///
/// let mut addresses = "localhost:80".to_socket_addrs()?;
/// assert!(addresses.all(|address| address.ip().is_loopback()));
/// assert_eq!(("127.0.0.1", 80).to_socket_addrs()?.count(), 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "getaddrinfo")]
#[doc(alias = "gethostbyname")]
pub trait ToSocketAddrs {
    /// What goes through the addresses, of which there may be several.
    type Iter: Iterator<Item = SocketAddr>;

    /// The addresses, in the order in which they are to be tried.
    ///
    /// # Errors
    /// The text is neither an address nor a name with a port, or there is no
    /// host of that name; with the kinds of std.
    fn to_socket_addrs(&self) -> io::Result<Self::Iter>;
}

/// Addresses that need no look-up.
macro_rules! known {
    ($($type:ty: |$this:ident| $address:expr;)*) => {$(
        impl ToSocketAddrs for $type {
            type Iter = option::IntoIter<SocketAddr>;

            fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
                let $this = *self;
                Ok(Some($address).into_iter())
            }
        }
    )*};
}

known! {
    SocketAddr: |address| address;
    SocketAddrV4: |address| SocketAddr::V4(address);
    SocketAddrV6: |address| SocketAddr::V6(address);
    (IpAddr, u16): |address| SocketAddr::from(address);
    (Ipv4Addr, u16): |address| SocketAddr::from(address);
    (Ipv6Addr, u16): |address| SocketAddr::from(address);
}

impl ToSocketAddrs for (&str, u16) {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let (host, port) = *self;
        match host.parse::<IpAddr>() {
            Ok(ip) => Ok(vec![SocketAddr::new(ip, port)].into_iter()),
            Err(_) => {
                let host = host.to_owned();
                offload(move || std::net::ToSocketAddrs::to_socket_addrs(&(&*host, port)))
            }
        }
    }
}

impl ToSocketAddrs for (String, u16) {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (&*self.0, self.1).to_socket_addrs()
    }
}

impl ToSocketAddrs for str {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        if let Ok(address) = self.parse() {
            return Ok(vec![address].into_iter());
        }
        match self.rsplit_once(':') {
            Some((host, port)) => match port.parse::<u16>() {
                Ok(port) => (host, port).to_socket_addrs(),
                Err(_) => Err(invalid("invalid port value")),
            },
            None => Err(invalid("invalid socket address")),
        }
    }
}

impl ToSocketAddrs for String {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (**self).to_socket_addrs()
    }
}

impl<'a> ToSocketAddrs for &'a [SocketAddr] {
    type Iter = iter::Copied<slice::Iter<'a, SocketAddr>>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(self.iter().copied())
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {
    type Iter = T::Iter;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (**self).to_socket_addrs()
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Tries the addresses one after the other: the first success, or the last
/// error.
pub(super) fn first_success<R>(
    addresses: impl ToSocketAddrs,
    mut operation: impl FnMut(&SocketAddr) -> io::Result<R>,
) -> io::Result<R> {
    let mut last = None;
    for address in addresses.to_socket_addrs()? {
        match operation(&address) {
            Ok(value) => return Ok(value),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| invalid("could not resolve to any addresses")))
}
