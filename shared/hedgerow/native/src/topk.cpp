// The largest of many values: from what size on they are, and they alone as bfloat16 beside a bitmap, and back.
//
// Sizes are compared as the integers that their bits are without the sign; these are in the order of the sizes.
#include "vec.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace hedgerow::HEDGEROW_ISA {
namespace {

constexpr uint32_t size_bits = 0x7fffffff, infinite = 0x7f800000;
constexpr int64_t lowers = 1 << 16, uppers = 1 << 15; // values of the lower half of a size, and of the upper one
constexpr int64_t sample = 1 << 14;
constexpr int step = 16; // values at a time; they have two bytes of the bitmap

typedef uint32_t Word __attribute__((may_alias));

inline uint32_t bits_of(const float *x) { return *reinterpret_cast<const Word *>(x); }
inline uint32_t size_of(const float *x) { return bits_of(x) & size_bits; }

// The upper half of the nearest bfloat16, of two the even one; for what is finite.
template <class Bits> inline Bits rounded(Bits bits) { return (bits + 0x7fff + (bits >> 16 & 1)) >> 16; }

// Calls body(at, n) for all values, n <= `step` at a time.
template <class Body> inline void for_each_step(int64_t count, Body body) {
    int64_t at = 0;
    for (; at + step <= count; at += step)
        body(at, step);
    if (at < count)
        body(at, int(count - at));
}

// Calls body(i) for each 1, from the lowest on.
template <class Body> inline void for_each_one(unsigned ones, Body body) {
    for (; ones; ones &= ones - 1)
        body(__builtin_ctz(ones));
}

// One bit a lane, all of whose bits are equal.
inline unsigned bits_of(IntLanes flags) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(flags));
#elif defined(__AVX__)
    return unsigned(_mm256_movemask_ps(reinterpret_cast<__m256>(flags)));
#elif defined(__SSE2__)
    return unsigned(_mm_movemask_ps(reinterpret_cast<__m128>(flags)));
#else
    unsigned bits = 0;
    for (int k = 0; k < LANES; ++k)
        bits |= unsigned(flags[k] & 1) << k;
    return bits;
#endif
}

inline IntLanes sizes_of(Lanes x) { return reinterpret_cast<IntLanes>(x) & int32_t(size_bits); }

// Which of n values are larger in size: bit i says it of x[i].
inline unsigned larger(const float *x, int n, uint32_t size) {
    unsigned ones = 0;
    for (int i = 0; i < n; i += LANES) {
        const Lanes part = i + LANES <= n ? load(x + i) : load_some(x + i, n - i);
        ones |= bits_of(sizes_of(part) > int32_t(size)) << i;
    }
    return ones;
}

#if defined(__AVX512F__)

typedef uint32_t Words __attribute__((vector_size(4 * step)));

inline __mmask16 first(int count) { return __mmask16((1u << count) - 1); }

// Writes the values whose bit is 1, one behind the other, with room for a vector. Returns how many they are.
inline int64_t compress(const float *x, unsigned ones, uint32_t *out) {
    const __mmask16 mask = __mmask16(ones);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, _mm512_maskz_loadu_epi32(mask, x)));
    return __builtin_popcount(ones);
}

// Writes those of n values whose bit is 1; there is room for `room`. Returns how many they are.
inline int64_t gather(const float *x, int, unsigned held, uint16_t *values, int64_t) {
    const __mmask16 ones = __mmask16(held);
    const int count = __builtin_popcount(held);
    const Words bits = reinterpret_cast<Words>(_mm512_maskz_compress_epi32(ones, _mm512_maskz_loadu_epi32(ones, x)));
    const __m512i upper = reinterpret_cast<__m512i>(rounded(bits));
    _mm256_mask_storeu_epi16(values, first(count), _mm512_maskz_cvtepi32_epi16(first(count), upper));
    return count;
}

// Writes n values: the next of `values`, `left` of which are there, where the bit is 1, else 0. Returns how many it took.
inline int64_t scatter(const uint16_t *values, int64_t, unsigned held, float *x, int n) {
    const int count = __builtin_popcount(held);
    const __m256i next = _mm256_maskz_loadu_epi16(first(count), values);
    const Words bits = reinterpret_cast<Words>(_mm512_maskz_cvtepu16_epi32(first(count), next)) << 16;
    const __m512i spread = _mm512_maskz_expand_epi32(__mmask16(held), reinterpret_cast<__m512i>(bits));
    _mm512_mask_storeu_epi32(x, first(n), spread);
    return count;
}

#else

inline int64_t compress(const float *x, unsigned ones, uint32_t *out) {
    int64_t count = 0;
    for_each_one(ones, [&](int i) { out[count++] = bits_of(x + i); });
    return count;
}

inline int64_t gather(const float *x, int n, unsigned held, uint16_t *values, int64_t room) {
    int64_t count = 0;
    if (n == step && room >= step) { // without a branch for each value: one that is not held is written over
        uint32_t every[step];
        for (int i = 0; i < step; ++i)
            every[i] = rounded(bits_of(x + i));
        for (int i = 0; i < step; ++i) {
            values[count] = uint16_t(every[i]);
            count += held >> i & 1;
        }
    } else {
        for_each_one(held, [&](int i) { values[count++] = uint16_t(rounded(bits_of(x + i))); });
    }
    return count;
}

