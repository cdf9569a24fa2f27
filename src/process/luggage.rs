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
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{de, ser};

use crate::hub::Hub;
use crate::sys::pass::PassThrough;

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
    /// What has been put in.
    Packing(Vec<OwnedFd>),
    /// What nobody has taken out yet, and what was said when something could not be.
    Unpacking(Vec<Option<OwnedFd>>, Option<String>),
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
        // Others may run where memory is asked for, and have bags too.
        let _pass = PassThrough::enter();
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
    let _pass = PassThrough::enter();
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

/// Runs `f` with an open bag, and returns what was put into it.
pub(super) fn pack<R>(f: impl FnOnce() -> R) -> (R, Vec<OwnedFd>) {
    let open = Open::new(Contents::Packing(Vec::new()));
    let result = f();
    match open.close() {
        Some(Contents::Packing(packed)) => (result, packed),
        _ => (result, Vec::new()),
    }
}

/// Runs `f` with a bag that holds these descriptors, and returns what was complained of.
pub(super) fn unpack<R>(luggage: Vec<OwnedFd>, f: impl FnOnce() -> R) -> (R, Option<String>) {
    let luggage = luggage.into_iter().map(Some).collect();
    let open = Open::new(Contents::Unpacking(luggage, None));
    let result = f();
    match open.close() {
        Some(Contents::Unpacking(_, complaint)) => (result, complaint),
        _ => (result, None),
    }
}

/// What is written of a descriptor: what it is, and where it lies in the bag.
pub(crate) type Ticket = (u8, u32);

/// What descriptors are: one that was sent as one thing is not to be received as another.
pub(crate) mod kind {
    pub(crate) const TCP_STREAM: u8 = 1;
    pub(crate) const TCP_LISTENER: u8 = 2;
    pub(crate) const UDP_SOCKET: u8 = 3;
    pub(crate) const UNIX_STREAM: u8 = 4;
    pub(crate) const UNIX_LISTENER: u8 = 5;
    pub(crate) const UNIX_DATAGRAM: u8 = 6;
    pub(crate) const FLAG: u8 = 7;
    pub(crate) const MEMORY: u8 = 8;
}

/// Puts a copy of a descriptor into the bag that is being packed.
///
/// # Errors
/// Nothing is being sent to another process, or there is no descriptor left.
pub(crate) fn put<E: ser::Error>(kind: u8, fd: BorrowedFd<'_>) -> Result<Ticket, E> {
    let copy = fd.try_clone_to_owned();
    let put = with_bag(|contents| match contents {
        Contents::Packing(packed) => Some(copy.map(|copy| {
            packed.push(copy);
            (kind, packed.len() as u32 - 1)
        })),
        Contents::Unpacking(..) => None,
    });
    match put {
        Ok(Ok(ticket)) => Ok(ticket),
        Ok(Err(error)) => {
            let text = format!("no copy of a descriptor could be made: {error}");
            Err(E::custom(text))
        }
        Err(Stray) => Err(E::custom(
            "a descriptor can be serialised only as part of what is sent to another process of this program",
        )),
    }
}

/// Takes a descriptor out of the bag that has arrived.
///
/// # Errors
/// Nothing has arrived from another process, or not this.
pub(crate) fn take<E: de::Error>(kind: u8, ticket: Ticket) -> Result<OwnedFd, E> {
    let (written, place) = ticket;
    let taken = with_bag(|contents| match contents {
        Contents::Unpacking(left, _) if written == kind => {
            Some(left.get_mut(place as usize).and_then(Option::take))
        }
        Contents::Unpacking(..) => Some(None),
        Contents::Packing(..) => None,
    });
    match taken {
        Ok(Some(fd)) => Ok(fd),
        Ok(None) if written != kind => Err(complain("it was sent as something else")),
        Ok(None) => Err(complain(
            "no descriptor has arrived at this place, or it was taken out before",
        )),
        Err(Stray) => Err(E::custom(
            "a descriptor can be deserialised only from what another process of this program has sent",
        )),
    }
}

/// A deserialiser's error, whose text is kept in the bag: the format that values travel in forgets it.
pub(crate) fn complain<E: de::Error>(text: &str) -> E {
    // Without a bag the error itself is all there is.
    let _ = with_bag(|contents| match contents {
        Contents::Unpacking(_, complaint) => {
            complaint.get_or_insert_with(|| text.to_owned());
            Some(())
        }
        Contents::Packing(..) => None,
    });
    E::custom(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    type Error = serde::de::value::Error;

    fn put(fd: BorrowedFd<'_>) -> Result<u32, std::fmt::Error> {
        super::put(kind::FLAG, fd).map(|(_, place)| place)
    }

    fn take(place: u32) -> Result<OwnedFd, Error> {
        super::take(kind::FLAG, (kind::FLAG, place))
    }

    fn a_file() -> std::fs::File {
        std::fs::File::open("/dev/null").unwrap()
    }

    #[test]
    fn what_is_put_in_comes_out_once() {
        let file = a_file();
        let (places, packed) = pack(|| [put(file.as_fd()), put(file.as_fd())]);
        assert_eq!(places, [Ok(0), Ok(1)]);
        assert_eq!(packed.len(), 2);
        unpack(packed, || {
            assert!(take(1).is_ok() && take(1).is_err() && take(0).is_ok());
            assert!(take(2).is_err());
        });
        let (_, complaint) = unpack(Vec::new(), || take(0).is_err());
        assert!(complaint.unwrap().contains("no descriptor has arrived"));
        let (_, complaint) = unpack(vec![file.into()], || {
            let other = super::take::<Error>(kind::MEMORY, (kind::FLAG, 0));
            assert!(other.is_err() && take(0).is_ok());
        });
        assert!(complaint.unwrap().contains("something else"));
    }

    #[test]
    fn without_a_bag_nothing_can_be_put_or_taken() {
        assert!(put(a_file().as_fd()).is_err() && take(0).is_err());
        let (inner, _) = pack(|| take(0));
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
        let (places, packed) = pack_two();
        assert_eq!(places, (Ok(0), Ok(1)));
        assert_eq!(packed.len(), 2);
        assert_eq!(other.join().unwrap().0, (Ok(0), Ok(1)));
        assert!(put(a_file().as_fd()).is_err());
    }

    #[test]
    fn a_bag_inside_of_a_bag_is_another_one() {
        let (inner, packed) = pack(|| {
            put(a_file().as_fd()).unwrap();
            pack(|| put(a_file().as_fd()))
        });
        assert_eq!(packed.len(), 1);
        assert!(inner.0 == Ok(0) && inner.1.len() == 1);
    }
}
