//! What is sent to a worker, and what comes back: a function by its place in the executable, values as bytes.
//!
//! A job is a function `fn(A) -> R` and an argument. For each pair of types there is a *trampoline*, a function
//! without types that the compiler makes of [`trampoline`]; it knows `A` and `R`:
//!
//! ```text
//!   parent                                         worker
//!   Request::new(f, &a)                            Reply::to(&request)
//!     offset of trampoline::<A, R> ───────────────▶  trampoline::<A, R>(f, bytes)
//!     offset of f                  ───────────────▶    f: fn(A) -> R
//!     bytes of a                   ───────────────▶    A::deserialize(bytes)
//!                                                      r = f(a)
//!   reply.into_result::<R>()       ◀───────────────    bytes of r
//! ```
//!
//! Both offsets are taken at the same place in the source, where the compiler has checked that the types fit, and
//! used in a process that runs the same executable, which the fingerprint shows. So whatever safe code does, a
//! worker calls a function by its true type. What a `Serialize` writes and a `Deserialize` reads may be anything,
//! as always; the worst of it is an error.

use std::any::type_name;
use std::os::fd::OwnedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::diagnose::complaint_of;
use super::error::{ProcessError, SpawnError};
use super::luggage;
use super::wire::Message;
use crate::error::{self, Deadlock, JoinError};
use crate::hub::{self, Payload};
use crate::sys::program::{self, program};

/// The kinds of messages.
mod kind {
    pub(super) const JOB: u64 = 1;
    pub(super) const VALUE: u64 = 2;
    pub(super) const PANICKED: u64 = 3;
    pub(super) const BAD_ARGUMENT: u64 = 4;
    pub(super) const BAD_RESULT: u64 = 5;
    pub(super) const OTHER_PROGRAM: u64 = 6;
}

/// A job, ready to be sent.
#[derive(Debug)]
pub(crate) struct Request(Message);

/// Calls a function, given by its address, with an argument that is made of the message.
type Trampoline = fn(usize, Message) -> Reply;

impl Request {
    /// # Errors
    /// The function is not in the executable, or the argument cannot be serialised.
    pub(crate) fn new<A, R>(f: fn(A) -> R, argument: &A) -> Result<Request, SpawnError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let trampoline: Trampoline = trampoline::<A, R>;
        let trampoline = offset_of(trampoline as usize)?;
        let function = offset_of(f as usize)?;
        let (body, descriptors) = encode(argument).map_err(|reason| SpawnError::Argument {
            of: type_name::<A>(),
            reason,
        })?;
        Ok(Request(Message {
            kind: kind::JOB,
            numbers: [program().fingerprint(), trampoline, function],
            body,
            descriptors,
            ..Message::default()
        }))
    }

    pub(super) fn message(&self) -> &Message {
        &self.0
    }
}

pub(super) fn offset_of(function: usize) -> Result<u64, SpawnError> {
    program()
        .offset_of(function)
        .ok_or_else(|| SpawnError::ForeignFunction {
            library: program::library_of(function),
        })
}

/// What a worker answers.
#[derive(Debug)]
pub(crate) struct Reply(Message);

impl Reply {
    /// Does a job, in the worker.
    pub(super) fn to(request: Message) -> Reply {
        let [fingerprint, trampoline, function] = request.numbers;
        let addresses = (
            program().address_of(trampoline),
            program().address_of(function),
        );
        match addresses {
            (Some(trampoline), Some(function))
                if request.kind == kind::JOB && fingerprint == program().fingerprint() =>
            {
                // SAFETY: the parent runs the same executable, and took the offset of such a function in it; a
                // connection to a worker has only its parent's `Request`s at the other end.
                let trampoline = unsafe { std::mem::transmute::<usize, Trampoline>(trampoline) };
                trampoline(function, request)
            }
            _ => Reply::text(kind::OTHER_PROGRAM, "", String::new()),
        }
    }

    fn text(kind: u64, of: &str, text: String) -> Reply {
        let mut body = of.as_bytes().to_vec();
        body.extend_from_slice(text.as_bytes());
        Reply(Message {
            kind,
            numbers: [of.len() as u64, 0, 0],
            body,
            ..Message::default()
        })
    }

