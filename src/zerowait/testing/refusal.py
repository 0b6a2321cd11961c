"""The exception of the contract that handlers of a simulated world raise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Refused(Exception):
    token: int
