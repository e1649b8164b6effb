//! The types that have a look of their own in a notebook.

use polars::prelude::{Column, DataFrame, LazyFrame, Series};
use tch::Tensor;

use super::{Bundle, SHOWN_VALUE, Show, beginning};
use crate::align::Alignment;
use crate::analysis::{
    Agreement, Barriers, Collapse, Comparison, CycleConsistency, Cycles, Density, Eigenvalues, FeatureConnectivity,
    Geometry, Growth, Landscape, LayerBarriers, SimplexLosses, Ternary, Traces, Twins, UnitCorrelation,
};
use crate::chart::{Bars, Chart, Contours, Drawing, GroupMap, Heatmap, Lines};
use crate::data::{Dataset, Pictures, Splits};
use crate::experiment::{Status, Verdicts};
use crate::network::{Model, Network};
use crate::train::{Training, TrainingRun};
use crate::{DeviceChoice, Evaluation};

/// Values that are shown of a large tensor: so many along each axis, at its beginning.
const SHOWN_ALONG: i64 = 8;
/// Tensors of so many values are shown whole.
const SHOWN_WHOLE: usize = 200;

/// The value as one with a look of its own, if its type has one.
pub(super) fn known<T: ?Sized>(value: &T) -> Option<&dyn Show> {
    // SAFETY: the value is of the type that its identity says, and none of the types has a lifetime that could differ.
    // (`Any` would refuse values that borrow from others, such as `Option<&str>`.)
    unsafe { by_type(typeid::of::<T>(), std::ptr::from_ref(value).cast()) }
}

/// # Safety
/// `value` points to a value of that type, which lives as long as the result.
unsafe fn by_type<'a>(kind: std::any::TypeId, value: *const ()) -> Option<&'a dyn Show> {
    macro_rules! any_of {
        ($($type:ty),* $(,)?) => {
            $(if kind == std::any::TypeId::of::<$type>() {
                // SAFETY: by the caller.
                return Some(unsafe { &*value.cast::<$type>() });
            })*
        };
    }
    any_of![
        DataFrame,
        Series,
        Column,
        Tensor,
        Chart,
        Vec<Chart>,
        Lines,
        Bars,
        Heatmap,
        GroupMap,
        Contours,
        Drawing,
        Dataset,
        Splits,
        Pictures,
        Network,
        Model,
        Vec<Model>,
        Training,
        TrainingRun,
        Alignment,
        Evaluation,
        DeviceChoice,
        Agreement,
        Barriers,
        Collapse,
        Comparison,
        CycleConsistency,
        Cycles,
        Density,
        Eigenvalues,
        FeatureConnectivity,
        Geometry,
        Growth,
        Landscape,
        LayerBarriers,
        SimplexLosses,
        Ternary,
        Traces,
        UnitCorrelation,
        Verdicts,
        Status,
        Twins,
        super::Shown,
    ];
    None
}

impl Show for DataFrame {
    fn look(&self) -> Bundle {
        Bundle::table(self, "")
    }
}

impl Show for Series {
    fn look(&self) -> Bundle {
        Bundle::table(&self.clone().into_frame(), &format!("Series of {}", self.dtype()))
    }
}

impl Show for Column {
    fn look(&self) -> Bundle {
        Bundle::table(&self.clone().into_frame(), &format!("Column of {}", self.dtype()))
    }
}

/// A handle of what has been shown already.
impl Show for super::Shown {
    fn look(&self) -> Bundle {
        Bundle::default()
    }
}

impl Show for Vec<Model> {
    fn look(&self) -> Bundle {
        match self.as_slice() {
            [] => Bundle::text(format_args!("no models")),
            [first, ..] => Bundle::table(&first.network.frame(), &format!("{} models of this network", self.len())),
        }
    }
}

impl Show for Tensor {
    /// Shape, kind, device, and the values, of which large tensors show the first along each axis.
    fn look(&self) -> Bundle {
        if !self.defined() {
            return Bundle::text(format_args!("Tensor without values"));
        }
        let facts = format!("Tensor of shape {:?}, {:?}, {:?}", self.size(), self.kind(), self.device());
        let is_large = self.numel() > SHOWN_WHOLE;
        let corner = self.size().iter().enumerate().try_fold(self.detach(), |corner, (axis, &side)| {
            corner.f_narrow(axis as i64, 0, if is_large { side.min(SHOWN_ALONG) } else { side })
        });
        let values =
            corner.and_then(|corner| corner.f_to_device(tch::Device::Cpu)).and_then(|corner| corner.to_string(100));
        let head = if is_large { "; the first values along each axis:" } else { ":" };
        match values {
            // libtorch ends with a line of its own on kind and shape.
            Ok(values) => {
                let values = values.trim_end().rsplit_once('\n').map_or(values.as_str(), |(values, _)| values);
                Bundle::of([(
                    "text/plain",
                    format!("{facts}{head}\n{}", beginning(format_args!("{values}"), SHOWN_VALUE)),
                )])
            }
            Err(_) => Bundle::of([("text/plain", facts)]),
        }
    }
}

