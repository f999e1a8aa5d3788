#include "core/backend.h"

#include <cxxabi.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/profiler.h"

namespace trireme {

double Event::seconds_since(const Event&) const { throw InternalError("this event keeps no time: make_timed_event()"); }

std::unique_ptr<DeviceProfiler> Backend::make_profiler() { return nullptr; }

void Stream::finish() noexcept {
  try {
    synchronize();
  } catch (const Error&) {
  }
}

std::shared_ptr<void> Backend::allocate_host(size_t bytes) {
  return {::operator new(bytes), [](void* data) { ::operator delete(data); }};
}

void Backend::add_note(std::string text) {
  const std::lock_guard lock(notes_mutex_);
  if (std::ranges::find(notes_, text) == notes_.end()) notes_.push_back(std::move(text));
}

std::vector<std::string> Backend::take_notes() {
  const std::lock_guard lock(notes_mutex_);
  std::vector<std::string> fresh(notes_.begin() + static_cast<std::ptrdiff_t>(notes_taken_), notes_.end());
  notes_taken_ = notes_.size();
  return fresh;
}

void (*Backend::find_kernel(std::type_index kernel) const)() {
  const auto it = kernels_.find(kernel);
  if (it == kernels_.end()) {
    int status = 0;
    std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(kernel.name(), nullptr, nullptr, &status), std::free);
    throw InternalError(fmt::format("the backend of {} has no kernel {}: add it with Backend::add_kernel",
                                    to_string(device()), status == 0 ? name.get() : kernel.name()));
  }
  return it->second;
}

}  // namespace trireme
