/* The four passes over the 4096 image tokens. The threads of the pool take them chunk by chunk. */
#ifndef EDGESAM_IMAGE_H
#define EDGESAM_IMAGE_H

#include "decode_context.h"

/* Layer 0, token_to_image, on the image state of `prepare`. */
void image_pass_1(const decode_context *);

/* Layer 0, image_to_token; then layer 1, token_to_image, on the result. */
void image_pass_2(const decode_context *);

/* Layer 1, image_to_token; then the final token_to_image. The first upscaling of the result, where no predicted IoU
 * decides about it. */
void image_pass_3(const decode_context *);

/* The final token_to_image of more tokens, and the first upscaling, where pass 3 left them out. */
void image_upscale(const decode_context *);

/* The second upscaling, and the product with the hypernetworks: logits of the wanted masks. */
void image_pass_4(const decode_context *);

#endif
