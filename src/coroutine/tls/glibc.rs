//! What must be known of glibc to make a block, found and verified at run time.
//!
//! Functions and offsets are found by their symbols; those of `_thread_db_…` are what
//! glibc tells debuggers of its `struct pthread`. What has no symbol is found by
//! looking at a thread that has just been started, which does nothing but use malloc:
//!
//! ```text
//!   libc.so's thread-locals, of the new thread      beside their image in libc.so
//!     errno, list of destructors, …   as in the image: a new block has them so too
//!     malloc's cache and arena        differ: *shared*, so copied from the OS thread
//!     resolver's state                differs: shared
//!
//!   its `struct pthread`
//!     00 10 and others                point into itself: *own*, so relocated
//!     18 to 30, 48                    copied: the guards are those of the process
//!     all others                      zero, as `_dl_allocate_tls` leaves them
//! ```
//!
//! malloc's cache is shared with the OS thread because glibc frees it only for
//! threads of its own. That is sound, for one of them runs at a time, and none is
//! left in the middle of malloc.

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::sync::OnceLock;

use super::base::{Base, find_instruction};
use super::memory::{Memory, Shape};
use super::symbols::symbol;
use super::{current, keys};
use crate::error::IsolationError;
use crate::sys::pass::PassThrough;
use crate::sys::{os, thread_end};

/// The words of a thread's header that are the same for all threads, or say that
/// there are several: `multiple_threads`, `sysinfo`, the two guards, `feature_1`.
const COMMON: [usize; 5] = [0x18, 0x20, 0x28, 0x30, 0x48];
/// Where the header has the block's list of dynamic thread-locals.
const DTV: usize = 0x08;
const STACK_GUARD: usize = 0x28;
const POINTER_GUARD: usize = 0x30;
/// More words than these are not plausible, and something has been misunderstood.
const MOST_WORDS: usize = 16;
const WORD: usize = size_of::<usize>();

/// All that has been found.
pub(super) struct Glibc {
    allocate: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    deallocate: unsafe extern "C" fn(*mut c_void, bool),
    shape: Shape,
    pub(super) ctype_init: unsafe extern "C" fn(),
    pub(super) call_tls_dtors: unsafe extern "C" fn(),
    /// The keys of the process: see `keys`.
    pub(super) keys: *const keys::Key,
    /// Where a `struct pthread` has its values of keys.
    pub(super) specific: usize,
    /// Where it has its thread id.
    pub(super) tid: usize,
    /// Where the processor's number is that the kernel keeps for threads.
    cpu: Option<isize>,
    /// Words that a block has from the OS thread it is made on, from the thread
    /// pointer.
    shared: Vec<isize>,
    /// Words of a `struct pthread` that point into itself, and whither.
    own: Vec<(usize, usize)>,
    /// Header words, and their values.
    common: [(usize, usize); COMMON.len()],
}

// SAFETY: what it points to are functions and a table of glibc's, which are there
// for all threads; the table is read as glibc reads it.
unsafe impl Send for Glibc {}
// SAFETY: as above.
unsafe impl Sync for Glibc {}

static FOUND: OnceLock<Result<Glibc, IsolationError>> = OnceLock::new();

