"""Declared transforms that fit the images of a data set to a model: zeros around them, one channel repeated."""

from __future__ import annotations

import numpy as np

from flare.errors import ConfigError


def fitted(shape: tuple[int, ...], pad_to: int | None, channels: int | None) -> tuple[int, ...]:
    """The shape of an input after `fit`; ConfigError, one line, for what cannot be done to inputs of this shape."""
    if (pad_to or channels) and len(shape) != 3:
        key, value = ("pad_to", pad_to) if pad_to else ("channels", channels)
        raise ConfigError(f"{key}: {value} is not allowed; the data set's inputs, {tuple(shape)}, are no images")
    if pad_to:
        if pad_to < max(shape[1:]):
            raise ConfigError(f"pad_to: {pad_to} is not allowed; at least {max(shape[1:])}, the images' size")
        shape = (shape[0], pad_to, pad_to)
    if channels:
        if channels % shape[0]:
            raise ConfigError(f"channels: {channels} is not allowed; a multiple of {shape[0]}, the images' channels")
        shape = (channels, *shape[1:])
    return tuple(shape)


def fit(inputs: np.ndarray, pad_to: int | None, channels: int | None) -> np.ndarray:
    """Inputs (N, C, H, W), centred among zeros to pad_to x pad_to pixels (the odd one comes after), and their channels
    repeated in order until there are `channels`; None leaves them as they are."""
    shape = fitted(inputs.shape[1:], pad_to, channels)
    if shape == inputs.shape[1:]:
        return inputs
    missing = [after - before for before, after in zip(inputs.shape[2:], shape[1:], strict=True)]
    inputs = np.pad(inputs, [(0, 0), (0, 0), *((total // 2, total - total // 2) for total in missing)])
    return np.tile(inputs, (1, shape[0] // inputs.shape[1], 1, 1))
