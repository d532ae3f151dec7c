// SPDX-License-Identifier: EUPL-1.2
//! The decoder that Llama, Qwen and Gemma share: embed, then attend and think in turn, then score the vocabulary.
//!
//! What an architecture has of its own is plain data in [`DecoderConfig`]; its file fills that in. Tensors and
//! fields have the names that checkpoints and `config.json` give them.

use ingle_nn::quantise::RowOrder;
use ingle_nn::random::stream;
use ingle_nn::{
    Activations, Batch, Bias, CacheLayer, Dropout, Embedding, Head, KvCache, Linear, Parameters, Result, RmsNorm,
    RmsNormConfig, RotaryConfig, RotaryEmbedding, Routes, Visitor, Weights,
};
use ingle_tensor::{Activation, DType, DeviceHandle, RopeLayout, Tensor, grad};

use crate::config::LayerType;
use crate::scores::{LossRows, Scores};
use crate::{Model, Summary};

/// A decoder's sizes and choices. In the shapes below `T` is the number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub norm: RmsNormConfig,
    /// Where a block normalises.
    pub norms: BlockNorms,
    /// Whether each query and key head is normalised.
    pub qk_norm: bool,
    /// Of `q_proj`, `k_proj` and `v_proj`.
    pub qkv_bias: Bias,
    /// Of `o_proj`.
    pub o_bias: Bias,
    pub mlp_bias: Bias,
    /// Multiplies embeddings.
    pub embedding_scale: Option<f64>,
    /// Multiplies attention scores.
    pub attention_scale: f64,
    pub attn_logit_softcapping: Option<f64>,
    pub final_logit_softcapping: Option<f64>,
    /// One for each layer.
    pub layer_types: Vec<LayerType>,
    /// The window of the sliding layers.
    pub sliding_window: Option<usize>,
    pub rope: RotaryConfig,
    /// Of the sliding layers.
    pub rope_local: RotaryConfig,
    pub head: Head,
}

impl DecoderConfig {
    /// In which order the rows of `q_proj` and of `k_proj` stand: what RoPE turns together stands together where it says
    /// so.
    pub(crate) fn qk_rows(&self) -> [RowOrder; 2] {
        match self.rope.layout {
            RopeLayout::Interleaved => {
                [self.num_attention_heads, self.num_key_value_heads].map(|heads| RowOrder::Interleaved { heads })
            }
            RopeLayout::Halves => [RowOrder::Unchanged; 2],
        }
    }
}

/// The order of the rows of a layer of this name, with those of `q_proj` and of `k_proj` given.
pub(crate) fn row_order(layer: &str, [queries, keys]: [RowOrder; 2]) -> RowOrder {
    match layer.rsplit('.').next() {
        Some("q_proj") => queries,
        Some("k_proj") => keys,
        _ => RowOrder::Unchanged,
    }
}

/// Where a block normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockNorms {
    /// What goes into attention and into the MLP.
    Before,
    /// What goes in and what comes out.
    BeforeAndAfter,
}

/// `[T, hidden]` → `[T, hidden]`: what each token learns from those before it.
#[derive(Clone)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    qk_norm: Option<[RmsNorm; 2]>,
    rope: RotaryEmbedding,
    cache: CacheLayer,
    num_attention_heads: usize,
    scale: f32,
    soft_cap: Option<f32>,
}

impl Attention {
    fn load(weights: &Weights<'_>, config: &DecoderConfig, layer_type: LayerType) -> Result<Self> {
        let DecoderConfig { hidden_size, head_dim, num_attention_heads, num_key_value_heads, .. } = *config;
        let (queries, keys) = (num_attention_heads * head_dim, num_key_value_heads * head_dim);
        let norm = |name| RmsNorm::load(&weights.scope(name), head_dim, config.norm);
        let (rope, window) = match layer_type {
            LayerType::FullAttention => (&config.rope, None),
            LayerType::SlidingAttention => (&config.rope_local, config.sliding_window),
        };
        let q_proj = Linear::load(&weights.scope("q_proj"), [queries, hidden_size], config.qkv_bias)?;
        let k_proj = Linear::load(&weights.scope("k_proj"), [keys, hidden_size], config.qkv_bias)?;
        let v_proj = Linear::load(&weights.scope("v_proj"), [keys, hidden_size], config.qkv_bias)?;
        let o_proj = Linear::load(&weights.scope("o_proj"), [hidden_size, queries], config.o_bias)?;
        let qk_norm = if config.qk_norm { Some([norm("q_norm")?, norm("k_norm")?]) } else { None };
        // Only now: the weights have borne out the size of a head.
        let rope = RotaryEmbedding::new(weights.device(), rope)?;
        Ok(Attention {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            qk_norm,
            cache: CacheLayer { kv_heads: num_key_value_heads, head_dim, window },
            num_attention_heads,
            scale: config.attention_scale as f32 * rope.score_factor(),
            soft_cap: config.attn_logit_softcapping.map(|cap| cap as f32),
            rope,
        })
    }

