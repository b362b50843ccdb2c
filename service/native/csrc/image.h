/* Passes over the 4096 image tokens. Each goes through the team's threads chunk by chunk. */
#ifndef EDGESAM_IMAGE_H
#define EDGESAM_IMAGE_H

#include "call.h"

/* Pass 1: the prompt tokens read the image as `prepare` left it. */
void image_read_first(const call *);

/* Pass 2: the image tokens read the prompt (layer 0), the prompt tokens read the result. */
void image_exchange_first(const call *);

/* Pass 3: the same in layer 1; the result is enlarged once. */
void image_exchange_second(const call *);

/* Pass 4: enlarge again and weigh the channels with the hypernetworks: mask logits. */
void image_enlarge(const call *);

#endif
