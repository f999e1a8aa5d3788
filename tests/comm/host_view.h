// HostView: a group of device memory under the interface of tests that look at host memory. Each operation copies its
// tensors to the device, runs there, and copies the results back when it is waited for; so the conformance table
// (conformance.h) runs on groups of devices.
#pragma once

#include "comm/group.h"

namespace trireme {

/// `backend` outlives the view. Every other wait is Work::wait(stream).
std::unique_ptr<Group> view_from_host(std::unique_ptr<Group> device_group, Backend& backend);

}  // namespace trireme
