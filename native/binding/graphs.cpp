// Recorded work and the memory that it runs in, as native/graphs.ts sees them: a set of graphs over one pool, by a number.
#include <map>
#include <mutex>

#include "binding/arguments.h"
#include "core/device_graph.h"
#include "ops/backend.h"

namespace nibble::binding {

namespace {

struct Graphs {
  Memory& memory;
  Pool pool;
  std::map<uint32_t, std::unique_ptr<cuda::Graph>> recorded;
  uint32_t next = 1;

  explicit Graphs(Device device) : memory(memory_of(device)) {}
  ~Graphs() {
    recorded.clear();
    memory.free_pool(pool);
  }
};

// The device is the process's, so these are too.
struct Sets {
  std::mutex mutex;
  std::map<uint32_t, std::unique_ptr<Graphs>> live;
  uint32_t next = 1;
};
Sets& sets() {
  static Sets* instance = new Sets;  // never destroyed: the driver may be gone at the end
  return *instance;
}

Graphs& set_of(const Arguments& a) {
  const std::lock_guard<std::mutex> lock(sets().mutex);
  const auto found = sets().live.find(uint32_t(a.integer(0)));
  require(found != sets().live.end(), "graphs", "expected a set that is not freed");
  return *found->second;
}

cuda::Graph& graph_of(const Arguments& a) {
  Graphs& set = set_of(a);
  const auto found = set.recorded.find(uint32_t(a.integer(1)));
  require(found != set.recorded.end(), "graphs", "expected a graph that is not forgotten, got ", a.integer(1));
  return *found->second;
}

// (device): the CUDA device, or the meta device, where memory is counted and nothing is recorded.
Napi::Value graphs_create(Napi::Env env, const Arguments& a) {
  const auto device = a.choice<Device>(0, kDevices);
  require(device == Device::kCuda || device == Device::kMeta, "graphs", "device: expected cuda or meta, got the host");
  backend_of(device);
  const std::lock_guard<std::mutex> lock(sets().mutex);
  sets().live[sets().next] = std::make_unique<Graphs>(device);
  return Napi::Number::New(env, sets().next++);
}

// (set, records): what follows takes its memory from the set's pool, and is recorded instead of run.
Napi::Value graphs_open(Napi::Env env, const Arguments& a) {
  Graphs& set = set_of(a);
  if (a.flag(1)) cuda::begin_recording();
  set.memory.use_pool(&set.pool);
  return env.Undefined();
}

// (set): ends what graphs_open began, whatever comes of it; the number of the graph, 0 where nothing was recorded.
Napi::Value graphs_close(Napi::Env env, const Arguments& a) {
  Graphs& set = set_of(a);
  set.memory.use_pool(nullptr);
  if (!cuda::is_recording()) return Napi::Number::New(env, 0);
  set.recorded[set.next] = cuda::end_recording();
  return Napi::Number::New(env, set.next++);
}

// (set, graph)
Napi::Value graphs_replay(Napi::Env env, const Arguments& a) {
  graph_of(a).replay();
  return env.Undefined();
}

// (set, graph)
Napi::Value graphs_forget(Napi::Env env, const Arguments& a) {
  graph_of(a);
  set_of(a).recorded.erase(uint32_t(a.integer(1)));
  return env.Undefined();
}

// (set)
Napi::Value graphs_free(Napi::Env env, const Arguments& a) {
  set_of(a);
  const std::lock_guard<std::mutex> lock(sets().mutex);
  sets().live.erase(uint32_t(a.integer(0)));
  return env.Undefined();
}

}  // namespace

void define_graphs(Napi::Object exports) {
  define<graphs_create>(exports, "graphsCreate");
  define<graphs_open>(exports, "graphsOpen");
  define<graphs_close>(exports, "graphsClose");
  define<graphs_replay>(exports, "graphsReplay");
  define<graphs_forget>(exports, "graphsForget");
  define<graphs_free>(exports, "graphsFree");
}

}  // namespace nibble::binding
