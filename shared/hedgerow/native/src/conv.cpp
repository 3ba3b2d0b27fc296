// The kernels that Python calls: they lay out the scratch, make the taps, and divide the units among threads.
#include "conv.h"

namespace hedgerow::HEDGEROW_ISA {

namespace {

Source input_of(const ConvShape &s, const float *x, const float *scale, const float *shift, int64_t relu) {
    return {x, s.channels / s.groups, s.height, s.width, s.batch, scale, shift, relu != 0};
}

Grid output_grid(const ConvShape &s) {
    Grid grid{s.out_height, s.out_width, s.stride_h, s.stride_w, -s.pad_h, -s.pad_w,
              (s.kernel_h - 1) * s.dilation_h + 1, (s.kernel_w - 1) * s.dilation_w + 1, 1, 1};
    // A kernel of one pixel leaves out the pixels between two strides.
    if (grid.span_h == 1)
        grid.pick_h = grid.step_h, grid.step_h = 1;
    if (grid.span_w == 1)
        grid.pick_w = grid.step_w, grid.step_w = 1;
    return grid;
}

// Rows of the output gradient that pixel 0 of any phase reads: the first, and how many up to the last.
void reads(int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, int64_t *first, int64_t *span) {
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (int64_t r = 0; r < kernel; ++r)
        for (int64_t phase = 0; phase < stride; ++phase) {
            const int64_t up = phase + pad - r * dilation;
            if (up % stride == 0)
                low = least(low, up / stride), high = most(high, up / stride);
        }
    *first = low, *span = high - low + 1;
}

Grid input_grid(const ConvShape &s) {
    Grid grid{parts(s.height, s.stride_h), parts(s.width, s.stride_w), 1, 1, 0, 0, 1, 1, 1, 1};
    reads(s.kernel_h, s.stride_h, s.pad_h, s.dilation_h, &grid.origin_h, &grid.span_h);
    reads(s.kernel_w, s.stride_w, s.pad_w, s.dilation_w, &grid.origin_w, &grid.span_w);
    return grid;
}

// Everything of one call: what it works on, how it is divided, and its part of the scratch.
struct Call {
    ConvShape shape;
    Pass pass;
    Grid grid;
    Source source;
    Tiling tiling;
    Taps taps;
    Phase *phases;
    float *totals; // of the weight gradient, in the taps' order
    float *packed; // one of tiling.packed floats for each thread
    Arena rest;
};

Call call_of(const ConvShape &given, Pass pass, int64_t kept, int64_t threads, char *scratch) {
    Call call{};
    const ConvShape s = call.shape = flattened(given);
    call.pass = pass;
    const bool input = pass == Pass::input;
    call.grid = input ? input_grid(s) : output_grid(s);
    call.source = input ? Source{nullptr, s.outputs / s.groups, s.out_height, s.out_width, s.batch, nullptr, nullptr, false}
                        : input_of(s, nullptr, nullptr, nullptr, 0);
    const int64_t phases = input ? s.stride_h * s.stride_w : 1, rows = input ? s.channels : s.outputs;
    call.tiling = tiling_of(call.grid, call.source, s.groups > 1 ? 0 : kept, rows, phases);
    Arena arena{scratch, 0};
    call.taps = {nullptr, nullptr, phases, call.tiling.blocks, rows};
    call.taps.taps = arena.take<Tap>(kept);
    call.taps.starts = arena.take<int32_t>(segments(call.taps) + 1);
    call.phases = arena.take<Phase>(phases);
    call.totals = arena.take<float>(pass == Pass::weight ? kept : 0);
    call.packed = arena.take<float>(threads * (call.tiling.packed + call.tiling.waiting));
    call.rest = arena;
    return call;
}

void phases_of(Call &call) {
    const ConvShape &s = call.shape;
    if (call.pass != Pass::input) {
        call.phases[0] = {0, s.out_height, s.out_width};
        return;
    }
    for (int64_t a = 0; a < s.stride_h; ++a)
        for (int64_t b = 0; b < s.stride_w; ++b)
            call.phases[a * s.stride_w + b] = {(a * s.width + b) * s.batch, parts(s.height - a, s.stride_h),
                                               parts(s.width - b, s.stride_w)};
}

// Whether the outputs [begin, end) have a kept weight at all; a depthwise convolution's often have none.
bool any_taps(const Taps &taps, int64_t begin, int64_t end) {
    for (const int32_t *starts = taps.starts; starts < taps.starts + segments(taps); starts += taps.rows)
        if (starts[begin] < starts[end])
            return true;
    return false;
}

// run(begin, end of the rows, unit, packed source) for all units of all groups. They are handed out as threads get free;
// each element of the result is made by one call, so that no bit depends on who makes it.
template <class Run> void each_unit(const Call &call, int64_t threads, Run run) {
    int64_t next = 0;
    const int64_t groups = call.shape.groups, rows = call.taps.rows / groups, units = call.tiling.units;
    // With fewer units than threads, several threads pack the same unit and share its rows.
    const int64_t shares = least(rows, parts(threads, units * groups)), tasks = groups * units * shares;
    divide(int(threads), least(threads, tasks), 1, [&](int64_t begin, int64_t end) {
        for (int64_t worker = begin; worker < end; ++worker) {
            float *packed = call.packed + worker * (call.tiling.packed + call.tiling.waiting);
            for (int64_t k; (k = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < tasks;) {
                const int64_t share = k % shares, group = k / shares / units;
                const Unit unit = unit_of(call.tiling, k / shares % units);
                const int64_t first = group * rows + share * rows / shares, last = group * rows + (share + 1) * rows / shares;
                if (any_taps(call.taps, first, last))
                    pack(call.source, call.grid, call.tiling, unit, group * call.source.channels, packed);
                run(first, last, unit, packed);
            }
        }
    });
}

// run(begin, end of the rows, unit, packed source) as well, but a row's units in their order and on one thread: what a
// weight's gradient adds up.
template <class Run> void each_row_in_order(const Call &call, int64_t threads, Run run) {
    const int64_t rows = call.taps.rows, in_group = rows / call.shape.groups, workers = least(threads, rows);
    divide(int(threads), workers, 1, [&](int64_t first, int64_t last) {
        for (int64_t worker = first; worker < last; ++worker) {
            float *packed = call.packed + worker * (call.tiling.packed + call.tiling.waiting);
            const int64_t begin = worker * rows / workers, end = (worker + 1) * rows / workers;
            for (int64_t at = begin, stop; at < end; at = stop) {
                const int64_t group = at / in_group;
                stop = least(end, (group + 1) * in_group);
                for (int64_t k = 0; k < call.tiling.units && any_taps(call.taps, at, stop); ++k) {
                    const Unit unit = unit_of(call.tiling, k);
                    pack(call.source, call.grid, call.tiling, unit, group * call.source.channels, packed);
                    run(at, stop, unit, packed);
                }
            }
        }
    });
}

Kept kept_of(const int32_t *rows, const void *codes, int64_t code_bytes, int64_t outputs) {
    return {rows, codes, code_bytes, rows[outputs]};
}

} // namespace

void conv_scratch(const int64_t *shape, int64_t pass, int64_t kept, int threads, int64_t *bytes) {
    const ConvShape &s = *reinterpret_cast<const ConvShape *>(shape);
    Call call = call_of(s, Pass(pass), kept, threads, nullptr);
    call.rest.take<int64_t>(s.channels / s.groups * s.kernel_h * s.kernel_w);
    *bytes = call.rest.used;
}

void conv_forward(const int64_t *shape, const float *x, const float *values, const int32_t *rows, const void *codes,
                  int64_t code_bytes, const float *bias, const float *scale, const float *shift, int64_t relu, float *y,
                  char *scratch, int threads) {
    const ConvShape &given = *reinterpret_cast<const ConvShape *>(shape);
    const Kept kept = kept_of(rows, codes, code_bytes, given.outputs);
    Call call = call_of(given, Pass::forward, kept.count, threads, scratch);
    const ConvShape &s = call.shape;
    call.source = input_of(s, x, scale, shift, relu);
    make_taps(s, kept, values, call.pass, call.tiling, call.grid, call.taps, call.rest);
    phases_of(call);
    const Result result{y, s.out_height * s.out_width * s.batch, s.out_width * s.batch, s.batch, s.batch, bias, call.phases};
    each_unit(call, threads, [&](int64_t begin, int64_t end, Unit unit, float *packed) {
        gather(call.taps, call.tiling, call.grid, result, unit, packed, begin, end);
    });
}

void conv_backward_input(const int64_t *shape, const float *gy, const float *values, const int32_t *rows,
                         const void *codes, int64_t code_bytes, float *gx, char *scratch, int threads) {
    const ConvShape &given = *reinterpret_cast<const ConvShape *>(shape);
    const Kept kept = kept_of(rows, codes, code_bytes, given.outputs);
    Call call = call_of(given, Pass::input, kept.count, threads, scratch);
    const ConvShape &s = call.shape;
    call.source.data = gy;
    make_taps(s, kept, values, call.pass, call.tiling, call.grid, call.taps, call.rest);
    phases_of(call);
    const Result result{gx, s.height * s.width * s.batch, s.stride_h * s.width * s.batch, s.stride_w * s.batch, s.batch,
                        nullptr, call.phases};
    each_unit(call, threads, [&](int64_t begin, int64_t end, Unit unit, float *packed) {
        gather(call.taps, call.tiling, call.grid, result, unit, packed, begin, end);
    });
}

void conv_backward_weight(const int64_t *shape, const float *x, const float *gy, const int32_t *rows, const void *codes,
                          int64_t code_bytes, const float *scale, const float *shift, int64_t relu, float *gvalues,
                          char *scratch, int threads) {
    const ConvShape &given = *reinterpret_cast<const ConvShape *>(shape);
    const Kept kept = kept_of(rows, codes, code_bytes, given.outputs);
    Call call = call_of(given, Pass::weight, kept.count, threads, scratch);
    const ConvShape &s = call.shape;
    call.source = input_of(s, x, scale, shift, relu);
    make_taps(s, kept, nullptr, call.pass, call.tiling, call.grid, call.taps, call.rest);
    phases_of(call);
    const Result grad{const_cast<float *>(gy), s.out_height * s.out_width * s.batch, s.out_width * s.batch, s.batch,
                      s.batch, nullptr, call.phases};
    for (int64_t k = 0; k < kept.count; ++k)
        call.totals[k] = 0;
    each_row_in_order(call, threads, [&](int64_t begin, int64_t end, Unit unit, float *packed) {
        correlate(call.taps, call.tiling, call.grid, grad, unit, packed, begin, end, call.totals);
    });
    for (int64_t k = 0; k < kept.count; ++k)
        gvalues[call.taps.taps[k].position] = call.totals[k];
}

void scatter_kept(const float *values, const int32_t *rows, const void *codes, int64_t code_bytes, int64_t outputs,
                  int64_t row_size, float *dense, int threads) {
    divide(threads, outputs, most(1, (1 << 18) / row_size), [=](int64_t begin, int64_t end) {
        for (int64_t o = begin; o < end; ++o) {
            float *row = dense + o * row_size;
            for (int64_t k = 0; k < row_size; ++k)
                row[k] = 0;
            for (int64_t k = rows[o]; k < rows[o + 1]; ++k)
                row[code_bytes == 2 ? int64_t(static_cast<const uint16_t *>(codes)[k])
                                    : int64_t(static_cast<const int32_t *>(codes)[k])] = values[k];
        }
    });
}

void gather_kept(const float *dense, const int32_t *rows, const void *codes, int64_t code_bytes, int64_t outputs,
                 int64_t row_size, float *values, int threads) {
    divide(threads, outputs, most(1, (1 << 18) / row_size), [=](int64_t begin, int64_t end) {
        for (int64_t o = begin; o < end; ++o) {
            const float *row = dense + o * row_size;
            for (int64_t k = rows[o]; k < rows[o + 1]; ++k)
                values[k] = row[code_bytes == 2 ? int64_t(static_cast<const uint16_t *>(codes)[k])
                                                : int64_t(static_cast<const int32_t *>(codes)[k])];
        }
    });
}

} // namespace hedgerow::HEDGEROW_ISA
