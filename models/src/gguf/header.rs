//! The header of a GGUF file. Nothing in it is believed: every count, length, offset and type is checked against the
//! bytes that the file has before anything is made of it.

use std::collections::HashMap;
use std::ops::Range;

use super::encoding::Encoding;
use super::value::{Kind, Value};
use super::{GgufFault, encoding};

/// Metadata keys and tensors that a file may have, each: more than any model has, and few enough to keep all of them.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_KEY: usize = 1 << 16;
const MAX_TENSOR_NAME: usize = 64;
const MAX_DIMENSIONS: usize = 4;
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: usize = 32;

/// What a file holds, and where.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: HashMap<String, Value>,
    pub(super) tensors: HashMap<String, Tensor>,
}

/// A tensor of a GGUF file.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) element: Element,
    /// Slowest first, as in safetensors and unlike in the file.
    pub(crate) shape: Vec<usize>,
    /// Inside the file, and as long as shape and encoding say.
    pub(crate) range: Range<usize>,
}

/// How a tensor's numbers are encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Element {
    Known(Encoding),
    /// A type that is not read; how long the tensor is, is not known either.
    Other(&'static str),
}

impl Header {
    pub(super) fn parse(file: &[u8]) -> Result<Self, GgufFault> {
        let mut cursor = Cursor { file, at: 0 };
        if cursor.array().ok() != Some(*b"GGUF") {
            return Err(GgufFault::Magic);
        }
        let version = cursor.u32().map_err(in_header)?;
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => return Err(GgufFault::BigEndian),
            _ => return Err(GgufFault::Version(version)),
        }
        let tensors = cursor.count("tensors")?;
        let keys = cursor.count("keys")?;
        let mut metadata = HashMap::new();
        for _ in 0..keys {
            let key = cursor.string(MAX_KEY).map_err(in_header)?;
            let value = cursor.value().map_err(|fault| key_fault(&key, fault))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(key_fault(&key, "is there twice"));
            }
        }
        let infos = (0..tensors)
            .map(|_| Info::read(&mut cursor))
            .collect::<Result<Vec<_>, _>>()?;
        let alignment = alignment(&metadata, file)?;
        let start = (cursor.at.checked_next_multiple_of(alignment))
            .ok_or_else(|| key_fault(ALIGNMENT, "is larger than the file"))?;
        let mut header = Self {
            metadata,
            tensors: HashMap::new(),
        };
        for info in infos {
            header.add(info, file.len(), start, alignment)?;
        }
        header.check_overlap()?;
        Ok(header)
    }

    /// Adds a tensor whose offset counts from `start`.
    fn add(
        &mut self,
        info: Info,
        file: usize,
        start: usize,
        alignment: usize,
    ) -> Result<(), GgufFault> {
        let fault = |reason: &str| tensor_fault(&info.name, reason);
        let length = info.bytes().ok_or_else(|| {
            fault("has rows that are not whole blocks, or more elements than can be counted")
        })?;
        let offset = usize::try_from(info.offset).ok();
        if !offset.is_some_and(|offset| offset.is_multiple_of(alignment)) {
            return Err(fault(&format!("is not at a multiple of {alignment} bytes")));
        }
        let range = offset
            .and_then(|offset| offset.checked_add(start))
            .and_then(|start| Some(start..start.checked_add(length)?))
            .filter(|range| range.end <= file)
            .ok_or_else(|| fault("is beyond the end of the file; copy or download it again"))?;
        let (name, element, shape) = (info.name.clone(), info.element, info.shape.clone());
        let tensor = Tensor {
            element,
            shape,
            range,
        };
        match self.tensors.insert(name, tensor) {
            Some(_) => Err(fault("is there twice")),
            None => Ok(()),
        }
    }

    fn check_overlap(&self) -> Result<(), GgufFault> {
        let mut ranges = self.tensors.iter().collect::<Vec<_>>();
        ranges.sort_by_key(|(name, tensor)| (tensor.range.start, tensor.range.end, *name));
        for pair in ranges.windows(2) {
            let [(one, before), (other, after)] = pair else {
                continue;
            };
            if before.range.end > after.range.start {
                let reason = format!("overlaps tensor `{}`", one.escape_debug());
                return Err(tensor_fault(other, &reason));
            }
        }
        Ok(())
    }
}

/// What a header says of a tensor.
struct Info {
    name: String,
    element: Element,
    shape: Vec<usize>,
    offset: u64,
}

