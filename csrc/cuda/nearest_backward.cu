// SPDX-License-Identifier: MIT
// pointloss::nearest_backward on CUDA.
//
// Map: one thread = one row of one direction. A first kernel stores each row's own term (a gather,
// no atomics, no zeroing pass); a second adds the neighbours' terms with atomics, in any order.
// Cost: O(B (N + M) D) memory traffic.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/distance.h"
#include "launch.cuh"

namespace pointloss {
namespace {

constexpr int kThreads = 256;

// One direction: rows a [B, N, D] with neighbours idx [B, N] in b [B, M, D].
template <class T>
struct Direction {
  const T* grad_dist;  // [B, N], null for a direction that was not asked for
  const int64_t* idx;  // [B, N]
  const T* a;
  const T* b;
  T* grad_a;
  T* grad_b;
  int64_t N, M;
};

template <class T>
struct BackwardParams {
  Direction<T> direction[2];
  int64_t B, D;
};

template <int kNorm, bool kScatter, class T>
__global__ void __launch_bounds__(kThreads) nearest_backward_kernel(const BackwardParams<T> p) {
  const Direction<T> d = p.direction[blockIdx.y];
  const int64_t rows = p.B * d.N;
  for (int64_t r = blockIdx.x * int64_t{kThreads} + threadIdx.x; r < rows;
       r += gridDim.x * int64_t{kThreads}) {
    const int64_t j = d.grad_dist == nullptr ? -1 : d.idx[r];
    if (kScatter && j < 0) continue;
    const T grad = j < 0 ? T(0) : d.grad_dist[r];
    const T* a = d.a + r * p.D;
    const int64_t other = (r / d.N * d.M + (j < 0 ? 0 : j)) * p.D;
    for (int64_t k = 0; k < p.D; ++k) {
      const T term = j < 0 ? T(0) : grad * distance_slope<kNorm>(a[k] - d.b[other + k]);
      if (kScatter) {
        atomicAdd(d.grad_b + other + k, -term);
      } else {
        d.grad_a[r * p.D + k] = term;
      }
    }
  }
}

template <int kNorm, class T>
void launch_backward(const BackwardParams<T>& p, cudaStream_t stream) {
  const int64_t rows =
      p.B * (p.direction[0].N > p.direction[1].N ? p.direction[0].N : p.direction[1].N);
  if (rows == 0) return;
  const dim3 grid(grid_size(ceil_div(rows, kThreads)), 2);
  nearest_backward_kernel<kNorm, false><<<grid, kThreads, 0, stream>>>(p);
  check_launch("nearest_backward_kernel");
  nearest_backward_kernel<kNorm, true><<<grid, kThreads, 0, stream>>>(p);
  check_launch("nearest_backward_kernel");
}

template <class T>
std::tuple<Tensor, Tensor> backward_typed(const BackwardInputs& in, int64_t norm) {
  Tensor grad_x = torch::stable::empty_like(in.x), grad_y = torch::stable::empty_like(in.y);
  T* gx = grad_x.mutable_data_ptr<T>();
  T* gy = grad_y.mutable_data_ptr<T>();
  const T* x = in.x.const_data_ptr<T>();
  const T* y = in.y.const_data_ptr<T>();
  const BackwardParams<T> params{{{data_or_null<T>(in.grad_x), in.idx_x.const_data_ptr<int64_t>(),
                                   x, y, gx, gy, in.size.N, in.size.M},
                                  {data_or_null<T>(in.grad_y), in.idx_y.const_data_ptr<int64_t>(),
                                   y, x, gy, gx, in.size.M, in.size.N}},
                                 in.size.B,
                                 in.size.D};
  const cudaStream_t stream = current_stream(in.x.get_device_index());
  if (norm == 1) {
    launch_backward<1>(params, stream);
  } else {
    launch_backward<2>(params, stream);
  }
  return {grad_x, grad_y};
}

std::tuple<Tensor, Tensor> nearest_backward_cuda(std::optional<Tensor> grad_x,
                                                 std::optional<Tensor> grad_y, Tensor x, Tensor y,
                                                 Tensor idx_x, Tensor idx_y, int64_t norm) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const BackwardInputs in = check_backward(grad_x, grad_y, x, y, idx_x, idx_y, norm);
  return x.scalar_type() == ScalarType::Float ? backward_typed<float>(in, norm)
                                              : backward_typed<double>(in, norm);
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("nearest_backward", TORCH_BOX(&pointloss::nearest_backward_cuda));
}
