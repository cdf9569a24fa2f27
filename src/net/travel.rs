//! Sockets that travel to another process: what `Serialize` and `Deserialize` mean for them.
//!
//! The bytes say which kind of socket it is and what its user has set; the descriptor travels in the luggage of
//! the message. See `process/luggage.rs`.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{self, Serialize, Serializer};
use std::os::fd::{AsFd, OwnedFd};

use super::socket::Socket;
use super::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use crate::process::luggage;

/// What is written of a socket.
type Written = (u8, u32, bool);

fn write<T: AsFd, S: Serializer>(
    socket: &Socket<T>,
    kind: u8,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if socket.is_closed() {
        return Err(ser::Error::custom("the socket was closed"));
    }
    let place = luggage::put::<S::Error>(socket.as_fd())?;
    let written: Written = (kind, place, socket.is_nonblocking());
    written.serialize(serializer)
}

fn read<'de, T, D>(kind: u8, deserializer: D) -> Result<Socket<T>, D::Error>
where
    T: AsFd + From<OwnedFd>,
    D: Deserializer<'de>,
{
    let (written, place, nonblocking) = Written::deserialize(deserializer)?;
    if written != kind {
        return Err(luggage::complain("it is another kind of socket"));
    }
    let fd = luggage::take::<D::Error>(place)?;
    Ok(Socket::arrived(T::from(fd), nonblocking))
}

macro_rules! travels {
    ($type:ident, $std:ty, $kind:literal) => {
        /// A socket travels to another process as part of an argument, a result or an item: see
        /// [`process`](crate::process). The sender keeps its own. What its user has set travels too.
        ///
        /// # Errors
        /// Anything but such a sending; a socket that was closed; no descriptor left for a copy.
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                write(&self.socket, $kind, serializer)
            }
        }

        /// As it was sent by another process of this program: see [`process`](crate::process).
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let socket = read::<$std, D>($kind, deserializer)?;
                Ok($type { socket })
            }
        }
    };
}

travels!(TcpStream, std::net::TcpStream, 1);
travels!(TcpListener, std::net::TcpListener, 2);
travels!(UdpSocket, std::net::UdpSocket, 3);
travels!(UnixStream, std::os::unix::net::UnixStream, 4);
travels!(UnixListener, std::os::unix::net::UnixListener, 5);
travels!(UnixDatagram, std::os::unix::net::UnixDatagram, 6);
