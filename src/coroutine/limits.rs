//! Turns a bare ENOMEM into the name of the limit that was met, so that the reader knows what to raise.

use crate::error::StackError;
use crate::sys::os::{self, Errno};

/// How close to `vm.max_map_count` counts as having met it: a call that splits a mapping needs two more.
const NEAR: usize = 300;

/// Says why `call`, which asked for `len` bytes, failed with `errno`.
pub(crate) fn explain(call: &'static str, errno: Errno, len: usize) -> StackError {
    let found = if errno == libc::ENOMEM || errno == libc::EAGAIN {
        map_count()
            .or_else(|| address_space(len))
            .or_else(commit_limit)
    } else {
        None
    };
    found.unwrap_or(StackError::System { call, errno })
}

fn map_count() -> Option<StackError> {
    let limit = os::proc_number(c"/proc/sys/vm/max_map_count")?;
    let in_use = os::mappings_in_use()?;
    (in_use + NEAR >= limit).then_some(StackError::MapCount { in_use, limit })
}

fn address_space(len: usize) -> Option<StackError> {
    let limit = os::address_space_limit()?;
    // The first number of statm is the size of the address space in pages.
    let in_use = os::proc_number(c"/proc/self/statm")? * os::page_size();
    // What is kept free for others counts as used up.
    (in_use + len + (64 << 20) >= limit).then_some(StackError::AddressSpace { in_use, limit })
}

fn commit_limit() -> Option<StackError> {
    const NEVER_OVERCOMMIT: usize = 2;
    if os::proc_number(c"/proc/sys/vm/overcommit_memory")? != NEVER_OVERCOMMIT {
        return None;
    }
    let kib = |key| os::proc_field(c"/proc/meminfo", key).map(|kib| kib << 10);
    Some(StackError::CommitLimit {
        committed: kib(b"Committed_AS:")?,
        limit: kib(b"CommitLimit:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_reason_keeps_its_errno() {
        let error = explain("mmap", libc::EPERM, 4096);
        assert_eq!(
            error,
            StackError::System {
                call: "mmap",
                errno: libc::EPERM
            }
        );
        assert!(error.to_string().contains("mmap"), "{error}");
    }
}
