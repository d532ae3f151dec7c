// SPDX-License-Identifier: EUPL-1.2
// Normalisations.
#include "ingle-mlx/src/bridge/cuda.h"

namespace ingle {

Handle rms_norm(const Array& array, const Array& weight, float eps) {
  Turn turn;
  auto& x = array.get();
  auto w = wide(weight.get());
  // MLX's own kernel takes no weight wider than `x`, and rounds on the way; around it, x and the result are copied.
  if (cuda::takes(x)) {
    return made(cuda::rms_norm(x, w, eps));
  }
  return made(mx::astype(mx::fast::rms_norm(wide(x), w, eps), x.dtype()));
}

Handle layer_norm(const Array& x, const Array& weight, const Array& bias, float eps) {
  Turn turn;
  auto normal = mx::fast::layer_norm(wide(x.get()), wide(weight.get()), wide(bias.get()), eps);
  return made(mx::astype(normal, x.get().dtype()));
}

} // namespace ingle