    fn forward(&self, x: &Tensor, batch: &Batch, cache: &mut KvCache, layer: usize) -> Result<Tensor> {
        let CacheLayer { kv_heads, head_dim, .. } = self.cache;
        let tokens = x.shape()[0];
        let mut q = self.q_proj.forward(x, &batch.routes)?.reshape([tokens, self.num_attention_heads, head_dim])?;
        let mut k = self.k_proj.forward(x, &batch.routes)?.reshape([tokens, kv_heads, head_dim])?;
        let v = self.v_proj.forward(x, &batch.routes)?.reshape([tokens, kv_heads, head_dim])?;
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let q = self.rope.forward(q, &batch.positions)?;
        let k = self.rope.forward(k, &batch.positions)?;
        let attended = cache.attend(layer, [&q, &k, &v], batch, self.scale, self.soft_cap)?;
        self.o_proj.forward(&attended.reshape([tokens, self.num_attention_heads * head_dim])?, &batch.routes)
    }
}

impl Parameters for Attention {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.linear("q_proj", &mut self.q_proj);
        visitor.linear("k_proj", &mut self.k_proj);
        visitor.linear("v_proj", &mut self.v_proj);
        visitor.linear("o_proj", &mut self.o_proj);
        if let Some([q_norm, k_norm]) = &mut self.qk_norm {
            q_norm.visit(&mut visitor.scope("q_norm"));
            k_norm.visit(&mut visitor.scope("k_norm"));
        }
    }
}

/// `[T, hidden]` → `[T, hidden]`: a gated linear unit, each token for itself.
#[derive(Clone)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    hidden_act: Activation,
}

impl Mlp {
    fn load(weights: &Weights<'_>, config: &DecoderConfig) -> Result<Self> {
        let DecoderConfig { hidden_size, intermediate_size, mlp_bias, .. } = *config;
        Ok(Mlp {
            gate_proj: Linear::load(&weights.scope("gate_proj"), [intermediate_size, hidden_size], mlp_bias)?,
            up_proj: Linear::load(&weights.scope("up_proj"), [intermediate_size, hidden_size], mlp_bias)?,
            down_proj: Linear::load(&weights.scope("down_proj"), [hidden_size, intermediate_size], mlp_bias)?,
            hidden_act: config.hidden_act,
        })
    }

    /// In the dtype of `x`; within, in `hidden` if that is given.
    fn forward(&self, x: &Tensor, routes: &Routes, hidden: Option<DType>) -> Result<Tensor> {
        let inner = x.cast(hidden.unwrap_or(x.dtype()))?;
        let maps = [&self.gate_proj, &self.up_proj, &self.down_proj];
        Ok(Linear::gated_mlp(maps, &inner, routes, self.hidden_act)?.cast(x.dtype())?)
    }
}

impl Parameters for Mlp {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.linear("gate_proj", &mut self.gate_proj);
        visitor.linear("up_proj", &mut self.up_proj);
        visitor.linear("down_proj", &mut self.down_proj);
    }
}

/// What goes into and comes out of one half of a block.
#[derive(Clone)]
struct Residual {
    before: RmsNorm,
    after: Option<RmsNorm>,
    entry: Entry,
}

impl Residual {
    /// `x + entry(after(inner(before(x))))`.
    fn around(
        &self,
        x: &Tensor,
        dropout: Option<Dropout>,
        inner: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let y = inner(&self.before.forward(x)?)?;
        let y = match &self.after {
            Some(after) => after.forward(&y)?,
            None => y,
        };
        Ok(x.add(&self.entry.forward(y, dropout)?)?)
    }
}

/// Where something enters the residual stream: there training drops some of it out.
#[derive(Clone, Copy)]
struct Entry {
    /// Of its random numbers.
    stream: u64,
}

impl Entry {
    fn new(name: &str) -> Self {
        Entry { stream: stream(name) }
    }

