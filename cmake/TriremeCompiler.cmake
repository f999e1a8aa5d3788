# Compiler flags, ccache and sanitizers, the same for every target.
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # base_dir: a second checkout elsewhere shares the cache.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
endif()

add_library(trireme_options INTERFACE)
target_compile_options(trireme_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra $<$<BOOL:${TRIREME_WERROR}>:-Werror>>
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr --extended-lambda -lineinfo -Xcompiler=-Wall
                             $<$<BOOL:${TRIREME_WERROR}>:-Werror=all-warnings>>)
if(TRIREME_MARCH)
  target_compile_options(trireme_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=${TRIREME_MARCH}>)
endif()
# Vector width: GCC's default of 256 bits leaves half of an AVX-512 unit idle.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64")
  target_compile_options(trireme_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-mprefer-vector-width=512>)
endif()
if(TRIREME_SANITIZE)
  target_compile_options(trireme_options INTERFACE -fsanitize=${TRIREME_SANITIZE} -fno-omit-frame-pointer
                                                   -fno-sanitize-recover=all)
  target_link_options(trireme_options INTERFACE -fsanitize=${TRIREME_SANITIZE})
  # GCC 12 sees uninitialised std::functions in <regex> once it has instrumented them.
  target_compile_options(trireme_options INTERFACE -Wno-maybe-uninitialized)
endif()
if(TRIREME_FUZZ)
  target_compile_options(trireme_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined)
  target_link_options(trireme_options INTERFACE -fsanitize=address,undefined)
endif()
