//! Sockets that travel to another process: what `Serialize` and `Deserialize` mean for them.
//!
//! The bytes say which kind of socket it is and what its user has set; the descriptor travels in the luggage of
//! the message. See `process/luggage.rs`.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{self, Serialize, Serializer};
use std::os::fd::{AsFd, OwnedFd};

use super::socket::Socket;
use super::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use crate::process::luggage::{self, Ticket, kind};

/// What is written of a socket: the descriptor, and whether its user wants calls not to wait.
type Written = (Ticket, bool);

fn write<T: AsFd, S: Serializer>(
    socket: &Socket<T>,
    kind: u8,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if socket.is_closed() {
        return Err(ser::Error::custom("the socket was closed"));
    }
    let ticket = luggage::put::<S::Error>(kind, socket.as_fd())?;
    let written: Written = (ticket, socket.is_nonblocking());
    written.serialize(serializer)
}

fn read<'de, T, D>(kind: u8, deserializer: D) -> Result<Socket<T>, D::Error>
where
    T: AsFd + From<OwnedFd>,
    D: Deserializer<'de>,
{
    let (ticket, nonblocking) = Written::deserialize(deserializer)?;
    let fd = luggage::take::<D::Error>(kind, ticket)?;
    Ok(Socket::arrived(T::from(fd), nonblocking))
}

macro_rules! travels {
    ($type:ident, $std:ty, $kind:ident) => {
        /// A socket travels to another process as part of an argument, a result or an item: see
        /// [`process`](crate::process). The sender keeps its own. What its user has set travels too.
        ///
        /// # Errors
        /// Anything but such a sending; a socket that was closed; no descriptor left for a copy.
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                write(&self.socket, kind::$kind, serializer)
            }
        }

        /// As it was sent by another process of this program: see [`process`](crate::process).
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let socket = read::<$std, D>(kind::$kind, deserializer)?;
                Ok($type { socket })
            }
        }
    };
}

travels!(TcpStream, std::net::TcpStream, TCP_STREAM);
travels!(TcpListener, std::net::TcpListener, TCP_LISTENER);
travels!(UdpSocket, std::net::UdpSocket, UDP_SOCKET);
travels!(UnixStream, std::os::unix::net::UnixStream, UNIX_STREAM);
travels!(
    UnixListener,
    std::os::unix::net::UnixListener,
    UNIX_LISTENER
);
travels!(
    UnixDatagram,
    std::os::unix::net::UnixDatagram,
    UNIX_DATAGRAM
);
