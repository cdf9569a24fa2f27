//! Asking again, at growing intervals, for what nobody tells of when it is there.

use std::time::Duration;

use crate::hub::Hub;
use crate::sys::clock;
use crate::sys::os::Errno;

/// How long it is until the second question; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Asks until the answer is something else than EAGAIN, or the deadline has come. Others
/// run between two questions, which are so far apart at most.
///
/// # Errors
/// That of the answer, EAGAIN at the deadline; and the refusal, if the greenlet is to end
/// or to leave a `timeout`.
pub(super) fn until_answered(
    hub: &Hub,
    deadline: Option<u64>,
    longest_pause: Duration,
    mut ask: impl FnMut() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut pause = FIRST_PAUSE;
    loop {
        let is_over = deadline.is_some_and(|deadline| clock::now_ns() >= deadline);
        match ask() {
            Err(libc::EAGAIN) if !is_over => {}
            answer => return answer,
        }
        let next = clock::deadline_after(pause);
        let next = deadline.map_or(next, |deadline| deadline.min(next));
        match hub.pause_quietly(next) {
            Ok(()) | Err(libc::EAGAIN) => {}
            Err(refusal) => return Err(refusal),
        }
        pause = (2 * pause).min(longest_pause);
    }
}
