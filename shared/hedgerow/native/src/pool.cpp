// Pooling of planes (C, H, W, N), vectors along the samples.
#include "lanes.h"

#include <cstring>

namespace hedgerow::HEDGEROW_ISA {

template <int WIDTH> struct Wide {
    typedef float Floats __attribute__((vector_size(4 * WIDTH)));
    typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));
    typedef uint8_t Bytes __attribute__((vector_size(WIDTH)));
};

// Of max-pooling: N samples, inputs H x W, outputs OH x OW, and the window.
struct PoolShape {
    int64_t n, h, w, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw;
};

static PoolShape shape_of(const int64_t *s) {
    return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12]};
}

// The largest value in the window of output (oy, ox), and which it is, for the samples of one vector. As in torch: the
// first of equal ones, and NaN is larger than all others, the last of several.
template <class Vector, class Winner>
static inline void winner_of(const PoolShape &s, const float *x, int64_t oy, int64_t ox, Vector &best, Winner &winner) {
    best = Vector{} - __builtin_inff();
    winner = Winner{} - 1;
    for (int64_t r = 0; r < s.kh; ++r) {
        const int64_t y = oy * s.sh - s.ph + r * s.dh;
        if (y < 0 || y >= s.h)
            continue;
        for (int64_t q = 0; q < s.kw; ++q) {
            const int64_t column = ox * s.sw - s.pw + q * s.dw;
            if (column < 0 || column >= s.w)
                continue;
            Vector v;
            std::memcpy(&v, x + (y * s.w + column) * s.n, sizeof v);
            // Where all values are -inf, the first one wins.
            const auto wins = (v > best) | (v != v) | (winner < 0);
            best = wins ? v : best;
            winner = wins ? Winner{} + int32_t(r * s.kw + q) : winner;
        }
    }
}

template <int WIDTH>
static inline int64_t pool_samples(
    const PoolShape &s, const float *x, int64_t oy, int64_t ox, float *y, uint8_t *winners, int64_t k) {
    typedef typename Wide<WIDTH>::Floats Vector;
    typedef typename Wide<WIDTH>::Integers Winner;
    typedef typename Wide<WIDTH>::Bytes Bytes;
    for (; k + WIDTH <= s.n; k += WIDTH) {
        Vector best;
        Winner winner;
        winner_of(s, x + k, oy, ox, best, winner);
        const Bytes bytes = __builtin_convertvector(winner, Bytes);
        std::memcpy(y + k, &best, sizeof best);
        std::memcpy(winners + k, &bytes, sizeof bytes);
    }
    return k;
}

void max_pool(const float *x, float *y, uint8_t *winners, const int64_t *shape, int64_t channels, int threads) {
    const PoolShape s = shape_of(shape);
    divide(useful_threads(threads, channels * s.h * s.w * s.n), channels, 1, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c)
            for (int64_t oy = 0; oy < s.oh; ++oy)
                for (int64_t ox = 0; ox < s.ow; ++ox) {
                    const float *plane = x + c * s.h * s.w * s.n;
                    const int64_t at = ((c * s.oh + oy) * s.ow + ox) * s.n;
                    int64_t k = 0;
                    if (LANES == 16)
                        k = pool_samples<16>(s, plane, oy, ox, y + at, winners + at, k);
                    if (LANES >= 8)
                        k = pool_samples<8>(s, plane, oy, ox, y + at, winners + at, k);
                    k = pool_samples<4>(s, plane, oy, ox, y + at, winners + at, k);
                    for (; k < s.n; ++k) {
                        float best;
                        int32_t winner;
                        winner_of(s, plane + k, oy, ox, best, winner);
                        y[at + k] = best;
                        winners[at + k] = uint8_t(winner);
                    }
                }
    });
}

