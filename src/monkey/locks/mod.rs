//! The locks of C: `pthread_mutex_lock` and its kin, condition variables, rwlocks,
//! barriers, `pthread_once`, spin locks and semaphores.
//!
//! ```text
//!   pthread_mutex_lock(m)                        pthread_mutex_unlock(m)
//!     │ libc's trylock                             │ libc's unlock: wakes who waits
//!     ├── done, or an error ──▶ that               │ in the kernel
//!     ▼ EBUSY                                      ▼
//!     ├── a plain thread ──▶ libc's lock           hub::address::wake(m): wakes who
//!     ▼ a greenlet                                 waits in the table, if anybody
//!     hub::address::wait(m): parks for as long
//!     as trylock, under the table's lock, says EBUSY
//! ```
//!
//! The objects stay glibc's, and so do all states of them: whoever initialises,
//! destroys or tries one calls libc, and who has been waiting since before the locks were
//! patched goes on when libc says so. What glibc has in them beside, that an object is
//! shared with other processes, or who owns it, is looked up in [`shape`], where all of
//! that is tried out first.
//!
//! | file | what |
//! |---|---|
//! | [`glibc`] | glibc's own functions |
//! | [`shape`] | what is where in glibc's objects |
//! | [`park`] | try, else park; try, else sleep; block |
//! | [`mutex`], [`rwlock`], [`semaphore`] | taken and given back |
//! | [`cond`] | everybody waits in the table, plain threads too |
//! | [`barrier`], [`once`] | glibc's algorithms, with the table where it asks the kernel |
//! | [`c11`] | other names for mutexes and conditions |
//! | [`spin`] | lets others run while it goes round |
//!
//! # What processes share
//! A wake-up from another process does not come to our table. A greenlet that waits for
//! what is shared (`PTHREAD_PROCESS_SHARED`, `sem_open`) looks again every 1 to 10 ms.
//!
//! # From everywhere
//! These functions are called before `main`, under the loader's locks, in signal handlers
//! (`sem_post`) and inside of allocators. Up to the decision to park, nothing here takes a
//! lock, allocates, or changes errno but as libc does; and no wait is interrupted by a
//! kill or a timeout, for there is no way to go on without the lock.

pub(super) mod barrier;
pub(super) mod c11;
pub(super) mod cond;
mod glibc;
pub(super) mod mutex;
pub(super) mod once;
pub(super) mod park;
pub(super) mod rwlock;
pub(super) mod semaphore;
mod shape;
pub(super) mod spin;

/// To be called before the part is patched.
pub(super) fn prepare() {
    glibc::look_up();
    shape::prepare();
}
