// SPDX-License-Identifier: EUPL-1.2
// Element-wise steps as one kernel.
#pragma once

#include <functional>
#include <limits>

#include "ingle-mlx/src/bridge/state.h"
#include "ingle-mlx/src/exact.h"

namespace ingle {

// `function`, or on a CPU the C library's: see exact.h.
inline mx::array precisely(mx::array (*function)(const mx::array&, mx::StreamOrDevice), Exact library, const mx::array& x) {
  return state().engine == Engine::Cpu ? exact(library, x) : function(x, {});
}

// Numbers in compiled steps, which keep them for good: made when the engine starts, so that no operation leaves memory
// behind that was not there before.
struct Constants {
  mx::array zero = number(0);
  mx::array half = number(0.5f);
  mx::array one = number(1);
  mx::array root_half = number(0.70710678118654752f);
  mx::array cubic = number(0.044715f);
  mx::array root_two_over_pi = number(0.79788456080286536f);
  mx::array no_bits = mx::array(0, mx::int32);
  mx::array but_the_sign = mx::array(0x7fffffff, mx::int32);
  mx::array only_the_sign = mx::array(std::numeric_limits<std::int32_t>::min(), mx::int32);
};

const Constants& constants();

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
