// Weighted sums in fixed point.
#include "kernels.h"

namespace hedgerow::HEDGEROW_ISA {

void add_fixed(const float *values, int64_t weight, int64_t *high, int64_t *low, int64_t count) {
    constexpr int limb = 26;
    for (int64_t i = 0; i < count; ++i) {
        // Times 2^32 is exact; the nearest integer, ties to even, is below 2^52.
        const int64_t fixed = int64_t(__builtin_rint(double(values[i]) * 0x1p32));
        high[i] += (fixed >> limb) * weight;
        low[i] += (fixed & ((int64_t(1) << limb) - 1)) * weight;
    }
}

} // namespace hedgerow::HEDGEROW_ISA
