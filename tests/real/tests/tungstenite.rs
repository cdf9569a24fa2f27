//! WebSockets with `tungstenite`, client and server, each in greenlets.

use std::net::TcpStream;

use greenlet_real::{WHILE, overlap, pattern, run, serve};
use tungstenite::{Error, Message};

fn main() {
    run(&[("messages_come_back", messages_come_back)]);
}

/// A server with a thread for each connection, by its looks.
fn echo(stream: TcpStream) -> Result<(), Box<Error>> {
    let mut socket = tungstenite::accept(stream).map_err(|error| match error {
        tungstenite::HandshakeError::Failure(error) => Box::new(error),
        tungstenite::HandshakeError::Interrupted(_) => panic!("a blocking socket would not block"),
    })?;
    loop {
        match socket.read() {
            Ok(message) if message.is_text() || message.is_binary() => {
                std::thread::sleep(WHILE);
                socket.send(message)?;
            }
            // Pings have been answered, and a close has been.
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn messages_come_back() {
    let server = serve(echo).unwrap();
    overlap(|number, flight| {
        let connect = || tungstenite::connect(format!("ws://{server}/")).unwrap();
        let (mut socket, _) = flight.during(connect);
        let messages = [
            Message::text(format!("message of {number}")),
            Message::binary(pattern(number, 500_000)),
            Message::text(""),
        ];
        for message in messages {
            let back = flight.during(|| {
                socket.send(message.clone()).unwrap();
                socket.read().unwrap()
            });
            assert!(back == message, "of {number}");
        }
        let ping = Message::Ping(vec![number as u8].into());
        flight.during(|| socket.send(ping).unwrap());
        let pong = flight.during(|| socket.read().unwrap());
        assert_eq!(pong, Message::Pong(vec![number as u8].into()));
        socket.close(None).unwrap();
        let end = flight.during(|| socket.read().unwrap());
        assert!(end.is_close(), "{end:?}");
        let end = flight.during(|| Box::new(socket.read().unwrap_err()));
        assert!(matches!(*end, Error::ConnectionClosed), "{end}");
    });
}
