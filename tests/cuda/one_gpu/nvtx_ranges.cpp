// What NVTX loads where NVTX_INJECTION64_PATH names this library, in place of a profiler: writes the name of each range that
// the process opens to the file NVTX_RANGES, a line each.
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>

namespace {

std::FILE* ranges() {
  static std::FILE* const file = std::fopen(std::getenv("NVTX_RANGES"), "w");
  return file;
}

int write_range(const char* name) {
  std::fprintf(ranges(), "%s\n", name);
  return 0;
}

}  // namespace

/// 0: no ranges are wanted.
extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_export_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  if (!ranges() || !callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, nullptr)) return 0;
  *table[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(&write_range);
  return 1;
}
