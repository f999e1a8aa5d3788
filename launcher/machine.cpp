#include "launcher/machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "core/error.h"

namespace trireme {
namespace {

/// The first number of a file of the kernel's; nothing where there is none ("max", no such file).
std::optional<double> read_number(const std::string& file) {
  std::ifstream in(file);
  double value = 0;
  return in >> value ? std::optional(value) : std::nullopt;
}

/// CPUs' worth of time that the control group grants, if it sets a limit (version 2, then 1).
std::optional<double> cpu_quota() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");  // "200000 100000", or "max 100000"
  double quota_us = 0, period_us = 0;
  if (v2 >> quota_us >> period_us) return quota_us / period_us;
  const auto quota = read_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  const auto period = read_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  return quota && period && *quota > 0 ? std::optional(*quota / *period) : std::nullopt;
}

/// Cores, not hardware threads, of the CPUs in `set`.
int count_cores(const cpu_set_t& set) {
  std::set<std::pair<double, double>> cores;  // (package, core)
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string folder = fmt::format("/sys/devices/system/cpu/cpu{}/topology/", cpu);
    const auto package = read_number(folder + "physical_package_id"), core = read_number(folder + "core_id");
    cores.emplace(package.value_or(-1), core.value_or(cpu));
  }
  return static_cast<int>(cores.size());
}

}  // namespace

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (const size_t colon = line.find(": "); line.starts_with("model name") && colon != std::string::npos)
      return line.substr(colon + 2);
  return "unknown";
}

std::optional<std::filesystem::path> find_program(std::string_view name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::filesystem::path file = std::filesystem::path(folder.empty() ? "." : folder) / name;
    std::error_code error;
    if (std::filesystem::is_regular_file(file, error) && access(file.c_str(), X_OK) == 0) return file;
  }
  return std::nullopt;
}

Machine detect_machine() {
  Machine machine;
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  machine.cores = cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    machine.may_bind = CPU_COUNT(&set) == cpus;
    machine.cores = count_cores(set);
  }
  if (const auto quota = cpu_quota(); quota && *quota < machine.cores) {
    machine.may_bind = false;
    machine.cores = std::max(1, static_cast<int>(std::floor(*quota)));
  }
  machine.is_root = geteuid() == 0;
  machine.has_terminal = isatty(STDOUT_FILENO) != 0;
  if (winsize size{}; ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) machine.terminal_columns = size.ws_col;
  std::error_code error;
  machine.executable = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) throw IoError("/proc/self/exe: " + error.message());
  machine.mpirun = find_program("mpirun");
  return machine;
}

}  // namespace trireme
