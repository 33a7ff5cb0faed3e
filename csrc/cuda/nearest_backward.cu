// SPDX-License-Identifier: MIT
// pointloss::nearest_backward on CUDA: check, allocate, launch.
#include <algorithm>
#include <type_traits>

#include "nearest/gather.cuh"
#include "nearest_backward.h"
#include "shared/launch.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

template <int kNorm, BackwardPass kPass, class T>
void launch_pass(const BackwardParams<T>& p, cudaStream_t stream, bool overlap = false) {
  const int64_t rows = std::max(p.direction[0].N, p.direction[1].N);
  const dim3 grid(grid_size(p.B * ceil_div(rows, kBackwardThreads)), 2);
  auto* kernel = p.D == 3 ? &nearest_backward_kernel<kNorm, kPass, 3, T>
                          : &nearest_backward_kernel<kNorm, kPass, 0, T>;
  check_launch("nearest_backward",
               Launch({grid, kBackwardThreads}, stream, overlap).run(kernel, p));
}

template <int kNorm, class T>
void launch_backward(const BackwardParams<T>& p, bool deterministic, cudaStream_t stream) {
  if (p.B * std::max(p.direction[0].N, p.direction[1].N) == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (p.direction[0].wide != nullptr) {
      launch_pass<kNorm, BackwardPass::kAddWide>(p, stream);
      launch_pass<kNorm, BackwardPass::kFinishWide>(p, stream, has_overlap_and_clusters());
      return;
    }
  }
  if (deterministic) {
    launch_pass<kNorm, BackwardPass::kBound>(p, stream);
    launch_pass<kNorm, BackwardPass::kAddFixed>(p, stream);
    launch_pass<kNorm, BackwardPass::kFinishFixed>(p, stream);
  } else if (gathers(p)) {
    check_launch("nearest_backward", launch_gather<kNorm>(p, stream));
  } else {
    launch_pass<kNorm, BackwardPass::kStore>(p, stream, has_overlap_and_clusters());
    launch_pass<kNorm, BackwardPass::kAdd>(p, stream, has_overlap_and_clusters());
  }
}

template <class T>
Gradients backward_typed(const BackwardCall& call, bool deterministic) {
  const auto [B, N, M, D] = call.size;
  Tensor grad_x = new_gradient(call.x, call.needed[0]);
  Tensor grad_y = new_gradient(call.y, call.needed[1]);
  T *gx = data_or_null<T>(grad_x), *gy = data_or_null<T>(grad_y);
  const T* x = call.x.const_data_ptr<T>();
  const T* y = call.y.const_data_ptr<T>();
  BackwardParams<T> params{{{call.gradient[0], call.idx[0], x, y, gx, gy, N, M},
                            {call.gradient[1], call.idx[1], y, x, gy, gx, M, N}},
                           B,
                           D,
                           fixed_point_bits(std::max(N, M))};
  const int32_t device = call.x.get_device_index();
  const cudaStream_t stream = current_stream(device);
  // What arrives at the rows of both clouds, zeroed; its words have 64 bits.
  const bool wide = !deterministic && std::is_same_v<T, float> && std::max(N, M) > kManyRows;
  const int64_t words = wide ? 1 : deterministic ? 1 + kWords<T> : 0;
  std::optional<Tensor> sums;
  if (words * B * (N + M) > 0) {
    sums = new_tensor(call.x, {B * (N + M) * D * words}, ScalarType::Long);
    auto* next = reinterpret_cast<unsigned long long*>(sums->mutable_data_ptr<int64_t>());
    const cudaError_t error = cudaMemsetAsync(next, 0, sums->numel() * sizeof(*next), stream);
    STD_TORCH_CHECK(error == cudaSuccess, "pointloss: clearing the sums of nearest_backward: ",
                    cudaGetErrorString(error));
    for (auto& d : params.direction) {
      if (wide) d.wide = reinterpret_cast<double*>(next);
      d.bound = next;
      d.sum = next + B * d.M * D;
      next += words * B * d.M * D;
    }
  }
  if (call.norm == 1) {
    launch_backward<1>(params, deterministic, stream);
  } else {
    launch_backward<2>(params, deterministic, stream);
  }
  return {grad_x, grad_y};
}

Gradients nearest_backward_cuda(std::optional<Tensor> grad_x, std::optional<Tensor> grad_y,
                                Tensor x, Tensor y, Tensor idx_x, Tensor idx_y, int64_t norm,
                                bool need_x, bool need_y, bool deterministic) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  return gradients_cuda(check_backward(grad_x, grad_y, x, y, idx_x, idx_y, norm, need_x, need_y),
                        deterministic);
}

}  // namespace

Gradients gradients_cuda(const BackwardCall& call, bool deterministic) {
  auto* run =
      call.x.scalar_type() == ScalarType::Float ? &backward_typed<float> : &backward_typed<double>;
  return run(call, deterministic);
}

}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("nearest_backward", TORCH_BOX(&pointloss::nearest_backward_cuda));
}
