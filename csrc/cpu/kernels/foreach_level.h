// Compiles GRADMIX_KERNEL_BODY once for every instruction set, each in its own namespace, from one source file and with the same
// compiler flags: the target is chosen by a pragma around the code. level() picks one of them at run time (dispatch.h).
#pragma once

#ifndef GRADMIX_KERNEL_BODY
#error "define GRADMIX_KERNEL_BODY before including foreach_level.h"
#endif

#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../../common/dtype.h"
#include "dispatch.h"
#include "params.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // intrinsics of GCC 12 start from undefined registers
#endif

// function<T>(...) for the element type T that a dtype says.
#define GRADMIX_BY_DTYPE(dtype, function, ...)    \
  switch (dtype) {                                \
    case DType::f32:                              \
      return function<float>(__VA_ARGS__);        \
    case DType::f64:                              \
      return function<double>(__VA_ARGS__);       \
    case DType::f16:                              \
      return function<f16>(__VA_ARGS__);          \
    default:                                      \
      return function<bf16>(__VA_ARGS__);         \
  }

#define GRADMIX_VECTOR_BYTES 16
namespace gradmix::cpu::level_default {
#include "vec.h"
#include GRADMIX_KERNEL_BODY
}  // namespace gradmix::cpu::level_default
#undef GRADMIX_VECTOR_BYTES
#undef GRADMIX_INLINE
#undef GRADMIX_MEMBER

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define GRADMIX_VECTOR_BYTES 32
namespace gradmix::cpu::level_avx2 {
#include "vec.h"
#include GRADMIX_KERNEL_BODY
}  // namespace gradmix::cpu::level_avx2
#undef GRADMIX_VECTOR_BYTES
#undef GRADMIX_INLINE
#undef GRADMIX_MEMBER
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define GRADMIX_VECTOR_BYTES 64
namespace gradmix::cpu::level_avx512 {
#include "vec.h"
#include GRADMIX_KERNEL_BODY
}  // namespace gradmix::cpu::level_avx512
#undef GRADMIX_VECTOR_BYTES
#undef GRADMIX_INLINE
#undef GRADMIX_MEMBER
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define GRADMIX_DISPATCH(function, ...)                                   \
  switch (::gradmix::cpu::level()) {                                      \
    case ::gradmix::cpu::Level::avx512:                                   \
      return ::gradmix::cpu::level_avx512::function(__VA_ARGS__);         \
    case ::gradmix::cpu::Level::avx2:                                     \
      return ::gradmix::cpu::level_avx2::function(__VA_ARGS__);           \
    default:                                                              \
      return ::gradmix::cpu::level_default::function(__VA_ARGS__);        \
  }

#else

#define GRADMIX_DISPATCH(function, ...) return ::gradmix::cpu::level_default::function(__VA_ARGS__)

#endif
