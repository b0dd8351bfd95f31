/* Vectors of LANES floats. Whoever includes this, once for each kind of processor, defines LANES, NAME (what makes a
 * function's name one for these vectors) and AT_ONCE: rows that are summed at once in three vectors each, as many as the
 * processor has registers for. */

typedef float NAME(vector) __attribute__((vector_size(LANES * 4)));
typedef float NAME(anywhere) __attribute__((vector_size(LANES * 4), aligned(4)));
#define VECTOR NAME(vector)
#define LOAD(from) ((VECTOR) * (const NAME(anywhere) *)(from))
#define STORE(to, value) (*(NAME(anywhere) *)(to) = (value))

/* The lower half of one and the upper half of another; for processors that have an instruction for it see HALVES. */
INLINE VECTOR NAME(halves)(VECTOR one, VECTOR other) {
    for (int i = LANES / 2; i < LANES; i++) one[i] = other[i];
    return one;
}

/* Where the vector of channels that would begin at `channel` does: the last one earlier, so as to end with them. */
INLINE int NAME(start)(int channel, int channels) {
    return channel + LANES > channels && channels >= LANES ? channels - LANES : channel;
}

/* Vectors of results in the next panel: three, in the end two, one where there is no other. `vectors.py` knows it too. */
#define WIDE(left) ((left) == 1 ? 1 : (left) == 2 || (left) == 4 ? 2 : 3)
