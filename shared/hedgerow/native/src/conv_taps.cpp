// Taps of a pass, made from the compact index each time: they are worth less than the memory that keeping them costs.
#include "conv.h"

namespace hedgerow::HEDGEROW_ISA {

namespace {

// What a code says, for any row: where the tap points to and which segment it is in, both less what its row adds.
struct Meaning {
    int32_t offset, segment;
};

int64_t floor_mod(int64_t a, int64_t b) { return ((a % b) + b) % b; }

// Calls see(row of the weight, group, source channel within the group, code, r, s) for every code of one row.
template <class See> void each_code(const ConvShape &s, See see) {
    int64_t code = 0;
    for (int64_t c = 0; c < s.channels / s.groups; ++c)
        for (int64_t r = 0; r < s.kernel_h; ++r)
            for (int64_t q = 0; q < s.kernel_w; ++q)
                see(code++, c, r, q);
}

void meanings_forward(const ConvShape &s, const Tiling &t, Meaning *meanings) {
    each_code(s, [&](int64_t code, int64_t c, int64_t r, int64_t q) {
        const int64_t pixels = r * s.dilation_h * t.packed_cols + q * s.dilation_w;
        meanings[code] = {int32_t(c * t.channel_stride + pixels * t.pixel), int32_t(c / t.channel_block * s.outputs)};
    });
}

// Input pixel i takes weight row r from output pixel (i + pad - r * dilation) / stride where that divides: which inputs
// do is the phase, i mod stride.
void meanings_input(const ConvShape &s, const Tiling &t, const Grid &grid, Meaning *meanings) {
    each_code(s, [&](int64_t code, int64_t c, int64_t r, int64_t q) {
        const int64_t up = r * s.dilation_h - s.pad_h, left = q * s.dilation_w - s.pad_w;
        const int64_t a = floor_mod(up, s.stride_h), b = floor_mod(left, s.stride_w);
        const int64_t row = (a - up) / s.stride_h - grid.origin_h, col = (b - left) / s.stride_w - grid.origin_w;
        meanings[code] = {int32_t((row * t.packed_cols + col) * t.pixel),
                          int32_t((a * s.stride_w + b) * t.blocks * s.channels + c)};
    });
}

template <class Code>
void place(const ConvShape &s, const Kept &kept, const float *values, Pass pass, const Tiling &t,
           const Meaning *meanings, Taps &taps) {
    const Code *codes = static_cast<const Code *>(kept.codes);
    const int64_t in_group = s.channels / s.groups, out_group = s.outputs / s.groups;
    // cursors[segment] is one further in `starts`, so that it ends where the next segment starts.
    int32_t *cursors = taps.starts + 1;
    const auto segment = [&](int64_t o) {
        return pass == Pass::input ? o % out_group / t.channel_block * s.channels + o / out_group * in_group : o;
    };
    for (int64_t k = 0; k <= segments(taps); ++k)
        taps.starts[k] = 0;
    for (int64_t o = 0; o < s.outputs; ++o) {
        const int64_t base = segment(o);
        for (int64_t k = kept.rows[o]; k < kept.rows[o + 1]; ++k)
            ++cursors[base + meanings[codes[k]].segment];
    }
    int32_t sum = 0;
    for (int64_t k = 0; k < segments(taps); ++k) {
        const int32_t count = cursors[k];
        cursors[k] = sum, sum += count;
    }
    for (int64_t o = 0; o < s.outputs; ++o) {
        const int64_t base = segment(o);
        const int64_t offset = pass == Pass::input ? o % out_group * t.channel_stride : 0;
        for (int64_t k = kept.rows[o]; k < kept.rows[o + 1]; ++k) {
            const Meaning meaning = meanings[codes[k]];
            Tap &tap = taps.taps[cursors[base + meaning.segment]++];
            tap.offset = int32_t(offset + meaning.offset);
            if (values)
                tap.value = values[k];
            else
                tap.position = int32_t(k);
        }
    }
}

} // namespace

int64_t segments(const Taps &taps) { return taps.phases * taps.blocks * taps.rows; }

void make_taps(const ConvShape &shape, const Kept &kept, const float *values, Pass pass, const Tiling &tiling,
               const Grid &grid, Taps &taps, Arena arena) {
    auto *meanings = arena.take<Meaning>(shape.channels / shape.groups * shape.kernel_h * shape.kernel_w);
    if (pass == Pass::input)
        meanings_input(shape, tiling, grid, meanings);
    else
        meanings_forward(shape, tiling, meanings);
    if (kept.code_bytes == 2)
        place<uint16_t>(shape, kept, values, pass, tiling, meanings, taps);
    else
        place<int32_t>(shape, kept, values, pass, tiling, meanings, taps);
}

} // namespace hedgerow::HEDGEROW_ISA
