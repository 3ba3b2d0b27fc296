// The gradient of each kept weight: the correlation of its shifted source plane with its output's gradient.
#include "conv.h"

namespace hedgerow::HEDGEROW_ISA {

namespace {

template <int R, int C, int B, int step> struct Correlated {
    static constexpr int size = R * C * B;
    int64_t row_stride, col_stride; // of the source, in floats

    // A vector whose lanes add up to the tap's share of the gradient.
    HEDGEROW_INLINE Vec dot(const Vec *grad, const float *from) const {
        // Two chains: the next taps' multiply-adds fill the latency.
        Vec sum[2] = {};
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const float *row = own_register(from + r * row_stride);
#pragma GCC unroll 16
            for (int c = 0; c < C; ++c)
#pragma GCC unroll 16
                for (int b = 0; b < B; ++b) {
                    const int k = (r * C + c) * B + b;
                    sum[k & 1] += grad[k] * load(row + c * (step ? step * B * lanes : col_stride) + b * lanes);
                }
        }
        return sum[0] + sum[1];
    }
};

// How much of a tile is there: pixels and lanes.
struct Extent {
    int64_t rows, cols, valid;
};

template <int R, int C, int B>
__attribute__((noinline)) void get_some(const Result &y, const float *at, const Extent &extent, Vec *grad) {
    for (int k = 0; k < R * C * B; ++k) {
        const int r = k / B / C, c = k / B % C, b = k % B;
        const bool inside = r < extent.rows && c < extent.cols;
        const int64_t valid = inside ? most(0, least(lanes, extent.valid - b * lanes)) : 0;
        grad[k] = load_some(at + r * y.row_stride + c * y.col_stride + b * lanes, valid);
    }
}

// The output gradient of a tile; 0 where the tile hangs over the edge.
template <int R, int C, int B>
HEDGEROW_INLINE inline void get(const Result &y, const float *at, const Extent &extent, Vec *grad) {
    if (__builtin_expect(extent.rows < R || extent.cols < C || extent.valid < B * lanes, 0)) {
        Vec copy[R * C * B];
        get_some<R, C, B>(y, at, extent, copy);
#pragma GCC unroll 16
        for (int k = 0; k < R * C * B; ++k)
            grad[k] = copy[k];
        return;
    }
    const int64_t row_stride = y.row_stride, col_stride = y.col_stride;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c)
#pragma GCC unroll 16
            for (int b = 0; b < B; ++b)
                grad[(r * C + c) * B + b] = load(at + r * row_stride + c * col_stride + b * lanes);
}