impl Info {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufFault> {
        let name = cursor.string(MAX_TENSOR_NAME).map_err(in_header)?;
        let fault = |reason: &str| tensor_fault(&name, reason);
        let dimensions = cursor.u32().map_err(fault)? as usize;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(fault(&format!(
                "has {dimensions} dimensions, but must have 1 to {MAX_DIMENSIONS}"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let length = cursor.u64().map_err(fault)?;
            let length = usize::try_from(length).ok().filter(|length| *length > 0);
            shape.push(length.ok_or_else(|| fault("has an impossible dimension"))?);
        }
        shape.reverse();
        let number = cursor.u32().map_err(fault)?;
        let element = match Encoding::of(number) {
            Some(encoding) => Element::Known(encoding),
            None => Element::Other(encoding::name_of_unread(number)),
        };
        let offset = cursor.u64().map_err(fault)?;
        Ok(Self {
            name,
            element,
            shape,
            offset,
        })
    }

    /// The bytes it takes, as far as that is known; none if rows are not whole blocks or the number is too large.
    fn bytes(&self) -> Option<usize> {
        let elements = (self.shape.iter()).try_fold(1usize, |all, length| all.checked_mul(*length));
        match self.element {
            Element::Known(encoding) => {
                let row = *self.shape.last()?;
                let whole = row.is_multiple_of(encoding.block());
                let blocks = elements.filter(|_| whole)? / encoding.block();
                blocks.checked_mul(encoding.block_bytes())
            }
            Element::Other(_) => Some(0),
        }
    }
}

fn alignment(metadata: &HashMap<String, Value>, file: &[u8]) -> Result<usize, GgufFault> {
    let Some(value) = metadata.get(ALIGNMENT) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    value
        .scalar::<u32>(file)
        .filter(|alignment| alignment.is_power_of_two())
        .map(|alignment| alignment as usize)
        .ok_or_else(|| key_fault(ALIGNMENT, "is not a power of two"))
}

/// Reads a header from front to back. Errors are what to say of the key or tensor that is being read.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

const CUT: &str = "is cut off by the end of the file";

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let end = self.at.checked_add(count).ok_or(CUT)?;
        let bytes = self.file.get(self.at..end).ok_or(CUT)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let bytes = self.file[self.at..].first_chunk().ok_or(CUT)?;
        self.at += N;
        Ok(*bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn length(&mut self) -> Result<usize, &'static str> {
        usize::try_from(self.u64()?).map_err(|_| CUT)
    }

    fn count(&mut self, what: &str) -> Result<u64, GgufFault> {
        let count = self.u64().map_err(in_header)?;
        if count <= MAX_ENTRIES {
            return Ok(count);
        }
        let reason = format!("has {count} {what}, more than the {MAX_ENTRIES} that are read");
        Err(GgufFault::Header(reason))
    }

    /// A name of a key or a tensor.
    fn string(&mut self, limit: usize) -> Result<String, &'static str> {
        let length = self.length()?;
        if length > limit {
            return Err("has a name that is too long");
        }
        let text = str::from_utf8(self.take(length)?);
        Ok(text.map_err(|_| "has a name that is not UTF-8")?.to_owned())
    }

    fn value(&mut self) -> Result<Value, &'static str> {
        const UNKNOWN: &str = "has a type that GGUF does not know";
        let (kind, length) = match self.u32()? {
            // No model has arrays of arrays, and without them nothing here can nest.
            Kind::ARRAY => match self.u32()? {
                Kind::ARRAY => return Err("is an array of arrays, which is not read"),
                kind => (Kind::of(kind).ok_or(UNKNOWN)?, Some(self.length()?)),
            },
            kind => (Kind::of(kind).ok_or(UNKNOWN)?, None),
        };
        let start = self.at;
        let count = length.unwrap_or(1);
        match kind.bytes() {
            Some(bytes) => {
                self.take(count.checked_mul(bytes).ok_or(CUT)?)?;
            }
            None => {
                for _ in 0..count {
                    let length = self.length()?;
                    self.take(length)?;
                }
            }
        }
        let range = start..self.at;
        Ok(Value {
            kind,
            length,
            range,
        })
    }
}

fn in_header(reason: &str) -> GgufFault {
    GgufFault::Header(reason.into())
}

fn key_fault(key: &str, reason: &str) -> GgufFault {
    GgufFault::Key {
        key: key.into(),
        reason: reason.into(),
    }
}

fn tensor_fault(tensor: &str, reason: &str) -> GgufFault {
    GgufFault::Tensor {
        tensor: tensor.into(),
        reason: reason.into(),
    }
}
