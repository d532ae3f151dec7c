// SPDX-License-Identifier: EUPL-1.2
// Normalisations.
#include <algorithm>
#include <cstring>

#include "ingle-mlx/src/bridge/state.h"

namespace ingle {
namespace {

// One row of `WIDTH` numbers for each block: `x / sqrt(mean(x^2) + eps) * w`, in f32, rounded once. MLX's own kernel
// takes no weight wider than `x`, and rounds on the way; around it, x and the result would be copied.
const char* const RMS_NORM = R"(
  const auto begin = static_cast<long long>(blockIdx.x) * WIDTH;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < WIDTH; i += blockDim.x) {
    const float value = static_cast<float>(x[begin + i]);
    sum += value * value;
  }
  for (int lane = 16; lane > 0; lane /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, lane);
  }
  __shared__ float sums[32];
  if (threadIdx.x % 32 == 0) {
    sums[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  float total = 0.0f;
  for (int warp = 0; warp < blockDim.x / 32; warp++) {
    total += sums[warp];
  }
  const float scale = 1.0f / sqrtf(total / WIDTH + __int_as_float(EPS));
  for (int i = threadIdx.x; i < WIDTH; i += blockDim.x) {
    out[begin + i] = static_cast<T>(static_cast<float>(x[begin + i]) * scale * w[i]);
  }
)";

mx::array cuda_rms_norm(const mx::array& x, const mx::array& weight, float eps) {
  static const auto* kernel = new mx::fast::CustomKernelFunction(
      mx::fast::cuda_kernel("ingle_rms_norm", {"x", "w"}, {"out"}, RMS_NORM));
  int width = x.shape(-1);
  int rows = static_cast<int>(x.size() / width);
  // Each thread takes about four numbers. It depends on nothing but the width, as must the order of the sum.
  int threads = std::clamp((width / 4 + 31) / 32 * 32, 32, 1024);
  int eps_bits;
  std::memcpy(&eps_bits, &eps, sizeof(eps));
  return (*kernel)(
      {x, weight},
      {x.shape()},
      {x.dtype()},
      {rows * threads, 1, 1},
      {threads, 1, 1},
      {{"T", x.dtype()}, {"WIDTH", width}, {"EPS", eps_bits}},
      std::nullopt,
      /* verbose = */ false,
      {})[0];
}

} // namespace

Handle rms_norm(const Array& array, const Array& weight, float eps) {
  Turn turn;
  auto& x = array.get();
  auto w = wide(weight.get());
  // Threads are counted in 32 bits.
  bool counted = x.size() < (std::size_t(1) << 28);
  if (state().engine == Engine::Cuda && x.size() > 0 && counted) {
    return made(cuda_rms_norm(x, w, eps));
  }
  return made(mx::astype(mx::fast::rms_norm(wide(x), w, eps), x.dtype()));
}

Handle layer_norm(const Array& x, const Array& weight, const Array& bias, float eps) {
  Turn turn;
  auto normal = mx::fast::layer_norm(wide(x.get()), wide(weight.get()), wide(bias.get()), eps);
  return made(mx::astype(normal, x.get().dtype()));
}

} // namespace ingle
