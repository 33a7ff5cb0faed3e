// SPDX-License-Identifier: MIT
// pointloss::assign on CUDA: check, allocate, enqueue the solvers on the caller's stream. Which
// solver, how many blocks for a pair, how much shared memory.
#include <algorithm>

#include "../common/calls/assign_call.h"
#include "assign/kernels.cuh"
#include "shared/launch.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

// Launches a solver with a cluster of blocks per pair and `bytes` of shared memory per block. The
// cluster is as large as the GPU holds at once for all pairs, but has work for its warps: `warps`
// have some.
template <class... Params>
cudaError_t launch_clusters(void (*kernel)(AssignPlan, Params...), const AssignPlan& plan,
                            int64_t warps, size_t bytes, unsigned blocks, cudaStream_t stream,
                            Params... params) {
  int processors = 0;
  cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &processors);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes));
  }
  for (unsigned size = has_overlap_and_clusters() ? kMaxCluster : 1; size > 1; --size) {
    if (error != cudaSuccess) return error;
    if (plan.B * size > processors || size * kIntegerWarps > warps) continue;
    const Launch launch({dim3(blocks * size), kIntegerThreads, bytes, size}, stream);
    int fitting = 0;
    error = launch.active_clusters(kernel, &fitting);
    if (error == cudaSuccess && fitting >= plan.B) return launch.run(kernel, plan, params...);
  }
  if (error != cudaSuccess) return error;
  return launch(kernel, {dim3(blocks), kIntegerThreads, bytes}, stream, plan, params...);
}

// Blocks of a team of `kernel` that solves each of `pairs`: as many as run at once, on all
// multiprocessors, but not more than have a group of objects for every warp. Fewer than kLeastTeam,
// and where blocks cannot wait for one another none: a pair has one block then.
cudaError_t team_size(const void* kernel, size_t bytes, int64_t pairs, int64_t points, int* size) {
  int processors = 0, together = 0, blocks = 0;
  *size = 0;
  cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &processors);
  if (error == cudaSuccess) error = device_attribute(cudaDevAttrCooperativeLaunch, &together);
  if (error != cudaSuccess || together == 0) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kIntegerThreads, bytes);
  const int64_t most = int64_t{blocks} * processors / pairs;
  const int64_t useful = ceil_div(points, kIntegerThreads);
  const auto fitting = static_cast<int>(useful < most ? useful : most);
  if (error == cudaSuccess && fitting >= kLeastTeam) *size = fitting;
  return error;
}

// Launches the solver for equal sizes of at most `points` with wide ids: a team of blocks per pair,
// or one block.
cudaError_t launch_wide(const AssignPlan& plan, int64_t points, unsigned blocks,
                        cudaStream_t stream) {
  const auto kernel =
      plan.squared ? &assign_team_kernel<Cost::kSquare> : &assign_team_kernel<Cost::kDistance>;
  size_t box_bytes = 6 * sizeof(float) * static_cast<size_t>(ceil_div(points, 32));
  bool fits = false;
  int size = 0;
  cudaError_t error = fits_shared_memory(box_bytes, &fits);
  if (!fits) box_bytes = 0;
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(box_bytes));
  }
  if (error == cudaSuccess) {
    error = team_size(reinterpret_cast<const void*>(kernel), box_bytes, plan.B, points, &size);
  }
  if (error != cudaSuccess) return error;
  if (size == 0) {
    const auto alone = plan.squared ? &assign_equal_kernel<int, Cost::kSquare>
                                    : &assign_equal_kernel<int, Cost::kDistance>;
    return launch(alone, {dim3(blocks), kIntegerThreads}, stream, plan);
  }
  LaunchShape shape{dim3(static_cast<unsigned>(plan.B * size)), kIntegerThreads, box_bytes};
  shape.together = true;
  return launch(kernel, shape, stream, plan, size, fits);
}