impl Glibc {
    /// What has been found, or what is missing.
    pub(super) fn get() -> Result<&'static Glibc, IsolationError> {
        let found = FOUND.get_or_init(|| {
            // The thread is looked at by nobody else, and not parked, meanwhile.
            let _pass = PassThrough::enter();
            find()
        });
        found.as_ref().map_err(Clone::clone)
    }

    /// What has been found, if anybody has looked.
    pub(super) fn known() -> Option<&'static Glibc> {
        FOUND.get()?.as_ref().ok()
    }

    /// Makes a block, as of a thread that has just started; none if there is no memory.
    pub(super) fn make(&self, tid: u32) -> Option<(Memory, Base)> {
        let (mut memory, base) = Memory::new(self.shape)?;
        // SAFETY: called as glibc's `pthread_create` does for a thread of its own, whose
        // block is on its stack.
        if unsafe { (self.allocate)(base.as_ptr().cast()) }.is_null() {
            // SAFETY: nobody has used it.
            unsafe { memory.free() };
            return None;
        }
        // SAFETY: the block is fresh, and nobody runs on it.
        unsafe { self.initialise(base, tid) };
        Some((memory, base))
    }

    /// Frees what `make` has made.
    ///
    /// # Safety
    /// Nobody uses the block, or refers to it.
    pub(super) unsafe fn free(&self, memory: &mut Memory, base: Base) {
        // SAFETY: the caller's promise; glibc frees what it has added to it.
        unsafe {
            (self.deallocate)(base.as_ptr().cast(), false);
            memory.free();
        }
    }

    /// # Safety
    /// Nobody uses the block.
    unsafe fn initialise(&self, base: Base, tid: u32) {
        let to = base.as_ptr();
        // SAFETY: all offsets were seen to lie within the blocks of threads, of which
        // this has the shape, and whole words are aligned.
        unsafe {
            for &(at, value) in &self.common {
                to.add(at).cast::<usize>().write(value);
            }
            for &(at, target) in &self.own {
                to.add(at).cast::<usize>().write(base.address() + target);
            }
            to.add(self.tid).cast::<u32>().write(tid);
            if let Some(cpu) = self.cpu {
                // `RSEQ_CPU_ID_UNINITIALIZED`: the kernel does not keep it here.
                to.offset(cpu).cast::<i32>().write(-1);
            }
            self.share(base);
        }
    }

    /// Gives a block what it has in common with the calling thread.
    ///
    /// # Safety
    /// Nobody uses the block.
    pub(super) unsafe fn share(&self, base: Base) {
        let from = current().as_ptr();
        // SAFETY: as in `initialise`.
        let shared = |at: isize| unsafe { from.offset(at).cast::<usize>().read() };
        if self.shared.iter().any(|&at| shared(at) == 0) {
            // This thread has never allocated.
            exercise();
        }
        for &at in &self.shared {
            // SAFETY: as in `initialise`.
            unsafe {
                let to = base.as_ptr().offset(at).cast::<usize>();
                to.write(shared(at));
            }
        }
    }
}

fn find() -> Result<Glibc, IsolationError> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(IsolationError::Architecture);
    }
    find_instruction();
    // SAFETY: these are glibc's functions of these names, whose types have been these
    // since before 2.31.
    let (allocate, deallocate, ctype_init, call_tls_dtors) = unsafe {
        (
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void) -> *mut c_void>(
                symbol(c"_dl_allocate_tls")?,
            ),
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, bool)>(symbol(
                c"_dl_deallocate_tls",
            )?),
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(symbol(c"__ctype_init")?),
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(symbol(
                c"__call_tls_dtors",
            )?),
        )
    };
    let keys: *const keys::Key = symbol(c"__pthread_keys")?.cast_const().cast();
    let size = number(c"_thread_db_sizeof_pthread")?;
    let tid = field(c"_thread_db_pthread_tid", 4)?;
    let specific = field(c"_thread_db_pthread_specific", WORD * keys::PLACES)?;
    verify_keys()?;
    // SAFETY: they have that shape, and memory of glibc's is there.
    if !unsafe { keys::are_at(keys) } {
        return Err(unverified("__pthread_keys"));
    }
    let cpu = cpu_number();

    let segment = libc_segment()?;
    let thread = look_at_a_thread(&segment, size)?;
    // SAFETY: these are the two functions.
    let noted = unsafe { noted(allocate, deallocate, size) }?;
    let found = Glibc {
        allocate,
        deallocate,
        shape: Shape::new(size, thread.pointer.wrapping_sub(thread.first_frame), noted)?,
        ctype_init,
        call_tls_dtors,
        keys,
        specific,
        tid,
        cpu,
        shared: thread.shared(&segment, cpu)?,
        own: thread.own()?,
        common: COMMON.map(|at| (at, thread.word(at))),
    };
    thread.verify(&found)?;
    try_out(&found)?;
    Ok(found)
}

fn unverified(what: &'static str) -> IsolationError {
    IsolationError::Unverified { what }
}

/// A number that glibc tells debuggers.
fn number(name: &'static CStr) -> Result<usize, IsolationError> {
    // SAFETY: symbols of these names are such numbers.
    Ok(unsafe { symbol(name)?.cast::<u32>().read() } as usize)
}

