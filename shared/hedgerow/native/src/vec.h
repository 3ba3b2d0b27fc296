// What the convolutions and topk.cpp need of vectors besides lanes.h, and small arithmetic.
#pragma once

#include "lanes.h"

#include <utility>

// For what holds a tile in registers: a call would pass it through memory.
#define HEDGEROW_INLINE __attribute__((always_inline))

namespace hedgerow::HEDGEROW_ISA {

typedef Lanes Vec;
constexpr int lanes = LANES;

// Registers: a tile of 16 accumulators stays in 32 of them, one of 8 in 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool many_registers = true;
#else
constexpr bool many_registers = false;
#endif

// A value in all lanes. Unlike + 0, which -0 would not survive, - 0 costs nothing.
inline Vec broadcast(float value) { return value - Vec{}; }

// The first `count` lanes; the others are 0.
inline Vec load_some(const float *p, int64_t count) {
    Vec v{};
    for (int64_t i = 0; i < count; ++i)
        v[i] = p[i];
    return v;
}

inline void store_some(float *p, Vec v, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        p[i] = v[i];
}

// The same pointer, as one that the compiler cannot express by another one: loads relative to it need no index register,
// and a multiply-add with an index register is two instructions inside the processor.
inline const float *own_register(const float *p) {
    asm("" : "+r"(p));
    return p;
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }
inline int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }
inline int64_t rounded_up(int64_t value, int64_t multiple) { return parts(value, multiple) * multiple; }

template <int width, int... i> inline Vec fold(Vec a, Vec b, std::integer_sequence<int, i...>) {
    constexpr int low = width - 1, high = ~(2 * width - 1);
#if !defined(__has_builtin) || __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, ((i & width ? lanes : 0) + (i & high) + (i & low))...) +
           __builtin_shufflevector(a, b, ((i & width ? lanes : 0) + (i & high) + (i & low) + width)...);
#else // GCC before 12
    const IntLanes even{((i & width ? lanes : 0) + (i & high) + (i & low))...};
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + width);
#endif
}

// The sum over all lanes of each of rows[first] … rows[first + 2 * width - 1], repeated in blocks of 2 * width lanes;
// called with width = lanes / 2 it is one sum a lane. Far fewer shuffles than one reduction after the other, and every
// sum is made in the same order, wherever its row stands.
template <int width> inline Vec sums(const Vec *rows) {
    constexpr auto sequence = std::make_integer_sequence<int, lanes>();
    if constexpr (width == 1)
        return fold<1>(rows[0], rows[1], sequence);
    else
        return fold<width>(sums<width / 2>(rows), sums<width / 2>(rows + width), sequence);
}

} // namespace hedgerow::HEDGEROW_ISA
