/* Memory for what every call walks through. */
#ifndef EDGESAM_MEMORY_H
#define EDGESAM_MEMORY_H

#include <stddef.h>

/* Room for so many floats in large pages where the system has them: walking 20 MiB in small ones costs more address
 * look-ups than a processor remembers. NULL when there is none; `free` gives it back. */
float *memory_new(size_t numbers);

#endif
