/* How windows lie in a channels-last image: where one begins, and which of its pixels are inside. */
#ifndef QC_WINDOW_H
#define QC_WINDOW_H

#include "qc_base.h"

/* Lines first, then pixels of a line; one spatial axis has lines of 1. */
typedef struct {
    size_t extent[2];     /* of the image */
    size_t out_extent[2]; /* of the result */
    size_t size[2], stride[2], dilation[2];
    size_t padding[2];                        /* in front */
    size_t image_step, line_step, pixel_step; /* elements */
} qc_window;

/* One window: pixel (y, x), begin <= y, x < end, is at start + y * step[0] + x * step[1]. */
typedef struct {
    ptrdiff_t start, step[2];
    size_t begin[2], end[2];
} qc_view;

/* The window of result m, counted through images, lines and pixels. */
static inline qc_view qc_view_of(const qc_window *w, size_t m) {
    const size_t each = w->out_extent[0] * w->out_extent[1], place = m % each;
    const size_t at[2] = {place / w->out_extent[1], place % w->out_extent[1]};
    const size_t steps[2] = {w->line_step, w->pixel_step};
    qc_view view;
    view.start = (ptrdiff_t)(m / each * w->image_step);
    for (int axis = 0; axis < 2; ++axis) {
        const ptrdiff_t first = (ptrdiff_t)(at[axis] * w->stride[axis]) - (ptrdiff_t)w->padding[axis];
        const size_t apart = w->dilation[axis], missing = first < 0 ? (size_t)-first : 0;
        const ptrdiff_t left = (ptrdiff_t)w->extent[axis] - first;
        const size_t inside = left <= 0 ? 0 : ((size_t)left + apart - 1) / apart;
        view.step[axis] = (ptrdiff_t)(apart * steps[axis]);
        view.start += first * (ptrdiff_t)steps[axis];
        view.end[axis] = inside < w->size[axis] ? inside : w->size[axis];
        view.begin[axis] = (missing + apart - 1) / apart;
        if (view.begin[axis] > view.end[axis]) view.begin[axis] = view.end[axis];
    }
    return view;
}

static inline size_t qc_view_count(const qc_view *view) {
    return (view->end[0] - view->begin[0]) * (view->end[1] - view->begin[1]);
}

#endif
