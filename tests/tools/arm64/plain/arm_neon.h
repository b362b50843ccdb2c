#include <stdint.h>
typedef struct { _Float16 lane[4]; } float16x4_t;
typedef float float32x4_t __attribute__((vector_size(16)));
typedef struct { uint16_t lane[4]; } uint16x4_t;
static inline uint16x4_t vld1_u16(const uint16_t *p) { return (uint16x4_t){{p[0], p[1], p[2], p[3]}}; }
static inline float16x4_t vreinterpret_f16_u16(uint16x4_t v) { float16x4_t h; __builtin_memcpy(&h, &v, sizeof h); return h; }
static inline float32x4_t vcvt_f32_f16(float16x4_t h) { return (float32x4_t){h.lane[0], h.lane[1], h.lane[2], h.lane[3]}; }