/// What glibc tells debuggers of a field: the bits of an element, the number of
/// elements, and its offset, which is returned. So many bytes it must have in all.
fn field(name: &'static CStr, bytes: usize) -> Result<usize, IsolationError> {
    // SAFETY: symbols of these names are three such numbers.
    let [bits, count, offset] = unsafe { symbol(name)?.cast::<[u32; 3]>().read() };
    match bits as usize * count as usize == bytes * 8 {
        true => Ok(offset as usize),
        false => Err(unverified(name.to_str().unwrap_or_default())),
    }
}

/// Keys and their values have the shapes that `keys` gives them.
fn verify_keys() -> Result<(), IsolationError> {
    let places = keys::PLACES;
    let pair = size_of::<keys::Key>();
    let shapes = [
        field(c"_thread_db___pthread_keys", pair * places * places)? == 0,
        field(c"_thread_db_pthread_key_struct_seq", WORD)? == 0,
        field(c"_thread_db_pthread_key_struct_destr", WORD)? == WORD,
        field(c"_thread_db_pthread_key_data_level2_data", pair * places)? == 0,
        field(c"_thread_db_pthread_key_data_seq", WORD)? == 0,
        field(c"_thread_db_pthread_key_data_data", WORD)? == WORD,
        size_of::<keys::Value>() == pair,
    ];
    match shapes.iter().all(|right| *right) {
        true => Ok(()),
        false => Err(unverified("the shape of pthread keys")),
    }
}

/// Where glibc has registered the area in which the kernel keeps the processor's
/// number; before 2.35 it does not.
fn cpu_number() -> Option<isize> {
    /// The second word of `struct rseq`.
    const CPU_ID: isize = 4;
    let offset = symbol(c"__rseq_offset").ok()?;
    // SAFETY: the symbol is a number of that type.
    Some(unsafe { offset.cast::<isize>().read() } + CPU_ID)
}

/// libc.so's own thread-locals.
struct Segment {
    /// What they are at first; behind it they are zero.
    image: &'static [u8],
    /// Where they are, from the thread pointer.
    offset: isize,
    words: usize,
}

impl Segment {
    fn initial(&self, word: usize) -> usize {
        let mut bytes = [0; WORD];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = self.image.get(word * WORD + at).copied().unwrap_or(0);
        }
        usize::from_ne_bytes(bytes)
    }
}

/// How far an address is from the thread pointer.
fn offset_of(address: usize) -> isize {
    address.wrapping_sub(current().address()) as isize
}

/// The segment in which errno is.
fn libc_segment() -> Result<Segment, IsolationError> {
    extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes valid records, and our variable back.
        unsafe {
            let info = &*info;
            let errno = libc::__errno_location() as usize;
            for index in 0..usize::from(info.dlpi_phnum) {
                let header = &*info.dlpi_phdr.add(index);
                let start = info.dlpi_tls_data as usize;
                let range = start..start + header.p_memsz as usize;
                if header.p_type != libc::PT_TLS || start == 0 || !range.contains(&errno) {
                    continue;
                }
                let image = (info.dlpi_addr + header.p_vaddr) as *const u8;
                *found.cast::<Option<Segment>>() = Some(Segment {
                    image: std::slice::from_raw_parts(image, header.p_filesz as usize),
                    offset: offset_of(start),
                    words: header.p_memsz as usize / WORD,
                });
                return 1;
            }
        }
        0
    }
    let mut found: Option<Segment> = None;
    // SAFETY: the callback has the type that is asked for, and the variable outlives
    // the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut found).cast()) };
    match found {
        Some(segment) if segment.offset % WORD as isize == 0 => Ok(segment),
        _ => Err(unverified("libc.so's thread-locals")),
    }
}

/// What was seen in a thread that has just been started.
struct Thread {
    pointer: usize,
    /// Where the stack is that the function has been called on.
    first_frame: usize,
    id: u32,
    segment_offset: isize,
    segment: Vec<usize>,
    /// Its `struct pthread`, before and after.
    before: Vec<usize>,
    after: Vec<usize>,
}

#[cfg(test)]
pub(super) fn missing() -> IsolationError {
    match symbol(c"_dl_no_such_symbol") {
        Err(error) => error,
        Ok(_) => unverified("a symbol that does not exist"),
    }
}

/// Uses what gives a thread something of its own at the first use.
fn exercise() {
    // SAFETY: what is allocated is freed, and not used; the buffer is as long as it
    // is said to be.
    unsafe {
        libc::free(std::hint::black_box(libc::malloc(24)));
        let mut byte = 0u8;
        libc::getrandom((&raw mut byte).cast(), 1, libc::GRND_NONBLOCK);
    }
}

