// Vectors as wide as the instruction set, in GCC's and Clang's own notation.
#pragma once

#include "kernels.h"

namespace hedgerow::HEDGEROW_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t IntLanes __attribute__((vector_size(4 * LANES)));
typedef float LooseLanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Lanes load(const float *p) { return *reinterpret_cast<const LooseLanes *>(p); }
static inline void store(float *p, Lanes v) { *reinterpret_cast<LooseLanes *>(p) = v; }
static inline Lanes all(float value) { return Lanes{} + value; }

// Below so many values a second thread costs more than it saves.
static inline int useful_threads(int threads, int64_t values) { return values < (1 << 18) ? 1 : threads; }

// The sum of the lanes, in double precision, first to last.
static inline double total(Lanes v) {
    double sum = 0;
    for (int k = 0; k < LANES; ++k)
        sum += double(v[k]);
    return sum;
}

// max(v, 0), where NaN stays NaN.
static inline Lanes rectified(Lanes v) { return v < 0.f ? Lanes{} : v; }
static inline float rectified(float v) { return v < 0.f ? 0.f : v; }

} // namespace hedgerow::HEDGEROW_ISA
