// SPDX-License-Identifier: EUPL-1.2
//! RoPE parameters, as transformers 4 and 5 write them.
//!
//! transformers 5 has one object, `rope_parameters`, or one for each layer type in it. transformers 4 has
//! `rope_theta` beside an object `rope_scaling` (`type` in its first years, `rope_type` later), and Gemma 3
//! has `rope_local_base_freq` for its sliding layers, which nothing scales.

use ingle_nn::{Result, RopeScaling, RotaryConfig};
use ingle_tensor::RopeLayout;

use crate::config::{Config, LayerType};

/// What a reader knows of a layer type's RoPE that the file may leave out.
pub(crate) struct RopeDefaults {
    /// The layers in question.
    pub layer_type: LayerType,
    /// The field that holds the base where `rope_parameters` does not.
    pub theta_field: &'static str,
    /// The base where no field holds it.
    pub theta: f64,
}

impl RopeDefaults {
    /// Those of every model but Gemma 3, in all layers.
    pub(crate) const USUAL: RopeDefaults =
        RopeDefaults { layer_type: LayerType::FullAttention, theta_field: "rope_theta", theta: 10_000.0 };
}

/// The RoPE of the layers that `defaults` names, for heads of `head_dim` features.
pub(crate) fn rotary(config: &Config, head_dim: usize, defaults: &RopeDefaults) -> Result<RotaryConfig> {
    let parameters = parameters(config, defaults)?;
    let own = parameters.as_ref();
    let number = |name| own.map_or(Ok(None), |own| own.number_if_any(name));
    let rope_theta = match number("rope_theta")? {
        Some(theta) => theta,
        None => config.number(defaults.theta_field, defaults.theta)?,
    };
    let partial_rotary_factor = match number("partial_rotary_factor")? {
        Some(factor) => factor,
        None => config.number("partial_rotary_factor", 1.0)?,
    };
    let scaling = own.map_or(Ok(RopeScaling::None), |own| scaling(own, config))?;
    let rotary = RotaryConfig { head_dim, rope_theta, partial_rotary_factor, scaling, layout: RopeLayout::Halves };
    if partial_rotary_factor > 1.0 {
        return Err(own.unwrap_or(config).error("partial_rotary_factor", "at most 1"));
    }
    if !rotary.rotary_dim().is_multiple_of(2) || rotary.rotary_dim() == 0 {
        return Err(config.error("head_dim", "an even number of features that turn"));
    }
    if matches!(rotary.scaling, RopeScaling::Yarn { .. }) && rotary.rotary_dim() != head_dim {
        return Err(own.unwrap_or(config).error("partial_rotary_factor", "1 beside yarn"));
    }
    Ok(rotary)
}

/// The object that holds the parameters of these layers, wherever it stands.
fn parameters(config: &Config, defaults: &RopeDefaults) -> Result<Option<Config>> {
    if let Some(parameters) = config.object("rope_parameters")? {
        let nested = [LayerType::FullAttention, LayerType::SlidingAttention].map(LayerType::name);
        return match nested.iter().any(|name| parameters.has(name)) {
            true => parameters.object(defaults.layer_type.name()),
            false => Ok(Some(parameters)),
        };
    }
    match defaults.layer_type {
        LayerType::FullAttention => config.object("rope_scaling"),
        LayerType::SlidingAttention => Ok(None),
    }
}

fn scaling(parameters: &Config, config: &Config) -> Result<RopeScaling> {
    let field = if parameters.has("rope_type") { "rope_type" } else { "type" };
    let required = |name| parameters.number_if_any(name)?.ok_or_else(|| parameters.error(name, "a number above 0"));
    let original = || match parameters.number_if_any("original_max_position_embeddings")? {
        Some(length) => Ok(length),
        None => match config.number_if_any("original_max_position_embeddings")? {
            Some(length) => Ok(length),
            None => config.number_if_any("max_position_embeddings")?.ok_or_else(|| {
                parameters.error("original_max_position_embeddings", "the length of the original context")
            }),
        },
    };
    match parameters.text(field)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: required("factor")? }),
        Some("llama3") => {
            let low_freq_factor = required("low_freq_factor")?;
            let high_freq_factor = required("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                return Err(
                    parameters.error("high_freq_factor", format!("more than low_freq_factor {low_freq_factor}"))
                );
            }
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original()?,
            })
        }
        Some("yarn") => {
            let factor = required("factor")?;
            if parameters.has("mscale") || parameters.has("mscale_all_dim") || parameters.has("truncate") {
                return Err(parameters.error(field, "yarn without mscale, mscale_all_dim or truncate"));
            }
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: parameters.number("beta_fast", 32.0)?,
                beta_slow: parameters.number("beta_slow", 1.0)?,
                // Section 3.4 of the paper.
                attention_factor: parameters.number("attention_factor", 0.1 * factor.max(1.0).ln() + 1.0)?,
                original_max_position_embeddings: original()?,
            })
        }
        Some(_) => Err(parameters.error(field, "one of default, linear, llama3, yarn")),
    }
}

#[cfg(test)]
mod tests;