/// Starts a thread, past std, and looks at its block.
fn look_at_a_thread(segment: &Segment, size: usize) -> Result<Thread, IsolationError> {
    extern "C" fn look(thread: *mut c_void) -> *mut c_void {
        // SAFETY: the caller waits, and looks at it only when this thread has ended.
        let thread = unsafe { &mut *thread.cast::<Thread>() };
        let pointer = current().as_ptr();
        thread.pointer = pointer as usize;
        thread.first_frame = &raw const pointer as usize;
        // SAFETY: gettid has no preconditions.
        thread.id = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
        copy(pointer, &mut thread.before);
        exercise();
        copy(
            pointer.wrapping_offset(thread.segment_offset),
            &mut thread.segment,
        );
        copy(pointer, &mut thread.after);
        std::ptr::null_mut()
    }
    fn copy(from: *const u8, to: &mut [usize]) {
        for (at, word) in to.iter_mut().enumerate() {
            // SAFETY: the words lie within the calling thread's block.
            *word = unsafe { from.cast::<usize>().add(at).read_volatile() };
        }
    }
    if !(0x100..0x4000).contains(&size) {
        return Err(unverified("_thread_db_sizeof_pthread"));
    }
    let mut thread = Thread {
        pointer: 0,
        first_frame: 0,
        id: 0,
        segment_offset: segment.offset,
        segment: vec![0; segment.words],
        before: vec![0; size / WORD],
        after: vec![0; size / WORD],
    };
    let mut handle = 0;
    // SAFETY: the function takes this argument, which outlives the thread.
    unsafe {
        let argument = (&raw mut thread).cast();
        if libc::pthread_create(&mut handle, std::ptr::null(), look, argument) != 0 {
            return Err(IsolationError::OutOfMemory);
        }
        libc::pthread_join(handle, std::ptr::null_mut());
    }
    Ok(thread)
}

/// How far below a block its memory begins, if that is what glibc notes behind it.
///
/// # Safety
/// These are glibc's functions; a block's `struct pthread` has so many bytes.
unsafe fn noted(
    allocate: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    deallocate: unsafe extern "C" fn(*mut c_void, bool),
    size: usize,
) -> Result<usize, IsolationError> {
    // SAFETY: the caller's promise. A block is aligned within memory that is as much larger
    // as its alignment, at least 64, and malloc's is aligned to 16: a word is left behind it.
    unsafe {
        let block = allocate(std::ptr::null_mut()).cast::<u8>();
        if block.is_null() {
            return Err(IsolationError::OutOfMemory);
        }
        let start = block.add(size).cast::<usize>().read_unaligned();
        deallocate(block.cast(), true);
        Ok((block as usize).wrapping_sub(start))
    }
}

impl Thread {
    fn word(&self, at: usize) -> usize {
        self.after.get(at / WORD).copied().unwrap_or(0)
    }

    /// What a thread sets in its thread-locals when it starts and allocates.
    fn shared(&self, segment: &Segment, cpu: Option<isize>) -> Result<Vec<isize>, IsolationError> {
        // SAFETY: errno's address is always valid.
        let errno = offset_of(unsafe { libc::__errno_location() } as usize) & !(WORD as isize - 1);
        let locals = (0..segment.words)
            .filter(|&word| self.segment.get(word) != Some(&segment.initial(word)))
            .map(|word| segment.offset + (word * WORD) as isize);
        // The kernel writes into its area whenever it likes.
        let kernels: Range<isize> = cpu.map_or(0..0, |cpu| cpu - 4..cpu + 28);
        let others = (0..self.after.len())
            .filter(|&word| self.before.get(word) != self.after.get(word))
            .map(|word| (word * WORD) as isize)
            .filter(|at| !kernels.contains(at));
        let shared: Vec<isize> = locals.chain(others).filter(|at| *at != errno).collect();
        let list = offset_of(thread_end::newest_callback() as usize);
        if shared.contains(&list) {
            return Err(unverified("the list of thread-local destructors"));
        }
        match shared.len() <= MOST_WORDS {
            true => Ok(shared),
            false => Err(unverified("what libc.so sets in a new thread")),
        }
    }

