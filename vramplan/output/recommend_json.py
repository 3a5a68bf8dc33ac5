"""A recommendation as JSON: `vramplan.recommend/1`, the same keys whatever was asked."""

from __future__ import annotations

from typing import Any

from vramplan.core.recommendation import FrontierPoint, Obstacle, Recommendation, Recommended, Wall
from vramplan.output.json_report import peak_to_dict, phase_totals

SCHEMA = "vramplan.recommend/1"


def recommendation_to_dict(found: Recommendation) -> dict[str, Any]:
    """The answer as plain values."""
    return {
        "schema": SCHEMA,
        "budget": {"bytes": found.budget_bytes},
        "gpu": found.gpu,
        "method": found.method,
        "num_settings": found.num_settings,
        "held": {key: _plain(value) for key, value in found.held.items()},
        "recommended": [_recommended(one) for one in found.recommended],
        "frontier": [_point(point) for point in found.frontier],
        "walls": {"of": found.walls_of, "axes": [_wall(wall) for wall in found.walls]},
        "obstacles": [_obstacle(one) for one in found.obstacles],
        "closest": None if found.closest is None else _recommended(found.closest),
        "missing_bytes": found.missing_bytes,
        "notes": list(found.notes),
    }


def render_recommend_json(found: Recommendation) -> str:
    """The same as indented JSON, one line break at its end."""
    import json

    return json.dumps(recommendation_to_dict(found), indent=2) + "\n"


def _recommended(one: Recommended) -> dict[str, Any]:
    return {
        "name": one.name,
        "run": dict(one.run),
        "peak": peak_to_dict(one.report.peak),
        "margin_bytes": one.margin_bytes,
        "limited_by": one.limited_by,
        "phases": [phase_totals(phase) for phase in one.report.phases],
        "warnings": [{"rule": item.rule, "message": item.message, "hint": item.hint} for item in one.report.warnings],
        "command": one.command,
        "yaml": one.file_text,
    }


def _point(point: FrontierPoint) -> dict[str, Any]:
    return {
        "precision": point.precision,
        "max_prompt_length": point.prompt,
        "max_completion_length": point.completion,
        "per_device_batch_size": point.rows,
        "rollout_rows": point.rollout_rows,
        "device_used_bytes": point.device_used_bytes,
        "high_bytes": point.high_bytes,
        "run": dict(point.run),
    }


def _wall(wall: Wall) -> dict[str, Any]:
    return {
        "axis": wall.axis,
        "now": wall.now,
        "reach": wall.reach,
        "next": wall.next_value,
        "phase": wall.phase,
        "over_bytes": wall.over_bytes,
    }


def _obstacle(one: Obstacle) -> dict[str, Any]:
    return {
        "what": one.what,
        "phase": one.phase,
        "component": one.component,
        "over_bytes": one.over_bytes,
        "changes": [
            {
                "what": change.what,
                "settings": {key: _plain(value) for key, value in change.settings.items()},
                "freed_bytes": change.freed_bytes,
                "fits": change.fits,
            }
            for change in one.changes
        ],
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
