// The scheduler behind cuda_runtime.h.
#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "context.h"

namespace emulator {
namespace {

constexpr size_t stack_bytes = 256 << 10;
constexpr int lanes = 32;

enum class State { ready, at_barrier, at_warp, returned };

struct Fibre {
  Context context;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  dim3 index;
  State state = State::returned;
  Place place{};
  void* fake_stack = nullptr;  // of the address sanitiser
};

struct Warp {
  int waiting = 0;
  unsigned turn = 0;
  Parcel parcels[2][lanes];  // of the present and of the last exchange
};

enum class Schedule { forward, reverse, random };
Schedule schedule = Schedule::forward;
std::mt19937_64 generator;
std::string skipped_file, report;
int skipped_line = 0;
std::set<std::pair<std::string, int>> seen;

std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<Warp> warps;
int threads = 0, waiting = 0, current = 0;
Context scheduler;
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
#endif

struct Shared {
  std::unique_ptr<char[]> memory;
  size_t bytes;
};
std::map<const void*, Shared> shared;

Call the_call;
void (*the_kernel)();
void** the_arguments;

void to_scheduler([[maybe_unused]] bool for_good) {
  Fibre& self = *fibres[current];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &self.fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  Context::change(self.context, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void to_fibre(int t) {
  Fibre& fibre = *fibres[t];
  current = t;
  thread_index = fibre.index;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fibre.stack.get(), stack_bytes);
#endif
  Context::change(scheduler, fibre.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void body() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  the_call(the_kernel, the_arguments);
  fibres[current]->state = State::returned;
  to_scheduler(true);
}

std::string name(const dim3& at) {
  std::ostringstream text;
  text << "(" << at.x << ", " << at.y << ", " << at.z << ")";
  return text.str();
}
std::string file_name(const Place& place) {
  const std::string file = place.file;
  return file.substr(file.rfind('/') + 1);
}
std::string name(const Place& place) { return file_name(place) + ":" + std::to_string(place.line); }
std::string whereabouts(int t) {
  const Fibre& fibre = *fibres[t];
  const std::string who = "thread " + name(fibre.index);
  if (fibre.state == State::returned) return who + " has returned";
  return who + " waits for its " + (fibre.state == State::at_barrier ? "block at " : "warp at ") + name(fibre.place);
}
// The first thread that waits, and the first that is somewhere else.
void report_deadlock(const char* what) {
  int first = 0;
  while (fibres[first]->state == State::returned) ++first;
  const auto elsewhere = [&](const std::unique_ptr<Fibre>& f) {
    return f->state != fibres[first]->state || f->place.line != fibres[first]->place.line;
  };
  const int other = static_cast<int>(std::find_if(fibres.begin(), fibres.begin() + threads, elsewhere) - fibres.begin());
  report = std::string(what) + " in block " + name(block_index) + ": " + whereabouts(first);
  if (other < threads) report += ", " + whereabouts(other);
}

bool release_barrier() {
  for (int t = 0; t < threads; ++t)
    if (fibres[t]->place.line != fibres[0]->place.line || std::strcmp(fibres[t]->place.file, fibres[0]->place.file) != 0) {
      report_deadlock("divergent barrier");
      return false;
    }
  for (int t = 0; t < threads; ++t) fibres[t]->state = State::ready;
  waiting = 0;
  return true;
}

// Runs those that can until each of them waits or has returned; whether any could.
bool run_once(std::vector<int>::const_iterator begin, std::vector<int>::const_iterator end) {
  bool ran = false;
  for (auto t = begin; t != end; ++t)
    if (fibres[*t]->state == State::ready) {
      to_fibre(*t);
      ran = true;
    }
  return ran;
}

bool run_block() {
  for (int t = 0; t < threads; ++t) {
    Fibre& fibre = *fibres[t];
    fibre.context.start(body, fibre.stack.get(), stack_bytes);
    fibre.index = dim3(t % block_size.x, t / block_size.x % block_size.y, t / (block_size.x * block_size.y));
    fibre.state = State::ready;
    fibre.place = {"", 0};
  }
  warps.assign((threads + lanes - 1) / lanes, Warp{});
  waiting = 0;
  for (auto& [declaration, object] : shared) std::memset(object.memory.get(), 0xff, object.bytes);

  // In order, a warp runs as far ahead of the others as it can; at random, nobody runs ahead for long.
  const int step = schedule == Schedule::random ? threads : lanes;
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  if (schedule == Schedule::reverse) std::reverse(order.begin(), order.end());
  for (;;) {
    if (schedule == Schedule::random) std::shuffle(order.begin(), order.end(), generator);
    bool ran = false;
    for (int first = 0; first < threads; first += step) {
      const auto begin = order.begin() + first, end = order.begin() + std::min(first + step, threads);
      while (run_once(begin, end)) ran = true;
    }
    if (waiting == threads && !release_barrier()) return false;
    if (ran) continue;
    if (std::all_of(fibres.begin(), fibres.begin() + threads, [](auto& f) { return f->state == State::returned; }))
      return true;
    report_deadlock("deadlock");
    return false;
  }
}

}  // namespace

// Notes that a barrier was reached; false if it is the one to leave out.
static bool counts(Place place) {
  if (current == 0) seen.emplace(file_name(place), place.line);
  return place.line != skipped_line || file_name(place) != skipped_file;
}

void sync_threads(Place place) {
  if (!counts(place)) return;
  Fibre& self = *fibres[current];
  self.state = State::at_barrier;
  self.place = place;
  ++waiting;
  to_scheduler(false);
}

int lane() { return current % lanes; }

void sync_warp(unsigned mask, Place place) {
  if (counts(place)) exchange(mask, {}, place);
}

const Parcel* exchange(unsigned mask, const Parcel& parcel, Place place) {
  Warp& warp = warps[current / lanes];
  Fibre& self = *fibres[current];
  const unsigned turn = warp.turn;
  warp.parcels[turn & 1][lane()] = parcel;
  self.state = State::at_warp;
  self.place = place;
  if (++warp.waiting == __builtin_popcount(mask)) {
    const int first = current / lanes * lanes;
    for (int t = first; t < std::min(first + lanes, threads); ++t)
      if (fibres[t]->state == State::at_warp) fibres[t]->state = State::ready;
    warp.waiting = 0;
    ++warp.turn;
  }
  to_scheduler(false);
  return warp.parcels[turn & 1];
}

void* shared_memory(const void* declaration, size_t bytes) {
  Shared& object = shared[declaration];
  if (object.memory == nullptr) {
    object = {std::unique_ptr<char[]>(new char[bytes]), bytes};
    std::memset(object.memory.get(), 0xff, bytes);
  }
  return object.memory.get();
}

cudaError_t run(Call call, void (*kernel)(), void** arguments, dim3 grid, dim3 block) {
  constexpr unsigned most_y = 65535, most_threads = 1024;
  const uint64_t count = uint64_t{block.x} * block.y * block.z;
  if (count == 0 || count > most_threads || grid.x == 0 || grid.x > 0x7fffffffu || grid.y > most_y || grid.z > most_y)
    return cudaErrorInvalidConfiguration;
  the_call = call, the_kernel = kernel, the_arguments = arguments;
  threads = static_cast<int>(count);
  while (fibres.size() < count) fibres.push_back(std::make_unique<Fibre>());
  block_size = block, grid_size = grid;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t at = schedule == Schedule::reverse ? blocks - 1 - b : b;
    block_index = dim3(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                       static_cast<unsigned>(at / grid.x / grid.y));
    if (!run_block()) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace emulator

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return emulator::report.c_str();
  return error == cudaErrorInvalidConfiguration ? "invalid configuration" : "invalid value";
}

// What tests set and ask for.
#pragma GCC visibility push(default)
extern "C" {
// "forward", "reverse" or "random"
void emulator_schedule(const char* kind, uint64_t seed) {
  const std::string text = kind;
  emulator::schedule = text == "reverse"  ? emulator::Schedule::reverse
                       : text == "random" ? emulator::Schedule::random
                                          : emulator::Schedule::forward;
  emulator::generator.seed(seed);
}
// Leaves out the barrier at a line of a file (its name alone); line 0 leaves out none.
void emulator_skip_barrier(const char* file, int line) {
  emulator::skipped_file = file;
  emulator::skipped_line = line;
}
const char* emulator_report() { return emulator::report.c_str(); }
// The barriers reached so far, "file:line" each, separated by spaces.
const char* emulator_barriers() {
  static std::string text;
  text.clear();
  for (const auto& [file, line] : emulator::seen) text += file + ":" + std::to_string(line) + " ";
  return text.c_str();
}
}
#pragma GCC visibility pop
