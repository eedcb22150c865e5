//! The binary form of an n-gram model, which is mapped into memory.
//!
//! All numbers are in the byte order of the machine. On another the version is wrong, and the file is refused.
//!
//! ```text
//! BINARY_MAGIC, VERSION, then the numbers of Header           u64 each
//! n-grams of each order, first node of each order      u64 each
//! arrays, each at a multiple of 8: the ends of words (u64), words in order, last word, suffix, first child (u32),
//! probabilities and backoffs (f32, or 256 f32 for the root and each order and then a u8 for each node), text
//! checksum (CRC-32) of all before                      u64
//! ```

use super::dictionary::Dictionary;
use super::ngram::NgramLm;
use super::storage::{Array, BINS, Image, Numbers, Quantised};
use super::trie::{MOST_ORDERS, ROOT, Trie};
use bytemuck::{AnyBitPattern, NoUninit};
use candle_core::{Result, bail};
use flate2::Crc;
use memmap2::Mmap;
use std::cmp::Ordering::{Equal, Greater, Less};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The version of the form.
const VERSION: u64 = 1;

/// Arrays begin at multiples of so many bytes.
const ALIGNMENT: usize = size_of::<u64>();

/// The sizes of a model, and its other single numbers.
#[derive(Debug, Clone, Copy)]
struct Header {
    /// Bytes of the whole file.
    bytes: u64,
    orders: u64,
    words: u64,
    /// Bytes of the words.
    text: u64,
    nodes: u64,
    contexts: u64,
    start: u64,
    end: u64,
    unknown: u64,
    quantised: u64,
    /// The bits of an f64.
    max_log10: u64,
}

/// The numbers of a [`Header`], with the two before it.
const HEADER: usize = 2 + size_of::<Header>() / size_of::<u64>();

impl Header {
    fn of(model: &NgramLm) -> Self {
        let trie = &model.trie;
        let mut header = Self {
            bytes: 0,
            orders: model.counts.len() as u64,
            words: model.words.len() as u64,
            text: model.words.text.len() as u64,
            nodes: trie.word.len() as u64,
            contexts: trie.contexts() as u64,
            start: model.start.into(),
            end: model.end.into(),
            unknown: model.unknown.into(),
            quantised: matches!(trie.prob, Numbers::Quantised(_)).into(),
            max_log10: model.max_log10.to_bits(),
        };
        header.bytes = header.size().unwrap_or(u64::MAX);
        header
    }

    fn numbers(&self) -> [u64; HEADER] {
        [
            u64::from_ne_bytes(NgramLm::BINARY_MAGIC),
            VERSION,
            self.bytes,
            self.orders,
            self.words,
            self.text,
            self.nodes,
            self.contexts,
            self.start,
            self.end,
            self.unknown,
            self.quantised,
            self.max_log10,
        ]
    }

    /// The bytes of each array, in the order of the file.
    fn arrays(&self) -> Option<Vec<u64>> {
        let bins = (self.orders + 1) * (BINS * size_of::<f32>()) as u64;
        let numbers = |count: u64| match self.quantised {
            0 => vec![count.checked_mul(4)],
            _ => vec![Some(bins), Some(count)],
        };
        let arrays = [
            vec![
                self.words.checked_mul(8),
                self.words.checked_mul(4),
                self.nodes.checked_mul(4),
                self.nodes.checked_mul(4),
                self.contexts.checked_add(1)?.checked_mul(4),
            ],
            numbers(self.nodes),
            numbers(self.contexts),
            vec![Some(self.text)],
        ];
        arrays.concat().into_iter().collect()
    }

    /// The bytes of a file with this header.
    fn size(&self) -> Option<u64> {
        let numbers = (HEADER as u64 + 2 * self.orders + 1) * 8;
        let arrays = self.arrays()?.into_iter();
        arrays.into_iter().try_fold(numbers, |size, bytes| {
            size.checked_add(bytes.checked_next_multiple_of(ALIGNMENT as u64)?)
        })
    }
}

