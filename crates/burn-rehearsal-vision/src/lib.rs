//! Images for continual learning with Burn: data sets, mini-batches for a rehearsal (replay)
//! buffer, augmentation on the device, and networks.
//!
//! * `data`: labeled images, embedded or from disk (feature `images`).
//! * [`ImageBatch`] and [`ImageBatcher`]: mini-batches that a rehearsal buffer can store (feature
//!   `images`).
//! * [`augment`]: data augmentation of whole mini-batches on the device.
//! * [`models`]: MLP, a small convolutional network, ResNet and GhostNet.
//! * [`thumbnails`]: pictures of the images in a buffer, for reports (feature `images`).
//!
//! ```
//! use burn::data::dataloader::batcher::Batcher;
//! use burn::tensor::Device;
//! use burn_rehearsal_vision::{ImageBatcher, data::open_digits, models::MlpConfig};
//!
//! let (digits, device) = (open_digits(8)?, Device::default());
//! let batcher = ImageBatcher { shape: digits.shape, room: 0 };
//! let batch = batcher.batch(vec![digits.train.get(0)?, digits.train.get(1)?], &device);
//! let network = MlpConfig::new(digits.shape.elements(), digits.classes).init(&device);
//! assert_eq!(network.forward(batch.pixels()).dims(), [2, 10]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod augment;
#[cfg(feature = "images")]
mod batch;
#[cfg(feature = "images")]
pub mod data;
pub mod models;
#[cfg(feature = "images")]
pub mod thumbnails;

#[cfg(feature = "images")]
pub use batch::{ImageBatch, ImageBatcher};
