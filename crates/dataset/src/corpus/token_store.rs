//! Where the tokens of a corpus lie: the newest in memory, those before them in a file without a name. So a small corpus
//! has no file, and a large one takes no more memory than a small one.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::CorpusError;

/// Tokens in memory (4 MiB); when there are more, all go to the file.
pub(super) const MOST_IN_MEMORY: usize = 1 << 20;
/// Tokens that become bytes at a time.
const PIECE: usize = 16 * 1024;
/// Bytes of a token.
const WIDTH: usize = size_of::<u32>();

/// Tokens by their place, in the order in which they came.
#[derive(Debug)]
pub(super) struct TokenStore {
    /// Where the file lies.
    folder: PathBuf,
    most_in_memory: usize,
    file: Option<File>,
    /// Tokens in the file, four bytes each in little endian.
    filed: usize,
    /// The tokens behind those.
    recent: Vec<u32>,
}

impl TokenStore {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            most_in_memory: MOST_IN_MEMORY,
            file: None,
            filed: 0,
            recent: Vec::new(),
        }
    }

    /// The same, with another bound on what is in memory.
    #[cfg(test)]
    pub(super) fn keeping(self, most_in_memory: usize) -> Self {
        Self {
            most_in_memory,
            ..self
        }
    }

    pub(super) fn len(&self) -> usize {
        self.filed + self.recent.len()
    }

    /// Bytes of memory.
    pub(super) fn resident_bytes(&self) -> usize {
        size_of_val(&self.recent[..])
    }

    /// Adds tokens at the end. After an error nothing that was read is certain.
    pub(super) fn push(&mut self, tokens: impl Iterator<Item = u32>) -> Result<(), CorpusError> {
        self.recent.extend(tokens);
        if self.recent.len() <= self.most_in_memory {
            return Ok(());
        }
        self.spill().map_err(|source| CorpusError::NoRoom {
            folder: self.folder.clone(),
            source,
        })
    }

    /// The tokens at `places`, which are there.
    pub(super) fn read(&self, places: Range<usize>) -> Result<Cow<'_, [u32]>, CorpusError> {
        let recent = |places: Range<usize>| &self.recent[places.start - self.filed..places.end - self.filed];
        let Some(file) = self.file.as_ref().filter(|_| places.start < self.filed) else {
            return Ok(Cow::Borrowed(recent(places)));
        };
        let end = places.end.min(self.filed);
        let mut bytes = vec![0; (end - places.start) * WIDTH];
        file.read_exact_at(&mut bytes, offset(places.start))
            .map_err(|source| CorpusError::Lost {
                folder: self.folder.clone(),
                source,
            })?;
        let (whole, _) = bytes.as_chunks::<WIDTH>();
        let mut tokens: Vec<u32> = whole.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        if end < places.end {
            tokens.extend_from_slice(recent(end..places.end));
        }
        Ok(Cow::Owned(tokens))
    }

    /// Keeps the first `length` tokens.
    pub(super) fn truncate(&mut self, length: usize) {
        self.recent.truncate(length.saturating_sub(self.filed));
        self.filed = self.filed.min(length);
    }

    /// Moves what is in memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                fs::create_dir_all(&self.folder)?;
                self.file.insert(tempfile::tempfile_in(&self.folder)?)
            }
        };
        for (number, piece) in self.recent.chunks(PIECE).enumerate() {
            let bytes: Vec<u8> = piece.iter().flat_map(|token| token.to_le_bytes()).collect();
            file.write_all_at(&bytes, offset(self.filed + number * PIECE))?;
        }
        self.filed += self.recent.len();
        self.recent.clear();
        Ok(())
    }
}

/// Of a token in the file.
fn offset(place: usize) -> u64 {
    (place * WIDTH) as u64
}
