// SPDX-License-Identifier: EUPL-1.2
// Attention over a padded batch.
#include <limits>
#include <string>

#include "ingle-mlx/src/bridge/cuda.h"
#include "ingle-mlx/src/bridge/steps.h"

namespace ingle {
namespace {

bool narrow(const mx::array& x) {
  return x.dtype() == mx::float16 || x.dtype() == mx::bfloat16;
}

// Whether MLX has a kernel that reads these in their own dtype and sums in f32: for one query on a GPU. What it
// composes otherwise would round scores and weights to that dtype.
bool has_narrow_kernel(const mx::array& q) {
  int width = q.shape(-1);
  bool fits = width == 64 || width == 96 || width == 128 || (width == 256 && state().engine == Engine::Metal);
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

} // namespace

Handle paged_attention(
    const Array& q,
    const Array& keys,
    const Array& values,
    const Arrays& tables,
    std::int32_t warps) {
  Turn turn;
  return made(cuda::paged_attention(q.get(), keys.get(), values.get(), tables.get(), warps));
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

} // namespace ingle
