//! Sources of pixels along one axis of an image.
//!
//! Crop, flip, resize and their combinations treat the two axes of an image separately. For one
//! sample and one axis, each is a table: an output position is one input position (crop, flip), or
//! a mixture of two (bilinear resize). Tables are computed and combined on the host, and uploaded.

/// A contribution to an output position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    /// A valid input position.
    pub(super) index: usize,
    /// Its weight; 0 for positions outside the image.
    pub(super) weight: f32,
}

/// The table of one axis of one sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// One contribution per output position.
    pub(super) near: Vec<Tap>,
    /// The second contribution per output position; `None` without mixtures.
    pub(super) far: Option<Vec<Tap>>,
}

impl Axis {
    /// `size` positions from `start` of an axis of `len` (at least 1) positions, with zeros outside
    /// the axis.
    pub(super) fn window(len: usize, start: i64, size: usize) -> Self {
        let tap = |position: i64| match usize::try_from(position) {
            Ok(index) if index < len => Tap { index, weight: 1.0 },
            _ => Tap { index: 0, weight: 0.0 },
        };
        Self { near: (start..).take(size).map(tap).collect(), far: None }
    }

    /// The whole axis.
    pub(super) fn identity(len: usize) -> Self {
        Self::window(len, 0, len)
    }

    /// The whole axis in reverse order.
    pub(super) fn reversed(len: usize) -> Self {
        Self { near: (0..len).rev().map(|index| Tap { index, weight: 1.0 }).collect(), far: None }
    }

    /// `len` (at least 1) positions from `start`, scaled to `size` positions by linear
    /// interpolation between pixel centers.
    ///
    /// Output position o is input position `(o + ½) · len / size − ½`, clamped to the `len`
    /// positions: PyTorch's `align_corners=False`, without antialiasing.
    pub(super) fn linear(start: usize, len: usize, size: usize) -> Self {
        let scale = len as f64 / size as f64;
        let position = |output: usize| ((output as f64 + 0.5) * scale - 0.5).max(0.0);
        let taps = |far: bool| {
            let tap = move |output: usize| {
                let position = position(output);
                let below = (position as usize).min(len - 1);
                let part = (position - below as f64) as f32;
                match far {
                    false => Tap { index: start + below, weight: 1.0 - part },
                    true => Tap { index: start + (below + 1).min(len - 1), weight: part },
                }
            };
            (0..size).map(tap).collect()
        };
        Self { near: taps(false), far: Some(taps(true)) }
    }

    /// The number of output positions.
    pub(super) fn len(&self) -> usize {
        self.near.len()
    }

    /// Whether the table leaves an axis of `len` positions unchanged.
    pub(super) fn is_identity(&self, len: usize) -> bool {
        self.far.is_none()
            && self.len() == len
            && self.near.iter().enumerate().all(|(at, tap)| *tap == Tap { index: at, weight: 1.0 })
    }

    /// Combines this table with `next`. Returns `None` if both are mixtures, because the result has
    /// more than two contributions per position.
    pub(super) fn then(&self, next: &Self) -> Option<Self> {
        let through = |inner: &[Tap], outer: &[Tap]| -> Vec<Tap> {
            let look_up = |tap: &Tap| Tap {
                index: inner[tap.index].index,
                weight: inner[tap.index].weight * tap.weight,
            };
            outer.iter().map(look_up).collect()
        };
        let far = match (&self.far, &next.far) {
            (None, None) => None,
            (None, Some(far)) => Some(through(&self.near, far)),
            (Some(far), None) => Some(through(far, &next.near)),
            (Some(_), Some(_)) => return None,
        };
        Some(Self { near: through(&self.near, &next.near), far })
    }
}

/// The tables of a mini-batch, one per sample and axis. All tables of an axis have the same length
/// and kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axes {
    pub(super) vertical: Vec<Axis>,
    pub(super) horizontal: Vec<Axis>,
}

impl Axes {
    /// Combines the tables of all samples and both axes with [`Axis::then`]. `None` if any two
    /// cannot be combined.
    pub(super) fn then(&self, next: &Self) -> Option<Self> {
        let fuse = |first: &[Axis], second: &[Axis]| -> Option<Vec<Axis>> {
            first.iter().zip(second).map(|(first, second)| first.then(second)).collect()
        };
        Some(Self {
            vertical: fuse(&self.vertical, &next.vertical)?,
            horizontal: fuse(&self.horizontal, &next.horizontal)?,
        })
    }
}
