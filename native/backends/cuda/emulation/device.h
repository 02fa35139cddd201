// What tests set of the emulated device.
#pragma once

#include <cstdint>
#include <string>

namespace nibble::cuda::emulation {

// Last thread of a block first: a missing barrier shows as other numbers.
void set_reversed(bool reversed);
// Bytes of the device's memory; beyond them allocations fail.
void set_capacity(int64_t bytes);
// As on a machine without a device; empty: there is one.
void set_unavailable(const std::string& why);

}  // namespace nibble::cuda::emulation
