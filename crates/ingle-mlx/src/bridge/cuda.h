// SPDX-License-Identifier: EUPL-1.2
// Kernels of our own, for where MLX computes on CUDA: work that MLX's kernels would split into several, or copy for.
#pragma once

#include "ingle-mlx/src/bridge/state.h"

namespace ingle::cuda {

// Whether the kernels here take `x`: they go along its last axis, count threads in 32 bits, and none is launched for
// nothing.
inline bool takes(const mx::array& x) {
  return state().engine == Engine::Cuda && x.ndim() > 0 && x.size() > 0 && x.size() < (std::size_t(1) << 28);
}

// `x / sqrt(mean(x^2) + eps) * weight`, the weight being f32.
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps);

// The floats, in a dtype of two bytes, of a matrix in MLX's quantised format.
mx::array dequantize(
    const mx::array& words,
    const mx::array& scales,
    const mx::array& offsets,
    int group_size,
    int bits,
    mx::Dtype dtype);

// `function(gate) * up`.
mx::array glu(Activation function, const mx::array& gate, const mx::array& up);

// The first features of each head of `x [T, H, D]` turned: pairs as far apart as there are frequencies, or neighbours.
mx::array rope(const mx::array& x, const mx::array& positions, const mx::array& frequencies, Pairs pairs);

// The attention of queries `q [T, H, D]` to what the tables say of the caches `[N, KH, D]`: see `bridge.rs`.
mx::array paged_attention(
    const mx::array& q,
    const mx::array& keys,
    const mx::array& values,
    const std::vector<mx::array>& tables,
    int warps);

} // namespace ingle::cuda