inline int64_t scatter(const uint16_t *values, int64_t left, unsigned held, float *x, int n) {
    Word *bits = reinterpret_cast<Word *>(x);
    int64_t count = 0;
    if (n == step && left >= step) {
        for (int i = 0; i < step; ++i) {
            const uint32_t one = held >> i & 1;
            bits[i] = (uint32_t(values[count]) << 16) & -one;
            count += one;
        }
    } else {
        for (int i = 0; i < n; ++i)
            bits[i] = 0;
        for_each_one(held, [&](int i) { bits[i] = uint32_t(values[count++]) << 16; });
    }
    return count;
}

#endif

struct Beyond {
    int64_t count;
    bool finite; // all values
};

// Of sizes above `floor` and up to `ceiling`, how many have which 16 bits from bit `shift` on. Returns what is beyond.
Beyond count_between(const float *x, int64_t count, uint32_t floor, uint32_t ceiling, int shift, uint32_t *counts) {
    __builtin_memset(counts, 0, lowers * sizeof *counts);
    // They are few: a branch where there is one would be foreseen badly, so they wait here.
    constexpr int64_t full = 512;
    uint32_t waiting[full + LANES];
    int64_t filled = 0;
    IntLanes beyond{}, infinities{};
    for (int64_t at = 0; at < count; at += LANES) {
        const IntLanes sizes = sizes_of(at + LANES <= count ? load(x + at) : load_some(x + at, count - at));
        const IntLanes above = sizes > int32_t(ceiling);
        beyond -= above;
        infinities |= sizes >= int32_t(infinite);
        filled += compress(x + at, bits_of((sizes > int32_t(floor)) & ~above), waiting + filled);
        if (filled >= full || at + LANES >= count) {
            for (int64_t k = 0; k < filled; ++k)
                ++counts[(waiting[k] & size_bits) >> shift & (lowers - 1)];
            filled = 0;
        }
    }
    Beyond all{0, !bits_of(infinities)};
    for (int k = 0; k < LANES; ++k)
        all.count += beyond[k];
    return all;
}

// Goes down from one counter to another at most, until with this one `wanted` are there; `above` are there before it.
int64_t go_down(const uint32_t *counts, int64_t from, int64_t to, int64_t wanted, int64_t &above) {
    int64_t k = from;
    for (; k > to && above + counts[k] < wanted; --k)
        above += counts[k];
    return k;
}

// Upper halves of two sizes with the wanted-th largest most likely between them: 4 standard deviations of the sample's
// quantile to both sides.
void bracket(const float *x, int64_t count, int64_t wanted, uint32_t *counts, int64_t &low, int64_t &high) {
    __builtin_memset(counts, 0, uppers * sizeof *counts);
    const int64_t stride = count / sample | 1; // odd: less likely a period of the values
    int64_t seen = 0;
    for (int64_t i = 0; i < count; i += stride, ++seen)
        ++counts[size_of(x + i) >> 16];
    const double rank = double(wanted) / double(count) * double(seen);
    const int64_t spread = int64_t(2 * __builtin_sqrt(double(seen))) + 2;
    int64_t above = 0;
    high = go_down(counts, uppers - 1, 0, int64_t(rank) - spread, above);
    low = go_down(counts, high, 0, int64_t(rank) + spread, above);
}

} // namespace

void topk_threshold(const float *x, int64_t count, int64_t wanted, uint32_t *counts, float *threshold, int64_t *above) {
    Word *found = reinterpret_cast<Word *>(threshold);
    int64_t low, high, upper;
    bracket(x, count, wanted, counts, low, high);
    for (;;) {
        // Zeros are never counted: they are what is left when nothing else is it.
        const uint32_t floor = low ? uint32_t(low << 16) - 1 : 0, ceiling = uint32_t(high << 16 | (lowers - 1));
        const Beyond beyond = count_between(x, count, floor, ceiling, 16, counts);
        if (!beyond.finite) {
            *found = infinite;
            return;
        }
        *above = beyond.count;
        upper = go_down(counts, high, low, wanted, *above);
        if (beyond.count < wanted && (!upper || *above + counts[upper] >= wanted))
            break;
        low = 0, high = uppers - 1; // the sample misled
    }
    // Neither are those whose lower half is 0, for the same reason.
    const uint32_t floor = uint32_t(upper << 16);
    *above = count_between(x, count, floor, floor + uint32_t(lowers - 1), 0, counts).count;
    *found = floor + uint32_t(go_down(counts, lowers - 1, 0, wanted, *above));
}

void topk_pack(const float *x, int64_t count, const float *threshold, int64_t ties, int64_t held, uint8_t *bitmap,
               uint16_t *values) {
    const uint32_t size = size_of(threshold);
    int64_t filled = 0;
    for_each_step(count, [&](int64_t at, int n) {
        unsigned ones = larger(x + at, n, size);
        if (ties)
            for_each_one(larger(x + at, n, size - 1) & ~ones, [&](int i) {
                ones |= unsigned(ties > 0) << i;
                ties -= ties > 0;
            });
        bitmap[at / 8] = uint8_t(ones);
        if (n > 8)
            bitmap[at / 8 + 1] = uint8_t(ones >> 8);
        filled += gather(x + at, n, ones, values + filled, held - filled);
    });
}

void topk_unpack(const uint8_t *bitmap, const uint16_t *values, int64_t held, int64_t count, float *x) {
    int64_t taken = 0;
    for_each_step(count, [&](int64_t at, int n) {
        const unsigned ones = bitmap[at / 8] | (n > 8 ? unsigned(bitmap[at / 8 + 1]) << 8 : 0);
        taken += scatter(values + taken, held - taken, ones, x + at, n);
    });
}

} // namespace hedgerow::HEDGEROW_ISA
