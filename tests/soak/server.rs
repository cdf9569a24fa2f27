//! A server that nobody has written for greenlets.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::ledger::Life;

/// An echo server with a thread for each connection.
pub struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if asked.load(Relaxed) {
                    break;
                }
                // Whoever has connected may be gone.
                let Ok(stream) = stream else { continue };
                let life = Life::new();
                let echo = move || {
                    // It is closed before this has ended.
                    let (_life, stream) = (life, stream);
                    let (mut from, mut to) = (&stream, &stream);
                    let _ = std::io::copy(&mut from, &mut to);
                };
                drop(thread::Builder::new().spawn(echo));
            }
        });
        Server {
            address,
            stop,
            thread,
        }
    }

    pub fn stop(self) {
        self.stop.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
        self.thread.join().unwrap();
    }
}
