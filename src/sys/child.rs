//! Starting this program anew as a child process, and what can be done with a child: wait, and send signals.

use std::ffi::{CString, OsString, c_char, c_int, c_short};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;

use libc::pid_t;

use super::program::SELF;
use super::{os, signal};

/// The number under which the child finds the one descriptor that it is given besides 0, 1 and 2.
pub(crate) const GIVEN: RawFd = 3;

/// Starts this program anew, with the arguments and the environment of this process and one variable more.
///
/// The child has the descriptors 0, 1 and 2 of this process, `given` as number [`GIVEN`], and no others. It holds
/// no signals back. What this process ignores it ignores too, but for SIGCHLD, which has its default again.
pub(crate) fn start_anew(given: BorrowedFd<'_>, variable: &str, value: &str) -> io::Result<pid_t> {
    let given = move_up(given)?;
    let words = |words: Vec<OsString>| -> io::Result<Vec<CString>> {
        // Arguments and variables have come from the kernel, without zero bytes.
        let words = words.into_iter().map(|w| CString::new(w.into_vec()));
        Ok(words.collect::<Result<_, _>>()?)
    };
    let arguments = words(std::env::args_os().collect())?;
    let mut variables: Vec<OsString> = std::env::vars_os()
        .filter(|(name, _)| name != variable)
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        })
        .collect();
    variables.push(format!("{variable}={value}").into());
    let variables = words(variables)?;
    let arguments = pointers(&arguments);
    let variables = pointers(&variables);
    let actions = Actions::new(given.as_raw_fd())?;
    let attributes = Attributes::new()?;
    let mut child = 0;
    // SAFETY: the lists end with null, and all that is pointed to lives through the call.
    check(unsafe {
        libc::posix_spawn(
            &mut child,
            SELF.as_ptr(),
            &actions.0,
            &attributes.0,
            arguments.as_ptr(),
            variables.as_ptr(),
        )
    })?;
    Ok(child)
}

/// A copy of a descriptor whose number is in nobody's way.
fn move_up(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, GIVEN + 1) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn pointers(words: &[CString]) -> Vec<*mut c_char> {
    let pointers = words.iter().map(|word| word.as_ptr().cast_mut());
    pointers.chain([ptr::null_mut()]).collect()
}

/// posix_spawn and its like return the error number.
fn check(answer: c_int) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What is done to descriptors in the child before exec.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(given: RawFd) -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises the structure.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: as above.
        let mut actions = Actions(unsafe { actions.assume_init() });
        // SAFETY: the structure is initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut actions.0, given, GIVEN) })?;
        if let Some(close_from) = close_from() {
            // SAFETY: as above.
            check(unsafe { close_from(&mut actions.0, GIVEN + 1) })?;
        }
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: it is initialised, and not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

type CloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;

/// The function that glibc has from 2.34 on. A program that names it would not start with an older one.
fn close_from() -> Option<CloseFrom> {
    let name = c"posix_spawn_file_actions_addclosefrom_np";
    // SAFETY: the name ends with a zero byte.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: glibc's function of that name has this type.
    (!function.is_null()).then(|| unsafe { std::mem::transmute::<*mut _, CloseFrom>(function) })
}

/// In the child, where [`start_anew`] could not do it: closes what has been left open by the parent. To be called
/// before any code of the program has run: only what libraries have opened when they were loaded is closed too.
pub(crate) fn close_inherited() {
    if close_from().is_none() {
        // SAFETY: nobody in this program has opened any of these yet. Where the call is missing, they stay.
        let _ = unsafe {
            os::syscall(
                libc::SYS_close_range,
                [GIVEN as usize + 1, u32::MAX as usize, 0, 0],
            )
        };
    }
}

