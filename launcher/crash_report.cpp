#include "launcher/crash_report.h"

#include <glog/logging.h>

#include <csignal>

namespace trireme {

void report_crashes(const char* program) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(program);
  const auto terminate = std::signal(SIGTERM, SIG_DFL);
  google::InstallFailureSignalHandler();
  std::signal(SIGTERM, terminate);
}

}  // namespace trireme
