// SPDX-License-Identifier: EUPL-1.2
//! Parameters of the optimisers' steps.

/// Parameters of [`Op::Adam`](super::Op::Adam) (Kingma & Ba 2015): with `g` the gradient times its factor,
/// `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, and
/// `w ← w − rate · m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// How much of the gradient's running mean stays: from 0, below 1.
    pub beta1: f64,
    /// How much of the running mean of its square stays: from 0, below 1.
    pub beta2: f64,
    /// Added to the divisor.
    pub eps: f64,
    /// What pulls the weights towards zero.
    pub weight_decay: WeightDecay,
}

/// How an optimiser pulls weights towards zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightDecay {
    /// So much of the weight is added to its gradient: L2 regularisation.
    Gradient(f64),
    /// The weight loses so much of itself, times the learning rate, before the step: AdamW (Loshchilov & Hutter 2019).
    Decoupled(f64),
}

/// Parameters of [`Op::Sgd`](super::Op::Sgd): with `g` the gradient times its factor and so much of the weight added as
/// `weight_decay` says, `b ← momentum · b + g` and `w ← w − rate · b`, or after Nesterov `w ← w − rate · (g + momentum
/// · b)` (Sutskever et al. 2013).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// How far the momentum looks back.
    pub momentum: Momentum,
    /// So much of the weight is added to its gradient.
    pub weight_decay: f64,
}

/// What gradient descent remembers of earlier gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Momentum {
    /// Nothing.
    None,
    /// Their sum, of which so much stays from step to step (Polyak 1964).
    Heavy(f64),
    /// The same, looked at where it is about to lead (Nesterov 1983).
    Nesterov(f64),
}

impl Momentum {
    /// Rows of the state: the weights, and the momentum if there is one.
    pub fn state_rows(self) -> usize {
        match self {
            Momentum::None => 1,
            Momentum::Heavy(_) | Momentum::Nesterov(_) => 2,
        }
    }
}
