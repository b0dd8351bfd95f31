/* What lies between convolutions: operations on every value by itself. Eight floats share a byte of `bits`. */

/* The values above zero, and those that are not a number; the others become zero. A bit says which a value was. */
static void NAME(above)(const float *values, float *results, unsigned char *bits, long floats) {
    long i = 0;
    for (; i + 8 <= floats; i += 8) {
        eight value = *(const eight *)(values + i);
        eight_whole kept = ~(value <= 0.0f);
        *(eight *)(results + i) = (eight)((eight_whole)value & kept);
        if (bits) bits[i / 8] = EIGHT_BITS(kept);
    }
    for (unsigned char *last = bits ? bits + i / 8 : NULL; i < floats; i++) {
        int kept = !(values[i] <= 0.0f);
        if (last) *last = (unsigned char)((i % 8 ? *last : 0) | kept << i % 8);
        results[i] = kept ? values[i] : 0.0f;
    }
}

/* The values whose bits are set; the others become zero. */
static void NAME(chosen)(const float *values, float *results, const unsigned char *bits, long floats) {
    const eight_whole each = {1, 2, 4, 8, 16, 32, 64, 128};
    long i = 0;
    for (; i + 8 <= floats; i += 8) {
        eight_whole kept = (((eight_whole){0} + bits[i / 8]) & each) != 0;
        *(eight *)(results + i) = (eight)(*(const eight_whole *)(values + i) & kept);
    }
    for (; i < floats; i++) results[i] = bits[i / 8] >> i % 8 & 1 ? values[i] : 0.0f;
}

static void NAME(summed)(const float *one, const float *other, float *results, long floats) {
    long i = 0;
    for (; i + 8 <= floats; i += 8) *(eight *)(results + i) = *(const eight *)(one + i) + *(const eight *)(other + i);
    for (; i < floats; i++) results[i] = one[i] + other[i];
}
