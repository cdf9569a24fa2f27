//! Where the items of a queue between processes lie.
//!
//! They lie one after the other in memory that has a descriptor, behind a head that says where they begin and end,
//! and how many there are. Who puts or gets has the lock of that memory for the time of a few system calls:
//!
//! ```text
//!   head: [begin │ end │ count │ …]
//!            │      └───────────────────────┐       two eventfds, for those
//!            ▼                              ▼       who wait:
//!   ········[len│item][len│item][len│item]           "an item"  "room"
//!   given back                            free
//!
//!   put:  lock ─▶ write the item at the end ─▶ ring "an item" ─▶ write the head ─▶ unlock
//!   get:  lock ─▶ read the item at the begin ─▶ ring "room"   ─▶ write the head ─▶ unlock
//! ```
//!
//! Only the writing of the head, a single system call, changes anything, and the kernel takes the lock away from a
//! process that is killed. Those who are woken by the ringing wait for the lock, and so see the new head; if the
//! ringer was killed before it wrote it, they see the old one, and go on waiting.
//!
//! The eventfds are never read. What wakes is that they are written to: a registration is edge-triggered.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::watched::Watched;
use crate::hub::{Direction, Patience};
use crate::sys::eventfd;
use crate::sys::shared::{self, Lockable};

/// The memory and the two bells.
pub(super) struct Storage {
    memory: Lockable,
    /// Rung at every put.
    item: Watched,
    /// Rung at every get.
    room: Watched,
}

/// The head, in the order in which its numbers lie at the beginning of the
/// memory. The last two never change.
#[derive(Clone, Copy)]
pub(super) struct Head {
    begin: u64,
    end: u64,
    pub(super) count: u64,
    pub(super) shut_down: u64,
    pub(super) capacity: u64,
    /// Tells the types of items apart.
    mark: u64,
}

const HEAD: usize = 48;
/// How long the number is that says how long an item is.
pub(super) const LENGTH: usize = 8;
/// Where the first item lies.
const FIRST: u64 = 4096;
/// Memory is given back in pieces of this size.
const PIECE: u64 = 64 << 10;

impl Head {
    fn read(memory: &File) -> io::Result<Head> {
        let mut bytes = [0; HEAD];
        memory.read_exact_at(&mut bytes, 0)?;
        let mut numbers = [0; HEAD / 8];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        }
        let [begin, end, count, shut_down, capacity, mark] = numbers;
        Ok(Head {
            begin,
            end,
            count,
            shut_down,
            capacity,
            mark,
        })
    }

    /// A single write, within a page: it is done, or it is not.
    fn write(self, memory: &File) -> io::Result<()> {
        let numbers = [
            self.begin,
            self.end,
            self.count,
            self.shut_down,
            self.capacity,
            self.mark,
        ];
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        memory.write_all_at(&bytes, 0)
    }
}

/// The item that lies first.
fn next(memory: &File, head: &Head) -> io::Result<Vec<u8>> {
    // Most items are short, and read at once with their length.
    let mut short = [0; LENGTH + 500];
    let here = short.len().min((head.end - head.begin) as usize);
    memory.read_exact_at(&mut short[..here], head.begin)?;
    let Some((length, rest)) = short[..here].split_first_chunk() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let length = u64::from_ne_bytes(*length) as usize;
    if let Some(item) = rest.get(..length) {
        return Ok(item.to_vec());
    }
    let mut item = Vec::new();
    item.try_reserve_exact(length)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    item.resize(length, 0);
    memory.read_exact_at(&mut item, head.begin + LENGTH as u64)?;
    Ok(item)
}

/// The queue was shut down.
pub(super) struct ShutDown;

impl Storage {
    pub(super) fn new(capacity: u64, mark: u64) -> io::Result<Storage> {
        let memory = shared::memory()?;
        let head = Head {
            begin: FIRST,
            end: FIRST,
            count: 0,
            shut_down: 0,
            capacity,
            mark,
        };
        head.write(&memory)?;
        Ok(Storage {
            memory: Lockable::new(memory)?,
            item: Watched::new(eventfd::new()?),
            room: Watched::new(eventfd::new()?),
        })
    }

