// Samples sorted by group, so that every group is one run of rows.
#pragma once

#include <optional>
#include <vector>

#include "binding.h"
#include "last_layer.h"

namespace gradmix::cpu {

// The group of each sample and how many groups there are: the classes unless told otherwise.
struct Groups {
  Groups(const char* op, const LastLayer& in, const std::optional<Tensor>& groups, std::optional<int64_t> num_groups);
  // One group of the samples from `first` on; the others are in none.
  Groups(const LastLayer& in, int64_t first);

  int64_t total;                   // K
  std::vector<int64_t> count;      // [K]
  std::vector<int64_t> present;    // the groups that have samples, in order
  std::vector<int64_t> offsets;    // [present + 1] into order
  std::vector<int64_t> order;      // samples, by group and then by index
  std::vector<int64_t> row_group;  // position in present of the group of each row of order
};

enum class GroupReduction { mean, sum };
GroupReduction group_reduction(const char* op, const std::string& name);
template <class A>
A scale_of(GroupReduction reduction, int64_t count) {
  return reduction == GroupReduction::mean ? A(1) / static_cast<A>(count) : A(1);
}

// Elements of so many rows in panels.
inline int64_t elements_of(const Panels& panels) { return panels.rows * panels.width * panels.count; }
// The panels that the kernels by classes want.
Panels class_panels(int64_t rows, int64_t classes, bool wide);
Panels feature_panels(int64_t rows, int64_t features, bool wide);

// delta and features of the sorted samples in the accumulation type, with what the kernels for the Gram matrix need to know about them.
// By classes, the features are in panels that are made one by one. By pairs of samples, both are there row by row.
template <class A>
class GroupedSamples {
 public:
  GroupedSamples(const LastLayer& in, const Groups& groups, GroupReduction reduction, bool classwise);
  const GroupedParams& params() const { return params_; }

  // The same samples with the features of one panel alone, which are written to `memory`, of panel_elements().
  GroupedParams with_features(int64_t panel, A* memory) const;
  int64_t panel_elements() const { return params_.feature_panels.rows * params_.feature_panels.width; }

 private:
  const LastLayer& in_;
  const int64_t* order_;
  Panels delta_panels_, feature_panels_;
  Scratch<A> delta_, features_;
  std::vector<A> scale_;
  GroupedParams params_{};
};

// The gradients [K, C, d] and [K, C] of the groups in the accumulation type; 0 where a group has no samples.
struct GroupGradients {
  Tensor weight, bias;
};
GroupGradients group_gradients(const LastLayer& in, const Groups& groups, GroupReduction reduction);

}  // namespace gradmix::cpu
