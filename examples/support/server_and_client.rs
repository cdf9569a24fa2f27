//! The `main` of a server that is its own client: `[--client] [ADDRESS]`.

use std::io;
use std::process::ExitCode;

/// Runs one or the other at the address that is asked for, or at 127.0.0.1:8848.
pub fn run(
    name: &str,
    usage: &str,
    serve: fn(&str) -> io::Result<()>,
    talk: fn(&str) -> io::Result<()>,
) -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let client = arguments.first().is_some_and(|first| first == "--client");
    if client {
        arguments.remove(0);
    }
    let address = match arguments.as_slice() {
        [] => "127.0.0.1:8848",
        [help] if help == "--help" || help == "-h" => {
            println!("{usage}");
            return ExitCode::SUCCESS;
        }
        [address] if !address.starts_with('-') => address,
        [argument, ..] => {
            eprintln!("{name}: one address is expected, not {argument:?}\n{usage}");
            return ExitCode::from(2);
        }
    };
    let result = if client {
        talk(address)
    } else {
        serve(address)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            eprintln!("{name}: {address:?}: {error}\n{usage}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{name}: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}
