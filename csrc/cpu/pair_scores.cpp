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

// A direction of the dtype of the features is read as it is, any other is converted first.
Tensor direction_rows(const Tensor& t, DType dtype, const char* name) {
  check_cpu(t, op, name);
  return make_contiguous(data_type(t, op, name) == dtype ? t : to_dtype(t, acc_scalar_type(dtype)));
}

// The allowed rows [depth] of a direction in panels.
template <class A>
Scratch<A> direction_panels(const Tensor& t, int64_t depth, const LastLayer& in, int64_t padded, const char* name) {
  Scratch<A> out(padded * depth);
  kernels::pack_panels({t.const_data_ptr(), depth, in.allowed_columns(), in.mask.allowed, padded, depth, out.data(),
                        data_type(t, op, name)});
  return out;
}

// value_i [N] for every sample.
template <class A>
std::vector<A> sample_values(const LastLayer& in, const Tensor& weight, const Tensor& bias) {
  const int64_t lanes = kernels::vector_lanes(sizeof(A) == 8);
  const int64_t allowed = in.mask.allowed, depth = in.feature_count;
  const int64_t padded = (allowed + lanes - 1) / lanes * lanes;
  const Scratch<A> panels = direction_panels<A>(weight, depth, in, padded, "direction_weight");
  const Scratch<A> shift = direction_panels<A>(bias, 1, in, padded, "direction_bias");

  std::vector<A> value(in.samples);
  const PairScoreParams params{in.features.const_data_ptr(), in.features.stride(0), in.logits.const_data_ptr(),
                               in.logits.stride(0), in.allowed_columns(), in.target_position(), in.partner_position(),
                               in.lam.data(), in.lam.stride(), panels.data(), shift.data(), allowed, padded, depth,
                               block_rows, value.data(), in.dtype};
  const int64_t grain = std::max<int64_t>(1, grain_multiply_adds / std::max<int64_t>(padded * (depth + 16), 1));
  parallel(in.samples, grain, [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(kernels::pair_scores_scratch(params));
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
