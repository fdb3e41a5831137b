import numpy as np


def prepare(sample, config, rng, training):
    image, depth = sample["png"], sample["depth.pco"]
    if training and rng.random() < config.flip:
        image, depth = image[:, ::-1], depth[:, ::-1]
    return {"image": np.ascontiguousarray(image), "disparity": np.ascontiguousarray(1 / depth)}
