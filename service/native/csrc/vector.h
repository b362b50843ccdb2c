/* Vectors of floats in the compiler's own type, and the functions on them that the decoder needs.
 *
 * One source serves AVX2, AVX-512 and NEON: VL, the lanes of a vector, follows the compiler's flags. Vectors are never
 * longer than those of the processor, because GCC would keep longer ones in memory.
 */
#ifndef EDGESAM_VECTOR_H
#define EDGESAM_VECTOR_H

#include <stdint.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VL 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define VL 8
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define VL 4
#else
#error "the decoder needs AVX2, AVX-512 or NEON"
#endif

/* Lanes of a vector over the heads, of which there are 8. */
#define VH (VL < 8 ? VL : 8)

/* Unaligned on purpose: rows of 8 heads start at any address. */
typedef float vf __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef float vh __attribute__((vector_size(VH * 4), aligned(4), may_alias));
typedef int32_t vhi __attribute__((vector_size(VH * 4), aligned(4), may_alias));
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE void store(float *p, vf v) { *(vf *)p = v; }
INLINE vh load_vh(const float *p) { return *(const vh *)p; }
INLINE void store_vh(float *p, vh v) { *(vh *)p = v; }
/* Loads float16 numbers. */
INLINE vf load_float16(const uint16_t *p)
{
#if VL == 16
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
#elif VL == 8
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
#else
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#endif
}

INLINE vf splat(float x) { return x - (vf){0}; }

#if VL == 16
/* Lane i of eight is the sum of lanes i and i + 8. */
INLINE vh fold8(vf v)
{
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
#elif VL == 8
INLINE vh fold8(vf v) { return v; }
#endif

/* Stores the sums of eight columns, where `even` and `odd` hold sums of alternating vectors of a longer row. */
INLINE void store_eight_sums(float *p, vf even, vf odd)
{
#if VL >= 8
    store_vh(p, fold8(even + odd));
#else
    store(p, even);
    store(p + VL, odd);
#endif
}

/* Lane i of four is the sum of lanes i, i + 4, … */
INLINE v4 fold4(vf v)
{
#if VL >= 8
    vh eight = fold8(v);
    return __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#else
    return v;
#endif
}

INLINE float sum_lanes(vf v)
{
    v4 four = fold4(v);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

/* The larger number in each lane; C has no ?: for vectors. */
#define DEFINE_MAX(name, vec, ivec)                                  \
    INLINE vec name(vec a, vec b)                                    \
    {                                                                \
        ivec is_more = a > b;                                        \
        return (vec)(((ivec)a & is_more) | ((ivec)b & ~is_more));    \
    }
DEFINE_MAX(max_vf, vf, vi)
DEFINE_MAX(max_vh, vh, vhi)

/* exp(x) for x <= 0, relative error below 2e-7; 0 below -87.3, where float32 has no normal numbers left.
 *
 * 2^n · e^r with n = round(x / ln 2): n goes into the exponent bits, e^r on |r| <= ln 2 / 2 is its Taylor series.
 * Written once for each vector type, since C has no templates.
 */
#define DEFINE_EXP(name, vec, ivec)                                                                      \
    INLINE vec name(vec x)                                                                               \
    {                                                                                                    \
        const float round_bias = 12582912.0f; /* 1.5 · 2^23: adding it leaves the nearest integer */     \
        ivec is_zero = x < -87.3f;                                                                       \
        x = (vec)((ivec)x & ~is_zero);                                                                   \
        vec n = (x * 1.44269504f + round_bias) - round_bias;                                             \
        vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts, the first one exact */ \
        vec e = 1.0f / 720 + r * (1.0f / 5040);                                                          \
        e = 1.0f / 120 + r * e;                                                                          \
        e = 1.0f / 24 + r * e;                                                                           \
        e = 1.0f / 6 + r * e;                                                                            \
        e = 0.5f + r * e;                                                                                \
        e = 1.0f + r * (1.0f + r * e);                                                                   \
        ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;                                     \
        return (vec)((ivec)(e * (vec)power) & ~is_zero);                                                 \
    }
DEFINE_EXP(exp_vf, vf, vi)
DEFINE_EXP(exp_vh, vh, vhi)

/* 1 / x; an estimate and a Newton step where a division of a long vector takes as long as ten products. */
INLINE vf reciprocal(vf x)
{
#if VL == 16
    vf y = (vf)_mm512_rcp14_ps((__m512)x);
    return y * (2.0f - x * y);
#else
    return 1.0f / x;
#endif
}

/* x · Φ(x), the exact GELU; absolute error below 3e-7 · |x|.
 *
 * erf(z) = z · P(z²) / Q(z²) up to |z| = 3.9, beyond which it is 1 within float32: fitted to 1.5e-8 by reweighted
 * least squares against the C library's erf.
 */
INLINE vf gelu(vf x)
{
    vf z = x * 0.70710678f;
    z = max_vf(-max_vf(-z, splat(-3.9f)), splat(-3.9f));
    vf u = z * z;
    vf p = 2.87448456e-4f + u * 2.05048178e-6f;
    p = 3.83643354e-3f + u * p;
    p = 5.29655624e-2f + u * p;
    p = 1.91930480e-1f + u * p;
    p = 1.12837903f + u * p;
    vf q = 1.18162922e-3f + u * 3.82312668e-5f;
    q = 1.51083198e-2f + u * q;
    q = 1.14753879e-1f + u * q;
    q = 5.03425740e-1f + u * q;
    q = 1.0f + u * q;
    return 0.5f * x * (1.0f + z * p * reciprocal(q));
}

#endif
