//! TLS with `native-tls`, which is OpenSSL here: C code that calls back into Rust,
//! whose reads and writes park. Client and server, each in greenlets, or in threads.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use greenlet_real::{Certificate, LENGTHS, WHILE, echo, overlap, pattern, run, serve};
use greenlet_real::{GREENLETS, overlap_threads, serve_with_threads};
use native_tls::{HandshakeError, TlsConnector};

fn main() {
    run(&[
        ("bytes_come_back_encrypted", bytes_come_back_encrypted),
        (
            "who_does_not_trust_gets_an_error",
            who_does_not_trust_gets_an_error,
        ),
        ("threads_are_told_each_its_own_error", each_its_own_error),
    ]);
}

fn bytes_come_back_encrypted() {
    let made = Certificate::for_localhost();
    let root = native_tls::Certificate::from_pem(made.certificate.as_bytes()).unwrap();
    let mut connector = TlsConnector::builder();
    let connector = connector.add_root_certificate(root).build().unwrap();
    let acceptor = made.acceptor();
    let server = serve(move |stream: TcpStream| -> io::Result<()> {
        let mut stream = acceptor.accept(stream).map_err(io::Error::other)?;
        echo(&mut stream)?;
        stream.shutdown()
    });
    let server = server.unwrap();
    overlap(|number, flight| {
        let stream = flight.during(|| TcpStream::connect(server).unwrap());
        let mut stream = flight.during(|| connector.connect("localhost", stream).unwrap());
        for length in LENGTHS {
            let sent = pattern(number, length);
            let mut back = vec![0; length];
            flight.during(|| {
                stream.write_all(&sent).unwrap();
                stream.read_exact(&mut back).unwrap();
            });
            assert!(back == sent, "{length} bytes of {number}");
        }
        flight.during(|| stream.shutdown().unwrap());
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
}

/// OpenSSL keeps errors in a queue of the thread's, and all of these are on one.
/// Who parks while an error is in there, sending the alert, may not find it again
/// ("unexpected EOF" then), but everyone fails, and hears from its own connection
/// what is wrong with the certificate.
fn who_does_not_trust_gets_an_error() {
    let acceptor = Certificate::for_localhost().acceptor();
    let server = serve(move |stream: TcpStream| -> io::Result<()> {
        std::thread::sleep(WHILE);
        // The client turns away, and that is an error here.
        assert!(acceptor.accept(stream).is_err());
        Ok(())
    });
    let server = server.unwrap();
    let connector = TlsConnector::new().unwrap();
    overlap(|number, flight| {
        let stream = TcpStream::connect(server).unwrap();
        // More than the listener has room for: the last come a second later.
        flight.meet();
        let error = flight.during(|| connector.connect("localhost", stream).unwrap_err());
        let HandshakeError::Failure(error) = error else {
            panic!("a blocking socket would not block");
        };
        let text = error.to_string();
        assert!(text.contains("self-signed certificate"), "{number}: {text}");
    });
}

/// Threads have queues of errors of their own: every even one trusts, and every odd one
/// is told why it fails, whatever it does meanwhile; and so is the server.
fn each_its_own_error() {
    let made = Certificate::for_localhost();
    let root = native_tls::Certificate::from_pem(made.certificate.as_bytes()).unwrap();
    let mut trusting = TlsConnector::builder();
    let trusting = trusting.add_root_certificate(root).build().unwrap();
    let strict = TlsConnector::new().unwrap();
    let acceptor = made.acceptor();
    let server = serve_with_threads(move |stream: TcpStream| -> io::Result<()> {
        std::thread::sleep(WHILE);
        match acceptor.accept(stream) {
            Ok(mut stream) => {
                echo(&mut stream)?;
                stream.shutdown()
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("alert"), "{text}");
                Ok(())
            }
        }
    });
    let server = server.unwrap();
    overlap_threads(GREENLETS, |number, flight| {
        let stream = TcpStream::connect(server).unwrap();
        flight.meet();
        flight.during(|| match number % 2 {
            0 => {
                let mut stream = trusting.connect("localhost", stream).unwrap();
                let sent = pattern(number, 10_000);
                let mut back = vec![0; sent.len()];
                stream.write_all(&sent).unwrap();
                stream.read_exact(&mut back).unwrap();
                assert!(back == sent);
                stream.shutdown().unwrap();
            }
            _ => {
                let error = strict.connect("localhost", stream).unwrap_err();
                let text = error.to_string();
                assert!(text.contains("self-signed certificate"), "{number}: {text}");
            }
        });
    });
}
