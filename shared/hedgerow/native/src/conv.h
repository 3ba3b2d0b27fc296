// Convolution of planes (C, H, W, N) with a weight of which only the kept entries exist.
//
// Forward and input gradient are one algorithm, "gather": an output plane is the sum of a few shifted source planes,
// each times one kept weight. For the forward the source is the input; for the input gradient it is the gradient of the
// output, and with a stride the input's pixels fall into phases that see different weights.
//
// A unit of work is a block of rows, columns and lanes (samples). Its source is packed first: copied, with its border
// of zeros and through the prologue, into a scratch that stays in the second-level cache while all output channels
// read it. Then each output channel walks its taps (offset into the scratch, weight) with a tile of accumulators in
// registers. Nothing of the source's full size is ever copied.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace hedgerow::HEDGEROW_ISA {

// As Python passes it; the order is part of the ABI.
struct ConvShape {
    int64_t batch, channels, height, width, outputs, out_height, out_width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
};

// The kept positions of a weight (O, I/groups, kh, kw): row o's are codes[rows[o]] … codes[rows[o + 1] - 1].
struct Kept {
    const int32_t *rows;
    const void *codes;
    int64_t code_bytes;
    int64_t count;
};

struct Source {
    const float *data;
    int64_t channels, height, width, batch; // channels: of one group, which is all that its outputs read
    const float *scale, *shift; // the convolution sees relu?(scale * x + shift) where they are not null
    bool relu;
};

// How a grid of output pixels lies over the source: pixel (i, j) reads the rows i * step_h + origin_h, … + span_h - 1 of
// the source, or of every pick_h-th row of it (origin_h is in rows of the source).
struct Grid {
    int64_t rows, cols;
    int64_t step_h, step_w, origin_h, origin_w, span_h, span_w, pick_h, pick_w;
};

// A tile is `rows` x `cols` pixels of `vectors` registers each.
struct Tile {
    int rows, cols, vectors;
};

template <int R, int C, int B, int known_step> struct TileShape {
    static constexpr int rows = R, cols = C, vectors = B, step = known_step;
};

// All tiles: a table for the choice, and code for each. 16 accumulators hide the multiply-add's latency and share each
// tap's decoding; square tiles have the smallest border. The flat ones are for linear layers and 1x1 convolutions,
// whose pixels `flattened` turns into lanes.
#define HEDGEROW_TILES(X) X(4, 4, 1) X(1, 8, 2) X(1, 1, 16) X(2, 4, 1) X(2, 2, 2) X(1, 1, 8) X(1, 1, 4) X(1, 1, 2) X(1, 1, 1)

// Runs the code of that tile, with the horizontal step as a constant if it is the usual one.
template <class Run> void with_tile(const Tile &tile, int64_t step, Run run) {
#define HEDGEROW_TILE(R, C, B)                                                                                         \
    if (tile.rows == R && tile.cols == C && tile.vectors == B)                                                         \
        return step == 1 || C == 1 ? run(TileShape<R, C, B, 1>()) : run(TileShape<R, C, B, 0>());
    HEDGEROW_TILES(HEDGEROW_TILE)
#undef HEDGEROW_TILE
}

// A unit is block_rows x block_cols pixels of one lane block; `packed` is its source in the scratch.
struct Tiling {
    Tile tile;
    int64_t block_rows, block_cols, row_blocks, col_blocks, lane_blocks, units;
    // The scratch is [channel][group][row][column][pixel]; a pixel is a tile's vectors, and groups of them are
    // neighbours in the batch. From `pixel` on in floats.
    int64_t groups, packed_rows, packed_cols, pixel, group_stride, channel_stride, packed, waiting;
    int64_t channel_block, blocks;                                    // source channels that fit the first-level cache
};

struct Unit {
    int64_t row, col, lane;
};

struct Tap {
    int32_t offset; // from a pixel's first float in the scratch
    union {
        float value;
        int32_t position; // of the weight among the kept ones, where its gradient goes
    };
};

// Taps by segment: segment s has taps[starts[s]] … taps[starts[s + 1] - 1]; s = (phase * blocks + block) * rows + row.
struct Taps {
    Tap *taps;
    int32_t *starts;
    int64_t phases, blocks, rows;
};

// Pixels of one phase of the result: rows x cols of them, strides in floats.
struct Phase {
    int64_t first, rows, cols;
};

struct Result {
    float *data;
    int64_t channel_stride, row_stride, col_stride, batch;
    const float *bias;
    const Phase *phases;
};

// A bump allocator; with a null base it only measures.
struct Arena {
    char *base;
    int64_t used;

    template <class T> T *take(int64_t count) {
        char *at = base ? base + used : nullptr;
        used += rounded_up(count * int64_t(sizeof(T)), 64);
        return reinterpret_cast<T *>(at);
    }
};

enum class Pass : int64_t { forward, input, weight };

// conv_plan.cpp
ConvShape flattened(ConvShape shape);
Tiling tiling_of(const Grid &grid, const Source &source, int64_t kept, int64_t rows, int64_t phases);
Unit unit_of(const Tiling &tiling, int64_t k);
// One unit of the source's channels from `first` on.
void pack(const Source &source, const Grid &grid, const Tiling &tiling, Unit unit, int64_t first, float *packed);

// conv_taps.cpp
int64_t segments(const Taps &taps);
void make_taps(const ConvShape &shape, const Kept &kept, const float *values, Pass pass, const Tiling &tiling,
               const Grid &grid, Taps &taps, Arena arena);

// conv_gather.cpp, conv_weight.cpp: one unit of the outputs [begin, end). After the packed source come tiling.waiting
// floats for what waits there.
void gather(const Taps &taps, const Tiling &tiling, const Grid &grid, const Result &result, Unit unit, float *packed,
            int64_t begin, int64_t end);
void correlate(const Taps &taps, const Tiling &tiling, const Grid &grid, const Result &grad, Unit unit, float *packed,
               int64_t begin, int64_t end, float *totals);

} // namespace hedgerow::HEDGEROW_ISA