    /// A type's name and the reason.
    fn into_text(self) -> (String, String) {
        let text = String::from_utf8_lossy(&self.0.body).into_owned();
        match text.split_at_checked(self.0.numbers[0] as usize) {
            Some((of, reason)) => (of.to_owned(), reason.to_owned()),
            None => (String::new(), text),
        }
    }

    pub(super) fn of(message: Message) -> Reply {
        Reply(message)
    }

    pub(super) fn message(&self) -> &Message {
        &self.0
    }

    /// Whether the job has panicked.
    pub(crate) fn is_panic(&self) -> bool {
        self.0.kind == kind::PANICKED
    }

    /// The result of the job whose reply this is.
    pub(crate) fn into_result<R: DeserializeOwned>(self) -> Result<R, JoinError> {
        let error = match self.0.kind {
            kind::VALUE => {
                return decode_message(self.0).map_err(|reason| {
                    let of = type_name::<R>();
                    JoinError::Process(ProcessError::Decode { of, reason })
                });
            }
            kind::PANICKED => return Err(JoinError::Panicked(Box::new(self.into_text().1))),
            kind::BAD_ARGUMENT => {
                let (of, reason) = self.into_text();
                ProcessError::Argument { of, reason }
            }
            kind::BAD_RESULT => {
                let (of, reason) = self.into_text();
                ProcessError::Result { of, reason }
            }
            _ => ProcessError::OtherProgram,
        };
        Err(JoinError::Process(error))
    }
}

fn trampoline<A, R>(function: usize, request: Message) -> Reply
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    // SAFETY: `Request::new` has sent this trampoline together with a function of this type.
    let f = unsafe { std::mem::transmute::<usize, fn(A) -> R>(function) };
    let done = hub::catch(|| {
        let argument = match decode_message::<A>(request) {
            Ok(argument) => argument,
            Err(reason) => return Reply::text(kind::BAD_ARGUMENT, type_name::<A>(), reason),
        };
        match encode(&f(argument)) {
            Ok((body, descriptors)) => Reply(Message {
                kind: kind::VALUE,
                body,
                descriptors,
                ..Message::default()
            }),
            Err(reason) => Reply::text(kind::BAD_RESULT, type_name::<R>(), reason),
        }
    });
    done.unwrap_or_else(|payload| {
        let reply = Reply::text(kind::PANICKED, "", message_of(&payload));
        hub::contain(move || drop(payload));
        reply
    })
}

/// What a panic says.
fn message_of(payload: &Payload) -> String {
    match payload.downcast_ref::<Deadlock>() {
        Some(deadlock) => deadlock.to_string(),
        None => error::panic_message(payload.as_ref()).to_owned(),
    }
}

/// A value as bytes, and the descriptors that belong to it.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<(Vec<u8>, Vec<OwnedFd>), String> {
    encode_behind(Vec::new(), value)
}

/// As `encode`; the bytes are appended to these.
pub(super) fn encode_behind<T: Serialize>(
    bytes: Vec<u8>,
    value: &T,
) -> Result<(Vec<u8>, Vec<OwnedFd>), String> {
    let (bytes, descriptors) = luggage::pack(|| {
        let bytes = postcard::to_extend(value, bytes);
        bytes.map_err(|error| complaint_of(value).unwrap_or_else(|| error.to_string()))
    });
    bytes.map(|bytes| (bytes, descriptors))
}

/// A value out of bytes, and the descriptors that have come with them.
pub(super) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<T, String> {
    let (value, complaint) = luggage::unpack(descriptors, || postcard::from_bytes(bytes));
    value.map_err(|error: postcard::Error| complaint.unwrap_or_else(|| error.to_string()))
}

fn decode_message<T: DeserializeOwned>(message: Message) -> Result<T, String> {
    if message.lost_descriptors {
        return Err(String::from(
            "not all of its descriptors have arrived, for the process has no more of them (RLIMIT_NOFILE)",
        ));
    }
    decode(&message.body, message.descriptors)
}
