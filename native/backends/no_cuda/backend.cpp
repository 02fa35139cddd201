// Linked where the CUDA backend is not compiled: every use says so.
#include "core/error.h"
#include "ops/backend.h"

namespace nibble {

const Backend& cuda_backend() {
  throw Error(Code::kFailedPrecondition, "cuda", "unavailable: this build has no CUDA backend");
}

}  // namespace nibble
