// SPDX-License-Identifier: EUPL-1.2
// Element by element, along an axis, and products.
#include "ingle-mlx/src/bridge/cuda.h"
#include "ingle-mlx/src/bridge/steps.h"

namespace ingle {
namespace {

// Integers in the order of the floats whose bits are the first input: NaN below everything, and both zeros equal.
std::vector<mx::array> rank_steps(const std::vector<mx::array>& in) {
  auto& bits = in[0];
  auto& x = in[1];
  auto& of = constants();
  auto folded = mx::bitwise_xor(bits, of.but_the_sign);
  auto rank = mx::where(mx::less(bits, of.no_bits), folded, bits);
  auto known = mx::where(mx::equal(x, of.zero), of.no_bits, rank);
  return {mx::where(mx::isnan(x), of.only_the_sign, known)};
}

} // namespace

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

Handle argmax(const Array& x, std::int32_t axis) {
  Turn turn;
  static const Steps* steps = new Steps(rank_steps, Shapes::Each);
  auto ranks = fused(steps->plain, steps->compiled, {mx::view(wide(x.get()), mx::int32), wide(x.get())});
  return made(mx::astype(mx::argmax(ranks, axis, /* keepdims = */ true), mx::int32));
}

Handle softmax(const Array& x) {
  Turn turn;
  return made(mx::softmax(x.get(), -1, /* precise = */ true));
}

Handle matmul(const Array& a, const Array& b) {
  Turn turn;
  const auto& left = a.get();
  const auto& right = b.get();
  // Where rows do not begin at 16 bytes, cuBLAS splits a product into parts that it adds in their narrow dtype, unless it
  // reads `b` by columns.
  bool odd = right.shape(-1) % 8 != 0 || right.shape(-2) % 8 != 0;
  if (cuda::takes(right) && right.itemsize() == 2 && odd) {
    auto columns = mx::contiguous(mx::swapaxes(right, -1, -2));
    return made(mx::matmul(left, mx::swapaxes(columns, -1, -2)));
  }
  return made(mx::matmul(left, right));
}

Handle linear(const Array& x, const Array& weight) {
  Turn turn;
  return made(mx::matmul(x.get(), mx::transpose(weight.get())));
}

Handle linear_less(const Array& x, const Array& weight, const Array& product) {
  Turn turn;
  return made(mx::addmm(product.get(), x.get(), mx::transpose(weight.get()), /* alpha = */ 1, /* beta = */ -1));
}

Handle cross_entropy(const Array& logits, const Array& targets) {
  Turn turn;
  auto none = mx::array(0, mx::int32);
  auto loss = mx::fast::cross_entropy(wide(logits.get()), mx::maximum(targets.get(), none));
  return made(mx::where(mx::less(targets.get(), none), number(0), loss));
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
    std::int32_t bits,
    Kind kind) {
  Turn turn;
  auto dtype = dtype_of(kind);
  if (dtype != mx::float32 && cuda::takes(words.get())) {
    return made(cuda::dequantize(words.get(), scales.get(), offsets.get(), group_size, bits, dtype));
  }
  // In its dtype MLX rounds the product, too.
  auto floats = mx::dequantize(words.get(), wide(scales.get()), wide(offsets.get()), group_size, bits);
  return made(mx::astype(floats, dtype));
}

} // namespace ingle
