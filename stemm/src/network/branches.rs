//! Branches: several sequences read the same input, and their outputs are added (residual blocks) or their channels are
//! put side by side. A sum ties the units of its branches; a concatenation lists them one after the other.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::groups::Axis;
use super::layer::{Flow, Layer, LayerRule, Pass, Plan, Values, broken};
use super::sequence::Sequence;
use crate::error::Result;

/// The sum of branches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {
    branches: Vec<Sequence>,
}

impl Add {
    /// Adds the outputs of the branches, which must have one shape.
    pub fn new(branches: impl IntoIterator<Item = Sequence>) -> Add {
        Add { branches: branches.into_iter().collect() }
    }

    /// A residual block: the input itself is added to what the layers make of it.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let block = Add::residual([("conv", Conv2d::new(8, 8, 3).padding(1).into()), ("relu", Relu.into())]);
    /// let network = Network::new([3, 8, 8], [
    ///     ("stem", Conv2d::new(3, 8, 3).padding(1).into()),
    ///     ("block", block.into()),
    ///     ("pool", AdaptiveAvgPool2d::new([1, 1]).into()),
    ///     ("flatten", Flatten.into()),
    ///     ("head", Linear::new(8, 10).into()),
    /// ])?;
    /// assert_eq!(network.permutation_spec().groups().len(), 1); // stem and block share their channels
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn residual<'a>(layers: impl IntoIterator<Item = (&'a str, Layer)>) -> Add {
        Add::new([Sequence::new(layers), Sequence::identity()])
    }
}

/// The channels of branches side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    branches: Vec<Sequence>,
}

impl Concat {
    /// Puts the channels of the branches side by side; their other dimensions must be equal.
    pub fn new(branches: impl IntoIterator<Item = Sequence>) -> Concat {
        Concat { branches: branches.into_iter().collect() }
    }
}

fn plan_branches(branches: &[Sequence], input: &Flow, plan: &mut Plan) -> Result<Vec<Flow>> {
    if branches.is_empty() {
        return Err(broken("it has no branches"));
    }
    branches.iter().map(|branch| branch.plan(input.clone(), plan)).collect()
}

fn forward_branches(branches: &[Sequence], values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
    branches.iter().map(|branch| branch.forward(values, x, pass)).collect()
}

impl LayerRule for Add {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        let mut outputs = plan_branches(&self.branches, &input, plan)?;
        let first = outputs.swap_remove(0);
        for other in outputs {
            if other.shape != first.shape {
                return Err(other.unfit(format!("{:?} from every branch", first.shape)));
            }
            plan.ties.unify(&first.axis, &other.axis);
        }
        Ok(first)
    }

    fn branches(&self) -> &[Sequence] {
        &self.branches
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut outputs = forward_branches(&self.branches, values, x, pass)?.into_iter();
        let first = outputs.next().unwrap_or_else(|| x.shallow_clone());
        outputs.try_fold(first, |sum, output| Ok(sum.f_add(&output)?))
    }
}

impl LayerRule for Concat {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        let outputs = plan_branches(&self.branches, &input, plan)?;
        let positions = outputs[0].shape.get(1..).unwrap_or_default().to_vec();
        for other in &outputs {
            if other.shape.get(1..) != Some(&positions) {
                let expected: String = positions.iter().map(|size| format!(", {size}")).collect();
                return Err(other.unfit(format!("[channels{expected}] from every branch")));
            }
        }
        let axis = Axis::concatenated(outputs.into_iter().map(|output| output.axis));
        let mut shape = vec![axis.size()];
        shape.extend(positions);
        Ok(Flow { shape, axis })
    }

    fn branches(&self) -> &[Sequence] {
        &self.branches
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let outputs = forward_branches(&self.branches, values, x, pass)?;
        let outputs = outputs.iter().map(|output| pass.apart(output)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&outputs, 2)?.f_flatten(1, 2)?)
    }
}
