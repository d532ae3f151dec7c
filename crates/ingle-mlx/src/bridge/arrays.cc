// SPDX-License-Identifier: EUPL-1.2
// Making arrays, laying them out, and moving their rows.
#include <limits>

#include "ingle-mlx/src/bridge/state.h"

namespace ingle {
namespace {

template <typename T>
mx::array copied(const std::uint8_t* bytes, const mx::Shape& shape, mx::Dtype dtype) {
  return mx::array(reinterpret_cast<const T*>(bytes), shape, dtype);
}

} // namespace

Handle upload(rust::Slice<const std::uint8_t> bytes, Ints list, Kind kind) {
  Turn turn;
  auto shape = shape_of(list);
  auto dtype = dtype_of(kind);
  auto data = bytes.data();
  switch (kind) {
    case Kind::F32:
      return made(copied<float>(data, shape, dtype));
    case Kind::F16:
      return made(copied<mx::float16_t>(data, shape, dtype));
    case Kind::BF16:
      return made(copied<mx::bfloat16_t>(data, shape, dtype));
    case Kind::U8:
      return made(copied<std::uint8_t>(data, shape, dtype));
    case Kind::I8:
      return made(copied<std::int8_t>(data, shape, dtype));
    case Kind::I32:
      return made(copied<std::int32_t>(data, shape, dtype));
    case Kind::U32:
      return made(copied<std::uint32_t>(data, shape, dtype));
    default:
      return made(copied<std::int64_t>(data, shape, dtype));
  }
}

Handle full(Ints shape, Kind kind, double value) {
  Turn turn;
  auto one = mx::astype(number(static_cast<float>(value)), dtype_of(kind));
  return made(mx::broadcast_to(one, shape_of(shape)));
}

Handle full_integer(Ints shape, Kind kind, std::int64_t value) {
  Turn turn;
  auto one = mx::astype(mx::array(value, mx::int64), dtype_of(kind));
  return made(mx::broadcast_to(one, shape_of(shape)));
}

Handle arange(std::int32_t len) {
  Turn turn;
  return made(mx::arange(0, len, 1));
}

Handle reshape(const Array& x, Ints shape) {
  Turn turn;
  return made(mx::reshape(x.get(), shape_of(shape)));
}

Handle transpose(const Array& x, Ints axes) {
  Turn turn;
  return made(mx::transpose(x.get(), ints(axes)));
}

Handle slice(const Array& x, Ints start, Ints stop, Ints step) {
  Turn turn;
  return made(mx::slice(x.get(), shape_of(start), shape_of(stop), shape_of(step)));
}

Handle broadcast(const Array& x, Ints shape) {
  Turn turn;
  return made(mx::broadcast_to(x.get(), shape_of(shape)));
}

Handle concat(const Arrays& parts, std::int32_t axis) {
  Turn turn;
  return made(mx::concatenate(parts.get(), axis));
}

Handle cast(const Array& x, Kind kind) {
  Turn turn;
  return made(mx::astype(x.get(), dtype_of(kind)));
}

Handle truncate(const Array& array, Kind kind) {
  Turn turn;
  auto x = wide(array.get());
  auto dtype = dtype_of(kind);
  // The range as floats: the least number, and the first past the greatest.
  auto range = [&]() -> std::pair<float, float> {
    switch (kind) {
      case Kind::U8:
        return {0.0f, 256.0f};
      case Kind::I8:
        return {-128.0f, 128.0f};
      case Kind::I32:
        return {-0x1p31f, 0x1p31f};
      case Kind::U32:
        return {0.0f, 0x1p32f};
      default:
        return {-0x1p63f, 0x1p63f};
    }
  }();
  auto greatest = [&]() -> mx::array {
    switch (kind) {
      case Kind::U8:
        return mx::array(std::numeric_limits<std::uint8_t>::max(), dtype);
      case Kind::I8:
        return mx::array(std::numeric_limits<std::int8_t>::max(), dtype);
      case Kind::I32:
        return mx::array(std::numeric_limits<std::int32_t>::max(), dtype);
      case Kind::U32:
        return mx::array(std::numeric_limits<std::uint32_t>::max(), dtype);
      default:
        return mx::array(std::numeric_limits<std::int64_t>::max(), dtype);
    }
  }();
  auto least = mx::astype(number(range.first), dtype);
  auto above = mx::greater_equal(x, number(range.second));
  auto below = mx::less(x, number(range.first));
  auto outside = mx::logical_or(mx::logical_or(above, below), mx::isnan(x));
  auto inside = mx::astype(mx::where(outside, number(0), x), dtype);
  return made(mx::where(above, greatest, mx::where(below, least, inside)));
}

Handle quantize_rows(const Array& array) {
  Turn turn;
  auto x = wide(array.get());
  auto largest = mx::max(mx::abs(x), -1, /* keepdims = */ true);
  auto finite = mx::isfinite(largest);
  auto scale = mx::divide(largest, number(127));
  // What is too small for a scale, or has none, becomes zeros.
  auto normal = mx::greater_equal(scale, number(std::numeric_limits<float>::min()));
  auto usable = mx::logical_and(finite, normal);
  auto quants = mx::round(mx::divide(x, mx::where(usable, scale, number(1))));
  quants = mx::astype(mx::where(usable, quants, number(0)), mx::int8);
  auto kept = mx::where(usable, scale, number(0));
  kept = mx::where(finite, kept, number(std::numeric_limits<float>::quiet_NaN()));
  return made(mx::concatenate({quants, mx::view(mx::contiguous(kept), mx::int8)}, -1));
}

Handle dequantize_rows(const Array& array) {
  Turn turn;
  auto& x = array.get();
  int width = x.shape(-1) - static_cast<int>(sizeof(float));
  auto parts = mx::split(x, mx::Shape{width}, -1);
  auto scale = mx::view(mx::contiguous(parts[1]), mx::float32);
  return made(mx::multiply(wide(parts[0]), scale));
}

Handle take(const Array& table, const Array& index) {
  Turn turn;
  return made(mx::take(table.get(), index.get(), 0));
}

Handle scatter(const Array& target, const Array& index, const Array& rows) {
  Turn turn;
  auto updates = mx::astype(rows.get(), target.get().dtype());
  return made(mx::scatter(target.get(), index.get(), mx::expand_dims(updates, 1), 0));
}

Handle add_rows(const Array& rows, const Array& index, std::int32_t count) {
  Turn turn;
  auto& x = rows.get();
  auto shape = x.shape();
  shape[0] = count;
  auto sums = mx::scatter_add(mx::zeros(shape, mx::float32), index.get(), mx::expand_dims(wide(x), 1), 0);
  return made(mx::astype(sums, x.dtype()));
}

Handle overwrite(const Array& target, const Array& rows, std::int32_t start) {
  Turn turn;
  auto& x = target.get();
  auto updates = mx::astype(rows.get(), x.dtype());
  mx::Shape first(x.ndim(), 0);
  first[0] = start;
  auto end = x.shape();
  end[0] = start + updates.shape(0);
  return made(mx::slice_update(x, updates, std::move(first), std::move(end)));
}

} // namespace ingle