    fn forward(self, x: Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
        match dropout {
            Some(dropout) => dropout.apply(&x, self.stream),
            None => Ok(x),
        }
    }
}

/// Attention, then the MLP, each beside the residual stream.
#[derive(Clone)]
struct Block {
    self_attn: Attention,
    mlp: Mlp,
    around_attn: Residual,
    around_mlp: Residual,
}

impl Block {
    fn load(weights: &Weights<'_>, config: &DecoderConfig, index: usize) -> Result<Self> {
        let norm = |name| RmsNorm::load(&weights.scope(name), config.hidden_size, config.norm);
        let entry = |half| Entry::new(&format!("layers.{index}.{half}"));
        let before_attn = norm("input_layernorm")?;
        // Not a slip: without norms after, `post_attention_layernorm` is the one before the MLP.
        let (after_attn, before_mlp, after_mlp) = match config.norms {
            BlockNorms::Before => (None, norm("post_attention_layernorm")?, None),
            BlockNorms::BeforeAndAfter => (
                Some(norm("post_attention_layernorm")?),
                norm("pre_feedforward_layernorm")?,
                Some(norm("post_feedforward_layernorm")?),
            ),
        };
        Ok(Block {
            self_attn: Attention::load(&weights.scope("self_attn"), config, config.layer_types[index])?,
            mlp: Mlp::load(&weights.scope("mlp"), config)?,
            around_attn: Residual { before: before_attn, after: after_attn, entry: entry("self_attn") },
            around_mlp: Residual { before: before_mlp, after: after_mlp, entry: entry("mlp") },
        })
    }

    fn forward(&self, x: &Tensor, batch: &Batch, cache: &mut KvCache, layer: usize, rows: BlockRows) -> Result<Tensor> {
        let dropout = batch.dropout;
        let x = self.around_attn.around(x, dropout, |x| self.self_attn.forward(x, batch, cache, layer))?;
        match rows {
            BlockRows::All => self.around_mlp.around(&x, dropout, |x| self.mlp.forward(x, &batch.routes, batch.hidden)),
            BlockRows::Outputs => {
                let x = x.take_rows(&batch.outputs)?;
                self.around_mlp.around(&x, dropout, |x| self.mlp.forward(x, &batch.output_routes, batch.hidden))
            }
        }
    }

    /// [`Block::forward`], of which only `x` is kept for the way back: the rest is computed again.
    fn forward_again(
        &self,
        x: &Tensor,
        batch: &Batch,
        cache: &KvCache,
        layer: usize,
        rows: BlockRows,
    ) -> Result<Tensor> {
        let (block, form) = (self.clone(), cache.layer(layer)?);
        let tables = batch.tables.get(form.group()).cloned().into_iter().collect();
        let batch = Batch { tables, ..batch.clone() };
        let forward = move |x: &[Tensor]| block.forward(&x[0], &batch, &mut form.empty()?, 0, rows);
        grad::checkpoint(forward, std::slice::from_ref(x))
    }
}

/// Which rows of a block are wanted.
#[derive(Clone, Copy)]
enum BlockRows {
    All,
    /// Past the last attention no other token looks at the rest.
    Outputs,
}

impl Parameters for Block {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        self.self_attn.visit(&mut visitor.scope("self_attn"));
        self.mlp.visit(&mut visitor.scope("mlp"));
        self.around_attn.before.visit(&mut visitor.scope("input_layernorm"));
        // As they were loaded.
        match (&mut self.around_attn.after, &mut self.around_mlp.after) {
            (Some(after_attn), Some(after_mlp)) => {
                after_attn.visit(&mut visitor.scope("post_attention_layernorm"));
                self.around_mlp.before.visit(&mut visitor.scope("pre_feedforward_layernorm"));
                after_mlp.visit(&mut visitor.scope("post_feedforward_layernorm"));
            }
            _ => self.around_mlp.before.visit(&mut visitor.scope("post_attention_layernorm")),
        }
    }
}

/// Where a decoder and its head stand in their checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefixes {
    pub model: &'static str,
    pub lm_head: &'static str,
}

/// A decoder with its weights.
pub(crate) struct Decoder {
    prefixes: Prefixes,
    summary: Summary,
    device: DeviceHandle,
    activations: DType,
    embed_tokens: Embedding,
    embedding_scale: Option<f64>,
    layers: Vec<Block>,
    norm: RmsNorm,
    scores: Scores,
    head: Head,
    /// The order of the rows of `q_proj` and of `k_proj`.
    qk_rows: [RowOrder; 2],
}

