// SPDX-License-Identifier: EUPL-1.2
// The engine, arrays as such, and memory.
#include "ingle-mlx/src/bridge/state.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "ingle-mlx/src/bridge/steps.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/backend/metal/metal.h"
#include "mlx/version.h"

namespace ingle {

// Never destroyed: arrays may outlive every static of C++.
State& state() {
  static State* state = new State();
  return *state;
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
    constants();
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

bool is_scheduled(const Array& array) {
  Turn turn;
  return array.get().status() != mx::array::Status::unscheduled;
}

void read(const Array& array, rust::Slice<std::uint8_t> to) {
  if (to.empty()) {
    return;
  }
  Turn turn;
  // One that lies in order is read as it is: a copy would be computed behind whatever is under way.
  auto x = array.get();
  x.eval();
  if (!x.flags().row_contiguous) {
    x = mx::contiguous(x);
    x.eval();
  }
  if (x.nbytes() != to.size()) {
    throw std::invalid_argument(
        "read of " + std::to_string(x.nbytes()) + " bytes into " + std::to_string(to.size()));
  }
  std::memcpy(to.data(), x.data<std::uint8_t>(), to.size());
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

void synchronize() {
  Turn turn;
  mx::synchronize(*state().stream);
}

void clear_cache() {
  Turn turn;
  mx::clear_cache();
}

} // namespace ingle
