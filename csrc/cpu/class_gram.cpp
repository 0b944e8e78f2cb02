// class_gram: the Gram matrix of the groups' gradients, by classes or by pairs of samples, whichever costs less.
#include "common/binding.h"

#include <algorithm>
#include <string>

#include "binding.h"
#include "gram_cost.h"
#include "grouping.h"
#include "kernels/kernels.h"
#include "last_layer.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "class_gram";
// Each thread adds to a Gram matrix of its own: fewer threads than allowed where these would take more memory than this.
constexpr int64_t partial_bytes = int64_t{256} << 20;
constexpr double serial_multiply_adds = 2 << 20;
constexpr int64_t grain_cells = 32 << 10;

bool by_classes(const std::string& algorithm, const LastLayer& in, const Groups& groups) {
  if (algorithm != "auto") return algorithm == "classwise";
  const auto n = static_cast<double>(in.samples), c = static_cast<double>(in.mask.allowed),
             d = static_cast<double>(in.feature_count), k = static_cast<double>(groups.present.size());
  return classwise_cost(n, c, d, k) <= pairwise_cost(n, c, d, k);
}

// The upper half of the sum of `parts` matrices over the groups that have samples, scaled, to both halves of `out` over all groups.
// In blocks of a cache line: the columns of the lower half are then written line by line.
template <class A>
void add_and_mirror(const Scratch<A>& partial, int64_t parts, const GroupedParams& p, const Groups& groups, A* out) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(A));
  const int64_t blocks = (p.groups + line - 1) / line, cells = p.groups * p.groups;
  const A* scale = static_cast<const A*>(p.group_scale);
  const auto add_block = [&](int64_t row, int64_t column) {
    const int64_t height = std::min(line, p.groups - row), width = std::min(line, p.groups - column);
    A sum[line][line];
    for (int64_t k = 0; k < height; ++k) {
      const A* first = partial.data() + (row + k) * p.groups + column;
      for (int64_t l = 0; l < width; ++l) sum[k][l] = first[l];
      for (int64_t part = 1; part < parts; ++part)
        for (int64_t l = 0; l < width; ++l) sum[k][l] += first[part * cells + l];
      for (int64_t l = 0; l < width; ++l) sum[k][l] *= scale[row + k] * scale[column + l];
    }
    const int64_t *own = groups.present.data() + row, *other = groups.present.data() + column;
    for (int64_t k = 0; k < height; ++k)
      for (int64_t l = row == column ? k : 0; l < width; ++l) out[own[k] * groups.total + other[l]] = sum[k][l];
    for (int64_t l = 0; l < width; ++l)
      for (int64_t k = 0; k < (row == column ? l : height); ++k) out[other[l] * groups.total + own[k]] = sum[k][l];
  };
  const auto add_row_of_blocks = [&](int64_t row) {
    for (int64_t column = row; column < p.groups; column += line) add_block(row, column);
  };
  // A long row with a short one: equal shares.
  parallel((blocks + 1) / 2, std::max<int64_t>(1, grain_cells / (p.groups * line)), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      add_row_of_blocks(b * line);
      if (blocks - 1 - b != b) add_row_of_blocks((blocks - 1 - b) * line);
    }
  });
}

template <class A>
void gram_of(const LastLayer& in, const Groups& groups, GroupReduction reduction, bool classwise, A* out) {
  const GroupedSamples<A> sorted(in, groups, reduction, classwise);
  const GroupedParams& p = sorted.params();
  const int64_t tasks = classwise ? kernels::classwise_tasks(p) : kernels::pairwise_tasks(p);
  const int64_t cells = p.groups * p.groups;
  const double work = static_cast<double>(p.samples) * static_cast<double>(p.classes) * static_cast<double>(p.depth);
  const int64_t affordable = std::max<int64_t>(1, partial_bytes / (cells * static_cast<int64_t>(sizeof(A))));
  const int64_t threads = work < serial_multiply_adds ? 1 : static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t parts = std::max<int64_t>(1, std::min({tasks, affordable, threads}));

  // The parts are added in order, so that the result depends on the number of threads only.
  Scratch<A> partial(parts * cells);
  parallel(parts, 1, [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(classwise ? kernels::classwise_scratch(p) : kernels::pairwise_scratch(p));
    Scratch<A> panel(classwise ? sorted.panel_elements() : 0);
    for (int64_t part = begin; part < end; ++part) {
      A* gram = partial.data() + part * cells;
      std::fill_n(gram, cells, A(0));
      if (classwise) {  // neighbouring tasks read the same features
        const int64_t blocks = p.delta_panels.count, last = (part + 1) * tasks / parts;
        for (int64_t t = part * tasks / parts, next; t < last; t = next) {
          const int64_t j = t / blocks;
          next = std::min(last, (j + 1) * blocks);
          kernels::gram_classwise(sorted.with_features(j, panel.data()), t - j * blocks, next - j * blocks, gram, scratch.data());
        }
        if (part == parts - 1) kernels::gram_of_bias(p, gram, scratch.data());
        continue;
      }
      // Tasks become shorter: dealt forwards and backwards in turn.
      for (int64_t round = 0; round * parts < tasks; ++round) {
        const int64_t t = round * parts + (round % 2 == 0 ? part : parts - 1 - part);
        if (t < tasks) kernels::gram_pairwise(p, t, t + 1, gram, scratch.data());
      }
    }
  });
  add_and_mirror(partial, parts, p, groups, out);
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
    gram_of(in, grouped, reduce, by_classes(algorithm, in, grouped), static_cast<A*>(gram.mutable_data_ptr()));
  });
  return gram;
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("class_gram", TORCH_BOX(&gradmix::cpu::class_gram)); }
