//! What a `Serialize` complains of. The format that values travel in keeps only that there was an error; so a
//! value that could not be serialised is serialised once more, to nowhere, for the text of it.

use std::fmt::Display;

use serde::ser::{self, Serialize, Serializer};

/// The text of the error that `value` cannot be serialised with.
pub(super) fn complaint_of<T: Serialize + ?Sized>(value: &T) -> Option<String> {
    value.serialize(Nowhere).err().map(|Complaint(text)| text)
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Complaint(String);

impl ser::Error for Complaint {
    fn custom<T: Display>(text: T) -> Complaint {
        Complaint(text.to_string())
    }
}

type Done = Result<(), Complaint>;

/// Takes everything, and keeps nothing.
struct Nowhere;

macro_rules! plain {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, _: $type) -> Done { Ok(()) })*
    };
}

macro_rules! many {
    ($($method:ident($($argument:ty),*) -> $kind:ident,)*) => {
        $(
            type $kind = Nowhere;
            fn $method(self, $(_: $argument),*) -> Result<Nowhere, Complaint> { Ok(Nowhere) }
        )*
    };
}

impl Serializer for Nowhere {
    type Ok = ();
    type Error = Complaint;

    plain! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
        serialize_str: &str,
        serialize_bytes: &[u8],
        serialize_unit_struct: &'static str,
    }

    many! {
        serialize_tuple(usize) -> SerializeTuple,
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant,
        serialize_struct(&'static str, usize) -> SerializeStruct,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant,
    }

    type SerializeSeq = Nowhere;
    type SerializeMap = Nowhere;

    fn serialize_seq(self, len: Option<usize>) -> Result<Nowhere, Complaint> {
        counted(len)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Nowhere, Complaint> {
        counted(len)
    }

    fn serialize_none(self) -> Done {
        Ok(())
    }

    fn serialize_unit(self) -> Done {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Done {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        value.serialize(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The length is written before what it counts.
fn counted(len: Option<usize>) -> Result<Nowhere, Complaint> {
    match len {
        Some(_) => Ok(Nowhere),
        None => Err(ser::Error::custom(
            "it has a sequence or a map that does not say how long it is",
        )),
    }
}

macro_rules! parts {
    ($($kind:ident: $method:ident($($name:ident)?),)*) => {
        $(impl ser::$kind for Nowhere {
            type Ok = ();
            type Error = Complaint;

            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($name: &'static str,)?
                value: &T,
            ) -> Done {
                $(let _ = $name;)?
                value.serialize(Nowhere)
            }

            fn end(self) -> Done {
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq: serialize_element(),
    SerializeTuple: serialize_element(),
    SerializeTupleStruct: serialize_field(),
    SerializeTupleVariant: serialize_field(),
    SerializeStruct: serialize_field(key),
    SerializeStructVariant: serialize_field(key),
}

impl ser::SerializeMap for Nowhere {
    type Ok = ();
    type Error = Complaint;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(Nowhere)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(Nowhere)
    }

    fn end(self) -> Done {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Sour;

    impl Serialize for Sour {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(ser::Error::custom("sour milk"))
        }
    }

    #[derive(serde::Serialize)]
    enum Shape<T> {
        Unit,
        New(T),
        Tuple(u8, T),
        Struct { number: u8, value: T },
    }

    #[derive(serde::Serialize)]
    struct Plain(u8, f32);

    #[test]
    fn a_complaint_is_found_wherever_it_is() {
        let complaint = |value: &dyn Fn() -> Option<String>| value().unwrap_or_default();
        let all: [&dyn Fn() -> Option<String>; 8] = [
            &|| complaint_of(&Sour),
            &|| complaint_of(&(1, "two", vec![Some(Sour)])),
            &|| complaint_of(&Shape::New(Sour)),
            &|| complaint_of(&Shape::Tuple(1, Sour)),
            &|| {
                complaint_of(&Shape::Struct {
                    number: 1,
                    value: Sour,
                })
            },
            &|| complaint_of(&BTreeMap::from([("key", Sour)])),
            &|| complaint_of(&Ok::<_, ()>(&[(), ()]).map(|_| Sour)),
            &|| complaint_of(&Box::new([Sour, Sour])),
        ];
        assert!(all.iter().all(|value| complaint(value) == "sour milk"));
    }

    #[test]
    fn what_is_well_has_no_complaint() {
        let shapes = [
            Shape::Unit,
            Shape::New((1u64, -1i8)),
            Shape::Tuple(2, (3, 4)),
            Shape::Struct {
                number: 5,
                value: (6, 7),
            },
        ];
        assert_eq!(complaint_of(&shapes), None);
        let map = BTreeMap::from([('c', (true, "text", [0.5f64], ()))]);
        assert_eq!(complaint_of(&(map, Some(Plain(1, 0.5)), None::<u8>)), None);
    }

    #[test]
    fn what_does_not_say_how_long_it_is_is_told_so() {
        struct Endless;
        impl Serialize for Endless {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(std::iter::from_fn(|| None::<u8>).filter(|n| *n > 1))
            }
        }
        assert!(postcard::to_stdvec(&Endless).is_err());
        assert!(complaint_of(&Endless).unwrap().contains("how long it is"));
    }
}
