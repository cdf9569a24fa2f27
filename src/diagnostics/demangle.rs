//! From symbols to names as they were written.
//!
//! ```text
//!   legacy   _ZN5shout4main17h0123456789abcdefE   ──▶  shout::main
//!            _ZN31_$LT$T$u20$as$u20$a..Trait$GT$3get17h…E  ──▶  <T as a::Trait>::get
//!   v0       _RNvNtCs1a_5shout3sub4main           ──▶  shout::sub::main
//! ```
//!
//! Of v0 only the path is shown, without generic arguments. A name that is none of
//! these, or not as it should be, stays as it is.

/// The name of a function for people.
pub(super) fn demangle(symbol: &str) -> String {
    legacy(symbol)
        .or_else(|| v0(symbol))
        .unwrap_or_else(|| symbol.to_owned())
}

/// Takes the number at the beginning, and as many characters after it.
fn counted(text: &str) -> Option<(&str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let length: usize = text[..digits].parse().ok()?;
    let rest = &text[digits..];
    // The v0 scheme sets an underscore before names that begin like a number.
    Some((rest.get(..length)?, rest.get(length..)?))
}

fn is_hash(segment: &str) -> bool {
    let digits = segment.strip_prefix('h').unwrap_or_default();
    digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn legacy(symbol: &str) -> Option<String> {
    let mut rest = symbol.strip_prefix("_ZN")?;
    let mut segments = Vec::new();
    while !rest.starts_with('E') {
        let (segment, after) = counted(rest)?;
        segments.push(segment);
        rest = after;
    }
    // C++ has the same beginning, but no hash.
    let (hash, path) = segments.split_last()?;
    if !is_hash(hash) {
        return None;
    }
    let path: Option<Vec<String>> = path.iter().map(|segment| unescape(segment)).collect();
    Some(path?.join("::"))
}

/// Undoes what was done to characters that symbols may not have.
fn unescape(segment: &str) -> Option<String> {
    // A segment begins with a letter or with an underscore put before.
    let mut rest = match segment.strip_prefix('_') {
        Some(escaped) if escaped.starts_with('$') => escaped,
        _ => segment,
    };
    let mut name = String::new();
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("..") {
            name.push_str("::");
            rest = after;
        } else if first == '$' {
            let (code, after) = rest[1..].split_once('$')?;
            name.push_str(&meaning(code)?);
            rest = after;
        } else {
            name.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(name)
}

fn meaning(code: &str) -> Option<String> {
    let known = match code {
        "SP" => "@",
        "BP" => "*",
        "RF" => "&",
        "LT" => "<",
        "GT" => ">",
        "LP" => "(",
        "RP" => ")",
        "C" => ",",
        _ => {
            let number = u32::from_str_radix(code.strip_prefix('u')?, 16).ok()?;
            return Some(char::from_u32(number)?.to_string());
        }
    };
    Some(known.to_owned())
}

fn v0(symbol: &str) -> Option<String> {
    let mut path = Path {
        rest: symbol.strip_prefix("_R")?,
        whole: symbol.strip_prefix("_R")?,
        depth: 0,
    };
    path.read()
}

/// Reads a path of the v0 scheme.
struct Path<'a> {
    rest: &'a str,
    whole: &'a str,
    /// References back could go round in a circle.
    depth: u32,
}

impl<'a> Path<'a> {
    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let first = chars.next()?;
        self.rest = chars.as_str();
        Some(first)
    }

    fn read(&mut self) -> Option<String> {
        self.depth += 1;
        if self.depth > 100 {
            return None;
        }
        match self.take()? {
            // A crate.
            'C' => self.identifier(),
            // Something in something: an upper letter says what kind of a nameless one.
            'N' => {
                let kind = self.take()?;
                let (parent, name) = (self.read()?, self.identifier()?);
                Some(match kind {
                    'C' => format!("{parent}::{{closure}}"),
                    'S' => format!("{parent}::{{shim:{name}}}"),
                    _ if name.is_empty() => parent,
                    _ => format!("{parent}::{name}"),
                })
            }
            // With generic arguments, which are not shown.
            'I' => self.read(),
            // A method of a type; then one of a trait, for a type.
            'M' => {
                self.disambiguator();
                self.read()?;
                self.type_path()
            }
            'X' => {
                self.disambiguator();
                self.read()?;
                self.type_path()
            }
            'Y' => self.type_path(),
            // As at an earlier place.
            'B' => {
                let at = self.base_62()?;
                let mut there = Path {
                    rest: self.whole.get(at..)?,
                    whole: self.whole,
                    depth: self.depth,
                };
                there.read()
            }
            _ => None,
        }
    }

    /// A type, if it is one that has a path. What follows a type with arguments is
    /// not found: then the name stays as it is.
    fn type_path(&mut self) -> Option<String> {
        match self.rest.chars().next()? {
            'C' | 'N' | 'B' => self.read(),
            _ => None,
        }
    }

    fn disambiguator(&mut self) {
        if let Some(rest) = self.rest.strip_prefix('s') {
            self.rest = rest;
            let _ = self.base_62();
        }
    }

    fn base_62(&mut self) -> Option<usize> {
        let (digits, rest) = self.rest.split_once('_')?;
        self.rest = rest;
        if digits.is_empty() {
            return Some(0);
        }
        let value = digits.chars().try_fold(0usize, |value, digit| {
            let digit = match digit {
                '0'..='9' => digit as usize - '0' as usize,
                'a'..='z' => digit as usize - 'a' as usize + 10,
                'A'..='Z' => digit as usize - 'A' as usize + 36,
                _ => return None,
            };
            value.checked_mul(62)?.checked_add(digit)
        });
        value?.checked_add(1)
    }

    fn identifier(&mut self) -> Option<String> {
        self.disambiguator();
        let digits = self.rest.find(|c: char| !c.is_ascii_digit());
        let (length, rest) = self.rest.split_at(digits.unwrap_or(self.rest.len()));
        let rest = rest.strip_prefix('_').unwrap_or(rest);
        let length = length.parse().ok()?;
        let (name, rest) = (rest.get(..length)?, rest.get(length..)?);
        self.rest = rest;
        Some(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_names_lose_their_hash_and_get_their_characters_back() {
        for (symbol, name) in [
            ("_ZN5shout4main17h0123456789abcdefE", "shout::main"),
            (
                "_ZN4core3ptr42drop_in_place$LT$alloc..string..String$GT$17h0123456789abcdefE",
                "core::ptr::drop_in_place<alloc::string::String>",
            ),
            (
                "_ZN39_$LT$T$u20$as$u20$a..Trait$LT$U$GT$$GT$3get17h0123456789abcdefE",
                "<T as a::Trait<U>>::get",
            ),
            (
                "_ZN5shout4main28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE",
                "shout::main::{{closure}}",
            ),
        ] {
            assert_eq!(demangle(symbol), name);
        }
    }

    #[test]
    fn v0_names_become_paths() {
        for (symbol, name) in [
            ("_RNvNtCs1a_5shout3sub4main", "shout::sub::main"),
            ("_RNCNvCs1a_5shout4main0", "shout::main::{closure}"),
            (
                "_RNvMNtCs1a_5shout3subNtB2_5Mouth4open",
                "shout::sub::Mouth::open",
            ),
            ("_RINvCs1a_5shout4loudmE", "shout::loud"),
        ] {
            assert_eq!(demangle(symbol), name);
        }
    }

    #[test]
    fn other_names_and_nonsense_stay_as_they_are() {
        for symbol in [
            "",
            "main",
            "_ZN",
            "_ZN3std4sortE",
            "_ZN9999999999999999999999x17h0123456789abcdefE",
            "_ZN5sho",
            "_ZN1\u{e9}x17h0123456789abcdefE",
            "_R",
            "_RB_",
            "_RNvB_4main",
            "_RNvC5sho",
            "_RNvCs1a_99999999999999999999999x",
        ] {
            assert_eq!(demangle(symbol), symbol);
        }
    }
}
