// What may not be recorded; see core/device_graph.h.
#include "core/device_graph.h"
#include "core/error.h"

namespace nibble::cuda {

void refuse_recording(const char* what) {
  if (!is_recording()) return;
  throw Error(Code::kFailedPrecondition, "cuda", std::string(what) + ": expected work that can be recorded, got what cannot");
}

}  // namespace nibble::cuda