impl Decoder {
    /// Loads the decoder, and its head if that is not tied to the embeddings.
    pub(crate) fn load(
        config: &DecoderConfig,
        summary: Summary,
        prefixes: Prefixes,
        weights: &Weights<'_>,
    ) -> Result<Self> {
        let (model, lm_head) = (weights.scope(prefixes.model), weights.scope(prefixes.lm_head));
        let device = model.device().clone();
        let table = [config.vocab_size, config.hidden_size];
        let embed_tokens = Embedding::load(&model.scope("embed_tokens"), table, config.head)?;
        let layers = (0..config.layer_types.len())
            .map(|index| Block::load(&model.scope(&format!("layers.{index}")), config, index))
            .collect::<Result<_>>()?;
        let norm = RmsNorm::load(&model.scope("norm"), config.hidden_size, config.norm)?;
        let lm_head = match config.head {
            Head::Tied => embed_tokens.as_linear(),
            Head::Separate => Linear::load(&lm_head, table, Bias::Absent)?,
        };
        let loaded = model.loaded();
        Ok(Decoder {
            activations: device.activation_dtype(summary.dtype),
            summary: Summary { parameters: loaded.parameters, weight_bytes: loaded.bytes, ..summary },
            device,
            embed_tokens,
            embedding_scale: config.embedding_scale,
            layers,
            norm,
            scores: Scores { lm_head, soft_cap: config.final_logit_softcapping },
            head: config.head,
            qk_rows: config.qk_rows(),
            prefixes,
        })
    }
}

impl Parameters for Decoder {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        let mut model = visitor.scope(self.prefixes.model);
        self.embed_tokens.visit(&mut model.scope("embed_tokens"));
        for (index, block) in self.layers.iter_mut().enumerate() {
            block.visit(&mut model.scope(&format!("layers.{index}")));
        }
        self.norm.visit(&mut model.scope("norm"));
        match self.head {
            Head::Tied => self.scores.lm_head = self.embed_tokens.as_linear(),
            Head::Separate => visitor.linear(self.prefixes.lm_head, &mut self.scores.lm_head),
        }
    }
}

/// Logits of a loss that exist at a time: 16 MiB, which a cache holds while they are looked at.
const LOGITS: usize = 4 << 20;

/// Fewer rows of them make slow products.
const LOGIT_ROWS: usize = 256;

/// Gradients of logits that exist at a time, if they are not fewer: 128 MiB in bf16.
const LOGIT_GRADIENTS: usize = 64 << 20;

impl Decoder {
    /// What the head sees of the tokens named by [`Batch::outputs`], `f32[R, hidden]`.
    fn hidden(&self, batch: &Batch, cache: &mut KvCache) -> Result<Tensor> {
        let mut x = self.embed_tokens.forward(&batch.tokens, self.activations)?;
        if let Some(scale) = self.embedding_scale {
            x = x.scale(scale)?;
        }
        x = Entry::new("embed_tokens").forward(x, batch.dropout)?;
        for (index, block) in self.layers.iter().enumerate() {
            let rows = if index + 1 == self.layers.len() { BlockRows::Outputs } else { BlockRows::All };
            x = match batch.activations {
                Activations::Kept => block.forward(&x, batch, cache, index, rows)?,
                Activations::Recomputed => block.forward_again(&x, batch, cache, index, rows)?,
            };
        }
        Ok(self.norm.forward(&x)?.cast(DType::F32)?)
    }
}

impl Model for Decoder {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn cache_layers(&self) -> Vec<CacheLayer> {
        self.layers.iter().map(|block| block.self_attn.cache).collect()
    }

    fn forward(&self, batch: &Batch, cache: &mut KvCache) -> Result<Tensor> {
        self.scores.logits(&self.hidden(batch, cache)?, &batch.output_routes)
    }

    fn cross_entropy(&self, batch: &Batch, cache: &mut KvCache, targets: &Tensor) -> Result<Tensor> {
        let vocabulary = self.summary.vocab_size.max(1);
        let logits = (LOGITS / vocabulary).max(LOGIT_ROWS);
        let rows = LossRows { logits, gradients: (LOGIT_GRADIENTS / vocabulary).max(1) };
        self.scores.cross_entropy(&self.hidden(batch, cache)?, &batch.output_routes, targets, rows)
    }

    fn device(&self) -> &DeviceHandle {
        &self.device
    }

    fn row_order(&self, layer: &str) -> RowOrder {
        row_order(layer, self.qk_rows)
    }
}
