// What gather_augment_mixup reads and writes, from its arguments, for the bindings of every device.
#pragma once

#include <torch/headeronly/core/MemoryFormat.h>

#include <string>

#include "binding.h"

namespace gradmix {

using torch::headeronly::MemoryFormat;

struct ImageBatch {
  ImageBatch(const Tensor& t, const Tensor& index, const std::string& layout, ScalarType type, MemoryFormat format, int64_t padding_,
             const char* op)
      : dtype(data_type(type, op, "dtype")), channels_last(format == MemoryFormat::ChannelsLast), padding(padding_) {
    check(t.scalar_type() == ScalarType::Byte, op, ": images must be uint8");
    check_dim(t, 4, op, "images");
    check_dim(index, 1, op, "index");
    check(layout == "chw" || layout == "hwc", op, ": layout must be chw or hwc, got ", layout);
    check(format == MemoryFormat::Contiguous || channels_last, op, ": memory_format must be contiguous_format or channels_last");
    check(padding >= 0, op, ": padding must not be negative, got ", padding);
    const int c = layout == "chw" ? 1 : 3, y = layout == "chw" ? 2 : 1;
    images = t.size(0), channels = t.size(c), height = t.size(y), width = t.size(y + 1);
    image_stride = t.stride(0), channel_stride = t.stride(c), row_stride = t.stride(y), column_stride = t.stride(y + 1);
    samples = index.size(0);
  }

  int64_t sample_size() const { return channels * height * width; }
  std::vector<int64_t> sizes() const { return {samples, channels, height, width}; }
  std::vector<int64_t> strides() const {
    const std::vector<int64_t> shape = sizes();
    if (!channels_last) return contiguous_strides(Shape(shape.data(), shape.size()));
    return {height * width * channels, 1, width * channels, channels};
  }

  // The noise as floats [N, roles, 3] side by side.
  Tensor readable_noise(const Tensor& noise, int64_t roles, const char* op) const {
    check_dim(noise, 3, op, "noise");
    check(noise.scalar_type() == ScalarType::Float, op, ": noise must be float32");
    check(noise.size(0) == samples && noise.size(1) == roles && noise.size(2) == 3, op, ": noise must have shape [", samples, ", ",
          roles, ", 3], got [", noise.size(0), ", ", noise.size(1), ", ", noise.size(2), "]");
    return make_contiguous(noise);
  }

  // Mean or std: one for each channel.
  void check_channels(const Tensor& t, const char* op, const char* name) const {
    check_dim(t, 1, op, name);
    check(t.size(0) == channels, op, ": ", name, " must have ", channels, " elements, got ", t.size(0));
  }

  DType dtype;
  bool channels_last;
  int64_t padding;
  int64_t images, channels, height, width;
  int64_t image_stride, channel_stride, row_stride, column_stride;  // bytes
  int64_t samples;
};

}  // namespace gradmix
