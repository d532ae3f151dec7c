// SPDX-License-Identifier: EUPL-1.2
//! `ingle chat`: converse.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use ingle::{FinishReason, GenerateOptions, Message, TextModel};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generate::{note_logprobs, speeds};
use crate::args::{ModelArgs, SamplingArgs};
use crate::interrupt::Interrupted;
use crate::{Failure, interrupt, output};

/// Converse with a model
///
/// The conversation is kept, and what earlier turns computed is reused. Ctrl-C
/// stops the answer and not the program; Ctrl-D or /exit leaves. Lines that begin
/// with / are commands: /help lists them. When standard input is not a terminal,
/// each of its lines is one message, and Ctrl-C ends the program with exit code 130.
///
/// Examples:
///   ingle chat --model Qwen/Qwen3-0.6B --system "Answer in one sentence."
///   printf 'Hello\nWho are you?\n' | ingle chat
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Begin with this system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Go on with a conversation saved by /save
    #[arg(long, value_name = "FILE")]
    load: Option<std::path::PathBuf>,

    /// After each answer, say how many tokens it took and how fast they came
    #[arg(long)]
    stats: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

const HELP: &str = "\
/reset        forget the conversation, keep the system message
/system TEXT  set the system message and begin anew; without TEXT, remove it
/save FILE    write the conversation to FILE as JSON
/load FILE    go on with a conversation from FILE
/help         show this
/exit         leave (Ctrl-D does too)";

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let mut conversation = Conversation::new(self.system);
        if let Some(path) = &self.load {
            conversation.load(path)?;
        }
        let model = self.model.load()?;
        let options = self.sampling.options(model.as_ref());
        let mut lines = Lines::new()?;
        let partner = Partner { model, options, stats: self.stats, present: lines.interactive() };
        if lines.interactive() {
            let info = partner.model.info();
            output::note(&format!("{} on {}; /help lists the commands", info.name, info.backend));
        }
        while let Some(line) = lines.next()? {
            match line.split_once(' ').unwrap_or((line.as_str(), "")) {
                ("", "") => {}
                ("/exit" | "/quit", _) => break,
                (command, rest) if command.starts_with('/') => match conversation.command(command, rest.trim()) {
                    Ok(said) => output::note(&said),
                    Err(error) => output::error(&error.to_string()),
                },
                _ => {
                    if let Err(error) = conversation.turn(&partner, line) {
                        if output::is_closed_pipe(error.as_ref()) || !lines.interactive() {
                            return Err(error);
                        }
                        output::error(&error.to_string());
                    }
                    if !lines.interactive() {
                        interrupt::idle();
                    }
                }
            }
        }
        Ok(())
    }
}

/// Who answers, and how.
struct Partner {
    model: Box<dyn TextModel>,
    options: GenerateOptions,
    /// Whether each answer is followed by how fast it came.
    stats: bool,
    /// Whether a person is there to go on after Ctrl-C.
    present: bool,
}

/// What has been said so far.
struct Conversation {
    system: Option<String>,
    messages: Vec<Message>,
}

impl Conversation {
    fn new(system: Option<String>) -> Self {
        let mut conversation = Conversation { system, messages: Vec::new() };
        conversation.reset();
        conversation
    }

    fn reset(&mut self) {
        self.messages = self.system.iter().map(|text| Message::new("system", text)).collect();
    }

    /// One message and its answer. A message that fails is taken back, so that the conversation stays whole.
    fn turn(&mut self, partner: &Partner, text: String) -> Result<(), Failure> {
        let before = self.messages.len();
        self.messages.push(Message::new("user", text));
        match self.answer(partner) {
            Ok(answer) => {
                self.messages.push(Message::new("assistant", answer));
                Ok(())
            }
            Err(error) => {
                self.messages.truncate(before);
                Err(error)
            }
        }
    }

