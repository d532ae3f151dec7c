// SPDX-License-Identifier: EUPL-1.2
// Element-wise steps as one kernel.
#pragma once

#include <functional>

#include "ingle-mlx/src/bridge/state.h"
#include "ingle-mlx/src/exact.h"

namespace ingle {

// `function`, or on a CPU the C library's: see exact.h.
inline mx::array precisely(mx::array (*function)(const mx::array&, mx::StreamOrDevice), Exact library, const mx::array& x) {
  return state().engine == Engine::Cpu ? exact(library, x) : function(x, {});
}

using Function = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

// On a GPU, element-wise steps as one kernel. (On a CPU that would call a compiler when the program runs.)
inline mx::array fused(const Function& plain, const Function& compiled, const std::vector<mx::array>& inputs) {
  return (state().engine == Engine::Cpu ? plain : compiled)(inputs)[0];
}

// Whether a compiled function serves every shape, or is traced anew for each.
enum class Shapes { Any, Each };

// A function with its compiled form, made once.
struct Steps {
  Function plain;
  Function compiled;
  Steps(std::vector<mx::array> (*steps)(const std::vector<mx::array>&), Shapes shapes)
      : plain(steps), compiled(mx::compile(steps, /* shapeless = */ shapes == Shapes::Any)) {}
};

// `cap · tanh(x / cap)`.
mx::array capped(const mx::array& x, float cap);

} // namespace ingle
