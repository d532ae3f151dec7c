// SPDX-License-Identifier: EUPL-1.2
//! `ingle finetune`: teach a model from examples.

use clap::ValueEnum;
use ingle::train::{
    AdamOptions, AdapterFormat, Decay, FinetuneOptions, Lookahead, LoraConfig, LoraScaling, Optimizer, Order,
    PromptLoss, Recompute, Schedule, SgdOptions, Target, TrainOptions, Until, finetune,
};

use crate::Failure;
use crate::args::{part, positive, positive_number};
use crate::training::{MachineArgs, RunArgs};

/// Teach a model from examples of what it should say
///
/// The data are JSONL, one example a line, in any of these shapes:
///   {"text": "…"}                          all of it is learnt
///   {"prompt": "…", "completion": "…"}     the completion is learnt
///   {"text": "…", "label": "…"}            the label is learnt, for `ingle classify`
///   {"messages": [{"role": "user", "content": "…"}, …]}
///                                          what the assistant says is learnt
/// With --lora-rank a small adapter is trained beside the model, which may be
/// quantised; without, all weights are. OUT gets the `adapter` or the `model`,
/// checkpoints, log.jsonl, loss.svg, loss.png and events for TensorBoard. Ctrl-C
/// writes a checkpoint and stops; the same command with --resume goes on, with the
/// same results as if it had never stopped.
///
/// Examples:
///   ingle finetune --data clinc150.jsonl --label-field domain --epochs 2 --out out
///   ingle finetune --data train.jsonl --valid val.jsonl --lora-rank 8 --out out
///   ingle finetune --model Qwen/Qwen3-0.6B --data train.jsonl --lora-rank 16 \
///     --lora-targets q_proj,k_proj,v_proj,o_proj --epochs 3 --out out
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A model directory, a .gguf file, the name of a pulled model (owner/name), or `demo`
    #[arg(long, short, default_value = "demo", env = "INGLE_MODEL", value_name = "MODEL")]
    model: String,

    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    adapter: AdapterArgs,

    #[command(flatten)]
    data_options: DataArgs,

    #[command(flatten)]
    training: TrainingArgs,

    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Adapter")]
struct AdapterArgs {
    /// Train an adapter of this rank, and leave the weights as they are
    #[arg(long, value_name = "R")]
    lora_rank: Option<usize>,

    /// The adapter's change is multiplied by this over the rank; twice the rank if not given
    #[arg(long, value_name = "X", requires = "lora_rank", value_parser = positive_number)]
    lora_alpha: Option<f64>,

    /// The share of features that drop out of the adapter in training
    #[arg(long, value_name = "P", requires = "lora_rank", default_value_t = 0.0)]
    lora_dropout: f64,

    /// The layers to adapt, separated by commas: the end of a name, or a pattern with *
    #[arg(long, value_name = "A,B", requires = "lora_rank", value_delimiter = ',', default_value = "q_proj,v_proj")]
    lora_targets: Vec<String>,

    /// Divide by the root of the rank instead (rsLoRA): for high ranks
    #[arg(long, requires = "lora_rank")]
    rslora: bool,

    /// Whose files the adapter is written as
    #[arg(long, value_enum, requires = "lora_rank", default_value_t = Format::Peft)]
    adapter_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Peft,
    Mlx,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Data")]
struct DataArgs {
    /// Learn prompts, too
    #[arg(long)]
    train_on_prompts: bool,

    /// The field that has an example's label
    #[arg(long, value_name = "NAME", default_value = "label")]
    label_field: String,

    /// What the model reads of an example with a label: {text} stands for the text, \n for a new line
    #[arg(long, value_name = "TEMPLATE", default_value = "{text}")]
    template: String,

    /// How likely a token that is read is taken apart in training: against learning a small text by heart
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    bpe_dropout: f64,

    /// Tokens of a sequence at most; longer texts are cut
    #[arg(long, value_name = "TOKENS", value_parser = positive, default_value_t = 1024)]
    max_length: usize,

    /// Tokens of a batch at most
    #[arg(long, value_name = "TOKENS", value_parser = positive, default_value_t = 2048)]
    batch_tokens: usize,

    /// Seed of the order of the examples, and of what drops out
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Training")]
struct TrainingArgs {
    /// Passes over the data; 1 if neither is given
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    epochs: Option<u64>,

    /// Steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,

    /// The highest learning rate; 2e-4 for an adapter, 2e-5 for weights
    #[arg(long, value_name = "X", value_parser = positive_number)]
    learning_rate: Option<f64>,

    /// The part of the training in which the rate rises
    #[arg(long, value_name = "PART", default_value_t = 0.03, value_parser = part)]
    warmup: f64,

