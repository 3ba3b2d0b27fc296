// Bit-sliced counters of votes: plane d holds binary digit d of every counter, one bit each, packed like the votes.
//
// The votes of a few clients are added at once. For each digit d, from the lowest, the bitmaps of all clients whose
// weight has that digit, and what was carried to it, are added to plane d with full adders of 3 bits to 2, in trees as
// of Harley and Seal (carry-save adders: H. S. Warren, "Hacker's Delight", 2nd edition, 2013, section 5-1). Which
// bitmaps these are is the same everywhere, so it is planned once; the plan then runs block by block in the first-level
// cache. Bitmaps are copied there first: they often start at the same place of a page, and would evict each other.
#include "lanes.h"

#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace hedgerow::HEDGEROW_ISA {
namespace {

constexpr int64_t block = 512; // bytes of one bitmap; with the two below, votes.py has the same numbers
constexpr int most_clients = 32;
constexpr int group = 8; // planes that are neighbours in memory: [block][plane][byte]
constexpr int most_planes = 40;
constexpr int line = 64;
constexpr int width = 4 * LANES;
constexpr int tree = 4; // 2^tree bitmaps are added at once at most
// Carried to one digit: by two sixteens at most, and by one each of 8, 4, 2 and 1 bitmaps.
constexpr int carried = 6;
constexpr int slots = (tree + 1) * carried;

typedef uint64_t Bits __attribute__((vector_size(width), may_alias));
typedef uint64_t LooseBits __attribute__((vector_size(width), aligned(1), may_alias));

inline Bits load_bits(const uint8_t *p) {
    Bits v = *reinterpret_cast<const Bits *>(p);
#if defined(__AVX512F__)
    // Else it would be loaded once for each of the two instructions that use it.
    asm("" : "+v"(v));
#endif
    return v;
}

inline void store_bits(uint8_t *p, Bits v) { *reinterpret_cast<Bits *>(p) = v; }

// sum += a + b; returns the carry.
inline Bits full_add(Bits &sum, Bits a, Bits b) {
#if defined(__AVX512F__)
    const __m512i x = reinterpret_cast<__m512i>(a), y = reinterpret_cast<__m512i>(b), z = reinterpret_cast<__m512i>(sum);
    sum = reinterpret_cast<Bits>(_mm512_ternarylogic_epi64(x, y, z, 0x96));
    return reinterpret_cast<Bits>(_mm512_ternarylogic_epi64(x, y, z, 0xE8));
#else
    const Bits differ = a ^ b, carry = (a & b) | (sum & differ);
    sum ^= differ;
    return carry;
#endif
}

// Adds 2^levels bitmaps to counters of that many digits; returns the carry.
template <int levels> inline Bits add_all(const uint8_t *const *inputs, int64_t at, Bits *digits) {
    if constexpr (levels == 0) {
        return load_bits(inputs[0] + at);
    } else {
        const Bits a = add_all<levels - 1>(inputs, at, digits);
        const Bits b = add_all<levels - 1>(inputs + (1 << (levels - 1)), at, digits);
        return full_add(digits[levels - 1], a, b);
    }
}

template <int levels> void add_block(const uint8_t *const *inputs, uint8_t *const *planes, uint8_t *carry) {
    for (int64_t at = 0; at < block; at += width) {
        Bits digits[levels];
        for (int k = 0; k < levels; ++k)
            digits[k] = load_bits(planes[k] + at);
        store_bits(carry + at, add_all<levels>(inputs, at, digits));
        for (int k = 0; k < levels; ++k)
            store_bits(planes[k] + at, digits[k]);
    }
}

// One bitmap alone.
template <> void add_block<0>(const uint8_t *const *inputs, uint8_t *const *planes, uint8_t *carry) {
    for (int64_t at = 0; at < block; at += width) {
        const Bits a = load_bits(inputs[0] + at), sum = load_bits(planes[0] + at);
        store_bits(carry + at, a & sum);
        store_bits(planes[0] + at, a ^ sum);
    }
}

// Adds 2^levels bitmaps to the planes from `digit` on; bitmaps are rows of the scratch.
struct Step {
    int levels, digit, carry;
    int inputs[1 << tree];
};

struct Plan {
    int steps, digits; // digits: how many of them are touched
    Step step[most_planes * carried];
};

void make_plan(Plan &plan, const int64_t *weights, int clients, int planes) {
    int waiting[most_planes + tree][most_clients + carried], counts[most_planes + tree] = {};
    int spare[slots], spares = 0;
    for (int k = 0; k < slots; ++k)
        spare[spares++] = most_clients + k;
    plan.steps = plan.digits = 0;
    for (int digit = 0; digit < planes; ++digit) {
        int *inputs = waiting[digit], count = counts[digit];
        for (int k = 0; k < clients; ++k)
            if (weights[k] >> digit & 1)
                inputs[count++] = k;
        for (int used = 0; used < count;) {
            Step &step = plan.step[plan.steps++];
            step.levels = 0;
            while (step.levels < tree && 2 << step.levels <= count - used && digit + step.levels + 1 <= planes)
                ++step.levels;
            step.digit = digit;
            // A slot that is read may be written in the same step: each vector is read before it is written.
            for (int k = 0; k < 1 << step.levels; ++k) {
                step.inputs[k] = inputs[used++];
                if (step.inputs[k] >= most_clients)
                    spare[spares++] = step.inputs[k];
            }
            step.carry = spare[--spares];
            const int to = digit + (step.levels ? step.levels : 1);
            waiting[to][counts[to]++] = step.carry;
            plan.digits = to < planes ? to + 1 : planes;
        }
    }
}

uint8_t *plane(uint8_t *const *groups, int64_t at, int digit) {
    return groups[digit / group] + (at * group + digit % group) * block;
}

// The processor does not foresee so many places to read from. A block that is not aligned ends in a line more.
template <int writes> inline void prefetch(const uint8_t *from) {
    for (int64_t k = 0; k <= block; k += line)
        __builtin_prefetch(from + k, writes, 2);
}

// Where the next block of a bitmap or a plane is.
struct Next {
    const uint8_t *const *votes;
    int clients, rows; // rows: bitmaps and planes; 0 behind the last whole block
};

void run(const Plan &plan, uint8_t (*scratch)[block], uint8_t *const *groups, int64_t at, const Next &next) {
    const int rows_a_step = (next.rows + plan.steps - 1) / plan.steps;
    int row = 0;
    for (const Step *step = plan.step; step < plan.step + plan.steps; ++step) {
        for (const int end = row + rows_a_step; row < end && row < next.rows; ++row)
            if (row < next.clients)
                prefetch<0>(next.votes[row] + (at + 1) * block);
            else
                prefetch<1>(plane(groups, at + 1, row - next.clients));
        const uint8_t *inputs[1 << tree];
        uint8_t *planes[tree];
        for (int k = 0; k < 1 << step->levels; ++k)
            inputs[k] = scratch[step->inputs[k]];
        planes[0] = plane(groups, at, step->digit);
        for (int k = 1; k < step->levels; ++k)
            planes[k] = plane(groups, at, step->digit + k);
        uint8_t *carry = scratch[step->carry];
        switch (step->levels) {
        case 0: add_block<0>(inputs, planes, carry); break;
        case 1: add_block<1>(inputs, planes, carry); break;
        case 2: add_block<2>(inputs, planes, carry); break;
        case 3: add_block<3>(inputs, planes, carry); break;
        default: add_block<tree>(inputs, planes, carry); break;
        }
    }
}

void copy_block(uint8_t *to, const uint8_t *from, int64_t bytes) {
    if (bytes < block) {
        std::memset(to, 0, block);
        std::memcpy(to, from, size_t(bytes));
        return;
    }
    for (int64_t at = 0; at < block; at += width)
        store_bits(to + at, *reinterpret_cast<const LooseBits *>(from + at));
}

// Swaps the bits of `b` under the mask with those of `a` that are `shift` higher.
inline void swap_bits(Bits &a, Bits &b, int shift, uint64_t mask) {
    const Bits differ = ((a >> shift) ^ b) & mask;
    a ^= differ << shift;
    b ^= differ;
}

} // namespace

