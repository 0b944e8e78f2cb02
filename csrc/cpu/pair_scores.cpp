// sample_scores and pair_scores: one product [N, d] x [d, C] in blocks that stay in the cache, softmax and dot product fused behind it.
#include "common/binding.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "kernels/kernels.h"
#include "scoring.h"

namespace gradmix::cpu {
namespace {

constexpr int64_t block_rows = 64;
constexpr int64_t grain_multiply_adds = 1 << 20;

// A direction of the dtype of the features is read as it is, any other is converted first.
Tensor direction_rows(const char* op, const Tensor& t, DType dtype, const char* name) {
  check_cpu(t, op, name);
  return make_contiguous(data_type(t, op, name) == dtype ? t : to_dtype(t, acc_scalar_type(dtype)));
}

// The allowed rows [depth] of a direction in panels.
template <class A>
Scratch<A> direction_panels(const Tensor& t, int64_t depth, const LastLayer& in, int64_t padded) {
  Scratch<A> out(padded * depth);
  kernels::pack_panels({t.const_data_ptr(), depth, in.allowed_columns(), in.mask.allowed, padded, depth, out.data(),
                        data_type(t, "scores", "direction")});
  return out;
}

}  // namespace

Scoring::Scoring(const char* op, const Tensor& features, const Tensor& logits, const Tensor& target, const Tensor& partner_target,
                 const Tensor& lam, const Tensor& direction_weight, const Tensor& direction_bias,
                 const std::optional<Tensor>& class_mask, int64_t label_bound)
    : in(op, features, logits, target, partner_target, lam, class_mask, label_bound) {
  check_dim(direction_weight, 2, op, "direction_weight");
  check_dim(direction_bias, 1, op, "direction_bias");
  check(direction_weight.size(0) == in.classes && direction_weight.size(1) == in.feature_count &&
            direction_bias.size(0) == in.classes,
        op, ": direction_weight and direction_bias must have the shape of the head");
  weight = direction_rows(op, direction_weight, in.dtype, "direction_weight");
  bias = direction_rows(op, direction_bias, in.dtype, "direction_bias");
}

template <class A>
void score_samples(const LastLayer& in, const Tensor& weight, const Tensor& bias, A* value) {
  const int64_t lanes = kernels::vector_lanes(sizeof(A) == 8);
  const int64_t allowed = in.mask.allowed, depth = in.feature_count;
  const int64_t padded = (allowed + lanes - 1) / lanes * lanes;
  const Scratch<A> panels = direction_panels<A>(weight, depth, in, padded);
  const Scratch<A> shift = direction_panels<A>(bias, 1, in, padded);

  const A one = 1;
  const PairScoreParams params{in.features.const_data_ptr(), in.features.stride(0), in.logits.const_data_ptr(),
                               in.logits.stride(0), in.allowed_columns(), in.target_position(),
                               in.mixed ? in.partner_position() : in.target_position(),
                               in.mixed ? in.lam.data() : &one, in.mixed ? in.lam.stride() : 0, panels.data(), shift.data(),
                               allowed, padded, depth, block_rows, value, in.dtype};
  const int64_t grain = std::max<int64_t>(1, grain_multiply_adds / std::max<int64_t>(padded * (depth + 16), 1));
  parallel(in.samples, grain, [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(kernels::pair_scores_scratch(params));
    kernels::pair_scores(params, begin, end, scratch.data());
  });
}

template void score_samples(const LastLayer&, const Tensor&, const Tensor&, float*);
template void score_samples(const LastLayer&, const Tensor&, const Tensor&, double*);

namespace {

Tensor sample_scores(const Tensor& features, const Tensor& logits, const Tensor& target, const Tensor& partner_target,
                     const Tensor& lam, const Tensor& direction_weight, const Tensor& direction_bias,
                     const std::optional<Tensor>& class_mask) {
  const Scoring samples("sample_scores", features, logits, target, partner_target, lam, direction_weight, direction_bias, class_mask,
                        std::numeric_limits<int64_t>::max());
  const Tensor value = empty({samples.in.samples}, acc_scalar_type(samples.in.dtype));
  if (samples.in.samples > 0)
    with_acc(samples.in.dtype, [&](auto zero) {
      score_samples(samples.in, samples.weight, samples.bias, static_cast<decltype(zero)*>(value.mutable_data_ptr()));
    });
  return value;
}

std::tuple<Tensor, Tensor> pair_scores(const Tensor& features, const Tensor& logits, const Tensor& target,
                                       const Tensor& partner_target, const Tensor& lam, const Tensor& direction_weight,
                                       const Tensor& direction_bias, int64_t num_classes,
                                       const std::optional<Tensor>& class_mask) {
  check(num_classes >= 0, "pair_scores: num_classes must not be negative, got ", num_classes);
  const Scoring samples("pair_scores", features, logits, target, partner_target, lam, direction_weight, direction_bias, class_mask,
                        num_classes);
  const LastLayer& in = samples.in;
  const Tensor score_sum = zeros({num_classes, num_classes}, acc_scalar_type(in.dtype));
  const Tensor count = zeros({num_classes, num_classes}, ScalarType::Long);
  if (in.samples == 0) return {score_sum, count};
  with_acc(in.dtype, [&](auto zero) {
    using A = decltype(zero);
    std::vector<A> value(in.samples);
    score_samples(in, samples.weight, samples.bias, value.data());
    A* sums = static_cast<A*>(score_sum.mutable_data_ptr());
    int64_t* counts = static_cast<int64_t*>(count.mutable_data_ptr());
    // In the order of the samples and into the upper triangle, then mirrored where there is something: deterministic and exactly
    // symmetric.
    const auto each_pair = [&](const auto& f) {
      for (int64_t i = 0; i < in.samples; ++i)
        f(i, std::min(in.target[i], in.partner_target[i]), std::max(in.target[i], in.partner_target[i]));
    };
    each_pair([&](int64_t i, int64_t a, int64_t b) {
      sums[a * num_classes + b] += value[i];
      counts[a * num_classes + b] += 1;
    });
    each_pair([&](int64_t, int64_t a, int64_t b) {
      sums[b * num_classes + a] = sums[a * num_classes + b];
      counts[b * num_classes + a] = counts[a * num_classes + b];
    });
  });
  return {score_sum, count};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) {
  m.impl("sample_scores", TORCH_BOX(&gradmix::cpu::sample_scores));
  m.impl("pair_scores", TORCH_BOX(&gradmix::cpu::pair_scores));
}