// Adds the gradients of one output to the winners in its window; writes them where no other window has a share.
template <int WIDTH, bool ALONE>
static inline int64_t spread_samples(
    const PoolShape &s, const float *grad, const uint8_t *winners, int64_t oy, int64_t ox, float *gx, int64_t k) {
    typedef typename Wide<WIDTH>::Floats Vector;
    typedef typename Wide<WIDTH>::Integers Winner;
    typedef typename Wide<WIDTH>::Bytes Bytes;
    for (; k + WIDTH <= s.n; k += WIDTH) {
        Vector g;
        Bytes bytes;
        std::memcpy(&g, grad + k, sizeof g);
        std::memcpy(&bytes, winners + k, sizeof bytes);
        const Winner winner = __builtin_convertvector(bytes, Winner);
        for (int64_t r = 0; r < s.kh; ++r) {
            const int64_t y = oy * s.sh - s.ph + r * s.dh;
            if (y < 0 || y >= s.h)
                continue;
            for (int64_t q = 0; q < s.kw; ++q) {
                const int64_t column = ox * s.sw - s.pw + q * s.dw;
                if (column < 0 || column >= s.w)
                    continue;
                float *to = gx + (y * s.w + column) * s.n + k;
                Vector sum{};
                if (!ALONE)
                    std::memcpy(&sum, to, sizeof sum);
                sum += (winner == int32_t(r * s.kw + q)) ? g : Vector{};
                std::memcpy(to, &sum, sizeof sum);
            }
        }
    }
    return k;
}

template <bool ALONE>
static int64_t spread(
    const PoolShape &s, const float *grad, const uint8_t *winners, int64_t oy, int64_t ox, float *plane) {
    int64_t k = 0;
    if (LANES == 16)
        k = spread_samples<16, ALONE>(s, grad, winners, oy, ox, plane, k);
    if (LANES >= 8)
        k = spread_samples<8, ALONE>(s, grad, winners, oy, ox, plane, k);
    return spread_samples<4, ALONE>(s, grad, winners, oy, ox, plane, k);
}

void max_pool_backward(
    const float *grad, const uint8_t *winners, float *gx, const int64_t *shape, int64_t channels, int threads) {
    const PoolShape s = shape_of(shape);
    // In large windows it is quicker to go to each winner than to ask everywhere.
    const bool small = s.kh * s.kw <= 16;
    const bool tiles = s.sh == s.kh && s.sw == s.kw && s.oh * s.kh == s.h && s.ow * s.kw == s.w && !s.ph && !s.pw &&
                       s.dh == 1 && s.dw == 1;
    // Then each place is written once, whole.
    const bool alone = small && tiles && s.n % 4 == 0;
    divide(useful_threads(threads, channels * s.h * s.w * s.n), channels, 1, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
            float *plane = gx + c * s.h * s.w * s.n;
            if (!alone)
                std::memset(plane, 0, size_t(s.h * s.w * s.n) * sizeof *plane);
            for (int64_t oy = 0; oy < s.oh; ++oy)
                for (int64_t ox = 0; ox < s.ow; ++ox) {
                    const int64_t at = ((c * s.oh + oy) * s.ow + ox) * s.n;
                    const float *g = grad + at;
                    const uint8_t *w = winners + at;
                    int64_t k = 0;
                    if (small)
                        k = alone ? spread<true>(s, g, w, oy, ox, plane) : spread<false>(s, g, w, oy, ox, plane);
                    for (; k < s.n; ++k) {
                        const int64_t y = oy * s.sh - s.ph + w[k] / s.kw * s.dh;
                        const int64_t column = ox * s.sw - s.pw + w[k] % s.kw * s.dw;
                        plane[(y * s.w + column) * s.n + k] += g[k];
                    }
                }
        }
    });
}

// y (C, N) = the mean over each channel's `places` = H*W.
void average_pool(const float *x, float *y, int64_t channels, int64_t places, int64_t n, int threads) {
    const float share = 1.f / float(places);
    divide(useful_threads(threads, channels * places * n), channels, 1, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
            const float *plane = x + c * places * n;
            int64_t k = 0;
            for (; k + LANES <= n; k += LANES) {
                Lanes sum{};
                for (int64_t place = 0; place < places; ++place)
                    sum += load(plane + place * n + k);
                store(y + c * n + k, sum * share);
            }
            for (; k < n; ++k) {
                float sum = 0;
                for (int64_t place = 0; place < places; ++place)
                    sum += plane[place * n + k];
                y[c * n + k] = sum * share;
            }
        }
    });
}

} // namespace hedgerow::HEDGEROW_ISA
