#include "core/backend/cuda/profiler.h"

#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>

#include "core/error.h"

namespace trireme::cuda {
namespace {

/// CUPTI, loaded when a profile is asked for: runs without one do not need it installed.
class Cupti {
 public:
  Cupti() {
    for (const char* name : {"libcupti.so.13", "libcupti.so", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so",
                             "/usr/local/cuda/lib64/libcupti.so"})
      if ((library_ = dlopen(name, RTLD_NOW))) break;
    if (!library_)
      throw IoError("run.profile: libcupti was not found; it comes with the CUDA Toolkit: add its folder to LD_LIBRARY_PATH, "
                    "or leave run.profile out");
    load(enable, "cuptiActivityEnable");
    load(disable, "cuptiActivityDisable");
    load(register_callbacks, "cuptiActivityRegisterCallbacks");
    load(flush_all, "cuptiActivityFlushAll");
    load(next_record, "cuptiActivityGetNextRecord");
    load(push_id, "cuptiActivityPushExternalCorrelationId");
    load(pop_id, "cuptiActivityPopExternalCorrelationId");
    load(timestamp, "cuptiGetTimestamp");
    load(result_string, "cuptiGetResultString");
  }
  void check(CUptiResult status, const char* what) const {
    if (status == CUPTI_SUCCESS) return;
    const char* text = nullptr;
    result_string(status, &text);
    throw IoError(fmt::format("run.profile: {}: {}", what, text ? text : "unknown error of CUPTI"));
  }

  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityFlushAll) flush_all = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiActivityPushExternalCorrelationId) push_id = nullptr;
  decltype(&cuptiActivityPopExternalCorrelationId) pop_id = nullptr;
  decltype(&cuptiGetTimestamp) timestamp = nullptr;
  decltype(&cuptiGetResultString) result_string = nullptr;

 private:
  template <class F>
  void load(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library_, name));
    if (!function) throw IoError(fmt::format("run.profile: libcupti has no {}", name));
  }
  void* library_ = nullptr;
};

/// External correlations belong to calls of the runtime and the driver, so those are recorded too.
constexpr std::array kKinds{CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMCPY2,
                            CUPTI_ACTIVITY_KIND_MEMSET,            CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
                            CUPTI_ACTIVITY_KIND_RUNTIME,           CUPTI_ACTIVITY_KIND_DRIVER};
constexpr std::string_view kCopyToPeer = "copy between GPUs";

/// What CUPTI's thread has delivered. CUPTI knows functions without an argument for their owner, and one client a
/// process, so this is the one thing that ranks which are threads share.
struct Delivered {
  struct Work {
    std::string name;
    uint64_t begin_ns, end_ns;
    uint32_t correlation;
  };
  std::mutex mutex;
  const Cupti* cupti = nullptr;
  std::vector<Work> work;
  std::unordered_map<uint32_t, uint64_t> span_of;  // by correlation
};
Delivered& delivered() {
  static Delivered instance;
  return instance;
}

constexpr size_t kBufferBytes = size_t{4} << 20;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *bytes = kBufferBytes;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *max_records = 0;
}

void take_record(const CUpti_Activity& record, Delivered& to) {
  switch (record.kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto& kernel = reinterpret_cast<const CUpti_ActivityKernel10&>(record);
      to.work.push_back({kernel.name ? kernel.name : "kernel", kernel.start, kernel.end, kernel.correlationId});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const auto& copy = reinterpret_cast<const CUpti_ActivityMemcpy6&>(record);
      const bool to_peer = copy.copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_PTOP;
      to.work.push_back({to_peer ? std::string(kCopyToPeer) : "copy", copy.start, copy.end, copy.correlationId});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY2: {
      const auto& copy = reinterpret_cast<const CUpti_ActivityMemcpyPtoP4&>(record);
      to.work.push_back({std::string(kCopyToPeer), copy.start, copy.end, copy.correlationId});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
      const auto& fill = reinterpret_cast<const CUpti_ActivityMemset4&>(record);
      to.work.push_back({"fill", fill.start, fill.end, fill.correlationId});
      break;
    }
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: {
      const auto& link = reinterpret_cast<const CUpti_ActivityExternalCorrelation&>(record);
      to.span_of[link.correlationId] = link.externalId;
      break;
    }
    default:
      break;
  }
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_bytes) {
  Delivered& to = delivered();
  std::lock_guard lock(to.mutex);
  CUpti_Activity* record = nullptr;
  while (to.cupti && to.cupti->next_record(buffer, valid_bytes, &record) == CUPTI_SUCCESS) take_record(*record, to);
  std::free(buffer);
}

