// SPDX-License-Identifier: MIT
// pointloss::emd and emd_backward on the CPU, the latter with the clouds in parallel.
#include <algorithm>

#include "../common/calls/emd_call.h"

namespace pointloss {
namespace {

template <class T>
void value_typed(EmdValueCall& call) {
  const EmdValue<T> params =
      call.params<T>(call.missed.has_value() ? call.missed->mutable_data_ptr<bool>() : nullptr);
  double sum = 0;
  for (int64_t b = 0; b < params.B; ++b) {
    emd_tell(params, b);
    const double value = emd_of_cloud(params, b);
    sum += value;
    if (call.dims() == 1) params.value[b] = static_cast<T>(value);
    for (int64_t i = 0; call.per_point && i < params.N; ++i) emd_of_point(params, b, i);
  }
  if (call.dims() == 0) *params.value = static_cast<T>(sum);
}

Tensor value(const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_lengths,
             const std::optional<Tensor>& y_lengths, const Tensor& idx, const Tensor& cost,
             const Tensor& converged, bool squared, const std::string& point_reduction,
             const std::string& batch_reduction, const std::optional<Tensor>& missed) {
  EmdValueCall call = check_emd(x, y, x_lengths, y_lengths, idx, cost, converged, squared,
                                point_reduction, batch_reduction, missed);
  x.scalar_type() == ScalarType::Float ? value_typed<float>(call) : value_typed<double>(call);
  return call.value;
}

Tensor emd_cpu(Tensor x, Tensor y, std::optional<Tensor> x_lengths, std::optional<Tensor> y_lengths,
               Tensor idx, Tensor cost, Tensor converged, bool squared, std::string point_reduction,
               std::string batch_reduction) {
  return value(x, y, x_lengths, y_lengths, idx, cost, converged, squared, point_reduction,
               batch_reduction, std::nullopt);
}

Tensor emd_watched_cpu(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                       std::optional<Tensor> y_lengths, Tensor idx, Tensor cost, Tensor converged,
                       bool squared, std::string point_reduction, std::string batch_reduction,
                       Tensor missed) {
  return value(x, y, x_lengths, y_lengths, idx, cost, converged, squared, point_reduction,
               batch_reduction, missed);
}

template <class T>
void backward_typed(EmdBackwardCall& call) {
  const EmdBackward<T> params = call.params<T>();
  const int64_t row = params.M * params.D;
  torch::stable::parallel_for(0, params.B, 1, [&](int64_t begin, int64_t end) {
    if (params.grad_y != nullptr) {
      std::fill(params.grad_y + begin * row, params.grad_y + end * row, T(0));
    }
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t i = 0; i < params.N; ++i) emd_backward_row(params, b, i);
    }
  });
}

std::tuple<Tensor, Tensor> emd_backward_cpu(Tensor grad, Tensor x, Tensor y,
                                            std::optional<Tensor> x_lengths,
                                            std::optional<Tensor> y_lengths, Tensor idx,
                                            Tensor cost, bool squared, std::string point_reduction,
                                            std::string batch_reduction, bool need_x, bool need_y) {
  EmdBackwardCall call = check_emd_backward(grad, x, y, x_lengths, y_lengths, idx, cost, squared,
                                            point_reduction, batch_reduction, need_x, need_y);
  x.scalar_type() == ScalarType::Float ? backward_typed<float>(call) : backward_typed<double>(call);
  return {call.grad_x, call.grad_y};
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("emd", TORCH_BOX(&pointloss::emd_cpu));
  m.impl("emd.watched", TORCH_BOX(&pointloss::emd_watched_cpu));
  m.impl("emd_backward", TORCH_BOX(&pointloss::emd_backward_cpu));
}
