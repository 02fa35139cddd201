// What the accesses of warps cost a card, counted while kernels are emulated: lanes that do the same access for the nth time do
// it together, as a warp does. Seen is what goes through read_at, write_at, ldmatrix and cp.async; other accesses are not.
//
// Shared memory has 32 banks of 4 bytes. 16 bytes a lane go in four turns of 8 lanes, 8 bytes in two of 16, less in one; a turn
// takes as many cycles as the fullest bank has different words. Global memory moves sectors of 32 bytes.
#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "backends/cuda/emulation/device.h"
#include "backends/cuda/emulation/traffic.h"

namespace nibble::cuda::emulation {

bool is_counting = false;

namespace {

constexpr int kBanks = 32, kWord = 4, kSector = 32;

struct LaneAccess {
  uintptr_t at = 0;
  int bytes = 0;
};
using WarpAccess = std::array<LaneAccess, kWarp>;

// Accesses of a warp by the place in the code that does them.
struct Site {
  std::array<size_t, kWarp> done{};  // of each lane
  std::vector<WarpAccess> accesses;
};

std::map<std::pair<int, const void*>, Site> sites;
std::vector<Traffic> launches;

// Of lanes that go together.
int cycles_of(const LaneAccess* lanes, int count) {
  std::array<std::set<uintptr_t>, kBanks> words;
  for (int i = 0; i < count; ++i)
    for (int b = 0; b < lanes[i].bytes; b += kWord) words[(lanes[i].at + b) / kWord % kBanks].insert((lanes[i].at + b) / kWord);
  size_t most = 0;
  for (const auto& of_bank : words) most = std::max(most, of_bank.size());
  return int(most);
}

void count_shared(const WarpAccess& all, Traffic& to) {
  int widest = 0;
  for (const LaneAccess& a : all) widest = std::max(widest, a.bytes);
  const int together = widest > 8 ? 8 : widest > 4 ? 16 : kWarp;
  for (int first = 0; first < kWarp; first += together) {
    const int cycles = cycles_of(&all[size_t(first)], together);
    to.shared_cycles += cycles;
    to.shared_least += cycles > 0;
  }
}

void count_global(const WarpAccess& all, Traffic& to) {
  std::set<uintptr_t> sectors, bytes;
  for (const LaneAccess& a : all)
    for (int b = 0; b < a.bytes; ++b) {
      sectors.insert((a.at + b) / kSector);
      bytes.insert(a.at + b);
    }
  to.global_bytes += kSector * int64_t(sectors.size());
  to.global_wanted += int64_t(bytes.size());
}

}  // namespace

void note_access(const void* at, int bytes, int thread, const void* site) {
  Site& of = sites[{thread / kWarp, site}];
  const size_t turn = of.done[size_t(thread % kWarp)]++;
  if (of.accesses.size() <= turn) of.accesses.resize(turn + 1);
  of.accesses[turn][size_t(thread % kWarp)] = {reinterpret_cast<uintptr_t>(at), bytes};
}

void begin_launch_traffic() { launches.emplace_back(); }

void end_block_traffic(const void* shared, int64_t shared_bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(shared);
  for (const auto& [place, site] : sites)
    for (WarpAccess all : site.accesses) {
      const auto some = std::find_if(all.begin(), all.end(), [](const LaneAccess& a) { return a.bytes > 0; });
      if (some == all.end()) continue;
      const bool is_shared = some->at >= begin && some->at < begin + uintptr_t(shared_bytes);
      for (LaneAccess& a : all) a.at -= is_shared ? begin : 0;
      is_shared ? count_shared(all, launches.back()) : count_global(all, launches.back());
    }
  sites.clear();
}

void start_counting() {
  launches.clear();
  is_counting = true;
}

std::vector<Traffic> stop_counting() {
  is_counting = false;
  return std::move(launches);
}

}  // namespace nibble::cuda::emulation
