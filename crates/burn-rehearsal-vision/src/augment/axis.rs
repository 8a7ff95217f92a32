//! The source of the pixels along one axis of an image.
//!
//! Crop, flip, resize and their combinations treat the two axes of an image apart. For one sample
//! and one axis, all of them are a short table: each output position is one input position (crop,
//! flip), or a mixture of two (bilinear). Tables are made and combined on the host; only they are
//! uploaded.

/// A contribution to an output position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    /// Which input position; always a valid one.
    pub(super) index: usize,
    /// How much of it; 0 stands for what is outside the image.
    pub(super) weight: f32,
}

/// A table for one axis of one sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// One contribution per output position.
    pub(super) near: Vec<Tap>,
    /// The second contributions, if there are any; as many.
    pub(super) far: Option<Vec<Tap>>,
}

impl Axis {
    /// `size` positions from `start` on of an axis of `len` (at least 1) positions; zeros outside
    /// of it.
    pub(super) fn window(len: usize, start: i64, size: usize) -> Self {
        let tap = |position: i64| match usize::try_from(position) {
            Ok(index) if index < len => Tap { index, weight: 1.0 },
            _ => Tap { index: 0, weight: 0.0 },
        };
        Self { near: (start..).take(size).map(tap).collect(), far: None }
    }

    /// All of an axis as it is.
    pub(super) fn identity(len: usize) -> Self {
        Self::window(len, 0, len)
    }

    /// All of an axis from its end to its beginning.
    pub(super) fn reversed(len: usize) -> Self {
        Self { near: (0..len).rev().map(|index| Tap { index, weight: 1.0 }).collect(), far: None }
    }

    /// The `len` (at least 1) positions from `start` on, scaled to `size` positions by linear
    /// interpolation between the centres of pixels.
    ///
    /// Output position o looks at `(o + ½) · len / size − ½`, not before the first and not behind
    /// the last position of the `len`: what PyTorch calls `align_corners=False`, without
    /// antialiasing.
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

    /// Whether an axis of `len` positions stays as it is.
    pub(super) fn is_identity(&self, len: usize) -> bool {
        self.far.is_none()
            && self.len() == len
            && self.near.iter().enumerate().all(|(at, tap)| *tap == Tap { index: at, weight: 1.0 })
    }

    /// This table and then `next` as one, unless both are mixtures: a mixture of mixtures has more
    /// than two contributions.
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

/// The tables of a mini-batch, one pair per sample; along each axis all are of the same length and
/// kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axes {
    pub(super) vertical: Vec<Axis>,
    pub(super) horizontal: Vec<Axis>,
}

impl Axes {
    /// As [`Axis::then`], for all samples and both axes or none.
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
