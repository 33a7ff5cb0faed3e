// SPDX-License-Identifier: MIT
// Enough of CUDA to run device code on a CPU, thread by thread.
//
// Threads are fibers of one thread of the host, which change places where the threads of a warp
// exchange values and at barriers: there a random schedule may hold a warp back for a while, as a
// GPU does that is shared, watched by a debugger or slow by chance. So orders of events come about
// that a GPU hardly ever shows, and the same again with the same seed. Between those places a warp
// is alone, writes are seen by all at once and fences do nothing: a data race within a warp, or a
// write that comes late, does not show.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(bytes)
#define __CUDA_ARCH__ 800

namespace emulated {

template <class T>
struct Vector2 {
  T x, y;
};
template <class T>
struct Vector3 {
  T x, y, z;
};
template <class T>
struct Vector4 {
  T x, y, z, w;
};

}  // namespace emulated

using float2 = emulated::Vector2<float>;
using float3 = emulated::Vector3<float>;
using float4 = emulated::Vector4<float>;
using uint2 = emulated::Vector2<unsigned>;
using uint3 = emulated::Vector3<unsigned>;
using uint4 = emulated::Vector4<unsigned>;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
struct Index {
  unsigned x = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

// Of the functions that only touch what is the emulator's own: a sanitizer would triple their time.
#define EMULATOR_OWN __attribute__((no_sanitize("address")))

namespace emulated {

constexpr int kWarp = 32;
constexpr size_t kStack = 128 << 10;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

// What a fiber waits for: a number of its warp, its block or the grid that is yet to change. Small,
// because the loop over all of them takes most of the time.
struct Fiber {
  void* resume[5];
  const int64_t* number = nullptr;
  int64_t seen = 0;
  bool begun = false, ended = false;
};

// A place where a number of threads meet; `site`, a line, must be the same for all.
struct Meeting {
  int64_t number = 0;
  int here = 0, site = 0;
};
struct Warp {
  Meeting meeting;
  int64_t value[2][kWarp];  // of an even and of an odd exchange
  int held = 0;             // turns to go
  bool rests = false;
};

// How often a warp is stopped where it exchanges values, in percent, how many of those stops hold
// it, and for how many turns of the others at most.
struct Schedule {
  unsigned seed = 0;
  int stop = 0, hold = 0, turns = 1;

