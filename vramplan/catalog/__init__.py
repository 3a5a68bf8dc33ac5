"""profiles/ on disk to core types, checked strictly."""

from __future__ import annotations

from vramplan.catalog.dirs import ProfileDirs, ProfileFile, profile_dirs
from vramplan.catalog.gpus import find_gpu, load_gpu
from vramplan.catalog.runs import RunProfile, load_run

__all__ = ["ProfileDirs", "ProfileFile", "RunProfile", "find_gpu", "load_gpu", "load_run", "profile_dirs"]
