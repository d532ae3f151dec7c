// SPDX-License-Identifier: EUPL-1.2
// Element by element, along an axis, and products.
#include <limits>

#include "ingle-mlx/src/bridge/steps.h"

namespace ingle {

Handle unary(Unary function, const Array& array) {
  Turn turn;
  auto& own = array.get();
  if (function == Unary::Neg) {
    return made(mx::negative(own));
  }
  if (function == Unary::Abs) {
    return made(mx::abs(own));
  }
  auto x = wide(own);
  auto result = [&] {
    switch (function) {
      case Unary::Exp:
        return precisely(mx::exp, Exact::Exp, x);
      case Unary::Log:
        return mx::log(x);
      case Unary::Sqrt:
        return mx::sqrt(x);
      case Unary::Rsqrt:
        return mx::rsqrt(x);
      case Unary::Recip:
        return mx::reciprocal(x);
      case Unary::Sin:
        return mx::sin(x);
      case Unary::Cos:
        return mx::cos(x);
      case Unary::Tanh:
        return mx::tanh(x);
      case Unary::Sigmoid:
        return precisely(mx::sigmoid, Exact::Sigmoid, x);
      case Unary::Erf:
        return precisely(mx::erf, Exact::Erf, x);
      default:
        throw std::invalid_argument("a function that the bridge does not know");
    }
  }();
  return made(mx::astype(result, own.dtype()));
}

Handle binary(Binary function, const Array& left, const Array& right) {
  Turn turn;
  auto& a = left.get();
  auto& b = right.get();
  switch (function) {
    case Binary::Add:
      return made(mx::add(a, b));
    case Binary::Sub:
      return made(mx::subtract(a, b));
    case Binary::Mul:
      return made(mx::multiply(a, b));
    case Binary::Div:
      return made(mx::divide(a, b));
    case Binary::Max:
      return made(mx::maximum(a, b));
    case Binary::Min:
      return made(mx::minimum(a, b));
    case Binary::Equal:
      return made(mx::astype(mx::equal(a, b), mx::uint8));
    case Binary::Less:
      return made(mx::astype(mx::less(a, b), mx::uint8));
    case Binary::LessEqual:
      return made(mx::astype(mx::less_equal(a, b), mx::uint8));
    default:
      throw std::invalid_argument("a function that the bridge does not know");
  }
}

Handle select(const Array& condition, const Array& a, const Array& b) {
  Turn turn;
  return made(mx::where(mx::astype(condition.get(), mx::bool_), a.get(), b.get()));
}

Handle sum(const Array& x, std::int32_t axis) {
  Turn turn;
  return made(mx::astype(mx::sum(wide(x.get()), axis, /* keepdims = */ true), x.get().dtype()));
}

Handle max(const Array& x, std::int32_t axis) {
  Turn turn;
  return made(mx::max(x.get(), axis, /* keepdims = */ true));
}

Handle argmax(const Array& array, std::int32_t axis) {
  Turn turn;
  auto x = wide(array.get());
  auto nan = mx::isnan(x);
  auto least = number(-std::numeric_limits<float>::infinity());
  auto known = mx::where(nan, least, x);
  auto place = mx::argmax(known, axis, /* keepdims = */ true);
  // Where nothing is above −∞, the first that is a number; where there is none either, the first.
  auto first = mx::argmax(mx::astype(mx::logical_not(nan), mx::uint8), axis, /* keepdims = */ true);
  auto lowest = mx::equal(mx::max(known, axis, /* keepdims = */ true), least);
  return made(mx::astype(mx::where(lowest, first, place), mx::int32));
}

Handle softmax(const Array& x) {
  Turn turn;
  return made(mx::softmax(x.get(), -1, /* precise = */ true));
}

Handle matmul(const Array& a, const Array& b) {
  Turn turn;
  return made(mx::matmul(a.get(), b.get()));
}

Handle linear(const Array& x, const Array& weight) {
  Turn turn;
  return made(mx::matmul(x.get(), mx::transpose(weight.get())));
}

Handle linear_bias(const Array& x, const Array& weight, const Array& bias) {
  Turn turn;
  return made(mx::addmm(bias.get(), x.get(), mx::transpose(weight.get())));
}

Handle turned(const Array& weight) {
  Turn turn;
  return made(mx::contiguous(mx::transpose(wide(weight.get()))));
}

Handle quantized_linear(
    const Array& x,
    const Array& words,
    const Array& scales,
    const Array& offsets,
    std::int32_t group_size,
    std::int32_t bits) {
  Turn turn;
  return made(mx::quantized_matmul(
      x.get(), words.get(), scales.get(), offsets.get(), /* transpose = */ true, group_size, bits));
}

Handle dequantize(
    const Array& words,
    const Array& scales,
    const Array& offsets,
    std::int32_t group_size,
    std::int32_t bits) {
  Turn turn;
  return made(mx::dequantize(words.get(), wide(scales.get()), wide(offsets.get()), group_size, bits));
}

} // namespace ingle
