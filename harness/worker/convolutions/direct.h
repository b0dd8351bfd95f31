/* A convolution as sums of products, for a list of results and of what each of them is made of; `direct.py` makes both. */

/* Results of PIXELS places at once, N vectors of channels each: the bias, then tap after tap, channel after channel. */
#define RESULTS(N, PIXELS)                                                                                            \
    static __attribute__((noinline)) void NAME(results_##N)(                                                          \
        const struct phase *phase, int made, const float *image, const float *zeros, const float *kernels,            \
        const float *const *bias, float *results, const int *starts) {                                                \
        int taps = phase->taps, channels = phase->channels, last = phase->pixels - 1;                                 \
        for (int first = 0; first <= last; first += PIXELS) {                                                         \
            VECTOR sum[PIXELS][N];                                                                                    \
            int pixel[PIXELS];                                                                                        \
            for (int p = 0; p < PIXELS; p++) pixel[p] = first + p < last ? first + p : last;                          \
            for (int p = 0; p < PIXELS; p++)                                                                          \
                for (int n = 0; n < N; n++) sum[p][n] = LOAD(bias[n]);                                                \
            const float *kernel = kernels;                                                                            \
            for (int tap = 0; tap < taps; tap++) {                                                                    \
                const float *from[PIXELS];                                                                            \
                for (int p = 0; p < PIXELS; p++) {                                                                    \
                    int source = phase->sources[(long)pixel[p] * taps + tap];                                         \
                    from[p] = source < 0 ? zeros : image + source;                                                    \
                }                                                                                                     \
                for (int c = 0; c < channels; c++, kernel += N * LANES)                                               \
                    for (int p = 0; p < PIXELS; p++)                                                                  \
                        for (int n = 0; n < N; n++) sum[p][n] += from[p][c] * LOAD(kernel + n * LANES);               \
            }                                                                                                         \
            for (int p = 0; p < PIXELS; p++)                                                                          \
                for (int n = 0; n < N; n++) {                                                                         \
                    float *to = results + phase->places[pixel[p]] + starts[n];                                        \
                    VECTOR value = sum[p][n];                                                                         \
                    if (made >= LANES) STORE(to, value);                                                              \
                    else                                                                                              \
                        for (int c = 0; c < made; c++) to[c] = value[c];                                              \
                }                                                                                                     \
        }                                                                                                             \
    }
RESULTS(3, AT_ONCE)
RESULTS(2, (AT_ONCE * 3 / 2))
RESULTS(1, (AT_ONCE * 3 / 2))

/* The last vector of channels and the half that is left: a vector holds the halves of two places. */
static __attribute__((noinline)) void NAME(results_half)(
    const struct phase *phase, const float *image, const float *zeros, const float *kernels, const float *bias,
    const float *half_bias, float *results, int start) {
    enum { PAIRS = AT_ONCE };
    int taps = phase->taps, channels = phase->channels, last = phase->pixels - 1;
    for (int first = 0; first <= last; first += 2 * PAIRS) {
        VECTOR sum[2 * PAIRS], half[PAIRS];
        int pixel[2 * PAIRS];
        for (int p = 0; p < 2 * PAIRS; p++) pixel[p] = first + p < last ? first + p : last;
        for (int p = 0; p < 2 * PAIRS; p++) sum[p] = LOAD(bias);
        for (int p = 0; p < PAIRS; p++) half[p] = LOAD(half_bias);
        const float *kernel = kernels;
        for (int tap = 0; tap < taps; tap++) {
            const float *from[2 * PAIRS];
            for (int p = 0; p < 2 * PAIRS; p++) {
                int source = phase->sources[(long)pixel[p] * taps + tap];
                from[p] = source < 0 ? zeros : image + source;
            }
            for (int c = 0; c < channels; c++, kernel += 2 * LANES)
                for (int p = 0; p < PAIRS; p++) {
                    VECTOR one = from[2 * p][c] - (VECTOR){0}, other = from[2 * p + 1][c] - (VECTOR){0};
                    OPAQUE(one);
                    OPAQUE(other);
                    sum[2 * p] += one * LOAD(kernel);
                    sum[2 * p + 1] += other * LOAD(kernel);
                    half[p] += HALVES(one, other) * LOAD(kernel + LANES);
                }
        }
        for (int p = 0; p < 2 * PAIRS; p++) {
            float *to = results + phase->places[pixel[p]] + start;
            STORE(to, sum[p]);
            memcpy(to + LANES, (const float *)&half[p / 2] + p % 2 * (LANES / 2), LANES / 2 * sizeof(float));
        }
    }
}

