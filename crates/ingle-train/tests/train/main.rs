// SPDX-License-Identifier: EUPL-1.2
//! Trainings of small models, from end to end.

mod common;
mod curves;
mod failures;
mod lora;
mod resume;
mod text;
