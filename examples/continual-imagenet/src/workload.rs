//! What the program learns, as the learner sees it.

use crate::batch::{Image, ImageBatch, ImageBatcher, ImageShape};
use crate::cli::{ClassOrderArg, StreamArg};
use crate::config::Config;
use crate::data::{self, ImageData};
use crate::error::AppError;
use crate::model::Network;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::Dataset;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use burn_rehearsal::RehearsalBatch;
use burn_rehearsal::batch::Schema;
use burn_rehearsal_train::augment::{Augment, Augmentation};
use burn_rehearsal_train::experiment::Workload;
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, InstanceIncremental, StreamError, TaskStream};
use std::sync::Arc;

/// Images, their tasks, and how to learn them.
pub struct Images {
    config: Config,
    data: ImageData,
    stream: Box<dyn TaskStream>,
    augment: Option<Augment>,
}

impl Images {
    /// Opens the data and cuts it in tasks.
    ///
    /// # Errors
    ///
    /// [`AppError`] naming what cannot be used.
    pub fn open(config: &Config) -> Result<Self, AppError> {
        let data = data::open(&config.data, config.image_size)?;
        let (train, test) = (&data.train_labels, &data.test_labels);
        let order = match config.class_order {
            ClassOrderArg::Fixed => ClassOrder::Fixed,
            ClassOrderArg::Seeded => ClassOrder::Seeded(config.seed),
        };
        let in_words = |error: StreamError| match error {
            StreamError::MoreTasksThanClasses { .. } | StreamError::MoreTasksThanSamples { .. } => {
                AppError::option("tasks", config.tasks, error.to_string())
            }
            other => AppError::Stream(other),
        };
        let stream: Box<dyn TaskStream> = match config.stream {
            StreamArg::Class => Box::new(ClassIncremental::new(train, test, data.classes, config.tasks, order).map_err(in_words)?),
            StreamArg::Instance => {
                Box::new(InstanceIncremental::new(train, test, data.classes, config.tasks, config.seed).map_err(in_words)?)
            }
        };
        let augment = config.augment.pipeline(config.image_size, config.seed);
        if let Some(augment) = &augment {
            let ImageShape { channels, height, width } = data.shape;
            augment
                .output_shape([channels, height, width])
                .map_err(|error| AppError::option("image-size", config.image_size, error.to_string()))?;
        }
        Ok(Self { config: config.clone(), data, stream, augment })
    }

    /// The bytes of one sample in a buffer beside a network on `device`.
    ///
    /// # Errors
    ///
    /// [`AppError::Sample`] if it cannot be stored.
    pub fn row_bytes(&self, device: &Device) -> Result<usize, AppError> {
        let blank = Image { pixels: vec![0; self.data.shape.elements()].into(), class: 0, index: 0 };
        let layout = |batch: ImageBatch| {
            let mut columns = Vec::new();
            let (_augmented,) = batch.into_parts(&mut columns)?;
            Schema::of(ImageBatch::FIELDS, &columns)
        };
        let schema = layout(self.batcher().batch(vec![blank], device));
        Ok(schema?.row_bytes())
    }

    /// The number of test samples.
    pub fn test_len(&self) -> usize {
        self.data.test_labels.len()
    }

    /// The number of training samples.
    pub fn train_len(&self) -> usize {
        self.data.train_labels.len()
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.data.classes
    }
}

impl Workload for Images {
    type Item = Image;
    type Batch = ImageBatch;
    type Batcher = ImageBatcher;
    type Model = Network;

    fn train(&self) -> Arc<dyn Dataset<Image>> {
        self.data.train.clone()
    }

    fn test(&self) -> Arc<dyn Dataset<Image>> {
        self.data.test.clone()
    }

    fn stream(&self) -> &dyn TaskStream {
        self.stream.as_ref()
    }

    fn batcher(&self) -> ImageBatcher {
        ImageBatcher { shape: self.data.shape, room: self.config.representatives }
    }

    fn augmentation(&self) -> Option<Augmentation<ImageBatch>> {
        let augment = self.augment.clone()?;
        Some(Arc::new(move |batch: ImageBatch, step, rank| {
            let augmented = augment.apply_bytes(batch.images.clone(), step, rank)?;
            Ok(ImageBatch { augmented: Some(augmented), ..batch })
        }))
    }

    fn model(&self, device: &Device, seed: u64) -> Network {
        Network::new(self.config.model, self.data.shape, self.data.classes, device, seed, self.config.init.into())
    }

    fn optimizer(&self) -> ModuleOptimizer {
        let mut sgd = SgdConfig::new();
        if self.config.momentum > 0.0 {
            sgd = sgd.with_momentum(Some(MomentumConfig::new().with_momentum(self.config.momentum).with_dampening(0.0)));
        }
        if self.config.weight_decay > 0.0 {
            sgd = sgd.with_weight_decay(Some(WeightDecayConfig::new(self.config.weight_decay as f32)));
        }
        sgd.init()
    }
}
