// SPDX-License-Identifier: MIT
// pointloss::emd_backward on CUDA: check, allocate, launch.
#include "../common/calls/emd_call.h"
#include "emd/backward.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

template <class T>
void backward_typed(EmdBackwardCall& call) {
  check_launch("emd_backward",
               launch_emd_backward(call.params<T>(), current_stream(call.x.get_device_index())));
}

std::tuple<Tensor, Tensor> emd_backward_cuda(Tensor grad, Tensor x, Tensor y,
                                             std::optional<Tensor> x_lengths,
                                             std::optional<Tensor> y_lengths, Tensor idx,
                                             Tensor cost, bool squared, std::string point_reduction,
                                             std::string batch_reduction, bool need_x,
                                             bool need_y) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  EmdBackwardCall call = check_emd_backward(grad, x, y, x_lengths, y_lengths, idx, cost, squared,
                                            point_reduction, batch_reduction, need_x, need_y);
  x.scalar_type() == ScalarType::Float ? backward_typed<float>(call) : backward_typed<double>(call);
  return {call.grad_x, call.grad_y};
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("emd_backward", TORCH_BOX(&pointloss::emd_backward_cuda));
}
