"""Reducing flicker: an exponential average over the outputs of one stream.

A classification's scores are averaged directly. A segmentation graph outputs no scores, only the class of each pixel
and one confidence for each cell, so votes are averaged: in each cell of the confidence map a class's vote is its share
of the pixels, weighted with the cell's confidence; in the new map each pixel has the class with the most votes,
interpolated between cells. Detail finer than a cell is lost.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.results import Arrays, Captured

PAUSE = 2.0
"""Seconds without a frame of a live source after which the average is reset, because the scene may have changed."""
LEAST = 0.01
"""Minimum weight of a vote, so that every pixel gets a class even where the confidence is 0."""

Floats = NDArray[np.float32]


class TemporalAverage:
    """The average of one stream: `amount` (0 to 1) is the weight of the newest answer, 1 changes nothing."""

    def __init__(self, amount: float, classes: int) -> None:
        if not 0 < amount <= 1:
            raise InputError(
                f"got a weight of {amount} for a new frame, expected more than 0 and at most 1; change it",
                parameter="smooth",
            )
        self._amount = amount
        self._classes = classes
        self._average: Floats | None = None
        self._shape: tuple[int, ...] = ()
        self._seen = 0.0
        self._scene = ""
        self._latest: Arrays = {}

    def __call__(self, captured: Captured, outputs: Arrays) -> Arrays:
        """The outputs of the stream's next frame, averaged with those before it."""
        # Every frame of a file is delivered, however slowly. The next file of a folder is another scene.
        paused = captured.source.live and captured.t_monotonic - self._seen > PAUSE
        other = captured.source.name != self._scene
        if paused or other or captured.frame.shape != self._shape:  # of another size, cells show other parts
            self._average = None
        self._seen, self._scene, self._shape = captured.t_monotonic, captured.source.name, captured.frame.shape
        if self._amount == 1:  # not even to the map that cells vote for
            self._latest = outputs
        elif "scores" in outputs:
            self._latest = {**outputs, "scores": self._mix(outputs["scores"])}
        else:
            votes = self._mix(self._votes(outputs["class_map"], outputs["confidence"]))
            height, width = outputs["class_map"].shape
            winners = _winners(votes, (height, width))
            self._latest = {**outputs, "class_map": winners, "confidence": votes.max(axis=0)}
        return self._latest

    def repeat(self, captured: Captured) -> Arrays:
        """The latest outputs, for a frame that was not inferred; they are not averaged again."""
        self._seen = captured.t_monotonic
        return self._latest

    def _mix(self, new: NDArray[Any]) -> Floats:
        if self._average is None:
            self._average = new.astype(np.float32)
        else:
            self._average = self._average + np.float32(self._amount) * (new - self._average)
        return self._average

    def _votes(self, class_map: Frame, confidence: Floats) -> Floats:
        """[C, h, w]: the share of each class in each cell, times the cell's confidence."""
        height, width = confidence.shape
        weight = np.clip(confidence, LEAST, 1)
        votes = np.zeros((self._classes, height, width), np.float32)
        for number in np.flatnonzero(np.bincount(class_map.ravel(), minlength=self._classes)):
            won: Any = (class_map == number).view(np.uint8) * np.uint8(255)
            votes[number] = cv2.resize(won, (width, height), interpolation=cv2.INTER_AREA)
        votes *= weight / 255
        return votes


def _winners(votes: Floats, size: tuple[int, int]) -> Frame:
    """The class with the most votes at each pixel of `size`, uint8 [H, W]."""
    best = np.full(size, -1, np.float32)
    winners = np.zeros(size, np.uint8)
    for number in np.flatnonzero(votes.reshape(len(votes), -1).max(axis=1) > 0):
        fine: Any = cv2.resize(votes[number], size[::-1], interpolation=cv2.INTER_LINEAR)
        ahead = fine > best
        winners[ahead] = number
        np.maximum(best, fine, out=best)
    return winners
