# SPDX-License-Identifier: Apache-2.0
# Compiler settings, the libraries we build on, and the three kinds of target: kt_library, kt_program, kt_test.

option(KT_TESTS "Build the unit tests" ON)
option(KT_SIM "Build the simulator and its mutants, also without the tests" OFF)
option(KT_BENCH "Build the benchmarks" OFF)
option(KT_FUZZ "Build the fuzz targets (clang, libFuzzer)" OFF)
option(KT_WERROR "Treat warnings as errors" ON)
set(KT_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize= (empty: none)")

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

add_library(kt_flags INTERFACE)
target_include_directories(kt_flags INTERFACE "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}/generated")
target_compile_definitions(kt_flags INTERFACE _GNU_SOURCE KT_VERSION="${PROJECT_VERSION}")
target_compile_options(kt_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes
  -Wmissing-prototypes -Wformat=2 -Wundef -Wvla -fno-common -fstack-protector-strong)
if(KT_WERROR)
  target_compile_options(kt_flags INTERFACE -Werror)
endif()
if(CMAKE_BUILD_TYPE MATCHES "Rel" AND NOT KT_SANITIZE)
  target_compile_definitions(kt_flags INTERFACE _FORTIFY_SOURCE=2)
endif()
target_link_options(kt_flags INTERFACE -Wl,-z,relro,-z,now -Wl,-z,noexecstack)
if(KT_SANITIZE)
  target_compile_options(kt_flags INTERFACE -fsanitize=${KT_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(kt_flags INTERFACE -fsanitize=${KT_SANITIZE})
endif()

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto>=3.0)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(P11KIT REQUIRED IMPORTED_TARGET p11-kit-1)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(SSH2 REQUIRED IMPORTED_TARGET libssh2)
pkg_check_modules(UV REQUIRED IMPORTED_TARGET libuv)
pkg_check_modules(ARCHIVE REQUIRED IMPORTED_TARGET libarchive)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl>=7.86)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
if(KT_TESTS)
  pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
endif()

# kt_library(NAME SOURCES a.c ... USES kt_base PkgConfig::SQLITE ...)
function(kt_library name)
  cmake_parse_arguments(A "" "" "SOURCES;USES" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC kt_flags ${A_USES})
endfunction()

# kt_program(NAME SOURCES main.c USES ...): an executable in build/<preset>/bin.
function(kt_program name)
  cmake_parse_arguments(A "" "" "SOURCES;USES" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE kt_flags ${A_USES})
endfunction()

# kt_test(NAME SOURCES test_x.c USES kt_base ...): a cmocka program, run by ctest from its own scratch folder.
function(kt_test name)
  cmake_parse_arguments(A "" "" "SOURCES;USES;LABELS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE kt_flags ${A_USES} PkgConfig::CMOCKA)
  set(scratch "${CMAKE_BINARY_DIR}/scratch/${name}")
  file(MAKE_DIRECTORY "${scratch}")
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY "${scratch}")
  set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS "unit;${A_LABELS}"
    ENVIRONMENT "KT_SOURCE_DIR=${PROJECT_SOURCE_DIR};KT_BIN_DIR=${CMAKE_BINARY_DIR}/bin")
endfunction()

# kt_allocfail(TEST): the n-th allocation can be made to fail there (tests/unit/allocfail.h).
function(kt_allocfail name)
  target_sources(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests/unit/allocfail.c")
  target_link_libraries(${name} PRIVATE PkgConfig::CJSON)
  foreach(call IN ITEMS malloc calloc realloc strdup strndup)
    target_link_options(${name} PRIVATE "-Wl,--wrap=${call}")
  endforeach()
endfunction()

# kt_native_rsa(TEST): under valgrind its RSA keys, and SoftHSM's there, are made outside of it (tests/unit/native_rsa.c).
function(kt_native_rsa name)
  target_sources(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests/unit/native_rsa.c")
  target_link_libraries(${name} PRIVATE PkgConfig::CRYPTO ${CMAKE_DL_LIBS})
  target_link_options(${name} PRIVATE -Wl,--export-dynamic-symbol=RSA_generate_key_ex)
endfunction()
