# `cmake --install`: headers, libraries, the command, and a CMake package for find_package(trireme).
