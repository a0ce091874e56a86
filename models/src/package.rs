//! A model package, opened.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::atomic::replace_file;
use crate::calibration::Calibration;
use crate::chat::ChatTemplate;
use crate::digest;
use crate::error::PackageError;
use crate::layout::{
    ATTENTION_NORM, FEED_FORWARD_NORM, FINAL_NORM, KEY_BIAS, KEY_NORM, Layout, OUTPUT_BIAS,
    QUERY_BIAS, QUERY_NORM, Stored, VALUE_BIAS,
};
use crate::manifest::{
    self, CALIBRATION, CHAT_TEMPLATE, EMBEDDING, FileRecord, MANIFEST, Manifest, TOKENIZER,
};
use crate::matrix::Matrix;
use crate::region::Region;
use crate::shape::Shape;
use crate::tensors::{TensorFile, f32_values};
use crate::tokenizer::Tokenizer;

/// A model package, its weights mapped into memory. Cloning is cheap, and clones share the mapping.
///
/// Whatever [`open`](Self::open) returned has every tensor with the right type and shape, so reading weights cannot
/// fail; asking for a layer or a group that does not exist panics, as indexing a slice does.
#[derive(Clone, Debug)]
pub struct Package(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    manifest: Manifest,
    layout: Layout,
    identity: String,
    outer: OuterWeights,
    layers: Vec<LayerWeights>,
    /// Read when it is first asked for.
    tokenizer: OnceLock<Tokenizer>,
}

/// What is before the first layer and after the last.
#[derive(Debug)]
struct OuterWeights {
    file: TensorFile,
    embedding: Stored,
    head: Option<Stored>,
    final_norm: Range<usize>,
}

#[derive(Debug)]
struct LayerWeights {
    file: TensorFile,
    /// By name, those that the layout lists.
    vectors: HashMap<&'static str, Range<usize>>,
    query: Stored,
    key: Stored,
    value: Stored,
    output: Stored,
    gate: Stored,
    up: Stored,
    down: Stored,
}

/// The attention weights of one layer. KV group `g` owns rows `g * head_width ..` of key and value, and rows of query
/// and columns of output from `g * Shape::kv_group_width()`. Rotary positions pair element `i` of a head with element
/// `i + head_width / 2`, as in Hugging Face's layout.
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    /// RMS normalisation before attention: `width` gains.
    pub norm: Vec<f32>,
    /// `heads * head_width` × `width`.
    pub query: Matrix<'a>,
    /// `kv_heads * head_width` × `width`.
    pub key: Matrix<'a>,
    /// `kv_heads * head_width` × `width`.
    pub value: Matrix<'a>,
    /// `width` × `heads * head_width`.
    pub output: Matrix<'a>,
    /// `heads * head_width`, added to the queries; this and the next two are there if [`Shape::qkv_bias`] says so.
    pub query_bias: Option<Vec<f32>>,
    /// `kv_heads * head_width`.
    pub key_bias: Option<Vec<f32>>,
    /// `kv_heads * head_width`.
    pub value_bias: Option<Vec<f32>>,
    /// `width`, if [`Shape::output_bias`] says so.
    pub output_bias: Option<Vec<f32>>,
    /// RMS normalisation of every head's query, if [`Shape::qk_norm`] says so: `head_width` gains.
    pub query_norm: Option<Vec<f32>>,
    /// The same for keys.
    pub key_norm: Option<Vec<f32>>,
}

/// The weights of one feed-forward neuron group.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// `group_size` × `width`.
    pub gate: Matrix<'a>,
    /// `group_size` × `width`.
    pub up: Matrix<'a>,
    /// `width` × `group_size`.
    pub down: Matrix<'a>,
}

