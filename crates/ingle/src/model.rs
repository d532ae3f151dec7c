// SPDX-License-Identifier: EUPL-1.2
//! A loaded model, whichever backend runs it.

use ingle_engine::Sampling;
use ingle_engine::text::{Message, Special};
use ingle_tensor::Memory;

use crate::{
    Classifications, ClassifyOptions, Completions, Error, GenerateOptions, Metrics, ModelInfo, Prompt, Result,
    TokenStream,
};

/// A loaded model. Many threads may use one at once: their requests are computed together. Dropping it frees
/// its memory; streams still open then end.
pub trait TextModel: Send + Sync {
    /// What the model is.
    fn info(&self) -> ModelInfo;

    /// What it has done so far.
    fn metrics(&self) -> Metrics;

    /// The same model, whose requests go through the adapter of this name ([`LoadOptions::adapters`]), or through none.
    /// Requests to all such handles are computed together, and each gives what it would alone.
    ///
    /// # Errors
    /// An adapter that the model was not loaded with; a backend that knows no adapters.
    ///
    /// [`LoadOptions::adapters`]: crate::LoadOptions::adapters
    fn adapted(&self, adapter: Option<&str>) -> Result<Box<dyn TextModel>> {
        let _ = adapter;
        Err(Error::Unsupported { backend: self.info().backend, what: "choose among adapters" })
    }

    /// Continues a prompt, token by token. Dropping the stream cancels the rest.
    ///
    /// # Errors
    /// Before the first token: an empty prompt, one longer than the context, options out of range.
    fn generate(&self, prompt: Prompt, options: &GenerateOptions) -> Result<TokenStream>;

    /// Answers the last message of a conversation. What an earlier turn has computed is found in the cache.
    ///
    /// # Errors
    /// As [`TextModel::generate`]; if the model's chat template refuses the messages.
    fn chat(&self, messages: &[Message], options: &GenerateOptions) -> Result<TokenStream>;

    /// Continues many prompts together; completions come in the order of the prompts.
    ///
    /// # Errors
    /// Options out of range. What is wrong with one prompt is the error of its completion alone.
    fn batch_generate(&self, prompts: Vec<Prompt>, options: &GenerateOptions) -> Result<Completions<'_>>;

    /// Says what comes next after each text, or which of some labels fits it best, from one pass over the
    /// text and without generating; classifications come in the order of the texts.
    ///
    /// # Errors
    /// No labels, equal labels, an empty label. What is wrong with one text is the error of its item alone.
    fn classify(&self, texts: Vec<String>, options: &ClassifyOptions) -> Result<Classifications<'_>>;

    /// The logits after each of the tokens from index `from` on: one row of the vocabulary's size for each.
    ///
    /// # Errors
    /// Tokens that the vocabulary lacks, none at all, more than the context holds; a backend that cannot.
    fn logits(&self, tokens: Vec<u32>, from: usize) -> Result<Vec<Vec<f32>>>;

    /// The token ids of a text, with or without the model's own start and end tokens.
    ///
    /// # Errors
    /// A model without tokeniser; a backend that cannot.
    fn tokenize(&self, text: &str, special: Special) -> Result<Vec<u32>>;

    /// The vocabulary's piece for a token id, as its file spells it; `None` for an unknown id.
    fn piece(&self, id: u32) -> Option<String>;

    /// The token ids that the model's chat template makes of a conversation, ready for its answer.
    ///
    /// # Errors
    /// If the template refuses the messages; a model without tokeniser.
    fn chat_prompt(&self, messages: &[Message]) -> Result<Prompt>;

    /// How tokens are chosen where a request does not say: by the model's `generation_config.json`, or greedily.
    fn default_sampling(&self) -> Sampling;

    /// Memory of the device that runs the model, in bytes.
    fn memory(&self) -> Memory;

    /// Refuses work that would take more memory than this; `None` lifts the limit.
    fn set_memory_limit(&self, bytes: Option<usize>);

    /// Keeps at most so many freed bytes for reuse; `None` restores the device's default.
    fn set_cache_limit(&self, bytes: Option<usize>);

    /// Forgets prompts kept for reuse: the next request is computed from its first token on.
    ///
    /// # Errors
    /// If the engine has failed.
    fn forget_prompts(&self) -> Result<()>;

    /// Gives freed memory back to the system, and forgets prompts kept for reuse.
    ///
    /// # Errors
    /// If the engine has failed.
    fn clear_cache(&self) -> Result<()>;
}
