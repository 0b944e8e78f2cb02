// The samples of a batch sorted by class, so that every class is one run of them.
#pragma once

#include <numeric>
#include <vector>

#include "binding.h"

namespace gradmix::cpu {

struct ClassRuns {
  // Labels are in [0, classes).
  ClassRuns(const int64_t* target, int64_t samples, int64_t classes) : start(classes + 1, 0), sorted(samples) {
    for (int64_t i = 0; i < samples; ++i) ++start[target[i] + 1];
    std::partial_sum(start.begin(), start.end(), start.begin());
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < samples; ++i) sorted[next[target[i]]++] = i;
    for (int64_t c = 0; c < classes; ++c)
      if (size(c) > 0) present.push_back(c);
  }
  int64_t size(int64_t c) const { return start[c + 1] - start[c]; }

  std::vector<int64_t> start;    // [classes + 1] into sorted
  std::vector<int64_t> sorted;   // [N] samples, by class and then by index
  std::vector<int64_t> present;  // the classes that have samples, in order
};

// The first of `count` ascending edges beyond a point; `count` where none is. Without branches, which a random point would have
// mispredicted.
inline int64_t first_beyond(const int64_t* edge, int64_t count, int64_t point) {
  const int64_t* first = edge;
  for (int64_t left = count; left > 0;) {
    const int64_t half = left / 2;
    const bool beyond = first[half] > point;
    first = beyond ? first : first + half + 1;
    left = beyond ? half : left - half - 1;
  }
  return first - edge;
}

}  // namespace gradmix::cpu