template <int R, int C, int B, int step> struct Walk {
    static constexpr int size = R * C * B;
    const Taps &taps;
    const Tiling &t;
    const Grid &grid;
    const Result &y;
    Unit unit;
    const float *packed;
    int64_t begin, end; // of the outputs
    float *totals;

    // see(source, first float of output 0's tile, what of the tile is there, its number) for all tiles.
    template <class See> HEDGEROW_INLINE void each_tile(See see) const {
        const int64_t rows = least(t.block_rows, grid.rows - unit.row), cols = least(t.block_cols, grid.cols - unit.col);
        const int64_t valid = y.batch - unit.lane, groups = least(t.groups, parts(valid, t.pixel)), pixel = t.pixel;
        const int64_t group_stride = t.group_stride, row_stride = y.row_stride, col_stride = y.col_stride;
        const float *at = y.data + unit.row * row_stride + unit.col * col_stride + unit.lane;
        const int64_t source_row = grid.step_h * t.packed_cols * pixel, source_col = grid.step_w * pixel;
        int64_t tile = 0;
        for (int64_t i = 0; i < rows; i += R)
            for (int64_t j = 0; j < cols; j += C) {
                const float *source = packed + i * source_row + j * source_col;
                const float *first = at + i * row_stride + j * col_stride;
                for (int64_t g = 0; g < groups; ++g)
                    see(source + g * group_stride, first + g * pixel, Extent{rows - i, cols - j, valid - g * pixel}, tile++);
            }
    }

    Correlated<R, C, B, step> correlated() const { return {grid.step_h * t.packed_cols * t.pixel, grid.step_w * t.pixel}; }

    static void flush(float *totals, const Vec *pending, int64_t count) {
        const Vec last = sums<lanes / 2>(pending);
        if (count == lanes)
            store(totals, load(totals) + last);
        else
            for (int64_t k = 0; k < count; ++k)
                totals[k] += last[k];
    }

    // Few taps an output: one output after the other, each tap with a vector of partial sums.
    void by_output(Vec *partial) const {
        const Correlated<R, C, B, step> tiled = correlated();
        for (int64_t o = begin; o < end; ++o) {
            const int64_t start = taps.starts[o], count = taps.starts[o + 1] - start;
            if (count == 0)
                continue;
            for (int64_t k = 0; k < rounded_up(count, lanes); ++k)
                partial[k] = Vec{};
            const Tap *first = taps.taps + start;
            each_tile([&](const float *source, const float *at, const Extent &extent, int64_t) HEDGEROW_INLINE {
                Vec grad[size];
                get<R, C, B>(y, at + o * y.channel_stride, extent, grad);
                for (int64_t k = 0; k < count; ++k)
                    partial[k] += tiled.dot(grad, source + first[k].offset);
            });
            for (int64_t k = 0; k < count; k += lanes)
                flush(totals + start + k, partial + k, least(lanes, count - k));
        }
    }

    // Many taps: a tile's source in blocks of channels that the first-level cache holds for all outputs. The output's
    // gradient waits in the scratch, since planes that lie a power of two apart drive each other out of the caches.
    void by_block(Vec *waiting) const {
        const int64_t outputs = end - begin;
        for (int64_t o = begin; o < end; ++o)
            each_tile([&](const float *, const float *at, const Extent &extent, int64_t tile) HEDGEROW_INLINE {
                get<R, C, B>(y, at + o * y.channel_stride, extent, waiting + (tile * outputs + o - begin) * size);
            });
        each_tile([&](const float *source, const float *, const Extent &, int64_t tile) HEDGEROW_INLINE {
            for (int64_t block = 0; block < taps.blocks; ++block)
                one_block(source, taps.starts + block * taps.rows, waiting + tile * outputs * size);
        });
    }

    void one_block(const float *source, const int32_t *starts, const Vec *waiting) const {
        // Taps follow each other across outputs, so that only the last sums of a block are an incomplete set.
        const Correlated<R, C, B, step> tiled = correlated();
        Vec pending[lanes] = {};
        int64_t k = starts[begin], set = k;
        for (int64_t o = begin; o < end; ++o, waiting += size) {
            const int64_t stop = starts[o + 1];
            Vec grad[size];
#pragma GCC unroll 16
            for (int l = 0; l < size; ++l)
                grad[l] = waiting[l];
            while (k < stop) {
                const int64_t until = least(stop, set + lanes);
                for (; k < until; ++k)
                    pending[k - set] = tiled.dot(grad, source + taps.taps[k].offset);
                if (k == set + lanes) {
                    flush(totals + set, pending, lanes);
                    set = k;
                }
            }
        }
        flush(totals + set, pending, k - set);
    }
};

} // namespace

void correlate(const Taps &taps, const Tiling &t, const Grid &grid, const Result &grad, Unit unit, float *packed,
               int64_t begin, int64_t end, float *totals) {
    with_tile(t.tile, grid.step_w, [&](auto shape) {
        using S = decltype(shape);
        const Walk<S::rows, S::cols, S::vectors, S::step> walk{taps, t, grid, grad, unit, packed, begin, end, totals};
        Vec *waiting = reinterpret_cast<Vec *>(packed + t.packed);
        if (t.blocks == 1)
            walk.by_output(waiting);
        else
            walk.by_block(waiting);
    });
}

} // namespace hedgerow::HEDGEROW_ISA
