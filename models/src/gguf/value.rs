//! Metadata values, which stay in the file until they are asked for.

use std::ops::Range;

/// Where a metadata value lies in the file, whose bytes have been found to hold as much.
#[derive(Debug)]
pub(super) struct Value {
    /// Its type, or that of an array's elements.
    pub(super) kind: Kind,
    /// Elements, if it is an array.
    pub(super) length: Option<usize>,
    pub(super) range: Range<usize>,
}

/// The type of a value that is no array.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bool,
    String,
}

/// A value that is no array.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalar<'a> {
    Integer(i128),
    Float(f64),
    Bool(bool),
    String(&'a str),
}

impl Kind {
    /// The number that stands for an array in a file.
    pub(super) const ARRAY: u32 = 9;

    /// The type that a number in a file stands for.
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one value, unless it is a string.
    pub(super) fn bytes(self) -> Option<usize> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String => return None,
        })
    }

    /// Takes one value from the front of some bytes, and leaves the rest.
    fn take<'a>(self, bytes: &mut &'a [u8]) -> Option<Scalar<'a>> {
        fn number<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (number, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(*number)
        }
        Some(match self {
            Self::U8 => Scalar::Integer(u8::from_le_bytes(number(bytes)?).into()),
            Self::I8 => Scalar::Integer(i8::from_le_bytes(number(bytes)?).into()),
            Self::U16 => Scalar::Integer(u16::from_le_bytes(number(bytes)?).into()),
            Self::I16 => Scalar::Integer(i16::from_le_bytes(number(bytes)?).into()),
            Self::U32 => Scalar::Integer(u32::from_le_bytes(number(bytes)?).into()),
            Self::I32 => Scalar::Integer(i32::from_le_bytes(number(bytes)?).into()),
            Self::U64 => Scalar::Integer(u64::from_le_bytes(number(bytes)?).into()),
            Self::I64 => Scalar::Integer(i64::from_le_bytes(number(bytes)?).into()),
            Self::F32 => Scalar::Float(f32::from_le_bytes(number(bytes)?).into()),
            Self::F64 => Scalar::Float(f64::from_le_bytes(number(bytes)?)),
            Self::Bool => match number(bytes)? {
                [0] => Scalar::Bool(false),
                [1] => Scalar::Bool(true),
                _ => return None,
            },
            Self::String => {
                let length = u64::from_le_bytes(number(bytes)?);
                let (text, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
                *bytes = rest;
                Scalar::String(str::from_utf8(text).ok()?)
            }
        })
    }
}

impl Value {
    /// The value, if it is no array and a `T`. `file` is the one it was found in.
    pub(super) fn scalar<'a, T: FromScalar<'a>>(&self, file: &'a [u8]) -> Option<T> {
        let mut bytes = &file[self.range.clone()];
        match self.length {
            None => T::from_scalar(self.kind.take(&mut bytes)?),
            Some(_) => None,
        }
    }

    /// The elements, if it is an array and each is a `T`.
    pub(super) fn array<'a, T: FromScalar<'a>>(&self, file: &'a [u8]) -> Option<Vec<T>> {
        let mut bytes = &file[self.range.clone()];
        (0..self.length?)
            .map(|_| T::from_scalar(self.kind.take(&mut bytes)?))
            .collect()
    }
}

/// What a metadata value may be read as. Integers may be of any width and sign that holds the value: converters differ.
pub(crate) trait FromScalar<'a>: Sized {
    /// What it is, for errors.
    const NAME: &'static str;

    fn from_scalar(scalar: Scalar<'a>) -> Option<Self>;
}

impl<'a> FromScalar<'a> for &'a str {
    const NAME: &'static str = "a string in UTF-8";

    fn from_scalar(scalar: Scalar<'a>) -> Option<Self> {
        match scalar {
            Scalar::String(text) => Some(text),
            _ => None,
        }
    }
}

impl FromScalar<'_> for bool {
    const NAME: &'static str = "true or false";

    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl FromScalar<'_> for f64 {
    const NAME: &'static str = "a floating-point number";

    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Float(value) => Some(value),
            _ => None,
        }
    }
}

impl FromScalar<'_> for f32 {
    const NAME: &'static str = f64::NAME;

    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        f64::from_scalar(scalar).map(|value| value as Self)
    }
}

impl FromScalar<'_> for i32 {
    const NAME: &'static str = "a whole number of 32 bits";

    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Integer(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

impl FromScalar<'_> for usize {
    const NAME: &'static str = "a whole number, not below 0";

    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Integer(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

impl FromScalar<'_> for u32 {
    const NAME: &'static str = "a whole number, not below 0 and below 2^32";

    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Integer(value) => value.try_into().ok(),
            _ => None,
        }
    }
}
