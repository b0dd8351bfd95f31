/* Steps of a chain, one after the other: `chains/program.py` makes the tables. */

/* Where the maps of a chain are: given, in the room for all images, or in that for the few that are computed together. */
enum { GIVEN, ALL, FEW };

struct value {
    int64_t where, offset, floats; /* of an image; an offset is the number of a given tensor, or floats */
};

enum { CONVOLUTION, ABOVE, CHOSEN, SUM, COPY, AROUND };

struct step {
    int64_t kind, first, second, result; /* values */
    int64_t bits;                        /* where an image's begin */
    int64_t job, bias;                   /* addresses; of AROUND: the number of a cut */
    int64_t together;                    /* images that are computed together in this step and its neighbours */
};

/* Windows of known maps, one for each image, with windows of other values in their places, as far as they reach in. */
struct cut {
    int64_t maps, known, height, width; /* (known, height, width, channels) floats */
    int64_t numbers, corners, places;   /* addresses: (images,) which map; (2, images) where in it; (2, images) where laid */
    int64_t images, down, across, side; /* `side`: of what is laid */
};

struct chain {
    const struct step *steps;
    const struct value *values;
    float *const *given;
    const struct cut *cuts;
    unsigned char *bits; /* NULL: none are wanted */
    long length, image_bits, all, few, start, count;
};

static float *find(const struct chain *chain, int64_t number, long at, float *room) {
    const struct value *value = chain->values + number;
    if (value->where == GIVEN) return chain->given[value->offset] + (chain->start + at) * value->floats;
    if (value->where == ALL) return room + value->offset * chain->count + at * value->floats;
    return room + chain->all * chain->count + value->offset;
}

/* Whether the windows from image `start` on lie in their maps. */
static int fits(const struct cut *cut, long start, long count) {
    const int64_t *numbers = (const int64_t *)cut->numbers, *corners = (const int64_t *)cut->corners;
    for (long m = start; m < start + count; m++) {
        int64_t top = corners[m], left = corners[cut->images + m];
        if (m >= cut->images || numbers[m] < 0 || numbers[m] >= cut->known || top < 0 || top > cut->height - cut->down ||
            left < 0 || left > cut->width - cut->across)
            return 0;
    }
    return 1;
}

static long between(long least, long value, long most) { return value < least ? least : value > most ? most : value; }

static void lay_around(const struct cut *cut, long start, long count, long channels, const float *laid, float *to) {
    const int64_t *corners = (const int64_t *)cut->corners, *places = (const int64_t *)cut->places;
    for (long m = start; m < start + count; m++, laid += cut->side * cut->side * channels) {
        long y = places[m], x = places[cut->images + m];
        long first = between(0, x, cut->across), last = between(first, x + cut->side, cut->across);
        int64_t number = ((const int64_t *)cut->numbers)[m];
        const float *map = (const float *)cut->maps;
        map += ((number * cut->height + corners[m]) * cut->width + corners[cut->images + m]) * channels;
        for (long line = 0; line < cut->down; line++, map += cut->width * channels, to += cut->across * channels) {
            if (line < y || line >= y + cut->side) {
                memcpy(to, map, sizeof(float) * cut->across * channels);
                continue;
            }
            memcpy(to, map, sizeof(float) * first * channels);
            memcpy(to + first * channels, laid + ((line - y) * cut->side + first - x) * channels,
                   sizeof(float) * (last - first) * channels);
            memcpy(to + last * channels, map + last * channels, sizeof(float) * (cut->across - last) * channels);
        }
    }
}

static void perform(const struct chain *chain, const struct vectors *widest, const struct step *step, long at,
                    long count, float *room) {
    const float *from = find(chain, step->first, at, room);
    float *to = find(chain, step->result, at, room);
    long floats = chain->values[step->result].floats;
    unsigned char *bits = chain->bits ? chain->bits + (chain->start + at) * chain->image_bits + step->bits : NULL;
    if (step->kind == CONVOLUTION) {
        struct vectors vectors;
        struct job job = *(const struct job *)step->job;
        if (vectors_of(job.lanes, &vectors))
            compute(&job, &vectors, from, (const float *)step->bias, to, count,
                    room + chain->all * chain->count + chain->few);
    } else if (step->kind == SUM) {
        widest->summed(from, find(chain, step->second, at, room), to, count * floats);
    } else if (step->kind == COPY) {
        memcpy(to, from, sizeof(float) * count * floats);
    } else if (step->kind == AROUND) {
        const struct cut *cut = chain->cuts + step->job;
        lay_around(cut, chain->start + at, count, floats / (cut->down * cut->across), from, to);
    } else {
        for (long image = 0; image < count; image++, from += floats, to += floats) {
            if (step->kind == CHOSEN) widest->chosen(from, to, bits, floats);
            else widest->above(from, to, bits, floats);
            if (bits) bits += chain->image_bits;
        }
    }
}

static void in_order(const struct chain *chain, const struct vectors *widest, float *room) {
    const struct step *end = chain->steps + chain->length;
    for (const struct step *first = chain->steps, *after; first < end; first = after) {
        long together = first->together;
        for (after = first; after < end && after->together == together;) after++;
        for (long at = 0; at < chain->count; at += together)
            for (const struct step *step = first; step < after; step++)
                perform(chain, widest, step, at, chain->count - at < together ? chain->count - at : together, room);
    }
}
