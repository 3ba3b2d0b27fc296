// How a convolution is divided into units of work, and how a unit's source is packed.
#include "conv.h"

namespace hedgerow::HEDGEROW_ISA {

namespace {

// What a unit's scratch should not exceed, so that it stays in the second-level cache: 1 MB.
constexpr int64_t second_level = 1 << 18;
// What it may take where whole rows fit then, 1.8 MB: parts of rows touch every page several times, and when the input
// is no longer in any cache, looking up the pages costs more than what falls out of this one.
constexpr int64_t whole_rows = 460 << 10;
// The part of the first-level cache (usually 32 or 48 KB) that the source of a tile should not exceed.
constexpr int64_t first_level = 9 << 10;
// Taps of an output channel in a block of source channels from which on it pays to load and store its tile again.
constexpr int64_t worth_a_block = 5;

#define HEDGEROW_TILE(R, C, B) {R, C, B},
constexpr Tile tiles[] = {HEDGEROW_TILES(HEDGEROW_TILE)};
// A tap's decoding, in multiply-adds.
constexpr int64_t decoding = 4;

Tile tile_of(const Grid &grid, int64_t batch) {
    Tile best{};
    int64_t lowest = INT64_MAX;
    for (const Tile &tile : tiles) {
        const int64_t size = tile.rows * tile.cols * tile.vectors;
        if (size > 8 && !many_registers)
            continue;
        const int64_t cost = parts(grid.rows, tile.rows) * parts(grid.cols, tile.cols) *
                             parts(batch, tile.vectors * lanes) * (size + decoding);
        if (cost < lowest)
            lowest = cost, best = tile;
    }
    return best;
}

int64_t reach(int64_t pixels, int64_t step, int64_t span) { return (pixels - 1) * step + span; }

// The largest multiple of `tile` of `count` pixels, in equal parts, that `limit` source pixels can hold; at least one.
int64_t block_of(int64_t count, int64_t tile, int64_t step, int64_t span, int64_t limit) {
    int64_t pixels = most(tile, ((limit - span) / step + 1) / tile * tile);
    pixels = least(pixels, rounded_up(count, tile));
    return rounded_up(parts(count, parts(count, pixels)), tile);
}

// What the prologue does to one channel.
struct Plain {
    Vec operator()(Vec x) const { return x; }
};

template <bool rectify> struct Affine {
    Vec scale, shift;
    Vec operator()(Vec x) const { return rectify ? rectified(x * scale + shift) : x * scale + shift; }
};

// `count` vectors of a run of pixels that is contiguous in the source, pixel by pixel, into as many groups as there are.
template <int groups, class Change>
void copy_run(const float *from, float *to, int64_t count, int64_t pixel, int64_t group_stride, Change change) {
    if constexpr (groups == 1) {
        int64_t i = 0;
        for (; i + 4 * lanes <= count; i += 4 * lanes)
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k)
                store(to + i + k * lanes, change(load(from + i + k * lanes)));
        for (; i < count; i += lanes)
            store(to + i, change(load(from + i)));
    } else {
        for (; count > 0; from += groups * pixel, to += pixel, count -= groups * pixel)
#pragma GCC unroll 4
            for (int g = 0; g < groups; ++g)
                for (int64_t i = 0; i < pixel; i += lanes)
                    store(to + g * group_stride + i, change(load(from + g * pixel + i)));
    }
}

// `valid` lanes of a pixel, of all groups; the others become 0.
template <class Change> void copy_some(const float *from, float *to, int64_t valid, const Tiling &t, Change change) {
    for (int64_t g = 0; g < t.groups; ++g, valid -= t.pixel, from += t.pixel, to += t.group_stride)
        for (int64_t n = 0; n < t.pixel; n += lanes) {
            Vec x{};
            if (valid >= n + lanes)
                x = change(load(from + n));
            else
                for (int64_t l = n; l < valid; ++l)
                    x[l - n] = change(broadcast(from[l]))[0];
            store(to + n, x);
        }
}

template <class Change>
void copy_pixels(const float *from, int64_t from_stride, float *to, int64_t pixels, int64_t valid, const Tiling &t,
                 Change change) {
    const int64_t width = t.groups * t.pixel;
    if (from_stride == width && t.groups == 1)
        copy_run<1>(from, to, pixels * width, t.pixel, t.group_stride, change);
    else if (from_stride == width && t.groups == 2)
        copy_run<2>(from, to, pixels * width, t.pixel, t.group_stride, change);
    else
        for (int64_t p = 0; p < pixels; ++p, from += from_stride, to += t.pixel) {
            if (valid < width)
                copy_some(from, to, valid, t, change);
            else if (t.groups == 1)
                copy_run<1>(from, to, width, t.pixel, t.group_stride, change);
            else
                copy_run<2>(from, to, width, t.pixel, t.group_stride, change);
        }
}

void clear_pixels(float *to, int64_t pixels, const Tiling &t) {
    for (int64_t g = 0; g < t.groups; ++g)
        for (int64_t i = 0; i < pixels * t.pixel; i += lanes)
            store(to + g * t.group_stride + i, Vec{});
}

template <class Change>
void pack_channel(const Source &source, const Grid &grid, const Tiling &t, Unit unit, int64_t channel, float *packed,
                  Change change) {
    const int64_t row = unit.row * grid.step_h * grid.pick_h + grid.origin_h;
    const int64_t col = unit.col * grid.step_w * grid.pick_w + grid.origin_w;
    // Of the packed columns: those left of the source, inside it, and right of it.
    const int64_t left = least(most(0, parts(-col, grid.pick_w)), t.packed_cols), first = col + left * grid.pick_w;
    const int64_t inside = least(most(0, parts(source.width - first, grid.pick_w)), t.packed_cols - left);
    const int64_t right = t.packed_cols - left - inside;
    const int64_t row_stride = source.width * source.batch, col_stride = grid.pick_w * source.batch;
    const float *from = source.data + channel * source.height * row_stride + first * source.batch + unit.lane;
    for (int64_t k = 0; k < t.packed_rows; ++k, packed += t.packed_cols * t.pixel) {
        const int64_t r = row + k * grid.pick_h;
        if (r < 0 || r >= source.height) {
            clear_pixels(packed, t.packed_cols, t);
            continue;
        }
        clear_pixels(packed, left, t);
        copy_pixels(from + r * row_stride, col_stride, packed + left * t.pixel, inside, source.batch - unit.lane, t, change);
        clear_pixels(packed + (left + inside) * t.pixel, right, t);
    }
}

} // namespace

