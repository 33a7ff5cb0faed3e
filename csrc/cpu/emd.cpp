// SPDX-License-Identifier: MIT
// pointloss::emd_backward on the CPU: the clouds in parallel.
#include <algorithm>

#include "../common/calls/emd_call.h"

namespace pointloss {
namespace {

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
  m.impl("emd_backward", TORCH_BOX(&pointloss::emd_backward_cpu));
}
