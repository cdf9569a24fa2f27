//! Descriptors that travel with a value which is serialised.
//!
//! Serialisation makes bytes, and a descriptor is none: only the kernel can give one to another process. So while
//! an argument, a result or an item is made into bytes, a *bag* is open. A socket puts a copy of its descriptor
//! into the bag, and writes where it lies there. The bag travels beside the bytes:
//!
//! ```text
//!    (7, TcpStream) ── serialize ──▶ bytes: 07 00      bag: [fd 12] ──┐
//!                                        │                            │ SCM_RIGHTS
//!    (7, TcpStream) ◀─ deserialize ─ bytes: 07 00      bag: [fd 5] ◀──┘
//!                                          place 0 ─────────▲
//! ```
//!
//! A bag belongs to the greenlet that has opened it: a `Serialize` of the user's may block, and meanwhile another
//! greenlet may pack a bag of its own. What is left in a bag when it is closed is closed.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::hub::Hub;

thread_local! {
    /// The open bags of this thread, the newest last.
    static BAGS: RefCell<Vec<Bag>> = const { RefCell::new(Vec::new()) };
}

struct Bag {
    /// Tells it from all other bags of the thread.
    number: u64,
    greenlet: u64,
    contents: Contents,
}

enum Contents {
    /// What has been put in, and the first error.
    Packing(Vec<OwnedFd>, Option<io::Error>),
    /// What nobody has taken out yet.
    Unpacking(Vec<Option<OwnedFd>>),
}

/// Closes its bag when it is dropped.
struct Open(u64);

impl Open {
    fn new(contents: Contents) -> Open {
        let hub = Hub::get();
        let number = hub.next_id();
        let bag = Bag {
            number,
            greenlet: me(),
            contents,
        };
        // A thread that has destroyed its thread-locals has no bags.
        let _ = BAGS.try_with(|bags| bags.borrow_mut().push(bag));
        Open(number)
    }

    fn close(&self) -> Option<Contents> {
        let closed = BAGS.try_with(|bags| {
            let mut bags = bags.borrow_mut();
            let at = bags.iter().rposition(|bag| bag.number == self.0)?;
            Some(bags.remove(at).contents)
        });
        closed.ok().flatten()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

fn me() -> u64 {
    Hub::get().current().key.get().to_u64()
}

/// Runs `f` with the newest bag of the current greenlet.
fn with_bag<R>(f: impl FnOnce(&mut Contents) -> Option<R>) -> Result<R, Stray> {
    let me = me();
    let found = BAGS.try_with(|bags| {
        let mut bags = bags.borrow_mut();
        let bag = bags.iter_mut().rev().find(|bag| bag.greenlet == me)?;
        f(&mut bag.contents)
    });
    found.ok().flatten().ok_or(Stray)
}

/// There is no bag where one is needed, or nothing at that place of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stray;

/// Runs `f` with an open bag, and returns what was put into it, and the error that kept something out.
pub(super) fn pack<R>(f: impl FnOnce() -> R) -> (R, Vec<OwnedFd>, Option<io::Error>) {
    let open = Open::new(Contents::Packing(Vec::new(), None));
    let result = f();
    match open.close() {
        Some(Contents::Packing(packed, error)) => (result, packed, error),
        _ => (result, Vec::new(), None),
    }
}

/// Runs `f` with a bag that holds these descriptors.
pub(super) fn unpack<R>(luggage: Vec<OwnedFd>, f: impl FnOnce() -> R) -> R {
    let luggage = luggage.into_iter().map(Some).collect();
    let _open = Open::new(Contents::Unpacking(luggage));
    f()
}

/// Puts a copy of a descriptor into the bag that is being packed, and returns its place there.
///
/// # Errors
/// A text for the serialiser's error: nothing is being sent to another process, or there is no descriptor left.
pub(crate) fn put(fd: BorrowedFd<'_>) -> Result<u32, String> {
    let copy = fd.try_clone_to_owned();
    let put = with_bag(|contents| match contents {
        Contents::Packing(packed, error) => Some(match copy {
            Ok(copy) => {
                packed.push(copy);
                Ok(packed.len() as u32 - 1)
            }
            Err(new) => {
                let text = format!("no copy of a descriptor could be made: {new}");
                error.get_or_insert(new);
                Err(text)
            }
        }),
        Contents::Unpacking(_) => None,
    });
    put.unwrap_or_else(|Stray| {
        Err(String::from(
            "a descriptor can be serialised only as part of what is sent to another process of this program",
        ))
    })
}

/// Takes the descriptor at a place out of the bag that has arrived.
///
/// # Errors
/// A text for the deserialiser's error: nothing has arrived from another process, or not this.
pub(crate) fn take(place: u32) -> Result<OwnedFd, &'static str> {
    let taken = with_bag(|contents| match contents {
        Contents::Unpacking(left) => {
            let found = left.get_mut(place as usize).and_then(Option::take);
            Some(found.ok_or("no descriptor has arrived at this place, or it was taken out before"))
        }
        Contents::Packing(..) => None,
    });
    taken.unwrap_or(Err(
        "a descriptor can be deserialised only from what another process of this program has sent",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn a_file() -> std::fs::File {
        std::fs::File::open("/dev/null").unwrap()
    }

    #[test]
    fn what_is_put_in_comes_out_once() {
        let file = a_file();
        let (places, packed, error) = pack(|| [put(file.as_fd()), put(file.as_fd())]);
        assert_eq!(places, [Ok(0), Ok(1)]);
        assert!(packed.len() == 2 && error.is_none());
        unpack(packed, || {
            assert!(take(1).is_ok() && take(1).is_err() && take(0).is_ok());
            assert!(take(2).is_err());
        });
    }

    #[test]
    fn without_a_bag_nothing_can_be_put_or_taken() {
        assert!(put(a_file().as_fd()).is_err() && take(0).is_err());
        let (inner, ..) = pack(|| take(0));
        assert!(inner.is_err());
        unpack(Vec::new(), || assert!(put(a_file().as_fd()).is_err()));
    }

    #[test]
    fn greenlets_that_take_turns_do_not_mix_their_bags_up() {
        let pack_two = || {
            pack(|| {
                let first = put(a_file().as_fd());
                crate::yield_now();
                (first, put(a_file().as_fd()))
            })
        };
        let other = crate::spawn(pack_two);
        let (places, packed, _) = pack_two();
        assert_eq!(places, (Ok(0), Ok(1)));
        assert_eq!(packed.len(), 2);
        assert_eq!(other.join().unwrap().0, (Ok(0), Ok(1)));
        assert!(put(a_file().as_fd()).is_err());
    }

    #[test]
    fn a_bag_inside_of_a_bag_is_another_one() {
        let (inner, packed, _) = pack(|| {
            put(a_file().as_fd()).unwrap();
            pack(|| put(a_file().as_fd()))
        });
        assert_eq!(packed.len(), 1);
        assert!(inner.0 == Ok(0) && inner.1.len() == 1);
    }
}
