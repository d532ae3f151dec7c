// SPDX-License-Identifier: EUPL-1.2
// Functions that MLX approximates on a CPU by formulas that lose the last digits, by the C library's instead.
#pragma once

#include "mlx/array.h"

namespace ingle {

enum class Exact { Exp, Sigmoid, Erf };

// The function of an array of f32, on the CPU's stream.
mlx::core::array exact(Exact function, const mlx::core::array& x);

} // namespace ingle
