//! The pixels of one image: owned, recycled, or a part of a shared file.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum number of buffers that a thread keeps for the next images.
const SPARE_ROWS: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Number of separate reference counts. More threads share them.
const COUNTS: usize = 16;

/// Bytes that many samples share: a file in memory, or a mapped file.
///
/// Up to 16 threads have separate reference counts. The cache line of a single count would move
/// between cores for each image, which takes longer than copying a small image.
///
/// ```
/// use burn_rehearsal_vision::data::{Pixels, SharedBytes};
///
/// let file = SharedBytes::new(vec![1u8, 2, 3, 4]);
/// let image = Pixels::part(&file, 1..3).ok_or("out of range")?;
/// assert_eq!(&*image, &[2, 3]);
/// assert!(Pixels::part(&file, 3..5).is_none());
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone)]
pub struct SharedBytes(Arc<[Arc<Counted>; COUNTS]>);

/// Alone on two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
struct Counted(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl SharedBytes {
    /// Shares `bytes`.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let bytes: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(bytes);
        Self(Arc::new(std::array::from_fn(|_| Arc::new(Counted(bytes.clone())))))
    }

    fn of_this_thread(&self) -> &Arc<Counted> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static INDEX: usize = THREADS.fetch_add(1, Ordering::Relaxed) % COUNTS;
        }
        // At the end of a thread the thread-local value may be gone.
        &self.0[INDEX.try_with(|index| *index).unwrap_or_default()]
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0[0].bytes()
    }
}

impl Counted {
    fn bytes(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// The pixels of one image: bytes, channels first.
///
/// ```
/// use burn_rehearsal_vision::data::Pixels;
///
/// let owned = Pixels::from(vec![0, 128, 255]);
/// let recycled = Pixels::write(3, |row| {
///     row.copy_from_slice(&owned);
///     Ok::<(), String>(())
/// })?;
/// assert_eq!(*owned, *recycled);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone)]
pub struct Pixels(Storage);

#[derive(Clone)]
enum Storage {
    Own(Arc<[u8]>),
    Recycled(Row),
    /// The range is within the bytes.
    Part(Arc<Counted>, Range<usize>),
}

impl Pixels {
    /// Makes `len` pixels with `write`, in memory of earlier images of this thread if possible.
    /// `write` must set all bytes, because their initial values are arbitrary.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub fn write<E>(len: usize, write: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut row = Row(SPARE.with_borrow_mut(Vec::pop).unwrap_or_default());
        row.0.resize(len, 0);
        write(&mut row.0)?;
        Ok(Self(Storage::Recycled(row)))
    }

    /// A part of shared bytes, without a copy; `None` if the range is out of bounds.
    pub fn part(bytes: &SharedBytes, range: Range<usize>) -> Option<Self> {
        let bytes = bytes.of_this_thread();
        bytes.bytes().get(range.clone())?;
        Some(Self(Storage::Part(bytes.clone(), range)))
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Storage::Own(pixels) => pixels,
            Storage::Recycled(row) => &row.0,
            Storage::Part(bytes, range) => bytes.bytes().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(pixels: Vec<u8>) -> Self {
        Self(Storage::Own(pixels.into()))
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pixels", self.len())
    }
}

/// Pixels whose memory is recycled by the thread that drops them.
#[derive(Clone)]
struct Row(Vec<u8>);

impl Drop for Row {
    fn drop(&mut self) {
        let row = std::mem::take(&mut self.0);
        // At the end of a thread its spare buffers may be gone.
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < SPARE_ROWS
            {
                spare.push(row);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_dropped_pixels_is_reused() {
        let fill = |len, value| {
            let written = Pixels::write::<()>(len, |row| {
                row.fill(value);
                Ok(())
            });
            written.unwrap()
        };
        let first = fill(8, 1);
        let place = first.as_ptr();
        let copy = first.clone();
        drop(first);
        let second = fill(6, 2);
        assert_eq!((second.as_ptr(), &*second, &*copy), (place, &[2u8; 6][..], &[1u8; 8][..]));
        assert_eq!(Pixels::write(3, |_| Err("no")).err(), Some("no"));
    }

    #[test]
    fn a_part_must_be_within_the_bytes() {
        let bytes = SharedBytes::new(vec![1u8, 2, 3, 4]);
        assert_eq!(&*Pixels::part(&bytes, 1..3).unwrap(), &[2, 3]);
        assert!(Pixels::part(&bytes, 3..5).is_none());
        assert!(Pixels::part(&bytes, 5..usize::MAX).is_none());
    }
}
