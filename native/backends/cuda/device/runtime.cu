// The device, its memory and its one stream; see core/device_memory.h.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "backends/cuda/fault.h"
#include "core/device_graph.h"
#include "core/device_memory.h"
#include "core/error.h"
#include "platform.h"

namespace nibble::cuda {

namespace {

constexpr int kDevice = 0;  // CUDA_VISIBLE_DEVICES chooses another
constexpr int kArchitectureMin = 80;
constexpr int64_t kStagingHalf = 8 << 20;

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, kDevice), "attribute");
  return value;
}

int architecture() {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
}

std::string why_unavailable() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaErrorInsufficientDriver) return "no NVIDIA driver, or one that is too old for CUDA 13";
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (devices == 0) return "no device is visible";
  if (architecture() < kArchitectureMin) {
    return "expected a device of compute capability 8.0 or more, got " + std::to_string(architecture() / 10) + "." +
           std::to_string(architecture() % 10);
  }
  return "";
}

// Pinned memory that uploads and downloads go through, in two halves: the one is filled while the other is read.
class Staging {
 public:
  Staging() {
    check(cudaMallocHost(&bytes_, size_t(2 * kStagingHalf)), "pinned memory");
    for (cudaEvent_t& event : left_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  }

  // Room for `bytes`, at most a half, that no copy under way reads. Waits only for copies a whole half ago.
  uint8_t* take(int64_t bytes) {
    if (used_ + bytes > kStagingHalf) {
      check(cudaEventRecord(left_[half_], stream()), "event");
      half_ = 1 - half_;
      used_ = 0;
      check(cudaEventSynchronize(left_[half_]), "upload");
    }
    uint8_t* const at = bytes_ + half_ * kStagingHalf + used_;
    used_ += (bytes + 63) / 64 * 64;
    return at;
  }

 private:
  uint8_t* bytes_ = nullptr;
  cudaEvent_t left_[2] = {};
  int half_ = 0;
  int64_t used_ = 0;
};

Staging& staging() {
  static Staging* instance = new Staging;
  return *instance;
}

std::mutex staging_mutex, managed_mutex;
std::unordered_map<void*, int64_t> managed;
int64_t managed_bytes = 0;

int* new_fault_word() {
  int* word = nullptr;
  check(cudaHostAlloc(&word, sizeof(int), cudaHostAllocMapped), "pinned memory");
  *word = kNoFault;
  return word;
}

#if CUDART_VERSION >= 13000
cudaMemLocation place(bool on_device) {
  cudaMemLocation at{};
  at.type = on_device ? cudaMemLocationTypeDevice : cudaMemLocationTypeHost;
  at.id = on_device ? kDevice : 0;
  return at;
}
cudaError_t prefetch(void* data, int64_t bytes, bool on_device) {
  return cudaMemPrefetchAsync(data, size_t(bytes), place(on_device), 0, stream());
}
cudaError_t prefer_host(void* data, int64_t bytes) {
  return cudaMemAdvise(data, size_t(bytes), cudaMemAdviseSetPreferredLocation, place(false));
}
#else
cudaError_t prefetch(void* data, int64_t bytes, bool on_device) {
  return cudaMemPrefetchAsync(data, size_t(bytes), on_device ? kDevice : cudaCpuDeviceId, stream());
}
cudaError_t prefer_host(void* data, int64_t bytes) {
  return cudaMemAdvise(data, size_t(bytes), cudaMemAdviseSetPreferredLocation, cudaCpuDeviceId);
}
#endif

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw Error(Code::kInternal, "cuda", std::string(what) + ": " + cudaGetErrorString(status));
}

cudaStream_t stream() {
  static cudaStream_t instance = [] {
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "stream");
    return made;
  }();
  return instance;
}

const std::string& unavailable() {
  static const std::string* reason = new std::string(why_unavailable());
  return *reason;
}

