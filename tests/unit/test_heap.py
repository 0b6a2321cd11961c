"""Memory for frames."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from zerowait.engines.brokerless.heap import expect_large_pieces
if {expects}:
    expect_large_pieces()
def frame():
    return bytes(200_000)[1:]
for _ in range(20):
    frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator alone")
def test_the_memory_of_a_frame_is_that_of_one_before() -> None:
    def faults(expects: bool) -> int:
        program = [sys.executable, "-c", FAULTS.format(expects=expects)]
        return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)

    assert faults(expects=False) > 2_000, "else there is nothing to gain"
    assert faults(expects=True) < 200
