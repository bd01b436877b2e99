/* The gated recurrent unit over time, forwards and back, for float32 and patient-major tensors.
 *
 * Patients do not touch each other: four at a time go through all steps, with their state and the weights in cache.
 * Numbers agree with torch's to float32 rounding; what is computed is in rules/recurrent.py. No global state.
 */
#include <stdlib.h>
#include <string.h>

#include "portable.h"

#define ROWS 4   /* patients at once */
#define LANES 8  /* floats in one vector */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* exp to about one unit in the last place: 2^k times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes). */
INLINE float exp_of(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole number */
  const float k = shifted - 12582912.0f;
  int bits;
  memcpy(&bits, &shifted, 4);
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int power = (int)((unsigned)(bits + 127) << 23); /* the shift drops what the rounding constant left above */
  float scale;
  memcpy(&scale, &power, 4);
  return p * scale;
}

INLINE float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }

INLINE float tanh_of(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float large = 1.0f - 2.0f / (1.0f + exp_of(2.0f * x));
  return z < 0.390625f ? small : large; /* |x| < 0.625 */
}

/* out (ROWS, columns) += left (ROWS, depth) times right (depth, columns); columns are a multiple of LANES. */
INLINE void product(float *out, const float *left, const float *right, long depth, long columns) {
  long column = 0;
  for (; column + 2 * LANES <= columns; column += 2 * LANES) {
    float *at = out + column;
    vec a0 = *(vec *)at, b0 = *(vec *)(at + LANES);
    vec a1 = *(vec *)(at + columns), b1 = *(vec *)(at + columns + LANES);
    vec a2 = *(vec *)(at + 2 * columns), b2 = *(vec *)(at + 2 * columns + LANES);
    vec a3 = *(vec *)(at + 3 * columns), b3 = *(vec *)(at + 3 * columns + LANES);
    for (long k = 0; k < depth; k++) {
      const vec x = *(const vec *)(right + k * columns + column), y = *(const vec *)(right + k * columns + column + LANES);
      const float l0 = left[k], l1 = left[depth + k], l2 = left[2 * depth + k], l3 = left[3 * depth + k];
      a0 += l0 * x, b0 += l0 * y, a1 += l1 * x, b1 += l1 * y;
      a2 += l2 * x, b2 += l2 * y, a3 += l3 * x, b3 += l3 * y;
    }
    *(vec *)at = a0, *(vec *)(at + LANES) = b0;
    *(vec *)(at + columns) = a1, *(vec *)(at + columns + LANES) = b1;
    *(vec *)(at + 2 * columns) = a2, *(vec *)(at + 2 * columns + LANES) = b2;
    *(vec *)(at + 3 * columns) = a3, *(vec *)(at + 3 * columns + LANES) = b3;
  }
  for (; column < columns; column += LANES) {
    float *at = out + column;
    vec a0 = *(vec *)at, a1 = *(vec *)(at + columns), a2 = *(vec *)(at + 2 * columns), a3 = *(vec *)(at + 3 * columns);
    for (long k = 0; k < depth; k++) {
      const vec x = *(const vec *)(right + k * columns + column);
      a0 += left[k] * x, a1 += left[depth + k] * x, a2 += left[2 * depth + k] * x, a3 += left[3 * depth + k] * x;
    }
    *(vec *)at = a0, *(vec *)(at + columns) = a1, *(vec *)(at + 2 * columns) = a2, *(vec *)(at + 3 * columns) = a3;
  }
}

INLINE long padded(long size) { return (size + LANES - 1) / LANES * LANES; }

/* from_input (B, T, 3H), start (B, H), weight (3H, H), bias (3H) to gates (B, T, 2H), candidate, hidden, states (B, T, H).
 * Returns 0, or 1 when there is no memory. */
