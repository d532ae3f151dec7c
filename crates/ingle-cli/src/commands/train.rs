// SPDX-License-Identifier: EUPL-1.2
//! `ingle train`: a model of one's own.

use std::path::PathBuf;

use ingle::train::{ScratchConfig, ScratchOptions, from_scratch};

use crate::Failure;
use crate::training::{MachineArgs, RunArgs};

/// What follows the words of the command line.
const CONFIGURATION: &str = "\
A configuration:
  [model]
  model_type = \"llama\"
  hidden_size = 256
  intermediate_size = 704
  num_hidden_layers = 6
  num_attention_heads = 4
  tie_word_embeddings = true

  [tokenizer]
  vocab_size = 2048
  special_tokens = [\"<bos>\", \"<eos>\"]   # this and what follows may be left out
  words = ' ?\\p{L}+|\\s+|\\S'           # what of a text is a word
  chat_template = \"...\"

  [data]                    # may be left out
  separator = \"\\n\\n\"        # what stands between the documents of a text
  end = \"<eos>\"             # what ends each
  bpe_dropout = 0.1         # how likely a token is taken apart

  [training]
  steps = 2000              # or epochs
  learning_rate = 2e-3
  batch_tokens = 4096       # this and what follows may be left out
  max_length = 512
  warmup = 0.05
  decay = \"cosine\"          # or linear, constant
  final_rate = 0.05
  weight_decay = 0.1
  beta1 = 0.9
  beta2 = 0.98
  dropout = 0.15            # of what enters the residual stream
  validate_every = 200
  patience = 5
  checkpoint_every = 100

  [generation]              # of a generation_config.json; may be left out
  temperature = 0.8";

/// Train a model from nothing: its tokeniser, then its weights
///
/// The configuration says what the model is like, in the words of a config.json,
/// and how it is trained; below is one.
///
/// OUT gets the `model`, checkpoints, log.jsonl, loss.svg, loss.png and events for
/// TensorBoard. Ctrl-C writes a checkpoint and stops; the same command with
/// --resume goes on, with the same results as if it had never stopped.
///
/// Examples:
///   ingle train --config small.toml --data plays.txt --out out
///   ingle generate --model out/model --prompt "ROMEO:"
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_long_help = CONFIGURATION)]
pub struct Args {
    /// What the model is like, and how it is trained: TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let options = ScratchOptions {
            config: ScratchConfig::open(&self.config)?,
            data: self.run.data.clone(),
            validation: self.run.valid.clone(),
            out: self.run.out.clone(),
            start: self.run.start(),
            machine: self.machine.machine(),
        };
        self.run.show(|display| from_scratch(&options, display))
    }
}