    fn answer(&self, partner: &Partner) -> Result<String, Failure> {
        let options = GenerateOptions { cancel: Some(interrupt::token()?), ..partner.options.clone() };
        let mut stream = partner.model.chat(&self.messages, &options)?;
        let (mut answer, mut tokens) = (String::new(), Vec::new());
        for token in &mut stream {
            let token = token?;
            output::text(&token.text)?;
            answer.push_str(&token.text);
            tokens.push(token);
        }
        if !answer.ends_with('\n') {
            output::text("\n")?;
        }
        note_logprobs(&tokens, partner.model.as_ref());
        let finish = stream.finish();
        if let (true, Some(finish)) = (partner.stats, finish) {
            output::note(&speeds(&finish.usage));
        }
        // Nobody is there to go on: the messages that follow were not written to this answer.
        let cancelled = finish.is_some_and(|finish| finish.reason == FinishReason::Cancelled);
        if cancelled && !partner.present { Err(Interrupted::silent()) } else { Ok(answer) }
    }

    fn command(&mut self, command: &str, rest: &str) -> Result<String, Failure> {
        match (command, rest) {
            ("/help", _) => Ok(HELP.to_owned()),
            ("/reset", _) => {
                self.reset();
                Ok("the conversation begins anew".to_owned())
            }
            ("/system", text) => {
                self.system = (!text.is_empty()).then(|| text.to_owned());
                self.reset();
                Ok("the conversation begins anew".to_owned())
            }
            ("/save" | "/load", "") => Err(format!("{command} needs a file name").into()),
            ("/save", file) => {
                self.save(Path::new(file))?;
                Ok(format!("saved {} messages to {file}", self.messages.len()))
            }
            ("/load", file) => {
                self.load(Path::new(file))?;
                Ok(format!("loaded {} messages from {file}", self.messages.len()))
            }
            _ => Err(format!("{command}: unknown command; /help lists them").into()),
        }
    }

    /// Written beside its target and renamed, so that a conversation saved before is never half lost.
    fn save(&self, path: &Path) -> Result<(), Failure> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let named = |error: io::Error| format!("{}: {error}", path.display());
        std::fs::write(&part, serde_json::to_vec_pretty(&self.messages)?).map_err(named)?;
        std::fs::rename(&part, path).map_err(named)?;
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<(), Failure> {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let messages: Vec<Message> = serde_json::from_slice(&text).map_err(|error| {
            format!("{}: expected a list of messages with role and content: {error}", path.display())
        })?;
        self.system = messages.first().filter(|first| first.role == "system").map(|first| first.content.clone());
        self.messages = messages;
        Ok(())
    }
}

/// Messages from a line editor on a terminal, else from the lines of standard input.
enum Lines {
    Editor(Box<DefaultEditor>),
    Plain(io::Lines<io::StdinLock<'static>>),
}

impl Lines {
    fn new() -> Result<Self, Failure> {
        if io::stdin().is_terminal() {
            Ok(Lines::Editor(Box::new(DefaultEditor::new()?)))
        } else {
            Ok(Lines::Plain(io::stdin().lock().lines()))
        }
    }

    fn interactive(&self) -> bool {
        matches!(self, Lines::Editor(_))
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Lines::Plain(lines) => match lines.next() {
                None => Ok(None),
                Some(Ok(line)) => Ok(Some(line.trim().to_owned())),
                Some(Err(error)) => Err(format!("standard input: expected lines of UTF-8 text: {error}").into()),
            },
            Lines::Editor(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        let _ = editor.add_history_entry(&line);
                        return Ok(Some(line.trim().to_owned()));
                    }
                    // Ctrl-C gives the line up and not the program.
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_saved_and_loaded_good() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.json");
        let mut first = Conversation::new(Some("Be brief.".into()));
        first.messages.push(Message::new("user", "Hello"));
        first.save(&file).unwrap();
        let mut second = Conversation::new(None);
        second.command("/load", &file.display().to_string()).unwrap();
        assert_eq!(second.messages.len(), 2);
        assert_eq!(second.system.as_deref(), Some("Be brief."));
        second.command("/reset", "").unwrap();
        assert_eq!(second.messages.len(), 1);
    }

    #[test]
    fn wrong_commands_change_nothing_bad() {
        let mut conversation = Conversation::new(None);
        conversation.messages.push(Message::new("user", "Hello"));
        assert!(conversation.command("/frobnicate", "").is_err());
        assert!(conversation.command("/load", "/nowhere/talk.json").is_err());
        assert!(conversation.command("/save", "").is_err());
        assert_eq!(conversation.messages.len(), 1);
    }
}
