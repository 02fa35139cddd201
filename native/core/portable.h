// Arithmetic that host and device share is marked NIBBLE_HD: compiled twice by nvcc, once by other compilers, so what
// a kernel computes with is tested on machines without a GPU.
#pragma once

#if defined(__CUDACC__)
#define NIBBLE_HD __host__ __device__
#else
#define NIBBLE_HD
#endif
