// Gaps between ones, as hedgerow/codec/gaps.py describes them, and back.
#include "kernels.h"

namespace hedgerow::HEDGEROW_ISA {

namespace {

// 8 bytes, the first one highest.
inline uint64_t big_endian(const uint8_t *p) {
    uint64_t word;
    __builtin_memcpy(&word, p, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

// Up to 8 bytes, the first one highest, then zeros.
inline uint64_t big_endian(const uint8_t *p, int64_t bytes) {
    if (bytes >= 8)
        return big_endian(p);
    uint64_t word = 0;
    for (int64_t i = 0; i < bytes; ++i)
        word |= uint64_t(p[i]) << (56 - 8 * i);
    return word;
}

} // namespace

void gaps_split(const uint8_t *bits, int64_t begin, int64_t end, int64_t low_bits, int64_t last, uint8_t *high,
                uint8_t *low, int64_t *beyond) {
    const int64_t bytes = (end + 7) / 8;
    const uint64_t mask = (uint64_t(1) << low_bits) - 1;
    uint64_t waiting = 0; // the lowest `held` bits are to be written
    int64_t held = 0, next = begin;
    for (int64_t at = begin / 8; at < bytes; at += 8) {
        uint64_t word = big_endian(bits + at, bytes - at);
        if (8 * at < begin)
            word &= ~uint64_t(0) >> (begin - 8 * at);
        if (8 * at + 64 > end)
            word &= ~uint64_t(0) << (8 * at + 64 - end);
        while (word) {
            const int64_t zeros = __builtin_clzll(word), place = 8 * at + zeros;
            word &= ~(uint64_t(1) << (63 - zeros));
            const uint64_t gap = uint64_t(place - next), part = gap >> low_bits;
            next = place + 1;
            const bool long_one = part >= uint64_t(last);
            *high++ = long_one ? uint8_t(last) : uint8_t(part);
            if (long_one)
                *beyond++ = int64_t(part) - last;
            waiting = waiting << low_bits | (gap & mask);
            for (held += low_bits; held >= 8; held -= 8)
                *low++ = uint8_t(waiting >> (held - 8));
        }
    }
    if (held)
        *low = uint8_t(waiting << (8 - held));
}

void gaps_join(const uint8_t *high, const uint8_t *low, const int64_t *beyond, int64_t ones, int64_t low_bits,
               int64_t last, int64_t begin, int64_t end, uint8_t *bits, int64_t *sound) {
    const int64_t low_bytes = (ones * low_bits + 7) / 8, most = (end - begin) >> low_bits;
    int64_t next = begin, read = 0;
    *sound = 0;
    for (int64_t i = 0; i < ones; ++i, read += low_bits) {
        int64_t gap = high[i];
        if (gap == last)
            gap += *beyond++;
        if (gap > most)
            return;
        gap <<= low_bits;
        if (low_bits) {
            const int64_t byte = read >> 3;
            gap |= int64_t(big_endian(low + byte, low_bytes - byte) << (read & 7) >> (64 - low_bits));
        }
        const int64_t place = next + gap;
        if (place >= end)
            return;
        bits[place >> 3] |= uint8_t(0x80 >> (place & 7));
        next = place + 1;
    }
    *sound = 1;
}

} // namespace hedgerow::HEDGEROW_ISA
