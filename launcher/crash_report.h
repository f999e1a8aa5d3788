// What a crash leaves behind: the stack of the thread that crashed, on standard error.
#pragma once

namespace trireme {

/// From here on SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT print a stack trace before they end the process,
/// as glog writes it. SIGTERM keeps its meaning.
void report_crashes(const char* program);

}  // namespace trireme
