//! The workload of the experiment: images, tasks and the network.

use crate::cli::{ClassOrderArg, StreamArg};
use crate::config::Config;
use crate::error::AppError;
use crate::transform::transforms;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::Dataset;
use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use burn_rehearsal::batch::Schema;
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::{RehearsalBatch, RehearsalBuffer};
use burn_rehearsal_train::augmentation::Augmentation;
use burn_rehearsal_train::experiment::Workload;
use burn_rehearsal_train::fingerprint::Fingerprint;
use burn_rehearsal_train::init::keyed_init;
use burn_rehearsal_train::methods::MethodRef;
use burn_rehearsal_train::report::schema::{BufferReport, Picture};
use burn_rehearsal_train::stream::{
    ClassIncremental, ClassOrder, InstanceIncremental, StreamError, TaskStream,
};
use burn_rehearsal_train::weights::load_safetensors;
use burn_rehearsal_vision::augment::Augment;
use burn_rehearsal_vision::data::{Image, ImageData};
use burn_rehearsal_vision::models::{Network, NetworkConfig};
use burn_rehearsal_vision::{ImageBatch, ImageBatcher, thumbnails};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

/// Images in a stream of tasks, which all runs of a job have in common.
pub struct Images {
    pub data: ImageData,
    pub stream: Box<dyn TaskStream>,
    training: Option<Augment>,
    evaluation: Option<Augment>,
    /// The network with pretrained weights, on an autodiff device.
    pretrained: Option<Network>,
}

impl Images {
    /// Opens the data and splits it into tasks.
    ///
    /// # Errors
    ///
    /// [`AppError`] with the file or option, and the reason.
    pub fn open(config: &Config) -> Result<Self, AppError> {
        let data = config.data.open(&config.images())?;
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
        let (classes, tasks, seed) = (data.classes, config.tasks, config.seed);
        let stream: Box<dyn TaskStream> = match config.stream {
            StreamArg::Class => Box::new(
                ClassIncremental::new(train, test, classes, tasks, order).map_err(in_words)?,
            ),
            StreamArg::Instance => Box::new(
                InstanceIncremental::new(train, test, classes, tasks, seed).map_err(in_words)?,
            ),
        };
        let [training, evaluation] = transforms(config, data.shape)?;
        let pretrained = match &config.weights {
            None => None,
            Some(path) => {
                let device = config.device.open()?.autodiff();
                Some(load_safetensors(network(config, &data).init(&device), path)?)
            }
        };
        Ok(Self { data, stream, training, evaluation, pretrained })
    }

    /// The size in bytes of a sample in the buffer of `method`, for training on `device`.
    ///
    /// # Errors
    ///
    /// [`AppError::Sample`] if the buffer cannot store it.
    pub fn row_bytes(&self, method: MethodRef, device: &Device) -> Result<usize, AppError> {
        let blank =
            Image { pixels: vec![0u8; self.data.shape.elements()].into(), class: 0, index: 0 };
        let layout = |batch: ImageBatch| {
            let mut columns = Vec::new();
            batch.into_parts(&mut columns)?;
            Schema::of(ImageBatch::FIELDS, &columns)
        };
        let batcher = ImageBatcher { shape: self.data.shape, room: 0 };
        let schema = layout(batcher.batch(vec![blank], device));
        // Logits are stored as `f32`. A mini-batch has none before the first forward pass.
        let logits = if method.stores_logits() { self.data.classes * size_of::<f32>() } else { 0 };
        Ok(schema?.row_bytes() + logits)
    }
}

/// The images and the network of one run.
pub struct ImageRun<'a> {
    pub images: &'a Images,
    pub method: MethodRef,
    pub config: &'a Config,
}

/// The configuration of the network.
fn network(config: &Config, data: &ImageData) -> NetworkConfig {
    let shape = [data.shape.channels, config.crop_size, config.crop_size];
    NetworkConfig::new(config.model, shape, data.classes)
        .with_stem(config.stem.into())
        .with_width(config.model_width)
}

impl Workload for ImageRun<'_> {
    type Item = Image;
    type Batch = ImageBatch;
    type Batcher = ImageBatcher;
    type Model = Network;

    fn train(&self) -> Arc<dyn Dataset<Image>> {
        self.images.data.train.clone()
    }

    fn test(&self) -> Arc<dyn Dataset<Image>> {
        self.images.data.test.clone()
    }

    fn stream(&self) -> &dyn TaskStream {
        self.images.stream.as_ref()
    }

    fn batcher(&self) -> ImageBatcher {
        ImageBatcher {
            shape: self.images.data.shape,
            room: self.config.representatives.of(self.config.batch_size) * self.method.draws(),
        }
    }

    fn augmentation(&self) -> Option<Augmentation<ImageBatch>> {
        self.images.training.clone().map(Augment::into_augmentation)
    }

    fn evaluation(&self) -> Option<Augmentation<ImageBatch>> {
        self.images.evaluation.clone().map(Augment::into_augmentation)
    }

    fn fingerprint(&self) -> Fingerprint {
        self.images.data.fingerprint.clone()
    }

    fn left_out(&self) -> Vec<u64> {
        let number = |path: &PathBuf| {
            let mut hasher = DefaultHasher::new();
            path.hash(&mut hasher);
            hasher.finish()
        };
        self.images.data.damaged.paths().iter().map(number).collect()
    }

    fn pictures(
        &self,
        buffer: &RehearsalBuffer<ImageBatch>,
        report: &BufferReport,
    ) -> Result<Vec<Picture>, RehearsalError> {
        let tasks: Vec<_> =
            (0..self.images.stream.tasks()).map(|task| self.images.stream.classes(task)).collect();
        let representatives = self.config.representatives.of(self.config.batch_size);
        thumbnails::pictures(buffer, &tasks, &report.per_class, representatives)
    }

    fn model(&self, device: &Device, seed: u64) -> Network {
        match &self.images.pretrained {
            // Clones share running statistics. Conversion to inference and back copies them.
            Some(network) if device.is_autodiff() => network.valid().train().fork(device),
            Some(network) => network.valid().fork(device),
            None => keyed_init(
                network(self.config, &self.images.data).init(device),
                seed,
                self.config.init,
            ),
        }
    }

    fn optimizer(&self) -> ModuleOptimizer {
        let Config { momentum, weight_decay, .. } = *self.config;
        let momentum = (momentum > 0.0)
            .then(|| MomentumConfig::new().with_momentum(momentum).with_dampening(0.0));
        let weight_decay =
            (weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay as f32));
        SgdConfig::new().with_momentum(momentum).with_weight_decay(weight_decay).init()
    }
}