impl NgramLm {
    /// The first bytes of a file that [`Self::save`] writes.
    pub const BINARY_MAGIC: [u8; 8] = *b"ctcngram";

    /// The model with its probabilities and backoffs as one of 256 values for each order: 14 bytes for each n-gram in
    /// place of 20, and 9 in place of 12 for each of the highest order. If an order has more values, neighbouring ones
    /// form groups of similar sizes, each replaced by its mean; no group spans more than a 128th of the range.
    ///
    /// ```
    /// # use candle_ctc::NgramLm;
    /// # fn main() -> candle_core::Result<()> {
    /// let arpa = "\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.3 </s>\n-0.2 a\n\\end\\\n";
    /// let model = NgramLm::from_arpa(arpa.as_bytes())?;
    /// let exact = model.score_sentence(&["a"]);
    /// assert_eq!(model.quantised()?.score_sentence(&["a"]), exact); // there are only three values
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If memory runs out.
    #[doc(alias = "quantized")]
    pub fn quantised(self) -> Result<Self> {
        let trie = self.trie.quantised()?;
        Ok(Self {
            max_log10: trie.max_log10()?,
            trie,
            ..self
        })
    }

    /// Whether [`Self::quantised`] made this model, or the one that its file came from.
    #[doc(alias = "is_quantized")]
    pub fn is_quantised(&self) -> bool {
        matches!(self.trie.prob, Numbers::Quantised(_))
    }

    /// Writes the model in the crate's binary form, which [`Self::from_path`] maps into memory: to open it takes as
    /// long as to read the file once, its pages can be dropped when memory is short, and processes share them.
    ///
    /// The form belongs to the byte order of this machine and to this version of the crate: keep the ARPA file. The file
    /// appears when it is complete; on Unix, a model may be saved to the file that it was mapped from.
    ///
    /// ```
    /// # use candle_ctc::NgramLm;
    /// # fn main() -> candle_core::Result<()> {
    /// # let arpa = "\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.3 </s>\n-0.2 a\n\\end\\\n";
    /// # let path = std::env::temp_dir().join(format!("candle-ctc-doc-{}.ngram", std::process::id()));
    /// let model = NgramLm::from_arpa(arpa.as_bytes())?;
    /// model.save(&path)?;
    /// let mapped = NgramLm::from_path(&path)?;
    /// assert_eq!(mapped.score_sentence(&["a"]), model.score_sentence(&["a"]));
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match self.write_file(path) {
            Ok(()) => Ok(()),
            Err(error) => bail!("cannot write the n-gram model {}: {error}", path.display()),
        }
    }

    fn write_file(&self, path: &Path) -> std::io::Result<()> {
        // Where a link leads.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            // A pipe or a device cannot be replaced.
            let mut out = BufWriter::new(File::create(path)?);
            self.write(&mut out)?;
            return out.flush();
        }
        let (file, partial) = beside(&path)?;
        let mut out = BufWriter::new(file);
        let written = self
            .write(&mut out)
            .and_then(|()| out.into_inner()?.sync_all())
            .and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            // The error that is told is the one above.
            let _ = std::fs::remove_file(&partial);
        }
        written
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut out = Checked {
            out,
            crc: Crc::new(),
        };
        let Trie {
            starts,
            word,
            prob,
            suffix,
            backoff,
            first_child,
        } = &self.trie;
        let Dictionary { text, ends, sorted } = &self.words;
        let counts = self.counts.iter().map(|count| *count as u64);
        let starts = starts.iter().copied().map(u64::from);
        let numbers = Header::of(self).numbers().into_iter();
        let numbers: Vec<u64> = numbers.chain(counts).chain(starts).collect();
        out.array(bytemuck::cast_slice(&numbers))?;
        out.array(ends.bytes())?;
        for array in [sorted, word, suffix, first_child] {
            out.array(array.bytes())?;
        }
        for numbers in [prob, backoff] {
            match numbers {
                Numbers::Exact(numbers) => out.array(numbers.bytes())?,
                Numbers::Quantised(Quantised { values, codes }) => {
                    out.array(values.bytes())?;
                    out.array(codes)?;
                }
            }
        }
        out.array(text)?;
        let sum = u64::from(out.crc.sum());
        out.array(&sum.to_ne_bytes())
    }

    /// Reads a model that [`Self::save`] has written: from memory, from an archive, or where files cannot be mapped.
    ///
    /// # Errors
    ///
    /// Input that is no such file, comes from a machine of another byte order or another version of the crate, is not
    /// complete or was changed; an input that cannot be read; or memory that runs out.
    pub fn from_binary(mut input: impl Read) -> Result<Self> {
        let mut image: Vec<u64> = Vec::new();
        let bytes = fill(&mut image, HEADER, &mut input)?;
        let header = header(&bytemuck::cast_slice(&image)[..bytes])?;
        // A number of words: each part of the form is one.
        let words = header.bytes / ALIGNMENT as u64;
        let words = usize::try_from(words).unwrap_or(usize::MAX);
        let bytes = bytes + fill(&mut image, words, &mut input)?;
        let more = fill(&mut Vec::new(), 1, &mut input)?;
        check_length(&header, (bytes + more) as u64)?;
        open(Image::Read(image), &header)
    }

    /// Maps a file that [`Self::save`] has written.
    pub(super) fn map(file: &File) -> Result<Self> {
        // SAFETY: the bytes of a map are valid while nobody changes the file. `from_path` asks that of its callers, and
        // `save` replaces files instead of changing them.
        #[allow(unsafe_code)]
        let map = match unsafe { Mmap::map(file) } {
            Ok(map) => map,
            Err(error) => bail!("cannot map the file: {error}"),
        };
        let header = header(&map)?;
        check_length(&header, map.len() as u64)?;
        open(Image::Mapped(map), &header)
    }
}

