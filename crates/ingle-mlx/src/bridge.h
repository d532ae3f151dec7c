// SPDX-License-Identifier: EUPL-1.2
// What Rust calls of MLX. Each function takes the process-wide lock; what MLX throws, cxx hands on.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "mlx/array.h"
#include "rust/cxx.h"

namespace ingle {

// Declared by the generated bridge.
enum class Kind : std::uint8_t;
enum class Unary : std::uint8_t;
enum class Binary : std::uint8_t;
enum class Activation : std::uint8_t;
enum class Engine : std::uint8_t;
enum class Pairs : std::uint8_t;

class Array {
 public:
  explicit Array(mlx::core::array inner);
  ~Array();
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  // Only with the lock held.
  const mlx::core::array& get() const { return *inner_; }

 private:
  std::optional<mlx::core::array> inner_;
};

class Arrays {
 public:
  ~Arrays();
  void push(const Array& array);

  // Only with the lock held.
  const std::vector<mlx::core::array>& get() const { return list_; }

 private:
  std::vector<mlx::core::array> list_;
};

using Handle = std::unique_ptr<Array>;
using Ints = rust::Slice<const std::int32_t>;

Engine start();
rust::String version();
rust::String device_name();

std::unique_ptr<Arrays> new_arrays();
void eval(const Arrays& arrays);
void async_eval(const Arrays& arrays);
bool is_scheduled(const Array& array);
void read(const Array& array, rust::Slice<std::uint8_t> to);

Handle upload(rust::Slice<const std::uint8_t> bytes, Ints shape, Kind kind);
Handle full(Ints shape, Kind kind, double value);
Handle full_integer(Ints shape, Kind kind, std::int64_t value);
Handle arange(std::int32_t len);

Handle reshape(const Array& x, Ints shape);
Handle transpose(const Array& x, Ints axes);
Handle slice(const Array& x, Ints start, Ints stop, Ints step);
Handle broadcast(const Array& x, Ints shape);
Handle concat(const Arrays& parts, std::int32_t axis);

Handle cast(const Array& x, Kind kind);
Handle truncate(const Array& x, Kind kind);
Handle unary(Unary function, const Array& x);
Handle binary(Binary function, const Array& a, const Array& b);
Handle select(const Array& condition, const Array& a, const Array& b);
Handle activate(Activation function, const Array& x);
Handle glu(Activation function, const Array& gate, const Array& up);
Handle soft_cap(const Array& x, float cap);

Handle sum(const Array& x, std::int32_t axis);
Handle max(const Array& x, std::int32_t axis);
Handle argmax(const Array& x, std::int32_t axis);
Handle softmax(const Array& x);

Handle matmul(const Array& a, const Array& b);
Handle linear(const Array& x, const Array& weight);
Handle linear_less(const Array& x, const Array& weight, const Array& product);
Handle sum_of_parts(const Arrays& parts);
Handle cross_entropy(const Array& logits, const Array& targets);
Handle turned(const Array& weight);
Handle quantized_linear(
    const Array& x,
    const Array& words,
    const Array& scales,
    const Array& offsets,
    std::int32_t group_size,
    std::int32_t bits);
Handle dequantize(
    const Array& words,
    const Array& scales,
    const Array& offsets,
    std::int32_t group_size,
    std::int32_t bits,
    Kind kind);

Handle quantize_rows(const Array& x);
Handle dequantize_rows(const Array& x);

Handle take(const Array& table, const Array& index);
Handle scatter(const Array& target, const Array& index, const Array& rows);
Handle add_rows(const Array& rows, const Array& index, std::int32_t count);
Handle overwrite(const Array& target, const Array& rows, std::int32_t start);

Handle rms_norm(const Array& x, const Array& weight, float eps);
Handle layer_norm(const Array& x, const Array& weight, const Array& bias, float eps);
Handle rope(const Array& x, const Array& positions, const Array& frequencies, Pairs pairs);
Handle rotate(const Array& x, const Array& swapped, const Array& cos, const Array& sin);

Handle paged_attention(
    const Array& q,
    const Array& keys,
    const Array& values,
    const Arrays& tables,
    std::int32_t warps);
Handle attention(const Array& q, const Array& k, const Array& v, float scale);
Handle causal_attention(const Array& q, const Array& k, const Array& v, float scale);
Handle masked_attention(const Array& q, const Array& k, const Array& v, const Array& mask, float scale);
Handle visible(const Array& queries, const Array& keys, std::int32_t window);
Handle capped_attention(
    const Array& q,
    const Array& k,
    const Array& v,
    const Array& mask,
    float scale,
    float cap);

std::size_t active_memory();
std::size_t peak_memory();
std::size_t cached_memory();
std::size_t memory_limit();
void reset_peak_memory();
std::size_t set_memory_limit(std::size_t bytes);
std::size_t set_cache_limit(std::size_t bytes);
// Waits for all that was begun, and for what MLX frees after it.
void synchronize();
void clear_cache();

} // namespace ingle
