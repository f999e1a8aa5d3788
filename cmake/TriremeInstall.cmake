# `cmake --install`: headers, libraries, the command, and a CMake package for find_package(trireme).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/trireme)

install(TARGETS trireme_core trireme_comm trireme_optim trireme_parallel trireme_models trireme_launcher
        EXPORT trireme
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/trireme)
install(TARGETS trireme RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY configs DESTINATION ${CMAKE_INSTALL_DATADIR}/trireme)

install(EXPORT trireme NAMESPACE trireme:: FILE triremeTargets.cmake DESTINATION ${package_dir})
write_basic_package_version_file(triremeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
# The libraries are static, so whoever links them needs what they link: TriremeDependencies.cmake finds it for both.
configure_file(cmake/triremeConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/triremeConfig.cmake @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/triremeConfig.cmake cmake/TriremeDependencies.cmake cmake/TriremeCudaLibraries.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/triremeConfigVersion.cmake
        DESTINATION ${package_dir})
