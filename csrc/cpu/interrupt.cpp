// SPDX-License-Identifier: MIT
// The part of Interrupt that knows Python.
#include "interrupt.h"

#include <pybind11/pybind11.h>

#include <memory>

namespace pointloss {
namespace {

constexpr std::chrono::milliseconds kLookEvery{250};

int restore(void* error) {
  std::unique_ptr<pybind11::error_already_set>(static_cast<pybind11::error_already_set*>(error))
      ->restore();
  return -1;
}

}  // namespace

Interrupt::Interrupt(int64_t work)
    : from_python_(Py_IsInitialized() != 0 && PyGILState_GetThisThreadState() != nullptr),
      caller_(std::this_thread::get_id()),
      next_look_(std::chrono::steady_clock::now() + kLookEvery),
      open_(work) {}

bool Interrupt::watches() const { return from_python_ && std::this_thread::get_id() == caller_; }

void Interrupt::check() {
  if (!stopped_ && watches() && std::chrono::steady_clock::now() >= next_look_) look();
  if (stopped_) throw Interrupted();
}

void Interrupt::look() {
  const PyGILState_STATE held = PyGILState_Ensure();  // torch has let go of it for the op
  if (PyErr_CheckSignals() != 0) {
    error_ = new pybind11::error_already_set();
    stopped_ = true;
  }
  PyGILState_Release(held);
  next_look_ = std::chrono::steady_clock::now() + kLookEvery;
}

void Interrupt::done(int64_t work) {
  std::unique_lock<std::mutex> lock(mutex_);
  open_ -= work;
  if (open_ == 0) all_done_.notify_all();
  if (!watches()) return;
  while (!all_done_.wait_for(lock, kLookEvery, [this] { return open_ == 0; })) {
    lock.unlock();
    if (!stopped_) look();
    lock.lock();
  }
}

// Not thrown through torch, whose pybind11 may be another than this one.
void Interrupt::raise() {
  if (error_ == nullptr) return;
  const PyGILState_STATE held = PyGILState_Ensure();
  // Where Python has no room for another call, the handler is asked once more.
  if (Py_AddPendingCall(restore, error_) != 0) {
    delete static_cast<pybind11::error_already_set*>(error_);
    PyErr_SetInterrupt();
  }
  PyGILState_Release(held);
}

}  // namespace pointloss
