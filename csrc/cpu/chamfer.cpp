// SPDX-License-Identifier: MIT
// pointloss::chamfer on the CPU: neighbours, then one sum. Each cloud is summed by one thread, in
// float64 and in the order of its points, so the value is deterministic.
#include "../common/calls/chamfer_call.h"

#include <cmath>
#include <vector>

#include "nearest.h"
#include "nearest_backward.h"

namespace pointloss {
namespace {

template <class T>
double sum_of(const T* dist, int64_t count, bool root) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += root ? std::sqrt(dist[i]) : dist[i];
  return sum;
}

template <class T>
void chamfer_typed(ChamferCall& call) {
  const auto [B, N, M, D] = call.search.size;
  const int64_t n = N, m = call.search.columns();
  Tensor dist = new_tensor(call.search.x, {B * (n + m)}, call.search.x.scalar_type());
  T* to_y = dist.mutable_data_ptr<T>();
  T* to_x = to_y + B * n;
  search_nearest_cpu(call.search, call.output(to_y));
  const Reduction& reduction = call.reduction;
  std::vector<double> sums(B);
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      sums[b] = reduction.share[0].of<double>(b) * sum_of(to_y + b * n, n, reduction.root);
      if (!call.search.both) continue;
      sums[b] += reduction.share[1].of<double>(b) * sum_of(to_x + b * m, m, reduction.root);
    }
  });
  T* value = call.value.mutable_data_ptr<T>();
  if (reduction.per_cloud) {
    for (int64_t b = 0; b < B; ++b) value[b] = static_cast<T>(sums[b]);
  } else {
    double total = 0;
    for (const double sum : sums) total += sum;
    *value = static_cast<T>(total);
  }
}

std::tuple<Tensor, Tensor> chamfer_cpu(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                                       std::optional<Tensor> y_lengths, int64_t norm, bool squared,
                                       bool both, std::string point_reduction,
                                       std::string batch_reduction) {
  ChamferCall call = check_chamfer(x, y, x_lengths, y_lengths, norm, squared, both, point_reduction,
                                   batch_reduction);
  x.scalar_type() == ScalarType::Float ? chamfer_typed<float>(call) : chamfer_typed<double>(call);
  return {call.value, call.idx};
}

Gradients chamfer_backward_cpu(Tensor grad, Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                               std::optional<Tensor> y_lengths, Tensor idx, int64_t norm,
                               bool squared, bool both, std::string point_reduction,
                               std::string batch_reduction, bool need_x, bool need_y,
                               bool /*deterministic: always here*/) {
  return gradients_cpu(check_chamfer_backward(grad, x, y, x_lengths, y_lengths, idx, norm, squared,
                                              both, point_reduction, batch_reduction, need_x,
                                              need_y));
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("chamfer", TORCH_BOX(&pointloss::chamfer_cpu));
  m.impl("chamfer_backward", TORCH_BOX(&pointloss::chamfer_backward_cpu));
}
