//! What this process knows of the executable it runs: where it lies in memory, what is part of it, and whether
//! another process runs the same one.
//!
//! ```text
//!   0x5555_5540_0000  base ─┐  ┌──────────────┐
//!                           ├─▶│ headers      │  the same file at another base, in another process:
//!            address ───────┼─▶│ text   fn f  │  the same offset is the same function
//!                           │  │ data         │
//!                           │  └──────────────┘
//!                           └── offset = address - base
//! ```

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libc::{Elf64_Phdr as Header, dl_phdr_info};

/// The link to the file of the executable, whatever has become of its name.
pub(crate) const SELF: &CStr = c"/proc/self/exe";

/// The executable in memory.
pub(crate) struct Program {
    base: usize,
    /// The first and the last address, and what of it is code.
    all: (usize, usize),
    code: Vec<(usize, usize)>,
    /// The functions that are called before `main`: where, and how many.
    before_main: (usize, usize),
    fingerprint: u64,
}

/// The tag and the value of an entry of the dynamic section.
type Dynamic = [usize; 2];
const DT_INIT_ARRAY: usize = 25;
const DT_INIT_ARRAYSZ: usize = 27;

/// This process's executable.
pub(crate) fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut found = None;
        // SAFETY: the callback has the signature that is asked for, and gets the pointer back that it expects.
        unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut found).cast()) };
        found.unwrap_or_else(Program::unknown)
    })
}

/// Called with the executable first, and asks for no more.
unsafe extern "C" fn first(info: *mut dl_phdr_info, _size: usize, found: *mut c_void) -> c_int {
    // SAFETY: the loader gives a structure that is valid for this call; `found` comes from `program`.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<Option<Program>>()) };
    let headers: &[Header] = match info.dlpi_phdr.is_null() {
        true => &[],
        // SAFETY: the loader gives so many headers, which stay where they are.
        false => unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) },
    };
    *found = Some(Program::new(info.dlpi_addr as usize, headers));
    1
}

impl Program {
    fn unknown() -> Program {
        Program {
            base: 0,
            all: (0, 0),
            code: Vec::new(),
            before_main: (0, 0),
            fingerprint: 0,
        }
    }

    fn new(base: usize, headers: &[Header]) -> Program {
        let mut program = Program {
            base,
            ..Program::unknown()
        };
        let mut hash = Hash::new();
        for header in headers {
            let start = base.wrapping_add(header.p_vaddr as usize);
            let end = start.wrapping_add(header.p_memsz as usize);
            let facts = [
                u64::from(header.p_type),
                u64::from(header.p_flags),
                header.p_offset,
                header.p_vaddr,
                header.p_filesz,
                header.p_memsz,
            ];
            facts.iter().for_each(|fact| hash.add(&fact.to_ne_bytes()));
            match header.p_type {
                libc::PT_LOAD => {
                    let (low, high) = program.all;
                    program.all = match program.code.is_empty() && (low, high) == (0, 0) {
                        true => (start, end),
                        false => (low.min(start), high.max(end)),
                    };
                    if header.p_flags & libc::PF_X != 0 {
                        program.code.push((start, end));
                    }
                }
                // SAFETY: the segment is mapped, readable, and never changes.
                libc::PT_NOTE => hash.add(unsafe {
                    std::slice::from_raw_parts(start as *const u8, header.p_memsz as usize)
                }),
                // SAFETY: the segment is a table of such entries, and ends with one whose tag is zero.
                libc::PT_DYNAMIC => unsafe {
                    program.read_dynamic(start as *const Dynamic, header.p_memsz as usize)
                },
                _ => {}
            }
        }
        program.fingerprint = hash.0;
        program
    }

    /// # Safety
    /// At `at` are so many bytes of a dynamic section.
    unsafe fn read_dynamic(&mut self, at: *const Dynamic, bytes: usize) {
        // SAFETY: the caller's promise.
        let entries = unsafe { std::slice::from_raw_parts(at, bytes / size_of::<Dynamic>()) };
        for [tag, value] in entries.iter().take_while(|[tag, _]| *tag != 0) {
            match *tag {
                DT_INIT_ARRAY => self.before_main.0 = self.base.wrapping_add(*value),
                DT_INIT_ARRAYSZ => self.before_main.1 = value / size_of::<usize>(),
                _ => {}
            }
        }
    }

    /// Tells executables apart: two processes with the same one have the same functions at the same offsets.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The offset of a function of the executable; none if this is not the address of one.
    pub(crate) fn offset_of(&self, address: usize) -> Option<u64> {
        let inside = |(start, end): &(usize, usize)| (*start..*end).contains(&address);
        let offset = address.wrapping_sub(self.base) as u64;
        self.code.iter().any(inside).then_some(offset)
    }

    /// The address of the code at an offset; none if there is no code.
    pub(crate) fn address_of(&self, offset: u64) -> Option<usize> {
        let address = self.base.wrapping_add(usize::try_from(offset).ok()?);
        self.offset_of(address).map(|_| address)
    }

    /// Whether an address is anywhere in the executable.
    pub(crate) fn contains(&self, address: usize) -> bool {
        (self.all.0..self.all.1).contains(&address)
    }

