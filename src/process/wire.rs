//! One end of the connection between a process and its worker: whole messages, with descriptors.
//!
//! A message is a packet, or a few. The first has the head, the body if that is short, and the first descriptors;
//! the others have more descriptors, where they are more than a packet carries. A long body lies in memory that
//! has a descriptor (a memfd), which then is the first of all: so no packet is large, and nobody who sends
//! megabytes waits for the receiver.
//!
//! ```text
//!   packet 0   ┌──────┬───────────────────────┐   up to 250 descriptors
//!              │ head │ body, up to 32 KiB    │   [memfd with a longer body, …]
//!              └──────┴───────────────────────┘
//!   packet 1…  ┌───┐                              up to 250 more in each
//!              │ 0 │
//!              └───┘
//! ```
//!
//! The kernel delivers a packet whole or not at all. Who is killed between two packets of a message has closed
//! the connection, and the receiver forgets the half of it that it has.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::watched::Watched;
use crate::hub::{Direction, Patience};
use crate::sys::{passing, shared};

/// Bodies that are no longer than this travel in the packet.
const INLINE: usize = 32 << 10;
/// The numbers of a head: the kind, the length of the body, how many descriptors, and three for the user.
const NUMBERS: usize = 6;
const HEAD: usize = NUMBERS * 8;

/// What is sent and received.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u64,
    pub(super) numbers: [u64; 3],
    pub(super) body: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Some of its descriptors found no room in the process that received it.
    pub(super) lost_descriptors: bool,
}

/// One end of a connection.
///
/// Several may receive at the same time: each message goes to one of them. Who sends must be alone.
pub(super) struct Wire {
    socket: Watched,
    arriving: Mutex<Arriving>,
}

#[derive(Default)]
struct Arriving {
    begun: Option<Begun>,
    buffer: Vec<u8>,
}

/// A message of which more packets may come.
struct Begun {
    message: Message,
    packets_left: usize,
    /// How long the body is that lies in the first of the descriptors.
    in_memory: Option<usize>,
}

impl Wire {
    pub(super) fn new(socket: OwnedFd) -> Wire {
        Wire {
            socket: Watched::new(socket),
            arriving: Mutex::new(Arriving::default()),
        }
    }

    /// Sends a message; waits as long as there is no room for it. If it fails or is interrupted, the connection
    /// is of no more use.
    ///
    /// # Errors
    /// `BrokenPipe`, when the other end is closed; what the kernel says to the descriptors, for instance that too
    /// many of them are on their way.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        let memory;
        let mut descriptors: Vec<&OwnedFd> = message.descriptors.iter().collect();
        let in_memory = message.body.len() > INLINE;
        if in_memory {
            let file = shared::memory()?;
            file.write_all_at(&message.body, 0)?;
            memory = OwnedFd::from(file);
            descriptors.insert(0, &memory);
        }
        let [a, b, c] = message.numbers;
        let kind = message.kind << 1 | u64::from(in_memory);
        let sizes = [message.body.len() as u64, descriptors.len() as u64];
        let numbers: [u64; NUMBERS] = [kind, sizes[0], sizes[1], a, b, c];
        let head: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let body = if in_memory { &[][..] } else { &message.body };
        let (first, rest) = descriptors.split_at(descriptors.len().min(passing::MOST_DESCRIPTORS));
        self.send_packet(&[&head, body], first)?;
        for some in rest.chunks(passing::MOST_DESCRIPTORS) {
            self.send_packet(&[&[0]], some)?;
        }
        Ok(())
    }

    fn send_packet(&self, bytes: &[&[u8]], descriptors: &[&OwnedFd]) -> io::Result<()> {
        self.socket
            .run(Direction::Write, Patience::Forever, |socket| {
                passing::send(socket, bytes, descriptors)
            })
    }

    /// Receives a message; none if the other end has been closed.
    ///
    /// # Errors
    /// `WouldBlock` when the patience ends first.
    pub(super) fn receive(&self, patience: Patience) -> io::Result<Option<Message>> {
        self.socket
            .run(Direction::Read, patience, |_| self.try_receive())
    }

    fn try_receive(&self) -> io::Result<Option<Message>> {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        let Arriving { begun, buffer } = &mut *arriving;
        buffer.resize(HEAD + INLINE, 0);
        loop {
            let mut descriptors = Vec::new();
            let arrived = passing::receive(self.socket.as_fd(), buffer, &mut descriptors)?;
            let packet = &buffer[..arrived.len];
            if packet.is_empty() {
                *begun = None;
                return Ok(None);
            }
            let mut whole = match begun.take() {
                Some(begun) => begun,
                None => Begun::new(packet)?,
            };
            whole.message.descriptors.append(&mut descriptors);
            whole.message.lost_descriptors |= arrived.lost_descriptors;
            whole.packets_left -= 1;
            if whole.packets_left == 0 {
                return whole.finish().map(Some);
            }
            *begun = Some(whole);
        }
    }

    /// Says that no more messages will be sent.
    pub(super) fn finish(&self) {
        passing::finish(self.socket.as_fd());
    }
}

impl Begun {
    fn new(packet: &[u8]) -> io::Result<Begun> {
        let Some((head, body)) = packet.split_at_checked(HEAD) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut numbers = [0; NUMBERS];
        for (number, bytes) in numbers.iter_mut().zip(head.chunks_exact(8)) {
            *number = bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        }
        let [kind, length, descriptors, a, b, c] = numbers;
        let packets = (descriptors as usize).div_ceil(passing::MOST_DESCRIPTORS);
        Ok(Begun {
            message: Message {
                kind: kind >> 1,
                numbers: [a, b, c],
                body: body.to_vec(),
                ..Message::default()
            },
            packets_left: packets.max(1),
            in_memory: (kind & 1 != 0).then_some(length as usize),
        })
    }

    fn finish(self) -> io::Result<Message> {
        let mut message = self.message;
        match self.in_memory {
            Some(length) if !message.lost_descriptors && !message.descriptors.is_empty() => {
                let memory = File::from(message.descriptors.remove(0));
                let body = &mut message.body;
                body.try_reserve_exact(length)
                    .map_err(|_| io::ErrorKind::OutOfMemory)?;
                body.resize(length, 0);
                memory.read_exact_at(body, 0)?;
            }
            _ => {}
        }
        Ok(message)
    }
}
