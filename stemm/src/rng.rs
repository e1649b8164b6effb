//! Random numbers: ChaCha8 streams, so that each use of a seed has numbers of its own and the order of uses does not matter.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What the numbers are for; each purpose is a separate stream of the same seed.
pub(crate) enum Purpose {
    Initialisation,
    Split,
    Mixing,
    SweepOrder,
    Probe,
    BuiltInData,
    /// The order of the samples in an epoch: resuming at epoch `e` needs no earlier numbers.
    Shuffle(usize),
}

pub(crate) fn rng(seed: u64, purpose: Purpose) -> ChaCha8Rng {
    let stream = match purpose {
        Purpose::Initialisation => 0,
        Purpose::Split => 1,
        Purpose::Mixing => 2,
        Purpose::SweepOrder => 3,
        Purpose::Probe => 4,
        Purpose::BuiltInData => 5,
        Purpose::Shuffle(epoch) => 1_000 + epoch as u64,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}
