/* Windows of maps (N, H, W, C) with other windows laid into them, row by row of pixels; whatever a pixel consists of. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

struct windows {
    const char *maps, *held; /* (n, height, width), (count, side, side) pixels */
    char *made;              /* (count, down, across) pixels */
    const long long *rows, *corners, *places; /* (count,), (2, count), (2, count): which map, where in it, where laid */
    Py_ssize_t n, height, width, count, down, across, side, pixel;
};

/* Whether everything lies inside what it is cut from or laid into. */
static int fits(const struct windows *job) {
    for (Py_ssize_t m = 0; m < job->count; m++) {
        long long top = job->corners[m], left = job->corners[job->count + m];
        long long y = job->places[m], x = job->places[job->count + m];
        if (job->rows[m] < 0 || job->rows[m] >= job->n || top < 0 || top > job->height - job->down || left < 0 ||
            left > job->width - job->across || y < 0 || y > job->down - job->side || x < 0 || x > job->across - job->side)
            return 0;
    }
    return 1;
}

static void copy(const struct windows *job) {
    size_t line = (size_t)(job->width * job->pixel), made_line = (size_t)(job->across * job->pixel);
    size_t held_line = (size_t)(job->side * job->pixel);
    for (Py_ssize_t m = 0; m < job->count; m++) {
        long long top = job->corners[m], left = job->corners[job->count + m];
        const char *from = job->maps + (size_t)(job->rows[m] * job->height + top) * line + (size_t)(left * job->pixel);
        const char *held = job->held + (size_t)(m * job->side) * held_line;
        char *made = job->made + (size_t)(m * job->down) * made_line;
        char *laid = made + (size_t)job->places[m] * made_line + (size_t)(job->places[job->count + m] * job->pixel);
        for (Py_ssize_t y = 0; y < job->down; y++) memcpy(made + (size_t)y * made_line, from + (size_t)y * line, made_line);
        for (Py_ssize_t y = 0; y < job->side; y++)
            memcpy(laid + (size_t)y * made_line, held + (size_t)y * held_line, held_line);
    }
}

static PyObject *around(PyObject *self, PyObject *arguments) {
    unsigned long long maps, held, made;
    struct windows job;
    Py_buffer rows, corners, places;
    if (!PyArg_ParseTuple(arguments, "K(nnn)ny*y*(nn)Kny*K", &maps, &job.n, &job.height, &job.width, &job.pixel, &rows,
                          &corners, &job.down, &job.across, &held, &job.side, &places, &made))
        return NULL;
    job.maps = (const char *)maps;
    job.held = (const char *)held;
    job.made = (char *)made;
    job.rows = (const long long *)rows.buf;
    job.corners = (const long long *)corners.buf;
    job.places = (const long long *)places.buf;
    job.count = rows.len / (Py_ssize_t)sizeof(long long);
    int right = corners.len == 2 * rows.len && places.len == 2 * rows.len && fits(&job);
    if (right) {
        Py_BEGIN_ALLOW_THREADS
        copy(&job);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&corners);
    PyBuffer_Release(&places);
    if (!right) return PyErr_Format(PyExc_ValueError, "expected windows inside their maps, and others inside them");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"around", around, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_around", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__around(void) { return PyModule_Create(&module); }