// A 1x1 convolution without stride or padding treats all pixels alike: as one row of lanes. A linear layer is one.
ConvShape flattened(ConvShape s) {
    const bool pointwise = s.kernel_h == 1 && s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 && !s.pad_h && !s.pad_w;
    if (pointwise) {
        s.batch *= s.height * s.width;
        s.height = s.width = s.out_height = s.out_width = 1;
    }
    return s;
}

Tiling tiling_of(const Grid &grid, const Source &source, int64_t kept, int64_t rows, int64_t phases) {
    Tiling t{};
    t.tile = tile_of(grid, source.batch);
    const int64_t tile_rows = reach(t.tile.rows, grid.step_h, grid.span_h);
    const int64_t tile_cols = reach(t.tile.cols, grid.step_w, grid.span_w);
    t.pixel = t.tile.vectors * lanes;
    // Neighbouring cache lines are read and written together.
    const bool pair = source.batch > t.pixel && t.tile.vectors == 1;
    t.groups = pair && source.channels * tile_rows * tile_cols * 2 * t.pixel <= second_level ? 2 : 1;
    const int64_t line = source.channels * t.groups * t.pixel;
    t.block_cols = block_of(grid.cols, t.tile.cols, grid.step_w, grid.span_w, whole_rows / (line * tile_rows));
    if (t.block_cols < grid.cols)
        t.block_cols = block_of(grid.cols, t.tile.cols, grid.step_w, grid.span_w, second_level / (line * tile_rows));
    t.packed_cols = reach(t.block_cols, grid.step_w, grid.span_w);
    t.block_rows = block_of(grid.rows, t.tile.rows, grid.step_h, grid.span_h, second_level / (line * t.packed_cols));
    t.packed_rows = reach(t.block_rows, grid.step_h, grid.span_h);
    t.row_blocks = parts(grid.rows, t.block_rows);
    t.col_blocks = parts(grid.cols, t.block_cols);
    t.lane_blocks = parts(source.batch, t.groups * t.pixel);
    t.units = t.row_blocks * t.col_blocks * t.lane_blocks;
    t.group_stride = t.packed_rows * t.packed_cols * t.pixel;
    t.channel_stride = t.groups * t.group_stride;
    t.packed = source.channels * t.channel_stride;
    t.channel_block = most(1, first_level / (tile_rows * tile_cols * t.pixel));
    t.blocks = parts(source.channels, t.channel_block);
    if (t.blocks == 1 || kept < worth_a_block * rows * phases * t.blocks)
        t.blocks = 1, t.channel_block = source.channels;
    // The tiles of all outputs, or a vector for each tap of one output.
    t.waiting = t.blocks > 1 ? rows * t.block_rows * t.block_cols * t.groups * t.pixel
                             : rounded_up(source.channels * grid.span_h * grid.span_w, lanes) * lanes;
    return t;
}

Unit unit_of(const Tiling &t, int64_t k) {
    return {k / t.lane_blocks / t.col_blocks * t.block_rows, k / t.lane_blocks % t.col_blocks * t.block_cols,
            k % t.lane_blocks * t.groups * t.pixel};
}

void pack(const Source &source, const Grid &grid, const Tiling &t, Unit unit, int64_t first, float *packed) {
    for (int64_t c = first; c < first + source.channels; ++c, packed += t.channel_stride) {
        if (!source.scale) {
            pack_channel(source, grid, t, unit, c, packed, Plain());
            continue;
        }
        const Vec scale = broadcast(source.scale[c]), shift = broadcast(source.shift[c]);
        if (source.relu)
            pack_channel(source, grid, t, unit, c, packed, Affine<true>{scale, shift});
        else
            pack_channel(source, grid, t, unit, c, packed, Affine<false>{scale, shift});
    }
}

} // namespace hedgerow::HEDGEROW_ISA