    /// What another process has made.
    ///
    /// # Errors
    /// `InvalidData`, if it is no such memory, or holds items of another type.
    pub(super) fn open([memory, item, room]: [OwnedFd; 3], mark: u64) -> io::Result<Storage> {
        let memory = File::from(memory);
        if !Head::read(&memory).is_ok_and(|head| head.mark == mark) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Storage {
            memory: Lockable::new(memory)?,
            item: Watched::new(item),
            room: Watched::new(room),
        })
    }

    /// The memory, and the bells for items and for room.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [
            self.memory.file().as_fd(),
            self.item.as_fd(),
            self.room.as_fd(),
        ]
    }

    /// Puts an item, before which are [`LENGTH`] bytes to write its length in.
    pub(super) fn put(
        &self,
        mut item: Vec<u8>,
        patience: Patience,
    ) -> io::Result<Result<(), ShutDown>> {
        if let Some((room, item)) = item.split_first_chunk_mut::<LENGTH>() {
            *room = (item.len() as u64).to_ne_bytes();
        }
        wait(&self.room, patience, || self.try_put(&item))
    }

    pub(super) fn get(&self, patience: Patience) -> io::Result<Result<Vec<u8>, ShutDown>> {
        wait(&self.item, patience, || self.try_get())
    }

    /// Puts an item with its length before it, or answers `WouldBlock`.
    fn try_put(&self, item: &[u8]) -> io::Result<Result<(), ShutDown>> {
        let memory = self.memory.lock()?;
        let mut head = Head::read(&memory)?;
        if head.shut_down != 0 {
            return Ok(Err(ShutDown));
        }
        if head.count >= head.capacity {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        memory.write_all_at(item, head.end)?;
        eventfd::set(self.item.as_fd());
        head.end += item.len() as u64;
        head.count += 1;
        head.write(&memory).map(Ok)
    }

    /// Gets an item, or answers `WouldBlock`.
    fn try_get(&self) -> io::Result<Result<Vec<u8>, ShutDown>> {
        let memory = self.memory.lock()?;
        let mut head = Head::read(&memory)?;
        if head.count == 0 {
            return match head.shut_down {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(Err(ShutDown)),
            };
        }
        let item = next(&memory, &head)?;
        eventfd::set(self.room.as_fd());
        let begin = head.begin;
        head.begin += LENGTH as u64 + item.len() as u64;
        head.count -= 1;
        let end = head.end;
        if head.count == 0 {
            // An empty queue begins anew, where memory is in use already.
            (head.begin, head.end) = (FIRST, FIRST);
        }
        head.write(&memory)?;
        // Whoever is killed here leaves memory in use that the next one gives back; and where that fails, the
        // item is not to be lost.
        if head.count == 0 && end > PIECE {
            let _ = memory.set_len(PIECE);
        } else if head.begin / PIECE > begin / PIECE {
            shared::give_back(&memory, PIECE, head.begin / PIECE * PIECE - PIECE);
        }
        Ok(Ok(item))
    }

    pub(super) fn shut_down(&self) -> io::Result<()> {
        let memory = self.memory.lock()?;
        let mut head = Head::read(&memory)?;
        head.shut_down = 1;
        eventfd::set(self.item.as_fd());
        eventfd::set(self.room.as_fd());
        head.write(&memory)
    }

    /// What the head says at this moment. Reading what is in memory does not fail.
    pub(super) fn look(&self) -> Option<Head> {
        Head::read(self.memory.file()).ok()
    }
}

fn wait<R>(
    bell: &Watched,
    patience: Patience,
    operation: impl Fn() -> io::Result<R>,
) -> io::Result<R> {
    match bell.run(Direction::Read, patience, |_| operation()) {
        // It may have become possible in the turn that the others had.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && patience != Patience::None => {
            operation()
        }
        other => other,
    }
}
