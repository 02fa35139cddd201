// Recorded launches, run again in their order; see core/device_graph.h.
#include <vector>

#include "core/device_graph.h"
#include "core/error.h"
#include "platform.h"

namespace nibble::cuda {

namespace {

using Launches = std::vector<std::function<void()>>;

std::unique_ptr<Launches> recording;

class LaunchList : public Graph {
 public:
  explicit LaunchList(Launches all) : all_(std::move(all)) {}
  void replay() override {
    for (const auto& launch : all_) launch();
  }

 private:
  Launches all_;
};

}  // namespace

void emulation::queue(std::function<void()> work) {
  recording ? recording->push_back(std::move(work)) : work();
}

bool is_recording() { return recording != nullptr; }

void begin_recording() {
  refuse_recording("graph");
  recording = std::make_unique<Launches>();
}

std::unique_ptr<Graph> end_recording() {
  const std::unique_ptr<Launches> ended = std::move(recording);
  if (!ended) throw Error(Code::kInternal, "cuda", "graph: nothing is being recorded");
  return std::make_unique<LaunchList>(std::move(*ended));
}

}  // namespace nibble::cuda
