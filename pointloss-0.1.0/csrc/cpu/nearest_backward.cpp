// SPDX-License-Identifier: MIT
// pointloss::nearest_backward on the CPU. One task = one pair of clouds, both directions: nothing
// is shared between tasks, so sums have one order and the result is deterministic.
#include <algorithm>
#include <vector>

#include "nearest_backward.h"

namespace pointloss {
namespace {

// Rows a [N, D] of cloud b with neighbours idx [N] in c [M, D]: adds to both gradients. What
// arrives at a row of c is summed in float64, because a row may be the neighbour of all others.
template <int kNorm, class T>
void add_direction(const DistanceGradient& gradient, int64_t b, const int64_t* idx, const T* a,
                   const T* c, T* grad_a, T* grad_c, int64_t N, int64_t M, int64_t D,
                   std::vector<double>& arrived) {
  if (gradient.grad == nullptr) return;
  arrived.assign(M * D, 0.0);
  for (int64_t i = 0; i < N; ++i) {
    const Neighbour neighbour(idx[i], M);
    if (!neighbour.found) {
      for (int64_t k = 0; k < D; ++k) grad_a[i * D + k] += neighbour.otherwise<T>();
      continue;
    }
    const int64_t row = i * D, other = idx[i] * D;
    const T grad = gradient.at<kNorm, 0>(b, i, a + row, c + other, D);
    for (int64_t k = 0; k < D; ++k) {
      const T term = grad * distance_slope<kNorm>(a[row + k] - c[other + k]);
      grad_a[row + k] += term;
      arrived[other + k] -= term;
    }
  }
  for (int64_t k = 0; k < M * D; ++k) grad_c[k] = static_cast<T>(grad_c[k] + arrived[k]);
}

template <int kNorm, class T>
Gradients backward_typed(const BackwardCall& call) {
  const auto [B, N, M, D] = call.size;
  Tensor grad_x = new_tensor(call.x, {B, N, D}, call.x.scalar_type());
  Tensor grad_y = new_tensor(call.y, {B, M, D}, call.y.scalar_type());
  T* gx = grad_x.mutable_data_ptr<T>();
  T* gy = grad_y.mutable_data_ptr<T>();
  const T* x = call.x.const_data_ptr<T>();
  const T* y = call.y.const_data_ptr<T>();
  const int64_t xs = N * D, ys = M * D, n = N, m = M, d = D;
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> arrived;
    std::fill(gx + begin * xs, gx + end * xs, T(0));
    std::fill(gy + begin * ys, gy + end * ys, T(0));
    for (int64_t b = begin; b < end; ++b) {
      const T *xb = x + b * xs, *yb = y + b * ys;
      T *gxb = gx + b * xs, *gyb = gy + b * ys;
      add_direction<kNorm>(call.gradient[0], b, call.idx[0] + b * n, xb, yb, gxb, gyb, n, m, d,
                           arrived);
      add_direction<kNorm>(call.gradient[1], b, call.idx[1] + b * m, yb, xb, gyb, gxb, m, n, d,
                           arrived);
    }
  });
  return {grad_x, grad_y};
}

Gradients nearest_backward_cpu(std::optional<Tensor> grad_x, std::optional<Tensor> grad_y, Tensor x,
                               Tensor y, Tensor idx_x, Tensor idx_y, int64_t norm,
                               bool /*deterministic: always here*/) {
  return gradients_cpu(check_backward(grad_x, grad_y, x, y, idx_x, idx_y, norm));
}

}  // namespace

Gradients gradients_cpu(const BackwardCall& call) {
  const bool single = call.x.scalar_type() == ScalarType::Float;
  auto* run = call.norm == 1 ? (single ? &backward_typed<1, float> : &backward_typed<1, double>)
                             : (single ? &backward_typed<2, float> : &backward_typed<2, double>);
  return run(call);
}

}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("nearest_backward", TORCH_BOX(&pointloss::nearest_backward_cpu));
}
