// SPDX-License-Identifier: MIT
// Launch of the CUDA assignment solver: blocks a cloud, shared memory, order of the kernels.
#pragma once

#include "assign_kernel.cuh"

namespace pointloss {

// Blocks for each cloud: as many as the GPU holds at once, for all clouds.
template <class Kernel>
cudaError_t choose_team(Kernel kernel, const AssignPlan& plan, int64_t warps, int device,
                        cudaLaunchConfig_t& config) {
  int major = 0, processors = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess || major < 9) return error;
  auto& size = config.attrs->val.clusterDim;
  for (unsigned team = kMaxTeam; team > 1; --team) {
    if (plan.B * team > processors || team * kSolverWarps > warps) continue;
    size.x = team;
    config.gridDim.x = static_cast<unsigned>(plan.B) * team;
    config.numAttrs = 1;
    int fitting = 0;
    error = cudaOccupancyMaxActiveClusters(&fitting, kernel, &config);
    if (error != cudaSuccess || fitting >= plan.B) return error;
  }
  config.gridDim.x = static_cast<unsigned>(plan.B);
  config.numAttrs = 0;
  return cudaSuccess;
}

// Launches a kernel with a team for each cloud and `bytes` of shared memory for each block.
template <class Kernel, class... Args>
cudaError_t launch_teams(Kernel kernel, const AssignPlan& plan, int64_t warps, size_t bytes,
                         unsigned blocks, cudaStream_t stream, Args... args) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes));
  }
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {1, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(kSolverThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &cluster;
  error = choose_team(kernel, plan, warps, device, config);
  if (error != cudaSuccess) return error;
  if (config.numAttrs == 0) config.gridDim.x = blocks;
  return cudaLaunchKernelEx(&config, kernel, plan, args...);
}

// Whether `bytes` of shared memory beside the static of a solver are there for a block.
inline cudaError_t fits_shared(size_t bytes, size_t fixed, bool* fits) {
  int device = 0, room = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  *fits = bytes + fixed + 1024 <= static_cast<size_t>(room);
  return error;
}

template <bool kSquared>
cudaError_t launch_integers(const AssignPlan& plan, unsigned blocks, cudaStream_t stream) {
  const int64_t least = plan.N < plan.M ? plan.N : plan.M, most = plan.N + plan.M - least;
  const int64_t square = largest_square(least, most);
  const size_t bytes = solver_bytes<uint16_t>(square);
  bool fits = false;
  const cudaError_t error = fits_shared(bytes, sizeof(SolverShared), &fits);
  if (error != cudaSuccess) return error;
  if (square > kShortIds || !fits) {
    assign_integers<int, kSquared><<<blocks, kSolverThreads, 0, stream>>>(plan);
    return cudaGetLastError();
  }
  return launch_teams(assign_integers<uint16_t, kSquared>, plan, square / 4, bytes, blocks, stream);
}

template <bool kSquared>
cudaError_t launch_rectangular(const AssignPlan& plan, unsigned blocks, cudaStream_t stream) {
  const int64_t least = plan.N < plan.M ? plan.N : plan.M, most = plan.N + plan.M - least;
  const size_t bytes = rectangular_block_bytes(least, most);
  bool fits = false;
  const cudaError_t error = fits_shared(bytes, sizeof(RectangularShared), &fits);
  if (error != cudaSuccess) return error;
  if (!fits) {
    assign_rectangular<kSquared><<<blocks, kSolverThreads, 0, stream>>>(plan, false);
    return cudaGetLastError();
  }
  const int64_t warps = least < kRoundBids ? least : kRoundBids;
  return launch_teams(assign_rectangular<kSquared>, plan, warps, bytes, blocks, stream, true);
}

// Enqueues the solver on `stream`: no allocation, no synchronisation, capturable in a graph.
template <typename T>
cudaError_t launch_assign(const AssignBatch<T>& batch, void* workspace, cudaStream_t stream) {
  if (batch.B == 0) return cudaSuccess;
  constexpr int64_t kMaxBlocks = 0x7fffffff;
  const AssignPlan plan{batch.x_lengths,
                        batch.y_lengths,
                        batch.price_in,
                        batch.idx_in,
                        batch.B,
                        batch.N,
                        batch.M,
                        batch.D,
                        batch.max_rounds,
                        batch.squared,
                        sizeof(T) == sizeof(float),
                        batch.deterministic,
                        batch.rtol,
                        static_cast<char*>(workspace),
                        assign_cloud_bytes(batch.N, batch.M, batch.D)};
  const auto blocks = static_cast<unsigned>(batch.B < kMaxBlocks ? batch.B : kMaxBlocks);
  assign_prepare<<<blocks, kAssignThreads, 0, stream>>>(batch, plan);
  const int64_t least = batch.N < batch.M ? batch.N : batch.M;
  const int64_t most = batch.N + batch.M - least;
  const bool lengths = batch.x_lengths != nullptr || batch.y_lengths != nullptr;
  const bool equal = solver_serves(largest_square(least, most), batch.D) &&
                     (lengths || square_serves(least, most, batch.D));
  const bool unequal =
      rectangular_serves(most, batch.D) && (lengths || unequal_serves(least, most, batch.D));
  cudaError_t error = cudaSuccess;
  if (equal && least > 0) {
    error = batch.squared ? launch_integers<true>(plan, blocks, stream)
                          : launch_integers<false>(plan, blocks, stream);
  }
  if (unequal && least > 0 && error == cudaSuccess) {
    error = batch.squared ? launch_rectangular<true>(plan, blocks, stream)
                          : launch_rectangular<false>(plan, blocks, stream);
  }
  if (error != cudaSuccess) return error;
  assign_finish<<<blocks, kAssignThreads, 0, stream>>>(batch, plan);
  return cudaGetLastError();
}

}  // namespace pointloss
