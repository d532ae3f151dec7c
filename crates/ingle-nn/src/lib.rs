// SPDX-License-Identifier: EUPL-1.2
//! Layers and weight files for language models on Ingle tensors.
