/* A V4L2 camera for processes that preload this library, without a kernel module (tests/runtime/v4l2/cameras.py).
 *
 * The environment variable V4L2_CAMERA names a folder. FOLDER/dev stands for /dev/video* and /dev/v4l: a file
 * dev/videoN is a camera while it exists, and holds the number of frames after which it is unplugged (0: never).
 * The camera offers the formats that have a folder, FOLDER/YUYV and FOLDER/MJPG; its images, 640x480, are the files
 * 0000, 0001, ... in it, from the beginning again after the last. FOLDER/log gets a line at each start: the format and
 * the number of buffers.
 *
 * Buffers are as the kernel's uvcvideo has them: a frame goes into a buffer that is queued when the frame begins; one
 * without a buffer is lost. A frame ends when the program waits for it, at the earliest 1/30 s after the one before, so
 * that a busy machine loses none.
 */
#define _GNU_SOURCE
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define WIDTH 640
#define HEIGHT 480
#define RATE 30
#define LENGTH (2 * WIDTH * HEIGHT)
#define STRIDE (10 * 65536) /* LENGTH in whole pages of 4 or of 64 KiB */
#define MOST 32             /* buffers */
#define CAMERAS 8           /* open at the same time */

struct row { /* buffers in the order in which they are taken */
    unsigned count, index[MOST];
};

struct camera {
    int used, fd, memory, gone, streaming, filling;
    char path[PATH_MAX];
    long left; /* frames until it is unplugged; -1: endless */
    uint32_t format;
    unsigned buffers, frame, images;
    unsigned char *start;
    unsigned size[MOST], sequence[MOST];
    struct row queued, done;
};

static struct camera cameras[CAMERAS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int fail(int error) {
    errno = error;
    return -1;
}

static void put(struct row *row, unsigned index) { row->index[row->count++] = index; }

static int take(struct row *row) {
    if (!row->count) return -1;
    unsigned first = row->index[0];
    memmove(row->index, row->index + 1, --row->count * sizeof *row->index);
    return (int)first;
}

static int open_image(uint32_t format, unsigned number) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%.4s/%04u", getenv("V4L2_CAMERA"), (const char *)&format, number);
    return open_file(path, O_RDONLY | O_CLOEXEC, 0);
}

static int offers(uint32_t format) {
    int fd = open_image(format, 0);
    return fd >= 0 && !close_file(fd);
}

static void end_frame(struct camera *own) {
    if (own->filling >= 0) {
        int fd = open_image(own->format, own->frame % own->images);
        ssize_t size = read(fd, own->start + (size_t)own->filling * STRIDE, LENGTH);
        close_file(fd);
        own->size[own->filling] = size < 0 ? 0 : (unsigned)size;
        own->sequence[own->filling] = own->frame;
        put(&own->done, (unsigned)own->filling);
    }
    own->frame++;
    own->filling = take(&own->queued);
}

static void pace(struct camera *own, long nanoseconds) {
    struct itimerspec every = {{0, nanoseconds}, {0, nanoseconds}};
    timerfd_settime(own->fd, 0, &every, NULL);
}

static void stop(struct camera *own) {
    pace(own, 0);
    own->streaming = 0;
    own->queued.count = own->done.count = 0;
}

