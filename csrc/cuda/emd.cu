// SPDX-License-Identifier: MIT
// pointloss::emd and emd_backward on CUDA: check, allocate, launch.
#include "../common/calls/emd_call.h"
#include "emd/backward.cuh"
#include "emd/value.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

// The device's view of pinned memory.
bool* on_device(const std::optional<Tensor>& missed) {
  if (!missed.has_value()) return nullptr;
  void* view = nullptr;
  const cudaError_t error = cudaHostGetDevicePointer(&view, missed->mutable_data_ptr(), 0);
  if (error != cudaSuccess) cudaGetLastError();  // answered here, no later check should see it
  STD_TORCH_CHECK(error == cudaSuccess, "missed must be in pinned memory");
  return static_cast<bool*>(view);
}

template <class T>
void value_typed(EmdValueCall& call) {
  check_launch("emd", launch_emd(call.params<T>(on_device(call.missed)), call.dims(),
                                 current_stream(call.x.get_device_index())));
}

Tensor value(const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_lengths,
             const std::optional<Tensor>& y_lengths, const Tensor& idx, const Tensor& cost,
             const Tensor& converged, bool squared, const std::string& point_reduction,
             const std::string& batch_reduction, const std::optional<Tensor>& missed) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  EmdValueCall call = check_emd(x, y, x_lengths, y_lengths, idx, cost, converged, squared,
                                point_reduction, batch_reduction, missed);
  x.scalar_type() == ScalarType::Float ? value_typed<float>(call) : value_typed<double>(call);
  return call.value;
}

Tensor emd_cuda(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                std::optional<Tensor> y_lengths, Tensor idx, Tensor cost, Tensor converged,
                bool squared, std::string point_reduction, std::string batch_reduction) {
  return value(x, y, x_lengths, y_lengths, idx, cost, converged, squared, point_reduction,
               batch_reduction, std::nullopt);
}

Tensor emd_watched_cuda(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                        std::optional<Tensor> y_lengths, Tensor idx, Tensor cost, Tensor converged,
                        bool squared, std::string point_reduction, std::string batch_reduction,
                        Tensor missed) {
  return value(x, y, x_lengths, y_lengths, idx, cost, converged, squared, point_reduction,
               batch_reduction, missed);
}

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
  m.impl("emd", TORCH_BOX(&pointloss::emd_cuda));
  m.impl("emd.watched", TORCH_BOX(&pointloss::emd_watched_cuda));
  m.impl("emd_backward", TORCH_BOX(&pointloss::emd_backward_cuda));
}
