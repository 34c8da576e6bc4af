/* Where the camera's files are: FOLDER/dev, named by the environment variable V4L2_CAMERA, stands for /dev. */
#pragma once

/* Whether a path is that of a camera: /dev/video*. */
int is_camera(const char *path);

/* The path itself, or in `place` (PATH_MAX bytes) that in the folder, for /dev/video* and /dev/v4l. */
const char *placed(const char *path, char *place);

/* open and close of the kernel, which nothing replaces. */
int open_file(const char *path, int flags, int mode);
int close_file(int fd);
