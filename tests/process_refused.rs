//! What cannot be a job of another process, and what is said then.

mod common;

use std::process::Command;

use common::watchdog;
use greenlet::error::JoinError;
use greenlet::process;
use greenlet::process::error::{ProcessError, SpawnError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// Can be neither written nor read, if its number says so.
#[derive(Debug)]
struct Fussy(u8);

const NOT_WRITTEN: u8 = 1;
const NOT_READ: u8 = 2;

impl Serialize for Fussy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            NOT_WRITTEN => Err(ser::Error::custom("there is no milk in it")),
            number => number.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fussy, D::Error> {
        match u8::deserialize(deserializer)? {
            NOT_READ => Err(de::Error::custom("there is milk in it")),
            number => Ok(Fussy(number)),
        }
    }
}

#[test]
fn an_argument_that_cannot_be_serialised_is_refused_before_there_is_a_process() {
    let _watchdog = watchdog();
    let error = process::spawn(|_: Vec<Fussy>| (), vec![Fussy(0), Fussy(NOT_WRITTEN)]).unwrap_err();
    assert!(matches!(error, SpawnError::Argument { .. }));
    let text = error.to_string();
    assert!(
        text.contains("Fussy") && text.contains("there is no milk in it"),
        "{text}"
    );
    let error = std::io::Error::from(error);
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_result_that_cannot_be_serialised_is_an_error_that_names_its_type() {
    let _watchdog = watchdog();
    let child = process::spawn(|n: u8| (1, Fussy(n)), NOT_WRITTEN).unwrap();
    let error = child.join().unwrap_err();
    assert!(matches!(
        error,
        JoinError::Process(ProcessError::Result { .. })
    ));
    let text = error.to_string();
    assert!(
        text.contains("Fussy") && text.contains("there is no milk in it"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_decoded_is_an_error_on_either_side() {
    let _watchdog = watchdog();
    let child = process::spawn(|_: Fussy| (), Fussy(NOT_READ)).unwrap();
    let error = child.join().unwrap_err();
    assert!(error.to_string().contains("argument, of type"), "{error}");
    assert!(matches!(
        error,
        JoinError::Process(ProcessError::Argument { .. })
    ));
    let child = process::spawn(Fussy, NOT_READ).unwrap();
    let error = child.join().unwrap_err();
    assert!(error.to_string().contains("result, of type"), "{error}");
    assert!(matches!(
        error,
        JoinError::Process(ProcessError::Decode { .. })
    ));
}

#[test]
fn a_panic_while_values_are_written_and_read_is_the_jobs_panic() {
    struct Panics;
    impl Serialize for Panics {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("on purpose")
        }
    }
    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Panics, D::Error> {
            panic!("on purpose")
        }
    }
    let _watchdog = watchdog();
    let child = process::spawn(|()| Panics, ()).unwrap();
    assert!(matches!(child.join(), Err(JoinError::Panicked(_))));
}

#[test]
fn a_function_of_a_library_is_refused_with_the_librarys_name() {
    let _watchdog = watchdog();
    // Its address is all that matters: it is never called.
    let foreign = libc::getpid as *const ();
    // SAFETY: a pointer to a function, which is not called.
    let foreign = unsafe { std::mem::transmute::<*const (), fn(u8) -> u8>(foreign) };
    let error = process::spawn(foreign, 1).unwrap_err();
    match &error {
        SpawnError::ForeignFunction { library } => {
            let library = library.as_ref().unwrap().to_string_lossy();
            assert!(library.contains("libc"), "{library}");
        }
        other => panic!("{other}"),
    }
    assert!(
        error.to_string().contains("functions of the executable"),
        "{error}"
    );
    // Nor does one that is in no file live in the executable.
    let code = Box::leak(Box::new([0xc3u8; 64]));
    // SAFETY: as above.
    let foreign = unsafe { std::mem::transmute::<*const u8, fn(u8) -> u8>(code.as_ptr()) };
    let error = process::spawn(foreign, 1).unwrap_err();
    assert!(
        matches!(error, SpawnError::ForeignFunction { library: None }),
        "{error}"
    );
}

/// Run by `a_program_that_was_loaded_by_hand_is_not_started_anew`.
#[test]
fn loaded_by_hand() {
    let _watchdog = watchdog();
    let spawned = process::spawn(|n: u8| n, 1);
    if std::env::var_os("LOADED_BY_HAND").is_some() {
        let error = spawned.unwrap_err();
        assert!(
            error.to_string().contains("cannot be started anew"),
            "{error}"
        );
    } else {
        assert_eq!(spawned.unwrap().join().unwrap(), 1);
    }
}

#[test]
fn a_program_that_was_loaded_by_hand_is_not_started_anew() {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
        .into_iter()
        .find(|loader| std::path::Path::new(loader).exists());
    let Some(loader) = loader else { return };
    let output = Command::new(loader)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "loaded_by_hand"])
        .env("LOADED_BY_HAND", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn the_mark_of_a_worker_without_a_parent_ends_the_process_before_main() {
    let parent = std::process::id().to_string();
    for mark in ["1", "", "no number", &parent] {
        let output = Command::new(std::env::current_exe().unwrap())
            .arg("--list")
            .env("GREENLET_WORKER_OF", mark)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(70), "{output:?}");
        assert!(output.stdout.is_empty(), "main was not called");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("no connection to a parent"), "{said}");
    }
}
