//! What C programs see of threads, in programs that are run twice, with real threads and
//! after `patch_all`: the same is to be seen. See `common/twice.rs` for how, and
//! `c/threads/` for what. Without a C compiler there is nothing to be tested.

#[path = "common/twice.rs"]
mod twice;

use std::env;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::process::Command;

use twice::{Found, Known};

/// The files, each of which has a list of sections by its own name.
const FILES: [&str; 7] = [
    "life",
    "ends",
    "own",
    "mutexes",
    "others",
    "around",
    "processes",
];

/// The flags that they are compiled with, each of which gives another program: as they
/// are; calling functions that check; and with tables for unwinding, by which
/// `pthread_exit` runs cleanup handlers then, and without them otherwise.
const COMPILATIONS: [(&str, &[&str]); 3] = [
    ("plain", &["-O0"]),
    ("fortified", &["-O2", "-D_FORTIFY_SOURCE=2"]),
    ("unwound", &["-O1", "-fexceptions"]),
];

/// What differs.
const KNOWN: Known<'_> = &[
    (
        "asked of the scheduler",
        "libc asks the kernel for the number of a thread that it does not know",
    ),
    (
        "a stack of the program's own",
        "a greenlet's stack is always one of ours",
    ),
    (
        "rwlocks: writers first",
        "libc does not count the greenlets that wait to write",
    ),
];

/// Set to the file name of the library that is to be loaded.
const LIBRARY: &str = "GREENLET_LIBRARY";

fn main() {
    if env::var_os(LIBRARY).is_some() {
        assert!(twice::run(&[], sections, &[], &[]));
        return;
    }
    let mut same = true;
    for (name, flags) in COMPILATIONS {
        let file = format!("greenlet-{}-{name}.so", std::process::id());
        let path = env::temp_dir().join(file);
        if !compile(&path, flags) {
            println!("no C compiler here: C code is not tested");
            return;
        }
        let variables = [(LIBRARY, path.to_str().unwrap())];
        same &= twice::run(&variables, Vec::new, &[], KNOWN);
        if name == "plain" {
            same &= twice::still_differ(&variables, KNOWN);
        }
        std::fs::remove_file(path).unwrap();
    }
    assert!(same);
}

/// Compiles all files to one library. False if there is no C compiler.
fn compile(path: &Path, flags: &[&str]) -> bool {
    let sources = FILES.map(|name| {
        let root = env!("CARGO_MANIFEST_DIR");
        format!("{root}/tests/c/threads/{name}.c")
    });
    let compiled = Command::new(env::var("CC").unwrap_or("cc".into()))
        .args(["-shared", "-fPIC", "-pthread", "-Wall", "-Wextra"])
        .args(["-U_FORTIFY_SOURCE", "-o"])
        .arg(path)
        .args(flags)
        .args(sources)
        .output();
    let Ok(compiled) = compiled else { return false };
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}");
    true
}

/// A section, as C has it. The last one of a list has no name.
#[repr(C)]
struct Section {
    name: *const c_char,
    run: Option<unsafe extern "C" fn()>,
}

/// The sections of the library, which stays loaded.
fn sections() -> Vec<Found> {
    let path = CString::new(env::var(LIBRARY).unwrap()).unwrap();
    // SAFETY: the library has no initialisers.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    // SAFETY: if it has failed, there is an error to be told.
    assert!(!library.is_null(), "{:?}", unsafe {
        CStr::from_ptr(libc::dlerror())
    });
    let symbol = |name: &str| {
        let name = CString::new(name).unwrap();
        // SAFETY: the library is loaded, and the name a string.
        let found = unsafe { libc::dlsym(library, name.as_ptr()) };
        assert!(!found.is_null());
        found
    };
    // SAFETY: it is a variable of this type, and nobody else uses it yet.
    unsafe { *symbol("count_threads").cast::<extern "C" fn()>() = count_threads };
    let mut all = Vec::new();
    for name in FILES {
        // SAFETY: it is a list of sections with its end.
        unsafe { all.extend(list(symbol(name))) };
    }
    all
}

/// # Safety
/// It is a list of sections, with its end, which stays.
unsafe fn list(first: *mut c_void) -> Vec<Found> {
    let mut all = Vec::new();
    let mut next = first.cast::<Section>();
    // SAFETY: the caller's promise.
    unsafe {
        while let Some(run) = (*next).run {
            let name = CStr::from_ptr((*next).name).to_str().unwrap();
            all.push(Found {
                name: name.to_owned(),
                body: Box::new(move || run()),
            });
            next = next.add(1);
        }
    }
    all
}

extern "C" fn count_threads() {
    twice::count_threads();
}
