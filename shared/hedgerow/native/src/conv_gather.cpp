// Output planes as sums of shifted source planes: forward and input gradient.
#include "conv.h"

namespace hedgerow::HEDGEROW_ISA {

namespace {

// Multiply-adds in flight that hide their latency (4 cycles, two a cycle); tiles smaller than that split their taps.
constexpr int in_flight = 8;

// step: between neighbouring pixels' sources; 0 where it is only known at run time.
template <int R, int C, int B, int step> struct Tiled {
    static constexpr int size = R * C * B;
    static constexpr int split = size >= in_flight ? 1 : in_flight / size;
    int64_t row_stride, col_stride; // of the source, in floats

    // sum[pixel] += tap * source[pixel + tap]
    HEDGEROW_INLINE void add(Vec *sum, const float *source, const Tap *tap) const {
        const float *from = source + tap->offset;
        const Vec value = broadcast(tap->value);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const float *row = own_register(from + r * row_stride);
#pragma GCC unroll 16
            for (int c = 0; c < C; ++c)
#pragma GCC unroll 16
                for (int b = 0; b < B; ++b)
                    sum[(r * C + c) * B + b] += value * load(row + c * (step ? step * B * lanes : col_stride) + b * lanes);
        }
    }

    HEDGEROW_INLINE void run(Vec *sum, const float *source, const Tap *tap, const Tap *end) const {
        if constexpr (split > 1) {
            Vec parallel[split][size] = {};
            for (; tap + split <= end; tap += split)
#pragma GCC unroll 16
                for (int k = 0; k < split; ++k)
                    add(parallel[k], source, tap + k);
#pragma GCC unroll 16
            for (int k = 0; k < split; ++k)
#pragma GCC unroll 16
                for (int i = 0; i < size; ++i)
                    sum[i] += parallel[k][i];
        }
        for (; tap < end; ++tap)
            add(sum, source, tap);
    }
};

// How much of a tile is there: pixels and lanes.
struct Extent {
    int64_t rows, cols, valid;
};

// A tile that hangs over the edge. Its sums are in memory: they must not keep those of whole tiles out of registers.
template <int R, int C, int B>
__attribute__((noinline)) void put_some(const Result &y, float *at, const Extent &extent, const Vec *sum) {
    for (int r = 0; r < R && r < extent.rows; ++r)
        for (int c = 0; c < C && c < extent.cols; ++c)
            for (int b = 0; b < B; ++b)
                store_some(at + r * y.row_stride + c * y.col_stride + b * lanes, sum[(r * C + c) * B + b],
                           least(lanes, extent.valid - b * lanes));
}

template <int R, int C, int B>
HEDGEROW_INLINE inline void put(const Result &y, float *at, const Extent &extent, const Vec *sum) {
    if (__builtin_expect(extent.rows < R || extent.cols < C || extent.valid < B * lanes, 0)) {
        Vec copy[R * C * B];
#pragma GCC unroll 16
        for (int k = 0; k < R * C * B; ++k)
            copy[k] = sum[k];
        return put_some<R, C, B>(y, at, extent, copy);
    }
    const int64_t row_stride = y.row_stride, col_stride = y.col_stride;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c)
#pragma GCC unroll 16
            for (int b = 0; b < B; ++b)
                store(at + r * row_stride + c * col_stride + b * lanes, sum[(r * C + c) * B + b]);
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

    // see(source, first float of output 0's tile, what of the tile is there, its number) for all tiles.
    template <class See> HEDGEROW_INLINE void each_tile(const Phase &phase, See see) const {
        const int64_t rows = least(t.block_rows, phase.rows - unit.row), cols = least(t.block_cols, phase.cols - unit.col);
        const int64_t valid = y.batch - unit.lane, groups = least(t.groups, parts(valid, t.pixel)), pixel = t.pixel;
        const int64_t group_stride = t.group_stride, row_stride = y.row_stride, col_stride = y.col_stride;
        float *at = y.data + phase.first + unit.row * row_stride + unit.col * col_stride + unit.lane;
        const int64_t source_row = grid.step_h * t.packed_cols * pixel, source_col = grid.step_w * pixel;
        int64_t tile = 0;
        for (int64_t i = 0; i < rows; i += R)
            for (int64_t j = 0; j < cols; j += C) {
                const float *source = packed + i * source_row + j * source_col;
                float *first = at + i * row_stride + j * col_stride;
                for (int64_t g = 0; g < groups; ++g)
                    see(source + g * group_stride, first + g * pixel, Extent{rows - i, cols - j, valid - g * pixel}, tile++);
            }
    }