cudaError_t launch_equal(const AssignPlan& plan, unsigned blocks, cudaStream_t stream) {
  const int64_t size = equal_size(plan.least(), plan.most());
  const size_t bytes = equal_block_bytes<uint16_t>(size);
  bool fits = false;
  const cudaError_t error = fits_shared_memory(bytes + sizeof(IntegerShared), &fits);
  if (error != cudaSuccess) return error;
  if (size > kShortIds || !fits) return launch_wide(plan, size, blocks, stream);
  const auto kernel = plan.squared ? &assign_equal_kernel<uint16_t, Cost::kSquare>
                                   : &assign_equal_kernel<uint16_t, Cost::kDistance>;
  return launch_clusters(kernel, plan, size / 4, bytes, blocks, stream);
}

cudaError_t launch_unequal(const AssignPlan& plan, unsigned blocks, cudaStream_t stream) {
  const size_t bytes = unequal_block_bytes(plan.least(), plan.most());
  bool fits = false;
  const cudaError_t error = fits_shared_memory(bytes + sizeof(UnequalShared), &fits);
  if (error != cudaSuccess) return error;
  const auto kernel = plan.squared ? &assign_unequal_kernel<Cost::kSquare>
                                   : &assign_unequal_kernel<Cost::kDistance>;
  if (!fits) return launch(kernel, {dim3(blocks), kIntegerThreads}, stream, plan, false);
  const int64_t warps = plan.least() < kRoundBids ? plan.least() : kRoundBids;
  return launch_clusters(kernel, plan, warps, bytes, blocks, stream, true);
}

// Certifies pairs of up to `points` that were matched along a line: by all multiprocessors, if
// every warp has bidders.
cudaError_t launch_line(const AssignPlan& plan, int64_t points, unsigned blocks,
                        cudaStream_t stream) {
  int processors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &processors);
  if (error != cudaSuccess) return error;
  const int64_t most = 2 * processors / plan.B, useful = points / kGeneralThreads;
  const auto parts = static_cast<unsigned>(std::max<int64_t>(1, std::min(most, useful)));
  return launch(&assign_line_kernel, {dim3(blocks * parts), kGeneralThreads}, stream, plan,
                static_cast<int>(parts));
}

// Enqueues the solvers on `stream`: no allocation, no synchronisation, capturable in a graph.
// `workspace`: B * assign_pair_bytes() of device memory, 256-byte aligned.
template <typename T>
cudaError_t launch_assign(const AssignBatch<T>& batch, void* workspace, cudaStream_t stream) {
  if (batch.B == 0) return cudaSuccess;
  const AssignPlan plan(batch, workspace);
  const unsigned blocks = grid_size(batch.B);
  const LaunchShape block_per_pair{dim3(blocks), kGeneralThreads};
  cudaError_t error = launch(&assign_prepare_kernel<T>, block_per_pair, stream, batch, plan);
  const int64_t K = plan.least(), L = plan.most();
  const bool lengths = batch.x_lengths != nullptr || batch.y_lengths != nullptr;
  const Solver solver = choose_solver(K, L, plan.D);  // without lengths, of all pairs
  const bool equal = lengths ? has_equal(K, L, plan.D) : solver == Solver::kEqual;
  const bool line = plan.D > 0 && K > 0 && (lengths || K == L);
  const bool unequal = lengths ? has_unequal(L, plan.D) : solver == Solver::kUnequal;
  if (line && error == cudaSuccess) error = launch_line(plan, K, blocks, stream);
  if (equal && K > 0 && error == cudaSuccess) error = launch_equal(plan, blocks, stream);
  if (unequal && K > 0 && error == cudaSuccess) error = launch_unequal(plan, blocks, stream);
  if (error != cudaSuccess) return error;
  return launch(&assign_finish_kernel, block_per_pair, stream, plan,
                static_cast<const AssignResults&>(batch), static_cast<const void*>(batch.x),
                static_cast<const void*>(batch.y));
}

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
