// Blocks and threads on the host. A fiber takes the block's threads one after the other; only when one waits at a
// barrier does another fiber go on with the rest, so kernels without barriers are a plain loop.
#include <cstdio>
#include <memory>
#include <mutex>
#include <vector>

#include "backends/cuda/emulation/traffic.h"
#include "fragments.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a call keeps and the stack pointer, and goes on where the other stack was left. swapcontext would ask the
// kernel each time, which takes ten times as long.
extern "C" void nibble_emulation_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl nibble_emulation_switch
.hidden nibble_emulation_switch
.type nibble_emulation_switch, @function
nibble_emulation_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size nibble_emulation_switch, . - nibble_emulation_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl nibble_emulation_switch
.hidden nibble_emulation_switch
.type nibble_emulation_switch, @function
nibble_emulation_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size nibble_emulation_switch, . - nibble_emulation_switch
)");
#endif

namespace nibble::cuda::emulation {

namespace {

constexpr size_t kStackBytes = 256 << 10;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Context {
  void* stack_pointer = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  int thread = -1;
};

// A copy to shared memory that has not arrived.
struct Copy {
  void* to;
  const void* from;
  int bytes;
};

// Of a thread: groups that are committed, the oldest first, and the one that is open, last.
using Copies = std::vector<std::vector<Copy>>;

class Block {
 public:
  Block(int threads, int64_t shared_bytes, const std::function<void()>& kernel)
      : kernel_(kernel), threads_(threads), shared_(new unsigned char[size_t(shared_bytes)]), states_(size_t(threads)),
        of_thread_(size_t(threads)), slots_(size_t(threads) * 128), turns_(size_t(threads)),
        copies_(size_t(threads), Copies(1)) {}

  void run(bool reversed);
  void wait(State at);
  void work(Fiber& self);
  unsigned char* shared() const { return shared_.get(); }
  int thread() const { return now_->thread; }
  // Two slots a lane, in turn: who gives the next value has heard that all have read the one before the last.
  unsigned char* slot(int lane) { return slots_.data() + size_t(2 * (now_->thread / kWarp * kWarp + lane) + turn()) * 64; }
  void next_turn() { turns_[size_t(now_->thread)] ^= 1; }
  Fiber* now() const { return now_; }
  int lane() const { return now_->thread % kWarp; }
  Copies& copies() { return copies_[size_t(now_->thread)]; }

 private:
  int turn() const { return turns_[size_t(now_->thread)]; }
  void resume(Fiber& fiber);
  bool release_barriers();
  Fiber& idle_fiber();

  const std::function<void()>& kernel_;
  int threads_, taken_ = 0;
  bool reversed_ = false;
  std::unique_ptr<unsigned char[]> shared_;
  std::vector<State> states_;
  std::vector<Fiber*> of_thread_;  // that waits with the thread
  std::vector<unsigned char> slots_, turns_;
  std::vector<Copies> copies_;
  Fiber* now_ = nullptr;
};

Block* running = nullptr;
Context scheduler;
bool is_reversed = false;
std::mutex one_launch;  // threadIdx and its like are the process's
std::vector<std::unique_ptr<Fiber>> pool;
std::vector<Fiber*> idle;

[[noreturn]] void fail(const char* text) {
  std::fprintf(stderr, "CUDA emulation: block %u,%u,%u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z, text);
  std::abort();
}

// The sanitizer is told which stack is left for which. What is arrived on a fiber came from the scheduler, whose stack
// is that of whoever launched.
void leave(Context& from, const Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_bytes);
#endif
  (void)from, (void)to;
}

void arrive(Context& here) {
#if defined(__SANITIZE_ADDRESS__)
  const bool on_fiber = &here != &scheduler;
  __sanitizer_finish_switch_fiber(here.fake_stack, on_fiber ? &scheduler.stack_bottom : nullptr,
                                  on_fiber ? &scheduler.stack_bytes : nullptr);
#endif
  (void)here;
}

void go(Context& from, Context& to) {
  leave(from, to);
  nibble_emulation_switch(&from.stack_pointer, to.stack_pointer);
  arrive(from);
}

// Where a fiber begins.
void enter() {
  Fiber* const self = running->now();
  arrive(self->context);
  for (;;) running->work(*self);
}

// What the first switch to a fiber takes from its stack: nothing to restore, and enter() to go on with.
void* first_frame(char* stack_end) {
#if defined(__x86_64__)
  constexpr int kSaved = 6;  // then the address; the stack is as a call leaves it, 8 off a multiple of 16
  auto** const top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack_end) / 16 * 16) - 2;
  top[0] = reinterpret_cast<void*>(enter);
  top[1] = nullptr;
  for (int i = 1; i <= kSaved; ++i) top[-i] = nullptr;
  return top - kSaved;
#else
  constexpr int kSaved = 20, kLink = 11;
  auto** const top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack_end) / 16 * 16) - kSaved;
  for (int i = 0; i < kSaved; ++i) top[i] = nullptr;
  top[kLink] = reinterpret_cast<void*>(enter);
  return top;
