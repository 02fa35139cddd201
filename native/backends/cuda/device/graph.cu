// CUDA graphs; see core/device_graph.h.
#include "core/device_graph.h"
#include "core/error.h"
#include "platform.h"

namespace nibble::cuda {

namespace {

bool recording = false;

class DriverGraph : public Graph {
 public:
  explicit DriverGraph(cudaGraph_t recorded) { check(cudaGraphInstantiate(&graph_, recorded, 0), "graph"); }
  ~DriverGraph() override {
    cudaStreamSynchronize(stream());
    cudaGraphExecDestroy(graph_);
  }
  void replay() override { check(cudaGraphLaunch(graph_, stream()), "graph"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

bool is_recording() { return recording; }

void begin_recording() {
  refuse_recording("graph");
  // Of this thread alone: what another one asks of the driver does not end it.
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "graph");
  recording = true;
}

std::unique_ptr<Graph> end_recording() {
  recording = false;
  cudaGraph_t recorded = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream(), &recorded);
  if (ended != cudaSuccess) cudaGetLastError();  // a recording that failed is no lasting error
  check(ended, "graph");
  std::unique_ptr<Graph> graph;
  try {
    graph = std::make_unique<DriverGraph>(recorded);
  } catch (...) {
    cudaGraphDestroy(recorded);
    throw;
  }
  cudaGraphDestroy(recorded);
  return graph;
}

}  // namespace nibble::cuda
