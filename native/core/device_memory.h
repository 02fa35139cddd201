// Memory that the host cannot read: what core and the binding ask of the CUDA backend. backends/cuda answers, or
// backends/no_cuda where CUDA is not compiled. All work runs in one stream, in the order of the calls; only those
// that say so wait for it. None of it counts bytes: core/memory.h does.
#pragma once

#include <cstdint>
#include <string>

#include "core/spill_file.h"

namespace nibble::cuda {

// Why there is no device to use; empty where there is one. The first call asks the driver.
const std::string& unavailable();

// What the first device is, and its memory in bytes. Throws FAILED_PRECONDITION where there is none.
struct DeviceFacts {
  std::string name, architecture;  // "sm_90"
  int64_t total, free;
  int64_t bandwidth;   // of its memory, bytes a second, by the driver's account
  int64_t processors;
};
DeviceFacts device_facts();

// Null where the device has no room. Aligned to 256 bytes, not zeroed.
void* allocate(int64_t bytes);
void release(void* data);  // waits

// Zeros that lie on the host or the device, wherever they were touched last (unified memory), for paged optimizer
// state. Null where the system refuses; `most` bytes are the most that may be managed together: what the device
// has free. FAILED_PRECONDITION on a device that cannot page.
void* allocate_managed(int64_t bytes);
void release_managed(void* data);
// Soon: moved to the device, beside the work that runs. Later: moved to the host.
void advise_managed(void* data, int64_t bytes, Use use);

void upload(void* to, const void* from, int64_t bytes);    // `from` may be reused at once; does not wait for work
void download(void* to, const void* from, int64_t bytes);  // waits for all work so far
void clear(void* data, int64_t bytes);
void synchronize();

}  // namespace nibble::cuda
