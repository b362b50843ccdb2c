/* Whether the processor has the instructions of this build. Compiled without them, so that it runs on any processor. */
#include "decoder.h"

#ifdef __x86_64__
#include <cpuid.h>

/* Bits of the registers that `cpuid` and `xgetbv` fill, from Intel's and AMD's manuals. A hypervisor can hide any single
 * one. They are read here because __builtin_cpu_supports finds nothing in what `zig cc` links. */
enum {
    LEAF1_ECX = 1 << 12 | 1 << 22 | 1 << 23 | 1 << 27 | 1 << 28 | 1 << 29, /* FMA, MOVBE, POPCNT, OSXSAVE, AVX, F16C */
    LEAF7_EBX = 1 << 3 | 1 << 5 | 1 << 8,                                  /* BMI1, AVX2, BMI2 */
    EXTENDED_ECX = 1 << 5,                                                 /* LZCNT */
    SAVED_AVX = 1 << 1 | 1 << 2, /* the system saves the registers of SSE and AVX */
};

#ifdef __AVX512F__
#define NEEDED_LEAF7 (LEAF7_EBX | 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) /* AVX512F, DQ, CD, BW, VL */
#define NEEDED_SAVED (SAVED_AVX | 1u << 5 | 1u << 6 | 1u << 7)
#else
#define NEEDED_LEAF7 ((unsigned)LEAF7_EBX)
#define NEEDED_SAVED ((unsigned)SAVED_AVX)
#endif

__attribute__((target("arch=x86-64"))) EDGESAM_API int edgesam_runs_here(void)
{
    unsigned eax, ebx, ecx, edx, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & LEAF1_ECX) != LEAF1_ECX)
        return 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (ebx & NEEDED_LEAF7) != NEEDED_LEAF7)
        return 0;
    if (!__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) || (ecx & EXTENDED_ECX) != EXTENDED_ECX)
        return 0;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(high) : "c"(0)); /* OSXSAVE, checked above, allows it */
    return (eax & NEEDED_SAVED) == NEEDED_SAVED;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

#ifndef HWCAP_ASIMD
#define HWCAP_ASIMD (1 << 1) /* NEON, in Linux's word for it */
#endif

EDGESAM_API int edgesam_runs_here(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0; }
#else
#error "cpu.c does not know this kind of processor"
#endif
