// SPDX-License-Identifier: MIT
// What the emulator's programs share: numbers from the command line and the standard input, and the
// shared memory of the blocks.
#pragma once

#include "../../csrc/cuda/shared/cluster.cuh"

namespace emulated {

template <class T>
std::vector<T> read(int64_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), count, stdin) != values.size()) {
    fail("the input is too short");
  }
  return values;
}

template <class T>
void write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

struct Arguments {
  char** next;
  double number() { return std::atof(*++next); }
  int64_t whole() { return std::atoll(*++next); }
  bool flag() { return whole() != 0; }
  void schedule() {  // the last four
    emulated::schedule.seed = static_cast<unsigned>(whole());
    emulated::schedule.stop = static_cast<int>(whole());
    emulated::schedule.hold = static_cast<int>(whole());
    emulated::schedule.turns = static_cast<int>(whole());
  }
};

// Memory of each block as large as asked, of its own so that a sanitizer sees what goes beyond the
// last array. What is in it at first makes no sense.
template <class Static>
struct SharedMemory {
  std::vector<std::unique_ptr<Static>> fixed;
  std::vector<std::unique_ptr<float4[]>> arrays;

  SharedMemory(int blocks, size_t bytes) {
    shared.clear();
    for (int b = 0; b < blocks; ++b) {
      fixed.push_back(std::make_unique_for_overwrite<Static>());
      arrays.push_back(std::make_unique_for_overwrite<float4[]>((bytes + 15) / 16));
      std::memset(fixed[b].get(), 0xcd, sizeof(Static));
      std::memset(memory(b), 0xcd, bytes);
      shared.push_back(
          {{reinterpret_cast<char*>(fixed[b].get()), sizeof(Static)}, {memory(b), bytes}});
    }
  }
  char* memory(int b) { return reinterpret_cast<char*>(arrays[b].get()); }
};

}  // namespace emulated
