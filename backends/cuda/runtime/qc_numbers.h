/* Small floats on a processor: exact values, and rounding to nearest, ties to even. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace qc {
namespace numbers {

/* A float format with subnormal numbers.
 *   mantissa, exponent: bits of each; one bit of sign stands above them
 *   finite: whether the largest exponent holds numbers too and only all ones is NaN, as in e4m3; others have infinities
 */
struct Small {
    int mantissa, exponent;
    bool finite;

    int bias() const { return (1 << (exponent - 1)) - 1; }
    uint32_t not_a_number() const {
        const uint32_t ones = (1u << (mantissa + exponent)) - 1;
        return finite ? ones : ones & ~((1u << (mantissa - 1)) - 1);
    }
    uint32_t beyond() const { return finite ? not_a_number() : ((1u << exponent) - 1) << mantissa; }

    double value(uint32_t code) const {
        const uint32_t fraction = code & ((1u << mantissa) - 1), power = code >> mantissa & ((1u << exponent) - 1);
        const double sign = code >> (mantissa + exponent) & 1 ? -1.0 : 1.0;
        if (power == (1u << exponent) - 1) {
            if (!finite) return fraction ? NAN : sign * INFINITY;
            if (fraction == (1u << mantissa) - 1) return NAN;
        }
        if (!power) return sign * ldexp(fraction, 1 - bias() - mantissa);
        return sign * ldexp(fraction + (1u << mantissa), (int)power - bias() - mantissa);
    }

    uint32_t round(double x) const {
        const uint32_t sign = (uint32_t)(signbit(x) != 0) << (mantissa + exponent);
        if (x != x) return not_a_number();
        const double size = fabs(x);
        if (size == 0) return sign;
        if (isinf(size)) return sign | beyond();
        const int power = fmax(ilogb(size), 1 - bias());
        const double steps = nearbyint(ldexp(size, mantissa - power));
        const uint32_t code = ((uint32_t)(power + bias() - 1) << mantissa) + (uint32_t)steps;
        return sign | (code < beyond() ? code : beyond());
    }
};

constexpr Small half{10, 5, false}, bfloat{7, 8, false}, e4m3{3, 4, true};

/* a + b rounded to odd, so that rounding it once more to a much shorter format does not round twice. */
inline double add_to_odd(double a, double b) {
    const double sum = a + b, back = sum - a, lost = (a - (sum - back)) + (b - back);
    uint64_t code;
    memcpy(&code, &sum, 8);
    return lost != 0 && isfinite(sum) && !(code & 1) ? nextafter(sum, copysign(INFINITY, lost)) : sum;
}

} /* namespace numbers */
} /* namespace qc */