    /// The words of its `struct pthread` that point into it.
    fn own(&self) -> Result<Vec<(usize, usize)>, IsolationError> {
        let size = self.after.len() * WORD;
        let own: Vec<(usize, usize)> = (0..size)
            .step_by(WORD)
            .filter(|&at| at != DTV && !COMMON.contains(&at))
            .filter_map(|at| Some((at, self.word(at).checked_sub(self.pointer)?)))
            .filter(|&(_, target)| target < size)
            .collect();
        match own.len() <= MOST_WORDS {
            true => Ok(own),
            false => Err(unverified("what points into a struct pthread")),
        }
    }

    /// Whether what the symbols say is what is there.
    fn verify(&self, found: &Glibc) -> Result<(), IsolationError> {
        let mine = |at: usize| {
            let word = current().as_ptr().wrapping_add(at).cast::<usize>();
            // SAFETY: a word of the calling thread's header.
            unsafe { word.read_volatile() }
        };
        let tid = self.word(found.tid & !(WORD - 1)) >> (found.tid % WORD * 8);
        let known = |at: usize| found.own.iter().any(|&(own, _)| own == at);
        let checks = [
            (tid as u32 == self.id, "_thread_db_pthread_tid"),
            (known(0x00) && known(0x10), "a thread's pointer to itself"),
            (known(found.specific), "_thread_db_pthread_specific"),
            (
                self.word(DTV) != 0,
                "a thread's list of dynamic thread-locals",
            ),
            (
                self.word(STACK_GUARD) == mine(STACK_GUARD),
                "the stack guard",
            ),
            (
                self.word(POINTER_GUARD) == mine(POINTER_GUARD),
                "the pointer guard",
            ),
        ];
        match checks.iter().find(|(right, _)| !right) {
            None => Ok(()),
            Some((_, what)) => Err(unverified(what)),
        }
    }
}

/// Makes a block and has functions of libc run on it.
fn try_out(found: &Glibc) -> Result<(), IsolationError> {
    /// What was seen there.
    #[derive(Default)]
    struct Seen {
        base: usize,
        myself: usize,
        errno: usize,
        errno_at_first: c_int,
        upper: c_int,
        allocated: bool,
    }
    extern "C" fn look(seen: *mut c_void) {
        // SAFETY: the caller's variable; what is allocated is freed.
        unsafe {
            let seen = &mut *seen.cast::<Seen>();
            seen.base = current().address();
            seen.myself = libc::pthread_self() as usize;
            seen.errno = libc::__errno_location() as usize;
            seen.errno_at_first = os::errno();
            os::set_errno(libc::EBADF);
            let memory = libc::malloc(24);
            seen.allocated = !memory.is_null();
            libc::free(memory);
        }
    }
    extern "C" fn with_locale(seen: *mut c_void) {
        // SAFETY: as above. Its tables are a thread-local of libc's.
        unsafe { (*seen.cast::<Seen>()).upper = libc::toupper(c_int::from(b'g')) }
    }

    let (mut memory, base) = found
        .make(u32::MAX >> 2)
        .ok_or(IsolationError::OutOfMemory)?;
    // SAFETY: see `TlsBlock::new`, which does the same. Nothing has run on the block
    // when it is freed but these functions, which leave nothing behind.
    unsafe {
        let mut seen = Seen::default();
        let before = os::errno();
        super::on_base(base, look, (&raw mut seen).cast());
        extern "C" fn start(ctype_init: *mut c_void) {
            // SAFETY: the caller passes this function.
            unsafe {
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(ctype_init)();
            }
        }
        super::on_base(base, start, found.ctype_init as *mut c_void);
        super::on_base(base, with_locale, (&raw mut seen).cast());
        found.free(&mut memory, base);

        let checks = [
            (seen.base == base.address(), "the thread pointer"),
            (seen.myself == base.address(), "pthread_self"),
            (seen.errno != libc::__errno_location() as usize, "errno"),
            (seen.errno_at_first == 0 && os::errno() == before, "errno"),
            (seen.allocated, "malloc"),
            (seen.upper == c_int::from(b'G'), "__ctype_init"),
        ];
        match checks.iter().find(|(right, _)| !right) {
            None => Ok(()),
            Some((_, what)) => Err(unverified(what)),
        }
    }
}
