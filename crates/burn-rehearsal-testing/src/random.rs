//! Random numbers for tests and for the simulated network.

/// SplitMix64 (Steele, Lea, Flood 2014), from any number of keys.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers that belong to these keys.
    #[must_use]
    pub fn new(keys: &[usize]) -> Self {
        let mut random = Self(0);
        for &key in keys {
            random.0 ^= key as u64;
            random.0 = random.next();
        }
        random
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "not an iterator: it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0; the bias is far below what a test could see.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
