// class_weights: the samples of a batch weighted by the sizes of their classes.
#include <algorithm>
#include <cmath>

#include "binding.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "class_weights";

Tensor class_weights(const Tensor& target, double balance) {
  check_cpu(target, op, "target");
  check_dim(target, 1, op, "target");
  check(balance >= 0 && balance <= 1, op, ": balance must be in [0, 1], got ", balance);
  const int64_t samples = target.size(0);
  const Column<int64_t> label(target, samples, op, "target");
  const Tensor weights = empty({samples}, ScalarType::Float);
  if (samples == 0) return weights;

  // Labels can be any integers, so that no table of classes has to be as long as the largest.
  std::vector<int64_t> sorted(label.data(), label.data() + samples);
  std::sort(sorted.begin(), sorted.end());
  float* weight = static_cast<float*>(weights.mutable_data_ptr());
  double sum = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), label[i]);
    weight[i] = static_cast<float>(std::pow(static_cast<double>(last - first), -balance));
    sum += static_cast<double>(weight[i]);
  }
  const float scale = static_cast<float>(static_cast<double>(samples) / sum);
  for (int64_t i = 0; i < samples; ++i) weight[i] *= scale;
  return weights;
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("class_weights", TORCH_BOX(&gradmix::cpu::class_weights)); }
