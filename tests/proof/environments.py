"""Environments of proofs below build/, which are kept: the gate tests with what is in them."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from aselect_runtime.errors import MissingDependencyError
from tests.proof.steps import BUILD, pip, run


@dataclass(frozen=True)
class Environment:
    """build/NAME, which `make test-NAME` fills with `product` and what it needs."""

    name: str
    product: str

    @property
    def place(self) -> Path:
        return BUILD / self.name

    @property
    def python(self) -> Path:
        return self.place / "bin" / "python"

    @property
    def _mark(self) -> Path:
        return self.place / "installed"

    @property
    def complete(self) -> bool:
        """Whether an install has come to its end."""
        return self._mark.is_file()

    def install(self, *packages: str) -> None:
        """Install packages with pip; what an install that was cut off left is removed first."""
        if not self.complete:
            shutil.rmtree(self.place, ignore_errors=True)
            run([sys.executable, "-m", "venv", self.place])
        pip("install", *packages, python=self.python)
        self._mark.touch()

    def check(self) -> None:
        """Raise MissingDependencyError unless it is complete."""
        if not self.complete:
            raise MissingDependencyError(f"got no {self.place}, expected {self.product} in it; make test-{self.name}")