    Tiled<R, C, B, step> tiled() const { return {grid.step_h * t.packed_cols * t.pixel, grid.step_w * t.pixel}; }

    HEDGEROW_INLINE void start(Vec *sum, int64_t o) const {
        const Vec value = broadcast(y.bias ? y.bias[o] : 0.0f);
#pragma GCC unroll 16
        for (int k = 0; k < size; ++k)
            sum[k] = value;
    }

    // Few taps an output: one output after the other, so that the result is written in its own order.
    void by_output() const {
        for (int64_t o = begin; o < end; ++o)
            for (int64_t phase = 0; phase < taps.phases; ++phase) {
                const int32_t *starts = taps.starts + phase * taps.rows;
                const Tap *first = taps.taps + starts[o], *last = taps.taps + starts[o + 1];
                const Tiled<R, C, B, step> tiled = this->tiled();
                each_tile(y.phases[phase], [&](const float *source, float *at, const Extent &extent, int64_t) HEDGEROW_INLINE {
                    Vec sum[size];
                    start(sum, o);
                    tiled.run(sum, source, first, last);
                    put<R, C, B>(y, at + o * y.channel_stride, extent, sum);
                });
            }
    }

    // Many taps: a tile's source in blocks of channels that the first-level cache holds for all outputs. Sums wait in
    // the scratch, since planes that lie a power of two apart would drive each other out of the caches.
    void by_block(Vec *waiting) const {
        const int64_t outputs = end - begin;
        for (int64_t phase = 0; phase < taps.phases; ++phase) {
            each_tile(y.phases[phase], [&](const float *source, float *, const Extent &, int64_t tile) HEDGEROW_INLINE {
                for (int64_t block = 0; block < taps.blocks; ++block)
                    one_block(source, block, taps.starts + (phase * taps.blocks + block) * taps.rows,
                              waiting + tile * outputs * size);
            });
            for (int64_t o = begin; o < end; ++o)
                each_tile(y.phases[phase], [&](const float *, float *at, const Extent &extent, int64_t tile) HEDGEROW_INLINE {
                    put<R, C, B>(y, at + o * y.channel_stride, extent, waiting + (tile * outputs + o - begin) * size);
                });
        }
    }

    void one_block(const float *source, int64_t block, const int32_t *starts, Vec *waiting) const {
        const Tiled<R, C, B, step> tiled = this->tiled();
        for (int64_t o = begin; o < end; ++o, waiting += size) {
            Vec sum[size];
            if (block == 0)
                start(sum, o);
            else
#pragma GCC unroll 16
                for (int k = 0; k < size; ++k)
                    sum[k] = waiting[k];
            tiled.run(sum, source, taps.taps + starts[o], taps.taps + starts[o + 1]);
#pragma GCC unroll 16
            for (int k = 0; k < size; ++k)
                waiting[k] = sum[k];
        }
    }
};

} // namespace

void gather(const Taps &taps, const Tiling &t, const Grid &grid, const Result &y, Unit unit, float *packed,
            int64_t begin, int64_t end) {
    with_tile(t.tile, grid.step_w, [&](auto shape) {
        using S = decltype(shape);
        const Walk<S::rows, S::cols, S::vectors, S::step> walk{taps, t, grid, y, unit, packed, begin, end};
        if (t.blocks == 1)
            walk.by_output();
        else
            walk.by_block(reinterpret_cast<Vec *>(packed + t.packed));
    });
}

} // namespace hedgerow::HEDGEROW_ISA
