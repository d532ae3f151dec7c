// SPDX-License-Identifier: EUPL-1.2
#include "ingle-mlx/src/bridge.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "ingle-mlx/src/bridge.rs.h"
#include "ingle-mlx/src/exact.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/backend/metal/metal.h"
#include "mlx/mlx.h"
#include "mlx/version.h"

namespace mx = mlx::core;

namespace ingle {
namespace {

// The process's one engine: MLX's scheduler and allocator are the process's, too.
struct State {
  std::recursive_mutex lock;
  std::optional<mx::Stream> stream;
  Engine engine = Engine::Cpu;
};

// Never destroyed: arrays may outlive every static of C++.
State& state() {
  static State* state = new State();
  return *state;
}

// Held by whatever touches an array. MLX changes nodes of the graph when it computes them, on the thread that
// asks for it; with the lock, one thread at a time sees the graph. The thread's default stream is made the
// engine's, so that all arrays are computed in the order in which they were asked for.
class Turn {
 public:
  Turn() : lock_(state().lock) {
    if (state().stream) {
      static thread_local bool bound = false;
      if (!bound) {
        mx::set_default_stream(*state().stream);
        bound = true;
      }
    }
  }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};

Handle made(mx::array array) {
  return std::make_unique<Array>(std::move(array));
}

mx::Shape shape_of(Ints list) {
  return mx::Shape(list.begin(), list.end());
}

std::vector<int> ints(Ints list) {
  return {list.begin(), list.end()};
}

mx::Dtype dtype_of(Kind kind) {
  switch (kind) {
    case Kind::F32:
      return mx::float32;
    case Kind::F16:
      return mx::float16;
    case Kind::BF16:
      return mx::bfloat16;
    case Kind::U8:
      return mx::uint8;
    case Kind::I8:
      return mx::int8;
    case Kind::I32:
      return mx::int32;
    case Kind::U32:
      return mx::uint32;
    case Kind::I64:
      return mx::int64;
    default:
      throw std::invalid_argument("a dtype that the bridge does not know");
  }
}

bool narrow(const mx::array& x) {
  return x.dtype() == mx::float16 || x.dtype() == mx::bfloat16;
}

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

mx::array number(float value) {
  return mx::array(value, mx::float32);
}

// `function`, or on a CPU the C library's: see exact.h.
mx::array precisely(mx::array (*function)(const mx::array&, mx::StreamOrDevice), Exact library, const mx::array& x) {
  return state().engine == Engine::Cpu ? exact(library, x) : function(x, {});
}

using Function = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

// On a GPU, element-wise steps as one kernel. (On a CPU that would call a compiler when the program runs.)
mx::array fused(const Function& plain, const Function& compiled, const std::vector<mx::array>& inputs) {
  return (state().engine == Engine::Cpu ? plain : compiled)(inputs)[0];
}

mx::array activated(Activation function, const mx::array& x) {
  switch (function) {
    case Activation::Silu:
      return mx::multiply(x, precisely(mx::sigmoid, Exact::Sigmoid, x));
    case Activation::Gelu: {
      auto bell = mx::add(precisely(mx::erf, Exact::Erf, mx::multiply(x, number(static_cast<float>(M_SQRT1_2)))), number(1));
      return mx::multiply(mx::multiply(x, number(0.5f)), bell);
    }
    case Activation::GeluTanh: {
      auto cubed = mx::multiply(mx::multiply(mx::multiply(x, x), x), number(0.044715f));
      auto inner = mx::multiply(mx::add(x, cubed), number(static_cast<float>(std::sqrt(2.0 / M_PI))));
      return mx::multiply(mx::multiply(x, number(0.5f)), mx::add(mx::tanh(inner), number(1)));
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

// A function with its compiled form, made once.
struct Steps {
  Function plain;
  Function compiled;
  explicit Steps(std::vector<mx::array> (*steps)(const std::vector<mx::array>&))
      : plain(steps), compiled(mx::compile(steps, /* shapeless = */ false)) {}
};

template <template <Activation> class Of>
const Steps& steps_of(Activation function) {
  switch (function) {
    case Activation::Silu: {
      static const Steps* steps = new Steps(Of<Activation::Silu>::steps);
      return *steps;
    }
    case Activation::Gelu: {
      static const Steps* steps = new Steps(Of<Activation::Gelu>::steps);
      return *steps;
    }
    default: {
      static const Steps* steps = new Steps(Of<Activation::GeluTanh>::steps);
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

mx::array capped(const mx::array& x, float cap) {
  static const Steps* steps = new Steps(soft_cap_steps);
  return fused(steps->plain, steps->compiled, {x, number(cap)});
}

// Whether MLX has a kernel that reads these in their own dtype and sums in f32: for one query on a GPU. What it
// composes otherwise would round scores and weights to that dtype.
bool has_narrow_kernel(const mx::array& q) {
  int width = q.shape(-1);
  bool fits = width == 64 || width == 96 || width == 128 || width == 256;
  return state().engine != Engine::Cpu && q.shape(-2) == 1 && fits;
}

mx::array attend(
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    float scale,
    const std::string& mode,
    std::optional<mx::array> mask) {
  if (!narrow(q) && !narrow(k)) {
    return mx::fast::scaled_dot_product_attention(q, k, v, scale, mode, std::move(mask));
  }
  if (q.dtype() == k.dtype() && has_narrow_kernel(q)) {
    return mx::fast::scaled_dot_product_attention(q, k, v, scale, mode, std::move(mask));
  }
  auto out =
      mx::fast::scaled_dot_product_attention(wide(q), wide(k), wide(v), scale, mode, std::move(mask));
  return mx::astype(out, q.dtype());
}

template <typename T>
mx::array copied(const std::uint8_t* bytes, const mx::Shape& shape, mx::Dtype dtype) {
  return mx::array(reinterpret_cast<const T*>(bytes), shape, dtype);
}

} // namespace

Array::Array(mx::array inner) : inner_(std::move(inner)) {}

Array::~Array() {
  Turn turn;
  inner_.reset();
}

Arrays::~Arrays() {
  Turn turn;
  list_.clear();
}

void Arrays::push(const Array& array) {
  Turn turn;
  list_.push_back(array.get());
}

Engine start() {
  std::lock_guard<std::recursive_mutex> lock(state().lock);
  auto& engine = state();
  if (!engine.stream) {
    // Products of f32 in f32, not in the 10-bit fractions of TF32. MLX reads it once.
    setenv("MLX_ENABLE_TF32", "0", /* overwrite = */ 0);
    if (mx::metal::is_available()) {
      engine.engine = Engine::Metal;
    } else if (mx::cu::is_available()) {
      engine.engine = Engine::Cuda;
    }
    mx::Device device(engine.engine == Engine::Cpu ? mx::Device::cpu : mx::Device::gpu);
    mx::set_default_device(device);
    engine.stream = mx::new_thread_unsafe_stream(device);
  }
  return engine.engine;
}

rust::String version() {
  return mx::version();
}

rust::String device_name() {
  Turn turn;
  const auto& info = mx::device_info(mx::default_device());
  auto found = info.find("device_name");
  if (found != info.end()) {
    if (auto name = std::get_if<std::string>(&found->second)) {
      return *name;
    }
  }
  return "";
}

std::unique_ptr<Arrays> new_arrays() {
  return std::make_unique<Arrays>();
}

void eval(const Arrays& arrays) {
  Turn turn;
  mx::eval(arrays.get());
}

void async_eval(const Arrays& arrays) {
  Turn turn;
  mx::async_eval(arrays.get());
}

void read(const Array& array, rust::Slice<std::uint8_t> to) {
  Turn turn;
  auto x = mx::contiguous(array.get());
  x.eval();
  if (x.nbytes() != to.size()) {
    throw std::invalid_argument(
        "read of " + std::to_string(x.nbytes()) + " bytes into " + std::to_string(to.size()));
  }
  if (!to.empty()) {
    std::memcpy(to.data(), x.data<std::uint8_t>(), to.size());
  }
}

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

Handle activate(Activation function, const Array& x) {
  Turn turn;
  auto& steps = steps_of<Activate>(function);
  return made(fused(steps.plain, steps.compiled, {x.get()}));
}

Handle glu(Activation function, const Array& gate, const Array& up) {
  Turn turn;
  auto& steps = steps_of<Glu>(function);
  return made(fused(steps.plain, steps.compiled, {gate.get(), up.get()}));
}

Handle soft_cap(const Array& x, float cap) {
  Turn turn;
  return made(capped(x.get(), cap));
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

Handle rms_norm(const Array& x, const Array& weight, float eps) {
  Turn turn;
  return made(mx::astype(mx::fast::rms_norm(wide(x.get()), wide(weight.get()), eps), x.get().dtype()));
}

Handle layer_norm(const Array& x, const Array& weight, const Array& bias, float eps) {
  Turn turn;
  auto normal = mx::fast::layer_norm(wide(x.get()), wide(weight.get()), wide(bias.get()), eps);
  return made(mx::astype(normal, x.get().dtype()));
}

Handle rotate(const Array& x, const Array& swapped, const Array& cos, const Array& sin) {
  Turn turn;
  static const Steps* steps = new Steps(rotate_steps);
  return made(fused(steps->plain, steps->compiled, {x.get(), swapped.get(), cos.get(), sin.get()}));
}

Handle attention(const Array& q, const Array& k, const Array& v, float scale) {
  Turn turn;
  return made(attend(q.get(), k.get(), v.get(), scale, "", std::nullopt));
}

Handle causal_attention(const Array& q, const Array& k, const Array& v, float scale) {
  Turn turn;
  return made(attend(q.get(), k.get(), v.get(), scale, "causal", std::nullopt));
}

Handle masked_attention(
    const Array& q,
    const Array& k,
    const Array& v,
    const Array& mask,
    float scale) {
  Turn turn;
  return made(attend(q.get(), k.get(), v.get(), scale, "array", mask.get()));
}

Handle visible(const Array& queries, const Array& keys, std::int32_t window) {
  Turn turn;
  auto past = mx::less_equal(keys.get(), queries.get());
  auto first = mx::subtract(queries.get(), mx::array(window, mx::int32));
  return made(mx::logical_and(past, mx::greater(keys.get(), first)));
}

Handle capped_attention(
    const Array& queries,
    const Array& keys,
    const Array& values,
    const Array& mask,
    float scale,
    float cap) {
  Turn turn;
  auto q = wide(queries.get());
  auto k = wide(keys.get());
  auto v = wide(values.get());
  int kv_heads = k.shape(1);
  int group = q.shape(1) / kv_heads;
  // [B, KH, G, T, D] against [B, KH, 1, L, D].
  q = mx::unflatten(q, 1, {kv_heads, group});
  k = mx::expand_dims(k, 2);
  v = mx::expand_dims(v, 2);
  auto scores = mx::multiply(mx::matmul(q, mx::swapaxes(k, -1, -2)), number(scale));
  scores = capped(scores, cap);
  auto hidden = number(-std::numeric_limits<float>::infinity());
  scores = mx::where(mx::expand_dims(mask.get(), 2), scores, hidden);
  auto out = mx::matmul(mx::softmax(scores, -1, /* precise = */ true), v);
  return made(mx::astype(mx::flatten(out, 1, 2), queries.get().dtype()));
}

std::size_t active_memory() {
  return mx::get_active_memory();
}

std::size_t peak_memory() {
  return mx::get_peak_memory();
}

std::size_t cached_memory() {
  return mx::get_cache_memory();
}

std::size_t memory_limit() {
  return mx::get_memory_limit();
}

void reset_peak_memory() {
  mx::reset_peak_memory();
}

std::size_t set_memory_limit(std::size_t bytes) {
  return mx::set_memory_limit(bytes);
}

std::size_t set_cache_limit(std::size_t bytes) {
  return mx::set_cache_limit(bytes);
}

void clear_cache() {
  Turn turn;
  mx::clear_cache();
}

} // namespace ingle
