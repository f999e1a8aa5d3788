# trireme_choose(list HAS name): leaves out the files of folders no_<name>/ where HAS is true, else those of <name>/.
function(trireme_choose list has name)
  set(left_out ${name})
  if(${has})
    set(left_out no_${name})
  endif()
  list(FILTER ${list} EXCLUDE REGEX "/${left_out}/")
  set(${list} ${${list}} PARENT_SCOPE)
endfunction()

# trireme_library(name DEPENDS ... PRIVATE ...): the library target trireme_<name> of one top-level folder.
#   DEPENDS  public link dependencies, PRIVATE private ones, EXCLUDE regular expressions of files to leave out. Of folders such as cuda/ and no_cuda/ one takes part.
function(trireme_library name)
  cmake_parse_arguments(A "" "" "DEPENDS;PRIVATE;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
  foreach(pattern IN LISTS A_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  trireme_choose(sources TRIREME_HAS_CUDA cuda)
  trireme_choose(sources TRIREME_HAS_NCCL nccl)
  add_library(trireme_${name} STATIC ${sources})
  add_library(trireme::${name} ALIAS trireme_${name})
  set_target_properties(trireme_${name} PROPERTIES EXPORT_NAME ${name})
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.h)
  # The set's base is the include path, both here and where it is installed.
  target_sources(trireme_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${headers})
  target_link_libraries(trireme_${name} PUBLIC ${A_DEPENDS} PRIVATE $<BUILD_INTERFACE:trireme_options> ${A_PRIVATE})
endfunction()

# trireme_tests(name DEPENDS ...): one GoogleTest program of all *_test.cpp of the current folder; of a folder nccl/ only with NCCL.
function(trireme_tests name)
  cmake_parse_arguments(A "SERIAL" "" "DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cpp)
  trireme_choose(sources TRIREME_HAS_NCCL nccl)
  add_executable(${name}_tests ${sources})
  target_include_directories(${name}_tests PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name}_tests PRIVATE ${A_DEPENDS} trireme_options GTest::gmock GTest::gtest_main)
  gtest_discover_tests(${name}_tests TEST_PREFIX ${name}. NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60
                       PROPERTIES TIMEOUT 120 RUN_SERIAL "${A_SERIAL}" ENVIRONMENT OMP_NUM_THREADS=1)  # a list would lose its end
endfunction()
