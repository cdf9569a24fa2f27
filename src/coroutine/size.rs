//! How large a greenlet's stack is.

use crate::error::StackError;
use crate::sys::os;

/// The size of a greenlet's stack in bytes, rounded up to whole pages.
///
/// A stack takes up address space, not memory: the kernel gives it memory page by page, as deep as the greenlet
/// goes. So the default of 256 KiB is generous and still costs one page for a greenlet that stays shallow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackSize(usize);

impl StackSize {
    /// What a greenlet gets if nothing else is said: 256 KiB.
    pub const DEFAULT: StackSize = StackSize(256 << 10);

    /// The smallest stack there is: 16 KiB, just enough for a panic's message.
    pub const MIN: StackSize = StackSize(16 << 10);

    /// The largest stack there is: 1 GiB.
    pub const MAX: StackSize = StackSize(1 << 30);

    /// A stack of at least `bytes` bytes.
    ///
    /// # Errors
    ///
    /// A size below [`MIN`](Self::MIN), zero included, or above [`MAX`](Self::MAX) is refused.
    pub fn new(bytes: usize) -> Result<StackSize, StackError> {
        if bytes < Self::MIN.0 {
            return Err(StackError::TooSmall {
                asked: bytes,
                minimum: Self::MIN.0,
            });
        }
        if bytes > Self::MAX.0 {
            return Err(StackError::TooLarge {
                asked: bytes,
                maximum: Self::MAX.0,
            });
        }
        Ok(StackSize(bytes.next_multiple_of(os::page_size())))
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// This size, and room for a large closure and a large result on top.
    ///
    /// Both pass over the stack a few times on their way in and out, by value, most often in a build without
    /// optimisation. What the caller asked for is meant for the body.
    #[inline(always)]
    pub(crate) fn with_room_for<F, T>(self) -> StackSize {
        const SMALL: usize = 4 << 10;
        const MOVES: usize = 8;
        let passing = const { size_of::<F>() + size_of::<T>() };
        if passing <= SMALL {
            return self;
        }
        let bytes = self.0.saturating_add(passing.saturating_mul(MOVES));
        StackSize(bytes.min(Self::MAX.0).next_multiple_of(os::page_size()))
    }

    /// The size of the slot that serves this request.
    ///
    /// Stacks are pooled by size, so a program that asks for many different sizes would keep a pool for each. They
    /// are rounded up to four sizes for each power of two, which costs at most a quarter, of address space only.
    pub(crate) fn class(self) -> StackSize {
        let step = (self.0.next_power_of_two() / 8).max(os::page_size());
        StackSize(self.0.next_multiple_of(step))
    }

    /// The size of a class, which was in range when it was computed by [`class`](Self::class).
    pub(crate) const fn from_class(bytes: usize) -> StackSize {
        StackSize(bytes)
    }
}

impl Default for StackSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_a_page() {
        let page = os::page_size();
        assert_eq!(StackSize::new(20 << 10).unwrap().bytes() % page, 0);
        assert_eq!(StackSize::new((256 << 10) - 1), Ok(StackSize::DEFAULT));
        assert_eq!(
            StackSize::new((256 << 10) + 1).unwrap().bytes(),
            (256 << 10) + page
        );
    }

    #[test]
    fn sizes_out_of_range_are_refused_with_the_limit() {
        for asked in [0, 1, (16 << 10) - 1] {
            assert_eq!(
                StackSize::new(asked),
                Err(StackError::TooSmall {
                    asked,
                    minimum: 16 << 10
                })
            );
        }
        for asked in [(1 << 30) + 1, usize::MAX] {
            assert_eq!(
                StackSize::new(asked),
                Err(StackError::TooLarge {
                    asked,
                    maximum: 1 << 30
                })
            );
        }
        assert!(StackSize::new(16 << 10).is_ok() && StackSize::new(1 << 30).is_ok());
    }

    #[test]
    fn there_are_few_classes_and_none_is_smaller_than_asked() {
        assert_eq!(StackSize::DEFAULT.class(), StackSize::DEFAULT);
        let mut classes = Vec::new();
        for kib in 16..=(4 << 10) {
            let size = StackSize::new(kib << 10).unwrap();
            let class = size.class();
            assert!(
                class >= size && class.bytes() <= size.bytes() + size.bytes() / 4 + os::page_size()
            );
            assert_eq!(class.class(), class);
            classes.push(class);
        }
        classes.dedup();
        assert!(classes.len() <= 34, "{} classes", classes.len());
    }
}
