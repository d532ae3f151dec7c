// SPDX-License-Identifier: EUPL-1.2
//! A GGUF file.

use std::path::Path;

use ingle_engine::text::GgufVocabulary;
use ingle_models::GgufPlan;
use ingle_nn::gguf::ALIGNMENT;
use ingle_nn::output::Part;

use super::Pace;
use crate::Result;

/// Writes the file. Gives the bytes that the weights take.
pub(super) fn write(plan: GgufPlan, vocabulary: &GgufVocabulary, out: &Path, pace: &mut Pace<'_>) -> Result<usize> {
    let name = out.file_stem().unwrap_or_default().to_string_lossy();
    let (header, computed) = plan.header(&name, |header| vocabulary.write(header));
    let (part, mut file) = Part::file(out)?;
    file.write(&header.bytes())?;
    for tensor in computed {
        file.write(&tensor)?;
        file.align(ALIGNMENT)?;
    }
    let before = file.written();
    for tensor in plan.tensors {
        pace.convert(&tensor, |piece| Ok(file.write(piece)?))?;
        file.align(ALIGNMENT)?;
    }
    let bytes = file.written() - before;
    file.finish()?;
    part.finish()?;
    Ok(bytes)
}
