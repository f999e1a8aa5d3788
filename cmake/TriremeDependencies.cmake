# Everything comes from Debian 12's packages: `tests/run` and `launcher/quickstart` install them.
find_package(PkgConfig REQUIRED)
if(TRIREME_FUZZ)
  # Clang 14 refuses valid OpenMP regions in generic lambdas. The fuzzers look at readers, for which one thread will
  # do: the pragmas are ignored, only omp.h's functions are linked.
  add_library(OpenMP::OpenMP_CXX INTERFACE IMPORTED)
  target_compile_options(OpenMP::OpenMP_CXX INTERFACE -Wno-unknown-pragmas)
  target_link_options(OpenMP::OpenMP_CXX INTERFACE -fopenmp)
else()
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()
# oneDNN: Debian's own dnnl-config.cmake asks for OpenCL, which nothing here needs.
find_path(DNNL_INCLUDE_DIR dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
if(NOT TARGET dnnl::dnnl)
  add_library(dnnl::dnnl UNKNOWN IMPORTED)
  set_target_properties(dnnl::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY}
                                              INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
endif()
find_package(fmt REQUIRED)
find_package(glog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(MPI REQUIRED COMPONENTS CXX)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