/// Reads into `image` until it has `words` words, and returns how many bytes came. The last word is filled up with zeros
/// if the input ends within it.
fn fill(image: &mut Vec<u64>, words: usize, input: &mut impl Read) -> Result<usize> {
    let start = size_of_val(&image[..]);
    let mut end = start;
    loop {
        if end == size_of_val(&image[..]) {
            // In steps, as the header may be wrong about the length.
            let more = (words - image.len()).min(image.len().max(1 << 20));
            if more == 0 {
                return Ok(end - start);
            }
            if image.try_reserve_exact(more).is_err() {
                bail!("there is no memory for a model of {words} words of 8 bytes")
            }
            image.resize(image.len() + more, 0);
        }
        let room: &mut [u8] = bytemuck::cast_slice_mut(image);
        match input.read(&mut room[end..]) {
            Ok(0) => {
                image.truncate(end.div_ceil(ALIGNMENT));
                return Ok(end - start);
            }
            Ok(more) => end += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => bail!("byte {end}: {error}"),
        }
    }
}

fn check_length(header: &Header, length: u64) -> Result<()> {
    match length.cmp(&header.bytes) {
        Less => bail!(
            "the model has {} bytes, but the file has {length}: it is not complete",
            header.bytes
        ),
        Equal => Ok(()),
        Greater => bail!("the model has {} bytes, but more follow", header.bytes),
    }
}

