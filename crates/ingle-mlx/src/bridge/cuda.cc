// SPDX-License-Identifier: EUPL-1.2
// The sources of the kernels, and how many threads each is given.
//
// MLX compiles a source when it is first used, for each dtype and set of the constants in capitals, which takes a
// second or two; so sizes are read from shapes. All compute in f32 and round once.
#include "ingle-mlx/src/bridge/cuda.h"

#include <algorithm>
#include <cstring>

namespace ingle::cuda {
namespace {

// Neighbouring numbers in one access, where they lie on its boundary.
const char* const ACCESS = R"(
namespace ingle {
template <typename T, int N>
struct alignas(sizeof(T) * N) Numbers {
  T of[N];
};

template <int N, typename T>
__device__ void load(const T* from, float* to) {
  Numbers<T, N> numbers;
  if (reinterpret_cast<unsigned long long>(from) % sizeof(numbers) == 0) {
    numbers = *reinterpret_cast<const Numbers<T, N>*>(from);
  } else {
    for (int i = 0; i < N; i++) {
      numbers.of[i] = from[i];
    }
  }
  for (int i = 0; i < N; i++) {
    to[i] = static_cast<float>(numbers.of[i]);
  }
}

// What a kernel writes is its own, and begins at a boundary.
template <int N, typename T>
__device__ void store(const float* from, T* to) {
  Numbers<T, N> numbers;
  for (int i = 0; i < N; i++) {
    numbers.of[i] = static_cast<T>(from[i]);
  }
  *reinterpret_cast<Numbers<T, N>*>(to) = numbers;
}
} // namespace ingle
)";

// A block for each row, EACH numbers at a time. The order of the sum depends on nothing but the width.
const char* const RMS_NORM = R"(
  const int width = w_shape[0];
  const auto begin = static_cast<long long>(blockIdx.x) * width;
  float part[EACH], factor[EACH];
  float sum = 0.0f;
  for (int at = threadIdx.x * EACH; at < width; at += blockDim.x * EACH) {
    ingle::load<EACH>(x + begin + at, part);
    for (int i = 0; i < EACH; i++) {
      sum += part[i] * part[i];
    }
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
  const float scale = 1.0f / sqrtf(total / width + __int_as_float(EPS));
  for (int at = threadIdx.x * EACH; at < width; at += blockDim.x * EACH) {
    ingle::load<EACH>(x + begin + at, part);
    ingle::load<EACH>(w + at, factor);
    for (int i = 0; i < EACH; i++) {
      part[i] *= scale * factor[i];
    }
    ingle::store<EACH>(part, out + begin + at);
  }
)";

// A block for each row, EACH numbers at a time.
const char* const GLU = R"(
  const int width = gate_shape[gate_ndim - 1];
  const auto begin = static_cast<long long>(blockIdx.x) * width;
  float part[EACH], factor[EACH];
  for (int at = threadIdx.x * EACH; at < width; at += blockDim.x * EACH) {
    ingle::load<EACH>(gate + begin + at, part);
    ingle::load<EACH>(up + begin + at, factor);
    for (int i = 0; i < EACH; i++) {
      const float value = part[i];
      if (SILU) {
        part[i] = value / (1.0f + expf(-value)) * factor[i];
      } else {
        const float bell = EXACT ? erff(value * 0.70710678118654752f)
                                 : tanhf((value + 0.044715f * value * value * value) * 0.79788456080286536f);
        part[i] = 0.5f * value * (1.0f + bell) * factor[i];
      }
    }
    ingle::store<EACH>(part, out + begin + at);
  }
)";

// A thread for each eight numbers: their bits are as many bytes as one has bits, and lie in the order of the numbers.
const char* const DEQUANTIZE = R"(
  const long long eight = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (eight >= static_cast<long long>(words_shape[0]) * words_shape[1] * 4 / BITS) {
    return;
  }
  unsigned long long packed = 0;
  if (BITS % 4 == 0) {
    for (int i = 0; i < BITS / 4; i++) {
      packed |= static_cast<unsigned long long>(words[eight * (BITS / 4) + i]) << (32 * i);
    }
  } else {
    const auto* bytes = reinterpret_cast<const unsigned char*>(words) + eight * BITS;
    for (int i = 0; i < BITS; i++) {
      packed |= static_cast<unsigned long long>(bytes[i]) << (8 * i);
    }
  }
  const float scale = scales[eight * 8 / GROUP], offset = offsets[eight * 8 / GROUP];
  float part[8];
  for (int i = 0; i < 8; i++) {
    part[i] = static_cast<float>(packed >> (BITS * i) & ((1 << BITS) - 1)) * scale + offset;
  }
  ingle::store<8>(part, out + eight * 8);
)";

