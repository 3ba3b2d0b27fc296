// The kernels that Python calls, one line each. The sources are compiled once for each instruction set (see build.py),
// every time into a namespace of its own; dispatch.cpp picks one of them when the library is loaded.
//
// What is compiled more than once must not use inline functions or templates from outside its namespace (so none of
// the C++ library's): the linker keeps one copy of such a function, perhaps one that this processor cannot run.
#pragma once

#include <cstdint>

#ifndef HEDGEROW_ISA
#error "compile with -DHEDGEROW_ISA=<name of the instruction set>; see build.py"
#endif

// Tensors are float32, contiguous, "planes" (C, H, W, N) unless said otherwise; `size` is H*W*N of one channel.
// `threads` only divides the work: results are the same bits for any number.
#define HEDGEROW_KERNELS(X)                                                                                            \
    /* norm.cpp: mean and biased variance of each channel. */                                                          \
    X(channel_statistics, (const float *z, float *mean, float *variance, int64_t channels, int64_t size, int threads))  \
    /* y = scale * z + shift, then + residual (or null), then ReLU; y may be z. */                                      \
    X(scale_shift,                                                                                                      \
      (const float *z, const float *scale, const float *shift, const float *residual, float *y, int relu,               \
       int64_t channels, int64_t size, int threads))                                                                    \
    /* Backward of the same with scale = weight * inverse_std, shift = bias - mean * scale. The ReLU's sign is that of  \
       output, or of what is computed again from z and residual (either may be null). gated (or null) takes the         \
       gradient past the ReLU; gz may be grad. constant: mean and inverse_std do not depend on z. */                    \
    X(channel_backward,                                                                                                 \
      (const float *grad, const float *z, const float *output, const float *residual, const float *mean,                \
       const float *inverse_std, const float *scale, const float *shift, float *gated, float *gz, float *gweight,       \
       float *gbias, int relu, int constant, int64_t channels, int64_t size, int threads))                              \
    /* pool.cpp. shape: N, H, W, outputs' H and W, then of each direction window, stride, padding, dilation. */         \
    X(max_pool,                                                                                                         \
      (const float *x, float *y, uint8_t *winners, const int64_t *shape, int64_t channels, int threads))                \
    X(max_pool_backward,                                                                                                \
      (const float *grad, const uint8_t *winners, float *gx, const int64_t *shape, int64_t channels, int threads))      \
    /* y (C, N): the mean over each channel's `places` = H*W. */                                                        \
    X(average_pool, (const float *x, float *y, int64_t channels, int64_t places, int64_t n, int threads)) \
    /* conv.cpp: convolutions and linear layers with a compact index; `shape` is a ConvShape of conv.h. */              \
    X(conv_scratch, (const int64_t *shape, int64_t pass, int64_t kept, int threads, int64_t *bytes))                    \
    X(conv_forward, (const int64_t *shape, const float *x, const float *values, const int32_t *rows, const void *codes, \
                     int64_t code_bytes, const float *bias, const float *scale, const float *shift, int64_t relu,       \
                     float *y, char *scratch, int threads))                                                             \
    X(conv_backward_input, (const int64_t *shape, const float *gy, const float *values, const int32_t *rows,            \
                            const void *codes, int64_t code_bytes, float *gx, char *scratch, int threads))              \
    X(conv_backward_weight, (const int64_t *shape, const float *x, const float *gy, const int32_t *rows,                \
                             const void *codes, int64_t code_bytes, const float *scale, const float *shift,             \
                             int64_t relu, float *gvalues, char *scratch, int threads))                                 \
    /* conv.cpp: between kept values and the rows of a dense weight (outputs, row_size). */                             \
    X(scatter_kept, (const float *values, const int32_t *rows, const void *codes, int64_t code_bytes, int64_t outputs,  \
                     int64_t row_size, float *dense, int threads))                                                      \
    X(gather_kept, (const float *dense, const int32_t *rows, const void *codes, int64_t code_bytes, int64_t outputs,    \
                    int64_t row_size, float *values, int threads)) \
    /* rans.cpp: symbols of one row of frequencies, or of contexts' rows (or null). Words are written up to the end of  \
       room for `count`, from `first` on, which is -1 for a symbol without a frequency; states are read and written.    \
       scratch: 16 bytes a frequency. */                                                                                \
    X(rans_encode, (const uint8_t *symbols, const uint8_t *contexts, int64_t count, const uint32_t *frequencies,        \
                    int64_t rows, int64_t alphabet, int64_t lanes, void *scratch, uint32_t *states, uint16_t *words,    \
                    int64_t *first))                                                                                    \
    /* slots: 2**15 for each row, null for an alphabet of 2; entries: one a frequency. States are read and written.     \
       used: how many words were read. */                                                                               \
    X(rans_decode, (const uint16_t *words, int64_t held, uint8_t *symbols, const uint8_t *contexts,                     \
                    const uint32_t *frequencies, int64_t count, int64_t rows, int64_t alphabet, int64_t lanes,          \
                    uint8_t *slots, uint32_t *entries, uint32_t *states, int64_t *used))                                \
    /* gaps.cpp: gaps between ones from bit `begin` to before `end`, as parts that are at most `last`, low bits, and     \
       what is beyond `last`. */                                                                                        \
    X(gaps_split, (const uint8_t *bits, int64_t begin, int64_t end, int64_t low_bits, int64_t last, uint8_t *high,      \
                   uint8_t *low, int64_t *beyond))                                                                      \
    /* The same back, into bits that are 0. sound: 1, or 0 if a one would not be before `end`. */                       \
    X(gaps_join, (const uint8_t *high, const uint8_t *low, const int64_t *beyond, int64_t ones, int64_t low_bits,       \
                  int64_t last, int64_t begin, int64_t end, uint8_t *bits, int64_t *sound))                                           \
    /* votes.cpp: adds bitmaps of `bytes`, times their weights, to bit-sliced counters of `planes` digits, which have to \
       be enough; the planes are in groups of 8. */                                                                     \
    X(add_votes, (const uint8_t *const *votes, const int64_t *weights, int64_t clients, uint8_t *const *groups,         \
                  int64_t planes, int64_t bytes))                                                                       \
    /* The counters of `blocks` blocks from `first` on. */                                                              \
    X(vote_sums, (const uint8_t *const *groups, int64_t group_count, int64_t first, int64_t blocks, int64_t *sums))     \
    /* sums.cpp: the high and low limbs of rint(values * 2^32) are added up, times the weight. */                       \
    X(add_fixed, (const float *values, int64_t weight, int64_t *high, int64_t *low, int64_t count))                     \
    /* topk.cpp: the size of the wanted-th largest of `count` values, 1 to 2^32 - 1, and how many are larger in size; an \
       infinity if one is not finite. counts: 2^16 of them. */                                                          \
    X(topk_threshold, (const float *x, int64_t count, int64_t wanted, uint32_t *counts, float *threshold,               \
                       int64_t *above))                                                                                 \
    /* Those that are larger than the threshold, and the first `ties` that are equal to it, which is above 0 then: a    \
       bitmap of where they are, least significant bit first, and the `held` values that they are, as bfloat16. */      \
    X(topk_pack, (const float *x, int64_t count, const float *threshold, int64_t ties, int64_t held, uint8_t *bitmap,   \
                  uint16_t *values))                                                                                    \
    /* The same back; the others are 0. */                                                                              \
    X(topk_unpack, (const uint8_t *bitmap, const uint16_t *values, int64_t held, int64_t count, float *x))

namespace hedgerow {

// Any kernel; whoever calls it knows its arguments.
using Kernel = void (*)();

// Calls body(context, begin, end) on disjoint ranges of at most `grain` that make up [0, count), on `threads` threads.
void parallel(int threads, int64_t count, int64_t grain, void (*body)(void *, int64_t, int64_t), void *context);

namespace HEDGEROW_ISA {

#define HEDGEROW_DECLARE(name, arguments) void name arguments;
HEDGEROW_KERNELS(HEDGEROW_DECLARE)
#undef HEDGEROW_DECLARE

// This variant's kernels, in the order of HEDGEROW_KERNELS.
extern const Kernel table[];

// `parallel` with a lambda: body(begin, end).
template <class Body> inline void divide(int threads, int64_t count, int64_t grain, Body body) {
    parallel(
        threads, count, grain,
        [](void *context, int64_t begin, int64_t end) { (*static_cast<Body *>(context))(begin, end); }, &body);
}

} // namespace HEDGEROW_ISA
} // namespace hedgerow
