//! Analysis of the loss landscape: interpolation and barriers, sharpness, comparison of merges.

mod barrier;
mod comparison;
mod hessian;

pub use barrier::{Barriers, Curve, Interpolation, Point};
pub use comparison::{Comparison, ComparisonRow, compare};
pub use hessian::{Hutchinson, TraceEstimate, Traces, Weighting};