    /// Calls what the loader would call between the function `after` and `main`.
    ///
    /// # Safety
    /// It is `after` that calls this, called by the loader with these arguments, and neither returns to the
    /// loader nor calls this again.
    pub(crate) unsafe fn finish_before_main(
        &self,
        after: usize,
        argc: c_int,
        argv: *const *const c_char,
        envp: *const *const c_char,
    ) {
        type Function = extern "C" fn(c_int, *const *const c_char, *const *const c_char);
        let (at, count) = self.before_main;
        if at == 0 {
            return;
        }
        // SAFETY: the dynamic section says that there are so many addresses of functions.
        let functions = unsafe { std::slice::from_raw_parts(at as *const usize, count) };
        let rest = functions.iter().skip_while(|f| **f != after).skip(1);
        for function in rest.filter(|f| !matches!(**f, 0 | usize::MAX)) {
            // SAFETY: it is a function that the loader would call now, in this way.
            let function = unsafe { std::mem::transmute::<usize, Function>(*function) };
            function(argc, argv, envp);
        }
    }

    /// Makes sure that [`SELF`] is the file this program was loaded from.
    ///
    /// It is not where the program was started as the argument of another one: of the dynamic loader, or of an
    /// emulator.
    pub(crate) fn check_file(&self) -> io::Result<()> {
        static GOOD: OnceLock<()> = OnceLock::new();
        if GOOD.get().is_some() {
            return Ok(());
        }
        let file = std::fs::read_link("/proc/self/exe")?;
        let maps = std::fs::read("/proc/self/maps")?;
        if !maps
            .split(|byte| *byte == b'\n')
            .any(|line| self.is_mapped_from(&file, line))
        {
            let text = format!(
                "this program cannot be started anew: /proc/self/exe is {}, which is not where it was loaded from",
                file.display()
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let _ = GOOD.set(());
        Ok(())
    }

    /// Whether a line of `/proc/self/maps` says that a part of the program comes from this file.
    fn is_mapped_from(&self, file: &Path, line: &[u8]) -> bool {
        let text = String::from_utf8_lossy(line);
        let Some((start, _)) = text.split_once('-') else {
            return false;
        };
        let ours = usize::from_str_radix(start, 16).is_ok_and(|start| {
            // A segment begins anywhere in its first page.
            (self.all.0 & !0xffff..self.all.1).contains(&start)
        });
        let name = file.as_os_str().as_bytes();
        // It is the last field. The kernel writes a line's end in a name as \012.
        let written: Vec<u8> = match name.contains(&b'\n') {
            true => file.to_string_lossy().replace('\n', "\\012").into_bytes(),
            false => name.to_vec(),
        };
        ours && line.ends_with(&written)
    }
}

/// The file of the library that an address belongs to, if it belongs to any.
pub(crate) fn library_of(address: usize) -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr takes any address, and fills the structure in if it knows it.
    let known = unsafe { libc::dladdr(address as *const c_void, info.as_mut_ptr()) };
    // SAFETY: all zeros, or what dladdr wrote.
    let name = unsafe { info.assume_init() }.dli_fname;
    if known == 0 || name.is_null() {
        return None;
    }
    // SAFETY: the loader keeps the name as long as the library.
    let name = unsafe { CStr::from_ptr(name) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// A number for some bytes. Others rarely have the same.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut hash = Hash::new();
    hash.add(bytes);
    hash.0
}

/// FNV-1a.
struct Hash(u64);

impl Hash {
    fn new() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_again_by_its_offset() {
        let address = a_function_is_found_again_by_its_offset as *const () as usize;
        let offset = program().offset_of(address).unwrap();
        assert_eq!(program().address_of(offset), Some(address));
        assert!(program().contains(address) && program().fingerprint() != 0);
        assert!(program().check_file().is_ok());
    }

    #[test]
    fn data_and_functions_of_libraries_are_none_of_the_executables_code() {
        static DATA: [u64; 64] = [0; 64];
        assert_eq!(program().offset_of(DATA.as_ptr() as usize), None);
        let elsewhere = libc::dladdr as *const () as usize;
        assert_eq!(program().offset_of(elsewhere), None);
        let library = library_of(elsewhere).unwrap();
        assert!(library.to_string_lossy().contains("lib"), "{library:?}");
        assert_eq!(program().address_of(u64::MAX), None);
        assert_eq!(program().address_of(0), None);
    }

    #[test]
    fn what_runs_before_main_is_known() {
        let (at, count) = program().before_main;
        assert!(program().contains(at) && count > 0);
    }

    #[test]
    fn of_what_runs_before_main_the_rest_is_called_in_its_order() {
        use std::cell::RefCell;
        thread_local! {
            static CALLED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }
        extern "C" fn function<const N: usize>(
            argc: c_int,
            _: *const *const c_char,
            _: *const *const c_char,
        ) {
            CALLED.with_borrow_mut(|called| called.push(N * 10 + argc as usize));
        }
        let address = |f: extern "C" fn(c_int, *const *const c_char, *const *const c_char)| {
            f as *const () as usize
        };
        let functions = [
            address(function::<1>),
            address(function::<2>),
            0,
            address(function::<3>),
            usize::MAX,
            address(function::<4>),
        ];
        let program = Program {
            before_main: (functions.as_ptr() as usize, functions.len()),
            ..Program::unknown()
        };
        let null = std::ptr::null();
        // SAFETY: these are such functions, and may be called at any time.
        unsafe { program.finish_before_main(functions[1], 7, null, null) };
        assert_eq!(CALLED.take(), [37, 47]);
        // SAFETY: as above.
        unsafe { Program::unknown().finish_before_main(functions[1], 7, null, null) };
        assert_eq!(CALLED.take(), []);
    }
}
