/* Standard normal draws by Box-Muller in float64, from 64-bit words: what gemel/privacy/noise.py computes with torch, faster.
 *
 * Each pair of words gives two draws. Logarithm, sine and cosine are fdlibm's polynomials (error below one unit in the
 * last place); no branch, no table: time does not depend on what is drawn. No global state.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "portable.h"

INLINE double as_double(uint64_t bits) {
  double value;
  memcpy(&value, &bits, 8);
  return value;
}

INLINE uint64_t as_bits(double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  return bits;
}

/* A whole number below 2^52: its bits are the fraction of a float between 2^52 and 2^53. */
INLINE double small_whole(uint64_t number) {
  return as_double(0x4330000000000000ULL | number) - 4503599627370496.0;
}

/* (0, 1]: the low 63 bits plus one, over 2^63. */
INLINE double unit(uint64_t word) {
  const double high = small_whole((word >> 32) & 0x7fffffffULL), low = small_whole(word & 0xffffffffULL);
  return (high * 4294967296.0 + (low + 1.0)) * 1.0842021724855044e-19;
}

/* For 0 < u <= 1, normal. u = 2^k (1 + f) with sqrt(2)/2 < 1 + f < sqrt(2). */
INLINE double log_of(double u) {
  const uint64_t bits = as_bits(u) + (0x3ff0000000000000ULL - 0x3fe6a09e667f3bcdULL);
  const double k = small_whole(bits >> 52) - 1023.0;
  const double f = as_double((bits & 0x000fffffffffffffULL) + 0x3fe6a09e667f3bcdULL) - 1.0;
  const double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
  double r = 1.479819860511658591e-01;
  r = r * z + 1.531383769920937332e-01;
  r = r * z + 1.818357216161805012e-01;
  r = r * z + 2.222219843214978396e-01;
  r = r * z + 2.857142874366239149e-01;
  r = r * z + 3.999999999940941908e-01;
  r = r * z + 6.666666666666735130e-01;
  return k * 6.93147180369123816490e-01 - ((half - (s * (half + r * z) + k * 1.90821492927058770002e-10)) - f);
}

EACH_PROCESSOR
void gemel_normals(const uint64_t *for_radius, const uint64_t *for_angle, double *first, double *second, long pairs) {
  const uint64_t fifty_one = (1ULL << 51) - 1;
  APART for (long i = 0; i < pairs; i++) {
    const double radius = sqrt(-2.0 * log_of(unit(for_radius[i])));
    /* The angle in quarters of a turn, rounded to the nearest, and what is left of it, in [-pi/4, pi/4]. */
    const uint64_t shifted = (for_angle[i] >> 11) + (1ULL << 50), quarter = shifted >> 51;
    const double x = (small_whole(shifted & fifty_one) - 1125899906842624.0) * 6.975736996017264e-16;
    const double z = x * x;
    double s = 1.58969099521155010221e-10, c = -1.13596475577881948265e-11;
    s = s * z - 2.50507602534068634195e-08;
    c = c * z + 2.08757232129817482790e-09;
    s = s * z + 2.75573137070700676789e-06;
    c = c * z - 2.75573143513906633035e-07;
    s = s * z - 1.98412698298579493134e-04;
    c = c * z + 2.48015872894767294178e-05;
    s = s * z + 8.33333333332248946124e-03;
    c = c * z - 1.38888888888741095749e-03;
    s = s * z - 1.66666666666666324348e-01;
    c = c * z + 4.16666666666666019037e-02;
    const uint64_t sine = as_bits(x + x * z * s), cosine = as_bits(1.0 - 0.5 * z + z * z * c);
    const uint64_t swapped = 0ULL - (quarter & 1), exchange = (sine ^ cosine) & swapped;
    const uint64_t down = (quarter << 62) & 0x8000000000000000ULL;
    const uint64_t left = ((quarter + 1) << 62) & 0x8000000000000000ULL;
    first[i] = radius * as_double((cosine ^ exchange) ^ left);
    second[i] = radius * as_double((sine ^ exchange) ^ down);
  }
}
