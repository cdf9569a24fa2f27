//! A client that keeps its connection, as browsers do: so that a server has as many
//! connections at once as there are clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A connection to a server.
#[derive(Debug)]
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    #[must_use]
    pub fn to(server: SocketAddr) -> Connection {
        let stream = TcpStream::connect(server).expect("the server listens");
        Connection(BufReader::new(stream))
    }

    /// The status of the answer, and what it says.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: it\r\nContent-Length: {length}\r\n\r\n");
        let request = [head.as_bytes(), body].concat();
        self.send(&request);
        self.answer()
    }

    /// Sends it as it is, and does not wait for anything.
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("it is sent");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("there is an answer");
        assert!(line.ends_with("\r\n"), "the answer ends with {line:?}");
        line.truncate(line.len() - 2);
        line
    }

    fn answer(&mut self) -> (u16, Vec<u8>) {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|word| word.parse().ok());
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().expect("a length"),
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(_) => {}
                None => break,
            }
        }
        let body = if chunked {
            self.chunks()
        } else {
            self.bytes(length)
        };
        (status.expect("a status"), body)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("all of it comes");
        bytes
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.line(), 16).expect("a length");
            body.extend(self.bytes(length));
            assert_eq!(self.line(), "");
            if length == 0 {
                return body;
            }
        }
    }
}
