#include "common/binding.h"

#include "grouping.h"

#include <algorithm>
#include <numeric>

namespace gradmix::cpu {
namespace {

constexpr int64_t grain_elements = 16 << 10;

template <class A>
Panels panels_of(int64_t rows, int64_t columns, SampleLayout layout, int64_t width) {
  if (layout == SampleLayout::rows) return {rows, row_spacing(columns, sizeof(A), 64 / sizeof(A)), 1};
  return {rows, width, (columns + width - 1) / width};
}

}  // namespace

Groups::Groups(const char* op, const LastLayer& in, const std::optional<Tensor>& groups, std::optional<int64_t> num_groups)
    : total(num_groups.value_or(in.classes)) {
  check(total >= 0, op, ": num_groups must not be negative, got ", total);
  const Column<int64_t> given = groups ? Column<int64_t>(*groups, in.samples, op, "groups") : Column<int64_t>();
  const int64_t* group = groups ? given.data() : in.target.data();
  for (int64_t i = 0; i < in.samples; ++i)
    check(group[i] >= 0 && group[i] < total, op, ": groups[", i, "] = ", group[i], " is out of range for ", total, " groups");

  count.assign(total, 0);
  for (int64_t i = 0; i < in.samples; ++i) ++count[group[i]];
  std::vector<int64_t> next(total);
  int64_t start = 0;
  for (int64_t k = 0; k < total; ++k) {
    next[k] = start;
    if (count[k] == 0) continue;
    present.push_back(k);
    offsets.push_back(start);
    row_group.insert(row_group.end(), count[k], static_cast<int64_t>(present.size()) - 1);
    start += count[k];
  }
  offsets.push_back(start);
  order.resize(in.samples);
  for (int64_t i = 0; i < in.samples; ++i) order[next[group[i]]++] = i;
}

Groups::Groups(const LastLayer& in, int64_t first) : total(1), count{in.samples - first}, offsets{0} {
  if (count[0] > 0) {
    present.push_back(0);
    offsets.push_back(count[0]);
  }
  order.resize(count[0]);
  std::iota(order.begin(), order.end(), first);
  row_group.assign(count[0], 0);
}

GroupReduction group_reduction(const char* op, const std::string& name) {
  check(name == "mean" || name == "sum", op, ": reduction must be mean or sum, got ", name);
  return name == "mean" ? GroupReduction::mean : GroupReduction::sum;
}

template <class A>
GroupedSamples<A>::GroupedSamples(const LastLayer& in, const Groups& groups, GroupReduction reduction, SampleLayout layout,
                                  bool with_one)
    : delta_panels_(panels_of<A>(groups.order.size(), in.mask.allowed, layout, kernels::class_panel(in.mask.allowed, sizeof(A) == 8))),
      feature_panels_(
          panels_of<A>(groups.order.size(), in.feature_count + (with_one ? 1 : 0), layout, kernels::feature_panel(sizeof(A) == 8))),
      delta_(groups.order.size() * delta_panels_.width * delta_panels_.count),
      features_(groups.order.size() * feature_panels_.width * feature_panels_.count) {
  const int64_t rows = groups.order.size();
  const ResidualParams residual{in.logits.const_data_ptr(), in.logits.stride(0),
                                in.allowed_columns(), in.target_position(),
                                in.partner_position(), in.lam.data(), in.lam.stride(), groups.order.data(), in.mask.allowed,
                                in.dtype, delta_.data(), delta_panels_};
  const GatherParams gather{in.features.const_data_ptr(), in.features.stride(0), groups.order.data(),
                            in.feature_count, in.dtype, features_.data(), feature_panels_};
  const int64_t row = delta_panels_.width * delta_panels_.count + feature_panels_.width * feature_panels_.count;
  parallel(rows, std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, row)), [&](int64_t begin, int64_t end) {
    Scratch<A> delta_row(in.mask.allowed);
    kernels::residual(residual, begin, end, delta_row.data());
    kernels::gather_rows(gather, begin, end);
    if (!with_one) return;
    const int64_t width = feature_panels_.width, last = in.feature_count / width;
    for (int64_t i = begin; i < end; ++i) features_.data()[(last * rows + i) * width + in.feature_count % width] = A(1);
  });
  for (const int64_t k : groups.present)
    scale_.push_back(reduction == GroupReduction::mean ? A(1) / static_cast<A>(groups.count[k]) : A(1));
  params_ = {delta_.data(), delta_panels_, features_.data(), feature_panels_, groups.offsets.data(), groups.row_group.data(),
             scale_.data(), static_cast<int64_t>(groups.present.size()), rows, in.mask.allowed,
             in.feature_count + (with_one ? 1 : 0), sizeof(A) == 8};
}

template class GroupedSamples<float>;
template class GroupedSamples<double>;

}  // namespace gradmix::cpu