/// Shows a lazy frame, which has no debug text, by its plan.
pub trait LazyDisplay {
    /// Called by the kernel for the value of a cell's last expression.
    fn evcxr_display(&self);
}

impl LazyDisplay for LazyFrame {
    fn evcxr_display(&self) {
        let plan = self.describe_plan().unwrap_or_else(|error| error.to_string());
        let plan = beginning(format_args!("{plan}"), SHOWN_VALUE);
        Bundle::of([("text/plain", format!("LazyFrame: `.collect()?` computes it. Its plan:\n{plan}"))]).print();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::NotebookDisplay;
    use polars::prelude::{IntoColumn, NamedFrom, df};

    fn text(value: &dyn Fn() -> Bundle) -> String {
        value().get("text/plain").unwrap_or_default().to_owned()
    }

    #[test]
    fn known_types_are_told_from_those_around_them() {
        let frame = df!["a" => [1]].unwrap();
        assert!(frame.bundle().get("text/html").is_some_and(|html| html.contains("<table>")));
        let words = String::from("a");
        assert_eq!(text(&|| Some(words.as_str()).bundle()), "Some(\"a\")");
        assert!(Some(frame.clone()).bundle().get("text/html").is_none());
        let series = Series::new("numbers".into(), [1, 2]);
        assert!(
            text(&|| series.bundle()).contains("numbers")
                && series.clone().into_column().bundle().get("text/html").is_some()
        );
    }

    #[test]
    fn every_type_with_a_look_of_its_own_is_known() {
        fn sources(folder: &std::path::Path) -> Vec<String> {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries
                .flat_map(|path| match path.is_dir() {
                    true => sources(&path),
                    false => vec![std::fs::read_to_string(path).unwrap()],
                })
                .collect()
        }
        let own = include_str!("known.rs");
        let known = own.split_once("any_of![").unwrap().1.split_once("];").unwrap().0;
        let all = sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let types = all.iter().flat_map(|source| source.lines()).filter_map(|line| line.strip_prefix("impl Show for "));
        let types: Vec<&str> = types.map(|line| line.trim_end_matches(" {")).collect();
        assert!(types.len() > 30);
        for kind in types {
            assert!(known.contains(&format!("{kind},")), "{kind} is missing in the list of known types");
        }
    }

    #[test]
    fn results_show_their_frame_and_what_it_does_not_say() -> crate::Result<()> {
        use crate::prelude::*;
        let data = blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 3, 4])?;
        let run = &mut Trainer { epochs: 1, ..Trainer::default() }.start(&network, &data, &[0, 1, 2])?;
        let training = run.train()?;
        let (models, pair) = (&training.models, &training.models[..2]);
        let one = ("one", &models[0]);
        let matching = WeightMatching::default();
        let aligned = matching.align(models, &data)?;
        let capped = WeightMatching { max_sweeps: 1, ..matching.clone() }.align(models, &data)?;
        let simplex = Simplex { samples: 2, steps: 1, ..Simplex::default() };
        let lanczos = |max_products| {
            let search = Lanczos { count: 1, max_products, relative_error: 1e-4, ..Lanczos::default() };
            Ok::<_, crate::Error>(search.eigenvalues(&[one], &data.test)?.remove(0))
        };
        let short = Trainer { epochs: 1, ..Trainer::default() };
        let methods = vec![Naive.into()];
        let all = Tournament {
            trainer: short.clone(),
            methods,
            counts: vec![2],
            groups: 1,
            ..Tournament::new(network.clone())
        };
        let layers = LayerwiseInterpolation { points: 2, ..LayerwiseInterpolation::default() };
        let forks = Instability { trainer: short.clone(), steps: vec![0], seeds: vec![0], ..Instability::default() };
        let results = std::env::temp_dir().join(format!("stemm-known-{}", std::process::id()));
        let plan = format!(
            "results = {results:?}\ndata = [{{ set = {{ Blobs = 0 }} }}]\nnetworks = [{{ Mlp = [16, 8, 4] }}]\n\
             methods = [\"Naive\"]\ncounts = [2]\ngroups = 3"
        );
        let looks: [(&dyn Show, &str, &str); 25] = [
            (&models[0].evaluate(&data.test)?, "loss_nats", ""),
            (&*run, "train_loss_nats", "3 of 3 epochs are done"),
            (&training, "held_out_loss_nats", "3 models"),
            (models, "parameters", "3 models of this network"),
            (&aligned, "objective", "weight matching: 3 models, "),
            (&capped, "objective", " s, not converged: more sweeps or steps may help"),
            (&compare(&training, &[&aligned], &data)?, "n_models", "losses in nats"),
            (
                &Interpolation { points: 2, ..Interpolation::default() }.barriers("line", models, &data)?,
                "midpoint_loss_nats",
                "line on blobs test",
            ),
            (
                &simplex.losses("all", models, &data)?,
                "above_ends_nats",
                "all on blobs test, repair: none; loss above the models': centre ",
            ),
            (&simplex.ternary("three", models, &data)?, "weight_2", "three on blobs test"),
            (
                &Plane { points: 2, samples: 9, ..Plane::default() }.through("flat", models, &data)?,
                "loss_nats",
                "flat on 9 of blobs test, repair: none",
            ),
            (
                &unit_correlation("pair", "layer1", pair, &data.test)?,
                "highest_correlation",
                "pair, layer1: mean correlation ",
            ),
            (&variance_collapse("pair", pair, Repair::Off, 2, &data)?, "std_ratio", "pair on blobs train"),
            (&geometry(models, &aligned)?, "cosine_after", "weight matching"),
            (&cycles(&aligned, &network)?, "longest_cycle", "weight matching"),
            (&agreement(&aligned, &capped, &network)?, "agreement", "weight matching and weight matching"),
            (&cycle_consistency(&matching, models, &data)?, "home_share_pairwise", "weight matching"),
            (&MergeGrowth::default().run(models, &[], &data)?, "models_loss_nats", "losses in nats"),
            (
                &SpectralDensity { points: 2, vectors: 2, ..SpectralDensity::default() }.of(one, &data.test)?,
                "density",
                "67 eigenvalues; mean ",
            ),
            (&Hutchinson { vectors: 2, ..Hutchinson::default() }.traces(&[one], &data.test)?, "trace", "parameters"),
            (&forks.run(&network, &data)?, "loss_barrier_nats", "losses and barriers in nats"),
            (&Plan::parse(&plan)?.status()?, "missing", "0 of 3 experiments are done, 0 failed, 3 are missing"),
            (&all.run(&data)?, "excess_over_models_nats", "losses in nats"),
            (&layers.barriers("pair", pair, &data)?, "loss_at_end_nats", "pair on blobs test"),
            (&feature_connectivity("pair", pair, &data)?, "distance_to_mean", "pair on blobs test"),
        ];
        for (value, column, remark) in looks {
            let look = value.look();
            let [html, text] = ["text/html", "text/plain"].map(|mime| look.get(mime).unwrap_or_default());
            assert!(html.contains(&format!(">{column}</th>")) && text.contains(remark), "{column}, {remark}: {text}");
        }
        let _ = std::fs::remove_dir_all(results);
        let text = |value: &dyn Show| value.look().get("text/plain").unwrap_or_default().to_owned();
        assert!(text(&aligned).contains(" s, converged"), "{}", text(&aligned));
        assert!(text(&lanczos(100)?).contains(" products, converged"), "{}", text(&lanczos(100)?));
        assert!(text(&lanczos(1)?).contains("1 products, stopped before"), "{}", text(&lanczos(1)?));
        Ok(())
    }

    #[test]
    fn a_tensor_shows_its_shape_and_its_first_values() {
        let small = text(&|| Tensor::from_slice(&[1.5f32, -2.0]).bundle());
        assert!(
            small.starts_with("Tensor of shape [2], Float, Cpu:") && small.contains("1.5") && small.contains("-2"),
            "{small}"
        );
        assert!(!small.contains("CPUFloatType"), "{small}");
        let large = text(&|| Tensor::arange(10_000, (tch::Kind::Int64, tch::Device::Cpu)).view([100, 100]).bundle());
        assert!(large.contains("707") && !large.contains("708") && large.len() < 800, "{large}");
        assert!(text(&|| Tensor::zeros([0, 3], (tch::Kind::Float, tch::Device::Cpu)).bundle()).contains("[0, 3]"));
        assert!(text(&|| Tensor::new().bundle()).contains("Tensor without values"));
    }

    #[test]
    fn long_settings_are_shown_a_line_each() {
        let shown = text(&|| crate::train::Trainer::default().bundle());
        assert!(shown.starts_with("Trainer {\n    ") && shown.contains("\n    epochs: "), "{shown}");
        assert_eq!(text(&|| (1, 2).bundle()), "(1, 2)");
    }
}
