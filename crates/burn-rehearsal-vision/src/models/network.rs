//! Networks by name.

use super::{
    ConvNet, ConvNetConfig, GhostNet, GhostNetConfig, Mlp, MlpConfig, ResNet, ResNetConfig, Stem,
};
use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_rehearsal_train::init::Scheme;
use burn_rehearsal_train::named;

/// The largest side in pixels for which [`Stem::Small`] is the default.
const SMALL: usize = 64;

/// Declares the networks. A line has the summary, the kind, the name, the module, the initial
/// values of the reference implementation, and how a [`NetworkConfig`] configures it.
macro_rules! networks {
    ($($(#[doc = $summary:literal])+ $Kind:ident = $name:literal: $Network:ty, $scheme:ident, |$config:ident| $configure:expr;)+) => {
        named! {
            /// A network of this crate.
            #[non_exhaustive]
            pub enum NetworkKind: "network" {
                $($(#[doc = $summary])+ $Kind = $name,)+
            }
        }

        impl NetworkKind {
            /// The initial values of the reference implementation, torchvision's or timm's.
            pub fn scheme(self) -> Scheme {
                match self { $(Self::$Kind => Scheme::$scheme,)+ }
            }
        }

        /// Any network of this crate.
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
            /// A network with Burn's initial values;
            /// [`keyed_init`](burn_rehearsal_train::init::keyed_init) replaces them.
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
    /// Two hidden layers of 100 units, usual in the literature for small images.
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
    /// Which network.
    pub kind: NetworkKind,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// Classes.
    pub classes: usize,
    /// The first layers of a ResNet. Defaults to [`Stem::Small`] for images of up to 64 pixels,
    /// [`Stem::ImageNet`] above.
    pub stem: Option<Stem>,
    /// Channels of the first layer of a ResNet.
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