// A thread for each pair that is turned, and one for each feature that is not.
const char* const ROPE = R"(
  const int heads = x_shape[1], width = x_shape[2], half = frequencies_shape[0];
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  const int row = thread / (width - half), at = thread % (width - half);
  if (row >= x_shape[0] * heads) {
    return;
  }
  x += static_cast<long long>(row) * width;
  out += static_cast<long long>(row) * width;
  if (at >= half) {
    out[half + at] = x[half + at];
    return;
  }
  const int first = NEIGHBOURS ? 2 * at : at;
  const int second = NEIGHBOURS ? first + 1 : first + half;
  float sine, cosine;
  sincosf(static_cast<float>(positions[row / heads]) * frequencies[at], &sine, &cosine);
  const float a = static_cast<float>(x[first]);
  const float b = static_cast<float>(x[second]);
  out[first] = static_cast<T>(a * cosine - b * sine);
  out[second] = static_cast<T>(b * cosine + a * sine);
)";

// A block for each query of each head. Its warps share out the keys, AT_ONCE at a time, with a running softmax
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018); what they find is merged at the end.
const char* const PAGED_ATTENTION = R"(
  constexpr int EACH = WIDTH / 32;
  const int token = blockIdx.x, head = blockIdx.y;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int heads = q_shape[1], kv_heads = keys_shape[1];
  const int block = how[0], window = how[1];
  const float scale = __int_as_float(how[2]), cap = __int_as_float(how[3]);
  const int last = positions[token];
  const int first = window > 0 && last >= window ? last - window + 1 : 0;
  const auto* table = blocks + static_cast<long long>(sequences[token]) * blocks_shape[1];
  const auto own = static_cast<long long>(head / (heads / kv_heads)) * WIDTH + lane * EACH;
  const auto here = (static_cast<long long>(token) * heads + head) * WIDTH;

  float query[EACH], mixed[EACH];
  ingle::load<EACH>(q + here + lane * EACH, query);
  for (int i = 0; i < EACH; i++) {
    query[i] *= scale;
    mixed[i] = 0.0f;
  }
  const float none = __int_as_float(0xff800000);  // minus infinity
  float most = none, sum = 0.0f;
  for (int at = first + warp * AT_ONCE; at <= last; at += WARPS * AT_ONCE) {
    float score[AT_ONCE], value[AT_ONCE][EACH];
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
      const int key = min(at + k, last);
      const auto slot = static_cast<long long>(table[key / block]) * block + key % block;
      float part[EACH];
      ingle::load<EACH>(keys + slot * (kv_heads * WIDTH) + own, part);
      ingle::load<EACH>(values + slot * (kv_heads * WIDTH) + own, value[k]);
      score[k] = 0.0f;
      for (int i = 0; i < EACH; i++) {
        score[k] += query[i] * part[i];
      }
    }
    for (int other = 16; other > 0; other /= 2) {
      for (int k = 0; k < AT_ONCE; k++) {
        score[k] += __shfl_xor_sync(0xffffffffu, score[k], other);
      }
    }
    float peak = most;
    for (int k = 0; k < AT_ONCE; k++) {
      score[k] = cap > 0.0f ? cap * tanhf(score[k] / cap) : score[k];
      score[k] = at + k <= last ? score[k] : none;
      peak = fmaxf(peak, score[k]);
    }
    const float kept = expf(most - peak);
    sum *= kept;
    for (int i = 0; i < EACH; i++) {
      mixed[i] *= kept;
    }
    for (int k = 0; k < AT_ONCE; k++) {
      const float weight = expf(score[k] - peak);
      sum += weight;
      for (int i = 0; i < EACH; i++) {
        mixed[i] += weight * value[k][i];
      }
    }
    most = peak;
  }

  __shared__ float mosts[WARPS], sums[WARPS], all[WARPS][WIDTH];
  if (lane == 0) {
    mosts[warp] = most;
    sums[warp] = sum;
  }
  for (int i = 0; i < EACH; i++) {
    all[warp][lane * EACH + i] = mixed[i];
  }
  __syncthreads();
  for (int at = threadIdx.x; at < WIDTH; at += blockDim.x) {
    float peak = none;
    for (int w = 0; w < WARPS; w++) {
      peak = fmaxf(peak, mosts[w]);
    }
    float total = 0.0f, mix = 0.0f;
    for (int w = 0; w < WARPS; w++) {
      // A warp that was given no key has nothing to add.
      const float weight = mosts[w] == none ? 0.0f : expf(mosts[w] - peak);
      total += weight * sums[w];
      mix += weight * all[w][at];
    }
    out[here + at] = static_cast<T>(mix / total);
  }
)";

using Kernel = mx::fast::CustomKernelFunction;
using Constants = std::vector<std::pair<std::string, mx::fast::TemplateArg>>;

