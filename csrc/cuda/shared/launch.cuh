// SPDX-License-Identifier: MIT
// How kernels are launched: grids, clusters of blocks, kernels that overlap. Free of torch.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace pointloss {

// Two kernels of a stream may overlap where the device can (compute capability 9): the first lets
// the next start, the next waits before it touches what the first writes. Elsewhere both calls do
// nothing, because the next starts after the first has ended.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of a one-dimensional grid; kernels loop with a stride of gridDim.x over the rest.
inline unsigned grid_size(int64_t tasks) {
  constexpr int64_t kMaxBlocks = 0x7fffffff;
  return static_cast<unsigned>(tasks < kMaxBlocks ? tasks : kMaxBlocks);
}

// Of the current device.
inline cudaError_t device_attribute(cudaDeviceAttr attribute, int* value) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error != cudaSuccess ? error : cudaDeviceGetAttribute(value, attribute, device);
}

// Whether kernels can overlap on the current device, and blocks form clusters.
inline bool has_overlap_and_clusters() {
  int major = 0;
  return device_attribute(cudaDevAttrComputeCapabilityMajor, &major) == cudaSuccess && major >= 9;
}

struct LaunchShape {
  dim3 grid;
  int threads;              // of a block
  size_t shared_bytes = 0;  // dynamic, of a block
  unsigned cluster = 1;     // blocks of a cluster, along x
  bool together = false;    // all blocks run at once, or the launch fails
};

// A launch of a kernel that has not happened yet. `overlap`: it may start while the kernel before
// it in the stream still runs, and must wait_for_previous_kernel().
class Launch {
 public:
  Launch(const LaunchShape& shape, cudaStream_t stream, bool overlap = false) {
    config_.gridDim = shape.grid;
    config_.blockDim = dim3(shape.threads);
    config_.dynamicSmemBytes = shape.shared_bytes;
    config_.stream = stream;
    config_.attrs = attributes_;
    if (overlap) {
      cudaLaunchAttribute& early = attributes_[config_.numAttrs++];
      early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      early.val.programmaticStreamSerializationAllowed = 1;
    }
    if (shape.cluster > 1) {
      cudaLaunchAttribute& cluster = attributes_[config_.numAttrs++];
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim = {shape.cluster, 1, 1};
    }
    if (shape.together) {
      cudaLaunchAttribute& together = attributes_[config_.numAttrs++];
      together.id = cudaLaunchAttributeCooperative;
      together.val.cooperative = 1;
    }
  }
  Launch(const Launch&) = delete;  // the configuration points at the attributes
  Launch& operator=(const Launch&) = delete;

  template <class... Params, class... Args>
  cudaError_t run(void (*kernel)(Params...), const Args&... args) const {
    return cudaLaunchKernelEx(&config_, kernel, args...);
  }

  // How many clusters of this shape the device holds at once.
  template <class... Params>
  cudaError_t active_clusters(void (*kernel)(Params...), int* count) const {
    return cudaOccupancyMaxActiveClusters(count, kernel, &config_);
  }

 private:
  cudaLaunchConfig_t config_{};
  cudaLaunchAttribute attributes_[3]{};
};

template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream,
                   const Args&... args) {
  return Launch(shape, stream).run(kernel, args...);
}

// The same for a kernel that begins with wait_for_previous_kernel(): where the device can, it is
// launched while what precedes it in the stream ends, be it a kernel of the caller.
template <class... Params, class... Args>
cudaError_t launch_early(void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream,
                         const Args&... args) {
  return Launch(shape, stream, has_overlap_and_clusters()).run(kernel, args...);
}

// Kernels of a stream, each after the one before. Where the device can, all but the first start
// early and wait_for_previous_kernel(), which hides what launching costs. After an error none is
// launched any more.
class KernelChain {
 public:
  // `overlap`: the first starts early too, and waits for what precedes the chain in the stream.
  explicit KernelChain(cudaStream_t stream, bool overlap = false)
      : stream_(stream), overlap_(overlap && can_overlap_) {}

  template <class... Params, class... Args>
  void add(void (*kernel)(Params...), const LaunchShape& shape, const Args&... args) {
    if (error_ != cudaSuccess) return;
    error_ = Launch(shape, stream_, overlap_).run(kernel, args...);
    overlap_ = can_overlap_;
  }
  cudaError_t error() const { return error_; }

 private:
  cudaStream_t stream_;
  bool can_overlap_ = has_overlap_and_clusters(), overlap_;
  cudaError_t error_ = cudaSuccess;
};

// Whether a block of the current device can have this much shared memory, static and dynamic,
// beside the 1 KB that the runtime keeps.
inline cudaError_t fits_shared_memory(size_t bytes, bool* fits) {
  int room = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &room);
  *fits = bytes + 1024 <= static_cast<size_t>(room);
  return error;
}

// Allows a kernel `largest` bytes of dynamic shared memory on the current device, or if that is too
// much the bytes that this launch needs. `raised` keeps a bit per device, because it takes time.
template <class... Params>
cudaError_t raise_shared_memory(void (*kernel)(Params...), size_t needed, size_t largest,
                                std::atomic<uint64_t>& raised) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (raised.load(std::memory_order_relaxed) & bit) return cudaSuccess;
  constexpr auto kLimit = cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (cudaFuncSetAttribute(kernel, kLimit, static_cast<int>(largest)) == cudaSuccess) {
    raised.fetch_or(bit, std::memory_order_relaxed);
    return cudaSuccess;
  }
  cudaGetLastError();  // the refusal is answered here, no later check should see it
  return cudaFuncSetAttribute(kernel, kLimit, static_cast<int>(needed));
}

}  // namespace pointloss
