/* Winograd's F(4 x 4, 3 x 3), the nodes being 0, +-1/sqrt(2), +-sqrt(2) and infinity; `winograd.py` makes the kernels. */

/* What six values of a row become before the products. */
INLINE void NAME(before)(const VECTOR *d, VECTOR *made) {
    VECTOR even = d[4] - 2.0f * d[2], odd = d[3] - 2.0f * d[1];
    VECTOR far_even = d[4] - 0.5f * d[2], far_odd = d[3] - 0.5f * d[1];
    made[0] = d[0] - 2.5f * d[2] + d[4];
    made[1] = even + NEAR * odd;
    made[2] = even - NEAR * odd;
    made[3] = far_even + FAR * far_odd;
    made[4] = far_even - FAR * far_odd;
    made[5] = d[1] - 2.5f * d[3] + d[5];
}

/* The four results of a row, of its six products. */
INLINE void NAME(after)(const VECTOR *m, VECTOR *made) {
    VECTOR sum = m[1] + m[2], difference = m[1] - m[2], far_sum = m[3] + m[4], far_difference = m[3] - m[4];
    made[0] = m[0] + sum + far_sum;
    made[1] = NEAR * difference + FAR * far_difference;
    made[2] = 0.5f * sum + 2.0f * far_sum;
    made[3] = (0.5f * NEAR) * difference + (2.0f * FAR) * far_difference + m[5];
}

/* One tile: its 36 pixels become 36 values for every channel, `step` floats apart. */
static __attribute__((noinline)) void NAME(take)(const float *const *pixels, int channels, float *values, long step) {
    for (int channel = 0; channel < channels; channel += LANES) {
        int at = NAME(start)(channel, channels);
        VECTOR columns[REACH * REACH], line[REACH], made[REACH];
        for (int j = 0; j < REACH; j++) {
            for (int i = 0; i < REACH; i++) line[i] = LOAD(pixels[i * REACH + j] + at);
            NAME(before)(line, made);
            for (int i = 0; i < REACH; i++) columns[i * REACH + j] = made[i];
        }
        for (int i = 0; i < REACH; i++) {
            NAME(before)(columns + i * REACH, made);
            for (int j = 0; j < REACH; j++) STORE(values + (i * REACH + j) * step + at, made[j]);
        }
    }
}

/* Values (tiles, channels) times kernels (channels, N * LANES): TILES rows of sums, `padded` floats apart. */
#define SUMS(N, TILES)                                                                                                \
    INLINE void NAME(sums_##N)(const float *values, int channels, const float *kernels, float *sums, int padded) {    \
        VECTOR sum[TILES][N];                                                                                         \
        for (int t = 0; t < TILES; t++)                                                                               \
            for (int n = 0; n < N; n++) sum[t][n] = (VECTOR){0};                                                      \
        for (int c = 0; c < channels; c++)                                                                            \
            for (int t = 0; t < TILES; t++)                                                                           \
                for (int n = 0; n < N; n++)                                                                           \
                    sum[t][n] += values[t * channels + c] * LOAD(kernels + (c * N + n) * LANES);                      \
        for (int t = 0; t < TILES; t++)                                                                               \
            for (int n = 0; n < N; n++) STORE(sums + t * padded + n * LANES, sum[t][n]);                              \
    }
SUMS(3, AT_ONCE)
SUMS(2, (AT_ONCE * 3 / 2))
SUMS(1, (AT_ONCE * 3 / 2))

