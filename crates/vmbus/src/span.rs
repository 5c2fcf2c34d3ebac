//! Scatter lists: where the bytes of one buffer lie in lent memory.
//!
//! Flow: `GuestMemory::resolve` builds a list; the device slices buffers off it and copies or reads files into them.
//! Invariants: every span lies inside its region, and holds it mapped; adjacent spans are one. Bytes are never
//! borrowed, only copied, and in unsealed memory by system calls only: this is the one place that tells the two kinds
//! apart. Must not know where a list came from. Source: design rule 1.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use crate::memory::{PARTS_MAX, Region, UnsealedRegion, read_file_into};

/// Lists up to this long need no allocation: data, request and response of a small request, and one to spare.
const INLINE: usize = 4;

/// Memory that a peer has lent, of either kind.
#[derive(Clone, Debug)]
pub enum Lent {
    /// Its size is final: anything may lie here.
    Sealed(Arc<Region>),
    /// It may shrink at any moment: data buffers only, system calls only.
    Unsealed(Arc<UnsealedRegion>),
}

impl From<Arc<Region>> for Lent {
    fn from(region: Arc<Region>) -> Self {
        Self::Sealed(region)
    }
}

impl From<Arc<UnsealedRegion>> for Lent {
    fn from(region: Arc<UnsealedRegion>) -> Self {
        Self::Unsealed(region)
    }
}

impl Lent {
    /// Returns the size in bytes, a positive multiple of 4096.
    #[allow(clippy::len_without_is_empty, reason = "lent memory is never empty")]
    pub fn len(&self) -> usize {
        self.target().len()
    }

    /// Returns what tells whether anybody still uses this memory, without using it.
    pub fn watch(&self) -> WatchedLent {
        match self {
            Self::Sealed(region) => WatchedLent::Sealed(Arc::downgrade(region)),
            Self::Unsealed(region) => WatchedLent::Unsealed(Arc::downgrade(region)),
        }
    }

    /// The mapping, for the addresses that system calls are given.
    fn target(&self) -> &Region {
        match self {
            Self::Sealed(region) => region,
            Self::Unsealed(region) => region.target(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.target(), other.target())
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Sealed(region) => region.read(offset, into),
            Self::Unsealed(region) => return region.read(offset, into),
        }
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> io::Result<()> {
        match self {
            Self::Sealed(region) => region.write(offset, from),
            Self::Unsealed(region) => return region.write(offset, from),
        }
        Ok(())
    }
}

/// Lent memory that is watched and not held.
#[derive(Clone, Debug)]
pub enum WatchedLent {
    /// Memory whose size is final.
    Sealed(Weak<Region>),
    /// Memory that may shrink.
    Unsealed(Weak<UnsealedRegion>),
}

impl WatchedLent {
    /// Tells whether somebody holds the memory mapped.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Sealed(region) => region.strong_count() > 0,
            Self::Unsealed(region) => region.strong_count() > 0,
        }
    }
}

/// `length` bytes at `offset` of lent memory, which stays mapped as long as this lives.
#[derive(Clone, Debug)]
pub struct Span {
    memory: Lent,
    offset: usize,
    length: usize,
}

impl Span {
    /// Makes a span. Panics if the bytes are not inside the memory: a defect of the caller's.
    pub fn new(memory: impl Into<Lent>, offset: usize, length: usize) -> Self {
        let memory = memory.into();
        memory.target().address(offset, length);
        Self { memory, offset, length }
    }

    /// Returns the memory it lies in.
    pub fn memory(&self) -> &Lent {
        &self.memory
    }

    /// Returns the offset of the first byte in its memory.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn continues(&self, before: &Self) -> bool {
        self.memory.is(&before.memory) && before.offset + before.length == self.offset
    }
}

/// A buffer as a list of spans in the buffer's order.
#[derive(Clone, Debug, Default)]
pub struct SpanList {
    inline: [Option<Span>; INLINE],
    more: Vec<Span>,
    count: usize,
    length: usize,
}

/// How far a read that must not wait came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRead {
    /// Bytes that are in place.
    pub bytes: usize,
    /// Why it ended there.
    pub end: ReadEnd,
}

/// Why a read that must not wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// All that was asked for is in place.
    Filled,
    /// The file ends here.
    EndOfFile,
    /// The next byte is not in the page cache (EAGAIN): a thread that may wait has to read on.
    WouldBlock,
    /// The file system cannot tell what would wait (EOPNOTSUPP): remember this for its mount.
    Unsupported,
}

