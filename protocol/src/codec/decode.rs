//! serde over [`Scanner`]: strict where other deserializers are kind.
//!
//! What the wire allows has one spelling, or clients in other languages could
//! not keep up: a struct is a map and never an array of its fields, an enum is
//! a string or a map of one pair and never a number, bytes are `bin` and never
//! an array or a string, an integer is never a float, a key comes once, and nil
//! is no value. An error knows the path to the field that it is about, and its
//! text is short however long the input was.
//!
//! It recurses as deep as the type that is decoded and, where that is buffered,
//! as the bytes nest: scan them first.

use std::collections::BTreeSet;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::fault::{FieldError, TWICE};
use super::scan::{Head, Scanner};

/// Decodes exactly one value.
pub(super) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FieldError> {
    let mut decoder = Decoder {
        scanner: Scanner::new(bytes),
    };
    let value = T::deserialize(&mut decoder)?;
    if decoder.scanner.is_empty() {
        Ok(value)
    } else {
        Err(FieldError::because("bytes follow it"))
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, FieldError> {
    std::str::from_utf8(bytes).map_err(|_| FieldError::because("it is not UTF-8"))
}

struct Decoder<'de> {
    scanner: Scanner<'de>,
}

impl<'de> Decoder<'de> {
    fn pairs(&mut self, pairs: usize, unique: bool) -> Pairs<'_, 'de> {
        Pairs {
            decoder: self,
            left: pairs,
            key: "",
            seen: unique.then(BTreeSet::new),
        }
    }
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.scanner.head()? {
            Head::Nil => visitor.visit_unit(),
            Head::Bool(value) => visitor.visit_bool(value),
            Head::Unsigned(number) => visitor.visit_u64(number),
            Head::Signed(number) => visitor.visit_i64(number),
            Head::Float(number) => visitor.visit_f64(number),
            Head::Str(bytes) => visitor.visit_borrowed_str(utf8(bytes)?),
            Head::Bin(bytes) => visitor.visit_borrowed_bytes(bytes),
            Head::Array(items) => visitor.visit_seq(Items {
                decoder: self,
                items,
                next: 0,
            }),
            Head::Map(pairs) => visitor.visit_map(self.pairs(pairs, true)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.scanner.head()? {
            Head::Str(bytes) => visitor.visit_borrowed_str(utf8(bytes)?),
            other => Err(FieldError::found(other, "a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.scanner.head()? {
            Head::Bin(bytes) => visitor.visit_borrowed_bytes(bytes),
            other => Err(FieldError::found(other, "bytes (bin)")),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        if self.scanner.peek()? == Head::Nil {
            return Err(FieldError::because("it is nil: leave out what is absent"));
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match self.scanner.head()? {
            // What serde derives finds a repeated field by itself.
            Head::Map(pairs) => visitor.visit_map(self.pairs(pairs, false)),
            other => Err(FieldError::found(other, "a map of named fields")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match self.scanner.head()? {
            Head::Str(bytes) => visitor.visit_enum(Variant {
                name: utf8(bytes)?,
                value: None,
            }),
            Head::Map(1) => {
                let name = self.scanner.string()?;
                visitor.visit_enum(Variant {
                    name,
                    value: Some(self),
                })
            }
            other => Err(FieldError::found(
                other,
                &format!("one of {}", variants.join(", ")),
            )),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.scanner.value()?;
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    // The visitors of these take nothing that is not theirs.
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char
        unit unit_struct seq tuple tuple_struct map
    }
}

struct Items<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    items: usize,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = FieldError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, FieldError> {
        if self.next == self.items {
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        seed.deserialize(&mut *self.decoder)
            .map(Some)
            .map_err(|error| error.at(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items - self.next)
    }
}

struct Pairs<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
    key: &'de str,
    seen: Option<BTreeSet<&'de str>>,
}

impl<'de> MapAccess<'de> for Pairs<'_, 'de> {
    type Error = FieldError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, FieldError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.key = match self.decoder.scanner.head()? {
            Head::Str(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| FieldError::because("a key is not UTF-8"))?
            }
            other => return Err(FieldError::found(other, "a string as key")),
        };
        if self
            .seen
            .as_mut()
            .is_some_and(|seen| !seen.insert(self.key))
        {
            return Err(FieldError::because(TWICE).within(self.key));
        }
        let key = seed.deserialize(BorrowedStrDeserializer::new(self.key));
        key.map(Some).map_err(|error: FieldError| {
            if error.is_nowhere() {
                error.within(self.key)
            } else {
                error
            }
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, FieldError> {
        seed.deserialize(&mut *self.decoder)
            .map_err(|error| error.within(self.key))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// A name, or a map of one name and its value.
struct Variant<'a, 'de> {
    name: &'de str,
    value: Option<&'a mut Decoder<'de>>,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = FieldError;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self), FieldError> {
        let variant = seed.deserialize(BorrowedStrDeserializer::new(self.name));
        let variant = variant.map_err(|error: FieldError| match self.value {
            Some(_) => error.within(self.name),
            None => error,
        })?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = FieldError;

    fn unit_variant(self) -> Result<(), FieldError> {
        match self.value {
            None => Ok(()),
            Some(_) => {
                Err(FieldError::because("it is a string and has no value").within(self.name))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, FieldError> {
        match self.value {
            Some(decoder) => seed
                .deserialize(decoder)
                .map_err(|error| error.within(self.name)),
            None => Err(FieldError::because("its value is missing").within(self.name)),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        _visitor: V,
    ) -> Result<V::Value, FieldError> {
        Err(FieldError::because("the protocol has no tuples"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match self.value {
            Some(decoder) => decoder
                .deserialize_struct("", fields, visitor)
                .map_err(|error| error.within(self.name)),
            None => Err(FieldError::because("its value is missing").within(self.name)),
        }
    }
}