#define ALL_TILES(N, TILES)                                                                                           \
    for (int t = 0; t < tiles; t += TILES)                                                                            \
        NAME(sums_##N)(values + t * channels, channels, kernels, sums + t * padded + done * LANES, padded)

/* The products of one of the 36 values, summed over channels; sums for up to SPARE tiles too many are made. */
static __attribute__((noinline)) void NAME(multiply)(
    const float *values, int tiles, int channels, const float *kernels, float *sums, int padded) {
    for (int left = padded / LANES, done = 0; left;) {
        int wide = WIDE(left);
        if (wide == 3) ALL_TILES(3, AT_ONCE);
        else if (wide == 2) ALL_TILES(2, (AT_ONCE * 3 / 2));
        else ALL_TILES(1, (AT_ONCE * 3 / 2));
        kernels += (long)channels * wide * LANES;
        done += wide;
        left -= wide;
    }
}

/* One tile: its sums, `step` floats apart, become (rows, columns) results for every channel. */
static __attribute__((noinline)) void NAME(put)(
    const float *sums, long step, int channels, const float *bias, float *results, long row, int rows, int columns) {
    for (int channel = 0; channel < channels; channel += LANES) {
        int at = NAME(start)(channel, channels);
        VECTOR lines[TILE * REACH], line[REACH], made[TILE], constant = bias ? LOAD(bias + at) : (VECTOR){0};
        for (int j = 0; j < REACH; j++) {
            for (int i = 0; i < REACH; i++) line[i] = LOAD(sums + (i * REACH + j) * step + at);
            NAME(after)(line, made);
            for (int i = 0; i < TILE; i++) lines[i * REACH + j] = made[i];
        }
        for (int i = 0; i < rows; i++) {
            NAME(after)(lines + i * REACH, made);
            for (int j = 0; j < columns; j++) STORE(results + i * row + (long)j * channels + at, made[j] + constant);
        }
    }
}

/* A tile among those of all images. */
struct NAME(place) {
    long image;
    int top, left;
};

INLINE void NAME(next)(struct NAME(place) * at, int height, int width) {
    at->left += TILE;
    if (at->left < width) return;
    at->left = 0;
    at->top += TILE;
    if (at->top < height) return;
    at->top = 0;
    at->image++;
}

static void NAME(winograd)(const struct tiled *job, float *room) {
    int channels = job->channels, made = job->made, padded = (made + LANES - 1) / LANES * LANES, block = job->block;
    int height = job->height + 2 * job->padding - 2, width = job->width + 2 * job->padding - 2;
    long value_step = (long)(block + SPARE) * channels, sum_step = (long)(block + SPARE) * padded;
    long row = (long)job->width * channels, result_row = (long)width * made;
    long total = job->count * ((height + TILE - 1) / TILE) * ((width + TILE - 1) / TILE);
    float *values = room, *sums = values + PRODUCTS * value_step, *zeros = sums + PRODUCTS * sum_step;
    struct NAME(place) from = {0, 0, 0}, to = {0, 0, 0};
    memset(zeros, 0, sizeof(float) * channels);
    for (long start = 0; start < total; start += block) {
        int tiles = total - start < block ? (int)(total - start) : block;
        for (int t = 0; t < tiles; t++, NAME(next)(&from, height, width)) {
            const float *pixels[PRODUCTS], *image = job->images + from.image * job->height * row;
            for (int i = 0; i < REACH; i++) {
                int y = from.top - job->padding + i, inside = y >= 0 && y < job->height;
                for (int j = 0; j < REACH; j++) {
                    int x = from.left - job->padding + j;
                    int known = inside & (x >= 0) & (x < job->width);
                    pixels[i * REACH + j] = known ? image + y * row + (long)x * channels : zeros;
                }
            }
            NAME(take)(pixels, channels, values + (long)t * channels, value_step);
        }
        for (int p = 0; p < PRODUCTS; p++)
            NAME(multiply)(values + p * value_step, tiles, channels, job->kernels + (long)p * channels * padded,
                           sums + p * sum_step, padded);
        for (int t = 0; t < tiles; t++, NAME(next)(&to, height, width)) {
            int rows = height - to.top < TILE ? height - to.top : TILE;
            int columns = width - to.left < TILE ? width - to.left : TILE;
            NAME(put)(sums + (long)t * padded, sum_step, made, job->bias,
                      job->results + (to.image * height + to.top) * result_row + (long)to.left * made, result_row, rows,
                      columns);
        }
    }
}

#undef SUMS
#undef ALL_TILES