// A kernel with one result, `out`. Never destroyed: it may be used until the process ends.
const Kernel* kernel(const char* name, const std::vector<std::string>& inputs, const char* source) {
  return new Kernel(mx::fast::cuda_kernel(name, inputs, {"out"}, source, ACCESS));
}

int bits(float number) {
  int bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits;
}

// What a kernel gives.
struct Result {
  Result(mx::Shape shape, mx::Dtype dtype) : shape(std::move(shape)), dtype(dtype) {}
  // One like this.
  Result(const mx::array& like) : Result(like.shape(), like.dtype()) {}

  mx::Shape shape;
  mx::Dtype dtype;
};

// The result, by so many blocks of threads.
mx::array launched(
    const Kernel& kernel,
    const std::vector<mx::array>& inputs,
    const Result& result,
    std::pair<int, int> blocks,
    int threads,
    const Constants& constants) {
  return kernel(
      inputs,
      {result.shape},
      {result.dtype},
      {blocks.first * threads, blocks.second, 1},
      {threads, 1, 1},
      constants,
      /* init_value = */ std::nullopt,
      /* verbose = */ false,
      {})[0];
}

// Whole warps for so many pieces of a row.
int threads_for(int pieces, int most) {
  return std::clamp((pieces + 31) / 32 * 32, 32, most);
}

// Numbers that a thread takes at once.
int each_of(int width) {
  return width % 8 == 0 ? 8 : 1;
}

} // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps) {
  static const Kernel* own = kernel("ingle_rms_norm", {"x", "w"}, RMS_NORM);
  int width = x.shape(-1);
  int rows = static_cast<int>(x.size() / width);
  int each = each_of(width);
  return launched(
      *own,
      {x, weight},
      x,
      {rows, 1},
      threads_for(width / each, 1024),
      {{"T", x.dtype()}, {"EACH", each}, {"EPS", bits(eps)}});
}

mx::array dequantize(
    const mx::array& words,
    const mx::array& scales,
    const mx::array& offsets,
    int group_size,
    int bits,
    mx::Dtype dtype) {
  static const Kernel* own = kernel("ingle_dequantize", {"words", "scales", "offsets"}, DEQUANTIZE);
  constexpr int THREADS = 256;
  int width = static_cast<int>(static_cast<std::int64_t>(words.shape(1)) * 32 / bits);
  std::int64_t eights = static_cast<std::int64_t>(words.shape(0)) * width / 8;
  return launched(
      *own,
      {words, scales, offsets},
      {{words.shape(0), width}, dtype},
      {static_cast<int>((eights + THREADS - 1) / THREADS), 1},
      THREADS,
      {{"T", dtype}, {"BITS", bits}, {"GROUP", group_size}});
}

mx::array glu(Activation function, const mx::array& gate, const mx::array& up) {
  static const Kernel* own = kernel("ingle_glu", {"gate", "up"}, GLU);
  int width = gate.shape(-1);
  int rows = static_cast<int>(gate.size() / width);
  int each = each_of(width);
  return launched(
      *own,
      {gate, up},
      gate,
      {rows, 1},
      threads_for(width / each, 256),
      {{"T", gate.dtype()}, {"EACH", each}, {"SILU", function == Activation::Silu}, {"EXACT", function == Activation::Gelu}});
}

mx::array rope(const mx::array& x, const mx::array& positions, const mx::array& frequencies, Pairs pairs) {
  static const Kernel* own = kernel("ingle_rope", {"x", "positions", "frequencies"}, ROPE);
  int width = x.shape(2);
  int half = frequencies.shape(0);
  std::size_t count = x.size() / width * (width - half);
  constexpr int THREADS = 128;
  return launched(
      *own,
      {x, positions, frequencies},
      x,
      {static_cast<int>((count + THREADS - 1) / THREADS), 1},
      THREADS,
      {{"T", x.dtype()}, {"NEIGHBOURS", pairs == Pairs::Neighbours}});
}

mx::array paged_attention(
    const mx::array& q,
    const mx::array& keys,
    const mx::array& values,
    const std::vector<mx::array>& tables,
    int warps) {
  static const Kernel* own =
      kernel("ingle_paged_attention", {"q", "keys", "values", "blocks", "sequences", "positions", "how"}, PAGED_ATTENTION);
  std::vector<mx::array> inputs = {q, keys, values};
  inputs.insert(inputs.end(), tables.begin(), tables.end());
  return launched(
      *own,
      inputs,
      q,
      {q.shape(0), q.shape(1)},
      warps * 32,
      {{"T", q.dtype()}, {"C", keys.dtype()}, {"WIDTH", q.shape(2)}, {"WARPS", warps}, {"AT_ONCE", 4}});
}

} // namespace ingle::cuda
