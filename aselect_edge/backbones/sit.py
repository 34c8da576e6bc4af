"""SiT (arXiv 2401.08740) and its successors (REPA, SRA): DiT's architecture on a path with continuous time.

SiT's time is 1 for a clean image; that of REPA and its successors is 1 for noise. Timesteps are always 1000·tau, where
tau is 0 for the image and 1 for noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.noise import ASKED, ROUNDED, Schedule, read_flow_schedule
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice
from aselect_runtime.records import Noise

Time = Literal["1-sigma", "sigma"]
"""The embedder's input, on the straight path: 1 - sigma (SiT) or sigma (REPA and its successors)."""
Path = Literal["linear", "cosine", "vp"]
TIMES: tuple[Time, ...] = ("1-sigma", "sigma")
PATHS: tuple[Path, ...] = ("linear", "cosine", "vp")
_VP = 0.1, 20.0
"""Minimum and maximum noise rate of SiT's VP path."""


@dataclass(frozen=True)
class PathSchedule(Schedule):
    """x = alpha·x0 + sigma·eps along a path; the time input is 0 to 1 in either direction."""

    time: Time = "1-sigma"
    path: Path = "linear"

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """Empty for SiT's default time and path, as in bundles from before there were others."""
        return {} if self == PathSchedule() else {"time": self.time, "path": self.path}

    def describe(self) -> str:
        fed = "sigma, 1 for noise" if self.time == "sigma" else "1 - sigma, 1 for the image"
        return f"the {self.path} path, fed {fed}"

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        wrong = [t for t in timesteps if not 0 <= t <= 1000]
        if wrong:
            raise InputError(f"got timesteps {wrong}, expected 1000·sigma, 0 to 1000; change them", parameter=ASKED)
        tau = torch.tensor(timesteps, dtype=torch.float64) / 1000
        alpha, sigma, _, _ = self.coefficients(tau)
        return tuple(
            Noise(alpha=float(a), sigma=float(s), model_timestep=float(fed))
            for a, s, fed in zip(alpha, sigma, self.fed(tau), strict=True)
        )

    def lacks(self, noise: Noise) -> str | None:
        total, of_path = (
            (noise.alpha + noise.sigma, "alpha + sigma = 1")
            if self.path == "linear"
            else (noise.alpha**2 + noise.sigma**2, "alpha^2 + sigma^2 = 1")
        )
        if abs(total - 1) > ROUNDED:
            return of_path
        tau = torch.linspace(0, 1, 10_001, dtype=torch.float64)
        nearest = tau[(self.coefficients(tau)[1] - noise.sigma).abs().argmin()]
        fed = float(self.fed(nearest))
        return f"the timestep {fed:g}" if abs(noise.model_timestep - fed) > ROUNDED else None

    def fed(self, tau: Tensor) -> Tensor:
        """The embedder's input at tau."""
        return tau if self.time == "sigma" else 1 - tau

    def coefficients(self, tau: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha and sigma at tau, and their derivatives by the embedder's time; all of tau's shape."""
        sign = 1.0 if self.time == "sigma" else -1.0
        if self.path == "linear":
            one = torch.ones_like(tau)
            return 1 - tau, tau, -sign * one, sign * one
        if self.path == "cosine":
            angle = tau * (math.pi / 2)
            alpha, sigma = angle.cos().clamp_min(0), angle.sin()
            return alpha, sigma, -sign * math.pi / 2 * sigma, sign * math.pi / 2 * alpha
        least, most = _VP
        alpha = (-0.25 * tau**2 * (most - least) - 0.5 * tau * least).exp()
        sigma = (1 - alpha**2).sqrt()
        slope = -0.5 * alpha * (tau * (most - least) + least)
        return alpha, sigma, sign * slope, -sign * alpha * slope / sigma.clamp_min(1e-4)


class SiT(DiT):
    """The reference model of SiT; blocks, taps and fold are those of DiT."""

    family: ClassVar[str] = "sit"

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        """SiT's default path for None or {}; a `scheduler_config.json` may only describe the same path.

        Raises InputError for a diffusion schedule.
        """
        given = config or {}
        if "_class_name" in given:
            read_flow_schedule(given, "SiT")
        time, path = given.get("time", "1-sigma"), given.get("path", "linear")
        return PathSchedule(choice(time, TIMES, "sit_time"), choice(path, PATHS, "sit_path"))

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor, positions: Tensor | None = None) -> Tensor:
        """The velocity; a second half of the channels, if the file has one, is not trained."""
        return super().forward(x, timestep, label, positions)[:, : self.channels]
