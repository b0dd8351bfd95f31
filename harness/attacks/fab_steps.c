/* Steps of FAB in Linf and L2, row by row, so that what a row needs stays in the core's cache. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../processor.h"

#define LANES 8
#define BLOCK 256
#define ROUNDS 100
#define TOLERANCE 4e-7f
#define LEAST 1e-8f
#define INFINITE 0x7f800000 /* bits of what is not finite are this or more */
#define ARRAYS 11 /* of `struct scratch` */

typedef float vector __attribute__((vector_size(LANES * 4)));
typedef float anywhere __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int bits __attribute__((may_alias));

struct steps {
    const float *points, *x, *gradients, *leads; /* (count, pixels), (images, pixels), (count, pixels), (count,) */
    const long long *rows;                       /* (count,): which image */
    const unsigned char *fooled;                 /* (count,) */
    float *results;
    unsigned char *keep;
    long count;
    int pixels, linf;
    float alpha_max, eta, beta;
};

/* A linearised boundary: |weight|, and what a pixel's move is worth for a rise of the level. */
struct plane {
    const float *weight, *size, *slopes;
};

struct scratch {
    float *weight, *size, *slopes, *moved, *drawn, *here, *there, *space, *length, *free, *ones;
};

/* What a loop writes is not what it reads. */
#if defined(__clang__)
#define APART _Pragma("clang loop vectorize(assume_safety)")
#else
#define APART _Pragma("GCC ivdep")
#endif

#define NAME(name) name##_plain
#include "fab_steps.h"
#if defined(__x86_64__)
BEGIN("avx2,fma")
#define NAME(name) name##_avx2
#include "fab_steps.h"
END
#endif

static int walk(const struct steps *job, struct scratch *at) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return walk_avx2(job, at);
#endif
    return walk_plain(job, at);
}

static PyObject *advance(PyObject *self, PyObject *arguments) {
    unsigned long long points, x, gradients, leads, rows, fooled, results, keep;
    struct steps job;
    if (!PyArg_ParseTuple(arguments, "KKKKKK(li)ifffKK", &points, &x, &gradients, &leads, &rows, &fooled, &job.count,
                          &job.pixels, &job.linf, &job.alpha_max, &job.eta, &job.beta, &results, &keep))
        return NULL;
    job.points = (const float *)points;
    job.x = (const float *)x;
    job.gradients = (const float *)gradients;
    job.leads = (const float *)leads;
    job.rows = (const long long *)rows;
    job.fooled = (const unsigned char *)fooled;
    job.results = (float *)results;
    job.keep = (unsigned char *)keep;
    float *room = malloc(ARRAYS * sizeof(float) * (job.pixels > 0 ? job.pixels : 1));
    if (!room) return PyErr_NoMemory();
    struct scratch at;
    float **arrays[ARRAYS] = {&at.weight, &at.size,  &at.slopes, &at.moved, &at.drawn, &at.here,
                              &at.there,  &at.space, &at.length, &at.free,  &at.ones};
    for (int i = 0; i < ARRAYS; i++) *arrays[i] = room + (size_t)i * job.pixels;
    for (int i = 0; i < job.pixels; i++) at.ones[i] = 1.0f;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = walk(&job, &at);
    Py_END_ALLOW_THREADS
    free(room);
    return PyBool_FromLong(done);
}

static PyMethodDef methods[] = {
    {"advance", advance, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fab_steps", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__fab_steps(void) { return PyModule_Create(&module); }
