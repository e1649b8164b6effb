//! The paper's experiments as values: networks, preparation of the data, training and STE-MM
//! (Ito, Yamada, Kumagai 2025, section 5 and appendix).

use crate::align::SteMm;
use crate::data::{Augmentation, Splits};
use crate::error::Result;
use crate::network::Network;
use crate::train::{Choice, Optimiser, Precision, Schedule, Trainer};

/// Everything that an experiment needs besides data and seeds.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Name and description of each network of the experiment.
    pub networks: Vec<(String, Network)>,
    /// Mean and standard deviation of each channel, if pixels are normalised.
    pub normalisation: Option<([f64; 3], [f64; 3])>,
    /// Random changes of training images.
    pub augmentation: Augmentation,
    /// How the models are trained.
    pub trainer: Trainer,
    /// How they are aligned.
    pub ste_mm: SteMm,
}

impl Recipe {
    /// The paper's for MNIST and Fashion-MNIST: an MLP with three hidden layers of 512 units, Adam, up to 100 epochs,
    /// of which the best on held-out data is taken.
    ///
    /// ```
    /// let recipe = stemm::Recipe::paper_mnist()?;
    /// assert_eq!((recipe.trainer.epochs, recipe.ste_mm.batch_size), (100, 256));
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn paper_mnist() -> Result<Recipe> {
        Ok(Recipe {
            networks: vec![("MLP".to_owned(), Network::mlp(&[784, 512, 512, 512, 10])?)],
            normalisation: None,
            augmentation: Augmentation::default(),
            trainer: Trainer { epochs: 100, batch_size: 512, choice: Choice::BestEpoch, ..Trainer::default() },
            ste_mm: SteMm::default(),
        })
    }

    /// The paper's for CIFAR-10: VGG11 x4 and ResNet20 x16 with batch norm, SGD at 0.4 with a learning rate that rises
    /// for 5 epochs and falls for 95, random flips and crops.
    ///
    /// Matrix products are in bf16, for a GPU; [`Recipe::demo`] takes f32.
    pub fn paper_cifar10() -> Result<Recipe> {
        Ok(Recipe {
            networks: vec![
                ("VGG11 x4".to_owned(), Network::vgg11(4.0)?),
                ("ResNet20 x16".to_owned(), Network::resnet20(16.0)?),
            ],
            normalisation: Some(([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
            augmentation: Augmentation::CIFAR,
            trainer: Trainer {
                epochs: 100,
                batch_size: 500,
                optimiser: Optimiser::SGD,
                learning_rate: 0.4,
                schedule: Schedule::UpDown { peak: 5.0 },
                precision: Precision::Bf16,
                choice: Choice::BestEpoch,
                ..Trainer::default()
            },
            ste_mm: SteMm::default(),
        })
    }

    /// The same at a scale for two CPU cores: MLPs trained for 10 epochs, VGG11 x1/4 and ResNet20 x1 for 4, in f32, and
    /// 4 epochs of STE-MM.
    pub fn demo(mut self) -> Result<Recipe> {
        self.trainer.precision = Precision::F32;
        self.ste_mm.epochs = 4;
        if self.trainer.optimiser == Optimiser::Adam {
            self.trainer.epochs = 10;
        } else {
            self.networks = vec![
                ("VGG11 x1/4".to_owned(), Network::vgg11(0.25)?),
                ("ResNet20 x1".to_owned(), Network::resnet20(1.0)?),
            ];
            self.trainer.epochs = 4;
            self.trainer.schedule = Schedule::UpDown { peak: 1.0 };
            self.trainer.batch_size = 100;
            self.trainer.learning_rate = 0.1;
        }
        Ok(self)
    }

    /// The data as the recipe's networks take them: fitted to their input, normalised, augmented.
    ///
    /// # Errors
    /// Images that do not fit.
    pub fn prepare(&self, data: &Splits) -> Result<Splits> {
        let input = self.networks.first().map(|(_, network)| network.input_shape().to_vec()).unwrap_or_default();
        let mut data = if input.len() == 3 { data.fit_to(&input)? } else { data.clone() };
        if let Some((mean, std)) = &self.normalisation {
            data = data.normalised(mean, std)?;
        }
        data.augmented(self.augmentation)
    }
}
