// Linked where the CUDA backend is not compiled: every use says so.
#include "core/device_graph.h"
#include "core/device_memory.h"
#include "core/device_products.h"
#include "core/error.h"
#include "ops/backend.h"

namespace nibble {

namespace cuda {

namespace {
[[noreturn]] void refuse() { throw Error(Code::kFailedPrecondition, "cuda", "unavailable: " + unavailable()); }
}  // namespace

const std::string& unavailable() {
  static const std::string* reason = new std::string("this build has no CUDA backend");
  return *reason;
}

DeviceFacts device_facts() { refuse(); }
void* allocate(int64_t) { refuse(); }
void release(void*) { refuse(); }
void* allocate_managed(int64_t) { refuse(); }
void release_managed(void*) { refuse(); }
void advise_managed(void*, int64_t, Use) { refuse(); }
void upload(void*, const void*, int64_t) { refuse(); }
void download(void*, const void*, int64_t) { refuse(); }
void clear(void*, int64_t) { refuse(); }
void synchronize() { refuse(); }
void begin_recording() { refuse(); }
std::unique_ptr<Graph> end_recording() { refuse(); }
bool is_recording() { return false; }
void choose_products(Products) { refuse(); }
Products chosen_products() { return Products::kOwn; }

}  // namespace cuda

const Backend& cuda_backend() { cuda::refuse(); }

}  // namespace nibble