#endif
}

Fiber& Block::idle_fiber() {
  if (idle.empty()) {
    pool.push_back(std::make_unique<Fiber>());
    Fiber* const made = pool.back().get();
    made->context.stack_bottom = made->stack.get();
    made->context.stack_bytes = kStackBytes;
    made->context.stack_pointer = first_frame(made->stack.get() + kStackBytes);
    idle.push_back(made);
  }
  Fiber& fiber = *idle.back();
  idle.pop_back();
  return fiber;
}

void Block::resume(Fiber& fiber) {
  now_ = &fiber;
  if (fiber.thread >= 0) threadIdx.x = unsigned(fiber.thread);
  go(scheduler, fiber.context);
}

// Runs threads that nobody has begun until there are no more; then back to the scheduler, idle.
void Block::work(Fiber& self) {
  while (taken_ < threads_) {
    self.thread = reversed_ ? threads_ - 1 - taken_ : taken_;
    ++taken_;
    threadIdx = {unsigned(self.thread), 0, 0};
    kernel_();
    for (const std::vector<Copy>& group : copies_[size_t(self.thread)])
      if (!group.empty()) fail("a thread ended before copies of it had arrived");
    states_[size_t(self.thread)] = State::kDone;
  }
  self.thread = -1;
  idle.push_back(&self);
  go(self.context, scheduler);
}

void Block::wait(State at) {
  Fiber& self = *now_;
  states_[size_t(self.thread)] = at;
  of_thread_[size_t(self.thread)] = &self;
  go(self.context, scheduler);
}

// Makes those ready whose barrier all the others have reached; threads that have ended count as there.
bool Block::release_barriers() {
  bool released = false;
  for (int warp = 0; warp < threads_; warp += kWarp) {
    const int end = std::min(threads_, warp + kWarp);
    int waiting = 0, done = 0;
    for (int t = warp; t < end; ++t) {
      waiting += states_[size_t(t)] == State::kAtWarp;
      done += states_[size_t(t)] == State::kDone;
    }
    if (waiting == 0) continue;
    if (waiting + done < end - warp) fail("a warp's barrier that not all of its threads reach");
    if (done > 0) fail("a warp's barrier after threads of it have ended");
    for (int t = warp; t < end; ++t) states_[size_t(t)] = State::kReady;
    released = true;
  }
  if (released) return true;
  for (State& s : states_) {
    if (s == State::kAtBlock) {
      s = State::kReady;
      released = true;
    }
  }
  return released;
}

void Block::run(bool reversed) {
  reversed_ = reversed;
  while (taken_ < threads_) resume(idle_fiber());
  while (release_barriers()) {
    for (int i = 0; i < threads_; ++i) {
      const auto t = size_t(reversed_ ? threads_ - 1 - i : i);
      if (states_[t] == State::kReady) resume(*of_thread_[t]);
    }
  }
}

}  // namespace

void run(Grid grid, int threads, int64_t shared_bytes, const std::function<void()>& kernel) {
  if (threads < 1 || threads > 1024) fail("expected 1..1024 threads a block");
  if (shared_bytes > (227 << 10)) fail("expected at most 227 KiB of shared memory");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) fail("expected a grid of at most 2^31 - 1 by 65535 by 65535");
  const std::lock_guard<std::mutex> lock(one_launch);
  if (is_counting) begin_launch_traffic();
  gridDim = grid;
  blockDim = {unsigned(threads), 1, 1};
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        Block block(threads, shared_bytes, kernel);
        running = &block;
        block.run(is_reversed);
        if (is_counting) end_block_traffic(block.shared(), shared_bytes);
      }
  running = nullptr;
}

void set_reversed(bool reversed) { is_reversed = reversed; }
unsigned char* shared_bytes() { return running->shared(); }
void block_barrier() { running->wait(State::kAtBlock); }
void warp_barrier() { running->wait(State::kAtWarp); }
unsigned char* slot(int lane) { return running->slot(lane); }
void next_turn() { running->next_turn(); }
int lane() { return running->lane(); }

__attribute__((noinline)) void note(const void* at, int bytes) {
  note_access(at, bytes, running->thread(), __builtin_return_address(0));
}

void require_aligned(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) fail("expected an address that is a multiple of 16");
}

void begin_copy(void* to, const void* from, int bytes) {
  if (bytes < 0 || bytes > 16) fail("expected 0..16 bytes");
  require_aligned(to);
  require_aligned(from);
  std::memset(to, 0xff, 16);
  running->copies().back().push_back({to, from, bytes});
}

void commit_copies() { running->copies().emplace_back(); }

void wait_copies(int groups) {
  Copies& all = running->copies();
  while (int(all.size()) - 1 > groups) {
    for (const Copy& c : all.front()) {
      std::memset(c.to, 0, 16);
      std::memcpy(c.to, c.from, size_t(c.bytes));
    }
    all.erase(all.begin());
  }
}

}  // namespace nibble::cuda::emulation
