"""What every data worker needs, loaded once in the process that workers are forked from."""

import cv2
import pcodec  # noqa: F401
import simplejpeg  # noqa: F401

import vstrain.config.schema  # noqa: F401
import vstrain.data.ring  # noqa: F401

cv2.setNumThreads(1)