/// What becomes of the child's signals.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises the structure.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: as above.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let none = signal::set_of(&[]);
        let child = signal::set_of(&[libc::SIGCHLD]);
        let flags = (libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF) as c_short;
        // SAFETY: the structure and the sets are initialised.
        unsafe {
            check(libc::posix_spawnattr_setflags(&mut attributes.0, flags))?;
            check(libc::posix_spawnattr_setsigmask(&mut attributes.0, &none))?;
            check(libc::posix_spawnattr_setsigdefault(
                &mut attributes.0,
                &child,
            ))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: it is initialised, and not used after this.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

/// A descriptor of a process, which becomes readable when that has ended.
pub(crate) fn open(process: pid_t) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    match unsafe { os::syscall(libc::SYS_pidfd_open, [process as usize, 0, 0, 0]) } {
        // SAFETY: the descriptor is new, and ours.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
        Err(libc::ENOSYS) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "worker processes need Linux 5.4 or later",
        )),
        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Ends a child of which nobody has a descriptor.
pub(crate) fn abandon(child: pid_t) {
    // SAFETY: the child has not been waited for, so the number is its own; no status is asked for.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        while libc::waitpid(child, ptr::null_mut(), 0) == -1 && os::last_errno() == libc::EINTR {}
    }
}

/// How a child has ended; none if it has not. This takes the child out of the kernel's table: it is no zombie
/// after that, and nobody can ask again.
///
/// # Errors
/// ECHILD, if somebody else has asked before.
pub(crate) fn try_wait(child: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    let options = libc::WEXITED | libc::WNOHANG;
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: the kernel writes one siginfo.
        let answer = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                child.as_raw_fd() as libc::id_t,
                info.as_mut_ptr(),
                options,
            )
        };
        if answer == 0 {
            // SAFETY: all zeros, or what the kernel wrote.
            let info = unsafe { info.assume_init() };
            // SAFETY: these are the fields for a child; they are zero if none has ended.
            let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
            return Ok((pid != 0).then(|| exit_status(info.si_code, status)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// In the words of wait(2), which are std's too.
fn exit_status(code: c_int, status: c_int) -> ExitStatus {
    ExitStatus::from_raw(match code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    })
}

/// Sends a signal to the process of a descriptor; nothing happens if that has ended.
pub(crate) fn send_signal(process: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let arguments = [process.as_raw_fd() as usize, signal as usize, 0, 0];
    // SAFETY: without a siginfo the call takes no memory.
    match unsafe { os::syscall(libc::SYS_pidfd_send_signal, arguments) } {
        Ok(_) | Err(libc::ESRCH) => Ok(()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Blocks the thread until the process of a descriptor has ended.
pub(crate) fn block_until_ended(process: BorrowedFd<'_>) {
    let mut poll = libc::pollfd {
        fd: process.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // Without a mask its size does not matter.
    let arguments = [(&raw mut poll) as usize, 1, 0, 0];
    // SAFETY: the kernel reads and writes one pollfd, and neither a time nor a mask.
    while unsafe { os::syscall(libc::SYS_ppoll, arguments) } == Err(libc::EINTR) {}
}

/// The parent of this process.
pub(crate) fn parent() -> pid_t {
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() }
}

/// Ends this process at once, without anything that is done at an end.
pub(crate) fn exit_at_once(code: c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Has exec close a descriptor.
pub(crate) fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes no memory.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether this is standard input, output or error.
pub(crate) fn is_standard(fd: BorrowedFd<'_>) -> bool {
    fd.as_raw_fd() <= 2
}

/// Gives this process the name that tools show of its program, which is now that of [`SELF`].
pub(crate) fn name_after_program() {
    let file = std::env::current_exe().unwrap_or_default();
    let name = file.file_name().unwrap_or_default().to_os_string();
    if let Ok(name) = CString::new(name.into_vec()) {
        // SAFETY: the kernel reads up to 16 bytes of a string.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// The size of the stack that the first thread of a process has, as long as it is a sensible one.
pub(crate) fn main_stack_size() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes to the structure it is given and nowhere else.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_STACK, &mut limit) };
    match usize::try_from(limit.rlim_cur) {
        Ok(size) if answer == 0 => size.clamp(2 << 20, 64 << 20),
        _ => 8 << 20,
    }
}
