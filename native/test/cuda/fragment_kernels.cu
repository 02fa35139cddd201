#include "test/cuda/fragment_kernels.h"

#include "backends/cuda/kernel.h"
#include "fragments.h"

namespace nibble::cuda {

namespace {

struct alignas(16) Shared {
  uint16_t a[256], b[128];
};

__device__ inline uint32_t pair(const uint16_t* low, const uint16_t* high) {
  return uint32_t(*low) | (uint32_t(*high) << 16);
}

// [1] copied to shared memory [2] to fragments [3] multiplied
__global__ void multiply_kernel(const uint16_t* a, const uint16_t* b, float* c, bool transposed, bool by_hand) {
  __shared__ Shared shared;
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  copy_async(&shared.a[8 * lane], a + 8 * lane, 16);
  if (lane < 16) copy_async(&shared.b[8 * lane], b + 8 * lane, 16);
  commit_copies();
  wait_copies<0>();
  __syncwarp();
  uint32_t of_a[4], of_b[2];
  if (by_hand) {
    for (int r = 0; r < 4; ++r) {
      const int row = g + 8 * (r % 2), column = 2 * t + 8 * (r / 2);
      const uint16_t* const at = transposed ? &shared.a[column * 16 + row] : &shared.a[row * 16 + column];
      of_a[r] = pair(at, at + (transposed ? 16 : 1));
    }
    for (int r = 0; r < 2; ++r) {
      const int row = 2 * t + 8 * r;
      const uint16_t* const at = transposed ? &shared.b[row * 8 + g] : &shared.b[g * 16 + row];
      of_b[r] = pair(at, at + (transposed ? 8 : 1));
    }
  } else {
    // Matrix i of A: rows 8 (i % 2), columns 8 (i / 2). Of B: rows 8 i.
    const int i = lane / 8, r = lane % 8;
    if (transposed) {
      load_matrices_transposed(of_a, &shared.a[(8 * (i / 2) + r) * 16 + 8 * (i % 2)]);
      load_matrices_transposed(of_b, &shared.b[(8 * (i % 2) + r) * 8]);
    } else {
      load_matrices(of_a, &shared.a[(8 * (i % 2) + r) * 16 + 8 * (i / 2)]);
      load_matrices(of_b, &shared.b[r * 16 + 8 * (i % 2)]);
    }
  }
  float sum[4];
  for (int r = 0; r < 4; ++r) sum[r] = c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2];
  multiply_add(sum, of_a, of_b);
  for (int r = 0; r < 4; ++r) c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2] = sum[r];
}

__global__ void copy_kernel(const uint8_t* from, uint8_t* first, uint8_t* both, int tail) {
  __shared__ uint4 space[6];
  uint8_t* const shared = reinterpret_cast<uint8_t*>(space);
  const int lane = int(threadIdx.x), at = 16 * lane;
  if (lane < 3) copy_async(&shared[at], from + at, 16);
  commit_copies();
  if (lane >= 3 && lane < 6) copy_async(&shared[at], from + at, lane == 5 ? tail : 16);
  commit_copies();
  wait_copies<1>();
  __syncwarp();
  for (int i = lane; i < 96; i += 32) first[i] = shared[i];
  __syncwarp();
  wait_copies<0>();
  __syncwarp();
  for (int i = lane; i < 96; i += 32) both[i] = shared[i];
}

}  // namespace

}  // namespace nibble::cuda

namespace nibble::test {

void multiply_fragments(const Tensor& a, const Tensor& b, const Tensor& c, bool transposed, bool by_hand) {
  cuda::launch(cuda::multiply_kernel, cuda::grid_of(1), 32, 0, a.u16(), b.u16(), c.f32(), transposed, by_hand);
}

void copy_in_groups(const Tensor& from, const Tensor& first, const Tensor& both, int tail) {
  cuda::launch(cuda::copy_kernel, cuda::grid_of(1), 32, 0, from.u8(), first.u8(), both.u8(), tail);
}

}  // namespace nibble::test
