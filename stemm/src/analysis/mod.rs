//! Analysis of the loss landscape: paths and barriers, the simplex of many models, planes, the Hessian, the geometry of
//! weights and permutations, and statistics over seeds.

mod activation;
mod barrier;
mod bezier;
mod comparison;
mod geometry;
mod growth;
mod hessian;
mod instability;
mod layerwise;
mod permutations;
mod plane;
mod simplex;
mod statistics;

pub use activation::{Collapse, UnitCorrelation, unit_correlation, variance_collapse};
pub use barrier::{Barriers, Curve, Interpolation, Point};
pub use bezier::Bezier;
pub use comparison::{Candidates, Comparison, ComparisonRow, compare, compare_merges};
pub use geometry::{Geometry, TensorGeometry, geometry};
pub use growth::{Growth, GrowthRow, MergeGrowth, mean_and_band};
pub use hessian::{
    BatchTrace, Density, Eigenvalues, Estimator, Hutchinson, Lanczos, SpectralDensity, TraceEstimate, Traces, Weighting,
};
pub use instability::{Instability, Twins, TwinsRow};
pub use layerwise::{
    FeatureConnectivity, LayerBarrier, LayerBarriers, LayerFeatures, LayerwiseInterpolation, Moving,
    feature_connectivity,
};
pub use permutations::{
    Agreement, CycleConsistency, Cycles, GroupAgreement, GroupCycles, Triangle, agreement, cycle_consistency, cycles,
};
pub use plane::{Landscape, Plane};
pub use simplex::{Mixture, Simplex, SimplexLosses, Ternary, ensemble};
pub(crate) use statistics::student;
pub use statistics::{holm, mean_and_error, paired_test, summary};

use crate::align::pairs;

/// Each value once, in the order in which it first comes.
pub(crate) fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// Places at equal distances, both ends included; a single one is the lower end.
fn evenly_spaced(low: f64, high: f64, points: usize) -> impl Iterator<Item = f64> {
    (0..points).map(move |point| low + (high - low) * point as f64 / (points.max(2) - 1) as f64)
}
