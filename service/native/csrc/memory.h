/* Memory for arrays that every call reads from start to end. */
#ifndef EDGESAM_MEMORY_H
#define EDGESAM_MEMORY_H

#include <stddef.h>

/* Returns memory for `numbers` floats, in large pages where the system has them; NULL when there is none. `free` frees
 * it. In small pages, 20 MiB need more address translations than a processor caches. */
float *memory_new(size_t numbers);

#endif
