/* Activations, with the same bits everywhere: nothing but sums, products and one quotient of float32.
 *
 * Each is x / (1 + exp(-t)) with an odd function t of x:
 *   silu        t = x
 *   gelu_tanh   t = sqrt(8 / pi) * (x + 0.044715 x^3), because 1 + tanh(t / 2) = 2 / (1 + exp(-t))
 *   gelu_erf    t = log(F / (1 - F)), F = (1 + erf(x / sqrt 2)) / 2, as a polynomial up to |x| = 5.5
 *
 * For |x| < 2^64 results are within 2^-20 of themselves plus 2^-24 of the exact functions. NaN stays NaN,
 * but of max(x, 0), which makes it 0.
 */
#pragma once

#include "qc_device.h"

/* Behind a product: none, max(x, 0), and those above. */
enum { QC_PLAIN, QC_RELU, QC_SILU, QC_GELU, QC_GELU_TANH };

namespace qc {

/* 2^x; x is taken to be between -125 and 127. The error of the polynomial is 2^-23 of the result. */
QC_DEVICE float power_of_two(float x) {
    const float inside = maximum(minimum(x, 127.0f), -125.0f);
    /* Rounds to an integer, which stands in the lowest bits then; shifted up they are that of an exponent. */
    const float base = 12582912.0f, shifted = add(inside, base), rest = add(inside, -add(shifted, -base));
    float power = 0.0013264742f;
    power = fma(power, rest, 0.009671518f);
    power = fma(power, rest, 0.055507336f);
    power = fma(power, rest, 0.24022242f);
    power = fma(power, rest, 0.693147f);
    power = fma(power, rest, 1.0f);
    return from_bits(bits(power) + (bits(shifted) << 23));
}
/* x / (1 + exp(-t)) for power = -t / log 2, which are those below. */
QC_DEVICE float gated(float x, float power) { return divide(x, add(1.0f, power_of_two(power))); }

QC_DEVICE float silu_power(float x) { return multiply(x, -1.442695f); }
QC_DEVICE float gelu_tanh_power(float x) { return multiply(x, fma(multiply(x, x), -0.10294324f, -2.3022082f)); }
QC_DEVICE float gelu_erf_power(float x) {
    const float square = minimum(multiply(x, x), 30.25f);
    float ratio = 9.8040805e-11f;
    ratio = fma(ratio, square, -1.1113581e-08f);
    ratio = fma(ratio, square, 5.2005197e-07f);
    ratio = fma(ratio, square, -1.2947362e-05f);
    ratio = fma(ratio, square, 0.00016784832f);
    ratio = fma(ratio, square, 7.1962175e-05f);
    ratio = fma(ratio, square, -0.10481005f);
    ratio = fma(ratio, square, -2.3022175f);
    return multiply(x, ratio);
}

QC_DEVICE float silu(float x) { return gated(x, silu_power(x)); }
QC_DEVICE float gelu_tanh(float x) { return gated(x, gelu_tanh_power(x)); }
QC_DEVICE float gelu_erf(float x) { return gated(x, gelu_erf_power(x)); }

/* Of three kinds only what they differ in is there three times. */
QC_DEVICE float activate(float x, int which) {
    if (which == QC_PLAIN) return x;
    if (which == QC_RELU) return maximum(x, 0.0f);
    float power;
    if (which == QC_SILU) power = silu_power(x);
    else if (which == QC_GELU) power = gelu_erf_power(x);
    else power = gelu_tanh_power(x);
    return gated(x, power);
}

} /* namespace qc */