static int start(struct camera *own) {
    if (!own->buffers) return fail(EINVAL);
    for (own->images = 0;; own->images++) {
        int fd = open_image(own->format, own->images);
        if (fd < 0) break;
        close_file(fd);
    }
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/log", getenv("V4L2_CAMERA"));
    int log = open_file(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    dprintf(log, "%.4s %u\n", (const char *)&own->format, own->buffers);
    close_file(log);
    own->streaming = 1;
    own->frame = 0;
    own->filling = take(&own->queued);
    pace(own, 1000000000 / RATE);
    return 0;
}

/* The program's side: the requests that OpenCV makes. */

static int taken(struct camera *own) { /* by this program's other handle */
    for (struct camera *other = cameras; other < cameras + CAMERAS; other++)
        if (other->used && other != own && other->buffers && !strcmp(other->path, own->path)) return 1;
    return 0;
}

static void describe(struct camera *own, struct v4l2_pix_format *pixels) {
    *pixels = (struct v4l2_pix_format){
        .width = WIDTH, .height = HEIGHT, .pixelformat = own->format, .field = V4L2_FIELD_NONE, .sizeimage = LENGTH};
    if (own->format == V4L2_PIX_FMT_YUYV) pixels->bytesperline = 2 * WIDTH;
}

static int set_format(struct camera *own, struct v4l2_pix_format *pixels) {
    if (own->buffers || taken(own)) return fail(EBUSY);
    if (offers(pixels->pixelformat)) own->format = pixels->pixelformat; /* else as it was: so drivers answer */
    describe(own, pixels);
    return 0;
}

static int request_buffers(struct camera *own, struct v4l2_requestbuffers *wanted) {
    if (wanted->memory != V4L2_MEMORY_MMAP) return fail(EINVAL);
    if (taken(own)) return fail(EBUSY);
    stop(own);
    own->buffers = wanted->count = wanted->count < MOST ? wanted->count : MOST;
    return 0;
}

static int tell(struct camera *own, struct v4l2_buffer *buffer, uint32_t flags) {
    if (buffer->index >= own->buffers) return fail(EINVAL);
    buffer->length = LENGTH;
    buffer->m.offset = buffer->index * STRIDE;
    buffer->flags = flags | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    return 0;
}

static int queue(struct camera *own, struct v4l2_buffer *buffer) {
    if (tell(own, buffer, V4L2_BUF_FLAG_QUEUED)) return -1;
    if (own->queued.count == MOST) return fail(EINVAL);
    put(&own->queued, buffer->index);
    return 0;
}

static int dequeue(struct camera *own, struct v4l2_buffer *buffer) {
    uint64_t ticks;
    if (!own->streaming) return fail(EINVAL);
    if (own->left == 0) {
        own->gone = 1;
        unlink(own->path);
        return fail(ENODEV);
    }
    while (!own->done.count) {
        if (read(own->fd, &ticks, sizeof ticks) < 0) return fail(EAGAIN);
        end_frame(own);
    }
    own->left -= own->left > 0;
    buffer->index = (unsigned)take(&own->done);
    buffer->bytesused = own->size[buffer->index];
    buffer->sequence = own->sequence[buffer->index];
    return tell(own, buffer, V4L2_BUF_FLAG_DONE);
}

static int answer(struct camera *own, unsigned long request, void *given) {
    struct v4l2_capability *able = given;
    struct v4l2_streamparm *parameters = given;
    if (own->gone) return fail(ENODEV);
    switch (request) {
    case VIDIOC_QUERYCAP:
        memset(able, 0, sizeof *able);
        strcpy((char *)able->driver, "uvcvideo");
        able->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        able->capabilities = able->device_caps | V4L2_CAP_DEVICE_CAPS;
        return 0;
    case VIDIOC_G_FMT:
        describe(own, &((struct v4l2_format *)given)->fmt.pix);
        return 0;
    case VIDIOC_S_FMT:
        return set_format(own, &((struct v4l2_format *)given)->fmt.pix);
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM:
        parameters->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
        parameters->parm.capture.timeperframe = (struct v4l2_fract){1, RATE};
        return 0;
    case VIDIOC_REQBUFS:
        return request_buffers(own, given);
    case VIDIOC_QUERYBUF:
        return tell(own, given, 0);
    case VIDIOC_QBUF:
        return queue(own, given);
    case VIDIOC_DQBUF:
        return dequeue(own, given);
    case VIDIOC_STREAMON:
        return start(own);
    case VIDIOC_STREAMOFF:
        return stop(own), 0;
    }
    return fail(ENOTTY);
}

static struct camera *camera_of(int fd) {
    for (struct camera *own = cameras; own < cameras + CAMERAS; own++)
        if (own->used && own->fd == fd) return own;
    return NULL;
}

static int open_camera(const char *path, int flags) {
    struct camera *own = cameras;
    char place[PATH_MAX], said[32] = "";
    int file = open_file(placed(path, place), O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) return -1;
    if (read(file, said, sizeof said - 1) < 0) said[0] = 0;
    close_file(file);
    pthread_mutex_lock(&lock);
    while (own < cameras + CAMERAS && own->used) own++;
    if (own == cameras + CAMERAS) return pthread_mutex_unlock(&lock), fail(EMFILE);
    *own = (struct camera){.used = 1, .filling = -1, .left = atol(said) ? atol(said) : -1};
    strcpy(own->path, place);
    own->format = offers(V4L2_PIX_FMT_YUYV) ? V4L2_PIX_FMT_YUYV : V4L2_PIX_FMT_MJPEG;
    own->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | (flags & O_NONBLOCK ? TFD_NONBLOCK : 0));
    own->memory = memfd_create("v4l2", MFD_CLOEXEC);
    if (ftruncate(own->memory, (off_t)MOST * STRIDE)) abort();
    own->start = mmap(NULL, (size_t)MOST * STRIDE, PROT_READ | PROT_WRITE, MAP_SHARED, own->memory, 0);
    pthread_mutex_unlock(&lock);
    return own->fd;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    return is_camera(path) ? open_camera(path, flags) : open_file(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *given = va_arg(rest, void *);
    va_end(rest);
    struct camera *own = camera_of(fd);
    if (!own) return syscall(SYS_ioctl, fd, request, given);
    pthread_mutex_lock(&lock);
    int answered = answer(own, request, given);
    pthread_mutex_unlock(&lock);
    return answered;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    struct camera *own = fd < 0 ? NULL : camera_of(fd);
    return (void *)syscall(SYS_mmap, at, length, protection, flags, own ? own->memory : fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) __attribute__((alias("mmap")));

int close(int fd) {
    struct camera *own = camera_of(fd);
    if (own) {
        pthread_mutex_lock(&lock);
        munmap(own->start, (size_t)MOST * STRIDE);
        close_file(own->memory);
        own->used = 0;
        pthread_mutex_unlock(&lock);
    }
    return close_file(fd);
}
