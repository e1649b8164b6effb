//! The Lanczos method (Lanczos 1950; Golub & Van Loan, ch. 10) with full re-orthogonalisation: a basis in which the Hessian
//! is tridiagonal, one vector for each product.

use tch::Tensor;

use super::Hessian;
use crate::error::Result;
use crate::network::dot;

/// An orthonormal basis in which the Hessian is tridiagonal: `α` on the diagonal, `β` beside it.
pub(super) struct Krylov {
    /// The vectors as rows of some matrices `[up to ROWS, d]`.
    vectors: Vec<Tensor>,
    next: Tensor,
    alpha: Vec<f64>,
    beta: Vec<f64>,
    /// Vectors of length 1 that the basis keeps clear of.
    clear_of: Vec<Tensor>,
}

/// Vectors that are put together as one matrix: the basis grows by so many, as it needs them.
const ROWS: usize = 16;

/// Eigenvalues of the tridiagonal matrix, in rising order.
pub(super) struct Ritz {
    pub values: Vec<f64>,
    pub residuals: Vec<f64>,
    /// For each value its eigenvector in terms of the basis.
    pub weights: Vec<Vec<f64>>,
}

impl Krylov {
    /// A basis that begins with `start`, in the space orthogonal to some vectors of length 1.
    pub(super) fn new(start: &Tensor, clear_of: Vec<Tensor>) -> Result<Krylov> {
        let next = start.shallow_clone();
        let mut basis = Krylov { vectors: Vec::new(), next, alpha: Vec::new(), beta: Vec::new(), clear_of };
        for _ in 0..2 {
            let next = basis.orthogonal(&basis.next)?;
            basis.next = next.f_div_scalar(dot(&next, &next)?.sqrt().max(f64::MIN_POSITIVE))?;
        }
        Ok(basis)
    }

    pub(super) fn len(&self) -> usize {
        self.alpha.len()
    }

    /// Whether the basis spans a space that the Hessian does not leave: the values are exact.
    pub(super) fn exhausted(&self) -> bool {
        self.beta.last().is_some_and(|&last| last <= 1e-6 * self.size())
    }

    /// The largest entry of the tridiagonal matrix.
    fn size(&self) -> f64 {
        let beta = &self.beta[..self.beta.len().saturating_sub(1)];
        self.alpha.iter().chain(beta).map(|x| x.abs()).fold(0.0, f64::max)
    }

    /// One more product.
    pub(super) fn extend(&mut self, hessian: &Hessian) -> Result<()> {
        let row = (self.len() % ROWS) as i64;
        if row == 0 {
            let shape = [ROWS as i64, self.next.size()[0]];
            self.vectors.push(Tensor::f_empty(shape, (self.next.kind(), self.next.device()))?);
        }
        if let Some(last) = self.vectors.last() {
            last.f_select(0, row)?.f_copy_(&self.next)?;
        }
        let mut product = hessian.products(std::slice::from_ref(&self.next))?.remove(0);
        self.alpha.push(dot(&product, &self.next)?);
        // Twice: in f32 once would leave the basis far from orthogonal.
        for _ in 0..2 {
            product = self.orthogonal(&product)?;
        }
        let beta = dot(&product, &product)?.sqrt();
        self.beta.push(beta);
        self.next = product.f_div_scalar(beta.max(f64::MIN_POSITIVE))?;
        Ok(())
    }

    /// A vector without its part in the basis and in what it keeps clear of.
    fn orthogonal(&self, vector: &Tensor) -> Result<Tensor> {
        let vector = self.clear_of.iter().try_fold(vector.shallow_clone(), |vector, other| {
            Ok::<_, crate::Error>(vector.f_sub(&other.f_mul_scalar(dot(&vector, other)?)?)?)
        })?;
        self.matrices()?
            .iter()
            .try_fold(vector, |vector, rows| Ok(vector.f_sub(&rows.f_tr()?.f_mv(&rows.f_mv(&vector)?)?)?))
    }

    /// The vectors so far, as matrices of rows.
    pub(super) fn matrices(&self) -> Result<Vec<Tensor>> {
        let lengths = (0..self.len()).step_by(ROWS).map(|start| ROWS.min(self.len() - start) as i64);
        self.vectors.iter().zip(lengths).map(|(rows, len)| Ok(rows.f_narrow(0, 0, len)?)).collect()
    }

    pub(super) fn ritz(&self) -> Result<Ritz> {
        let (alpha, beta) = (&self.alpha, &self.beta);
        let m = alpha.len();
        let mut matrix = vec![0.0; m * m];
        for i in 0..m {
            matrix[i * m + i] = alpha[i];
            if i + 1 < m {
                matrix[(i + 1) * m + i] = beta[i]; // the lower triangle is all that is read
            }
        }
        let matrix = Tensor::f_from_slice(&matrix)?.f_view([m as i64, m as i64])?;
        let (values, vectors) = matrix.f_linalg_eigh("L")?;
        let weights: Vec<Vec<f64>> = (0..m as i64)
            .map(|column| Ok(Vec::<f64>::try_from(vectors.f_select(1, column)?.f_contiguous()?)?))
            .collect::<Result<_>>()?;
        let last = beta[m - 1];
        let residuals = weights.iter().map(|weights| (last * weights[m - 1]).abs()).collect();
        Ok(Ritz { values: Vec::try_from(values)?, residuals, weights })
    }

    /// `Σ weights[i] basis[i]`.
    pub(super) fn combine(&self, weights: &[f64]) -> Result<Tensor> {
        let weights = Tensor::f_from_slice(weights)?.f_to_kind(self.next.kind())?.f_to_device(self.next.device())?;
        let mut sum = self.next.f_zeros_like()?;
        let mut start = 0;
        for rows in self.matrices()? {
            let own = weights.f_narrow(0, start, rows.size()[0])?;
            sum = sum.f_add(&rows.f_tr()?.f_mv(&own)?)?;
            start += rows.size()[0];
        }
        Ok(sum)
    }
}
