//! Random erasing (Zhong et al., "Random Erasing Data Augmentation", arXiv 1708.04896).

use super::error::AugmentError;
use super::geometry::{TRIES, Window, between, somewhere};
use super::{Size, check_probability, check_range};
use burn::tensor::{Tensor, TensorData};
use burn_rehearsal::random::Stream;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Erase {
    pub(super) probability: f64,
    pub(super) scale: [f64; 2],
    pub(super) ratio: [f64; 2],
    pub(super) value: f32,
}

impl Erase {
    pub(super) fn check(&self) -> Result<(), AugmentError> {
        check_probability("random_erasing", self.probability)?;
        check_range("random_erasing", "scale", self.scale)?;
        check_range("random_erasing", "ratio", self.ratio)?;
        if !self.value.is_finite() {
            return Err(AugmentError::Value {
                operation: "random_erasing",
                what: "pixel value",
                value: self.value,
            });
        }
        Ok(())
    }

    /// Draws the erased rectangle as torchvision's `RandomErasing`: smaller than the image in both
    /// directions, or `None` after ten attempts. The ratio is height to width.
    pub(super) fn draw(&self, image: Size, random: &mut Stream) -> Option<Window> {
        if random.unit_f64() >= self.probability {
            return None;
        }
        for _ in 0..TRIES {
            let (area, ratio) = (
                between(self.scale, random) * image.area(),
                between(self.ratio.map(f64::ln), random).exp(),
            );
            let size = Size {
                height: (area * ratio).sqrt().round_ties_even() as usize,
                width: (area / ratio).sqrt().round_ties_even() as usize,
            };
            if size.height < image.height && size.width < image.width {
                return Some(somewhere(image, size, random));
            }
        }
        None
    }

    /// Applies erasing to `[rows, channels, height, width]`, with one random stream per row.
    pub(super) fn apply(&self, images: Tensor<4>, random: &mut [Stream]) -> Tensor<4> {
        let [rows, _, height, width] = images.dims();
        let windows: Vec<Option<Window>> =
            random.iter_mut().map(|random| self.draw(Size { height, width }, random)).collect();
        if windows.iter().all(Option::is_none) {
            return images;
        }
        let (device, dtype) = (images.device(), images.dtype());
        // 1 in the lines (columns) of the rectangle. The product of both is 1 in the rectangle.
        let inside =
            |len: usize, range: fn(&Window) -> (i64, usize), shape: [usize; 4]| -> Tensor<4> {
                let mut inside = vec![0.0f32; rows * len];
                for (line, window) in inside.chunks_exact_mut(len).zip(&windows) {
                    if let Some((start, size)) = window.as_ref().map(range) {
                        line[start as usize..][..size].fill(1.0);
                    }
                }
                Tensor::from_data(TensorData::new(inside, shape), (&device, dtype))
            };
        let lines = inside(height, |window| (window.top, window.size.height), [rows, 1, height, 1]);
        let columns = inside(width, |window| (window.left, window.size.width), [rows, 1, 1, width]);
        let erased = lines * columns;
        let images = images * (erased.clone().neg() + 1.0);
        if self.value == 0.0 { images } else { images + erased * self.value }
    }
}