/// A new file beside another, which may be renamed to that.
fn beside(path: &Path) -> std::io::Result<(File, PathBuf)> {
    static FILES: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}-{number}.partial", std::process::id()));
        match File::create_new(&partial) {
            Ok(file) => return Ok((file, partial.into())),
            // Of a process with the same number, in another container.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes arrays and computes the checksum of what was written.
struct Checked<W> {
    out: W,
    crc: Crc,
}

impl<W: Write> Checked<W> {
    /// The bytes of an array, and zeros up to where the next one begins.
    fn array(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let end = bytes.len().next_multiple_of(ALIGNMENT);
        for part in [bytes, &[0; ALIGNMENT][..end - bytes.len()]] {
            self.crc.update(part);
            self.out.write_all(part)?;
        }
        Ok(())
    }
}

/// A model from an image of the length that its header tells.
fn open(image: Image, header: &Header) -> Result<NgramLm> {
    let image = Arc::new(image);
    let whole = image.bytes();
    let sum_at = whole.len() - size_of::<u64>();
    let mut crc = Crc::new();
    crc.update(&whole[..sum_at]);
    if whole[sum_at..] != u64::from(crc.sum()).to_ne_bytes() {
        bail!("the checksum is wrong: the file was changed; write it again")
    }
    let model = parts(&image, header);
    match model.and_then(|model| is_sound(&model, header).then_some(model)) {
        Some(model) => Ok(model),
        None => bail!("the file contradicts itself; write it again"),
    }
}

/// The header with which a file begins.
fn header(bytes: &[u8]) -> Result<Header> {
    let number = |at: usize| {
        let bytes = bytes.get(ALIGNMENT * at..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    };
    if !bytes.starts_with(&NgramLm::BINARY_MAGIC) {
        bail!("the model is not in the binary form of candle-ctc")
    }
    match number(1) {
        Some(VERSION) => {}
        Some(version) if version.swap_bytes() == VERSION => {
            bail!(
                "the model was written on a machine of another byte order; write it here from its ARPA file"
            )
        }
        Some(version) => bail!(
            "the model is in version {version} of the binary form, and this is version {VERSION}; write it again from \
             its ARPA file"
        ),
        None => {}
    }
    if bytes.len() < ALIGNMENT * HEADER {
        bail!("the file ends within its header: it is not complete")
    }
    let mut at = 1;
    let mut next = || {
        at += 1;
        number(at).unwrap_or(0)
    };
    // In the order of the file.
    let header = Header {
        bytes: next(),
        orders: next(),
        words: next(),
        text: next(),
        nodes: next(),
        contexts: next(),
        start: next(),
        end: next(),
        unknown: next(),
        quantised: next(),
        max_log10: next(),
    };
    if header.orders == 0 || header.orders > MOST_ORDERS as u64 {
        bail!("the model has {} orders", header.orders)
    }
    if header.quantised > 1 || header.size() != Some(header.bytes) {
        bail!("the sizes of the model's parts contradict each other; write the file again")
    }
    Ok(header)
}

/// The parts of a file whose length is that of its header.
fn parts(image: &Arc<Image>, header: &Header) -> Option<NgramLm> {
    let small = |number: u64| u32::try_from(number).ok();
    let orders = header.orders as usize;
    let numbers = |first: usize| {
        let bytes = &image.bytes()[ALIGNMENT * first..][..ALIGNMENT * orders];
        bytes
            .chunks_exact(ALIGNMENT)
            .map(|bytes| bytes.try_into().map(u64::from_ne_bytes).ok())
    };
    let counts = numbers(HEADER)
        .map(|count| usize::try_from(count?).ok())
        .collect::<Option<_>>()?;
    let starts = numbers(HEADER + orders)
        .map(|start| small(start?))
        .collect::<Option<_>>()?;
    let mut rest = Rest {
        image,
        at: ALIGNMENT * (HEADER + 2 * orders),
        sizes: header.arrays()?.into_iter(),
    };
    let ends = rest.array()?;
    let sorted = rest.array()?;
    let word = rest.array()?;
    let suffix = rest.array()?;
    let first_child = rest.array()?;
    let prob = rest.numbers(header)?;
    let backoff = rest.numbers(header)?;
    Some(NgramLm {
        words: Dictionary {
            text: rest.array()?,
            ends,
            sorted,
        },
        start: small(header.start)?,
        end: small(header.end)?,
        unknown: small(header.unknown)?,
        trie: Trie {
            starts,
            word,
            prob,
            suffix,
            backoff,
            first_child,
        },
        counts,
        max_log10: f64::from_bits(header.max_log10),
    })
}

/// The arrays of a file that were not taken yet.
struct Rest<'a, I> {
    image: &'a Arc<Image>,
    at: usize,
    sizes: I,
}

impl<I: Iterator<Item = u64>> Rest<'_, I> {
    fn array<T: AnyBitPattern + NoUninit>(&mut self) -> Option<Array<T>> {
        let bytes = self.sizes.next()? as usize;
        let start = self.at;
        self.at += bytes.next_multiple_of(ALIGNMENT);
        Some(Array::shared(self.image, start..start + bytes))
    }

    fn numbers(&mut self, header: &Header) -> Option<Numbers> {
        Some(match header.quantised {
            0 => Numbers::Exact(self.array()?),
            _ => Numbers::Quantised(Quantised {
                values: self.array()?,
                codes: self.array()?,
            }),
        })
    }
}

