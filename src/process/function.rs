//! A function among the values that go to a worker, beside the one that is called.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use super::error::{ProcessError, SpawnError};
use super::job::offset_of;
use crate::sys::program::program;

/// A function of two arguments, by its place in the executable.
///
/// No user can name this type, so no code but that of a trampoline makes one out of
/// bytes, and those are the bytes of one that the parent has made.
#[derive(Serialize, Deserialize)]
pub(crate) struct Function<A, B> {
    fingerprint: u64,
    offset: u64,
    #[serde(skip)]
    of: PhantomData<fn(A, B)>,
}

impl<A, B> Function<A, B> {
    /// # Errors
    /// The function is not in the executable.
    pub(crate) fn of(f: fn(A, B)) -> Result<Function<A, B>, SpawnError> {
        Ok(Function {
            fingerprint: program().fingerprint(),
            offset: offset_of(f as usize)?,
            of: PhantomData,
        })
    }

    /// The function, in a process that runs the same executable.
    ///
    /// # Errors
    /// This process does not.
    pub(crate) fn get(&self) -> Result<fn(A, B), ProcessError> {
        let address = program().address_of(self.offset);
        match address {
            Some(address) if self.fingerprint == program().fingerprint() => {
                // SAFETY: `of` has taken the offset of a function of this type, in
                // the same executable.
                Ok(unsafe { std::mem::transmute::<usize, fn(A, B)>(address) })
            }
            _ => Err(ProcessError::OtherProgram),
        }
    }
}

impl<A, B> Clone for Function<A, B> {
    fn clone(&self) -> Function<A, B> {
        Function { ..*self }
    }
}
