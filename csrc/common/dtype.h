// Element types of the data and the type they are accumulated in.
#pragma once

#include <cstdint>

namespace gradmix {

enum class DType : int32_t { f32, f64, f16, bf16 };

// Storage only: arithmetic happens in the accumulation type.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <class T>
using acc_t = typename AccOf<T>::type;

}  // namespace gradmix
