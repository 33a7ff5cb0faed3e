// SPDX-License-Identifier: MIT
// pointloss::assign on CUDA: check, allocate, enqueue the solvers on the caller's stream.
#include "../common/calls/assign_call.h"
#include "assign/launch.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

template <class T>
void assign_typed(AssignCall& call) {
  const Clouds& size = call.size;
  const auto bytes = size.B * static_cast<int64_t>(assign_pair_bytes(size.N, size.M, size.D));
  Tensor workspace = new_tensor(call.x, {bytes}, ScalarType::Byte);
  check_launch("assign", launch_assign(call.batch<T>(), workspace.mutable_data_ptr(),
                                       current_stream(call.x.get_device_index())));
}

AssignTensors assign_cuda(Tensor x, std::optional<Tensor> y, std::optional<Tensor> x_lengths,
                          std::optional<Tensor> y_lengths, bool squared, double rtol, double atol,
                          std::optional<Tensor> price, std::optional<Tensor> idx,
                          int64_t max_rounds, bool deterministic) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  AssignCall call = check_assign(x, y, x_lengths, y_lengths, squared, rtol, atol, price, idx,
                                 max_rounds, deterministic);
  if (call.size.B > 0) {
    x.scalar_type() == ScalarType::Float ? assign_typed<float>(call) : assign_typed<double>(call);
  }
  return call.results();
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("assign", TORCH_BOX(&pointloss::assign_cuda));
}
