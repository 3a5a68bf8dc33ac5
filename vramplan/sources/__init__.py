"""Where a model's config comes from: a profile, a file, a folder, the Hugging Face cache or the Hub."""

from __future__ import annotations

from vramplan.sources.profile import ModelProfile, load_model_profile, model_ids
from vramplan.sources.resolve import resolve_model
from vramplan.sources.source import ModelSource, Origin, StoredTensors, stored_dtype_label

__all__ = [
    "ModelProfile",
    "ModelSource",
    "Origin",
    "StoredTensors",
    "load_model_profile",
    "model_ids",
    "resolve_model",
    "stored_dtype_label",
]