impl Package {
    /// Opens a package: reads its manifest, maps its files, and checks their lengths and every tensor's type and shape.
    /// Weights are not read; [`verify`](Self::verify) does that.
    ///
    /// # Errors
    ///
    /// Whatever is not as it must be, with the file and the tensor.
    pub fn open(dir: &Path) -> Result<Self, PackageError> {
        let path = dir.join(MANIFEST);
        let manifest = match fs::read(&path) {
            Ok(bytes) => Manifest::parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PackageError::NotAPackage { dir: dir.into() });
            }
            Err(error) => return Err(PackageError::io(&path)(error)),
        };
        let layout = manifest
            .layout()
            .map_err(|reason| PackageError::Manifest { path, reason })?;
        for (name, record) in &manifest.files {
            let path = dir.join(name);
            let found = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(PackageError::Missing { path });
                }
                Err(error) => return Err(PackageError::io(&path)(error)),
            };
            if found != record.bytes {
                let expected = record.bytes;
                return Err(PackageError::Length {
                    path,
                    expected,
                    found,
                });
            }
        }
        let width = manifest.shape.width;
        let outer = OuterWeights::open(&dir.join(EMBEDDING), &layout, width)?;
        let layers = (0..manifest.shape.layers)
            .map(|layer| LayerWeights::open(&dir.join(manifest::layer_file(layer)), &layout))
            .collect::<Result<_, PackageError>>()?;
        Ok(Self(Arc::new(Inner {
            dir: dir.into(),
            identity: manifest.identity(),
            manifest,
            layout,
            outer,
            layers,
            tokenizer: OnceLock::new(),
        })))
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.manifest.name
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Dimensions and constants.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.0.manifest.shape
    }

    /// Feed-forward neurons in one group.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.0.manifest.group_size
    }

    /// Feed-forward groups in one layer.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.shape().feed_forward / self.group_size()
    }

    /// What the weights are, as 64 hexadecimal digits: two packages with the same identity compute the same thing.
    /// Name, tokenizer, chat template and calibration do not count. It rests on the manifest's hashes, which
    /// [`verify`](Self::verify) compares with the files.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.0.identity
    }

    /// The tokenizer, read from its file the first time.
    ///
    /// # Errors
    ///
    /// It cannot be read, or makes tokens that the model does not know.
    pub fn tokenizer(&self) -> Result<Tokenizer, PackageError> {
        if let Some(tokenizer) = self.0.tokenizer.get() {
            return Ok(tokenizer.clone());
        }
        let tokenizer = Tokenizer::open(&self.0.dir.join(TOKENIZER), self.shape().vocabulary)?;
        Ok(self.0.tokenizer.get_or_init(|| tokenizer).clone())
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// A file of the package, if it holds weights.
    pub(crate) fn weight_file(&self, name: &str) -> Option<&TensorFile> {
        if name == EMBEDDING {
            return Some(&self.0.outer.file);
        }
        let layer = (0..self.shape().layers).find(|layer| manifest::layer_file(*layer) == name)?;
        Some(&self.0.layers[layer].file)
    }

    /// Reads the chat template, if the package has one.
    ///
    /// # Errors
    ///
    /// It cannot be read or is no template.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, PackageError> {
        let Some(tokens) = &self.manifest().chat else {
            return Ok(None);
        };
        let path = self.0.dir.join(CHAT_TEMPLATE);
        let source = fs::read_to_string(&path).map_err(PackageError::io(&path))?;
        ChatTemplate::new(&path, source, tokens.clone()).map(Some)
    }

    /// Writes the embedding of a token to `out`.
    ///
    /// # Errors
    ///
    /// [`PackageError::Token`] when the model does not know it.
    ///
    /// # Panics
    ///
    /// If `out` is not `width` long.
    pub fn embedding(&self, token: u32, out: &mut [f32]) -> Result<(), PackageError> {
        let vocabulary = self.shape().vocabulary;
        let row = token as usize;
        if row >= vocabulary {
            return Err(PackageError::Token { token, vocabulary });
        }
        let outer = &self.0.outer;
        outer
            .embedding
            .matrix(&outer.file, 0)
            .dequantise_row(row, out);
        Ok(())
    }

    /// The attention weights of a layer.
    #[must_use]
    pub fn attention(&self, layer: usize) -> Attention<'_> {
        let weights = &self.0.layers[layer];
        let file = &weights.file;
        Attention {
            norm: weights.vector(ATTENTION_NORM).unwrap_or_default(),
            query: weights.query.matrix(file, 0),
            key: weights.key.matrix(file, 0),
            value: weights.value.matrix(file, 0),
            output: weights.output.matrix(file, 0),
            query_bias: weights.vector(QUERY_BIAS),
            key_bias: weights.vector(KEY_BIAS),
            value_bias: weights.vector(VALUE_BIAS),
            output_bias: weights.vector(OUTPUT_BIAS),
            query_norm: weights.vector(QUERY_NORM),
            key_norm: weights.vector(KEY_NORM),
        }
    }

    /// RMS normalisation before a layer's feed-forward part: `width` gains.
    #[must_use]
    pub fn feed_forward_norm(&self, layer: usize) -> Vec<f32> {
        let norm = self.0.layers[layer].vector(FEED_FORWARD_NORM);
        norm.unwrap_or_default()
    }

    /// The weights of a feed-forward group.
    #[must_use]
    pub fn group(&self, layer: usize, group: usize) -> Group<'_> {
        let weights = &self.0.layers[layer];
        Group {
            gate: weights.gate.matrix(&weights.file, group),
            up: weights.up.matrix(&weights.file, group),
            down: weights.down.matrix(&weights.file, group),
        }
    }

    /// Bytes of all weights: of every file but the tokenizer and the calibration.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let files = &self.manifest().files;
        let weights = files
            .iter()
            .filter(|(name, _)| ![TOKENIZER, CALIBRATION].contains(&name.as_str()));
        weights.map(|(_, record)| record.bytes).sum()
    }

    /// Bytes that one feed-forward group takes in its file.
    #[must_use]
    pub fn group_bytes(&self) -> u64 {
        let group = self.group(0, 0);
        group.gate.bytes() + group.up.bytes() + group.down.bytes()
    }

    /// Bytes that one layer's attention takes in its file, without its vectors.
    #[must_use]
    pub fn attention_bytes(&self) -> u64 {
        let attention = self.attention(0);
        let matrices = [
            attention.query,
            attention.key,
            attention.value,
            attention.output,
        ];
        matrices.iter().map(Matrix::bytes).sum()
    }

    /// Bytes of all feed-forward groups of all layers.
    #[must_use]
    pub fn all_groups_bytes(&self) -> u64 {
        self.group_bytes() * (self.shape().layers * self.groups()) as u64
    }

    /// Where a feed-forward group's weights lie.
    #[must_use]
    pub fn group_region(&self, layer: usize, group: usize) -> Region<'_> {
        let weights = &self.0.layers[layer];
        let stored = [&weights.gate, &weights.up, &weights.down];
        Region {
            file: &weights.file,
            ranges: stored.iter().flat_map(|s| s.ranges(group)).collect(),
        }
    }

    /// Where the matrices of a layer's attention lie.
    #[must_use]
    pub fn attention_region(&self, layer: usize) -> Region<'_> {
        let weights = &self.0.layers[layer];
        let stored = [
            &weights.query,
            &weights.key,
            &weights.value,
            &weights.output,
        ];
        Region {
            file: &weights.file,
            ranges: stored.iter().flat_map(|s| s.ranges(0)).collect(),
        }
    }

    /// Where the output head lies: where the embedding does, when it is tied to it.
    #[must_use]
    pub fn head_region(&self) -> Region<'_> {
        let outer = &self.0.outer;
        let stored = outer.head.as_ref().unwrap_or(&outer.embedding);
        Region {
            file: &outer.file,
            ranges: stored.ranges(0).collect(),
        }
    }

    /// RMS normalisation before the output head: `width` gains.
    #[must_use]
    pub fn final_norm(&self) -> Vec<f32> {
        let outer = &self.0.outer;
        f32_values(&outer.file.bytes()[outer.final_norm.clone()])
    }

    /// The output head, `vocabulary` × `width`: the embedding when it is tied.
    #[must_use]
    pub fn head(&self) -> Matrix<'_> {
        let outer = &self.0.outer;
        outer
            .head
            .as_ref()
            .unwrap_or(&outer.embedding)
            .matrix(&outer.file, 0)
    }

    /// Reads the calibration, if the package has one.
    ///
    /// # Errors
    ///
    /// It is damaged or cannot be read.
    pub fn calibration(&self) -> Result<Option<Calibration>, PackageError> {
        let Some(record) = self.manifest().files.get(CALIBRATION) else {
            return Ok(None);
        };
        let path = self.0.dir.join(CALIBRATION);
        let found = digest::of_file(&path).map_err(PackageError::io(&path))?;
        record.check_hash(&path, found)?;
        Calibration::read(&path).map(Some)
    }

    /// Stores a calibration in the package's folder in place of the one it has, and opens the package again. Whoever
    /// opens the folder meanwhile, or after a crash in between, finds the old calibration, none, or the new one.
    ///
    /// # Errors
    ///
    /// An array that is not finite or does not fill its shape; the folder cannot be written to.
    pub fn with_calibration(&self, calibration: &Calibration) -> Result<Self, PackageError> {
        let bytes = calibration.to_bytes()?;
        let record = FileRecord {
            bytes: bytes.len() as u64,
            sha256: digest::of_bytes(&bytes),
        };
        let dir = &self.0.dir;
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            replace_file(&path, bytes).map_err(PackageError::io(&path))
        };
        let mut manifest = self.0.manifest.clone();
        // Never a manifest with the hash of another calibration than the one beside it.
        if manifest.files.remove(CALIBRATION).is_some() {
            put(MANIFEST, &manifest.to_bytes())?;
        }
        put(CALIBRATION, &bytes)?;
        manifest.files.insert(CALIBRATION.into(), record);
        put(MANIFEST, &manifest.to_bytes())?;
        Self::open(dir)
    }
}