/// "void trireme::cuda::map_kernel<float, ...>(...)" -> "map_kernel<float, ...>".
std::string readable(const std::string& mangled) {
  int status = 0;
  std::unique_ptr<char, void (*)(void*)> full(abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), std::free);
  std::string name = status == 0 ? full.get() : mangled;
  if (name.starts_with("void ")) name.erase(0, 5);
  for (const std::string_view noise : {"(anonymous namespace)::", "trireme::cuda::"})
    for (size_t at; (at = name.find(noise)) != std::string::npos;) name.erase(at, noise.size());
  if (!name.ends_with(')')) return name;
  const size_t arguments = name.rfind(">(");
  name.erase(arguments == std::string::npos ? name.find('(') : arguments + 1);
  return name;
}

class CuptiProfiler : public DeviceProfiler {
 public:
  ~CuptiProfiler() override {
    if (started_) stop();
  }

  void begin_span(std::string_view name) override {
    nvtxRangePushA(std::string(name).c_str());
    if (!started_) return;
    spans_.push_back({std::string(name), open_.empty() ? 0 : open_.back()});
    open_.push_back(spans_.size());  // ids count from 1
    cupti_->push_id(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, open_.back());
  }
  void end_span() override {
    nvtxRangePop();
    if (!started_ || open_.empty()) return;
    open_.pop_back();
    uint64_t id = 0;
    cupti_->pop_id(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, &id);
  }

  void start() override {
    if (!cupti_) cupti_ = std::make_unique<Cupti>();
    spans_.clear();
    open_.clear();
    Delivered& to = delivered();
    {
      std::lock_guard lock(to.mutex);
      if (to.cupti) throw IoError("run.profile: another rank of this process is profiling; ranks as processes can");
      to.cupti = cupti_.get();
      to.work.clear();
      to.span_of.clear();
    }
    try {
      enable();
    } catch (...) {
      let_go();
      throw;
    }
    started_ = true;
  }

  std::vector<DeviceActivity> stop() override {
    started_ = false;
    cupti_->flush_all(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    let_go();
    Delivered& from = delivered();
    std::lock_guard lock(from.mutex);
    std::vector<DeviceActivity> all;
    for (const Delivered::Work& work : from.work) {
      DeviceActivity a;
      a.name = readable(work.name);
      a.begin_ns = static_cast<int64_t>(work.begin_ns) + clock_offset_ns_;
      a.end_ns = static_cast<int64_t>(work.end_ns) + clock_offset_ns_;
      a.is_communication = a.name == kCopyToPeer || a.name.starts_with("nccl") || a.name.starts_with("trireme::comm::");
      const auto span = from.span_of.find(work.correlation);
      for (uint64_t id = span == from.span_of.end() ? 0 : span->second; id != 0; id = spans_[id - 1].parent)
        a.spans.insert(a.spans.begin(), spans_[id - 1].name);
      all.push_back(std::move(a));
    }
    std::ranges::sort(all, {}, &DeviceActivity::begin_ns);
    return all;
  }

 private:
  void enable() {
    cupti_->check(cupti_->register_callbacks(&give_buffer, &take_buffer), "cuptiActivityRegisterCallbacks");
    for (const auto kind : kKinds) cupti_->check(cupti_->enable(kind), "cuptiActivityEnable");
    uint64_t now_ns = 0;
    cupti_->check(cupti_->timestamp(&now_ns), "cuptiGetTimestamp");
    clock_offset_ns_ = Tracer::now_us() * 1000 - static_cast<int64_t>(now_ns);
  }
  /// CUPTI delivers no more, and others may profile.
  void let_go() {
    for (const auto kind : kKinds) cupti_->disable(kind);
    Delivered& from = delivered();
    std::lock_guard lock(from.mutex);
    from.cupti = nullptr;
  }

  struct OpenSpan {
    std::string name;
    uint64_t parent;  // id; 0: none
  };
  std::unique_ptr<Cupti> cupti_;
  bool started_ = false;
  int64_t clock_offset_ns_ = 0;
  std::vector<OpenSpan> spans_;
  std::vector<uint64_t> open_;
};

}  // namespace

std::unique_ptr<DeviceProfiler> make_cupti_profiler() { return std::make_unique<CuptiProfiler>(); }

}  // namespace trireme::cuda