DeviceFacts device_facts() {
  if (!unavailable().empty()) throw Error(Code::kFailedPrecondition, "cuda", "unavailable: " + unavailable());
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, kDevice), "properties");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory");
  // Two transfers a clock on a bus of so many bits.
  const int64_t khz = attribute(cudaDevAttrMemoryClockRate), bits = attribute(cudaDevAttrGlobalMemoryBusWidth);
  return {.name = properties.name, .architecture = "sm_" + std::to_string(architecture()), .total = int64_t(total),
          .free = int64_t(free), .bandwidth = 2 * khz * 1000 * bits / 8,
          .processors = attribute(cudaDevAttrMultiProcessorCount)};
}

void* allocate(int64_t bytes) {
  refuse_recording("allocate");
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, size_t(bytes));
  if (status == cudaSuccess) return data;
  cudaGetLastError();  // running out of memory is no lasting error
  if (status != cudaErrorMemoryAllocation) check(status, "allocate");
  return nullptr;
}

// Destructors call it, and after an error of a kernel all that the driver is asked for fails with that error: whoever waits
// for a result is told.
void release(void* data) {
  refuse_recording("release");
  cudaStreamSynchronize(stream());
  cudaFree(data);
}

void* allocate_managed(int64_t bytes) {
  if (attribute(cudaDevAttrConcurrentManagedAccess) == 0) {
    throw Error(Code::kFailedPrecondition, "allocate", "paged: this device cannot page memory to the host");
  }
  const std::lock_guard<std::mutex> lock(managed_mutex);
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory");
  // Never more than fits the device beside what lies there, whatever of it lies on the host now.
  if (managed_bytes + bytes > int64_t(free)) return nullptr;
  void* data = nullptr;
  if (cudaMallocManaged(&data, size_t(bytes)) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  managed[data] = bytes;
  managed_bytes += bytes;
  check(prefer_host(data, bytes), "advise");
  check(cudaMemsetAsync(data, 0, size_t(bytes), stream()), "clear");
  check(prefetch(data, bytes, false), "prefetch");
  return data;
}

void release_managed(void* data) {
  const std::lock_guard<std::mutex> lock(managed_mutex);
  managed_bytes -= managed.at(data);
  managed.erase(data);
  release(data);
}

void advise_managed(void* data, int64_t bytes, Use use) { check(prefetch(data, bytes, use == Use::kSoon), "prefetch"); }

void upload(void* to, const void* from, int64_t bytes) {
  refuse_recording("upload");
  const std::lock_guard<std::mutex> lock(staging_mutex);
  for (int64_t at = 0; at < bytes; at += kStagingHalf) {
    const int64_t piece = std::min(kStagingHalf, bytes - at);
    uint8_t* const pinned = staging().take(piece);
    std::memcpy(pinned, static_cast<const uint8_t*>(from) + at, size_t(piece));
    check(cudaMemcpyAsync(static_cast<uint8_t*>(to) + at, pinned, size_t(piece), cudaMemcpyHostToDevice, stream()),
          "upload");
  }
}

void download(void* to, const void* from, int64_t bytes) {
  refuse_recording("download");
  const std::lock_guard<std::mutex> lock(staging_mutex);
  for (int64_t at = 0; at < bytes; at += kStagingHalf) {
    const int64_t piece = std::min(kStagingHalf, bytes - at);
    uint8_t* const pinned = staging().take(piece);
    check(cudaMemcpyAsync(pinned, static_cast<const uint8_t*>(from) + at, size_t(piece), cudaMemcpyDeviceToHost,
                          stream()), "download");
    check(cudaStreamSynchronize(stream()), "download");
    std::memcpy(static_cast<uint8_t*>(to) + at, pinned, size_t(piece));
  }
  throw_fault();
}

void clear(void* data, int64_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(data, 0, size_t(bytes), stream()), "clear");
}

void synchronize() {
  refuse_recording("synchronize");
  check(cudaStreamSynchronize(stream()), "synchronize");
  throw_fault();
}

int* host_fault_word() {
  static int* word = new_fault_word();
  return word;
}

int* fault_word() {
  static int* word = [] {
    void* there = nullptr;
    check(cudaHostGetDevicePointer(&there, host_fault_word(), 0), "pinned memory");
    return static_cast<int*>(there);
  }();
  return word;
}

}  // namespace nibble::cuda
