"""A source of known images, for the tests of what prepares and keeps them."""

import threading

import numpy as np

from stylegan_lightning.data.base import ImageError


class Numbers:
    """Image i is a ramp that starts at i; the listed images are unreadable. Counts and can log its reads."""

    label_names = ("even", "odd")
    name, resolution, channels = "numbers: ü", 4, 2

    def __init__(self, count=10, bad=(), fingerprint="f", log=None, wait=0.0):
        self.count, self.bad, self.fingerprint, self.log, self.wait = count, bad, fingerprint, log, wait
        self.reads = 0

    def __len__(self):
        return self.count

    def read(self, index):
        self.reads += 1
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{index}\n")
        if self.wait:
            threading.Event().wait(self.wait)
        if index in self.bad:
            raise ImageError(f"file {index} is broken")
        ramp = np.arange(32, dtype=np.uint8) + np.uint8(index % 200)
        return ramp.reshape(2, 4, 4)

    def labels(self):
        return np.eye(2, dtype=np.float32)[np.arange(self.count) % 2]

    def attributes(self):
        return {"number": np.arange(self.count, dtype=np.float32)}
