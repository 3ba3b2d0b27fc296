// Batch normalisation by channel, in few passes over memory: a channel's values stay in the cache between passes.
#include "lanes.h"

namespace hedgerow::HEDGEROW_ISA {

// So many values are summed in single precision, 64 sums side by side, before they are added up in double precision.
constexpr int64_t BLOCK = 4096;

static double block_sum(const float *p, int64_t n) {
    Lanes s0{}, s1{}, s2{}, s3{};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        s0 += load(p + i), s1 += load(p + i + LANES);
        s2 += load(p + i + 2 * LANES), s3 += load(p + i + 3 * LANES);
    }
    double sum = total((s0 + s1) + (s2 + s3));
    for (; i < n; ++i)
        sum += double(p[i]);
    return sum;
}

// Sums of d and d*d for d = p - pivot. The difference is exact where it matters: when all values are near the pivot.
static void block_squares(const float *p, int64_t n, float pivot, double &sum, double &squares) {
    Lanes s0{}, s1{}, q0{}, q1{};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const Lanes a = load(p + i) - pivot, b = load(p + i + LANES) - pivot;
        s0 += a, s1 += b;
        q0 += a * a, q1 += b * b;
    }
    sum = total(s0 + s1), squares = total(q0 + q1);
    for (; i < n; ++i) {
        const double d = double(p[i]) - double(pivot);
        sum += d, squares += d * d;
    }
}

void channel_statistics(const float *z, float *mean, float *variance, int64_t channels, int64_t size, int threads) {
    divide(useful_threads(threads, channels * size), channels, 1, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
            double count = 0, average = 0, squares = 0;
            for (int64_t start = 0; start < size; start += BLOCK) {
                const int64_t n = size - start < BLOCK ? size - start : BLOCK;
                const float *p = z + c * size + start;
                const float pivot = float(block_sum(p, n) / double(n));
                double s, q;
                block_squares(p, n, pivot, s, q);
                // Chan, Golub and LeVeque 1979: the moments of two parts give those of the whole.
                const double block_mean = double(pivot) + s / double(n);
                const double distance = block_mean - average;
                const double share = double(n) / (count + double(n));
                squares += q - s * s / double(n) + distance * distance * count * share;
                average += distance * share;
                count += double(n);
            }
            mean[c] = float(average);
            variance[c] = float(squares / count);
        }
    });
}

template <bool RESIDUAL, bool RELU>
static void scale_shift_of(const float *z, float scale, float shift, const float *residual, float *y, int64_t size) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        Lanes v = load(z + i) * scale + shift;
        if (RESIDUAL)
            v += load(residual + i);
        store(y + i, RELU ? rectified(v) : v);
    }
    for (; i < size; ++i) {
        float v = z[i] * scale + shift;
        if (RESIDUAL)
            v += residual[i];
        y[i] = RELU ? rectified(v) : v;
    }
}

void scale_shift(
    const float *z, const float *scale, const float *shift, const float *residual, float *y, int relu, int64_t channels,
    int64_t size, int threads) {
    const auto kernel = residual ? (relu ? scale_shift_of<true, true> : scale_shift_of<true, false>)
                                 : (relu ? scale_shift_of<false, true> : scale_shift_of<false, false>);
    divide(useful_threads(threads, channels * size), channels, 1, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c)
            kernel(z + c * size, scale[c], shift[c], residual ? residual + c * size : nullptr, y + c * size, size);
    });
}

// Where the sign of the ReLU's input comes from: there is no ReLU, its output, or the norm's input (and the residual).
enum class Sign { none, output, input, input_and_residual };

// One channel of the backward of y = relu?(scale * z + shift [+ residual]).
struct Channel {
    const float *grad, *z, *output, *residual;
    float mean, scale, shift;
    float *gated, *gz;
};

template <Sign SIGN, class Vector> static inline Vector gate(Vector g, Vector z, Vector other, const Channel &c) {
    if (SIGN == Sign::none)
        return g;
    // The same operations as in scale_shift, so that the sign is the same even next to 0. NaN lets the gradient through.
    Vector y = other;
    if (SIGN == Sign::input)
        y = z * c.scale + c.shift;
    if (SIGN == Sign::input_and_residual)
        y = z * c.scale + c.shift, y += other;
    return y <= 0.f ? Vector{} : g;
}

template <Sign SIGN> static inline const float *other_of(const Channel &c) {
    return SIGN == Sign::output ? c.output : SIGN == Sign::input_and_residual ? c.residual : c.z;
}

