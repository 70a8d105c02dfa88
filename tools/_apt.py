"""Packages of the distribution, where they can be had without a password: on Debian and its kin, as root."""

from __future__ import annotations

import os
import shutil
import subprocess

from _report import note

_TIMEOUT = 1200  # seconds


def install(package: str) -> bool:
    """Install a package. Returns whether that worked."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    note(f"installing the distribution's {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update",), ("install", "-y", "--no-install-recommends", package)):
        try:
            subprocess.run(
                [apt, "-q", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT,
                check=arguments[0] != "update",  # one broken source must not stop an install from another
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return True
