//! How a network shows itself: a table of its layers, and a picture of its permutation groups.

use polars::prelude::DataFrame;

use super::layer::LayerPlan;
use super::{AxisSegment, Network, PermutationSpec};
use crate::chart::{Chart, GroupMap};
use crate::frame::{column, frame};
use crate::notebook::{Bundle, Show};

impl Network {
    /// One row a layer: name, type, output shape, trainable values, and the permutation groups of its output.
    pub fn frame(&self) -> DataFrame {
        let (layers, spec) = self.summary();
        let rows = &layers;
        let group = |row: &(LayerPlan, Vec<AxisSegment>)| {
            let parts = row.1.iter().map(|segment| match segment.group {
                None => "fixed".to_owned(),
                Some(group) if segment.block == 1 => spec.groups()[group].to_string(),
                Some(group) => format!("{} in blocks of {}", spec.groups()[group], segment.block),
            });
            parts.collect::<Vec<_>>().join(" + ")
        };
        frame([
            column("layer", rows.iter().map(|(layer, _)| layer.name.as_str())),
            column("type", rows.iter().map(|(layer, _)| layer.kind)),
            column("output_shape", rows.iter().map(|(layer, _)| format!("{:?}", layer.output.shape))),
            column("parameters", rows.iter().map(|(layer, _)| layer.parameters)),
            column("permutation_group", rows.iter().map(group)),
        ])
    }

    fn summary(&self) -> (Vec<(LayerPlan, Vec<AxisSegment>)>, PermutationSpec) {
        let spec = self.permutation_spec();
        let Ok((plan, _)) = self.plan() else { return (Vec::new(), spec) };
        let (layers, ties) = (plan.layers, plan.ties);
        let rows = layers.into_iter().map(|layer| {
            let segments = spec.segments(&ties, &layer.output.axis);
            (layer, segments)
        });
        (rows.collect(), spec)
    }

    /// A picture of the permutation groups: which layers write the units of a group and which read them.
    pub fn chart(&self) -> Chart {
        let spec = self.permutation_spec();
        let groups = spec.groups().iter().map(|group| group.size).collect();
        let of = |axis: &[AxisSegment]| axis.iter().filter_map(|segment| segment.group).collect::<Vec<_>>();
        // Norms belong to the group of the layer before them and would only repeat it.
        let layers = self.weight_layers().unwrap_or_default().into_iter();
        let rows =
            layers.map(|layer| (layer.name, of(&spec.axes()[layer.weight][0]), of(&spec.axes()[layer.weight][1])));
        GroupMap::new("Permutation groups", groups, rows.collect()).into()
    }
}

impl Show for Network {
    fn look(&self) -> Bundle {
        let (parameters, _) = self.tensor_plans();
        let values: i64 = parameters.iter().map(|tensor| tensor.shape().iter().product::<i64>()).sum();
        let groups = self.permutation_spec().groups().len();
        Bundle::table(&self.frame(), &format!("{values} parameters, {groups} permutation groups"))
    }
}
