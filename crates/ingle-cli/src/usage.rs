// SPDX-License-Identifier: EUPL-1.2
//! Wrong usage: one line that says what is wrong, and exit code 2.

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::output;

/// Shows what the argument parser has to say: help and version as they are, errors in one line.
pub fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell if this cannot be written.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            output::error(&one_line(&error.render().to_string()));
            ExitCode::from(2)
        }
    }
}

/// The parser's message without its usage paragraph and its pointer to `--help`, on one line.
fn one_line(message: &str) -> String {
    let told = message.split("\n\nUsage:").next().unwrap_or(message);
    let told = told.split("\n\nFor more information").next().unwrap_or(told);
    let words: Vec<&str> = told.trim_start_matches("error:").split_whitespace().collect();
    format!("{} (try --help)", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_message_becomes_one_line_good() {
        let message = "error: the following required arguments were not provided:\n  --tokens <IDS>\n\nUsage: ingle \
                       logits --tokens <IDS>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(message),
            "the following required arguments were not provided: --tokens <IDS> (try --help)"
        );
    }
}
