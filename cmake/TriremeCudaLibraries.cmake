# The libraries of a build with CUDA, for the build and for who links what was installed: the CUDA Toolkit's targets, and
# trireme_cudnn and trireme_nccl where they are found (beside the toolkit, or where *_INCLUDE_DIR and *_LIBRARY say).
set(trireme_cmake_minimum ${CMAKE_MINIMUM_REQUIRED_VERSION})
set(CMAKE_MINIMUM_REQUIRED_VERSION 3.24)  # with 3.25, CMake 3.25's module wants CUDA::nvToolsExt, which CUDA 13 is without
find_package(CUDAToolkit)
set(CMAKE_MINIMUM_REQUIRED_VERSION ${trireme_cmake_minimum})
set(cuda_hints ${CUDAToolkit_BIN_DIR}/.. ${CUDAToolkit_LIBRARY_ROOT})
function(trireme_cuda_library name header library)
  string(TOUPPER ${name} upper)
  find_path(${upper}_INCLUDE_DIR ${header} HINTS ${cuda_hints} PATH_SUFFIXES include)
  find_library(${upper}_LIBRARY ${library} HINTS ${cuda_hints} PATH_SUFFIXES lib lib64)
  if(${upper}_INCLUDE_DIR AND ${upper}_LIBRARY AND NOT TARGET trireme_${name})
    add_library(trireme_${name} UNKNOWN IMPORTED GLOBAL)
    set_target_properties(trireme_${name} PROPERTIES IMPORTED_LOCATION ${${upper}_LIBRARY}
                                                     INTERFACE_INCLUDE_DIRECTORIES ${${upper}_INCLUDE_DIR})
  endif()
endfunction()
trireme_cuda_library(cudnn cudnn.h cudnn)
trireme_cuda_library(nccl nccl.h nccl)