  unsigned random() {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
  }
  bool percent(int part) { return static_cast<int>(random() % 100) < part; }
};

struct Grid {
  int threads = 0, blocks = 0, running = 0;  // of a block; blocks; the fiber that runs
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Meeting> meetings;                // of the blocks
  Meeting meeting;                              // of all
  std::vector<int> counts;                      // of __syncthreads_count(), by block
  std::vector<std::unique_ptr<char[]>> stacks;  // of the fibers, kept from launch to launch
  void* resume[5];
  std::function<void()> kernel;
};
inline Grid grid;
inline Schedule schedule;

inline int block() { return grid.running / grid.threads; }
inline Warp& warp() { return grid.warps[grid.running / kWarp]; }

// The host and the fibers pass the turn to each other; the compiler's own jump costs no system
// call, and is none that a sanitizer follows.
EMULATOR_OWN __attribute__((noinline)) inline void jump(void** to) { __builtin_longjmp(to, 1); }
EMULATOR_OWN __attribute__((noinline)) inline void pass_turn(void** from, void** to) {
  if (__builtin_setjmp(from) == 0) jump(to);
}

inline void wait_for(const int64_t& number, int64_t seen) {
  Fiber& fiber = grid.fibers[grid.running];
  fiber.number = &number, fiber.seen = seen;
  pass_turn(fiber.resume, grid.resume);
}

inline void meet(Meeting& meeting, int count, int site) {
  if (meeting.here == 0) meeting.site = site;
  if (meeting.site != site) fail("threads meet at different places");
  const int64_t seen = meeting.number;
  if (++meeting.here == count) {
    meeting.here = 0;
    ++meeting.number;
  } else {
    wait_for(meeting.number, seen);
  }
}

// The values of all lanes.
template <class T>
const int64_t* exchange(T mine, int site) {
  static_assert(sizeof(T) <= sizeof(int64_t), "one word");
  Warp& all = warp();
  int64_t* values = all.value[all.meeting.number & 1];
  std::memcpy(values + threadIdx.x % kWarp, &mine, sizeof(T));
  meet(all.meeting, kWarp, site);
  return values;
}
template <class T>
T value_of(const int64_t* values, int lane) {
  T value;
  std::memcpy(&value, values + lane % kWarp, sizeof(T));
  return value;
}

// `op` over the values of all lanes.
template <class T, class Op>
T reduce(T mine, const Op& op, int site) {
  const int64_t* all = exchange(mine, site);
  T result = value_of<T>(all, 0);
  for (int k = 1; k < 32; ++k) result = op(result, value_of<T>(all, k));
  return result;
}

inline void block_barrier(int site) { meet(grid.meetings[block()], grid.threads, site); }
inline void grid_barrier(int site) { meet(grid.meeting, grid.threads * grid.blocks, site); }

// Begins at the top of a fiber's stack, and never returns.
EMULATOR_OWN inline void fiber_main() {
  grid.kernel();
  grid.fibers[grid.running].ended = true;
  jump(grid.resume);
}

EMULATOR_OWN __attribute__((noinline)) inline void run_fiber(int which) {
  grid.running = which;
  threadIdx.x = static_cast<unsigned>(which % grid.threads);
  Fiber& fiber = grid.fibers[which];
  fiber.number = nullptr;
  if (fiber.begun) return pass_turn(grid.resume, fiber.resume);
  fiber.begun = true;
  static ucontext_t start;
  getcontext(&start);
  start.uc_stack.ss_sp = grid.stacks[which].get();
  start.uc_stack.ss_size = kStack;
  makecontext(&start, fiber_main, 0);
  if (__builtin_setjmp(grid.resume) == 0) setcontext(&start);
}

EMULATOR_OWN inline bool ready(const Fiber& fiber) {
  return !fiber.ended && (fiber.number == nullptr || *fiber.number != fiber.seen);
}

// Lets a warp run until it is stopped or waits for another; returns whether it did anything.
EMULATOR_OWN inline bool run_warp(int which) {
  Warp& all = grid.warps[which];
  if (all.held > 0) return --all.held, true;
  Fiber* fibers = grid.fibers.data() + which * kWarp;
  for (bool any = false;; any = true) {
    bool ran = false;
    for (int lane = 0; lane < kWarp; ++lane) {
      if (!ready(fibers[lane])) continue;
      run_fiber(which * kWarp + lane);
      ran = true;
    }
    if (!ran) return any;
    if (std::exchange(all.rests, false)) return true;
    if (!schedule.percent(schedule.stop)) continue;
    if (schedule.percent(schedule.hold)) all.held = schedule.random() % schedule.turns;
    return true;
  }
}

// Runs `kernel` by all threads of `blocks` blocks, which form one cluster.
inline void launch(int blocks, int threads, std::function<void()> kernel) {
  blockDim.x = threads, grid.threads = threads, grid.blocks = blocks,
  grid.kernel = std::move(kernel);
  grid.fibers = std::vector<Fiber>(blocks * threads);
  while (grid.stacks.size() < grid.fibers.size()) {
    grid.stacks.push_back(std::make_unique_for_overwrite<char[]>(kStack));
  }
  grid.warps = std::vector<Warp>(blocks * threads / kWarp);
  grid.meetings = std::vector<Meeting>(blocks);
  grid.meeting = {};
  grid.counts.assign(blocks, 0);
  const int warps = static_cast<int>(grid.warps.size());
  const auto ended = [](const Fiber& fiber) { return fiber.ended; };
  while (!std::all_of(grid.fibers.begin(), grid.fibers.end(), ended)) {
    const int first = static_cast<int>(schedule.random() % warps);
    bool ran = false;
    for (int w = 0; w < warps; ++w) ran |= run_warp((first + w) % warps);
    if (!ran) fail("every thread waits for another");
  }
}

}  // namespace emulated

// Warps and blocks.
inline void __syncwarp(unsigned = ~0u, int site = __builtin_LINE()) { emulated::exchange(0, site); }
inline unsigned __ballot_sync(unsigned, bool mine, int site = __builtin_LINE()) {
  const int64_t* all = emulated::exchange<int>(mine, site);
  unsigned mask = 0;
  for (int k = 0; k < 32; ++k) mask |= (emulated::value_of<int>(all, k) != 0 ? 1u : 0u) << k;
  return mask;
}
inline bool __any_sync(unsigned, bool mine, int site = __builtin_LINE()) {
  return __ballot_sync(~0u, mine, site) != 0;
}
inline unsigned __activemask() { return ~0u; }  // so all lanes must be there
template <class T>
T __reduce_min_sync(unsigned, T mine, int site = __builtin_LINE()) {
  return emulated::reduce(mine, [](T a, T b) { return std::min(a, b); }, site);
}
template <class T>
T __reduce_max_sync(unsigned, T mine, int site = __builtin_LINE()) {
  return emulated::reduce(mine, [](T a, T b) { return std::max(a, b); }, site);
}
template <class T>
T __reduce_add_sync(unsigned, T mine, int site = __builtin_LINE()) {
  return emulated::reduce(mine, [](T a, T b) { return static_cast<T>(a + b); }, site);
}
template <class T>
T __shfl_sync(unsigned, T mine, int lane, int site = __builtin_LINE()) {
  return emulated::value_of<T>(emulated::exchange(mine, site), lane);
}
template <class T>
T __shfl_up_sync(unsigned, T mine, int offset, int site = __builtin_LINE()) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t* all = emulated::exchange(mine, site);
  return emulated::value_of<T>(all, lane < offset ? lane : lane - offset);
}
template <class T>
T __shfl_xor_sync(unsigned, T mine, int offset, int site = __builtin_LINE()) {
  const int lane = static_cast<int>(threadIdx.x % 32) ^ offset;
  return emulated::value_of<T>(emulated::exchange(mine, site), lane);
}
inline void __syncthreads(int site = __builtin_LINE()) { emulated::block_barrier(site); }
inline int __syncthreads_count(bool mine, int site = __builtin_LINE()) {
  int& count = emulated::grid.counts[emulated::block()];
  emulated::block_barrier(site);  // all have read the last
  if (threadIdx.x == 0) count = 0;
  emulated::block_barrier(site);
  count += mine;
  emulated::block_barrier(site);
  return count;
}
inline int __syncthreads_or(bool mine, int site = __builtin_LINE()) {
  return __syncthreads_count(mine, site) > 0;
}
inline void __nanosleep(unsigned) { emulated::warp().rests = true; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// Memory. Nothing comes between the parts of an atomic operation.
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T, class Value>
T atomicAdd(T* at, Value value) {
  const T before = *at;
  *at = before + static_cast<T>(value);
  return before;
}
template <class T>
T atomicExch(T* at, T value) {
  return std::exchange(*at, value);
}
template <class T>
T atomicSub(T* at, T value) {
  return atomicAdd(at, static_cast<T>(-value));
}
template <class T>
T atomicMin(T* at, T value) {
  const T before = *at;
  *at = std::min(before, value);
  return before;
}
template <class T, class Value>
T atomicMax(T* at, Value value) {
  const T before = *at;
  *at = std::max(before, static_cast<T>(value));
  return before;
}

// Numbers.
template <class To, class From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline int __float_as_int(float value) { return bits_as<int>(value); }
inline float __int_as_float(int value) { return bits_as<float>(value); }
inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return bits_as<float>(value); }
inline long long __double_as_longlong(double value) { return bits_as<long long>(value); }
inline double __longlong_as_double(long long value) { return bits_as<double>(value); }
inline int __popc(unsigned mask) { return __builtin_popcount(mask); }
inline int __clz(unsigned mask) { return mask == 0 ? 32 : __builtin_clz(mask); }
inline int __ffs(unsigned mask) { return __builtin_ffs(static_cast<int>(mask)); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
// As a GPU: 0 for NaN, and the nearest int for what is out of range.
inline int __float2int_rd(float value) {
  if (value != value) return 0;
  return static_cast<int>(std::min(std::max(std::floor(value), -0x1p31f), 0x1.fffffep30f));
}
inline int __vimin3_s32(int a, int b, int c) { return std::min({a, b, c}); }
inline int __vimax_s32_relu(int a, int b) { return std::max({a, b, 0}); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
inline double __dsqrt_rn(double value) { return std::sqrt(value); }
using std::isfinite, std::max, std::min;
