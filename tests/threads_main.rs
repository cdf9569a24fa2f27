//! The end of a program's main thread, while threads that are isolated greenlets live on
//! it; as with threads of the system, which are tried beside them. libtest runs tests on
//! threads of its own, so this has a main of its own.

#[cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]
fn main() {
    ends::main();
}

#[cfg(not(all(feature = "monkey", target_arch = "x86_64", panic = "unwind")))]
fn main() {}

#[cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]
mod ends {
    use std::cell::RefCell;
    use std::process::{Command, Output};
    use std::thread;
    use std::time::Duration;

    use greenlet::monkey::{Patch, patch_all};

    const MS: Duration = Duration::from_millis(1);

    /// How main ends, the program's code, and what must have been said, line by line.
    type Way = (&'static str, fn(), i32, &'static [&'static str]);

    const WAYS: [Way; 3] = [
        ("returns", || println!("main"), 0, &["main"]),
        ("panics", || panic!("main panics"), 101, &[]),
        ("exits", || std::process::exit(3), 3, &[]),
    ];

    pub fn main() {
        let mut args = std::env::args().skip(1);
        match (args.next().as_deref(), args.next()) {
            (Some(kind @ ("real" | "patched")), Some(way)) => run(kind, &way),
            // Whatever libtest would be given.
            _ => check(),
        }
    }

    fn check() {
        for (way, _, code, lines) in WAYS {
            for kind in ["real", "patched"] {
                let Output {
                    status,
                    stdout,
                    stderr,
                } = Command::new(std::env::current_exe().unwrap())
                    .args([kind, way])
                    .output()
                    .unwrap();
                let said = String::from_utf8(stdout).unwrap();
                let what = format!(
                    "{kind}, main {way}: {status}\n{said}\n{}",
                    String::from_utf8_lossy(&stderr)
                );
                assert_eq!(status.code(), Some(code), "{what}");
                assert_eq!(said.lines().collect::<Vec<_>>(), lines, "{what}");
                println!("{kind}, main {way}: as it should be");
            }
        }
    }

    struct Says(&'static str);

    impl Drop for Says {
        fn drop(&mut self) {
            println!("{}", self.0);
        }
    }

    thread_local!(static LOCAL: RefCell<Option<Says>> = const { RefCell::new(None) });

    fn run(kind: &str, way: &str) {
        // SAFETY: an alarm has no preconditions. It ends one that hangs.
        unsafe { libc::alarm(50) };
        match kind {
            "real" => Patch::new().threads(false).apply().unwrap(),
            _ => patch_all().unwrap(),
        }
        let ends = WAYS.into_iter().find(|(name, ..)| *name == way).unwrap().1;
        // Both are detached, and neither ends, nor is anything of theirs destroyed.
        thread::spawn(|| {
            LOCAL.set(Some(Says("thread-local")));
            thread::sleep(Duration::MAX);
        });
        thread::spawn(|| {
            loop {
                thread::sleep(MS);
            }
        });
        thread::sleep(5 * MS);
        ends();
    }
}
