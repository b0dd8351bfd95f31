/* A step of FAB, as `fab.py` and `hyperplane.py` have it in torch. Whoever includes this defines NAME. */

/* The sum of a * b; blocks of it are added up in double, so that Newton's method can end where it should. */
static double NAME(dot)(const float *a, const float *b, int pixels) {
    double total = 0;
    int i = 0, whole = pixels / LANES * LANES;
    while (i < whole) {
        int stop = whole - i < BLOCK ? whole : i + BLOCK;
        vector sum = {0};
        for (; i < stop; i += LANES) sum += *(const anywhere *)(a + i) * *(const anywhere *)(b + i);
        for (int lane = 0; lane < LANES; lane++) total += sum[lane];
    }
    for (; i < pixels; i++) total += (double)a[i] * b[i];
    return total;
}

/* The largest |value|, as the integer with its bits, which are in the order of what they stand for. */
static int NAME(largest)(const float *values, int pixels) {
    const bits *all = (const bits *)values;
    int found = 0;
    for (int i = 0; i < pixels; i++) {
        int one = all[i] & 0x7fffffff;
        found = one > found ? one : found;
    }
    return found;
}

/* The shortest delta from a point of the box to weight . delta = offset, in the box. */
static void NAME(project)(
    const struct steps *job, const float *point, const struct plane *plane, float offset, struct scratch *at, float *delta) {
    int pixels = job->pixels;
    float toward = offset > 0 ? 1.0f : offset < 0 ? -1.0f : 0.0f, need = fabsf(offset);
    float *space = at->space, *length = at->length, *free = at->free;
    const float *weight = plane->weight, *size = plane->size;
    APART for (int i = 0; i < pixels; i++) {
        float side = toward * weight[i];
        space[i] = side > 0 ? 1 - point[i] : side < 0 ? point[i] : 0;
    }
    if (need >= (float)NAME(dot)(space, plane->size, pixels)) length = space;
    else {
        float level = need / (float)NAME(dot)(plane->slopes, at->ones, pixels);
        for (int round = 0; round < ROUNDS; round++) {
            if (job->linf) APART for (int i = 0; i < pixels; i++) length[i] = level < space[i] ? level : space[i];
            else APART for (int i = 0; i < pixels; i++) length[i] = level * size[i] < space[i] ? level * size[i] : space[i];
            float missing = need - (float)NAME(dot)(length, plane->size, pixels);
            if (!(missing > TOLERANCE * need)) break;
            APART for (int i = 0; i < pixels; i++) free[i] = space[i] > length[i] ? 1.0f : 0.0f;
            float slope = (float)NAME(dot)(free, plane->slopes, pixels);
            if (!(slope > 0)) break;
            level += missing / slope;
        }
    }
    APART for (int i = 0; i < pixels; i++) delta[i] = weight[i] < 0 ? -toward * length[i] : toward * length[i];
}

static float NAME(length)(const struct steps *job, const float *delta) {
    int most = NAME(largest)(delta, job->pixels);
    float found;
    if (job->linf) memcpy(&found, &most, sizeof found);
    else found = sqrtf((float)NAME(dot)(delta, delta, job->pixels));
    return found > LEAST ? found : LEAST;
}

/* False if the gradient is not finite. */
static int NAME(step)(const struct steps *job, long row, struct scratch *at) {
    int pixels = job->pixels;
    const float *x = job->x + job->rows[row] * pixels, *point = job->points + row * pixels;
    const float *gradient = job->gradients + row * pixels;
    float *result = job->results + row * pixels, largest, lead = job->leads[row];
    int bits_of_largest = NAME(largest)(gradient, pixels), moves = 0;
    if (bits_of_largest >= INFINITE) return 0;
    memcpy(&largest, &bits_of_largest, sizeof largest);
    int seen = largest > 0 && fabsf(lead) <= FLT_MAX;
    float share = job->fooled[row] ? job->beta : 1.0f, offset = seen ? -lead / largest : 0.0f;
    struct plane plane = {at->weight, at->size, job->linf ? at->size : at->slopes};
    float *weight = at->weight, *size = at->size, *slopes = at->slopes, *moved = at->moved, *drawn = at->drawn;
    float unit = seen ? largest : INFINITY;
    APART for (int i = 0; i < pixels; i++) {
        weight[i] = gradient[i] / unit;
        size[i] = fabsf(weight[i]);
        slopes[i] = size[i] * size[i];
        moved[i] = point[i] - x[i];
        drawn[i] = x[i] + moved[i] * share;
    }
    float along = (float)NAME(dot)(weight, moved, pixels);
    NAME(project)(job, drawn, &plane, offset + (1 - share) * along, at, at->here);
    NAME(project)(job, x, &plane, offset + along, at, at->there);
    float near = NAME(length)(job, at->here), alpha = near / (near + NAME(length)(job, at->there));
    if (!(alpha < job->alpha_max)) alpha = job->alpha_max;
    float *here = at->here, *there = at->there, eta = job->eta;
    APART for (int i = 0; i < pixels; i++) {
        float one = drawn[i] + eta * here[i], other = x[i] + eta * there[i], made = one + alpha * (other - one);
        made = made < 0 ? 0 : made;
        result[i] = made > 1 ? 1 : made;
    }
    for (int i = 0; i < pixels; i++) moves |= result[i] != x[i];
    job->keep[row] = seen || moves;
    return 1;
}

static int NAME(walk)(const struct steps *job, struct scratch *at) {
    for (long row = 0; row < job->count; row++)
        if (!NAME(step)(job, row, at)) return 0;
    return 1;
}

#undef NAME
