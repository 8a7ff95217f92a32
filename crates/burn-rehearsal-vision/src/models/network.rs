//! Networks by name.

use super::{
    ConvNet, ConvNetConfig, GhostNet, GhostNetConfig, Mlp, MlpConfig, ResNet, ResNetConfig, Stem,
};
use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_rehearsal_train::init::Scheme;
use burn_rehearsal_train::named;

/// Maximum side in pixels for which [`Stem::Small`] is the default.
const SMALL: usize = 64;

/// Declares the networks. A line has the summary, the kind, the name, the module, the
/// initialization of the reference implementation, and the conversion of a [`NetworkConfig`] to the
/// configuration of the module.
macro_rules! networks {
    ($($(#[doc = $summary:literal])+ $Kind:ident = $name:literal: $Network:ty, $scheme:ident, |$config:ident| $configure:expr;)+) => {
        named! {
            /// The name of a network of this crate.
            #[non_exhaustive]
            pub enum NetworkKind: "network" {
                $($(#[doc = $summary])+ $Kind = $name,)+
            }
        }

        impl NetworkKind {
            /// The initialization of the reference implementation in torchvision or timm.
            ///
            /// ```
            /// use burn_rehearsal_train::init::keyed_init;
            /// use burn_rehearsal_vision::models::{NetworkConfig, NetworkKind};
            ///
            /// let kind = NetworkKind::Conv;
            /// let network = NetworkConfig::new(kind, [3, 32, 32], 10).init(&Default::default());
            /// let network = keyed_init(network, 7, kind.scheme());
            /// ```
            pub fn scheme(self) -> Scheme {
                match self { $(Self::$Kind => Scheme::$scheme,)+ }
            }
        }

        /// Any network of this crate; see [`NetworkConfig`].
        #[derive(Module, Debug)]
        pub enum Network {
            $($(#[doc = $summary])+ $Kind($Network),)+
        }

        impl Network {
            /// Class scores: `[rows, channels, height, width]` → `[rows, classes]`.
            pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
                match self { $(Self::$Kind(network) => network.forward(images),)+ }
            }
        }

        impl NetworkConfig {
            /// Creates a network with Burn's random weights.
            /// [`keyed_init`](burn_rehearsal_train::init::keyed_init) replaces them with
            /// reproducible ones.
            pub fn init(&self, device: &Device) -> Network {
                match self.kind {
                    $(NetworkKind::$Kind => {
                        let $config = self;
                        Network::$Kind($configure.init(device))
                    })+
                }
            }
        }
    };
}

networks! {
    /// An MLP with two hidden layers of 100 units.
    Mlp = "mlp": Mlp, KaimingUniform, |config| MlpConfig::new(config.shape.iter().product(), config.classes);
    /// A small convolutional network.
    Conv = "conv": ConvNet, KaimingUniform, |config| ConvNetConfig::new(config.shape, config.classes);
    /// ResNet-18.
    Resnet18 = "resnet18": ResNet, HeNormal, |config| config.residual(ResNetConfig::resnet18(config.classes));
    /// ResNet-50.
    Resnet50 = "resnet50": ResNet, HeNormal, |config| config.residual(ResNetConfig::resnet50(config.classes));
    /// GhostNet 0.5.
    Ghostnet = "ghostnet": GhostNet, KaimingUniform, |config| GhostNetConfig::new(config.classes).with_channels(config.shape[0]);
}

/// The configuration of a [`Network`].
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::Device;
/// use burn_rehearsal_vision::models::{NetworkConfig, NetworkKind};
///
/// let network = NetworkConfig::new("mlp".parse()?, [1, 28, 28], 10).init(&Device::default());
/// assert_eq!(network.num_params(), 784 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10);
/// # Ok::<(), burn_rehearsal::error::ConfigError>(())
/// ```
#[derive(Config, Debug)]
pub struct NetworkConfig {
    /// The network.
    pub kind: NetworkKind,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// The number of classes.
    pub classes: usize,
    /// The first layers of a ResNet. Default: [`Stem::Small`] for images of up to 64 pixels,
    /// otherwise [`Stem::ImageNet`].
    pub stem: Option<Stem>,
    /// The number of channels of the first layer of a ResNet. Default: 64.
    #[config(default = 64)]
    pub width: usize,
}

impl NetworkConfig {
    fn residual(&self, network: ResNetConfig) -> ResNetConfig {
        let [channels, height, _] = self.shape;
        let usual = if height <= SMALL { Stem::Small } else { Stem::ImageNet };
        network.with_stem(self.stem.unwrap_or(usual)).with_width(self.width).with_channels(channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_configuration_files() {
        for &kind in NetworkKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("resnet".parse::<NetworkKind>().unwrap_err().to_string().contains("resnet18"));
    }
}
