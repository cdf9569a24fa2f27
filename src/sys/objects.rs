//! Which files the code of this process comes from, and where it is mapped.

use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The program, or a shared object that it has loaded.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Empty for the program itself.
    pub(crate) path: PathBuf,
    /// What is added to an address in the file to get one in memory.
    pub(crate) base: usize,
    /// Where its code is in memory.
    code: Vec<Range<usize>>,
    /// Where all of it is.
    memory: Vec<Range<usize>>,
}

impl Object {
    /// Whether its code is at that address.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.code.iter().any(|code| code.contains(&address))
    }

    /// Whether it has anything at that address: code, or data.
    pub(crate) fn has(&self, address: usize) -> bool {
        self.memory.iter().any(|part| part.contains(&address))
    }
}

/// Everything that is loaded now.
pub(crate) fn loaded() -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    // SAFETY: the callback is given `data` as it is, and takes it for what it is.
    unsafe { libc::dl_iterate_phdr(Some(enter), (&raw mut objects).cast()) };
    objects
}

unsafe extern "C" fn enter(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader gives a valid record, whose name is a string or null and
    // whose headers are as many as it says; the data are those of `loaded`.
    let (base, name, headers, objects) = unsafe {
        let info = &*info;
        let name = match info.dlpi_name.is_null() {
            true => c"",
            false => CStr::from_ptr(info.dlpi_name),
        };
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        let objects = &mut *data.cast::<Vec<Object>>();
        (info.dlpi_addr as usize, name, headers, objects)
    };
    let parts = |flags| {
        let loaded = headers.iter().filter(move |header| {
            header.p_type == libc::PT_LOAD && header.p_flags & flags == flags
        });
        let range = |header: &libc::Elf64_Phdr| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            start..start.wrapping_add(header.p_memsz as usize)
        };
        loaded.map(range).collect()
    };
    objects.push(Object {
        path: OsStr::from_bytes(name.to_bytes()).into(),
        base,
        code: parts(libc::PF_X),
        memory: parts(0),
    });
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_in_the_object_that_it_comes_from() {
        let objects = loaded();
        let of = |address: usize| objects.iter().find(|object| object.contains(address));
        let ours = of(loaded as fn() -> Vec<Object> as usize).expect("the program");
        assert_eq!(ours.path, PathBuf::new());
        // SAFETY: the name is a string with its end.
        let libc = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"qsort".as_ptr()) };
        if let Some(object) = of(libc as usize) {
            assert!(object.path.to_string_lossy().contains("libc"), "{object:?}");
        }
        assert!(of(0).is_none());
    }
}