// Sums of the gated gradient g and of g * (z - mean); g is written where it is wanted.
template <Sign SIGN, bool WRITE> static void sums_of(const Channel &c, int64_t size, double &sum, double &moment) {
    const float *other = other_of<SIGN>(c);
    sum = moment = 0;
    for (int64_t start = 0; start < size; start += BLOCK) {
        const int64_t end = start + BLOCK < size ? start + BLOCK : size;
        Lanes s0{}, s1{}, m0{}, m1{};
        int64_t i = start;
        for (; i + 2 * LANES <= end; i += 2 * LANES) {
            const Lanes za = load(c.z + i), zb = load(c.z + i + LANES);
            const Lanes a = gate<SIGN>(load(c.grad + i), za, load(other + i), c);
            const Lanes b = gate<SIGN>(load(c.grad + i + LANES), zb, load(other + i + LANES), c);
            if (WRITE)
                store(c.gated + i, a), store(c.gated + i + LANES, b);
            s0 += a, s1 += b;
            m0 += a * (za - c.mean), m1 += b * (zb - c.mean);
        }
        sum += total(s0 + s1), moment += total(m0 + m1);
        for (; i < end; ++i) {
            const float g = gate<SIGN>(c.grad[i], c.z[i], other[i], c);
            if (WRITE)
                c.gated[i] = g;
            sum += double(g), moment += double(g) * (double(c.z[i]) - double(c.mean));
        }
    }
}

// gz = scale * (g - a - (z - mean) * b), where a and b are 0 if the statistics are constant.
template <Sign SIGN, bool CONSTANT> static void input_gradient_of(const Channel &c, int64_t size, float a, float b) {
    const float *other = other_of<SIGN>(c);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Lanes z = load(c.z + i), g = gate<SIGN>(load(c.grad + i), z, load(other + i), c);
        store(c.gz + i, c.scale * (CONSTANT ? g : (g - a) - (z - c.mean) * b));
    }
    for (; i < size; ++i) {
        const float g = gate<SIGN>(c.grad[i], c.z[i], other[i], c);
        c.gz[i] = c.scale * (CONSTANT ? g : (g - a) - (c.z[i] - c.mean) * b);
    }
}

template <Sign SIGN, bool CONSTANT>
static void backward_of(Channel c, int64_t size, double inverse_std, double &sum, double &moment) {
    if (c.gated)
        sums_of<SIGN, true>(c, size, sum, moment);
    else
        sums_of<SIGN, false>(c, size, sum, moment);
    const float a = float(sum / double(size));
    const float b = float(moment * inverse_std * inverse_std / double(size));
    if (c.gated) {
        c.grad = c.gated;
        input_gradient_of<Sign::none, CONSTANT>(c, size, a, b);
    } else {
        input_gradient_of<SIGN, CONSTANT>(c, size, a, b);
    }
}

using Backward = void (*)(Channel, int64_t, double, double &, double &);

template <bool CONSTANT> static Backward backward_by(int relu, const float *output, const float *residual) {
    if (!relu)
        return backward_of<Sign::none, CONSTANT>;
    if (output)
        return backward_of<Sign::output, CONSTANT>;
    return residual ? backward_of<Sign::input_and_residual, CONSTANT> : backward_of<Sign::input, CONSTANT>;
}

void channel_backward(
    const float *grad, const float *z, const float *output, const float *residual, const float *mean,
    const float *inverse_std, const float *scale, const float *shift, float *gated, float *gz, float *gweight,
    float *gbias, int relu, int constant, int64_t channels, int64_t size, int threads) {
    const Backward kernel =
        constant ? backward_by<true>(relu, output, residual) : backward_by<false>(relu, output, residual);
    divide(useful_threads(threads, channels * size), channels, 1, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
            const int64_t at = c * size;
            Channel channel{grad + at, z + at, nullptr, nullptr, mean[c], scale[c], shift[c], nullptr, gz + at};
            if (output)
                channel.output = output + at;
            if (residual)
                channel.residual = residual + at;
            if (gated)
                channel.gated = gated + at;
            double sum, moment;
            kernel(channel, size, double(inverse_std[c]), sum, moment);
            gweight[c] = float(moment * double(inverse_std[c]));
            gbias[c] = float(sum);
        }
    });
}

} // namespace hedgerow::HEDGEROW_ISA
