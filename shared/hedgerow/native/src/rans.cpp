// Range coding (rANS) as hedgerow/codec/rans.py describes it, with the same bytes as there.
#include "kernels.h"

namespace hedgerow::HEDGEROW_ISA {

namespace {

constexpr int precision = 15;
constexpr uint32_t least = 1 << 16, slot_mask = (1 << precision) - 1;

// x div f for all x < 2**17 * f is x * inverse >> 47, with inverse = 2**47 div f + 1: the error is x * e / (2**47 * f)
// with e <= f, so below 2**17 * f / 2**47 <= 1/f. The product stays below 2**64, since f <= 2**15.
struct Entry {
    uint64_t inverse;
    uint32_t begin;     // sum of the frequencies below
    uint32_t frequency; // at most 2**15
};

inline uint32_t put(const Entry &entry, uint32_t x, uint16_t *&words) {
    words[-1] = uint16_t(x);
    const bool full = x >> (32 - precision) >= entry.frequency;
    words -= full;
    x >>= full ? 16 : 0;
    const uint32_t quotient = uint32_t(x * entry.inverse >> 47);
    return x + entry.begin + quotient * ((1u << precision) - entry.frequency);
}

template <bool many>
uint16_t *write(const uint8_t *symbols, const uint8_t *contexts, int64_t count, const Entry *entries, int64_t alphabet,
                int64_t lanes, uint32_t *states, uint16_t *words) {
    auto entry = [=](int64_t i) -> const Entry & { return entries[(many ? contexts[i] * alphabet : 0) + symbols[i]]; };
    int64_t i = count;
    while (i % lanes)
        --i, states[i % lanes] = put(entry(i), states[i % lanes], words);
    while (i) {
        i -= lanes;
        for (int64_t lane = lanes - 1; lane >= 0; --lane)
            states[lane] = put(entry(i + lane), states[lane], words);
    }
    return words;
}

struct Tables {
    const uint8_t *slots;    // (rows, 2**precision): the symbol of each slot; null where there are two symbols
    const uint32_t *entries; // (rows, alphabet): frequency, and above it the sum of the frequencies below
    int64_t alphabet;
};

template <bool many, bool two>
inline uint32_t take(const Tables &tables, const uint8_t *context, uint32_t x, uint8_t *symbol) {
    const int64_t row = many ? *context : 0;
    const uint32_t slot = x & slot_mask;
    const uint32_t *entries = tables.entries + row * (two ? 2 : tables.alphabet);
    // Of two symbols one comparison tells: the slots of 256 contexts would take 8 MB.
    const uint8_t found = two ? slot >= (entries[0] & 0xFFFF) : tables.slots[(row << precision) + slot];
    const uint32_t entry = entries[found];
    *symbol = found;
    return (entry & 0xFFFF) * (x >> precision) + slot - (entry >> 16);
}

// As many symbols as there are words for, whatever the lanes need; returns how many.
template <bool many, bool two>
int64_t read(const Tables &tables, const uint16_t *&words, const uint16_t *end, uint8_t *symbols, const uint8_t *contexts,
             int64_t count, int64_t lanes, uint32_t *states) {
    int64_t i = 0;
    for (; i + lanes <= count && end - words >= lanes; i += lanes)
        for (int64_t lane = 0; lane < lanes; ++lane) {
            const uint32_t x = take<many, two>(tables, contexts + i + lane, states[lane], symbols + i + lane);
            // Which way it goes is as good as random, so no branch: it would be foreseen wrongly.
            const uint32_t short_of = x < least;
            states[lane] = x << 16 * short_of | (*words & (0 - short_of));
            words += short_of;
        }
    for (; i < count; ++i) {
        uint32_t x = take<many, two>(tables, contexts + i, states[i % lanes], symbols + i);
        if (x < least && words < end)
            x = x << 16 | *words++;
        states[i % lanes] = x;
    }
    return i;
}

} // namespace

void rans_encode(const uint8_t *symbols, const uint8_t *contexts, int64_t count, const uint32_t *frequencies,
                 int64_t rows, int64_t alphabet, int64_t lanes, void *scratch, uint32_t *states, uint16_t *words,
                 int64_t *first) {
    Entry *entries = static_cast<Entry *>(scratch);
    bool gaps = false;
    for (int64_t row = 0, k = 0; row < rows; ++row)
        for (uint32_t begin = 0; k < (row + 1) * alphabet; begin += frequencies[k++]) {
            const uint32_t f = frequencies[k];
            entries[k] = {f ? (uint64_t(1) << 47) / f + 1 : 0, begin, f};
            gaps |= !f;
        }
    *first = -1;
    if (gaps)
        for (int64_t i = 0; i < count; ++i)
            if (!entries[(contexts ? contexts[i] * alphabet : 0) + symbols[i]].frequency)
                return;
    auto run = contexts ? write<true> : write<false>;
    *first = run(symbols, contexts, count, entries, alphabet, lanes, states, words + count) - words;
}

void rans_decode(const uint16_t *words, int64_t held, uint8_t *symbols, const uint8_t *contexts,
                 const uint32_t *frequencies, int64_t count, int64_t rows, int64_t alphabet, int64_t lanes,
                 uint8_t *slots, uint32_t *entries, uint32_t *states, int64_t *used) {
    for (int64_t row = 0, k = 0; row < rows; ++row) {
        uint32_t begin = 0;
        for (int64_t symbol = 0; symbol < alphabet; ++symbol, ++k) {
            entries[k] = frequencies[k] | begin << 16;
            if (alphabet != 2)
                __builtin_memset(slots + (row << precision) + begin, int(symbol), frequencies[k]);
            begin += frequencies[k];
        }
    }
    const uint16_t *at = words;
    auto run = alphabet == 2 ? (contexts ? read<true, true> : read<false, true>)
                             : (contexts ? read<true, false> : read<false, false>);
    run({slots, entries, alphabet}, at, words + held, symbols, contexts, count, lanes, states);
    *used = at - words;
}

} // namespace hedgerow::HEDGEROW_ISA
