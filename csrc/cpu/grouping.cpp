#include "common/binding.h"

#include "grouping.h"

#include <algorithm>
#include <numeric>

namespace gradmix::cpu {
namespace {

constexpr int64_t grain_elements = 16 << 10;

Panels as_panels(int64_t rows, int64_t columns, int64_t width) { return {rows, width, (columns + width - 1) / width}; }

template <class A>
Panels as_rows(int64_t rows, int64_t columns) {
  return {rows, row_spacing(columns, sizeof(A), 64 / sizeof(A)), 1};
}

}  // namespace

Groups::Groups(const char* op, const LastLayer& in, const std::optional<Tensor>& groups, std::optional<int64_t> num_groups)
    : total(num_groups.value_or(in.classes)) {
  check(total >= 0, op, ": num_groups must not be negative, got ", total);
  const Column<int64_t> given = groups ? Column<int64_t>(*groups, in.samples, op, "groups") : Column<int64_t>();
  const int64_t* group = groups ? given.data() : in.target.data();
  const char* name = groups ? "groups" : "target";
  for (int64_t i = 0; i < in.samples; ++i)
    check(group[i] >= 0 && group[i] < total, op, ": ", name, "[", i, "] = ", group[i], " is out of range for ", total, " groups");

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

Panels class_panels(int64_t rows, int64_t classes, bool wide) { return as_panels(rows, classes, kernels::class_panel(classes, wide)); }
Panels feature_panels(int64_t rows, int64_t features, bool wide) { return as_panels(rows, features, kernels::feature_panel(wide)); }

template <class A>
GroupedSamples<A>::GroupedSamples(const LastLayer& in, const Groups& groups, GroupReduction reduction, bool classwise)
    : in_(in),
      order_(groups.order.data()),
      delta_panels_(classwise ? class_panels(groups.order.size(), in.mask.allowed, is_wide(in.dtype))
                              : as_rows<A>(groups.order.size(), in.mask.allowed)),
      feature_panels_(classwise ? feature_panels(groups.order.size(), in.feature_count, is_wide(in.dtype))
                                : as_rows<A>(groups.order.size(), in.feature_count)),
      delta_(elements_of(delta_panels_)),
      features_(classwise ? 0 : elements_of(feature_panels_)) {
  const int64_t rows = groups.order.size();
  const ResidualParams residual = in.residual_to(delta_.data(), delta_panels_, order_);
  const GatherParams gather = in.features_to(features_.data(), feature_panels_, order_);
  const int64_t row = in.mask.allowed + (classwise ? 0 : in.feature_count) + 1;
  parallel(rows, std::max<int64_t>(1, grain_elements / row), [&](int64_t begin, int64_t end) {
    Scratch<A> delta_row(in.mask.allowed);
    kernels::residual(residual, begin, end, delta_row.data());
    if (!classwise) kernels::gather_rows(gather, begin, end);
  });
  for (const int64_t k : groups.present) scale_.push_back(scale_of<A>(reduction, groups.count[k]));
  params_ = {delta_.data(), delta_panels_, features_.data(), feature_panels_, groups.offsets.data(), groups.row_group.data(),
             scale_.data(), static_cast<int64_t>(groups.present.size()), rows, in.mask.allowed,
             in.feature_count, is_wide(in.dtype)};
}

template <class A>
GroupedParams GroupedSamples<A>::with_features(int64_t panel, A* memory) const {
  const int64_t width = feature_panels_.width, first = panel * width;
  GroupedParams part = params_;
  part.features = memory;
  part.feature_panels = {feature_panels_.rows, width, 1};
  part.depth = std::min(width, in_.feature_count - first);
  kernels::gather_rows(in_.features_to(memory, part.feature_panels, order_, first), 0, part.samples);
  return part;
}

template class GroupedSamples<float>;
template class GroupedSamples<double>;

}  // namespace gradmix::cpu
