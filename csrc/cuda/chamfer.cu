// SPDX-License-Identifier: MIT
// pointloss::chamfer on CUDA: check, allocate, search, reduce.
#include "../common/calls/chamfer_call.h"
#include "nearest.h"
#include "nearest/chamfer_sum.cuh"
#include "nearest_backward.h"
#include "shared/launch.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

template <class T>
void launch_sums(const ChamferParams<T>& p, cudaStream_t stream) {
  KernelChain chain(stream, true);
  const int64_t count = p.B * (p.partials[0] + p.partials[1]);
  if (count > 0) {
    const unsigned blocks = grid_size(ceil_div(count, kPartialThreads / 32));
    chain.add(&chamfer_partial_kernel<T>, {blocks, kPartialThreads}, p);
  }
  if (p.values > 0) {
    const int threads = count / p.values > kTotalByWarp ? kTotalThreads : 32;
    chain.add(&chamfer_total_kernel<T>, {grid_size(p.values), threads}, p);
  }
  check_launch("chamfer", chain.error());
}

template <class T>
void chamfer_typed(ChamferCall& call) {
  const auto [B, N, M, D] = call.search.size;
  // A cloud without points has one partial sum too: 0, or the NaN of a length out of range.
  const auto partials = [](int64_t rows) {
    return std::max<int64_t>(1, ceil_div(rows, kPartialRows));
  };
  const int64_t to_y = partials(N), to_x = call.search.both ? partials(M) : 0;
  const int64_t sums = B * (to_y + to_x) * static_cast<int64_t>(sizeof(double));
  const int64_t rows = B * (N + call.search.columns()) * static_cast<int64_t>(sizeof(T));
  Tensor workspace = new_tensor(call.search.x, {sums + rows}, ScalarType::Byte);
  auto* memory = static_cast<char*>(workspace.mutable_data_ptr());
  T* dist = reinterpret_cast<T*>(memory + sums);
  search_nearest_cuda(call.search, call.output(dist));
  const Reduction& reduction = call.reduction;
  const ChamferParams<T> params{{dist, dist + B * N},
                                {reduction.share[0], reduction.share[1]},
                                {to_y, to_x},
                                B,
                                reduction.root,
                                reinterpret_cast<double*>(memory),
                                call.value.template mutable_data_ptr<T>(),
                                call.value.numel()};
  launch_sums(params, current_stream(call.search.x.get_device_index()));
}

std::tuple<Tensor, Tensor> chamfer_cuda(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                                        std::optional<Tensor> y_lengths, int64_t norm, bool squared,
                                        bool both, std::string point_reduction,
                                        std::string batch_reduction) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  ChamferCall call = check_chamfer(x, y, x_lengths, y_lengths, norm, squared, both, point_reduction,
                                   batch_reduction);
  x.scalar_type() == ScalarType::Float ? chamfer_typed<float>(call) : chamfer_typed<double>(call);
  return {call.value, call.idx};
}

Gradients chamfer_backward_cuda(Tensor grad, Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                                std::optional<Tensor> y_lengths, Tensor idx, int64_t norm,
                                bool squared, bool both, std::string point_reduction,
                                std::string batch_reduction, bool need_x, bool need_y,
                                bool deterministic) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  return gradients_cuda(
      check_chamfer_backward(grad, x, y, x_lengths, y_lengths, idx, norm, squared, both,
                             point_reduction, batch_reduction, need_x, need_y),
      deterministic);
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("chamfer", TORCH_BOX(&pointloss::chamfer_cuda));
  m.impl("chamfer_backward", TORCH_BOX(&pointloss::chamfer_backward_cuda));
}