impl SpanList {
    /// Makes an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a span at the end, merging it with the last if it continues there.
    pub fn push(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        self.length += span.length;
        if let Some(last) = self.last_mut()
            && span.continues(last)
        {
            last.length += span.length;
            return;
        }
        match self.inline.get_mut(self.count) {
            Some(place) => *place = Some(span),
            None => self.more.push(span),
        }
        self.count += 1;
    }

    fn last_mut(&mut self) -> Option<&mut Span> {
        match self.more.last_mut() {
            Some(last) => Some(last),
            None => self.inline[..self.count.min(INLINE)].last_mut()?.as_mut(),
        }
    }

    /// Returns the spans in order.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.inline.iter().flatten().chain(&self.more)
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tells whether bytes `at..at + length` lie in memory whose size is final, as a request and a response must.
    ///
    /// Panics if they are not inside.
    pub fn is_sealed(&self, at: usize, length: usize) -> bool {
        self.parts(at, length).all(|(span, _, _)| matches!(span.memory, Lent::Sealed(_)))
    }

    /// Yields (span, offset in its memory, length) for bytes `offset..offset + length`. Panics if they are not inside.
    fn parts(&self, offset: usize, length: usize) -> impl Iterator<Item = (&Span, usize, usize)> {
        let inside = offset <= self.length && length <= self.length - offset;
        assert!(inside, "bytes {offset} + {length} of a list of {} bytes", self.length);
        let (mut skip, mut left) = (offset, length);
        self.spans().filter_map(move |span| {
            let skipped = skip.min(span.length);
            let taken = left.min(span.length - skipped);
            skip -= skipped;
            left -= taken;
            (taken > 0).then_some((span, span.offset + skipped, taken))
        })
    }

    /// Returns bytes `offset..offset + length` as a list. Panics if they are not inside: lengths of a peer are judged
    /// before.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        let mut list = Self::new();
        for (span, at, length) in self.parts(offset, length) {
            list.push(Span { memory: span.memory.clone(), offset: at, length });
        }
        list
    }

    /// Copies bytes from `at` on to private memory. Panics if they are not inside.
    ///
    /// Fails in unsealed memory only: EFAULT where it has shrunk.
    pub fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        let mut rest = into;
        for (span, offset, length) in self.parts(at, rest.len()) {
            let (part, behind) = rest.split_at_mut(length);
            span.memory.read(offset, part)?;
            rest = behind;
        }
        Ok(())
    }

    /// Copies private bytes to `at`. Panics if they are not inside.
    ///
    /// Fails in unsealed memory only: EFAULT where it has shrunk.
    pub fn write(&self, at: usize, from: &[u8]) -> io::Result<()> {
        let mut rest = from;
        for (span, offset, length) in self.parts(at, rest.len()) {
            let (part, behind) = rest.split_at(length);
            span.memory.write(offset, part)?;
            rest = behind;
        }
        Ok(())
    }

    /// Reads a file from `file_offset` on straight into bytes `at..at + length`, waiting for the disk if need be.
    ///
    /// Returns the bytes read: `length`, or fewer if the file ends. EFAULT: unsealed memory has shrunk. Panics if the
    /// bytes are not inside the list.
    pub fn read_from_file(&self, at: usize, fd: BorrowedFd<'_>, file_offset: u64, length: usize) -> io::Result<usize> {
        self.fill(at, fd, file_offset, length, false).map(|read| read.bytes)
    }

    /// The same from the page cache only: what would wait for the disk ends the read.
    pub fn read_from_file_nowait(
        &self,
        at: usize,
        fd: BorrowedFd<'_>,
        file_offset: u64,
        length: usize,
    ) -> io::Result<FileRead> {
        self.fill(at, fd, file_offset, length, true)
    }

    fn fill(
        &self,
        at: usize,
        fd: BorrowedFd<'_>,
        file_offset: u64,
        length: usize,
        nowait: bool,
    ) -> io::Result<FileRead> {
        let mut bytes = 0;
        while bytes < length {
            let parts = self.parts(at + bytes, length - bytes).take(PARTS_MAX);
            let parts = parts.map(|(span, offset, length)| (span.memory.target(), offset, length));
            match read_file_into(fd, file_offset.saturating_add(bytes as u64), parts, nowait) {
                Ok(0) => return Ok(FileRead { bytes, end: ReadEnd::EndOfFile }),
                Ok(read) => bytes += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let end = nowait.then(|| cannot_go_on(&error)).flatten().ok_or(error)?;
                    return Ok(FileRead { bytes, end });
                }
            }
        }
        Ok(FileRead { bytes, end: ReadEnd::Filled })
    }
}

fn cannot_go_on(error: &io::Error) -> Option<ReadEnd> {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Some(ReadEnd::WouldBlock),
        Some(libc::EOPNOTSUPP) => Some(ReadEnd::Unsupported),
        _ => None,
    }
}