EACH_PROCESSOR int gated_forward(long patients, long steps, long size, const float *from_input, const float *start,
                                 const float *weight, const float *bias, float *gates, float *candidate,
                                 float *hidden, float *states) {
  const long wide = padded(3 * size);
  float *scratch = calloc((size_t)(size * wide + wide + ROWS * (wide + size)), sizeof(float));
  if (!scratch) return 1;
  float *across = scratch, *offset = across + size * wide, *part = offset + wide, *state = part + ROWS * wide;
  for (long j = 0; j < 3 * size; j++) {
    for (long k = 0; k < size; k++) across[k * wide + j] = weight[j * size + k];
    offset[j] = bias[j];
  }
  for (long first = 0; first < patients; first += ROWS) {
    const int rows = patients - first < ROWS ? (int)(patients - first) : ROWS;
    memset(state, 0, sizeof(float) * ROWS * size);
    memcpy(state, start + first * size, sizeof(float) * rows * size);
    for (long t = 0; t < steps; t++) {
      for (int row = 0; row < ROWS; row++) memcpy(part + row * wide, offset, sizeof(float) * wide);
      product(part, state, across, size, wide);
      for (int row = 0; row < rows; row++) {
        const long place = (first + row) * steps + t;
        const float *restrict in = from_input + place * 3 * size, *restrict own = part + row * wide;
        float *restrict gate = gates + place * 2 * size, *restrict n = candidate + place * size;
        float *restrict h = state + row * size, *restrict s = hidden + place * size, *restrict o = states + place * size;
        APART
        for (long j = 0; j < 2 * size; j++) gate[j] = sigmoid_of(in[j] + own[j]);
        APART
        for (long j = 0; j < size; j++) {
          s[j] = own[2 * size + j];
          n[j] = tanh_of(in[2 * size + j] + gate[j] * s[j]);
          h[j] = n[j] + gate[size + j] * (h[j] - n[j]);
          o[j] = h[j];
        }
      }
    }
  }
  free(scratch);
  return 0;
}

/* The gradient of the states (B, T, H) to those of from_input and of what comes from the states, (B, T, 3H) each, and of
 * the start (B, H). */
EACH_PROCESSOR int gated_backward(long patients, long steps, long size, const float *gradient, const float *gates,
                                  const float *candidate, const float *hidden, const float *states,
                                  const float *start, const float *weight, float *to_input, float *to_state,
                                  float *to_start) {
  const long wide = padded(size);
  float *scratch = calloc((size_t)(3 * size * wide + ROWS * (wide + 3 * size)), sizeof(float));
  if (!scratch) return 1;
  float *across = scratch, *carried = across + 3 * size * wide, *spread = carried + ROWS * wide;
  for (long j = 0; j < 3 * size; j++) memcpy(across + j * wide, weight + j * size, sizeof(float) * size);
  for (long first = 0; first < patients; first += ROWS) {
    const int rows = patients - first < ROWS ? (int)(patients - first) : ROWS;
    memset(carried, 0, sizeof(float) * ROWS * wide);
    memset(spread, 0, sizeof(float) * ROWS * 3 * size);
    for (long t = steps - 1; t >= 0; t--) {
      for (int row = 0; row < rows; row++) {
        const long place = (first + row) * steps + t;
        const float *restrict before = t ? states + (place - 1) * size : start + (first + row) * size;
        const float *restrict r = gates + place * 2 * size, *restrict z = r + size;
        const float *restrict n = candidate + place * size, *restrict s = hidden + place * size;
        const float *restrict given = gradient + place * size;
        float *restrict in = to_input + place * 3 * size, *restrict st = to_state + place * 3 * size;
        float *restrict d = carried + row * wide, *restrict left = spread + row * 3 * size;
        APART
        for (long j = 0; j < size; j++) {
          const float reached = d[j] + given[j];
          const float to_new = reached * (1.0f - z[j]) * (1.0f - n[j] * n[j]);
          const float update = reached * (before[j] - n[j]) * z[j] * (1.0f - z[j]);
          const float reset = to_new * s[j] * r[j] * (1.0f - r[j]);
          in[j] = st[j] = left[j] = reset;
          in[size + j] = st[size + j] = left[size + j] = update;
          in[2 * size + j] = to_new;
          st[2 * size + j] = left[2 * size + j] = to_new * r[j];
          d[j] = reached * z[j];
        }
      }
      product(carried, spread, across, 3 * size, wide);
    }
    for (int row = 0; row < rows; row++) memcpy(to_start + (first + row) * size, carried + row * wide, sizeof(float) * size);
  }
  free(scratch);
  return 0;
}
