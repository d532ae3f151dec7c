// SPDX-License-Identifier: EUPL-1.2
//! Non-linearities by the names that configurations give them.

use ingle_tensor::Activation;

/// Names and what they mean; several are used for the same function.
const NAMES: [(&str, Activation); 6] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
];

/// The activation that `hidden_act` or `hidden_activation` names, or `None` if Ingle has no such one.
pub fn activation(name: &str) -> Option<Activation> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
}

/// The names that [`activation`] knows.
pub fn activation_names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_configurations_good() {
        assert_eq!(activation("silu"), Some(Activation::Silu));
        assert_eq!(activation("gelu"), Some(Activation::Gelu));
        assert_eq!(activation("gelu_pytorch_tanh"), activation("gelu_new"));
        assert!(activation_names().all(|name| activation(name).is_some()));
    }

    #[test]
    fn unknown_name_bad() {
        assert_eq!(activation("relu"), None);
        assert_eq!(activation(""), None);
    }
}
