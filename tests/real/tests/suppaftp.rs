//! The FTP client `suppaftp` against vsftpd: a connection for the commands, and
//! one for each file, which either side may open.

use std::io::Cursor;
use std::time::Duration;

use greenlet::sync::Semaphore;
use greenlet_real::{overlap, pattern, run_with_server};
use suppaftp::FtpStream;
use suppaftp::types::{FileType, Mode};

fn main() {
    run_with_server(
        "GREENLET_VSFTPD",
        &[
            ("files_go_there_and_back", files_go_there_and_back),
            ("the_server_may_connect_to_us", the_server_may_connect_to_us),
        ],
    );
}

/// vsftpd starts a process for each connection, and no more than 32 may wait for
/// theirs: of any more the kernel takes no notice for seconds.
const AT_THE_DOOR: usize = 16;

/// So much takes the server an eighth of a second at least, as it is set up.
const SIZE: usize = 32_000;

fn log_in(address: &str, door: &Semaphore) -> FtpStream {
    let _in_line = door.acquire();
    let mut ftp = FtpStream::connect(address).unwrap();
    ftp.login("anonymous", "nobody@localhost").unwrap();
    ftp.transfer_type(FileType::Binary).unwrap();
    ftp.cwd("up").unwrap();
    ftp
}

fn put_and_get(ftp: &mut FtpStream, name: &str, content: &[u8]) {
    let stored = ftp.put_file(name, &mut Cursor::new(content)).unwrap();
    assert_eq!(stored, content.len() as u64);
    assert_eq!(ftp.size(name).unwrap(), content.len());
    assert!(ftp.retr_as_buffer(name).unwrap().into_inner() == content);
    ftp.rm(name).unwrap();
}

fn files_go_there_and_back(address: &str) {
    let door = Semaphore::new(AT_THE_DOOR);
    overlap(|number, flight| {
        let mut ftp = log_in(address, &door);
        flight.meet();
        let content = pattern(number, SIZE + 1000 * number);
        flight.during(|| put_and_get(&mut ftp, &format!("passive{number}"), &content));
        ftp.quit().unwrap();
    });
}

fn the_server_may_connect_to_us(address: &str) {
    let door = Semaphore::new(AT_THE_DOOR);
    overlap(|number, flight| {
        let mut ftp = log_in(address, &door).active_mode(Duration::from_secs(50));
        flight.meet();
        ftp.set_mode(Mode::Active);
        let content = pattern(number, SIZE);
        flight.during(|| put_and_get(&mut ftp, &format!("active{number}"), &content));
        ftp.quit().unwrap();
    });
}
