//! Text for signal handlers: a buffer of fixed size that is written to without the heap and without `fmt`,
//! whose frames would be deep for a signal stack. What does not fit is cut off.

/// At most `N` bytes of text.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// No text yet.
    pub(crate) const fn new() -> Self {
        Text {
            bytes: [0; N],
            len: 0,
        }
    }

    /// Appends text.
    pub(crate) fn push(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            self.push_byte(byte);
        }
    }

    /// Appends a number in decimal digits.
    pub(crate) fn push_number(&mut self, number: usize) {
        let mut digits = [0u8; 20];
        let mut first = digits.len();
        let mut rest = number;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        for &digit in &digits[first..] {
            self.push_byte(digit);
        }
    }

    /// Lets `write` fill in what room is left; it answers how many bytes it wrote.
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let room = &mut self.bytes[self.len..];
        let written = write(room).min(room.len());
        self.len += written;
    }

    /// The text so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push_byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }
}

/// Text into somebody else's buffer, for `write!`. What does not fit is cut off.
pub(crate) struct SliceText<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl<'a> SliceText<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        SliceText { bytes, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl std::fmt::Write for SliceText<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_text_are_joined() {
        let mut text = Text::<64>::new();
        text.push("of ");
        text.push_number(usize::MAX);
        text.push_number(0);
        assert_eq!(text.as_bytes(), b"of 184467440737095516150");
    }

    #[test]
    fn what_does_not_fit_is_cut_off() {
        let mut text = Text::<5>::new();
        text.push("abc");
        text.push_with(|room| {
            room.fill(b'x');
            100
        });
        text.push("never");
        assert_eq!(text.as_bytes(), b"abcxx");
    }
}