void add_votes(const uint8_t *const *votes, const int64_t *weights, int64_t clients, uint8_t *const *groups,
               int64_t planes, int64_t bytes) {
    Plan plan;
    make_plan(plan, weights, int(clients), int(planes));
    alignas(4096) uint8_t scratch[most_clients + slots][block];
    const int64_t blocks = (bytes + block - 1) / block;
    for (int64_t at = 0; at < blocks; ++at) {
        const int64_t left = bytes - at * block;
        for (int64_t k = 0; k < clients; ++k)
            copy_block(scratch[k], votes[k] + at * block, left < block ? left : block);
        const bool more = left >= 2 * block;
        run(plan, scratch, groups, at, Next{votes, int(clients), more ? int(clients) + plan.digits : 0});
    }
}

void vote_sums(const uint8_t *const *groups, int64_t group_count, int64_t first, int64_t blocks, int64_t *sums) {
    // Of `width` bytes of each plane: for each group, the digits of the bits 7 - r of all bytes.
    alignas(64) uint8_t digits[most_planes / group][group][width];
    for (int64_t at = first; at < first + blocks; ++at)
        for (int64_t byte = 0; byte < block; byte += width) {
            for (int64_t g = 0; g < group_count; ++g) {
                const uint8_t *planes = groups[g] + at * group * block + byte;
                Bits rows[group];
                for (int k = 0; k < group; ++k)
                    rows[k] = load_bits(planes + k * block);
                // 8 x 8 bits are transposed in each byte of the eight rows.
                for (int k = 0; k < 4; ++k)
                    swap_bits(rows[k], rows[k + 4], 4, 0x0f0f0f0f0f0f0f0f);
                for (int k = 0; k < 8; k += k % 2 ? 3 : 1)
                    swap_bits(rows[k], rows[k + 2], 2, 0x3333333333333333);
                for (int k = 0; k < 8; k += 2)
                    swap_bits(rows[k], rows[k + 1], 1, 0x5555555555555555);
                for (int k = 0; k < group; ++k)
                    store_bits(digits[g][k], rows[k]);
            }
            for (int k = 0; k < width; ++k)
                for (int r = 0; r < 8; ++r) {
                    int64_t sum = 0;
                    for (int64_t g = group_count; g-- > 0;)
                        sum = sum << 8 | digits[g][7 - r][k];
                    *sums++ = sum;
                }
        }
}

} // namespace hedgerow::HEDGEROW_ISA
