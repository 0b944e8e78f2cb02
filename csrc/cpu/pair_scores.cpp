// pair_scores: one product [N, d] x [d, C] in blocks that stay in the cache, softmax and dot product fused behind it.
#include <algorithm>
#include <tuple>

#include "binding.h"
#include "kernels/kernels.h"
#include "last_layer.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "pair_scores";
constexpr int64_t block_rows = 64;
constexpr int64_t grain_multiply_adds = 1 << 20;

Tensor direction_rows(const Tensor& t, DType dtype, const char* name) {
  check_cpu(t, op, name);
  data_type(t, op, name);
  return make_contiguous(to_dtype(t, acc_scalar_type(dtype)));
}

// value_i [N] for every sample.
template <class A>
std::vector<A> sample_values(const LastLayer& in, const Tensor& weight, const Tensor& bias) {
  const int64_t lanes = kernels::vector_lanes(sizeof(A) == 8);
  const int64_t allowed = in.mask.allowed, depth = in.feature_count;
  const int64_t padded = (allowed + lanes - 1) / lanes * lanes;
  const AccMatrix features(in.features, in.dtype, nullptr, nullptr, 1);
  const AccMatrix logits(in.logits, in.dtype, nullptr, in.allowed_columns(), 1);

  Scratch<A> panels(padded * depth);
  const PanelParams pack{weight.const_data_ptr(), depth, in.mask.given ? in.mask.columns.data() : nullptr, allowed, padded,
                         depth, panels.data(), sizeof(A) == 8};
  kernels::pack_panels(pack);
  std::vector<A> shifted(padded, A(0));
  const A* bias_values = static_cast<const A*>(bias.const_data_ptr());
  for (int64_t c = 0; c < allowed; ++c) shifted[c] = bias_values[in.mask.given ? in.mask.columns[c] : c];

  std::vector<A> value(in.samples);
  const PairScoreParams params{features.data(), features.stride(), logits.data(), logits.stride(), in.target_position(),
                               in.partner_position(), in.lam.data(), in.lam.stride(), panels.data(), shifted.data(), allowed,
                               padded, depth, block_rows, value.data(), sizeof(A) == 8};
  const int64_t grain = std::max<int64_t>(1, grain_multiply_adds / std::max<int64_t>(padded * (depth + 16), 1));
  parallel(in.samples, grain, [&](int64_t begin, int64_t end) {
    Scratch<A> scratch((block_rows + 1) * padded);
    kernels::pair_scores(params, begin, end, scratch.data());
  });
  return value;
}

std::tuple<Tensor, Tensor> pair_scores(const Tensor& features, const Tensor& logits, const Tensor& target,
                                       const Tensor& partner_target, const Tensor& lam, const Tensor& direction_weight,
                                       const Tensor& direction_bias, int64_t num_classes,
                                       const std::optional<Tensor>& class_mask) {
  check(num_classes >= 0, op, ": num_classes must not be negative, got ", num_classes);
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask, num_classes);
  check_dim(direction_weight, 2, op, "direction_weight");
  check_dim(direction_bias, 1, op, "direction_bias");
  check(direction_weight.size(0) == in.classes && direction_weight.size(1) == in.feature_count &&
            direction_bias.size(0) == in.classes,
        op, ": direction_weight and direction_bias must have the shape of the head");
  const Tensor weight = direction_rows(direction_weight, in.dtype, "direction_weight");
  const Tensor bias = direction_rows(direction_bias, in.dtype, "direction_bias");

  const Tensor score_sum = zeros({num_classes, num_classes}, acc_scalar_type(in.dtype));
  const Tensor count = zeros({num_classes, num_classes}, ScalarType::Long);
  if (in.samples == 0) return {score_sum, count};
  with_acc(in.dtype, [&](auto zero) {
    using A = decltype(zero);
    const std::vector<A> value = sample_values<A>(in, weight, bias);
    A* sums = static_cast<A*>(score_sum.mutable_data_ptr());
    int64_t* counts = static_cast<int64_t*>(count.mutable_data_ptr());
    // In the order of the samples and into the upper triangle, then mirrored: deterministic and exactly symmetric.
    for (int64_t i = 0; i < in.samples; ++i) {
      const int64_t a = std::min(in.target[i], in.partner_target[i]), b = std::max(in.target[i], in.partner_target[i]);
      sums[a * num_classes + b] += value[i];
      counts[a * num_classes + b] += 1;
    }
    for (int64_t a = 0; a < num_classes; ++a)
      for (int64_t b = a + 1; b < num_classes; ++b) {
        sums[b * num_classes + a] = sums[a * num_classes + b];
        counts[b * num_classes + a] = counts[a * num_classes + b];
      }
  });
  return {score_sum, count};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("pair_scores", TORCH_BOX(&gradmix::cpu::pair_scores)); }
