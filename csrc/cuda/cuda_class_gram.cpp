// class_gram on CUDA tensors: by classes or by pairs of samples, whichever costs less.
#include "common/binding.h"

#include <algorithm>

#include "cuda/cuda_last_layer.h"
#include "cuda/gram_cost.h"
#include "cuda/limits.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "class_gram";

void by_pairs(const GroupedParams& in, Tensor& gram, const DeviceScope& scope) {
  const int64_t width = panel_tiles + in.groups, tiles = tiles_of(in.samples);
  Tensor partial = empty(gram, {width * width}, acc_scalar_type(in.dtype));
  PairwiseParams params{in, 0, 0, panel_tiles, partial.mutable_data_ptr(), gram.mutable_data_ptr(), false};
  for (int64_t row = 0; row < tiles; row += panel_tiles)
    for (int64_t column = row; column < tiles; column += panel_tiles) {
      params.first_row_tile = row;
      params.first_column_tile = column;
      check_launch(launch_gram_pairs(params, scope.stream()), op);
      check_launch(launch_sum_pairs(params, scope.stream()), op);
      params.add = true;
    }
}

void by_classes(const GroupedParams& in, Tensor& gram, const DeviceScope& scope) {
  const ScalarType acc = acc_scalar_type(in.dtype);
  const int64_t size = is_wide(in.dtype) ? 8 : 4, row = (in.depth + 4) / 4 * 4;  // features, bias, zeros up to whole packets
  const int64_t fitting = gradient_bytes / std::max<int64_t>(in.groups * row * size, 1);
  const int64_t at_once = std::min(std::max<int64_t>(fitting, 1), in.classes);
  const int64_t pairs = tiles_of(in.groups) * (tiles_of(in.groups) + 1) / 2;
  const int64_t slices = std::max<int64_t>(
      1, std::min((product_blocks + pairs - 1) / pairs, at_once * row / least_depth));
  Tensor gradients = empty(gram, {in.groups * at_once * row}, acc);
  Tensor partial = empty(gram, {slices * pairs * tile_side * tile_side}, acc);
  const int64_t bias_offset = in.depth * size;
  for (int64_t first = 0; first < in.classes; first += at_once) {
    const int64_t count = std::min(at_once, in.classes - first);
    char* rows = static_cast<char*>(gradients.mutable_data_ptr());
    const int64_t padding = row - in.depth - 1;
    check_launch(launch_class_gradients({in, first, count, rows, row, rows + bias_offset, row, padding}, scope.stream()), op);
    const ProductParams product{rows, in.groups, count * row, slices, partial.mutable_data_ptr(), gram.mutable_data_ptr(),
                                first > 0, is_wide(in.dtype)};
    check_launch(launch_row_products(product, scope.stream()), op);
    check_launch(launch_sum_slices(product, scope.stream()), op);
  }
}

Tensor class_gram(const Tensor& features, const Tensor& logits, const Tensor& target,
                  const std::optional<Tensor>& partner_target, const std::optional<Tensor>& lam,
                  const std::optional<Tensor>& groups, std::optional<int64_t> num_groups,
                  const std::optional<Tensor>& class_mask, std::string reduction, std::string algorithm) {
  check_device(logits, op, "logits");
  const DeviceScope scope(logits);
  check(algorithm == "auto" || algorithm == "pairwise" || algorithm == "classwise", op,
        ": algorithm must be auto, pairwise or classwise, got ", algorithm);
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask);
  const GroupedSamples grouped(op, in, groups, num_groups, reduction, scope);
  const int64_t total = grouped.params.groups;
  if (in.samples == 0 || in.classes == 0 || total == 0) return zeros(logits, {total, total}, acc_scalar_type(in.dtype));
  Tensor gram = empty(logits, {total, total}, acc_scalar_type(in.dtype));
  const bool classwise = algorithm == "auto"
                             ? classwise_cost(in.samples, in.classes, in.depth, total, in.dtype) <=
                                   pairwise_cost(in.samples, in.classes, in.depth, in.dtype)
                             : algorithm == "classwise";
  classwise ? by_classes(grouped.params, gram, scope) : by_pairs(grouped.params, gram, scope);
  return gram;
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("class_gram", TORCH_BOX(&gradmix::cuda::class_gram)); }
