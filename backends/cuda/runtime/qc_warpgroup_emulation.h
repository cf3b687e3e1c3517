/* The other half of `qc_warpgroup.h`: what its operations mean, on a processor. A product is computed at once or when
 * it is waited for, whichever the grid says, so that what is written over too soon, or read too early, shows. Faults
 * are: operands that were not exposed behind the last write, sums that were not settled, registers that are touched
 * while a product has them, lanes of a warpgroup that come to different products.
 */
#pragma once

#include "qc_device.h"

namespace qc {
namespace emulation {

/* Chunk `i` of a row of an operand, as its description says. */
inline const unsigned char *chunk(uint64_t description, int row, int i) {
    const uint32_t first = (uint32_t)(description & 0x3fff) << 4, stride = (uint32_t)(description >> 32 & 0x3fff) << 4;
    if (description >> 62 != 1 || description >> 49 & 7) fail("an operand is not described as slices of 128 bytes");
    if (first & 0x380) fail("an operand does not begin at a multiple of 1024 bytes");
    uint32_t address = first + (uint32_t)(row / 8) * stride + (uint32_t)(row % 8) * 128 + (uint32_t)i * 16;
    address ^= (address >> 7 & 7) << 4;
    if (address + 16 > grid.shared_bytes) fail("an operand lies outside of shared memory");
    return grid.shared + address;
}

inline void check_operand(uint64_t description, int rows) {
    for (int row = 0; row < rows; row += 8)
        for (int i = 0; i < 2; ++i) {
            std::vector<Access> accesses;
            for (unsigned lane = 0; lane < 8; ++lane) {
                const unsigned char *at = chunk(description, row + (int)lane, i);
                const Written &written = grid.written[(size_t)(at - grid.shared) / 16];
                if (written.exposed && *written.exposed == written.before)
                    fail("an operand was written and not exposed");
                accesses.push_back({lane, at, 16, true});
            }
            if (grid.traffic) count_shared(accesses);
        }
}

/* All lanes of four warps come to the same product; without `left` its rows are in registers. */
inline void meet(const char *what, uint64_t left, uint64_t right, int columns) {
    if (grid.fibers.size() % 128) fail("a block has whole warpgroups");
    Warpgroup &group = grid.warpgroups[grid.current->thread / 128];
    if (group.arrived && (strcmp(group.what, what) || group.left != left || group.right != right))
        fail("lanes of a warpgroup come to different products");
    group.what = what, group.left = left, group.right = right;
    const unsigned generation = group.generation;
    if (++group.arrived == 128) {
        if (left) check_operand(left, 64);
        check_operand(right, columns);
        if (grid.traffic) ++grid.traffic->wgmma;
        group.arrived = 0;
        ++group.generation;
        grid.idle = 0;
    } else {
        while (group.generation == generation) pause();
    }
}

inline void check_untouched(const void *sums, size_t size) {
    const unsigned char *bytes = (const unsigned char *)sums;
    if (std::any_of(bytes, bytes + size, [](unsigned char byte) { return byte != 0xcd; }))
        fail("sums are touched while a product has them");
}

/* 32 bytes of a row. */
struct Row32 {
    unsigned char at[32];
};
inline Row32 row_of(uint64_t description, int row) {
    Row32 out;
    for (int half = 0; half < 2; ++half) memcpy(out.at + 16 * half, chunk(description, row, half), 16);
    return out;
}

/* `dot` adds the products of two rows of 32 bytes to a sum; `left_row(0)` is the lane's upper row of A, `left_row(1)`
 * the one eight rows below, `check` looks at operands once the product is over. */
template <class Sum, int Count, class LeftRow, class Dot, class Check>
void multiply(bool adds, Sum (&c)[Count][4], LeftRow left_row, uint64_t right, Dot dot, Check check) {
    Fiber &self = *grid.current;
    if (!self.products.settled) fail("sums are not settled in front of a product");
    Flight &flight = self.products.flights[&c];
    if (!flight.open++) {
        flight.value.assign((unsigned char *)&c, (unsigned char *)&c + sizeof c);
        memset(&c, 0xcd, sizeof c);
    }
    check_untouched(&c, sizeof c);
    const int lane = (int)self.thread % 32;
    Sum *sums = (Sum *)flight.value.data();
    const auto compute = [=] {
        for (int i = 0; i < 4 * Count; ++i) {
            const Row32 a = left_row(i % 4 / 2), b = row_of(right, i / 4 * 8 + lane % 4 * 2 + i % 2);
            sums[i] = dot(adds ? sums[i] : 0, a.at, b.at);
        }
    };
    if (grid.eager) compute();
    self.products.open.push_back([&self, &c, eager = grid.eager, compute, check] {
        if (!eager) compute();
        check_untouched(&c, sizeof c);
        check();
        Flight &over = self.products.flights[&c];
        if (--over.open) return;
        memcpy(&c, over.value.data(), sizeof c);
        self.products.flights.erase(&c);
    });
}

/* Both operands in shared memory. */
template <class Sum, int Count, class Dot>
void multiply(const char *what, bool adds, Sum (&c)[Count][4], uint64_t left, uint64_t right, Dot dot) {
    meet(what, left, right, 8 * Count);
    const int thread = (int)grid.current->thread, first = thread / 32 % 4 * 16 + thread % 32 / 4;
    multiply(adds, c, [=](int lower) { return row_of(left, first + 8 * lower); }, right, dot, [] {});
}

struct Two32 {
    Row32 row[2];
};
/* A in registers: halves of a format. */
template <int Count>
void multiply(const char *what, float (&c)[Count][4], const uint32_t (&a)[4], uint64_t right,
              const numbers::Small &format) {
    meet(what, 0, right, 8 * Count);
    Four mine;
    memcpy(mine.word, a, sizeof a);
    const Two32 rows = together<Two32>(what, mine, [](const Four *in, Two32 *out) {
        for (int i = 0; i < 512; ++i) {
            const int lane = i / 16, lower = i / 8 % 2, word = i % 8;
            const uint32_t from = in[lane / 4 * 4 + word % 4].word[lower + word / 4 * 2];
            memcpy(out[lane].row[lower].at + 4 * word, &from, 4);
        }
    });
    const auto dot = [&format](float sum, const unsigned char *x, const unsigned char *y) {
        double total = 0;
        for (int k = 0; k < 32; k += 2)
            total += format.value(x[k] | x[k + 1] << 8) * format.value(y[k] | y[k + 1] << 8);
        return rounded(sum, total);
    };
    const auto check = [&a, mine] {
        if (memcmp(a, mine.word, sizeof a)) fail("an operand in registers is touched while a product has it");
    };
    multiply(true, c, [rows](int lower) { return rows.row[lower]; }, right, dot, check);
}

/* Values of e4m3 and the powers of two that they begin with; zeros have none. */
struct Eights {
    double value[256];
    int power[256];
    Eights() {
        for (int code = 0; code < 256; ++code) {
            value[code] = numbers::e4m3.value((uint32_t)code);
            power[code] = value[code] == 0 ? -999 : std::max(code >> 3 & 15, 1) - 7;
        }
    }
};
inline const Eights eights;

inline float dot_e4m3(float c, const unsigned char *a, const unsigned char *b) {
    int most = c == 0 ? -999 : std::max(ilogbf(c), -126);
    for (int k = 0; k < 32; ++k) {
        if (eights.value[a[k]] * eights.value[b[k]] == 0) continue;
        most = std::max(most, eights.power[a[k]] + eights.power[b[k]]);
    }
    if (most == -999) return 0;
    const double places = ldexp(1, 13 - most);
    double sum = trunc(c * places);
    for (int k = 0; k < 32; ++k) sum += trunc(eights.value[a[k]] * eights.value[b[k]] * places);
    if (!isfinite(sum) || sum == 0) return (float)sum;
    const double kept = ldexp(1, 13 - ilogb(sum));
    return (float)(trunc(sum * kept) / kept / places);
}

} /* namespace emulation */

inline int warpgroup() { return (int)thread() / kWarpgroup; }
inline void expose() { ++emulation::grid.current->exposed; }
inline void settle() { emulation::grid.current->products.settled = true; }
inline void close() {
    auto &products = emulation::grid.current->products;
    products.groups.push_back(std::move(products.open));
    products.open.clear();
}
template <int Open> void await() {
    auto &products = emulation::grid.current->products;
    products.settled = false;
    while (products.groups.size() > Open) {
        for (const auto &end : products.groups[0]) end();
        products.groups.erase(products.groups.begin());
    }
}
template <int Open, class Sum, int Count> void await(Sum (&)[Count][4]) { await<Open>(); }

template <int Adds, int Count> void multiply_s8(int (&c)[Count][4], uint64_t a, uint64_t b) {
    emulation::multiply("multiply_s8", Adds, c, a, b, [](int sum, const unsigned char *x, const unsigned char *y) {
        for (int k = 0; k < 32; ++k) sum = wrap_add(sum, (int8_t)x[k] * (int8_t)y[k]);
        return sum;
    });
}
template <int Adds, int Count> void multiply_e4m3(float (&c)[Count][4], uint64_t a, uint64_t b) {
    emulation::multiply("multiply_e4m3", Adds, c, a, b, emulation::dot_e4m3);
}
template <int Count> void multiply_f16(float (&c)[Count][4], const uint32_t (&a)[4], uint64_t b) {
    emulation::multiply("multiply_f16", c, a, b, numbers::half);
}
template <int Count> void multiply_bf16(float (&c)[Count][4], const uint32_t (&a)[4], uint64_t b) {
    emulation::multiply("multiply_bf16", c, a, b, numbers::bfloat);
}

} /* namespace qc */
