#include "memory.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { LARGE_PAGE = 2 << 20 };

float *memory_new(size_t numbers)
{
    size_t bytes = (numbers * sizeof(float) + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    void *memory;
    if (posix_memalign(&memory, LARGE_PAGE, bytes))
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE); /* may fail, which only costs time */
#endif
    return memory;
}
