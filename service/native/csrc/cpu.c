/* Whether the processor has the instructions of this build. Compiled without them, so that it runs on any processor. */
#include "decoder.h"

#ifdef __aarch64__
#include <sys/auxv.h>

#ifndef HWCAP_ASIMD
#define HWCAP_ASIMD (1 << 1) /* NEON, in Linux's word for it */
#endif
#endif

/* A hypervisor can hide any single one of them. */
#define HAS_V3                                                                                                         \
    (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&              \
     __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") &&             \
     __builtin_cpu_supports("movbe") && __builtin_cpu_supports("popcnt"))

#if defined(__x86_64__) && defined(__AVX512F__)
__attribute__((target("arch=x86-64"))) EDGESAM_API int edgesam_runs_here(void)
{
    return HAS_V3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512cd");
}
#elif defined(__x86_64__)
__attribute__((target("arch=x86-64"))) EDGESAM_API int edgesam_runs_here(void)
{
    return HAS_V3;
}
#elif defined(__aarch64__)
EDGESAM_API int edgesam_runs_here(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0; }
#else
#error "cpu.c does not know this kind of processor"
#endif