/// Whether every number of a model is one that it may have: then no search in it ends elsewhere than in a sound model.
fn is_sound(model: &NgramLm, header: &Header) -> bool {
    let ids = [header.start, header.end, header.unknown];
    ids.iter().all(|id| *id < header.words)
        && (0.0..f64::INFINITY).contains(&model.max_log10)
        && counts_are_sound(model)
        && words_are_sound(&model.words)
        && trie_is_sound(&model.trie, header.words)
}

/// The n-grams of each order are as many as its nodes; `<unk>` may have been added.
fn counts_are_sound(model: &NgramLm) -> bool {
    let Trie { starts, word, .. } = &model.trie;
    let ends = starts
        .iter()
        .skip(1)
        .map(|start| *start as usize)
        .chain([word.len()]);
    let nodes = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| end.checked_sub(*start as usize));
    nodes
        .zip(&model.counts)
        .enumerate()
        .all(|(at, (nodes, count))| {
            nodes == Some(*count) || (at == 0 && nodes == count.checked_add(1))
        })
}

fn words_are_sound(words: &Dictionary) -> bool {
    let Dictionary { text, ends, sorted } = words;
    let Ok(text) = str::from_utf8(text) else {
        return false;
    };
    let is_place = |end: u64| usize::try_from(end).is_ok_and(|end| text.is_char_boundary(end));
    let sorted_ids = || sorted.iter().copied();
    ends.iter().all(|end| is_place(*end))
        && ends.is_sorted()
        && ends.last().is_none_or(|end| *end == text.len() as u64)
        && sorted_ids().all(|id| (id as usize) < ends.len())
        // Different words in ascending order, so each number stands there once.
        && sorted_ids()
            .zip(sorted_ids().skip(1))
            .all(|(a, b)| words.bytes(a) < words.bytes(b))
}

fn trie_is_sound(trie: &Trie, words: u64) -> bool {
    let Trie {
        starts,
        word,
        suffix,
        first_child,
        ..
    } = trie;
    let (nodes, contexts) = (word.len(), trie.contexts());
    let order = |node: u32| starts.iter().take_while(|start| **start <= node).count();
    let children =
        |context: usize| first_child[context] as usize..first_child[context + 1] as usize;
    let has_every_word = || {
        children(ROOT as usize).len() as u64 == words
            && word[1..]
                .iter()
                .zip(0..words)
                .all(|(word, id)| u64::from(*word) == id)
    };
    // Orders end where the next begins; contexts are the nodes of all but the highest.
    let shape = contexts > 0
        && nodes >= contexts
        && starts.first() == Some(&1)
        && starts.is_sorted()
        && starts
            .last()
            .is_some_and(|start| *start as usize == contexts)
        && suffix.len() == nodes
        && first_child.first() == Some(&1)
        && first_child.last().is_some_and(|end| *end as usize == nodes)
        && first_child.is_sorted();
    shape
        && has_every_word()
        && word.iter().all(|word| u64::from(*word) < words)
        && (0..contexts).all(|context| word[children(context)].is_sorted_by(|a, b| a < b))
        && suffix[0] == ROOT
        // Each suffix is shorter, so each way along suffixes ends at the root.
        && (1..nodes as u32).zip(&suffix[1..]).all(|(node, suffix)| {
            (*suffix as usize) < contexts && order(*suffix) < order(node)
        })
        && (0..nodes as u32).all(|node| {
            let prob = trie.prob.get(node, starts);
            prob.is_finite() && prob <= 0.0
        })
        && (0..contexts as u32).all(|node| trie.backoff.get(node, starts).is_finite())
}
