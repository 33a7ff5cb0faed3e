// SPDX-License-Identifier: MIT
// The part of Interrupt that knows Python: only what every version since 3.10 has, by functions and
// not by the layout of its objects, and only where there is a Python at all.
#include <Python.h>

#include <initializer_list>

#include "interrupt.h"

#ifndef Py_LIMITED_API
#error "the library of the ops serves every version of Python"
#endif

// Null in a program without Python.
#pragma weak Py_IsInitialized
#pragma weak PyGILState_GetThisThreadState
#pragma weak PyGILState_Ensure
#pragma weak PyGILState_Release
#pragma weak PyErr_CheckSignals
#pragma weak PyErr_Fetch
#pragma weak PyErr_Restore
#pragma weak PyErr_SetInterrupt
#pragma weak Py_AddPendingCall
#pragma weak Py_DecRef

namespace pointloss {
namespace {

constexpr std::chrono::milliseconds kLookEvery{250};

struct Exception {
  PyObject *type, *value, *traceback;
};

int restore(void* error) {
  auto* exception = static_cast<Exception*>(error);
  PyErr_Restore(exception->type, exception->value, exception->traceback);
  delete exception;
  return -1;
}

bool called_from_python() {
  return &Py_IsInitialized != nullptr && Py_IsInitialized() != 0 &&
         PyGILState_GetThisThreadState() != nullptr;
}

}  // namespace

Interrupt::Interrupt(int64_t work)
    : from_python_(called_from_python()),
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
    auto* exception = new Exception();
    PyErr_Fetch(&exception->type, &exception->value, &exception->traceback);
    error_ = exception;
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

// Not thrown through torch, which would make another exception of it.
void Interrupt::raise() {
  if (error_ == nullptr) return;
  const PyGILState_STATE held = PyGILState_Ensure();
  // Where Python has no room for another call, the handler is asked once more.
  if (Py_AddPendingCall(restore, error_) != 0) {
    auto* exception = static_cast<Exception*>(error_);
    for (PyObject* part : {exception->type, exception->value, exception->traceback})
      Py_DecRef(part);
    delete exception;
    PyErr_SetInterrupt();
  }
  PyGILState_Release(held);
}

}  // namespace pointloss
