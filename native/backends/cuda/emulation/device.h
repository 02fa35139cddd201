// What tests set of the emulated device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cuda::emulation {

// Last thread of a block first: a missing barrier shows as other numbers.
void set_reversed(bool reversed);
// Bytes of the device's memory; beyond them allocations fail.
void set_capacity(int64_t bytes);
// As on a machine without a device; empty: there is one.
void set_unavailable(const std::string& why);

// What a launch's accesses cost (traffic.cpp) beside the least that the same accesses could.
struct Traffic {
  int64_t shared_cycles = 0, shared_least = 0;
  int64_t global_bytes = 0, global_wanted = 0;  // moved in whole sectors; of them asked for
};
void start_counting();
// Of each launch since then.
std::vector<Traffic> stop_counting();

}  // namespace nibble::cuda::emulation
