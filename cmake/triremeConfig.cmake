# find_package(trireme): the targets trireme::core, ::comm, ::optim, ::parallel, ::models and ::launcher, each with
# what it needs. Include as in Trireme itself: #include "core/tensor.h".
include(${CMAKE_CURRENT_LIST_DIR}/TriremeDependencies.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/triremeTargets.cmake)
