// SPDX-License-Identifier: EUPL-1.2
//! Run, serve, fine-tune and train language models on the machine you own.
