// SPDX-License-Identifier: EUPL-1.2
// What the bridge's sources share: the engine, its lock, and conversions.
#pragma once

#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ingle-mlx/src/bridge.rs.h"
#include "mlx/mlx.h"

namespace ingle {

namespace mx = mlx::core;

// The process's one engine: MLX's scheduler and allocator are the process's, too.
struct State {
  std::recursive_mutex lock;
  std::optional<mx::Stream> stream;
  Engine engine = Engine::Cpu;
};

State& state();

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

inline Handle made(mx::array array) {
  return std::make_unique<Array>(std::move(array));
}

inline mx::Shape shape_of(Ints list) {
  return mx::Shape(list.begin(), list.end());
}

inline std::vector<int> ints(Ints list) {
  return {list.begin(), list.end()};
}

inline mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

inline mx::array number(float value) {
  return mx::array(value, mx::float32);
}

mx::Dtype dtype_of(Kind kind);

} // namespace ingle
