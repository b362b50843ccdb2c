#include "prepare.h"

#include "linear.h"
#include "packed.h"
#include "position.h"

enum {
    BLOCK = GRID, /* image tokens: a row of the grid */
};

static void prepare_block(void *context, int block)
{
    const preparation *r = context;
    const long first = (long)block * BLOCK;
    float positioned[BLOCK * C] __attribute__((aligned(64))), projected[BLOCK * INNER] __attribute__((aligned(64)));
    for (int token = 0; token < BLOCK; token++) {
        const long at = (first + token) * C;
        for (int i = 0; i < C / 2; i += VL) {
            vf sine = load_numbers(r->tokens, at + i) + load(r->p->no_mask + i);
            vf cosine = load_numbers(r->tokens, at + C / 2 + i) + load(r->p->no_mask + C / 2 + i);
            add_position(sine, cosine, r->p->columns + token * C, r->p->rows + block * C, i, positioned + token * C);
        }
    }
    apply(&r->p->key0, BLOCK, positioned, projected);
    pack_rows(BLOCK, projected, r->keys0 + first * PACKED_ROW);
    apply(&r->p->query0, BLOCK, positioned, projected);
    pack_rows(BLOCK, projected, r->queries0 + first * PACKED_ROW);
}

void prepare(const preparation *r, thread_pool *t, int threads)
{
    thread_pool_run(t, threads, IMAGE_TOKENS / BLOCK, prepare_block, (void *)r);
}
