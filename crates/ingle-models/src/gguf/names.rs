// SPDX-License-Identifier: EUPL-1.2
//! What GGUF files call a decoder's tensors.

/// Modules outside the blocks.
const OUTSIDE: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Modules of a block, but for some of its norms.
const IN_BLOCK: [(&str, &str); 10] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The norms of a block that normalises what goes in.
const NORMS_BEFORE: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];

/// The norms of a block that normalises also what comes out.
const NORMS_BEFORE_AND_AFTER: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// The name in the file of what a decoder with norms before calls `name`.
pub(crate) fn of_norms_before(name: &str) -> String {
    translate(name, &NORMS_BEFORE)
}

/// The name in the file of what a decoder with norms before and after calls `name`.
pub(crate) fn of_norms_before_and_after(name: &str) -> String {
    translate(name, &NORMS_BEFORE_AND_AFTER)
}

/// `model.layers.3.mlp.up_proj.weight` → `blk.3.ffn_up.weight`. What has no other name keeps its own.
fn translate(name: &str, norms: &[(&str, &str)]) -> String {
    let Some((module, tensor)) = name.rsplit_once('.') else { return name.into() };
    let find = |names: &[(&str, &str)], module: &str| {
        names.iter().find(|(own, _)| *own == module).map(|(_, other)| (*other).to_owned())
    };
    let in_block = || {
        let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
        let module = find(&IN_BLOCK, module).or_else(|| find(norms, module))?;
        Some(format!("blk.{layer}.{module}"))
    };
    match find(&OUTSIDE, module).or_else(in_block) {
        Some(module) => format!("{module}.{tensor}"),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_their_tensors_good() {
        for (own, other) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"),
            ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
        ] {
            assert_eq!(of_norms_before(own), other);
        }
        let gemma = of_norms_before_and_after("model.layers.0.post_attention_layernorm.weight");
        assert_eq!(gemma, "blk.0.post_attention_norm.weight");
    }

    #[test]
    fn others_keep_their_names_ugly() {
        for name in ["", "weight", "model.layers.x", "model.layers.0.mixer.weight", "blk.0.attn_q.weight"] {
            assert_eq!(of_norms_before(name), name);
        }
    }
}
