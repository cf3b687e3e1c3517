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

/* n / d, rounded up; most windows have no gaps, and divisions take longer than a small one. */
static inline size_t qc_quotient_up(size_t n, size_t d) { return d == 1 ? n : (n + d - 1) / d; }

/* The window of result m, counted through images, lines and pixels. */
static inline qc_view qc_view_of(const qc_window *w, size_t m) {
    const size_t line = m / w->out_extent[1], image = line < w->out_extent[0] ? 0 : line / w->out_extent[0];
    const size_t at[2] = {line - image * w->out_extent[0], m - line * w->out_extent[1]};
    const size_t steps[2] = {w->line_step, w->pixel_step};
    qc_view view;
    view.start = (ptrdiff_t)(image * w->image_step);
    for (int axis = 0; axis < 2; ++axis) {
        const ptrdiff_t first = (ptrdiff_t)(at[axis] * w->stride[axis]) - (ptrdiff_t)w->padding[axis];
        const size_t apart = w->dilation[axis], missing = first < 0 ? (size_t)-first : 0;
        const ptrdiff_t left = (ptrdiff_t)w->extent[axis] - first;
        const size_t inside = left <= 0 ? 0 : qc_quotient_up((size_t)left, apart);
        view.step[axis] = (ptrdiff_t)(apart * steps[axis]);
        view.start += first * (ptrdiff_t)steps[axis];
        view.end[axis] = inside < w->size[axis] ? inside : w->size[axis];
        view.begin[axis] = qc_quotient_up(missing, apart);
        if (view.begin[axis] > view.end[axis]) view.begin[axis] = view.end[axis];
    }
    return view;
}

static inline size_t qc_view_count(const qc_view *view) {
    return (view->end[0] - view->begin[0]) * (view->end[1] - view->begin[1]);
}

#endif
