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

// Row by row, or in the panels that the kernels by classes want.
enum class SampleLayout { rows, panels };

// delta and features of the sorted samples in the accumulation type, with what the kernels need to know about them.
template <class A>
class GroupedSamples {
 public:
  // With `with_one` the features get one more, which is 1: the gradient of the bias is then that of its weights.
  GroupedSamples(const LastLayer& in, const Groups& groups, GroupReduction reduction, SampleLayout layout, bool with_one);
  const GroupedParams& params() const { return params_; }

 private:
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
