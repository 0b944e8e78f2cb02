// class_gram: the Gram matrix of the groups' gradients, by classes or by pairs of samples, whichever costs less.
#include <algorithm>
#include <string>

#include "binding.h"
#include "cost_model.h"
#include "grouping.h"
#include "kernels/kernels.h"
#include "last_layer.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "class_gram";
// Each thread adds to a Gram matrix of its own: fewer threads than allowed where these would take more memory than this.
constexpr int64_t partial_bytes = int64_t{256} << 20;
constexpr double serial_multiply_adds = 2 << 20;

bool by_classes(const std::string& algorithm, const LastLayer& in, const Groups& groups) {
  if (algorithm != "auto") return algorithm == "classwise";
  const int64_t present = static_cast<int64_t>(groups.present.size());
  return classwise_cost(in.samples, in.mask.allowed, in.feature_count, present) <=
         pairwise_cost(in.samples, in.mask.allowed, in.feature_count, present);
}

// The Gram matrix of the groups that have samples; entry (k, l) for k <= l.
template <class A>
Scratch<A> present_gram(const LastLayer& in, const Groups& groups, GroupReduction reduction, bool classwise) {
  const GroupedSamples<A> sorted(in, groups, reduction, classwise ? SampleLayout::panels : SampleLayout::rows, classwise);
  const GroupedParams& p = sorted.params();
  const int64_t panel = kernels::pairwise_panel(p.wide);
  const int64_t tasks = classwise ? kernels::classwise_tasks(p) : (p.samples + panel - 1) / panel;
  const int64_t cells = p.groups * p.groups;
  const double work = static_cast<double>(p.samples) * static_cast<double>(p.classes) * static_cast<double>(p.depth);
  const int64_t affordable = std::max<int64_t>(1, partial_bytes / (cells * static_cast<int64_t>(sizeof(A))));
  const int64_t threads = work < serial_multiply_adds ? 1 : static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t parts = std::max<int64_t>(1, std::min({tasks, affordable, threads}));

  // Tasks go to the parts in turn and the parts are added in order, so that the result depends on the number of threads only.
  Scratch<A> partial(parts * cells);
  std::fill_n(partial.data(), parts * cells, A(0));
  parallel(parts, 1, [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(classwise ? kernels::classwise_scratch(p) : kernels::pairwise_scratch(p));
    for (int64_t part = begin; part < end; ++part) {
      A* gram = partial.data() + part * cells;
      for (int64_t t = part; t < tasks; t += parts)
        classwise ? kernels::gram_classwise(p, t, t + 1, gram, scratch.data())
                  : kernels::gram_pairwise(p, t, t + 1, gram, scratch.data());
    }
  });
  A* total = partial.data();
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t k = 0; k < cells; ++k) total[k] += partial.data()[part * cells + k];
  if (!classwise)
    for (int64_t k = 0; k < p.groups; ++k)
      for (int64_t l = k; l < p.groups; ++l) total[k * p.groups + l] += total[l * p.groups + k];
  const A* scale = static_cast<const A*>(p.group_scale);
  for (int64_t k = 0; k < p.groups; ++k)
    for (int64_t l = k; l < p.groups; ++l) total[k * p.groups + l] *= scale[k] * scale[l];
  return partial;
}

Tensor class_gram(const Tensor& features, const Tensor& logits, const Tensor& target,
                  const std::optional<Tensor>& partner_target, const std::optional<Tensor>& lam,
                  const std::optional<Tensor>& groups, std::optional<int64_t> num_groups,
                  const std::optional<Tensor>& class_mask, std::string reduction, std::string algorithm) {
  const GroupReduction reduce = group_reduction(op, reduction);
  check(algorithm == "auto" || algorithm == "pairwise" || algorithm == "classwise", op,
        ": algorithm must be auto, pairwise or classwise, got ", algorithm);
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask, logits.dim() == 2 ? logits.size(1) : 0);
  const Groups grouped(op, in, groups, num_groups);
  const int64_t total = grouped.total, present = static_cast<int64_t>(grouped.present.size());
  Tensor gram = present == total ? empty({total, total}, acc_scalar_type(in.dtype))
                                 : zeros({total, total}, acc_scalar_type(in.dtype));
  if (in.samples == 0) return gram;
  with_acc(in.dtype, [&](auto zero) {
    using A = decltype(zero);
    const Scratch<A> upper = present_gram<A>(in, grouped, reduce, by_classes(algorithm, in, grouped));
    A* out = static_cast<A*>(gram.mutable_data_ptr());
    for (int64_t k = 0; k < present; ++k)
      for (int64_t l = k; l < present; ++l) {
        const int64_t row = grouped.present[k], column = grouped.present[l];
        out[row * total + column] = out[column * total + row] = upper.data()[k * present + l];
      }
  });
  return gram;
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("class_gram", TORCH_BOX(&gradmix::cpu::class_gram)); }
