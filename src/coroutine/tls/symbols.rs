//! Where glibc has what it tells only itself, and debuggers.
//!
//! From 2.34 on libc has symbols for all of that. Before, some of it was libpthread's, and
//! its symbols are in the file alone, in the table that distributions leave there for
//! debuggers: what libthread_db reads.

use std::ffi::{CStr, c_void};

use crate::error::IsolationError;
use crate::sys::{elf, objects};

/// The address of what is called so.
pub(super) fn symbol(name: &'static CStr) -> Result<*mut c_void, IsolationError> {
    // SAFETY: the name is a string with its end.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if !address.is_null() {
        return Ok(address);
    }
    in_file_of_libpthread(name).ok_or_else(|| IsolationError::MissingSymbol {
        symbol: name.to_str().unwrap_or_default(),
    })
}

fn in_file_of_libpthread(name: &CStr) -> Option<*mut c_void> {
    let is_libpthread = |object: &objects::Object| {
        let file = object.path.file_name().unwrap_or_default();
        file.as_encoded_bytes().starts_with(b"libpthread")
    };
    let libpthread = objects::loaded().into_iter().find(is_libpthread)?;
    let offset = elf::address_of(&libpthread.path, name).ok()??;
    let address = libpthread.base.wrapping_add(offset);
    // The file may be another one by now. What is there is verified, as everything is.
    libpthread.has(address).then_some(address as *mut c_void)
}
