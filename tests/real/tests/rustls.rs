//! TLS with `rustls` over std's sockets, client and server, each in greenlets.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use greenlet_real::{Certificate, LENGTHS, echo, overlap, pattern, run, serve};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

fn main() {
    run(&[("bytes_come_back_encrypted", bytes_come_back_encrypted)]);
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let made = Certificate::for_localhost();
    let certificate = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate], key).unwrap();
    (Arc::new(client), Arc::new(server))
}

fn bytes_come_back_encrypted() {
    let (client, server) = configs();
    let server = serve(move |stream: TcpStream| -> io::Result<()> {
        let connection = ServerConnection::new(Arc::clone(&server)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        echo(&mut stream)?;
        stream.conn.send_close_notify();
        stream.flush()
    });
    let server = server.unwrap();
    overlap(|number, flight| {
        let stream = flight.during(|| TcpStream::connect(server).unwrap());
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(&client), name).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        flight.during(|| stream.conn.complete_io(&mut stream.sock).unwrap());
        for length in LENGTHS {
            let sent = pattern(number, length);
            let mut back = vec![0; length];
            flight.during(|| {
                stream.write_all(&sent).unwrap();
                stream.read_exact(&mut back).unwrap();
            });
            assert!(back == sent, "{length} bytes of {number}");
        }
        stream.conn.send_close_notify();
        flight.during(|| stream.flush().unwrap());
        // Without the server's own close_notify this would be an error.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
}
