//! Reads names and addresses from an ELF file: from `.symtab`, which every
//! program has that was not stripped, else from `.dynsym`, which has what a shared
//! object gives to others.
//!
//! ```text
//!   header ─▶ section headers ─▶ .symtab: name, kind, address, size   (24 bytes each)
//!                       │                  │
//!                       └────▶ .strtab ◀───┘ names, each with a zero at its end
//! ```
//!
//! The file may be anything: nothing in it is trusted, and what does not fit is an
//! error, or no name.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Section headers, symbols, and the kinds of both that are looked at.
const SECTION: usize = 64;
const SYMBOL: usize = 24;
const SYMTAB: u32 = 2;
const DYNSYM: u32 = 11;
const FUNCTIONS: &[u8] = &[0, 2, 10]; // none, function, indirect function
const ANYTHING: &[u8] = &[0, 1, 2]; // none, data, function
/// Symbols that are read at once.
const BATCH: usize = 4096;
/// Longer names are cut off.
const LONGEST: usize = 1024;
/// More bytes of names than this are not read at once.
const MOST_NAMES: u64 = 1 << 24;

/// The names of the functions at these addresses of the file, where it has them.
pub(crate) fn function_names(path: &Path, addresses: &[usize]) -> io::Result<Vec<Option<String>>> {
    let file = File::open(path)?;
    let Some((symbols, strings)) = tables(&file)? else {
        return Ok(vec![None; addresses.len()]);
    };
    let mut best: Vec<Option<Symbol>> = vec![None; addresses.len()];
    each_symbol(&file, &symbols, FUNCTIONS, |symbol| {
        for (&address, best) in addresses.iter().zip(&mut best) {
            let address = address as u64;
            let fits = symbol.address <= address
                && (symbol.size == 0 || address - symbol.address < symbol.size);
            // The nearest before it; one that says how long it is, if there is one.
            let key = |symbol: &Symbol| (symbol.size > 0, symbol.address);
            if fits && best.as_ref().is_none_or(|best| key(best) < key(&symbol)) {
                *best = Some(symbol);
            }
        }
    })?;
    best.into_iter()
        .map(|symbol| {
            symbol
                .map(|symbol| name(&file, &strings, symbol.name))
                .transpose()
        })
        .collect()
}

/// Where the file has what is called so; within it, as a function or data.
pub(crate) fn address_of(path: &Path, name: &CStr) -> io::Result<Option<usize>> {
    let file = File::open(path)?;
    let Some((symbols, strings)) = tables(&file)? else {
        return Ok(None);
    };
    if strings.size > MOST_NAMES {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    let mut names = vec![0; strings.size as usize];
    file.read_exact_at(&mut names, strings.offset)?;
    let mut found = None;
    each_symbol(&file, &symbols, ANYTHING, |symbol| {
        let rest = names.get(symbol.name as usize..);
        if rest.is_some_and(|rest| rest.starts_with(name.to_bytes_with_nul())) {
            found = Some(symbol.address as usize);
        }
    })?;
    Ok(found)
}

/// What is looked at of a section header.
#[derive(Clone, Copy)]
struct Section {
    kind: u32,
    offset: u64,
    size: u64,
    link: u32,
}

#[derive(Clone, Copy)]
struct Symbol {
    name: u32,
    address: u64,
    size: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut number = [0; N];
    if let Some(there) = bytes.get(at..at + N) {
        number.copy_from_slice(there);
    }
    number
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

/// The table of symbols and that of their names.
fn tables(file: &File) -> io::Result<Option<(Section, Section)>> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    // 64 bits, and the byte order of both architectures that we run on.
    if !header.starts_with(b"\x7fELF\x02\x01") || usize::from(u16_at(&header, 58)) != SECTION {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    let mut bytes = vec![0; usize::from(u16_at(&header, 60)) * SECTION];
    file.read_exact_at(&mut bytes, u64_at(&header, 40))?;
    let sections: Vec<Section> = bytes
        .chunks_exact(SECTION)
        .map(|section| Section {
            kind: u32_at(section, 4),
            offset: u64_at(section, 24),
            size: u64_at(section, 32),
            link: u32_at(section, 40),
        })
        .collect();
    let found = [SYMTAB, DYNSYM].into_iter().find_map(|kind| {
        let symbols = sections.iter().find(|section| section.kind == kind)?;
        Some((*symbols, *sections.get(symbols.link as usize)?))
    });
    Ok(found)
}

fn each_symbol(
    file: &File,
    table: &Section,
    kinds: &[u8],
    mut each: impl FnMut(Symbol),
) -> io::Result<()> {
    let mut bytes = vec![0; BATCH * SYMBOL];
    let (mut at, mut left) = (table.offset, table.size as usize / SYMBOL);
    while left > 0 {
        let batch = left.min(BATCH) * SYMBOL;
        let bytes = &mut bytes[..batch];
        file.read_exact_at(bytes, at)?;
        at = at.saturating_add(batch as u64);
        left -= batch / SYMBOL;
        for symbol in bytes.chunks_exact(SYMBOL) {
            let is_defined = u16_at(symbol, 6) != 0;
            if is_defined && kinds.contains(&(symbol[4] & 0xf)) {
                each(Symbol {
                    name: u32_at(symbol, 0),
                    address: u64_at(symbol, 8),
                    size: u64_at(symbol, 16),
                });
            }
        }
    }
    Ok(())
}

fn name(file: &File, strings: &Section, at: u32) -> io::Result<String> {
    let left = strings.size.saturating_sub(at.into()) as usize;
    let mut bytes = vec![0; left.min(LONGEST)];
    file.read_exact_at(&mut bytes, strings.offset.saturating_add(at.into()))?;
    let end = bytes.iter().position(|&byte| byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("greenlet-elf-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_is_no_elf_file_is_an_error_and_no_crash() {
        for (name, bytes) in [
            ("empty", &b""[..]),
            ("text", &[b'x'; 100]),
            ("header", &{
                let mut header = [0xff; 64];
                header[..6].copy_from_slice(b"\x7fELF\x02\x01");
                header[58..60].copy_from_slice(&64u16.to_le_bytes());
                header
            }),
        ] {
            let path = scratch(name, bytes);
            let names = function_names(&path, &[1]);
            let _ = std::fs::remove_file(&path);
            assert!(names.is_err(), "{name}");
        }
        assert!(function_names(Path::new("linux-vdso.so.1"), &[1]).is_err());
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_or_spoilt_gives_no_crash() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        // The sections are at the end: what is cut off has none.
        for length in [16, 64, 4096, whole.len() / 2, whole.len() - 1] {
            let path = scratch("cut", &whole[..length]);
            let names = function_names(&path, &[0x1000]);
            let _ = std::fs::remove_file(&path);
            assert!(names.is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_called_so_is_found_where_it_is() {
        #[unsafe(no_mangle)]
        static GREENLET_ELF_SOMETHING: u32 = 77;
        let program = Path::new("/proc/self/exe");
        let found = |name| address_of(program, name).unwrap();
        if let Some(offset) = found(c"GREENLET_ELF_SOMETHING") {
            let here = &raw const GREENLET_ELF_SOMETHING as usize;
            let objects = crate::sys::objects::loaded();
            let ours = objects
                .iter()
                .find(|object| object.path.as_os_str().is_empty());
            assert_eq!(ours.unwrap().base + offset, here);
            assert!(ours.unwrap().has(here) && !ours.unwrap().has(8));
        }
        assert_eq!(found(c"GREENLET_ELF_SOMETHIN"), None);
        assert_eq!(found(c"GREENLET_ELF_SOMETHING_ELSE"), None);
    }
}