    /// How the rate falls then
    #[arg(long, value_enum, default_value_t = Schedules::Cosine)]
    schedule: Schedules,

    /// The part of the highest rate that is left at the end
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = part)]
    final_rate: f64,

    /// What makes the steps
    #[arg(long, value_enum, default_value_t = Optimizers::Adamw)]
    optimizer: Optimizers,

    /// How strongly matrices are pulled towards zero
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    weight_decay: f64,

    /// The share of what enters the residual stream that drops out in training
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    dropout: f64,

    /// Scale gradients down to this norm
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive_number)]
    clip_norm: f64,

    /// Batches whose gradients are added up before a step
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = 1)]
    accumulate: usize,

    /// Compute each block again on the way back: less memory, more time, the same results
    #[arg(long)]
    recompute: bool,

    /// Steps from one validation to the next; only at the end if not given
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,

    /// Stop after so many validations in a row without a lower loss
    #[arg(long, value_name = "N", requires = "validate_every")]
    patience: Option<u64>,

    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 100)]
    checkpoint_every: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Schedules {
    Constant,
    Linear,
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Optimizers {
    Adamw,
    Adam,
    /// With a momentum of 0.9
    Sgd,
    /// With a momentum of 0.9 that looks ahead
    Nesterov,
}

impl AdapterArgs {
    fn config(&self) -> Option<LoraConfig> {
        let rank = self.lora_rank?;
        Some(LoraConfig {
            rank,
            alpha: self.lora_alpha.unwrap_or(2.0 * rank as f64),
            scaling: if self.rslora { LoraScaling::RootRank } else { LoraScaling::Rank },
            dropout: self.lora_dropout,
            targets: self.lora_targets.iter().map(Target::new).collect(),
        })
    }
}

impl TrainingArgs {
    fn options(&self, data: &DataArgs, learning_rate: f64) -> TrainOptions {
        let adam = AdamOptions { weight_decay: self.weight_decay, ..AdamOptions::default() };
        let sgd = |lookahead| SgdOptions { momentum: 0.9, lookahead, weight_decay: self.weight_decay };
        TrainOptions {
            optimizer: match self.optimizer {
                Optimizers::Adamw => Optimizer::AdamW(adam),
                Optimizers::Adam => Optimizer::Adam(adam),
                Optimizers::Sgd => Optimizer::Sgd(sgd(Lookahead::None)),
                Optimizers::Nesterov => Optimizer::Sgd(sgd(Lookahead::Nesterov)),
            },
            schedule: Schedule {
                peak: self.learning_rate.unwrap_or(learning_rate),
                warmup: self.warmup,
                decay: match self.schedule {
                    Schedules::Constant => Decay::Constant,
                    Schedules::Linear => Decay::Linear,
                    Schedules::Cosine => Decay::Cosine,
                },
                floor: self.final_rate,
            },
            clip_norm: Some(self.clip_norm),
            batch_tokens: data.batch_tokens,
            max_length: data.max_length.min(data.batch_tokens),
            accumulate: self.accumulate,
            until: match (self.steps, self.epochs) {
                (Some(steps), _) => Until::Steps(steps),
                (None, epochs) => Until::Epochs(epochs.unwrap_or(1)),
            },
            order: Order::Shuffled(data.seed),
            seed: data.seed,
            dropout: self.dropout,
            recompute: if self.recompute { Recompute::Blocks } else { Recompute::Nothing },
            validate_every: self.validate_every,
            patience: self.patience,
            checkpoint_every: Some(self.checkpoint_every),
        }
    }
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let adapter = self.adapter.config();
        let learning_rate = if adapter.is_some() { 2e-4 } else { 2e-5 };
        let options = FinetuneOptions {
            validation: self.run.valid.clone(),
            start: self.run.start(),
            adapter,
            adapter_format: match self.adapter.adapter_format {
                Format::Peft => AdapterFormat::Peft,
                Format::Mlx => AdapterFormat::Mlx,
            },
            prompt_loss: if self.data_options.train_on_prompts { PromptLoss::Learnt } else { PromptLoss::Masked },
            label_field: self.data_options.label_field.clone(),
            template: self.data_options.template.replace("\\n", "\n"),
            bpe_dropout: self.data_options.bpe_dropout,
            training: self.training.options(&self.data_options, learning_rate),
            machine: self.machine.machine(),
            ..FinetuneOptions::new(&self.run.data, &self.run.out)
        };
        if !options.template.contains("{text}") {
            return Err(format!("--template: expected {{text}} in it, found `{}`", options.template).into());
        }
        self.run.show(|display| finetune(&self.model, &options, display))
    }
}
