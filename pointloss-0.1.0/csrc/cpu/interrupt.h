// SPDX-License-Identifier: MIT
// Lets Ctrl-C end an op that may take long, on all of its threads.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace pointloss {

// Thrown in the threads of an op whose caller was interrupted.
struct Interrupted {};

// Of one call of an op. The calling thread runs Python's signal handlers four times a second; if
// one raises, check() throws in every thread, and raise() hands the exception over. A handler that
// only takes a note ends nothing. Python runs handlers in its main thread only, so nothing ends an
// op that another thread has called.
class Interrupt {
 public:
  explicit Interrupt(int64_t work);

  // Throws Interrupted if the op is to end. To be called often, by every thread.
  void check();

  // A thread's part of the work, done where it ends. The calling thread then looks for signals
  // until all of the work is done.
  struct Share {
    Interrupt& interrupt;
    const int64_t work;
    ~Share() { interrupt.done(work); }
  };

  // After the parallel part: the exception, if any, is raised as soon as Python goes on.
  void raise();

 private:
  bool watches() const;
  void look();
  void done(int64_t work);

  const bool from_python_;
  const std::thread::id caller_;
  std::atomic<bool> stopped_{false};
  std::chrono::steady_clock::time_point next_look_;
  std::mutex mutex_;
  std::condition_variable all_done_;
  int64_t open_;           // work that is not done
  void* error_ = nullptr;  // Python's exception
};

}  // namespace pointloss
