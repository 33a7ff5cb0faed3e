// SPDX-License-Identifier: MIT
// pointloss::nearest_backward on the CPU. One task = one pair of clouds, both directions: nothing
// is shared between tasks, so sums have one order and the result is deterministic.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../common/checks.h"
#include "../common/distance.h"

namespace pointloss {
namespace {

// Rows a [N, D] with neighbours idx [N] in b [., D]: adds to both gradients.
template <int kNorm, class T>
void add_direction(const T* grad_dist, const int64_t* idx, const T* a, const T* b, T* grad_a,
                   T* grad_b, int64_t N, int64_t D) {
  for (int64_t i = 0; i < N; ++i) {
    if (idx[i] < 0) continue;
    for (int64_t k = 0; k < D; ++k) {
      const T term = grad_dist[i] * distance_slope<kNorm>(a[i * D + k] - b[idx[i] * D + k]);
      grad_a[i * D + k] += term;
      grad_b[idx[i] * D + k] -= term;
    }
  }
}

std::optional<Tensor> dense_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(dense(*tensor)) : std::nullopt;
}

template <int kNorm, class T>
std::tuple<Tensor, Tensor> backward_typed(const BackwardInputs& in) {
  const auto [B, N, M, D] = in.size;
  Tensor grad_x = new_tensor(in.x, {B, N, D}, in.x.scalar_type());
  Tensor grad_y = new_tensor(in.y, {B, M, D}, in.y.scalar_type());
  T* gx = grad_x.mutable_data_ptr<T>();
  T* gy = grad_y.mutable_data_ptr<T>();
  const T* x = in.x.const_data_ptr<T>();
  const T* y = in.y.const_data_ptr<T>();
  const auto grad_dist_x = dense_or_null(in.grad_x), grad_dist_y = dense_or_null(in.grad_y);
  const T* gdx = data_or_null<T>(grad_dist_x);
  const T* gdy = data_or_null<T>(grad_dist_y);
  const int64_t* ix = in.idx_x.const_data_ptr<int64_t>();
  const int64_t* iy = in.idx_y.const_data_ptr<int64_t>();
  const int64_t xs = N * D, ys = M * D, n = N, m = M, d = D;
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    std::fill(gx + begin * xs, gx + end * xs, T(0));
    std::fill(gy + begin * ys, gy + end * ys, T(0));
    for (int64_t b = begin; b < end; ++b) {
      const T *xb = x + b * xs, *yb = y + b * ys;
      T *gxb = gx + b * xs, *gyb = gy + b * ys;
      if (gdx != nullptr) add_direction<kNorm>(gdx + b * n, ix + b * n, xb, yb, gxb, gyb, n, d);
      if (gdy != nullptr) add_direction<kNorm>(gdy + b * m, iy + b * m, yb, xb, gyb, gxb, m, d);
    }
  });
  return {grad_x, grad_y};
}

std::tuple<Tensor, Tensor> nearest_backward_cpu(std::optional<Tensor> grad_x,
                                                std::optional<Tensor> grad_y, Tensor x, Tensor y,
                                                Tensor idx_x, Tensor idx_y, int64_t norm,
                                                bool /*deterministic: always here*/) {
  const BackwardInputs in = check_backward(grad_x, grad_y, x, y, idx_x, idx_y, norm);
  const bool single = x.scalar_type() == ScalarType::Float;
  auto* run = norm == 1 ? (single ? &backward_typed<1, float> : &backward_typed<1, double>)
                        : (single ? &backward_typed<2, float> : &backward_typed<2, double>);
  return run(in);
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("nearest_backward", TORCH_BOX(&pointloss::nearest_backward_cpu));
}
