//! A library with thread-locals, that is loaded and closed while others run.

use std::ffi::{CString, c_int, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::common::stress::Random;

const SOURCE: &str = "static __thread long v = 42; static __thread char more[5000];\n\
                      int add(int n) { more[n] = 1; return v += n; }";

static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Compiles it. Without a C compiler nobody uses one.
pub fn compile() {
    PATH.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("greenlet-soak-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("a.c"), folder.join("a.so"));
        std::fs::write(&from, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        let cc = cc.args(["-shared", "-fPIC", "-o"]).args([&to, &from]);
        matches!(cc.status(), Ok(status) if status.success()).then_some(to)
    });
}

pub fn remove() {
    if let Some(Some(path)) = PATH.get() {
        let _ = std::fs::remove_dir_all(path.parent().unwrap());
    }
}

/// Loads it, finds its variable as it is at first, and closes it again.
pub fn use_one(random: &mut Random) {
    let Some(Some(path)) = PATH.get() else { return };
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: strings with their ends, a function of this type, and a library that is
    // open as long as it is used.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null());
        let add = libc::dlsym(library, c"add".as_ptr());
        let add = std::mem::transmute::<*mut c_void, extern "C" fn(c_int) -> c_int>(add);
        let before = add(0);
        // Another greenlet may have kept it open since this one used it.
        assert!(before >= 42, "{before}");
        let _open = Close(library);
        random.pause();
        assert_eq!(add(1), before + 1, "another's thread-locals");
    }
}

/// Closes the library also when the greenlet is killed meanwhile.
struct Close(*mut c_void);

impl Drop for Close {
    fn drop(&mut self) {
        // SAFETY: it is open, and not used any more.
        unsafe { libc::dlclose(self.0) };
    }
}