INLINE float NAME(total)(const VECTOR *value) {
    quarter parts[LANES / 4], sum;
    memcpy(parts, value, sizeof parts);
    sum = parts[0];
    for (int p = 1; p < LANES / 4; p++) sum += parts[p];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Few channels of results, COLOURS at most: vectors hold channels of the images, whose sums are added up in the end. */
static __attribute__((noinline)) void NAME(few_results)(
    const struct phase *phase, int made, const float *image, const float *zeros, const float *constants,
    float *results) {
    int taps = phase->taps, channels = phase->channels, last = phase->pixels - 1;
    int vectors = (channels + LANES - 1) / LANES;
    for (int first = 0; first <= last; first += AT_ONCE) {
        VECTOR sum[AT_ONCE][COLOURS];
        int pixel[AT_ONCE];
        for (int p = 0; p < AT_ONCE; p++) pixel[p] = first + p < last ? first + p : last;
        for (int p = 0; p < AT_ONCE; p++)
            for (int o = 0; o < COLOURS; o++) sum[p][o] = (VECTOR){0};
        const float *kernel = phase->kernels;
        for (int tap = 0; tap < taps; tap++) {
            const float *from[AT_ONCE];
            for (int p = 0; p < AT_ONCE; p++) {
                int source = phase->sources[(long)pixel[p] * taps + tap];
                from[p] = source < 0 ? zeros : image + source;
            }
            for (int v = 0; v < vectors; v++, kernel += COLOURS * LANES) {
                int at = NAME(start)(v * LANES, channels);
                for (int p = 0; p < AT_ONCE; p++)
                    for (int o = 0; o < COLOURS; o++) sum[p][o] += LOAD(from[p] + at) * LOAD(kernel + o * LANES);
            }
        }
        for (int p = 0; p < AT_ONCE; p++)
            for (int o = 0; o < COLOURS; o++)
                if (o < made) results[phase->places[pixel[p]] + o] = NAME(total)(&sum[p][o]) + constants[o];
    }
}

/* The results of one image in one phase, `halved`: the last vectors of channels are one and a half. */
INLINE void NAME(in_phase)(
    const struct phase *phase, int made, int halved, const float *image, const float *zeros, const float *constants,
    const float *twice, float *results) {
    /* A half that is left goes with the vector before it. */
    int whole = made - (halved ? 3 * LANES / 2 : 0);
    const float *kernels = phase->kernels;
    for (int left = (whole + LANES - 1) / LANES, done = 0; left;) {
        int wide = WIDE(left), starts[3];
        const float *bias[3];
        for (int n = 0; n < wide; n++) {
            starts[n] = NAME(start)((done + n) * LANES, halved ? whole : made);
            bias[n] = constants + starts[n];
        }
        if (wide == 3) NAME(results_3)(phase, made, image, zeros, kernels, bias, results, starts);
        else if (wide == 2) NAME(results_2)(phase, made, image, zeros, kernels, bias, results, starts);
        else NAME(results_1)(phase, made, image, zeros, kernels, bias, results, starts);
        kernels += (long)phase->taps * phase->channels * wide * LANES;
        done += wide;
        left -= wide;
    }
    if (halved) NAME(results_half)(phase, image, zeros, kernels, constants + whole, twice, results, whole);
}

/* `image` with columns of zeros beside it; those of `copy` are zeros already. */
INLINE void NAME(beside)(const struct listed *job, const float *image, float *copy) {
    size_t line = (size_t)job->width * job->channels, beside = (size_t)(job->left + job->right) * job->channels;
    copy += (size_t)job->left * job->channels;
    for (int y = 0; y < job->height; y++) memcpy(copy + y * (line + beside), image + y * line, line * sizeof(float));
}

static void NAME(direct)(const struct listed *job, float *room) {
    int halved = job->made > LANES && job->made % LANES == LANES / 2, copied = job->left + job->right > 0;
    size_t pixels = (size_t)job->height * job->width, wide = (size_t)job->height * (job->left + job->width + job->right);
    size_t copy = copied ? wide * job->channels : 0, zeros = job->most, constants = job->made + LANES;
    float *zero = room + copy, *bias = zero + zeros, *twice = bias + constants;
    memset(room, 0, sizeof(float) * (copy + zeros + constants + LANES));
    if (job->bias) {
        memcpy(bias, job->bias, sizeof(float) * job->made);
        for (int c = 0; halved && c < LANES; c++) twice[c] = job->bias[job->made - LANES / 2 + c % (LANES / 2)];
    }
    for (long image = 0; image < job->count; image++) {
        const float *from = job->images + image * pixels * job->channels;
        float *to = job->results + image * job->result_step;
        if (copied) {
            NAME(beside)(job, from, room);
            from = room;
        }
        for (const struct phase *phase = job->phase; phase < job->phase + job->phases; phase++)
            if (job->few) NAME(few_results)(phase, job->made, from, zero, bias, to);
            else NAME(in_phase)(phase, job->made, halved, from, zero, bias, twice, to);
    }
}

#undef RESULTS