impl OuterWeights {
    fn open(path: &Path, layout: &Layout, width: usize) -> Result<Self, PackageError> {
        let file = TensorFile::open(path)?;
        file.map().read_exactly();
        Ok(Self {
            embedding: layout.embedding.find(&file)?,
            head: layout.head.map(|head| head.find(&file)).transpose()?,
            final_norm: file.expect_vector(FINAL_NORM, width)?,
            file,
        })
    }
}

impl LayerWeights {
    fn open(path: &Path, layout: &Layout) -> Result<Self, PackageError> {
        let file = TensorFile::open(path)?;
        file.map().read_exactly();
        let vectors = layout
            .vectors
            .iter()
            .map(|&(name, length)| Ok((name, file.expect_vector(name, length)?)))
            .collect::<Result<_, PackageError>>()?;
        Ok(Self {
            vectors,
            query: layout.query.find(&file)?,
            key: layout.key.find(&file)?,
            value: layout.value.find(&file)?,
            output: layout.output.find(&file)?,
            gate: layout.gate.find(&file)?,
            up: layout.up.find(&file)?,
            down: layout.down.find(&file)?,
            file,
        })
    }

    /// A vector, if the layout lists it.
    fn vector(&self, name: &str) -> Option<Vec<f32>> {
        let range = self.vectors.get(name)?;
        Some(f32_values(&self.file.bytes()[range.clone()]))
    }
}
