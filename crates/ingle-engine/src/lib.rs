// SPDX-License-Identifier: EUPL-1.2
//! Tokeniser, chat templates, sampler, paged KV cache, scheduler: the one generation loop.
