// SPDX-License-Identifier: EUPL-1.2
// Non-linearities and rotations, each as one kernel.
#include "ingle-mlx/src/bridge/steps.h"

#include "ingle-mlx/src/bridge/cuda.h"

namespace ingle {
namespace {

mx::array activated(Activation function, const mx::array& x) {
  auto& of = constants();
  switch (function) {
    case Activation::Silu:
      return mx::multiply(x, precisely(mx::sigmoid, Exact::Sigmoid, x));
    case Activation::Gelu: {
      auto bell = mx::add(precisely(mx::erf, Exact::Erf, mx::multiply(x, of.root_half)), of.one);
      return mx::multiply(mx::multiply(x, of.half), bell);
    }
    case Activation::GeluTanh: {
      auto cubed = mx::multiply(mx::multiply(mx::multiply(x, x), x), of.cubic);
      auto inner = mx::multiply(mx::add(x, cubed), of.root_two_over_pi);
      return mx::multiply(mx::multiply(x, of.half), mx::add(mx::tanh(inner), of.one));
    }
    default:
      throw std::invalid_argument("an activation that the bridge does not know");
  }
}

template <Activation function>
std::vector<mx::array> activate_steps(const std::vector<mx::array>& in) {
  return {mx::astype(activated(function, wide(in[0])), in[0].dtype())};
}

template <Activation function>
std::vector<mx::array> glu_steps(const std::vector<mx::array>& in) {
  return {mx::astype(mx::multiply(activated(function, wide(in[0])), wide(in[1])), in[0].dtype())};
}

template <template <Activation> class Of>
const Steps& steps_of(Activation function) {
  switch (function) {
    case Activation::Silu: {
      static const Steps* steps = new Steps(Of<Activation::Silu>::steps, Shapes::Any);
      return *steps;
    }
    case Activation::Gelu: {
      static const Steps* steps = new Steps(Of<Activation::Gelu>::steps, Shapes::Any);
      return *steps;
    }
    default: {
      static const Steps* steps = new Steps(Of<Activation::GeluTanh>::steps, Shapes::Any);
      return *steps;
    }
  }
}

template <Activation function>
struct Activate {
  static std::vector<mx::array> steps(const std::vector<mx::array>& in) {
    return activate_steps<function>(in);
  }
};

template <Activation function>
struct Glu {
  static std::vector<mx::array> steps(const std::vector<mx::array>& in) {
    return glu_steps<function>(in);
  }
};

std::vector<mx::array> soft_cap_steps(const std::vector<mx::array>& in) {
  auto inner = mx::tanh(mx::divide(wide(in[0]), in[1]));
  return {mx::astype(mx::multiply(inner, in[1]), in[0].dtype())};
}

std::vector<mx::array> rotate_steps(const std::vector<mx::array>& in) {
  auto turned = mx::add(mx::multiply(wide(in[0]), in[2]), mx::multiply(wide(in[1]), in[3]));
  return {mx::astype(turned, in[0].dtype())};
}

std::vector<mx::array> sum_steps(const std::vector<mx::array>& in) {
  auto sum = wide(in[0]);
  for (std::size_t i = 1; i < in.size(); i++) {
    sum = mx::add(sum, wide(in[i]));
  }
  return {sum};
}

} // namespace

// Never destroyed, as the engine.
const Constants& constants() {
  static const Constants* constants = new Constants();
  return *constants;
}

mx::array capped(const mx::array& x, float cap) {
  static const Steps* steps = new Steps(soft_cap_steps, Shapes::Each);
  return fused(steps->plain, steps->compiled, {x, number(cap)});
}

Handle activate(Activation function, const Array& x) {
  Turn turn;
  auto& steps = steps_of<Activate>(function);
  return made(fused(steps.plain, steps.compiled, {x.get()}));
}

Handle glu(Activation function, const Array& gate, const Array& up) {
  Turn turn;
  // MLX fuses no more than eleven steps in a row, a broadcast being one, and would make three kernels of these.
  if (cuda::takes(gate.get())) {
    return made(cuda::glu(function, gate.get(), up.get()));
  }
  auto& steps = steps_of<Glu>(function);
  return made(fused(steps.plain, steps.compiled, {gate.get(), up.get()}));
}

Handle soft_cap(const Array& x, float cap) {
  Turn turn;
  return made(capped(x.get(), cap));
}

Handle sum_of_parts(const Arrays& parts) {
  Turn turn;
  static const Steps* steps = new Steps(sum_steps, Shapes::Each);
  return made(fused(steps->plain, steps->compiled, parts.get()));
}

Handle rope(const Array& x, const Array& positions, const Array& frequencies, Pairs pairs) {
  Turn turn;
  return made(cuda::rope(x.get(), positions.get(), frequencies.get(), pairs));
}

Handle rotate(const Array& x, const Array& swapped, const Array& cos, const Array& sin) {
  Turn turn;
  static const Steps* steps = new Steps(rotate_steps, Shapes::Each);
  return made(fused(steps->plain, steps->compiled, {x.get(), swapped.get(), cos.get(), sin.get()}));
}

} // namespace ingle
