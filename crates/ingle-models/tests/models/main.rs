// SPDX-License-Identifier: EUPL-1.2
//! Whole models: their numbers, that nothing around a request changes them, and what happens to bad files.

mod adapters;
mod bad_files;
mod cache;
mod common;
mod export;
mod learning;
mod parity;
mod quantised;
mod same_answer;
mod summary;
